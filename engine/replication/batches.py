"""Shared commits: whatever waits when a commit ends goes into the next one, without waiting for more."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from engine.lifecycle import Background
from engine.store.database import StoreUnavailable

_log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Batches(Generic[T, R]):
    """Collect items while one batch is worked on, and work on them together.

    ``work`` gets a list and returns one result for each item. When it raises, the items are redone one by
    one, so that one that the database refuses fails nobody else's.
    """

    def __init__(self, name: str, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]], batch_max: int) -> None:
        """Remember the work; ``batch_max`` bounds a transaction."""
        self._work = work
        self._batch_max = batch_max
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._arrived = asyncio.Event()
        self._background = Background(name, self._run)

    async def start(self) -> None:
        """Begin to work on what arrives."""
        await self._background.start()

    async def stop(self) -> None:
        """Finish nothing more; who still waits is told that the store is closed."""
        await self._background.stop()
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(StoreUnavailable("the engine is stopping"))

    def add(self, item: T) -> asyncio.Future[R]:
        """Queue an item; the future has its result once it is committed."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return future

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[: self._batch_max], self._waiting[self._batch_max :]
            if not self._waiting:
                self._arrived.clear()
            try:
                await self._together(batch)
            except BaseException:
                # Cancelled in the middle: nobody may wait for an answer that will not come.
                for _, future in batch:
                    if not future.done():
                        future.set_exception(StoreUnavailable("the engine is stopping"))
                raise

    async def _together(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._work([item for item, _ in batch])
        except StoreUnavailable as error:
            _settle_all(batch, error)
        except Exception as error:  # noqa: BLE001 - whoever added the item gets it
            if len(batch) == 1:
                _log.exception("a store operation failed", extra={"action": "store_failed"})
                _settle_all(batch, error)
                return
            for single in batch:
                await self._together([single])
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)


def _settle_all(batch: Sequence[tuple[T, asyncio.Future[R]]], error: Exception) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
