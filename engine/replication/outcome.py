"""What comes of one push: the receiver's answer, read the way R.03.02.16 and B1 to B4 say."""

from dataclasses import dataclass
from enum import Enum, auto

from engine.protocol import envelope
from engine.protocol.errors import SUCCESS, NotSubscribed, SchemaViolated

SHOWN_MAX = 200  # characters of a stranger's answer that are kept to be shown


class Outcome(Enum):
    """What an attempt means for the object that it carried."""

    DELIVERED = auto()
    REJECTED = auto()  # 6001: final for this version (B3)
    NOT_SUBSCRIBED = auto()  # 6002: the receiver knows no such subscription (B4)
    FAILED = auto()  # tried again after the backoff


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome, why, and whether the platform behind it seems to be in order (B6)."""

    outcome: Outcome
    reason: str = ""
    platform_up: bool | None = True


DELIVERED = Result(Outcome.DELIVERED)
_SUCCESS_CLASS = 2  # of HTTP statuses
_SERVER_ERROR_CLASS = 5


def of_answer(http_status: int, body: bytes) -> Result:
    """Read an answer. 1000 counts with a 2xx only; 6001 and 6002 are final with any HTTP status."""
    status_class = http_status // 100
    if status_class == _SUCCESS_CLASS and envelope.is_success(body):
        return DELIVERED
    response = envelope.read(body)
    if response is None:
        shown = body[:SHOWN_MAX].decode("utf-8", "replace")
        reason = f"HTTP {http_status} without an OcpiResponse: {shown!r}"
        return Result(Outcome.FAILED, reason, platform_up=status_class != _SERVER_ERROR_CLASS)
    reason = f"{response.status_code}: {response.status_message or 'no message'}"[:SHOWN_MAX]
    if response.status_code == SchemaViolated.status_code:
        detail = response.content[:SHOWN_MAX].decode("utf-8", "replace")
        return Result(Outcome.REJECTED, f"{reason} {detail}".strip())
    if response.status_code == NotSubscribed.status_code:
        return Result(Outcome.NOT_SUBSCRIBED, reason)
    if response.status_code == SUCCESS:
        reason = f"HTTP {http_status} with status code 1000"
    return Result(Outcome.FAILED, reason)
