"""From a commit to the queues: one segment for each commit and log, put under the module's topic.

What is for few is put to their queues alone (``segments.Routing``).

Segments go out in the order of their commits. What is lost here, or in the broker, a worker finds by walking;
a heartbeat shows it that something was lost when nothing else follows.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from brokers.base import Broker
from engine import faults
from engine.lifecycle import Background
from engine.protocol.modules import all_modules
from engine.replication import segments
from engine.replication.changes import Changes
from engine.store import objects
from engine.store.database import Database, Segment, StoreUnavailable
from engine.store.membership import Membership
from engine.store.signals import Signals

_log = logging.getLogger(__name__)


class Announcer:
    """Tells queues and followers what was committed."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        changes: Changes,
        membership: Membership,
        signals: Signals,
        *,
        heartbeat_s: float,
    ) -> None:
        """Take what commits write to the logs from now on."""
        self._membership = membership
        self._signals = signals
        self._database = database
        self._broker = broker
        self._changes = changes
        self._heartbeat_s = heartbeat_s
        self._waiting: list[Segment] = []
        self._arrived = asyncio.Event()
        self._announcing = Background("announce", self._announce)
        self._beating = Background("heartbeat", self._beat, expected=(StoreUnavailable,))
        self._routing = {str(module.id): segments.Routing() for module in all_modules()}

    async def start(self) -> None:
        """Begin to announce."""
        self._database.on_segments = self._take
        self._signals.on_logs = self._grew_elsewhere
        await self._announcing.start()
        await self._beating.start()

    async def stop(self) -> None:
        """Announce nothing more; the logs hold it all."""
        await self._beating.stop()
        await self._announcing.stop()

    def _take(self, written: Iterable[Segment]) -> None:
        self._waiting.extend(written)
        self._arrived.set()

    async def _announce(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            waiting, self._waiting = self._waiting, []
            for segment in waiting:
                faults.passing("enqueue.announcing")
                self._changes.reached(segment.log, segment.end)
                self._signals.ends(segment.log, segment.end, queued=self._broker.shared)
                if segment.log in self._routing:
                    for party, data in self._routing[segment.log].route(segment):
                        await self._broker.put(segment.log, data, only=party)

    async def _grew_elsewhere(self, ends: Mapping[str, int], *, queued: bool) -> None:
        """Wake followers, and workers too unless the broker brings them the segments of other processes.

        One that takes nothing from the other process may not have told this one yet: it does when asked to.
        """
        for log, end in ends.items():
            self._changes.reached(log, end)
            if log in self._routing and not (queued and self._broker.shared):
                await self._broker.put(log, segments.heartbeat(end))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            for_queues = not self._broker.shared or await self._membership.leads("heartbeat")
            for log, routing in self._routing.items():
                async with self._database.reading() as tx:
                    end = await objects.last_number(tx, log)
                self._changes.reached(log, end)
                if for_queues:
                    if not self._broker.shared:  # the others may not know that no heartbeat comes
                        self._signals.ends(log, end, queued=False)
                    await self._broker.put(log, routing.heartbeat(end))
