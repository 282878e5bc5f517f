"""What charging costs at the simulated CPO, and the CDRs that say so (chapter 8).

There is one Tariff for everybody: prices for energy, time, a start, and for reservations. So a cost follows to the
last digit from the amounts that the charging periods tell, and the periods from one meter: energy in watt-hours
and time in millionths of an hour, rounded where they are read and never again, so that parts add up to the whole.
"""

from collections.abc import Mapping
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

import msgspec

from engine.backoffice.simulated.effects import Publish
from engine.backoffice.simulated.handlers import Rejected, Synchronous
from engine.backoffice.simulated.regulation import connector_at
from engine.backoffice.simulated.state import Accepted, Charging, Issued, Period
from engine.backoffice.simulated.world import World, hours_between, is_same, last_of
from engine.protocol.json_text import check_object
from engine.protocol.modules import tariffs
from engine.protocol.modules.cdrs import DisputeCdrRequest
from engine.protocol.scalars import date_time
from engine.samples.chances import encode, read, without_none
from engine.samples.prices import Costs, costs, has_reservation, is_quick

AUDIENCES: Final = ("REGULAR", "PROFILE_CHEAP", "PROFILE_FAST")
"""For whom there is a Tariff; a driver who prefers anything else cannot be served (7.4.1)."""
PERIODS_MAX: Final = 300
"""Charging periods of a session: three days of quarters of an hour. The last one of a longer session is long."""
CDRS_MAX: Final = 1_000
"""CDRs that are remembered, so that they can be disputed."""
_WATT_HOUR: Final = Decimal("0.001")
_MICRO_HOUR: Final = Decimal("0.000001")
_VAT: Final = [{"name": "VAT", "percentage": 21}]


# -- the Tariff -----------------------------------------------------------------------------------------------


def own_tariff(now: float) -> bytes:
    """Write the Tariff that counts if none is given."""
    reserved = [{"type": "TIME", "price": Decimal("2.00"), "taxes": _VAT}]
    charged = [
        {"type": "FLAT", "price": Decimal("0.50"), "taxes": _VAT},
        {"type": "ENERGY", "price": Decimal("0.35"), "taxes": _VAT},
    ]
    return encode(
        {
            "currency": "EUR",
            "elements": [
                {"price_components": reserved, "restrictions": {"reservation": "RESERVATION"}},
                {"price_components": charged},
            ],
            "last_updated": date_time(now),
        }
    )


def check_tariff(payload: bytes) -> None:
    """Refuse a Tariff that the simulated CPO cannot count by: one with times of day, thresholds or limits.

    Raises ``ValueError``.
    """
    check_object(payload)
    tariffs.MODULE.accept(payload)
    if not is_quick(read(payload)):
        raise ValueError("the simulated CPO counts by prices that always hold, and one for reservations: no others")


def publish_tariff(world: World) -> None:
    """Issue the Tariff, and what says that it holds everywhere (chapters 9 and 10)."""
    state = world.state
    world.emit(Publish(tariffs.MODULE.id, state.tariff_id, state.tariff.encode()))
    connectors = [
        {"evse_uid": place.evse.uid, "connector_id": connector.id}
        for place in world.places()
        for connector in place.evse.connectors
    ]
    for audience, association_id in state.associations.items():
        association = {
            "start_date_time": date_time(world.now),
            "tariff_id": state.tariff_id,
            "connectors": connectors,
            "audience": audience,
            "last_updated": date_time(world.now),
        }
        world.publish("tariffassociations", association_id, association)


# -- what a session adds up to --------------------------------------------------------------------------------


def tally(session: Charging, now: float) -> None:
    """Read the meter: what has come since the last charging period began belongs to it."""
    if session.began_at is None:
        return
    *before, last = session.periods
    energy = session.energy_kwh.quantize(_WATT_HOUR, ROUND_DOWN)
    last.energy_kwh = energy - sum((each.energy_kwh for each in before), Decimal(0))
    hours = hours_between(session.began_at, now).quantize(_MICRO_HOUR)
    last.hours = hours - sum((each.hours for each in before), Decimal(0))


def next_period(session: Charging, now: float, period_s: float) -> None:
    """Begin another charging period when the last one is long enough; the meter was read just before."""
    if now - session.periods[-1].begins_at >= period_s and len(session.periods) < PERIODS_MAX:
        session.periods.append(Period(begins_at=now))


def close_periods(session: Charging) -> None:
    """Drop a last charging period in which there was nothing."""
    if len(session.periods) > 1 and not (session.periods[-1].hours or session.periods[-1].energy_kwh):
        session.periods.pop()


def energy_told(session: Charging) -> Decimal:
    """Return the energy of a session as its charging periods tell it, in kWh."""
    return sum((each.energy_kwh for each in session.periods), Decimal(0))


def hours_told(session: Charging) -> Decimal:
    """Return how long a session charged as its charging periods tell it, in hours."""
    return sum((each.hours for each in session.periods), Decimal(0))


def reserved_hours(session: Charging, now: float) -> Decimal | None:
    """Return how long an EVSE was kept for a session, in hours; None if it was not."""
    if not session.is_reserved:
        return None
    until = session.arrived_at or session.ended_at or now
    return hours_between(session.created_at, until).quantize(_MICRO_HOUR)


def charging_periods(session: Charging, now: float) -> list[dict[str, Any]]:
    """Write the ChargingPeriods of a session; the time for which it was reserved is the first one."""
    reserved = reserved_hours(session, now)
    first = [] if reserved is None else [_period(session.created_at, {"RESERVATION_TIME": reserved})]
    return first + [
        _period(each.begins_at, {"ENERGY": each.energy_kwh, "TIME": each.hours}) for each in session.periods
    ]


def _period(begins_at: float, volumes: Mapping[str, Decimal]) -> dict[str, Any]:
    dimensions = [{"type": name, "volume": volume} for name, volume in volumes.items()]
    return {"start_date_time": date_time(begins_at), "dimensions": dimensions}


def costs_of(world: World, session: Charging) -> Costs:
    """Compute what a session costs; one that never began costs no more than its reservation."""
    tariff = world.tariff
    if session.began_at is None:
        tariff = tariff | {"elements": [each for each in tariff["elements"] if "restrictions" in each]}
    return costs(
        tariff,
        energy_kwh=energy_told(session),
        hours=hours_told(session),
        reserved_hours=reserved_hours(session, world.now),
    )


def is_worth_a_bill(world: World, session: Charging) -> bool:
    """Tell whether a session that ends costs something: it charged, or its reservation has a price."""
    return session.began_at is not None or (session.is_reserved and has_reservation(world.tariff))


def cdr_token(session: Charging) -> dict[str, Any]:
    """Write the CdrToken of a session (8.5.7)."""
    token = session.token
    return without_none(
        {
            "party_id": token.party_id,
            "uid": token.uid,
            "type": token.type,
            "contract_id": token.contract_id,
            "token_version": token.token_version,
        }
    )


# -- CDRs -----------------------------------------------------------------------------------------------------


def issue_cdr(world: World, session: Charging) -> None:
    """Issue the CDR of a session that is over, and forget the session."""
    state, cost = world.state, costs_of(world, session)
    began = session.created_at if session.is_reserved else session.began_at
    cdr = without_none(
        {
            "start_date_time": date_time(began or session.created_at),
            "end_date_time": date_time(session.ended_at or world.now),
            "session_id": session.id,
            "cdr_token": cdr_token(session),
            "auth_method": session.auth_method,
            "authorization_reference": session.authorization_reference,
            "cdr_location": _cdr_location(world, session),
            "currency": world.tariff["currency"],
            "tariff_association_id": state.associations["REGULAR"],
            "tariff_id": state.tariff_id,
            "charging_periods": charging_periods(session, world.now),
            "total_cost": cost.total,
            "total_fixed_cost": cost.fixed,
            "total_energy": energy_told(session),
            "total_energy_cost": cost.energy,
            "total_time": hours_told(session),
            "total_time_cost": cost.time,
            "total_reservation_cost": cost.reservation,
            "remark": session.remark,
            "last_updated": date_time(world.now),
        }
    )
    cdr_id = world.new_id("C")
    world.publish("cdrs", cdr_id, cdr)
    state.cdrs = last_of(state.cdrs | {cdr_id.lower(): Issued(party_id=session.token.party_id)}, CDRS_MAX)
    state.sessions = [each for each in state.sessions if each.id != session.id]


def _cdr_location(world: World, session: Charging) -> dict[str, Any]:
    site, _, evse = world.place(session.evse_uid)
    connector = connector_at(world, session)
    return without_none(
        {
            "id": site.id,
            "name": site.name,
            "address": None if site.address is None else msgspec.Raw(site.address.encode()),
            "connector": {
                "evse_uid": evse.uid,
                "evse_id": evse.evse_id,
                "connector_id": connector.id,
                "connector_standard": connector.standard,
                "connector_format": connector.format,
                "connector_power_type": connector.power_type,
            },
        }
    )


def _dispute(world: World, call: Accepted, request: DisputeCdrRequest) -> bytes:
    issued = world.state.cdrs.get(request.cdr_id.lower())
    if issued is None or not is_same(issued.party_id, call.asker):
        raise Rejected(f"{request.cdr_id} is no CDR that was issued to {call.asker} lately")
    issued.reason = request.reason
    return b"{}"


DISPUTE: Final = Synchronous(_dispute)
"""08.03: The reason is kept beside the CDR for people to read; nothing is credited by itself."""
