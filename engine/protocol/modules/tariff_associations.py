"""Chapter 10, Tariff Associations: which Tariff holds at which connectors, for whom, from when.

An association never changes and has no end. It holds until another one begins for the same connector and audience;
of several that begin at the same moment the one that was issued last holds (R.08.04.01). So one is cancelled by
issuing others that begin when it does (10.02):

======  =======  ===================================================
Issued  Begins   Holds, if all are for one connector and audience
======  =======  ===================================================
A1      January  never: A3 cancels it
A2      June     from June on
A3      January  from January until June
======  =======  ===================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec

from engine.protocol.ids import ModuleId, ObjectKey, object_key
from engine.protocol.json_text import read_exactly
from engine.protocol.modules.classes import ClosedEnum, OcpiClass, Some
from engine.protocol.modules.module import Addition, CannotReplace, Issued, Module, Replacement, Wanted
from engine.protocol.scalars import CiAsciiString_1_36, DateTime

CONNECTORS_TOLD_MAX: Final = 5  # named in a message: enough to see what is meant, and a line is a line

ConnectorKey: TypeAlias = tuple[str, str]


class ConnectorReference(OcpiClass, kw_only=True):
    """10.5.1: A connector of the issuer of the association."""

    evse_uid: Annotated[CiAsciiString_1_36, "The uid of its EVSE."]
    connector_id: Annotated[CiAsciiString_1_36, "Its id."]


class TariffAssociation(OcpiClass, kw_only=True):
    """10.5.2: A Tariff for some connectors, from some time on."""

    start_date_time: Annotated[DateTime, "From when it holds, that moment included."]
    tariff_id: Annotated[CiAsciiString_1_36, "The id of the Tariff."]
    connectors: Annotated[Some[ConnectorReference], "Where it holds; they need not be known yet."]
    audience: Annotated[TariffAudience, "For whom it holds."]
    last_updated: Annotated[DateTime, "When it was issued."]


class TariffAudience(ClosedEnum):
    """10.5.3: Who pays a Tariff."""

    AD_HOC_PAYMENT = "AD_HOC_PAYMENT", "Who pays on the spot, for instance at a card terminal."
    PROFILE_CHEAP = "PROFILE_CHEAP", "Who prefers to charge cheaply."
    PROFILE_FAST = "PROFILE_FAST", "Who prefers to charge fast."
    PROFILE_GREEN = "PROFILE_GREEN", "Who prefers green energy."
    REGULAR = "REGULAR", "Who uses a token and has no other preference."


def association(payload: bytes) -> TariffAssociation | None:
    """Read an accepted payload; None if only a tolerant reader accepted it."""
    try:
        return msgspec.convert(read_exactly(payload), TariffAssociation)
    except msgspec.ValidationError:
        return None


def connector_key(connector: ConnectorReference) -> ConnectorKey:
    """Fold the ids of a connector for comparison (B10)."""
    return connector.evse_uid.lower(), connector.connector_id.lower()


# -- 10.02: Cancel a Tariff Association ---------------------------------------------------------------------


def _cancel(
    old: Issued, wanted: Wanted, _related: Mapping[ModuleId, Sequence[Issued]], _now: float
) -> tuple[Addition, ...]:
    if reasons := list(_reasons(old, wanted)):
        raise CannotReplace("; ".join(reasons))
    return tuple(Addition(MODULE.id, new.id, new.payload) for new in wanted.objects)


def _reasons(old: Issued, wanted: Wanted) -> Iterator[str]:
    """Yield why that does not cancel an association, and what would."""
    if wanted.id is not None:
        yield "an id is not chosen here: each new association is given with its own"
    if wanted.effective_at is not None:
        yield "a time is not chosen here: the new associations begin when the old one does"
    yield from _reasons_of_ids(old, wanted.objects)
    cancelled = association(old.payload)
    if cancelled is None:
        yield f"{old.id} does not follow the table of a TariffAssociation, so nothing can be compared with it"
        return
    if not wanted.objects:
        yield f"give one or more new associations for the connectors of {old.id} (R.10.02.01)"
        return
    found: dict[ConnectorKey, ConnectorReference] = {}
    for new in wanted.objects:
        read = association(new.payload)
        if read is None:
            yield f"{new.id} does not follow the table of a TariffAssociation"
            continue
        found.update((connector_key(each), each) for each in read.connectors)
        if read.start_date_time != cancelled.start_date_time:
            yield (
                f"the start_date_time of {new.id} has to be {cancelled.start_date_time}, written as in {old.id},"
                f" not {read.start_date_time} (R.10.02.03)"
            )
        if read.audience != cancelled.audience:
            yield (
                f"the audience of {new.id} has to be {cancelled.audience}, as of {old.id},"
                f" not {read.audience} (R.10.02.04)"
            )
    there = {connector_key(each): each for each in cancelled.connectors}
    if left_out := [each for key, each in there.items() if key not in found]:
        yield f"one of the new associations has to have {_named(left_out)}, as {old.id} has (R.10.02.02)"
    if too_many := [each for key, each in found.items() if key not in there]:
        yield f"none of the new associations may have {_named(too_many)}, which {old.id} has not (R.10.02.02)"


def _reasons_of_ids(old: Issued, new: Sequence[Issued]) -> Iterator[str]:
    taken: set[ObjectKey] = {object_key(old.id)}
    for each in new:
        if object_key(each.id) in taken:
            yield f"each new association needs an id of its own: {each.id} is taken"
        taken.add(object_key(each.id))


def _named(connectors: Iterable[ConnectorReference]) -> str:
    """Name some connectors."""
    names = [f"connector {each.connector_id} of EVSE {each.evse_uid}" for each in connectors]
    more = len(names) - CONNECTORS_TOLD_MAX
    return ", ".join(names[:CONNECTORS_TOLD_MAX]) + (f" and {more} more" if more > 0 else "")


MODULE = Module(
    id=ModuleId("tariffassociations"),
    chapter=10,
    title="Tariff Associations",
    payload=TariffAssociation,
    immutable=True,
    replacement=Replacement(
        summary=(
            "Cancels an association (10.02): the new ones begin at the same moment, for the same audience and, all"
            " together, the same connectors."
        ),
        make=_cancel,
    ),
)
