"""Whole platforms in one process, as far as chapters 1 and 2.01 go: real folders, databases, TLS and sockets.

Tests wait with ``Node.until``: it looks again at each commit, each reload of the directory, each session that is
opened or closed and each request that was answered, so nothing sleeps.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certs.authority import CERTIFICATE_FILE
from certs.tls import client_context, server_context
from engine.clock import SystemClock
from engine.peers.client import Peer, PeerAnswer, Peers
from engine.registration.connections import Connections
from engine.registration.directory import Directory
from engine.registration.folder import make_folder
from engine.registration.parties import Parties
from engine.registration.tokens import Tokens
from engine.server.addressing import PartyRequests
from engine.server.exchange import Answer, Handler, Inbound
from engine.server.registration import platform_routes
from engine.server.site import Site
from engine.settings import PlatformFolder
from engine.store.database import Database, Tx
from engine.store.membership import Membership

HOST = "127.0.0.1"
UNTIL_S = 20.0  # a test that waits longer has failed


class ShiftedClock(SystemClock):
    """The clocks of this machine, put forward by a test."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        """Return the shifted time."""
        return super().now() + self.ahead_s


class Signal:
    """Wakes whoever waits for something to have happened."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Say that something happened."""
        self._event.set()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Return when it holds, looking again each time that something happened."""
        async with asyncio.timeout(UNTIL_S):
            while True:
                self._event.clear()
                if await holds():
                    return
                await self._event.wait()


class WatchedDatabase(Database):
    """Tells of each commit."""

    signal: Signal

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        """Write, then tell."""
        async with super().transaction() as tx:
            yield tx
        self.signal.give()


class WatchedDirectory(Directory):
    """Tells of each reload, and may answer ``GET /parties`` with what a test wants."""

    signal: Signal
    odd_body: bytes | None = None

    @property
    def hosted_body(self) -> bytes:
        """Our parties, or what the test wants."""
        return super().hosted_body if self.odd_body is None else self.odd_body

    async def reload(self, *, peers_too: bool = True) -> None:
        """Read again, then tell."""
        await super().reload(peers_too=peers_too)
        self.signal.give()


@dataclass
class Sent:
    """A request that this platform made, and its answer if one came."""

    method: str
    path: str
    body: bytes | None
    answer: PeerAnswer | None = None


class WatchedPeers(Peers):
    """Remembers what was asked and with which certificates, and can lose answers."""

    signal: Signal

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[Sent] = []
        self.used: list[Peer] = []
        self.lose_answer: Callable[[Sent], bool] = lambda _sent: False
        self.before: Callable[[Sent], Awaitable[None]] | None = None

    def use(self, peer: Peer, context: ssl.SSLContext) -> None:
        """Open or swap, then tell."""
        super().use(peer, context)
        self.used.append(peer)
        self.signal.give()

    def forget(self, platform_id: int) -> None:
        """Close, then tell."""
        super().forget(platform_id)
        self.signal.give()

    async def request(self, platform_id: int, method: str, path: str, **more: Any) -> PeerAnswer:
        """Ask, note, and lose the answer if the test wants it lost."""
        sent = Sent(method, path, more.get("body"))
        self.sent.append(sent)
        try:
            if self.before is not None:
                await self.before(sent)
            sent.answer = await super().request(platform_id, method, path, **more)
            if self.lose_answer(sent):
                raise lost()
        finally:
            self.signal.give()
        return sent.answer


def lost() -> Exception:
    """Make the failure of a request whose answer never came."""
    from engine.peers.client import FailureKind, PeerFailure  # noqa: PLC0415

    return PeerFailure(FailureKind.DISCONNECTED, "the test lost the answer", sent=True)


@dataclass
class Node:
    """A running platform."""

    folder: PlatformFolder
    clock: ShiftedClock
    signal: Signal
    database: WatchedDatabase
    directory: WatchedDirectory
    peers: WatchedPeers
    connections: Connections
    parties: Parties
    tokens: Tokens
    site: Site
    answered: list[tuple[str, tuple[str, ...], int]] = field(default_factory=list)
    """Identity, path and HTTP status of each platform-level request that a handler answered."""

    @property
    def identity(self) -> str:
        """Our Platform Identity."""
        return self.folder.settings({}).platform.identity

    @property
    def base_url(self) -> str:
        """Where partners reach us."""
        return self.folder.settings({}).platform.base_url

    @property
    def server_ca(self) -> str:
        """What partners trust our server by."""
        return (self.folder.tls / "server-ca.pem").read_text()

    def state_of(self, other: "Node") -> str:
        """Say how far the connection with another is, as we see it."""
        platform = self.directory.by_identity(other.identity)
        return "unknown" if platform is None else platform.state.value

    def id_of(self, other: "Node") -> int:
        """Return our number of another."""
        platform = self.directory.by_identity(other.identity)
        assert platform is not None
        return platform.id

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds here."""

        async def look() -> bool:
            return holds()

        await self.signal.until(look)

    async def start(self, *, listen: bool = True) -> None:
        """Run."""
        await self.database.start()
        await self.directory.reload()
        await self.peers.start()
        if listen:
            await self.site.start()
        await self.connections.start()

    async def stop(self) -> None:
        """Stop in reverse order."""
        await self.site.stop(1.0)
        await self.connections.stop()
        await self.peers.stop()
        await self.database.stop()


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


async def new_folder(path: Path, identity: str, party: str, role: str) -> PlatformFolder:
    """Make the folder of a platform on this machine."""
    folder = PlatformFolder(path)
    port = free_port()
    await make_folder(
        folder,
        identity=identity,
        base_url=f"https://{HOST}:{port}/ocpi",
        parties=[party],
        roles=[role],
        listen_port=port,
        allow_private=True,
    )
    return folder


def open_node(folder: PlatformFolder, environment: dict[str, str] | None = None) -> Node:
    """Put a platform together, as the composition root does; nothing runs yet."""
    settings = folder.settings(environment or {})
    clock, signal = ShiftedClock(), Signal()
    database = WatchedDatabase(folder.database_url(settings))
    directory = WatchedDirectory(database, clock)
    peers = WatchedPeers(settings.peers)
    database.signal = directory.signal = peers.signal = signal
    connections = Connections(
        database=database,
        directory=directory,
        peers=peers,
        folder=folder,
        settings=settings,
        clock=clock,
        membership=Membership(database, clock, lease_s=settings.replication.lease_s),
    )
    routes = platform_routes(connections=connections, directory=directory, settings=settings, clock=clock)
    answered: list[tuple[str, tuple[str, ...], int]] = []

    def watched(handler: Handler) -> Handler:
        async def answer(request: Inbound) -> Answer:
            status = 0
            try:
                result = await handler(request)
                status = result.http_status
                return result
            except Exception as error:
                status = getattr(error, "http_status", 500)
                raise
            finally:
                answered.append((request.caller.identity, request.segments, status))
                signal.give()

        return answer

    site = Site(
        settings.listener,
        prefix=settings.serving_path,
        context=server_context(
            chain_file=folder.path(settings.listener.certificate),
            key_file=folder.path(settings.listener.key),
            client_ca_file=folder.authority / CERTIFICATE_FILE,
        ),
        directory=directory,
        routes={path: {verb: watched(one) for verb, one in verbs.items()} for path, verbs in routes.items()},
        party=PartyRequests(directory, connections.look_again),
        clock=clock,
    )
    return Node(
        folder,
        clock,
        signal,
        database,
        directory,
        peers,
        connections,
        Parties(database, directory, clock),
        Tokens(database, clock),
        site,
        answered,
    )


@asynccontextmanager
async def running(folder: PlatformFolder, environment: dict[str, str] | None = None) -> AsyncIterator[Node]:
    """Run a platform."""
    node = open_node(folder, environment)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


@dataclass
class Pair:
    """Two platforms that may connect."""

    cpo: Node
    emsp: Node


async def ask(  # noqa: PLR0917 (reads as a sentence)
    one: Node, pair: Path, other: Node, method: str, path: str, body: bytes | None = None
) -> PeerAnswer:
    """Make a request with this key and certificate, past all that ``one`` knows."""
    trusted = one.folder.root / "trusted.pem"
    trusted.write_text(other.server_ca)
    stranger = Peers(one.folder.settings({}).peers)
    await stranger.start()
    try:
        context = client_context(chain_file=pair, key_file=pair, server_ca_file=trusted)
        stranger.use(Peer(1, other.identity, other.base_url, 5.0), context)
        return await stranger.request(1, method, path, body=body)
    finally:
        await stranger.stop()


def pair_of(one: Node, other: Node) -> Path:
    """Find the newest key and certificate that one uses with the other."""
    found = one.folder.keys.glob(f"{other.identity}_*.pem")
    return max((file for file in found if "server-ca" not in file.name), key=lambda file: file.stat().st_mtime_ns)


async def exchange_certificates(one: Node, other: Node) -> None:
    """Do UC 01.01 in both directions, by hand as the draft has it."""
    for asker, issuer in ((one, other), (other, one)):
        request = await asker.connections.request_certificate(issuer.identity)
        signed = await issuer.connections.sign(request.csr, server_ca=asker.server_ca)
        await asker.connections.install(issuer.identity, signed.chain, server_ca=issuer.server_ca)


async def connect(one: Node, other: Node) -> None:
    """Let one connect to the other, and wait until both know each other's parties."""
    await exchange_certificates(one, other)
    await one.connections.connect(other.base_url, other.identity)
    await one.until(lambda: bool(one.directory.peer_parties(one.id_of(other))))
    await other.until(lambda: bool(other.directory.peer_parties(other.id_of(one))))
