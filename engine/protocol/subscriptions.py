"""Subscriptions (3.2.1, 3.2.4 to 3.2.10): their lives, and the bodies that their requests carry.

A subscription has two ends. The producer's *outbound* end owes objects; the consumer's *inbound* end wants
them. Each has its table; the two agree only through requests, any of which may be lost, late or repeated.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from engine.protocol.errors import InvalidParameters
from engine.protocol.objects import NUMBER_STARTS, read_int, read_string
from engine.protocol.transitions import Lifecycle

PARALLELISM_DEFAULT: Final = 1  # 3.3.7: when the field is not given
# Enough for any backoff to stay a date: 2^(n-1) * p is cut where it exceeds this.
BACKOFF_MAX_S: Final = 100 * 365.25 * 86_400.0
INT_MAX: Final = 2**31 - 1  # what a database column holds; larger numbers are cut, since nobody owes so much


class CancellationReason(StrEnum):
    """``SubscriptionCancellationReason`` (3.3.4)."""

    QUEUE_OVERFLOW = "QUEUE_OVERFLOW"
    DATA_NO_LONGER_AVAILABLE = "DATA_NO_LONGER_AVAILABLE"
    OTHER = "OTHER"


class OutboundState(StrEnum):
    """The producer's end of a subscription."""

    LIVE = "live"
    CANCELLING = "cancelling"  # ended here, and the receiver has yet to hear of it
    ENDED = "ended"


class OutboundEvent(StrEnum):
    """What can happen to the producer's end."""

    SUBSCRIBED = "subscribe"
    CANCELLED_BY_RECEIVER = "cancellation by the receiver"
    CANCELLED_HERE = "cancellation by this side"
    NOTICE_ANSWERED = "answer to the cancellation notice"
    UNKNOWN_TO_RECEIVER = "answer that the receiver knows no such subscription"
    PLATFORM_ENDED = "end of the connection"


OUTBOUND: Final = Lifecycle(
    "subscription of a partner",
    {
        OutboundState.LIVE: {
            OutboundEvent.SUBSCRIBED: OutboundState.LIVE,  # B8: a new life
            OutboundEvent.CANCELLED_BY_RECEIVER: OutboundState.ENDED,
            OutboundEvent.CANCELLED_HERE: OutboundState.CANCELLING,
            OutboundEvent.UNKNOWN_TO_RECEIVER: OutboundState.ENDED,  # B4
            OutboundEvent.PLATFORM_ENDED: OutboundState.ENDED,
        },
        OutboundState.CANCELLING: {
            OutboundEvent.SUBSCRIBED: OutboundState.LIVE,  # B24: withdraws the notice
            OutboundEvent.CANCELLED_BY_RECEIVER: OutboundState.ENDED,
            OutboundEvent.NOTICE_ANSWERED: OutboundState.ENDED,
            OutboundEvent.PLATFORM_ENDED: OutboundState.ENDED,
        },
        OutboundState.ENDED: {
            OutboundEvent.SUBSCRIBED: OutboundState.LIVE,
            OutboundEvent.PLATFORM_ENDED: OutboundState.ENDED,
        },
    },
)


class InboundState(StrEnum):
    """The consumer's end of a subscription."""

    ASKING = "asking"  # stored, and asked for until it is answered; updates are taken already (B28)
    LIVE = "live"
    CONFIRMING = "confirming"  # a cancellation arrived, which may be an old one (B29)
    WAITING = "waiting"  # refused or cancelled; asked for again later
    CANCELLING = "cancelling"  # no longer wanted; the producer is told until it answers
    ENDED = "ended"


class InboundEvent(StrEnum):
    """What can happen to the consumer's end."""

    WANTED = "subscribe by the operator"
    GRANTED = "success of the subscribe"
    REFUSED = "refusal of the subscribe"
    NOTICE = "cancellation by the producer"
    STILL_THERE = "state of the subscription"
    GONE = "answer that the producer knows no such subscription"
    DUE = "end of the pause"
    UNWANTED = "unsubscribe by the operator"
    CANCEL_ANSWERED = "answer to our cancellation"
    PLATFORM_ENDED = "end of the connection"
    RESTORED = "return to an older database"


INBOUND: Final = Lifecycle(
    "subscription of ours",
    {
        InboundState.ASKING: {
            InboundEvent.WANTED: InboundState.ASKING,
            InboundEvent.GRANTED: InboundState.LIVE,
            InboundEvent.REFUSED: InboundState.WAITING,
            InboundEvent.NOTICE: InboundState.ASKING,  # B29: ignored while a subscribe is unanswered
            InboundEvent.UNWANTED: InboundState.CANCELLING,
            InboundEvent.PLATFORM_ENDED: InboundState.ENDED,
            InboundEvent.RESTORED: InboundState.ASKING,
        },
        InboundState.LIVE: {
            InboundEvent.WANTED: InboundState.ASKING,
            InboundEvent.NOTICE: InboundState.CONFIRMING,
            InboundEvent.STILL_THERE: InboundState.LIVE,
            InboundEvent.GONE: InboundState.ASKING,  # B29: lost, so asked for again
            InboundEvent.UNWANTED: InboundState.CANCELLING,
            InboundEvent.PLATFORM_ENDED: InboundState.ENDED,
            InboundEvent.RESTORED: InboundState.ASKING,
        },
        InboundState.CONFIRMING: {
            InboundEvent.WANTED: InboundState.ASKING,
            InboundEvent.NOTICE: InboundState.CONFIRMING,
            InboundEvent.STILL_THERE: InboundState.LIVE,
            InboundEvent.GONE: InboundState.WAITING,
            InboundEvent.UNWANTED: InboundState.CANCELLING,
            InboundEvent.PLATFORM_ENDED: InboundState.ENDED,
            InboundEvent.RESTORED: InboundState.ASKING,
        },
        InboundState.WAITING: {
            InboundEvent.WANTED: InboundState.ASKING,
            InboundEvent.DUE: InboundState.ASKING,
            InboundEvent.UNWANTED: InboundState.ENDED,
            InboundEvent.PLATFORM_ENDED: InboundState.ENDED,
            InboundEvent.RESTORED: InboundState.ASKING,
        },
        InboundState.CANCELLING: {
            InboundEvent.WANTED: InboundState.ASKING,
            InboundEvent.NOTICE: InboundState.CANCELLING,
            InboundEvent.CANCEL_ANSWERED: InboundState.ENDED,
            InboundEvent.UNWANTED: InboundState.CANCELLING,
            InboundEvent.PLATFORM_ENDED: InboundState.ENDED,
        },
        InboundState.ENDED: {
            InboundEvent.WANTED: InboundState.ASKING,
            InboundEvent.UNWANTED: InboundState.ENDED,
            InboundEvent.PLATFORM_ENDED: InboundState.ENDED,
        },
    },
)

TAKES_UPDATES: Final = frozenset({InboundState.ASKING, InboundState.LIVE, InboundState.CONFIRMING})


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a subscription is agreed on. ``queue_size_max`` is None where a subscriber left it to us (W14)."""

    retry_interval_s: float
    parallelism_limit: int
    queue_size_max: int | None

    def body(self) -> dict[str, Any]:
        """Write a ``SubscriptionRequest`` or ``SubscriptionParameterProposal``."""
        interval = self.retry_interval_s
        fields: dict[str, Any] = {
            "retry_interval": int(interval) if interval.is_integer() else interval,
            "parallelism_limit": self.parallelism_limit,
        }
        if self.queue_size_max is not None:
            fields["max_queue_size"] = self.queue_size_max
        return fields


class _ParametersWire(msgspec.Struct):
    retry_interval: msgspec.Raw = msgspec.Raw(b"")
    parallelism_limit: msgspec.Raw = msgspec.Raw(b"")
    max_queue_size: msgspec.Raw = msgspec.Raw(b"")


_parameters_decoder = msgspec.json.Decoder(_ParametersWire)


def read_parameters(body: bytes, *, retry_interval_max_s: float, queue_size_required: bool) -> Parameters:
    """Read a ``SubscriptionRequest`` (3.3.7) or a ``SubscriptionParameterProposal`` (3.3.5).

    Raises ``InvalidParameters`` naming every field that is wrong (B5, B36).
    """
    wire = _parameters_decoder.decode(body)
    problems: list[dict[str, str]] = []
    text = bytes(wire.retry_interval)
    interval = float(text) if text[:1] in NUMBER_STARTS else math.nan
    if not 0 < interval <= retry_interval_max_s:
        reason = f"a number of seconds above 0 and at most {retry_interval_max_s:g} is required"
        problems.append({"field": "/retry_interval", "reason": reason})
    parallelism = _positive(bytes(wire.parallelism_limit), "/parallelism_limit", problems, default=PARALLELISM_DEFAULT)
    queue_size = _positive(bytes(wire.max_queue_size), "/max_queue_size", problems, default=None)
    if queue_size is None and queue_size_required and not problems:
        problems.append({"field": "/max_queue_size", "reason": "is required"})
    if problems or parallelism is None:
        raise InvalidParameters("the subscription parameters are missing or invalid", data=problems)
    return Parameters(interval, min(parallelism, INT_MAX), queue_size and min(queue_size, INT_MAX))


def _positive(text: bytes, field: str, problems: list[dict[str, str]], *, default: int | None) -> int | None:
    if text in (b"", b"null"):
        return default
    try:
        number = read_int(text)
    except ValueError as error:
        problems.append({"field": field, "reason": str(error)})
        return default
    if number == 0:
        problems.append({"field": field, "reason": "must be at least 1"})
    return number


def backoff_s(failures: int, retry_interval_s: float) -> float:
    """Return R.03.03.01's ``2^(n-1) * p`` after ``failures`` attempts without success; kept finite."""
    if failures <= 0:
        return 0.0
    return min(math.ldexp(retry_interval_s, min(failures - 1, 1000)), BACKOFF_MAX_S)


class _CancellationWire(msgspec.Struct):
    reason: msgspec.Raw = msgspec.Raw(b"")


class _ReferenceWire(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"")


def read_cancellation(body: bytes) -> CancellationReason:
    """Read a ``SubscriptionCancellation`` (3.3.3).

    Raises ``InvalidParameters`` when the reason is not one of the draft's.
    """
    reason = read_string(bytes(msgspec.json.decode(body, type=_CancellationWire).reason))
    try:
        return CancellationReason(reason or "")
    except ValueError as error:
        known = ", ".join(CancellationReason)
        problem = [{"field": "/reason", "reason": f"one of {known} is required"}]
        raise InvalidParameters("the reason is missing or unknown", data=problem) from error


def read_reference(body: bytes) -> str:
    """Read a ``PartyIssuedObjectReference`` (3.3.1) and return the object id.

    Raises ``InvalidParameters`` when there is none.
    """
    object_id = read_string(bytes(msgspec.json.decode(body, type=_ReferenceWire).id))
    if not object_id:
        raise InvalidParameters("an object id is required", data=[{"field": "/id", "reason": "a string is required"}])
    return object_id
