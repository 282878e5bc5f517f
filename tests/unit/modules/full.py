"""Payloads in which every row of every table is filled in, and a walk over what stands where."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from engine.protocol.json_text import pointer
from engine.protocol.modules.classes import OcpiClass
from engine.protocol.modules.explain import ListOf, Row, Table, table_of

Place = tuple[str | int, ...]

IMAGE: dict[str, Any] = {
    "url": "https://img.example/1.jpeg",
    "thumbnail": "https://img.example/1s.jpeg",
    "category": "OPERATOR",
    "type": "jpeg",
    "width": 512,
    "height": 512,
}
BUSINESS: dict[str, Any] = {
    "name": "Stroom & Co.",
    "website": "https://stroom.example",
    "logo": IMAGE,
    "technical_contact": {"name": "NOC", "email": "noc@stroom.example", "telephone": "+32 2 000 00 00"},
}
POINT: dict[str, Any] = {"latitude": "51.047599", "longitude": "3.729944"}
TEXT: dict[str, Any] = {"language": "nl", "text": "Achter de slagboom links 🔌"}
PERIOD: dict[str, Any] = {"period_begin": "2026-12-25T03:00:00Z", "period_end": "2026-12-25T05:00:00.5Z"}

LOCATION: dict[str, Any] = {
    "publish": False,
    "publish_allowed_to": [
        {"uid": "0123456789", "type": "RFID", "visual_number": "BE-1", "issuer": "Stroom", "group_id": "G1"}
    ],
    "name": "Gent Zuid",
    "address": {
        "address": "Rooseveltlaan 3A",
        "city": "Gent",
        "postal_code": "9000",
        "state": "Oost-Vlaanderen",
        "country": "BEL",
        "coordinates": POINT,
    },
    "related_locations": [{**POINT, "name": TEXT}],
    "parking_type": "ON_STREET",
    "charging_pool": [
        {
            "id": "S1",
            "evses": [
                {
                    "uid": "E1",
                    "evse_id": "BE*BEC*E041503001",
                    "presence": "PRESENT",
                    "status_schedule": [{**PERIOD, "status": "RESERVED"}],
                    "connectors": [
                        {
                            "id": "1",
                            "standard": "IEC_62196_T2",
                            "format": "CABLE",
                            "cable_length": 400,
                            "power_type": "AC_3_PHASE",
                            "max_voltage": 230,
                            "max_amperage": 32,
                            "max_electric_power": 22000,
                            "terms_and_conditions": "https://stroom.example/terms",
                            "capabilities": ["IEC_15118_20_PLUG_AND_CHARGE"],
                            "last_updated": "2026-01-01T00:00:00.000Z",
                        }
                    ],
                    "physical_reference": "A",
                    "parking": {
                        "vehicle_types": ["TRUCK"],
                        "max_vehicle_weight": 44000,
                        "max_vehicle_height": 400.5,
                        "max_vehicle_length": 1875,
                        "max_vehicle_width": 255,
                        "parking_bay_length": 2500,
                        "parking_bay_width": 400,
                        "dangerous_goods_allowed": False,
                        "evse_position": "LEFT",
                        "direction": "DRIVE_THROUGH",
                        "restricted_to_type": True,
                        "parking_restrictions": [{"group": ["EV_ONLY"], "applies_outside_opening_hours": True}],
                        "reservation_required": False,
                        "time_limit": 90,
                        "roofed": True,
                        "images": [IMAGE],
                        "lighting": True,
                        "standards": ["PAS 1899:2022"],
                    },
                    "images": [IMAGE],
                    "calibration_info_url": "https://meters.example/E1",
                    "last_updated": "2026-01-01T00:00:00.0Z",
                }
            ],
            "capabilities": ["RESERVABLE"],
            "floor_level": "-1",
            "coordinates": POINT,
            "physical_reference": "№ 7",
            "directions": [TEXT],
            "images": [IMAGE],
            "last_updated": "2026-01-01T00:00:00Z",
        }
    ],
    "directions": [TEXT],
    "operator": BUSINESS,
    "suboperator": BUSINESS,
    "owner": BUSINESS,
    "services": ["WIFI"],
    "facilities": ["HOTEL"],
    "time_zone": "Europe/Brussels",
    "opening_times": {
        "twentyfourseven": False,
        "regular_hours": [{"weekday": 1, "period_begin": "07:00", "period_end": "18:00"}],
        "exceptional_openings": [PERIOD],
        "exceptional_closings": [PERIOD],
    },
    "charging_when_closed": True,
    "images": [IMAGE],
    "energy_mix": {
        "is_green_energy": True,
        "energy_sources": [{"source": "WIND", "percentage": 100}],
        "environ_impact": [{"category": "CARBON_DIOXIDE", "amount": 0.1}],
        "supplier_name": "Gröna Vågor",
        "energy_product_name": "100 % zon",
    },
    "max_power": {"unit": "A", "value": 63.5},
    "help_phone": "+3220000000",
    "last_updated": "2026-01-01T00:00:00Z",
}

STATUS: dict[str, Any] = {"status": "CHARGING", "timestamp": "2026-01-01T00:00:00Z"}

TARIFF: dict[str, Any] = {"currency": "EUR", "elements": [{}], "last_updated": "2026-01-01T00:00:00Z"}

ASSOCIATION: dict[str, Any] = {
    "start_date_time": "2026-01-01T00:00:00Z",
    "tariff_id": "T1",
    "connectors": [{"evse_uid": "E1", "connector_id": "1"}],
    "audience": "REGULAR",
    "last_updated": "2026-01-01T00:00:00Z",
}

# Written and read again, so that what stands twice in it can be changed in one place.
FULL: dict[str, dict[str, Any]] = json.loads(
    json.dumps({"locations": LOCATION, "evsestatuses": STATUS, "tariffs": TARIFF, "tariffassociations": ASSOCIATION})
)


def written(value: object) -> bytes:
    """Write a payload."""
    return json.dumps(value).encode()


def every_row(table: type[OcpiClass], value: dict[str, Any]) -> list[tuple[Place, Row]]:
    """Return each row of each table of a full payload once, with where a value of it stands."""
    return list({id(row): (place, row) for place, row in rows(table, value)}.values())


def rows(table: type[OcpiClass], value: dict[str, Any], *place: str | int) -> Iterator[tuple[Place, Row]]:
    """Walk over all rows of a full payload, with where their values stand."""
    for row in table_of(table).rows:
        here = (*place, row.name)
        yield here, row
        inner = value[row.name]
        if isinstance(inner, list):
            here, inner = (*here, 0), inner[0]
        kind = row.kind.items if isinstance(row.kind, ListOf) else row.kind
        if isinstance(kind, Table):
            yield from rows(kind.table, inner, *here)


def put(payload: dict[str, Any], place: Place, value: object) -> dict[str, Any]:
    """Return the payload with another value at this place."""
    changed = copy.deepcopy(payload)
    inner: Any = changed
    for token in place[:-1]:
        inner = inner[token]
    inner[place[-1]] = value
    return changed


def drop(payload: dict[str, Any], place: Place) -> dict[str, Any]:
    """Return the payload without what stands at this place."""
    changed = copy.deepcopy(payload)
    inner: Any = changed
    for token in place[:-1]:
        inner = inner[token]
    del inner[place[-1]]
    return changed


def at(place: Place) -> str:
    """Write a place as a JSON Pointer."""
    return pointer(*place)
