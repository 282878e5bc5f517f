"""What holds for every call to the simulated CPO: its answer, its repetition, and what goes wrong on purpose."""

import json
from typing import Any

import pytest

from engine.backoffice.simulated import Ask, Asked, Conclude, FaultKind, Refuse, Respond, Return, calls
from engine.backoffice.simulated.calls import HANDLERS, declaration
from engine.protocol.ids import ModuleId
from engine.protocol.modules import all_modules
from tests.unit.backoffice.stage import E1, E2, EMSP, LOCATION, STEADY, Stage, token

ASKED_OF_AN_EMSP = {
    ("tokens", "authorize"),
    ("sessions", "notify-active-charging-profile"),
    ("sessions", "send-driver-message"),
}
START = {"token": token(), "location_id": LOCATION, "evse_uid": E1}


@pytest.fixture
def stage() -> Stage:
    """A CPO at which everything takes the same time each time."""
    return Stage(pace=STEADY)


def test_every_operation_of_the_draft():
    """Each operation is either done by the simulated CPO or asked for by it."""
    declared = {(found.id, call.operation) for found in all_modules() for call in found.calls}

    assert HANDLERS.keys() | ASKED_OF_AN_EMSP == declared
    assert not HANDLERS.keys() & ASKED_OF_AN_EMSP
    for name, operation in HANDLERS:
        assert declaration(name, operation) is not None


def test_what_a_cpo_does_not_do(stage: Stage):
    """An operation that is an eMSP's to do is refused."""
    stage.ask("tokens", "authorize", {"token_uid": "1"})
    (refused,) = stage.of(Refuse)
    assert (refused.status_code, refused.message) == (2000, "a CPO does not do that")
    assert not stage.cpo.state.accepted


def test_the_other_name_of_a_module(stage: Stage):
    """A call that comes under an alias of its module is the same call (W8)."""
    profile = {"id": "P", "charging_rate_unit": "W", "start_date_time": stage.later(0)}
    request = {"evses": [E1], "charging_profile": profile}
    stage.succeeds("metersamples", "set-charging-profile-on-evses", request)
    assert len(stage.cpo.state.profiles) == 1


@pytest.mark.parametrize("payload", [b"{}", b"[]", b"", b"{", b'{"session_id":7}'])
def test_a_request_that_is_none(stage: Stage, payload: bytes):
    """What does not conform is refused with 2001 and what is wrong with it, and nothing is begun."""
    asked = Asked("call-x", EMSP, ModuleId("sessions"), "stop", payload, stage.now + 30)
    (refused,) = stage.cpo.call(asked, now=stage.now)

    assert isinstance(refused, Refuse)
    assert refused.status_code == 2001
    assert refused.message
    assert not stage.cpo.state.accepted


def test_a_call_that_comes_again(stage: Stage):
    """With the same id: the same answer, and nothing more; its result comes once."""
    call_id = stage.ask("sessions", "start", START)
    stage.ask("sessions", "start", START, call_id=call_id)
    assert [type(each) for each in stage.last] == [Respond]
    stage.result(call_id)
    stage.ask("sessions", "start", START, call_id=call_id)
    stage.wait(10)

    assert len(stage.results(call_id)) == 1
    assert len(stage.cpo.state.sessions) == 1
    refused = stage.ask("sessions", "start", START)
    (first,) = stage.results(refused)
    stage.ask("sessions", "start", START, call_id=refused)
    assert stage.results(refused) == [first]


def test_a_synchronous_call_that_comes_again(stage: Stage):
    """With the same id: the same result, and nothing is done twice."""
    session_id = stage.charge()
    wish = {"session_id": session_id, "profile_type": "CHEAP", "departure_time": stage.later(3600), "energy_need": 5}
    call_id = stage.ask("sessions", "change-charging-preferences", wish)
    first = stage.of(Return)
    assert stage.of(Ask)
    stage.ask("sessions", "change-charging-preferences", wish, call_id=call_id)

    assert stage.last == first


def test_how_many_answers_are_remembered(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """Those of the last so many calls; of an older one nobody waits for a repetition."""
    monkeypatch.setattr(calls, "ANSWERS_MAX", 2)
    asked = [stage.ask("sessions", "stop", {"session_id": "NONE"}) for _ in range(4)]
    assert list(stage.cpo.state.answers) == asked[-2:]


# -- faults ---------------------------------------------------------------------------------------------------


def sync(stage: Stage, session_id: str) -> str:
    """Make a synchronous call that has an effect."""
    wish = {"session_id": session_id, "profile_type": "CHEAP", "departure_time": stage.later(3600), "energy_need": 5}
    return stage.ask("sessions", "change-charging-preferences", wish)


def test_refused_on_purpose(stage: Stage):
    """REFUSE: at once, and nothing happens; the next call is done."""
    stage.cpo.arm(FaultKind.REFUSE)
    assert stage.refused("sessions", "start", START) == "REJECTED"
    session_id = stage.charge()

    stage.cpo.arm(FaultKind.REFUSE)
    sync(stage, session_id)
    assert [each.status_code for each in stage.of(Refuse)] == [2000]
    assert stage.session().preferred_w is None


def test_timed_out_on_purpose(stage: Stage):
    """TIME_OUT: accepted, and then nothing, for ever; a synchronous call is not even answered."""
    stage.cpo.arm(FaultKind.TIME_OUT)
    call_id = stage.ask("sessions", "start", START)
    assert stage.response() == "ACCEPTED"
    stage.wait(3600)
    assert stage.results(call_id) == []
    assert not stage.cpo.state.sessions
    # Also where it would have been rejected.
    stage.break_down()
    stage.cpo.arm(FaultKind.TIME_OUT)
    call_id = stage.ask("sessions", "start", START)
    assert stage.response() == "ACCEPTED"
    stage.wait(3600)
    assert stage.results(call_id) == []

    other = Stage(pace=STEADY)
    session_id = other.charge()
    other.cpo.arm(FaultKind.TIME_OUT)
    call_id = sync(other, session_id)
    assert other.last == []
    assert other.session().preferred_w is None
    other.ask("sessions", "change-charging-preferences", {}, call_id=call_id)
    assert other.last == []


def test_late_on_purpose(stage: Stage):
    """LATE: done when it is due, told after the deadline; after a restart too."""
    stage.cpo.arm(FaultKind.LATE)
    asked_at = stage.now
    call_id = stage.ask("sessions", "start", START)
    stage.wait(4)
    assert stage.session().status == "PENDING"
    assert stage.results(call_id) == []
    stage.restart()
    stage.wait(29)
    assert stage.results(call_id) == []

    assert stage.result(call_id).result_type == "SUCCESS"
    assert stage.now == asked_at + 30 + STEADY.late_by_s


def test_lost_on_purpose(stage: Stage):
    """LOSE: done, and nobody hears of it but by what is published."""
    stage.cpo.arm(FaultKind.LOSE)
    call_id = stage.ask("sessions", "start", START)
    stage.wait(60)
    assert stage.results(call_id) == []
    assert stage.newest("sessions")["status"] == "PENDING"

    stage.plug()
    stage.cpo.arm(FaultKind.LOSE)
    sync(stage, stage.session().id)
    assert not stage.of(Return)
    assert stage.session().preferred_w is not None


def test_which_call_goes_wrong(stage: Stage):
    """A fault is for so many calls of one operation, or of any; others are not touched by it."""
    stage.cpo.arm(FaultKind.REFUSE, operation="stop", times=2)
    session_id = stage.charge()
    stop: dict[str, Any] = {"session_id": session_id}

    assert stage.refused("sessions", "stop", stop) == "REJECTED"
    stage.restart()
    assert stage.refused("sessions", "stop", stop) == "REJECTED"
    stage.succeeds("sessions", "stop", stop)
    assert not stage.cpo.state.faults


@pytest.mark.parametrize("kind", [FaultKind.LATE, FaultKind.LOSE])
def test_a_yes_that_was_never_heard_is_not_taken_back(stage: Stage, kind: FaultKind):
    """A reservation that the CPO cancels while nobody knows of it is FAILED, with an error; nothing follows."""
    stage.cpo.arm(kind)
    call_id = stage.ask("locations", "reserve-now", stage.reservation())
    stage.wait(5)
    assert stage.status(E1) == "RESERVED"
    stage.restart()
    stage.take_back("R1", "Road works")
    stage.wait(3600)

    (result,) = stage.results(call_id)
    assert (result.result_type, result.payload) == ("FAILED", None)
    assert json.loads(result.error or b"") == {
        "status": "CANCELED_RESERVATION",
        "message": [{"language": "en", "text": "Road works"}],
    }


def test_a_late_yes_that_was_heard_is_taken_back(stage: Stage):
    """Once the late SUCCESS is told, the CPO takes it back as any other one (05.04)."""
    stage.cpo.arm(FaultKind.LATE)
    call_id = stage.ask("locations", "reserve-now", stage.reservation())
    assert stage.result(call_id).result_type == "SUCCESS"
    stage.take_back("R1", "Road works")

    (_, revoked) = stage.results(call_id)
    assert (revoked.result_type, revoked.payload, revoked.error) == ("FAILED", b'"Road works"', None)


# -- time -----------------------------------------------------------------------------------------------------


def test_time_does_not_go_back(stage: Stage):
    """An earlier time counts as the latest one that was told."""
    stage.charge()
    stage.wait(60)
    told = stage.newest("sessions")
    assert stage.cpo.advance(now=stage.now - 1000) == []
    stage.cpo.unplug(E1, now=stage.now - 1000)
    assert stage.cpo.state.sessions[0].ended_at == stage.now
    assert told["energy"] == stage.cpo.state.sessions[0].periods[0].energy_kwh


def test_one_thing_after_the_other(stage: Stage):
    """What came due while nobody looked happened in its order and at its own time."""
    call_id = stage.ask("sessions", "start", START)
    reserve = stage.ask("locations", "reserve-now", stage.reservation(seconds=600, evse_uid=E2))
    stage.wait(7200)

    concluded = [each.call_id for each in stage.of(Conclude)]
    assert concluded == [reserve, call_id]  # two seconds, and four
    statuses = [each["status"] for each in stage.published("sessions")]
    assert statuses == ["RESERVATION", "PENDING", "INVALID", "COMPLETED"]


def test_the_same_history_has_the_same_effects():
    """A seed decides everything that chance decides; another one decides otherwise."""

    def history(seed: int) -> list[Any]:
        stage = Stage(seed=seed)
        stage.charge()
        stage.wait(4000)
        stage.unplug()
        stage.wait(60)
        return stage.history

    assert history(1) == history(1)
    assert history(1) != history(2)
