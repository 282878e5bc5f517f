"""A driver shows a token at a charging station: who decides whether it may charge there (chapter 11).

=================  ==========================================================================
whitelist          Who decides (11.4.7)
=================  ==========================================================================
ALWAYS, ALLOWED    the CPO, by the times of the Token
ALLOWED_OFFLINE    the eMSP; if it does not answer in time, the CPO by the times of the Token
NEVER              the eMSP
not known here     the eMSP, whichever that is
=================  ==========================================================================

A token that its eMSP named in a reservation or a start is not asked about for a while.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from engine.backoffice.simulated import sessions
from engine.backoffice.simulated.effects import Ask
from engine.backoffice.simulated.handlers import Hindered
from engine.backoffice.simulated.state import Question, TokenOf
from engine.backoffice.simulated.world import (
    ENERGY_MAX_KWH,
    NotPossible,
    Place,
    World,
    bounded,
    can,
    token_of,
    whole_seconds_later,
)
from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules.cdrs import AuthMethod
from engine.protocol.modules.locations import Capability
from engine.protocol.modules.sessions import SessionStatus
from engine.protocol.modules.shared_types import TokenType
from engine.protocol.modules.tokens import AllowedType, AuthorizeResponse, Token, WhitelistType
from engine.protocol.scalars import date_time, moment
from engine.samples.chances import encode

YEAR_H: Final = 366 * 24
"""No authorization covers a longer session, whatever it says."""


@dataclass(frozen=True, slots=True)
class Known:
    """A Token as its eMSP issued it."""

    party: PartyId
    version: int
    token: Token


def present(world: World, place: Place, uid: str, type_: str, known: Known | None) -> None:
    """Show a token: it stops its own session, or starts one, perhaps after its eMSP was asked.

    Raises ``NotPossible``.
    """
    evse = place.evse
    if type_ == TokenType.RFID and not can(place.station, Capability.RFID_READER):
        raise NotPossible(f"the charging station of EVSE {evse.uid} reads no cards")
    try:
        sessions.check_usable(place)
    except Hindered as hindrance:
        raise NotPossible(str(hindrance)) from hindrance
    if (session := world.session_at(evse)) is not None:
        if not _may_stop(place, session.token, uid, type_, known):
            raise NotPossible(f"somebody else charges at EVSE {evse.uid}")
        if session.status is SessionStatus.ACTIVE:  # before there is a cable, it is the start once more (R.07.02.09)
            sessions.end(world, session, "Stopped by the driver")
        return
    reservation = world.reservation_at(evse)
    if reservation is not None and not reservation.token.is_same(uid, type_):
        raise NotPossible(f"EVSE {evse.uid} is reserved for somebody else")
    _authorize(world, place, uid, type_, known)


def _may_stop(place: Place, started: TokenOf, uid: str, type_: str, known: Known | None) -> bool:
    if started.is_same(uid, type_):
        return True
    if known is None or not started.group_id or not can(place.station, Capability.TOKEN_GROUP_CAPABLE):
        return False
    return known.party == started.party_id and (known.token.group_id or "").lower() == started.group_id.lower()


def _authorize(world: World, place: Place, uid: str, type_: str, known: Known | None) -> None:
    granted = next(
        (each for each in world.state.grants if each.token.is_same(uid, type_) and place.evse.uid in each.evse_uids),
        None,
    )
    if granted is not None:
        sessions.arrive(
            world,
            place,
            granted.token,
            auth_method=AuthMethod.COMMAND,
            authorization_reference=granted.authorization_reference,
        )
        return
    whitelist = WhitelistType.NEVER if known is None else WhitelistType(known.token.whitelist)
    valid = _if_valid(known, world.now)
    if whitelist in {WhitelistType.ALWAYS, WhitelistType.ALLOWED}:
        if valid is None:
            raise NotPossible(f"token {uid} is not valid")
        _arrive_by_whitelist(world, place, valid)
        return
    _ask(world, place, uid, type_, known, fallback=valid if whitelist == WhitelistType.ALLOWED_OFFLINE else None)


def _if_valid(known: Known | None, now: float) -> TokenOf | None:
    """Return a Token whose times allow it now, with the version by which that was seen (8.5.7)."""
    if known is None or now < moment(known.token.valid_from):
        return None
    if known.token.valid_until is not None and now >= moment(known.token.valid_until):
        return None
    return token_of(known.party, known.token, known.version)


def _arrive_by_whitelist(world: World, place: Place, token: TokenOf) -> None:
    sessions.arrive(world, place, token, auth_method=AuthMethod.WHITELIST, authorization_reference=None)


def _ask(world: World, place: Place, uid: str, type_: str, known: Known | None, *, fallback: TokenOf | None) -> None:
    question = Question(
        id=world.new_id("Q"),
        evse_uid=place.evse.uid,
        uid=uid,
        type=type_,
        due=whole_seconds_later(world.now, world.pace.authorize_within_s),
        fallback=fallback,
    )
    # Whoever shows a token again has not waited for the answer.
    state = world.state
    state.questions = [*(each for each in state.questions if each.evse_uid != place.evse.uid), question]
    request = {
        "token_uid": uid,
        "type": type_,
        "presentation_timestamp": date_time(world.now),
        "location_id": place.site.id,
        "evse_uids": [place.evse.uid],
    }
    party = None if known is None else known.party
    world.emit(Ask(question.id, party, ModuleId("tokens"), "authorize", encode(request)))


# -- the answer -----------------------------------------------------------------------------------------------


def answered(world: World, question_id: str, party: PartyId | None, response: AuthorizeResponse | None) -> None:
    """Take the answer of the party that issued the token; None: there is none, or it is an error."""
    question = next((each for each in world.state.questions if each.id == question_id), None)
    if question is None:
        return  # nobody waits for it any more
    world.state.questions.remove(question)
    place = world.place(question.evse_uid)
    if response is None or party is None:
        _without_answer(world, place, question)
        return
    if response.allowed != AllowedType.ALLOWED or moment(response.authorized_until) <= world.now:
        return
    token = token_of(party, response.token)
    if not token.is_same(question.uid, question.type) or not _is_free(world, place, token):
        return
    session = sessions.arrive(
        world,
        place,
        token,
        auth_method=AuthMethod.AUTH_REQUEST,
        authorization_reference=response.authorization_reference,
    )
    if response.max_energy is not None:
        session.energy_max_kwh = bounded(Decimal(response.max_energy), ENERGY_MAX_KWH)
    if response.max_time is not None:
        longest_s = float(max(bounded(Decimal(response.max_time), YEAR_H), Decimal(0)) * 3600)
        session.ends_at = whole_seconds_later(world.now, longest_s)
        if session.status is SessionStatus.ACTIVE and session.due is not None:
            session.due = min(session.due, session.ends_at)


def give_up(world: World, question: Question) -> None:
    """Wait no longer for an answer."""
    world.state.questions.remove(question)
    _without_answer(world, world.place(question.evse_uid), question)


def _without_answer(world: World, place: Place, question: Question) -> None:
    token = question.fallback
    if token is not None and _is_free(world, place, token):
        _arrive_by_whitelist(world, place, token)


def _is_free(world: World, place: Place, token: TokenOf) -> bool:
    try:
        sessions.check_free(world, place, token)
    except Hindered:
        return False
    return True
