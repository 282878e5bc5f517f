"""Chapter 8, CDRs: what a charging session was, and what it costs.

A CDR never changes once it is issued. What was wrong with it is undone by a Credit CDR with the negative amounts,
after which a new CDR may follow for the same Session (8.02).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Annotated, Any, Final

import msgspec

from engine.protocol.ids import (
    CREDIT_CDR_ID_LENGTH_MAX,
    OBJECT_ID_LENGTH_MAX,
    ModuleId,
    PartyId,
    check_object_id,
    object_key,
    party_id,
)
from engine.protocol.json_text import NumberText, pointer, read_exactly
from engine.protocol.modules.classes import Breach, ClosedEnum, Maybe, OcpiClass, RuledClass, Some, Weight
from engine.protocol.modules.explain import shorten
from engine.protocol.modules.locations import Address, ConnectorFormat, ConnectorType, PowerType
from engine.protocol.modules.module import (
    NOBODY,
    PROBLEMS_MAX,
    Addition,
    Audience,
    Call,
    CannotReplace,
    Issued,
    Module,
    Problem,
    Reference,
    Replacement,
    Wanted,
)
from engine.protocol.modules.shared_types import TokenType
from engine.protocol.modules.tariffs import Price
from engine.protocol.scalars import (
    AsciiString_1_255,
    AsciiString_1_512,
    AsciiString_1_5000,
    CiAsciiString_1_32,
    CiAsciiString_1_36,
    CiAsciiString_1_39,
    CiAsciiString_1_48,
    CiAsciiString_3,
    CiAsciiString_5,
    DateTime,
    DecimalNumber,
    Int,
    UnicodeString_1_255,
    UnicodeString_1_4000,
    date_time,
    exact,
    moment,
)


class AuthMethod(ClosedEnum):
    """8.5.1: How it was found out that a driver may charge."""

    AUTH_REQUEST = "AUTH_REQUEST", "The eMSP was asked."
    COMMAND = "COMMAND", "The eMSP itself asked for the session or the reservation, by a remote procedure call."
    WHITELIST = "WHITELIST", "The token was known to be good, so the eMSP was not asked."


class CDR(RuledClass, kw_only=True):
    """8.5.2: A Charge Detail Record: a session that is over, and what the eMSP owes for it."""

    start_date_time: Annotated[DateTime, "When the session began, or the reservation before it."]
    end_date_time: Annotated[DateTime, "When it was over; the car may have been full long before."]
    session_id: Annotated[
        Maybe[CiAsciiString_1_36],
        "The id of its Session; left out only where there is none: the CPO has no such module, or nobody came to"
        " use the reservation.",
    ] = None
    cdr_token: Annotated[CdrToken, "The token that it was started with."]
    auth_method: Annotated[AuthMethod, "How the driver was authorized; of several ways the last one."]
    authorization_reference: Annotated[
        Maybe[CiAsciiString_1_36], "What the eMSP called its authorization; the last one that it gave."
    ] = None
    cdr_location: Annotated[CdrLocation, "Where it was."]
    meter_id: Annotated[Maybe[AsciiString_1_255], "Names the meter in the charging station."] = None
    currency: Annotated[CiAsciiString_3, "ISO 4217 code of the currency, such as EUR."]
    tariff_association_id: Annotated[
        CiAsciiString_1_36, "The id of the Tariff Association by which the Tariff was found."
    ]
    tariff_id: Annotated[
        CiAsciiString_1_36, "The id of the Tariff that the costs follow; if it is free, of a free one."
    ]
    charging_periods: Annotated[Some[ChargingPeriod], "What was consumed, period after period."]
    signed_data: Annotated[Maybe[SignedData], "What the meter signed."] = None
    total_cost: Annotated[Price, "All that it costs; in a Credit CDR the negative of what is credited."]
    total_fixed_cost: Annotated[
        Maybe[Price], "The part that hangs on no amount, such as a start fee; without that of reservations."
    ] = None
    total_energy: Annotated[DecimalNumber, "Energy in kWh."]
    total_energy_cost: Annotated[Maybe[Price], "The part that is for energy."] = None
    total_time: Annotated[DecimalNumber, "How long the session was, in hours."]
    total_time_cost: Annotated[Maybe[Price], "The part that is for time."] = None
    total_reservation_cost: Annotated[Maybe[Price], "The part that is for a reservation, fixed parts included."] = None
    remark: Annotated[Maybe[UnicodeString_1_255], "Anything worth saying, such as why charging stopped."] = None
    credit: Annotated[Maybe[bool], "True: this is a Credit CDR."] = None
    credit_reference_id: Annotated[Maybe[CiAsciiString_1_39], "The id of the CDR that a Credit CDR credits."] = None
    home_charging_compensation: Annotated[
        Maybe[bool], "True: it was at the driver's home, and the driver is to get the cost of the energy back."
    ] = None
    last_updated: Annotated[DateTime, "When it was made."]

    def rules(self) -> Iterator[Breach]:
        """A Credit CDR names the CDR that it credits, and no other CDR names one (8.5.2).

        Dimensions that are for Sessions only are in no CDR (8.5.5). Only the CDR of a reservation that nobody came
        to use does without a connector (8.5.6), so it is there where there is energy. A whitelisted token has its
        version (8.5.7).
        """
        if self.credit is True and self.credit_reference_id is None:
            yield Breach(
                ("credit_reference_id",), "nothing", "the credited CDR's id, since credit is true", Weight.MISSING
            )
        if self.credit is not True and self.credit_reference_id is not None:
            found, weight = ("nothing", Weight.MISSING) if self.credit is None else ("false", Weight.WRONG)
            yield Breach(("credit",), found, "true, since credit_reference_id is there", weight)
        for n, period in enumerate(self.charging_periods):
            for m, dimension in enumerate(period.dimensions):
                if dimension.type in SESSION_ONLY:
                    where = ("charging_periods", n, "dimensions", m, "type")
                    yield Breach(
                        where, f'"{dimension.type}"', "a dimension that is not for Sessions only", Weight.MISSING
                    )
        # Without an id, all of it is missing or wrong, and that has been told.
        if self.cdr_location.connector is None and self.cdr_location.id and not is_nothing(self.total_energy):
            yield Breach(
                ("cdr_location", "connector"), "nothing", "the connector, since energy was charged", Weight.MISSING
            )
        yield from token_rules(self.auth_method, self.cdr_token)


class CdrConnector(OcpiClass, kw_only=True):
    """8.5.3: The connector that was used, as it was then."""

    evse_uid: Annotated[CiAsciiString_1_36, "The uid of its EVSE."]
    evse_id: Annotated[CiAsciiString_1_48, "The id of its EVSE as eMI3 has it, such as BE*BEC*E041503001."]
    connector_id: Annotated[CiAsciiString_1_36, "Its id within the EVSE."]
    connector_standard: Annotated[ConnectorType, "The standard of its socket or plug."]
    connector_format: Annotated[ConnectorFormat, "Socket or cable."]
    connector_power_type: Annotated[PowerType, "The kind of current."]


class CdrDimension(OcpiClass, kw_only=True):
    """8.5.4: How much of something there was in a charging period."""

    type: Annotated[CdrDimensionType, "What it was."]
    volume: Annotated[DecimalNumber, "How much, in the unit that goes with the type."]


class CdrDimensionType(ClosedEnum):
    """8.5.5: What is counted in a charging period, and in which unit."""

    CURRENT = "CURRENT", "Mean current, A; below 0 from the car to the grid. In Sessions only."
    ENERGY = "ENERGY", "Energy, kWh; below 0 where more went to the grid than to the car."
    ENERGY_EXPORT = "ENERGY_EXPORT", "Energy that went to the grid, kWh. In Sessions only."
    ENERGY_IMPORT = "ENERGY_IMPORT", "Energy that went to the car, kWh. In Sessions only."
    MAX_CURRENT = "MAX_CURRENT", "Highest current, summed up over the phases, A."
    MIN_CURRENT = "MIN_CURRENT", "Lowest current, summed up over the phases, A; below 0 from the car to the grid."
    MAX_POWER = "MAX_POWER", "Highest power, kW."
    MIN_POWER = "MIN_POWER", "Lowest power, kW; below 0 from the car to the grid."
    POWER = "POWER", "Mean power, kW; below 0 from the car to the grid. In Sessions only."
    RESERVATION_TIME = "RESERVATION_TIME", "Time for which it was reserved and not in use yet, hours."
    STATE_OF_CHARGE = "STATE_OF_CHARGE", "How full the car's battery is, percent from 0 to 100. In Sessions only."
    TIME = "TIME", "How long the period was, hours."


class CdrLocation(OcpiClass, kw_only=True):
    """8.5.6: The Location, as it was then, and only what matters of it."""

    id: Annotated[CiAsciiString_1_36, "The id of the Location."]
    name: Annotated[Maybe[UnicodeString_1_255], "What it is called."] = None
    address: Annotated[Maybe[Address], "Where it is; left out only if the receiver agreed, as for homes."] = None
    connector: Annotated[
        Maybe[CdrConnector], "The connector; left out only for a reservation that nobody came to use."
    ] = None


class CdrToken(OcpiClass, kw_only=True):
    """8.5.7: The token that a session was started with, and who issued it."""

    party_id: Annotated[CiAsciiString_5, "The party that issued the token, such as NLTNM: whom this is for."]
    uid: Annotated[CiAsciiString_1_36, "The token's id: for RFID what the reader reads."]
    type: Annotated[TokenType, "The token's type."]
    contract_id: Annotated[CiAsciiString_1_36, "Names the driver's contract at the eMSP."]
    token_version: Annotated[
        Maybe[Int], "The version of the Token by which the CPO decided; has to be there if it was whitelisted."
    ] = None


class ChargingPeriod(OcpiClass, kw_only=True):
    """8.5.8: A part of a session, until the next one begins or the session ends."""

    start_date_time: Annotated[DateTime, "When it began."]
    dimensions: Annotated[Some[CdrDimension], "How much of what there was."]


class DisputeCdrRequest(OcpiClass, kw_only=True):
    """8.5.9: A CDR that its receiver does not agree with."""

    cdr_id: Annotated[CiAsciiString_1_36, "The id of the CDR."]
    reason: Annotated[UnicodeString_1_4000, "What is wrong with it, by a person or a program."]


class DisputeCdrResponse(OcpiClass, kw_only=True):
    """8.5.10: Says that a dispute was heard: an object without fields."""


class SignedData(OcpiClass, kw_only=True):
    """8.5.11: What a meter signed, for who wants to check it, as German law on calibration asks for."""

    encoding_method: Annotated[CiAsciiString_1_36, "How it is encoded, such as OCMF."]
    encoding_method_version: Annotated[Maybe[Int], "Version of the encoding, if it has one."] = None
    public_key: Annotated[Maybe[AsciiString_1_512], "The key that verifies it, in base64."] = None
    signed_values: Annotated[Some[SignedValue], "What was signed."]
    url: Annotated[Maybe[AsciiString_1_512], "Where the driver can check it."] = None


class SignedValue(OcpiClass, kw_only=True):
    """8.5.12: A reading, in plain text and signed."""

    nature: Annotated[CiAsciiString_1_32, "When it was taken: Start, End, Intermediate, or something else."]
    plain_data: Annotated[AsciiString_1_512, "The reading, not encoded."]
    signed_data: Annotated[AsciiString_1_5000, "The reading, signed, in base64."]


# -- rules ------------------------------------------------------------------------------------------------

SESSION_ONLY: Final = frozenset(
    {
        CdrDimensionType.CURRENT,
        CdrDimensionType.ENERGY_EXPORT,
        CdrDimensionType.ENERGY_IMPORT,
        CdrDimensionType.POWER,
        CdrDimensionType.STATE_OF_CHARGE,
    }
)
"""Dimensions that a CDR does not have (8.5.5)."""


def is_nothing(amount: float | Decimal) -> bool:
    """Tell whether this is exactly 0; what a float takes for 0 is left to the explanation, as 1e-400 is one too."""
    return type(amount) is not float and amount == 0


def token_rules(auth_method: AuthMethod, token: CdrToken) -> Iterator[Breach]:
    """A whitelisted token has the version by which it was looked up, and each is issued by a party (8.5.7)."""
    if not token.party_id and not token.uid:
        return  # all of it is missing or wrong, and that has been told
    if auth_method == AuthMethod.WHITELIST and token.token_version is None:
        found, expected = "nothing", "the version of the Token, since auth_method is WHITELIST"
        yield Breach(("cdr_token", "token_version"), found, expected, Weight.MISSING)
    if token.party_id and _party(token) is None:
        expected = "a Party ID such as NLTNM: what is for none goes to nobody"
        yield Breach(("cdr_token", "party_id"), shorten(token.party_id), expected, Weight.ODD)


def _party(token: CdrToken | _Party) -> PartyId | None:
    try:
        return party_id(token.party_id)
    except ValueError:
        return None


# -- whom it is for, when it was over ---------------------------------------------------------------------


class _Party(msgspec.Struct, gc=False):
    party_id: str = ""


class _Addressed(msgspec.Struct, gc=False):
    cdr_token: _Party | None = None


class _Ended(msgspec.Struct, gc=False):
    end_date_time: str | None = None
    last_updated: str | None = None


class _Credit(msgspec.Struct, gc=False):
    credit: bool | None = None
    credit_reference_id: str | None = None


_addressed = msgspec.json.Decoder(_Addressed).decode
_ended = msgspec.json.Decoder(_Ended).decode
_credit = msgspec.json.Decoder(_Credit).decode


def audience(payload: bytes) -> Audience:
    """Return the party that issued the token of a CDR or Session; nobody if there is none that can be read."""
    try:
        token = _addressed(payload).cdr_token
    except ValueError:
        return NOBODY
    party = None if token is None else _party(token)
    return NOBODY if party is None else frozenset({party})


def ended_at(end_date_time: str | None, last_updated: str | None) -> float | None:
    """Return the first of two times that says something, in Unix seconds.

    The first second of 1970 is what the draft puts in the place of an end that nobody knows (8.5.2).
    """
    for time in (end_date_time, last_updated):
        try:
            if time and (seconds := moment(time)):
                return seconds
        except ValueError:
            continue  # a payload that was accepted has none such
    return None


def concluded_at(payload: bytes) -> float | None:
    """Return when the session of a CDR was over."""
    try:
        ended = _ended(payload)
    except ValueError:
        return None
    return ended_at(ended.end_date_time, ended.last_updated)


# -- Credit CDRs ------------------------------------------------------------------------------------------

_ID: Final = ModuleId("cdrs")
_CREDIT_SUFFIX: Final = "-C"  # of the up to three characters that R.08.02.03 allows

_Fields = dict[str, msgspec.Raw]
_fields = msgspec.json.Decoder(_Fields).decode
_objects = msgspec.json.Decoder(list[_Fields]).decode


def is_credit(payload: bytes) -> bool:
    """Tell whether this is a Credit CDR."""
    try:
        return _credit(payload).credit is True
    except ValueError:
        return False


def id_length_max(payload: bytes) -> int:
    """Return how long the id of this CDR may be (R.03.02.20)."""
    return CREDIT_CDR_ID_LENGTH_MAX if is_credit(payload) else OBJECT_ID_LENGTH_MAX


def credited(payload: bytes) -> str | None:
    """Return the id of the CDR that this one credits; None if it is no Credit CDR."""
    try:
        read = _credit(payload)
    except ValueError:
        return None
    return read.credit_reference_id if read.credit is True else None


def check_credit(new: Issued, old: Issued | None) -> Sequence[Problem]:
    """Say what is wrong with a Credit CDR beside the CDR that it credits."""
    fields = read_exactly(new.payload)
    reference = fields.get("credit_reference_id") or ""
    if object_key(reference) == object_key(new.id):
        expected = "the id of another CDR: a Credit CDR has an id of its own (R.08.02.02)"
        return [Problem("/credit_reference_id", f"{shorten(reference)}, its own id", expected)]
    if old is None:
        expected = "the id of a CDR that this party has issued (R.08.02.06)"
        return [Problem("/credit_reference_id", shorten(reference), expected)]
    return [*_not_the_negative(fields, read_exactly(old.payload))][:PROBLEMS_MAX]


def _not_the_negative(fields: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield where a total cost is not the negative of what it was before, currency included (R.08.02.07)."""
    currency, currency_before = str(fields.get("currency")), str(before.get("currency"))
    if currency.lower() != currency_before.lower():
        expected = f"{shorten(currency_before)}, the currency of the credited CDR (R.08.02.07)"
        yield Problem("/currency", shorten(currency), expected)
    cost, cost_before = fields.get("total_cost") or {}, before.get("total_cost") or {}
    found, credited_amount = cost.get("before_taxes"), cost_before.get("before_taxes")
    if found and credited_amount and exact(found) != (wanted := exact(credited_amount).copy_negate()):
        yield Problem("/total_cost/before_taxes", shorten(found), _wanted(wanted))
    taxes, taxes_before = _taxes(cost), _taxes(cost_before)
    for name in dict.fromkeys((*taxes_before, *taxes)):
        # A name may stand there twice, for two rates; in which order says nothing.
        there = sorted(taxes.get(name, ()))
        should_be = sorted(amount.copy_negate() for amount, _ in taxes_before.get(name, ()))
        for tax, wanted in zip_longest(there, should_be):
            yield from _unlike(name, tax, wanted)


def _unlike(name: str, tax: tuple[Decimal, int] | None, wanted: Decimal | None) -> Iterator[Problem]:
    if tax is None and wanted is not None:
        yield Problem("/total_cost/taxes", f"no further {shorten(name)}", _wanted(wanted))
    elif tax is not None and wanted is None:
        expected = "no tax that the credited CDR has not (R.08.02.07)"
        yield Problem(pointer("total_cost", "taxes", tax[1]), shorten(name), expected)
    elif tax is not None and wanted is not None and tax[0] != wanted:
        where = pointer("total_cost", "taxes", tax[1], "amount")
        yield Problem(where, shorten(NumberText(tax[0])), _wanted(wanted))


def _wanted(amount: Decimal) -> str:
    return f"{shorten(NumberText(amount))}, the negative of the credited CDR's (R.08.02.07)"


def _taxes(cost: Mapping[str, Any]) -> dict[str, list[tuple[Decimal, int]]]:
    """Return the amounts of each tax by its name, with where they stand."""
    amounts: dict[str, list[tuple[Decimal, int]]] = {}
    for index, tax in enumerate(cost.get("taxes") or ()):
        if amount := tax.get("amount"):
            amounts.setdefault(tax.get("name") or "", []).append((exact(amount), index))
    return amounts


def replace(old: Issued, wanted: Wanted, _related: object, now: float) -> Sequence[Addition]:
    """Make the Credit CDR of a CDR, and let new CDRs for the same Session follow it (R.08.02.09)."""
    if is_credit(old.payload):
        raise CannotReplace(f"{old.id} is a Credit CDR itself: publish a new CDR instead")
    if wanted.effective_at is not None:
        raise CannotReplace("a CDR is credited at once, not from some time on: leave that time out")
    credit_id = old.id + _CREDIT_SUFFIX if wanted.id is None else wanted.id
    try:
        check_object_id(credit_id, CREDIT_CDR_ID_LENGTH_MAX)
    except ValueError as error:
        raise CannotReplace(f"{credit_id!r} cannot be the id of a Credit CDR: {error}") from error
    if object_key(credit_id) == object_key(old.id):
        raise CannotReplace(f"a Credit CDR has another id than the CDR that it credits, not {credit_id!r} (R.08.02.02)")
    _check_new(old, credit_id, wanted.objects)
    credit = Addition(_ID, credit_id, _credit_of(old, now))
    return [credit, *(Addition(_ID, new.id, new.payload) for new in wanted.objects)]


def _check_new(old: Issued, credit_id: str, objects: Sequence[Issued]) -> None:
    """Refuse new CDRs that do not follow a Credit CDR."""
    taken = {object_key(old.id), object_key(credit_id)}
    session = _given(_fields(old.payload), "session_id")
    for new in objects:
        fields = _fields(new.payload)
        for name in ("credit", "credit_reference_id"):
            if _given(fields, name):
                raise CannotReplace(f"{new.id}: a new CDR after a Credit CDR leaves {name} out (R.08.02.09)")
        if object_key(new.id) in taken:
            raise CannotReplace(f"{new.id}: a new CDR has an id that no other one has (R.08.02.09)")
        taken.add(object_key(new.id))
        session_new = _given(fields, "session_id")
        if session and session_new and _folded(session) != _folded(session_new):
            raise CannotReplace(f"{new.id} is for another session than the credited CDR (R.08.02.09)")


def _credit_of(old: Issued, now: float) -> bytes:
    """Write the Credit CDR: all else stays as it is, every digit and every field that no table knows (R.08.02.08)."""
    fields: dict[str, Any] = dict(_fields(old.payload))
    if cost := _given(fields, "total_cost"):
        fields["total_cost"] = _negative_price(cost)
    fields["credit"] = True
    fields["credit_reference_id"] = old.id
    fields["last_updated"] = date_time(now)
    return msgspec.json.encode(fields)


def _negative_price(cost: msgspec.Raw) -> dict[str, Any]:
    price: dict[str, Any] = dict(_fields(cost))
    if before_taxes := _given(price, "before_taxes"):
        price["before_taxes"] = _negative(before_taxes)
    if taxes := _given(price, "taxes"):
        price["taxes"] = [_negative_tax(tax) for tax in _objects(taxes)]
    return price


def _negative_tax(tax: _Fields) -> dict[str, Any]:
    amount = _given(tax, "amount")
    return {**tax, "amount": _negative(amount)} if amount else {**tax}


def _negative(number: msgspec.Raw) -> msgspec.Raw:
    """Turn the sign of a number and leave its digits alone; zero has none."""
    text = bytes(number)
    digits = text.removeprefix(b"-")
    is_zero = not digits.lower().partition(b"e")[0].strip(b"0.")
    return msgspec.Raw(digits if is_zero or digits != text else b"-" + digits)


def _given(fields: Mapping[str, msgspec.Raw], name: str) -> msgspec.Raw | None:
    """Return the value of a field; None if there is none, or ``null``, which counts as none (W21)."""
    value = fields.get(name)
    return None if value is None or bytes(value) == b"null" else value


def _folded(text: msgspec.Raw) -> str:
    return msgspec.json.decode(text, type=str).lower()


# -- the module -------------------------------------------------------------------------------------------


def final(_payload: bytes) -> str:
    """Say why a CDR does not change."""
    return "a CDR never changes once it is issued: credit it, and issue a new one (8.02)"


MODULE = Module(
    id=_ID,
    chapter=8,
    title="CDRs",
    payload=CDR,
    calls=(
        Call(
            operation="dispute",
            use_case="08.03",
            summary="An eMSP does not agree with a CDR that it received.",
            request=DisputeCdrRequest,
            asynchronous=False,
            result=DisputeCdrResponse,
        ),
    ),
    final=final,
    id_length_max=id_length_max,
    audience=audience,
    concluded_at=concluded_at,
    reference=Reference(credited, check_credit),
    replacement=Replacement(
        "A CDR is credited: a Credit CDR with the negative amounts is issued, and then new CDRs for the same Session,"
        " if there are any.",
        replace,
    ),
)
