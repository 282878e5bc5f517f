"""An older database: what is done to one, and how it is told from the one that is expected."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from certs.errors import FileProblem
from engine.clock import SystemClock
from engine.protocol import modules
from engine.protocol.ids import PartyId, object_key
from engine.protocol.modules import Module, all_modules
from engine.registration import folder as folder_module
from engine.registration.folder import InUse, Known, alone_with_marks, make_folder, read_known, write_known
from engine.registration.moving import move
from engine.replication import marking
from engine.replication.issuing import Item, Request, issue
from engine.replication.marking import DatabaseReplaced, Marking, say_restored
from engine.replication.restored import mend
from engine.settings import PlatformFolder, Settings, read_settings
from engine.store import exceptions, marks, objects, platforms, subscriptions
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.exceptions import Waiting
from engine.store.objects import ISSUED_HERE, Change
from tests.support.database import fresh_database
from tests.support.postgresql import Server, new_database, own_replica, own_server, run

ISSUER = PartyId("BEBEC")
DAY_S = 86_400
TIMEOUT_S = 7.0
LIMIT_S = 120.0
CLOCK = SystemClock()
PLATFORM = {"identity": "cpo.example.org", "base_url": "https://localhost/ocpi"}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database with all tables."""
    database = await fresh_database(database_url)
    yield database
    await database.stop()


# what is done


async def store(database: Database, module: str, *ids: str, version: int = 5, source_id: int = ISSUED_HERE) -> None:
    """Store a version of objects."""
    changes = [
        Change(source_id, module, ISSUER, object_key(i), i, version, 3 if source_id else 0, b"{}") for i in ids
    ]  # fmt: skip
    async with database.transaction() as tx:
        await objects.store(tx, changes, received=source_id != ISSUED_HERE, now=CLOCK.now())


async def numbers(database: Database) -> dict[str, int]:
    """Read where each log ends."""
    names = [objects.log_name(module.id, received=side) for module in all_modules() for side in (True, False)]
    async with database.reading() as tx:
        return {name: await objects.last_number(tx, name) for name in names}


async def issued(database: Database, module: str) -> dict[str, tuple[int, int]]:
    """Read versions and log numbers of what is issued here."""
    async with database.reading() as tx:
        found = await objects.all_issued(tx, module, ISSUER, after=0, limit=100)
    return {each.object_id: (each.version, seq) for seq, each in found}


async def partner(database: Database, *, timeout_ms: int | None = int(TIMEOUT_S * 1000)) -> int:
    """Store a connected platform whose parties were fetched."""
    async with database.transaction() as tx:
        platform = await platforms.add_platform(tx, "emsp.example.org", now=1.0)  # type: ignore[arg-type]
        await platforms.change_platform(
            tx, platform.id, state="connected", request_timeout_ms=timeout_ms, parties_fetched_at=CLOCK.now()
        )
    return platform.id


async def partners_subscription(database: Database, platform_id: int, module: str, **values: Any) -> int:
    """Store a subscription of a partner that has everything."""
    async with database.transaction() as tx:
        end = await objects.last_number(tx, module)
        row = {
            "platform_id": platform_id, "subscriber": "NLEMS", "producer": ISSUER, "module": module,
            "module_alias": module, "state": "live", "life": 2, "epoch": 4, "retry_interval_s": 0.5,
            "parallelism_limit": 4, "queue_size_max": 100, "watermark": end, "caught_up": True, "catch_up_to": 0,
            "attempted_to": 0, "hold_until": 0.0, "began_at": 1.0,
        }  # fmt: skip
        return await subscriptions.add_outbound(tx, **(row | values))


async def subscription_of_ours(database: Database, platform_id: int, module: str, state: str) -> int:
    """Store a subscription of ours."""
    async with database.transaction() as tx:
        return await subscriptions.add_inbound(
            tx, platform_id=platform_id, subscriber="BEBEC", producer="NLEMS", module=module, module_alias=module,
            state=state, life=3, retry_interval_s=1.0, parallelism_limit=4, queue_size_max=10, began_at=1.0,
            attempts=4, next_action_at=CLOCK.now() + DAY_S,
        )  # fmt: skip


async def test_versions_and_numbers_go_above_all_that_was_used(database: Database):
    """Also above those of a database that was mended, copied and used further in the same second; immutable ones stay.

    Logs that the copy does not have are begun above what they may have reached.
    """
    await store(database, "locations", "L1", "L2")
    await store(database, "tariffs", "T1", version=1)
    await store(database, "locations", "R1", source_id=9)
    before, began = await numbers(database), CLOCK.now()

    mended = await mend(database, CLOCK, timeout_max_s=LIMIT_S)

    assert mended.objects == 2
    first = await issued(database, "locations")
    lead = (began - 1_577_836_800 + DAY_S - 1) * objects.LOG_NUMBERS_PER_S
    after = await numbers(database)
    assert all(number > max(lead, before[name]) for name, number in after.items())
    seconds = range(int(began) - 1_577_836_800 + DAY_S, int(CLOCK.now()) - 1_577_836_800 + DAY_S + 1)
    assert all(version in seconds for version, _ in first.values())
    assert all(seq > lead for _, seq in first.values())
    assert (await issued(database, "tariffs"))["T1"][0] == 1

    await mend(database, CLOCK, timeout_max_s=LIMIT_S)

    again = await issued(database, "locations")
    assert all(again[i][0] >= first[i][0] + DAY_S and again[i][1] > first[i][1] + DAY_S for i in first)


async def test_partners_are_owed_everything_once_their_time_out_has_passed(database: Database):
    """What waits keeps its row, what was refused is owed again; ended subscriptions are held, and stay ended."""
    await store(database, "locations", "L1", "L2", "L3")
    await store(database, "cdrs", "C1", version=1)
    platform_id = await partner(database)
    live = await partners_subscription(database, platform_id, "locations")
    patient = await partners_subscription(database, platform_id, "cdrs", retry_interval_s=30.0)
    ended = await partners_subscription(database, platform_id, "sessions", state="ended", watermark=17)
    waiting = Waiting("BEBEC", "l1", "L1", 5, 3, CLOCK.now() + 900, 1.0, "3000", 6, rejected=False)
    refused = Waiting("BEBEC", "l2", "L2", 5, 1, 0.0, 1.0, "6001", 6, rejected=True)
    async with database.transaction() as tx:
        await exceptions.put(tx, live, [waiting, refused])
    began = CLOCK.now()

    mended = await mend(database, CLOCK, timeout_max_s=LIMIT_S)

    ends = await numbers(database)
    async with database.reading() as tx:
        rows = {row.id: row for row in await subscriptions.all_outbound(tx)}
        kept = await exceptions.failing(tx, live, limit=10)
        owed, _ = await objects.count_after(tx, "cdrs", rows[patient].view, after=rows[patient].watermark)
    assert mended.subscriptions_here == 2
    for subscription_id, module in ((live, "locations"), (patient, "cdrs")):
        row = rows[subscription_id]
        assert (row.watermark, row.caught_up, row.epoch, row.life) == (0, False, 5, 2)
        assert row.catch_up_to == row.attempted_to == ends[module]
    assert kept == [waiting]
    assert owed == 1
    assert began + TIMEOUT_S <= rows[live].hold_until < began + TIMEOUT_S + 10
    assert began + 30 <= rows[patient].hold_until < began + 40
    assert (rows[ended].state, rows[ended].watermark) == ("ended", 17)
    assert rows[ended].hold_until >= began + TIMEOUT_S


async def test_a_partner_that_announced_nothing_is_given_the_longest_time_out(database: Database):
    """What it may still be busy with, it may be busy with for as long as we would wait."""
    await partners_subscription(database, await partner(database, timeout_ms=None), "locations")
    began = CLOCK.now()

    await mend(database, CLOCK, timeout_max_s=LIMIT_S)

    async with database.reading() as tx:
        (row,) = await subscriptions.all_outbound(tx)
        (platform,) = await platforms.all_platforms(tx)
    assert row.hold_until >= began + LIMIT_S
    assert platform.parties_fetched_at is None


async def test_our_subscriptions_are_asked_for_again_where_they_are_wanted(database: Database):
    """In a new life, at once; what was cancelled or ended stays so."""
    platform_id = await partner(database)
    wanted = {"locations": "live", "tariffs": "asking", "sessions": "confirming", "cdrs": "waiting"}
    others = {"tokens": "cancelling", "evsestatuses": "ended"}
    for module, state in (wanted | others).items():
        await subscription_of_ours(database, platform_id, module, state)

    mended = await mend(database, CLOCK, timeout_max_s=LIMIT_S)

    async with database.reading() as tx:
        rows = {row.module: row for row in await subscriptions.all_inbound(tx)}
    assert mended.subscriptions_of_ours == 4
    for module in wanted:
        row = rows[module]
        assert (row.state, row.life, row.attempts) == ("asking", 4, 0)
        assert row.next_action_at is not None
        assert row.next_action_at <= CLOCK.now()
    assert {module: (rows[module].state, rows[module].life) for module in others} == {
        module: (state, 3) for module, state in others.items()
    }


# how it is noticed


@dataclass
class House:
    """A platform's folder and database."""

    folder: PlatformFolder
    settings: Settings
    url: str
    moments: list[str | None]

    def marking(self, database: Database) -> Marking:
        """Watch over a database."""
        return Marking(database, self.folder, self.settings, CLOCK)

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Marking]:
        """Have a process that may begin to watch, and ends."""
        database = await fresh_database(self.url)
        watch = self.marking(database)
        try:
            yield watch
        finally:
            await watch.stop()
            await database.stop()

    async def read(self) -> str | None:
        """Read the mark that the database has now."""
        database = await fresh_database(self.url)
        async with database.reading() as tx:
            mark = await marks.read(tx)
        await database.stop()
        return mark

    def mark_every(self, mark_s: float) -> None:
        """Have processes renew it that often."""
        self.settings = read_settings({"platform": PLATFORM, "store": {"url": self.url, "mark_s": mark_s}}, {})

    async def run(self, *, orderly: bool = True) -> dict[str, Any] | None:
        """Start and end; returns what is kept of a restore."""
        database = await fresh_database(self.url)
        watch = self.marking(database)
        await watch.start()
        await self.remember(database)
        async with database.reading() as tx:
            kept = await marks.restored(tx)
        if orderly:
            await watch.stop()
            await self.remember(database)
        await database.stop()
        return kept

    async def remember(self, database: Database) -> None:
        """Take down the mark that the database has now."""
        async with database.reading() as tx:
            self.moments.append(await marks.read(tx))

    async def become(self, mark: str | None) -> None:
        """Be as old as this mark."""
        database = await fresh_database(self.url)
        async with database.transaction() as tx:
            while not await marks.renew(tx, mark or "", known=[await marks.read(tx)]):
                pass  # a process that runs has renewed it meanwhile
        await database.stop()


@pytest.fixture
def house(database_url: str, tmp_path: Path) -> House:
    """A new platform."""
    folder = PlatformFolder(tmp_path / "cpo")
    folder.root.mkdir()
    return new_house(folder, database_url)


def new_house(folder: PlatformFolder, url: str) -> House:
    """Make a house whose marks are renewed at start and stop only."""
    house = House(folder, read_settings({"platform": PLATFORM}, {}), url, [])
    house.mark_every(1000.0)
    return house


async def test_nothing_is_done_without_need(house: House):
    """Neither at the first start, nor after an orderly stop, nor after none; every start and stop makes a mark."""
    assert await house.run() is None
    assert await house.run() is None
    assert await house.run(orderly=False) is None
    assert await house.run() is None

    assert len(set(house.moments)) == len(house.moments) == 7
    assert house.folder.mark_file.stat().st_mode & 0o777 == 0o600


async def test_any_older_mark_is_noticed(house: House):
    """The mark of every moment before the last is an older database's; it is mended once, and known then."""
    for _ in range(2):
        await house.run()
    for mark in house.moments[:-1]:
        await house.become(mark)
        kept = await house.run()
        assert kept is not None
        assert kept["how"] == marking.NOTICED
        assert (await house.run()) == kept


async def test_wherever_a_renewal_breaks_off_the_database_is_known(house: House, monkeypatch: pytest.MonkeyPatch):
    """Before and after each of the two writes of the file, and when nobody knows whether the commit was made."""
    write, renew = write_known, marks.renew
    for broken in range(4):
        database = await fresh_database(house.url)
        watch = house.marking(database)
        await watch.start()
        passed = 0

        def breaks_off(*given: Any, broken: int = broken) -> None:
            nonlocal passed
            passed += 1
            if passed - 1 == broken // 2 and not broken % 2:
                raise FileProblem("the disk is full")
            write(*given)
            if passed - 1 == broken // 2:
                raise FileProblem("the disk is full")

        monkeypatch.setattr(marking, "write_known", breaks_off)
        with pytest.raises(FileProblem):
            await watch.renew()
        monkeypatch.setattr(marking, "write_known", write)
        await database.stop()
        assert await house.run() is None

    database = await fresh_database(house.url)
    watch = house.marking(database)
    await watch.start()
    for committed in (True, False):

        async def unclear(tx: Tx, mark: str, *, known: Any, committed: bool = committed) -> None:
            assert await renew(tx, mark, known=known)
            if committed:
                await tx.connection.commit()  # type: ignore[attr-defined]
            raise StoreUnavailable("the connection is gone")

        monkeypatch.setattr(marks, "renew", unclear)
        with pytest.raises(StoreUnavailable):
            await watch.renew()
        monkeypatch.setattr(marks, "renew", renew)
    await watch.renew()
    await watch.stop()
    await database.stop()
    assert await house.run() is None


async def test_a_database_that_is_replaced_while_it_is_used(house: House):
    """A replica that lagged takes over: whoever runs is told to end, and the next start mends what it finds."""
    await house.run()
    house.mark_every(0.01)
    database = await fresh_database(house.url)
    watch = house.marking(database)
    replaced = asyncio.Event()
    watch.on_replaced = replaced.set
    await watch.start()
    await house.become(house.moments[0])
    async with asyncio.timeout(10):
        await replaced.wait()
    await watch.stop()
    await database.stop()

    kept = await house.run()
    assert kept is not None
    assert kept["how"] == marking.NOTICED


async def test_a_folder_that_knows_nothing_has_an_older_database(house: House):
    """A file that is gone or is none knows no mark; one that says so means it also of a database without a mark."""
    await house.run()
    house.folder.mark_file.unlink()
    assert await house.run() is not None
    house.folder.mark_file.write_bytes(b"\xff{")
    first = await house.run()
    house.folder.mark_file.write_bytes(b"[]")
    assert await house.run() != first


async def test_a_file_of_an_earlier_version_of_the_engine(house: House):
    """A bare list of marks is understood: a mark that is in it is known, another is not."""
    await house.run()
    house.folder.mark_file.write_text(json.dumps([house.moments[-1]]))
    assert await house.run() is None
    house.folder.mark_file.write_text(json.dumps([house.moments[0]]))
    assert await house.run() is not None


async def test_a_file_that_cannot_be_read_at_the_moment(house: House):
    """It says nothing about the database, so nothing is begun with it."""
    await house.run()
    content = house.folder.mark_file.read_bytes()
    house.folder.mark_file.unlink()
    house.folder.mark_file.mkdir()
    async with house.process() as watch:
        with pytest.raises(FileProblem, match="cannot be read"):
            await watch.start()
    house.folder.mark_file.rmdir()
    house.folder.mark_file.write_bytes(content)
    assert await house.run() is None


async def test_said_by_an_operator(house: House):
    """It is done at once, each time that it is said, and not again at the next start."""
    await house.run()
    for _ in range(2):
        await say_restored(house.folder, house.settings, CLOCK)
        kept = await house.run()
        assert kept is not None
        assert kept["how"] == marking.SAID


async def test_a_move_takes_the_marks_along_and_leaves_the_server(tmp_path: Path):
    """What is found at the new place is known by its mark, on whatever server; another broker changes nothing."""
    folder = PlatformFolder(tmp_path / "cpo")
    await make_folder(folder, identity="cpo.example.org", base_url="https://localhost/ocpi", parties=["BEBEC"])
    known = Known(("a mark",), marks.Server("1", "00000002"), 7)
    write_known(folder, known)
    await move(folder, to=None, to_broker="amqp://localhost/")
    assert read_known(folder) == known
    async with new_database() as url:
        await move(folder, to=url, to_broker=None)
    assert read_known(folder) == replace(known, server=marks.UNTOLD)


# several restores


async def test_the_same_backup_twice_within_a_second(tmp_path: Path):
    """Versions and log numbers go above those of the first time, which the backup cannot know; new objects' too."""
    urls = [f"sqlite+aiosqlite:///{tmp_path / name}" for name in ("first", "second")]
    house = new_house(PlatformFolder(tmp_path / "cpo"), urls[0])
    house.folder.root.mkdir()
    highest = {"version": 0, "number": 0}
    for house.url in urls:
        database = await fresh_database(house.url)
        await store(database, "locations", "L1", "L2")
        house.folder.mark_file.write_text(json.dumps({"marks": [], "reissued_up_to": known_of(house)}))
        watch = house.marking(database)
        await watch.start()
        found = await issued(database, "locations")
        assert min(version for version, _ in found.values()) > highest["version"]
        assert min(number for _, number in found.values()) > highest["number"]

        request = Request(ISSUER, locations(), [item(f'{{"turn":{turn}}}'.encode()) for turn in range(300)])
        async with database.transaction() as tx:
            (first, *_, last) = await issue(tx, request, CLOCK.now())
        assert (first.outcome, last.outcome) == ("created", "changed")
        assert (first.version or 0) > highest["version"]
        found = await issued(database, "locations")
        highest = {
            "version": max(version for version, _ in found.values()),
            "number": max(number for _, number in found.values()),
        }
        assert highest["version"] == last.version
        await watch.stop()
        await database.stop()


def known_of(house: House) -> int:
    """Read what is known of earlier restores."""
    return read_known(house.folder).reissued_up_to


def locations() -> Module:
    """The module."""
    found = modules.module("locations")
    assert found is not None
    return found


def item(payload: bytes) -> Item:
    """Publish an object that the backups do not have."""
    return Item("L3", object_key("L3"), payload, None, None, None)


# several processes


async def test_processes_renew_side_by_side(house: House, monkeypatch: pytest.MonkeyPatch):
    """None takes another's renewal for a replaced database; all notice one, and one of those that start mends it."""
    monkeypatch.setattr(marking, "RENEWAL_WAIT_S", 60.0)  # the disk may be slow
    await house.run()
    old = house.moments[-1]
    house.mark_every(0.01)
    async with AsyncExitStack() as running:
        watches = [await running.enter_async_context(house.process()) for _ in range(3)]
        noticed = [asyncio.Event() for _ in watches]
        for watch, event in zip(watches, noticed, strict=True):
            watch.on_replaced = event.set
        await asyncio.gather(*(watch.start() for watch in watches))

        async def renew_often(watch: Marking) -> None:
            for _ in range(15):
                await watch.renew()

        await asyncio.gather(*map(renew_often, watches))
        assert not any(event.is_set() for event in noticed)

        await house.become(old)
        async with asyncio.timeout(60):
            await asyncio.gather(*(event.wait() for event in noticed))

    async with AsyncExitStack() as running:
        watches = [await running.enter_async_context(house.process()) for _ in range(3)]
        mended = 0

        async def counted(*given: Any, **options: Any) -> Any:
            nonlocal mended
            mended += 1
            return await mend(*given, **options)

        monkeypatch.setattr(marking, "mend", counted)
        await asyncio.gather(*(watch.start() for watch in watches))
        assert mended == 1
        for watch in watches:
            await watch.renew()


async def test_a_process_that_runs_on_while_another_mends(house: House):
    """The mark is known again by then; what is kept of the restore tells that it was done, and who did it goes on."""
    await house.run()
    async with house.process() as runs_on, house.process() as another:
        await runs_on.start()
        await runs_on.renew()
        await house.become(house.moments[0])
        await another.start()
        assert await house.read() in read_known(house.folder).marks
        with pytest.raises(DatabaseReplaced, match="another process has found and mended it"):
            await runs_on.renew()
        await another.renew()


async def test_who_holds_the_marks_is_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A start waits until another one is done; a renewal is left out after a while, and so is that of a stop."""
    async with house.process() as watch, house.process() as starting:
        await watch.start()
        monkeypatch.setattr(marking, "RENEWAL_WAIT_S", 0.1)
        monkeypatch.setattr(folder_module, "MARKS_TELL_S", 0.0)
        before = await house.read()
        async with alone_with_marks(house.folder):
            with pytest.raises(InUse, match="busy with the marks"):
                await watch.renew()
            caplog.clear()
            waiting = asyncio.create_task(starting.start())
            async with asyncio.timeout(30):
                while "waiting for another process" not in caplog.text:
                    await asyncio.sleep(0.01)
            await watch.stop()
            assert await house.read() == before
            assert not waiting.done()
        await waiting
        assert await house.read() != before


async def test_a_mark_that_changes_between_looking_and_changing():
    """PostgreSQL lets another transaction in between; the mark that it gives is not overwritten."""
    async with new_database() as url:
        database, other = await fresh_database(url), await fresh_database(url)
        async with database.transaction() as tx:
            assert await marks.renew(tx, "first", known=[None])
            assert not await marks.renew(tx, "second", known=[None])
            assert not await marks.renew(tx, "second", known=[None, "another"])

        async def renew() -> bool:
            async with database.transaction() as tx:
                return await marks.renew(tx, "ours", known=["first"])

        async with other.transaction() as tx:
            assert await marks.renew(tx, "theirs", known=["first"])
            renewing = asyncio.create_task(renew())
            async with asyncio.timeout(30):
                while await run(url, WAITING) == [(0,)]:
                    await asyncio.sleep(0.01)
        assert not await renewing
        async with database.reading() as tx:
            assert await marks.read(tx) == "theirs"
        for each in (database, other):
            await each.stop()


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


# PostgreSQL servers


@pytest.fixture
def primary() -> Iterator[Server]:
    """A PostgreSQL that may be broken."""
    with own_server() as server:
        yield server


@pytest.fixture
def replica(primary: Server) -> Iterator[Server]:
    """Its replica."""
    with own_replica(primary) as server:
        yield server


async def told_by(url: str) -> marks.Server:
    """Ask a server which one it is."""
    database = Database(url)
    await database.start()
    async with database.reading() as tx:
        told = await marks.server(tx)
        assert await marks.reissued_up_to(tx) == 0  # the transaction goes on, whatever was refused
    await database.stop()
    return told


async def caught_up(house: House, replica_url: str) -> None:
    """Wait until a replica has the last mark."""
    last = await house.read()
    database = Database(replica_url)
    await database.start()
    async with asyncio.timeout(60):
        while True:
            async with database.reading() as tx:
                if await marks.read(tx) == last:
                    break
            await asyncio.sleep(0.02)
    await database.stop()


async def renew_once_connected(watch: Marking) -> None:
    """Renew the mark; the first time may tell of the connection that broke, and of nothing else."""
    with suppress(StoreUnavailable):
        await watch.renew()
    await watch.renew()


@pytest.mark.parametrize("running", [False, True])
async def test_a_replica_that_takes_over_with_the_last_mark(
    tmp_path: Path, primary: Server, replica: Server, running: bool
):
    """Only its timeline tells; at the next start, and while a process runs. It is mended once, and known then."""
    folder = PlatformFolder(tmp_path / "cpo")
    folder.root.mkdir()
    house = new_house(folder, primary.url)
    assert await house.run() is None
    assert await house.run() is None
    async with house.process() as watch:
        if running:
            await watch.start()
            await watch.renew()
        await caught_up(house, replica.url)
        assert (await told_by(replica.url)).timeline is None  # of a standby, which has none of its own
        await asyncio.to_thread(primary.kill)
        await asyncio.to_thread(replica.promote)
        system = read_known(folder).server.system
        assert await told_by(replica.url) == marks.Server(system, "00000002")  # at once, not with the next checkpoint
        await asyncio.to_thread(replica.move_to, primary.port)
        assert await house.read() in read_known(folder).marks
        if running:
            with pytest.raises(DatabaseReplaced, match=r"timeline 00000001, and is system \d+ on timeline 00000002"):
                await renew_once_connected(watch)
    kept = await house.run()
    assert kept is not None
    assert kept["how"] == marking.NOTICED
    assert await house.run() == kept
    assert read_known(folder).server == marks.Server(system, "00000002")


async def test_what_a_server_does_not_tell_notices_nothing(tmp_path: Path, primary: Server):
    """An ordinary role may ask both; one that may not loses neither its transaction nor what is known."""
    for statement in ("CREATE ROLE plain LOGIN", "CREATE DATABASE ocpi OWNER plain"):
        await run(primary.url, statement)
    owner = f"postgresql://postgres@127.0.0.1:{primary.port}/ocpi"
    folder = PlatformFolder(tmp_path / "cpo")
    folder.root.mkdir()
    house = new_house(folder, owner.replace("postgres@", "plain@"))
    assert await house.run() is None
    known = read_known(folder).server
    assert known.system is not None
    assert known.timeline == "00000001"
    for function, told in (
        ("pg_control_system()", marks.Server(None, "00000001")),
        ("pg_walfile_name(pg_lsn)", marks.UNTOLD),
    ):
        await run(owner, f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
        assert await told_by(house.url) == told
        assert await house.run() is None
        assert read_known(folder).server == known
    write_known(folder, replace(read_known(folder), server=marks.Server("another", "00000001")))
    assert await house.run() is None
    house.url = owner
    assert await house.run() is not None
