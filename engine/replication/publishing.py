"""The way in for objects that parties hosted here issue: checked, numbered, stored, and owed to whoever subscribed."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from engine import faults
from engine.clock import Clock
from engine.protocol.ids import PartyId
from engine.protocol.modules import Module, all_modules, module
from engine.protocol.objects import reissued_version
from engine.refusals import NotFoundHere
from engine.registration.directory import Directory
from engine.replication import replacing
from engine.replication.batches import Batches
from engine.replication.issuing import Item, Publication, Published, Request, issue, look
from engine.replication.replacing import Replaced
from engine.store import objects
from engine.store.database import Database, Tx
from engine.store.objects import Change

_log = logging.getLogger(__name__)

REISSUE_PAGE = 500  # objects given a new version in one commit
BATCH_MAX = 64  # publications of different callers that share one commit


class Publishing:
    """The way in for a hosted party's objects."""

    def __init__(self, database: Database, directory: Directory, clock: Clock) -> None:
        """Use these; nothing runs before ``start``."""
        self._database = database
        self._directory = directory
        self._clock = clock
        self._batches: Batches[Request, list[Published]] = Batches("publish", self._store, BATCH_MAX)

    async def start(self) -> None:
        """Begin to take publications."""
        await self._batches.start()

    async def stop(self) -> None:
        """Take no more; who waits is told that nothing was stored."""
        await self._batches.stop()

    async def publish(self, party: PartyId, module_name: str, items: Sequence[Publication]) -> list[Published]:
        """Issue objects; each is answered by itself, and what is answered with success is durable (P3).

        Raises ``NotFoundHere`` for a party or module that is not served here, ``StoreUnavailable`` when nothing
        could be stored.
        """
        served = self._served(party, module_name)
        looked_at = [look(served, item) for item in items]
        good = [item for item in looked_at if isinstance(item, Item)]
        faults.passing("publish.received")
        if not good:
            return [item for item in looked_at if isinstance(item, Published)]
        stored = iter(await self._batches.add(Request(party, served, good)))
        faults.passing("publish.stored")
        return [next(stored) if isinstance(item, Item) else item for item in looked_at]

    async def replace(
        self,
        party: PartyId,
        module_name: str,
        object_id: str,
        new: Sequence[Publication] = (),
        *,
        new_id: str | None = None,
        effective_at: float | None = None,
    ) -> list[Replaced]:
        """Issue what takes the place of an object that never changes: all of it, or nothing.

        Raises ``NotFoundHere`` and ``Refused`` with the reason, ``NotAccepted`` for objects that do not conform,
        ``StoreUnavailable``.
        """
        served = self._served(party, module_name)
        senders = {one.id: one for one in all_modules() if self._directory.module_served(party, one.id, "SENDER")}
        order = replacing.order_of(
            party, served, object_id, new, new_id=new_id, effective_at=effective_at, senders=senders
        )
        now = self._clock.now()
        issued = await self._database.write(lambda tx: replacing.carry_out(tx, order, now))
        faults.passing("publish.stored")
        return issued

    def _served(self, party: PartyId, module_name: str) -> Module:
        served = module(module_name)
        if served is None:
            raise NotFoundHere(f"there is no module {module_name!r} here")
        if self._directory.hosted(party) is None:
            raise NotFoundHere(f"{party} is not hosted here; add it with `ocpi-engine parties add`")
        if not self._directory.module_served(party, served.id, "SENDER"):
            raise replacing.not_a_sender(party, served.id)
        return served

    async def _store(self, requests: Sequence[Request]) -> list[list[Published]]:
        now = self._clock.now()

        async def issue_all(tx: Tx) -> list[list[Published]]:
            return [await issue(tx, request, now) for request in requests]

        return await self._database.write(issue_all)

    async def reissue(self, party: PartyId | None = None, module_name: str | None = None, *, above: int = 0) -> int:
        """Give every mutable object issued here a new version, above any that was ever sent (B9); returns how many.

        ``above``: a version that was sent, if more is known of it than what is stored here.
        Those that may not change any more too: it is the version that changes, and receivers hold a higher one.
        """
        chosen = None if module_name is None else module(module_name)
        if module_name is not None and chosen is None:
            raise NotFoundHere(f"there is no module {module_name!r} here")
        after, count = 0, 0
        while True:
            async with self._database.transaction() as tx:
                now = self._clock.now()
                page = await objects.reissuable(
                    tx, party=party, module=None if chosen is None else chosen.id, after=after, limit=REISSUE_PAGE
                )
                mutable = [change for _, change in page if not _is_immutable(change.module)]
                renewed = [_renumbered(change, now, above) for change in mutable]
                await objects.store(tx, renewed, received=False, now=now)
            count += len(renewed)
            if len(page) < REISSUE_PAGE:
                return count
            after = page[-1][0]


def _is_immutable(module_name: str) -> bool:
    known = module(module_name)
    return known is None or known.immutable


def _renumbered(change: Change, now: float, above: int) -> Change:
    return replace(change, version=reissued_version(change.version, now, above=above))
