"""The composition root: builds every part from the settings, starts them in order, stops them in reverse.

::

    lock ▸ database ▸ directory ▸ peers ▸ registration ▸ announcer ▸ workers ▸ producing ▸ consuming ▸ accepting
         ▸ publishing ▸ site (partners) ▸ local API (back office, operators)

Nothing is served before everything behind it runs; nothing is pushed any more once the listener has gone.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from brokers.embedded import EmbeddedBroker
from certs.tls import server_context
from engine import logs
from engine.clock import Clock, SystemClock
from engine.lifecycle import Service
from engine.peers.client import Peers
from engine.peers.objects import ObjectRequests
from engine.peers.subscriptions import SubscriptionRequests
from engine.registration.connections import Connections
from engine.registration.directory import Directory
from engine.registration.parties import Parties
from engine.registration.tokens import Tokens
from engine.replication.accept import Accepting
from engine.replication.changes import Changes
from engine.replication.consuming import Consuming
from engine.replication.enqueue import Announcer
from engine.replication.producing import Producing
from engine.replication.publishing import Publishing
from engine.replication.state import StateReport
from engine.replication.workers import Workers
from engine.server.addressing import PartyRequests
from engine.server.objects import ObjectHandlers
from engine.server.operator.listener import OperatorListener
from engine.server.operator.services import Services
from engine.server.registration import platform_routes
from engine.server.site import Site
from engine.server.subscriptions import SubscriptionHandlers, register_operations
from engine.settings import PlatformFolder, Settings
from engine.store.database import Database, Tx
from engine.store.migrating import migrate

_log = logging.getLogger(__name__)

AUTHORITY_CERTIFICATE: Final = "authority.pem"


class AlreadyRunning(Exception):
    """Another process serves this folder."""


class Engine:
    """One platform in one process."""

    def __init__(self, folder: PlatformFolder, settings: Settings, *, clock: Clock | None = None) -> None:
        """Build everything; nothing is opened before ``start``."""
        self.folder = folder
        self.settings = settings
        self.clock = clock or SystemClock()
        self.database = Database(folder.database_url(settings))
        self.directory = Directory(self.database, self.clock)
        self.peers = Peers(settings.peers)
        self.broker = EmbeddedBroker()
        self.changes = Changes()
        self.connections = Connections(
            database=self.database,
            directory=self.directory,
            peers=self.peers,
            folder=folder,
            settings=settings,
            clock=self.clock,
        )
        self._build_replication()
        self.site = self._build_site()
        self.operator = OperatorListener(self._services())
        self._lock: IO[str] | None = None
        self._running: list[Service] = []
        self._ready = False

    def _build_replication(self) -> None:
        settings, clock, database = self.settings, self.clock, self.database
        requests = SubscriptionRequests(self.peers)
        self.announcer = Announcer(database, self.broker, self.changes, heartbeat_s=settings.replication.heartbeat_s)
        self.workers = Workers(
            database,
            self.broker,
            ObjectRequests(self.peers),
            clock,
            settings.replication,
            parallelism_max=settings.subscriptions.parallelism_max,
        )
        self.producing = Producing(
            database=database,
            workers=self.workers,
            requests=requests,
            clock=clock,
            limits=settings.subscriptions,
            settings=settings.replication,
        )
        self.consuming = Consuming(
            database,
            self.directory,
            requests,
            clock,
            settings.subscriptions,
            parties_of=self.connections.look_again,
        )
        self.accepting = Accepting(
            database, self.directory, self.consuming, clock, batch_max=settings.replication.accept_batch_max
        )
        self.publishing = Publishing(database, self.directory, clock)
        self.connections.hooks.on_ended.append(self._platform_ended)
        self.connections.partner_parties.on_changed.append(self.consuming.parties_changed)

    def _build_site(self) -> Site:
        settings, listener = self.settings, self.settings.listener
        party = PartyRequests(self.directory, self.connections.look_again)
        subscriptions = SubscriptionHandlers(
            self.directory, self.producing, self.consuming, self.clock, settings.subscriptions
        )
        register_operations(party, subscriptions, ObjectHandlers(self.accepting, self.clock))
        context = server_context(
            chain_file=self.folder.path(listener.certificate),
            key_file=self.folder.path(listener.key),
            client_ca_file=self.folder.authority / AUTHORITY_CERTIFICATE,
        )
        return Site(
            listener,
            prefix=settings.serving_path,
            context=context,
            directory=self.directory,
            routes=platform_routes(
                connections=self.connections, directory=self.directory, settings=settings, clock=self.clock
            ),
            party=party,
            clock=self.clock,
        )

    def _services(self) -> Services:
        state = StateReport(
            database=self.database,
            directory=self.directory,
            workers=self.workers,
            consuming=self.consuming,
            accepting=self.accepting,
            clock=self.clock,
        )
        return Services(
            settings=self.settings,
            folder=self.folder,
            clock=self.clock,
            database=self.database,
            directory=self.directory,
            connections=self.connections,
            parties=Parties(self.database, self.directory, self.clock),
            tokens=Tokens(self.database, self.clock),
            publishing=self.publishing,
            consuming=self.consuming,
            producing=self.producing,
            state=state,
            changes=self.changes,
            ready=lambda: self._ready,
        )

    async def _platform_ended(self, tx: Tx, platform_id: int) -> None:
        """End a platform's subscriptions with it, in its transaction, and the pushing right after."""
        await self.consuming.end_platform(tx, platform_id)
        ended = await self.producing.end_platform(tx, platform_id)
        tx.after_commit.append(lambda: self._settle_later(ended))

    def _settle_later(self, ended: list[tuple[int, int]]) -> None:
        async def settle() -> None:
            await self.consuming.reload()
            await self.producing.quiesce(ended)

        self._settling = asyncio.create_task(settle())

    async def start(self) -> None:
        """Return when partners and the local API are served.

        Raises ``AlreadyRunning``, ``StoreUnavailable``, ``ForeignSchema``, ``OSError`` for ports in use.
        """
        self._lock = self._take_lock()
        await migrate(self.folder.database_url(self.settings))
        try:
            await self._begin(self.database)
            await self.directory.reload()
            for part in (
                self.broker,
                self.peers,
                self.announcer,
                self.connections,
                self.workers,
                self.producing,
                self.consuming,
                self.accepting,
                self.publishing,
                self.site,
                self.operator,
            ):
                await self._begin(part)
        except BaseException:
            await self.stop()
            raise
        self._ready = True

    async def _begin(self, part: Service) -> None:
        self._running.append(part)
        await part.start()

    async def stop(self) -> None:
        """Stop everything in reverse order, and let the folder go."""
        self._ready = False
        for part in reversed(self._running):
            try:
                await part.stop()
            except Exception:  # noqa: BLE001 - the other parts are stopped all the same
                _log.exception("a part did not stop in order", extra={"action": "stop_failed"})
        self._running.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> IO[str]:
        """Keep a second process out: SQLite has one writer, and subscriptions one owner."""
        self.folder.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (self.folder.run / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise AlreadyRunning(f"{self.folder.root} is already served by process {holder}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    chosen = (signal.SIGINT, signal.SIGTERM)
    for number in chosen:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in chosen:
            loop.remove_signal_handler(number)


async def serve(folder: PlatformFolder, settings: Settings, *, on_ready: Callable[[Engine], None]) -> None:
    """Serve a platform until SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    engine = Engine(folder, settings)
    with _on_signals(stopped.set):
        await engine.start()
        try:
            on_ready(engine)
            await stopped.wait()
        finally:
            await engine.stop()


def run(root: Path, *, on_ready: Callable[[Engine], None]) -> None:
    """Read the settings of a platform's folder and serve until told to stop.

    Raises ``BadSettings``, and what ``Engine.start`` raises.
    """
    folder = PlatformFolder(root)
    settings = folder.settings()
    logs.set_up(settings.logs.level, settings.logs.format)
    asyncio.run(serve(folder, settings, on_ready=on_ready))
