"""Tariffs of every shape that the draft describes, and which of them holds at which connector.

A driver with a token and no other wish (audience REGULAR) pays by a Tariff that is quickly computed: so much for
a session, a kilowatt-hour, an hour, and a reservation. The Tariffs with times of day, thresholds and limits are
for the other audiences. So sessions and CDRs can name their costs to the last digit.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from engine.protocol.modules.shared_types import EnergySourceCategory
from engine.samples.chances import SEED, Chances, Json, Sample, by_id, read, time_text, without_none, written

_FIRST = datetime(2023, 1, 1, tzinfo=UTC)
"""Tariffs are issued in this year, and hold from some time in the next: before any session."""
_YEAR_S = 365 * 86_400

_OTHER_AUDIENCES = ("AD_HOC_PAYMENT", "PROFILE_CHEAP", "PROFILE_FAST", "PROFILE_GREEN")
_TAXES = (
    {"name": "VAT", "percentage": 21},
    {"name": "VAT", "percentage": Decimal("5.5")},
    {"name": "ΦΠΑ", "percentage": 24},
)
_PRICES = ("0.25", "0.3549", "0.40", "0.4950", "0.1234567890123456789", "1E+1")


# -- tariffs ------------------------------------------------------------------------------------------------


def tariffs(count: int, *, seed: int = SEED, party: str = "BEBEC") -> Iterator[Sample]:
    """Generate Tariffs of ``party``, one shape after the other; the second is free of charge."""
    rng = random.Random(seed)
    for number in range(1, count + 1):
        tariff = _TariffMaker(rng).tariff(number)
        yield Sample(f"{party}-T{number:06d}", written(tariff, number))


class _TariffMaker(Chances):
    """Makes one Tariff."""

    def tariff(self, number: int) -> Json:
        """Make a Tariff of the shape whose turn it is."""
        shapes = self.shapes()
        shape = shapes[(number - 1) % len(shapes)]()
        rng = self.rng
        return without_none(
            {
                "currency": "EUR",
                "tariff_alt_text": self.some(0.2, 2, self.text),
                "tariff_alt_url": self.sometimes(0.2, lambda: f"https://becharged.example/tariffs/{number}?lang=nl"),
                "min_price": shape.get("min_price"),
                "max_price": shape.get("max_price"),
                "elements": shape["elements"],
                "energy_mix": self.sometimes(0.1, self.energy_mix),
                "last_updated": time_text(_FIRST + timedelta(seconds=rng.randrange(_YEAR_S))),
                "bebec_code": self.sometimes(0.05, lambda: f"T/{number}"),
            }
        )

    def shapes(self) -> Sequence[Callable[[], Json]]:
        """List the shapes; the first ones more often, as in life."""
        quick = (self.energy, self.free, self.energy_and_start, self.per_hour, self.reservation)
        return (
            *quick,
            self.times_of_day,
            self.weekend,
            self.loitering,
            *quick,
            self.limited,
            self.by_power,
            self.by_current,
            *quick,
            self.first_hour_free,
            self.first_energy_free,
            self.expiring_reservation,
        )

    # -- quickly computed

    def energy(self) -> Json:
        """So much for a kilowatt-hour."""
        return {"elements": [{"price_components": [self.price("ENERGY")]}]}

    def free(self) -> Json:
        """Free of charge."""
        return {"elements": [{"price_components": [{"type": "FLAT", "price": Decimal("0.00")}]}]}

    def energy_and_start(self) -> Json:
        """So much for a kilowatt-hour, and something to begin with."""
        return {"elements": [{"price_components": [self.price("FLAT", "0.50"), self.price("ENERGY")]}]}

    def per_hour(self) -> Json:
        """By time and by energy."""
        return {"elements": [{"price_components": [self.price("TIME", "1.2"), self.price("ENERGY")]}]}

    def reservation(self) -> Json:
        """A reservation costs by the hour."""
        return {
            "elements": [
                {"price_components": [self.price("TIME", "5.00")], "restrictions": {"reservation": "RESERVATION"}},
                {"price_components": [self.price("ENERGY")]},
            ]
        }

    # -- others

    def times_of_day(self) -> Json:
        """Cheaper at night, across midnight."""
        return self.unless({"start_time": "23:00", "end_time": "07:00"}, "0.17")

    def weekend(self) -> Json:
        """Cheaper at weekends."""
        return self.unless({"day_of_week": ["SATURDAY", "SUNDAY"]}, "0.20")

    def loitering(self) -> Json:
        """After ten minutes in which the car wants nothing, time costs."""
        idle = {"min_restrictions_duration": 600, "vehicle_requesting_power": False}
        return {
            "elements": [
                {"price_components": [self.price("TIME", "30.00")], "restrictions": idle},
                {"price_components": [self.price("FLAT", "0.50"), self.price("ENERGY")]},
            ]
        }

    def limited(self) -> Json:
        """A session costs at least, and at most."""
        least, most = ({"before_taxes": Decimal(amount)} for amount in ("0.50", "49.90"))
        return {"min_price": least, "max_price": most | {"taxes": [{"name": "VAT", "amount": Decimal("10.479")}]}} | (
            self.energy()
        )

    def by_power(self) -> Json:
        """Cheaper up to 16 kW, dearer from 32 kW."""
        return {
            "elements": [
                {"price_components": [self.price("ENERGY", "0.20")], "restrictions": {"max_power": Decimal("16.0")}},
                {"price_components": [self.price("ENERGY", "0.55")], "restrictions": {"min_power": 32}},
                {"price_components": [self.price("ENERGY", "0.35")]},
            ]
        }

    def by_current(self) -> Json:
        """Dearer while the current is neither low nor very high."""
        return self.unless({"min_current": 16, "max_current": Decimal("63.5")}, "0.45")

    def first_hour_free(self) -> Json:
        """Half an hour is free, and from an hour on it is dear."""
        return {
            "elements": [
                {"price_components": [self.price("ENERGY", "0.00")], "restrictions": {"max_duration": 1_800}},
                {"price_components": [self.price("ENERGY", "0.60")], "restrictions": {"min_duration": 3_600}},
                {"price_components": [self.price("ENERGY")]},
            ]
        }

    def first_energy_free(self) -> Json:
        """Some kilowatt-hours are free, and some in the middle are cheap."""
        return {
            "elements": [
                {"price_components": [self.price("ENERGY", "0.00")], "restrictions": {"max_energy": Decimal("2.50")}},
                {
                    "price_components": [self.price("ENERGY", "0.30")],
                    "restrictions": {"min_energy": Decimal("2.50"), "max_energy": 20},
                },
                {"price_components": [self.price("ENERGY")]},
            ]
        }

    def expiring_reservation(self) -> Json:
        """A reservation costs, and one that nobody comes for costs more."""
        return {
            "elements": [
                {
                    "price_components": [self.price("FLAT", "4.00"), self.price("TIME", "6.00")],
                    "restrictions": {"reservation": "RESERVATION_EXPIRES"},
                },
                {"price_components": [self.price("FLAT", "2.00")], "restrictions": {"reservation": "RESERVATION"}},
                {"price_components": [self.price("ENERGY")]},
            ]
        }

    # -- parts

    def unless(self, restrictions: Json, price: str) -> Json:
        """A price for energy under restrictions, and another one otherwise."""
        return {
            "elements": [
                {"price_components": [self.price("ENERGY", price)], "restrictions": restrictions},
                {"price_components": [self.price("ENERGY")]},
            ]
        }

    def price(self, dimension: str, price: str | None = None) -> Json:
        """Make a PriceComponent."""
        taxes = self.sometimes(0.8, lambda: [self.rng.choice(_TAXES)])
        return without_none({"type": dimension, "price": Decimal(price or self.rng.choice(_PRICES)), "taxes": taxes})

    def text(self) -> Json:
        """Make a DisplayText."""
        language, text = self.rng.choice(
            [("nl", "Laden aan de kade ⚡"), ("en", "Prices before taxes."), ("de", "Nur solange die Säule leuchtet.")]
        )
        return {"language": language, "text": text}

    def energy_mix(self) -> Json:
        """Make an EnergyMix."""
        return {
            "is_green_energy": True,
            "energy_sources": [{"source": EnergySourceCategory.WIND, "percentage": 100}],
            "environ_impact": [{"category": "CARBON_DIOXIDE", "amount": Decimal("0.0")}],
            "supplier_name": "Gröna Vågor AB",
            "energy_product_name": "100 % vind",
        }


# -- what they cost -----------------------------------------------------------------------------------------


class Costs(NamedTuple):
    """What a session costs: Prices, as the payload has them."""

    total: Json
    fixed: Json | None
    energy: Json | None
    time: Json | None
    reservation: Json | None


def is_quick(tariff: Json) -> bool:
    """Tell whether a Tariff only knows prices that always hold, and one for a reservation."""
    restrictions = [element["restrictions"] for element in tariff["elements"] if "restrictions" in element]
    return not tariff.keys() & {"min_price", "max_price"} and restrictions in ([], [{"reservation": "RESERVATION"}])


def has_reservation(tariff: Json) -> bool:
    """Tell whether a reservation costs something by this Tariff."""
    return any("reservation" in element.get("restrictions", {}) for element in tariff["elements"])


def costs(tariff: Json, *, energy_kwh: Decimal, hours: Decimal, reserved_hours: Decimal | None = None) -> Costs:
    """Compute what a session costs by a Tariff that is quickly computed."""
    parts: dict[str, Json] = {}
    for element in tariff["elements"]:
        for component in element["price_components"]:
            reserved = "restrictions" in element
            if reserved and reserved_hours is None:
                continue
            time = hours if reserved_hours is None or not reserved else reserved_hours
            amount = {"FLAT": Decimal(1), "ENERGY": energy_kwh, "TIME": time}[component["type"]]
            parts["RESERVATION" if reserved else component["type"]] = _price(component, amount)
    return Costs(_sum(parts.values()), *(parts.get(name) for name in ("FLAT", "ENERGY", "TIME", "RESERVATION")))


def _price(component: Json, amount: Decimal) -> Json:
    before = component["price"] * amount
    taxes = [{"name": tax["name"], "amount": before * tax["percentage"] / 100} for tax in component.get("taxes", ())]
    return without_none({"before_taxes": before, "taxes": taxes or None})


def _sum(prices: Iterable[Json]) -> Json:
    before, taxes = Decimal(0), dict[str, Decimal]()
    for price in prices:
        before += price["before_taxes"]
        for tax in price.get("taxes", ()):
            taxes[tax["name"]] = taxes.get(tax["name"], Decimal(0)) + tax["amount"]
    listed = [{"name": name, "amount": amount} for name, amount in taxes.items()]
    return without_none({"before_taxes": before, "taxes": listed or None})


# -- tariff associations ------------------------------------------------------------------------------------


def tariff_associations(
    locations: Iterable[Sample], tariffs: Iterable[Sample], *, seed: int = SEED, party: str = "BEBEC"
) -> Iterator[Sample]:
    """Generate what a driver pays at all connectors of these Locations, and what others pay at some of them."""
    rng = random.Random(seed)
    known = by_id(tariffs)
    regular = [id_ for id_, tariff in known.items() if is_quick(tariff)]
    number = 0
    for location in locations:
        everywhere = connectors(location.payload)
        wanted: list[tuple[str, str, list[Json]]] = [("REGULAR", rng.choice(regular), everywhere)]
        if rng.random() < 0.3:  # noqa: PLR2004 - at one Location in three or so
            some = rng.sample(everywhere, rng.randint(1, len(everywhere)))
            wanted.append((rng.choice(_OTHER_AUDIENCES), rng.choice(list(known)), some))
        for audience, tariff_id, where in wanted:
            number += 1
            since = _FIRST + timedelta(seconds=_YEAR_S + 60 * rng.randrange(_YEAR_S // 60))
            association = {
                "start_date_time": time_text(since),
                "tariff_id": tariff_id,
                "connectors": where,
                "audience": audience,
                "last_updated": time_text(since - timedelta(days=7)),
            }
            yield Sample(f"{party}-A{number:06d}", written(association, number))


def connectors(location: bytes) -> list[Json]:
    """Return a ConnectorReference for each connector of a Location, in its order."""
    return [
        {"evse_uid": evse["uid"], "connector_id": connector["id"]}
        for station in read(location)["charging_pool"]
        for evse in station.get("evses", ())
        for connector in evse["connectors"]
    ]


__all__ = ["Costs", "connectors", "costs", "has_reservation", "is_quick", "tariff_associations", "tariffs"]
