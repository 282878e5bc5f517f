"""A whole engine in the test's process, and a client of its local API."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.app import Engine
from engine.protocol.ids import ModuleId, PartyId, object_key
from engine.protocol.modules import all_modules, module
from engine.protocol.modules.module import Addition, CannotReplace, Issued, Replacement, Wanted
from engine.protocol.objects import Update
from engine.registration.folder import make_folder
from engine.replication import publishing
from engine.settings import PlatformFolder
from engine.store import objects, subscriptions
from engine.store.objects import Change
from engine.store.platforms import add_platform
from tests.support.processes import local_api

IDENTITY = "cpo.example.org"
PARTIES = ("BEBEC", "BEABC")
PARTNER = "emsp.example.org"
EVENTS = "/api/v1/events"


class Running:
    """An engine that runs, its folder, and the operator's client."""

    def __init__(self, engine: Engine, client: httpx.AsyncClient) -> None:
        self.engine = engine
        self.client = client
        self.folder = engine.folder.root

    def as_holder_of(self, token: str | None) -> httpx.AsyncClient:
        """Make a client with another token, or none; close it."""
        return local_api(self.engine.folder, token)

    async def publish(self, party: str, module: str, lines: bytes) -> dict[str, Any]:
        """Publish NDJSON lines, and expect an answer."""
        response = await self.client.post(f"/api/v1/parties/{party}/objects/{module}", content=lines)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def subscription(self, subscriber: str, producer: str, module: str, *, partner: str = PARTNER) -> int:
        """Store a subscription of ours, as if the partner had accepted it."""
        async with self.engine.database.transaction() as tx:
            known = self.engine.directory.by_identity(partner)
            platform_id = known.id if known else (await add_platform(tx, partner, now=1.0)).id  # type: ignore[arg-type]
            subscription_id = await subscriptions.add_inbound(
                tx,
                platform_id=platform_id,
                subscriber=subscriber,
                producer=producer,
                module=module,
                module_alias=module,
                state="live",
                life=1,
                retry_interval_s=5.0,
                parallelism_limit=8,
                began_at=1.0,
            )
        await self.engine.directory.reload()
        await self.engine.consuming.reload()
        return subscription_id

    async def push(self, subscriber: str, producer: str, module: str, object_id: str, payload: bytes) -> None:
        """Have the partner push an object under a subscription of ours; raises what it is answered with."""
        known = self.engine.directory.by_identity(PARTNER)
        assert known is not None
        await self.engine.accepting.accept(
            platform_id=known.id,
            sender=PartyId(producer),
            receiver=PartyId(subscriber),
            module_name=module,
            update=Update(PartyId(producer), object_id, object_key(object_id), 1, payload),
        )

    async def receive(self, subscription_id: int, module: str, issuer: str, items: Sequence[tuple[str, bytes]]) -> None:
        """Store objects as received under a subscription of ours."""
        changes = [
            Change(subscription_id, module, PartyId(issuer), object_key(name), name, 1, 1, payload)
            for name, payload in items
        ]
        async with self.engine.database.transaction() as tx:
            await objects.store(tx, changes, received=True, now=1_000_000_000.0)


async def new_platform(root: Path) -> PlatformFolder:
    """Make a CPO's folder that hosts two parties."""
    folder = PlatformFolder(root)
    await make_folder(
        folder, identity=IDENTITY, base_url="https://127.0.0.1:1/ocpi", parties=list(PARTIES), listen_port=0
    )
    return folder


@asynccontextmanager
async def running(folder: PlatformFolder, **settings: str) -> AsyncIterator[Running]:
    """Run the engine of a folder; settings as in the environment, without their prefix: ``API__PAGE_MAX="2"``."""
    chosen = {f"OCPI_ENGINE_{name}": value for name, value in settings.items()}
    engine = Engine(folder, folder.settings(chosen))
    await engine.start()
    try:
        token = (folder.run / "api-token").read_text().strip()
        async with local_api(folder, token) as client:
            yield Running(engine, client)
    finally:
        await engine.stop()


def _superseded(
    old: Issued, wanted: Wanted, _related: Mapping[ModuleId, Sequence[Issued]], _now: float
) -> list[Addition]:
    """End the old status by one that says when, and issue what is wanted."""
    if b"UNKNOWN" in old.payload:
        raise CannotReplace(f"{old.id} is over already")
    when = "" if wanted.effective_at is None else f' at="{wanted.effective_at:.0f}"'
    end = b'{"status":"UNKNOWN", "why":"replaced%b"}' % when.replace('"', "'").encode()
    ended = Addition(ModuleId("evsestatuses"), wanted.id or f"{old.id}-end", end)
    return [ended, *(Addition(ModuleId("evsestatuses"), new.id, new.payload) for new in wanted.objects)]


def statuses_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the statuses of EVSEs be objects that are replaced by others."""
    real = module("evsestatuses")
    assert real is not None
    how = Replacement(summary="The old status is ended, and FILE has the new ones.", make=_superseded)
    changed = {one.id: one for one in all_modules()} | {real.id: replace(real, replacement=how)}
    monkeypatch.setattr(publishing, "module", changed.get)


class Follower:
    """Reads a stream of server-sent events."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()
        self.cursor = ""
        """Id of the last event: where to go on."""

    async def next(self) -> tuple[str, str, dict[str, Any]]:
        """Return the next event: its kind, its id and its data."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(20):
            while "data" not in fields:
                fields.clear()
                while line := await anext(self._lines):
                    name, _, value = line.partition(": ")
                    fields[name] = fields.get(name, "") + value
        self.cursor = fields["id"]
        return fields["event"], fields["id"], json.loads(fields["data"])


@asynccontextmanager
async def following(client: httpx.AsyncClient, query: str = "", *, cursor: str = "") -> AsyncIterator[Follower]:
    """Follow the event stream; its own first event has been read."""
    headers = {"last-event-id": cursor} if cursor else {}
    async with client.stream("GET", f"{EVENTS}{query}", headers=headers) as response:
        assert response.status_code == 200
        stream = Follower(response)
        kind, _, data = await stream.next()
        assert (kind, data) == ("position", {"cursor": stream.cursor})
        yield stream
