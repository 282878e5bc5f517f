"""Chapter 10: what a Tariff Association says, and how one is cancelled."""

from typing import Any

import pytest

from engine.protocol.modules.module import Addition, CannotReplace, Issued, Wanted
from engine.protocol.modules.tariff_associations import CONNECTORS_TOLD_MAX, MODULE
from tests.unit.modules.full import FULL, put, written
from tests.unit.modules.test_accept import found

ASSOCIATION = FULL[MODULE.id]
START = "2026-01-01T00:00:00Z"


def connectors(*places: str) -> list[dict[str, str]]:
    """Return connectors that are written as ``EVSE/connector``."""
    return [dict(zip(("evse_uid", "connector_id"), each.split("/"), strict=True)) for each in places]


def issued(object_id: str, *places: str, **others: Any) -> Issued:
    """Return an association for some connectors."""
    payload = {**ASSOCIATION, "start_date_time": START, "connectors": connectors(*places), **others}
    return Issued(object_id, written(payload))


OLD = issued("A1", "E1/1", "E1/2", "E2/1")


def cancelled(*new: Issued, old: Issued = OLD) -> tuple[Addition, ...]:
    """Cancel an association by others, and return what is issued."""
    assert MODULE.replacement is not None
    return tuple(MODULE.replacement.make(old, Wanted(objects=new), {}, 0.0))


def refused(wanted: Wanted, old: Issued = OLD) -> list[str]:
    """Return why an association is not cancelled by this."""
    assert MODULE.replacement is not None
    with pytest.raises(CannotReplace) as error:
        MODULE.replacement.make(old, wanted, {}, 0.0)
    return str(error.value).split("; ")


def test_connectors_need_not_be_known():
    """A connector may be any, also twice; there has to be one, and both its ids."""
    assert MODULE.accept(written(put(ASSOCIATION, ("connectors",), connectors("nobody/knows", "nobody/knows")))) == ()
    assert found(MODULE, put(ASSOCIATION, ("connectors",), [])) == ["/connectors"]
    assert found(MODULE, put(ASSOCIATION, ("connectors",), [{"evse_uid": "E1"}])) == ["/connectors/0/connector_id"]


@pytest.mark.requirement("R.10.02.01", "R.10.02.02", "R.10.02.03", "R.10.02.04")
def test_cancelled_by_one():
    """One new association for all its connectors cancels an association; it is issued as it was given."""
    new = issued("A2", "E1/1", "E1/2", "E2/1", tariff_id="T0", note="kept")

    assert cancelled(new) == (("tariffassociations", "A2", new.payload, None),)


@pytest.mark.requirement("R.10.02.02")
def test_cancelled_by_several():
    """Several may share its connectors, in any order and case, also one in two; some may keep their Tariff."""
    right = issued("A2", "E2/1", "e1/2", tariff_id=ASSOCIATION["tariff_id"])
    wrong = issued("A3", "E1/2", "e1/1", tariff_id="T0")

    assert [each.id for each in cancelled(right, wrong)] == ["A2", "A3"]


@pytest.mark.requirement("R.10.02.02")
def test_connectors_that_differ():
    """Connectors that are left out, or that it never had, are named."""
    left_out, too_many = refused(Wanted(objects=(issued("A2", "E1/1"), issued("A3", "E1/1", "E3/1"))))

    named = "connector 2 of EVSE E1, connector 1 of EVSE E2"
    assert left_out == f"one of the new associations has to have {named}, as A1 has (R.10.02.02)"
    named = "connector 1 of EVSE E3"
    assert too_many == f"none of the new associations may have {named}, which A1 has not (R.10.02.02)"


def test_many_connectors_that_differ():
    """Of very many connectors some are named."""
    many = issued("A1", *(f"E{n}/1" for n in range(1000)))
    (reason,) = refused(Wanted(objects=(issued("A2", "E0/1"),)), many)

    assert reason.count("connector 1 of") == CONNECTORS_TOLD_MAX
    assert f"and {999 - CONNECTORS_TOLD_MAX} more" in reason


@pytest.mark.requirement("R.10.02.03")
@pytest.mark.parametrize("start", ["2026-01-01T00:00:01Z", "2026-01-01T00:00:00.000Z", "2026-01-01T00:00:00+00:00"])
def test_another_start(start):
    """It has to begin at the same moment, written alike, so that no reader sees a difference."""
    assert refused(Wanted(objects=(issued("A2", "E1/1", "E1/2", "E2/1", start_date_time=start),))) == [
        f"the start_date_time of A2 has to be 2026-01-01T00:00:00Z, written as in A1, not {start} (R.10.02.03)"
    ]


@pytest.mark.requirement("R.10.02.04")
def test_another_audience():
    """It has to be for the same audience."""
    assert refused(Wanted(objects=(issued("A2", "E1/1", "E1/2", "E2/1", audience="PROFILE_FAST"),))) == [
        "the audience of A2 has to be REGULAR, as of A1, not PROFILE_FAST (R.10.02.04)"
    ]


def test_ids():
    """New associations have ids of their own, whatever their case."""
    same = issued("a1", "E1/1"), issued("A2", "E1/2"), issued("a2", "E2/1")

    assert refused(Wanted(objects=same)) == [
        "each new association needs an id of its own: a1 is taken",
        "each new association needs an id of its own: a2 is taken",
    ]


@pytest.mark.requirement("R.10.02.01")
def test_by_nothing():
    """Without a new association nothing is cancelled."""
    assert refused(Wanted()) == ["give one or more new associations for the connectors of A1 (R.10.02.01)"]


def test_all_reasons_at_once():
    """Everything that is wrong is told at once, with what has no use here."""
    wrong = issued("A1", "E9/1", start_date_time="2027-01-01T00:00:00Z", audience="PROFILE_FAST")
    reasons = refused(Wanted(objects=(wrong,), id="A9", effective_at=0.0))

    assert len(reasons) == 7
    assert "an id is not chosen here" in reasons[0]
    assert "a time is not chosen here" in reasons[1]


def test_what_only_a_tolerant_reader_accepted():
    """With what does not follow the table nothing is compared, and no other error comes of it."""
    broken = Issued("A0", b'{"tariff_id":"T1","audience":"EVERYBODY"}')

    assert refused(Wanted(objects=(issued("A2", "E1/1"),)), broken) == [
        "A0 does not follow the table of a TariffAssociation, so nothing can be compared with it"
    ]
    assert refused(Wanted(objects=(broken, issued("A2", "E1/1", "E1/2", "E2/1")))) == [
        "A0 does not follow the table of a TariffAssociation"
    ]
