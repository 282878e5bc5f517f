"""Tokens of the local API. Only their digests are kept: who reads the database cannot use them."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

from engine.clock import Clock
from engine.protocol.ids import PartyId
from engine.refusals import NotFoundHere, Refused
from engine.store import parties as rows
from engine.store.database import Database
from engine.store.parties import ApiToken, NameTaken

TOKEN_BYTES: Final = 32  # 256 bits: nobody guesses it, so a plain digest is enough
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is listed. ``party``: the only party whose data it opens; None: all."""

    name: str
    party: PartyId | None
    created_at: float


@dataclass(frozen=True, slots=True)
class NewToken(Token):
    """A token that was just made. ``token`` is shown this once, and kept nowhere."""

    token: str


class Tokens:
    """Who may use the local API, beside the operator."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(self) -> list[Token]:
        """List tokens, by name."""
        async with self._database.reading() as tx:
            return [_shown(token) for token in await rows.all_tokens(tx)]

    async def add(self, name: str, party: PartyId | None = None) -> NewToken:
        """Make a token.

        Raises ``Refused`` for a name that is odd or taken.
        """
        if not _NAME.match(name):
            raise Refused("a token's name has 1 to 64 letters, digits, dots, hyphens and underscores")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        row = ApiToken(name, _digest(token), party, self._clock.now())
        try:
            async with self._database.transaction() as tx:
                await rows.add_token(tx, row)
        except NameTaken as error:
            raise Refused(f"there is a token {name!r} already: remove it first, or choose another name") from error
        return NewToken(row.name, row.party_id, row.created_at, token)

    async def remove(self, name: str) -> None:
        """Accept a token no longer.

        Raises ``NotFoundHere``.
        """
        async with self._database.transaction() as tx:
            if not await rows.remove_token(tx, name):
                raise NotFoundHere(f"there is no token {name!r}")

    async def find(self, token: str) -> Token | None:
        """Recognise a token; None when it is none of ours."""
        async with self._database.reading() as tx:
            row = await rows.token_by_digest(tx, _digest(token))
        return None if row is None else _shown(row)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _shown(token: ApiToken) -> Token:
    return Token(token.name, token.party_id, token.created_at)
