"""Chapter 5: what the text around the tables demands of several fields together, pictures, and the calls."""

from typing import Any

import msgspec
import pytest

from engine.protocol.modules import SchemaViolation
from engine.protocol.modules.bodies import AsyncResponse
from engine.protocol.modules.check import accept
from engine.protocol.modules.locations import (
    ChargingStationCommandError,
    Location,
    ReservationError,
    ReserveNowRequest,
)
from tests.support.independent import objections
from tests.unit.modules.full import FULL, REQUESTS, Place, drop, put, written
from tests.unit.modules.test_accept import found, locations, warned

LOCATION = FULL["locations"]
HOURS: Place = ("opening_times", "regular_hours")
POOL = "charging_pool"
EVSE = LOCATION[POOL][0]["evses"][0]
CONNECTOR = EVSE["connectors"][0]


def hours(*periods: tuple[int, str, str]) -> dict[str, Any]:
    """Return a Location with these regular hours."""
    named = [{"weekday": day, "period_begin": begin, "period_end": end} for day, begin, end in periods]
    return put(LOCATION, HOURS, named)


def test_hidden_and_public():
    """Tokens are named only for a hidden Location, and only a hidden one may do without an address."""
    public = put(LOCATION, ("publish",), True)

    assert found(locations, public) == ["/publish_allowed_to"]
    assert locations.accept(written(drop(public, ("publish_allowed_to",)))) == ()
    assert locations.accept(written(put(public, ("publish_allowed_to",), []))) == ()
    assert locations.accept(written(drop(LOCATION, ("address",)))) == ()

    nowhere = drop(drop(public, ("publish_allowed_to",)), ("address",))
    assert found(locations, nowhere) == ["/address"]
    assert warned(locations, nowhere) == ["/address"]


@pytest.mark.parametrize(
    ("token", "missing"),
    [
        ({"uid": "1", "type": "RFID"}, None),
        ({"visual_number": "1", "issuer": "Stroom"}, None),
        ({"group_id": "1"}, None),
        ({}, ""),
        ({"type": "RFID", "issuer": "Stroom"}, ""),
        ({"uid": "1"}, "/type"),
        ({"visual_number": "1", "group_id": "1"}, "/issuer"),
        ({"uid": "1", "type": None}, "/type"),
    ],
)
def test_publish_tokens(token, missing):
    """A token that a Location is shown to is named by one of three fields, each with what belongs to it."""
    location = put(LOCATION, ("publish_allowed_to",), [token])

    if missing is None:
        assert locations.accept(written(location)) == ()
    else:
        assert found(locations, location) == [f"/publish_allowed_to/0{missing}"]
        assert warned(locations, location) == [f"/publish_allowed_to/0{missing}"]


@pytest.mark.parametrize(
    "periods",
    [
        [(1, "07:00", "18:00"), (2, "07:00", "18:00")],
        [(6, "12:00", "00:00"), (7, "00:00", "02:00"), (7, "12:00", "22:00")],
        [(6, "00:00", "00:00")],
        [(1, "07:00", "12:00"), (1, "12:00", "18:00")],
    ],
)
def test_hours(periods):
    """Hours of weekdays may touch, come twice a day, and last until midnight."""
    assert locations.accept(written(hours(*periods))) == ()


@pytest.mark.parametrize(
    ("periods", "pointer"),
    [
        ([(1, "18:00", "07:00")], "/0/period_end"),
        ([(1, "07:00", "07:00")], "/0/period_end"),
        ([(1, "07:00", "12:00"), (1, "11:59", "18:00")], "/1"),
        ([(1, "07:00", "12:00"), (1, "07:00", "12:00")], "/1"),
        ([(1, "07:00", "00:00"), (1, "23:59", "00:00")], "/1"),
        ([(8, "07:00", "18:00")], "/0/weekday"),
        ([(0, "07:00", "18:00")], "/0/weekday"),
        ([(1, "24:00", "00:00")], "/0/period_begin"),
        ([(1, "7:00", "18:00")], "/0/period_begin"),
    ],
)
def test_wrong_hours(periods, pointer):
    """Hours that end before they begin, overlap, or are of no day and no clock are refused, by the tolerant too."""
    assert found(locations, hours(*periods)) == [f"/opening_times/regular_hours{pointer}"]
    assert found(locations, hours(*periods), tolerant=True) == [f"/opening_times/regular_hours{pointer}"]


def test_hours_in_another_order():
    """Hours that are not in the order of the week mean the same: a warning, no refusal; an overlap is still found."""
    warnings = locations.accept(written(hours((3, "07:00", "18:00"), (1, "07:00", "18:00"))))

    assert [str(warning) for warning in warnings] == [
        "/opening_times/regular_hours: expected the order of the week; found another order"
    ]
    assert found(locations, hours((3, "07:00", "18:00"), (1, "07:00", "18:00"), (3, "12:00", "20:00"))) == [
        "/opening_times/regular_hours/2"
    ]


def test_hours_if_needed():
    """Regular hours are there when a Location is not always open, and only then."""
    always = put(LOCATION, ("opening_times", "twentyfourseven"), True)

    assert found(locations, always) == ["/opening_times/regular_hours"]
    assert locations.accept(written(drop(always, HOURS))) == ()
    for without in (drop(LOCATION, HOURS), put(LOCATION, HOURS, []), put(LOCATION, HOURS, None)):
        assert found(locations, without) == ["/opening_times/regular_hours"]
        assert warned(locations, without) == ["/opening_times/regular_hours"]


def test_ids_told_apart():
    """Stations, EVSEs and the connectors of one EVSE have different ids, whatever their case."""
    station = LOCATION[POOL][0]
    twice = put(LOCATION, (POOL,), [station, {**station, "id": station["id"].lower()}])
    assert found(locations, twice) == ["/charging_pool/1/id", "/charging_pool/1/evses/0/uid"]

    connectors = (POOL, 0, "evses", 0, "connectors")
    other = {**CONNECTOR, "id": "2"}
    assert found(locations, put(LOCATION, connectors, [CONNECTOR, other, CONNECTOR])) == [
        "/charging_pool/0/evses/0/connectors/2/id"
    ]
    two = [EVSE, {**EVSE, "uid": "E2"}]
    assert locations.accept(written(put(LOCATION, (POOL, 0, "evses"), two))) == ()


def test_rules_look_only_at_what_is_right():
    """A rule does not complain of what is already wrong in itself, and still sees the rest."""
    location = put(LOCATION, ("publish",), True)
    location = put(location, ("publish_allowed_to",), "everybody")
    location = put(location, ("address",), 7)
    location = put(location, HOURS, [None, {"weekday": "Monday", "period_begin": 7}, {}])
    location = put(location, (POOL,), [{"evses": [{}, {}, None]}, {"evses": 1}, 2])

    with pytest.raises(SchemaViolation) as refused:
        locations.accept(written(location))

    pointers = [problem.pointer for problem in refused.value.problems]
    assert len(pointers) == len(set(pointers))
    assert {"/publish_allowed_to", "/address", "/opening_times/regular_hours/0", "/charging_pool/2"} < set(pointers)
    assert not any("again" in problem.found for problem in refused.value.problems)


@pytest.mark.parametrize(
    "wrong",
    [
        put(LOCATION, ("publish",), True),
        hours((1, "18:00", "07:00")),
        put(LOCATION, ("publish_allowed_to",), [{"uid": "1"}]),
        put(LOCATION, (POOL, 0, "evses"), [EVSE, EVSE]),
    ],
)
def test_rules_hold_at_once(wrong):
    """The quick look at the bytes says no to a broken rule as well, and yes once it is kept."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(written(wrong), type=Location)

    assert msgspec.json.decode(written(LOCATION), type=Location).publish is False


@pytest.mark.parametrize(
    ("kind", "strict", "tolerant"),
    [
        ("jpeg", True, True),
        ("webp", True, True),
        ("png", False, True),
        ("gif", False, True),
        ("x", False, True),
        ("", False, False),
        ("image", False, False),
        ("j g", False, False),
        (7, False, False),
    ],
)
def test_image_type(kind, strict, tolerant):
    """The type of a picture has four characters, as its table says; three, as its text says, are for the tolerant."""
    location = put(LOCATION, ("images", 0, "type"), kind)

    if strict:
        assert locations.accept(written(location)) == ()
    else:
        assert found(locations, location) == ["/images/0/type"]
    if tolerant:
        assert locations.accept(written(location), tolerant=True) == ()
    else:
        assert found(locations, location, tolerant=True) == ["/images/0/type"]


# -- remote procedure calls ---------------------------------------------------------------------------------


@pytest.mark.requirement(
    "R.05.02.02", "R.05.02.03", "R.05.03.02", "R.05.03.03", "R.05.06.02", "R.05.06.03", "R.05.07.02", "R.05.07.03"
)
def test_calls():
    """Chapter 5 has four calls, each with a request of its own, an error, and no result."""
    calls = {call.operation: (call.request.__name__, call.error, call.result) for call in locations.calls}

    assert all(call.asynchronous for call in locations.calls)
    assert calls == {
        "reserve-now": ("ReserveNowRequest", ReservationError, None),
        "cancel-reservation": ("CancelReservationRequest", ReservationError, None),
        "unlock-connector": ("UnlockConnectorRequest", ChargingStationCommandError, None),
        "reset-evse": ("ResetEvseRequest", ChargingStationCommandError, None),
    }


@pytest.mark.requirement("R.05.04.04", "R.05.04.05", "R.05.04.06")
def test_taken_back():
    """Only a reservation may be taken back by who said yes to it: with FAILED, no error, and a text or nothing."""
    assert [call.operation for call in locations.calls if call.revocable] == ["reserve-now"]

    def fits(operation: str, **callback: object) -> bool:
        return not objections(locations.id, f"{operation}.callback", written(callback))

    for more in ({}, {"payload": "Roadworks"}):
        assert fits("reserve-now", result_type="FAILED", **more)
        assert not fits("reserve-now", result_type="REJECTED", **more)
        assert not fits("cancel-reservation", result_type="FAILED", **more)
    assert not fits("reserve-now", result_type="FAILED", payload={"text": "Roadworks"})


def test_reservation_with_a_wrong_token():
    """The Token of a reservation is looked at like any Token."""
    request = REQUESTS["locations.reserve-now"][2]

    assert accept(ReserveNowRequest, written(request)) == ()
    with pytest.raises(SchemaViolation) as refused:
        accept(ReserveNowRequest, written(put(request, ("token", "issuer"), "")))
    assert [problem.pointer for problem in refused.value.problems] == ["/token/issuer"]
    with pytest.raises(SchemaViolation) as refused:
        accept(ReserveNowRequest, written(put(request, ("token", "type"), "EMAID")))
    assert [problem.pointer for problem in refused.value.problems] == ["/token/uid"]


@pytest.mark.parametrize(
    ("shape", "status"), [(ReservationError, "EVSE_OCCUPIED"), (ChargingStationCommandError, "DEVICE_OFFLINE")]
)
def test_errors(shape, status):
    """An error is an object with a status of its own enum (W16), and perhaps a text."""
    text = [{"language": "nl", "text": "Bezet"}]

    assert accept(shape, written({"status": status, "message": text})) == ()
    for wrong in ({"message": text}, {"status": "CANCELLED"}):
        with pytest.raises(SchemaViolation, match="/status"):
            accept(shape, written(wrong))
    assert accept(AsyncResponse, written({"result_type": "REJECTED", "error": {"status": status}})) == ()
