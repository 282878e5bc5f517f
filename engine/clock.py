"""Time as a value that is passed in, so that tests can hold it still."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

MICRO: Final = 1_000_000


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
    whole, micro = divmod(round(seconds * MICRO), MICRO)
    return f"{_second(whole)}.{micro // 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(whole: int) -> str:
    """Write a second; the one that is now is written thousands of times."""
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}"
