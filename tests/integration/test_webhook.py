"""Calls that go to a party's own systems by webhook: what is posted, what may be answered, and what is not believed."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from engine.backoffice.webhook import NoAnswer, Webhook, read_secret
from engine.clock import SystemClock
from engine.protocol.ids import PartyId
from engine.protocol.modules import Problem
from engine.protocol.modules.bodies import ImmediateResponseToAsyncRequest
from engine.refusals import NotAccepted
from engine.relay.offices import Accepted, Answered, Declined, IncomingCall, RefusedAtOnce, Reply
from tests.support.webhook import Posted, answer, webhook

OLD, NEW = (f"whsec_{base64.b64encode(bytes([number]) * 24).decode()}" for number in (1, 2))
PAYLOAD = b'{"token":{"uid":"0.10"}, "odd":1.50}'


def call(*, asynchronous: bool = True) -> IncomingCall:
    """Make a call."""
    module, operation = ("sessions", "start") if asynchronous else ("tokens", "authorize")
    return IncomingCall(
        id=7,
        platform="hub.example.org",
        asker=PartyId("NLEMS"),
        receiver=PartyId("BEBEC"),
        module=module,
        operation=operation,
        asynchronous=asynchronous,
        payload=PAYLOAD,
        deadline=time.time() + 60,
        correlation_id="c-1",
    )


class Concluded:
    """Takes results, as the relay does."""

    def __init__(self) -> None:
        self.results: list[tuple[Any, ...]] = []
        self.wrong: list[Problem] = []

    async def __call__(
        self,
        call_id: int,
        result_type: str,
        *,
        payload: bytes | None = None,
        error: bytes | None = None,
        message: str | None = None,
    ) -> None:
        """Take one, or refuse it."""
        if self.wrong:
            raise NotAccepted("this is no result", self.wrong)
        self.results.append((call_id, result_type, payload, error, message))


@asynccontextmanager
async def posting(
    url: str, *, secrets: tuple[str, ...] = (NEW,), timeout_s: float = 5.0, concluded: Concluded | None = None
) -> AsyncIterator[Webhook]:
    """Run our end."""
    office = Webhook(
        url,
        [read_secret(text) for text in secrets],
        conclude=concluded or Concluded(),
        clock=SystemClock(),
        timeout_s=timeout_s,
        answer_max_bytes=10_000,
    )
    await office.start()
    try:
        yield office
    finally:
        await office.stop()


async def reply(body: bytes, *, asynchronous: bool = True, concluded: Concluded | None = None) -> Reply:
    """Answer one call with these bytes, and return what the platform makes of it."""
    async with webhook(answer(body)) as hook, posting(hook.url, concluded=concluded) as office:
        return await office.take(call(asynchronous=asynchronous))


async def test_a_call_is_posted_and_signed():
    """Everything that is known of it, its parameters byte for byte, under an id that stays; another library agrees."""
    async with webhook(answer()) as hook, posting(hook.url, secrets=(NEW, OLD)) as office:
        assert await office.take(call()) == Accepted()
        assert await office.take(call()) == Accepted()

    first, again = hook.posted
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert PAYLOAD in first.body
    data = Verifier(NEW).verify(first.body, first.headers)["data"]
    assert {name: data[name] for name in ("id", "from", "to", "module", "operation", "asynchronous")} == {
        "id": 7, "from": "NLEMS", "to": "BEBEC", "module": "sessions", "operation": "start", "asynchronous": True,
    }  # fmt: skip
    assert (data["platform"], data["correlation_id"]) == ("hub.example.org", "c-1")
    assert data["deadline"].endswith("Z")
    Verifier(OLD).verify(first.body, first.headers)  # while a secret is changed, either is right


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp", "webhook-signature"])
async def test_what_was_changed_or_replayed_is_not_believed(change: str):
    """Whoever changes the body, the id or the time breaks the signature; an old message is too old."""
    async with webhook(answer()) as hook, posting(hook.url) as office:
        await office.take(call())
    (posted,) = hook.posted
    headers, body = dict(posted.headers), posted.body
    Verifier(NEW).verify(body, headers)
    if change == "body":
        body = body.replace(b"BEBEC", b"BEABC")
    elif change == "webhook-timestamp":
        headers[change] = str(int(headers[change]) - 3600)
    else:
        headers[change] = headers[change].replace("v1,", "v1,AAAA") if "," in headers[change] else "call_8"
    with pytest.raises(WebhookVerificationError):
        Verifier(NEW).verify(body, headers)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Accepted()),
        (b' {"answer": "ACCEPTED"}\n', Accepted()),
        (
            b'{"answer": "REJECTED", "message": "not you"}',
            RefusedAtOnce(ImmediateResponseToAsyncRequest.REJECTED, "not you"),
        ),
        (b'{"answer": "NOT_SUPPORTED"}', RefusedAtOnce(ImmediateResponseToAsyncRequest.NOT_SUPPORTED)),
    ],
)
async def test_answers_to_a_call_that_may_take_its_time(body: bytes, expected: Reply):
    """Taken, or refused at once."""
    assert await reply(body) == expected


async def test_a_result_at_once_is_a_result():
    """With its payload's own bytes; one that the operation does not have is no answer, and says where it is wrong."""
    concluded = Concluded()
    body = b'{"result_type": "SUCCESS", "payload": {"a": 0.10}, "message": "done"}'
    assert await reply(body, concluded=concluded) == Accepted()
    assert await reply(b'{"result_type": "FAILED", "error": "OCCUPIED"}', concluded=concluded) == Accepted()
    assert concluded.results == [
        (7, "SUCCESS", b'{"a": 0.10}', None, "done"),
        (7, "FAILED", None, b'"OCCUPIED"', None),
    ]
    concluded.wrong = [Problem("/result_type", '"LATER"', "one of SUCCESS, FAILED")]
    with pytest.raises(NoAnswer, match=r"/result_type.*LATER.*expected one of"):
        await reply(b'{"result_type": "LATER"}', concluded=concluded)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"data": {"allowed": "ALLOWED", "n": 1.10}}', Answered(b'{"allowed": "ALLOWED", "n": 1.10}')),
        (b"{}", Answered()),
        (b'{"status_code": 7001, "message": "who?"}', Declined(7001, "who?")),
        (b'{"status_code": 2001, "data": [1]}', Declined(2001, "", [1])),
    ],
)
async def test_answers_to_a_call_that_has_to_be_answered_at_once(body: bytes, expected: Reply):
    """Its data, or a status code by its use case."""
    assert await reply(body, asynchronous=False) == expected


@pytest.mark.parametrize(
    ("body", "asynchronous", "why"),
    [
        (b"OK", True, "cannot be used"),
        (b"[]", True, "cannot be used"),
        (b'{"answer": "PERHAPS"}', True, "PERHAPS"),
        (b'{"answer": "ACCEPTED", "result_type": "SUCCESS"}', True, "answers such a call with"),
        (b'{"data": {}}', True, "answers such a call with"),
        (b"{}", True, "answers such a call with"),
        (b'{"answr": "ACCEPTED"}', True, "answr"),
        (b'{"status_code": 1000}', True, "2000"),
        (b"\xff", True, "cannot be used"),
        (b"[" * 9000, True, "cannot be used"),
        (b"x" * 10_001, True, "longer than 10000 bytes"),
        (b"", False, "answered at once"),
        (b'{"answer": "ACCEPTED"}', False, "answers such a call with"),
        (b'{"result_type": "SUCCESS"}', False, "answers such a call with"),
    ],
)
async def test_what_is_no_answer_is_not_taken_for_one(body: bytes, asynchronous: bool, why: str):
    """A webhook that lies, or speaks of something else, is told so in words; whoever handed over tries again."""
    with pytest.raises(NoAnswer, match=why):
        await reply(body, asynchronous=asynchronous)


@pytest.mark.parametrize("status", [301, 307, 400, 410, 500, 503])
async def test_only_success_is_an_answer(status: int):
    """A redirect is followed nowhere: what is in a call is for this URL."""
    async with webhook(answer(b'{"answer": "ACCEPTED"}', status=status)) as hook, posting(hook.url) as office:
        with pytest.raises(NoAnswer, match=f"HTTP {status}"):
            await office.take(call())
    assert len(hook.posted) == 1


async def silent(_posted: Posted, _writer: asyncio.StreamWriter) -> None:
    """Say nothing."""
    await asyncio.Event().wait()


async def dripping(_posted: Posted, writer: asyncio.StreamWriter) -> None:
    """Say a byte now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def hanging_up(_posted: Posted, writer: asyncio.StreamWriter) -> None:
    """Go in the middle of a sentence."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
    await writer.drain()
    writer.transport.abort()


@pytest.mark.parametrize(
    ("behave", "why"),
    [(silent, "did not answer within"), (dripping, "did not answer within"), (hanging_up, "cannot be reached")],
)
async def test_a_webhook_that_does_not_answer_is_not_waited_for(behave: Callable[..., Any], why: str):
    """However it does not: the time-out is for the whole answer; others are answered meanwhile."""
    async with webhook(behave) as hook, posting(hook.url, timeout_s=0.3) as office:
        failing = asyncio.create_task(office.take(call()))
        await hook.until(1)
        hook.behave = answer()
        assert await office.take(call()) == Accepted()
        with pytest.raises(NoAnswer, match=why):
            await failing


async def test_a_webhook_that_is_not_there(unused_tcp_port: int):
    """Nobody listens; when somebody does again, nothing has to be done."""
    url = f"http://127.0.0.1:{unused_tcp_port}/calls"
    async with posting(url) as office:
        with pytest.raises(NoAnswer, match="cannot be reached"):
            await office.take(call())
        async with webhook(answer(), port=unused_tcp_port):
            assert await office.take(call()) == Accepted()
    with pytest.raises(NoAnswer, match="stopping"):
        await office.take(call())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hidden", "whsec_ and Base64"),
        ("whsec_$$$", "not Base64"),
        ("whsec_c2hvcnQ=", "at least 24 bytes, and this one 5"),
        (json.dumps(OLD), "whsec_ and Base64"),
    ],
)
def test_a_secret_that_is_none(text: str, why: str):
    """It is refused when it is read, not when the first call comes; its text is not repeated."""
    with pytest.raises(ValueError, match=why) as refused:
        read_secret(text)
    assert text not in str(refused.value)
