"""Yardstick of calls: two bare POSTs, one after the other. A request that says where to call back, and the callback.

As ``bare``: aiohttp and nothing else, over mutual TLS, kept alive; nothing is stored, or looked into but that URL.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks import yardsticks
from benchmarks.bodies import RESULT, UNLOCK
from benchmarks.measuring import RoundTrips, Watch, round_trips
from engine.protocol.calls import RESPONSE_URL


async def receive(folder: Path) -> None:
    """Answer every POST with a success, then call back."""
    callbacks: set[asyncio.Task[None]] = set()
    async with _session(folder) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            url = json.loads(await request.read())["payload"][RESPONSE_URL]
            answer = _success()
            await answer.prepare(request)
            await answer.write_eof()
            callback = asyncio.create_task(_post(session, url, RESULT))
            callbacks.add(callback)
            callback.add_done_callback(callbacks.discard)
            return answer

        async with _serving(folder, handle) as port:
            print(port, flush=True)
            await yardsticks.until_input_ends()


async def send(folder: Path, port: str, receiver_pid: int) -> None:
    """Ask, and wait for the callback."""
    waiting: dict[str, asyncio.Event] = {}
    numbers = count(1)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        waiting.pop(request.path).set()
        return _success()

    async with _session(folder) as session, _serving(folder, handle) as own_port:

        async def ask() -> None:
            path, called_back = f"/async-responses/{next(numbers)}", asyncio.Event()
            waiting[path] = called_back
            order = {"payload": {**UNLOCK, RESPONSE_URL: f"https://{yardsticks.HOST}:{own_port}{path}"}}
            await _post(session, f"https://{yardsticks.HOST}:{port}/call", json.dumps(order).encode())
            await called_back.wait()

        async for order in yardsticks.orders():
            await round_trips(ask, count=order.count // 4, at_once=order.at_once)
            watch = Watch(os.getpid(), receiver_pid)
            took_s = await round_trips(ask, count=order.count, at_once=order.at_once)
            yardsticks.report(RoundTrips.of(watch.sample(order.count), took_s))


def _success() -> web.Response:
    return web.Response(body=yardsticks.SUCCESS, content_type="application/json")


def _session(folder: Path) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, ssl=yardsticks.sending_context(folder))
    return aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"})


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    async with session.post(url, data=body) as answer:
        await answer.read()


@asynccontextmanager
async def _serving(
    folder: Path, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> AsyncIterator[int]:
    """Serve over mutual TLS; gives the port."""
    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, yardsticks.HOST, 0, ssl_context=yardsticks.listening_context(folder)).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    role, folder_name, *rest = sys.argv[1:]
    if role == "receiver":
        asyncio.run(receive(Path(folder_name)))
    else:
        asyncio.run(send(Path(folder_name), rest[0], int(rest[1])))
