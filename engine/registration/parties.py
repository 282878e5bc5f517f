"""Parties: those hosted here, and those that partners serve to us (UC 02.01)."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from engine import logs
from engine.clock import Clock
from engine.peers.registration import PeerFailure, RegistrationRequests
from engine.protocol.ids import PartyId, party_id
from engine.protocol.modules import BUSINESS_ROLES, all_modules, module
from engine.protocol.parties import PartiesRead, Party, Role, Side, read_parties
from engine.protocol.registration import PlatformState
from engine.refusals import NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.registration.directory import Directory
from engine.registration.errands import Errands, finish, pause_s
from engine.settings import Settings
from engine.store import parties as rows
from engine.store import platforms as platform_rows
from engine.store import subscriptions
from engine.store.database import Database, Tx
from engine.store.membership import Membership

_log = logging.getLogger(__name__)

NAME_LENGTH_MAX: Final = 100  # BusinessDetails.name (2.4.1)
URL_LENGTH_MAX: Final = 255
FIRST_PAUSE_S: Final = 1.0  # a partner that has just answered our handshake is ready a moment later


def roles_of(names: Sequence[str]) -> tuple[Role, ...]:
    """Read what a hosted party does: ``CPO``, ``EMSP``, ``HUB``, or a single role such as ``locations:SENDER``.

    Raises ``Refused`` for a name that is none.
    """
    roles: dict[Role, None] = {}
    for name in names:
        roles |= dict.fromkeys(_roles_named(name))
    if not roles:
        raise Refused("a party needs a role: CPO, EMSP, HUB, or for instance locations:SENDER")
    return tuple(roles)


def _roles_named(name: str) -> list[Role]:
    business = name.upper()
    if business == "HUB":
        return [Role(known.id, side) for known in all_modules() for side in (Side.SENDER, Side.RECEIVER)]
    if business in BUSINESS_ROLES:
        return [
            *(Role(known.id, Side.SENDER) for known in all_modules() if business in known.issued_by),
            *(Role(known.id, Side.RECEIVER) for known in all_modules() if known.issued_by - {business}),
        ]
    module_name, separator, side = name.partition(":")
    known = module(module_name)
    if not separator or known is None or side.upper() not in set(Side):
        raise Refused(f"{name!r} is not a role: CPO, EMSP, HUB, or a module and a side like locations:SENDER")
    return [Role(known.id, Side(side.upper()))]


class Parties:
    """The parties hosted here."""

    def __init__(self, database: Database, directory: Directory, clock: Clock) -> None:
        self._database = database
        self._directory = directory
        self._clock = clock

    async def list(self) -> list[Party]:
        """List them, by id."""
        return list(self._directory.hosted_parties())

    async def add(
        self,
        party: str,
        *,
        roles: Sequence[str],
        name: str | None = None,
        website: str | None = None,
        technical_contact: Mapping[str, str] | None = None,
        hub: bool = False,
    ) -> Party:
        """Host a party, or change what partners are told about it.

        Raises ``Refused`` for an id, a role or details that are none.
        """
        added = Party(_party_id(party), roles_of(roles), _details(party, name, website, technical_contact), hub)
        async with self._database.transaction() as tx:
            hosted = await rows.all_hosted(tx)
            other = next((one.party_id for one in hosted if one.hub and one.party_id != added.party_id), None)
            if hub and other is not None:
                raise Refused(f"{other} is this platform's hub party already, and there can be one only")
            await rows.put_hosted(tx, added, now=self._clock.now())
        await self._directory.reload()
        return added

    async def remove(self, party: str) -> None:
        """Host a party no longer.

        Raises ``NotFoundHere``, and ``Refused`` while there are subscriptions of it or to it.
        """
        removed = _party_id(party)
        async with self._database.transaction() as tx:
            in_use = await _subscriptions_of(tx, removed)
            if in_use:
                raise Refused(f"{removed} has {in_use} subscriptions: end them first, see `ocpi-engine subscriptions`")
            if not await rows.remove_hosted(tx, removed):
                raise NotFoundHere(f"{removed} is not hosted here; see `ocpi-engine parties`")
        await self._directory.reload()


def _party_id(text: str) -> PartyId:
    try:
        return party_id(text)
    except ValueError as error:
        raise Refused(str(error)) from error


def _details(
    party: str, name: str | None, website: str | None, technical_contact: Mapping[str, str] | None
) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name or party.upper()}
    if len(details["name"]) > NAME_LENGTH_MAX:
        raise Refused(f"a business name has at most {NAME_LENGTH_MAX} characters")
    if website is not None:
        if len(website) > URL_LENGTH_MAX or not website.startswith(("http://", "https://")):
            raise Refused(f"a website is a URL of at most {URL_LENGTH_MAX} characters")
        details["website"] = website
    if technical_contact is not None:
        details["technical_contact"] = dict(technical_contact)
    return details


async def _subscriptions_of(tx: Tx, party: PartyId) -> int:
    ours = [one for one in await subscriptions.all_inbound(tx) if one.subscriber == party]
    theirs = [one for one in await subscriptions.all_outbound(tx) if one.producer == party]
    return sum(state != "ended" for state in [*(one.state for one in ours), *(one.state for one in theirs)])


class PartnerParties:
    """What partners serve to us: fetched when a connection begins, every so often, and when a stranger speaks."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        requests: RegistrationRequests,
        settings: Settings,
        clock: Clock,
        membership: Membership,
    ) -> None:
        """Prepare. Whoever cares about changes adds itself to ``on_changed``."""
        self.on_changed: list[Callable[[int], Awaitable[None]]] = []
        self._database = database
        self._directory = directory
        self._requests = requests
        self._settings = settings.peers
        self._clock = clock
        self._failures: dict[int, int] = {}
        self._retry_at: dict[int, float] = {}
        self._asked_at: dict[int, float] = {}
        self._fetching: dict[int, asyncio.Task[None]] = {}
        self._errands = Errands(
            "parties",
            due=self._due,
            run=self._refresh,
            clock=clock,
            membership=membership,
            look_again_s=self._settings.parties_refresh_s,
        )

    async def start(self) -> None:
        """Begin to fetch."""
        await self._errands.start()

    async def stop(self) -> None:
        """Fetch no more."""
        await self._errands.stop()
        await finish(self._fetching.values())

    def wake(self) -> None:
        """Look at what is due: another process changed something, or left it behind."""
        self._errands.wake()

    def connected(self, platform_id: int) -> None:
        """Fetch from a platform that has just connected; if the handshake was its own, it needs a moment."""
        self._failures.pop(platform_id, None)
        self._retry_at.pop(platform_id, None)
        if self._directory.silent_since_handshake(platform_id):
            self._retry_at[platform_id] = self._clock.now() + FIRST_PAUSE_S
        self._errands.wake()

    def ready(self, platform_id: int) -> None:
        """Fetch now from a platform that has shown that it is connected."""
        self._retry_at.pop(platform_id, None)
        self._errands.wake()

    async def look_again(self, platform_id: int) -> None:
        """Ask a platform again because an unknown party turned up; not more often than the settings allow.

        Never raises for what the partner does: then nothing new is known.
        """
        asked_at = self._asked_at.get(platform_id)
        soon = asked_at is not None and self._clock.monotonic() < asked_at + self._settings.parties_refresh_min_s
        if (soon and platform_id not in self._fetching) or not self._directory.connected(platform_id):
            return
        try:
            await self.fetch(platform_id)
        except Refused as error:
            _log.info("parties could not be fetched: %s", error, extra={"action": "parties_failed"})

    async def fetch(self, platform_id: int) -> None:
        """Ask a platform for its parties now; whoever asks at the same time shares one request.

        Raises ``PeerUnreachable`` or ``PeerSaidNo``; what was known before then stays.
        """
        task = self._fetching.get(platform_id)
        if task is None:
            self._asked_at[platform_id] = self._clock.monotonic()
            task = asyncio.create_task(self._fetch(platform_id), name=f"fetch parties {platform_id}")
            self._fetching[platform_id] = task
            task.add_done_callback(lambda done: self._fetched(platform_id, done))
        await asyncio.shield(task)

    def _fetched(self, platform_id: int, task: asyncio.Task[None]) -> None:
        self._fetching.pop(platform_id, None)
        if not task.cancelled():
            task.exception()  # whoever waits gets it; nobody may have waited to the end

    async def _fetch(self, platform_id: int) -> None:
        try:
            reply = await self._requests.parties(platform_id)
        except PeerFailure as failure:
            raise await self._failed(platform_id, PeerUnreachable(f"no answer to GET /parties: {failure}")) from failure
        if not reply.ok:
            refusal = PeerSaidNo(reply.http_status, reply.status_code, reply.message)
            raise await self._failed(platform_id, refusal)
        read = read_parties(reply.content, parties_max=self._settings.parties_max, ours=self._is_ours)
        if read is None:
            odd = PeerUnreachable("the answer to GET /parties holds no list of parties")
            raise await self._failed(platform_id, odd)
        await self._store(platform_id, read)

    def _is_ours(self, party: PartyId) -> bool:
        return self._directory.hosted(party) is not None

    async def _failed(self, platform_id: int, error: Refused) -> Refused:
        """Note when to try again, and hand the error back."""
        failures = self._failures[platform_id] = self._failures.get(platform_id, 0) + 1
        pause = pause_s(failures, first_s=FIRST_PAUSE_S, longest_s=self._settings.parties_refresh_s)
        self._retry_at[platform_id] = self._clock.now() + pause
        self._errands.wake()
        async with self._database.transaction() as tx:
            await platform_rows.change_platform(tx, platform_id, last_error=str(error))
        await self._directory.reload(peers_too=False)
        return error

    async def _store(self, platform_id: int, read: PartiesRead) -> None:
        now = self._clock.now()
        async with self._database.transaction() as tx:
            platform = await platform_rows.platform_by_id(tx, platform_id, lock=True)
            if platform is None or platform.state is not PlatformState.CONNECTED:
                return  # it ended while it answered
            before = (await rows.all_peer_parties(tx)).get(platform_id, ())
            await rows.replace_peer_parties(tx, platform_id, before=before, after=read.parties, now=now)
            note = f"{read.left_out_count} of its parties are left out: {'; '.join(read.left_out[:3])}"
            last_error = note if read.left_out_count else None
            await platform_rows.change_platform(tx, platform_id, parties_fetched_at=now, last_error=last_error)
        await self._directory.reload()
        self._failures.pop(platform_id, None)
        self._retry_at.pop(platform_id, None)
        if read.left_out_count:
            logs.security_event(
                "parties_left_out",
                "a platform lists parties that cannot be used",
                platform=platform.identity,
                count=str(read.left_out_count),
                first="; ".join(read.left_out[:10]),
            )
        if {party.party_id: party for party in before} != {party.party_id: party for party in read.parties}:
            await self._tell_of_change(platform_id)

    async def _tell_of_change(self, platform_id: int) -> None:
        for hook in self.on_changed:
            try:
                await hook(platform_id)
            except Exception:  # noqa: BLE001 (whatever it is, the parties are stored)
                _log.exception("a change of parties was not taken in", extra={"action": "hook_failed"})

    async def _due(self) -> Mapping[int, float]:
        due = {}
        for platform in self._directory.platforms():
            if platform.state is PlatformState.CONNECTED:
                fetched_at = platform.parties_fetched_at
                regular = 0.0 if fetched_at is None else fetched_at + self._settings.parties_refresh_s
                due[platform.id] = self._retry_at.get(platform.id, regular)
        return due

    async def _refresh(self, platform_id: int) -> None:
        try:
            await self.fetch(platform_id)
        except Refused as error:
            _log.info("parties could not be fetched: %s", error, extra={"action": "parties_failed"})
