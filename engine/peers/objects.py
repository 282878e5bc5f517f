"""Sending Party Issued Objects (UC 03.02): the request that is made thousands of times a second.

Nothing is parsed or built here that could be prepared: the path is the worker's, the body is the payload's own
bytes, and a success is recognised by its first bytes.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from engine.peers.client import FailureKind, PeerFailure, Peers


@dataclass(frozen=True, slots=True)
class Answered:
    """The partner's answer."""

    http_status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer. ``in_progress_until`` is monotonic; None when the request never left.

    ``platform_up``: whether the partner is there all the same; None when that was not tried.
    """

    reason: str
    in_progress_until: float | None
    platform_up: bool | None = False


class ObjectRequests:
    """Sends updates; never raises for what a partner or the network does."""

    def __init__(self, peers: Peers, *, may_send: Callable[[], bool]) -> None:
        """Send through these sessions, as long as this process is the one that may."""
        self._peers = peers
        self._may_send = may_send

    def timeout_s(self, platform_id: int) -> float:
        """Return the partner's request time-out: how long a request counts as in progress (R.03.02.17)."""
        return self._peers.timeout_s(platform_id)

    async def update(self, platform_id: int, path: str, body: bytes) -> Answered | Unanswered:
        """Make one attempt; the answer has the partner's time-out to come, from when the request was sent."""
        try:
            answer = await self._peers.request(platform_id, "POST", path, body=body, may_send=self._may_send)
        except PeerFailure as failure:
            if failure.kind is FailureKind.WITHHELD:
                return Unanswered(str(failure), None, platform_up=None)
            open_until: float | None = None
            if failure.sent and not failure.answered:
                sent_at = asyncio.get_running_loop().time() if failure.sent_at is None else failure.sent_at
                open_until = sent_at + self.timeout_s(platform_id)
            return Unanswered(str(failure), open_until, platform_up=failure.answered)
        return Answered(answer.http_status, answer.body)
