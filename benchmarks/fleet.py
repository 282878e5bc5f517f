"""Many receivers in one light process: platforms and parties that take every update and store nothing.

It does as little as a receiver can (HTTP by hand over asyncio's TLS), so that it is not what is measured, and is the
same for everything that is. ``Fleet`` registers its platforms at an engine by the protocol. Subscriptions come from
one that is made by the protocol, too: its row is copied for each party, since thousands of subscribe requests and first
snapshots would take longer than what is measured with them.
"""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from string import ascii_uppercase, digits
from typing import Final

import aiohttp
from sqlalchemy import insert, select, update

from benchmarks import yardsticks
from benchmarks.bodies import PARTY
from certs.authority import Authority
from certs.requests import check_request, make_request
from certs.tls import client_context
from engine.clock import SystemClock
from engine.store.database import Database
from engine.store.tables import outbound, platforms
from tests.support.processes import Platform

PLATFORMS: Final = 20
"""Each with its share of the parties. So many share the connections that the engine keeps, as partners of hubs do."""

PARALLELISM: Final = 8  # the default of what is asked for
RETRY_INTERVAL_S: Final = 5.0
REQUEST_TIMEOUT_MS: Final = 60_000  # a thousand requests at once wait for each other here
ROWS_AT_ONCE: Final = 500
WAIT_S: Final = 600.0  # longer than anything here takes

_LENGTH: Final = b"content-length:"


def identity(number: int) -> str:
    """Name a platform."""
    return f"receiver{number}.example.org"


def parties(number: int, count: int) -> list[str]:
    """Name a platform's parties."""
    named = ("NL" + "".join(each) for each in product(ascii_uppercase + digits, repeat=3))
    every = [next(named) for _ in range(PLATFORMS * count)]
    return every[number * count : (number + 1) * count]


# -- the process ----------------------------------------------------------------------------------------------


class Arrivals:
    """Counts updates, each (receiver, object, version) once."""

    def __init__(self) -> None:
        """Expect nothing."""
        self._seen: set[bytes] = set()
        self._requests = 0
        self._expected = 0

    def expect(self, count: int) -> None:
        """Begin to count; the arrival of the last one is printed, with how many requests it took."""
        self._seen.clear()
        self._requests, self._expected = 0, count
        _print({})

    def came(self, path: bytes, body: bytes) -> None:
        """Count an update."""
        self._requests += 1
        self._seen.add(path + body[: body.index(b'"payload"')])
        if len(self._seen) == self._expected:
            self._expected = 0
            _print({"requests": self._requests})


class Receiver(asyncio.Protocol):
    """One connection: requests one after the other, each answered at once."""

    def __init__(self, arrivals: Arrivals, listings: list[bytes]) -> None:
        """Serve these lists of parties, one for each platform."""
        self._arrivals = arrivals
        self._listings = listings
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport  # type: ignore[assignment]  # a TLS transport, which is both ways

    def data_received(self, data: bytes) -> None:
        """Answer whatever is complete."""
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end]
            lowered = head.lower()
            at = lowered.find(_LENGTH)
            length = int(lowered[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._received) < whole:
                return
            body, self._received = self._received[end + 4 : whole], self._received[whole:]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path.endswith(b"/update"):
            self._arrivals.came(path, body)
            content = yardsticks.SUCCESS
        elif path.endswith(b"/connection"):
            content = json.dumps({"request_timeout": REQUEST_TIMEOUT_MS}).encode()
        elif path.endswith(b"/parties"):
            content = self._listings[int(path.split(b"/")[1][1:])]
        else:
            content = yardsticks.SUCCESS
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
        if self._transport is not None:
            self._transport.write(head + content)


async def receive(folder: Path, count: int) -> None:
    """Serve until the input ends; each line of it is a number of updates to expect."""
    loop, arrivals = asyncio.get_running_loop(), Arrivals()
    listings = [
        json.dumps(
            {
                "parties": [
                    {"party_id": party, "roles": [], "business_details": {"name": party}}
                    for party in parties(number, count)
                ]
            }
        ).encode()
        for number in range(PLATFORMS)
    ]
    server = await loop.create_server(
        lambda: Receiver(arrivals, listings),
        yardsticks.HOST,
        0,
        ssl=yardsticks.listening_context(folder),
        backlog=4096,  # a thousand connections may come at once
    )
    _print({"port": server.sockets[0].getsockname()[1]})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        arrivals.expect(int(line))


def _print(told: dict[str, int]) -> None:
    print(json.dumps(told), flush=True)


# -- who drives it --------------------------------------------------------------------------------------------


class Fleet:
    """Drives the process, and makes its platforms known to an engine."""

    def __init__(
        self, process: asyncio.subprocess.Process, folder: Path, clients: Authority, *, port: int, parties_each: int
    ) -> None:
        """Drive this one; ``clients`` issues the engine's certificates."""
        self._process = process
        self._folder = folder
        self._clients = clients
        self._port = port
        self._parties_each = parties_each

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    async def expect(self, count: int) -> None:
        """Begin to count updates, and forget those before."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % count)
        await self._told()

    async def arrived(self) -> int:
        """Return when all that was expected has arrived, with the number of requests that it took."""
        async with asyncio.timeout(WAIT_S):
            return (await self._told())["requests"]

    async def _told(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise AssertionError("the receivers' process has ended")
        told: dict[str, int] = json.loads(line)
        return told

    async def register(self, engine: Platform) -> None:
        """Exchange certificates and shake hands, once for each platform (UC 01.01 to 02.01)."""
        server_ca = (self._folder / "server-ca.pem").read_text()
        async with engine.api() as api:
            for number in range(PLATFORMS):
                key, csr = make_request(identity(number))
                order = {"csr": csr.decode(), "confirmed": True, "server_ca": server_ca}
                signed = (await api.post("/api/v1/certificates/sign", json=order)).raise_for_status().json()
                pair = self._folder / f"{identity(number)}.pem"
                pair.touch(mode=0o600)
                pair.write_bytes(signed["chain"].encode() + key)
                asked = await api.post("/api/v1/certificates/request", json={"platform": identity(number)})
                request = check_request(asked.raise_for_status().json()["csr"].encode())
                chain = self._clients.issue_client(request, now=SystemClock().now()).pem_chain.decode()
                order = {"platform": identity(number), "chain": chain, "server_ca": server_ca}
                (await api.post("/api/v1/certificates/install", json=order)).raise_for_status()
                base_url = f"https://{yardsticks.HOST}:{self._port}/p{number}"
                connected = await api.post(f"/api/v1/platforms/{identity(number)}/connect", json={"base_url": base_url})
                connected.raise_for_status()

    async def subscribe(self, engine: Platform, module: str) -> None:
        """Subscribe the first party of the first platform, by the protocol."""
        path = f"/from/{parties(0, self._parties_each)[0]}/to/{PARTY}/{module}"
        order = {"retry_interval": RETRY_INTERVAL_S, "parallelism_limit": PARALLELISM, "max_queue_size": 1_000_000}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._context(engine))) as session,
            session.get(f"{engine.base_url}/parties") as parties_told,
            session.post(f"{engine.base_url}{path}", json=order) as answer,
        ):
            parties_told.raise_for_status()
            told = await answer.json()
        if told["status_code"] != 1000:  # noqa: PLR2004 - OCPI's success
            raise AssertionError(f"not subscribed: {told}")

    def _context(self, engine: Platform) -> ssl.SSLContext:
        pair = self._folder / f"{identity(0)}.pem"
        return client_context(chain_file=pair, key_file=pair, server_ca_file=engine.server_ca)

    async def copy_subscription(self, database: Database, count: int) -> None:
        """Give the first ``count`` parties, taken from the platforms in turn, what the first one has.

        No engine may run meanwhile.
        """
        await database.start()
        try:
            async with database.transaction() as tx:
                known = {row.identity: row.id for row in await tx.execute(select(platforms))}
                ids = [known[identity(number)] for number in range(PLATFORMS)]
                first = dict((await tx.execute(select(outbound))).mappings().one())
                del first["id"]
                listed = [parties(number, self._parties_each) for number in range(PLATFORMS)]
                rows = [
                    {**first, "platform_id": ids[n % PLATFORMS], "subscriber": listed[n % PLATFORMS][n // PLATFORMS]}
                    for n in range(1, count)
                ]
                for start in range(0, len(rows), ROWS_AT_ONCE):
                    await tx.execute(insert(outbound), rows[start : start + ROWS_AT_ONCE])
                await tx.execute(update(outbound).values(owner=None))
        finally:
            await database.stop()


@asynccontextmanager
async def fleet(folder: Path, count: int) -> AsyncIterator[Fleet]:
    """Start a process for so many subscriptions' receivers, with its keys in this folder, and end it."""
    clients = yardsticks.make_keys(folder)
    of_each = -(-count // PLATFORMS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.fleet", str(folder), str(of_each),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        port = json.loads(await process.stdout.readline())["port"]
        yield Fleet(process, folder, clients, port=port, parties_each=of_each)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(receive(Path(sys.argv[1]), int(sys.argv[2])))
