"""The declarations themselves: complete, named and numbered as in the draft, found without a list."""

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from types import ModuleType

import pytest

from engine.protocol import modules
from engine.protocol.modules import all_modules, module, registry
from engine.protocol.modules.classes import ClosedEnum, OcpiClass, Shape, chapter, meaning
from engine.protocol.modules.explain import ListOf, Table, Values, kind_of, table_of
from engine.protocol.scalars import date_time, exact, is_whole, moment


def declared(shape: Shape) -> Iterator[Shape]:
    """Yield a class or enum, and every class and enum in it."""
    yield shape
    if isinstance(kind := kind_of(shape), Table):
        for row in kind.rows:
            inner = row.kind.items if isinstance(row.kind, ListOf) else row.kind
            if isinstance(inner, Table):
                yield from declared(inner.table)
            elif isinstance(inner, Values):
                yield inner.values


def shapes() -> Iterator[Shape]:
    """Yield what payloads are, and what goes back and forth in calls."""
    for each in all_modules():
        yield each.payload
        for call in each.calls:
            yield from (shape for shape in (call.request, call.result, call.error) if shape)


EVERYTHING = {each.__name__: each for shape in shapes() for each in declared(shape)}

FILES = [import_module(f"{modules.__name__}.{found.name}") for found in pkgutil.iter_modules(modules.__path__)]


def tables(file: ModuleType) -> list[type]:
    """Return the classes and enums of a file that stand in the draft, in the order in which it has them."""
    own = [each for each in vars(file).values() if isinstance(each, type) and each.__module__ == file.__name__]
    return [each for each in own if issubclass(each, OcpiClass | ClosedEnum) and re.match(r"\d", chapter(each))]


def number(table: type) -> tuple[int, ...]:
    """Return the parts of a table's number."""
    return tuple(map(int, chapter(table).split(".")))


def test_modules():
    """Modules are found by their id as URLs spell it, and by nothing else."""
    assert {"locations", "evsestatuses", "tariffs", "tariffassociations"} <= registry.keys()
    assert all(module(each.id) is each for each in all_modules())
    assert module("Locations") is module("locations ") is module("") is module("commands") is None


def test_order():
    """Modules are listed once, in the order of their chapters."""
    chapters = [each.chapter for each in all_modules()]

    assert chapters == sorted(chapters)
    assert len({each.id for each in all_modules()}) == len(chapters)


def test_immutable():
    """Tariffs and their associations never change."""
    assert {each.id for each in all_modules() if each.immutable} == {"tariffs", "tariffassociations"}


def test_nobody_named():
    """CDRs and Sessions name whom they are for, and no others do."""
    assert {each.id for each in all_modules() if each.audience(b"{}") is not None} == {"sessions", "cdrs"}


@pytest.mark.parametrize("each", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_described(each):
    """Every class and enum says where the draft has it and what it is; every row and value says what it means."""
    assert re.fullmatch(r"\d+(\.\d+)*", chapter(each))
    assert meaning(each).endswith(".")

    if issubclass(each, OcpiClass):
        lines = [row.meaning for row in table_of(each).rows]
    else:
        assert all(member.value == str(member) for member in each)
        assert all(re.sub(r"\W", "_", member.value) == name for name, member in each.__members__.items())
        lines = [member.meaning for member in each]
    assert all(line.endswith(".") for line in lines)


def test_one_chapter_each():
    """No two classes claim the same chapter, but for one that is another one and more."""
    chapters = [chapter(each) for each in EVERYTHING.values() if not chapter(each.__bases__[0])[:1].isdigit()]

    assert len(set(chapters)) == len(chapters)


def test_order_of_the_draft():
    """Every table stands in its file in the order of the draft."""
    wrong = [
        f"{file.__name__}: {chapter(after)} after {chapter(before)}"
        for file in FILES
        for before, after in pairwise(tables(file))
        if number(after) < number(before)
    ]

    assert wrong == []
    assert {each.__name__ for file in FILES for each in tables(file)} >= EVERYTHING.keys()


@pytest.mark.parametrize(
    ("number", "written", "whole"),
    [
        ("0.1234567890123456789", "0.1234567890123456789", False),
        ("1E400", "1E+400", True),
        ("-1.50e1", "-15.0", True),
        ("0e99999999999999999999", "0", True),
        ("-1e99999999999999999999", "-1E+999999999999999", True),
        ("1e-99999999999999999999", "1E-999999999999999", False),
        ("1e-000000000000000000001", "0.1", False),
    ],
)
def test_exact(number, written, whole):
    """Numbers keep their digits; only an absurd exponent is cut."""
    assert str(exact(number)) == written
    assert is_whole(exact(number)) is whole


@pytest.mark.parametrize("number", ["", "x", "NaN", "1,5", "0x10"])
def test_no_number(number):
    """What is no JSON number is refused."""
    with pytest.raises(ValueError, match="not a JSON number"):
        exact(number)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-05-04T09:30:00.250Z", 1777887000.25),
        ("2026-05-04t09:30:00.2z", 1777887000.2),
        ("2026-05-04T11:30:00+02:00", 1777887000.0),
        ("2026-05-03T23:30:00.5-10:00", 1777887000.5),
        ("2026-05-04T09:30:00-00:00", 1777887000.0),
        ("2016-12-31T23:59:60Z", 1483228800.0),
        ("2024-02-29T12:00:00Z", 1709208000.0),
        ("1969-12-31T23:59:59.5Z", -0.5),
        ("0000-01-01T00:00:00Z", -62167219200.0),
        ("0000-01-01T00:00:00+23:59", -62167305540.0),
        ("9999-12-31T23:59:60.999-23:59", 253402387140.999),
        ("2026-05-04T09:30:00." + "1" * 1_000_000 + "Z", 1777887000.11111111),
    ],
)
def test_moment(time, seconds):
    """A time is its Unix seconds, in every way to write one that even a tolerant reader takes."""
    assert moment(time) == seconds


@pytest.mark.parametrize(
    "time", ["", "now", "2026-05-04", "2026-02-29T00:00:00Z", "2026-05-04T09:30:00", "2026-05-04T09:30:00Z\n", "٢٠٢٦"]
)
def test_no_moment(time):
    """What is no RFC 3339 time is refused."""
    with pytest.raises(ValueError, match="not an RFC 3339 time"):
        moment(time)


@pytest.mark.parametrize(
    ("seconds", "time"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1777887000.25, "2026-05-04T09:30:00.250Z"),
        (1777886999.9996, "2026-05-04T09:30:00.000Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
    ],
)
def test_date_time(seconds, time):
    """Unix seconds are written in UTC, with three decimals."""
    assert date_time(seconds) == time
    assert moment(time) == pytest.approx(seconds, abs=0.0005)
