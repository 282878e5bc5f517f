"""Client certificates: asking partners for ours, issuing theirs, ending either (UC 01.01).

A certificate signing request and the certificate travel by hand, so each step is one call: ``request`` and
``install`` for ours, ``inspect`` and ``sign`` for theirs. A key never leaves the folder; key and chain are one
file, written before the database says that they are in use.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from certs import chains, files, names, requests
from certs.authority import Authority
from certs.chains import ChainInfo
from certs.errors import BadCertificate, CertificateError
from certs.requests import CheckedRequest
from engine.clock import Clock
from engine.protocol.ids import PlatformIdentity
from engine.protocol.registration import PLATFORM, PlatformEvent, PlatformState
from engine.refusals import NotFoundHere, Refused
from engine.registration.directory import Directory
from engine.registration.sessions import Sessions
from engine.settings import PlatformFolder, Settings
from engine.store import platforms as rows
from engine.store.database import Database, Tx
from engine.store.platforms import Certificate, Platform

_log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
PENDING_KEYS_MAX: Final = 8  # requests to one partner that still wait for an answer; older ones are forgotten


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """A request, whose it is, and the fingerprint that two people compare by phone (R.01.01.04)."""

    identity: str
    fingerprint: str
    csr: str


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate that was just issued here, with its authority, leaf first."""

    identity: str
    serial: str
    fingerprint: str
    not_after: float
    chain: str


@dataclass(frozen=True, slots=True)
class CertificateShown:
    """A certificate as it is listed. ``state``: ``in use``, ``expired`` or ``ended``."""

    platform: str
    issued_here: bool
    serial: str
    common_name: str
    not_before: float
    not_after: float
    state: str
    ended_at: float | None
    end_reason: str | None


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what is wrong with a certificate into what an operator is told."""
    try:
        yield
    except CertificateError as error:
        raise Refused(str(error)) from error


class Certificates:
    """Certificates in both directions."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        sessions: Sessions,
        folder: PlatformFolder,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._directory = directory
        self._sessions = sessions
        self._folder = folder
        self._settings = settings
        self._clock = clock
        self._authority: Authority | None = None

    # -- theirs ---------------------------------------------------------------------------------------------

    def inspect(self, csr: str) -> SigningRequest:
        """Look at a partner's request before it is signed.

        Raises ``Refused`` for a request that must not be signed (R.01.01.01 to R.01.01.07).
        """
        with refusing():
            checked = requests.check_request(csr)
        return SigningRequest(checked.common_name, checked.fingerprint, csr)

    async def sign(self, csr: str, *, server_ca: str | None = None) -> Signed:
        """Issue a client certificate to a partner; an ended connection may begin anew with it.

        ``server_ca``: PEM of the authorities to trust for its server certificate (B41); None leaves what is set.
        Raises ``Refused`` for a request that must not be signed.
        """
        with refusing():
            checked = requests.check_request(csr)
            if server_ca is not None:
                chains.describe(server_ca)
        async with self._database.transaction() as tx:
            platform = await self.known(tx, checked.common_name)
            await self._exchanging(tx, platform, server_ca=server_ca)
            serial, not_after, chain = await self.issue(tx, platform, checked)
        await self._directory.reload(peers_too=False)
        _log.info(
            "issued a client certificate",
            extra={"action": "certificate_issued", "platform": platform.identity, "serial": serial},
        )
        return Signed(platform.identity, serial, checked.fingerprint, not_after, chain)

    async def issue(self, tx: Tx, platform: Platform, checked: CheckedRequest) -> tuple[str, float, str]:
        """Issue a certificate and store it: serial, end and chain. Raises ``Refused`` if our authority cannot."""
        now = self._clock.now()
        with refusing():
            if self._authority is None:
                self._authority = Authority.load(self._folder.authority)
            lifetime_s = self._settings.certificates.lifetime_days * DAY_S
            issued = self._authority.issue_client(checked, now=now, lifetime_s=lifetime_s)
        serial, chain = names.serial_text(issued.serial), issued.pem_chain.decode("ascii")
        await rows.add_certificate(
            tx,
            platform_id=platform.id,
            issued_here=True,
            serial=serial,
            common_name=issued.common_name,
            chain=chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            created_at=now,
        )
        return serial, issued.not_after, chain

    # -- ours -----------------------------------------------------------------------------------------------

    async def request(self, identity: str) -> SigningRequest:
        """Make a key, which stays here, and a request to hand to the partner (R.01.01.01).

        Raises ``Refused`` for an identity that is none.
        """
        async with self._database.transaction() as tx:
            platform = await self.known(tx, identity)
            with refusing():
                key, csr = requests.make_request(self._settings.platform.identity)
                checked = requests.check_request(csr)
                files.make_private_folder(self._folder.keys)
                files.write_key(self.pending_key(platform.identity, checked.fingerprint[:16]), key)
            await self._exchanging(tx, platform)
        await self._directory.reload(peers_too=False)
        for forgotten in self._pending_keys(platform.identity)[PENDING_KEYS_MAX:]:
            forgotten.unlink(missing_ok=True)
        return SigningRequest(checked.common_name, checked.fingerprint, csr.decode("ascii"))

    async def install(self, identity: str, chain: str, *, server_ca: str | None = None) -> CertificateShown:
        """Take a certificate that a partner issued to us, and use it from now on.

        Raises ``Refused`` for one that is not for a key and the identity of ours, or that was ended.
        """
        with refusing():
            if server_ca is not None:
                chains.describe(server_ca)
        async with self._database.transaction() as tx:
            platform = await self.known(tx, identity)
            installed, key_file = await self._installed(tx, platform, chain), None
            if installed is None:
                info, key_file = self._fitting(platform.identity, chain)
                with refusing():
                    await self.store(tx, platform, info, files.read_key(key_file))
                installed = (await rows.all_certificates(tx, platform.id, issued_here=False))[-1]
            await self._exchanging(tx, platform, server_ca=server_ca)
        if key_file is not None:
            key_file.unlink(missing_ok=True)
        await self._directory.reload(peers_too=False)
        await self._sessions.follow(platform.id)
        return self._show(installed)

    async def store(self, tx: Tx, platform: Platform, info: ChainInfo, key: bytes) -> None:
        """Store a chain with its key: first the file, so that the database never names one that is not there."""
        serial = names.serial_text(info.serial)
        file = self._folder.keys / f"{platform.identity}_{serial}.pem"
        files.write_pair(file, key_pem=key, chain_pem=info.chain_pem)
        await rows.add_certificate(
            tx,
            platform_id=platform.id,
            issued_here=False,
            serial=serial,
            common_name=info.common_name,
            chain=info.chain_pem.decode("ascii"),
            key_file=file.name,
            not_before=info.not_before,
            not_after=info.not_after,
            created_at=self._clock.now(),
        )

    def pending_key(self, identity: str, name: str) -> Path:
        """Name the file of a key that waits for its certificate; no domain name has an underscore."""
        return self._folder.keys / f"{identity}_{name}.key"

    # -- both -----------------------------------------------------------------------------------------------

    async def all(self) -> list[CertificateShown]:
        """List every certificate, oldest first."""
        async with self._database.reading() as tx:
            return [self._show(certificate) for certificate in await rows.all_certificates(tx)]

    async def end(self, serial: str, reason: str) -> CertificateShown:
        """Accept a certificate no longer from now on, or, if a partner issued it to us, use it no longer.

        Raises ``NotFoundHere``.
        """
        wanted = serial.lower().replace(":", "").lstrip("0")
        async with self._database.transaction() as tx:
            # Partners choose the serials of ours: one that equals one of theirs must not hide it.
            named = [one for one in await rows.all_certificates(tx) if one.serial == wanted]
            found = next((one for one in named if one.issued_here), named[0] if named else None)
            if found is None:
                raise NotFoundHere(f"there is no certificate {serial[:64]!r}: `certificate show` lists the serials")
            await rows.end_certificate(tx, found.id, now=self._clock.now(), reason=reason)
            ended = next(one for one in await rows.all_certificates(tx, found.platform_id) if one.id == found.id)
        await self._directory.reload(peers_too=False)
        if not ended.issued_here:
            await self._sessions.follow(ended.platform_id)
        return self._show(ended)

    async def known(self, tx: Tx, identity: str) -> Platform:
        """Find a partner, or take it up as a new one. Raises ``Refused`` for what cannot be a partner's identity."""
        with refusing():
            name = names.common_name(identity)
        if name == self._settings.platform.identity.lower():
            raise Refused(f"{name} is this platform itself")
        platform = await rows.platform_by_identity(tx, name, lock=True)
        return platform or await rows.add_platform(tx, PlatformIdentity(name), now=self._clock.now())

    # -- within ---------------------------------------------------------------------------------------------

    async def _exchanging(self, tx: Tx, platform: Platform, *, server_ca: str | None = None) -> None:
        """Note that certificates are being exchanged: what ended may begin anew."""
        state = PLATFORM.after(platform.state, PlatformEvent.CERTIFICATE)
        changes: dict[str, object] = {} if server_ca is None else {"server_ca": server_ca}
        if platform.state is PlatformState.ENDED:
            changes |= {"state": state, "ended_at": None, "end_reason": None, "connected_at": None}
        if changes:
            await rows.change_platform(tx, platform.id, **changes)

    async def _installed(self, tx: Tx, platform: Platform, chain: str) -> Certificate | None:
        """Find the same certificate in use already. Raises ``Refused`` when it was ended."""
        with refusing():
            serials = {names.serial_text(info.serial) for info in chains.describe(chain)}
        for certificate in await rows.all_certificates(tx, platform.id, issued_here=False):
            if certificate.serial in serials:
                if certificate.ended_at is not None:
                    ended = f"this certificate was ended ({certificate.end_reason})"
                    raise Refused(f"{ended}: ask the partner for a new one")
                return certificate
        return None

    def _pending_keys(self, identity: str) -> list[Path]:
        """List keys that wait for their certificate, newest first."""
        found = self._folder.keys.glob(f"{identity}_*.key")
        return sorted(found, key=lambda file: file.stat().st_mtime_ns, reverse=True)

    def _fitting(self, identity: str, chain: str) -> tuple[ChainInfo, Path]:
        """Check a chain with the key that it is for. Raises ``Refused`` when it is for none of ours."""
        objection = "there is no request of ours to this partner: make one first with `certificate request`"
        for key_file in self._pending_keys(identity):
            try:
                with refusing():
                    return self.checked(chain, key_file), key_file
            except Refused as error:
                objection = str(error)
                if not isinstance(error.__cause__, BadCertificate) or "for our key" not in objection:
                    break  # it is for this key, and something else is wrong with it
        raise Refused(objection)

    def checked(self, chain: str, key_file: Path) -> ChainInfo:
        """Check a chain that a partner issued for a key of ours. Raises ``CertificateError``."""
        identity, key = self._settings.platform.identity, files.read_key(key_file)
        return chains.check_chain(chain, key_pem=key, common_name=identity, now=self._clock.now())

    def _show(self, certificate: Certificate) -> CertificateShown:
        state = "expired" if certificate.not_after < self._clock.now() else "in use"
        return CertificateShown(
            platform=self._directory.platform(certificate.platform_id).identity,
            issued_here=certificate.issued_here,
            serial=certificate.serial,
            common_name=certificate.common_name,
            not_before=certificate.not_before,
            not_after=certificate.not_after,
            state=state if certificate.ended_at is None else "ended",
            ended_at=certificate.ended_at,
            end_reason=certificate.end_reason,
        )
