"""Parties hosted here, parties that partners serve to us, and tokens of the local API."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from engine.protocol.ids import PartyId
from engine.protocol.parties import Party, Role
from engine.store.database import Kind, Tx
from engine.store.tables import api_tokens, hosted_parties, peer_parties

ROWS_AT_ONCE = 500  # rows in one statement: more gains nothing, and every driver takes as many


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token of the local API, without the token. ``party_id``: the only party whose data it opens."""

    name: str
    digest: str
    party_id: PartyId | None
    created_at: float


class NameTaken(Exception):
    """There is a row of this name already."""


def _roles(value: list[dict[str, str]]) -> tuple[Role, ...]:
    return tuple(Role(role["module"], role["side"]) for role in value)


def _columns(party: Party) -> dict[str, Any]:
    return {
        "party_id": party.party_id,
        "hub": party.hub,
        "roles": [asdict(role) for role in party.roles],
        "business_details": party.business_details,
    }


# -- hosted here --------------------------------------------------------------------------------------------


async def all_hosted(tx: Tx) -> list[Party]:
    """List the parties hosted here, by id."""
    columns = hosted_parties.c
    statement = select(columns.party_id, columns.roles, columns.business_details, columns.hub)
    rows = await tx.execute(statement.order_by(columns.party_id))
    return [Party(PartyId(row[0]), _roles(row[1]), row[2], row[3]) for row in rows]


async def put_hosted(tx: Tx, party: Party, *, now: float) -> bool:
    """Store a hosted party, new or changed; True when it is new."""
    tx.touch(Kind.DIRECTORY)
    values = _columns(party)
    changed = await tx.execute(
        update(hosted_parties).where(hosted_parties.c.party_id == party.party_id).values(**values)
    )
    if changed.rowcount:
        return False
    await tx.execute(insert(hosted_parties).values(created_at=now, **values))
    return True


async def remove_hosted(tx: Tx, party: PartyId) -> bool:
    """Forget a hosted party; False when it is not one."""
    tx.touch(Kind.DIRECTORY)
    return bool((await tx.execute(delete(hosted_parties).where(hosted_parties.c.party_id == party))).rowcount)


# -- served by partners -------------------------------------------------------------------------------------


async def all_peer_parties(tx: Tx) -> dict[int, tuple[Party, ...]]:
    """Read what each platform serves to us, by platform, in the order of the ids."""
    columns = peer_parties.c
    statement = select(columns.platform_id, columns.party_id, columns.roles, columns.business_details, columns.hub)
    found: dict[int, list[Party]] = {}
    for row in await tx.execute(statement.order_by(columns.platform_id, columns.party_id)):
        found.setdefault(row[0], []).append(Party(PartyId(row[1]), _roles(row[2]), row[3], row[4]))
    return {platform_id: tuple(parties) for platform_id, parties in found.items()}


async def replace_peer_parties(
    tx: Tx, platform_id: int, *, before: Iterable[Party], after: Iterable[Party], now: float
) -> None:
    """Make what a platform serves to us ``after``; only what differs from ``before`` is written."""
    tx.touch(Kind.DIRECTORY, platform_id)
    had = {party.party_id: party for party in before}
    has = {party.party_id: party for party in after}
    gone = [party for party in had if party not in has]
    changed = [party for party_id, party in has.items() if party_id in had and had[party_id] != party]
    new = [party for party_id, party in has.items() if party_id not in had]
    for start in range(0, len(gone), ROWS_AT_ONCE):
        batch = gone[start : start + ROWS_AT_ONCE]
        await tx.execute(
            delete(peer_parties).where(peer_parties.c.platform_id == platform_id, peer_parties.c.party_id.in_(batch))
        )
    for party in changed:
        where = (peer_parties.c.platform_id == platform_id) & (peer_parties.c.party_id == party.party_id)
        await tx.execute(update(peer_parties).where(where).values(last_seen_at=now, **_columns(party)))
    if new:
        seen = {"platform_id": platform_id, "first_seen_at": now, "last_seen_at": now}
        await tx.execute(insert(peer_parties), [{**seen, **_columns(party)} for party in new])


async def clear_peer_parties(tx: Tx, platform_id: int) -> None:
    """Forget what a platform served to us."""
    tx.touch(Kind.DIRECTORY, platform_id)
    await tx.execute(delete(peer_parties).where(peer_parties.c.platform_id == platform_id))


# -- tokens of the local API --------------------------------------------------------------------------------


async def add_token(tx: Tx, token: ApiToken) -> None:
    """Store a token's digest.

    Raises ``NameTaken``.
    """
    try:
        await tx.execute(insert(api_tokens).values(**asdict(token)))
    except IntegrityError as error:
        raise NameTaken(token.name) from error


async def all_tokens(tx: Tx) -> list[ApiToken]:
    """List tokens, by name."""
    columns = api_tokens.c
    statement = select(columns.name, columns.digest, columns.party_id, columns.created_at).order_by(columns.name)
    return [ApiToken(*row) for row in await tx.execute(statement)]


async def token_by_digest(tx: Tx, digest: str) -> ApiToken | None:
    """Find a token by its digest."""
    columns = api_tokens.c
    statement = select(columns.name, columns.digest, columns.party_id, columns.created_at)
    row = (await tx.execute(statement.where(columns.digest == digest))).first()
    return None if row is None else ApiToken(*row)


async def remove_token(tx: Tx, name: str) -> bool:
    """Forget a token; False when there is none of this name."""
    return bool((await tx.execute(delete(api_tokens).where(api_tokens.c.name == name))).rowcount)
