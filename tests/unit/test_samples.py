"""Generated objects are valid, varied, fit together, and are the same every time."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import Any

import pytest

from engine import samples
from engine.protocol.ids import check_object_id
from engine.protocol.json_text import check_object
from engine.protocol.modules import module
from engine.protocol.modules.classes import OcpiClass
from engine.protocol.modules.explain import ListOf, Table, table_of
from engine.protocol.modules.locations import Location, Status
from engine.protocol.modules.sessions import SessionStatus
from engine.protocol.modules.tokens import WhitelistType
from engine.samples.prices import connectors, costs

THOUSAND = list(samples.locations(1_000))


def fields(table: type[OcpiClass], value: dict[str, Any]) -> Counter[str]:
    """Count which rows of which tables a payload fills in."""
    counted: Counter[str] = Counter()
    for row in table_of(table).rows:
        if row.name not in value:
            continue
        counted[f"{table.__name__}.{row.name}"] += 1
        kind = row.kind.items if isinstance(row.kind, ListOf) else row.kind
        inner = value[row.name]
        if isinstance(kind, Table):
            for each in inner if isinstance(inner, list) else [inner]:
                counted += fields(kind.table, each)
    return counted


def every_field(table: type[OcpiClass]) -> set[str]:
    """List the rows of a table and of the tables in it."""
    rows = table_of(table).rows
    kinds = [row.kind.items if isinstance(row.kind, ListOf) else row.kind for row in rows]
    inner = [every_field(kind.table) for kind in kinds if isinstance(kind, Table)]
    return {f"{table.__name__}.{row.name}" for row in rows}.union(*inner)


def accepts(name: str, sample: samples.Sample) -> bool:
    """Tell whether there is nothing to say about a sample."""
    check_object_id(sample.id)
    check_object(sample.payload)
    found = module(name)
    assert found is not None
    return found.accept(sample.payload) == ()


def test_valid():
    """A thousand generated Locations conform to the tables, and so do the statuses of all their EVSEs."""
    assert all(accepts("locations", each) for each in THOUSAND)
    assert all(accepts("evsestatuses", each) for each in samples.evse_statuses(THOUSAND))


def test_every_field():
    """Every row of every table of a Location is filled in somewhere in a thousand, and optional ones not always."""
    counted = sum((fields(Location, json.loads(each.payload)) for each in THOUSAND), Counter[str]())

    assert every_field(Location) <= counted.keys()
    assert counted["Location.owner"] < len(THOUSAND)


def test_varied():
    """They lie in several countries, have 1 to 40 EVSEs but mostly few, and are not all written alike."""
    evses = [len(samples.evse_uids(each.payload)) for each in THOUSAND]
    countries = {json.loads(each.payload).get("address", {}).get("country") for each in THOUSAND}

    assert (min(evses), max(evses)) == (1, 40)
    assert median(evses) <= 4
    assert len(countries) >= 8
    for written in (b"\n", b"\\u", "Ł".encode(), b"0.1234567890123456789", b"1E+6", b"0.10"):
        assert any(written in each.payload for each in THOUSAND)


def test_ids():
    """Ids are the party's and differ; statuses go by the uids of the EVSEs (R.06.01.04)."""
    statuses = list(samples.evse_statuses(THOUSAND))
    uids = [uid for each in THOUSAND for uid in samples.evse_uids(each.payload)]

    assert len({each.id for each in THOUSAND}) == len(THOUSAND)
    assert [each.id for each in statuses] == uids
    assert len(set(uids)) == len(uids)
    assert next(samples.locations(1, party="NLTNM")).id.startswith("NLTNM")


def test_same_every_time():
    """The same seed gives the same bytes, however many are asked for; another seed gives others."""
    assert list(samples.locations(10)) == THOUSAND[:10]
    assert list(samples.locations(10, seed=1)) != THOUSAND[:10]
    assert list(samples.evse_statuses(THOUSAND[:5])) == list(samples.evse_statuses(THOUSAND[:5]))


def test_number_of_evses():
    """The number of EVSEs can be narrowed down."""
    few = samples.locations(50, evses=(2, 3))

    assert {len(samples.evse_uids(each.payload)) for each in few} == {2, 3}


@pytest.mark.parametrize("size_bytes", [*range(2_380, 2_420), 1_500, 50_000])
def test_size(size_bytes):
    """A Location can be had in just the size that is wanted."""
    sample = samples.location_of_size(size_bytes)

    assert len(sample.payload) == size_bytes
    assert accepts("locations", sample)


def test_sizes_of_many():
    """Locations of one size differ by number."""
    several = [samples.location_of_size(number=n) for n in range(1, 50)]

    assert {len(each.payload) for each in several} == {samples.LOCATION_SIZE_BYTES}
    assert len({each.id for each in several}) == len({each.payload for each in several}) == len(several)
    assert all(accepts("locations", each) for each in several)


def test_size_too_small():
    """A size that no Location fits into is refused."""
    with pytest.raises(ValueError, match="more than 100 bytes"):
        samples.location_of_size(100)


def test_status_payload():
    """A status is written with or without its time."""
    assert samples.status_payload(Status.CHARGING) == b'{"status":"CHARGING"}'
    assert samples.status_payload("UNKNOWN", "2026-01-01T00:00:00Z") == (
        b'{"status":"UNKNOWN","timestamp":"2026-01-01T00:00:00Z"}'
    )


# -- the other modules ----------------------------------------------------------------------------------------

LOCATIONS = THOUSAND[:200]
TARIFFS = list(samples.tariffs(60))
ASSOCIATIONS = list(samples.tariff_associations(LOCATIONS, TARIFFS))
TOKENS = [*samples.tokens(300), *samples.tokens(50, party="DEOTH")]
SESSIONS = list(samples.sessions(600, locations=LOCATIONS, tariffs=TARIFFS, associations=ASSOCIATIONS, tokens=TOKENS))
CDRS = list(samples.cdrs(SESSIONS, locations=LOCATIONS, tariffs=TARIFFS))
OTHERS = {
    "tariffs": TARIFFS,
    "tariffassociations": ASSOCIATIONS,
    "tokens": TOKENS,
    "sessions": SESSIONS,
    "cdrs": CDRS,
    "meterreadings": list(samples.meter_samples(SESSIONS)),
    "irrs": list(samples.irrs(CDRS)),
}
MADE_OTHERWISE = {"CDR.credit", "CDR.credit_reference_id"}  # a Credit CDR is made of the CDR that it credits


def read(sample: samples.Sample) -> Any:
    """Read a payload, decimals as they are."""
    return json.loads(sample.payload, parse_float=Decimal)


def payload_table(name: str) -> type[OcpiClass]:
    """Return the class table of a module's objects."""
    found = module(name)
    assert found is not None
    return found.payload


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_valid(name: str):
    """Samples of the other modules conform to their tables, too, without a warning."""
    assert all(accepts(name, each) for each in OTHERS[name])


@pytest.mark.parametrize("name", OTHERS)
def test_every_field_of_others(name: str):
    """Every row of every table is filled in somewhere."""
    table = payload_table(name)
    counted = sum((fields(table, read(each)) for each in OTHERS[name]), Counter[str]())

    assert every_field(table) - counted.keys() <= MADE_OTHERWISE


@pytest.mark.parametrize("name", OTHERS)
def test_ids_of_others(name: str):
    """Ids differ, and begin with the party's."""
    assert len({each.id for each in OTHERS[name]}) == len(OTHERS[name])
    assert {each.id[:5] for each in OTHERS[name]} <= {"BEBEC", "NLEMS", "DEOTH"}


def test_decimals_of_others():
    """Here, too, are decimals that a float would spoil, and payloads that are written in other ways."""
    for name, written in (
        ("tariffs", b"0.1234567890123456789"),
        ("sessions", b".000"),
        ("cdrs", b"\n"),
        ("tokens", b"\\u"),
    ):
        assert any(written in each.payload for each in OTHERS[name]), (name, written)


def test_sessions_fit():
    """A Session is at a connector that is there, of a token that was issued, by the Tariff that holds there."""
    cards = {(token.id[:5], read(token)["uid"]) for token in TOKENS}
    known = {tariff.id: read(tariff) for tariff in TARIFFS}
    there = {each.id: connectors(each.payload) for each in LOCATIONS}
    associations = {each.id: read(each) for each in ASSOCIATIONS}
    for session in map(read, SESSIONS):
        association = associations[session["tariff_association_id"]]
        assert (session["cdr_token"]["party_id"], session["cdr_token"]["uid"]) in cards
        assert (association["tariff_id"], association["audience"]) == (session["tariff_id"], "REGULAR")
        assert association["start_date_time"] < session["start_date_time"]
        assert known[session["tariff_id"]]["last_updated"] < association["start_date_time"]
        if "connector" in session:
            assert session["connector"] in there[session["location_id"]]
            assert session["connector"] in association["connectors"]


def test_sessions_in_each_status():
    """Sessions are in each status, and only those that are over have an end."""
    statuses = Counter(session["status"] for session in map(read, SESSIONS))

    assert statuses.keys() == set(SessionStatus)
    assert statuses["COMPLETED"] == len(SESSIONS) / 2
    assert {s["status"] for s in map(read, SESSIONS) if "end_date_time" in s} == {"COMPLETED", "INVALID"}


def test_cdrs_fit():
    """There is a CDR for each completed Session; costs add up, and are those that the Session told."""
    sessions = {each.id: read(each) for each in SESSIONS if read(each)["status"] == "COMPLETED"}
    assert [read(each)["session_id"] for each in CDRS] == list(sessions)
    for cdr in map(read, CDRS):
        session = sessions[cdr["session_id"]]
        parts = [cdr.get(f"total_{part}_cost") for part in ("fixed", "energy", "time", "reservation")]
        assert cdr["total_cost"]["before_taxes"] == sum(part["before_taxes"] for part in parts if part)
        assert session.get("total_cost", cdr["total_cost"]) == cdr["total_cost"]
        assert cdr["total_energy"] == session["energy"] == volume(cdr, "ENERGY")
        assert cdr["total_time"] == volume(cdr, "TIME")
        assert cdr["cdr_token"] == session["cdr_token"]


def volume(cdr: Any, dimension: str) -> Decimal:
    """Add up what the periods of a CDR have of a dimension."""
    every = [each for period in cdr["charging_periods"] for each in period["dimensions"]]
    return sum((each["volume"] for each in every if each["type"] == dimension), start=Decimal(0))


def test_costs():
    """Costs are those of the Tariff: so much for the start, the energy, the time and the reservation, and taxes."""
    tax = [{"name": "VAT", "percentage": Decimal("5.5")}, {"name": "PST", "percentage": 7}]
    tariff = {
        "elements": [
            {
                "price_components": [{"type": "TIME", "price": 4, "taxes": tax[1:]}],
                "restrictions": {"reservation": "RESERVATION"},
            },
            {
                "price_components": [
                    {"type": "FLAT", "price": Decimal("0.50")},
                    {"type": "ENERGY", "price": Decimal("0.1234567890123456789"), "taxes": tax},
                    {"type": "TIME", "price": 2},
                ]
            },
        ]
    }
    cost = costs(tariff, energy_kwh=Decimal("10.001"), hours=Decimal("0.5"), reserved_hours=Decimal("0.25"))
    energy = Decimal("1.2346913469124691346789")

    assert (cost.fixed, cost.time) == ({"before_taxes": Decimal("0.50")}, {"before_taxes": 1})
    assert cost.reservation == {"before_taxes": 1, "taxes": [{"name": "PST", "amount": Decimal("0.07")}]}
    assert cost.energy is not None
    assert cost.energy["before_taxes"] == energy
    assert cost.total["before_taxes"] == energy + Decimal("2.5")
    assert {each["name"]: each["amount"] for each in cost.total["taxes"]} == {
        "VAT": energy * Decimal("0.055"),
        "PST": energy * Decimal("0.07") + Decimal("0.07"),
    }
    without = costs(tariff, energy_kwh=Decimal(0), hours=Decimal(0))
    assert (without.reservation, without.total["before_taxes"]) == (None, Decimal("0.50"))


def test_the_second_tariff_is_free():
    """A free Tariff is what the draft says that one is: a flat price of nothing."""
    assert read(TARIFFS[1])["elements"] == [{"price_components": [{"type": "FLAT", "price": 0}]}]


def test_meter_samples_fit():
    """A MeterSample is of a Session and its EVSE, or of neither."""
    sessions = {each.id: read(each) for each in SESSIONS}
    for sample in map(read, OTHERS["meterreadings"]):
        assert ("session_id" in sample) == ("evse_id" in sample)
        if "session_id" in sample:
            assert sample["evse_id"] == sessions[sample["session_id"]]["connector"]["evse_uid"]


def test_every_cdr_is_invoiced():
    """Each CDR is on one invoice, together with others of the same eMSP."""
    emsp = {each.id: read(each)["cdr_token"]["party_id"] for each in CDRS}
    invoiced = [read(each)["cdr_ids"] for each in OTHERS["irrs"]]

    assert sorted(id_ for ids in invoiced for id_ in ids) == sorted(emsp)
    assert all(len({emsp[id_] for id_ in ids}) == 1 for ids in invoiced)


def test_tokens_that_are_blocked():
    """Some tokens are not valid any more, and what a server made is never for a whitelist."""
    cards = list(map(read, TOKENS))

    assert sum("valid_until" in card for card in cards) == len(TOKENS) / 10
    assert {card["whitelist"] for card in cards if card["type"] in ("APP_USER", "AD_HOC_USER")} == {"NEVER"}
    assert {card["whitelist"] for card in cards} == set(WhitelistType)


def test_others_same_every_time():
    """The same seed gives the same bytes; another seed gives others."""
    order: dict[str, Any] = {
        "locations": LOCATIONS, "tariffs": TARIFFS, "associations": ASSOCIATIONS, "tokens": TOKENS
    }  # fmt: skip
    assert list(samples.tariffs(10)) == TARIFFS[:10]
    assert list(samples.tokens(10)) == TOKENS[:10]
    assert list(samples.tokens(10, seed=1)) != TOKENS[:10]
    assert list(samples.sessions(10, **order)) == SESSIONS[:10]
    assert list(samples.sessions(10, **order, seed=1)) != SESSIONS[:10]
    assert list(samples.cdrs(SESSIONS[:10], locations=LOCATIONS, tariffs=TARIFFS)) == CDRS[:5]


def test_sessions_of_another_time():
    """Sessions can be had up to another moment than the usual one; none is older than two months by then."""
    now = datetime(2026, 9, 1, 12, tzinfo=UTC)
    made = samples.sessions(
        100, locations=LOCATIONS, tariffs=TARIFFS, associations=ASSOCIATIONS, tokens=TOKENS, newest=now
    )
    times = [datetime.fromisoformat(read(each)["last_updated"]) for each in made]

    assert max(times) == now
    assert now - min(times) < timedelta(days=61)
