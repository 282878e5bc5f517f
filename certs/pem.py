"""Reading PEM that someone else wrote: bounded, and with one kind of error."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from certs.errors import CertificateError

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.AttributeNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for bytes that are not what they should be; it has no common base for them."""


def bounded(pem: bytes | str, *, length_max: int, what: str, error: type[CertificateError]) -> bytes:
    """Return PEM text as bytes, after its size and alphabet were looked at and before anything else is.

    Raises ``error`` for text that is longer than the limit, or not ASCII.
    """
    if len(pem) > length_max:
        raise error(f"{what} is {len(pem)} characters long, {length_max} is the limit")
    data = pem if isinstance(pem, bytes) else pem.encode(errors="surrogatepass")
    if not data.isascii() or b"\0" in data:
        raise error(f"{what} is not PEM text")
    return data


def labels(pem: bytes) -> list[str]:
    """List what the blocks of a PEM text say they are, in order."""
    return [label.decode() for label in _BEGIN.findall(pem)]


def holds_private_key(pem: bytes) -> bool:
    """Tell whether any block is a private key, of whatever format."""
    return any(label.endswith("PRIVATE KEY") for label in labels(pem))


@contextmanager
def reading(what: str, error: type[CertificateError]) -> Iterator[None]:
    """Turn whatever the X.509 library makes of bad bytes into one error.

    Its warnings about odd values are left out: what matters here is checked here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except _UNREADABLE as problem:
            raise error(f"{what} cannot be read: {_cause(problem)}") from problem


def common_names(name: x509.Name) -> list[str]:
    """All common names of a subject; there should be one."""
    values = (attribute.value for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME))
    return [value if isinstance(value, str) else value.decode("latin-1") for value in values]


def _cause(problem: Exception) -> str:
    line = (str(problem) or type(problem).__name__).partition("\n")[0]
    return "".join(character for character in line if character.isprintable())[:120]
