"""Generated Locations are valid, varied, and the same every time."""

import json
from collections import Counter
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
