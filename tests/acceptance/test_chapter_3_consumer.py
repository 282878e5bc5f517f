"""Chapter 3.01 to 3.10 with the engine as the platform that receives data: a real engine, a scripted producer."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.backing import Backing
from tests.support.peer import (
    BREAK,
    DRIP,
    FLOOD,
    HALF,
    HTML,
    NO_HTTP,
    SILENCE,
    SUBSCRIBE,
    Answer,
    Peer,
    World,
    accept,
    always,
    in_turn,
    raw,
    refuse,
    update_body,
    world,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapter 3, consumer")]

MODULE = "evsestatuses"
AVAILABLE, CHARGING, BLOCKED = b'{"status":"AVAILABLE"}', b'{"status":"CHARGING"}', b'{"status":"BLOCKED"}'
BAD = b'{"status":"ON FIRE"}'
TARIFF = (
    b'{"currency":"EUR","elements":[{"price_components":[{"type":"FLAT","price":1.5}]}],'
    b'"last_updated":"2026-01-01T00:00:00Z"}'
)
OTHER_TARIFF = TARIFF.replace(b"EUR", b"SEK")
STATE = {"retry_interval": 1, "current_queue_size": 0, "max_queue_size": 1000}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One engine for all tests here; each brings its own partner and its own party that subscribes."""
    async with world(tmp_path_factory.mktemp("consumer"), backing=backing) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def peer(one: World) -> AsyncIterator[Peer]:
    """Register a partner with a party that issues objects; the engine made the handshake."""
    yield await one.new_peer(by_engine=True)
    await one.stop_peers()


@pytest_asyncio.fixture(loop_scope="module")
async def emsp(one: World) -> str:
    """Host a party without subscriptions."""
    return await one.new_party("EMSP")


async def subscribe(one: World, emsp: str, peer: Peer, module: str = MODULE, **parameters: Any) -> str:
    """Have the engine subscribe its party; returns the id of the subscription."""
    order = {"subscriber": emsp, "producer": peer.party, "module": module} | parameters
    made = await one.api("POST", "/subscriptions", order)
    return str(made["id"])


def check_plain_success(answer: Answer, status: int) -> None:
    """Check R.03.02.11 and R.03.02.14: success without a payload."""
    assert (answer.status, answer.code) == (status, 1000), answer.body
    assert not {"data", "payload"} & answer.json.keys()


async def ask_api(one: World, path: str, order: Any = None) -> httpx.Response:
    """Ask the local API for something that may fail."""
    async with one.engine.api() as api:
        return await api.post(f"/api/v1{path}", json=order)


# -- 03.01 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.01.01", "R.03.01.02", "R.03.01.03", "R.03.01.04")
async def test_a_subscribe_is_the_draft_s_request(one: World, peer: Peer, emsp: str):
    """POST from the subscriber to the producer's module, with all three parameters and ids in the headers."""
    peer.script[SUBSCRIBE] = always(accept({"max_queue_size": 4321}))
    await subscribe(one, emsp, peer, retry_interval_s=2.5, parallelism_limit=3, queue_size_max=5000)
    (request,) = peer.of(SUBSCRIBE)
    assert request.method == "POST"
    assert request.path == f"/from/{emsp}/to/{peer.party}/{MODULE}"
    assert request.json == {"retry_interval": 2.5, "parallelism_limit": 3, "max_queue_size": 5000}
    assert request.common_name == one.engine.identity
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Ocpi-Request-Id"]
    assert request.headers["Ocpi-Correlation-Id"]
    shown = await one.ours(emsp)
    assert (shown["state"], shown["queue_size_max"], shown["parallelism_limit"]) == ("live", 4321, 3)


async def test_a_subscribe_without_wishes_carries_our_defaults(one: World, peer: Peer, emsp: str):
    """All three fields are sent in any case: what the operator leaves out comes from the settings."""
    await subscribe(one, emsp, peer)
    (request,) = peer.of(SUBSCRIBE)
    assert request.json == {"retry_interval": 5, "parallelism_limit": 8, "max_queue_size": 1_000_000}


@pytest.mark.parametrize("code", [2001, 5000, 5001, 5002, 5003, 5004])
async def test_a_subscribe_that_is_refused_is_not_asked_again_and_again(one: World, peer: Peer, emsp: str, code: int):
    """A refusal is shown with its words, updates are not taken, and it is asked again when the parties change (B29)."""
    peer.script[SUBSCRIBE] = in_turn(refuse(code, message="not for you"), accept({"max_queue_size": 10}))
    await subscribe(one, emsp, peer)
    shown = await one.ours(emsp)
    assert (shown["state"], f"{code}: not for you" in shown["last_error"]) == ("waiting", True)
    assert (await peer.update(emsp, MODULE, "A", 1, AVAILABLE)).code == 6002
    assert len(peer.of(SUBSCRIBE)) == 1
    peer.parties["NLZZZ"] = ()
    await peer.refresh_parties()
    await one.when_ours(emsp, state="live")
    assert len(peer.of(SUBSCRIBE)) == 2


@pytest.mark.parametrize(
    "reply",
    [
        HTML,
        BREAK,
        HALF,
        NO_HTTP,
        FLOOD,
        refuse(3000, status=500),
        raw("", status=302, headers={"Location": "/"}),
        SILENCE,
        DRIP,
    ],
)
async def test_a_subscribe_without_a_usable_answer_is_asked_until_it_has_one(
    one: World, peer: Peer, emsp: str, reply: Any
):
    """No answer that counts: the subscribe is made again after a pause, and what comes meanwhile is taken (B28)."""
    peer.script[SUBSCRIBE] = in_turn(reply, accept({"max_queue_size": 10}))
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, AVAILABLE), 201)
    await peer.heard(SUBSCRIBE, 2)
    await one.when_ours(emsp, state="live", last_error=None)
    assert await one.received(MODULE, emsp) == {"A": (1, AVAILABLE)}


async def test_updates_that_overtake_the_answer_to_the_subscribe_are_taken(one: World, peer: Peer, emsp: str):
    """The subscription is recorded before it is asked for, so an update before the answer is stored (B28)."""
    answer = asyncio.Event()
    peer.script[SUBSCRIBE] = always(accept({"max_queue_size": 10}, after=answer))
    asking = asyncio.create_task(subscribe(one, emsp, peer))
    await peer.heard(SUBSCRIBE)
    check_plain_success(await peer.update(emsp, MODULE, "A", 7, AVAILABLE), 201)
    answer.set()
    await asking
    check_plain_success(await peer.update(emsp, MODULE, "A", 6, CHARGING), 200)
    assert await one.received(MODULE, emsp) == {"A": (7, AVAILABLE)}


# -- 03.02 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.02.08", "R.03.02.09", "R.03.02.10", "R.03.02.11")
async def test_an_update_is_stored_with_its_version_and_answered(one: World, peer: Peer, emsp: str):
    """A new object is created with 201, a known one changed with 200; payload and version are the update's own."""
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.update(emsp, MODULE, "A", 5, b'{ "status" : "AVAILABLE" }'), 201)
    assert await one.received(MODULE, emsp) == {"A": (5, b'{ "status" : "AVAILABLE" }')}
    check_plain_success(await peer.update(emsp, MODULE, "A", 9, CHARGING), 200)
    check_plain_success(await peer.update(emsp, MODULE, "B", 0, BLOCKED), 201)
    assert await one.received(MODULE, emsp) == {"A": (9, CHARGING), "B": (0, BLOCKED)}
    check_plain_success(await peer.update(emsp, MODULE, "a", 10, BLOCKED), 200)
    held = await one.received(MODULE, emsp)
    assert len(held) == 2, "ids are compared without case (B10)"


@pytest.mark.requirement("R.03.02.12", "R.03.02.14")
@pytest.mark.parametrize("version", [0, 4, 5])
async def test_an_update_that_is_not_newer_is_a_success_and_changes_nothing(
    one: World, peer: Peer, emsp: str, version: int
):
    """A version at or below our copy's is answered 1000 without a payload, and our copy stays, whatever it carries."""
    await subscribe(one, emsp, peer)
    await peer.update(emsp, MODULE, "A", 5, AVAILABLE)
    for payload in (CHARGING, BAD, b"{}"):
        check_plain_success(await peer.update(emsp, MODULE, "A", version, payload), 200)
    assert await one.received(MODULE, emsp) == {"A": (5, AVAILABLE)}


@pytest.mark.requirement("R.03.02.13")
async def test_an_update_without_a_subscription_is_6002(one: World, peer: Peer, emsp: str):
    """No subscription of these parties, module and platform: 6002 and nothing stored, also once it has ended."""
    other = await one.new_peer()
    stranger = await one.new_party("EMSP")
    assert (await peer.update(emsp, MODULE, "A", 1, AVAILABLE)).code == 6002
    number = await subscribe(one, emsp, peer)
    for answer in (
        await peer.update(emsp, "locations", "A", 1, AVAILABLE),
        await peer.update(stranger, MODULE, "A", 1, AVAILABLE),
        await peer.update("XXXXX", MODULE, "A", 1, AVAILABLE),
        await other.update(emsp, MODULE, "A", 1, AVAILABLE),
        await other.update(emsp, MODULE, "A", 1, AVAILABLE, sender=peer.party),
        await peer.update(emsp, MODULE, "A", 1, AVAILABLE, sender="XXXXX"),
    ):
        assert (answer.status, answer.code) == (200, 6002)
    assert await one.received(MODULE, emsp) == {}
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, AVAILABLE), 201)
    await one.api("POST", f"/subscriptions/{number}/unsubscribe")
    assert (await peer.update(emsp, MODULE, "A", 2, CHARGING)).code == 6002
    assert await one.received(MODULE, emsp) == {"A": (1, AVAILABLE)}


@pytest.mark.requirement("R.03.02.15")
async def test_a_payload_that_breaks_the_tables_is_6001(one: World, peer: Peer, emsp: str):
    """6001 with the fields at fault, nothing is stored, and our copy of an earlier version stays."""
    await subscribe(one, emsp, peer)
    answer = await peer.update(emsp, MODULE, "A", 5, BAD)
    assert (answer.status, answer.code) == (200, 6001)
    assert [problem["field"] for problem in answer.data] == ["/status"]
    assert await one.received(MODULE, emsp) == {}
    await peer.update(emsp, MODULE, "A", 5, AVAILABLE)
    for payload in (BAD, b"{}", b'{"status":null}', b"[]", b'"x"', b"1E400", b"null"):
        assert (await peer.update(emsp, MODULE, "A", 6, payload)).code == 6001, payload
    assert await one.received(MODULE, emsp) == {"A": (5, AVAILABLE)}
    check_plain_success(await peer.update(emsp, MODULE, "A", 6, CHARGING), 200)


@pytest.mark.requirement("R.03.02.12", "R.03.02.13", "R.03.02.14", "R.03.02.15")
async def test_the_checks_of_an_update_have_an_order(one: World, peer: Peer, emsp: str):
    """Of several faults the first one counts: subscription, own fields, issuer, version, immutability, schema (B1)."""
    await subscribe(one, emsp, peer, "tariffs")

    async def send(version: Any, payload: bytes, *, issuer: str | None = None, module: str = "tariffs") -> int:
        return (await peer.update(emsp, module, "T", version, payload, issuer=issuer)).code

    assert await send(5, TARIFF) == 1000
    assert await send(-1, BAD, issuer="XXXXX", module=MODULE) == 6002
    assert await send(-1, BAD, issuer="XXXXX") == 2001
    assert await send(5, BAD, issuer="XXXXX") == 2000
    assert await send(5, BAD) == 1000
    assert await send(4, OTHER_TARIFF) == 1000
    assert await send(6, BAD) == 6003
    assert await send(6, OTHER_TARIFF) == 6003
    assert (await peer.update(emsp, "tariffs", "NEW", 1, BAD)).code == 6001
    assert await one.received("tariffs", emsp) == {"T": (5, TARIFF)}


async def test_an_immutable_object_is_replaced_in_a_new_life(one: World, peer: Peer, emsp: str):
    """Another version of a tariff is 6003 until we subscribe anew: then it is taken, with 200 (B48)."""
    await subscribe(one, emsp, peer, "tariffs")
    check_plain_success(await peer.update(emsp, "tariffs", "T", 3, TARIFF), 201)
    assert (await peer.update(emsp, "tariffs", "T", 4, OTHER_TARIFF)).code == 6003
    await subscribe(one, emsp, peer, "tariffs")
    check_plain_success(await peer.update(emsp, "tariffs", "T", 1, OTHER_TARIFF), 200)
    assert (await peer.update(emsp, "tariffs", "T", 2, TARIFF)).code == 6003
    assert await one.received("tariffs", emsp) == {"T": (1, OTHER_TARIFF)}


async def test_an_issuer_that_may_not_be_spoken_for_is_refused_as_a_failure(one: World, peer: Peer, emsp: str):
    """Another party's object is 2000, so that nothing is lost, and a security event; parties are asked again first."""
    await subscribe(one, emsp, peer)
    asked = len(peer.of("/parties"))
    answer = await peer.update(emsp, MODULE, "A", 1, AVAILABLE, issuer="XXXXX")
    assert (answer.status, answer.code) == (200, 2000)
    assert await one.received(MODULE, emsp) == {}
    assert "issuer_refused" in one.engine.log.read_text()
    assert len(peer.of("/parties")) == asked, "no hub party speaks, so there is nothing to ask"


async def test_a_hub_party_sends_objects_of_whom_its_platform_serves(one: World, emsp: str):
    """A hub party may send any listed party's objects, one that was listed only now too, and nobody else's (B1)."""
    hub = await one.new_peer("NLHUB", "BEMBR", hub="NLHUB", by_engine=True)
    await subscribe(one, emsp, hub)
    check_plain_success(await hub.update(emsp, MODULE, "A", 1, AVAILABLE, issuer="BEMBR"), 201)
    assert (await hub.update(emsp, MODULE, "B", 1, AVAILABLE, issuer="BENEW")).code == 2000
    hub.parties["BENEW"] = ()
    check_plain_success(await hub.update(emsp, MODULE, "B", 1, AVAILABLE, issuer="BENEW"), 201)
    assert (await hub.update(emsp, MODULE, "C", 1, AVAILABLE, issuer="BEMBR", sender="BEMBR")).code == 6002
    assert set(await one.received(MODULE, emsp)) == {"A", "B"}


@pytest.mark.requirement("R.03.02.19")
async def test_what_a_party_received_is_shown_to_no_other(one: World, peer: Peer, emsp: str):
    """A token of another party of this platform reads nothing of it, by page, by id, by name or as a stream."""
    other = await one.new_party("EMSP")
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, AVAILABLE), 201)
    tokens = {
        party: (await one.api("POST", "/tokens", {"name": f"of-{party}", "party": party}))["token"]
        for party in (emsp, other)
    }
    async with one.engine.api() as api:

        async def read(party: str, path: str) -> httpx.Response:
            return await api.get(f"/api/v1{path}", headers={"Authorization": f"Bearer {tokens[party]}"})

        assert [o["id"] for o in (await read(emsp, f"/received/{MODULE}")).json()["objects"]] == ["A"]
        assert (await read(emsp, f"/received/{MODULE}/{peer.party}/A")).json()[0]["payload"] == {"status": "AVAILABLE"}
        assert (await read(other, f"/received/{MODULE}")).json()["objects"] == []
        assert (await read(other, f"/received/{MODULE}?issuer={peer.party}")).json()["objects"] == []
        assert (await read(other, f"/received/{MODULE}?receiver={emsp}")).status_code == 403
        assert (await read(other, f"/received/{MODULE}/{peer.party}/A")).status_code == 404
        assert (await read(other, f"/received/{MODULE}/{peer.party}/A?receiver={emsp}")).status_code in (403, 404)
        for path in ("/state", "/subscriptions", "/platforms"):
            assert (await read(other, path)).status_code == 403
        await subscribe(one, other, peer)
        check_plain_success(await peer.update(other, MODULE, "B", 1, CHARGING), 201)
        async with api.stream(
            "GET", f"/api/v1/received/{MODULE}/changes?after=0", headers={"Authorization": f"Bearer {tokens[other]}"}
        ) as stream:
            ids: list[str] = []
            async for line in stream.aiter_lines():
                if line.startswith("data:") and '"id"' in line:
                    ids.append(json.loads(line[5:])["id"])
                    break
        assert ids == ["B"], "the first object of the stream is its own, although another's came before"
    partner = await one.new_peer()
    await partner.subscribe("BEBEC", MODULE)
    await one.publish("BEBEC", MODULE, {"OURS": AVAILABLE})
    await partner.updated(["OURS"])
    assert {u.object_id for u in partner.of("update")} == {"OURS"}, "and partners do not get it passed on"


@pytest.mark.requirement("R.03.02.21")
async def test_references_to_what_is_not_known_here_are_taken(one: World, peer: Peer, emsp: str):
    """A status of an unknown EVSE and a tariff association with dangling references are stored, without a word."""
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.update(emsp, MODULE, "NO-SUCH-EVSE", 1, AVAILABLE), 201)
    await subscribe(one, emsp, peer, "tariffassociations")
    association = json.dumps(
        {
            "start_date_time": "2020-01-01T00:00:00Z",
            "tariff_id": "NO-SUCH-TARIFF",
            "connectors": [{"evse_uid": "NO-SUCH-EVSE", "connector_id": "NONE"}],
            "audience": "REGULAR",
            "last_updated": "2030-01-01T00:00:00Z",
        }
    ).encode()
    check_plain_success(await peer.update(emsp, "tariffassociations", "TA", 1, association), 201)
    assert await one.received("tariffassociations", emsp) == {"TA": (1, association)}


# -- odd values -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.02.10")
@pytest.mark.parametrize(
    ("written", "stored"),
    [
        (b"0", 0), (b"1", 1), (b"1.0", 1), (b"1e0", 1), (b"1E+2", 100), (b"120e-1", 12), (b"-0", 0),
        (b"9223372036854775807", 2**63 - 1), (b"9223372036854775808", None), (b"-9223372036854775808", None),
        (b"-1", None), (b'"1"', None),
        (b"1.5", None), (b"1E400", None), (b"1E999999999", None), (b"1E-400", None), (b"null", None), (b"true", None),
        (b"[1]", None), (b"{}", None), (b"1" * 5000, None), (b"18446744073709551616", None),
    ],
)  # fmt: skip
async def test_a_version_is_an_integer_of_a_sensible_size(
    one: World, peer: Peer, emsp: str, written: bytes, stored: int | None
):
    """0 to 2^63-1, also written 1.0 or 1E+2, is a version; all else is 2001 and stores nothing."""
    await subscribe(one, emsp, peer)
    answer = await peer.update(emsp, MODULE, "A", written, AVAILABLE)
    if stored is None:
        assert (answer.status, answer.code, answer.fields) == (200, 2001, {"/version"})
        assert await one.received(MODULE, emsp) == {}
    else:
        check_plain_success(answer, 201)
        assert await one.received(MODULE, emsp) == {"A": (stored, AVAILABLE)}


async def test_an_id_is_1_to_39_printable_characters(one: World, peer: Peer, emsp: str):
    """Ids of the right length and characters are kept as they are spelled; others are 2001 (B11, R.03.02.20)."""
    await subscribe(one, emsp, peer)
    good = ["x", "y" * 36, "z" * 37, "w" * 39, "a/b", "a%2Fb", "%00", "..", "a\\b", '"q"', "BE*BEC*E1", "~!@#$^&()"]
    for object_id in good:
        check_plain_success(await peer.update(emsp, MODULE, object_id, 1, AVAILABLE), 201)
    odd = ["a b", "a\tb", "a\nb", "a\x00b", "a\x7fb", "é", "\u200b", "🔌", None, 1, ["A"]]
    for bad in ["", "z" * 40, "z" * 100_000, *odd]:
        body = update_body(peer.party, bad, 1, AVAILABLE)
        answer = await peer.request(emsp, MODULE, "update", body)
        assert (answer.status, answer.code, answer.fields) == (200, 2001, {"/id"}), bad
    assert set(await one.received(MODULE, emsp)) == set(good)
    async with one.engine.api() as api:
        for object_id in ("a/b", "a%2Fb", "BE*BEC*E1"):
            path = f"/api/v1/received/{MODULE}/{peer.party}/{object_id.replace('%', '%25').replace('/', '%2F')}"
            assert (await api.get(path)).json()[0]["id"] == object_id


async def test_an_update_that_lacks_fields_or_is_no_object(one: World, peer: Peer, emsp: str):
    """Every wrong field is named at once with 2001; what is not a JSON object is HTTP 400 (B18)."""
    await subscribe(one, emsp, peer)
    for body, fields in (
        (b"{}", {"/issuer_party", "/id", "/version", "/payload"}),
        (update_body(None, "A", 1, AVAILABLE), {"/issuer_party"}),
        (update_body("N", "A", 1, AVAILABLE), {"/issuer_party"}),
        (update_body(5, "A", "x", AVAILABLE), {"/issuer_party", "/version"}),
        (b'{"issuer_party":"%b","id":"A","version":1}' % peer.party.encode(), {"/payload"}),
        (update_body(peer.party, "A", 1, b'{"status":"BLOCKED","status":"CHARGING"}'), {"/payload/status"}),
    ):
        answer = await peer.request(emsp, MODULE, "update", body)
        assert (answer.status, answer.code, answer.fields) == (200, 2001, fields), body
    good = update_body(peer.party, "A", 1, AVAILABLE)
    deep = b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    for body in (
        b"", b"[]", b"null", b"{", good[:-1], good + good, good.replace(b"1", b"NaN", 1), b"\xff\xfe" + good, deep,
        update_body(peer.party, "A", 1, b'{"status":"\\ud800"}'), update_body(peer.party, "A", 1, b'{"status":"\xc3"}'),
    ):  # fmt: skip
        answer = await peer.request(emsp, MODULE, "update", body)
        assert (answer.status, answer.code) == (400, 2001), body[:60]
    assert await one.received(MODULE, emsp) == {}


async def test_an_update_may_be_written_in_any_way(one: World, peer: Peer, emsp: str):
    """Order, white space, unknown fields and the case of party ids do not matter; of the payload every byte is kept."""
    await subscribe(one, emsp, peer)
    body = b"""
    { "payload" :  { "x" : 0.10 ,"status":"AVAILABLE"}  , "more": [1E400, {"payload": {}}],
      "version" : 5 ,\t"issuer_party":"%b", "id" : "\\u0041" }
    """ % peer.party.lower().encode()
    answer = await peer.request(emsp.lower(), MODULE, "update", body, sender=peer.party.lower())
    check_plain_success(answer, 201)
    assert await one.received(MODULE, emsp) == {"A": (5, b'{ "x" : 0.10 ,"status":"AVAILABLE"}')}


# -- 03.04 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.04.01", "R.03.04.02", "R.03.04.03", "R.03.04.04")
@pytest.mark.parametrize("reply", [accept(), refuse(5005)])
async def test_unsubscribing_cancels_at_the_producer(one: World, peer: Peer, emsp: str, reply: Any):
    """A POST without a body to cancel-my-subscription; success and 5005 alike end it, and updates are 6002."""
    peer.script["cancel-my-subscription"] = always(reply)
    number = await subscribe(one, emsp, peer)
    await one.api("POST", f"/subscriptions/{number}/unsubscribe")
    (request,) = peer.of("cancel-my-subscription")
    assert request.method == "POST"
    assert request.path == f"/from/{emsp}/to/{peer.party}/{MODULE}/cancel-my-subscription"
    assert request.body == b""
    assert "Content-Type" not in request.headers
    assert request.headers["Ocpi-Request-Id"]
    assert (await one.ours(emsp))["state"] == "ended"
    assert (await peer.update(emsp, MODULE, "A", 1, AVAILABLE)).code == 6002


@pytest.mark.requirement("R.03.04.03")
async def test_a_cancellation_that_is_not_answered_is_made_again(one: World, peer: Peer, emsp: str):
    """Until the producer has answered, the cancellation is repeated; nothing is taken meanwhile."""
    peer.script["cancel-my-subscription"] = in_turn(BREAK, HTML, refuse(3000), accept())
    number = await subscribe(one, emsp, peer)
    await one.api("POST", f"/subscriptions/{number}/unsubscribe")
    assert (await peer.update(emsp, MODULE, "A", 1, AVAILABLE)).code == 6002
    await peer.heard("cancel-my-subscription", 4)
    await one.when_ours(emsp, state="ended", last_error=None)


# -- 03.05 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.05.05")
@pytest.mark.parametrize("reason", ["DATA_NO_LONGER_AVAILABLE", "OTHER"])
async def test_a_cancellation_by_the_producer_is_answered_and_confirmed(one: World, peer: Peer, emsp: str, reason: str):
    """1000, then the state is asked for; 5005 ends it, and it is not asked again before the parties change (B29)."""
    peer.script["state"] = always(refuse(5005))
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.request(emsp, MODULE, "cancel-your-subscription", {"reason": reason}), 200)
    await peer.heard("state")
    shown = await one.when_ours(emsp, state="waiting")
    assert (shown["end_reason"], shown["ended_by"]) == (reason, "producer")
    assert (await peer.update(emsp, MODULE, "A", 1, AVAILABLE)).code == 6002
    assert len(peer.of(SUBSCRIBE)) == 1
    peer.parties["NLYYY"] = ()
    await peer.refresh_parties()
    await peer.heard(SUBSCRIBE, 2)
    await one.when_ours(emsp, state="live", end_reason=None)


async def test_after_an_overflow_it_is_subscribed_again_with_a_growing_pause(one: World, peer: Peer, emsp: str):
    """QUEUE_OVERFLOW is followed by a new subscribe, by itself, each time a little later (B29)."""
    loop = asyncio.get_running_loop()
    peer.script["state"] = always(refuse(5005))
    await subscribe(one, emsp, peer)
    pauses = []
    for count in (2, 3, 4):
        check_plain_success(
            await peer.request(emsp, MODULE, "cancel-your-subscription", {"reason": "QUEUE_OVERFLOW"}), 200
        )
        told_at = loop.time()
        again = (await peer.heard(SUBSCRIBE, count))[-1]
        pauses.append(again.at - told_at)
        await one.when_ours(emsp, state="live")
    assert pauses[0] >= 0.1
    assert pauses[1] >= 0.2
    assert pauses[2] >= 0.4


async def test_an_old_cancellation_does_not_end_a_new_life(one: World, peer: Peer, emsp: str):
    """If the producer still knows the subscription the notice was an old one: it goes on, updates are taken (B29)."""
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.request(emsp, MODULE, "cancel-your-subscription", {"reason": "OTHER"}), 200)
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, AVAILABLE), 201)
    await peer.heard("state")
    await one.when_ours(emsp, state="live", end_reason=None)
    check_plain_success(await peer.update(emsp, MODULE, "A", 2, CHARGING), 200)
    assert len(peer.of(SUBSCRIBE)) == 1


@pytest.mark.parametrize("reply", [HTML, BREAK, refuse(2000), refuse(3000, status=503)])
async def test_only_5005_confirms_a_cancellation(one: World, peer: Peer, emsp: str, reply: Any):
    """While the producer's state cannot be read it is asked again, and updates are taken; only 5005 ends it (B29)."""
    peer.script["state"] = in_turn(reply, reply, refuse(5005))
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.request(emsp, MODULE, "cancel-your-subscription", {"reason": "OTHER"}), 200)
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, AVAILABLE), 201)
    await peer.heard("state", 3)
    await one.when_ours(emsp, state="waiting")


async def test_a_cancellation_while_a_subscribe_is_unanswered_is_ignored(one: World, peer: Peer, emsp: str):
    """It can only be about an earlier life: 1000, and nothing follows (B29)."""
    answer = asyncio.Event()
    peer.script[SUBSCRIBE] = always(accept({"max_queue_size": 10}, after=answer))
    asking = asyncio.create_task(subscribe(one, emsp, peer))
    await peer.heard(SUBSCRIBE)
    check_plain_success(await peer.request(emsp, MODULE, "cancel-your-subscription", {"reason": "OTHER"}), 200)
    answer.set()
    await asking
    assert (await one.ours(emsp))["state"] == "live"
    assert peer.of("state") == []


@pytest.mark.requirement("R.03.05.08", "R.03.08.05")
async def test_what_a_producer_says_about_no_subscription_is_5005(one: World, peer: Peer, emsp: str):
    """Cancellations and proposals for subscriptions that we do not have, or had, are 5005."""
    other = await one.new_peer()
    proposal = {"retry_interval": 1, "max_queue_size": 10}

    async def check(who: Peer, receiver: str, module: str, sender: str | None = None) -> None:
        for operation, body in (
            ("cancel-your-subscription", {"reason": "OTHER"}),
            ("renegotiate-your-subscription", proposal),
        ):
            answer = await who.request(receiver, module, operation, body, sender=sender)
            assert (answer.status, answer.code) == (200, 5005), (operation, receiver, module, sender)

    await check(peer, emsp, MODULE)
    number = await subscribe(one, emsp, peer)
    await check(peer, emsp, "locations")
    await check(peer, "XXXXX", MODULE)
    await check(peer, emsp, MODULE, "XXXXX")
    await check(other, emsp, MODULE)
    await check(other, emsp, MODULE, peer.party)
    assert (await one.ours(emsp))["state"] == "live"
    await one.api("POST", f"/subscriptions/{number}/unsubscribe")
    await check(peer, emsp, MODULE)


async def test_a_cancellation_needs_a_reason_that_the_draft_knows(one: World, peer: Peer, emsp: str):
    """Without one the answer is 2001, and the subscription goes on."""
    await subscribe(one, emsp, peer)
    for body in ({}, {"reason": None}, {"reason": "WHY NOT"}, {"reason": 1}, {"reason": "other"}):
        answer = await peer.request(emsp, MODULE, "cancel-your-subscription", body)
        assert (answer.status, answer.code, answer.fields) == (200, 2001, {"/reason"}), body
    assert (await peer.request(emsp, MODULE, "cancel-your-subscription")).status == 400
    assert (await one.ours(emsp))["state"] == "live"
    assert peer.of("state") == []


# -- 03.06 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.06.01", "R.03.06.02", "R.03.06.03")
async def test_the_state_is_asked_for_as_the_draft_says(one: World, peer: Peer, emsp: str):
    """GET of the module's ``state`` from the subscriber to the producer; the answer is shown."""
    peer.script["state"] = always(accept({"retry_interval": 2.5, "current_queue_size": 17, "max_queue_size": 99}))
    number = await subscribe(one, emsp, peer)
    told = await one.api("POST", f"/subscriptions/{number}/ask-state")
    assert told == {"retry_interval_s": 2.5, "current_queue_size": 17, "max_queue_size": 99}
    (request,) = peer.of("state")
    assert request.method == "GET"
    assert request.path == f"/from/{emsp}/to/{peer.party}/{MODULE}/state"
    assert request.body == b""
    assert request.headers["Ocpi-Request-Id"]
    assert request.headers["Ocpi-Correlation-Id"]
    assert (await one.ours(emsp))["queue_size_there"] == 17


async def test_a_subscription_that_the_producer_lost_is_asked_for_again(one: World, peer: Peer, emsp: str):
    """5005 to a question of ours means that it is lost: we subscribe again, and take any version (B27, B29)."""
    number = await subscribe(one, emsp, peer)
    await peer.update(emsp, MODULE, "A", 9, AVAILABLE)
    peer.script["state"] = in_turn(refuse(5005), accept(STATE))
    assert (await ask_api(one, f"/subscriptions/{number}/ask-state")).status_code == 502
    await peer.heard(SUBSCRIBE, 2)
    await one.when_ours(emsp, state="live")
    check_plain_success(await peer.update(emsp, MODULE, "A", 3, CHARGING), 200)
    check_plain_success(await peer.update(emsp, MODULE, "A", 2, BLOCKED), 200)
    assert await one.received(MODULE, emsp) == {"A": (3, CHARGING)}


# -- 03.07 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.07.01", "R.03.07.02", "R.03.07.03", "R.03.07.04")
@pytest.mark.parametrize("answer", ["ACCEPTED", "REJECTED"])
async def test_a_receiver_proposes_other_parameters(one: World, peer: Peer, emsp: str, answer: str):
    """A POST with all three fields; what we hold to be agreed changes if and only if it is accepted."""
    peer.script["renegotiate-my-subscription"] = always(accept(answer))
    number = await subscribe(one, emsp, peer, retry_interval_s=7, parallelism_limit=2, queue_size_max=50)
    order = {"retry_interval_s": 0.5, "parallelism_limit": 4, "queue_size_max": 60}
    told = await one.api("POST", f"/subscriptions/{number}/renegotiate", order)
    assert told == {"accepted": answer == "ACCEPTED"}
    (proposal,) = peer.of("renegotiate-my-subscription")
    assert proposal.method == "POST"
    assert proposal.path == f"/from/{emsp}/to/{peer.party}/{MODULE}/renegotiate-my-subscription"
    assert proposal.json == {"retry_interval": 0.5, "parallelism_limit": 4, "max_queue_size": 60}
    assert proposal.headers["Ocpi-Request-Id"]
    after = await one.ours(emsp)
    expected = order if answer == "ACCEPTED" else {"retry_interval_s": 7, "parallelism_limit": 2, "queue_size_max": 50}
    assert {key: after[key] for key in order} == expected


# -- 03.08 --------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.08.06", "R.03.08.07")
async def test_a_sender_s_proposal_is_accepted_and_applied(one: World, peer: Peer, emsp: str):
    """ACCEPTED with 1000; the new parameters are shown, and hold for updates from then on, 12 at once for instance."""
    await subscribe(one, emsp, peer, retry_interval_s=7, parallelism_limit=2, queue_size_max=50)
    proposal = {"retry_interval": 0.25, "parallelism_limit": 12, "max_queue_size": 30}
    answer = await peer.request(emsp, MODULE, "renegotiate-your-subscription", proposal)
    assert (answer.status, answer.code, answer.data) == (200, 1000, "ACCEPTED")
    shown = await one.ours(emsp)
    assert (shown["retry_interval_s"], shown["parallelism_limit"], shown["queue_size_max"]) == (0.25, 12, 30)
    answers = await asyncio.gather(*(peer.update(emsp, MODULE, f"E{n}", 1, AVAILABLE) for n in range(12)))
    assert {answer.code for answer in answers} == {1000}
    answer = await peer.request(
        emsp, MODULE, "renegotiate-your-subscription", {"retry_interval": 1, "max_queue_size": 30}
    )
    assert answer.data == "ACCEPTED"
    assert (await one.ours(emsp))["parallelism_limit"] == 1, "no limit means 1 (3.3.5)"


@pytest.mark.requirement("R.03.08.08", "R.03.08.09")
async def test_a_sender_s_proposal_that_is_too_much_is_rejected(one: World, peer: Peer, emsp: str):
    """REJECTED with 1000 for more requests at once than we take, and everything stays; wrong fields are 2001."""
    await subscribe(one, emsp, peer, retry_interval_s=7, parallelism_limit=2, queue_size_max=50)
    proposal = {"retry_interval": 1, "parallelism_limit": 100_000, "max_queue_size": 10}
    answer = await peer.request(emsp, MODULE, "renegotiate-your-subscription", proposal)
    assert (answer.status, answer.code, answer.data) == (200, 1000, "REJECTED")
    for body in ({}, {"retry_interval": 0, "max_queue_size": 1}, {"retry_interval": 1, "max_queue_size": 0}):
        assert (await peer.request(emsp, MODULE, "renegotiate-your-subscription", body)).code == 2001
    shown = await one.ours(emsp)
    # The producer's answer to the subscribe said 50, as asked.
    assert (shown["retry_interval_s"], shown["parallelism_limit"], shown["queue_size_max"]) == (7, 2, 50)
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, AVAILABLE), 201)


# -- 03.09 and 03.10 ----------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.09.01", "R.03.09.02", "R.03.09.03")
async def test_immediate_retries_are_asked_for_as_the_draft_says(one: World, peer: Peer, emsp: str):
    """A POST to request-immediate-retries; a refusal is told to the operator."""
    peer.script["request-immediate-retries"] = in_turn(accept(), refuse(2000, message="too busy"))
    number = await subscribe(one, emsp, peer)
    await one.api("POST", f"/subscriptions/{number}/request-immediate-retries")
    (request,) = peer.of("request-immediate-retries")
    assert request.method == "POST"
    assert request.path == f"/from/{emsp}/to/{peer.party}/{MODULE}/request-immediate-retries"
    assert request.headers["Ocpi-Request-Id"]
    assert request.headers["Ocpi-Correlation-Id"]
    refused = await ask_api(one, f"/subscriptions/{number}/request-immediate-retries")
    assert (refused.status_code, "too busy" in refused.text) == (502, True)


@pytest.mark.requirement("R.03.10.01", "R.03.10.02", "R.03.10.03", "R.03.10.04")
async def test_a_full_update_is_asked_for_as_the_draft_says(one: World, peer: Peer, emsp: str):
    """A POST to request-full-update with the object's id; 5006 is told to the operator."""
    peer.script["request-full-update"] = in_turn(accept(), refuse(5006))
    number = await subscribe(one, emsp, peer)
    await one.api("POST", f"/subscriptions/{number}/request-full-update", {"object_id": "BE*BEC*E1/2"})
    (request,) = peer.of("request-full-update")
    assert request.method == "POST"
    assert request.path == f"/from/{emsp}/to/{peer.party}/{MODULE}/request-full-update"
    assert request.json == {"id": "BE*BEC*E1/2"}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Ocpi-Request-Id"]
    refused = await ask_api(one, f"/subscriptions/{number}/request-full-update", {"object_id": "A"})
    assert (refused.status_code, "5006" in refused.text) == (502, True)


async def regressions(one: World, peer: Peer) -> list[str]:
    """List why copies of this producer's objects are shown as stuck."""
    stuck = (await one.engine.state())["stuck"]
    return [entry["why"] for entry in stuck if entry["what"].startswith(f"our copy of {peer.party}")]


async def test_a_producer_that_confirms_a_lower_version_is_shown(one: World, peer: Peer, emsp: str):
    """Asked for an object in full it sends a version below our copy's: ours stays, and the state says so (B27)."""
    number = await subscribe(one, emsp, peer)
    await peer.update(emsp, MODULE, "A", 9, AVAILABLE)
    check_plain_success(await peer.update(emsp, MODULE, "A", 4, CHARGING), 200)
    assert await regressions(one, peer) == []
    await one.api("POST", f"/subscriptions/{number}/request-full-update", {"object_id": "a"})
    check_plain_success(await peer.update(emsp, MODULE, "A", 4, CHARGING), 200)
    (why,) = await regressions(one, peer)
    assert "version 9" in why
    assert "version 4" in why
    assert await one.received(MODULE, emsp) == {"A": (9, AVAILABLE)}
    await subscribe(one, emsp, peer)
    check_plain_success(await peer.update(emsp, MODULE, "A", 4, CHARGING), 200)
    assert await one.received(MODULE, emsp) == {"A": (4, CHARGING)}
    assert await regressions(one, peer) == []


# -- lives --------------------------------------------------------------------------------------------------------


async def test_in_a_new_life_the_first_update_of_each_object_is_taken_at_any_version(one: World, peer: Peer, emsp: str):
    """Within a life versions grow; after a new subscribe a lower one is taken once, with 200 (B27, B48)."""
    await subscribe(one, emsp, peer)
    await peer.update(emsp, MODULE, "A", 100, AVAILABLE)
    await peer.update(emsp, MODULE, "B", 100, AVAILABLE)
    await subscribe(one, emsp, peer)
    assert await one.received(MODULE, emsp) == {"A": (100, AVAILABLE), "B": (100, AVAILABLE)}
    check_plain_success(await peer.update(emsp, MODULE, "A", 3, CHARGING), 200)
    check_plain_success(await peer.update(emsp, MODULE, "A", 2, BLOCKED), 200)
    check_plain_success(await peer.update(emsp, MODULE, "C", 1, BLOCKED), 201)
    assert await one.received(MODULE, emsp) == {"A": (3, CHARGING), "B": (100, AVAILABLE), "C": (1, BLOCKED)}


async def test_a_bye_ends_everything_and_copies_stay_readable(one: World, peer: Peer, emsp: str):
    """After the producer's bye its updates are refused, and what it sent is kept, marked stale (B20)."""
    await subscribe(one, emsp, peer)
    await peer.update(emsp, MODULE, "A", 1, AVAILABLE)
    assert (await peer.ask("POST", "/connection/bye")).status == 200
    await one.when_ours(emsp, state="ended")
    assert (await peer.update(emsp, MODULE, "A", 2, CHARGING)).status == 403
    async with one.engine.api() as api:
        (held,) = (await api.get(f"/api/v1/received/{MODULE}/{peer.party}/A")).json()
    assert (held["version"], held["stale"]) == (1, True)


async def test_after_a_restart_producers_are_asked_and_lost_subscriptions_made_again(one: World, peer: Peer, emsp: str):
    """A start asks every producer for its state; 5005 leads to a new subscribe, and copies outlive a kill (B29, P3)."""
    other = await one.new_party("EMSP")
    await subscribe(one, emsp, peer)
    await subscribe(one, other, peer)
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, AVAILABLE), 201)
    await one.engine.kill()
    peer.script["state"] = lambda heard: refuse(5005) if heard.sender == other else accept(STATE)
    await one.engine.start()
    await peer.heard("state", 2)
    await peer.heard(SUBSCRIBE, 3)
    assert [request.sender for request in peer.of(SUBSCRIBE)] == [emsp, other, other]
    await one.when_ours(emsp, state="live")
    await one.when_ours(other, state="live")
    assert await one.received(MODULE, emsp) == {"A": (1, AVAILABLE)}
    check_plain_success(await peer.update(emsp, MODULE, "A", 1, CHARGING), 200)
    assert await one.received(MODULE, emsp) == {"A": (1, AVAILABLE)}
