"""Several processes of one platform on this machine: they share its sockets, and one that ends is started again.

::

    supervisor ── opens the sockets ──▶ forks ──▶ process 1 ─┐
        │                                  └────▶ process 2 ─┴─ each accepts connections, each owns some subscriptions
        └── SIGTERM: tells all, waits. When it dies, a pipe closes, and they end, too.

The supervisor does nothing else: no loop, no thread, no connection, so that a fork copies nothing that runs. What
processes do to each other they do through PostgreSQL and RabbitMQ, as between machines.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from engine import logs
from engine.app import Engine, Sockets, serve
from engine.server.operator.access import operator_token
from engine.server.operator.listener import listen as listen_for_operators
from engine.server.operator.listener import socket_file
from engine.server.site import listen as listen_for_partners
from engine.settings import BadSettings, PlatformFolder, Settings

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0
PAUSE_MAX_S: Final = 30.0
"""Before a process that ended is started again; doubles while they end soon, so that a fault that stays is no storm."""

LASTED_S: Final = 60.0  # a process that ran so long had no fault of its start
STOP_MARGIN_S: Final = 30.0  # beyond the deadline for answers: closing listeners, connections and the database
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class NotStarted(Exception):
    """The processes did not all start; each said why."""

    def __init__(self) -> None:
        super().__init__("a process did not start; it said why above")


def run(
    root: Path,
    processes: int,
    *,
    on_ready: Callable[[Settings, Sockets], None],
    explain: Callable[[Exception], None],
) -> None:
    """Serve a platform with so many processes until told to stop.

    ``on_ready`` is called once when all serve; ``explain``, in a process that fails, with what ``serve`` raised.
    Raises ``BadSettings``, ``BadListenAddress``, ``UnsafeTokenFile``, ``OSError`` and `NotStarted`.
    """
    folder = PlatformFolder(root)
    settings = folder.settings()
    logs.set_up(settings.logs.level, settings.logs.format)
    if not settings.store.url:
        raise BadSettings(
            "several processes need PostgreSQL, since SQLite has one writer: `ocpi-engine move` carries a platform over"
        )
    operator_token(folder.path(settings.api.token_file))  # made before there are several to make it
    sockets = Sockets(listen_for_partners(settings.listener), listen_for_operators(settings, folder))
    file = socket_file(settings, folder)
    try:
        with _wakeups() as wakeup:
            supervisor = _Supervisor(folder, settings, sockets, explain, wakeup)
            try:
                supervisor.watch(processes, on_ready)
            finally:
                supervisor.end()
    finally:
        if file is not None:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def _wakeups() -> Iterator[socket.socket]:
    """Have signals arrive as bytes of a socket."""
    ours, kernels = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - the socket's own signature
    kernels.setblocking(False)  # noqa: FBT003
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    fd_before = signal.set_wakeup_fd(kernels.fileno())
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        kernels.close()


class _Supervisor:
    def __init__(
        self,
        folder: PlatformFolder,
        settings: Settings,
        sockets: Sockets,
        explain: Callable[[Exception], None],
        wakeup: socket.socket,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._sockets = sockets
        self._explain = explain
        self._wakeup = wakeup
        self._started: dict[int, float] = {}  # processes that run, and since when
        self._due: list[float] = []  # when to start another
        self._pause_s = FIRST_PAUSE_S
        self._ready, self._say_ready = os.pipe()
        self._alive, self._keep_alive = os.pipe()

    def watch(self, processes: int, on_ready: Callable[[Settings, Sockets], None]) -> None:
        """Start them, and start anew what ends, until a signal says to stop.

        Raises `NotStarted` when one ends before all were ready for the first time.
        """
        for _ in range(processes):
            self._start()
        waiting = processes
        while True:
            now = time.monotonic()
            for at in [at for at in self._due if at <= now]:
                self._due.remove(at)
                self._start()
            wait_s = max(0.0, min(self._due) - now) if self._due else None
            found, _, _ = select.select([self._ready, self._wakeup.fileno()], [], [], wait_s)
            if self._ready in found:
                waiting -= len(os.read(self._ready, processes))
                if waiting == 0:
                    on_ready(self._settings, self._sockets)
            if self._wakeup.fileno() in found:
                if set(self._wakeup.recv(4096)) & {signal.SIGTERM, signal.SIGINT}:
                    return
                for process_id in self._ended():
                    if waiting > 0:
                        raise NotStarted
                    self._again(process_id)

    def end(self) -> None:
        """Tell all to stop, wait until they did, and kill what does not."""
        for process_id in self._started:
            os.kill(process_id, signal.SIGTERM)
            os.kill(process_id, signal.SIGCONT)  # one that was stopped could not hear it
        deadline = time.monotonic() + self._settings.replication.stop_deadline_s + STOP_MARGIN_S
        while self._started and time.monotonic() < deadline:
            select.select([self._wakeup.fileno()], [], [], 1.0)
            with contextlib.suppress(BlockingIOError):
                self._wakeup.recv(4096)
            for process_id in self._ended():
                del self._started[process_id]
        for process_id in self._started:
            _log.error("process %s did not stop in time", process_id, extra={"action": "killed"})
            os.kill(process_id, signal.SIGKILL)
            os.waitpid(process_id, 0)
        self._started.clear()

    def _ended(self) -> Iterator[int]:
        for process_id in list(self._started):
            if os.waitpid(process_id, os.WNOHANG)[0]:
                yield process_id

    def _again(self, process_id: int) -> None:
        lasted_s = time.monotonic() - self._started.pop(process_id)
        self._pause_s = FIRST_PAUSE_S if lasted_s > LASTED_S else min(2 * self._pause_s, PAUSE_MAX_S)
        _log.error(
            "process %s ended; another one starts in %s s",
            process_id,
            self._pause_s,
            extra={"action": "process_ended"},
        )
        self._due.append(time.monotonic() + self._pause_s)

    def _start(self) -> None:
        process_id = os.fork()
        if process_id == 0:
            self._be_one_of_them()
        self._started[process_id] = time.monotonic()

    def _be_one_of_them(self) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.close(self._keep_alive)
            asyncio.run(
                serve(
                    self._folder,
                    self._settings,
                    on_ready=self._tell_ready,
                    sockets=self._sockets,
                    until=self._alive,
                )
            )
            code = 0
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this process's last word
            self._explain(error)
        finally:
            os._exit(code)

    def _tell_ready(self, _engine: Engine) -> None:
        os.write(self._say_ready, b".")
