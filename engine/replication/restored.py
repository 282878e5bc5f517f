"""What is done to a database that is older than what was sent from it: a backup, or a replica that lagged behind.

Partners hold versions that it does not know, its logs handed out numbers that it forgot, subscriptions began and
ended without it. Versions and numbers go above all that may have been used, everything is owed again, and our own
subscriptions are asked for again. What is only here mends itself: a partner that subscribed meanwhile asks for its
state and is told that there is none, one that cancelled meanwhile answers 6002.
"""

import logging
from dataclasses import dataclass

from engine.clock import Clock
from engine.protocol.modules import all_modules
from engine.protocol.subscriptions import INBOUND, InboundEvent, InboundState, OutboundState
from engine.registration.directory import Directory
from engine.replication.publishing import Publishing
from engine.store import exceptions, objects, platforms, subscriptions
from engine.store.database import Database, Tx

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done: objects with a new version, subscriptions that owe everything again, ours that are asked for."""

    objects: int
    subscriptions_here: int
    subscriptions_of_ours: int


async def mend(database: Database, clock: Clock, *, timeout_max_s: float, above: int = 0) -> Mended:
    """Make an older database one that can be served; nothing else may use it meanwhile.

    ``above``: what ``objects.highest`` told after the last time, of which an older database need not know.
    It takes several transactions. If it is interrupted, or repeated, all of it is done again, which does no harm.
    Raises ``StoreUnavailable``.
    """
    _log.info("an older database is being mended", extra={"action": "restored_begun"})
    async with database.transaction() as tx:
        await objects.raise_numbers(tx, [module.id for module in all_modules()], clock.now(), above=above)
    reissued = await Publishing(database, Directory(database, clock), clock).reissue(above=above)
    async with database.transaction() as tx:
        await platforms.forget_fetches(tx)
        here = await _owe_everything(tx, clock.now(), timeout_max_s)
        ours = await _ask_again(tx, clock.now())
    return Mended(reissued, here, ours)


async def _owe_everything(tx: Tx, now: float, timeout_max_s: float) -> int:
    """Let partners' subscriptions begin at the beginning, once what was sent to them meanwhile is over.

    As after an unclean end (D3), in ended ones too: the receiver may have begun another life of it since. What waits
    for its backoff goes on waiting; what was refused is sent again, as in a new life (D13).
    """
    timeouts_s = {
        platform.id: timeout_max_s
        if platform.request_timeout_ms is None
        else min(platform.request_timeout_ms / 1000, timeout_max_s)
        for platform in await platforms.all_platforms(tx)
    }
    rows = await subscriptions.all_outbound(tx)
    ends = {module: await objects.last_number(tx, module) for module in {row.module for row in rows}}
    live = 0
    for row in rows:
        wait_s = timeouts_s[row.platform_id]
        values: dict[str, object] = {}
        if row.state == OutboundState.LIVE:
            live += 1
            wait_s = max(wait_s, row.retry_interval_s)
            end = ends[row.module]
            values = {"watermark": 0, "caught_up": False, "catch_up_to": end, "attempted_to": end}
            await exceptions.clear(tx, row.id, rejected_only=True)
        await subscriptions.change_outbound(tx, row, hold_until=now + wait_s, **values)
    return live


async def _ask_again(tx: Tx, now: float) -> int:
    """Begin a new life of every subscription of ours that is wanted, so that copies come at whatever version (B27)."""
    asked = 0
    for row in await subscriptions.all_inbound(tx):
        state = InboundState(row.state)
        if INBOUND.allows(state, InboundEvent.RESTORED):
            asked += 1
            asking = INBOUND.after(state, InboundEvent.RESTORED).value
            await subscriptions.change_inbound(
                tx, row, state=asking, life=row.life + 1, attempts=0, ended_at=None, next_action_at=now
            )
    return asked
