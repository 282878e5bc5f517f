"""What the store does on every database."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine

from engine.protocol.ids import ObjectKey, PartyId, object_key
from engine.protocol.objects import VERSION_MAX
from engine.store import events, exceptions, objects, platforms, subscriptions
from engine.store.database import Database, Kind, Segment, StoreUnavailable, Tx
from engine.store.exceptions import Waiting
from engine.store.migrating import migrate
from engine.store.objects import ISSUED_HERE, Change, View
from engine.store.tables import metadata
from engine.store.tables import objects as objects_table
from engine.store.tables import platforms as platforms_table

NOW = 1.6e9
VIEW = View("BEBEC", "NLEMS")


def change(
    name: str, version: int = 1, *, payload: bytes = b"{}", audience: str | None = None, life: int = 0
) -> Change:
    """Make a change to an object of ours."""
    return Change(ISSUED_HERE, "locations", PartyId("BEBEC"), object_key(name), name, version, life, payload, audience)


async def store(database: Database, *changes: Change, received: bool = False) -> None:
    """Store changes in one transaction."""
    await database.write(lambda tx: objects.store(tx, changes, received=received, now=NOW))


async def walked(database: Database, *, after: int = 0, view: View = VIEW, limit: int = 100) -> list[tuple[str, int]]:
    """Read the log: ids and versions."""
    rows = await database.read(lambda tx: objects.walk(tx, "locations", view, after=after, limit=limit))
    return [(row.object_id, row.version) for row in rows]


async def test_the_tables_are_those_that_are_declared(database_url: str):
    """Processes that start at once make the tables once; they are those of the code, to the last default."""
    await asyncio.gather(migrate(database_url), migrate(database_url))
    await migrate(database_url)

    engine = create_async_engine(Database(database_url).url)
    async with engine.connect() as connection:
        differences = await connection.run_sync(
            lambda own: compare_metadata(
                MigrationContext.configure(own, opts={"compare_server_default": True}), metadata
            )
        )
    await engine.dispose()
    assert differences == []


async def test_changes_take_the_next_numbers_of_their_log(database: Database):
    """Numbers follow one another without a gap, and a commit says which it wrote, once everybody can read them."""
    announced: list[Segment] = []
    database.on_segments = announced.extend
    await store(database, change("A"), change("B"))
    await store(database, change("A", 2), change("C"))

    first, second = announced
    assert (first.end - first.start, second.start, second.end - second.start) == (2, first.end, 2)
    assert [pointer.object_key for pointer in second.pointers] == ["a", "c"]
    assert await database.read(lambda tx: objects.last_number(tx, "locations")) == second.end
    assert await walked(database) == [("B", 1), ("A", 2), ("C", 1)]
    assert await walked(database, after=first.end) == [("A", 2), ("C", 1)]


async def test_what_fails_leaves_nothing(database: Database):
    """A transaction that fails stores nothing, announces nothing, and takes no number with it."""
    announced: list[Segment] = []
    database.on_segments = announced.extend
    await store(database, change("A"))

    async def fails(tx: Tx) -> None:
        await objects.store(tx, [change("B")], received=False, now=NOW)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fails)
    with pytest.raises(ValueError, match="no"):
        async with database.transaction() as tx:
            await fails(tx)

    await store(database, change("C"))
    assert await walked(database) == [("A", 1), ("C", 1)]
    assert announced[1].start == announced[0].end


async def test_a_received_copy_never_goes_back(database: Database):
    """Of what was received only a newer version is stored, whoever came first; in a new life, any."""

    async def held() -> int:
        async with database.reading() as tx:
            return int((await tx.execute(select(objects_table.c.version))).scalar_one())

    def received(version: int, life: int = 1) -> Change:
        return Change(7, "locations", PartyId("BEBEC"), ObjectKey("a"), "A", version, life, b"{}")

    for version in (5, 3, 5):
        await store(database, received(version), received=True)
        assert await held() == 5
    await store(database, received(VERSION_MAX), received=True)
    assert await held() == VERSION_MAX
    await store(database, received(1, life=2), received=True)
    assert await held() == 1


async def test_bytes_and_texts_of_others(database: Database):
    """Payloads are bytes, also those that no database takes for a text; of a text only NUL is written otherwise."""
    payload = '{"name":"\\u0000 🔌 ￿"}'.encode()
    await store(database, change("A", payload=payload), change("É", payload=b"\x00\xff"))
    rows = await database.read(lambda tx: objects.walk(tx, "locations", VIEW, after=0, limit=10))
    assert {row.object_id: row.payload for row in rows} == {"A": payload, "É": b"\x00\xff"}

    async with database.transaction() as tx:
        values = {"identity": "x.example", "state": "connected", "created_at": NOW, "last_error": "5\0% ' 🔌"}
        await tx.execute(platforms_table.insert().values(**values))
    async with database.reading() as tx:
        (platform,) = await platforms.all_platforms(tx)
    assert platform.last_error == "5␀% ' 🔌"


async def test_who_may_see_an_object(database: Database):
    """Objects for named parties are read for these alone."""
    await store(database, change("all"), change("theirs", audience=",NLEMS,"), change("others", audience=",DEPTX,"))

    assert await walked(database) == [("all", 1), ("theirs", 1)]
    assert await walked(database, view=View("BEBEC", "DEPTX")) == [("all", 1), ("others", 1)]
    assert await walked(database, view=View("NLTNM", "NLEMS")) == []


async def test_a_large_batch(database: Database):
    """More objects than any statement takes parameters for are stored and found again."""
    names = [f"L{number:05}" for number in range(5000)]
    await store(database, *map(change, names))

    found = await database.read(lambda tx: objects.issued(tx, "locations", "BEBEC", [name.lower() for name in names]))
    assert len(found) == len(names)
    assert len(await walked(database, limit=6000)) == len(names)


async def test_exceptions(database: Database):
    """What failed waits by its time; it is settled only if nobody changed it since, and can be made due at once."""
    async with database.transaction() as tx:
        await tx.execute(platforms_table.insert().values(id=1, identity="x.example", state="connected", created_at=NOW))
        number = await subscriptions.add_outbound(
            tx, platform_id=1, subscriber="NLEMS", producer="BEBEC", module="locations", module_alias="locations",
            state="live", life=1, epoch=1, retry_interval_s=5.0, parallelism_limit=2, queue_size_max=10, watermark=0,
            caught_up=False, began_at=NOW, attempted_to=0, hold_until=0.0, catch_up_to=0, first_seq=0, snapshot_from=0,
        )  # fmt: skip

        def waiting(name: str, due_at: float, revision: int = 1) -> Waiting:
            return Waiting("BEBEC", ObjectKey(name), name, 1, 1, due_at, NOW, "why\0", revision, rejected=False)

        await exceptions.put(tx, number, [waiting("b", NOW + 20), waiting("a", NOW + 10)])
        assert [each.key for each in await exceptions.due(tx, number, limit=10)] == ["a", "b"]
        await exceptions.settle(
            tx, number, [("BEBEC", "a", 0), ("BEBEC", "b", (await exceptions.due(tx, number, limit=2))[1].revision)]
        )
        (left,) = await exceptions.due(tx, number, limit=10)
        assert (left.key, left.last_error) == ("a", "why␀")
        assert await exceptions.make_due(tx, number, now=NOW) == 1
        assert (await exceptions.due(tx, number, limit=10))[0].due_at <= NOW


async def test_a_reading_is_one_moment(database: Database):
    """What is committed while somebody reads is not half seen: a reading shows one moment to its end."""
    await store(database, change("A"))
    async with database.reading() as tx:
        before = await objects.last_number(tx, "locations")
        await store(database, change("B"))
        assert await objects.last_number(tx, "locations") == before
        assert len(await objects.walk(tx, "locations", VIEW, after=0, limit=10)) == 1


async def test_a_database_that_is_closed_says_so(database: Database):
    """After the stop there is no store, which is no programming error; it can be started again."""
    await database.stop()
    with pytest.raises(StoreUnavailable, match="not started"):
        await store(database, change("A"))
    await database.start()
    await store(database, change("A"))


async def noted(database: Database, *, after: int = 0) -> list[tuple[int, str, int]]:
    """Read what event streams tell of."""
    kinds = (Kind.INBOUND, Kind.OUTBOUND)
    found = await database.read(lambda tx: events.page(tx, kinds=kinds, after=after, limit=100))
    return [(event.seq, event.kind.value, event.key) for event in found]


async def test_events_are_numbered_in_the_order_of_commits(database: Database, database_url: str):
    """A process that holds a transaction open holds back the numbers behind it: a reader steps over none."""
    entered, leave = asyncio.Event(), asyncio.Event()
    another = Database(database_url)
    await another.start()

    async def change(key: int) -> None:
        async with another.transaction() as tx:
            events.note(tx, Kind.INBOUND, key)
            events.note(tx, Kind.OUTBOUND, key)

    async def hold() -> None:
        async with database.transaction() as tx:
            events.note(tx, Kind.INBOUND, 7)
            await tx.finish()
            tx.before_commit.clear()
            entered.set()
            await leave.wait()

    holding = asyncio.create_task(hold())
    await entered.wait()
    behind = asyncio.create_task(change(8))
    assert await noted(database) == []
    leave.set()
    await asyncio.gather(holding, behind)
    await change(7)
    await another.stop()

    assert await noted(database) == [(2, "inbound", 8), (3, "outbound", 8), (4, "inbound", 7), (5, "outbound", 7)]
    assert await noted(database, after=4) == [(5, "outbound", 7)]
    async with database.reading() as tx:
        assert await objects.last_number(tx, objects.EVENTS) == 5
    async with database.transaction() as tx:
        await events.forget(tx, Kind.INBOUND, [7])
    assert [key for _, kind, key in await noted(database) if kind == "inbound"] == [8]


async def test_a_change_in_a_thread_is_an_event_too(database: Database):
    """Work that is handed over whole ends as every transaction does; what is rolled back leaves no event."""

    async def work(tx: Tx) -> None:
        events.note(tx, Kind.INBOUND, 1)

    async def fail(tx: Tx) -> None:
        events.note(tx, Kind.INBOUND, 2)
        raise RuntimeError

    written: list[Segment] = []
    database.on_segments = written.extend
    await database.write(work)
    with pytest.raises(RuntimeError):
        await database.write(fail)
    assert await noted(database) == [(1, "inbound", 1)]
    assert written == [Segment(objects.EVENTS, 0, 1, ())]
