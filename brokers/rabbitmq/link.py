"""The connections to RabbitMQ: two plain ones with their channels, which live and end together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from ssl import SSLContext
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel as Wire
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic, Connection
from yarl import URL

from brokers.base import BrokerError

CONSUMERS_PER_CHANNEL_MAX: Final = 100
"""A channel that is closed, for whatever reason, takes its consumers with it; and thousands on one are slow."""

CONTROL_CHANNELS: Final = 8
"""For making queues: RabbitMQ makes those of one channel one after the other, and ten thousand took it minutes."""

VERSION_MIN: Final = (3, 10)

FAILURES: Final = (OSError, TimeoutError, amqp.AMQPError, RuntimeError)
"""Whatever a connection or channel says when it does not do what it should; RuntimeError: it is closed."""

_NO_ENTRY: Final = (
    amqp.AuthenticationError,
    amqp.ProbableAuthenticationError,
    amqp.ConnectionNotAllowed,
    amqp.InvalidFrameError,  # aiormq says so of a connection that is closed where it should be opened: no such vhost
)


class QueueType(StrEnum):
    """How RabbitMQ keeps a queue."""

    CLASSIC = "classic"
    QUORUM = "quorum"


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMqOptions:
    """Where RabbitMQ is, and how it is used."""

    url: str = field(repr=False)
    """``amqp[s]://user:password@host:port/vhost``; without a path, the virtual host ``/``."""
    password: str | None = field(default=None, repr=False)
    """Instead of one in the URL."""
    tls: SSLContext | None = field(default=None, repr=False)
    """For ``amqps``: whom to trust, and who we are; None: the system's authorities."""
    queue_type: QueueType = QueueType.CLASSIC
    prefix: str = "ocpi"
    """Begins the name of every exchange and queue, so that several platforms can share a virtual host."""
    queue_length_max: int = 1_000
    """Segments that one queue holds, as in `brokers.embedded`."""
    prefetch: int = 64
    """Segments that RabbitMQ hands over before they are acknowledged, for each queue."""
    call_timeout_s: float = 10.0
    """How long a declaration, a confirm or a connection may take before something is taken to be wrong."""
    heartbeat_s: int = 15
    """A connection that is silent for two of these is taken to be dead."""

    def address(self) -> URL:
        """Put the URL together.

        Raises ``ValueError`` for one that is none of RabbitMQ's.
        """
        url = URL(self.url)
        if url.scheme not in {"amqp", "amqps"} or not url.host:
            raise ValueError(f"{shown(url)} is no amqp:// or amqps:// URL with a host")
        if self.password is not None:
            url = url.with_password(self.password)
        return url.update_query(heartbeat=self.heartbeat_s)


@dataclass(eq=False, slots=True)
class Consumer:
    """Somebody who is handed what arrives in a queue."""

    wire: Wire
    tag: str


@dataclass(eq=False, slots=True)
class _Control:
    """A channel on which things are declared one after the other, once it is needed."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    channel: AbstractChannel | None = None


class Link:
    """Two connections, one to publish and one to consume and declare, with their channels. Either both live or none."""

    def __init__(
        self,
        options: RabbitMqOptions,
        url: URL,
        on_cancelled: Callable[[Consumer], Awaitable[None]],
        on_channel_closed: Callable[[Wire], Awaitable[None]],
        on_blocked: Callable[[str | None], None],
    ) -> None:
        """Prepare it. ``on_blocked`` is told why RabbitMQ takes nothing that is published, and None when it does."""
        self._options = options
        self._url = url
        self._on_cancelled = on_cancelled
        self._on_channel_closed = on_channel_closed
        self._on_blocked = on_blocked
        self._connections: list[AbstractConnection] = []
        self._publisher: AbstractChannel | None = None
        self._publisher_lock = asyncio.Lock()
        self._controls = [_Control() for _ in range(CONTROL_CHANNELS)]
        self._consumers: list[tuple[AbstractChannel, Wire, dict[str, Consumer]]] = []
        self.exchanges: set[str] = set()
        self.ended = asyncio.Event()

    async def open(self) -> None:
        """Connect.

        Raises `Unreachable` for what time may mend, `BrokerError` for what somebody has to.
        """
        try:
            await self._open()
        except BaseException as failure:  # a cancellation too: no connection stays behind
            await self.close()
            if isinstance(failure, _NO_ENTRY):
                raise BrokerError(_no_entry(self._url, failure)) from failure
            if isinstance(failure, FAILURES):
                raise Unreachable(f"RabbitMQ at {shown(self._url)} is out of reach: {told(failure)}") from failure
            raise

    async def _open(self) -> None:
        for what in ("publishing", "consuming"):
            connection = await aio_pika.connect(
                self._url,
                timeout=self._options.call_timeout_s,
                ssl_context=self._options.tls,
                client_properties={"connection_name": f"{self._options.prefix} {what}"},
            )
            self._connections.append(connection)
            _check_version(connection, self._url)
            connection.close_callbacks.add(self._end)
        _hear_of_blocks(self._connections[0], self._on_blocked)
        await self.publisher()

    async def close(self) -> None:
        """Let go of everything, within a bounded time."""
        self.ended.set()
        await asyncio.gather(*map(self._close, self._connections))

    async def _close(self, connection: AbstractConnection) -> None:
        try:
            with contextlib.suppress(*FAILURES):
                async with asyncio.timeout(self._options.call_timeout_s):
                    await connection.close()
        finally:
            await connection.close()  # has nothing to wait for now; what is not closed is left to the garbage collector

    def _end(self, *_: object) -> None:
        self.ended.set()

    async def publisher(self) -> Wire:
        """Return the channel to publish on; RabbitMQ closes it for an exchange that is not there."""
        async with self._publisher_lock:
            if self._publisher is None or self._publisher.is_closed:
                channel = self._connections[0].channel(publisher_confirms=True, on_return_raises=False)
                await channel.initialize(timeout=self._options.call_timeout_s)
                self._publisher = channel
            return await self._publisher.get_underlay_channel()

    @asynccontextmanager
    async def control(self, name: str) -> AsyncIterator[Wire]:
        """Hold the channel on which a queue or exchange is declared; for one name it is always the same.

        After an error it is opened anew.
        """
        control = self._controls[hash(name) % CONTROL_CHANNELS]
        async with control.lock:
            if self.ended.is_set():
                raise ConnectionError("the connection to RabbitMQ was lost")
            if control.channel is None or control.channel.is_closed:
                channel = self._connections[1].channel(publisher_confirms=False)
                await channel.initialize(timeout=self._options.call_timeout_s)
                control.channel = channel
            try:
                yield await control.channel.get_underlay_channel()
            except BaseException:
                control.channel = None  # an error, or giving up on an answer, closes it
                raise

    async def consume(self, queue: str, arrived: Callable[[DeliveredMessage], Coroutine[Any, Any, None]]) -> Consumer:
        """Begin to be handed what is in a queue."""
        _, wire, consumers = await self._with_room()
        consumer = Consumer(wire, "")
        answer = await wire.basic_consume(queue, arrived, timeout=self._options.call_timeout_s)
        consumer.tag = answer.consumer_tag or ""
        consumers[consumer.tag] = consumer
        return consumer

    async def cancel(self, consumer: Consumer) -> None:
        """Be handed no more."""
        for _, wire, consumers in self._consumers:
            if wire is consumer.wire:
                consumers.pop(consumer.tag, None)
        await consumer.wire.basic_cancel(consumer.tag, timeout=self._options.call_timeout_s)

    async def _with_room(self) -> tuple[AbstractChannel, Wire, dict[str, Consumer]]:
        for entry in self._consumers:
            if len(entry[2]) < CONSUMERS_PER_CHANNEL_MAX and not entry[0].is_closed:
                return entry
        channel = self._connections[1].channel(publisher_confirms=False)
        await channel.initialize(timeout=self._options.call_timeout_s)
        await channel.set_qos(prefetch_count=self._options.prefetch, timeout=self._options.call_timeout_s)
        wire = await channel.get_underlay_channel()
        consumers: dict[str, Consumer] = {}
        entry = (channel, wire, consumers)

        async def cancelled(frame: Basic.Cancel) -> None:
            consumer = consumers.pop(frame.consumer_tag or "", None)
            if consumer is not None:
                await self._on_cancelled(consumer)

        async def closed(*_: object) -> None:
            if entry in self._consumers:
                self._consumers.remove(entry)
            if not self.ended.is_set():
                await self._on_channel_closed(wire)

        wire.on_consumer_cancel_callbacks.add(cancelled)
        channel.close_callbacks.add(closed)
        self._consumers.append(entry)
        return entry


class Unreachable(BrokerError):
    """RabbitMQ cannot be reached now; it may be, later."""


def shown(url: URL) -> str:
    """Write where it is, without a password."""
    return f"{url.scheme}://{url.host}:{url.port or ''}{url.path or '/'}"


def told(failure: BaseException) -> str:
    """Write what a failure says of itself."""
    return str(failure) or type(failure).__name__


def _hear_of_blocks(connection: AbstractConnection, tell: Callable[[str | None], None]) -> None:
    """Have it told what RabbitMQ says when it stops reading a connection, and when it goes on.

    aiormq writes the reason into its log and tells nobody, so its handlers of these two frames are put behind ours.
    """
    wire = connection.transport.connection if connection.transport is not None else None

    def before(name: str, told: Callable[[Any], None]) -> None:
        name = f"_Connection__handle_connection_{name}"
        handle = getattr(wire, name, None)
        if handle is None:
            return  # another aiormq: segments time out then, and only the reason stays untold

        async def handled(frame: Any) -> None:
            told(frame)
            await handle(frame)

        setattr(wire, name, handled)

    def blocked(frame: Connection.Blocked) -> None:
        tell(frame.reason or "for a reason that it does not tell")

    def unblocked(_frame: Connection.Unblocked) -> None:
        tell(None)

    before("blocked", blocked)
    before("unblocked", unblocked)


def _check_version(connection: AbstractConnection, url: URL) -> None:
    """Refuse a server on which what we ask for means something else: before 3.10, quorum queues dropped no head."""
    wire = connection.transport.connection if connection.transport is not None else None
    version = str(getattr(wire, "server_properties", {}).get("version", ""))
    found = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if found and found < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        raise BrokerError(f"RabbitMQ at {shown(url)} is {version}, and the engine needs {wanted} or newer: upgrade it")


def _no_entry(url: URL, refused: Exception) -> str:
    return (
        f"RabbitMQ at {shown(url)} does not let {url.user or 'guest'} in ({told(refused)}): check user, password and"
        " virtual host, and that the user may use it (rabbitmqctl set_permissions)"
    )


def no_permission(refused: Exception) -> str:
    """Write what a user lacks."""
    return f"RabbitMQ does not permit it ({told(refused)}): see deploy/rabbitmq for what the user needs"
