"""Time as a value that is passed in, so that tests can hold it still."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

MICRO: Final = 1_000_000
JUMP_MIN_S: Final = 1.0  # between two looks; what a time service does in such a while, it does by small steps


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


@dataclass(frozen=True, slots=True)
class Jump:
    """The clock was set: forward by so many seconds, or back. ``at`` is the time that it has shown since."""

    at: float
    by_s: float


class Jumps:
    """Notices that the clock that survives restarts was set while we ran, by the one that never jumps."""

    def __init__(self, clock: Clock) -> None:
        """Compare with this moment."""
        self.last: Jump | None = None
        self._clock = clock
        self._offset_s = clock.now() - clock.monotonic()

    def look(self) -> Jump | None:
        """Return a jump since the last look, if there was one; small corrections are none."""
        offset_s = self._clock.now() - self._clock.monotonic()
        by_s, self._offset_s = offset_s - self._offset_s, offset_s
        if abs(by_s) < JUMP_MIN_S:
            return None
        self.last = Jump(self._clock.now(), by_s)
        return self.last


def ocpi_time(seconds: float) -> str:
    """Write a point in time as OCPI's ``DateTime`` with three decimals (B26)."""
    whole, micro = divmod(round(seconds * MICRO), MICRO)
    return f"{_second(whole)}.{micro // 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(whole: int) -> str:
    """Write a second; the one that is now is written thousands of times."""
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}"
