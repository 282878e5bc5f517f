"""Yardstick (a): aiohttp and nothing else. A POST loop over mutual TLS, kept alive, nothing stored or looked into."""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from aiohttp import web

from benchmarks import yardsticks
from benchmarks.bodies import KINDS
from benchmarks.measuring import Watch


async def receive(folder: Path) -> None:
    """Answer every POST with a success, by aiohttp's low-level server: no application, no router."""

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=yardsticks.SUCCESS, content_type="application/json")

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, yardsticks.HOST, 0, ssl_context=yardsticks.listening_context(folder)).start()
    print(runner.addresses[0][1], flush=True)
    await yardsticks.until_input_ends()


async def send(folder: Path, port: str, receiver_pid: int) -> None:
    """Post as fast as it goes."""
    url = f"https://{yardsticks.HOST}:{port}/update"
    connector = aiohttp.TCPConnector(limit=0, ssl=yardsticks.sending_context(folder))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post_all(bodies: Iterator[bytes]) -> None:
            for body in bodies:
                async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                    await answer.read()

        async def post(bodies: list[bytes], at_once: int) -> None:
            shared = iter(bodies)
            await asyncio.gather(*(post_all(shared) for _ in range(at_once)))

        async for order in yardsticks.orders():
            kind = KINDS[order.module]
            bodies = [kind.update(number, order.revision) for number in range(1, order.count + 1)]
            await post(bodies[: order.count // 4], order.at_once)
            watch = Watch(os.getpid(), receiver_pid)
            await post(bodies, order.at_once)
            yardsticks.report(watch.sample(order.count))


if __name__ == "__main__":
    role, folder_name, *rest = sys.argv[1:]
    if role == "receiver":
        asyncio.run(receive(Path(folder_name)))
    else:
        asyncio.run(send(Path(folder_name), rest[0], int(rest[1])))
