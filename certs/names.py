"""Names that certificates carry: domain names, and hosts for server certificates."""

import ipaddress
import re

from certs.errors import BadName, shown

DOMAIN_NAME_MAX = 253
"""Characters of a domain name: 255 octets on the wire, less the root label and the first length (RFC 1035)."""

COMMON_NAME_MAX = 64
"""Characters of a common name: X.509's own upper bound (RFC 5280, appendix A). Longer names cannot be certified."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # letters, digits, inner hyphens: 63 at most (RFC 1123)


def domain_name(text: str) -> str:
    """Take a fully qualified domain name and return it in lower case (R.01.01.02).

    At least two labels, since a single one (``localhost``) names no one on the Internet. No wildcard, no trailing
    dot, and internationalized names in their ``xn--`` form.

    Raises:
        BadName: it is not one; the message says in what way.
    """
    if len(text) > DOMAIN_NAME_MAX:
        raise BadName(f"{shown(text)} is longer than a domain name can be ({DOMAIN_NAME_MAX} characters)")
    if not text.isascii():
        raise BadName(f"{shown(text)} has letters that are not ASCII: write the domain name in its xn-- form")
    if "*" in text:
        raise BadName(f"{shown(text)} has a wildcard: name one domain")
    labels = text.lower().split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise BadName(f"{shown(text)} is not a domain name: labels of letters, digits and inner hyphens, with dots")
    if len(labels) == 1:
        raise BadName(f"{shown(text)} is only one label: a domain name has at least two, like hub.example")
    if labels[-1].isdigit():
        raise BadName(f"{shown(text)} looks like an IP address: a domain name is needed")
    return text.lower()


def common_name(text: str) -> str:
    """Take a domain name that fits into a certificate's common name, and return it in lower case.

    Raises:
        BadName: it is not a domain name, or longer than X.509 allows there.
    """
    name = domain_name(text)
    if len(name) > COMMON_NAME_MAX:
        raise BadName(f"{shown(name)} is too long for a certificate's common name ({COMMON_NAME_MAX} characters)")
    return name


def host(text: str) -> str:
    """Take what a server certificate may be for: a domain name, an IP address, or ``localhost``.

    Raises:
        BadName: it is none of them.
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return "localhost" if text.lower() == "localhost" else domain_name(text)


def serial_text(serial: int) -> str:
    """Write a certificate's serial number the way it is stored, logged and looked up: lower-case hexadecimal."""
    return f"{serial:x}"
