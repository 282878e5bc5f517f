"""The gate of a platform: wide while it answers, one probe at a time while it does not."""

import asyncio

import pytest

from engine.peers.gate import WIDE_OPEN, Gate

DOWN_AFTER = 3
PAUSE_MAX_S = 60.0


class Waiter:
    """Wants to send one request that was due at some time."""

    def __init__(self, gate: Gate, due: float = 0.0) -> None:
        self.gate = gate
        self.due = due
        self.was_admitted = asyncio.Event()
        self.sends_at: float | None = None

    def due_at(self) -> float:
        """When it was due."""
        return self.due

    def admitted(self) -> None:
        """Take a place, as a worker does."""
        self.was_admitted.set()
        if self.sends_at is not None:
            assert self.gate.enter(self.sends_at)


@pytest.fixture
def gate():
    """A gate that is wide open."""
    return Gate(down_after_failures=DOWN_AFTER, pause_max_s=PAUSE_MAX_S)


def attempt(gate, *, up, began=0.0, now=0.0):
    """Make one request, and say how it went."""
    assert gate.enter(began)
    gate.leave(began=began, up=up, now=now)


def narrowed(gate, now=0.0):
    """Fail often enough for the platform to count as down."""
    for _ in range(DOWN_AFTER):
        attempt(gate, up=False, began=now, now=now)
    assert gate.narrow
    return gate


def test_it_is_open_while_the_platform_answers(gate):
    """No limit of its own: subscriptions have theirs."""
    assert all(gate.enter(0.0) for _ in range(10 * WIDE_OPEN))
    assert gate.next_probe_in_s(0.0) is None


def test_it_narrows_after_failures_in_a_row(gate):
    """A success in between begins the count again; an answer that says nothing does not count."""
    attempt(gate, up=False)
    attempt(gate, up=False)
    attempt(gate, up=True)
    attempt(gate, up=False)
    attempt(gate, up=None)
    attempt(gate, up=False)
    assert not gate.narrow

    attempt(gate, up=False)
    assert gate.narrow


def test_pauses_between_probes_double_up_to_the_longest(gate):
    """After the k-th failed probe nothing goes there for 2^(k-1) seconds, at most a minute (B6)."""
    narrowed(gate)
    now, pauses = 0.0, []
    for _ in range(9):
        pause = gate.next_probe_in_s(now)
        pauses.append(pause)
        assert not gate.enter(now + pause - 0.001)
        now += pause
        attempt(gate, up=False, began=now, now=now)

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_one_probe_at_a_time(gate):
    """While one is under way there is no place for another."""
    narrowed(gate)

    assert gate.enter(1.0)
    assert not gate.enter(1.0)


def test_what_was_under_way_before_it_narrowed_is_no_probe(gate):
    """A burst that fails together costs one pause, not one for each."""
    for _ in range(100):
        assert gate.enter(0.0)
    for _ in range(100):
        gate.leave(began=0.0, up=False, now=5.0)

    assert gate.next_probe_in_s(5.0) == 1.0


def test_it_widens_by_doubling(gate):
    """No storm when a platform comes back: 2, 4, 8 … at once, and at last no limit."""
    narrowed(gate)
    places = []
    for _ in range(20):
        attempt(gate, up=True, began=1.0, now=1.0)
        if not gate.narrow:
            break
        entered = 0
        while gate.enter(1.0):
            entered += 1
        for _ in range(entered):
            gate.leave(began=1.0, up=None, now=1.0)
        places.append(entered)

    assert places == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert not gate.narrow


def test_a_failure_while_it_widens_narrows_it_again(gate):
    """One probe, and the first pause again."""
    narrowed(gate)
    for _ in range(4):
        attempt(gate, up=True, began=1.0, now=1.0)
    attempt(gate, up=False, began=2.0, now=2.0)

    assert gate.next_probe_in_s(2.0) == 1.0
    assert gate.enter(3.0)
    assert not gate.enter(3.0)


async def test_waiters_are_let_in_the_earliest_due_first(gate):
    """The probe is the attempt that has waited longest (B6)."""
    now = asyncio.get_running_loop().time()
    narrowed(gate, now - 10.0)
    late, early = Waiter(gate, due=2.0), Waiter(gate, due=1.0)
    for waiter in (late, early):
        waiter.sends_at = now
        gate.wait(waiter, now)

    gate.let_in(now)

    assert early.was_admitted.is_set()
    assert not late.was_admitted.is_set()


async def test_a_place_that_is_given_back_goes_to_who_waits(gate):
    """A success lets in as many as there are places now."""
    now = asyncio.get_running_loop().time()
    narrowed(gate, now - 10.0)
    assert gate.enter(now)
    waiters = [Waiter(gate, due=float(number)) for number in range(4)]
    for waiter in waiters:
        waiter.sends_at = now
        gate.wait(waiter, now)
    assert not any(waiter.was_admitted.is_set() for waiter in waiters)

    gate.leave(began=now, up=True, now=now)

    assert [waiter.was_admitted.is_set() for waiter in waiters] == [True, True, False, False]


async def test_who_waits_is_let_in_when_the_pause_is_over():
    """Nobody has to ask again."""
    gate = Gate(down_after_failures=1, pause_max_s=0.01)
    now = asyncio.get_running_loop().time()
    attempt(gate, up=False, began=now, now=now)
    waiter = Waiter(gate)
    gate.wait(waiter, now)

    await waiter.was_admitted.wait()

    assert asyncio.get_running_loop().time() >= now + 0.01


async def test_who_is_forgotten_is_not_called(gate):
    """A worker that stopped has nothing to send."""
    now = asyncio.get_running_loop().time()
    narrowed(gate, now - 10.0)
    waiter = Waiter(gate)
    gate.wait(waiter, now)
    gate.forget(waiter)
    gate.forget(waiter)

    gate.let_in(now)

    assert not waiter.was_admitted.is_set()
