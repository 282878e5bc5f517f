"""Partners, as operators and the rest of the engine deal with them: one door to chapters 1 and 2.01.

What is behind it stands in ``handshakes``, ``certificates``, ``renewal`` and ``parties``.
"""

import asyncio
import logging

from certs import chains, names
from engine.clock import Clock
from engine.peers.client import Peers
from engine.peers.registration import PeerFailure, RegistrationRequests
from engine.protocol.ids import PlatformIdentity
from engine.protocol.parties import Party
from engine.protocol.registration import check_base_url, host_of, read_versions
from engine.refusals import NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.registration.certificates import (
    Certificates,
    CertificateShown,
    Signed,
    SigningRequest,
    refusing,
)
from engine.registration.directory import Directory
from engine.registration.handshakes import Handshakes, Hooks
from engine.registration.parties import PartnerParties
from engine.registration.renewal import Renewals
from engine.registration.sessions import Sessions
from engine.settings import PlatformFolder, Settings
from engine.store.database import Database
from engine.store.membership import FIRST_GO_S, Membership
from engine.store.platforms import Platform, Renewal

_log = logging.getLogger(__name__)


class Connections:
    """The service of registration: start it after the directory is loaded and ``Peers`` runs."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        peers: Peers,
        folder: PlatformFolder,
        settings: Settings,
        clock: Clock,
        membership: Membership,
    ) -> None:
        requests = RegistrationRequests(peers)
        self._directory = directory
        self._requests = requests
        self._membership = membership
        self.sessions = Sessions(database=database, directory=directory, peers=peers, folder=folder, clock=clock)
        self.handshakes = Handshakes(
            database=database,
            directory=directory,
            sessions=self.sessions,
            peers=peers,
            requests=requests,
            settings=settings,
            clock=clock,
            membership=membership,
        )
        self.issued = Certificates(
            database=database,
            directory=directory,
            sessions=self.sessions,
            folder=folder,
            settings=settings,
            clock=clock,
        )
        self.renewals = Renewals(
            database=database,
            directory=directory,
            sessions=self.sessions,
            certificates=self.issued,
            requests=requests,
            folder=folder,
            settings=settings,
            clock=clock,
            membership=membership,
        )
        self.partner_parties = PartnerParties(
            database=database,
            directory=directory,
            requests=requests,
            settings=settings,
            clock=clock,
            membership=membership,
        )
        self.hooks.on_connected.append(self.partner_parties.connected)
        self.hooks.on_first_request.append(self.partner_parties.ready)
        self.hooks.on_connected.append(lambda _platform_id: self.renewals.wake())

    async def changed_elsewhere(self, platform_ids: frozenset[int]) -> None:
        """Take in what another process changed; without ids, whatever it may have been."""
        await self._directory.reload()
        await self.sessions.open_all(platform_ids)
        asyncio.get_running_loop().call_later(FIRST_GO_S, self._look_around)

    def _look_around(self) -> None:
        self.handshakes.wake()
        self.renewals.look_again()
        self.partner_parties.wake()

    @property
    def hooks(self) -> Hooks:
        """Whom to tell when a connection begins or ends."""
        return self.handshakes.hooks

    async def start(self) -> None:
        """Open the sessions of all partners, and go on with what was begun."""
        await self.sessions.open_all()
        self._membership.on_gone.append(self._look_around)
        await self.handshakes.start()
        await self.renewals.start()
        await self.partner_parties.start()

    async def stop(self) -> None:
        """Begin nothing more."""
        await self.partner_parties.stop()
        await self.renewals.stop()
        await self.handshakes.stop()

    # -- connections ----------------------------------------------------------------------------------------

    async def connect(
        self,
        base_url: str,
        identity: str | None = None,
        *,
        chain: str | None = None,
        server_ca: str | None = None,
        tolerant: bool | None = None,
    ) -> Platform:
        """Connect to a partner (UC 01.03), and return when it answered or the first attempt failed.

        The platform is ``connected``, or ``connecting`` and asked again until it answers. ``identity`` is the
        base URL's host unless given (B41); ``chain`` a certificate of its to install first; ``server_ca`` the PEM of
        the authorities to trust for its server certificate, instead of the system's. Raises ``Refused`` and its kin.
        """
        try:
            url = check_base_url(base_url)
        except ValueError as error:
            raise Refused(str(error)) from error
        with refusing():
            name = PlatformIdentity(names.common_name(identity or host_of(url)))
            if server_ca is not None:
                chains.describe(server_ca)
        if chain is not None:
            await self.issued.install(name, chain, server_ca=server_ca)
        platform = await self.handshakes.offer(name, url, server_ca=server_ca, tolerant=tolerant)
        if self._directory.connected(platform.id):
            try:
                await self.partner_parties.fetch(platform.id)
            except Refused as error:  # it is fetched again soon
                _log.info("parties could not be fetched: %s", error, extra={"action": "parties_failed"})
        return self._directory.platform(platform.id)

    async def disconnect(self, identity: str, reason: str = "ended by the operator") -> Platform:
        """Say bye (UC 01.05). Raises ``PeerUnreachable`` or ``PeerSaidNo``: then nothing changed."""
        return await self.handshakes.leave(identity, reason)

    async def reset(self, identity: str, reason: str = "reset by the operator") -> Platform:
        """End a connection on this side only."""
        return await self.handshakes.reset(identity, reason)

    async def versions(self, identity: str) -> list[dict[str, str]]:
        """Ask a partner which versions it speaks (UC 01.06). Raises ``PeerUnreachable`` or ``PeerSaidNo``."""
        platform = self.known(identity)
        try:
            reply = await self._requests.versions(platform.id)
        except PeerFailure as failure:
            raise PeerUnreachable(f"no answer to GET /versions: {failure}") from failure
        if not reply.ok:
            raise PeerSaidNo(reply.http_status, reply.status_code, reply.message)
        found = read_versions(reply.content)
        if found is None:
            raise PeerUnreachable("the answer to GET /versions holds no list of versions")
        return [{"version": one.version, "url": one.url} for one in found]

    def known(self, identity: str) -> Platform:
        """Find a partner. Raises ``NotFoundHere``."""
        platform = self._directory.by_identity(identity)
        if platform is None:
            raise NotFoundHere(f"{identity} is not known here; see `ocpi-engine platforms`")
        return platform

    # -- a partner's parties --------------------------------------------------------------------------------

    async def parties_of(self, identity: str) -> list[Party]:
        """Show what a partner said when it was last asked."""
        return list(self._directory.peer_parties(self.known(identity).id))

    async def refresh_parties(self, identity: str) -> None:
        """Ask a partner for its parties now (UC 02.01). Raises ``PeerUnreachable`` or ``PeerSaidNo``."""
        known = self._directory.by_identity(identity)
        if known is None or not self._directory.connected(known.id):
            await self._directory.look_again()  # another process may have connected it a moment ago
        platform = self.known(identity)
        if not self._directory.connected(platform.id):
            raise Refused(f"{platform.identity} is not connected")
        await self.partner_parties.fetch(platform.id)

    async def look_again(self, platform_id: int) -> None:
        """Ask again because an unknown party turned up, if that was not done a moment ago; never raises for it."""
        await self.partner_parties.look_again(platform_id)

    # -- certificates ---------------------------------------------------------------------------------------

    async def certificates(self) -> list[CertificateShown]:
        """List client certificates in both directions."""
        return await self.issued.all()

    async def request_certificate(self, platform: str) -> SigningRequest:
        """Make a request to hand to a partner (UC 01.01)."""
        return await self.issued.request(platform)

    async def inspect_request(self, csr: str) -> SigningRequest:
        """Look at a partner's request before it is signed."""
        return self.issued.inspect(csr)

    async def sign(self, csr: str, *, server_ca: str | None = None) -> Signed:
        """Issue a client certificate to a partner, after the phone call (R.01.01.04)."""
        return await self.issued.sign(csr, server_ca=server_ca)

    async def install(self, platform: str, chain: str, *, server_ca: str | None = None) -> CertificateShown:
        """Take a certificate that a partner issued to us."""
        installed = await self.issued.install(platform, chain, server_ca=server_ca)
        self.renewals.wake()
        return installed

    async def end_certificate(self, serial: str, reason: str = "ended by the operator") -> CertificateShown:
        """Accept, or use, a certificate no longer."""
        return await self.issued.end(serial, reason)

    async def renew(self, identity: str) -> Renewal:
        """Ask a partner for a new certificate now (UC 01.04)."""
        return await self.renewals.ask(identity)
