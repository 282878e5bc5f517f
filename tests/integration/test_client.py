"""The client against peers of every kind: each failure has its name, and says whether the request was sent."""

import asyncio
import json
import re
import socket
import ssl
import time
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from engine.peers.client import HANDSHAKES_MAX, FailureKind, Peer, PeerFailure, PeerRefused, Peers
from engine.protocol.addressing import party_path
from engine.protocol.ids import PartyId
from engine.server.addressing import PartyRequests
from engine.server.exchange import Answer
from engine.settings import Peers as PeerSettings
from tests.support import certificates
from tests.support.transport import (
    CALLER,
    HOST,
    OURS,
    SUCCESS,
    THEIRS,
    FakeDirectory,
    Wire,
    World,
    dial,
    no_refresh,
    peers,
    rude_server,
    site,
    stream_server,
    until,
)

UPDATE = party_path(THEIRS, OURS, "locations", "update")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SUCCESS), SUCCESS)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Keys and certificates, once."""
    return World.make(tmp_path_factory.mktemp("world"))


async def read_request(wire: Wire) -> tuple[bytes, dict[str, str], bytes]:
    """Read a request by hand: its first line, its headers, its body."""
    head = await wire.reader.readuntil(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.decode().partition(":") for line in lines[:-2])}
    return first, headers, await wire.reader.readexactly(int(headers.get("content-length", 0)))


def answering(*pieces: bytes, then_wait: bool = False):
    """Return a peer that writes this, whatever it is asked, and hangs up or keeps silent."""

    async def behave(wire: Wire) -> None:
        await read_request(wire)
        for piece in pieces:
            await wire.write(piece)
        if then_wait:
            await wire.reader.read()

    return behave


@asynccontextmanager
async def against(world: World, behave, *, context: ssl.SSLContext | None = None, **settings):
    """Run a client of a peer that behaves like this."""
    async with (
        rude_server(context or world.listener(), behave) as port,
        peers(world, port, **settings) as client,
    ):
        yield client


async def failure(client: Peers, **options) -> tuple[FailureKind, bool]:
    """Make a request that fails, soon."""
    async with asyncio.timeout(10):
        with pytest.raises(PeerFailure) as raised:
            await client.request(1, "POST", UPDATE, body=b"{}", **options)
    return raised.value.kind, raised.value.sent


# -- what is sent -------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.02.02.01", "R.02.02.02", "R.02.02.12", "R.02.02.14")
async def test_a_request_goes_below_the_base_url_with_fresh_ids(world):
    """Path, host, length and body as they are; two new UUIDs where none are given."""
    seen = []

    async def behave(wire):
        while True:
            seen.append(await read_request(wire))
            await wire.write(OK)

    async with against(world, behave) as client:
        answer = await client.request(1, "POST", UPDATE, body=b'{"a":1}')
        await client.request(1, "GET", "/versions")

    assert (answer.http_status, answer.body) == (200, SUCCESS)
    (first, headers, body), (second, more, nothing) = seen
    assert first == b"POST /ocpi/from/DEMSP/to/NLCPO/locations/update HTTP/1.1"
    assert (second, nothing) == (b"GET /ocpi/versions HTTP/1.1", b"")
    assert body == b'{"a":1}'
    assert re.fullmatch(r"127\.0\.0\.1:\d+", headers["host"])
    assert headers["content-type"] == "application/json"
    ids = [h[name] for h in (headers, more) for name in ("ocpi-request-id", "ocpi-correlation-id")]
    assert len({uuid.UUID(each).hex for each in ids}) == 4
    assert all(uuid.UUID(each).version == 4 for each in ids)


@pytest.mark.requirement("R.02.02.13")
async def test_a_correlation_id_is_carried_on(world):
    """What is asked because of another request keeps that one's correlation id; the request id is a new one."""
    seen = []

    async def behave(wire):
        seen.append(await read_request(wire))
        await wire.write(OK)

    async with against(world, behave) as client:
        await client.request(1, "POST", UPDATE, body=b"{}", correlation_id="c-1")

    ((_, headers, _),) = seen
    assert headers["ocpi-correlation-id"] == "c-1"
    assert headers["ocpi-request-id"] != "c-1"


async def test_ids_and_paths_cannot_smuggle_lines(world):
    """An id with a line end is replaced, a path with one is a mistake of ours."""
    seen = []

    async def behave(wire):
        seen.append(await read_request(wire))
        await wire.write(OK)

    async with against(world, behave) as client:
        await client.request(1, "GET", "/versions", correlation_id="a\r\nEvil: 1")
        for path in ("/a\r\nb", "/a b", "//evil.example\n", "relative"):
            with pytest.raises(ValueError, match="path"):
                await client.request(1, "GET", path)

    assert "evil" not in seen[0][1]


async def test_connections_are_used_again(world):
    """One after the other they share a connection; at once each has its own."""
    connections = 0
    together = asyncio.Barrier(3)

    async def behave(wire):
        nonlocal connections
        connections += 1
        while True:
            first, _, _ = await read_request(wire)
            if b"together" in first:
                await together.wait()
            await wire.write(OK)

    async with against(world, behave) as client:
        for _ in range(5):
            await client.request(1, "GET", "/versions")
        assert connections == 1
        await asyncio.gather(*(client.request(1, "GET", "/together") for _ in range(3)))
        assert connections == 3
        for _ in range(5):
            await client.request(1, "GET", "/versions")
        assert connections == 3


async def test_many_requests_at_once_make_no_storm_of_connections(world):
    """A few connections are made at a time, and what is answered meanwhile carries the requests that wait."""
    connections = 0

    async def behave(wire):
        nonlocal connections
        connections += 1
        while True:
            await read_request(wire)
            await wire.write(OK)

    async with against(world, behave) as client:
        answers = await asyncio.gather(*(client.request(1, "GET", "/versions") for _ in range(200)))

    assert [answer.http_status for answer in answers] == [200] * 200
    assert connections < 100


async def test_a_peer_that_finishes_no_handshake_is_waited_for_by_few(world):
    """Requests beyond those wait for their turn no longer than for an answer, and are told that nothing was sent."""
    trying = 0

    async def begin(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal trying
        trying += 1
        await asyncio.Event().wait()

    async with stream_server(begin) as port, peers(world, port) as client:
        asked = [client.request(1, "GET", "/versions", timeout_s=0.3) for _ in range(30)]
        ends = await asyncio.gather(*asked, return_exceptions=True)

    failures = [end for end in ends if isinstance(end, PeerFailure)]
    assert len(failures) == len(ends)
    assert {(failure.kind, failure.sent) for failure in failures} == {(FailureKind.TIMEOUT, False)}
    assert HANDSHAKES_MAX <= trying <= 2 * HANDSHAKES_MAX  # a timer may let the next few in at the last moment


async def test_a_request_that_is_withheld_at_the_last_moment(world):
    """Nothing is sent when what allowed it was over once there was a connection, which serves the next request."""
    seen = []

    async def behave(wire):
        while True:
            seen.append(await read_request(wire))
            await wire.write(OK)

    async with against(world, behave) as client:
        assert await failure(client, may_send=lambda: False) == (FailureKind.WITHHELD, False)
        await client.request(1, "GET", "/versions", may_send=lambda: True)
    assert [first for first, _, _ in seen] == [b"GET /ocpi/versions HTTP/1.1"]


async def test_a_connection_that_is_given_up_at_any_moment(world):
    """However far it was, whoever gets its file descriptor next is left alone."""
    async with against(
        world, answering(OK)
    ) as client:  # which hangs up, so that each request has a connection of its own
        await client.request(1, "GET", "/versions")
        for turns in range(40):
            given_up = asyncio.create_task(client.request(1, "GET", "/versions"))
            for _ in range(turns):
                await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait([given_up])
            answers = await asyncio.gather(*(client.request(1, "GET", "/versions") for _ in range(2)))
            assert [answer.http_status for answer in answers] == [200, 200]


async def test_an_idle_connection_is_left_before_the_peer_ends_it(world):
    """So that a request does not meet the end of it."""
    ended = asyncio.Event()

    async def behave(wire):
        await read_request(wire)
        await wire.write(OK)
        await wire.reader.read()
        ended.set()

    async with against(world, behave, idle_timeout_s=0.1) as client:
        await client.request(1, "GET", "/versions")
        async with asyncio.timeout(5):
            await ended.wait()


async def test_a_connection_that_the_peer_ended_is_not_used_again(world):
    """It hangs up after each answer, with and without a word of it."""

    async def behave(wire):
        await read_request(wire)
        await wire.write(OK)

    async with against(world, behave) as client:
        for _ in range(5):
            assert (await client.request(1, "GET", "/versions")).http_status == 200
            await until(lambda: not client.connections)


async def test_a_connection_with_one_answer_too_many_is_not_used_again(world):
    """Whose answer that is nobody can know."""
    connections = 0

    async def behave(wire):
        nonlocal connections
        connections += 1
        await read_request(wire)
        await wire.write(OK + OK.replace(b"1000", b"6001"))
        await wire.reader.read()

    async with against(world, behave) as client:
        for _ in range(3):
            assert b"1000" in (await client.request(1, "GET", "/versions")).body
    assert connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200\r\ncontent-length: %d\r\n\r\n%b" % (len(SUCCESS), SUCCESS),
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SUCCESS), SUCCESS),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + SUCCESS,
        b"HTTP/1.0 200 OK\r\n\r\n" + SUCCESS,
    ],
)
@pytest.mark.parametrize("cut", [False, True])
async def test_answers_come_in_many_forms(world, answer, cut):
    """With a length, in chunks, until the end of the connection; in one piece or byte by byte."""
    pieces = [answer[i : i + 1] for i in range(len(answer))] if cut else [answer]

    async with against(world, answering(*pieces)) as client:
        got = await client.request(1, "POST", UPDATE, body=b"{}")

    assert (got.http_status, got.body) == (200, SUCCESS)


# -- bad peers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "kind"),
    [
        ([b"HTTP/1.1 302 Found\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n"], FailureKind.REDIRECT),
        ([b"HTTP/1.1 308 Permanent Redirect\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"], FailureKind.REDIRECT),
        ([], FailureKind.DISCONNECTED),
        ([b"HTTP/1.1 200 OK\r\nContent-"], FailureKind.DISCONNECTED),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], FailureKind.DISCONNECTED),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"], FailureKind.DISCONNECTED),
        ([b"SSH-2.0-OpenSSH_9.6\r\n"], FailureKind.UNREADABLE),
        ([b"\x00" * 100], FailureKind.UNREADABLE),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], FailureKind.UNREADABLE),
        ([b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"], FailureKind.UNREADABLE),
        ([b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n" * 200, b"\r\n"], FailureKind.UNREADABLE),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"], FailureKind.UNREADABLE),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 100], FailureKind.UNREADABLE),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", b"x" * 2_000_000], FailureKind.TOO_LARGE),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 2_000_000], FailureKind.TOO_LARGE),
    ],
)
async def test_answers_that_do_not_count(world, pieces, kind):
    """A redirect, nothing at all, half an answer, something else than HTTP, or far too much of it."""
    async with against(world, answering(*pieces), response_max_bytes=1_000_000) as client:
        assert await failure(client) == (kind, True)
    assert PeerFailure(kind, sent=True).answered == (kind in {FailureKind.REDIRECT, FailureKind.TOO_LARGE})


@pytest.mark.parametrize(
    "piece",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX:",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2710\r\n",
    ],
)
async def test_an_answer_of_one_byte_a_second_is_not_waited_for(world, piece):
    """The whole answer has a time, not each byte of it."""

    async def behave(wire):
        await read_request(wire)
        await wire.write(piece)
        while True:
            await wire.write(b"x")
            await asyncio.sleep(0.01)

    async with against(world, behave, timeout_s=0.3) as client:
        assert await failure(client) == (FailureKind.TIMEOUT, True)


async def test_an_endless_answer_is_left_at_the_limit(world):
    """Ten gigabytes would come; a megabyte is read."""
    written = 0

    async def behave(wire):
        nonlocal written
        await read_request(wire)
        await wire.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await wire.write(b"ffff\r\n" + bytes(0xFFFF) + b"\r\n")
            written += 0xFFFF

    async with against(world, behave, response_max_bytes=1_000_000) as client:
        assert await failure(client) == (FailureKind.TOO_LARGE, True)
    assert written < 100_000_000


async def test_a_silent_peer_is_waited_for_no_longer_than_it_announced(world):
    """Or than the caller says."""
    async with against(world, answering(then_wait=True), timeout_s=0.2) as client:
        assert await failure(client) == (FailureKind.TIMEOUT, True)
    async with against(world, answering(then_wait=True), timeout_s=60) as client:
        assert await failure(client, timeout_s=0.2) == (FailureKind.TIMEOUT, True)


async def test_a_peer_that_reads_nothing_is_not_waited_for(world):
    """A large body, of which nothing is read."""

    async def behave(wire):
        wire.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async with against(world, behave, timeout_s=0.3) as client:
        with pytest.raises(PeerFailure) as raised:
            await client.request(1, "POST", UPDATE, body=bytes(20_000_000))
    assert (raised.value.kind, raised.value.sent) == (FailureKind.TIMEOUT, True)


async def test_a_slow_peer_delays_nobody_else(world):
    """A hundred requests hang at one platform; another one answers at once."""
    async with (
        against(world, answering(then_wait=True), timeout_s=30) as client,
        rude_server(world.listener(), answering(OK)) as port,
    ):
        client.use(Peer(2, "other.example.org", f"https://{HOST}:{port}", 5.0), world.dialler())
        hanging = [asyncio.create_task(client.request(1, "POST", UPDATE, body=b"{}")) for _ in range(100)]
        assert (await client.request(2, "GET", "/versions")).http_status == 200
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await until(lambda: not client.connections)


# -- peers that cannot be reached ---------------------------------------------------------------------------


async def test_nobody_listens(world):
    """The connection is refused; nothing was sent."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    async with peers(world, port) as client:
        assert await failure(client) == (FailureKind.REFUSED, False)


async def test_a_name_that_is_nobody_s(world):
    """It cannot be resolved; nothing was sent."""
    async with peers(world, 443, host="nobody.invalid") as client:
        assert await failure(client) == (FailureKind.UNRESOLVABLE, False)


@pytest.mark.requirement("R.01.02.02")
@pytest.mark.parametrize("kind", ["other authority", "other host", "expired", "for clients"])
async def test_a_server_certificate_that_is_wrong(world, kind):
    """Of another authority, for another host, out of date, not for servers: nothing was sent."""
    now = time.time()
    recipe = certificates.Recipe(common_names=["localhost"], hosts=["localhost"], usages=[certificates.SERVER])
    if kind == "other authority":
        other = World.make(world.folder / "elsewhere") if (world.folder / "elsewhere").mkdir() is None else world
        files = other.server
    elif kind == "other host":
        files = world.save(certificates.server(world.servers, "other.example.org", now=now), "other-host")
    elif kind == "expired":
        files = world.save(certificates.issued(world.servers, replace(recipe, not_after=-60.0), now=now), "old")
    else:
        usages = [certificates.CLIENT]
        files = world.save(certificates.issued(world.servers, replace(recipe, usages=usages), now=now), "not-server")
    reached = []

    async def behave(wire):
        reached.append(await wire.reader.read(1))

    async with (
        rude_server(world.listener(files), behave) as port,
        peers(world, port, host="localhost") as client,
    ):
        assert await failure(client) == (FailureKind.TLS, False)
    assert reached in ([], [b""])


async def test_a_certificate_of_ours_that_the_peer_does_not_take(world):
    """TLS 1.3 tells it after we have begun to write; nothing of that was given to anybody."""
    wrong = world.save(certificates.of_another_authority(world.clients, CALLER, now=time.time()), "wrong")

    async def refuse(reader, writer):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        handshake = world.listener().wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                handshake.do_handshake()
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65_536))
            except ssl.SSLError:
                writer.write(outgoing.read())  # the alert, which asyncio's own servers forget to send
                break
        await reader.read()

    async with stream_server(refuse) as port, peers(world, port) as client:
        client.use(Peer(1, "x", f"https://{HOST}:{port}", 5.0), world.dialler(wrong))
        assert await failure(client) == (FailureKind.TLS, False)


async def test_a_certificate_of_ours_that_an_asyncio_server_does_not_take(world):
    """It hangs up without a word, so that we cannot know; the hint says what it may be."""
    wrong = world.save(certificates.of_another_authority(world.clients, CALLER, now=time.time()), "wrong")
    async with site(world) as served, peers(world, served.port) as client:
        client.use(Peer(1, "x", f"https://{HOST}:{served.port}/ocpi", 5.0), world.dialler(wrong))
        with pytest.raises(PeerFailure, match="may not accept our certificate") as raised:
            await client.request(1, "GET", "/versions")
    assert (raised.value.kind, raised.value.sent) == (FailureKind.DISCONNECTED, True)


async def test_a_peer_that_does_not_speak_tls(world):
    """Plain HTTP on the port; nothing was sent."""

    async def behave(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with stream_server(behave) as port, peers(world, port) as client:
        assert await failure(client) == (FailureKind.TLS, False)


@pytest.mark.parametrize("hang_up", [False, True])
async def test_a_peer_that_does_not_finish_the_handshake(world, hang_up):
    """It accepts and says nothing, or hangs up; nothing was sent."""

    async def behave(_reader, _writer):
        if not hang_up:
            await asyncio.Event().wait()

    async with stream_server(behave) as port, peers(world, port, connect_timeout_s=0.3) as client:
        kind, sent = await failure(client)
    assert (kind, sent) == (FailureKind.DISCONNECTED if hang_up else FailureKind.TIMEOUT, False)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.1.2.3", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "0"]
)
async def test_private_addresses_are_not_asked(world, host):
    """Neither by number nor by name, unless the operator allows them; nothing was sent."""
    async with rude_server(world.listener(), answering(OK)) as port:
        client = Peers(PeerSettings(allow_private_addresses=False))
        client.use(Peer(1, "cpo.example.org", f"https://{host}:{port}", 5.0), world.dialler())
        assert await failure(client) == (FailureKind.FORBIDDEN_ADDRESS, False)
        await client.stop()


async def test_a_platform_that_we_have_no_certificate_for(world):
    """Or that is forgotten again; nothing was sent."""
    async with against(world, answering(OK)) as client:
        with pytest.raises(PeerFailure) as raised:
            await client.request(2, "GET", "/versions")
        assert (raised.value.kind, raised.value.sent) == (FailureKind.NOT_CONNECTED, False)
        client.forget(1)
        assert await failure(client) == (FailureKind.NOT_CONNECTED, False)


# -- certificates that change -------------------------------------------------------------------------------


async def test_a_new_certificate_is_used_from_the_next_request_on(world):
    """The request in progress ends as it began, the next one shows the new certificate, none is refused."""
    entered, leave = asyncio.Event(), asyncio.Event()
    serials = []

    async def note(inbound):
        serials.append(inbound.caller.serial)
        if len(serials) == 1:
            entered.set()
            await leave.wait()
        return Answer(200, SUCCESS)

    new = world.save(certificates.client(world.clients, CALLER, now=time.time()), "renewed")
    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note)
    async with site(world, directory=directory, party=party) as served, peers(world, served.port) as client:
        first = asyncio.create_task(client.request(1, "POST", UPDATE, body=b"{}"))
        await entered.wait()
        client.use(Peer(1, "cpo.example.org", f"https://{HOST}:{served.port}/ocpi", 5.0), world.dialler(new))
        second = await client.request(1, "POST", UPDATE, body=b"{}")
        leave.set()
        answers = [(await first).http_status, second.http_status]
        await until(lambda: client.connections == 1)

    assert answers == [200, 200]
    assert serials == [world.serial(world.client), world.serial(new)]


async def test_a_stop_ends_what_is_in_progress(world):
    """Every request ends as a failure, and nothing is left open."""
    async with against(world, answering(then_wait=True)) as client:
        asking = asyncio.create_task(client.request(1, "POST", UPDATE, body=b"{}"))
        await until(lambda: client.connections == 1)
        await client.stop()
        with pytest.raises(PeerFailure):
            await asking
        assert client.connections == 0
        assert await failure(client) == (FailureKind.NOT_CONNECTED, False)


# -- answers that are read ----------------------------------------------------------------------------------


def http(status: int, body: bytes) -> bytes:
    """Write an answer."""
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def test_ask_returns_the_data_of_a_success(world):
    """Under either of its names (W5)."""
    for name in ("data", "payload"):
        body = json.dumps({"status_code": 1000, name: {"a": 1}, "timestamp": "x"}).encode()
        async with against(world, answering(http(200, body))) as client:
            assert json.loads((await client.ask(1, "GET", "/x")).content) == {"a": 1}


@pytest.mark.parametrize(
    ("status", "body", "status_code"),
    [
        (200, b'{"status_code":5005,"status_message":"no","timestamp":"x"}', 5005),
        (404, b'{"status_code":2000,"timestamp":"x"}', 2000),
        (500, SUCCESS, 1000),
    ],
)
async def test_ask_says_no_as_the_peer_does(world, status, body, status_code):
    """1000 counts with a 2xx only (B1)."""
    async with against(world, answering(http(status, body))) as client:
        with pytest.raises(PeerRefused) as raised:
            await client.ask(1, "POST", "/x", body=b"{}")
    assert (raised.value.http_status, raised.value.status_code) == (status, status_code)


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"", b"{}", b"[]", b'{"status_code":"1000"}', b"\xff"])
async def test_ask_wants_an_envelope(world, body):
    """HTML, nothing, or any other JSON is a failure; the request may have been taken."""
    async with against(world, answering(http(200, body))) as client:
        with pytest.raises(PeerFailure) as raised:
            await client.ask(1, "GET", "/x")
    assert (raised.value.kind, raised.value.sent) == (FailureKind.NO_ENVELOPE, True)


async def test_ask_platform_takes_bare_and_enveloped_answers(world):
    """Platform-level bodies are bare, and some put an envelope around them (W4)."""
    for body in (b'{"versions":[]}', b'{"status_code":1000,"data":{"versions":[]},"timestamp":"x"}'):
        async with against(world, answering(http(200, body))) as client:
            assert await client.ask_platform(1, "GET", "/versions") == b'{"versions":[]}'


@pytest.mark.parametrize(
    ("status", "body", "raised"),
    [
        (409, b'{"status_code":2000,"status_message":"already","timestamp":"x"}', PeerRefused),
        (409, b"Conflict", PeerRefused),
        (200, b'{"status_code":3000,"timestamp":"x"}', PeerRefused),
        (502, b"<html>", PeerFailure),
    ],
)
async def test_ask_platform_tells_a_no_from_a_failure(world, status, body, raised):
    """A 4xx is an answer with or without an envelope, a 5xx of a proxy is none."""
    async with against(world, answering(http(status, body))) as client:
        with pytest.raises(raised) as caught:
            await client.ask_platform(1, "POST", "/connection", body=b"{}")
    assert getattr(caught.value, "http_status", status) == status


async def test_both_ends_together(world):
    """Our client at our listener: a thousand requests, thirty-two at a time, none lost."""
    got = []

    async def note(inbound):
        got.append(int(inbound.body))
        return Answer(200, SUCCESS)

    directory = FakeDirectory(served={PartyId("DEMSP")})
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note)
    numbers = iter(range(1000))

    async with site(world, directory=directory, party=party) as served, peers(world, served.port) as client:

        async def lane():
            for number in numbers:
                await client.ask(1, "POST", UPDATE, body=b"%d" % number)

        await asyncio.gather(*(lane() for _ in range(32)))
        assert served.connections == client.connections == 32
        async with dial(served.port, world.dialler()) as wire:
            assert (await wire.ask(b"GET /ocpi/versions HTTP/1.1\r\nHost: x\r\n\r\n")).status == 200

    assert sorted(got) == list(range(1000))


async def test_a_platform_s_time_out_outlives_its_session(world):
    """Requests that were made on the session may be in progress still; of a platform never heard of, the longest."""
    async with peers(world, 1, timeout_s=7.0, request_timeout_max_ms=60_000) as client:
        client.forget(1)
        client.announced(2, 90.0)
        assert [client.timeout_s(number) for number in (1, 2, 3)] == [7.0, 60.0, 60.0]
