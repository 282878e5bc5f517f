"""What all samples have in common: chance with a seed, times that do not move, and how a payload is written."""

import json
import random
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

import msgspec

from engine.protocol.modules.classes import ClosedEnum

SEED = 3_0_2
NEWEST = datetime(2026, 5, 1, tzinfo=UTC)
"""Nothing in a sample is younger, unless it is asked for; fixed, so that the bytes are."""

Json = dict[str, Any]
T = TypeVar("T")


class Sample(NamedTuple):
    """A Party Issued Object that could be published. Its id begins with its party's."""

    id: str
    payload: bytes


class Chances:
    """Decides what is there and what is not."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def chance(self, share: float) -> bool:
        """Say yes in this share of cases."""
        return self.rng.random() < share

    def sometimes(self, share: float, make: Callable[[], T]) -> T | None:
        """Make something in this share of cases."""
        return make() if self.chance(share) else None

    def some(self, share: float, most: int, make: Callable[[], Json]) -> list[Json] | None:
        """Make a list of one or more in this share of cases."""
        return [make() for _ in range(self.rng.randint(1, most))] if self.chance(share) else None

    def some_of(self, share: float, values: type[ClosedEnum]) -> list[str] | None:
        """Pick a few of an enum in this share of cases."""
        every = list(values)
        return self.rng.sample(every, self.rng.randint(1, min(4, len(every)))) if self.chance(share) else None

    def time(self) -> str:
        """Make a DateTime of the last two years, with no, one or three decimals."""
        moment = NEWEST - timedelta(milliseconds=self.rng.randrange(2 * 365 * 86_400_000))
        decimals = self.rng.choice(["", f".{moment.microsecond // 100_000}", f".{moment.microsecond // 1_000:03d}"])
        return f"{moment:%Y-%m-%dT%H:%M:%S}{decimals}Z"


def time_text(moment: datetime) -> str:
    """Write a DateTime, with three decimals if it has any."""
    decimals = f".{moment.microsecond // 1_000:03d}" if moment.microsecond else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{decimals}Z"


def moment_of(time: str) -> datetime:
    """Read a DateTime of a sample."""
    return datetime.fromisoformat(time)


def without_none(fields: Json) -> Json:
    """Leave out what is not there."""
    return {name: value for name, value in fields.items() if value is not None}


def by_id(samples: Iterable[Sample]) -> dict[str, Json]:
    """Read samples, decimals as they are."""
    return {sample.id: read(sample.payload) for sample in samples}


def read(payload: bytes) -> Json:
    """Read a payload, decimals as they are."""
    value: Json = json.loads(payload, parse_float=Decimal)
    return value


encode = msgspec.json.Encoder(decimal_format="number").encode
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def written(value: Json, number: int) -> bytes:
    """Write a payload, every now and then as other programs do."""
    payload = encode(value)
    if number % 10 == 3:  # noqa: PLR2004 - one in ten
        return msgspec.json.format(payload, indent=2)
    if number % 10 == 7:  # noqa: PLR2004 - one in ten
        return _NOT_ASCII.sub(_escaped, payload.decode()).encode()
    return payload


def _escaped(match: re.Match[str]) -> str:
    """Write a character beyond ASCII as JSON escapes, two of them if it is beyond U+FFFF."""
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[n] << 8 | units[n + 1]:04x}" for n in range(0, len(units), 2))
