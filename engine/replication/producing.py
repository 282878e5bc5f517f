"""Partners' subscriptions here: made, changed and ended by either side, each change fenced by the epoch.

A change that must stop sending is answered once the worker has confirmed it. A cancellation of ours is stored
first, then told to the receiver until it has heard it; a new subscribe from it withdraws the notice (B24).
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from engine.clock import Clock
from engine.lifecycle import Background
from engine.peers.subscriptions import Address, NotOcpi, PeerFailure, SubscriptionRequests
from engine.protocol.errors import SUCCESS, NoSuchObject, NoSuchSubscription
from engine.protocol.ids import PartyId, object_key
from engine.protocol.modules import module
from engine.protocol.subscriptions import OUTBOUND, CancellationReason, OutboundEvent, OutboundState, Parameters
from engine.refusals import NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.replication.workers import Workers
from engine.settings import Replication
from engine.settings import Subscriptions as Limits
from engine.store import exceptions, objects, subscriptions
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.exceptions import ERROR_LENGTH_MAX, Waiting
from engine.store.membership import Membership
from engine.store.subscriptions import Fenced, OutboundSubscription

_log = logging.getLogger(__name__)

STORE_PAUSE_S: Final = 1.0
TELLING: Final = "cancellation notices"  # the periodic work, which one process does
DAY_S: Final = 86400.0


Endings = list[tuple[int, int]]
"""Subscriptions that were ended, each with the epoch from which nothing more is begun."""

Failing = list[Waiting]


@dataclass(frozen=True, slots=True)
class CurrentState:
    """What UC 03.06 asks for."""

    retry_interval_s: float
    queue_size: int
    queue_size_max: int


class Producing:
    """The producer's side of subscriptions."""

    def __init__(
        self,
        *,
        database: Database,
        workers: Workers,
        requests: SubscriptionRequests,
        clock: Clock,
        limits: Limits,
        settings: Replication,
        membership: Membership,
    ) -> None:
        """Use these; nothing runs before ``start``."""
        self._database = database
        self._workers = workers
        self._requests = requests
        self._clock = clock
        self._limits = limits
        self._settings = settings
        self._membership = membership
        self._notices_changed = asyncio.Event()
        self._telling: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._notifier = Background("cancellation notices", self._keep_telling, expected=(StoreUnavailable,))
        self._overseer = Background("queue overflow", self._oversee, expected=(StoreUnavailable,))
        workers.on_not_subscribed = self.unknown_to_receiver

    async def start(self) -> None:
        """Begin to watch queue sizes and to tell cancellations."""
        self._membership.on_gone.append(self._notices_changed.set)
        await self._notifier.start()
        await self._overseer.start()

    async def stop(self) -> None:
        """Tell nothing more; notices stand in the rows."""
        await self._overseer.stop()
        await self._notifier.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def changed_elsewhere(self, subscription_ids: frozenset[int]) -> None:
        """Take in what another process changed; without ids, whatever it may have been."""
        self._notices_changed.set()
        await self._workers.changed_elsewhere(subscription_ids)

    # -- what receivers ask -------------------------------------------------------------------------------

    async def subscribe(
        self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str, wanted: Parameters
    ) -> int:
        """Make a subscription, or begin a new life of it (UC 03.01, B8); returns the queue size that we promise."""
        known = _module_id(module_name)
        limit, now = self._limits.queue_size_max, self._clock.now()
        queue_size_max = limit if wanted.queue_size_max is None else min(wanted.queue_size_max, limit)
        async with self._database.transaction() as tx:
            row = await subscriptions.find_outbound(tx, platform_id, subscriber, producer, known)
            end = await objects.last_number(tx, known)
            values: dict[str, object] = {
                "module_alias": module_name,
                "state": OutboundState.LIVE.value,
                "life": 1 if row is None else row.life + 1,
                "retry_interval_s": wanted.retry_interval_s,
                "parallelism_limit": wanted.parallelism_limit,
                "queue_size_max": queue_size_max,
                "watermark": 0,
                "caught_up": False,
                "catch_up_to": end,
                "snapshot_from": max(0.0, now - self._limits.snapshot_days * DAY_S),
                "began_at": now,
                "ended_at": None,
                "end_reason": None,
                "ended_by": None,
                "notice": None,
                "notice_due_at": None,
                "notice_error": None,
            }
            if row is None:
                values |= await self._workers.owner_for(tx, None, end=end)
                identity = {"platform_id": platform_id, "subscriber": subscriber, "producer": producer, "module": known}
                start = {"epoch": 1, "attempted_to": 0, "hold_until": 0.0, "first_seq": end}
                subscription_id = await subscriptions.add_outbound(tx, **identity, **values, **start)
            else:
                OUTBOUND.after(OutboundState(row.state), OutboundEvent.SUBSCRIBED)
                subscription_id = row.id
                await exceptions.clear(tx, row.id, rejected_only=True)
                values |= await self._workers.owner_for(tx, row, end=end)
                await subscriptions.change_outbound(tx, row, **values)
        await self._workers.began(subscription_id)
        _log.info("%s subscribed to %s of %s", subscriber, known, producer, extra={"action": "subscribed"})
        return queue_size_max

    async def cancelled_by_receiver(
        self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str
    ) -> None:
        """End a subscription that its receiver no longer wants (UC 03.04).

        Returns once nothing more is begun. Raises ``NoSuchSubscription``.
        """
        async with self._database.transaction() as tx:
            row = await self._live(tx, platform_id, subscriber, producer, module_name)
            await self._end(tx, row, OutboundEvent.CANCELLED_BY_RECEIVER, ended_by="receiver", end_reason=None)
        await self._workers.quiesce(row.id, row.epoch + 1)

    async def state(self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str) -> CurrentState:
        """Say what is owed (UC 03.06).

        Raises ``NoSuchSubscription``.
        """
        async with self._database.reading() as tx:
            row = await self._live(tx, platform_id, subscriber, producer, module_name)
        debt = await self._workers.debt(row)
        return CurrentState(row.retry_interval_s, debt.queue_size, row.queue_size_max)

    async def renegotiated(
        self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str, proposal: Parameters
    ) -> bool:
        """Take a receiver's proposal (UC 03.07); says whether we accept it.

        Raises ``NoSuchSubscription``.
        """
        async with self._database.transaction() as tx:
            row = await self._live(tx, platform_id, subscriber, producer, module_name)
            if (proposal.queue_size_max or 0) > self._limits.queue_size_max:
                return False
            await subscriptions.change_outbound(
                tx,
                row,
                retry_interval_s=proposal.retry_interval_s,
                parallelism_limit=proposal.parallelism_limit,
                queue_size_max=proposal.queue_size_max,
            )
        self._workers.changed(row.id)
        return True

    async def retry_immediately(
        self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str
    ) -> None:
        """Let everything that waits for its backoff go out (UC 03.09).

        Raises ``NoSuchSubscription``.
        """
        async with self._database.transaction() as tx:
            row = await self._live(tx, platform_id, subscriber, producer, module_name)
            await exceptions.make_due(tx, row.id, now=self._clock.now())
        self._workers.changed(row.id)

    async def send_again(
        self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str, object_id: str
    ) -> None:
        """Owe an object once more (UC 03.10), of every issuer visible in this subscription (B35).

        What the snapshot left out is sent too, since it was asked for by name (D21).
        Raises ``NoSuchSubscription``, ``NoSuchObject``.
        """
        async with self._database.transaction() as tx:
            row = await self._live(tx, platform_id, subscriber, producer, module_name)
            found = await objects.by_id(tx, row.module, row.view, key=object_key(object_id))
            if not found:
                raise NoSuchObject
            wanted = [(owed.issuer, owed.key, owed.object_id) for owed in found]
            await exceptions.ask_again(tx, row.id, wanted, now=self._clock.now())
        self._workers.changed(row.id)

    async def unknown_to_receiver(self, subscription: OutboundSubscription) -> None:
        """End a life that its receiver answered with 6002 (B4)."""
        try:
            async with self._database.transaction() as tx:
                row = await subscriptions.outbound_by_id(tx, subscription.id)
                if row is None or row.life != subscription.life or row.state != OutboundState.LIVE:
                    return
                await self._end(tx, row, OutboundEvent.UNKNOWN_TO_RECEIVER, ended_by="receiver", end_reason="6002")
        except (Fenced, StoreUnavailable):
            return
        await self._workers.quiesce(row.id, row.epoch + 1)

    async def _live(
        self, tx: Tx, platform_id: int, subscriber: str, producer: str, module_name: str
    ) -> OutboundSubscription:
        row = await subscriptions.find_outbound(tx, platform_id, subscriber, producer, _module_id(module_name))
        if row is None or row.state != OutboundState.LIVE:
            raise NoSuchSubscription
        return row

    async def _end(
        self, tx: Tx, row: OutboundSubscription, event: OutboundEvent, *, ended_by: str, end_reason: str | None
    ) -> None:
        state = OUTBOUND.after(OutboundState(row.state), event)
        await exceptions.clear(tx, row.id)
        values: dict[str, object] = {"state": state.value, "ended_by": ended_by, "end_reason": end_reason}
        values |= {"ended_at": self._clock.now(), "notice": None, "notice_due_at": None}
        if state is OutboundState.CANCELLING:
            values |= {"notice": end_reason, "notice_attempts": 0, "notice_due_at": self._clock.now()}
        await subscriptions.change_outbound(tx, row, **values)
        _log.info(
            "subscription of %s to %s of %s: %s",
            row.subscriber,
            row.module,
            row.producer,
            event.value,
            extra={"action": "subscription_ended", "platform": row.platform, "reason": end_reason},
        )

    # -- what operators ask -------------------------------------------------------------------------------

    async def list(self) -> list[OutboundSubscription]:
        """List partners' subscriptions, ended ones too."""
        async with self._database.reading() as tx:
            return await subscriptions.all_outbound(tx)

    async def get(self, subscription_id: int) -> OutboundSubscription:
        """Find one by its number.

        Raises ``NotFoundHere``.
        """
        async with self._database.reading() as tx:
            row = await subscriptions.outbound_by_id(tx, subscription_id)
        if row is None:
            raise NotFoundHere(f"there is no partner's subscription with number {subscription_id}")
        return row

    async def cancel(self, subscription_id: int, reason: str, *, epoch: int | None = None) -> OutboundSubscription:
        """Cancel as the sender (UC 03.05); returns once nothing more is begun, and the receiver is told after that.

        With an ``epoch``, only if nothing changed since. Raises ``Refused`` when there is nothing to cancel.
        """
        try:
            why = CancellationReason(reason)
        except ValueError as error:
            raise Refused(f"{reason!r} is none of {', '.join(CancellationReason)}") from error
        async with self._database.transaction() as tx:
            row = await subscriptions.outbound_by_id(tx, subscription_id)
            if row is None:
                raise NotFoundHere(f"there is no partner's subscription with number {subscription_id}")
            if epoch is not None and row.epoch != epoch:
                raise Refused(f"subscription {subscription_id} was changed meanwhile")
            if not OUTBOUND.allows(OutboundState(row.state), OutboundEvent.CANCELLED_HERE):
                raise Refused(f"subscription {subscription_id} is {row.state}: there is nothing to cancel")
            await self._end(tx, row, OutboundEvent.CANCELLED_HERE, ended_by="us", end_reason=why.value)
        await self._workers.quiesce(row.id, row.epoch + 1)
        self._notices_changed.set()
        return await self.get(subscription_id)

    async def renegotiate(
        self, subscription_id: int, *, retry_interval_s: float, parallelism_limit: int, queue_size_max: int
    ) -> bool:
        """Propose other parameters to the receiver (UC 03.08); says whether it accepted."""
        row = await self.get(subscription_id)
        if row.state != OutboundState.LIVE:
            raise Refused(f"subscription {subscription_id} is {row.state}")
        proposal = Parameters(retry_interval_s, parallelism_limit, queue_size_max)
        try:
            response = await self._requests.renegotiate_your(_address(row), proposal)
        except (PeerFailure, NotOcpi) as failure:
            raise PeerUnreachable(f"{row.platform} could not be asked: {failure}") from failure
        if response.status_code != SUCCESS:
            raise PeerSaidNo(None, response.status_code, response.status_message or "")
        if response.content != b'"ACCEPTED"':
            return False
        async with self._database.transaction() as tx:
            row = await subscriptions.outbound_by_id(tx, subscription_id) or row
            await subscriptions.change_outbound(
                tx,
                row,
                retry_interval_s=retry_interval_s,
                parallelism_limit=parallelism_limit,
                queue_size_max=queue_size_max,
            )
        self._workers.changed(subscription_id)
        return True

    async def retry_now(self, subscription_id: int) -> int:
        """Let everything that waits for its backoff go out, without being asked; returns how many objects."""
        row = await self.get(subscription_id)
        async with self._database.transaction() as tx:
            count = await exceptions.make_due(tx, row.id, now=self._clock.now())
        self._workers.changed(subscription_id)
        return count

    async def failing(self, subscription_id: int, *, limit: int) -> Failing:
        """List the objects that wait for their backoff or were refused, longest failing first."""
        async with self._database.reading() as tx:
            return await exceptions.failing(tx, subscription_id, limit=limit)

    async def drop_failing(self, subscription_id: int, issuer: str, object_id: str) -> None:
        """Give one failing object up until it changes (B2)."""
        async with self._database.transaction() as tx:
            if not await exceptions.drop(tx, subscription_id, issuer, object_key(object_id)):
                raise NotFoundHere(f"{issuer} {object_id} does not fail in subscription {subscription_id}")
        self._workers.changed(subscription_id)

    # -- what happens to platforms ------------------------------------------------------------------------

    async def end_platform(self, tx: Tx, platform_id: int) -> Endings:
        """End all of a platform's subscriptions, in the transaction that ends it (B20); returns (id, epoch) of each."""
        ended: list[tuple[int, int]] = []
        for row in await subscriptions.all_outbound(tx, platform_id):
            if row.state != OutboundState.ENDED:
                await self._end(tx, row, OutboundEvent.PLATFORM_ENDED, ended_by="connection", end_reason=None)
                ended.append((row.id, row.epoch + 1))
        return ended

    async def quiesce(self, ended: Endings) -> None:
        """Return once nothing more is begun for these."""
        await asyncio.gather(*(self._workers.quiesce(subscription_id, epoch) for subscription_id, epoch in ended))

    # -- background ---------------------------------------------------------------------------------------

    async def _keep_telling(self) -> None:
        """Tell receivers of cancellations until they have heard them."""
        while True:
            self._notices_changed.clear()
            if not await self._membership.leads_or_waits(TELLING, self._notices_changed):
                continue
            now = self._clock.now()
            soonest = now + self._limits.notice_again_max_s
            for row in await self._untold():
                if row.notice_due_at is None or row.id in self._telling:
                    continue
                if row.notice_due_at > now:
                    soonest = min(soonest, row.notice_due_at)
                    continue
                self._telling.add(row.id)
                task = asyncio.create_task(self._tell(row))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            timer = asyncio.get_running_loop().call_later(max(0.0, soonest - now), self._notices_changed.set)
            await self._notices_changed.wait()
            timer.cancel()

    async def _untold(self) -> Sequence[OutboundSubscription]:
        async with self._database.reading() as tx:
            return await subscriptions.with_notice(tx)

    async def _tell(self, row: OutboundSubscription) -> None:
        try:
            heard, error = await self._say(row)
            async with self._database.transaction() as tx:
                if heard:
                    state = OUTBOUND.after(OutboundState(row.state), OutboundEvent.NOTICE_ANSWERED)
                    values: dict[str, object] = {"state": state.value, "notice": None, "notice_due_at": None}
                else:
                    pause_s = min(
                        self._limits.notice_again_s * 2.0 ** min(row.notice_attempts, 30),
                        self._limits.notice_again_max_s,
                    )
                    values = {"notice_due_at": self._clock.now() + pause_s, "notice_error": error[:ERROR_LENGTH_MAX]}
                    values["notice_attempts"] = row.notice_attempts + 1
                await subscriptions.change_outbound(tx, row, **values)
        except Fenced:
            pass  # a new subscribe withdrew the notice
        except StoreUnavailable as unavailable:
            _log.warning("the store is out of order: %s", unavailable, extra={"action": "store_unavailable"})
            await asyncio.sleep(STORE_PAUSE_S)
        finally:
            self._telling.discard(row.id)
            self._notices_changed.set()

    async def _say(self, row: OutboundSubscription) -> tuple[bool, str]:
        try:
            response = await self._requests.cancel_your(_address(row), CancellationReason(row.notice or "OTHER"))
        except (PeerFailure, NotOcpi) as failure:
            return False, str(failure)
        if response.status_code in (SUCCESS, NoSuchSubscription.status_code):
            return True, ""
        return False, f"{response.status_code}: {response.status_message or 'no message'}"

    async def _oversee(self) -> None:
        """Cancel subscriptions that owe more than was promised, once their first catch-up is done (B24)."""
        while True:
            await asyncio.sleep(self._settings.overflow_check_s)
            for row in self._workers.behind():
                if (await self._workers.debt(row)).queue_size > row.queue_size_max:
                    with contextlib.suppress(Refused):  # it ended, or began anew, meanwhile
                        await self.cancel(row.id, CancellationReason.QUEUE_OVERFLOW, epoch=row.epoch)


def _module_id(module_name: str) -> str:
    known = module(module_name)
    return module_name if known is None else known.id


def _address(row: OutboundSubscription) -> Address:
    """Address the receiver: what we say as the sender goes from the producer to the subscriber."""
    return Address(row.platform_id, PartyId(row.producer), PartyId(row.subscriber), row.module_alias)
