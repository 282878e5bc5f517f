"""The commands against platforms that run: a CPO and an eMSP in this process, over real TLS."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from engine.app import Engine
from engine.cli.main import run
from engine.protocol.ids import PartyId
from engine.settings import PlatformFolder
from tests.support.local_api import statuses_are_replaced
from tests.support.offices import ScriptedOffice, parameters
from tests.support.services import free_port

CPO, EMSP = "cpo.example.org", "emsp.example.org"
LINE = '{"id":"%s","payload":{"status":"%s"}}\n'


@dataclass
class Printed:
    """What a command wrote."""

    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its answer in JSON."""
        return json.loads(self.out)


def write(name: str, text: str) -> None:
    """Write a file into the folder that the commands are run in."""
    Path(name).write_text(text)


class Piped:
    """A standard input that holds this."""

    def __init__(self, data: bytes) -> None:
        self.buffer = BytesIO(data)


class Operator:
    """Runs commands in a thread, while the platforms run in the test's loop."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.engines: dict[str, Engine] = {}
        self._capsys = capsys

    async def __call__(self, *words: str | Path, code: int = 0) -> Printed:
        """Run a command, and expect its exit code."""
        arguments = [str(word) for word in words]
        got = await asyncio.to_thread(run, arguments)
        captured = self._capsys.readouterr()
        assert got == code, f"{' '.join(arguments)} → {got}\n{captured.out}{captured.err}"
        return Printed(captured.out, captured.err)

    async def start(self, name: str) -> None:
        """Serve a platform."""
        folder = PlatformFolder(self.root / name)
        self.engines[name] = Engine(folder, folder.settings())
        await self.engines[name].start()

    async def until_received(self, name: str, module: str, count: int) -> None:
        """Wait until a platform holds so many objects."""
        changes, log, seen = self.engines[name].changes, f"{module}/received", 0
        async with asyncio.timeout(20):
            while True:
                page = (await self("objects", self.root / name, module, "--received", "--json", "--limit", "1000")).json
                if len(page["objects"]) >= count:
                    return
                seen = (await changes.wait({log: seen}))[log]


@pytest.fixture
async def operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Operator]:
    """Make two platforms and serve them; they do not know each other yet."""
    monkeypatch.chdir(tmp_path)
    operator = Operator(tmp_path, capsys)
    for name, identity, party, role in (("cpo", CPO, "BEBEC", "CPO"), ("emsp", EMSP, "NLEMS", "EMSP")):
        where = f"127.0.0.1:{free_port()}"
        await operator(
            "init", name, "--identity", identity, "--party", party, "--role", role,
            "--listen", where, "--base-url", f"https://{where}/ocpi", "--allow-private-addresses",
        )  # fmt: skip
        await operator.start(name)
    yield operator
    for engine in operator.engines.values():
        await engine.stop()


async def exchange_certificates(operator: Operator) -> None:
    """Sign both ways, as the draft has it: by file, checked by phone."""
    for asking, signing, partner in (("cpo", "emsp", EMSP), ("emsp", "cpo", CPO)):
        await operator("certificate", "request", asking, partner, "--out", f"{asking}.csr")
        trusting = ["--server-ca", f"{asking}/tls/server-ca.pem"]
        await operator(
            "certificate", "sign", signing, f"{asking}.csr", "--confirmed", *trusting, "--out", f"{asking}.pem"
        )
        await operator(
            "certificate", "install", asking, partner, f"{asking}.pem", "--server-ca", f"{signing}/tls/server-ca.pem"
        )


async def connect(operator: Operator) -> None:
    """Make the connection."""
    await exchange_certificates(operator)
    base_url = operator.engines["cpo"].settings.platform.base_url
    done = await operator("connect", "emsp", base_url, "--identity", CPO)
    assert "is connected; it serves BEBEC" in done.out


@pytest.mark.requirement("R.01.01.04")
async def test_nothing_is_signed_before_somebody_checked(operator: Operator, monkeypatch: pytest.MonkeyPatch):
    """Signing shows identity and fingerprint and asks; without a person to ask, and after a no, nothing is signed."""
    made = (await operator("certificate", "request", "cpo", EMSP, "--json")).json
    write("cpo.csr", made["csr"])

    refused = await operator("certificate", "sign", "emsp", "cpo.csr", code=1)
    assert CPO in refused.err
    spaced = " ".join(made["fingerprint"][start : start + 4] for start in range(0, 64, 4))
    assert spaced in refused.err
    assert "--confirmed" in refused.err

    class Terminal(BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("typer.confirm", lambda *_words, **_options: False)
    refused = await operator("certificate", "sign", "emsp", "cpo.csr", code=1)
    assert "call them first" in refused.err
    assert "no certificates yet" in (await operator("certificate", "show", "emsp")).out

    monkeypatch.setattr("typer.confirm", lambda *_words, **_options: True)
    signed = await operator("certificate", "sign", "emsp", "cpo.csr")
    assert signed.out.startswith("-----BEGIN CERTIFICATE-----")


async def test_two_platforms_meet_replicate_and_part(operator: Operator):
    """The whole story by commands: connect, subscribe, publish, read the same bytes, renew, disconnect."""
    await connect(operator)
    platforms = (await operator("platforms", "cpo", "--json")).json
    assert [(one["identity"], one["state"]) for one in platforms] == [(EMSP, "connected")]
    assert "3.0" in (await operator("platforms", "emsp", "--versions", CPO)).out
    assert "BEBEC" in (await operator("parties", "emsp", "--of", CPO, "--refresh")).out

    subscribed = await operator("subscribe", "emsp", "--as", "NLEMS", "--to", "BEBEC", "evsestatuses")
    assert "in-1: NLEMS ← evsestatuses of BEBEC at cpo.example.org is live" in subscribed.out
    payload = '{"status":"AVAILABLE", "x":0.1234567890123456789}'
    write("statuses.ndjson", LINE % ("E1", "CHARGING") + f'{{"id":"E2","payload":{payload}}}\n')
    assert "2 created" in (await operator("publish", "cpo", "evsestatuses", "statuses.ndjson")).out
    await operator.until_received("emsp", "evsestatuses", 2)
    copy = await operator("objects", "emsp", "evsestatuses", "E2", "--received", "--issuer", "BEBEC", "--payload")
    assert copy.out == payload + "\n"
    table = (await operator("objects", "emsp", "evsestatuses", "--received")).out
    assert "E1" in table
    assert CPO in table

    said = (await operator("subscriptions", "emsp", "--ask", "--json")).json
    assert said["ours"][0]["producer_says"]["current_queue_size"] == 0
    assert "0 of" in (await operator("subscriptions", "emsp", "--ask")).out
    (theirs,) = (await operator("subscriptions", "cpo", "--json")).json["theirs"]
    assert theirs["id"] == "out-1"
    assert datetime.fromisoformat(theirs["began_at"]) - datetime.fromisoformat(theirs["snapshot_from"]) == timedelta(90)
    assert "new parameters" in (await operator("renegotiate", "emsp", "in-1", "--parallelism", "4")).out
    assert "new parameters" in (await operator("renegotiate", "cpo", "out-1", "--retry-interval", "2")).out
    await operator("request-retries", "emsp", "in-1")
    assert "0 objects" in (await operator("retry-now", "cpo", "out-1")).out
    assert "nothing fails" in (await operator("failing", "cpo", "out-1")).out
    await operator("drop-failing", "cpo", "out-1", "BEBEC", "E1", code=1)
    await operator("request-full-update", "emsp", "in-1", "E1")

    state = (await operator("state", "cpo")).out
    assert "out-1" in state
    assert "nothing is stuck" in state
    serial = (await operator("certificate", "show", "emsp", "--json")).json["certificates"][0]["serial"]
    await operator("certificate", "renew", "emsp", CPO)
    assert serial in (await operator("certificate", "show", "cpo")).out

    await operator("cancel", "cpo", "out-1", "--reason", "DATA_NO_LONGER_AVAILABLE")
    assert (await operator("subscriptions", "cpo", "--json")).json["theirs"] == []
    assert len((await operator("subscriptions", "cpo", "--ended", "--json")).json["theirs"]) == 1
    assert "is ended" in (await operator("disconnect", "emsp", CPO)).out
    assert "(stale)" in (await operator("objects", "emsp", "evsestatuses", "--received")).out


async def test_a_subscription_is_ended_by_the_subscriber(operator: Operator):
    """`unsubscribe` ends ours, and the producer's side with it (UC 03.04)."""
    await connect(operator)
    await operator("subscribe", "emsp", "--as", "NLEMS", "--to", "BEBEC", "locations", "--retry-interval", "2")
    await operator("unsubscribe", "emsp", "in-1")

    assert (await operator("subscriptions", "cpo", "--json")).json["theirs"] == []
    refused = await operator("subscribe", "emsp", "--as", "NLEMS", "--to", "DEPTX", "locations", code=1)
    assert "DEPTX" in refused.err


async def test_publish_goes_on_after_bad_lines(operator: Operator, monkeypatch: pytest.MonkeyPatch):
    """Bad lines are listed by number with the reason, the others are stored, and the exit code is 1."""
    lines = [LINE % (f"E{number}", "AVAILABLE") for number in range(1, 1201)]
    lines[600], lines[1199] = "nonsense\n", LINE % ("E1200", "SLEEPING")
    lines[700] = "\n"
    write("statuses.ndjson", "".join(lines))

    told = await operator("publish", "cpo", "evsestatuses", "statuses.ndjson", code=1)
    assert "line 601: not JSON" in told.err
    assert "line 1200 E1200: /status" in told.err
    assert "2 refused" in told.err
    answer = (await operator("publish", "cpo", "evsestatuses", "statuses.ndjson", "--json", code=1)).json
    assert (answer["unchanged"], answer["refused"]) == (1197, 2)
    assert [bad["line"] for bad in answer["bad_lines"]] == [601, 1200]
    assert answer["bad_lines"][1]["problems"][0]["pointer"] == "/status"

    monkeypatch.setattr("sys.stdin", Piped((LINE % ("E1", "BLOCKED")).encode()))
    assert (await operator("publish", "cpo", "evsestatuses", "-", "--party", "bebec", "--json")).json["changed"] == 1


async def test_publish_needs_to_know_who_issues(operator: Operator):
    """With several parties hosted, the party is asked for; an unknown module or file is named."""
    await operator("parties", "add", "cpo", "BEABC", "--role", "CPO", "--name", "ABC")
    write("statuses.ndjson", LINE % ("E1", "AVAILABLE"))
    refused = await operator("publish", "cpo", "evsestatuses", "statuses.ndjson", code=1)
    assert "--party" in refused.err

    await operator("publish", "cpo", "evsestatuses", "statuses.ndjson", "--party", "BEABC")
    assert "nothing" in (await operator("publish", "cpo", "nothing", "statuses.ndjson", "--party", "BEABC", code=1)).err
    assert "missing" in (await operator("publish", "cpo", "evsestatuses", "missing", "--party", "BEABC", code=1)).err
    await operator("parties", "remove", "cpo", "BEABC")
    assert [one["party_id"] for one in (await operator("parties", "cpo", "--json")).json] == ["BEBEC"]


async def test_an_object_is_replaced(operator: Operator, monkeypatch: pytest.MonkeyPatch):
    """What is issued is listed; FILE and standard input have the new objects; a refusal says why, and exits with 1."""
    statuses_are_replaced(monkeypatch)
    write("statuses.ndjson", "".join(LINE % (name, "AVAILABLE") for name in ("E1", "E2", "E3")))
    await operator("publish", "cpo", "evsestatuses", "statuses.ndjson")
    write("new.ndjson", '\n{"payload": {"status":"CHARGING", "kW":1.10}, "id":"N1"}\n')

    first = await operator("replace", "cpo", "evsestatuses", "e1", "new.ndjson", "--id", "E1X")
    assert "evsestatuses e1 of BEBEC is replaced: 2 objects issued" in first.out
    assert [line.split()[1] for line in first.out.splitlines()[-2:]] == ["E1X", "N1"]
    copy = await operator("objects", "cpo", "evsestatuses", "N1", "--payload")
    assert copy.out == '{"status":"CHARGING", "kW":1.10}\n'

    monkeypatch.setattr("sys.stdin", Piped((LINE % ("N2", "RESERVED")).encode()))
    second = await operator(
        "replace", "cpo", "evsestatuses", "E2", "-", "--party", "bebec", "--from", "2027-01-01T00:00:00+01:00", "--json"
    )
    assert [one["id"] for one in second.json["issued"]] == ["E2-end", "N2"]
    assert "1798758000" in (await operator("objects", "cpo", "evsestatuses", "E2-end", "--payload")).out

    again = await operator("replace", "cpo", "evsestatuses", "E1", "--id", "E1X", code=1)
    assert "evsestatuses E1X is issued already: nothing was issued" in again.err
    write("bad.ndjson", LINE % ("N3", "SLEEPING"))
    bad = await operator("replace", "cpo", "evsestatuses", "E3", "bad.ndjson", code=1)
    assert "/status: expected" in bad.err
    assert "nothing was stored" in bad.err
    write("broken.ndjson", LINE % ("N3", "RESERVED") + "nonsense\n")
    assert (
        "line 2 is no JSON object"
        in (await operator("replace", "cpo", "evsestatuses", "E3", "broken.ndjson", code=1)).err
    )
    assert "missing" in (await operator("replace", "cpo", "evsestatuses", "E3", "missing", code=1)).err
    assert "no time" in (await operator("replace", "cpo", "evsestatuses", "E3", "--from", "soon", code=2)).err
    assert "time zone" in (await operator("replace", "cpo", "evsestatuses", "E3", "--from", "2027-01-01", code=2)).err
    assert "publish L1 again" in (await operator("replace", "cpo", "locations", "L1", code=1)).err
    listed = (await operator("objects", "cpo", "evsestatuses", "--json")).json["objects"]
    assert {one["id"] for one in listed} == {"E1", "E2", "E3", "E1X", "N1", "E2-end", "N2"}


async def test_a_role_that_came_later_is_told_how_to_have_it(operator: Operator):
    """A party that was made before a module existed learns how its roles are given again, and that works."""
    await operator("parties", "add", "cpo", "BEBEC", "--role", "locations:SENDER")
    write("statuses.ndjson", LINE % ("E1", "AVAILABLE"))
    refused = await operator("publish", "cpo", "evsestatuses", "statuses.ndjson", code=1)
    assert "BEBEC does not serve evsestatuses as a sender" in refused.err
    assert "parties add DIR BEBEC --role" in refused.err

    await operator("parties", "add", "cpo", "BEBEC", "--role", "CPO")
    assert "1 created" in (await operator("publish", "cpo", "evsestatuses", "statuses.ndjson")).out


async def test_tokens_and_reissue(operator: Operator):
    """A token is made, shown once, and removed; reissue counts what it gave new versions."""
    made = await operator("token", "add", "cpo", "office", "--party", "BEBEC")
    assert len(made.out.strip()) == 43
    assert "BEBEC" in (await operator("token", "cpo")).out
    assert "token" not in (await operator("token", "cpo", "--json")).json[0]
    await operator("token", "remove", "cpo", "office")
    assert "no tokens" in (await operator("token", "list", "cpo")).out
    await operator("token", "add", "cpo", "x", "--party", "NLXXX", code=1)

    write("statuses.ndjson", LINE % ("E1", "AVAILABLE"))
    await operator("publish", "cpo", "evsestatuses", "statuses.ndjson")
    assert (await operator("reissue", "cpo", "--module", "evsestatuses", "--json")).json == {"count": 1}


async def test_objects_are_shown_page_by_page(operator: Operator):
    """A table says how to go on; one object's payload comes as it is; the limits of wrong use are told."""
    write("statuses.ndjson", "".join(LINE % (f"E{number}", "AVAILABLE") for number in range(3)))
    await operator("publish", "cpo", "evsestatuses", "statuses.ndjson")
    first = await operator("objects", "cpo", "evsestatuses", "--limit", "2")
    assert "E1" in first.out
    assert "E2" not in first.out
    cursor = first.err.split("--after ")[1].split(",")[0]
    assert "E2" in (await operator("objects", "cpo", "evsestatuses", "--after", cursor)).out
    assert (await operator("objects", "cpo", "evsestatuses", "e0", "--json")).json[0]["id"] == "E0"
    assert '{"status":"AVAILABLE"}' in (await operator("objects", "cpo", "evsestatuses", "E0")).out
    await operator("objects", "cpo", "evsestatuses", "--payload", code=2)
    await operator("objects", "cpo", "evsestatuses", "E9", code=1)


async def serve(folder: Path) -> asyncio.subprocess.Process:
    """Run `serve` as a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engine", "serve", str(folder),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def test_serve_says_when_it_begins_and_ends(operator: Operator):
    """It says where partners and the local API find it, ends in order on SIGTERM, and can be started again."""
    await operator.engines["cpo"].stop()
    for _ in range(2):
        process = await serve(operator.root / "cpo")
        assert process.stdout is not None
        async with asyncio.timeout(30):
            async for line in process.stdout:
                if b"serves partners at https://" in line:
                    break
            process.terminate()
            rest = await process.stdout.read()
            assert await process.wait() == 0
        assert b"api.sock" in rest
        assert "✓ stopped" in rest.decode()


async def test_a_second_serve_is_refused(operator: Operator):
    """Who serves a folder already is told; nothing happens to the one that runs."""
    second = await serve(operator.root / "cpo")
    said, _ = await asyncio.wait_for(second.communicate(), 30)

    assert second.returncode == 1
    assert f"is already served by process {os.getpid()}" in said.decode()
    assert (await operator("state", "cpo", "--json")).json["platforms"] == []


async def test_serve_says_why_it_cannot_start(operator: Operator):
    """Settings that cannot be used, and a port in use, are told in a sentence."""
    await operator.engines["cpo"].stop()
    settings = operator.root / "cpo" / "engine.toml"
    text = settings.read_text()
    ports = {name: str(engine.settings.listener.port) for name, engine in operator.engines.items()}
    for changed, reason in (
        (text + "colour = 1\n", "colour"),
        (text.replace(ports["cpo"], ports["emsp"]), "in use"),
        (text + '[api]\nlisten = "0.0.0.0:80"\n', "nowhere else"),
    ):
        write("cpo/engine.toml", changed)
        process = await serve(operator.root / "cpo")
        said, _ = await asyncio.wait_for(process.communicate(), 30)

        assert process.returncode == 1
        assert reason in said.decode()
        assert "Traceback" not in said.decode()


async def test_a_partner_that_is_away(operator: Operator):
    """Connecting to nobody is begun and goes on; saying bye to nobody fails, and names the way out."""
    await exchange_certificates(operator)
    base_url = operator.engines["cpo"].settings.platform.base_url
    await operator.engines["cpo"].stop()

    begun = await operator("connect", "emsp", base_url, "--identity", CPO)
    assert "is connecting" in begun.out
    assert "not running" in (await operator("platforms", "cpo", code=1)).err
    assert "is ended" in (await operator("disconnect", "emsp", CPO, "--reset")).out


async def test_calls_are_asked_and_looked_at(operator: Operator, monkeypatch: pytest.MonkeyPatch):
    """`call` asks with a file or standard input, waits when told to, and its exit code says how it went."""
    await connect(operator)
    office = ScriptedOffice()
    to_cpo = ["--as", "NLEMS", "--to", "BEBEC"]
    unlock = ["call", "emsp", "locations", "unlock-connector"]
    write("unlock.json", parameters("locations/unlock-connector").decode())

    refused = await operator(*unlock, "unlock.json", *to_cpo, code=1)
    assert "call 1: locations/unlock-connector of BEBEC at cpo.example.org refused: NOT_SUPPORTED" in refused.out
    cpo = operator.engines["cpo"].calls
    cpo.serve(PartyId("BEBEC"), office)
    monkeypatch.setattr("sys.stdin", Piped(parameters("locations/unlock-connector")))
    accepted = await operator(*unlock, "-", *to_cpo)
    assert "call 2: locations/unlock-connector of BEBEC at cpo.example.org accepted" in accepted.out
    listed = await operator("calls", "emsp", "--open")
    assert [word in listed.out for word in ("unlock-connector", "NLEMS → BEBEC", "accepted", "NOT_SUPPORTED")] == [
        True, True, True, False,
    ]  # fmt: skip
    shown = (await operator("calls", "cpo", "--json")).json
    assert [(one["asked_here"], one["state"]) for one in shown] == [(False, "accepted")]
    assert "1 of ours wait" in (await operator("state", "emsp")).out
    assert "1 of partners wait" in (await operator("state", "cpo")).out

    waiting = asyncio.create_task(operator(*unlock, "unlock.json", *to_cpo, "--wait", "20", "--json", code=1))
    taken = (await office.took(2))[1]
    await cpo.conclude(taken.id, "REJECTED", error=b'{"status":"DEVICE_OFFLINE"}')
    rejected = (await waiting).json
    assert (rejected["state"], rejected["results"][0]["error"]) == ("failed", {"status": "DEVICE_OFFLINE"})
    assert "REJECTED, DEVICE_OFFLINE" in (await operator("calls", "emsp")).out

    write("preferences.json", parameters("sessions/change-charging-preferences").decode())
    done = await operator("call", "emsp", "sessions", "change-charging-preferences", "preferences.json", *to_cpo)
    assert done.out.startswith("✓ call 4: ")
    assert done.out.endswith('"ACCEPTED"\n') is False  # the word says no more than the state
    assert "nothing" in (await operator("call", "emsp", "locations", "nothing", "unlock.json", *to_cpo, code=1)).err
    write("empty.json", "{}")
    wrong = await operator(*unlock, "empty.json", *to_cpo, code=1)
    assert "/connector_id: expected" in wrong.err
    assert "cannot be read" in (await operator(*unlock, "missing.json", *to_cpo, code=1)).err
    assert len((await operator("calls", "emsp", "--json", "--limit", "2")).json) == 2
