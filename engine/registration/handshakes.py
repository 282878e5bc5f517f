"""How connections begin and end: handshakes of either side (UC 01.03) and byes of either side (UC 01.05).

Our handshake is stored before it is sent, and sent again, byte for byte, until the partner accepts or refuses it
(B19): whatever is lost on the way, neither side stays behind alone. What we answer is stored before it is answered.

Handshakes may cross. Whoever waits for an answer and gets a handshake accepts it and is connected; so both are,
and the answers to what crossed change nothing, whether they accept or call it a conflict.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from engine.clock import Clock
from engine.peers.client import Peers
from engine.peers.registration import PeerFailure, RegistrationRequests, Reply
from engine.protocol.errors import Conflict, Forbidden
from engine.protocol.ids import PlatformIdentity
from engine.protocol.registration import (
    PLATFORM,
    ConnectionParametersRequest,
    PlatformEvent,
    PlatformState,
    acceptance_body,
    check_offer,
    offer_body,
    read_acceptance,
)
from engine.refusals import NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.registration.directory import Directory
from engine.registration.errands import Errands, pause_s
from engine.registration.sessions import Sessions
from engine.settings import Settings
from engine.store import parties as party_rows
from engine.store import platforms as rows
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.membership import Membership
from engine.store.platforms import Platform

_log = logging.getLogger(__name__)

FIRST_PAUSE_S: Final = 1.0  # until a handshake that was not answered is sent again; doubles
LONGEST_PAUSE_S: Final = 300.0  # an operator waits for it: five minutes after the partner is back, at most
LOOK_AGAIN_S: Final = 3600.0  # handshakes wake this up themselves
# They refuse our certificate already, so the connection is over for them: what a repeated bye comes to.
_ENDED_THERE: Final = frozenset({401, 403})


@dataclass
class Hooks:
    """Whom to tell. ``on_ended`` runs within the transaction that ends a platform; what it raises undoes that.

    After a partner's handshake it may not have our answer yet, and refuse what we ask: its first request shows that
    it has, and ``on_first_request`` tells of that.
    """

    on_connected: list[Callable[[int], None]] = field(default_factory=list)
    on_first_request: list[Callable[[int], None]] = field(default_factory=list)
    on_ended: list[Callable[[Tx, int], Awaitable[None]]] = field(default_factory=list)


class Handshakes:
    """Begins and ends connections."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        sessions: Sessions,
        peers: Peers,
        requests: RegistrationRequests,
        settings: Settings,
        clock: Clock,
        membership: Membership,
    ) -> None:
        self.hooks = Hooks()
        self._database = database
        self._directory = directory
        self._sessions = sessions
        self._peers = peers
        self._requests = requests
        self._settings = settings
        self._clock = clock
        self._said_no: dict[int, PeerSaidNo] = {}
        self._forgetting: set[asyncio.Task[None]] = set()
        self._errands = Errands(
            "handshakes",
            due=self._due,
            run=self._send,
            clock=clock,
            membership=membership,
            look_again_s=LOOK_AGAIN_S,
        )
        directory.on_traffic = self._on_traffic

    async def start(self) -> None:
        """Go on with handshakes that were not answered."""
        await self._errands.start()

    async def stop(self) -> None:
        """Send no more."""
        await self._errands.stop()
        await asyncio.gather(*self._forgetting, return_exceptions=True)

    def wake(self) -> None:
        """Look at what is due: another process changed something, or left it behind."""
        self._errands.wake()

    # -- ours -----------------------------------------------------------------------------------------------

    async def offer(
        self, identity: PlatformIdentity, base_url: str, *, server_ca: str | None, tolerant: bool | None
    ) -> Platform:
        """Make the handshake, and return when it was answered or the first attempt failed.

        The platform is then ``connected``, or still ``connecting``: it is sent again until it is answered.
        Raises ``NotFoundHere``, ``Refused`` when certificates are missing or there is a connection already, and
        ``PeerSaidNo`` when the partner refused.
        """
        platform = await self._store_offer(identity, base_url, server_ca=server_ca, tolerant=tolerant)
        await self._directory.reload(peers_too=False)
        await self._sessions.follow(platform.id)
        self._said_no.pop(platform.id, None)
        await self._errands.now(platform.id)
        refusal = self._said_no.pop(platform.id, None)
        if refusal is not None:
            raise refusal
        return self._directory.platform(platform.id)

    async def _store_offer(
        self, identity: PlatformIdentity, base_url: str, *, server_ca: str | None, tolerant: bool | None
    ) -> Platform:
        async with self._database.transaction() as tx:
            platform = await rows.platform_by_identity(tx, identity, lock=True)
            if platform is None:
                raise NotFoundHere(
                    f"{identity} is not known here: exchange certificates first (`certificate request` and `sign`)"
                )
            if not PLATFORM.allows(platform.state, PlatformEvent.OFFER):
                raise Refused(_no_offer(platform))
            await self._check_certificates(tx, platform)
            changes: dict[str, Any] = {"offer_attempts": 0, "offer_due_at": self._clock.now(), "last_error": None}
            if platform.offer is None or platform.base_url != base_url:
                ours = self._settings
                changes["offer"] = offer_body(ours.platform.base_url, ours.peers.request_timeout_ms)
                changes["base_url"] = base_url
                changes["request_timeout_ms"] = None
            if server_ca is not None:
                changes["server_ca"] = server_ca
            if tolerant is not None:
                changes["tolerant"] = tolerant
            state = PLATFORM.after(platform.state, PlatformEvent.OFFER)
            await rows.change_platform(tx, platform.id, state=state, **changes)
        return platform

    async def _check_certificates(self, tx: Tx, platform: Platform) -> None:
        """See that both certificates were exchanged (UC 01.03's precondition)."""
        now = self._clock.now()
        live = [one for one in await rows.all_certificates(tx, platform.id, live=True) if one.not_after > now]
        if not any(not one.issued_here for one in live):
            raise Refused(
                f"{platform.identity} has not issued a certificate to us: `certificate request`, then `install`"
            )
        if not any(one.issued_here for one in live):
            raise Refused(f"{platform.identity} has no certificate of ours, so it could not answer: `certificate sign`")

    async def _due(self) -> Mapping[int, float]:
        return {
            platform.id: platform.offer_due_at
            for platform in self._directory.platforms()
            if platform.state is PlatformState.CONNECTING and platform.offer_due_at is not None
        }

    async def _send(self, platform_id: int) -> None:
        """Send our handshake once, and note what came of it."""
        platform = self._directory.platform(platform_id)
        offer = platform.offer
        if platform.state is not PlatformState.CONNECTING or offer is None:
            return
        try:
            reply = await self._requests.handshake(platform_id, offer)
        except PeerFailure as failure:
            await self._unanswered(platform, str(failure))
            return
        if reply.ok and reply.is_json:
            await self._accepted(platform, offer, reply)
        elif reply.passing:
            await self._unanswered(platform, _words(reply))
        else:
            await self._refused(platform, offer, reply)

    async def _accepted(self, sent: Platform, offer: bytes, reply: Reply) -> None:
        timeout_ms = read_acceptance(reply.content, otherwise_ms=self._settings.peers.request_timeout_max_ms)
        async with self._database.transaction() as tx:
            if not await self._still_offered(tx, sent, offer):
                return
            state = PLATFORM.after(PlatformState.CONNECTING, PlatformEvent.ACCEPTED)
            await rows.change_platform(
                tx,
                sent.id,
                state=state,
                request_timeout_ms=timeout_ms,
                connected_at=self._clock.now(),
                handshake=None,
                parties_fetched_at=None,
                **_NO_OFFER,
            )
        await self._connected(sent)

    async def _refused(self, sent: Platform, offer: bytes, reply: Reply) -> None:
        words = _words(reply)
        async with self._database.transaction() as tx:
            if not await self._still_offered(tx, sent, offer):
                return
            state = PLATFORM.after(PlatformState.CONNECTING, PlatformEvent.REFUSED)
            await rows.change_platform(tx, sent.id, **{**_NO_OFFER, "state": state, "last_error": words})
        self._said_no[sent.id] = PeerSaidNo(reply.http_status, reply.status_code, reply.message)
        await self._directory.reload(peers_too=False)
        await self._sessions.follow(sent.id)
        _log.warning(
            "a partner refused our handshake: %s",
            words,
            extra={"action": "handshake_refused", "platform": sent.identity},
        )

    async def _unanswered(self, sent: Platform, words: str) -> None:
        attempts = sent.offer_attempts + 1
        pause = pause_s(attempts, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)
        async with self._database.transaction() as tx:
            if await self._still_offered(tx, sent, sent.offer):
                due_at = self._clock.now() + pause
                await rows.change_platform(tx, sent.id, offer_attempts=attempts, offer_due_at=due_at, last_error=words)
        await self._directory.reload(peers_too=False)
        _log.info(
            "a handshake of ours was not answered: %s",
            words,
            extra={"action": "handshake_unanswered", "platform": sent.identity},
        )

    async def _still_offered(self, tx: Tx, sent: Platform, offer: bytes | None) -> bool:
        """Say whether this handshake still waits; if not, one of the partner's crossed it, or it was withdrawn."""
        platform = await rows.platform_by_id(tx, sent.id, lock=True)
        waiting = platform is not None and platform.state is PlatformState.CONNECTING
        return waiting and platform is not None and platform.offer == offer and platform.base_url == sent.base_url

    async def _connected(self, platform: Platform) -> None:
        await self._directory.reload(peers_too=False)
        await self._sessions.follow(platform.id)
        _log.info("connected", extra={"action": "connected", "platform": platform.identity})
        for hook in self.hooks.on_connected:
            hook(platform.id)

    # -- theirs ---------------------------------------------------------------------------------------------

    async def receive(self, platform_id: int, body: bytes, request: ConnectionParametersRequest) -> bytes:
        """Accept a partner's handshake, durably, and return the body of the answer (R.01.03.06, R.01.03.07).

        Raises ``Conflict`` (R.01.03.08, R.01.03.09), and ``Forbidden`` after the connection ended.
        """
        digest = hashlib.sha256(body).digest()
        async with self._database.transaction() as tx:
            platform = await rows.platform_by_id(tx, platform_id, lock=True)
            if platform is None or platform.state is PlatformState.ENDED:
                raise Forbidden("the connection ended; a new one begins with new certificates")
            answer = acceptance_body(self._settings.peers.request_timeout_ms)
            if platform.state is PlatformState.CONNECTED:
                if platform.handshake == digest and self._directory.silent_since_handshake(platform_id):
                    return answer  # the answer was lost (B19)
                raise Conflict("your platform is connected to this one already: say bye first (POST /connection/bye)")
            offered = check_offer(request)
            try:
                await self._check_certificates(tx, platform)
            except Refused as error:
                raise Conflict(
                    "no valid client certificate of yours for this platform is installed here: send one first"
                ) from error
            state = PLATFORM.after(platform.state, PlatformEvent.HANDSHAKE)
            await rows.change_platform(
                tx,
                platform_id,
                state=state,
                base_url=offered.base_url,
                request_timeout_ms=offered.request_timeout_ms,
                handshake=digest,
                connected_at=self._clock.now(),
                parties_fetched_at=None,
                **_NO_OFFER,
            )
        self._directory.shook_hands(platform_id)
        await self._connected(platform)
        return answer

    def _on_traffic(self, platform_id: int) -> None:
        """Forget a partner's handshake: it has made another request since, so it knows that it is connected (B19)."""
        task = asyncio.create_task(self._forget_handshake(platform_id))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)
        for hook in self.hooks.on_first_request:
            hook(platform_id)

    async def _forget_handshake(self, platform_id: int) -> None:
        try:
            async with self._database.transaction() as tx:
                await rows.change_platform(tx, platform_id, handshake=None)
        except StoreUnavailable:
            _log.warning("a handshake could not be forgotten", extra={"action": "handshake_kept"})

    # -- ends -----------------------------------------------------------------------------------------------

    async def leave(self, identity: str, reason: str) -> Platform:
        """Say bye to a partner, and end the connection when it has answered (R.01.05.04).

        Raises ``PeerUnreachable`` or ``PeerSaidNo`` when it has not: then nothing changed.
        """
        platform = self._known(identity)
        if platform.state in (PlatformState.CONNECTING, PlatformState.CONNECTED):
            try:
                reply = await self._requests.bye(platform.id)
            except PeerFailure as failure:
                raise PeerUnreachable(
                    f"{platform.identity} was not told, so nothing changed: {failure};"
                    " resetting the connection ends it on this side only"
                ) from failure
            if not reply.done and reply.http_status not in _ENDED_THERE:
                raise PeerSaidNo(reply.http_status, reply.status_code, reply.message)
        return await self._end(platform.id, PlatformEvent.LEAVE, reason)

    async def reset(self, identity: str, reason: str) -> Platform:
        """End a connection on our side, without a word to the partner."""
        return await self._end(self._known(identity).id, PlatformEvent.LEAVE, reason)

    async def receive_bye(self, platform_id: int) -> None:
        """End the connection because the partner says so, durably (R.01.05.03)."""
        await self._end(platform_id, PlatformEvent.BYE, "bye by the partner")

    def _known(self, identity: str) -> Platform:
        platform = self._directory.by_identity(identity)
        if platform is None:
            raise NotFoundHere(f"{identity} is not known here; see `ocpi-engine platforms`")
        return platform

    async def _end(self, platform_id: int, event: PlatformEvent, reason: str) -> Platform:
        async with self._database.transaction() as tx:
            platform = await rows.platform_by_id(tx, platform_id, lock=True)
            if platform is None:
                raise NotFoundHere("there is no such platform")
            if platform.state is PlatformState.ENDED:
                return platform
            now = self._clock.now()
            state = PLATFORM.after(platform.state, event)
            await rows.change_platform(
                tx, platform_id, state=state, ended_at=now, end_reason=reason, handshake=None, **_NO_OFFER
            )
            await rows.end_certificates(tx, platform_id, now=now, reason=reason)
            await rows.end_renewals(tx, platform_id)
            await party_rows.clear_peer_parties(tx, platform_id)
            for hook in self.hooks.on_ended:
                await hook(tx, platform_id)
        await self._directory.reload()
        self._peers.forget(platform_id)
        _log.info("connection ended: %s", reason, extra={"action": "ended", "platform": platform.identity})
        return self._directory.platform(platform_id)


_NO_OFFER: Final[Mapping[str, Any]] = {"offer": None, "offer_attempts": 0, "offer_due_at": None, "last_error": None}


def _no_offer(platform: Platform) -> str:
    if platform.state is PlatformState.CONNECTED:
        return f"{platform.identity} is connected already: `disconnect` first"
    return f"the connection with {platform.identity} ended: exchange new certificates, then connect (B20)"


def _words(reply: Reply) -> str:
    return str(PeerSaidNo(reply.http_status, reply.status_code, reply.message))
