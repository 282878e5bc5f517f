"""Chapter 13: profiles that limit charging, and the samples that tell what comes of them."""

from typing import Any

import msgspec
import pytest

from engine.protocol.modules import SchemaViolation, module
from engine.protocol.modules.check import accept
from engine.protocol.modules.classes import Shape
from engine.protocol.modules.power_regulation import (
    MODULE,
    ActiveChargingProfile,
    ChargingProfile,
    ChargingProfilePeriod,
    RegulationError,
    SetAbsoluteChargingProfileOnEvsesRequest,
    SetChargingProfileOnEvsesRequest,
)
from tests.unit.modules.full import FULL, REQUESTS, drop, put, written
from tests.unit.modules.test_accept import found, warned

SAMPLE = FULL[MODULE.id]
ON_EVSES = REQUESTS["meterreadings.set-charging-profile-on-evses"][2]
ON_SESSION = REQUESTS["meterreadings.set-charging-profile-on-session"][2]
PROFILE = ON_SESSION["charging_profile"]


def wrong(shape: Shape, payload: bytes, *, tolerant: bool = False) -> list[str]:
    """Return the pointers of what is wrong, if anything is."""
    try:
        accept(shape, payload, tolerant=tolerant)
    except SchemaViolation as refused:
        return [problem.pointer for problem in refused.problems]
    return []


def warnings(shape: Shape, payload: bytes, *, tolerant: bool = False) -> list[str]:
    """Return the pointers of the warnings of an accepted payload."""
    return [warning.pointer for warning in accept(shape, payload, tolerant=tolerant)]


def period(**fields: str) -> bytes:
    """Write a period, with these JSON texts in it."""
    texts = {"start_period": "0", "limit": "16", **fields}
    return b"{%s}" % ",".join(f'"{name}":{text}' for name, text in texts.items()).encode()


# -- meter samples ------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.13.01.01", "R.13.01.03")
def test_names():
    """The module has the name of the ModuleID table, and the one that its own chapter says (W8)."""
    assert module("meterreadings") is module("metersamples") is MODULE


def test_sample():
    """A sample has at least one reading; whom it is for it does not say."""
    nothing = put(SAMPLE, ("readings",), [])

    assert found(MODULE, nothing) == ["/readings"]
    assert warned(MODULE, nothing) == ["/readings"]
    assert MODULE.audience(written(SAMPLE)) is None
    for name in ("evse_id", "session_id", "charging_profile_id"):
        assert MODULE.accept(written(drop(SAMPLE, (name,)))) == ()


@pytest.mark.parametrize("name", ["measurand", "unit", "location"])
def test_open(name):
    """What is measured, where and in what unit may be something that the draft does not know yet."""
    assert MODULE.accept(written(put(SAMPLE, ("readings", 0, name), "VOLTAGE"))) == ()


@pytest.mark.parametrize(("name", "value"), [("component_level", "SITE"), ("phase", "L1_N"), ("phase", "l1")])
def test_closed(name, value):
    """Levels and phases are those of the tables, in their spelling."""
    sample = put(SAMPLE, ("readings", 0, name), value)

    assert found(MODULE, sample) == [f"/readings/0/{name}"]
    assert warned(MODULE, sample) == [f"/readings/0/{name}"]


@pytest.mark.parametrize("phase", ["L1", "L2", "L3", "N", "L1-N", "L2-N", "L3-N", "L1-L2", "L2-L3", "L3-L1"])
def test_phases(phase):
    """Between two wires there is a hyphen."""
    assert MODULE.accept(written(put(SAMPLE, ("readings", 0, "phase"), phase))) == ()


# -- charging profiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["8", "8.0", "8.1", "8.10", "-8.1", "81e-1", "1E400", "0.00", "22000"])
def test_one_decimal(number):
    """A limit, and the least rate, may have one decimal, however it is written."""
    assert warnings(ChargingProfilePeriod, period(limit=number)) == []

    least = written(drop(PROFILE, ("min_charging_rate",)))[:-1] + b',"min_charging_rate":%s}' % number.encode()
    assert warnings(ChargingProfile, least) == []


@pytest.mark.parametrize(
    "number", ["8.11", "811e-2", "8.10000000000000000000000000000000001", "1e-2", "1e-99999999999999999999"]
)
def test_two_decimals(number):
    """More than one decimal is refused, by the tolerant too, even where a float has no room for it."""
    least = written(drop(PROFILE, ("min_charging_rate",)))[:-1] + b',"min_charging_rate":%s}' % number.encode()

    for tolerant in (False, True):
        assert wrong(ChargingProfilePeriod, period(limit=number), tolerant=tolerant) == ["/limit"]
        assert wrong(ChargingProfile, least, tolerant=tolerant) == ["/min_charging_rate"]
    for shape, payload in ((ChargingProfilePeriod, period(limit=number)), (ChargingProfile, least)):
        with pytest.raises(msgspec.ValidationError, match="at most one decimal"):
            msgspec.json.decode(payload, type=shape)


@pytest.mark.parametrize("phase", ["1", "2", "3", "2.0"])
def test_phase_to_use(phase):
    """There are three phases to choose from."""
    assert warnings(ChargingProfilePeriod, period(numberPhases="1", phaseToUse=phase)) == []
    assert warnings(ChargingProfilePeriod, period(numberPhases="1.0", phaseToUse=phase)) == []


@pytest.mark.parametrize("phase", ["0", "4", "-1", "1.5", "3.00000000000000000000001", '"L1"'])
def test_no_phase(phase):
    """Anything else is no phase to use."""
    payload = period(numberPhases="1", phaseToUse=phase)

    assert wrong(ChargingProfilePeriod, payload) == ["/phaseToUse"]
    assert wrong(ChargingProfilePeriod, payload, tolerant=True) == ["/phaseToUse"]


@pytest.mark.parametrize("phases", [{}, {"numberPhases": "3"}, {"numberPhases": "1.00000000000000000000001"}])
def test_phase_to_use_of_several(phases):
    """Which phase to use says nothing if all are used: a warning for everybody (O61)."""
    payload = period(phaseToUse="2", **phases)

    assert warnings(ChargingProfilePeriod, payload) == ["/phaseToUse"]
    assert warnings(ChargingProfilePeriod, payload, tolerant=True) == ["/phaseToUse"]


def test_snake_case_is_unknown():
    """These two rows are in camel case (W3); in snake case they are fields that no table knows."""
    assert warnings(ChargingProfilePeriod, period(number_phases='"all"', phase_to_use="9")) == []
    assert wrong(ChargingProfilePeriod, period(numberPhases='"all"')) == ["/numberPhases"]


# -- remote procedure calls ---------------------------------------------------------------------------------


@pytest.mark.requirement(
    "R.13.02.02",
    "R.13.02.03",
    "R.13.03.02",
    "R.13.03.03",
    "R.13.04.02",
    "R.13.04.03",
    "R.13.05.02",
    "R.13.05.03",
    "R.13.06.02",
    "R.13.06.03",
)
def test_calls():
    """Chapter 13 has five calls; all may fail by the same error, and one has a result."""
    assert [(call.operation, call.request.__name__) for call in MODULE.calls] == [
        ("set-charging-profile-on-evses", "SetAbsoluteChargingProfileOnEvsesRequest"),
        ("set-charging-profile-on-session", "SetChargingProfileOnSessionRequest"),
        ("set-default-charging-profile", "SetChargingProfileOnEvsesRequest"),
        ("get-active-charging-profile", "GetActiveChargingProfileRequest"),
        ("clear-charging-profile", "ClearChargingProfileRequest"),
    ]
    assert {call.error for call in MODULE.calls} == {RegulationError}
    assert {call.operation: call.result for call in MODULE.calls if call.result} == {
        "get-active-charging-profile": ActiveChargingProfile
    }
    assert all(call.asynchronous and not call.revocable for call in MODULE.calls)


@pytest.mark.requirement("R.13.02.05")
def test_start_of_a_profile_for_evses():
    """A profile for EVSEs says when it begins; one for a session, or for sessions to come, need not."""
    place = ("charging_profile", "start_date_time")
    without = written(drop(ON_EVSES, place))

    assert wrong(SetAbsoluteChargingProfileOnEvsesRequest, without) == ["/charging_profile/start_date_time"]
    assert warnings(SetAbsoluteChargingProfileOnEvsesRequest, without, tolerant=True) == [
        "/charging_profile/start_date_time"
    ]
    assert warnings(SetChargingProfileOnEvsesRequest, without) == []
    assert warnings(MODULE.calls[1].request, written(drop(ON_SESSION, place))) == []
    with pytest.raises(msgspec.ValidationError, match="no session"):
        msgspec.json.decode(without, type=SetAbsoluteChargingProfileOnEvsesRequest)


@pytest.mark.requirement("R.13.02.09")
@pytest.mark.parametrize(("phases", "told"), [({"numberPhases": 1}, 1), ({"numberPhases": 1, "phaseToUse": 2}, 2)])
def test_phases_of_a_profile_for_evses(phases: dict[str, Any], told: int):
    """A profile for EVSEs says nothing of phases; one for a session, or for sessions to come, may."""
    second = ("charging_profile", "charging_profile_period", 1)
    request = put(ON_EVSES, second, {"start_period": 1800, "limit": 44000, **phases})
    pointers = [f"/charging_profile/charging_profile_period/1/{name}" for name in phases]

    assert len(pointers) == told
    for tolerant in (False, True):
        assert wrong(SetAbsoluteChargingProfileOnEvsesRequest, written(request), tolerant=tolerant) == pointers
    assert warnings(SetChargingProfileOnEvsesRequest, written(request)) == []
    with pytest.raises(msgspec.ValidationError, match="for EVSEs"):
        msgspec.json.decode(written(request), type=SetAbsoluteChargingProfileOnEvsesRequest)


def test_removing_a_profile():
    """Without a profile the request removes one; without EVSEs it is none."""
    without = drop(ON_EVSES, ("charging_profile",))

    assert warnings(SetAbsoluteChargingProfileOnEvsesRequest, written(without)) == []
    assert wrong(SetAbsoluteChargingProfileOnEvsesRequest, written({**without, "evses": []})) == ["/evses"]


@pytest.mark.parametrize("profile", [7, [], {}, {"charging_profile_period": [None, 1, {}]}])
def test_rules_look_only_at_what_is_right(profile):
    """A rule does not complain of what is wrong as a whole, nor fall over it."""
    pointers = wrong(SetAbsoluteChargingProfileOnEvsesRequest, written(put(ON_EVSES, ("charging_profile",), profile)))

    assert pointers
    assert "/charging_profile/start_date_time" not in pointers
