"""One gate for each platform: open while it answers, one probe at a time while it is down (B6).

When a whole platform is unreachable, trying every object would burn a failed attempt on each of them. After
some failed connections in a row the gate narrows to one request at a time for the whole platform, the earliest
due, with a pause of ``min(2^(k-1), max)`` seconds after the k-th failed probe. A success widens it by doubling,
so that no storm breaks loose when a platform comes back.
"""

import asyncio
from typing import Protocol

UNUSED_PLACE_S = 0.05  # a waiter that was let in and has nothing to send leaves its place to the next after this
WIDE_OPEN = 1024  # requests at once; wider than any platform's subscriptions together


class Waiter(Protocol):
    """Who waits at a gate: whoever has something to send there."""

    def due_at(self) -> float:
        """When its next request was due."""
        ...

    def admitted(self) -> None:
        """Send what may be sent now."""
        ...


class Gate:
    """Admits requests to one platform. Single event loop; nothing here waits."""

    def __init__(self, *, down_after_failures: int, pause_max_s: float) -> None:
        """Begin open."""
        self._down_after = down_after_failures
        self._pause_max_s = pause_max_s
        self._limit: int | None = None
        self._in_progress = 0
        self._failures = 0
        self._failed_probes = 0
        self._narrowed_at = 0.0
        self._closed_until = 0.0
        self._waiters: dict[Waiter, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def narrow(self) -> bool:
        """Whether the platform counts as down, or has just come back."""
        return self._limit is not None

    @property
    def failures(self) -> int:
        """How many connections failed since the last answer."""
        return self._failures

    def next_probe_in_s(self, now: float) -> float | None:
        """Return how long nothing is sent; None while the gate is open."""
        return None if self._limit is None else max(0.0, self._closed_until - now)

    def enter(self, now: float) -> bool:
        """Take a place, if there is one. ``now`` is the loop's monotonic time."""
        if self._limit is not None and (self._in_progress >= self._limit or now < self._closed_until):
            return False
        self._in_progress += 1
        return True

    def leave(self, *, began: float, up: bool | None, now: float) -> None:
        """Give the place back, and say whether the platform answered; None when nothing was learnt."""
        self._in_progress -= 1
        if up:
            self._succeeded()
        elif up is not None:
            self._failed(began, now)
        if self._waiters:
            self.let_in(now)

    def wait(self, waiter: Waiter, now: float) -> None:
        """Tell the waiter when something may be sent again."""
        self._waiters[waiter] = None
        self._arm(now)

    def forget(self, waiter: Waiter) -> None:
        """Call this waiter no more."""
        self._waiters.pop(waiter, None)

    def let_in(self, now: float) -> None:
        """Let as many waiters send as there are places, the earliest due first."""
        for waiter in sorted(self._waiters, key=lambda waiter: waiter.due_at())[: self._places(now)]:
            del self._waiters[waiter]
            waiter.admitted()
        if self._waiters:
            self._arm(now)

    def _places(self, now: float) -> int:
        if self._limit is None:
            return len(self._waiters)
        return max(0, self._limit - self._in_progress) if now >= self._closed_until else 0

    def _succeeded(self) -> None:
        self._failures = 0
        if self._limit is None:
            return
        self._failed_probes = 0
        self._closed_until = 0.0
        self._limit *= 2
        if self._limit > WIDE_OPEN:
            self._limit = None

    def _failed(self, began: float, now: float) -> None:
        self._failures += 1
        if self._limit is None:
            if self._failures < self._down_after:
                return
        elif began < self._narrowed_at:
            return  # was under way before the gate narrowed: not a probe
        self._limit = 1
        self._failed_probes += 1
        self._narrowed_at = now
        self._closed_until = now + min(2.0 ** min(self._failed_probes - 1, 30), self._pause_max_s)

    def _arm(self, now: float) -> None:
        """Look again when the gate opens, or soon when a place may stay unused; a place given back looks by itself."""
        if self._timer is not None:
            self._timer.cancel()
        delay = self._closed_until - now
        if delay <= 0:
            if not self._places(now):
                return
            delay = UNUSED_PLACE_S
        self._timer = asyncio.get_running_loop().call_later(delay, self._open_again)

    def _open_again(self) -> None:
        self._timer = None
        self.let_in(asyncio.get_running_loop().time())
