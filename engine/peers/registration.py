"""What we say about connections and certificates (chapter 1) and parties (UC 02.01): one function for each request."""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote

import msgspec

from engine.peers.client import PeerAnswer, PeerFailure, Peers
from engine.protocol import envelope
from engine.protocol.errors import SUCCESS
from engine.protocol.registration import BYE, CONNECTION, PARTIES, RENEW, VERSIONS


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer on a platform-level path, out of its envelope if it came in one (W4).

    ``content`` is a JSON object, or empty. ``is_json`` is False for HTML and its like, and where there is no body.
    """

    http_status: int
    status_code: int | None
    message: str
    content: bytes
    is_json: bool
    is_strange: bool = False
    """Whether it is something else than OCPI: a proxy's page for people, which says nothing of the partner."""

    @property
    def ok(self) -> bool:
        """Whether it says yes."""
        return self.http_status // 100 == 2 and self.status_code in (None, SUCCESS)  # noqa: PLR2004

    @property
    def done(self) -> bool:
        """Whether it says yes where the draft gives the answer no body: none will do, a page for people will not."""
        return self.ok and not self.is_strange

    @property
    def passing(self) -> bool:
        """Whether the same request may well be answered otherwise a little later."""
        return (
            self.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR
            or self.http_status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
            or (self.http_status // 100 == 2 and not self.is_json)  # noqa: PLR2004
        )


class RegistrationRequests:
    """Requests from this platform to a partner. Each raises ``PeerFailure`` when there is no answer."""

    def __init__(self, peers: Peers) -> None:
        """Send through these sessions."""
        self._peers = peers

    async def handshake(self, platform_id: int, offer: bytes) -> Reply:
        """Offer a connection (R.01.03.03, R.01.03.04), with exactly these bytes (B19)."""
        return await self._ask(platform_id, "POST", f"/{CONNECTION}", offer)

    async def bye(self, platform_id: int) -> Reply:
        """End the connection (R.01.05.01)."""
        return await self._ask(platform_id, "POST", f"/{CONNECTION}/{BYE}")

    async def renew(self, platform_id: int, body: bytes) -> Reply:
        """Ask for a new certificate (R.01.04.01)."""
        return await self._ask(platform_id, "POST", f"/{CONNECTION}/{RENEW}", body)

    async def renewed(self, platform_id: int, callback_id: str, body: bytes) -> Reply:
        """Give the new certificate, or the reason why there is none (R.01.04.07, R.01.04.09)."""
        return await self._ask(platform_id, "POST", f"/{CONNECTION}/{RENEW}/{quote(callback_id, safe='')}", body)

    async def versions(self, platform_id: int) -> Reply:
        """Ask which versions the partner speaks (R.01.06.01)."""
        return await self._ask(platform_id, "GET", f"/{VERSIONS}")

    async def parties(self, platform_id: int) -> Reply:
        """Ask which parties the partner serves to us (R.02.01.01)."""
        return await self._ask(platform_id, "GET", f"/{PARTIES}")

    async def _ask(self, platform_id: int, method: str, path: str, body: bytes | None = None) -> Reply:
        return read_reply(await self._peers.request(platform_id, method, path, body=body))


def read_reply(answer: PeerAnswer) -> Reply:
    """Take an answer out of its envelope, where it has one."""
    response = envelope.read(answer.body)
    if response is None:
        is_json = _is_object(answer.body)
        strange = not is_json and answer.body.strip() != b""
        content = answer.body if is_json else b""
        return Reply(answer.http_status, None, "", content, is_json=is_json, is_strange=strange)
    # A bare object with a field of this name is none of chapter 1's, so this is an envelope.
    content = response.content if response.status_code == SUCCESS else b""
    return Reply(answer.http_status, response.status_code, response.status_message or "", content, is_json=True)


def _is_object(body: bytes) -> bool:
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


__all__ = ["PeerFailure", "RegistrationRequests", "Reply", "read_reply"]
