"""Time as it is stored and as it is written."""

import asyncio
import time

import pytest

from engine.clock import Jumps, SystemClock, ocpi_time


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_577_836_800.0, "2020-01-01T00:00:00.000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250Z"),
        (1_700_000_000.9999, "2023-11-14T22:13:20.999Z"),
        (1_709_164_800.0, "2024-02-29T00:00:00.000Z"),
    ],
)
def test_times_are_written_in_utc_with_three_decimals(seconds, text):
    """Cut off, not rounded up into the next second (B26)."""
    assert ocpi_time(seconds) == text


async def test_the_clocks_of_this_machine():
    """One is the wall's; the other is the event loop's, so that its values can be waited for."""
    clock = SystemClock()

    assert abs(clock.now() - time.time()) < 5
    assert abs(clock.monotonic() - asyncio.get_running_loop().time()) < 5


class SetClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.wall, self.running = 1000.0, 5.0

    def now(self) -> float:
        """Tell what was set."""
        return self.wall

    def monotonic(self) -> float:
        """Tell what only grows."""
        return self.running


def test_a_clock_that_was_set_is_noticed_once():
    """Forward or back; time that passes, and small corrections, are no jumps."""
    clock = SetClock()
    jumps = Jumps(clock)
    clock.wall, clock.running = 1010.4, 15.0
    assert jumps.look() is None

    clock.wall, clock.running = 4611.4, 16.0
    forward = jumps.look()
    assert forward is not None
    assert forward.at == 4611.4
    assert forward.by_s == pytest.approx(3600.0)
    clock.wall, clock.running = 4612.4, 17.0
    assert jumps.look() is None

    clock.wall, clock.running = 4600.0, 18.0
    jump = jumps.look()
    assert jump is not None
    assert jump.by_s == pytest.approx(-13.4)
    assert jumps.last == jump
