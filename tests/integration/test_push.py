"""The push worker on a real store and broker, against a receiver that fails in every way."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from brokers.embedded import EmbeddedBroker
from engine.clock import SystemClock
from engine.peers.objects import Answered, Unanswered
from engine.protocol.ids import PartyId, object_key
from engine.replication.changes import Changes
from engine.replication.enqueue import Announcer
from engine.replication.ledger import Ledger
from engine.replication.segments import decode
from engine.replication.workers import Workers
from engine.settings import Replication
from engine.store import exceptions, objects, subscriptions
from engine.store.database import Database
from engine.store.membership import Membership
from engine.store.migrating import migrate
from engine.store.objects import ISSUED_HERE, Change, View
from engine.store.signals import Signals
from engine.store.tables import platforms
from tests.support.receiver import Observer

ISSUER = PartyId("BEBEC")
SUCCESS = b'{"status_code":1000,"timestamp":"2026-01-01T00:00:00.000Z"}'
TIMEOUT_S = 0.1
SETTINGS = Replication(
    window_min=8,
    watermark_save_s=0.02,
    booking_margin_s=0.05,
    heartbeat_s=0.2,
    probe_pause_max_s=0.05,
    stop_deadline_s=5,
)


class Receiver:
    """Answers updates as a script of faults says."""

    def __init__(self, observer: Observer, *, seed: int, faulty: float) -> None:
        """Begin with everything in order."""
        self.observer = observer
        self.random = random.Random(seed)
        self.faulty = faulty
        self.down = False
        self.rejects: set[str] = set()

    def timeout_s(self, _platform_id: int) -> float:
        """Announce a request time-out."""
        return self.observer.timeout_s

    async def update(self, _platform_id: int, _path: str, body: bytes) -> Answered | Unanswered:
        """Answer one update, or do not."""
        if self.down:
            return Unanswered("refused", None)
        loop = asyncio.get_running_loop()
        seen = self.observer.begin(body)
        began = loop.time()
        await asyncio.sleep(self.random.random() * 0.004)
        fault = self.random.random()
        if seen.key[1] in self.rejects:
            self.observer.answered(seen, success=True)
            return Answered(200, b'{"status_code":6001,"timestamp":"2026-01-01T00:00:00Z"}')
        if fault >= self.faulty:
            self.observer.take(seen, body)
            self.observer.answered(seen, success=True)
            return Answered(200, SUCCESS)
        if fault < self.faulty / 3:
            self.observer.answered(seen, success=False)
            return Answered(200, b'{"status_code":3000,"timestamp":"2026-01-01T00:00:00Z"}')
        if fault < 2 * self.faulty / 3:
            self.observer.take(seen, body)  # stored, but the answer is lost
        self.observer.unanswered(seen)
        return Unanswered("disconnected", began + self.observer.timeout_s)


class Producer:
    """One producing process: store, broker, workers; started and stopped like the real one."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        """Take a folder for the database."""
        self.url = f"sqlite+aiosqlite:///{folder / 'engine.sqlite'}"
        self.receiver = receiver
        self.clock = SystemClock()

    async def start(self) -> None:
        """Start as a process does."""
        self.database = Database(self.url)
        await self.database.start()
        self.broker = EmbeddedBroker()
        await self.broker.start()
        self.membership = Membership(self.database, self.clock, lease_s=SETTINGS.lease_s)
        await self.membership.start()
        signals = Signals(self.database, self.membership)
        self.announcer = Announcer(
            self.database, self.broker, Changes(), self.membership, signals, heartbeat_s=SETTINGS.heartbeat_s
        )
        await self.announcer.start()
        self.workers = Workers(
            database=self.database,
            broker=self.broker,
            requests=self.receiver,  # type: ignore[arg-type]
            membership=self.membership,
            clock=self.clock,
            settings=SETTINGS,
            parallelism_max=64,
        )
        await self.workers.start()

    async def stop(self) -> None:
        """Stop in order."""
        await self.workers.stop()
        await self.announcer.stop()
        await self.broker.stop()
        await self.membership.stop()
        await self.database.stop()

    async def publish(
        self,
        *ids: str,
        version: int,
        payload: bytes = b"{}",
        over: Collection[str] = (),
        audience: str | None = None,
    ) -> None:
        """Store a version of each object; those that are ``over`` are so since 1970."""
        async with self.database.transaction() as tx:
            changes = [
                Change(
                    ISSUED_HERE, "locations", ISSUER, object_key(i), i, version, 0, payload, audience,
                    concluded_at=1.0 if i in over else None,
                )
                for i in ids
            ]  # fmt: skip
            await objects.store(tx, changes, received=False, now=self.clock.now())

    async def subscribe(self, parallelism_limit: int, retry_interval_s: float) -> int:
        """Begin a subscription."""
        now = self.clock.now()
        async with self.database.transaction() as tx:
            await tx.execute(
                platforms.insert().values(id=1, identity="emsp.example.org", state="connected", created_at=now)
            )
            subscription_id = await subscriptions.add_outbound(
                tx, platform_id=1, subscriber="NLEMS", producer=ISSUER, module="locations", module_alias="locations",
                state="live", life=1, epoch=1, owner=self.membership.process_id, retry_interval_s=retry_interval_s,
                parallelism_limit=parallelism_limit,
                queue_size_max=1000, watermark=0, caught_up=False, began_at=now, attempted_to=0, hold_until=0.0,
                catch_up_to=await objects.last_number(tx, "locations"),
            )  # fmt: skip
        await self.workers.began(subscription_id)
        return subscription_id

    async def owed(self, subscription_id: int) -> int:
        """Count what is owed."""
        async with self.database.reading() as tx:
            row = await subscriptions.outbound_by_id(tx, subscription_id)
        assert row is not None
        return (await self.workers.debt(row)).queue_size

    async def drained(self, subscription_id: int) -> None:
        """Wait until nothing is owed."""
        while await self.owed(subscription_id):
            await asyncio.sleep(0.01)  # the log has no event for "nothing is owed"


@asynccontextmanager
async def producer(folder: Path, receiver: Receiver) -> AsyncIterator[Producer]:
    """Run a producer, and stop it whatever happens."""
    made = Producer(folder, receiver)
    await migrate(made.url)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("parallelism_limit", [1, 5])
async def test_faults_never_break_order_parallelism_or_backoff(
    tmp_path: Path, seed: int, parallelism_limit: int
) -> None:
    """Through lost answers, refusals and changes under way, every object arrives, one request at a time."""
    observer = Observer(parallelism_limit, retry_interval_s=0.02, timeout_s=TIMEOUT_S)
    receiver = Receiver(observer, seed=seed, faulty=0.25)
    ids = [f"L{n}" for n in range(30)]
    async with producer(tmp_path, receiver) as made:
        await made.publish(*ids, version=1)
        subscription_id = await made.subscribe(parallelism_limit, 0.02)
        for version in range(2, 6):
            await asyncio.sleep(0.03)
            await made.publish(*receiver.random.sample(ids, 10), version=version)
        await made.publish(*ids[:5], version=9, payload=b'{"last": 0.10}')
        async with asyncio.timeout(60):
            await made.drained(subscription_id)
        async with made.database.reading() as tx:
            stored = await objects.walk(tx, "locations", View(ISSUER, "NLEMS"), after=0, limit=100)

    assert observer.violations == []
    assert {(o.issuer, o.key): o.version for o in stored} == observer.copies
    assert observer.payloads[ISSUER, "l0"] == b'{"last": 0.10}'


@pytest.mark.parametrize("seed", range(4))
async def test_restarts_forget_nothing(tmp_path: Path, seed: int) -> None:
    """Clean restarts in the middle of faults lose no object, no backoff and no count of requests in progress."""
    observer = Observer(4, retry_interval_s=0.05, timeout_s=TIMEOUT_S)
    receiver = Receiver(observer, seed=seed, faulty=0.3)
    ids = [f"L{n}" for n in range(40)]
    async with producer(tmp_path, receiver) as made:
        await made.publish(*ids, version=1)
        subscription_id = await made.subscribe(4, 0.05)
        for version in range(2, 6):
            await asyncio.sleep(receiver.random.random() * 0.05)
            await made.publish(*receiver.random.sample(ids, 5), version=version)
            await made.stop()
            await made.start()
        async with asyncio.timeout(60):
            await made.drained(subscription_id)
        async with made.database.reading() as tx:
            stored = await objects.walk(tx, "locations", View(ISSUER, "NLEMS"), after=0, limit=100)

    assert observer.violations == []
    assert {(o.issuer, o.key): o.version for o in stored} == observer.copies


async def test_rejected_version_is_kept_and_the_next_one_sent(tmp_path: Path) -> None:
    """A 6001 is final for its version, is shown, and does not hold the next version back (B3)."""
    observer = Observer(2, retry_interval_s=0.01, timeout_s=TIMEOUT_S)
    receiver = Receiver(observer, seed=1, faulty=0)
    receiver.rejects = {"bad"}
    async with producer(tmp_path, receiver) as made:
        await made.publish("bad", "good", version=1)
        subscription_id = await made.subscribe(2, 0.01)
        async with asyncio.timeout(10):
            await made.drained(subscription_id)
        async with made.database.reading() as tx:
            (kept,) = await exceptions.failing(tx, subscription_id, limit=10)
        sent = len(observer.attempts)
        receiver.rejects = set()
        await made.publish("bad", version=2)
        async with asyncio.timeout(10):
            await made.drained(subscription_id)
        async with made.database.reading() as tx:
            left = await exceptions.failing(tx, subscription_id, limit=10)

    assert (kept.object_id, kept.rejected) == ("bad", True)
    assert sent == 2
    assert observer.copies == {("BEBEC", "bad"): 2, ("BEBEC", "good"): 1}
    assert left == []


async def test_an_outage_costs_probes_not_one_failure_for_each_object(tmp_path: Path) -> None:
    """While a platform is down only probes go there, and all objects arrive once it is back (B6)."""
    observer = Observer(4, retry_interval_s=0.01, timeout_s=TIMEOUT_S)
    receiver = Receiver(observer, seed=1, faulty=0)
    receiver.down = True
    async with producer(tmp_path, receiver) as made:
        await made.publish(*(f"L{n}" for n in range(200)), version=1)
        subscription_id = await made.subscribe(4, 0.01)
        await asyncio.sleep(0.4)
        worker = made.workers.worker(subscription_id)
        assert worker is not None
        failed = worker.progress().failed
        owed = await made.owed(subscription_id)
        receiver.down = False
        async with asyncio.timeout(20):
            await made.drained(subscription_id)

    assert 3 <= failed <= 20
    assert owed == 200
    assert len(observer.copies) == 200


async def test_what_is_addressed_to_few_disturbs_no_other_queue(tmp_path: Path) -> None:
    """A segment goes to the queues of those who may see what changed; the others hear of the numbers with the next."""
    observer = Observer(4, retry_interval_s=0.05, timeout_s=TIMEOUT_S)
    addressed = {"A": ",DEXYZ,", "B": ",NLEMS,", "C": ",NLEMS,", "D": None, "E": ",NLEMS,"}
    async with producer(tmp_path, Receiver(observer, seed=1, faulty=0)) as made:
        await made.publish("before", version=1)
        async with made.database.reading() as tx:
            other = Ledger(await objects.last_number(tx, "locations"))
        other.behind = False
        await made.broker.ensure("of another", ["locations"], names=["DEXYZ"])
        subscription_id = await made.subscribe(4, 0.05)
        for object_id, audience in addressed.items():
            await made.publish(object_id, version=1, audience=audience)
        async with asyncio.timeout(60):
            await made.drained(subscription_id)
        taken = [decode(data) for data in (await made.broker.take("of another", limit=100)).segments]

    for stretch in taken:
        other.follow(stretch, ISSUER, "DEXYZ")
    assert [key for stretch in taken for _, key, _, _ in stretch.pointers] == ["a", "d"]
    assert [key for _, key in other.take_pointers(10)] == ["a", "d"]
    assert not other.behind, "it need not read the log for what was not for it"
    assert observer.violations == []
    assert observer.copies == {(ISSUER, key): 1 for key in ("before", *"bcde")}
