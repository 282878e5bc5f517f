"""What an authority issues."""

import stat
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import policy
from certs.authority import Authority, Purpose
from certs.errors import BadAuthority, BadName, FileProblem
from certs.renewal import renewal_due_at
from certs.requests import check_request, make_request
from tests.support import certificates
from tests.support.certificates import RIGHT, key_pem

NOW = 1_800_000_000.75
NAME = "emsp.example.org"


@pytest.fixture(scope="module")
def authority():
    """An authority for client certificates."""
    return Authority.create("hub.example.org clients", now=NOW)


@pytest.fixture(scope="module")
def servers():
    """An authority for server certificates."""
    return Authority.create("hub.example.org servers", now=NOW, purpose=Purpose.SERVER)


@pytest.fixture(scope="module")
def request_():
    """A request that was checked."""
    return check_request(make_request(NAME)[1])


def value(certificate, kind):
    """Return the value of an extension."""
    return certificate.extensions.get_extension_for_class(kind).value


def test_a_client_certificate_carries_the_name_and_key_of_the_request(authority, request_):
    """Subject and alternative name are the request's common name, and nothing else is taken over."""
    issued = authority.issue_client(request_, now=NOW)

    leaf, issuer = x509.load_pem_x509_certificates(issued.pem_chain)
    assert leaf.subject.rfc4514_string() == f"CN={NAME}"
    assert list(value(leaf, x509.SubjectAlternativeName)) == [x509.DNSName(NAME)]
    assert leaf.public_key() == request_.public_key
    assert issued.common_name == NAME
    assert issuer == authority.certificate
    leaf.verify_directly_issued_by(issuer)


@pytest.mark.requirement("R.01.01.07")
def test_a_client_certificate_is_for_client_authentication_only(authority, request_):
    """Not for servers, not for issuing others, and its key only signs."""
    leaf = x509.load_pem_x509_certificate(authority.issue_client(request_, now=NOW).pem_chain)

    assert list(value(leaf, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert value(leaf, x509.BasicConstraints) == x509.BasicConstraints(ca=False, path_length=None)
    usage = value(leaf, x509.KeyUsage)
    assert usage.digital_signature
    assert not any([usage.key_cert_sign, usage.crl_sign, usage.key_encipherment, usage.key_agreement])


@pytest.mark.requirement("R.01.01.05", "R.01.01.06")
def test_what_is_issued_is_signed_with_good_cryptography(authority, servers, request_):
    """ECDSA P-256 and SHA-256 in every certificate."""
    texts = [
        authority.issue_client(request_, now=NOW).pem_chain,
        servers.issue_server(["a.example"], now=NOW)[1].pem_chain,
    ]

    for certificate in (each for text in texts for each in x509.load_pem_x509_certificates(text)):
        assert policy.key_text(certificate.public_key()) == "ECDSA P-256"
        assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)


def test_a_client_certificate_is_valid_from_a_little_before_now_for_a_year(authority, request_):
    """What is returned is what stands in the certificate, in whole seconds."""
    later = NOW + 1000.0
    issued = authority.issue_client(request_, now=later)

    leaf = x509.load_pem_x509_certificate(issued.pem_chain)
    assert issued.not_before == leaf.not_valid_before_utc.timestamp() == int(later - policy.CLOCK_SKEW_S)
    assert issued.not_after == leaf.not_valid_after_utc.timestamp() == int(later + 365 * 86_400)


@pytest.mark.parametrize("lifetime_s", [8, 60, 600, policy.CLIENT_LIFETIME_S])
def test_no_certificate_is_due_for_renewal_when_it_is_issued(authority, request_, lifetime_s):
    """However short it lives: one that began long ago for clocks that are behind would be past half of its life."""
    later = NOW + 86_400.0
    issued = authority.issue_client(request_, now=later, lifetime_s=lifetime_s)

    assert renewal_due_at(issued.not_before, issued.not_after) > later + lifetime_s / 8


def test_nothing_is_valid_before_or_after_its_authority(authority, request_):
    """A certificate that outlives its authority would end without a sign."""
    first = authority.issue_client(request_, now=NOW - 100.0)
    last = authority.issue_client(request_, now=authority.not_after - 3600.0)

    assert first.not_before == authority.certificate.not_valid_before_utc.timestamp()
    assert last.not_after == authority.not_after


def test_serial_numbers_are_never_the_same(authority, request_):
    """Also for the same request."""
    issued = [authority.issue_client(request_, now=NOW) for _ in range(20)]

    assert len({each.serial for each in issued}) == 20
    assert all(each.serial == x509.load_pem_x509_certificate(each.pem_chain).serial_number for each in issued)


def test_keys_are_linked_by_identifiers(authority, request_):
    """As RFC 5280 wants it: strict verification looks for them."""
    leaf = x509.load_pem_x509_certificate(authority.issue_client(request_, now=NOW).pem_chain)

    own = value(authority.certificate, x509.SubjectKeyIdentifier).digest
    assert value(leaf, x509.AuthorityKeyIdentifier).key_identifier == own
    assert value(leaf, x509.SubjectKeyIdentifier) == x509.SubjectKeyIdentifier.from_public_key(leaf.public_key())


def test_an_authority_issues_no_authorities(authority):
    """Its own certificate says so."""
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)

    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert value(authority.certificate, x509.KeyUsage).key_cert_sign


def test_a_request_with_an_rsa_key_is_issued_like_any_other(authority):
    """The partner's kind of key is not ours to choose."""
    key = rsa.generate_private_key(65537, 3072)
    checked = check_request(make_request(NAME, key=key_pem(key))[1])

    leaf = x509.load_pem_x509_certificate(authority.issue_client(checked, now=NOW).pem_chain)

    assert leaf.public_key() == key.public_key()


@pytest.mark.parametrize(
    ("now", "lifetime_s", "reason"),
    [
        (NOW, 0.0, "for a second at least"),
        (NOW, -5.0, "for a second at least"),
        (NOW, 3 * 365 * 86_400.0, "730 days at most"),
        (NOW + policy.AUTHORITY_LIFETIME_S, 86_400.0, "has ended"),
    ],
)
def test_no_certificate_is_issued_for_impossible_times(authority, request_, now, lifetime_s, reason):
    """Each with what is wrong."""
    with pytest.raises(BadAuthority, match=reason):
        authority.issue_client(request_, now=now, lifetime_s=lifetime_s)


def test_an_authority_issues_for_its_own_purpose_only(authority, servers, request_):
    """A partner's certificate can never pose as our server, nor the other way round."""
    with pytest.raises(BadAuthority, match="issues server certificates"):
        servers.issue_client(request_, now=NOW)
    with pytest.raises(BadAuthority, match="issues client certificates"):
        authority.issue_server(["cpo.example.org"], now=NOW)


def test_a_server_certificate_is_for_all_its_hosts(servers):
    """Names and addresses, for server authentication only."""
    hosts = ["cpo.example.org", "localhost", "127.0.0.1", "::1"]
    _, issued = servers.issue_server(hosts, now=NOW)

    leaf = x509.load_pem_x509_certificate(issued.pem_chain)
    assert [str(name.value) for name in value(leaf, x509.SubjectAlternativeName)] == hosts
    assert list(value(leaf, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize(("hosts", "error"), [([], BadAuthority), (["not a host"], BadName), (["*.example"], BadName)])
def test_a_server_certificate_needs_hosts(servers, hosts, error):
    """No wildcard either."""
    with pytest.raises(error):
        servers.issue_server(hosts, now=NOW)


def test_a_server_may_have_a_name_too_long_for_a_subject(servers):
    """The alternative names alone say what it is for."""
    long = f"{'a' * 63}.{'b' * 63}.example"

    leaf = x509.load_pem_x509_certificate(servers.issue_server([long], now=NOW)[1].pem_chain)

    assert leaf.subject == x509.Name([])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [name.value for name in names.value] == [long]


@pytest.mark.parametrize("purpose", list(Purpose))
def test_an_authority_is_read_back_as_it_was_saved(tmp_path, purpose):
    """With its key, for this user only."""
    authority = Authority.create("hub.example.org", now=NOW, purpose=purpose)

    authority.save(tmp_path / "authority")
    again = Authority.load(tmp_path / "authority")

    assert again.certificate == authority.certificate
    assert again.purpose is purpose
    assert again.key.private_numbers() == authority.key.private_numbers()
    assert stat.S_IMODE((tmp_path / "authority" / "authority.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700


def test_an_authority_is_never_overwritten(tmp_path, authority, servers):
    """Every partner's certificate hangs on it."""
    authority.save(tmp_path)

    with pytest.raises(FileProblem, match="has an authority already"):
        servers.save(tmp_path)
    assert Authority.load(tmp_path).certificate == authority.certificate


def test_an_authority_that_is_not_whole_is_not_loaded(tmp_path, authority, servers, request_):
    """Missing, open to others, mixed from two, or no authority at all."""
    with pytest.raises(FileProblem, match="No such file"):
        Authority.load(tmp_path)

    authority.save(tmp_path)
    (tmp_path / "authority.pem").write_bytes(servers.certificate_pem)
    with pytest.raises(FileProblem, match="do not belong together"):
        Authority.load(tmp_path)

    (tmp_path / "authority.pem").write_text("good morning")
    with pytest.raises(FileProblem, match="cannot be read"):
        Authority.load(tmp_path)

    (tmp_path / "authority.pem").write_bytes(authority.issue_client(request_, now=NOW).pem_chain)
    with pytest.raises(FileProblem, match="do not belong together"):
        Authority.load(tmp_path)

    theirs = certificates.issued(authority, replace(RIGHT, key=rsa.generate_private_key(65537, 3072)), now=NOW)
    (tmp_path / "authority.pem").write_bytes(theirs.chain_pem)
    (tmp_path / "authority.key").write_bytes(theirs.key_pem)
    with pytest.raises(FileProblem, match="not the certificate of an authority made here"):
        Authority.load(tmp_path)

    (tmp_path / "authority.key").chmod(0o644)
    with pytest.raises(FileProblem, match="chmod 600"):
        Authority.load(tmp_path)


@pytest.mark.parametrize("name", ["", "n" * 65, "n\n", "Ladesäule"])
def test_an_authority_has_a_name_that_fits(name):
    """X.509's own limit."""
    with pytest.raises(BadAuthority, match="1 to 64"):
        Authority.create(name, now=NOW)


def test_no_key_is_printed(authority, request_):
    """Whatever ends up in a log has no key in it."""
    texts = repr(authority) + repr(authority.issue_client(request_, now=NOW))

    assert "key=" not in texts
    assert "BEGIN" not in texts
