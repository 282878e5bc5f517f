"""Charging profiles at the simulated CPO: set, looked at and cleared (13.02 to 13.06).

A profile of a party takes the place of an earlier one of that party for the same thing, EVSE by EVSE. Of profiles of
several parties, and of several kinds, the lowest limit counts.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from engine.backoffice.simulated import metering, notices, sessions
from engine.backoffice.simulated.handlers import Asynchronous, Hindered, NotSupported, Rejected
from engine.backoffice.simulated.regulation import plan_of_profile, plan_of_session
from engine.backoffice.simulated.state import Accepted, Charging, Limit, Profile, ProfileKind
from engine.backoffice.simulated.world import LIVE, Place, World, bounded, can, is_same, last_of, without_case
from engine.protocol.modules.locations import Capability
from engine.protocol.modules.power_regulation import (
    ChargingProfile,
    ClearChargingProfileRequest,
    GetActiveChargingProfileRequest,
    RegulationError,
    SetChargingProfileOnEvsesRequest,
    SetChargingProfileOnSessionRequest,
)
from engine.protocol.scalars import date_time, moment
from engine.samples.chances import encode

PROFILES_MAX: Final = 1_000
"""Profiles that are remembered, those that are over included; more are refused as long as all of them are followed."""
PARTIES_MAX: Final = 1_000
"""Parties of which is remembered when they last set one."""
LIMIT_MAX: Final = Decimal(1_000_000_000)
"""A higher limit is none: it is a gigawatt."""
SECONDS_MAX: Final = 10 * 366 * 86_400
"""Nothing here plans further than ten years ahead."""
PHASES_MAX: Final = 3


# -- for EVSEs ------------------------------------------------------------------------------------------------


def _check_evses(world: World, call: Accepted, request: SetChargingProfileOnEvsesRequest) -> None:
    _check_able(world, call, _places(world, call, request.evses), request.charging_profile)
    _check_pace(world, call)


def _set_on_evses(world: World, call: Accepted, request: SetChargingProfileOnEvsesRequest) -> None:
    _set_for(ProfileKind.EVSES, world, call, request)


def _set_default(world: World, call: Accepted, request: SetChargingProfileOnEvsesRequest) -> None:
    _set_for(ProfileKind.DEFAULT, world, call, request)


def _set_for(kind: ProfileKind, world: World, call: Accepted, request: SetChargingProfileOnEvsesRequest) -> None:
    places = _places(world, call, request.evses)
    _check_able(world, call, places, request.charging_profile)
    uids = sorted(without_case(place.evse.uid for place in places))
    for profile in world.state.profiles:
        if profile.party_id == call.asker and profile.kind is kind and not profile.is_over:
            # One that is over keeps its EVSEs, for whoever asks about it.
            left = [uid for uid in profile.evse_uids if uid not in uids]
            profile.is_over = not left
            profile.evse_uids = left or profile.evse_uids
    if request.charging_profile is not None:
        _remember(world, call, request.charging_profile, kind=kind, evse_uids=uids)
    if kind is ProfileKind.EVSES:
        _tell(world, [each for each in world.active() if each.evse_uid.lower() in uids])


def _places(world: World, call: Accepted, evse_uids: Iterable[str]) -> list[Place]:
    """Return the EVSEs that somebody who may regulate them names."""
    if world.state.regulators is not None and call.asker not in world.state.regulators:
        raise Rejected(f"{call.asker} does not regulate EVSEs here")
    places = []
    for uid in evse_uids:
        if (place := world.find(uid)) is None:
            raise Hindered(RegulationError.UNKNOWN_EVSE, f"there is no EVSE {uid}")
        places.append(place)
    return places


SET_ON_EVSES: Final = Asynchronous(lambda pace: pace.regulate_s, _check_evses, _set_on_evses)
"""13.02: All charging at these EVSEs together stays below the limit. Without a profile the earlier one is removed."""
SET_DEFAULT: Final = Asynchronous(lambda pace: pace.regulate_s, _check_evses, _set_default)
"""13.04: Each session that begins there later stays below the limit. Without a profile the earlier one is removed."""


# -- for a session --------------------------------------------------------------------------------------------


def _check_session(world: World, call: Accepted, request: SetChargingProfileOnSessionRequest) -> None:
    session = _session(world, call, request.session_id)
    _check_able(world, call, [world.place(session.evse_uid)], request.charging_profile)
    _check_pace(world, call)


def _set_on_session(world: World, call: Accepted, request: SetChargingProfileOnSessionRequest) -> None:
    session = _session(world, call, request.session_id)
    _check_able(world, call, [world.place(session.evse_uid)], request.charging_profile)
    for profile in world.state.profiles:
        profile.is_over |= profile.party_id == call.asker and profile.session_id == session.id
    uids = [session.evse_uid.lower()]
    _remember(world, call, request.charging_profile, kind=ProfileKind.SESSION, evse_uids=uids, session_id=session.id)
    _tell(world, [session])


def _session(world: World, call: Accepted, session_id: str) -> Charging:
    session = world.session(session_id)
    may = session is not None and call.asker in {session.token.party_id, *(world.state.regulators or ())}
    if session is None or not may or session.status not in LIVE:
        raise Hindered(RegulationError.UNKNOWN_SESSION, f"there is no session {session_id} for {call.asker}")
    return session


SET_ON_SESSION: Final = Asynchronous(lambda pace: pace.regulate_s, _check_session, _set_on_session)
"""13.03: By the party whose driver charges, or one that regulates for the CPO."""


# -- what both need -------------------------------------------------------------------------------------------


def _check_able(world: World, call: Accepted, places: Iterable[Place], wanted: ChargingProfile | None) -> None:
    for place in places:
        if not can(place.station, Capability.CHARGING_PROFILE_CAPABLE):
            raise NotSupported(f"the charging station of EVSE {place.evse.uid} follows no profiles")
        sessions.check_usable(place)
    if wanted is None:
        return
    if any(period.limit < 0 for period in wanted.charging_profile_period or ()):
        raise NotSupported("no car is discharged here")
    known = world.profile(call.asker, wanted.id)
    if known is None and sum(not each.is_over for each in world.state.profiles) >= PROFILES_MAX:
        raise Rejected("too many charging profiles are being followed")


def _check_pace(world: World, call: Accepted) -> None:
    state = world.state
    last = state.regulated_at.pop(call.asker, None)
    if last is not None and world.now - last < world.pace.regulate_every_s:
        state.regulated_at[call.asker] = last
        raise Hindered(RegulationError.TOO_OFTEN, "charging profiles come too often")
    state.regulated_at = last_of(state.regulated_at | {call.asker: world.now}, PARTIES_MAX)


def _remember(
    world: World,
    call: Accepted,
    wanted: ChargingProfile,
    *,
    kind: ProfileKind,
    evse_uids: list[str],
    session_id: str | None = None,
) -> None:
    state = world.state
    limits = {_seconds(each.start_period): each for each in wanted.charging_profile_period or ()}
    profile = Profile(
        party_id=call.asker,
        id=wanted.id,
        kind=kind,
        evse_uids=evse_uids,
        session_id=session_id,
        unit=wanted.charging_rate_unit,
        starts_at=None if wanted.start_date_time is None else round(moment(wanted.start_date_time), 3),
        lasts_s=None if wanted.duration is None else _seconds(wanted.duration),
        rate_min=None if wanted.min_charging_rate is None else _rate(wanted.min_charging_rate),
        limits=[
            Limit(begins_s=begins_s, limit=_rate(limits[begins_s].limit), phases=_phases(limits[begins_s].numberPhases))
            for begins_s in sorted(limits)
        ],
        set_at=world.now,
        sample_id=world.new_id("M"),
    )
    others = [each for each in state.profiles if each.party_id != call.asker or not is_same(each.id, wanted.id)]
    over = [each for each in others if each.is_over]
    forgotten = over[: max(len(others) + 1 - PROFILES_MAX, 0)]
    state.profiles = [*(each for each in others if each not in forgotten), profile]


def _rate(number: float) -> Decimal:
    return bounded(Decimal(number), LIMIT_MAX)


def _seconds(number: int) -> float:
    return float(bounded(Decimal(number), SECONDS_MAX))


def _phases(number: float | None) -> int | None:
    return None if number is None else int(min(max(number, 1), PHASES_MAX))


def _tell(world: World, affected: Iterable[Charging]) -> None:
    """Let eMSPs know how fast their drivers charge now, and who regulates what comes of it."""
    for session in affected:
        notices.notify_profile(world, session)
        metering.publish_samples(world, session)


# -- asked about, and cleared ---------------------------------------------------------------------------------


def _own(world: World, call: Accepted, profile_id: str) -> Profile:
    profile = world.profile(call.asker, profile_id)
    if profile is None:
        raise Rejected(f"{call.asker} set no charging profile {profile_id}")
    for uid in profile.evse_uids:
        sessions.check_online(world.place(uid))
    return profile


def _check_active(world: World, call: Accepted, request: GetActiveChargingProfileRequest) -> None:
    _own(world, call, request.charging_profile_id)


def _active(world: World, call: Accepted, request: GetActiveChargingProfileRequest) -> bytes:
    profile = _own(world, call, request.charging_profile_id)
    session = None if profile.session_id is None or profile.is_over else world.session(profile.session_id)
    duration_s = int(_seconds(request.duration))
    plan: dict[str, Any]
    if session is None:
        plan = plan_of_profile(world, profile, duration_s)
    else:
        plan = plan_of_session(world, session, unit=profile.unit, profile_id=profile.id, duration_s=duration_s)
    return encode({"start_date_time": date_time(world.now), "charging_profile": plan})


GET_ACTIVE: Final = Asynchronous(lambda pace: pace.regulate_s, _check_active, _active)
"""13.05: What is made of a profile, together with all other limits of its session."""


def _check_clear(world: World, call: Accepted, request: ClearChargingProfileRequest) -> None:
    _own(world, call, request.charging_profile_id)


def _clear(world: World, call: Accepted, request: ClearChargingProfileRequest) -> None:
    profile = _own(world, call, request.charging_profile_id)
    if profile.is_over:
        return
    affected = [each for each in world.active() if _regards(profile, each)]
    profile.is_over = True
    _tell(world, affected)


def _regards(profile: Profile, session: Charging) -> bool:
    if profile.session_id is not None:
        return profile.session_id == session.id
    return session.evse_uid.lower() in profile.evse_uids


CLEAR: Final = Asynchronous(lambda pace: pace.regulate_s, _check_clear, _clear)
"""13.06: What is over already is cleared."""
