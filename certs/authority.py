"""A small certificate authority for each platform.

A platform decides by itself which partners may connect to it: it issues their client certificates (UC 01.01), and its
listener trusts no other authority than this one. A second one issues server certificates for platforms on one machine,
where no public authority would; the two never share a key, or a partner's client certificate could pose as our server.

What is issued takes the name and the key of a checked request, and nothing else of it:

    subject        the common name alone
    alternative    the same name, since newer programs look only there
    usage          digital signature, for TLS client (or server) authentication; not an authority
    identifiers    of its key and of ours, as RFC 5280 wants it and strict verification demands
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs import files, names, pem, policy
from certs.errors import BadAuthority, FileProblem
from certs.requests import CheckedRequest

KEY_FILE = "authority.key"
CERTIFICATE_FILE = "authority.pem"
"""Public: what the listener trusts client certificates by, and what partners may be given."""


class Purpose(StrEnum):
    """What an authority issues certificates for; it stands in the authority's own certificate."""

    CLIENT = "client"
    SERVER = "server"


_USAGE = {Purpose.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH, Purpose.SERVER: ExtendedKeyUsageOID.SERVER_AUTH}


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate just issued; times in seconds since the epoch."""

    pem_chain: bytes = field(repr=False)
    """The certificate, then the authority's."""

    serial: int
    not_before: float
    not_after: float
    common_name: str


@dataclass(frozen=True, slots=True)
class Authority:
    """A key that issues certificates, and the certificate that says so."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    purpose: Purpose

    @classmethod
    def create(cls, name: str, *, now: float, purpose: Purpose = Purpose.CLIENT) -> Self:
        """Make a new authority, in memory; ``name`` is what people will see.

        Raises:
            BadAuthority: the name is empty, too long, or not printable ASCII.
        """
        if not (name.isascii() and name.isprintable() and 0 < len(name) <= names.COMMON_NAME_MAX):
            raise BadAuthority(f"an authority's name has 1 to {names.COMMON_NAME_MAX} printable ASCII characters")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        begin = int(now - policy.CLOCK_SKEW_S)
        end = int(now + policy.AUTHORITY_LIFETIME_S)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _builder(subject, key.public_key(), begin, end)
            .issuer_name(subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)  # no authorities below it
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGE[purpose]]), critical=False)  # binds what it issues
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate, purpose)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read an authority from its folder.

        Raises:
            FileProblem: a file is missing, cannot be read, does not belong to the other, or others can read the key.
        """
        key = files.load_key(files.read_key(folder / KEY_FILE), str(folder / KEY_FILE))
        path = folder / CERTIFICATE_FILE
        with pem.reading(str(path), FileProblem):
            certificate = x509.load_pem_x509_certificate(files.read_chain(path))
            usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        purpose = next((purpose for purpose, usage in _USAGE.items() if usage in usages), None)
        if purpose is None or not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FileProblem(f"{path} is not the certificate of an authority made here")
        if certificate.public_key() != key.public_key():
            raise FileProblem(f"{path} and {KEY_FILE} do not belong together: restore both from the same backup")
        return cls(key, certificate, purpose)

    def save(self, folder: Path) -> None:
        """Write the authority into a folder of its own, which is made if it is not there.

        Raises:
            FileProblem: the folder has an authority, or cannot be written.
        """
        files.make_private_folder(folder)
        if (folder / KEY_FILE).exists() or (folder / CERTIFICATE_FILE).exists():
            raise FileProblem(
                f"{folder} has an authority already: it is not overwritten, since its partners rely on it"
            )
        files.write_key(folder / KEY_FILE, files.key_bytes(self.key))
        files.write_chain(folder / CERTIFICATE_FILE, self.certificate_pem)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def not_after(self) -> float:
        """When it ends, and all that it issued with it."""
        return self.certificate.not_valid_after_utc.timestamp()

    def issue_client(
        self, request: CheckedRequest, *, now: float, lifetime_s: float = policy.CLIENT_LIFETIME_S
    ) -> IssuedCertificate:
        """Issue a certificate that its holder can authenticate with to us, as a client and in no other way.

        It does not outlive the authority.

        Raises:
            BadAuthority: this one is for servers, has ended, or the lifetime is none.
        """
        self._check(Purpose.CLIENT, now, lifetime_s)
        if lifetime_s > policy.CLIENT_LIFETIME_MAX_S:
            days = policy.CLIENT_LIFETIME_MAX_S / policy.DAY_S
            raise BadAuthority(f"a client certificate is valid for {days:.0f} days at most")
        name = request.common_name
        return self._issue(name, [x509.DNSName(name)], request.public_key, now=now, lifetime_s=lifetime_s)

    def issue_server(
        self, hosts: Sequence[str], *, now: float, lifetime_s: float = policy.SERVER_LIFETIME_S
    ) -> tuple[bytes, IssuedCertificate]:
        """Issue a certificate for a server under these domain names and addresses, and a key: ``(key, certificate)``.

        Raises:
            BadName: there is no host, or one is neither a domain name nor an address.
            BadAuthority: this one is for clients, has ended, or the lifetime is none.
        """
        self._check(Purpose.SERVER, now, lifetime_s)
        checked = [names.host(host) for host in hosts]
        if not checked:
            raise BadAuthority("a server certificate needs a host")
        key = ec.generate_private_key(ec.SECP256R1())
        others = [_general_name(host) for host in checked]
        issued = self._issue(checked[0], others, key.public_key(), now=now, lifetime_s=lifetime_s)
        return files.key_bytes(key), issued

    def _check(self, purpose: Purpose, now: float, lifetime_s: float) -> None:
        if self.purpose is not purpose:
            raise BadAuthority(f"this authority issues {self.purpose} certificates, not {purpose} certificates")
        if self.not_after <= now:
            raise BadAuthority("this authority has ended: make a new one, and exchange credentials with all partners")
        if lifetime_s < 1:
            raise BadAuthority("a certificate must be valid for a second at least")

    def _issue(
        self,
        common_name: str,
        others: Sequence[x509.GeneralName],
        public_key: CertificatePublicKeyTypes,
        *,
        now: float,
        lifetime_s: float,
    ) -> IssuedCertificate:
        own = self.certificate
        # Half of a short life at most: else it would be past the half of it, and due for renewal, as it begins.
        early_s = min(policy.CLOCK_SKEW_S, lifetime_s / 2)
        begin = max(int(now - early_s), int(own.not_valid_before_utc.timestamp()))
        end = min(int(now + lifetime_s), int(self.not_after))
        issuer_key = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        subject = _subject(common_name)
        certificate = (
            _builder(subject, public_key, begin, end)
            .issuer_name(own.subject)
            .add_extension(x509.SubjectAlternativeName(others), critical=not subject.rdns)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([_USAGE[self.purpose]]), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_key), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        chain = certificate.public_bytes(serialization.Encoding.PEM) + self.certificate_pem
        return IssuedCertificate(chain, certificate.serial_number, float(begin), float(end), common_name)


def _subject(common_name: str) -> x509.Name:
    if len(common_name) > names.COMMON_NAME_MAX:
        return x509.Name([])  # only a server's: the alternative names say it all, and are critical then (RFC 5280)
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, public_key: CertificatePublicKeyTypes, begin: int, end: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())  # 159 random bits: never the same, not to be guessed
        .not_valid_before(datetime.fromtimestamp(begin, UTC))
        .not_valid_after(datetime.fromtimestamp(end, UTC))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,  # all that TLS with ECDHE asks of a key
        content_commitment=False,
        key_encipherment=False,  # key exchange by RSA, which is to be phased out
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
