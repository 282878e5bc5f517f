"""Chapter 2, parties and addressing: a real engine, and scripted partners that ask it what they like."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psutil  # type: ignore[import-untyped]  # has no types of its own
import pytest
import pytest_asyncio

from tests.support.backing import Backing
from tests.support.peer import SUBSCRIBE, Answer, Peer, World, update_body, world
from tests.support.wires import TURNED_AWAY, check_log, dial, head, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapter 2")]

MODULE = "evsestatuses"
AVAILABLE, CHARGING = b'{"status":"AVAILABLE"}', b'{"status":"CHARGING"}'
WHOLE = {"retry_interval": 1, "max_queue_size": 10}
ABOUT_SUBSCRIPTIONS = (
    ("GET", "state"),
    ("POST", "cancel-my-subscription"),
    ("POST", "cancel-your-subscription"),
    ("POST", "renegotiate-my-subscription"),
    ("POST", "renegotiate-your-subscription"),
    ("POST", "request-immediate-retries"),
    ("POST", "request-full-update"),
)
DRAFT_CODES = {1000, 2000, 2001, 3000, 4000, 4001, 4002, 4003, 5000, 5001, 5002, 5003, 5004, 5005, 5006} | {
    6000, 6001, 6002, 6003, 7000, 7001
}  # fmt: skip
PATIENCE_S = 1.0  # how long the engine waits here for a head, and for a body
HUNDRED_MB = 100 * 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One impatient engine for all tests here; in its log there is a line for each request."""
    settings = {
        "OCPI_ENGINE_LOGS__LEVEL": "debug",
        "OCPI_ENGINE_LISTENER__HEAD_TIMEOUT_S": str(PATIENCE_S),
        "OCPI_ENGINE_LISTENER__BODY_TIMEOUT_S": str(PATIENCE_S),
    }
    async with world(tmp_path_factory.mktemp("addressing"), settings, backing=backing) as made:
        yield made
        check_log(made.engine)


@pytest_asyncio.fixture(loop_scope="module")
async def peer(one: World) -> AsyncIterator[Peer]:
    """Register a partner with one party."""
    yield await one.new_peer()
    await one.stop_peers()


@pytest_asyncio.fixture(loop_scope="module")
async def cpo(one: World) -> str:
    """Host a party that sends."""
    return await one.new_party("CPO")


@pytest_asyncio.fixture(loop_scope="module")
async def emsp(one: World) -> str:
    """Host a party that receives."""
    return await one.new_party("EMSP")


async def have_subscribed(one: World, emsp: str, peer: Peer) -> None:
    """Have the engine subscribe its party to the partner's."""
    await one.api("POST", "/subscriptions", {"subscriber": emsp, "producer": peer.party, "module": MODULE})


def codes(answer: Answer) -> tuple[int, int]:
    """Read HTTP status and status code of what must be an OcpiResponse with one of the draft's codes."""
    read = answer.json
    assert isinstance(read["timestamp"], str), read
    assert read["status_code"] in DRAFT_CODES
    assert answer.headers["Content-Type"] == "application/json"
    assert b"Traceback" not in answer.body
    return answer.status, read["status_code"]


# -- 02.01 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.02.01.02", "R.02.01.04")
async def test_our_parties_are_told(one: World, peer: Peer):
    """GET /parties is a bare PlatformParties; who is added or removed here shows at once, and there is no hub party."""
    async with one.engine.api() as api:
        before = {party["party_id"] for party in (await api.get("/api/v1/parties")).json()}
    words = ("--role", "CPO", "--role", "tariffs:RECEIVER", "--name", "Zap & Söhne", "--website", "https://zap.example")
    await one.engine.command("parties add", "BEZAP", *words)
    answer = await peer.ask("GET", "/parties")
    assert answer.status == 200
    assert set(answer.json) == {"parties"}
    told = {party["party_id"]: party for party in answer.json["parties"]}
    assert told.keys() == before | {"BEZAP"}
    assert told["BEZAP"]["business_details"] == {"name": "Zap & Söhne", "website": "https://zap.example"}
    assert {"module": "locations", "side": "SENDER"} in told["BEZAP"]["roles"]
    assert {"module": "tariffs", "side": "RECEIVER"} in told["BEZAP"]["roles"]
    await one.engine.command("parties remove", "BEZAP")
    told = {party["party_id"]: party for party in (await peer.ask("GET", "/parties")).json["parties"]}
    assert told.keys() == before
    assert (await peer.subscribe("BEZAP", MODULE)).code == 5003


@pytest.mark.requirement("R.02.01.03b", "R.02.01.04")
async def test_our_hub_party_is_told(one: World, peer: Peer):
    """Whoever hosts a hub names it in hub_party_id, and no longer when it is gone."""
    await one.engine.command("parties add", "BEHUB", "--role", "HUB")
    assert (await peer.ask("GET", "/parties")).json["hub_party_id"] == "BEHUB"
    await one.engine.command("parties remove", "BEHUB")
    assert "hub_party_id" not in (await peer.ask("GET", "/parties")).json


@pytest.mark.requirement("R.02.01.01", "R.02.01.03a")
async def test_a_partner_s_parties_are_asked_for(one: World, peer: Peer, cpo: str):
    """GET <base URL>/parties over TLS as ourselves; what was added or removed there counts after a refresh."""
    requests = await peer.heard("/parties")
    assert {(heard.method, heard.path, heard.common_name) for heard in requests} == {
        ("GET", "/parties", one.engine.identity)
    }
    first = peer.party
    second = f"SE{first[2:]}"
    peer.parties = {second: ("locations:RECEIVER",)}
    said = json.loads(await one.engine.command("parties list", "--of", peer.identity, "--refresh", "--json"))
    assert [(party["party_id"], party["roles"]) for party in said] == [
        (second, [{"module": "locations", "side": "RECEIVER"}])
    ]
    assert (await peer.subscribe(cpo, MODULE, sender=second)).code == 1000
    assert (await peer.subscribe(cpo, MODULE, sender=first)).code == 5001


async def test_a_partner_s_new_party_is_found_when_it_speaks(one: World, peer: Peer, cpo: str):
    """An unknown sender makes the engine ask for the parties again, before it answers; the next time it is known."""
    new = f"DK{peer.party[2:]}"
    peer.parties[new] = ()
    asked = len(peer.of("/parties"))
    assert (await peer.subscribe(cpo, MODULE, sender=new)).code == 1000
    assert len(peer.of("/parties")) == asked + 1
    assert (await peer.request(cpo, MODULE, "state", sender=new, method="GET")).code == 1000
    assert len(peer.of("/parties")) == asked + 1


# -- 02.02: who may speak for whom ---------------------------------------------------------------------------


async def refused_senders(one: World, peer: Peer) -> int:
    """Read how often a partner spoke for others, as the state shows it."""
    (shown,) = [shown for shown in (await one.engine.state())["platforms"] if shown["identity"] == peer.identity]
    return int(shown["security_events"].get("sender_refused", {"count": 0})["count"])


@pytest.mark.parametrize("who", ["a partner's", "ours", "nobody's", "no party id"])
async def test_nobody_speaks_for_others(one: World, peer: Peer, cpo: str, emsp: str, who: str):
    """Each operation says so with its own code, and each refusal is a security event that the state counts (B15)."""
    other = await one.new_peer()
    sender = {"a partner's": other.party, "ours": cpo, "nobody's": "XXXXX", "no party id": "%2F%2e"}[who]
    await have_subscribed(one, emsp, other)
    assert (await other.subscribe(cpo, MODULE)).code == 1000
    about = dict.fromkeys(ABOUT_SUBSCRIPTIONS, 5005)
    expected = {("POST", SUBSCRIBE): 5001, ("POST", "update"): 6002} | about | {("POST", "start-session"): 2000}
    for (verb, name), code in expected.items():
        before = await refused_senders(one, peer)
        asked = len(peer.of("/parties"))
        body = None if verb == "GET" else update_body(sender, "A", 1, AVAILABLE)
        answer = await peer.request(emsp if name == "update" else cpo, MODULE, name, body, method=verb, sender=sender)
        assert codes(answer) == (200, code), name
        assert await refused_senders(one, peer) == before + 1
        assert len(peer.of("/parties")) == asked + 1, "it may be a new party"
    assert (await one.here(cpo))["state"] == (await one.ours(emsp))["state"] == "live"
    assert await one.received(MODULE, emsp) == {}


async def test_a_hub_party_may_speak(one: World, cpo: str):
    """It is one of its platform's parties, whether or not it stands in the list."""
    peer = await one.new_peer(hub="NLHUB")
    assert (await peer.subscribe(cpo, MODULE, sender="NLHUB")).code == 1000
    await one.stop_peers()


# -- 02.02: where things are ---------------------------------------------------------------------------------


async def test_receivers_and_modules_that_are_not_here(one: World, peer: Peer, cpo: str, emsp: str):
    """Each operation has its own words for it, with HTTP 200 (B16, B43)."""
    hub = f"BH{cpo[2:]}"
    await one.api("POST", "/parties", {"party_id": hub, "roles": ["HUB"], "hub": True})
    for receiver, module, code in (
        ("XXXXX", MODULE, 5003),
        ("%2F", MODULE, 5003),
        (emsp, MODULE, 5004),
        (cpo, "nonsense", 5004),
        (cpo, "chargingprofiles", 5004),
        (hub, MODULE, 5002),
    ):
        assert codes(await peer.subscribe(receiver, module)) == (200, code), (receiver, module)
    await one.api("DELETE", f"/parties/{hub}")
    for verb, name in ABOUT_SUBSCRIPTIONS:
        body = None if verb == "GET" else WHOLE | {"id": "A", "reason": "OTHER"}
        for receiver in ("XXXXX", cpo, emsp):
            assert codes(await peer.request(receiver, MODULE, name, body, method=verb)) == (200, 5005), name
    assert codes(await peer.update("XXXXX", MODULE, "A", 1, AVAILABLE)) == (200, 6002)
    for name in ("start-session", "nonsense"):
        assert codes(await peer.request("XXXXX", MODULE, name, {})) == (200, 4001)


@pytest.mark.requirement("R.02.02.04", "R.02.02.06", "R.02.02.07", "R.02.02.11")
@pytest.mark.parametrize(
    ("verb", "path", "body", "expected"),
    [
        ("GET", "/nothing", None, (404, 2000)),
        ("GET", "/connection/nothing", None, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}/locations/nothing", None, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}/locations/LOC1/EVSE1", None, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}", None, (404, 2000)),
        ("GET", "/from/{peer}/to", None, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}/%zz", None, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}/%00/state", None, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}//state", None, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}/locations%2Fstate", None, (405, 2000)),
        ("POST", "/from/{peer}/to/{cpo}/locations/nothing", {}, (404, 2000)),
        ("POST", "/from/{peer}/to/{cpo}/nonsense/update", {}, (404, 2000)),
        ("GET", "/from/{peer}/to/{cpo}/locations/update", None, (405, 2000)),
        ("DELETE", "/from/{peer}/to/{cpo}/locations", None, (405, 2000)),
        ("PUT", "/from/{peer}/to/{cpo}/locations/update", {"a": 1}, (200, 2000)),
        ("POST", "/from/{peer}/to/{cpo}/locations/state", {"a": 1}, (200, 2000)),
        ("PATCH", "/versions", {}, (200, 2000)),
        ("POST", "/parties", None, (405, 2000)),
        ("GET", "/connection", None, (405, 2000)),
        ("PUT", "/connection", b"not JSON", (400, 2001)),
    ],
)
async def test_unknown_paths_and_wrong_verbs(
    peer: Peer, cpo: str, *, verb: str, path: str, body: Any, expected: tuple[int, int]
):
    """404 for what is not there, 405 for the wrong verb, but no client error for a JSON object (B17)."""
    answer = await peer.ask(verb, path.format(peer=peer.party, cpo=cpo), body)
    assert codes(answer) == expected
    assert ("Allow" in answer.headers) == (answer.status == 405)


@pytest.mark.parametrize(
    ("setting", "value", "prefix", "url"),
    [
        ("OCPI_ENGINE_LISTENER__PATH", "/roaming/3.0/", "/roaming/3.0", None),
        ("OCPI_ENGINE_LISTENER__PATH", "/", "", None),
        ("OCPI_ENGINE_PLATFORM__BASE_URL", "{root}/roaming/ocpi", "/roaming/ocpi", "{root}/roaming/ocpi"),
    ],
)
async def test_a_reverse_proxy_s_path_prefix(
    one: World, peer: Peer, cpo: str, *, setting: str, value: str, prefix: str, url: str | None
):
    """What a proxy makes of the path is a setting; partners are told the base URL, and nothing else is served."""
    root = one.engine.base_url.removesuffix("/ocpi")
    await one.engine.stop()
    try:
        await one.engine.start(**{setting: value.format(root=root)})
        async with dial(one.engine, peer.client_files) as wire:
            versions = await wire.ask(request("GET", f"{prefix}/versions"))
            assert json.loads(versions.body)["versions"][0]["url"] == (url or one.engine.base_url).format(root=root)
            path = f"{prefix}/from/{peer.party}/to/{cpo}/{MODULE}"
            assert (await wire.ask(request("POST", path, json.dumps(WHOLE).encode()))).status == 200
            for elsewhere in ("/ocpi/versions", f"/x{prefix}/versions", f"{prefix}/x/versions", "/ocpi"):
                assert (await wire.ask(request("GET", elsewhere))).status == 404
    finally:
        await one.engine.stop()
        await one.engine.start()


# -- 02.02: answers ------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.02.02.04", "R.02.02.08", "R.02.02.09", "R.02.02.10", "R.02.02.11")
async def test_answers_are_envelopes_with_the_right_status(one: World, peer: Peer, cpo: str, emsp: str):
    """201 for what is new, 200 for what changed, 200 and an error status for what could not be stored."""
    await have_subscribed(one, emsp, peer)
    assert codes(await peer.update(emsp, MODULE, "A", 1, AVAILABLE)) == (201, 1000)
    assert codes(await peer.update(emsp, MODULE, "A", 2, CHARGING)) == (200, 1000)
    assert await one.received(MODULE, emsp) == {"A": (2, CHARGING)}
    assert codes(await peer.update(emsp, MODULE, "B", 1, b'{"status":"ON FIRE"}')) == (200, 6001)
    assert codes(await peer.update(emsp, MODULE, "B", 1, AVAILABLE, issuer="XXXXX")) == (200, 2000)
    assert codes(await peer.update(emsp, MODULE, "B", 1, AVAILABLE, sender="XXXXX")) == (200, 6002)
    assert codes(await peer.update(emsp, MODULE, "B", -1, AVAILABLE)) == (200, 2001)
    assert codes(await peer.subscribe(cpo, MODULE)) == (200, 1000)
    assert codes(await peer.subscribe(emsp, MODULE)) == (200, 5004)
    assert await one.received(MODULE, emsp) == {"A": (2, CHARGING)}


@pytest.mark.requirement("R.02.02.15", "R.02.02.16")
@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/parties"),
        ("GET", "/nothing"),
        ("GET", "/from/{peer}/to/{cpo}/evsestatuses/state"),
        ("POST", "/from/{peer}/to/{cpo}/evsestatuses/update"),
        ("POST", "/from/XXXXX/to/{cpo}/evsestatuses"),
    ],
)
async def test_ids_are_echoed(one: World, peer: Peer, cpo: str, verb: str, path: str):
    """Whatever the answer is, it carries the ids of its request, and so does the log; missing ones are made."""
    path = path.format(peer=peer.party, cpo=cpo)
    body = None if verb == "GET" else b"{"
    mine = {"Ocpi-Request-Id": f"request {uuid.uuid4()}", "Ocpi-Correlation-Id": f"correlation-{uuid.uuid4()}"}
    answer = await peer.ask(verb, path, body, headers=mine)
    assert {name: answer.headers[name] for name in mine} == mine
    log = one.engine.log.read_text()
    assert f"request_id={mine['Ocpi-Request-Id']}" in log
    assert f"correlation_id={mine['Ocpi-Correlation-Id']}" in log
    drawn = {name.replace("Ocpi-", "X-"): value for name, value in mine.items()}
    answer = await peer.ask(verb, path, body, headers=drawn)
    assert {name: answer.headers[name] for name in mine} == mine, "as figure 12 has them (W11)"
    answer = await peer.ask(verb, path, body, headers={"Ocpi-Request-Id": "x" * 10_000 if verb == "GET" else "é"})
    made = [answer.headers[name] for name in mine]
    assert len(set(made)) == len({uuid.UUID(text) for text in made}) == 2


# -- 02.02: what we ask --------------------------------------------------------------------------------------


@pytest.mark.requirement("R.02.02.01", "R.02.02.02", "R.02.02.03", "R.02.02.12", "R.02.02.14")
async def test_our_requests(one: World, peer: Peer, cpo: str, emsp: str):
    """Below the base URL, from our party to theirs, over TLS as ourselves, each with new ids."""
    await have_subscribed(one, emsp, peer)
    assert (await peer.subscribe(cpo, MODULE)).code == 1000
    await one.publish(cpo, MODULE, {f"E{number}": AVAILABLE for number in range(5)})
    await peer.updated([f"E{number}" for number in range(5)])
    between_parties = [heard for heard in peer.requests if heard.path.startswith("/from/")]
    assert {heard.path for heard in between_parties} == {
        f"/from/{emsp}/to/{peer.party}/{MODULE}",
        f"/from/{cpo}/to/{peer.party}/{MODULE}/update",
    }
    issued = peer.clients.certificate.subject
    assert {(heard.common_name, heard.headers["Host"]) for heard in peer.requests} == {
        (one.engine.identity, f"localhost:{peer.port}")
    }, issued
    for name in ("Ocpi-Request-Id", "Ocpi-Correlation-Id"):
        ids = [uuid.UUID(heard.headers[name]) for heard in peer.requests]
        assert len(set(ids)) == len(ids)
        assert {one.version for one in ids} == {4}


@pytest.mark.requirement("R.02.02.03")
async def test_a_server_with_another_certificate_gets_no_request(one: World, peer: Peer, emsp: str):
    """A partner's address where somebody else listens: TLS ends it, nothing is told, and the operator sees why."""
    other = await one.new_peer()
    await peer.close()
    peer.requests.clear()
    ours, peer.server_files = peer.server_files, other.server_files
    await peer.listen()
    await have_subscribed(one, emsp, peer)
    shown = await one.ours(emsp)
    assert (shown["state"], "certificate" in shown["last_error"].lower()) == ("asking", True)
    assert peer.requests == []
    await peer.close()
    peer.server_files = ours
    await peer.listen()
    await one.when_ours(emsp, state="live")


# -- bodies --------------------------------------------------------------------------------------------------

NOT_OBJECTS: dict[str, bytes] = {
    "nothing": b"",
    "HTML": b"<html></html>",
    "a list": b"[]",
    "a string": b'"{}"',
    "null": b"null",
    "cut off": b'{"retry_interval": 1, "max_qu',
    "two objects": b"{}{}",
    "NaN": b'{"retry_interval": NaN}',
    "Infinity": b'{"retry_interval": -Infinity}',
    "a lone surrogate": b'{"id": "\\ud800"}',
    "a lone surrogate in a name": b'{"\\udc00": 1}',
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "UTF-16": '{"id": "A"}'.encode("utf-16"),
    "a bare control": b'{"id": "a\x00b"}',
    "nested lists": b'{"payload":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "nested objects": b'{"payload":' * 10_000 + b"1" + b"}" * 10_000,
    "nested and not closed": b'{"payload":' + b"[" * 10_000,
}
WRONG_OBJECTS: dict[str, bytes] = {
    "empty": b"{}",
    "other fields": b'{"a": 1}',
    "the same field twice": b'{"retry_interval": 1, "retry_interval": 2, "id": "A", "id": "B", "csr": "", "csr": ""}',
    "the same field twice, escaped": b'{"id": "A", "\\u0069d": "B", "retry_interval": 1, "max_queue_size": 1}',
    "other types": b'{"retry_interval": [], "max_queue_size": {}, "id": 1, "version": "1", "csr": 1, "callbackId": []}',
    "numbers out of range": b'{"retry_interval": 1E400, "max_queue_size": 1E400, "version": 9223372036854775808}',
}
WITH_BODIES = {
    "subscribe": "/from/{peer}/to/{cpo}/evsestatuses",
    "update": "/from/{peer}/to/{emsp}/evsestatuses/update",
    "renegotiate-my-subscription": "/from/{peer}/to/{cpo}/evsestatuses/renegotiate-my-subscription",
    "renegotiate-your-subscription": "/from/{peer}/to/{emsp}/evsestatuses/renegotiate-your-subscription",
    "request-full-update": "/from/{peer}/to/{cpo}/evsestatuses/request-full-update",
    "connection": "/connection",
    "renewal": "/connection/renew-credentials",
    "callback": "/connection/renew-credentials/nobody-asked",
}


@pytest.mark.requirement("R.02.02.05", "R.02.02.06", "R.02.02.10")
@pytest.mark.parametrize("operation", WITH_BODIES)
async def test_bodies_that_are_wrong(one: World, peer: Peer, cpo: str, emsp: str, operation: str):
    """400 and 2001 for what is no JSON object, 200 and 2001 with the fields for a wrong one (B18); nothing changes."""
    await have_subscribed(one, emsp, peer)
    assert (await peer.subscribe(cpo, MODULE)).code == 1000
    path = WITH_BODIES[operation].format(peer=peer.party, cpo=cpo, emsp=emsp)
    for name, body in NOT_OBJECTS.items():
        assert codes(await peer.ask("POST", path, body)) == (400, 2001), name
    twice = {name for name in WRONG_OBJECTS if "twice" in name}
    for name, body in WRONG_OBJECTS.items():
        if operation == "callback" and name not in twice:
            continue  # any object without a certificate is a refusal (W2)
        answer = await peer.ask("POST", path, body)
        assert codes(answer) == (200, 2001), (name, answer.body)
        assert answer.fields
    assert (await one.here(cpo))["state"] == (await one.ours(emsp))["state"] == "live"
    assert await one.received(MODULE, emsp) == {}
    assert (await peer.ask("GET", "/parties")).status == 200


@pytest.mark.parametrize("body", [NOT_OBJECTS["HTML"], NOT_OBJECTS["nested lists"], b'{"a": 1}'])
async def test_a_body_where_none_belongs_is_ignored(peer: Peer, cpo: str, body: bytes):
    """Whatever it is (B47)."""
    assert (await peer.subscribe(cpo, MODULE)).code == 1000
    assert codes(await peer.request(cpo, MODULE, "state", body, method="GET")) == (200, 1000)
    assert codes(await peer.request(cpo, MODULE, "request-immediate-retries", body)) == (200, 1000)
    assert (await peer.ask("GET", "/parties", body)).status == 200


async def test_100_mb_are_refused_by_their_length(one: World, peer: Peer, cpo: str):
    """413 before any of it was read; who sends it all the same reads why not, and costs the engine no memory."""
    path = f"/ocpi/from/{peer.party}/to/{cpo}/{MODULE}"
    memory = memory_of(one)
    async with dial(one.engine, peer.client_files) as wire:
        reply = await wire.ask(head("POST", path, Content_Type="application/json", Content_Length=HUNDRED_MB))
        assert (reply.status, json.loads(reply.body)["status_code"]) == (413, 2000)
    async with dial(one.engine, peer.client_files) as wire:
        sending = asyncio.create_task(send_100_mb(wire.write, path, chunked=False))
        reply = await wire.read()
        assert reply.status == 413
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert memory_of(one) - memory < HUNDRED_MB / 4
    assert (await peer.ask("GET", "/parties")).status == 200


async def test_100_mb_in_chunks_are_refused_at_the_limit(one: World, peer: Peer, cpo: str):
    """Their length is not known before, so what is over the limit ends it with 413."""
    memory = memory_of(one)
    async with dial(one.engine, peer.client_files) as wire:
        path = f"/ocpi/from/{peer.party}/to/{cpo}/{MODULE}"
        sending = asyncio.create_task(send_100_mb(wire.write, path, chunked=True))
        reply = await wire.read()
        assert (reply.status, json.loads(reply.body)["status_code"]) == (413, 2000)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    assert memory_of(one) - memory < HUNDRED_MB / 2
    assert (await peer.ask("GET", "/parties")).status == 200


async def send_100_mb(write: Callable[[bytes], Any], path: str, *, chunked: bool) -> None:
    """Send a body of 100 MB, or as much as is taken."""
    length = {"Transfer_Encoding": "chunked"} if chunked else {"Content_Length": HUNDRED_MB}
    piece = b'"' + b"x" * (1024 * 1024 - 1)
    with contextlib.suppress(OSError):
        await write(head("POST", path, Content_Type="application/json", **length))
        for _ in range(100):
            await write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)


def memory_of(one: World) -> int:
    """Measure the engine's memory, in bytes."""
    assert one.engine.process is not None
    resident: int = psutil.Process(one.engine.process.pid).memory_info().rss
    return resident


# -- slow and broken senders ---------------------------------------------------------------------------------


@asynccontextmanager
async def others_are_served(peer: Peer) -> AsyncIterator[None]:
    """See that a partner is answered all the time."""
    ended = asyncio.Event()

    async def ask() -> None:
        while not ended.is_set():
            assert (await peer.ask("GET", "/versions")).status == 200

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        ended.set()
        await asking


@pytest.mark.parametrize("what", ["nothing", "a part of a head", "a head, byte by byte", "a body, byte by byte"])
async def test_slow_senders_are_not_waited_for(one: World, peer: Peer, cpo: str, what: str):
    """Slow-loris: each is told 408 and cut off after a moment, and nobody else waits."""
    slow = await one.new_peer()
    whole = head("POST", f"/ocpi/from/{slow.party}/to/{cpo}/{MODULE}", Content_Length=1000)
    async with others_are_served(peer), dial(one.engine, slow.client_files) as wire:
        pieces = {
            "nothing": [],
            "a part of a head": [whole[:40]],
            "a head, byte by byte": single(whole[:-4] + b"x" * 1000),
            "a body, byte by byte": [whole, *single(b"{" + b" " * 999)],
        }[what]
        writing = asyncio.create_task(slowly(wire.write, pieces))
        reply = await wire.read()
        assert (reply.status, json.loads(reply.body)["status_code"]) == (408, 2000)
        assert await wire.ended()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    assert (await slow.ask("GET", "/parties")).status == 200


def single(data: bytes) -> list[bytes]:
    """Take data apart."""
    return [bytes([byte]) for byte in data]


async def slowly(write: Callable[[bytes], Any], pieces: list[bytes]) -> None:
    """Write a piece now and then."""
    with contextlib.suppress(OSError):
        for piece in pieces:
            await write(piece)
            await asyncio.sleep(0.1)


async def test_senders_that_break_off_disturb_nobody(one: World, peer: Peer, emsp: str):
    """In the handshake, in the head, in the body, before the answer: nothing is stored of what is not whole."""
    await have_subscribed(one, emsp, peer)
    body = update_body(peer.party, "A", 1, AVAILABLE)
    whole = request("POST", f"/ocpi/from/{peer.party}/to/{emsp}/{MODULE}/update", body)
    for cut in (0, 10, whole.index(b"\r\n\r\n") + 4, len(whole) - len(body) // 2, len(whole) - 1):
        async with dial(one.engine, peer.client_files) as wire:
            await wire.write(whole[:cut])
    assert await one.received(MODULE, emsp) == {}
    async with dial(one.engine, peer.client_files) as wire:
        await wire.write(whole)
    async with asyncio.timeout(10):
        while "A" not in await one.received(MODULE, emsp):  # it was whole, so it is stored, although nobody hears of it
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
        b"GET /ocpi/versions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /ocpi/connection HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /ocpi/versions HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_told_so(one: World, peer: Peer, data: bytes):
    """A 4xx in an envelope, or the end of the connection; never a 500."""
    async with dial(one.engine, peer.client_files) as wire:
        with contextlib.suppress(*TURNED_AWAY):
            reply = await wire.ask(data)
            assert 400 <= reply.status < 500
            assert json.loads(reply.body)["status_code"] in {2000, 2001}
        assert await wire.ended()
    assert (await peer.ask("GET", "/parties")).status == 200
