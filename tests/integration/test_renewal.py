"""New certificates for old ones between two whole platforms: no restart, and no refused request in between."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from certs.requests import make_request
from engine.peers.client import FailureKind, PeerFailure
from engine.protocol.registration import RenewalState, renewal_body
from engine.refusals import NotFoundHere, Refused
from engine.registration import renewal as renewing
from engine.store import platforms as rows
from engine.store.platforms import Renewal
from tests.support.registration import Node, Sent, ask, connect, new_folder, pair_of, running

CPO, EMSP = "cpo.example.org", "emsp.example.org"
TEN_MINUTES = {"OCPI_ENGINE_CERTIFICATES__LIFETIME_DAYS": str(600 / 86_400)}
BY_HAND = {"OCPI_ENGINE_CERTIFICATES__RENEW_AUTOMATICALLY": "false"}


@pytest.fixture
async def pair(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[Node, Node]]:
    """Run a CPO and an EMSP that are connected; a parameter is the environment of both."""
    environment = getattr(request, "param", {})
    cpo_folder = await new_folder(tmp_path / "cpo", CPO, "BEBEC", "CPO")
    emsp_folder = await new_folder(tmp_path / "emsp", EMSP, "NLTNM", "EMSP")
    async with running(cpo_folder, environment) as cpo, running(emsp_folder, environment) as emsp:
        await connect(emsp, cpo)
        yield cpo, emsp


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeat what was not answered without a pause worth mentioning."""
    for module in ("handshakes", "parties", "renewal"):
        monkeypatch.setattr(f"engine.registration.{module}.FIRST_PAUSE_S", 0.01)


async def renewals(node: Node) -> list[Renewal]:
    """List a platform's renewals."""
    return await node.connections.renewals.all()


async def reaches(node: Node, *states: RenewalState) -> list[Renewal]:
    """Wait until a platform's renewals are in these states."""

    async def look() -> bool:
        return tuple(one.state for one in await renewals(node)) == states

    await node.signal.until(look)
    return await renewals(node)


@asynccontextmanager
async def talking(one: Node, other: Node) -> AsyncIterator[list[int]]:
    """Let one ask the other without a pause, and collect the answers' HTTP statuses."""
    statuses: list[int] = []
    stop = asyncio.Event()

    async def talk() -> None:
        while not stop.is_set():
            statuses.append((await one.peers.request(one.id_of(other), "GET", "/versions")).http_status)

    tasks = [asyncio.create_task(talk()) for _ in range(3)]
    try:
        yield statuses
    finally:
        stop.set()
        await asyncio.gather(*tasks)


def enough(statuses: list[int], count: int) -> Callable[[], bool]:
    """Make a look at whether so many answers came."""
    return lambda: len(statuses) >= count


@pytest.mark.requirement(
    "R.01.04.01", "R.01.04.02", "R.01.04.03", "R.01.04.04", "R.01.04.05", "R.01.04.07", "R.01.04.08"
)
@pytest.mark.parametrize("who", [CPO, EMSP])
async def test_either_side_renews_without_a_refused_request(pair: tuple[Node, Node], who: str):
    """Asked for, issued, delivered and in use, while both keep talking: every request is answered with 200."""
    one, other = pair if who == CPO else pair[::-1]
    before = pair_of(one, other)
    async with talking(one, other) as ours, talking(other, one) as theirs:
        renewal = await one.connections.renew(other.identity)
        assert renewal.state in (RenewalState.WAITING, RenewalState.RENEWED)
        await reaches(one, RenewalState.RENEWED)
        await reaches(other, RenewalState.RENEWED)
        for statuses in (ours, theirs):
            await one.until(enough(statuses, len(statuses) + 20))

    assert set(ours) == set(theirs) == {200}
    (asked,) = [sent for sent in one.peers.sent if "renew" in sent.path]
    assert (asked.method, asked.path) == ("POST", "/connection/renew-credentials")
    assert asked.body is not None
    request = json.loads(asked.body)
    (called_back,) = [sent for sent in other.peers.sent if "renew" in sent.path]
    assert (called_back.method, called_back.path) == (
        "POST",
        f"/connection/renew-credentials/{request['callbackId']}",
    )
    assert called_back.body is not None
    assert json.loads(called_back.body)["certificateChain"].count("BEGIN CERTIFICATE") == 2
    after = pair_of(one, other)
    assert after != before
    assert after.read_bytes().split(b"-----END PRIVATE")[0] != before.read_bytes().split(b"-----END PRIVATE")[0]
    assert list(one.folder.keys.glob("*.renewal")) == []


async def test_old_and_new_are_accepted_until_the_old_one_is_ended(pair: tuple[Node, Node]):
    """A request that is still on its way with the old certificate is not refused."""
    cpo, emsp = pair
    old = pair_of(emsp, cpo)
    await emsp.connections.renew(cpo.identity)
    await reaches(emsp, RenewalState.RENEWED)
    new = pair_of(emsp, cpo)

    for file in (old, new):
        assert (await ask(emsp, file, cpo, "GET", "/parties")).http_status == 200

    await cpo.connections.end_certificate(old.stem.rpartition("_")[2], "replaced")
    assert (await ask(emsp, old, cpo, "GET", "/parties")).http_status == 403
    assert (await ask(emsp, new, cpo, "GET", "/parties")).http_status == 200
    used = await emsp.connections.sessions.certificate(emsp.id_of(cpo))
    assert used is not None
    assert new.stem.endswith(used.serial)


@pytest.mark.parametrize("pair", [TEN_MINUTES], indirect=True)
async def test_certificates_renew_themselves(pair: tuple[Node, Node]):
    """B37: past half of a life this short, and not before; both directions, without anyone asking for it."""
    cpo, emsp = pair
    assert await renewals(emsp) == await renewals(cpo) == []

    cpo.clock.ahead_s = emsp.clock.ahead_s = 100
    emsp.connections.renewals.wake()
    cpo.connections.renewals.wake()
    assert await emsp.connections.versions(cpo.identity)
    assert await renewals(emsp) == []

    cpo.clock.ahead_s = emsp.clock.ahead_s = 200
    for node in (emsp, cpo):
        node.connections.renewals.wake()
    for node in (emsp, cpo):

        async def renewed(node: Node = node) -> bool:
            return [one.state for one in await renewals(node) if one.asked_by_us] == [RenewalState.RENEWED]

        await node.signal.until(renewed)
    assert await emsp.connections.versions(cpo.identity)
    assert await cpo.connections.versions(emsp.identity)


@pytest.mark.parametrize("pair", [{**TEN_MINUTES, **BY_HAND}], indirect=True)
async def test_nothing_renews_itself_where_the_operator_said_so(pair: tuple[Node, Node]):
    """`renew_automatically = false`: neither asked for nor issued without an operator."""
    cpo, emsp = pair
    cpo.clock.ahead_s = emsp.clock.ahead_s = 500
    emsp.connections.renewals.wake()

    assert await emsp.connections.versions(cpo.identity)
    assert await renewals(emsp) == []


@pytest.mark.requirement("R.01.04.04")
@pytest.mark.parametrize("pair", [BY_HAND], indirect=True)
async def test_an_operator_decides(pair: tuple[Node, Node]):
    """The request waits here until it is decided; a refusal arrives with its reason, a yes with the certificate."""
    cpo, emsp = pair
    await emsp.connections.renew(cpo.identity)
    (waiting,) = await renewals(cpo)
    assert waiting.state is RenewalState.WAITING

    await cpo.connections.renewals.decide(waiting.id, refuse_because="call us first")
    (refused,) = await reaches(emsp, RenewalState.REFUSED)
    assert refused.reason == "call us first"
    with pytest.raises(NotFoundHere):
        await cpo.connections.renewals.decide(waiting.id)

    await emsp.connections.renew(cpo.identity)
    (_, second) = await reaches(cpo, RenewalState.REFUSED, RenewalState.WAITING)
    await cpo.connections.renewals.decide(second.id)
    await reaches(emsp, RenewalState.REFUSED, RenewalState.RENEWED)


async def ask_with(emsp: Node, cpo: Node, csr: str, callback_id: str = "by-hand") -> None:
    """Ask for a certificate with a request that a test made."""
    async with emsp.database.transaction() as tx:
        await rows.add_renewal(
            tx,
            platform_id=emsp.id_of(cpo),
            asked_by_us=True,
            callback_id=callback_id,
            state=RenewalState.ASKING,
            csr=csr,
            created_at=emsp.clock.now(),
            due_at=emsp.clock.now(),
        )
    await emsp.connections.renew(cpo.identity)


@pytest.mark.requirement("R.01.04.05", "R.01.04.06", "R.01.04.09", "R.01.04.10")
@pytest.mark.parametrize("name", ["other.example.org", CPO])
async def test_a_request_for_another_name_is_refused_with_the_reason(pair: tuple[Node, Node], name: str):
    """The common name is not that of the certificate it came with: nothing is issued, and the asker is told why."""
    cpo, emsp = pair
    before = await cpo.connections.certificates()

    await ask_with(emsp, cpo, make_request(name)[1].decode())

    (refused,) = await reaches(emsp, RenewalState.REFUSED)
    assert name in (refused.reason or "")
    (called_back,) = [sent for sent in cpo.peers.sent if "renew" in sent.path]
    assert (called_back.method, called_back.path) == ("POST", "/connection/renew-credentials/by-hand")
    assert called_back.body is not None
    assert set(json.loads(called_back.body)) == {"reason"}
    assert await cpo.connections.certificates() == before


async def test_a_request_that_is_none_is_refused_with_the_reason(pair: tuple[Node, Node]):
    """Something else than a request in the field csr: taken, looked at, and answered."""
    cpo, emsp = pair

    await ask_with(emsp, cpo, "hello")

    (refused,) = await reaches(emsp, RenewalState.REFUSED)
    assert "not a certificate signing request" in (refused.reason or "")


async def test_a_refused_renewal_is_not_asked_for_at_once_again(pair: tuple[Node, Node]):
    """By itself it is tried again a day later; until then the old certificate stays in use."""
    cpo, emsp = pair
    emsp.clock.ahead_s = 250 * 86_400.0  # the certificate is due, and nobody has looked yet
    await ask_with(emsp, cpo, "hello")
    await reaches(emsp, RenewalState.REFUSED)

    due = await emsp.connections.renewals._ripe()  # noqa: SLF001 (nothing else shows a date)

    (renewal,) = await renewals(emsp)
    assert due[emsp.id_of(cpo)] == renewal.created_at + renewing.AGAIN_AFTER_S


@pytest.mark.requirement("R.01.04.01")
@pytest.mark.parametrize("name", ["renew-credentials", "renew-certificate"])
async def test_both_names_of_the_path_are_served(pair: tuple[Node, Node], name: str):
    """W1: the requirements call it renew-credentials, the diagram renew-certificate; with a callback that is odd."""
    cpo, emsp = pair
    csr = make_request(EMSP)[1].decode()

    body = renewal_body(csr, "a/b c?%2F")
    answer = await emsp.peers.request(emsp.id_of(cpo), "POST", f"/connection/{name}", body=body)
    assert answer.http_status == 200

    await emsp.until(lambda: any("a%2Fb%20c%3F%252F" in sent.path for sent in cpo.peers.sent))
    await emsp.until(lambda: any(path[-1] == "a/b c?%2F" for _, path, _ in emsp.answered))
    unknown = await emsp.peers.request(emsp.id_of(cpo), "POST", f"/connection/{name}/nobody", body=b'{"reason":"x"}')
    assert (unknown.http_status, json.loads(unknown.body)["status_code"]) == (404, 2000)


@pytest.mark.parametrize(
    ("body", "http_status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 200),
        (b'{"csr":"x"}', 200),
        (b'{"csr":5,"callbackId":"x"}', 200),
        (b'{"csr":"x","callbackId":""}', 200),
        (b'{"csr":"' + b"x" * 5501 + b'","callbackId":"x"}', 200),
    ],
)
async def test_a_renewal_request_that_cannot_be_read(pair: tuple[Node, Node], body: bytes, http_status: int):
    """B18, and nothing is stored."""
    cpo, emsp = pair

    answer = await emsp.peers.request(emsp.id_of(cpo), "POST", "/connection/renew-credentials", body=body)

    assert (answer.http_status, json.loads(answer.body)["status_code"]) == (http_status, 2001)
    assert await renewals(cpo) == []


async def test_requests_are_recognised_and_bounded(pair: tuple[Node, Node]):
    """The same id and request is a repeat, another request under it is refused, and too many at once are."""
    cpo, emsp = pair

    async def never(_sent: Sent) -> None:
        raise PeerFailure(FailureKind.TIMEOUT, "lost on the way", sent=True)

    cpo.peers.before = never

    async def send(callback_id: str, csr: str) -> tuple[int, int]:
        body = renewal_body(csr, callback_id)
        answer = await emsp.peers.request(emsp.id_of(cpo), "POST", "/connection/renew-credentials", body=body)
        return answer.http_status, json.loads(answer.body)["status_code"]

    csr = make_request(EMSP)[1].decode()
    assert await send("1", csr) == (200, 1000)
    assert await send("1", csr) == (200, 1000)
    assert len(await renewals(cpo)) == 1
    assert await send("1", csr + "\n") == (200, 2001)
    for number in range(2, renewing.OPEN_MAX + 1):
        assert await send(str(number), csr) == (200, 1000)
    assert await send("one more", csr) == (429, 2000)


async def test_certificates_of_one_partner_are_bounded(pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch):
    """Someone who asks all day long gets a reason, not a thousand certificates."""
    cpo, emsp = pair
    monkeypatch.setattr(renewing, "LIVE_MAX", 2)
    await emsp.connections.renew(cpo.identity)
    await reaches(emsp, RenewalState.RENEWED)

    await emsp.connections.renew(cpo.identity)

    (_, refused) = await reaches(emsp, RenewalState.RENEWED, RenewalState.REFUSED)
    assert "valid already" in (refused.reason or "")


# -- what is lost on the way --------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
async def test_a_renewal_whose_answers_are_lost(pair: tuple[Node, Node]):
    """The answer to the request and the answer to the callback are lost, twice each: one certificate, taken once."""
    cpo, emsp = pair
    emsp.peers.lose_answer = lambda sent: "renew" in sent.path and sum("renew" in s.path for s in emsp.peers.sent) < 3
    cpo.peers.lose_answer = lambda sent: "renew" in sent.path and sum("renew" in s.path for s in cpo.peers.sent) < 3

    await emsp.connections.renew(cpo.identity)
    await reaches(emsp, RenewalState.RENEWED)
    await reaches(cpo, RenewalState.RENEWED)

    assert len({sent.body for sent in emsp.peers.sent if "renew" in sent.path}) == 1
    callbacks = [sent for sent in cpo.peers.sent if "renew" in sent.path]
    assert len(callbacks) == 3
    assert {sent.answer.http_status for sent in callbacks if sent.answer} == {200}
    assert len({sent.body for sent in callbacks}) == 1
    assert len([one for one in await emsp.connections.certificates() if not one.issued_here]) == 2
    other = await cpo.peers.request(cpo.id_of(emsp), "POST", callbacks[0].path, body=b'{"reason":"changed my mind"}')
    assert other.http_status == 404


async def test_a_callback_with_a_certificate_that_cannot_be_used(pair: tuple[Node, Node]):
    """For another key: 2001 with the reason, the old certificate stays in use, and a right one is still taken."""
    cpo, emsp = pair

    async def never(sent: Sent) -> None:
        if "renew" in sent.path:
            raise PeerFailure(FailureKind.REFUSED, "lost on the way", sent=False)

    cpo.peers.before = never
    renewal = await emsp.connections.renew(cpo.identity)
    wrong = (await cpo.connections.sign(make_request(EMSP)[1].decode())).chain
    right = (await cpo.connections.sign(renewal.csr)).chain
    cpo.peers.before = None
    path = f"/connection/renew-credentials/{renewal.callback_id}"

    for chain in (wrong, "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        body = json.dumps({"certificateChain": chain}).encode()
        answer = await cpo.peers.request(cpo.id_of(emsp), "POST", path, body=body)
        assert (answer.http_status, json.loads(answer.body)["status_code"]) == (200, 2001)
        assert (await renewals(emsp))[0].state is RenewalState.WAITING

    body = json.dumps({"status_code": 1000, "timestamp": "t", "data": {"certificateChain": right}}).encode()
    assert (await cpo.peers.request(cpo.id_of(emsp), "POST", path, body=body)).http_status == 200
    assert (await renewals(emsp))[0].state is RenewalState.RENEWED
    assert await emsp.connections.versions(cpo.identity)


@pytest.mark.usefixtures("hurried")
async def test_the_asker_restarts_in_the_middle(tmp_path: Path):
    """Its key and its callback id are stored: the certificate that comes after the restart is taken and used."""
    cpo_folder = await new_folder(tmp_path / "cpo", CPO, "BEBEC", "CPO")
    emsp_folder = await new_folder(tmp_path / "emsp", EMSP, "NLTNM", "EMSP")
    async with running(cpo_folder) as cpo:
        async with running(emsp_folder) as emsp:
            await connect(emsp, cpo)
            held = asyncio.Event()

            async def hold(sent: Sent) -> None:
                if "renew" in sent.path:
                    await held.wait()

            cpo.peers.before = hold
            assert (await emsp.connections.renew(cpo.identity)).state is RenewalState.WAITING
        held.set()
        await cpo.until(lambda: any("renew" in sent.path and not sent.answer for sent in cpo.peers.sent))
        async with running(emsp_folder) as emsp:
            await reaches(emsp, RenewalState.RENEWED)
            await reaches(cpo, RenewalState.RENEWED)
            assert await emsp.connections.versions(cpo.identity)
            assert len([one for one in await cpo.connections.certificates() if one.issued_here]) == 2


@pytest.mark.parametrize("when", ["before issuing", "before delivering"])
@pytest.mark.usefixtures("hurried")
async def test_the_issuer_restarts_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str):
    """What it said yes to is stored: one certificate is issued, and delivered after the restart."""
    cpo_folder = await new_folder(tmp_path / "cpo", CPO, "BEBEC", "CPO")
    emsp_folder = await new_folder(tmp_path / "emsp", EMSP, "NLTNM", "EMSP")
    async with running(emsp_folder) as emsp:
        async with running(cpo_folder) as cpo:
            await connect(emsp, cpo)
            stuck, never = asyncio.Event(), asyncio.Event()

            async def hold(*_arguments: object, **_more: object) -> None:
                stuck.set()
                await never.wait()

            async def hold_callback(sent: Sent) -> None:
                if "renew" in sent.path:
                    await hold()

            if when == "before issuing":
                monkeypatch.setattr(cpo.connections.issued, "issue", hold)
            else:
                cpo.peers.before = hold_callback
            assert (await emsp.connections.renew(cpo.identity)).state is RenewalState.WAITING
            await stuck.wait()
        async with running(cpo_folder) as cpo:
            await reaches(emsp, RenewalState.RENEWED)
            await reaches(cpo, RenewalState.RENEWED)
            assert await emsp.connections.versions(cpo.identity)
            assert len([one for one in await cpo.connections.certificates() if one.issued_here]) == 2


@pytest.mark.requirement("R.01.04.04")
async def test_a_renewal_that_is_never_answered_expires(pair: tuple[Node, Node]):
    """After 168 hours the asker asks anew, with a new key; the late answer to the first one is still taken."""
    cpo, emsp = pair

    async def never(sent: Sent) -> None:
        if "renew" in sent.path:
            raise PeerFailure(FailureKind.REFUSED, "lost on the way", sent=False)

    cpo.peers.before = never
    first = await emsp.connections.renew(cpo.identity)
    assert (await emsp.connections.renew(cpo.identity)).id == first.id

    emsp.clock.ahead_s = cpo.clock.ahead_s = 169 * 3600.0
    emsp.connections.renewals.look_again()
    cpo.connections.renewals.look_again()
    await reaches(emsp, RenewalState.EXPIRED)
    (theirs,) = await reaches(cpo, RenewalState.ENDED)
    assert theirs.last_error

    cpo.peers.before = None
    body = json.dumps({"certificateChain": theirs.chain}).encode()
    path = f"/connection/renew-credentials/{first.callback_id}"
    assert (await cpo.peers.request(cpo.id_of(emsp), "POST", path, body=body)).http_status == 200
    await reaches(emsp, RenewalState.RENEWED)


async def test_a_renewal_ends_with_the_connection(pair: tuple[Node, Node]):
    """A bye ends what is open, and nothing is asked or delivered afterwards."""
    cpo, emsp = pair

    async def never(sent: Sent) -> None:
        if "renew" in sent.path:
            raise PeerFailure(FailureKind.REFUSED, "lost on the way", sent=False)

    cpo.peers.before = never
    await emsp.connections.renew(cpo.identity)
    await emsp.connections.disconnect(cpo.identity)

    assert [one.state for one in await renewals(emsp)] == [RenewalState.ENDED]
    assert [one.state for one in await renewals(cpo)] == [RenewalState.ENDED]
    with pytest.raises(Refused, match="not connected"):
        await emsp.connections.renew(cpo.identity)
    with pytest.raises(NotFoundHere):
        await emsp.connections.renew("nobody.example.org")
