"""Subscriptions of ours: stored before they are asked for, asked for until answered, and kept alive (B28, B29).

``next_action_at`` of a row is when something is to be done about it, and its state says what: ask, ask for the
state, confirm a cancellation, try again, or cancel. One loop does it; no task sleeps for a row.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from engine import faults
from engine.clock import Clock
from engine.lifecycle import Background, Rereading
from engine.peers.subscriptions import (
    Address,
    NotOcpi,
    PeerFailure,
    PeerState,
    SubscriptionRequests,
    read_queue_size,
    read_state,
)
from engine.protocol.envelope import OcpiResponse
from engine.protocol.errors import (
    SUCCESS,
    InvalidParameters,
    ModuleNotServed,
    NoSuchSubscription,
    PartyNotServed,
    SubscriberNotAuthorized,
    SubscriberNotRecognized,
    SubscriptionError,
)
from engine.protocol.ids import ObjectKey, PartyId, check_object_id, object_key
from engine.protocol.modules import module
from engine.protocol.subscriptions import (
    INBOUND,
    TAKES_UPDATES,
    CancellationReason,
    InboundEvent,
    InboundState,
    Parameters,
)
from engine.refusals import NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.registration.directory import Directory
from engine.settings import Subscriptions as Limits
from engine.store import subscriptions
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.exceptions import ERROR_LENGTH_MAX
from engine.store.membership import FIRST_GO_S, Membership
from engine.store.subscriptions import Fenced, InboundSubscription

_log = logging.getLogger(__name__)

AT_ONCE_PER_PLATFORM: Final = 4  # actions towards one platform; a dead one delays no other
FULL_UPDATES_REMEMBERED: Final = 1000  # requests for a full update whose answers are compared (B27)
DAY_S: Final = 86_400.0
LOOK_S: Final = 60.0  # the loop looks around this often when it is not woken
STORE_PAUSE_S: Final = 1.0
KEEPING: Final = "subscriptions of ours"  # the periodic work, which one process does
_REFUSALS: Final = frozenset(
    kind.status_code
    for kind in (
        InvalidParameters,
        SubscriptionError,
        SubscriberNotRecognized,
        SubscriberNotAuthorized,
        PartyNotServed,
        ModuleNotServed,
    )
)

Identified = tuple[int, str, str, str]


@dataclass(frozen=True, slots=True)
class Taking:
    """A subscription under which updates are taken, and how strictly (B23)."""

    row: InboundSubscription
    tolerant: bool


class Consuming:
    """The consumer's side of subscriptions."""

    def __init__(
        self,
        database: Database,
        directory: Directory,
        requests: SubscriptionRequests,
        clock: Clock,
        limits: Limits,
        *,
        membership: Membership,
        parties_of: Callable[[int], Awaitable[None]],
    ) -> None:
        """Use these; ``parties_of`` fetches a platform's parties again, not too often."""
        self._database = database
        self._directory = directory
        self._requests = requests
        self._clock = clock
        self._limits = limits
        self._membership = membership
        self._parties_of = parties_of
        self._rereading = Rereading(self.reload)
        self._rows: dict[int, InboundSubscription] = {}
        self._taking: dict[Identified, Taking] = {}
        self._acting: dict[int, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._keeper = Background("keep subscriptions", self._keep, expected=(StoreUnavailable,))
        self._asked_in_full: OrderedDict[tuple[int, ObjectKey], None] = OrderedDict()

    async def start(self) -> None:
        """Begin to keep subscriptions alive (B29)."""
        await self.reload()
        self._membership.on_gone.append(self._wake.set)
        await self._keeper.start()

    async def stop(self) -> None:
        """Ask nothing more; what is to be done stands in the rows."""
        await self._keeper.stop()
        acting = list(self._acting.values())
        for task in acting:
            task.cancel()
        await asyncio.gather(*acting, return_exceptions=True)

    async def reload(self, *, wake: bool = True) -> None:
        """Read the rows into memory again."""
        async with self._database.reading() as tx:
            rows = await subscriptions.all_inbound(tx)
        self._rows = {row.id: row for row in rows}
        self._taking = {
            (row.platform_id, row.subscriber, row.producer, row.module): Taking(
                row, self._directory.platform(row.platform_id).tolerant
            )
            for row in rows
            if row.state in TAKES_UPDATES
        }
        if wake:
            self._wake.set()

    async def _refresh(self) -> None:
        """Know the rows as they are now, if there are other processes that change them."""
        if not self._membership.alone:
            await self.reload(wake=False)

    async def look_again(self) -> None:
        """Read the rows again before an update is refused: another process may have subscribed a moment ago."""
        if not self._membership.alone:
            await self._rereading.now()

    async def changed_elsewhere(self, _subscription_ids: frozenset[int]) -> None:
        """Take in what another process changed."""
        await self.reload(wake=False)
        asyncio.get_running_loop().call_later(FIRST_GO_S, self._wake.set)

    # -- what the accepting side asks ---------------------------------------------------------------------

    def taking(self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str) -> Taking | None:
        """Look up the subscription that an update belongs to; None: we have no such subscription."""
        taking = self._taking.get((platform_id, subscriber, producer, module_name))
        if taking is None:
            known = module(module_name)
            if known is not None and known.id != module_name:
                taking = self._taking.get((platform_id, subscriber, producer, known.id))
        return taking

    async def serves(self, platform_id: int, party: PartyId) -> bool:
        """Say whether a platform serves a party to us, asking it again before saying no (B1)."""
        if not self._directory.serves(platform_id, party):
            await self._parties_of(platform_id)
        return self._directory.serves(platform_id, party)

    def asked_in_full(self, subscription_id: int, key: ObjectKey) -> bool:
        """Say whether we asked for a full update of this object lately."""
        return (subscription_id, key) in self._asked_in_full

    # -- what operators ask -------------------------------------------------------------------------------

    async def list(self) -> list[InboundSubscription]:
        """List subscriptions of ours, ended ones too."""
        await self._refresh()
        return list(self._rows.values())

    async def get(self, subscription_id: int) -> InboundSubscription:
        """Find one by its number.

        Raises ``NotFoundHere``.
        """
        await self._refresh()
        row = self._rows.get(subscription_id)
        if row is None:
            raise NotFoundHere(f"there is no subscription of ours with number {subscription_id}")
        return row

    async def subscribe(
        self,
        subscriber: PartyId,
        producer: PartyId,
        module_name: str,
        *,
        platform: str | None = None,
        retry_interval_s: float | None = None,
        parallelism_limit: int | None = None,
        queue_size_max: int | None = None,
    ) -> InboundSubscription:
        """Subscribe a party of ours (UC 03.01); repeated, it starts over with a full snapshot (B8).

        Returns after the producer's first answer, or with state ``asking`` when it could not be reached.
        Raises ``Refused`` when we cannot ask.
        """
        wanted = module(module_name)
        if wanted is None:
            raise NotFoundHere(f"there is no module {module_name!r} here")
        if self._directory.hosted(subscriber) is None:
            raise NotFoundHere(f"{subscriber} is not hosted here; add it with `ocpi-engine parties add`")
        if not self._directory.module_served(subscriber, wanted.id, "RECEIVER"):
            raise Refused(f"{subscriber} does not take {wanted.id} as a receiver; its roles say so")
        platform_id = await self._platform_of(producer, platform)
        parameters = {
            "module_alias": module_name,
            "retry_interval_s": retry_interval_s or self._limits.retry_interval_s,
            "parallelism_limit": parallelism_limit or self._limits.parallelism_limit,
            "queue_size_max": queue_size_max or self._limits.queue_size_max,
        }
        now = self._clock.now()
        fresh = {"attempts": 0, "last_error": None, "next_action_at": now, "overflows": 0}
        fresh |= {"began_at": now, "ended_at": None, "end_reason": None, "ended_by": None}
        async with self._database.transaction() as tx:
            row = await subscriptions.find_inbound(tx, platform_id, subscriber, producer, wanted.id)
            if row is None:
                identity = {"platform_id": platform_id, "subscriber": subscriber, "producer": producer}
                identity |= {"module": wanted.id, "state": InboundState.ASKING.value, "life": 1}
                subscription_id = await subscriptions.add_inbound(tx, **identity, **parameters, **fresh)
            else:
                subscription_id = row.id
                state = INBOUND.after(InboundState(row.state), InboundEvent.WANTED)
                await subscriptions.change_inbound(tx, row, state=state.value, life=row.life + 1, **parameters, **fresh)
        faults.passing("subscribe.stored")
        await self.reload()
        await self._act_now(subscription_id)
        return self._rows[subscription_id]

    async def _platform_of(self, producer: PartyId, identity: str | None) -> int:
        if identity is not None:
            named = self._directory.by_identity(identity)
            if named is None:
                raise NotFoundHere(f"there is no platform {identity}; see `ocpi-engine platforms`")
            return named.id
        serving = self._directory.platforms_of(producer)
        if not serving:
            for platform in self._directory.platforms():
                if platform.state == "connected":
                    await self._parties_of(platform.id)
            serving = self._directory.platforms_of(producer)
        if not serving:
            raise NotFoundHere(f"no connected platform serves {producer}; see `ocpi-engine parties`")
        if len(serving) > 1:
            raise Refused(f"several platforms serve {producer}; say which with --platform")
        return serving[0]

    async def unsubscribe(self, subscription_id: int) -> InboundSubscription:
        """Cancel as the receiver (UC 03.04); the producer is told until it answers."""
        await self._idle(subscription_id)
        row = await self.get(subscription_id)
        await self._happened(
            row,
            InboundEvent.UNWANTED,
            ended_at=self._clock.now(),
            ended_by="us",
            next_action_at=self._clock.now(),
            attempts=0,
        )
        await self._act_now(subscription_id)
        return self._rows[subscription_id]

    async def producer_state(self, subscription_id: int) -> PeerState:
        """Ask the producer what it owes us (UC 03.06)."""
        row = await self.get(subscription_id)
        response = await self._answer(row, self._requests.state(_address(row)))
        state = read_state(response)
        if state is None:
            raise PeerUnreachable("the partner's answer holds no SubscriptionState")
        await self._noted(row, state_checked_at=self._clock.now(), peer_queue_size=state.current_queue_size)
        return state

    async def renegotiate(
        self, subscription_id: int, *, retry_interval_s: float, parallelism_limit: int, queue_size_max: int
    ) -> bool:
        """Propose other parameters to the producer (UC 03.07); says whether it accepted."""
        row = await self.get(subscription_id)
        proposal = Parameters(retry_interval_s, parallelism_limit, queue_size_max)
        response = await self._answer(row, self._requests.renegotiate_my(_address(row), proposal))
        accepted = response.content == b'"ACCEPTED"'
        if accepted:
            await self._noted(
                row,
                retry_interval_s=retry_interval_s,
                parallelism_limit=parallelism_limit,
                queue_size_max=queue_size_max,
            )
        return accepted

    async def request_immediate_retries(self, subscription_id: int) -> None:
        """Ask the producer to send now what waits for its backoff (UC 03.09)."""
        row = await self.get(subscription_id)
        await self._answer(row, self._requests.immediate_retries(_address(row)))

    async def request_full_update(self, subscription_id: int, object_id: str) -> None:
        """Ask the producer for one object again (UC 03.10)."""
        row = await self.get(subscription_id)
        try:
            check_object_id(object_id, 39)
        except ValueError as error:
            raise Refused(str(error)) from error
        self._asked_in_full[row.id, object_key(object_id)] = None
        if len(self._asked_in_full) > FULL_UPDATES_REMEMBERED:
            self._asked_in_full.popitem(last=False)
        await self._answer(row, self._requests.full_update(_address(row), object_id))

    async def _answer(self, row: InboundSubscription, request: Awaitable[OcpiResponse]) -> OcpiResponse:
        try:
            response = await request
        except (PeerFailure, NotOcpi) as failure:
            raise PeerUnreachable(f"{row.platform} could not be asked: {failure}") from failure
        if response.status_code == NoSuchSubscription.status_code:
            await self._lost(row)
        if response.status_code != SUCCESS:
            raise PeerSaidNo(None, response.status_code, response.status_message or "")
        return response

    # -- what producers say -------------------------------------------------------------------------------

    async def cancelled(
        self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str, reason: CancellationReason
    ) -> None:
        """Take a producer's cancellation (UC 03.05), and have it confirmed, since it may be an old one (B29).

        Raises ``NoSuchSubscription``.
        """
        row = await self._find(platform_id, subscriber, producer, module_name)
        if row is None or not INBOUND.allows(InboundState(row.state), InboundEvent.NOTICE):
            raise NoSuchSubscription
        state = INBOUND.after(InboundState(row.state), InboundEvent.NOTICE)
        if state is InboundState.CONFIRMING:
            now = self._clock.now()
            await self._happened(row, InboundEvent.NOTICE, end_reason=reason.value, next_action_at=now, attempts=0)

    async def renegotiated(
        self, platform_id: int, subscriber: PartyId, producer: PartyId, module_name: str, proposal: Parameters
    ) -> bool:
        """Take a producer's proposal (UC 03.08); says whether we accept it.

        Raises ``NoSuchSubscription``.
        """
        row = await self._find(platform_id, subscriber, producer, module_name)
        if row is None or row.state not in TAKES_UPDATES:
            raise NoSuchSubscription
        if proposal.parallelism_limit > self._limits.parallelism_max:
            return False
        await self._noted(
            row,
            retry_interval_s=proposal.retry_interval_s,
            parallelism_limit=proposal.parallelism_limit,
            queue_size_max=proposal.queue_size_max,
        )
        return True

    async def _find(
        self, platform_id: int, subscriber: str, producer: str, module_name: str
    ) -> InboundSubscription | None:
        await self._refresh()
        known = module(module_name)
        if known is None:
            return None
        wanted = (platform_id, subscriber, producer, known.id)
        return next(
            (r for r in self._rows.values() if (r.platform_id, r.subscriber, r.producer, r.module) == wanted), None
        )

    # -- what happens to platforms ------------------------------------------------------------------------

    async def end_platform(self, tx: Tx, platform_id: int) -> None:
        """End all subscriptions at a platform, in the transaction that ends it (B20)."""
        for row in await subscriptions.all_inbound(tx, platform_id):
            if row.state != InboundState.ENDED:
                state = INBOUND.after(InboundState(row.state), InboundEvent.PLATFORM_ENDED)
                values = {"ended_at": self._clock.now(), "ended_by": "connection", "next_action_at": None}
                await subscriptions.change_inbound(tx, row, state=state.value, **values)

    async def parties_changed(self, platform_id: int) -> None:
        """Ask again for what a platform refused or cancelled, now that its parties are others (B29)."""
        for row in [row for row in self._rows.values() if row.platform_id == platform_id]:
            if row.state == InboundState.WAITING and row.end_reason != CancellationReason.QUEUE_OVERFLOW:
                await self._noted(row, next_action_at=self._clock.now())

    # -- the keeper ---------------------------------------------------------------------------------------

    async def _ask_all(self) -> None:
        """Have every producer asked for its state: nobody may have done so for a while."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            for row in await subscriptions.all_inbound(tx):
                if row.state == InboundState.LIVE:
                    await subscriptions.change_inbound(tx, row, next_action_at=now)
        await self.reload()

    async def _keep(self) -> None:
        led = False
        while True:
            self._wake.clear()
            now = self._clock.now()
            if not await self._membership.leads_or_waits(KEEPING, self._wake):
                led = False
                continue
            if not led:
                led = True
                await self._ask_all()
            busy: dict[int, int] = {}
            for subscription_id in self._acting:
                platform_id = self._rows[subscription_id].platform_id
                busy[platform_id] = busy.get(platform_id, 0) + 1
            soonest = now + LOOK_S
            for row in sorted(self._rows.values(), key=lambda row: row.next_action_at or 0.0):
                if row.next_action_at is None or row.id in self._acting:
                    continue
                if row.next_action_at > now:
                    soonest = min(soonest, row.next_action_at)
                elif busy.get(row.platform_id, 0) < AT_ONCE_PER_PLATFORM:
                    busy[row.platform_id] = busy.get(row.platform_id, 0) + 1
                    self._begin(row.id)
            timer = asyncio.get_running_loop().call_later(max(0.0, soonest - now), self._wake.set)
            await self._wake.wait()
            timer.cancel()

    def _begin(self, subscription_id: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._act(subscription_id))
        self._acting[subscription_id] = task
        task.add_done_callback(lambda _: self._acted(subscription_id))
        return task

    def _acted(self, subscription_id: int) -> None:
        self._acting.pop(subscription_id, None)
        self._wake.set()

    async def _act_now(self, subscription_id: int) -> None:
        """Do what is to be done about a row, and wait until it is done; one action at a time for a row."""
        await self._idle(subscription_id)
        row = self._rows[subscription_id]
        if row.next_action_at is not None and row.next_action_at <= self._clock.now():
            await asyncio.shield(self._begin(subscription_id))

    async def _idle(self, subscription_id: int) -> None:
        """Return when nothing is being done about a row."""
        while (under_way := self._acting.get(subscription_id)) is not None:
            await asyncio.wait([under_way])

    async def _act(self, subscription_id: int) -> None:
        """Do what is to be done about a row, unless another process does it now: then it is that one's."""
        try:
            async with self._membership.claiming(KEEPING, subscription_id) as mine:
                if not mine:
                    return
                await self._refresh()
                due_at = self._rows[subscription_id].next_action_at
                if due_at is not None and due_at <= self._clock.now():
                    await self._do(subscription_id)
        except Fenced:  # it was changed meanwhile, and is looked at again
            await self.reload()
        except StoreUnavailable as error:
            _log.warning("the store is out of order: %s", error, extra={"action": "store_unavailable"})
            await asyncio.sleep(STORE_PAUSE_S)

    async def _do(self, subscription_id: int) -> None:
        row = self._rows[subscription_id]
        try:
            match InboundState(row.state):
                case InboundState.ASKING:
                    await self._ask(row)
                case InboundState.LIVE | InboundState.CONFIRMING:
                    await self._check(row)
                case InboundState.WAITING:
                    await self._happened(row, InboundEvent.DUE, life=row.life + 1, next_action_at=self._clock.now())
                case InboundState.CANCELLING:
                    await self._cancel(row)
                case InboundState.ENDED:
                    await self._noted(row, next_action_at=None)
        except (PeerFailure, NotOcpi) as failure:
            await self._failed(row, str(failure))
        except (Fenced, StoreUnavailable):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again with pauses, and never in a circle
            _log.exception("a subscription of ours is stuck", extra={"action": "subscription_failed"})
            await asyncio.sleep(STORE_PAUSE_S)
            with contextlib.suppress(Fenced, StoreUnavailable):
                await self._failed(row, f"internal error: {type(error).__name__}")

    async def _ask(self, row: InboundSubscription) -> None:
        parameters = Parameters(row.retry_interval_s, row.parallelism_limit, row.queue_size_max)
        response = await self._requests.subscribe(_address(row), parameters)
        faults.passing("subscribe.answered")
        now = self._clock.now()
        if response.status_code == SUCCESS:
            await self._happened(
                row,
                InboundEvent.GRANTED,
                queue_size_max=read_queue_size(response) or row.queue_size_max,
                attempts=0,
                last_error=None,
                end_reason=None,
                next_action_at=now + self._limits.state_check_s,
            )
        elif response.status_code in _REFUSALS:
            words = f"{response.status_code}: {response.status_message or 'no message'}"[:ERROR_LENGTH_MAX]
            again = now + self._limits.refused_again_s
            await self._happened(row, InboundEvent.REFUSED, last_error=words, ended_by="producer", next_action_at=again)
        else:
            await self._failed(row, f"{response.status_code}: {response.status_message or 'no message'}")

    async def _check(self, row: InboundSubscription) -> None:
        """Ask whether the producer still knows the subscription: only 5005 says that it does not."""
        response = await self._requests.state(_address(row))
        now = self._clock.now()
        if response.status_code == NoSuchSubscription.status_code:
            await self._lost(row)
        elif response.status_code == SUCCESS:
            state = read_state(response)
            await self._happened(
                row,
                InboundEvent.STILL_THERE,
                state_checked_at=now,
                peer_queue_size=None if state is None else state.current_queue_size,
                attempts=0,
                last_error=None,
                end_reason=None,
                next_action_at=now + self._limits.state_check_s,
            )
        else:
            await self._failed(row, f"{response.status_code}: {response.status_message or 'no message'}")

    async def _lost(self, row: InboundSubscription) -> None:
        """Believe that the producer has no such subscription: ask again, now or after a pause that fits the reason."""
        if not INBOUND.allows(InboundState(row.state), InboundEvent.GONE):
            return
        now = self._clock.now()
        if row.state == InboundState.LIVE:
            await self._happened(row, InboundEvent.GONE, life=row.life + 1, attempts=0, next_action_at=now)
            return
        overflowed = row.end_reason == CancellationReason.QUEUE_OVERFLOW
        pause_s = min(self._limits.overflow_again_s * 2.0**row.overflows, DAY_S)
        await self._happened(
            row,
            InboundEvent.GONE,
            ended_at=now,
            ended_by="producer",
            overflows=row.overflows + overflowed,
            next_action_at=now + (pause_s if overflowed else self._limits.refused_again_s),
        )

    async def _cancel(self, row: InboundSubscription) -> None:
        response = await self._requests.cancel_my(_address(row))
        if response.status_code in (SUCCESS, NoSuchSubscription.status_code):
            await self._happened(row, InboundEvent.CANCEL_ANSWERED, next_action_at=None, last_error=None)
        else:
            await self._failed(row, f"{response.status_code}: {response.status_message or 'no message'}")

    async def _failed(self, row: InboundSubscription, reason: str) -> None:
        """Try again after a pause that doubles."""
        pause_s = min(self._limits.ask_again_s * 2.0 ** min(row.attempts, 30), self._limits.ask_again_max_s)
        await self._noted(
            row,
            attempts=row.attempts + 1,
            last_error=reason[:ERROR_LENGTH_MAX],
            next_action_at=self._clock.now() + pause_s,
        )

    async def _happened(self, row: InboundSubscription, event: InboundEvent, **values: object) -> None:
        state = INBOUND.after(InboundState(row.state), event)
        await self._noted(row, state=state.value, **values)
        if event is InboundEvent.GRANTED:
            faults.passing("subscribe.granted")
        _log.info(
            "our subscription of %s to %s of %s is %s after %s",
            row.subscriber,
            row.module,
            row.producer,
            state.value,
            event.value,
            extra={"action": "subscription_ours", "platform": row.platform},
        )

    async def _noted(self, row: InboundSubscription, **values: object) -> None:
        async with self._database.transaction() as tx:
            await subscriptions.change_inbound(tx, row, **values)
        await self.reload()


def _address(row: InboundSubscription) -> Address:
    return Address(row.platform_id, PartyId(row.subscriber), PartyId(row.producer), row.module_alias)
