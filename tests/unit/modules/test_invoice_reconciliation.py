"""Chapter 12: which CDRs are on which invoice."""

import pytest

from engine.protocol.modules.invoice_reconciliation import MODULE
from tests.unit.modules.full import FULL, drop, put, written
from tests.unit.modules.test_accept import found, warned

RECORD = FULL[MODULE.id]


@pytest.mark.requirement("R.12.01.01", "R.12.01.03")
def test_record():
    """A record names an invoice and at least one CDR."""
    assert MODULE.id == "irrs"
    assert MODULE.accept(written(RECORD)) == ()

    nothing = put(RECORD, ("cdr_ids",), [])
    assert found(MODULE, nothing) == ["/cdr_ids"]
    assert warned(MODULE, nothing) == ["/cdr_ids"]
    assert found(MODULE, drop(RECORD, ("invoice_id",))) == ["/invoice_id"]


@pytest.mark.parametrize(
    ("cdr_id", "right"),
    [
        ("1", True),
        ("x" * 255, True),
        ("x" * 256, False),
        ("", False),
        ("CDR 1", False),
        ("CDR\u00e9", False),
        (1, False),
    ],
)
def test_ids_of_cdrs(cdr_id, right):
    """The id of a CDR is of any form that an id may have, also longer than our own."""
    record = put(RECORD, ("cdr_ids", 1), cdr_id)

    if right:
        assert MODULE.accept(written(record)) == ()
    else:
        assert found(MODULE, record) == ["/cdr_ids/1"]
        assert found(MODULE, record, tolerant=True) == ["/cdr_ids/1"]


def test_same_cdr_twice():
    """That a CDR stands on one invoice twice is for people to settle."""
    assert MODULE.accept(written(put(RECORD, ("cdr_ids",), ["1", "1"]))) == ()


def test_either_side_issues():
    """With direct billing the CPO writes the invoice, with reverse billing the eMSP; the payload names nobody."""
    assert MODULE.issued_by == {"CPO", "EMSP"}
    assert MODULE.audience(written(RECORD)) is None
