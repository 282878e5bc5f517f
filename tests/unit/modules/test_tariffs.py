"""Chapter 9: what a Tariff may say, and how a new one takes the place of an old one."""

import json
from typing import Any

import msgspec
import pytest

from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules.explain import explain
from engine.protocol.modules.module import Addition, CannotReplace, Issued, Wanted
from engine.protocol.modules.tariffs import MODULE, Tariff
from engine.protocol.scalars import date_time, moment
from tests.unit.modules.full import FULL, Place, drop, put, written
from tests.unit.modules.test_accept import found, named, warned

TARIFF = FULL[MODULE.id]
ELEMENT: Place = ("elements", 0)
RESTRICTIONS: Place = (*ELEMENT, "restrictions")
ASSOCIATIONS = ModuleId("tariffassociations")
NOW = moment("2026-05-04T09:30:00.250Z")


# -- what a Tariff may say ----------------------------------------------------------------------------------


def priced_by(*dimensions: str) -> dict[str, Any]:
    """Return a Tariff whose first element, which is about reservations, has prices for these dimensions."""
    return put(TARIFF, (*ELEMENT, "price_components"), [{"type": each, "price": 1} for each in dimensions])


@pytest.mark.parametrize("reservation", ["RESERVATION", "RESERVATION_EXPIRES"])
def test_reservations_have_no_price_for_energy(reservation):
    """Where reservations are priced, only FLAT and TIME are; elsewhere energy is as well."""
    energy = put(priced_by("FLAT", "ENERGY", "TIME", "ENERGY"), (*RESTRICTIONS, "reservation"), reservation)
    wrong = ["/elements/0/price_components/1/type", "/elements/0/price_components/3/type"]

    assert found(MODULE, energy) == wrong
    assert found(MODULE, energy, tolerant=True) == wrong
    assert MODULE.accept(written(priced_by("FLAT", "TIME"))) == ()
    assert MODULE.accept(written(drop(energy, (*RESTRICTIONS, "reservation")))) == ()
    assert MODULE.accept(written(drop(energy, RESTRICTIONS))) == ()


def test_a_wrong_dimension_is_told_once():
    """What is no dimension at all is told by its own row, and not again by the rule."""
    assert found(MODULE, priced_by("DISTANCE")) == ["/elements/0/price_components/0/type"]
    assert warned(MODULE, priced_by("DISTANCE")) == ["/elements/0/price_components/0/type"]
    assert found(MODULE, put(priced_by("ENERGY"), (*RESTRICTIONS, "reservation"), 1)) == [
        "/elements/0/restrictions/reservation"
    ]


def test_the_rule_in_words():
    """Whoever breaks the rule reads what would do; the quick look says no as well."""
    with pytest.raises(msgspec.ValidationError, match="FLAT or TIME"):
        msgspec.json.decode(written(priced_by("ENERGY")), type=Tariff)
    problems = explain(Tariff, written(priced_by("ENERGY")), tolerant=False).problems

    assert [str(each) for each in problems] == [
        '/elements/0/price_components/0/type: expected FLAT or TIME, since restrictions has reservation; found "ENERGY"'
    ]


@pytest.mark.parametrize("field", ["start_time", "end_time"])
@pytest.mark.parametrize(
    ("time", "right"),
    [
        ("00:00", True),
        ("13:30", True),
        ("23:59", True),
        ("24:00", False),
        ("19:60", False),
        ("9:30", False),
        ("09.30", False),
        ("09:30:00", False),
        ("09:30\n", False),
        ("٠٩:٣٠", False),
    ],
)
def test_times_of_day(field, time, right):
    """Times of day are hours and minutes of two digits each; both may be the same, and the end before the start."""
    tariff = put(TARIFF, (*RESTRICTIONS, field), time)

    if right:
        assert MODULE.accept(written(tariff)) == ()
    else:
        assert found(MODULE, tariff) == [f"/elements/0/restrictions/{field}"]
        assert found(MODULE, tariff, tolerant=True) == [f"/elements/0/restrictions/{field}"]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*RESTRICTIONS, "max_energy"), -1),
        ((*RESTRICTIONS, "min_power"), 1000),
        ((*RESTRICTIONS, "max_duration"), 0),
        ((*RESTRICTIONS, "day_of_week"), ["MONDAY", "MONDAY"]),
        (RESTRICTIONS, {}),
        (("max_price", "before_taxes"), 0),
        ((*ELEMENT, "price_components", 0, "price"), -0.5),
        ((*ELEMENT, "price_components", 0, "taxes", 0, "percentage"), 110),
        ((*ELEMENT, "price_components"), [{"type": "TIME", "price": 1}, {"type": "TIME", "price": 2}]),
        (("elements",), [{"price_components": [{"type": "FLAT", "price": 0.00}]}]),
    ],
)
def test_no_rule_that_the_draft_does_not_have(place, value):
    """Limits that exclude each other, and what nobody would pay, are not for us to judge."""
    assert MODULE.accept(written(put(TARIFF, place, value))) == ()


@pytest.mark.parametrize("duration", ["min_duration", "max_duration", "min_restrictions_duration"])
def test_durations_are_whole(duration):
    """Durations are whole seconds, amounts may have a fraction."""
    assert found(MODULE, put(TARIFF, (*RESTRICTIONS, duration), 0.5)) == [f"/elements/0/restrictions/{duration}"]
    assert MODULE.accept(written(put(TARIFF, (*RESTRICTIONS, "max_power"), 0.5))) == ()


# -- a new Tariff in the place of an old one ----------------------------------------------------------------

NEW = written(TARIFF)


def association(
    object_id: str, tariff: str, start: str, *connectors: str, audience: str = "REGULAR", **others: object
) -> Issued:
    """Return an association as it was issued; connectors as ``EVSE/connector``."""
    places = [dict(zip(("evse_uid", "connector_id"), each.split("/"), strict=True)) for each in connectors]
    payload = {
        "start_date_time": start,
        "tariff_id": tariff,
        "connectors": places,
        "audience": audience,
        "last_updated": "2026-01-01T00:00:00Z",
        **others,
    }
    return Issued(object_id, written(payload))


def replaced(*issued: Issued, at: str | None = None, new: str = "T2") -> list[Addition]:
    """Replace T1, and return what is issued besides the new Tariff; each conforms, and is like what it came from."""
    wanted = Wanted(objects=(Issued(new, NEW),), effective_at=None if at is None else moment(at))
    assert MODULE.replacement is not None
    tariff, *others = MODULE.replacement.make(Issued("T1", NEW), wanted, {ASSOCIATIONS: issued}, NOW)

    assert tariff == ("tariffs", new, NEW, None)
    for each in others:
        assert each.module == ASSOCIATIONS
        assert named(ASSOCIATIONS).accept(each.payload) == ()
        assert each.like in {one.id for one in issued}
    return others


def told(additions: list[Addition]) -> list[tuple[str | None, str, list[str]]]:
    """Say of each new association what it is like, when it begins and where."""
    payloads = [json.loads(each.payload) for each in additions]
    return [
        (
            each.like,
            payload["start_date_time"],
            [f"{one['evse_uid']}/{one['connector_id']}" for one in payload["connectors"]],
        )
        for each, payload in zip(additions, payloads, strict=True)
    ]


def test_a_tariff_that_is_in_force():
    """A Tariff that holds now is replaced by an association that begins now, for the same connectors and audience."""
    (new,) = replaced(association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1", "E1/2", audience="PROFILE_GREEN"))

    assert json.loads(new.payload) == {
        "start_date_time": "2026-05-04T09:30:00.250Z",
        "tariff_id": "T2",
        "connectors": [{"evse_uid": "E1", "connector_id": "1"}, {"evse_uid": "E1", "connector_id": "2"}],
        "audience": "PROFILE_GREEN",
        "last_updated": "2026-05-04T09:30:00.250Z",
    }
    assert new.like == "A1"


def test_from_when_it_counts():
    """The new Tariff counts from the time that is wanted; what it takes is issued now all the same."""
    (new,) = replaced(association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1"), at="2027-01-01T00:00:00Z")

    assert json.loads(new.payload)["start_date_time"] == "2027-01-01T00:00:00.000Z"
    assert json.loads(new.payload)["last_updated"] == "2026-05-04T09:30:00.250Z"


def test_associations_that_begin_later():
    """One that begins later is replaced from its own moment on, written as it was (10.02)."""
    assert told(
        replaced(
            association("now", "T1", "2026-01-01T00:00:00Z", "E1/1"),
            association("then", "T1", "2027-01-01T00:00:00.5Z", "E1/1"),
        )
    ) == [("now", "2026-05-04T09:30:00.250Z", ["E1/1"]), ("then", "2027-01-01T00:00:00.5Z", ["E1/1"])]


def test_an_association_that_begins_at_that_moment():
    """One that begins at the very moment that is wanted is in force then."""
    issued = association("A1", "T1", "2027-01-01T00:00:00+00:00", "E1/1")

    assert told(replaced(issued, at="2027-01-01T00:00:00Z")) == [("A1", "2027-01-01T00:00:00.000Z", ["E1/1"])]


@pytest.mark.requirement("R.08.04.01")
def test_what_a_newer_association_took_over():
    """Connectors at which another Tariff holds by now are left alone, whatever their ids' case; the rest are not."""
    old = association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1", "e1/A", "E2/1")

    assert told(replaced(old, association("A2", "T9", "2026-02-01T00:00:00Z", "E1/a", "e2/1"))) == [
        ("A1", "2026-05-04T09:30:00.250Z", ["E1/1"])
    ]
    # another audience, another connector, or not yet: nothing is taken over
    for other in (
        association("A2", "T9", "2026-02-01T00:00:00Z", "E1/1", "E1/A", "E2/1", audience="PROFILE_FAST"),
        association("A2", "T9", "2026-02-01T00:00:00Z", "E3/1"),
        association("A2", "T9", "2026-06-01T00:00:00Z", "E1/1", "E1/A", "E2/1"),
        association("A2", "T9", "2025-12-31T23:59:59.999Z", "E1/1", "E1/A", "E2/1"),
    ):
        assert told(replaced(old, other)) == [("A1", "2026-05-04T09:30:00.250Z", ["E1/1", "e1/A", "E2/1"])]
        assert told(replaced(other, old)) == told(replaced(old, other))


@pytest.mark.parametrize("start", ["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"])
@pytest.mark.requirement("R.08.04.01")
def test_of_equal_moments_the_last_one_counts(start):
    """Of several that begin at the same moment, however that is written, the one issued last holds."""
    first, last = association("A1", "T1", start, "E1/1"), association("A2", "T9", start[:-1] + ".000Z", "E1/1")

    assert replaced(first, last) == []
    assert [each.like for each in replaced(last, first)] == ["A1"]


def test_one_that_is_over_by_then():
    """What another Tariff has followed by the time that is wanted is left alone, although it holds today."""
    today = association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1")
    follows = association("A2", "T9", "2026-06-01T00:00:00Z", "E1/1")

    assert replaced(today, follows, at="2026-07-01T00:00:00Z") == []
    assert [each.like for each in replaced(today, follows, at="2026-05-31T00:00:00Z")] == ["A1"]


def test_back_again():
    """A Tariff that comes back after another one is replaced both times."""
    assert told(
        replaced(
            association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1"),
            association("A2", "T9", "2026-06-01T00:00:00Z", "E1/1"),
            association("A3", "t1", "2026-09-01T00:00:00Z", "E1/1"),
        )
    ) == [("A1", "2026-05-04T09:30:00.250Z", ["E1/1"]), ("A3", "2026-09-01T00:00:00Z", ["E1/1"])]


def test_nothing_refers_to_it():
    """A Tariff that holds nowhere is followed by the new one alone."""
    assert replaced() == []
    assert replaced(association("A1", "T9", "2026-01-01T00:00:00Z", "E1/1")) == []


def test_ids_of_new_associations():
    """They follow from the old association and the new Tariff, without regard to case, and are ids."""
    old = association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1")
    other = association("A2", "T1", "2026-01-01T00:00:00Z", "E1/2")
    first, second = replaced(old, other)

    assert len({first.id, second.id, "A1", "A2"}) == 4
    assert len(first.id) == 36
    assert [each.id for each in replaced(old, other)] == [first.id, second.id]
    assert replaced(old._replace(id="a1"), new="t2")[0].id == first.id
    assert replaced(old, new="T3")[0].id != first.id


def test_what_we_do_not_know_is_not_carried_over():
    """Fields of no table are not taken to be true of another Tariff."""
    old = association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1", note="\ud800", weight=[1e300])

    assert set(json.loads(replaced(old)[0].payload)) == set(FULL[ASSOCIATIONS])


def test_what_only_a_tolerant_reader_accepted():
    """An association of which something is missing tells nothing, and harms nothing."""
    broken = Issued("A2", b'{"tariff_id":"T1"}')

    assert [each.like for each in replaced(broken, association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1"))] == ["A1"]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted(), ["give one new Tariff for T1, not 0"]),
        (Wanted(objects=(Issued("T2", NEW), Issued("T3", NEW))), ["give one new Tariff for T1, not 2"]),
        (Wanted(objects=(Issued("t1", NEW),)), ["an id of its own", "R.09.01.04"]),
        (Wanted(objects=(Issued("T2", NEW),), id="T3"), ["an id is not chosen here"]),
        (Wanted(id="T3"), ["an id is not chosen here", "give one new Tariff for T1, not 0"]),
        (Wanted(objects=(Issued("T2", NEW),), effective_at=1e18), ["years 1000 and 9999"]),
        (Wanted(objects=(Issued("T2", NEW),), effective_at=float("nan")), ["years 1000 and 9999"]),
        (Wanted(objects=(Issued("T2", NEW),), effective_at=moment("0999-01-01T00:00:00Z")), ["years 1000 and 9999"]),
    ],
)
def test_refusals(wanted, why):
    """What cannot be carried out is refused, with all reasons at once."""
    assert MODULE.replacement is not None
    with pytest.raises(CannotReplace) as refused:
        MODULE.replacement.make(Issued("T1", NEW), wanted, {ASSOCIATIONS: ()}, NOW)

    assert all(each in str(refused.value) for each in why)


def test_associations_for_different_parties():
    """A Tariff is not replaced where some parties see another one: it holds there for some, and not for others."""
    for_all = association("A1", "T1", "2026-01-01T00:00:00Z", "E1/1", "E1/2")
    for_some = association("A2", "T9", "2026-02-01T00:00:00Z", "E1/2")._replace(seen_by=frozenset({PartyId("NLEMS")}))
    elsewhere = association("A3", "T9", "2026-02-01T00:00:00Z", "E2/1")._replace(seen_by=for_some.seen_by)

    with pytest.raises(CannotReplace, match="connector 2 of EVSE e1, A1 among them, are not all for the same"):
        replaced(for_all, for_some)
    assert told(replaced(for_all, elsewhere)) == [("A1", "2026-05-04T09:30:00.250Z", ["E1/1", "E1/2"])]
    alike = for_all._replace(seen_by=for_some.seen_by)
    assert told(replaced(alike, for_some)) == [("A1", "2026-05-04T09:30:00.250Z", ["E1/1"])]


def test_many_associations():
    """Ten thousand associations of one connector are looked at once each."""
    start = moment("2020-01-01T00:00:00Z")
    issued = [association(f"A{n}", "T1", date_time(start + n), "E1/1") for n in range(10_000)]

    assert [each.like for each in replaced(*issued)] == ["A9999"]
