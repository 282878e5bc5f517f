"""Party Issued Objects: the newest version of each, under the number of its last change.

What was issued here and what was received live in one table; ``source_id`` tells them apart. Payloads are
bytes and stay the bytes that came in (B25). All functions take lists: the hot paths share commits.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Integer, and_, bindparam, func, insert, or_, select, update

from engine.protocol.ids import ObjectKey, PartyId
from engine.protocol.objects import REISSUE_LEAD_S, VERSION_EPOCH_S
from engine.protocol.subscriptions import TAKES_UPDATES
from engine.store.database import Pointer, Segment, Tx, insert_into
from engine.store.tables import inbound, logs, objects, platforms

ISSUED_HERE: Final = 0
KEYS_MAX: Final = 500  # keys in one IN list: well below what any database takes, and no gain beyond
# Log numbers start from a clock too, so that those of a database that was made anew stay above the old ones.
LOG_NUMBERS_PER_S: Final = 1000
STATEMENTS_MAX: Final = 1024  # subscribers with statements of their own; some 20 KB each


EVENTS: Final = "events"
"""The log of what is not an object: ``store/events.py``."""


def log_name(module: str, *, received: bool) -> str:
    """Name the change log of a module's issued or received objects."""
    return f"{module}/received" if received else module


@dataclass(frozen=True, slots=True)
class Held:
    """What is stored of an object, without its payload."""

    version: int
    life: int


@dataclass(frozen=True, slots=True)
class Change:
    """One object as it is to be stored. ``source_id`` is 0 for what is issued here.

    ``readdressed``: its audience was another one before.
    """

    source_id: int
    module: str
    issuer: PartyId
    key: ObjectKey
    object_id: str
    version: int
    life: int
    payload: bytes
    audience: str | None = None
    concluded_at: float | None = None
    readdressed: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What a subscription may see of what its producer issues, and what of that its snapshot has.

    Up to ``first_seq``, where the log ended at the subscriber's first subscribe, the snapshot leaves out what was over
    by ``snapshot_from``. What changed after that is always owed.
    """

    producer: str
    subscriber: str
    first_seq: int = 0
    snapshot_from: float = 0.0


@dataclass(frozen=True, slots=True)
class Owed:
    """An object as it is to be sent."""

    issuer: str
    key: str
    object_id: str
    version: int
    seq: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the local API shows it. ``platform`` and ``subscriber`` tell where a received one came from."""

    module: str
    issuer: str
    object_id: str
    version: int
    seq: int
    audience: tuple[str, ...] | None
    stored_at: float
    payload: bytes
    platform: str | None
    subscriber: str | None


def audience_text(audience: Collection[PartyId] | None) -> str | None:
    """Write an audience for its column; None: the sharing rules alone decide (B45)."""
    return None if audience is None else "," + "".join(f"{party}," for party in sorted(set(audience)))


def audience_parties(text: str | None) -> tuple[PartyId, ...] | None:
    """Read an audience from its column."""
    return None if text is None else tuple(PartyId(party) for party in text.split(",") if party)


def is_for(subscriber: str, audience: str | None) -> bool:
    """Say of an audience's text whether its publisher left this party out: ``may_see`` without a database."""
    return audience is None or f",{subscriber}," in audience


def may_see(subscriber: str) -> ColumnElement[bool]:
    """Restrict to objects whose publisher did not leave this party out."""
    return or_(objects.c.audience.is_(None), objects.c.audience.contains(f",{subscriber},", autoescape=True))


def _in_snapshot() -> ColumnElement[bool]:
    """Leave out what was over long before the first subscribe; the numbers are looked at first, since they are cheap.

    This is for reading the log. What is looked up by key was asked for, or failed before: it is owed at whatever age.
    """
    return or_(
        objects.c.seq > bindparam("first_seq"),
        objects.c.concluded_at.is_(None),
        objects.c.concluded_at > bindparam("snapshot_from"),
    )


def left_out(view: View) -> ColumnElement[bool]:
    """Restrict to what a snapshot does not have."""
    return and_(objects.c.seq <= view.first_seq, objects.c.concluded_at <= view.snapshot_from)


_LAST_NUMBER = select(logs.c.last_seq).where(logs.c.name == bindparam("log"))


async def last_number(tx: Tx, log: str) -> int:
    """Return the number of a log's last change; 0 when nothing was ever written to it."""
    result = await tx.execute(_LAST_NUMBER, {"log": log})
    return int(result.scalar() or 0)


_TAKE_NUMBERS = (
    update(logs)
    .where(logs.c.name == bindparam("log"))
    .values(last_seq=logs.c.last_seq + bindparam("count"))
    .returning(logs.c.last_seq)
)


async def take_numbers(tx: Tx, log: str, count: int, now: float) -> int:
    """Take the next ``count`` numbers of a log and return the one before them.

    A log begins at a number by the clock.
    """
    taken = await tx.execute(_TAKE_NUMBERS, {"log": log, "count": count})
    last = taken.scalar()
    if last is None:
        first = max(0, int((now - VERSION_EPOCH_S) * LOG_NUMBERS_PER_S))
        begun = await tx.execute(_BEGIN_LOGS[tx.connection.dialect.name], {"log": log, "first": first, "count": count})
        last = begun.scalar()
    return int(last or 0) - count


async def raise_numbers(tx: Tx, modules: Iterable[str], now: float, *, above: int = 0) -> None:
    """Let every log go on above every number that may have been handed out after this database was copied.

    Numbers start from a clock, so what ran ahead of it by less than a day is passed too. Logs that were not begun are
    begun: they may have been, in what was lost. ``above``: what ``highest`` told when this was last done.
    """
    clock = int(max(now - VERSION_EPOCH_S, above) * LOG_NUMBERS_PER_S)
    known: dict[str, int] = dict((await tx.execute(select(logs.c.name, logs.c.last_seq))).all())
    names = {*known, EVENTS, *(log_name(module, received=side) for module in modules for side in (True, False))}
    for name in sorted(names):
        raised = max(known.get(name, 0), clock) + REISSUE_LEAD_S * LOG_NUMBERS_PER_S
        if not (await tx.execute(update(logs).where(logs.c.name == name).values(last_seq=raised))).rowcount:
            await tx.execute(insert(logs).values(name=name, last_seq=raised))


async def highest(tx: Tx) -> int:
    """Read the version that nothing issued here is above, nor the time of any log number."""
    version = (await tx.execute(select(func.max(objects.c.version)).where(objects.c.source_id == ISSUED_HERE))).scalar()
    number = (await tx.execute(select(func.max(logs.c.last_seq)))).scalar()
    return max(int(version or 0), int(number or 0) // LOG_NUMBERS_PER_S + 1)


def _begin_log(dialect: str) -> Any:
    """Build the statement that begins a log, or goes on with it if another process has begun it meanwhile."""
    statement = insert_into(logs, dialect)
    count = bindparam("count", type_=BigInteger)
    return (
        statement.values(name=bindparam("log"), last_seq=bindparam("first", type_=BigInteger) + count)
        .on_conflict_do_update(index_elements=["name"], set_={"last_seq": logs.c.last_seq + count})
        .returning(logs.c.last_seq)
    )


_BEGIN_LOGS: Final = {dialect: _begin_log(dialect) for dialect in ("sqlite", "postgresql")}


_HELD = (
    select(inbound.c.state, inbound.c.life, objects.c.object_key, objects.c.version, objects.c.life)
    .outerjoin(
        objects,
        and_(
            objects.c.source_id == bindparam("source_id"),
            objects.c.module == bindparam("module"),
            objects.c.issuer == bindparam("issuer"),
            objects.c.object_key.in_(bindparam("keys", expanding=True)),
        ),
    )
    .where(inbound.c.id == bindparam("source_id"))
)


async def held(
    tx: Tx, source_id: int, module: str, issuer: str, keys: Sequence[str]
) -> tuple[int | None, dict[str, Held]]:
    """Look up the present life of a subscription of ours, None if it takes no updates, and its copies by key."""
    present: int | None = None
    found: dict[str, Held] = {}
    for part in _parts(keys):
        wanted = {"source_id": source_id, "module": module, "issuer": issuer, "keys": part}
        for state, present_life, key, version, life in await tx.execute(_HELD, wanted):
            present = present_life if state in TAKES_UPDATES else None
            if key is not None:
                found[key] = Held(version, life)
    return present, found


@dataclass(frozen=True, slots=True)
class Issued:
    """What is stored of an object issued here."""

    object_id: str
    version: int
    payload: bytes
    audience: str | None


_ISSUED = select(
    objects.c.object_key, objects.c.object_id, objects.c.version, objects.c.payload, objects.c.audience
).where(
    objects.c.source_id == ISSUED_HERE,
    objects.c.module == bindparam("module"),
    objects.c.issuer == bindparam("issuer"),
    objects.c.object_key.in_(bindparam("keys", expanding=True)),
)


async def issued(tx: Tx, module: str, issuer: str, keys: Sequence[str]) -> dict[str, Issued]:
    """Look up objects issued here by key, with what tells whether a publication changes them."""
    found: dict[str, Issued] = {}
    for part in _parts(keys):
        rows = await tx.execute(_ISSUED, {"module": module, "issuer": issuer, "keys": part})
        found.update((key, Issued(*known)) for key, *known in rows)
    return found


_ALL_ISSUED = (
    select(objects.c.seq, objects.c.object_id, objects.c.version, objects.c.payload, objects.c.audience)
    .where(
        objects.c.log == bindparam("log"),
        objects.c.seq > bindparam("after"),
        objects.c.source_id == ISSUED_HERE,
        objects.c.issuer == bindparam("issuer"),
    )
    .order_by(objects.c.seq)
    .limit(bindparam("page", type_=Integer))
)


async def all_issued(tx: Tx, module: str, issuer: str, *, after: int, limit: int) -> list[tuple[int, Issued]]:
    """Read what a party issued, with the log numbers, in the order of last change."""
    log = log_name(module, received=False)
    rows = await tx.execute(_ALL_ISSUED, {"log": log, "after": after, "issuer": issuer, "page": limit})
    return [(seq, Issued(*known)) for seq, *known in rows]


def _upsert(dialect: str, *, received: bool) -> Any:
    """Build the statement that stores a change; for received ones the version comparison is part of the write."""
    statement = insert_into(objects, dialect)
    new = statement.excluded
    newer = (new.version > objects.c.version) | (new.life != objects.c.life) if received else new.seq > objects.c.seq
    kept = ("object_id", "version", "life", "seq", "audience", "concluded_at", "stored_at", "payload")
    return statement.on_conflict_do_update(
        index_elements=["source_id", "module", "issuer", "object_key"],
        set_={name: new[name] for name in kept},
        where=newer,
    )


_UPSERTS: Final = {
    (dialect, received): _upsert(dialect, received=received)
    for dialect in ("sqlite", "postgresql")
    for received in (True, False)
}


async def store(tx: Tx, changes: Sequence[Change], *, received: bool, now: float) -> None:
    """Store changes under the next numbers of their logs, and note what was written for the queues.

    Rows are written in key order, so that two processes cannot wait for each other.
    """
    statement = _UPSERTS[tx.connection.dialect.name, received]
    ordered = sorted(changes, key=lambda change: (change.module, change.source_id, change.issuer, change.key))
    for module, group in groupby(ordered, key=lambda change: change.module):
        batch = list(group)
        log = log_name(module, received=received)
        start = await take_numbers(tx, log, len(batch), now)
        rows = [
            {
                "source_id": change.source_id,
                "module": module,
                "issuer": change.issuer,
                "object_key": change.key,
                "object_id": change.object_id,
                "version": change.version,
                "life": change.life,
                "log": log,
                "seq": seq,
                "audience": change.audience,
                "concluded_at": change.concluded_at,
                "stored_at": now,
                "payload": change.payload,
            }
            for seq, change in enumerate(batch, start + 1)
        ]
        await tx.execute(statement, rows)
        pointers = tuple(
            Pointer(change.issuer, change.key, change.version, seq, change.audience, change.readdressed)
            for seq, change in enumerate(batch, start + 1)
        )
        tx.segments.append(Segment(log, start, start + len(batch), pointers))


_OWED = (
    objects.c.issuer,
    objects.c.object_key,
    objects.c.object_id,
    objects.c.version,
    objects.c.seq,
    objects.c.payload,
)


def _visible(view: View) -> tuple[ColumnElement[bool], ...]:
    return (objects.c.source_id == ISSUED_HERE, objects.c.issuer == view.producer, may_see(view.subscriber))


# Statements of the hot paths are built once for each subscriber: building one costs more than running it.
@lru_cache(maxsize=STATEMENTS_MAX)
def _walk(subscriber: str) -> Any:
    return (
        select(*_OWED)
        .where(
            objects.c.log == bindparam("log"),
            objects.c.seq > bindparam("after"),
            objects.c.source_id == ISSUED_HERE,
            objects.c.issuer == bindparam("producer"),
            _in_snapshot(),
            may_see(subscriber),
        )
        .order_by(objects.c.seq)
        .limit(bindparam("page", type_=Integer))
    )


@lru_cache(maxsize=STATEMENTS_MAX)
def _newest(subscriber: str) -> Any:
    return select(*_OWED).where(
        objects.c.source_id == ISSUED_HERE,
        objects.c.module == bindparam("module"),
        objects.c.issuer == bindparam("issuer"),
        objects.c.object_key.in_(bindparam("keys", expanding=True)),
        may_see(subscriber),
    )


async def walk(tx: Tx, log: str, view: View, *, after: int, limit: int) -> list[Owed]:
    """Read the log from a position: the newest version of each visible object, in the order of last change."""
    rows = await tx.execute(_walk(view.subscriber), _part_of_log(log, view, after) | {"page": limit})
    return [Owed(*row) for row in rows]


def _part_of_log(log: str, view: View, after: int) -> dict[str, Any]:
    return {
        "log": log,
        "after": after,
        "producer": view.producer,
        "first_seq": view.first_seq,
        "snapshot_from": view.snapshot_from,
    }


async def newest(tx: Tx, module: str, view: View, *, keys: Sequence[tuple[str, str]]) -> list[Owed]:
    """Read objects by (issuer, key), as they are now; those that are not visible are left out."""
    found: list[Owed] = []
    for part in _parts([key for issuer, key in sorted(keys) if issuer == view.producer]):
        rows = await tx.execute(_newest(view.subscriber), {"module": module, "issuer": view.producer, "keys": part})
        found.extend(Owed(*row) for row in rows)
    return found


async def by_id(tx: Tx, module: str, view: View, *, key: str) -> list[Owed]:
    """Find an object by id alone, of every issuer visible (B35)."""
    rows = await tx.execute(
        select(*_OWED).where(objects.c.module == module, objects.c.object_key == key, *_visible(view))
    )
    return [Owed(*row) for row in rows]


@lru_cache(maxsize=STATEMENTS_MAX)
def _count(subscriber: str) -> Any:
    return select(func.count(), func.min(objects.c.stored_at)).where(
        objects.c.log == bindparam("log"),
        objects.c.seq > bindparam("after"),
        objects.c.source_id == ISSUED_HERE,
        objects.c.issuer == bindparam("producer"),
        _in_snapshot(),
        may_see(subscriber),
    )


async def count_after(tx: Tx, log: str, view: View, *, after: int) -> tuple[int, float | None]:
    """Count visible objects that changed after a position, and say when the oldest of them did."""
    rows = await tx.execute(_count(view.subscriber), _part_of_log(log, view, after))
    count, oldest = rows.one()
    return int(count), oldest


async def changed_after(tx: Tx, log: str, keys: Collection[tuple[str, str]], *, after: int) -> set[tuple[str, str]]:
    """Say which of these objects, by (issuer, key), changed after a position."""
    wanted = set(keys)
    rows = await tx.execute(
        select(objects.c.issuer, objects.c.object_key).where(
            objects.c.log == log, objects.c.seq > after, objects.c.object_key.in_({key for _, key in wanted})
        )
    )
    return {(issuer, key) for issuer, key in rows} & wanted


async def reissuable(
    tx: Tx, *, party: str | None, module: str | None, after: int, limit: int
) -> list[tuple[int, Change]]:
    """Read objects issued here in the order of their row numbers, for giving each a new version."""
    statement = select(
        objects.c.pk,
        objects.c.module,
        objects.c.issuer,
        objects.c.object_key,
        objects.c.object_id,
        objects.c.version,
        objects.c.payload,
        objects.c.audience,
        objects.c.concluded_at,
    ).where(objects.c.source_id == ISSUED_HERE, objects.c.pk > after)
    if party is not None:
        statement = statement.where(objects.c.issuer == party)
    if module is not None:
        statement = statement.where(objects.c.module == module)
    rows = await tx.execute(statement.order_by(objects.c.pk).limit(limit))
    return [
        (
            row.pk,
            Change(
                ISSUED_HERE,
                row.module,
                row.issuer,
                row.object_key,
                row.object_id,
                row.version,
                0,
                row.payload,
                row.audience,
                row.concluded_at,
            ),
        )
        for row in rows
    ]


async def count_by_module(tx: Tx, *, received: bool) -> dict[tuple[str, str], int]:
    """Count objects by (module, issuer)."""
    source = objects.c.source_id != ISSUED_HERE if received else objects.c.source_id == ISSUED_HERE
    rows = await tx.execute(
        select(objects.c.module, objects.c.issuer, func.count())
        .where(source)
        .group_by(objects.c.module, objects.c.issuer)
    )
    return {(module, issuer): count for module, issuer, count in rows}


_STORED = (
    select(
        objects.c.module,
        objects.c.issuer,
        objects.c.object_id,
        objects.c.version,
        objects.c.seq,
        objects.c.audience,
        objects.c.stored_at,
        objects.c.payload,
        platforms.c.identity,
        inbound.c.subscriber,
    )
    .select_from(objects)
    .outerjoin(inbound, inbound.c.id == objects.c.source_id)
    .outerjoin(platforms, platforms.c.id == inbound.c.platform_id)
)


async def page(
    tx: Tx,
    *,
    module: str,
    received: bool,
    issuer: str | None = None,
    platform_id: int | None = None,
    subscriber: str | None = None,
    after: int = 0,
    limit: int,
) -> list[StoredObject]:
    """Read objects in the order of their last change, after a cursor (a ``seq``) that never skips.

    An object that changes moves to the end, so a reader that goes on sees it again, never misses it.
    """
    statement = _STORED.where(objects.c.log == log_name(module, received=received), objects.c.seq > after)
    for column, wanted in (
        (objects.c.issuer, issuer),
        (inbound.c.platform_id, platform_id),
        (inbound.c.subscriber, subscriber),
    ):
        if wanted is not None:
            statement = statement.where(column == wanted)
    return [_stored(row) for row in await tx.execute(statement.order_by(objects.c.seq).limit(limit))]


async def one(
    tx: Tx, module: str, issuer: str, key: str, *, received: bool, subscriber: str | None = None
) -> list[StoredObject]:
    """Read an object by its id: at most one issued here; received, one copy for each subscription it came under."""
    statement = _STORED.where(
        objects.c.log == log_name(module, received=received), objects.c.issuer == issuer, objects.c.object_key == key
    )
    if subscriber is not None:
        statement = statement.where(inbound.c.subscriber == subscriber)
    return [_stored(row) for row in await tx.execute(statement.order_by(objects.c.pk))]


def _stored(row: Any) -> StoredObject:
    return StoredObject(
        row.module,
        row.issuer,
        row.object_id,
        row.version,
        row.seq,
        audience_parties(row.audience),
        row.stored_at,
        row.payload,
        row.identity,
        row.subscriber,
    )


def _parts(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + KEYS_MAX] for start in range(0, len(keys), KEYS_MAX))
