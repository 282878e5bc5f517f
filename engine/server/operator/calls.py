"""Routes of calls: ask, look, give results. Open to a party's token, for that party's own."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from engine.clock import ocpi_time
from engine.protocol.calls import present, read_result
from engine.protocol.json_text import DuplicateKeys, MalformedJson, check_object
from engine.refusals import NotFoundHere
from engine.relay.calls import CallWithResults
from engine.server.operator import models
from engine.server.operator.access import AnyCaller, Caller, Engine, own_party
from engine.server.operator.errors import MEND, refusal
from engine.server.operator.services import Services
from engine.store.calls import StoredResult

router = APIRouter(prefix="/api/v1/calls", tags=["calls"])

T = TypeVar("T", bound=models.Body)

PAGE_DEFAULT = 100

WaitS = Annotated[
    float, Query(ge=0, le=models.WAIT_MAX_S, description="wait this long for it to end, if it has not yet")
]
_HIDDEN = ("platform_id", "callback_id", "digest", "payload", "answer")  # and what is written otherwise
_MOMENTS = ("asked_at", "answered_at", "deadline_at", "ended_at", "hand_over_at", "at", "due_at", "settled_at")


class _Order(msgspec.Struct):
    payload: msgspec.Raw


class _Result(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"")
    payload: msgspec.Raw = msgspec.Raw(b"")


def _body(model: type[models.Body]) -> dict[str, Any]:
    """Describe a body that is read as bytes, so that a payload in it keeps its own."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@router.post("", response_model=models.Call, openapi_extra=_body(models.CallOrder), summary="Ask for an operation")
async def ask_call(request: Request, caller: AnyCaller, engine: Engine) -> Response:
    """Ask a partner's party; answered when the partner did, or within `wait_s` after that when a result came."""
    body = await request.body()
    order = _read(body, models.CallOrder)
    sender = own_party(caller, order.sender)
    call_id = await engine.asking.ask(
        sender,
        order.receiver,
        order.module,
        order.operation,
        bytes(msgspec.json.decode(body, type=_Order).payload),
        platform=order.platform,
        result_within_s=order.result_within_s,
    )
    if order.wait_s:
        await engine.asking.wait(call_id, within_s=order.wait_s)
    return _json(shown(await engine.calls.get(call_id)))


@router.get("", response_model=models.CallPage, summary="List calls")
async def calls_listed(
    caller: AnyCaller,
    engine: Engine,
    *,
    is_open: Annotated[
        bool | None, Query(alias="open", description="only those that wait for something, or have ended")
    ] = None,
    party: Annotated[str | None, Query(description="only of this party of ours")] = None,
    asked_here: Annotated[bool | None, Query(description="only those that ours asked, or that partners did")] = None,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="go on after a page")] = None,
    limit: Annotated[int, Query(ge=1)] = PAGE_DEFAULT,
) -> Response:
    """Show calls of both sides, newest first."""
    wanted = caller.party if party is None else own_party(caller, party)
    limit = min(limit, engine.settings.api.page_max)
    found = await engine.calls.page(
        party=wanted, is_open=is_open, asked_here=asked_here, before=before, limit=limit + 1
    )
    return _json({"calls": [shown(one) for one in found[:limit]], "more": len(found) > limit})


@router.get("/{call_id}", response_model=models.Call, summary="Show a call")
async def one_call(caller: AnyCaller, engine: Engine, call_id: int, wait_s: WaitS = 0.0) -> Response:
    """Show a call, now or once it has ended."""
    found = await _own(engine, caller, call_id)
    if wait_s and found.call.ended_at is None:
        await engine.asking.wait(call_id, within_s=wait_s)
        found = await engine.calls.get(call_id)
    return _json(shown(found))


@router.post(
    "/{call_id}/result",
    response_model=models.Call,
    responses={
        409: {"model": models.ErrorAnswer, "description": "it has another result already, or takes none"},
        422: {"model": models.ErrorAnswer, "description": "not a result of this operation; `problems` say where"},
    },
    openapi_extra=_body(models.ResultOrder),
    summary="Give the result of a partner's call",
)
async def conclude_call(request: Request, caller: AnyCaller, engine: Engine, call_id: int) -> Response:
    """Give the result of an asynchronous call; the partner is told until it has heard it. Again, it is one result."""
    await _own(engine, caller, call_id)
    body = await request.body()
    order = _read(body, models.ResultOrder)
    values = msgspec.json.decode(body, type=_Result)
    await engine.calls.conclude(
        call_id,
        order.result_type,
        payload=present(values.payload),
        error=present(values.error),
        message=order.message,
    )
    return _json(shown(await engine.calls.get(call_id)))


async def _own(engine: Services, caller: Caller, call_id: int) -> CallWithResults:
    """Read a call that the caller may see. Raises ``NotFoundHere``, also for another party's."""
    found = await engine.calls.get(call_id) if 0 < call_id < 2**63 else None
    if found is None or not caller.may_act_for(found.call.party):
        raise NotFoundHere(f"there is no call {call_id}; `ocpi-engine calls` lists them")
    return found


def _read(body: bytes, model: type[T]) -> T:
    try:
        check_object(body)
    except (MalformedJson, DuplicateKeys) as error:
        raise refusal(422, error, MEND) from error
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error


# -- showing ----------------------------------------------------------------------------------------------------


def shown(found: CallWithResults) -> dict[str, Any]:
    """Show a call with its payload's own bytes. Callback ids are for the partner alone."""
    call = found.call
    fields = {name: value for name, value in asdict(call).items() if name not in _HIDDEN}
    fields |= {"open": call.ended_at is None, "payload": msgspec.Raw(call.payload)}
    if call.answer is not None:
        fields["data" if call.asked_here else "answer"] = msgspec.Raw(call.answer)
    return _with_times(fields) | {"results": [_shown_result(result) for result in found.results]}


def _shown_result(result: StoredResult) -> dict[str, Any]:
    hidden = ("id", "call_id", "platform_id", "body")
    shown = {name: value for name, value in asdict(result).items() if name not in hidden}
    body = read_result(result.body)
    values = {"error": body.error, "payload": body.payload}
    return _with_times(shown) | {name: msgspec.Raw(value) for name, value in values.items() if value is not None}


def _with_times(shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: ocpi_time(value) if name in _MOMENTS and value is not None else value for name, value in shown.items()
    }


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
