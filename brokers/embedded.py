"""Queues in the memory of one process, on one event loop: the default.

Nothing of it needs to be on disk: after a restart every taker reads the log anyway. All work is done without
an await between looking and changing, so no lock is needed and a cancelled take cannot lose what it took.
"""

from collections import deque
from collections.abc import Collection
from itertools import product

from brokers.base import BrokerStopped, QueueGone, Taken
from brokers.waiting import Waiters

QUEUE_LENGTH_MAX = 1_000
"""Segments that one queue holds. A segment is one commit; a taker that is a thousand commits behind is served
better by reading the log once than by taking them one after the other. The queues of a topic share the bytes
of a segment, so that this bounds the memory of a topic, not of each queue."""

_Binding = tuple[str, str | None]
"""A topic, and one of its names; None: what is put for all."""


class EmbeddedBroker:
    """The `brokers.base.Broker` that needs nothing else."""

    trouble: None = None
    shared: bool = False

    def __init__(self, *, queue_length_max: int = QUEUE_LENGTH_MAX) -> None:
        if queue_length_max < 1:
            raise ValueError(f"a queue holds at least one segment, not {queue_length_max}")
        self._queue_length_max = queue_length_max
        self._queues: dict[str, _Queue] = {}
        self._bound: dict[_Binding, dict[str, _Queue]] = {}  # → its queues by name
        self._running = False

    async def start(self) -> None:
        """Begin with no queues."""
        self._running = True

    async def stop(self) -> None:
        """Forget all queues; every waiting take ends with `BrokerStopped`."""
        self._running = False
        for queue in self._queues.values():
            queue.waiters.wake()
        self._queues.clear()
        self._bound.clear()

    async def ensure(self, queue: str, topics: Collection[str], *, names: Collection[str] = ()) -> None:
        """Make the queue if there is none, and bind it to exactly these topics, under these names."""
        self._check_running()
        made = self._queues.setdefault(queue, _Queue(self._queue_length_max))
        wanted = frozenset(product(topics, (None, *names)))
        for binding in made.bindings - wanted:
            self._unbind(binding, queue)
        for binding in wanted:
            self._bound.setdefault(binding, {})[queue] = made
        made.bindings = wanted

    async def drop(self, queue: str) -> None:
        """Remove the queue with all that is in it; its takers end with `QueueGone`."""
        self._check_running()
        dropped = self._queues.pop(queue, None)
        if dropped is None:
            return
        for binding in dropped.bindings:
            self._unbind(binding, queue)
        dropped.waiters.wake()

    async def leave(self, queue: str) -> None:
        """Remove the queue: there is nobody else who could go on with it."""
        await self.drop(queue)

    async def put(self, topic: str, segment: bytes, *, only: str | None = None) -> None:
        """Hand one segment to every queue of this topic, or to those alone that have a name there."""
        for queue in self._bound.get((topic, only), {}).values():
            queue.put(segment)

    async def put_to(self, queue: str, segment: bytes) -> None:
        """Hand one segment to one queue."""
        found = self._queues.get(queue)
        if found is not None:
            found.put(segment)

    async def take(self, queue: str, *, limit: int) -> Taken:
        """Take up to ``limit`` segments; wait for the first."""
        if limit < 1:
            raise ValueError(f"a take has room for at least one segment, not {limit}")
        wanted = self._queue(queue)
        while not wanted.has_news():
            await wanted.waiters.wait()
            if self._queue(queue) is not wanted:
                raise QueueGone(queue)  # dropped and made again: not the queue that was waited for
        return wanted.take(limit)

    async def depth(self, queue: str) -> int:
        """How many segments wait in the queue."""
        return len(self._queue(queue).segments)

    def _queue(self, name: str) -> "_Queue":
        self._check_running()
        found = self._queues.get(name)
        if found is None:
            raise QueueGone(name)
        return found

    def _unbind(self, binding: "_Binding", queue: str) -> None:
        bound = self._bound[binding]
        del bound[queue]
        if not bound:
            del self._bound[binding]

    def _check_running(self) -> None:
        if not self._running:
            raise BrokerStopped


class _Queue:
    """One queue: what waits in it, and who waits for it."""

    __slots__ = ("_interrupted", "_length_max", "bindings", "segments", "waiters")

    def __init__(self, length_max: int) -> None:
        self.segments: deque[bytes] = deque()
        self.bindings: frozenset[_Binding] = frozenset()
        self._length_max = length_max
        self._interrupted = False
        self.waiters = Waiters()

    def put(self, segment: bytes) -> None:
        """Add a segment, at the price of the oldest one if the queue is full."""
        if len(self.segments) >= self._length_max:
            self.segments.popleft()
            self._interrupted = True
        self.segments.append(segment)
        self.waiters.wake()

    def has_news(self) -> bool:
        """Whether a take would bring something."""
        return bool(self.segments) or self._interrupted

    def take(self, limit: int) -> Taken:
        """Take what is there, up to ``limit`` segments."""
        count = min(limit, len(self.segments))
        segments = tuple(self.segments.popleft() for _ in range(count))
        interrupted, self._interrupted = self._interrupted, False
        return Taken(segments, interrupted=interrupted)
