"""What all measurements share: CPU and memory of a process, a sample of it, medians and spreads."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]

MICRO = 1e6
MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """One run: how many requests or updates, in what time, and the CPU seconds of each of its two processes."""

    count: int
    seconds: float
    sender_cpu_s: float
    receiver_cpu_s: float

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


class Watch:
    """Measures wall-clock and CPU time of two processes, all their threads included."""

    def __init__(self, sender_pid: int, receiver_pid: int) -> None:
        """Begin to measure."""
        self._sender, self._receiver = psutil.Process(sender_pid), psutil.Process(receiver_pid)
        self._sender_cpu_s, self._receiver_cpu_s = cpu_s(self._sender), cpu_s(self._receiver)
        self._began = time.perf_counter()

    def sample(self, count: int) -> Sample:
        """End, after so many requests or updates."""
        return Sample(
            count,
            time.perf_counter() - self._began,
            cpu_s(self._sender) - self._sender_cpu_s,
            cpu_s(self._receiver) - self._receiver_cpu_s,
        )


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds that a process has used, in user and system mode."""
    times = process.cpu_times()
    return float(times.user + times.system)


def rss_mib(pid: int) -> float:
    """Return the memory that a process holds, in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / MIB


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
