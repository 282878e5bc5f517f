"""Chapters 5 to 13, replication: each of the nine modules goes out and comes in, is what its table says, and no more.

A real engine, and scripted partners: subscribers of what a party of the engine issues, and issuers that a party of
the engine subscribes to. What arrives is read by ``jsonschema``, which knows our schemas and nothing else of ours.
Of hubs, this is what the engine does as a partner of one, and as a hub that receives; it passes nothing on yet.
"""

import copy
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import pytest_asyncio

from engine import samples
from engine.samples import Sample
from tests.support.backing import Backing
from tests.support.independent import objections
from tests.support.peer import SUBSCRIBE, Peer, World, world

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapters 5 to 13")]

CHAPTERS: Final = {
    "locations": 5,
    "evsestatuses": 6,
    "sessions": 7,
    "cdrs": 8,
    "tariffs": 9,
    "tariffassociations": 10,
    "tokens": 11,
    "irrs": 12,
    "metersamples": 13,
    "meterreadings": 13,
}
"""Names that are subscribed by; the last two are one module (W8)."""
OF_A_TOKEN: Final = ("sessions", "cdrs")
"""Modules whose objects concern the party of a token."""
SNAPSHOT_DAYS: Final = 90
DAY: Final = timedelta(days=1)

Payload = dict[str, Any]


def each_module(requirement: int) -> Any:
    """Run a test for each module: it shows this requirement of the first use case of each chapter."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.requirement(f"R.{chapter:02}.01.{requirement:02}"))
            for name, chapter in CHAPTERS.items()
        ],
    )


def canonical(name: str) -> str:
    """Return the module's own name (W8)."""
    return "meterreadings" if name == "metersamples" else name


# -- a world in which somebody charges ----------------------------------------------------------------------


def made(name: str, issuer: str, receiver: str) -> dict[str, bytes]:
    """Make a few objects of a module; Sessions and CDRs are of tokens of the receiver."""
    return {sample.id: sample.payload for sample in everything(issuer, receiver)[canonical(name)]}


def everything(issuer: str, *emsps: str, newest: datetime | None = None) -> dict[str, list[Sample]]:
    """Make a few objects of each module; Sessions and CDRs are of tokens of these parties."""
    now = newest or datetime.now(UTC)
    locations = list(samples.locations(6, party=issuer, evses=(1, 2)))
    tariffs = list(samples.tariffs(9, party=issuer))
    associations = list(samples.tariff_associations(locations, tariffs, party=issuer))
    tokens = [token for emsp in emsps for token in samples.tokens(4, party=emsp)]
    sessions = list(
        samples.sessions(
            24, locations=locations, tariffs=tariffs, associations=associations, tokens=tokens, party=issuer, newest=now
        )
    )
    cdrs = list(samples.cdrs(sessions, locations=locations, tariffs=tariffs, party=issuer))
    return {
        "locations": locations,
        "evsestatuses": list(samples.evse_statuses(locations)),
        "sessions": sessions,
        "cdrs": cdrs,
        "tariffs": tariffs,
        "tariffassociations": associations,
        "tokens": list(samples.tokens(8, party=issuer)),
        "irrs": list(samples.irrs(cdrs, per_invoice=5, party=issuer)),
        "meterreadings": list(samples.meter_samples(sessions[:8], party=issuer)),
    }


BROKEN: Final[Mapping[str, tuple[tuple[str | int, ...], tuple[str | int, ...], object]]] = {
    # what is left out, and where something else stands
    "locations": (("charging_pool", 0, "id"), ("publish",), "yes"),
    "evsestatuses": (("status",), ("timestamp",), "yesterday"),
    "sessions": (("cdr_token", "uid"), ("energy",), "12.5"),
    "cdrs": (("cdr_location", "id"), ("total_cost", "before_taxes"), "8.50"),
    "tariffs": (("currency",), ("elements", 0, "price_components", 0, "price"), "free"),
    "tariffassociations": (("tariff_id",), ("connectors",), []),
    "tokens": (("whitelist",), ("language",), "Dutch"),
    "irrs": (("invoice_id",), ("cdr_ids", 0), 7),
    "meterreadings": (("timestamp",), ("readings", 0, "value"), "12"),
}


def broken(name: str, payload: bytes) -> tuple[bytes, set[str]]:
    """Break a payload in two places; returns the pointers to them."""
    missing, wrong, value = BROKEN[canonical(name)]
    changed = copy.deepcopy(json.loads(payload))
    inside(changed, missing).pop(missing[-1])
    inside(changed, wrong)[wrong[-1]] = value
    return json.dumps(changed).encode(), {"/" + "/".join(map(str, place)) for place in (missing, wrong)}


def inside(payload: Payload, place: tuple[str | int, ...]) -> Any:
    """Find what holds the last step of a path."""
    inner: Any = payload
    for step in place[:-1]:
        inner = inner[step]
    return inner


# -- fixtures -----------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One engine for all tests here; each brings its own partner and its own party."""
    async with world(tmp_path_factory.mktemp("modules"), backing=backing) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def partner(one: World) -> Peer:
    """Register a partner for all tests that need one with two parties."""
    return await one.new_peer("NLEMA", "NLEMB")


@pytest_asyncio.fixture(loop_scope="module")
async def peer(partner: Peer) -> Peer:
    """Let it forget what it heard in other tests; each test brings a party of the engine that nobody knows yet."""
    partner.requests.clear()
    return partner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub_partner(one: World) -> Peer:
    """Register a partner with a hub party, and two parties behind it."""
    return await one.new_peer("NLHUB", "DEAAA", "DEBBB", hub="NLHUB")


@pytest_asyncio.fixture(loop_scope="module")
async def hub(hub_partner: Peer) -> Peer:
    """Let it forget what it heard in other tests."""
    hub_partner.requests.clear()
    return hub_partner


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub_of_ours(one: World) -> str:
    """Host the hub party of the engine's platform; there can be one only."""
    await one.api("POST", "/parties", {"party_id": "BEHUB", "roles": ["HUB"], "hub": True})
    return "BEHUB"


async def issuer_of(one: World, name: str) -> str:
    """Host a party that issues objects of this module."""
    return await one.new_party("EMSP" if name == "tokens" else "CPO")


async def receiver_of(one: World, name: str) -> str:
    """Host a party that receives objects of this module."""
    return await one.new_party("CPO" if name == "tokens" else "EMSP")


async def subscribe(one: World, subscriber: str, producer: str, name: str) -> None:
    """Have the engine subscribe its party."""
    await one.api("POST", "/subscriptions", {"subscriber": subscriber, "producer": producer, "module": name})


async def published(one: World, party: str, name: str, object_id: str, payload: bytes) -> Any:
    """Publish one object that may be refused; returns what became of it."""
    line = b'{"id":%b,"payload":%b}' % (json.dumps(object_id).encode(), payload)
    answer = await one.api(
        "POST",
        f"/parties/{party}/objects/{canonical(name)}",
        content=b"[%b]" % line,
        headers={"Content-Type": "application/json"},
    )
    return answer["results"][0]


def arrived(peer: Peer, name: str, receiver: str | None = None) -> dict[str, bytes]:
    """Read what a partner was sent under this module's name."""
    return {
        update.object_id: update.payload
        for update in peer.of("update", module=name)
        if receiver in (None, update.receiver)
    }


# -- each module, out and in ----------------------------------------------------------------------------------


@each_module(1)
async def test_what_a_party_issues_is_subscribed_to_by_the_module_s_name(one: World, peer: Peer, name: str):
    """A subscribe by the ModuleID is served, and the updates come under the name that the subscriber used (W8)."""
    party = await issuer_of(one, name)
    objects = made(name, party, peer.party)
    await one.publish(party, canonical(name), objects)
    assert (await peer.subscribe(party, name)).code == 1000
    await peer.updated(objects)

    assert arrived(peer, name) == objects
    assert {update.path for update in peer.of("update")} == {f"/from/{party}/to/{peer.party}/{name}/update"}
    assert (await peer.request(party, name, "state", method="GET")).code == 1000


@each_module(1)
async def test_the_engine_subscribes_by_the_module_s_name(one: World, peer: Peer, name: str):
    """The engine asks by the ModuleID that it was told, and what comes under that name is stored as it came."""
    party = await receiver_of(one, name)
    await subscribe(one, party, peer.party, name)
    (asked,) = peer.of(SUBSCRIBE)
    objects = made(name, peer.party, party)
    for object_id, payload in objects.items():
        assert (await peer.update(party, name, object_id, 1, payload)).code == 1000

    assert asked.path == f"/from/{party}/to/{peer.party}/{name}"
    assert await one.received(canonical(name), party) == {key: (1, value) for key, value in objects.items()}


@each_module(3)
async def test_what_is_sent_conforms_to_the_class(one: World, peer: Peer, name: str):
    """What arrives conforms for an independent validator; what does not is refused, with its pointers, and not sent."""
    party = await issuer_of(one, name)
    await peer.subscribe(party, name)
    objects = made(name, party, peer.party)
    (bad_id, good), *others = objects.items()
    bad, pointers = broken(name, good)
    refusal = await published(one, party, name, bad_id, bad)
    await one.publish(party, canonical(name), dict(others))
    await peer.updated(dict(others))

    assert refusal["outcome"] == "refused"
    assert all(pointer in refusal["reason"] for pointer in pointers), refusal
    assert arrived(peer, name) == dict(others)
    for payload in arrived(peer, name).values():
        assert objections(canonical(name), None, payload) == set()
    assert objections(canonical(name), None, bad) == pointers


@each_module(3)
async def test_what_does_not_conform_is_not_taken(one: World, peer: Peer, name: str):
    """An update that breaks its class is 6001 with the pointers in ``data``; mended, the same version is taken."""
    party = await receiver_of(one, name)
    await subscribe(one, party, peer.party, name)
    object_id, good = next(iter(made(name, peer.party, party).items()))
    bad, pointers = broken(name, good)
    answer = await peer.update(party, name, object_id, 1, bad)

    assert (answer.status, answer.code, answer.fields) == (200, 6001, pointers)
    assert all(problem["expected"] for problem in answer.data)
    assert await one.received(canonical(name), party) == {}
    assert (await peer.update(party, name, object_id, 1, good)).status == 201
    assert await one.received(canonical(name), party) == {object_id: (1, good)}


@each_module(2)
async def test_a_hub_party_may_subscribe(one: World, hub: Peer, name: str):
    """A partner's hub party is served; a Session or CDR of a party behind it is sent if it is issued for the hub."""
    party = await issuer_of(one, name)
    objects = made(name, party, "DEBBB")
    await one.publish(party, canonical(name), objects, audience=["NLHUB"] if name in OF_A_TOKEN else None)
    assert (await hub.subscribe(party, name, sender="NLHUB")).code == 1000
    await hub.updated(objects)

    assert arrived(hub, name, "NLHUB") == objects


@each_module(2)
@pytest.mark.parametrize("as_hub", [False, True])
async def test_a_hub_party_may_be_subscribed_to(one: World, hub: Peer, hub_of_ours: str, name: str, as_hub: bool):
    """What a partner's hub party sends of parties behind it is stored under their names; so may our own hub ask."""
    party = hub_of_ours if as_hub else await receiver_of(one, name)
    await subscribe(one, party, "NLHUB", name)
    object_id, payload = next(iter(made(name, "DEAAA", party).items()))
    for issuer in ("DEAAA", "DEBBB"):
        assert (await hub.update(party, name, object_id, 1, payload, issuer=issuer)).code == 1000
    stranger = await hub.update(party, name, object_id, 2, payload, issuer="DEZZZ")

    (asked,) = hub.of(SUBSCRIBE)
    assert asked.path == f"/from/{party}/to/NLHUB/{name}"
    assert stranger.code == 2000, "who is not behind the hub does not come through it"
    async with one.engine.api() as api:
        query = {"receiver": party, "platform": hub.identity}
        found = (await api.get(f"/api/v1/received/{canonical(name)}", params=query)).json()["objects"]
    assert {each["issuer"] for each in found} == {"DEAAA", "DEBBB"}


@each_module(2)
async def test_the_engine_may_subscribe_as_a_hub(one: World, peer: Peer, hub_of_ours: str, name: str):
    """The hub party of the engine's platform subscribes to a partner's party, and stores what that party sends it."""
    await subscribe(one, hub_of_ours, peer.party, name)
    objects = made(name, peer.party, "DEAAA")
    for object_id, payload in objects.items():
        assert (await peer.update(hub_of_ours, name, object_id, 1, payload)).code == 1000

    (asked,) = peer.of(SUBSCRIBE)
    assert asked.path == f"/from/{hub_of_ours}/to/{peer.party}/{name}"
    async with one.engine.api() as api:
        query: dict[str, str | int] = {"receiver": hub_of_ours, "platform": peer.identity, "limit": 1000}
        found = (await api.get(f"/api/v1/received/{canonical(name)}", params=query)).json()["objects"]
    assert {each["id"] for each in found} == objects.keys()


# -- chapter 5 ------------------------------------------------------------------------------------------------


async def test_a_tolerant_platform_s_locations_may_lack_what_the_draft_s_examples_lack(one: World, peer: Peer):
    """Without ``presence`` and parking ``direction`` a Location is taken with warnings that state counts (B23)."""
    party = await one.new_party("EMSP")
    tolerant = await one.new_stranger()
    await tolerant.exchange_certificates(one.engine)
    await one.api("POST", f"/platforms/{tolerant.identity}/connect", {"base_url": tolerant.base_url, "tolerant": True})
    await tolerant.refresh_parties()
    for platform in (peer, tolerant):
        await subscribe(one, party, platform.party, "locations")
    (location,) = samples.locations(1, evses=(2, 2))
    payload = json.loads(location.payload)
    for station in payload["charging_pool"]:
        for evse in station["evses"]:
            del evse["presence"], evse["parking"]["direction"]
    examples = json.dumps(payload).encode()

    refused = await peer.update(party, "locations", "L1", 1, examples)
    assert (refused.code, len(refused.data)) == (6001, 4)
    assert (await tolerant.update(party, "locations", "L1", 1, examples)).status == 201
    assert await one.received("locations", party) == {"L1": (1, examples)}
    platforms = {each["identity"]: each for each in (await one.engine.state())["platforms"]}
    assert platforms[peer.identity]["warnings"] == {}
    assert platforms[tolerant.identity]["warnings"] == {
        "locations/charging_pool/*/evses/*/presence": 2,
        "locations/charging_pool/*/evses/*/parking/direction": 2,
    }
    wrong = json.dumps(payload | {"time_zone": 1}).encode()
    assert (await tolerant.update(party, "locations", "L1", 2, wrong)).code == 6001, "a type is a type"


# -- chapter 6 ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.06.01.04")
async def test_statuses_go_by_the_uids_of_the_evses(one: World, peer: Peer):
    """Who has the Locations finds the status of each EVSE under its ``uid``, whichever came first (R.03.02.21)."""
    party = await one.new_party("CPO")
    locations = list(samples.locations(5, party=party))
    statuses = {each.id: each.payload for each in samples.evse_statuses(locations)}
    await peer.subscribe(party, "evsestatuses")
    await peer.subscribe(party, "locations")
    await one.publish(party, "evsestatuses", statuses)
    await one.publish(party, "locations", {each.id: each.payload for each in locations})
    await peer.updated([*statuses, *(each.id for each in locations)])

    uids = [uid for payload in arrived(peer, "locations").values() for uid in samples.evse_uids(payload)]
    assert sorted(arrived(peer, "evsestatuses")) == sorted(uids)


# -- chapters 7 and 8 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_A_TOKEN)
async def test_sessions_and_cdrs_reach_only_the_party_of_their_token(one: World, peer: Peer, name: str):
    """Two eMSPs of one platform are sent what concerns each; what concerns a third goes nowhere, and nobody owes it."""
    party = await one.new_party("CPO")
    objects = everything(party, "NLEMA", "NLEMB", "DEOTH")[name]
    of_party: dict[str, set[str]] = {"NLEMA": set(), "NLEMB": set(), "DEOTH": set()}
    for each in objects:
        of_party[json.loads(each.payload)["cdr_token"]["party_id"]].add(each.id)
    assert all(of_party.values())

    early, late = objects[::2], objects[1::2]  # in the snapshot, and pushed
    await one.publish(party, name, {each.id: each.payload for each in early})
    for emsp in ("NLEMA", "NLEMB"):
        await peer.subscribe(party, name, sender=emsp)
    await one.publish(party, name, {each.id: each.payload for each in late})
    await peer.updated(of_party["NLEMA"] | of_party["NLEMB"])

    for emsp in ("NLEMA", "NLEMB"):
        assert arrived(peer, name, emsp).keys() == of_party[emsp]
        state = await peer.request(party, name, "state", method="GET", sender=emsp)
        assert state.data["current_queue_size"] == 0
    (stranger, *_) = of_party["DEOTH"]
    asked = await peer.request(party, name, "request-full-update", {"id": stranger}, sender="NLEMA")
    assert asked.code == 5006, "nor is it there for whoever asks"


async def test_a_completed_session_does_not_change_any_more(one: World, peer: Peer):
    """A Session changes until it is COMPLETED; then its publisher is refused, and no later version goes out."""
    party = await one.new_party("CPO")
    await peer.subscribe(party, "sessions")
    sessions = {each.id: json.loads(each.payload) for each in everything(party, peer.party)["sessions"]}
    object_id, session = next((id_, each) for id_, each in sessions.items() if each["status"] == "COMPLETED")
    going_on = {key: value for key, value in session.items() if key != "end_date_time"} | {"status": "ACTIVE"}

    outcomes = [
        await published(one, party, "sessions", object_id, json.dumps(payload).encode())
        for payload in (going_on, going_on | {"energy": 1}, session, session | {"energy": 99}, going_on, session)
    ]
    await one.publish(party, "sessions", {"MARK": json.dumps(session).encode()})  # after all that was to be sent
    await peer.updated([object_id, "MARK"])
    await peer.until(lambda: peer.of("update", object_id=object_id)[-1].version == outcomes[2]["version"])

    assert [each["outcome"] for each in outcomes] == [
        "created", "changed", "changed", "refused", "refused", "unchanged"
    ]  # fmt: skip
    assert "COMPLETED" in outcomes[3]["reason"]
    assert json.loads(arrived(peer, "sessions")[object_id]) == session


@pytest.mark.parametrize("name", OF_A_TOKEN)
async def test_a_snapshot_leaves_out_what_was_over_long_ago(one: World, peer: Peer, name: str):
    """Who subscribes gets what goes on, and what was over in the last 90 days; what is published then, at any age."""
    party = await one.new_party("CPO")
    now = datetime.now(UTC)
    young = everything(party, peer.party, newest=now)[name]
    old = [Sample(f"OLD-{each.id}", each.payload) for each in long_ago(party, peer.party, now)[name]]
    going_on = [each for each in old if json.loads(each.payload).get("status") in ("ACTIVE", "PENDING", "RESERVATION")]
    over = [each for each in old if each not in going_on]
    await one.publish(party, name, {each.id: each.payload for each in [*young, *old]})
    await peer.subscribe(party, name)
    first, second = over[:2]
    await one.publish(party, name, {f"LATE-{first.id}": first.payload})
    await peer.updated([f"LATE-{first.id}", *(each.id for each in [*young, *going_on])])
    await peer.request(party, name, "request-full-update", {"id": second.id})
    await peer.updated([second.id])

    assert arrived(peer, name).keys() == {
        f"LATE-{first.id}", second.id, *(each.id for each in [*young, *going_on])
    }  # fmt: skip
    assert len(over) > 2


def long_ago(issuer: str, emsp: str, now: datetime) -> dict[str, list[Sample]]:
    """Make a few objects of which none was over in the last 90 days."""
    return everything(issuer, emsp, newest=now - (SNAPSHOT_DAYS + 1) * DAY)


# -- chapters 9 and 10 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tariffs", marks=pytest.mark.requirement("R.09.01.04")),
        pytest.param("tariffassociations", marks=pytest.mark.requirement("R.10.01.04")),
    ],
)
async def test_what_never_changes_is_sent_in_one_version(one: World, peer: Peer, name: str):
    """A changed Tariff or Tariff Association is refused where it is published; only the first version goes out."""
    party = await one.new_party("CPO")
    await peer.subscribe(party, name)
    (object_id, payload), *others = made(name, party, peer.party).items()
    changed = json.dumps(json.loads(payload) | {"last_updated": "2026-01-01T00:00:00Z"}).encode()
    outcomes = [await published(one, party, name, object_id, each) for each in (payload, changed, payload)]
    await one.publish(party, name, dict(others))
    await peer.updated([object_id, *dict(others)])
    assert (await peer.request(party, name, "request-full-update", {"id": object_id})).code == 1000
    await peer.heard("update", 2, object_id=object_id)

    assert [each["outcome"] for each in outcomes] == ["created", "refused", "unchanged"]
    assert "cannot be changed" in outcomes[1]["reason"]
    assert {(each.version, each.payload) for each in peer.of("update", object_id=object_id)} == {(1, payload)}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tariffs", marks=pytest.mark.requirement("R.09.01.05")),
        pytest.param("tariffassociations", marks=pytest.mark.requirement("R.10.01.05")),
    ],
)
async def test_another_version_of_what_never_changes_is_6003(one: World, peer: Peer, name: str):
    """An update with another version is answered 6003 without a payload, and our copy stays; the same one is 1000."""
    party = await one.new_party("EMSP")
    await subscribe(one, party, peer.party, name)
    (object_id, payload), (_, other), *_ = made(name, peer.party, party).items()
    assert (await peer.update(party, name, object_id, 3, payload)).status == 201
    changed = await peer.update(party, name, object_id, 4, other)

    assert (changed.status, changed.code) == (200, 6003)
    assert not {"data", "payload"} & changed.json.keys()
    assert (await peer.update(party, name, object_id, 3, payload)).code == 1000
    assert await one.received(name, party) == {object_id: (3, payload)}


# -- chapter 11 -----------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.11.01.04")
async def test_a_token_s_id_need_not_be_its_uid(one: World, peer: Peer):
    """Two Tokens with one uid, of two types, go out under two ids, and come in so as well."""
    ours, theirs = await one.new_party("EMSP"), await one.new_party("CPO")
    token = json.loads(next(samples.tokens(1)).payload)
    twins = {
        f"TWIN-{kind}": json.dumps(token | {"uid": "0A1B2C3D", "type": kind}).encode() for kind in ("RFID", "APP_USER")
    }
    await peer.subscribe(ours, "tokens")
    await one.publish(ours, "tokens", twins)
    await peer.updated(twins)
    await subscribe(one, theirs, peer.party, "tokens")
    for object_id, payload in twins.items():
        assert (await peer.update(theirs, "tokens", object_id, 1, payload)).status == 201

    assert arrived(peer, "tokens") == twins
    assert await one.received("tokens", theirs) == {key: (1, value) for key, value in twins.items()}
