"""What time does to calls: without a result by their deadline they have timed out; old ones are forgotten."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import Final

from engine.clock import Clock
from engine.lifecycle import Background
from engine.protocol.calls import ASKED_HERE, DONE_HERE, AsyncResult, CallEvent, Meaning
from engine.protocol.modules.bodies import AsyncResultType
from engine.relay.calls import owe_result
from engine.relay.hearing import Hearing
from engine.settings import Calls as CallSettings
from engine.store import calls
from engine.store.database import Database, StoreUnavailable, Tx
from engine.store.membership import Membership

_log = logging.getLogger(__name__)

WORK: Final = "call deadlines"  # the periodic work, which one process does
TOGETHER_MAX: Final = 100  # calls in one transaction: some 20 ms in which nothing else is written
LOOK_AGAIN_S: Final = 30.0  # a deadline is told of when it is stored; should that be lost, it is late by this much
FORGET_EVERY_S: Final = 3600.0
DAY_S: Final = 86_400.0
TIMED_OUT: Final = AsyncResult(result_type=AsyncResultType.TIMEOUT)


class Deadlines:
    """A service: ends what is overdue, and forgets what ended long ago."""

    def __init__(
        self,
        *,
        database: Database,
        hearing: Hearing,
        owe: Callable[[int], None],
        membership: Membership,
        clock: Clock,
        settings: CallSettings,
    ) -> None:
        """Use these; ``owe`` hears that a platform is owed a result."""
        self._database = database
        self._hearing = hearing
        self._owe = owe
        self._membership = membership
        self._clock = clock
        self._settings = settings
        self._changed = asyncio.Event()
        self._looks_at = math.inf  # when it looks by itself; while it looks, whatever is new makes it look again
        self._forget_at = 0.0
        self._watching = Background("call deadlines", self._watch, expected=(StoreUnavailable,))

    async def start(self) -> None:
        """Begin with what became overdue meanwhile."""
        self._hearing.on_deadline = self._heard
        self._membership.on_gone.append(self._changed.set)
        await self._watching.start()

    async def stop(self) -> None:
        """End nothing more."""
        await self._watching.stop()

    def _heard(self, deadline: float) -> None:
        """Look again for a deadline that comes before that."""
        if deadline < self._looks_at:
            self._changed.set()

    async def _watch(self) -> None:
        while True:
            self._changed.clear()
            self._looks_at = math.inf
            if not await self._membership.leads_or_waits(WORK, self._changed):
                continue
            wait_s = await self._end_overdue()
            if self._clock.now() >= self._forget_at:
                await self._forget()
            self._looks_at = self._clock.now() + wait_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    async def _end_overdue(self) -> float:
        """End what is overdue; returns how long nothing will be, as far as is known."""
        while True:
            now = self._clock.now()
            next_at = await self._database.read(calls.next_deadline)
            if next_at is None or next_at > now:
                return LOOK_AGAIN_S if next_at is None else min(next_at - now, LOOK_AGAIN_S)
            async with self._database.transaction() as tx:
                for call_id in await calls.overdue(tx, now=now, limit=TOGETHER_MAX):
                    await self._end(tx, call_id, now)

    async def _end(self, tx: Tx, call_id: int, now: float) -> None:
        call = await calls.by_id(tx, call_id, lock=True)
        if call is None or call.ended_at is not None:
            return
        self._hearing.tell_after(tx, call_id)
        _log.warning(
            "call %s timed out: %s/%s of %s by %s",
            call_id,
            call.module,
            call.operation,
            call.receiver,
            call.sender,
            extra={"action": "call_timed_out", "call": call_id},
        )
        if call.asked_here or not call.asynchronous:
            lives = ASKED_HERE if call.asked_here else DONE_HERE
            why = call.message or "there was no result by the deadline"
            state = lives.after(call.state, CallEvent.DEADLINE)
            await calls.change(tx, call_id, state=state, ended_at=now, message=why)
            return
        platform_id = call.platform_id
        note = "the back office gave no result"
        await owe_result(tx, call, TIMED_OUT, Meaning.RESULT, note=note, now=now, held_s=0.0)
        tx.after_commit.append(lambda: self._owe(platform_id))

    async def _forget(self) -> None:
        """Forget what ended long ago, a part at a time."""
        now = self._clock.now()
        before = now - self._settings.keep_days * DAY_S
        gone = TOGETHER_MAX
        while gone == TOGETHER_MAX:
            async with self._database.transaction() as tx:
                gone = await calls.forget(tx, ended_before=before, limit=TOGETHER_MAX)
        self._forget_at = now + FORGET_EVERY_S
