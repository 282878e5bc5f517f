"""Which processes run on this store, what each of them claims, and how the others hear of changes.

Leases are counted by PostgreSQL's clock, since processes on several machines have several; with SQLite there is one
process, and its own clock will do.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import ColumnElement, delete, func, literal, null, select, update
from sqlalchemy.dialects.postgresql import insert

from engine.protocol.subscriptions import OutboundState
from engine.store.database import Tx
from engine.store.tables import claims, outbound, processes, revisions

LEADER: Final = 0
"""The key of a claim to a whole kind of periodic work; what is claimed one by one has ids from 1."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs on this store. ``owned``: live subscriptions that it pushes to."""

    id: str
    host: str | None
    pid: int | None
    started_at: float
    owned: int


def _now(tx: Tx, now: float) -> ColumnElement[float]:
    if tx.connection.dialect.name == "postgresql":
        return func.extract("epoch", func.clock_timestamp()).cast(processes.c.lease_until.type)
    return literal(now)


async def enter(tx: Tx, process_id: str, *, host: str, pid: int, now: float, lease_s: float, alone: bool) -> None:
    """Note that a process runs; one that is ``alone`` knows that all others ended."""
    if alone:
        await tx.execute(delete(processes))
    values = {"id": process_id, "host": host, "pid": pid, "started_at": now, "lease_until": _now(tx, now) + lease_s}
    await tx.execute(processes.insert().values(**values))


async def renew(tx: Tx, process_id: str, *, now: float, lease_s: float) -> bool:
    """Say that a process still runs; False when it is taken for gone already."""
    statement = update(processes).where(processes.c.id == process_id)
    return bool((await tx.execute(statement.values(lease_until=_now(tx, now) + lease_s))).rowcount)


async def bury(tx: Tx, *, now: float) -> int:
    """Forget processes whose lease ran out, with what they claimed; returns how many."""
    return int((await tx.execute(delete(processes).where(processes.c.lease_until < _now(tx, now)))).rowcount)


async def leave(tx: Tx, process_id: str) -> None:
    """Note that a process ended cleanly: nothing of it is under way."""
    await tx.execute(update(outbound).where(outbound.c.owner == process_id).values(owner=null()))
    await tx.execute(delete(processes).where(processes.c.id == process_id))


async def running(tx: Tx) -> list[Process]:
    """List the processes that run, those that have run longest first."""
    owned = (
        select(func.count())
        .where(outbound.c.owner == processes.c.id, outbound.c.state == OutboundState.LIVE)
        .scalar_subquery()
    )
    columns = processes.c
    statement = select(columns.id, columns.host, columns.pid, columns.started_at, owned)
    return [Process(*row) for row in await tx.execute(statement.order_by(columns.started_at, columns.id))]


async def ids(tx: Tx) -> set[str]:
    """Read which processes run."""
    return set((await tx.execute(select(processes.c.id))).scalars())


async def is_running(tx: Tx, process_id: str) -> bool:
    """Say whether a process is one that runs."""
    return (await tx.execute(select(processes.c.id).where(processes.c.id == process_id))).first() is not None


# -- claims -------------------------------------------------------------------------------------------------


async def claim(tx: Tx, kind: str, key: int, process_id: str) -> bool:
    """Claim something for a process; False when another one that runs has it. PostgreSQL only."""
    values = {"kind": kind, "key": key, "process_id": process_id}
    added = await tx.execute(insert(claims).values(**values).on_conflict_do_nothing())
    if added.rowcount:
        return True
    holder = await tx.execute(select(claims.c.process_id).where(claims.c.kind == kind, claims.c.key == key))
    return bool(holder.scalar() == process_id)


async def disclaim(tx: Tx, kind: str, key: int, process_id: str) -> None:
    """Let something go."""
    mine = (claims.c.kind == kind) & (claims.c.key == key) & (claims.c.process_id == process_id)
    await tx.execute(delete(claims).where(mine))


async def claimed(tx: Tx, kind: str, *, but: str) -> set[int]:
    """Read what of a kind processes have claimed, except one of them."""
    statement = select(claims.c.key).where(claims.c.kind == kind, claims.c.process_id != but)
    return set((await tx.execute(statement)).scalars())


async def leaders(tx: Tx) -> dict[str, str]:
    """Say which process does each kind of periodic work."""
    rows = await tx.execute(select(claims.c.kind, claims.c.process_id).where(claims.c.key == LEADER))
    return dict(rows.all())


# -- what others have in memory -----------------------------------------------------------------------------


_NEXT_REVISION: Final = (
    insert(revisions)
    .on_conflict_do_update(index_elements=["kind"], set_={"number": revisions.c.number + 1})
    .returning(revisions.c.number)
)


async def raise_revisions(tx: Tx, kinds: Collection[str]) -> dict[str, int]:
    """Take the next number of each kind. Their rows are held until the commit, so numbers come in commits' order."""
    numbers: dict[str, int] = {}
    for kind in sorted(kinds):  # always in this order: no deadlock
        numbers[kind] = (await tx.execute(_NEXT_REVISION, {"kind": kind, "number": 1})).scalar_one()
    return numbers


async def all_revisions(tx: Tx) -> Mapping[str, int]:
    """Read the numbers of all kinds."""
    rows = await tx.execute(select(revisions.c.kind, revisions.c.number))
    return dict(rows.all())


async def notify(tx: Tx, channel: str, message: str) -> None:
    """Tell whoever listens, once this is committed. PostgreSQL only."""
    await tx.execute(select(func.pg_notify(channel, message)))
