"""Connections between two whole platforms over TLS: how they begin, what they allow, and how they end."""

import asyncio
import hashlib
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.peers.client import FailureKind, PeerFailure
from engine.protocol.registration import offer_body
from engine.refusals import NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.registration.folder import make_folder
from engine.settings import BadSettings, PlatformFolder
from engine.store import platforms as rows
from engine.store.database import Tx
from tests.support.registration import (
    Node,
    Sent,
    ask,
    connect,
    exchange_certificates,
    new_folder,
    open_node,
    pair_of,
    running,
)

CPO, EMSP = "cpo.example.org", "emsp.example.org"


@pytest.fixture
async def cpo(tmp_path: Path) -> AsyncIterator[Node]:
    """Run a platform that hosts BEBEC."""
    async with running(await new_folder(tmp_path / "cpo", CPO, "BEBEC", "CPO")) as node:
        yield node


@pytest.fixture
async def emsp(tmp_path: Path) -> AsyncIterator[Node]:
    """Run a platform that hosts NLTNM."""
    async with running(await new_folder(tmp_path / "emsp", EMSP, "NLTNM", "EMSP")) as node:
        yield node


@pytest.fixture
async def third(tmp_path: Path) -> AsyncIterator[Node]:
    """Run one more platform."""
    async with running(await new_folder(tmp_path / "third", "third.example.org", "FRXYZ", "EMSP")) as node:
        yield node


@pytest.fixture
async def connected(cpo: Node, emsp: Node) -> tuple[Node, Node]:
    """Connect the EMSP to the CPO."""
    await connect(emsp, cpo)
    return cpo, emsp


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat what was not answered without a pause worth mentioning."""
    for module in ("handshakes", "parties", "renewal"):
        monkeypatch.setattr(f"engine.registration.{module}.FIRST_PAUSE_S", 0.01)


@asynccontextmanager
async def restarted(node: Node) -> AsyncIterator[Node]:
    """Stop a platform and run it again from its folder."""
    await node.stop()
    async with running(node.folder) as again:
        yield again


def handshakes(node: Node) -> list[Sent]:
    """List the handshakes that a platform made."""
    return [sent for sent in node.peers.sent if sent.path == "/connection"]


def offer(node: Node, timeout_ms: int = 10_000) -> bytes:
    """Write a handshake of this platform."""
    return offer_body(node.base_url, timeout_ms)


# -- the handshake ------------------------------------------------------------------------------------------


@pytest.mark.requirement(
    "R.01.01.01",
    "R.01.02.02",
    "R.01.02.03",
    "R.01.03.02",
    "R.01.03.03",
    "R.01.03.04",
    "R.01.03.05",
    "R.01.03.06",
    "R.01.03.07",
)
async def test_two_platforms_connect(cpo: Node, emsp: Node):
    """Certificates by hand, one handshake, and both sides know base URL and time-out of the other."""
    await exchange_certificates(emsp, cpo)

    platform = await emsp.connections.connect(cpo.base_url + "/", cpo.identity)

    (sent,) = handshakes(emsp)
    assert (sent.method, sent.path) == ("POST", "/connection")
    assert sent.body is not None
    assert json.loads(sent.body) == {"version": "3.0", "request_timeout": 10_000, "base_url": emsp.base_url}
    assert sent.answer is not None
    assert sent.answer.http_status == 200
    assert json.loads(sent.answer.body) == {"request_timeout": 10_000}
    assert (platform.state, platform.base_url, platform.request_timeout_ms) == ("connected", cpo.base_url, 10_000)
    there = cpo.directory.platform(cpo.id_of(emsp))
    assert (there.state, there.base_url, there.request_timeout_ms) == ("connected", emsp.base_url, 10_000)


@pytest.mark.requirement("R.02.01.01", "R.02.01.02", "R.02.01.03a", "R.02.01.04")
async def test_connected_platforms_know_each_others_parties(connected: tuple[Node, Node]):
    """Both ask GET /parties by themselves, and who serves whom is then known."""
    cpo, emsp = connected

    (sent,) = [sent for sent in emsp.peers.sent if sent.path == "/parties"]
    assert sent.method == "GET"
    assert sent.answer is not None
    assert [party["party_id"] for party in json.loads(sent.answer.body)["parties"]] == ["BEBEC"]
    assert "hub_party_id" not in json.loads(sent.answer.body)
    (party,) = emsp.directory.peer_parties(emsp.id_of(cpo))
    assert emsp.directory.serves(emsp.id_of(cpo), party.party_id)
    assert emsp.directory.platforms_of(party.party_id) == (emsp.id_of(cpo),)
    assert [party.party_id for party in cpo.directory.peer_parties(cpo.id_of(emsp))] == ["NLTNM"]
    assert not any(status == 403 for _, _, status in [*cpo.answered, *emsp.answered])


@pytest.mark.requirement("R.01.03.08")
async def test_a_second_handshake_is_a_conflict(connected: tuple[Node, Node]):
    """There is a connection already: 409, and nothing changes."""
    cpo, emsp = connected

    answer = await emsp.peers.request(emsp.id_of(cpo), "POST", "/connection", body=offer(emsp, 20_000))

    assert answer.http_status == 409
    assert b"connected to this one already" in answer.body
    assert cpo.directory.platform(cpo.id_of(emsp)).request_timeout_ms == 10_000
    with pytest.raises(Refused, match="connected already"):
        await emsp.connections.connect(cpo.base_url, cpo.identity)


@pytest.mark.requirement("R.01.03.09")
@pytest.mark.parametrize(
    "change", [{"version": "2.2.1"}, {"request_timeout": 10}, {"base_url": "http://emsp.example.org"}]
)
async def test_a_handshake_that_cannot_be_accepted(cpo: Node, emsp: Node, change: dict[str, object]):
    """Another version, an unbearable time-out, a base URL without https: 409, and both sides may try again."""
    await exchange_certificates(emsp, cpo)
    body = json.dumps({**json.loads(offer(emsp)), **change}).encode()

    answer = await ask(emsp, pair_of(emsp, cpo), cpo, "POST", "/connection", body)

    assert answer.http_status == 409
    assert json.loads(answer.body)["status_code"] == 2000
    assert cpo.state_of(emsp) == "new"
    await emsp.connections.connect(cpo.base_url, cpo.identity)
    assert cpo.state_of(emsp) == "connected"


@pytest.mark.parametrize(
    ("body", "http_status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b"{}", 200),
        (b'{"version":3.0,"request_timeout":10000,"base_url":"https://a.example"}', 200),
        (b'{"version":"3.0","request_timeout":"10000","base_url":"https://a.example"}', 200),
        (b'{"version":"3.0","request_timeout":1e999,"base_url":"https://a.example"}', 200),
        (b'{"version":"3.0","version":"3.0","request_timeout":10000,"base_url":"https://a.example"}', 200),
    ],
)
async def test_a_handshake_that_cannot_be_read(cpo: Node, emsp: Node, body: bytes, http_status: int):
    """Not JSON: 400. JSON of another shape: 200 with 2001 (B18). Neither changes anything."""
    await exchange_certificates(emsp, cpo)

    answer = await ask(emsp, pair_of(emsp, cpo), cpo, "POST", "/connection", body)

    assert (answer.http_status, json.loads(answer.body)["status_code"]) == (http_status, 2001)
    assert cpo.state_of(emsp) == "new"


async def test_a_repeated_handshake_is_the_same_success_until_other_traffic(cpo: Node, emsp: Node):
    """B19: its answer may have been lost. After any other request of that platform it is a conflict."""
    await exchange_certificates(emsp, cpo)
    pair = pair_of(emsp, cpo)

    first = await ask(emsp, pair, cpo, "POST", "/connection", offer(emsp))
    again = await ask(emsp, pair, cpo, "POST", "/connection", offer(emsp))
    other = await ask(emsp, pair, cpo, "POST", "/connection", offer(emsp, 20_000))
    assert (first.http_status, first.body) == (again.http_status, again.body)
    assert (first.http_status, other.http_status) == (200, 409)

    assert (await ask(emsp, pair, cpo, "GET", "/versions")).http_status == 200
    late = await ask(emsp, pair, cpo, "POST", "/connection", offer(emsp))

    assert late.http_status == 409


async def test_a_repeated_handshake_is_recognised_after_a_restart(cpo: Node, emsp: Node):
    """What was answered survives (P3), and so does what a repeat is recognised by; also that there was traffic."""
    await exchange_certificates(emsp, cpo)
    pair = pair_of(emsp, cpo)
    first = await ask(emsp, pair, cpo, "POST", "/connection", offer(emsp))

    async with restarted(cpo) as cpo_again:
        assert cpo_again.state_of(emsp) == "connected"
        again = await ask(emsp, pair, cpo_again, "POST", "/connection", offer(emsp))
        assert (again.http_status, again.body) == (200, first.body)
        await ask(emsp, pair, cpo_again, "GET", "/versions")

    async with running(cpo.folder) as cpo_last:
        late = await ask(emsp, pair, cpo_last, "POST", "/connection", offer(emsp))
        assert late.http_status == 409


@pytest.mark.usefixtures("hurried")
async def test_a_handshake_whose_answer_is_lost_is_sent_again(cpo: Node, emsp: Node):
    """Identical bytes, until it is answered; then both are connected."""
    await exchange_certificates(emsp, cpo)
    emsp.peers.lose_answer = lambda sent: sent.path == "/connection" and len(handshakes(emsp)) < 3

    platform = await emsp.connections.connect(cpo.base_url, cpo.identity)
    assert platform.state in ("connecting", "connected")

    await emsp.until(lambda: emsp.state_of(cpo) == "connected")
    assert cpo.state_of(emsp) == "connected"
    assert len({sent.body for sent in handshakes(emsp)}) == 1
    assert len(handshakes(emsp)) == 3


@pytest.mark.usefixtures("hurried")
async def test_a_handshake_outlives_both_processes(tmp_path: Path, cpo: Node, emsp: Node):
    """It is stored before it is sent: after a restart it goes on with the same bytes, when the partner is back too."""
    await exchange_certificates(emsp, cpo)
    await cpo.stop()

    platform = await emsp.connections.connect(cpo.base_url, cpo.identity)
    assert platform.state == "connecting"
    await emsp.until(lambda: bool(emsp.directory.platform(emsp.id_of(cpo)).last_error))
    body = handshakes(emsp)[0].body

    async with restarted(emsp) as emsp_again, running(cpo.folder) as cpo_again:
        assert emsp_again.state_of(cpo) in ("connecting", "connected")
        await emsp_again.until(lambda: emsp_again.state_of(cpo) == "connected")
        assert cpo_again.state_of(emsp) == "connected"
        assert {sent.body for sent in handshakes(emsp_again)} == {body}
        assert emsp_again.directory.platform(emsp_again.id_of(cpo)).offer is None


async def test_crossing_handshakes_end_connected(cpo: Node, emsp: Node):
    """Both sides send before either receives: each accepts the other's, and the answers change nothing."""
    await exchange_certificates(emsp, cpo)
    barrier = asyncio.Barrier(2)

    async def meet(sent: Sent) -> None:
        if sent.path == "/connection":
            await barrier.wait()

    emsp.peers.before = cpo.peers.before = meet
    await asyncio.gather(
        emsp.connections.connect(cpo.base_url, cpo.identity), cpo.connections.connect(emsp.base_url, emsp.identity)
    )

    assert (cpo.state_of(emsp), emsp.state_of(cpo)) == ("connected", "connected")
    assert cpo.directory.platform(cpo.id_of(emsp)).request_timeout_ms == 10_000
    await emsp.until(lambda: bool(emsp.directory.peer_parties(emsp.id_of(cpo))))
    await cpo.until(lambda: bool(cpo.directory.peer_parties(cpo.id_of(emsp))))


@pytest.mark.parametrize("lost", [CPO, EMSP])
@pytest.mark.usefixtures("hurried")
async def test_crossing_handshakes_of_which_one_is_lost(cpo: Node, emsp: Node, lost: str):
    """One of two crossing handshakes never arrives, and the other's answer is lost once: still both connect."""
    await exchange_certificates(emsp, cpo)
    loser, other = (cpo, emsp) if lost == CPO else (emsp, cpo)

    async def never(sent: Sent) -> None:
        if sent.path == "/connection":
            raise PeerFailure(FailureKind.TIMEOUT, "lost on the way", sent=True)

    loser.peers.before = never
    other.peers.lose_answer = lambda sent: sent.path == "/connection" and len(handshakes(other)) == 1
    await asyncio.gather(
        emsp.connections.connect(cpo.base_url, cpo.identity), cpo.connections.connect(emsp.base_url, emsp.identity)
    )

    await other.until(lambda: other.state_of(loser) == "connected")
    await loser.until(lambda: loser.state_of(other) == "connected")


async def test_a_refused_handshake_is_not_repeated(cpo: Node, emsp: Node):
    """The CPO has no certificate of the EMSP yet: 409 says so, and the EMSP's operator hears it."""
    request = await emsp.connections.request_certificate(cpo.identity)
    signed = await cpo.connections.sign(request.csr, server_ca=emsp.server_ca)
    theirs = await cpo.connections.request_certificate(emsp.identity)
    await emsp.connections.sign(theirs.csr)

    with pytest.raises(PeerSaidNo, match="no valid client certificate of yours") as refused:
        await emsp.connections.connect(cpo.base_url, cpo.identity, chain=signed.chain, server_ca=cpo.server_ca)

    assert refused.value.http_status == 409
    platform = emsp.directory.platform(emsp.id_of(cpo))
    assert (platform.state, platform.offer) == ("new", None)
    assert "no valid client certificate" in (platform.last_error or "")


async def test_connecting_needs_both_certificates(cpo: Node, emsp: Node):
    """What is missing is named: nothing yet, ours, theirs."""
    with pytest.raises(NotFoundHere, match="exchange certificates first"):
        await emsp.connections.connect(cpo.base_url, cpo.identity)

    request = await emsp.connections.request_certificate(cpo.identity)
    with pytest.raises(Refused, match="has not issued a certificate to us"):
        await emsp.connections.connect(cpo.base_url, cpo.identity)

    signed = await cpo.connections.sign(request.csr)
    await emsp.connections.install(cpo.identity, signed.chain)
    with pytest.raises(Refused, match="has no certificate of ours"):
        await emsp.connections.connect(cpo.base_url, cpo.identity)
    assert handshakes(emsp) == []


@pytest.mark.parametrize("base_url", ["http://cpo.example.org", "cpo.example.org", "https://user:pw@cpo.example.org"])
async def test_connecting_needs_https(emsp: Node, base_url: str):
    """R.01.03.01 at the operator's door; nothing is stored."""
    with pytest.raises(Refused, match="URL"):
        await emsp.connections.connect(base_url, CPO)
    assert emsp.directory.platforms() == ()


@pytest.mark.requirement("R.01.02.02")
async def test_a_server_that_nobody_vouches_for_is_not_talked_to(cpo: Node, emsp: Node):
    """With another authority than the partner's, its server certificate is not trusted, and no request goes out."""
    await exchange_certificates(emsp, cpo)

    platform = await emsp.connections.connect(cpo.base_url, cpo.identity, server_ca=emsp.server_ca)

    assert platform.state == "connecting"
    assert "tls" in (platform.last_error or "")
    assert cpo.answered == []
    platform = await emsp.connections.connect(cpo.base_url, cpo.identity, server_ca=cpo.server_ca)
    assert platform.state == "connected"


# -- who is let in ------------------------------------------------------------------------------------------


async def test_before_the_handshake_nothing_else_is_served(cpo: Node, emsp: Node):
    """B42: the certificate is right and the platform not connected: 403, but the handshake is taken."""
    await exchange_certificates(emsp, cpo)
    pair = pair_of(emsp, cpo)

    for method, path in (("GET", "/parties"), ("POST", "/connection/bye"), ("POST", "/connection/renew-credentials")):
        answer = await ask(emsp, pair, cpo, method, path, b"{}" if method == "POST" else None)
        assert (answer.http_status, json.loads(answer.body)["status_code"]) == (403, 2000)

    assert cpo.state_of(emsp) == "new"
    assert (await ask(emsp, pair, cpo, "POST", "/connection", offer(emsp))).http_status == 200


@pytest.mark.requirement("R.01.02.03")
async def test_a_certificate_of_another_platform_is_no_certificate(connected: tuple[Node, Node], third: Node):
    """The CPO's listener trusts its own authority only: one from a third platform's ends in the TLS handshake."""
    cpo, emsp = connected
    await exchange_certificates(emsp, third)

    with pytest.raises(PeerFailure):
        await ask(emsp, pair_of(emsp, third), cpo, "GET", "/versions")


async def test_an_ended_certificate_is_refused_and_another_goes_on(connected: tuple[Node, Node]):
    """From the next request on, on open connections too; ending the platform's other certificates is not needed."""
    cpo, emsp = connected
    old = pair_of(emsp, cpo)
    await exchange_certificates(emsp, cpo)
    new = pair_of(emsp, cpo)
    serial = cpo.directory.caller(old.stem.rpartition("_")[2], EMSP).serial

    ended = await cpo.connections.end_certificate(serial.upper(), "key lost")

    assert (ended.state, ended.end_reason, ended.platform) == ("ended", "key lost", EMSP)
    answer = await ask(emsp, old, cpo, "GET", "/parties")
    assert answer.http_status == 403
    assert b"key lost" in answer.body
    assert (await ask(emsp, new, cpo, "GET", "/parties")).http_status == 200
    with pytest.raises(NotFoundHere):
        await cpo.connections.end_certificate("abc", "why not")


async def test_a_certificate_that_ends_on_an_open_connection(connected: tuple[Node, Node]):
    """TLS looks at dates only once; each request looks again."""
    cpo, emsp = connected
    assert (await emsp.peers.request(emsp.id_of(cpo), "GET", "/parties")).http_status == 200

    cpo.clock.ahead_s = 366 * 86_400.0
    answer = await emsp.peers.request(emsp.id_of(cpo), "GET", "/parties")

    assert answer.http_status == 403
    assert b"out of date" in answer.body


@pytest.mark.requirement("R.01.06.01", "R.01.06.02", "R.01.06.03")
async def test_versions(connected: tuple[Node, Node]):
    """GET /versions is answered with an OcpiVersions object."""
    cpo, emsp = connected

    assert await emsp.connections.versions(cpo.identity) == [{"version": "3.0", "url": cpo.base_url}]

    (sent,) = [sent for sent in emsp.peers.sent if sent.path == "/versions"]
    assert sent.method == "GET"
    assert sent.answer is not None
    assert json.loads(sent.answer.body) == {"versions": [{"version": "3.0", "url": cpo.base_url}]}


# -- the end ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.05.01", "R.01.05.02", "R.01.05.03", "R.01.05.04")
@pytest.mark.parametrize("who", [CPO, EMSP])
async def test_a_bye_ends_the_connection_on_both_sides(connected: tuple[Node, Node], who: str):
    """Whoever says it: both refuse the other's certificates from then on, also after a restart, and nothing is left."""
    cpo, emsp = connected
    one, other = (cpo, emsp) if who == CPO else (emsp, cpo)
    pairs = pair_of(one, other), pair_of(other, one)

    platform = await one.connections.disconnect(other.identity, "contract ended")

    (sent,) = [sent for sent in one.peers.sent if sent.path == "/connection/bye"]
    assert (sent.method, sent.answer and sent.answer.http_status) == ("POST", 200)
    assert (platform.state, platform.end_reason) == ("ended", "contract ended")
    assert (other.state_of(one), other.directory.platform(other.id_of(one)).end_reason) == (
        "ended",
        "bye by the partner",
    )
    assert not one.peers.knows(one.id_of(other))
    assert not other.peers.knows(other.id_of(one))
    assert one.directory.peer_parties(one.id_of(other)) == ()
    assert {certificate.state for certificate in await one.connections.certificates()} == {"ended"}
    async with restarted(other) as other_again:
        for path, body in (("/connection", offer(one)), ("/connection/bye", None)):
            answer = await ask(one, pairs[0], other_again, "POST", path, body)
            assert (answer.http_status, json.loads(answer.body)["status_code"]) == (403, 2000)
        assert (await ask(other_again, pairs[1], one, "GET", "/parties")).http_status == 403


async def test_a_new_connection_takes_new_certificates(connected: tuple[Node, Node]):
    """B20: after a bye the old certificate cannot even be installed; with new ones everything begins anew."""
    cpo, emsp = connected
    old = pair_of(emsp, cpo).read_text()
    await emsp.connections.disconnect(cpo.identity)

    with pytest.raises(Refused, match="ended"):
        await emsp.connections.connect(cpo.base_url, cpo.identity)
    with pytest.raises(Refused, match="was ended"):
        await emsp.connections.install(cpo.identity, old[old.index("-----BEGIN CERTIFICATE") :])

    await connect(emsp, cpo)
    assert (cpo.state_of(emsp), emsp.state_of(cpo)) == ("connected", "connected")
    assert cpo.directory.platform(cpo.id_of(emsp)).ended_at is None


async def test_a_bye_that_nobody_hears_changes_nothing(connected: tuple[Node, Node]):
    """The operator is told, and may end the connection on this side only; the partner then learns it by a 403."""
    cpo, emsp = connected
    await cpo.site.stop(1.0)

    with pytest.raises(PeerUnreachable, match="nothing changed"):
        await emsp.connections.disconnect(cpo.identity)
    assert emsp.state_of(cpo) == "connected"

    await emsp.connections.reset(cpo.identity)
    assert emsp.state_of(cpo) == "ended"
    assert cpo.state_of(emsp) == "connected"
    platform = await cpo.connections.disconnect(emsp.identity)  # 403: it is over for them
    assert platform.state == "ended"
    assert (await cpo.connections.reset(emsp.identity)).state == "ended"
    with pytest.raises(NotFoundHere):
        await cpo.connections.reset("nobody.example.org")


async def test_a_bye_whose_answer_is_lost_can_be_said_again(connected: tuple[Node, Node]):
    """The partner has ended already and refuses: that is as good as an answer."""
    cpo, emsp = connected
    emsp.peers.lose_answer = lambda sent: sent.path == "/connection/bye" and emsp.peers.sent.index(sent) >= 0

    with pytest.raises(PeerUnreachable):
        await emsp.connections.disconnect(cpo.identity)
    assert (emsp.state_of(cpo), cpo.state_of(emsp)) == ("connected", "ended")
    emsp.peers.lose_answer = lambda _sent: False

    assert (await emsp.connections.disconnect(cpo.identity)).state == "ended"


async def test_what_belongs_to_a_connection_ends_in_its_transaction(connected: tuple[Node, Node]):
    """Hooks run within it; if one fails, nothing has ended and the partner hears no success."""
    cpo, emsp = connected
    seen: list[tuple[int, str]] = []

    async def hook(tx: Tx, platform_id: int) -> None:
        platform = await rows.platform_by_id(tx, platform_id)
        assert platform is not None
        seen.append((platform_id, platform.state))
        if len(seen) == 1:
            raise RuntimeError("subscriptions could not be ended")

    cpo.connections.hooks.on_ended.append(hook)
    with pytest.raises(PeerSaidNo) as refused:
        await emsp.connections.disconnect(cpo.identity)
    assert refused.value.http_status == 500
    assert "subscriptions" not in str(refused.value)
    assert (cpo.state_of(emsp), emsp.state_of(cpo)) == ("connected", "connected")

    await emsp.connections.disconnect(cpo.identity)
    assert seen == [(cpo.id_of(emsp), "ended")] * 2


# -- certificates by hand -----------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.01.04")
async def test_both_people_see_the_same_fingerprint(cpo: Node, emsp: Node):
    """What the asker reads out on the phone is what the issuer sees before and after signing."""
    request = await emsp.connections.request_certificate(cpo.identity)
    inspected = await cpo.connections.inspect_request(request.csr)
    signed = await cpo.connections.sign(request.csr)

    assert request.identity == inspected.identity == signed.identity == EMSP
    assert len(request.fingerprint) == len(hashlib.sha256().hexdigest())
    assert request.fingerprint == inspected.fingerprint == signed.fingerprint


async def test_keys_are_private_and_the_newest_certificate_is_used(cpo: Node, emsp: Node):
    """Key files are 0600, a request's key goes when its certificate comes, and installing twice is once."""
    first = await emsp.connections.request_certificate(cpo.identity)
    second = await emsp.connections.request_certificate(cpo.identity)
    assert len(list(emsp.folder.keys.glob("*.key"))) == 2

    chain = (await cpo.connections.sign(first.csr)).chain
    installed = await emsp.connections.install(cpo.identity, chain)
    assert await emsp.connections.install(cpo.identity, chain) == installed
    newer = await emsp.connections.install(cpo.identity, (await cpo.connections.sign(second.csr)).chain)

    assert list(emsp.folder.keys.glob("*.key")) == []
    assert {stat.S_IMODE(file.stat().st_mode) for file in emsp.folder.keys.glob("*_[0-9a-f]*.pem")} == {0o600}
    assert stat.S_IMODE(emsp.folder.keys.stat().st_mode) == 0o700
    used = await emsp.connections.sessions.certificate(emsp.id_of(cpo))
    assert used is not None
    assert used.serial == newer.serial != installed.serial


async def test_a_chain_that_is_not_for_us(cpo: Node, emsp: Node, third: Node):
    """For another's key, for no request at all, no certificate, the request itself: refused with what to do."""
    request = await emsp.connections.request_certificate(cpo.identity)
    others = await third.connections.request_certificate(cpo.identity)
    chain = (await cpo.connections.sign(others.csr)).chain

    with pytest.raises(Refused, match="for our key"):
        await emsp.connections.install(cpo.identity, chain)
    with pytest.raises(Refused, match="no request of ours"):
        await emsp.connections.install(third.identity, chain)
    for odd in ("", "hello", request.csr):
        with pytest.raises(Refused):
            await emsp.connections.install(cpo.identity, odd)
    assert await emsp.connections.certificates() == []


async def test_requests_that_are_not_signed(cpo: Node):
    """What is no request, or our own, is refused; nothing is stored."""
    own = await cpo.connections.request_certificate("partner.example.org")
    for odd in ("", "hello", own.csr):
        with pytest.raises(Refused):
            await cpo.connections.sign(odd)
    with pytest.raises(Refused, match="itself"):
        await cpo.connections.request_certificate(CPO)
    with pytest.raises(Refused, match="domain name"):
        await cpo.connections.request_certificate("partner")
    assert [platform.identity for platform in cpo.directory.platforms()] == ["partner.example.org"]


# -- folders ------------------------------------------------------------------------------------------------


async def test_a_new_folder_is_private_and_made_once(tmp_path: Path):
    """Folders 0700, keys and settings 0600; a second `init` is refused and changes nothing."""
    folder = await new_folder(tmp_path / "one", CPO, "bebec", "CPO")

    private = {path for path in folder.root.rglob("*") if path.is_file() and path.suffix in (".key", ".toml")}
    assert private
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    for path in (folder.root, folder.keys, folder.authority, folder.tls, folder.run):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    node = open_node(folder)
    await node.start(listen=False)
    assert [party.party_id for party in await node.parties.list()] == ["BEBEC"]
    await node.stop()
    before = folder.settings_file.read_bytes()
    with pytest.raises(Refused, match="holds a platform already"):
        await make_folder(folder, identity=EMSP, base_url="https://emsp.example.org", parties=["NLTNM"])
    assert folder.settings_file.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"identity": "cpo"}, Refused),
        ({"base_url": "http://cpo.example.org"}, Refused),
        ({"parties": ["X"]}, Refused),
        ({"roles": ["DRIVER"]}, Refused),
        ({"listen_port": 99_999}, BadSettings),
        ({"server_certificate": Path("only-one.pem")}, Refused),
        ({"database_url": "sqlite+aiosqlite:////nowhere/at/all.sqlite"}, Exception),
    ],
)
@pytest.mark.parametrize("there", [True, False])
async def test_a_folder_that_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, values: dict[str, Any], error: type[Exception], there: bool
):
    """It can be begun again, with better values, in the same place."""
    root = tmp_path / "new"
    if there:
        root.mkdir()
        (root / "mine.txt").write_text("kept")
    right: dict[str, Any] = {"identity": CPO, "base_url": "https://cpo.example.org", "parties": ["BEBEC"]}

    with pytest.raises(error):
        await make_folder(PlatformFolder(root), **{**right, **values})

    assert [path.name for path in root.rglob("*")] == (["mine.txt"] if there else [])
    assert root.exists() == there
