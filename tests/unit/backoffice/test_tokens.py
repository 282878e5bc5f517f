"""A driver shows a token at the simulated CPO: who decides, and what comes of it (chapter 11)."""

import json
from decimal import Decimal
from typing import Any

import pytest

from engine.backoffice.simulated import Ask, NotPossible
from tests.unit.backoffice.stage import E1, E2, E3, EMSP, LOCATION, OTHER, STEADY, Stage, known, sites, token


@pytest.fixture
def stage() -> Stage:
    """A CPO at which everything takes the same time each time."""
    return Stage(pace=STEADY)


def asked(stage: Stage) -> Ask:
    """The only question that was asked just now."""
    (question,) = stage.of(Ask)
    return question


@pytest.mark.requirement("R.11.02.04")
def test_a_token_that_nobody_knows(stage: Stage):
    """Somebody has to be asked who issued it: an AuthorizeRequest for this EVSE, to whom a hub finds."""
    stage.present()

    question = asked(stage)
    assert (question.to, question.module, question.operation) == (None, "tokens", "authorize")
    assert json.loads(question.payload) == {
        "token_uid": "04A1B2C3",
        "type": "RFID",
        "presentation_timestamp": stage.later(0),
        "location_id": LOCATION,
        "evse_uids": [E1],
    }
    assert not stage.cpo.state.sessions


def test_allowed(stage: Stage):
    """The session is of the token and the party that answered, and says how that was found out."""
    stage.present(known=known())
    assert asked(stage).to == EMSP
    stage.wait(1)
    stage.answer(asked_before(stage))

    session = stage.newest("sessions")
    assert session["status"] == "PENDING"
    assert (session["auth_method"], session["authorization_reference"]) == ("AUTH_REQUEST", "AUTH-1")
    assert session["cdr_token"]["party_id"] == EMSP
    assert "token_version" not in session["cdr_token"]


def asked_before(stage: Stage) -> Ask:
    """The last question so far."""
    return [each for each in stage.history if isinstance(each, Ask)][-1]


@pytest.mark.parametrize("allowed", ["BLOCKED", "EXPIRED", "NO_CREDIT", "NOT_ALLOWED", "REQUEST_TOO_BROAD"])
def test_not_allowed(stage: Stage, allowed: str):
    """Anything but ALLOWED is a no, and the question is over."""
    stage.present()
    question = asked(stage)
    stage.answer(question, allowed)
    stage.answer(question)

    assert not stage.cpo.state.sessions


@pytest.mark.parametrize(
    "changes",
    [{"authorized_until": "2026-05-28T20:26:40.000Z"}, {"token": token("ANOTHER")}, {"token": "none"}],
    ids=["over already", "for another token", "no AuthorizeResponse"],
)
def test_an_answer_that_is_none(stage: Stage, changes: dict[str, Any]):
    """An authorization that is over, one for another token, and what is none at all, are no yes."""
    stage.present()
    stage.answer(asked(stage), **changes)

    assert not stage.cpo.state.sessions
    assert not stage.cpo.state.questions


def test_somebody_else_is_faster(stage: Stage):
    """An answer that comes when the EVSE is taken starts nothing there; one that comes too late is not waited for."""
    stage.present()
    question = asked(stage)
    stage.start(asker=OTHER, token=token("THEIRS"))
    stage.answer(question)
    assert stage.session().token.party_id == OTHER

    stage.present(evse_uid=E2)
    question = asked(stage)
    stage.wait(15)
    stage.answer(question)
    assert not [each for each in stage.cpo.state.sessions if each.evse_uid == E2]


def test_shown_twice(stage: Stage):
    """Who shows the token again is asked about again, and only that answer counts."""
    stage.present()
    first = asked(stage)
    stage.present()
    second = asked(stage)

    stage.answer(first)
    assert not stage.cpo.state.sessions
    stage.answer(second)
    assert stage.session().status == "PENDING"


@pytest.mark.parametrize("whitelist", ["ALWAYS", "ALLOWED"])
def test_on_a_whitelist(stage: Stage, whitelist: str):
    """The CPO decides by the Token that it has, says so, and names its version (8.5.7)."""
    stage.present(known=known(whitelist=whitelist, version=41))

    assert not stage.of(Ask)
    session = stage.newest("sessions")
    assert session["auth_method"] == "WHITELIST"
    assert session["cdr_token"]["token_version"] == 41
    assert "authorization_reference" not in session
    with pytest.raises(NotPossible, match="not valid"):
        stage.present(evse_uid=E2, known=known(whitelist=whitelist, valid_until="2026-01-01T00:00:00Z"))
    with pytest.raises(NotPossible, match="not valid"):
        stage.present(evse_uid=E2, known=known(whitelist=whitelist, valid_from="2027-01-01T00:00:00Z"))


def test_never_whitelisted(stage: Stage):
    """The eMSP decides each time, also about a Token that is not valid by its times; no answer is a no."""
    stage.present(known=known(whitelist="NEVER", valid_until="2026-01-01T00:00:00Z"))
    assert asked(stage).to == EMSP
    stage.wait(15)

    assert not stage.cpo.state.sessions
    assert stage.cpo.next_at is None


def test_whitelisted_offline(stage: Stage):
    """The eMSP decides; if it does not answer in time the CPO does, by the Token that it has."""
    stage.present(known=known(whitelist="ALLOWED_OFFLINE"))
    stage.answer(asked(stage), "BLOCKED")
    assert not stage.cpo.state.sessions

    stage.present(known=known(whitelist="ALLOWED_OFFLINE"))
    stage.wait(15)
    assert stage.newest("sessions")["auth_method"] == "WHITELIST"

    stage.present(evse_uid=E2, known=known("B", whitelist="ALLOWED_OFFLINE", valid_until="2026-01-01T00:00:00Z"))
    stage.wait(15)
    assert not [each for each in stage.cpo.state.sessions if each.evse_uid == E2]

    stage.present("C", E3, known=known("C", whitelist="ALLOWED_OFFLINE"))
    stage.last = list(stage.cpo.answered(asked(stage).question_id, now=stage.now))  # an error, or no connection
    assert stage.published("sessions")[0]["auth_method"] == "WHITELIST"


@pytest.mark.requirement("R.07.02.09")
@pytest.mark.parametrize(("after_s", "is_asked"), [(880, False), (910, True)])
def test_a_card_after_a_start(stage: Stage, after_s: float, is_asked: bool):
    """For 15 minutes after a start nobody is asked about its card at that station; at another one they are."""
    stage.start()
    stage.wait(120)
    assert not stage.cpo.state.sessions
    stage.present(evse_uid=E3)
    assert stage.of(Ask)
    stage.wait(after_s - 124)

    stage.present(evse_uid=E2)

    assert bool(stage.of(Ask)) is is_asked
    if not is_asked:
        assert stage.session(E2).auth_method == "COMMAND"


@pytest.mark.requirement("R.07.02.09")
def test_a_card_while_the_start_waits_for_its_cable(stage: Stage):
    """The same token again is the start once more, not its end; another one is somebody else's."""
    stage.start()
    stage.present()
    assert stage.session().status == "PENDING"
    with pytest.raises(NotPossible, match="somebody else"):
        stage.present("OTHERS")


def test_a_card_after_a_start_that_failed(stage: Stage):
    """What stood in the way of the start does not matter to the card."""
    stage.charge(asker=OTHER, token=token("THEIRS"))
    start = {"token": token(), "location_id": LOCATION, "evse_uid": E1}
    assert stage.hindered("sessions", "start", start) == ("REJECTED", "EVSE_OCCUPIED")

    stage.present(evse_uid=E2)

    assert not stage.of(Ask)
    assert stage.session(E2).status == "PENDING"


@pytest.mark.parametrize(
    ("shown", "stops"),
    [
        (known("OTHER", group_id="fleet-1"), True),
        (known("OTHER", group_id="FLEET-2"), False),
        (known("OTHER"), False),
        (known("OTHER", group_id="FLEET-1", party=OTHER), False),
        (None, False),
    ],
    ids=["same group", "another group", "no group", "another party's group", "unknown"],
)
def test_a_token_of_the_same_group(stage: Stage, shown, stops: bool):
    """Of a group, one token stops what another one started; any other token does not."""
    stage.charge(token=token(group_id="FLEET-1"))
    if stops:
        stage.present("OTHER", known=shown)
        assert stage.newest("sessions")["status"] == "COMPLETED"
        return
    with pytest.raises(NotPossible, match="somebody else"):
        stage.present("OTHER", known=shown)
    assert stage.session().status == "ACTIVE"


def test_what_an_authorization_covers(stage: Stage):
    """No more energy than it covers, and no longer than it covers."""
    stage.present()
    stage.answer(asked(stage), max_energy=Decimal("5.5"), max_time=Decimal("0.5"))
    stage.plug()
    stage.wait(1790)
    assert stage.newest("sessions")["energy"] == Decimal("5.500")
    stage.wait(10)

    session = stage.newest("sessions")
    assert (session["status"], session["end_date_time"]) == ("COMPLETED", stage.later(0))
    assert stage.session().remark == "The time that was authorized is over"


def test_where_no_token_can_be_shown():
    """Not to a station without a reader, not to one that does not work; a car's contract needs no reader."""
    stage = Stage(places=sites(capabilities=[]))
    with pytest.raises(NotPossible, match="reads no cards"):
        stage.present()
    stage.present("NL-EMS-1", type_="EMAID")
    assert stage.of(Ask)
    stage.break_down()
    with pytest.raises(NotPossible, match="out of order"):
        stage.present("NL-EMS-1", type_="EMAID")
