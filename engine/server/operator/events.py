"""The event stream: everything that a back office wants to hear of, in one stream that can be gone on with."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules import all_modules
from engine.relay.calls import CallWithResults
from engine.server.operator import calls, models, stream, subscriptions
from engine.server.operator.access import AnyCaller, Caller, Engine, own_party
from engine.server.operator.errors import Problem
from engine.server.operator.objects import Log, Selection, known_module
from engine.server.operator.services import Services
from engine.server.operator.stream import Positions, Told
from engine.store import calls as stored_calls
from engine.store import events, objects
from engine.store.database import Kind, Tx
from engine.store.subscriptions import inbounds_by_ids, outbound_by_ids

CURSOR_LENGTH_MAX = 1000  # characters: some ten logs, with a number of up to 19 digits each

_KINDS = {"call": (Kind.CALLS,), "subscription": (Kind.INBOUND, Kind.OUTBOUND)}

router = APIRouter(prefix="/api/v1", tags=["events"])


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "server-sent events"}},
    summary="Follow everything",
)
async def follow_everything(
    request: Request, engine: Engine, caller: AnyCaller, query: Annotated[models.EventsQuery, Query()]
) -> StreamingResponse:
    """Stream what changes: an `object` that was received, a `call`, a `subscription`, as their own pages show them.

    The first event is `position`, with the cursor where the stream begins. The id of each further one is the cursor to
    go on from, as `Last-Event-ID` or `after`: nothing is skipped then, also after a restart of either side; what
    changed several times meanwhile comes once, as it is. Without a cursor the stream begins now.
    """
    party = own_party(caller, query.party) if query.party is not None else caller.party
    modules = [known_module(name) for name in query.module] or [module.id for module in all_modules()]
    strands: list[stream.Strand] = []
    if things := [kind for name in ("call", "subscription") if name in query.kind for kind in _KINDS[name]]:
        strands.append(_Things(engine, party, things))
    if "object" in query.kind:
        strands += [_Objects(engine, party, module) for module in modules]
    after = _positions(request.headers.get("last-event-id") or query.after)
    start: dict[str, int] = {}
    async with engine.database.reading() as tx:
        for strand in strands:
            end = await objects.last_number(tx, strand.log)
            start[strand.log] = after.get(strand.log, end)
            if start[strand.log] > end:
                raise Problem(409, f"the cursor lies beyond the end of {strand.log}", "it is another platform's")
    return stream.response(request, engine.changes, strands, start, cursor=_cursor)


class _Objects:
    """Objects of one module that were received."""

    def __init__(self, engine: Services, party: PartyId | None, module: ModuleId) -> None:
        self._selection = Selection(Log(engine, Caller(party), module, received=True), models.Filter())
        self.log = objects.log_name(module, received=True)

    async def told(self, after: int, limit: int) -> tuple[Sequence[Told], int, bool]:
        """Read a page of them."""
        return await self._selection.told(after, limit)


class _Things:
    """Calls and subscriptions, ours and partners'."""

    log = objects.EVENTS

    def __init__(self, engine: Services, party: PartyId | None, kinds: Sequence[Kind]) -> None:
        self._database = engine.database
        self._party = party
        self._kinds = kinds

    async def told(self, after: int, limit: int) -> tuple[Sequence[Told], int, bool]:
        """Read what became of those that changed, and are this party's."""
        return await self._database.read(lambda tx: self._told(tx, after, limit))

    async def _told(self, tx: Tx, after: int, limit: int) -> tuple[Sequence[Told], int, bool]:
        end = await objects.last_number(tx, self.log)  # before the page: what lies at or below it is surely in there
        page = await events.page(tx, kinds=self._kinds, after=after, limit=limit)
        keys: dict[Kind, list[int]] = {kind: [] for kind in Kind}
        for event in page:
            keys[event.kind].append(event.key)
        shown: dict[tuple[Kind, int], bytes] = {}
        results = await stored_calls.results(tx, keys[Kind.CALLS])
        for call in await stored_calls.by_ids(tx, keys[Kind.CALLS]):
            if self._party in (None, call.party):
                found = CallWithResults(call, results.get(call.id, ()))
                shown[Kind.CALLS, call.id] = msgspec.json.encode(calls.shown(found))
        for ours in await inbounds_by_ids(tx, keys[Kind.INBOUND]):
            if self._party in (None, ours.subscriber):
                shown[Kind.INBOUND, ours.id] = subscriptions.ours(ours).model_dump_json().encode()
        for theirs in await outbound_by_ids(tx, keys[Kind.OUTBOUND]):
            if self._party in (None, theirs.producer):
                shown[Kind.OUTBOUND, theirs.id] = subscriptions.theirs(theirs).model_dump_json().encode()
        told = [
            (event.seq, "call" if event.kind is Kind.CALLS else "subscription", shown[event.kind, event.key])
            for event in page
            if (event.kind, event.key) in shown
        ]
        more = len(page) == limit
        return told, page[-1].seq if more else max(end, after), more


def _cursor(positions: Positions) -> str:
    return ";".join(f"{log}:{seq}" for log, seq in sorted(positions.items()))


def _positions(cursor: str | None) -> dict[str, int]:
    """Read a cursor; logs that it does not name are followed from now on."""
    if not cursor:
        return {}
    try:
        read = {log: int(seq) for log, _, seq in (part.rpartition(":") for part in cursor.split(";"))}
        if len(cursor) > CURSOR_LENGTH_MAX or min(read.values()) < 0:
            raise ValueError
        return read
    except ValueError:
        raise Problem(
            422, "this is no cursor of the event stream", "send the id of the last event as it came"
        ) from None
