"""Transactions on SQLite, also those that are one visit to a thread."""

import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.protocol.ids import PartyId, object_key
from engine.store import objects
from engine.store.database import Database, Segment, StoreUnavailable, Tx
from engine.store.objects import ISSUED_HERE, Change
from tests.support.database import fresh_database


@pytest.fixture
async def database(tmp_path: Path):
    """Give an open database."""
    opened = await fresh_database(tmp_path / "engine.sqlite")
    yield opened
    await opened.stop()


def change(name: str) -> Change:
    """Make an object of ours."""
    return Change(ISSUED_HERE, "locations", PartyId("BEBEC"), object_key(name), name, 1, 0, b"{}")


async def stored(tx: Tx) -> int:
    """Say how far the log goes."""
    return await objects.last_number(tx, "locations")


async def test_written_in_a_thread_and_announced_after_the_commit(database: Database) -> None:
    """Work runs beside the loop; what it wrote to the logs is announced once everybody can read it."""
    announced: list[tuple[Segment, threading.Thread]] = []
    database.on_segments = lambda segments: announced.extend((s, threading.current_thread()) for s in segments)
    threads: list[threading.Thread] = []

    async def work(tx: Tx) -> str:
        threads.append(threading.current_thread())
        await objects.store(tx, [change("A"), change("B")], received=False, now=1.6e9)
        return "done"

    assert await database.write(work) == "done"
    ((segment, thread),) = announced
    assert await database.read(stored) == segment.end
    assert thread is threading.main_thread()
    assert threading.main_thread() not in threads


async def test_what_fails_is_rolled_back_and_announced_to_nobody(database: Database) -> None:
    """An exception in the work leaves nothing behind, and the next transaction works."""
    announced: list[Segment] = []
    database.on_segments = announced.extend

    async def fails(tx: Tx) -> None:
        await objects.store(tx, [change("A")], received=False, now=1.6e9)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fails)
    assert await database.read(stored) == 0
    assert announced == []

    await database.write(lambda tx: objects.store(tx, [change("A")], received=False, now=1.6e9))
    assert len(announced) == 1


async def test_a_database_that_refuses_is_told_from_work_that_is_wrong(database: Database) -> None:
    """What the database refuses is ``StoreUnavailable``, and a new connection is opened after it."""

    async def impossible(tx: Tx) -> None:
        await tx.execute(text("INSERT INTO nowhere VALUES (1)"))

    with pytest.raises(StoreUnavailable, match="nowhere"):
        await database.write(impossible)
    await database.write(lambda tx: objects.store(tx, [change("A")], received=False, now=1.6e9))
    assert await database.read(stored) > 0


async def test_work_waits_for_the_database_only(database: Database) -> None:
    """In a thread there is no loop to wait on: work that waits for something else is refused, not stuck."""

    async def dreams(_tx: Tx) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waits for the database only"):
        await database.write(dreams)


async def test_who_is_cancelled_waits_for_the_thread(database: Database) -> None:
    """The writer's turn does not end before its thread does, so that nobody else writes in between."""
    begun, go_on = threading.Event(), threading.Event()

    async def slow(tx: Tx) -> None:
        begun.set()
        assert go_on.wait(10)
        await objects.store(tx, [change("A")], received=False, now=1.6e9)

    writing = asyncio.create_task(database.write(slow))
    await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    next_one = asyncio.create_task(database.write(stored))
    await asyncio.wait({writing}, timeout=0.05)
    assert not writing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await next_one > 0


async def test_what_was_committed_for_somebody_who_is_cancelled_is_told(database: Database) -> None:
    """Whoever waits for a change hears of it, although nobody waits for the transaction any more."""
    begun, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    async def slow(tx: Tx) -> None:
        begun.set()
        assert go_on.wait(10)
        tx.after_commit.append(lambda: told.append("committed"))

    async def fails(tx: Tx) -> None:
        await slow(tx)
        raise ValueError("no")

    for work, heard in ((fails, []), (slow, ["committed"])):
        begun.clear()
        go_on.clear()
        writing = asyncio.create_task(database.write(work))
        await asyncio.to_thread(begun.wait, 10)
        writing.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert told == heard


async def test_a_database_that_is_closed_says_so(tmp_path: Path) -> None:
    """Before the start and after the stop there is no store, which is no programming error."""
    database = await fresh_database(tmp_path / "engine.sqlite")
    await database.stop()
    with pytest.raises(StoreUnavailable, match="not started"):
        await database.write(stored)
    with pytest.raises(StoreUnavailable, match="not started"):
        await database.read(stored)
