"""A scripted partner: a platform in the test's own process that does what a test says, and remembers what it heard.

It has nothing of the engine's but ``certs``: an authority of its own, aiohttp on both sides, JSON by hand. A test
registers it at a real engine, has it answer by script (status codes, HTML, nothing, half an answer, a broken
connection …), and lets it ask the engine for whatever it likes. ``Peer.watch`` puts an ``Observer`` beside it that
holds P1 to P4 against all updates of a subscription.

::

    peer.script["update"] = in_turn(refuse(3000), BREAK, accept())
    await peer.subscribe("BEAAA", "evsestatuses", retry_interval=0.05)
    third = (await peer.heard("update", 3))[2]
"""

import asyncio
import contextlib
import io
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import aiohttp
import httpx
import msgspec
from aiohttp import web
from yarl import URL

from certs import tls
from certs.authority import Authority, Purpose
from certs.requests import check_request, make_request
from tests.support import certificates
from tests.support.backing import EMBEDDED, Backing
from tests.support.processes import Platform
from tests.support.receiver import Observer, Seen
from tests.support.services import free_port

HOST: Final = "localhost"
BODY_MAX_BYTES: Final = 64 * 1024 * 1024
HEARD_WITHIN_S: Final = 30.0  # a test that waits longer for a request has failed
TIMEOUT_MS: Final = 1000  # announced in the handshake: the least that the engine takes, so that tests are quick
# The observer counts from a request's arrival, the engine from its departure, on a machine that does other things.
TRANSIT_S: Final = 0.2
FINAL_CODES: Final = frozenset({1000, 6001, 6002})  # R.03.02.16
SUBSCRIBE: Final = ""
_FROM_TO: Final = 5  # "", "from", sender, "to", receiver


@dataclass
class Heard:
    """A request as it arrived. ``path`` is raw and begins below the base path; times are of the event loop."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float
    connection: int
    """Which connection it came over, counted from 1."""
    common_name: str
    """Of the client certificate that it came with."""
    serial: str = ""
    """Of that certificate, as the engine writes it."""
    answered_at: float | None = None

    @property
    def _parts(self) -> list[str]:
        return self.path.split("/")

    @property
    def sender(self) -> str:
        """The party that it is from; empty between platforms."""
        return self._parts[2] if self.path.startswith("/from/") else ""

    @property
    def receiver(self) -> str:
        """The party that it is for; empty between platforms."""
        return self._parts[4] if self.path.startswith("/from/") else ""

    @property
    def module(self) -> str:
        """The module that it is about; empty between platforms."""
        return self._parts[_FROM_TO] if self.path.startswith("/from/") else ""

    @cached_property  # looked at again with each request that arrives, like the next one
    def operation(self) -> str:
        """``update`` and so on; empty for a subscribe; between platforms the path, for instance ``/parties``."""
        if not self.path.startswith("/from/"):
            return self.path
        return "/".join(self._parts[_FROM_TO + 1 :])

    @cached_property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def object_id(self) -> str:
        """Of an update."""
        read: str = self.json["id"]
        return read

    @property
    def version(self) -> int:
        """Of an update."""
        read: int = self.json["version"]
        return read

    @property
    def payload(self) -> bytes:
        """Of an update, byte for byte."""
        return bytes(msgspec.json.decode(self.body, type=dict[str, msgspec.Raw])["payload"])


# -- answers ------------------------------------------------------------------------------------------------

Behaviour = Callable[[Heard, web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Reply:
    """How a request is treated. ``behave`` is for those that get no whole answer; then ``body`` does not matter."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    behave: Behaviour | None = None
    stored: bool | None = None
    """Whether an update is stored all the same; None: if it is answered with success."""
    after: asyncio.Event | None = None
    """Not answered before this happens."""
    answered: bool = False
    """Whether the request is over all the same, although ``behave`` gives no whole answer."""

    @property
    def code(self) -> int | None:
        """The status code of the envelope, if there is one."""
        try:
            code = json.loads(self.body)["status_code"]
        except (ValueError, KeyError, TypeError):
            return None
        return code if isinstance(code, int) else None

    @property
    def is_success(self) -> bool:
        """Whether a producer takes it as such."""
        return self.behave is None and self.status // 100 == 2 and self.code == 1000


Script = Callable[[Heard], Reply]


def now_text() -> str:
    """Write the time as OCPI does."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def envelope(code: int, data: Any = None, **more: Any) -> bytes:
    """Write an OcpiResponse."""
    body = {"status_code": code, "timestamp": now_text()} | more
    return json.dumps(body if data is None else body | {"data": data}).encode()


def accept(data: Any = None, *, status: int = 200, after: asyncio.Event | None = None) -> Reply:
    """Answer with success."""
    return Reply(status, envelope(1000, data), after=after)


def refuse(code: int, *, status: int = 200, message: str = "no", after: asyncio.Event | None = None) -> Reply:
    """Answer with another status code."""
    return Reply(status, envelope(code, status_message=message), after=after)


def raw(
    body: bytes | str,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """Answer with these very bytes."""
    data = body.encode() if isinstance(body, str) else body
    return Reply(status, data, {"Content-Type": content_type, **(headers or {})})


def bare(content: Any) -> Reply:
    """Answer with JSON and no envelope, as between platforms."""
    return raw(json.dumps(content))


HTML: Final = raw("<html><body>It works!</body></html>", content_type="text/html")


async def _break(_heard: Heard, request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _keep_silent(_heard: Heard, request: web.Request) -> web.StreamResponse:
    await request.app[_CLOSING].wait()
    return await _break(_heard, request)


async def _half(_heard: Heard, request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await answer.prepare(request)
    await answer.write(b'{"status_code":1000,')
    return await _break(_heard, request)


async def _drip(_heard: Heard, request: web.Request) -> web.StreamResponse:
    """One byte a second, until the other side has had enough."""
    answer = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await answer.prepare(request)
    with contextlib.suppress(OSError, TimeoutError):
        for byte in envelope(1000):
            await answer.write(bytes([byte]))
            async with asyncio.timeout(1.0):
                await request.app[_CLOSING].wait()
    return answer


async def _flood(_heard: Heard, request: web.Request) -> web.StreamResponse:
    """An answer without an end."""
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    with contextlib.suppress(OSError):
        await answer.write(b'{"status_code":1000,"status_message":"')
        while not request.app[_CLOSING].is_set():
            await answer.write(b"x" * 65536)
            await asyncio.sleep(0)  # a TLS transport that is about to close takes any number of bytes, and drops them
    return answer


async def _no_http(_heard: Heard, request: web.Request) -> web.StreamResponse:
    transport = request.transport
    if transport is not None:
        transport.write(b"220 mail.example.org ESMTP\r\n")
        transport.close()
    return web.Response()


BREAK: Final = Reply(behave=_break)
"""The connection breaks before an answer."""
BREAK_STORED: Final = Reply(behave=_break, stored=True)
"""The update is stored, and the connection breaks before an answer."""
SILENCE: Final = Reply(behave=_keep_silent)
"""No answer, and the connection stays."""
HALF: Final = Reply(behave=_half)
"""The connection breaks in the middle of a success."""
DRIP: Final = Reply(behave=_drip)
"""A success, one byte a second."""
FLOOD: Final = Reply(behave=_flood, answered=True)
"""A success whose message has no end: an answer, but too large a one."""
NO_HTTP: Final = Reply(behave=_no_http)
"""Something that is not HTTP."""


def always(reply: Reply) -> Script:
    """Answer all alike."""
    return lambda _heard: reply


def in_turn(*replies: Reply) -> Script:
    """Answer one after the other; the last stays."""
    waiting = list(replies)
    return lambda _heard: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def by_object(scripts: Mapping[str, Script], other: Script | None = None) -> Script:
    """Answer updates of these objects by scripts of their own."""
    return lambda heard: scripts.get(heard.object_id, other or always(accept()))(heard)


def _subscribed(heard: Heard) -> Reply:
    return accept({"max_queue_size": heard.json.get("max_queue_size", 1000)})


_CLOSING: Final = web.AppKey("closing", asyncio.Event)

# -- answers of the engine --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the engine answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def code(self) -> int:
        """The envelope's status code."""
        code: int = self.json["status_code"]
        return code

    @property
    def data(self) -> Any:
        """The envelope's data."""
        return self.json.get("data")

    @property
    def fields(self) -> set[str]:
        """The fields that a 2001 complains about."""
        return {problem["field"] for problem in self.data}


# -- the peer -----------------------------------------------------------------------------------------------

_numbers = itertools.count(1)
_codes = ("".join(letters) for letters in itertools.product("ABCDEFGHJKLMNPQRSTUVWXYZ", repeat=3))


def _code() -> str:
    """Make the last three characters of a Party ID that no other test has."""
    return next(_codes)


class Peer:
    """One scripted platform. ``parties`` maps the ids that it serves to their roles, as ``module:SIDE``."""

    def __init__(self, folder: Path, *, parties: Mapping[str, Iterable[str]], hub: str | None = None) -> None:
        number = next(_numbers)
        self.identity = f"peer{number}.example.org"
        self.folder = folder / self.identity
        self.port = free_port()
        self.base_url = f"https://{HOST}:{self.port}/ocpi"
        self.timeout_ms = TIMEOUT_MS
        self.parties = {party: tuple(roles) for party, roles in parties.items()}
        self.hub = hub
        self.script: dict[str, Script] = {
            SUBSCRIBE: _subscribed,
            "state": always(accept({"retry_interval": 1, "current_queue_size": 0, "max_queue_size": 1000})),
            "renegotiate-my-subscription": always(accept("ACCEPTED")),
            "renegotiate-your-subscription": always(accept("ACCEPTED")),
            "/connection": lambda _heard: bare({"request_timeout": self.timeout_ms}),
            "/parties": lambda _heard: bare(self.platform_parties()),
            "/versions": lambda _heard: bare({"versions": [{"version": "3.0", "url": self.base_url}]}),
        }
        self.requests: list[Heard] = []
        self.engine: Platform
        self.client_files: certificates.Files
        self._observers: dict[tuple[str, str, str], Observer] = {}
        self._something = asyncio.Event()
        self._closing = asyncio.Event()
        self._connections: dict[Any, int] = {}  # by the caller's address and port
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    # -- being a platform -----------------------------------------------------------------------------------

    @property
    def party(self) -> str:
        """The first party that it serves."""
        return next(iter(self.parties))

    def platform_parties(self) -> dict[str, Any]:
        """What it answers to ``GET /parties``."""
        listed = [
            {
                "party_id": party,
                "roles": [dict(zip(("module", "side"), role.split(":"), strict=True)) for role in roles],
                "business_details": {"name": party},
            }
            for party, roles in self.parties.items()
        ]
        return {"parties": listed} | ({"hub_party_id": self.hub} if self.hub else {})

    async def listen(self) -> None:
        """Make keys, and serve."""
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            now = time.time()
            self.clients = Authority.create(f"clients of {self.identity}", now=now, purpose=Purpose.CLIENT)
            servers = Authority.create(f"server of {self.identity}", now=now, purpose=Purpose.SERVER)
            self.server_ca = servers.certificate_pem.decode()
            (self.folder / "clients.pem").write_bytes(self.clients.certificate_pem)
            self.server_files = certificates.server(servers, HOST, now=now).save(self.folder, "server")
        self._closing = asyncio.Event()
        app = web.Application(client_max_size=BODY_MAX_BYTES)
        app[_CLOSING] = self._closing
        app.router.add_route("*", "/{any:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        context = tls.server_context(
            chain_file=self.server_files.chain_file,
            key_file=self.server_files.key_file,
            client_ca_file=self.folder / "clients.pem",
        )
        await web.TCPSite(self._runner, HOST, self.port, ssl_context=context).start()

    async def close(self) -> None:
        """Stop listening: from now on connections are refused. ``listen`` opens again."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def stop(self) -> None:
        """End everything."""
        await self.close()
        if self._session is not None:
            await self._session.close()

    # -- registration -----------------------------------------------------------------------------------------

    async def exchange_certificates(self, engine: Platform) -> None:
        """Have certificates signed both ways through the engine's local API (UC 01.01)."""
        self.engine = engine
        key, csr = make_request(self.identity)
        async with engine.api() as api:
            order: dict[str, Any] = {"csr": csr.decode(), "confirmed": True, "server_ca": self.server_ca}
            signed = (await api.post("/api/v1/certificates/sign", json=order)).raise_for_status().json()
            self.client_files = certificates.Identity(key, signed["chain"].encode()).save(self.folder, "client")
            order = {"platform": self.identity}
            asked = (await api.post("/api/v1/certificates/request", json=order)).raise_for_status().json()
            issued = self.clients.issue_client(check_request(asked["csr"].encode()), now=time.time())
            order |= {"chain": issued.pem_chain.decode(), "server_ca": self.server_ca}
            (await api.post("/api/v1/certificates/install", json=order)).raise_for_status()

    async def register(self, engine: Platform, *, by_engine: bool = False) -> None:
        """Connect: certificates, handshake from either side, and each knows the other's parties (UC 01.01 to 02.01)."""
        await self.exchange_certificates(engine)
        if by_engine:
            async with engine.api() as api:
                order = {"base_url": self.base_url}
                (await api.post(f"/api/v1/platforms/{self.identity}/connect", json=order)).raise_for_status()
        else:
            offer = {"version": "3.0", "request_timeout": self.timeout_ms, "base_url": self.base_url}
            answer = await self.ask("POST", "/connection", offer)
            assert answer.status == 200, answer
        await self.ask("GET", "/parties")
        await self.refresh_parties()

    async def refresh_parties(self) -> None:
        """Have the engine fetch the parties now; we are the test's process, and may be too busy to answer in time."""
        async with self.engine.api() as api:
            for left in (2, 1, 0):
                answer = await api.post(f"/api/v1/platforms/{self.identity}/parties/refresh")
                if answer.status_code != httpx.codes.GATEWAY_TIMEOUT or not left:
                    answer.raise_for_status()
                    return

    def client_context(self) -> ssl.SSLContext:
        """Make the context that the engine is spoken to with."""
        files = self.client_files
        return tls.client_context(
            chain_file=files.chain_file, key_file=files.key_file, server_ca_file=self.engine.server_ca
        )

    async def use(self, files: certificates.Files) -> None:
        """Show another client certificate from now on."""
        self.client_files = files
        if self._session is not None:
            await self._session.close()
            self._session = None

    # -- hearing ----------------------------------------------------------------------------------------------

    def watch(
        self,
        producer: str,
        subscriber: str,
        module: str,
        *,
        limit: int = 1,
        retry_interval_s: float = 0.05,
        transit_s: float = TRANSIT_S,
    ) -> Observer:
        """Put an observer beside the updates of one subscription."""
        timeout_s = self.timeout_ms / 1000 - transit_s
        observer = Observer(parallelism_limit=limit, retry_interval_s=retry_interval_s, timeout_s=timeout_s)
        self._observers[producer, subscriber, module] = observer
        return observer

    def of(self, operation: str, *, object_id: str | None = None, module: str | None = None) -> list[Heard]:
        """What was heard of one operation, in the order of arrival."""
        return [
            heard
            for heard in self.requests
            if heard.operation == operation
            and (module is None or heard.module == module)
            and (object_id is None or heard.object_id == object_id)
        ]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; looks again at each request and each answer."""
        async with asyncio.timeout(HEARD_WITHIN_S):
            while not holds():
                self._something.clear()
                await self._something.wait()

    async def heard(
        self, operation: str, count: int = 1, *, object_id: str | None = None, module: str | None = None
    ) -> list[Heard]:
        """Wait until an operation was asked for so many times."""
        await self.until(lambda: len(self.of(operation, object_id=object_id, module=module)) >= count)
        return self.of(operation, object_id=object_id, module=module)

    async def updated(self, ids: Iterable[str]) -> None:
        """Wait until an update of each of these objects was answered."""
        wanted = set(ids)
        await self.until(lambda: wanted <= {u.object_id for u in self.of("update") if u.answered_at is not None})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        loop = asyncio.get_running_loop()
        at = loop.time()
        body = await request.read()
        certificate = request.get_extra_info("peercert") or {}
        subject = dict(pair for names in certificate.get("subject", ()) for pair in names)
        peername = request.get_extra_info("peername")
        connection = self._connections.setdefault(peername, len(self._connections) + 1)
        prefix = URL(self.base_url).path
        heard = Heard(
            request.method,
            request.raw_path.removeprefix(prefix),
            request.headers,
            body,
            at,
            connection,
            subject.get("commonName", ""),
            certificate.get("serialNumber", "").lower().lstrip("0"),
        )
        observer = self._observers.get((heard.sender, heard.receiver, heard.module))
        seen = observer.begin(body) if observer is not None and heard.operation == "update" else None
        self.requests.append(heard)
        self._something.set()
        script = self.script.get(heard.operation)
        reply = accept() if script is None else script(heard)
        if reply.after is not None:
            await reply.after.wait()
        if observer is not None and seen is not None:
            _observe(observer, seen, reply, body)
        heard.answered_at = loop.time()
        self._something.set()
        if reply.behave is not None:
            return await reply.behave(heard, request)
        return web.Response(status=reply.status, body=reply.body, headers=reply.headers)

    # -- asking -----------------------------------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask the engine; ``path`` goes as it is below its base path. A body of bytes goes as it is, too."""
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self.client_context(), limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(HEARD_WITHIN_S))
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = dict(headers or {})
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        url = URL(self.engine.base_url + path, encoded=True)
        stream = None if data is None else io.BytesIO(data)
        async with self._session.request(method, url, data=stream, headers=sent, allow_redirects=False) as answer:
            return Answer(answer.status, answer.headers, await answer.read())

    async def request(
        self,
        producer_or_subscriber: str,
        module: str,
        operation: str = SUBSCRIBE,
        body: Any = None,
        *,
        method: str = "POST",
        sender: str | None = None,
    ) -> Answer:
        """Ask one of the engine's parties, as the first party or as ``sender``."""
        tail = f"/{operation}" if operation else ""
        path = f"/from/{sender or self.party}/to/{producer_or_subscriber}/{module}{tail}"
        return await self.ask(method, path, body)

    async def subscribe(self, producer: str, module: str, *, sender: str | None = None, **fields: Any) -> Answer:
        """Subscribe at the engine; without fields with a small retry interval and room for a thousand."""
        body = {"retry_interval": 0.05, "max_queue_size": 1000} | fields
        return await self.request(producer, module, SUBSCRIBE, body, sender=sender)

    async def update(
        self,
        receiver: str,
        module: str,
        object_id: str,
        version: Any,
        payload: bytes,
        *,
        issuer: str | None = None,
        sender: str | None = None,
    ) -> Answer:
        """Send an update to the engine, its payload byte for byte."""
        who = sender or self.party
        body = update_body(issuer or who, object_id, version, payload)
        return await self.request(receiver, module, "update", body, sender=who)


def update_body(issuer: Any, object_id: Any, version: Any, payload: bytes) -> bytes:
    """Write a PartyIssuedObjectUpdate; a version of bytes stands there as it is."""
    number = version if isinstance(version, bytes) else json.dumps(version).encode()
    return b'{"issuer_party":%b,"id":%b,"version":%b,"payload":%b}' % (
        json.dumps(issuer).encode(),
        json.dumps(object_id).encode(),
        number,
        payload,
    )


def _observe(observer: Observer, seen: Seen, reply: Reply, body: bytes) -> None:
    """Tell the observer what is about to be answered."""
    if reply.stored or (reply.stored is None and reply.is_success):
        observer.take(seen, body)
    if reply.behave is not None and not reply.answered:
        observer.unanswered(seen)
    else:
        observer.answered(seen, success=reply.is_success or reply.code in FINAL_CODES - {1000})


# -- around it ----------------------------------------------------------------------------------------------


class World:
    """One engine process, and scripted partners and parties of their own for each test that asks for some."""

    def __init__(self, engine: Platform, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self._peers: list[Peer] = []

    async def new_party(self, *roles: str) -> str:
        """Have the engine host another party, in these roles (``CPO`` if none)."""
        party = f"BE{_code()}"
        async with self.engine.api() as api:
            order = {"party_id": party, "roles": list(roles or ("CPO",))}
            (await api.post("/api/v1/parties", json=order)).raise_for_status()
        return party

    async def new_peer(
        self, *parties: str, roles: Sequence[str] = (), hub: str | None = None, by_engine: bool = False
    ) -> Peer:
        """Register another partner that serves these parties, or one party if none is named."""
        peer = await self.new_stranger(*parties, roles=roles, hub=hub)
        await peer.register(self.engine, by_engine=by_engine)
        return peer

    async def new_stranger(self, *parties: str, roles: Sequence[str] = (), hub: str | None = None) -> Peer:
        """Have another partner listen that the engine has not heard of."""
        named = parties or (f"NL{_code()}",)
        peer = Peer(self.folder, parties=dict.fromkeys(named, roles), hub=hub)
        self._peers.append(peer)
        await peer.listen()
        return peer

    async def publish(
        self, party: str, module: str, objects: Mapping[str, bytes], *, audience: Sequence[str] | None = None
    ) -> dict[str, int]:
        """Publish payloads by id, byte for byte; returns the versions that they got."""
        shown = b"" if audience is None else b',"audience":%b' % json.dumps(audience).encode()
        each = (b'{"id":%b,"payload":%b%b}' % (json.dumps(i).encode(), p, shown) for i, p in objects.items())
        answer = await self.api(
            "POST",
            f"/parties/{party}/objects/{module}",
            content=b"[%b]" % b",".join(each),
            headers={"Content-Type": "application/json"},
        )
        assert answer["refused"] == 0, answer
        return {result["id"]: result["version"] for result in answer["results"]}

    async def api(self, method: str, path: str, order: Any = None, **more: Any) -> Any:
        """Ask the local API as the operator; expects success."""
        async with self.engine.api() as api:
            if order is not None:
                more["json"] = order
            answer = await api.request(method, f"/api/v1{path}", **more)
            assert answer.is_success, answer.text
            return answer.json() if answer.content else None

    async def here(self, producer: str, module: str = "evsestatuses") -> dict[str, Any]:
        """Show the one subscription of a partner to a party of ours, as the state endpoint has it."""
        listed = (await self.engine.state())["subscriptions_here"]
        (found,) = [one for one in listed if (one["producer"], one["module"]) == (producer, module)]
        return dict(found)

    async def ours(self, subscriber: str, module: str = "evsestatuses") -> dict[str, Any]:
        """Show the one subscription of a party of ours, as the state endpoint has it."""
        listed = (await self.engine.state())["subscriptions_of_ours"]
        (found,) = [one for one in listed if (one["subscriber"], one["module"]) == (subscriber, module)]
        return dict(found)

    async def when_here(self, producer: str, **values: Any) -> dict[str, Any]:
        """Wait until the one subscription to a party of ours shows these values."""
        return await _when(lambda: self.here(producer), values)

    async def when_ours(self, subscriber: str, **values: Any) -> dict[str, Any]:
        """Wait until the one subscription of a party of ours shows these values."""
        return await _when(lambda: self.ours(subscriber), values)

    async def received(self, module: str, receiver: str) -> dict[str, tuple[int, bytes]]:
        """Read what a party of ours received: version and payload by id."""
        async with self.engine.api() as api:
            answer = await api.get(f"/api/v1/received/{module}", params={"receiver": receiver, "limit": 1000})
            assert answer.is_success, answer.text
        page = msgspec.json.decode(answer.content, type=dict[str, msgspec.Raw])["objects"]
        objects = msgspec.json.decode(page, type=list[dict[str, msgspec.Raw]])
        return {
            json.loads(bytes(one["id"])): (json.loads(bytes(one["version"])), bytes(one["payload"])) for one in objects
        }

    async def stop_peers(self) -> None:
        """End the partners that were made since this was last called, and their connections."""
        peers, self._peers = self._peers, []
        async with self.engine.api() as api:
            for peer in peers:
                await peer.stop()
                await api.post(f"/api/v1/platforms/{peer.identity}/reset", json={})


async def _when(look: Callable[[], Awaitable[dict[str, Any]]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Look until these values are shown; nobody signals what the state endpoint would show."""
    found: dict[str, Any] = {}
    try:
        async with asyncio.timeout(HEARD_WITHIN_S):
            while (found := await look()) | dict(values) != found:
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never {values}: {found}") from None
    return found


@asynccontextmanager
async def world(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    made_with: Sequence[str] = (),
    served_with: Sequence[str] = (),
    backing: Backing = EMBEDDED,
    kind: type[Platform] = Platform,
) -> AsyncIterator[World]:
    """Run one engine with settings that make tests quick; scripted partners come and go.

    ``made_with`` and ``served_with`` are further options of ``init`` and ``serve``; ``kind`` is how it is run.
    """
    quick = {
        "OCPI_ENGINE_PEERS__REQUEST_TIMEOUT_MS": "5000",
        "OCPI_ENGINE_PEERS__PARTIES_REFRESH_MIN_S": "0",
        "OCPI_ENGINE_SUBSCRIPTIONS__ASK_AGAIN_S": "0.1",
        "OCPI_ENGINE_SUBSCRIPTIONS__OVERFLOW_AGAIN_S": "0.1",
        "OCPI_ENGINE_REPLICATION__PROBE_PAUSE_MAX_S": "0.2",
        "OCPI_ENGINE_REPLICATION__OVERFLOW_CHECK_S": "0.1",
        "OCPI_ENGINE_REPLICATION__STOP_DEADLINE_S": "2",
    } | dict(settings or {})
    async with backing.place() as place:
        engine = kind(
            folder / "engine",
            identity="engine.example.org",
            party="BEBEC",
            role="CPO",
            settings=quick,
            made_with=made_with,
            place=place,
        )
        engine.served_with = served_with
        try:
            await engine.make()
            await engine.start()
            made = World(engine, folder)
            try:
                yield made
            finally:
                await made.stop_peers()
                if served_with:
                    await engine.stop()  # killed, a supervisor would leave its processes to end later
        finally:
            await engine.kill()
