"""The push workers of this process: which subscriptions it owns, and what their workers share.

Owning a subscription means that its row names this process and that the epoch was read after that. A process
that ended without a word may have left requests under way, so after an unclean end nothing is sent before the
receiver's time-out has passed, and what is owed counts one attempt (R.03.02.17, R.03.03.01).
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from brokers.base import Broker
from engine.clock import Clock
from engine.lifecycle import Background
from engine.peers.objects import Answered, ObjectRequests
from engine.protocol.addressing import party_path
from engine.protocol.ids import PartyId
from engine.protocol.subscriptions import OutboundState
from engine.replication.batches import Batches
from engine.replication.gate import Gate
from engine.replication.ledger import Key
from engine.replication.outcome import Outcome, Result, of_answer
from engine.replication.push import Attempt, Filing, PushWorker, Surroundings
from engine.settings import Replication
from engine.store import exceptions, objects, processes, subscriptions
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.subscriptions import Fenced, OutboundSubscription

_log = logging.getLogger(__name__)

FILE_BATCH_MAX: Final = 64  # workers whose findings share a commit


@dataclass(frozen=True, slots=True)
class Debt:
    """What a subscription owes: how many objects, and since when the oldest of them waits."""

    queue_size: int
    oldest_since: float | None
    waiting: int  # of these, for their backoff
    rejected: int  # not owed: refused with 6001
    next_attempt_at: float | None


class _Sending:
    """Reads an answer as an outcome."""

    def __init__(self, requests: ObjectRequests) -> None:
        self._requests = requests

    def timeout_s(self, platform_id: int) -> float:
        """Return the receiver's request time-out."""
        return self._requests.timeout_s(platform_id)

    async def send(self, platform_id: int, path: str, body: bytes) -> Attempt:
        """Make one attempt."""
        answer = await self._requests.update(platform_id, path, body)
        if isinstance(answer, Answered):
            return Attempt(of_answer(answer.http_status, answer.body))
        result = Result(Outcome.FAILED, answer.reason, platform_up=answer.platform_up)
        return Attempt(result, answer.in_progress_until)


class Workers:
    """Starts, wakes and stops push workers."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        requests: ObjectRequests,
        clock: Clock,
        settings: Replication,
        *,
        parallelism_max: int,
    ) -> None:
        """Use these; nothing runs before ``start``."""
        self.process_id = str(uuid.uuid4())
        self.on_not_subscribed: Callable[[OutboundSubscription], Awaitable[None]] | None = None
        self._database = database
        self._clock = clock
        self._settings = settings
        self._filer: Batches[Filing, bool] = Batches("file outcomes", self._file, FILE_BATCH_MAX)
        self._sender = _Sending(requests)
        self._shared = Surroundings(
            database, broker, self._sender, self._filer, clock, settings, parallelism_max, _update_path
        )
        self._workers: dict[int, PushWorker] = {}
        self._gates: dict[int, Gate] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._leasing = Background("lease", self._keep_lease, expected=(StoreUnavailable,))

    async def start(self) -> None:
        """Take over all subscriptions, waiting out what an unclean end may have left under way."""
        async with self._database.transaction() as tx:
            unclean = bool(await processes.left_over(tx))
            await processes.enter(tx, self.process_id, now=self._clock.now(), lease_s=self._settings.lease_s)
            rows = await subscriptions.all_outbound(tx)
            for row in rows:
                await self._take_over(tx, row, unclean=unclean)
        if unclean:
            _log.warning(
                "the last run did not end cleanly: nothing is sent before the receivers' time-outs have passed",
                extra={"action": "unclean_end"},
            )
        await self._filer.start()
        await self._leasing.start()
        for row in rows:
            if row.state == OutboundState.LIVE:
                await self.began(row.id)

    async def _take_over(self, tx: Tx, row: OutboundSubscription, *, unclean: bool) -> None:
        values: dict[str, object] = {"owner": self.process_id}
        if unclean:
            wait_s = self._sender.timeout_s(row.platform_id)
            if row.state == OutboundState.LIVE:
                wait_s = max(wait_s, row.retry_interval_s)
                values["attempted_to"] = await objects.last_number(tx, row.module)
            values["hold_until"] = self._clock.now() + wait_s
        await subscriptions.change_outbound(tx, row, **values)

    async def stop(self) -> None:
        """Stop sending, wait for answers, store all progress, and say that this was a clean end."""
        deadline_s = self._settings.stop_deadline_s
        stopped = await asyncio.gather(*(worker.stop(deadline_s) for worker in self._workers.values()))
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._leasing.stop()
        await self._filer.stop()
        if not all(stopped):
            return
        try:
            async with self._database.transaction() as tx:
                await processes.leave(tx, self.process_id)
        except StoreUnavailable:
            _log.warning("the end of this run could not be stored", extra={"action": "unclean_end"})

    # -- subscriptions come, change and go ----------------------------------------------------------------

    async def began(self, subscription_id: int) -> None:
        """Serve a subscription from now on, or go on with its new life."""
        worker = self._workers.get(subscription_id)
        if worker is not None:
            worker.changed()
            return
        async with self._database.reading() as tx:
            row = await subscriptions.outbound_by_id(tx, subscription_id)
        if row is None or subscription_id in self._workers:
            return
        worker = PushWorker(row, self._shared, gate=self.gate(row.platform_id), on_not_subscribed=self._not_subscribed)
        self._workers[subscription_id] = worker
        await worker.start()

    def changed(self, subscription_id: int) -> None:
        """Let a worker look at its row and its exceptions again."""
        worker = self._workers.get(subscription_id)
        if worker is not None:
            worker.changed()

    async def quiesce(self, subscription_id: int, epoch: int) -> None:
        """Return once nothing more is begun for a subscription that ended; its worker goes when it is idle."""
        worker = self._workers.get(subscription_id)
        if worker is None:
            return
        await worker.confirmed(epoch)
        task = asyncio.create_task(self._release(subscription_id, worker))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _release(self, subscription_id: int, worker: PushWorker) -> None:
        """Remove a worker after its last request, unless a new life began meanwhile."""
        await worker.drained()
        if not worker.live and self._workers.get(subscription_id) is worker:
            del self._workers[subscription_id]
            await worker.release()
            async with self._database.reading() as tx:
                row = await subscriptions.outbound_by_id(tx, subscription_id)
            if row is not None and row.state == OutboundState.LIVE:
                await self.began(subscription_id)

    def _not_subscribed(self, subscription: OutboundSubscription) -> None:
        if self.on_not_subscribed is None:
            return
        task = asyncio.ensure_future(self.on_not_subscribed(subscription))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def gate(self, platform_id: int) -> Gate:
        """Return the gate of a platform."""
        if platform_id not in self._gates:
            self._gates[platform_id] = Gate(
                down_after_failures=self._settings.down_after_failures, pause_max_s=self._settings.probe_pause_max_s
            )
        return self._gates[platform_id]

    # -- what is owed -------------------------------------------------------------------------------------

    def worker(self, subscription_id: int) -> PushWorker | None:
        """Return a subscription's worker, if there is one here."""
        return self._workers.get(subscription_id)

    async def debt(self, row: OutboundSubscription) -> Debt:
        """Count the objects owed, each once: unread ones, ones being sent, and ones that wait.

        What the worker knows is taken first and the store is read after that: an object that is filed in between
        is then seen twice, and counted once, while the other way round it would be in neither.
        """
        worker = self._workers.get(row.id)
        if worker is not None and worker.subscription.epoch < row.epoch:
            worker = None  # it has yet to notice the change, and will go back to the watermark then
        position = row.watermark if worker is None else worker.ledger.position
        reserved: set[Key] = set() if worker is None else worker.ledger.reserved()
        oldest_read = None if worker is None else worker.ledger.oldest_since()
        async with self._database.reading() as tx:
            unread, oldest = await objects.count_after(
                tx, row.module, producer=row.producer, subscriber=row.subscriber, after=position
            )
            tally = await exceptions.tally(tx, row.id, log=row.module, position=position)
            if reserved and unread:
                reserved -= await objects.changed_after(tx, row.module, reserved, after=position)
            if reserved and tally.waiting:
                rows = await exceptions.by_keys(tx, row.id, reserved)
                reserved -= {key for key, waiting in rows.items() if not waiting.rejected}
        ages = [age for age in (oldest, tally.first_failed_at, oldest_read) if age is not None]
        return Debt(
            unread + len(reserved) + tally.waiting,
            min(ages, default=None),
            tally.waiting,
            tally.rejected,
            tally.next_due_at,
        )

    # -- shared commits and the lease ---------------------------------------------------------------------

    async def _file(self, filings: Sequence[Filing]) -> list[bool]:
        """Store the findings of several workers; one that was fenced off stops nobody else's."""
        return await self._database.write(lambda tx: _file(tx, filings))

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 3)
            async with self._database.transaction() as tx:
                until = self._clock.now() + self._settings.lease_s
                await processes.renew(tx, self.process_id, lease_until=until)


async def _file(tx: Tx, filings: Sequence[Filing]) -> list[bool]:
    results = [False] * len(filings)
    for place, filing in sorted(enumerate(filings), key=lambda numbered: numbered[1].subscription_id):
        try:
            await subscriptions.hold_fence(tx, filing.subscription_id, filing.epoch)
        except Fenced:
            continue
        entries = [finding.entry for finding in filing.findings if finding.entry is not None]
        settled = [
            (finding.job.owed.issuer, finding.job.owed.key, finding.job.revision)
            for finding in filing.findings
            if finding.entry is None and finding.job.revision is not None
        ]
        await exceptions.put(tx, filing.subscription_id, entries)
        await exceptions.settle(tx, filing.subscription_id, settled)
        results[place] = True
    return results


def _update_path(row: OutboundSubscription) -> str:
    """Build R.03.02.03 to R.03.02.06's path."""
    return party_path(PartyId(row.producer), PartyId(row.subscriber), row.module_alias, "update")
