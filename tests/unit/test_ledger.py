"""A push worker's bookkeeping: no number is forgotten, none is settled before its object is done."""

import random

import pytest

from engine.replication.ledger import Job, Key, Ledger
from engine.replication.segments import Stretch
from engine.store.objects import Owed

ISSUER = "BEBEC"
SUBSCRIBER = "NLEMS"
OTHERS = ",DEXYZ,"


class Log:
    """A log, a ledger that reads it, and a receiver: driven by a random history."""

    def __init__(self, seed: int) -> None:
        """Begin with an empty log."""
        self.random = random.Random(seed)
        self.end = 0
        self.newest: dict[str, int] = {}  # object → number of its last change
        self.hidden: set[str] = set()  # objects that are for others now
        self.delivered: dict[str, int] = {}  # object → highest number that the receiver has
        self.filed: dict[str, int] = {}  # object → number of the failed version that is stored
        self.ledger = Ledger(0)

    def owed(self, key: str) -> Owed:
        """Read an object as it is now."""
        return Owed(ISSUER, key, key, self.newest[key], self.newest[key], b"{}")

    def make(self, owed: Owed, seqs: list[int]) -> Job | None:
        """Make a job, unless this version is filed as failed."""
        if self.filed.get(owed.key) == owed.seq:
            return None
        return Job(owed, 0, None, None, 0.0, self.ledger.generation, 1, seqs=seqs)

    def change(self) -> None:
        """Commit changes of some objects, and perhaps announce them."""
        start = self.end
        pointers = []
        for key in self.random.sample("abcdef", self.random.randint(1, 4)):
            self.end += 1
            self.newest[key] = self.end
            audience = self.random.choice((None, None, f",{SUBSCRIBER},DEXYZ,", OTHERS))
            (self.hidden.add if audience == OTHERS else self.hidden.discard)(key)
            pointers.append((ISSUER, key, self.end, audience))
        if self.random.random() < 0.8:
            self.ledger.follow(Stretch(start, self.end, pointers), ISSUER, SUBSCRIBER)

    def read(self) -> None:
        """Read what pointers point to, or the next page of the log."""
        if self.ledger.pointers:
            generation = self.ledger.generation
            keys = self.ledger.take_pointers(self.random.randint(1, 3))
            if self.random.random() < 0.2:
                self.ledger.not_loaded(generation)
            else:
                self.ledger.loaded([self.owed(key) for _, key in keys if key not in self.hidden], self.make)
        elif self.ledger.behind:
            after = self.ledger.position
            seen = [key for key, seq in self.newest.items() if seq > after and key not in self.hidden]
            page = sorted(map(self.owed, seen), key=lambda owed: owed.seq)
            more, page = len(page) > 2, page[:2]
            self.ledger.page(page, end=page[-1].seq if more else self.end, more=more, make=self.make)

    def send(self) -> None:
        """Put a ready object in flight."""
        if self.ledger.ready:
            key = next(iter(self.ledger.ready))
            assert key not in self.ledger.flights, "two requests for one object"
            self.ledger.launch()

    def answer(self) -> None:
        """Let a flight end: delivered, failed and filed, or never sent."""
        if not self.ledger.flights:
            return
        job = self.random.choice(list(self.ledger.flights.values()))
        job.in_progress = False
        outcome = self.random.random()
        job.concluded = outcome < 0.9
        if outcome < 0.6:
            self.delivered[job.owed.key] = max(self.delivered.get(job.owed.key, 0), job.owed.seq)
            self.ledger.done(job)
        elif job.concluded:
            self.filed[job.owed.key] = job.owed.seq
            self.ledger.done(job)
        assert self.ledger.land(job, life=1)

    def check(self) -> None:
        """Hold the watermark against what is done."""
        for key, seq in self.newest.items():
            done = key in self.hidden or max(self.delivered.get(key, 0), self.filed.get(key, 0)) >= seq
            assert done or seq > self.ledger.watermark, f"{key} at {seq} is below the watermark and not done"


STEPS = {"change": 3, "read": 5, "send": 3, "answer": 3, "reset": 0.1}


@pytest.mark.parametrize("seed", range(100))
def test_no_history_leaves_an_object_behind_the_watermark(seed: int):
    """Through gaps, changes in flight, failures and new epochs, what is not done stays above the watermark."""
    log = Log(seed)
    for step in log.random.choices(list(STEPS), list(STEPS.values()), k=200):
        if step == "reset":
            log.ledger.begin_again(log.ledger.watermark)
        else:
            getattr(log, step)()
        log.check()
    log.ledger.behind = True
    for _ in range(200):
        log.read()
        log.send()
        log.answer()
        log.check()

    assert log.ledger.watermark == log.end
    assert log.ledger.outstanding == 0
    assert log.ledger.reserved() == set()


def test_a_change_of_a_ready_object_is_read_again():
    """At push time the newest version is sent, and the older number is settled with it (B7)."""
    log = Log(1)
    log.end, log.newest = 1, {"a": 1}
    log.read()
    log.end, log.newest = 2, {"a": 2}
    log.ledger.follow(Stretch(1, 2, [(ISSUER, "a", 2, None)]), ISSUER, SUBSCRIBER)
    log.read()
    job = log.ledger.launch()

    assert (job.owed.version, sorted(job.seqs)) == (2, [1, 2])


@pytest.mark.parametrize("start", [0, 3])
def test_a_segment_that_does_not_begin_at_the_position_means_a_walk(start: int):
    """A gap is noticed; what lies behind the position is no gap."""
    ledger = Ledger(2)
    ledger.behind = False
    ledger.follow(Stretch(start, start + 1, [(ISSUER, "a", start + 1, None)]), ISSUER, SUBSCRIBER)

    key: Key = (ISSUER, "a")
    assert ledger.behind == (start == 3)
    assert not ledger.underway(key)


def test_what_is_for_others_is_passed_over():
    """No look-up for a pointer that names an audience without us; the position goes on, and so does what is for us."""
    ledger = Ledger(0)
    ledger.behind = False
    pointers = [(ISSUER, "theirs", 1, OTHERS), (ISSUER, "ours", 2, f",{SUBSCRIBER},"), (ISSUER, "nobodys", 3, ",")]
    ledger.follow(Stretch(0, 3, [*pointers, ("BEABC", "strange", 3, None)]), ISSUER, SUBSCRIBER)

    assert ledger.take_pointers(10) == [(ISSUER, "ours")]
    assert (ledger.position, ledger.watermark) == (3, 1)


def test_what_becomes_for_others_while_it_is_ready_is_not_sent():
    """An object that was read already is read again when its audience no longer has us, and then settled."""
    log = Log(1)
    log.end, log.newest = 1, {"a": 1}
    log.read()
    assert log.ledger.ready

    log.end, log.newest, log.hidden = 2, {"a": 2}, {"a"}
    log.ledger.follow(Stretch(1, 2, [(ISSUER, "a", 2, OTHERS)]), ISSUER, SUBSCRIBER)
    assert not log.ledger.ready
    log.read()

    assert not log.ledger.ready
    assert log.ledger.watermark == 2
