"""The state of calls, for operators: what waits for what, and what is stuck, since when and why (P9)."""

from typing import Any, Final

from engine.clock import Clock, ocpi_time
from engine.protocol.calls import CallState
from engine.store import calls
from engine.store.database import Database

SHOWN_MAX: Final = 100  # of each kind; the rest is counted


class CallsReport:
    """Collects the state of calls from the store."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Read from this database."""
        self._database = database
        self._clock = clock

    async def state(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return what waits, counted, and what is stuck; ready for JSON."""
        now = self._clock.now()
        async with self._database.reading() as tx:
            counted = await calls.count(tx)
            overdue = len(await calls.overdue(tx, now=now, limit=SHOWN_MAX))
            owed = await calls.count_owed(tx)
            undelivered = await calls.undelivered(tx, limit=SHOWN_MAX)
            untaken = await calls.handing_over(tx, limit=SHOWN_MAX)
        shown = {
            "asked": _counts(counted, asked_here=True),
            "received": _counts(counted, asked_here=False),
            "overdue": overdue,
            "results_owed": owed,
        }
        stuck = [
            {
                "what": f"result {result.result_type} of call {call.id}, {call.module}/{call.operation} of"
                f" {call.receiver}, for {call.sender} at {call.platform}",
                "since": ocpi_time(result.at),
                "why": result.last_error or "not answered yet",
                "attempts": result.attempts,
                "next_attempt_at": None if result.due_at is None else ocpi_time(result.due_at),
            }
            for result, call in undelivered
        ]
        stuck += [
            {
                "what": f"call {call.id}, {call.module}/{call.operation} by {call.sender}, for the systems of"
                f" {call.receiver}",
                "since": ocpi_time(call.asked_at),
                "why": call.hand_over_error or "they did not take it",
                "attempts": call.hand_overs,
                "next_attempt_at": None if call.hand_over_at is None else ocpi_time(call.hand_over_at),
            }
            for call in untaken
        ]
        return shown, stuck


def _counts(counted: dict[tuple[bool, CallState], tuple[int, float]], *, asked_here: bool) -> dict[str, Any]:
    """Count by state what is open, with the time of the oldest."""
    mine = {state: found for (here, state), found in counted.items() if here is asked_here}
    oldest = min((since for _, since in mine.values()), default=None)
    return {
        "open": sum(number for number, _ in mine.values()),
        "by_state": {state.value: number for state, (number, _) in sorted(mine.items())},
        "oldest_since": None if oldest is None else ocpi_time(oldest),
    }
