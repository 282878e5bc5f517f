"""One connection of the listener: HTTP/1.1 by aiohttp's parser, one request after the other, every wait limited.

::

    idle ──bytes──▶ head timer ──head complete──▶ serving: body ─▶ handler ─▶ answer ──▶ idle, or closed
      │                 │ late                        │                         │
      └─too long─▶ closed   408, closed       cut off, slow: its reader     nobody reads: aborted
                                              is told

The parser is all that is taken of aiohttp. Nothing of its server is: that makes two tasks, three objects and a second
pass through the parser for each request, and knows no limit on the time that a head takes.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final, Protocol, TypeAlias

from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.streams import StreamReader

from engine.protocol.errors import OcpiError, TooSlow
from engine.settings import Listener

HEAD_LINE_MAX: Final = 8190  # characters of the request line, and of each header
HEADERS_MAX: Final = 100  # a request of this protocol has about eight
CHUNK_BYTES: Final = 64 * 1024  # of a body, read ahead of its reader
PIPELINED_MAX: Final = 32  # requests that are parsed and wait for their turn before reading pauses
LINGER_S: Final = 1.0  # a peer whose body is not read gets the answer before the connection is gone
TLS_GOODBYE_S: Final = 2.0  # for the peer's close_notify, which nobody waits for in vain

_Request: TypeAlias = tuple[RawRequestMessage, StreamReader] | Exception


class BadBody(Exception):
    """A body that is not framed as HTTP has it, or that was cut off."""


class Answering(Protocol):
    """What a connection needs of its site."""

    @property
    def settings(self) -> Listener:
        """The limits."""
        ...

    async def respond(
        self, connection: "Connection", message: RawRequestMessage, payload: StreamReader
    ) -> tuple[bytes, bool]:
        """Answer a request: what to write, and whether the connection goes on. Never raises but when cancelled."""
        ...

    def unreadable(self, error: Exception) -> bytes:
        """Write the answer to what could not be parsed."""
        ...

    def alone(self, error: OcpiError) -> bytes:
        """Write a refusal of what has no head."""
        ...

    def connection_began(self, connection: "Connection") -> None:
        """Count it."""
        ...

    def connection_ended(self, connection: "Connection") -> None:
        """Count it no more."""
        ...


class Connection(asyncio.Protocol):
    """One connection, and the certificate behind it. A task exists only while there is something to answer."""

    def __init__(self, site: Answering, *, address: str, trusted: bool) -> None:
        """Take whom to ask, and the IP address at the other end; if ``trusted``, requests are taken from there."""
        self.address = address
        self.trusted = trusted
        self.serial = ""
        self.common_name = ""
        self.connected = False
        self._site = site
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._parser = HttpRequestParser(
            self,  # type: ignore[arg-type]  # it asks no more of a protocol than to pause and to resume
            self._loop,
            CHUNK_BYTES,
            max_line_size=HEAD_LINE_MAX,
            max_field_size=HEAD_LINE_MAX,
            max_headers=HEADERS_MAX,
            payload_exception=BadBody,
            auto_decompress=False,  # nothing in the draft compresses, and a bomb would be unpacked before it is seen
        )
        self._requests: deque[_Request] = deque()
        self._payload: StreamReader | None = None  # of the last request that was parsed: it may still be coming
        self._serving: asyncio.Task[None] | None = None
        self._ending = False  # nothing is read any more
        self._held: set[str] = set()  # why reading is paused
        self._writable: asyncio.Future[None] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    # -- what asyncio calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who it is, and begin to wait for a first request."""
        self._transport = transport  # type: ignore[assignment]  # a TCP or TLS transport, which is both ways
        self.connected = True
        self._site.connection_began(self)
        certificate = transport.get_extra_info("peercert") or {}
        self.serial = certificate.get("serialNumber", "").lstrip("0").lower()
        names = [value for name in certificate.get("subject", ()) for key, value in name if key == "commonName"]
        self.common_name = names[0] if len(names) == 1 else ""
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Parse; where that does not complete a head, the time for one is running."""
        if self._ending:
            return
        try:
            parsed, _, _ = self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 - whatever the parser makes of a stranger's bytes
            self._cut_off(BadBody("badly framed"))
            self._ending = True
            self._came(error)
            return
        if parsed:
            self._payload = parsed[-1][1]
            self._came(*parsed)
        elif self._serving is None and self._head_timer is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let a body that was still coming end; a handler that has begun goes on."""
        self.connected = False
        self._ending = True
        self._transport = None
        self._requests.clear()
        for timer in (self._head_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        self._cut_off(exc or ConnectionResetError("the peer hung up"))
        self.resume_writing()
        self._site.connection_ended(self)
        if not self.lost.done():
            self.lost.set_result(None)

    def pause_writing(self) -> None:
        """Note that the peer does not read as fast as we write."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Go on."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # -- what a body calls that comes in faster than it is read ---------------------------------------------

    def pause_reading(self) -> None:
        """Let the peer wait."""
        self._hold("body")

    def resume_reading(self, *, resume_parser: bool = True) -> None:  # noqa: ARG002 - the parser is never paused
        """Let it go on."""
        if self._held:
            self._release("body")

    # -- what the site calls ------------------------------------------------------------------------------

    @property
    def serving(self) -> "asyncio.Task[None] | None":
        """The task that answers, while there is one."""
        return self._serving

    def finish(self) -> None:
        """Answer what is in progress, and close."""
        self._ending = True
        self._requests.clear()
        if self._serving is None:
            self.close()

    def close(self) -> None:
        """Close, once everything is written."""
        self._ending = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Hang up."""
        self._ending = True
        if self._transport is not None:
            self._transport.abort()

    def write(self, data: bytes) -> None:
        """Write, if there is still somebody."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # -- the rest -----------------------------------------------------------------------------------------

    def _came(self, *requests: _Request) -> None:
        """Let them be answered."""
        self._requests.extend(requests)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if len(self._requests) > PIPELINED_MAX:
            self._hold("requests")
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve())

    async def _serve(self) -> None:
        """Answer what was parsed, one after the other."""
        try:
            while self._requests:
                request = self._requests.popleft()
                if self._held and len(self._requests) <= PIPELINED_MAX // 2:
                    self._release("requests")
                if isinstance(request, Exception):
                    self.write(self._site.unreadable(request))
                    self.close()
                    return
                data, keep_alive = await self._site.respond(self, *request)
                self.write(data)
                if self._writable is not None:
                    await self._drain(self._writable)
                if not keep_alive:
                    await self._linger(request[1])
                    self.close()
                    return
        except BaseException:
            self.abort()
            raise
        finally:
            self._serving = None
        self._idle_since = self._loop.time()
        if self._idle_timer is None and self.connected:
            self._idle_timer = self._loop.call_later(self._site.settings.idle_timeout_s, self._idle_too_long)

    async def _drain(self, writable: "asyncio.Future[None]") -> None:
        """Wait, but not for ever, for a peer that does not read."""
        try:
            async with asyncio.timeout(self._site.settings.body_timeout_s):
                await writable
        except TimeoutError:
            self.abort()

    async def _linger(self, payload: StreamReader) -> None:
        """Read on for a moment what nobody wants: a peer that is cut off in the middle never sees the answer."""
        if payload.is_eof():
            return
        with suppress(Exception):
            async with asyncio.timeout(LINGER_S):
                while await payload.readany():
                    pass

    def _cut_off(self, error: Exception) -> None:
        """Let whoever waits for the rest of a body know that it does not come."""
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(error)

    def _hold(self, why: str) -> None:
        if not self._held and self._transport is not None:
            self._transport.pause_reading()
        self._held.add(why)

    def _release(self, why: str) -> None:
        if why in self._held:
            self._held.discard(why)
            if not self._held and self._transport is not None:
                self._transport.resume_reading()

    def _await_head(self) -> None:
        self._head_timer = self._loop.call_later(self._site.settings.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._serving is None:
            self.write(self._site.alone(TooSlow("the head of the request did not arrive in time")))
            self.close()

    def _idle_too_long(self) -> None:
        self._idle_timer = None
        close_at = self._idle_since + self._site.settings.idle_timeout_s
        if self._serving is not None or self._head_timer is not None:
            close_at = self._loop.time() + self._site.settings.idle_timeout_s
        if self._loop.time() >= close_at:
            self.close()
        elif not self._ending:
            self._idle_timer = self._loop.call_at(close_at, self._idle_too_long)
