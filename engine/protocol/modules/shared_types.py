"""Classes and enums that several chapters use, in the order of the draft.

1 · fundamental types   2 · addressing   11 · tokens   13 · power regulation
"""

from typing import Annotated

from engine.protocol.modules.classes import ClosedEnum, Maybe, OcpiClass, OpenEnum
from engine.protocol.scalars import (
    URL,
    AsciiString_1_15,
    AsciiString_1_320,
    CiAsciiString_1_4,
    CiAsciiString_2,
    Int_1_5,
    UnicodeString_0_512,
    UnicodeString_1_100,
)


class DisplayText(OcpiClass, kw_only=True):
    """1: A text for people, in one language."""

    language: Annotated[CiAsciiString_2, "ISO 639-1 code of the language, such as nl."]
    text: Annotated[UnicodeString_0_512, "The text, plain: no HTML or other markup."]


class ImageCategory(ClosedEnum):
    """2.4.3: What an image shows, and so where to use it."""

    CHARGER = "CHARGER", "The device with one or more EVSEs."
    ENTRANCE = "ENTRANCE", "The way in for cars, seen from the street."
    LOCATION = "LOCATION", "The whole place."
    NETWORK = "NETWORK", "Logo of a roaming network that the EVSE belongs to."
    OPERATOR = "OPERATOR", "Logo of who operates the EVSE."
    OTHER = "OTHER", "Anything else."
    OWNER = "OWNER", "Logo of who owns the charging station."


class Image(OcpiClass, kw_only=True):
    """2.4.2: A picture that can be fetched from the web."""

    url: Annotated[URL, "Where the full picture is."]
    thumbnail: Annotated[Maybe[URL], "Where a small version is."] = None
    category: Annotated[ImageCategory, "What it shows."]
    # The type column asks for exactly four characters, the same row names gif, png and svg: up to four.
    type: Annotated[CiAsciiString_1_4, "File format, such as jpeg or png."]
    width: Annotated[Maybe[Int_1_5], "Pixels across, of the full picture."] = None
    height: Annotated[Maybe[Int_1_5], "Pixels down, of the full picture."] = None


class PointOfContact(OcpiClass, kw_only=True):
    """2.4.11: Whom to turn to."""

    name: Annotated[UnicodeString_1_100, "A person, a team or a department."]
    email: Annotated[AsciiString_1_320, "E-mail address."]
    telephone: Annotated[AsciiString_1_15, "Telephone number."]


class BusinessDetails(OcpiClass, kw_only=True):
    """2.4.1: A company that takes part: an operator, a party or a platform."""

    name: Annotated[UnicodeString_1_100, "What the company is called."]
    website: Annotated[Maybe[URL], "Its web site."] = None
    logo: Annotated[Maybe[Image], "Its logo."] = None
    technical_contact: Annotated[Maybe[PointOfContact], "Whom to turn to when something technical fails."] = None


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
