"""The engine itself: two ``ocpi-engine serve`` processes with default settings, driven through their local APIs.

When an update counts as durably stored is read from outside, in the receiver's database: what another process sees
there is committed. That costs the receiver nothing.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

import aiohttp

from benchmarks.backends import Backend, Place, Rows, place
from benchmarks.bodies import PARTY, Kind
from benchmarks.measuring import Sample, Servers, Watch, rss_mib
from engine.settings import PlatformFolder
from engine.store.objects import log_name
from tests.support.processes import Platform, connect

SUBSCRIBERS = ("NLEMS", "NLEMA", "NLEMB", "NLEMC")
"""The first one takes the updates; each of the others takes one snapshot."""

BATCH = 200  # objects in one call of the local API
WAIT_S = 120.0  # longer than anything here takes
RETRY_INTERVAL_S = 5.0


class Measured(Platform):
    """A platform whose processes begin as an operator's do, so that their memory is their own."""

    async def launch(
        self, words: Sequence[str], log: IO[bytes], environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        """Start the process that serves."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "engine", *words, stdout=log, stderr=log, env=environment
        )


class Logs:
    """Looks at the change logs of a platform's database."""

    def __init__(self, rows: Rows) -> None:
        """Read these."""
        self._rows = rows

    async def end(self, log: str) -> int:
        """Return the number of the last committed change."""
        return await self._rows.number("SELECT last_seq FROM logs WHERE name = ?", log) or 0

    async def grown(self, log: str, after: int, count: int) -> None:
        """Wait until a log has so many more changes; the first ever begins at a number taken from a clock."""
        async with asyncio.timeout(WAIT_S):
            while after == 0:
                first = await self._rows.number("SELECT min(seq) FROM objects WHERE log = ?", log)
                after = 0 if first is None else first - 1
                await asyncio.sleep(self._rows.pause_s)
            while await self.end(log) < after + count:  # noqa: ASYNC110 - another process's database sets no events
                await asyncio.sleep(self._rows.pause_s)


class Engines:
    """A CPO that publishes and an eMSP that receives."""

    def __init__(
        self,
        cpo: Platform,
        emsp: Platform,
        *,
        publisher: aiohttp.ClientSession,
        reader: aiohttp.ClientSession,
        received: Logs,
        servers: Servers,
    ) -> None:
        """Drive these."""
        self.cpo, self.emsp = cpo, emsp
        self.received = received
        self._publisher, self._reader = publisher, reader
        self.servers = servers

    @property
    def pids(self) -> tuple[int, int]:
        """The sender's and the receiver's process."""
        assert self.cpo.process is not None
        assert self.emsp.process is not None
        return self.cpo.process.pid, self.emsp.process.pid

    def memory(self) -> tuple[float, float]:
        """Return what both processes hold, in MiB."""
        sender, receiver = self.pids
        return rss_mib(sender), rss_mib(receiver)

    async def publish(self, kind: Kind, numbers: range, *, revision: int) -> None:
        """Publish objects, a batch at a time."""
        await publish(self._publisher, kind, numbers, revision=revision)

    async def subscribe(self, kind: Kind, *, subscriber: str, at_once: int) -> str:
        """Subscribe, and return the subscription's name."""
        order = {
            "subscriber": subscriber,
            "producer": PARTY,
            "module": kind.module,
            "parallelism_limit": at_once,
            "retry_interval_s": RETRY_INTERVAL_S,
        }
        async with self._reader.post("/api/v1/subscriptions", json=order) as answer:
            answer.raise_for_status()
            return str((await answer.json())["id"])

    async def unsubscribe(self, subscription: str) -> None:
        """End it."""
        async with self._reader.post(f"/api/v1/subscriptions/{subscription}/unsubscribe") as answer:
            answer.raise_for_status()

    async def run_at(self, subscription: str, at_once: int) -> None:
        """Agree on another parallelism limit."""
        url = f"/api/v1/subscriptions/{subscription}/renegotiate"
        async with self._reader.post(url, json={"parallelism_limit": at_once}) as answer:
            answer.raise_for_status()
            if not (await answer.json())["accepted"]:
                raise AssertionError("the producer did not agree")

    async def updates(self, kind: Kind, *, count: int, revision: int) -> Sample:
        """Publish new versions of so many objects, and wait until all are stored at the receiver."""
        log = log_name(kind.module, received=True)
        end = await self.received.end(log)
        watch = Watch(*self.pids, self.servers)
        await self.publish(kind, range(1, count + 1), revision=revision)
        await self.received.grown(log, end, count)
        return watch.sample(count)

    async def snapshot(
        self, kind: Kind, *, subscriber: str = SUBSCRIBERS[0], count: int, at_once: int
    ) -> tuple[str, Sample]:
        """Subscribe a party, and wait until everything is stored for it; returns the subscription too."""
        log = log_name(kind.module, received=True)
        end = await self.received.end(log)
        watch = Watch(*self.pids, self.servers)
        subscription = await self.subscribe(kind, subscriber=subscriber, at_once=at_once)
        await self.received.grown(log, end, count)
        return subscription, watch.sample(count)

    async def single_publishes(self, kind: Kind, *, count: int, revision: int, callers: int) -> Sample:
        """As ``updates``, but each object is published by a call of its own."""
        log = log_name(kind.module, received=True)
        end = await self.received.end(log)
        numbers = iter(range(1, count + 1))

        async def publish() -> None:
            for number in numbers:
                await self._publish_one(kind, number, revision)

        watch = Watch(*self.pids, self.servers)
        await asyncio.gather(*(publish() for _ in range(callers)))
        await self.received.grown(log, end, count)
        return watch.sample(count)

    async def _publish_one(self, kind: Kind, number: int, revision: int) -> None:
        url = f"/api/v1/parties/{PARTY}/objects/{kind.module}/{kind.object_id(number)}"
        headers = {"Content-Type": "application/json"}
        async with self._publisher.put(url, data=kind.payload(number, revision), headers=headers) as answer:
            answer.raise_for_status()
            await answer.read()

    async def delays(self, kind: Kind, *, count: int, revision: int, rate: float) -> list[float]:
        """Publish one object at a time at a steady rate; return how long each took, in seconds.

        From the moment at which its call was to begin, whether or not it could, to its arrival on the receiver's
        stream of changes, where it is after it was committed.
        """
        numbers = {kind.object_id(number): number for number in range(1, count + 1)}
        arrived: dict[int, float] = {}
        following = asyncio.Event()
        follower = asyncio.create_task(self._follow(kind, numbers, arrived, following))
        try:
            async with asyncio.timeout(WAIT_S):
                await following.wait()
                began, calls, due = time.perf_counter() + 0.1, [], {}
                for number in range(1, count + 1):
                    due[number] = began + (number - 1) / rate
                    await asyncio.sleep(due[number] - time.perf_counter())
                    calls.append(asyncio.create_task(self._publish_one(kind, number, revision)))
                await asyncio.gather(*calls)
                await follower
        finally:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower
        return [arrived[number] - due[number] for number in due]

    async def _follow(
        self, kind: Kind, numbers: dict[str, int], arrived: dict[int, float], following: asyncio.Event
    ) -> None:
        async with self._reader.get(f"/api/v1/received/{kind.module}/changes", timeout=NO_TIMEOUT) as stream:
            async for line in stream.content:
                following.set()  # the first event says where the stream begins
                if not line.startswith(b"data: {") or b'"id":' not in line:
                    continue
                number = numbers.get(json.loads(line[6:])["id"])
                if number is not None:
                    arrived[number] = time.perf_counter()
                    if len(arrived) == len(numbers):
                        return


NO_TIMEOUT = aiohttp.ClientTimeout(total=None)


async def publish(api: aiohttp.ClientSession, kind: Kind, numbers: range, *, revision: int) -> None:
    """Publish objects through a local API, a batch at a time."""
    for start in range(0, len(numbers), BATCH):
        batch = numbers[start : start + BATCH]
        body = b"\n".join(
            b'{"id":"%b","payload":%b}' % (kind.object_id(number).encode(), kind.payload(number, revision))
            for number in batch
        )
        headers = {"Content-Type": "application/x-ndjson"}
        url = f"/api/v1/parties/{PARTY}/objects/{kind.module}"
        async with api.post(url, data=body, headers=headers) as answer:
            counts = await answer.json()
        if counts.get("created", 0) + counts.get("changed", 0) != len(batch):
            raise AssertionError(f"not all was published: {str(counts)[:500]}")


@asynccontextmanager
async def engines(backend: Backend, folder: Path, *, of_cpo: Mapping[str, str] | None = None) -> AsyncIterator[Engines]:
    """Make both platforms, connect them and end them; ``of_cpo``: further settings of the CPO's."""
    async with AsyncExitStack() as stack:
        made: list[tuple[Platform, Place]] = []
        for name, party, role, settings in (
            ("cpo", PARTY, "CPO", of_cpo or {}),
            ("emsp", SUBSCRIBERS[0], "EMSP", {}),
        ):
            where = await stack.enter_async_context(place(backend, name))
            platform = Measured(
                folder / name,
                identity=f"{name}.example.org",
                party=party,
                role=role,
                settings={**where.settings, **settings},
                made_with=where.made_with,
            )
            stack.push_async_callback(platform.stop)
            await platform.make()
            await platform.start()
            made.append((platform, where))
        (cpo, _), (emsp, received_at) = made
        for party in SUBSCRIBERS[1:]:
            await emsp.command("parties add", party, "--role", "EMSP")
        await connect(emsp, cpo)
        rows = await received_at.rows(emsp.folder)
        stack.push_async_callback(rows.close)
        yield Engines(
            cpo,
            emsp,
            publisher=await stack.enter_async_context(local_api(cpo)),
            reader=await stack.enter_async_context(local_api(emsp)),
            received=Logs(rows),
            servers=backend.servers(),
        )


def local_api(platform: Platform) -> aiohttp.ClientSession:
    """Talk to a local API. httpx, which the tests use, would take more CPU than what is measured."""
    folder = PlatformFolder(platform.folder)
    headers = {"Authorization": f"Bearer {(folder.run / 'api-token').read_text().strip()}"}
    # The server closes what is idle for five seconds, and a request that it crosses with has no second chance.
    connector = aiohttp.UnixConnector(str(folder.run / "api.sock"), limit=0, keepalive_timeout=2.0)
    return aiohttp.ClientSession("http://engine", connector=connector, headers=headers)
