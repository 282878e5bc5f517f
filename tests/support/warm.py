"""The engine's processes for tests, forked from an interpreter that has loaded the engine already.

To load it takes a second of CPU, and tests start it some hundreds of times::

    test ──start──▶ this file as a program: everything imported, one thread ──fork──▶ ocpi-engine WORDS

From there on it is a process like any other: it runs the command line from its first word, with an environment, files,
process id and exit code of its own, and can be killed at any moment. The tests of the command line and of the demo
start ``python -m engine`` itself.
"""

import asyncio
import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final

_PID_BYTES: Final = 4
_CODE_BYTES_MAX: Final = 16


class Process:
    """A process of the engine, as `asyncio.subprocess.Process` shows one; for the loop in which it was started."""

    def __init__(self, told: socket.socket, pid: int) -> None:
        """Learn here how it ends."""
        self.pid = pid
        self.returncode: int | None = None
        self._told = told
        self._ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(told, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._told)
        with self._told:
            self.returncode = int(self._told.recv(_CODE_BYTES_MAX))
        self._ended.set()

    async def wait(self) -> int:
        """Wait for its end, and return its exit code, or of the signal that ended it the negative number."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; raises ``ProcessLookupError`` if it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, number)


async def start(
    words: Sequence[str], *, stdin: bytes = b"", stdout: IO[Any], environment: Mapping[str, str]
) -> Process:
    """Run ``ocpi-engine WORDS`` in this folder; what it says of errors goes into ``stdout``, too."""
    loop = asyncio.get_running_loop()
    told, asked = socket.socketpair()
    told.setblocking(False)
    with asked, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        files = [asked.fileno(), given.fileno(), stdout.fileno(), stdout.fileno()]
        socket.send_fds(_forker(), [b"."], files)
    order = {"words": list(words), "environment": dict(environment), "folder": str(Path.cwd())}
    await loop.sock_sendall(told, json.dumps(order).encode() + b"\n")
    pid = await loop.sock_recv(told, _PID_BYTES)
    assert pid, "what forks has ended"
    return Process(told, int.from_bytes(pid))


@cache
def _forker() -> socket.socket:
    """Load the engine, once for all tests of this process; it is let go with this process."""
    control, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen([sys.executable, "-m", __name__], stdin=theirs.fileno())

    def end() -> None:
        control.close()
        process.wait()

    atexit.register(end)
    return control


# -- the program ----------------------------------------------------------------------------------------------


def _load() -> None:
    """Import whatever a command may import."""
    for package in ("engine", "brokers"):
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not found.name.endswith("__main__") and ".migrations." not in found.name:
                importlib.import_module(found.name)


def _fork() -> list[int]:
    """Fork for each message; returns in the new process, with the files that came with it. Ends with the tests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler it would not wake us
    control, running = socket.socket(fileno=os.dup(0)), dict[int, socket.socket]()
    wakened, waker = socket.socketpair()
    for end in (wakened, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    while True:
        ready, _, _ = select.select([control, wakened], [], [])
        if wakened in ready:
            wakened.recv(4096)
            _tell(running)
        if control in ready:
            word, files, _, _ = socket.recv_fds(control, 1, 4)
            if not word:
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                sys.exit()
            if (pid := os.fork()) == 0:
                os.setsid()  # Linux shares the CPU out to sessions: else all engines of all tests have one share
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for mine in (control, wakened, waker, *running.values()):
                    mine.close()
                return files
            for file in files[1:]:
                os.close(file)
            running[pid] = socket.socket(fileno=files[0])
            running[pid].sendall(pid.to_bytes(_PID_BYTES))


def _tell(running: dict[int, socket.socket]) -> None:
    """Tell the exit codes of those that have ended to whoever asked for them."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as asked:
            asked.sendall(b"%d" % os.waitstatus_to_exitcode(status))


def _become(files: list[int]) -> None:
    """Take files, environment and words from whoever asked."""
    with socket.socket(fileno=files[0]) as asked, asked.makefile("rb") as lines:
        order = json.loads(lines.readline())
    for number, file in enumerate(files[1:]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    sys.argv = ["ocpi-engine", *order["words"]]
    importlib.reload(sys.modules["engine.faults"])  # reads the environment when it is loaded, alone of all


def main() -> None:
    """Load the engine, and be it whenever a test asks for one."""
    _load()
    gc.freeze()  # so that collections touch nothing that all of them share
    _become(_fork())
    from engine.__main__ import main as engine  # noqa: PLC0415 - all else is loaded

    engine()


if __name__ == "__main__":
    main()
