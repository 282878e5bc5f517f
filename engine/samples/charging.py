"""Who charges, and what comes of it: Tokens, Sessions, CDRs, meter samples, and records of what was invoiced.

They fit together, and to the Locations and Tariffs that they are made for: a Session is at a connector that is
there, of a token that was issued, by the Tariff that holds there; its CDR has its energy, its time and its costs,
to the last digit.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from engine.protocol.modules.shared_types import ProfileType
from engine.samples.chances import (
    NEWEST,
    SEED,
    Chances,
    Json,
    Sample,
    by_id,
    moment_of,
    read,
    time_text,
    without_none,
    written,
)
from engine.samples.prices import costs, has_reservation

_STATUSES: Final = ("COMPLETED", "ACTIVE", "COMPLETED", "PENDING", "COMPLETED", "RESERVATION", "COMPLETED", "INVALID")
"""Of the first Session, the second, and so on, and again from the start."""
_SESSION_ONLY: Final = frozenset({"CURRENT", "ENERGY_EXPORT", "ENERGY_IMPORT", "POWER", "STATE_OF_CHARGE"})
"""Dimensions that a CDR must not have."""
_PERIOD_MIN: Final = 15  # a quarter of an hour: 0.25 h, without a rounding
_TWO_MONTHS_MIN: Final = 60 * 24 * 60


# -- tokens -------------------------------------------------------------------------------------------------


def tokens(count: int, *, seed: int = SEED, party: str = "NLEMS") -> Iterator[Sample]:
    """Generate Tokens of ``party``: mostly cards, one in ten blocked, which is to say: not valid any more."""
    rng = random.Random(f"{seed} {party}")
    for number in range(1, count + 1):
        yield Sample(f"{party}-K{number:06d}", written(_TokenMaker(rng).token(party, number), number))


class _TokenMaker(Chances):
    """Makes one Token."""

    def token(self, party: str, number: int) -> Json:
        """Make a Token."""
        rng = self.rng
        kind = rng.choices(["RFID", "APP_USER", "AD_HOC_USER", "EMAID", "VND_PLATE"], [80, 12, 4, 2, 2])[0]
        contract = f"{party[:2]}-{party[2:]}-C{number:08d}"
        since = NEWEST - timedelta(days=rng.randint(400, 1_000))
        until = since + timedelta(days=rng.randint(1, 300)) if number % 10 == 0 else None
        return without_none(
            {
                "uid": contract if kind == "EMAID" else self.uid(kind),
                "type": kind,
                "contract_id": contract,
                "visual_number": self.sometimes(0.6, lambda: f"№ {number:06d}"),
                "issuer": rng.choice(["Stroompas", "Ladekärtchen e.V.", "Κάρτα φόρτισης"]),
                "group_id": self.sometimes(0.2, lambda: f"FLEET-{rng.randint(1, 9)}"),
                "valid_from": time_text(since),
                "valid_until": until and time_text(until),
                "whitelist": self.whitelist(kind),
                "language": self.sometimes(0.3, lambda: rng.choice(["nl", "de", "el"])),
                "default_profile_type": self.sometimes(0.1, lambda: rng.choice(list(ProfileType))),
                "energy_contract": self.sometimes(0.05, self.energy_contract),
                "last_updated": time_text(until or since),
            }
        )

    def uid(self, kind: str) -> str:
        """Make what a reader reads, or what a server made up."""
        bits = self.rng.getrandbits(64)
        return f"{bits:014X}"[:14] if kind == "RFID" else f"{kind}-{bits:016x}"

    def whitelist(self, kind: str) -> str:
        """Decide who is asked: what a server made is not for a whitelist."""
        if kind in ("APP_USER", "AD_HOC_USER"):
            return "NEVER"
        return self.rng.choices(["ALLOWED", "ALWAYS", "ALLOWED_OFFLINE", "NEVER"], [60, 20, 15, 5])[0]

    def energy_contract(self) -> Json:
        """Make an EnergyContract."""
        number = self.sometimes(0.7, lambda: f"EC-{self.rng.randint(1, 10**6)}")
        return without_none({"supplier_name": "Gröna Vågor AB", "contract_id": number})


# -- places -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Spot:
    """A connector where one can charge, and what that costs."""

    location_id: str
    evse_uid: str
    connector_id: str
    association_id: str
    tariff_id: str
    tariff: Json


def _spots(locations: Iterable[Sample], tariffs: Iterable[Sample], associations: Iterable[Sample]) -> list[_Spot]:
    """List the connectors that are there, by the Tariff of drivers with a token."""
    known = by_id(tariffs)
    holding = {
        (where["evse_uid"], where["connector_id"]): (id_, association["tariff_id"])
        for id_, association in by_id(associations).items()
        if association["audience"] == "REGULAR"
        for where in association["connectors"]
    }
    return [
        _Spot(location.id, evse["uid"], connector["id"], *holding[evse["uid"], connector["id"]], known[tariff_id])
        for location in locations
        for station in read(location.payload)["charging_pool"]
        for evse in station.get("evses", ())
        if "evse_id" in evse
        for connector in evse["connectors"]
        if (tariff_id := holding.get((evse["uid"], connector["id"]), ("", ""))[1])
    ]


# -- sessions -----------------------------------------------------------------------------------------------


def sessions(
    count: int,
    *,
    locations: Iterable[Sample],
    tariffs: Iterable[Sample],
    associations: Iterable[Sample],
    tokens: Sequence[Sample],
    seed: int = SEED,
    party: str = "BEBEC",
    newest: datetime = NEWEST,
) -> Iterator[Sample]:
    """Generate Sessions of ``party``, in each status, half of them over; none of them is older than two months."""
    rng = random.Random(seed)
    spots = _spots(locations, tariffs, associations)
    cards = [(token.id[:5], read(token.payload)) for token in tokens]
    for number in range(1, count + 1):
        maker = _SessionMaker(rng, rng.choice(spots), *rng.choice(cards), newest)
        yield Sample(f"{party}-S{number:06d}", written(maker.session(_STATUSES[(number - 1) % len(_STATUSES)]), number))


class _SessionMaker(Chances):
    """Makes one Session, by one token at one connector."""

    def __init__(self, rng: random.Random, spot: _Spot, emsp: str, token: Json, newest: datetime) -> None:
        super().__init__(rng)
        self.spot = spot
        self.emsp = emsp
        self.token = token
        self.newest = newest

    def session(self, status: str) -> Json:
        """Make a Session in this status."""
        over, begun = status in ("COMPLETED", "INVALID"), status not in ("PENDING", "RESERVATION")
        count = self.rng.randint(1, 8) if begun else 0
        ends = self.newest - timedelta(minutes=self.rng.randint(10, _TWO_MONTHS_MIN) if over else 0)
        since = ends - timedelta(minutes=count * _PERIOD_MIN) if begun else ends - timedelta(seconds=40)
        periods = [self.period(since + timedelta(minutes=number * _PERIOD_MIN)) for number in range(count)]
        energy = _volume(periods, "ENERGY")
        reserved = status == "RESERVATION" or (has_reservation(self.spot.tariff) and self.chance(0.5))
        auth = "COMMAND" if reserved else self.auth_method()
        return without_none(
            {
                "start_date_time": time_text(since),
                "end_date_time": time_text(ends) if over else None,
                "energy": energy,
                "cdr_token": self.cdr_token(auth),
                "auth_method": auth,
                "authorization_reference": None if auth == "WHITELIST" else f"{self.rng.getrandbits(64):016x}",
                "location_id": self.spot.location_id,
                "connector": None if status == "RESERVATION" and self.chance(0.5) else self.connector(),
                "meter_id": self.sometimes(0.3, lambda: f"METER {self.rng.randint(1, 10**6)}"),
                "currency": self.spot.tariff["currency"],
                "charging_periods": periods or None,
                "tariff_association_id": self.spot.association_id,
                "tariff_id": self.spot.tariff_id,
                # What a reservation cost is told by the CDR.
                "total_cost": None if reserved or not begun else self.cost(energy, count),
                "status": status,
                "last_updated": time_text(ends),
            }
        )

    def period(self, since: datetime) -> Json:
        """Make a ChargingPeriod of a quarter of an hour."""
        rng = self.rng
        energy = Decimal(rng.randint(0, 30_000)).scaleb(-3)
        power = energy * 4
        dimensions = [{"type": "ENERGY", "volume": energy}, {"type": "TIME", "volume": Decimal("0.25")}]
        rare = {
            "MAX_POWER": power + 1,
            "MIN_POWER": power / 2,
            "POWER": power,
            "MAX_CURRENT": Decimal(rng.randint(6, 32)),
            "MIN_CURRENT": Decimal("-0.5"),
            "CURRENT": Decimal("16.00"),
            "ENERGY_IMPORT": energy,
            "ENERGY_EXPORT": Decimal("0.000"),
            "STATE_OF_CHARGE": rng.randint(10, 100),
        }
        dimensions += [{"type": name, "volume": volume} for name, volume in rare.items() if self.chance(0.15)]
        return {"start_date_time": time_text(since), "dimensions": dimensions}

    def auth_method(self) -> str:
        """Decide how it was found out whether the driver may."""
        return self.rng.choice(["AUTH_REQUEST", "COMMAND"] if self.token["whitelist"] == "NEVER" else ["WHITELIST"])

    def cdr_token(self, auth: str) -> Json:
        """Make a CdrToken; which version of the token was looked at is told if it was on a whitelist."""
        token = {"party_id": self.emsp, **{name: self.token[name] for name in ("uid", "type", "contract_id")}}
        return token | ({"token_version": self.rng.randint(1, 10**8)} if auth == "WHITELIST" else {})

    def connector(self) -> Json:
        """Make a SessionConnector."""
        return {"evse_uid": self.spot.evse_uid, "connector_id": self.spot.connector_id}

    def cost(self, energy: Decimal, periods: int) -> Json:
        """Make the Price of it all."""
        return costs(self.spot.tariff, energy_kwh=energy, hours=Decimal("0.25") * periods).total


def _volume(periods: Iterable[Json], dimension: str) -> Decimal:
    return sum(
        (each["volume"] for period in periods for each in period["dimensions"] if each["type"] == dimension),
        start=Decimal(0),
    )


# -- CDRs ---------------------------------------------------------------------------------------------------


def cdrs(
    sessions: Iterable[Sample],
    *,
    locations: Iterable[Sample],
    tariffs: Iterable[Sample],
    seed: int = SEED,
    party: str = "BEBEC",
) -> Iterator[Sample]:
    """Generate a CDR for each of these Sessions that is COMPLETED."""
    rng = random.Random(seed)
    places, known = by_id(locations), by_id(tariffs)
    number = 0
    for sample in sessions:
        session = read(sample.payload)
        if session["status"] == "COMPLETED":
            number += 1
            place = places[session["location_id"]]
            cdr = _CdrMaker(rng).cdr(sample.id, session, place, known[session["tariff_id"]])
            yield Sample(f"{party}-C{number:06d}", written(cdr, number))


class _CdrMaker(Chances):
    """Makes one CDR."""

    def cdr(self, session_id: str, session: Json, place: Json, tariff: Json) -> Json:
        """Make the CDR of a Session at this Location by this Tariff; a reservation comes before its start."""
        periods = [self.period(each) for each in session["charging_periods"]]
        hours = _volume(periods, "TIME")
        reserved_hours = None
        start = session["start_date_time"]
        if "total_cost" not in session:
            reserved_hours = Decimal(self.rng.randint(1, 8)) / 4
            start = time_text(moment_of(start) - timedelta(hours=float(reserved_hours)))
            waiting = {"type": "RESERVATION_TIME", "volume": reserved_hours}
            periods.insert(0, {"start_date_time": start, "dimensions": [waiting]})
        cost = costs(tariff, energy_kwh=session["energy"], hours=hours, reserved_hours=reserved_hours)
        same = ("cdr_token", "auth_method", "authorization_reference")
        return without_none(
            {
                "start_date_time": start,
                "end_date_time": session["end_date_time"],
                "session_id": session_id,
                **{name: session.get(name) for name in same},
                "cdr_location": self.location(session, place),
                "meter_id": session.get("meter_id"),
                **{name: session[name] for name in ("currency", "tariff_association_id", "tariff_id")},
                "charging_periods": periods,
                "signed_data": self.sometimes(0.1, self.signed_data),
                "total_cost": cost.total,
                "total_fixed_cost": cost.fixed,
                "total_energy": session["energy"],
                "total_energy_cost": cost.energy,
                "total_time": hours,
                "total_time_cost": cost.time,
                "total_reservation_cost": cost.reservation,
                "remark": self.sometimes(0.1, lambda: "Vom Fahrer beendet – alles gut ✓"),
                "home_charging_compensation": self.sometimes(0.05, lambda: False),
                "last_updated": time_text(moment_of(session["end_date_time"]) + timedelta(minutes=5)),
            }
        )

    def period(self, period: Json) -> Json:
        """Take a ChargingPeriod over, without what is for Sessions only."""
        return period | {"dimensions": [each for each in period["dimensions"] if each["type"] not in _SESSION_ONLY]}

    def location(self, session: Json, place: Json) -> Json:
        """Make a CdrLocation: what the place was like at that time."""
        where = session["connector"]
        evses = [evse for station in place["charging_pool"] for evse in station.get("evses", ())]
        evse = next(each for each in evses if each["uid"] == where["evse_uid"])
        connector = next(each for each in evse["connectors"] if each["id"] == where["connector_id"])
        return without_none(
            {
                "id": session["location_id"],
                "name": place.get("name"),
                "address": place.get("address"),
                "connector": {
                    "evse_uid": evse["uid"],
                    "evse_id": evse["evse_id"],
                    "connector_id": connector["id"],
                    "connector_standard": connector["standard"],
                    "connector_format": connector["format"],
                    "connector_power_type": connector["power_type"],
                },
            }
        )

    def signed_data(self) -> Json:
        """Make SignedData that looks as if a meter had signed it."""
        rng = self.rng
        values = [
            {"nature": nature, "plain_data": f"{nature} 1-0:1.8.0*255", "signed_data": f"{rng.getrandbits(512):0128x}"}
            for nature in ("Start", "End")
        ]
        return without_none(
            {
                "encoding_method": "OCMF",
                "encoding_method_version": self.sometimes(0.5, lambda: 1),
                "public_key": self.sometimes(0.5, lambda: f"{rng.getrandbits(256):064x}"),
                "signed_values": values,
                "url": self.sometimes(0.5, lambda: "https://meters.example/check"),
            }
        )


# -- meter samples ------------------------------------------------------------------------------------------


def meter_samples(sessions: Iterable[Sample], *, seed: int = SEED, party: str = "BEBEC") -> Iterator[Sample]:
    """Generate a MeterSample at the start of each charging period of these Sessions."""
    rng = random.Random(seed)
    number = 0
    for sample in sessions:
        session = read(sample.payload)
        for period in session.get("charging_periods", ()):
            number += 1
            made = _MeterMaker(rng).sample(sample.id, session["connector"]["evse_uid"], period["start_date_time"])
            yield Sample(f"{party}-M{number:06d}", written(made, number))


class _MeterMaker(Chances):
    """Makes one MeterSample."""

    def sample(self, session_id: str, evse_uid: str, time: str) -> Json:
        """Make a MeterSample; the field for the EVSE's uid is called ``evse_id``."""
        whole = self.chance(0.1)  # of a group of EVSEs, and of nobody's Session
        return without_none(
            {
                "timestamp": time,
                "evse_id": None if whole else evse_uid,
                "session_id": None if whole else session_id,
                "charging_profile_id": self.sometimes(0.3, lambda: f"PROFILE-{self.rng.randint(1, 99)}"),
                "readings": [self.reading("GROUP" if whole else None) for _ in range(self.rng.randint(1, 4))],
            }
        )

    def reading(self, level: str | None) -> Json:
        """Make a MeterReading."""
        rng = self.rng
        measurand, unit, most = rng.choice(
            [("POWER", "W", 150_000), ("CURRENT", "A", 400), ("FREQUENCY", "Hz", 60), ("SOC", "PERCENT", 100)]
        )
        phase = rng.choice(["L1", "L2", "L3", "L1-N", "L2-L3"])
        return without_none(
            {
                "value": Decimal(rng.randint(0, most * 100)).scaleb(-2),
                "measurand": measurand,
                "unit": unit,
                "component_level": level or ("EV" if measurand == "SOC" else "EVSE"),
                "location": rng.choice(["INLET", "OUTLET"]),
                "phase": phase if measurand == "CURRENT" else None,
            }
        )


# -- invoices -----------------------------------------------------------------------------------------------


def irrs(cdrs: Iterable[Sample], *, per_invoice: int = 20, party: str = "BEBEC") -> Iterator[Sample]:
    """Generate an InvoiceReconciliationRecord for every so many CDRs of one eMSP, and one for the rest."""
    of_emsp: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for sample in cdrs:
        cdr = read(sample.payload)
        of_emsp[cdr["cdr_token"]["party_id"]].append((sample.id, cdr["last_updated"]))
    number = 0
    for emsp, every in of_emsp.items():
        for start in range(0, len(every), per_invoice):
            number += 1
            invoiced = every[start : start + per_invoice]
            record = {
                "invoice_id": f"INV-{emsp}-{number:04d}",
                "cdr_ids": [id_ for id_, _ in invoiced],
                "last_updated": time_text(max(moment_of(time) for _, time in invoiced) + timedelta(minutes=1)),
            }
            yield Sample(f"{party}-I{number:06d}", written(record, number))
