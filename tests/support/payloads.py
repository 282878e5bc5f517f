"""Payloads made from the declarations: what conforms to a table, and what breaks it in one single place.

Strategies and mutations are written for kinds (``explain``), not for classes, so that a new class is looked at
as soon as it is declared. Only rules between fields need a word of their own: ``REPAIRS`` says for each class
that has rules how an object of it comes to keep them.

Numbers are ``NumberText``, as ``read_exactly`` reads them, because ``1.0``, ``1e0`` and ``1`` are three texts.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from functools import cache
from json.encoder import encode_basestring, encode_basestring_ascii
from random import Random
from re import _constants as sre  # type: ignore[attr-defined]  # the parser has no public name
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from engine.protocol.json_text import NumberText
from engine.protocol.modules import Module, all_modules
from engine.protocol.modules.classes import Shape
from engine.protocol.modules.explain import (
    Anything,
    Boolean,
    Kind,
    ListOf,
    Numeric,
    Table,
    Text,
    Values,
)
from engine.protocol.modules.json_schema import shapes_of
from engine.protocol.scalars import exact, is_whole

Place = tuple[str | int, ...]
Object = dict[str, Any]


def examples(count: int) -> settings:
    """Look at so many examples, the same ones in each run: large objects are worth their time, chance is not."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=count, derandomize=True, suppress_health_check=checks)


# -- every class and enum -----------------------------------------------------------------------------------


class Declared(NamedTuple):
    """A class or enum, and a module that has it."""

    module: Module
    kind: Table | Values

    @property
    def shape(self) -> Shape:
        """Return what it is declared by."""
        return self.kind.table if isinstance(self.kind, Table) else self.kind.values

    def __str__(self) -> str:
        """Name it in the list of tests."""
        return self.kind.name


DECLARED: Final = {kind.name: Declared(module, kind) for module in all_modules() for kind in shapes_of(module)}
"""Every class and enum of payloads and calls, and of everything in them, once."""

CLASSES: Final = [each for each in DECLARED.values() if isinstance(each.kind, Table)]
ENUMS: Final = [each for each in DECLARED.values() if isinstance(each.kind, Values)]


# -- JSON with numbers as they are written --------------------------------------------------------------------


def written(value: object, *, ascii_only: bool = True) -> bytes:
    """Write a JSON value; half of a surrogate pair can only be written in ASCII."""
    return "".join(_pieces(value, encode_basestring_ascii if ascii_only else encode_basestring)).encode()


def _pieces(value: object, text: Callable[[str], str]) -> Iterator[str]:
    if isinstance(value, NumberText):
        yield value
    elif isinstance(value, str):
        yield text(value)
    elif isinstance(value, dict):
        yield "{"
        for n, (key, item) in enumerate(value.items()):
            yield ("," if n else "") + text(key) + ":"
            yield from _pieces(item, text)
        yield "}"
    elif isinstance(value, list):
        yield "["
        for n, item in enumerate(value):
            yield "," if n else ""
            yield from _pieces(item, text)
        yield "]"
    else:
        yield json.dumps(value)


# -- patterns -------------------------------------------------------------------------------------------------


@cache
def alphabet(pattern: re.Pattern[str]) -> tuple[str, bool] | None:
    """Return the characters of a pattern that is one class under one star, and whether they are left out."""
    match list(sre_parser.parse(pattern.pattern)):
        case [
            (sre.AT, sre.AT_BEGINNING),
            (sre.MAX_REPEAT, (0, sre.MAXREPEAT, repeated)),
            (sre.AT, sre.AT_END_STRING),
        ] if len(repeated) == 1 and repeated[0][0] is sre.IN:
            items = repeated[0][1]
            return "".join(map(_characters, items)), items[0][0] is sre.NEGATE
    return None


def _characters(item: tuple[Any, Any]) -> str:
    match item:
        case (sre.NEGATE, _):
            return ""
        case (sre.LITERAL, code):
            return chr(code)
        case (sre.RANGE, (first, last)):
            return "".join(map(chr, range(first, last + 1)))
    raise AssertionError(item)


def fits(text: Text, value: str) -> bool:
    """Tell whether a value is one of this kind, for a strict reader."""
    return text.length_min <= len(value) <= (text.length_max or len(value)) and (
        text.pattern is None or bool(text.pattern.search(value))
    )


# -- values that conform ------------------------------------------------------------------------------------

CHARACTERS: Final = [*'aZ0 ~!/"\\é', *"\u0301\x00\x1b\n\x7f\u2028\ue000\uffff🔌\U0010ffff"]
"""What texts may trip over: JSON's own signs, controls, combining and private ones, and beyond the BMP."""

TEXTS: Final = [
    "2024-02-29T00:00:00Z",
    "2000-02-29T23:59:59.5Z",
    "2016-12-31T23:59:60.123Z",
    "0000-01-01t00:00:00z",
    "9999-12-31T23:59:59.999+00:00",
    "2026-05-04T09:30:00-00:00",
    "00:00",
    "23:59",
    "50.770774",
    "-0.00000",
    "-126.104965",
    "NLTNM",
    "be1z9",
]
"""Values at the edges of the patterns; each kind takes those that it has."""

WHOLE: Final = ["0", "1", "2", "5", "7", "60", "99999", "9007199254740993", "18446744073709551616", "1" + "0" * 40]
FRACTIONS: Final = [
    *WHOLE,
    "-0",
    "-0.0",
    "0.1",
    "1.50",
    "-3.7",
    "-1",
    "1e-7",
    "-2.5E-30",
    "1E400",
    "1e-400",
    "0.1234567890123456789",
    "12345678901234567890.123456789",
]

STYLES: Final = ["nothing more", "everything", "some"]
DEPTH_OF_EVERYTHING: Final = 1
"""How deep in an object its tables may be filled in completely: every class is at the top of some object."""


def values(kind: Kind, depth: int = 0) -> st.SearchStrategy[Any]:
    """Generate values of a kind, as a strict reader takes them."""
    match kind:
        case Text():
            return _texts(kind)
        case Numeric():
            return _numbers(kind)
        case Boolean():
            return st.booleans()
        case Values():
            known = st.sampled_from([value.value for value in kind.values])
            return known | any_text(0, 4) if kind.is_open else known
        case ListOf():
            return st.lists(values(kind.items, depth), min_size=kind.at_least, max_size=2 if depth < 2 else 1)
        case Table():
            return _objects(kind, depth)
        case Anything():
            return anything
    raise AssertionError(kind)


def _character(without: str = "") -> st.SearchStrategy[str]:
    odd = [each for each in CHARACTERS if each not in without]
    return st.sampled_from(odd) | st.characters(exclude_categories=["Cs"], exclude_characters=without)


_any_character: Final = _character()


def any_text(length_min: int, length_max: int) -> st.SearchStrategy[str]:
    """Generate texts of any characters but halves of surrogate pairs."""
    return st.text(_any_character, min_size=length_min, max_size=length_max)


anything: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([*map(NumberText, FRACTIONS)])
    | any_text(0, 3)
    | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text(0, 3), inner, max_size=3),
    max_leaves=5,
)
"""Any JSON value."""


@cache
def _texts(kind: Text) -> st.SearchStrategy[str]:
    edges = [each for each in TEXTS if fits(kind, each)]
    if kind.pattern and not (given := alphabet(kind.pattern)):
        made = st.from_regex(kind.pattern).filter(lambda value: fits(kind, value))
        return made | st.sampled_from(edges) if edges else made
    longest = kind.length_max if kind.length_max is not None else kind.length_min + 100
    if kind.pattern and given:
        listed, is_excluded = given
        character = _character(listed) if is_excluded else st.sampled_from(listed)
    else:
        character = _any_character
    short = st.text(character, min_size=kind.length_min, max_size=min(longest, kind.length_min + 5))
    return short | st.builds(lambda first, other: first + other * (longest - 1), character, character)


@cache
def _numbers(kind: Numeric) -> st.SearchStrategy[NumberText]:
    limits = [str(limit) for limit in (kind.at_least, kind.at_most) if limit is not None]
    near = [
        *(f"{kind.at_least}.000000000000000000001" for _ in [0] if kind.at_least is not None and kind.at_least >= 0),
        *(f"{int(kind.at_most) - 1}.999999999999999999999" for _ in [0] if kind.at_most is not None),
    ]
    texts = [each for each in [*limits, *near, *FRACTIONS] if within(kind, each)]
    if kind.whole:
        texts += [each + tail for each in texts if each.isdigit() for tail in (".0", "e0", ".00E+0")] + ["10e-1"]
    return st.sampled_from([NumberText(each) for each in texts])


def within(kind: Numeric, text: str) -> bool:
    """Tell whether a number is one of this kind."""
    number = exact(text)
    return (
        (not kind.whole or is_whole(number))
        and (kind.at_least is None or number >= kind.at_least)
        and (kind.at_most is None or number <= kind.at_most)
    )


@cache
def _objects(kind: Table, depth: int) -> st.SearchStrategy[Object]:
    rows = {row.name: values(row.kind, depth + 1) for row in kind.rows}
    optional = [row.name for row in kind.rows if not row.required]

    @st.composite
    def objects(draw: st.DrawFn) -> Object:
        style = draw(st.sampled_from(STYLES if depth <= DEPTH_OF_EVERYTHING else ["nothing more", "some"]))
        if style == "some":
            chosen = draw(st.sets(st.sampled_from(optional), max_size=4 if depth else None)) if optional else set()
        else:
            chosen = set(optional if style == "everything" else [])
        made = {row.name: draw(rows[row.name]) for row in kind.rows if row.required or row.name in chosen}
        if depth == 0 and draw(st.booleans()):
            made["x-unknown"] = draw(anything)
        return repaired(kind, made)

    return objects()


# -- examples, always the same -----------------------------------------------------------------------------


def example(kind: Kind, n: int) -> Any:
    """Return the n-th of some values of a kind that keep all rules: 0 with every row, 1 with the fewest, then some."""
    match kind:
        case Text():
            known = [each for each in TEXTS if fits(kind, each)]
            shortest = "x" * (kind.length_min or 1)
            return known[n % len(known)] if known and not fits(kind, shortest) else shortest
        case Numeric():
            known = [each for each in ("1", "2", "0", "3.5", "-1") if within(kind, each)]
            return NumberText(known[n % len(known)])
        case Boolean():
            return n % 2 == 0
        case Values():
            return [*kind.values][n % len(kind.values)].value
        case ListOf():
            return [example(kind.items, n), example(kind.items, n + 1)]
        case Table():
            coin = Random(f"{kind.name} {n}")
            chosen = [row for row in kind.rows if row.required or n == 0 or (n > 1 and coin.random() < 1 / 2)]
            return repaired(kind, {row.name: example(row.kind, n) for row in chosen})
    return {"any": [NumberText("1"), None]}


def harmless(kind: Table, whole: Object) -> Iterator[Object]:
    """Yield objects with one row changed, at any depth, so that each value is right by itself.

    Nothing but a rule between fields can have anything against them.
    """
    for row in kind.rows:
        if row.name not in whole:
            others = [example(row.kind, n) for n in range(2)]
        else:
            others = _others(row.kind, whole[row.name])
            if not row.required:
                yield _without(whole, row.name)
        for other in others:
            yield {**whole, row.name: other}


def _others(kind: Kind, value: Any) -> list[Any]:
    match kind:
        case Text():
            return [each for each in TEXTS if fits(kind, each)][:6] or ["y" * (kind.length_min or 1)]
        case Numeric():
            return [NumberText(each) for each in ("0", "1", "5", "-1", "1e-400") if within(kind, each)]
        case Boolean():
            return [not value]
        case Values():
            return [each.value for each in kind.values][:15]
        case ListOf():
            if not value:
                return []
            inner = [[*value[:-1], other] for other in _others(kind.items, value[-1])]
            return [[]] * (not kind.at_least) + [[*value, value[-1]], value[:1], value[::-1], *inner]
        case Table():
            return list(harmless(kind, value))
    return []


# -- rules between fields -----------------------------------------------------------------------------------


def repaired(kind: Table, made: Object) -> Object:
    """Return the object so that it keeps the rules of its class."""
    return REPAIRS.get(kind.name, lambda same: same)(made)


def _without(made: Object, *names: str) -> Object:
    return {name: value for name, value in made.items() if name not in names}


def _numbered(items: list[Object], name: str, start: int = 0) -> list[Object]:
    """Give each item an id of its own."""
    return [{**item, name: f"{item[name][:30]}-{start + n}"} for n, item in enumerate(items)]


def _location(made: Object) -> Object:
    stations = _numbered(made["charging_pool"], "id")
    for n, station in enumerate(stations):
        if "evses" in station:
            station["evses"] = _numbered(station["evses"], "uid", n * 100)
    made = {**made, "charging_pool": stations}
    if made.get("publish_allowed_to") or "address" not in made:
        made["publish"] = False
    return made


def _hours(made: Object) -> Object:
    days = made.get("regular_hours", [])[:7]
    days = [{**day, "weekday": NumberText(n)} for n, day in enumerate(days, start=1)]
    return {**made, "twentyfourseven": not days} | ({"regular_hours": days} if "regular_hours" in made else {})


def _regular_hours(made: Object) -> Object:
    begin, end = sorted([made["period_begin"], made["period_end"]])
    return {**made, "period_begin": begin, "period_end": end if begin < end else "00:00"}


def _publish_token_type(made: Object) -> Object:
    if not made.keys() & {"uid", "visual_number", "group_id"}:
        made = {**made, "group_id": "G"}
    if "uid" in made:
        made = {"type": "RFID", **made}
    return {"issuer": "Stroom", **made} if "visual_number" in made else made


def _tariff_element(made: Object) -> Object:
    components = [
        {**each, "type": "TIME"}
        if each["type"] == "ENERGY" and made.get("restrictions", {}).get("reservation")
        else each
        for each in made["price_components"]
    ]
    return {**made, "price_components": components}


SESSION_ONLY: Final = {"CURRENT", "ENERGY_EXPORT", "ENERGY_IMPORT", "POWER", "STATE_OF_CHARGE"}


def _cdr(made: Object) -> Object:
    periods = [
        {**period, "dimensions": [_without_session_only(dimension) for dimension in period["dimensions"]]}
        for period in made["charging_periods"]
    ]
    made = {**made, "charging_periods": periods, "cdr_token": _cdr_token(made["cdr_token"])}
    if "connector" not in made["cdr_location"]:
        made["total_energy"] = NumberText("0.00")
    credit = {"credit": True} if "credit_reference_id" in made else {"credit": False} if "credit" in made else {}
    return made | credit


def _without_session_only(dimension: Object) -> Object:
    return {**dimension, "type": "ENERGY"} if dimension["type"] in SESSION_ONLY else dimension


def _cdr_token(made: Object) -> Object:
    return {"token_version": NumberText("1"), **made, "party_id": "NLTNM"}


def _session(made: Object) -> Object:
    periods = [
        {**period, "dimensions": [_with_percentage(dimension) for dimension in period["dimensions"]]}
        for period in made.get("charging_periods", [])
    ]
    made = {**made, "cdr_token": _cdr_token(made["cdr_token"])}
    if "connector" not in made:
        made |= {"status": "RESERVATION", "energy": NumberText("-0.0")}
    return made | ({"charging_periods": periods} if "charging_periods" in made else {})


def _with_percentage(dimension: Object) -> Object:
    return {**dimension, "volume": NumberText("99.9")} if dimension["type"] == "STATE_OF_CHARGE" else dimension


def _one_decimal(made: Object, name: str) -> Object:
    return {**made, name: NumberText("6.50")} if name in made and not is_whole(exact(made[name]) * 10) else made


def _charging_profile_period(made: Object) -> Object:
    made = _one_decimal(made, "limit")
    return {**made, "numberPhases": NumberText("1")} if "phaseToUse" in made else made


def _set_absolute_charging_profile(made: Object) -> Object:
    if "charging_profile" not in made:
        return made
    profile = {"start_date_time": "2026-05-04T09:30:00Z", **made["charging_profile"]}
    if "charging_profile_period" in profile:
        periods = [_without(period, "numberPhases", "phaseToUse") for period in profile["charging_profile_period"]]
        profile["charging_profile_period"] = periods
    return {**made, "charging_profile": profile}


REPAIRS: Final[Mapping[str, Callable[[Object], Object]]] = {
    "CDR": _cdr,
    "ChargingProfile": lambda made: _one_decimal(made, "min_charging_rate"),
    "ChargingProfilePeriod": _charging_profile_period,
    "EVSE": lambda made: {**made, "connectors": _numbered(made["connectors"], "id")},
    "Hours": _hours,
    "Location": _location,
    "PublishTokenType": _publish_token_type,
    "RegularHours": _regular_hours,
    "SetAbsoluteChargingProfileOnEvsesRequest": _set_absolute_charging_profile,
    "Session": _session,
    "StartSessionRequest": lambda made: {"evse_uid": "E1", **made} if "connector_id" in made else made,
    "TariffElement": _tariff_element,
    "Token": lambda made: {**made, "uid": made["contract_id"]} if made["type"] == "EMAID" else made,
}
"""How a generated object of a class with rules comes to keep them."""


# -- one fault ----------------------------------------------------------------------------------------------


class Tolerant(Enum):
    """What a tolerant reader makes of a fault."""

    REFUSED = auto()
    WARNED = auto()
    TAKEN = auto()


class Fault(NamedTuple):
    """A single thing wrong with a value."""

    what: str
    place: Place
    """Where it is, and where it is to be told."""
    value: Any
    """The whole value, with the fault in it."""
    tolerant: Tolerant = Tolerant.REFUSED


NEAR_MISSES: Final = [
    "2018-02-29T00:00:00Z",
    "1900-02-29T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-04-31T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-01-00T00:00:00Z",
    "2026-01-01T24:00:00Z",
    "2026-01-01T23:60:00Z",
    "2026-01-01T23:59:61Z",
    "2026-01-01T12:00:60Z",
    "2026-01-01T12:00:00+01:00",
    "2026-01-01T12:00:00.12Z",
    "2026-01-01T12:00:00.1234Z",
    "2026-01-01T12:00:00.Z",
    "2026-01-01T12:00:00",
    "2026-01-01 12:00:00Z",
    "2026-01-01",
    "24:00",
    "7:00",
    "12:60",
    "1.0000",
    "1.00000000",
    "1000.00000",
    "+1.00000",
    "1,00000",
    "NLTN",
    "NLTNMM",
    "1LTNM",
]
"""Texts that are nearly right; each kind is given those that are not right for it."""

OTHER_TYPES: Final[list[tuple[str, Any]]] = [
    ("a text", "x"),
    ("a number", NumberText("1")),
    ("a fraction", NumberText("1.5")),
    ("true", True),
    ("a list", []),
    ("a list of one", ["x"]),
    ("an object", {}),
]


def faults(table: Table, whole: Object) -> Iterator[Fault]:
    """Yield single faults of every row of an object that has none."""
    for row in table.rows:
        if row.required:
            yield Fault("left out", (row.name,), _without(whole, row.name), Tolerant.WARNED)
            yield Fault("null", (row.name,), {**whole, row.name: None}, Tolerant.WARNED)
        if row.name in whole:
            for what, place, wrong, tolerant in wrongs(row.kind, whole[row.name]):
                yield Fault(what, (row.name, *place), {**whole, row.name: wrong}, tolerant)


def wrongs(kind: Kind, value: Any) -> Iterator[Fault]:
    """Yield what is wrong in the place of a value: whatever a kind is not."""
    for what, wrong in OTHER_TYPES:
        if not _is_of_type(kind, wrong):
            yield Fault(what, (), wrong)
    match kind:
        case Text():
            yield from _wrong_texts(kind, value)
        case Numeric():
            yield from _wrong_numbers(kind)
        case Boolean():
            yield Fault("a text like it", (), "true")
            yield Fault("a number like it", (), NumberText("0"))
        case Values() if not kind.is_open:
            known = {each.value for each in kind.values}
            for wrong in ("NO_SUCH_VALUE", "", f"{value} ", value.lower()):
                if wrong in known:
                    continue
                yield Fault(f"unknown {wrong!r}", (), wrong, Tolerant.WARNED)
        case ListOf():
            if kind.at_least:
                yield Fault("empty", (), [], Tolerant.WARNED)
            if value:
                for what, place, wrong, tolerant in [*wrongs(kind.items, value[-1]), Fault("null", (), None)]:
                    yield Fault(f"item: {what}", (len(value) - 1, *place), [*value[:-1], wrong], tolerant)


def _is_of_type(kind: Kind, value: object) -> bool:
    match kind:
        case Text() | Values():
            return type(value) is str
        case Numeric():
            return type(value) is NumberText
        case Boolean():
            return type(value) is bool
        case ListOf():
            return type(value) is list
        case Table():
            return type(value) is dict
    return True


def _wrong_texts(kind: Text, value: str) -> Iterator[Fault]:
    some = value or "x"
    candidates = [("nearly right", each) for each in NEAR_MISSES]
    if kind.length_max is not None:
        candidates.append(("one too long", (some * (kind.length_max + 1))[: kind.length_max + 1]))
    if kind.length_min:
        candidates.append(("one too short", value[: kind.length_min - 1]))
    if kind.pattern:
        candidates += [("a line end", some[:-1] + "\n"), ("one more line end", value + "\n")]
        candidates += [("another character", each + some[1:]) for each in CHARACTERS]
        candidates += [("beyond ASCII", some[:-1] + "\uff13"), ("one less", value[:-1])]
    for what, wrong in candidates:
        if not fits(kind, wrong):
            is_taken = kind.tolerant and kind.tolerant.search(wrong)
            yield Fault(what, (), wrong, Tolerant.TAKEN if is_taken else Tolerant.REFUSED)


def _wrong_numbers(kind: Numeric) -> Iterator[Fault]:
    near = []
    if kind.at_least is not None:
        near += [str(kind.at_least - 1), f"{kind.at_least - 1}.999999999999999999999", "-1e400", "-1e-400"]
    if kind.at_most is not None:
        near += [str(kind.at_most + 1), f"{kind.at_most}.000000000000000000001", "1e400"]
    near += ["1.5", "1e-400", "1.000000000000000000000000000001"] if kind.whole else []
    for text in near:
        if not within(kind, text):
            yield Fault(f"number {text}", (), NumberText(text))


def changed(whole: Any, place: Place, value: Any) -> Any:
    """Return a copy with another value at this place."""
    if not place:
        return value
    copied = copy.deepcopy(whole)
    inner = copied
    for token in place[:-1]:
        inner = inner[token]
    inner[place[-1]] = value
    return copied


def places(whole: Any) -> list[Place]:
    """Return every place in a JSON value, itself first."""
    return list(_places(whole))


def _places(value: Any, *place: str | int) -> Iterator[Place]:
    yield place
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _places(item, *place, key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _places(item, *place, index)


def items_of(kind: Kind) -> Kind:
    """Return what a row holds, one or a list of it."""
    return kind.items if isinstance(kind, ListOf) else kind
