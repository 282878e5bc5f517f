"""How much power a session gets: the least of what its connector gives and what all limits allow (chapter 13).

Limits come from charging profiles and from what the driver prefers. Everything here only looks; amounts are exact.
"""

from collections.abc import Collection, Iterable, Sequence
from decimal import ROUND_DOWN, Decimal
from typing import Any, Final

from engine.backoffice.simulated.state import Charging, Connector, Limit, Profile, ProfileKind
from engine.backoffice.simulated.world import World, connector_of
from engine.protocol.scalars import date_time
from engine.samples.chances import without_none

PHASES_DEFAULT: Final = 3  # 13.6.5, where numberPhases is left out
TENTH: Final = Decimal("0.1")  # limits have one decimal (13.6.5)
_WATT_MILLISECONDS_PER_KWH: Final = Decimal(3_600_000_000)


# -- what a connector and a car can do ------------------------------------------------------------------------


def connector_at(world: World, session: Charging) -> Connector:
    """Return the connector of a session."""
    evse = world.place(session.evse_uid).evse
    return connector_of(evse, session.connector_id) or evse.connectors[0]


def target_kwh(world: World, session: Charging) -> Decimal | None:
    """Return how much the car of a session takes, or may take, at most."""
    plug = world.place(session.evse_uid).evse.plug
    known = (None if plug is None else plug.need_kwh, session.energy_max_kwh)
    return min((each for each in known if each is not None), default=None)


def is_full(world: World, session: Charging) -> bool:
    """Tell whether the car takes nothing more."""
    target = target_kwh(world, session)
    return target is not None and session.energy_kwh >= target


def hungry(world: World) -> set[str]:
    """Return the ids of the sessions whose cars take power."""
    return {each.id for each in world.active() if not is_full(world, each)}


# -- what profiles allow --------------------------------------------------------------------------------------


def applying(world: World, session: Charging) -> list[Profile]:
    """Return the charging profiles that a session has to follow."""
    return [each for each in world.state.profiles if _applies(each, session)]


def _applies(profile: Profile, session: Charging) -> bool:
    if profile.is_over:
        return False
    if profile.kind is ProfileKind.SESSION:
        return profile.session_id == session.id
    if session.evse_uid.lower() not in profile.evse_uids:
        return False
    begun = session.arrived_at or session.created_at
    return profile.kind is ProfileKind.EVSES or begun >= profile.set_at


def limit_at(profile: Profile, begins_at: float, at: float) -> Limit | None:
    """Return the limit of a profile at a moment; None if it has none then."""
    passed_s = round(at - (begins_at if profile.starts_at is None else profile.starts_at), 3)
    if passed_s < 0 or (profile.lasts_s is not None and passed_s >= profile.lasts_s):
        return None
    return max(
        (each for each in profile.limits if each.begins_s <= passed_s), key=lambda each: each.begins_s, default=None
    )


def edges(profile: Profile, begins_at: float) -> list[float]:
    """Return the moments at which the limit of a profile may change."""
    start = begins_at if profile.starts_at is None else profile.starts_at
    after_s = [
        0.0,
        *(each.begins_s for each in profile.limits),
        *([] if profile.lasts_s is None else [profile.lasts_s]),
    ]
    return [round(start + each, 3) for each in after_s]


def watts(limit: Decimal, unit: str, connector: Connector, phases: int | None = None) -> Decimal:
    """Turn a limit into watts at a connector. Amperes count for each phase that may be used."""
    used = connector.phases if connector.is_dc else min(phases or PHASES_DEFAULT, connector.phases)
    most = Decimal(connector.voltage * connector.amperage * used)
    return min(limit if unit == "W" else limit * connector.voltage * used, most, Decimal(connector.power_max_w))


def in_unit(power_w: Decimal, unit: str, connector: Connector) -> Decimal:
    """Turn watts at a connector into the unit of a profile, rounded down to its one decimal."""
    per_ampere = max(connector.voltage * connector.phases, 1)
    return (power_w if unit == "W" else power_w / per_ampere).quantize(TENTH, ROUND_DOWN)


def power_at(world: World, session: Charging, at: float, sharing: Collection[str]) -> Decimal:
    """Return the watts that a session may draw at a moment (R.13.02.06, R.13.03.05, R.13.04.05).

    ``sharing``: ids of the sessions that draw power; those under the same profile for EVSEs share its limit evenly.
    """
    connector = connector_at(world, session)
    allowed = Decimal(connector.power_max_w)
    if session.preferred_w is not None:
        allowed = min(allowed, session.preferred_w)
    for profile in applying(world, session):
        limit = limit_at(profile, session.began_at or at, at)
        if limit is None:
            continue
        rate = limit.limit
        if profile.kind is ProfileKind.EVSES:
            drawing = [each for each in world.active() if each.id in sharing and _applies(profile, each)]
            rate = (rate / max(len(drawing), 1)).quantize(TENTH, ROUND_DOWN)
        if profile.rate_min is not None and rate < profile.rate_min:
            rate = Decimal(0)
        allowed = min(allowed, watts(rate, profile.unit, connector, limit.phases))
    return allowed


def energy_kwh(world: World, session: Charging, until: float, sharing: Collection[str]) -> Decimal:
    """Return how much a session will have charged by then, from what it had when it was last counted."""
    counted, at = session.energy_kwh, session.metered_at
    begins_at = session.began_at or at
    changes = {edge for profile in applying(world, session) for edge in edges(profile, begins_at) if at < edge < until}
    for change in [*sorted(changes), until]:
        power = power_at(world, session, at, sharing) if session.id in sharing else Decimal(0)
        counted += power * round((change - at) * 1000) / _WATT_MILLISECONDS_PER_KWH
        at = change
    target = target_kwh(world, session)
    return counted if target is None else max(session.energy_kwh, min(counted, target))


# -- what will be made of them --------------------------------------------------------------------------------


def plan_of_session(
    world: World, session: Charging, *, unit: str, profile_id: str, duration_s: int | None
) -> dict[str, Any]:
    """Write what a session is going to do as a ChargingProfile that begins now (13.6.4)."""
    connector = connector_at(world, session)
    begins_at = session.began_at or world.now
    sharing = hungry(world) | {session.id}
    changes = [edge for profile in applying(world, session) for edge in edges(profile, begins_at)]
    steps = [
        (at, in_unit(power_at(world, session, at, sharing), unit, connector))
        for at in _moments(world.now, changes, duration_s)
    ]
    return _plan(world.now, steps, unit=unit, profile_id=profile_id, duration_s=duration_s)


def plan_of_profile(world: World, profile: Profile, duration_s: int) -> dict[str, Any]:
    """Write what is made of a profile for EVSEs, or of one that is over, as a ChargingProfile that begins now.

    Where it limits nothing, that is what the EVSEs can give (R.13.05.05): all of them together if the profile is for
    all of them together, else the strongest of them.
    """
    found = [place.evse for uid in profile.evse_uids if (place := world.find(uid)) is not None]
    strongest = [max(evse.connectors, key=lambda each: each.power_max_w) for evse in found]
    each_can = [in_unit(Decimal(each.power_max_w), profile.unit, each) for each in strongest]
    most = sum(each_can, Decimal(0)) if profile.kind is ProfileKind.EVSES else max(each_can, default=Decimal(0))
    begins_at = world.now
    changes = [] if profile.is_over else edges(profile, begins_at)
    steps: list[tuple[float, Decimal]] = []
    for at in _moments(world.now, changes, duration_s):
        limit = None if profile.is_over else limit_at(profile, begins_at, at)
        steps.append((at, most if limit is None else min(limit.limit.quantize(TENTH, ROUND_DOWN), most)))
    return _plan(world.now, steps, unit=profile.unit, profile_id=profile.id, duration_s=duration_s)


def _moments(now: float, changes: Iterable[float], duration_s: int | None) -> list[float]:
    return [now, *sorted({each for each in changes if each > now and (duration_s is None or each - now < duration_s)})]


def _plan(
    now: float, steps: Sequence[tuple[float, Decimal]], *, unit: str, profile_id: str, duration_s: int | None
) -> dict[str, Any]:
    limits: dict[int, Decimal] = {}
    for at, limit in steps:
        limits[int(at - now)] = limit
    periods: list[dict[str, Any]] = []
    for start, limit in limits.items():
        if not periods or periods[-1]["limit"] != limit:
            periods.append({"start_period": start, "limit": limit})
    return without_none(
        {
            "id": profile_id,
            "start_date_time": date_time(now),
            "duration": duration_s,
            "charging_rate_unit": unit,
            "charging_profile_period": periods,
        }
    )
