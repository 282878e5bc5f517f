"""Round trips of an asynchronous call: two engines and a webhook that answers at once, beside two bare POSTs.

A party of the eMSP asks over the local API for a connector to be unlocked, and waits there for the result. The request
goes to the CPO, whose webhook says in its answer that it is done; the result comes back as a callback.
"""

import base64
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from benchmarks import ours, yardsticks
from benchmarks.backends import Backend
from benchmarks.bodies import PARTY, RESULT, UNLOCK
from benchmarks.measuring import RoundTrips, Watch, round_trips
from benchmarks.plan import AT_ONCE, Plan

HOST: Final = "127.0.0.1"
SECRET: Final = f"whsec_{base64.b64encode(bytes(24)).decode()}"
WAIT_S: Final = 60.0  # longer than any of them takes
ORDER: Final = json.dumps(
    {
        "sender": ours.SUBSCRIBERS[0],
        "receiver": PARTY,
        "module": "locations",
        "operation": "unlock-connector",
        "payload": UNLOCK,
        "wait_s": WAIT_S,
    }
).encode()


@dataclass
class Called:
    """All runs on one backend, by how many callers asked at once."""

    backend: Backend
    load_before: float
    load_after: float = 0.0
    bare: dict[int, list[RoundTrips]] = field(default_factory=dict)
    ours: dict[int, list[RoundTrips]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Show every run."""
        return {"backend": self.backend.name} | {
            name: value for name, value in asdict(self).items() if name != "backend"
        }


async def measure(plan: Plan, backend: Backend, folder: Path, tell: Callable[[str], None]) -> Called:
    """Measure in rounds, yardstick and engine in turn; ``tell`` hears what is going on."""
    results = Called(backend, load_before=os.getloadavg()[0])
    async with AsyncExitStack() as stack:
        tell("calls: starting two platforms, a webhook and a yardstick")
        keys = folder / "there-and-back"
        keys.mkdir()
        yardsticks.make_keys(keys)
        bare = await stack.enter_async_context(yardsticks.pair("benchmarks.there_and_back", keys))
        settings = _webhook_settings(folder, await stack.enter_async_context(_webhook()))
        engines = await stack.enter_async_context(ours.engines(backend, folder, of_cpo=settings))
        api = await stack.enter_async_context(ours.local_api(engines.emsp))
        for number in range(1, plan.rounds + 1):
            for at_once in AT_ONCE:
                tell(f"calls, {backend.title}, round {number} of {plan.rounds}: {at_once} at once")
                there_and_back = await bare.round_trips(at_once=at_once, count=plan.bare_calls)
                results.bare.setdefault(at_once, []).append(there_and_back)
                count = plan.calls if at_once > 1 else plan.calls_one_at_a_time
                results.ours.setdefault(at_once, []).append(await _calls(engines, api, at_once=at_once, count=count))
    results.load_after = os.getloadavg()[0]
    return results


async def _calls(engines: ours.Engines, api: aiohttp.ClientSession, *, at_once: int, count: int) -> RoundTrips:
    async def ask() -> None:
        headers = {"Content-Type": "application/json"}
        async with api.post("/api/v1/calls", data=ORDER, headers=headers) as answer:
            call = await answer.json()
        if call.get("state") != "succeeded":
            raise AssertionError(f"a call had no success: {str(call)[:500]}")

    await round_trips(ask, count=count // 4, at_once=at_once)
    cpo, emsp = engines.pids
    watch = Watch(emsp, cpo, engines.servers)
    took_s = await round_trips(ask, count=count, at_once=at_once)
    return RoundTrips.of(watch.sample(count), took_s)


def _webhook_settings(folder: Path, url: str) -> dict[str, str]:
    secret = folder / "webhook-secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    named = {"KIND": "webhook", "WEBHOOK_URL": url, "WEBHOOK_SECRET_FILE": str(secret)}
    return {f"OCPI_ENGINE_BACKOFFICE__{name}": value for name, value in named.items()}


@asynccontextmanager
async def _webhook() -> AsyncIterator[str]:
    """Serve, in this process, what answers every call with its result; gives the URL."""

    async def handle(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=RESULT, content_type="application/json")

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        yield f"http://{HOST}:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
