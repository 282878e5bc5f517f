"""``tokens/authorize`` answered from the Tokens that a party of ours issued (UC 11.02).

For a party without systems of its own that would know better. Whether the driver has credit or may charge at that
place is not known here: a Token that is valid may charge, wherever it is asked for (R.11.02.06, R.11.02.07). That a CPO
asks at all is its choice: a ``whitelist`` says when it need not, and an answer does no harm then either.

Tokens are known by uid and type, and their objects by ids that need not say either (R.11.01.04). So uids are kept in
memory, some 300 bytes each, filled at the first request and kept up to date from the change log.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from engine.clock import Clock, ocpi_time
from engine.logs import new_id
from engine.protocol.errors import UnknownToken
from engine.protocol.ids import ObjectKey, PartyId, object_key
from engine.protocol.modules.shared_types import TokenType
from engine.protocol.modules.tokens import MODULE, AllowedType
from engine.protocol.scalars import moment
from engine.relay.offices import Answered, IncomingCall
from engine.store import objects
from engine.store.database import Database
from engine.store.objects import Issued

AUTHORIZED_FOR_S: Final = 15 * 60.0
"""How long an answer holds: as long as a start or a reservation stands for one (R.05.02.12, R.07.02.09)."""

READ_TOGETHER: Final = 500  # Tokens read in one go: some 20 ms

Uid = tuple[str, str]
"""Type, and uid in lower case (B10)."""


class _Wanted(msgspec.Struct):
    """What of an ``AuthorizeRequest`` decides."""

    token_uid: str
    type: str | None = None


class TokenKnown(msgspec.Struct):
    """What of a Token decides."""

    uid: str
    type: str
    valid_from: str
    valid_until: str | None = None

    @property
    def key(self) -> Uid:
        """By what it is asked for."""
        return self.type, self.uid.lower()


@dataclass(slots=True)
class _Index:
    """The Tokens of one party, up to a number of the change log."""

    keys: defaultdict[Uid, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set))
    read_to: int = 0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)


class Authorizing:
    """A back office for one operation."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Answer from this database."""
        self._database = database
        self._clock = clock
        self._indexes: defaultdict[PartyId, _Index] = defaultdict(_Index)

    async def take(self, call: IncomingCall) -> Answered:
        """Say whether a driver may charge. Raises ``UnknownToken`` (R.11.02.08)."""
        request = msgspec.json.decode(call.payload, type=_Wanted)
        now = self._clock.now()
        found = await self._found(call.receiver, (request.type or TokenType.RFID, request.token_uid.lower()))
        seen = [token for token in found if objects.is_for(call.asker, token.audience)]
        if not seen:
            raise UnknownToken
        return Answered(written(*best(seen, now), now))

    async def _found(self, party: PartyId, wanted: Uid) -> Sequence[Issued]:
        index = self._indexes[party]
        async with index.reading:
            await self._read_on(party, index)
        keys = index.keys.get(wanted)
        if not keys:
            return ()
        async with self._database.reading() as tx:
            found = await objects.issued(tx, MODULE.id, party, list(keys))
        return [token for token in found.values() if _read(token.payload).key == wanted]  # it may have changed

    async def _read_on(self, party: PartyId, index: _Index) -> None:
        """Take in what was issued since the last look."""
        more = True
        while more:
            async with self._database.reading() as tx:
                end = await objects.last_number(tx, objects.log_name(MODULE.id, received=False))
                page = await objects.all_issued(tx, MODULE.id, party, after=index.read_to, limit=READ_TOGETHER)
            for _, token in page:
                index.keys[_read(token.payload).key].add(object_key(token.object_id))
            more = len(page) == READ_TOGETHER
            index.read_to = page[-1][0] if more else end


def _read(payload: bytes) -> TokenKnown:
    return msgspec.json.decode(payload, type=TokenKnown)


def verdict(token: TokenKnown, now: float) -> AllowedType:
    """Say whether a Token may be used now, by its times (11.4.5)."""
    if token.valid_until is not None and now >= moment(token.valid_until):
        return AllowedType.EXPIRED
    return AllowedType.ALLOWED if now >= moment(token.valid_from) else AllowedType.NOT_ALLOWED


def best(tokens: Sequence[Issued], now: float) -> tuple[bytes, AllowedType]:
    """Choose among Tokens of one uid and type, of which there may be several (R.11.01.04): one that may be used."""
    said = [(token.payload, verdict(_read(token.payload), now)) for token in tokens]
    return min(said, key=lambda one: one[1] is not AllowedType.ALLOWED)


def written(payload: bytes, allowed: AllowedType, now: float) -> bytes:
    """Write an ``AuthorizeResponse`` around the Token's own bytes (R.11.02.05)."""
    until = now
    answer: dict[str, object] = {"allowed": allowed, "token": msgspec.Raw(payload)}
    if allowed is AllowedType.ALLOWED:
        valid_until = _read(payload).valid_until
        until = now + AUTHORIZED_FOR_S
        if valid_until is not None:
            until = min(until, moment(valid_until))
        answer["authorization_reference"] = new_id()
    answer |= {"authorization_timestamp": ocpi_time(now), "authorized_until": ocpi_time(until)}
    return msgspec.json.encode(answer)
