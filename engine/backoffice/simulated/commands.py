"""What an eMSP has done with sessions at the simulated CPO: started, stopped, and told (07.02, 07.03, 07.07)."""

from collections.abc import Iterator
from typing import Final

from engine.backoffice.simulated import sessions
from engine.backoffice.simulated.handlers import Asynchronous, Hindered, NotSupported, Rejected
from engine.backoffice.simulated.state import Accepted, Charging, TokenOf
from engine.backoffice.simulated.world import LIVE, Place, World, can, connector_of, is_same, token_of
from engine.protocol.modules.cdrs import AuthMethod
from engine.protocol.modules.locations import Capability
from engine.protocol.modules.sessions import (
    SendDriverMessageRequest,
    SessionCommandStatus,
    StartSessionRequest,
    StopSessionRequest,
)

# -- start ----------------------------------------------------------------------------------------------------


def _check_start(world: World, call: Accepted, request: StartSessionRequest) -> None:
    token = token_of(call.asker, request.token)
    if request.evse_uid is not None:
        place = _named(world, request, request.evse_uid)
        # From the moment that the request was received, whatever comes of it (R.07.02.09).
        _grant(world, call, request, place, token)
        _check_cable(world, place, request, token)
    else:
        _any(world, request, token)


def _start(world: World, call: Accepted, request: StartSessionRequest) -> None:
    token = token_of(call.asker, request.token)
    if request.evse_uid is not None:
        place = _named(world, request, request.evse_uid)
        _check_cable(world, place, request, token)
    else:
        place = _any(world, request, token)
        _grant(world, call, request, place, token)
    sessions.arrive(
        world,
        place,
        token,
        auth_method=AuthMethod.COMMAND,
        authorization_reference=request.authorization_reference,
        connector_id=request.connector_id,
    )


def _named(world: World, request: StartSessionRequest, evse_uid: str) -> Place:
    place = world.find(evse_uid, request.location_id)
    if place is None:
        raise Rejected(f"there is no EVSE {evse_uid} at Location {request.location_id}")
    if not can(place.station, Capability.REMOTE_START_CAPABLE):
        raise NotSupported("the charging station takes no starts")
    if request.connector_id is None:
        if can(place.station, Capability.START_SESSION_CONNECTOR_REQUIRED):
            raise Rejected("the charging station asks for the connector")
    elif connector_of(place.evse, request.connector_id) is None:
        raise Rejected(f"EVSE {evse_uid} has no connector {request.connector_id}")
    return place


def _check_cable(world: World, place: Place, request: StartSessionRequest, token: TokenOf) -> None:
    sessions.check_free(world, place, token)
    plug = place.evse.plug
    if plug is not None and request.connector_id is not None and not is_same(plug.connector_id, request.connector_id):
        raise Hindered(SessionCommandStatus.EVSE_OCCUPIED, "a car is at another connector of this EVSE")


def _any(world: World, request: StartSessionRequest, token: TokenOf) -> Place:
    """Choose an EVSE (R.07.02.06): the one that is reserved for the token, else one with a car, else any free one."""
    site = world.site(request.location_id)
    if site is None:
        raise Rejected(f"there is no Location {request.location_id}")
    able = [
        place
        for place in world.places(site)
        if can(place.station, Capability.REMOTE_START_CAPABLE)
        and not can(place.station, Capability.START_SESSION_CONNECTOR_REQUIRED)
    ]
    if not able:
        raise NotSupported("no charging station there starts a session without being told where")
    free = list(_free(world, able, token))
    if not free:
        raise Hindered(SessionCommandStatus.EVSE_OCCUPIED, "no EVSE there is free")
    return min(free, key=lambda place: (world.reservation_at(place.evse) is None, place.evse.plug is None))


def _free(world: World, places: list[Place], token: TokenOf) -> Iterator[Place]:
    for place in places:
        try:
            sessions.check_free(world, place, token)
        except Hindered:
            continue
        yield place


def _grant(world: World, call: Accepted, request: StartSessionRequest, place: Place, token: TokenOf) -> None:
    station = [each for each in world.places(place.site) if each.station is place.station]
    until = call.received_at + sessions.GRANTED_S
    sessions.grant(world, token, station, until=until, authorization_reference=request.authorization_reference)


START: Final = Asynchronous(lambda pace: pace.start_s, _check_start, _start)
"""07.02: The eMSP vouches for the token, so nobody asks about it, and it need not be known (R.07.02.08, R.07.02.10)."""


# -- stop, messages -------------------------------------------------------------------------------------------


def own(world: World, call: Accepted, session_id: str) -> Charging:
    """Return a session of the asker's driver that is not over; to others there is no such session.

    Raises ``Rejected``, since no error enum of chapter 7 has a word for it.
    """
    session = world.session(session_id)
    if session is None or session.token.party_id != call.asker or session.status not in LIVE:
        raise Rejected(f"there is no session {session_id} of a driver of {call.asker} that goes on")
    return session


def _check_stop(world: World, call: Accepted, request: StopSessionRequest) -> None:
    place = world.place(own(world, call, request.session_id).evse_uid)
    if not can(place.station, Capability.REMOTE_STOP_CAPABLE):
        raise NotSupported("the charging station takes no stops")
    sessions.check_online(place)


def _stop(world: World, call: Accepted, request: StopSessionRequest) -> None:
    session = world.session(request.session_id)
    if session is None or session.status not in LIVE:
        return  # over already: what was asked for is so
    _check_stop(world, call, request)
    sessions.end(world, session, "Stopped by the eMSP")


STOP: Final = Asynchronous(lambda pace: pace.stop_s, _check_stop, _stop)
"""07.03: By the party whose driver charges, and by nobody else."""


def _check_message(world: World, call: Accepted, request: SendDriverMessageRequest) -> None:
    sessions.check_online(world.place(own(world, call, request.session_id).evse_uid))


def _show_message(world: World, call: Accepted, request: SendDriverMessageRequest) -> None:
    _check_message(world, call, request)
    session = own(world, call, request.session_id)
    session.message = [{"language": each.language, "text": each.text} for each in request.messages]


SHOW_MESSAGE: Final = Asynchronous(lambda pace: pace.display_s, _check_message, _show_message)
"""07.07: The station shows the eMSP's message until the session ends, or until another one comes."""
