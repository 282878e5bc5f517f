"""Makers of certificates, right and wrong ones, for tests that must see them refused.

``certs.authority`` issues only what is right. Here is the authority's evil twin: it signs with the same key whatever a
test asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import Authority, Purpose
from certs.requests import check_request, make_request

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
DAY_S = 86_400.0
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Identity:
    """A private key and the chain for it, as a partner would hold them."""

    key_pem: bytes
    chain_pem: bytes

    @property
    def certificate(self) -> x509.Certificate:
        """The first certificate of the chain."""
        return x509.load_pem_x509_certificates(self.chain_pem)[0]

    def save(self, folder: Path, name: str) -> "Files":
        """Write both into a folder."""
        files = Files(chain_file=folder / f"{name}.pem", key_file=folder / f"{name}.key")
        files.chain_file.write_bytes(self.chain_pem)
        files.key_file.touch(mode=0o600)
        files.key_file.write_bytes(self.key_pem)
        return files


@dataclass(frozen=True)
class Files:
    """Where an identity was written."""

    chain_file: Path
    key_file: Path


@dataclass(frozen=True)
class Recipe:
    """Everything about a certificate that can be wrong; as it stands, a right client certificate for an hour or so."""

    common_names: Sequence[str] = ("emsp.example.org",)
    hosts: Sequence[str] | None = None
    """Alternative names; the common names if None."""
    usages: Sequence[x509.ObjectIdentifier] = (CLIENT,)
    not_before: float = -3600.0
    """Seconds from now."""
    not_after: float = 3600.0
    """Seconds from now."""
    ca: bool = False
    digital_signature: bool = True
    key: Key | None = None
    hash: hashes.HashAlgorithm | None = None


RIGHT = Recipe()


def key_pem(key: Key) -> bytes:
    """Write a private key as PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def pem(*certificates: x509.Certificate) -> bytes:
    """Write certificates as one PEM text, in this order."""
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates)


def sign(recipe: Recipe, *, now: float, issuer_key: Key, issuer: x509.Certificate | None) -> Identity:
    """Sign whatever the recipe says; without an issuer, by its own key."""
    key = recipe.key or ec.generate_private_key(ec.SECP256R1())
    issuer_key = issuer_key if issuer else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in recipe.common_names])
    hosts = recipe.common_names if recipe.hosts is None else recipe.hosts
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(int(now + recipe.not_before), UTC))
        .not_valid_after(datetime.fromtimestamp(int(now + recipe.not_after), UTC))
        .add_extension(x509.BasicConstraints(ca=recipe.ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=recipe.digital_signature,
                content_commitment=not recipe.digital_signature,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=recipe.ca,
                crl_sign=recipe.ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), critical=not recipe.common_names
        )
    if recipe.usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(recipe.usages), critical=True)
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else recipe.hash or hashes.SHA256()
    certificate = builder.sign(issuer_key, algorithm)  # type: ignore[arg-type]  # narrower than what it takes
    return Identity(key_pem(key), pem(certificate, issuer) if issuer else pem(certificate))


def issued(authority: Authority, recipe: Recipe = RIGHT, *, now: float) -> Identity:
    """Sign whatever the recipe says with the authority's key."""
    return sign(recipe, now=now, issuer_key=authority.key, issuer=authority.certificate)


def client(authority: Authority, common_name: str, *, now: float) -> Identity:
    """Go the right way: a request, checked, and a certificate issued for it."""
    key, csr = make_request(common_name)
    return Identity(key, authority.issue_client(check_request(csr), now=now).pem_chain)


def server(authority: Authority, *hosts: str, now: float) -> Identity:
    """Go the right way to a server certificate."""
    key, certificate = authority.issue_server(hosts, now=now)
    return Identity(key, certificate.pem_chain)


def wrong_usage(authority: Authority, common_name: str, *, now: float) -> Identity:
    """Return a certificate of this authority for servers only."""
    return issued(authority, replace(RIGHT, common_names=[common_name], usages=[SERVER]), now=now)


def expired(authority: Authority, common_name: str, *, now: float) -> Identity:
    """Return a client certificate that was valid until a minute ago."""
    return issued(authority, replace(RIGHT, common_names=[common_name], not_after=-60.0), now=now)


def not_yet_valid(authority: Authority, common_name: str, *, now: float) -> Identity:
    """Return a client certificate that will be valid an hour from now."""
    recipe = replace(RIGHT, common_names=[common_name], not_before=3600.0, not_after=7200.0)
    return issued(authority, recipe, now=now)


def of_another_authority(authority: Authority, common_name: str, *, now: float) -> Identity:
    """Return a right client certificate, issued by somebody else who calls himself as this authority does."""
    name = str(authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    return client(Authority.create(name, now=now, purpose=Purpose.CLIENT), common_name, now=now)


def self_signed(common_name: str, *, now: float) -> Identity:
    """Return a client certificate that nobody else vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    return sign(replace(RIGHT, common_names=[common_name], key=key), now=now, issuer_key=key, issuer=None)
