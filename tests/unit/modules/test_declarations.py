"""The declarations themselves: complete, named and numbered as in the draft, found without a list."""

import re
from collections.abc import Iterator

import pytest

from engine.protocol.modules import all_modules, module, registry
from engine.protocol.modules.classes import OcpiClass, chapter, meaning
from engine.protocol.modules.explain import ListOf, Table, Values, table_of
from engine.protocol.scalars import exact, is_whole


def declared(table: type[OcpiClass]) -> Iterator[type]:
    """Yield a class and every class and enum in it."""
    yield table
    for row in table_of(table).rows:
        kind = row.kind.items if isinstance(row.kind, ListOf) else row.kind
        if isinstance(kind, Table):
            yield from declared(kind.table)
        elif isinstance(kind, Values):
            yield kind.values


EVERYTHING = {each.__name__: each for found in all_modules() for each in declared(found.payload)}


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
    """The payloads of these modules name no audience."""
    assert all(each.audience(b"{}") is None for each in all_modules())


@pytest.mark.parametrize("each", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_described(each):
    """Every class and enum says where the draft has it and what it is; every row and value says what it means."""
    assert re.fullmatch(r"\d+(\.\d+)*", chapter(each))
    assert meaning(each).endswith(".")

    if issubclass(each, OcpiClass):
        lines = [row.meaning for row in table_of(each).rows]
    else:
        assert all(member.value == name == str(member) for name, member in each.__members__.items())
        lines = [member.meaning for member in each]
    assert all(line.endswith(".") for line in lines)


def test_one_chapter_each():
    """No two classes claim the same chapter."""
    chapters = [chapter(each) for each in EVERYTHING.values()]

    assert len(set(chapters)) == len(chapters)


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
