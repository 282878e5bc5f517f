"""How long it takes to accept a payload, beside what parsing the same bytes takes, and to say what is wrong with it.

All in this process, in CPU time: nothing waits for anything here.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.bodies import LOCATIONS, REVISIONS_FROM, STATUSES
from benchmarks.measuring import MICRO
from engine.protocol.modules import Module, SchemaViolation, module

EXAMPLE: Final = Path(__file__).parents[1] / "docs" / "modules" / "examples" / "cdrs.json"
PERIODS: Final = 20
PERIOD: Final = timedelta(minutes=6)
REFUSALS_ARE_ONE_IN: Final = 20  # they take longer
FAULT: Final = "yesterday"
"""Stands in the place of a time."""


@dataclass(frozen=True)
class Payload:
    """A payload that is accepted, and the most that this may take; and the same with one thing wrong."""

    module: str
    title: str
    goal_us: float
    right: bytes
    wrong: bytes


@dataclass
class Timings:
    """CPU µs for each payload, of every round."""

    accepted_us: list[float] = field(default_factory=list)
    loads_us: list[float] = field(default_factory=list)
    """``json.loads`` of the same bytes."""
    refused_us: list[float] = field(default_factory=list)
    """One thing is wrong, and it is told what and where."""


@dataclass
class Validation:
    """What came of it, by module."""

    payloads: dict[str, Payload]
    timings: dict[str, Timings]
    load_before: float
    load_after: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Show every round."""
        return {
            "load_before": self.load_before,
            "load_after": self.load_after,
            "runs": [
                {"module": name, "bytes": len(self.payloads[name].right), **asdict(timings)}
                for name, timings in self.timings.items()
            ],
        }


def payloads() -> list[Payload]:
    """Make a Location and a status as they are replicated, and a CDR of many charging periods."""
    location, status, cdr = LOCATIONS.payload(1, 1), STATUSES.payload(1, 1), _cdr()
    return [
        Payload(LOCATIONS.module, f"Location, {_kilobytes(location)}", 70, location, _faulty(location, "last_updated")),
        Payload(STATUSES.module, f"EVSE status, {len(status)} bytes", 3, status, _faulty(status, "timestamp")),
        Payload("cdrs", f"CDR, {PERIODS} charging periods, {_kilobytes(cdr)}", 100, cdr, _faulty(cdr, "end_date_time")),
    ]


def measure(rounds: int, count: int, tell: Callable[[str], None]) -> Validation:
    """Measure in rounds, each kind of payload in turn; ``count``: how many are accepted in each.

    The first round is a warm-up and does not count.
    """
    every = payloads()
    names = [payload.module for payload in every]
    results = Validation(
        dict(zip(names, every, strict=True)), {name: Timings() for name in names}, load_before=os.getloadavg()[0]
    )
    for number in range(rounds + 1):
        tell(f"validation, round {number} of {rounds}")
        for payload in every:
            found, timings = _module(payload), Timings() if number == 0 else results.timings[payload.module]
            timings.accepted_us.append(_us(found.accept, payload.right, count))
            timings.loads_us.append(_us(json.loads, payload.right, count))
            timings.refused_us.append(_us(partial(_refuse, found), payload.wrong, max(1, count // REFUSALS_ARE_ONE_IN)))
    results.load_after = os.getloadavg()[0]
    return results


def _us(look: Callable[[bytes], object], payload: bytes, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        look(payload)
    return (time.process_time() - began) / count * MICRO


def _refuse(found: Module, payload: bytes) -> None:
    try:
        found.accept(payload)
    except SchemaViolation:
        return
    raise AssertionError("a payload with a fault was accepted")


def _module(payload: Payload) -> Module:
    found = module(payload.module)
    assert found is not None
    return found


def _cdr() -> bytes:
    """Write the CDR of the reference pages with more charging periods: its own, again and again, at other times."""
    cdr = json.loads(EXAMPLE.read_bytes())
    periods: Sequence[dict[str, Any]] = cdr["charging_periods"]
    times = [REVISIONS_FROM + n * PERIOD for n in range(PERIODS + 1)]
    named = [f"{each:%Y-%m-%dT%H:%M:%S.000Z}" for each in times]
    cdr["charging_periods"] = [{**periods[n % len(periods)], "start_date_time": named[n]} for n in range(PERIODS)]
    cdr |= {"start_date_time": named[0], "end_date_time": named[-1]}
    return json.dumps(cdr, separators=(",", ":")).encode()


def _faulty(payload: bytes, name: str) -> bytes:
    return json.dumps({**json.loads(payload), name: FAULT}, separators=(",", ":")).encode()


def _kilobytes(payload: bytes) -> str:
    return f"{len(payload) / 1000:.1f} KB"
