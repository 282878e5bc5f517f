"""The local API: over its real socket, against a whole engine in this process."""

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update

from engine.server.operator.access import UnsafeTokenFile
from engine.server.operator.listener import BadListenAddress
from engine.store.database import StoreUnavailable
from engine.store.tables import objects, platforms
from tests.support.local_api import PARTNER, Follower, Running, new_platform, running, statuses_are_replaced

STATUSES = "/api/v1/parties/BEBEC/objects/evsestatuses"
AVAILABLE = b'{"status":"AVAILABLE"}'
EXAMPLES = Path(__file__).parents[2] / "docs" / "modules" / "examples"


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a CPO that hosts BEBEC and BEABC."""
    async with running(await new_platform(tmp_path / "cpo")) as running_platform:
        yield running_platform


async def party_token(platform: Running, party: str = "BEBEC") -> str:
    """Make a token that is limited to one party."""
    answer = await platform.client.post("/api/v1/tokens", json={"name": f"{party}-office", "party": party})
    token: str = answer.json()["token"]
    return token


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error that an answer holds."""
    error: dict[str, Any] = response.json()["error"]
    return error


# who may ask


async def test_only_health_is_answered_without_a_token(platform: Running):
    """Health needs no token; everything else is refused with 401 and a hint, with a wrong token too."""
    for token in (None, "wrong", "x" * 10_000):
        async with platform.as_holder_of(token) as stranger:
            assert (await stranger.get("/healthz")).json() == {"status": "ok"}
            assert (await stranger.get("/readyz")).status_code == 200
            for path in ("/state", "/api/v1/state", "/api/v1/openapi.json", "/api/v1/issued/locations"):
                refused = await stranger.get(path)
                assert refused.status_code == 401
                assert "api-token" in error_of(refused)["hint"]


async def test_the_socket_and_the_token_are_the_owners_alone(platform: Running):
    """The socket and the token have mode 0600 and lie in a folder of mode 0700; the token stays over a restart."""
    run = platform.folder / "run"
    token = (run / "api-token").read_text()
    modes = {name: stat.S_IMODE((run / name).stat().st_mode) for name in ("api.sock", "api-token")}
    assert modes == {"api.sock": 0o600, "api-token": 0o600}
    assert stat.S_IMODE(run.stat().st_mode) == 0o700

    await platform.engine.stop()
    assert not (run / "api.sock").exists()
    async with running(platform.engine.folder) as again:
        assert (await again.client.get("/state")).status_code == 200
    assert (run / "api-token").read_text() == token


async def test_a_token_that_others_could_read_is_not_used(tmp_path: Path):
    """A token file that others can read is no secret: the platform says so and does not start."""
    folder = await new_platform(tmp_path / "cpo")
    (folder.run / "api-token").write_text("leaked\n")
    (folder.run / "api-token").chmod(0o644)

    with pytest.raises(UnsafeTokenFile, match="others can read"):
        async with running(folder):
            pass


async def test_a_client_that_hangs_up_is_no_error_of_ours(platform: Running, caplog: pytest.LogCaptureFixture):
    """Half a body stores nothing, and an operator reads no trace of it."""
    token = (platform.folder / "run" / "api-token").read_text().strip()
    head = f"POST {STATUSES} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n"
    with caplog.at_level("INFO"):
        _, writer = await asyncio.open_unix_connection(str(platform.folder / "run" / "api.sock"))
        writer.write(head.encode() + b'{"id":"E1"')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(10):
            while not [record for record in caplog.records if getattr(record, "action", "") == "api.hung_up"]:
                await asyncio.sleep(0.01)  # the log sets no event

    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert (await platform.client.get("/api/v1/issued/evsestatuses")).json()["objects"] == []


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path):
    """What a killed process left behind is removed; where another process answers, the start is refused."""
    folder = await new_platform(tmp_path / "cpo")
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(folder.run / "api.sock"))
    left_behind.close()
    async with running(folder) as platform:
        assert (await platform.client.get("/healthz")).status_code == 200

    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(folder.run / "api.sock"))
        alive.listen()
        with pytest.raises(BadListenAddress, match="another process answers"):
            async with running(folder):
                pass


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "192.168.1.1:8080", "example.org:80", "8080", "127.0.0.1:x", ""])
async def test_it_listens_on_this_machine_only(tmp_path: Path, listen: str):
    """An address that other machines reach is refused."""
    folder = await new_platform(tmp_path / "cpo")

    with pytest.raises(BadListenAddress, match="nowhere else"):
        async with running(folder, API__LISTEN=listen):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_loopback_will_do_too(tmp_path: Path, host: str):
    """On loopback it answers with the same token."""
    folder = await new_platform(tmp_path / "cpo")
    async with running(folder, API__LISTEN=f"{host}:0") as platform:
        token = (folder.run / "api-token").read_text().strip()
        url = f"http://{platform.engine.operator.address}/state"
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, trust_env=False) as client:
            assert (await client.get(url)).status_code == 200


async def test_a_path_that_no_socket_can_have_is_refused_with_a_way_out(tmp_path: Path):
    """A folder with too long a path says so, and what to set instead."""
    folder = await new_platform(tmp_path / ("long" * 30))

    with pytest.raises(BadListenAddress, match=r"127\.0\.0\.1:PORT"):
        async with running(folder):
            pass


@pytest.mark.requirement("R.03.02.19")
async def test_what_a_party_received_is_that_partys_alone(platform: Running):
    """A party's token opens what it issued and received, and nothing that others issued or received."""
    ours = await platform.subscription("BEBEC", "NLEMS", "tariffs")
    theirs = await platform.subscription("BEABC", "NLEMS", "tariffs")
    await platform.receive(ours, "tariffs", "NLEMS", [("T1", b'{"for":"BEBEC"}')])
    await platform.receive(theirs, "tariffs", "NLEMS", [("T1", b'{"for":"BEABC"}'), ("T2", b'{"for":"BEABC"}')])
    for party in ("BEBEC", "BEABC"):
        await platform.publish(party, "evsestatuses", b'{"id":"E-%b","payload":%b}' % (party.encode(), AVAILABLE))
    token = await party_token(platform)

    async with platform.as_holder_of(token) as back_office:
        received = (await back_office.get("/api/v1/received/tariffs")).json()["objects"]
        assert [(one["id"], one["receiver"]) for one in received] == [("T1", "BEBEC")]
        (copy,) = (await back_office.get("/api/v1/received/tariffs/NLEMS/T1")).json()
        assert copy["payload"] == {"for": "BEBEC"}
        assert (await back_office.get("/api/v1/received/tariffs/NLEMS/T2")).status_code == 404
        issued = (await back_office.get("/api/v1/issued/evsestatuses")).json()["objects"]
        assert [one["issuer"] for one in issued] == ["BEBEC"]
        for path in (
            "/api/v1/received/tariffs?receiver=BEABC",
            "/api/v1/received/tariffs/changes?receiver=BEABC",
            "/api/v1/issued/evsestatuses?issuer=BEABC",
            "/api/v1/issued/evsestatuses/BEABC/E-BEABC",
        ):
            refused = await back_office.get(path)
            assert refused.status_code == 403
            assert error_of(refused)["message"] == "this token is for BEBEC only"

    everything = (await platform.client.get("/api/v1/received/tariffs")).json()["objects"]
    assert len(everything) == 3


async def test_a_partys_token_issues_for_that_party_only(platform: Running):
    """It publishes as its party, one object or a batch, and as no other."""
    async with platform.as_holder_of(await party_token(platform)) as back_office:
        assert (await back_office.put(f"{STATUSES}/E1", content=AVAILABLE)).status_code == 200
        batch = b'{"id":"E2","payload":%b}' % AVAILABLE
        assert (await back_office.post(STATUSES, content=batch)).json()["created"] == 1
        other = STATUSES.replace("BEBEC", "BEABC")
        assert (await back_office.post(other, content=batch)).status_code == 403
        assert (await back_office.put(f"{other}/E1", content=AVAILABLE)).status_code == 403


async def test_a_partys_token_opens_nothing_else(platform: Running):
    """Every operation that OpenAPI lists is forbidden to it, but for reading, publishing and calls of its own."""
    document = (await platform.client.get("/api/v1/openapi.json")).json()
    own = ("/api/v1/{kind}/", "/api/v1/parties/{party}/objects/", "/api/v1/calls", "/api/v1/events")
    open_to_parties = ("/healthz", "/readyz", *own)
    tried = 0
    async with platform.as_holder_of(await party_token(platform)) as back_office:
        for path, operations in document["paths"].items():
            for method in operations:
                if not path.startswith(open_to_parties):
                    answer = await back_office.request(method.upper(), path.replace("{", "").replace("}", ""))
                    assert answer.status_code == 403, (method, path, answer.text)
                    tried += 1

    assert tried > 25


async def test_a_token_that_was_removed_opens_nothing(platform: Running):
    """A token is shown once, kept as a digest, and ends when it is removed."""
    token = await party_token(platform)
    listed = (await platform.client.get("/api/v1/tokens")).json()
    assert [(one["name"], one["party"]) for one in listed] == [("BEBEC-office", "BEBEC")]
    assert "token" not in listed[0]

    assert (await platform.client.delete("/api/v1/tokens/BEBEC-office")).status_code == 204
    async with platform.as_holder_of(token) as back_office:
        assert (await back_office.get("/api/v1/issued/locations")).status_code == 401
    assert (await platform.client.delete("/api/v1/tokens/BEBEC-office")).status_code == 404


# publish


PAYLOADS = [
    rb'{"status":"AVAILABLE","x":0.1234567890123456789}',
    rb'{"status":"AVAILABLE","x":[0.10,1E+2,1E400,-0,1e-7,123456789012345678901234567890]}',
    rb'{"z":1,"status":"CHARGING","a":2,"unknown":{"b":null,"a":[]}}',
    rb'{"status":"AVAILABLE","x":"\ud83d\ude00 \u00e9 \/ \n"}',
    '{"status":"AVAILABLE","x":"😀 é \u2028 \u0085"}'.encode(),
    b'{ "status" :\t"AVAILABLE" , "x" : [ ] }',
    b'{"status":"AVAILABLE","x":"' + b"y" * 1_000_000 + b'"}',
]


async def test_payloads_stay_the_bytes_that_they_are(platform: Running):
    """A payload comes out as it went in, whichever way it goes in and out: digits, order, escapes, spaces, size."""
    for number, payload in enumerate(PAYLOADS):
        line = b'{"id":"L%d","payload":%b}' % (number, payload)
        assert (await platform.publish("BEBEC", "evsestatuses", line))["created"] == 1
        array = b'[{"payload":%b, "id":"A%d"}]' % (payload, number)
        answer = await platform.client.post(STATUSES, content=array, headers={"content-type": "application/json"})
        assert answer.json()["created"] == 1
        assert (await platform.client.put(f"{STATUSES}/P{number}", content=payload)).status_code == 200

        page = (await platform.client.get("/api/v1/issued/evsestatuses")).content
        assert page.count(b'"payload":' + payload + b"}") == 3
        one = (await platform.client.get(f"/api/v1/issued/evsestatuses/BEBEC/A{number}")).content
        assert one.endswith(b'"payload":' + payload + b"}]")


async def test_a_received_object_is_kept_with_whom_it_is_for(platform: Running):
    """The party in a CDR's token, nobody where a tolerant reader finds none; who subscribed sees it all (D24)."""
    await platform.subscription("BEBEC", "NLEMS", "cdrs")
    cdr = json.loads((EXAMPLES / "cdrs.json").read_text())
    await platform.push("BEBEC", "NLEMS", "cdrs", "C1", json.dumps(cdr).encode())
    async with platform.engine.database.transaction() as tx:
        await tx.execute(update(platforms).values(tolerant=True))
    await platform.engine.directory.reload()
    await platform.engine.consuming.reload()
    del cdr["cdr_token"]
    await platform.push("BEBEC", "NLEMS", "cdrs", "C2", json.dumps(cdr).encode())

    found = (await platform.client.get("/api/v1/received/cdrs")).json()["objects"]
    assert {one["id"]: one["audience"] for one in found} == {"C1": ["NLEMS"], "C2": []}
    async with platform.engine.database.reading() as tx:
        ends = (await tx.execute(select(objects.c.concluded_at))).scalars().all()
    assert ends == [datetime.fromisoformat(cdr["end_date_time"]).timestamp()] * 2


async def test_line_breaks_in_a_payload_are_kept(platform: Running):
    """An object that is sent alone or in an array may be spread over lines, and stays so."""
    payload = b'{\r\n  "status": "AVAILABLE"\r\n}'
    await platform.client.put(f"{STATUSES}/E1", content=payload)

    assert payload in (await platform.client.get("/api/v1/issued/evsestatuses/BEBEC/E1")).content


async def test_each_line_is_answered_by_itself(platform: Running):
    """A bad line stops no other; each answer has its line's number, and bad ones the reason."""
    lines = [
        b'{"id":"E1","payload":{"status":"AVAILABLE"}}',
        b"",
        b'{"id":"E2","payload":{"status":"SLEEPING"}}',
        b"not json",
        b"[1]",
        b'{"id":"E3"}',
        b'{"id":"E4","payload":{"status":"AVAILABLE"},"id":"E5"}',
        b'{"id":"E6","payload":{"status":"AVAILABLE"},"odd":1}',
        b'{"id":"' + b"x" * 37 + b'","payload":{"status":"AVAILABLE"}}',
        b'{"id":"E7","payload":{"status":"AVAILABLE"},"audience":["NOBODY"]}',
        b'{"id":"E8","payload":' + b"[" * 10_000,
        b'{"id":"E9","payload":{"status":"CHARGING"},"audience":["nlems"]}\r',
    ]
    headers = {"content-type": "application/x-ndjson"}
    answer = (await platform.client.post(STATUSES, content=b"\n".join(lines), headers=headers)).json()

    outcomes = {result["line"]: result["outcome"] for result in answer["results"]}
    assert outcomes == {1: "created", **dict.fromkeys(range(3, 12), "refused"), 12: "created"}
    assert (answer["created"], answer["changed"], answer["unchanged"], answer["refused"]) == (2, 0, 0, 9)
    reasons = {result["line"]: result.get("reason", "") for result in answer["results"]}
    assert "SLEEPING" in reasons[3]
    assert answer["results"][1]["problems"][0]["pointer"] == "/status"
    assert "more than once: /id" in reasons[7]
    assert "at most 36 characters" in reasons[9]
    (limited,) = (await platform.client.get("/api/v1/issued/evsestatuses/BEBEC/e9")).json()
    assert (limited["id"], limited["audience"]) == ("E9", ["NLEMS"])


async def test_publishing_again_tells_what_changed(platform: Running):
    """The same bytes make no new version; other bytes do."""
    line = b'{"id":"E1","payload":{"status":"AVAILABLE"}}'
    first = (await platform.publish("BEBEC", "evsestatuses", line))["results"][0]
    again = (await platform.publish("BEBEC", "evsestatuses", line))["results"][0]
    other = (await platform.publish("BEBEC", "evsestatuses", line.replace(b"AVAILABLE", b"BLOCKED")))["results"][0]

    assert [one["outcome"] for one in (first, again, other)] == ["created", "unchanged", "changed"]
    assert first["version"] == again["version"] < other["version"]


async def test_a_single_object_is_refused_with_its_problems(platform: Running):
    """PUT answers 422 with the place of each problem; an id may hold any printable ASCII, a slash too."""
    refused = await platform.client.put(f"{STATUSES}/E1", content=b'{"status":1}')
    assert refused.status_code == 422
    assert error_of(refused)["problems"][0]["pointer"] == "/status"

    assert (await platform.client.put(f"{STATUSES}/a%2Fb%25%3F", content=AVAILABLE)).status_code == 200
    (found,) = (await platform.client.get("/api/v1/issued/evsestatuses/BEBEC/A%2Fb%25%3F")).json()
    assert found["id"] == "a/b%?"
    limited = await platform.client.put(f"{STATUSES}/E2?audience=NLEMS&audience=DEPTX", content=AVAILABLE)
    assert limited.json()["outcome"] == "created"


async def test_an_object_is_replaced_by_others(platform: Running, monkeypatch: pytest.MonkeyPatch):
    """All that it takes is issued and listed; payloads keep their bytes, and the old object is as it was."""
    statuses_are_replaced(monkeypatch)
    await platform.client.put(f"{STATUSES}/a%2Fb", content=AVAILABLE)
    before = (await platform.client.get("/api/v1/issued/evsestatuses/BEBEC/a%2Fb")).json()

    body = b"""{ "id": "X1", "effective_at": "2027-01-01T01:00:00+01:00",
        "objects": [{"payload": {"status":  "CHARGING", "kW": 1.10}, "id": "N1"}] }"""
    answer = await platform.client.post(f"{STATUSES}/A%2FB/replacement", content=body)
    bare = await platform.client.post(f"{STATUSES}/N1/replacement")

    issued = answer.json()["issued"]
    assert [(one["module"], one["id"]) for one in issued] == [("evsestatuses", "X1"), ("evsestatuses", "N1")]
    assert [one["id"] for one in bare.json()["issued"]] == ["N1-end"]
    page = (await platform.client.get("/api/v1/issued/evsestatuses")).content
    assert b'"payload":{"status":  "CHARGING", "kW": 1.10}' in page
    assert b"at='1798761600'" in page
    assert (await platform.client.get("/api/v1/issued/evsestatuses/BEBEC/a%2Fb")).json() == before


BAD_ORDERS: list[tuple[str, bytes, int, str]] = [
    ("E0", b"{}", 404, "BEBEC has issued no 'E0' in evsestatuses"),
    ("GONE", b"{}", 409, "GONE is over already"),
    ("E1", b'{"id":"E1"}', 409, "evsestatuses E1 is issued already: nothing was issued"),
    ("E1", b'{"objects":[{"id":"N1","payload":{"status":"SLEEPING"}}]}', 422, "evsestatuses N1 does not conform"),
    ("E1", b'{"objects":[{"id":"N1"}]}', 422, "object 1: a line is"),
    ("E1", b'{"objects":[{"id":"N1","payload":{"status":"AVAILABLE"}},[]]}', 422, "object 2: "),
    ("E1", b'{"objects":{}}', 422, "an order is"),
    ("E1", b'{"odd":1}', 422, "an order is"),
    ("E1", b'{"id":"N1","id":"N2"}', 422, "more than once: /id"),
    ("E1", b'{"effective_at":"2027-01-01T00:00:00"}', 422, "effective_at"),
    ("E1", b"[]", 422, "a JSON object was expected"),
    ("E1", b"{", 422, "not JSON"),
    ("E1", b"\xff", 422, "not"),
]


@pytest.mark.parametrize("order", BAD_ORDERS)
async def test_a_replacement_that_cannot_be_says_why(
    platform: Running, monkeypatch: pytest.MonkeyPatch, order: tuple[str, bytes, int, str]
):
    """Nothing is stored, and the answer has a message; problems of a new object stand in it one by one."""
    object_id, body, code, says = order
    statuses_are_replaced(monkeypatch)
    await platform.client.put(f"{STATUSES}/E1", content=AVAILABLE)
    await platform.client.put(f"{STATUSES}/GONE", content=b'{"status":"UNKNOWN"}')
    before = (await platform.client.get("/api/v1/issued/evsestatuses")).content

    answer = await platform.client.post(f"{STATUSES}/{object_id}/replacement", content=body)

    assert answer.status_code == code, answer.text
    assert says in error_of(answer)["message"]
    if "SLEEPING" in body.decode(errors="replace"):
        assert [problem["pointer"] for problem in error_of(answer)["problems"]] == ["/status"]
    assert (await platform.client.get("/api/v1/issued/evsestatuses")).content == before


async def test_only_who_may_issue_an_object_replaces_it(platform: Running, monkeypatch: pytest.MonkeyPatch):
    """Another party's token is refused; modules whose objects can change say what to do instead."""
    statuses_are_replaced(monkeypatch)
    await platform.client.put(f"{STATUSES}/E1", content=AVAILABLE)
    async with platform.as_holder_of(await party_token(platform, "BEABC")) as stranger:
        assert (await stranger.post(f"{STATUSES}/E1/replacement")).status_code == 403
    async with platform.as_holder_of(await party_token(platform)) as owner:
        assert (await owner.post(f"{STATUSES}/E1/replacement")).status_code == 200

    changeable = await platform.client.post("/api/v1/parties/BEBEC/objects/locations/L1/replacement")
    assert (changeable.status_code, "publish L1 again" in error_of(changeable)["message"]) == (409, True)
    unknown = await platform.client.post("/api/v1/parties/BEBEC/objects/nothing/L1/replacement")
    assert unknown.status_code == 404


BAD_REQUESTS = [
    ("/api/v1/parties/NLXXX/objects/evsestatuses", b'{"id":"a","payload":{}}', 404),
    ("/api/v1/parties/BEBEC/objects/nothing", b'{"id":"a","payload":{}}', 404),
    ("/api/v1/parties/BE/objects/evsestatuses", b"{}", 422),
    ("/api/v1/parties/BEBEC/objects/evsestatuses", b'[{"id":"a"', 400),
    ("/api/v1/parties/BEBEC/objects/evsestatuses", b"[" * 100_000, 400),
    ("/api/v1/parties/BEBEC/objects/evsestatuses", b"\xff\xfe", 200),
    ("/api/v1/parties/BEBEC/objects/evsestatuses", b"", 200),
    ("/api/v1/nothing", b"", 404),
    ("/api/v1/issued/locations", b"", 405),
    ("/api/v1/subscriptions", b'{"subscriber":"BEBEC"}', 422),
    ("/api/v1/subscriptions", b"{", 422),
    ("/api/v1/platforms/nowhere.example/disconnect", b"{}", 404),
    ("/api/v1/subscriptions/in-7/unsubscribe", b"", 404),
    ("/api/v1/subscriptions/out-7/unsubscribe", b"", 422),
    ("/api/v1/subscriptions/out-7/retry-now", b"", 404),
    ("/api/v1/subscriptions/7/retry-now", b"", 404),
    ("/api/v1/subscriptions/in-1/renegotiate", b"{}", 422),
    ("/api/v1/certificates/inspect", b'{"csr":"nonsense"}', 409),
    ("/api/v1/certificates/sign", b'{"csr":"nonsense"}', 409),
    ("/api/v1/reissue", b'{"module":"nothing"}', 404),
]


async def test_bad_requests_are_told_what_is_wrong(platform: Running):
    """Every refusal is an error with a message, and none is a 500."""
    for path, body, code in BAD_REQUESTS:
        answer = await platform.client.post(path, content=body, headers={"content-type": "application/json"})

        assert answer.status_code == code, (path, body[:50], answer.text)
        assert code == 200 or error_of(answer)["message"]


async def test_a_body_that_is_too_long_is_refused(tmp_path: Path):
    """Neither an announced nor a chunked body goes beyond the limit."""
    async with running(await new_platform(tmp_path / "cpo"), API__BODY_MAX_BYTES="1000") as platform:

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 100

        for content in (b"x" * 1001, chunks()):
            refused = await platform.client.post(STATUSES, content=content)
            assert refused.status_code == 413
            assert "api.body_max_bytes" in error_of(refused)["message"]


async def test_when_nothing_can_be_stored_it_says_so(platform: Running, monkeypatch: pytest.MonkeyPatch):
    """A full disk is a 503 that says what to do, and nothing else of the engine shows."""

    async def full(*_arguments: object) -> None:
        raise StoreUnavailable("database or disk is full")

    monkeypatch.setattr(platform.engine.publishing, "publish", full)
    refused = await platform.client.post(STATUSES, content=b'{"id":"a","payload":{}}')

    assert refused.status_code == 503
    assert "disk is full" in error_of(refused)["message"]
    assert "make room" in error_of(refused)["hint"]


async def test_an_internal_error_shows_no_trace(
    platform: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """What goes wrong inside is in the log, not in the answer."""

    async def broken(*_arguments: object) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(platform.engine.publishing, "publish", broken)
    answer = await platform.client.post(STATUSES, content=b'{"id":"a","payload":{}}')

    assert answer.status_code == 500
    assert error_of(answer)["message"] == "an internal error"
    assert "a secret of the inside" in caplog.text


# read


async def test_pages_go_on_without_a_gap(platform: Running):
    """Reading on by cursor sees every object; one that changed meanwhile comes again, none is skipped."""
    names = [f"E{number:03}" for number in range(250)]
    lines = [b'{"id":"%b","payload":%b}' % (name.encode(), AVAILABLE) for name in names]
    await platform.publish("BEBEC", "evsestatuses", b"\n".join(lines))

    first = (await platform.client.get("/api/v1/issued/evsestatuses?limit=100")).json()
    await platform.publish("BEBEC", "evsestatuses", b'{"id":"E000","payload":{"status":"CHARGING"}}')
    rest, cursor = [], first["cursor"]
    while True:
        page = (await platform.client.get(f"/api/v1/issued/evsestatuses?limit=100&after={cursor}")).json()
        rest += page["objects"]
        cursor = page["cursor"]
        if not page["more"]:
            break

    assert first["more"]
    assert [one["id"] for one in first["objects"]] == names[:100]
    assert [one["id"] for one in rest] == [*names[100:], "E000"]
    assert rest[-1]["payload"] == {"status": "CHARGING"}
    empty = (await platform.client.get(f"/api/v1/issued/evsestatuses?after={cursor}")).json()
    assert empty == {"objects": [], "cursor": cursor, "more": False}


async def test_pages_are_bounded(tmp_path: Path):
    """However much is asked for, a page has at most so many objects."""
    async with running(await new_platform(tmp_path / "cpo"), API__PAGE_MAX="3") as platform:
        lines = [b'{"id":"E%d","payload":%b}' % (number, AVAILABLE) for number in range(5)]
        await platform.publish("BEBEC", "evsestatuses", b"\n".join(lines))
        page = (await platform.client.get("/api/v1/issued/evsestatuses?limit=1000")).json()

    assert len(page["objects"]) == 3
    assert page["more"]


async def test_a_cursor_goes_over_what_is_filtered_out(platform: Running):
    """A page without any match still moves the cursor to the log's end, so that nobody reads it again and again."""
    await platform.publish("BEABC", "evsestatuses", b'{"id":"E1","payload":%b}' % AVAILABLE)
    page = (await platform.client.get("/api/v1/issued/evsestatuses?issuer=BEBEC")).json()

    assert page["objects"] == []
    assert int(page["cursor"]) > 0
    wrong = await platform.client.get("/api/v1/issued/evsestatuses?after=9000000000000000")
    assert wrong.status_code == 409
    assert "begin with 0" in error_of(wrong)["hint"]


async def test_received_objects_are_read_by_where_they_came_from(platform: Running):
    """By issuer, platform and receiver; copies under a subscription that ended are marked stale (B20)."""
    first = await platform.subscription("BEBEC", "NLEMS", "tariffs")
    second = await platform.subscription("BEABC", "DEPTX", "tariffs", partner="other.example.org")
    await platform.receive(first, "tariffs", "NLEMS", [("T1", b'{"a":0.10}')])
    await platform.receive(second, "tariffs", "DEPTX", [("T2", b'{"a":1}')])

    async def ids(query: str) -> list[tuple[str, bool]]:
        page = (await platform.client.get(f"/api/v1/received/tariffs{query}")).json()
        return [(one["id"], one["stale"]) for one in page["objects"]]

    assert await ids("") == [("T1", False), ("T2", False)]
    assert await ids("?issuer=deptx") == [("T2", False)]
    assert await ids(f"?platform={PARTNER.upper()}") == [("T1", False)]
    assert await ids("?receiver=BEABC") == [("T2", False)]
    assert (await platform.client.get("/api/v1/received/tariffs?platform=nowhere.example")).status_code == 404
    assert (await platform.client.get("/api/v1/issued/tariffs?receiver=BEABC")).status_code == 422
    assert (await platform.client.get("/api/v1/issued/tariffs?colour=red")).status_code == 422

    async with platform.engine.database.transaction() as tx:
        await platform.engine.consuming.end_platform(tx, 1)
    await platform.engine.consuming.reload()
    assert await ids("") == [("T1", True), ("T2", False)]


# follow


async def test_changes_are_followed_from_now_on(platform: Running):
    """The stream begins with its position, and then has each change as it is stored."""
    await platform.publish("BEBEC", "evsestatuses", b'{"id":"E0","payload":%b}' % AVAILABLE)
    async with platform.client.stream("GET", "/api/v1/issued/evsestatuses/changes") as response:
        follower = Follower(response)
        assert response.headers["content-type"].startswith("text/event-stream")
        kind, cursor, data = await follower.next()
        assert (kind, data) == ("position", {"cursor": cursor})
        for number in (1, 2):
            await platform.publish("BEBEC", "evsestatuses", b'{"id":"E%d","payload":%b}' % (number, AVAILABLE))
            kind, cursor, data = await follower.next()
            assert (kind, data["id"], data["cursor"]) == ("object", f"E{number}", cursor)
            assert data["payload"] == {"status": "AVAILABLE"}


async def test_a_broken_stream_goes_on_where_it_ended(platform: Running):
    """With the last event's id nothing is skipped; after 0 everything comes."""
    for number in range(3):
        await platform.publish("BEBEC", "evsestatuses", b'{"id":"E%d","payload":%b}' % (number, AVAILABLE))
    path = "/api/v1/issued/evsestatuses/changes"
    async with platform.client.stream("GET", f"{path}?after=0") as response:
        follower = Follower(response)
        events = [await follower.next() for _ in range(3)]
    assert [data.get("id") for _, _, data in events] == [None, "E0", "E1"]

    async with platform.client.stream("GET", path, headers={"last-event-id": events[-1][1]}) as response:
        follower = Follower(response)
        assert (await follower.next())[0] == "position"
        assert (await follower.next())[2]["id"] == "E2"


async def test_a_party_hears_of_its_own_only(platform: Running):
    """A party's token follows what that party received, and hears nothing of what others did."""
    ours = await platform.subscription("BEBEC", "NLEMS", "tariffs")
    theirs = await platform.subscription("BEABC", "NLEMS", "tariffs")
    async with (
        platform.as_holder_of(await party_token(platform)) as back_office,
        back_office.stream("GET", "/api/v1/received/tariffs/changes") as response,
    ):
        follower = Follower(response)
        await follower.next()
        await platform.receive(theirs, "tariffs", "NLEMS", [("T1", b"{}")])
        await platform.receive(ours, "tariffs", "NLEMS", [("T2", b"{}")])
        _, _, data = await follower.next()

    assert (data["id"], data["receiver"]) == ("T2", "BEBEC")


async def test_streams_end_when_the_platform_stops(platform: Running):
    """A platform does not wait for its followers: their streams end, and they can go on later."""
    async with platform.client.stream("GET", "/api/v1/issued/evsestatuses/changes") as response:
        follower = Follower(response)
        await follower.next()
        async with asyncio.timeout(10):
            await platform.engine.stop()
            with pytest.raises(StopAsyncIteration):
                await follower.next()


# look after


async def test_openapi_describes_everything(platform: Running):
    """Every operation has a summary and a name of its own, and says what errors look like."""
    document = (await platform.client.get("/api/v1/openapi.json")).json()
    operations = [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]

    assert [name for name, operation in operations if not operation.get("summary")] == []
    names = [operation["operationId"] for _, operation in operations]
    assert len(names) == len(set(names))
    assert {f"post {STATUSES}".replace("BEBEC", "{party}").replace("evsestatuses", "{module}")} <= dict(
        operations
    ).keys()
    assert document["components"]["schemas"]["ErrorDetails"]["properties"].keys() == {"message", "hint", "problems"}
    assert document["components"]["securitySchemes"]


async def test_parties_are_hosted_and_given_up(platform: Running):
    """A party is added with its roles, shown, and removed."""
    added = await platform.client.post("/api/v1/parties", json={"party_id": "nlnew", "roles": ["CPO"], "name": "New"})
    assert added.status_code == 201
    listed = {one["party_id"]: one for one in (await platform.client.get("/api/v1/parties")).json()}
    assert listed["NLNEW"]["business_details"]["name"] == "New"
    assert {"module": "locations", "side": "SENDER"} in listed["NLNEW"]["roles"]

    assert (await platform.client.delete("/api/v1/parties/NLNEW")).status_code == 204
    assert (await platform.client.delete("/api/v1/parties/NLNEW")).status_code == 404
    odd = await platform.client.post("/api/v1/parties", json={"party_id": "NLNEW", "roles": ["KING"]})
    assert odd.status_code == 409
    assert "CPO, EMSP" in error_of(odd)["message"]


async def test_reissue_gives_new_versions(platform: Running):
    """After a restore every mutable object gets a version above all that were sent (B9)."""
    before = (await platform.publish("BEBEC", "evsestatuses", b'{"id":"E1","payload":%b}' % AVAILABLE))["results"][0]
    answer = await platform.client.post("/api/v1/reissue", json={"party": "BEBEC"})

    assert answer.json() == {"count": 1}
    (after,) = (await platform.client.get("/api/v1/issued/evsestatuses/BEBEC/E1")).json()
    assert after["version"] > before["version"] + 80_000


async def test_readiness_ends_before_the_platform_does(platform: Running):
    """While it stops, a platform is alive and no longer ready."""
    platform.engine._ready = False  # noqa: SLF001 - what stop does first
    answer = await platform.client.get("/readyz")

    assert (answer.status_code, answer.json()) == (503, {"status": "starting or stopping"})
