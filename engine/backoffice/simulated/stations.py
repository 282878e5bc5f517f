"""Charging stations: what state their EVSEs are in (chapter 6), and what is done to them (05.06, 05.07)."""

from decimal import Decimal
from typing import Final

from engine.backoffice.simulated import reservations, sessions
from engine.backoffice.simulated.handlers import Asynchronous, Hindered, NotSupported, Rejected
from engine.backoffice.simulated.state import Accepted, Plug
from engine.backoffice.simulated.world import (
    LIVE,
    NotPossible,
    Place,
    World,
    can,
    connector_of,
    is_same,
    whole_seconds_later,
)
from engine.protocol.modules.evse_statuses import MODULE as EVSE_STATUSES
from engine.protocol.modules.locations import (
    Capability,
    ChargingStationCommandStatus,
    ResetEvseRequest,
    Status,
    UnlockConnectorRequest,
)
from engine.protocol.scalars import date_time

# -- statuses -------------------------------------------------------------------------------------------------


def publish_statuses(world: World) -> None:
    """Issue the status of each EVSE that has another one than was told; its id is the EVSE's uid (R.06.01.04)."""
    charging = {each.evse_uid for each in world.state.sessions if each.status in LIVE}
    reserved = {each.evse_uid for each in world.state.reservations}
    for place in world.places():
        uid = place.evse.uid
        status = _status(place, is_charging=uid in charging, is_reserved=uid in reserved)
        if status is not place.evse.told:
            place.evse.told = status
            world.publish(EVSE_STATUSES.id, uid, {"status": status, "timestamp": date_time(world.now)})


def _status(place: Place, *, is_charging: bool, is_reserved: bool) -> Status:
    """Return whether one can charge at an EVSE (5.4.42). A car without a session is in the way of others."""
    _, station, evse = place
    if not evse.is_in_service:
        return Status.INOPERATIVE
    if not station.is_online:
        return Status.UNKNOWN
    if evse.is_broken:
        return Status.OUTOFORDER
    if station.back_at is not None:
        return Status.INOPERATIVE
    if is_charging:
        return Status.CHARGING
    if evse.plug is not None:
        return Status.BLOCKED
    return Status.RESERVED if is_reserved else Status.AVAILABLE


# -- drivers and faults ---------------------------------------------------------------------------------------


def plug_in(world: World, place: Place, *, connector_id: str | None, need_kwh: Decimal | None) -> None:
    """Plug a car in; a session that waits for its cable begins.

    Raises ``NotPossible``.
    """
    evse = place.evse
    connector = connector_of(evse, connector_id)
    if connector is None:
        raise NotPossible(f"EVSE {evse.uid} has no connector {connector_id}")
    if evse.plug is not None:
        raise NotPossible(f"there is a car at EVSE {evse.uid} already")
    if need_kwh is None:
        need_kwh = Decimal(str(world.draw(world.pace.need_kwh)))
    evse.plug = Plug(connector_id=connector.id, need_kwh=need_kwh)
    if (session := world.session_at(evse)) is not None:
        sessions.begin(world, session)


def unplug(world: World, place: Place) -> None:
    """Drive away; a session that goes on ends.

    Raises ``NotPossible``.
    """
    evse = place.evse
    if evse.plug is None:
        raise NotPossible(f"there is no car at EVSE {evse.uid}")
    if evse.plug.is_stuck:
        raise NotPossible(f"the cable at EVSE {evse.uid} is stuck: it has to be unlocked")
    if (session := world.session_at(evse)) is not None:
        sessions.end(world, session, "The car was unplugged")
    evse.plug = None


def jam(_world: World, place: Place) -> None:
    """Let the lock of a cable get stuck.

    Raises ``NotPossible``.
    """
    if place.evse.plug is None:
        raise NotPossible(f"there is no cable at EVSE {place.evse.uid}")
    place.evse.plug.is_stuck = True


def set_online(_world: World, place: Place, *, is_online: bool) -> None:
    """Cut the connection of a whole station, or mend it. Meanwhile it charges on, and nothing is heard of it."""
    place.station.is_online = is_online


def set_broken(world: World, place: Place, *, is_broken: bool) -> None:
    """Break an EVSE, or mend it. What goes on there ends; a reservation moves, or the CPO takes it back (05.04)."""
    place.evse.is_broken = is_broken
    if not is_broken:
        return
    if (session := world.session_at(place.evse)) is not None:
        sessions.end(world, session, "The charging station broke down")
    if (reservation := world.reservation_at(place.evse)) is not None:
        reservations.move_or_cancel(world, reservation, "The charging station broke down")


def come_back(place: Place) -> None:
    """End the reset of a station: its EVSEs work again."""
    place.station.back_at = None
    for evse in place.station.evses:
        evse.is_broken = False


# -- calls ----------------------------------------------------------------------------------------------------


def _named(world: World, location_id: str, evse_uid: str, capability: Capability) -> Place:
    place = world.find(evse_uid, location_id)
    if place is None:
        raise Rejected(f"there is no EVSE {evse_uid} at Location {location_id}")
    if not can(place.station, capability):
        raise NotSupported(f"the charging station is not {capability}")
    return place


def _check_unlock(world: World, _call: Accepted, request: UnlockConnectorRequest) -> None:
    place = _named(world, request.location_id, request.evse_uid, Capability.UNLOCK_CAPABLE)
    if connector_of(place.evse, request.connector_id) is None:
        raise Rejected(f"EVSE {request.evse_uid} has no connector {request.connector_id}")
    sessions.check_usable(place)
    if world.session_at(place.evse) is not None:
        raise Hindered(ChargingStationCommandStatus.EVSE_OCCUPIED, "a session goes on: stop it first")


def _unlock(world: World, call: Accepted, request: UnlockConnectorRequest) -> None:
    _check_unlock(world, call, request)
    plug = world.place(request.evse_uid).evse.plug
    if plug is not None and is_same(plug.connector_id, request.connector_id):
        plug.is_stuck = False


UNLOCK: Final = Asynchronous(lambda pace: pace.unlock_s, _check_unlock, _unlock)
"""05.06: Meant for a cable that stays stuck after a session. Where there is none, there is nothing that holds it."""


def _check_reset(world: World, call: Accepted, request: ResetEvseRequest) -> None:
    place = _named(world, request.location_id, request.evse_uid, Capability.RESET_CAPABLE)
    if not place.evse.is_in_service:
        raise Hindered(ChargingStationCommandStatus.EVSE_INOPERATIVE, "the EVSE is not in service")
    sessions.check_online(place)
    for evse in place.station.evses:
        session, reservation = world.session_at(evse), world.reservation_at(evse)
        if session is not None and session.token.party_id != call.asker:
            raise Hindered(ChargingStationCommandStatus.EVSE_OCCUPIED, "somebody else charges at this station")
        if reservation is not None and reservation.party_id != call.asker:
            raise Hindered(ChargingStationCommandStatus.EVSE_OCCUPIED, "somebody else reserved at this station")


def _reset(world: World, call: Accepted, request: ResetEvseRequest) -> None:
    _check_reset(world, call, request)
    station = world.place(request.evse_uid).station
    for evse in station.evses:
        if (session := world.session_at(evse)) is not None:
            sessions.end(world, session, "The charging station was reset")
        if evse.plug is not None:
            evse.plug.is_stuck = False
    station.back_at = whole_seconds_later(world.now, world.draw(world.pace.reset_s))


RESET: Final = Asynchronous(lambda pace: pace.accept_reset_s, _check_reset, _reset)
"""05.07: The result tells that the device accepted the reset (R.05.07.05); then it is away for a while.

It is the whole station that is reset, so nobody else's driver may be there; and it does away with what was broken.
"""
