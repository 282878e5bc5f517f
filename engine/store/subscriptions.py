"""Both ends of subscriptions, identified as in 3.1.2.1: both platforms, both parties, the module.

A row lives as long as the parties know each other; each subscribe begins a new *life* of it. The *epoch* of
an outbound one is its fence: whoever changes it, or what it may see, raises it, and its owner's writes are
conditional on the epoch that the owner read.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from sqlalchemy import Table, and_, func, select, update

from engine.protocol.subscriptions import OutboundState
from engine.store import events
from engine.store.database import Kind, Tx
from engine.store.objects import View
from engine.store.tables import inbound, outbound, platforms, processes


class Fenced(Exception):
    """The subscription was changed since its owner read it; nothing was written."""


@dataclass(frozen=True, slots=True)
class OutboundSubscription:
    """The producer's end: a partner's party subscribed to one of ours."""

    id: int
    platform_id: int
    platform: str
    subscriber: str
    producer: str
    module: str
    module_alias: str
    state: str
    life: int
    epoch: int
    owner: str | None
    confirmed_epoch: int
    retry_interval_s: float
    parallelism_limit: int
    queue_size_max: int
    watermark: int
    caught_up: bool
    catch_up_to: int
    attempted_to: int
    hold_until: float
    first_seq: int
    snapshot_from: float
    began_at: float
    ended_at: float | None
    end_reason: str | None
    ended_by: str | None
    notice: str | None
    notice_attempts: int
    notice_due_at: float | None
    notice_error: str | None

    @property
    def view(self) -> View:
        """What it may see."""
        return View(self.producer, self.subscriber, self.first_seq, self.snapshot_from)


@dataclass(frozen=True, slots=True)
class InboundSubscription:
    """The consumer's end: one of our parties subscribed to a partner's."""

    id: int
    platform_id: int
    platform: str
    subscriber: str
    producer: str
    module: str
    module_alias: str
    state: str
    life: int
    retry_interval_s: float
    parallelism_limit: int
    queue_size_max: int | None
    began_at: float
    ended_at: float | None
    end_reason: str | None
    ended_by: str | None
    attempts: int
    next_action_at: float | None
    last_error: str | None
    state_checked_at: float | None
    peer_queue_size: int | None
    overflows: int


def _select(table: Table, kind: type) -> Any:
    columns = [platforms.c.identity if field.name == "platform" else table.c[field.name] for field in fields(kind)]
    return select(*columns).join_from(table, platforms, platforms.c.id == table.c.platform_id)


_TOLD: Final = {
    *("state", "life", "retry_interval_s", "parallelism_limit", "queue_size_max", "caught_up"),
    *("began_at", "ended_at", "end_reason", "ended_by"),
}
"""Columns whose change whoever follows subscriptions hears of; the others say how the work on them goes."""

_OUTBOUND = _select(outbound, OutboundSubscription)
_INBOUND = _select(inbound, InboundSubscription)


def _identified(table: Table, platform_id: int, subscriber: str, producer: str, module: str) -> Any:
    return and_(
        table.c.platform_id == platform_id,
        table.c.subscriber == subscriber,
        table.c.producer == producer,
        table.c.module == module,
    )


async def _outbounds(tx: Tx, statement: Any) -> list[OutboundSubscription]:
    return [OutboundSubscription(*row) for row in await tx.execute(statement)]


async def outbound_by_id(tx: Tx, subscription_id: int) -> OutboundSubscription | None:
    """Read a partner's subscription."""
    row = (await tx.execute(_OUTBOUND.where(outbound.c.id == subscription_id))).first()
    return None if row is None else OutboundSubscription(*row)


async def outbound_by_ids(tx: Tx, subscription_ids: Collection[int]) -> list[OutboundSubscription]:
    """Read some of partners' subscriptions."""
    return await _outbounds(tx, _OUTBOUND.where(outbound.c.id.in_(subscription_ids)).order_by(outbound.c.id))


async def owned_by(tx: Tx, process_id: str) -> list[OutboundSubscription]:
    """List what a process pushes."""
    mine = (outbound.c.owner == process_id) & (outbound.c.state == OutboundState.LIVE)
    return await _outbounds(tx, _OUTBOUND.where(mine).order_by(outbound.c.id))


async def count_by_owner(tx: Tx) -> dict[tuple[str | None, bool], int]:
    """Count partners' subscriptions by owner, and whether they are live."""
    is_live = (outbound.c.state == OutboundState.LIVE).label("is_live")
    rows = await tx.execute(select(outbound.c.owner, is_live, func.count()).group_by(outbound.c.owner, is_live))
    return {(owner, bool(live)): count for owner, live, count in rows}


async def orphans(tx: Tx, *, live: bool, limit: int) -> list[OutboundSubscription]:
    """Read what no running process owns, and keep others from taking it until this transaction ends.

    Of those that are not live, only such as have an owner that is gone.
    """
    gone = outbound.c.owner.not_in(select(processes.c.id))
    if live:
        wanted = (outbound.c.state == OutboundState.LIVE) & (outbound.c.owner.is_(None) | gone)
    else:
        wanted = (outbound.c.state != OutboundState.LIVE) & gone
    statement = _OUTBOUND.where(wanted).order_by(outbound.c.id).limit(limit)
    return await _outbounds(tx, statement.with_for_update(of=outbound, skip_locked=True))


async def confirm(tx: Tx, subscription_id: int, epoch: int) -> None:
    """Say, as the owner, that nothing more is begun since this epoch."""
    row = (outbound.c.id == subscription_id) & (outbound.c.epoch == epoch)
    await tx.execute(update(outbound).where(row).values(confirmed_epoch=epoch))


async def find_outbound(
    tx: Tx, platform_id: int, subscriber: str, producer: str, module: str
) -> OutboundSubscription | None:
    """Find a partner's subscription by what identifies it."""
    row = (await tx.execute(_OUTBOUND.where(_identified(outbound, platform_id, subscriber, producer, module)))).first()
    return None if row is None else OutboundSubscription(*row)


async def all_outbound(tx: Tx, platform_id: int | None = None) -> list[OutboundSubscription]:
    """List partners' subscriptions, those that ended too."""
    statement = _OUTBOUND if platform_id is None else _OUTBOUND.where(outbound.c.platform_id == platform_id)
    return await _outbounds(tx, statement.order_by(outbound.c.id))


async def with_notice(tx: Tx) -> list[OutboundSubscription]:
    """List partners' subscriptions whose end is yet to be told."""
    return await _outbounds(tx, _OUTBOUND.where(outbound.c.notice_due_at.is_not(None)).order_by(outbound.c.id))


def _changed(tx: Tx, kind: Kind, subscription_id: int, values: Mapping[str, Any]) -> None:
    """Let other processes know of a subscription with these new values, and whoever follows if it is for them."""
    tx.touch(kind, subscription_id)
    if values.keys() & _TOLD:
        events.note(tx, kind, subscription_id)


async def add_outbound(tx: Tx, **values: Any) -> int:
    """Store a new partner's subscription and return its id."""
    result = await tx.execute(outbound.insert().values(**values).returning(outbound.c.id))
    subscription_id = int(result.scalar_one())
    _changed(tx, Kind.OUTBOUND, subscription_id, values)
    return subscription_id


async def change_outbound(tx: Tx, subscription: OutboundSubscription, **values: Any) -> None:
    """Change a partner's subscription, and raise its epoch so that its owner notices.

    Raises ``Fenced`` when it was changed since it was read.
    """
    result = await tx.execute(
        update(outbound)
        .where(outbound.c.id == subscription.id, outbound.c.epoch == subscription.epoch)
        .values(epoch=subscription.epoch + 1, **values)
    )
    if not result.rowcount:
        raise Fenced
    _changed(tx, Kind.OUTBOUND, subscription.id, values)


async def save_progress(tx: Tx, subscription_id: int, epoch: int, **values: Any) -> None:
    """Write what only the owner writes (watermark, first catch-up).

    Raises ``Fenced`` when the epoch is another.
    """
    result = await tx.execute(
        update(outbound).where(outbound.c.id == subscription_id, outbound.c.epoch == epoch).values(**values)
    )
    if not result.rowcount:
        raise Fenced
    if values.keys() & _TOLD:
        events.note(tx, Kind.OUTBOUND, subscription_id)


async def hold(tx: Tx, subscription_id: int, until: float) -> None:
    """Send nothing before this, in whatever life: requests may be in progress (R.03.02.17)."""
    await tx.execute(update(outbound).where(outbound.c.id == subscription_id).values(hold_until=until))


async def hold_fence(tx: Tx, subscription_id: int, epoch: int) -> None:
    """Keep the epoch as it is until this transaction ends.

    Raises ``Fenced`` when it is another.
    """
    result = await tx.execute(
        select(outbound.c.epoch).where(outbound.c.id == subscription_id).with_for_update(read=True)
    )
    if result.scalar() != epoch:
        raise Fenced


async def find_inbound(
    tx: Tx, platform_id: int, subscriber: str, producer: str, module: str
) -> InboundSubscription | None:
    """Find a subscription of ours by what identifies it."""
    row = (await tx.execute(_INBOUND.where(_identified(inbound, platform_id, subscriber, producer, module)))).first()
    return None if row is None else InboundSubscription(*row)


async def all_inbound(tx: Tx, platform_id: int | None = None) -> list[InboundSubscription]:
    """List subscriptions of ours, those that ended too."""
    statement = _INBOUND if platform_id is None else _INBOUND.where(inbound.c.platform_id == platform_id)
    return [InboundSubscription(*row) for row in await tx.execute(statement.order_by(inbound.c.id))]


async def inbounds_by_ids(tx: Tx, subscription_ids: Collection[int]) -> list[InboundSubscription]:
    """Read some of our subscriptions."""
    rows = await tx.execute(_INBOUND.where(inbound.c.id.in_(subscription_ids)).order_by(inbound.c.id))
    return [InboundSubscription(*row) for row in rows]


async def add_inbound(tx: Tx, **values: Any) -> int:
    """Store a new subscription of ours and return its id."""
    result = await tx.execute(inbound.insert().values(**values).returning(inbound.c.id))
    subscription_id = int(result.scalar_one())
    _changed(tx, Kind.INBOUND, subscription_id, values)
    return subscription_id


async def change_inbound(tx: Tx, subscription: InboundSubscription, **values: Any) -> None:
    """Change a subscription of ours.

    Raises ``Fenced`` when its state or life is no longer the one that was read.
    """
    result = await tx.execute(
        update(inbound)
        .where(
            inbound.c.id == subscription.id,
            inbound.c.state == subscription.state,
            inbound.c.life == subscription.life,
        )
        .values(**values)
    )
    if not result.rowcount:
        raise Fenced
    _changed(tx, Kind.INBOUND, subscription.id, values)
