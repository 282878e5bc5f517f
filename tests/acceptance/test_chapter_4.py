"""Chapter 4, calls: a real engine with a back office in it, and scripted partners on the other side."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, cast

import aiohttp
import httpx
import pytest
import pytest_asyncio

from tests.support.backing import Backing
from tests.support.office import OfficePlatform
from tests.support.offices import ERRORS, OPERATIONS, parameters, result_of
from tests.support.peer import (
    BREAK,
    HALF,
    HTML,
    SILENCE,
    Answer,
    Heard,
    Peer,
    Reply,
    World,
    accept,
    always,
    in_turn,
    raw,
    refuse,
    world,
)
from tests.support.replicas import start_to_die

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapter 4")]

QUICK: Final = {
    "OCPI_ENGINE_CALLS__CALLBACK_AGAIN_S": "0.1",
    "OCPI_ENGINE_CALLS__CALLBACK_AGAIN_MAX_S": "0.2",
    "OCPI_ENGINE_CALLS__HAND_OVER_AGAIN_S": "0.1",
}
UNLOCK: Final = json.loads(parameters("locations/unlock-connector"))
SUCCESS: Final = {"result_type": "SUCCESS"}
WITHIN_S: Final = 30.0
ASKER: Final = ("call.asking", "call.asked", "call.answered", "result.received", "result.stored")
DOER: Final = (
    *("call.received", "call.kept", "call.handed_over", "call.answering", "call.concluded"),
    *("callback.sending", "callback.answered"),
)
UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
MB: Final = 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One engine for all tests here; each brings its own partner and its own party."""
    async with world(tmp_path_factory.mktemp("calls"), QUICK, backing=backing, kind=OfficePlatform) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def peer(one: World) -> AsyncIterator[Peer]:
    """Register a partner with a party."""
    yield await one.new_peer()
    await one.stop_peers()


@pytest_asyncio.fixture(loop_scope="module")
async def ours(one: World) -> str:
    """Host a party."""
    return await one.new_party("CPO", "EMSP")


def office(one: World) -> OfficePlatform:
    """Return the engine as what it is."""
    return cast("OfficePlatform", one.engine)


async def ask(one: World, ours: str, peer: Peer, name: str = "locations/unlock-connector", **more: Any) -> Any:
    """Have a party of the engine ask the partner's party."""
    module, operation = name.split("/")
    order = {
        "sender": ours,
        "receiver": peer.party,
        "module": module,
        "operation": operation,
        "payload": json.loads(parameters(name)),
    }
    return await one.api("POST", "/calls", order | more)


async def shown(one: World, call_id: int, **expected: Any) -> Any:
    """Show a call once it is as expected."""
    found: Any = None
    async with asyncio.timeout(WITHIN_S):
        while (found := await one.api("GET", f"/calls/{call_id}")) | expected != found:
            await asyncio.sleep(0.02)
    return found


async def give(peer: Peer, ours: str, callback_id: str, body: Any, *, sender: str | None = None) -> Answer:
    """Send a result to a party of the engine."""
    return await peer.ask("POST", f"/from/{sender or peer.party}/to/{ours}/async-responses/{callback_id}", body)


async def security_events(one: World, peer: Peer) -> dict[str, int]:
    """Count what was recorded of a partner."""
    platforms = (await one.engine.state())["platforms"]
    (found,) = [platform for platform in platforms if platform["identity"] == peer.identity]
    return {action: event["count"] for action, event in found["security_events"].items()}


# -- the engine asks ----------------------------------------------------------------------------------------


@pytest.mark.requirement(
    *(f"R.04.01.{number:02}" for number in (1, 2, 4, 5)),
    *(f"R.04.03.{number:02}" for number in (1, 2, 3, 4, 6)),
    *("R.05.02.01", "R.05.02.02", "R.05.02.03", "R.05.03.01", "R.05.03.02", "R.05.03.03"),
    *("R.05.06.01", "R.05.06.02", "R.05.06.03", "R.05.07.01", "R.05.07.02", "R.05.07.03"),
    *("R.07.02.01", "R.07.02.02", "R.07.02.03", "R.07.03.01", "R.07.03.02", "R.07.03.03"),
    *("R.07.04.01", "R.07.04.02", "R.07.04.03", "R.07.04.04", "R.07.05.01", "R.07.05.02", "R.07.05.03", "R.07.05.04"),
    *("R.07.06.01", "R.07.06.02", "R.07.06.03", "R.07.06.04", "R.07.07.01", "R.07.07.02", "R.07.07.03"),
    *("R.08.03.01", "R.08.03.02", "R.08.03.03", "R.08.03.04", "R.11.02.01", "R.11.02.02", "R.11.02.03", "R.11.02.04"),
    *(f"R.13.{use_case:02}.{number:02}" for use_case in range(2, 7) for number in (1, 2, 3)),
)
async def test_each_request_is_the_draft_s(one: World, ours: str, peer: Peer):
    """POST to the module and the operation, with the parameters as the body or beside a callback id."""
    for name, (_, call) in OPERATIONS.items():
        module, operation = name.split("/")
        at_once = result_of(name)
        peer.script[operation] = always(accept("ACCEPTED" if call.asynchronous else at_once and json.loads(at_once)))
        made = await ask(one, ours, peer, name)
        (heard,) = peer.of(operation, module=module)
        assert (heard.method, heard.path) == ("POST", f"/from/{ours}/to/{peer.party}/{name}")
        assert (heard.headers["Ocpi-Request-Id"], heard.headers["Ocpi-Correlation-Id"]) == (
            made["request_id"], made["correlation_id"],
        )  # fmt: skip
        assert heard.common_name == one.engine.identity
        sent = heard.json
        if call.asynchronous:
            assert sent.keys() == {"callback_id", "payload"}
            assert made["state"] == "accepted"
            sent = sent["payload"]
        else:
            assert made["state"] == "succeeded"
            assert made.get("data") == (None if at_once is None else json.loads(at_once))
        assert sent == json.loads(parameters(name))


@pytest.mark.requirement("R.04.03.05")
async def test_callback_ids_are_new_and_nobody_guesses_them(one: World, ours: str, peer: Peer):
    """Each call has another one of 128 bits in unreserved characters; a start names the place of its result."""
    peer.script["unlock-connector"] = peer.script["start"] = always(accept("ACCEPTED"))
    for _ in range(10):
        await ask(one, ours, peer)
    ids = [heard.json["callback_id"] for heard in peer.of("unlock-connector")]
    assert len(set(ids)) == 10
    for callback_id in ids:
        assert 22 <= len(callback_id) <= 36
        assert set(callback_id) <= UNRESERVED
    start = json.loads(parameters("sessions/start"))
    del start["response_url"]
    await ask(one, ours, peer, "sessions/start", payload=start)
    sent = peer.of("start")[0].json
    place = f"/from/{peer.party}/to/{ours}/async-responses/{sent['callback_id']}"
    assert sent["payload"]["response_url"] == one.engine.base_url + place


@pytest.mark.requirement("R.04.03.14")
@pytest.mark.parametrize(
    ("result", "state"),
    [
        (SUCCESS, "succeeded"),
        ({"result_type": "REJECTED", "error": {"status": "EVSE_OCCUPIED"}}, "failed"),
        ({"result_type": "FAILED"}, "failed"),
        ({"result_type": "NOT_SUPPORTED"}, "failed"),
        ({"result_type": "TIMEOUT"}, "timed_out"),
    ],
)
async def test_results_are_taken_once(one: World, ours: str, peer: Peer, result: Mapping[str, Any], state: str):
    """Success without data; the same bytes again change nothing, another result is kept and contradicts."""
    peer.script["unlock-connector"] = always(accept("ACCEPTED"))
    made = await ask(one, ours, peer)
    callback_id = peer.of("unlock-connector")[0].json["callback_id"]
    for _ in range(3):
        answer = await give(peer, ours, callback_id, result)
        assert (answer.status, answer.code, {"data", "payload"} & answer.json.keys()) == (200, 1000, set())
    after = await one.api("GET", f"/calls/{made['id']}")
    assert (after["state"], after["open"], len(after["results"])) == (state, False, 1)
    other = {"result_type": "NOT_SUPPORTED"} if result == SUCCESS else SUCCESS
    assert (await give(peer, ours, callback_id, other)).code == 1000
    after = await one.api("GET", f"/calls/{made['id']}")
    late = state == "timed_out"
    assert after["results"][1]["meaning"] == ("late result" if late else "contradiction")
    assert after["state"] == ("succeeded" if late else state)


async def test_a_result_may_overtake_the_answer(one: World, ours: str, peer: Peer):
    """It counts, and the answer that comes after it changes nothing."""
    answered = asyncio.Event()
    peer.script["unlock-connector"] = always(accept("ACCEPTED", after=answered))
    asking = asyncio.create_task(ask(one, ours, peer))
    (heard,) = await peer.heard("unlock-connector")
    assert (await give(peer, ours, heard.json["callback_id"], SUCCESS)).code == 1000
    answered.set()
    made = await asking
    assert (made["state"], made["data"]) == ("succeeded", "ACCEPTED")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (accept("REJECTED"), ("refused", 1000)),
        (accept("NOT_SUPPORTED"), ("refused", 1000)),
        (accept(), ("accepted", 1000)),
        (raw('{"status_code":1000,"timestamp":"2026-01-01T00:00:00Z","payload":"ACCEPTED"}'), ("accepted", 1000)),
        (refuse(2001), ("refused", 2001)),
        (refuse(4001), ("refused", 4001)),
        (refuse(4002), ("unanswered", 4002)),
        (refuse(3000, status=500), ("refused", 3000)),
        (refuse(2000, status=404), ("refused", 2000)),
        (raw("not here", status=404), ("refused", None)),
        (HTML, ("unanswered", None)),
        (raw("", status=502), ("unanswered", None)),
        (BREAK, ("unanswered", None)),
        (HALF, ("unanswered", None)),
        (SILENCE, ("unanswered", None)),
    ],
)
async def test_answers_of_every_kind(one: World, ours: str, peer: Peer, reply: Reply, expected: tuple[str, int | None]):
    """What says no ends a call; what says nothing leaves it open for its result, and nothing is asked twice."""
    peer.script["unlock-connector"] = always(reply)
    made = await ask(one, ours, peer)
    state = expected[0]
    assert (made["state"], made["status_code"]) == expected
    assert made["open"] is (state != "refused")
    (heard,) = peer.of("unlock-connector")
    assert (await give(peer, ours, heard.json["callback_id"], SUCCESS)).code == 1000
    after = await one.api("GET", f"/calls/{made['id']}")
    assert after["state"] == ("refused" if state == "refused" else "succeeded")
    assert after["results"][0]["meaning"] == ("contradiction" if state == "refused" else "result")
    assert len(peer.of("unlock-connector")) == 1


async def test_results_that_are_refused(one: World, ours: str, peer: Peer):
    """An unknown id, another platform, another party, no JSON, no result: refused, recorded, and the call goes on."""
    peer.script["unlock-connector"] = always(accept("ACCEPTED"))
    made = await ask(one, ours, peer)
    callback_id = peer.of("unlock-connector")[0].json["callback_id"]
    stranger = await one.new_peer()
    other = await one.new_party("EMSP")
    for unknown in ("nobody-waits", callback_id[:-1], callback_id + "x", "%2e%2e"):
        answer = await give(peer, ours, unknown, SUCCESS)
        assert (answer.status, answer.code) == (404, 2000)
    assert await security_events(one, peer) == {}
    answer = await give(stranger, ours, callback_id, SUCCESS)
    assert (answer.status, answer.code) == (200, 2000)
    assert await security_events(one, stranger) == {"callback_refused": 1}
    answer = await give(peer, other, callback_id, SUCCESS)
    assert (answer.status, answer.code) == (200, 2000)
    assert await security_events(one, peer) == {"callback_refused": 1}
    answer = await give(peer, ours, callback_id, SUCCESS, sender=stranger.party)
    assert (answer.status, answer.code) == (200, 2000)
    assert await security_events(one, peer) == {"callback_refused": 1, "sender_refused": 1}
    assert (await give(peer, "BEZZ9", callback_id, SUCCESS)).code == 4001
    for body, status, code in (
        (b"{", 400, 2001),
        (b"[]", 400, 2001),
        ({}, 200, 2001),
        ({"result_type": "X"}, 200, 2001),
    ):
        answer = await give(peer, ours, callback_id, body)
        assert (answer.status, answer.code) == (status, code)
    assert [one["field"] for one in answer.data] == ["/result_type"]
    assert (await peer.ask("GET", f"/from/{peer.party}/to/{ours}/async-responses/{callback_id}")).status == 405
    still = await one.api("GET", f"/calls/{made['id']}")
    assert (still["state"], still["results"]) == ("accepted", [])
    assert (await give(peer, ours, callback_id, SUCCESS)).code == 1000


async def test_who_may_give_a_result(one: World, ours: str):
    """The party that was asked, its platform's hub party, and the party that a hub found (B15); no other."""
    peer = await one.new_peer("NLAAX", "NLBBX", "NLCCX", hub="NLHHX")
    peer.script["unlock-connector"] = always(raw(
        b'{"status_code":1000,"timestamp":"2026-01-01T00:00:00Z","data":"ACCEPTED","routed_receiver":"NLBBX"}'
    ))  # fmt: skip
    for sender, code in (("NLAAX", 1000), ("NLBBX", 1000), ("NLHHX", 1000), ("NLCCX", 2000)):
        made = await ask(one, ours, peer)
        callback_id = peer.of("unlock-connector")[-1].json["callback_id"]
        assert made["routed_receiver"] == "NLBBX"
        assert (await give(peer, ours, callback_id, SUCCESS, sender=sender)).code == code
    await one.stop_peers()


async def test_a_result_of_100_mb(one: World, ours: str, peer: Peer):
    """Refused by its size without being read, and the same call takes a result of a usual one."""
    peer.script["unlock-connector"] = always(accept("ACCEPTED"))
    made = await ask(one, ours, peer)
    callback_id = peer.of("unlock-connector")[0].json["callback_id"]
    huge = b'{"result_type":"SUCCESS","payload":"%b"}' % (b"x" * (100 * MB))
    with contextlib.suppress(OSError):  # it is hung up on in the middle of writing, perhaps
        assert (await give(peer, ours, callback_id, huge)).status == 413
    assert (await one.api("GET", f"/calls/{made['id']}"))["state"] == "accepted"
    assert (await give(peer, ours, callback_id, SUCCESS)).code == 1000


async def test_results_without_end(one: World, ours: str, peer: Peer):
    """Of one call a number of them is kept; one more is refused, and nothing is lost by it."""
    peer.script["unlock-connector"] = always(accept("ACCEPTED"))
    made = await ask(one, ours, peer)
    callback_id = peer.of("unlock-connector")[0].json["callback_id"]
    codes = [(await give(peer, ours, callback_id, SUCCESS | {"n": number})).code for number in range(25)]
    assert codes == [1000] * 20 + [2000] * 5
    assert (await one.api("GET", f"/calls/{made['id']}"))["state"] == "succeeded"


# -- a partner asks -----------------------------------------------------------------------------------------


async def request(peer: Peer, ours: str, name: str, body: Any, **headers: str) -> Answer:
    """Ask a party of the engine."""
    return await peer.ask("POST", f"/from/{peer.party}/to/{ours}/{name}", body, headers=headers)


def body_of(name: str, callback_id: str) -> Any:
    """Make the body of a request."""
    payload = json.loads(parameters(name))
    return {"callback_id": callback_id, "payload": payload} if OPERATIONS[name][1].asynchronous else payload


async def callbacks(peer: Peer, callback_id: str, count: int = 1) -> list[Heard]:
    """Wait until a result came so many times."""
    await peer.until(lambda: len(peer.of(callback_id, module="async-responses")) >= count)
    return peer.of(callback_id, module="async-responses")


@pytest.mark.requirement(
    "R.04.01.06", "R.04.03.07", "R.04.03.08", "R.04.03.09", "R.04.03.10", "R.04.03.11", "R.04.03.12",
    "R.07.04.05", "R.07.05.05", "R.07.06.05", "R.08.03.05",
    # SUCCESS, with nothing beside it but the result that the operation has.
    "R.05.02.09", "R.05.03.06", "R.05.06.05", "R.05.07.05", "R.07.02.05", "R.07.03.05", "R.07.07.04",
    "R.13.02.07", "R.13.03.06", "R.13.04.06", "R.13.05.05", "R.13.06.05",
)  # fmt: skip
async def test_each_operation_is_served(one: World, ours: str, peer: Peer):
    """Its answer at once, or ACCEPTED and the result as a request of its own, with the same correlation id."""
    for name, (module, call) in OPERATIONS.items():
        if name == "tokens/authorize":
            continue
        answer = await request(
            peer, ours, name, body_of(name, f"call-{call.use_case}"), **{"Ocpi-Correlation-Id": name}
        )
        assert (answer.status, answer.code) == (200, 1000), answer.body
        result = result_of(name)
        if not call.asynchronous:
            assert answer.json.get("data") == (None if result is None else json.loads(result))
            continue
        assert answer.data == "ACCEPTED"
        (heard,) = await callbacks(peer, f"call-{call.use_case}")
        assert (heard.method, heard.path) == (
            "POST", f"/from/{ours}/to/{peer.party}/async-responses/call-{call.use_case}",
        )  # fmt: skip
        assert heard.json == SUCCESS | ({} if result is None else {"payload": json.loads(result)})
        assert heard.headers["Ocpi-Correlation-Id"] == name
        for alias in module.aliases:
            again = body_of(name, f"again-{call.use_case}")
            assert (await request(peer, ours, f"{alias}/{call.operation}", again)).data == "ACCEPTED"


@pytest.mark.requirement(
    "R.04.03.13", "R.05.02.08", "R.05.03.05", "R.05.06.04", "R.05.07.04", "R.07.02.04", "R.07.03.04",
    *(f"R.13.{use_case:02}.04" for use_case in range(2, 7)),
)  # fmt: skip
async def test_what_the_back_office_refuses(one: World, ours: str, peer: Peer):
    """ACCEPTED at once, then REJECTED with an error of the operation's table and without a payload (B32)."""
    for name, (_, call) in OPERATIONS.items():
        if not call.asynchronous:
            continue
        body = body_of(name, f"no-{call.use_case}")
        body["payload"]["why"] = "NO"
        assert (await request(peer, ours, name, body)).data == "ACCEPTED"
        (heard,) = await callbacks(peer, f"no-{call.use_case}")
        assert call.error is not None
        assert heard.json == {"result_type": "REJECTED", "error": json.loads(ERRORS[call.error.__name__])}


@pytest.mark.requirement("R.02.02.05", "R.02.02.06", "R.02.02.07", "R.04.01.07")
async def test_requests_that_are_refused(one: World, ours: str, peer: Peer):
    """Wrong shapes with their places, no JSON, unknown operations, wrong verbs and parties: nothing is handed over."""
    before = office(one).taken()
    name = "locations/unlock-connector"
    answer = await request(peer, ours, name, {"callback_id": "", "payload": {"location_id": 7, "evse_uid": "E"}})
    assert (answer.status, answer.code) == (200, 2001)
    assert [one["field"] for one in answer.data] == ["/callback_id", "/payload/location_id", "/payload/connector_id"]
    answer = await request(peer, ours, "cdrs/dispute", {})
    assert (answer.status, answer.code) == (200, 2001)
    assert answer.data
    for body in (b"", b"{", b"[]", b'"x"', b"\xff"):
        answer = await request(peer, ours, name, body)
        assert (answer.status, answer.code) == (400, 2001)
    twice = b'{"callback_id":"a","callback_id":"b","payload":{}}'
    assert (await request(peer, ours, name, twice)).code == 2001
    for path in ("locations/explode", "locations/start", "nonsense/unlock-connector", "commands/start", f"{name}/more"):
        answer = await request(peer, ours, path, body_of(name, "c"))
        assert (answer.status, answer.code) == (404, 2000), path
    path = f"/from/{peer.party}/to/{ours}/{name}"
    assert (await peer.ask("GET", path)).status == 405
    answer = await peer.ask("PUT", path, body_of(name, "c"))
    assert (answer.status, answer.code) == (200, 2000)
    assert (await request(peer, "BEZZ9", name, body_of(name, "c"))).code == 4001
    answer = await peer.ask("POST", f"/from/NLZZ9/to/{ours}/{name}", body_of(name, "c"))
    assert (answer.status, answer.code) == (200, 2000)
    assert (await security_events(one, peer))["sender_refused"] == 1
    assert office(one).taken() == before


async def test_a_repeated_request_has_one_effect(one: World, ours: str, peer: Peer):
    """The same bytes under the same request id, or the same callback id, get the very same answer; others do not."""
    before = len(office(one).taken())
    name = "locations/unlock-connector"
    body = json.dumps(body_of(name, "once")).encode()
    ids = {"Ocpi-Request-Id": "one request"}
    both = await asyncio.gather(*(request(peer, ours, name, body, **ids) for _ in range(2)))
    answers = [*both, await request(peer, ours, name, body, **ids), await request(peer, ours, name, body)]
    assert {answer.body for answer in answers} == {answers[0].body}
    assert len(office(one).taken()) == before + 1
    assert len(await callbacks(peer, "once")) == 1
    other = await request(peer, ours, name, body.replace(b"once", b"once ").replace(b"once ", b"once") + b" ", **ids)
    assert (other.code, other.data[0]["field"]) == (2001, "/callback_id")
    assert (await request(peer, ours, name, body_of(name, "twice"), **ids)).data == "ACCEPTED"
    dispute = json.dumps(body_of("cdrs/dispute", "")).encode()
    answers = [await request(peer, ours, "cdrs/dispute", dispute, **ids) for _ in range(2)]
    assert answers[0].body == answers[1].body
    assert len(office(one).taken()) == before + 3
    await request(peer, ours, "cdrs/dispute", dispute)  # its own request id: asked again
    assert len(office(one).taken()) == before + 4


@pytest.mark.parametrize("first", [BREAK, HALF, SILENCE, HTML, refuse(3000), refuse(2000), raw("", status=502)])
async def test_a_result_is_delivered_until_it_is_taken(one: World, ours: str, peer: Peer, first: Reply):
    """Whatever is not 1000 is tried again, with the same bytes, and after 1000 no more (B34)."""
    peer.script["again"] = in_turn(first, accept())
    await request(peer, ours, "locations/unlock-connector", body_of("locations/unlock-connector", "again"))
    one_, two = await callbacks(peer, "again", 2)
    assert one_.body == two.body
    listed = (await one.api("GET", f"/calls?party={ours}"))["calls"]
    after = await shown(one, listed[0]["id"])
    async with asyncio.timeout(WITHIN_S):
        while (result := (await shown(one, after["id"]))["results"][0])["delivery"] != "delivered":
            await asyncio.sleep(0.02)
    assert result["attempts"] == 2
    assert len(peer.of("again", module="async-responses")) == 2


async def test_a_404_ends_a_result(one: World, ours: str, peer: Peer):
    """The partner knows no such call: it is said so, and not tried again."""
    peer.script["gone"] = always(refuse(2000, status=404))
    await request(peer, ours, "locations/unlock-connector", body_of("locations/unlock-connector", "gone"))
    await callbacks(peer, "gone")
    call_id = (await one.api("GET", f"/calls?party={ours}"))["calls"][0]["id"]
    async with asyncio.timeout(WITHIN_S):
        while (result := (await shown(one, call_id))["results"][0])["delivery"] == "owed":
            await asyncio.sleep(0.02)
    assert (result["delivery"], result["attempts"], result["due_at"]) == ("unknown there", 1, None)


async def test_a_response_url_is_never_followed(one: World, ours: str, peer: Peer):
    """The result goes by the callback id to the partner's base URL, wherever the parameters point to (W7)."""
    stranger = await one.new_peer()
    body = body_of("sessions/start", "by-id")
    body["payload"]["response_url"] = f"{stranger.base_url}/elsewhere"
    assert (await request(peer, ours, "sessions/start", body)).data == "ACCEPTED"
    await callbacks(peer, "by-id")
    assert not [heard for heard in stranger.requests if "elsewhere" in heard.path]


async def test_a_silent_partner_delays_no_other(one: World, ours: str, peer: Peer):
    """Results for a partner that answers arrive while those for a silent one wait (P5)."""
    silent = await one.new_peer()
    name = "locations/unlock-connector"
    for number in range(20):
        silent.script[f"s{number}"] = always(SILENCE)
        await request(silent, ours, name, body_of(name, f"s{number}"))
    for number in range(20):
        await request(peer, ours, name, body_of(name, f"p{number}"))
        await callbacks(peer, f"p{number}")
    assert [one for one in (await one.engine.state())["stuck"] if silent.identity in one["what"]]


def token(uid: str, **more: Any) -> bytes:
    """Make a Token."""
    fields = {
        "uid": uid,
        "type": "RFID",
        "contract_id": "BEEMP0123456789",
        "issuer": "Stroom",
        "valid_from": "2020-01-01T00:00:00Z",
        "whitelist": "NEVER",
        "last_updated": "2020-01-01T00:00:00Z",
    }
    return json.dumps(fields | more).encode()


@pytest.mark.requirement("R.11.02.05", "R.11.02.06", "R.11.02.07", "R.11.02.08")
async def test_authorize_is_answered_from_the_tokens_issued_here(one: World, ours: str, peer: Peer):
    """Known, expired, not valid yet, of another type or party, for others only; changed ones as they are now."""

    async def authorize(uid: str, *, party: str = ours, **more: Any) -> tuple[int, str | None]:
        wanted = {"token_uid": uid, "presentation_timestamp": "2026-01-01T00:00:00Z", "location_id": "NOWHERE"}
        answer = await request(peer, party, "tokens/authorize", wanted | more)
        assert answer.status == 200
        return answer.code, answer.data["allowed"] if answer.code == 1000 else None

    assert await authorize("CARD1") == (7001, None)
    await one.publish(
        ours,
        "tokens",
        {
            "T1": token("CARD1"),
            "T2": token("CARD2", valid_until="2021-01-01T00:00:00Z"),
            "T3": token("CARD3", valid_from="2100-01-01T00:00:00Z"),
            "T4": token("APP", type="APP_USER"),
            "T5": token("CARD2X", valid_until="2021-01-01T00:00:00Z"),
            "T6": token("CARD2X", whitelist="ALWAYS"),
        },
    )
    await one.publish(ours, "tokens", {"T7": token("SECRET")}, audience=["NLZZ9"])
    assert await authorize("CARD1") == (1000, "ALLOWED")
    assert await authorize("card1", type="RFID", evse_uids=["E1"]) == (1000, "ALLOWED")
    assert await authorize("CARD2") == (1000, "EXPIRED")
    assert await authorize("CARD3") == (1000, "NOT_ALLOWED")
    assert await authorize("APP") == (7001, None)
    assert await authorize("APP", type="APP_USER") == (1000, "ALLOWED")
    assert await authorize("CARD2X") == (1000, "ALLOWED")
    assert await authorize("SECRET") == (7001, None)
    other = await one.new_party("EMSP")
    assert await authorize("CARD1", party=other) == (7001, None)
    await one.publish(ours, "tokens", {"T1": token("CARD1", valid_until="2021-01-01T00:00:00Z"), "T3": token("CARD9")})
    assert await authorize("CARD1") == (1000, "EXPIRED")
    assert await authorize("CARD3") == (7001, None)
    assert await authorize("CARD9") == (1000, "ALLOWED")


# -- crashes ------------------------------------------------------------------------------------------------


async def up(one: World) -> None:
    """Wait for the engine's end, which a fault makes certain, and start it anew."""
    await one.engine.ended()
    await one.engine.start()


async def until_up(one: World, act: Callable[[], Awaitable[Answer]]) -> Answer:
    """Do something; if the engine dies of it, start it anew and do it again."""
    try:
        return await act()
    except (OSError, aiohttp.ClientError):
        await up(one)
        return await act()


@pytest.mark.parametrize("point", DOER)
async def test_the_doer_is_killed(tmp_path_factory: pytest.TempPathFactory, point: str):
    """Between request, answer, result and callback: the call is carried out as one, and its result arrives."""
    settings = QUICK | {"OCPI_ENGINE_PEERS__REQUEST_TIMEOUT_MS": "1000"}
    async with world(tmp_path_factory.mktemp("doer"), settings, kind=OfficePlatform) as one:
        peer = await one.new_peer()
        await one.engine.stop()
        await start_to_die(one.engine, point, 1)
        body = json.dumps(body_of("locations/unlock-connector", "once")).encode()
        ids = {"Ocpi-Request-Id": "one request"}

        async def ask_it() -> Answer:
            return await request(peer, "BEBEC", "locations/unlock-connector", body, **ids)

        answer = await until_up(one, ask_it)
        assert (answer.code, answer.data) == (1000, "ACCEPTED")
        if point in ("call.concluded", "callback.sending", "callback.answered"):
            await up(one)
        assert (await ask_it()).body == answer.body
        await callbacks(peer, "once")
        heard = peer.of("once", module="async-responses")
        assert {one.body for one in heard} == {b'{"result_type":"SUCCESS"}'}
        (call,) = (await one.api("GET", "/calls"))["calls"]
        await shown(one, call["id"], state="succeeded")
        assert set(office(one).taken()) == {call["id"]}


@pytest.mark.parametrize("point", ASKER)
async def test_the_asker_is_killed(tmp_path_factory: pytest.TempPathFactory, point: str):
    """Whatever it still knows, a request is not made twice, and a result that the partner delivers is taken once."""
    async with world(tmp_path_factory.mktemp("asker"), QUICK) as one:
        peer = await one.new_peer()
        peer.script["unlock-connector"] = always(accept("ACCEPTED"))
        await one.engine.stop()
        await start_to_die(one.engine, point, 1)
        try:
            await ask(one, "BEBEC", peer, result_within_s=5.0)
        except httpx.HTTPError:
            assert point.startswith("call.")
            await one.engine.ended()
            await one.engine.start()
        asked = peer.of("unlock-connector")
        if point in ("call.asking", "call.asked"):
            assert asked == []
            calls = (await one.api("GET", "/calls"))["calls"]
            assert [call["state"] for call in calls] == ([] if point == "call.asking" else ["asked"])
            for call in calls:
                await shown(one, call["id"], state="timed_out")
            return
        (heard,) = asked

        async def give_it() -> Answer:
            return await give(peer, "BEBEC", heard.json["callback_id"], SUCCESS)

        assert (await until_up(one, give_it)).code == 1000
        assert (await give_it()).code == 1000
        (call,) = (await one.api("GET", "/calls"))["calls"]
        assert (call["state"], len(call["results"])) == ("succeeded", 1)
        assert len(peer.of("unlock-connector")) == 1
