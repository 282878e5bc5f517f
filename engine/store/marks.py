"""The mark by which a database is known, who holds it, and what was done when it was taken for an older one."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import insert, null, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.store.database import Tx, is_outage
from engine.store.tables import marks

_ROW: Final = 1

_SYSTEM: Final = text("SELECT CAST(system_identifier AS text) FROM pg_control_system()")
# What pg_control_checkpoint() tells is the timeline of the last checkpoint, which comes some time after a promotion.
_TIMELINE: Final = text("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")


@dataclass(frozen=True, slots=True)
class Server:
    """Which PostgreSQL holds a database: its system identifier, and the timeline, which each promotion makes anew.

    ``None``: it is SQLite, or one that does not tell. What is not known differs from nothing.
    """

    system: str | None = None
    timeline: str | None = None

    def differs(self, other: "Server") -> bool:
        """Say whether these are certainly two."""
        pairs = ((self.system, other.system), (self.timeline, other.timeline))
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)

    def known_by(self, earlier: "Server") -> "Server":
        """Add what an earlier look knew and this one was not told."""
        return Server(self.system or earlier.system, self.timeline or earlier.timeline)


UNTOLD: Final = Server()


async def read(tx: Tx) -> str | None:
    """Read the mark; None: this database never had one."""
    found: str | None = (await tx.execute(select(marks.c.mark).where(marks.c.id == _ROW))).scalar()
    return found


async def renew(tx: Tx, mark: str, *, known: Collection[str | None]) -> bool:
    """Give the database another mark, if it has one of these (None: none yet); False leaves it as it is.

    Looking and changing are one statement, so that a mark that comes from elsewhere meanwhile is not overwritten.
    """
    one_of = [each for each in known if each is not None]
    given = await tx.execute(update(marks).where(marks.c.id == _ROW, marks.c.mark.in_(one_of)).values(mark=mark))
    if given.rowcount or None not in known or await read(tx) is not None:
        return bool(given.rowcount)
    await tx.execute(insert(marks).values(id=_ROW, mark=mark, restored=null()))
    return True


async def note_restored(tx: Tx, what: dict[str, Any]) -> None:
    """Keep what was done because the mark was not known. ``id``: by which others see that it was done once more."""
    await tx.execute(update(marks).where(marks.c.id == _ROW).values(restored=what))


async def restored(tx: Tx) -> dict[str, Any] | None:
    """Read what was done when this was last taken for an older database."""
    found: dict[str, Any] | None = (await tx.execute(select(marks.c.restored).where(marks.c.id == _ROW))).scalar()
    return found


async def reissued_up_to(tx: Tx) -> int:
    """Read above which version a new object begins, since an older one of that name may have been sent."""
    return int((await restored(tx) or {}).get("reissued_up_to", 0))


async def server(tx: Tx) -> Server:
    """Ask PostgreSQL which one it is; both functions are open to every role unless somebody closed them."""
    if tx.connection.dialect.name != "postgresql":
        return UNTOLD
    return Server(await _told(tx, _SYSTEM), await _told(tx, _TIMELINE))


async def _told(tx: Tx, question: Any) -> str | None:
    """Ask what may be forbidden, unknown to a database that only speaks like PostgreSQL, or no use on a standby."""
    assert isinstance(tx.connection, AsyncConnection)  # noqa: S101 - on PostgreSQL there is no other
    try:
        async with tx.connection.begin_nested():
            answer = (await tx.execute(question)).scalar()
    except DBAPIError as error:
        if is_outage(error):
            raise
        return None
    return None if answer is None else str(answer)
