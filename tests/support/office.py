"""A real platform with back offices in it, to be killed: each takes every call, notes it, and concludes it soon.

It is a program: ``python -m tests.support.office serve DIR`` is ``ocpi-engine serve DIR`` with such a back office for
every operation but ``tokens/authorize``. What it took stands in the file that ``OFFICE_LOG`` names, one id a line. A
call whose parameters have the word WAIT in them is never concluded, one with NO is concluded with REJECTED.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from engine.__main__ import main
from engine.app import Engine
from engine.protocol.calls import CallState, operation
from engine.refusals import Refused
from engine.relay.offices import Accepted, Answered, IncomingCall, Reply
from tests.support import warm
from tests.support.generated import REPOSITORY
from tests.support.offices import ERRORS, OPERATIONS, result_of
from tests.support.processes import Platform

LOG: Final = "OFFICE_LOG"
LOOK_EVERY_S: Final = 0.02  # as a back office does that asks for open calls every so often


class OfficePlatform(Platform):
    """A platform as a process of its own, with back offices in it."""

    @property
    def office_log(self) -> Path:
        """What was taken."""
        return self.folder.parent / f"{self.folder.name}.taken"

    def taken(self) -> list[int]:
        """Ids of the calls that were handed over, each as often as it was."""
        return [int(line) for line in self.office_log.read_text().split()] if self.office_log.exists() else []

    async def launch(
        self, words: Sequence[str], log: IO[bytes], environment: Mapping[str, str]
    ) -> warm.Process | asyncio.subprocess.Process:
        """Start the process that serves."""
        told = dict(environment) | {LOG: str(self.office_log)}
        command = (sys.executable, "-m", __name__, *words)
        return await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=told, cwd=REPOSITORY)


class _Office:
    """Takes everything."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def take(self, call: IncomingCall) -> Reply:
        """Note a call so that no crash can lose it, and agree."""
        _note(call.id)
        return Accepted() if call.asynchronous else Answered(result_of(f"{call.module}/{call.operation}"))

    async def conclude_all(self) -> None:
        """Conclude whatever is accepted, again and again."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for found in await self._engine.calls.page(is_open=True, asked_here=False, limit=1000):
                call = found.call
                if call.state is CallState.ACCEPTED and call.hand_over_at is None and b"WAIT" not in call.payload:
                    with contextlib.suppress(Refused):  # the connection has just ended, and the call with it
                        await self._conclude(call.id, f"{call.module}/{call.operation}", refuse=b"NO" in call.payload)

    async def _conclude(self, call_id: int, name: str, *, refuse: bool) -> None:
        if not refuse:
            await self._engine.calls.conclude(call_id, "SUCCESS", payload=result_of(name))
            return
        asked = operation(*name.split("/"))
        assert asked is not None
        assert asked.call.error is not None
        await self._engine.calls.conclude(call_id, "REJECTED", error=ERRORS[asked.call.error.__name__])


def _note(call_id: int) -> None:
    with Path(os.environ[LOG]).open("a") as log:
        log.write(f"{call_id}\n")
        log.flush()
        os.fsync(log.fileno())


def _with_offices() -> None:
    started = Engine.start

    async def start(self: Engine) -> None:
        office = _Office(self)
        for name in OPERATIONS:
            if name != "tokens/authorize":
                module, asked = name.split("/")
                self.calls.build_in(module, asked, office)
        await started(self)
        _running.append(asyncio.create_task(office.conclude_all()))

    setattr(Engine, "start", start)  # noqa: B010 - of this process, which is for tests alone


_running: list[asyncio.Task[None]] = []

if __name__ == "__main__":
    _with_offices()
    main()
