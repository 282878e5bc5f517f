"""Killed without a word, anywhere, either side: nothing promised is lost, nothing goes back (P1, P2, P3)."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from engine.faults import POINTS
from tests.acceptance.test_chapter_4 import ASKER, DOER
from tests.support.backing import Backing
from tests.support.processes import Platform, connected_platforms
from tests.support.replicas import (
    Traffic,
    Watcher,
    copies,
    difference,
    kept,
    owed_beyond,
    start_to_die,
    subscribe,
)

# One pair of platforms serves all tests of this file, so they belong to one process and one loop.
pytestmark = [pytest.mark.xdist_group("durability"), pytest.mark.asyncio(loop_scope="module")]

COUNT = 60
KILLED = -signal.SIGKILL
QUICK = {
    "OCPI_ENGINE_PEERS__REQUEST_TIMEOUT_MS": "1000",
    "OCPI_ENGINE_REPLICATION__WATERMARK_SAVE_S": "0.1",
    "OCPI_ENGINE_REPLICATION__BOOKING_MARGIN_S": "0.5",
    "OCPI_ENGINE_REPLICATION__HEARTBEAT_S": "0.5",
}
DIES_WITHIN_S = 30.0

# At which passage the process ends: late enough to be in the middle of something.
SENDER = {
    "publish.received": 5,
    "publish.stored": 5,
    "enqueue.announcing": 5,
    "push.read": 4,
    "push.sending": 40,
    "push.answered": 40,
    "watermark.saved": 3,
}
SENDER_WITHOUT_RECEIVER = {"push.filed": 2, "push.booked": 2}  # passed only when something fails
RECEIVER = {"accept.received": 70, "accept.stored": 70}
SUBSCRIBING = ("subscribe.stored", "subscribe.answered", "subscribe.granted")


@dataclass
class Pair:
    """A producer and its subscriber, with the observer of what the subscriber holds."""

    cpo: Platform
    emsp: Platform
    watcher: Watcher

    @asynccontextmanager
    async def busy(self, traffic: Traffic) -> AsyncIterator[None]:
        """Publish and watch while the block runs; at its end both sides run, agree, and kept their promises."""
        async with self.watcher.watching():
            try:
                async with traffic.flowing():
                    yield
            finally:
                await self.both_run()
            await self.agree(traffic)

    async def both_run(self) -> None:
        """Start whichever side is down."""
        for platform in (self.cpo, self.emsp):
            if platform.process is None or platform.process.returncode is not None:
                await platform.start()

    async def agree(self, traffic: Traffic) -> None:
        """Hold both sides to P1, P2 and P3."""
        await self.cpo.drained()
        issued = await copies(self.cpo, "issued", "locations")
        received = await copies(self.emsp, "received", "locations")
        for key, copy in received.items():
            self.watcher.see(key, copy.version)
        assert difference(issued, received) == []
        assert kept(traffic.promised, issued) == []
        assert self.watcher.went_back == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[Pair]:
    """Two platforms, with a subscription whose first catch-up is done."""
    async with connected_platforms(tmp_path_factory.mktemp("d"), settings=QUICK, backing=backing) as (cpo, emsp):
        traffic = Traffic(cpo, count=COUNT, seed=1)
        await traffic.once(of=range(COUNT))
        await subscribe(emsp, cpo)
        made = Pair(cpo, emsp, Watcher(emsp))
        await made.agree(traffic)
        yield made


async def dead(platform: Platform) -> None:
    """Wait until the process has ended itself."""
    async with asyncio.timeout(DIES_WITHIN_S):
        assert await platform.ended() == KILLED


async def test_every_fault_point_is_passed_in_some_test() -> None:
    """A point that nobody kills at shows nothing."""
    assert {*SENDER, *SENDER_WITHOUT_RECEIVER, *RECEIVER, *SUBSCRIBING, *ASKER, *DOER} == set(POINTS)


@pytest.mark.parametrize("point", SENDER)
async def test_sender_dies_between_two_arrows(pair: Pair, point: str) -> None:
    """Wherever the sender dies, all that it promised arrives after its next start, in the newest version."""
    traffic = Traffic(pair.cpo, count=COUNT, seed=100 + POINTS.index(point))
    await pair.cpo.kill()
    async with pair.busy(traffic):
        await start_to_die(pair.cpo, point, SENDER[point])
        await dead(pair.cpo)
        await pair.cpo.start()


@pytest.mark.parametrize("point", SENDER_WITHOUT_RECEIVER)
async def test_sender_dies_while_it_files_and_books_failures(pair: Pair, point: str) -> None:
    """A failure that is being filed or a retry that is being booked when the sender dies is not forgotten."""
    traffic = Traffic(pair.cpo, count=COUNT, seed=100 + POINTS.index(point))
    await pair.cpo.kill()
    await pair.emsp.kill()
    await start_to_die(pair.cpo, point, SENDER_WITHOUT_RECEIVER[point])
    await traffic.once(of=range(3))  # few: while the receiver is away one object after the other is a probe
    await dead(pair.cpo)
    await pair.both_run()
    await pair.agree(traffic)


@pytest.mark.parametrize("point", RECEIVER)
async def test_receiver_dies_between_two_arrows(pair: Pair, point: str) -> None:
    """Whether the receiver dies before or after it stored an update, it holds the newest versions in the end."""
    traffic = Traffic(pair.cpo, count=COUNT, seed=100 + POINTS.index(point))
    await pair.emsp.kill()
    async with pair.busy(traffic):
        await start_to_die(pair.emsp, point, RECEIVER[point])
        await dead(pair.emsp)
        await pair.emsp.start()


@pytest.mark.parametrize("point", SUBSCRIBING)
async def test_receiver_dies_while_it_subscribes(pair: Pair, point: str) -> None:
    """A subscription is stored before it is asked for, and asked for until it is answered (B28)."""
    traffic = Traffic(pair.cpo, count=COUNT, seed=100 + POINTS.index(point))
    await pair.emsp.stop()
    async with pair.busy(traffic):
        await start_to_die(pair.emsp, point, 1)
        with pytest.raises(httpx.TransportError):
            await subscribe(pair.emsp, pair.cpo)
        await dead(pair.emsp)
        await pair.emsp.start()
        await pair.emsp.wait_for(lambda state: state["subscriptions_of_ours"][0]["state"] == "live")


@pytest.mark.parametrize("seed", range(3))
async def test_kills_at_random_moments(pair: Pair, seed: int) -> None:
    """Kills of either side in mid-delivery lose nothing and turn nothing back."""
    chance = random.Random(seed)
    traffic = Traffic(pair.cpo, count=COUNT, seed=seed + 10)
    async with pair.busy(traffic):
        for victim in (pair.cpo, pair.emsp, chance.choice((pair.cpo, pair.emsp))):
            # A random moment, not a wait for something.
            await asyncio.sleep(chance.uniform(0.0, 0.6))
            await victim.kill()
            await victim.start()


@pytest.mark.parametrize("seed", range(3))
async def test_what_counts_as_delivered_is_there(pair: Pair, seed: int) -> None:
    """Both sides killed at one moment: whatever lies below the watermark without an exception, the receiver has."""
    chance = random.Random(seed)
    traffic = Traffic(pair.cpo, count=COUNT, seed=seed + 20)
    async with pair.busy(traffic):
        await asyncio.sleep(chance.uniform(0.3, 1.2))  # a random moment
        await asyncio.gather(pair.emsp.kill(), pair.cpo.kill())
        assert await owed_beyond(pair.cpo, pair.emsp) == []
