"""How a database that is older than the platform's folder thinks is noticed.

The database has a random mark, and the folder a small file with that mark. It is renewed at every start, at every
orderly stop, and every few seconds between. A database with a mark that the file does not know is a backup, or a
replica that lagged behind: it is mended before anything is served. Each renewal puts the next mark into the file
beside the last one, then into the database, then takes the last one out of the file: wherever that breaks off, the
file knows what the database has.

A replica that took over may lack the last commits although it has the last mark. So the file also knows which
PostgreSQL it is, and on which timeline: after a fail-over the database is taken for an older one in any case.

Processes that share a folder share the file, and renew the mark one after the other; each reads the file anew before
it does. One that runs on while another has mended the database sees that by what is kept of the restore, and ends::

    lock ▸ read the file ▸ (start: look, mend) ▸ file: last + next ▸ database: next, if it has the last ▸ file: next
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

from certs.errors import FileProblem
from engine.clock import Clock
from engine.lifecycle import Background
from engine.registration.folder import InUse, Known, alone_with_marks, hold, read_known, write_known
from engine.replication.restored import Mended, mend
from engine.settings import PlatformFolder, Settings
from engine.store import marks, objects
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.migrating import migrate

_log = logging.getLogger(__name__)

NOTICED: Final = "noticed"
SAID: Final = "said"

RENEWAL_WAIT_S: Final = 5.0  # for other processes' renewals; one that takes longer stands still, or mends


class DatabaseReplaced(Exception):
    """The database that we are using is no longer the one that we began with."""

    def __init__(self, why: str = "") -> None:
        super().__init__(
            "the database is an older one all of a sudden: restored, or failed over to a replica"
            + (f" ({why})" if why else "")
        )


class Marking:
    """Looks at the database before anything is served, and keeps its mark fresh."""

    def __init__(self, database: Database, folder: PlatformFolder, settings: Settings, clock: Clock) -> None:
        """Use these. ``on_replaced`` hears of a database that was replaced while we run."""
        self.on_replaced: Callable[[], None] = lambda: None
        self._database = database
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._ours = False  # whether the database was looked at, and is still the one that was seen
        self._restore: str | None = None  # the last one, when it was looked at
        self._writing = asyncio.Lock()  # a renewal is not broken off
        self._renewing = Background("mark", self._keep_renewing)

    async def start(self) -> None:
        """Mend the database if it is an older one.

        Raises ``StoreUnavailable``, ``FileProblem``, ``DatabaseReplaced``.
        """
        async with alone_with_marks(self._folder):
            why = await self._look()
            if why is None:
                await self._renew()
            else:
                mended = await self._mend(NOTICED)
                _log.warning(
                    "this database is older than what was sent from it, or may be (%s): %s objects have new versions,"
                    " %s subscriptions of partners owe everything again, %s of ours are asked for again",
                    why,
                    mended.objects,
                    mended.subscriptions_here,
                    mended.subscriptions_of_ours,
                    extra={"action": "restored", "why": why, **asdict(mended)},
                )
        self._ours = True
        await self._renewing.start()

    async def stop(self) -> None:
        """Mark it for the last time, unless it is no longer ours."""
        async with self._writing:
            await self._renewing.stop()
        if self._ours:
            await self._try()
            self._ours = False

    async def mend(self, how: str) -> Mended:
        """Do what an older database needs, keep that it was done, and know it from then on.

        Raises ``StoreUnavailable``, ``FileProblem``, ``DatabaseReplaced``.
        """
        async with alone_with_marks(self._folder):
            return await self._mend(how)

    async def renew(self) -> None:
        """Give the database another mark.

        Raises ``DatabaseReplaced``, ``StoreUnavailable``, ``FileProblem``, and ``InUse`` when it has to wait for
        long; what the folder knows is true all the same.
        """
        async with alone_with_marks(self._folder, wait_s=RENEWAL_WAIT_S):
            await self._renew()

    async def _look(self) -> str | None:
        """Say why this database has to be mended; None: it has not. Remembers what was done about it before."""
        known = await asyncio.to_thread(read_known, self._folder)
        async with self._database.reading() as tx:
            mark, server = await marks.read(tx), await marks.server(tx)
            self._restore = await _last_restore(tx)
        if mark not in known.marks:
            return "its mark is not the last one that was given"
        return _another(known.server, server)

    async def _mend(self, how: str) -> Mended:
        known = await asyncio.to_thread(read_known, self._folder)
        async with self._database.reading() as tx:
            before, server = await marks.read(tx), await marks.server(tx)
        mended = await mend(
            self._database,
            self._clock,
            timeout_max_s=self._settings.peers.request_timeout_max_ms / 1000,
            above=known.reissued_up_to,
        )
        async with self._database.reading() as tx:
            highest = await objects.highest(tx)
        restore = str(uuid.uuid4())
        done = {"id": restore, "at": self._clock.now(), "how": how, "reissued_up_to": highest}
        # No mark of the time before is known: if this breaks off, all is done again.
        now_known = Known((str(uuid.uuid4()),), server.known_by(known.server), highest)
        await self._write(now_known)
        async with self._database.transaction() as tx:
            await self._give(tx, now_known, instead_of=(before,))
            await marks.note_restored(tx, done | asdict(mended))
        self._restore = restore
        return mended

    async def _renew(self) -> None:
        known = await asyncio.to_thread(read_known, self._folder)
        # A second mark is one of a commit of which nobody knows whether it was made: it is made again.
        mark = str(known.marks[1] if len(known.marks) > 1 else uuid.uuid4())
        await self._write(replace(known, marks=(*known.marks[:1], mark)))
        async with self._database.transaction() as tx:
            server = await self._give(tx, replace(known, marks=(mark,)), instead_of=known.marks)
            if await _last_restore(tx) != self._restore:
                raise DatabaseReplaced("another process has found and mended it")
        await self._write(Known((mark,), server.known_by(known.server), known.reissued_up_to))

    async def _give(self, tx: Tx, known: Known, *, instead_of: tuple[str | None, ...]) -> marks.Server:
        """Give the database the mark that is known from now on, if it is still the one that it should be."""
        server = await marks.server(tx)
        if (why := _another(known.server, server)) is not None:
            raise DatabaseReplaced(why)
        if not await marks.renew(tx, str(known.marks[0]), known=instead_of):
            raise DatabaseReplaced("its mark is not the last one that was given")
        return server

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._settings.store.mark_s)
            if not await self._try():
                self.on_replaced()
                return

    async def _try(self) -> bool:
        """Renew the mark if that can be done now; False when the database has another one than it should."""
        try:
            async with self._writing:
                await self.renew()
        except DatabaseReplaced as replaced:
            self._ours = False
            _log.error("%s", replaced, extra={"action": "database_replaced"})
            return False
        except (StoreUnavailable, FileProblem, InUse) as error:
            _log.warning("the database was not marked: %s", error, extra={"action": "mark_failed"})
        return True

    async def _write(self, known: Known) -> None:
        await asyncio.to_thread(write_known, self._folder, known)


async def _last_restore(tx: Tx) -> str | None:
    """Tell the last restore from others."""
    found: str | None = (await marks.restored(tx) or {}).get("id")
    return found


def _another(known: marks.Server, found: marks.Server) -> str | None:
    """Say in which way this is another server; None: it is not, or nobody can tell."""
    if not known.differs(found):
        return None
    return (
        f"it was PostgreSQL system {known.system} on timeline {known.timeline},"
        f" and is system {found.system} on timeline {found.timeline}"
    )


async def say_restored(folder: PlatformFolder, settings: Settings, clock: Clock) -> Mended:
    """Take the database of a platform that is not running for an older one.

    Raises ``InUse``, ``ForeignSchema``, ``StoreUnavailable``, ``FileProblem``, ``BadSettings``.
    """
    with hold(folder):
        url = folder.database_url(settings)
        await migrate(url)
        database = Database(url)
        await database.start()
        try:
            return await Marking(database, folder, settings, clock).mend(SAID)
        finally:
            await database.stop()
