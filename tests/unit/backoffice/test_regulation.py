"""How fast one charges at the simulated CPO: charging profiles (chapter 13) and what drivers prefer (07.04)."""

import json
from decimal import ROUND_DOWN, Decimal
from typing import Any

import pytest

from engine.backoffice.simulated import Ask, Refuse, profiles
from engine.protocol.ids import PartyId
from engine.samples.chances import read
from tests.unit.backoffice.stage import CAN_22_KW, E1, E2, E3, EMSP, OTHER, STEADY, Stage, sites

SCSP = PartyId("NLSCS")
EVSES = ("meterreadings", "set-charging-profile-on-evses")
DEFAULT = ("meterreadings", "set-default-charging-profile")
SESSION = ("meterreadings", "set-charging-profile-on-session")
CLEAR = ("meterreadings", "clear-charging-profile")
GET = ("meterreadings", "get-active-charging-profile")


@pytest.fixture
def stage() -> Stage:
    """A CPO at which everything takes the same time each time."""
    return Stage(pace=STEADY)


def profile(*limits: Any, id_: str = "P1", **changes: Any) -> dict[str, Any]:
    """A profile in watts: limits that hold for an hour each, or with the second from which they do."""
    periods = [
        dict(zip(("start_period", "limit"), each, strict=True))
        if isinstance(each, tuple)
        else {"start_period": n * 3600, "limit": each}
        for n, each in enumerate(limits)
    ]
    return {"id": id_, "charging_rate_unit": "W", "charging_profile_period": periods, **changes}


def absolute(stage: Stage, *limits: Any, **changes: Any) -> dict[str, Any]:
    """A profile that begins now."""
    return profile(*limits, start_date_time=stage.later(0), **changes)


def power(stage: Stage, evse_uid: str = E1) -> Any:
    """What is drawn at an EVSE, as the session's next meter sample says."""
    stage.wait(60)
    session = stage.session(evse_uid)
    sample = stage.objects["meterreadings"][session.sample_id or ""]
    assert sample["evse_id"] == evse_uid
    return sample["readings"][0]["value"]


def kwh(watt_seconds: Decimal) -> Decimal:
    """What a meter says that is read in watt-hours."""
    return (watt_seconds / 3_600_000).quantize(Decimal("0.001"), ROUND_DOWN)


# -- on a session ---------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.13.03.05", "R.13.03.06", "R.13.03.07")
def test_a_session_stays_below_the_limit(stage: Stage):
    """SUCCESS with nothing more; power and energy follow the periods, and meter samples name the profile."""
    session_id = stage.charge(need_kwh=1000)
    began = stage.now

    limits = profile(11_000, 0, Decimal("5500.5"))
    call_id = stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": limits})

    assert stage.results(call_id)[0].payload is None
    assert stage.newest("meterreadings")["charging_profile_id"] == "P1"
    assert power(stage) == 11_000
    stage.wait(3600 - (stage.now - began))
    watt_seconds = CAN_22_KW * 2 + Decimal(11_000) * 3598
    assert stage.newest("sessions")["energy"] == kwh(watt_seconds)
    assert power(stage) == 0
    stage.wait(3600)
    assert stage.newest("sessions")["energy"] == kwh(watt_seconds + Decimal("5500.5") * 60)
    assert power(stage) == Decimal("5500.5")


@pytest.mark.requirement("R.07.05.04")
def test_the_emsp_is_told(stage: Stage):
    """The eMSP is told the profile that a session follows, also if it is somebody else who set it."""
    session_id = stage.charge()
    stage.succeeds(*EVSES, {"evses": [E1], "charging_profile": absolute(stage, 7_000)}, asker=SCSP)

    (notice,) = stage.of(Ask)

    assert (notice.to, notice.operation) == (EMSP, "notify-active-charging-profile")
    told = json.loads(notice.payload)
    assert told["session_id"] == session_id
    assert told["charging_profile"]["id"] == "P1"
    assert told["charging_profile"]["charging_profile_period"] == [{"start_period": 0, "limit": 7000.0}]


@pytest.mark.requirement("R.13.03.04")
def test_whose_session(stage: Stage):
    """A session is regulated by the party whose driver charges; to others it is unknown, as is one that is over."""
    session_id = stage.charge()
    request = {"session_id": session_id, "charging_profile": profile(1_000)}

    assert stage.hindered(*SESSION, request, asker=OTHER) == ("REJECTED", "UNKNOWN_SESSION")
    assert stage.hindered(*SESSION, request | {"session_id": "NONE"}) == ("REJECTED", "UNKNOWN_SESSION")
    stage.unplug()
    assert stage.hindered(*SESSION, request) == ("REJECTED", "UNKNOWN_SESSION")


def test_who_regulates_for_the_cpo():
    """A CPO that has somebody regulate lets only these do so, also with sessions of others' drivers."""
    stage = Stage(pace=STEADY, regulators=[SCSP])
    session_id = stage.charge()
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(1_000)}, asker=SCSP)
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(2_000)})
    evses = {"evses": [E1], "charging_profile": absolute(stage, 3_000)}
    assert stage.refused(*EVSES, evses) == "REJECTED"
    assert stage.refused(*DEFAULT, evses) == "REJECTED"
    assert power(stage) == 1_000


# -- on EVSEs -------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.13.02.06", "R.13.02.07", "R.13.02.08")
def test_evses_together_stay_below_the_limit(stage: Stage):
    """What several EVSEs draw together is the limit, shared evenly, whoever comes and goes; a sample tells the sum."""
    stage.charge(E1)
    evses = [E1, E2.lower(), E3]
    call_id = stage.succeeds(*EVSES, {"evses": evses, "charging_profile": absolute(stage, 15_000)}, asker=SCSP)
    assert stage.results(call_id)[0].payload is None
    assert power(stage) == 15_000

    stage.charge(E2)
    assert (power(stage, E1), power(stage, E2)) == (7_500, 7_500)
    stage.charge(E3)
    assert (power(stage, E1), power(stage, E2), power(stage, E3)) == (5_000,) * 3
    together = [each for each in stage.objects["meterreadings"].values() if "session_id" not in each]
    assert [each["readings"][0]["value"] for each in together] == [15_000]
    assert [each["readings"][0]["component_level"] for each in together] == ["GROUP"]
    stage.unplug(E3)
    assert (power(stage, E1), power(stage, E2)) == (7_500, 7_500)


def test_a_full_car_leaves_its_share(stage: Stage):
    """What one car does not take, the others may."""
    stage.charge(E1, need_kwh=1)
    stage.charge(E2)
    stage.succeeds(*EVSES, {"evses": [E1, E2], "charging_profile": absolute(stage, 8_000)}, asker=SCSP)
    assert power(stage, E2) == 4_000
    stage.wait(900)

    assert (power(stage, E1), power(stage, E2)) == (0, 8_000)


@pytest.mark.requirement("R.13.02.04", "R.13.04.04")
@pytest.mark.parametrize("operation", [EVSES, DEFAULT], ids=lambda operation: operation[1])
def test_what_cannot_be_regulated(stage: Stage, operation: tuple[str, str]):
    """An unknown EVSE is told by the callback; what RegulationError has no word for is refused at once (B32)."""
    request = {"evses": [E1, "NONE"], "charging_profile": absolute(stage, 1_000)}
    assert stage.hindered(*operation, request) == ("REJECTED", "UNKNOWN_EVSE")
    stage.online(is_online=False)
    request["evses"] = [E1]
    assert stage.refused(*operation, request) == "REJECTED"
    stage.online(is_online=True)
    request["charging_profile"] = absolute(stage, -1_000)
    assert stage.refused(*operation, request) == "NOT_SUPPORTED"

    plain = Stage(places=sites(capabilities=[]))
    assert plain.refused(*operation, request | {"charging_profile": absolute(plain, 1_000)}) == "NOT_SUPPORTED"


def test_a_station_goes_away_meanwhile(stage: Stage):
    """TIMEOUT, and no error, since the enum has none for it; nothing is applied."""
    call_id = stage.ask(*EVSES, {"evses": [E1], "charging_profile": absolute(stage, 1_000)})
    stage.online(is_online=False)

    assert stage.outcome(call_id) == ("TIMEOUT", None)
    assert not stage.cpo.state.profiles


def test_too_often(stage: Stage):
    """A party that sets profiles faster than the CPO allows is told so; others are not held up by it."""
    request = {"evses": [E1], "charging_profile": absolute(stage, 1_000)}
    stage.ask(*EVSES, request)
    assert stage.hindered(*EVSES, request) == ("REJECTED", "TOO_OFTEN")
    stage.ask(*EVSES, request, asker=SCSP)
    assert stage.response() == "ACCEPTED"
    stage.wait(1)
    stage.succeeds(*EVSES, request)


# -- defaults -------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.13.04.05", "R.13.04.06", "R.13.04.07")
def test_a_default_is_for_sessions_to_come(stage: Stage):
    """Each session that begins later stays below the limit, by itself and from its own beginning; no earlier one."""
    stage.charge(E1)
    call_id = stage.succeeds(*DEFAULT, {"evses": [E1, E2, E3], "charging_profile": profile(6_000, 3_000)}, asker=SCSP)
    assert stage.results(call_id)[0].payload is None
    assert power(stage, E1) == CAN_22_KW

    stage.charge(E2)
    assert [each.operation for each in stage.of(Ask)] == ["notify-active-charging-profile"]
    stage.charge(E3)
    assert (power(stage, E2), power(stage, E3)) == (6_000, 6_000)
    assert stage.newest("meterreadings")["charging_profile_id"] == "P1"
    stage.wait(3600)
    assert (power(stage, E1), power(stage, E2)) == (CAN_22_KW, 3_000)


# -- which one counts -----------------------------------------------------------------------------------------


def test_the_lowest_limit_counts(stage: Stage):
    """Of several parties and several kinds the lowest limit counts, moment by moment."""
    session_id = stage.charge(need_kwh=1000)
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(4_000, 9_000)})
    stage.succeeds(*EVSES, {"evses": [E1], "charging_profile": absolute(stage, 6_000, id_="X")}, asker=SCSP)
    assert power(stage) == 4_000
    stage.wait(3600)
    assert power(stage) == 6_000


def test_a_newer_one_takes_the_place(stage: Stage):
    """A party's newer profile for the same thing takes the place of its older one, also under another id."""
    session_id = stage.charge(need_kwh=1000)
    stage.charge(E2, need_kwh=1000)
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(4_000)})
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(5_000, id_="P2")})
    assert power(stage) == 5_000
    stage.succeeds(*CLEAR, {"charging_profile_id": "P2"})

    stage.succeeds(*EVSES, {"evses": [E1, E2], "charging_profile": absolute(stage, 4_000, id_="E1")}, asker=SCSP)
    stage.succeeds(*EVSES, {"evses": [E1], "charging_profile": absolute(stage, 9_000, id_="E2")}, asker=SCSP)
    assert (power(stage, E1), power(stage, E2)) == (9_000, 4_000)
    # The same id: the old one is forgotten.
    stage.succeeds(*EVSES, {"evses": [E2], "charging_profile": absolute(stage, 7_000, id_="e2")}, asker=SCSP)
    assert (power(stage, E1), power(stage, E2)) == (CAN_22_KW, 7_000)


def test_without_a_profile_the_earlier_one_is_removed(stage: Stage):
    """A request without a profile removes what the party set at these EVSEs, and nobody else's."""
    stage.charge(need_kwh=1000)
    stage.succeeds(*EVSES, {"evses": [E1], "charging_profile": absolute(stage, 4_000)}, asker=SCSP)
    stage.succeeds(*EVSES, {"evses": [E1]}, asker=OTHER)
    assert power(stage) == 4_000
    stage.succeeds(*EVSES, {"evses": [E1]}, asker=SCSP)
    assert power(stage) == CAN_22_KW


def test_how_many_profiles_are_remembered(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """So many are followed and no more; those that are over make room, the oldest first."""
    monkeypatch.setattr(profiles, "PROFILES_MAX", 2)

    def wanted(evse_uid: str, id_: str) -> dict[str, Any]:
        return {"evses": [evse_uid], "charging_profile": absolute(stage, 1_000, id_=id_)}

    stage.succeeds(*EVSES, wanted(E1, "P1"))
    stage.succeeds(*EVSES, wanted(E2, "P2"))
    assert stage.refused(*EVSES, wanted(E3, "P3")) == "REJECTED"
    stage.succeeds(*EVSES, wanted(E1, "P1"))
    stage.succeeds(*CLEAR, {"charging_profile_id": "P2"})
    stage.succeeds(*EVSES, wanted(E3, "P3"))
    assert {each.id for each in stage.cpo.state.profiles} == {"P1", "P3"}
    assert stage.refused(*CLEAR, {"charging_profile_id": "P2"}) == "REJECTED"


@pytest.mark.parametrize(
    ("changes", "watts"),
    [
        ({"charging_rate_unit": "A"}, 3 * 230 * 10),
        (
            {
                "charging_rate_unit": "A",
                "charging_profile_period": [{"start_period": 0, "limit": 10, "numberPhases": 1}],
            },
            230 * 10,
        ),
        ({"charging_profile_period": [{"start_period": 0, "limit": 22_000, "numberPhases": 1}]}, 230 * 32),
        ({"charging_rate_unit": "A", "min_charging_rate": Decimal("10.1")}, 0),
        ({"charging_rate_unit": "A", "min_charging_rate": 10}, 3 * 230 * 10),
        ({"start_date_time": "2026-05-28T23:26:40Z"}, CAN_22_KW),
        ({"duration": 30}, CAN_22_KW),
        ({"duration": 3600}, 10),
        ({"charging_profile_period": []}, CAN_22_KW),
        ({"charging_profile_period": [{"start_period": 9000, "limit": 0}]}, CAN_22_KW),
        ({"charging_profile_period": [{"start_period": 20, "limit": 7}, {"start_period": 0, "limit": 9}]}, 7),
        ({"charging_rate_unit": "A", "charging_profile_period": [{"start_period": 0, "limit": 10**30}]}, CAN_22_KW),
    ],
)
def test_what_a_limit_is(stage: Stage, changes: dict[str, Any], watts: int):
    """Amperes count for each phase that may be used; less than the car can do with is nothing; none is no limit."""
    session_id = stage.charge()
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(10) | changes})
    assert power(stage) == watts


# -- asked about, cleared -------------------------------------------------------------------------------------


def active(stage: Stage, profile_id: str = "P1", *, duration: int = 7200, asker: PartyId = EMSP) -> dict[str, Any]:
    """Ask what is made of a profile."""
    call_id = stage.succeeds(*GET, {"charging_profile_id": profile_id, "duration": duration}, asker=asker)
    payload = stage.results(call_id)[0].payload
    assert payload is not None
    answer = read(payload)
    assert answer["start_date_time"] == answer["charging_profile"]["start_date_time"] == stage.later(0)
    assert answer["charging_profile"]["duration"] == duration
    return answer["charging_profile"]


def steps(plan: dict[str, Any]) -> list[Any]:
    """The limits of a plan, and from which second they hold."""
    return [(each["start_period"], each["limit"]) for each in plan["charging_profile_period"]]


@pytest.mark.requirement("R.13.05.05")
def test_what_is_made_of_a_profile(stage: Stage):
    """What the session is going to do by all its limits, in the profile's unit, as far as was asked."""
    session_id = stage.charge(need_kwh=1000)
    amperes = profile(10, 20, 40, charging_rate_unit="A")
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": amperes})
    stage.wait(598)
    assert steps(active(stage, duration=10_000)) == [(0, 10), (2998, 20), (6598, 32)]
    assert steps(active(stage, duration=2000)) == [(0, 10)]
    stage.succeeds(*EVSES, {"evses": [E1], "charging_profile": absolute(stage, 6_900, id_="X")}, asker=SCSP)
    assert [limit for _, limit in steps(active(stage))] == [10]


@pytest.mark.requirement("R.13.05.05")
def test_when_no_profile_is_active_any_more(stage: Stage):
    """What is asked about after it was cleared, or its session is over, shows all that the EVSE can give."""
    session_id = stage.charge()
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(10, charging_rate_unit="A")})
    stage.unplug()
    assert steps(active(stage)) == [(0, 32)]
    stage.succeeds(*EVSES, {"evses": [E1, E2], "charging_profile": absolute(stage, 9_000, id_="X")}, asker=SCSP)
    assert steps(active(stage, "X", asker=SCSP)) == [(0, 9_000)]
    stage.succeeds(*CLEAR, {"charging_profile_id": "x"}, asker=SCSP)
    assert steps(active(stage, "X", asker=SCSP)) == [(0, 2 * CAN_22_KW)]


@pytest.mark.requirement("R.13.06.05")
def test_cleared(stage: Stage):
    """SUCCESS with nothing more; from then on the profile is not followed, and the eMSP is told."""
    session_id = stage.charge(need_kwh=1000)
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(1_000)})

    call_id = stage.succeeds(*CLEAR, {"charging_profile_id": "P1"})

    assert stage.results(call_id)[0].payload is None
    assert [each.operation for each in stage.of(Ask)] == ["notify-active-charging-profile"]
    assert power(stage) == CAN_22_KW
    stage.succeeds(*CLEAR, {"charging_profile_id": "P1"})


@pytest.mark.parametrize("operation", [GET, CLEAR], ids=lambda operation: operation[1])
def test_whose_profile(stage: Stage, operation: tuple[str, str]):
    """Profiles are their setter's own: others have none by that id, and that is refused at once (B32)."""
    session_id = stage.charge()
    stage.succeeds(*SESSION, {"session_id": session_id, "charging_profile": profile(1_000)})
    request = {"charging_profile_id": "P1", "duration": 60}
    assert stage.refused(*operation, request, asker=OTHER) == "REJECTED"
    assert stage.refused(*operation, request | {"charging_profile_id": "P2"}) == "REJECTED"
    stage.online(is_online=False)
    assert stage.refused(*operation, request) == "REJECTED"
    stage.online(is_online=True)
    assert power(stage) == 1_000


# -- what drivers prefer --------------------------------------------------------------------------------------


def prefer(stage: Stage, session_id: str, profile_type: str, **changes: Any) -> str:
    """Tell what the driver prefers."""
    request = {"session_id": session_id, "profile_type": profile_type, **changes}
    stage.ask("sessions", "change-charging-preferences", request)
    return stage.data()


@pytest.mark.requirement("R.07.04.05")
def test_cheap_is_just_in_time(stage: Stage):
    """CHEAP: as slow as it may be; the eMSP is told how slow that is; FAST takes it back."""
    session_id = stage.charge()
    wish = {"departure_time": stage.later(36_000), "energy_need": 20}
    assert prefer(stage, session_id, "CHEAP", **wish) == "ACCEPTED"
    assert [each.operation for each in stage.of(Ask)] == ["notify-active-charging-profile"]
    assert power(stage) == 2_000
    stage.wait(36_000 - 60)
    assert stage.newest("sessions")["energy"] == 20
    assert prefer(stage, session_id, "FAST") == "ACCEPTED"
    assert power(stage) == CAN_22_KW


def test_what_a_driver_cannot_have(stage: Stage):
    """Each answer of the enum has its case, and none of them changes anything."""
    session_id = stage.charge()
    before = stage.cpo.state.sessions[0].preferred_w
    in_an_hour = stage.later(3600)

    assert prefer(stage, session_id, "CHEAP", energy_need=5) == "DEPARTURE_REQUIRED"
    assert prefer(stage, session_id, "CHEAP", departure_time=in_an_hour) == "ENERGY_NEED_REQUIRED"
    assert prefer(stage, session_id, "CHEAP", departure_time=in_an_hour, energy_need=23) == "NOT_POSSIBLE"
    assert prefer(stage, session_id, "FAST", departure_time=stage.later(-1)) == "NOT_POSSIBLE"
    assert prefer(stage, session_id, "GREEN") == "PROFILE_TYPE_NOT_SUPPORTED"
    assert stage.session().preferred_w == before
    assert not stage.of(Ask)
    assert prefer(stage, session_id, "REGULAR") == "ACCEPTED"
    assert not stage.of(Ask)

    plain = Stage(pace=STEADY, places=sites(capabilities=["REMOTE_START_CAPABLE"]))
    assert prefer(plain, plain.charge(), "FAST") == "CHARGING_PREFERENCES_NOT_SUPPORTED"


def test_whose_preferences(stage: Stage):
    """To others than the party of the driver there is no such session."""
    session_id = stage.charge()
    request = {"session_id": session_id, "profile_type": "FAST"}
    stage.ask("sessions", "change-charging-preferences", request, asker=OTHER)
    (refused,) = stage.of(Refuse)
    assert refused.status_code == 2000
