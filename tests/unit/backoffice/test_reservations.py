"""Reservations at the simulated CPO: 05.02, 05.03 and 05.04."""

import json
from decimal import Decimal
from typing import Any

import pytest

from engine.backoffice.simulated import Ask, Conclude, NotPossible
from engine.protocol.modules.bodies import AsyncResultType
from tests.unit.backoffice.stage import E1, E2, E3, E4, EMSP, LOCATION, OTHER, STEADY, Stage, sites, token


@pytest.fixture
def stage() -> Stage:
    """A CPO at which everything takes the same time each time."""
    return Stage(pace=STEADY)


@pytest.mark.requirement("R.05.02.06", "R.05.02.09")
def test_the_evse_that_is_named_is_kept(stage: Stage):
    """A reservation of a certain EVSE: SUCCESS with nothing more, its status RESERVED, and a Session that says so."""
    call_id = stage.reserve(authorization_reference="REF-1")

    assert stage.results(call_id) == [Conclude(call_id, AsyncResultType.SUCCESS, payload=None, error=None)]
    assert stage.status(E1) == "RESERVED"
    session = stage.newest("sessions")
    assert session["status"] == "RESERVATION"
    assert session["auth_method"] == "COMMAND"
    assert session["authorization_reference"] == "REF-1"
    assert session["cdr_token"]["party_id"] == EMSP
    assert session["connector"]["evse_uid"] == E1


@pytest.mark.requirement("R.05.02.05")
def test_any_evse_of_a_location(stage: Stage):
    """Without an EVSE, one that is free at the Location is kept, until none is left."""
    for n in range(4):
        stage.reserve(f"R{n}", evse_uid=None)

    assert [stage.status(uid) for uid in (E1, E2, E3, E4)] == ["RESERVED"] * 4
    assert stage.hindered("locations", "reserve-now", stage.reservation("R5", evse_uid=None)) == (
        "REJECTED",
        "EVSE_OCCUPIED",
    )


@pytest.mark.requirement("R.05.02.08")
@pytest.mark.parametrize("state", ["reserved", "occupied", "blocked", "broken", "offline", "reset"])
def test_what_stands_in_the_way(stage: Stage, state: str):
    """Whatever the EVSE's state forbids is accepted, and then rejected at once, with the reason."""
    if state == "reserved":
        stage.reserve("THEIRS", asker=OTHER)
    elif state == "occupied":
        stage.charge(asker=OTHER)
    elif state == "blocked":
        stage.plug()
    elif state == "broken":
        stage.break_down()
    elif state == "offline":
        stage.online(is_online=False)
    else:
        stage.succeeds("locations", "reset-evse", {"location_id": LOCATION, "evse_uid": E2})

    call_id = stage.ask("locations", "reserve-now", stage.reservation())

    assert [type(each).__name__ for each in stage.last] == ["Respond", "Conclude"]
    reasons = {"broken": "EVSE_INOPERATIVE", "offline": "DEVICE_OFFLINE", "reset": "DEVICE_OFFLINE"}
    assert stage.outcome(call_id) == ("REJECTED", reasons.get(state, "EVSE_OCCUPIED"))


def test_two_at_once(stage: Stage):
    """Of two reservations that are under way at once the station takes one; the other FAILED, and says why."""
    first = stage.ask("locations", "reserve-now", stage.reservation("R1"))
    second = stage.ask("locations", "reserve-now", stage.reservation("R1"), asker=OTHER)

    assert stage.result(first).result_type == "SUCCESS"
    assert stage.outcome(second) == ("FAILED", "EVSE_OCCUPIED")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"location_id": "NOWHERE"}, "REJECTED"),
        ({"evse_uid": "NONE"}, "REJECTED"),
        ({"location_id": "BEBEC-L000002"}, "REJECTED"),
        ({"expiry_date": "2026-05-28T20:26:40Z"}, "REJECTED"),
        ({"expiry_date": "2036-05-28T20:26:40Z"}, "REJECTED"),
    ],
    ids=["no such Location", "no such EVSE", "an EVSE of another Location", "over already", "for years"],
)
def test_what_no_error_has_a_word_for(stage: Stage, changes: dict[str, Any], word: str):
    """What is unknown, or asked for in a way that the CPO never agrees to, is refused at once (B32)."""
    assert stage.refused("locations", "reserve-now", stage.reservation(**changes)) == word


def test_where_nothing_is_reserved():
    """A station that is not RESERVABLE answers NOT_SUPPORTED at once, as the draft's figure 30 does."""
    stage = Stage(pace=STEADY, places=sites(capabilities=["REMOTE_START_CAPABLE"]))

    assert stage.refused("locations", "reserve-now", stage.reservation()) == "NOT_SUPPORTED"
    assert stage.refused("locations", "reserve-now", stage.reservation(evse_uid=None)) == "NOT_SUPPORTED"


@pytest.mark.requirement("R.05.02.07")
def test_another_one_with_the_same_id(stage: Stage):
    """One with the id of an earlier one takes its place, in any case of letters; the old one is not billed."""
    stage.reserve("r1")
    old = stage.session().id

    stage.reserve("R1", evse_uid=E2, seconds=7200)

    assert stage.objects["sessions"][old]["status"] == "INVALID"
    assert (stage.status(E1), stage.status(E2)) == ("AVAILABLE", "RESERVED")
    assert len(stage.cpo.state.reservations) == 1
    # The same id in another party's mouth is another reservation.
    stage.reserve("R1", asker=OTHER)
    assert len(stage.cpo.state.reservations) == 2


@pytest.mark.requirement("R.05.02.07")
def test_the_old_one_goes_first(stage: Stage):
    """The old reservation is gone also if there is no place for the new one; it does not stand in its own way."""
    stage.reserve("R1")
    stage.reserve("R1", seconds=1800)
    assert stage.status(E1) == "RESERVED"
    stage.break_down(E2)

    assert stage.hindered("locations", "reserve-now", stage.reservation("R1", evse_uid=E2)) == (
        "REJECTED",
        "EVSE_INOPERATIVE",
    )
    assert not stage.cpo.state.reservations
    assert stage.status(E1) == "AVAILABLE"


@pytest.mark.requirement("R.05.02.10")
def test_kept_until_the_end(stage: Stage):
    """Until its last moment nobody else charges there, by a call or by a card; after it everybody may."""
    stage.reserve(seconds=600)
    stage.wait(stage.cpo.state.reservations[0].ends_at - stage.now - 10)
    start = {"token": token("OTHERS"), "location_id": LOCATION, "evse_uid": E1}

    assert stage.hindered("sessions", "start", start) == ("REJECTED", "EVSE_OCCUPIED")
    assert stage.hindered("sessions", "start", start, asker=OTHER) == ("REJECTED", "EVSE_OCCUPIED")
    with pytest.raises(NotPossible, match="reserved for somebody else"):
        stage.present("OTHERS")

    stage.wait(10)
    assert stage.status(E1) == "AVAILABLE"
    stage.succeeds("sessions", "start", start, asker=OTHER)


@pytest.mark.requirement("R.05.02.11", "R.05.02.12")
@pytest.mark.parametrize(
    ("type_", "after_s", "is_asked"),
    [
        ("RFID", 890, False),
        ("RFID", 910, True),
        ("APP_USER", 910, False),
        ("AD_HOC_USER", 3_500, False),
        ("EMAID", 10, True),
    ],
)
def test_how_long_a_reservation_authorizes(stage: Stage, type_: str, after_s: float, is_asked: bool):
    """An RFID token is not asked about for 15 minutes, a token of an app until the reservation ends."""
    uid = "NL-EMS-1"
    stage.reserve(token=token(uid, type_, contract_id=uid), authorization_reference="REF-1")
    stage.wait(after_s - (stage.now - stage.cpo.state.sessions[0].created_at) - 2)

    stage.present(uid, type_=type_)

    assert bool(stage.of(Ask)) is is_asked
    session = stage.session()
    assert (session.status == "PENDING") is not is_asked
    if not is_asked:
        assert (session.auth_method, session.authorization_reference) == ("COMMAND", "REF-1")


def test_only_there_and_only_that_token(stage: Stage):
    """What a reservation authorizes is its token at its EVSE, and not after it was given up."""
    stage.reserve()
    stage.present(evse_uid=E2)
    assert stage.of(Ask)

    stage.succeeds("locations", "cancel-reservation", {"reservation_id": "R1"})
    stage.present(evse_uid=E1)
    assert stage.of(Ask)


def test_the_driver_comes(stage: Stage):
    """A start with the reserved token goes on with the reservation's Session; the CDR has both, and begins with it."""
    stage.reserve(authorization_reference="REF-1")
    reserved = stage.session()
    stage.wait(1800)
    session_id = stage.charge(authorization_reference="REF-2")
    assert session_id == reserved.id
    assert not stage.cpo.state.reservations
    stage.wait(3600)
    stage.unplug()
    stage.wait(10)

    cdr = stage.newest("cdrs")
    assert cdr["session_id"] == session_id
    assert cdr["authorization_reference"] == "REF-2"
    dimensions = cdr["charging_periods"][0]["dimensions"]
    assert dimensions == [{"type": "RESERVATION_TIME", "volume": Decimal("0.501111")}]
    assert cdr["charging_periods"][0]["start_date_time"] == cdr["start_date_time"]
    assert cdr["total_reservation_cost"]["before_taxes"] == Decimal("0.501111") * 2
    assert cdr["total_time"] == Decimal(1)


@pytest.mark.requirement("R.05.03.06")
def test_cancelled_by_the_emsp(stage: Stage):
    """SUCCESS with nothing more; the EVSE is free, and the time until then is billed, as the Tariff says."""
    stage.reserve()
    stage.wait(1798)

    call_id = stage.succeeds("locations", "cancel-reservation", {"reservation_id": "r1"})

    assert stage.results(call_id)[0].payload is None
    assert stage.status(E1) == "AVAILABLE"
    assert stage.newest("sessions")["status"] == "COMPLETED"
    stage.wait(10)
    cdr = stage.newest("cdrs")
    assert cdr["total_cost"] == {"before_taxes": Decimal("1.00"), "taxes": [{"name": "VAT", "amount": Decimal("0.21")}]}
    assert (cdr["total_energy"], cdr["total_time"]) == (0, 0)


@pytest.mark.requirement("R.05.03.05")
def test_what_cannot_be_cancelled(stage: Stage):
    """Unknown, another party's, used already, or the station is away: accepted and rejected, with the reason."""
    request = {"reservation_id": "R1"}
    assert stage.hindered("locations", "cancel-reservation", request) == ("REJECTED", "UNKNOWN_RESERVATION")
    stage.reserve()
    assert stage.hindered("locations", "cancel-reservation", request, asker=OTHER) == (
        "REJECTED",
        "UNKNOWN_RESERVATION",
    )
    stage.online(is_online=False)
    assert stage.hindered("locations", "cancel-reservation", request) == ("REJECTED", "DEVICE_OFFLINE")
    stage.online(is_online=True)
    stage.start()
    assert stage.hindered("locations", "cancel-reservation", request) == ("REJECTED", "UNKNOWN_RESERVATION")


def test_nobody_came(stage: Stage):
    """A reservation ends by itself, and is billed."""
    stage.reserve(seconds=900)
    stage.wait(900)

    assert stage.status(E1) == "AVAILABLE"
    assert stage.newest("sessions")["status"] == "COMPLETED"
    stage.wait(10)
    assert stage.newest("cdrs")["remark"].startswith("Nobody came")
    assert not stage.cpo.state.sessions


@pytest.mark.requirement("R.05.04.04", "R.05.04.05")
def test_taken_back_by_the_cpo(stage: Stage):
    """The CPO takes a reservation back: FAILED for the call that made it, and the reason; nothing is billed."""
    call_id = stage.reserve()

    stage.wait(60)
    stage.take_back("R1", "Road works")

    (_, revoked) = stage.results(call_id)
    assert (revoked.result_type, revoked.error) == ("FAILED", None)
    assert json.loads(revoked.payload or b"") == "Road works"
    assert stage.status(E1) == "AVAILABLE"
    assert stage.newest("sessions")["status"] == "INVALID"
    stage.wait(3600)
    assert "cdrs" not in stage.objects
    with pytest.raises(NotPossible):
        stage.cpo.cancel_reservation(EMSP, "R1", "again", now=stage.now)


def test_a_station_breaks_down(stage: Stage):
    """Who asked for any EVSE gets another one; who asked for this one, or when none is left, loses the reservation."""
    anywhere = stage.reserve("ANY", evse_uid=None)
    stage.reserve("E3", evse_uid=E3)
    stage.reserve("E4", evse_uid=E4)

    stage.break_down(E1)
    assert stage.results(anywhere)[1:] == []
    assert (stage.status(E1), stage.status(E2)) == ("OUTOFORDER", "RESERVED")
    assert stage.newest("sessions")["connector"]["evse_uid"] == E2
    stage.present(evse_uid=E2)
    assert not stage.of(Ask)

    named = stage.reserve("E3", evse_uid=E3)
    stage.break_down(E3)
    assert [each.result_type for each in stage.results(named)] == ["SUCCESS", "FAILED"]
