"""Several processes of one platform: each owns its share; what one leaves behind, in whatever way, others take over.

The receiver is in the test's process, with an observer beside each subscription. It gives the processes real RabbitMQ
and PostgreSQL, and takes them away from each other by signals: killed, frozen beyond their leases, and continued.
"""

import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_one_at_a_time import Faulty
from tests.support.backing import SERVERS, Backing
from tests.support.peer import Peer, World, accept, always, world
from tests.support.processes import Platform
from tests.support.receiver import Observer
from tests.support.replicas import Traffic, copies

pytestmark = [pytest.mark.xdist_group("several processes"), pytest.mark.timeout(300)]

LEASE_S = 1.5
TIMEOUT_MS = 2500
RETRY_S = 0.1
COUNT = 30
LIMIT = 3
SUBSCRIBERS = 6
SETTINGS = {
    "OCPI_ENGINE_REPLICATION__LEASE_S": str(LEASE_S),
    "OCPI_ENGINE_REPLICATION__WATERMARK_SAVE_S": "0.1",
    "OCPI_ENGINE_REPLICATION__BOOKING_MARGIN_S": "0.5",
    "OCPI_ENGINE_REPLICATION__HEARTBEAT_S": "0.5",
}


@dataclass
class Scene:
    """A platform of several processes in the middle of deliveries to observed receivers."""

    made: World
    peer: Peer
    observers: list[Observer]
    traffic: Traffic

    async def processes(
        self, count: int, *, even: bool = True, told_by: Platform | None = None
    ) -> list[dict[str, Any]]:
        """Wait until so many processes run, each with its share; the engine tells, or another one that shares it."""

        def shared_out(state: dict[str, Any]) -> bool:
            running = state["processes"]
            owned = [process["subscriptions"] for process in running]
            return len(running) == count and sum(owned) == SUBSCRIBERS and (not even or max(owned) - min(owned) <= 1)

        found: list[dict[str, Any]] = (await (told_by or self.made.engine).wait_for(shared_out))["processes"]
        return found

    async def without(self, gone: str) -> None:
        """Wait until a process is no longer taken for one that runs, and owns nothing."""
        await self.made.engine.wait_for(
            lambda state: (
                gone not in {process["id"] for process in state["processes"]}
                and gone not in {one["process"] for one in state["subscriptions_here"] if one["state"] == "live"}
            )
        )

    async def observed(self, process_id: str) -> list[Observer]:
        """Find the observers of what a process pushes."""
        shown = (await self.made.engine.state())["subscriptions_here"]
        pushed = {one["subscriber"] for one in shown if one["process"] == process_id}
        return [
            each for each, subscriber in zip(self.observers, self.peer.parties, strict=True) if subscriber in pushed
        ]

    async def more(self, count: int = 40, *, of: Sequence[Observer] | None = None) -> None:
        """Wait until receivers, or these of them, saw some more attempts."""
        watched = self.observers if of is None else of

        def seen() -> int:
            return sum(len(observer.attempts) for observer in watched)

        wanted = seen() + count
        await self.peer.until(lambda: seen() >= wanted)


@asynccontextmanager
async def scene(folder: Path, *, processes: int, seed: int, backing: Backing = SERVERS) -> AsyncIterator[Scene]:
    """Have receivers subscribed, objects changing and answers going wrong; at the end all must have arrived."""
    served_with = ["--processes", str(processes)]
    async with world(folder, SETTINGS, served_with=served_with, backing=backing) as made, AsyncExitStack() as stack:
        party = made.engine.party
        peer = Peer(made.folder, parties={f"NL{number}": () for number in range(100, 100 + SUBSCRIBERS)})
        peer.timeout_ms = TIMEOUT_MS
        await peer.listen()
        stack.push_async_callback(peer.stop)
        await peer.register(made.engine)
        observers = [
            peer.watch(party, subscriber, "locations", limit=LIMIT, retry_interval_s=RETRY_S)
            for subscriber in peer.parties
        ]
        traffic = Traffic(made.engine, count=COUNT, seed=seed, pause_s=0.1)
        peer.script["update"] = Faulty(random.Random(seed))
        await traffic.once(of=range(COUNT))
        body = {"retry_interval": RETRY_S, "parallelism_limit": LIMIT, "max_queue_size": 1000}
        for subscriber in peer.parties:
            assert (await peer.request(party, "locations", sender=subscriber, body=body)).code == 1000
        under_way = Scene(made, peer, observers, traffic)
        await under_way.processes(processes)
        async with traffic.flowing():
            yield under_way
        peer.script["update"] = always(accept())
        await made.engine.drained()
        issued = await copies(made.engine, "issued", "locations")
    for observer in observers:
        assert observer.violations == []
        assert observer.copies == {(issuer, key.lower()): copy.version for (issuer, key), copy in issued.items()}
        assert observer.payloads == {(issuer, key.lower()): copy.payload for (issuer, key), copy in issued.items()}


async def test_each_has_its_share_and_a_killed_one_is_replaced(tmp_path: Path):
    """Subscriptions are spread evenly; those of a killed process go to the others, and a new one gets its share."""
    async with scene(tmp_path, processes=2, seed=1) as under_way:
        for _ in range(2):
            before = await under_way.processes(2)
            assert {work for process in before for work in process["periodic_work"]} >= {"heartbeat", "parties"}
            await under_way.more()
            killed = before[0]
            theirs = await under_way.observed(killed["id"])
            os.kill(killed["pid"], signal.SIGKILL)
            for observer in theirs:
                observer.sender_died()
            await under_way.without(killed["id"])
            await under_way.more()
        await under_way.processes(2)


async def test_one_that_is_frozen_beyond_its_lease_and_continued(tmp_path: Path):
    """The others take over from a frozen process, which finds out when it goes on and takes its share again."""
    async with scene(tmp_path, processes=2, seed=2) as under_way:
        await under_way.more()
        frozen = (await under_way.processes(2))[1]
        os.kill(frozen["pid"], signal.SIGSTOP)
        try:
            await under_way.without(frozen["id"])
            await under_way.more()
        finally:
            os.kill(frozen["pid"], signal.SIGCONT)
        again = await under_way.processes(2)
        assert frozen["pid"] in {process["pid"] for process in again}
        await under_way.more()


async def test_a_restart_in_order_waits_for_nothing(tmp_path: Path):
    """Stopped in order, all processes leave, and those of the next start send at once."""
    async with scene(tmp_path, processes=2, seed=3) as under_way:
        await under_way.more()
        logged = len(under_way.made.engine.log.read_text())
        assert await under_way.made.engine.stop() == 0
        await under_way.made.engine.start()
        await under_way.processes(2)
        await under_way.more()
    assert "did not end cleanly" not in under_way.made.engine.log.read_text()[logged:]
