"""Calls between two engines over real TLS, in one process: every operation, every result, and what goes wrong."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.protocol.calls import CallState
from engine.protocol.errors import CallFailed
from engine.protocol.modules.bodies import AsyncResultType, ImmediateResponseToAsyncRequest
from engine.refusals import NotAccepted, NotFoundHere, Refused
from engine.relay.offices import Accepted, Answered, Declined, IncomingCall, RefusedAtOnce, Reply
from engine.store import calls
from tests.support.offices import (
    ERRORS,
    OPERATIONS,
    UNLOCK,
    WAIT_S,
    InProcess,
    ScriptedOffice,
    ask,
    delivered,
    ended,
    pair,
    parameters,
    result_of,
)

RESERVE = "locations/reserve-now"


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[InProcess, InProcess]]:
    """Run them with settings that make tests quick."""
    async with pair(tmp_path) as made:
        yield made


@pytest.mark.requirement(
    *(f"R.04.01.{number:02}" for number in (1, 2, 4, 5, 6)),
    *(f"R.04.03.{number:02}" for number in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 14)),
)
async def test_every_operation_in_both_directions(both: tuple[InProcess, InProcess]):
    """Asked by either side, it arrives as it was written, is answered, and its result comes back."""
    offices = [platform.office() for platform in both]
    for asker, doer, office in ((both[0], both[1], offices[1]), (both[1], both[0], offices[0])):
        for name, (_, call) in OPERATIONS.items():
            shown = await ask(asker, doer, name)
            taken = office.taken[-1]
            assert f"{taken.module}/{taken.operation}" == name
            assert (taken.asker, taken.receiver, taken.platform) == (asker.party, doer.party, asker.identity)
            sent, wanted = json.loads(taken.payload), json.loads(parameters(name))
            if name == "sessions/start" and "response_url" not in wanted:
                assert sent.pop("response_url").startswith(f"{asker.base_url}/from/{doer.party}/to/{asker.party}/")
            assert sent == wanted, name
            result = result_of(name)
            if not call.asynchronous:
                assert (shown["state"], shown["status_code"]) == ("succeeded", 1000), shown
                assert shown.get("data") == (None if result is None else json.loads(result))
                continue
            assert (shown["state"], shown["data"]) == ("accepted", "ACCEPTED"), shown
            await doer.engine.calls.conclude(taken.id, "SUCCESS", payload=result)
            after = await ended(asker, shown["id"])
            (came,) = after["results"]
            assert (after["state"], came["result_type"], came["meaning"]) == ("succeeded", "SUCCESS", "result")
            assert came.get("payload") == (None if result is None else json.loads(result))
            assert "error" not in came
            assert (await delivered(doer, taken.id))["state"] == "succeeded"
    assert len(offices[0].taken) == len(offices[1].taken) == len(OPERATIONS)


@pytest.mark.requirement(
    "R.04.03.13", "R.05.02.08", "R.05.03.05", "R.13.02.04", "R.13.03.04", "R.13.04.04", "R.13.05.04", "R.13.06.04"
)
@pytest.mark.parametrize("result_type", [kind for kind in AsyncResultType if kind != "SUCCESS"])
async def test_every_result_type(both: tuple[InProcess, InProcess], result_type: AsyncResultType):
    """What is not a success comes with its error, and without a payload."""
    cpo, emsp = both
    office = cpo.office()
    for name, (_, call) in OPERATIONS.items():
        if not call.asynchronous:
            continue
        shown = await ask(emsp, cpo, name)
        assert call.error is not None
        error = ERRORS[call.error.__name__]
        await cpo.engine.calls.conclude(office.taken[-1].id, result_type, error=error)
        after = await ended(emsp, shown["id"])
        (came,) = after["results"]
        assert (came["result_type"], came["error"], came["note"]) == (result_type, json.loads(error), None)
        assert "payload" not in came
        assert after["state"] == ("timed_out" if result_type == "TIMEOUT" else "failed")


@pytest.mark.requirement("R.04.01.07", "R.04.03.07")
async def test_answers_at_once(both: tuple[InProcess, InProcess]):
    """An immediate no ends an asynchronous call, another status code any; the words and codes arrive."""
    cpo, emsp = both
    office = cpo.office()

    async def reply(name: str, said: Reply | Exception) -> dict[str, Any]:
        async def script(_call: IncomingCall) -> Reply:
            if isinstance(said, Exception):
                raise said
            return said

        office.script = script
        shown = await ask(emsp, cpo, name)
        assert not shown["open"]
        return shown

    for how in (ImmediateResponseToAsyncRequest.REJECTED, ImmediateResponseToAsyncRequest.NOT_SUPPORTED):
        shown = await reply(UNLOCK, RefusedAtOnce(how))
        assert (shown["state"], shown["data"], shown["results"]) == ("refused", how, [])
    for said in (Declined(7123, "not today", {"a": 1}), CallFailed("not today", status_code=7123, data={"a": 1})):
        shown = await reply("cdrs/dispute", said)
        assert (shown["state"], shown["status_code"], shown["message"]) == ("refused", 7123, "not today")
        assert shown["data"] == {"a": 1}
        assert (await reply(UNLOCK, said))["status_code"] == 7123


@pytest.mark.requirement(
    "R.05.04.01", "R.05.04.02", "R.05.04.03", "R.05.04.04", "R.05.04.05", "R.05.04.06", "R.05.04.07"
)
async def test_a_reservation_is_taken_back(both: tuple[InProcess, InProcess]):
    """A second result under the same id, FAILED, with a text or without; a third one is refused here already."""
    cpo, emsp = both
    office = cpo.office()
    for words in ("a storm", None):
        shown = await ask(emsp, cpo, RESERVE)
        call_id = office.taken[-1].id
        await cpo.engine.calls.conclude(call_id, "SUCCESS")
        assert (await ended(emsp, shown["id"]))["state"] == "succeeded"
        with pytest.raises(NotAccepted):
            await cpo.engine.calls.conclude(call_id, "REJECTED", error=ERRORS["ReservationError"])
        await cpo.engine.calls.conclude(call_id, "FAILED", message=words)
        await cpo.engine.calls.conclude(call_id, "FAILED", message=words)  # again: one result
        await delivered(cpo, call_id, 2)
        after = await ended(emsp, shown["id"])
        assert after["state"] == "revoked"
        assert [result["meaning"] for result in after["results"]] == ["result", "revocation"]
        assert after["results"][1].get("payload") == words
        with pytest.raises(Refused):
            await cpo.engine.calls.conclude(call_id, "TIMEOUT")
    shown = await ask(emsp, cpo, UNLOCK)
    await cpo.engine.calls.conclude(office.taken[-1].id, "SUCCESS")
    with pytest.raises(Refused):  # an opened connector stays so
        await cpo.engine.calls.conclude(office.taken[-1].id, "FAILED")


async def test_a_back_office_that_answers_wrongly_is_told_so(both: tuple[InProcess, InProcess]):
    """By the local API, with the place of each fault; the partner hears nothing of it, and the right result counts."""
    cpo, emsp = both
    office = cpo.office()
    shown = await ask(emsp, cpo, UNLOCK)
    path = f"/calls/{office.taken[0].id}/result"
    for order, pointer in (
        ({"result_type": "REJECTED"}, "/error"),
        ({"result_type": "REJECTED", "error": {"status": "BUSY"}}, "/error/status"),
        ({"result_type": "SUCCESS", "payload": {}}, "/payload"),
        ({"result_type": "DONE"}, "/result_type"),
    ):
        answer = await cpo.asked("POST", path, order, status=422)
        assert [problem["pointer"] for problem in answer["error"]["problems"]] == [pointer]
    await cpo.asked("POST", "/calls/999/result", {"result_type": "SUCCESS"}, status=404)
    await cpo.asked("POST", f"/calls/{shown['id']}9/result", {"result_type": "SUCCESS"}, status=404)
    right = {"result_type": "REJECTED", "error": {"status": "EVSE_OCCUPIED"}, "message": "somebody charges"}
    concluded = await cpo.asked("POST", path, right)
    assert (concluded["state"], concluded["results"][0]["note"]) == ("failed", "somebody charges")
    assert (await cpo.asked("POST", path, right))["results"][0]["at"] == concluded["results"][0]["at"]
    await cpo.asked("POST", path, {"result_type": "SUCCESS"}, status=409)
    assert (await ended(emsp, shown["id"]))["state"] == "failed"
    assert len((await delivered(cpo, office.taken[0].id))["results"]) == 1
    await ask(emsp, cpo, "cdrs/dispute")
    await cpo.asked("POST", f"/calls/{office.taken[-1].id}/result", {"result_type": "SUCCESS"}, status=409)


async def test_a_back_office_that_says_nothing(tmp_path: Path):
    """A synchronous call is answered in time; an asynchronous one is accepted and handed over again, with one id."""
    async with pair(tmp_path, PEERS__REQUEST_TIMEOUT_MS="4000") as (cpo, emsp):
        office = cpo.office()
        dead = asyncio.Event()

        async def hang(_call: IncomingCall) -> Reply:
            await dead.wait()
            return Accepted()

        async def break_down(_call: IncomingCall) -> Reply:
            raise RuntimeError("out of order")

        async def talk_nonsense(_call: IncomingCall) -> Reply:
            return Answered(b'{"no":"answer"}') if office.taken[-1].asynchronous else Accepted()

        for number, script in enumerate((hang, break_down, talk_nonsense)):
            office.script = script
            shown = await ask(emsp, cpo, "sessions/change-charging-preferences")
            assert (shown["state"], shown["status_code"]) == ("refused", 3000), number
            shown = await ask(emsp, cpo, UNLOCK)
            assert (shown["state"], shown["data"]) == ("accepted", "ACCEPTED")
            stuck = (await cpo.state())["stuck"]
            assert [one for one in stuck if "for the systems of BEBEC" in one["what"] and one["next_attempt_at"]]
            before = len(office.taken)
            office.script = office.agree
            await office.took(before + 1)
            again = office.taken[-1]
            assert again.id in {call.id for call in office.taken[:before]}
            await cpo.engine.calls.conclude(again.id, "SUCCESS")
            assert (await ended(emsp, shown["id"]))["state"] == "succeeded"
        assert not (await cpo.state())["stuck"]


async def test_a_late_no_of_the_back_office_is_a_result(both: tuple[InProcess, InProcess]):
    """A call that was accepted for it because it was away, and that it then refuses, ends by a callback."""
    cpo, emsp = both
    office = cpo.office()
    said: list[Reply | None] = [None, RefusedAtOnce(ImmediateResponseToAsyncRequest.NOT_SUPPORTED)]

    async def script(_call: IncomingCall) -> Reply:
        reply = said.pop(0)
        if reply is None:
            raise ConnectionRefusedError
        return reply

    office.script = script
    shown = await ask(emsp, cpo, UNLOCK, wait_s=WAIT_S)
    assert (shown["state"], shown["results"][0]["result_type"]) == ("failed", "NOT_SUPPORTED")


@pytest.mark.requirement("R.04.01.07")
async def test_a_party_without_systems(both: tuple[InProcess, InProcess]):
    """NOT_SUPPORTED, or 2000 where there is no such word; nothing is kept of it, and a hub is nobody's receiver."""
    cpo, emsp = both
    assert (await ask(emsp, cpo, UNLOCK))["data"] == "NOT_SUPPORTED"
    assert (await ask(emsp, cpo, "cdrs/dispute"))["status_code"] == 2000
    assert (await cpo.asked("GET", "/calls"))["calls"] == []


async def test_deadlines_on_both_sides(tmp_path: Path):
    """Without a result the doer tells TIMEOUT, and what its device did after all is told as well and counts."""
    async with pair(tmp_path, CALLS__CONCLUDE_WITHIN_S="0.2") as (cpo, emsp):
        office = cpo.office()
        shown = await ask(emsp, cpo, UNLOCK, wait_s=WAIT_S)
        assert (shown["state"], shown["results"][0]["result_type"]) == ("timed_out", "TIMEOUT")
        await delivered(cpo, office.taken[0].id)
        await cpo.engine.calls.conclude(office.taken[0].id, "SUCCESS")
        await delivered(cpo, office.taken[0].id, 2)
        late = await ended(emsp, shown["id"])
        assert late["state"] == "succeeded"
        assert [result["meaning"] for result in late["results"]] == ["result", "late result"]


async def test_our_own_deadline(both: tuple[InProcess, InProcess]):
    """A partner that never calls back leaves a call timed out; what comes then is kept, and the call is as it says."""
    cpo, emsp = both
    office = cpo.office()
    shown = await ask(emsp, cpo, UNLOCK, wait_s=WAIT_S, result_within_s=0.2)
    assert (shown["state"], shown["results"]) == ("timed_out", [])
    await cpo.engine.calls.conclude(office.taken[0].id, "REJECTED", error=ERRORS["ChargingStationCommandError"])
    await delivered(cpo, office.taken[0].id)
    late = await ended(emsp, shown["id"])
    assert (late["state"], late["results"][0]["meaning"]) == ("failed", "late result")


async def test_results_wait_for_a_partner_that_is_away(both: tuple[InProcess, InProcess]):
    """They are owed across restarts of both sides, shown with since, why and when next, and delivered in order."""
    cpo, emsp = both
    office = cpo.office()
    shown = await ask(emsp, cpo, RESERVE)
    await emsp.stop()
    call_id = office.taken[0].id
    await cpo.engine.calls.conclude(call_id, "SUCCESS")
    await cpo.engine.calls.conclude(call_id, "FAILED", message="a storm")
    async with asyncio.timeout(WAIT_S):
        while not (stuck := [one for one in (await cpo.state())["stuck"] if "attempts" in one and one["attempts"] > 1]):
            await asyncio.sleep(0.02)
    (one,) = stuck
    assert f"SUCCESS of call {call_id}" in one["what"]
    assert one["since"] < one["next_attempt_at"]
    assert "refused" in one["why"]
    assert (await cpo.state())["calls"]["results_owed"] == 2
    await cpo.stop()
    await cpo.start()
    await emsp.start()
    await delivered(cpo, call_id, 2)
    after = await ended(emsp, shown["id"])
    assert [result["result_type"] for result in after["results"]] == ["SUCCESS", "FAILED"]
    assert after["state"] == "revoked"
    assert (await cpo.state())["calls"]["results_owed"] == 0


async def test_a_call_that_was_accepted_is_handed_over_after_a_restart(both: tuple[InProcess, InProcess]):
    """The back office was away when the process ended; in the next run it gets the call, under the same id."""
    cpo, emsp = both
    office = cpo.office()

    async def refuse(_call: IncomingCall) -> Reply:
        raise ConnectionRefusedError

    office.script = refuse
    shown = await ask(emsp, cpo, UNLOCK)
    await cpo.stop()
    await cpo.start()
    after = cpo.office()
    (taken,) = await after.took()
    assert taken == office.taken[0]
    await cpo.engine.calls.conclude(taken.id, "SUCCESS")
    assert (await ended(emsp, shown["id"]))["state"] == "succeeded"


async def test_a_partner_that_cannot_be_reached(both: tuple[InProcess, InProcess]):
    """A request that never left says so at once, and is not repeated."""
    cpo, emsp = both
    await cpo.stop()
    shown = await ask(emsp, cpo, UNLOCK)
    assert (shown["state"], shown["open"], "refused" in shown["message"]) == ("unreached", False, True)


async def test_what_is_not_asked_at_all(both: tuple[InProcess, InProcess]):
    """Unknown operations, parties and places, and parameters that break their table, are refused here."""
    _, emsp = both
    order: dict[str, Any] = {
        "sender": "NLEMS", "receiver": "BEBEC", "module": "locations", "operation": "unlock-connector",
        "payload": json.loads(parameters(UNLOCK)),
    }  # fmt: skip
    for changes, status in (
        ({"operation": "explode"}, 404),
        ({"module": "commands"}, 404),
        ({"receiver": "BEXXX"}, 404),
        ({"sender": "NLXXX"}, 404),
        ({"platform": "other.example.org"}, 404),
        ({"payload": {"location_id": 7}}, 422),
        ({"payload": []}, 422),
        ({"wait_s": 1000}, 422),
    ):
        answer = await emsp.asked("POST", "/calls", order | changes, status=status)
        assert answer["error"]["message"], changes
    problems = (await emsp.asked("POST", "/calls", order | {"payload": {}}, status=422))["error"]["problems"]
    assert [problem["pointer"] for problem in problems] == [f"/{field}" for field in order["payload"]]
    assert (await emsp.asked("GET", "/calls"))["calls"] == []
    with pytest.raises(NotFoundHere):
        await emsp.engine.calls.conclude(1, "SUCCESS")


async def test_a_bye_ends_calls_on_both_sides(both: tuple[InProcess, InProcess]):
    """Nothing is waited for or owed any more."""
    cpo, emsp = both
    office = cpo.office()
    asked = await ask(emsp, cpo, UNLOCK)
    await cpo.asked("POST", f"/platforms/{emsp.identity}/disconnect", {})
    for platform, call_id in ((emsp, asked["id"]), (cpo, office.taken[0].id)):
        shown = await platform.asked("GET", f"/calls/{call_id}")
        assert (shown["state"], shown["open"]) == ("ended", False)
    with pytest.raises(Refused):
        await cpo.engine.calls.conclude(office.taken[0].id, "SUCCESS")


async def test_calls_of_a_party_are_its_own(both: tuple[InProcess, InProcess]):
    """A token of one party asks as it, sees its calls and gives their results; another party's are not there."""
    cpo, emsp = both
    await cpo.asked("POST", "/parties", {"party_id": "BEABC", "roles": ["CPO"]}, status=201)
    cpo.office()
    await ask(emsp, cpo, UNLOCK)
    tokens = {
        party: (await cpo.asked("POST", "/tokens", {"name": party, "party": party}, status=201))["token"]
        for party in ("BEBEC", "BEABC")
    }
    seen: dict[str, list[int]] = {}
    for party, token in tokens.items():
        async with cpo.api() as api:
            api.headers["Authorization"] = f"Bearer {token}"
            listed = (await api.get("/api/v1/calls")).raise_for_status().json()["calls"]
            seen[party] = [call["id"] for call in listed]
            result = await api.post("/api/v1/calls/1/result", json={"result_type": "SUCCESS"})
            assert result.status_code == (200 if party == "BEBEC" else 404)
            assert (await api.get("/api/v1/calls/1")).status_code == (200 if party == "BEBEC" else 404)
            assert (await api.get("/api/v1/calls?party=BEBEC")).status_code == (200 if party == "BEBEC" else 403)
            order = {"sender": "BEBEC", "receiver": "NLEMS", "module": "cdrs", "operation": "dispute", "payload": {}}
            assert (await api.post("/api/v1/calls", json=order)).status_code == (422 if party == "BEBEC" else 403)
    assert seen == {"BEBEC": [1], "BEABC": []}


async def test_pages_of_calls(both: tuple[InProcess, InProcess]):
    """Newest first, open or ended, from either side, and no callback id is shown to anybody."""
    cpo, emsp = both
    cpo.office()
    first, second = [await ask(emsp, cpo, UNLOCK) for _ in range(2)]
    await ask(emsp, cpo, "cdrs/dispute")
    page = await emsp.asked("GET", "/calls?limit=2")
    assert ([call["id"] for call in page["calls"]], page["more"]) == ([3, 2], True)
    rest = await emsp.asked("GET", f"/calls?limit=2&before={page['calls'][-1]['id']}")
    assert ([call["id"] for call in rest["calls"]], rest["more"]) == ([first["id"]], False)
    waiting = await emsp.asked("GET", "/calls?open=true")
    assert [call["id"] for call in waiting["calls"]] == [second["id"], first["id"]]
    assert (await emsp.asked("GET", "/calls?asked_here=false"))["calls"] == []
    assert "callback" not in json.dumps(page)
    state = (await emsp.state())["calls"]
    assert (state["asked"]["open"], state["asked"]["by_state"], state["overdue"]) == (2, {"accepted": 2}, 0)


async def test_ended_calls_are_forgotten_in_time(tmp_path: Path):
    """After the days that are set, with their results; what is open stays."""
    async with pair(tmp_path) as (cpo, emsp):
        cpo.office()
        await ask(emsp, cpo, "cdrs/dispute")
        waiting = await ask(emsp, cpo, UNLOCK)
        await emsp.stop()
        await emsp.start(OCPI_ENGINE_CALLS__KEEP_DAYS="0.000001")
        async with asyncio.timeout(WAIT_S):
            while len((left := await emsp.asked("GET", "/calls"))["calls"]) > 1:
                await asyncio.sleep(0.02)
        assert [call["id"] for call in left["calls"]] == [waiting["id"]]


async def test_a_payload_keeps_its_bytes(both: tuple[InProcess, InProcess]):
    """Digits, order and unknown fields of parameters and results go through as they are (P6)."""
    cpo, emsp = both
    office = cpo.office()
    payload = b'{"x" : 0.12345678901234567890, "connector_id":"1","evse_uid":"E1", "location_id":"L1" , "y":[1E400]}'
    order = b'{"sender":"NLEMS","receiver":"BEBEC","module":"locations","operation":"unlock-connector","payload":%b}'
    async with emsp.api() as api:
        answer = await api.post("/api/v1/calls", content=order % payload)
        assert answer.status_code == 200, answer.text
    assert payload in answer.content
    assert office.taken[0].payload == payload
    error = b'{"status" : "DEVICE_OFFLINE","z":1.10}'
    async with cpo.api() as api:
        body = b'{"result_type":"REJECTED","error":%b}' % error
        assert (await api.post("/api/v1/calls/1/result", content=body)).status_code == 200
    await ended(emsp, 1)
    async with emsp.api() as api:
        assert error in (await api.get("/api/v1/calls/1")).content


async def test_too_many_open_calls(tmp_path: Path):
    """A platform that asks without end is answered with 429; with fewer open it goes on."""
    async with pair(tmp_path, CALLS__OPEN_MAX="2") as (cpo, emsp):
        office: ScriptedOffice = cpo.office()
        for _ in range(2):
            assert (await ask(emsp, cpo, UNLOCK))["state"] == "accepted"
        assert (await ask(emsp, cpo, UNLOCK))["http_status"] == 429
        assert len(office.taken) == 2
        await cpo.engine.calls.conclude(1, "SUCCESS")
        assert (await ask(emsp, cpo, UNLOCK))["state"] == "accepted"


async def test_a_result_that_breaks_its_table_is_a_result(both: tuple[InProcess, InProcess]):
    """Nothing that a partner did is lost because of how it says it; what is odd is shown beside it."""
    cpo, emsp = both
    office = cpo.office()
    shown = await ask(emsp, cpo, UNLOCK)
    async with cpo.engine.database.transaction() as tx:
        call = await calls.by_id(tx, office.taken[0].id, lock=True)
        assert call is not None
        body = b'{"result_type":"FAILED","error":{"status":"ON FIRE"}}'
        due = {"delivery": "owed", "due_at": 0.0, "body": body}
        await calls.add_result(tx, call, at=call.asked_at, meaning="result", result_type="FAILED", **due)
        await calls.change(tx, call.id, state=CallState.FAILED)
    cpo.engine.callbacks.wake(call.platform_id)
    after = await ended(emsp, shown["id"])
    assert (after["state"], "ON FIRE" in after["results"][0]["note"]) == ("failed", True)
