"""Things that are due at some time, each for one key: a handshake to repeat, parties to fetch, a callback to make.

Each errand runs by itself, so that a partner who does not answer delays no other. When it ends, what is due is
asked for again: the truth about it lives with whoever owns the errands, here is only the running.

Of several processes one runs what is due, and any may run something now; no two run the same at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from engine.clock import Clock
from engine.lifecycle import RESTART_PAUSE_S, Background
from engine.store.database import StoreUnavailable
from engine.store.membership import Membership

_log = logging.getLogger(__name__)

GRACE_S: Final = 1.0  # for what is at the database when the engine stops; who waits for a partner waits in vain
AT_ONCE_MAX: Final = 16  # requests of this kind in progress: they are rare, and none is in a hurry
LOOK_AT_OTHERS_S: Final = 0.2  # an operator waits: another process does at this moment what was asked for
DOUBLINGS_MAX: Final = 30  # keeps a pause finite; the longest one is reached long before


class Errands:
    """Does what is due, until stopped. Single event loop."""

    def __init__(
        self,
        name: str,
        *,
        due: Callable[[], Awaitable[Mapping[int, float]]],
        run: Callable[[int], Awaitable[None]],
        clock: Clock,
        membership: Membership,
        look_again_s: float,
    ) -> None:
        """Remember whom to ask. ``due`` gives the time of each key; ``look_again_s`` is the longest unasked wait."""
        self._membership = membership
        self._name = name
        self._due = due
        self._run = run
        self._clock = clock
        self._look_again_s = look_again_s
        self._awake = asyncio.Event()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._not_before: dict[int, float] = {}
        self._stopping = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._loop = Background(name, self._keep_running, expected=(StoreUnavailable,))

    async def start(self) -> None:
        """Begin."""
        self._stopping = False
        await self._loop.start()

    async def stop(self) -> None:
        """Begin nothing more; what runs gets a moment to come to its end, then it is broken off."""
        self._stopping = True
        self._awake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await self._quiet.wait()
        await self._loop.stop()
        await finish(self._running.values())

    def wake(self) -> None:
        """Look now at what is due: something changed."""
        self._awake.set()

    async def now(self, key: int) -> None:
        """Do it for this key, whether it is due or not, and return when it is done; what runs already counts."""
        await asyncio.shield(self._running.get(key) or self._launch(key))

    async def _keep_running(self) -> None:
        self._quiet.clear()
        try:
            while not self._stopping:
                self._awake.clear()
                wait_s = self._membership.lease_s  # until whoever leads may be gone
                if await self._membership.leads(self._name):
                    wait_s = self._begin(await self._due())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._awake.wait()
        finally:
            self._quiet.set()

    def _begin(self, due: Mapping[int, float]) -> float:
        """Begin what is due now, the longest due first; returns how long there is nothing to do."""
        now = self._clock.now()
        self._not_before = {key: until for key, until in self._not_before.items() if until > now}
        next_at = now + self._look_again_s
        if self._stopping:
            return 0.0
        for key, due_at in sorted(due.items(), key=lambda item: item[1]):
            at = max(due_at, self._not_before.get(key, 0.0))
            if key in self._running:
                continue
            if at > now:
                next_at = min(next_at, at)
            elif len(self._running) < AT_ONCE_MAX:
                self._launch(key)
        return next_at - now

    def _launch(self, key: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._one(key), name=f"{self._name} {key}")
        self._running[key] = task
        task.add_done_callback(lambda _task: self._ended(key))
        return task

    async def _one(self, key: int) -> None:
        try:
            async with self._membership.claiming(self._name, key) as mine:
                if mine:
                    await self._run(key)
                    return
            await self._wait_for_the_other(key)
        except Exception:  # noqa: BLE001 (whatever it is, the others go on)
            # It may not have moved its own due time: without a pause it would spin.
            self._not_before[key] = self._clock.now() + RESTART_PAUSE_S
            _log.exception("an errand failed", extra={"action": "errand_failed", "task": self._name})

    async def _wait_for_the_other(self, key: int) -> None:
        """Return when the process that does it now has come to its end."""
        mine = False
        while not mine:
            await asyncio.sleep(LOOK_AT_OTHERS_S)
            async with self._membership.claiming(self._name, key) as mine:
                pass

    def _ended(self, key: int) -> None:
        self._running.pop(key, None)
        self._awake.set()


async def finish(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Let tasks come to their end for a moment, so that no statement is broken off half way, then cancel them."""
    left = list(tasks)
    if not left:
        return
    _, late = await asyncio.wait(left, timeout=GRACE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def pause_s(attempts: int, *, first_s: float, longest_s: float) -> float:
    """Return how long to wait after so many attempts without success: it doubles from the first pause on."""
    return min(first_s * 2.0 ** min(max(attempts - 1, 0), DOUBLINGS_MAX), longest_s)
