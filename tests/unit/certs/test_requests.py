"""Certificate signing requests, ours and the odd ones that partners may send."""

import base64
import hashlib
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from certs import policy
from certs.errors import BadName, BadRequest, FileProblem
from certs.requests import check_request, make_request
from tests.support.certificates import key_pem

NAME = "emsp.example.org"
CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
KEY, CSR = make_request(NAME)


def usage(**true):
    """Return a key usage with these bits."""
    bits = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    more = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**dict.fromkeys((*bits, *more), False) | true)


def csr(*extensions, names=(NAME,), key=None, algorithm=None, critical=False, organization=None):
    """Return a request with whatever is asked for; without extensions it has the right one."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names]
    if organization:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    for extension in extensions or (CLIENT,):
        builder = builder.add_extension(extension, critical=critical)
    key = key or ec.generate_private_key(ec.SECP256R1())
    if algorithm is None and not isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(serialization.Encoding.PEM)


def der(pem):
    """Return what a PEM text has inside."""
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def inside(data):
    """Return what a DER value has inside."""
    return data[2 if data[1] < 0x80 else 2 + data[1] - 0x80 :]


def sequence(body):
    """Return a DER sequence of it."""
    size = len(body)
    length = bytes([size]) if size < 0x80 else b"\x81" + bytes([size]) if size < 0x100 else b"\x82" + size.to_bytes(2)
    return b"\x30" + length + body


def armored(data, label="CERTIFICATE REQUEST"):
    """Return bytes as PEM."""
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n".encode()


# --- ours ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.01.01")
def test_our_request_has_our_platform_identity_as_its_common_name():
    """The common name is the only name in the subject."""
    request = x509.load_pem_x509_csr(make_request("EMSP.example.org")[1])

    assert request.subject.rfc4514_string() == "CN=emsp.example.org"


@pytest.mark.requirement("R.01.01.02")
def test_no_request_is_made_for_what_is_not_a_domain_name():
    """An identity that is no domain name never gets as far as a request."""
    with pytest.raises(BadName):
        make_request("EMSP of Example")


@pytest.mark.requirement("R.01.01.05", "R.01.01.06")
def test_our_request_has_good_cryptography():
    """ECDSA P-256 and SHA-256, which the guidelines call good."""
    request = x509.load_pem_x509_csr(CSR)
    key = request.public_key()

    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    assert isinstance(request.signature_hash_algorithm, hashes.SHA256)
    assert request.is_signature_valid


@pytest.mark.requirement("R.01.01.07")
def test_our_request_is_restricted_to_client_authentication():
    """Client authentication is its one extended usage, so server authentication is none."""
    request = x509.load_pem_x509_csr(CSR)

    found = request.extensions.get_extension_for_class(x509.ExtendedKeyUsage)

    assert list(found.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert found.critical


def test_each_request_has_a_new_key_unless_one_is_given():
    """Renewal replaces the key; whoever keeps one, names it."""
    again, request = make_request(NAME, key=KEY)

    assert make_request(NAME)[0] != KEY
    assert again == KEY
    assert check_request(request).public_key == check_request(CSR).public_key


def test_no_request_is_made_with_a_key_that_would_be_refused():
    """Better told here than by the partner."""
    with pytest.raises(BadRequest, match="P-521"):
        make_request(NAME, key=key_pem(ec.generate_private_key(ec.SECP521R1())))
    with pytest.raises(FileProblem, match="not a private key"):
        make_request(NAME, key=b"no key")


# --- theirs ----------------------------------------------------------------------------------------------------


def test_a_request_like_ours_is_accepted():
    """What is checked on one side is what is made on the other."""
    checked = check_request(CSR)

    assert checked.common_name == NAME
    assert checked.key == "ECDSA P-256"
    assert checked.public_key == serialization.load_pem_private_key(KEY, None).public_key()


def test_the_fingerprint_is_what_other_tools_print():
    """The hash of the request itself, so that two people with different tools can compare it."""
    assert check_request(CSR).fingerprint == hashlib.sha256(der(CSR)).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        CSR.decode(),
        CSR.replace(b"\n", b"\r\n"),
        CSR.replace(b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST"),
        b"Certificate Request:\n    Data:\n" + CSR,
        csr(names=["EMSP.Example.ORG"]),
        csr(organization="eMSP Ltd."),
        csr(CLIENT, x509.SubjectAlternativeName([x509.DNSName(NAME)])),
        csr(CLIENT, x509.BasicConstraints(ca=False, path_length=None)),
        csr(CLIENT, usage(digital_signature=True, key_encipherment=True), critical=True),
        csr(key=ec.generate_private_key(ec.SECP384R1()), algorithm=hashes.SHA384()),
        csr(algorithm=hashes.SHA512()),
    ],
)
def test_requests_that_other_tools_write_are_accepted(text):
    """Line ends, labels, text around it, harmless extensions and other names change nothing."""
    assert check_request(text).common_name == NAME


def test_rsa_keys_are_accepted_from_3072_bits_on():
    """As good as the guidelines ask for; 2048 bits are not certified for years to come."""
    good = rsa.generate_private_key(65537, 3072)

    assert check_request(csr(key=good)).key == "RSA 3072"
    with pytest.raises(BadRequest, match="RSA key of 2048 bits"):
        check_request(csr(key=rsa.generate_private_key(65537, 2048)))


@pytest.mark.requirement("R.01.01.05", "R.01.01.06")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (csr(key=rsa.generate_private_key(65537, 1024)), "RSA key of 1024 bits: use ECDSA"),  # noqa: S505  # to be refused
        (csr(key=rsa.generate_private_key(3, 3072)), "unusual exponent"),
        (csr(key=ec.generate_private_key(ec.SECP224R1())), "ECDSA P-224"),
        (csr(key=ec.generate_private_key(ec.SECP521R1())), "ECDSA P-521"),
        (csr(key=ec.generate_private_key(ec.SECP256K1())), "ECDSA secp256k1"),
        (csr(key=ed25519.Ed25519PrivateKey.generate()), "a key of the kind Ed25519"),
        (csr(algorithm=hashes.SHA224()), "signed with SHA224"),
        (csr(algorithm=hashes.SHA3_256()), "signed with SHA3-256"),
    ],
)
def test_weak_or_unusual_cryptography_is_refused(text, reason):
    """Keys and hashes are good ones by the guidelines, or there is no certificate."""
    with pytest.raises(BadRequest, match=reason):
        check_request(text)


@pytest.mark.requirement("R.01.01.05")
def test_a_signature_with_sha_1_is_refused():
    """A library that would still sign so is hard to find: the algorithm's number is changed, and looked at first."""
    sha256, sha1 = bytes.fromhex("2a8648ce3d040302"), bytes.fromhex("2a8648ce3d0401")
    before, after = inside(der(CSR)).rsplit(sequence(b"\x06\x08" + sha256), 1)
    changed = sequence(before + sequence(b"\x06\x07" + sha1) + after)

    with pytest.raises(BadRequest, match="signed with SHA1"):
        check_request(armored(changed))


@pytest.mark.requirement("R.01.01.01", "R.01.01.02")
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "0 common names"),
        ([NAME, "cpo.example.org"], "2 common names"),
        (["*.example.org"], "wildcard"),
        (["emsp"], "only one label"),
        (["eMSP Ltd."], "not a domain name"),
        (["emsp.example.org\0.evil.example"], "not a domain name"),
        (["192.0.2.7"], "IP address"),
        (["emsp.exаmple.org"], "xn--"),  # noqa: RUF001  # a Cyrillic letter
        (["emsp.example.org\nSet-Cookie: x"], "not a domain name"),
    ],
)
def test_odd_names_are_refused(names, reason):
    """One common name, and it is a domain name; the message never repeats control characters."""
    with pytest.raises(BadRequest, match=reason) as refused:
        check_request(csr(names=names))

    assert str(refused.value).isprintable()
    assert str(refused.value).isascii()


@pytest.mark.requirement("R.01.01.07")
@pytest.mark.parametrize(
    ("extensions", "reason"),
    [
        ([x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])], "TLS server authentication"),
        (
            [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])],
            "TLS server authentication",
        ),
        ([x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])], "other uses"),
        (
            [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.CODE_SIGNING])],
            "other uses",
        ),
        ([x509.SubjectAlternativeName([x509.DNSName(NAME)])], "not restricted to TLS client authentication"),
    ],
)
def test_other_uses_than_client_authentication_are_refused(extensions, reason):
    """A request that is not restricted to client authentication is none of OCPI's."""
    with pytest.raises(BadRequest, match=reason):
        check_request(csr(*extensions))


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (x509.BasicConstraints(ca=True, path_length=None), "certificate authority"),
        (usage(digital_signature=True, key_cert_sign=True), "to sign certificates"),
        (usage(digital_signature=True, crl_sign=True), "to sign certificates"),
        (usage(key_encipherment=True), "leaves out digitalSignature"),
        (x509.SubjectAlternativeName([x509.DNSName("cpo.example.org")]), "only emsp.example.org itself"),
        (x509.SubjectAlternativeName([x509.DNSName(NAME), x509.DNSName("*.example.org")]), "only emsp.example.org"),
        (x509.SubjectAlternativeName([x509.RFC822Name("ops@emsp.example.org")]), "only emsp.example.org itself"),
        (x509.SubjectAlternativeName([x509.DirectoryName(x509.Name([]))]), "only emsp.example.org itself"),
    ],
)
def test_a_request_for_more_than_its_name_is_refused(extension, reason):
    """No authorities, and no other names."""
    with pytest.raises(BadRequest, match=reason):
        check_request(csr(CLIENT, extension))


def test_an_unknown_extension_is_refused_only_where_it_is_critical():
    """Critical means that whoever does not know it must refuse."""
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")

    assert check_request(csr(CLIENT, unknown)).common_name == NAME
    with pytest.raises(BadRequest, match=r"critical extension \(1\.3\.6\.1\.4\.1\.55555\.1\)"):
        check_request(csr(CLIENT, unknown, critical=True))


@pytest.mark.parametrize("expected", [NAME, "EMSP.example.ORG"])
@pytest.mark.requirement("R.01.04.05")
def test_a_request_under_the_name_of_the_certificate_in_use_is_accepted(expected):
    """Names are compared as domain names are."""
    assert check_request(CSR, common_name=expected).common_name == NAME


@pytest.mark.requirement("R.01.04.05", "R.01.04.06")
def test_a_request_under_another_name_than_that_of_the_certificate_in_use_is_refused():
    """Nobody renews his certificate into somebody else's."""
    with pytest.raises(BadRequest, match=r"for 'emsp\.example\.org', and only one for 'cpo\.example\.org'"):
        check_request(CSR, common_name="cpo.example.org")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not a certificate signing request in PEM"),
        ("", "not a certificate signing request in PEM"),
        (b"\x30\x82\x01\x00", "not PEM text"),
        (CSR + b"\0", "not PEM text"),
        ("\ud800" + CSR.decode(), "not PEM text"),
        (CSR + CSR, "2 PEM blocks"),
        (KEY, "private key, which nobody else must ever see"),
        (CSR + KEY, "private key, which nobody else must ever see"),
        (CSR.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"), "this is a CERTIFICATE, not"),
        (CSR.replace(b"CERTIFICATE REQUEST", b"PKCS7"), "this is a PKCS7, not"),
        (CSR[:200], "cannot be read"),
        (CSR.replace(b"-----END", b"----END"), "cannot be read"),
        (armored(der(CSR)[:-1]), "cannot be read"),
        (armored(der(CSR) + b"\0"), "cannot be read"),
        (armored(b""), "cannot be read"),
        (armored(b"\x30\x80" * 500), "cannot be read"),
    ],
)
def test_what_is_not_one_request_in_pem_is_refused(text, reason):
    """Each with what it seems to be."""
    with pytest.raises(BadRequest, match=reason):
        check_request(text)


def test_a_request_that_was_changed_on_its_way_is_refused():
    """The signature holds the key to the name."""
    changed = der(CSR).replace(b"emsp.example.org", b"evil.example.org")

    with pytest.raises(BadRequest, match="signature"):
        check_request(armored(changed))


def test_a_huge_request_is_refused_before_it_is_parsed(monkeypatch):
    """Size is looked at first: a hundred megabytes cost nothing but the reading."""
    monkeypatch.setattr(x509, "load_pem_x509_csr", lambda _data: pytest.fail("parsed"))

    with pytest.raises(BadRequest, match="5500 is the limit"):
        check_request(CSR + b"\n" * (policy.CSR_LENGTH_MAX - len(CSR) + 1))
    with pytest.raises(BadRequest, match="5500 is the limit"):
        check_request("A" * 10_000_000)


def test_a_request_of_the_largest_size_is_accepted():
    """The limit is the draft's, and it is inclusive."""
    assert check_request(CSR + b"\n" * (policy.CSR_LENGTH_MAX - len(CSR))).common_name == NAME


def test_the_signature_is_verified_only_with_a_key_of_a_bounded_size():
    """A partner's choice of a huge RSA key does not cost us its verification."""
    numbers = rsa.RSAPublicNumbers(65537, (1 << 9000) + 1).public_key()
    info = numbers.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    own = serialization.load_pem_private_key(KEY, None).public_key()
    old = own.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    request = x509.load_pem_x509_csr(CSR)
    tbs = sequence(inside(request.tbs_certrequest_bytes).replace(old, info))
    changed = inside(der(CSR)).replace(request.tbs_certrequest_bytes, tbs)

    with pytest.raises(BadRequest, match="RSA key of 9001 bits"):
        check_request(armored(sequence(changed)))


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_requests_are_refused_and_never_more_than_that(data):
    """Whatever bytes are changed, the answer is a refusal, on one line, or the same request."""
    bytes_ = bytearray(der(CSR))
    for _ in range(data.draw(st.integers(1, 4))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))

    try:
        checked = check_request(armored(bytes(bytes_)))
    except BadRequest as refused:
        assert str(refused).isprintable()  # noqa: PT017  # it may or may not be refused
    else:
        assert checked.common_name == NAME


@given(text=st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_any_other_text_is_refused(text):
    """No input at all raises anything else."""
    with pytest.raises(BadRequest):
        check_request(text)


def test_a_checked_request_prints_without_its_key():
    """What is logged about it stays readable."""
    assert re.fullmatch(
        r"CheckedRequest\(common_name='[a-z.]+', fingerprint='\w{64}', key='[^']+'\)", repr(check_request(CSR))
    )
