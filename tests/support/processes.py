"""Real platforms: each its own process, folder, database, authority and keys, on loopback.

A test drives them as an operator does, through the local API; ``Platform.command`` runs the command line where that
is what the test is about. Everything that was started is ended by its process id.
"""

import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

import httpx

from engine.cli.places import Place
from engine.registration.folder import make_folder
from engine.settings import PlatformFolder
from tests.support import warm
from tests.support.backing import EMBEDDED, Backing
from tests.support.services import free_port

START_TIMEOUT_S = 30.0
WAIT_TIMEOUT_S = 60.0
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # else httpx loads the world's authorities for each client


def local_api(folder: PlatformFolder, token: str | None, *, socket: str = "api.sock") -> httpx.AsyncClient:
    """Make a client of a platform's local API that shows this token, or none."""
    transport = httpx.AsyncHTTPTransport(uds=str(folder.run / socket), verify=_NO_TLS)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(
        transport=transport, base_url="http://engine", headers=headers, timeout=60.0, trust_env=False
    )


class Platform:
    """One platform, as a process of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        party: str,
        role: str,
        settings: Mapping[str, str],
        made_with: Sequence[str] = (),
        place: Place | None = None,
    ) -> None:
        self.made_with = made_with  # further options of `init`
        self.served_with: Sequence[str] = ()  # and of `serve`
        self.place = place  # at PostgreSQL and RabbitMQ; None: its folder and process
        self.folder = folder
        self.socket = "api.sock"  # of its local API
        self.code: Path | None = None  # of another version, in this folder
        self.identity = identity
        self.party = party
        self.role = role
        self.port = free_port()
        self.base_url = f"https://localhost:{self.port}/ocpi"
        self.settings = dict(settings)  # OCPI_ENGINE_… variables of every run
        self.process: warm.Process | asyncio.subprocess.Process | None = None
        self.log = folder.parent / f"{folder.name}.log"

    @property
    def server_ca(self) -> Path:
        """The authority of its server certificate."""
        return self.folder / "tls" / "server-ca.pem"

    async def make(self) -> None:
        """Make its folder, as ``init`` does; with further options, by ``init`` itself."""
        if self.made_with:
            await self.command(
                "init", "--identity", self.identity, "--party", self.party, "--role", self.role,
                "--base-url", self.base_url, "--listen", f"127.0.0.1:{self.port}", "--allow-private-addresses",
                *self.made_with,
            )  # fmt: skip
            return
        await make_folder(
            PlatformFolder(self.folder),
            identity=self.identity,
            base_url=self.base_url,
            parties=[self.party],
            roles=[self.role],
            listen_port=self.port,
            allow_private=True,
            database_url=None if self.place is None else self.place.database_url,
            broker_url=None if self.place is None else self.place.broker_url,
        )
        if self.place is not None:
            self.place.take(self.folder / "engine.toml")

    @property
    def database_url(self) -> str:
        """Where its data are."""
        folder = PlatformFolder(self.folder)
        return folder.database_url(folder.settings({}))

    async def command(self, verb: str, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        """Run ``ocpi-engine VERB DIR …``, expect its exit code, and return what it printed."""
        words = [*verb.split(), str(self.folder), *arguments]
        with tempfile.TemporaryFile() as said:
            ended = await (await warm.start(words, stdin=stdin, stdout=said, environment=os.environ)).wait()
            said.seek(0)
            printed = said.read().decode()
        assert ended == code, f"{' '.join(words)} ended with {ended}:\n{printed}"
        return printed

    async def start(self, **settings: str) -> None:
        """Serve; further settings hold for this run only."""
        environment = os.environ | self.settings | settings
        with self.log.open("ab") as log:
            words = ["serve", str(self.folder), *self.served_with]
            self.process = await self.launch(words, log, environment)
        await self.ready()

    async def launch(
        self, words: Sequence[str], log: IO[bytes], environment: Mapping[str, str]
    ) -> warm.Process | asyncio.subprocess.Process:
        """Start the process that serves."""
        if self.code is not None:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "engine", *words, stdout=log, stderr=log, env=environment, cwd=self.code
            )
        return await warm.start(words, stdout=log, environment=environment)

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
        return local_api(folder, token, socket=self.socket)

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
        async with asker.api() as asking, signer.api() as signing:
            request = await _post(asking, "/certificates/request", {"platform": signer.identity})
            signed = await _post(signing, "/certificates/sign", {"csr": request["csr"], "confirmed": True})
            order = {"platform": signer.identity, "chain": signed["chain"], "server_ca": signer.server_ca.read_text()}
            await _post(asking, "/certificates/install", order)
    async with a.api() as connecting:
        await _post(connecting, f"/platforms/{b.identity}/connect", {"base_url": b.base_url})


async def _post(api: httpx.AsyncClient, path: str, order: dict[str, Any]) -> dict[str, Any]:
    answer = await api.post(f"/api/v1{path}", json=order)
    assert answer.is_success, answer.text
    done: dict[str, Any] = answer.json()
    return done


@asynccontextmanager
async def platforms(
    folder: Path,
    *,
    settings: Mapping[str, str] | None = None,
    made_with: Sequence[Sequence[str]] = ((), ()),
    prepare: Callable[[Platform], Awaitable[None]] | None = None,
    backing: Backing = EMBEDDED,
) -> AsyncIterator[tuple[Platform, Platform]]:
    """Make and start a CPO (party BEBEC) and an eMSP (party NLEMS), not yet connected; ``prepare`` comes between."""
    quick = {
        "OCPI_ENGINE_SUBSCRIPTIONS__ASK_AGAIN_S": "0.2",
        "OCPI_ENGINE_SUBSCRIPTIONS__NOTICE_AGAIN_S": "0.2",
        "OCPI_ENGINE_PEERS__REQUEST_TIMEOUT_MS": "2000",
        "OCPI_ENGINE_REPLICATION__PROBE_PAUSE_MAX_S": "0.5",
        "OCPI_ENGINE_REPLICATION__HEARTBEAT_S": "2",
    } | dict(settings or {})
    async with backing.place() as place_of_cpo, backing.place() as place_of_emsp:
        cpo = Platform(
            folder / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings=quick,
            made_with=made_with[0], place=place_of_cpo,
        )  # fmt: skip
        emsp = Platform(
            folder / "emsp", identity="emsp.example.org", party="NLEMS", role="EMSP", settings=quick,
            made_with=made_with[1], place=place_of_emsp,
        )  # fmt: skip
        try:
            for platform in (cpo, emsp):
                await platform.make()
                if prepare is not None:
                    await prepare(platform)
                await platform.start()
            yield cpo, emsp
        finally:
            for platform in (cpo, emsp):
                await platform.kill()


@asynccontextmanager
async def connected_platforms(
    folder: Path,
    *,
    settings: Mapping[str, str] | None = None,
    made_with: Sequence[Sequence[str]] = ((), ()),
    backing: Backing = EMBEDDED,
) -> AsyncIterator[tuple[Platform, Platform]]:
    """Make a CPO and an eMSP that are connected; the eMSP made the handshake."""
    async with platforms(folder, settings=settings, made_with=made_with, backing=backing) as (cpo, emsp):
        await connect(emsp, cpo)
        yield cpo, emsp
