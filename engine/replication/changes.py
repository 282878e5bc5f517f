"""Waiting for a log to grow: what followers of the local API, and a subscription's operators, hang on."""

import asyncio


class Changes:
    """Where each log ends, as far as this process was told."""

    def __init__(self) -> None:
        """Know of no log yet."""
        self._ends: dict[str, int] = {}
        self._grown: dict[str, asyncio.Event] = {}

    def reached(self, log: str, end: int) -> None:
        """Wake whoever waits for something beyond what it saw."""
        if end > self._ends.get(log, 0):
            self._ends[log] = end
            grown = self._grown.pop(log, None)
            if grown is not None:
                grown.set()

    async def wait(self, log: str, after: int) -> int:
        """Return where the log ends, once that is beyond ``after``."""
        while self._ends.get(log, 0) <= after:
            await self._grown.setdefault(log, asyncio.Event()).wait()
        return self._ends[log]
