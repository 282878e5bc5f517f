"""Calls that parties of ours ask: the request, its answer, and the results that come back later (UC 04.01, 04.03).

A call is stored before it is sent, so whatever happens in between, there is a row that says what is known of it. The
request is made once and never repeated: only the partner knows whether it was carried out, and its result comes under
an id of ours all the same.
"""

import asyncio
import logging
import secrets
from typing import Final

from engine import faults
from engine.clock import Clock
from engine.logs import new_id, security_event
from engine.peers.calls import CallRequests, Said
from engine.protocol.addressing import party_path
from engine.protocol.calls import (
    ASKED_HERE,
    ASYNC_RESPONSES,
    CALLBACK_ID_BYTES,
    CallEvent,
    CallState,
    Meaning,
    Operation,
    after_result,
    callback_id,
    judge,
    operation,
    problems,
    read_result,
    request_body,
)
from engine.protocol.errors import ClientError, NotFound
from engine.protocol.ids import PartyId
from engine.protocol.json_text import DuplicateKeys, MalformedJson, check_object
from engine.refusals import NotAccepted, NotFoundHere, Refused
from engine.registration.directory import Directory
from engine.relay.hearing import Hearing
from engine.settings import Settings
from engine.store import calls
from engine.store.calls import StoredCall
from engine.store.database import Database, StoreUnavailable, Tx

_log = logging.getLogger(__name__)

ANSWER_MARGIN_S: Final = 5.0  # beyond a partner's time-out: for connecting, and for storing what came of it
RESULTS_MAX: Final = 20  # of one call that are kept; two have a meaning, and a partner cannot fill the database


class Asking:
    """Asks, and takes results."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        requests: CallRequests,
        hearing: Hearing,
        clock: Clock,
        settings: Settings,
    ) -> None:
        """Use these."""
        self._database = database
        self._directory = directory
        self._requests = requests
        self._hearing = hearing
        self._clock = clock
        self._settings = settings
        self._under_way: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Nothing has to be ready before the first call."""

    async def stop(self) -> None:
        """Wait for no more answers; their calls stand in the store, and end by their deadlines."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def ask(
        self,
        sender: PartyId,
        receiver: PartyId,
        module_name: str,
        name: str,
        payload: bytes,
        *,
        platform: str | None = None,
        result_within_s: float | None = None,
        correlation_id: str | None = None,
    ) -> int:
        """Ask a partner's party for an operation; returns the call's id once the partner answered, or did not.

        ``payload`` is the JSON text of the parameters, sent as it is. ``result_within_s``: how long a result is
        waited for, None as it is set. Raises ``Refused`` and ``NotFoundHere`` for what is not asked at all,
        ``NotAccepted`` for parameters that are not as the operation's table has them.
        """
        asked = self._operation(module_name, name)
        platform_id = self._platform(sender, receiver, platform)
        _check(asked, payload)
        request_id, correlation_id = new_id(), correlation_id or new_id()
        callback = callback_id(secrets.token_bytes(CALLBACK_ID_BYTES)) if asked.call.asynchronous else None
        now = self._clock.now()
        within_s = self._requests.timeout_s(platform_id) + ANSWER_MARGIN_S
        if asked.call.asynchronous:
            within_s = result_within_s or self._settings.calls.result_within_s
        faults.passing("call.asking")
        values = {
            "asked_here": True,
            "platform_id": platform_id,
            "sender": sender,
            "receiver": receiver,
            "module": asked.module.id,
            "operation": asked.call.operation,
            "asynchronous": asked.call.asynchronous,
            "state": CallState.ASKED,
            "callback_id": callback,
            "request_id": request_id,
            "correlation_id": correlation_id,
            "asked_at": now,
            "deadline_at": now + within_s,
            "payload": payload,
        }
        call_id = await self._database.write(lambda tx: calls.add(tx, **values))
        if call_id is None:
            raise Refused("a random number came twice: ask again")
        faults.passing("call.asked")
        self._hearing.on_deadline(now + within_s)
        response_url = self._settings.platform.base_url + party_path(receiver, sender, ASYNC_RESPONSES, callback or "")
        body = request_body(asked.call, payload, callback, response_url=response_url)
        path = party_path(sender, receiver, asked.module.id, asked.call.operation)

        async def send() -> None:
            said = await self._requests.ask(
                platform_id, asked.call, path, body, request_id=request_id, correlation_id=correlation_id
            )
            faults.passing("call.answered")
            try:
                await self._answered(call_id, said)
            except StoreUnavailable as error:  # its deadline says in time that nothing is known of it
                _log.warning("the answer to call %s was not stored: %s", call_id, error, extra={"action": "call_lost"})

        # Whoever asked may go away; what the partner says is stored all the same.
        task = asyncio.create_task(send(), name=f"call {call_id}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)
        return call_id

    def _operation(self, module_name: str, name: str) -> Operation:
        asked = operation(module_name, name)
        if asked is None:
            raise NotFoundHere(f"there is no operation {module_name}/{name}; `docs/modules` lists them")
        return asked

    def _platform(self, sender: PartyId, receiver: PartyId, platform: str | None) -> int:
        """Find out where a party is asked."""
        if self._directory.hosted(sender) is None:
            raise NotFoundHere(f"{sender} is not hosted here; see `ocpi-engine parties`")
        serving = self._directory.platforms_of(receiver)
        if platform is not None:
            known = self._directory.by_identity(platform)
            serving = tuple(platform_id for platform_id in serving if known is not None and platform_id == known.id)
        if not serving:
            where = "no connected partner" if platform is None else f"{platform} does not, or is not connected: nobody"
            raise NotFoundHere(f"{where} serves {receiver}; see `ocpi-engine platforms` and `ocpi-engine parties`")
        if len(serving) > 1:
            names = ", ".join(self._directory.platform(platform_id).identity for platform_id in serving)
            raise Refused(f"{receiver} is served by {names}: say which of them is meant")
        return serving[0]

    async def _answered(self, call_id: int, said: Said) -> None:
        now = self._clock.now()

        async def store(tx: Tx) -> None:
            call = await calls.by_id(tx, call_id, lock=True)
            if call is None or not ASKED_HERE.allows(call.state, said.event):
                return  # it was ended meanwhile, and forgotten or so
            state = ASKED_HERE.after(call.state, said.event)
            values: dict[str, object] = {
                "state": state,
                "http_status": said.http_status,
                "status_code": said.status_code,
                "message": said.message,
                "answer": said.data,
                "routed_receiver": said.routed_receiver,
            }
            if said.http_status is not None:
                values["answered_at"] = now
            waits = state is CallState.ACCEPTED or (state is CallState.UNANSWERED and call.asynchronous)
            if not waits and call.ended_at is None:
                values["ended_at"] = now
            await calls.change(tx, call_id, **values)
            self._hearing.tell_after(tx, call_id)

        await self._database.write(store)

    # -- results --------------------------------------------------------------------------------------------

    async def wait(self, call_id: int, *, within_s: float) -> None:
        """Return when a call has ended, or the time is over."""

        async def ended() -> bool | None:
            call = await self._database.read(lambda tx: calls.by_id(tx, call_id))
            return True if call is None or call.ended_at is not None else None

        await self._hearing.until(call_id, ended, within_s=within_s)

    async def find(self, platform_id: int, sender: PartyId, receiver: PartyId, callback: str) -> int:
        """Find the call that a result is for, and refuse it from whom it cannot be.

        Raises ``NotFound`` for an id that nobody waits for (B13), ``ClientError`` for a partner, or parties, that
        the call is not between (B15).
        """
        call = await self._database.read(lambda tx: calls.by_callback(tx, callback))
        if call is None:
            raise NotFound("no result is awaited under this id")
        hub_party = self._directory.hub_party(call.platform_id)
        from_there = sender in (call.receiver, call.routed_receiver) or (hub_party is not None and sender == hub_party)
        if call.platform_id != platform_id or not from_there or receiver != call.sender:
            security_event(
                "callback_refused",
                "a result came from whom the call was not asked, or for another party",
                platform=self._directory.platform(platform_id).identity,
                sender=sender,
                receiver=receiver,
                call=call.id,
            )
            raise ClientError("the call with this id is not between these parties and platforms")
        return call.id

    async def receive(self, call_id: int, body: bytes) -> None:
        """Take a result; what is answered with success is durable.

        Raises ``InvalidParameters`` for what is none, ``ClientError`` for one too many.
        """
        result = read_result(body)
        faults.passing("result.received")
        now = self._clock.now()

        async def store(tx: Tx) -> tuple[StoredCall, Meaning]:
            call = await calls.by_id(tx, call_id, lock=True)
            asked = None if call is None else operation(call.module, call.operation)
            if call is None or asked is None:
                raise NotFound("no result is awaited under this id")
            known = await calls.is_known(tx, call_id, body)
            meaning = judge(ASKED_HERE, asked.call, call.state, result, known=known)
            if meaning is Meaning.REPEAT:
                return call, meaning
            if await calls.count_results(tx, call_id) >= RESULTS_MAX:
                raise ClientError("this call has too many results already")
            note = _remarks(asked, result.error, result.payload, is_success=result.event is CallEvent.SUCCESS)
            await calls.add_result(
                tx, call, at=now, meaning=meaning, result_type=result.result_type.value, note=note, body=body
            )
            state = after_result(ASKED_HERE, call.state, result, meaning)
            values: dict[str, object] = {"state": state}
            if call.ended_at is None:
                values["ended_at"] = now
            await calls.change(tx, call_id, **values)
            self._hearing.tell_after(tx, call_id)
            return call, meaning

        call, meaning = await self._database.write(store)
        faults.passing("result.stored")
        _report(call, meaning, result.result_type.value)


def _check(asked: Operation, payload: bytes) -> None:
    """Refuse parameters that are not as their table has them, before a partner does."""
    try:
        check_object(payload)
    except (MalformedJson, DuplicateKeys) as error:
        raise NotAccepted(f"the parameters of {asked.name} are not one JSON object: {error}") from error
    wrong = problems(asked.call.request, payload)
    if wrong:
        raise NotAccepted(f"the parameters of {asked.name} do not conform to {asked.call.request.__name__}", wrong)


def _remarks(asked: Operation, error: bytes | None, payload: bytes | None, *, is_success: bool) -> str | None:
    """Say what of a result is not as its tables have it; it counts all the same."""
    shape, value = (asked.call.result, payload) if is_success else (asked.call.error, error)
    if shape is None or value is None:
        return None
    wrong = problems(shape, value)
    return "; ".join(map(str, wrong[:3])) or None


def _report(call: StoredCall, meaning: Meaning, result_type: str) -> None:
    if meaning in (Meaning.RESULT, Meaning.REPEAT):
        return
    _log.warning(
        "%s %s of call %s, which was %s: %s/%s of %s",
        meaning.value,
        result_type,
        call.id,
        call.state.value,
        call.module,
        call.operation,
        call.receiver,
        extra={"action": "call_result", "call": call.id, "meaning": meaning.value},
    )
