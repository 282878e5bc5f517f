"""What publishing does with what a module declares, shown with modules made for it: bills, offers and their places.

A bill is for one party, never changes, and is credited by another bill. An offer is immutable and replaced by a new
one, which its places follow: they are immutable too.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from engine.clock import SystemClock
from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules import SchemaViolation
from engine.protocol.modules.classes import Maybe, OcpiClass
from engine.protocol.modules.module import (
    NOBODY,
    Addition,
    CannotReplace,
    Issued,
    Module,
    Problem,
    Reference,
    Replacement,
    Wanted,
)
from engine.protocol.scalars import CiAsciiString_1_36
from engine.refusals import NotAccepted, NotFoundHere, Refused
from engine.replication import publishing as under_test
from engine.replication import replacing
from engine.replication.issuing import Publication, Published
from engine.replication.publishing import Publishing
from engine.store import objects
from engine.store.database import Database
from engine.store.objects import StoredObject, View
from tests.support.database import fresh_database

PARTY = PartyId("BEBEC")
OTHER = PartyId("BEABC")

Related = Mapping[ModuleId, Sequence[Issued]]


class Bill(OcpiClass, kw_only=True):
    """1.1: A bill, or, with ``credits``, a credit for one."""

    to: Annotated[CiAsciiString_1_36, "Who pays it."]
    amount: Annotated[int, "How much."]
    over_at: Annotated[Maybe[float], "When it was settled."] = None
    credits: Annotated[Maybe[CiAsciiString_1_36], "Which bill it takes back."] = None


class Offer(OcpiClass, kw_only=True):
    """2.1: A price."""

    price: Annotated[int, "How much."]


class Place(OcpiClass, kw_only=True):
    """3.1: Where an offer holds."""

    offer: Annotated[CiAsciiString_1_36, "Which one."]
    where: Annotated[CiAsciiString_1_36, "Where."]


def bill(payload: bytes) -> Bill:
    """Read a bill."""
    return msgspec.json.decode(payload, type=Bill)


def written(value: OcpiClass) -> bytes:
    """Write an object."""
    return msgspec.json.encode(value)


def for_whom(payload: bytes) -> frozenset[PartyId]:
    """Name the one who pays."""
    return NOBODY if bill(payload).to == "nobody" else frozenset({PartyId(bill(payload).to)})


def beside(credit: Issued, credited: Issued | None) -> list[Problem]:
    """Check a credit: the bill is there, and the amounts add up."""
    if credited is None:
        return [Problem("/credits", f'"{bill(credit.payload).credits}"', "a bill that is issued already")]
    if bill(credited.payload).amount + bill(credit.payload).amount:
        return [Problem("/amount", str(bill(credit.payload).amount), str(-bill(credited.payload).amount))]
    return []


def credited(old: Issued, wanted: Wanted, related: Related, now: float) -> list[Addition]:
    """Take a bill back, and issue what is billed instead."""
    assert not related
    assert now > 1_700_000_000
    was = bill(old.payload)
    if was.credits:
        raise CannotReplace("a credit is not taken back")
    credit = Bill(to=was.to, amount=-was.amount, credits=old.id)
    new = [Addition(ModuleId("bills"), one.id, one.payload) for one in wanted.objects]
    return [Addition(ModuleId("bills"), wanted.id or f"{old.id}-C", written(credit)), *new]


def superseded(
    old: Issued, wanted: Wanted, related: Mapping[ModuleId, Sequence[Issued]], _now: float
) -> list[Addition]:
    """Issue a new offer, and its places."""
    (new,) = wanted.objects
    additions = [Addition(ModuleId("offers"), new.id, new.payload)]
    for place in related[ModuleId("places")]:
        was = msgspec.json.decode(place.payload, type=Place)
        if was.offer == old.id:
            moved = written(Place(offer=new.id, where=was.where))
            additions.append(Addition(ModuleId("places"), f"{place.id}-2", moved, like=place.id))
    return additions


BILLS = Module(
    id=ModuleId("bills"),
    chapter=1,
    title="Bills",
    payload=Bill,
    final=lambda payload: None if b"draft" in payload else "a bill does not change",
    id_length_max=lambda payload: 36 if bill(payload).credits is None else 39,
    audience=for_whom,
    concluded_at=lambda payload: bill(payload).over_at,
    reference=Reference(to=lambda payload: bill(payload).credits, check=beside),
    replacement=Replacement(summary="A bill is credited.", make=credited),
)
OFFERS = Module(
    id=ModuleId("offers"),
    chapter=2,
    title="Offers",
    payload=Offer,
    immutable=True,
    replacement=Replacement(summary="Its places follow.", make=superseded, related=(ModuleId("places"),)),
)
PLACES = Module(id=ModuleId("places"), chapter=3, title="Places", payload=Place, immutable=True)
MODULES = {module.id: module for module in (BILLS, OFFERS, PLACES)}


class Hosting:
    """Says what is served: everything for one party, bills and offers for another."""

    def hosted(self, party: PartyId) -> object | None:
        """Say whether a party is hosted."""
        return party if party in (PARTY, OTHER) else None

    def module_served(self, party: PartyId, module_name: str, _side: str) -> bool:
        """Say whether it serves a module."""
        return party == PARTY or module_name != "places"


class Office:
    """A back office, and a look at what is stored."""

    def __init__(self, database: Database) -> None:
        """Publish into this database."""
        self.database = database
        self.publishing = Publishing(database, Hosting(), SystemClock())  # type: ignore[arg-type]

    async def publish(self, module: str, *items: Publication) -> list[Published]:
        """Publish together."""
        return await self.publishing.publish(PARTY, module, items)

    async def stored(self, module: str) -> dict[str, StoredObject]:
        """Read what is issued."""
        async with self.database.reading() as tx:
            return {one.object_id: one for one in await objects.page(tx, module=module, received=False, limit=1000)}

    async def seen_by(self, subscriber: str, module: str) -> set[str]:
        """List what a subscriber would be sent."""
        async with self.database.reading() as tx:
            owed = await objects.walk(tx, module, View(PARTY, subscriber), after=0, limit=1000)
        return {one.object_id for one in owed}


@pytest.fixture
async def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Office]:
    """Serve the modules of this file."""
    monkeypatch.setattr(under_test, "module", MODULES.get)
    monkeypatch.setattr(under_test, "all_modules", lambda: tuple(MODULES.values()))
    made = Office(await fresh_database(tmp_path / "engine.sqlite"))
    await made.publishing.start()
    yield made
    await made.publishing.stop()
    await made.database.stop()


def a_bill(object_id: str, *, audience: Sequence[str] | None = None, **fields: Any) -> Publication:
    """Make a bill."""
    named = None if audience is None else tuple(map(PartyId, audience))
    chosen: dict[str, Any] = {"to": "NLEMS", "amount": 10} | fields
    return Publication(object_id, written(Bill(**chosen)), named)


# what an object says by itself


async def test_a_payload_names_whom_it_is_for_unless_its_publisher_does(office: Office):
    """A named audience decides alone; without one the payload's; what cannot be read is for nobody (D18)."""
    await office.publish(
        "bills",
        a_bill("B1"),
        a_bill("B2", to="NLTNM"),
        a_bill("B3", audience=["NLTNM", "DEXYZ"]),
        a_bill("B4", audience=[]),
        a_bill("B5", to="nobody"),
    )

    assert await office.seen_by("NLEMS", "bills") == {"B1"}
    assert await office.seen_by("NLTNM", "bills") == {"B2", "B3"}
    assert await office.seen_by("DEXYZ", "bills") == {"B3"}
    assert await office.seen_by("DEOTH", "bills") == set()
    again = await office.publish("bills", a_bill("B1"), a_bill("B3", audience=["DEXYZ", "NLTNM"]), a_bill("B4"))
    assert [one.outcome for one in again] == ["unchanged", "unchanged", "changed"]
    assert await office.seen_by("NLEMS", "bills") == {"B1", "B4"}


async def test_a_payload_says_when_it_was_over(office: Office):
    """It is stored beside the object, for snapshots, and stays through a reissue."""
    await office.publish("bills", a_bill("B1", over_at=5.0), a_bill("B2"))

    async def young() -> set[str]:
        async with office.database.reading() as tx:
            view = View(PARTY, "NLEMS", first_seq=2**60, snapshot_from=6.0)
            return {one.object_id for one in await objects.walk(tx, "bills", view, after=0, limit=10)}

    assert await young() == {"B2"}
    assert await office.publishing.reissue() == 2
    assert await young() == {"B2"}


@pytest.mark.requirement("R.03.02.20", "R.08.02.03", "R.08.02.04")
async def test_how_long_an_id_may_be_hangs_on_the_payload(office: Office):
    """A credit's may be three characters longer than others."""
    (plain, longer) = await office.publish("bills", a_bill("B" * 36), a_bill("B" * 37))
    credit: dict[str, Any] = {"credits": "B" * 36, "amount": -10}
    (credit_too_long, taken) = await office.publish("bills", a_bill("C" * 40, **credit), a_bill("C" * 39, **credit))

    assert (plain.outcome, taken.outcome) == ("created", "created")
    assert longer.reason == "an id has at most 36 characters, this one has 37"
    assert credit_too_long.reason == "an id has at most 39 characters, this one has 40"


async def test_what_is_final_is_not_changed(office: Office):
    """It is refused with the module's reason; the same bytes are unchanged; a draft may change until it is none."""
    draft = a_bill("D1", to="draft")
    await office.publish("bills", a_bill("B1"), draft)
    first = await office.stored("bills")

    results = await office.publish(
        "bills", a_bill("B1", amount=11), a_bill("B1"), a_bill("D1"), a_bill("D1", amount=12)
    )

    assert [one.outcome for one in results] == ["refused", "unchanged", "changed", "refused"]
    assert {one.reason for one in results if one.outcome == "refused"} == {"a bill does not change"}
    stored = await office.stored("bills")
    assert stored["B1"] == first["B1"]
    assert stored["D1"].payload == a_bill("D1").payload


async def test_what_is_final_gets_a_new_version_after_a_restore(office: Office):
    """Receivers hold a higher one and would ignore it; only what is immutable stays as it is (B9)."""
    await office.publish("bills", a_bill("B1"))
    await office.publish("offers", Publication("O1", b'{"price":1}'))
    before = await office.stored("bills") | await office.stored("offers")

    assert await office.publishing.reissue() == 1

    after = await office.stored("bills") | await office.stored("offers")
    assert after["B1"].version > before["B1"].version
    assert after["B1"].audience == before["B1"].audience == ("NLEMS",)
    assert after["O1"] == before["O1"]


# what hangs on others


@pytest.mark.requirement("R.08.02.06", "R.08.02.07")
async def test_what_refers_to_another_is_checked_beside_it(office: Office):
    """Against what is stored, or came before it in the same batch; refused with the problems, in their usual shape."""
    credit: dict[str, Any] = {"credits": "b1", "amount": -10}
    (missing, *_) = await office.publish("bills", a_bill("C0", **credit))
    results = await office.publish("bills", a_bill("C1", **credit), a_bill("B1"), a_bill("C2", **credit))
    (wrong,) = await office.publish("bills", a_bill("C3", credits="B1", amount=-9))

    problem = Problem("/credits", '"b1"', "a bill that is issued already")
    assert (missing.outcome, missing.problems) == ("refused", (problem,))
    assert missing.reason == str(SchemaViolation((problem,), 1))
    assert [one.outcome for one in results] == ["refused", "created", "created"]
    assert wrong.problems == (Problem("/amount", "-9", "-10"),)
    assert set(await office.stored("bills")) == {"B1", "C2"}


@pytest.mark.requirement("R.08.02.06")
async def test_another_partys_object_is_none_to_refer_to(office: Office):
    """Ids are a party's own."""
    await office.publish("bills", a_bill("B1"))

    (refused,) = await office.publishing.publish(OTHER, "bills", [a_bill("C1", credits="B1", amount=-10)])

    assert refused.problems[0].pointer == "/credits"


# replacing


@pytest.mark.requirement("R.08.02.02", "R.08.02.05", "R.08.02.09")
async def test_a_replacement_is_issued_beside_the_old_object(office: Office):
    """The credit and what is billed instead; the old one stays as it is, and the audience that was named holds."""
    await office.publish("bills", a_bill("B1", audience=["NLTNM"]), a_bill("B2"))
    before = await office.stored("bills")

    issued = await office.publishing.replace(PARTY, "bills", "b1", [a_bill("B3", amount=8)])
    await office.publishing.replace(PARTY, "bills", "B2", [a_bill("B4", audience=["DEXYZ"])], new_id="CREDIT-2")

    after = await office.stored("bills")
    assert [(one.module, one.object_id) for one in issued] == [("bills", "B1-C"), ("bills", "B3")]
    assert issued[0].version == after["B1-C"].version
    assert {name: after[name] for name in before} == before
    assert bill(after["B1-C"].payload) == Bill(to="NLEMS", amount=-10, credits="B1")
    assert after["B3"].payload == a_bill("B3", amount=8).payload
    assert await office.seen_by("NLTNM", "bills") == {"B1", "B1-C", "B3"}
    assert await office.seen_by("NLEMS", "bills") == {"B2", "CREDIT-2"}
    assert await office.seen_by("DEXYZ", "bills") == {"B4"}


@pytest.mark.requirement("R.09.01.04")
async def test_what_follows_a_replaced_object_is_issued_with_it(office: Office):
    """Two modules, one transaction, a segment for each log; whoever saw a place sees the one that follows it."""
    segments: list[Any] = []
    await office.publish("offers", Publication("O1", b'{"price":1}'), Publication("O2", b'{"price":2}'))
    await office.publish(
        "places",
        Publication("P1", b'{"offer":"O1","where":"here"}'),
        Publication("P2", b'{"offer":"O1","where":"there"}', (PartyId("NLEMS"),)),
        Publication("P3", b'{"offer":"O2","where":"there"}'),
    )
    office.database.on_segments = segments.extend

    issued = await office.publishing.replace(PARTY, "offers", "O1", [Publication("O9", b'{"price":9}')])

    assert [(one.module, one.object_id, one.version) for one in issued] == [
        ("offers", "O9", 1),
        ("places", "P1-2", 1),
        ("places", "P2-2", 1),
    ]
    assert [(one.log, len(one.pointers)) for one in segments] == [("offers", 1), ("places", 2)]
    assert await office.seen_by("NLEMS", "places") == {"P1", "P2", "P3", "P1-2", "P2-2"}
    assert await office.seen_by("DEXYZ", "places") == {"P1", "P3", "P1-2"}


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_all_related_objects_are_looked_at(office: Office, monkeypatch: pytest.MonkeyPatch, page: int):
    """However many pages they are; beyond a size it is refused."""
    monkeypatch.setattr(replacing, "RELATED_PAGE", page)
    await office.publish("offers", Publication("O1", b'{"price":1}'))
    places = [Publication(f"P{number}", b'{"offer":"O1","where":"%d"}' % number) for number in range(4)]
    await office.publish("places", *places)

    issued = await office.publishing.replace(PARTY, "offers", "O1", [Publication("O2", b'{"price":2}')])
    assert len(issued) == 5

    monkeypatch.setattr(replacing, "RELATED_BYTES_MAX", 100)
    with pytest.raises(Refused, match="more in places than"):
        await office.publishing.replace(PARTY, "offers", "O2", [Publication("O3", b'{"price":3}')])


@pytest.mark.parametrize(
    ("order", "refusal", "says"),
    [
        (("bills", "B0", []), NotFoundHere, "BEBEC has issued no 'B0' in bills"),
        (("bills", "CREDIT", []), Refused, "a credit is not taken back"),
        (("bills", "B1", [a_bill("B2")]), Refused, "bills B2 is issued already"),
        (("bills", "B1", [a_bill("N1"), a_bill("n1")]), Refused, "bills n1 is issued already"),
        (("bills", "B1", [a_bill("N" * 37)]), NotAccepted, "at most 36 characters"),
        (("bills", "B1", [Publication("N1", b'{"to":"NLEMS"}')]), NotAccepted, "bills N1 does not conform"),
        (("bills", "B1", [a_bill("N1", credits="B2", amount=1)]), NotAccepted, "bills N1 does not conform"),
        (("places", "P1", []), Refused, "publish P1 again"),
        (("chairs", "P1", []), NotFoundHere, "no module 'chairs'"),
    ],
)
async def test_a_replacement_that_cannot_be_is_refused_whole(
    office: Office, order: tuple[str, str, list[Publication]], refusal: type[Refused], says: str
):
    """The reason is told, and nothing is stored of what would have been in order."""
    await office.publish("bills", a_bill("B1"), a_bill("B2", amount=5), a_bill("CREDIT", credits="B1", amount=-10))
    await office.publish("places", Publication("P1", b'{"offer":"O1","where":"here"}'))
    before = await office.stored("bills")
    module, object_id, new = order

    with pytest.raises(refusal, match=says):
        await office.publishing.replace(PARTY, module, object_id, new)

    assert await office.stored("bills") == before


async def test_a_replacement_that_is_ordered_twice_is_carried_out_once(office: Office):
    """The second time its objects are there, and it is refused; also when both come at once."""
    await office.publish("bills", a_bill("B1"))
    await office.publishing.replace(PARTY, "bills", "B1", [a_bill("B2", amount=3)])
    once = await office.stored("bills")

    with pytest.raises(Refused, match="bills B1-C is issued already: nothing was issued"):
        await office.publishing.replace(PARTY, "bills", "B1", [a_bill("B2", amount=3)])

    assert await office.stored("bills") == once


async def test_who_does_not_issue_what_follows_is_told_how_to(office: Office):
    """A party whose roles are older than a module is told how it gets that role; nothing is stored."""
    await office.publishing.publish(OTHER, "offers", [Publication("O1", b'{"price":1}')])

    def like_a_place(_old: Issued, _wanted: Wanted, _related: Any, _now: float) -> list[Addition]:
        return [
            Addition(ModuleId("offers"), "O2", b'{"price":2}'),
            Addition(ModuleId("places"), "P1", b'{"offer":"O2","where":"here"}'),
        ]

    replacement = Replacement(summary="", make=like_a_place)
    order = replacing.order_of(
        OTHER,
        _with(OFFERS, replacement),
        "O1",
        [],
        new_id=None,
        effective_at=None,
        senders={OFFERS.id: OFFERS},
    )
    with pytest.raises(Refused, match=r"BEABC does not serve places as a sender: .*parties add DIR BEABC --role"):
        await office.database.write(lambda tx: replacing.carry_out(tx, order, 1_800_000_000.0))

    assert set(await office.stored("offers")) == {"O1"}
    with pytest.raises(Refused, match="BEABC does not serve places as a sender"):
        await office.publishing.publish(OTHER, "places", [])


def _with(module: Module, replacement: Replacement) -> Module:
    fields = {name: getattr(module, name) for name in ("id", "chapter", "title", "payload", "immutable")}
    return Module(**fields, replacement=replacement)
