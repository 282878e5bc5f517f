"""Sessions at the simulated CPO: from a start or a reservation to the end (chapter 7).

A start that is accepted is an order to the station, and its result tells that the station took it (R.07.02.05). What
becomes of it then is told by the Session: PENDING until there is a cable, ACTIVE from then on, COMPLETED at the end;
INVALID if no cable came. A little later a CDR follows.
"""

from decimal import Decimal
from typing import Any, Final

from engine.backoffice.simulated import billing, metering, notices
from engine.backoffice.simulated.handlers import Hindered
from engine.backoffice.simulated.regulation import applying, is_full
from engine.backoffice.simulated.state import (
    SESSION,
    Charging,
    Connector,
    Grant,
    Period,
    Reservation,
    SessionEvent,
    TokenOf,
)
from engine.backoffice.simulated.world import (
    Place,
    World,
    connector_of,
    text,
    whole_seconds_later,
)
from engine.protocol.modules.cdrs import AuthMethod
from engine.protocol.modules.sessions import (
    SessionCommandStatus,
    SessionStatus,
)
from engine.protocol.scalars import date_time
from engine.samples.chances import without_none

GRANTED_S: Final = 15 * 60.0
"""How long a token that its eMSP named in a call is authorized (R.05.02.12, R.07.02.09)."""
GRANTS_MAX: Final = 1_000
"""Authorizations that are remembered; the oldest are asked for again beyond that."""


# -- what stands in the way -----------------------------------------------------------------------------------


def check_online(place: Place) -> None:
    """Raise ``Hindered`` unless the station can be reached."""
    if not place.station.is_online:
        raise Hindered(SessionCommandStatus.DEVICE_OFFLINE, "the charging station cannot be reached")
    if place.station.back_at is not None:
        raise Hindered(SessionCommandStatus.DEVICE_OFFLINE, "the charging station is being reset")


def check_usable(place: Place) -> None:
    """Raise ``Hindered`` unless the EVSE works and can be reached. All error enums have the same words for that."""
    if not place.evse.is_in_service:
        raise Hindered(SessionCommandStatus.EVSE_INOPERATIVE, "the EVSE is not in service")
    check_online(place)
    if place.evse.is_broken:
        raise Hindered(SessionCommandStatus.EVSE_INOPERATIVE, "the EVSE is out of order")


def check_free(world: World, place: Place, token: TokenOf) -> None:
    """Raise ``Hindered`` unless this token may charge at the EVSE: it works, nobody charges, nobody else reserved."""
    check_usable(place)
    if world.session_at(place.evse) is not None:
        raise Hindered(SessionCommandStatus.EVSE_OCCUPIED, "somebody charges at this EVSE")
    reservation = world.reservation_at(place.evse)
    if reservation is not None and not is_for(reservation, token):
        raise Hindered(SessionCommandStatus.EVSE_OCCUPIED, "the EVSE is reserved for somebody else")


def is_for(reservation: Reservation, token: TokenOf) -> bool:
    """Tell whether a reservation was made for this token of this party."""
    return reservation.party_id == token.party_id and reservation.token.is_same(token.uid, token.type)


def grant(
    world: World, token: TokenOf, places: list[Place], *, until: float, authorization_reference: str | None
) -> None:
    """Remember that a token may charge at these EVSEs, so that nobody has to be asked if its driver shows it there."""
    given = Grant(
        token=token,
        evse_uids=[place.evse.uid for place in places],
        until=until,
        authorization_reference=authorization_reference,
    )
    others = [each for each in world.state.grants if each.token != token or each.evse_uids != given.evse_uids]
    world.state.grants = [*others, given][-GRANTS_MAX:]


# -- the life of a session ------------------------------------------------------------------------------------


def make(
    world: World,
    place: Place,
    connector: Connector,
    token: TokenOf,
    *,
    auth_method: AuthMethod,
    authorization_reference: str | None,
    is_reserved: bool = False,
) -> Charging:
    """Make a session of somebody who is there, or who reserved; it is not published yet."""
    session = Charging(
        id=world.new_id("S"),
        site_id=place.site.id,
        evse_uid=place.evse.uid,
        connector_id=connector.id,
        status=SessionStatus.RESERVATION if is_reserved else SessionStatus.PENDING,
        token=token,
        auth_method=auth_method,
        authorization_reference=authorization_reference,
        created_at=world.now,
        arrived_at=None if is_reserved else world.now,
        is_reserved=is_reserved,
        metered_at=world.now,
    )
    world.state.sessions.append(session)
    return session


def arrive(
    world: World,
    place: Place,
    token: TokenOf,
    *,
    auth_method: AuthMethod,
    authorization_reference: str | None,
    connector_id: str | None = None,
) -> Charging:
    """Let an authorized driver charge: with the session of the reservation, or a new one. It begins with the cable."""
    connector = connector_of(place.evse, connector_id) or place.evse.connectors[0]
    reservation = world.reservation_at(place.evse)
    if reservation is None:
        session = make(
            world,
            place,
            connector,
            token,
            auth_method=auth_method,
            authorization_reference=authorization_reference,
        )
    else:
        world.state.reservations.remove(reservation)
        session = next(each for each in world.state.sessions if each.id == reservation.session_id)
        # The last way of authorization counts, and the last reference that the eMSP gave (7.4.5).
        session.token, session.auth_method = token, auth_method
        session.authorization_reference = authorization_reference or session.authorization_reference
        session.arrived_at, session.connector_id = world.now, connector.id
    if place.evse.plug is not None:
        begin(world, session)
        return session
    if session.status is SessionStatus.RESERVATION:
        session.status = SESSION.after(session.status, SessionEvent.ARRIVED)
    session.due = whole_seconds_later(world.now, world.pace.plug_within_s)
    publish(world, session)
    return session


def begin(world: World, session: Charging) -> None:
    """Begin charging: the driver is authorized and the cable is in."""
    plug = world.place(session.evse_uid).evse.plug
    session.status = SESSION.after(session.status, SessionEvent.BEGUN)
    session.connector_id = plug.connector_id if plug is not None else session.connector_id
    session.began_at = session.metered_at = world.now
    session.periods = [Period(begins_at=world.now)]
    session.sample_id = world.new_id("M")
    session.due = _next_update(world, session)
    publish(world, session)
    metering.publish_samples(world, session)
    if applying(world, session):
        notices.notify_profile(world, session)


def update(world: World, session: Charging) -> None:
    """Tell how far a session is, and what is measured there; end it where its authorization does."""
    if session.ends_at is not None and world.now >= session.ends_at:
        end(world, session, "The time that was authorized is over")
        return
    billing.tally(session, world.now)
    if world.place(session.evse_uid).station.is_online:
        publish(world, session)
        metering.publish_samples(world, session)
        if is_full(world, session) and not session.is_full_told:
            session.is_full_told = True
            notices.message_driver(world, session, text("Your car does not take any more energy."))
    billing.next_period(session, world.now, world.pace.period_s)
    session.due = _next_update(world, session)


def _next_update(world: World, session: Charging) -> float:
    due = whole_seconds_later(world.now, world.pace.update_s)
    return due if session.ends_at is None else min(due, session.ends_at)


def end(world: World, session: Charging, remark: str, *, is_billed: bool = True) -> None:
    """End a session: COMPLETED if it costs something, else INVALID."""
    billed = is_billed and billing.is_worth_a_bill(world, session)
    session.status = SESSION.after(session.status, SessionEvent.ENDED if billed else SessionEvent.VOIDED)
    billing.tally(session, world.now)
    billing.close_periods(session)
    session.ended_at, session.remark = world.now, remark
    for profile in world.state.profiles:
        profile.is_over |= profile.session_id == session.id
    publish(world, session)
    if session.began_at is not None:
        session.power_w = Decimal(0)
        metering.publish_samples(world, session)
    if billed:
        session.due = whole_seconds_later(world.now, world.draw(world.pace.cdr_s))
    else:
        world.state.sessions.remove(session)


def give_up(world: World, session: Charging) -> None:
    """End a session to which no cable came."""
    end(world, session, "No cable was plugged in")


def publish(world: World, session: Charging) -> None:
    """Issue a session as it is now."""
    world.publish("sessions", session.id, _payload(world, session))


def _payload(world: World, session: Charging) -> dict[str, Any]:
    state = world.state
    has_cost = session.status is not SessionStatus.INVALID and billing.is_worth_a_bill(world, session)
    return without_none(
        {
            "start_date_time": date_time(session.began_at or session.arrived_at or session.created_at),
            "end_date_time": None if session.ended_at is None else date_time(session.ended_at),
            "energy": billing.energy_told(session),
            "cdr_token": billing.cdr_token(session),
            "auth_method": session.auth_method,
            "authorization_reference": session.authorization_reference,
            "location_id": session.site_id,
            "connector": {"evse_uid": session.evse_uid, "connector_id": session.connector_id},
            "currency": world.tariff["currency"],
            "charging_periods": billing.charging_periods(session, world.now) or None,
            "tariff_association_id": state.associations["REGULAR"],
            "tariff_id": state.tariff_id,
            "total_cost": billing.costs_of(world, session).total if has_cost else None,
            "status": session.status,
            "last_updated": date_time(world.now),
        }
    )
