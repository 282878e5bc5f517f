"""One database, opened once: a single writer, concurrent readers, and transactions that say what they changed.

SQLite (the default) has one process and one writing connection; WAL and ``synchronous=FULL`` make a commit
survive power loss. PostgreSQL is reached through asyncpg; there, too, a process writes one transaction at a time,
since many updates that share a commit are cheaper than many commits. A transaction collects the log segments that
it wrote and hands them on after the commit, so that what is announced is always what is stored.

There are two ways to use it. ``transaction`` and ``reading`` are blocks with awaits in them. ``write`` and ``read``
take the work as a function and, on SQLite, run all of it in one visit to a thread: a statement that is awaited by
itself costs two changes of thread, more than most statements do. The hot paths use these.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import URL, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, DisconnectionError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

T = TypeVar("T")

READERS_MAX = (
    4  # a page of the local API, the state endpoint and two walks at a time; SQLite readers cost a file handle each
)
FREE_WITHIN_S = 30.0  # a connection, for who waits for one; a read takes milliseconds
CACHE_KIB = 16384  # the hot rows of 10 000 objects; more only helps larger scans

CONNECT_TIMEOUT_S = 5.0  # to PostgreSQL; a server that takes longer is not there
STATEMENT_TIMEOUT_S = 60.0  # a page or a batch takes milliseconds; longer, and the connection hangs
IDLE_IN_TRANSACTION_MS = 10_000
"""PostgreSQL ends a transaction whose process stands still, since it holds the numbers of a log, and so everybody."""

ASK_AFTER_S = 1.0
"""A connection that was not used for so long is asked whether it is still there. Asking takes three round trips, which
is what the busiest need least: they notice soon enough that their server is gone, and everybody is ready for that."""

_OUTAGES = ("08", "25006", "25P03", "28", "3D", "40", "53", "57", "58")
"""SQLSTATEs, or how they begin, that time or an operator mends: connections, a replica that is not promoted yet, a
process that stood still in a transaction, passwords, a database that is not there, conflicts, resources, operators,
the system."""


class StoreUnavailable(Exception):
    """The database cannot be written or read at the moment: disk full, read-only folder, lost connection.

    Nothing of the transaction was stored. The message says what the database said.
    """


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where a change is: the object and its version, never its payload. ``audience``: as in its column.

    ``readdressed``: others could see the object before, and have to hear that they cannot any more.
    """

    issuer: str
    object_key: str
    version: int
    seq: int
    audience: str | None = None
    readdressed: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of one change log as one transaction wrote it: every change in ``(start, end]``."""

    log: str
    start: int
    end: int
    pointers: tuple[Pointer, ...]


class Kind(StrEnum):
    """What processes keep in memory, and hear of when another one changes it."""

    DIRECTORY = "directory"  # platforms, certificates, parties; the key is a platform's id, or `EVERY`
    INBOUND = "inbound"  # subscriptions of ours
    OUTBOUND = "outbound"  # partners' subscriptions, and what waits in them
    CALLS = "calls"  # calls in either direction; nobody has them in memory, but some wait for what becomes of them


EVERY = 0
"""Instead of a key: it concerns all of a kind."""


class Connected(Protocol):
    """What a transaction needs of a connection."""

    @property
    def dialect(self) -> Dialect:
        """Which database it is."""
        ...

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Run a statement."""
        ...


@dataclass(slots=True)
class Tx:
    """A transaction: its connection, what it wrote to the logs, and what to do once it is committed."""

    connection: Connected
    segments: list[Segment] = field(default_factory=list)
    before_commit: list[Callable[["Tx"], Coroutine[Any, Any, None]]] = field(default_factory=list)
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    touched: set[tuple[Kind, int]] = field(default_factory=set)
    changed: set[tuple[Kind, int]] = field(default_factory=set)

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        """Run a statement; a list of parameter sets goes to the driver in one piece."""
        return await self.connection.execute(statement, parameters)

    def touch(self, kind: Kind, key: int = EVERY) -> None:
        """Note that other processes have something in memory that this changes."""
        self.touched.add((kind, key))

    async def finish(self) -> None:
        """Do what comes last in it."""
        for act in self.before_commit:
            await act(self)


Work: TypeAlias = Callable[[Tx], Coroutine[Any, Any, T]]
"""What is done in a transaction. It may wait for the database and for nothing else."""


class _InThread:
    """A connection whose calls are done when they return, so that nothing is waited for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    async def execute(self, statement: Any, parameters: Any = None) -> Any:
        return self._connection.execute(statement, parameters)


class _Threads:
    """SQLite by the driver's own calls, in threads of its own; ``visit`` does a whole transaction in one go.

    Each thread keeps its connection, since fetching one from a pool costs as much as a statement.
    """

    def __init__(self, url: Any, *, count: int, begin: str, autocheckpoint: int) -> None:
        plain = url.set(drivername="sqlite")
        self._engine: Engine = create_engine(plain, pool_size=count, max_overflow=0)
        _prepare_sqlite(self._engine, begin=begin, autocheckpoint=autocheckpoint)
        self._threads = ThreadPoolExecutor(count, "sqlite")
        self._own = threading.local()
        self._open: set[Connection] = set()

    async def visit(self, work: Work[T], committed: Callable[[Tx], None] = lambda _tx: None) -> T:
        """Do the work; a thread that has begun is waited for, also by who is cancelled meanwhile.

        ``committed`` hears of the transaction, also then.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._do, work)
        try:
            result, tx = await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled() and future.exception() is None:
                committed(future.result()[1])
            raise
        committed(tx)
        return result

    def _do(self, work: Work[T]) -> tuple[T, Tx]:
        with _translated():
            connection: Connection | None = getattr(self._own, "connection", None)
            if connection is None:
                connection = self._own.connection = self._engine.connect()
                self._open.add(connection)
            try:
                with connection.begin():
                    tx = Tx(_InThread(connection))
                    result = _finished(work(tx))
                    _finished(tx.finish())
                    return result, tx
            except OperationalError:
                # In what state it is after that nobody knows for certain: the next visit opens another.
                self._own.connection = None
                self._open.discard(connection)
                connection.close()
                raise

    def close(self) -> None:
        self._threads.shutdown()
        for connection in self._open:
            connection.close()
        self._engine.dispose()


def _finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("work in a transaction waits for the database only")


def insert_into(table: Table, dialect: str) -> Any:
    """Begin an INSERT that can say what becomes of a row that is there already; each database has its own."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def address(url: str) -> URL:
    """Read a database's URL; ``postgresql://`` is enough for PostgreSQL.

    Raises ``ValueError`` for one that cannot be.
    """
    try:
        read = make_url(url)
    except ArgumentError as error:
        raise ValueError("the database URL is none; write postgresql://USER@HOST:5432/DATABASE") from error
    drivers = {"postgresql": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    name = read.get_backend_name()
    if name not in drivers:
        raise ValueError(f"{name} is no database for the engine: it takes postgresql:// or, left out, SQLite")
    return read.set(drivername=drivers[name])


def open_engine(url: URL, *, failed_at: Callable[[], float] = lambda: -math.inf, **options: Any) -> AsyncEngine:
    """Prepare connections; nothing is opened before the first is used.

    ``failed_at`` says when a connection to the same server last failed, by the monotonic clock.
    """
    if "pool_size" in options:
        options["pool_timeout"] = FREE_WITHIN_S
    if url.get_backend_name() == "sqlite":
        return create_async_engine(url, **options)
    session = {
        "application_name": "ocpi-engine",
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        "jit": "off",  # compiling a statement takes longer than running it
    }
    arguments = {
        "timeout": CONNECT_TIMEOUT_S,
        "command_timeout": STATEMENT_TIMEOUT_S,
        "server_settings": session,
    }
    engine = create_async_engine(url, connect_args=arguments, **options)
    _ask_before_use(engine.sync_engine, failed_at)
    return engine


class Database:
    """The store's connections.

    ``on_segments`` hears, after a commit, what it wrote to the logs; ``on_touched`` is the last part of a transaction
    that touched what other processes have in memory.
    """

    def __init__(self, url: str) -> None:
        """Prepare engines for the URL; nothing is opened before ``start``."""
        self.url = address(url)
        self.on_segments: Callable[[list[Segment]], None] = lambda _segments: None
        self.on_touched: Callable[[Tx], Awaitable[None]] | None = None
        self._failed_at = -math.inf
        self._writing = asyncio.Lock()
        self._writer: AsyncEngine | None = None
        self._readers: AsyncEngine | None = None
        self._aside: AsyncEngine | None = None
        self._write_thread: _Threads | None = None
        self._read_threads: _Threads | None = None

    @property
    def sqlite(self) -> bool:
        """Whether this is the embedded default."""
        return self.url.get_backend_name() == "sqlite"

    async def start(self) -> None:
        """Open the database, which must have been migrated."""
        self._writer = open_engine(self.url, failed_at=lambda: self._failed_at, pool_size=1, max_overflow=0)
        self._readers = open_engine(self.url, failed_at=lambda: self._failed_at, pool_size=READERS_MAX, max_overflow=0)
        if not self.sqlite:
            self._aside = open_engine(self.url, failed_at=lambda: self._failed_at, pool_size=1, max_overflow=0)
            self._readers = self._readers.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        else:
            # Only one connection at a time may checkpoint: SQLite before 3.51.3 can corrupt a WAL that two reset at
            # once. Both writing connections do so in a commit, and a commit is made under the lock.
            _prepare_sqlite(self._writer.sync_engine, begin="BEGIN IMMEDIATE", autocheckpoint=1000)
            _prepare_sqlite(self._readers.sync_engine, begin="BEGIN", autocheckpoint=0)
            self._write_thread = _Threads(self.url, count=1, begin="BEGIN IMMEDIATE", autocheckpoint=1000)
            self._read_threads = _Threads(self.url, count=READERS_MAX, begin="BEGIN", autocheckpoint=0)

    async def stop(self) -> None:
        """Close all connections; the writer last, so that it checkpoints."""
        for threads in (self._read_threads, self._write_thread):
            if threads is not None:
                threads.close()
        self._read_threads = self._write_thread = None
        for engine in (self._aside, self._readers, self._writer):
            if engine is not None:
                await engine.dispose()
        self._aside = self._readers = self._writer = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Write: commit on leaving the block, roll back on an exception.

        Raises ``StoreUnavailable`` when the database refuses for a reason that lies outside the data.
        """
        if self._writer is None:
            raise StoreUnavailable("the database is not started")
        async with self._writing:
            with self._noticing():
                async with self._writer.begin() as connection:
                    tx = Tx(connection)
                    yield tx
                    await tx.finish()
                    if tx.touched and self.on_touched is not None:
                        await self.on_touched(tx)
            self._committed(tx)

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Tx]:
        """Write a little without waiting for this process's other writes, where the database takes several at once.

        Nothing is announced of it. Raises as ``transaction``.
        """
        if self._aside is None:
            async with self.transaction() as tx:
                yield tx
            return
        with self._noticing():
            async with self._aside.begin() as connection:
                yield Tx(connection)

    async def write(self, work: Work[T]) -> T:
        """Do the work as one transaction and commit it; on SQLite in another thread, without a break.

        The work may not touch what the event loop changes. Raises as ``transaction``.
        """
        if self._write_thread is None:
            async with self.transaction() as tx:
                return await work(tx)
        async with self._writing:
            return await self._write_thread.visit(work, self._committed)

    def _committed(self, tx: Tx) -> None:
        if tx.segments:
            self.on_segments(tx.segments)
        for act in tx.after_commit:
            act()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Tx]:
        """Read one consistent snapshot; nothing can be written."""
        if self._readers is None:
            raise StoreUnavailable("the database is not started")
        with self._noticing():
            async with self._readers.begin() as connection:
                yield Tx(connection)

    async def read(self, work: Work[T]) -> T:
        """Do work that only reads one consistent snapshot; on SQLite in another thread, without a break."""
        if self._read_threads is None:
            async with self.reading() as tx:
                return await work(tx)
        return await self._read_threads.visit(work)

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Tell a database that is out of order, and suspect the other connections to it."""
        try:
            with _translated():
                yield
        except StoreUnavailable:
            self._failed_at = time.monotonic()
            raise


@contextmanager
def _translated() -> Iterator[None]:
    """Tell a database that is out of order from a statement that is wrong."""
    try:
        yield
    except DBAPIError as error:
        if is_outage(error):
            raise StoreUnavailable(str(error.orig)) from error
        raise
    except NoFreeConnection as error:
        raise StoreUnavailable(f"too much waits for it: no connection was free within {FREE_WITHIN_S:.0f} s") from error
    except OSError as error:  # PostgreSQL, while there is no connection
        raise StoreUnavailable(str(error) or type(error).__name__) from error


def is_outage(error: DBAPIError) -> bool:
    """Say whether the database is out of order, rather than the statement or the data wrong."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_OUTAGES)
    # SQLite: a damaged file is a plain DatabaseError; its kinds but this one are about the statement or the data.
    return isinstance(error, OperationalError) or type(error) is DatabaseError


def _ask_before_use(engine: Engine, failed_at: Callable[[], float]) -> None:
    """Replace connections that a restarted server has forgotten, before a transaction begins on them.

    Asked are those that were not used for a while, or not since another one failed.
    """

    @event.listens_for(engine, "checkin")
    def on_checkin(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def on_checkout(connection: Any, record: Any, _proxy: Any) -> None:
        used_at = record.info.get("used_at")
        if used_at is None or (time.monotonic() - used_at < ASK_AFTER_S and used_at > failed_at()):
            return
        try:
            engine.dialect.do_ping(connection)
        except Exception as gone:
            raise DisconnectionError from gone  # the pool takes another


def _prepare_sqlite(engine: Engine, *, begin: str, autocheckpoint: int) -> None:
    """Set the connection's pragmas, and begin transactions ourselves (the driver would begin them too late)."""

    @event.listens_for(engine, "connect")
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

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)
