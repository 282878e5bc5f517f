"""Payloads that others wrote: the draft's examples, and objects of a real operator. Never part of this repository.

The draft's examples are what implementers copy from, and several of them break its tables, which count (B23).
Which ones, where and why, is written down here for each of them, and nothing is left to chance.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from engine.protocol.modules import SchemaViolation, module
from engine.protocol.modules.check import accept
from tests.support.independent import objections
from tests.support.payloads import DECLARED
from tests.support.real_data import DATA, need_data

EXAMPLES: Final = DATA.parent / "spec" / "examples"

need_examples = pytest.mark.skipif(not EXAMPLES.is_dir(), reason=f"no folder of the draft's examples at {EXAMPLES}")


class Verdict(NamedTuple):
    """What there is to say about an example of the draft."""

    shape: str
    """The class or enum that it is an example of."""
    missed: frozenset[str] = frozenset()
    """Where a strict reader refuses it and a tolerant one warns."""
    refused: frozenset[str] = frozenset()
    """Where both refuse it."""
    why: str = "as in the tables"
    ruled: frozenset[str] = frozenset()
    """Which of these places are told by a rule between fields, of which the schema knows nothing."""


def below(places: Iterable[str], *names: str) -> frozenset[str]:
    """Return a pointer for each name in each place."""
    return frozenset(f"{place}/{name}" for place in places for name in names)


def evses(*counts: int) -> list[str]:
    """Return the places of EVSEs, of which each charging station has so many."""
    return [f"/charging_pool/{n}/evses/{m}" for n, count in enumerate(counts) for m in range(count)]


NO_PRESENCE = ("presence", "parking/direction")
HEAD = (*NO_PRESENCE, "parking/evse_position")
NEW_FIELDS = "presence and direction have to be there, and no example has them"
NO_SUCH_POSITION = f"{NEW_FIELDS}; HEAD is in no table of positions"
VALID_FROM = "valid was replaced by valid_from, which has to be there"

SESSION_RULES: Final = frozenset({"/connector", "/cdr_token/token_version"})
CDR_RULES: Final = frozenset({"/cdr_location/connector", "/cdr_token/token_version"})
OLD_CONNECTOR = "older fields name its connector; a whitelisted token has its version"
OLD_SESSION: Final = Verdict(
    "Session",
    SESSION_RULES,
    frozenset({"/cdr_token/party_id"}),
    f"{OLD_CONNECTOR}; a Party ID has the country in it",
    ruled=SESSION_RULES,
)

VERDICTS: Final = {
    "5.2.2.1-": Verdict("Location", below(evses(2), *NO_PRESENCE), why=NEW_FIELDS),
    "5.2.2.2-": Verdict(
        "Location",
        below(evses(2, 2), *HEAD),
        below(evses(2, 2), "parking/parking_restrictions/0/group"),
        f"{NO_SUCH_POSITION}; group is a text where the table has a list",
    ),
    "5.2.2.4-": Verdict("Location", below(evses(1), *HEAD), why=NO_SUCH_POSITION),
    "5.2.2.5-": Verdict("Location", below(evses(1), *NO_PRESENCE), why=NEW_FIELDS),
    "5.2.2.6-": Verdict("Location", below(evses(1), *HEAD), why=NO_SUCH_POSITION),
    "5.4.25.1-": Verdict("Hours"),
    "5.4.25.2-": Verdict("Hours"),
    "5.4.25.3-": Verdict("Hours"),
    "5.4.36.2-example-with-exceptional-opening-hours.": Verdict("RegularHours"),
    "5.4.36.2-example-with-exceptional-opening-hours-2.": Verdict("ExceptionalPeriod"),
    "5.4.36.2-example-with-exceptional-opening-hours-3.": Verdict("ExceptionalPeriod"),
    "7.4.5.1-examples.": OLD_SESSION,
    "7.4.5.1-examples-2.": OLD_SESSION,
    "8.2.3-": Verdict("CDR", CDR_RULES, why=OLD_CONNECTOR, ruled=CDR_RULES),
    **{f"9.3.2.{n}-": Verdict("Tariff") for n in range(1, 19)},
    "9.5.8.1-": Verdict("Tariff", why="as in the tables; fields of older versions are fields that no table knows"),
    "9.5.8.2-": Verdict("Tariff", why="as in the tables; fields of older versions are fields that no table knows"),
    **{f"11.2.2.{n}-": Verdict("Token", frozenset({"/valid_from"}), why=VALID_FROM) for n in range(1, 4)},
}
"""Of each file of examples, by how its name begins."""


def files() -> list[Path]:
    """Return the files of examples, if they are here."""
    return sorted(EXAMPLES.glob("*.json"))


@need_examples
def test_every_example_has_a_verdict():
    """Each example is known, and no verdict is about none or about two."""
    assert sorted(file for name in VERDICTS for file in EXAMPLES.glob(f"{name}*")) == files()
    assert len(VERDICTS) == len(files()) == 37


def verdict(shape: str, payload: bytes, *, tolerant: bool) -> tuple[frozenset[str], frozenset[str]]:
    """Return pointers to what is refused, and to what is warned of."""
    try:
        warnings = accept(DECLARED[shape].shape, payload, tolerant=tolerant)
        return frozenset(), frozenset(warning.pointer for warning in warnings)
    except SchemaViolation as error:
        return frozenset(problem.pointer for problem in error.problems), frozenset()


@need_examples
@pytest.mark.parametrize(("name", "expected"), VERDICTS.items(), ids=VERDICTS)
def test_examples_of_the_draft(name: str, expected: Verdict):
    """The draft's examples break its tables just where we know they do, for the schemas too."""
    (file,) = EXAMPLES.glob(f"{name}*")
    payload = file.read_bytes()
    wrong = expected.missed | expected.refused

    assert verdict(expected.shape, payload, tolerant=False) == (wrong, frozenset())
    assert verdict(expected.shape, payload, tolerant=True) == (
        (expected.refused, frozenset()) if expected.refused else (frozenset(), expected.missed)
    )
    assert objections(DECLARED[expected.shape].module.id, expected.shape, payload) == wrong - expected.ruled


@need_data
@pytest.mark.parametrize(
    ("file", "module_id", "odd"),
    [
        ("locations-deslb.ndjson", "locations", {"/opening_times/regular_hours"}),  # out of the week's order (O4)
        ("evsestatuses-deslb.ndjson", "evsestatuses", set()),
    ],
)
def test_real_data(file: str, module_id: str, odd: set[str]):
    """Objects of a real operator are accepted, by the schemas too, and what is odd about them is known."""
    found = module(module_id)
    assert found
    payloads = [json.dumps(json.loads(line)["payload"]).encode() for line in (DATA / file).read_bytes().splitlines()]

    assert payloads
    assert {warning.pointer for payload in payloads for warning in found.accept(payload)} <= odd
    assert not any(objections(module_id, None, payload) for payload in payloads)
