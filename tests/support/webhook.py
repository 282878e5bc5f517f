"""A back office's web server, as small as one can be: it keeps what it is sent, and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.transport import HOST, stream_server


@dataclass(frozen=True)
class Posted:
    """One request; names of headers in lower case."""

    headers: dict[str, str]
    body: bytes


Behaviour = Callable[[Posted, asyncio.StreamWriter], Awaitable[None]]
"""Answers a request, or does not."""


def answer(body: bytes = b"", *, status: int = 200) -> Behaviour:
    """Answer every request alike."""

    async def behave(_posted: Posted, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()

    return behave


@dataclass
class Hook:
    """What a webhook was sent; ``behave`` may be changed at any time."""

    behave: Behaviour
    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> None:
        """Wait for so many requests."""
        async with asyncio.timeout(30):
            while len(self.posted) < count:
                self.arrived.clear()
                await self.arrived.wait()


@asynccontextmanager
async def webhook(behave: Behaviour, *, port: int = 0) -> AsyncIterator[Hook]:
    """Serve a webhook on this machine."""
    hook = Hook(behave)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            posted = Posted(headers, await reader.readexactly(int(headers["content-length"])))
            hook.posted.append(posted)
            hook.arrived.set()
            await hook.behave(posted, writer)

    async with stream_server(serve, port=port) as listening:
        hook.url = f"http://{HOST}:{listening}/calls"
        yield hook
