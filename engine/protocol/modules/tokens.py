"""Chapter 11, Tokens: by what drivers are known, and whether they may charge.

These objects go the other way: an eMSP issues them, and CPOs receive them. A CPO that knows a Token may let its
driver charge at once, or has to ask the eMSP first, as the Token's ``whitelist`` says; it asks by the remote
procedure call ``authorize``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from engine.protocol.ids import ModuleId
from engine.protocol.modules.classes import Breach, ClosedEnum, Many, Maybe, OcpiClass, RuledClass
from engine.protocol.modules.explain import shorten
from engine.protocol.modules.module import Call, Module
from engine.protocol.modules.shared_types import DisplayText, ProfileType, TokenType
from engine.protocol.modules.tariffs import Tariff
from engine.protocol.scalars import (
    CiAsciiString_1_36,
    CiAsciiString_1_255,
    CiAsciiString_2,
    DateTime,
    Number,
    UnicodeString_1_64,
)


class AllowedType(ClosedEnum):
    """11.4.1: Whether a driver may charge, and if not, why."""

    ALLOWED = "ALLOWED", "The driver may charge there."
    BLOCKED = "BLOCKED", "The Token is blocked."
    EXPIRED = "EXPIRED", "The Token is not valid any more."
    NO_CREDIT = "NO_CREDIT", "There is not enough credit left to charge there."
    REQUEST_TOO_BROAD = "REQUEST_TOO_BROAD", "Not at all the places that were asked for, but perhaps at some of them."
    NOT_ALLOWED = "NOT_ALLOWED", "At none of the places that were asked for."


class AuthorizeRequest(OcpiClass, kw_only=True):
    """11.4.2: A CPO asks whether a driver may charge."""

    token_uid: Annotated[CiAsciiString_1_255, "The uid of the Token."]
    type: Annotated[Maybe[TokenType], "The type of the Token; left out: RFID."] = None
    presentation_timestamp: Annotated[
        DateTime, "When the Token was shown to the charging station, or else when the CPO heard of it."
    ]
    location_id: Annotated[CiAsciiString_1_255, "The id of the Location where the session is to be."]
    evse_uids: Annotated[
        Many[CiAsciiString_1_36], "The uids of the EVSEs, one of which the session is to be on; left out: any there."
    ] = None


class AuthorizeResponse(OcpiClass, kw_only=True):
    """11.4.3: The eMSP's answer, and how far it goes."""

    allowed: Annotated[AllowedType, "Whether the driver may charge, at the Location and EVSEs that were asked for."]
    token: Annotated[Token, "The whole Token, as it is now."]
    authorization_reference: Annotated[
        Maybe[CiAsciiString_1_36], "What the eMSP calls this authorization; Session and CDR repeat it."
    ] = None
    authorization_timestamp: Annotated[
        DateTime, "From when it holds; for a session that began earlier the CDR may be disputed."
    ]
    authorized_until: Annotated[
        DateTime, "Until when it holds; for a session that begins then or later the CDR may be disputed."
    ]
    max_energy: Annotated[Maybe[Number], "The most energy that it covers, in kWh."] = None
    max_time: Annotated[Maybe[Number], "The longest session that it covers, in hours."] = None
    info: Annotated[Maybe[DisplayText], "A text for the driver."] = None
    display_tariff: Annotated[
        Maybe[Tariff], "What the eMSP will charge the driver, to be shown at the charging station or in the car."
    ] = None


class EnergyContract(OcpiClass, kw_only=True):
    """11.4.4: A driver's own contract for energy, for use at charging stations where that is possible."""

    supplier_name: Annotated[UnicodeString_1_64, "Who supplies the energy."]
    contract_id: Annotated[Maybe[UnicodeString_1_64], "What the supplier calls the contract."] = None


class Token(RuledClass, kw_only=True):
    """11.4.5: By what a driver is known, such as a card, and the contract behind it."""

    uid: Annotated[
        CiAsciiString_1_36,
        "Tells it apart among the eMSP's Tokens of its type: what an RFID reader reads, the contract of an EMAID, or"
        " else made up by the eMSP.",
    ]
    type: Annotated[TokenType, "What kind it is of."]
    contract_id: Annotated[CiAsciiString_1_36, "The driver's contract with the eMSP, preferably an eMA ID."]
    visual_number: Annotated[Maybe[UnicodeString_1_64], "The number that is printed on it."] = None
    issuer: Annotated[UnicodeString_1_64, "The company behind it, mostly the one whose name is printed on it."]
    group_id: Annotated[
        Maybe[CiAsciiString_1_36],
        "Tokens with the same one do for each other: one starts a session, another one stops it. OCPP up to 1.6 has"
        " room for 20 characters.",
    ] = None
    valid_from: Annotated[DateTime, "From when it is valid, that moment included."]
    valid_until: Annotated[Maybe[DateTime], "When it ends to be valid; left out: never, as far as is known."] = None
    whitelist: Annotated[WhitelistType, "Whether the CPO decides by itself or asks the eMSP."]
    language: Annotated[Maybe[CiAsciiString_2], "ISO 639-1 code of the driver's language, such as nl."] = None
    default_profile_type: Annotated[
        Maybe[ProfileType], "What the driver prefers, unless told otherwise for a session."
    ] = None
    energy_contract: Annotated[Maybe[EnergyContract], "The driver's own contract for energy."] = None
    last_updated: Annotated[DateTime, "When it last changed."]

    def rules(self) -> Iterator[Breach]:
        """The uid of a Token of type EMAID is its contract_id, in any case of letters."""
        if self.type != TokenType.EMAID or not self.uid or not self.contract_id:
            return  # what is missing is told by its row
        if self.uid.lower() != self.contract_id.lower():
            yield Breach(("uid",), shorten(self.uid), "the same as contract_id, since type is EMAID")


# 11.4.6, TokenType, is in shared_types: chapter 5 needs it too.


class WhitelistType(ClosedEnum):
    """11.4.7: Who decides whether a driver may charge.

    A Token that is not valid by its times is asked for all the same where the eMSP decides: perhaps it is again.
    """

    ALWAYS = "ALWAYS", "The CPO, and it never asks."
    ALLOWED = "ALLOWED", "The CPO, or the eMSP if the CPO prefers to ask."
    ALLOWED_OFFLINE = "ALLOWED_OFFLINE", "The eMSP; the CPO only while the eMSP cannot be reached."
    NEVER = "NEVER", "The eMSP, each time."


MODULE = Module(
    id=ModuleId("tokens"),
    chapter=11,
    title="Tokens",
    payload=Token,
    issued_by=frozenset({"EMSP"}),
    calls=(
        Call(
            operation="authorize",
            use_case="11.02",
            summary="Ask the eMSP whether a driver may charge at a Location now.",
            request=AuthorizeRequest,
            asynchronous=False,
            result=AuthorizeResponse,
        ),
    ),
)
