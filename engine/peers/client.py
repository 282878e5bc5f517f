"""Requests to partners, over pooled mutual-TLS connections for each platform.

::

    request ─▶ idle connection? ──yes──────────────────▶ write ─▶ head ─▶ body ─▶ PeerAnswer ─▶ idle again
                  │ no                                     ▲        │       │
                  └─▶ resolve ─▶ address allowed? ─▶ TLS ──┘        └───────┴──▶ PeerFailure, connection aborted

A request ends in one of two ways: a ``PeerAnswer``, whatever its status and body, or a ``PeerFailure`` that says what
went wrong and whether the peer may have received it (``sent``); that decides whether the object counts as in progress
there (R.03.02.17). Nothing is repeated here and no redirect is followed: whoever asks has a backoff of its own.

What is asked for lies below the platform's base URL and nowhere else (R.02.02.01); addresses that the public internet
does not route are refused, after resolving, unless the operator allows them. Every wait and every size has a limit.

Certificates change without a pause: ``use`` swaps a platform's session, and the connections of the old one close when
their requests have ended.

The connections are our own and only the parser is aiohttp's: its client session costs more for each update than all
the rest of a push, and it does not tell a request that never left from one that may have arrived.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from aiohttp.http import HttpResponseParser, RawResponseMessage
from aiohttp.streams import StreamReader

from engine import logs
from engine.protocol import envelope
from engine.protocol.addressing import CORRELATION_ID_HEADER, REQUEST_ID_HEADER, acceptable_id
from engine.protocol.envelope import OcpiResponse
from engine.protocol.errors import SUCCESS
from engine.settings import Peers as PeerSettings
from engine.settings import is_private

HTTPS_PORT: Final = 443
HEAD_LINE_MAX: Final = 8190  # characters of the status line, and of each header
HEADERS_MAX: Final = 100  # proxies add a dozen
INTERIM_MAX: Final = 8  # answers of 1xx before the real one; there is no reason for more than one
RESOLVERS_MAX: Final = 64  # threads that wait for name servers: one for each platform that is being resolved
RESOLVED_FOR_S: Final = 30.0  # an address is used again for this long; partners that move keep the old one that long
HANDSHAKES_MAX: Final = 8
"""Connections to one platform that are made at once. Hundreds would all be slow, and most are not needed any more
by the time they are ready, since requests were answered meanwhile; more than a few at a time gain nothing."""

HEADS_CACHED_MAX: Final = 1024  # paths in use at once towards one platform: parties, modules, operations
TLS_GOODBYE_S: Final = 1.0  # for the peer's close_notify
SHOWN_MAX: Final = 200  # characters of a stranger's answer that are kept to be shown

_SUCCESS: Final = range(200, 300)
_REDIRECTION: Final = range(300, 400)
_SERVER_ERROR: Final = range(500, 600)
_FIRST_FINAL: Final = 200
_SWITCHING: Final = 101
# TLS 1.3 lets a client write before the server has judged its certificate. These alerts are that judgement: the
# handshake was never finished there, so nothing that was written was given to anybody.
_CERTIFICATE_ALERTS: Final = (
    "ALERT_BAD_CERTIFICATE",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_UNKNOWN_CA",
    "ALERT_ACCESS_DENIED",
    "ALERT_HANDSHAKE_FAILURE",
)


class FailureKind(StrEnum):
    """What went wrong when no answer came, or none that can be read."""

    NOT_CONNECTED = "not_connected"  # we have no certificate for this platform, or are about to stop
    UNRESOLVABLE = "unresolvable"
    FORBIDDEN_ADDRESS = "forbidden_address"
    REFUSED = "refused"
    TLS = "tls"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    UNREADABLE = "unreadable"  # not HTTP
    REDIRECT = "redirect"
    TOO_LARGE = "too_large"
    NO_ENVELOPE = "no_envelope"
    WITHHELD = "withheld"  # by us: what allowed the request was over before there was a connection to send it on


# The peer is done with a request that was answered like this, although the answer is of no use (R.03.02.17).
_ANSWERED: Final = frozenset({FailureKind.REDIRECT, FailureKind.TOO_LARGE, FailureKind.NO_ENVELOPE})


class PeerFailure(Exception):
    """A request without an answer that counts. ``sent``: the peer may have received the request.

    ``sent_at`` is the loop's monotonic time when it was written; None where it never came so far.
    """

    def __init__(self, kind: FailureKind, detail: str = "", *, sent: bool) -> None:
        super().__init__(f"{kind.value}: {detail}" if detail else kind.value)
        self.kind = kind
        self.detail = detail
        self.sent = sent
        self.sent_at: float | None = None

    @property
    def answered(self) -> bool:
        """Whether there was an answer, of no use: the request is no longer in progress at the peer."""
        return self.kind in _ANSWERED


class PeerRefused(Exception):
    """A partner's answer that is not a success; ``status_code`` is 0 where it came without an ``OcpiResponse``."""

    def __init__(self, http_status: int, status_code: int, message: str, data: bytes = b"") -> None:
        super().__init__(f"{status_code or 'no status code'}: {message or 'no message'} (HTTP {http_status})")
        self.http_status = http_status
        self.status_code = status_code
        self.message = message
        self.data = data


@dataclass(frozen=True)
class Peer:
    """A platform to talk to. ``request_timeout_s`` is what it announced: how long we wait for it (B19)."""

    platform_id: int
    identity: str
    base_url: str
    request_timeout_s: float


class PeerAnswer(msgspec.Struct, frozen=True):
    """What a partner answered."""

    http_status: int
    body: bytes


class Peers:
    """The platforms that we can talk to. A service."""

    def __init__(self, settings: PeerSettings) -> None:
        """Begin without platforms."""
        self._settings = settings
        self._sessions: dict[int, _Session] = {}
        self._announced_s: dict[int, float] = {}
        self._resolvers = ThreadPoolExecutor(RESOLVERS_MAX, "resolve")
        self._open: set[_Connection] = set()
        self._stopped = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open)

    async def start(self) -> None:
        """Nothing has to be ready before the first request."""
        self._stopped = False

    async def stop(self) -> None:
        """Close every connection; requests in progress end as not answered."""
        self._stopped = True
        for platform_id in list(self._sessions):
            self.forget(platform_id)
        for connection in list(self._open):
            connection.close()
        if self._open:
            await asyncio.wait([connection.lost for connection in self._open], timeout=TLS_GOODBYE_S)
        for connection in list(self._open):
            connection.abort()
        if self._open:
            await asyncio.wait([connection.lost for connection in self._open], timeout=TLS_GOODBYE_S)
        self._resolvers.shutdown(wait=False, cancel_futures=True)
        self._resolvers = ThreadPoolExecutor(RESOLVERS_MAX, "resolve")

    def use(self, peer: Peer, context: ssl.SSLContext) -> None:
        """Talk to a platform with this certificate from now on; requests in progress end as they began."""
        session = _Session(peer, context, self._settings, self._resolvers, self._open)
        old = self._sessions.get(peer.platform_id)
        self._sessions[peer.platform_id] = session
        self.announced(peer.platform_id, peer.request_timeout_s)
        if old is not None:
            old.retire()

    def forget(self, platform_id: int) -> None:
        """Talk to a platform no more."""
        session = self._sessions.pop(platform_id, None)
        if session is not None:
            session.retire()

    def announced(self, platform_id: int, request_timeout_s: float) -> None:
        """Note a platform's time-out; it outlives the session, since requests that were made on it do so, too."""
        self._announced_s[platform_id] = request_timeout_s

    def knows(self, platform_id: int) -> bool:
        """Say whether requests to this platform can be made."""
        return platform_id in self._sessions

    def timeout_s(self, platform_id: int) -> float:
        """Return how long a request to this platform may take; the longest that we bear where it is not known."""
        session = self._sessions.get(platform_id)
        if session is not None:
            return session.timeout_s
        longest_s = self._settings.request_timeout_max_ms / 1000
        return min(self._announced_s.get(platform_id, longest_s), longest_s)

    async def request(
        self,
        platform_id: int,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        request_id: str | None = None,
        correlation_id: str | None = None,
        timeout_s: float | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> PeerAnswer:
        """Make one request; ``path`` is percent-encoded and appended to the base URL.

        Ids are made where none are given (R.02.02.12, R.02.02.14). ``may_send`` is asked at the last moment, since to
        connect may take seconds. Raises ``PeerFailure``, redirects included.
        """
        session = self._sessions.get(platform_id)
        if session is None or self._stopped:
            raise PeerFailure(FailureKind.NOT_CONNECTED, "there is no connection with this platform", sent=False)
        answer = await session.request(
            session.head(method, path)
            + _rest_of_head(
                acceptable_id(request_id) or logs.new_id(), acceptable_id(correlation_id) or logs.new_id(), body
            ),
            session.timeout_s if timeout_s is None else timeout_s,
            may_send,
        )
        if answer.http_status in _REDIRECTION:
            raise PeerFailure(FailureKind.REDIRECT, f"HTTP {answer.http_status}", sent=True)
        return answer

    async def ask(self, platform_id: int, method: str, path: str, **options: Any) -> OcpiResponse:
        """Make a request between parties and return the ``OcpiResponse`` of its success.

        Takes the options of ``request``. Raises ``PeerRefused`` for another status code, ``PeerFailure`` as
        ``request`` and for an answer that is no envelope.
        """
        answer = await self.request(platform_id, method, path, **options)
        response = envelope.read(answer.body)
        if response is None:
            raise _no_envelope(answer)
        if response.status_code != SUCCESS or answer.http_status not in _SUCCESS:
            raise _refused(answer, response)
        return response

    async def ask_platform(self, platform_id: int, method: str, path: str, **options: Any) -> bytes:
        """Make a request between platforms and return the JSON of its success, with or without an envelope (W4).

        Raises ``PeerRefused`` and ``PeerFailure`` as ``ask``; an answer of 4xx counts without an envelope too.
        """
        answer = await self.request(platform_id, method, path, **options)
        response = envelope.read(answer.body)
        if answer.http_status in _SUCCESS:
            if response is None:
                return answer.body
            if response.status_code == SUCCESS:
                return response.content
        if response is not None:
            raise _refused(answer, response)
        if answer.http_status in _SERVER_ERROR:
            raise _no_envelope(answer)
        raise PeerRefused(answer.http_status, 0, _shown(answer.body))


def _refused(answer: PeerAnswer, response: OcpiResponse) -> PeerRefused:
    return PeerRefused(
        answer.http_status, response.status_code, (response.status_message or "")[:SHOWN_MAX], response.content
    )


def _no_envelope(answer: PeerAnswer) -> PeerFailure:
    detail = f"HTTP {answer.http_status} without an OcpiResponse: {_shown(answer.body)!r}"
    return PeerFailure(FailureKind.NO_ENVELOPE, detail, sent=True)


def _shown(body: bytes) -> str:
    return body[:SHOWN_MAX].decode("utf-8", "replace")


def _rest_of_head(request_id: str, correlation_id: str, body: bytes | None) -> bytes:
    ids = f"{REQUEST_ID_HEADER}: {request_id}\r\n{CORRELATION_ID_HEADER}: {correlation_id}\r\n"
    if body is None:
        return f"{ids}\r\n".encode("ascii")
    return f"{ids}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode("ascii") + body


class _Session:
    """One platform with one certificate of ours: its idle connections, and how new ones are made."""

    def __init__(
        self,
        peer: Peer,
        context: ssl.SSLContext,
        settings: PeerSettings,
        resolvers: ThreadPoolExecutor,
        connections: "set[_Connection]",
    ) -> None:
        parts = urlsplit(peer.base_url)
        host = parts.hostname or ""
        self._host = host if host.isascii() else host.encode("idna").decode("ascii")
        self._port = parts.port or HTTPS_PORT
        self._base_path = parts.path.rstrip("/")
        name = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = name if self._port == HTTPS_PORT else f"{name}:{self._port}"
        self.timeout_s = min(peer.request_timeout_s, settings.request_timeout_max_ms / 1000)
        self._context = context
        self._settings = settings
        self._resolvers = resolvers
        self._connections = connections
        self._idle: list[_Connection] = []
        self._handshaking = asyncio.Semaphore(HANDSHAKES_MAX)
        self._heads: dict[tuple[str, str], bytes] = {}
        self._addresses: list[tuple[socket.AddressFamily, Any]] = []
        self._resolved_at = 0.0
        self._resolving: asyncio.Future[list[Any]] | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._retired = False

    def head(self, method: str, path: str) -> bytes:
        """Return the part of a head that is the same for all requests to one path."""
        head = self._heads.get((method, path))
        if head is not None:
            return head
        if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
            raise ValueError(f"not a path of a URL: {path[:SHOWN_MAX]!r}")
        if len(self._heads) >= HEADS_CACHED_MAX:
            self._heads.clear()
        text = (
            f"{method} {self._base_path}{path} HTTP/1.1\r\nHost: {self._authority}\r\n"
            "User-Agent: ocpi-engine\r\nAccept: application/json\r\n"
        )
        self._heads[method, path] = text.encode("ascii")
        return self._heads[method, path]

    def retire(self) -> None:
        """Close what is idle now, and what is in use when it is done."""
        self._retired = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def request(self, data: bytes, timeout_s: float, may_send: Callable[[], bool] | None = None) -> PeerAnswer:
        """Write a request and wait for its answer. The time-out counts from when it is sent (R.03.02.17)."""
        loop = asyncio.get_running_loop()
        connection = self._take(loop.time()) or await self._connection(loop.time() + timeout_s)
        if may_send is not None and not may_send():
            self._give_back(connection, loop)
            raise PeerFailure(FailureKind.WITHHELD, "this process may no longer send it", sent=False)
        sent_at = loop.time()
        timer = loop.call_at(sent_at + timeout_s, connection.expire)
        try:
            answer = await connection.exchange(data)
        except PeerFailure as failure:
            failure.sent_at = sent_at
            connection.abort()
            raise
        except BaseException:
            connection.abort()
            raise
        finally:
            timer.cancel()
        self._give_back(connection, loop)
        return answer

    # -- idle connections ---------------------------------------------------------------------------------

    def _take(self, now: float) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and now - connection.idle_since < self._settings.idle_timeout_s:
                return connection
            connection.close()
        return None

    def _give_back(self, connection: "_Connection", loop: asyncio.AbstractEventLoop) -> None:
        if self._retired or not connection.usable:
            connection.close()
            return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._settings.idle_timeout_s, self._sweep)

    def _sweep(self) -> None:
        """Close what has been idle for too long, before the peer does."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        before = loop.time() - self._settings.idle_timeout_s
        kept = [each for each in self._idle if each.usable and each.idle_since > before]
        for connection in set(self._idle) - set(kept):
            connection.close()
        self._idle = kept
        if kept:
            self._sweeper = loop.call_at(kept[0].idle_since + self._settings.idle_timeout_s, self._sweep)

    # -- new connections ----------------------------------------------------------------------------------

    async def _connection(self, deadline: float) -> "_Connection":
        """Return a connection that was given back, or make one when not too many are being made.

        Raises ``PeerFailure``; nothing was sent then.
        """
        loop = asyncio.get_running_loop()
        late = PeerFailure(FailureKind.TIMEOUT, f"{self._authority} takes connections too slowly", sent=False)
        try:
            async with asyncio.timeout_at(deadline):
                await self._handshaking.acquire()
        except TimeoutError:
            raise late from None
        try:
            if loop.time() >= deadline:
                raise late
            return self._take(loop.time()) or await self._connect(deadline)
        finally:
            self._handshaking.release()

    async def _connect(self, deadline: float) -> "_Connection":
        """Make a connection.

        Raises ``PeerFailure``; nothing was sent then.
        """
        loop = asyncio.get_running_loop()
        deadline = min(deadline, loop.time() + self._settings.connect_timeout_s)
        try:
            async with asyncio.timeout_at(deadline):
                addresses = await self._resolve(loop)
            return await self._connect_to_one(addresses, deadline)
        except PeerFailure:
            raise
        except socket.gaierror as error:
            raise PeerFailure(FailureKind.UNRESOLVABLE, f"{self._host}: {error.strerror}", sent=False) from None
        except ssl.SSLError as error:
            raise PeerFailure(FailureKind.TLS, _reason(error), sent=False) from None
        except TimeoutError:
            raise PeerFailure(FailureKind.TIMEOUT, f"{self._authority} took too long to connect", sent=False) from None
        except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError):
            raise PeerFailure(FailureKind.DISCONNECTED, "during the TLS handshake", sent=False) from None
        except OSError as error:
            raise PeerFailure(FailureKind.REFUSED, error.strerror or str(error), sent=False) from None

    async def _connect_to_one(
        self, addresses: list[tuple[socket.AddressFamily, Any]], deadline: float
    ) -> "_Connection":
        """Try one address after the other; each gets its share of the time that is left, so that all are tried."""
        loop = asyncio.get_running_loop()
        for number, (family, address) in enumerate(addresses):
            share = (deadline - loop.time()) / (len(addresses) - number)
            try:
                async with asyncio.timeout(share):
                    return await self._connect_to(family, address)
            except OSError:  # of which time-outs and TLS errors are some
                if number + 1 == len(addresses):
                    raise
        raise AssertionError("there is no address")

    async def _connect_to(self, family: socket.AddressFamily, address: Any) -> "_Connection":
        loop = asyncio.get_running_loop()
        connecting = socket.socket(family, socket.SOCK_STREAM)
        try:
            connecting.setblocking(False)  # noqa: FBT003 - the socket's own signature
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(connecting, address)
        except BaseException:
            connecting.close()
            raise
        # From here on its transport closes the socket: closed under it, the number would be another connection's.
        connection = _Connection(loop, self._settings.response_max_bytes, self._connections)
        try:
            await loop.create_connection(
                lambda: connection,
                sock=connecting,
                ssl=self._context,
                server_hostname=self._host,
                ssl_handshake_timeout=self._settings.connect_timeout_s,
                ssl_shutdown_timeout=TLS_GOODBYE_S,
            )
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _resolve(self, loop: asyncio.AbstractEventLoop) -> list[tuple[socket.AddressFamily, Any]]:
        """Return the addresses that may be connected to; one look-up at a time, however many ask."""
        if self._addresses and loop.time() - self._resolved_at < RESOLVED_FOR_S:
            return self._addresses
        if self._resolving is None or self._resolving.done():
            self._resolving = loop.run_in_executor(
                self._resolvers, lambda: socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            )
        found = [(family, address) for family, _, _, _, address in await asyncio.shield(self._resolving)]
        allowed = [each for each in found if self._settings.allow_private_addresses or not is_private(each[1][0])]
        if not allowed:
            raise PeerFailure(FailureKind.FORBIDDEN_ADDRESS, f"{self._host} is a private address", sent=False)
        self._addresses, self._resolved_at = allowed, loop.time()
        return allowed


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer_max: int, connections: "set[_Connection]") -> None:
        self._loop = loop
        self._answer_max = answer_max
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._waiter: asyncio.Future[PeerAnswer] | None = None
        self._message: RawResponseMessage | None = None
        self._payload: StreamReader | None = None
        self._interim = 0
        self._answered = False  # whether an answer came in full, on this connection
        self.reusable = True
        self.idle_since = 0.0
        self.lost: asyncio.Future[None] = loop.create_future()

    # -- what the session calls ---------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether another request can go out on it."""
        return self.reusable and self._transport is not None and not self._transport.is_closing()

    def exchange(self, data: bytes) -> "asyncio.Future[PeerAnswer]":
        """Write a request; the future is its answer, or raises ``PeerFailure``."""
        self._waiter = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            self._waiter.set_exception(PeerFailure(FailureKind.DISCONNECTED, "before the request", sent=False))
            return self._waiter
        self._message = self._payload = None
        self._interim = 0
        self._parser = HttpResponseParser(
            self,  # type: ignore[arg-type]  # it asks no more of a protocol than to pause and to resume
            self._loop,
            self._answer_max,
            max_line_size=HEAD_LINE_MAX,
            max_field_size=HEAD_LINE_MAX,
            max_headers=HEADERS_MAX,
            read_until_eof=True,
            auto_decompress=False,
        )
        self._transport.write(data)
        return self._waiter

    def expire(self) -> None:
        """End a wait that took too long."""
        self._fail(FailureKind.TIMEOUT, "there was no answer in time")

    def close(self) -> None:
        """Say goodbye."""
        self.reusable = False
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up; if the handshake goes on although nobody waits for it any more, as soon as it ends."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    # -- what the parser calls: it is never stopped, since the size of an answer is limited -----------------

    def pause_reading(self) -> None:
        """Go on."""

    def resume_reading(self, *, resume_parser: bool = True) -> None:
        """Go on."""

    # -- what asyncio calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # a TLS transport, which is both ways
        self._connections.add(self)
        if not self.reusable:
            self.abort()

    def data_received(self, data: bytes) -> None:
        """Read on in the answer."""
        if self._parser is None:
            self.abort()  # nobody asked
            return
        try:
            messages, _, _ = self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 - whatever the parser makes of a stranger's bytes
            self._fail(FailureKind.UNREADABLE, type(error).__name__)
            return
        for message, payload in messages:
            self._head_came(message, payload)
        payload_now = self._payload
        if payload_now is None:
            return
        if payload_now.exception() is not None:
            self._fail(FailureKind.UNREADABLE, "the body of the answer is badly framed")
        elif payload_now.total_bytes > self._answer_max:
            self._fail(FailureKind.TOO_LARGE, f"the answer has more than {self._answer_max} bytes")
        elif payload_now.is_eof():
            self._finish()

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is waited for: an answer may go on until here (RFC 9112, 6.3), and is cut off otherwise."""
        self._connections.discard(self)
        self.reusable = False
        self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        if self._waiter is None or self._waiter.done():
            return
        if isinstance(exc, ssl.SSLError):
            unheard = not self._answered and (exc.reason or "").endswith(_CERTIFICATE_ALERTS)
            self._fail(FailureKind.TLS, _reason(exc), sent=not unheard)
        elif self._payload is not None and exc is None and self._ended_by_closing():
            self._finish()
        else:
            self._fail(FailureKind.DISCONNECTED, self._how_it_ended())

    # -- the rest -----------------------------------------------------------------------------------------

    def _head_came(self, message: RawResponseMessage, payload: StreamReader) -> None:
        if message.code < _FIRST_FINAL:
            self._interim += 1
            if self._interim > INTERIM_MAX or message.code == _SWITCHING:
                self._fail(FailureKind.UNREADABLE, f"HTTP {message.code}")
        elif self._message is None:
            self._message, self._payload = message, payload
        else:
            self.reusable = False  # an answer too many: whose it is cannot be known

    def _how_it_ended(self) -> str:
        if self._message is not None:
            return "in the middle of the answer"
        # Many servers, those of asyncio among them, do not say what they have against a certificate.
        return "without an answer" if self._answered else "without an answer; it may not accept our certificate"

    def _ended_by_closing(self) -> bool:
        if self._parser is None or self._payload is None:
            return False
        try:
            self._parser.feed_eof()
        except Exception:  # noqa: BLE001 - cut off: the parser has several words for it
            return False
        return self._payload.is_eof() and self._payload.exception() is None

    def _finish(self) -> None:
        message, payload, waiter = self._message, self._payload, self._waiter
        self._parser = self._message = self._payload = self._waiter = None
        if message is None or payload is None or waiter is None or waiter.done():
            return
        self._answered = True
        if message.should_close or message.upgrade:
            self.reusable = False
        waiter.set_result(PeerAnswer(message.code, payload.read_nowait()))

    def _fail(self, kind: FailureKind, detail: str, *, sent: bool = True) -> None:
        waiter, self._waiter = self._waiter, None
        self._parser = self._message = self._payload = None
        self.abort()
        if waiter is not None and not waiter.done():
            waiter.set_exception(PeerFailure(kind, detail, sent=sent))


def _reason(error: ssl.SSLError) -> str:
    """Say what TLS found wrong, without addresses of OpenSSL's source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
