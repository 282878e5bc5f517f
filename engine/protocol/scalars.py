"""The draft's fundamental types, each declared once.

A declaration is an ``Annotated`` alias: msgspec accepts bytes by it, ``modules.explain`` says by the same
declaration what is wrong, and names and sizes are written as in the draft: ``CiAsciiString[1..36]`` is
``CiAsciiString_1_36``. Sizes count code points.

Patterns are one character class or alternatives of fixed length, so that matching is linear. They end in
"end of text" and not in ``$``, which also matches before a line end.
"""

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated

from msgspec import Meta

URL_LENGTH_MAX = 255  # the draft's number
TOLERANT = "tolerant"
"""Key in ``Meta.extra``: the pattern that alone decides for a tolerant reader, instead of pattern and size (B23)."""


def sized(name: str, length_min: int, length_max: int | None = None) -> Meta:
    """Give a string type a size as the draft writes it: ``[n]`` or ``[a..b]``, counted in code points."""
    size = f"{length_min}" if length_max is None else f"{length_min}..{length_max}"
    return Meta(
        title=f"{name}[{size}]",
        min_length=length_min,
        max_length=length_min if length_max is None else length_max,
    )


def digits(size: str, at_least: int, at_most: int) -> Meta:
    """Give ``int`` a size: how many digits it has."""
    return Meta(
        title=f"int[{size}]",
        description=f"a whole number from {at_least} to {at_most}",
        ge=at_least,
        le=at_most,
    )


# -- strings ----------------------------------------------------------------------------------------------

UnicodeString = Annotated[str, Meta(title="UnicodeString", description="any text")]
"""Text for people: any characters at all."""

AsciiString = Annotated[
    str, Meta(title="AsciiString", description="printable ASCII, spaces allowed", pattern=r"^[ -~]*\Z")
]
"""Text for machines; case matters."""

CiAsciiString = Annotated[
    str, Meta(title="CiAsciiString", description="printable ASCII without spaces", pattern=r"^[!-~]*\Z")
]
"""Text for machines; case does not matter."""

UnicodeString_0_512 = Annotated[UnicodeString, sized("UnicodeString", 0, 512)]
UnicodeString_1_10 = Annotated[UnicodeString, sized("UnicodeString", 1, 10)]
UnicodeString_1_16 = Annotated[UnicodeString, sized("UnicodeString", 1, 16)]
UnicodeString_1_20 = Annotated[UnicodeString, sized("UnicodeString", 1, 20)]
UnicodeString_1_36 = Annotated[UnicodeString, sized("UnicodeString", 1, 36)]
UnicodeString_1_45 = Annotated[UnicodeString, sized("UnicodeString", 1, 45)]
UnicodeString_1_50 = Annotated[UnicodeString, sized("UnicodeString", 1, 50)]
UnicodeString_1_64 = Annotated[UnicodeString, sized("UnicodeString", 1, 64)]
UnicodeString_1_100 = Annotated[UnicodeString, sized("UnicodeString", 1, 100)]
UnicodeString_1_255 = Annotated[UnicodeString, sized("UnicodeString", 1, 255)]
UnicodeString_1_4000 = Annotated[UnicodeString, sized("UnicodeString", 1, 4000)]

AsciiString_1_4 = Annotated[AsciiString, sized("AsciiString", 1, 4)]
AsciiString_1_15 = Annotated[AsciiString, sized("AsciiString", 1, 15)]
AsciiString_1_36 = Annotated[AsciiString, sized("AsciiString", 1, 36)]
AsciiString_1_255 = Annotated[AsciiString, sized("AsciiString", 1, 255)]
AsciiString_1_320 = Annotated[AsciiString, sized("AsciiString", 1, 320)]
AsciiString_1_512 = Annotated[AsciiString, sized("AsciiString", 1, 512)]
AsciiString_1_5000 = Annotated[AsciiString, sized("AsciiString", 1, 5000)]

CiAsciiString_2 = Annotated[CiAsciiString, sized("CiAsciiString", 2)]
CiAsciiString_3 = Annotated[CiAsciiString, sized("CiAsciiString", 3)]
CiAsciiString_5 = Annotated[CiAsciiString, sized("CiAsciiString", 5)]
CiAsciiString_1_25 = Annotated[CiAsciiString, sized("CiAsciiString", 1, 25)]
CiAsciiString_1_32 = Annotated[CiAsciiString, sized("CiAsciiString", 1, 32)]
CiAsciiString_1_36 = Annotated[CiAsciiString, sized("CiAsciiString", 1, 36)]
CiAsciiString_1_39 = Annotated[CiAsciiString, sized("CiAsciiString", 1, 39)]
CiAsciiString_1_48 = Annotated[CiAsciiString, sized("CiAsciiString", 1, 48)]
CiAsciiString_1_255 = Annotated[CiAsciiString, sized("CiAsciiString", 1, 255)]

ImageType = Annotated[
    CiAsciiString,
    sized("CiAsciiString", 4),
    Meta(extra={TOLERANT: re.compile(r"^[!-~]{1,4}\Z")}),
]
"""By the table exactly four characters; the row beside it names gif, png and svg, which have three (O1)."""

URL = Annotated[
    str,
    Meta(
        title="URL",
        description="a URL of at most 255 characters, without spaces",
        pattern=r"^[^\x00-\x20\x7f]*\Z",
        max_length=URL_LENGTH_MAX,
    ),
]
"""The specification at w3.org also knows relative URLs and letters beyond ASCII, so both are taken."""

PartyID = Annotated[
    str,
    Meta(
        title="PartyID",
        description="two letters of the country, then three letters or digits, such as NLTNM",
        pattern=r"^[A-Za-z]{2}[A-Za-z0-9]{3}\Z",
    ),
]
"""Five characters, in any case."""

Latitude = Annotated[
    str,
    Meta(
        title="AsciiString[7..10]",
        description="degrees with a decimal point and 5 to 7 decimals, such as 50.770774",
        pattern=r"^-?[0-9]{1,2}\.[0-9]{5,7}\Z",
        min_length=7,
        max_length=10,
    ),
]

Longitude = Annotated[
    str,
    Meta(
        title="AsciiString[7..11]",
        description="degrees with a decimal point and 5 to 7 decimals, such as -126.104965",
        pattern=r"^-?[0-9]{1,3}\.[0-9]{5,7}\Z",
        min_length=7,
        max_length=11,
    ),
]

# -- time -------------------------------------------------------------------------------------------------

_LONG_MONTHS = r"(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
_SHORT_MONTHS = r"(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_FEBRUARY = r"02-(?:0[1-9]|1[0-9]|2[0-8])"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = rf"(?:[0-9]{{4}}-(?:{_LONG_MONTHS}|{_SHORT_MONTHS}|{_FEBRUARY})|{_LEAP_YEAR}-02-29)"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_OFFSET = r"(?:[Zz]|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])"

_RFC_3339 = re.compile(rf"^{_DATE}[Tt]{_CLOCK}:(?:[0-5][0-9]|60)(?:\.[0-9]+)?{_OFFSET}\Z")

DateTime = Annotated[
    str,
    Meta(
        title="DateTime",
        description="an RFC 3339 time in UTC with 0, 1 or 3 decimals, such as 2026-05-04T09:30:00.000Z",
        pattern=(rf"^{_DATE}[Tt](?:{_CLOCK}:[0-5][0-9]|23:59:60)(?:\.[0-9](?:[0-9]{{2}})?)?(?:[Zz]|[+\-]00:00)\Z"),
        extra={TOLERANT: _RFC_3339},
    ),
]
"""A moment. RFC 3339 also writes UTC as ``+00:00`` or ``z``, and knows leap seconds; so they are taken."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAYS_IN_400_YEARS = 146_097  # after which the calendar repeats
_FRACTION_LENGTH_MAX = 9  # a point and eight decimals: more than a float of seconds since 1970 can hold


def moment(time: str) -> float:
    """Return the Unix seconds of a ``DateTime``, or of any RFC 3339 time, which a tolerant reader takes.

    A leap second counts as the second after it. The year 0000, which no ``datetime`` knows, is one too.
    Raises ``ValueError`` if it is no such time.
    """
    if not _RFC_3339.match(time):
        raise ValueError("not an RFC 3339 time")
    cycles, year = divmod(int(time[:4]), 400)
    day = date(400 + year, int(time[5:7]), int(time[8:10])).toordinal() + (cycles - 1) * _DAYS_IN_400_YEARS
    seconds = int(time[11:13]) * 3600 + int(time[14:16]) * 60 + int(time[17:19])
    rest = time[19:]
    if rest[-1] in "Zz":
        fraction = rest[:-1]
    else:
        fraction, sign, hours, minutes = rest[:-6], rest[-6], rest[-5:-3], rest[-2:]
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += offset if sign == "-" else -offset
    return (day - _EPOCH_DAY) * 86_400 + seconds + float("0" + fraction[:_FRACTION_LENGTH_MAX])


def date_time(seconds: float) -> str:
    """Write Unix seconds as a ``DateTime`` with three decimals (B26)."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


TimeOfDay = Annotated[
    str,
    Meta(
        title="AsciiString[5]",
        description="hours and minutes from 00:00 to 23:59",
        pattern=r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]\Z",
    ),
]

CiTimeOfDay = Annotated[TimeOfDay, Meta(title="CiAsciiString[5]")]
"""A time of day as chapter 9 calls it: there is nothing in it that has a case."""

# -- numbers ----------------------------------------------------------------------------------------------

Int = Annotated[int, Meta(title="int", description="a whole number from 0", ge=0)]
"""Also ``1.0`` and ``1e0`` (B44)."""

Int_1_5 = Annotated[int, digits("1..5", 0, 99_999)]

Weekday = Annotated[int, digits("1", 1, 7)]
"""From Monday, 1, to Sunday, 7."""

Number = Annotated[float, Meta(title="number", description="a number")]
"""Looked at, never converted for keeps: the payload's own text is what is stored and sent (B25)."""

DecimalNumber = Annotated[float, Meta(title="decimal", description="a number")]
"""Money and what it is computed from. Looked at like a ``number``; who computes reads it with ``exact``."""

Percentage = (
    Annotated[int, Meta(title="number", description="a number from 0 to 100", ge=0, le=100)]
    | Annotated[float, Meta(gt=0, lt=100)]
)
"""As a ``float``, 100.00000000000000001 is 100 and -1e-400 is 0. So msgspec takes whole numbers from limit to limit,
others between them, and leaves what is left to the explanation, which loses no digit."""


_NUMBER = re.compile(r"(-?)([0-9.]+)(?:[eE]([+\-]?)0*([0-9]*))?\Z")
_EXPONENT_DIGITS_MAX = 15
"""Decimal refuses exponents of 19 digits; nothing that OCPI measures has 10^15 of them."""


def exact(number: str) -> Decimal:
    """Read a JSON number (``json_text.NumberText``) without losing a digit, in linear time.

    An absurd exponent is cut to 15 digits: still as huge, or as tiny, as any limit can ask.
    Raises ``ValueError`` if it is not a JSON number.
    """
    if not (parts := _NUMBER.match(number)):
        raise ValueError("not a JSON number")
    sign, mantissa, exponent_sign, exponent = parts.groups()
    if exponent is None:
        return Decimal(number)
    if not mantissa.strip("0."):
        return Decimal(0)
    if len(exponent) > _EXPONENT_DIGITS_MAX:
        return Decimal(f"{sign}1E{exponent_sign}{'9' * _EXPONENT_DIGITS_MAX}")
    return Decimal(number)


def is_whole(number: Decimal) -> bool:
    """Tell whether there is no fraction other than 0."""
    return number == number.to_integral_value()
