"""Payloads that others wrote: the draft's examples, and Locations of a real operator. Never part of this repository."""

import json

import pytest

from engine.protocol.modules.classes import OcpiClass
from engine.protocol.modules.explain import explain
from engine.protocol.modules.locations import ExceptionalPeriod, Hours, Location, RegularHours
from tests.support.real_data import DATA, need_data
from tests.unit.modules.test_accept import locations, statuses

EXAMPLES = DATA.parent / "spec" / "examples"

need_examples = pytest.mark.skipif(not EXAMPLES.is_dir(), reason=f"no folder of the draft's examples at {EXAMPLES}")


@need_data
def test_real_locations():
    """Locations of a real operator are accepted; hours in an odd order are all there is to say about them."""
    payloads = [json.loads(line)["payload"] for line in (DATA / "locations-deslb.ndjson").read_text().splitlines()]

    warnings = [warning for each in payloads for warning in locations.accept(json.dumps(each).encode())]

    assert payloads
    assert {warning.pointer for warning in warnings} <= {"/opening_times/regular_hours"}


@need_data
def test_real_statuses():
    """Statuses of a real operator are accepted."""
    lines = [json.loads(line) for line in (DATA / "evsestatuses-deslb.ndjson").read_text().splitlines()]

    assert lines
    assert all(statuses.accept(json.dumps(each["payload"]).encode()) == () for each in lines)


NO_PRESENCE = {"presence", "direction"}  # required since 3.0, and none of the examples has them
HEAD = NO_PRESENCE | {"evse_position"}  # HEAD is in no table


@need_examples
@pytest.mark.parametrize(
    ("name", "table", "missed", "refused"),
    [
        ("5.2.2.1-", Location, NO_PRESENCE, set()),
        ("5.2.2.2-", Location, HEAD, {"group"}),  # a text where the table has a list
        ("5.2.2.4-", Location, HEAD, set()),
        ("5.2.2.5-", Location, NO_PRESENCE, set()),
        ("5.2.2.6-", Location, HEAD, set()),
        ("5.4.25.1-", Hours, set(), set()),
        ("5.4.25.2-", Hours, set(), set()),
        ("5.4.25.3-", Hours, set(), set()),
        ("5.4.36.2-example-with-exceptional-opening-hours.", RegularHours, set(), set()),
        ("5.4.36.2-example-with-exceptional-opening-hours-2.", ExceptionalPeriod, set(), set()),
        ("5.4.36.2-example-with-exceptional-opening-hours-3.", ExceptionalPeriod, set(), set()),
    ],
)
def test_examples_of_the_draft(name: str, table: type[OcpiClass], missed: set[str], refused: set[str]):
    """The draft's examples break its tables just where we know they do."""
    (file,) = EXAMPLES.glob(f"{name}*")
    strict = explain(table, file.read_bytes(), tolerant=False)
    tolerant = explain(table, file.read_bytes(), tolerant=True)

    assert {each.pointer.rpartition("/")[2] for each in strict.problems} == missed | refused
    assert {each.pointer.rpartition("/")[2] for each in tolerant.warnings} == missed
    assert {each.pointer.rpartition("/")[2] for each in tolerant.problems} == refused
