"""Time as it is stored and as it is written."""

import asyncio
import time

import pytest

from engine.clock import SystemClock, ocpi_time


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
