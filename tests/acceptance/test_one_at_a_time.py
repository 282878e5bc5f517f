"""One request at a time for each object, so many at once, none before its backoff, also across kills (P4).

The receiver is in the test's process, with an observer beside it that remembers what the dead sender had in progress.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from tests.support.backing import Backing
from tests.support.peer import (
    BREAK,
    BREAK_STORED,
    HALF,
    HTML,
    SILENCE,
    Heard,
    Peer,
    Reply,
    World,
    accept,
    always,
    refuse,
    world,
)
from tests.support.processes import Platform
from tests.support.receiver import Observer
from tests.support.replicas import Traffic, copies, start_to_die

pytestmark = [pytest.mark.xdist_group("one at a time"), pytest.mark.asyncio(loop_scope="module")]

COUNT = 60
RETRY_S = 0.1
TIMEOUT_MS = 1500  # longer than an engine takes to start (0.4 s), else nothing would show that it waits
ANSWER_MAX_S = 0.03  # of the receiver, so that there is something in progress when the sender dies
DIES_WITHIN_S = 30.0
QUICK = {
    "OCPI_ENGINE_REPLICATION__WATERMARK_SAVE_S": "0.1",
    "OCPI_ENGINE_REPLICATION__BOOKING_MARGIN_S": "0.5",
    "OCPI_ENGINE_REPLICATION__HEARTBEAT_S": "0.5",
}
FAULTS = (
    (refuse(3000), 0.10),
    (HTML, 0.05),
    (BREAK, 0.01),  # a slot each until the time-out, like the next three
    (BREAK_STORED, 0.01),
    (HALF, 0.01),
    (SILENCE, 0.01),
)

_numbers = itertools.count(700)  # of parties: each receiver brings its own


@dataclass
class Faulty:
    """Answers late, and some updates in a way that a producer cannot take for success."""

    random: random.Random
    timers: set[asyncio.TimerHandle] = field(default_factory=set)

    def __call__(self, _heard: Heard) -> Reply:
        """Choose an answer, and when it is given."""
        answered = asyncio.Event()
        asyncio.get_running_loop().call_later(self.random.uniform(0.0, ANSWER_MAX_S), answered.set)
        (reply,) = self.random.choices(
            [accept(), *(fault for fault, _ in FAULTS)],
            [1 - sum(chance for _, chance in FAULTS), *(chance for _, chance in FAULTS)],
        )
        return Reply(reply.status, reply.body, reply.headers, reply.behave, reply.stored, after=answered)


@dataclass
class Delivery:
    """An engine in the middle of a delivery to an observed receiver."""

    engine: Platform
    peer: Peer
    observer: Observer
    traffic: Traffic

    async def died(self) -> None:
        """Wait for the end of the process, and hold the next one to the wait that follows from it."""
        assert self.engine.process is not None
        async with asyncio.timeout(DIES_WITHIN_S):
            await self.engine.ended()
        died_at = asyncio.get_running_loop().time()
        self.observer.sender_died()
        last_connection = max((heard.connection for heard in self.peer.requests), default=0)
        await self.engine.start()
        first = await self.first_update(last_connection)
        assert first.at - died_at >= self.observer.timeout_s, "sent before the receiver's time-out had passed"

    async def first_update(self, after_connection: int) -> Heard:
        """Wait for the first update of a new process: the dead one makes no connections."""

        def later() -> list[Heard]:
            return [heard for heard in self.peer.of("update") if heard.connection > after_connection]

        await self.peer.until(lambda: bool(later()))
        return later()[0]

    async def dies_at(self, point: str, passage: int) -> None:
        """Restart it so that it ends itself, in order before and without a word after."""
        await self.engine.stop()
        await start_to_die(self.engine, point, passage)
        await self.died()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """An engine; each test brings a receiver of its own."""
    async with world(tmp_path_factory.mktemp("p"), QUICK, backing=backing) as made:
        yield made


@asynccontextmanager
async def delivery(one: World, *, limit: int, seed: int) -> AsyncIterator[Delivery]:
    """Have a receiver subscribed, objects changing, and answers going wrong; at the end all must have arrived."""
    peer = Peer(one.folder, parties={f"NL{next(_numbers)}": ()})
    peer.timeout_ms = TIMEOUT_MS
    await peer.listen()
    await peer.register(one.engine)
    observer = peer.watch(one.engine.party, peer.party, "locations", limit=limit, retry_interval_s=RETRY_S)
    traffic = Traffic(one.engine, count=COUNT, seed=seed, pause_s=0.1)
    peer.script["update"] = Faulty(random.Random(seed))
    await traffic.once(of=range(COUNT))
    body = {"retry_interval": RETRY_S, "parallelism_limit": limit, "max_queue_size": 1000}
    assert (await peer.request(one.engine.party, "locations", body=body)).code == 1000
    async with traffic.flowing():
        yield Delivery(one.engine, peer, observer, traffic)
    peer.script["update"] = always(accept())
    await one.engine.drained()
    issued = await copies(one.engine, "issued", "locations")
    await one.api("POST", f"/platforms/{peer.identity}/reset", {})
    await peer.stop()
    assert observer.violations == []
    assert {(issuer, key.lower()): copy.version for (issuer, key), copy in issued.items()} == observer.copies
    assert {(issuer, key.lower()): copy.payload for (issuer, key), copy in issued.items()} == observer.payloads


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
@pytest.mark.parametrize("limit", [1, 5])
async def test_sender_killed_at_random_moments(one: World, limit: int) -> None:
    """What a killed sender had in progress counts as such for the time-out, and as an attempt (R.03.02.17)."""
    chance = random.Random(limit)
    async with delivery(one, limit=limit, seed=limit) as under_way:
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.2, 0.8))  # a random moment
            await one.engine.kill()
            await under_way.died()


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
@pytest.mark.parametrize(
    ("point", "passage"),
    [("push.sending", 30), ("push.answered", 30), ("push.filed", 4), ("push.booked", 3), ("watermark.saved", 4)],
)
async def test_sender_dies_between_two_arrows(one: World, point: str, passage: int) -> None:
    """Whatever the sender had not yet written down when it died, no request of its next run comes too early."""
    async with delivery(one, limit=5, seed=passage) as under_way:
        await under_way.dies_at(point, passage)


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_restarts_in_order(one: World) -> None:
    """A sender that was stopped in order knows its attempts and their times, and need not wait for a time-out."""
    async with delivery(one, limit=5, seed=77) as under_way:
        logged = len(one.engine.log.read_text())
        for count in (50, 100):
            await under_way.peer.heard("update", count)
            await one.engine.stop()
            await one.engine.start()
    assert "did not end cleanly" not in one.engine.log.read_text()[logged:]
