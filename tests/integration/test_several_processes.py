"""Two engines on one PostgreSQL and one folder, as processes are: what one does, the other knows or leaves alone."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine

from engine.app import Engine
from engine.peers.calls import CallRequests, Delivered
from engine.protocol.calls import CallState, Delivery
from engine.protocol.errors import Forbidden, NotSubscribed
from engine.protocol.ids import PartyId
from engine.protocol.subscriptions import Parameters
from engine.registration.folder import InUse, hold, make_folder
from engine.replication.issuing import Publication
from engine.replication.segments import heartbeat
from engine.settings import PlatformFolder
from engine.store import calls, objects, platforms, subscriptions
from engine.store.calls import StoredCall
from engine.store.database import READERS_MAX, StoreUnavailable, address
from engine.store.membership import Membership
from tests.support.postgresql import WAITING, new_database, run
from tests.support.rabbitmq import DISK_ALARM, Node

LEASE_S = 1.5
WITHIN_S = 20.0
PARTY = PartyId("BEBEC")
_numbers = itertools.count(1)
SUBSCRIBERS = [PartyId(f"NL{number}") for number in range(100, 104)]


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[PlatformFolder]:
    """A platform whose data is in PostgreSQL."""
    async with new_database() as url:
        folder = PlatformFolder(tmp_path / "platform")
        await make_folder(
            folder,
            identity="cpo.example.org",
            base_url="https://127.0.0.1:1/ocpi",
            parties=[PARTY, "BEABC"],
            roles=["CPO", "EMSP"],
            listen_port=0,
            database_url=url,
        )
        yield folder


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A RabbitMQ that may be broken."""
    node = Node(tmp_path / "rabbitmq")
    await asyncio.to_thread(node.start)
    yield node
    await asyncio.to_thread(node.stop)


@asynccontextmanager
async def process(folder: PlatformFolder, name: str, **more: str) -> AsyncIterator[Engine]:
    """Run one of them, on a port and a socket of its own."""
    settings = more | {
        "OCPI_ENGINE_API__LISTEN": f"unix:run/{name}.sock",
        "OCPI_ENGINE_REPLICATION__LEASE_S": str(LEASE_S),
        "OCPI_ENGINE_REPLICATION__STOP_DEADLINE_S": "1",
    }
    engine = Engine(folder, folder.settings(settings))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.fixture
async def one(folder: PlatformFolder) -> AsyncIterator[Engine]:
    """The first process."""
    async with process(folder, "one") as engine:
        yield engine


@pytest.fixture
async def other(folder: PlatformFolder, one: Engine) -> AsyncIterator[Engine]:
    """The second, which began after the first."""
    async with process(folder, "other") as engine:
        assert engine.membership.process_id != one.membership.process_id
        yield engine


async def until(holds: Callable[[], object]) -> None:
    """Wait until something holds in this process; what another one did is not signalled to a test."""
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.01)


async def new_partner(engine: Engine) -> int:
    """Store a platform; nothing answers there."""
    async with engine.database.transaction() as tx:
        partner = await platforms.add_platform(tx, "emsp.example.org", now=1.0)  # type: ignore[arg-type]
    await engine.directory.reload()
    return partner.id


async def subscribed(engine: Engine) -> list[int]:
    """Have a partner's parties subscribe at a process; returns the numbers of the subscriptions."""
    partner = await new_partner(engine)
    for subscriber in SUBSCRIBERS:
        await engine.producing.subscribe(partner, subscriber, PARTY, "evsestatuses", Parameters(1.0, 2, 100))
    return [row.id for row in await engine.producing.list()]


def owned(engine: Engine) -> set[int]:
    """Say which subscriptions a process pushes."""
    return {one for one in range(1, 20) if (worker := engine.workers.worker(one)) is not None and worker.live}


async def test_a_change_of_one_is_known_to_the_other(one: Engine, other: Engine):
    """Platforms, certificates and parties: an ended certificate is refused by the process that did not end it."""
    partner = await new_partner(one)
    async with one.database.transaction() as tx:
        certificate = await platforms.add_certificate(
            tx,
            platform_id=partner,
            issued_here=True,
            serial="ab",
            common_name="emsp.example.org",
            not_before=0.0,
            not_after=2e9,
            chain="",
            created_at=1.0,
        )

    def known() -> bool:
        try:
            return other.directory.caller("ab", "emsp.example.org").platform_id == partner
        except Forbidden:
            return False

    await until(known)

    async with one.database.transaction() as tx:
        await platforms.end_certificate(tx, certificate, now=2.0, reason="stolen")

    def refused() -> bool:
        try:
            other.directory.caller("ab", "emsp.example.org")
        except Forbidden as error:
            return "stolen" in error.message
        return False

    await until(refused)


async def test_what_is_not_heard_of_is_found(one: Engine, other: Engine):
    """A notification that got lost with its connection is missed by its number, and everything is read again."""
    await other.signals._parts[0].stop()  # noqa: SLF001 - nothing else makes a connection deaf
    await new_partner(one)
    await until(lambda: other.directory.by_identity("emsp.example.org"))


async def test_a_connection_that_is_cut_is_made_again(folder: PlatformFolder, one: Engine, other: Engine):
    """PostgreSQL ends all connections; both listen again, and know of each other."""
    url = folder.settings({}).store.url
    await run(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    async with asyncio.timeout(WITHIN_S):
        while one.directory.by_identity("emsp.example.org") is None:
            with contextlib.suppress(StoreUnavailable, IntegrityError):  # until it has noticed, and if it was stored
                await new_partner(one)
            with contextlib.suppress(StoreUnavailable):
                await one.directory.reload()
    await until(lambda: other.directory.by_identity("emsp.example.org"))


async def test_a_stranger_makes_a_process_look_before_it_refuses(one: Engine, other: Engine):
    """Who was let in by one process a moment ago is not refused by the other, even if it has not heard of it."""
    await other.signals.stop()
    partner = await new_partner(one)
    with pytest.raises(KeyError):
        other.directory.platform(partner)
    await other.directory.look_again()
    assert other.directory.platform(partner).identity == "emsp.example.org"

    with pytest.raises(NotSubscribed):
        await other.accepting.check_subscribed(
            platform_id=partner, sender=PartyId("NLEMS"), receiver=PARTY, module_name="tokens"
        )
    async with one.database.transaction() as tx:
        await subscriptions.add_inbound(
            tx, platform_id=partner, subscriber=PARTY, producer="NLEMS", module="tokens", module_alias="tokens",
            state="live", life=1, retry_interval_s=5.0, parallelism_limit=8, began_at=1.0,
        )  # fmt: skip
    await other.accepting.check_subscribed(
        platform_id=partner, sender=PartyId("NLEMS"), receiver=PARTY, module_name="tokens"
    )


async def test_subscriptions_are_shared_out_and_handed_back(folder: PlatformFolder, one: Engine):
    """A second process gets its share; when it ends in order, the first has all again, and need not wait."""
    ids = set(await subscribed(one))
    assert owned(one) == ids
    async with process(folder, "other") as other:
        await until(lambda: len(owned(one)) == len(owned(other)) == len(ids) // 2)
        assert owned(one) | owned(other) == ids
    await until(lambda: owned(one) == ids)
    assert {row.hold_until for row in await one.producing.list()} == {0.0}


async def test_an_end_is_answered_once_the_owner_has_confirmed(one: Engine, other: Engine):
    """Whoever answers the cancellation, nothing more is begun for the subscription anywhere (R.03.04.05)."""
    await subscribed(one)
    await until(lambda: len(owned(one)) == len(owned(other)))
    theirs = min(owned(other))
    row = await one.producing.get(theirs)
    worker = other.workers.worker(theirs)
    assert worker is not None

    await one.producing.cancelled_by_receiver(row.platform_id, PartyId(row.subscriber), PARTY, "evsestatuses")

    assert not worker.live
    await until(lambda: other.workers.worker(theirs) is None)

    await one.producing.subscribe(
        row.platform_id, PartyId(row.subscriber), PARTY, "evsestatuses", Parameters(1.0, 2, 100)
    )
    await until(lambda: theirs in owned(other))  # a new life stays with who may have requests in progress


async def test_an_owner_that_is_silent_is_waited_for_as_long_as_its_lease(one: Engine, other: Engine):
    """It no longer sends once its lease has run out, so the end is answered then."""
    await subscribed(one)
    await until(lambda: len(owned(one)) == len(owned(other)))
    theirs = min(owned(other))
    row = await one.producing.get(theirs)
    await other.signals.stop()
    await other.membership._renewing.stop()  # noqa: SLF001 - as if it were frozen
    before = owned(one)

    await one.producing.cancelled_by_receiver(row.platform_id, PartyId(row.subscriber), PARTY, "evsestatuses")

    assert not other.membership.holds
    await until(lambda: len(owned(one)) == len(SUBSCRIBERS) - 1)
    for taken_over in owned(one) - before:
        assert (await one.producing.get(taken_over)).hold_until > one.clock.now()


async def test_two_that_both_believe_that_they_own_a_subscription(
    one: Engine, other: Engine, monkeypatch: pytest.MonkeyPatch
):
    """The one that is mistaken may send, but what it finds out is not stored, and teaches it that it is mistaken."""
    await subscribed(one)
    await until(lambda: len(owned(one)) == len(owned(other)))
    theirs = min(owned(other))
    await other.signals.stop()
    await other.membership._renewing.stop()  # noqa: SLF001 - as if it were frozen
    await until(lambda: theirs in owned(one))
    mistaken = other.workers.worker(theirs)
    assert mistaken is not None
    assert mistaken.live
    saved = (await one.producing.get(theirs)).watermark

    monkeypatch.setattr(Membership, "holds", True)
    await one.publishing.publish(PARTY, "evsestatuses", [Publication("E1", b'{"status":"AVAILABLE"}')])
    await other.broker.put("evsestatuses", heartbeat(2**40))

    await until(lambda: other.workers.worker(theirs) is None)
    assert theirs in owned(one)
    row = await one.producing.get(theirs)
    assert (row.owner, row.watermark) == (one.membership.process_id, saved)


async def test_periodic_work_is_done_by_one(folder: PlatformFolder, one: Engine):
    """The first to ask does it until it ends; then another one does."""
    async with process(folder, "other") as other:
        for kind in ("parties", "handshakes", "heartbeat"):
            assert await one.membership.leads(kind)
            assert not await other.membership.leads(kind)
        async with one.membership.claiming("handshakes", 7) as mine, other.membership.claiming("handshakes", 7) as too:
            assert (mine, too) == (True, False)
        async with other.membership.claiming("handshakes", 7) as mine:
            assert mine
        await one.membership._renewing.stop()  # noqa: SLF001 - as if it were frozen
        await until(lambda: not one.membership.holds)
        async with asyncio.timeout(WITHIN_S):
            while not await other.membership.leads("parties"):
                await asyncio.sleep(0.05)
        assert not await one.membership.leads("parties")


async def test_followers_of_one_see_what_the_other_publishes(one: Engine, other: Engine):
    """A change published at one process wakes who follows the log at the other."""
    await until(lambda: one.membership.others)
    following = asyncio.create_task(other.changes.wait({"evsestatuses": 0}))
    (published,) = await one.publishing.publish(PARTY, "evsestatuses", [Publication("E1", b'{"status":"AVAILABLE"}')])
    assert published.outcome == "created"
    async with asyncio.timeout(WITHIN_S):
        assert (await following)["evsestatuses"] > 0


async def test_workers_leave_a_connection_to_others(folder: PlatformFolder, one: Engine):
    """However many workers want to read, and however slowly they are answered, others read as well."""
    await subscribed(one)
    assert len(SUBSCRIBERS) >= READERS_MAX
    other = create_async_engine(address(folder.settings({}).store.url))
    async with other.connect() as slow, other.connect() as looking:
        await slow.execute(text("LOCK TABLE exceptions IN ACCESS EXCLUSIVE MODE"))
        for subscription in owned(one):
            one.workers.changed(subscription)
        async with asyncio.timeout(WITHIN_S):
            while (await looking.execute(text(WAITING))).scalar() != READERS_MAX - 1:
                await asyncio.sleep(0.01)
            async with one.database.reading() as tx:
                await objects.last_number(tx, "evsestatuses")
        assert (await looking.execute(text(WAITING))).scalar() == READERS_MAX - 1
    await other.dispose()


async def read_by_all(publisher: Engine, *others: Engine) -> None:
    """Publish, and wait until every worker of the others has read as far."""
    number = next(_numbers)
    await publisher.publishing.publish(PARTY, "evsestatuses", [Publication(f"E{number}", b'{"status":"AVAILABLE"}')])
    async with publisher.database.reading() as tx:
        end = await objects.last_number(tx, "evsestatuses")
    workers = [engine.workers.worker(one) for engine in others for one in owned(engine)]
    assert workers
    read = [worker._ledger for worker in workers if worker is not None]  # noqa: SLF001 - else a partner has to tell
    await until(lambda: all(ledger.position >= end for ledger in read))


def in_trouble(*engines: Engine) -> list[bool]:
    """Say of each whether it knows that something is wrong with its broker."""
    return [engine.broker.trouble is not None for engine in engines]


async def test_workers_of_one_hear_of_the_other_without_rabbitmq(folder: PlatformFolder, node: Node):
    """While RabbitMQ takes nothing or is away, what one process stores is read at once by all the others, too."""
    broker = {"OCPI_ENGINE_BROKER__URL": node.url, "OCPI_ENGINE_REPLICATION__HEARTBEAT_S": str(10 * WITHIN_S)}
    async with process(folder, "one", **broker) as one, process(folder, "other", **broker) as other:
        await subscribed(one)
        await until(lambda: len(owned(one)) == len(owned(other)))
        await read_by_all(one, one, other)

        await asyncio.to_thread(node.ctl, *DISK_ALARM.raised)
        await read_by_all(one, one)  # by this one learns of the alarm, and by the next the other
        await until(lambda: in_trouble(one, other) == [True, False])
        for _ in range(2):
            await read_by_all(one, one, other)
        assert in_trouble(one, other) == [True, True]

        await asyncio.to_thread(node.ctl, *DISK_ALARM.lifted)
        await until(lambda: in_trouble(one, other) == [False, False])
        await asyncio.to_thread(node.kill)
        await until(lambda: in_trouble(one, other) == [True, True])
        await read_by_all(one, one, other)
        await read_by_all(other, one, other)


def test_who_wants_to_be_alone_is_kept_out(one: Engine):
    """Moving, restoring and the like need the folder for themselves."""
    with pytest.raises(InUse), hold(PlatformFolder(one.folder.root)):
        pass


async def test_state_tells_of_both(one: Engine, other: Engine):
    """Which process owns what, which does the periodic work, and which one answers."""
    await subscribed(one)
    await until(lambda: len(owned(one)) == len(owned(other)))
    state = await other._services().state.state()  # noqa: SLF001
    shown = {each["id"]: each for each in state["processes"]}
    assert shown.keys() == {one.membership.process_id, other.membership.process_id}
    assert [each["subscriptions"] for each in shown.values()] == [2, 2]
    assert shown[other.membership.process_id]["answers_this"]
    assert "parties" in shown[one.membership.process_id]["periodic_work"]


async def stored_call(engine: Engine, partner: int, **more: Any) -> StoredCall:
    """Store a call that was accepted, and waits for its result."""
    async with engine.database.transaction() as tx:
        await platforms.change_platform(tx, partner, state="connected")
        values = {
            "asked_here": True,
            "platform_id": partner,
            "sender": PARTY,
            "receiver": "NLEMS",
            "module": "locations",
            "operation": "unlock-connector",
            "asynchronous": True,
            "state": CallState.ACCEPTED,
            "callback_id": "a callback",
            "request_id": "a request",
            "correlation_id": "a correlation",
            "asked_at": engine.clock.now(),
            "deadline_at": engine.clock.now() + 3600.0,
            "payload": b"{}",
        }
        call_id = await calls.add(tx, **values | more)
        assert call_id is not None
        call = await calls.by_id(tx, call_id)
        assert call is not None
    await engine.directory.reload()
    return call


class Delivering:
    """Stands for a partner that takes results, slowly; counts how many come at once."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.at_once = 0
        self.most_at_once = 0
        self.may_answer = asyncio.Event()

    async def deliver(self, *_whom: object, **_ids: object) -> Delivered:
        """Take a result of a call."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.taken.append(cast("bytes", _whom[4]))
        try:
            await self.may_answer.wait()
        finally:
            self.at_once -= 1
        return Delivered(Delivery.DELIVERED)


async def test_a_result_that_one_takes_is_heard_of_by_who_waits_at_the_other(one: Engine, other: Engine):
    """The listener is shared, so a result comes to any process; whoever asked is told without looking again."""
    call = await stored_call(one, await new_partner(one))
    waiting = asyncio.create_task(one.asking.wait(call.id, within_s=WITHIN_S))
    found = await other.asking.find(call.platform_id, PartyId("NLEMS"), PARTY, "a callback")
    await other.asking.receive(found, b'{"result_type":"SUCCESS"}')
    await asyncio.wait_for(waiting, WITHIN_S / 2)
    assert (await one.calls.get(call.id)).call.state is CallState.SUCCEEDED


async def test_a_deadline_passes_once(one: Engine, other: Engine):
    """Whoever stored a call, one of them ends it when it is overdue, and one result is owed for it."""
    partner = await new_partner(one)
    await other.directory.reload()
    theirs = {"asked_here": False, "sender": "NLEMS", "receiver": PARTY, "digest": b""}
    call = await stored_call(other, partner, deadline_at=one.clock.now() + 0.2, **theirs)
    async with asyncio.timeout(WITHIN_S):
        while (await other.calls.get(call.id)).call.ended_at is None:
            await asyncio.sleep(0.02)
    ended = await one.calls.get(call.id)
    assert (ended.call.state, [r.result_type for r in ended.results]) == (CallState.TIMED_OUT, ["TIMEOUT"])


async def test_results_of_one_call_are_delivered_by_one_process_at_a_time(one: Engine, other: Engine):
    """Concluded here and there, they go out one after the other, also when the process that delivers ends."""
    partner = Delivering()
    for engine in (one, other):
        engine.callbacks.requests = cast("CallRequests", partner)
    theirs = {"asked_here": False, "sender": "NLEMS", "receiver": PARTY, "digest": b"", "operation": "reserve-now"}
    call = await stored_call(one, await new_partner(one), **theirs)
    await other.directory.reload()
    await one.calls.conclude(call.id, "SUCCESS")
    await other.calls.conclude(call.id, "FAILED", message="a storm")
    await until(lambda: partner.taken)
    await asyncio.sleep(LEASE_S)
    assert len(partner.taken) == 1
    await one.callbacks.stop()
    partner.may_answer.set()
    other.callbacks.look()
    async with asyncio.timeout(WITHIN_S):
        while [r.delivery for r in (await other.calls.get(call.id)).results] != [Delivery.DELIVERED] * 2:
            await asyncio.sleep(0.02)
    assert partner.most_at_once == 1
    assert partner.taken[-1] == b'{"result_type":"FAILED","payload":"a storm"}'
    assert set(partner.taken[:-1]) == {b'{"result_type":"SUCCESS"}'}
