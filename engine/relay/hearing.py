"""Who waits for what becomes of a call hears of its changes, whichever process made them."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from engine.store.database import Tx

T = TypeVar("T")


class Hearing:
    """Changed calls by id. Nothing is kept: who hears of a change reads the call."""

    def __init__(self) -> None:
        """Begin without anybody who listens."""
        self._listening: dict[int, set[asyncio.Event]] = {}
        self.on_deadline: Callable[[float], None] = lambda _at: None
        """Hears of the deadline of a call that is new; 0.0: another process has changed some, and it may be any."""

    def tell_after(self, tx: Tx, call_id: int) -> None:
        """Tell of a call's change once it is stored."""
        tx.after_commit.append(lambda: self.tell(call_id))

    def tell(self, call_id: int) -> None:
        """Tell of a call's change."""
        for event in self._listening.get(call_id, ()):
            event.set()

    async def changed_elsewhere(self, call_ids: frozenset[int]) -> None:
        """Tell of what other processes changed; without ids, whatever it may have been."""
        for call_id in call_ids or frozenset(self._listening):
            self.tell(call_id)
        self.on_deadline(0.0)

    async def until(self, call_id: int, read: Callable[[], Awaitable[T | None]], *, within_s: float) -> T | None:
        """Read now and after each change, until there is something or the time is over."""
        with self._listen(call_id) as changed:
            try:
                async with asyncio.timeout(within_s):
                    while (found := await read()) is None:
                        await changed.wait()
                        changed.clear()
                return found
            except TimeoutError:
                return await read()

    @contextmanager
    def _listen(self, call_id: int) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        listening = self._listening.setdefault(call_id, set())
        listening.add(event)
        try:
            yield event
        finally:
            listening.discard(event)
            if not listening:
                self._listening.pop(call_id, None)
