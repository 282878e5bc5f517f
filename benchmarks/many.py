"""Many subscriptions of one sender: two processes beside one, one change for a thousand, ten thousand that are idle.

The receivers are a ``fleet``: light, and the same for all. Each scenario has a sender and databases of its own.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from benchmarks.backends import RABBITMQ, Backend, Place, place
from benchmarks.bodies import LOCATIONS, PARTY
from benchmarks.fleet import Fleet, fleet
from benchmarks.measuring import MIB, Sample, Servers, Watch, rss_mib
from benchmarks.ours import Measured, local_api, publish
from benchmarks.plan import Plan
from tests.support.processes import Platform

START_WITHIN_S: Final = 600.0  # ten thousand subscriptions, on a machine that does other things
FEW: Final = 16
"""Subscriptions for which several processes share the work: more than any number of cores here."""

QUIET_CORES: Final = 0.25  # the start is over once the sender uses less than this
QUIET_FOR_S: Final = 4.0
KIB: Final = 1024


@dataclass
class Shared:
    """Deliveries by so many sending processes, by their number."""

    subscriptions: int
    samples: dict[int, list[Sample]] = field(default_factory=dict)


@dataclass
class FanOut:
    """One change, and many, for many subscriptions."""

    backend: Backend
    subscriptions: int
    objects: int
    first_change_s: float
    """Until all have it; connections are made for it."""
    changes_s: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    """What these took: more than updates, if some were sent twice."""
    memory_mib: tuple[float, float] = (0.0, 0.0)
    """Of the sender, before and after them."""


@dataclass(frozen=True)
class Idle:
    """What subscriptions take for which there is nothing to do."""

    backend: Backend
    subscriptions: int
    start_s: tuple[float, float]
    """Until it serves: with one subscription, and with all."""
    quiet_s: float
    """After that, until queues are made and read and nothing more happens."""
    sender_kib_each: float
    broker_kib_each: float | None
    cores: tuple[float, float | None, float | None]
    """CPU time for each second, of the sender, the database's server and the broker's."""


class Crowd:
    """A sender and its receivers."""

    def __init__(self, engine: Platform, where: Place, receivers: Fleet, servers: Servers) -> None:
        """Drive these."""
        self.engine = engine
        self.receivers = receivers
        self.servers = servers
        self._where = where
        self._revision = 0

    @property
    def pid(self) -> int:
        """The sender's process; others may be its children."""
        assert self.engine.process is not None
        return self.engine.process.pid

    def watch(self) -> Watch:
        """Begin to measure."""
        return Watch(self.pid, self.receivers.pid, self.servers)

    async def start(self, *, processes: int = 1) -> float:
        """Serve; returns how long it took, in seconds."""
        options = [] if processes == 1 else ["--processes", str(processes)]
        began = time.perf_counter()
        with self.engine.log.open("ab") as log:
            words = ["serve", str(self.engine.folder), *options]
            self.engine.process = await self.engine.launch(words, log, os.environ | self.engine.settings)
        async with asyncio.timeout(START_WITHIN_S):
            while not await self._is_ready():  # noqa: ASYNC110 - another process sets no events
                await asyncio.sleep(0.02)
        return time.perf_counter() - began

    async def _is_ready(self) -> bool:
        assert self.engine.process is not None
        if self.engine.process.returncode is not None:
            raise AssertionError(f"the sender did not start:\n{self.engine.log.read_text()[-3000:]}")
        try:
            async with self.engine.api() as api:
                return (await api.get("/readyz")).status_code == httpx.codes.OK
        except (httpx.TransportError, OSError):
            return False

    async def quiet(self) -> float:
        """Wait until all queues are read and the sender does little; returns when that began, in seconds from now."""
        began = time.perf_counter()
        async with asyncio.timeout(START_WITHIN_S):
            await self._where.consumed()
            while True:
                at, watch = time.perf_counter(), self.watch()
                await asyncio.sleep(QUIET_FOR_S)
                if cores(watch.sample(1))[0] < QUIET_CORES:
                    return at - began

    async def copy_subscription(self, count: int) -> None:
        """Have so many subscriptions like the first, while the sender does not run."""
        await self.receivers.copy_subscription(self._where.database(self.engine.folder), count)

    async def publish(self, numbers: range) -> None:
        """Publish a new version of Locations."""
        self._revision += 1
        async with local_api(self.engine) as api:
            await publish(api, LOCATIONS, numbers, revision=self._revision)

    async def deliver(self, numbers: range, *, subscriptions: int) -> tuple[Sample, int]:
        """Publish Locations, and wait until all receivers have them; returns how many requests that took, too."""
        count = len(numbers) * subscriptions
        await self.receivers.expect(count)
        watch = self.watch()
        await self.publish(numbers)
        requests = await self.receivers.arrived()
        return watch.sample(count), requests


def cores(sample: Sample) -> tuple[float, float, float]:
    """Return the CPU time for each second of a sender, a database's server and a broker's."""
    used = (sample.sender_cpu_s, sample.database_cpu_s or 0.0, sample.broker_cpu_s or 0.0)
    sender, database, broker = (each / sample.seconds for each in used)
    return sender, database, broker


@asynccontextmanager
async def crowd(backend: Backend, folder: Path, *, subscriptions: int, objects: int) -> AsyncIterator[Crowd]:
    """Make a sender with so many Locations, and receivers for so many subscriptions, of which one is made.

    The sender has stopped again when this returns.
    """
    async with AsyncExitStack() as stack:
        receivers = await stack.enter_async_context(fleet(folder, subscriptions))
        where = await stack.enter_async_context(place(backend, "sender"))
        engine = Measured(
            folder / "sender",
            identity="sender.example.org",
            party=PARTY,
            role="CPO",
            settings=where.settings,
            made_with=where.made_with,
        )
        stack.push_async_callback(engine.stop)
        await engine.make()
        made = Crowd(engine, where, receivers, backend.servers())
        await made.start()
        await receivers.register(engine)
        await receivers.expect(objects)
        await made.publish(range(1, objects + 1))
        await receivers.subscribe(engine, LOCATIONS.module)
        await receivers.arrived()
        await engine.stop()
        yield made


class Run:
    """Runs the scenarios."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None]) -> None:
        """Measure below this folder; ``tell`` hears what is going on."""
        self._plan = plan
        self._folder = folder
        self._tell = tell

    def _new_folder(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

    async def shared(self, counts: tuple[int, ...]) -> Shared:
        """Compare numbers of sending processes."""
        plan, results = self._plan, Shared(FEW)
        numbers = range(1, plan.shared_objects + 1)
        self._tell(f"{FEW} subscriptions, and a sender for them")
        async with crowd(RABBITMQ, self._new_folder("shared"), subscriptions=FEW, objects=len(numbers)) as made:
            await made.copy_subscription(FEW)
            for number in range(1, plan.rounds + 1):
                for processes in counts:
                    self._tell(f"round {number} of {plan.rounds}: {processes} sending, {FEW} subscriptions")
                    await made.start(processes=processes)
                    await made.quiet()
                    await made.deliver(numbers[: len(numbers) // 4], subscriptions=FEW)
                    sample, _ = await made.deliver(numbers, subscriptions=FEW)
                    results.samples.setdefault(processes, []).append(sample)
                    await made.engine.stop()
        return results

    async def fan_out(self, backend: Backend) -> FanOut:
        """Deliver one change, and many, to many subscriptions."""
        plan, count = self._plan, self._plan.subscriptions
        title = f"{backend.title}: {count} subscriptions"
        self._tell(f"{title} are made")
        folder = self._new_folder(f"fan-out-{backend.name}")
        async with crowd(backend, folder, subscriptions=count, objects=plan.objects) as made:
            await made.copy_subscription(count)
            await made.start()
            await made.quiet()
            self._tell(f"{title}, one change")
            first, _ = await made.deliver(range(1, 2), subscriptions=count)
            results = FanOut(backend, count, plan.objects, first.seconds)
            for _ in range(plan.changes - 1):
                sample, _ = await made.deliver(range(1, 2), subscriptions=count)
                results.changes_s.append(sample.seconds)
            before = rss_mib(made.pid)
            for number in range(1, plan.object_rounds + 1):
                self._tell(f"{title}, {plan.objects} objects, round {number} of {plan.object_rounds}")
                sample, requests = await made.deliver(range(1, plan.objects + 1), subscriptions=count)
                results.samples.append(sample)
                results.requests.append(requests)
            results.memory_mib = (before, rss_mib(made.pid))
        return results

    async def idle(self, backend: Backend, measured: Callable[[Idle], None]) -> None:
        """Have many subscriptions, and nothing to do.

        ``measured`` hears what that takes before so many queues are taken away again, which takes minutes.
        """
        plan, count = self._plan, self._plan.idle
        title = f"{backend.title}: {count} idle subscriptions"
        self._tell(f"{title} are made")
        async with crowd(backend, self._new_folder(f"idle-{backend.name}"), subscriptions=count, objects=1) as made:
            start_one_s = await made.start()
            await made.quiet()
            sender_before, broker_before = rss_mib(made.pid), _broker_rss_mib(made.servers)
            await made.engine.stop()
            await made.copy_subscription(count)
            self._tell(f"{title}: starting")
            start_s = await made.start()
            quiet_s = await made.quiet()
            sender, broker = rss_mib(made.pid), _broker_rss_mib(made.servers)
            self._tell(f"{title}: {plan.idle_s:.0f} quiet seconds")
            watch = made.watch()
            await asyncio.sleep(plan.idle_s)
            sample = watch.sample(count)
            of_sender, of_database, of_broker = cores(sample)
            measured(
                Idle(
                    backend,
                    count,
                    (start_one_s, start_s),
                    quiet_s,
                    (sender - sender_before) * MIB / KIB / count,
                    None if broker is None or broker_before is None else (broker - broker_before) * MIB / KIB / count,
                    (
                        of_sender,
                        None if sample.database_cpu_s is None else of_database,
                        None if sample.broker_cpu_s is None else of_broker,
                    ),
                )
            )
            self._tell(f"{title} are taken away")


def _broker_rss_mib(servers: Servers) -> float | None:
    return None if servers.broker is None else rss_mib(servers.broker.pid)
