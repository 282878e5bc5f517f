"""Calls to the simulated CPO: from the request to the result, and the faults that are made on demand.

``HANDLERS`` is all that this package knows of operations; their names and types stand in their modules' files.
"""

from functools import cache
from types import MappingProxyType
from typing import Any, Final, get_type_hints

from engine.backoffice.simulated import billing, commands, preferences, profiles, reservations, stations
from engine.backoffice.simulated.effects import Conclude, Refuse, Respond, Return
from engine.backoffice.simulated.handlers import (
    Asked,
    Asynchronous,
    Handler,
    Hindered,
    NotSupported,
    Rejected,
    Synchronous,
)
from engine.backoffice.simulated.state import Accepted, Answer, FaultKind, Held
from engine.backoffice.simulated.world import World, last_of, text, whole_seconds_later
from engine.protocol.modules import module
from engine.protocol.modules.bodies import AsyncResultType, ImmediateResponseToAsyncRequest
from engine.protocol.modules.check import read_as
from engine.protocol.modules.classes import ClosedEnum, Shape
from engine.protocol.modules.module import Call
from engine.protocol.modules.sessions import SessionCommandStatus
from engine.samples.chances import encode

HANDLERS: Final = MappingProxyType[tuple[str, str], Handler](
    {
        ("locations", "reserve-now"): reservations.RESERVE,
        ("locations", "cancel-reservation"): reservations.CANCEL,
        ("locations", "unlock-connector"): stations.UNLOCK,
        ("locations", "reset-evse"): stations.RESET,
        ("sessions", "start"): commands.START,
        ("sessions", "stop"): commands.STOP,
        ("sessions", "change-charging-preferences"): preferences.CHANGE,
        ("sessions", "send-station-message"): commands.SHOW_MESSAGE,
        ("cdrs", "dispute"): billing.DISPUTE,
        ("meterreadings", "set-charging-profile-on-evses"): profiles.SET_ON_EVSES,
        ("meterreadings", "set-charging-profile-on-session"): profiles.SET_ON_SESSION,
        ("meterreadings", "set-default-charging-profile"): profiles.SET_DEFAULT,
        ("meterreadings", "get-active-charging-profile"): profiles.GET_ACTIVE,
        ("meterreadings", "clear-charging-profile"): profiles.CLEAR,
    }
)
"""What a CPO is asked for; the other operations are what a CPO asks eMSPs for."""

ANSWERS_MAX: Final = 1_000
"""Calls whose answers are remembered, in case one of them comes again: more than can be under way at once."""

_CLIENT_ERROR: Final = 2000
_INVALID_PARAMETERS: Final = 2001
_ON_PURPOSE: Final = "refused on purpose"


def declaration(module_name: str, operation: str) -> Call | None:
    """Look up what a module declares of an operation."""
    found = module(module_name)
    return next((each for each in found.calls if each.operation == operation), None) if found else None


# -- from the request -----------------------------------------------------------------------------------------


def receive(world: World, asked: Asked) -> None:
    """Take a call. One that comes again is answered as before, and nothing else happens."""
    state = world.state
    if (answer := state.answers.get(asked.call_id)) is None:
        answer = _decide(world, asked)
        state.answers = last_of(state.answers | {asked.call_id: answer}, ANSWERS_MAX)
        return
    _emit(world, asked.call_id, answer)


def _decide(world: World, asked: Asked) -> Answer:
    declared_by, declared = module(asked.module), declaration(asked.module, asked.operation)
    handler = None if declared_by is None else HANDLERS.get((declared_by.id, asked.operation))
    if declared_by is None or declared is None or (handler is None and not declared.asynchronous):
        return _answer(world, asked, status_code=_CLIENT_ERROR, message="a CPO does not do that")
    if handler is None:
        return _respond(world, asked, ImmediateResponseToAsyncRequest.NOT_SUPPORTED)
    try:
        request = read_as(declared.request, asked.payload)
    except ValueError as error:
        return _answer(world, asked, status_code=_INVALID_PARAMETERS, message=str(error))
    call = Accepted(
        call_id=asked.call_id,
        asker=asked.asker,
        module=declared_by.id,
        operation=asked.operation,
        payload=asked.payload.decode(),
        received_at=world.now,
        deadline=asked.deadline,
        due=world.now,
        fault=_take_fault(world, asked.operation),
    )
    if isinstance(handler, Synchronous):
        return _do_at_once(world, asked, call, handler, request)
    return _accept(world, asked, call, handler, request)


def _take_fault(world: World, operation: str) -> FaultKind | None:
    state = world.state
    fault = next((each for each in state.faults if each.operation in {None, operation}), None)
    if fault is None:
        return None
    fault.times -= 1
    state.faults = [each for each in state.faults if each.times > 0]
    return fault.kind


def _do_at_once(world: World, asked: Asked, call: Accepted, handler: Synchronous, request: Any) -> Answer:
    if call.fault is FaultKind.REFUSE:
        return _answer(world, asked, status_code=_CLIENT_ERROR, message=_ON_PURPOSE)
    unheard = Answer()
    if call.fault is FaultKind.TIME_OUT:
        return unheard
    try:
        data = handler.perform(world, call, request)
    except Rejected as no:
        return unheard if call.fault else _answer(world, asked, status_code=_CLIENT_ERROR, message=str(no))
    return unheard if call.fault else _answer(world, asked, data=data.decode())


def _accept(world: World, asked: Asked, call: Accepted, handler: Asynchronous, request: Any) -> Answer:
    if call.fault is FaultKind.REFUSE:
        return _respond(world, asked, ImmediateResponseToAsyncRequest.REJECTED)
    before = len(world.effects)
    try:
        handler.check(world, call, request)
    except NotSupported:
        return _respond(world, asked, ImmediateResponseToAsyncRequest.NOT_SUPPORTED)
    except Rejected:
        return _respond(world, asked, ImmediateResponseToAsyncRequest.REJECTED)
    except Hindered as hindrance:
        error = _error(call, hindrance)
        if error is None:
            return _respond(world, asked, ImmediateResponseToAsyncRequest.REJECTED)
        answer = _respond(world, asked, ImmediateResponseToAsyncRequest.ACCEPTED, at=before)
        if call.fault is not FaultKind.TIME_OUT:
            _conclude(world, call, AsyncResultType.REJECTED, error=error)
        return answer
    if call.fault is not FaultKind.TIME_OUT:
        call.due = whole_seconds_later(world.now, world.draw(handler.takes(world.pace)))
        world.state.accepted.append(call)
    return _respond(world, asked, ImmediateResponseToAsyncRequest.ACCEPTED, at=before)


def _respond(world: World, asked: Asked, response: ImmediateResponseToAsyncRequest, *, at: int | None = None) -> Answer:
    """Answer an asynchronous call, before anything that was wanted meanwhile."""
    world.effects.insert(len(world.effects) if at is None else at, Respond(asked.call_id, response))
    return Answer(response=response)


def _answer(
    world: World, asked: Asked, *, data: str | None = None, status_code: int | None = None, message: str = ""
) -> Answer:
    answer = Answer(data=data, status_code=status_code, message=message)
    _emit(world, asked.call_id, answer)
    return answer


def _emit(world: World, call_id: str, answer: Answer) -> None:
    if answer.response is not None:
        world.emit(Respond(call_id, ImmediateResponseToAsyncRequest(answer.response)))
    elif answer.data is not None:
        world.emit(Return(call_id, answer.data.encode()))
    elif answer.status_code is not None:
        world.emit(Refuse(call_id, answer.status_code, answer.message))


# -- to the result --------------------------------------------------------------------------------------------


def perform(world: World, call: Accepted) -> None:
    """Let the charging station do what it was asked for, and tell how it went."""
    world.state.accepted.remove(call)
    declared = declaration(call.module, call.operation)
    handler = HANDLERS.get((call.module, call.operation))
    if declared is None or not isinstance(handler, Asynchronous):
        _conclude(world, call, AsyncResultType.NOT_SUPPORTED)  # it was accepted by a version that knew it
        return
    try:
        payload = handler.perform(world, call, read_as(declared.request, call.payload.encode()))
    except (NotSupported, Rejected):
        _conclude(world, call, AsyncResultType.FAILED)
    except Hindered as hindrance:
        gone = hindrance.status == SessionCommandStatus.DEVICE_OFFLINE
        how = AsyncResultType.TIMEOUT if gone else AsyncResultType.FAILED
        _conclude(world, call, how, error=_error(call, hindrance))
    else:
        _conclude(world, call, AsyncResultType.SUCCESS, payload=payload)


def tell_late(world: World, held: Held) -> None:
    """Tell a result that was kept back."""
    world.state.held.remove(held)
    for reservation in world.state.reservations:
        reservation.is_told |= reservation.call_id == held.call_id
    payload, error = (None if each is None else each.encode() for each in (held.payload, held.error))
    world.emit(Conclude(held.call_id, held.result_type, payload, error))


def _conclude(
    world: World,
    call: Accepted,
    result_type: AsyncResultType,
    *,
    payload: bytes | None = None,
    error: bytes | None = None,
) -> None:
    if call.fault is FaultKind.LOSE:
        return
    if call.fault is not FaultKind.LATE:
        world.emit(Conclude(call.call_id, result_type, payload, error))
        return
    held = Held(
        call_id=call.call_id,
        due=max(whole_seconds_later(call.deadline, world.pace.late_by_s), world.now),
        result_type=result_type,
        payload=None if payload is None else payload.decode(),
        error=None if error is None else error.decode(),
    )
    world.state.held.append(held)


def _error(call: Accepted, hindrance: Hindered) -> bytes | None:
    """Write the ``error`` of an AsyncResponse; None if the operation has no word for it."""
    declared = declaration(call.module, call.operation)
    if declared is None or declared.error is None or hindrance.status not in _statuses(declared.error):
        return None
    if issubclass(declared.error, ClosedEnum):
        return encode(hindrance.status)
    return encode({"status": hindrance.status, "message": text(str(hindrance))})


@cache
def _statuses(error: Shape) -> frozenset[str]:
    """Return what an error can say: an enum does itself, a class by its ``status``."""
    enum = error if issubclass(error, ClosedEnum) else get_type_hints(error)["status"]
    return frozenset(str(each) for each in enum)
