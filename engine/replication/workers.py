"""The push workers of this process: which subscriptions it owns, and what their workers share.

Owning a subscription means that its row names this process and that the epoch was read after that. What nobody owns,
because it was handed over or because the lease of its owner ran out, is taken by those that own less than their
share. A process that ended without a word may have left requests under way, so after an unclean end nothing is sent
before the receiver's time-out has passed, and what is owed counts one attempt (R.03.02.17, R.03.03.01).
"""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from brokers.base import Broker
from engine.clock import Clock, Jumps
from engine.lifecycle import Background
from engine.peers.gate import Gate
from engine.peers.objects import Answered, ObjectRequests
from engine.protocol.addressing import party_path
from engine.protocol.ids import PartyId
from engine.protocol.subscriptions import OutboundState
from engine.replication.batches import Batches
from engine.replication.ledger import Key
from engine.replication.outcome import Outcome, Result, of_answer
from engine.replication.push import Attempt, Filing, PushWorker, Surroundings
from engine.settings import Replication
from engine.store import exceptions, objects, processes, subscriptions
from engine.store.database import READERS_MAX, Database, StoreUnavailable, Tx
from engine.store.membership import Membership
from engine.store.subscriptions import Fenced, OutboundSubscription

_log = logging.getLogger(__name__)

READING_MAX: Final = READERS_MAX - 1  # workers at a time: at a start there are thousands, and others have to read, too
FILE_BATCH_MAX: Final = 64  # workers whose findings share a commit
ADOPT_AT_ONCE: Final = 200  # subscriptions taken over in one transaction, which holds their rows
HAND_OVER_AT_ONCE: Final = 64  # of those beyond our share: each waits for its answers, and pauses meanwhile
CONFIRMED_LOOK_S: Final = 0.05  # between looks whether another process has confirmed an end: somebody waits


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
        *,
        database: Database,
        broker: Broker,
        requests: ObjectRequests,
        membership: Membership,
        clock: Clock,
        settings: Replication,
        parallelism_max: int,
    ) -> None:
        """Use these; nothing runs before ``start``."""
        self.on_not_subscribed: Callable[[OutboundSubscription], Coroutine[Any, Any, None]] | None = None
        self.jumps = Jumps(clock)
        self._membership = membership
        self._database = database
        self._clock = clock
        self._settings = settings
        self._filer: Batches[Filing, bool] = Batches("file outcomes", self._file, FILE_BATCH_MAX)
        self._sender = _Sending(requests)
        self._shared = Surroundings(
            membership,
            database,
            broker,
            self._sender,
            self._filer,
            clock,
            settings,
            parallelism_max,
            _update_path,
            asyncio.Semaphore(READING_MAX),
        )
        self._workers: dict[int, PushWorker] = {}
        self._gates: dict[int, Gate] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._balance = asyncio.Event()
        self._balancing = Background("balance", self._keep_balancing, expected=(StoreUnavailable, Fenced))

    async def start(self) -> None:
        """Take over what nobody pushes, waiting out what an unclean end may have left under way."""
        self._membership.on_lapsed.append(self._look_anew)
        self._membership.on_beat.append(self._balance.set)
        await self._filer.start()
        await self._even_out()
        await self._balancing.start()

    async def stop(self) -> None:
        """Stop sending, wait for answers, store all progress; what is not stored makes this an unclean end."""
        await self._balancing.stop()
        deadline_s = self._settings.stop_deadline_s
        stopped = await asyncio.gather(*(worker.stop(deadline_s) for worker in self._workers.values()))
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._filer.stop()
        if not all(stopped):
            self._membership.unclean()

    # -- which subscriptions are ours ---------------------------------------------------------------------

    async def _keep_balancing(self) -> None:
        while True:
            await self._balance.wait()
            self._balance.clear()
            self._watch_clock()
            if not self._membership.alone:
                await self._even_out()

    def _watch_clock(self) -> None:
        """Say that the clock was set, and have all due times looked at by the new one."""
        jump = self.jumps.look()
        if jump is None:
            return
        _log.error(
            "the clock of this machine was set by %+.1f s: what waits for its backoff is due by the new time",
            jump.by_s,
            extra={"action": "clock_jumped"},
        )
        self._look_anew()

    async def _even_out(self) -> None:
        """Take what nobody pushes up to this process's share, or hand over what is beyond it."""
        me = self._membership.process_id
        async with self._database.reading() as tx:
            running = await processes.ids(tx) | {me}
            counts = await subscriptions.count_by_owner(tx)
        live = {owner: count for (owner, is_live), count in counts.items() if is_live}
        share = math.ceil(sum(live.values()) / len(running))
        mine = live.get(me, 0)
        orphans = sum(count for owner, count in live.items() if owner not in running)
        if orphans and mine < share:
            await self._adopt(share - mine)
        elif mine > share:
            await self._hand_over(mine - share)
        if any(owner is not None and owner not in running for owner, is_live in counts if not is_live):
            await self._settle_ended()
        if mine != len(self._workers):
            await self._compare()

    async def _adopt(self, limit: int) -> None:
        """Take over what nobody pushes, in bites that hold no lock for long."""
        unclean = 0
        while limit > 0:
            async with self._database.transaction() as tx:
                rows = await subscriptions.orphans(tx, live=True, limit=min(limit, ADOPT_AT_ONCE))
                ends = {module: await objects.last_number(tx, module) for module in {row.module for row in rows}}
                taken = [await self._take(tx, row, ends[row.module]) for row in rows]
            if not taken:
                break
            limit -= len(taken)
            unclean += sum(row.owner is not None for row in rows)
            for row in taken:
                await self._begin(row)
        if unclean:
            _log.warning(
                "%s subscriptions of a process that did not end cleanly: nothing is sent before the receivers'"
                " time-outs have passed",
                unclean,
                extra={"action": "unclean_end"},
            )

    async def _take(self, tx: Tx, row: OutboundSubscription, end: int) -> OutboundSubscription:
        values = {"owner": self._membership.process_id} | self._after_unclean_end(row, end)
        await subscriptions.change_outbound(tx, row, **values)
        return replace(row, epoch=row.epoch + 1, **values)

    def _after_unclean_end(self, row: OutboundSubscription, end: int) -> dict[str, Any]:
        """Say what has to change because requests of the last owner may be in progress; nothing if there was none.

        ``end`` is that of the log.
        """
        if row.owner is None:
            return {}
        wait_s = self._sender.timeout_s(row.platform_id)
        values: dict[str, Any] = {}
        if row.state == OutboundState.LIVE:
            wait_s = max(wait_s, row.retry_interval_s)
            values["attempted_to"] = end
        return values | {"hold_until": self._clock.now() + wait_s}

    async def _settle_ended(self) -> None:
        """Wait out what a process that is gone may have under way for subscriptions that ended."""
        async with self._database.transaction() as tx:
            for row in await subscriptions.orphans(tx, live=False, limit=ADOPT_AT_ONCE):
                values = {"owner": None} | self._after_unclean_end(row, 0)
                await subscriptions.change_outbound(tx, row, **values)

    async def owner_for(self, tx: Tx, row: OutboundSubscription | None, *, end: int) -> dict[str, Any]:
        """Say who pushes a subscription that begins: who did so before, since requests may be in progress, or we.

        ``end`` is that of the log.
        """
        ours = {"owner": self._membership.process_id}
        if row is None:
            return ours
        if row.owner is not None and await processes.is_running(tx, row.owner):
            return {"owner": row.owner}
        return ours | self._after_unclean_end(replace(row, state=OutboundState.LIVE.value), end)

    async def _hand_over(self, count: int) -> None:
        """Let go of what is beyond our share, those first that have nothing to do."""
        owned = [worker for worker in self._workers.values() if worker.live]
        owned.sort(key=lambda worker: (worker.backlogged, worker.progress().in_flight))
        chosen = owned[: min(count, HAND_OVER_AT_ONCE)]
        await asyncio.gather(*(self._give_up(worker) for worker in chosen))

    async def _give_up(self, worker: PushWorker) -> None:
        stored = await worker.hand_over(self._settings.stop_deadline_s)
        if stored:
            try:
                async with self._database.transaction() as tx:
                    await subscriptions.change_outbound(tx, worker.subscription, owner=None)
            except (Fenced, StoreUnavailable) as error:  # it stays ours, and is begun again
                _log.info("a subscription was not handed over: %s", error, extra={"action": "not_handed_over"})
        if self._workers.get(worker.subscription.id) is worker:
            del self._workers[worker.subscription.id]
        self._balance.set()

    async def _compare(self) -> None:
        """Begin what is ours and has no worker; let workers find out that they are no longer ours."""
        async with self._database.reading() as tx:
            rows = {row.id: row for row in await subscriptions.owned_by(tx, self._membership.process_id)}
        for subscription_id, worker in list(self._workers.items()):
            if subscription_id not in rows:
                worker.changed()
        for row in rows.values():
            await self._begin(row)

    def _look_anew(self) -> None:
        """Read every row before anything is sent: others may have taken it over."""
        for worker in self._workers.values():
            worker.changed()

    async def changed_elsewhere(self, subscription_ids: frozenset[int]) -> None:
        """Take in what another process changed; without ids, whatever it may have been."""
        if not subscription_ids:
            self._look_anew()
            self._balance.set()
            return
        async with self._database.reading() as tx:
            rows = await subscriptions.outbound_by_ids(tx, subscription_ids)
        for row in rows:
            worker = self._workers.get(row.id)
            if worker is not None and row.state != OutboundState.LIVE:
                self._in_background(self._end_for_another(worker, row.epoch))
            elif worker is not None:
                worker.changed()
            elif row.owner == self._membership.process_id:
                await self._begin(row)
            elif row.owner is None:
                self._balance.set()

    async def _end_for_another(self, worker: PushWorker, epoch: int) -> None:
        """Tell the process that ended a subscription of ours when nothing more is begun."""
        await worker.confirmed(epoch)
        async with self._database.transaction() as tx:
            await subscriptions.confirm(tx, worker.subscription.id, epoch)
        await self._release(worker.subscription.id, worker)

    # -- subscriptions come, change and go ----------------------------------------------------------------

    async def began(self, subscription_id: int) -> None:
        """Serve a subscription from now on, or go on with its new life, if it is ours."""
        worker = self._workers.get(subscription_id)
        if worker is not None:
            worker.changed()
            return
        async with self._database.reading() as tx:
            row = await subscriptions.outbound_by_id(tx, subscription_id)
        if row is not None:
            await self._begin(row)

    async def _begin(self, row: OutboundSubscription) -> None:
        if row.id in self._workers or row.owner != self._membership.process_id or row.state != OutboundState.LIVE:
            return
        worker = PushWorker(
            row,
            self._shared,
            gate=self.gate(row.platform_id),
            on_not_subscribed=self._not_subscribed,
            on_taken_away=lambda worker: self._in_background(self._release(worker.subscription.id, worker)),
        )
        self._workers[row.id] = worker
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
            await self._confirmed_elsewhere(subscription_id, epoch)
            return
        await worker.confirmed(epoch)
        self._in_background(self._release(subscription_id, worker))

    async def _confirmed_elsewhere(self, subscription_id: int, epoch: int) -> None:
        """Wait until the process that pushes has confirmed the end, or its lease has run out."""
        while not self._membership.alone:
            async with self._database.reading() as tx:
                row = await subscriptions.outbound_by_id(tx, subscription_id)
                if row is None or row.epoch > epoch or row.confirmed_epoch >= epoch:
                    return
                if row.owner in (None, self._membership.process_id) or not await processes.is_running(tx, row.owner):
                    return
            await asyncio.sleep(CONFIRMED_LOOK_S)

    async def _release(self, subscription_id: int, worker: PushWorker) -> None:
        """Remove a worker after its last request, unless a new life began meanwhile."""
        await worker.drained()
        if not worker.live and self._workers.get(subscription_id) is worker:
            del self._workers[subscription_id]
            await worker.release()
            await self.began(subscription_id)

    def _not_subscribed(self, subscription: OutboundSubscription) -> None:
        if self.on_not_subscribed is not None:
            self._in_background(self.on_not_subscribed(subscription))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _logged(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except StoreUnavailable as error:  # the next look finds what is left to do
            _log.warning("the store is out of order: %s", error, extra={"action": "store_unavailable"})

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

    def behind(self) -> list[OutboundSubscription]:
        """List subscriptions that we push, whose first catch-up is done, and which may owe something all the same."""
        return [
            worker.subscription
            for worker in self._workers.values()
            if worker.live and worker.subscription.caught_up and worker.backlogged
        ]

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
            unread, oldest = await objects.count_after(tx, row.module, row.view, after=position)
            tally = await exceptions.tally(tx, row.id, log=row.module, position=position, view=row.view)
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

    # -- shared commits -----------------------------------------------------------------------------------

    async def _file(self, filings: Sequence[Filing]) -> list[bool]:
        """Store the findings of several workers; one that was fenced off stops nobody else's."""
        return await self._database.write(lambda tx: _file(tx, filings))


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
