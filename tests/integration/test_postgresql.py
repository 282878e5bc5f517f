"""What PostgreSQL brings with it that SQLite does not have: several writers, and a server that goes away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from engine.protocol.ids import PartyId, object_key
from engine.store import database as database_module
from engine.store import migrating, objects
from engine.store.database import Database, StoreUnavailable, address
from engine.store.migrating import ForeignSchema, migrate
from engine.store.objects import ISSUED_HERE, Change, View
from tests.support.database import fresh_database, go_to
from tests.support.postgresql import WAITING, Server, new_database, own_server

VIEW = View("BEBEC", "NLEMS")
NOW = 1.6e9


def change(name: str) -> Change:
    """Make an object of ours."""
    return Change(ISSUED_HERE, "locations", PartyId("BEBEC"), object_key(name), name, 1, 0, b"{}")


async def store(database: Database, name: str) -> None:
    """Store an object."""
    await database.write(lambda tx: objects.store(tx, [change(name)], received=False, now=NOW))


async def walked(database: Database) -> list[str]:
    """Read the log."""
    return [
        row.object_id for row in await database.read(lambda tx: objects.walk(tx, "locations", VIEW, after=0, limit=9))
    ]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The URL of an empty database."""
    async with new_database() as made:
        yield made


@pytest.fixture
async def two(url: str) -> AsyncIterator[tuple[Database, Database]]:
    """Two processes on one database."""
    one = await fresh_database(url)
    other = Database(url)
    await other.start()
    yield one, other
    await one.stop()
    await other.stop()


async def test_no_walk_steps_over_a_number_that_is_not_committed(two: tuple[Database, Database]):
    """While one process has taken numbers and not committed, another one waits for its own: the log has no holes."""
    one, other = two
    async with one.transaction() as tx:
        await objects.store(tx, [change("A")], received=False, now=NOW)
        waiting = asyncio.create_task(store(other, "B"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        assert await walked(other) == []
    await waiting
    assert await walked(one) == ["A", "B"]


async def test_a_process_that_stands_still_in_a_transaction(url: str, monkeypatch: pytest.MonkeyPatch):
    """Its transaction is ended, so that nobody waits for it for ever; nothing of it is stored, and it goes on."""
    monkeypatch.setattr(database_module, "IDLE_IN_TRANSACTION_MS", 500)
    frozen = await fresh_database(url)
    monkeypatch.undo()
    other = Database(url)
    await other.start()
    try:
        with pytest.raises(StoreUnavailable):  # noqa: PT012 - what fails is the end of the block
            async with frozen.transaction() as tx:
                await objects.store(tx, [change("A")], received=False, now=NOW)
                await store(other, "B")
                await objects.last_number(tx, "locations")
        assert await walked(frozen) == ["B"]
        await store(frozen, "C")
        assert await walked(other) == ["B", "C"]
    finally:
        await frozen.stop()
        await other.stop()


@pytest.fixture
def server() -> Iterator[Server]:
    """A PostgreSQL that may be broken."""
    with own_server() as server:
        yield server


async def test_a_server_that_goes_away(server: Server):
    """What cannot be stored is said to be unavailable, also while nobody listens; then it goes on by itself."""
    async with new_database(server.url) as url:
        database = await fresh_database(url)
        await store(database, "A")

        await asyncio.to_thread(server.stop)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store(database, "B")
            with pytest.raises(StoreUnavailable):
                await walked(database)
        with pytest.raises(StoreUnavailable):
            await migrate(url)

        await asyncio.to_thread(server.start)
        await store(database, "B")
        assert await walked(database) == ["A", "B"]
        await database.stop()


async def test_too_many_who_read(url: str, monkeypatch: pytest.MonkeyPatch):
    """Who waits too long for a connection is told that the database is not available, and by what."""
    monkeypatch.setattr(database_module, "FREE_WITHIN_S", 0.1)
    database = await fresh_database(url)
    async with contextlib.AsyncExitStack() as readers:
        for _ in range(database_module.READERS_MAX):
            await readers.enter_async_context(database.reading())
        with pytest.raises(StoreUnavailable, match="too much waits"):
            await walked(database)
    assert await walked(database) == []
    await database.stop()


async def test_a_server_that_is_too_old(url: str, monkeypatch: pytest.MonkeyPatch):
    """It is said at the start which version is needed, and nothing is made in the database."""
    monkeypatch.setattr(migrating, "POSTGRESQL_MIN", 99)
    with pytest.raises(ForeignSchema, match=r"PostgreSQL \d+, and the engine needs 99 or newer"):
        await migrate(url)


async def test_a_migration_holds_nobody_up(url: str, monkeypatch: pytest.MonkeyPatch):
    """While a process uses a table, a migration tries again and again; others are served, then it is made."""
    monkeypatch.setattr(migrating, "LOCKED_PAUSE_S", 0.01)
    await go_to(url, "0003")  # the next one changes the table of processes
    engine = create_async_engine(address(url))
    async with engine.connect() as slow, engine.connect() as other:
        await slow.execute(text("SELECT id FROM processes"))
        upgrading = asyncio.create_task(migrate(url))
        for _ in range(3):
            while not (await other.execute(text(WAITING))).scalar():
                await asyncio.sleep(0.01)
            async with asyncio.timeout(2 * migrating.LOCK_TIMEOUT_MS / 1000):
                await other.execute(text("SELECT id FROM processes"))
                await other.rollback()
        assert not upgrading.done()
        await slow.rollback()
        await upgrading
        await other.execute(text("SELECT host FROM processes"))
    await engine.dispose()


async def test_a_migration_gives_up(url: str, monkeypatch: pytest.MonkeyPatch):
    """One that cannot be made for long is told as a database that is not available."""
    monkeypatch.setattr(migrating, "LOCKED_MAX_S", 0.1)
    await go_to(url, "0003")
    engine = create_async_engine(address(url))
    async with engine.connect() as slow:
        await slow.execute(text("SELECT id FROM processes"))
        with pytest.raises(StoreUnavailable, match="in use"):
            await migrate(url)
    await engine.dispose()


async def test_connections_that_a_restarted_server_forgot(server: Server, monkeypatch: pytest.MonkeyPatch):
    """One that was not used for a while is asked first, and replaced unnoticed; a busy one fails once, and no more."""
    async with new_database(server.url) as url:
        database = await fresh_database(url)

        async def restart(*, ask_after_s: float) -> None:
            monkeypatch.setattr(database_module, "ASK_AFTER_S", ask_after_s)
            await walked(database)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)

        await store(database, "A")
        await restart(ask_after_s=0.0)
        assert await walked(database) == ["A"]
        await store(database, "B")

        await restart(ask_after_s=3600.0)
        with pytest.raises(StoreUnavailable):
            await store(database, "C")
        await store(database, "C")
        assert "C" in await walked_again(database)
        await database.stop()


async def walked_again(database: Database) -> list[str]:
    """Read the log; the first attempt may find a connection that is no longer there."""
    with contextlib.suppress(StoreUnavailable):
        return await walked(database)
    return await walked(database)
