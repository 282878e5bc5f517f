"""The push worker: one for each live subscription, run by the process that owns it.

::

    broker ──segments──▶ inbox ─┐
                                ├─▶ position ─▶ pointers ─▶ ready ─▶ lanes ─HTTPS─▶ subscriber
    log ─────────walk───────────┘                             ▲  (≤ parallelism)  │
    exceptions ──due, booked──────────────────────────────────┘                   │
         ▲                                                                        ▼
         └───────── failed, rejected ◀──── unfiled ◀──── delivered │ failed │ rejected │ 6002

What was read and what became of it is the ledger's business (``ledger.py``). An object that fails leaves it only once
its exception is stored, so a crash forgets nothing. Only this worker changes its subscription's progress; lanes report
to it.

P4 lives here. ``flights`` reserves an object from the moment that it is sent until its outcome is filed and the
request is no longer in progress; a lane is a slot, and holds it by R.03.02.17's letter: until the answer, or until
the receiver's time-out has passed, also when the connection broke.

When the subscription's epoch changes the worker forgets what it read, goes back to the watermark, and keeps its
flights. A success of an earlier life does not count.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec

from brokers.base import Broker, BrokerError, BrokerStopped, QueueGone
from engine import faults
from engine.clock import Clock
from engine.lifecycle import Background
from engine.peers.gate import Gate
from engine.protocol.objects import update_body
from engine.protocol.subscriptions import OutboundState, backoff_s
from engine.replication import segments
from engine.replication.ledger import Job, Key, Ledger, MakeJob
from engine.replication.outcome import Outcome, Result
from engine.settings import Replication
from engine.store import exceptions, objects, subscriptions
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.exceptions import ANY_VERSION, Waiting
from engine.store.membership import Membership
from engine.store.objects import Owed
from engine.store.subscriptions import Fenced, OutboundSubscription

_log = logging.getLogger(__name__)

INBOX_MAX: Final = 256  # segments waiting to be read; beyond that a walk is cheaper
TAKE_MAX: Final = 64  # segments taken from the broker at once
STORE_PAUSE_S: Final = 1.0  # between attempts to use a store or broker that is out of order
QUEUE_PAUSE_S: Final = 15.0  # without a queue the log is read this often, and the queue asked for again
QUIET_S: Final = 3600.0  # a worker with nothing to do looks around this often


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one request ended, as far as the network goes."""

    result: Result
    in_progress_until: float | None = None  # monotonic; None when it was answered, or never left


class Sender(Protocol):
    """Sends one update; never raises for what a peer or the network does."""

    async def send(self, platform_id: int, path: str, body: bytes) -> Attempt:
        """Make one attempt, within the receiver's time-out."""
        ...

    def timeout_s(self, platform_id: int) -> float:
        """Return the receiver's request time-out."""
        ...


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be filed of a job: a row to write, or, without one, the row that it settles."""

    job: Job
    entry: Waiting | None


@dataclass(frozen=True, slots=True)
class Filing:
    """The findings of one worker, to be stored in a shared commit, under its epoch."""

    subscription_id: int
    epoch: int
    findings: Sequence[Finding]


class Filer(Protocol):
    """Stores filings of many workers in shared commits; the result says whether the epoch still held."""

    def add(self, item: Filing) -> "asyncio.Future[bool]":
        """Queue a filing."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What the state endpoint shows of a worker."""

    in_flight: int
    last_error: str | None
    last_error_at: float | None
    last_delivered_at: float | None
    delivered: int
    failed: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all workers of a process share.

    ``path`` says where a subscription's updates are sent, ``membership`` whether this process may send at all.
    Who reads from the database holds ``reading``: there may be thousands of workers, and others read, too.
    """

    membership: Membership
    database: Database
    broker: Broker
    sender: Sender
    filer: Filer
    clock: Clock
    settings: Replication
    parallelism_max: int
    path: Callable[[OutboundSubscription], str]
    reading: asyncio.Semaphore


def queue_name(subscription: OutboundSubscription) -> str:
    """Name a subscription's queue; the life in it keeps a queue that was dropped from coming back."""
    return f"ocpi3.{subscription.id}.{subscription.life}"


class PushWorker:
    """Keeps one subscription's receiver up to date."""

    def __init__(
        self,
        subscription: OutboundSubscription,
        shared: Surroundings,
        *,
        gate: Gate,
        on_not_subscribed: Callable[[OutboundSubscription], None],
        on_taken_away: Callable[["PushWorker"], None],
    ) -> None:
        """Take over a subscription; nothing runs before ``start``.

        ``on_taken_away`` hears that another process owns it now: this worker has nothing more to begin.
        """
        self.subscription = subscription
        self.gate = gate
        self._shared = shared
        self._path = shared.path(subscription)
        self._on_not_subscribed = on_not_subscribed
        self._on_taken_away = on_taken_away
        self._taken_away = False

        self._ledger = Ledger(subscription.watermark)
        self._saved = subscription.watermark
        self._unfiled: list[Finding] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._booking = 0  # slots kept for retries that are being booked
        self._gated = False  # whether the gate will say when to go on
        self._rows = True  # whether there may be exception rows
        self._next_due_at = 0.0
        self._save_at = 0.0
        self._inbox: list[bytes] = []
        self._queue: str | None = None  # the queue that was made, while it is known to be there
        self._queue_made = asyncio.Event()
        self._reload = True
        self._stopping = False
        self._wake = asyncio.Event()
        self._confirmed_epoch = -1
        self._confirmations: list[tuple[int, asyncio.Future[None]]] = []
        self._driver = Background(f"push {subscription.id}", self._run)
        self._receiver = Background(f"segments {subscription.id}", self._receive)
        self._last_error: str | None = None
        self._last_error_at: float | None = None
        self._last_delivered_at: float | None = None
        self._delivered = self._failed = self._rejected = 0

    # -- what others call ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to push."""
        await self._receiver.start()
        await self._driver.start()

    async def stop(self, deadline_s: float) -> bool:
        """Send nothing more, wait for the answers, file them, save the watermark; say whether all was stored."""
        self._stopping = True
        self._wake.set()
        if self._lanes:
            await asyncio.wait(self._lanes, timeout=deadline_s)
        lingering = list(self._lanes)
        for lane in lingering:
            lane.cancel()
        await asyncio.gather(*lingering, return_exceptions=True)
        await self._receiver.stop()
        await self._driver.stop()
        self.gate.forget(self)
        try:
            if lingering:
                async with self._shared.database.transaction() as tx:
                    await subscriptions.hold(tx, self.subscription.id, self._now() + self._timeout_s())
            if self.live:
                await self._file()
                await self._save()
        except (Fenced, StoreUnavailable):
            return False
        return True

    async def hand_over(self, deadline_s: float) -> bool:
        """Stop, and leave the queue to whoever takes over; says whether all was stored."""
        stored = await self.stop(deadline_s)
        if self._queue is not None:
            with contextlib.suppress(BrokerError):
                await self._shared.broker.leave(self._queue)
        return stored

    async def drained(self) -> None:
        """Return once no request is in progress."""
        while self._lanes:
            await asyncio.wait(self._lanes)

    async def release(self) -> None:
        """End a worker whose subscription is over and whose requests are no longer in progress."""
        self._stopping = True
        await self.drained()
        await self._receiver.stop()
        await self._driver.stop()
        self.gate.forget(self)

    def changed(self) -> None:
        """Notice that the row or the exceptions changed."""
        self._reload = True
        self._wake.set()

    async def confirmed(self, epoch: int) -> None:
        """Return once the worker acts on this epoch or a later one."""
        if self._confirmed_epoch >= epoch:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._confirmations.append((epoch, future))
        self.changed()
        await future

    @property
    def live(self) -> bool:
        """Whether the subscription, as last read, is to be served, and by us."""
        return self.subscription.state == OutboundState.LIVE and not self._taken_away

    @property
    def backlogged(self) -> bool:
        """Whether something may be owed; False only when nothing is."""
        return self._ledger.behind or self._rows or self._ledger.outstanding > 0 or bool(self._inbox)

    @property
    def ledger(self) -> Ledger:
        """What was read and is not done, for counting what is owed."""
        return self._ledger

    def progress(self) -> Progress:
        """Say how far it is."""
        return Progress(
            len(self._lanes),
            self._last_error,
            self._last_error_at,
            self._last_delivered_at,
            self._delivered,
            self._failed,
            self._rejected,
        )

    def due_at(self) -> float:
        """When its next request was due, for the gate to let the earliest in first."""
        first = next(iter(self._ledger.ready.values()), None)
        times = [] if first is None else [first.since]
        return min([*times, self._next_due_at] if self._rows else times, default=self._now())

    def admitted(self) -> None:
        """Go on: the gate has a place again, and what is due for its backoff comes before what is new (B6)."""
        self._gated = False
        if not self._retry_due():
            self._pump()
        self._wake.set()

    # -- the driver ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                await self._turn()
            except Fenced:
                self.changed()
            except StoreUnavailable as error:
                self._note_error(f"the store is out of order: {error}")
                await asyncio.sleep(STORE_PAUSE_S)
                self.changed()
            await self._sleep()

    async def _turn(self) -> None:
        if self._reload:
            await self._read_row()
        if not self.live:
            self._abandon()
            return
        await self._file()
        self._digest()
        if self._retry_due() and not self._gated and self._free_slots() > 0:
            await self._retry()
        if len(self._ledger.ready) < self._window // 2:
            if self._ledger.pointers:
                await self._load()
            elif self._ledger.behind:
                await self._walk()
        if self._now() >= self._save_at or (not self.subscription.caught_up and self._at_end()):
            await self._save()
        self._pump()

    async def _sleep(self) -> None:
        """Wait until there is something to do, or the next thing is due."""
        if self._wake.is_set() or self._stopping:
            return
        delay = self._next_timer() - self._now()
        if delay <= 0:
            return
        timer = asyncio.get_running_loop().call_later(delay, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _next_timer(self) -> float:
        now = self._now()
        times = [now + QUIET_S]
        if self.live and self._shared.membership.holds:  # else somebody wakes us when the lease is back
            hold_until = self.subscription.hold_until
            slots = self._parallelism - len(self._lanes) - self._booking
            if slots > 0 and not self._gated and (self._rows or self._ledger.ready):
                due_at = now if self._ledger.ready and now < hold_until else self._next_due_at
                times.append(max(due_at, hold_until))
            if self._saved != self._ledger.watermark:
                times.append(self._save_at)
        return min(times)

    def _now(self) -> float:
        return self._shared.clock.now()

    @property
    def _window(self) -> int:
        return max(self._shared.settings.window_min, 2 * self._parallelism)

    @property
    def _parallelism(self) -> int:
        return min(self.subscription.parallelism_limit, self._shared.parallelism_max)

    def _at_end(self) -> bool:
        return self._ledger.watermark >= self.subscription.catch_up_to

    def _abandon(self) -> None:
        """Forget what was found out for a subscription that is over."""
        findings, self._unfiled = self._unfiled, []
        for finding in findings:
            finding.job.unfiled = False
            self._land(finding.job)

    async def _read_row(self) -> None:
        """Read the subscription again; a new epoch puts the position back to the watermark."""
        self._reload = False
        async with self._shared.reading, self._shared.database.reading() as tx:
            row = await subscriptions.outbound_by_id(tx, self.subscription.id)
        if row is None:
            row = replace(self.subscription, state=OutboundState.ENDED, epoch=self.subscription.epoch + 1)
        if row.owner != self._shared.membership.process_id and not self._taken_away:
            self._taken_away = True
            self._on_taken_away(self)
        self._rows, self._next_due_at = True, 0.0
        if row.epoch != self.subscription.epoch:
            self.subscription = row
            self._path = self._shared.path(row)
            self._saved = row.watermark
            self._ledger.begin_again(row.watermark)
        await self._follow_queue()
        self._confirmed_epoch = row.epoch
        waiting, self._confirmations = self._confirmations, []
        for epoch, future in waiting:
            if epoch > row.epoch:
                self._confirmations.append((epoch, future))
            elif not future.done():
                future.set_result(None)

    # -- reading ------------------------------------------------------------------------------------------

    async def _follow_queue(self) -> None:
        """Have the queue of the present life, and no other; what was put before it was made is walked."""
        wanted = queue_name(self.subscription) if self.live else None
        if self._queue == wanted:
            return
        if self._queue is not None:
            queue, self._queue = self._queue, None
            self._queue_made.clear()
            if self._taken_away:
                await self._shared.broker.leave(queue)
            else:
                await self._shared.broker.drop(queue)
        if wanted is None:
            return
        self._ledger.behind = True
        try:
            subscription = self.subscription
            await self._shared.broker.ensure(wanted, [subscription.module], names=[subscription.subscriber])
        except BrokerStopped:
            raise
        except BrokerError as error:
            self._note_error(f"no queue: {error}")
            asyncio.get_running_loop().call_later(QUEUE_PAUSE_S, self._lost)
            return
        self._queue = wanted
        self._queue_made.set()

    async def _receive(self) -> None:
        """Take segments as they come; too many unread ones are replaced by a walk."""
        while True:
            await self._queue_made.wait()
            queue = self._queue
            try:
                taken = await self._shared.broker.take(queue or "", limit=TAKE_MAX)
            except BrokerStopped:
                return
            except QueueGone:
                if self._queue == queue:  # vanished, not dropped by us: have it made again
                    self._queue = None
                    self._queue_made.clear()
                    self._lost()
            except BrokerError:
                self._lost()
                await asyncio.sleep(STORE_PAUSE_S)
            else:
                self._inbox.extend(taken.segments)
                if taken.interrupted or len(self._inbox) > INBOX_MAX:
                    self._lost()
                self._wake.set()

    def _lost(self) -> None:
        """Read the log instead of segments."""
        self._inbox.clear()
        self._ledger.behind = True
        self.changed()

    def _digest(self) -> None:
        """Go on along the log as far as the segments are contiguous."""
        inbox, self._inbox = self._inbox, []
        for data in inbox:
            try:
                subscription = self.subscription
                self._ledger.follow(segments.decode(data), subscription.producer, subscription.subscriber)
            except msgspec.MsgspecError:
                self._ledger.behind = True

    async def _walk(self) -> None:
        """Read the next page of the log from the position: snapshot, resync and catch-up alike."""
        subscription, generation, limit = self.subscription, self._ledger.generation, self._window
        after, with_rows = self._ledger.position, self._rows

        async def read(tx: Tx) -> tuple[list[Owed], int, dict[Key, Waiting]]:
            page = await objects.walk(tx, subscription.module, subscription.view, after=after, limit=limit)
            end = page[-1].seq if len(page) == limit else await objects.last_number(tx, subscription.module)
            keys = [(owed.issuer, owed.key) for owed in page] if with_rows else []
            return page, end, await exceptions.by_keys(tx, subscription.id, keys)

        async with self._shared.reading:
            page, end, rows = await self._shared.database.read(read)
        if generation != self._ledger.generation:
            return
        self._ledger.page(page, end=end, more=len(page) == limit, make=self._maker(rows))
        if self._ledger.behind:
            self._wake.set()
        faults.passing("push.read")

    async def _load(self) -> None:
        """Read the objects that pointers point to, as they are now."""
        subscription, generation = self.subscription, self._ledger.generation
        keys, with_rows = self._ledger.take_pointers(self._window), self._rows

        async def read(tx: Tx) -> tuple[list[Owed], dict[Key, Waiting]]:
            found = await objects.newest(tx, subscription.module, subscription.view, keys=keys)
            return found, await exceptions.by_keys(tx, subscription.id, keys if with_rows else [])

        try:
            async with self._shared.reading:
                found, rows = await self._shared.database.read(read)
        except BaseException:
            self._ledger.not_loaded(generation)
            raise
        if generation != self._ledger.generation:
            self._ledger.not_loaded(generation)
            return
        self._ledger.loaded(found, self._maker(rows))
        if self._ledger.pointers:
            self._wake.set()
        faults.passing("push.read")

    def _maker(self, rows: dict[Key, Waiting]) -> MakeJob:
        """Make first attempts of what was read, but for versions that wait or were refused already."""
        subscription, generation, now = self.subscription, self._ledger.generation, self._now()

        def make(owed: Owed, seqs: list[int]) -> Job | None:
            row = rows.get((owed.issuer, owed.key))
            if row is not None and row.version == owed.version and (row.rejected or row.attempts):
                return None
            return Job(
                owed,
                attempts=int(owed.seq <= subscription.attempted_to),
                first_failed_at=None if row is None else row.first_failed_at,
                revision=None if row is None else row.revision,
                since=now,
                generation=generation,
                life=subscription.life,
                seqs=seqs,
            )

        return make

    # -- retrying -----------------------------------------------------------------------------------------

    async def _retry(self) -> None:
        """Send what waited for its backoff and is due: as many as there are free slots, each booked first."""
        subscription, now = self.subscription, self._now()
        slots = self._free_slots()
        async with self._shared.reading, self._shared.database.reading() as tx:
            known = self._ledger.busy
            upcoming = await exceptions.due(tx, subscription.id, limit=slots + known + 1)
            self._rows = bool(upcoming) or await exceptions.any_rows(tx, subscription.id)
        waiting = [row for row in upcoming if not self._ledger.underway((row.issuer, row.key))]
        ripe = [row for row in waiting if row.due_at <= now][:slots]
        later = [row.due_at for row in waiting if row.due_at > now]
        places = 0
        while places < len(ripe) and self._enter_gate():
            places += 1
        # With nothing further in view, whatever is in flight looks here again when it lands.
        more = places < len(ripe) or len(ripe) == slots
        self._next_due_at = 0.0 if more else min(later, default=now + QUIET_S)
        self._booking += places
        jobs: list[Job] = []
        try:
            if places:
                jobs = await self._book(ripe[:places], now)
        finally:
            self._booking -= places
            if jobs and jobs[0].generation != self._ledger.generation:
                jobs = []
            for job in jobs:
                self._launch(job)
            for _ in range(places - len(jobs)):
                self._leave_gate(up=None, began=0.0)

    async def _book(self, ripe: Sequence[Waiting], now: float) -> list[Job]:
        """Count the attempts before they are made, so that a crash does not forget them."""
        subscription, generation = self.subscription, self._ledger.generation
        keys = [(row.issuer, row.key) for row in ripe]
        jobs: list[Job] = []
        bookings: list[Waiting] = []
        async with self._shared.database.transaction() as tx:
            await subscriptions.hold_fence(tx, subscription.id, subscription.epoch)
            found = await objects.newest(tx, subscription.module, subscription.view, keys=keys)
            newest = {(owed.issuer, owed.key): owed for owed in found}
            for row in ripe:
                owed = newest.get((row.issuer, row.key))
                attempts = row.attempts if owed is None or row.version in (owed.version, ANY_VERSION) else 0
                if owed is not None and owed.seq <= subscription.attempted_to:
                    attempts = max(attempts, 1)  # a run that ended without a word may have sent it
                due_at = now + self._timeout_s() + backoff_s(attempts + 1, subscription.retry_interval_s)
                due_at += self._shared.settings.booking_margin_s
                version = row.version if owed is None else owed.version
                bookings.append(replace(row, version=version, attempts=attempts + 1, due_at=due_at))
                if owed is not None:
                    job = Job(
                        owed, attempts, row.first_failed_at, row.revision + 1, row.due_at, generation, subscription.life
                    )
                    job.booked_at = now
                    jobs.append(job)
            await exceptions.put(tx, subscription.id, bookings)
        faults.passing("push.booked")
        return jobs

    # -- sending ------------------------------------------------------------------------------------------

    def _retry_due(self) -> bool:
        """Say whether something that waits for its backoff may be due; it comes before what is new."""
        return self._rows and self._now() >= self._next_due_at

    def _free_slots(self) -> int:
        """Slots in which something may be sent now."""
        return self._parallelism - len(self._lanes) - self._booking if self._sending() else 0

    def _enter_gate(self) -> bool:
        now = asyncio.get_running_loop().time()
        if self.gate.enter(now):
            return True
        self._gated = True
        self.gate.wait(self, now)
        return False

    def _leave_gate(self, *, up: bool | None, began: float) -> None:
        self.gate.leave(began=began, up=up, now=asyncio.get_running_loop().time())

    def _pump(self) -> None:
        """Start lanes for what is ready, as far as slots and gate allow."""
        while self._ledger.ready and self._free_slots() > 0 and self._enter_gate():
            self._launch()

    def _launch(self, job: Job | None = None) -> None:
        """Begin a lane in a free slot, with a place at the gate already taken."""
        lane = asyncio.create_task(self._lane(self._ledger.launch(job)))
        self._lanes.add(lane)
        lane.add_done_callback(self._lane_ended)

    def _lane_ended(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        self._wake.set()

    async def _lane(self, job: Job) -> None:
        """Send one object after the other as long as there are ready ones: no task for each request."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            up: bool | None = None
            try:
                up = await self._attempt(job)
            finally:
                job.in_progress = False
                self._land(job)
                self._leave_gate(up=up, began=began)
            if len(self._ledger.ready) <= self._window // 2 or self._unfiled:
                self._wake.set()
            if not self._goes_on() or not self._enter_gate():
                return
            job = self._ledger.launch()

    def _goes_on(self) -> bool:
        """Say whether a lane may take the next ready object; its own slot counts as taken already."""
        if not self._ledger.ready or not self._sending() or len(self._lanes) + self._booking > self._parallelism:
            return False
        return not self._retry_due()

    def _sending(self) -> bool:
        if self._stopping or self._reload or not self.live or not self._shared.membership.holds:
            return False
        return self._now() >= self.subscription.hold_until

    async def _attempt(self, job: Job) -> bool | None:
        """Send one object and note what came of it; returns whether the platform seems to be up."""
        sent_at = self._now()
        if job.booked_at is not None and sent_at - job.booked_at > self._shared.settings.booking_margin_s:
            return None  # too late for its booking: it is due again by the booking's own date
        faults.passing("push.sending")
        owed = job.owed
        body = update_body(owed.issuer, owed.object_id, owed.version, owed.payload)
        try:
            attempt = await self._shared.sender.send(self.subscription.platform_id, self._path, body)
        except asyncio.CancelledError:
            until = asyncio.get_running_loop().time() + self._timeout_s()
            self._failure(job, Result(Outcome.FAILED, "this platform stopped before the answer came"), until)
            raise
        except Exception as error:  # noqa: BLE001 - a failed attempt like any other, and never a stuck slot
            _log.exception("a request failed in a way that nobody thought of", extra={"action": "push_failed"})
            until = asyncio.get_running_loop().time() + self._timeout_s()
            attempt = Attempt(Result(Outcome.FAILED, f"internal error: {type(error).__name__}"), until)
        faults.passing("push.answered")
        self._conclude(job, attempt, sent_at)
        if attempt.in_progress_until is not None:
            # Unanswered: by R.03.02.17 the request keeps its slot until the receiver's time-out.
            self._wake.set()
            await asyncio.sleep(max(0.0, attempt.in_progress_until - asyncio.get_running_loop().time()))
        return attempt.result.platform_up

    def _conclude(self, job: Job, attempt: Attempt, sent_at: float) -> None:
        """Turn the outcome into what is to be filed; a plain success needs nothing filed."""
        job.concluded = True
        result = attempt.result
        if result.outcome is Outcome.DELIVERED:
            self._last_delivered_at = self._now()
            self._delivered += 1
            if job.life != self.subscription.life:
                return  # a success of an earlier life does not count
            if job.revision is None:
                self._ledger.done(job)
            else:
                self._find(job, None)
        elif result.outcome is Outcome.NOT_SUBSCRIBED and self._receiver_ended(job, sent_at):
            self._on_not_subscribed(self.subscription)
        else:
            self._failure(job, result, attempt.in_progress_until)

    def _failure(self, job: Job, result: Result, in_progress_until: float | None) -> None:
        job.concluded = True
        now = self._now()
        rejected = result.outcome is Outcome.REJECTED
        self._rejected += rejected
        self._failed += not rejected
        self._note_error(result.reason)
        attempts = job.attempts + 1
        due_at = now + backoff_s(attempts, self.subscription.retry_interval_s)
        if in_progress_until is not None:
            due_at = max(due_at, now + in_progress_until - asyncio.get_running_loop().time())
        owed = job.owed
        entry = Waiting(
            owed.issuer,
            owed.key,
            owed.object_id,
            owed.version,
            attempts,
            due_at,
            job.first_failed_at or now,
            result.reason,
            int(now),
            rejected=rejected,
        )
        self._find(job, entry)

    def _receiver_ended(self, job: Job, sent_at: float) -> bool:
        """Take a 6002 as the end of this life only (B4, B28)."""
        return job.life == self.subscription.life and sent_at > self.subscription.began_at + self._timeout_s()

    def _timeout_s(self) -> float:
        return self._shared.sender.timeout_s(self.subscription.platform_id)

    def _note_error(self, reason: str) -> None:
        self._last_error = reason
        self._last_error_at = self._now()

    def _find(self, job: Job, entry: Waiting | None) -> None:
        job.unfiled = True
        self._unfiled.append(Finding(job, entry))

    def _land(self, job: Job) -> None:
        """Release an object whose outcome is filed and whose request is over; what changed meanwhile is read now."""
        if not self._ledger.land(job, life=self.subscription.life):
            return
        if self._rows:
            self._next_due_at = 0.0  # its row, if it has one, may be due by now
        if self._ledger.pointers:
            self._wake.set()

    # -- filing -------------------------------------------------------------------------------------------

    async def _file(self) -> None:
        """Store what failed, was refused, or settles a row; only then is it no longer outstanding.

        Raises ``Fenced`` when the subscription changed meanwhile: what was found is filed again under the new
        epoch, but for rows that a success of an earlier life would settle.
        """
        findings, self._unfiled = self._unfiled, []
        if not findings:
            return
        current = [finding for finding in findings if finding.entry or finding.job.life == self.subscription.life]
        try:
            held = await self._shared.filer.add(Filing(self.subscription.id, self.subscription.epoch, current))
        except BaseException:
            self._unfiled = findings + self._unfiled
            raise
        if not held:
            self._unfiled = findings + self._unfiled
            raise Fenced
        faults.passing("push.filed")
        self._rows, self._next_due_at = True, 0.0
        for finding in findings:
            self._ledger.done(finding.job)
            finding.job.unfiled = False
            self._land(finding.job)

    async def _save(self) -> None:
        """Store how far it is; a crash repeats what was delivered after that."""
        self._save_at = self._now() + self._shared.settings.watermark_save_s
        watermark = self._ledger.watermark
        values: dict[str, object] = {}
        if watermark != self._saved:
            values["watermark"] = watermark
        if not self.subscription.caught_up and self._at_end():
            values["caught_up"] = True
        if not values:
            return
        subscription = self.subscription
        await self._shared.database.write(
            lambda tx: subscriptions.save_progress(tx, subscription.id, subscription.epoch, **values)
        )
        faults.passing("watermark.saved")
        self._saved = watermark
        if "caught_up" in values:
            self.subscription = replace(self.subscription, caught_up=True)
