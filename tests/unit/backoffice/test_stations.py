"""What is done to charging stations: unlocked, reset, and made from anybody's Locations (chapters 5 and 6)."""

from decimal import Decimal

import pytest

from engine import samples
from engine.backoffice.simulated import NotPossible, SimulatedCpo
from engine.protocol.modules import SchemaViolation
from engine.protocol.modules.locations import Capability
from engine.samples import Sample
from tests.unit.backoffice.stage import CPO, E1, E2, E3, E4, LOCATION, NOW, OTHER, STEADY, Stage, sites, token

UNLOCK = {"location_id": LOCATION, "evse_uid": E1, "connector_id": "1"}
RESET = {"location_id": LOCATION, "evse_uid": E1}


@pytest.fixture
def stage() -> Stage:
    """A CPO at which everything takes the same time each time."""
    return Stage(pace=STEADY)


# -- unlock ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.05.06.05")
def test_a_cable_is_stuck(stage: Stage):
    """After the session the cable stays stuck; once it is unlocked, the driver can leave."""
    session_id = stage.charge()
    stage.jam()
    stage.succeeds("sessions", "stop", {"session_id": session_id})
    with pytest.raises(NotPossible, match="stuck"):
        stage.unplug()

    call_id = stage.succeeds("locations", "unlock-connector", UNLOCK)

    assert stage.results(call_id)[0].payload is None
    stage.unplug()
    assert stage.status(E1) == "AVAILABLE"


def test_another_connector_is_unlocked(stage: Stage):
    """What holds the cable is the connector that it is in; where there is no cable, nothing holds one."""
    stage.succeeds("locations", "unlock-connector", UNLOCK)
    stage.plug()
    stage.jam()
    stage.succeeds("locations", "unlock-connector", UNLOCK | {"connector_id": "2"})
    with pytest.raises(NotPossible, match="stuck"):
        stage.unplug()


@pytest.mark.requirement("R.05.06.04")
@pytest.mark.parametrize(
    ("state", "reason"),
    [("charging", "EVSE_OCCUPIED"), ("broken", "EVSE_INOPERATIVE"), ("offline", "DEVICE_OFFLINE")],
)
def test_what_stands_in_the_way_of_unlocking(stage: Stage, state: str, reason: str):
    """Accepted and then rejected, with the reason: not during a session, not what is broken or away."""
    if state == "charging":
        stage.charge()
    elif state == "broken":
        stage.break_down()
    else:
        stage.online(is_online=False)

    assert stage.hindered("locations", "unlock-connector", UNLOCK) == ("REJECTED", reason)


def test_a_session_begins_meanwhile(stage: Stage):
    """What the station finds when it gets there decides: FAILED, and the cable stays where it is."""
    stage.plug()
    stage.ask("sessions", "start", {"token": token(), "location_id": LOCATION, "evse_uid": E1})
    stage.wait(3)
    unlock = stage.ask("locations", "unlock-connector", UNLOCK)

    assert stage.outcome(unlock) == ("FAILED", "EVSE_OCCUPIED")


@pytest.mark.parametrize("changes", [{"location_id": "NOWHERE"}, {"evse_uid": "NONE"}, {"connector_id": "9"}])
def test_unlocking_nothing(stage: Stage, changes: dict[str, str]):
    """What is unknown is refused at once."""
    assert stage.refused("locations", "unlock-connector", UNLOCK | changes) == "REJECTED"


# -- reset ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.05.07.05")
def test_a_station_is_reset(stage: Stage):
    """SUCCESS once the device accepts; then the whole station is away for a while, and comes back in order."""
    stage.break_down()
    assert stage.status(E1) == "OUTOFORDER"

    call_id = stage.succeeds("locations", "reset-evse", RESET)

    assert stage.results(call_id)[0].payload is None
    assert [stage.status(uid) for uid in (E1, E2, E3)] == ["OUTOFORDER", "INOPERATIVE", "AVAILABLE"]
    assert stage.hindered("locations", "unlock-connector", UNLOCK | {"evse_uid": E2}) == (
        "REJECTED",
        "DEVICE_OFFLINE",
    )
    stage.wait(30)
    assert [stage.status(uid) for uid in (E1, E2, E3)] == ["AVAILABLE"] * 3


@pytest.mark.requirement("R.05.07.04")
@pytest.mark.parametrize(
    ("state", "reason"),
    [("their session", "EVSE_OCCUPIED"), ("their reservation", "EVSE_OCCUPIED"), ("offline", "DEVICE_OFFLINE")],
)
def test_what_stands_in_the_way_of_a_reset(stage: Stage, state: str, reason: str):
    """Nobody else's driver at the same station is harmed; at another station anybody may be."""
    if state == "their session":
        stage.charge(E2, asker=OTHER)
    elif state == "their reservation":
        stage.reserve(evse_uid=E2, asker=OTHER)
    else:
        stage.online(is_online=False)
    stage.charge(E3, asker=OTHER)

    assert stage.hindered("locations", "reset-evse", RESET) == ("REJECTED", reason)
    assert stage.hindered("locations", "reset-evse", {**RESET, "evse_uid": E4}) == ("REJECTED", "EVSE_OCCUPIED")


def test_a_reset_ends_ones_own_session(stage: Stage):
    """An eMSP may reset where its own driver charges; the session ends by that, and the reservation stays."""
    session_id = stage.charge()
    stage.reserve(evse_uid=E2)

    stage.succeeds("locations", "reset-evse", RESET)

    assert stage.objects["sessions"][session_id]["status"] == "COMPLETED"
    stage.wait(30)
    assert (stage.status(E1), stage.status(E2)) == ("BLOCKED", "RESERVED")


def test_where_nothing_is_reset():
    """Stations that cannot do it, or are not there, say so at once."""
    stage = Stage(places=sites(capabilities=[]))
    assert stage.refused("locations", "reset-evse", RESET) == "NOT_SUPPORTED"
    assert stage.refused("locations", "unlock-connector", UNLOCK) == "NOT_SUPPORTED"
    assert stage.refused("locations", "reset-evse", RESET | {"evse_uid": "NONE"}) == "REJECTED"


# -- drivers --------------------------------------------------------------------------------------------------


def test_what_a_driver_cannot_do(stage: Stage):
    """Plugging in twice, at no connector, driving away without a car: not possible, and nothing changes."""
    before = stage.cpo.dump()
    for wrong in (
        lambda: stage.plug("NONE"),
        lambda: stage.plug(connector_id="9"),
        stage.unplug,
        stage.jam,
    ):
        with pytest.raises(NotPossible):
            wrong()
    assert stage.cpo.dump() == before
    stage.plug()
    with pytest.raises(NotPossible, match="already"):
        stage.plug()


def test_what_came_due_before_it_turned_out_impossible(stage: Stage):
    """What is not possible does not swallow what happened until then."""
    stage.reserve(seconds=600)
    with pytest.raises(NotPossible) as no:
        stage.cpo.unplug(E1, now=stage.now + 600)

    assert [each.module for each in no.value.effects] == ["sessions", "evsestatuses"]  # type: ignore[union-attr]
    assert stage.cpo.advance(now=stage.now + 600) == []


def test_offline(stage: Stage):
    """A station that is cut off is UNKNOWN and tells nothing, charges on, and tells all of it afterwards."""
    session_id = stage.charge()
    stage.online(is_online=False)
    assert (stage.status(E1), stage.status(E2)) == ("UNKNOWN", "UNKNOWN")
    stage.wait(1800)
    assert stage.last == []
    stage.online(is_online=True)
    stage.wait(60)

    assert (stage.status(E1), stage.status(E2)) == ("CHARGING", "AVAILABLE")
    assert stage.objects["sessions"][session_id]["energy"] == Decimal("11.408")


# -- places ---------------------------------------------------------------------------------------------------


def test_anybodys_locations():
    """A hundred Locations of a real operator's kind: published as they are, a status for each EVSE that is there."""
    places = list(samples.locations(100))
    stage = Stage(places=places)

    assert {each.id for each in places} == stage.objects["locations"].keys()
    there = {
        evse["uid"]
        for location in stage.objects["locations"].values()
        for station in location["charging_pool"]
        for evse in station.get("evses", ())
        if evse["presence"] != "REMOVED"
    }
    assert stage.objects["evsestatuses"].keys() == there
    for site in stage.cpo.state.sites:
        for station in site.stations:
            for evse in station.evses:
                assert all(each.power_max_w > 0 for each in evse.connectors)


def test_every_kind_of_connector():
    """At each connector of some Locations, AC and DC, of any plug: a session, meter samples and a CDR."""
    stage = Stage(pace=STEADY, places=list(samples.locations(12)))
    kinds = set()
    places = [
        (site.id, station, evse)
        for site in stage.cpo.state.sites
        for station in site.stations
        for evse in station.evses
    ]
    for _, station, _ in places:
        station.capabilities = [Capability.REMOTE_START_CAPABLE]
    for location_id, _, evse in places:
        for connector in evse.connectors if evse.is_in_service else ():
            kinds.add(connector.power_type)
            where = {"location_id": location_id, "evse_uid": evse.uid, "connector_id": connector.id}
            stage.succeeds("sessions", "start", {"token": token(), **where})
            stage.plug(evse.uid, connector_id=connector.id, need_kwh=Decimal(100_000))
            stage.wait(3600)
            amperes = [each["value"] for each in stage.newest("meterreadings")["readings"][1:]]
            stage.unplug(evse.uid)
            stage.wait(10)

            cdr = stage.newest("cdrs")
            assert cdr["total_energy"] == Decimal(connector.power_max_w) / 1000
            assert cdr["cdr_location"]["connector"]["connector_id"] == connector.id
            assert len(amperes) == connector.phases
            assert all(0 < each <= connector.amperage for each in amperes)

    assert kinds == {"AC_1_PHASE", "AC_3_PHASE", "DC"}


def test_an_operators_own_evse(stage: Stage):
    """An EVSE without an id for people, a Location without address, a number in an odd form: there is a CDR."""
    place = sites()[0]
    bare = (
        place.payload.replace(b'"max_voltage":230', b'"max_voltage":2.30e2')
        .replace(b'"publish":true', b'"publish":false')
        .replace(b'"evse_id"', b'"x-id"')
        .replace(b'"address":{', b'"x-address":{')
    )
    stage = Stage(pace=STEADY, places=[Sample(LOCATION, bare)])
    stage.charge()
    stage.wait(3600)
    stage.unplug()
    stage.wait(10)

    cdr = stage.newest("cdrs")
    assert cdr["cdr_location"]["connector"]["evse_id"] == E1
    assert "address" not in cdr["cdr_location"]
    assert cdr["total_energy"] == Decimal("22.080")


def test_what_are_no_places():
    """What is no Location, or has an EVSE that stands in another one too, is refused."""
    with pytest.raises(SchemaViolation):
        SimulatedCpo.open(CPO, now=NOW, places=[Sample("L1", b"{}")])
    place = sites()[0]
    with pytest.raises(ValueError, match="two Locations"):
        SimulatedCpo.open(CPO, now=NOW, places=[place, place._replace(id="L2")])


def test_places_of_its_own():
    """A CPO that is given no Locations has some at which everything can be tried."""
    cpo, effects = SimulatedCpo.open(CPO, now=NOW)

    assert {each.module for each in effects} == {  # type: ignore[union-attr]
        "locations",
        "tariffs",
        "tariffassociations",
        "evsestatuses",
    }
    assert len(cpo.state.sites) == 2
    assert all("RESERVABLE" in station.capabilities for site in cpo.state.sites for station in site.stations)
