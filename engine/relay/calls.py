"""Calls that partners ask of parties of ours, whose systems carry them out (UC 04.01, 04.03).

::

    partner ── request ──▶ take: read ─▶ repeated? ─▶ store ─▶ BackOffice.take ─▶ store the answer ──▶ answered
                                                                   │    (asynchronous, and it fails: accepted,
                                                                   │     and handed over again until it is taken)
    back office ── conclude ─▶ check ─▶ store: a result is owed ───┴──▶ callbacks

A back office gets a call at least once, always under the same id, and may be given it again after a restart: by the id
it knows one that it has. It answers at once; what takes longer is accepted and concluded later. A party whose systems
say nothing leaves no partner waiting: a synchronous call is answered within the time that we announced, an asynchronous
one is concluded with TIMEOUT at its deadline, and what comes after that is passed on all the same.
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from engine import faults
from engine.clock import Clock, ocpi_time
from engine.lifecycle import RESTART_PAUSE_S
from engine.protocol import envelope
from engine.protocol.calls import (
    DONE_HERE,
    AsyncResult,
    CallEvent,
    CallState,
    Delivery,
    Meaning,
    Operation,
    after_result,
    check_result,
    judge,
    operation,
    read_request,
    result_body,
)
from engine.protocol.errors import (
    SUCCESS,
    CallFailed,
    ClientError,
    InvalidParameters,
    OcpiError,
    TooMany,
    UnknownReceiver,
)
from engine.protocol.ids import PartyId
from engine.protocol.modules import Problem
from engine.protocol.modules.bodies import AsyncResultType, ImmediateResponseToAsyncRequest
from engine.refusals import NotAccepted, NotFoundHere, Refused
from engine.registration.directory import Directory
from engine.registration.errands import Errands, pause_s
from engine.relay.hearing import Hearing
from engine.relay.offices import (
    Accepted,
    Answered,
    BackOffice,
    Declined,
    IncomingCall,
    RefusedAtOnce,
    Reply,
    WrongReply,
    as_result,
    check_reply,
    message_of,
)
from engine.settings import Settings
from engine.store import calls
from engine.store.calls import StoredCall, StoredResult
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.membership import Membership

_log = logging.getLogger(__name__)

OK: Final = 200
ANSWER_SHARE: Final = 0.8  # of the time-out that we announced: the rest is for the way, and for storing the answer
ANSWER_FIRST_S: Final = 0.1  # a result is held back this long after the answer, so that it does not overtake it
HAND_OVER_LOOK_S: Final = 5.0  # for what another process left behind
HAND_OVERS_AT_ONCE: Final = 100  # read at a time; the rest is due later, and read then
HAND_OVER_PAUSE_MAX_S: Final = 60.0  # a call waits two minutes for its result, unless set otherwise


@dataclass(frozen=True, slots=True)
class Taken:
    """What a partner hears."""

    http_status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class CallWithResults:
    """A call and what is known of its results."""

    call: StoredCall
    results: Sequence[StoredResult]


class Calls:
    """Takes calls for parties of ours, and concludes them. A service."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        hearing: Hearing,
        owe: Callable[[int], None],
        membership: Membership,
        clock: Clock,
        settings: Settings,
    ) -> None:
        """Use these; ``owe`` hears that a platform is owed a result."""
        self._database = database
        self._directory = directory
        self._hearing = hearing
        self._owe = owe
        self._clock = clock
        self._settings = settings.calls
        self._answer_within_s = settings.peers.request_timeout_ms / 1000 * ANSWER_SHARE
        self._offices: dict[PartyId, BackOffice] = {}
        self._office_of_others: BackOffice | None = None
        self._others: frozenset[str] = frozenset()
        self._built_in: dict[str, BackOffice] = {}
        self._handing_over = Errands(
            "calls for back offices",
            due=self._to_hand_over,
            run=self._hand_over,
            clock=clock,
            membership=membership,
            look_again_s=HAND_OVER_LOOK_S,
        )

    async def start(self) -> None:
        """Hand over what is accepted and has not been handed over yet."""
        await self._handing_over.start()

    async def stop(self) -> None:
        """Hand over nothing more."""
        await self._handing_over.stop()

    def look(self) -> None:
        """Look for what is to be handed over: something changed."""
        self._handing_over.wake()

    def serve(self, party: PartyId, office: BackOffice) -> None:
        """Give a party's calls to its systems from now on."""
        self._offices[party] = office
        self.look()

    def serve_others(self, office: BackOffice, parties: Collection[str] = ()) -> None:
        """Give calls to these systems that no other ones are for: of these parties, or of all if none is named."""
        self._office_of_others, self._others = office, frozenset(parties)
        self.look()

    def withdraw(self, party: PartyId) -> None:
        """Give them to its systems no more."""
        self._offices.pop(party, None)

    def build_in(self, module: str, name: str, office: BackOffice) -> None:
        """Answer an operation here for every party that has no systems of its own."""
        self._built_in[f"{module}/{name}"] = office

    def _office(self, party: PartyId, asked: Operation) -> BackOffice | None:
        others = self._office_of_others if not self._others or party in self._others else None
        return self._offices.get(party) or self._built_in.get(asked.name) or others

    # -- taking ---------------------------------------------------------------------------------------------

    async def take(
        self,
        *,
        platform_id: int,
        sender: PartyId,
        receiver: PartyId,
        asked: Operation,
        body: bytes,
        request_id: str,
        correlation_id: str,
        tolerant: bool,
    ) -> Taken:
        """Have a call carried out; a request that came before gets the answer that it got before.

        ``body`` passed ``check_object``, the sender may speak. Raises ``UnknownReceiver``, ``InvalidParameters``,
        ``TooMany``, and ``ClientError`` for what nobody here carries out.
        """
        party = self._directory.hosted(receiver)
        if party is None:
            raise UnknownReceiver
        if party.hub:
            raise UnknownReceiver("this platform passes nothing on yet: ask a party by its own id")
        request = read_request(asked.call, body, tolerant=tolerant)
        digest = hashlib.sha256(b"%b\0%b" % (asked.name.encode(), body)).digest()
        office = self._office(receiver, asked)
        now = self._clock.now()
        within_s = self._settings.conclude_within_s if asked.call.asynchronous else self._answer_within_s
        values = {
            "asked_here": False,
            "platform_id": platform_id,
            "sender": sender,
            "receiver": receiver,
            "module": asked.module.id,
            "operation": asked.call.operation,
            "asynchronous": asked.call.asynchronous,
            "state": CallState.RECEIVED,
            "callback_id": request.callback_id,
            "request_id": request_id,
            "correlation_id": correlation_id,
            "digest": digest,
            "asked_at": now,
            "deadline_at": now + within_s + RESTART_PAUSE_S,  # the pause is for storing what was said in time
            # Until then the first hand-over is under way; after a crash it is repeated.
            "hand_over_at": now + self._answer_within_s + RESTART_PAUSE_S if asked.call.asynchronous else None,
            "payload": request.payload,
        }
        faults.passing("call.received")
        call, before = await self._keep(values, offered=office is not None)
        if call is None and before is None:
            return self._unsupported(asked, receiver)
        faults.passing("call.kept")
        if before is not None:
            if before.digest != digest:
                raise _used_before()
            answered = await self._answer_to(before)
            if answered is not None:
                return answered
            call = before  # nobody works on it any more: a crash came between
        if call is None or office is None:
            raise CallFailed(f"{receiver} has not answered this request")
        self._hearing.on_deadline(call.deadline_at or 0.0)
        return await self._hand_over_first(call, asked, office)

    async def _keep(self, values: Mapping[str, Any], *, offered: bool) -> tuple[StoredCall | None, StoredCall | None]:
        """Store a call, or find the one that came before: ``(new, None)`` or ``(None, before)``.

        Neither: nobody here carries it out. Raises ``TooMany``.
        """
        platform_id, limit = values["platform_id"], self._settings.open_max

        async def keep(tx: Tx) -> tuple[StoredCall | None, StoredCall | None]:
            async def before() -> StoredCall | None:
                identity = {name: values[name] for name in ("request_id", "digest", "callback_id")}
                return await calls.repeated(tx, platform_id, values["sender"], values["receiver"], **identity)

            found = await before()
            if found is not None or not offered:
                return None, found
            if await calls.count_open(tx, platform_id, limit=limit) >= limit:
                raise TooMany("too many calls of this platform wait for their results here")
            call_id = await calls.add(tx, **values)
            if call_id is None:  # another process was a moment quicker
                return None, await before()
            return await calls.by_id(tx, call_id), None

        return await self._database.write(keep)

    def _unsupported(self, asked: Operation, receiver: PartyId) -> Taken:
        """Say that nobody here carries an operation out. Raises ``ClientError`` for a synchronous one."""
        if not asked.call.asynchronous:
            raise ClientError(f"{receiver} does not offer {asked.name}")
        return self._success(ImmediateResponseToAsyncRequest.NOT_SUPPORTED)

    async def _answer_to(self, call: StoredCall) -> Taken | None:
        """Return the answer that a call got, or gets; None: nobody works on it any more."""

        async def read() -> Taken | None:
            found = await self._database.read(lambda tx: calls.by_id(tx, call.id))
            if found is None or found.answer is None or found.http_status is None:
                return None
            return Taken(found.http_status, found.answer)

        answered = await self._hearing.until(call.id, read, within_s=self._answer_within_s)
        if answered is not None:
            return answered
        if call.asynchronous:
            return self._success(ImmediateResponseToAsyncRequest.ACCEPTED)  # it is stored, and handed over in time
        if self._clock.now() < (call.deadline_at or 0.0):
            raise CallFailed("this request is being worked on")
        return None

    async def _hand_over_first(self, call: StoredCall, asked: Operation, office: BackOffice) -> Taken:
        reply, why = await self._ask_office(office, call, asked)
        faults.passing("call.handed_over")
        answer = await self._store_answer(call.id, asked, reply, why)
        faults.passing("call.answering")
        return answer

    async def _ask_office(
        self, office: BackOffice, call: StoredCall, asked: Operation
    ) -> tuple[Reply | None, str | None]:
        """Hand a call over; returns what was said, or None and why nothing was."""
        incoming = IncomingCall(
            id=call.id,
            platform=call.platform,
            asker=PartyId(call.sender),
            receiver=PartyId(call.receiver),
            module=call.module,
            operation=call.operation,
            asynchronous=call.asynchronous,
            payload=call.payload,
            deadline=(call.deadline_at or call.asked_at) - RESTART_PAUSE_S,
            correlation_id=call.correlation_id,
        )
        try:
            async with asyncio.timeout(self._answer_within_s):
                reply = await office.take(incoming)
            check_reply(asked, reply)
            return reply, None
        except OcpiError as error:
            return Declined(error.status_code, error.message, error.data), None
        except TimeoutError:
            why = f"no answer within {self._answer_within_s:g} s"
        except WrongReply as error:
            why = str(error)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a back office does, the partner gets its answer
            _log.exception("a back office failed", extra={"action": "back_office_failed", "call": call.id})
            why = f"{type(error).__name__}: {error}"
        _log.warning(
            "call %s was not taken by the systems of %s: %s",
            call.id,
            call.receiver,
            why,
            extra={"action": "call_not_taken", "call": call.id},
        )
        return None, why

    async def _store_answer(self, call_id: int, asked: Operation, reply: Reply | None, why: str | None) -> Taken:
        """Store what a partner is answered; of an asynchronous call that was not taken, that it will be."""
        event, status_code, answer = self._written(asked, reply)
        now = self._clock.now()

        async def store(tx: Tx) -> None:
            call = await calls.by_id(tx, call_id, lock=True)
            if call is None:
                return
            state = DONE_HERE.after(call.state, event) if DONE_HERE.allows(call.state, event) else call.state
            values: dict[str, object] = {
                "state": state,
                "answered_at": now,
                "http_status": answer.http_status,
                "status_code": status_code,
                "answer": answer.body,
                "message": message_of(reply),
            }
            if reply is None and asked.call.asynchronous:
                values |= self._again(call, why)
            else:
                values |= {"hand_over_at": None, "hand_over_error": why}
            if state is not CallState.ACCEPTED and call.ended_at is None:
                values["ended_at"] = now
            await calls.change(tx, call_id, **values)
            if await calls.release(tx, call_id, at=now + ANSWER_FIRST_S):
                tx.after_commit.append(lambda: self._owe(call.platform_id))
            self._hearing.tell_after(tx, call_id)

        await self._database.write(store)
        return answer

    def _written(self, asked: Operation, reply: Reply | None) -> tuple[CallEvent, int, Taken]:
        """Write an answer; returns what it means, its status code, and itself."""
        match reply:
            case Answered(data):
                content = None if data is None else msgspec.Raw(data)
                return CallEvent.ANSWERED, SUCCESS, self._success(content)
            case RefusedAtOnce(how):
                return CallEvent.REFUSED, SUCCESS, self._success(how)
            case Declined(status_code, message, data):
                return (
                    CallEvent.REFUSED,
                    status_code,
                    self._failure(CallFailed(message, status_code=status_code, data=data)),
                )
            case None if not asked.call.asynchronous:
                error = CallFailed("the systems of this party did not answer")
                return CallEvent.REFUSED, error.status_code, self._failure(error)
        return CallEvent.ACCEPTED, SUCCESS, self._success(ImmediateResponseToAsyncRequest.ACCEPTED)

    def _success(self, data: object) -> Taken:
        return Taken(OK, envelope.success(ocpi_time(self._clock.now()), data))

    def _failure(self, error: OcpiError) -> Taken:
        return Taken(OK, envelope.failure(ocpi_time(self._clock.now()), error))

    # -- handing over again ---------------------------------------------------------------------------------

    def _again(self, call: StoredCall, why: str | None) -> dict[str, object]:
        """Return what makes a call be handed over again, later each time."""
        attempts = call.hand_overs + 1
        pause = pause_s(attempts, first_s=self._settings.hand_over_again_s, longest_s=HAND_OVER_PAUSE_MAX_S)
        return {"hand_over_at": self._clock.now() + pause, "hand_overs": attempts, "hand_over_error": why}

    async def _to_hand_over(self) -> Mapping[int, float]:
        async with self._database.reading() as tx:
            return dict(await calls.to_hand_over(tx, limit=HAND_OVERS_AT_ONCE))

    async def _hand_over(self, call_id: int) -> None:
        """Hand a call over once more; what was said at once before is said by a result now."""
        async with self._database.reading() as tx:
            call = await calls.by_id(tx, call_id)
        asked = None if call is None else operation(call.module, call.operation)
        if call is None or call.hand_over_at is None:
            return
        if call.ended_at is not None or asked is None:
            await self._change(call_id, hand_over_at=None)
            return
        office = self._office(PartyId(call.receiver), asked)
        if office is None:
            await self._change(call_id, **self._again(call, "no systems of this party are known here"))
            return
        reply, why = await self._ask_office(office, call, asked)
        if call.answer is None:
            await self._store_answer(call_id, asked, reply, why)
        elif reply is None:
            await self._change(call_id, **self._again(call, why))
        elif isinstance(reply, Accepted):
            await self._change(call_id, hand_over_at=None, hand_over_error=None)
        else:
            await self._conclude(call_id, as_result(reply), note=message_of(reply), checked=False)

    async def _change(self, call_id: int, **values: object) -> None:
        async with self._database.transaction() as tx:
            await calls.change(tx, call_id, **values)
            self._hearing.tell_after(tx, call_id)

    # -- concluding -----------------------------------------------------------------------------------------

    async def conclude(
        self,
        call_id: int,
        result_type: str,
        *,
        payload: bytes | None = None,
        error: bytes | None = None,
        message: str | None = None,
    ) -> None:
        """Give the result of an asynchronous call; it is owed to the partner from now on.

        ``payload`` and ``error`` are JSON texts by the operation's tables. ``message`` is a note for people; of a
        reservation that is taken back (UC 05.04) it is what the partner reads, unless there is a payload. The same
        result again changes nothing. Raises ``NotFoundHere``, ``NotAccepted`` for a result that is not one of this
        operation, ``Refused`` for a call that has another one already.
        """
        try:
            kind = AsyncResultType(result_type)
        except ValueError:
            known = ", ".join(AsyncResultType)
            raise NotAccepted(
                "there is no such result", [Problem("/result_type", result_type[:40], f"one of {known}")]
            ) from None
        await self._conclude(
            call_id, AsyncResult(result_type=kind, error=error, payload=payload), note=message, checked=True
        )

    async def _conclude(self, call_id: int, result: AsyncResult, *, note: str | None, checked: bool) -> None:
        async def store(tx: Tx) -> None:
            call = await calls.by_id(tx, call_id, lock=True)
            asked = None if call is None or call.asked_here else operation(call.module, call.operation)
            if call is None or asked is None:
                raise NotFoundHere(f"there is no call {call_id} for a party of ours; `ocpi-engine calls` lists them")
            if not call.asynchronous:
                raise Refused(f"call {call_id} was to be answered at once, and has no later result")
            state = call.state
            revoking = asked.call.revocable and state in (CallState.SUCCEEDED, CallState.REVOKED)
            given = result
            if revoking and result.result_type is AsyncResultType.FAILED and result.payload is None and note:
                given = AsyncResult(result_type=result.result_type, error=result.error, payload=_text(note))
            body = result_body(given)
            if await calls.is_known(tx, call_id, body):
                return
            wrong = check_result(asked.call, state, given) if checked else ()
            if wrong:
                raise NotAccepted(f"this is no result of {asked.name}", wrong)
            meaning = judge(DONE_HERE, asked.call, state, given, known=False)
            if meaning is Meaning.CONTRADICTION:
                raise Refused(f"call {call_id} is {state.value} already: the partner was told, or is about to be")
            await owe_result(tx, call, given, meaning, note=note, now=self._clock.now(), held_s=self._held_s(call))
            tx.after_commit.append(lambda: self._owe(call.platform_id))
            self._hearing.tell_after(tx, call_id)

        await self._database.write(store)
        faults.passing("call.concluded")

    def _held_s(self, call: StoredCall) -> float:
        """Return how long a result is held back, so that the answer to the request comes first."""
        if call.answered_at is None:
            return self._answer_within_s + RESTART_PAUSE_S  # the answer releases it, if it comes
        return max(0.0, call.answered_at + ANSWER_FIRST_S - self._clock.now())

    async def end_platform(self, tx: Tx, platform_id: int) -> None:
        """End the calls with a platform whose connection ends, in that transaction."""
        now = self._clock.now()
        for call in await calls.open_with(tx, platform_id):
            ended = {"state": CallState.ENDED, "ended_at": now, "hand_over_at": None, "message": "the connection ended"}
            await calls.change(tx, call.id, **ended)
            self._hearing.tell_after(tx, call.id)
        await calls.give_up(tx, platform_id, now=now, why="the connection ended")

    # -- looking --------------------------------------------------------------------------------------------

    async def get(self, call_id: int) -> CallWithResults:
        """Read a call of either side. Raises ``NotFoundHere``."""

        async def read(tx: Tx) -> CallWithResults:
            call = await calls.by_id(tx, call_id)
            if call is None:
                raise NotFoundHere(f"there is no call {call_id}; `ocpi-engine calls` lists them")
            return CallWithResults(call, (await calls.results(tx, [call_id])).get(call_id, ()))

        return await self._database.read(read)

    async def page(
        self,
        *,
        party: PartyId | None = None,
        is_open: bool | None = None,
        asked_here: bool | None = None,
        before: int | None = None,
        limit: int,
    ) -> list[CallWithResults]:
        """Read calls of both sides, newest first."""
        async with self._database.reading() as tx:
            found = await calls.page(
                tx, party=party, is_open=is_open, asked_here=asked_here, before=before, limit=limit
            )
            results = await calls.results(tx, [call.id for call in found])
        return [CallWithResults(call, results.get(call.id, ())) for call in found]


async def owe_result(
    tx: Tx,
    call: StoredCall,
    result: AsyncResult,
    meaning: Meaning,
    *,
    note: str | None,
    now: float,
    held_s: float,
) -> None:
    """Store a result of ours, which is owed from now on, and what the call is by it."""
    await calls.add_result(
        tx,
        call,
        at=now,
        meaning=meaning,
        result_type=result.result_type.value,
        note=note,
        delivery=Delivery.OWED,
        due_at=now + held_s,
        body=result_body(result),
    )
    values: dict[str, object] = {"state": after_result(DONE_HERE, call.state, result, meaning), "hand_over_at": None}
    if call.ended_at is None:
        values["ended_at"] = now
    await calls.change(tx, call.id, **values)


def _text(words: str) -> bytes:
    return msgspec.json.encode(words)


def _used_before() -> InvalidParameters:
    problem = [{"field": "/callback_id", "reason": "was used for another call before (R.04.03.05)"}]
    return InvalidParameters("the callback_id is not a new one", data=problem)
