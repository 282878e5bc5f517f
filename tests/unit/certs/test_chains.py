"""Certificates that partners issue to us."""

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import Authority
from certs.chains import check_chain, describe
from certs.errors import BadCertificate, BadName, FileProblem
from certs.requests import make_request
from tests.support import certificates
from tests.support.certificates import RIGHT, issued, pem, sign

NOW = 1_800_000_000.0
NAME = "emsp.example.org"
CA = replace(RIGHT, common_names=["Hub CA"], hosts=[], usages=[], ca=True, not_before=-9e6, not_after=9e6)


@pytest.fixture(scope="module")
def authority():
    """The partner's authority."""
    return Authority.create("hub.example.org", now=NOW)


@pytest.fixture(scope="module")
def ours(authority):
    """Our key, with the chain that the partner issued for it."""
    return certificates.client(authority, NAME, now=NOW)


def check(identity, chain=None, *, name=NAME, now=NOW):
    """Check the chain with our key."""
    return check_chain(chain or identity.chain_pem, key_pem=identity.key_pem, common_name=name, now=now)


def long_chain(**wrong):
    """Return a leaf, two authorities between, and a root; the second may be wrong in some way."""
    root_key, upper_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    lower_key = wrong.get("key") or ec.generate_private_key(ec.SECP256R1())
    root = sign(replace(CA, common_names=["Root"], key=root_key), now=NOW, issuer_key=root_key, issuer=None)
    upper = sign(
        replace(CA, common_names=["Upper"], key=upper_key), now=NOW, issuer_key=root_key, issuer=root.certificate
    )
    recipe = replace(CA, common_names=["Lower"]) if not wrong else replace(CA, common_names=["Lower"], **wrong)
    lower = sign(replace(recipe, key=lower_key), now=NOW, issuer_key=upper_key, issuer=upper.certificate)
    leaf = sign(RIGHT, now=NOW, issuer_key=lower_key, issuer=lower.certificate)
    return leaf, [leaf.certificate, lower.certificate, upper.certificate, root.certificate]


def test_a_chain_for_our_key_and_name_is_accepted(ours, authority):
    """And what one wants to know of it is returned."""
    info = check(ours)

    leaf = ours.certificate
    assert info.serial == leaf.serial_number
    assert info.common_name == NAME
    assert (info.not_before, info.not_after) == (NOW - 300.0, NOW + 365 * 86_400)
    assert info.issuer == "hub.example.org"
    assert info.chain_pem == pem(leaf, authority.certificate)


def test_the_leaf_alone_is_a_chain(ours):
    """The partner may keep its authorities to itself."""
    assert check(ours, pem(ours.certificate)).chain_pem == pem(ours.certificate)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 0), (0, 0, 1), (2, 1, 0)])
def test_bundles_in_any_order_are_put_right(order):
    """From the leaf towards the root, each once."""
    leaf, chain = long_chain()

    info = check(leaf, pem(*(chain[place] for place in order)))

    assert info.chain_pem == pem(*chain[: len(set(order))])


def test_certificates_of_other_chains_are_left_out(ours, authority):
    """A bundle with somebody's spare root is still ours."""
    other = Authority.create("hub.example.org", now=NOW)  # the same name, another key

    info = check(ours, other.certificate_pem + ours.chain_pem)

    assert info.chain_pem == pem(ours.certificate, authority.certificate)


def test_of_two_certificates_for_our_key_the_one_that_lasts_longer_is_taken(authority, ours):
    """Whoever keeps his key may get the old certificate back beside the new one."""
    key = serialization.load_pem_private_key(ours.key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    old = issued(authority, replace(RIGHT, key=key), now=NOW)

    info = check(ours, pem(old.certificate) + ours.chain_pem)

    assert info.chain_pem == ours.chain_pem


def test_line_ends_and_text_around_it_change_nothing(ours):
    """As mail programs and tools write it (W22)."""
    text = "subject=CN = emsp.example.org\r\n" + ours.chain_pem.decode().replace("\n", "\r\n")

    assert check(ours, text).chain_pem == ours.chain_pem


def test_authorities_with_other_kinds_of_keys_are_accepted():
    """RSA of 2048 bits is sufficient for a partner's authority; Ed25519 is none of our business."""
    for key in (rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()):
        leaf, chain = long_chain(key=key)

        assert check(leaf, pem(*chain)).chain_pem == pem(*chain)


@pytest.mark.parametrize(
    ("usages", "reason"),
    [
        ([ExtendedKeyUsageOID.SERVER_AUTH], "not for TLS client authentication"),
        ([ExtendedKeyUsageOID.CODE_SIGNING], "not for TLS client authentication"),
        ([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH], None),
        ([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE], None),
        ([], None),  # no restriction
    ],
)
def test_the_certificate_must_be_good_for_client_authentication(authority, usages, reason):
    """What else it is good for is the partner's business."""
    identity = issued(authority, replace(RIGHT, usages=usages), now=NOW)

    if reason is None:
        assert check(identity).common_name == NAME
    else:
        with pytest.raises(BadCertificate, match=reason):
            check(identity)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"not_before": 3600.0, "not_after": 7200.0}, "is valid from 2027-01-15 09:00 UTC: wait"),
        ({"not_before": -7200.0, "not_after": -3600.0}, "was valid until 2027-01-15 07:00 UTC: ask for a new one"),
        ({"not_after": 0.0}, "was valid until"),
        ({"common_names": ["cpo.example.org"]}, "is for 'cpo.example.org', and our name is emsp.example.org"),
        ({"common_names": []}, "is for nobody"),
        ({"common_names": [NAME, "cpo.example.org"]}, "is for 'emsp.example.org', 'cpo.example.org'"),
        ({"ca": True}, "that of an authority"),
        ({"digital_signature": False}, "digitalSignature"),
        ({"hash": hashes.SHA224()}, "signed with SHA224"),
    ],
)
def test_a_wrong_certificate_is_refused_with_what_to_do(authority, wrong, reason):
    """Before it replaces one that works."""
    with pytest.raises(BadCertificate, match=reason) as refused:
        check(issued(authority, replace(RIGHT, **wrong), now=NOW))

    assert str(refused.value).isprintable()


def test_a_clock_that_is_a_little_behind_is_forgiven(authority):
    """A certificate that begins in five minutes is taken, since the partner's clock may be right."""
    assert check(issued(authority, replace(RIGHT, not_before=300.0), now=NOW)).common_name == NAME


def test_names_are_compared_as_domain_names_are(authority):
    """Whatever case the partner writes ours in, we go on in lower case."""
    identity = issued(authority, replace(RIGHT, common_names=["EMSP.example.org"]), now=NOW)

    assert check(identity, name="emsp.Example.org").common_name == NAME


def test_a_certificate_for_another_key_is_refused(ours):
    """It answers another request of ours, or somebody else's."""
    key, _ = make_request(NAME)

    with pytest.raises(BadCertificate, match="none of the certificates is for our key"):
        check_chain(ours.chain_pem, key_pem=key, common_name=NAME, now=NOW)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"ca": False}, "'Lower' issued another one, but is not that of an authority"),
        ({"not_after": -1.0}, "'Lower' was valid until"),
        ({"hash": hashes.SHA224()}, "'Lower' is signed with SHA224"),
        ({"key": rsa.generate_private_key(65537, 1024)}, "has an RSA key of 1024 bits"),  # noqa: S505  # to be refused
        ({"key": ec.generate_private_key(ec.SECP224R1())}, "'Lower' has an ECDSA P-224 key"),
    ],
)
def test_a_chain_is_as_good_as_its_weakest_link(wrong, reason):
    """Every authority in it is looked at."""
    leaf, chain = long_chain(**wrong)

    with pytest.raises(BadCertificate, match=reason):
        check(leaf, pem(*chain))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"no certificate", "not a certificate in PEM"),
        (b"\x30\x82", "not PEM text"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        (make_request(NAME)[1], "there is a CERTIFICATE REQUEST where only certificates belong"),
        (make_request(NAME)[0], "private key among the certificates"),
        (b"A" * 10_001, "10000 is the limit"),
    ],
)
def test_what_is_not_a_chain_is_refused(ours, text, reason):
    """Each with what it seems to be."""
    with pytest.raises(BadCertificate, match=reason):
        check(ours, text)


def test_an_empty_text_is_not_a_chain(ours):
    """The partner's answer may have nothing in it."""
    with pytest.raises(BadCertificate, match="not a certificate in PEM"):
        check_chain("", key_pem=ours.key_pem, common_name=NAME, now=NOW)


def test_our_own_part_is_checked_too(ours):
    """A key that is none, a name that is none."""
    with pytest.raises(FileProblem, match="our private key is not a private key"):
        check_chain(ours.chain_pem, key_pem=b"", common_name=NAME, now=NOW)
    with pytest.raises(BadName):
        check(ours, name="emsp")


def test_a_certificate_is_described_without_being_checked(authority):
    """For whoever wants to see what it is, also if it is wrong or long gone."""
    leaf, issuer = describe(certificates.expired(authority, NAME, now=NOW).chain_pem.decode())

    assert (leaf.common_name, leaf.issuer, issuer.issuer) == (NAME, "hub.example.org", "hub.example.org")
    assert (leaf.purposes, leaf.hosts, leaf.key) == (("client",), (NAME,), "ECDSA P-256")
    assert leaf.not_after == NOW - 60.0
    assert issuer.fingerprint == authority.certificate.fingerprint(hashes.SHA256()).hex()
    assert issuer.serial == authority.certificate.serial_number


def test_a_certificate_without_a_common_name_is_described_too(authority):
    """Nothing is checked, so nothing is in the way."""
    leaf = describe(issued(authority, replace(RIGHT, common_names=[], hosts=["a.example"]), now=NOW).chain_pem)[0]

    assert leaf.common_name == ""
    with pytest.raises(BadCertificate, match="cannot be read"):
        describe("no certificate")


def test_the_private_key_can_have_any_format_that_tools_write(ours):
    """Old tools wrote another one."""
    key = serialization.load_pem_private_key(ours.key_pem, None)
    old = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )

    assert check_chain(ours.chain_pem, key_pem=old, common_name=NAME, now=NOW).common_name == NAME
    assert x509.load_pem_x509_certificates(ours.chain_pem)
