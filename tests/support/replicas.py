"""Both sides of a replication, compared byte for byte: what one platform issued and what the other holds of it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import httpx
import msgspec

from engine import samples
from engine.faults import FAULT_VARIABLE
from tests.support.postgresql import run
from tests.support.processes import Platform

LOOK_EVERY_S = 0.05  # how often a watcher looks; what it may not see is wrong whenever it is seen


PUBLISHED_WITHIN_S = 8.0  # a process that stands still may have taken the request


class Copy(NamedTuple):
    """A version of an object, with its bytes."""

    version: int
    payload: bytes


Copies = dict[tuple[str, str], Copy]


class _Stored(msgspec.Struct):
    issuer: str
    id: str
    version: int
    cursor: str
    payload: msgspec.Raw


class _Page(msgspec.Struct):
    objects: list[_Stored]
    cursor: str
    more: bool


_pages = msgspec.json.Decoder(_Page)


async def page(platform: Platform, kind: str, module: str, after: str = "0") -> _Page:
    """Read a page of ``issued`` or ``received`` objects."""
    async with platform.api() as api:
        answer = await api.get(f"/api/v1/{kind}/{module}", params={"after": after, "limit": 500})
        answer.raise_for_status()
        return _pages.decode(answer.content)


async def copies(platform: Platform, kind: str, module: str) -> Copies:
    """Read all ``issued`` or ``received`` objects of a module."""
    found: Copies = {}
    after, more = "0", True
    while more:
        read = await page(platform, kind, module, after)
        found |= {(each.issuer, each.id): Copy(each.version, bytes(each.payload)) for each in read.objects}
        after, more = read.cursor, read.more
    return found


def difference(issued: Copies, received: Copies) -> list[str]:
    """Say where two sides differ, in words that fit an assertion."""
    found = [f"{key} is missing" for key in issued.keys() - received.keys()]
    found += [f"{key} was never issued" for key in received.keys() - issued.keys()]
    for key in issued.keys() & received.keys():
        if issued[key] != received[key]:
            found.append(f"{key}: version {issued[key].version} issued, {received[key].version} received")
    return sorted(found)


async def subscribe(
    consumer: Platform,
    producer: Platform,
    module: str = "locations",
    *,
    retry_interval_s: float = 0.2,
    parallelism_limit: int = 4,
) -> None:
    """Subscribe the consumer's party to the producer's."""
    order = {"subscriber": consumer.party, "producer": producer.party, "module": module}
    async with consumer.api() as api:
        answer = await api.post(
            "/api/v1/subscriptions",
            json=order | {"retry_interval_s": retry_interval_s, "parallelism_limit": parallelism_limit},
        )
        answer.raise_for_status()


def payloads(count: int, *, turn: int = 0, of: Iterable[int] | None = None) -> dict[str, bytes]:
    """Make Locations that differ with every turn, by a field of the operator's own that no float can hold."""
    made = _samples(count)
    return {
        made[number].id: b'%b,"x_turn":%d.10,"x_large":1E400}' % (made[number].payload.rstrip()[:-1].rstrip(), turn)
        for number in (range(count) if of is None else of)
    }


@cache
def _samples(count: int) -> list[samples.Sample]:
    return list(samples.locations(count))


class Traffic:
    """A back office that changes random objects all the time, and remembers what it was promised (P3)."""

    def __init__(self, platform: Platform, *, count: int, seed: int, pause_s: float = 0.05) -> None:
        """Change some of so many objects."""
        self._platform = platform
        self._count = count
        self._random = random.Random(seed)
        self._pause_s = pause_s
        self.promised: dict[str, int] = {}
        self.turn = seed * 1_000_000

    async def once(self, *, of: Iterable[int] | None = None) -> None:
        """Publish one batch of changes; what is answered with success is a promise."""
        self.turn += 1
        chosen = self._random.sample(range(self._count), 12) if of is None else of
        for result in await self._platform.publish("locations", payloads(self._count, turn=self.turn, of=chosen)):
            assert result["outcome"] in ("created", "changed", "unchanged"), result
            self.promised[result["id"]] = result["version"]

    async def _run(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError, OSError):  # TimeoutError is one
                async with asyncio.timeout(PUBLISHED_WITHIN_S):
                    await self.once()
            await asyncio.sleep(self._pause_s)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Publish until the block ends, also while the platform is away.

        The last batch is waited for: one that is broken off is stored all the same, after whatever is looked at next.
        """
        ended = asyncio.Event()
        task = asyncio.create_task(self._run(ended))
        try:
            yield
        finally:
            ended.set()
            await task


@dataclass
class Watcher:
    """Reads a receiver's copies as they change, and notes each that goes back (P2)."""

    platform: Platform
    module: str = "locations"
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    went_back: list[str] = field(default_factory=list)
    looks: int = 0

    def see(self, key: tuple[str, str], version: int) -> None:
        """Compare a copy with the newest that was seen."""
        known = self.versions.get(key, -1)
        if version < known:
            self.went_back.append(f"{key} went back from version {known} to {version}")
        self.versions[key] = version

    async def _run(self) -> None:
        after = "0"
        while True:
            with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError, OSError):
                read = await page(self.platform, "received", self.module, after)
                for each in read.objects:
                    self.see((each.issuer, each.id), each.version)
                after = read.cursor
                self.looks += 1
            await asyncio.sleep(LOOK_EVERY_S)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look until the block ends."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def start_to_die(platform: Platform, point: str, passage: int) -> None:
    """Start a platform that ends itself at a fault point, perhaps before it serves."""
    try:
        await platform.start(**{FAULT_VARIABLE: f"{point}@{passage}"})
    except AssertionError:
        if platform.process is None or platform.process.returncode is None:
            raise


async def owed_beyond(producer: Platform, consumer: Platform, module: str = "locations") -> list[str]:
    """List what a producer that does not run takes for delivered and its consumer, not running either, does not hold.

    The watermark says: everything at or below it is delivered, or stands in ``exceptions``.
    """
    settled = await run(
        producer.database_url,
        # The module's name is the test's own.
        f"""
        SELECT o.object_key, o.version, o.payload FROM objects o
        JOIN outbound_subscriptions s ON s.module = o.module AND s.producer = o.issuer
        WHERE o.source_id = 0 AND o.module = '{module}' AND o.seq <= s.watermark AND NOT EXISTS (
            SELECT 1 FROM exceptions e
            WHERE e.subscription_id = s.id AND e.issuer = o.issuer AND e.object_key = o.object_key)
        """,  # noqa: S608
    )
    held = {
        key: Copy(version, payload)
        for key, version, payload in await run(
            consumer.database_url,
            f"SELECT object_key, version, payload FROM objects WHERE source_id <> 0 AND module = '{module}'",  # noqa: S608
        )
    }
    return [
        f"{key} counts as delivered in version {version}, held: {held.get(key)}"
        for key, version, payload in settled
        if key not in held or (held[key] != Copy(version, payload) and held[key].version <= version)
    ]


def kept(promised: Mapping[str, int], issued: Copies) -> list[str]:
    """List promises of publish that were not kept: versions that are not there, nor newer ones."""
    newest = {object_id: copy.version for (_, object_id), copy in issued.items()}
    return [
        f"{object_id} was promised in version {version}, there is {newest.get(object_id)}"
        for object_id, version in promised.items()
        if newest.get(object_id, -1) < version
    ]
