"""Registration without I/O: the life of a connection, what its requests carry, and how generously it is read."""

import asyncio
import json

import pytest

from engine.clock import SystemClock
from engine.peers.client import PeerAnswer
from engine.peers.registration import read_reply
from engine.protocol.errors import Conflict, InvalidParameters
from engine.protocol.ids import PartyId
from engine.protocol.parties import Party, Role, Side, parties_body, read_parties
from engine.protocol.registration import (
    PLATFORM,
    CertificateRenewalRequest,
    ConnectionParametersRequest,
    OcpiVersion,
    Offer,
    PlatformEvent,
    PlatformState,
    RenewalAnswer,
    acceptance_body,
    check_base_url,
    check_offer,
    check_renewal,
    host_of,
    offer_body,
    read_acceptance,
    read_renewal_answer,
    read_versions,
    refused_body,
    renewal_body,
    renewed_body,
    versions_body,
)
from engine.protocol.transitions import IllegalTransition
from engine.refusals import Refused
from engine.registration.errands import Errands, pause_s
from engine.registration.parties import roles_of
from engine.store.database import Database
from engine.store.membership import Membership

NEW, CONNECTING, CONNECTED, ENDED = PlatformState
CERTIFICATE, OFFER, ACCEPTED, REFUSED, HANDSHAKE, BYE, LEAVE = PlatformEvent

CELLS = {
    NEW: {CERTIFICATE: NEW, OFFER: CONNECTING, HANDSHAKE: CONNECTED, LEAVE: ENDED},
    CONNECTING: {
        CERTIFICATE: CONNECTING,
        OFFER: CONNECTING,
        ACCEPTED: CONNECTED,
        REFUSED: NEW,
        HANDSHAKE: CONNECTED,
        LEAVE: ENDED,
    },
    CONNECTED: {CERTIFICATE: CONNECTED, ACCEPTED: CONNECTED, REFUSED: CONNECTED, BYE: ENDED, LEAVE: ENDED},
    ENDED: {CERTIFICATE: NEW, LEAVE: ENDED},
}


@pytest.mark.parametrize("event", PlatformEvent)
@pytest.mark.parametrize("state", PlatformState)
def test_every_cell_of_the_life_of_a_connection(state, event):
    """What may happen in a state leads where it should, and whatever else happens is an error."""
    if event in CELLS[state]:
        assert PLATFORM.after(state, event) is CELLS[state][event]
        assert PLATFORM.allows(state, event)
    else:
        assert not PLATFORM.allows(state, event)
        with pytest.raises(IllegalTransition, match=state.value):
            PLATFORM.after(state, event)


# -- base URLs ----------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.03.01")
@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://ocpi.example.org", "https://ocpi.example.org"),
        ("https://ocpi.example.org/ocpi/", "https://ocpi.example.org/ocpi"),
        ("https://ocpi.example.org:8443/a/b", "https://ocpi.example.org:8443/a/b"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_base_urls_are_https(text, url):
    """An https URL is taken, and a slash at its end does not matter."""
    assert check_base_url(text) == url


@pytest.mark.requirement("R.01.03.01")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://ocpi.example.org",
        "HTTP://ocpi.example.org",
        "ftp://ocpi.example.org",
        "ocpi.example.org",
        "https://",
        "https:///ocpi",
        "https://user@ocpi.example.org",
        "https://ocpi.example.org/?a=b",
        "https://ocpi.example.org/?",
        "https://ocpi.example.org/#a",
        "https://ocpi.example.org:0/",
        "https://ocpi.example.org:99999/",
        "https://ocpi.example.org\\@evil.example/",
        "https://ocpi example.org",
        "https://ocpi.example.org/\r\nX: y",
        "https://ocpi.example.org/ö",
        "https://ocpi.example.org/" + "a" * 255,
        "https://[::1",
    ],
)
def test_other_base_urls_are_not_taken(text):
    """What is not https, hides something or cannot be read is refused, by the operator's door and the partner's."""
    with pytest.raises(ValueError, match="URL"):
        check_base_url(text)
    with pytest.raises(Conflict):
        check_offer(ConnectionParametersRequest("3.0", 10_000, text))


def test_the_host_is_who_a_partner_is():
    """B41: the host of the base URL, in lower case and without the port."""
    assert host_of("https://OCPI.Example.org:8443/ocpi") == "ocpi.example.org"


# -- the handshake ------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.03.04", "R.01.03.05")
def test_our_offer():
    """A ConnectionParametersRequest with version 3.0, the base URL and the time-out."""
    assert json.loads(offer_body("https://cpo.example.org", 10_000)) == {
        "version": "3.0",
        "request_timeout": 10_000,
        "base_url": "https://cpo.example.org",
    }


def test_an_offer_to_accept():
    """The bounds of the time-out are taken, and 1e4 is an integer."""
    for timeout_ms in (1_000, 120_000, 1e4):
        offered = check_offer(ConnectionParametersRequest("3.0", timeout_ms, "https://cpo.example.org/"))
        assert offered == Offer("https://cpo.example.org", int(timeout_ms))


@pytest.mark.requirement("R.01.03.09")
@pytest.mark.parametrize(
    ("version", "timeout_ms", "says"),
    [
        ("2.2.1", 10_000, "3.0"),
        ("3.1", 10_000, "3.0"),
        ("", 10_000, "3.0"),
        ("3.0", 999, "1000"),
        ("3.0", 120_001, "120000"),
        ("3.0", 0, "1000"),
        ("3.0", -1, "1000"),
        ("3.0", 1e300, "120000"),
        ("3.0", 10_000.5, "milliseconds"),
    ],
)
def test_an_offer_that_is_a_conflict(version, timeout_ms, says):
    """Another version, or a time-out out of bounds: 409, and the message says what is taken (B19)."""
    with pytest.raises(Conflict, match=says) as refused:
        check_offer(ConnectionParametersRequest(version, timeout_ms, "https://cpo.example.org"))

    assert refused.value.http_status == 409


@pytest.mark.requirement("R.01.03.07")
def test_our_acceptance():
    """A ConnectionParametersResponse with our time-out."""
    assert json.loads(acceptance_body(10_000)) == {"request_timeout": 10_000}


@pytest.mark.parametrize(
    ("content", "timeout_ms"),
    [
        (b'{"request_timeout":20000}', 20_000),
        (b'{"request_timeout":2e4,"more":true}', 20_000),
        (b'{"request_timeout":1}', 1_000),
        (b'{"request_timeout":900000}', 60_000),
        (b'{"request_timeout":-5}', 60_000),
        (b'{"request_timeout":null}', 60_000),
        (b'{"request_timeout":"20000"}', 60_000),
        (b'{"request_timeout":1e999}', 60_000),
        (b"{}", 60_000),
        (b"", 60_000),
        (b"[" * 2000, 60_000),
    ],
)
def test_reading_an_acceptance(content, timeout_ms):
    """The time-out is kept to what we wait; one that cannot be read is the longest, which is the careful choice."""
    assert read_acceptance(content, otherwise_ms=60_000) == timeout_ms


# -- renewal ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.04.03")
def test_our_renewal_request():
    """A CertificateRenewalRequest, with the draft's spelling of callbackId (W3)."""
    assert json.loads(renewal_body("csr", "id")) == {"csr": "csr", "callbackId": "id"}


def test_a_renewal_request_may_have_line_ends():
    """PEM has line ends, of either kind (W22); sizes are the draft's."""
    check_renewal(CertificateRenewalRequest("-----BEGIN\r\nabc\n" + "a" * 5484, "x" * 36))


@pytest.mark.parametrize(
    ("csr", "callback_id", "fields"),
    [
        ("", "id", {"/csr"}),
        ("a" * 5501, "id", {"/csr"}),
        ("tab\t", "id", {"/csr"}),
        ("ö", "id", {"/csr"}),
        ("csr", "", {"/callbackId"}),
        ("csr", "x" * 37, {"/callbackId"}),
        ("csr", "a\n", {"/callbackId"}),
        ("", "", {"/csr", "/callbackId"}),
    ],
)
def test_a_renewal_request_with_wrong_fields(csr, callback_id, fields):
    """Each field that is wrong is named."""
    with pytest.raises(InvalidParameters) as refused:
        check_renewal(CertificateRenewalRequest(csr, callback_id))

    assert {problem["field"] for problem in refused.value.data} == fields


@pytest.mark.requirement("R.01.04.08", "R.01.04.10")
def test_our_answers_to_a_renewal():
    """A RenewedCertificate, or the reason why there is none (W2)."""
    assert json.loads(renewed_body("pem")) == {"certificateChain": "pem"}
    assert json.loads(refused_body("too old")) == {"reason": "too old"}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b'{"certificateChain":"pem\\n"}', RenewalAnswer("pem\n", None)),
        (b'{"status_code":1000,"timestamp":"x","data":{"certificateChain":"pem"}}', RenewalAnswer("pem", None)),
        (b'{"reason":"too old"}', RenewalAnswer(None, "too old")),
        (b'{"certificateChain":null,"reason":"too old"}', RenewalAnswer(None, "too old")),
        (b'{"status_code":2000,"status_message":"no","timestamp":"x"}', RenewalAnswer(None, "no")),
        (b'{"reason":{"why":1}}', RenewalAnswer(None, "no reason given")),
        (b"{}", RenewalAnswer(None, "no reason given")),
        (b'{"reason":"' + b"a" * 900 + b'"}', RenewalAnswer(None, "a" * 500)),
    ],
)
def test_reading_the_answer_to_a_renewal(body, answer):
    """A chain is a chain, and any object without one is a refusal (W2)."""
    assert read_renewal_answer(body) == answer


@pytest.mark.parametrize("chain", ['"' + "a" * 10_001 + '"', "5", '["a"]', '"\\u0000"'])
def test_an_answer_with_an_odd_chain(chain):
    """What is there and is not PEM text is no refusal but a mistake."""
    with pytest.raises(InvalidParameters):
        read_renewal_answer(b'{"certificateChain":%b}' % chain.encode())


# -- versions and envelopes ---------------------------------------------------------------------------------


@pytest.mark.requirement("R.01.06.03")
def test_versions():
    """An OcpiVersions object with our one version, and what we read of another's."""
    assert json.loads(versions_body("https://cpo.example.org")) == {
        "versions": [{"version": "3.0", "url": "https://cpo.example.org"}]
    }
    assert read_versions(b'{"versions":[{"version":"2.2.1","url":"u","x":1}]}') == [OcpiVersion("2.2.1", "u")]
    assert read_versions(b'{"versions":"3.0"}') is None
    assert read_versions(b"") is None


@pytest.mark.parametrize(
    ("http_status", "body", "ok", "passing", "content"),
    [
        (200, b'{"a":1}', True, False, b'{"a":1}'),
        (201, b'{"status_code":1000,"timestamp":"t","data":{"a":1}}', True, False, b'{"a":1}'),
        (200, b'{"status_code":1000,"timestamp":"t","payload":{"a":1}}', True, False, b'{"a":1}'),
        (200, b'{"status_code":2001,"timestamp":"t","data":{"a":1}}', False, False, b""),
        (200, b"<html>", True, True, b""),
        (200, b"", True, True, b""),
        (409, b'{"status_code":2000,"status_message":"no","timestamp":"t"}', False, False, b""),
        (404, b"<html>", False, False, b""),
        (503, b"", False, True, b""),
        (500, b'{"status_code":3000,"timestamp":"t"}', False, True, b""),
        (429, b"", False, True, b""),
        (408, b"", False, True, b""),
    ],
)
def test_answers_come_with_or_without_an_envelope(http_status, body, ok, passing, content):
    """W4; a server's trouble and what is not JSON pass by themselves, a no does not."""
    reply = read_reply(PeerAnswer(http_status, body))

    assert (reply.ok, reply.passing, reply.content) == (ok, passing, content)


# -- parties ------------------------------------------------------------------------------------------------

CPO = Party(PartyId("BEBEC"), (Role("locations", Side.SENDER),), {"name": "BEBEC"})
HUB = Party(PartyId("NLHUB"), (Role("locations", Side.RECEIVER),), {"name": "Hub"}, hub=True)


def nobody(_party: PartyId) -> bool:
    """Say that no party is ours."""
    return False


@pytest.mark.requirement("R.02.01.02", "R.02.01.04")
def test_our_parties_without_a_hub():
    """A PlatformParties object, and hub_party_id is not there."""
    assert json.loads(parties_body([CPO])) == {
        "parties": [
            {
                "party_id": "BEBEC",
                "roles": [{"module": "locations", "side": "SENDER"}],
                "business_details": {"name": "BEBEC"},
            }
        ]
    }


@pytest.mark.requirement("R.02.01.03b")
def test_our_parties_with_a_hub():
    """The hub party is named."""
    assert json.loads(parties_body([CPO, HUB]))["hub_party_id"] == "NLHUB"


def test_what_we_write_we_read():
    """Parties come back as they were."""
    read = read_parties(parties_body([CPO, HUB]), parties_max=10, ours=nobody)

    assert read is not None
    assert (read.parties, read.left_out) == ((CPO, HUB), ())


def test_odd_parties_are_left_out_and_the_others_used():
    """Ids that are none, repeated ones and parties of ours are named; the rest is taken, in canonical case."""
    entries = [
        {"party_id": "bebec", "roles": [{"module": "locations", "side": "sender"}, {"module": 5}, "x"], "new": 1},
        {"party_id": "BEBEC", "roles": []},
        {"party_id": "TOOLONG"},
        {"party_id": 5},
        "DEABC",
        None,
        {"roles": []},
        {"party_id": "NLOUR"},
        {"party_id": "DEXYZ", "roles": "all", "business_details": [1]},
        {"party_id": "FRBIG", "business_details": {"name": "x" * 20_000}},
    ]
    body = json.dumps({"parties": entries, "more": True}).encode()

    read = read_parties(body, parties_max=100, ours=lambda party: party == "NLOUR")

    assert read is not None
    assert [party.party_id for party in read.parties] == ["BEBEC", "DEXYZ", "FRBIG"]
    assert read.parties[0].roles == (Role("locations", "SENDER"),)
    assert [party.business_details for party in read.parties] == [{}, {}, {}]
    assert read.left_out_count == 7
    assert any("NLOUR is hosted on this platform" in words for words in read.left_out)
    assert any("more than once" in words for words in read.left_out)


def test_parties_are_bounded():
    """What is beyond the limit is left out, and said so; a thousand odd ones are counted, not listed."""
    many = [{"party_id": f"NL{number:03d}"} for number in range(50)]
    read = read_parties(json.dumps({"parties": many}).encode(), parties_max=20, ours=nobody)
    assert read is not None
    assert (len(read.parties), read.left_out_count) == (20, 1)

    odd = read_parties(json.dumps({"parties": [0] * 1000}).encode(), parties_max=20, ours=nobody)
    assert odd is not None
    assert (len(odd.left_out), odd.left_out_count) == (100, 1000)


@pytest.mark.parametrize("hub", ["NLOUR", "x", 5, ["BEBEC"]])
def test_a_hub_party_that_cannot_be(hub):
    """A hub party that is ours or no id is left out; the list stays."""
    body = json.dumps({"parties": [{"party_id": "BEBEC"}], "hub_party_id": hub}).encode()

    read = read_parties(body, parties_max=20, ours=lambda party: party == "NLOUR")

    assert read is not None
    assert [(party.party_id, party.hub) for party in read.parties] == [("BEBEC", False)]
    assert read.left_out_count == 1


def test_a_hub_party_need_not_be_in_the_list():
    """Naming it is enough to let it speak."""
    read = read_parties(b'{"parties":[],"hub_party_id":"nlhub"}', parties_max=20, ours=nobody)

    assert read is not None
    assert [(party.party_id, party.hub) for party in read.parties] == [("NLHUB", True)]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"parties":{}}', b"<html>", b'{"parties":' + b"[" * 2000])
def test_what_is_no_list_of_parties(body):
    """None, so that what was known before stays."""
    assert read_parties(body, parties_max=20, ours=nobody) is None


def test_roles_by_name():
    """CPO and EMSP are opposite sides of the same modules, and single roles can be named."""
    cpo, emsp = roles_of(["CPO"]), roles_of(["emsp"])

    assert Role("locations", "SENDER") in cpo
    assert {(role.module, role.side) for role in emsp} == {
        (role.module, "SENDER" if role.side == "RECEIVER" else "RECEIVER") for role in cpo
    }
    assert roles_of(["locations:sender", "locations:SENDER"]) == (Role("locations", "SENDER"),)
    assert set(roles_of(["HUB"])) == {*cpo, *emsp}


@pytest.mark.parametrize("names", [[], ["DRIVER"], ["locations"], ["locations:BOTH"], ["nothing:SENDER"]])
def test_roles_that_are_none(names):
    """The message says what a role looks like."""
    with pytest.raises(Refused, match="locations:SENDER"):
        roles_of(names)


# -- errands ------------------------------------------------------------------------------------------------


ALONE = Membership(Database("sqlite:///nowhere"), SystemClock(), lease_s=5)  # never started: nobody to ask


def test_pauses_double_up_to_the_longest():
    """The first pause, twice it, and so on; never beyond the longest, also after a thousand failures."""
    assert [pause_s(n, first_s=1, longest_s=60) for n in (0, 1, 2, 3, 7, 1000)] == [1, 1, 2, 4, 60, 60]


async def test_one_errand_delays_no_other():
    """While one key's errand hangs, another's is done; stopping breaks off what hangs."""
    hangs, done = asyncio.Event(), asyncio.Event()

    async def due() -> dict[int, float]:
        return {1: 0.0, 2: 1.0} if not done.is_set() else {1: 0.0}

    async def run(key: int) -> None:
        if key == 1:
            hangs.set()
            await asyncio.Event().wait()
        done.set()

    errands = Errands("test", due=due, run=run, clock=SystemClock(), membership=ALONE, look_again_s=60)
    await errands.start()
    async with asyncio.timeout(5):
        await hangs.wait()
        await done.wait()
    await errands.stop()


async def test_an_errand_that_fails_is_not_done_in_a_hurry_again():
    """What fails without moving its due time waits a moment, and the others go on."""
    attempts, others = [], asyncio.Event()

    async def due() -> dict[int, float]:
        return {1: 0.0} | ({} if others.is_set() else {2: 0.5})

    async def run(key: int) -> None:
        if key == 1:
            attempts.append(key)
            raise RuntimeError("no")
        others.set()

    errands = Errands("test", due=due, run=run, clock=SystemClock(), membership=ALONE, look_again_s=60)
    await errands.start()
    async with asyncio.timeout(5):
        await others.wait()
    for _ in range(50):
        errands.wake()
        await asyncio.sleep(0)  # let it look; nothing is waited for
    await errands.stop()

    assert attempts == [1]
