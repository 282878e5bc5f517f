"""Parties hosted here and at partners, and tokens of the local API."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.peers.client import FailureKind, PeerFailure
from engine.protocol.ids import PartyId
from engine.refusals import NotFoundHere, PeerSaidNo, PeerUnreachable, Refused
from engine.store import parties as rows
from engine.store import subscriptions
from tests.support.registration import Node, Sent, connect, new_folder, running

CPO, EMSP = "cpo.example.org", "emsp.example.org"
SECOND, HUB = PartyId("BEABC"), PartyId("NLHUB")


@pytest.fixture
async def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Node, Node]]:
    """Run a CPO and an EMSP that are connected, and in which an unknown party may be asked for at any time."""
    monkeypatch.setattr("engine.registration.parties.FIRST_PAUSE_S", 0.01)
    often = {"OCPI_ENGINE_PEERS__PARTIES_REFRESH_MIN_S": "0"}
    cpo_folder = await new_folder(tmp_path / "cpo", CPO, "BEBEC", "CPO")
    emsp_folder = await new_folder(tmp_path / "emsp", EMSP, "NLTNM", "EMSP")
    async with running(cpo_folder, often) as cpo, running(emsp_folder, often) as emsp:
        await connect(emsp, cpo)
        yield cpo, emsp


def asked(node: Node) -> int:
    """Count how often a platform asked for parties."""
    return sum(sent.path == "/parties" for sent in node.peers.sent)


def listed(node: Node, other: Node) -> list[str]:
    """List what a platform knows of another's parties."""
    return [party.party_id for party in node.directory.peer_parties(node.id_of(other))]


async def test_parties_come_and_go(pair: tuple[Node, Node]):
    """A party that is added is served after it was asked for, one that is removed no longer; others hear of it."""
    cpo, emsp = pair
    changes: list[int] = []

    async def on_changed(platform_id: int) -> None:
        changes.append(platform_id)

    async def broken(_platform_id: int) -> None:
        raise RuntimeError("somebody else's trouble")

    emsp.connections.partner_parties.on_changed += [broken, on_changed]
    await cpo.parties.add(
        "beabc", roles=["CPO"], name="ABC", website="https://abc.example", technical_contact={"name": "Desk"}
    )
    assert not emsp.directory.serves(emsp.id_of(cpo), SECOND)

    await emsp.connections.look_again(emsp.id_of(cpo))
    assert listed(emsp, cpo) == ["BEABC", "BEBEC"]
    party = emsp.directory.peer_party(emsp.id_of(cpo), SECOND)
    assert party is not None
    assert party.business_details == {
        "name": "ABC",
        "website": "https://abc.example",
        "technical_contact": {"name": "Desk"},
    }

    await cpo.parties.remove("BEABC")
    await emsp.connections.refresh_parties(cpo.identity)
    assert [party.party_id for party in await emsp.connections.parties_of(cpo.identity)] == ["BEBEC"]
    await emsp.connections.refresh_parties(cpo.identity)
    assert changes == [emsp.id_of(cpo)] * 2


@pytest.mark.requirement("R.02.01.03b")
async def test_a_hub_names_its_hub_party(pair: tuple[Node, Node]):
    """hub_party_id is there, the hub party may speak, and there can be one only."""
    cpo, emsp = pair
    await cpo.parties.add(HUB, roles=["HUB"], hub=True)
    with pytest.raises(Refused, match="hub party already"):
        await cpo.parties.add(SECOND, roles=["HUB"], hub=True)

    await emsp.connections.refresh_parties(cpo.identity)

    (sent,) = [sent for sent in emsp.peers.sent if sent.path == "/parties"][-1:]
    assert sent.answer is not None
    assert json.loads(sent.answer.body)["hub_party_id"] == HUB
    assert emsp.directory.hub_party(emsp.id_of(cpo)) == HUB
    assert emsp.directory.serves(emsp.id_of(cpo), HUB)


async def test_what_is_served_for_a_party(pair: tuple[Node, Node]):
    """Module and side both count, and a party that is not hosted serves nothing."""
    cpo, _ = pair

    assert cpo.directory.module_served(PartyId("BEBEC"), "locations", "SENDER")
    assert not cpo.directory.module_served(PartyId("BEBEC"), "locations", "RECEIVER")
    assert not cpo.directory.module_served(PartyId("BEBEC"), "nothing", "SENDER")
    assert not cpo.directory.module_served(SECOND, "locations", "SENDER")
    await cpo.parties.add("BEBEC", roles=["locations:RECEIVER"])
    assert cpo.directory.module_served(PartyId("BEBEC"), "locations", "RECEIVER")
    assert not cpo.directory.module_served(PartyId("BEBEC"), "locations", "SENDER")


async def test_unusable_parties_are_left_out_and_said(pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture):
    """Ours, odd and repeated ones: a security event, a note for the operator, and the others are used."""
    cpo, emsp = pair
    entries = [
        {"party_id": "BEBEC"},
        {"party_id": "NLTNM"},
        {"party_id": "x"},
        {"party_id": "bebec"},
        {"party_id": HUB},
    ]
    cpo.directory.odd_body = json.dumps({"parties": entries}).encode()

    with caplog.at_level(logging.WARNING, "engine.security"):
        await emsp.connections.refresh_parties(cpo.identity)

    assert listed(emsp, cpo) == ["BEBEC", HUB]
    (event,) = [record for record in caplog.records if getattr(record, "action", "") == "parties_left_out"]
    assert vars(event)["platform"] == CPO
    note = emsp.directory.platform(emsp.id_of(cpo)).last_error or ""
    assert "3 of its parties are left out" in note
    assert "NLTNM is hosted on this platform" in note


@pytest.mark.parametrize("envelope", ["data", "payload"])
async def test_parties_in_an_envelope(pair: tuple[Node, Node], envelope: str):
    """W4, W5."""
    cpo, emsp = pair
    body = {"status_code": 1000, "timestamp": "2026-01-01T00:00:00Z", envelope: {"parties": [{"party_id": SECOND}]}}
    cpo.directory.odd_body = json.dumps(body).encode()

    await emsp.connections.refresh_parties(cpo.identity)

    assert listed(emsp, cpo) == [SECOND]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>", PeerUnreachable),
        (b"", PeerUnreachable),
        (b"{}", PeerUnreachable),
        (b'{"parties":"BEBEC"}', PeerUnreachable),
        (b'{"status_code":3000,"status_message":"not today","timestamp":"t"}', PeerSaidNo),
        (b'{"parties":[' + b" " * 9_000_000 + b"]}", PeerUnreachable),
    ],
)
async def test_an_answer_that_is_no_list_changes_nothing(pair: tuple[Node, Node], body: bytes, error: type[Exception]):
    """What was known stays, the operator is told, and it is asked for again soon."""
    cpo, emsp = pair
    cpo.directory.odd_body = body

    with pytest.raises(error):
        await emsp.connections.refresh_parties(cpo.identity)
    await emsp.connections.look_again(emsp.id_of(cpo))  # never raises
    assert listed(emsp, cpo) == ["BEBEC"]
    assert emsp.directory.platform(emsp.id_of(cpo)).last_error

    await cpo.parties.add(SECOND, roles=["CPO"])
    cpo.directory.odd_body = None
    await emsp.until(lambda: listed(emsp, cpo) == [SECOND, "BEBEC"])
    assert emsp.directory.platform(emsp.id_of(cpo)).last_error is None


async def test_strangers_cannot_make_us_ask_without_end(tmp_path: Path):
    """Not more often than the setting says, and whoever asks at the same time shares one request."""
    cpo_folder = await new_folder(tmp_path / "cpo", CPO, "BEBEC", "CPO")
    emsp_folder = await new_folder(tmp_path / "emsp", EMSP, "NLTNM", "EMSP")
    rarely = {"OCPI_ENGINE_PEERS__PARTIES_REFRESH_MIN_S": "3600"}
    async with running(cpo_folder) as cpo, running(emsp_folder, rarely) as emsp:
        await connect(emsp, cpo)
        before = asked(emsp)
        for _ in range(20):
            await emsp.connections.look_again(emsp.id_of(cpo))
        assert asked(emsp) == before

        await asyncio.gather(*(emsp.connections.refresh_parties(cpo.identity) for _ in range(20)))
        assert asked(emsp) == before + 1


async def test_a_platform_that_is_not_connected_is_not_asked(pair: tuple[Node, Node]):
    """Neither by an operator nor because of a stranger; what it served is forgotten."""
    cpo, emsp = pair
    await emsp.connections.disconnect(cpo.identity)
    before = asked(emsp)

    await emsp.connections.look_again(emsp.id_of(cpo))
    with pytest.raises(Refused, match="not connected"):
        await emsp.connections.refresh_parties(cpo.identity)

    assert asked(emsp) == before
    assert listed(emsp, cpo) == []
    assert emsp.directory.platforms_of(PartyId("BEBEC")) == ()


async def test_an_answer_that_comes_after_the_end_is_not_stored(pair: tuple[Node, Node]):
    """The connection ends while the partner answers."""
    cpo, emsp = pair

    async def end_first(sent: Sent) -> None:
        if sent.path == "/parties":
            emsp.peers.before = None
            await emsp.connections.reset(cpo.identity)
            raise PeerFailure(FailureKind.DISCONNECTED, "closed", sent=True)

    emsp.peers.before = end_first
    with pytest.raises(PeerUnreachable):
        await emsp.connections.refresh_parties(cpo.identity)

    assert listed(emsp, cpo) == []
    assert emsp.state_of(cpo) == "ended"


async def test_a_party_that_moves_here_is_ours_at_once(pair: tuple[Node, Node]):
    """Whatever its old platform last said, it does not speak for a party of ours any more."""
    cpo, emsp = pair
    assert emsp.directory.serves(emsp.id_of(cpo), PartyId("BEBEC"))

    await emsp.parties.add("BEBEC", roles=["CPO"])

    assert not emsp.directory.serves(emsp.id_of(cpo), PartyId("BEBEC"))
    assert emsp.directory.platforms_of(PartyId("BEBEC")) == ()


async def test_parties_survive_a_restart(tmp_path: Path, pair: tuple[Node, Node]):
    """What is hosted and what partners serve is there before anybody is asked again."""
    cpo, emsp = pair
    await cpo.stop()
    await emsp.stop()

    async with running(emsp.folder) as again:
        assert [party.party_id for party in await again.parties.list()] == ["NLTNM"]
        assert listed(again, cpo) == ["BEBEC"]


async def test_a_party_with_subscriptions_is_not_removed(pair: tuple[Node, Node]):
    """End them first; what ended is no obstacle."""
    cpo, emsp = pair
    values = {
        "platform_id": emsp.id_of(cpo),
        "subscriber": "NLTNM",
        "producer": "BEBEC",
        "module": "locations",
        "module_alias": "locations",
        "life": 1,
        "retry_interval_s": 1.0,
        "parallelism_limit": 1,
        "began_at": 0.0,
    }
    async with emsp.database.transaction() as tx:
        await subscriptions.add_inbound(tx, state="live", **values)
    with pytest.raises(Refused, match="1 subscription"):
        await emsp.parties.remove("NLTNM")

    async with emsp.database.transaction() as tx:
        (row,) = await subscriptions.all_inbound(tx)
        await subscriptions.change_inbound(tx, row, state="ended")
    await emsp.parties.remove("nltnm")

    assert await emsp.parties.list() == []
    with pytest.raises(NotFoundHere):
        await emsp.parties.remove("NLTNM")


@pytest.mark.parametrize(
    "order",
    [
        {"party": "TOOLONG"},
        {"party": "12345"},
        {"party": "BEABC", "roles": ["DRIVER"]},
        {"party": "BEABC", "name": "x" * 101},
        {"party": "BEABC", "website": "javascript:alert(1)"},
    ],
)
async def test_parties_that_cannot_be_hosted(pair: tuple[Node, Node], order: dict[str, str]):
    """An id, a role or details that partners could not read are refused."""
    cpo, _ = pair
    with pytest.raises(Refused):
        await cpo.parties.add(**{"roles": ["CPO"], **order})  # type: ignore[arg-type]

    assert [party.party_id for party in await cpo.parties.list()] == ["BEBEC"]


async def test_tokens_are_shown_once_and_kept_as_digests(pair: tuple[Node, Node]):
    """A token opens what it is for, until it is removed; the database never holds it."""
    cpo, _ = pair
    made = await cpo.tokens.add("back-office", PartyId("BEBEC"))
    await cpo.tokens.add("monitoring")

    found = await cpo.tokens.find(made.token)
    assert found is not None
    assert (found.name, found.party) == ("back-office", "BEBEC")
    assert [(token.name, token.party) for token in await cpo.tokens.list()] == [
        ("back-office", "BEBEC"),
        ("monitoring", None),
    ]
    async with cpo.database.reading() as tx:
        assert all(made.token not in repr(row) for row in await rows.all_tokens(tx))
    assert await cpo.tokens.find("guess") is None
    for name in ("back-office", "", "a b", "x" * 65):
        with pytest.raises(Refused):
            await cpo.tokens.add(name)

    await cpo.tokens.remove("back-office")
    assert await cpo.tokens.find(made.token) is None
    with pytest.raises(NotFoundHere):
        await cpo.tokens.remove("back-office")
