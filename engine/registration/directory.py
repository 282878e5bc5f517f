"""Platforms, certificates and parties in memory, for look-ups that must not wait: thousands a second.

The database is the truth. ``reload`` follows every change to it, before the change is answered, so that an
ended certificate is refused from the next request on.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.clock import Clock
from engine.lifecycle import Rereading
from engine.protocol.errors import Forbidden
from engine.protocol.ids import PartyId
from engine.protocol.modules import module
from engine.protocol.parties import Party, parties_body
from engine.protocol.registration import PlatformState
from engine.store import parties as party_rows
from engine.store import platforms as platform_rows
from engine.store.database import Database
from engine.store.platforms import Certificate, Platform


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: the platform that the client certificate was issued to."""

    platform_id: int
    identity: str
    state: PlatformState
    serial: str
    tolerant: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """A certificate that our authority issued. Without a caller it is refused, and ``refusal`` says why."""

    common_name: str
    not_after: float
    caller: Caller | None
    refusal: str


@dataclass(frozen=True)
class _View:
    """One consistent reading of the database."""

    platforms: Mapping[int, Platform] = field(default_factory=dict)
    identities: Mapping[str, Platform] = field(default_factory=dict)
    certificates: Mapping[str, _Known] = field(default_factory=dict)
    hosted: Mapping[PartyId, Party] = field(default_factory=dict)
    hosted_modules: frozenset[tuple[PartyId, str, str]] = frozenset()
    hosted_body: bytes = b""
    peers: Mapping[int, Mapping[PartyId, Party]] = field(default_factory=dict)
    hubs: Mapping[int, PartyId] = field(default_factory=dict)
    serving: Mapping[PartyId, tuple[int, ...]] = field(default_factory=dict)


class Directory:
    """Answers from memory; empty until the first ``reload``."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Read from this database. ``on_traffic`` hears of a platform's first request after its handshake."""
        self.on_traffic: Callable[[int], None] = lambda _platform_id: None
        self._database = database
        self._clock = clock
        self._view = _View()
        self._reloading = asyncio.Lock()
        self._loaded = False
        self._listed: dict[int, tuple[Party, ...]] = {}
        self._fresh: set[int] = set()  # shook hands, and made no other request since (B19, B46)
        self._heard: dict[int, bytes] = {}  # handshakes after which another request was heard here
        self._rereading = Rereading(self.reload)

    async def reload(self, *, peers_too: bool = True) -> None:
        """Read everything again. What was committed before the call is seen when it returns.

        ``peers_too=False`` leaves out partners' parties, of which there may be many, where they did not change.
        """
        async with self._reloading, self._database.reading() as tx:
            platforms = {platform.id: platform for platform in await platform_rows.all_platforms(tx)}
            issued = await platform_rows.all_certificates(tx, issued_here=True)
            hosted = {party.party_id: party for party in await party_rows.all_hosted(tx)}
            if peers_too or not self._loaded:
                self._listed = await party_rows.all_peer_parties(tx)
            self._view = _view(platforms, issued, hosted, self._listed)
            self._loaded = True
            self._heard = {
                key: handshake for key, handshake in self._heard.items() if platforms[key].handshake == handshake
            }
            self._fresh = {
                platform.id
                for platform in platforms.values()
                if platform.handshake is not None and self._heard.get(platform.id) != platform.handshake
            }

    async def look_again(self) -> None:
        """Read again before somebody is refused, since another process may have changed something a moment ago.

        Raises ``StoreUnavailable``.
        """
        if not self._database.sqlite:
            await self._rereading.now()

    # -- who calls ------------------------------------------------------------------------------------------

    def caller(self, serial: str, common_name: str) -> Caller:
        """Say whose certificate this is (B42). ``serial`` is lower-case hexadecimal without leading zeros.

        The caller's state may still be ``NEW`` or ``CONNECTING``: then only its handshake is to be answered.
        Raises ``Forbidden`` for a certificate that is not one of ours, ended, or out of date.
        """
        known = self._view.certificates.get(serial)
        if known is None or known.common_name != common_name.lower():
            raise Forbidden("this client certificate was not issued by this platform, or is forgotten")
        if known.caller is None:
            raise Forbidden(known.refusal)
        if self._clock.now() > known.not_after:
            raise Forbidden("this client certificate is out of date")
        return known.caller

    def heard(self, platform_id: int) -> None:
        """Note that a connected platform made another request than its handshake (B46). Called for each of them."""
        if platform_id in self._fresh:
            self._fresh.discard(platform_id)
            handshake = self._view.platforms[platform_id].handshake
            if handshake is not None:
                self._heard[platform_id] = handshake
            self.on_traffic(platform_id)

    def shook_hands(self, platform_id: int) -> None:
        """Begin to watch for the platform's first request after its handshake."""
        self._heard.pop(platform_id, None)
        self._fresh.add(platform_id)

    def silent_since_handshake(self, platform_id: int) -> bool:
        """Say whether the platform has made no other request since its handshake (B19, B46)."""
        return platform_id in self._fresh

    # -- platforms ------------------------------------------------------------------------------------------

    def platform(self, platform_id: int) -> Platform:
        """Return a platform, also one whose connection ended.

        Raises ``KeyError`` for an id that was never one.
        """
        return self._view.platforms[platform_id]

    def by_identity(self, identity: str) -> Platform | None:
        """Find a platform by its identity, in any case."""
        return self._view.identities.get(identity.lower())

    def platforms(self) -> tuple[Platform, ...]:
        """List all platforms that we know, in the order in which we met them."""
        return tuple(self._view.platforms.values())

    def connected(self, platform_id: int) -> bool:
        """Say whether there is a connection to this platform."""
        platform = self._view.platforms.get(platform_id)
        return platform is not None and platform.state is PlatformState.CONNECTED

    # -- parties hosted here --------------------------------------------------------------------------------

    def hosted(self, party: PartyId) -> Party | None:
        """Find a party that is hosted here."""
        return self._view.hosted.get(party)

    def hosted_parties(self) -> tuple[Party, ...]:
        """List the parties hosted here, by id."""
        return tuple(self._view.hosted.values())

    def module_served(self, party: PartyId, module_name: str, side: str) -> bool:
        """Say whether this platform serves that side of a module, under any of its names, for a hosted party."""
        return (party, _canonical(module_name), side) in self._view.hosted_modules

    @property
    def hosted_body(self) -> bytes:
        """Our ``PlatformParties``, ready to be sent."""
        return self._view.hosted_body

    # -- parties that partners serve ------------------------------------------------------------------------

    def serves(self, platform_id: int, party: PartyId) -> bool:
        """Say whether that platform serves the party to us; its hub party counts (B15)."""
        return party in self._view.peers.get(platform_id, ())

    def peer_party(self, platform_id: int, party: PartyId) -> Party | None:
        """Find a party as that platform lists it to us."""
        return self._view.peers.get(platform_id, {}).get(party)

    def peer_parties(self, platform_id: int) -> tuple[Party, ...]:
        """List what that platform serves to us, by id."""
        return tuple(self._view.peers.get(platform_id, {}).values())

    def hub_party(self, platform_id: int) -> PartyId | None:
        """Return the platform's hub party, if it has one."""
        return self._view.hubs.get(platform_id)

    def platforms_of(self, party: PartyId) -> tuple[int, ...]:
        """List the connected platforms that serve the party to us."""
        return self._view.serving.get(party, ())


def _canonical(module_name: str) -> str:
    known = module(module_name)
    return module_name if known is None else known.id


def _view(
    platforms: dict[int, Platform],
    issued: list[Certificate],
    hosted: dict[PartyId, Party],
    listed: dict[int, tuple[Party, ...]],
) -> _View:
    serving: dict[PartyId, tuple[int, ...]] = {}
    # A party that moved here is ours from then on, whatever its old platform last said.
    listed = {key: tuple(p for p in parties if p.party_id not in hosted) for key, parties in listed.items()}
    for platform_id, parties in listed.items():
        if platforms[platform_id].state is PlatformState.CONNECTED:
            for party in parties:
                serving[party.party_id] = (*serving.get(party.party_id, ()), platform_id)
    return _View(
        platforms=platforms,
        identities={platform.identity: platform for platform in platforms.values()},
        certificates={row.serial: _known(row, platforms[row.platform_id]) for row in issued},
        hosted=hosted,
        hosted_modules=frozenset(
            (party.party_id, _canonical(role.module), role.side) for party in hosted.values() for role in party.roles
        ),
        hosted_body=parties_body(hosted.values()),
        peers={key: {party.party_id: party for party in parties} for key, parties in listed.items()},
        hubs={key: party.party_id for key, parties in listed.items() for party in parties if party.hub},
        serving=serving,
    )


def _known(certificate: Certificate, platform: Platform) -> _Known:
    caller, refusal = None, ""
    if certificate.ended_at is not None:
        refusal = f"this client certificate was ended: {certificate.end_reason}"
    elif platform.state is PlatformState.ENDED:
        refusal = "the connection ended; a new one begins with new certificates"
    else:
        caller = Caller(platform.id, platform.identity, platform.state, certificate.serial, platform.tolerant)
    return _Known(certificate.common_name, certificate.not_after, caller, refusal)
