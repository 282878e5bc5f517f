"""The event stream of the local API: everything that changes, in one stream that can be gone on with."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.local_api import EVENTS, Follower, Running, following, new_platform, running


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a CPO that hosts BEBEC and BEABC."""
    async with running(await new_platform(tmp_path / "cpo")) as running_platform:
        yield running_platform


async def take(stream: Follower, count: int) -> list[str]:
    """Read so many events, in short."""
    told = [await stream.next() for _ in range(count)]
    return [_short(kind, data) for kind, _, data in told]


def _short(kind: str, data: dict[str, Any]) -> str:
    what = f"{data['module']} {data['id']}" if kind == "object" else f"{data['id']} {data['state']}"
    return f"{kind} {what}"


async def test_all_that_changes_is_told(platform: Running):
    """Subscriptions and received objects of every module, each as its own pages show it."""
    async with following(platform.client) as stream:
        ours = await platform.subscription("BEBEC", "NLEMS", "tariffs")
        assert await take(stream, 1) == [f"subscription in-{ours} live"]
        await platform.receive(ours, "tariffs", "NLEMS", [("T1", b'{"a":0.10}')])
        kind, _, data = await stream.next()
        assert (kind, data["id"], data["receiver"]) == ("object", "T1", "BEBEC")
        async with platform.engine.database.transaction() as tx:
            await platform.engine.consuming.end_platform(tx, 1)
        assert await take(stream, 1) == [f"subscription in-{ours} ended"]


async def test_it_goes_on_after_a_restart(tmp_path: Path):
    """What changed while nobody followed, and while the platform was restarted, comes first: once, as it is then."""
    folder = await new_platform(tmp_path / "cpo")
    async with running(folder) as before:
        async with following(before.client) as stream:
            ours = await before.subscription("BEBEC", "NLEMS", "tariffs")
            await before.receive(ours, "tariffs", "NLEMS", [("T1", b"{}"), ("T2", b"{}")])
            events = await take(stream, 2)
            cursor = stream.cursor
        for payload in (b'{"a":1}', b'{"a":2}'):
            await before.receive(ours, "tariffs", "NLEMS", [("T3", payload)])
    async with running(folder) as after, following(after.client, cursor=cursor) as stream:
        theirs = await after.subscription("BEABC", "NLEMS", "locations")
        events += await take(stream, 3)

    assert sorted(events) == sorted(
        [
            f"subscription in-{ours} live",
            "object tariffs T1",
            "object tariffs T2",
            "object tariffs T3",
            f"subscription in-{theirs} live",
        ]
    )


async def test_what_is_asked_for_is_told(platform: Running):
    """Kinds and modules can be chosen; the cursor may be given in the query, too."""
    ours = await platform.subscription("BEBEC", "NLEMS", "tariffs")
    async with following(platform.client, "?kind=object&module=tokens&module=tariffs") as stream:
        start = stream.cursor
        await platform.receive(ours, "locations", "NLEMS", [("L1", b"{}")])
        await platform.subscription("BEABC", "NLEMS", "locations")
        await platform.receive(ours, "tariffs", "NLEMS", [("T1", b"{}")])
        assert await take(stream, 1) == ["object tariffs T1"]
    async with following(platform.client, f"?kind=object&after={start}") as stream:
        assert await take(stream, 1) == ["object tariffs T1"]
    async with following(platform.client, f"?kind=subscription&after={start}") as stream:
        assert stream.cursor.startswith("events:")


async def test_a_party_hears_what_is_its_own(platform: Running):
    """Its token tells of its objects and subscriptions, and of no other's; nor does it if another's are asked for."""
    token = (await platform.client.post("/api/v1/tokens", json={"name": "office", "party": "BEBEC"})).json()["token"]
    async with platform.as_holder_of(token) as office, following(office) as stream:
        theirs = await platform.subscription("BEABC", "NLEMS", "tariffs")
        await platform.receive(theirs, "tariffs", "NLEMS", [("T1", b"{}")])
        ours = await platform.subscription("BEBEC", "NLEMS", "tariffs")
        await platform.receive(ours, "tariffs", "NLEMS", [("T2", b"{}")])
        assert set(await take(stream, 2)) == {f"subscription in-{ours} live", "object tariffs T2"}
        assert (await office.get(f"{EVENTS}?party=BEABC")).status_code == 403
    async with following(platform.client, "?party=BEABC&after=events:0") as stream:
        assert await take(stream, 1) == [f"subscription in-{theirs} live"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?after=nonsense", 422),
        ("?after=events:x", 422),
        (f"?after={'events:1;' * 200}", 422),
        ("?after=events:999999999", 409),
        ("?after=events:-1", 422),
        ("?module=nonsense", 404),
        ("?kind=nonsense", 422),
        ("?party=nonsense", 422),
    ],
)
async def test_what_cannot_be_followed_is_said(platform: Running, query: str, status: int):
    """A cursor that is none, or of another platform; a module, a kind, a party that there is not."""
    answer = await platform.client.get(f"{EVENTS}{query}")
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
