"""How processes on one PostgreSQL hear of each other's changes: a notification at once, a number to be sure.

::

    transaction ── touches ──▶ number of the kind + NOTIFY, in the same commit ──▶ LISTEN ─▶ callbacks(keys)
                                        │                                            │ a number is missing
                                        └──────────── read every so often ──────────▶└─▶ callbacks(everything)

A kind's number is raised under a lock that is held until the commit, so notifications come in the order of numbers;
one that does not follow the last, or a number that stays unheard of, means that something was missed, and then
everything of that kind is read again. The ends of change logs are told without a number: they are read regularly.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import NullPool

from engine.lifecycle import Background
from engine.store import processes
from engine.store.database import EVERY, Database, Kind, StoreUnavailable, Tx, open_engine
from engine.store.membership import Membership

_log = logging.getLogger(__name__)

CHANNEL: Final = "ocpi_engine"
KEYS_MAX: Final = 500  # in one notification, which holds 8000 bytes; beyond that everything is read again
RECONNECT_S: Final = 1.0
LOGS_EVERY_S: Final = 0.02  # log ends within this share a notification: a follower is not in a greater hurry

Heard = Callable[[frozenset[int]], Awaitable[None]]
"""Hears which keys changed; empty: any may have."""


class LogsHeard(Protocol):
    """Hears where logs end, and whether a queue that processes share brought what is new there."""

    async def __call__(self, ends: Mapping[str, int], *, queued: bool) -> None:
        """Take it in."""
        ...


class Signals:
    """Tells other processes what a transaction touched, and hears it from them.

    With SQLite there is no other process, and all of this does nothing.
    """

    def __init__(self, database: Database, membership: Membership) -> None:
        """Use these. ``on_logs`` hears where logs end; ``subscribe`` takes everything else."""
        self.on_logs: LogsHeard | None = None
        self._database = database
        self._membership = membership
        self._process_id = membership.process_id
        self._heard_by: dict[str, list[Heard]] = {}  # by kind; a newer version may tell of others
        self._numbers: dict[str, int] = {}  # the last that was heard of, of each kind
        self._unheard: Mapping[str, int] = {}  # what the last look found
        self._inbox: asyncio.Queue[str | None] = asyncio.Queue()
        self._ends: dict[str, int] = {}
        self._ends_queued = True
        self._ends_grown = asyncio.Event()
        self._parts = [
            Background("listen", self._listen, expected=(StoreUnavailable,)),
            Background("signals", self._dispatch),
            Background("look for signals", self._look, expected=(StoreUnavailable,)),
            Background("tell log ends", self._tell_ends, expected=(StoreUnavailable,)),
        ]

    def subscribe(self, kind: Kind, heard: Heard) -> None:
        """Have a callback hear of what other processes change."""
        self._heard_by.setdefault(kind, []).append(heard)

    async def start(self) -> None:
        """Begin to tell and to listen."""
        if self._database.sqlite:
            return
        self._numbers = {}  # what was read so far may be old by now: all of it is read again once we listen
        self._database.on_touched = self._announce
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        """Neither tell nor listen any more."""
        self._database.on_touched = None
        for part in reversed(self._parts):
            await part.stop()

    # -- telling ------------------------------------------------------------------------------------------

    async def _announce(self, tx: Tx) -> None:
        keys: dict[str, list[int]] = {}
        for kind, key in tx.touched:
            keys.setdefault(kind.value, []).append(key)
        for kind_name, number in (await processes.raise_revisions(tx, keys)).items():
            told = keys[kind_name]
            everything = EVERY in told or len(told) > KEYS_MAX
            message = {"from": self._process_id, "kind": kind_name, "number": number}
            message["keys"] = [] if everything else sorted(told)
            await processes.notify(tx, CHANNEL, json.dumps(message))

    def ends(self, log: str, end: int, *, queued: bool) -> None:
        """Tell soon where a log ends; not ``queued``: no queue tells it to the others."""
        if self._membership.others and end > self._ends.get(log, 0):
            self._ends[log] = end
            self._ends_queued &= queued
            self._ends_grown.set()

    async def _tell_ends(self) -> None:
        while True:
            await self._ends_grown.wait()
            await asyncio.sleep(LOGS_EVERY_S)
            self._ends_grown.clear()
            ends, self._ends = self._ends, {}
            queued, self._ends_queued = self._ends_queued, True
            message = {"from": self._process_id, "ends": ends, "queued": queued}
            async with self._database.reading() as tx:
                await processes.notify(tx, CHANNEL, json.dumps(message))

    # -- hearing ------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        engine = open_engine(self._database.url, poolclass=NullPool)
        try:
            while True:
                try:
                    async with engine.connect() as connection:
                        await self._hear(connection)
                except (OSError, DBAPIError, TimeoutError) as error:
                    _log.warning("no notifications from the database: %s", error, extra={"action": "not_listening"})
                await asyncio.sleep(RECONNECT_S)
        finally:
            await engine.dispose()

    async def _hear(self, connection: AsyncConnection) -> None:
        """Listen until the connection is gone; what was missed before is looked for at once."""
        driver: Any = (await connection.get_raw_connection()).driver_connection
        gone = asyncio.Event()
        driver.add_termination_listener(lambda *_: gone.set())
        await driver.add_listener(CHANNEL, lambda *heard: self._inbox.put_nowait(heard[3]))
        self._inbox.put_nowait(None)
        await gone.wait()

    async def _dispatch(self) -> None:
        while True:
            message = await self._inbox.get()
            if message is None:
                await self._compare()
                continue
            with contextlib.suppress(ValueError):  # somebody else's
                await self._take(json.loads(message))

    async def _take(self, message: Mapping[str, Any]) -> None:
        ours = message["from"] == self._process_id
        if "ends" in message:
            if not ours and self.on_logs is not None:
                await self.on_logs(message["ends"], queued=message.get("queued", True))
            return
        kind, number = message["kind"], message["number"]
        known = self._numbers.get(kind, 0)
        if number <= known:
            return  # everything was read again since
        self._numbers[kind] = number
        if number != known + 1:
            await self._tell(kind, ())
        elif not ours:
            await self._tell(kind, message["keys"])

    async def _tell(self, kind: str, keys: Any) -> None:
        for heard in self._heard_by.get(kind, ()):
            try:
                await heard(frozenset(keys))
            except StoreUnavailable as error:
                _log.warning("a change was not taken in: %s", error, extra={"action": "signal_lost"})
                self._numbers[kind] = -1  # the next look finds that it is missing
            except Exception:  # noqa: BLE001 - the others hear of it all the same
                _log.exception("a change was not taken in", extra={"action": "signal_failed"})

    async def _look(self) -> None:
        """Find out what a notification should have told, and did not: it is a poll older by now."""
        while True:
            await asyncio.sleep(self._membership.lease_s / 3)
            await self._compare(known_for_a_poll=True)

    async def _compare(self, *, known_for_a_poll: bool = False) -> None:
        async with self._database.reading() as tx:
            found = await processes.all_revisions(tx)
        missed = self._unheard if known_for_a_poll else found
        self._unheard = found
        for kind, number in missed.items():
            if number > self._numbers.get(kind, 0):
                self._numbers[kind] = number
                await self._tell(kind, ())
