"""Calls and subscriptions in the order of their last change: what event streams tell of beside objects.

A row says of one thing at which number of the log it last changed. Numbers are taken as the last act of a transaction,
under a lock that is held until its commit: a reader never steps over one that is still to come.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select

from engine.protocol.objects import VERSION_EPOCH_S
from engine.store.database import Kind, Segment, Tx, insert_into
from engine.store.objects import EVENTS, take_numbers
from engine.store.tables import events


@dataclass(frozen=True, slots=True)
class Event:
    """The last change of one thing; ``key`` is its id."""

    seq: int
    kind: Kind
    key: int


def note(tx: Tx, kind: Kind, key: int) -> None:
    """Note that this transaction changes what followers see of a thing."""
    if not tx.changed:
        tx.before_commit.append(_number)
    tx.changed.add((kind, key))


async def _number(tx: Tx) -> None:
    changed = sorted(tx.changed)
    start = await take_numbers(tx, EVENTS, len(changed), VERSION_EPOCH_S)
    rows = [{"kind": kind.value, "key": key, "seq": seq} for seq, (kind, key) in enumerate(changed, start + 1)]
    await tx.execute(_STORE[tx.connection.dialect.name], rows)
    tx.segments.append(Segment(EVENTS, start, start + len(rows), ()))


def _store(dialect: str) -> Any:
    statement = insert_into(events, dialect)
    return statement.on_conflict_do_update(
        index_elements=["kind", "key"],
        set_={"seq": statement.excluded.seq},
        where=statement.excluded.seq > events.c.seq,
    )


_STORE: Final = {dialect: _store(dialect) for dialect in ("sqlite", "postgresql")}


async def page(tx: Tx, *, kinds: Collection[Kind], after: int, limit: int) -> Sequence[Event]:
    """Read what changed after a number, in the order of last change."""
    wanted = select(events.c.seq, events.c.kind, events.c.key).where(events.c.seq > after)
    rows = await tx.execute(wanted.where(events.c.kind.in_(kinds)).order_by(events.c.seq).limit(limit))
    return [Event(seq, Kind(kind), key) for seq, kind, key in rows]


async def forget(tx: Tx, kind: Kind, keys: Collection[int]) -> None:
    """Forget things that are no more."""
    await tx.execute(events.delete().where(events.c.kind == kind.value, events.c.key.in_(keys)))
