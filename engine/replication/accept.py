"""Updates that partners push to us: checked in the order of B1, stored in shared commits, then answered.

The subscription is looked up in memory, since the path is the same thousands of times; the commit looks once
more, so that what was cancelled meanwhile is not taken.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine import faults
from engine.clock import Clock
from engine.logs import security_event
from engine.protocol.errors import ClientError, Immutable, NotSubscribed, SchemaViolated
from engine.protocol.ids import ObjectKey, PartyId
from engine.protocol.modules import Module, SchemaViolation, module
from engine.protocol.objects import Update, Verdict, decide
from engine.registration.directory import Directory
from engine.replication.batches import Batches
from engine.replication.consuming import Consuming, Taking
from engine.store import objects
from engine.store.database import Database, Tx
from engine.store.objects import Change, Held
from engine.store.subscriptions import InboundSubscription

_log = logging.getLogger(__name__)

WARNINGS_MAX = 10_000  # kinds of warnings counted; peers choose the fields
REGRESSIONS_MAX = 1000  # copies whose producer confirms a lower version (B27) that are remembered to be shown


@dataclass(frozen=True, slots=True)
class _Item:
    subscription: InboundSubscription
    module: Module
    update: Update
    valid: bool
    audience: str | None = None
    concluded_at: float | None = None


Known = tuple[int, str, ObjectKey]
"""A copy: the subscription that it came under, its issuer, its key."""


@dataclass(slots=True)
class _Stored:
    """What became of a batch, item by item, and what is to be remembered of it."""

    verdicts: list[Verdict | None] = field(default_factory=list)
    taken: list[Known] = field(default_factory=list)
    not_newer: list[tuple[Known, int, int]] = field(default_factory=list)  # our version, and theirs


class Accepting:
    """The way in for partners' objects."""

    def __init__(
        self, database: Database, directory: Directory, consuming: Consuming, clock: Clock, *, batch_max: int
    ) -> None:
        """Use these; nothing runs before ``start``."""
        self._database = database
        self._directory = directory
        self._consuming = consuming
        self._clock = clock
        self._batches: Batches[_Item, Verdict | None] = Batches("accept", self._store, batch_max)
        self.warnings: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.regressions: dict[Known, tuple[int, int]] = {}

    async def start(self) -> None:
        """Begin to take updates."""
        await self._batches.start()

    async def stop(self) -> None:
        """Take no more; what was not committed is answered as unavailable, and so sent again."""
        await self._batches.stop()

    async def check_subscribed(self, *, platform_id: int, sender: PartyId, receiver: PartyId, module_name: str) -> None:
        """Make B1's first check, which comes before a look at the body.

        Raises ``NotSubscribed``.
        """
        if self._consuming.taking(platform_id, receiver, sender, module_name) is None:
            await self._consuming.look_again()
            if self._consuming.taking(platform_id, receiver, sender, module_name) is None:
                raise NotSubscribed

    async def accept(
        self, *, platform_id: int, sender: PartyId, receiver: PartyId, module_name: str, update: Update
    ) -> bool:
        """Take an update whose sender may speak for its party; returns whether the object is new to us.

        Raises the ``OcpiError`` of B1's first check that fails. What is answered with success is durable (P3).
        """
        subscription = self._consuming.taking(platform_id, receiver, sender, module_name)
        served = module(module_name)
        if subscription is None or served is None:
            raise NotSubscribed
        await self._check_issuer(platform_id, sender, update)
        faults.passing("accept.received")
        try:
            warnings = served.accept(update.payload, tolerant=subscription.tolerant)
        except SchemaViolation as violation:
            await self._refuse(subscription, served, update, violation)
            return False
        if warnings:
            self._count(subscription, served, [warning.pointer for warning in warnings])
        item = _Item(
            subscription.row,
            served,
            update,
            valid=True,
            audience=objects.audience_text(served.audience(update.payload)),
            concluded_at=served.concluded_at(update.payload),
        )
        verdict = await self._batches.add(item)
        faults.passing("accept.stored")
        if verdict is None:
            raise NotSubscribed
        if verdict is Verdict.IMMUTABLE:
            raise Immutable(f"{served.id} are immutable, and we hold another version of {update.object_id}")
        return verdict is Verdict.STORE_NEW

    async def _check_issuer(self, platform_id: int, sender: PartyId, update: Update) -> None:
        """Let a party speak for itself, and a hub party for whom its platform serves (B1)."""
        if update.issuer == sender:
            return
        if self._directory.hub_party(platform_id) == sender and await self._consuming.serves(
            platform_id, update.issuer
        ):
            return
        security_event(
            "issuer_refused",
            "a platform sent an object of a party that it does not serve to us",
            platform=self._directory.platform(platform_id).identity,
            sender=sender,
            issuer=update.issuer,
        )
        raise ClientError(f"{sender} may not send objects of {update.issuer}: your platform does not serve that party")

    async def _refuse(self, subscription: Taking, served: Module, update: Update, violation: SchemaViolation) -> None:
        """Answer an invalid payload: not newer and immutable come before the schema (B1)."""
        verdict = await self._batches.add(_Item(subscription.row, served, update, valid=False))
        if verdict is None:
            raise NotSubscribed
        if verdict is Verdict.NOT_NEWER:
            return
        if verdict is Verdict.IMMUTABLE:
            raise Immutable(f"{served.id} are immutable, and we hold another version of {update.object_id}")
        data = [
            {"field": problem.pointer, "found": problem.found, "expected": problem.expected}
            for problem in violation.problems
        ]
        raise SchemaViolated(f"the payload has {violation.problem_count} fault(s)", data=data)

    def _count(self, subscription: Taking, served: Module, pointers: Sequence[str]) -> None:
        counted = self.warnings[subscription.row.platform]
        for pointer in pointers:
            # Positions in lists are not told apart: locations/…/evses/3/presence counts as …/evses/*/presence.
            kind = served.id + "/".join("*" if token.isdigit() else token for token in pointer.split("/"))
            if kind in counted or len(counted) < WARNINGS_MAX:
                counted[kind] += 1

    async def _store(self, items: Sequence[_Item]) -> list[Verdict | None]:
        stored = await self._database.write(lambda tx: self._store_in(tx, items, self._clock.now()))
        for known in stored.taken:
            self.regressions.pop(known, None)
        for known, ours, theirs in stored.not_newer:
            self._compare(known, ours, theirs)
        return stored.verdicts

    async def _store_in(self, tx: Tx, items: Sequence[_Item], now: float) -> _Stored:
        """Judge and store; touches nothing but its arguments, since it may run in another thread."""
        lives, held = await self._held(tx, items)
        stored = _Stored()
        changes: dict[Known, Change] = {}
        for item in items:
            update, row = item.update, item.subscription
            life = lives.get(row.id)
            if life is None:
                stored.verdicts.append(None)
                continue
            known = (row.id, str(update.issuer), update.key)
            copy = held.get(known)
            verdict = decide(
                None if copy is None else copy.version,
                update.version,
                same_life=copy is not None and copy.life == life,
                immutable=item.module.immutable,
            )
            stored.verdicts.append(verdict)
            if verdict is Verdict.NOT_NEWER and copy is not None:
                stored.not_newer.append((known, copy.version, update.version))
            if item.valid and verdict in (Verdict.STORE_NEW, Verdict.STORE_CHANGED):
                held[known] = Held(update.version, life)
                changes[known] = Change(
                    row.id,
                    row.module,
                    update.issuer,
                    update.key,
                    update.object_id,
                    update.version,
                    life,
                    update.payload,
                    item.audience,
                    item.concluded_at,
                )
        stored.taken.extend(changes)
        await objects.store(tx, list(changes.values()), received=True, now=now)
        return stored

    async def _held(self, tx: Tx, items: Sequence[_Item]) -> tuple[dict[int, int | None], dict[Known, Held]]:
        """Look up the present life of each subscription that still takes updates, and what is held under it."""
        grouped: dict[tuple[int, str, str], set[ObjectKey]] = defaultdict(set)
        for item in items:
            grouped[item.subscription.id, item.subscription.module, item.update.issuer].add(item.update.key)
        lives: dict[int, int | None] = {}
        found: dict[Known, Held] = {}
        for (source_id, module_name, issuer), keys in grouped.items():
            lives[source_id], copies = await objects.held(tx, source_id, module_name, issuer, list(keys))
            found.update(((source_id, issuer, ObjectKey(key)), copy) for key, copy in copies.items())
        return lives, found

    def _compare(self, known: Known, ours: int, theirs: int) -> None:
        """Remember a producer that stands by a lower version than our copy (B27)."""
        asked = theirs < ours and self._consuming.asked_in_full(known[0], known[2])
        if asked and len(self.regressions) < REGRESSIONS_MAX:
            self.regressions[known] = (ours, theirs)
