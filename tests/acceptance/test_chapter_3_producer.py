"""Chapter 3.01 to 3.10 with the engine as the platform that sends data: a real engine, a scripted consumer."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from tests.support.backing import Backing
from tests.support.peer import (
    BREAK,
    BREAK_STORED,
    HALF,
    HTML,
    SILENCE,
    SUBSCRIBE,
    TRANSIT_S,
    Heard,
    Peer,
    World,
    accept,
    always,
    by_object,
    in_turn,
    raw,
    refuse,
    world,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapter 3, producer")]

MODULE = "evsestatuses"
AVAILABLE, CHARGING, BLOCKED = b'{"status":"AVAILABLE"}', b'{"status":"CHARGING"}', b'{"status":"BLOCKED"}'
TARIFF = (
    b'{"currency":"EUR","elements":[{"price_components":[{"type":"FLAT","price":1.5}]}],'
    b'"last_updated":"2026-01-01T00:00:00Z"}'
)
SOON_S = 1.0  # "as immediately as possible" on a machine that runs other tests, too
LONG_S = 600  # a retry interval that no test waits for


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One engine for all tests here; each brings its own partner and its own party to subscribe to."""
    async with world(tmp_path_factory.mktemp("producer"), backing=backing) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def peer(one: World) -> AsyncIterator[Peer]:
    """Register a partner with a party that may subscribe."""
    yield await one.new_peer()
    await one.stop_peers()


@pytest_asyncio.fixture(loop_scope="module")
async def cpo(one: World) -> str:
    """Host a party that nobody is subscribed to yet."""
    return await one.new_party("CPO")


def statuses(count: int, payload: bytes = AVAILABLE) -> dict[str, bytes]:
    """Make so many objects."""
    return {f"EVSE-{number:03d}": payload for number in range(count)}


async def marked(one: World, peer: Peer, cpo: str) -> None:
    """Pass a mark through another subscription of the same partner: what was to be sent before it had its chance."""
    count = len(peer.of("update", module="tariffs"))
    if count == 0:
        assert (await peer.subscribe(cpo, "tariffs")).code == 1000
    await one.publish(cpo, "tariffs", {f"MARK-{count}": TARIFF})
    await peer.heard("update", count + 1, module="tariffs")


def of_module(peer: Peer, object_id: str | None = None) -> list[Heard]:
    """List the updates of the module that the tests are about."""
    return peer.of("update", module=MODULE, object_id=object_id)


# -- 03.01 ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.01.05")
@pytest.mark.parametrize(
    ("fields", "promised"),
    [
        ({"max_queue_size": 1000}, 1000),
        ({"max_queue_size": 10**9}, 1_000_000),
        ({"max_queue_size": 2**63 - 1}, 1_000_000),
        ({"parallelism_limit": 4, "max_queue_size": 1}, 1),
        ({"retry_interval": 1.0, "parallelism_limit": 1.0, "max_queue_size": 7.0}, 7),
        ({"unknown": [1]}, 1000),
    ],
)
async def test_a_subscribe_is_answered_with_success_and_the_queue_size(
    peer: Peer, cpo: str, fields: dict[str, Any], promised: int
):
    """A subscribe that can be served is answered with 1000 and a SubscriptionResponse: the lesser of wish and limit."""
    answer = await peer.subscribe(cpo, MODULE, **fields)
    assert (answer.status, answer.code, answer.data) == (200, 1000, {"max_queue_size": promised})
    assert (await peer.request(cpo, MODULE, "state", method="GET")).code == 1000


@pytest.mark.requirement("R.03.01.05")
async def test_a_subscribe_without_a_queue_size_gets_our_limit(peer: Peer, cpo: str):
    """The queue size may be left to the producer (W14), and no parallelism limit means 1."""
    answer = await peer.request(cpo, MODULE, SUBSCRIBE, {"retry_interval": 5})
    assert (answer.code, answer.data) == (1000, {"max_queue_size": 1_000_000})


@pytest.mark.requirement("R.03.01.06")
async def test_a_subscribe_that_cannot_be_served_says_why(one: World, peer: Peer, cpo: str):
    """Stranger 5001, not allowed 5002, unknown party 5003, module not served 5004; HTTP 200, and no subscription."""
    emsp = await one.new_party("EMSP")
    hub = f"BX{emsp[2:]}"
    await one.api("POST", "/parties", {"party_id": hub, "roles": ["HUB"], "hub": True})
    good = {"retry_interval": 1, "max_queue_size": 10}
    wanted = [
        (cpo, MODULE, "XXXXX", 5001),
        (hub, MODULE, None, 5002),
        ("XXXXX", MODULE, None, 5003),
        (peer.party, MODULE, None, 5003),
        ("no%20party", MODULE, None, 5003),
        (emsp, MODULE, None, 5004),
        (cpo, "tokens", None, 5004),
        (cpo, "commands", None, 5004),
        (cpo, "nonsense", None, 5004),
    ]
    for receiver, module, sender, code in wanted:
        answer = await peer.request(receiver, module, SUBSCRIBE, good, sender=sender)
        assert (answer.status, answer.code) == (200, code), (receiver, module, sender)
        assert answer.json["status_message"]
    state = await one.engine.state()
    assert not [s for s in state["subscriptions_here"] if s["platform"] == peer.identity]
    assert "sender_refused" in one.engine.log.read_text()


@pytest.mark.requirement("R.03.01.06")
@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"/retry_interval"}),
        ({"retry_interval": 0, "max_queue_size": 1}, {"/retry_interval"}),
        ({"retry_interval": -1, "max_queue_size": 1}, {"/retry_interval"}),
        ({"retry_interval": "1", "max_queue_size": 1}, {"/retry_interval"}),
        ({"retry_interval": None, "max_queue_size": 1}, {"/retry_interval"}),
        ({"retry_interval": True, "max_queue_size": 1}, {"/retry_interval"}),
        (b'{"retry_interval": 1E400, "max_queue_size": 1}', {"/retry_interval"}),
        (b'{"retry_interval": 1e-400, "max_queue_size": 1}', {"/retry_interval"}),
        ({"retry_interval": 1, "parallelism_limit": 0}, {"/parallelism_limit"}),
        ({"retry_interval": 1, "parallelism_limit": -1}, {"/parallelism_limit"}),
        ({"retry_interval": 1, "parallelism_limit": 1.5}, {"/parallelism_limit"}),
        ({"retry_interval": 1, "parallelism_limit": "1"}, {"/parallelism_limit"}),
        (b'{"retry_interval": 1, "parallelism_limit": 1E400}', {"/parallelism_limit"}),
        ({"retry_interval": 1, "max_queue_size": 0}, {"/max_queue_size"}),
        ({"retry_interval": 1, "max_queue_size": 2**63}, {"/max_queue_size"}),
        ({"retry_interval": 0, "parallelism_limit": 0, "max_queue_size": 0},
         {"/retry_interval", "/parallelism_limit", "/max_queue_size"}),
        (b'{"retry_interval": 1, "retry_interval": 2}', {"/retry_interval"}),
    ],
)  # fmt: skip
async def test_a_subscribe_with_wrong_fields_is_refused_by_name(peer: Peer, cpo: str, body: Any, fields: set[str]):
    """Values that cannot be are 2001 with the field's name, and make no subscription (B5, B18, B36)."""
    answer = await peer.request(cpo, MODULE, SUBSCRIBE, body)
    assert (answer.status, answer.code, answer.fields) == (200, 2001, fields)
    assert (await peer.request(cpo, MODULE, "state", method="GET")).code == 5005


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b'"x"', b"{", b'{"retry_interval":NaN}', b"\xff", b"{}{}"])
async def test_a_subscribe_that_is_no_json_object_is_a_bad_request(peer: Peer, cpo: str, body: bytes):
    """A body that is not a JSON object is HTTP 400 with 2001 (B18)."""
    answer = await peer.request(cpo, MODULE, SUBSCRIBE, body)
    assert (answer.status, answer.code) == (400, 2001)


async def test_party_ids_are_compared_without_case(one: World, peer: Peer, cpo: str):
    """A subscribe in lower case is the same subscription (B10), and what we send has the ids in upper case."""
    assert (await peer.subscribe(cpo.lower(), MODULE, sender=peer.party.lower())).code == 1000
    assert (await peer.request(cpo, MODULE, "state", method="GET")).code == 1000
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    (update,) = await peer.heard("update")
    assert (update.sender, update.receiver, update.json["issuer_party"]) == (cpo, peer.party, cpo)
    assert (await peer.subscribe(cpo, MODULE.upper())).code == 5004, "module ids are no party ids"


# -- 03.02: the request ------------------------------------------------------------------------------------


@pytest.mark.requirement(
    "R.03.02.01", "R.03.02.02", "R.03.02.03", "R.03.02.04", "R.03.02.05", "R.03.02.06", "R.03.02.07"
)
async def test_an_update_is_the_draft_s_request(one: World, peer: Peer, cpo: str):
    """POST from the producer to the subscriber, module and ``update``, ids in the headers, and the four fields."""
    await peer.subscribe(cpo, MODULE)
    versions = await one.publish(cpo, MODULE, {"Evse-One": b'{ "status" : "AVAILABLE" }'})
    (update,) = await peer.heard("update")
    assert update.method == "POST"
    assert update.path == f"/from/{cpo}/to/{peer.party}/{MODULE}/update"
    assert update.common_name == one.engine.identity
    assert update.headers["Ocpi-Request-Id"]
    assert update.headers["Ocpi-Correlation-Id"]
    assert update.headers["Content-Type"] == "application/json"
    assert update.json == {
        "issuer_party": cpo,
        "id": "Evse-One",
        "version": versions["Evse-One"],
        "payload": {"status": "AVAILABLE"},
    }
    assert type(update.json["version"]) is int
    assert update.payload == b'{ "status" : "AVAILABLE" }'


async def test_updates_go_to_who_subscribed_and_from_whom(one: World, peer: Peer, cpo: str):
    """Each of several subscriptions gets its own updates only, under its own parties and module."""
    other = await one.new_party("CPO")
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await one.publish(other, MODULE, {"B": CHARGING})
    await peer.subscribe(cpo, MODULE)
    await peer.subscribe(other, MODULE)
    seen = {(u.sender, u.receiver, u.module, u.object_id) for u in await peer.heard("update", 2)}
    assert seen == {(cpo, peer.party, MODULE, "A"), (other, peer.party, MODULE, "B")}


@pytest.mark.requirement("R.03.02.20")
async def test_ids_longer_than_36_are_never_sent(one: World, peer: Peer, cpo: str):
    """Ids of 1 to 36 printable characters are issued, slashes and escapes too; all others are refused at publishing."""
    await peer.subscribe(cpo, MODULE)
    good = ["x", "y" * 36, "a/b", "a%2Fb", "..", '"q"', "a\\b", "BE*BEC*E1"]
    bad = ["", "z" * 37, "z" * 39, "z" * 40, "a b", "a\tb", "a\nb", "a\x00b", "é", "\u200b"]
    await one.publish(cpo, MODULE, dict.fromkeys(good, AVAILABLE))
    lines = [json.dumps({"id": i, "payload": {"status": "AVAILABLE"}}) for i in bad]
    refused = await one.api("POST", f"/parties/{cpo}/objects/{MODULE}", content="\n".join(lines))
    assert [r["outcome"] for r in refused["results"]] == ["refused"] * len(bad)
    await peer.updated(good)
    await marked(one, peer, cpo)
    assert {u.object_id for u in of_module(peer)} == set(good)


# -- 03.02: what comes of it ------------------------------------------------------------------------------------

FAILURES = {
    "server error": refuse(3000),
    "client error": refuse(2000),
    "invalid": refuse(2001),
    "object error": refuse(6000),
    "immutable": refuse(6003),
    "no such code": refuse(999),
    "success with 400": accept(status=400),
    "success with 500": accept(status=500),
    "html": HTML,
    "html with 502": raw("<html>Bad gateway</html>", status=502, content_type="text/html"),
    "empty": raw(""),
    "no content": raw("", status=204),
    "no code": raw('{"timestamp":"2026-01-01T00:00:00Z"}'),
    "code as text": raw('{"status_code":"1000","timestamp":"2026-01-01T00:00:00Z"}'),
    "redirect": raw("", status=307, headers={"Location": "https://localhost:1/elsewhere"}),
    "a list": raw("[1000]"),
    "broken": BREAK,
    "broken, but stored": BREAK_STORED,
    "half": HALF,
    "silence": SILENCE,
}


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_whatever_is_no_final_answer_is_sent_again(one: World, peer: Peer, cpo: str):
    """All but 1000, 6001 and 6002 in time leads to a retry of the same version, by the rules, until it succeeds."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=32)
    names = {name: name.replace(" ", "-").replace(",", "") for name in FAILURES}
    peer.script["update"] = by_object({names[name]: in_turn(reply, accept()) for name, reply in FAILURES.items()})
    await one.publish(cpo, MODULE, dict.fromkeys(names.values(), AVAILABLE))
    await peer.subscribe(cpo, MODULE, parallelism_limit=32)
    await peer.until(lambda: len(watch.copies) == len(names) and len(of_module(peer)) == 2 * len(names))
    await one.when_here(cpo, queue_size=0, waiting_for_backoff=0)
    for name in names.values():
        first, second = of_module(peer, name)
        assert first.body == second.body, name
    assert watch.violations == []


@pytest.mark.requirement("R.03.02.16")
@pytest.mark.parametrize("reply", [accept(), accept(status=201), accept(status=202), accept({"any": "data"})])
async def test_a_success_is_not_sent_again(one: World, peer: Peer, cpo: str, reply: Any):
    """1000 with any 2xx settles an update."""
    peer.script["update"] = always(reply)
    await peer.subscribe(cpo, MODULE)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await peer.updated(["A"])
    await one.when_here(cpo, queue_size=0, waiting_for_backoff=0, delivered_since_start=1)
    assert len(of_module(peer)) == 1


@pytest.mark.requirement("R.03.02.16")
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_6001_is_final_for_its_version_only(one: World, peer: Peer, cpo: str, status: int):
    """6001 with any HTTP status is not retried, is shown with the partner's words, and a later version is sent (B3)."""
    peer.script["update"] = in_turn(refuse(6001, status=status, message="no such status"), accept())
    await peer.subscribe(cpo, MODULE)
    first = await one.publish(cpo, MODULE, {"A": AVAILABLE})
    shown = await one.when_here(cpo, rejected=1, queue_size=0)
    (stuck,) = [s for s in (await one.engine.state())["stuck"] if s.get("subscription") == shown["id"]]
    assert "no such status" in stuck["why"]
    assert (stuck["rejected"], stuck["version"], stuck["next_attempt_at"]) == (True, first["A"], None)
    assert len(of_module(peer)) == 1
    second = await one.publish(cpo, MODULE, {"A": CHARGING})
    await peer.heard("update", 2)
    await one.when_here(cpo, rejected=0, queue_size=0)
    assert [u.version for u in of_module(peer)] == [first["A"], second["A"]]


@pytest.mark.requirement("R.03.02.16")
async def test_6002_is_a_failure_at_first_and_the_end_later(one: World, peer: Peer, cpo: str):
    """Until the time-out has passed since the subscribe was answered 6002 is retried (B28), then it ends it (B4)."""
    peer.script["update"] = always(refuse(6002))
    await one.publish(cpo, MODULE, {"A": AVAILABLE, "B": AVAILABLE})
    await peer.subscribe(cpo, MODULE)
    answered_at = asyncio.get_running_loop().time()
    ended = await one.when_here(cpo, state="ended")
    assert (ended["ended_by"], ended["end_reason"], ended["queue_size"]) == ("receiver", "6002", 0)
    attempts = of_module(peer)
    assert len(attempts) > 2
    assert attempts[-1].at >= answered_at + peer.timeout_ms / 1000 - TRANSIT_S
    assert len([a for a in attempts if a.at > answered_at + peer.timeout_ms / 1000 + TRANSIT_S]) <= 1
    assert (await peer.request(cpo, MODULE, "state", method="GET")).code == 5005
    await one.publish(cpo, MODULE, {"A": CHARGING})
    await marked(one, peer, cpo)
    assert len(of_module(peer)) == len(attempts)
    assert len(peer.of("cancel-your-subscription")) == 0
    for n, (failed, retry) in enumerate(pairwise(of_module(peer, "A")), start=1):
        assert failed.answered_at is not None
        assert retry.at - failed.answered_at >= 2 ** (n - 1) * 0.05, n


@pytest.mark.requirement("R.03.02.16")
async def test_the_time_out_is_the_one_that_was_announced(one: World):
    """A partner that announced 2 s is waited for so long: an answer after 1.4 s counts, silence is retried later."""
    peer = Peer(one.folder, parties={"NLSLW": ()})
    peer.timeout_ms = 2000
    await peer.listen()
    try:
        await peer.register(one.engine, by_engine=True)
        cpo = await one.new_party("CPO")
        watch = peer.watch(cpo, peer.party, MODULE, limit=2)
        late = asyncio.Event()
        asyncio.get_running_loop().call_later(1.4, late.set)
        peer.script["update"] = by_object({"late": always(accept(after=late)), "never": in_turn(SILENCE, accept())})
        await one.publish(cpo, MODULE, {"late": AVAILABLE, "never": AVAILABLE})
        await peer.subscribe(cpo, MODULE, parallelism_limit=2)
        first, second = await peer.heard("update", 2, object_id="never")
        assert second.at - first.at >= 2.0 - TRANSIT_S
        assert len(of_module(peer, "late")) == 1
        assert watch.violations == []
    finally:
        await peer.stop()


# -- 03.02: in progress -------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.02.17")
async def test_without_a_limit_there_is_one_request_at_a_time(one: World, peer: Peer, cpo: str):
    """No parallelism limit means 1: the next update waits for the answer to the one before."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=1)
    answer = asyncio.Event()
    peer.script["update"] = lambda heard: accept(after=answer) if heard.module == MODULE else accept()
    await peer.subscribe(cpo, MODULE)
    await one.publish(cpo, MODULE, statuses(20))
    await peer.heard("update", module=MODULE)
    await marked(one, peer, cpo)
    assert len(of_module(peer)) == 1
    answer.set()
    await peer.updated(statuses(20))
    assert watch.violations == []


@pytest.mark.requirement("R.03.02.17")
async def test_no_more_requests_are_in_progress_than_agreed(one: World, peer: Peer, cpo: str):
    """At limit 4 four are in progress at once, and never five, while answers take their time and some fail."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=4)
    answer = asyncio.Event()
    scripts = {f"EVSE-{n:03d}": in_turn(refuse(3000, after=answer), accept()) for n in range(0, 40, 5)}
    peer.script["update"] = by_object(scripts, always(accept(after=answer)))
    await one.publish(cpo, MODULE, statuses(40))
    await peer.subscribe(cpo, MODULE, parallelism_limit=4)
    await peer.heard("update", 4)
    assert (await peer.request(cpo, MODULE, "state", method="GET")).data["current_queue_size"] == 40
    assert len(of_module(peer)) == 4
    answer.set()
    await peer.until(lambda: len(watch.copies) == 40)
    await one.when_here(cpo, queue_size=0)
    assert watch.violations == []


@pytest.mark.requirement("R.03.02.17")
async def test_a_broken_connection_keeps_its_place_until_the_time_out(one: World, peer: Peer, cpo: str):
    """Unanswered is in progress until the time-out, also when the connection broke: at limit 1 nothing else goes."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=1)
    peer.script["update"] = by_object({"EVSE-000": in_turn(BREAK, accept())})
    await one.publish(cpo, MODULE, statuses(3))
    await peer.subscribe(cpo, MODULE)
    await peer.updated(statuses(3))
    await peer.heard("update", 4)
    broken, other = of_module(peer)[:2]
    assert broken.object_id == "EVSE-000"
    assert other.at - broken.at >= peer.timeout_ms / 1000 - TRANSIT_S
    assert watch.violations == []


@pytest.mark.requirement("R.03.02.18")
async def test_two_requests_for_one_object_never_overlap(one: World, peer: Peer, cpo: str):
    """While one is in progress changes of its object wait, whatever the limit; then only the newest is sent."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=8)
    answer = asyncio.Event()
    peer.script["update"] = by_object({"A": in_turn(accept(after=answer), accept())})
    await peer.subscribe(cpo, MODULE, parallelism_limit=8)
    versions = [(await one.publish(cpo, MODULE, {"A": AVAILABLE}))["A"]]
    await peer.heard("update", object_id="A")
    for payload in (CHARGING, BLOCKED):
        versions += (await one.publish(cpo, MODULE, {"A": payload})).values()
    await one.publish(cpo, MODULE, {"B": AVAILABLE})
    await peer.updated(["B"])
    assert len(of_module(peer, "A")) == 1
    assert (await peer.request(cpo, MODULE, "state", method="GET")).data["current_queue_size"] == 1
    answer.set()
    await peer.heard("update", 2, object_id="A")
    await one.when_here(cpo, queue_size=0)
    assert [(u.version, u.payload) for u in of_module(peer, "A")] == [(versions[0], AVAILABLE), (versions[2], BLOCKED)]
    assert watch.violations == []


@pytest.mark.requirement("R.03.02.18", "R.03.03.01")
async def test_an_object_whose_connection_broke_waits_for_the_time_out_and_others_do_not(
    one: World, peer: Peer, cpo: str
):
    """Its retry, and even its next version, wait until the broken request is over; another object goes at once."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=8)
    peer.script["update"] = by_object({"A": in_turn(BREAK_STORED, accept())})
    await peer.subscribe(cpo, MODULE, parallelism_limit=8)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await peer.heard("update", object_id="A")
    newer = await one.publish(cpo, MODULE, {"A": CHARGING, "B": AVAILABLE})
    await peer.updated(["B"])
    assert len(of_module(peer, "A")) == 1
    first, second = await peer.heard("update", 2, object_id="A")
    assert second.at - first.at >= peer.timeout_ms / 1000 - TRANSIT_S
    assert second.version == newer["A"]
    await one.when_here(cpo, queue_size=0)
    assert watch.violations == []


# -- 03.03 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.03.01", "R.03.03.02")
async def test_retries_come_after_their_backoff_and_soon_after_it(one: World, peer: Peer, cpo: str):
    """After the n-th failure the next attempt comes 2^(n-1)·p later: 50, 100, 200, 400, 800 ms; never earlier."""
    watch = peer.watch(cpo, peer.party, MODULE)
    peer.script["update"] = in_turn(*[refuse(3000)] * 5, accept())
    await peer.subscribe(cpo, MODULE, retry_interval=0.05)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    attempts = await peer.heard("update", 6)
    for n, (failed, retry) in enumerate(pairwise(attempts), start=1):
        assert failed.answered_at is not None
        waited = retry.at - failed.answered_at
        assert 2 ** (n - 1) * 0.05 <= waited < 2 ** (n - 1) * 0.05 + SOON_S, n
    await one.when_here(cpo, queue_size=0)
    assert len({a.body for a in attempts}) == 1
    assert watch.violations == []


@pytest.mark.requirement("R.03.03.01")
async def test_a_new_version_has_a_backoff_of_its_own(one: World, peer: Peer, cpo: str):
    """The count of failures belongs to a version: the next one goes at once, and begins with p again."""
    watch = peer.watch(cpo, peer.party, MODULE, retry_interval_s=0.2)
    peer.script["update"] = in_turn(*[refuse(3000)] * 4, accept())
    await peer.subscribe(cpo, MODULE, retry_interval=0.2)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await peer.heard("update", 3)
    await one.publish(cpo, MODULE, {"A": CHARGING})
    attempts = await peer.heard("update", 5)
    assert [a.payload for a in attempts] == [AVAILABLE] * 3 + [CHARGING] * 2
    failed = attempts[3].answered_at
    assert failed is not None
    assert 0.2 <= attempts[4].at - failed < 0.2 + SOON_S
    await one.when_here(cpo, queue_size=0)
    assert watch.violations == []


@pytest.mark.requirement("R.03.03.03")
async def test_an_update_that_waits_is_discarded_when_a_newer_one_was_sent(one: World, peer: Peer, cpo: str):
    """Once a greater version of an object has been delivered, the one that waited for its backoff is never sent."""
    peer.script["update"] = in_turn(refuse(3000), accept())
    await peer.subscribe(cpo, MODULE, retry_interval=LONG_S)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await one.when_here(cpo, waiting_for_backoff=1, queue_size=1)
    versions = await one.publish(cpo, MODULE, {"A": CHARGING})
    _, second = await peer.heard("update", 2)
    assert second.version == versions["A"]
    await one.when_here(cpo, waiting_for_backoff=0, queue_size=0)
    assert (await peer.request(cpo, MODULE, "request-immediate-retries")).code == 1000
    await marked(one, peer, cpo)
    assert len(of_module(peer)) == 2


@pytest.mark.requirement("R.03.03.01")
async def test_an_object_that_fails_holds_up_no_other(one: World, peer: Peer, cpo: str):
    """At limit 1 all other objects are delivered while one waits for its backoff."""
    watch = peer.watch(cpo, peer.party, MODULE, retry_interval_s=LONG_S)
    peer.script["update"] = by_object({"EVSE-000": always(refuse(3000))})
    await one.publish(cpo, MODULE, statuses(20))
    await peer.subscribe(cpo, MODULE, retry_interval=LONG_S)
    await peer.until(lambda: len(watch.copies) == 19)
    await one.when_here(cpo, queue_size=1, waiting_for_backoff=1)
    assert len(of_module(peer)) == 20
    assert watch.violations == []


async def test_while_a_platform_is_down_only_probes_are_sent(one: World, peer: Peer, cpo: str):
    """With no connection new first attempts wait, too (B6); the platform is shown as down, and then catches up."""
    neighbour = await one.new_peer()
    watch = peer.watch(cpo, peer.party, MODULE, limit=4)
    await peer.subscribe(cpo, MODULE, parallelism_limit=4)
    await neighbour.subscribe(cpo, MODULE)
    await peer.close()
    await one.publish(cpo, MODULE, statuses(100))
    await neighbour.updated(statuses(100))
    state = await one.engine.wait_for(lambda s: _platform(s, peer)["reachable"] is False)
    assert _platform(state, peer)["next_probe_at"] is not None
    assert _platform(state, neighbour)["reachable"] is True
    (shown,) = [s for s in state["subscriptions_here"] if s["platform"] == peer.identity]
    assert shown["failed_since_start"] < 50
    assert (shown["queue_size"], shown["oldest_waiting_since"] is None) == (100, False)
    await peer.listen()
    await peer.updated(statuses(100))
    await one.engine.wait_for(lambda s: _platform(s, peer)["reachable"] is True)
    assert watch.violations == []


def _platform(state: dict[str, Any], peer: Peer) -> dict[str, Any]:
    (found,) = [p for p in state["platforms"] if p["identity"] == peer.identity]
    return dict(found)


# -- 03.04 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.04.05", "R.03.04.06a", "R.03.04.06b")
@pytest.mark.parametrize("body", [None, b"", b"not even JSON"])
async def test_a_subscription_ends_when_its_receiver_cancels(one: World, peer: Peer, cpo: str, body: bytes | None):
    """1000; what waits for its backoff is discarded, what changes later is not sent, and a body is ignored (B47)."""
    peer.script["update"] = by_object({"EVSE-000": always(refuse(3000))})
    await one.publish(cpo, MODULE, statuses(3))
    await peer.subscribe(cpo, MODULE, retry_interval=0.5)
    await one.when_here(cpo, waiting_for_backoff=1, queue_size=1)
    answer = await peer.request(cpo, MODULE, "cancel-my-subscription", body)
    assert (answer.status, answer.code) == (200, 1000)
    heard = len(of_module(peer))
    shown = await one.here(cpo)
    assert (shown["state"], shown["ended_by"], shown["queue_size"], shown["waiting_for_backoff"]) == (
        "ended", "receiver", 0, 0,
    )  # fmt: skip
    await one.publish(cpo, MODULE, statuses(5, CHARGING))
    await marked(one, peer, cpo)
    assert len(of_module(peer)) == heard
    assert (await peer.request(cpo, MODULE, "state", method="GET")).code == 5005
    assert len(peer.of("cancel-your-subscription")) == 0


@pytest.mark.requirement("R.03.04.05")
async def test_nothing_is_begun_after_the_answer_to_a_cancellation(one: World, peer: Peer, cpo: str):
    """In the middle of a snapshot, no request begins after the cancellation was answered."""
    answers = asyncio.Event()
    peer.script["update"] = lambda heard: accept(after=answers) if heard.module == MODULE else accept()
    await one.publish(cpo, MODULE, statuses(50))
    await peer.subscribe(cpo, MODULE, parallelism_limit=4)
    await peer.heard("update", 4)
    assert (await peer.request(cpo, MODULE, "cancel-my-subscription")).code == 1000
    answers.set()
    await peer.until(lambda: all(u.answered_at for u in of_module(peer)))
    await marked(one, peer, cpo)
    assert len(of_module(peer)) == 4


@pytest.mark.requirement("R.03.04.08", "R.03.06.05", "R.03.07.05", "R.03.09.04", "R.03.10.05")
async def test_what_is_asked_about_no_subscription_is_answered_5005(one: World, peer: Peer, cpo: str):
    """Cancel, state, renegotiate, retries and full update of a subscription that is none, or another's, are 5005."""
    owner = await one.new_peer()
    assert (await owner.subscribe(cpo, MODULE)).code == 1000
    parameters = {"retry_interval": 1, "max_queue_size": 10}
    operations: list[tuple[str, str, Any]] = [
        ("GET", "state", None),
        ("POST", "cancel-my-subscription", None),
        ("POST", "renegotiate-my-subscription", parameters),
        ("POST", "request-immediate-retries", None),
        ("POST", "request-full-update", {"id": "A"}),
    ]
    for method, operation, body in operations:
        for receiver, module, sender in (
            (cpo, MODULE, None),  # subscribed by another platform
            (cpo, "locations", None),
            ("XXXXX", MODULE, None),
            (cpo, MODULE, owner.party),  # a party that this platform does not serve
            (cpo, MODULE, "no-party"),
        ):
            answer = await peer.request(receiver, module, operation, body, method=method, sender=sender)
            assert (answer.status, answer.code) == (200, 5005), (operation, receiver, module, sender)
    assert (await owner.request(cpo, MODULE, "state", method="GET")).code == 1000


async def test_wrong_verbs_on_operations_of_subscriptions(peer: Peer, cpo: str):
    """A wrong verb is 405, and with a JSON body 200 with 2000 (B17); what is no operation is 404."""
    await peer.subscribe(cpo, MODULE)
    for method, operation in (
        ("POST", "state"),
        ("GET", "cancel-my-subscription"),
        ("PUT", "update"),
        ("DELETE", "renegotiate-my-subscription"),
        ("GET", SUBSCRIBE),
    ):
        bare = await peer.request(cpo, MODULE, operation, method=method)
        assert (bare.status, bare.code) == (405, 2000), operation
        with_body = await peer.request(cpo, MODULE, operation, {}, method=method)
        assert (with_body.status, with_body.code) == (200, 2000), operation
    for operation in ("nonsense", "states", "State", "update/more"):
        answer = await peer.request(cpo, MODULE, operation, {})
        assert (answer.status, answer.code) == (404, 2000), operation
    assert (await peer.request(cpo, MODULE, "state", method="GET")).code == 1000


# -- 03.05 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.05.01", "R.03.05.02", "R.03.05.03", "R.03.05.04", "R.03.05.09")
@pytest.mark.parametrize("reason", ["QUEUE_OVERFLOW", "DATA_NO_LONGER_AVAILABLE", "OTHER"])
async def test_a_subscription_is_cancelled_by_its_sender(one: World, peer: Peer, cpo: str, reason: str):
    """The receiver is told with the reason, and no update begins after that, not even a retry."""
    peer.script["update"] = by_object({"EVSE-000": always(refuse(3000))})
    await one.publish(cpo, MODULE, statuses(3))
    await peer.subscribe(cpo, MODULE, retry_interval=0.2)
    shown = await one.when_here(cpo, waiting_for_backoff=1, queue_size=1)
    await one.api("POST", f"/subscriptions/out-{shown['id']}/cancel", {"reason": reason})
    (notice,) = await peer.heard("cancel-your-subscription")
    assert notice.method == "POST"
    assert notice.path == f"/from/{cpo}/to/{peer.party}/{MODULE}/cancel-your-subscription"
    assert notice.json == {"reason": reason}
    assert notice.headers["Ocpi-Request-Id"]
    assert notice.headers["Ocpi-Correlation-Id"]
    ended = await one.when_here(cpo, state="ended")
    assert (ended["ended_by"], ended["end_reason"], ended["queue_size"]) == ("us", reason, 0)
    await one.publish(cpo, MODULE, statuses(5, CHARGING))
    await marked(one, peer, cpo)
    assert all(u.at < notice.at for u in of_module(peer))
    assert (await peer.request(cpo, MODULE, "state", method="GET")).code == 5005


@pytest.mark.requirement("R.03.05.09")
async def test_a_cancellation_is_told_until_it_is_heard(one: World, peer: Peer, cpo: str):
    """No answer, or none that counts: the notice is repeated, and shown as stuck; 5005 counts as heard, too."""
    peer.script["cancel-your-subscription"] = in_turn(HTML, refuse(5005))
    await peer.subscribe(cpo, MODULE)
    shown = await one.here(cpo)
    await one.api("POST", f"/subscriptions/out-{shown['id']}/cancel", {"reason": "OTHER"})
    await peer.heard("cancel-your-subscription")
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    assert (await one.here(cpo))["state"] == "cancelling"
    state = await one.engine.wait_for(
        lambda s: any("cancellation" in e["what"] and cpo in e["what"] for e in s["stuck"])
    )
    assert any(e["next_attempt_at"] for e in state["stuck"] if cpo in e["what"])
    await peer.heard("cancel-your-subscription", 2)
    await one.when_here(cpo, state="ended")
    assert of_module(peer) == []


async def test_a_new_subscribe_withdraws_a_notice_that_was_not_heard(one: World, peer: Peer, cpo: str):
    """While the receiver has not heard of the cancellation it may subscribe again, and is not told any more (B24)."""
    peer.script["cancel-your-subscription"] = always(HTML)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await peer.subscribe(cpo, MODULE)
    await peer.updated(["A"])
    shown = await one.here(cpo)
    await one.api("POST", f"/subscriptions/out-{shown['id']}/cancel", {})
    await peer.heard("cancel-your-subscription")
    assert (await peer.subscribe(cpo, MODULE)).code == 1000
    await peer.heard("update", 2)
    again = await one.when_here(cpo, state="live", queue_size=0)
    assert again["end_reason"] is None
    assert not [e for e in (await one.engine.state())["stuck"] if cpo in e["what"]]


@pytest.mark.requirement("R.03.05.04")
async def test_a_queue_that_grows_beyond_its_size_is_cancelled(one: World, peer: Peer, cpo: str):
    """More objects owed than promised end in QUEUE_OVERFLOW, but not before the first catch-up is done (B24)."""
    going = asyncio.Event()
    peer.script["update"] = lambda _heard: accept(after=going)
    await one.publish(cpo, MODULE, statuses(20))
    await peer.subscribe(cpo, MODULE, max_queue_size=3)
    assert (await peer.request(cpo, MODULE, "state", method="GET")).data["current_queue_size"] == 20
    going.set()
    await peer.updated(statuses(20))
    await one.when_here(cpo, first_catch_up_done=True, queue_size=0)
    assert peer.of("cancel-your-subscription") == []
    peer.script["update"] = always(refuse(3000))
    await one.publish(cpo, MODULE, statuses(3, CHARGING))
    await one.when_here(cpo, queue_size=3, state="live")
    await one.publish(cpo, MODULE, statuses(4, BLOCKED))
    (notice,) = await peer.heard("cancel-your-subscription")
    assert notice.json == {"reason": "QUEUE_OVERFLOW"}
    await one.when_here(cpo, state="ended", end_reason="QUEUE_OVERFLOW", queue_size=0)


# -- 03.06 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.06.04")
async def test_the_state_counts_exactly_what_is_owed(one: World, peer: Peer, cpo: str):
    """The queue size is the number of objects owed: unread, in progress and waiting; an object counts once."""

    async def owed() -> int:
        answer = await peer.request(cpo, MODULE, "state", method="GET")
        assert (answer.status, answer.code, set(answer.data)) == (
            200, 1000, {"retry_interval", "current_queue_size", "max_queue_size"},
        )  # fmt: skip
        assert (answer.data["retry_interval"], answer.data["max_queue_size"]) == (LONG_S + 0.5, 77)
        size: int = answer.data["current_queue_size"]
        return size

    going = asyncio.Event()
    peer.script["update"] = by_object({"EVSE-000": always(refuse(3000))}, always(accept(after=going)))
    await peer.subscribe(cpo, MODULE, retry_interval=LONG_S + 0.5, parallelism_limit=2, max_queue_size=77)
    assert await owed() == 0
    await one.publish(cpo, MODULE, statuses(70))
    await one.when_here(cpo, waiting_for_backoff=1)
    await peer.heard("update", 3)
    assert await owed() == 70
    await one.publish(cpo, MODULE, {"EVSE-001": CHARGING, "EVSE-069": CHARGING, "EVSE-070": CHARGING})
    assert await owed() == 71
    going.set()
    await peer.updated(f"EVSE-{n:03d}" for n in range(71))
    await one.when_here(cpo, queue_size=1)
    assert await owed() == 1


# -- 03.07 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.07.06", "R.03.07.07")
async def test_a_receiver_s_proposal_is_accepted_and_applied(one: World, peer: Peer, cpo: str):
    """ACCEPTED, shown in the state, and new requests follow it: a greater limit at once, a smaller interval too."""
    going = asyncio.Event()
    peer.script["update"] = by_object({"F": in_turn(refuse(3000), accept())}, always(accept(after=going)))
    await one.publish(cpo, MODULE, statuses(10))
    await peer.subscribe(cpo, MODULE, retry_interval=LONG_S, max_queue_size=50)
    await peer.heard("update", 1)
    proposal = {"retry_interval": 0.05, "parallelism_limit": 3, "max_queue_size": 70}
    answer = await peer.request(cpo, MODULE, "renegotiate-my-subscription", proposal)
    assert (answer.status, answer.code, answer.data) == (200, 1000, "ACCEPTED")
    await peer.heard("update", 3)
    state = (await peer.request(cpo, MODULE, "state", method="GET")).data
    assert (state["retry_interval"], state["max_queue_size"]) == (0.05, 70)
    await one.when_here(cpo, parallelism_limit=3, in_flight=3)
    assert len(of_module(peer)) == 3
    going.set()
    await peer.updated(statuses(10))
    await one.publish(cpo, MODULE, {"F": AVAILABLE})
    await peer.heard("update", 2, object_id="F")


@pytest.mark.requirement("R.03.07.08", "R.03.07.09")
async def test_a_receiver_s_proposal_that_is_too_much_is_rejected(one: World, peer: Peer, cpo: str):
    """REJECTED with 1000 for a queue beyond our limit, and everything stays as it was."""
    await peer.subscribe(cpo, MODULE, retry_interval=7, max_queue_size=50)
    before = await one.here(cpo)
    proposal = {"retry_interval": 1, "parallelism_limit": 9, "max_queue_size": 1_000_001}
    answer = await peer.request(cpo, MODULE, "renegotiate-my-subscription", proposal)
    assert (answer.status, answer.code, answer.data) == (200, 1000, "REJECTED")
    after = await one.here(cpo)
    assert {key: after[key] for key in ("retry_interval_s", "parallelism_limit", "queue_size_max")} == {
        "retry_interval_s": 7, "parallelism_limit": 1, "queue_size_max": 50,
    }  # fmt: skip
    assert after["since"] == before["since"]
    going = asyncio.Event()
    peer.script["update"] = lambda heard: accept(after=going) if heard.module == MODULE else accept()
    await one.publish(cpo, MODULE, statuses(5))
    await peer.heard("update", 1)
    await marked(one, peer, cpo)
    assert len(of_module(peer)) == 1
    going.set()
    await peer.updated(statuses(5))


async def test_a_proposal_with_wrong_fields_is_2001(peer: Peer, cpo: str):
    """A proposal needs its interval and its queue size, and no zeros; what was agreed stays."""
    await peer.subscribe(cpo, MODULE, retry_interval=7, max_queue_size=50)
    for body, fields in (
        ({}, {"/retry_interval"}),
        ({"retry_interval": 1}, {"/max_queue_size"}),
        ({"retry_interval": 0, "max_queue_size": 5}, {"/retry_interval"}),
        ({"retry_interval": 1, "parallelism_limit": 0, "max_queue_size": 0}, {"/parallelism_limit", "/max_queue_size"}),
        ({"retry_interval": "1", "max_queue_size": "5"}, {"/retry_interval", "/max_queue_size"}),
    ):
        answer = await peer.request(cpo, MODULE, "renegotiate-my-subscription", body)
        assert (answer.status, answer.code, answer.fields) == (200, 2001, fields)
    state = (await peer.request(cpo, MODULE, "state", method="GET")).data
    assert state == {"retry_interval": 7, "current_queue_size": 0, "max_queue_size": 50}


# -- 03.08 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.08.01", "R.03.08.02", "R.03.08.03", "R.03.08.04")
@pytest.mark.parametrize("answer", ["ACCEPTED", "REJECTED"])
async def test_a_sender_proposes_other_parameters(one: World, peer: Peer, cpo: str, answer: str):
    """The proposal is a POST with all three fields; what was agreed changes if and only if it is accepted."""
    peer.script["renegotiate-your-subscription"] = always(accept(answer))
    await peer.subscribe(cpo, MODULE, retry_interval=7, max_queue_size=50)
    shown = await one.here(cpo)
    order = {"retry_interval_s": 0.5, "parallelism_limit": 4, "queue_size_max": 60}
    told = await one.api("POST", f"/subscriptions/out-{shown['id']}/renegotiate", order)
    assert told == {"accepted": answer == "ACCEPTED"}
    (proposal,) = peer.of("renegotiate-your-subscription")
    assert proposal.method == "POST"
    assert proposal.path == f"/from/{cpo}/to/{peer.party}/{MODULE}/renegotiate-your-subscription"
    assert proposal.json == {"retry_interval": 0.5, "parallelism_limit": 4, "max_queue_size": 60}
    assert proposal.headers["Ocpi-Request-Id"]
    after = await one.here(cpo)
    expected = order if answer == "ACCEPTED" else {"retry_interval_s": 7, "parallelism_limit": 1, "queue_size_max": 50}
    assert {key: after[key] for key in order} == expected


@pytest.mark.parametrize("reply", [HTML, refuse(2000), refuse(5005), BREAK, accept("MAYBE")])
async def test_a_proposal_without_a_clear_answer_changes_nothing(one: World, peer: Peer, cpo: str, reply: Any):
    """Whatever is not ACCEPTED leaves everything as it was, and the operator is told."""
    peer.script["renegotiate-your-subscription"] = always(reply)
    await peer.subscribe(cpo, MODULE, retry_interval=7, max_queue_size=50)
    shown = await one.here(cpo)
    async with one.engine.api() as api:
        order = {"parallelism_limit": 4}
        told = await api.post(f"/api/v1/subscriptions/out-{shown['id']}/renegotiate", json=order)
    assert told.status_code in (502, 504) or told.json() == {"accepted": False}
    after = await one.here(cpo)
    assert (after["retry_interval_s"], after["parallelism_limit"], after["queue_size_max"]) == (7, 1, 50)


# -- 03.09 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.09.05", "R.03.09.06")
async def test_immediate_retries_are_made_at_once_within_the_limit(one: World, peer: Peer, cpo: str):
    """1000, and everything that waits for its backoff goes out now, never more at once than agreed."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=2, retry_interval_s=LONG_S)
    watch.allow_immediate = True
    peer.script["update"] = always(refuse(3000))
    await one.publish(cpo, MODULE, statuses(10))
    await peer.subscribe(cpo, MODULE, retry_interval=LONG_S, parallelism_limit=2)
    await one.when_here(cpo, waiting_for_backoff=10, in_flight=0)
    assert len(of_module(peer)) == 10
    peer.script["update"] = always(accept())
    answer = await peer.request(cpo, MODULE, "request-immediate-retries")
    assert (answer.status, answer.code) == (200, 1000)
    await peer.heard("update", 20, module=MODULE)
    await one.when_here(cpo, queue_size=0, waiting_for_backoff=0)
    assert len(watch.copies) == 10
    assert watch.violations == []


@pytest.mark.requirement("R.03.09.05")
async def test_immediate_retries_with_nothing_waiting_are_a_success_too(one: World, peer: Peer, cpo: str):
    """With nothing to retry the answer is 1000 all the same, and nothing is sent."""
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await peer.subscribe(cpo, MODULE)
    await peer.updated(["A"])
    await one.when_here(cpo, queue_size=0)
    assert (await peer.request(cpo, MODULE, "request-immediate-retries", b"ignored")).code == 1000
    await marked(one, peer, cpo)
    assert len(of_module(peer)) == 1


# -- 03.10 ----------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.10.07", "R.03.10.08")
@pytest.mark.parametrize("spelled", ["Evse-1", "EVSE-1", "evse-1"])
async def test_a_full_update_sends_the_latest_version_again(one: World, peer: Peer, cpo: str, spelled: str):
    """1000, then an update of that object's latest version, although it was delivered; ids in any case (B10)."""
    await peer.subscribe(cpo, MODULE)
    await one.publish(cpo, MODULE, {"Evse-1": AVAILABLE, "Evse-2": AVAILABLE})
    await peer.updated(["Evse-1", "Evse-2"])
    versions = await one.publish(cpo, MODULE, {"Evse-1": CHARGING})
    await peer.heard("update", 3)
    await one.when_here(cpo, queue_size=0)
    answer = await peer.request(cpo, MODULE, "request-full-update", {"id": spelled})
    assert (answer.status, answer.code) == (200, 1000)
    again = (await peer.heard("update", 4))[3]
    assert (again.object_id, again.version, again.payload) == ("Evse-1", versions["Evse-1"], CHARGING)
    await one.when_here(cpo, queue_size=0)


@pytest.mark.requirement("R.03.10.06")
async def test_a_full_update_of_what_is_not_issued_to_the_subscriber_is_5006(one: World, peer: Peer, cpo: str):
    """An id that does not exist, is of another module or issuer, or is for others only, is 5006."""
    other = await one.new_party("CPO")
    await one.publish(other, MODULE, {"OTHERS": AVAILABLE})
    await one.publish(cpo, MODULE, {"SECRET": AVAILABLE}, audience=["NLXXX"])
    await one.publish(cpo, "tariffs", {"T": TARIFF})
    await peer.subscribe(cpo, MODULE)
    for object_id in ("nonsense", "OTHERS", "SECRET", "T", "x" * 39, "x" * 4000, "a b", "é", "a/b"):
        answer = await peer.request(cpo, MODULE, "request-full-update", {"id": object_id})
        assert (answer.status, answer.code) == (200, 5006), object_id
    await marked(one, peer, cpo)
    assert of_module(peer) == []


async def test_a_full_update_needs_an_id(peer: Peer, cpo: str):
    """Without an id that is a string the answer is 2001."""
    await peer.subscribe(cpo, MODULE)
    for body in ({}, {"id": None}, {"id": 1}, {"id": ""}, {"id": ["A"]}, b'{"id":1E400}'):
        answer = await peer.request(cpo, MODULE, "request-full-update", body)
        assert (answer.status, answer.code, answer.fields) == (200, 2001, {"/id"}), body


@pytest.mark.requirement("R.03.10.08")
async def test_a_rejected_version_is_sent_again_when_it_is_asked_for(one: World, peer: Peer, cpo: str):
    """What was refused with 6001 goes out once more on request, and counts as delivered when it is taken."""
    peer.script["update"] = in_turn(refuse(6001), accept())
    await peer.subscribe(cpo, MODULE)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await one.when_here(cpo, rejected=1)
    assert (await peer.request(cpo, MODULE, "request-full-update", {"id": "A"})).code == 1000
    await peer.heard("update", 2)
    await one.when_here(cpo, rejected=0, queue_size=0)


# -- lives --------------------------------------------------------------------------------------------------------


async def test_a_second_subscribe_replaces_the_parameters_and_sends_everything_again(one: World, peer: Peer, cpo: str):
    """Subscribed once more, a consumer gets a full snapshot, under the new parameters (B8)."""
    await one.publish(cpo, MODULE, statuses(30))
    await peer.subscribe(cpo, MODULE)
    await peer.updated(statuses(30))
    await one.when_here(cpo, queue_size=0)
    watch = peer.watch(cpo, peer.party, MODULE, limit=3)
    answer = await peer.subscribe(cpo, MODULE, retry_interval=2, parallelism_limit=3, max_queue_size=40)
    assert (answer.code, answer.data) == (1000, {"max_queue_size": 40})
    await peer.until(lambda: len(watch.copies) == 30)
    await one.when_here(cpo, queue_size=0, retry_interval_s=2, parallelism_limit=3, queue_size_max=40)
    assert len(of_module(peer)) == 60
    assert watch.violations == []


async def test_what_waits_for_its_backoff_waits_across_a_new_subscribe(one: World, peer: Peer, cpo: str):
    """A new life does not shorten a backoff (B8); immediate retries do."""
    peer.script["update"] = by_object({"EVSE-000": in_turn(refuse(3000), accept())})
    await one.publish(cpo, MODULE, statuses(5))
    await peer.subscribe(cpo, MODULE, retry_interval=LONG_S)
    await one.when_here(cpo, waiting_for_backoff=1, queue_size=1)
    await peer.subscribe(cpo, MODULE, retry_interval=LONG_S)
    await peer.heard("update", 9)
    await one.when_here(cpo, queue_size=1)
    await marked(one, peer, cpo)
    assert len(of_module(peer, "EVSE-000")) == 1
    assert (await peer.request(cpo, MODULE, "request-immediate-retries")).code == 1000
    await peer.heard("update", 2, object_id="EVSE-000")
    await one.when_here(cpo, queue_size=0)


@pytest.mark.requirement("R.03.03.01")
async def test_a_backoff_survives_a_restart(one: World, peer: Peer, cpo: str):
    """After a stop in order and a start the same count and the same time hold: 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 s (B5)."""
    watch = peer.watch(cpo, peer.party, MODULE, retry_interval_s=0.1)
    peer.script["update"] = in_turn(*[refuse(3000)] * 6, accept())
    await peer.subscribe(cpo, MODULE, retry_interval=0.1)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await peer.heard("update", 6)
    await one.when_here(cpo, waiting_for_backoff=1, in_flight=0)
    assert await one.engine.stop() == 0
    await one.engine.start()
    running_at = asyncio.get_running_loop().time()
    attempts = await peer.heard("update", 7)
    failed = attempts[5].answered_at
    assert failed is not None
    assert failed + 3.2 <= attempts[6].at < max(failed + 3.2, running_at) + SOON_S
    await one.when_here(cpo, queue_size=0)
    assert watch.violations == []


@pytest.mark.requirement("R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_a_request_is_in_progress_also_when_its_sender_was_killed(one: World, peer: Peer, cpo: str):
    """Killed with requests under way, the engine sends nothing to that platform before their time-out (B30)."""
    watch = peer.watch(cpo, peer.party, MODULE, limit=2)
    peer.timeout_ms = 1000
    peer.script["update"] = always(SILENCE)
    await one.publish(cpo, MODULE, statuses(6))
    await peer.subscribe(cpo, MODULE, parallelism_limit=2)
    await peer.heard("update", 2)
    await one.engine.kill()
    peer.script["update"] = always(accept())
    await one.engine.start()
    await peer.updated(statuses(6))
    await peer.until(lambda: len(watch.copies) == 6)
    assert watch.violations == []
