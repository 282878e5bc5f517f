"""Chapter 1, connections and certificates: real engines with each other, and one with scripted partners."""

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certs.authority import Authority
from certs.requests import check_request, make_request
from tests.support import certificates
from tests.support.backing import Backing
from tests.support.certificates import Files, Identity
from tests.support.peer import BREAK, HTML, SILENCE, Heard, Peer, World, accept, bare, in_turn, refuse, world
from tests.support.processes import Platform, platforms
from tests.support.replicas import copies, difference, subscribe
from tests.support.wires import TURNED_AWAY, ask_as, check_log, dial, pair_of, request

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapter 1")]

MODULE = "evsestatuses"
STATUSES = (b'{"status":"AVAILABLE"}', b'{"status":"CHARGING"}')
UPDATE = b'{"issuer_party":"NLEMS","id":"A","version":1,"payload":{"status":"AVAILABLE"}}'
OURS, DRAWN = "renew-credentials", "renew-certificate"  # W1: both names are served
SHORT_S = 6.0  # the life of a certificate that a test sees out
NEXT_WITHIN_S = 30.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[tuple[Platform, Platform]]:
    """Two engines that have not met yet; in their logs there is a line for each request."""
    settings = {"OCPI_ENGINE_LOGS__LEVEL": "debug"}
    async with platforms(tmp_path_factory.mktemp("pair"), settings=settings, backing=backing) as made:
        yield made
        for platform in made:
            check_log(platform)


@pytest_asyncio.fixture(loop_scope="module")
async def connected(pair: tuple[Platform, Platform]) -> tuple[Platform, Platform]:
    """Connect the two engines, if they are not."""
    cpo, emsp = pair
    if {await state_of(cpo, emsp.identity), await state_of(emsp, cpo.identity)} != {"connected"}:
        await join(emsp, cpo)
    return pair


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One engine; each test brings its own partner."""
    async with world(tmp_path_factory.mktemp("one"), {"OCPI_ENGINE_LOGS__LEVEL": "debug"}, backing=backing) as made:
        yield made
        check_log(made.engine)


@pytest_asyncio.fixture(loop_scope="module")
async def stranger(one: World) -> AsyncIterator[Peer]:
    """Have a partner exchange certificates with the engine; there was no handshake yet."""
    peer = await one.new_stranger()
    await peer.exchange_certificates(one.engine)
    yield peer
    await one.stop_peers()


@pytest_asyncio.fixture(loop_scope="module")
async def peer(one: World) -> AsyncIterator[Peer]:
    """Have a partner connect to the engine."""
    yield await one.new_peer()
    await one.stop_peers()


# -- what operators and partners do --------------------------------------------------------------------------


async def post(platform: Platform, path: str, order: Any = None) -> httpx.Response:
    """Ask a local API for something that may fail."""
    async with platform.api() as api:
        return await api.post(f"/api/v1{path}", json=order)


async def listed(engine: Platform, what: str, /, **fields: Any) -> list[dict[str, Any]]:
    """List ``certificates``, ``renewals`` or ``platforms`` with these fields."""
    async with engine.api() as api:
        found = (await api.get(f"/api/v1/{what}")).raise_for_status().json()
    return [row for row in found if row | fields == row]


async def reaches(engine: Platform, what: str, count: int = 1, /, **fields: Any) -> list[dict[str, Any]]:
    """Wait until so many are listed; nobody signals what an operator would see."""
    async with asyncio.timeout(NEXT_WITHIN_S):
        while len(found := await listed(engine, what, **fields)) < count:
            await asyncio.sleep(0.05)
    return found


async def state_of(platform: Platform, partner: str) -> str | None:
    """Say how far the connection with a partner is."""
    found = await listed(platform, "platforms", identity=partner)
    return found[0]["state"] if found else None


async def join(a: Platform, b: Platform) -> None:
    """Exchange new certificates both ways and make the handshake from ``a`` to ``b``, by the local API."""
    for platform, partner in ((a, b), (b, a)):
        await post(platform, f"/platforms/{partner.identity}/reset", {})
    for asker, signer in ((a, b), (b, a)):
        asked = (await post(asker, "/certificates/request", {"platform": signer.identity})).raise_for_status()
        order = {"csr": asked.json()["csr"], "confirmed": True}
        signed = (await post(signer, "/certificates/sign", order)).raise_for_status()
        order = {
            "platform": signer.identity,
            "chain": signed.json()["chain"],
            "server_ca": signer.server_ca.read_text(),
        }
        (await post(asker, "/certificates/install", order)).raise_for_status()
    answer = (await post(a, f"/platforms/{b.identity}/connect", {"base_url": b.base_url})).raise_for_status()
    assert answer.json()["state"] == "connected", answer.text


def offer(peer: Peer, **changes: Any) -> dict[str, Any]:
    """Write a partner's handshake."""
    return {"version": "3.0", "request_timeout": peer.timeout_ms, "base_url": peer.base_url} | changes


async def in_vain(engine: Platform, files: Files) -> None:
    """See that a client certificate opens no path any more."""
    for verb, path, body in (
        ("GET", "/versions", None),
        ("GET", "/parties", None),
        ("POST", "/connection", b"{}"),
        ("POST", "/connection/bye", None),
        ("POST", f"/connection/{OURS}", b"{}"),
        ("POST", "/from/NLEMS/to/BEBEC/evsestatuses/update", UPDATE),
    ):
        answer = await ask_as(engine, files, verb, path, body)
        assert (answer.status, json.loads(answer.body)["status_code"]) == (403, 2000), path


# -- 01.01 and 01.03 -----------------------------------------------------------------------------------------


@pytest.mark.requirement(
    "R.01.01.01", "R.01.01.05", "R.01.01.07", "R.01.02.02", "R.01.02.03", "R.01.03.01", "R.01.03.02", "R.01.03.06"
)
async def test_certificates_are_exchanged_by_files_and_a_handshake_connects(
    pair: tuple[Platform, Platform], tmp_path: Path
):
    """The operators' commands, in order: request, sign, install, both ways, then connect; both see it, and parties."""
    cpo, emsp = pair
    for asker, signer in ((emsp, cpo), (cpo, emsp)):
        csr, chain = tmp_path / f"{asker.identity}.csr", tmp_path / f"{asker.identity}.pem"
        await asker.command("certificate request", signer.identity, "--out", str(csr))
        asked = x509.load_pem_x509_csr(csr.read_bytes())
        assert common_name(asked.subject) == asker.identity
        usage = asked.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        said = await signer.command("certificate sign", str(csr), code=1)
        assert "--confirmed" in said
        await signer.command("certificate sign", str(csr), "--confirmed", "--out", str(chain))
        issued = x509.load_pem_x509_certificates(chain.read_bytes())
        assert common_name(issued[0].subject) == asker.identity
        assert issued[0].public_key() == asked.public_key()
        assert list(issued[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == list(usage)
        issued[0].verify_directly_issued_by(issued[1])
        if asker is emsp:
            said = await emsp.command("connect", cpo.base_url, "--identity", cpo.identity, code=1)
            assert "has not issued a certificate" in said
        await asker.command("certificate install", signer.identity, str(chain), "--server-ca", str(signer.server_ca))

    await emsp.command("connect", cpo.base_url, "--identity", cpo.identity)

    for platform, partner in ((cpo, emsp), (emsp, cpo)):
        assert await state_of(platform, partner.identity) == "connected"
        (party,) = json.loads(await platform.command("parties list", "--of", partner.identity, "--refresh", "--json"))
        assert party["party_id"] == partner.party
        assert "speaks 3.0" in await platform.command("platforms", "--versions", partner.identity)
        private = [file for file in (platform.folder / "keys").iterdir() if "PRIVATE" in file.read_text()]
        assert {file.stat().st_mode & 0o777 for file in private} == {0o600}
    said = await emsp.command("connect", cpo.base_url, "--identity", cpo.identity, code=1)
    assert "connected already" in said


def common_name(name: x509.Name) -> str:
    """Read the one common name."""
    (found,) = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found.value)


@pytest.mark.requirement(
    "R.01.02.01", "R.01.03.02", "R.01.03.03", "R.01.03.04", "R.01.03.05", "R.01.06.01", "R.01.06.02"
)
async def test_our_handshake(one: World, stranger: Peer):
    """POST <base URL>/connection with version 3.0, our base URL and time-out, over TLS as ourselves; so is versions."""
    said = await one.engine.command("connect", stranger.base_url, "--identity", stranger.identity, "--json")
    assert json.loads(said)["state"] == "connected"
    (heard,) = stranger.of("/connection")
    assert (heard.method, heard.common_name) == ("POST", one.engine.identity)
    assert heard.json == {"version": "3.0", "request_timeout": 5000, "base_url": one.engine.base_url}
    assert [shown["party_id"] for shown in json.loads(said)["parties"]] == [stranger.party]
    said = await one.engine.command("platforms", "--versions", stranger.identity, "--json")
    assert json.loads(said) == {"versions": [{"version": "3.0", "url": stranger.base_url}]}
    (heard,) = stranger.of("/versions")
    assert (heard.method, heard.common_name) == ("GET", one.engine.identity)


@pytest.mark.requirement("R.01.03.06", "R.01.03.07", "R.01.03.08", "R.01.06.03")
async def test_a_partner_s_handshake(one: World, stranger: Peer):
    """Before it there are only the versions; then it is answered with our parameters, and once more if repeated."""
    versions = await stranger.ask("GET", "/versions")
    assert (versions.status, versions.json) == (200, {"versions": [{"version": "3.0", "url": one.engine.base_url}]})
    assert (await stranger.ask("GET", "/parties")).status == 403
    for _ in range(2):  # B19: its answer may have been lost
        answer = await stranger.ask("POST", "/connection", offer(stranger))
        assert (answer.status, answer.json) == (200, {"request_timeout": 5000})
    assert await state_of(one.engine, stranger.identity) == "connected"
    assert (await stranger.ask("POST", "/connection", offer(stranger, request_timeout=2000))).status == 409
    assert (await stranger.ask("GET", "/parties")).status == 200
    again = await stranger.ask("POST", "/connection", offer(stranger))
    assert (again.status, again.code) == (409, 2000)
    assert "connected" in again.json["status_message"]
    assert await state_of(one.engine, stranger.identity) == "connected"


@pytest.mark.requirement("R.01.03.09", "R.01.03.01")
async def test_handshakes_that_are_a_conflict(one: World, stranger: Peer):
    """Another version, an unbearable time-out, no https: 409 says what we take, and the next offer is taken."""
    for changes, words in (
        ({"version": "2.2.1"}, "3.0"),
        ({"version": "3.1"}, "3.0"),
        ({"request_timeout": 999}, "request_timeout"),
        ({"request_timeout": 120_001}, "request_timeout"),
        ({"base_url": stranger.base_url.replace("https", "http")}, "https"),
    ):
        answer = await stranger.ask("POST", "/connection", offer(stranger, **changes))
        assert (answer.status, answer.code) == (409, 2000), changes
        assert words in answer.json["status_message"]
    assert await state_of(one.engine, stranger.identity) == "new"
    assert (await stranger.ask("POST", "/connection", offer(stranger))).status == 200


async def test_a_handshake_before_our_certificate_is_installed_is_a_conflict(one: World):
    """The engine could not ask back: 409 says what is missing, and no connection came of it."""
    peer = await one.new_stranger()
    peer.engine = one.engine
    key, csr = make_request(peer.identity)
    signed = await one.api("POST", "/certificates/sign", {"csr": csr.decode(), "confirmed": True})
    await peer.use(Identity(key, signed["chain"].encode()).save(peer.folder, "client"))
    answer = await peer.ask("POST", "/connection", offer(peer))
    assert (answer.status, answer.code) == (409, 2000)
    assert "certificate" in answer.json["status_message"]
    assert await state_of(one.engine, peer.identity) == "new"
    await one.stop_peers()


@pytest.mark.parametrize("reply", [refuse(2000, status=409, message="not with you"), refuse(2001, message="what?")])
async def test_a_handshake_of_ours_that_is_refused(one: World, stranger: Peer, reply: Any):
    """The operator hears it with the partner's words, nothing is repeated, and it can be tried again."""
    stranger.script["/connection"] = in_turn(reply, bare({"request_timeout": 1000}))
    said = await one.engine.command("connect", stranger.base_url, "--identity", stranger.identity, code=1)
    assert json.loads(reply.body)["status_message"] in said
    assert await state_of(one.engine, stranger.identity) == "new"
    await one.engine.command("connect", stranger.base_url, "--identity", stranger.identity)
    assert len(stranger.of("/connection")) == 2


@pytest.mark.parametrize("reply", [BREAK, HTML, refuse(3000, status=503)])
async def test_a_handshake_of_ours_without_an_answer_is_repeated(one: World, stranger: Peer, reply: Any):
    """The same bytes again until there is an answer, since the partner may have accepted already (B19)."""
    stranger.script["/connection"] = in_turn(reply, bare({"request_timeout": 1000}))
    answer = await post(one.engine, f"/platforms/{stranger.identity}/connect", {"base_url": stranger.base_url})
    assert answer.json()["state"] == "connecting"
    first, second = await stranger.heard("/connection", 2)
    assert first.body == second.body
    await reaches(one.engine, "platforms", identity=stranger.identity, state="connected")


@pytest.mark.requirement("R.01.02.02")
async def test_a_server_that_nobody_vouches_for_hears_nothing(one: World, stranger: Peer):
    """A right name and another authority: the engine sends no request, and shows why."""
    strange = Authority.create("someone else", now=time.time()).certificate_pem.decode()
    order = {"base_url": stranger.base_url, "server_ca": strange}
    answer = await post(one.engine, f"/platforms/{stranger.identity}/connect", order)
    assert answer.json()["state"] == "connecting"
    assert "certificate" in answer.json()["last_error"].lower()
    assert stranger.requests == []


# -- who is let in -------------------------------------------------------------------------------------------


def wrong(engine: Platform, peer: Peer, kind: str, folder: Path) -> Files | None:
    """Make a client certificate that is wrong in one way, or none."""
    ours = Authority.load(engine.folder / "authority")
    now, name = time.time(), peer.identity
    made: dict[str, Callable[[], Identity]] = {
        "of another authority": lambda: certificates.of_another_authority(ours, name, now=now),
        "self-signed": lambda: certificates.self_signed(name, now=now),
        "out of date": lambda: certificates.expired(ours, name, now=now),
        "not yet valid": lambda: certificates.not_yet_valid(ours, name, now=now),
        "for servers": lambda: certificates.wrong_usage(ours, name, now=now),
        "issued by another platform": lambda: certificates.client(peer.clients, name, now=now),
        "not on record": lambda: certificates.client(ours, name, now=now),
        "not on record, another name": lambda: certificates.client(ours, "other.example.org", now=now),
        "not on record, our own name": lambda: certificates.client(ours, engine.identity, now=now),
    }
    return None if kind == "none" else made[kind]().save(folder, "wrong")


@pytest.mark.requirement("R.01.02.03")
@pytest.mark.parametrize(
    ("kind", "by_tls"),
    [
        ("none", True),
        ("of another authority", True),
        ("self-signed", True),
        ("out of date", True),
        ("not yet valid", True),
        ("for servers", True),
        ("issued by another platform", True),
        ("not on record", False),
        ("not on record, another name", False),
        ("not on record, our own name", False),
    ],
)
async def test_a_wrong_client_certificate_opens_nothing(
    one: World, peer: Peer, tmp_path: Path, kind: str, *, by_tls: bool
):
    """Whatever is wrong with it: TLS refuses, or every path is 403; a line of the log says so, and others go on."""
    files = wrong(one.engine, peer, kind, tmp_path)
    if by_tls:
        for path in ("/versions", "/connection"):
            with pytest.raises(TURNED_AWAY):
                await ask_as(one.engine, files, "GET", path)
    else:
        assert files is not None
        await in_vain(one.engine, files)
    # What TLS refuses shares one line a second, so it need not be this one's.
    said = one.engine.log.read_text()
    assert ("action=tls_refused" if by_tls else "action=certificate_refused") in said
    assert (await peer.ask("GET", "/parties")).status == 200


@pytest.mark.requirement("R.01.02.03")
async def test_a_certificate_that_was_ended_is_refused_on_open_connections_too(one: World, peer: Peer):
    """From the next request on; another one of the same platform goes on, and the state shows who came with it."""
    old = peer.client_files
    new = await renewed(peer, "ended-1")
    async with dial(one.engine, old) as wire:
        assert (await wire.ask(request("GET", "/ocpi/parties"))).status == 200
        await one.engine.command("certificate end", serial(old), "--reason", "key lost")
        refused = await wire.ask(request("GET", "/ocpi/parties"))
    assert refused.status == 403
    assert "key lost" in json.loads(refused.body)["status_message"]
    await in_vain(one.engine, old)
    assert (await ask_as(one.engine, new, "GET", "/parties")).status == 200
    (shown,) = [shown for shown in (await one.engine.state())["platforms"] if shown["identity"] == peer.identity]
    assert shown["security_events"]["certificate_refused"]["count"] >= 7


def serial(files: Files) -> str:
    """Read the serial number of a certificate, as operators see it."""
    return f"{Identity(b'', files.chain_file.read_bytes()).certificate.serial_number:x}"


# -- 01.04, asked for by the partner -------------------------------------------------------------------------


def callback(name: str) -> str:
    """Name the path of a callback, as the engine makes it (W1)."""
    return f"/connection/{OURS}/{name}"


async def renewed(peer: Peer, name: str, path: str = OURS) -> Files:
    """Have a partner ask for a new certificate, and return it with its key."""
    key, csr = make_request(peer.identity)
    answer = await peer.ask("POST", f"/connection/{path}", {"csr": csr.decode(), "callbackId": name})
    assert answer.status == 200, answer.body
    heard = (await peer.heard(callback(name)))[-1]
    return Identity(key, heard.json["certificateChain"].encode()).save(peer.folder, name)


@pytest.mark.requirement("R.01.04.04", "R.01.04.05", "R.01.04.07", "R.01.04.08")
@pytest.mark.parametrize("path", [OURS, DRAWN])
async def test_a_partner_renews_its_certificate(one: World, peer: Peer, path: str):
    """The new one comes to its callback, until it is taken; old and new are both good from then on."""
    name = f"id-{path}"
    peer.script[callback(name)] = in_turn(BREAK, HTML, accept())
    old = peer.client_files
    new = await renewed(peer, name, path)
    heard = await peer.heard(callback(name), 3)
    assert {(one.method, one.body) for one in heard} == {("POST", heard[0].body)}, "the same certificate each time"
    assert heard[0].common_name == one.engine.identity
    chain = x509.load_pem_x509_certificates(new.chain_file.read_bytes())
    assert common_name(chain[0].subject) == peer.identity
    chain[0].verify_directly_issued_by(chain[1])
    for files in (old, new):
        assert (await ask_as(one.engine, files, "GET", "/parties")).status == 200
    await reaches(one.engine, "renewals", platform=peer.identity, asked_by_us=False, state="renewed")
    assert len(await listed(one.engine, "certificates", platform=peer.identity, issued_here=True)) == 2


@pytest.mark.requirement("R.01.04.04", "R.01.04.05", "R.01.04.06", "R.01.04.09", "R.01.04.10")
@pytest.mark.parametrize("asked_for", ["other.example.org", "no request"])
async def test_a_renewal_that_is_refused(one: World, peer: Peer, asked_for: str):
    """A request for another name, or none at all: no certificate, and the reason comes to the callback."""
    csr = asked_for if asked_for == "no request" else make_request(asked_for)[1].decode()
    answer = await peer.ask("POST", f"/connection/{OURS}", {"csr": csr, "callbackId": "refused-1"})
    assert answer.status == 200
    (heard,) = await peer.heard(callback("refused-1"))
    assert heard.json["reason"]
    assert "certificateChain" not in heard.json
    (shown,) = await reaches(one.engine, "renewals", platform=peer.identity, state="refused")
    assert shown["reason"] == heard.json["reason"]
    assert len(await listed(one.engine, "certificates", platform=peer.identity, issued_here=True)) == 1
    assert (await peer.ask("GET", "/parties")).status == 200


def odd_request(kind: str, name: str) -> str:
    """Write a certificate signing request that must not be signed."""
    right = make_request(name)[1].decode()
    if kind == "bad signature":
        lines = right.splitlines()
        der = bytearray(base64.b64decode("".join(lines[1:-1])))
        der[-1] ^= 1
        return "\n".join([lines[0], base64.b64encode(der).decode(), lines[-1], ""])
    if kind == "huge":
        return right + "#" * 1_000_000
    key: certificates.Key = ec.generate_private_key(ec.SECP256R1())
    if kind == "weak key":
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is what is wrong with it
    names = {"two names": [name, "other.example.org"], "no domain name": ["../../etc"], "no name": []}.get(kind, [name])
    usage = ExtendedKeyUsageOID.SERVER_AUTH if kind == "for servers" else ExtendedKeyUsageOID.CLIENT_AUTH
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in names])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.requirement("R.01.01.05", "R.01.01.07")
@pytest.mark.parametrize(
    "kind", ["bad signature", "weak key", "for servers", "two names", "no domain name", "no name", "huge"]
)
async def test_odd_requests_are_not_signed(one: World, peer: Peer, kind: str):
    """Neither for the operator, who is told why, nor when a partner asks for a renewal."""
    text = odd_request(kind, peer.identity)
    refused = await post(one.engine, "/certificates/sign", {"csr": text, "confirmed": True})
    assert refused.is_client_error
    assert refused.json()["error"]["message"]
    answer = await peer.ask("POST", f"/connection/{OURS}", {"csr": text, "callbackId": "odd-1"})
    if kind == "huge":
        assert (answer.status, answer.code, answer.fields) == (200, 2001, {"/csr"})
    else:
        assert answer.status == 200
        (heard,) = await peer.heard(callback("odd-1"))
        assert heard.json.keys() == {"reason"}
    assert len(await listed(one.engine, "certificates", platform=peer.identity)) == 2
    assert (await peer.ask("GET", "/parties")).status == 200


# -- 01.04, asked for by us ----------------------------------------------------------------------------------


def signed(peer: Peer, asked: Heard) -> dict[str, str]:
    """Issue what the engine asked for, as a partner answers it."""
    checked = check_request(asked.json["csr"].encode())
    return {"certificateChain": peer.clients.issue_client(checked, now=time.time()).pem_chain.decode()}


async def call_back(peer: Peer, asked: Heard, body: Any) -> int:
    """Answer a renewal request of the engine; returns the HTTP status."""
    return (await peer.ask("POST", callback(asked.json["callbackId"]), body)).status


@pytest.mark.requirement("R.01.04.01", "R.01.04.02", "R.01.04.03")
async def test_we_renew_our_certificate(one: World, peer: Peer):
    """A new key's request to <base URL>/connection/renew-credentials; what comes back is used from then on."""
    await peer.refresh_parties()
    old = peer.of("/parties")[-1].serial
    said = await one.engine.command("certificate renew", peer.identity)
    assert "waiting" in said
    (asked,) = peer.of(f"/connection/{OURS}")
    assert (asked.method, asked.common_name, asked.serial) == ("POST", one.engine.identity, old)
    assert asked.json.keys() == {"csr", "callbackId"}
    csr = x509.load_pem_x509_csr(asked.json["csr"].encode())
    assert common_name(csr.subject) == one.engine.identity
    other = {
        "certificateChain": certificates.client(peer.clients, one.engine.identity, now=time.time()).chain_pem.decode()
    }
    answer = await peer.ask("POST", callback(asked.json["callbackId"]), other)
    assert (answer.status, answer.code, answer.fields) == (200, 2001, {"/certificateChain"})
    await peer.refresh_parties()
    assert peer.of("/parties")[-1].serial == old, "a certificate for another key changed nothing"

    body = signed(peer, asked)
    assert await call_back(peer, asked, body) == 200
    await peer.refresh_parties()
    (issued, *_) = x509.load_pem_x509_certificates(body["certificateChain"].encode())
    assert f"{issued.serial_number:x}" == peer.of("/parties")[-1].serial != old
    assert await call_back(peer, asked, body) == 200, "a repeat is the same success"
    assert await call_back(peer, asked, signed(peer, asked)) == 404
    assert (await peer.ask("POST", callback("nobody-asked"), body)).status == 404


async def test_our_renewal_is_refused_with_a_reason(one: World, peer: Peer):
    """The reason is shown, and the certificate that we have stays in use."""
    await peer.refresh_parties()
    old = peer.of("/parties")[-1].serial
    await one.engine.command("certificate renew", peer.identity)
    (asked,) = peer.of(f"/connection/{OURS}")
    assert await call_back(peer, asked, {"reason": "your contract ends next week"}) == 200
    (shown,) = await listed(one.engine, "renewals", platform=peer.identity, state="refused")
    assert shown["reason"] == "your contract ends next week"
    said = await one.engine.command("certificate show", "--json")
    assert "your contract ends next week" in said
    await peer.refresh_parties()
    assert peer.of("/parties")[-1].serial == old
    peer.script[f"/connection/{OURS}"] = lambda _heard: refuse(2000, message="ask my boss")
    assert "ask my boss" in await one.engine.command("certificate renew", peer.identity, code=1)


# -- 01.04, while there is traffic ---------------------------------------------------------------------------


@dataclass
class Traffic:
    """What went both ways."""

    published: int = 0
    asked: int = 0


@asynccontextmanager
async def traffic(cpo: Platform, emsp: Platform) -> AsyncIterator[Traffic]:
    """Have updates go one way and questions the other, all the time, and see that none of them is refused."""
    before = [len(platform.log.read_text()) for platform in (cpo, emsp)]
    failed = await failures(cpo)
    seen, ended = Traffic(), asyncio.Event()

    async def publish() -> None:
        while not ended.is_set():
            seen.published += 1
            await cpo.publish(MODULE, {f"E{seen.published % 7}": STATUSES[seen.published % 2]})
            await asyncio.sleep(0.02)  # others need this machine, too

    async def ask() -> None:
        async with emsp.api() as api:
            while not ended.is_set():
                answer = await api.get(f"/api/v1/platforms/{cpo.identity}/versions")
                assert answer.status_code == httpx.codes.OK, answer.text
                seen.asked += 1
                await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(publish()), asyncio.create_task(ask())]
    try:
        yield seen
    finally:
        ended.set()
        await asyncio.gather(*tasks)
    await cpo.drained()
    assert difference(await copies(cpo, "issued", MODULE), await copies(emsp, "received", MODULE)) == []
    assert await failures(cpo) == failed
    for platform, start in zip((cpo, emsp), before, strict=True):
        said = platform.log.read_text()[start:]
        assert "certificate_refused" not in said
        assert "tls_refused" not in said
        assert "status=403" not in said


async def failures(platform: Platform) -> int:
    """Count the attempts that failed since the start."""
    return sum(one["failed_since_start"] for one in (await platform.state())["subscriptions_here"])


async def grows(seen: Traffic) -> None:
    """Wait until some more went both ways."""
    published, asked = seen.published + 5, seen.asked + 5
    async with asyncio.timeout(NEXT_WITHIN_S):
        while seen.published < published or seen.asked < asked:
            await asyncio.sleep(0.02)


@pytest.mark.requirement("R.01.04.01", "R.01.04.02", "R.01.04.03", "R.01.04.04", "R.01.04.07", "R.01.04.08")
async def test_either_side_renews_without_a_refused_request(connected: tuple[Platform, Platform]):
    """By command, first one side, then the other, while updates go one way and questions the other."""
    cpo, emsp = connected
    await subscribe(emsp, cpo, MODULE)
    async with traffic(cpo, emsp) as seen:
        for asker, issuer in ((cpo, emsp), (emsp, cpo)):
            await grows(seen)
            before = pair_of(asker, issuer)
            count = len(await listed(asker, "renewals", asked_by_us=True, state="renewed"))
            await asker.command("certificate renew", issuer.identity)
            await reaches(asker, "renewals", count + 1, asked_by_us=True, state="renewed")
            await reaches(issuer, "renewals", count + 1, asked_by_us=False, state="renewed")
            assert serial(pair_of(asker, issuer)) != serial(before)
            await grows(seen)


@pytest.mark.requirement("R.01.04.01", "R.01.04.04", "R.01.04.07")
async def test_certificates_renew_themselves_without_a_refused_request(connected: tuple[Platform, Platform]):
    """Certificates that live for seconds follow each other on both sides, beyond the end of the first ones (B37)."""
    cpo, emsp = connected
    await subscribe(emsp, cpo, MODULE)
    short = {
        "OCPI_ENGINE_CERTIFICATES__LIFETIME_DAYS": str(SHORT_S / 86_400),
        "OCPI_ENGINE_CERTIFICATES__CHECK_S": "0.5",
    }
    try:
        await asyncio.gather(cpo.stop(), emsp.stop())
        await asyncio.gather(cpo.start(**short), emsp.start(**short))
        for asker, issuer in ((cpo, emsp), (emsp, cpo)):  # what they have lives for a year
            count = len(await listed(asker, "renewals", asked_by_us=True, state="renewed"))
            (await post(asker, f"/platforms/{issuer.identity}/renew")).raise_for_status()
            await reaches(asker, "renewals", count + 1, asked_by_us=True, state="renewed")
        first = pair_of(emsp, cpo)
        async with dial(cpo, first) as wire:
            assert (await wire.ask(request("GET", "/ocpi/parties"))).status == 200
            async with traffic(cpo, emsp) as seen:
                for asker in connected:
                    begun = len(await listed(asker, "renewals", asked_by_us=True, state="renewed"))
                    await reaches(asker, "renewals", begun + 3, asked_by_us=True, state="renewed")
                    await reaches(asker, "certificates", issued_here=False, state="expired")
                await grows(seen)
                for asker in connected:
                    assert not await listed(asker, "renewals", state="refused")
            refused = await wire.ask(request("GET", "/ocpi/parties"))  # TLS looks at dates once, the engine each time
            assert (refused.status, "out of date" in json.loads(refused.body)["status_message"]) == (403, True)
        with pytest.raises(TURNED_AWAY):
            await ask_as(cpo, first, "GET", "/parties")
    finally:
        await asyncio.gather(cpo.stop(), emsp.stop())
        await asyncio.gather(cpo.start(), emsp.start())


# -- 01.05 ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.05.02", "R.01.05.03", "R.01.05.04")
@pytest.mark.parametrize("who", ["cpo", "emsp"])
async def test_a_bye_ends_everything_but_the_copies(pair: tuple[Platform, Platform], who: str):
    """Both refuse the other's certificates, also after a restart; subscriptions end; copies stay, and are stale."""
    cpo, emsp = pair
    await join(emsp, cpo)  # with certificates that outlive the test: what is out of date is refused by TLS already
    await subscribe(emsp, cpo, MODULE)
    await cpo.publish(MODULE, {"KEPT": STATUSES[0]})
    await cpo.drained()
    kept = await copies(emsp, "received", MODULE)
    assert difference(await copies(cpo, "issued", MODULE), kept) == []
    certificate_of = {emsp: pair_of(emsp, cpo), cpo: pair_of(cpo, emsp)}
    one, other = (cpo, emsp) if who == "cpo" else (emsp, cpo)

    await one.command("disconnect", other.identity, "--reason", "contract ended")

    await reaches(other, "platforms", identity=one.identity, state="ended", end_reason="bye by the partner")
    assert await listed(one, "platforms", identity=other.identity, state="ended", end_reason="contract ended")
    await in_vain(cpo, certificate_of[emsp])
    await in_vain(emsp, certificate_of[cpo])
    for platform in (one, other):
        assert {row["state"] for row in await listed(platform, "certificates")} <= {"ended", "expired"}
        await platform.kill()
        await platform.start()
    await in_vain(cpo, certificate_of[emsp])
    await in_vain(emsp, certificate_of[cpo])
    assert {row["state"] for row in (await cpo.state())["subscriptions_here"]} == {"ended"}
    assert {row["state"] for row in (await emsp.state())["subscriptions_of_ours"]} == {"ended"}
    assert (await cpo.state())["stuck"] == (await emsp.state())["stuck"] == []
    assert await copies(emsp, "received", MODULE) == kept
    assert await stale(emsp) == {True}
    assert "new certificates" in await one.command("connect", other.base_url, "--identity", other.identity, code=1)

    await join(one, other)
    await subscribe(emsp, cpo, MODULE)
    await cpo.publish(MODULE, {"KEPT": STATUSES[1]})
    await cpo.drained()
    assert difference(await copies(cpo, "issued", MODULE), await copies(emsp, "received", MODULE)) == []
    assert await stale(emsp) == {False}


async def stale(platform: Platform) -> set[bool]:
    """Say whether the copies are stale."""
    async with platform.api() as api:
        page = (await api.get(f"/api/v1/received/{MODULE}")).raise_for_status().json()
    return {one["stale"] for one in page["objects"]}


@pytest.mark.requirement("R.01.05.03")
async def test_a_partner_says_bye(one: World, peer: Peer):
    """It is answered, and then refused everywhere; nothing is sent to it any more; it begins with a new certificate."""
    cpo, emsp = await one.new_party("CPO"), await one.new_party("EMSP")
    assert (await peer.subscribe(cpo, MODULE)).code == 1000
    await one.api("POST", "/subscriptions", {"subscriber": emsp, "producer": peer.party, "module": MODULE})
    await peer.update(emsp, MODULE, "A", 1, STATUSES[0])
    answer = await peer.ask("POST", "/connection/bye")
    assert answer.status == 200
    await in_vain(one.engine, peer.client_files)
    assert (await peer.ask("POST", "/connection", offer(peer))).status == 403, "on the open connection, too"
    assert ((await one.here(cpo))["state"], (await one.ours(emsp))["state"]) == ("ended", "ended")
    assert await one.received(MODULE, emsp) == {"A": (1, STATUSES[0])}
    heard = len(peer.requests)
    await one.publish(cpo, MODULE, {"B": STATUSES[0]})
    assert (await post(one.engine, f"/platforms/{peer.identity}/parties/refresh")).is_error
    assert len(peer.requests) == heard

    await peer.use(peer.client_files)
    await peer.exchange_certificates(one.engine)
    await peer.use(peer.client_files)
    assert (await peer.ask("POST", "/connection", offer(peer))).status == 200
    assert (await peer.subscribe(cpo, MODULE)).code == 1000
    await peer.updated(["B"])


@pytest.mark.requirement("R.01.05.01", "R.01.05.02", "R.01.05.04")
async def test_we_say_bye(one: World, peer: Peer):
    """POST <base URL>/connection/bye; until it is answered nothing changes, and then the partner is refused."""
    peer.script["/connection/bye"] = in_turn(BREAK, refuse(3000, status=500), accept())
    for _ in range(2):
        await one.engine.command("disconnect", peer.identity, code=1)
        assert (await peer.ask("GET", "/parties")).status == 200
    await one.engine.command("disconnect", peer.identity)
    heard = await peer.heard("/connection/bye", 3)
    assert {(one.method, one.common_name) for one in heard} == {("POST", one.engine.identity)}
    await in_vain(one.engine, peer.client_files)
    assert (await peer.ask("GET", "/parties")).status == 403


async def test_a_partner_that_is_gone_is_ended_on_our_side(one: World, peer: Peer):
    """A bye that reaches nobody changes nothing and names the way out; a 403 is as good as an answer."""
    other = await one.new_peer()
    await peer.close()
    assert "reset" in await one.engine.command("disconnect", peer.identity, code=1)
    assert await state_of(one.engine, peer.identity) == "connected"
    await one.engine.command("disconnect", peer.identity, "--reset")
    await in_vain(one.engine, peer.client_files)
    other.script["/connection/bye"] = lambda _heard: refuse(2000, status=403)
    await one.engine.command("disconnect", other.identity)
    await in_vain(one.engine, other.client_files)


# -- kill -9 -------------------------------------------------------------------------------------------------


async def killed(engine: Platform) -> None:
    """Kill it without a word, and start it again."""
    await engine.kill()
    await engine.start()


async def test_killed_while_our_handshake_is_on_its_way(one: World, stranger: Peer):
    """It is stored before it is sent: after the restart the same bytes go out again, and both are connected."""
    stranger.script["/connection"] = in_turn(SILENCE, bare({"request_timeout": 1000}))
    connecting = asyncio.create_task(
        post(one.engine, f"/platforms/{stranger.identity}/connect", {"base_url": stranger.base_url})
    )
    await stranger.heard("/connection")
    await killed(one.engine)
    with contextlib.suppress(httpx.TransportError):
        await connecting
    first, second = await stranger.heard("/connection", 2)
    assert first.body == second.body
    await reaches(one.engine, "platforms", identity=stranger.identity, state="connected")
    assert (await stranger.ask("GET", "/parties")).status == 200


@pytest.mark.parametrize("turn", range(3))
async def test_killed_while_a_handshake_is_answered(one: World, stranger: Peer, turn: int):
    """At any moment: the partner repeats it and is accepted, and connected only once; then it is a conflict."""
    await stranger.ask("GET", "/versions")  # so that there is a connection
    asking = asyncio.create_task(stranger.ask("POST", "/connection", offer(stranger)))
    await asyncio.sleep(random.Random(turn).uniform(0, 0.03))
    await killed(one.engine)
    with contextlib.suppress(Exception):  # the answer, or whatever is left of it
        await asking
    answer = await stranger.ask("POST", "/connection", offer(stranger))
    assert (answer.status, answer.json) == (200, {"request_timeout": 5000})
    assert await state_of(one.engine, stranger.identity) == "connected"
    assert (await stranger.ask("GET", "/parties")).status == 200
    assert (await stranger.ask("POST", "/connection", offer(stranger))).status == 409


async def test_killed_while_our_renewal_is_on_its_way(one: World, peer: Peer):
    """Key and callback are stored: it is asked for once more, and the certificate that comes is used, for good."""
    peer.script[f"/connection/{OURS}"] = in_turn(SILENCE, accept())
    renewing = asyncio.create_task(post(one.engine, f"/platforms/{peer.identity}/renew"))
    await peer.heard(f"/connection/{OURS}")
    await killed(one.engine)
    with contextlib.suppress(httpx.TransportError):
        await renewing
    first, second = await peer.heard(f"/connection/{OURS}", 2)
    assert first.json == second.json
    body = signed(peer, first)
    assert await call_back(peer, first, body) == 200
    await killed(one.engine)
    await peer.refresh_parties()
    (issued, *_) = x509.load_pem_x509_certificates(body["certificateChain"].encode())
    assert peer.of("/parties")[-1].serial == f"{issued.serial_number:x}"
    assert await call_back(peer, first, body) == 200, "the partner may not have our answer"


async def test_killed_while_a_partner_s_renewal_is_answered(one: World, peer: Peer):
    """What was taken is stored: one certificate is issued, and delivered until the partner has it."""
    peer.script[callback("killed-1")] = in_turn(SILENCE, accept())
    key, csr = make_request(peer.identity)
    body = {"csr": csr.decode(), "callbackId": "killed-1"}
    assert (await peer.ask("POST", f"/connection/{OURS}", body)).status == 200
    await peer.heard(callback("killed-1"))
    await killed(one.engine)
    first, second = await peer.heard(callback("killed-1"), 2)
    assert first.body == second.body
    await reaches(one.engine, "renewals", platform=peer.identity, asked_by_us=False, state="renewed")
    assert len(await listed(one.engine, "certificates", platform=peer.identity, issued_here=True)) == 2
    assert (await peer.ask("POST", f"/connection/{OURS}", body)).status == 200, "a repeat of the request is known"
    new = Identity(key, first.json["certificateChain"].encode()).save(peer.folder, "new")
    assert (await ask_as(one.engine, new, "GET", "/parties")).status == 200


async def test_killed_while_we_say_bye(one: World, peer: Peer):
    """Nothing changed here, so it is said again; that the partner refuses us already is as good as an answer."""
    peer.script["/connection/bye"] = in_turn(SILENCE, refuse(2000, status=403))
    leaving = asyncio.create_task(post(one.engine, f"/platforms/{peer.identity}/disconnect", {}))
    await peer.heard("/connection/bye")
    await killed(one.engine)
    with contextlib.suppress(httpx.TransportError):
        await leaving
    assert (await peer.ask("GET", "/parties")).status == 200
    await one.engine.command("disconnect", peer.identity)
    await in_vain(one.engine, peer.client_files)
