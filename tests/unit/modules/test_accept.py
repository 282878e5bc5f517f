"""Payloads are accepted by the tables, refused at the right place, and never by an error that is not ours."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from itertools import product
from typing import Any

import msgspec
import pytest

from engine.protocol.json_text import MalformedJson
from engine.protocol.modules import Module, SchemaViolation, all_modules, module
from engine.protocol.modules.check import accept, read_as
from engine.protocol.modules.classes import OcpiClass, Shape
from engine.protocol.modules.explain import (
    FOUND_LENGTH_MAX,
    PROBLEMS_MAX,
    Anything,
    ListOf,
    Row,
    Table,
    Text,
    explain,
    table_of,
)
from engine.protocol.modules.power_regulation import ChargingProfile, MeterReading
from engine.protocol.modules.sessions import ChargingPreferences
from tests.support.independent import objections
from tests.support.payloads import CLASSES, Declared, example, items_of, written
from tests.unit.modules.full import FULL, REQUESTS, at, drop, every_row, put

METER = b'{"value":1,"measurand":"POWER","unit":"W","component_level":"EVSE","location":"OUTLET"}'
EXAMPLES = {each.id: (each, each.payload, FULL[each.id]) for each in all_modules()} | REQUESTS

each_example = pytest.mark.parametrize(("each", "shape", "value"), EXAMPLES.values(), ids=EXAMPLES)


def found(module: Module, payload: dict[str, Any], *, tolerant: bool = False) -> list[str]:
    """Return the pointers of what is wrong, strict or tolerant."""
    with pytest.raises(SchemaViolation) as refused:
        module.accept(written(payload), tolerant=tolerant)
    return [problem.pointer for problem in refused.value.problems]


def warned(module: Module, payload: dict[str, Any]) -> list[str]:
    """Return the pointers of what a tolerant look warns of."""
    return [problem.pointer for problem in module.accept(written(payload), tolerant=True)]


def named(name: str) -> Module:
    """Return a module that is there."""
    found = module(name)
    assert found is not None
    return found


locations, statuses = named("locations"), named("evsestatuses")


@each_example
def test_examples(each: Module, shape: Shape, value: dict[str, Any]):
    """The examples of the reference pages are right in every eye: strict, tolerant, in detail, by the schema."""
    payload = written(value)

    assert accept(shape, payload) == accept(shape, payload, tolerant=True) == ()
    assert explain(shape, payload, tolerant=False).problem_count == 0
    assert objections(each.id, shape.__name__, payload) == set()


@pytest.mark.parametrize("each", all_modules(), ids=lambda each: each.id)
def test_fast(each: Module):
    """The example of a module is accepted from its bytes alone: no rule calls for a closer look without need."""
    assert type(msgspec.json.decode(written(FULL[each.id]), type=each.payload)) is each.payload


def declared(table: Table) -> Iterator[tuple[Table, Row]]:
    """Yield every row of a table and of the tables in it."""
    for row in table.rows:
        yield table, row
        if isinstance(inner := items_of(row.kind), Table):
            yield from declared(inner)


@pytest.mark.parametrize("each", all_modules(), ids=lambda each: each.id)
def test_every_row(each: Module):
    """The example of a module has a value in every row of every table."""
    filled_in = {id(row) for _, row in every_row(each.payload, FULL[each.id])}

    assert [(table.name, row.name) for table, row in declared(table_of(each.payload)) if id(row) not in filled_in] == []


@each_example
def test_faults_at_any_depth(each: Module, shape: type[OcpiClass], value: dict[str, Any]):
    """Wherever a row stands, its fault is told right there, and nothing else is: by us and by the schema."""
    for place, row in every_row(shape, value):
        if row.required:
            where, fault = place, drop(value, place)
        elif not isinstance(row.kind, Anything):
            where, fault = (*place, 0) if isinstance(row.kind, ListOf) else place, put(value, place, [[]])
        else:
            continue
        with pytest.raises(SchemaViolation) as refused:
            accept(shape, written(fault))

        assert [problem.pointer for problem in refused.value.problems] == [at(where)]
        assert objections(each.id, shape.__name__, written(fault)) == {at(where)}


SIZED = {
    row.kind: (each, row)
    for each in CLASSES
    if isinstance(each.kind, Table)
    for row in each.kind.rows
    if isinstance(row.kind, Text) and row.kind.length_max and not row.kind.pattern
}


@pytest.mark.parametrize(("each", "row"), SIZED.values(), ids=[kind.name for kind in SIZED])
def test_sizes(each: Declared, row: Row):
    """As many code points as allowed pass, also where each takes four bytes or two escapes; no code point more."""
    assert isinstance(row.kind, Text)
    assert row.kind.length_max
    whole = example(each.kind, 0)
    longest, longer = ({**whole, row.name: "🔌" * (row.kind.length_max + more)} for more in (0, 1))

    for payload in (written(longest), written(longest, ascii_only=False)):
        assert accept(each.shape, payload) == ()
        assert objections(each.module.id, each.kind.name, payload) == set()
    with pytest.raises(SchemaViolation, match=rf"^/{row.name}: "):
        accept(each.shape, written(longer))
    assert objections(each.module.id, each.kind.name, written(longer)) == {f"/{row.name}"}


@pytest.mark.parametrize(
    ("number", "is_int"),
    [
        (b"0", True),
        (b"-0", True),
        (b"-0.0", True),
        (b"1.0", True),
        (b"1e0", True),
        (b"10e-1", True),
        (b"1E400", True),
        (b"1E+2", True),
        (b"0e99999999999999999999", True),
        (b"1e99999999999999999999", True),
        (b"1" * 100_000, True),
        (b"1.5", False),
        (b"1e-1", False),
        (b"1e-99999999999999999999", False),
        (b"0.0000000000000000000000000000000000000000000000001", False),
        (b"1." + b"0" * 100_000 + b"1", False),
        (b"-1", False),
        (b"-1E400", False),
        (b'"1"', False),
        (b"true", False),
    ],
)
def test_int(number, is_int):
    """An int is a number from 0 on without a fraction, however it is written (B18, B44); it is never converted."""
    location = put(FULL["locations"], ("charging_pool", 0, "evses", 0, "connectors", 0, "max_voltage"), "NUMBER")
    payload = written(location).replace(b'"NUMBER"', number)

    if is_int:
        assert locations.accept(payload) == ()
    else:
        with pytest.raises(SchemaViolation, match="max_voltage"):
            locations.accept(payload)


@pytest.mark.parametrize("number", [b"1E400", b"-1E400", b"0.1234567890123456789", b"1e-99999999999999999999", b"-0.0"])
def test_number(number):
    """A number is any JSON number, however large or exact."""
    location = put(FULL["locations"], ("max_power", "value"), "NUMBER")

    assert locations.accept(written(location).replace(b'"NUMBER"', number)) == ()


@pytest.mark.parametrize(
    ("time", "strict", "tolerant"),
    [
        ("2015-06-29T20:39:09Z", True, True),
        ("2016-12-29T17:45:09.2Z", True, True),
        ("2018-01-01T01:08:01.123Z", True, True),
        ("2024-02-29T00:00:00Z", True, True),
        ("2000-02-29T00:00:00Z", True, True),
        ("2016-12-31T23:59:60Z", True, True),
        ("2018-01-01T01:08:01+00:00", True, True),
        ("2018-01-01t01:08:01z", True, True),
        ("2018-01-01T01:08:01.12Z", False, True),
        ("2018-01-01T01:08:01.123456Z", False, True),
        ("2018-01-01T01:08:01+02:00", False, True),
        ("2018-01-01T01:08:01", False, False),
        ("2018-01-01 01:08:01Z", False, False),
        ("2018-01-01", False, False),
        ("2018-01-01T01:08Z", False, False),
        ("2018-01-01T24:00:00Z", False, False),
        ("2018-01-01T23:60:00Z", False, False),
        ("2018-02-29T00:00:00Z", False, False),
        ("1900-02-29T00:00:00Z", False, False),
        ("2018-04-31T00:00:00Z", False, False),
        ("2018-13-01T00:00:00Z", False, False),
        ("2018-00-01T00:00:00Z", False, False),
        ("2018-01-00T00:00:00Z", False, False),
        ("2018-01-01T01:08:01.Z", False, False),
        ("2018-01-01T01:08:01Z ", False, False),
        ("2018-01-01T01:08:01Z\n", False, False),
        ("٢٠١٨-01-01T01:08:01Z", False, False),
        ("", False, False),
    ],
)
def test_times(time, strict, tolerant):
    """A DateTime is RFC 3339 in UTC with 0, 1 or 3 decimals; a tolerant reader takes any RFC 3339 time (B23, B26)."""
    payload = {"status": "CHARGING", "timestamp": time}

    for wanted, is_tolerant in ((strict, False), (tolerant, True)):
        if wanted:
            assert statuses.accept(written(payload), tolerant=is_tolerant) == ()
        else:
            assert found(statuses, payload, tolerant=is_tolerant) == ["/timestamp"]


@pytest.mark.parametrize("year", [1900, 1999, 2000, 2024, 2100])
def test_calendar(year: int):
    """The days that a DateTime knows are those of the calendar."""
    for month, day in product(range(14), range(33)):
        payload = written({"status": "CHARGING", "timestamp": f"{year}-{month:02}-{day:02}T00:00:00Z"})
        try:
            date(year, month, day)
        except ValueError:
            with pytest.raises(SchemaViolation, match="/timestamp"):
                statuses.accept(payload)
        else:
            assert statuses.accept(payload) == ()


@pytest.mark.parametrize(
    ("latitude", "longitude", "wrong"),
    [
        ("51.04759", "3.72994", []),
        ("-51.047599", "-126.1049651", ["/longitude"]),  # 12 characters
        ("-51.047599", "-126.104965", []),
        ("51.0475", "3.7299", ["/latitude", "/longitude"]),
        ("51,04759", "3.72994", ["/latitude"]),
        ("+51.04759", " 3.72994", ["/latitude", "/longitude"]),
        ("100.04759", "1000.72994", ["/latitude", "/longitude"]),
        ("51.04759\n", "\uff13.72994", ["/latitude", "/longitude"]),
    ],
)
def test_coordinates(latitude, longitude, wrong):
    """Coordinates are texts with a point and five to seven decimals."""
    place = ("address", "coordinates")
    location = put(FULL["locations"], place, {"latitude": latitude, "longitude": longitude})

    if wrong:
        assert found(locations, location) == [at(place) + each for each in wrong]
    else:
        assert locations.accept(written(location)) == ()


def test_all_at_once():
    """Everything that is wrong is told at once, with what is there and what should be."""
    location = put(FULL["locations"], ("publish",), "yes")
    location = put(location, ("help_phone",), "+32 2")
    location = put(location, ("charging_pool", 0, "evses", 0, "presence"), "GONE")
    location = drop(location, ("time_zone",))

    with pytest.raises(SchemaViolation) as refused:
        locations.accept(written(location))

    assert [str(problem) for problem in refused.value.problems] == [
        '/publish: expected true or false; found "yes"',
        '/charging_pool/0/evses/0/presence: expected one of PresenceStatus: PRESENT, PLANNED, REMOVED; found "GONE"',
        "/time_zone: expected AsciiString[1..255], printable ASCII, spaces allowed; found nothing",
        '/help_phone: expected CiAsciiString[1..25], printable ASCII without spaces; found "+32 2"',
    ]
    assert str(refused.value).splitlines() == [str(problem) for problem in refused.value.problems]


def test_many_problems():
    """Of very many problems all are counted, and a hundred are told."""
    location = put(FULL["locations"], ("services",), [1] * 10_000)

    with pytest.raises(SchemaViolation) as refused:
        locations.accept(written(location))

    assert refused.value.problem_count == 10_000
    assert len(refused.value.problems) == PROBLEMS_MAX
    assert str(refused.value).endswith("and 9900 more")


@pytest.mark.parametrize("value", ["x" * 1_000_000, "\x1b[31m\n\u2028", "\ud800", "9" * 1000, ["x"] * 1000, {"a": {}}])
def test_found_is_short_and_harmless(value):
    """What was found is shown in one short printable line."""
    with pytest.raises(SchemaViolation) as refused:
        statuses.accept(written({"status": value, "timestamp": value}))

    for problem in refused.value.problems:
        assert len(problem.found) < FOUND_LENGTH_MAX * 2
        assert problem.found.isprintable()


def test_unknown_fields():
    """Fields of no table are no one's business, at any depth and of any value."""
    location = put(FULL["locations"], ("x-operator",), {"a": [None, 1e300, {"publish": 7}]})
    location = put(location, ("charging_pool", 0, "evses", 0, "connectors", 0, "color"), "blue")

    assert locations.accept(written(location)) == ()


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_no_object(payload):
    """A payload that is no object is refused as a whole."""
    for each in all_modules():
        with pytest.raises(SchemaViolation) as refused:
            each.accept(payload)

        assert [problem.pointer for problem in refused.value.problems] == [""]


@pytest.mark.parametrize("payload", [b"", b"{", b'{"status":"\xff"}', b'{"status":NaN}', b"[" * 1_000_000])
def test_no_json(payload):
    """What is not JSON is refused as that, or as no object when it cannot be one."""
    for each in all_modules():
        with pytest.raises((MalformedJson, SchemaViolation)):
            each.accept(payload)


@each_example
def test_read_exactly(each: Module, shape: Shape, value: dict[str, Any]):
    """What is read has every row, and each number as it was written."""
    assert issubclass(shape, OcpiClass)
    seen = read_as(shape, written(value))
    for row in table_of(shape).rows:
        is_simple = not isinstance(row.kind, Table | ListOf | Anything) and row.name in value
        assert not is_simple or getattr(seen, row.attribute) == value[row.name]


def test_what_a_float_would_lose():
    """No digit is lost and no number is too large; 1.0 is an int; what is left out, or null, is None."""
    request = b'{"session_id":"S","profile_type":"CHEAP","energy_need":0.1234567890123456789,"departure_time":null}'
    seen = read_as(ChargingPreferences, request)
    assert (seen.energy_need, seen.departure_time) == (Decimal("0.1234567890123456789"), None)
    periods = b'[{"start_period":0.0,"limit":8.1}]'
    profile = b'{"id":"P","charging_rate_unit":"A","duration":6e1,"charging_profile_period":%b}' % periods
    seen = read_as(ChargingProfile, profile)
    assert (seen.duration, seen.charging_profile_period[0].limit) == (60, Decimal("8.1"))
    assert read_as(MeterReading, METER.replace(b"1", b"1E400")).value == Decimal("1E400")


def test_what_cannot_be_read():
    """What does not conform is not read: all that is wrong is told."""
    with pytest.raises(SchemaViolation) as refused:
        read_as(ChargingPreferences, b'{"session_id":7}')
    assert {each.pointer for each in refused.value.problems} == {"/session_id", "/profile_type"}
    with pytest.raises(MalformedJson):
        read_as(ChargingPreferences, b"{")
