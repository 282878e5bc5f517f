"""Chapter 3 with partners that answer in every wrong way: failures with backoff that stall nothing and nobody else."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final

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
    Peer,
    Reply,
    World,
    accept,
    always,
    by_object,
    in_turn,
    raw,
    refuse,
    world,
)
from tests.support.receiver import Observer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapter 3, bad peers")]

MODULE = "evsestatuses"
AVAILABLE, CHARGING = b'{"status":"AVAILABLE"}', b'{"status":"CHARGING"}'
AT_EASE_S = 5.0  # enough for some hundred updates on a machine that runs other tests, too little for a stall
BUSY_S = 0.4  # sixteen partners in one process are slow to notice what arrives

RUDE: Final[Mapping[str, Reply]] = {
    "html": HTML,
    "html with 502": raw("<html>Bad gateway</html>", status=502, content_type="text/html"),
    "no envelope": raw('{"ok":true}'),
    "not quite JSON": raw('{"status_code":1000,}'),
    "invalid UTF-8": raw(b'{"status_code":1000,"status_message":"\xff"}'),
    "redirect": raw("", status=301, headers={"Location": "https://localhost:1/"}),
    "redirect to itself": raw("", status=308, headers={"Location": "."}),
    "success with 500": accept(status=500),
    "an odd status": accept(status=599),
    "a header of 1 MB": raw('{"status_code":1000}', headers={"X-Long": "x" * 1_000_000}),
    "broken": BREAK,
    "half": HALF,
    "no HTTP": NO_HTTP,
    "silence": SILENCE,
    "one byte a second": DRIP,
    "no end": FLOOD,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One engine for all tests here."""
    async with world(tmp_path_factory.mktemp("bad-peers"), backing=backing) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registered(one: World) -> dict[str, Peer]:
    """Register a partner for each wrong way to answer."""
    return {name: await one.new_peer() for name in RUDE}


@pytest.fixture
def rude(registered: dict[str, Peer]) -> dict[str, Peer]:
    """Let the partners forget what they heard."""
    for peer in registered.values():
        peer.requests.clear()
    return registered


def statuses(count: int, payload: bytes = AVAILABLE) -> dict[str, bytes]:
    """Make so many objects."""
    return {f"EVSE-{number:03d}": payload for number in range(count)}


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.03.01", "R.03.03.02")
async def test_a_bad_answer_for_one_object_stalls_no_other(one: World, rude: dict[str, Peer]):
    """All other objects of the subscription arrive before the bad one's retry, which comes after its backoff."""
    cpo = await one.new_party("CPO")
    watches: dict[str, Observer] = {}
    for name, peer in rude.items():
        watches[name] = peer.watch(cpo, peer.party, MODULE, limit=2, retry_interval_s=3.0, transit_s=BUSY_S)
        peer.script["update"] = by_object({"EVSE-000": in_turn(RUDE[name], accept())})
    await one.publish(cpo, MODULE, statuses(20))
    for peer in rude.values():
        await peer.subscribe(cpo, MODULE, retry_interval=3.0, parallelism_limit=2)

    async def check(name: str, peer: Peer) -> None:
        first, second = await peer.heard("update", 2, object_id="EVSE-000")
        others = [u for u in peer.of("update") if u.object_id != "EVSE-000"]
        assert len(others) == 19, name
        assert all(u.answered_at is not None and u.answered_at < second.at for u in others), name
        assert second.at - first.at >= 3.0, name
        assert second.body == first.body, name

    await asyncio.gather(*(check(name, peer) for name, peer in rude.items()))
    await one.engine.drained()
    assert {name: watch.violations for name, watch in watches.items() if watch.violations} == {}
    assert {name: len(watch.copies) for name, watch in watches.items()} == dict.fromkeys(RUDE, 20)


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_platforms_that_answer_nothing_but_rubbish_stall_no_other(one: World, rude: dict[str, Peer]):
    """While every other platform fails, a good one gets everything at once; each bad one, once it mends, all of it."""
    cpo = await one.new_party("CPO")
    good = await one.new_peer()
    watches: dict[str, Observer] = {}
    for name, peer in rude.items():
        watches[name] = peer.watch(cpo, peer.party, MODULE, limit=4, retry_interval_s=0.05, transit_s=BUSY_S)
        peer.script["update"] = always(RUDE[name])
        await peer.subscribe(cpo, MODULE, retry_interval=0.05, parallelism_limit=4)
    await good.subscribe(cpo, MODULE, parallelism_limit=4)
    await one.publish(cpo, MODULE, statuses(30))
    for peer in rude.values():
        await peer.heard("update", 3)
    began = asyncio.get_running_loop().time()
    await one.publish(cpo, MODULE, statuses(200, CHARGING))
    await good.until(lambda: {u.object_id for u in good.of("update") if u.payload == CHARGING} == set(statuses(200)))
    assert asyncio.get_running_loop().time() - began < AT_EASE_S
    bad = {peer.identity for peer in rude.values()}
    state = await one.engine.wait_for(lambda state: all(s["last_error"] for s in _to(state, cpo, bad)))
    assert {(s["state"], s["queue_size"]) for s in _to(state, cpo, bad)} == {("live", 200)}
    for peer in rude.values():
        assert (await peer.request(cpo, MODULE, "state", method="GET")).data["current_queue_size"] == 200
        peer.script["update"] = always(accept())
    await one.engine.drained()
    assert {name: watch.violations for name, watch in watches.items() if watch.violations} == {}
    for name, watch in watches.items():
        assert {key for _, key in watch.copies} == {object_id.lower() for object_id in statuses(200)}, name
        assert set(watch.payloads.values()) == {CHARGING}, name


async def test_rubbish_in_answer_to_questions_of_ours_changes_nothing(one: World, rude: dict[str, Peer]):
    """State, renegotiation, retries and full update with a useless answer are told as such, and change nothing."""
    emsp = await one.new_party("EMSP")
    numbers: dict[str, str] = {}
    for name, peer in rude.items():
        order = {"subscriber": emsp, "producer": peer.party, "module": MODULE, "parallelism_limit": 3}
        numbers[name] = (await one.api("POST", "/subscriptions", order))["id"]
        for operation in ("state", "renegotiate-my-subscription", "request-immediate-retries", "request-full-update"):
            peer.script[operation] = always(RUDE[name])

    async def check(name: str) -> None:
        async with one.engine.api() as api:
            for verb, order in (
                ("ask-state", None),
                ("renegotiate", {"parallelism_limit": 9}),
                ("request-immediate-retries", None),
                ("request-full-update", {"object_id": "A"}),
            ):
                answer = await api.post(f"/api/v1/subscriptions/{numbers[name]}/{verb}", json=order)
                told = (answer.status_code in (502, 504)) or name in EXCUSED
                assert told, (name, verb, answer.status_code, answer.text)

    await asyncio.gather(*map(check, numbers))
    ours = (await one.engine.state())["subscriptions_of_ours"]
    shown = {s["platform"]: (s["state"], s["parallelism_limit"]) for s in ours if s["subscriber"] == emsp}
    assert shown == {peer.identity: ("live", 3) for peer in rude.values()}


# An OcpiResponse with 1000 is one, whatever its HTTP status; only updates ask for 2xx as well (B1).
EXCUSED: Final = frozenset({"success with 500", "an odd status"})


async def test_a_platform_whose_certificate_is_not_trusted_gets_nothing(one: World):
    """With a server certificate of another authority no object leaves, also on retries; with the right one all do."""
    cpo = await one.new_party("CPO")
    peer, stranger = await one.new_peer(), await one.new_peer()
    watch = peer.watch(cpo, peer.party, MODULE, limit=4)
    await peer.subscribe(cpo, MODULE, parallelism_limit=4)
    await peer.close()
    own = peer.server_files
    peer.server_files = stranger.server_files
    await peer.listen()
    await one.publish(cpo, MODULE, statuses(10))
    shown = await one.engine.wait_for(lambda s: (_of(s, cpo)["failed_since_start"]) >= 4)
    assert "certificate" in _of(shown, cpo)["last_error"]
    assert peer.of("update") == []
    await peer.close()
    peer.server_files = own
    await peer.listen()
    await peer.updated(statuses(10))
    assert watch.violations == []


def _of(state: dict[str, Any], producer: str) -> dict[str, Any]:
    (found,) = [s for s in state["subscriptions_here"] if s["producer"] == producer]
    return dict(found)


def _to(state: dict[str, Any], producer: str, platforms: Collection[str]) -> list[dict[str, Any]]:
    return [s for s in state["subscriptions_here"] if s["producer"] == producer and s["platform"] in platforms]


@pytest.mark.requirement("R.03.02.16")
async def test_an_answer_that_comes_too_late_does_not_count(one: World):
    """A success after the time-out is no success: the update is sent again, in due time, and only once more."""
    cpo = await one.new_party("CPO")
    peer = await one.new_peer()
    late = asyncio.Event()
    peer.script["update"] = in_turn(accept(after=late), accept())
    await peer.subscribe(cpo, MODULE)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await peer.heard("update", 1)
    asyncio.get_running_loop().call_later(peer.timeout_ms / 1000 + 0.3, late.set)
    first, second = await peer.heard("update", 2)
    assert second.at - first.at >= peer.timeout_ms / 1000
    await one.when_here(cpo, queue_size=0, delivered_since_start=1, failed_since_start=1)


async def test_a_refusal_with_a_huge_message_is_shown_in_part(one: World):
    """Whatever a partner writes into its refusal, what we keep and show of it is short."""
    cpo = await one.new_party("CPO")
    peer = await one.new_peer()
    peer.script["update"] = always(refuse(6001, message="blah " * 100_000))
    await peer.subscribe(cpo, MODULE)
    await one.publish(cpo, MODULE, {"A": AVAILABLE})
    await one.when_here(cpo, rejected=1)
    state = await one.engine.state()
    assert all(len(entry["why"]) < 2000 for entry in state["stuck"])
    assert len(_of(state, cpo)["last_error"] or "") < 2000
