"""The local API's listener: uvicorn in the engine's own loop, on a Unix socket or on loopback, nowhere else."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI

from engine.server.operator.api import create_app
from engine.server.operator.services import Services
from engine.settings import PlatformFolder, Settings

STOP_WITHIN_S = 5  # answers in progress have this long; streams of changes end at once
DATE_EVERY_S: Final = 1.0
SOCKET_PATH_MAX: Final = 103  # bytes of a Unix socket's path: 107 on Linux, 103 on macOS


class BadListenAddress(Exception):
    """``api.listen`` cannot be used; the message says why."""


class OperatorListener:
    """Serves the local API from ``start`` to ``stop``."""

    def __init__(self, services: Services, *, listening: socket.socket | None = None) -> None:
        """Serve these; nothing listens before ``start``.

        ``listening`` is a socket that several processes share; without it, the listener opens its own.
        """
        self._shared = listening
        self._services = services
        self._app: FastAPI | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._socket_file: Path | None = None
        self.address = ""
        """Where it listens: ``unix:PATH`` or ``HOST:PORT``, once it does."""

    async def start(self) -> None:
        """Listen, and return when requests are answered.

        Raises ``BadListenAddress``, and ``UnsafeTokenFile`` when others can read the operator's token.
        """
        if self._serving is not None:
            return
        self._app = create_app(self._services)
        listening = self._shared
        if listening is None:
            listening = listen(self._services.settings, self._services.folder)
            self._socket_file = socket_file(self._services.settings, self._services.folder)
        self.address = shown(listening)
        config = uvicorn.Config(
            self._app,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=STOP_WITHIN_S,
            loop="none",
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]), name="local API")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            ready.cancel()
            await self._serving

    async def stop(self) -> None:
        """End the streams of changes, finish what is being answered, and close."""
        server, serving = self._server, self._serving
        self._server = self._serving = None
        if server is None or serving is None or self._app is None:
            return
        self._app.state.closing.set()
        server.end()
        await asyncio.wait({serving})
        if self._socket_file is not None:
            self._socket_file.unlink(missing_ok=True)


def listen(settings: Settings, folder: PlatformFolder) -> socket.socket:
    """Open the socket that ``api.listen`` names. Raises ``BadListenAddress``."""
    file = socket_file(settings, folder)
    return _loopback_socket(settings.api.listen) if file is None else _unix_socket(file)


def socket_file(settings: Settings, folder: PlatformFolder) -> Path | None:
    """Say where the file of a Unix socket is; None: ``api.listen`` is no such socket."""
    where = settings.api.listen
    return folder.path(where.removeprefix("unix:")) if where.startswith("unix:") else None


def shown(listening: socket.socket) -> str:
    """Write where a socket listens: ``unix:PATH`` or ``HOST:PORT``."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Server(uvicorn.Server):
    """Uvicorn's server, which leaves signals to the engine and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Wait for the end, and renew the date of answers each second; uvicorn's own looks ten times as often."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), DATE_EVERY_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def _unix_socket(path: Path) -> socket.socket:
    if len(str(path).encode()) > SOCKET_PATH_MAX:
        raise BadListenAddress(
            f"{path} is too long for a Unix socket ({SOCKET_PATH_MAX} bytes): use a folder with a shorter path,"
            " or set api.listen to 127.0.0.1:PORT"
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))  # nobody else gets into its folder, so nobody is quicker than the next line
        path.chmod(0o600)
        listening.listen()
    except OSError as error:
        listening.close()
        raise BadListenAddress(f"cannot listen at {path}: {error.strerror}") from error
    return listening


def _remove_stale(path: Path) -> None:
    """Remove the socket of a process that is gone; one that still answers is somebody's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise BadListenAddress(f"another process answers at {path}: stop it, or set api.listen to another path")


def _loopback_socket(where: str) -> socket.socket:
    host, separator, port = where.rpartition(":")
    host = {"localhost": "127.0.0.1"}.get(host, host.strip("[]"))
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not separator or not port.isdecimal() or not loopback:
        raise BadListenAddress(
            f"api.listen is {where!r}: the local API listens at unix:PATH or 127.0.0.1:PORT, and nowhere else"
        )
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise BadListenAddress(f"cannot listen at {where}: {error}") from error
