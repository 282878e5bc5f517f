"""Whatever a payload is, the answer is yes, a SchemaViolation or MalformedJson, and it does not take long to come."""

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from re import _constants as sre  # type: ignore[attr-defined]  # the parser has no public name
from re import _parser as sre_parser  # type: ignore[attr-defined]
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol.json_text import MalformedJson, NumberText
from engine.protocol.modules import Module, SchemaViolation, all_modules, registry
from engine.protocol.modules.check import accept
from engine.protocol.modules.explain import (
    FOUND_LENGTH_MAX,
    Kind,
    ListOf,
    Numeric,
    Problem,
    Report,
    Table,
    Text,
    explain,
    kind_of,
)
from engine.protocol.modules.module import CannotReplace, Issued, Wanted
from tests.support.payloads import (
    CLASSES,
    ENUMS,
    FRACTIONS,
    TEXTS,
    Declared,
    Object,
    changed,
    example,
    examples,
    items_of,
    places,
    values,
    written,
)

each_class = pytest.mark.parametrize("each", CLASSES, ids=str)

any_text = st.text(st.characters(codec=None, categories=None), max_size=5)  # halves of surrogate pairs too
numbers = st.sampled_from([*FRACTIONS, "1E999999999999999999999", "-1e-99999999999999999999", "1" * 5000])
anything = st.recursive(
    st.none() | st.booleans() | numbers.map(NumberText) | any_text | st.sampled_from([*TEXTS, "EUR", "RFID"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=5,
)
"""Any JSON value, with a taste for what is nearly right."""


@st.composite
def damaged(draw: st.DrawFn, kind: Table) -> Any:
    """Generate an object in which some things are gone, and others replaced by whatever it may be."""
    made = draw(values(kind))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(places(made)))
        is_dropped = draw(st.booleans()) if place else False
        made = _without(made, place) if is_dropped else changed(made, place, draw(anything))
    return made


def _without(whole: Any, place: tuple[str | int, ...]) -> Any:
    copied = copy.deepcopy(whole)
    inner = copied
    for token in place[:-1]:
        inner = inner[token]
    del inner[place[-1]]
    return copied


def verdict(each: Declared, payload: bytes, *, tolerant: bool) -> tuple[int, list[Problem]]:
    """Return how many problems there are, and which are told, or which warnings; let no other error pass."""
    try:
        return 0, list(accept(each.shape, payload, tolerant=tolerant))
    except SchemaViolation as refused:
        found = [problem.found for problem in refused.problems]
        if any(len(each) > FOUND_LENGTH_MAX * 2 for each in found):
            pytest.fail(f"what was found is repeated at length: {found}")
        return refused.problem_count, list(refused.problems)


@each_class
@examples(20)
@given(data=st.data())
def test_any_value_anywhere(each: Declared, data: st.DataObject):
    """Whatever stands anywhere in an object, there is a verdict, and the fast look and the detailed one agree."""
    assert isinstance(each.kind, Table)
    payload = written(data.draw(damaged(each.kind)))

    for tolerant in (False, True):
        detailed: Report = explain(each.shape, payload, tolerant=tolerant)
        told = detailed.problems if detailed.problem_count else detailed.warnings
        assert verdict(each, payload, tolerant=tolerant) == (detailed.problem_count, told)


@examples(20)
@given(value=anything, tolerant=st.booleans())
def test_any_payload(value, tolerant):
    """There is a verdict on any JSON value in the place of any payload or parameter."""
    for each in [*CLASSES, *ENUMS]:
        verdict(each, written(value), tolerant=tolerant)


@examples(20)
@given(
    noise=st.binary(max_size=20) | st.sampled_from([b"", b"{", b'"\xff"', b"NaN", b"\xef\xbb\xbf{}", b"{}{}"]),
    start=st.integers(0, 50),
    end=st.integers(0, 50),
)
def test_any_bytes(noise, start, end):
    """Bytes that are not JSON, or not any more, are refused as that, or as wrong when they still are."""
    for each in [*CLASSES, *ENUMS]:
        payload = written(example(each.kind, 0))
        for damage in (noise, payload[:start] + noise + payload[start + end :]):
            with suppress(MalformedJson):
                verdict(each, damage, tolerant=True)


# -- what a module reads of a payload ------------------------------------------------------------------------


@pytest.mark.parametrize("module", all_modules(), ids=lambda module: module.id)
@examples(20)
@given(data=st.data())
def test_hooks(module: Module, data: st.DataObject):
    """What a tolerant reader accepts can be asked for its audience, its end, and what it refers to."""
    each = next(each for each in CLASSES if each.shape is module.payload)
    assert isinstance(each.kind, Table)
    accepted = [
        payload
        for payload in map(written, data.draw(st.tuples(damaged(each.kind), values(each.kind), lenient(each.kind))))
        if not verdict(each, payload, tolerant=True)[0]
    ]

    for payload in accepted:
        module.audience(payload)
        module.final(payload)
        module.concluded_at(payload)
        module.id_length_max(payload)
        if module.reference:
            module.reference.to(payload)
            module.reference.check(Issued("new", payload), None)
            module.reference.check(Issued("new", payload), Issued("old", accepted[0]))


@st.composite
def lenient(draw: st.DrawFn, kind: Table) -> Object:
    """Generate an object from which required things are gone, at any depth."""
    made = draw(values(kind))
    for _ in range(draw(st.integers(1, 3))):
        keys = [place for place in places(made) if place and isinstance(place[-1], str)]
        if not keys:
            break
        place = draw(st.sampled_from(keys))
        made = draw(st.sampled_from([_without(made, place), changed(made, place, None), changed(made, place, "NEW")]))
    return made


@pytest.mark.parametrize(
    "module", [module for module in all_modules() if module.replacement], ids=lambda module: module.id
)
@examples(30)
@given(data=st.data())
def test_replacements(module: Module, data: st.DataObject):
    """What replaces an object is refused with a reason, or accepted by its module and beside what it refers to."""
    assert module.replacement

    def issued(name: str, of: Module) -> Issued:
        made = data.draw(values(kind_of(of.payload)))
        return Issued(name, written(made | {"tariff_id": "old"} if "tariff_id" in made else made))

    old = issued("old", module)
    new = data.draw(st.sampled_from([issued("new", module), Issued("new", old.payload)]))
    known = {old.id: old, new.id: new}
    wanted = Wanted(
        objects=data.draw(st.sampled_from([(), (new,)])),
        id=data.draw(st.sampled_from([None, "other"])),
        effective_at=data.draw(st.sampled_from([None, 2e9])),
    )
    related = {each.id: [issued("related", each)] for each in all_modules() if each.id in module.replacement.related}
    try:
        additions = module.replacement.make(old, wanted, related, 1.8e9)
    except CannotReplace:
        return

    assert additions
    for each in additions:
        of = registry[each.module]
        assert of.accept(each.payload) == ()
        if of.reference and (refers_to := of.reference.to(each.payload)):
            assert list(of.reference.check(Issued(each.id, each.payload), known[refers_to])) == []


# -- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("is_closed", [False, True])
def test_deep(opening: bytes, is_closed: bool):
    """A hundred thousand brackets are refused, as not JSON or as no such thing."""
    closing = opening.translate(bytes.maketrans(b"[{", b"]}"), b'"a:')[::-1]
    payload = opening * 100_000 + b"1" + closing * 100_000 * is_closed

    for each in [*CLASSES, *ENUMS]:
        with pytest.raises((MalformedJson, SchemaViolation)):
            accept(each.shape, payload, tolerant=True)


def every_kind(wanted: type[Kind]) -> dict[Kind, tuple[Declared, str]]:
    """Return each kind of this sort that a row or its items have, and one row that has it."""
    return {
        kind: (each, row.name)
        for each in CLASSES
        if isinstance(each.kind, Table)
        for row in each.kind.rows
        if isinstance(kind := items_of(row.kind), wanted)
    }


TEXT_KINDS = every_kind(Text)
NUMERIC_KINDS = every_kind(Numeric)
PATTERNS = {
    pattern.pattern: (each, name)
    for kind, (each, name) in TEXT_KINDS.items()
    if isinstance(kind, Text)
    for pattern in (kind.pattern, kind.tolerant)
    if pattern
}
MEGABYTE = 1_000_000


def with_value(each: Declared, name: str, value: object) -> bytes:
    """Write an object of this class with a value in one row, or as the item of its list."""
    assert isinstance(each.kind, Table)
    (row,) = (row for row in each.kind.rows if row.name == name)
    whole = example(each.kind, 0)
    return written({**whole, name: [value] if isinstance(row.kind, ListOf) else value})


@pytest.mark.parametrize("filler", ["x", " ", "0", "1.", "-", "é", "2018-01-01T", "\x00", "🔌", "\ud800", '"', "\\"])
def test_long_strings(filler):
    """There is a verdict on a megabyte of whatever character against every pattern."""
    for each, name in PATTERNS.values():
        verdict(each, with_value(each, name, filler * (MEGABYTE // len(filler))), tolerant=True)


@pytest.mark.parametrize(
    "number",
    ["9" * MEGABYTE, "-" + "9" * MEGABYTE, "0." + "3" * MEGABYTE, "1e" + "9" * MEGABYTE, "1e-" + "9" * MEGABYTE],
    ids=lambda number: number[:3],
)
def test_long_numbers(number):
    """There is a verdict on a number of a million digits, and on an exponent of as many."""
    for each, name in NUMERIC_KINDS.values():
        verdict(each, with_value(each, name, NumberText(number)), tolerant=True)


@pytest.mark.parametrize("module", all_modules(), ids=lambda module: module.id)
def test_many_keys(module: Module):
    """A hundred thousand keys that no table knows are nobody's business."""
    payload = written(example(kind_of(module.payload), 0) | {f"x-{n}": None for n in range(100_000)})

    assert module.accept(payload) == ()


class Steps:
    """Counts the steps that Python takes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        """Count one step, and ask for the next."""
        frame.f_trace_opcodes = True
        self.count += event == "opcode"
        return self


def steps(work: Callable[[], object]) -> int:
    """Count the steps that some work takes."""
    counted, before = Steps(), sys.gettrace()
    sys.settrace(counted)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted.count


def long_lists() -> Iterator[tuple[Declared, str]]:
    """Yield every list of every class."""
    for each in CLASSES:
        assert isinstance(each.kind, Table)
        yield from ((each, row.name) for row in each.kind.rows if isinstance(row.kind, ListOf))


@pytest.mark.parametrize(("each", "name"), [pytest.param(*each, id=f"{each[0]}.{each[1]}") for each in long_lists()])
def test_many_items(each: Declared, name: str):
    """Twice the items of a list take twice the steps: rules between them do not compare each with each."""
    whole = example(each.kind, 0)
    items = whole.get(name) or example(next(row.kind for row in each.kind.rows if row.name == name), 0)  # type: ignore[union-attr]

    def taken(count: int) -> int:
        payload = written({**whole, name: (items * count)[:count]})
        return steps(lambda: (verdict(each, payload, tolerant=False), explain(each.shape, payload, tolerant=False)))

    taken(1)  # so that what is built once is there
    few, more, most = taken(30), taken(60), taken(120)

    assert most - more < 2.5 * (more - few)


def repeats(parsed: Any) -> Iterator[tuple[int, Any]]:
    """Yield how often at most something is repeated, and what, for all that is in a pattern."""
    for operation, argument in parsed:
        match operation:
            case sre.MAX_REPEAT:
                _, most, inner = argument
                yield most, list(inner)
                yield from repeats(inner)
            case sre.SUBPATTERN:
                yield from repeats(argument[-1])
            case sre.BRANCH:
                for branch in argument[1]:
                    yield from repeats(branch)
            case _:
                assert operation in {sre.AT, sre.IN, sre.LITERAL, sre.NOT_LITERAL}, operation


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_linear(pattern):
    """A pattern starts at the start, and repeats without end at most one character class: it never looks far back."""
    parsed = list(sre_parser.parse(pattern))
    endless = [inner for most, inner in repeats(parsed) if most is sre.MAXREPEAT]

    assert parsed[0] == (sre.AT, sre.AT_BEGINNING)
    assert parsed[-1] == (sre.AT, sre.AT_END_STRING)
    assert all(most is sre.MAXREPEAT or most < 10 for most, _ in repeats(parsed))
    assert len(endless) <= 1
    assert all(len(inner) == 1 and inner[0][0] is sre.IN for inner in endless)
    assert not any(list(repeats(inner)) for inner in endless)


def test_explosive_pattern_is_noticed():
    """A pattern that takes for ever is not one of these."""
    assert [most for most, _ in repeats(sre_parser.parse("^(?:a+)+$"))] == [sre.MAXREPEAT, sre.MAXREPEAT]
