"""Whatever conforms to a table is accepted, and each single fault is told in its place: by us and by ``jsonschema``.

No list of the draft has a most items, so "one item too many" has no instance; ``test_no_longest_list`` holds us to
that.
"""

import dataclasses
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protocol.modules import SchemaViolation
from engine.protocol.modules.check import accept
from engine.protocol.modules.classes import RuledClass
from engine.protocol.modules.explain import Anything, ListOf, Table, Values, explain
from tests.support.independent import objections
from tests.support.payloads import (
    CLASSES,
    ENUMS,
    REPAIRS,
    Declared,
    Fault,
    Tolerant,
    example,
    examples,
    faults,
    harmless,
    items_of,
    values,
    written,
    wrongs,
)
from tests.unit.modules.full import at

each_class = pytest.mark.parametrize("each", CLASSES, ids=str)
each_shape = pytest.mark.parametrize("each", [*CLASSES, *ENUMS], ids=str)


def told(each: Declared, payload: bytes, *, tolerant: bool = False) -> list[str]:
    """Return the pointers of what is wrong, if anything is."""
    try:
        accept(each.shape, payload, tolerant=tolerant)
    except SchemaViolation as refused:
        return [problem.pointer for problem in refused.problems]
    return []


def assert_told(each: Declared, fault: Fault) -> None:
    """Show that a fault is told in its place and nothing else is."""
    payload, pointers = written(fault.value), [at(fault.place)]

    assert told(each, payload) == pointers
    if fault.tolerant is Tolerant.REFUSED:
        assert told(each, payload, tolerant=True) == pointers
    else:
        warnings = [warning.pointer for warning in accept(each.shape, payload, tolerant=True)]
        assert warnings == (pointers if fault.tolerant is Tolerant.WARNED else [])
    assert objections(each.module.id, each.kind.name, payload) == set(pointers)


def test_repairs():
    """Every class that has rules, and no other, says how a generated object comes to keep them."""
    assert REPAIRS.keys() == {str(each) for each in CLASSES if issubclass(each.shape, RuledClass)}


@each_shape
@examples(10)
@given(data=st.data())
def test_conforms(each: Declared, data: st.DataObject):
    """What is made from the table is accepted, strictly and tolerantly, fast and in detail, and by the schema."""
    payload = written(data.draw(values(each.kind)), ascii_only=data.draw(st.booleans()))

    assert [str(warning) for warning in accept(each.shape, payload)] == []
    assert accept(each.shape, payload, tolerant=True) == ()
    assert explain(each.shape, payload, tolerant=False).problem_count == 0
    assert objections(each.module.id, each.kind.name, payload) == set()


@each_class
def test_every_fault(each: Declared):
    """Each fault of each row is told in its place and nothing else is, by both; tolerance is for what B23 names."""
    assert isinstance(each.kind, Table)
    shown: set[str] = set()
    for n in range(8):
        whole = example(each.kind, n)
        for fault in faults(each.kind, whole):
            if fault.place[0] not in shown:
                assert_told(each, fault)
        shown |= whole.keys()

    assert shown == {row.name for row in each.kind.rows}


@each_class
@examples(5)
@given(data=st.data())
def test_some_fault(each: Declared, data: st.DataObject):
    """It is the same whatever else is in an object, as long as that is right."""
    assert isinstance(each.kind, Table)
    found = list(faults(each.kind, data.draw(values(each.kind))))
    for fault in data.draw(st.lists(st.sampled_from(found), max_size=10)) if found else []:
        assert_told(each, fault)


@pytest.mark.parametrize("each", ENUMS, ids=str)
def test_wrong_value(each: Declared):
    """What is not of an enum is refused as a whole; of an OpenEnum that is only what is no text."""
    assert isinstance(each.kind, Values)
    for value in each.kind.values:
        for fault in wrongs(each.kind, value.value):
            assert_told(each, fault)


ONLY_OURS = {
    "CDR": {
        "/credit": "only a Credit CDR names the one that it credits",
        "/credit_reference_id": "a Credit CDR names the one that it credits",
        "/cdr_location/connector": "where energy was charged, there was a connector",
        "/cdr_token/token_version": "a whitelisted token has its version",
        "/charging_periods/*/dimensions/*/type": "some dimensions are for Sessions only",
    },
    "ChargingProfile": {"/min_charging_rate": "one decimal at most"},
    "ChargingProfilePeriod": {"/limit": "one decimal at most"},
    "EVSE": {"/connectors/*/id": "connectors of one EVSE have different ids"},
    "Hours": {
        "/regular_hours": "hours are needed unless it is always open, and only then",
        "/regular_hours/*": "hours do not overlap",
    },
    "Location": {
        "/publish_allowed_to": "tokens are named only for a hidden Location",
        "/address": "only a hidden Location may do without an address",
        "/charging_pool/*/id": "charging stations have different ids",
        "/charging_pool/*/evses/*/uid": "EVSEs have different uids",
    },
    "PublishTokenType": {
        "": "one of three fields names the tokens",
        "/type": "a uid needs its type",
        "/issuer": "a visual number needs its issuer",
    },
    "RegularHours": {"/period_end": "a period ends after it begins"},
    "Session": {
        "/connector": "only a reservation does without a connector",
        "/cdr_token/token_version": "a whitelisted token has its version",
        "/charging_periods/*/dimensions/*/volume": "a state of charge is a percentage",
    },
    "StartSessionRequest": {"/evse_uid": "a connector is named together with its EVSE"},
    "SetAbsoluteChargingProfileOnEvsesRequest": {
        "/charging_profile/start_date_time": "there is no session that it could begin with",
        "/charging_profile/charging_profile_period/*/numberPhases": "phases are for sessions",
        "/charging_profile/charging_profile_period/*/phaseToUse": "phases are for sessions",
    },
    "TariffElement": {"/price_components/*/type": "reservations are not priced by energy"},
    "Token": {"/uid": "an EMAID is a contract id"},
}
"""What is refused though the schema has nothing against it: where, and why."""


def inherited(kind: Table) -> Iterator[str]:
    """Yield where the rules of the tables in a table may be broken."""
    for row in kind.rows:
        inner = items_of(row.kind)
        if isinstance(inner, Table):
            here = f"/{row.name}/*" if isinstance(row.kind, ListOf) else f"/{row.name}"
            yield from (here + below for below in [*ONLY_OURS.get(inner.name, ()), *inherited(inner)])


def test_rules_that_only_we_know():
    """What is right row by row is refused only by rules between fields: these here, all of them and no others."""
    found: dict[str, set[str]] = {}
    for each in CLASSES:
        assert isinstance(each.kind, Table)
        for n in range(8 if issubclass(each.shape, RuledClass) else 0):
            for changed in harmless(each.kind, example(each.kind, n)):
                payload = written(changed)
                detailed = explain(each.shape, payload, tolerant=False).problems
                assert told(each, payload) == [problem.pointer for problem in detailed]
                if detailed:
                    broken = {re.sub("/[0-9]+", "/*", problem.pointer) for problem in detailed}
                    found.setdefault(str(each), set()).update(broken)
                    assert objections(each.module.id, each.kind.name, payload) == set()

    kinds = [each.kind for each in CLASSES if isinstance(each.kind, Table) and str(each) in found]
    own = {kind.name: found[kind.name] - {*inherited(kind)} for kind in kinds}
    assert own == {name: rules.keys() for name, rules in ONLY_OURS.items()}


@each_class
def test_null(each: Declared):
    """``null`` is not in the schemas, and to us it is as if the row were left out (W21)."""
    assert isinstance(each.kind, Table)
    whole = example(each.kind, 0)
    for row in each.kind.rows:
        null = written({**whole, row.name: None})
        nothing = written({name: value for name, value in whole.items() if name != row.name})

        assert told(each, null) == told(each, nothing)
        expected = set() if isinstance(row.kind, Anything) else {at((row.name,))}
        assert objections(each.module.id, each.kind.name, null) == expected


def lists(kind: Table) -> Iterator[ListOf]:
    """Yield the lists of a table."""
    yield from (row.kind for row in kind.rows if isinstance(row.kind, ListOf))


def test_no_longest_list():
    """No list has a most items, in the draft and so in our declarations: there is nothing to have one too many of."""
    every_list = [each for cls in CLASSES if isinstance(cls.kind, Table) for each in lists(cls.kind)]

    assert every_list
    assert {field.name for each in every_list for field in dataclasses.fields(each)} == {"items", "at_least"}
