"""What we say about calls (UC 04.01, 04.03): the request for one, and the callback with its result."""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from engine.peers.client import FailureKind, PeerAnswer, PeerFailure, Peers
from engine.protocol import envelope
from engine.protocol.addressing import party_path
from engine.protocol.calls import ASYNC_RESPONSES, CallEvent, Delivery, read_immediate
from engine.protocol.errors import SUCCESS, ForwardTimeout
from engine.protocol.ids import PartyId, party_id
from engine.protocol.modules.bodies import ImmediateResponseToAsyncRequest
from engine.protocol.modules.module import Call

SHOWN_MAX: Final = 200  # characters of a stranger's answer that are kept to be shown
_SUCCESS: Final = range(200, 300)
_CLIENT_ERROR: Final = range(400, 500)
_SERVER_ERROR: Final = range(500, 600)
# Answers of a server, or of what stands before it, that say nothing of what becomes of the request.
_PASSING: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


@dataclass(frozen=True, slots=True)
class Said:
    """What came of asking: an answer, or that there is none. ``data`` is the JSON text of the answer's data."""

    event: CallEvent
    message: str | None = None
    http_status: int | None = None
    status_code: int | None = None
    data: bytes | None = None
    routed_receiver: PartyId | None = None


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of delivering a callback. ``why`` it is still owed; ``platform_up``: whether anybody answered (B6)."""

    delivery: Delivery
    why: str | None = None
    platform_up: bool | None = True


class CallRequests:
    """Requests of calls; neither raises for what a partner or the network does."""

    def __init__(self, peers: Peers, *, may_send: Callable[[], bool]) -> None:
        """Send through these sessions; callbacks as long as this process is the one that may."""
        self._peers = peers
        self._may_send = may_send

    def timeout_s(self, platform_id: int) -> float:
        """Return how long a platform may take to answer."""
        return self._peers.timeout_s(platform_id)

    async def ask(
        self,
        platform_id: int,
        call: Call,
        path: str,
        body: bytes,
        *,
        request_id: str,
        correlation_id: str,
    ) -> Said:
        """Ask for an operation (R.04.01.01 to R.04.01.05)."""
        try:
            answer = await self._peers.request(
                platform_id, "POST", path, body=body, request_id=request_id, correlation_id=correlation_id
            )
        except PeerFailure as failure:
            event = CallEvent.UNANSWERED if failure.sent else CallEvent.UNREACHED
            return Said(event, str(failure))
        return read_answer(call, answer)

    async def deliver(
        self,
        platform_id: int,
        sender: PartyId,
        receiver: PartyId,
        callback_id: str,
        body: bytes,
        *,
        correlation_id: str,
    ) -> Delivered:
        """Deliver a result (R.04.03.08 to R.04.03.11)."""
        path = party_path(sender, receiver, ASYNC_RESPONSES, callback_id)
        try:
            answer = await self._peers.request(
                platform_id, "POST", path, body=body, correlation_id=correlation_id, may_send=self._may_send
            )
        except PeerFailure as failure:
            untried = failure.kind is FailureKind.WITHHELD
            return Delivered(Delivery.OWED, str(failure), platform_up=None if untried else failure.answered)
        return read_delivery(answer)


def read_answer(call: Call, answer: PeerAnswer) -> Said:
    """Read what a partner said to a request for an operation."""
    response = envelope.read(answer.body)
    status = answer.http_status
    if response is None:
        what = f"HTTP {status} without an OcpiResponse: {_shown(answer.body)!r}"
        refused = status in _CLIENT_ERROR and status not in _PASSING
        return Said(CallEvent.REFUSED if refused else CallEvent.UNANSWERED, what, status)
    code = response.status_code
    message = (response.status_message or "")[:SHOWN_MAX] or None
    data = response.content or None
    told = (status, code, data, _party(response.routed_receiver))
    if code != SUCCESS or status not in _SUCCESS:
        # Whom the hub passed it on to may have it all the same.
        lost = code == ForwardTimeout.status_code
        return Said(CallEvent.UNANSWERED if lost else CallEvent.REFUSED, message or "no message", *told)
    if not call.asynchronous:
        return Said(CallEvent.ANSWERED, message, *told)
    immediate = read_immediate(data or b"")
    if immediate in (None, ImmediateResponseToAsyncRequest.ACCEPTED):
        # 1000 is a yes, also without the word for it.
        return Said(CallEvent.ACCEPTED, message, *told)
    return Said(CallEvent.REFUSED, message or str(immediate), *told)


def read_delivery(answer: PeerAnswer) -> Delivered:
    """Read what a partner said to a callback: only 1000 and 404 end it (B34)."""
    if answer.http_status in _SUCCESS and envelope.is_success(answer.body):
        return Delivered(Delivery.DELIVERED)
    response = envelope.read(answer.body)
    if response is None:
        what = f"HTTP {answer.http_status} without an OcpiResponse: {_shown(answer.body)!r}"
    else:
        what = f"{response.status_code}: {response.status_message or 'no message'}"[:SHOWN_MAX]
    if answer.http_status == HTTPStatus.NOT_FOUND:
        return Delivered(Delivery.UNKNOWN, what)
    return Delivered(Delivery.OWED, what, platform_up=response is not None or answer.http_status not in _SERVER_ERROR)


def _party(text: str | None) -> PartyId | None:
    try:
        return None if text is None else party_id(text)
    except ValueError:
        return None


def _shown(body: bytes) -> str:
    return body[:SHOWN_MAX].decode("utf-8", "replace")
