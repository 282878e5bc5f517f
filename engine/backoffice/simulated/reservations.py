"""Reservations at the simulated CPO: made and given up by an eMSP (05.02, 05.03), or taken back by the CPO (05.04).

A reservation has a Session from the beginning, in the status RESERVATION. It goes on as the driver's session if the
driver comes; else it ends with the reservation, and is billed if the Tariff has a price for that.
"""

from typing import Final

from engine.backoffice.simulated import sessions
from engine.backoffice.simulated.effects import Conclude
from engine.backoffice.simulated.handlers import Asynchronous, Hindered, NotSupported, Rejected
from engine.backoffice.simulated.state import Accepted, Reservation
from engine.backoffice.simulated.world import Place, World, can, clock_text, is_same, text, token_of
from engine.protocol.ids import PartyId
from engine.protocol.modules.bodies import AsyncResultType
from engine.protocol.modules.cdrs import AuthMethod
from engine.protocol.modules.locations import (
    CancelReservationRequest,
    Capability,
    ReservationStatus,
    ReserveNowRequest,
)
from engine.protocol.modules.shared_types import TokenType
from engine.protocol.scalars import moment
from engine.samples.chances import encode


def find(world: World, party: PartyId, reservation_id: str) -> Reservation | None:
    """Look up a reservation; its id is the eMSP's own."""
    return next(
        (each for each in world.state.reservations if each.party_id == party and is_same(each.id, reservation_id)), None
    )


# -- made -----------------------------------------------------------------------------------------------------


def _check_reserve(world: World, call: Accepted, request: ReserveNowRequest) -> None:
    able, ends_at = _able(world, request), round(moment(request.expiry_date), 3)
    if ends_at <= world.now:
        raise Rejected("the reservation would be over already")
    if ends_at > world.now + world.pace.reserve_at_most_s:
        raise Rejected(f"no EVSE is reserved for longer than {world.pace.reserve_at_most_s:.0f} s")
    old = find(world, call.asker, request.reservation_id)
    try:
        _choose(world, able, old)
    except Hindered:
        _remove_old(world, old)
        raise


def _reserve(world: World, call: Accepted, request: ReserveNowRequest) -> None:
    able = _able(world, request)
    # The old one goes first, also if there will be no new one (R.05.02.07).
    _remove_old(world, find(world, call.asker, request.reservation_id))
    ends_at = round(moment(request.expiry_date), 3)
    if ends_at <= world.now:
        raise Rejected("the reservation was over before the charging station had made it")
    place = _choose(world, able, None)
    token = token_of(call.asker, request.token)
    session = sessions.make(
        world,
        place,
        place.evse.connectors[0],
        token,
        auth_method=AuthMethod.COMMAND,
        authorization_reference=request.authorization_reference,
        is_reserved=True,
    )
    world.state.reservations.append(
        Reservation(
            party_id=call.asker,
            id=request.reservation_id,
            call_id=call.call_id,
            is_told=call.fault is None,
            session_id=session.id,
            evse_uid=place.evse.uid,
            is_any_evse=request.evse_uid is None,
            token=token,
            ends_at=ends_at,
        )
    )
    if (until := _authorized_until(request, call.received_at, ends_at)) is not None:
        sessions.grant(world, token, [place], until=until, authorization_reference=request.authorization_reference)
    sessions.publish(world, session)


def _able(world: World, request: ReserveNowRequest) -> list[Place]:
    """Return the EVSEs that could be reserved: the one that is named, or all at the Location (R.05.02.05)."""
    site = world.site(request.location_id)
    if site is None:
        raise Rejected(f"there is no Location {request.location_id}")
    if request.evse_uid is None:
        places = list(world.places(site))
    elif (place := world.find(request.evse_uid, site.id)) is not None:
        places = [place]
    else:
        raise Rejected(f"there is no EVSE {request.evse_uid} at Location {request.location_id}")
    able = [place for place in places if can(place.station, Capability.RESERVABLE)]
    if not able:
        raise NotSupported("there are no reservations here")
    return able


def _choose(world: World, able: list[Place], old: Reservation | None) -> Place:
    """Return a free EVSE; one that the old reservation holds is free.

    Raises ``Hindered`` with what is in the way at the first one.
    """
    hindrances = []
    for place in able:
        try:
            _check_reservable(world, place, old)
        except Hindered as hindrance:
            hindrances.append(hindrance)
        else:
            return place
    raise hindrances[0]


def _check_reservable(world: World, place: Place, old: Reservation | None) -> None:
    sessions.check_usable(place)
    if world.session_at(place.evse) is not None or place.evse.plug is not None:
        raise Hindered(ReservationStatus.EVSE_OCCUPIED, "there is a car at the EVSE")
    reservation = world.reservation_at(place.evse)
    if reservation is not None and reservation is not old:
        raise Hindered(ReservationStatus.EVSE_OCCUPIED, "the EVSE is reserved already")


def _authorized_until(request: ReserveNowRequest, received_at: float, ends_at: float) -> float | None:
    """Return how long the reservation authorizes the token by itself (R.05.02.11, R.05.02.12)."""
    if request.token.type in {TokenType.AD_HOC_USER, TokenType.APP_USER}:
        return ends_at
    if request.token.type == TokenType.RFID:
        return min(ends_at, received_at + sessions.GRANTED_S)
    return None


def _remove_old(world: World, old: Reservation | None) -> None:
    if old is not None:
        _end(world, old, "Replaced by another reservation", is_billed=False)


RESERVE: Final = Asynchronous(lambda pace: pace.reserve_s, _check_reserve, _reserve)
"""05.02: Reserve an EVSE, or any one of a Location, for a token that need not be known."""


# -- ended ----------------------------------------------------------------------------------------------------


def _check_cancel(world: World, call: Accepted, request: CancelReservationRequest) -> None:
    reservation = find(world, call.asker, request.reservation_id)
    if reservation is None:
        raise Hindered(ReservationStatus.UNKNOWN_RESERVATION, "there is no such reservation, or not any more")
    sessions.check_online(world.place(reservation.evse_uid))


def _cancel(world: World, call: Accepted, request: CancelReservationRequest) -> None:
    _check_cancel(world, call, request)
    if (reservation := find(world, call.asker, request.reservation_id)) is not None:
        _end(world, reservation, "The reservation was cancelled by the eMSP", is_billed=True)


CANCEL: Final = Asynchronous(lambda pace: pace.reserve_s, _check_cancel, _cancel)
"""05.03: By the party that made it; what somebody else calls by that id is another reservation."""


def expire(world: World, reservation: Reservation) -> None:
    """End a reservation that nobody came to use."""
    _end(world, reservation, f"Nobody came before {clock_text(reservation.ends_at)}", is_billed=True)


def cancel_by_cpo(world: World, reservation: Reservation, why: str) -> None:
    """Take a reservation back: the result of its call becomes FAILED, with the reason as payload (R.05.04.04).

    If a fault has kept the SUCCESS back there is none to be taken back: the call is FAILED, with an error.
    """
    state = world.state
    _end(world, reservation, why, is_billed=False)
    if reservation.is_told:
        world.emit(Conclude(reservation.call_id, AsyncResultType.FAILED, payload=encode(why)))
        return
    state.held = [each for each in state.held if each.call_id != reservation.call_id]
    error = encode({"status": ReservationStatus.CANCELED_RESERVATION, "message": text(why)})
    world.emit(Conclude(reservation.call_id, AsyncResultType.FAILED, error=error))


def move_or_cancel(world: World, reservation: Reservation, why: str) -> None:
    """Keep another EVSE of the Location for a driver who did not ask for a certain one; else take it back."""
    site = world.place(reservation.evse_uid).site
    able = [place for place in world.places(site) if can(place.station, Capability.RESERVABLE)]
    try:
        if not reservation.is_any_evse:
            raise Rejected("this EVSE was asked for, and no other one")
        new = _choose(world, able, None)
    except (Hindered, Rejected):
        cancel_by_cpo(world, reservation, why)
        return
    for each in world.state.grants:
        if each.token == reservation.token and each.evse_uids == [reservation.evse_uid]:
            each.evse_uids = [new.evse.uid]
    reservation.evse_uid = new.evse.uid
    session = next(each for each in world.state.sessions if each.id == reservation.session_id)
    session.evse_uid, session.connector_id = new.evse.uid, new.evse.connectors[0].id
    sessions.publish(world, session)


def _end(world: World, reservation: Reservation, why: str, *, is_billed: bool) -> None:
    state = world.state
    state.reservations.remove(reservation)
    state.grants = [
        each for each in state.grants if each.token != reservation.token or each.evse_uids != [reservation.evse_uid]
    ]
    session = next(each for each in state.sessions if each.id == reservation.session_id)
    sessions.end(world, session, why, is_billed=is_billed)
