"""Waiting for logs to grow: what followers of the local API, and a subscription's operators, hang on."""

import asyncio
from collections.abc import Mapping


class Changes:
    """Where each log ends, as far as this process was told."""

    def __init__(self) -> None:
        """Know of no log yet."""
        self._ends: dict[str, int] = {}
        self._grown = asyncio.Event()

    def reached(self, log: str, end: int) -> None:
        """Wake whoever waits for something beyond what it saw."""
        if end > self._ends.get(log, 0):
            self._ends[log] = end
            grown, self._grown = self._grown, asyncio.Event()
            grown.set()

    async def wait(self, after: Mapping[str, int]) -> Mapping[str, int]:
        """Return where these logs end, once one of them ends beyond where it was read to."""
        while all(self._ends.get(log, 0) <= seen for log, seen in after.items()):
            await self._grown.wait()
        return {log: self._ends.get(log, 0) for log in after}
