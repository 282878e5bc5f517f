"""What the tests of the listener and of the client have in common: keys on disk, a directory in memory, raw TLS.

The bad peers speak through bare TLS streams, so that they can be as rude as real ones.
"""

import asyncio
import contextlib
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from certs import tls
from certs.authority import Authority, Purpose
from certs.forwarded import ForwardedCertificates
from engine.clock import Clock, SystemClock
from engine.peers.client import Peer, Peers
from engine.protocol.errors import Forbidden
from engine.protocol.ids import PartyId
from engine.server.addressing import PartyRequests
from engine.server.exchange import Answer, Handler, Inbound
from engine.server.proxy import Proxy
from engine.server.site import Site
from engine.settings import Listener
from engine.settings import Peers as PeerSettings
from tests.support import certificates
from tests.support.certificates import Files, Identity

HOST = "127.0.0.1"
CALLER, STRANGER = "emsp.example.org", "stranger.example.org"
OURS, THEIRS = PartyId("NLCPO"), PartyId("DEMSP")
SUCCESS = b'{"status_code":1000,"timestamp":"2026-01-01T00:00:00.000Z"}'


@dataclass(frozen=True)
class World:
    """Two authorities, a server certificate for this machine, and places for files."""

    folder: Path
    clients: Authority
    servers: Authority
    server: Files
    client: Files

    @classmethod
    def make(cls, folder: Path) -> "World":
        """Make keys and write them."""
        now = time.time()
        clients = Authority.create("clients of the site", now=now, purpose=Purpose.CLIENT)
        servers = Authority.create("servers", now=now, purpose=Purpose.SERVER)
        (folder / "clients.pem").write_bytes(clients.certificate_pem)
        (folder / "servers.pem").write_bytes(servers.certificate_pem)
        return cls(
            folder,
            clients,
            servers,
            server=certificates.server(servers, "localhost", HOST, now=now).save(folder, "server"),
            client=certificates.client(clients, CALLER, now=now).save(folder, "client"),
        )

    def listener(self, server: Files | None = None) -> ssl.SSLContext:
        """Make a listener's context."""
        files = server or self.server
        return tls.server_context(
            chain_file=files.chain_file, key_file=files.key_file, client_ca_file=self.folder / "clients.pem"
        )

    def dialler(self, client: Files | None = None) -> ssl.SSLContext:
        """Make a client's context."""
        files = client or self.client
        return tls.client_context(
            chain_file=files.chain_file, key_file=files.key_file, server_ca_file=self.folder / "servers.pem"
        )

    def save(self, identity: Identity, name: str) -> Files:
        """Write an identity beside the others."""
        return identity.save(self.folder, name)

    def serial(self, files: Files) -> str:
        """Return a certificate's serial number as the directory knows it."""
        return f"{Identity(b'', files.chain_file.read_bytes()).certificate.serial_number:x}"


@dataclass(frozen=True, slots=True)
class FakeCaller:
    """A platform as a test wants it."""

    platform_id: int = 1
    identity: str = CALLER
    state: str = "connected"
    serial: str = ""
    tolerant: bool = False


@dataclass
class FakeDirectory:
    """Knows every certificate of one common name, and the parties that it is told of."""

    callers: dict[str, FakeCaller] = field(default_factory=lambda: {CALLER: FakeCaller()})
    ended: set[str] = field(default_factory=set)
    served: set[PartyId] = field(default_factory=lambda: {THEIRS})
    hosted_parties: set[PartyId] = field(default_factory=lambda: {OURS})
    heard_of: list[int] = field(default_factory=list)

    def caller(self, serial: str, common_name: str) -> FakeCaller:
        """Say who it is."""
        if serial in self.ended or common_name not in self.callers:
            raise Forbidden
        return replace(self.callers[common_name], serial=serial)

    async def look_again(self) -> None:
        """Learn nothing: there is no other process."""

    def heard(self, platform_id: int) -> None:
        """Note it."""
        self.heard_of.append(platform_id)

    def serves(self, platform_id: int, party: PartyId) -> bool:  # noqa: ARG002 - one platform is enough here
        """Look it up."""
        return party in self.served

    def hosted(self, party: PartyId) -> object | None:
        """Look it up."""
        return party if party in self.hosted_parties else None


async def accept(_request: Inbound) -> Answer:
    """Answer with success, whatever it is."""
    return Answer(200, SUCCESS)


async def no_refresh(_platform_id: int) -> None:
    """Learn nothing new."""


@asynccontextmanager
async def site(
    world: World,
    *,
    directory: FakeDirectory | None = None,
    routes: Mapping[Any, Mapping[str, Handler]] | None = None,
    party: PartyRequests | None = None,
    prefix: str = "/ocpi",
    context: ssl.SSLContext | None = None,
    clock: Clock | None = None,
    at: int = 0,
    **limits: Any,
) -> AsyncIterator[Site]:
    """Run a site; without a ``party`` table everything that may be updated is. ``limits`` may set a proxy."""
    directory = directory or FakeDirectory()
    if party is None:
        party = PartyRequests(directory, no_refresh)
        party.register("update", "POST", accept)
    settings = Listener(host=HOST, port=at, **limits)
    proxy = None
    if settings.client_certificate_header:
        proxy = Proxy(settings, ForwardedCertificates(world.clients.certificate_pem))
    served = Site(
        settings,
        prefix=prefix,
        context=context or (world.listener() if proxy is None else None),
        directory=directory,
        routes=routes or {("versions",): {"GET": accept}},
        party=party,
        clock=clock or SystemClock(),
        proxy=proxy,
    )
    await served.start()
    try:
        yield served
    finally:
        await served.stop(1.0)


@asynccontextmanager
async def peers(
    world: World, port: int, *, host: str = HOST, timeout_s: float = 5.0, **settings: Any
) -> AsyncIterator[Peers]:
    """Run a client that knows one platform, number 1, at this port."""
    client = Peers(PeerSettings(**{"allow_private_addresses": True, **settings}))
    await client.start()
    client.use(Peer(1, "cpo.example.org", f"https://{host}:{port}/ocpi", timeout_s), world.dialler())
    try:
        yield client
    finally:
        await client.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until something holds that nobody signals."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


# -- by hand ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """An answer, read by hand."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """A connection on which a test writes what it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Write, as it is."""
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes) -> Reply:
        """Write a request and read its answer."""
        await self.write(data)
        return await self.read()

    async def read(self) -> Reply:
        """Read an answer with a ``Content-Length``."""
        status, headers = await self.read_head()
        return Reply(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """Read an answer up to its body."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
        return int(lines[0].split(" ")[1]), headers

    async def ended(self) -> bool:
        """Wait until the other side hangs up; says whether it did so without another byte."""
        try:
            return await self.reader.read() == b""
        except OSError:
            return True


@asynccontextmanager
async def dial(port: int, context: ssl.SSLContext | None, *, source: str = HOST) -> AsyncIterator[Wire]:
    """Open a connection, from an address of this machine; without a context in plain HTTP."""
    reader, writer = await asyncio.open_connection(
        HOST, port, ssl=context, server_hostname=None if context is None else HOST, local_addr=(source, 0)
    )
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@asynccontextmanager
async def stream_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    context: ssl.SSLContext | None = None,
    *,
    port: int = 0,
) -> AsyncIterator[int]:
    """Serve each connection by a function, which is cancelled in the end; yields the port.

    The tasks are kept here because asyncio keeps none that waits for nothing but itself: such a task and its
    connection would be collected as garbage in the middle of whatever runs then.
    """
    serving: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the other side hung up, or the test is over: asyncio wants no handler to end by cancellation
        finally:
            writer.transport.abort()
            serving.discard(task)

    server = await asyncio.start_server(begin, HOST, port, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        ending = list(serving)
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)


@asynccontextmanager
async def rude_server(context: ssl.SSLContext, behave: Callable[[Wire], Awaitable[None]]) -> AsyncIterator[int]:
    """Serve each TLS connection by a function; yields the port."""
    async with stream_server(lambda reader, writer: behave(Wire(reader, writer)), context) as port:
        yield port


@asynccontextmanager
async def balancer(*ports: int) -> AsyncIterator[int]:
    """Pass connections on as a TCP load balancer does: in turn, and to the next one where nobody listens."""
    turns = itertools.cycle(ports)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in ports:
            with contextlib.suppress(OSError):
                answers, onward = await asyncio.open_connection(HOST, next(turns))
                break
        else:
            return
        passing = [asyncio.create_task(_pass_on(reader, onward)), asyncio.create_task(_pass_on(answers, writer))]
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
            onward.transport.abort()

    async with stream_server(serve) as port:
        yield port


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
