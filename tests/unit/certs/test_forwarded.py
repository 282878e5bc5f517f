"""Client certificates in a header: every form that proxies write, and all that is not believed."""

import base64
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from certs import chains, forwarded, policy
from certs.authority import Authority, Purpose
from certs.errors import BadCertificate, FileProblem
from certs.forwarded import HEADER_LENGTH_MAX, ForwardedCertificates
from certs.requests import CheckedRequest
from tests.support import certificates
from tests.support.certificates import RIGHT, Identity, issued

NOW = 1_800_000_000.0
NAME = "emsp.example.org"


def der(identity: Identity) -> str:
    """Write the first certificate as base64 of DER."""
    return base64.b64encode(identity.certificate.public_bytes(Encoding.DER)).decode()


def leaf(identity: Identity) -> str:
    """Write the first certificate as PEM."""
    return certificates.pem(identity.certificate).decode()


def rfc_9440(identity: Identity) -> str:
    """Write a header as RFC 9440 has it."""
    return f":{der(identity)}:"


def nginx(identity: Identity) -> str:
    """Write a header as nginx does."""
    return quote(leaf(identity), safe="")


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Ours, for partners' clients."""
    return Authority.create("clients", now=NOW)


@pytest.fixture(scope="module")
def right(authority: Authority) -> Identity:
    """A partner's certificate and key."""
    return certificates.client(authority, NAME, now=NOW)


@pytest.fixture
def reader(authority: Authority) -> ForwardedCertificates:
    """One that has verified nothing yet."""
    return ForwardedCertificates(authority.certificate_pem)


def refused(reader: ForwardedCertificates, value: str, now: float = NOW) -> str:
    """Return what is said of a header that is refused."""
    with pytest.raises(BadCertificate) as problem:
        reader.read(value, now=now)
    return str(problem.value)


FORMS: dict[str, Callable[[Identity], str]] = {
    "RFC 9440": rfc_9440,
    "nginx": nginx,
    "AWS, which leaves + = / as they are": lambda one: quote(leaf(one), safe="+=/"),
    "AWS, with the issuer": lambda one: quote(one.chain_pem.decode(), safe="+=/"),
    "HAProxy's own": der,
    "Traefik 2": lambda one: quote(der(one), safe=""),
    "Traefik 3, with the issuer": lambda one: ",".join(
        base64.b64encode(each.public_bytes(Encoding.DER)).decode()
        for each in x509.load_pem_x509_certificates(one.chain_pem)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_certificate(reader, right, form):
    """Serial number, name and dates are those of the certificate, whichever way it is written."""
    found = reader.read(FORMS[form](right), now=NOW)

    certificate = right.certificate
    assert (found.serial, found.common_name) == (certificate.serial_number, NAME)
    assert found.not_before == certificate.not_valid_before_utc.timestamp()
    assert found.not_after == certificate.not_valid_after_utc.timestamp()


def test_the_largest_key_that_is_certified_fits(authority, reader):
    """RSA of 8192 bits, with the authority behind it, in the longest form."""
    odd = random.Random(0).getrandbits(policy.RSA_BITS_MAX) | 1 | 1 << policy.RSA_BITS_MAX - 1  # as long as a real one
    key = rsa.RSAPublicNumbers(policy.RSA_EXPONENT_MIN, odd).public_key()
    chain = authority.issue_client(CheckedRequest(NAME, key, "", ""), now=NOW).pem_chain
    value = quote(chain.decode(), safe="")

    assert len(value) < HEADER_LENGTH_MAX
    assert reader.read(value, now=NOW).common_name == NAME


@pytest.mark.parametrize("write", [rfc_9440, nginx, der])
def test_a_certificate_of_another_authority_is_refused(reader, authority, write):
    """Also of one that calls itself as ours does, and of one that nobody else vouches for."""
    other = certificates.of_another_authority(authority, NAME, now=NOW)

    assert "not issued by this platform" in refused(reader, write(other))
    assert "not issued by this platform" in refused(reader, write(certificates.self_signed(NAME, now=NOW)))


@pytest.mark.parametrize("make", [certificates.expired, certificates.not_yet_valid])
def test_a_certificate_out_of_date_is_refused(reader, authority, make):
    """Whatever the proxy thinks of dates."""
    assert "not valid yet, or no more" in refused(reader, rfc_9440(make(authority, NAME, now=NOW)))


def test_dates_are_looked_at_for_every_request(reader, right):
    """A certificate that was verified an hour before it ended is refused an hour after it."""
    end = right.certificate.not_valid_after_utc

    assert reader.read(rfc_9440(right), now=(end - timedelta(hours=1)).timestamp())
    assert "no more" in refused(reader, rfc_9440(right), now=(end + timedelta(hours=1)).timestamp())


def test_a_certificate_that_is_for_something_else_is_refused(reader, authority):
    """For servers, of the authority itself, or for nobody in particular."""
    nameless = issued(authority, replace(RIGHT, common_names=[], hosts=[NAME]), now=NOW)
    anything = issued(authority, replace(RIGHT, usages=[]), now=NOW)
    own = Identity(b"", authority.certificate_pem)

    assert "client authentication" in refused(reader, rfc_9440(certificates.wrong_usage(authority, NAME, now=NOW)))
    assert "client authentication" in refused(reader, rfc_9440(anything))
    assert "one common name" in refused(reader, rfc_9440(nameless))
    assert "not issued by this platform" in refused(reader, rfc_9440(own))


def test_two_clients_in_one_header_are_refused(reader, authority, right):
    """In either order and any form: which of them was TLS about?"""
    other = certificates.client(authority, "other.example.org", now=NOW)
    foreign = Authority.create("clients", now=NOW, purpose=Purpose.CLIENT)

    for first, second in ((right, other), (other, right), (right, right)):
        assert "more than one" in refused(reader, f"{rfc_9440(first)}, {rfc_9440(second)}")
        assert "more than one" in refused(reader, f"{der(first)},{der(second)}")
        assert "more than one" in refused(reader, nginx(first) + nginx(second))
    assert "more than one" in refused(reader, f"{der(right)},{der(Identity(b'', foreign.certificate_pem))}")


@pytest.mark.parametrize(
    "value",
    [
        *("", ":", "::", ":::", " ", ",", ":,:", "%", "%00", "%ff%fe", "\udcff", "null", "CN=emsp.example.org"),
        *("MII", ":MII", ":MIIB:", ":TUlJQg==:", "-----BEGIN", "-----BEGIN CERTIFICATE-----"),
        "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A",
        "-----BEGIN%20PRIVATE%20KEY-----%0AAAAA%0A-----END%20PRIVATE%20KEY-----%0A",
        'Hash=ab;Cert="-----BEGIN%20CERTIFICATE-----";Subject="CN=emsp.example.org"',
    ],
)
def test_garbage_is_refused(reader, value):
    """Always with one kind of error, in one short line."""
    said = refused(reader, value)

    assert said.isprintable()
    assert len(said) < 200


def test_a_certificate_that_was_tampered_with_is_refused(reader, right):
    """Each of some bytes changed on its own; nothing of it is remembered, and the whole one is still taken."""
    data = base64.b64decode(der(right))
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1
        assert refused(reader, f":{base64.b64encode(changed).decode()}:")
    assert refused(reader, f":{base64.b64encode(data + b'0').decode()}:")
    assert refused(reader, rfc_9440(right)[:-1])

    assert reader.read(rfc_9440(right), now=NOW).common_name == NAME


def test_a_header_that_is_too_long_is_not_read(reader, right):
    """Its length is looked at before anything else is, as it came and as it is decoded."""
    assert f"{HEADER_LENGTH_MAX} is the limit" in refused(reader, f":{'A' * HEADER_LENGTH_MAX}:")
    assert f"{HEADER_LENGTH_MAX} is the limit" in refused(reader, nginx(right) + "%0A" * HEADER_LENGTH_MAX)


def test_a_certificate_is_verified_once(reader, authority, right, monkeypatch):
    """A proxy sends it with each request; a limited number is remembered, and refusals are not."""
    verified = []

    def count(issuer, certificate):
        verified.append(certificate.serial_number)
        return issuer == authority.certificate and real(issuer, certificate)

    real = chains.is_issuer
    monkeypatch.setattr(chains, "is_issuer", count)
    monkeypatch.setattr(forwarded, "VERIFIED_MAX", 2)
    others = [certificates.client(authority, f"emsp-{n}.example.org", now=NOW) for n in range(2)]
    foreign = certificates.of_another_authority(authority, NAME, now=NOW)

    for _ in range(3):
        reader.read(rfc_9440(right), now=NOW)
        refused(reader, rfc_9440(foreign))
    assert verified.count(right.certificate.serial_number) == 1
    assert verified.count(foreign.certificate.serial_number) == 3

    for one in others:
        reader.read(rfc_9440(one), now=NOW)
    reader.read(rfc_9440(right), now=NOW)
    assert verified.count(right.certificate.serial_number) == 2, "room was made for others"


def test_an_authority_that_is_none_is_refused():
    """The file names itself elsewhere; here it is said what it is."""
    with pytest.raises(FileProblem, match="authority"):
        ForwardedCertificates(b"-----BEGIN CERTIFICATE-----\n")
