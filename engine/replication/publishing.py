"""Objects that parties hosted here issue: checked, numbered, stored, and owed to whoever subscribed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from engine import faults
from engine.clock import Clock
from engine.protocol.ids import PartyId, check_object_id, object_key, party_id
from engine.protocol.json_text import DuplicateKeys, MalformedJson, check_object
from engine.protocol.modules import Module, Problem, SchemaViolation, module
from engine.protocol.objects import next_version, reissued_version
from engine.refusals import NotFoundHere, Refused
from engine.registration.directory import Directory
from engine.replication.batches import Batches
from engine.store import objects
from engine.store.database import Database, Tx
from engine.store.objects import ISSUED_HERE, Change, Issued

_log = logging.getLogger(__name__)

REISSUE_PAGE = 500  # objects given a new version in one commit
BATCH_MAX = 64  # publications of different callers that share one commit


@dataclass(frozen=True, slots=True)
class Publication:
    """An object as the back office gives it. ``audience``: the only parties that may see it; None: all (B45)."""

    object_id: str
    payload: bytes
    audience: tuple[PartyId, ...] | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication: ``created``, ``changed``, ``unchanged`` or ``refused`` with the reason."""

    object_id: str
    outcome: str
    version: int | None = None
    reason: str | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Request:
    party: PartyId
    module: Module
    items: Sequence[Publication]


class Publishing:
    """The way in for a hosted party's objects."""

    def __init__(self, database: Database, directory: Directory, clock: Clock) -> None:
        """Use these; nothing runs before ``start``."""
        self._database = database
        self._directory = directory
        self._clock = clock
        self._batches: Batches[_Request, list[Published]] = Batches("publish", self._store, BATCH_MAX)

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
        results: list[Published | None] = [_refusal(served, item) for item in items]
        good = [item for item, refused in zip(items, results, strict=True) if refused is None]
        faults.passing("publish.received")
        if good:
            stored = iter(await self._batches.add(_Request(party, served, good)))
            results = [next(stored) if refused is None else refused for refused in results]
            faults.passing("publish.stored")
        return [result for result in results if result is not None]

    def _served(self, party: PartyId, module_name: str) -> Module:
        served = module(module_name)
        if served is None:
            raise NotFoundHere(f"there is no module {module_name!r} here")
        if self._directory.hosted(party) is None:
            raise NotFoundHere(f"{party} is not hosted here; add it with `ocpi-engine parties add`")
        if not self._directory.module_served(party, served.id, "SENDER"):
            raise Refused(f"{party} does not serve {served.id} as a sender; its roles say so (`ocpi-engine parties`)")
        return served

    async def _store(self, requests: Sequence[_Request]) -> list[list[Published]]:
        now = self._clock.now()

        async def issue_all(tx: Tx) -> list[list[Published]]:
            return [await _issue(tx, request, now) for request in requests]

        return await self._database.write(issue_all)

    async def reissue(self, party: PartyId | None = None, module_name: str | None = None) -> int:
        """Give every mutable object issued here a new version, above any that was ever sent (B9); returns how many."""
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
                renewed = [_renumbered(change, now) for change in mutable]
                await objects.store(tx, renewed, received=False, now=now)
            count += len(renewed)
            if len(page) < REISSUE_PAGE:
                return count
            after = page[-1][0]


async def _issue(tx: Tx, request: _Request, now: float) -> list[Published]:
    """Number and store what changed; touches nothing else, since it may run in another thread."""
    known = await objects.issued(
        tx, request.module.id, request.party, [object_key(item.object_id) for item in request.items]
    )
    changes: dict[str, Change] = {}
    results: list[Published] = []
    for item in request.items:
        key = object_key(item.object_id)
        before = known.get(key)
        audience = objects.audience_text(item.audience)
        if before is not None and before.payload == item.payload:
            outcome, version = ("unchanged" if before.audience == audience else "changed"), before.version
        elif before is not None and request.module.immutable:
            results.append(_immutable(request.module, item))
            continue
        else:
            outcome = "created" if before is None else "changed"
            last = None if before is None else before.version
            version = next_version(last, now, immutable=request.module.immutable)
        results.append(Published(item.object_id, outcome, version))
        if outcome != "unchanged":
            known[key] = Issued(version, item.payload, audience)
            changes[key] = Change(
                ISSUED_HERE, request.module.id, request.party, key, item.object_id, version, 0, item.payload, audience
            )
    await objects.store(tx, list(changes.values()), received=False, now=now)
    return results


def _is_immutable(module_name: str) -> bool:
    known = module(module_name)
    return known is None or known.immutable


def _renumbered(change: Change, now: float) -> Change:
    return Change(
        change.source_id,
        change.module,
        change.issuer,
        change.key,
        change.object_id,
        reissued_version(change.version, now),
        change.life,
        change.payload,
        change.audience,
    )


def _immutable(served: Module, item: Publication) -> Published:
    reason = f"objects of {served.id} cannot be changed once they are issued; publish a new id"
    return Published(item.object_id, "refused", reason=reason)


def _refusal(served: Module, item: Publication) -> Published | None:
    """Check a publication by itself; None when it is in order."""
    try:
        check_object_id(item.object_id)
        for party in item.audience or ():
            party_id(party)
        check_object(item.payload)
        served.accept(item.payload)
    except SchemaViolation as error:
        return Published(item.object_id, "refused", reason=str(error), problems=error.problems)
    except (MalformedJson, DuplicateKeys, ValueError) as error:
        return Published(item.object_id, "refused", reason=str(error))
    return None
