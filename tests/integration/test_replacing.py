"""Objects that never change, replaced as chapters 8 to 10 have it: over the local API, with the modules as they are."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from engine.store import objects
from engine.store.objects import View
from tests.support.local_api import Running, new_platform, running

EXAMPLES = Path(__file__).parents[2] / "docs" / "modules" / "examples"
PARTIES = "/api/v1/parties/BEBEC/objects"
LONG_ID = "CDR-" + "1" * 32


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a CPO that hosts BEBEC."""
    async with running(await new_platform(tmp_path / "cpo")) as running_platform:
        yield running_platform


def example(module: str, **changes: Any) -> bytes:
    """Take a payload of the reference pages, with some fields changed; None: left out."""
    fields = json.loads((EXAMPLES / f"{module}.json").read_text(), parse_float=Decimal) | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None}, default=float).encode()


def cdr(*, amount: str = "11.20", **changes: Any) -> bytes:
    """Make a CDR that credits nothing."""
    cost = {"before_taxes": "BEFORE", "taxes": [{"name": "VAT", "amount": "VAT"}]}
    plain = {"credit": None, "credit_reference_id": None, "total_cost": cost}
    payload = example("cdrs", **plain | changes)
    return payload.replace(b'"BEFORE"', amount.encode()).replace(b'"amount": "VAT"', b'"amount": 2.350')


def association(*places: str, **changes: Any) -> bytes:
    """Make a tariff association for connectors of EVSEs: ``E1/1``."""
    connectors = [dict(zip(("evse_uid", "connector_id"), place.split("/"), strict=True)) for place in places]
    return example("tariffassociations", **{"connectors": connectors} | changes)


def line(object_id: str, payload: bytes) -> bytes:
    """Write a line that is published."""
    return b'{"id":"%b","payload":%b}' % (object_id.encode(), payload)


async def publish(platform: Running, module: str, *lines: bytes) -> dict[str, Any]:
    """Publish lines, all of which are taken."""
    answer = await platform.publish("BEBEC", module, b"\n".join(lines))
    assert answer["refused"] == 0, answer
    return answer


async def ordered(platform: Running, module: str, object_id: str, *lines: bytes, **order: str) -> Any:
    """Order a replacement; returns what is issued, or why not."""
    named = b"".join(b'"%b":"%b",' % (name.encode(), value.encode()) for name, value in order.items())
    body = b'{%b"objects":[%b]}' % (named, b",".join(lines))
    answer = (await platform.client.post(f"{PARTIES}/{module}/{object_id}/replacement", content=body)).json()
    return [one["id"] for one in answer["issued"]] if "issued" in answer else answer["error"]["message"]


async def issued(platform: Running, module: str) -> dict[str, Any]:
    """Read all payloads of a module; numbers keep their digits."""
    page = (await platform.client.get(f"/api/v1/issued/{module}")).content
    return {one["id"]: one["payload"] for one in json.loads(page, parse_float=Decimal)["objects"]}


async def seen_by(platform: Running, party: str, module: str) -> set[str]:
    """List what a subscriber is owed."""
    async with platform.engine.database.reading() as tx:
        owed = await objects.walk(tx, module, View("BEBEC", party), after=0, limit=100)
    return {one.object_id for one in owed}


# 8.02: a Credit CDR


@pytest.mark.requirement(
    "R.08.02.01", "R.08.02.02", "R.08.02.03", "R.08.02.05", "R.08.02.06", "R.08.02.07", "R.08.02.08"
)
async def test_a_cdr_is_credited(platform: Running):
    """A Credit CDR with negative amounts, digit for digit, comes beside it, for the same eMSP; all else is alike."""
    await publish(platform, "cdrs", line(LONG_ID, cdr()))

    assert await ordered(platform, "cdrs", LONG_ID) == [f"{LONG_ID}-C"]

    found = await issued(platform, "cdrs")
    old, credit = found[LONG_ID], found[f"{LONG_ID}-C"]
    assert (credit["credit"], credit["credit_reference_id"]) == (True, LONG_ID)
    assert "credit" not in old
    assert str(credit["total_cost"]["before_taxes"]) == "-11.20"
    assert str(credit["total_cost"]["taxes"][0]["amount"]) == "-2.350"
    changed = {name for name in credit if credit[name] != old.get(name)}
    assert changed == {"credit", "credit_reference_id", "total_cost", "last_updated"}
    assert await seen_by(platform, old["cdr_token"]["party_id"], "cdrs") == set(found)
    assert await seen_by(platform, "DEXYZ", "cdrs") == set()


@pytest.mark.requirement("R.08.02.04", "R.08.02.09")
async def test_a_new_cdr_follows_a_credit_cdr(platform: Running):
    """With ids of one's own choice; a second time, another session, or another credit is refused whole."""
    await publish(platform, "cdrs", line("A", cdr()), line("B", cdr()))
    new = line("A2", cdr(amount="8.5"))
    assert "another session" in await ordered(platform, "cdrs", "A", line("A2", cdr(session_id="OTHER")))
    assert "leaves credit out" in await ordered(
        platform, "cdrs", "A", line("A2", cdr(credit=True, credit_reference_id="A"))
    )
    assert "CDR" in await ordered(platform, "cdrs", "A", new, id="A")
    assert set(await issued(platform, "cdrs")) == {"A", "B"}

    assert await ordered(platform, "cdrs", "A", new, id="invoice-7/credit") == ["invoice-7/credit", "A2"]
    assert "invoice-7/credit is issued already" in await ordered(platform, "cdrs", "A", new, id="invoice-7/credit")
    assert "A2 is issued already" in await ordered(platform, "cdrs", "B", new)
    assert "is a Credit CDR itself" in await ordered(platform, "cdrs", "INVOICE-7%2FCREDIT")
    assert set(await issued(platform, "cdrs")) == {"A", "B", "invoice-7/credit", "A2"}


@pytest.mark.requirement("R.08.02.02", "R.08.02.06", "R.08.02.07")
async def test_a_credit_cdr_of_ones_own_making_is_checked(platform: Running):
    """Published as any other, it has to name a CDR that is issued, and take back what that one asks for."""
    await publish(platform, "cdrs", line("A", cdr()))
    credit: dict[str, Any] = {"credit": True, "credit_reference_id": "a"}
    bad = {
        "N1": cdr(amount="-11.20", **credit | {"credit_reference_id": "MISSING"}),
        "N2": cdr(amount="-11.19", **credit),
    }
    answer = await platform.publish("BEBEC", "cdrs", b"\n".join(line(*item) for item in bad.items()))

    told = {one["id"]: [problem["pointer"] for problem in one["problems"]] for one in answer["results"]}
    assert told["N1"] == ["/credit_reference_id"]
    assert told["N2"] == ["/total_cost/before_taxes", "/total_cost/taxes/0/amount"]
    good = cdr(amount="-11.20", **credit).replace(b"2.350", b"-2.35")
    await publish(platform, "cdrs", line("C", good))


async def test_a_cdr_does_not_change(platform: Running):
    """Its publisher is told what to do instead; the same bytes again are no change."""
    await publish(platform, "cdrs", line("A", cdr()))
    (refused,) = (await platform.publish("BEBEC", "cdrs", line("A", cdr(amount="11.2"))))["results"]

    assert refused["outcome"] == "refused"
    assert "credit it" in refused["reason"]
    assert (await publish(platform, "cdrs", line("A", cdr())))["unchanged"] == 1


# 10.02: the end of a Tariff Association


@pytest.mark.requirement("R.10.02.01", "R.10.02.02", "R.10.02.03", "R.10.02.04")
async def test_a_tariff_association_is_cancelled_by_others(platform: Running):
    """Together they have its connectors, and each its start and audience; anything else is refused with the reason."""
    await publish(platform, "tariffassociations", line("A1", association("E1/1", "E1/2", "E2/1")))
    some, rest = association("E1/1", tariff_id="T2"), association("E1/2", "E2/1", tariff_id="T3")
    wrong = {
        "R.10.02.01": (),
        "R.10.02.02": (line("A2", some),),
        "R.10.02.03": (
            line("A2", some),
            line("A3", association("E1/2", "E2/1", start_date_time="2026-02-01T00:00:00Z")),
        ),
        "R.10.02.04": (line("A2", some), line("A3", association("E1/2", "E2/1", audience="PROFILE_FAST"))),
    }
    for requirement, lines in wrong.items():
        assert requirement in await ordered(platform, "tariffassociations", "A1", *lines), requirement
    assert set(await issued(platform, "tariffassociations")) == {"A1"}

    assert await ordered(platform, "tariffassociations", "A1", line("A2", some), line("A3", rest)) == ["A2", "A3"]
    assert set(await issued(platform, "tariffassociations")) == {"A1", "A2", "A3"}


# 9.01: a new Tariff in the place of an old one


@pytest.mark.requirement("R.09.01.04", "R.10.01.04")
async def test_a_tariff_is_replaced_and_its_associations_follow(platform: Running):
    """The old ones are never changed: a changed payload is refused; new ones are issued, for the same subscribers."""
    await publish(platform, "tariffs", line("T1", example("tariffs")), line("T9", example("tariffs")))
    limited = line("A2", association("E2/1"))[:-1] + b',"audience":["NLEMS"]}'
    lines = (line("A1", association("E1/1")), limited, line("A9", association("E9/1", tariff_id="T9")))
    await publish(platform, "tariffassociations", *lines)
    for module, known in (("tariffs", "T1"), ("tariffassociations", "A1")):
        changed = json.dumps(json.loads(example(module)), indent=1).encode().replace(b"\n", b" ")
        (refused,) = (await platform.publish("BEBEC", module, line(known, changed)))["results"]
        assert "cannot be changed once they are issued" in refused["reason"]

    new = line("T2", example("tariffs"))
    then = "2027-01-01T00:00:00Z"
    issued_now = await ordered(platform, "tariffs", "T1", new, effective_at=then)

    assert issued_now[0] == "T2"
    followers = {
        name: one for name, one in (await issued(platform, "tariffassociations")).items() if name in issued_now
    }
    assert {one["connectors"][0]["evse_uid"] for one in followers.values()} == {"E1", "E2"}
    assert {one["tariff_id"] for one in followers.values()} == {"T2"}
    assert {one["start_date_time"][:19] for one in followers.values()} == {then[:19]}
    for_one = {name for name, one in followers.items() if one["connectors"][0]["evse_uid"] == "E2"}
    assert await seen_by(platform, "DEXYZ", "tariffassociations") == {"A1", "A9", *followers} - for_one
    assert await seen_by(platform, "NLEMS", "tariffassociations") == {"A1", "A2", "A9", *followers}
    assert "is issued already" in await ordered(platform, "tariffs", "T1", new, effective_at=then)
