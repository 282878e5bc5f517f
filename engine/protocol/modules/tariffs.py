"""Chapter 9, Tariffs: what charging costs.

A Tariff is a list of elements. An element has prices, each for one dimension (energy, time, or once), and the
circumstances in which they hold. At any moment the price of a dimension is that of the first element that has one
for it and whose restrictions match; without such an element the dimension costs nothing.

A Tariff never changes once it is issued, and has no end: which one holds where, and from when, is what the module
``tariffassociations`` tells. So a new Tariff takes an old one's place by new associations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, TypeAlias
from uuid import NAMESPACE_URL, uuid5

from engine.protocol.ids import ModuleId, object_key
from engine.protocol.modules.classes import Breach, ClosedEnum, Many, Maybe, OcpiClass, RuledClass, Some
from engine.protocol.modules.module import Addition, Audience, CannotReplace, Issued, Module, Replacement, Wanted
from engine.protocol.modules.shared_types import DisplayText, EnergyMix
from engine.protocol.modules.tariff_associations import (
    ConnectorKey,
    ConnectorReference,
    TariffAssociation,
    TariffAudience,
    association,
    connector_key,
)
from engine.protocol.scalars import (
    URL,
    CiAsciiString_3,
    CiTimeOfDay,
    DateTime,
    DecimalNumber,
    Int,
    Number,
    UnicodeString_1_50,
    date_time,
    moment,
)

ASSOCIATIONS: Final = ModuleId("tariffassociations")
_ASSOCIATION_IDS: Final = uuid5(NAMESPACE_URL, "ocpi-engine/tariffassociations")


class DayOfWeek(ClosedEnum):
    """9.5.1: A day of the week."""

    MONDAY = "MONDAY", "Monday."
    TUESDAY = "TUESDAY", "Tuesday."
    WEDNESDAY = "WEDNESDAY", "Wednesday."
    THURSDAY = "THURSDAY", "Thursday."
    FRIDAY = "FRIDAY", "Friday."
    SATURDAY = "SATURDAY", "Saturday."
    SUNDAY = "SUNDAY", "Sunday."


class Price(OcpiClass, kw_only=True):
    """9.5.2: An amount of money, and the taxes on it."""

    before_taxes: Annotated[DecimalNumber, "The amount without taxes."]
    taxes: Annotated[Many[TaxAmount], "The taxes on it that matter to who gets the Session or CDR."] = None


class PriceComponent(OcpiClass, kw_only=True):
    """9.5.3: What a unit of one dimension costs."""

    type: Annotated[TariffDimensionType, "The dimension that has this price."]
    price: Annotated[DecimalNumber, "The price of one unit, without taxes."]
    taxes: Annotated[
        Many[TaxPercentage], "The taxes on it; left out: none apply, which is not the same as one of 0 percent."
    ] = None


class ReservationRestrictionType(ClosedEnum):
    """9.5.4: Which reservations something is the price of."""

    RESERVATION = "RESERVATION", "Reservations."
    RESERVATION_EXPIRES = (
        "RESERVATION_EXPIRES",
        "Reservations that end without a session; for these it goes before RESERVATION.",
    )


class Tariff(OcpiClass, kw_only=True):
    """9.5.5: Prices, and in which circumstances they hold."""

    currency: Annotated[CiAsciiString_3, "ISO 4217 code of the currency, such as EUR."]
    tariff_alt_text: Annotated[
        Many[DisplayText], "What else there is to say about it, in several languages; never the prices."
    ] = None
    tariff_alt_url: Annotated[Maybe[URL], "A web page that explains it to people."] = None
    min_price: Annotated[
        Maybe[Price], "The least that a session costs, before taxes and of each tax, whatever its elements add up to."
    ] = None
    max_price: Annotated[
        Maybe[Price], "The most that a session costs, before taxes and of each tax, whatever its elements add up to."
    ] = None
    elements: Annotated[Some[TariffElement], "Its elements; for each dimension the first one that matches counts."]
    energy_mix: Annotated[Maybe[EnergyMix], "Where the energy comes from."] = None
    last_updated: Annotated[DateTime, "When it was issued."]


class TariffElement(RuledClass, kw_only=True):
    """9.5.6: Prices that hold in the same circumstances."""

    price_components: Annotated[Some[PriceComponent], "The prices of some dimensions."]
    restrictions: Annotated[
        Maybe[TariffRestrictions], "The circumstances; left out: they hold wherever no element before this one does."
    ] = None

    def rules(self) -> Iterator[Breach]:
        """Where reservations are priced, nothing is priced by energy: only FLAT and TIME are for them (9.5.8)."""
        if self.restrictions is None or not self.restrictions.reservation:
            return
        for n, component in enumerate(self.price_components):
            if component.type == TariffDimensionType.ENERGY:
                yield Breach(
                    ("price_components", n, "type"), '"ENERGY"', "FLAT or TIME, since restrictions has reservation"
                )


class TariffDimensionType(ClosedEnum):
    """9.5.7: What a price is counted by."""

    ENERGY = "ENERGY", "Energy, in kWh."
    FLAT = "FLAT", "Once for a session, or for a reservation."
    TIME = "TIME", "Time, in hours."


class TariffRestrictions(OcpiClass, kw_only=True):
    """9.5.8: The circumstances in which prices hold, moment by moment; all of them have to be met at once."""

    start_time: Annotated[
        Maybe[CiTimeOfDay], "The time of day from which they hold, in the time zone of the Location."
    ] = None
    end_time: Annotated[
        Maybe[CiTimeOfDay], "The time of day until which they hold; of the next day, if it is before start_time."
    ] = None
    min_energy: Annotated[Maybe[DecimalNumber], "From so many kWh on, these included."] = None
    max_energy: Annotated[Maybe[DecimalNumber], "Below so many kWh."] = None
    min_current: Annotated[Maybe[DecimalNumber], "While it charges with so many amperes or more, all phases added."] = (
        None
    )
    max_current: Annotated[Maybe[DecimalNumber], "While it charges with fewer amperes, all phases added."] = None
    min_power: Annotated[Maybe[DecimalNumber], "While it charges with so many kW or more."] = None
    max_power: Annotated[Maybe[DecimalNumber], "While it charges with fewer kW."] = None
    min_duration: Annotated[Maybe[Int], "From so many seconds of the session on, these included."] = None
    max_duration: Annotated[Maybe[Int], "Before so many seconds of the session have passed."] = None
    min_restrictions_duration: Annotated[
        Maybe[Int], "Once the other restrictions have been met for so many seconds."
    ] = None
    day_of_week: Annotated[Many[DayOfWeek], "On these days."] = None
    reservation: Annotated[
        Maybe[ReservationRestrictionType], "They are the prices of reservations; left out: of charging."
    ] = None
    vehicle_requesting_power: Annotated[
        Maybe[bool], "While the car asks for power, even if it gets none; false: while it asks for none."
    ] = None


class TaxAmount(OcpiClass, kw_only=True):
    """9.5.9: How much of a tax is due."""

    name: Annotated[UnicodeString_1_50, "The tax, preferably short, such as VAT."]
    amount: Annotated[DecimalNumber, "The amount of money."]


class TaxPercentage(OcpiClass, kw_only=True):
    """9.5.10: How high a tax is."""

    name: Annotated[UnicodeString_1_50, "The tax, preferably short, such as VAT."]
    percentage: Annotated[Number, "Percent of the amount before taxes."]


# -- a new Tariff in the place of an old one ----------------------------------------------------------------

_Place: TypeAlias = tuple[ConnectorKey, TariffAudience]
"""Where and for whom a Tariff holds."""


class _Candidate(NamedTuple):
    """An association that may hold somewhere, and its ``start_date_time`` as Unix seconds."""

    id: str
    read: TariffAssociation
    begins: float
    seen_by: Audience | None

    @property
    def places(self) -> dict[_Place, ConnectorReference]:
        """Return where it may hold, with the connectors as it writes them."""
        return {(connector_key(connector), self.read.audience): connector for connector in self.read.connectors}


def _replace(
    old: Issued, wanted: Wanted, related: Mapping[ModuleId, Sequence[Issued]], now: float
) -> tuple[Addition, ...]:
    """Issue the new Tariff, and new associations wherever the old one holds now or will later."""
    if reasons := list(_reasons(old, wanted)):
        raise CannotReplace("; ".join(reasons))
    (new,) = wanted.objects
    try:
        from_then = date_time(now if wanted.effective_at is None else wanted.effective_at)
        begins = moment(from_then)
    except (ValueError, OverflowError, OSError) as error:  # what datetime says of years beyond it
        raise CannotReplace("the new Tariff can begin between the years 1000 and 9999") from error
    additions = [Addition(MODULE.id, new.id, new.payload)]
    for candidate, connectors in _holding(related[ASSOCIATIONS], object_key(old.id), begins):
        payload = {
            "start_date_time": candidate.read.start_date_time if candidate.begins > begins else from_then,
            "tariff_id": new.id,
            "connectors": connectors,
            "audience": str(candidate.read.audience),
            "last_updated": date_time(now),
        }
        # told by what they come from, so that an order which is repeated finds that it was carried out
        new_id = str(uuid5(_ASSOCIATION_IDS, f"{object_key(candidate.id)} {object_key(new.id)}"))
        additions.append(Addition(ASSOCIATIONS, new_id, json.dumps(payload).encode(), like=candidate.id))
    return tuple(additions)


def _reasons(old: Issued, wanted: Wanted) -> Iterator[str]:
    """Yield why that does not replace a Tariff, and what would."""
    if wanted.id is not None:
        yield "an id is not chosen here: the new Tariff is given with its own"
    if len(wanted.objects) != 1:
        yield f"give one new Tariff for {old.id}, not {len(wanted.objects)}"
    elif object_key(wanted.objects[0].id) == object_key(old.id):
        yield f"the new Tariff needs an id of its own: {old.id} never changes (R.09.01.04)"


def _holding(
    issued: Sequence[Issued], tariff_key: str, begins: float
) -> Iterator[tuple[_Candidate, list[dict[str, str]]]]:
    """Yield the associations by which a Tariff holds at some moment or later, with the connectors where it does.

    Which one of all holds is looked up as a receiver does (R.08.04.01): the one that began last, and of those that
    begin at the same moment the one that was issued last.
    """
    candidates = [
        _Candidate(each.id, read, moment(read.start_date_time), each.seen_by)
        for each in issued
        if (read := association(each.payload)) is not None
    ]
    _check_one_view(candidates, tariff_key)
    at_first: dict[_Place, _Candidate] = {}
    later: dict[tuple[_Place, float], _Candidate] = {}
    for candidate in candidates:
        for place in candidate.places:
            if candidate.begins > begins:
                later[place, candidate.begins] = candidate
            elif place not in at_first or at_first[place].begins <= candidate.begins:
                at_first[place] = candidate
    for candidate in candidates:
        if object_key(candidate.read.tariff_id) != tariff_key:
            continue
        connectors = []
        for place, connector in candidate.places.items():
            holds = later[place, candidate.begins] if candidate.begins > begins else at_first[place]
            if holds is candidate:
                connectors.append({"evse_uid": connector.evse_uid, "connector_id": connector.connector_id})
        if connectors:
            yield candidate, connectors


def _check_one_view(candidates: Sequence[_Candidate], tariff_key: str) -> None:
    """Refuse where some parties see an association that others do not: the Tariff holds elsewhere for each then."""
    views: dict[_Place, set[Audience | None]] = {}
    for candidate in candidates:
        for place in candidate.places:
            views.setdefault(place, set()).add(candidate.seen_by)
    for candidate in candidates:
        if object_key(candidate.read.tariff_id) != tariff_key:
            continue
        for place in candidate.places:
            if len(views[place]) > 1:
                evse, connector = place[0]
                raise CannotReplace(
                    f"associations for connector {connector} of EVSE {evse}, {candidate.id} among them, are not all"
                    " for the same parties, so the Tariff holds there for some and not for others: publish the new"
                    " Tariff, and cancel these associations one by one (10.02)"
                )


MODULE = Module(
    id=ModuleId("tariffs"),
    chapter=9,
    title="Tariffs",
    payload=Tariff,
    immutable=True,
    replacement=Replacement(
        summary=(
            "Issues one new Tariff, and new associations with it wherever the old one holds at that time or will hold"
            " later: for the same connectors and audiences."
        ),
        make=_replace,
        related=(ASSOCIATIONS,),
    ),
)
