"""Objects that never change, replaced by further ones: all that it takes is issued, or nothing (8.02, 10.02).

What is to be issued is the module's business (``Replacement.make``); here it is checked as every publication is, and
stored in one transaction. An id that is issued already is refused, so that an order that is repeated does no harm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from engine.protocol.ids import ModuleId, ObjectKey, PartyId, object_key
from engine.protocol.modules import Module
from engine.protocol.modules.module import Addition, CannotReplace, Replacement, Wanted
from engine.protocol.modules.module import Issued as IssuedObject
from engine.refusals import NotAccepted, NotFoundHere, Refused
from engine.replication.issuing import Item, Publication, Published, Request, issue, look
from engine.store import objects
from engine.store.database import Tx
from engine.store.objects import Issued

RELATED_PAGE: Final = 500  # related objects read at once
RELATED_BYTES_MAX: Final = 256 * 1024 * 1024  # of related objects, which are in memory all together for a moment


@dataclass(frozen=True, slots=True)
class Replaced:
    """An object that was issued in the place of another one."""

    module: ModuleId
    object_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Order:
    """A replacement that is asked for. ``senders``: the modules whose objects the party may issue."""

    party: PartyId
    module: Module
    replacement: Replacement
    object_id: str
    wanted: Wanted
    audiences: Mapping[ObjectKey, tuple[PartyId, ...]]
    senders: Mapping[ModuleId, Module]


def order_of(
    party: PartyId,
    served: Module,
    object_id: str,
    new: Sequence[Publication],
    *,
    new_id: str | None,
    effective_at: float | None,
    senders: Mapping[ModuleId, Module],
) -> Order:
    """Look at what is wanted by itself.

    Raises ``Refused``, and ``NotAccepted`` for objects that do not conform.
    """
    if served.replacement is None:
        raise Refused(f"objects of {served.id} are not replaced: publish {object_id} again, under its id")
    for publication in new:
        _accepted(served, look(served, publication))
    wanted = Wanted(tuple(IssuedObject(one.object_id, one.payload) for one in new), new_id, effective_at)
    audiences = {object_key(one.object_id): one.audience for one in new if one.audience is not None}
    return Order(party, served, served.replacement, object_id, wanted, audiences, senders)


async def carry_out(tx: Tx, order: Order, now: float) -> list[Replaced]:
    """Issue what takes an object's place. An exception has to undo the transaction.

    Raises ``NotFoundHere``, ``Refused``, ``NotAccepted``.
    """
    key = object_key(order.object_id)
    old = (await objects.issued(tx, order.module.id, order.party, [key])).get(key)
    if old is None:
        raise NotFoundHere(f"{order.party} has issued no {order.object_id!r} in {order.module.id}")
    related = {name: await _related(tx, order.party, name) for name in order.replacement.related}
    beside = {name: [_declared(one) for one in found] for name, found in related.items()}
    try:
        additions = order.replacement.make(_declared(old), order.wanted, beside, now)
    except CannotReplace as error:
        raise Refused(str(error)) from error
    requests = _requests(order, additions, _Audiences(order, old, related))
    return [replaced for request in requests for replaced in await _issue_new(tx, request, now)]


async def _related(tx: Tx, party: PartyId, module_id: ModuleId) -> list[Issued]:
    """Read all that a party issued in a module, oldest change first."""
    found: list[Issued] = []
    after = size_bytes = 0
    while True:
        page = await objects.all_issued(tx, module_id, party, after=after, limit=RELATED_PAGE)
        found.extend(one for _, one in page)
        size_bytes += sum(len(one.payload) for _, one in page)
        if size_bytes > RELATED_BYTES_MAX:
            raise Refused(f"{party} has issued more in {module_id} than can be looked at together")
        if len(page) < RELATED_PAGE:
            return found
        after = page[-1][0]


def _declared(issued: Issued) -> IssuedObject:
    parties = objects.audience_parties(issued.audience)
    return IssuedObject(issued.object_id, issued.payload, None if parties is None else frozenset(parties))


class _Audiences:
    """Who may see what is issued: whoever may see what it comes from, where a publisher named them."""

    def __init__(self, order: Order, old: Issued, related: Mapping[ModuleId, Sequence[Issued]]) -> None:
        self._order = order
        self._old = old
        self._related = {
            (name, object_key(issued.object_id)): issued for name, found in related.items() for issued in found
        }

    def named(self, addition: Addition) -> tuple[PartyId, ...] | None:
        """Return the audience that was named; None when the payload decides, or the rules."""
        if addition.module == self._order.module.id and object_key(addition.id) in self._order.audiences:
            return self._order.audiences[object_key(addition.id)]
        like, served = self._old, self._order.module
        if addition.like is not None:
            other = self._related.get((addition.module, object_key(addition.like)))
            like, served = (like, served) if other is None else (other, self._order.senders[addition.module])
        by_payload = objects.audience_text(served.audience(like.payload))
        return None if like.audience == by_payload else objects.audience_parties(like.audience)


def _requests(order: Order, additions: Sequence[Addition], audiences: _Audiences) -> list[Request]:
    """Look at all additions by themselves, module by module, in the order in which they are to be issued."""
    items: dict[ModuleId, list[Item]] = {}
    for addition in additions:
        served = order.senders.get(addition.module)
        if served is None:
            raise not_a_sender(order.party, addition.module)
        publication = Publication(addition.id, addition.payload, audiences.named(addition))
        items.setdefault(addition.module, []).append(_accepted(served, look(served, publication)))
    return [Request(order.party, order.senders[module_id], found) for module_id, found in items.items()]


async def _issue_new(tx: Tx, request: Request, now: float) -> list[Replaced]:
    """Issue objects of one module, none of which may be there already."""
    issued: list[Replaced] = []
    for published in await issue(tx, request, now):
        if published.problems:
            raise _not_accepted(request.module, published)
        if published.outcome != "created":
            raise Refused(f"{request.module.id} {published.object_id} is issued already: nothing was issued")
        issued.append(Replaced(request.module.id, published.object_id, published.version or 0))
    return issued


def _accepted(served: Module, looked_at: Item | Published) -> Item:
    if isinstance(looked_at, Published):
        raise _not_accepted(served, looked_at)
    return looked_at


def _not_accepted(served: Module, published: Published) -> NotAccepted:
    about = f"{served.id} {published.object_id}"
    if published.problems:
        return NotAccepted(f"{about} does not conform: nothing was issued", published.problems)
    return NotAccepted(f"{about}: {published.reason}")


def not_a_sender(party: PartyId, module_id: ModuleId) -> Refused:
    """Say that a party may not issue objects of a module, and how it may."""
    return Refused(
        f"{party} does not serve {module_id} as a sender: give it all its roles again, with"
        f" `ocpi-engine parties add DIR {party} --role ROLE`"
    )
