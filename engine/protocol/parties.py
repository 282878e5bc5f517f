"""The parties that platforms serve to each other (UC 02.01): ``PlatformParties`` (2.4.10), written and read.

Reading is generous: what is usable is used, and what is odd is named, so that one odd party of a hub does not
hide the thousand others.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from engine.protocol.ids import PartyId, party_id

MODULE_ID_LENGTH_MAX: Final = 36
ROLES_MAX: Final = 64  # eleven modules with two sides each, and room for modules that are not invented yet
DETAILS_LENGTH_MAX: Final = 8192  # bytes of one party's business details; the tables' own limits come to about 3000
LEFT_OUT_MAX: Final = 100  # odd entries that are named; the rest is counted


class Side(StrEnum):
    """``InterfaceRole`` (2.4.4)."""

    SENDER = "SENDER"
    RECEIVER = "RECEIVER"


@dataclass(frozen=True, slots=True)
class Role:
    """``PartyRole`` (2.4.8): a module that a platform serves for a party, and on which side."""

    module: str
    side: str


@dataclass(frozen=True, slots=True)
class Party:
    """``PlatformParty`` (2.4.9), and whether it is its platform's hub party."""

    party_id: PartyId
    roles: tuple[Role, ...]
    business_details: dict[str, Any]
    hub: bool = False


@dataclass(frozen=True, slots=True)
class PartiesRead:
    """What a partner's answer came to. ``left_out`` says in words what was not used, at most a hundred times."""

    parties: tuple[Party, ...]
    left_out: tuple[str, ...]
    left_out_count: int


class _Wire(msgspec.Struct, frozen=True):
    parties: list[Any]
    hub_party_id: Any = None


class _LeaveOut(Exception):
    """This entry cannot be used."""


def parties_body(parties: Iterable[Party]) -> bytes:
    """Write our ``PlatformParties`` (R.02.01.02); the hub party, where there is one, is named (R.02.01.03b)."""
    listed = list(parties)
    body: dict[str, Any] = {"parties": [_entry(party) for party in listed]}
    for party in listed:
        if party.hub:
            body["hub_party_id"] = party.party_id
    return msgspec.json.encode(body)


def read_parties(content: bytes, *, parties_max: int, ours: Callable[[PartyId], bool]) -> PartiesRead | None:
    """Read a ``PlatformParties``; None when it is none.

    Left out are entries without a usable Party ID, repeated ones, those beyond ``parties_max``, and parties
    that are hosted here: ``ours`` says which.
    """
    try:
        wire = msgspec.json.decode(content, type=_Wire)
    except (msgspec.MsgspecError, RecursionError):
        return None
    left_out: list[str] = []
    found: dict[PartyId, Party] = {}
    for index, entry in enumerate(wire.parties):
        if len(found) >= parties_max:
            left_out.append(f"everything from entry {index} on: more than {parties_max} parties")
            break
        try:
            party = _read_entry(entry)
            if party.party_id in found:
                raise _LeaveOut(f"{party.party_id} is listed more than once")
            _refuse_ours(party.party_id, ours)
            found[party.party_id] = party
        except _LeaveOut as problem:
            left_out.append(f"entry {index}: {problem}")
    _read_hub(wire.hub_party_id, found, left_out, ours)
    return PartiesRead(tuple(found.values()), tuple(left_out[:LEFT_OUT_MAX]), len(left_out))


def _entry(party: Party) -> dict[str, Any]:
    return {
        "party_id": party.party_id,
        "roles": [{"module": role.module, "side": role.side} for role in party.roles],
        "business_details": party.business_details,
    }


def _refuse_ours(party: PartyId, ours: Callable[[PartyId], bool]) -> None:
    if ours(party):
        raise _LeaveOut(f"{party} is hosted on this platform")


def _read_entry(entry: Any) -> Party:
    if not isinstance(entry, dict):
        raise _LeaveOut("not an object")
    details = entry.get("business_details")
    if not isinstance(details, dict) or len(msgspec.json.encode(details)) > DETAILS_LENGTH_MAX:
        details = {}
    roles = entry.get("roles")
    usable = dict.fromkeys(filter(None, map(_read_role, roles[:ROLES_MAX]))) if isinstance(roles, list) else {}
    return Party(_read_id(entry.get("party_id")), tuple(usable), details)


def _read_role(role: Any) -> Role | None:
    if not isinstance(role, dict):
        return None
    module, side = role.get("module"), role.get("side")
    if not isinstance(module, str) or not 0 < len(module) <= MODULE_ID_LENGTH_MAX or not isinstance(side, str):
        return None
    return Role(module, side.upper()) if side.upper() in set(Side) else None


def _read_id(text: Any) -> PartyId:
    if not isinstance(text, str):
        raise _LeaveOut("no party_id")
    try:
        return party_id(text)
    except ValueError as error:
        raise _LeaveOut(str(error)) from None


def _read_hub(text: Any, found: dict[PartyId, Party], left_out: list[str], ours: Callable[[PartyId], bool]) -> None:
    if text is None:
        return
    try:
        hub = _read_id(text)
        _refuse_ours(hub, ours)
    except _LeaveOut as problem:
        left_out.append(f"hub_party_id: {problem}")
        return
    listed = found.get(hub)
    # A hub party need not be in the list: naming it is enough to let it speak.
    found[hub] = Party(hub, listed.roles if listed else (), listed.business_details if listed else {}, hub=True)
