"""What a subscription owes apart from its log: what failed and waits, what was refused, what was asked for again.

One row for each (subscription, issuer, object). It holds the backoff, so it survives restarts and later
lives. ``revision`` tells a worker whether a row is still the one that it read: whoever else touches a row
raises it, and a success deletes only the revision that it was sent for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, case, delete, func, select, update

from engine.store.database import Kind, Tx, insert_into
from engine.store.objects import View, left_out
from engine.store.tables import exceptions, objects

ANY_VERSION: Final = -1  # of a row for an object that was asked for again
ERROR_LENGTH_MAX: Final = 500  # enough for a person to see what went wrong; peers choose the text


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row: what failed, how often, and when it is due. ``ANY_VERSION``: it was asked for again."""

    issuer: str
    key: str
    object_id: str
    version: int
    attempts: int
    due_at: float
    first_failed_at: float | None
    last_error: str | None
    revision: int
    rejected: bool


_COLUMNS = (
    exceptions.c.issuer,
    exceptions.c.object_key,
    exceptions.c.object_id,
    exceptions.c.version,
    exceptions.c.attempts,
    exceptions.c.due_at,
    exceptions.c.first_failed_at,
    exceptions.c.last_error,
    exceptions.c.revision,
    exceptions.c.rejected,
)


async def due(tx: Tx, subscription_id: int, *, limit: int) -> list[Waiting]:
    """Read the rows that are due next, earliest first, whether their time has come or not."""
    rows = await tx.execute(
        select(*_COLUMNS)
        .where(exceptions.c.subscription_id == subscription_id, exceptions.c.rejected.is_(False))
        .order_by(exceptions.c.due_at)
        .limit(limit)
    )
    return [Waiting(*row) for row in rows]


async def failing(tx: Tx, subscription_id: int, *, limit: int) -> list[Waiting]:
    """Read rows for people: those that fail longest first, refused ones too."""
    rows = await tx.execute(
        select(*_COLUMNS)
        .where(exceptions.c.subscription_id == subscription_id)
        .order_by(exceptions.c.first_failed_at, exceptions.c.object_key)
        .limit(limit)
    )
    return [Waiting(*row) for row in rows]


async def by_keys(tx: Tx, subscription_id: int, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], Waiting]:
    """Look up rows by (issuer, key)."""
    wanted = set(keys)
    if not wanted:
        return {}
    rows = await tx.execute(
        select(*_COLUMNS).where(
            exceptions.c.subscription_id == subscription_id,
            exceptions.c.object_key.in_({key for _, key in wanted}),
        )
    )
    found = (Waiting(*row) for row in rows)
    return {(row.issuer, row.key): row for row in found if (row.issuer, row.key) in wanted}


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows a subscription has, and the soonest and oldest of them."""

    waiting: int
    rejected: int
    next_due_at: float | None
    first_failed_at: float | None


async def tally(tx: Tx, subscription_id: int, *, log: str, position: int, view: View) -> Tally:
    """Count rows; only where the object's newest change is at or before ``position``, or its snapshot leaves it out.

    Any other change counts as unread there, and an object is owed once.
    """
    rows = await tx.execute(
        select(
            func.coalesce(func.sum(case((exceptions.c.rejected, 0), else_=1)), 0),
            func.coalesce(func.sum(case((exceptions.c.rejected, 1), else_=0)), 0),
            func.min(case((exceptions.c.rejected, None), else_=exceptions.c.due_at)),
            func.min(case((exceptions.c.rejected, None), else_=exceptions.c.first_failed_at)),
        )
        .select_from(exceptions)
        .join(
            objects,
            (objects.c.log == log)
            & (objects.c.issuer == exceptions.c.issuer)
            & (objects.c.object_key == exceptions.c.object_key)
            & ((objects.c.seq <= position) | left_out(view)),
        )
        .where(exceptions.c.subscription_id == subscription_id)
    )
    waiting, rejected, next_due_at, first_failed_at = rows.one()
    return Tally(int(waiting), int(rejected), next_due_at, first_failed_at)


async def any_rows(tx: Tx, subscription_id: int) -> bool:
    """Say whether there is any row at all, so that the common case need not look them up."""
    rows = await tx.execute(
        select(exceptions.c.object_key).where(exceptions.c.subscription_id == subscription_id).limit(1)
    )
    return rows.first() is not None


def _upsert(dialect: str) -> Any:
    statement = insert_into(exceptions, dialect)
    new = statement.excluded
    kept = ("object_id", "version", "attempts", "due_at", "first_failed_at", "last_error", "rejected")
    return statement.on_conflict_do_update(
        index_elements=["subscription_id", "issuer", "object_key"],
        set_={name: new[name] for name in kept} | {"revision": exceptions.c.revision + 1},
    )


_UPSERTS: Final = {dialect: _upsert(dialect) for dialect in ("sqlite", "postgresql")}


def _row(subscription_id: int, entry: Waiting) -> dict[str, Any]:
    error = entry.last_error
    return {
        "subscription_id": subscription_id,
        "issuer": entry.issuer,
        "object_key": entry.key,
        "object_id": entry.object_id,
        "version": entry.version,
        "attempts": entry.attempts,
        "due_at": entry.due_at,
        "first_failed_at": entry.first_failed_at,
        "last_error": error if error is None else error[:ERROR_LENGTH_MAX],
        "revision": entry.revision,
        "rejected": entry.rejected,
    }


async def put(tx: Tx, subscription_id: int, entries: Sequence[Waiting]) -> None:
    """Write rows as given; a row that exists gets the next revision, a new one the revision of the entry."""
    if entries:
        rows = sorted(
            (_row(subscription_id, entry) for entry in entries), key=lambda row: (row["issuer"], row["object_key"])
        )
        await tx.execute(_UPSERTS[tx.connection.dialect.name], rows)


_DELETE_READ = delete(exceptions).where(
    exceptions.c.subscription_id == bindparam("of_subscription"),
    exceptions.c.issuer == bindparam("of_issuer"),
    exceptions.c.object_key == bindparam("of_key"),
    exceptions.c.revision == bindparam("of_revision"),
)


async def settle(tx: Tx, subscription_id: int, read: Sequence[tuple[str, str, int]]) -> None:
    """Delete rows (issuer, key, revision) whose object was delivered, where nobody touched them since."""
    if read:
        await tx.execute(
            _DELETE_READ,
            [
                {"of_subscription": subscription_id, "of_issuer": issuer, "of_key": key, "of_revision": revision}
                for issuer, key, revision in sorted(read)
            ],
        )


async def ask_again(
    tx: Tx, subscription_id: int, wanted: Sequence[tuple[str, str, str]], *, now: float, attempts: int = 0
) -> None:
    """Owe objects (issuer, key, id) once more, now (03.10); a row that waits keeps its attempts and its time."""
    if not wanted:
        return
    tx.touch(Kind.OUTBOUND, subscription_id)
    dialect = tx.connection.dialect.name
    statement = insert_into(exceptions, dialect)
    statement = statement.on_conflict_do_update(
        index_elements=["subscription_id", "issuer", "object_key"],
        # A refused version that is asked for again is owed again.
        set_={"revision": exceptions.c.revision + 1, "rejected": False},
    )
    entries = [
        Waiting(issuer, key, object_id, ANY_VERSION, attempts, now, None, None, int(now), rejected=False)
        for issuer, key, object_id in sorted(wanted)
    ]
    await tx.execute(statement, [_row(subscription_id, entry) for entry in entries])


async def make_due(tx: Tx, subscription_id: int, *, now: float) -> int:
    """Let everything that waits be due now (03.09); returns how many rows."""
    tx.touch(Kind.OUTBOUND, subscription_id)
    result = await tx.execute(
        update(exceptions)
        .where(
            exceptions.c.subscription_id == subscription_id,
            exceptions.c.rejected.is_(False),
            exceptions.c.due_at > now,
        )
        .values(due_at=now, revision=exceptions.c.revision + 1)
    )
    return int(result.rowcount)


async def drop(tx: Tx, subscription_id: int, issuer: str, key: str) -> bool:
    """Forget one row: the object is owed no more until it changes; says whether there was one."""
    tx.touch(Kind.OUTBOUND, subscription_id)
    result = await tx.execute(
        delete(exceptions).where(
            exceptions.c.subscription_id == subscription_id,
            exceptions.c.issuer == issuer,
            exceptions.c.object_key == key,
        )
    )
    return bool(result.rowcount)


async def clear(tx: Tx, subscription_id: int, *, rejected_only: bool = False) -> None:
    """Forget a subscription's rows: all, at its end (R.03.04.06); the refused ones, when a new life begins."""
    statement = delete(exceptions).where(exceptions.c.subscription_id == subscription_id)
    if rejected_only:
        statement = statement.where(exceptions.c.rejected.is_(True))
    await tx.execute(statement)
