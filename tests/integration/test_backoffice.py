"""Calls between engines whose parties have systems of their own: a webhook, or one that follows the event stream."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from engine.app import Engine
from engine.settings import BadSettings
from tests.support.local_api import following, new_platform
from tests.support.offices import UNLOCK, InProcess, ask, ended, pair
from tests.support.webhook import Hook, answer, webhook

SECRET = f"whsec_{base64.b64encode(bytes(range(24))).decode()}"


@asynccontextmanager
async def posted_to(folder: Path, **settings: str) -> AsyncIterator[tuple[InProcess, InProcess, Hook]]:
    """Run a CPO and an eMSP, each with the same webhook."""
    secret = folder / "webhook-secret"
    secret.write_text(f"{SECRET}\n")
    async with webhook(answer()) as hook:
        office = {
            "BACKOFFICE__KIND": "webhook",
            "BACKOFFICE__WEBHOOK_URL": hook.url,
            "BACKOFFICE__WEBHOOK_SECRET_FILE": str(secret),
        }
        async with pair(folder, **office | settings) as (cpo, emsp):
            yield cpo, emsp, hook


def told(hook: Hook, number: int = -1) -> dict[str, Any]:
    """Read what a webhook was told; whoever signed it knows the secret."""
    posted = hook.posted[number]
    data: dict[str, Any] = Verifier(SECRET).verify(posted.body, posted.headers)["data"]
    return data


async def test_a_webhook_takes_a_call_and_concludes_it_later(tmp_path: Path):
    """It answers with nothing, does what is asked, and gives the result over the local API."""
    async with posted_to(tmp_path) as (cpo, emsp, hook):
        shown = await ask(emsp, cpo, UNLOCK)
        assert shown["data"] == "ACCEPTED"
        call = told(hook)
        assert (call["from"], call["to"], call["module"]) == ("NLEMS", "BEBEC", "locations")
        await cpo.asked("POST", f"/calls/{call['id']}/result", {"result_type": "SUCCESS"})
        after = await ended(emsp, shown["id"])

    assert (after["state"], after["results"][0]["result_type"]) == ("succeeded", "SUCCESS")
    assert len(hook.posted) == 1


async def test_a_webhook_answers_with_the_result(tmp_path: Path):
    """At once; a refusal for policy, too."""
    async with posted_to(tmp_path) as (cpo, emsp, hook):
        hook.behave = answer(b'{"result_type":"FAILED","error":{"status":"DEVICE_OFFLINE"}}')
        shown = await ask(emsp, cpo, UNLOCK, wait_s=20)
        assert shown["results"][0]["error"] == {"status": "DEVICE_OFFLINE"}
        hook.behave = answer(b'{"answer":"NOT_SUPPORTED"}')
        refused = await ask(emsp, cpo, UNLOCK)
        assert (refused["state"], refused["data"]) == ("refused", "NOT_SUPPORTED")


@pytest.mark.parametrize("dead", [answer(status=503), answer(b"Welcome to nginx"), answer(b'{"result_type":"DONE"}')])
async def test_a_dead_or_lying_webhook_is_seen_and_tried_again(tmp_path: Path, dead: Any):
    """The partner gets its answer, the state says what is wrong; the same call comes again when the webhook is back."""
    async with posted_to(tmp_path) as (cpo, emsp, hook):
        hook.behave = dead
        shown = await ask(emsp, cpo, UNLOCK)
        assert shown["data"] == "ACCEPTED"
        async with cpo.api() as api:
            stuck = (await api.get("/state")).json()["stuck"]
        (entry,) = [one for one in stuck if "for the systems of BEBEC" in one["what"]]
        assert "webhook" in entry["why"]
        assert entry["next_attempt_at"] > entry["since"]
        await hook.until(2)
        hook.behave = answer(b'{"result_type":"SUCCESS"}')
        after = await ended(emsp, shown["id"])

    assert after["state"] == "succeeded"
    assert len({posted.headers["webhook-id"] for posted in hook.posted}) == 1
    assert {told(hook, number)["id"] for number in range(len(hook.posted))} == {told(hook)["id"]}


async def test_a_webhook_that_stays_dead_leaves_nobody_waiting(tmp_path: Path):
    """At the deadline the partner is told TIMEOUT."""
    async with posted_to(tmp_path, CALLS__CONCLUDE_WITHIN_S="0.5") as (cpo, emsp, hook):
        hook.behave = answer(status=500)
        shown = await ask(emsp, cpo, UNLOCK, wait_s=20)
    assert shown["results"][0]["result_type"] == "TIMEOUT"


async def test_an_authorization_by_webhook(tmp_path: Path):
    """By setting; what has to be answered at once is, or the partner is told within its time-out that nobody did."""
    async with posted_to(tmp_path, BACKOFFICE__AUTHORIZE="webhook") as (cpo, emsp, hook):
        hook.behave = answer(b'{"status_code":7001,"message":"who is that?"}')
        unknown = await ask(cpo, emsp, "tokens/authorize")
        assert (unknown["status_code"], unknown["message"]) == (7001, "who is that?")

        async def silent(*_: object) -> None:
            await asyncio.Event().wait()

        hook.behave = silent
        unanswered = await ask(cpo, emsp, "tokens/authorize")
        assert (unanswered["state"], unanswered["status_code"]) == ("refused", 3000)


async def test_who_follows_takes_calls_and_concludes_them(tmp_path: Path):
    """The event stream tells of a call at both ends, from asked to succeeded, and goes on where it was left."""
    async with pair(tmp_path, BACKOFFICE__KIND="stream") as (cpo, emsp), cpo.api() as at_cpo, emsp.api() as at_emsp:
        async with following(at_cpo, "?kind=call") as stream, following(at_emsp, "?kind=call") as asker:
            shown = await ask(emsp, cpo, UNLOCK)
            kind, _, call = await stream.next()
            while call["state"] != "accepted":
                kind, _, call = await stream.next()
            assert (kind, call["sender"], call["operation"]) == ("call", "NLEMS", "unlock-connector")
            cursor = asker.cursor
        await cpo.asked("POST", f"/calls/{call['id']}/result", {"result_type": "SUCCESS"})
        async with following(at_emsp, "?kind=call", cursor=cursor) as asker:
            while (told := (await asker.next())[2])["open"]:
                pass
    assert (told["id"], told["state"]) == (shown["id"], "succeeded")


@pytest.mark.requirement("R.07.06.07")
async def test_what_is_only_told_is_taken_and_what_nobody_answers_is_refused(tmp_path: Path):
    """Of calls that have to be answered at once: a message is heard, a dispute is not offered."""
    async with pair(tmp_path, BACKOFFICE__KIND="stream") as (cpo, emsp), emsp.api() as api:
        async with following(api, "?kind=call") as stream:
            told = await ask(cpo, emsp, "sessions/send-driver-message")
            assert (told["state"], told["status_code"]) == ("succeeded", 1000)
            _, _, call = await stream.next()
            assert call["payload"]["messages"]
        refused = await ask(emsp, cpo, "cdrs/dispute")
    assert (refused["state"], refused["status_code"]) == ("refused", 2000)
    assert "does not offer" in refused["message"]


@pytest.mark.parametrize(
    ("settings", "secret", "why"),
    [
        ({"KIND": "webhook"}, None, "needs webhook_url and webhook_secret_file"),
        ({"WEBHOOK_URL": "ftp://x/"}, None, "write https://"),
        ({"WEBHOOK_URL": "http://example.org/"}, None, "private network"),
        ({"WEBHOOK_URL": "https://me:secret@example.org/"}, None, "write https://"),
        ({"AUTHORIZE": "webhook"}, None, 'needs kind = "webhook"'),
        ({"KIND": "webhook", "WEBHOOK_URL": "https://x.example/", "WEBHOOK_SECRET_FILE": "none"}, None, "none"),
        ({"KIND": "webhook", "WEBHOOK_URL": "https://x.example/", "WEBHOOK_SECRET_FILE": "s"}, "", "is empty"),
        ({"KIND": "webhook", "WEBHOOK_URL": "https://x.example/", "WEBHOOK_SECRET_FILE": "s"}, "abc", "whsec_"),
    ],
)
async def test_settings_that_cannot_be_used(tmp_path: Path, settings: dict[str, str], secret: str | None, why: str):
    """They are refused at the start, with what to write instead; a secret is not repeated."""
    folder = await new_platform(tmp_path / "cpo")
    if secret is not None:
        (folder.root / "s").write_text(secret)
    with pytest.raises(BadSettings, match=why) as refused:
        Engine(folder, folder.settings({f"OCPI_ENGINE_BACKOFFICE__{name}": value for name, value in settings.items()}))
    assert "me:secret" not in str(refused.value)
