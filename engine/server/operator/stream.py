"""Streams of server-sent events: one or more logs, read in turn, with one cursor.

The cursor says how far each log was read. A log's numbers become visible in their order, so whoever goes on from a
cursor misses nothing; what changed twice meanwhile is told once, as it is then.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import StreamingResponse

from engine.replication.changes import Changes
from engine.server.operator import wire

PAGE = 100  # changes read at once
READ_EVERY_S = 0.02  # changes in quick succession are read together; the first after a pause goes out at once
HEARTBEAT_S = 15.0  # a quiet stream says that it is alive; proxies close silent ones after 30 to 60 s

Told = tuple[int, str, bytes]
"""A change: its number, the kind of event, and the data."""

Positions = Mapping[str, int]
"""How far each log was read, by its name."""


class Strand(Protocol):
    """One log, as far as whoever follows may see it."""

    @property
    def log(self) -> str:
        """Its name."""
        ...

    async def told(self, after: int, limit: int) -> tuple[Sequence[Told], int, bool]:
        """Read changes, how far that is, and whether there is more."""
        ...


def response(
    request: Request,
    changes: Changes,
    strands: Sequence[Strand],
    start: Positions,
    *,
    cursor: Callable[[Positions], str],
) -> StreamingResponse:
    """Stream what changes from here on; ``cursor`` writes positions for the client."""
    events = _events(changes, strands, dict(start), cursor, request.app.state.closing)
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})


async def _events(
    changes: Changes,
    strands: Sequence[Strand],
    positions: dict[str, int],
    cursor: Callable[[Positions], str],
    closing: asyncio.Event,
) -> AsyncIterator[bytes]:
    """Stream changes until the client goes or the platform stops."""
    yield wire.event("position", wire.encode({"cursor": cursor(positions)}), cursor(positions))
    loop = asyncio.get_running_loop()
    stopped = asyncio.ensure_future(closing.wait())
    try:
        while not closing.is_set():
            begun = loop.time()
            more = False
            for strand in strands:
                found, position, goes_on = await strand.told(positions[strand.log], PAGE)
                for seq, kind, data in found:
                    positions[strand.log] = seq
                    yield wire.event(kind, data, cursor(positions))
                positions[strand.log] = position
                more = more or goes_on
            await asyncio.sleep(max(0.0, begun + READ_EVERY_S - loop.time()))
            if not more and not await _grown(changes, positions, stopped):
                yield b": alive\nid: %b\n\n" % cursor(positions).encode()
    finally:
        stopped.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopped


async def _grown(changes: Changes, positions: Positions, stopped: "asyncio.Future[Any]") -> bool:
    """Wait until a log has more; false if it is time for a sign of life."""
    grown: asyncio.Future[Any] = asyncio.ensure_future(changes.wait(dict(positions)))
    try:
        await asyncio.wait({grown, stopped}, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
        return grown.done()
    finally:
        grown.cancel()
