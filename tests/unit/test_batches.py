"""Shared commits: who goes together, and who pays for whose fault."""

import asyncio
from collections.abc import Sequence

import pytest

from engine.replication.batches import Batches
from engine.store.database import StoreUnavailable


class Work:
    """A store that does one batch at a time, when the test says so."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.refuses: set[int] = set()
        self.unavailable = False

    async def __call__(self, items: Sequence[int]) -> list[int]:
        """Double each item."""
        self.batches.append(list(items))
        self.began.set()
        await self.go_on.wait()
        if self.unavailable:
            raise StoreUnavailable("disk full")
        if bad := self.refuses.intersection(items):
            raise ValueError(f"the database refuses {bad}")
        return [item * 2 for item in items]


@pytest.fixture
def work():
    """The store."""
    return Work()


@pytest.fixture
async def batches(work):
    """Batches of at most four items, running."""
    running: Batches[int, int] = Batches("test", work, 4)
    await running.start()
    yield running
    await running.stop()


async def test_whatever_waits_goes_together(batches, work):
    """The first goes alone, at once; what arrives meanwhile shares the next commit."""
    work.go_on.clear()
    first = batches.add(1)
    await work.began.wait()
    others = [batches.add(number) for number in (2, 3, 4)]
    work.go_on.set()

    assert await first == 2
    assert await asyncio.gather(*others) == [4, 6, 8]
    assert work.batches == [[1], [2, 3, 4]]


async def test_a_batch_is_bounded(batches, work):
    """What is more waits for the next, in the order of arrival (P8)."""
    results = await asyncio.gather(*(batches.add(number) for number in range(10)))

    assert results == [number * 2 for number in range(10)]
    assert work.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_one_that_is_refused_fails_nobody_else(batches, work):
    """The batch is done again one by one (P5)."""
    work.refuses = {2}
    results = await asyncio.gather(*(batches.add(number) for number in (1, 2, 3)), return_exceptions=True)

    assert results[0] == 2
    assert isinstance(results[1], ValueError)
    assert results[2] == 6
    assert work.batches == [[1, 2, 3], [1], [2], [3]]


async def test_a_store_that_is_out_of_order_fails_all_at_once(batches, work):
    """Nobody's own fault, so nothing is tried one by one; and it goes on when there is room again (P3)."""
    work.unavailable = True
    results = await asyncio.gather(*(batches.add(number) for number in (1, 2)), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable, StoreUnavailable]
    assert work.batches == [[1, 2]]

    work.unavailable = False
    assert await batches.add(3) == 6


async def test_who_has_gone_away_does_not_hold_up_the_others(batches, work):
    """A request that was cut off is stored all the same, and its neighbour hears of its own."""
    work.go_on.clear()
    gone, stays = batches.add(1), batches.add(2)
    await work.began.wait()
    gone.cancel()
    work.go_on.set()

    assert await stays == 4
    assert work.batches == [[1, 2]]


async def test_stopping_leaves_nobody_waiting(work):
    """Who is in the middle of a commit, and who waits for the next, hears that it did not happen (P3)."""
    batches: Batches[int, int] = Batches("test", work, 4)
    await batches.start()
    work.go_on.clear()
    in_progress = batches.add(1)
    await work.began.wait()
    waiting = batches.add(2)

    await batches.stop()

    for future in (in_progress, waiting):
        with pytest.raises(StoreUnavailable, match="stopping"):
            await future
