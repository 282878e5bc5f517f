"""The ids that every layer passes around: small types, so that one is never passed for another.

OCPI compares Party IDs and object ids without case (B10). A Party ID is kept in upper case; an object id
keeps its spelling and is compared by its key.
"""

import re
from typing import NewType

PartyId = NewType("PartyId", str)
"""Five characters, upper case: ISO 15118 country code and party code in shortest form."""

PlatformIdentity = NewType("PlatformIdentity", str)
"""A domain name in lower case: the common name of a platform's client certificates (R.01.01.02)."""

ObjectKey = NewType("ObjectKey", str)
"""An object id folded for comparison."""

ModuleId = NewType("ModuleId", str)
"""A ModuleID of the draft's table, for instance ``locations``."""

OBJECT_ID_LENGTH_MAX = 36  # R.03.02.20
CREDIT_CDR_ID_LENGTH_MAX = 39  # R.03.02.20: the id of the CDR and three characters more

_PARTY_ID = re.compile(r"[A-Za-z]{2}[A-Za-z0-9]{3}\Z")
_CI_ASCII = re.compile(r"[\x21-\x7e]+\Z")


def party_id(text: str) -> PartyId:
    """Read a Party ID in any case.

    Raises ``ValueError`` saying what a Party ID looks like.
    """
    if not _PARTY_ID.match(text):
        raise ValueError(
            f"{text[:40]!r} is not a Party ID: two letters of the country, then three letters or digits,"
            " for instance NLTNM"
        )
    return PartyId(text.upper())


def object_key(object_id: str) -> ObjectKey:
    """Fold an object id for comparison (B10)."""
    return ObjectKey(object_id.lower())


def check_object_id(object_id: str, length_max: int = OBJECT_ID_LENGTH_MAX) -> None:
    """Refuse an id that is not ``CiAsciiString[1..length_max]``.

    Raises ``ValueError`` saying what is wrong with it.
    """
    if not _CI_ASCII.match(object_id):
        raise ValueError("an id is one or more printable ASCII characters without spaces")
    if len(object_id) > length_max:
        raise ValueError(f"an id has at most {length_max} characters, this one has {len(object_id)}")
