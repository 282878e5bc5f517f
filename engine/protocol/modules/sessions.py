"""Chapter 7, Sessions: charging that goes on, from the reservation or the start to its end.

A Session changes until it is COMPLETED; what it costs is settled by a CDR. By remote procedure calls an eMSP starts
and stops one and says what the driver prefers, and both sides let the driver know something.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Final

import msgspec

from engine.protocol.ids import ModuleId
from engine.protocol.json_text import NumberText
from engine.protocol.modules.cdrs import (
    AuthMethod,
    CdrDimensionType,
    CdrToken,
    ChargingPeriod,
    audience,
    ended_at,
    is_nothing,
    token_rules,
)
from engine.protocol.modules.classes import Breach, ClosedEnum, Many, Maybe, OcpiClass, RuledClass, Some, Weight
from engine.protocol.modules.explain import shorten
from engine.protocol.modules.module import Call, Module
from engine.protocol.modules.power_regulation import ChargingProfile
from engine.protocol.modules.shared_types import DisplayText, ProfileType
from engine.protocol.modules.tariffs import Price, Tariff
from engine.protocol.modules.tokens import Token
from engine.protocol.scalars import (
    URL,
    AsciiString_1_255,
    CiAsciiString_1_36,
    CiAsciiString_3,
    DateTime,
    DecimalNumber,
    Number,
)


class ChargingPreferences(OcpiClass, kw_only=True):
    """7.4.1: What a driver wants of a session that charges smartly."""

    session_id: Annotated[CiAsciiString_1_36, "The id of the Session."]
    profile_type: Annotated[ProfileType, "What the driver prefers; the connector has to support it, with a Tariff."]
    departure_time: Annotated[Maybe[DateTime], "When the driver thinks of leaving."] = None
    energy_need: Annotated[Maybe[Number], "How much energy the driver wants, kWh."] = None
    discharge_allowed: Annotated[
        Maybe[bool], "Whether the car may be discharged, if it is full enough in time; if left out, it may not."
    ] = None


class ChargingPreferencesResponse(ClosedEnum):
    """7.4.2: What a CPO says to a driver's preferences."""

    ACCEPTED = "ACCEPTED", "The EVSE will try; that is no promise."
    DEPARTURE_REQUIRED = "DEPARTURE_REQUIRED", "Not without departure_time."
    ENERGY_NEED_REQUIRED = "ENERGY_NEED_REQUIRED", "Not without energy_need."
    NOT_POSSIBLE = "NOT_POSSIBLE", "The EVSE knows that it cannot do what is asked for."
    PROFILE_TYPE_NOT_SUPPORTED = "PROFILE_TYPE_NOT_SUPPORTED", "The EVSE does not know this profile_type."
    CHARGING_PREFERENCES_NOT_SUPPORTED = (
        "CHARGING_PREFERENCES_NOT_SUPPORTED",
        "The charging station takes no preferences: it lacks CHARGING_PREFERENCES_CAPABLE.",
    )


class NotifyActiveChargingProfileRequest(OcpiClass, kw_only=True):
    """7.4.3: The charging profile that a session follows now."""

    session_id: Annotated[CiAsciiString_1_36, "The id of the Session."]
    charging_profile: Annotated[ChargingProfile, "The profile."]


class SendDriverMessageRequest(OcpiClass, kw_only=True):
    """7.4.4: Something for the driver of a session to read."""

    session_id: Annotated[CiAsciiString_1_36, "The id of the Session."]
    messages: Annotated[Some[DisplayText], "The message, in one language or several."]


class Session(RuledClass, kw_only=True):
    """7.4.5: A charging session, from the reservation or the start to the end; energy need not flow in it."""

    start_date_time: Annotated[DateTime, "When it became ACTIVE; while it is PENDING, when the station began it."]
    end_date_time: Annotated[Maybe[DateTime], "When it was over; the car may have been full long before."] = None
    energy: Annotated[DecimalNumber, "Energy that went to the car, kWh."]
    cdr_token: Annotated[CdrToken, "The token that it was started with."]
    auth_method: Annotated[AuthMethod, "How the driver was authorized; may change as long as it goes on."]
    authorization_reference: Annotated[
        Maybe[CiAsciiString_1_36], "What the eMSP called its authorization; the last one that it gave."
    ] = None
    location_id: Annotated[CiAsciiString_1_36, "The id of the CPO's Location."]
    connector: Annotated[
        Maybe[SessionConnector], "The connector; left out only for a reservation that has no EVSE yet."
    ] = None
    meter_id: Annotated[Maybe[AsciiString_1_255], "Names the meter."] = None
    currency: Annotated[CiAsciiString_3, "ISO 4217 code of the currency, such as EUR."]
    charging_periods: Annotated[Many[ChargingPeriod], "What was consumed, period after period."] = None
    tariff_association_id: Annotated[
        CiAsciiString_1_36, "The id of the Tariff Association by which the Tariff was found."
    ]
    tariff_id: Annotated[
        CiAsciiString_1_36, "The id of the Tariff that the cost follows; if it is free, of a free one."
    ]
    total_cost: Annotated[Maybe[Price], "What the eMSP owes for it; left out, that is not known yet."] = None
    status: Annotated[SessionStatus, "How far it is."]
    last_updated: Annotated[DateTime, "When it last changed."]

    def rules(self) -> Iterator[Breach]:
        """Only a Session of a reservation does without a connector (7.4.5).

        So it is there when the status is PENDING or ACTIVE, or where there is energy. A whitelisted token has its
        version (8.5.7). A state of charge is from 0 to 100 (8.5.5).
        """
        if self.connector is None and (why := _why_connected(self)):
            yield Breach(("connector",), "nothing", f"the connector, since {why}", Weight.MISSING)
        yield from token_rules(self.auth_method, self.cdr_token)
        for n, period in enumerate(self.charging_periods or ()):
            for m, dimension in enumerate(period.dimensions):
                if dimension.type == CdrDimensionType.STATE_OF_CHARGE and not _is_percentage(dimension.volume):
                    where = ("charging_periods", n, "dimensions", m, "volume")
                    found = shorten(NumberText(dimension.volume))
                    yield Breach(where, found, "from 0 to 100, since it is a STATE_OF_CHARGE")


# 7.4.6, ProfileType, is among the shared types: Tokens have it too.


class SessionCommandError(OcpiClass, kw_only=True):
    """7.4.7: Why a session was not started or stopped."""

    status: Annotated[SessionCommandStatus, "The reason, for a program."]
    message: Annotated[Many[DisplayText], "The reason, for people, in one language or several."] = None


class SessionCommandStatus(ClosedEnum):
    """7.4.8: Why a device did not do what it was asked for."""

    DEVICE_OFFLINE = "DEVICE_OFFLINE", "The device cannot be reached."
    EVSE_OCCUPIED = "EVSE_OCCUPIED", "Somebody is at the EVSE."
    EVSE_INOPERATIVE = "EVSE_INOPERATIVE", "The EVSE is out of service."


class SessionConnector(OcpiClass, kw_only=True):
    """7.4.9: The connector that a session is at."""

    evse_uid: Annotated[CiAsciiString_1_36, "The uid of its EVSE."]
    connector_id: Annotated[CiAsciiString_1_36, "Its id within the EVSE."]


class SessionStatus(ClosedEnum):
    """7.4.10: How far a session is."""

    ACTIVE = "ACTIVE", "It goes on: the car is connected and the driver authorized, whether energy flows or not."
    COMPLETED = "COMPLETED", "It is over, or its reservation is; it does not change any more."
    INVALID = "INVALID", "It does not count, and will not be billed."
    PENDING = "PENDING", "It has not begun: something is still missing, and may be missing for ever."
    RESERVATION = "RESERVATION", "An EVSE is reserved; it may never begin."


class StartSessionRequest(RuledClass, kw_only=True):
    """7.4.11: A session to be started. The table calls it StartSession, the requirements StartSessionRequest."""

    response_url: Annotated[
        Maybe[URL],
        "Required by the table, but nothing uses it: the callback goes by the callback_id. So it may be left out"
        " here, and is not looked up.",
    ] = None
    token: Annotated[Token, "The token to start it with, which the eMSP hereby authorizes."]
    location_id: Annotated[CiAsciiString_1_36, "The id of the CPO's Location."]
    evse_uid: Annotated[
        Maybe[CiAsciiString_1_36], "The uid of the EVSE; left out, the CPO or the station chooses one."
    ] = None
    connector_id: Annotated[
        Maybe[CiAsciiString_1_36],
        "The id of the connector; asked for by stations with START_SESSION_CONNECTOR_REQUIRED.",
    ] = None
    authorization_reference: Annotated[
        Maybe[CiAsciiString_1_36], "What the eMSP calls its authorization: Session and CDR will say it."
    ] = None
    display_tariff: Annotated[
        Maybe[Tariff], "What the eMSP will charge the driver, for the station to show or to tell the car."
    ] = None

    def rules(self) -> Iterator[Breach]:
        """A connector is named together with its EVSE (7.4.11)."""
        if self.connector_id is not None and self.evse_uid is None:
            yield Breach(("evse_uid",), "nothing", "the EVSE, since connector_id is there", Weight.MISSING)


class StopSessionRequest(OcpiClass, kw_only=True):
    """7.4.12: A session to be stopped."""

    session_id: Annotated[CiAsciiString_1_36, "The id of the Session."]


# -- rules ------------------------------------------------------------------------------------------------


PERCENT_MAX: Final = 100


def _why_connected(session: Session) -> str | None:
    """Return what shows that a session is more than a reservation."""
    if session.status in {SessionStatus.ACTIVE, SessionStatus.PENDING}:
        return f"the status is {session.status}"
    return None if is_nothing(session.energy) else "energy was charged"


def _is_percentage(volume: float | Decimal) -> bool:
    """Tell whether this is from 0 to 100; what a float takes for a limit is left to the explanation."""
    return 0 < volume < PERCENT_MAX if type(volume) is float else 0 <= volume <= PERCENT_MAX


# -- what may change, when it was over --------------------------------------------------------------------


class _State(msgspec.Struct, gc=False):
    status: str | None = None
    end_date_time: str | None = None
    last_updated: str | None = None


_state = msgspec.json.Decoder(_State).decode


def final(payload: bytes) -> str | None:
    """Say why a Session does not change any more; None while it may."""
    if _read(payload).status == SessionStatus.COMPLETED:
        return "a Session does not change any more once it is COMPLETED (7.4.10)"
    return None


def concluded_at(payload: bytes) -> float | None:
    """Return when a Session was over; None while it goes on."""
    state = _read(payload)
    if state.status in {SessionStatus.COMPLETED, SessionStatus.INVALID}:
        return ended_at(state.end_date_time, state.last_updated)
    return None


def _read(payload: bytes) -> _State:
    try:
        return _state(payload)
    except ValueError:
        return _State()


# -- the module -------------------------------------------------------------------------------------------

MODULE = Module(
    id=ModuleId("sessions"),
    chapter=7,
    title="Sessions",
    payload=Session,
    calls=(
        Call(
            operation="start",
            use_case="07.02",
            summary="An eMSP asks a CPO to start a session.",
            request=StartSessionRequest,
            error=SessionCommandError,
        ),
        Call(
            operation="stop",
            use_case="07.03",
            summary="An eMSP asks a CPO to stop a session.",
            request=StopSessionRequest,
            error=SessionCommandError,
        ),
        Call(
            operation="change-charging-preferences",
            use_case="07.04",
            summary="An eMSP tells a CPO what the driver prefers.",
            request=ChargingPreferences,
            asynchronous=False,
            result=ChargingPreferencesResponse,
        ),
        Call(
            operation="notify-active-charging-profile",
            use_case="07.05",
            summary="A CPO tells an eMSP how fast a session charges.",
            request=NotifyActiveChargingProfileRequest,
            asynchronous=False,
        ),
        Call(
            operation="send-driver-message",
            use_case="07.06",
            summary="A CPO gives an eMSP a message for the driver.",
            request=SendDriverMessageRequest,
            asynchronous=False,
        ),
        Call(
            operation="send-station-message",
            use_case="07.07",
            summary="An eMSP asks a CPO to show the driver a message at the charging station.",
            request=SendDriverMessageRequest,
            error=SessionCommandError,
        ),
    ),
    final=final,
    audience=audience,
    concluded_at=concluded_at,
)
