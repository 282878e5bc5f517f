"""Which processes run on this store. A row that is left over is an unclean end."""

from sqlalchemy import delete, select, update

from engine.store.database import Tx
from engine.store.tables import processes


async def left_over(tx: Tx) -> list[str]:
    """List processes that did not say that they ended."""
    return [row.id for row in await tx.execute(select(processes.c.id))]


async def enter(tx: Tx, process_id: str, *, now: float, lease_s: float) -> None:
    """Note that a process runs, and forget those before it."""
    await tx.execute(delete(processes))
    await tx.execute(processes.insert().values(id=process_id, started_at=now, lease_until=now + lease_s))


async def renew(tx: Tx, process_id: str, *, lease_until: float) -> None:
    """Say that a process still runs."""
    await tx.execute(update(processes).where(processes.c.id == process_id).values(lease_until=lease_until))


async def leave(tx: Tx, process_id: str) -> None:
    """Note that a process ended cleanly: nothing of it is under way."""
    await tx.execute(delete(processes).where(processes.c.id == process_id))
