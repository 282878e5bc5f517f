"""Registration (chapter 1): the life of a connection between two platforms, and the bodies of its requests.

A connection begins with certificates that people exchange (UC 01.01), is set up by a handshake of either side
(UC 01.03), keeps its certificates fresh (UC 01.04) and ends with a bye (UC 01.05). Handshakes of both sides may
cross: whoever waits for an answer and gets a handshake instead is connected, and the answer changes nothing.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from engine.protocol import envelope
from engine.protocol.errors import SUCCESS, Conflict, InvalidParameters
from engine.protocol.ids import PlatformIdentity
from engine.protocol.transitions import Lifecycle

VERSION: Final = "3.0"  # R.01.03.05
URL_LENGTH_MAX: Final = 255  # the draft's number
CSR_LENGTH_MAX: Final = 5500  # 1.2.3
CALLBACK_ID_LENGTH_MAX: Final = 36  # 1.2.3
CHAIN_LENGTH_MAX: Final = 10_000  # 1.2.6
REASON_LENGTH_MAX: Final = 500  # what we keep and show of a partner's words
TIMEOUT_MIN_MS: Final = 1_000  # B19
TIMEOUT_MAX_MS: Final = 120_000  # B19

CONNECTION: Final = "connection"
BYE: Final = "bye"
RENEW: Final = "renew-credentials"  # W1: what is sent
RENEW_AS_DRAWN: Final = "renew-certificate"  # W1: served as well
VERSIONS: Final = "versions"
PARTIES: Final = "parties"

_PEM_TEXT = re.compile(r"[ -~\r\n]*\Z")  # W22: AsciiString, and line ends
_PRINTABLE = re.compile(r"[ -~]+\Z")
_URL_TEXT = re.compile(r"[!-~]+\Z")


class PlatformState(StrEnum):
    """How far a connection is."""

    NEW = "new"  # known: certificates are being exchanged
    CONNECTING = "connecting"  # our handshake is out, or about to be
    CONNECTED = "connected"
    ENDED = "ended"  # its certificates are refused; new ones begin a new connection (B20)


class PlatformEvent(StrEnum):
    """What can happen to a connection."""

    CERTIFICATE = "certificate exchange"
    OFFER = "handshake by this side"
    ACCEPTED = "acceptance of our handshake"
    REFUSED = "refusal of our handshake"
    HANDSHAKE = "handshake by the partner"
    BYE = "bye by the partner"
    LEAVE = "end by this side"


PLATFORM: Final = Lifecycle(
    "connection",
    {
        PlatformState.NEW: {
            PlatformEvent.CERTIFICATE: PlatformState.NEW,
            PlatformEvent.OFFER: PlatformState.CONNECTING,
            PlatformEvent.HANDSHAKE: PlatformState.CONNECTED,
            PlatformEvent.LEAVE: PlatformState.ENDED,
        },
        PlatformState.CONNECTING: {
            PlatformEvent.CERTIFICATE: PlatformState.CONNECTING,
            PlatformEvent.OFFER: PlatformState.CONNECTING,  # the operator corrects the base URL
            PlatformEvent.ACCEPTED: PlatformState.CONNECTED,
            PlatformEvent.REFUSED: PlatformState.NEW,
            PlatformEvent.HANDSHAKE: PlatformState.CONNECTED,  # both sides at once
            PlatformEvent.LEAVE: PlatformState.ENDED,
        },
        PlatformState.CONNECTED: {
            PlatformEvent.CERTIFICATE: PlatformState.CONNECTED,
            PlatformEvent.ACCEPTED: PlatformState.CONNECTED,  # both sides at once: theirs came first
            PlatformEvent.REFUSED: PlatformState.CONNECTED,  # likewise; they called it a conflict (R.01.03.08)
            PlatformEvent.BYE: PlatformState.ENDED,
            PlatformEvent.LEAVE: PlatformState.ENDED,
        },
        PlatformState.ENDED: {
            PlatformEvent.CERTIFICATE: PlatformState.NEW,
            PlatformEvent.LEAVE: PlatformState.ENDED,
        },
    },
)


class RenewalState(StrEnum):
    """How far the renewal of a certificate is."""

    ASKING = "asking"  # ours: the request is out, or about to be
    WAITING = "waiting"  # ours: the partner has it; theirs: our operator decides
    ANSWERING = "answering"  # theirs: decided, and the partner is told until it took the answer
    RENEWED = "renewed"
    REFUSED = "refused"
    EXPIRED = "expired"  # ours: no answer within 168 hours (R.01.04.04)
    ENDED = "ended"  # the connection ended, or the partner does not know of it any more


OPEN_RENEWALS: Final = frozenset({RenewalState.ASKING, RenewalState.WAITING, RenewalState.ANSWERING})


# -- URLs ---------------------------------------------------------------------------------------------------


def check_base_url(text: str) -> str:
    """Read a base URL (R.01.03.01) and return it without a slash at its end.

    Raises ``ValueError`` saying what a base URL looks like.
    """
    if not _URL_TEXT.match(text) or len(text) > URL_LENGTH_MAX:
        raise ValueError(f"a base URL has 1 to {URL_LENGTH_MAX} printable ASCII characters without spaces")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the base URL cannot be read: {error}") from error
    if parts.scheme != "https" or not parts.hostname or port == 0:
        raise ValueError("a base URL is an https URL with a host, for instance https://ocpi.example.org/ocpi")
    if parts.username is not None or "?" in text or "#" in text or "\\" in text:
        raise ValueError("a base URL has no user name, query or fragment")
    return text.rstrip("/")


def host_of(base_url: str) -> PlatformIdentity:
    """Name the host of a base URL: the Platform Identity, unless the operator says another (B41)."""
    return PlatformIdentity((urlsplit(base_url).hostname or "").lower())


# -- the handshake (1.2.1, 1.2.2) ---------------------------------------------------------------------------


class ConnectionParametersRequest(msgspec.Struct, frozen=True):
    """1.2.1: What a platform announces. ``request_timeout`` is in milliseconds."""

    version: str
    request_timeout: float  # any JSON number that is whole (B44)
    base_url: str


class _ConnectionParametersResponse(msgspec.Struct, frozen=True):
    request_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A handshake that this platform can accept."""

    base_url: str
    request_timeout_ms: int


def offer_body(base_url: str, request_timeout_ms: int) -> bytes:
    """Write a ``ConnectionParametersRequest`` (R.01.03.04)."""
    return msgspec.json.encode(ConnectionParametersRequest(VERSION, request_timeout_ms, base_url))


def check_offer(request: ConnectionParametersRequest) -> Offer:
    """See whether the handshake is one to accept (R.01.03.09, B19).

    Raises ``Conflict`` saying what this platform takes.
    """
    if request.version != VERSION:
        raise Conflict(f"this platform takes OCPI version {VERSION}, not {request.version[:12]!r}")
    timeout_ms = request.request_timeout
    if not TIMEOUT_MIN_MS <= timeout_ms <= TIMEOUT_MAX_MS or timeout_ms % 1:
        raise Conflict(f"this platform takes a request_timeout from {TIMEOUT_MIN_MS} to {TIMEOUT_MAX_MS} milliseconds")
    try:
        return Offer(check_base_url(request.base_url), int(timeout_ms))
    except ValueError as error:
        raise Conflict(str(error)) from error


def acceptance_body(request_timeout_ms: int) -> bytes:
    """Write a ``ConnectionParametersResponse`` (R.01.03.07)."""
    return b'{"request_timeout":%d}' % request_timeout_ms


def read_acceptance(content: bytes, *, otherwise_ms: int) -> int:
    """Return the time-out that a ``ConnectionParametersResponse`` announces, kept to what we wait (B19).

    The object is a SHOULD (R.01.03.07), so an answer without it, or with a value that is none, is an acceptance
    too, with ``otherwise_ms``: the longest wait, which is the careful choice (B30).
    """
    try:
        announced = msgspec.json.decode(content, type=_ConnectionParametersResponse).request_timeout
    except (msgspec.MsgspecError, RecursionError):
        return otherwise_ms
    if announced is None or not announced > 0:
        return otherwise_ms
    return int(min(max(announced, TIMEOUT_MIN_MS), otherwise_ms))


# -- renewal (1.2.3, 1.2.6) ---------------------------------------------------------------------------------


class CertificateRenewalRequest(msgspec.Struct, frozen=True):
    """1.2.3: A certificate signing request, and under which id the answer is awaited (W3)."""

    csr: str
    callbackId: str  # noqa: N815 (the draft's spelling)


class _RenewedCertificate(msgspec.Struct, frozen=True):
    certificateChain: Any = None  # noqa: N815 (the draft's spelling)
    reason: Any = None
    status_message: Any = None


@dataclass(frozen=True, slots=True)
class RenewalAnswer:
    """What came of a renewal: a chain in PEM, or else the reason why there is none (W2)."""

    chain: str | None
    reason: str | None


def renewal_body(csr: str, callback_id: str) -> bytes:
    """Write a ``CertificateRenewalRequest`` (R.01.04.03)."""
    return msgspec.json.encode(CertificateRenewalRequest(csr, callback_id))


def check_renewal(request: CertificateRenewalRequest) -> None:
    """Check the sizes and characters of the fields.

    Raises ``InvalidParameters`` naming each field that is wrong.
    """
    problems = []
    if not 0 < len(request.csr) <= CSR_LENGTH_MAX or not _PEM_TEXT.match(request.csr):
        problems.append({"field": "/csr", "reason": f"PEM text of 1 to {CSR_LENGTH_MAX} characters is required"})
    callback_id = request.callbackId
    if not 0 < len(callback_id) <= CALLBACK_ID_LENGTH_MAX or not _PRINTABLE.match(callback_id):
        reason = f"1 to {CALLBACK_ID_LENGTH_MAX} printable ASCII characters are required"
        problems.append({"field": "/callbackId", "reason": reason})
    if problems:
        raise InvalidParameters("the renewal request has fields that are missing or invalid", data=problems)


def renewed_body(chain: str) -> bytes:
    """Write a ``RenewedCertificate`` (R.01.04.08)."""
    return msgspec.json.encode({"certificateChain": chain})


def refused_body(reason: str) -> bytes:
    """Write the reason why there is no new certificate (R.01.04.10, W2)."""
    return msgspec.json.encode({"reason": reason})


def read_renewal_answer(body: bytes) -> RenewalAnswer:
    """Read a ``RenewedCertificate``, or anything else as a refusal (W2), with or without an envelope (W4).

    Raises ``InvalidParameters`` for a chain that is no PEM text or too long.
    """
    try:
        wire = msgspec.json.decode(_inside(body), type=_RenewedCertificate)
    except (msgspec.MsgspecError, RecursionError):
        wire = _RenewedCertificate()
    chain = wire.certificateChain
    if chain is None or chain == "":
        words = next((text for text in (wire.reason, wire.status_message) if isinstance(text, str) and text), "")
        return RenewalAnswer(None, words[:REASON_LENGTH_MAX] or "no reason given")
    if not isinstance(chain, str) or len(chain) > CHAIN_LENGTH_MAX or not _PEM_TEXT.match(chain):
        reason = f"PEM text of at most {CHAIN_LENGTH_MAX} characters is required"
        raise InvalidParameters(
            "the certificate chain cannot be read", data=[{"field": "/certificateChain", "reason": reason}]
        )
    return RenewalAnswer(chain, None)


def _inside(body: bytes) -> bytes:
    response = envelope.read(body)
    return body if response is None or response.status_code != SUCCESS else response.content or body


# -- versions (1.2.4, 1.2.5) --------------------------------------------------------------------------------


class OcpiVersion(msgspec.Struct, frozen=True):
    """1.2.5: A version that a platform speaks, and its base URL."""

    version: str
    url: str


class OcpiVersions(msgspec.Struct, frozen=True):
    """1.2.4: The versions that a platform speaks."""

    versions: list[OcpiVersion]


def versions_body(base_url: str) -> bytes:
    """Write our ``OcpiVersions`` (R.01.06.03)."""
    return msgspec.json.encode(OcpiVersions([OcpiVersion(VERSION, base_url)]))


def read_versions(content: bytes) -> list[OcpiVersion] | None:
    """Read an ``OcpiVersions``; None when it is none."""
    try:
        return msgspec.json.decode(content, type=OcpiVersions).versions
    except (msgspec.MsgspecError, RecursionError):
        return None
