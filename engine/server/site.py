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

Behind a proxy that ends TLS (``proxy``) the handshake is left out, or is one without a client certificate, and "who
calls?" is asked of a header of each request.

A connection is of our own making (``connection``): aiohttp's server, application and router would cost more for each
update than everything else here. An answer is written as one piece of bytes.
"""

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from aiohttp.http import HttpProcessingError, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

from certs import names
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
from engine.server.connection import TLS_GOODBYE_S, BadBody, Connection
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
from engine.server.proxy import Proxy
from engine.settings import Listener
from engine.store.database import StoreUnavailable

_log = logging.getLogger(__name__)

BACKLOG: Final = 512  # connections that the kernel keeps while the loop is busy: all partners at once after a restart
PATHS_CACHED_MAX: Final = 4096  # parties times modules times operations that are in use at once
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


class Site:
    """Serves partners. A service: ``start`` returns when it listens, ``stop`` when the last answer is out."""

    def __init__(
        self,
        settings: Listener,
        *,
        prefix: str,
        context: ssl.SSLContext | None,
        directory: Directory,
        routes: Routes,
        party: PartyRequests,
        clock: Clock,
        proxy: Proxy | None = None,
        listening: Sequence[socket.socket] = (),
    ) -> None:
        """Take what is served; ``prefix`` is the path that requests arrive with, without a slash at its end.

        Without a context it is served in plain HTTP, which is for a ``proxy`` that ends TLS. ``listening`` are
        sockets that several processes share; without them, the site opens its own.
        """
        self.settings = settings
        self._proxy = proxy
        self._prefix = prefix
        self._context = context
        self._directory = directory
        self._routes = dict(routes)
        self._party = party
        self._clock = clock
        self._shared = listening
        self._sockets: list[socket.socket] = []
        self._acceptors: list[Background] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self._orphans: set[asyncio.Task[None]] = set()  # handlers whose peer hung up: what was begun is stored
        self._in_progress: dict[int, int] = {}
        self._paths: dict[str, PlatformPath | PartyPath] = {}
        self._stopping = False
        self._stranger_logged_at = -math.inf
        self._date_of, self._date_text = 0, ""

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
        self._sockets = list(self._shared) or listen(self.settings)
        for number, listening in enumerate(self._sockets):
            acceptor = Background(f"accept {number}", self._acceptor(listening))
            self._acceptors.append(acceptor)
            await acceptor.start()
        where = {"host": self.settings.host, "port": self.port, "tls": self._context is not None}
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
        for connection in list(self._connections):
            connection.finish()
        serving = [*self._orphans, *(each.serving for each in self._connections if each.serving is not None)]
        if serving:
            _, late = await asyncio.wait(serving, timeout=deadline_s)
            for task in late:
                task.cancel()
        await self._wait_for_the_end()
        for connection in list(self._connections):
            connection.abort()
        await self._wait_for_the_end()

    async def _wait_for_the_end(self) -> None:
        if self._connections:
            await asyncio.wait([connection.lost for connection in self._connections], timeout=TLS_GOODBYE_S)

    # -- connections --------------------------------------------------------------------------------------

    def _acceptor(self, listening: socket.socket) -> Callable[[], Awaitable[None]]:
        async def accept() -> None:
            loop = asyncio.get_running_loop()
            while True:
                try:
                    accepted, found = await loop.sock_accept(listening)
                except ConnectionError:
                    continue  # gone before it was looked at
                address = found[0] if found else ""
                # Counted from here, not from the end of the handshake: half-open ones cost as much.
                if self.connections >= self.settings.connections_max:
                    accepted.close()
                    self._tell_of_stranger("too_many_connections", "there are too many connections", address)
                    continue
                handshake = loop.create_task(self._handshake(accepted, address))
                self._handshakes.add(handshake)
                handshake.add_done_callback(self._handshakes.discard)

        return accept

    async def _handshake(self, accepted: socket.socket, address: str) -> None:
        trusted = self._proxy is None or self._proxy.is_at(address)
        tls = self._context is not None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(self, address=address, trusted=trusted),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self.settings.head_timeout_s if tls else None,  # as slow as a head may be
                ssl_shutdown_timeout=TLS_GOODBYE_S if tls else None,
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
            self._tell_of_stranger("tls_refused", "a TLS handshake failed", address, reason=reason)

    def connection_began(self, connection: Connection) -> None:
        """Count a connection whose handshake is done."""
        self._connections.add(connection)

    def connection_ended(self, connection: Connection) -> None:
        """Count it no more."""
        self._connections.discard(connection)
        if connection.serving is not None:
            self._orphans.add(connection.serving)
            connection.serving.add_done_callback(self._orphans.discard)

    def _tell_of_stranger(self, action: str, message: str, address: str, **fields: str) -> None:
        """Log what someone did whom we cannot name; a storm of it is one line a second, and is counted in full."""
        now = self._clock.monotonic()
        if now - self._stranger_logged_at < STRANGERS_SHARE_S:
            logs.events.note(action, logs.UNKNOWN_PLATFORM, self._clock.now())
            return
        self._stranger_logged_at = now
        logs.security_event(action, message, address=address, **fields)

    # -- requests -----------------------------------------------------------------------------------------

    async def respond(
        self, connection: Connection, message: RawRequestMessage, payload: StreamReader
    ) -> tuple[bytes, bool]:
        """Answer one request, whatever comes of it; returns what to write, and whether the connection goes on."""
        began = self._clock.monotonic()
        headers = message.headers
        request_id = acceptable_id(headers.get(REQUEST_ID_HEADER))
        request_id = request_id or acceptable_id(headers.get(REQUEST_ID_HEADER_READ_TOO)) or logs.new_id()
        correlation_id = acceptable_id(headers.get(CORRELATION_ID_HEADER))
        correlation_id = correlation_id or acceptable_id(headers.get(CORRELATION_ID_HEADER_READ_TOO)) or logs.new_id()
        logs.enter(request_id, correlation_id, connection.common_name)
        extra = ""
        try:
            answer = await self._answer(connection, message, payload, request_id, correlation_id)
        except OcpiError as error:
            answer = self.refused(error)
            if isinstance(error, VerbNotServed):
                extra = f"Allow: {error.allowed}\r\n"
        except StoreUnavailable as error:
            # No trace: it would say nothing about the disk, and there is one for each request until there is room.
            _log.warning("the store is out of order: %s", error, extra={"action": "store_unavailable"})
            answer = self.refused(Unavailable())
        except Exception:  # noqa: BLE001 - the one place where whatever a handler forgot is answered; no trace leaves
            _log.exception("a request failed here", extra={"action": "request_failed"})
            answer = self.refused(ServerError())
        keep_alive = not (message.should_close or self._stopping) and message.version == HttpVersion11
        keep_alive = (
            keep_alive and payload.is_eof() and not message.upgrade and connection.trusted
        )  # what was not read stands between us and the next head
        self._tell(message, answer, began)
        data = self.written(answer, request_id, correlation_id, keep_alive=keep_alive, extra=extra)
        if message.method == "HEAD":
            data = data[: len(data) - len(answer.body)]
        return data, keep_alive

    async def _answer(
        self,
        connection: Connection,
        message: RawRequestMessage,
        payload: StreamReader,
        request_id: str,
        correlation_id: str,
    ) -> Answer:
        serial, common_name = connection.serial, connection.common_name
        if self._proxy is not None:
            serial, common_name = self._behind(self._proxy, connection, message)
            logs.enter(request_id, correlation_id, common_name)
        try:
            caller = self._directory.caller(serial, common_name)
        except Forbidden:
            caller = await self._look_again(serial, common_name)
        path = self._paths.get(message.path) or self._parse(message)
        if caller.state != CONNECTED and path.segments not in BEFORE_CONNECTION:
            caller = await self._look_again(serial, common_name)
            if caller.state != CONNECTED:
                raise Forbidden("your platform is not connected to this one: POST /connection comes first")
        if caller.state == CONNECTED and path.segments != HANDSHAKE:
            self._directory.heard(caller.platform_id)
        in_progress = self._in_progress
        count = in_progress.get(caller.platform_id, 0)
        if count >= self.settings.requests_per_platform_max:
            raise TooMany
        in_progress[caller.platform_id] = count + 1
        try:
            body = payload.read_nowait() if payload.is_eof() else await self._read(connection, message, payload)
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

    def _behind(self, proxy: Proxy, connection: Connection, message: RawRequestMessage) -> tuple[str, str]:
        """Ask the proxy for the serial number and the common name of the certificate behind a request."""
        if not connection.trusted:
            self._tell_of_stranger("proxy_bypassed", "a request did not come from the proxy", connection.address)
            raise Forbidden("requests are taken from this platform's proxy and from nobody else")
        try:
            certificate = proxy.certificate(message, self._clock.now())
        except Forbidden as error:
            self._tell_of_stranger("certificate_refused", error.message, connection.address)
            raise
        return names.serial_text(certificate.serial), certificate.common_name

    async def _look_again(self, serial: str, common_name: str) -> Caller:
        """Say who calls after another look: another process may have let this platform in a moment ago."""
        await self._directory.look_again()
        try:
            return self._directory.caller(serial, common_name)
        except Forbidden as error:
            logs.security_event("certificate_refused", error.message, serial=serial)
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

    async def _read(self, connection: Connection, message: RawRequestMessage, payload: StreamReader) -> bytes:
        """Read a body that has not come in whole with its head, within the limits of size and time."""
        headers = message.headers
        length = headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self.settings.body_max_bytes:
            raise TooLarge
        if headers.get("Expect", "").lower() == "100-continue":
            connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while chunk := await payload.readany():
                    body += chunk
                    if len(body) > self.settings.body_max_bytes:
                        raise TooLarge
        except TimeoutError:
            raise TooSlow("the body of the request did not arrive in time") from None
        except (BadBody, OSError):
            raise MalformedBody("the body of the request was cut off or badly framed") from None
        return bytes(body)

    # -- answers ------------------------------------------------------------------------------------------

    def refused(self, error: OcpiError) -> Answer:
        """Turn what was raised into an answer: the only place where that is done."""
        return refusal(error, ocpi_time(self._clock.now()))

    def unreadable(self, error: Exception) -> bytes:
        """Write the answer to what is not HTTP as we read it; the connection ends then."""
        if isinstance(error, HttpProcessingError):
            _log.info("a request could not be read", extra={"action": "unreadable", "reason": type(error).__name__})
        else:
            _log.error("the parser failed", extra={"action": "unreadable"}, exc_info=error)
        return self.alone(HeadTooLarge() if isinstance(error, LineTooLong) else Unreadable())

    def alone(self, error: OcpiError) -> bytes:
        """Write an answer to a request whose head was not read; the connection ends then."""
        return self.written(self.refused(error), logs.new_id(), logs.new_id(), keep_alive=False)

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


def listen(settings: Listener) -> list[socket.socket]:
    """Open a socket for each address of the host that is set; where the system chooses the port, all get the same.

    Raises ``OSError``.
    """
    opened: list[socket.socket] = []
    port = settings.port
    found = socket.getaddrinfo(settings.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    try:
        for family, address in dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found):
            listening = socket.create_server((address, port), family=family, backlog=BACKLOG)
            opened.append(listening)
            listening.setblocking(False)  # noqa: FBT003 - the socket's own signature
            port = int(listening.getsockname()[1])
    except OSError:
        for listening in opened:
            listening.close()
        raise
    return opened
