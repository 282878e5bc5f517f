"""Random histories of everything that can happen to a subscription, with the oracles of P1 to P4 beside the receiver.

Publishing, subscribing again, cancelling, asking for an object again, immediate retries, renegotiation, restarts in
order and ends without a word follow one another at random moments; the receiver fails in every way meanwhile.
"""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.peers.objects import Answered, Unanswered
from engine.protocol.ids import PartyId
from engine.protocol.subscriptions import Parameters
from engine.replication.producing import Producing
from engine.settings import Subscriptions
from engine.store import objects, subscriptions
from engine.store.migrating import migrate
from engine.store.objects import View
from engine.store.tables import platforms
from tests.integration.test_push import ISSUER, SETTINGS, TIMEOUT_S, Producer, Receiver
from tests.support.receiver import Observer, Seen

SUBSCRIBER = PartyId("NLEMS")
RETRY_S = 0.02
IDS = [f"L{number}" for number in range(25)]
OVER = IDS[::2]  # what a snapshot leaves out, until it changes
STEPS = 14
KILLS_MAX = 3  # the wait after an end without a word outlasts the backoffs of as many attempts that nobody wrote down


@dataclass
class Line:
    """The way from one run of the producer to the receiver; cut when that run ends without a word."""

    receiver: Receiver
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    def timeout_s(self, platform_id: int) -> float:
        """Say how long an update may take."""
        return self.receiver.timeout_s(platform_id)

    async def update(self, platform_id: int, path: str, body: bytes) -> Answered | Unanswered:
        """Pass an update on, while there is a sender."""
        if self.cut.is_set():
            return Unanswered("there is no sender any more", None)
        answer = asyncio.ensure_future(self.receiver.update(platform_id, path, body))
        cut = asyncio.ensure_future(self.cut.wait())
        await asyncio.wait({answer, cut}, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        return Unanswered("there is no sender any more", None) if self.cut.is_set() else await answer


class LifeObserver(Observer):
    """Also knows lives, ends, and what was asked for again."""

    life = 0
    ended = False
    asked_for: dict[tuple[str, str], float]

    def begin(self, body: bytes) -> Seen:
        """Nothing may arrive after an end."""
        seen = super().begin(body)
        if self.ended:
            self.violations.append(f"{seen.key} was sent after the end of the subscription")
        return seen

    def take(self, seen: Seen, body: bytes) -> None:
        """Store a copy, and settle what was asked for before it was sent."""
        super().take(seen, body)
        if self.asked_for.get(seen.key, float("inf")) <= seen.began:
            del self.asked_for[seen.key]


class History:
    """One subscription, and what happens to it."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Choose by the seed."""
        self.random = random.Random(seed)
        self.folder = folder
        self.limit, self.retry_s = self.random.choice((1, 3, 6)), RETRY_S
        self.observer = LifeObserver(self.limit, retry_interval_s=RETRY_S, timeout_s=TIMEOUT_S)
        self.observer.asked_for = {}
        self.receiver = Receiver(self.observer, seed=seed, faulty=0.25)
        self.version, self.kills, self.runs = 0, 0, 0
        self.told: list[str] = []
        self.ever_asked_for: set[tuple[str, str]] = set()
        self.owed = {(ISSUER, object_id.lower()) for object_id in IDS if object_id not in OVER}

    async def begin(self) -> None:
        """Make the store, and start the first run."""
        self.file = self.folder / "engine.sqlite"
        await migrate(f"sqlite+aiosqlite:///{self.file}")
        await self.run()
        async with self.producer.database.transaction() as tx:
            await tx.execute(
                platforms.insert().values(id=1, identity="emsp.example.org", state="connected", created_at=0)
            )

    async def run(self) -> None:
        """Start a run of the producer on the file."""
        self.line = Line(self.receiver)
        self.producer = Producer(self.file.parent, self.line)  # type: ignore[arg-type]
        await self.producer.start()
        self.producing = Producing(
            database=self.producer.database,
            workers=self.producer.workers,
            requests=None,  # type: ignore[arg-type] # nobody is told of a cancellation here
            clock=self.producer.clock,
            limits=Subscriptions(),
            settings=SETTINGS,
            membership=self.producer.membership,
        )

    async def step(self) -> None:
        """Let something happen, at a random moment."""
        await asyncio.sleep(self.random.random() * 0.08)
        name = self.random.choice(
            ("publish", "publish", "publish", "subscribe", "cancel", "again", "retry", "renegotiate", "restart", "kill")
        )
        self.told.append(name)
        await getattr(self, name)()

    async def publish(self) -> None:
        """Change some objects."""
        self.version += 1
        ids = self.random.sample(IDS, 8)
        self.owed |= {(ISSUER, object_id.lower()) for object_id in ids}  # it changed after the first subscribe
        await self.producer.publish(*ids, version=self.version, payload=b"%d" % self.version, over=OVER)

    async def subscribe(self) -> None:
        """Begin a new life: everything is owed once more."""
        self.observer.ended = False
        self.observer.copies.clear()
        self.observer.asked_for.clear()
        wanted = Parameters(self.retry_s, self.limit, 1000)
        await self.producing.subscribe(1, SUBSCRIBER, ISSUER, "locations", wanted)

    async def cancel(self) -> None:
        """End this life; nothing begins after the answer."""
        if not self.observer.ended:
            await self.producing.cancelled_by_receiver(1, SUBSCRIBER, ISSUER, "locations")
            self.observer.ended = True
            self.observer.waive()  # R.03.04.06: a cancelled subscription leaves nothing behind

    async def again(self) -> None:
        """Ask for objects once more."""
        for object_id in self.random.sample(IDS, 3):
            if not self.observer.ended:
                # What is under way meanwhile may be what is asked for.
                self.observer.asked_for.setdefault((ISSUER, object_id.lower()), asyncio.get_running_loop().time())
                self.ever_asked_for.add((ISSUER, object_id.lower()))
                await self.producing.send_again(1, SUBSCRIBER, ISSUER, "locations", object_id)

    async def retry(self) -> None:
        """Waive what failures until now have to wait."""
        if not self.observer.ended:
            self.observer.waive()
            await self.producing.retry_immediately(1, SUBSCRIBER, ISSUER, "locations")

    async def renegotiate(self) -> None:
        """Agree on other numbers; requests in progress were begun under the old ones."""
        if self.observer.ended:
            return
        self.limit, self.retry_s = self.random.choice((1, 3, 6)), self.random.choice((RETRY_S, 2 * RETRY_S))
        self.observer.parallelism_limit = max(self.observer.parallelism_limit, self.limit)
        self.observer.retry_interval_s = RETRY_S
        wanted = Parameters(self.retry_s, self.limit, 1000)
        assert await self.producing.renegotiated(1, SUBSCRIBER, ISSUER, "locations", wanted)

    async def restart(self) -> None:
        """End in order, and go on."""
        await self.producing.stop()
        await self.producer.stop()
        await self.run()

    async def kill(self) -> None:
        """End without a word: the next run has what was committed, and nobody files what this one found out."""
        if self.kills == KILLS_MAX:
            return
        self.kills += 1
        killed = self.producer
        self.file = self.folder / f"run{self.kills}" / "engine.sqlite"
        self.file.parent.mkdir()
        with (
            closing(sqlite3.connect(killed.url.partition(":///")[2])) as left,
            closing(sqlite3.connect(self.file)) as next_,
        ):
            left.backup(next_)
        self.line.cut.set()
        self.observer.sender_died()
        await killed.stop()
        await self.run()

    async def attempts(self, count: int) -> None:
        """Wait until so many updates arrived."""
        async with asyncio.timeout(10):
            while len(self.observer.attempts) < count:
                await asyncio.sleep(0.001)  # the observer has no event for it

    async def converged(self) -> None:
        """Let everything that is owed arrive."""
        if self.observer.ended:
            await self.subscribe()
        (row,) = await self.producing.list()
        async with asyncio.timeout(30):
            await self.producer.drained(row.id)
        async with self.producer.database.reading() as tx:
            stored = await objects.walk(tx, "locations", View(ISSUER, SUBSCRIBER), after=0, limit=100)
        copies = self.observer.copies
        assert self.observer.violations == [], self.told
        assert self.owed <= copies.keys() <= self.owed | self.ever_asked_for, self.told
        assert {(o.issuer, o.key): o.version for o in stored if (o.issuer, o.key) in copies} == copies, self.told
        payloads = {(o.issuer, o.key): o.payload for o in stored if (o.issuer, o.key) in copies}
        assert {key: self.observer.payloads[key] for key in copies} == payloads, self.told
        assert self.observer.asked_for == {}, self.told


@asynccontextmanager
async def history(folder: Path, seed: int) -> AsyncIterator[History]:
    """Begin a history, and end its last run."""
    made = History(folder, seed)
    await made.begin()
    try:
        yield made
    finally:
        made.line.cut.set()
        await made.producer.stop()


@pytest.mark.requirement(
    "R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01", "R.03.04.06a", "R.03.09.05", "R.03.10.06"
)
@pytest.mark.parametrize("seed", range(8))
async def test_random_histories(tmp_path: Path, seed: int) -> None:
    """Whatever happens in whatever order, everything arrives, in order, one at a time, and not too early."""
    async with history(tmp_path, seed) as made:
        await made.producer.publish(*IDS, version=0, payload=b"0", over=OVER)
        await made.subscribe()
        for _ in range(STEPS):
            await made.step()
        await made.converged()


@pytest.mark.requirement("R.03.02.16")
async def test_asked_for_again_after_an_end_without_a_word(tmp_path: Path) -> None:
    """What a killed run may have sent counts one attempt also when it is asked for again before it is sent again."""
    async with history(tmp_path, 1) as made:
        made.observer.retry_interval_s = made.retry_s = 0.1
        made.receiver.faulty = 3.1  # every update is answered with 3000
        await made.producer.publish("L0", version=1)
        await made.subscribe()
        await made.attempts(1)
        await made.kill()
        await made.producing.send_again(1, SUBSCRIBER, ISSUER, "locations", "L0")
        await made.producing.stop()
        await made.producer.stop()
        await asyncio.sleep(2 * TIMEOUT_S)  # the wait that follows a kill is over before the next run begins
        await made.run()
        await made.attempts(3)

        assert made.observer.violations == []


@pytest.mark.requirement("R.03.06.04")
async def test_debt_of_a_new_life_before_its_worker_knows_of_it(tmp_path: Path) -> None:
    """What a new life owes is owed from its first moment, not from when the worker has looked."""
    async with history(tmp_path, 1) as made:
        made.receiver.faulty = 0
        await made.producer.publish(*IDS, version=1)
        await made.subscribe()
        (row,) = await made.producing.list()
        await made.producer.drained(row.id)
        async with made.producer.database.transaction() as tx:
            row = await subscriptions.outbound_by_id(tx, row.id) or row
            await subscriptions.change_outbound(tx, row, life=row.life + 1, watermark=0)
        (row,) = await made.producing.list()

        assert (await made.producer.workers.debt(row)).queue_size == len(IDS)
