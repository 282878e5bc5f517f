"""Time as a value that is passed in, so that tests can hold it still."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that survives restarts, one that never jumps."""

    def now(self) -> float:
        """Seconds since the epoch, UTC; what is stored."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, for waits within this process; never stored."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that only grow; the same clock as asyncio's loop time."""
        return time.monotonic()


def ocpi_time(seconds: float) -> str:
    """Write a point in time as OCPI's ``DateTime`` with three decimals (B26)."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
