"""A party's own systems behind one URL: each call is a signed POST, as Standard Webhooks has it.

::

    call ──▶ take ──▶ POST, signed ──▶ 2xx with an answer: told to the partner
                                       2xx without one: accepted, and concluded later over the local API
                                       anything else, or nothing in time: handed over again, by whoever called

A call keeps its id through all attempts, so that who gets it twice knows it. The time is signed with the body: what
an eavesdropper sends again later is too old by then.
"""

import asyncio
import base64
import binascii
import hmac
from collections.abc import Sequence
from typing import Annotated, Final, Protocol

import httpx
import msgspec

from engine.clock import Clock, ocpi_time
from engine.protocol.calls import present
from engine.protocol.modules.bodies import ImmediateResponseToAsyncRequest
from engine.refusals import NotAccepted
from engine.relay.offices import Accepted, Answered, Declined, IncomingCall, RefusedAtOnce, Reply, WrongReply

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the same for everybody
SECRET_BYTES_MIN: Final = 24  # of Standard Webhooks; shorter ones can be guessed
AT_ONCE_MAX: Final = 32  # requests; a slow webhook delays the calls behind these, and nothing else


class Conclude(Protocol):
    """Gives the result of a call: ``relay.calls.Calls.conclude``."""

    async def __call__(
        self,
        call_id: int,
        result_type: str,
        *,
        payload: bytes | None = None,
        error: bytes | None = None,
        message: str | None = None,
    ) -> None:
        """Give it."""
        ...


class NoAnswer(WrongReply):
    """The webhook did not take a call; the message says why."""


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What a webhook may say: the fields of one of the answers that ``docs/backoffice.md`` lists."""

    data: msgspec.Raw = msgspec.Raw(b"")
    status_code: Annotated[int, msgspec.Meta(ge=2000, le=9999)] | None = None
    message: str = ""
    answer: str | None = None
    result_type: str | None = None
    payload: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Answer)


def read_secret(text: str) -> bytes:
    """Read a signing secret as Standard Webhooks writes it: ``whsec_`` and Base64.

    Raises ``ValueError``.
    """
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook's secret is written {SECRET_PREFIX} and Base64")
    encoded = text.removeprefix(SECRET_PREFIX)
    try:
        secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        raise ValueError(f"a webhook's secret is written {SECRET_PREFIX} and Base64, and this is not Base64") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise ValueError(f"a webhook's secret has at least {SECRET_BYTES_MIN} bytes, and this one {len(secret)}")
    return secret


def signature(secret: bytes, message_id: str, sent_at: int, body: bytes) -> str:
    """Sign a message. ``sent_at``: Unix seconds, as in the header beside the signature."""
    signed = b"%b.%d.%b" % (message_id.encode(), sent_at, body)
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, 'sha256')).decode()}"


class Webhook:
    """The `relay.offices.BackOffice` of parties whose systems have a URL. A Service."""

    def __init__(
        self,
        url: str,
        secrets: Sequence[bytes],
        *,
        conclude: Conclude,
        clock: Clock,
        timeout_s: float,
        answer_max_bytes: int,
    ) -> None:
        """Post to this URL. Each secret signs, so that a new one can be taken into use beside the old one.

        ``timeout_s``: for one attempt.
        """
        self._url = url
        self._secrets = secrets
        self._conclude = conclude
        self._clock = clock
        self._timeout_s = timeout_s
        self._answer_max_bytes = answer_max_bytes
        self._client: httpx.AsyncClient | None = None

    async def start(self) -> None:
        """Prepare connections; none is opened before the first call."""
        limits = httpx.Limits(max_connections=AT_ONCE_MAX, max_keepalive_connections=AT_ONCE_MAX)
        self._client = httpx.AsyncClient(timeout=self._timeout_s, limits=limits, trust_env=False)

    async def stop(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def take(self, call: IncomingCall) -> Reply:
        """Post a call once.

        Raises `NoAnswer`.
        """
        answer = await self._post(f"call_{call.id}", _written(call, self._clock.now()))
        if not answer:
            if call.asynchronous:
                return Accepted()
            raise NoAnswer("the webhook answered nothing, and this call has to be answered at once")
        try:
            read = _decoder.decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise NoAnswer(f"the webhook's answer cannot be used: {error}") from error
        return await self._later(call, read) if call.asynchronous else _at_once(read)

    async def _later(self, call: IncomingCall, read: _Answer) -> Reply:
        """Read what was said of a call that may be concluded later."""
        data = present(read.data)
        if read.result_type is not None and (read.answer, read.status_code, data) == (None, None, None):
            try:
                await self._conclude(
                    call.id,
                    read.result_type,
                    payload=present(read.payload),
                    error=present(read.error),
                    message=read.message or None,
                )
            except NotAccepted as error:
                wrong = "; ".join(f"{one.pointer}: {one.found}, expected {one.expected}" for one in error.problems)
                raise NoAnswer(f"the webhook's result cannot be used: {error} ({wrong})") from error
            return Accepted()
        if read.answer is None or (data, read.status_code, read.result_type) != (None, None, None):
            raise NoAnswer('the webhook answers such a call with nothing, {"result_type": …} or {"answer": …}')
        try:
            said = ImmediateResponseToAsyncRequest(read.answer)
        except ValueError:
            raise NoAnswer(f"the webhook answered {read.answer[:40]!r}: no such answer") from None
        return Accepted() if said is ImmediateResponseToAsyncRequest.ACCEPTED else RefusedAtOnce(said, read.message)

    async def _post(self, message_id: str, body: bytes) -> bytes:
        if self._client is None:
            raise NoAnswer("the platform is stopping")
        sent_at = int(self._clock.now())
        headers = {
            "content-type": "application/json",
            "accept-encoding": "identity",  # a small answer may unpack to one that fills the memory
            "webhook-id": message_id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": " ".join(signature(one, message_id, sent_at, body) for one in self._secrets),
        }
        received = bytearray()
        try:
            async with (
                asyncio.timeout(self._timeout_s),  # the client's own time-out begins anew with every byte
                self._client.stream("POST", self._url, content=body, headers=headers) as answer,
            ):
                if not answer.is_success:
                    raise NoAnswer(f"the webhook answered HTTP {answer.status_code}")
                async for chunk in answer.aiter_raw():
                    received += chunk
                    if len(received) > self._answer_max_bytes:
                        raise NoAnswer(f"the webhook's answer is longer than {self._answer_max_bytes} bytes")
        except (TimeoutError, httpx.TimeoutException) as error:
            raise NoAnswer(f"the webhook did not answer within {self._timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise NoAnswer(f"the webhook cannot be reached: {str(error) or type(error).__name__}") from error
        return bytes(received).strip()


def _written(call: IncomingCall, now: float) -> bytes:
    """Write a call as a message; the parameters go in as they came."""
    data = {
        "id": call.id,
        "from": call.asker,
        "to": call.receiver,
        "platform": call.platform,
        "module": call.module,
        "operation": call.operation,
        "asynchronous": call.asynchronous,
        "deadline": ocpi_time(call.deadline),
        "correlation_id": call.correlation_id,
        "payload": msgspec.Raw(call.payload),
    }
    return msgspec.json.encode({"type": "call", "timestamp": ocpi_time(now), "data": data})


def _at_once(read: _Answer) -> Reply:
    """Read the answer to a synchronous call."""
    if (read.answer, read.result_type, present(read.payload), present(read.error)) != (None, None, None, None):
        raise NoAnswer('the webhook answers such a call with {"data": …} or {"status_code": …, "message": …}')
    data = present(read.data)
    if read.status_code is None:
        return Answered(data)
    return Declined(read.status_code, read.message, None if data is None else msgspec.json.decode(data))
