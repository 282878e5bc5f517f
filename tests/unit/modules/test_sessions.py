"""Chapter 7: what a Session has to hold to, when it is over, and what is asked for beside it."""

import json
from typing import Any

import pytest

from engine.protocol.modules import SchemaViolation, registry
from engine.protocol.modules.check import accept
from engine.protocol.modules.classes import Shape
from engine.protocol.modules.explain import explain
from engine.protocol.modules.module import NOBODY
from tests.unit.modules.full import EXAMPLES, FULL, Place, at, drop, put, written

sessions = registry["sessions"]
SESSION = FULL[sessions.id]
CALLS = {call.operation: call for call in sessions.calls}
REQUESTS = {
    operation: json.loads((EXAMPLES / f"sessions.{operation}.json").read_text(encoding="utf-8")) for operation in CALLS
}
STATE: Place = ("charging_periods", 2, "dimensions", 3)


def found(shape: Shape, payload: dict[str, Any], *, tolerant: bool = False) -> list[str]:
    """Return the pointers of what is wrong, strict or tolerant."""
    with pytest.raises(SchemaViolation) as refused:
        accept(shape, written(payload), tolerant=tolerant)
    return [problem.pointer for problem in refused.value.problems]


def warned(shape: Shape, payload: dict[str, Any]) -> list[str]:
    """Return the pointers of what a tolerant look warns of."""
    return [problem.pointer for problem in accept(shape, written(payload), tolerant=True)]


# -- rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "energy", "allowed"),
    [
        ("RESERVATION", "0", True),
        ("RESERVATION", "0.000", True),
        ("RESERVATION", "0.1", False),
        ("RESERVATION", "1e-400", False),
        ("COMPLETED", "0", True),
        ("COMPLETED", "20.0", False),
        ("INVALID", "-0.0", True),
        ("INVALID", "-2", False),
        ("PENDING", "0", False),
        ("ACTIVE", "0", False),
    ],
)
def test_connector(status, energy, allowed):
    """Only a Session that is no more than a reservation may be without a connector."""
    session = put(put(drop(SESSION, ("connector",)), ("status",), status), ("energy",), "NUMBER")
    payload = written(session).replace(b'"NUMBER"', energy.encode())

    warnings = [warning.pointer for warning in sessions.accept(payload, tolerant=True)]

    assert warnings == ([] if allowed else ["/connector"])
    assert explain(sessions.payload, payload, tolerant=False).problem_count == len(warnings)
    if allowed:
        assert sessions.accept(payload) == ()


def test_every_status():
    """With a connector a Session may have any status of the enum, RESERVATION and not RESERVED among them (W20)."""
    for status in ("ACTIVE", "COMPLETED", "INVALID", "PENDING", "RESERVATION"):
        assert sessions.accept(written(put(SESSION, ("status",), status))) == ()

    reserved = put(SESSION, ("status",), "RESERVED")
    assert found(sessions.payload, reserved) == warned(sessions.payload, reserved) == ["/status"]


@pytest.mark.parametrize(
    ("volume", "allowed"),
    [
        ("0", True),
        ("62.5", True),
        ("100", True),
        ("100.000", True),
        ("-0", True),
        ("100.00000000000000001", False),
        ("-1e-400", False),
        ("-1", False),
        ("1E400", False),
    ],
)
def test_state_of_charge(volume, allowed):
    """A battery is from 0 to 100 percent full, to the last digit."""
    assert SESSION["charging_periods"][2]["dimensions"][3]["type"] == "STATE_OF_CHARGE"
    where = (*STATE, "volume")
    payload = written(put(SESSION, where, "NUMBER")).replace(b'"NUMBER"', volume.encode())

    if allowed:
        assert sessions.accept(payload) == ()
    else:
        for tolerant in (False, True):
            with pytest.raises(SchemaViolation) as refused:
                sessions.accept(payload, tolerant=tolerant)
            assert [problem.pointer for problem in refused.value.problems] == [at(where)]


def test_other_volumes():
    """What is no state of charge may be any number; a Session takes dimensions that no CDR takes."""
    for dimension in ("CURRENT", "ENERGY", "ENERGY_EXPORT", "ENERGY_IMPORT", "POWER", "MIN_CURRENT", "TIME"):
        for volume in (-1000, 1000.5):
            session = put(SESSION, STATE, {"type": dimension, "volume": volume})
            assert sessions.accept(written(session)) == ()


def test_token():
    """As in a CDR, a whitelisted token has a version, and who issued it should be a party."""
    version: Place = ("cdr_token", "token_version")
    without = drop(SESSION, version)

    assert found(sessions.payload, without) == warned(sessions.payload, without) == [at(version)]
    assert sessions.accept(written(put(without, ("auth_method",), "COMMAND"))) == ()
    odd = sessions.accept(written(put(SESSION, ("cdr_token", "party_id"), "12345")))
    assert [warning.pointer for warning in odd] == ["/cdr_token/party_id"]


def test_rules_look_only_at_what_is_right():
    """A rule does not complain of what is already wrong in itself."""
    session = SESSION | {"status": 1, "energy": "20", "connector": [], "cdr_token": 7, "charging_periods": [{}, None]}

    pointers = found(sessions.payload, session)

    assert len(pointers) == len(set(pointers))
    assert {"/status", "/energy", "/connector", "/cdr_token", "/charging_periods/0/dimensions"} < set(pointers)
    assert not any(pointer.startswith("/cdr_token/") for pointer in pointers)


# -- what is read of a payload ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "is_final", "concluded"),
    [
        ({"status": "COMPLETED"}, True, 1777894800.0),
        ({"status": "INVALID"}, False, 1777894800.0),
        ({"status": "ACTIVE"}, False, None),
        ({"status": "PENDING"}, False, None),
        ({"status": "RESERVATION"}, False, None),
        ({"status": "RESERVED"}, False, None),
        ({"status": "completed"}, False, None),
        ({"status": None}, False, None),
        ({"status": 7}, False, None),
        ({"status": "COMPLETED", "end_date_time": None}, True, 1777894802.0),
        ({"status": "INVALID", "end_date_time": None}, False, 1777894802.0),
        ({"status": "COMPLETED", "end_date_time": "2026-05-04T13:40:00.25+02:00"}, True, 1777894800.25),
        ({"status": "COMPLETED", "end_date_time": "1970-01-01T00:00:00Z"}, True, 1777894802.0),
        ({"status": "COMPLETED", "end_date_time": "soon", "last_updated": "now"}, True, None),
        ({"status": "COMPLETED", "end_date_time": None, "last_updated": None}, True, None),
    ],
)
def test_over(fields, is_final, concluded):
    """A COMPLETED Session does not change any more; it and an INVALID one are over when they ended."""
    payload = written(SESSION | fields)

    assert (sessions.final(payload) is not None) is is_final
    assert sessions.concluded_at(payload) == concluded


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"1", b"", b"{", b'{"status":["COMPLETED"]}'])
def test_reading_raises_nothing(payload):
    """Whatever is there, what reads it says something or nothing."""
    assert sessions.audience(payload) == NOBODY
    assert sessions.final(payload) is None
    assert sessions.concluded_at(payload) is None
    assert sessions.id_length_max(payload) == 36


# -- remote procedure calls -------------------------------------------------------------------------------


def test_calls():
    """Each use case has its operation, asynchronous where a charging station has to answer."""
    assert [(call.use_case, call.operation, call.asynchronous) for call in sessions.calls] == [
        ("07.02", "start", True),
        ("07.03", "stop", True),
        ("07.04", "change-charging-preferences", False),
        ("07.05", "notify-active-charging-profile", False),
        ("07.06", "send-driver-message", False),
        ("07.07", "send-station-message", True),
    ]
    assert all((call.error is not None) is call.asynchronous for call in sessions.calls)
    assert [call.operation for call in sessions.calls if call.result] == ["change-charging-preferences"]


@pytest.mark.parametrize("operation", REQUESTS)
def test_requests(operation):
    """The example of each request is right, fast and in detail; without any row that it needs it is not."""
    request, shape = REQUESTS[operation], CALLS[operation].request

    assert accept(shape, written(request)) == accept(shape, written(request), tolerant=True) == ()
    assert found(shape, drop(request, ("session_id" if operation != "start" else "location_id",)))
    assert found(shape, {}) == [f"/{name}" for name in _required(operation)]


def _required(operation: str) -> list[str]:
    return {
        "start": ["token", "location_id"],
        "stop": ["session_id"],
        "change-charging-preferences": ["session_id", "profile_type"],
        "notify-active-charging-profile": ["session_id", "charging_profile"],
        "send-driver-message": ["session_id", "messages"],
        "send-station-message": ["session_id", "messages"],
    }[operation]


def test_start():
    """A connector is named together with its EVSE; where a callback would go to is not asked for (W7)."""
    shape, start = CALLS["start"].request, REQUESTS["start"]

    without_evse = drop(start, ("evse_uid",))
    assert found(shape, without_evse) == warned(shape, without_evse) == ["/evse_uid"]
    assert accept(shape, written(drop(without_evse, ("connector_id",)))) == ()
    assert accept(shape, written(drop(start, ("connector_id",)))) == ()
    assert accept(shape, written(drop(start, ("response_url",)))) == ()
    assert found(shape, put(start, ("response_url",), "x" * 256)) == ["/response_url"]
    assert found(shape, put(start, ("display_tariff", "elements"), [])) == ["/display_tariff/elements"]


def test_messages():
    """A message is there in one language at least."""
    for operation in ("send-driver-message", "send-station-message"):
        nothing = put(REQUESTS[operation], ("messages",), [])
        shape = CALLS[operation].request
        assert found(shape, nothing) == warned(shape, nothing) == ["/messages"]


def test_answers():
    """A CPO says one of six things to preferences; a failure has a status, and messages if there are any."""
    result, error = CALLS["change-charging-preferences"].result, CALLS["start"].error
    assert result is not None
    assert error is not None

    for answer in ("ACCEPTED", "DEPARTURE_REQUIRED", "CHARGING_PREFERENCES_NOT_SUPPORTED"):
        assert accept(result, written(answer)) == ()
    with pytest.raises(SchemaViolation):
        accept(result, written("REJECTED"))
    failure = {"status": "EVSE_OCCUPIED", "message": [{"language": "nl", "text": "Bezet"}]}
    assert accept(error, written(failure)) == accept(error, written(drop(failure, ("message",)))) == ()
    assert found(error, drop(failure, ("status",))) == ["/status"]
