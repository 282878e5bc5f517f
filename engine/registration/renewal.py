"""New certificates for old ones, while the old ones still work (UC 01.04).

A renewal is a row on both sides with a life. The asker stores key and request before it asks, and asks until it
is heard; the issuer stores the request before it says yes to having it, and delivers the certificate, or the
reason why there is none, until the asker took it. In between and after, both certificates are accepted, so no
request is refused on the way.
"""

import contextlib
import logging
import secrets
from collections.abc import Mapping
from typing import Final

from certs import files, requests
from certs.errors import BadCertificate, BadRequest
from certs.renewal import renewal_due_at
from engine.clock import Clock
from engine.peers.registration import PeerFailure, RegistrationRequests, Reply
from engine.protocol.errors import InvalidParameters, NotFound, TooMany
from engine.protocol.registration import (
    OPEN_RENEWALS,
    CertificateRenewalRequest,
    PlatformState,
    RenewalState,
    check_renewal,
    read_renewal_answer,
    refused_body,
    renewal_body,
    renewed_body,
)
from engine.refusals import NotFoundHere, PeerSaidNo, Refused
from engine.registration.certificates import Certificates, refusing
from engine.registration.directory import Directory
from engine.registration.errands import Errands, pause_s
from engine.registration.sessions import Sessions
from engine.settings import PlatformFolder, Settings
from engine.store import platforms as rows
from engine.store.database import Database, Tx
from engine.store.membership import Membership
from engine.store.platforms import Platform, Renewal

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0  # after a request or a callback that was not taken; doubles
LONGEST_PAUSE_S: Final = 3600.0  # in 168 hours that is still some 170 attempts
AGAIN_AFTER_S: Final = 86_400.0  # a renewal that was refused or not answered is tried again, daily at most,
AGAIN_AFTER_SHARE: Final = 0.05  # and more often for certificates that live short: after this share of their life
OPEN_MAX: Final = 4  # renewals of one partner in progress here: it needs one
LIVE_MAX: Final = 16  # certificates of one partner that are valid at once: it needs two
CALLBACK_ID_BYTES: Final = 16  # nobody guesses it; 22 characters, all unreserved (W23)
_HOUR_S: Final = 3600.0


class Renewals:
    """Renews certificates in both directions."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        sessions: Sessions,
        certificates: Certificates,
        requests: RegistrationRequests,
        folder: PlatformFolder,
        settings: Settings,
        clock: Clock,
        membership: Membership,
    ) -> None:
        self._database = database
        self._directory = directory
        self._sessions = sessions
        self._certificates = certificates
        self._requests = requests
        self._folder = folder
        self._settings = settings
        self._clock = clock
        check_s = settings.certificates.check_s
        self._open = Errands(
            "renewals", due=self._due, run=self._step, clock=clock, membership=membership, look_again_s=check_s
        )
        self._timely = Errands(
            "renewal dates", due=self._ripe, run=self._begin, clock=clock, membership=membership, look_again_s=check_s
        )

    async def start(self) -> None:
        """Go on with renewals that are open, and look for certificates that are due."""
        await self._open.start()
        if self._settings.certificates.renew_automatically:
            await self._timely.start()

    async def stop(self) -> None:
        """Begin nothing more."""
        await self._timely.stop()
        await self._open.stop()

    def wake(self) -> None:
        """Look at the certificates again: there is a new connection, or a new certificate."""
        self._timely.wake()

    def look_again(self) -> None:
        """Look at open renewals now."""
        self._open.wake()

    async def all(self) -> list[Renewal]:
        """List renewals in both directions, oldest first."""
        async with self._database.reading() as tx:
            return await rows.all_renewals(tx)

    # -- we ask ---------------------------------------------------------------------------------------------

    async def ask(self, identity: str) -> Renewal:
        """Ask a partner for a new certificate, and return after the first attempt.

        One that is in progress already is gone on with. Raises ``NotFoundHere``, and ``Refused`` without a
        connection or when the partner does not take the request.
        """
        platform = self._directory.by_identity(identity)
        if platform is None:
            raise NotFoundHere(f"{identity} is not known here; see `ocpi-engine platforms`")
        renewal = await self._store_request(platform)
        await self._open.now(renewal.id)
        async with self._database.reading() as tx:
            after = await rows.renewal_by_id(tx, renewal.id)
        if after is None or after.state is RenewalState.REFUSED:
            raise Refused(f"{identity} refused: {after.reason if after else 'the connection ended'}")
        return after

    async def _begin(self, platform_id: int) -> None:
        platform = self._directory.platform(platform_id)
        if platform.state is PlatformState.CONNECTED:
            with contextlib.suppress(Refused):  # the connection ended a moment ago
                await self._store_request(platform)
            self._open.wake()

    async def _store_request(self, platform: Platform) -> Renewal:
        async with self._database.transaction() as tx:
            locked = await rows.platform_by_id(tx, platform.id, lock=True)
            if locked is None or locked.state is not PlatformState.CONNECTED:
                raise Refused(f"{platform.identity} is not connected: a certificate is renewed over a connection")
            for renewal in await rows.all_renewals(tx, platform.id):
                if renewal.asked_by_us and renewal.state in OPEN_RENEWALS:
                    return renewal
            callback_id = secrets.token_urlsafe(CALLBACK_ID_BYTES)
            file = self._folder.keys / f"{platform.identity}_{callback_id}.renewal"
            with refusing():
                key, csr = requests.make_request(self._settings.platform.identity)
                files.make_private_folder(self._folder.keys)
                files.write_key(file, key)
            now = self._clock.now()
            return await rows.add_renewal(
                tx,
                platform_id=platform.id,
                asked_by_us=True,
                callback_id=callback_id,
                state=RenewalState.ASKING,
                csr=csr.decode("ascii"),
                key_file=file.name,
                created_at=now,
                due_at=now,
            )

    async def _ripe(self) -> Mapping[int, float]:
        """When each partner is to be asked (B37); those that are being asked are left out."""
        due: dict[int, float] = {}
        async with self._database.reading() as tx:
            asked = [renewal for renewal in await rows.all_renewals(tx) if renewal.asked_by_us]
        for platform in self._directory.platforms():
            certificate = await self._sessions.certificate(platform.id)
            if platform.state is not PlatformState.CONNECTED or certificate is None:
                continue
            mine = [renewal for renewal in asked if renewal.platform_id == platform.id]
            if any(renewal.state in OPEN_RENEWALS for renewal in mine):
                continue
            at = renewal_due_at(certificate.not_before, certificate.not_after)
            in_vain = [one.created_at for one in mine if one.created_at > certificate.created_at]
            if in_vain:
                lifetime_s = certificate.not_after - certificate.not_before
                at = max(at, max(in_vain) + min(AGAIN_AFTER_S, lifetime_s * AGAIN_AFTER_SHARE))
            due[platform.id] = at
        return due

    async def receive_answer(self, platform_id: int, callback_id: str, body: bytes) -> None:
        """Take a new certificate, or the reason why there is none; what is taken is in use and durable.

        Raises ``NotFound`` for a callback id that nobody waits for, ``InvalidParameters`` for a chain that
        cannot be used.
        """
        answer = read_renewal_answer(body)
        async with self._database.transaction() as tx:
            renewal = await rows.find_renewal(tx, platform_id, asked_by_us=True, callback_id=callback_id)
            if renewal is None or renewal.state is RenewalState.ENDED:
                raise NotFound("no certificate is awaited under this id")
            if renewal.state in (RenewalState.RENEWED, RenewalState.REFUSED):
                if (renewal.chain, renewal.reason) != (answer.chain, answer.reason):
                    raise NotFound("another answer was given under this id, and taken")
                return  # its answer was lost, so it came again
            if answer.chain is None:
                await rows.change_renewal(tx, renewal.id, state=RenewalState.REFUSED, reason=answer.reason, due_at=None)
            else:
                await self._take(tx, renewal, answer.chain)
        self._forget_key(renewal)
        identity = self._directory.platform(platform_id).identity
        if answer.chain is None:
            _log.warning(
                "a partner did not renew our certificate: %s",
                answer.reason,
                extra={"action": "renewal_refused", "platform": identity},
            )
        else:
            await self._sessions.follow(platform_id)
            _log.info("our certificate was renewed", extra={"action": "renewed", "platform": identity})
        self._timely.wake()

    async def _take(self, tx: Tx, renewal: Renewal, chain: str) -> None:
        key_file = self._folder.keys / (renewal.key_file or "")
        try:
            info = self._certificates.checked(chain, key_file)
        except BadCertificate as error:
            problem = [{"field": "/certificateChain", "reason": str(error)}]
            raise InvalidParameters("this certificate cannot be used here", data=problem) from error
        platform = self._directory.platform(renewal.platform_id)
        await self._certificates.store(tx, platform, info, files.read_key(key_file))
        await rows.change_renewal(tx, renewal.id, state=RenewalState.RENEWED, chain=chain, due_at=None)

    def _forget_key(self, renewal: Renewal) -> None:
        if renewal.key_file:
            (self._folder.keys / renewal.key_file).unlink(missing_ok=True)

    # -- we are asked ---------------------------------------------------------------------------------------

    async def receive_request(self, platform_id: int, request: CertificateRenewalRequest) -> None:
        """Take a partner's request, durably; it is answered later, by a callback.

        Raises ``InvalidParameters`` for fields that are wrong, ``TooMany`` when others are in progress.
        """
        check_renewal(request)
        automatic = self._settings.certificates.renew_automatically
        now = self._clock.now()
        async with self._database.transaction() as tx:
            known = await rows.find_renewal(tx, platform_id, asked_by_us=False, callback_id=request.callbackId)
            if known is not None:
                if known.csr != request.csr:
                    problem = [{"field": "/callbackId", "reason": "was used for another request"}]
                    raise InvalidParameters("this callback id was used before", data=problem)
                return
            if await rows.count_open_renewals(tx, platform_id) >= OPEN_MAX:
                raise TooMany(f"{OPEN_MAX} renewals of your certificate are in progress here already")
            await rows.add_renewal(
                tx,
                platform_id=platform_id,
                asked_by_us=False,
                callback_id=request.callbackId,
                state=RenewalState.ANSWERING if automatic else RenewalState.WAITING,
                csr=request.csr,
                created_at=now,
                due_at=now if automatic else None,
            )
        self._open.wake()

    async def decide(self, renewal_id: int, *, refuse_because: str | None = None) -> None:
        """Let a renewal that waits for an operator go on: issue the certificate, or refuse with the reason."""
        async with self._database.transaction() as tx:
            renewal = await rows.renewal_by_id(tx, renewal_id, lock=True)
            if renewal is None or renewal.asked_by_us or renewal.state is not RenewalState.WAITING:
                raise NotFoundHere(f"there is no renewal {renewal_id} that waits for a decision")
            await rows.change_renewal(
                tx, renewal_id, state=RenewalState.ANSWERING, reason=refuse_because, due_at=self._clock.now()
            )
        self._open.wake()

    async def _issue(self, renewal: Renewal) -> Renewal:
        """Issue what was asked for, or find the reason not to; either is stored with the renewal.

        Raises ``Refused`` when our own authority is out of order, which is not the partner's fault.
        """
        async with self._database.transaction() as tx:
            platform = await rows.platform_by_id(tx, renewal.platform_id, lock=True)
            if platform is None or platform.state is not PlatformState.CONNECTED:
                return renewal
            try:
                # R.01.04.05: the platform's identity is the common name of every certificate that it calls us with.
                checked = requests.check_request(renewal.csr, common_name=platform.identity)
                live = await rows.all_certificates(tx, platform.id, issued_here=True, live=True)
                if sum(one.not_after > self._clock.now() for one in live) >= LIVE_MAX:
                    raise BadRequest(f"{LIVE_MAX} of your certificates are valid already")
            except BadRequest as error:
                await rows.change_renewal(tx, renewal.id, reason=str(error))
            else:
                _, _, chain = await self._certificates.issue(tx, platform, checked)
                await rows.change_renewal(tx, renewal.id, chain=chain)
            decided = await rows.renewal_by_id(tx, renewal.id)
        await self._directory.reload(peers_too=False)  # before the partner can use it
        return decided or renewal

    # -- both: one step of an open renewal --------------------------------------------------------------------

    async def _due(self) -> Mapping[int, float]:
        async with self._database.reading() as tx:
            return {
                renewal.id: renewal.due_at
                for renewal in await rows.open_renewals(tx)
                if renewal.due_at is not None and self._directory.connected(renewal.platform_id)
            }

    async def _step(self, renewal_id: int) -> None:
        async with self._database.reading() as tx:
            renewal = await rows.renewal_by_id(tx, renewal_id)
        if renewal is None or renewal.state not in OPEN_RENEWALS:
            return
        late = self._clock.now() >= self._expires_at(renewal)
        if late and renewal.asked_by_us:
            await self._close(renewal, RenewalState.EXPIRED, "not answered in time (R.01.04.04)")
            self._timely.wake()
        elif renewal.state is RenewalState.ASKING:
            await self._send_request(renewal)
        elif renewal.state is RenewalState.ANSWERING:
            await self._send_answer(renewal, late=late)

    def _expires_at(self, renewal: Renewal) -> float:
        return renewal.created_at + self._settings.certificates.answer_within_h * _HOUR_S

    async def _send_request(self, renewal: Renewal) -> None:
        try:
            reply = await self._requests.renew(renewal.platform_id, renewal_body(renewal.csr, renewal.callback_id))
        except PeerFailure as failure:
            await self._again(renewal, str(failure))
            return
        if reply.done:
            expires_at = self._expires_at(renewal)
            await self._change(renewal, state=RenewalState.WAITING, due_at=expires_at, last_error=None)
        elif reply.passing:
            await self._again(renewal, _words(reply))
        else:
            await self._change(renewal, state=RenewalState.REFUSED, reason=_words(reply), due_at=None)
            self._timely.wake()

    async def _send_answer(self, renewal: Renewal, *, late: bool) -> None:
        if renewal.chain is None and renewal.reason is None:
            try:
                renewal = await self._issue(renewal)
            except Refused as error:
                _log.exception("no certificate could be issued", extra={"action": "issuing_failed"})
                await self._again(renewal, str(error))
                return
            if renewal.chain is None and renewal.reason is None:
                return  # the connection ended
        answer = refused_body(renewal.reason or "") if renewal.chain is None else renewed_body(renewal.chain)
        end = RenewalState.REFUSED if renewal.chain is None else RenewalState.RENEWED
        try:
            reply = await self._requests.renewed(renewal.platform_id, renewal.callback_id, answer)
        except PeerFailure as failure:
            words, over = str(failure), late
        else:
            words, over = _words(reply), late or not reply.passing
            if reply.done:
                await self._change(renewal, state=end, due_at=None, last_error=None)
                return
        if over:
            await self._close(renewal, RenewalState.ENDED, words)
        else:
            await self._again(renewal, words)

    async def _again(self, renewal: Renewal, words: str) -> None:
        attempts = renewal.attempts + 1
        pause = pause_s(attempts, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)
        due_at = min(self._clock.now() + pause, max(self._expires_at(renewal), self._clock.now()))
        await self._change(renewal, attempts=attempts, due_at=due_at, last_error=words)

    async def _close(self, renewal: Renewal, state: RenewalState, words: str) -> None:
        await self._change(renewal, state=state, due_at=None, last_error=words)
        _log.warning(
            "a renewal came to nothing: %s",
            words,
            extra={
                "action": "renewal_" + state.value,
                "platform": self._directory.platform(renewal.platform_id).identity,
            },
        )

    async def _change(self, renewal: Renewal, **values: object) -> None:
        """Change a renewal, unless it went on meanwhile: a callback may overtake the answer to the request."""
        async with self._database.transaction() as tx:
            current = await rows.renewal_by_id(tx, renewal.id, lock=True)
            if current is not None and current.state is renewal.state:
                await rows.change_renewal(tx, renewal.id, **values)


def _words(reply: Reply) -> str:
    return str(PeerSaidNo(reply.http_status, reply.status_code, reply.message))
