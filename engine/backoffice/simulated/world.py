"""The simulated CPO at one moment: what it remembers, what time it is, and what it wants done.

Every other file of this package changes a ``World`` and nothing else.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

from engine.backoffice.simulated.effects import Effect, Publish
from engine.backoffice.simulated.pace import Between, Pace
from engine.backoffice.simulated.state import (
    Charging,
    Connector,
    Evse,
    Profile,
    Reservation,
    Site,
    State,
    Station,
    TokenOf,
)
from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules.sessions import SessionStatus
from engine.protocol.modules.tokens import Token
from engine.samples.chances import encode, read

K = TypeVar("K", bound=str)
T = TypeVar("T")

LIVE: Final = frozenset({SessionStatus.PENDING, SessionStatus.ACTIVE})
"""A session that has its EVSE to itself."""
ENERGY_MAX_KWH: Final = 1_000_000
"""No car takes more."""
_MILLISECONDS_PER_HOUR: Final = 3_600_000


class NotPossible(ValueError):
    """Nobody can do that at this charging station now; the message says why.

    ``effects``: what came due until then, to be done all the same.
    """

    effects: Sequence[Effect] = ()


class Place(NamedTuple):
    """An EVSE, and where it is."""

    site: Site
    station: Station
    evse: Evse


class World:
    """State, time and effects. ``now`` is in Unix seconds, and never goes back."""

    def __init__(self, state: State, pace: Pace) -> None:
        self.state = state
        self.pace = pace
        self.effects: list[Effect] = []
        self.tariff = read(state.tariff.encode())
        self._places = {
            evse.uid.lower(): Place(site, station, evse)
            for site in state.sites
            for station in site.stations
            for evse in station.evses
        }

    @property
    def now(self) -> float:
        """What time it is."""
        return self.state.now

    # -- what is where

    def site(self, location_id: str) -> Site | None:
        """Look up a Location."""
        return next((site for site in self.state.sites if is_same(site.id, location_id)), None)

    def find(self, evse_uid: str, location_id: str | None = None) -> Place | None:
        """Look up an EVSE, at this Location if one is named."""
        place = self._places.get(evse_uid.lower())
        if place is None or (location_id is not None and not is_same(place.site.id, location_id)):
            return None
        return place

    def place(self, evse_uid: str) -> Place:
        """Return an EVSE that a driver or an operator named.

        Raises ``NotPossible`` if there is none.
        """
        if (place := self.find(evse_uid)) is None:
            raise NotPossible(f"there is no EVSE {evse_uid}")
        return place

    def places(self, site: Site | None = None) -> Iterator[Place]:
        """Yield all EVSEs, or those of one Location."""
        return (place for place in self._places.values() if site is None or place.site is site)

    # -- what goes on there

    def session(self, session_id: str) -> Charging | None:
        """Look up a session whose CDR is not issued yet."""
        return next((each for each in self.state.sessions if is_same(each.id, session_id)), None)

    def session_at(self, evse: Evse) -> Charging | None:
        """Return the session that has this EVSE to itself."""
        return next((each for each in self.state.sessions if each.evse_uid == evse.uid and each.status in LIVE), None)

    def active(self) -> list[Charging]:
        """Return the sessions in which a car is charged, or could be."""
        return [each for each in self.state.sessions if each.status is SessionStatus.ACTIVE]

    def reservation_at(self, evse: Evse) -> Reservation | None:
        """Return the reservation that this EVSE is kept for."""
        return next((each for each in self.state.reservations if each.evse_uid == evse.uid), None)

    def profile(self, party: PartyId, profile_id: str) -> Profile | None:
        """Look up the charging profile that a party set under this id last."""
        return next(
            (each for each in self.state.profiles if each.party_id == party and is_same(each.id, profile_id)), None
        )

    # -- what comes of it

    def emit(self, effect: Effect) -> None:
        """Want something done, after all that is wanted already."""
        self.effects.append(effect)

    def publish(self, module: str, object_id: str, payload: dict[str, Any]) -> None:
        """Want an object issued."""
        self.emit(Publish(ModuleId(module), object_id, encode(payload)))

    # -- chance and ids

    def draw(self, between: Between) -> float:
        """Draw a duration, in whole milliseconds: the same one after the same history."""
        self.state.draws += 1
        chance = random.Random(f"{self.state.seed} {self.state.draws}")  # noqa: S311 - weather, not secrets
        return round(chance.uniform(*between), 3)

    def new_id(self, kind: str) -> str:
        """Make an id that nothing had before, not even if this state is lost and begun anew."""
        self.state.number += 1
        return f"{self.state.party_id}-{kind}{milliseconds(self.now)}-{self.state.number}"


# -- ids, numbers and JSON ------------------------------------------------------------------------------------


def is_same(one: str, other: str) -> bool:
    """Compare ids (B10)."""
    return one.lower() == other.lower()


def milliseconds(seconds: float) -> int:
    """Return a time or a duration in whole milliseconds."""
    return round(seconds * 1000)


def hours_between(begin: float, end: float) -> Decimal:
    """Return how long something took in hours, with all digits."""
    return Decimal(milliseconds(end) - milliseconds(begin)) / _MILLISECONDS_PER_HOUR


def whole_seconds_later(begin: float, seconds: float) -> float:
    """Add a duration to a time and keep to milliseconds."""
    return round(begin + seconds, 3)


def last_of(entries: dict[K, T], count: int) -> dict[K, T]:
    """Return the entries that were added last."""
    return dict(list(entries.items())[-count:]) if len(entries) > count else entries


def bounded(number: Decimal, most: Decimal | int) -> Decimal:
    """Keep a number that somebody sent, such as 1E400, where arithmetic has no trouble with it."""
    return max(min(Decimal(number), Decimal(most)), -Decimal(most))


def text(message: str) -> list[dict[str, str]]:
    """Write DisplayTexts. A simulated station speaks English."""
    return [{"language": "en", "text": message}]


def token_of(party: PartyId, token: Token, version: int | None = None) -> TokenOf:
    """Keep what a Session says of a token (R.07.02.12); the version only if it was found on a whitelist."""
    return TokenOf(
        party_id=party,
        uid=token.uid,
        type=str(token.type),
        contract_id=token.contract_id,
        group_id=token.group_id,
        token_version=version,
    )


def can(station: Station, *capabilities: str) -> bool:
    """Tell whether a station has all of these capabilities."""
    return set(capabilities) <= set(station.capabilities)


def connector_of(evse: Evse, connector_id: str | None) -> Connector | None:
    """Look up a connector; the first one if none is named."""
    if connector_id is None:
        return evse.connectors[0]
    return next((each for each in evse.connectors if is_same(each.id, connector_id)), None)


def clock_text(seconds: float) -> str:
    """Write a time of day for a person."""
    return f"{datetime.fromtimestamp(seconds, UTC):%H:%M} UTC"


def without_case(ids: Iterable[str]) -> set[str]:
    """Fold ids for comparison (B10)."""
    return {each.lower() for each in ids}
