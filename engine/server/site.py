"""The listener that partners talk to: mutual TLS, HTTP/1.1, one place where errors become envelopes.

::

    accept ─▶ TLS handshake ─▶ head ─▶ who calls? ─▶ which path? ─▶ body ─▶ handler ─▶ answer
      │            │             │         │             │            │         │
    too many    no, or not     too slow  403          404, 405     413, 408   OcpiError → envelope
    → closed    our certificate  408     (B42)         (B17)         429      anything else → 500, logged
                → TLS alert      400

Every wait has a limit, and every limit ends in an answer or a closed connection, never in a 500. What a limit costs
the one that runs into it costs nobody else anything: each connection has its own task and nothing is shared but
the counters.

aiohttp parses and keeps connections alive; there is no aiohttp application, router or middleware here, since those
would cost as much again as the parsing. An answer is written as one piece of bytes.
"""

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from engine import logs
from engine.clock import Clock, ocpi_time
from engine.lifecycle import Background
from engine.protocol.addressing import (
    CORRELATION_ID_HEADER,
    CORRELATION_ID_HEADER_READ_TOO,
    REQUEST_ID_HEADER,
    REQUEST_ID_HEADER_READ_TOO,
    PartyPath,
    PlatformPath,
    acceptable_id,
    parse_path,
)
from engine.protocol.errors import (
    ClientError,
    Forbidden,
    MalformedBody,
    NotFound,
    OcpiError,
    ServerError,
    TooLarge,
    TooMany,
    TooSlow,
    Unavailable,
)
from engine.server.addressing import PartyRequests
from engine.server.exchange import (
    ANY,
    CONNECTED,
    Answer,
    Caller,
    Directory,
    Handler,
    Inbound,
    Routes,
    VerbNotServed,
    refusal,
    wrong_verb,
)
from engine.settings import Listener
from engine.store.database import StoreUnavailable

_log = logging.getLogger(__name__)

LINGER_S: Final = 1.0  # a peer whose body is not read gets the answer before the connection is gone
TLS_GOODBYE_S: Final = 2.0  # for the peer's close_notify, which nobody waits for in vain
BACKLOG: Final = 512  # connections that the kernel keeps while the loop is busy: all partners at once after a restart
HEAD_LINE_MAX: Final = 8190  # characters of the request line, and of each header
HEADERS_MAX: Final = 100  # a request of this protocol has about eight
PATHS_CACHED_MAX: Final = 4096  # parties times modules times operations that are in use at once
CHUNK_BYTES: Final = 64 * 1024  # read ahead of the handler, for each connection
STOP_DEADLINE_S: Final = 10.0  # requests in progress get this long when the site stops

# What a platform may ask for that is not connected: to be connected (B42), and in which versions it can be (01.06).
HANDSHAKE: Final = ("connection",)
BEFORE_CONNECTION: Final = frozenset({HANDSHAKE, ("versions",)})

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}
CLOSE: Final = "Connection: close\r\n"
STRANGERS_SHARE_S: Final = 1.0  # failed handshakes within this share one line of the log


class Unreadable(ClientError):
    """This is not an HTTP request that can be read."""

    http_status = 400


class HeadTooLarge(ClientError):
    """The request line or a header is too long."""

    http_status = 431


class _Written(web.StreamResponse):
    """An answer as the bytes that go out. aiohttp asks it for ``prepare``, ``write_eof`` and ``keep_alive`` only."""

    def __init__(self, data: bytes, *, keep_alive: bool, drain_timeout_s: float) -> None:
        # The base class would build headers, a status and a state that nobody looks at.
        self._data = data
        self._keep_alive = keep_alive
        self._drain_timeout_s = drain_timeout_s

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything at once; wait, but not for ever, for a peer that does not read."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the peer hung up before the answer")
        transport.write(self._data)
        if request.protocol.writing_paused:
            try:
                async with asyncio.timeout(self._drain_timeout_s):
                    await request.writer.drain()
            except TimeoutError:
                transport.abort()
                raise ConnectionResetError("the peer does not read its answers") from None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class _Connection(web.RequestHandler):
    """One connection: aiohttp's, with a limit on the time that a head takes, and the certificate behind it."""

    serial = ""
    common_name = ""
    _head_timer: asyncio.TimerHandle | None = None

    def __init__(self, site: "Site", server: web.Server, **limits: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **limits)
        self.site = site

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who it is, and begin to wait for a first request."""
        super().connection_made(transport)
        self.site.connection_began(self)
        certificate = transport.get_extra_info("peercert") or {}
        self.serial = certificate.get("serialNumber", "").lstrip("0").lower()
        names = [value for name in certificate.get("subject", ()) for key, value in name if key == "commonName"]
        self.common_name = names[0] if len(names) == 1 else ""
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the timer."""
        self._head_came()
        self.site.connection_ended(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; where that does not complete a head, the time for one is running."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            if self._head_timer is not None:
                self._head_came()
        elif self._head_timer is None and not self._request_in_progress and not self._messages:
            self._await_head()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - what could be read of it tells nothing
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - may hold what the peer sent
    ) -> web.StreamResponse:
        """Answer what could not be parsed."""
        return self.site.unreadable(exc, status)

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self.site.settings.head_timeout_s, self._head_is_late)

    def _head_came(self) -> None:
        timer, self._head_timer = self._head_timer, None
        if timer is not None:
            timer.cancel()

    def _head_is_late(self) -> None:
        self._head_timer = None
        transport = self.transport
        if transport is None or self._request_in_progress or self._messages:
            return
        error = TooSlow("the head of the request did not arrive in time")
        answer = self.site.refused(error)
        transport.write(self.site.written(answer, logs.new_id(), logs.new_id(), keep_alive=False))
        self.force_close()


class Site:
    """Serves partners. A service: ``start`` returns when it listens, ``stop`` when the last answer is out."""

    def __init__(
        self,
        settings: Listener,
        *,
        prefix: str,
        context: ssl.SSLContext,
        directory: Directory,
        routes: Routes,
        party: PartyRequests,
        clock: Clock,
    ) -> None:
        """Take what is served; ``prefix`` is the path that requests arrive with, without a slash at its end."""
        self.settings = settings
        self._prefix = prefix
        self._context = context
        self._directory = directory
        self._routes = dict(routes)
        self._party = party
        self._clock = clock
        self._server: web.Server | None = None
        self._sockets: list[socket.socket] = []
        self._acceptors: list[Background] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._connections: set[_Connection] = set()
        self._in_progress: dict[int, int] = {}
        self._paths: dict[str, PlatformPath | PartyPath] = {}
        self._stopping = False
        self._stranger_logged_at = -math.inf
        self._date_of, self._date_text = 0, ""
        self._limits: dict[str, Any] = {
            "keepalive_timeout": settings.idle_timeout_s,
            "access_log": None,
            "max_line_size": HEAD_LINE_MAX,
            "max_field_size": HEAD_LINE_MAX,
            "max_headers": HEADERS_MAX,
            "lingering_time": LINGER_S,
            "read_bufsize": CHUNK_BYTES,
            "auto_decompress": False,  # nothing in the draft compresses, and a bomb would be unpacked before it is seen
        }

    # -- what others call ---------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that is listened on; tests let the system choose one."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many connections there are, handshakes included."""
        return len(self._connections) + len(self._handshakes)

    def use(self, context: ssl.SSLContext) -> None:
        """Take another server certificate, from the next connection on."""
        self._context = context

    async def start(self) -> None:
        """Listen."""
        if self._sockets:
            return
        self._stopping = False
        self._server = web.Server(self._handle)
        await self._listen()
        for number, listening in enumerate(self._sockets):
            acceptor = Background(f"accept {number}", self._acceptor(listening))
            self._acceptors.append(acceptor)
            await acceptor.start()
        where = {"host": self.settings.host, "port": self.port}
        _log.info("listening for partners", extra={"action": "listening", **where})

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """Take no more requests, and wait for those in progress until the deadline."""
        self._stopping = True
        for acceptor in self._acceptors:
            await acceptor.stop()
        self._acceptors.clear()
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()
        for handshake in list(self._handshakes):
            handshake.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        server, self._server = self._server, None
        if server is not None:
            server.pre_shutdown()
            await server.shutdown(deadline_s)

    # -- connections --------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        port = self.settings.port
        found = await loop.getaddrinfo(
            self.settings.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            listening = socket.create_server((address[0], port), family=family, backlog=BACKLOG)
            listening.setblocking(False)  # noqa: FBT003 - the socket's own signature
            self._sockets.append(listening)
            port = self.port  # where the system chose, all addresses get the same

    def _acceptor(self, listening: socket.socket) -> Callable[[], Awaitable[None]]:
        async def accept() -> None:
            loop = asyncio.get_running_loop()
            while True:
                try:
                    accepted, address = await loop.sock_accept(listening)
                except ConnectionError:
                    continue  # gone before it was looked at
                # Counted from here, not from the end of the handshake: half-open ones cost as much.
                if self.connections >= self.settings.connections_max:
                    accepted.close()
                    self._tell_of_stranger("too_many_connections", "there are too many connections", address)
                    continue
                handshake = loop.create_task(self._handshake(accepted, address))
                self._handshakes.add(handshake)
                handshake.add_done_callback(self._handshakes.discard)

        return accept

    async def _handshake(self, accepted: socket.socket, address: Any) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self.settings.head_timeout_s,  # as slow as a head may be
                ssl_shutdown_timeout=TLS_GOODBYE_S,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            self._tell_of_stranger("tls_refused", "a TLS handshake failed", address, reason=reason)

    def _connection(self) -> _Connection:
        server = self._server
        if server is None:
            raise ConnectionAbortedError("the site has stopped")
        return _Connection(self, server, **self._limits)

    def connection_began(self, connection: _Connection) -> None:
        """Count a connection whose handshake is done."""
        self._connections.add(connection)

    def connection_ended(self, connection: _Connection) -> None:
        """Count it no more."""
        self._connections.discard(connection)

    def _tell_of_stranger(self, action: str, message: str, address: Any, **fields: str) -> None:
        """Log what someone did whom we cannot name; a storm of it is one line a second, and is counted in full."""
        now = self._clock.monotonic()
        if now - self._stranger_logged_at < STRANGERS_SHARE_S:
            logs.events.note(action, logs.UNKNOWN_PLATFORM, self._clock.now())
            return
        self._stranger_logged_at = now
        logs.security_event(action, message, address=address[0] if address else "", **fields)

    # -- requests -----------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever comes of it."""
        began = self._clock.monotonic()
        message = request._message  # noqa: SLF001 - the parsed head; its properties cost a cached object each
        headers = message.headers
        request_id = acceptable_id(headers.get(REQUEST_ID_HEADER))
        request_id = request_id or acceptable_id(headers.get(REQUEST_ID_HEADER_READ_TOO)) or logs.new_id()
        correlation_id = acceptable_id(headers.get(CORRELATION_ID_HEADER))
        correlation_id = correlation_id or acceptable_id(headers.get(CORRELATION_ID_HEADER_READ_TOO)) or logs.new_id()
        logs.enter(request_id, correlation_id, request.protocol.common_name)  # type: ignore[attr-defined]
        extra = ""
        try:
            answer = await self._answer(request, message, request_id, correlation_id)
        except OcpiError as error:
            answer = self.refused(error)
            if isinstance(error, VerbNotServed):
                extra = f"Allow: {error.allowed}\r\n"
        except StoreUnavailable:
            _log.exception("the store is out of order", extra={"action": "store_unavailable"})
            answer = self.refused(Unavailable())
        except Exception:  # noqa: BLE001 - the one place where whatever a handler forgot is answered; no trace leaves
            _log.exception("a request failed here", extra={"action": "request_failed"})
            answer = self.refused(ServerError())
        keep_alive = not (message.should_close or self._stopping) and message.version == HttpVersion11
        keep_alive = keep_alive and request.content.is_eof()  # what was not read stands between us and the next head
        self._tell(message, answer, began)
        data = self.written(answer, request_id, correlation_id, keep_alive=keep_alive, extra=extra)
        if message.method == "HEAD":
            data = data[: len(data) - len(answer.body)]
        return _Written(data, keep_alive=keep_alive, drain_timeout_s=self.settings.body_timeout_s)

    async def _answer(
        self, request: web.BaseRequest, message: RawRequestMessage, request_id: str, correlation_id: str
    ) -> Answer:
        connection: _Connection = request.protocol  # type: ignore[assignment]
        caller = self._caller(connection)
        path = self._paths.get(message.path) or self._parse(message)
        if caller.state != CONNECTED:
            if path.segments not in BEFORE_CONNECTION:
                raise Forbidden("your platform is not connected to this one: POST /connection comes first")
        elif path.segments != HANDSHAKE:
            self._directory.heard(caller.platform_id)
        in_progress = self._in_progress
        count = in_progress.get(caller.platform_id, 0)
        if count >= self.settings.requests_per_platform_max:
            raise TooMany
        in_progress[caller.platform_id] = count + 1
        try:
            payload = request.content
            body = payload.read_nowait() if payload.is_eof() else await self._read(request, message)
            if len(body) > self.settings.body_max_bytes:
                raise TooLarge
            if isinstance(path, PartyPath):
                return await self._party.answer(
                    Inbound(
                        caller,
                        message.method,
                        path.segments,
                        body,
                        request_id,
                        correlation_id,
                        path.sender,
                        path.receiver,
                    )
                )
            verbs = self._verbs(path.segments)
            handler = verbs.get(message.method)
            if handler is None:
                raise wrong_verb(verbs, body)
            return await handler(Inbound(caller, message.method, path.segments, body, request_id, correlation_id))
        finally:
            self._leave(caller.platform_id)

    def _caller(self, connection: "_Connection") -> Caller:
        try:
            return self._directory.caller(connection.serial, connection.common_name)
        except Forbidden as error:
            logs.security_event("certificate_refused", error.message, serial=connection.serial)
            raise

    def _parse(self, message: RawRequestMessage) -> PlatformPath | PartyPath:
        target = message.path
        # RFC 9112 has servers take the absolute form too; whose authority it names is the proxy's business.
        path = parse_path(target if target.startswith("/") else message.url.raw_path, self._prefix)
        if len(self._paths) >= PATHS_CACHED_MAX:
            self._paths.clear()
        self._paths[target] = path
        return path

    def _leave(self, platform_id: int) -> None:
        left = self._in_progress[platform_id] - 1
        if left:
            self._in_progress[platform_id] = left
        else:
            del self._in_progress[platform_id]

    def _verbs(self, segments: tuple[str, ...]) -> Mapping[str, Handler]:
        """Look up a platform-level path, one with a free last segment included."""
        verbs = self._routes.get(segments) or self._routes.get((*segments[:-1], ANY))
        if not verbs:
            raise NotFound
        return verbs

    async def _read(self, request: web.BaseRequest, message: RawRequestMessage) -> bytes:
        """Read a body that has not come in whole with its head, within the limits of size and time."""
        headers = message.headers
        length = headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self.settings.body_max_bytes:
            raise TooLarge
        if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self.settings.body_max_bytes:
                        raise TooLarge
        except TimeoutError:
            raise TooSlow("the body of the request did not arrive in time") from None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise MalformedBody("the body of the request was cut off or badly framed") from None
        return bytes(body)

    # -- answers ------------------------------------------------------------------------------------------

    def refused(self, error: OcpiError) -> Answer:
        """Turn what was raised into an answer: the only place where that is done."""
        return refusal(error, ocpi_time(self._clock.now()))

    def unreadable(self, exc: BaseException | None, status: int) -> web.StreamResponse:
        """Answer what is not HTTP as we read it, and close."""
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _log.error("a request failed outside of its handler", extra={"action": "request_failed"}, exc_info=exc)
            error: OcpiError = ServerError()
        elif isinstance(exc, LineTooLong):
            error = HeadTooLarge()
        else:
            error = Unreadable()
        _log.info("a request could not be read", extra={"action": "unreadable", "reason": type(exc).__name__})
        data = self.written(self.refused(error), logs.new_id(), logs.new_id(), keep_alive=False)
        return _Written(data, keep_alive=False, drain_timeout_s=self.settings.body_timeout_s)

    def written(
        self, answer: Answer, request_id: str, correlation_id: str, *, keep_alive: bool, extra: str = ""
    ) -> bytes:
        """Write head and body as they go out (R.02.02.15, R.02.02.16)."""
        status, body = answer.http_status, answer.body
        head = (
            f"HTTP/1.1 {status} {_REASONS.get(status, '')}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nDate: {self._date()}\r\n"
            f"{REQUEST_ID_HEADER}: {request_id}\r\n{CORRELATION_ID_HEADER}: {correlation_id}\r\n"
            f"{extra}{'' if keep_alive else CLOSE}\r\n"
        )
        return head.encode("ascii") + body

    def _date(self) -> str:
        second = int(self._clock.now())
        if second != self._date_of:
            self._date_of, self._date_text = second, formatdate(second, usegmt=True)
        return self._date_text

    def _tell(self, message: RawRequestMessage, answer: Answer, began: float) -> None:
        """Log one line: of the few requests between platforms always, of those between parties when asked to."""
        between_parties = isinstance(self._paths.get(message.path), PartyPath)
        level = logging.DEBUG if between_parties else logging.INFO
        if not _log.isEnabledFor(level):
            return
        fields = {
            "action": "request",
            "method": message.method,
            "path": message.path[:200],
            "status": answer.http_status,
            "duration_ms": round((self._clock.monotonic() - began) * 1000, 1),
        }
        _log.log(level, "request answered", extra=fields)
