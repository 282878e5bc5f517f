"""Chapter 5, Locations: where one can charge, and on what.

A Location has charging stations, a station has EVSEs, an EVSE has connectors. Whether an EVSE is free right
now is told by the module ``evsestatuses``. The remote procedure calls are about single EVSEs: they reserve
them, and help a driver who is stuck at one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from engine.protocol.ids import ModuleId
from engine.protocol.modules.classes import (
    Breach,
    ClosedEnum,
    Many,
    Maybe,
    OcpiClass,
    OpenEnum,
    RuledClass,
    Some,
    Weight,
)
from engine.protocol.modules.module import Call, Module
from engine.protocol.modules.shared_types import (
    BusinessDetails,
    ChargingRateUnit,
    DisplayText,
    EnergyMix,
    Image,
    TokenType,
)
from engine.protocol.modules.tokens import Token
from engine.protocol.scalars import (
    URL,
    AsciiString_1_4,
    AsciiString_1_255,
    CiAsciiString_1_25,
    CiAsciiString_1_36,
    CiAsciiString_1_48,
    CiAsciiString_3,
    DateTime,
    Int,
    Latitude,
    Longitude,
    Number,
    TimeOfDay,
    UnicodeString_1_10,
    UnicodeString_1_16,
    UnicodeString_1_20,
    UnicodeString_1_36,
    UnicodeString_1_45,
    UnicodeString_1_64,
    UnicodeString_1_255,
    Weekday,
)


class AdditionalGeoLocation(OcpiClass, kw_only=True):
    """5.4.1: A further point that matters to a Location, for instance an entrance (WGS 84)."""

    latitude: Annotated[Latitude, "Degrees north."]
    longitude: Annotated[Longitude, "Degrees east."]
    name: Annotated[Maybe[DisplayText], "What the point is called there."] = None


class Address(OcpiClass, kw_only=True):
    """5.4.2: How to find a Location."""

    address: Annotated[UnicodeString_1_45, "Street and number."]
    city: Annotated[UnicodeString_1_45, "City or town."]
    postal_code: Annotated[Maybe[UnicodeString_1_10], "Postal code."] = None
    state: Annotated[Maybe[UnicodeString_1_20], "State or province, where addresses have one."] = None
    country: Annotated[CiAsciiString_3, "ISO 3166-1 alpha-3 code of the country, such as BEL."]
    coordinates: Annotated[GeoLocation, "The point to drive to."]


class CancelReservationRequest(OcpiClass, kw_only=True):
    """5.4.3: Who made a reservation does not want it any more."""

    reservation_id: Annotated[CiAsciiString_1_36, "The id that the reservation was made with."]


class Capability(ClosedEnum):
    """5.4.4: What a charging station can do."""

    CHARGING_PROFILE_CAPABLE = "CHARGING_PROFILE_CAPABLE", "Follows charging profiles."
    CHARGING_PREFERENCES_CAPABLE = "CHARGING_PREFERENCES_CAPABLE", "Takes the driver's charging preferences."
    CHIP_CARD_SUPPORT = "CHIP_CARD_SUPPORT", "Its payment terminal reads chip cards."
    CONTACTLESS_CARD_SUPPORT = "CONTACTLESS_CARD_SUPPORT", "Its payment terminal reads contactless cards."
    CREDIT_CARD_PAYABLE = "CREDIT_CARD_PAYABLE", "Its payment terminal takes credit cards."
    DEBIT_CARD_PAYABLE = "DEBIT_CARD_PAYABLE", "Its payment terminal takes debit cards."
    PED_TERMINAL = "PED_TERMINAL", "Its payment terminal has keys for a pin code."
    REMOTE_START_CAPABLE = "REMOTE_START_CAPABLE", "Sessions can be started by a remote procedure call."
    REMOTE_STOP_CAPABLE = "REMOTE_STOP_CAPABLE", "Sessions can be stopped by a remote procedure call."
    RESERVABLE = "RESERVABLE", "Its EVSEs can be reserved."
    RESET_CAPABLE = "RESET_CAPABLE", "One may ask for a reset of the device; the CPO may refuse."
    RFID_READER = "RFID_READER", "Drivers can identify themselves with an RFID token."
    START_SESSION_CONNECTOR_REQUIRED = (
        "START_SESSION_CONNECTOR_REQUIRED",
        "A request to start a session has to name the connector.",
    )
    TOKEN_GROUP_CAPABLE = "TOKEN_GROUP_CAPABLE", "One token of a group may stop what another one started."
    UNLOCK_CAPABLE = "UNLOCK_CAPABLE", "The lock of its connectors can be opened on request."


class ChargingStation(OcpiClass, kw_only=True):
    """5.4.5: A device that stands by itself and has one place to operate it."""

    id: Annotated[CiAsciiString_1_36, "Tells it apart from all other charging stations of its issuer."]
    evses: Annotated[Many[EVSE], "Its EVSEs."] = None
    capabilities: Annotated[Many[Capability], "What it can do."] = None
    floor_level: Annotated[Maybe[AsciiString_1_4], "The floor that it is on, as people there call it."] = None
    coordinates: Annotated[Maybe[GeoLocation], "Where it is."] = None
    physical_reference: Annotated[Maybe[UnicodeString_1_16], "What is printed on it."] = None
    directions: Annotated[Many[DisplayText], "How to reach it from the entrance, in several languages."] = None
    images: Annotated[Many[Image], "Photos and logos."] = None
    last_updated: Annotated[DateTime, "When it or one of its EVSEs last changed."]


class ChargingStationCommandError(OcpiClass, kw_only=True):
    """5.4.6: Why a device did not do what it was asked to do."""

    status: Annotated[ChargingStationCommandStatus, "The reason."]
    message: Annotated[Many[DisplayText], "The reason in words, in several languages."] = None


class ChargingStationCommandStatus(ClosedEnum):
    """5.4.7: What keeps a device from doing what it was asked to do."""

    DEVICE_OFFLINE = "DEVICE_OFFLINE", "It cannot be reached."
    EVSE_OCCUPIED = "EVSE_OCCUPIED", "The EVSE is in use."
    EVSE_INOPERATIVE = "EVSE_INOPERATIVE", "The EVSE is out of service."


class Connector(OcpiClass, kw_only=True):
    """5.4.8: A socket, or a cable with its plug; of an EVSE's connectors one is in use at a time."""

    id: Annotated[CiAsciiString_1_36, "Tells it apart from the other connectors of its EVSE."]
    standard: Annotated[ConnectorType, "The standard of the socket or plug."]
    format: Annotated[ConnectorFormat, "Socket or cable."]
    cable_length: Annotated[Maybe[Number], "Length of the attached cable in centimetres."] = None
    power_type: Annotated[PowerType, "The kind of current."]
    max_voltage: Annotated[Int, "Highest voltage in volts; with three phases, from line to neutral."]
    max_amperage: Annotated[Int, "Highest current in amperes."]
    max_electric_power: Annotated[
        Maybe[Int], "Highest power in watts, where it is less than voltage and current would give."
    ] = None
    terms_and_conditions: Annotated[Maybe[URL], "Where the operator's terms are."] = None
    capabilities: Annotated[Many[ConnectorCapability], "What it can do besides."] = None
    last_updated: Annotated[DateTime, "When it last changed."]


class ConnectorCapability(OpenEnum):
    """5.4.9: What a driver can really use at a connector."""

    IEC_15118_2_PLUG_AND_CHARGE = (
        "IEC_15118_2_PLUG_AND_CHARGE",
        "The car's contract certificate, by IEC 15118-2.",
    )
    IEC_15118_20_PLUG_AND_CHARGE = (
        "IEC_15118_20_PLUG_AND_CHARGE",
        "The car's contract certificate, by IEC 15118-20.",
    )


class ConnectorFormat(ClosedEnum):
    """5.4.10: Whether the driver has to bring a cable."""

    SOCKET = "SOCKET", "A socket; the driver brings the cable."
    CABLE = "CABLE", "A cable with its plug is attached."


class ConnectorType(OpenEnum):
    """5.4.11: The standard that a socket or plug follows."""

    # 5.4.12: for cars, common
    CHADEMO = "CHADEMO", "CHAdeMO."
    IEC_62196_T1 = "IEC_62196_T1", "Type 1, also SAE J1772."
    IEC_62196_T1_COMBO = "IEC_62196_T1_COMBO", "Combo on type 1, CCS1."
    IEC_62196_T2 = "IEC_62196_T2", "Type 2, also Mennekes."
    IEC_62196_T2_COMBO = "IEC_62196_T2_COMBO", "Combo on type 2, CCS2."
    MCS = "MCS", "Megawatt charging, by CharIN."
    SAE_J3400 = "SAE_J3400", "SAE J3400, also NACS."
    TESLA_S = "TESLA_S", "Tesla's older oval plug: fits SAE J3400, but speaks CAN."
    # 5.4.13: for homes and industry
    DOMESTIC_A = "DOMESTIC_A", "Household type A, NEMA 1-15."
    DOMESTIC_B = "DOMESTIC_B", "Household type B, NEMA 5-15."
    DOMESTIC_C = "DOMESTIC_C", "Household type C, CEE 7/17."
    DOMESTIC_D = "DOMESTIC_D", "Household type D."
    DOMESTIC_E = "DOMESTIC_E", "Household type E, CEE 7/5."
    DOMESTIC_F = "DOMESTIC_F", "Household type F, CEE 7/4, Schuko."
    DOMESTIC_G = "DOMESTIC_G", "Household type G, BS 1363."
    DOMESTIC_H = "DOMESTIC_H", "Household type H, SI-32."
    DOMESTIC_I = "DOMESTIC_I", "Household type I, AS 3112."
    DOMESTIC_J = "DOMESTIC_J", "Household type J, SEV 1011."
    DOMESTIC_K = "DOMESTIC_K", "Household type K, DS 60884-2-D1."
    DOMESTIC_L = "DOMESTIC_L", "Household type L, CEI 23-16-VII."
    DOMESTIC_M = "DOMESTIC_M", "Household type M, BS 546."
    DOMESTIC_N = "DOMESTIC_N", "Household type N, NBR 14136."
    DOMESTIC_O = "DOMESTIC_O", "Household type O, TIS 166-2549."
    IEC_60309_2_single_16 = "IEC_60309_2_single_16", "Industrial, one phase, 16 A, mostly blue."
    IEC_60309_2_three_16 = "IEC_60309_2_three_16", "Industrial, three phases, 16 A, mostly red."
    IEC_60309_2_three_32 = "IEC_60309_2_three_32", "Industrial, three phases, 32 A, mostly red."
    IEC_60309_2_three_64 = "IEC_60309_2_three_64", "Industrial, three phases, 64 A, mostly red."
    NEMA_5_20 = "NEMA_5_20", "NEMA 5-20, 3 pins."
    NEMA_6_30 = "NEMA_6_30", "NEMA 6-30, 3 pins."
    NEMA_6_50 = "NEMA_6_50", "NEMA 6-50, 3 pins."
    NEMA_10_30 = "NEMA_10_30", "NEMA 10-30, 3 pins."
    NEMA_10_50 = "NEMA_10_50", "NEMA 10-50, 3 pins."
    NEMA_14_30 = "NEMA_14_30", "NEMA 14-30, 3 pins, 30 A."
    NEMA_14_50 = "NEMA_14_50", "NEMA 14-50, 3 pins, 50 A."
    # 5.4.14: old and rare
    CHAOJI = "CHAOJI", "ChaoJi, where CHAdeMO and GB/T meet; DC."
    GBT_AC = "GBT_AC", "GB/T 20234.2, AC."
    GBT_DC = "GBT_DC", "GB/T 20234.3, DC."
    IEC_62196_T3A = "IEC_62196_T3A", "Type 3A."
    IEC_62196_T3C = "IEC_62196_T3C", "Type 3C, Scame."
    PANTOGRAPH_BOTTOM_UP = "PANTOGRAPH_BOTTOM_UP", "A pantograph on the vehicle, as buses have."
    PANTOGRAPH_TOP_DOWN = "PANTOGRAPH_TOP_DOWN", "A pantograph that comes down to the vehicle."
    TESLA_R = "TESLA_R", "Tesla's round plug of the Roadster."


# 5.4.15 to 5.4.19, EnergyMix and what is in it, are in shared_types: chapter 9 needs them too.


class EVSE(RuledClass, kw_only=True):
    """5.4.20: What gives power to one vehicle at a time."""

    uid: Annotated[CiAsciiString_1_36, "Its technical id, the same for ever; also the id of its EVSE Status."]
    evse_id: Annotated[Maybe[CiAsciiString_1_48], "The id for people, in the form of eMI3."] = None
    presence: Annotated[PresenceStatus, "Whether it is there already, or still."]
    status_schedule: Annotated[Many[StatusSchedule], "What its status is planned to be."] = None
    connectors: Annotated[Some[Connector], "Its connectors."]
    physical_reference: Annotated[Maybe[UnicodeString_1_16], "What is printed on it."] = None
    parking: Annotated[Parking, "Parking at it."]
    images: Annotated[Many[Image], "Photos and logos."] = None
    calibration_info_url: Annotated[Maybe[URL], "Where certificates and keys of its meters are."] = None
    last_updated: Annotated[DateTime, "When it or one of its connectors last changed."]

    def rules(self) -> Iterator[Breach]:
        """Its connectors have different ids, in any case of letters."""
        for index in _repeated([connector.id for connector in self.connectors]):
            yield Breach(
                ("connectors", index, "id"),
                f'"{self.connectors[index].id}" again',
                "another id for each connector",
            )


class EvsePosition(ClosedEnum):
    """5.4.21: Where the EVSE stands, seen from the parked vehicle."""

    LEFT = "LEFT", "On its left."
    RIGHT = "RIGHT", "On its right."
    CENTER = "CENTER", "In the middle of the closed short end of the bay."


class ExceptionalPeriod(OcpiClass, kw_only=True):
    """5.4.22: A time that is an exception from the regular hours."""

    period_begin: Annotated[DateTime, "From when."]
    period_end: Annotated[DateTime, "Until when."]


class Facility(ClosedEnum):
    """5.4.23: What a Location belongs to or lies at."""

    HOTEL = "HOTEL", "A hotel."
    RESTAURANT = "RESTAURANT", "A restaurant."
    CAFE = "CAFE", "A café."
    MALL = "MALL", "A shopping centre."
    SUPERMARKET = "SUPERMARKET", "A supermarket."
    SPORT = "SPORT", "A gym, a field or another place for sport."
    RECREATION_AREA = "RECREATION_AREA", "A recreation area."
    NATURE = "NATURE", "A park, a nature reserve or the like."
    MUSEUM = "MUSEUM", "A museum."
    BIKE_SHARING = "BIKE_SHARING", "A place to share bikes or scooters."
    BUS_STOP = "BUS_STOP", "A bus stop."
    TAXI_STAND = "TAXI_STAND", "A taxi stand."
    TRAM_STOP = "TRAM_STOP", "A tram stop."
    METRO_STATION = "METRO_STATION", "A metro station."
    TRAIN_STATION = "TRAIN_STATION", "A train station."
    AIRPORT = "AIRPORT", "An airport."
    PARKING_LOT = "PARKING_LOT", "A parking lot."
    CARPOOL_PARKING = "CARPOOL_PARKING", "A parking lot for car pools."
    FUEL_STATION = "FUEL_STATION", "A fuel station."


class GeoLocation(OcpiClass, kw_only=True):
    """5.4.24: A point on earth (WGS 84), to about a metre or better."""

    latitude: Annotated[Latitude, "Degrees north."]
    longitude: Annotated[Longitude, "Degrees east."]


class Hours(RuledClass, kw_only=True):
    """5.4.25: When a Location is open."""

    twentyfourseven: Annotated[bool, "Whether it is open all day, every day, but for the exceptions."]
    regular_hours: Annotated[Many[RegularHours], "The hours of each weekday, if it is not open always."] = None
    exceptional_openings: Annotated[Many[ExceptionalPeriod], "When it is open besides."] = None
    exceptional_closings: Annotated[Many[ExceptionalPeriod], "When it is closed all the same."] = None

    def rules(self) -> Iterator[Breach]:
        """There are ``regular_hours`` if ``twentyfourseven`` is false, and only then.

        They do not overlap. In another order than that of the week they are worth a warning.
        """
        if self.twentyfourseven is True and self.regular_hours:
            yield Breach(("regular_hours",), "regular hours", "none, since twentyfourseven is true")
        if self.twentyfourseven is False and not self.regular_hours:
            yield Breach(
                ("regular_hours",),
                "none",
                "at least one, since twentyfourseven is false",
                weight=Weight.MISSING,
            )
        yield from _in_order(self.regular_hours or [])


class Parking(OcpiClass, kw_only=True):
    """5.4.26: What parking at an EVSE is like."""

    vehicle_types: Annotated[Some[VehicleType], "The vehicles that it is made for."]
    max_vehicle_weight: Annotated[Maybe[Number], "Kilograms that a vehicle may weigh."] = None
    max_vehicle_height: Annotated[Maybe[Number], "Centimetres that a vehicle may be high."] = None
    max_vehicle_length: Annotated[Maybe[Number], "Centimetres that a vehicle may be long."] = None
    max_vehicle_width: Annotated[Maybe[Number], "Centimetres that a vehicle may be wide."] = None
    parking_bay_length: Annotated[Maybe[Number], "Length of the bay in centimetres."] = None
    parking_bay_width: Annotated[Maybe[Number], "Width of the bay in centimetres."] = None
    dangerous_goods_allowed: Annotated[Maybe[bool], "Whether dangerous goods may be on board."] = None
    evse_position: Annotated[EvsePosition, "Where the EVSE stands."]
    direction: Annotated[ParkingDirection, "How one parks."]
    restricted_to_type: Annotated[bool, "Whether other types of vehicles are forbidden."]
    parking_restrictions: Annotated[Many[ParkingRestriction], "Who may park here."] = None
    reservation_required: Annotated[bool, "Whether one has to reserve first."]
    time_limit: Annotated[Maybe[Number], "Minutes that one may stay."] = None
    roofed: Annotated[Maybe[bool], "Whether there is a roof."] = None
    images: Annotated[Many[Image], "Photos of the place."] = None
    lighting: Annotated[Maybe[bool], "Whether there are lamps."] = None
    standards: Annotated[Many[UnicodeString_1_36], "Standards that the place follows, such as PAS 1899."] = None


class ParkingDirection(ClosedEnum):
    """5.4.27: How the vehicle is parked, seen from the road."""

    PARALLEL = "PARALLEL", "Along the road."
    PERPENDICULAR = "PERPENDICULAR", "At a right angle to the road."
    ANGLE = "ANGLE", "At another angle to the road."
    DRIVE_THROUGH = "DRIVE_THROUGH", "In at one end and out at the other."


class ParkingRestriction(OcpiClass, kw_only=True):
    """5.4.28: Who may park at an EVSE, and so use it."""

    group: Annotated[Some[ParkingRestrictionGroup], "Groups that drivers have to be in."]
    applies_outside_opening_hours: Annotated[bool, "Whether it holds also when the place is closed."]


class ParkingRestrictionGroup(OpenEnum):
    """5.4.29: Who may park."""

    EMPLOYEES = "EMPLOYEES", "Who works here."
    EV_ONLY = "EV_ONLY", "Electric vehicles."
    PLUGGED = "PLUGGED", "Vehicles that are plugged in."
    CUSTOMERS = "CUSTOMERS", "Customers and guests."
    TAXI_ONLY = "TAXI_ONLY", "Taxis."
    TENANTS = "TENANTS", "Who lives here."


class ParkingType(ClosedEnum):
    """5.4.30: What kind of place a Location is."""

    ALONG_MOTORWAY = "ALONG_MOTORWAY", "A rest area of a motorway."
    PARKING_GARAGE = "PARKING_GARAGE", "A car park of several storeys."
    PARKING_LOT = "PARKING_LOT", "An open car park, as at a supermarket."
    ON_DRIVEWAY = "ON_DRIVEWAY", "The driveway of a building."
    ON_STREET = "ON_STREET", "The side of a public street."
    UNDERGROUND_GARAGE = "UNDERGROUND_GARAGE", "A car park mostly below the ground."


class Location(RuledClass, kw_only=True):
    """5.4.31: A place to charge. Its id is that of the Party Issued Object."""

    publish: Annotated[bool, "Whether it may be shown to everybody."]
    publish_allowed_to: Annotated[Many[PublishTokenType], "Whose holders it may be shown to, if not to everybody."] = (
        None
    )
    name: Annotated[Maybe[UnicodeString_1_255], "What it is called."] = None
    address: Annotated[Maybe[Address], "Where it is; has to be there unless publish is false."] = None
    related_locations: Annotated[Many[AdditionalGeoLocation], "Further points that matter."] = None
    parking_type: Annotated[Maybe[ParkingType], "What kind of place it is."] = None
    charging_pool: Annotated[Some[ChargingStation], "Its charging stations."]
    directions: Annotated[Many[DisplayText], "How to reach it, in several languages."] = None
    operator: Annotated[Maybe[BusinessDetails], "Who operates it, if not simply its issuer."] = None
    suboperator: Annotated[Maybe[BusinessDetails], "Who operates it for the operator."] = None
    owner: Annotated[Maybe[BusinessDetails], "Who owns it."] = None
    services: Annotated[Many[LocationService], "What is offered besides charging."] = None
    facilities: Annotated[Many[Facility], "What it belongs to."] = None
    time_zone: Annotated[AsciiString_1_255, "Name of its time zone, such as Europe/Brussels."]
    opening_times: Annotated[Maybe[Hours], "When one can get to its EVSEs."] = None
    charging_when_closed: Annotated[Maybe[bool], "Whether charging goes on when it is closed; if left out, yes."] = None
    images: Annotated[Many[Image], "Photos and logos."] = None
    energy_mix: Annotated[Maybe[EnergyMix], "Where its energy comes from."] = None
    max_power: Annotated[Maybe[LocationMaxPower], "How much it can draw from the grid at once."] = None
    help_phone: Annotated[Maybe[CiAsciiString_1_25], "The number that a driver may call for help."] = None
    last_updated: Annotated[DateTime, "When it or anything in it last changed."]

    def rules(self) -> Iterator[Breach]:
        """There is an ``address`` unless ``publish`` is false, and ``publish_allowed_to`` only then.

        Charging stations have different ids and EVSEs different uids, in any case of letters.
        """
        if self.publish is True and self.publish_allowed_to:
            yield Breach(("publish_allowed_to",), "tokens", "none, since publish is true")
        if self.publish is True and self.address is None:
            yield Breach(("address",), "nothing", "an Address, since publish is true", weight=Weight.MISSING)
        for index in _repeated([station.id for station in self.charging_pool]):
            yield Breach(
                ("charging_pool", index, "id"),
                f'"{self.charging_pool[index].id}" again',
                "another id for each charging station",
            )
        places = [
            (n, m, evse.uid)
            for n, station in enumerate(self.charging_pool)
            for m, evse in enumerate(station.evses or ())
        ]
        for index in _repeated([uid for _, _, uid in places]):
            n, m, uid = places[index]
            yield Breach(("charging_pool", n, "evses", m, "uid"), f'"{uid}" again', "another uid for each EVSE")


class LocationMaxPower(OcpiClass, kw_only=True):
    """5.4.32: How much a Location can draw from the grid."""

    unit: Annotated[ChargingRateUnit, "What the value counts."]
    value: Annotated[Number, "The most that it can draw."]


class PowerType(ClosedEnum):
    """5.4.33: What kind of current a connector gives."""

    AC_1_PHASE = "AC_1_PHASE", "AC, one phase."
    AC_2_PHASE = "AC_2_PHASE", "AC, two phases of three."
    AC_2_PHASE_SPLIT = "AC_2_PHASE_SPLIT", "AC, split phase."
    AC_3_PHASE = "AC_3_PHASE", "AC, three phases."
    DC = "DC", "DC."


class PresenceStatus(ClosedEnum):
    """5.4.34: Whether an EVSE is there."""

    PRESENT = "PRESENT", "It is; the module evsestatuses tells whether it can be used."
    PLANNED = "PLANNED", "Not yet."
    REMOVED = "REMOVED", "Not any more."


class PublishTokenType(RuledClass, kw_only=True):
    """5.4.35: The tokens whose holders may be shown a Location."""

    uid: Annotated[Maybe[CiAsciiString_1_36], "The token's id."] = None
    type: Annotated[Maybe[TokenType], "The token's type."] = None
    visual_number: Annotated[Maybe[UnicodeString_1_64], "What is printed on the token."] = None
    issuer: Annotated[Maybe[UnicodeString_1_64], "The company named on the token."] = None
    group_id: Annotated[Maybe[CiAsciiString_1_36], "The group that the token belongs to."] = None

    def rules(self) -> Iterator[Breach]:
        """There is a ``uid``, a ``visual_number`` or a ``group_id``.

        With a ``uid`` there is a ``type``, with a ``visual_number`` an ``issuer``.
        """
        if self.uid is self.visual_number is self.group_id is None:
            yield Breach((), "none of them", "uid, visual_number or group_id", weight=Weight.MISSING)
        if self.uid is not None and self.type is None:
            yield Breach(("type",), "nothing", "the token's type, since uid is there", weight=Weight.MISSING)
        if self.visual_number is not None and self.issuer is None:
            yield Breach(("issuer",), "nothing", "the issuer, since visual_number is there", weight=Weight.MISSING)


class RegularHours(RuledClass, kw_only=True):
    """5.4.36: Hours of one day of every week, in the Location's own time."""

    weekday: Annotated[Weekday, "From Monday, 1, to Sunday, 7."]
    period_begin: Annotated[TimeOfDay, "From when; 00:00 is the beginning of the day."]
    period_end: Annotated[TimeOfDay, "Until when; 00:00 is the end of the day."]

    def rules(self) -> Iterator[Breach]:
        """The period ends after it begins; one that ends at 00:00 ends with the day."""
        if self.period_begin and self.period_end and self.period_begin >= _end_of(self):
            yield Breach(
                ("period_end",),
                self.period_end,
                f"a time later than period_begin, {self.period_begin}, or 00:00",
            )


class ReservationStatus(ClosedEnum):
    """5.4.37: What is in the way of a reservation."""

    CANCELED_RESERVATION = "CANCELED_RESERVATION", "The CPO has cancelled it."
    DEVICE_OFFLINE = "DEVICE_OFFLINE", "The device has to be asked and cannot be reached."
    EVSE_OCCUPIED = "EVSE_OCCUPIED", "The EVSE is in use."
    EVSE_INOPERATIVE = "EVSE_INOPERATIVE", "The EVSE is out of service or broken."
    NOT_SUPPORTED = "NOT_SUPPORTED", "There are no reservations with this CPO, or at this Location."
    UNKNOWN_RESERVATION = "UNKNOWN_RESERVATION", "The CPO does not know such a reservation."


class ReserveNowRequest(OcpiClass, kw_only=True):
    """5.4.38: An EVSE is to be kept for a driver; with the id of an earlier reservation, instead of that one."""

    token: Annotated[Token, "The driver's Token, which the CPO need not know yet."]
    expiry_date: Annotated[DateTime, "Until when the EVSE is to be kept."]
    reservation_id: Annotated[CiAsciiString_1_36, "Tells it apart from the eMSP's other reservations with this CPO."]
    location_id: Annotated[CiAsciiString_1_36, "The id of the Location."]
    evse_uid: Annotated[Maybe[CiAsciiString_1_36], "The uid of the EVSE; left out: any at this Location."] = None
    authorization_reference: Annotated[
        Maybe[CiAsciiString_1_36], "What the eMSP calls this authorization; Session and CDR repeat it."
    ] = None


class ReservationError(OcpiClass, kw_only=True):
    """5.4.39: Why there is no reservation."""

    status: Annotated[ReservationStatus, "The reason."]
    message: Annotated[Many[DisplayText], "The reason in words, in several languages."] = None


class ResetEvseRequest(OcpiClass, kw_only=True):
    """5.4.40: The device behind an EVSE is to be reset."""

    location_id: Annotated[CiAsciiString_1_36, "The id of the Location."]
    evse_uid: Annotated[CiAsciiString_1_36, "The uid of the EVSE."]


class LocationService(ClosedEnum):
    """5.4.41: What is offered at a Location besides charging."""

    ACCESSIBLE_CHARGING = "ACCESSIBLE_CHARGING", "Some EVSEs are made for people with disabilities."
    ASSISTANCE = "ASSISTANCE", "Somebody on site helps with charging."
    CAMERA_SURVEILLANCE = "CAMERA_SURVEILLANCE", "Cameras watch the place."
    EMERGENCY_CALL = "EMERGENCY_CALL", "One can speak to security staff."
    WIFI = "WIFI", "Wireless internet."


class Status(ClosedEnum):
    """5.4.42: Whether one can charge at an EVSE."""

    AVAILABLE = "AVAILABLE", "A new session can start."
    BLOCKED = "BLOCKED", "Something stands in the way, a car for instance."
    CHARGING = "CHARGING", "In use."
    INOPERATIVE = "INOPERATIVE", "Not in service yet, or for a while; not broken."
    OUTOFORDER = "OUTOFORDER", "Broken."
    RESERVED = "RESERVED", "Kept for a certain driver."
    UNKNOWN = "UNKNOWN", "Nobody can tell, for instance because it is offline."


class StatusSchedule(OcpiClass, kw_only=True):
    """5.4.43: What the status of an EVSE is planned to be, for information."""

    period_begin: Annotated[DateTime, "From when."]
    period_end: Annotated[Maybe[DateTime], "Until when, if that is known."] = None
    status: Annotated[Status, "The status in this time."]


class UnlockConnectorRequest(OcpiClass, kw_only=True):
    """5.4.44: A connector is to let go of the cable."""

    location_id: Annotated[CiAsciiString_1_36, "The id of the Location."]
    evse_uid: Annotated[CiAsciiString_1_36, "The uid of the EVSE."]
    connector_id: Annotated[CiAsciiString_1_36, "The id of the connector."]


class VehicleType(ClosedEnum):
    """5.4.45: What kind of vehicle fits."""

    MOTORCYCLE = "MOTORCYCLE", "A motorcycle."
    PERSONAL_VEHICLE = "PERSONAL_VEHICLE", "A car."
    PERSONAL_VEHICLE_WITH_TRAILER = "PERSONAL_VEHICLE_WITH_TRAILER", "A car with a trailer."
    VAN = "VAN", "A van lower than 275 cm."
    TRUCK = "TRUCK", "A lorry."
    TRUCK_WITH_TRAILER = "TRUCK_WITH_TRAILER", "A lorry with a trailer."
    BUS = "BUS", "A bus or a coach."
    DISABLED = "DISABLED", "A vehicle with a permit for disabled people's parking."


# -- rules ------------------------------------------------------------------------------------------------


def _end_of(period: RegularHours) -> str:
    return "24:00" if period.period_end == "00:00" else period.period_end


def _in_order(hours: list[RegularHours]) -> Iterator[Breach]:
    """Periods do not overlap, and stand in the order of the week.

    Order is the text's wish, but it means nothing, and real platforms do send Wednesday before Monday.
    """
    # What is wrong in itself cannot be compared with anything.
    whole = [(n, each) for n, each in enumerate(hours) if each.weekday and each.period_begin and each.period_end]
    week = sorted(whole, key=lambda entry: (entry[1].weekday, entry[1].period_begin))
    if week != whole:
        yield Breach(("regular_hours",), "another order", "the order of the week", Weight.ODD)
    for (_, before), (index, period) in pairwise(week):
        if period.weekday == before.weekday and period.period_begin < _end_of(before):
            yield Breach(
                ("regular_hours", index),
                f"weekday {period.weekday} from {period.period_begin}",
                f"no overlap with weekday {before.weekday} until {before.period_end}",
            )


def _repeated(ids: list[str]) -> Iterator[int]:
    """Yield the index of each id that stands before it already; an empty one is wrong in itself."""
    folded = [each.lower() for each in ids]
    if len(set(folded)) == len(folded):
        return
    seen = {""}
    for index, each in enumerate(folded):
        if each in seen and each:
            yield index
        seen.add(each)


MODULE = Module(
    id=ModuleId("locations"),
    chapter=5,
    title="Locations",
    payload=Location,
    calls=(
        Call(
            operation="reserve-now",
            use_case="05.02",
            summary="Have an EVSE kept for a driver. The CPO may take back its yes later (use case 05.04).",
            request=ReserveNowRequest,
            error=ReservationError,
            revocable=True,
        ),
        Call(
            operation="cancel-reservation",
            use_case="05.03",
            summary="Give up a reservation.",
            request=CancelReservationRequest,
            error=ReservationError,
        ),
        Call(
            operation="unlock-connector",
            use_case="05.06",
            summary="Have a connector let go of a cable that is stuck.",
            request=UnlockConnectorRequest,
            error=ChargingStationCommandError,
        ),
        Call(
            operation="reset-evse",
            use_case="05.07",
            summary="Have the device behind an EVSE reset.",
            request=ResetEvseRequest,
            error=ChargingStationCommandError,
        ),
    ),
)
