"""Certificates that partners issue to us (UC 01.01, UC 01.04): is this one ours, whole, in date, in order?

A partner hands us a bundle by mail or by HTTP. It should start with our certificate, then its issuer, and so on up to
the root; bundles in another order are put right, and certificates that are no part of the chain are left out. OpenSSL
on the partner's side has the last word on whether it is trusted: here it is made sure that we do not replace a
certificate that works by one that cannot.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import files, names, pem, policy
from certs.errors import BadCertificate, shown

Value = TypeVar("Value", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What people want to know of a certificate."""

    serial: int
    common_name: str
    """Empty where it has none, or several."""

    not_before: float
    not_after: float
    issuer: str
    """The issuer's common name, or its whole name where it has none."""

    fingerprint: str
    """SHA-256 of the certificate, lower-case hexadecimal."""

    key: str
    """Like ``ECDSA P-256``."""

    purposes: tuple[str, ...]
    """``client``, ``server``; none means any."""

    hosts: tuple[str, ...]
    """Domain names and addresses that it is for, beside its common name."""


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """A chain that passed every check."""

    serial: int
    common_name: str
    not_before: float
    not_after: float
    issuer: str
    chain_pem: bytes = field(repr=False)
    """In order, from our certificate towards the root; what to store."""


def check_chain(chain_pem: bytes | str, *, key_pem: bytes, common_name: str, now: float) -> ChainInfo:
    """Check a chain that a partner issued for our key and name, and put it in order.

    Raises:
        BadCertificate: we could not use it; the message says what to do.
        FileProblem: our own key cannot be read.
    """
    data = pem.bounded(
        chain_pem, length_max=policy.CHAIN_LENGTH_MAX, what="the certificate chain", error=BadCertificate
    )
    key = files.load_key(key_pem, "our private key").public_key()
    with pem.reading("the certificate chain", BadCertificate):
        found = _certificates(data)
        own = [certificate for certificate in found if certificate.public_key() == key]
        if not own:
            raise BadCertificate(
                "none of the certificates is for our key: it answers another request of ours, or somebody else's; "
                "ask for one for the request that was sent last"
            )
        leaf = max(own, key=lambda certificate: certificate.not_valid_after_utc)  # a kept key may have an old one too
        chain = _ordered(leaf, found)
        _check_leaf(leaf, names.common_name(common_name))
        for certificate in chain:
            _check_date(certificate, now)
            _check_signature(certificate)
        for issuer in chain[1:]:
            _check_issuer(issuer)
        info = certificate_info(leaf)
    return ChainInfo(
        serial=info.serial,
        common_name=names.common_name(common_name),
        not_before=info.not_before,
        not_after=info.not_after,
        issuer=info.issuer,
        chain_pem=b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain),
    )


def describe(chain_pem: bytes | str) -> list[CertificateInfo]:
    """Describe each certificate of a PEM text, in the order in which they stand there; nothing is checked.

    Raises:
        BadCertificate: there is none, or one cannot be read.
    """
    with pem.reading("the certificate", BadCertificate):
        data = chain_pem.encode() if isinstance(chain_pem, str) else chain_pem
        return [certificate_info(certificate) for certificate in x509.load_pem_x509_certificates(data)]


def certificate_info(certificate: x509.Certificate) -> CertificateInfo:
    """Describe a certificate; nothing is checked.

    Raises whatever the library makes of odd bytes: call it inside ``pem.reading``.
    """
    common_names = pem.common_names(certificate.subject)
    texts = {ExtendedKeyUsageOID.CLIENT_AUTH: "client", ExtendedKeyUsageOID.SERVER_AUTH: "server"}
    others = _extension(certificate, x509.SubjectAlternativeName) or ()
    return CertificateInfo(
        serial=certificate.serial_number,
        common_name=common_names[0] if len(common_names) == 1 else "",
        not_before=certificate.not_valid_before_utc.timestamp(),
        not_after=certificate.not_valid_after_utc.timestamp(),
        issuer=_name(certificate.issuer),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        key=policy.key_text(certificate.public_key()),
        purposes=tuple(sorted(texts.get(oid, oid.dotted_string) for oid in _purposes(certificate))),
        hosts=tuple(str(name.value) for name in others),
    )


def is_issuer(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Say whether one certificate was issued by the other: its name, and the signature of its key; no dates."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _certificates(data: bytes) -> list[x509.Certificate]:
    if pem.holds_private_key(data):
        raise BadCertificate("there is a private key among the certificates: whoever sent it must replace it")
    labels = pem.labels(data)
    if not labels:
        raise BadCertificate("this is not a certificate in PEM: it has no BEGIN CERTIFICATE")
    if others := sorted(set(labels) - {"CERTIFICATE"}):
        raise BadCertificate(f"there is a {others[0]} where only certificates belong")
    return x509.load_pem_x509_certificates(data)


def _ordered(leaf: x509.Certificate, found: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Follow the issuers from the leaf as far as the bundle goes; the rest is no part of the chain."""
    chain, rest = [leaf], [certificate for certificate in found if certificate != leaf]
    while issuer := next((candidate for candidate in rest if is_issuer(candidate, chain[-1])), None):
        chain.append(issuer)
        rest.remove(issuer)
    return chain


def _check_leaf(leaf: x509.Certificate, name: str) -> None:
    found = pem.common_names(leaf.subject)
    if [value.lower() for value in found] != [name]:
        raise BadCertificate(
            f"the certificate is for {', '.join(map(shown, found)) or 'nobody'}, and our name is {name}: "
            "ask for one with the common name of the request"
        )
    purposes = _purposes(leaf)
    if purposes and not purposes & {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}:
        raise BadCertificate("the certificate is not for TLS client authentication: ask for one with clientAuth")
    if _is_authority(leaf):
        raise BadCertificate("the certificate is that of an authority: ask for a client certificate")
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise BadCertificate("the certificate's key usage leaves out digitalSignature, which TLS needs")


def _check_date(certificate: x509.Certificate, now: float) -> None:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    which = f"the certificate of {shown(_name(certificate.subject))}"
    if end.timestamp() <= now:
        raise BadCertificate(f"{which} was valid until {end:%Y-%m-%d %H:%M} UTC: ask for a new one")
    if begin.timestamp() > now + policy.CLOCK_SKEW_S:
        raise BadCertificate(f"{which} is valid from {begin:%Y-%m-%d %H:%M} UTC: wait until then, or set the clock")


def _check_signature(certificate: x509.Certificate) -> None:
    if certificate.issuer == certificate.subject:
        return  # a root is trusted for being known, not for its signature
    if objection := policy.hash_objection(certificate.signature_hash_algorithm):
        raise BadCertificate(f"the certificate of {shown(_name(certificate.subject))} is {objection}")


def _check_issuer(issuer: x509.Certificate) -> None:
    which = f"the certificate of {shown(_name(issuer.subject))}"
    if not _is_authority(issuer):
        raise BadCertificate(f"{which} issued another one, but is not that of an authority")
    if objection := policy.partner_key_objection(issuer.public_key()):
        raise BadCertificate(f"{which} has {objection}")


def _name(name: x509.Name) -> str:
    found = pem.common_names(name)
    return found[0] if len(found) == 1 else name.rfc4514_string()


def _purposes(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    return frozenset(_extension(certificate, x509.ExtendedKeyUsage) or ())


def _is_authority(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def _extension(certificate: x509.Certificate, kind: type[Value]) -> Value | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
