"""What a driver prefers while the car charges (07.04). Who wants it cheap gets it slow: just in time."""

from decimal import ROUND_UP, Decimal
from typing import Final

from engine.backoffice.simulated import commands, notices
from engine.backoffice.simulated.handlers import Synchronous
from engine.backoffice.simulated.regulation import TENTH, connector_at
from engine.backoffice.simulated.state import Accepted, Charging
from engine.backoffice.simulated.world import ENERGY_MAX_KWH, World, bounded, can, hours_between
from engine.protocol.modules.locations import Capability
from engine.protocol.modules.sessions import ChargingPreferences, ChargingPreferencesResponse
from engine.protocol.modules.shared_types import ProfileType
from engine.protocol.scalars import moment
from engine.samples.chances import encode

_WATTS: Final = 1000  # in a kilowatt


def _change(world: World, call: Accepted, request: ChargingPreferences) -> bytes:
    session = commands.own(world, call, request.session_id)
    answer = _objection(world, session, request)
    if answer is None:
        answer = ChargingPreferencesResponse.ACCEPTED
        before, session.preferred_w = session.preferred_w, _power(world, session, request)
        if session.preferred_w != before:
            notices.notify_profile(world, session)
    return encode(answer)


def _objection(world: World, session: Charging, request: ChargingPreferences) -> ChargingPreferencesResponse | None:
    if not can(world.place(session.evse_uid).station, Capability.CHARGING_PREFERENCES_CAPABLE):
        return ChargingPreferencesResponse.CHARGING_PREFERENCES_NOT_SUPPORTED
    if request.profile_type == ProfileType.GREEN:  # there is no Tariff for it (7.4.1)
        return ChargingPreferencesResponse.PROFILE_TYPE_NOT_SUPPORTED
    if request.profile_type == ProfileType.CHEAP and request.departure_time is None:
        return ChargingPreferencesResponse.DEPARTURE_REQUIRED
    if request.profile_type == ProfileType.CHEAP and request.energy_need is None:
        return ChargingPreferencesResponse.ENERGY_NEED_REQUIRED
    if request.departure_time is not None:
        if moment(request.departure_time) <= world.now:
            return ChargingPreferencesResponse.NOT_POSSIBLE
        if request.energy_need is not None and _needed_w(world, session, request) > _most_w(world, session):
            return ChargingPreferencesResponse.NOT_POSSIBLE
    return None


def _power(world: World, session: Charging, request: ChargingPreferences) -> Decimal | None:
    """Return the power that will do; None: as much as there is."""
    if request.profile_type != ProfileType.CHEAP:
        return None
    return min(_needed_w(world, session, request).quantize(TENTH, ROUND_UP), _most_w(world, session))


def _needed_w(world: World, session: Charging, request: ChargingPreferences) -> Decimal:
    if request.energy_need is None or request.departure_time is None:
        return Decimal(0)
    missing = bounded(Decimal(request.energy_need), ENERGY_MAX_KWH) - session.energy_kwh
    if missing <= 0:
        return Decimal(0)
    return missing * _WATTS / hours_between(world.now, round(moment(request.departure_time), 3))


def _most_w(world: World, session: Charging) -> Decimal:
    return Decimal(connector_at(world, session).power_max_w)


CHANGE: Final = Synchronous(_change)
"""07.04: Answered at once. There are Tariffs for CHEAP, FAST and REGULAR."""
