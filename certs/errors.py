"""What can be wrong with certificates: one class for each thing that someone can act on.

Every message says what is wrong and what to do about it, and may be shown to a partner: no key material, no more
than a glimpse of what they sent.
"""

SHOWN_MAX = 80
"""Characters of foreign text that a message repeats: a domain name is recognized, a log line stays a line."""


class CertificateError(Exception):
    """Something is wrong with a certificate, a request, a name or a file."""


class BadName(CertificateError):
    """A name that is not a domain name, or cannot be a common name."""


class BadRequest(CertificateError):
    """A certificate signing request that no certificate is issued for."""


class BadCertificate(CertificateError):
    """A certificate or a chain that we cannot use."""


class BadAuthority(CertificateError):
    """An authority that cannot issue what was asked of it."""


class FileProblem(CertificateError):
    """A key or certificate file that cannot be used as it is."""


def shown(text: str) -> str:
    """Quote foreign text for a message: ASCII only, control characters escaped, cut."""
    return ascii(text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "...")
