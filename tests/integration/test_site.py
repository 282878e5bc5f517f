"""The listener, over real TLS: who is let in, what is answered, and that bad input costs nobody else anything."""

import asyncio
import json
import logging
import socket
import ssl
import time
from contextlib import AsyncExitStack

import pytest

from engine import logs
from engine.protocol.addressing import party_path
from engine.protocol.errors import NotSubscribed, OcpiError, SubscriberNotRecognized
from engine.protocol.ids import PartyId
from engine.server.addressing import PartyRequests
from engine.server.exchange import Answer, check_body
from engine.store.database import StoreUnavailable
from tests.support import certificates, transport
from tests.support.certificates import Files
from tests.support.transport import (
    CALLER,
    HOST,
    OURS,
    STRANGER,
    SUCCESS,
    THEIRS,
    FakeCaller,
    FakeDirectory,
    Reply,
    World,
    accept,
    dial,
    no_refresh,
    site,
    until,
)

UPDATE = "/ocpi" + party_path(THEIRS, OURS, "locations", "update")
JSON = b'{"a":1}'


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Keys and certificates, once."""
    return World.make(tmp_path_factory.mktemp("world"))


def request(target: str, body: bytes | None = JSON, *, verb: str = "POST", head: str = "") -> bytes:
    """Write a request."""
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    return f"{verb} {target} HTTP/1.1\r\nHost: {HOST}\r\n{head}{length}\r\n".encode() + (body or b"")


def code(reply: Reply) -> tuple[int, int]:
    """HTTP status and status code of an answer, which is an envelope whatever happened."""
    envelope = json.loads(reply.body)
    assert envelope["timestamp"].endswith("Z")
    assert reply.headers["content-type"] == "application/json"
    return reply.status, envelope["status_code"]


async def one(world: World, data: bytes, **limits) -> Reply:
    """Ask one request of a site of its own."""
    async with site(world, **limits) as served, dial(served.port, world.dialler()) as wire:
        return await wire.ask(data)


def table(directory: FakeDirectory, refresh=no_refresh) -> PartyRequests:
    """Some operations, each with what a sender hears that may not speak."""
    party = PartyRequests(directory, refresh)
    party.register("", "POST", accept, SubscriberNotRecognized)
    party.register("update", "POST", accept, NotSubscribed)
    party.register("state", "GET", accept)
    return party


# -- answers ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.02.02.04", "R.02.02.15", "R.02.02.16")
async def test_an_answer_is_an_envelope_and_carries_the_ids_of_the_request(world):
    """Both ids come back as they were sent."""
    head = "Ocpi-Request-Id: r-1\r\nOcpi-Correlation-Id: c 1\r\nX-Request-ID: other\r\n"

    reply = await one(world, request(UPDATE, head=head))

    assert code(reply) == (200, 1000)
    assert (reply.headers["ocpi-request-id"], reply.headers["ocpi-correlation-id"]) == ("r-1", "c 1")
    assert "date" in reply.headers
    assert "server" not in reply.headers


async def test_ids_of_figure_12_are_read_and_missing_ones_are_made(world):
    """X-Request-ID passes where there is no Ocpi-Request-Id (W11); one that cannot be echoed is replaced."""
    head = f"X-Request-ID: r-2\r\nOcpi-Correlation-Id: {'x' * 200}\r\n"

    reply = await one(world, request(UPDATE, head=head))

    assert reply.headers["ocpi-request-id"] == "r-2"
    assert len(reply.headers["ocpi-correlation-id"]) == 36


async def test_a_handler_gets_what_was_asked_by_whom(world):
    """Sender, receiver, module, operation, body and ids arrive as they were sent, decoded."""
    got = []

    async def note(inbound):
        got.append(inbound)
        return Answer(201, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note, NotSubscribed)
    async with site(world, directory=directory, party=party) as served, dial(served.port, world.dialler()) as wire:
        reply = await wire.ask(request(UPDATE, head="Ocpi-Request-Id: r\r\nOcpi-Correlation-Id: c\r\n"))

    (inbound,) = got
    assert reply.status == 201
    assert (inbound.sender, inbound.receiver, inbound.segments) == (THEIRS, OURS, ("locations", "update"))
    assert (inbound.method, inbound.body, inbound.request_id, inbound.correlation_id) == ("POST", JSON, "r", "c")
    assert inbound.caller.serial == world.serial(world.client)
    assert directory.heard_of == [1]


async def test_platform_paths_have_free_segments_and_a_prefix(world):
    """A callback id is one segment, whatever is encoded in it; the prefix is the reverse proxy's."""
    got = []

    async def note(inbound):
        got.append(inbound.segments)
        return Answer(200, b"{}")

    routes = {("connection", "renew-credentials", "*"): {"POST": note}, ("versions",): {"GET": note}}
    async with site(world, routes=routes, prefix="/a/b") as served, dial(served.port, world.dialler()) as wire:
        await wire.ask(request("/a/b/connection/renew-credentials/x%2Fy"))
        await wire.ask(request("/a/b/versions?x=1", None, verb="GET"))
        await wire.ask(request(f"https://{HOST}/a/b/versions", None, verb="GET"))
        outside = await wire.ask(request("/versions", None, verb="GET"))

    assert got == [("connection", "renew-credentials", "x/y"), ("versions",), ("versions",)]
    assert code(outside) == (404, 2000)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (NotSubscribed(), (200, 6002)),
        (StoreUnavailable("disk full at /secret/path"), (503, 3000)),
        (ZeroDivisionError("secret"), (500, 3000)),
        (TimeoutError("secret"), (500, 3000)),
    ],
)
async def test_what_a_handler_raises_becomes_an_envelope(world, caplog, raised, expected):
    """An OcpiError is its own answer; of anything else the peer learns nothing, and the log everything."""

    async def fail(_inbound):
        raise raised

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", fail)
    async with site(world, directory=directory, party=party) as served, dial(served.port, world.dialler()) as wire:
        reply = await wire.ask(request(UPDATE))
        again = await wire.ask(request("/ocpi/versions", None, verb="GET"))

    assert code(reply) == expected
    assert b"secret" not in reply.body
    assert again.status == 200, "the connection goes on"
    logged = [record for record in caplog.records if "secret" in record.getMessage() + str(record.exc_info)]
    assert bool(logged) != isinstance(raised, OcpiError)
    # A full disk is not filled with traces of its being full.
    assert all(record.exc_info is None for record in logged) == isinstance(raised, OcpiError | StoreUnavailable)


# -- who is let in ------------------------------------------------------------------------------------------


def wrong(world: World, kind: str) -> Files:
    """Return a client identity that is wrong in one way."""
    make = {
        "other authority": certificates.of_another_authority,
        "expired": certificates.expired,
        "not yet valid": certificates.not_yet_valid,
        "for servers": certificates.wrong_usage,
    }[kind]
    return world.save(make(world.clients, CALLER, now=time.time()), kind.replace(" ", "-"))


@pytest.mark.requirement("R.01.02.01", "R.01.02.03")
@pytest.mark.parametrize("kind", ["none", "other authority", "expired", "not yet valid", "for servers"])
async def test_tls_refuses_whoever_has_no_right_certificate(world, caplog, kind):
    """No certificate, or one that our authority did not issue for clients for now: TLS ends, and it is noted."""
    if kind == "none":
        context = ssl.create_default_context(cafile=world.folder / "servers.pem")
    else:
        context = world.dialler(wrong(world, kind))
    before = logs.security_counts().get("unknown", {}).get("tls_refused", {}).get("count", 0)

    async with site(world) as served:
        with pytest.raises((ssl.SSLError, OSError, asyncio.IncompleteReadError)):
            async with dial(served.port, context) as wire:
                await wire.ask(request(UPDATE))
        async with dial(served.port, world.dialler()) as wire:
            assert (await wire.ask(request(UPDATE))).status == 200, "others are served"

    assert logs.security_counts()["unknown"]["tls_refused"]["count"] == before + 1


async def test_a_certificate_that_was_ended_or_is_not_known_gets_403_everywhere(world):
    """It is asked for with every request, so that it ends on connections that are open too (B42)."""
    directory = FakeDirectory()
    stranger = world.save(certificates.client(world.clients, STRANGER, now=time.time()), "stranger")
    async with site(world, directory=directory) as served, AsyncExitStack() as stack:
        known = await stack.enter_async_context(dial(served.port, world.dialler()))
        unknown = await stack.enter_async_context(dial(served.port, world.dialler(stranger)))
        before = await known.ask(request(UPDATE))
        directory.ended.add(world.serial(world.client))
        refused = [
            await wire.ask(request(target, None, verb="GET"))
            for wire in (known, unknown)
            for target in ("/ocpi/versions", UPDATE, "/ocpi/nothing", "/ocpi/connection")
        ]

    assert before.status == 200
    assert {code(reply) for reply in refused} == {(403, 2000)}
    assert logs.security_counts()[STRANGER]["certificate_refused"]["count"] >= 4


async def test_a_platform_that_is_not_connected_may_only_connect(world):
    """Before the handshake there is the handshake, and the versions (B42)."""
    directory = FakeDirectory({CALLER: FakeCaller(state="new")})
    routes = {("connection",): {"POST": accept}, ("versions",): {"GET": accept}, ("parties",): {"GET": accept}}
    async with site(world, directory=directory, routes=routes) as served, dial(served.port, world.dialler()) as wire:
        assert code(await wire.ask(request("/ocpi/connection"))) == (200, 1000)
        assert code(await wire.ask(request("/ocpi/versions", None, verb="GET"))) == (200, 1000)
        assert code(await wire.ask(request("/ocpi/parties", None, verb="GET"))) == (403, 2000)
        assert code(await wire.ask(request(UPDATE))) == (403, 2000)
    assert directory.heard_of == []


async def test_the_server_certificate_is_swapped_without_a_restart(world):
    """New connections see the new one, open ones go on."""
    new = world.save(certificates.server(world.servers, "localhost", HOST, now=time.time()), "new-server")
    async with site(world) as served, dial(served.port, world.dialler()) as old:
        served.use(world.listener(new))
        async with dial(served.port, world.dialler()) as fresh:
            serials = [
                wire.writer.get_extra_info("peercert")["serialNumber"].lstrip("0").lower() for wire in (old, fresh)
            ]
            assert (await fresh.ask(request(UPDATE))).status == (await old.ask(request(UPDATE))).status == 200

    assert serials == [world.serial(world.server), world.serial(new)]


# -- who may speak for whom ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "below", "expected"),
    [
        ("POST", ("locations",), (200, 5001)),
        ("POST", ("locations", "update"), (200, 6002)),
        ("GET", ("locations", "state"), (200, 2000)),
        ("POST", ("locations", "do-something"), (200, 2000)),
    ],
)
async def test_a_platform_speaks_only_for_its_parties(world, caplog, verb, below, expected):
    """A party that it does not serve to us is looked for again, then refused, and that is a security event (B15)."""
    asked = []

    async def refresh(platform_id):
        asked.append(platform_id)

    directory = FakeDirectory()
    target = "/ocpi" + party_path(PartyId("FRXXX"), OURS, *below)
    async with (
        site(world, directory=directory, party=table(directory, refresh)) as served,
        dial(served.port, world.dialler()) as wire,
    ):
        reply = await wire.ask(request(target, JSON if verb == "POST" else None, verb=verb))

    assert code(reply) == expected
    assert asked == [1]
    (event,) = [record for record in caplog.records if record.name == "engine.security"]
    assert (event.action, event.platform, event.sender) == ("sender_refused", CALLER, "FRXXX")


async def test_a_party_that_is_new_is_found_in_the_parties(world):
    """It turns up before the platform's parties were fetched again: they are, once, and it is let in."""
    directory = FakeDirectory()

    async def refresh(_platform_id):
        directory.served.add(PartyId("FRNEW"))

    target = "/ocpi" + party_path(PartyId("FRNEW"), OURS, "locations", "update")
    async with (
        site(world, directory=directory, party=table(directory, refresh)) as served,
        dial(served.port, world.dialler()) as wire,
    ):
        assert code(await wire.ask(request(target))) == (200, 1000)


@pytest.mark.parametrize("sender", ["X", "DEEMSP", "%2F", "DE%00X", "12345", "D" * 5000])
async def test_a_sender_that_is_no_party_id_is_nobody(world, sender):
    """It is refused as an unknown party, or has no path at all; never an error of ours."""
    directory = FakeDirectory()
    target = f"/ocpi/from/{sender}/to/{OURS}/locations/update"
    async with (
        site(world, directory=directory, party=table(directory)) as served,
        dial(served.port, world.dialler()) as wire,
    ):
        reply = await wire.ask(request(target))

    assert code(reply) == ((404, 2000) if "%00" in sender else (200, 6002))


# -- paths and verbs ----------------------------------------------------------------------------------------


@pytest.mark.requirement("R.02.02.07")
@pytest.mark.parametrize(
    ("verb", "target", "body", "expected"),
    [
        ("GET", "/ocpi/nothing", None, (404, 2000)),
        ("GET", "/ocpi/from/DEMSP/to/NLCPO/locations/nothing", None, (404, 2000)),
        ("POST", "/ocpi/from/DEMSP/to/NLCPO/locations/nothing", JSON, (404, 2000)),
        ("POST", "/ocpi/from/DEMSP/to/NLCPO/locations/update/more", JSON, (404, 2000)),
        ("POST", "/ocpi/from/DEMSP/to/NLCPO/nonsense/update", JSON, (404, 2000)),
        ("POST", "/ocpi/from/DEMSP/to/NLCPO/chargingprofiles/update", JSON, (404, 2000)),
        ("POST", "/ocpi/from/DEMSP/to/NLCPO/nonsense", JSON, (200, 1000)),  # the subscribe knows what to say (B43)
        ("GET", "/ocpi/from/DEMSP/to/NLCPO", None, (404, 2000)),
        ("POST", "/ocpi/from/DEMSP/to/BEXXX/locations/nothing", JSON, (200, 4001)),
        ("POST", "/ocpi/from/DEMSP/to/B%2FXX/locations/nothing", JSON, (200, 4001)),
        ("GET", "/ocpi/versions/", None, (404, 2000)),
        ("GET", "/ocpi/%2e%2e/versions", None, (404, 2000)),
        ("GET", "/ocpi/versions%2Fx", None, (404, 2000)),
        ("GET", "/ocpi/%0d%0a", None, (404, 2000)),
        ("GET", "/ocpi/%zz", None, (404, 2000)),
        ("OPTIONS", "*", None, (404, 2000)),
        ("GET", "/ocpi/from/DEMSP/to/NLCPO/locations/update", None, (405, 2000)),
        ("DELETE", "/ocpi/versions", None, (405, 2000)),
        ("PUT", "/ocpi/from/DEMSP/to/NLCPO/locations/update", JSON, (200, 2000)),  # R.02.02.06
        ("POST", "/ocpi/versions", JSON, (200, 2000)),
        ("PUT", "/ocpi/versions", b"no json", (400, 2001)),
    ],
)
async def test_unknown_paths_and_wrong_verbs(world, verb, target, body, expected):
    """Each is told apart, in an envelope, and the connection goes on (B16, B17)."""
    directory = FakeDirectory()
    async with (
        site(world, directory=directory, party=table(directory)) as served,
        dial(served.port, world.dialler()) as wire,
    ):
        reply = await wire.ask(request(target, body, verb=verb))
        again = await wire.ask(request(UPDATE))

    assert code(reply) == expected
    assert ("allow" in reply.headers) == (reply.status == 405)
    assert again.status == 200


async def test_a_head_request_has_no_body(world):
    """Its answer has a length and nothing after the head, so the connection stays in step."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request("/ocpi/versions", None, verb="HEAD"))
        status, headers = await wire.read_head()
        after = await wire.ask(request(UPDATE))

    assert (status, after.status) == (405, 200)
    assert int(headers["content-length"]) > 0


# -- bodies -------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.02.02.05", "R.02.02.06")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, 2001)),
        (b"<html>", (400, 2001)),
        (b"[]", (400, 2001)),
        (b'{"a":1', (400, 2001)),
        (b'{"a":NaN}', (400, 2001)),
        (b'{"a":"\\ud800"}', (400, 2001)),
        (b'{"a":"\xff"}', (400, 2001)),
        (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", (400, 2001)),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, (400, 2001)),
        (b'{"a":1,"a":2}', (200, 2001)),
        (b'{"a":0.1234567890123456789,"b":1E400}', (200, 1000)),
    ],
)
async def test_bodies_that_are_no_json_object_are_told_from_those_that_are_wrong(world, body, expected):
    """400 where it is not a JSON object, 200 with 2001 where it is one of the wrong shape (B18)."""

    async def check(inbound):
        check_body(inbound.body)
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", check)
    async with site(world, directory=directory, party=party) as served, dial(served.port, world.dialler()) as wire:
        reply = await wire.ask(request(UPDATE, body))

    assert code(reply) == expected


async def test_a_body_of_100_mb_is_refused_by_its_length(world):
    """The answer comes before the body, and nothing of it is kept."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request(UPDATE, None, head="Content-Length: 100000000\r\n"))
        reply = await wire.read()

        assert code(reply) == (413, 2000)
        assert reply.headers["connection"] == "close"
        assert await wire.ended()


async def test_who_sends_100_mb_all_the_same_reads_why_not(world):
    """A client that writes on while it is refused sees the refusal, and is cut off after a moment."""
    sent = 0
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        wire.writer.write(request(UPDATE, None, head="Content-Length: 100000000\r\n"))
        reply = asyncio.create_task(wire.read())
        try:
            while sent < 100_000_000 and not reply.done():
                await wire.write(bytes(100_000))
                sent += 100_000
        except OSError:
            pass

        assert code(await reply) == (413, 2000)
    assert sent < 50_000_000


async def test_a_chunked_body_is_refused_at_the_limit(world):
    """Its length is not known before, so what is over the limit ends it."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with site(world, body_max_bytes=200_000) as served, dial(served.port, world.dialler()) as wire:
        wire.writer.write(request(UPDATE, None, head="Transfer-Encoding: chunked\r\n") + chunk * 4)

        assert code(await wire.read()) == (413, 2000)
        assert await wire.ended()


async def test_a_chunked_body_within_the_limit_is_read(world):
    """Some HTTP clients send no lengths."""
    got = []

    async def note(inbound):
        got.append(inbound.body)
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note)
    async with site(world, directory=directory, party=party) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request(UPDATE, None, head="Transfer-Encoding: chunked\r\n") + b'3\r\n{"a\r\n')
        await wire.write(b'4\r\n":1}\r\n0\r\n\r\n')

        assert code(await wire.read()) == (200, 1000)
    assert got == [JSON]


@pytest.mark.parametrize("framing", [b"zz\r\nabc\r\n", b"3\r\nabcdef\r\n", b"-1\r\n"])
async def test_a_badly_framed_body_is_a_400(world, framing):
    """And the connection ends, since nobody knows where the next request begins."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request(UPDATE, None, head="Transfer-Encoding: chunked\r\n") + framing)
        reply = await wire.read()

        assert code(reply)[0] == 400
        assert reply.headers["connection"] == "close"


async def test_a_body_that_goes_wrong_later_is_a_400_too(world):
    """Its reader is told at once, and does not wait for the rest."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request(UPDATE, None, head="Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n"))
        await wire.reader.readuntil(b"\r\n\r\n")
        reply = await wire.ask(b"3\r\nabcdef\r\n")

        assert code(reply) == (400, 2001)
        assert await wire.ended()


async def test_a_bad_request_behind_a_good_one_is_told_apart(world):
    """The good one is answered first."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        assert code(await wire.ask(request(UPDATE))) == (200, 1000)
        assert code(await wire.ask(b"NONSENSE\r\n\r\n")) == (400, 2000)
        assert await wire.ended()


async def test_nothing_is_upgraded(world):
    """Whoever asks for a websocket gets an ordinary answer, and the end of the connection."""
    head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n"
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        reply = await wire.ask(request("/ocpi/versions", None, verb="GET", head=head))
        assert code(reply) == (200, 1000)
        assert reply.headers["connection"] == "close"
        assert await wire.ended()


async def test_a_body_that_stops_in_the_middle_disturbs_nobody(world):
    """The peer hangs up half-way; the handler is not called and others are served."""
    called = []

    async def note(inbound):
        called.append(inbound)
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note)
    async with site(world, directory=directory, party=party) as served:
        async with dial(served.port, world.dialler()) as wire:
            await wire.write(request(UPDATE, None, head="Content-Length: 100\r\n") + b'{"a":')
        async with dial(served.port, world.dialler()) as wire:
            assert (await wire.ask(request(UPDATE))).status == 200

    assert len(called) == 1


async def test_whoever_waits_for_100_continue_gets_it(world):
    """As curl does above a megabyte."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request(UPDATE, None, head=f"Content-Length: {len(JSON)}\r\nExpect: 100-continue\r\n"))
        assert await wire.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert code(await wire.ask(JSON)) == (200, 1000)


async def test_a_large_body_within_the_limit_arrives_whole(world):
    """A megabyte, through all the buffers."""
    got = []

    async def note(inbound):
        got.append(inbound.body)
        return Answer(200, SUCCESS)

    body = b'{"a":"' + b"x" * 1_000_000 + b'"}'
    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note)
    async with site(world, directory=directory, party=party) as served, dial(served.port, world.dialler()) as wire:
        assert code(await wire.ask(request(UPDATE, body))) == (200, 1000)
        assert code(await wire.ask(request(UPDATE))) == (200, 1000)
    assert got == [body, JSON]


# -- slow, many, and rude ones ------------------------------------------------------------------------------


async def drip(wire, data: bytes) -> None:
    """Write one byte after the other, until nobody listens."""
    try:
        for byte in data:
            await wire.write(bytes([byte]))
            await asyncio.sleep(0.01)
    except OSError:
        pass


@pytest.mark.parametrize("first", [b"", b"POST /ocpi", request(UPDATE)])
async def test_a_head_that_does_not_come_is_not_waited_for(world, first):
    """Slow-loris: nothing, a part, or a byte now and then; the time runs from the head's first byte."""
    async with site(world, head_timeout_s=0.3) as served, dial(served.port, world.dialler()) as wire:
        if first.endswith(JSON):
            assert (await wire.ask(first)).status == 200
        else:
            await wire.write(first)
        rest = b"" if first == b"POST /ocpi" else b"POST /"
        dripping = asyncio.create_task(drip(wire, rest + b"x" * 10_000))
        async with asyncio.timeout(5):
            assert code(await wire.read()) == (408, 2000)
            assert await wire.ended()
        dripping.cancel()


async def test_a_body_of_one_byte_a_second_is_not_waited_for(world):
    """The whole body has a time, not each byte of it."""
    async with site(world, body_timeout_s=0.3) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request(UPDATE, None, head="Content-Length: 10000\r\n"))
        dripping = asyncio.create_task(drip(wire, b"x" * 10_000))
        async with asyncio.timeout(5):
            assert code(await wire.read()) == (408, 2000)
            assert await wire.ended()
        dripping.cancel()


async def test_a_peer_without_a_handshake_is_not_waited_for(world):
    """A bare TCP connection, which says nothing at all."""
    async with site(world, head_timeout_s=0.3) as served:
        reader, writer = await asyncio.open_connection(HOST, served.port)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


async def test_an_idle_connection_is_closed(world):
    """Without another word."""
    async with site(world, idle_timeout_s=0.2) as served, dial(served.port, world.dialler()) as wire:
        assert (await wire.ask(request(UPDATE))).status == 200
        async with asyncio.timeout(5):
            assert await wire.ended()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(UPDATE, head="X: " + "x" * 20_000 + "\r\n"), 431),
        (request("/" + "x" * 20_000), 431),
        (request(UPDATE, head="".join(f"X{n}: 1\r\n" for n in range(200))), 400),
        (b"\x00\x01\x02\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /ocpi/versions HTTP/1.1\r\n\r\n", 400),
        (b"POST /ocpi/versions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST /ocpi/versions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /ocpi/versions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            400,
        ),
        (b"GET /ocpi/versions HTTP/1.1\r\nHost: x\r\nOcpi-Request-Id: a\x00b\r\n\r\n", 400),
    ],
)
async def test_what_is_not_http_is_told_so(world, data, status):
    """An envelope and the end of the connection."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        reply = await wire.ask(data)

        assert code(reply) == (status, 2000)
        assert reply.headers["connection"] == "close"
        assert await wire.ended()


async def test_http_1_0_is_answered_and_closed(world):
    """It knows no keep-alive."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        assert code(await wire.ask(b"GET /ocpi/versions HTTP/1.0\r\n\r\n")) == (200, 1000)
        assert await wire.ended()


async def test_pipelined_requests_are_answered_in_order(world):
    """One after the other, each with its own id."""
    async with site(world) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(b"".join(request(UPDATE, head=f"Ocpi-Request-Id: {n}\r\n") for n in range(100)))
        answered = [(await wire.read()).headers["ocpi-request-id"] for _ in range(100)]

    assert answered == [str(n) for n in range(100)]


async def test_a_peer_that_reads_no_answers_is_dropped(world):
    """Its answers pile up to a limit and wait no longer than a body may take."""

    async def talk(_inbound):
        return Answer(200, b'{"status_code":1000,"data":"' + b"x" * 1_000_000 + b'"}')

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", talk)
    async with (
        site(world, directory=directory, party=party, body_timeout_s=0.3) as served,
        dial(served.port, world.dialler()) as wire,
    ):
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # reads as well as it writes
        await wire.write(request(UPDATE) * 30)
        await until(lambda: not served.connections)


async def test_connections_are_limited(world):
    """One too many is closed at once, before it costs a handshake; when one goes another may come."""
    async with site(world, connections_max=2) as served, AsyncExitStack() as stack:
        first = await stack.enter_async_context(dial(served.port, world.dialler()))
        second = await stack.enter_async_context(dial(served.port, world.dialler()))
        assert (await first.ask(request(UPDATE))).status == (await second.ask(request(UPDATE))).status == 200
        with pytest.raises(OSError):  # noqa: PT011 - TLS or TCP, as it comes
            await stack.enter_async_context(dial(served.port, world.dialler()))
        first.writer.close()
        await first.ended()
        await until(lambda: served.connections == 1)
        third = await stack.enter_async_context(dial(served.port, world.dialler()))
        assert (await third.ask(request(UPDATE))).status == 200


async def test_requests_of_one_platform_are_limited(world):
    """More at once than agreed are told so, and cost the others nothing."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(_inbound):
        entered.set()
        await leave.wait()
        return Answer(200, SUCCESS)

    other = "other.example.org"
    directory = FakeDirectory({CALLER: FakeCaller(), other: FakeCaller(2, other)})
    files = world.save(certificates.client(world.clients, other, now=time.time()), "other")
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", wait)
    async with (
        site(world, directory=directory, party=party, requests_per_platform_max=1) as served,
        dial(served.port, world.dialler()) as one_of_two,
        dial(served.port, world.dialler()) as two_of_two,
        dial(served.port, world.dialler(files)) as another,
    ):
        first = asyncio.create_task(one_of_two.ask(request(UPDATE)))
        await entered.wait()
        assert code(await two_of_two.ask(request(UPDATE))) == (429, 2000)
        assert code(await another.ask(request("/ocpi/versions", None, verb="GET"))) == (200, 1000)
        leave.set()
        assert code(await first) == (200, 1000)
        assert code(await two_of_two.ask(request(UPDATE))) == (200, 1000)


# -- the end ------------------------------------------------------------------------------------------------


async def test_a_stop_waits_for_requests_in_progress(world):
    """What was begun is answered, with the word that the connection ends; no new connection is taken."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(_inbound):
        entered.set()
        await leave.wait()
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", wait)
    async with (
        site(world, directory=directory, party=party) as served,
        dial(served.port, world.dialler()) as busy,
        dial(served.port, world.dialler()) as idle,
    ):
        port = served.port
        asking = asyncio.create_task(busy.ask(request(UPDATE)))
        await entered.wait()
        stopping = asyncio.create_task(served.stop(5.0))
        assert await idle.ended()
        with pytest.raises(OSError):  # noqa: PT011 - refused or reset
            await asyncio.open_connection(HOST, port)
        leave.set()
        reply = await asking
        await stopping

    assert code(reply) == (200, 1000)
    assert reply.headers["connection"] == "close"


async def test_a_stop_has_a_deadline_and_may_come_twice(world):
    """A handler that never ends is given up; stopping before starting or again does nothing."""
    entered = asyncio.Event()

    async def wait(_inbound):
        entered.set()
        await asyncio.Event().wait()
        raise AssertionError

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", wait)
    async with site(world, directory=directory, party=party) as served, dial(served.port, world.dialler()) as wire:
        await wire.write(request(UPDATE))
        await entered.wait()
        async with asyncio.timeout(5):
            await served.stop(0.1)
            await served.stop(0.1)
            assert await wire.ended()


async def test_a_handler_goes_on_when_the_peer_hangs_up(world):
    """What was begun is stored, although nobody hears of it."""
    entered, leave, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_inbound):
        entered.set()
        await leave.wait()
        done.set()
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", wait)
    async with site(world, directory=directory, party=party) as served:
        async with dial(served.port, world.dialler()) as wire:
            await wire.write(request(UPDATE))
            await entered.wait()
        await until(lambda: not served.connections)
        stopping = asyncio.create_task(served.stop(5.0))
        leave.set()
        await stopping
        assert done.is_set(), "a stop waits for it too"


async def test_lines_of_the_log_carry_the_exchange(world, caplog):
    """Request id, correlation id and platform, on whatever is logged while a request is handled."""
    caplog.handler.setFormatter(logs.JsonLines())

    async def talk(_inbound):
        logging.getLogger("engine.test").warning("hello\nworld", extra={"action": "greeting"})
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", talk)
    async with site(world, directory=directory, party=party) as served, dial(served.port, world.dialler()) as wire:
        await wire.ask(request(UPDATE, head="Ocpi-Request-Id: r\r\nOcpi-Correlation-Id: c\r\n"))

    (line,) = [json.loads(text) for text in caplog.text.splitlines() if "greeting" in text]
    assert (line["request_id"], line["correlation_id"], line["platform"]) == ("r", "c", CALLER)
    assert (line["action"], line["message"]) == ("greeting", "hello\nworld")


async def test_two_sites_cannot_have_one_port(world):
    """The second one says so when it starts."""
    async with site(world) as served:
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, served.port)) == 0
        with pytest.raises(OSError, match="in use"):
            async with transport.site(world, at=served.port):
                pass
