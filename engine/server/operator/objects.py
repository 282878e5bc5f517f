"""Routes of the objects: publish, read, follow. Open to a party's token, for that party's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from engine.protocol.ids import ModuleId, PartyId, object_key, party_id
from engine.protocol.modules import all_modules
from engine.protocol.modules import module as module_named
from engine.refusals import NotFoundHere
from engine.replication.issuing import Publication, Published
from engine.server.operator import models, stream, wire
from engine.server.operator.access import AnyCaller, Caller, Engine, operator_only, own_party
from engine.server.operator.errors import MEND, Problem, refusal
from engine.server.operator.services import Services
from engine.store import objects
from engine.store.database import Tx
from engine.store.objects import StoredObject

PUBLISH_TOGETHER_MAX = 200  # objects checked and committed in one go: some 20 ms in which nothing else runs
PAGE_BYTES_MAX = 16 * 1024 * 1024  # a page of the largest objects ends here
READ_TOGETHER_MAX = 64  # objects read in one go: bounds memory when they are large
CURSOR_LENGTH_MAX = 19  # digits: below 2^63

router = APIRouter(prefix="/api/v1", tags=["objects"])

KINDS = ("issued", "received")
Kind = Annotated[
    str, Path(description="issued here, or received from partners", json_schema_extra={"enum": list(KINDS)})
]
ModuleName = Annotated[str, Path(alias="module", description="a ModuleID", examples=["locations"])]

# publish


_Source = tuple[str | None, str | None, str]
"""Platform, receiver and issuer of a received object: the subscription that it came under."""

_BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One object a line, or one JSON array of them. Payloads are kept byte for byte.",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"id":"BEBEC*E1","payload":{"status":"AVAILABLE"}}\n'
                '{"id":"BEBEC*E2","payload":{"status":"CHARGING"},"audience":["NLEMS"]}\n',
            },
            "application/json": {
                "schema": {"type": "array", "items": models.ObjectToPublish.model_json_schema()},
            },
        },
    }
}
_PAYLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The object itself, kept byte for byte.",
        "content": {"application/json": {"schema": {"type": "object"}, "example": {"status": "AVAILABLE"}}},
    }
}
_NEW_OBJECTS = {"type": "array", "items": models.ObjectToPublish.model_json_schema()}
_ORDER = models.ReplacementOrder.model_json_schema()
_REPLACEMENT_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "What is wanted in its place, as far as the module takes wishes. Payloads stay as they are.",
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": _ORDER["properties"] | {"objects": _NEW_OBJECTS}},
            },
        },
    }
}


@router.post(
    "/parties/{party}/objects/{module}",
    response_model=models.PublishAnswer,
    openapi_extra=_BATCH_BODY,
    summary="Publish a batch of objects",
)
async def publish(request: Request, caller: AnyCaller, engine: Engine, party: str, module: ModuleName) -> Response:
    """Issue objects for a party hosted here. Each line is answered by itself; a bad one stops no other."""
    issuer = own_party(caller, party)
    try:
        lines = wire.read_batch(await request.body(), request.headers.get("content-type", ""))
    except wire.UnreadableBatch as error:
        raise refusal(400, error, "send one object a line, or a JSON array") from error
    known_module(module)
    counts = dict.fromkeys(("created", "changed", "unchanged", "refused"), 0)
    results: list[dict[str, object]] = []
    while batch := list(islice(lines, PUBLISH_TOGETHER_MAX)):
        for line, published in await _publish_lines(engine, issuer, module, batch):
            counts[published.outcome] += 1
            results.append(wire.result(line, published))
    return Response(wire.encode({**counts, "results": results}), media_type="application/json")


async def _publish_lines(
    engine: Services, issuer: PartyId, module: str, lines: list[wire.Line]
) -> Iterable[tuple[int, Published]]:
    good = [line.publication for line in lines if line.publication is not None]
    stored = iter(await engine.publishing.publish(issuer, module, good))
    return [
        (line.number, Published("", "refused", reason=line.reason) if line.publication is None else next(stored))
        for line in lines
    ]


@router.put(
    "/parties/{party}/objects/{module}/{object_id:path}",
    response_model=models.PublishResult,
    responses={422: {"model": models.ErrorAnswer, "description": "refused; `problems` say where"}},
    openapi_extra=_PAYLOAD_BODY,
    summary="Publish one object",
)
async def publish_one(
    request: Request,
    caller: AnyCaller,
    *,
    party: str,
    module: ModuleName,
    object_id: str,
    audience: Annotated[list[str] | None, Query(description="the only parties that may see it")] = None,
) -> Response:
    """Issue one object for a party hosted here."""
    issuer = own_party(caller, party)
    named = tuple(_party(name) for name in audience) if audience is not None else None
    payload = (await request.body()).strip(wire.WHITESPACE)  # a file's last line end is no part of the object
    engine: Services = request.app.state.services
    (published,) = await engine.publishing.publish(issuer, module, [Publication(object_id, payload, named)])
    if published.outcome == "refused":
        problems = [models.FieldProblem.model_validate(found).model_dump() for found in published.problems]
        raise Problem(422, published.reason or "refused", MEND, problems)
    return Response(wire.encode(wire.result(1, published)), media_type="application/json")


@router.post(
    "/parties/{party}/objects/{module}/{object_id:path}/replacement",
    response_model=models.ReplacementAnswer,
    responses={
        404: {"model": models.ErrorAnswer, "description": "there is no such object"},
        409: {"model": models.ErrorAnswer, "description": "it cannot be replaced, or not so; the message says why"},
        422: {"model": models.ErrorAnswer, "description": "a new object does not conform; `problems` say where"},
    },
    openapi_extra=_REPLACEMENT_BODY,
    summary="Replace an object that never changes",
    description="Issue what takes its place: all of it, or nothing.\n\n"
    + "\n".join(f"- `{one.id}`: {one.replacement.summary}" for one in all_modules() if one.replacement),
)
async def replace(request: Request, caller: AnyCaller, *, party: str, module: ModuleName, object_id: str) -> Response:
    """Issue what takes an object's place."""
    issuer = own_party(caller, party)
    try:
        wanted = wire.read_replacement((await request.body()).strip(wire.WHITESPACE))
    except wire.UnreadableOrder as error:
        raise refusal(422, error, MEND) from error
    engine: Services = request.app.state.services
    issued = await engine.publishing.replace(
        issuer, module, object_id, wanted.objects, new_id=wanted.new_id, effective_at=wanted.effective_at
    )
    shown = [{"module": one.module, "id": one.object_id, "version": one.version} for one in issued]
    return Response(wire.encode({"issued": shown}), media_type="application/json")


# read


@dataclass(frozen=True, slots=True)
class Log:
    """The change log that a path names, and who wants to read it."""

    engine: Services
    caller: Caller
    module: ModuleId
    received: bool

    @property
    def name(self) -> str:
        """Its name in the store."""
        return objects.log_name(self.module, received=self.received)


async def _log(engine: Engine, caller: AnyCaller, kind: Kind, module: ModuleName) -> Log:
    if kind not in KINDS:
        raise Problem(404, "there is no such path", "`/api/v1/openapi.json` lists all paths")
    return Log(engine, caller, known_module(module), kind == "received")


@router.get(
    "/{kind}/{module}",
    response_model=models.ObjectPage,
    summary="Read objects in the order of their last change",
)
async def read_page(log: Annotated[Log, Depends(_log)], query: Annotated[models.PageQuery, Query()]) -> Response:
    """Read a page. Go on with `after` = the answer's `cursor`: nothing is skipped, what changes comes again."""
    limit = min(query.limit, log.engine.settings.api.page_max)
    found, cursor, more = await Selection(log, query).read(query.after, limit)
    return Response(wire.page([data for _, data in found], cursor, more=more), media_type="application/json")


@router.get(
    "/{kind}/{module}/changes",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "server-sent events"}},
    summary="Follow changes",
)
async def follow(
    request: Request, log: Annotated[Log, Depends(_log)], query: Annotated[models.FollowQuery, Query()]
) -> StreamingResponse:
    """Stream objects as they change; `Last-Event-ID` or `after` say from where.

    The first event is `position` with the cursor where the stream begins; each further one is an `object`, as
    a page shows it, and its id is the cursor to go on from after a broken connection.
    """
    wanted = Selection(log, query)
    last_event = request.headers.get("last-event-id", "")
    after = int(last_event) if last_event.isdecimal() and len(last_event) < CURSOR_LENGTH_MAX else query.after
    start = await wanted.position(after)
    return stream.response(
        request, log.engine.changes, [wanted], {wanted.log: start}, cursor=lambda positions: str(positions[wanted.log])
    )


@router.get(
    "/{kind}/{module}/{issuer}/{object_id:path}",
    response_model=list[models.ReplicatedObject],
    summary="Read one object",
)
async def read_one(log: Annotated[Log, Depends(_log)], issuer: str, object_id: str) -> Response:
    """Read an object by its id: the one issued here, or the copy of each subscription that it came under."""
    found = await Selection(log, models.Filter(issuer=_party(issuer))).one(object_id)
    if not found:
        raise NotFoundHere(f"there is no object {object_id!r} of {issuer} in {log.name}")
    return Response(b"[%b]" % b",\n".join(found), media_type="application/json")


@router.post("/reissue", dependencies=[Depends(operator_only)], summary="Give objects new versions after a restore")
async def reissue(engine: Engine, order: models.ReissueOrder) -> models.Count:
    """Give every mutable object issued here a version above any that was ever sent, so that receivers take it."""
    return models.Count(count=await engine.publishing.reissue(order.party, order.module))


class Selection:
    """What a request may see, and asked to see, of a change log."""

    def __init__(self, log: Log, query: models.Filter) -> None:
        if not log.received and (query.receiver is not None or query.platform is not None):
            raise Problem(422, "receiver and platform are about objects that were received", "ask below /received")
        self._log = log
        self._database = log.engine.database
        self._issuer = query.issuer
        self._subscriber = None if query.receiver is None else own_party(log.caller, query.receiver)
        self._platform_id = None if query.platform is None else _platform_id(log.engine, query.platform)
        if log.caller.party is not None and log.received:
            self._subscriber = log.caller.party
        elif log.caller.party is not None:
            self._issuer = own_party(log.caller, query.issuer or log.caller.party)

    async def read(self, after: int, limit: int) -> tuple[list[tuple[int, bytes]], int, bool]:
        """Read a page, where to go on from, and whether there is more."""
        stale = await self._stale()
        page, cursor, more = await self._database.read(lambda tx: self._read(tx, after, limit))
        return [(stored.seq, wire.written(stored, stale=_source(stored) in stale)) for stored in page], cursor, more

    @property
    def log(self) -> str:
        """The name of the log."""
        return self._log.name

    async def told(self, after: int, limit: int) -> tuple[list[stream.Told], int, bool]:
        """Read a page for a stream."""
        found, cursor, more = await self.read(after, limit)
        return [(seq, "object", data) for seq, data in found], cursor, more

    async def _read(self, tx: Tx, after: int, limit: int) -> tuple[list[StoredObject], int, bool]:
        page, more = await self._page(tx, after, limit)
        cursor = page[-1].seq if page else after
        if not page:
            # Only what lies at or below an end that was read before the page is surely not in it.
            cursor = await self._end(tx, after)
            page, more = await self._page(tx, after, limit)
            cursor = page[-1].seq if page else cursor
        return page, cursor, more

    async def _page(self, tx: Tx, after: int, limit: int) -> tuple[list[StoredObject], bool]:
        """Read up to so many objects, fewer if they are large, and say whether there are more."""
        page: list[StoredObject] = []
        size = 0
        while True:
            part = await objects.page(
                tx,
                module=self._log.module,
                received=self._log.received,
                issuer=self._issuer,
                platform_id=self._platform_id,
                subscriber=self._subscriber,
                after=page[-1].seq if page else after,
                limit=READ_TOGETHER_MAX,
            )
            for stored in part:
                size += len(stored.payload)
                if page and (len(page) == limit or size > PAGE_BYTES_MAX):
                    return page, True
                page.append(stored)
            if len(part) < READ_TOGETHER_MAX:
                return page, False

    async def one(self, object_id: str) -> list[bytes]:
        """Read the copies of one object."""
        async with self._database.reading() as tx:
            found = await objects.one(
                tx,
                self._log.module,
                self._issuer or "",
                object_key(object_id),
                received=self._log.received,
                subscriber=self._subscriber,
            )
        stale = await self._stale()
        return [wire.written(stored, stale=_source(stored) in stale) for stored in found]

    async def position(self, after: int | None) -> int:
        """Say where a stream begins: after a cursor that the client has, or at the end of the log."""
        async with self._database.reading() as tx:
            end = await self._end(tx, after or 0)
        return end if after is None else after

    async def _end(self, tx: Tx, after: int) -> int:
        end = await objects.last_number(tx, self._log.name)
        if after > end:
            raise Problem(
                409, f"the cursor {after} lies beyond the end of {self._log.name}", "it is another log's: begin with 0"
            )
        return end

    async def _stale(self) -> frozenset[_Source]:
        """Find the subscriptions that ended: copies under them stay readable, marked stale (B20)."""
        if not self._log.received:
            return frozenset()
        return frozenset(
            (one.platform, one.subscriber, one.producer)
            for one in await self._log.engine.consuming.list()
            if one.module == self._log.module and one.ended_at is not None
        )


def _source(stored: StoredObject) -> _Source:
    return stored.platform, stored.subscriber, stored.issuer


def known_module(name: str) -> ModuleId:
    """Read a module's name, or an alias.

    Raises ``NotFoundHere``.
    """
    found = module_named(name)
    if found is None:
        raise NotFoundHere(
            f"there is no module {name!r}; these are served: {', '.join(one.id for one in all_modules())}"
        )
    return found.id


def _party(text: str) -> PartyId:
    try:
        return party_id(text)
    except ValueError as error:
        raise refusal(422, error) from error


def _platform_id(engine: Services, identity: str) -> int:
    found = engine.directory.by_identity(identity.lower())
    if found is None:
        raise NotFoundHere(f"no platform {identity} is known here; see `ocpi-engine platforms`")
    return found.id
