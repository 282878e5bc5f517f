"""The composition root: builds every part from the settings, starts them in order, stops them in reverse.

::

    lock ▸ database ▸ marking ▸ directory ▸ membership ▸ broker ▸ peers ▸ announcer ▸ registration ▸ workers
         ▸ producing ▸ consuming ▸ accepting ▸ publishing ▸ callbacks ▸ asking ▸ calls ▸ deadlines
         ▸ signals (other processes) ▸ site (partners) ▸ local API (back office, operators)

Nothing is served before everything behind it runs; nothing is pushed any more once the listener has gone.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from brokers.base import Broker
from brokers.embedded import EmbeddedBroker
from certs.files import read_chain
from certs.forwarded import ForwardedCertificates
from certs.tls import server_context
from engine import logs
from engine.backoffice.authorizing import Authorizing
from engine.backoffice.following import Following
from engine.backoffice.simulation import Simulations
from engine.clock import Clock, SystemClock
from engine.lifecycle import Service
from engine.peers.calls import CallRequests
from engine.peers.client import Peers
from engine.peers.objects import ObjectRequests
from engine.peers.subscriptions import SubscriptionRequests
from engine.registration.connections import Connections
from engine.registration.directory import Directory
from engine.registration.folder import hold
from engine.registration.parties import Parties
from engine.registration.tokens import Tokens
from engine.relay.asking import Asking
from engine.relay.callbacks import Callbacks
from engine.relay.calls import Calls
from engine.relay.deadlines import Deadlines
from engine.relay.hearing import Hearing
from engine.relay.state import CallsReport
from engine.replication.accept import Accepting
from engine.replication.changes import Changes
from engine.replication.consuming import Consuming
from engine.replication.enqueue import Announcer
from engine.replication.marking import DatabaseReplaced, Marking
from engine.replication.producing import Producing
from engine.replication.publishing import Publishing
from engine.replication.state import StateReport
from engine.replication.workers import Workers
from engine.server.addressing import PartyRequests
from engine.server.calls import CallHandlers, register_calls
from engine.server.objects import ObjectHandlers
from engine.server.operator.listener import OperatorListener, shown
from engine.server.operator.services import Services
from engine.server.proxy import Proxy
from engine.server.registration import platform_routes
from engine.server.site import Site
from engine.server.subscriptions import SubscriptionHandlers, register_operations
from engine.settings import BadSettings, PlatformFolder, Settings
from engine.store.database import Database, Kind, Tx
from engine.store.membership import Membership
from engine.store.migrating import migrate
from engine.store.signals import Signals

if TYPE_CHECKING:
    from engine.backoffice.webhook import Webhook

_log = logging.getLogger(__name__)

AUTHORITY_CERTIFICATE: Final = "authority.pem"


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where a platform listens, for several processes that share it."""

    partners: Sequence[socket.socket]
    operators: socket.socket

    @property
    def port(self) -> int:
        """The port for partners."""
        return int(self.partners[0].getsockname()[1])

    @property
    def api(self) -> str:
        """The local API's address."""
        return shown(self.operators)


class Engine:
    """One platform in one process, which may be one of several."""

    def __init__(
        self,
        folder: PlatformFolder,
        settings: Settings,
        *,
        clock: Clock | None = None,
        sockets: Sockets | None = None,
    ) -> None:
        """Build everything; nothing is opened before ``start``. Without ``sockets`` it opens its own."""
        self.folder = folder
        self.settings = settings
        self.clock = clock or SystemClock()
        self.database = Database(folder.database_url(settings))
        self.marking = Marking(self.database, folder, settings, self.clock)
        self.membership = Membership(self.database, self.clock, lease_s=settings.replication.lease_s)
        self.signals = Signals(self.database, self.membership)
        self.directory = Directory(self.database, self.clock)
        self.peers = Peers(settings.peers)
        self.broker = _broker(settings, folder)
        self.changes = Changes()
        self.connections = Connections(
            database=self.database,
            directory=self.directory,
            peers=self.peers,
            folder=folder,
            settings=settings,
            clock=self.clock,
            membership=self.membership,
        )
        self._build_replication()
        self._build_calls()
        self.site = self._build_site(() if sockets is None else sockets.partners)
        self.operator = OperatorListener(self._services(), listening=None if sockets is None else sockets.operators)
        self._held = contextlib.ExitStack()
        self._running: list[Service] = []
        self._ready = False

    def _build_replication(self) -> None:
        settings, clock, database = self.settings, self.clock, self.database
        requests = SubscriptionRequests(self.peers)
        self.announcer = Announcer(
            database,
            self.broker,
            self.changes,
            self.membership,
            self.signals,
            heartbeat_s=settings.replication.heartbeat_s,
        )
        self.workers = Workers(
            database=database,
            broker=self.broker,
            requests=ObjectRequests(self.peers, may_send=lambda: self.membership.holds),
            membership=self.membership,
            clock=clock,
            settings=settings.replication,
            parallelism_max=settings.subscriptions.parallelism_max,
        )
        self.producing = Producing(
            database=database,
            workers=self.workers,
            requests=requests,
            clock=clock,
            limits=settings.subscriptions,
            settings=settings.replication,
            membership=self.membership,
        )
        self.consuming = Consuming(
            database,
            self.directory,
            requests,
            clock,
            settings.subscriptions,
            membership=self.membership,
            parties_of=self.connections.look_again,
        )
        self.accepting = Accepting(
            database, self.directory, self.consuming, clock, batch_max=settings.replication.accept_batch_max
        )
        self.publishing = Publishing(database, self.directory, clock)
        self.signals.subscribe(Kind.DIRECTORY, self.connections.changed_elsewhere)
        self.signals.subscribe(Kind.INBOUND, self.consuming.changed_elsewhere)
        self.signals.subscribe(Kind.OUTBOUND, self.producing.changed_elsewhere)
        self.connections.hooks.on_ended.append(self._platform_ended)
        self.connections.partner_parties.on_changed.append(self.consuming.parties_changed)

    def _build_calls(self) -> None:
        settings, clock, database = self.settings, self.clock, self.database
        requests = CallRequests(self.peers, may_send=lambda: self.membership.holds)
        hearing = Hearing()
        self.callbacks = Callbacks(
            database=database,
            requests=requests,
            gate=self.workers.gate,
            directory=self.directory,
            membership=self.membership,
            clock=clock,
            settings=settings.calls,
        )
        self.asking = Asking(
            database=database,
            directory=self.directory,
            requests=requests,
            hearing=hearing,
            clock=clock,
            settings=settings,
        )
        self.calls = Calls(
            database=database,
            directory=self.directory,
            hearing=hearing,
            owe=self.callbacks.wake,
            membership=self.membership,
            clock=clock,
            settings=settings,
        )
        self.deadlines = Deadlines(
            database=database,
            hearing=hearing,
            owe=self.callbacks.wake,
            membership=self.membership,
            clock=clock,
            settings=settings.calls,
        )
        if settings.backoffice.authorize == "tokens":
            self.calls.build_in("tokens", "authorize", Authorizing(database, clock))
        self.webhook = _webhook(settings, self.folder, self.calls, clock)
        if self.webhook is not None:
            self.calls.serve_others(self.webhook, settings.backoffice.parties)
        elif settings.backoffice.kind == "stream":
            self.calls.serve_others(Following(), settings.backoffice.parties)
        self.simulations = self._build_simulations()
        self.signals.subscribe(Kind.CALLS, hearing.changed_elsewhere)
        self.signals.subscribe(Kind.CALLS, self._calls_changed_elsewhere)

    def _build_simulations(self) -> Simulations | None:
        wanted = self.settings.backoffice
        if wanted.kind != "simulated":
            return None
        return Simulations(
            directory=self.directory,
            database=self.database,
            calls=self.calls,
            asking=self.asking,
            publishing=self.publishing,
            clock=self.clock,
            membership=self.membership,
            parties=wanted.parties,
            speed=wanted.simulated_speed,
            drivers=wanted.simulated_drivers,
        )

    async def _calls_changed_elsewhere(self, _call_ids: frozenset[int]) -> None:
        self.callbacks.look()
        self.calls.look()

    def _build_site(self, listening: Sequence[socket.socket]) -> Site:
        settings, listener = self.settings, self.settings.listener
        party = PartyRequests(self.directory, self.connections.look_again)
        subscriptions = SubscriptionHandlers(
            self.directory, self.producing, self.consuming, self.clock, settings.subscriptions
        )
        register_operations(party, subscriptions, ObjectHandlers(self.accepting, self.clock))
        register_calls(party, CallHandlers(self.directory, self.calls, self.asking, self.clock))
        authority_file = self.folder.authority / AUTHORITY_CERTIFICATE
        proxy = None
        if listener.client_certificate_header:
            proxy = Proxy(listener, ForwardedCertificates(read_chain(authority_file)))
        context = None
        if proxy is None or listener.proxy_tls:
            context = server_context(
                chain_file=self.folder.path(listener.certificate),
                key_file=self.folder.path(listener.key),
                client_ca_file=authority_file if proxy is None else None,
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
            proxy=proxy,
            listening=listening,
        )

    def _services(self) -> Services:
        state = StateReport(
            database=self.database,
            directory=self.directory,
            workers=self.workers,
            consuming=self.consuming,
            accepting=self.accepting,
            broker=self.broker,
            membership=self.membership,
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
            calls=self.calls,
            calls_state=CallsReport(self.database, self.clock),
            asking=self.asking,
            simulations=self.simulations,
            changes=self.changes,
            ready=lambda: self._ready,
        )

    async def _platform_ended(self, tx: Tx, platform_id: int) -> None:
        """End a platform's calls and subscriptions with it, in its transaction, and the pushing right after."""
        await self.calls.end_platform(tx, platform_id)
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

        Raises ``InUse``, ``StoreUnavailable``, ``ForeignSchema``, ``BrokerError``, and ``OSError`` for ports
        in use.
        """
        try:
            self._held.enter_context(hold(self.folder, alone=self.database.sqlite))
            await migrate(self.folder.database_url(self.settings))
            await self._begin(self.database)
            await self._begin(self.marking)
            await self.directory.reload()
            parts: list[Service] = [
                self.membership,
                self.broker,
                self.peers,
                self.announcer,
                self.connections,
                self.workers,
                self.producing,
                self.consuming,
                self.accepting,
                self.publishing,
                *([] if self.webhook is None else [self.webhook]),
                self.callbacks,
                self.asking,
                self.calls,
                self.deadlines,
                *([] if self.simulations is None else [self.simulations]),
                self.signals,
                self.site,
                self.operator,
            ]
            for part in parts:
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
        self._held.close()


def _webhook(settings: Settings, folder: PlatformFolder, calls: Calls, clock: Clock) -> "Webhook | None":
    """Build the webhook, if the settings have one.

    Raises ``BadSettings`` for a secret that cannot be used.
    """
    wanted = settings.backoffice
    if wanted.kind != "webhook":
        return None
    # Loaded by those who use it: its HTTP client takes 4 MB.
    from engine.backoffice.webhook import Webhook, read_secret  # noqa: PLC0415

    try:
        text = folder.secret(wanted.webhook_secret_file, "[backoffice] webhook_secret_file") or ""
        secrets = [read_secret(line) for line in text.split()]
        if not secrets:
            raise ValueError(f"{wanted.webhook_secret_file} is empty")
    except ValueError as error:
        raise BadSettings(f"[backoffice] webhook_secret_file: {error}") from error
    return Webhook(
        wanted.webhook_url,
        secrets,
        conclude=calls.conclude,
        clock=clock,
        timeout_s=wanted.webhook_timeout_s,
        answer_max_bytes=wanted.webhook_answer_max_bytes,
    )


def _broker(settings: Settings, folder: PlatformFolder) -> Broker:
    """Build the broker that the settings name.

    Raises ``BadSettings`` for what can be seen to be wrong without asking it.
    """
    wanted = settings.broker
    if not wanted.url:
        return EmbeddedBroker(queue_length_max=wanted.queue_length_max)
    # Loaded by those who use it: it takes 8 MB and as long as opening the database.
    from brokers.rabbitmq import QueueType, RabbitMqBroker, RabbitMqOptions  # noqa: PLC0415

    try:
        password = folder.secret(wanted.password_file, "[broker] password_file")
        tls = None
        if wanted.url.startswith("amqps:"):
            tls = ssl.create_default_context(cafile=folder.path(wanted.ca_file) if wanted.ca_file else None)
            if wanted.certificate:
                tls.load_cert_chain(folder.path(wanted.certificate), folder.path(wanted.key) if wanted.key else None)
        options = RabbitMqOptions(
            url=wanted.url,
            password=password,
            tls=tls,
            queue_type=QueueType(wanted.queue_type),
            prefix=wanted.name_prefix or f"ocpi.{settings.platform.identity}",
            queue_length_max=wanted.queue_length_max,
            prefetch=wanted.prefetch,
            call_timeout_s=wanted.timeout_s,
        )
        return RabbitMqBroker(options)
    except (OSError, ValueError) as error:
        raise BadSettings(f"[broker] cannot be used: {error}") from error


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


async def serve(
    folder: PlatformFolder,
    settings: Settings,
    *,
    on_ready: Callable[[Engine], None],
    sockets: Sockets | None = None,
    until: int | None = None,
) -> None:
    """Serve a platform until SIGINT or SIGTERM, or until the other end of the pipe ``until`` is closed.

    Raises ``DatabaseReplaced``: the next start mends what it finds.
    """
    stopped, replaced = asyncio.Event(), asyncio.Event()
    engine = Engine(folder, settings, sockets=sockets)

    def on_replaced() -> None:
        replaced.set()
        stopped.set()

    engine.marking.on_replaced = on_replaced
    if until is not None:
        asyncio.get_running_loop().add_reader(until, stopped.set)
    with _on_signals(stopped.set):
        await engine.start()
        try:
            on_ready(engine)
            await stopped.wait()
        finally:
            if until is not None:
                asyncio.get_running_loop().remove_reader(until)
            await engine.stop()
    if replaced.is_set():
        raise DatabaseReplaced


def run(root: Path, *, on_ready: Callable[[Engine], None], environment: Mapping[str, str] = os.environ) -> None:
    """Read the settings of a platform's folder, overridden by the environment, and serve until told to stop.

    Raises ``BadSettings``, ``DatabaseReplaced``, and what ``Engine.start`` raises.
    """
    folder = PlatformFolder(root)
    settings = folder.settings(environment)
    logs.set_up(settings.logs.level, settings.logs.format)
    asyncio.run(serve(folder, settings, on_ready=on_ready))
