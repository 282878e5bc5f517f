"""Calls without a wire: both lives, what a result means when, and the bodies that travel."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from engine.protocol.addressing import RESERVED_OPERATIONS
from engine.protocol.calls import (
    ASKED_HERE,
    DONE_HERE,
    OPEN,
    AsyncResult,
    CallEvent,
    CallState,
    Meaning,
    after_result,
    callback_id,
    check_result,
    judge,
    operation,
    problems,
    read_immediate,
    read_request,
    read_result,
    request_body,
    result_body,
)
from engine.protocol.errors import InvalidParameters
from engine.protocol.modules import all_modules
from engine.protocol.modules.bodies import AsyncResultType, ImmediateResponseToAsyncRequest
from engine.protocol.modules.module import Call
from engine.protocol.transitions import IllegalTransition

S, E, R = CallState, CallEvent, AsyncResultType

ANSWERS = {E.ACCEPTED: S.ACCEPTED, E.ANSWERED: S.SUCCEEDED, E.REFUSED: S.REFUSED}
LOST = {E.UNANSWERED: S.UNANSWERED, E.UNREACHED: S.UNREACHED}
RESULTS = {E.SUCCESS: S.SUCCEEDED, E.FAILURE: S.FAILED}
WAITS = RESULTS | {E.DEADLINE: S.TIMED_OUT, E.PLATFORM_ENDED: S.ENDED}


def over(answers: Iterable[CallEvent]) -> dict[CallState, dict[CallEvent, CallState]]:
    """Expect that what is known of the answer after the result changes nothing."""
    events = tuple(answers)
    return {
        S.TIMED_OUT: RESULTS | dict.fromkeys((E.DEADLINE, *events), S.TIMED_OUT),
        S.SUCCEEDED: {E.REVOCATION: S.REVOKED} | dict.fromkeys(events, S.SUCCEEDED),
        S.FAILED: dict.fromkeys(events, S.FAILED),
        S.ENDED: dict.fromkeys(events, S.ENDED),
    }


EXPECTED_ASKED = over((*ANSWERS, *LOST)) | {
    S.ASKED: ANSWERS | LOST | WAITS,
    S.UNANSWERED: WAITS,
    S.ACCEPTED: WAITS,
    S.UNREACHED: RESULTS | {E.DEADLINE: S.TIMED_OUT},
}
EXPECTED_DONE = over(ANSWERS) | {S.RECEIVED: ANSWERS | WAITS, S.ACCEPTED: WAITS}

SUCCESS = AsyncResult(result_type=R.SUCCESS)
FAILED = AsyncResult(result_type=R.FAILED)
TIMEOUT = AsyncResult(result_type=R.TIMEOUT)
REJECTED = AsyncResult(result_type=R.REJECTED, error=b'{"status":"ACTIVE"}')


def call(module: str, name: str) -> Call:
    """Find a declared operation."""
    found = operation(module, name)
    assert found is not None
    return found.call


RESERVE, UNLOCK, PROFILE = (
    call("locations", "reserve-now"),
    call("locations", "unlock-connector"),
    call("meterreadings", "get-active-charging-profile"),
)
DISPUTE, AUTHORIZE, CLEAR = (
    call("cdrs", "dispute"),
    call("tokens", "authorize"),
    call("meterreadings", "clear-charging-profile"),
)
UNLOCKED = b'{"location_id":"L1","evse_uid":"E1","connector_id":"1"}'


@pytest.mark.parametrize("event", CallEvent)
@pytest.mark.parametrize("state", CallState)
@pytest.mark.parametrize(
    ("lives", "expected"), [(ASKED_HERE, EXPECTED_ASKED), (DONE_HERE, EXPECTED_DONE)], ids=["asked", "done"]
)
def test_every_cell(lives, expected, state, event):
    """Of every state and every event, what comes of it; and nothing else happens."""
    if event in expected.get(state, {}):
        assert lives.after(state, event) is expected[state][event]
    else:
        with pytest.raises(IllegalTransition):
            lives.after(state, event)


def test_what_is_open_can_end():
    """Whatever waits has a deadline on its side, and ends with the connection."""
    for lives in (ASKED_HERE, DONE_HERE):
        for state in OPEN & lives.table.keys():
            assert lives.after(state, E.DEADLINE) is S.TIMED_OUT
            assert lives.after(state, E.PLATFORM_ENDED) is S.ENDED
    assert (ASKED_HERE.table.keys() | DONE_HERE.table.keys()) >= OPEN


@pytest.mark.requirement("R.05.04.04")
@pytest.mark.parametrize(
    ("operation_of", "state", "result", "meaning", "after"),
    [
        (UNLOCK, S.ASKED, SUCCESS, Meaning.RESULT, S.SUCCEEDED),  # it overtook the answer
        (UNLOCK, S.ACCEPTED, SUCCESS, Meaning.RESULT, S.SUCCEEDED),
        (UNLOCK, S.ACCEPTED, REJECTED, Meaning.RESULT, S.FAILED),
        (UNLOCK, S.UNANSWERED, SUCCESS, Meaning.RESULT, S.SUCCEEDED),
        (UNLOCK, S.UNREACHED, FAILED, Meaning.RESULT, S.FAILED),
        (UNLOCK, S.TIMED_OUT, SUCCESS, Meaning.LATE, S.SUCCEEDED),
        (UNLOCK, S.TIMED_OUT, FAILED, Meaning.LATE, S.FAILED),
        (UNLOCK, S.TIMED_OUT, TIMEOUT, Meaning.LATE, S.TIMED_OUT),
        (UNLOCK, S.ACCEPTED, TIMEOUT, Meaning.RESULT, S.TIMED_OUT),
        (UNLOCK, S.SUCCEEDED, TIMEOUT, Meaning.CONTRADICTION, S.SUCCEEDED),
        (UNLOCK, S.SUCCEEDED, FAILED, Meaning.CONTRADICTION, S.SUCCEEDED),
        (UNLOCK, S.FAILED, SUCCESS, Meaning.CONTRADICTION, S.FAILED),
        (UNLOCK, S.REFUSED, SUCCESS, Meaning.CONTRADICTION, S.REFUSED),
        (UNLOCK, S.ENDED, SUCCESS, Meaning.CONTRADICTION, S.ENDED),
        (RESERVE, S.SUCCEEDED, FAILED, Meaning.REVOCATION, S.REVOKED),
        (RESERVE, S.SUCCEEDED, REJECTED, Meaning.REVOCATION, S.REVOKED),  # as the figure has it
        (RESERVE, S.REVOKED, SUCCESS, Meaning.CONTRADICTION, S.REVOKED),
        (RESERVE, S.REVOKED, FAILED, Meaning.CONTRADICTION, S.REVOKED),
        (RESERVE, S.ACCEPTED, FAILED, Meaning.RESULT, S.FAILED),
        (RESERVE, S.TIMED_OUT, SUCCESS, Meaning.LATE, S.SUCCEEDED),
    ],
)
def test_what_a_result_means(operation_of, state, result, meaning, after):
    """First, late, contradicting, taken back: each by what is known; the same bytes again are nothing in any state."""
    assert judge(ASKED_HERE, operation_of, state, result, known=False) is meaning
    assert after_result(ASKED_HERE, state, result, meaning) is after
    assert judge(ASKED_HERE, operation_of, state, result, known=True) is Meaning.REPEAT
    assert after_result(ASKED_HERE, state, result, Meaning.REPEAT) is state


@pytest.mark.requirement("R.04.01.03")
def test_no_operation_has_a_reserved_name():
    """Names of chapter 3 are not used for calls, and every module's operations are found by all its names."""
    named = [
        (name, one.operation) for known in all_modules() for name in (known.id, *known.aliases) for one in known.calls
    ]
    assert named
    for module_name, name in named:
        assert name not in RESERVED_OPERATIONS
        found = operation(module_name, name)
        assert found is not None
        assert found.call.operation == name
    assert operation("locations", "nothing") is None
    assert operation("nothing", "reserve-now") is None
    assert operation("commands", "reserve-now") is None


def test_callback_ids_fit_their_table_and_a_path():
    """22 unreserved characters carry all 128 bits."""
    written = callback_id(bytes(range(240, 256)))
    assert len(written) == 22
    assert set(written) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert callback_id(bytes(16)) != callback_id(bytes(15) + b"\x01")


# -- requests -----------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.04.03.04", "R.04.03.06", "R.04.01.05")
def test_a_request_carries_the_payload_s_own_bytes():
    """Synchronous: the object itself. Asynchronous: with the callback id beside it, and every digit as it was."""
    payload = b'{"a" : 1.50,"b":1E400}'
    assert request_body(DISPUTE, payload, None, response_url="https://x") == payload
    assert (
        request_body(UNLOCK, payload, "id~1", response_url="https://x")
        == b'{"callback_id":"id~1","payload":{"a" : 1.50,"b":1E400}}'
    )


def test_a_start_names_its_response_url():
    """It is sent because its table asks for it (W7); one that the back office gave is left alone."""
    start = call("sessions", "start")
    sent = json.loads(request_body(start, b'{"location_id":"L1" } ', "c", response_url="https://x/y"))
    assert sent["payload"] == {"location_id": "L1", "response_url": "https://x/y"}
    assert json.loads(request_body(start, b"{}", "c", response_url="https://x"))["payload"] == {
        "response_url": "https://x"
    }
    given = request_body(start, b'{"response_url":"mine"}', "c", response_url="https://x")
    assert json.loads(given)["payload"] == {"response_url": "mine"}


def test_a_request_is_read_as_it_was_written():
    """Payload and callback id come out as they went in."""
    body = request_body(UNLOCK, UNLOCKED, "c-1", response_url="")
    read = read_request(UNLOCK, body, tolerant=False)
    assert (read.payload, read.callback_id) == (UNLOCKED, "c-1")


def test_a_synchronous_request_may_be_wrapped():
    """Some will write `{"payload": …}` (W6); an object that has its own fields is not looked into."""
    wanted = b'{"token_uid":"T","presentation_timestamp":"2026-01-01T00:00:00Z","location_id":"L1"}'
    for body in (wanted, b'{"payload":%b}' % wanted):
        assert read_request(AUTHORIZE, body, tolerant=False).payload == wanted
    both = wanted[:-1] + b',"payload":{"token_uid":"U"}}'
    assert read_request(AUTHORIZE, both, tolerant=False).payload == both


@pytest.mark.parametrize(
    ("operation_of", "body", "fields"),
    [
        (UNLOCK, b"{}", ["/callback_id", "/payload/location_id", "/payload/evse_uid", "/payload/connector_id"]),
        (UNLOCK, b'{"callback_id":"","payload":%b}' % UNLOCKED, ["/callback_id"]),
        (UNLOCK, b'{"callback_id":7,"payload":%b}' % UNLOCKED, ["/callback_id"]),
        (UNLOCK, b'{"callback_id":"%b","payload":%b}' % (b"x" * 37, UNLOCKED), ["/callback_id"]),
        (UNLOCK, b'{"callback_id":"c","payload":[]}', ["/payload"]),
        (
            UNLOCK,
            b'{"callback_id":"c","payload":null}',
            ["/payload/location_id", "/payload/evse_uid", "/payload/connector_id"],
        ),
        (
            AUTHORIZE,
            b'{"token_uid":"T","location_id":"L","presentation_timestamp":"noon"}',
            ["/presentation_timestamp"],
        ),
        (AUTHORIZE, b'{"payload":{"token_uid":7}}', ["/token_uid", "/presentation_timestamp", "/location_id"]),
    ],
)
def test_a_request_of_the_wrong_shape(operation_of, body, fields):
    """2001, and every fault with its place."""
    with pytest.raises(InvalidParameters) as refused:
        read_request(operation_of, body, tolerant=False)
    assert [problem["field"] for problem in refused.value.data] == fields
    assert all(problem["reason"] for problem in refused.value.data)


def test_a_tolerant_reader_takes_what_is_only_missing():
    """As with objects (B23); the callback id it needs all the same."""
    assert read_request(UNLOCK, b'{"callback_id":"c","payload":{}}', tolerant=True).payload == b"{}"
    with pytest.raises(InvalidParameters):
        read_request(UNLOCK, b'{"payload":{}}', tolerant=True)


# -- answers and results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ImmediateResponseToAsyncRequest)
def test_what_is_said_at_once(said):
    """Each value of the enum is read; anything else is none."""
    assert read_immediate(b'"%b"' % said.encode()) is said
    assert read_immediate(b'"MAYBE"') is None
    assert read_immediate(b"{}") is None
    assert read_immediate(b"") is None


@pytest.mark.requirement("R.04.03.11", "R.04.03.12", "R.04.03.13")
@pytest.mark.parametrize("result_type", AsyncResultType)
def test_results_are_read_as_they_were_written(result_type):
    """What is not there is not written, and values keep their bytes."""
    for error, payload in ((None, None), (b'{"status" : "X"}', None), (None, b"[1.0,1E400]")):
        result = AsyncResult(result_type=result_type, error=error, payload=payload)
        body = result_body(result)
        assert read_result(body) == result
        assert json.loads(body).keys() == {"result_type"} | ({"error"} if error else set()) | (
            {"payload"} if payload else set()
        )
    assert read_result(b'{"result_type":"FAILED","error":null,"payload":null}') == FAILED


@pytest.mark.parametrize("body", [b"{}", b'{"result_type":"ACCEPTED"}', b'{"result_type":1}', b'{"result_type":null}'])
def test_a_result_that_does_not_say_how_it_went(body):
    """2001, naming the field."""
    with pytest.raises(InvalidParameters) as refused:
        read_result(body)
    assert [problem["field"] for problem in refused.value.data] == ["/result_type"]


def result(result_type: str, *, error: Any = None, payload: Any = None) -> AsyncResult:
    """Make a result of Python values."""
    error, payload = (None if one is None else json.dumps(one).encode() for one in (error, payload))
    return AsyncResult(result_type=AsyncResultType(result_type), error=error, payload=payload)


ERROR = {"status": "EVSE_OCCUPIED"}


@pytest.mark.parametrize(
    ("operation_of", "state", "given", "wrong"),
    [
        (UNLOCK, S.ACCEPTED, result("SUCCESS"), []),
        (UNLOCK, S.ACCEPTED, result("SUCCESS", payload={}), ["/payload"]),
        (UNLOCK, S.ACCEPTED, result("SUCCESS", error=ERROR), ["/error"]),
        (UNLOCK, S.ACCEPTED, result("REJECTED", error=ERROR), []),
        (UNLOCK, S.ACCEPTED, result("REJECTED"), ["/error"]),
        (UNLOCK, S.ACCEPTED, result("REJECTED", error={"status": "BUSY"}), ["/error/status"]),
        (UNLOCK, S.ACCEPTED, result("FAILED", error="EVSE_OCCUPIED"), ["/error"]),
        (UNLOCK, S.ACCEPTED, result("FAILED"), []),
        (UNLOCK, S.ACCEPTED, result("TIMEOUT"), []),
        (UNLOCK, S.ACCEPTED, result("NOT_SUPPORTED"), []),
        (UNLOCK, S.ACCEPTED, result("FAILED", payload="why"), ["/payload"]),
        (CLEAR, S.ACCEPTED, result("REJECTED", error="UNKNOWN_SESSION"), []),
        (CLEAR, S.ACCEPTED, result("REJECTED", error="NO"), ["/error"]),
        (PROFILE, S.ACCEPTED, result("SUCCESS"), ["/payload"]),
        (PROFILE, S.ACCEPTED, result("SUCCESS", payload={}), None),
        (RESERVE, S.SUCCEEDED, result("FAILED", payload="a storm"), []),
        (RESERVE, S.SUCCEEDED, result("FAILED"), []),
        (RESERVE, S.SUCCEEDED, result("FAILED", payload={"a": 1}, error=ERROR), ["/error", "/payload"]),
        (RESERVE, S.SUCCEEDED, result("REJECTED"), ["/result_type"]),
        (RESERVE, S.ACCEPTED, result("FAILED", payload="a storm"), ["/payload"]),
    ],
)
def test_what_one_of_ours_may_give_as_a_result(operation_of, state, given, wrong):
    """As the use case has it: what belongs in error and payload, and what does not; each fault has its place."""
    found = [problem.pointer for problem in check_result(operation_of, state, given)]
    if wrong is None:
        assert found
        assert all(pointer.startswith("/payload/") for pointer in found)
    else:
        assert found == wrong


def test_problems_of_what_is_no_json():
    """Said like any other fault."""
    (problem,) = problems(AUTHORIZE.request, b"{")
    assert problem.pointer == ""
