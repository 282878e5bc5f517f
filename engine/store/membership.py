"""This process among those that run on the same store: its lease, and what it claims.

A process renews its lease every third of it. While it cannot, it stops doing what only one may do, since the others
take that over once the lease has run out; back again, it is told to look at everything anew before it goes on.
A claim is void with the lease of its process. With SQLite there is no other process: nothing is claimed, and the
lease says only whether the last run ended cleanly.
"""

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from engine.clock import Clock
from engine.lifecycle import Background
from engine.store import processes
from engine.store.database import Database, StoreUnavailable

_log = logging.getLogger(__name__)

HOST_LENGTH_MAX: Final = 255
FIRST_GO_S: Final = 0.5  # whoever changed something goes on with it itself; only what is left is periodic work


class Membership:
    """A service: it is a member from ``start`` to ``stop``."""

    def __init__(self, database: Database, clock: Clock, *, lease_s: float) -> None:
        """Prepare.

        ``on_lapsed`` hears that the lease had run out and is back, ``on_beat`` of every renewal, ``on_gone`` of other
        processes whose leases ran out.
        """
        self.process_id = str(uuid.uuid4())
        self.on_lapsed: list[Callable[[], None]] = []
        self.on_beat: list[Callable[[], None]] = []
        self.on_gone: list[Callable[[], None]] = []
        self.lease_s = lease_s
        self.others = 0  # processes that ran when the lease was last renewed
        self._database = database
        self._clock = clock
        self._renewed_at: float | None = None  # monotonic; the lease counts from before the renewal
        self._leading: set[str] = set()
        self._done: set[tuple[str, int]] = set()  # claims that could not be let go
        self._clean = True
        self._renewing = Background("lease", self._keep_renewing, expected=(StoreUnavailable,))

    @property
    def alone(self) -> bool:
        """Whether no other process can run on this store."""
        return self._database.sqlite

    @property
    def holds(self) -> bool:
        """Whether the lease is known to run: only then may be done what only one process may do."""
        if self._renewed_at is None:
            return False
        return self.alone or self._clock.monotonic() < self._renewed_at + self.lease_s

    async def start(self) -> None:
        """Become a member. Raises ``StoreUnavailable``."""
        await self._enter()
        await self._renewing.start()

    async def stop(self) -> None:
        """Leave, so that others need not wait for the lease to run out; unless something may be under way still."""
        await self._renewing.stop()
        if self._renewed_at is None:
            return
        self._renewed_at = None
        self._leading.clear()
        if not self._clean:
            return
        try:
            async with self._database.aside() as tx:
                await processes.leave(tx, self.process_id)
        except StoreUnavailable:
            _log.warning("the end of this run could not be stored", extra={"action": "unclean_end"})

    def unclean(self) -> None:
        """Note that something of this process may be under way after its end, or is not stored."""
        self._clean = False

    async def _enter(self) -> None:
        began = self._clock.monotonic()
        async with self._database.aside() as tx:
            await processes.enter(
                tx,
                self.process_id,
                host=socket.gethostname()[:HOST_LENGTH_MAX],
                pid=os.getpid(),
                now=self._clock.now(),
                lease_s=self.lease_s,
                alone=self.alone,
            )
            self.others = len(await processes.ids(tx) - {self.process_id})
        self._renewed_at = began

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self.lease_s / 3)
            await self._renew()
            for beat in self.on_beat:
                beat()

    async def _renew(self) -> None:
        began = self._clock.monotonic()
        async with self._database.aside() as tx:
            known = await processes.renew(tx, self.process_id, now=self._clock.now(), lease_s=self.lease_s)
            gone = 0 if self.alone else await processes.bury(tx, now=self._clock.now())
            self.others = len(await processes.ids(tx) - {self.process_id})
            for kind, key in self._done:
                await processes.disclaim(tx, kind, key, self.process_id)
        self._done.clear()
        if not self.holds or not known:
            self._leading.clear()
            _log.warning("the lease of this process ran out: others may have taken over", extra={"action": "lapsed"})
            for hear in self.on_lapsed:
                hear()
        if not known:
            await self._enter()
        self._renewed_at = began
        for hear in self.on_gone if gone else ():
            hear()

    # -- claims -------------------------------------------------------------------------------------------

    async def leads(self, kind: str) -> bool:
        """Say whether this process does the periodic work of a kind; the first to ask does, until its lease ends."""
        if self.alone:
            return True
        if not self.holds:
            return False
        if kind not in self._leading and await self._claim(kind, processes.LEADER):
            self._leading.add(kind)
        return kind in self._leading

    async def leads_or_waits(self, kind: str, woken: asyncio.Event) -> bool:
        """Say whether this process does that work; if not, once it was woken or whoever leads may be gone."""
        if await self.leads(kind):
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.lease_s):
                await woken.wait()
        return False

    @asynccontextmanager
    async def claiming(self, kind: str, key: int) -> AsyncIterator[bool]:
        """Do something that no other process does meanwhile; False: one does it now."""
        if self.alone:
            yield True
            return
        claimed = await self._claim(kind, key)
        try:
            yield claimed
        finally:
            if claimed:
                await self._disclaim(kind, key)

    async def _disclaim(self, kind: str, key: int) -> None:
        try:
            async with self._database.aside() as tx:
                await processes.disclaim(tx, kind, key, self.process_id)
        except StoreUnavailable:
            self._done.add((kind, key))  # with the next renewal

    async def _claim(self, kind: str, key: int) -> bool:
        async with self._database.aside() as tx:
            return await processes.claim(tx, kind, key, self.process_id)
