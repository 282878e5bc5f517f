"""Real TLS handshakes, in memory: who gets in, who does not, and with which cryptography."""

import ssl
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certs import files, policy, tls
from certs.authority import Authority, Purpose
from certs.errors import BadCertificate, FileProblem
from tests.support import certificates
from tests.support.certificates import RIGHT, Files, issued

NOW = time.time()  # OpenSSL has its own clock, and it is this one
NAME = "emsp.example.org"
HOST = "cpo.example.org"


@dataclass(frozen=True)
class World:
    """A platform that listens, its two authorities, and a partner with the right certificate."""

    folder: Path
    clients: Authority
    servers: Authority
    client_ca_file: Path
    server_ca_file: Path
    server: Files
    client: Files


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Everything right; tests replace one part of it."""
    folder = tmp_path_factory.mktemp("tls")
    clients = Authority.create("cpo.example.org clients", now=NOW)
    servers = Authority.create("cpo.example.org servers", now=NOW, purpose=Purpose.SERVER)
    client_ca_file, server_ca_file = folder / "clients.pem", folder / "servers.pem"
    client_ca_file.write_bytes(clients.certificate_pem)
    server_ca_file.write_bytes(servers.certificate_pem)
    server = certificates.server(servers, HOST, now=NOW).save(folder, "server")
    client = certificates.client(clients, NAME, now=NOW).save(folder, "client")
    return World(folder, clients, servers, client_ca_file, server_ca_file, server, client)


def listener(world, server=None):
    """Return the platform's own context."""
    pair = server or world.server
    return tls.server_context(chain_file=pair.chain_file, key_file=pair.key_file, client_ca_file=world.client_ca_file)


def partner(world, client=None):
    """Return the partner's context."""
    pair = client or world.client
    return tls.client_context(chain_file=pair.chain_file, key_file=pair.key_file, server_ca_file=world.server_ca_file)


def stranger(world, *, client=None):
    """Return a client that has its own idea of TLS: it takes any server, and OpenSSL's defaults."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.server_ca_file)
    if client:
        context.load_cert_chain(client.chain_file, client.key_file)
    return context


def handshake(server, client, *, host=HOST, session=None):
    """Let two contexts talk; returns both ends when each has heard a byte of the other.

    The byte matters: with TLS 1.3 the client is done before the server has looked at its certificate.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname=host, session=session),
    )
    talks = [_talk(end) for end in ends]
    for _ in range(20):
        if all([next(talk, True) for talk in talks]):  # noqa: C419  # each gets its turn
            return ends
    raise AssertionError("the two have nothing to say to each other")


def seen(connection):
    """Return the certificate that the other end showed."""
    peer = tls.peer_certificate(connection)
    assert peer is not None
    return peer


def _talk(end):
    """Shake hands, say a byte, hear a byte; yields while there is nothing to read."""
    for step in (end.do_handshake, lambda: end.write(b"."), lambda: end.read(1)):
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                yield False
            else:
                break


@pytest.mark.requirement("R.01.02.02", "R.01.02.03")
def test_two_platforms_with_the_right_certificates_meet(world):
    """Each knows who the other is."""
    server, client = handshake(listener(world), partner(world))

    peer = seen(server)
    leaf = certificates.Identity(b"", world.client.chain_file.read_bytes()).certificate
    assert (peer.common_name, peer.serial) == (NAME, leaf.serial_number)
    assert peer.not_after == leaf.not_valid_after_utc.timestamp()
    assert peer.not_before == leaf.not_valid_before_utc.timestamp()
    assert seen(client).common_name == HOST


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (certificates.wrong_usage, "purpose"),
        (certificates.expired, "expired"),
        (certificates.not_yet_valid, "not yet valid"),
        (certificates.of_another_authority, "verify failed"),
    ],
)
@pytest.mark.requirement("R.01.02.03")
def test_a_client_with_a_wrong_certificate_is_refused(world, make, reason):
    """For servers only, out of date, or issued by somebody who only calls himself our authority."""
    wrong = make(world.clients, NAME, now=NOW).save(world.folder, make.__name__)

    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(listener(world), partner(world, wrong))


@pytest.mark.requirement("R.01.02.03")
def test_a_client_without_a_certificate_is_refused(world):
    """Nobody gets as far as a request."""
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        handshake(listener(world), stranger(world))


@pytest.mark.requirement("R.01.02.03")
def test_a_client_whom_nobody_vouches_for_is_refused(world):
    """A certificate that signed itself."""
    wrong = certificates.self_signed(NAME, now=NOW).save(world.folder, "self_signed")

    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        handshake(listener(world), partner(world, wrong))


@pytest.mark.requirement("R.01.02.03")
def test_a_server_certificate_does_not_open_the_listener(world):
    """Not even that of our own other authority."""
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(listener(world), partner(world, world.server))


@pytest.mark.requirement("R.01.02.03")
def test_a_client_certificate_does_not_issue_others(world):
    """A partner who signs with his certificate's key does not become an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    real = issued(world.clients, replace(RIGHT, common_names=["hub.example.org"], key=key), now=NOW)
    forged = certificates.sign(RIGHT, now=NOW, issuer_key=key, issuer=real.certificate)
    chain = forged.chain_pem + world.clients.certificate_pem
    wrong = certificates.Identity(forged.key_pem, chain).save(world.folder, "forged")

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(listener(world), partner(world, wrong))


@pytest.mark.requirement("R.01.02.03")
def test_not_even_our_own_authority_makes_authorities(world):
    """One below it would be refused, should its key ever sign one."""
    key = ec.generate_private_key(ec.SECP256R1())
    below = issued(
        world.clients, replace(RIGHT, common_names=["Below"], hosts=[], usages=[], ca=True, key=key), now=NOW
    )
    leaf = certificates.sign(RIGHT, now=NOW, issuer_key=key, issuer=below.certificate)
    wrong = certificates.Identity(leaf.key_pem, leaf.chain_pem + world.clients.certificate_pem)

    with pytest.raises(ssl.SSLCertVerificationError, match="path length"):
        handshake(listener(world), partner(world, wrong.save(world.folder, "below")))


@pytest.mark.requirement("R.01.02.02")
@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (replace(RIGHT, common_names=[HOST], usages=[certificates.CLIENT]), "purpose"),
        (replace(RIGHT, common_names=[HOST], usages=[certificates.SERVER], not_after=-60.0), "expired"),
        (
            replace(RIGHT, common_names=[HOST], usages=[certificates.SERVER], not_before=86_400.0, not_after=172_800.0),
            "not yet valid",
        ),
        (replace(RIGHT, common_names=["hub.example.org"], usages=[certificates.SERVER]), "Hostname mismatch"),
        (replace(RIGHT, common_names=[HOST], hosts=[], usages=[certificates.SERVER]), "Hostname mismatch"),
    ],
)
def test_a_server_with_a_wrong_certificate_is_refused(world, recipe, reason):
    """For clients only, out of date, or of another host."""
    wrong = issued(world.servers, recipe, now=NOW).save(world.folder, "wrong_server")

    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(listener(world, wrong), partner(world))


@pytest.mark.requirement("R.01.02.02")
def test_a_server_of_an_unknown_authority_is_refused(world):
    """Another authority of the same name; and, without one named, the system's authorities do not know ours."""
    other = Authority.create("cpo.example.org servers", now=NOW, purpose=Purpose.SERVER)
    wrong = certificates.server(other, HOST, now=NOW).save(world.folder, "other_server")
    system = tls.client_context(chain_file=world.client.chain_file, key_file=world.client.key_file)

    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(listener(world, wrong), partner(world))
    with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
        handshake(listener(world), system)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_local_servers_are_known_by_their_address(world, host):
    """As the demo runs them."""
    local = certificates.server(world.servers, "127.0.0.1", "::1", "localhost", now=NOW).save(world.folder, "local")

    handshake(listener(world, local), partner(world), host=host)


# --- cryptography ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.02.04")
def test_two_platforms_choose_what_is_good(world):
    """TLS 1.3 with an authenticated cipher, and nothing compressed."""
    server, _ = handshake(listener(world), partner(world))

    assert server.version() == "TLSv1.3"
    assert server.cipher()[0] in {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}
    assert server.compression() is None


@pytest.mark.requirement("R.01.02.04")
@pytest.mark.parametrize("make", [listener, partner])
def test_what_can_be_offered_is_good_or_sufficient_and_good_comes_first(world, make):
    """The whole list, on either side."""
    context = make(world)
    offered = [cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.2"]
    newest = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] == "TLSv1.3"}

    assert offered == [*policy.CIPHERS_GOOD, *policy.CIPHERS_SUFFICIENT]
    assert newest == {"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256"}
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"])
def test_tls_1_2_is_sufficient(world, cipher):
    """With a good suite or a sufficient one, a partner with older software is let in."""
    client = stranger(world, client=world.client)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)

    server, _ = handshake(listener(world), client)

    assert (server.version(), server.cipher()[0]) == ("TLSv1.2", cipher)


@pytest.mark.requirement("R.01.02.04")
def test_the_listener_prefers_good_suites_whatever_the_client_prefers(world):
    """The order is ours."""
    client = stranger(world, client=world.client)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")

    server, _ = handshake(listener(world), client)

    assert server.cipher()[0] == "ECDHE-ECDSA-AES128-GCM-SHA256"


@pytest.fixture(scope="module")
def rsa_server(world):
    """A server with an RSA key, which could do key exchange by RSA."""
    recipe = replace(
        RIGHT, common_names=[HOST], usages=[certificates.SERVER], key=rsa.generate_private_key(65537, 2048)
    )
    return issued(world.servers, recipe, now=NOW).save(world.folder, "rsa_server")


def test_rsa_certificates_of_2048_bits_are_sufficient(world, rsa_server):
    """Public authorities still issue them to servers."""
    server, _ = handshake(listener(world, rsa_server), partner(world))

    assert server.version() == "TLSv1.3"


@pytest.mark.requirement("R.01.02.04", "R.01.02.05")
@pytest.mark.parametrize(
    "cipher",
    ["AES256-GCM-SHA384", "AES128-SHA", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA"],
)
def test_suites_that_are_to_be_phased_out_are_refused(world, rsa_server, cipher):
    """Key exchange by RSA or unbounded DHE, and SHA-1: by the listener, and by us as a client."""
    client = stranger(world, client=world.client)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(cipher)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    server.set_ciphers(cipher)
    server.load_cert_chain(rsa_server.chain_file, rsa_server.key_file)

    with pytest.raises(ssl.SSLError, match="no shared cipher"):
        handshake(listener(world, rsa_server), client)
    with pytest.raises(ssl.SSLError, match="no shared cipher"):
        handshake(server, partner(world))


@pytest.mark.requirement("R.01.02.04", "R.01.02.05")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_versions_that_are_to_be_phased_out_are_refused(world, version):
    """By the listener, and by us as a client."""
    client = stranger(world, client=world.client)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(world.server.chain_file, world.server.key_file)
    for old in (client, server):
        old.minimum_version = old.maximum_version = version
        old.set_ciphers("ALL:@SECLEVEL=0")

    handshake(server, client)
    with pytest.raises(ssl.SSLError, match="unsupported protocol"):
        handshake(listener(world), client)
    with pytest.raises(ssl.SSLError, match="unsupported protocol"):
        handshake(server, partner(world))


@pytest.mark.requirement("R.01.02.04", "R.01.02.05")
@pytest.mark.parametrize("group", ["ffdhe2048", "secp521r1"])
def test_key_exchange_groups_that_are_not_good_are_refused(world, group):
    """By the listener, and by us as a client; both are among OpenSSL's defaults."""
    client = stranger(world, client=world.client)
    client.set_ecdh_curve(group)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(world.server.chain_file, world.server.key_file)
    server.set_ecdh_curve(group)

    handshake(server, client)
    with pytest.raises(ssl.SSLError, match="no suitable key share"):
        handshake(listener(world), client)
    with pytest.raises(ssl.SSLError, match="no suitable key share"):
        handshake(server, partner(world))


@pytest.mark.requirement("R.01.02.04")
def test_clients_with_other_defaults_find_a_good_group(world):
    """Whoever begins with X25519 is asked for P-256 instead."""
    handshake(listener(world), stranger(world, client=world.client))


@pytest.mark.requirement("R.01.02.05")
def test_a_certificate_with_a_weak_key_is_refused(world):
    """Even if our authority's key had signed it."""
    weak = replace(RIGHT, key=rsa.generate_private_key(65537, 1024))  # noqa: S505  # to be refused
    pair = issued(world.clients, weak, now=NOW).save(world.folder, "weak")
    client = stranger(world)
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.load_cert_chain(pair.chain_file, pair.key_file)

    with pytest.raises(ssl.SSLCertVerificationError, match="too weak"):
        handshake(listener(world), client)
    with pytest.raises(FileProblem, match="too small"):
        partner(world, pair)


def test_nothing_is_resumed(world):
    """Each connection shows its certificate anew, so that one that has expired does not get in again."""
    server, client = listener(world), partner(world)

    _, first = handshake(server, client)
    _, second = handshake(server, client, session=first.session)

    assert not second.session_reused


# --- changing the certificate while running --------------------------------------------------------------------


def serial(connection):
    """Return the serial number that the other end showed."""
    return seen(connection).serial


def test_a_new_certificate_is_presented_from_the_next_handshake_on(world, tmp_path):
    """On both sides, while connections that are open go on."""
    server, client = listener(world), partner(world)
    before = handshake(server, client)
    new_server = certificates.server(world.servers, HOST, now=NOW).save(tmp_path, "server")
    new_client = certificates.client(world.clients, NAME, now=NOW).save(tmp_path, "client")

    tls.reload(server, chain_file=new_server.chain_file, key_file=new_server.key_file)
    tls.reload(client, chain_file=new_client.chain_file, key_file=new_client.key_file)
    after = handshake(server, client)

    assert {serial(before[0]), serial(before[1])}.isdisjoint({serial(after[0]), serial(after[1])})
    assert seen(after[0]).common_name == NAME
    before[0].write(b"still here")
    assert before[1].read() == b"still here"


def test_a_key_and_its_chain_from_one_file_can_be_presented(world, tmp_path):
    """``write_pair`` writes such files."""
    identity = certificates.client(world.clients, NAME, now=NOW)
    path = tmp_path / "client.pem"
    files.write_pair(path, key_pem=identity.key_pem, chain_pem=identity.chain_pem)

    server, _ = handshake(listener(world), partner(world, Files(path, path)))

    assert serial(server) == identity.certificate.serial_number


def broken(world, folder, how):
    """Return files that cannot be used, in one of several ways."""
    good = certificates.server(world.servers, HOST, now=NOW)
    other = certificates.server(world.servers, HOST, now=NOW)
    match how:
        case "mixed":
            return replace(good, key_pem=other.key_pem).save(folder, how)
        case "order":
            return replace(good, chain_pem=world.servers.certificate_pem + good.chain_pem).save(folder, how)
        case "cut":
            return replace(good, chain_pem=good.chain_pem[:300]).save(folder, how)
        case "weak issuer":
            key = rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
            recipe = replace(RIGHT, common_names=["Weak"], hosts=[], usages=[], ca=True, key=key)
            weak = certificates.sign(recipe, now=NOW, issuer_key=key, issuer=None)
            return certificates.sign(RIGHT, now=NOW, issuer_key=key, issuer=weak.certificate).save(folder, how)
        case "open":
            pair = good.save(folder, how)
            pair.key_file.chmod(0o644)
            return pair
        case _:
            return Files(folder / "no.pem", folder / "no.key")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("mixed", "is not for the key"),
        ("order", "does not begin with the certificate"),
        ("cut", "cannot be read"),
        ("weak issuer", "cannot be used"),
        ("open", "chmod 600"),
        ("missing", "No such file"),
    ],
)
def test_a_certificate_that_cannot_be_used_leaves_the_old_one_in_use(world, tmp_path, how, reason):
    """A mistake while renewing closes no door."""
    server, client = listener(world), partner(world)
    before = serial(handshake(server, client)[1])
    pair = broken(world, tmp_path, how)

    with pytest.raises(FileProblem, match=reason):
        tls.reload(server, chain_file=pair.chain_file, key_file=pair.key_file)

    assert serial(handshake(server, client)[1]) == before


def test_another_kind_of_key_takes_a_restart(world, rsa_server):
    """OpenSSL would keep the old certificate beside the new one, and may go on presenting it."""
    with pytest.raises(FileProblem, match="is an RSA key where an ECDSA key is in use: restart"):
        tls.reload(listener(world), chain_file=rsa_server.chain_file, key_file=rsa_server.key_file)


def test_a_context_of_somebody_else_can_be_reloaded_too(world):
    """Nothing is known of its key, so nothing is compared."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    tls.reload(server, chain_file=world.server.chain_file, key_file=world.server.key_file)

    handshake(server, stranger(world))


@pytest.mark.parametrize("text", ["", "good morning"])
def test_a_file_of_authorities_must_have_some(world, tmp_path, text):
    """An empty file would lock everybody out, or on a client let nobody in."""
    empty = tmp_path / "empty.pem"
    empty.write_text(text)

    with pytest.raises(FileProblem, match=r"empty\.pem"):
        tls.server_context(chain_file=world.server.chain_file, key_file=world.server.key_file, client_ca_file=empty)
    with pytest.raises(FileProblem, match=r"empty\.pem"):
        tls.client_context(chain_file=world.client.chain_file, key_file=world.client.key_file, server_ca_file=empty)


# --- who the peer is -------------------------------------------------------------------------------------------


def test_a_peer_without_a_certificate_is_nobody(world):
    """Only a server that asks for none can see that."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(world.server.chain_file, world.server.key_file)

    assert tls.peer_certificate(handshake(server, stranger(world))[0]) is None


@pytest.mark.parametrize("names", [[], [NAME, "hub.example.org"]])
def test_a_peer_with_several_names_or_none_is_refused(world, names):
    """Our authority never issues that; if it ever did, nobody would guess which one counts."""
    recipe = replace(RIGHT, common_names=names, hosts=["a.example"])
    odd = issued(world.clients, recipe, now=NOW).save(world.folder, "odd")

    server, _ = handshake(listener(world), partner(world, odd))

    with pytest.raises(BadCertificate, match=f"{len(names)} common names"):
        tls.peer_certificate(server)


def test_an_authority_of_a_partner_may_be_made_by_hand(world):
    """The server's authority that is named for one partner need not be perfect, as public ones are."""
    key = ed25519.Ed25519PrivateKey.generate()
    recipe = replace(RIGHT, common_names=["By Hand"], hosts=[], usages=[], ca=True, key=key)
    by_hand = certificates.sign(recipe, now=NOW, issuer_key=key, issuer=None)
    server = certificates.sign(
        replace(RIGHT, common_names=[HOST], usages=[certificates.SERVER]),
        now=NOW,
        issuer_key=key,
        issuer=by_hand.certificate,
    ).save(world.folder, "by_hand_server")
    ca_file = world.folder / "by_hand.pem"
    ca_file.write_bytes(by_hand.chain_pem)
    client = tls.client_context(
        chain_file=world.client.chain_file, key_file=world.client.key_file, server_ca_file=ca_file
    )

    handshake(listener(world, server), client)
