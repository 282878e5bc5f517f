"""What all measurements share: CPU and memory of processes, a sample of them, medians and spreads.

A process is always meant with all its threads and all that it started: a sender may be several, and a PostgreSQL is.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

MICRO = 1e6
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """One run: how many requests or updates, in what time, and the CPU seconds of each of its two ends.

    Those of PostgreSQL and RabbitMQ stand beside them where they are used and their processes are ours to see.
    """

    count: int
    seconds: float
    sender_cpu_s: float
    receiver_cpu_s: float
    database_cpu_s: float | None = None
    broker_cpu_s: float | None = None

    @property
    def rate(self) -> float:
        """Requests or updates for each second."""
        return self.count / self.seconds

    @property
    def sender_us(self) -> float:
        """CPU of the sending process for each, in µs."""
        return self.sender_cpu_s / self.count * MICRO

    @property
    def receiver_us(self) -> float:
        """CPU of the receiving process for each, in µs."""
        return self.receiver_cpu_s / self.count * MICRO

    @property
    def both_us(self) -> float:
        """CPU of both for each, in µs."""
        return self.sender_us + self.receiver_us

    @property
    def servers_us(self) -> float | None:
        """CPU of PostgreSQL and RabbitMQ for each, in µs, if both were seen."""
        if self.database_cpu_s is None or self.broker_cpu_s is None:
            return None
        return (self.database_cpu_s + self.broker_cpu_s) / self.count * MICRO


@dataclass(frozen=True)
class RoundTrips:
    """One run of requests that are each answered by a callback, and how long they took from one to the other."""

    sample: Sample
    p50_s: float
    p99_s: float

    @classmethod
    def of(cls, sample: Sample, took_s: Sequence[float]) -> "RoundTrips":
        """Sum up a run."""
        return cls(sample, percentile(took_s, 50), percentile(took_s, 99))


@dataclass(frozen=True)
class Servers:
    """The processes of PostgreSQL and RabbitMQ; None for what is not used, or not to be seen."""

    database: psutil.Process | None = None
    broker: psutil.Process | None = None

    @classmethod
    def at(cls, database_url: str, broker_url: str) -> "Servers":
        """Find who listens there."""
        return cls(_listening_at(database_url, 5432), _listening_at(broker_url, 5672))


NO_SERVERS = Servers()


class Watch:
    """Measures wall-clock and CPU time of a sender, a receiver and the servers that they use."""

    def __init__(self, sender_pid: int, receiver_pid: int, servers: Servers = NO_SERVERS) -> None:
        """Begin to measure."""
        sender, receiver = psutil.Process(sender_pid), psutil.Process(receiver_pid)
        self._watched = (sender, receiver, servers.database, servers.broker)
        self._cpu_s = [_cpu_s_if(process) for process in self._watched]
        self._began = time.perf_counter()

    def sample(self, count: int) -> Sample:
        """End, after so many requests or updates."""
        seconds = time.perf_counter() - self._began
        sender, receiver, database, broker = (
            None if before is None or process is None else cpu_s(process) - before
            for process, before in zip(self._watched, self._cpu_s, strict=True)
        )
        return Sample(count, seconds, sender or 0.0, receiver or 0.0, database, broker)


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used, in user and system mode, and all that it started."""

    def used(each: psutil.Process) -> float:
        times = each.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)  # of what ended, too

    return _sum_of(process, used)


def rss_mib(pid: int) -> float:
    """Return the memory that a process and all that it started hold, in MiB."""
    return _sum_of(psutil.Process(pid), lambda each: float(each.memory_info().rss)) / MIB


def _cpu_s_if(process: psutil.Process | None) -> float | None:
    return None if process is None else cpu_s(process)


def _sum_of(process: psutil.Process, value: Callable[[psutil.Process], float]) -> float:
    total = value(process)
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
            total += value(child)
    return total


def _listening_at(url: str, default_port: int) -> psutil.Process | None:
    """Find the process behind a URL of this machine, if we may see it."""
    place = urlsplit(url)
    if place.hostname not in {"localhost", "127.0.0.1", "::1"}:
        return None
    port = place.port or default_port
    try:
        found = {
            each.pid
            for each in psutil.net_connections(kind="tcp")
            if each.status == psutil.CONN_LISTEN and each.laddr.port == port and each.pid is not None
        }
    except psutil.AccessDenied:
        return None
    return psutil.Process(min(found)) if found else None


@dataclass(frozen=True)
class Figure:
    """A median, and half the distance between the smallest and the largest run, in percent of it."""

    median: float
    spread_percent: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Sum up runs."""
        median = statistics.median(values)
        return cls(median, (max(values) - min(values)) / 2 / median * 100 if median else 0.0, len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def round_trips(ask: Callable[[], Awaitable[None]], *, count: int, at_once: int) -> list[float]:
    """Ask so many times, each of so many callers one thing after the other; returns how long each took, in seconds."""
    took_s: list[float] = []
    turns = iter(range(count))

    async def caller() -> None:
        for _ in turns:
            began = time.perf_counter()
            await ask()
            took_s.append(time.perf_counter() - began)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return took_s
