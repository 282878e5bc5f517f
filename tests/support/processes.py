"""Real platforms: each its own process, folder, database, authority and keys, on loopback.

A test drives them as an operator does, through the local API; ``Platform.command`` runs the command line where that
is what the test is about. Everything that was started is ended by its process id.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from engine.settings import PlatformFolder

START_TIMEOUT_S = 30.0
WAIT_TIMEOUT_S = 60.0


def free_port() -> int:
    """Find a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Platform:
    """One platform, as a process of its own."""

    def __init__(self, folder: Path, *, identity: str, party: str, role: str, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.identity = identity
        self.party = party
        self.role = role
        self.port = free_port()
        self.base_url = f"https://localhost:{self.port}/ocpi"
        self.settings = dict(settings)  # OCPI_ENGINE_… variables of every run
        self.process: asyncio.subprocess.Process | None = None
        self.log = folder.parent / f"{folder.name}.log"

    @property
    def server_ca(self) -> Path:
        """The authority of its server certificate."""
        return self.folder / "tls" / "server-ca.pem"

    async def make(self) -> None:
        """Make its folder."""
        await self.command(
            "init", "--identity", self.identity, "--party", self.party, "--role", self.role,
            "--base-url", self.base_url, "--listen", f"127.0.0.1:{self.port}", "--allow-private-addresses",
        )  # fmt: skip

    async def command(self, verb: str, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        """Run ``ocpi-engine VERB DIR …``, expect its exit code, and return what it printed."""
        words = [*verb.split(), str(self.folder), *arguments]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "engine", *words,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        printed = (await process.communicate(stdin))[0].decode()
        assert process.returncode == code, f"{' '.join(words)} ended with {process.returncode}:\n{printed}"
        return printed

    async def start(self, **settings: str) -> None:
        """Serve; further settings hold for this run only."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "engine", "serve", str(self.folder),
                stdout=log, stderr=log, env=os.environ | self.settings | settings,
            )  # fmt: skip
        await self.ready()

    async def ready(self) -> None:
        """Wait until it serves."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                assert self.process is not None
                if self.process.returncode is not None:
                    raise AssertionError(f"{self.identity} did not start:\n{self.log.read_text()[-3000:]}")
                try:
                    async with self.api() as api:
                        if (await api.get("/readyz")).status_code == httpx.codes.OK:
                            return
                except (httpx.TransportError, OSError):
                    pass
                await asyncio.sleep(0.05)

    async def ended(self) -> int:
        """Wait until the process has ended by itself."""
        assert self.process is not None
        return await self.process.wait()

    async def stop(self) -> int:
        """Stop in order."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """Kill without a word."""
        return await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    def api(self) -> httpx.AsyncClient:
        """Talk to its local API as the operator."""
        folder = PlatformFolder(self.folder)
        token_file = folder.run / "api-token"
        token = token_file.read_text().strip() if token_file.exists() else ""
        transport = httpx.AsyncHTTPTransport(uds=str(folder.run / "api.sock"))
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(transport=transport, base_url="http://engine", headers=headers, timeout=60.0)

    async def state(self) -> dict[str, Any]:
        """Read the state endpoint."""
        async with self.api() as api:
            answer = await api.get("/state")
            answer.raise_for_status()
            read: dict[str, Any] = answer.json()
            return read

    async def publish(self, module: str, objects: Mapping[str, bytes]) -> list[dict[str, Any]]:
        """Publish payloads by id, byte for byte."""
        lines = (b'{"id":%b,"payload":%b}' % (json.dumps(i).encode(), payload) for i, payload in objects.items())
        async with self.api() as api:
            answer = await api.post(
                f"/api/v1/parties/{self.party}/objects/{module}",
                content=b"[%b]" % b",".join(lines),  # not a line each: payloads may have line breaks of their own
                headers={"Content-Type": "application/json"},
            )
            answer.raise_for_status()
            results: list[dict[str, Any]] = answer.json()["results"]
            return results

    async def wait_for(
        self, condition: Callable[[dict[str, Any]], bool], *, timeout_s: float = WAIT_TIMEOUT_S
    ) -> dict[str, Any]:
        """Read the state until it satisfies a condition."""
        async with asyncio.timeout(timeout_s):
            while not condition(state := await self.state()):
                await asyncio.sleep(0.05)
            return state

    async def drained(self, *, timeout_s: float = WAIT_TIMEOUT_S) -> None:
        """Wait until it owes nothing to anybody."""
        await self.wait_for(
            lambda state: all(s["queue_size"] == 0 for s in state["subscriptions_here"]), timeout_s=timeout_s
        )


async def connect(a: Platform, b: Platform) -> None:
    """Have certificates signed both ways and make the handshake from ``a`` to ``b``."""
    for asker, signer in ((a, b), (b, a)):
        csr, chain = asker.folder.parent / f"{asker.identity}.csr", asker.folder.parent / f"{asker.identity}.pem"
        await asker.command("certificate request", signer.identity, "--out", str(csr))
        await signer.command("certificate sign", str(csr), "--confirmed", "--out", str(chain))
        await asker.command("certificate install", signer.identity, str(chain), "--server-ca", str(signer.server_ca))
    await a.command("connect", b.base_url, "--identity", b.identity)


@asynccontextmanager
async def platforms(
    folder: Path, *, settings: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Platform, Platform]]:
    """Make and start a CPO (party BEBEC) and an eMSP (party NLEMS), not yet connected."""
    quick = {
        "OCPI_ENGINE_SUBSCRIPTIONS__ASK_AGAIN_S": "0.2",
        "OCPI_ENGINE_SUBSCRIPTIONS__NOTICE_AGAIN_S": "0.2",
        "OCPI_ENGINE_PEERS__REQUEST_TIMEOUT_MS": "2000",
        "OCPI_ENGINE_REPLICATION__PROBE_PAUSE_MAX_S": "0.5",
        "OCPI_ENGINE_REPLICATION__HEARTBEAT_S": "2",
    } | dict(settings or {})
    cpo = Platform(folder / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings=quick)
    emsp = Platform(folder / "emsp", identity="emsp.example.org", party="NLEMS", role="EMSP", settings=quick)
    try:
        for platform in (cpo, emsp):
            await platform.make()
            await platform.start()
        yield cpo, emsp
    finally:
        for platform in (cpo, emsp):
            await platform.kill()


@asynccontextmanager
async def connected_platforms(
    folder: Path, *, settings: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Platform, Platform]]:
    """Make a CPO and an eMSP that are connected; the eMSP made the handshake."""
    async with platforms(folder, settings=settings) as (cpo, emsp):
        await connect(emsp, cpo)
        yield cpo, emsp
