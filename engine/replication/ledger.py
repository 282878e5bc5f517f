"""What a push worker has read of the log, and what has become of it. Nothing here waits, stores or sends.

::

    segments ──follow──▶ position ─▶ pointers ──loaded──┐
                                                        ├─▶ ready ──launch──▶ flights ──done, land──▶ gone
    log ───────page────▶ position ──────────────────────┘                       │
                                         ▲                                      │
                                         └── what changed while it was in flight ┘

The *position* is how far the log was read without a gap. *Outstanding* holds the numbers that were read and are not
done; the watermark is just below the first of them. Each of these numbers hangs on exactly one pointer, ready job or
flight, so that none is forgotten and each is settled once. An object is in at most one of ready and flights: what
comes for it meanwhile waits for its landing (P4).

A new *generation* begins when the subscription changed: what was read is forgotten, and flights settle nothing more.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from engine.replication.segments import Stretch
from engine.store.objects import Owed, is_for

Key = tuple[str, str]
"""An object: issuer and object key."""

POINTERS_MAX: Final = 1024  # pointers waiting to be read; beyond that a walk is cheaper


@dataclass(slots=True)
class Job:
    """One object on its way out. ``seqs`` are the log numbers that it settles."""

    owed: Owed
    attempts: int
    first_failed_at: float | None
    revision: int | None  # of the exception row that was read with the object
    since: float  # when it became due, seconds since the epoch
    generation: int
    life: int
    booked_at: float | None = None
    seqs: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)  # numbers of changes that came while it was in flight
    in_progress: bool = True
    concluded: bool = False  # whether an attempt was made, whatever came of it
    unfiled: bool = False

    @property
    def key(self) -> Key:
        """Identify the object."""
        return (self.owed.issuer, self.owed.key)


MakeJob = Callable[[Owed, list[int]], Job | None]
"""Makes a job of an object that was read; None where its exception row takes care of this very version."""


class Ledger:
    """The bookkeeping of one worker."""

    def __init__(self, position: int) -> None:
        """Begin at a watermark, not knowing where the log ends."""
        self.position = position
        self.behind = True  # whether the log holds more than the segments showed
        self.generation = 0
        self.ready: OrderedDict[Key, Job] = OrderedDict()
        self.flights: dict[Key, Job] = {}
        self._outstanding: OrderedDict[int, None] = OrderedDict()
        self._pointers: OrderedDict[Key, list[int]] = OrderedDict()
        self._loading: dict[Key, list[int]] = {}
        self._ahead: dict[Key, int] = {}  # objects that were read at a number beyond the position

    @property
    def watermark(self) -> int:
        """Every visible change up to here is delivered or stored as an exception."""
        first = next(iter(self._outstanding), None)
        return self.position if first is None else first - 1

    @property
    def outstanding(self) -> int:
        """How many numbers were read and are not done."""
        return len(self._outstanding)

    @property
    def pointers(self) -> int:
        """How many objects wait to be read."""
        return len(self._pointers)

    @property
    def busy(self) -> int:
        """How many objects are underway."""
        return len(self.flights) + len(self.ready) + len(self._pointers)

    def underway(self, key: Key) -> bool:
        """Say whether an object is on its way already, at whatever version."""
        return key in self.flights or key in self.ready or key in self._pointers

    def reserved(self) -> set[Key]:
        """Return the objects that were read from the log and are not done."""
        if not self._outstanding:
            return set()
        flying = (key for key, job in self.flights.items() if job.seqs or job.again)
        return {*self._pointers, *self._loading, *self.ready, *flying}

    def oldest_since(self) -> float | None:
        """When the oldest object that is not done was read."""
        first = next(iter(self.ready.values()), None)
        times = [job.since for job in self.flights.values()]
        return min(times if first is None else [*times, first.since], default=None)

    def begin_again(self, position: int) -> None:
        """Go back to a watermark: the subscription changed."""
        self.generation += 1
        self.position = position
        self.behind = True
        for forgotten in (self._outstanding, self._pointers, self.ready, self._ahead):
            forgotten.clear()
        for job in self.flights.values():
            job.again.clear()
            job.seqs.clear()

    # -- reading the log ----------------------------------------------------------------------------------

    def follow(self, stretch: Stretch, issuer: str, subscriber: str) -> None:
        """Go on along the log, if this is where the position is; otherwise there is a gap, and a walk to be done.

        What is for others is passed over, unless an earlier version is underway, which is read again then. Should it
        be for this subscriber later, that is a change of its own.
        """
        if self.behind or stretch.end <= self.position:
            return
        missed = stretch.start > self.position or stretch.few.get(subscriber, 0) > self.position
        if missed or len(self._pointers) > POINTERS_MAX:
            self.behind = True
            return
        for pointed_issuer, key, seq, audience in stretch.pointers:
            if pointed_issuer != issuer or seq <= self.position:
                continue
            if is_for(subscriber, audience) or self.underway((issuer, key)):
                self._point((issuer, key), seq)
        self._advance(stretch.end)

    def page(self, page: Sequence[Owed], *, end: int, more: bool, make: MakeJob) -> None:
        """Take one page of the walk, which read the log up to ``end``."""
        for owed in page:
            if not self._claimed((owed.issuer, owed.key), owed.seq) and self._enqueue(owed, [owed.seq], make):
                self._outstanding[owed.seq] = None
        self._advance(end)
        self.behind = more

    def take_pointers(self, count: int) -> list[Key]:
        """Take objects that are to be read now; ``loaded`` or ``not_loaded`` has to follow."""
        self._loading = dict(self._pointers.popitem(last=False) for _ in range(min(count, len(self._pointers))))
        return list(self._loading)

    def loaded(self, found: Iterable[Owed], make: MakeJob) -> None:
        """Take what was read of them; an object that is not there is not visible any more."""
        newest = {(owed.issuer, owed.key): owed for owed in found}
        taken, self._loading = self._loading, {}
        for key, seqs in taken.items():
            owed = newest.get(key)
            unclaimed = [seq for seq in seqs if not self._claimed(key, seq)]
            if unclaimed and (owed is None or not self._enqueue(owed, unclaimed, make)):
                self._forget(unclaimed)
            if owed is not None and owed.seq > self.position:
                self._ahead[key] = owed.seq

    def not_loaded(self, generation: int) -> None:
        """Put back what could not be read; what an earlier generation took is forgotten."""
        taken, self._loading = self._loading, {}
        if generation == self.generation:
            for key, seqs in taken.items():
                self._pointers.setdefault(key, []).extend(seqs)

    def _advance(self, position: int) -> None:
        self.position = max(self.position, position)
        if self._ahead:
            self._ahead = {key: seq for key, seq in self._ahead.items() if seq > self.position}

    def _point(self, key: Key, seq: int) -> None:
        """Note that a change is to be read, unless what was read already is as new."""
        if self._claimed(key, seq):
            return
        ready = self.ready.pop(key, None)  # read again: at push time the newest version is sent (B7)
        self._pointers.setdefault(key, []).extend([seq] if ready is None else [*ready.seqs, seq])
        self._outstanding[seq] = None

    def _claimed(self, key: Key, seq: int) -> bool:
        """Hang a change on the job that carries its object already; say whether nothing else is to be done."""
        flight = self.flights.get(key)
        job = flight or self.ready.get(key)
        if job is not None and job.owed.seq >= seq and job.generation == self.generation:
            job.seqs.append(seq)
        elif flight is not None:
            flight.again.append(seq)
        else:
            done = self._ahead.get(key, 0) >= seq
            if done:
                self._forget([seq])
            return done
        self._outstanding[seq] = None
        return True

    def _enqueue(self, owed: Owed, seqs: list[int], make: MakeJob) -> bool:
        job = make(owed, seqs)
        if job is None:
            return False
        older = self.ready.pop(job.key, None)
        if older is not None:
            job.seqs = [*older.seqs, *job.seqs]
        self.ready[job.key] = job
        return True

    # -- sending ------------------------------------------------------------------------------------------

    def launch(self, job: Job | None = None) -> Job:
        """Put a job in flight: the first that is ready, or a retry that was booked."""
        chosen = self.ready.popitem(last=False)[1] if job is None else job
        self.flights[chosen.key] = chosen
        return chosen

    def done(self, job: Job) -> None:
        """Settle a job's numbers: it was delivered, or what came of it is stored."""
        if job.generation == self.generation:
            self._forget(job.seqs)

    def land(self, job: Job, *, life: int) -> bool:
        """Release an object whose request is over and whose outcome is filed; says whether it was released.

        What changed meanwhile is to be read; so is everything that hung on a job that was never sent.
        """
        if job.in_progress or job.unfiled or self.flights.get(job.key) is not job:
            return False
        del self.flights[job.key]
        settled = job.concluded and job.life == life and job.generation == self.generation
        changes = job.again if settled else [*job.seqs, *job.again]
        if not settled:
            self._ahead.pop(job.key, None)  # what was read ahead was not done
        if changes:
            self._pointers.setdefault(job.key, []).extend(changes)
        return True

    def _forget(self, seqs: Iterable[int]) -> None:
        for seq in seqs:
            self._outstanding.pop(seq, None)
