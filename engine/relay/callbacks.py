"""Delivering results to whoever asked: durably, with backoff, until they are taken (B34).

::

    store: results owed ──▶ a lane for each platform that is owed some ──▶ the platform's gate ──▶ POST async-responses
               ▲               of each call the first one only; some at once                             │
               └──────── 1000 · 404: settled │ anything else: due again, after a pause that doubles ◀────┘

A lane lives as long as its platform is owed something, in one process: it claims the platform. What is owed and when
it is due stands in the store alone, so a lane may end at any moment, and the next one, here or elsewhere, goes on. A
platform that is down costs one probe at a time, shared with the updates for it (B6), and delays no other platform.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from engine import faults
from engine.clock import Clock
from engine.lifecycle import RESTART_PAUSE_S, Background
from engine.peers.calls import CallRequests, Delivered
from engine.peers.gate import Gate
from engine.protocol.calls import Delivery
from engine.protocol.ids import PartyId
from engine.registration.directory import Directory
from engine.registration.errands import finish, pause_s
from engine.settings import Calls as CallSettings
from engine.store import calls, processes
from engine.store.calls import Owed
from engine.store.database import Database, StoreUnavailable
from engine.store.membership import Membership

_log = logging.getLogger(__name__)

CLAIM: Final = "callbacks"
LOOK_AGAIN_S: Final = 5.0  # for what a process that is gone left behind; its own wakes a lane at once
LANE_LOOKS_S: Final = 60.0  # a lane is woken by what it waits for; should that be lost, it is late by this much
HOUR_S: Final = 3600.0


class Callbacks:
    """A service: delivers what is owed from ``start`` to ``stop``."""

    def __init__(
        self,
        *,
        database: Database,
        requests: CallRequests,
        gate: Callable[[int], Gate],
        directory: Directory,
        membership: Membership,
        clock: Clock,
        settings: CallSettings,
    ) -> None:
        """Use these; ``gate`` is a platform's own, for whatever is sent there."""
        self.database = database
        self.requests = requests
        self.gate = gate
        self.directory = directory
        self.membership = membership
        self.clock = clock
        self.settings = settings
        self._lanes: dict[int, _Lane] = {}
        self._look_now = asyncio.Event()
        self._stopping = False
        self._looking = Background("callbacks", self._keep_looking, expected=(StoreUnavailable,))
        membership.on_lapsed.append(self._let_go)
        membership.on_gone.append(self.look)

    async def start(self) -> None:
        """Go on with what is owed."""
        self._stopping = False
        await self._looking.start()

    async def stop(self) -> None:
        """Begin nothing more, and wait a moment for answers; what is not answered is owed still."""
        self._stopping = True
        await self._looking.stop()
        for lane in self._lanes.values():
            lane.end()
        await asyncio.gather(*(lane.task for lane in self._lanes.values()), return_exceptions=True)

    def look(self) -> None:
        """Look for what is owed: something changed."""
        self._look_now.set()

    def wake(self, platform_id: int) -> None:
        """Deliver to a platform now."""
        if self._stopping:
            return
        lane = self._lanes.get(platform_id)
        if lane is not None:
            lane.wake()
            return
        lane = self._lanes[platform_id] = _Lane(self, platform_id)
        lane.task.add_done_callback(lambda _task: self._ended(lane))

    def _ended(self, lane: "_Lane") -> None:
        self._lanes.pop(lane.platform_id, None)
        if lane.woken:
            self.look()

    def _let_go(self) -> None:
        """Claims are void once the lease has run out: other processes may deliver now."""
        for lane in self._lanes.values():
            lane.end()
        self.look()

    async def _keep_looking(self) -> None:
        while True:
            self._look_now.clear()
            async with self.database.reading() as tx:
                owed = await calls.platforms_owed(tx)
                elsewhere = await processes.claimed(tx, CLAIM, but=self.membership.process_id)
            for platform_id in owed.keys() - elsewhere:
                self.wake(platform_id)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._look_now.wait()


class _Lane:
    """Delivers to one platform until nothing is owed to it."""

    def __init__(self, callbacks: Callbacks, platform_id: int) -> None:
        self.platform_id = platform_id
        self._callbacks = callbacks
        self._gate = callbacks.gate(platform_id)
        self._changed = asyncio.Event()
        self._flying: dict[int, asyncio.Task[None]] = {}  # by call
        self._ending = False
        self._next_due_at = 0.0
        self.task = asyncio.create_task(self._run(), name=f"callbacks to {platform_id}")

    @property
    def woken(self) -> bool:
        """Whether something was owed after the last look."""
        return self._changed.is_set()

    def wake(self) -> None:
        """Look again."""
        self._changed.set()

    def end(self) -> None:
        """Begin nothing more."""
        self._ending = True
        self._changed.set()

    def due_at(self) -> float:
        """When its next request was due, for the gate to let the earliest in first."""
        return self._next_due_at

    def admitted(self) -> None:
        """Go on: the gate has a place again."""
        self._changed.set()

    async def _run(self) -> None:
        callbacks = self._callbacks
        try:
            async with callbacks.membership.claiming(CLAIM, self.platform_id) as mine:
                if not mine:
                    self._changed.clear()  # whoever has the claim was told as well
                    return
                try:
                    await self._deliver_all()
                finally:
                    await finish(self._flying.values())
        except StoreUnavailable as error:
            _log.warning("the store is out of order: %s", error, extra={"action": "store_unavailable"})
            await asyncio.sleep(RESTART_PAUSE_S)
        except Exception:  # noqa: BLE001 - whatever it was, it is owed still, and looked for again
            _log.exception("callbacks failed", extra={"action": "callbacks_failed", "to": self.platform_id})
            await asyncio.sleep(RESTART_PAUSE_S)
        finally:
            self._gate.forget(self)

    async def _deliver_all(self) -> None:
        at_once = self._callbacks.settings.callbacks_at_once
        while not self._ending:
            self._changed.clear()
            owed = await self._owed(frozenset(self._flying), at_once)
            if not owed and not self._flying:
                return
            wait_s = self._begin(owed, at_once)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()

    async def _owed(self, but: frozenset[int], limit: int) -> list[Owed]:
        return await self._callbacks.database.read(lambda tx: calls.owed_to(tx, self.platform_id, but=but, limit=limit))

    def _begin(self, owed: list[Owed], at_once: int) -> float | None:
        """Send what is due, as far as places and gate allow; returns how long there is nothing to do."""
        callbacks, loop = self._callbacks, asyncio.get_running_loop()
        now = callbacks.clock.now()
        for one in owed:
            if len(self._flying) >= at_once:
                return None
            self._next_due_at = one.due_at
            if one.due_at > now:
                return min(one.due_at - now, LANE_LOOKS_S)
            if not callbacks.directory.connected(self.platform_id):
                return LOOK_AGAIN_S
            if not self._gate.enter(loop.time()):
                self._gate.wait(self, loop.time())
                return LANE_LOOKS_S
            self._flying[one.call_id] = asyncio.create_task(self._deliver(one), name=f"callback {one.result_id}")
        return LANE_LOOKS_S

    async def _deliver(self, owed: Owed) -> None:
        """Make one attempt, and store what came of it before the next one can begin."""
        try:
            outcome = await self._attempt(owed)
            if outcome.platform_up is None:
                await asyncio.sleep(RESTART_PAUSE_S)  # this process may not send at the moment
            else:
                await self._file(owed, outcome)
        except Exception:  # noqa: BLE001 - whatever it was, it is owed still
            _log.exception("a callback failed", extra={"action": "callbacks_failed", "call": owed.call_id})
            await asyncio.sleep(RESTART_PAUSE_S)
        finally:
            self._flying.pop(owed.call_id, None)
            self._changed.set()

    async def _attempt(self, owed: Owed) -> Delivered:
        loop = asyncio.get_running_loop()
        began = loop.time()
        up: bool | None = None
        faults.passing("callback.sending")
        try:
            outcome = await self._callbacks.requests.deliver(
                self.platform_id,
                PartyId(owed.sender),
                PartyId(owed.receiver),
                owed.callback_id,
                owed.body,
                correlation_id=owed.correlation_id,
            )
            up = outcome.platform_up
        finally:
            self._gate.leave(began=began, up=up, now=loop.time())
        faults.passing("callback.answered")
        return outcome

    async def _file(self, owed: Owed, outcome: Delivered) -> None:
        """Store what came of an attempt; without that it is not begun again."""
        settings, clock = self._callbacks.settings, self._callbacks.clock
        attempts, now = owed.attempts + 1, clock.now()
        delivery = outcome.delivery
        if delivery is Delivery.OWED and now - owed.at >= settings.callback_give_up_h * HOUR_S:
            delivery = Delivery.GIVEN_UP
        values: dict[str, object] = {"attempts": attempts, "delivery": delivery, "last_error": outcome.why}
        if delivery is Delivery.OWED:
            pause = pause_s(attempts, first_s=settings.callback_again_s, longest_s=settings.callback_again_max_s)
            values["due_at"] = now + pause
        else:
            values |= {"due_at": None, "settled_at": now}
        if delivery in (Delivery.UNKNOWN, Delivery.GIVEN_UP):
            _log.warning(
                "a result of call %s could not be delivered: %s",
                owed.call_id,
                outcome.why,
                extra={"action": "callback_lost", "call": owed.call_id, "delivery": delivery.value},
            )
        while True:
            try:
                await self._callbacks.database.write(lambda tx: calls.change_result(tx, owed.result_id, **values))
                return
            except StoreUnavailable as error:
                _log.warning("the store is out of order: %s", error, extra={"action": "store_unavailable"})
                await asyncio.sleep(RESTART_PAUSE_S)
