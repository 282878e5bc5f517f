"""Payloads are accepted by the tables, refused at the right place, and never by an error that is not ours."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol.json_text import MalformedJson
from engine.protocol.modules import Module, SchemaViolation, all_modules, module
from engine.protocol.modules.classes import OpenEnum
from engine.protocol.modules.explain import (
    FOUND_LENGTH_MAX,
    PROBLEMS_MAX,
    Boolean,
    Kind,
    ListOf,
    Numeric,
    Problem,
    Row,
    Table,
    Text,
    Values,
    explain,
)
from tests.unit.modules.full import FULL, Place, at, drop, every_row, put, written

CASES = [
    (each, place, row)
    for each in all_modules()
    if each.id in FULL
    for place, row in every_row(each.payload, FULL[each.id])
]

# Rows that a rule asks for beside others; those rules have tests of their own.
WANTED_BY_A_RULE = {"regular_hours", "type", "issuer"}


def rows_where(wanted: Callable[[Row], bool]) -> pytest.MarkDecorator:
    """Run a test for each row of this sort, in a place where it has a value."""
    cases = [pytest.param(each, place, row, id=f"{each.id}:{at(place)}") for each, place, row in CASES if wanted(row)]
    return pytest.mark.parametrize(("each", "place", "row"), cases)


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


@pytest.mark.parametrize("name", FULL)
def test_full(name):
    """With every row of every table filled in, there is nothing to say, strict or tolerant, fast or in detail."""
    payload = written(FULL[name])

    assert named(name).accept(payload) == ()
    assert named(name).accept(payload, tolerant=True) == ()
    assert explain(named(name).payload, payload, tolerant=False).problem_count == 0


@rows_where(lambda _: True)
def test_left_out(each: Module, place: Place, row: Row):
    """What has to be there is missed at its place; to a tolerant reader that is a warning; the rest may be left out."""
    without = drop(FULL[each.id], place)

    if row.required:
        assert found(each, without) == [at(place)]
        assert warned(each, without) == [at(place)]
    elif row.name not in WANTED_BY_A_RULE:
        assert each.accept(written(without)) == ()


@rows_where(lambda _: True)
def test_null(each: Module, place: Place, row: Row):
    """``null`` counts as left out (W21)."""
    empty = put(FULL[each.id], place, None)

    if row.required:
        assert found(each, empty) == [at(place)]
        assert warned(each, empty) == [at(place)]
    elif row.name not in WANTED_BY_A_RULE:
        assert each.accept(written(empty)) == ()


def wrong_values(row: Row, value: Any) -> list[Any]:
    """Return values that neither a strict nor a tolerant reader takes in this row."""
    match row.kind:
        case Text() as text:
            long = [] if text.length_max is None else [(value * (text.length_max + 1))[: text.length_max + 1]]
            return [1, True, [value], {}, "\ud800", *long, *([] if text.pattern is None else [value + "\n"])]
        case Numeric() as number:
            limits = [] if number.at_least is None else [number.at_least - 1]
            limits += [] if number.at_most is None else [number.at_most + 1]
            return ["1", True, [], {}, *limits, *([1.5] if number.whole else [])]
        case Boolean():
            return ["true", 0, 1, [], {}]
        case Values():
            return [1, False, [value], {}, "\ud800"]
        case ListOf():
            return [{}, "x", 1, value[0], [None], [[]]]
        case Table():
            return [[], [value], "x", 1, False]
    raise AssertionError(row.kind)


@rows_where(lambda _: True)
def test_wrong(each: Module, place: Place, row: Row):
    """A wrong type, size or form is refused at its place, by a tolerant reader too."""
    value: Any = FULL[each.id]
    for token in place:
        value = value[token]

    for wrong in wrong_values(row, value):
        pointers = found(each, put(FULL[each.id], place, wrong))

        # [None] and [[]] are lists, so it is their item that is wrong
        assert pointers == [at((*place, 0)) if wrong in ([None], [[]]) and isinstance(row.kind, ListOf) else at(place)]
        assert found(each, put(FULL[each.id], place, wrong), tolerant=True) == pointers


def items(row: Row) -> Kind:
    """Return what a row holds, one or a list of it."""
    return row.kind.items if isinstance(row.kind, ListOf) else row.kind


@rows_where(lambda row: isinstance(items(row), Values))
def test_unknown_value(each: Module, place: Place, row: Row):
    """An OpenEnum takes any text; an enum only its own, and of a tolerant reader others with a warning."""
    kind = items(row)
    assert isinstance(kind, Values)
    here = (*place, 0) if isinstance(row.kind, ListOf) else place
    unknown = put(FULL[each.id], here, "NO_SUCH_VALUE")

    if issubclass(kind.values, OpenEnum):
        assert each.accept(written(unknown)) == ()
    else:
        assert found(each, unknown) == [at(here)]
        assert warned(each, unknown) == [at(here)]


@rows_where(lambda row: isinstance(row.kind, ListOf))
def test_list_of_none(each: Module, place: Place, row: Row):
    """An empty list is one for ``*``, and too few for ``+``."""
    assert isinstance(row.kind, ListOf)
    empty = put(FULL[each.id], place, [])

    if row.kind.at_least:
        assert found(each, empty) == [at(place)]
        assert warned(each, empty) == [at(place)]
    elif row.name not in WANTED_BY_A_RULE:
        assert each.accept(written(empty)) == ()


@rows_where(lambda row: isinstance(row.kind, Text) and not row.kind.pattern and bool(row.kind.length_max))
def test_sizes(each: Module, place: Place, row: Row):
    """As many code points as allowed pass, also where each takes four bytes or two escapes; no code point more."""
    assert isinstance(row.kind, Text)
    assert row.kind.length_max
    full = put(FULL[each.id], place, "🔌" * row.kind.length_max)

    each.accept(written(full))
    each.accept(json.dumps(full, ensure_ascii=False).encode())
    assert found(each, put(full, place, "🔌" * (row.kind.length_max + 1))) == [at(place)]


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


@pytest.mark.parametrize("filler", ["x", " ", "0", "1.", "-", "é", "2018-01-01T", "\x00", "🔌", '"', "\\"])
def test_long_strings(filler):
    """A string of a megabyte is looked at in time that grows no faster than it, whatever the pattern."""
    long = filler * (1_000_000 // len(filler))
    texts = {row.kind.pattern: place for each, place, row in CASES if each is locations and isinstance(row.kind, Text)}
    location = FULL["locations"]
    for place in texts.values():
        location = put(location, place, long)

    with pytest.raises(SchemaViolation):
        locations.accept(written(location))


texts = st.text(st.characters(codec=None, categories=None))  # halves of surrogate pairs too
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.sampled_from(["EUR", "RFID", "07:00", "2026-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
places = st.sampled_from([(each.id, place) for each, place, _ in CASES])


def looked_at(module: Module, payload: object, *, tolerant: bool) -> tuple[int, list[Problem]]:
    """Return how many problems there are, and which warnings; let no other error pass."""
    try:
        return 0, list(module.accept(written(payload), tolerant=tolerant))
    except SchemaViolation as refused:
        return refused.problem_count, []


@given(st.lists(st.tuples(places, anything), min_size=1, max_size=3), st.booleans())
def test_any_value_anywhere(changes, tolerant):
    """Whatever stands anywhere, the answer is yes or a SchemaViolation, and fast and detailed looks agree."""
    name = changes[0][0][0]
    payload = copy.deepcopy(FULL[name])
    for (other, place), value in changes:
        if other == name:
            try:
                payload = put(payload, place, value)
            except (KeyError, IndexError, TypeError):
                continue  # an earlier change removed what it stands in
    detailed = explain(named(name).payload, written(payload), tolerant=tolerant)

    problem_count, warnings = looked_at(named(name), payload, tolerant=tolerant)

    assert problem_count == detailed.problem_count
    assert problem_count or warnings == detailed.warnings


@given(st.dictionaries(texts, anything, max_size=3) | anything, st.booleans())
def test_any_payload(value, tolerant):
    """Any JSON value is accepted or refused with a SchemaViolation."""
    for each in all_modules():
        looked_at(each, value, tolerant=tolerant)
