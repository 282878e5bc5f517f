"""Calls, results and callbacks on every database."""

import asyncio
from typing import Any

import pytest

from engine.protocol.calls import CallState, Delivery, Meaning
from engine.store import calls, platforms
from engine.store.calls import StoredCall
from engine.store.database import Database, Tx

NOW = 1.6e9
BODY = b'{"result_type":"SUCCESS"}'


@pytest.fixture
async def partner(database: Database) -> int:
    """A platform to have calls with."""
    async with database.transaction() as tx:
        return (await platforms.add_platform(tx, "emsp.example.org", now=NOW)).id  # type: ignore[arg-type]


def values(platform_id: int, number: int, **more: Any) -> dict[str, Any]:
    """Make the columns of a call that a partner asked."""
    return {
        "asked_here": False,
        "platform_id": platform_id,
        "sender": "NLEMS",
        "receiver": "BEBEC",
        "module": "locations",
        "operation": "unlock-connector",
        "asynchronous": True,
        "state": CallState.RECEIVED,
        "callback_id": f"callback {number}",
        "request_id": f"request {number}",
        "correlation_id": "c",
        "digest": b"%d" % number,
        "asked_at": NOW + number,
        "deadline_at": NOW + 100 + number,
        "payload": b'{"a": \x00\xff 1.0}',
    } | more


async def add(database: Database, platform_id: int, number: int, **more: Any) -> StoredCall:
    """Store a call, and read it again."""
    async with database.transaction() as tx:
        call_id = await calls.add(tx, **values(platform_id, number, **more))
        assert call_id is not None
        found = await calls.by_id(tx, call_id, lock=True)
    assert found is not None
    return found


async def owe(tx: Tx, call: StoredCall, *, at: float, body: bytes = BODY) -> int:
    """Owe a callback."""
    due = {"due_at": at, "delivery": Delivery.OWED}
    return await calls.add_result(tx, call, at=at, meaning=Meaning.RESULT, result_type="SUCCESS", body=body, **due)


async def test_a_call_is_kept_byte_for_byte(database: Database, partner: int):
    """What was stored is read again, with the partner's identity; changes too."""
    call = await add(database, partner, 1)
    assert (call.platform, call.party, call.payload) == ("emsp.example.org", "BEBEC", b'{"a": \x00\xff 1.0}')
    assert (call.state, call.ended_at, call.hand_overs) == (CallState.RECEIVED, None, 0)
    async with database.transaction() as tx:
        await calls.change(tx, call.id, state=CallState.FAILED, ended_at=NOW, message="5\0%", answer=b"\xff")
    async with database.reading() as tx:
        changed = await calls.by_id(tx, call.id)
        assert await calls.by_id(tx, call.id + 1) is None
    assert changed is not None
    assert (changed.state, changed.ended_at, changed.message, changed.answer) == (
        CallState.FAILED, NOW, "5␀%", b"\xff",
    )  # fmt: skip


async def test_a_request_is_stored_once(database: Database, partner: int):
    """The same request or callback id again finds the call that is there, also when both arrive at once."""
    first, second = values(partner, 1), values(partner, 1)

    async def attempt(of: dict[str, Any]) -> int | None:
        async with database.transaction() as tx:
            return await calls.add(tx, **of)

    stored = await asyncio.gather(attempt(first), attempt(second))
    assert sorted(one is None for one in stored) == [False, True]
    assert await attempt(values(partner, 2, callback_id="callback 1")) is None
    assert await attempt(values(partner, 1, callback_id="another")) is None
    assert await attempt(values(partner, 1, callback_id="another", digest=b"other bytes")) is not None
    assert await attempt(values(partner, 1, sender="NLTNM")) is not None

    async def find(request_id: str, digest: bytes, callback_id: str | None, sender: str = "NLEMS") -> bool:
        async with database.reading() as tx:
            found = await calls.repeated(
                tx, partner, sender, "BEBEC", request_id=request_id, digest=digest, callback_id=callback_id
            )
            return found is not None

    assert await find("request 1", b"1", None)
    assert await find("request 9", b"9", "callback 1")
    assert not await find("request 1", b"9", None)
    assert not await find("request 1", b"1", None, sender="DEPTX")


async def test_calls_of_ours_are_found_by_their_callback_id(database: Database, partner: int):
    """A partner's call of the same callback id is none of them, and has its own without harm."""
    await add(database, partner, 1, callback_id="same")
    ours = await add(database, partner, 2, callback_id="same", asked_here=True, state=CallState.ASKED, digest=None)
    async with database.transaction() as tx:
        found = await calls.by_callback(tx, "same", lock=True)
        assert await calls.by_callback(tx, "other") is None
    assert found == ours
    assert ours.party == "NLEMS"


async def test_deadlines(database: Database, partner: int):
    """What waits is overdue in the order of its deadlines; what ended never is."""
    late, later = await add(database, partner, 2), await add(database, partner, 3)
    await add(database, partner, 1, ended_at=NOW)
    async with database.reading() as tx:
        assert await calls.next_deadline(tx) == late.deadline_at
        assert await calls.overdue(tx, now=NOW + 102, limit=10) == [late.id]
        assert await calls.overdue(tx, now=NOW + 200, limit=10) == [late.id, later.id]
        assert await calls.overdue(tx, now=NOW + 200, limit=1) == [late.id]
        assert await calls.count_open(tx, partner, limit=10) == 2
        assert await calls.count_open(tx, partner, limit=1) == 1
        assert await calls.count(tx) == {(False, CallState.RECEIVED): (2, NOW + 2)}


async def test_pages(database: Database, partner: int):
    """Newest first, of one party of ours, of one side, open or ended."""
    asked = await add(database, partner, 1, asked_here=True, sender="BEBEC", receiver="NLEMS", state=CallState.ASKED)
    done = await add(database, partner, 2)
    over = await add(database, partner, 3, ended_at=NOW)

    async def page(**chosen: Any) -> list[int]:
        wanted = {"party": None, "is_open": None, "asked_here": None, "before": None, "limit": 10} | chosen
        async with database.reading() as tx:
            return [call.id for call in await calls.page(tx, **wanted)]

    assert await page() == [over.id, done.id, asked.id]
    assert await page(limit=1) == [over.id]
    assert await page(before=over.id) == [done.id, asked.id]
    assert await page(is_open=True) == [done.id, asked.id]
    assert await page(is_open=False) == [over.id]
    assert await page(asked_here=True) == [asked.id]
    assert await page(party="BEBEC") == [over.id, done.id, asked.id]
    assert await page(party="NLEMS") == []


async def test_callbacks_of_one_call_wait_for_each_other(database: Database, partner: int):
    """The first of each call is due, earliest first; when it is settled the next one is (B34)."""
    one, other = await add(database, partner, 1), await add(database, partner, 2)
    async with database.transaction() as tx:
        first = await owe(tx, one, at=NOW + 5)
        second = await owe(tx, one, at=NOW + 1, body=b"{}")
        third = await owe(tx, other, at=NOW + 3)
    async with database.reading() as tx:
        owed = await calls.owed_to(tx, partner, but=(), limit=10)
        assert [o.result_id for o in owed] == [third, first]
        assert (owed[0].sender, owed[0].receiver, owed[0].callback_id) == ("BEBEC", "NLEMS", "callback 2")
        assert [o.result_id for o in await calls.owed_to(tx, partner, but=[other.id], limit=10)] == [first]
        assert await calls.platforms_owed(tx) == {partner: NOW + 1}
        assert await calls.is_known(tx, one.id, b"{}")
        assert not await calls.is_known(tx, other.id, b"{}")
        assert await calls.count_owed(tx) == 3
        assert await calls.undelivered(tx, limit=10) == []
    async with database.transaction() as tx:
        await calls.change_result(tx, first, due_at=None, delivery=Delivery.DELIVERED, settled_at=NOW)
        await calls.change_result(tx, third, attempts=1, last_error="gone")
    async with database.reading() as tx:
        assert [o.result_id for o in await calls.owed_to(tx, partner, but=(), limit=10)] == [second, third]
        ((result, call),) = await calls.undelivered(tx, limit=10)
        assert (result.id, result.last_error, call.id) == (third, "gone", other.id)
        by_call = await calls.results(tx, [one.id, other.id])
        assert [r.delivery for r in by_call[one.id]] == [Delivery.DELIVERED, Delivery.OWED]
    async with database.transaction() as tx:
        await calls.give_up(tx, partner, now=NOW, why="the connection ended")
        assert await calls.platforms_owed(tx) == {}
        assert [r.delivery for r in (await calls.results(tx, [one.id]))[one.id]] == [
            Delivery.DELIVERED, Delivery.GIVEN_UP,
        ]  # fmt: skip


async def test_what_is_to_be_handed_over(database: Database, partner: int):
    """Calls that the back office does not have yet, earliest first; those that were tried are shown."""
    one, other = (
        await add(database, partner, 1, hand_over_at=NOW + 2),
        await add(database, partner, 2, hand_over_at=NOW),
    )
    await add(database, partner, 3)
    async with database.transaction() as tx:
        assert await calls.to_hand_over(tx, limit=10) == [(other.id, NOW), (one.id, NOW + 2)]
        assert await calls.handing_over(tx, limit=10) == []
        await calls.change(tx, one.id, hand_overs=1, hand_over_error="no answer")
        assert [call.id for call in await calls.handing_over(tx, limit=10)] == [one.id]


async def test_old_calls_are_forgotten_with_their_results(database: Database, partner: int):
    """Those that ended before a day, but not while a callback is owed, and never open ones."""
    old = await add(database, partner, 1, ended_at=NOW - 10)
    owing = await add(database, partner, 2, ended_at=NOW - 9)
    recent = await add(database, partner, 3, ended_at=NOW + 1)
    waiting = await add(database, partner, 4)
    async with database.transaction() as tx:
        kept = await owe(tx, owing, at=NOW)
        gone = await owe(tx, old, at=NOW)
        await calls.change_result(tx, gone, due_at=None)
    async with database.transaction() as tx:
        assert await calls.forget(tx, ended_before=NOW, limit=10) == 1
        assert await calls.forget(tx, ended_before=NOW, limit=10) == 0
    async with database.reading() as tx:
        left = await calls.page(tx, party=None, is_open=None, asked_here=None, before=None, limit=10)
        assert [call.id for call in left] == [waiting.id, recent.id, owing.id]
        assert [r.id for r in (await calls.results(tx, [old.id, owing.id]))[owing.id]] == [kept]
    async with database.transaction() as tx:
        assert [call.id for call in await calls.open_with(tx, partner)] == [waiting.id]
