"""A receiver in memory, and the observer beside it that knows what a producer may not do.

The observer sees every attempt with its times, and holds the four oracles against it: nothing owed is missing at
the end (P1), no copy goes back (P2), never two requests in progress for one object nor more than the parallelism
limit for one subscription, and never an attempt before its backoff has elapsed (P4).
"""

import asyncio
from dataclasses import dataclass, field

import msgspec

from engine.protocol.subscriptions import backoff_s

LOOKED_BACK_MAX = 2000  # attempts: none of those before them can be in progress any more
SLACK_S = 0.005  # two clocks are read one after the other: the observer's and the producer's


@dataclass
class Seen:
    """One attempt as the receiver saw it."""

    key: tuple[str, str]
    version: int
    began: float
    known_failed: float | None = None
    in_progress_until: float = float("inf")
    run: int = 0


@dataclass
class Observer:
    """Checks attempts as they come. Times are of the event loop."""

    parallelism_limit: int
    retry_interval_s: float
    timeout_s: float
    attempts: list[Seen] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    copies: dict[tuple[str, str], int] = field(default_factory=dict)
    payloads: dict[tuple[str, str], bytes] = field(default_factory=dict)
    allow_immediate: bool = False
    run: int = 0
    _failures: dict[tuple[tuple[str, str], int], list[Seen]] = field(default_factory=dict)

    def begin(self, body: bytes) -> Seen:
        """Note that an attempt arrived, and check whether it may have been made now."""
        wire = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        issuer = msgspec.json.decode(wire["issuer_party"], type=str)
        object_id = msgspec.json.decode(wire["id"], type=str)
        version = msgspec.json.decode(wire["version"], type=int)
        now = asyncio.get_running_loop().time()
        seen = Seen((issuer, object_id.lower()), version, now, run=self.run)
        open_attempts = [a for a in self.attempts[-LOOKED_BACK_MAX:] if a.in_progress_until > now + SLACK_S]
        if any(a.key == seen.key for a in open_attempts):
            self.violations.append(f"two requests in progress for {seen.key}")
        if len(open_attempts) >= self.parallelism_limit:
            self.violations.append(f"{len(open_attempts) + 1} requests in progress at limit {self.parallelism_limit}")
        failed = self._failures.get((seen.key, version), [])
        if failed and not self.allow_immediate:
            due = (failed[-1].known_failed or 0.0) + backoff_s(len(failed), self.retry_interval_s)
            if now < due - SLACK_S:
                self.violations.append(f"attempt {len(failed) + 1} of {seen.key} was {due - now:.4f} s early")
        self.attempts.append(seen)
        return seen

    def take(self, seen: Seen, body: bytes) -> None:
        """Store a copy as a receiver would, within one life."""
        wire = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        held, payload = self.copies.get(seen.key, -1), bytes(wire["payload"])
        if held < seen.version:
            self.copies[seen.key] = seen.version
            self.payloads[seen.key] = payload
        elif held == seen.version and payload != self.payloads[seen.key]:
            self.violations.append(f"two payloads of {seen.key} in version {held}")

    def sender_died(self) -> None:
        """Note that the sender was killed: what it had in progress stays so until the time-out, answered or not."""
        for seen in self.attempts[-LOOKED_BACK_MAX:]:
            if seen.run == self.run and seen.in_progress_until == float("inf"):
                self.unanswered(seen)
        self.run += 1

    def waive(self) -> None:
        """Let what failed until now be sent again at once (03.09)."""
        self._failures.clear()

    def answered(self, seen: Seen, *, success: bool) -> None:
        """Note that the receiver answered."""
        if seen.run != self.run:
            return  # to a sender that died meanwhile
        now = asyncio.get_running_loop().time()
        seen.in_progress_until = now
        if success:
            self._failures.pop((seen.key, seen.version), None)  # a repeat of what was delivered begins anew
        else:
            self._fail(seen, now)

    def unanswered(self, seen: Seen) -> None:
        """Note that no answer will come: the request is in progress until the time-out."""
        if seen.run != self.run:
            return
        seen.in_progress_until = seen.began + self.timeout_s
        self._fail(seen, asyncio.get_running_loop().time())

    def _fail(self, seen: Seen, now: float) -> None:
        seen.known_failed = now
        self._failures.setdefault((seen.key, seen.version), []).append(seen)
