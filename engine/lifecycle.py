"""What every long-running part of the engine keeps to.

``start`` returns when the part is ready, ``stop`` when it has really stopped. Stopping twice, or before
starting, is safe. A background task that dies unasked is logged and started again after a pause.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

_log = logging.getLogger(__name__)

RESTART_PAUSE_S = 1.0  # long enough not to spin on a fault that stays, short enough not to be noticed otherwise


REREAD_PAUSE_S = 0.2  # what another process changes is told within milliseconds: who has to ask can wait


class Service(Protocol):
    """A part that runs until it is stopped."""

    async def start(self) -> None:
        """Return when ready."""
        ...

    async def stop(self) -> None:
        """Return when stopped; safe to call at any time."""
        ...


class Background:
    """One supervised task: ``run`` is called again when it fails, until it is stopped.

    ``expected`` are failures that say all in their message, and pass: they are logged without a trace.
    """

    def __init__(
        self, name: str, run: Callable[[], Awaitable[None]], *, expected: tuple[type[Exception], ...] = ()
    ) -> None:
        """Remember what to run; nothing runs before ``start``."""
        self._name = name
        self._run = run
        self._expected = expected
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, unless it runs already."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise(), name=self._name)

    async def stop(self) -> None:
        """Cancel the task and wait for its end."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _supervise(self) -> None:
        while True:
            try:
                await self._run()
            except self._expected as error:
                _log.warning("%s", error, extra={"action": "retry", "task": self._name})
                await asyncio.sleep(RESTART_PAUSE_S)
            except Exception:  # noqa: BLE001 - whatever it was, the task has to run again
                _log.exception("background task failed", extra={"action": "restart", "task": self._name})
                await asyncio.sleep(RESTART_PAUSE_S)
            else:
                return


class Rereading:
    """Reads something again for many who ask, seldom enough that strangers cannot make it a burden."""

    def __init__(self, reread: Callable[[], Awaitable[None]]) -> None:
        """Remember what to do."""
        self._reread = reread
        self._ended_at = -math.inf
        self._running: asyncio.Task[None] | None = None

    async def now(self) -> None:
        """Return when it was read again; whoever asks at the same time shares one reading, and what it raises."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await asyncio.shield(self._running)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._ended_at + REREAD_PAUSE_S - loop.time()))
        self._running = None  # whoever asks from now on may know of something newer
        try:
            await self._reread()
        finally:
            self._ended_at = loop.time()
