"""Remote procedure calls (chapter 4): their lives on both sides, and the bodies that their requests carry.

::

    asker                                          doer
    asked ── POST <module>/<operation> ──────────▶ received      (stored on both sides before anything else)
      │ ◀─── ACCEPTED · data · a refusal ──────────── │
    accepted                                       accepted
      │ ◀─── POST async-responses/<callback id> ───── │          (until it is taken: B34)
    succeeded · failed                             succeeded · failed

Any of these requests may be lost, late or repeated, so each side has its table, and the two agree through results
alone. A result is never lost because it comes at a bad time: what is late still counts, what contradicts an earlier
one is kept beside it (B13), and what comes again changes nothing. Neither side waits for ever: a call that has no
result by its deadline has timed out.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final

import msgspec

from engine.protocol.errors import InvalidParameters
from engine.protocol.json_text import MalformedJson
from engine.protocol.modules import module
from engine.protocol.modules.bodies import (
    AsyncRequest,
    AsyncResponse,
    AsyncResultType,
    ImmediateResponseToAsyncRequest,
)
from engine.protocol.modules.check import SchemaViolation, accept
from engine.protocol.modules.classes import OcpiClass, Shape
from engine.protocol.modules.module import Call, Module, Problem
from engine.protocol.transitions import Lifecycle

ASYNC_RESPONSES: Final = "async-responses"
"""Where results go: ``…/async-responses/<callback id>`` (R.04.03.10)."""

CALLBACK_ID_BYTES: Final = 16  # nobody guesses it; 22 characters of the 36 that the table allows
RESPONSE_URL: Final = "response_url"  # of ``StartSession``: sent, never followed (W7)


# -- lives --------------------------------------------------------------------------------------------------


class CallState(StrEnum):
    """How far a call is, on either side."""

    ASKED = "asked"  # stored; the request is on its way, or its answer
    RECEIVED = "received"  # stored; the back office has it, or is to get it
    UNANSWERED = "unanswered"  # no answer came, and the partner may have the request all the same
    UNREACHED = "unreached"  # the request never left
    ACCEPTED = "accepted"  # the result is to come
    REFUSED = "refused"  # at once, with a status code or an immediate no
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # with whatever result says so
    TIMED_OUT = "timed_out"  # there was no result by the deadline
    REVOKED = "revoked"  # it had succeeded, and was taken back (UC 05.04)
    ENDED = "ended"  # with the connection, before there was a result


class CallEvent(StrEnum):
    """What can happen to a call, on either side."""

    ACCEPTED = "acceptance"
    ANSWERED = "answer with a result"
    REFUSED = "refusal"
    UNANSWERED = "missing answer"
    UNREACHED = "failed attempt to send it"
    SUCCESS = "result SUCCESS"
    FAILURE = "another result"
    REVOCATION = "revocation"
    DEADLINE = "deadline or result TIMEOUT"
    PLATFORM_ENDED = "end of the connection"


_S, _E = CallState, CallEvent
_RESULTS: Final = {_E.SUCCESS: _S.SUCCEEDED, _E.FAILURE: _S.FAILED}
_OVER: Final = {_E.PLATFORM_ENDED: _S.ENDED}


_ANSWERS: Final = (_E.ACCEPTED, _E.ANSWERED, _E.REFUSED)
_NO_ANSWERS: Final = (_E.UNANSWERED, _E.UNREACHED)


def _over(*answers: CallEvent) -> Mapping[CallState, Mapping[CallEvent, CallState]]:
    """Whatever is known of the answer to a request may be overtaken by the result; it changes nothing then."""
    return {
        # What is over on this side may not be over on the other, or at the device: what is said later is the truth.
        _S.TIMED_OUT: {**_RESULTS, _E.DEADLINE: _S.TIMED_OUT, **dict.fromkeys(answers, _S.TIMED_OUT)},
        _S.SUCCEEDED: {_E.REVOCATION: _S.REVOKED, **dict.fromkeys(answers, _S.SUCCEEDED)},
        _S.FAILED: dict.fromkeys(answers, _S.FAILED),
        _S.ENDED: dict.fromkeys(answers, _S.ENDED),
    }


ASKED_HERE: Final = Lifecycle(
    "call of ours",
    {
        _S.ASKED: {
            _E.ACCEPTED: _S.ACCEPTED,
            _E.ANSWERED: _S.SUCCEEDED,
            _E.REFUSED: _S.REFUSED,
            _E.UNANSWERED: _S.UNANSWERED,
            _E.UNREACHED: _S.UNREACHED,
            **_RESULTS,
            _E.DEADLINE: _S.TIMED_OUT,
            **_OVER,
        },
        _S.UNANSWERED: {**_RESULTS, _E.DEADLINE: _S.TIMED_OUT, **_OVER},
        _S.ACCEPTED: {**_RESULTS, _E.DEADLINE: _S.TIMED_OUT, **_OVER},
        _S.UNREACHED: {**_RESULTS, _E.DEADLINE: _S.TIMED_OUT},  # it did leave, it seems
        **_over(*_ANSWERS, *_NO_ANSWERS),
    },
)

DONE_HERE: Final = Lifecycle(
    "call of a partner",
    {
        _S.RECEIVED: {
            _E.ACCEPTED: _S.ACCEPTED,
            _E.ANSWERED: _S.SUCCEEDED,
            _E.REFUSED: _S.REFUSED,
            **_RESULTS,
            _E.DEADLINE: _S.TIMED_OUT,
            **_OVER,
        },
        _S.ACCEPTED: {**_RESULTS, _E.DEADLINE: _S.TIMED_OUT, **_OVER},
        **_over(*_ANSWERS),
    },
)

OPEN: Final = frozenset({_S.ASKED, _S.RECEIVED, _S.UNANSWERED, _S.ACCEPTED})
"""States in which a call waits for something, until its deadline at the latest."""


class Meaning(StrEnum):
    """What a result is to a call, in the light of what is known already."""

    REPEAT = "repeat"  # the same bytes again: nothing happens
    RESULT = "result"
    LATE = "late result"  # it had timed out, and is as the result says from now on
    REVOCATION = "revocation"
    CONTRADICTION = "contradiction"  # kept and shown, and the call stays as it is


class Delivery(StrEnum):
    """What became of a result of ours."""

    OWED = "owed"
    DELIVERED = "delivered"  # the partner said 1000
    UNKNOWN = "unknown there"  # it said 404: it knows no such call
    GIVEN_UP = "given up"  # nothing of that in seven days (B34), or the connection ended


class AsyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """An ``AsyncResponse`` (4.3.2). ``error`` and ``payload`` are the bytes of JSON values, or None."""

    result_type: AsyncResultType
    error: bytes | None = None
    payload: bytes | None = None

    @property
    def event(self) -> CallEvent:
        """What it is to a call that has no result yet. TIMEOUT leaves open what the device does after all."""
        match self.result_type:
            case AsyncResultType.SUCCESS:
                return CallEvent.SUCCESS
            case AsyncResultType.TIMEOUT:
                return CallEvent.DEADLINE
        return CallEvent.FAILURE


def revokes(call: Call, state: CallState, result: AsyncResult) -> bool:
    """Say whether a result takes back an earlier SUCCESS (UC 05.04).

    R.05.04.04 asks for FAILED and a figure shows REJECTED (O67): either is understood.
    """
    taken_back = (AsyncResultType.FAILED, AsyncResultType.REJECTED)
    return call.revocable and state is CallState.SUCCEEDED and result.result_type in taken_back


def judge(
    lives: Lifecycle[CallState, CallEvent], call: Call, state: CallState, result: AsyncResult, *, known: bool
) -> Meaning:
    """Say what a result means for a call on this side; ``known``: the same bytes came before (B34)."""
    if known:
        return Meaning.REPEAT
    if revokes(call, state, result):
        return Meaning.REVOCATION
    if not lives.allows(state, result.event):
        return Meaning.CONTRADICTION
    return Meaning.LATE if state is CallState.TIMED_OUT else Meaning.RESULT


def after_result(
    lives: Lifecycle[CallState, CallEvent], state: CallState, result: AsyncResult, meaning: Meaning
) -> CallState:
    """Return the state after a result that was judged."""
    match meaning:
        case Meaning.REVOCATION:
            return lives.after(state, CallEvent.REVOCATION)
        case Meaning.RESULT | Meaning.LATE:
            return lives.after(state, result.event)
    return state


# -- operations ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """A declared operation, with the module that has it."""

    module: Module
    call: Call

    @property
    def name(self) -> str:
        """Read as in URLs."""
        return f"{self.module.id}/{self.call.operation}"


def operation(module_name: str, name: str) -> Operation | None:
    """Look up an operation of a module, under any of the module's names."""
    found = module(module_name)
    if found is None:
        return None
    return next((Operation(found, call) for call in found.calls if call.operation == name), None)


# -- requests -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallRequest:
    """What is asked for. ``callback_id``: where the result goes, for an asynchronous operation."""

    payload: bytes
    callback_id: str | None = None


class _AsyncRequestWire(msgspec.Struct):
    callback_id: msgspec.Raw = msgspec.Raw(b"")
    payload: msgspec.Raw = msgspec.Raw(b"")


class _AsyncResponseWire(msgspec.Struct):
    result_type: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")
    payload: msgspec.Raw = msgspec.Raw(b"")


def callback_id(random: bytes) -> str:
    """Write random bytes as an id of unreserved characters (W23)."""
    return base64.urlsafe_b64encode(random).decode("ascii").rstrip("=")


def request_body(call: Call, payload: bytes, callback: str | None, *, response_url: str) -> bytes:
    """Write the body of a request around the payload's own bytes (R.04.01.05, R.04.03.04 to R.04.03.06).

    ``response_url`` goes along where the table asks for one (W7), unless the payload has it.
    """
    if not call.asynchronous:
        return payload
    if RESPONSE_URL in _fields_of(call.request) and RESPONSE_URL not in _read_fields(payload):
        payload = _with(payload, RESPONSE_URL, response_url)
    return b'{"callback_id":%b,"payload":%b}' % (msgspec.json.encode(callback), payload)


def read_request(call: Call, body: bytes, *, tolerant: bool) -> CallRequest:
    """Read a request for an operation; ``body`` passed ``check_object``. The payload keeps its bytes.

    Raises ``InvalidParameters`` that says all that is wrong, and where.
    """
    if not call.asynchronous:
        payload = _unwrapped(call, body)
        _refuse(problems(call.request, payload, tolerant=tolerant))
        return CallRequest(payload)
    wire = msgspec.json.decode(body, type=_AsyncRequestWire)
    payload = bytes(wire.payload)
    if payload in (b"", b"null"):
        payload = b"{}"  # what is required of the parameters is told one by one
    _refuse([*problems(AsyncRequest, body), *_below("payload", problems(call.request, payload, tolerant=tolerant))])
    return CallRequest(payload, msgspec.json.decode(bytes(wire.callback_id), type=str))


def problems(shape: Shape, value: bytes, *, tolerant: bool = False) -> tuple[Problem, ...]:
    """Say what is wrong with a JSON value; nothing: it is as its table has it."""
    try:
        accept(shape, value, tolerant=tolerant)
    except SchemaViolation as violation:
        return violation.problems
    except MalformedJson as error:
        return (Problem("", "no JSON", str(error)),)
    return ()


# -- answers ------------------------------------------------------------------------------------------------


def read_immediate(data: bytes) -> ImmediateResponseToAsyncRequest | None:
    """Read what was said at once to an asynchronous request (R.04.03.07); None when that cannot be read."""
    try:
        return msgspec.json.decode(data, type=ImmediateResponseToAsyncRequest)
    except (msgspec.MsgspecError, ValueError):
        return None


# -- results ------------------------------------------------------------------------------------------------


def result_body(result: AsyncResult) -> bytes:
    """Write an ``AsyncResponse`` around the bytes of its values (R.04.03.11 to R.04.03.13)."""
    body = b'{"result_type":"%b"' % result.result_type.value.encode("ascii")
    if result.error is not None:
        body += b',"error":%b' % result.error
    if result.payload is not None:
        body += b',"payload":%b' % result.payload
    return body + b"}"


def read_result(body: bytes) -> AsyncResult:
    """Read a partner's result; ``body`` passed ``check_object``.

    Only what decides is demanded: a result whose ``error`` or ``payload`` breaks its table is a result all the
    same, since refusing it would change nothing of what was done. Raises ``InvalidParameters``.
    """
    _refuse(problems(AsyncResponse, body))
    wire = msgspec.json.decode(body, type=_AsyncResponseWire)
    result_type = msgspec.json.decode(bytes(wire.result_type), type=AsyncResultType)
    return AsyncResult(result_type=result_type, error=present(wire.error), payload=present(wire.payload))


def check_result(call: Call, state: CallState, result: AsyncResult) -> tuple[Problem, ...]:
    """Say what is wrong with a result that one of ours wants to give (R.04.03.12, R.04.03.13)."""
    if revokes(call, state, result):
        return tuple(_wrong_revocation(result))
    if result.result_type is AsyncResultType.SUCCESS:
        return tuple(_wrong_success(call, result))
    return tuple(_wrong_failure(call, result))


def _wrong_revocation(result: AsyncResult) -> Iterator[Problem]:
    if result.result_type is not AsyncResultType.FAILED:
        yield Problem("/result_type", result.result_type, "FAILED, since it takes back a SUCCESS (R.05.04.04)")
    if result.error is not None:
        yield Problem("/error", "a value", "nothing, since it takes back a SUCCESS (O67)")
    if result.payload is not None and result.payload[:1] != b'"':
        yield Problem("/payload", "another value", "a text that says why, or nothing (R.05.04.05)")


def _wrong_success(call: Call, result: AsyncResult) -> Iterator[Problem]:
    if result.error is not None:
        yield Problem("/error", "a value", "nothing, since the result is SUCCESS (R.04.03.12)")
    if call.result is None:
        if result.payload is not None:
            yield Problem("/payload", "a value", f"nothing: {call.operation} has no payload in its result")
        return
    yield from _below("payload", problems(call.result, result.payload or b"null"))


def _wrong_failure(call: Call, result: AsyncResult) -> Iterator[Problem]:
    if result.payload is not None:
        yield Problem("/payload", "a value", f"nothing, since the result is {result.result_type} (R.04.03.13)")
    if call.error is not None and result.error is not None:
        yield from _below("error", problems(call.error, result.error))
    elif call.error is not None and result.result_type is AsyncResultType.REJECTED:
        yield Problem("/error", "nothing", f"a {call.error.__name__}, since the result is REJECTED")


def present(value: msgspec.Raw) -> bytes | None:
    """Return the bytes of a value that was read into a ``Raw``; ``null`` counts as left out (W21)."""
    text = bytes(value)
    return None if text in (b"", b"null") else text


# -- the rest -----------------------------------------------------------------------------------------------


def _refuse(found: Sequence[Problem]) -> None:
    if found:
        data = [
            {"field": problem.pointer, "reason": f"expected {problem.expected}; found {problem.found}"}
            for problem in found
        ]
        raise InvalidParameters("the request's fields are missing or invalid", data=data)


def _below(field: str, found: Iterable[Problem]) -> Iterator[Problem]:
    return (Problem(f"/{field}{one.pointer}", one.found, one.expected) for one in found)


def _unwrapped(call: Call, body: bytes) -> bytes:
    """Take the object out of ``{"payload": {…}}`` where none of its own required fields stands outside (W6)."""
    fields = _read_fields(body)
    inner = bytes(fields.get("payload", b""))
    if inner[:1] != b"{" or "payload" in _fields_of(call.request) or _required_of(call.request) & fields.keys():
        return body
    return inner


def _with(text: bytes, field: str, value: str) -> bytes:
    """Add a field to the end of an object; all else keeps its bytes."""
    inside = text.rstrip()[:-1].rstrip()
    comma = b"" if inside.endswith(b"{") else b","
    return b"%b%b%b:%b}" % (inside, comma, msgspec.json.encode(field), msgspec.json.encode(value))


def _read_fields(body: bytes) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])


@cache  # telling a class its fields again takes longer than reading a request by them
def _fields_of(shape: Shape) -> frozenset[str]:
    return frozenset(field.encode_name for field in _rows_of(shape))


@cache
def _required_of(shape: Shape) -> frozenset[str]:
    return frozenset(field.encode_name for field in _rows_of(shape) if field.required)


def _rows_of(shape: Shape) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(shape) if issubclass(shape, OcpiClass) else ()
