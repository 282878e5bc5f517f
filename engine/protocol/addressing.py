"""Who asks whom for what (2.3.2): the paths of party-to-party requests, and the ids that requests carry.

``<base path>/from/<sender>/to/<receiver>/<module>/<operation>`` is a request from a party to a party;
everything else below the base path is between platforms. A path is read from its raw form, segment by segment,
so that an encoded slash stays inside the segment that it was written in.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from engine.protocol.errors import NotFound
from engine.protocol.ids import PartyId, party_id

REQUEST_ID_HEADER: Final = "Ocpi-Request-Id"
CORRELATION_ID_HEADER: Final = "Ocpi-Correlation-Id"
REQUEST_ID_HEADER_READ_TOO: Final = "X-Request-ID"  # W11: figure 12 writes it so
CORRELATION_ID_HEADER_READ_TOO: Final = "X-Correlation-ID"

SUBSCRIBE: Final = ""
"""The name of the operation whose path ends with the module: ``POST …/{module}``."""

RESERVED_OPERATIONS: Final = frozenset(
    {
        "update",
        "state",
        "cancel-my-subscription",
        "cancel-your-subscription",
        "renegotiate-my-subscription",
        "renegotiate-your-subscription",
        "request-immediate-retries",
        "request-full-update",
    }
)
"""Names that no remote procedure call may have (R.04.01.03 lists four of them, B14 all)."""

SEGMENTS_MAX: Final = 12
"""Segments of a path below the base path: the longest that the draft knows has eight."""

# What may stand in a path as it is (RFC 3986 pchar), generously: any printable ASCII but delimiters.
_SEGMENT: Final = re.compile(r"(?:[!-~](?<![%/?#])|%[0-9A-Fa-f]{2})+\Z")
# Long enough for a UUID with a prefix, short enough for a log line; no control can end the line or the header.
_ID: Final = re.compile(r"[ -~]{1,128}\Z")


@dataclass(frozen=True, slots=True)
class PlatformPath:
    """A path between platforms; ``segments`` are decoded."""

    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartyPath:
    """A path from a party to a party; ``segments`` are what follows below both, decoded.

    A party id that none can have is kept as it was written: nobody serves it, so it is refused as unknown (B16).
    """

    sender: PartyId
    receiver: PartyId
    segments: tuple[str, ...]


def parse_path(raw_path: str, prefix: str) -> PlatformPath | PartyPath:
    """Read the path of a request target; ``prefix`` is the base URL's path, without a slash at its end.

    Raises ``NotFound`` for a path outside of the prefix, and for one that is not properly written (bad escapes,
    controls, empty segments).
    """
    path = raw_path.partition("?")[0]
    if not path.startswith(prefix + "/"):
        raise NotFound("there is nothing outside of the OCPI base URL's path")
    segments = tuple(_decoded(segment) for segment in path[len(prefix) + 1 :].split("/", SEGMENTS_MAX))
    if segments[0] != "from":
        return PlatformPath(segments)
    match segments:
        case (_, sender, "to", receiver, *below):
            return PartyPath(_party(sender), _party(receiver), tuple(below))
    raise NotFound("a request between parties has the path /from/<party>/to/<party>/… (R.02.02.02)")


def party_path(sender: PartyId, receiver: PartyId, *segments: str) -> str:
    """Write the path of a party-to-party request, to be appended to the base URL (R.02.02.02)."""
    return platform_path("from", sender, "to", receiver, *segments)


def platform_path(*segments: str) -> str:
    """Write a path to be appended to a base URL; each segment is percent-encoded."""
    return "".join("/" + quote(segment, safe="") for segment in segments)


def acceptable_id(text: str | None) -> str | None:
    """Take a request or correlation id as it came, or None where it is missing or not fit to be echoed."""
    return text if text is not None and _ID.match(text) else None


def _decoded(segment: str) -> str:
    if not _SEGMENT.match(segment):
        raise NotFound("the path has an empty segment, a bad escape or a character that must be escaped")
    if "%" not in segment:
        return segment
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise NotFound("the path's escapes are not UTF-8") from None
    if not text.isprintable():
        raise NotFound("the path has control characters")
    return text


def _party(text: str) -> PartyId:
    try:
        return party_id(text)
    except ValueError:
        return PartyId(text)
