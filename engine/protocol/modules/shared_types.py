"""Classes and enums of chapters that need each other's, in the order of the draft.

1 · fundamental types   2 · addressing   5 · locations   7 · sessions   11 · tokens   13 · power regulation
"""

from __future__ import annotations

from typing import Annotated

from engine.protocol.modules.classes import ClosedEnum, Many, Maybe, OcpiClass, OpenEnum
from engine.protocol.scalars import (
    URL,
    AsciiString_1_15,
    AsciiString_1_320,
    CiAsciiString_2,
    ImageType,
    Int_1_5,
    Number,
    Percentage,
    UnicodeString_0_512,
    UnicodeString_1_64,
    UnicodeString_1_100,
)


class DisplayText(OcpiClass, kw_only=True):
    """1: A text for people, in one language."""

    language: Annotated[CiAsciiString_2, "ISO 639-1 code of the language, such as nl."]
    text: Annotated[UnicodeString_0_512, "The text, plain: no HTML or other markup."]


class BusinessDetails(OcpiClass, kw_only=True):
    """2.4.1: A company that takes part: an operator, a party or a platform."""

    name: Annotated[UnicodeString_1_100, "What the company is called."]
    website: Annotated[Maybe[URL], "Its web site."] = None
    logo: Annotated[Maybe[Image], "Its logo."] = None
    technical_contact: Annotated[Maybe[PointOfContact], "Whom to turn to when something technical fails."] = None


class Image(OcpiClass, kw_only=True):
    """2.4.2: A picture that can be fetched from the web."""

    url: Annotated[URL, "Where the full picture is."]
    thumbnail: Annotated[Maybe[URL], "Where a small version is."] = None
    category: Annotated[ImageCategory, "What it shows."]
    type: Annotated[ImageType, "File format, such as jpeg; tolerant readers take png too."]
    width: Annotated[Maybe[Int_1_5], "Pixels across, of the full picture."] = None
    height: Annotated[Maybe[Int_1_5], "Pixels down, of the full picture."] = None


class ImageCategory(ClosedEnum):
    """2.4.3: What an image shows, and so where to use it."""

    CHARGER = "CHARGER", "The device with one or more EVSEs."
    ENTRANCE = "ENTRANCE", "The way in for cars, seen from the street."
    LOCATION = "LOCATION", "The whole place."
    NETWORK = "NETWORK", "Logo of a roaming network that the EVSE belongs to."
    OPERATOR = "OPERATOR", "Logo of who operates the EVSE."
    OTHER = "OTHER", "Anything else."
    OWNER = "OWNER", "Logo of who owns the charging station."


class PointOfContact(OcpiClass, kw_only=True):
    """2.4.11: Whom to turn to."""

    name: Annotated[UnicodeString_1_100, "A person, a team or a department."]
    email: Annotated[AsciiString_1_320, "E-mail address."]
    telephone: Annotated[AsciiString_1_15, "Telephone number."]


class EnergyMix(OcpiClass, kw_only=True):
    """5.4.15: Where the energy comes from and what it does to the environment."""

    is_green_energy: Annotated[bool, "Whether all of it is renewable, without CO2 and nuclear waste."]
    energy_sources: Annotated[Many[EnergySource], "The shares of its sources."] = None
    environ_impact: Annotated[Many[EnvironmentalImpact], "What it leaves behind."] = None
    supplier_name: Annotated[Maybe[UnicodeString_1_64], "Who supplies it."] = None
    energy_product_name: Annotated[Maybe[UnicodeString_1_64], "What the supplier calls it."] = None


class EnergySource(OcpiClass, kw_only=True):
    """5.4.16: A share of one source of energy."""

    source: Annotated[EnergySourceCategory, "The source."]
    percentage: Annotated[Percentage, "Its share."]


class EnergySourceCategory(ClosedEnum):
    """5.4.17: Where energy comes from."""

    NUCLEAR = "NUCLEAR", "Nuclear power."
    GENERAL_FOSSIL = "GENERAL_FOSSIL", "Fossil, of any kind."
    COAL = "COAL", "Coal."
    GAS = "GAS", "Gas."
    GENERAL_GREEN = "GENERAL_GREEN", "Renewable, of any kind."
    SOLAR = "SOLAR", "The sun."
    WIND = "WIND", "Wind."
    WATER = "WATER", "Water."


class EnvironmentalImpact(OcpiClass, kw_only=True):
    """5.4.18: How much of something is left behind."""

    category: Annotated[EnvironmentalImpactCategory, "What it is."]
    amount: Annotated[Number, "How much, in g/kWh."]


class EnvironmentalImpactCategory(ClosedEnum):
    """5.4.19: What making the energy leaves behind."""

    NUCLEAR_WASTE = "NUCLEAR_WASTE", "Nuclear waste, g/kWh."
    CARBON_DIOXIDE = "CARBON_DIOXIDE", "Carbon dioxide, g/kWh."


class ProfileType(ClosedEnum):
    """7.4.6: What a driver prefers when the car charges smartly."""

    CHEAP = "CHEAP", "As cheap as possible."
    FAST = "FAST", "As fast as possible, also where that costs more."
    GREEN = "GREEN", "With as much renewable energy as possible."
    REGULAR = "REGULAR", "No preference."


class TokenType(OpenEnum):
    """11.4.6: What kind of thing identifies a driver."""

    AD_HOC_USER = "AD_HOC_USER", "Made by a server for one use, for instance for one session of an app user."
    APP_USER = "APP_USER", "Made by a server for one app user, the same in every session."
    EMAID = "EMAID", "A contract id, used where car and station speak ISO 15118."
    RFID = "RFID", "A card or key fob."


class ChargingRateUnit(ClosedEnum):
    """13.6.2: What the limits of a charging profile are counted in."""

    W = "W", "Watts, all phases together."
    A = "A", "Amperes in each phase."
