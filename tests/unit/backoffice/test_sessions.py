"""Sessions at the simulated CPO: started, stopped, grown and told about (chapter 7), until there is a CDR."""

import json
from decimal import Decimal

import pytest

from engine.backoffice.simulated import Ask, NotPossible, Refuse, billing
from engine.backoffice.simulated.state import SESSION, SessionEvent
from engine.protocol.modules.sessions import SessionStatus
from engine.protocol.transitions import IllegalTransition
from engine.samples.prices import costs
from tests.unit.backoffice.stage import E1, E2, E3, EMSP, LOCATION, OTHER, STEADY, Stage, sites, token

CELLS = {
    ("RESERVATION", "ARRIVED"): "PENDING",
    ("RESERVATION", "BEGUN"): "ACTIVE",
    ("RESERVATION", "ENDED"): "COMPLETED",
    ("RESERVATION", "VOIDED"): "INVALID",
    ("PENDING", "BEGUN"): "ACTIVE",
    ("PENDING", "ENDED"): "COMPLETED",
    ("PENDING", "VOIDED"): "INVALID",
    ("ACTIVE", "ENDED"): "COMPLETED",
}


@pytest.fixture
def stage() -> Stage:
    """A CPO at which everything takes the same time each time."""
    return Stage(pace=STEADY)


@pytest.mark.parametrize("state", SessionStatus)
@pytest.mark.parametrize("event", SessionEvent)
def test_every_cell(state: SessionStatus, event: SessionEvent):
    """What may happen to a session leads where it should; whatever else happens is an error."""
    after = CELLS.get((state.name, event.name))
    if after is not None:
        assert SESSION.after(state, event) == after
        return
    with pytest.raises(IllegalTransition):
        SESSION.after(state, event)


# -- start ----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.07.02.05", "R.07.02.07", "R.07.02.12")
def test_the_station_takes_a_start(stage: Stage):
    """SUCCESS says that the station took it; the Session, with the token that was sent, waits for its cable."""
    start = {"token": token("APP-1", "APP_USER"), "location_id": LOCATION, "evse_uid": E1, "connector_id": "2"}
    call_id = stage.ask("sessions", "start", start | {"authorization_reference": "REF-1"})
    assert stage.response() == "ACCEPTED"
    assert "sessions" not in stage.objects

    result = stage.result(call_id)

    assert (result.result_type, result.payload, result.error) == ("SUCCESS", None, None)
    session = stage.newest("sessions")
    assert session["status"] == "PENDING"
    assert session["cdr_token"] == {
        "party_id": EMSP,
        "uid": "APP-1",
        "type": "APP_USER",
        "contract_id": "NL-EMS-APP-1",
    }
    assert (session["auth_method"], session["authorization_reference"]) == ("COMMAND", "REF-1")
    assert session["connector"] == {"evse_uid": E1, "connector_id": "2"}
    assert stage.status(E1) == "CHARGING"

    stage.wait(30)
    stage.plug(connector_id="1")
    session = stage.newest("sessions")
    assert (session["status"], session["connector"]["connector_id"]) == ("ACTIVE", "1")
    assert session["start_date_time"] == stage.later(0)


@pytest.mark.requirement("R.07.02.08", "R.07.02.10")
def test_nobody_asks_about_a_token_that_starts(stage: Stage):
    """A token that nobody knows, and one whose times are over, start all the same: its eMSP vouches for it."""
    stage.start(token=token("NEW", valid_until="2025-01-02T00:00:00Z"))
    stage.start(E2, token=token("APP-1", "APP_USER"))

    assert not any(isinstance(each, Ask) for each in stage.history)


def test_a_car_is_there_already(stage: Stage):
    """With the cable in, charging begins at once; a car at another connector of the EVSE is in the way."""
    stage.plug(connector_id="2")
    assert stage.status(E1) == "BLOCKED"
    start = {"token": token(), "location_id": LOCATION, "evse_uid": E1}

    assert stage.hindered("sessions", "start", start | {"connector_id": "1"}) == ("REJECTED", "EVSE_OCCUPIED")
    stage.succeeds("sessions", "start", start | {"connector_id": "2"})

    assert stage.newest("sessions")["status"] == "ACTIVE"


def test_no_cable_comes(stage: Stage):
    """After a while the session is INVALID, nothing is billed and the EVSE is free."""
    stage.start()
    stage.wait(119)
    assert stage.status(E1) == "CHARGING"
    stage.wait(1)

    assert stage.newest("sessions")["status"] == "INVALID"
    assert stage.status(E1) == "AVAILABLE"
    stage.wait(3600)
    assert "cdrs" not in stage.objects
    assert stage.cpo.next_at is None


@pytest.mark.requirement("R.07.02.06")
def test_the_cpo_chooses(stage: Stage):
    """Without an EVSE: the one that is reserved for the token, else one with a car, else one that is free."""
    stage.reserve(evse_uid=E3)
    stage.plug(E2)
    anywhere = {"location_id": LOCATION}

    stage.succeeds("sessions", "start", {"token": token(), **anywhere})
    assert stage.session(E3).status == "PENDING"
    stage.succeeds("sessions", "start", {"token": token("B"), **anywhere})
    assert stage.session(E2).status == "ACTIVE"
    stage.succeeds("sessions", "start", {"token": token("C"), **anywhere})
    stage.succeeds("sessions", "start", {"token": token("D"), **anywhere})
    assert stage.hindered("sessions", "start", {"token": token("E"), **anywhere}) == ("REJECTED", "EVSE_OCCUPIED")


@pytest.mark.requirement("R.07.02.04")
@pytest.mark.parametrize("state", ["occupied", "broken", "offline", "planned"])
def test_what_stands_in_the_way_of_a_start(state: str):
    """Whatever the EVSE's state forbids is accepted, and then rejected with the reason and no payload."""
    places = sites()
    if state == "planned":
        planned = places[0].payload.replace(b'"presence":"PRESENT"', b'"presence":"PLANNED"')
        places[0] = places[0]._replace(payload=planned)
    stage = Stage(pace=STEADY, places=places)
    if state == "occupied":
        stage.start(asker=OTHER)
    elif state == "broken":
        stage.break_down()
    elif state == "offline":
        stage.online(is_online=False)
    else:
        assert stage.status(E1) == "INOPERATIVE"
    reasons = {"occupied": "EVSE_OCCUPIED", "offline": "DEVICE_OFFLINE"}

    found = stage.hindered("sessions", "start", {"token": token(), "location_id": LOCATION, "evse_uid": E1})

    assert found == ("REJECTED", reasons.get(state, "EVSE_INOPERATIVE"))


@pytest.mark.requirement("R.07.02.04")
@pytest.mark.parametrize(
    ("meanwhile", "outcome"),
    [("offline", ("TIMEOUT", "DEVICE_OFFLINE")), ("broken", ("FAILED", "EVSE_INOPERATIVE"))],
)
def test_what_happens_while_the_station_is_at_it(stage: Stage, meanwhile: str, outcome: tuple[str, str]):
    """TIMEOUT if the station has gone silent, FAILED if it could not (W15)."""
    call_id = stage.ask("sessions", "start", {"token": token(), "location_id": LOCATION, "evse_uid": E1})
    assert stage.response() == "ACCEPTED"
    if meanwhile == "offline":
        stage.online(is_online=False)
    else:
        stage.break_down()

    assert stage.outcome(call_id) == outcome
    assert not stage.cpo.state.sessions


@pytest.mark.parametrize(
    "changes",
    [{"location_id": "NOWHERE"}, {"evse_uid": "NONE"}, {"connector_id": "9"}, {"location_id": "BEBEC-L000002"}],
    ids=["no such Location", "no such EVSE", "no such connector", "an EVSE of another Location"],
)
def test_a_start_nowhere(stage: Stage, changes: dict[str, str]):
    """What is unknown is refused at once: no error has a word for it (B32)."""
    start = {"token": token(), "location_id": LOCATION, "evse_uid": E1}
    assert stage.refused("sessions", "start", start | changes) == "REJECTED"


def test_what_a_station_cannot_do():
    """Stations without the capability say so at once; one that asks for the connector is not started without it."""
    plain = Stage(pace=STEADY, places=sites(capabilities=["START_SESSION_CONNECTOR_REQUIRED", "REMOTE_START_CAPABLE"]))
    start = {"token": token(), "location_id": LOCATION}
    assert plain.refused("sessions", "start", start) == "NOT_SUPPORTED"
    assert plain.refused("sessions", "start", start | {"evse_uid": E1}) == "REJECTED"
    plain.succeeds("sessions", "start", start | {"evse_uid": E1, "connector_id": "1"})
    assert plain.refused("sessions", "stop", {"session_id": plain.session().id}) == "NOT_SUPPORTED"

    mute = Stage(places=sites(capabilities=[]))
    assert mute.refused("sessions", "start", start) == "NOT_SUPPORTED"
    assert mute.refused("sessions", "start", start | {"evse_uid": E1}) == "NOT_SUPPORTED"


# -- stop -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.07.03.05")
def test_stopped_by_the_emsp(stage: Stage):
    """SUCCESS with nothing more; the Session is COMPLETED, the car is in the way until it leaves, the CDR follows."""
    session_id = stage.charge()
    stage.wait(3600)

    stage.succeeds("sessions", "stop", {"session_id": session_id.lower()})

    assert stage.objects["sessions"][session_id]["status"] == "COMPLETED"
    assert stage.status(E1) == "BLOCKED"
    stage.unplug()
    assert stage.status(E1) == "AVAILABLE"
    stage.wait(10)
    assert stage.newest("cdrs")["session_id"] == session_id


def test_who_may_stop(stage: Stage):
    """Only the party whose driver charges, and only what goes on; to all others there is no such session."""
    session_id = stage.charge()
    stop = {"session_id": session_id}

    assert stage.refused("sessions", "stop", stop, asker=OTHER) == "REJECTED"
    assert stage.refused("sessions", "stop", {"session_id": "NONE"}) == "REJECTED"
    assert stage.session().status == "ACTIVE"
    stage.unplug()
    assert stage.refused("sessions", "stop", stop) == "REJECTED"
    stage.reserve(evse_uid=E2)
    assert stage.refused("sessions", "stop", {"session_id": stage.session(E2).id}) == "REJECTED"


@pytest.mark.requirement("R.07.03.04")
def test_what_stands_in_the_way_of_a_stop(stage: Stage):
    """A station that is away is asked nothing; one that goes away meanwhile does not answer."""
    session_id = stage.charge()
    call_id = stage.ask("sessions", "stop", {"session_id": session_id})
    stage.online(is_online=False)
    assert stage.outcome(call_id) == ("TIMEOUT", "DEVICE_OFFLINE")
    assert stage.hindered("sessions", "stop", {"session_id": session_id}) == ("REJECTED", "DEVICE_OFFLINE")
    assert stage.session().status == "ACTIVE"


def test_the_driver_is_faster(stage: Stage):
    """A session that ends while the station is about to stop it was stopped: SUCCESS, and one CDR."""
    session_id = stage.charge()
    call_id = stage.ask("sessions", "stop", {"session_id": session_id})
    stage.wait(1)
    stage.unplug()

    assert stage.result(call_id).result_type == "SUCCESS"
    stage.wait(60)
    assert len(stage.objects["cdrs"]) == 1


def test_stopped_before_it_began(stage: Stage):
    """A session without a cable that is stopped is INVALID."""
    session_id = stage.start()
    stage.succeeds("sessions", "stop", {"session_id": session_id})

    assert stage.newest("sessions")["status"] == "INVALID"
    assert stage.status(E1) == "AVAILABLE"


# -- what it grows to -----------------------------------------------------------------------------------------


def test_how_a_session_grows(stage: Stage):
    """Every minute an update: 22 kW for so long, in quarters of an hour, and what it costs by the Tariff."""
    session_id = stage.charge()
    began = stage.now
    seen = []
    while stage.now < began + 3600:
        stage.step()
        seen += stage.published("sessions")

    assert len(seen) == 60
    assert [each["energy"] for each in seen] == sorted({each["energy"] for each in seen})
    last = seen[-1]
    assert last["energy"] == Decimal("22.080")
    assert [len(each["dimensions"]) for each in last["charging_periods"]] == [2] * 4
    assert last["charging_periods"][1] == {
        "start_date_time": stage.later(-2700),
        "dimensions": [{"type": "ENERGY", "volume": Decimal("5.520")}, {"type": "TIME", "volume": Decimal("0.25")}],
    }
    before = Decimal("0.50") + Decimal("0.35") * Decimal("22.080")
    assert last["total_cost"]["before_taxes"] == before
    assert stage.objects["sessions"][session_id]["tariff_id"] in stage.objects["tariffs"]
    association = stage.objects["tariffassociations"][last["tariff_association_id"]]
    assert (association["tariff_id"], association["audience"]) == (last["tariff_id"], "REGULAR")
    assert {"evse_uid": E1, "connector_id": "1"} in association["connectors"]


def test_the_car_is_full(stage: Stage):
    """It takes no more than it needs; the session goes on, and the driver is told once, by the eMSP."""
    session_id = stage.charge(need_kwh=11)
    stage.wait(1740)
    assert not any(isinstance(each, Ask) for each in stage.history)
    stage.wait(60)

    (message,) = stage.of(Ask)
    assert (message.to, message.operation) == (EMSP, "send-driver-message")
    assert json.loads(message.payload)["session_id"] == session_id
    stage.wait(3600)
    assert stage.newest("sessions")["energy"] == 11
    assert stage.newest("sessions")["status"] == "ACTIVE"
    assert stage.newest("meterreadings")["readings"][0]["value"] == 0
    assert len([each for each in stage.history if isinstance(each, Ask)]) == 1


def test_nobody_was_there_for_days(stage: Stage):
    """After a long sleep one update tells what is; energy, time and what came due meanwhile are right all the same."""
    session_id = stage.charge(need_kwh=10_000)
    stage.reserve(evse_uid=E3, seconds=3602)
    stage.plug(E2)
    stage.ask("sessions", "start", {"token": token("B"), "location_id": LOCATION, "evse_uid": E2})
    stage.wait(10 * 86_400)

    told = [each["connector"]["evse_uid"] for each in stage.published("sessions")]
    assert (told.count(E1), told.count(E2)) == (1, 2)  # the other one began meanwhile
    session = stage.objects["sessions"][session_id]
    hours = sum(each["dimensions"][1]["volume"] for each in session["charging_periods"])
    assert abs(session["energy"] - hours * Decimal("22.08")) < Decimal("0.002")
    assert hours > 239
    assert stage.status(E3) == "AVAILABLE"
    (cdr,) = stage.objects["cdrs"].values()
    assert cdr["total_reservation_cost"]["before_taxes"] == Decimal("2.00")


def test_a_session_of_weeks(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """However long it is, a session has a limited number of charging periods, and they add up."""
    monkeypatch.setattr(billing, "PERIODS_MAX", 10)
    session_id = stage.charge(need_kwh=100_000)
    for _ in range(20):
        stage.wait(900)

    session = stage.objects["sessions"][session_id]
    assert len(session["charging_periods"]) == 10
    assert session["energy"] == sum(each["dimensions"][0]["volume"] for each in session["charging_periods"])


@pytest.mark.parametrize("end", ["unplugged", "card", "broken", "reset"])
def test_how_a_session_may_end(stage: Stage, end: str):
    """The driver drives away or shows the card again, the station breaks down or is reset: COMPLETED, with a CDR."""
    session_id = stage.charge()
    stage.wait(600)
    if end == "unplugged":
        stage.unplug()
    elif end == "card":
        stage.present()
    elif end == "broken":
        stage.break_down()
    else:
        stage.succeeds("locations", "reset-evse", {"location_id": LOCATION, "evse_uid": E1})

    assert stage.objects["sessions"][session_id]["status"] == "COMPLETED"
    stage.wait(10)
    assert stage.newest("cdrs")["session_id"] == session_id
    assert not stage.cpo.state.sessions


def test_the_cdr_adds_up(stage: Stage):
    """Parts are the whole: periods, energy, time, costs; it is for the token's issuer, at its place, to its end."""
    stage.charge(asker=OTHER)
    stage.wait(1234.567)
    stage.unplug()
    ended = stage.later(0)
    session = stage.newest("sessions")
    stage.wait(10)

    cdr = stage.newest("cdrs")
    energy, time = (
        sum(
            each["volume"]
            for period in cdr["charging_periods"]
            for each in period["dimensions"]
            if each["type"] == name
        )
        for name in ("ENERGY", "TIME")
    )
    assert (cdr["total_energy"], cdr["total_time"]) == (energy, time)
    assert (cdr["total_energy"], cdr["total_cost"]) == (session["energy"], session["total_cost"])
    assert time == Decimal("0.342935")  # 1234.567 s
    cost = costs(stage.objects["tariffs"][cdr["tariff_id"]], energy_kwh=energy, hours=time)
    assert cdr["total_cost"] == cost.total
    parts = (cdr["total_fixed_cost"], cdr["total_energy_cost"])
    assert cdr["total_cost"]["before_taxes"] == sum(each["before_taxes"] for each in parts)
    assert cdr["cdr_token"] == session["cdr_token"]
    assert cdr["cdr_token"]["party_id"] == OTHER
    assert (cdr["start_date_time"], cdr["end_date_time"]) == (session["start_date_time"], ended)
    place = stage.objects["locations"][LOCATION]
    assert (cdr["cdr_location"]["id"], cdr["cdr_location"]["name"]) == (LOCATION, place["name"])
    assert cdr["cdr_location"]["address"] == place["address"]
    evse = place["charging_pool"][0]["evses"][0]
    assert cdr["cdr_location"]["connector"]["evse_id"] == evse["evse_id"]


def test_no_empty_period(stage: Stage):
    """A session that ends just when a charging period does has no empty one after it."""
    stage.charge()
    stage.wait(900)
    assert len(stage.session().periods) == 2
    stage.unplug()
    stage.wait(10)

    assert len(stage.newest("cdrs")["charging_periods"]) == 1


def test_another_tariff():
    """Costs follow a Tariff that is given; one that cannot be counted by is refused."""
    tariff = {
        "currency": "NOK",
        "elements": [{"price_components": [{"type": "TIME", "price": Decimal("60.0")}]}],
        "last_updated": "2026-01-01T00:00:00Z",
    }
    written = json.dumps(tariff, default=float).encode()
    stage = Stage(pace=STEADY, tariff=written)
    stage.charge()
    stage.wait(3600)
    assert stage.newest("sessions")["total_cost"] == {"before_taxes": 60}
    # Nothing is due for a reservation that has no price.
    stage.reserve(evse_uid=E2, seconds=60)
    stage.wait(60)
    assert [each["status"] for each in stage.published("sessions") if each["connector"]["evse_uid"] == E2] == [
        "INVALID"
    ]

    nights = tariff | {
        "elements": [{"price_components": [{"type": "TIME", "price": 1}], "restrictions": {"start_time": "23:00"}}]
    }
    with pytest.raises(ValueError, match="always hold"):
        Stage(tariff=json.dumps(nights).encode())


# -- messages, disputes ---------------------------------------------------------------------------------------


@pytest.mark.requirement("R.07.07.04")
def test_a_message_on_the_station(stage: Stage):
    """The station shows it, for the party whose driver charges; SUCCESS with nothing more."""
    session_id = stage.charge()
    request = {"session_id": session_id, "messages": [{"language": "nl", "text": "Hallo ⚡"}]}

    stage.succeeds("sessions", "send-station-message", request)

    assert stage.session().message == request["messages"]
    assert stage.refused("sessions", "send-station-message", request, asker=OTHER) == "REJECTED"
    stage.online(is_online=False)
    assert stage.hindered("sessions", "send-station-message", request) == ("REJECTED", "DEVICE_OFFLINE")


@pytest.mark.requirement("R.07.06.04")
def test_a_message_to_the_driver(stage: Stage):
    """The CPO has something to say to a driver: a SendDriverMessageRequest to the eMSP."""
    session_id = stage.charge()
    effects = stage.cpo.message_driver(session_id, [{"language": "en", "text": "Come back"}], now=stage.now)

    (message,) = effects
    assert isinstance(message, Ask)
    assert (message.to, message.module, message.operation) == (EMSP, "sessions", "send-driver-message")
    assert json.loads(message.payload) == {
        "session_id": session_id,
        "messages": [{"language": "en", "text": "Come back"}],
    }
    with pytest.raises(NotPossible):
        stage.cpo.message_driver("NONE", [], now=stage.now)


def test_how_many_cdrs_are_remembered(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    """The last so many can be disputed; an older one is not known any more."""
    monkeypatch.setattr(billing, "CDRS_MAX", 2)
    for _ in range(3):
        stage.charge()
        stage.unplug()
        stage.wait(10)
    oldest, *others = stage.objects["cdrs"]

    for cdr_id in others:
        stage.ask("cdrs", "dispute", {"cdr_id": cdr_id, "reason": "too dear"})
        assert stage.data() == {}
    stage.ask("cdrs", "dispute", {"cdr_id": oldest, "reason": "too dear"})
    assert stage.of(Refuse)


@pytest.mark.requirement("R.08.03.05")
def test_a_dispute(stage: Stage):
    """A CDR is disputed by the party that it was issued to: an object without fields, and the reason is kept."""
    stage.charge()
    stage.wait(60)
    stage.unplug()
    stage.wait(10)
    (cdr_id,) = stage.objects["cdrs"]
    request = {"cdr_id": cdr_id.lower(), "reason": "too dear"}

    stage.ask("cdrs", "dispute", request, asker=OTHER)
    (refused,) = stage.of(Refuse)
    assert refused.status_code == 2000
    stage.ask("cdrs", "dispute", request)

    assert stage.data() == {}
    assert [each.reason for each in stage.cpo.state.cdrs.values()] == ["too dear"]
    assert len(stage.objects["cdrs"]) == 1
