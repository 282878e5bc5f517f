"""The places that the simulated CPO runs: made from Locations, anybody's, or its own if it is given none."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from engine.backoffice.simulated.state import PHASES, Connector, Evse, Site, Station
from engine.backoffice.simulated.world import bounded
from engine.protocol.ids import check_object_id
from engine.protocol.json_text import check_object
from engine.protocol.modules import locations
from engine.protocol.modules.check import read_as
from engine.protocol.modules.locations import EVSE, Capability, ChargingStation, Location, PresenceStatus
from engine.samples import Sample

UNIT_MAX: Final = 100_000
"""Volts and amperes: no connector has more, whatever its Location says."""


class _Addressed(msgspec.Struct):
    address: msgspec.Raw = msgspec.Raw(b"null")


def sites_of(samples: Sequence[Sample]) -> list[Site]:
    """Make the places of these Locations. EVSEs that are REMOVED are not there; PLANNED ones are not in service.

    Raises ``ValueError`` for what is no Location, or an EVSE that stands in two of them.
    """
    sites = [_site(sample) for sample in samples]
    seen: set[str] = set()
    for evse in (evse for site in sites for station in site.stations for evse in station.evses):
        if evse.uid.lower() in seen:
            raise ValueError(f"EVSE {evse.uid} stands in two Locations")
        seen.add(evse.uid.lower())
    return sites


def _site(sample: Sample) -> Site:
    check_object_id(sample.id)
    check_object(sample.payload)
    location: Location = read_as(Location, sample.payload)
    address = bytes(msgspec.json.decode(sample.payload, type=_Addressed).address).decode()
    return Site(
        id=sample.id,
        name=location.name,
        address=None if address == "null" else address,
        stations=[_station(each) for each in location.charging_pool],
    )


def _station(station: ChargingStation) -> Station:
    evses = [each for each in station.evses or () if each.presence != PresenceStatus.REMOVED]
    return Station(
        id=station.id, capabilities=[Capability(each) for each in station.capabilities or ()], evses=[*_evses(evses)]
    )


def _evses(evses: Iterable[EVSE]) -> Iterable[Evse]:
    for evse in evses:
        yield Evse(
            uid=evse.uid,
            # A CDR has to name it (8.5.3), and not every operator gave it that name.
            evse_id=evse.evse_id or evse.uid,
            is_in_service=evse.presence == PresenceStatus.PRESENT,
            connectors=[_connector(each) for each in evse.connectors],
        )


def _connector(connector: locations.Connector) -> Connector:
    voltage, amperage = _unit(connector.max_voltage), _unit(connector.max_amperage)
    most_w = voltage * amperage * PHASES.get(connector.power_type, 1)
    told_w = connector.max_electric_power
    return Connector(
        id=connector.id,
        standard=str(connector.standard),
        format=connector.format,
        power_type=connector.power_type,
        voltage=voltage,
        amperage=amperage,
        power_max_w=most_w if told_w is None else int(bounded(Decimal(told_w), most_w)),
    )


def _unit(number: int) -> int:
    return int(bounded(Decimal(number), UNIT_MAX))
