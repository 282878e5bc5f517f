"""What the meters of the simulated CPO say: energy that grows, and MeterSamples of what is drawn (13.01)."""

from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal
from typing import Any

from engine.backoffice.simulated.regulation import (
    TENTH,
    applying,
    connector_at,
    energy_kwh,
    hungry,
    power_at,
)
from engine.backoffice.simulated.state import Charging, Connector, Profile, ProfileKind
from engine.backoffice.simulated.world import World
from engine.protocol.scalars import date_time
from engine.samples.chances import without_none


def count(world: World, until: float) -> None:
    """Count what every car has taken until then. To be done before anything changes by which it takes more or less."""
    sharing = hungry(world)
    counted = {each.id: energy_kwh(world, each, until, sharing) for each in world.active()}
    for session in world.active():
        session.energy_kwh = counted[session.id]
        session.metered_at = until


def look(world: World) -> None:
    """See what every car takes now."""
    sharing = hungry(world)
    for session in world.active():
        session.power_w = power_at(world, session, world.now, sharing) if session.id in sharing else Decimal(0)


def publish_samples(world: World, session: Charging) -> None:
    """Issue what is measured at a session, and at the EVSEs that share a charging profile with it.

    Each of them is one object that is issued again and again: who regulates wants to know what is, and the samples of
    years would have no end.
    """
    look(world)
    profiles = applying(world, session)
    newest = max(profiles, key=lambda each: each.set_at, default=None)
    if session.sample_id is not None:
        sample = {
            "timestamp": date_time(world.now),
            "evse_id": session.evse_uid,
            "session_id": session.id,
            "charging_profile_id": newest and newest.id,
            "readings": [*_readings(session.power_w, connector_at(world, session))],
        }
        world.publish("meterreadings", session.sample_id, without_none(sample))
    for profile in profiles:
        if profile.kind is ProfileKind.EVSES:
            _publish_group(world, profile)


def _publish_group(world: World, profile: Profile) -> None:
    together = [each.power_w for each in world.active() if each.evse_uid.lower() in profile.evse_uids]
    reading = _reading("POWER", "W", sum(together, Decimal(0)), level="GROUP")
    sample = {"timestamp": date_time(world.now), "charging_profile_id": profile.id, "readings": [reading]}
    world.publish("meterreadings", profile.sample_id, sample)


def _readings(power_w: Decimal, connector: Connector) -> Iterable[dict[str, Any]]:
    yield _reading("POWER", "W", power_w)
    current = power_w / max(connector.voltage * connector.phases, 1)
    if connector.is_dc:
        yield _reading("CURRENT", "A", current)
        return
    for phase in range(1, connector.phases + 1):
        yield _reading("CURRENT", "A", current, phase=f"L{phase}")


def _reading(
    measurand: str, unit: str, value: Decimal, *, level: str = "EVSE", phase: str | None = None
) -> dict[str, Any]:
    return without_none(
        {
            "value": value.quantize(TENTH, ROUND_DOWN),
            "measurand": measurand,
            "unit": unit,
            "component_level": level,
            "location": "OUTLET",
            "phase": phase,
        }
    )
