"""The yardsticks' processes: started here, driven line by line over their standard input, ended by their ids.

Each pair has a receiver that prints its port and serves until its input ends,
and a sender that reads one order a line and prints the sample of each.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

from benchmarks.bodies import LOCATIONS, Kind
from benchmarks.measuring import RoundTrips, Sample
from certs.authority import Authority, Purpose
from certs.requests import check_request, make_request
from certs.tls import client_context, server_context
from engine.clock import SystemClock

HOST = "localhost"
CLIENT = "sender.example.org"
SUCCESS = b'{"status_code":1000,"timestamp":"2026-01-01T00:00:00.000Z"}'
LINE_MAX = 2**16


@dataclass(frozen=True)
class Order:
    """What a sender is to do next: send ``count`` updates of a kind, so many at once, after a warm-up."""

    module: str
    at_once: int
    count: int
    revision: int


def make_keys(folder: Path) -> Authority:
    """Make both authorities and both certificates, of the kinds that the engine uses; returns that of the clients."""
    now = SystemClock().now()
    servers = Authority.create("bench servers", now=now, purpose=Purpose.SERVER)
    clients = Authority.create("bench clients", now=now, purpose=Purpose.CLIENT)
    server_key, server = servers.issue_server((HOST,), now=now)
    client_key, request = make_request(CLIENT)
    client = clients.issue_client(check_request(request), now=now)
    for name, data in (
        ("server-ca.pem", servers.certificate_pem),
        ("client-ca.pem", clients.certificate_pem),
        ("server.pem", server.pem_chain),
        ("client.pem", client.pem_chain),
        ("server.key", server_key),
        ("client.key", client_key),
    ):
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(data)
    return clients


def listening_context(folder: Path) -> SSLContext:
    """Make the receiver's TLS context."""
    return server_context(
        chain_file=folder / "server.pem", key_file=folder / "server.key", client_ca_file=folder / "client-ca.pem"
    )


def sending_context(folder: Path) -> SSLContext:
    """Make the sender's TLS context."""
    return client_context(
        chain_file=folder / "client.pem", key_file=folder / "client.key", server_ca_file=folder / "server-ca.pem"
    )


class Pair:
    """A running sender and receiver."""

    def __init__(self, sender: asyncio.subprocess.Process) -> None:
        """Drive this sender."""
        self._sender = sender

    async def run(self, kind: Kind, *, at_once: int, count: int, revision: int) -> Sample:
        """Have so many updates sent."""
        return Sample(**await self._do(Order(kind.module, at_once, count, revision)))

    async def round_trips(self, *, at_once: int, count: int) -> RoundTrips:
        """Have so many calls made."""
        told = await self._do(Order(LOCATIONS.module, at_once, count, revision=0))
        return RoundTrips(**told | {"sample": Sample(**told["sample"])})

    async def _do(self, order: Order) -> dict[str, Any]:
        assert self._sender.stdin is not None
        assert self._sender.stdout is not None
        self._sender.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        told: dict[str, Any] = json.loads(await self._sender.stdout.readline())
        return told


@asynccontextmanager
async def pair(module: str, folder: Path) -> AsyncIterator[Pair]:
    """Start ``module``'s receiver and sender."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LINE_MAX,
        )  # fmt: skip
        started.append(process)
        return process

    try:
        receiver = await start("receiver", str(folder))
        assert receiver.stdout is not None
        port = (await receiver.stdout.readline()).decode().strip()
        yield Pair(await start("sender", str(folder), port, str(receiver.pid)))
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def orders() -> AsyncIterator[Order]:
    """Read what this process, a sender, is to do, until its input ends."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield Order(**json.loads(line))


async def until_input_ends() -> None:
    """Wait as a receiver for the end."""
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def report(measured: Sample | RoundTrips) -> None:
    """Print what a sender measured."""
    print(json.dumps(asdict(measured)), flush=True)
