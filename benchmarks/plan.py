"""What is measured, in which order, and what came of it.

Everything is measured in rounds: each round takes every figure once, yardsticks and engine in turn, so that whatever
else the machine does meanwhile falls on all of them alike.
"""

import os
import platform
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import ours, yardsticks
from benchmarks.backends import RABBITMQ, Backend
from benchmarks.bodies import KINDS, LOCATIONS, STATUSES, Kind
from benchmarks.measuring import Sample, percentile
from benchmarks.queued import Services
from tests.support.postgresql import new_database
from tests.support.rabbitmq import rabbitmq_url, remove_named

AT_ONCE = (1, 8, 32)
BARE, BY_HAND, OURS = "bare", "by hand", "ours"
SNAPSHOT_AT_ONCE = 32
CALLERS = 8  # who publish one object after the other, to find out how many that makes at most


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int = 3
    bare: int = 6000
    handwritten: int = 400
    ours: int = 3000
    ours_one_at_a_time: int = 800
    snapshot: int = 10_000
    singles: int = 800
    delays: int = 500
    bare_calls: int = 800
    calls: int = 160
    calls_one_at_a_time: int = 40
    validation_rounds: int = 9
    validations: int = 5000
    shared_objects: int = 1000
    subscriptions: int = 1000
    changes: int = 6
    objects: int = 100
    object_rounds: int = 2
    idle: int = 10_000
    idle_s: float = 60.0


QUICK = Plan(
    rounds=1,
    bare=1500,
    handwritten=100,
    ours=600,
    ours_one_at_a_time=200,
    snapshot=2000,
    singles=200,
    delays=150,
    bare_calls=200,
    calls=64,
    calls_one_at_a_time=12,
    validation_rounds=1,
    validations=500,
    shared_objects=100,
    subscriptions=50,
    changes=3,
    objects=10,
    object_rounds=1,
    idle=200,
    idle_s=3.0,
)


@dataclass(frozen=True)
class Delay:
    """One run at half load: how many were published each second, and the delays in seconds."""

    rate: float
    p50_s: float
    p99_s: float


@dataclass
class Results:
    """All runs on one backend. Samples are by kind of runner, module and number at once."""

    backend: Backend
    samples: dict[tuple[str, str, int], list[Sample]] = field(default_factory=dict)
    snapshots: list[Sample] = field(default_factory=list)
    singles: dict[str, list[Sample]] = field(default_factory=dict)
    delays: dict[str, list[Delay]] = field(default_factory=dict)
    memory_before_mib: tuple[float, float] = (0.0, 0.0)
    memory_after_mib: tuple[float, float] = (0.0, 0.0)
    load_before: float = 0.0
    load_after: float = 0.0

    def add(self, runner: str, kind: Kind, at_once: int, sample: Sample) -> None:
        """Keep a run."""
        self.samples.setdefault((runner, kind.module, at_once), []).append(sample)

    def as_json(self) -> dict[str, Any]:
        """Show every run."""
        return {
            "backend": self.backend.name,
            "load_before": self.load_before,
            "load_after": self.load_after,
            "runs": [
                {"runner": runner, "module": module, "at_once": at_once, "runs": [asdict(run) for run in runs]}
                for (runner, module, at_once), runs in self.samples.items()
            ],
            "snapshots": [asdict(run) for run in self.snapshots],
            "published_one_by_one": {module: [asdict(run) for run in runs] for module, runs in self.singles.items()},
            "delays": {module: [asdict(run) for run in runs] for module, runs in self.delays.items()},
            "memory_before_mib": self.memory_before_mib,
            "memory_after_mib": self.memory_after_mib,
        }


def machine() -> str:
    """Say what this was measured on."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.machine()}"


class Run:
    """One run of the whole plan on one backend."""

    def __init__(self, plan: Plan, backend: Backend, folder: Path, tell: Callable[[str], None]) -> None:
        """Measure below this folder; ``tell`` hears what is going on."""
        self._plan = plan
        self._backend = backend
        self._folder = folder
        self._tell = tell
        self._results = Results(backend, load_before=os.getloadavg()[0])
        self._revision = 0

    async def results(self) -> Results:
        """Measure everything."""
        async with AsyncExitStack() as stack:
            self._tell("starting two platforms and two yardsticks")
            pairs: dict[str, yardsticks.Pair] = {}
            for name, module in ((BARE, "bare"), (BY_HAND, self._backend.by_hand)):
                folder = self._folder / module
                folder.mkdir()
                yardsticks.make_keys(folder)
                if module == RABBITMQ.by_hand:
                    await stack.enter_async_context(_services(folder))
                pairs[name] = await stack.enter_async_context(yardsticks.pair(f"benchmarks.{module}", folder))
            engines = await stack.enter_async_context(ours.engines(self._backend, self._folder))
            self._results.memory_before_mib = engines.memory()
            subscriptions = await self._fill(engines)
            for number in range(1, self._plan.rounds + 1):
                await self._round(f"round {number} of {self._plan.rounds}", engines, subscriptions, pairs)
            self._results.memory_after_mib = engines.memory()
        self._results.load_after = os.getloadavg()[0]
        return self._results

    def _next_revision(self) -> int:
        self._revision += 1
        return self._revision

    async def _fill(self, engines: ours.Engines) -> dict[str, str]:
        """Publish all objects and subscribe to them: the first snapshot, which is the warm-up."""
        counts = {LOCATIONS.module: self._plan.snapshot, STATUSES.module: self._plan.ours}
        subscriptions: dict[str, str] = {}
        for module, count in counts.items():
            self._tell(f"publishing {count} {module}, and a first snapshot to warm up")
            kind = KINDS[module]
            await engines.publish(kind, range(1, count + 1), revision=self._next_revision())
            subscriptions[module], _ = await engines.snapshot(kind, count=count, at_once=SNAPSHOT_AT_ONCE)
        return subscriptions

    async def _round(
        self,
        title: str,
        engines: ours.Engines,
        subscriptions: dict[str, str],
        pairs: dict[str, yardsticks.Pair],
    ) -> None:
        plan, results = self._plan, self._results
        for kind in KINDS.values():
            for at_once in AT_ONCE:
                self._tell(f"{title}: {kind.title}, {at_once} at once")
                revision = self._next_revision()
                sample = await pairs[BARE].run(kind, at_once=at_once, count=plan.bare, revision=revision)
                results.add(BARE, kind, at_once, sample)
                sample = await pairs[BY_HAND].run(kind, at_once=at_once, count=plan.handwritten, revision=revision)
                results.add(BY_HAND, kind, at_once, sample)
                await engines.run_at(subscriptions[kind.module], at_once)
                count = plan.ours if at_once > 1 else plan.ours_one_at_a_time
                await engines.updates(kind, count=count // 4, revision=revision)
                sample = await engines.updates(kind, count=count, revision=self._next_revision())
                results.add(OURS, kind, at_once, sample)
            await self._delays(title, engines, kind)
        self._tell(f"{title}: a snapshot of {plan.snapshot}")
        another = ours.SUBSCRIBERS[len(results.snapshots) + 1]
        subscription, sample = await engines.snapshot(
            LOCATIONS, subscriber=another, count=plan.snapshot, at_once=SNAPSHOT_AT_ONCE
        )
        await engines.unsubscribe(subscription)
        results.snapshots.append(sample)

    async def _delays(self, title: str, engines: ours.Engines, kind: Kind) -> None:
        plan, results = self._plan, self._results
        self._tell(f"{title}: {kind.title}, published one by one")
        sample = await engines.single_publishes(
            kind, count=plan.singles, revision=self._next_revision(), callers=CALLERS
        )
        results.singles.setdefault(kind.module, []).append(sample)
        rate = sample.rate / 2
        found = await engines.delays(kind, count=plan.delays, revision=self._next_revision(), rate=rate)
        delay = Delay(rate, percentile(found, 50), percentile(found, 99))
        results.delays.setdefault(kind.module, []).append(delay)


@asynccontextmanager
async def _services(folder: Path) -> AsyncIterator[None]:
    """Make databases and a queue for the worker written by hand, and take them away."""
    async with new_database() as sender_url, new_database() as receiver_url:
        services = Services(sender_url, receiver_url, rabbitmq_url(), f"bench-{uuid.uuid4().hex[:12]}-by-hand")
        services.save(folder)
        try:
            yield
        finally:
            await remove_named(services.broker_url, queues=[services.queue])
