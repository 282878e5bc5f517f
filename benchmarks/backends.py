"""What a platform keeps its data in: SQLite and queues in its own memory, or PostgreSQL and RabbitMQ.

Both are used by what a benchmark starts and by nobody else: databases, exchanges and queues have names of their own,
and are gone when the platform is.
"""

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import aio_pika
import asyncpg  # type: ignore[import-untyped]
from aiormq.exceptions import ChannelNotFoundEntity
from sqlalchemy.exc import ProgrammingError

from benchmarks.measuring import NO_SERVERS, Servers
from brokers.rabbitmq import RabbitMqOptions, exchange_name, queue_name
from engine.protocol.modules import all_modules
from engine.replication import push
from engine.store import subscriptions
from engine.store.database import Database
from tests.support.postgresql import new_database, postgresql_url
from tests.support.rabbitmq import rabbitmq_url, remove_named

LOOK_AGAIN_S: Final = 0.2


@dataclass(frozen=True)
class Backend:
    """A pair of database and broker, the worker written by hand that goes with it, and what the engine is to reach."""

    name: str
    title: str
    by_hand: str
    """The module of that worker."""
    by_hand_times: float
    """So many times its rate."""
    cpu_max_us: float
    """For a Location, at both ends."""

    @property
    def has_servers(self) -> bool:
        """Whether there are servers beside the processes of the engine."""
        return self is RABBITMQ

    def servers(self) -> Servers:
        """Find the processes of its servers."""
        return Servers.at(postgresql_url(), rabbitmq_url()) if self.has_servers else NO_SERVERS


EMBEDDED: Final = Backend("embedded", "SQLite, queues in memory", "handwritten", 5, 700)
RABBITMQ: Final = Backend("rabbitmq", "PostgreSQL, RabbitMQ", "queued", 3, 1000)
BACKENDS: Final = {backend.name: backend for backend in (EMBEDDED, RABBITMQ)}


class Rows(Protocol):
    """Looks at a platform's database from outside: what is seen there is committed."""

    pause_s: float
    """Between two looks, so that looking costs the others little."""

    async def number(self, statement: str, log: str) -> int | None:
        """Ask for a number; ``?`` in the statement stands for a log."""
        ...

    async def close(self) -> None:
        """Let go."""
        ...


class SqliteRows:
    """Reads the file."""

    pause_s = 0.002

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True, isolation_level=None)

    async def number(self, statement: str, log: str) -> int | None:
        """Ask in this thread: it takes some microseconds."""
        row = self._connection.execute(statement, (log,)).fetchone()
        return None if row is None or row[0] is None else int(row[0])

    async def close(self) -> None:
        """Let go."""
        self._connection.close()


class PostgresqlRows:
    """Asks the server."""

    pause_s = 0.01

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def number(self, statement: str, log: str) -> int | None:
        """Ask."""
        found = await self._connection.fetchval(statement.replace("?", "$1"), log)
        return None if found is None else int(found)

    async def close(self) -> None:
        """Let go."""
        await self._connection.close()


@dataclass(frozen=True)
class Place:
    """Where one platform keeps its data; ``made_with`` and ``settings`` tell a ``Platform``."""

    made_with: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    prefix: str = ""
    """Of queues and exchanges at RabbitMQ."""

    def database(self, folder: Path) -> Database:
        """Open the platform's database as the engine does, to write to it while no engine runs."""
        return Database(self.url or f"sqlite+aiosqlite:///{folder / 'engine.sqlite'}")

    async def rows(self, folder: Path) -> Rows:
        """Look at what is committed."""
        return PostgresqlRows(await asyncpg.connect(self.url)) if self.url else SqliteRows(folder / "engine.sqlite")

    async def consumed(self) -> None:
        """Wait until every subscription's queue is there and read; those in memory always are."""
        if not self.prefix:
            return
        async with await aio_pika.connect(rabbitmq_url()) as connection:
            channel = await connection.channel()
            for name in await _queues(self.url, self.prefix):
                consumers: int | None = 0
                while not consumers:
                    try:
                        consumers = (await channel.declare_queue(name, passive=True)).declaration_result.consumer_count
                    except ChannelNotFoundEntity:  # which closed the channel
                        channel = await connection.channel()
                    if not consumers:
                        await asyncio.sleep(LOOK_AGAIN_S)


@asynccontextmanager
async def place(backend: Backend, name: str) -> AsyncIterator[Place]:
    """Make room for a platform, and take everything away once it has stopped."""
    if not backend.has_servers:
        yield Place()
        return
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(new_database())
        prefix = f"bench-{uuid.uuid4().hex[:12]}-{name}"
        stack.push_async_callback(_remove_queues, url, prefix)
        options = ("--database", url, "--broker", rabbitmq_url())
        yield Place(options, {"OCPI_ENGINE_BROKER__NAME_PREFIX": prefix}, url, prefix)


async def _remove_queues(url: str, prefix: str) -> None:
    try:
        queues = await _queues(url, prefix)
    except ProgrammingError:  # no engine got so far as to make tables
        return
    exchanges = [exchange_name(_options(prefix), module.id) for module in all_modules()]
    await remove_named(rabbitmq_url(), queues=queues, exchanges=exchanges)


async def _queues(url: str, prefix: str) -> list[str]:
    """Name the queues of all subscriptions in a database."""
    options, database = _options(prefix), Database(url)
    await database.start()
    try:
        async with database.reading() as tx:
            return [queue_name(options, push.queue_name(row)) for row in await subscriptions.all_outbound(tx)]
    finally:
        await database.stop()


def _options(prefix: str) -> RabbitMqOptions:
    return RabbitMqOptions(url=rabbitmq_url(), prefix=prefix)
