"""Chapter 13, Power Regulation: how fast one may charge, and how fast it really goes.

Whoever regulates sends charging profiles to the CPO, by the remote procedure calls. The CPO tells what becomes
of them in meter samples, which are the objects of this module. A profile is a limit and no target.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated

from msgspec import Meta

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
from engine.protocol.modules.shared_types import ChargingRateUnit
from engine.protocol.scalars import CiAsciiString_1_36, DateTime, Int, Number

ExactNumber = Annotated[int, Meta(title="number", description="a number")] | float
"""A number that a rule looks at: a whole one comes as it is, a ``float`` may have lost what the rule asks for."""

PhaseNumber = Annotated[int, Meta(title="number", description="1, 2 or 3", ge=1, le=3)]


class ActiveChargingProfile(OcpiClass, kw_only=True):
    """13.6.1: What an EVSE makes of all the profiles and limits that it knows."""

    start_date_time: Annotated[DateTime, "When it was worked out; the times in the profile count from then."]
    charging_profile: Annotated[ChargingProfile, "What the EVSE is going to do."]


# 13.6.2, ChargingRateUnit, is in shared_types: chapter 5 needs it too.


class Unit(OpenEnum):
    """13.6.3: What a meter reading is counted in."""

    A = "A", "Amperes."
    Hz = "Hz", "Hertz."
    PERCENT = "PERCENT", "Percent."
    W = "W", "Watts."


class ChargingProfile(RuledClass, kw_only=True):
    """13.6.4: Limits to charging, one after the other."""

    id: Annotated[CiAsciiString_1_36, "What to call it when it is to be cleared or asked about."]
    start_date_time: Annotated[Maybe[DateTime], "When it begins; left out: when charging does, whenever that is."] = (
        None
    )
    duration: Annotated[
        Maybe[Int], "Seconds that it lasts; left out: its last period goes on, or until the end of the session."
    ] = None
    charging_rate_unit: Annotated[ChargingRateUnit, "What its limits are counted in."]
    min_charging_rate: Annotated[
        Maybe[ExactNumber], "The least that the vehicle charges with sensibly, in the same unit; one decimal at most."
    ] = None
    charging_profile_period: Annotated[Many[ChargingProfilePeriod], "Its limits over time."] = None

    def rules(self) -> Iterator[Breach]:
        """The least rate has one decimal at most."""
        yield from _one_decimal("min_charging_rate", self.min_charging_rate)


class ChargingProfilePeriod(RuledClass, kw_only=True):
    """13.6.5: A limit, and when it begins to hold; it ends when that of the next period begins."""

    start_period: Annotated[Int, "Seconds after the beginning of the profile."]
    limit: Annotated[ExactNumber, "The most that may be drawn, in the profile's unit; one decimal at most."]
    numberPhases: Annotated[  # noqa: N815  # W3: camel case in its table
        Maybe[ExactNumber], "How many phases of AC may be used; left out: 3. Not for DC."
    ] = None
    phaseToUse: Annotated[  # noqa: N815  # W3: camel case in its table
        Maybe[PhaseNumber], "Which phase of AC is to be used, if numberPhases is 1."
    ] = None

    def rules(self) -> Iterator[Breach]:
        """The limit has one decimal at most; ``phaseToUse`` says something only if ``numberPhases`` is 1."""
        yield from _one_decimal("limit", self.limit)
        if self.phaseToUse is not None and (type(self.numberPhases) is float or self.numberPhases != 1):
            yield Breach(
                ("phaseToUse",), f"{self.phaseToUse}", "nothing, since numberPhases is not 1", weight=Weight.ODD
            )


class ComponentLevel(ClosedEnum):
    """13.6.6: Of how much a meter reading tells."""

    EV = "EV", "Of a vehicle at an EVSE."
    EVSE = "EVSE", "Of one EVSE."
    GROUP = "GROUP", "Of several EVSEs together."


class ComponentLocation(OpenEnum):
    """13.6.7: On which side of it a meter reading was taken."""

    INLET = "INLET", "Where it takes power."
    OUTLET = "OUTLET", "Where it gives power."


class GetActiveChargingProfileRequest(OcpiClass, kw_only=True):
    """13.6.8: Somebody who set a profile asks what is being made of it."""

    charging_profile_id: Annotated[CiAsciiString_1_36, "The id of the profile."]
    duration: Annotated[Int, "How many seconds the answer is to cover."]


class Measurand(OpenEnum):
    """13.6.9: What is measured."""

    CURRENT = "CURRENT", "Current, mostly in amperes."
    POWER = "POWER", "Power that is being drawn, mostly in watts."
    FREQUENCY = "FREQUENCY", "Frequency of the alternating current."
    SOC = "SOC", "State of charge, mostly in percent."


class MeterReading(OcpiClass, kw_only=True):
    """13.6.10: One thing that was measured."""

    value: Annotated[Number, "What the meter says."]
    measurand: Annotated[Measurand, "What was measured."]
    unit: Annotated[Unit, "What the value is counted in."]
    component_level: Annotated[ComponentLevel, "Of how much it tells."]
    location: Annotated[ComponentLocation, "On which side of it."]
    phase: Annotated[Maybe[Phase], "On which phase; left out: on all together."] = None


class MeterSample(OcpiClass, kw_only=True):
    """13.6.11: What was measured at one moment, so that who regulates sees what comes of it."""

    timestamp: Annotated[DateTime, "When it was measured."]
    evse_id: Annotated[Maybe[CiAsciiString_1_36], "The uid of the EVSE that it is about."] = None
    session_id: Annotated[Maybe[CiAsciiString_1_36], "The id of the session that it is about."] = None
    charging_profile_id: Annotated[Maybe[CiAsciiString_1_36], "The id of the profile that it is sent for."] = None
    readings: Annotated[Some[MeterReading], "What was measured."]


class Phase(ClosedEnum):
    """13.6.12: Between which wires was measured."""

    L1 = "L1", "On L1."
    L2 = "L2", "On L2."
    L3 = "L3", "On L3."
    N = "N", "On neutral."
    L1_N = "L1-N", "From L1 to neutral."
    L2_N = "L2-N", "From L2 to neutral."
    L3_N = "L3-N", "From L3 to neutral."
    L1_L2 = "L1-L2", "From L1 to L2."
    L2_L3 = "L2-L3", "From L2 to L3."
    L3_L1 = "L3-L1", "From L3 to L1."


class RegulationError(ClosedEnum):
    """13.6.13: Why a profile is not applied."""

    TOO_OFTEN = "TOO_OFTEN", "Requests come more often than the CPO allows."
    UNKNOWN_SESSION = "UNKNOWN_SESSION", "The CPO does not know the session."
    UNKNOWN_EVSE = "UNKNOWN_EVSE", "The CPO does not know one of the EVSEs."


class SetChargingProfileOnEvsesRequest(OcpiClass, kw_only=True):
    """13.6.14: Charging at some EVSEs is to follow a profile."""

    charging_profile: Annotated[
        Maybe[ChargingProfile], "The profile; left out: one that was set before is to be removed."
    ] = None
    evses: Annotated[Some[CiAsciiString_1_36], "The uids of the EVSEs."]


class SetAbsoluteChargingProfileOnEvsesRequest(SetChargingProfileOnEvsesRequest, RuledClass, kw_only=True):
    """13.6.14: Charging at some EVSEs together is to follow a profile, whatever sessions there are.

    It is the class ``SetChargingProfileOnEvsesRequest`` with what use case 13.02 asks of it besides.
    """

    def rules(self) -> Iterator[Breach]:
        """The profile says when it begins, since there is no session to count from, and nothing of phases."""
        profile = self.charging_profile
        if profile is None or not (profile.id or profile.charging_rate_unit):
            return  # nothing is in what is wrong as a whole
        if profile.start_date_time is None:
            yield Breach(
                ("charging_profile", "start_date_time"),
                "nothing",
                "a DateTime, since there is no session that the profile could begin with",
                weight=Weight.MISSING,
            )
        for index, period in enumerate(profile.charging_profile_period or ()):
            for name in ("numberPhases", "phaseToUse"):
                if (value := getattr(period, name)) is not None:
                    yield Breach(
                        ("charging_profile", "charging_profile_period", index, name),
                        f"{value}",
                        "nothing, since the profile is for EVSEs and not for a session",
                    )


class SetChargingProfileOnSessionRequest(OcpiClass, kw_only=True):
    """13.6.15: A session is to follow a profile."""

    charging_profile: Annotated[ChargingProfile, "The profile."]
    session_id: Annotated[CiAsciiString_1_36, "The id of the session."]


class ClearChargingProfileRequest(OcpiClass, kw_only=True):
    """13.6.16: A profile is not to be followed any more."""

    charging_profile_id: Annotated[CiAsciiString_1_36, "The id of the profile."]


def _one_decimal(name: str, number: object) -> Iterator[Breach]:
    """Look at the value: ``8.10`` has one decimal. A float may have lost some, so all digits are looked at later."""
    if type(number) is float or (isinstance(number, Decimal) and _has_hundredths(number)):
        yield Breach((name,), str(number), "a number with at most one decimal")


def _has_hundredths(number: Decimal) -> bool:
    _, digits, exponent = number.as_tuple()
    return isinstance(exponent, int) and exponent < -1 and any(digits[exponent + 1 :])


MODULE = Module(
    id=ModuleId("meterreadings"),
    aliases=(ModuleId("metersamples"),),
    chapter=13,
    title="Power Regulation",
    payload=MeterSample,
    calls=(
        Call(
            operation="set-charging-profile-on-evses",
            use_case="13.02",
            summary="Have charging at some EVSEs together follow a profile.",
            request=SetAbsoluteChargingProfileOnEvsesRequest,
            error=RegulationError,
        ),
        Call(
            operation="set-charging-profile-on-session",
            use_case="13.03",
            summary="Have a session follow a profile.",
            request=SetChargingProfileOnSessionRequest,
            error=RegulationError,
        ),
        Call(
            operation="set-default-charging-profile",
            use_case="13.04",
            summary="Have each session that begins at some EVSEs from now on follow a profile.",
            request=SetChargingProfileOnEvsesRequest,
            error=RegulationError,
        ),
        Call(
            operation="get-active-charging-profile",
            use_case="13.05",
            summary="Ask what is being made of a profile.",
            request=GetActiveChargingProfileRequest,
            result=ActiveChargingProfile,
            error=RegulationError,
        ),
        Call(
            operation="clear-charging-profile",
            use_case="13.06",
            summary="Have a profile not followed any more.",
            request=ClearChargingProfileRequest,
            error=RegulationError,
        ),
    ),
)
