"""The port: queues that carry small pieces of bytes quickly, and say when they may have lost one.

Nothing here knows what the bytes mean. Whoever puts them has written down elsewhere what is owed, and can
find every change again by reading that log. So a queue need not be certain; it has to be quick, bounded and
honest::

    put("cdrs", segment) ───────────────▶ topic ──┬──▶ queue of one subscription ──▶ take(queue) ──▶ Taken
    put("cdrs", segment, only="DEPTX") ───▶ name ──┼──▶ queue of another
    put_to(queue, segment) ────────────────────────┘

What every backend promises, and ``tests/contract/brokers`` holds it to:

1. What was put is usually taken once, soon, and in order. It may be lost, doubled or reordered.
2. A backend that knows that it may have lost something (a full queue dropped its head, a connection came
   back) says so in the next `Taken` of each queue concerned: ``interrupted``. The taker then reads the log.
3. No call hangs but `Broker.take`, and that one ends when its queue is dropped or the broker stops.
4. A full queue slows nobody down: it drops its oldest segment, and the other queues get theirs.
5. A queue that was dropped does not come back by itself.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


class BrokerError(Exception):
    """A broker cannot do what it was asked for."""


class QueueGone(BrokerError):
    """There is no such queue: it was never made, was dropped, or was lost.

    The taker makes it again with `Broker.ensure`, then reads the log, since nothing was kept meanwhile.
    """

    def __init__(self, queue: str) -> None:
        super().__init__(f"queue {queue!r} does not exist")
        self.queue = queue


class BrokerStopped(BrokerError):
    """The broker has not been started, or was stopped while somebody waited for it."""

    def __init__(self) -> None:
        super().__init__("the broker is not running")


@dataclass(frozen=True, slots=True)
class Taken:
    """What one take brought: segments, the knowledge that some may be missing, or both."""

    segments: tuple[bytes, ...]
    """Oldest first. Nobody else gets them, and they are not delivered again."""

    interrupted: bool = False
    """Something may have been lost before the last of these segments: read the log."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a broker, for an operator. Times are seconds since the epoch."""

    why: str
    since: float
    next_attempt_at: float | None = None


class Broker(Protocol):
    """Queues by name, each bound to topics. A Service: `start` and `stop` may come twice and in any order."""

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with it, and is being mended; None while all is well."""
        ...

    @property
    def shared(self) -> bool:
        """Whether what is put here now reaches takers in other processes."""
        ...

    async def start(self) -> None:
        """Return when queues can be used."""
        ...

    async def stop(self) -> None:
        """Return when nothing runs any more; every waiting `take` ends with `BrokerStopped`."""
        ...

    async def ensure(self, queue: str, topics: Collection[str], *, names: Collection[str] = ()) -> None:
        """Make the queue if there is none; from now on it receives what is put under exactly these topics.

        That is what is put for all, and what is put only for one of these ``names``. What the queue holds already
        stays in it. Raises `BrokerStopped`.
        """
        ...

    async def drop(self, queue: str) -> None:
        """Remove the queue with all that is in it; its takers end with `QueueGone`.

        Doing it twice is no error. Raises `BrokerStopped`.
        """
        ...

    async def leave(self, queue: str) -> None:
        """Take no more from the queue here; its takers end with `QueueGone`, and another process may go on with it.

        What had arrived here already is lost; whoever goes on reads the log. Raises `BrokerStopped`.
        """
        ...

    async def put(self, topic: str, segment: bytes, *, only: str | None = None) -> None:
        """Hand one segment to every queue of this topic, or to those alone that have a name there.

        Never waits for a taker, and raises nothing for a queue that is full, for a topic without queues, or
        because the broker is stopped or out of reach: the log is certain, this is only fast.
        """
        ...

    async def put_to(self, queue: str, segment: bytes) -> None:
        """Hand one segment to one queue, as `put` does; a queue that does not exist gets nothing."""
        ...

    async def take(self, queue: str, *, limit: int) -> Taken:
        """Take up to ``limit`` segments; wait until there is at least one, or an interruption to tell.

        A take that is cancelled takes nothing. Raises `QueueGone`, `BrokerStopped`, and ``ValueError`` for a
        limit below 1.
        """
        ...

    async def depth(self, queue: str) -> int:
        """How many segments wait in the queue. Raises `QueueGone` and `BrokerStopped`."""
        ...
