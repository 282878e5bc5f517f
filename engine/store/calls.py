"""Calls on both sides, their results, and the callbacks that are owed.

A row of ``calls`` is one call, asked by a party of ours or of a partner. A row of ``call_results`` is one result:
a partner's that was received, or one of ours, which is owed until the partner has it. Whoever changes a call reads
it with ``lock``, judges by what it is then, and writes in the same transaction, so several processes may.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import and_, bindparam, delete, exists, func, insert, or_, select, update

from engine.protocol.calls import CallState, Delivery, Meaning
from engine.store import events
from engine.store.database import Kind, Tx, insert_into
from engine.store.tables import call_results, calls, platforms


@dataclass(frozen=True, slots=True)
class StoredCall:
    """A call. ``platform`` is the partner's identity; times are seconds since the epoch."""

    id: int
    asked_here: bool
    platform_id: int
    platform: str
    sender: str
    receiver: str
    module: str
    operation: str
    asynchronous: bool
    state: CallState
    callback_id: str | None
    request_id: str
    correlation_id: str
    digest: bytes | None
    asked_at: float
    answered_at: float | None
    deadline_at: float | None
    ended_at: float | None
    http_status: int | None
    status_code: int | None
    message: str | None
    routed_receiver: str | None
    hand_over_at: float | None
    hand_overs: int
    hand_over_error: str | None
    payload: bytes
    answer: bytes | None

    @property
    def party(self) -> str:
        """The party of ours."""
        return self.sender if self.asked_here else self.receiver


@dataclass(frozen=True, slots=True)
class StoredResult:
    """A result of a call; ``body`` is the AsyncResponse. Without ``delivery`` it is a partner's."""

    id: int
    call_id: int
    platform_id: int
    at: float
    meaning: Meaning
    result_type: str
    note: str | None
    delivery: Delivery | None
    due_at: float | None
    attempts: int
    settled_at: float | None
    last_error: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Owed:
    """A callback to be delivered: which, by whom to whom, and under which id."""

    result_id: int
    call_id: int
    sender: str
    receiver: str
    callback_id: str
    correlation_id: str
    body: bytes
    at: float
    due_at: float
    attempts: int


_CALL = select(
    *(platforms.c.identity if field.name == "platform" else calls.c[field.name] for field in fields(StoredCall))
).join_from(calls, platforms, platforms.c.id == calls.c.platform_id)
_BY_ID = _CALL.where(calls.c.id == bindparam("wanted"))
_LOCK_BY_ID = _BY_ID.with_for_update(of=calls)
_RESULT = select(*(call_results.c[field.name] for field in fields(StoredResult)))
_EARLIER = call_results.alias("earlier")
_OWED = (  # built once, as those above: building one takes longer than running it
    select(
        call_results.c.id,
        calls.c.id,
        calls.c.receiver,
        calls.c.sender,
        calls.c.callback_id,
        calls.c.correlation_id,
        call_results.c.body,
        call_results.c.at,
        call_results.c.due_at,
        call_results.c.attempts,
    )
    .join_from(call_results, calls, calls.c.id == call_results.c.call_id)
    .where(
        call_results.c.platform_id == bindparam("to"),
        call_results.c.due_at.is_not(None),
        ~exists().where(
            _EARLIER.c.call_id == call_results.c.call_id,
            _EARLIER.c.id < call_results.c.id,
            _EARLIER.c.due_at.is_not(None),
        ),
        call_results.c.call_id.not_in(bindparam("but", expanding=True)),
    )
    .order_by(call_results.c.due_at, call_results.c.id)
    .limit(bindparam("at_most"))
)


def _call(row: Any) -> StoredCall:
    values = dict(zip((field.name for field in fields(StoredCall)), row, strict=True))
    return StoredCall(**values | {"state": CallState(values["state"])})


def _result(row: Any) -> StoredResult:
    values = dict(zip((field.name for field in fields(StoredResult)), row, strict=True))
    delivery = values["delivery"]
    values |= {"meaning": Meaning(values["meaning"]), "delivery": None if delivery is None else Delivery(delivery)}
    return StoredResult(**values)


# -- calls --------------------------------------------------------------------------------------------------


async def add(tx: Tx, **values: Any) -> int | None:
    """Store a call; None if its request or its callback id is known already (``repeated`` finds that one)."""
    statement = (
        insert_into(calls, tx.connection.dialect.name).values(**values).on_conflict_do_nothing().returning(calls.c.id)
    )
    call_id: int | None = (await tx.execute(statement)).scalar_one_or_none()
    if call_id is not None:
        _changed(tx, call_id)
    return call_id


def _changed(tx: Tx, call_id: int) -> None:
    """Let other processes know, and whoever follows."""
    tx.touch(Kind.CALLS, call_id)
    events.note(tx, Kind.CALLS, call_id)


async def by_id(tx: Tx, call_id: int, *, lock: bool = False) -> StoredCall | None:
    """Read a call; ``lock`` keeps others from changing it until this transaction ends."""
    row = (await tx.execute(_LOCK_BY_ID if lock else _BY_ID, {"wanted": call_id})).first()
    return None if row is None else _call(row)


async def by_ids(tx: Tx, call_ids: Collection[int]) -> list[StoredCall]:
    """Read some calls."""
    return [_call(row) for row in await tx.execute(_CALL.where(calls.c.id.in_(call_ids)))]


async def by_callback(tx: Tx, callback_id: str, *, lock: bool = False) -> StoredCall | None:
    """Find the call of ours whose result comes under this id, whoever it was asked of."""
    return await _one(tx, calls.c.callback_id == callback_id, calls.c.asked_here.is_(True), lock=lock)


async def repeated(
    tx: Tx, platform_id: int, sender: str, receiver: str, *, request_id: str, digest: bytes, callback_id: str | None
) -> StoredCall | None:
    """Find what a partner asked with the same request or callback id; whether it is the same its digest says."""
    same = [and_(calls.c.request_id == request_id, calls.c.digest == digest)]
    if callback_id is not None:
        same.append(calls.c.callback_id == callback_id)
    return await _one(
        tx,
        calls.c.asked_here.is_(False),
        calls.c.platform_id == platform_id,
        calls.c.sender == sender,
        calls.c.receiver == receiver,
        or_(*same),
    )


async def _one(tx: Tx, *where: Any, lock: bool = False) -> StoredCall | None:
    statement = _CALL.where(*where).order_by(calls.c.id).limit(1)
    row = (await tx.execute(statement.with_for_update(of=calls) if lock else statement)).first()
    return None if row is None else _call(row)


async def change(tx: Tx, call_id: int, **values: Any) -> None:
    """Change columns of a call."""
    await tx.execute(update(calls).where(calls.c.id == call_id).values(**values))
    _changed(tx, call_id)


async def page(
    tx: Tx,
    *,
    party: str | None,
    is_open: bool | None,
    asked_here: bool | None,
    before: int | None,
    limit: int,
) -> list[StoredCall]:
    """Read calls, newest first."""
    where: list[Any] = []
    if party is not None:
        ours = and_(calls.c.asked_here.is_(True), calls.c.sender == party)
        where.append(or_(ours, and_(calls.c.asked_here.is_(False), calls.c.receiver == party)))
    if is_open is not None:
        where.append(calls.c.ended_at.is_(None) if is_open else calls.c.ended_at.is_not(None))
    if asked_here is not None:
        where.append(calls.c.asked_here.is_(asked_here))
    if before is not None:
        where.append(calls.c.id < before)
    rows = await tx.execute(_CALL.where(*where).order_by(calls.c.id.desc()).limit(limit))
    return [_call(row) for row in rows]


async def overdue(tx: Tx, *, now: float, limit: int) -> list[int]:
    """Read which calls have no result by their deadline, the longest due first."""
    late = (calls.c.ended_at.is_(None)) & (calls.c.deadline_at <= now)
    return list((await tx.execute(select(calls.c.id).where(late).order_by(calls.c.deadline_at).limit(limit))).scalars())


async def next_deadline(tx: Tx) -> float | None:
    """Read when the next call times out."""
    found: float | None = (
        await tx.execute(select(func.min(calls.c.deadline_at)).where(calls.c.ended_at.is_(None)))
    ).scalar()
    return found


async def to_hand_over(tx: Tx, *, limit: int) -> list[tuple[int, float]]:
    """Read which calls the back office does not have yet, and when it is to get them, earliest first."""
    statement = select(calls.c.id, calls.c.hand_over_at).where(calls.c.hand_over_at.is_not(None))
    rows = await tx.execute(statement.order_by(calls.c.hand_over_at).limit(limit))
    return [(call_id, at) for call_id, at in rows]


async def count_open(tx: Tx, platform_id: int, *, limit: int) -> int:
    """Count what a partner asked that waits for its result, up to a limit."""
    waiting = (
        select(calls.c.id)
        .where(calls.c.ended_at.is_(None), calls.c.platform_id == platform_id, calls.c.asked_here.is_(False))
        .limit(limit)
    )
    return int((await tx.execute(select(func.count()).select_from(waiting.subquery()))).scalar_one())


async def count(tx: Tx) -> dict[tuple[bool, CallState], tuple[int, float]]:
    """Count calls that wait for something, by who asked and their state, with the time of the oldest."""
    columns = (calls.c.asked_here, calls.c.state)
    statement = select(*columns, func.count(), func.min(calls.c.asked_at)).where(calls.c.ended_at.is_(None))
    rows = await tx.execute(statement.group_by(*columns))
    return {(bool(here), CallState(state)): (number, oldest) for here, state, number, oldest in rows}


async def handing_over(tx: Tx, *, limit: int) -> list[StoredCall]:
    """Read calls that were handed over in vain, those that have waited longest first."""
    failed = calls.c.hand_over_at.is_not(None) & (calls.c.hand_overs > 0)
    return [_call(row) for row in await tx.execute(_CALL.where(failed).order_by(calls.c.asked_at).limit(limit))]


async def forget(tx: Tx, *, ended_before: float, limit: int) -> int:
    """Forget calls that ended long ago and whose results are not owed any more; returns how many."""
    owed = exists().where(call_results.c.call_id == calls.c.id, call_results.c.due_at.is_not(None))
    old = select(calls.c.id).where(calls.c.ended_at < ended_before, ~owed).order_by(calls.c.ended_at).limit(limit)
    found = list((await tx.execute(old)).scalars())
    if found:
        await tx.execute(delete(call_results).where(call_results.c.call_id.in_(found)))
        await tx.execute(delete(calls).where(calls.c.id.in_(found)))
        await events.forget(tx, Kind.CALLS, found)
    return len(found)


async def open_with(tx: Tx, platform_id: int) -> list[StoredCall]:
    """Read the calls with a platform that wait for something, and keep others from changing them."""
    here = (calls.c.platform_id == platform_id) & calls.c.ended_at.is_(None)
    rows = await tx.execute(_CALL.where(here).order_by(calls.c.id).with_for_update(of=calls))
    return [_call(row) for row in rows]


# -- results ------------------------------------------------------------------------------------------------


async def add_result(tx: Tx, call: StoredCall, **values: Any) -> int:
    """Store a result of a call, received or owed."""
    whose = {"call_id": call.id, "platform_id": call.platform_id}
    statement = insert(call_results).values(**whose, **values).returning(call_results.c.id)
    _changed(tx, call.id)
    return int((await tx.execute(statement)).scalar_one())


async def results(tx: Tx, call_ids: Collection[int]) -> Mapping[int, Sequence[StoredResult]]:
    """Read the results of calls, in the order in which they came or were given."""
    found: defaultdict[int, list[StoredResult]] = defaultdict(list)
    wanted = _RESULT.where(call_results.c.call_id.in_(call_ids)).order_by(call_results.c.id)
    for row in await tx.execute(wanted):
        result = _result(row)
        found[result.call_id].append(result)
    return found


async def is_known(tx: Tx, call_id: int, body: bytes) -> bool:
    """Say whether a call has a result of exactly these bytes."""
    same = (call_results.c.call_id == call_id) & (call_results.c.body == body)
    return (await tx.execute(select(call_results.c.id).where(same).limit(1))).first() is not None


async def count_results(tx: Tx, call_id: int) -> int:
    """Count the results of a call."""
    return int((await tx.execute(select(func.count()).where(call_results.c.call_id == call_id))).scalar_one())


async def change_result(tx: Tx, result_id: int, **values: Any) -> None:
    """Change columns of a result."""
    await tx.execute(update(call_results).where(call_results.c.id == result_id).values(**values))


async def release(tx: Tx, call_id: int, *, at: float) -> bool:
    """Have results that are held back delivered from then on; says whether there are any."""
    held = (call_results.c.call_id == call_id) & (call_results.c.due_at > at)
    return bool((await tx.execute(update(call_results).where(held).values(due_at=at))).rowcount)


async def platforms_owed(tx: Tx) -> dict[int, float]:
    """Read which platforms are owed callbacks, and since when the next one of each is due."""
    owed = select(call_results.c.platform_id, func.min(call_results.c.due_at))
    rows = await tx.execute(owed.where(call_results.c.due_at.is_not(None)).group_by(call_results.c.platform_id))
    return dict(rows.all())


async def owed_to(tx: Tx, platform_id: int, *, but: Collection[int], limit: int) -> list[Owed]:
    """Read callbacks for a platform, the next due first, of each call the first one only; ``but``: not of these."""
    rows = await tx.execute(_OWED, {"to": platform_id, "but": list(but), "at_most": limit})
    return [Owed(*row) for row in rows]


async def give_up(tx: Tx, platform_id: int, *, now: float, why: str) -> None:
    """Owe a platform no callbacks any more."""
    owed = (call_results.c.platform_id == platform_id) & call_results.c.due_at.is_not(None)
    ended = {"delivery": Delivery.GIVEN_UP, "due_at": None, "settled_at": now, "last_error": why}
    await tx.execute(update(call_results).where(owed).values(**ended))


async def undelivered(tx: Tx, *, limit: int) -> list[tuple[StoredResult, StoredCall]]:
    """Read callbacks that were tried in vain, those owed longest first, each with its call."""
    owed = _RESULT.where(call_results.c.due_at.is_not(None), call_results.c.attempts > 0)
    found = [_result(row) for row in await tx.execute(owed.order_by(call_results.c.at).limit(limit))]
    rows = await tx.execute(_CALL.where(calls.c.id.in_({result.call_id for result in found})))
    by_call = {call.id: call for call in map(_call, rows)}
    return [(result, by_call[result.call_id]) for result in found]


async def count_owed(tx: Tx) -> int:
    """Count the callbacks that are owed."""
    return int((await tx.execute(select(func.count()).where(call_results.c.due_at.is_not(None)))).scalar_one())
