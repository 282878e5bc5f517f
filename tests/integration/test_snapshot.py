"""What a snapshot has of objects that are over: the young ones, and whatever changed after the first subscribe."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.dialects import sqlite

from engine.clock import SystemClock
from engine.protocol.errors import NoSuchObject
from engine.protocol.ids import PartyId, object_key
from engine.protocol.subscriptions import Parameters
from engine.replication.producing import Producing
from engine.settings import Subscriptions
from engine.store import objects
from engine.store.objects import ISSUED_HERE, Change
from engine.store.tables import outbound, platforms
from tests.integration.test_push import ISSUER, SETTINGS, TIMEOUT_S, Producer, Receiver, producer
from tests.support.receiver import Observer

SUBSCRIBER = PartyId("NLEMS")
DAY_S = 86400.0
RETRY_S = 0.02


class Calendar(SystemClock):
    """A clock that can be set forward by days."""

    ahead_s = 0.0

    def now(self) -> float:
        """Tell the time."""
        return super().now() + self.ahead_s


class Scene:
    """One producer, one subscriber, and objects that are over since so many days."""

    def __init__(self, made: Producer, observer: Observer, receiver: Receiver, limits: Subscriptions) -> None:
        """Let the subscriber's platform be known."""
        self.made, self.observer, self.receiver = made, observer, receiver
        self.calendar = made.clock = Calendar()
        self.producing = Producing(
            database=made.database,
            workers=made.workers,
            requests=None,  # type: ignore[arg-type] # nobody is told of a cancellation here
            clock=self.calendar,
            limits=limits,
            settings=SETTINGS,
            membership=made.membership,
        )
        self.id = 0

    async def publish(self, version: int = 1, **days: float | None) -> None:
        """Store objects; None: not over."""
        now = self.calendar.now()
        changes = [
            Change(
                ISSUED_HERE, "locations", ISSUER, object_key(name), name, version, 0, b"{}",
                concluded_at=None if ago is None else now - ago * DAY_S,
            )
            for name, ago in days.items()
        ]  # fmt: skip
        async with self.made.database.transaction() as tx:
            await objects.store(tx, changes, received=False, now=now)

    async def subscribe(self) -> None:
        """Begin a life: the subscriber has nothing, or lost it."""
        self.observer.copies.clear()
        await self.producing.subscribe(1, SUBSCRIBER, ISSUER, "locations", Parameters(RETRY_S, 4, 1000))
        (self.id,) = [row.id for row in await self.producing.list()]

    async def cancel(self) -> None:
        """End the life."""
        await self.producing.cancelled_by_receiver(1, SUBSCRIBER, ISSUER, "locations")

    async def owed(self) -> int:
        """Count what is owed."""
        return await self.made.owed(self.id)

    async def has(self) -> set[str]:
        """Wait until nothing is owed, and return what arrived."""
        async with asyncio.timeout(20):
            await self.made.drained(self.id)
        return {key for _, key in self.observer.copies}


@asynccontextmanager
async def scene(folder: Path, **limits: float) -> AsyncIterator[Scene]:
    """Run it, with other settings than usual."""
    observer = Observer(4, retry_interval_s=RETRY_S, timeout_s=TIMEOUT_S)
    receiver = Receiver(observer, seed=1, faulty=0.0)
    async with producer(folder, receiver) as made:
        async with made.database.transaction() as tx:
            await tx.execute(
                platforms.insert().values(id=1, identity="emsp.example.org", state="connected", created_at=0)
            )
        yield Scene(made, observer, receiver, Subscriptions.model_validate(limits))


async def test_a_first_snapshot_leaves_out_what_was_over_long_ago(tmp_path: Path) -> None:
    """What goes on, and what was over within 90 days, is owed and sent; what is older is neither."""
    async with scene(tmp_path) as s:
        await s.publish(goes_on=None, yesterday=1, young=89.9, old=90.1, ancient=4000)
        s.receiver.down = True
        await s.subscribe()
        owed = {await s.owed() for _ in range(20)}
        s.receiver.down = False

        assert await s.has() == {"goes_on", "yesterday", "young"}
        assert owed == {3}
        assert await s.owed() == 0


@pytest.mark.parametrize(
    ("days", "expected"), [(0.5, {"now"}), (150.0, {"now", "old"}), (1e300, {"now", "old", "ancient"})]
)
async def test_how_far_back_it_goes_is_a_setting(tmp_path: Path, days: float, expected: set[str]) -> None:
    """Longer than there have been computers is without a limit."""
    async with scene(tmp_path, snapshot_days=days) as s:
        await s.publish(now=0.1, old=100, ancient=15_000)
        await s.subscribe()

        assert await s.has() == expected


async def test_what_changes_after_the_first_subscribe_is_owed_at_any_age(tmp_path: Path) -> None:
    """Pushed at once, while the subscriber is there; and after a year away, in which it was ended."""
    async with scene(tmp_path) as s:
        await s.publish(old=200, older=300, untouched=200, young=1)
        await s.subscribe()
        assert await s.has() == {"young"}
        await s.publish(2, old=200)
        assert await s.has() == {"young", "old"}

        await s.cancel()
        await s.publish(2, older=300)
        s.calendar.ahead_s = 400 * DAY_S
        await s.subscribe()

        # "young" is over for a year by now, and has not changed since before the first subscribe.
        assert await s.has() == {"old", "older"}


async def test_a_subscription_from_before_there_was_this_rule_is_owed_everything(tmp_path: Path) -> None:
    """With a first number of 0 everything counts as changed since, also in a new life."""
    async with scene(tmp_path) as s:
        await s.publish(old=200, young=1)
        await s.subscribe()
        assert await s.has() == {"young"}
        async with s.made.database.transaction() as tx:
            await tx.execute(update(outbound).values(first_seq=0))

        await s.subscribe()
        assert await s.has() == {"young", "old"}


@pytest.mark.requirement("R.03.10.06", "R.03.10.08")
async def test_an_object_that_is_asked_for_by_name_is_sent_at_any_age(tmp_path: Path) -> None:
    """A full update is for whatever the subscriber may see (B35), also what its snapshot left out."""
    async with scene(tmp_path) as s:
        await s.publish(old=200, young=1)
        await s.subscribe()
        assert await s.has() == {"young"}

        await s.producing.send_again(1, SUBSCRIBER, ISSUER, "locations", "old")
        assert await s.has() == {"young", "old"}
        with pytest.raises(NoSuchObject):
            await s.producing.send_again(1, SUBSCRIBER, ISSUER, "locations", "never-issued")


async def test_what_failed_stays_owed_when_it_grows_old(tmp_path: Path) -> None:
    """An object that waits for its backoff when a new life begins is sent in it, and counted once all the time."""
    async with scene(tmp_path) as s:
        await s.publish(aged=89, goes_on=None)
        s.receiver.down = True
        await s.subscribe()
        async with asyncio.timeout(10):
            while len(await s.producing.failing(s.id, limit=10)) < 2:  # the store has no event for it
                await asyncio.sleep(0.01)

        s.calendar.ahead_s = 30 * DAY_S
        await s.subscribe()
        owed = {await s.owed() for _ in range(20)}
        s.receiver.down = False
        await s.producing.retry_immediately(1, SUBSCRIBER, ISSUER, "locations")

        assert await s.has() == {"aged", "goes_on"}
        assert owed == {2}


async def test_the_walk_goes_along_the_index_and_sorts_nothing(tmp_path: Path) -> None:
    """Reading the log is one search of its index, for a snapshot too."""
    async with scene(tmp_path) as s:
        statement = objects._walk("NLEMS").compile(dialect=sqlite.dialect())  # noqa: SLF001 - no other way to see it
        unknown = tuple(None for _ in statement.positiontup or ())
        async with s.made.database.reading() as tx:
            plan = await tx.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", unknown)  # type: ignore[attr-defined]
            steps = [row.detail for row in plan]

    assert steps == ["SEARCH objects USING INDEX ix_objects_log_seq (log=? AND seq>?)"]
