"""How long an unanswered update counts as in progress: from when it was sent, not from when we began to connect."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from engine.peers.objects import ObjectRequests, Unanswered
from tests.support.transport import HOST, Wire, World, peers, rude_server, stream_server

TIMEOUT_S = 0.5
FAR_S = 0.4  # how long the network takes for a new connection
TRANSIT_S = 0.1


@asynccontextmanager
async def far_away(port: int) -> AsyncIterator[int]:
    """Pass connections on to this port, each after a while."""

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
        except OSError:
            pass
        sink.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(FAR_S)
        there_reader, there_writer = await asyncio.open_connection(HOST, port)
        await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer))

    async with stream_server(serve) as far_port:
        yield far_port


@pytest.mark.requirement("R.03.02.16", "R.03.02.17")
@pytest.mark.parametrize("hangs_up", [False, True])
async def test_the_time_out_counts_from_when_the_update_was_sent(tmp_path: Path, hangs_up: bool):
    """Connecting takes its time before that: an update is in progress for a whole time-out after it arrived."""
    world = World.make(tmp_path)
    loop = asyncio.get_running_loop()
    arrived: list[float] = []

    async def behave(wire: Wire) -> None:
        await wire.reader.readuntil(b"\r\n\r\n")
        arrived.append(loop.time())
        if not hangs_up:
            await wire.ended()

    async with (
        rude_server(world.listener(), behave) as port,
        far_away(port) as far_port,
        peers(world, far_port, timeout_s=TIMEOUT_S) as client,
    ):
        answer = await ObjectRequests(client, may_send=lambda: True).update(
            1, "/from/NLCPO/to/DEMSP/locations/update", b"{}"
        )
        failed_at = loop.time()
    assert isinstance(answer, Unanswered)
    assert answer.in_progress_until is not None
    assert answer.in_progress_until >= arrived[0] + TIMEOUT_S - TRANSIT_S
    if not hangs_up:
        assert failed_at >= arrived[0] + TIMEOUT_S - TRANSIT_S, "the answer has the whole time-out to come"
