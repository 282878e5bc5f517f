"""Queues in RabbitMQ: what is wanted of them, what has arrived, and who waits for it."""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections import deque
from collections.abc import Collection
from itertools import product
from typing import Any, Final
from urllib.parse import quote

from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel as Wire
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from brokers.base import BrokerError, BrokerStopped, QueueGone, Taken, Trouble
from brokers.rabbitmq.link import (
    FAILURES,
    Consumer,
    Link,
    QueueType,
    RabbitMqOptions,
    Unreachable,
    no_permission,
    shown,
    told,
)
from brokers.waiting import Waiters

_log = logging.getLogger(__name__)

UNCONFIRMED_MAX: Final = 1_000
"""Segments on their way; more means that RabbitMQ takes none (an alarm, a stall), and then a walk is better."""

FIRST_PAUSE_S: Final = 0.5
PAUSE_MAX_S: Final = 15.0
"""Between attempts to connect again: soon after a restart, without a storm after an outage."""

CANCEL_AGAIN_S: Final = 0.1  # long for a task that was cancelled

NAME_LENGTH_MAX: Final = 255  # bytes, AMQP's number
NEVER: Final = 2**31 - 1
"""Deliveries before a quorum queue drops a message. A default of 4.0 is 20, and -1 loses messages on 3.10."""

WEEK_MS: Final = 7 * 24 * 3600 * 1000
"""A queue that nobody used for so long belongs to nobody; whoever does come back reads the log."""


_OF_ONE_QUEUE: Final = (amqp.ChannelNotFoundEntity, amqp.ChannelPreconditionFailed, amqp.ChannelAccessRefused)
"""What concerns one queue and no other; whoever takes from it asks for it again and is told why."""

_Binding = tuple[str, str]
"""A topic, and the routing key under which its segments come."""

Arrived = tuple[bytes, Wire, int]
"""A segment, the channel that it came on, and its number there."""


class RabbitMqBroker:
    """The `brokers.base.Broker` that several processes share."""

    def __init__(self, options: RabbitMqOptions) -> None:
        """Use this RabbitMQ; nothing is connected before `start`.

        Raises ``ValueError`` for options that cannot be right.
        """
        if options.queue_length_max < 1:
            raise ValueError(f"a queue holds at least one segment, not {options.queue_length_max}")
        self._options = options
        self._url = options.address()
        self._queues: dict[str, _Queue] = {}
        self._doomed: dict[str, frozenset[_Binding]] = {}  # dropped here, perhaps not yet there, and its bindings
        self._waiting: set[str] = set()  # queues that have to be declared or consumed
        self._failed: set[str] = set()  # of these, those that did not answer last time
        self._work = asyncio.Event()
        self._link: Link | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._puts: set[asyncio.Task[None]] = set()
        self._letting_go: set[asyncio.Task[None]] = set()
        self._trouble: Trouble | None = None
        self._blocked: Trouble | None = None  # RabbitMQ takes nothing that is published, on this connection

    @property
    def shared(self) -> bool:
        """Whether what is put here now reaches other processes: not without a connection, nor during an alarm."""
        return self._open() is not None

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with the connection; None while all is well."""
        return self._trouble or self._blocked

    # -- life ---------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, and keep connected from now on.

        Returns when queues can be used, also while RabbitMQ is out of reach: then it is tried again, and again.
        Raises `BrokerError` for what waiting does not mend: credentials, permissions, a virtual host that is not there.
        """
        if self._keeper is not None:
            return
        try:
            self._link = await self._connect()
        except Unreachable as unreachable:
            self._note(str(unreachable))
            _log.warning("%s; trying again", unreachable, extra={"action": "broker_unreachable"})
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Let go of the queues, which stay; every waiting take ends with `BrokerStopped`."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        if under_way := {*self._puts, *self._letting_go}:
            await asyncio.wait(under_way, timeout=1)
        ending = {keeper, *self._puts}
        while ending:  # `asyncio.wait_for` of Python 3.11 may swallow a cancellation when what it waits for is there
            for task in ending:
                task.cancel()
            ended, ending = await asyncio.wait(ending, timeout=CANCEL_AGAIN_S)
            await asyncio.gather(*ended, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
            self._link = self._blocked = None
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            queue.waiters.wake()
        self._waiting.clear()

    async def _keep(self) -> None:
        """Do what queues wait for, and connect again when the connection is gone."""
        pause_s = FIRST_PAUSE_S
        while True:
            link = self._link
            if link is None:
                try:
                    self._link = link = await self._connect()
                except BrokerError as error:
                    self._note(str(error), pause_s)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)
                    continue
            pause_s = FIRST_PAUSE_S
            self._begin_again()
            await self._serve(link)
            await self._lose(link)

    async def _connect(self) -> Link:
        link = Link(self._options, self._url, self._cancelled, self._channel_closed, self._on_blocked)
        await link.open()
        _log.info("connected to RabbitMQ at %s", shown(self._url), extra={"action": "broker_connected"})
        return link

    def _note(self, why: str, next_s: float = 0.0) -> None:
        now = time.time()
        since = now if self._trouble is None else self._trouble.since
        self._trouble = Trouble(why, since, now + next_s)

    def _on_blocked(self, why: str | None) -> None:
        """RabbitMQ has an alarm, or is over it: until then nothing is put, and the log is read instead."""
        if why is None:
            self._blocked = None
            _log.warning("RabbitMQ takes segments again", extra={"action": "broker_unblocked"})
            return
        said = f"RabbitMQ at {shown(self._url)} takes nothing until its alarm is over: {why}"
        self._blocked = Trouble(said, time.time())
        _log.warning("%s", said, extra={"action": "broker_blocked"})
        self._interrupt_all()

    def _begin_again(self) -> None:
        """Have every queue looked at on a connection that knows none of them."""
        self._waiting.update(self._queues)
        self._work.set()

    async def _lose(self, link: Link) -> None:
        """A connection is gone: whatever was under way may be lost."""
        self._link = None
        self._blocked = None
        self._note(f"the connection to RabbitMQ at {shown(self._url)} was lost")
        _log.warning("the connection to RabbitMQ at %s was lost", shown(self._url), extra={"action": "broker_lost"})
        for queue in self._queues.values():
            queue.forget()
        self._interrupt_all()
        await link.close()

    async def _serve(self, link: Link) -> None:
        """Work on this connection until it ends."""
        ended, working = asyncio.ensure_future(link.ended.wait()), None
        pause_s = FIRST_PAUSE_S
        try:
            while not link.ended.is_set():
                self._work.clear()
                try:
                    await self._catch_up(link)
                except FAILURES as failure:
                    self._note(told(failure), pause_s)
                    _log.warning("RabbitMQ: %s", told(failure), extra={"action": "broker_failure"})
                    await asyncio.wait([ended], timeout=pause_s)
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)
                    continue
                self._trouble, pause_s = None, FIRST_PAUSE_S
                working = asyncio.ensure_future(self._work.wait())
                await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
                working.cancel()
        finally:
            ended.cancel()
            if working is not None:
                working.cancel()

    async def _catch_up(self, link: Link) -> None:
        for name in sorted(self._doomed):
            with contextlib.suppress(amqp.ChannelAccessRefused):  # another one may do it: unused queues expire
                await self._delete(link, name)
            self._doomed.pop(name, None)
        await self._attach_all(link)

    async def _attach_all(self, link: Link) -> None:
        """See to every queue that waits for it; one that does not answer, as a quorum without a leader, comes last."""
        failure: BaseException | None = None
        failed: set[str] = set()
        for name in sorted(self._waiting, key=lambda name: (name in self._failed, name)):
            self._waiting.discard(name)  # before the work, since it may have to be done again meanwhile
            queue = self._queues.get(name)
            if queue is None:
                continue
            try:
                await self._attach(link, queue)
            except FAILURES as error:
                self._waiting.add(name)
                if link.ended.is_set():
                    raise
                failed.add(name)
                failure = error
        self._failed = failed
        if failure is not None:
            raise failure

    # -- queues -------------------------------------------------------------------------------------------

    async def ensure(self, queue: str, topics: Collection[str], *, names: Collection[str] = ()) -> None:
        """Make the queue if there is none, and bind it to exactly these topics, under these names.

        Out of reach, it is made as soon as RabbitMQ is back. Bindings that another process made, under other topics,
        are not known here; names that carry what the queue is for never have any. Raises `BrokerError` for a queue
        that exists with other arguments.
        """
        self._check_running()
        known = self._queues.get(queue)
        if known is None:
            known = self._queues[queue] = _Queue(queue)
        known.bindings = frozenset(product(topics, map(_routing_key, (None, *names))))
        self._doomed.pop(queue, None)
        if self._link is None:
            self._waiting.add(queue)
            return
        try:
            await self._declare(self._link, known)
        except amqp.ChannelPreconditionFailed as refused:
            self._queues.pop(queue, None)
            raise BrokerError(
                f"RabbitMQ has a queue {self._name(queue)!r} with other arguments ({told(refused)}): delete it"
                f" (rabbitmqctl delete_queue {self._name(queue)}), it is made again and nothing is lost; or set the"
                " queue type and length that it was made with"
            ) from refused
        except amqp.ChannelAccessRefused as refused:
            self._queues.pop(queue, None)
            raise BrokerError(no_permission(refused)) from refused
        except FAILURES:
            self._waiting.add(queue)
            self._work.set()

    async def drop(self, queue: str) -> None:
        """Remove the queue with all that is in it, as soon as RabbitMQ is there; its takers end with `QueueGone`."""
        self._check_running()
        dropped = self._queues.pop(queue, None)
        if dropped is not None:
            dropped.gone = True
            dropped.waiters.wake()
        self._doomed.setdefault(queue, frozenset() if dropped is None else dropped.bound)
        if self._link is None:
            return
        try:
            await self._delete(self._link, queue)
            self._doomed.pop(queue, None)
        except FAILURES:
            self._work.set()

    async def leave(self, queue: str) -> None:
        """Consume the queue no more; what has arrived of it is acknowledged, since nobody else would get it."""
        self._check_running()
        left = self._queues.get(queue)
        if left is None:
            return
        self._vanish(left)
        self._waiting.discard(queue)
        task = asyncio.create_task(self._let_go(left))
        self._letting_go.add(task)
        task.add_done_callback(self._letting_go.discard)
        await asyncio.shield(task)  # whoever is cancelled here forgets the queue, and nobody else ends its consumer

    async def _let_go(self, left: "_Queue") -> None:
        async with left.attaching:
            consumer, link = left.consumer, self._link
        if consumer is not None and link is not None:
            with contextlib.suppress(*FAILURES):  # a connection that is gone consumes nothing
                await link.cancel(consumer)
        await _acknowledge(left.take(len(left.buffer)))

    async def depth(self, queue: str) -> int:
        """How many segments wait in the queue, and here; those on the way between are not seen."""
        known = self._known(queue)
        link = self._link
        if link is None:
            raise Unreachable(f"RabbitMQ at {shown(self._url)} is out of reach")
        await self._confirmed()
        try:
            async with link.control(self._name(queue)) as wire:
                declared = await wire.queue_declare(
                    self._name(queue), passive=True, timeout=self._options.call_timeout_s
                )
        except amqp.ChannelNotFoundEntity:
            raise QueueGone(queue) from None
        except FAILURES as failure:
            raise BrokerError(told(failure)) from failure
        return (declared.message_count or 0) + len(known.buffer)

    async def _declare(self, link: Link, queue: "_Queue") -> None:
        timeout_s = self._options.call_timeout_s
        name = self._name(queue.name)
        async with link.control(name) as wire:
            await wire.queue_declare(name, durable=True, arguments=self._arguments(), timeout=timeout_s)
            for topic, key in queue.bindings - queue.bound:
                exchange = await self._exchange(link, wire, topic)
                await wire.queue_bind(name, exchange, routing_key=key, timeout=timeout_s)
            for topic, key in queue.bound - queue.bindings:
                await wire.queue_unbind(name, self._topic(topic), routing_key=key, timeout=timeout_s)
        queue.bound, queue.made = queue.bindings, True

    async def _exchange(self, link: Link, wire: Wire, topic: str) -> str:
        exchange = self._topic(topic)
        if exchange not in link.exchanges:
            await wire.exchange_declare(
                exchange, exchange_type="topic", durable=True, timeout=self._options.call_timeout_s
            )
            link.exchanges.add(exchange)
        return exchange

    async def _attach(self, link: Link, queue: "_Queue") -> None:
        """Have a queue declared, and consumed once somebody takes from it."""
        try:
            if not queue.made:
                await self._declare(link, queue)
            async with queue.attaching:
                if not queue.wanted or queue.consumer is not None or queue.gone:
                    return
                name = self._name(queue.name)
                async with link.control(name) as wire:  # a queue that is not there would close the consumers' channel
                    await wire.queue_declare(name, passive=True, timeout=self._options.call_timeout_s)
                queue.consumer = await link.consume(name, queue.arrived)
                queue.waiters.wake()
        except _OF_ONE_QUEUE as refused:
            _log.warning("queue %s: %s", queue.name, told(refused), extra={"action": "queue_gone"})
            self._vanish(queue)

    async def _delete(self, link: Link, queue: str) -> None:
        """Delete a queue to which nothing is on its way any more, and which nothing can set out for.

        While a quorum queue ends, RabbitMQ 3.10 closes the connection (541) that publishes to it, and newer ones
        refuse what is published, for its neighbours too (rabbitmq-server#15333): bindings go only after the queue.
        """
        timeout_s, name = self._options.call_timeout_s, self._name(queue)
        async with link.control(name) as wire:  # for all three, so that a queue of the same name comes after them
            for topic, key in self._doomed.get(queue, ()):
                await wire.queue_unbind(name, self._topic(topic), routing_key=key, timeout=timeout_s)
            await self._confirmed()
            await wire.queue_delete(name, timeout=timeout_s)

    def _vanish(self, queue: "_Queue") -> None:
        if self._queues.get(queue.name) is queue:
            del self._queues[queue.name]
        queue.gone = True
        queue.waiters.wake()

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "x-queue-type": self._options.queue_type.value,
            "x-max-length": self._options.queue_length_max,
            "x-overflow": "drop-head",
            "x-expires": WEEK_MS,
        }
        if self._options.queue_type is QueueType.QUORUM:
            arguments["x-delivery-limit"] = NEVER
        return arguments

    # -- putting ------------------------------------------------------------------------------------------

    async def put(self, topic: str, segment: bytes, *, only: str | None = None) -> None:
        """Hand one segment to every queue of this topic, or to those alone that have a name there.

        One that is not confirmed interrupts all that we take from.
        """
        link = self._open()
        if link is None:
            self._interrupt_all()
            return
        exchange = self._topic(topic)
        if exchange not in link.exchanges:
            try:
                async with link.control(exchange) as wire:
                    await self._exchange(link, wire, topic)
            except FAILURES as failure:
                self._not_put(failure)
                return
        self._send(link, exchange, _routing_key(only), segment)

    async def put_to(self, queue: str, segment: bytes) -> None:
        """Hand one segment to one queue."""
        link = self._open()
        if link is None:
            self._interrupt_all()
        else:
            self._send(link, "", self._name(queue), segment)

    def _open(self) -> Link | None:
        """Return the connection if RabbitMQ takes what is published on it."""
        return self._link if self._blocked is None else None

    def _send(self, link: Link, exchange: str, routing_key: str, segment: bytes) -> None:
        """Publish without waiting; tasks begin in the order in which they are made, and so do the segments."""
        if len(self._puts) >= UNCONFIRMED_MAX:
            self._interrupt_all()
            return
        task = asyncio.create_task(self._publish(link, exchange, routing_key, segment))
        self._puts.add(task)
        task.add_done_callback(self._puts.discard)

    async def _publish(self, link: Link, exchange: str, routing_key: str, segment: bytes) -> None:
        try:
            wire = await link.publisher()
            await wire.basic_publish(
                segment,
                exchange=exchange,
                routing_key=routing_key,
                properties=Basic.Properties(delivery_mode=2),
                timeout=self._options.call_timeout_s,
            )
        except FAILURES as failure:
            link.exchanges.discard(exchange)
            self._not_put(failure)

    def _not_put(self, failure: BaseException) -> None:
        _log.warning("RabbitMQ did not take a segment: %s", told(failure), extra={"action": "segment_lost"})
        self._interrupt_all()

    async def _confirmed(self) -> None:
        """Wait for what is on its way."""
        if self._puts:
            await asyncio.wait(self._puts, timeout=self._options.call_timeout_s)

    def _interrupt_all(self) -> None:
        for queue in self._queues.values():
            queue.interrupted = True
            queue.waiters.wake()

    # -- taking -------------------------------------------------------------------------------------------

    async def take(self, queue: str, *, limit: int) -> Taken:
        """Take up to ``limit`` segments; wait for the first."""
        if limit < 1:
            raise ValueError(f"a take has room for at least one segment, not {limit}")
        wanted = self._known(queue)
        if not wanted.wanted:
            wanted.wanted = True
            self._waiting.add(queue)
            self._work.set()
        while not wanted.has_news():
            await wanted.waiters.wait()
            self._check_running()
            if wanted.gone:
                raise QueueGone(queue)
        taken = wanted.take(limit)
        interrupted, wanted.interrupted = wanted.interrupted, False
        if taken:
            task = asyncio.create_task(_acknowledge(taken))
            self._letting_go.add(task)
            task.add_done_callback(self._letting_go.discard)
        return Taken(tuple(segment for segment, _, _ in taken), interrupted=interrupted)

    async def _cancelled(self, consumer: Consumer) -> None:
        """RabbitMQ ended a consumer by itself: its queue was deleted, or moves to another node."""
        for queue in list(self._queues.values()):
            if queue.consumer is consumer:
                queue.forget()
                queue.interrupted = True
                self._waiting.add(queue.name)
                self._work.set()

    async def _channel_closed(self, wire: Wire) -> None:
        """Consume again what was consumed on a channel that RabbitMQ closed."""
        for queue in list(self._queues.values()):
            if queue.consumer is not None and queue.consumer.wire is wire:
                queue.forget()
                queue.interrupted = True
                queue.waiters.wake()
                self._waiting.add(queue.name)
                self._work.set()

    def _known(self, queue: str) -> "_Queue":
        self._check_running()
        known = self._queues.get(queue)
        if known is None:
            raise QueueGone(queue)
        return known

    def _check_running(self) -> None:
        if self._keeper is None:
            raise BrokerStopped

    # -- names --------------------------------------------------------------------------------------------

    def _name(self, queue: str) -> str:
        return queue_name(self._options, queue)

    def _topic(self, topic: str) -> str:
        return exchange_name(self._options, topic)


def queue_name(options: RabbitMqOptions, queue: str) -> str:
    """Say what a queue is called at RabbitMQ."""
    return _full(f"{options.prefix}.queue", queue)


def exchange_name(options: RabbitMqOptions, topic: str) -> str:
    """Say what the exchange of a topic is called at RabbitMQ."""
    return _full(f"{options.prefix}.topic", topic)


def _routing_key(only: str | None) -> str:
    """Say under which key segments for all are routed, and those for a name."""
    return "all" if only is None else _full("only", only)


def _full(prefix: str, name: str) -> str:
    """Write a name that AMQP knows how to write; one that is too long ends in a digest."""
    full = f"{prefix}.{quote(name, safe='').replace('~', '%7E').replace('%', ':')}"
    if len(full) <= NAME_LENGTH_MAX:
        return full
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{full[: NAME_LENGTH_MAX - len(digest) - 1]}.{digest}"


async def remove(options: RabbitMqOptions, *, queues: Collection[str], topics: Collection[str]) -> None:
    """Take away queues, and the exchanges of topics, of whoever will not come back; some may be gone already.

    Raises `BrokerError`.
    """

    async def ignore(_whatever: object) -> None:
        pass

    try:
        link = Link(options, options.address(), ignore, ignore, lambda _why: None)
    except ValueError as error:
        raise BrokerError(str(error)) from error
    await link.open()
    try:
        async with link.control(options.prefix) as wire:
            for queue in queues:
                await wire.queue_delete(queue_name(options, queue), timeout=options.call_timeout_s)
            for topic in topics:
                await wire.exchange_delete(exchange_name(options, topic), timeout=options.call_timeout_s)
    except FAILURES as failure:
        raise BrokerError(told(failure)) from failure
    finally:
        await link.close()


class _Queue:
    """A queue as this process sees it: what it should be bound to, what has arrived of it, who waits for it."""

    __slots__ = (
        *("attaching", "bindings", "bound", "buffer", "consumer", "gone", "interrupted", "made", "name", "waiters"),
        "wanted",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.bindings: frozenset[_Binding] = frozenset()
        self.bound: frozenset[_Binding] = frozenset()
        self.made = False  # declared once, so that its absence means that somebody deleted it
        self.wanted = False  # somebody takes from it
        self.gone = False
        self.interrupted = False
        self.attaching = asyncio.Lock()
        self.consumer: Consumer | None = None
        self.buffer: deque[Arrived] = deque()
        self.waiters = Waiters()

    async def arrived(self, message: DeliveredMessage) -> None:
        """Keep a segment until it is taken."""
        tag = message.delivery_tag
        if tag is not None:
            self.buffer.append((message.body, message.channel, tag))
            self.waiters.wake()

    def forget(self) -> None:
        """Forget what can no longer be acknowledged: it comes again."""
        self.consumer = None
        self.buffer.clear()

    def has_news(self) -> bool:
        """Whether a take would bring something."""
        return bool(self.buffer) or self.interrupted

    def take(self, limit: int) -> list[Arrived]:
        """Take what is there, up to ``limit`` segments; it is for the caller to acknowledge them."""
        return [self.buffer.popleft() for _ in range(min(limit, len(self.buffer)))]


async def _acknowledge(taken: list[Arrived]) -> None:
    with contextlib.suppress(*FAILURES):  # what could not be acknowledged comes again, and does no harm
        for _, wire, tag in taken:
            await wire.basic_ack(tag, wait=False)
