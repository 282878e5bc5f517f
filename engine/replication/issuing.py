"""What a publication has to hold to, and how it is stored.

What a module says about its objects is obeyed here: how long an id may be, what may not change any more, which
other object one refers to, whom a payload concerns, when what it tells of was over. What an object says by itself
is looked at before the transaction; what hangs on others is checked in it, against them as they are then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.protocol.ids import ObjectKey, PartyId, check_object_id, object_key, party_id
from engine.protocol.json_text import DuplicateKeys, MalformedJson, check_object
from engine.protocol.modules import Module, Problem, SchemaViolation
from engine.protocol.modules.module import Issued as IssuedObject
from engine.protocol.objects import next_version
from engine.store import marks, objects
from engine.store.database import Tx
from engine.store.objects import ISSUED_HERE, Change, Issued


@dataclass(frozen=True, slots=True)
class Publication:
    """An object as the back office gives it. ``audience``: the only parties that may see it; None: see B45."""

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
class Item:
    """A publication that is in order by itself, and what its payload says."""

    object_id: str
    key: ObjectKey
    payload: bytes
    audience: str | None
    concluded_at: float | None
    refers_to: str | None


@dataclass(frozen=True, slots=True)
class Request:
    """Publications of one party in one module."""

    party: PartyId
    module: Module
    items: Sequence[Item]


def look(served: Module, publication: Publication) -> Item | Published:
    """Check a publication by itself, and read what its payload says; what is refused is answered at once."""
    object_id, payload = publication.object_id, publication.payload
    try:
        named = None if publication.audience is None else tuple(map(party_id, publication.audience))
        check_object(payload)
        served.accept(payload)
        check_object_id(object_id, served.id_length_max(payload))
    except SchemaViolation as violation:
        return _violated(object_id, violation)
    except (MalformedJson, DuplicateKeys, ValueError) as error:
        return Published(object_id, "refused", reason=str(error))
    return Item(
        object_id,
        object_key(object_id),
        payload,
        objects.audience_text(served.audience(payload) if named is None else named),
        served.concluded_at(payload),
        None if served.reference is None else served.reference.to(payload),
    )


async def issue(tx: Tx, request: Request, now: float) -> list[Published]:
    """Number and store what changed; touches nothing else, since it may run in another thread."""
    keys = {item.key for item in request.items}
    keys |= {object_key(item.refers_to) for item in request.items if item.refers_to is not None}
    known = await objects.issued(tx, request.module.id, request.party, sorted(keys))
    changes: dict[str, Change] = {}
    results: list[Published] = []
    creates = not request.module.immutable and any(item.key not in known for item in request.items)
    above = await marks.reissued_up_to(tx) if creates else 0
    for item in request.items:
        before = known.get(item.key)
        if before is not None and before.payload == item.payload:
            outcome, version = ("unchanged" if before.audience == item.audience else "changed"), before.version
        elif (refused := _refused_beside(request.module, item, known)) is not None:
            results.append(refused)
            continue
        else:
            outcome = "created" if before is None else "changed"
            last = None if before is None else before.version
            version = next_version(last, now, immutable=request.module.immutable, above=above)
        results.append(Published(item.object_id, outcome, version))
        if outcome != "unchanged":
            known[item.key] = Issued(item.object_id, version, item.payload, item.audience)
            readdressed = before is not None and before.audience != item.audience
            changes[item.key] = _change(request, item, version, readdressed=readdressed)
    await objects.store(tx, list(changes.values()), received=False, now=now)
    return results


def _refused_beside(served: Module, item: Item, known: Mapping[str, Issued]) -> Published | None:
    """Check what is new, or not as it was, against what is issued already; None when it is in order."""
    before = known.get(item.key)
    if before is not None and served.immutable:
        instead = "publish a new id" if served.replacement is None else "see `ocpi-engine replace`"
        reason = f"objects of {served.id} cannot be changed once they are issued; {instead}"
        return Published(item.object_id, "refused", reason=reason)
    if before is not None and (final := served.final(before.payload)) is not None:
        return Published(item.object_id, "refused", reason=final)
    if served.reference is None or item.refers_to is None:
        return None
    other = known.get(object_key(item.refers_to))
    beside = None if other is None else IssuedObject(other.object_id, other.payload)
    problems = tuple(served.reference.check(IssuedObject(item.object_id, item.payload), beside))
    return _violated(item.object_id, SchemaViolation(problems, len(problems))) if problems else None


def _violated(object_id: str, violation: SchemaViolation) -> Published:
    return Published(object_id, "refused", reason=str(violation), problems=violation.problems)


def _change(request: Request, item: Item, version: int, *, readdressed: bool) -> Change:
    return Change(
        ISSUED_HERE,
        request.module.id,
        request.party,
        item.key,
        item.object_id,
        version,
        0,
        item.payload,
        item.audience,
        item.concluded_at,
        readdressed,
    )
