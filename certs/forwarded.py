"""Client certificates that a proxy took in TLS and hands on in a header of each request.

There is one standard for it and several habits. Which one a value follows is seen by how it begins:

    ``:``             RFC 9440: the certificate in DER, as base64 between colons (HAProxy can be told to)
    ``-----BEGIN``    PEM, percent-encoded: nginx (``$ssl_client_escaped_cert``), Envoy, load balancers of AWS
    anything else     DER as base64, percent-encoded or not: Traefik, HAProxy when it is told no more

Some proxies hand on what the client sent beside its certificate. After a partner's certificate that is the authority
which issued it, so that one may follow, and nothing else: a second certificate would leave open which one TLS
was about.

A proxy has seen that the client has the private key. Everything else is verified here as OpenSSL would: that our
authority issued it, for clients, and that it is in date, so a proxy that asks for any certificate opens nothing.
Certificates are no secrets, though: who may send the header is for the caller to check.
"""

import base64
from urllib.parse import unquote

from cryptography import x509

from certs import chains, pem
from certs.errors import BadCertificate, FileProblem
from certs.tls import PeerCertificate

HEADER_LENGTH_MAX = 6_000
"""Characters: PEM of a certificate for RSA-8192, percent-encoded, has about 2 300, and our authority's 1 000."""

VERIFIED_MAX = 1024
"""Certificates that are remembered as verified: more than a platform has partners, in 6 MB at most."""


class ForwardedCertificates:
    """Reads what a proxy hands on, and verifies it. Each certificate is verified once, and its dates every time."""

    def __init__(self, authority_pem: bytes) -> None:
        """Take the authority that issues our partners' client certificates.

        Raises:
            FileProblem: it is not a certificate.
        """
        with pem.reading("the authority's certificate", FileProblem):
            self._authority = x509.load_pem_x509_certificate(authority_pem)
        self._verified: dict[str, PeerCertificate] = {}

    def read(self, value: str, *, now: float) -> PeerCertificate:
        """Say whose certificate a header holds; ``now`` in seconds since the epoch.

        Raises:
            BadCertificate: it holds none that can be read, or one that does not let its holder in here.
        """
        found = self._verified.get(value)
        if found is None:
            found = self._verify(value)
            if len(self._verified) >= VERIFIED_MAX:
                self._verified.clear()
            self._verified[value] = found
        if not found.not_before <= now <= found.not_after:
            raise BadCertificate("the client certificate is not valid yet, or no more")
        return found

    def _verify(self, value: str) -> PeerCertificate:
        with pem.reading("the client certificate", BadCertificate):
            certificate, *others = _certificates(value)
            if any(other != self._authority for other in others):
                raise BadCertificate("there is more than one client certificate")
            if certificate == self._authority or not chains.is_issuer(self._authority, certificate):
                raise BadCertificate("the client certificate was not issued by this platform")
            info = chains.certificate_info(certificate)
        if "client" not in info.purposes:
            raise BadCertificate("the certificate is not for TLS client authentication")
        if not info.common_name:
            raise BadCertificate("the client certificate does not have exactly one common name")
        return PeerCertificate(info.serial, info.common_name.lower(), info.not_before, info.not_after)


def _certificates(value: str) -> list[x509.Certificate]:
    """Read the certificates of a header, at least one."""
    what = "the client certificate"
    text = value if value.startswith(":") else unquote(value)
    data = pem.bounded(text, length_max=HEADER_LENGTH_MAX, what=what, error=BadCertificate)
    if not data.startswith(b"-----"):
        return [x509.load_der_x509_certificate(_der(part.strip())) for part in data.split(b",")]
    if set(pem.labels(data)) != {"CERTIFICATE"}:
        raise BadCertificate(f"{what} is not a certificate in PEM")
    return x509.load_pem_x509_certificates(data)


def _der(text: bytes) -> bytes:
    if text.startswith(b":"):
        if len(text) < len(b"::") or not text.endswith(b":"):
            raise BadCertificate("the client certificate begins with a colon and does not end with one")
        text = text[1:-1]
    return base64.b64decode(text, validate=True)
