"""Party Issued Object updates (3.2.2): what one looks like, and what a receiver does with it.

Nothing here waits or stores. ``decide`` is the order of checks that B1 lays down, from the version on.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum, auto
from typing import Final

import msgspec

from engine.protocol.errors import InvalidParameters
from engine.protocol.ids import CREDIT_CDR_ID_LENGTH_MAX, ObjectKey, PartyId, check_object_id, object_key, party_id

VERSION_MAX: Final = 2**63 - 1  # what a database column holds; at one change a second it lasts for ever
# Versions count from here in seconds, so that a restored or moved issuer does not fall behind what receivers hold (B9).
VERSION_EPOCH_S: Final = 1_577_836_800  # 2020-01-01T00:00:00Z
NUMBER_STARTS: Final = (b"-", *(b"%d" % digit for digit in range(10)))  # of a JSON number
REISSUE_LEAD_S: Final = 86_400  # versions run ahead of the clock where changes come faster than one a second (B9)


@dataclass(frozen=True, slots=True)
class Update:
    """A ``PartyIssuedObjectUpdate``; the payload is its JSON text, byte for byte."""

    issuer: PartyId
    object_id: str
    key: ObjectKey
    version: int
    payload: bytes


class _Wire(msgspec.Struct):
    issuer_party: str
    id: str
    version: int
    payload: msgspec.Raw


class _LooseWire(msgspec.Struct):
    issuer_party: msgspec.Raw = msgspec.Raw(b"")
    id: msgspec.Raw = msgspec.Raw(b"")
    version: msgspec.Raw = msgspec.Raw(b"")
    payload: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Wire)
_loose_decoder = msgspec.json.Decoder(_LooseWire)


def read_update(body: bytes) -> Update:
    """Read an update's own fields; the payload is not looked into.

    Raises ``InvalidParameters`` naming every field that is wrong.
    """
    try:
        wire = _decoder.decode(body)
        version = wire.version
        if 0 <= version <= VERSION_MAX:
            check_object_id(wire.id, CREDIT_CDR_ID_LENGTH_MAX)
            return Update(party_id(wire.issuer_party), wire.id, object_key(wire.id), version, bytes(wire.payload))
    except (msgspec.ValidationError, ValueError):
        pass
    return _read_slowly(body)


def _read_slowly(body: bytes) -> Update:
    """Read what the quick way refused: an integer written as 1.0 (B44), or a list of what is wrong."""
    wire = _loose_decoder.decode(body)
    problems: list[dict[str, str]] = []
    issuer, object_id, version = PartyId(""), "", 0
    try:
        issuer = party_id(read_string(bytes(wire.issuer_party)) or "")
    except ValueError:
        problems.append({"field": "/issuer_party", "reason": "a Party ID is required, for instance NLTNM"})
    try:
        object_id = read_string(bytes(wire.id)) or ""
        check_object_id(object_id, CREDIT_CDR_ID_LENGTH_MAX)
    except ValueError as error:
        problems.append({"field": "/id", "reason": str(error)})
    try:
        version = read_int(bytes(wire.version))
    except ValueError as error:
        problems.append({"field": "/version", "reason": str(error)})
    if not bytes(wire.payload):
        problems.append({"field": "/payload", "reason": "an object is required"})
    if problems:
        raise InvalidParameters("the update's own fields are missing or invalid", data=problems)
    return Update(issuer, object_id, object_key(object_id), version, bytes(wire.payload))


def read_int(text: bytes, maximum: int = VERSION_MAX) -> int:
    """Read OCPI's ``int``: a JSON number that is not negative and has no fraction other than zero (B18, B44).

    Raises ``ValueError`` saying what is expected.
    """
    expected = f"an integer from 0 to {maximum} is required"
    if text[:1] not in NUMBER_STARTS:
        raise ValueError(expected)
    try:
        number = Decimal(text.decode("ascii"))
    except (InvalidOperation, UnicodeDecodeError) as error:
        raise ValueError(expected) from error
    # Compared before it is converted: 1E400 as an integer has four hundred digits, 1E999999 a million.
    if not 0 <= number <= maximum or number != number.to_integral_value():
        raise ValueError(expected)
    return int(number)


def read_string(text: bytes) -> str | None:
    """Read a JSON string; None for any other JSON value, also for a number that fits no float."""
    if text[:1] != b'"':
        return None
    read: str = msgspec.json.decode(text)
    return read


def update_body(issuer: str, object_id: str, version: int, payload: bytes) -> bytes:
    """Write an update around a payload's own bytes. Ids are printable ASCII; quotes and backslashes are escaped."""
    return b'{"issuer_party":"%b","id":%b,"version":%d,"payload":%b}' % (
        issuer.encode(),
        msgspec.json.encode(object_id),
        version,
        payload,
    )


class Verdict(Enum):
    """What a receiver does with an update whose subscription and issuer are in order."""

    STORE_NEW = auto()
    STORE_CHANGED = auto()
    NOT_NEWER = auto()
    IMMUTABLE = auto()


def decide(stored_version: int | None, version: int, *, same_life: bool, immutable: bool) -> Verdict:
    """Compare an update with our copy (R.03.02.09, R.03.02.12, R.03.02.14; B1, B27, B48).

    ``same_life`` says whether our copy was last taken in the subscription's present life: in a new one the
    first update of each object is taken at any version.
    """
    if stored_version is None:
        return Verdict.STORE_NEW
    if not same_life:
        return Verdict.STORE_CHANGED
    if version <= stored_version:
        return Verdict.NOT_NEWER
    return Verdict.IMMUTABLE if immutable else Verdict.STORE_CHANGED


def next_version(last: int | None, now: float, *, immutable: bool, above: int = 0) -> int:
    """Number a change of an object issued here (B9). A new one, ``last`` is None, goes ``above`` what was ever sent."""
    if immutable:
        return 1
    return max((above if last is None else last) + 1, int(now) - VERSION_EPOCH_S)


def reissued_version(last: int, now: float, *, above: int = 0) -> int:
    """Number an object again after a restore: above every version that may ever have been sent (B9).

    The day is counted from the version too, and from what earlier restores gave out (``above``): an object that was
    reissued lately is ahead of the clock already, also where this database does not know of it.
    """
    return max(last, int(now) - VERSION_EPOCH_S, above) + REISSUE_LEAD_S
