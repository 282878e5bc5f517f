"""Locations, and the statuses of their EVSEs.

They look like those of a real operator: several countries, mostly two or three EVSEs and now and then forty, most
optional fields left out most of the time, and all of them used somewhere in a thousand.
"""

import random
from collections.abc import Iterable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

import msgspec

from engine.protocol.modules.locations import (
    Capability,
    ConnectorCapability,
    EvsePosition,
    Facility,
    LocationService,
    ParkingDirection,
    ParkingRestrictionGroup,
    ParkingType,
    PresenceStatus,
    Status,
    VehicleType,
)
from engine.protocol.modules.shared_types import (
    EnergySourceCategory,
    EnvironmentalImpactCategory,
    ImageCategory,
    TokenType,
)
from engine.samples.chances import NEWEST, SEED, Chances, Json, Sample, encode, without_none, written

LOCATION_SIZE_BYTES = 2_400
"""Size of a Location with three EVSEs or so: what speed is measured with."""

_TEXT_LENGTH_MAX = 512  # DisplayText.text


class _City(NamedTuple):
    name: str
    country: str
    time_zone: str
    language: str
    latitude: float
    longitude: float
    postal_code: str
    streets: tuple[str, ...]


_CITIES = (
    _City("Gent", "BEL", "Europe/Brussels", "nl", 51.05, 3.72, "9000", ("Korenmarkt", "Dampoortstraat")),
    _City("Liège", "BEL", "Europe/Brussels", "fr", 50.63, 5.57, "4000", ("Rue Léopold", "Quai de la Batte")),
    _City("Utrecht", "NLD", "Europe/Amsterdam", "nl", 52.09, 5.12, "3511 AB", ("Oudegracht", "Vleutenseweg")),
    _City("Köln", "DEU", "Europe/Berlin", "de", 50.94, 6.96, "50667", ("Schildergasse", "Hohe Straße")),
    _City("Lyon", "FRA", "Europe/Paris", "fr", 45.76, 4.84, "69002", ("Cours Gambetta", "Rue de la Ré")),
    _City("Malmö", "SWE", "Europe/Stockholm", "sv", 55.60, 13.00, "211 22", ("Södra Förstadsgatan", "Hyllie allé")),
    _City("Setúbal", "PRT", "Europe/Lisbon", "pt", 38.52, -8.89, "2900-001", ("Avenida Luísa Todi",)),
    _City("Łódź", "POL", "Europe/Warsaw", "pl", 51.77, 19.46, "90-001", ("Piotrkowska", "Żeromskiego")),
    _City("Θεσσαλονίκη", "GRC", "Europe/Athens", "el", 40.64, 22.94, "546 21", ("Τσιμισκή", "Εγνατία")),
    _City("Buffalo", "USA", "America/New_York", "en", 42.88, -78.87, "14202", ("Elmwood Ave", "Main St")),
)
_STATES = {"USA": "New York"}
_DIRECTIONS = {
    "nl": "Achter de slagboom links, naast de fietsenstalling.",
    "fr": "Au fond du parking, à côté de l’entrée. ♿",
    "de": "Einfahrt über den Hof, dann die zweite Reihe rechts.",
    "sv": "Plan −1, följ skyltarna mot hissen.",
    "pt": "Junto à saída, do lado direito.",
    "pl": "Za szlabanem w lewo, obok wejścia.",
    "el": "Υπόγειο πάρκινγκ, δεύτερη σειρά.",
    "en": "Second row behind the store 🔌",
}
_CARS = [VehicleType.PERSONAL_VEHICLE, VehicleType.MOTORCYCLE]
_BIG = [VehicleType.TRUCK, VehicleType.TRUCK_WITH_TRAILER, VehicleType.BUS, VehicleType.VAN]
_CONNECTORS = (
    # standard, format, power type, volts, amperes, how common
    ("IEC_62196_T2", "SOCKET", "AC_3_PHASE", 230, 32, 60),
    ("IEC_62196_T2", "CABLE", "AC_3_PHASE", 230, 32, 15),
    ("IEC_62196_T2_COMBO", "CABLE", "DC", 920, 400, 15),
    ("CHADEMO", "CABLE", "DC", 500, 125, 5),
    ("DOMESTIC_F", "SOCKET", "AC_1_PHASE", 230, 16, 4),
    ("VND_BEC_TROLLEY", "CABLE", "DC", 1250, 1500, 1),  # a plug that no table knows
)


def locations(
    count: int, *, seed: int = SEED, party: str = "BEBEC", evses: tuple[int, int] = (1, 40)
) -> Iterator[Sample]:
    """Generate Locations of ``party``, each with at least and at most so many EVSEs, mostly few."""
    rng = random.Random(seed)
    for number in range(1, count + 1):
        maker = _Maker(rng, party, number)
        fewest, most = evses
        location = maker.location(fewest + int((most - fewest + 1) * rng.random() ** 5))
        yield Sample(f"{party}-L{number:06d}", written(location, number))


def capable_locations(count: int, *, seed: int = SEED, party: str = "BEBEC", evses: int = 4) -> Iterator[Sample]:
    """Generate plain Locations whose EVSEs, two at each station, are all there and can do whatever can be asked."""
    rng = random.Random(seed)
    asked_for = [each for each in Capability if each is not Capability.START_SESSION_CONNECTOR_REQUIRED]
    for number in range(1, count + 1):
        maker = _Maker(rng, party, number)
        location = maker.plain_location() | {"charging_pool": []}
        maker.evse_count = 0
        for _ in range(evses // 2):
            pair = [maker.evse(plain=True) | {"presence": PresenceStatus.PRESENT} for _ in range(2)]
            for evse in pair:
                evse["evse_id"] = f"{party[:2]}*{party[2:]}*E{number:06d}*{evse['uid'][-2:]}"
            station = {"id": maker.id("S"), "evses": pair, "capabilities": asked_for, "last_updated": maker.time()}
            location["charging_pool"].append(station)
        yield Sample(f"{party}-L{number:06d}", encode(location))


def evse_statuses(of: Iterable[Sample], *, seed: int = SEED) -> Iterator[Sample]:
    """Generate a status for each EVSE of these Locations, under the EVSE's uid."""
    rng = random.Random(seed)
    for location in of:
        for uid in evse_uids(location.payload):
            status = rng.choices(list(Status), [50, 5, 30, 5, 4, 3, 3])[0]
            since = Chances(rng).time() if rng.random() < 0.5 else None  # noqa: PLR2004 - half of the devices tell
            yield Sample(uid, status_payload(status, since))


def status_payload(status: str, timestamp: str | None = None) -> bytes:
    """Write an EvseStatus."""
    return encode({"status": status} | ({"timestamp": timestamp} if timestamp else {}))


def evse_uids(location: bytes) -> list[str]:
    """Return the uids of a Location's EVSEs, in its order."""
    return [evse.uid for station in _read_uids(location).charging_pool for evse in station.evses]


def location_of_size(size_bytes: int = LOCATION_SIZE_BYTES, *, number: int = 1, party: str = "BEBEC") -> Sample:
    """Generate a Location of just this many bytes, with as many EVSEs as fit.

    Raises ``ValueError`` if not even one does.
    """
    maker = _Maker(random.Random(number), party, number)
    location = maker.plain_location()
    pool = location["charging_pool"]
    while size_bytes - len(encode(location)) >= _encoded_size(pool[0]):
        pool.append(maker.plain_station())
    if len(encode(location)) > size_bytes:
        pool.pop()
    _pad(location, size_bytes - len(encode(location)))
    if not pool or len(payload := encode(location)) != size_bytes:
        raise ValueError(f"a Location with an EVSE takes more than {size_bytes} bytes")
    return Sample(f"{party}-L{number:06d}", payload)


def _encoded_size(value: Json) -> int:
    return len(encode(value)) + 1  # and the comma before it


def _pad(location: Json, room_bytes: int) -> None:
    """Make a Location longer by this many bytes, with directions, and the rest in its name."""
    overhead = _encoded_size({"language": "en", "text": ""})
    while room_bytes > overhead:
        length = min(room_bytes - overhead, _TEXT_LENGTH_MAX)
        location["directions"].append({"language": "en", "text": _filler(length)})
        room_bytes -= overhead + length
    location["name"] += _filler(max(room_bytes, 0))


def _filler(length: int) -> str:
    return (" past the gate, left at the second row of trees," * (length // 20 + 1))[:length]


class _Uid(msgspec.Struct):
    uid: str


class _Station(msgspec.Struct):
    evses: list[_Uid] = []


class _Pool(msgspec.Struct):
    charging_pool: list[_Station]


_read_uids = msgspec.json.Decoder(_Pool).decode


class _Maker(Chances):
    """Makes the parts of one Location."""

    def __init__(self, rng: random.Random, party: str, number: int) -> None:
        super().__init__(rng)
        self.party = party
        self.number = number
        self.city = rng.choice(_CITIES)
        self.evse_count = 0

    # -- a plain one, for the benchmark

    def plain_location(self) -> Json:
        """Make a Location with one EVSE and what most operators fill in."""
        return {
            "publish": True,
            "name": f"{self.city.name} {self.number}",
            "address": self.address(),
            "charging_pool": [self.plain_station()],
            "directions": [self.direction()],
            "operator": {"name": "BeCharged", "website": "https://becharged.example"},
            "time_zone": self.city.time_zone,
            "opening_times": {"twentyfourseven": True},
            "help_phone": "+3220000000",
            "last_updated": self.time(),
        }

    def plain_station(self) -> Json:
        """Make a charging station with one EVSE."""
        return {
            "id": self.id("S"),
            "evses": [self.evse(plain=True)],
            "capabilities": ["RFID_READER", "REMOTE_START_CAPABLE", "REMOTE_STOP_CAPABLE", "RESERVABLE"],
            "last_updated": self.time(),
        }

    # -- whole ones, in the order of the tables

    def location(self, evse_count: int) -> Json:
        """Make a Location with so many EVSEs."""
        chance, rng = self.chance, self.rng
        public = not chance(0.05)
        located = public or chance(0.5)
        return without_none(
            {
                "publish": public,
                "publish_allowed_to": None if public else [self.publish_token() for _ in range(rng.randint(1, 3))],
                "name": self.sometimes(0.9, lambda: f"{self.city.name} {rng.choice(self.city.streets)}"),
                "address": self.address() if located else None,
                "related_locations": self.some(0.1, 2, self.additional_location),
                "parking_type": self.sometimes(0.7, lambda: rng.choice(list(ParkingType))),
                "charging_pool": self.stations(evse_count),
                "directions": self.some(0.3, 2, self.direction),
                "operator": self.sometimes(0.6, self.business),
                "suboperator": self.sometimes(0.1, self.business),
                "owner": self.sometimes(0.1, self.business),
                "services": self.some_of(0.2, LocationService),
                "facilities": self.some_of(0.3, Facility),
                "time_zone": self.city.time_zone,
                "opening_times": self.sometimes(0.6, self.hours),
                "charging_when_closed": self.sometimes(0.3, lambda: chance(0.7)),
                "images": self.some(0.2, 2, self.image),
                "energy_mix": self.sometimes(0.3, self.energy_mix),
                "max_power": self.sometimes(0.2, self.max_power),
                "help_phone": self.sometimes(0.7, lambda: f"+{rng.randint(10**9, 10**11)}"),
                "last_updated": self.time(),
                "bebec_rating": self.sometimes(0.05, lambda: Decimal("0.1234567890123456789")),
            }
        )

    def publish_token(self) -> Json:
        """Make a PublishTokenType: by uid, by number, or by group."""
        rng = self.rng
        return rng.choice(
            [
                {"uid": f"{rng.getrandbits(56):014X}", "type": rng.choice(list(TokenType))},
                {"visual_number": f"DE-8AA-{rng.randint(0, 10**6):06d}", "issuer": "Ladekärtchen e.V."},
                {"group_id": f"GROUP-{rng.randint(1, 99)}"},
            ]
        )

    def address(self) -> Json:
        """Make an Address."""
        rng = self.rng
        return without_none(
            {
                "address": f"{rng.choice(self.city.streets)} {rng.randint(1, 240)}",
                "city": self.city.name,
                "postal_code": self.sometimes(0.95, lambda: self.city.postal_code),
                "state": _STATES.get(self.city.country),
                "country": self.city.country,
                "coordinates": self.point(),
            }
        )

    def point(self) -> Json:
        """Make a GeoLocation near the middle of the city."""
        rng, city = self.rng, self.city
        return {
            "latitude": f"{city.latitude + rng.uniform(-0.1, 0.1):.{rng.choice([5, 6])}f}",
            "longitude": f"{city.longitude + rng.uniform(-0.1, 0.1):.{rng.choice([5, 6, 7])}f}",
        }

    def additional_location(self) -> Json:
        """Make an AdditionalGeoLocation."""
        return without_none({**self.point(), "name": self.sometimes(0.7, self.direction)})

    def direction(self) -> Json:
        """Make a DisplayText."""
        language = self.rng.choice([self.city.language, "en"])
        return {"language": language, "text": _DIRECTIONS[language]}

    def stations(self, evse_count: int) -> list[Json]:
        """Make charging stations with so many EVSEs between them."""
        pool = []
        while evse_count:
            here = min(evse_count, self.rng.choice([1, 1, 2, 2, 2, 4]))
            pool.append(self.station(here))
            evse_count -= here
        return pool

    def station(self, evse_count: int) -> Json:
        """Make a ChargingStation."""
        rng = self.rng
        return without_none(
            {
                "id": self.id("S"),
                "evses": [self.evse() for _ in range(evse_count)],
                "capabilities": self.some_of(0.9, Capability),
                "floor_level": self.sometimes(0.1, lambda: str(rng.randint(-3, 5))),
                "coordinates": self.sometimes(0.3, self.point),
                "physical_reference": self.sometimes(0.3, lambda: f"№ {rng.randint(1, 40)}"),
                "directions": self.some(0.1, 1, self.direction),
                "images": self.some(0.05, 1, self.image),
                "last_updated": self.time(),
            }
        )

    def evse(self, *, plain: bool = False) -> Json:
        """Make an EVSE; a plain one has only what is always there."""
        rng = self.rng
        self.evse_count += 1
        uid = f"{self.party}-L{self.number:06d}-E{self.evse_count:02d}"
        evse_id = f"{self.party[:2]}*{self.party[2:]}*E{self.number:06d}*{self.evse_count}"
        if plain:
            connectors, parking, rare = [self.connector("1", plain=True)], self.parking(plain=True), {}
        else:
            connectors = [self.connector(str(n + 1)) for n in range(rng.choice([1, 1, 1, 1, 2, 3]))]
            parking = self.parking()
            rare = {
                "status_schedule": self.some(0.05, 2, self.schedule),
                "physical_reference": self.sometimes(0.3, lambda: rng.choice("ABCD")),
                "images": self.some(0.03, 1, self.image),
                "calibration_info_url": self.sometimes(0.1, lambda: f"https://meters.example/{uid}"),
            }
        presence = rng.choices(list(PresenceStatus), [95, 3, 2])[0]
        return without_none(
            {
                "uid": uid,
                "evse_id": None if presence is PresenceStatus.REMOVED else evse_id,
                "presence": presence,
                "connectors": connectors,
                "parking": parking,
                **rare,
                "last_updated": self.time(),
            }
        )

    def connector(self, connector_id: str, *, plain: bool = False) -> Json:
        """Make a Connector."""
        rng = self.rng
        standard, form, power, volts, amperes, _ = rng.choices(_CONNECTORS, [each[-1] for each in _CONNECTORS])[0]
        connector = {
            "id": connector_id,
            "standard": standard,
            "format": form,
            "power_type": power,
            "max_voltage": volts,
            "max_amperage": amperes,
            "last_updated": self.time(),
        }
        if plain:
            return connector
        return without_none(
            connector
            | {
                "cable_length": self.sometimes(0.5, lambda: rng.choice([400, Decimal("550.0")]))
                if form == "CABLE"
                else None,
                "max_electric_power": self.sometimes(0.7, lambda: rng.choice([11_000, 22_000, 150_000])),
                "terms_and_conditions": self.sometimes(0.1, lambda: "https://becharged.example/terms?lang=nl#1"),
                "capabilities": self.some_of(0.1, ConnectorCapability),
            }
        )

    def schedule(self) -> Json:
        """Make a StatusSchedule, half of them without an end."""
        begin, end = sorted([self.time(), self.time()])
        return without_none(
            {
                "period_begin": begin,
                "period_end": self.sometimes(0.5, lambda: end),
                "status": self.rng.choice([Status.INOPERATIVE, Status.RESERVED, Status.AVAILABLE]),
            }
        )

    def parking(self, *, plain: bool = False) -> Json:
        """Make a Parking; sizes mostly where big vehicles fit."""
        rng = self.rng
        parking: Json = {
            "vehicle_types": [VehicleType.PERSONAL_VEHICLE],
            "evse_position": rng.choice(list(EvsePosition)),
            "direction": rng.choice(list(ParkingDirection)),
            "restricted_to_type": self.chance(0.3),
            "reservation_required": self.chance(0.05),
        }
        if plain:
            return parking
        big = self.chance(0.1)
        size = (lambda low, high: Decimal(rng.randint(low * 10, high * 10)) / 10) if big else (lambda _low, _high: None)
        return without_none(
            parking
            | {
                "vehicle_types": rng.sample(_BIG if big else _CARS, rng.randint(1, 2)),
                "max_vehicle_weight": size(3_500, 44_000),
                "max_vehicle_height": size(270, 410),
                "max_vehicle_length": size(600, 1_875),
                "max_vehicle_width": size(220, 260),
                "parking_bay_length": size(700, 2_500),
                "parking_bay_width": size(300, 400),
                "dangerous_goods_allowed": self.chance(0.2) if big else None,
                "parking_restrictions": self.some(0.2, 2, self.restriction),
                "time_limit": self.sometimes(0.1, lambda: rng.choice([30, 90, 240])),
                "roofed": self.sometimes(0.2, lambda: self.chance(0.5)),
                "images": self.some(0.02, 1, self.image),
                "lighting": self.sometimes(0.2, lambda: self.chance(0.8)),
                "standards": self.sometimes(0.02, lambda: ["PAS 1899:2022"]),
            }
        )

    def restriction(self) -> Json:
        """Make a ParkingRestriction."""
        groups = [*ParkingRestrictionGroup, "bebec-club members"]
        return {
            "group": self.rng.sample(groups, self.rng.randint(1, 2)),
            "applies_outside_opening_hours": self.chance(0.5),
        }

    def business(self) -> Json:
        """Make BusinessDetails."""
        return without_none(
            {
                "name": self.rng.choice(["BeCharged", "Stroom & Co.", "Ladewerk Müller GmbH", "充電 Partners"]),
                "website": self.sometimes(0.6, lambda: "https://becharged.example"),
                "logo": self.sometimes(0.2, lambda: self.image(ImageCategory.OPERATOR)),
                "technical_contact": self.sometimes(
                    0.1, lambda: {"name": "NOC 24/7", "email": "noc@becharged.example", "telephone": "+32 2 000 00 00"}
                ),
            }
        )

    def image(self, category: ImageCategory | None = None) -> Json:
        """Make an Image."""
        rng = self.rng
        name = f"https://img.example/{rng.getrandbits(40):010x}"
        full = self.chance(0.5)
        return without_none(
            {
                "url": f"{name}.jpeg",
                "thumbnail": f"{name}-200.jpeg" if self.chance(0.5) else None,
                "category": category or rng.choice(list(ImageCategory)),
                "type": rng.choice(["jpeg", "webp"]),
                "width": rng.choice([800, 1_600]) if full else None,
                "height": rng.choice([600, 1_200]) if full else None,
            }
        )

    def hours(self) -> Json:
        """Make Hours: always, or by weekdays, with a night across midnight now and then."""
        always = self.chance(0.6)
        return without_none(
            {
                "twentyfourseven": always,
                "regular_hours": None if always else self.week(),
                "exceptional_openings": self.some(0.1, 1, self.exception),
                "exceptional_closings": self.some(0.1, 1, self.exception),
            }
        )

    def week(self) -> list[Json]:
        """Make RegularHours in order, none of them overlapping."""
        begin, end = self.rng.choice([("07:00", "18:00"), ("08:30", "22:00"), ("12:00", "00:00")])
        days = range(1, self.rng.choice([5, 6, 7]) + 1)
        week = [{"weekday": day, "period_begin": begin, "period_end": end} for day in days]
        if end == "00:00":
            week.append({"weekday": 7, "period_begin": "00:00", "period_end": "02:00"})
            week.sort(key=lambda hours: (hours["weekday"], hours["period_begin"]))
        return week

    def exception(self) -> Json:
        """Make an ExceptionalPeriod of a day."""
        begin = NEWEST + timedelta(days=self.rng.randint(1, 300))
        return {"period_begin": f"{begin:%Y-%m-%dT00:00:00Z}", "period_end": f"{begin:%Y-%m-%dT23:59:59.9Z}"}

    def energy_mix(self) -> Json:
        """Make an EnergyMix that adds up to 100 percent."""
        rng = self.rng
        share = Decimal(rng.randint(1, 999)) / 10
        sources = rng.sample(list(EnergySourceCategory), 2)
        return without_none(
            {
                "is_green_energy": self.chance(0.4),
                "energy_sources": self.sometimes(
                    0.5,
                    lambda: [
                        {"source": sources[0], "percentage": share},
                        {"source": sources[1], "percentage": 100 - share},
                    ],
                ),
                "environ_impact": self.sometimes(
                    0.4,
                    lambda: [{"category": each, "amount": Decimal("0.10")} for each in EnvironmentalImpactCategory],
                ),
                "supplier_name": self.sometimes(0.5, lambda: "Gröna Vågor AB"),
                "energy_product_name": self.sometimes(0.3, lambda: "100 % zon"),
            }
        )

    def max_power(self) -> Json:
        """Make a LocationMaxPower."""
        return self.rng.choice([{"unit": "W", "value": Decimal("1E+6")}, {"unit": "A", "value": Decimal("63.50")}])

    # -- ids

    def id(self, kind: str) -> str:
        """Make an id that nothing else of this party has."""
        return f"{self.party}-{kind}{self.number:06d}-{self.rng.getrandbits(48):012x}"
