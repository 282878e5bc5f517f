"""The outbound session of each partner, kept on the newest certificate that it issued to us."""

import asyncio
import logging
import ssl
from collections.abc import Collection
from typing import Final

from certs import files
from certs.errors import CertificateError
from certs.tls import client_context
from engine.clock import Clock
from engine.peers.client import Peer, Peers
from engine.protocol.registration import PlatformState
from engine.refusals import Refused
from engine.registration.directory import Directory
from engine.settings import PlatformFolder
from engine.store import platforms as rows
from engine.store.database import Database
from engine.store.platforms import Certificate, Platform

_log = logging.getLogger(__name__)

UNANNOUNCED_TIMEOUT_S: Final = 30.0  # for the handshake itself: the partner has not yet said how long it may take
TALKING: Final = frozenset({PlatformState.CONNECTING, PlatformState.CONNECTED})


_Basis = tuple[str, int | None, str | None, int]
"""What a session is made of: base URL, time-out, authority of the server, our certificate."""


class Sessions:
    """Opens, swaps and closes sessions as connections and certificates change."""

    def __init__(
        self, *, database: Database, directory: Directory, peers: Peers, folder: PlatformFolder, clock: Clock
    ) -> None:
        self._database = database
        self._directory = directory
        self._peers = peers
        self._folder = folder
        self._clock = clock
        self._swapping = asyncio.Lock()
        self._followed: dict[int, _Basis] = {}

    async def open_all(self, platform_ids: Collection[int] = ()) -> None:
        """Bring sessions in line: those of these partners, or of all.

        One whose key or certificate cannot be read is logged and left out.
        """
        for platform in self._directory.platforms():
            if platform_ids and platform.id not in platform_ids:
                continue
            try:
                await self.follow(platform.id)
            except Refused as error:
                _log.error(
                    "no session with a partner: %s",
                    error,
                    extra={"action": "session_failed", "platform": platform.identity},
                )

    async def follow(self, platform_id: int) -> None:
        """Bring a partner's session in line with what the directory and the certificates say.

        Requests in progress end on the session that they began on. Raises ``Refused`` when files are in the way.
        """
        async with self._swapping:
            platform = self._directory.platform(platform_id)
            certificate = await self.certificate(platform_id)
            timeout_ms = platform.request_timeout_ms
            if timeout_ms is not None:
                self._peers.announced(platform_id, timeout_ms / 1000)
            if platform.state not in TALKING or platform.base_url is None or certificate is None:
                self._peers.forget(platform_id)
                self._followed.pop(platform_id, None)
                return
            basis = (platform.base_url, timeout_ms, platform.server_ca, certificate.id)
            if self._followed.get(platform_id) == basis:
                return  # a session that is left as it is keeps its connections
            try:
                context = await asyncio.to_thread(self._context, platform, certificate)
            except CertificateError as error:
                raise Refused(str(error)) from error
            timeout_s = UNANNOUNCED_TIMEOUT_S if timeout_ms is None else timeout_ms / 1000
            self._peers.use(Peer(platform_id, platform.identity, platform.base_url, timeout_s), context)
            self._followed[platform_id] = basis

    async def certificate(self, platform_id: int) -> Certificate | None:
        """Return the newest certificate of ours that the partner takes; None when there is none."""
        now = self._clock.now()
        async with self._database.reading() as tx:
            found = await rows.all_certificates(tx, platform_id, issued_here=False, live=True)
        return next((certificate for certificate in reversed(found) if certificate.not_after > now), None)

    def _context(self, platform: Platform, certificate: Certificate) -> ssl.SSLContext:
        pair = self._folder.keys / (certificate.key_file or "")
        server_ca = None
        if platform.server_ca is not None:
            server_ca = self._folder.keys / f"{platform.identity}_server-ca.pem"
            files.write_chain(server_ca, platform.server_ca.encode())
        return client_context(chain_file=pair, key_file=pair, server_ca_file=server_ca)
