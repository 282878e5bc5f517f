"""One database, opened once: a single writer, concurrent readers, and transactions that say what they changed.

SQLite (the default) has one process and one writing connection; WAL and ``synchronous=FULL`` make a commit
survive power loss. A transaction collects the log segments that it wrote and hands them on after the commit,
so that what is announced is always what is stored.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

READERS_MAX = 4  # a page of the local API, the state endpoint and two walks at a time; SQLite readers cost a file handle each
CACHE_KIB = 16384  # the hot rows of 10 000 objects; more only helps larger scans


class StoreUnavailable(Exception):
    """The database cannot be written or read at the moment: disk full, read-only folder, lost connection.

    Nothing of the transaction was stored. The message says what the database said.
    """


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a change is: the object and its version, never its payload."""

    issuer: str
    object_key: str
    version: int
    seq: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one change log as one transaction wrote it: every change in ``(start, end]``."""

    log: str
    start: int
    end: int
    pointers: tuple[Pointer, ...]
    audiences: tuple[str, ...] | None = None


@dataclass(slots=True)
class Tx:
    """A transaction: its connection, what it wrote to the logs, and what to do once it is committed."""

    connection: AsyncConnection
    segments: list[Segment] = field(default_factory=list)
    after_commit: list[Callable[[], None]] = field(default_factory=list)

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Run a statement; a list of parameter sets goes to the driver in one piece."""
        return await self.connection.execute(statement, parameters)


class Database:
    """The store's connections. Give ``on_segments`` what a commit wrote to the logs."""

    def __init__(self, url: str) -> None:
        """Prepare engines for the URL; nothing is opened before ``start``."""
        self.url = make_url(url)
        self.on_segments: Callable[[list[Segment]], None] = lambda _segments: None
        self._writing = asyncio.Lock()
        self._writer: AsyncEngine | None = None
        self._readers: AsyncEngine | None = None

    @property
    def sqlite(self) -> bool:
        """Whether this is the embedded default."""
        return self.url.get_backend_name() == "sqlite"

    async def start(self) -> None:
        """Open the database, which must have been migrated."""
        self._writer = create_async_engine(self.url, pool_size=1, max_overflow=0)
        self._readers = create_async_engine(self.url, pool_size=READERS_MAX, max_overflow=0)
        if self.sqlite:
            _prepare_sqlite(self._writer, begin="BEGIN IMMEDIATE", autocheckpoint=1000)
            # Only one connection may checkpoint: SQLite before 3.51.3 can corrupt a WAL that two reset at once.
            _prepare_sqlite(self._readers, begin="BEGIN", autocheckpoint=0)

    async def stop(self) -> None:
        """Close all connections; the writer last, so that it checkpoints."""
        for engine in (self._readers, self._writer):
            if engine is not None:
                await engine.dispose()
        self._readers = self._writer = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Write: commit on leaving the block, roll back on an exception.

        Raises ``StoreUnavailable`` when the database refuses for a reason that lies outside the data.
        """
        assert self._writer is not None, "the database is not started"
        async with self._writing:
            with _translated():
                async with self._writer.begin() as connection:
                    tx = Tx(connection)
                    yield tx
            if tx.segments:
                self.on_segments(tx.segments)
            for act in tx.after_commit:
                act()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Tx]:
        """Read one consistent snapshot; nothing can be written."""
        assert self._readers is not None, "the database is not started"
        with _translated():
            async with self._readers.begin() as connection:
                yield Tx(connection)


@contextmanager
def _translated() -> Iterator[None]:
    """Tell a database that is out of order from a statement that is wrong."""
    try:
        yield
    except OperationalError as error:
        raise StoreUnavailable(str(error.orig)) from error


def _prepare_sqlite(engine: AsyncEngine, *, begin: str, autocheckpoint: int) -> None:
    """Set the connection's pragmas, and begin transactions ourselves (the driver would begin them too late)."""

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "busy_timeout=5000",
            f"wal_autocheckpoint={autocheckpoint}",
            f"cache_size=-{CACHE_KIB}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)
