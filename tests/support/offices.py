"""Back offices by script, engines in the test's own process that they are put into, and examples of every operation."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from engine.app import Engine
from engine.protocol.ids import PartyId
from engine.protocol.modules import all_modules
from engine.protocol.modules.module import Call, Module
from engine.relay.offices import Accepted, Answered, IncomingCall, Reply
from engine.settings import PlatformFolder
from tests.support.generated import REPOSITORY
from tests.support.processes import Platform, connect

QUICK: Final = {
    "OCPI_ENGINE_PEERS__REQUEST_TIMEOUT_MS": "2000",
    "OCPI_ENGINE_PEERS__PARTIES_REFRESH_MIN_S": "0",
    "OCPI_ENGINE_REPLICATION__PROBE_PAUSE_MAX_S": "0.2",
    "OCPI_ENGINE_CALLS__HAND_OVER_AGAIN_S": "0.1",
    "OCPI_ENGINE_CALLS__CALLBACK_AGAIN_S": "0.1",
    "OCPI_ENGINE_CALLS__CALLBACK_AGAIN_MAX_S": "0.2",
}
UNLOCK: Final = "locations/unlock-connector"
WAIT_S: Final = 20.0
EXAMPLES: Final = REPOSITORY / "docs" / "modules" / "examples"

OPERATIONS: Final[Mapping[str, tuple[Module, Call]]] = {
    f"{module.id}/{call.operation}": (module, call) for module in all_modules() for call in module.calls
}
"""Every declared operation, by its name in URLs."""

_PROFILE: Final = (
    b'{"id":"CP-7","charging_rate_unit":"W","charging_profile_period":[{"start_period":0,"limit":11000.0}]}'
)
RESULTS: Final[Mapping[str, bytes]] = {
    "cdrs/dispute": b"{}",
    "sessions/change-charging-preferences": b'"ACCEPTED"',
    "meterreadings/get-active-charging-profile": (
        b'{"start_date_time":"2026-01-01T00:00:00Z","charging_profile":%b}' % _PROFILE
    ),
}
"""Of each operation that has a result, one; ``tokens/authorize`` has the Token's."""

ERRORS: Final[Mapping[str, bytes]] = {
    "ReservationError": b'{"status":"EVSE_OCCUPIED"}',
    "ChargingStationCommandError": b'{"status":"DEVICE_OFFLINE"}',
    "SessionCommandError": b'{"status":"EVSE_OCCUPIED"}',
    "RegulationError": b'"UNKNOWN_EVSE"',
}
"""Of each table of errors, one."""


def parameters(name: str) -> bytes:
    """Return the parameters of an operation that its reference page shows."""
    return (EXAMPLES / f"{name.replace('/', '.')}.json").read_bytes()


def authorization() -> bytes:
    """Make an ``AuthorizeResponse`` with the Token that the reference pages show."""
    token = json.loads((EXAMPLES / "tokens.json").read_text())
    times = dict.fromkeys(("authorization_timestamp", "authorized_until"), "2026-01-01T00:00:00Z")
    return json.dumps({"allowed": "ALLOWED", "token": token} | times).encode()


def result_of(name: str) -> bytes | None:
    """Return a result of an operation; None where it has none."""
    return authorization() if name == "tokens/authorize" else RESULTS.get(name)


class ScriptedOffice:
    """The systems of a party, which say what a test wants; without a script yes to everything."""

    def __init__(self) -> None:
        self.taken: list[IncomingCall] = []
        self.script: Callable[[IncomingCall], Awaitable[Reply]] = self.agree
        self._something = asyncio.Event()

    async def take(self, call: IncomingCall) -> Reply:
        """Remember a call, and say what the script has."""
        self.taken.append(call)
        self._something.set()
        return await self.script(call)

    async def agree(self, call: IncomingCall) -> Reply:
        """Accept what has a result later, and answer the rest."""
        name = f"{call.module}/{call.operation}"
        return Accepted() if call.asynchronous else Answered(result_of(name))

    async def took(self, count: int = 1) -> list[IncomingCall]:
        """Wait until so many calls were handed over."""
        async with asyncio.timeout(30.0):
            while len(self.taken) < count:
                self._something.clear()
                await self._something.wait()
        return self.taken


class InProcess(Platform):
    """A platform in the test's own process; a test reaches its parts, and puts back offices into it."""

    engine: Engine

    async def start(self, **settings: str) -> None:
        """Serve; further settings hold for this run only."""
        folder = PlatformFolder(self.folder)
        environment = {**os.environ, **self.settings, **settings}
        self.engine = Engine(folder, folder.settings(environment))
        await self.engine.start()

    async def stop(self) -> int:
        """Stop in order."""
        if "engine" in vars(self):
            await self.engine.stop()
        return 0

    async def kill(self) -> int:
        """Stop; this process is not to die."""
        return await self.stop()

    def office(self, party: str | None = None) -> ScriptedOffice:
        """Give a party of it systems that a test writes the script of."""
        office = ScriptedOffice()
        self.engine.calls.serve(PartyId(party or self.party), office)
        return office

    async def asked(self, method: str, path: str, order: Any = None, *, status: int = 200) -> Any:
        """Ask the local API, and expect an HTTP status."""
        async with self.api() as api:
            answer = await api.request(method, f"/api/v1{path}", json=order)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


@asynccontextmanager
async def pair(folder: Path, **settings: str) -> AsyncIterator[tuple[InProcess, InProcess]]:
    """Run a CPO and an eMSP that are connected."""
    quick = QUICK | {f"OCPI_ENGINE_{name}": value for name, value in settings.items()}
    cpo = InProcess(folder / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings=quick)
    emsp = InProcess(folder / "emsp", identity="emsp.example.org", party="NLEMS", role="EMSP", settings=quick)
    try:
        for platform in (cpo, emsp):
            await platform.make()
            await platform.start()
        await connect(emsp, cpo)
        for platform, other in ((cpo, emsp), (emsp, cpo)):
            await platform.asked("POST", f"/platforms/{other.identity}/parties/refresh")
        yield cpo, emsp
    finally:
        await emsp.stop()
        await cpo.stop()


async def ask(one: InProcess, other: InProcess, name: str, *, wait_s: float = 0.0, **more: Any) -> dict[str, Any]:
    """Have a party ask another one for an operation with the parameters of its reference page."""
    module, operation = name.split("/")
    order = {
        "sender": one.party,
        "receiver": other.party,
        "module": module,
        "operation": operation,
        "payload": json.loads(parameters(name)),
        "wait_s": wait_s,
    }
    shown: dict[str, Any] = await one.asked("POST", "/calls", order | more)
    return shown


async def ended(one: InProcess, call_id: int) -> dict[str, Any]:
    """Wait until a call has ended, and show it."""
    shown: dict[str, Any] = await one.asked("GET", f"/calls/{call_id}?wait_s={WAIT_S}")
    assert not shown["open"], shown
    return shown


async def delivered(one: InProcess, call_id: int, count: int = 1) -> dict[str, Any]:
    """Wait until so many results of a call were delivered, and show it; nobody signals an answer that was stored."""
    async with asyncio.timeout(WAIT_S):
        while True:
            shown: dict[str, Any] = await one.asked("GET", f"/calls/{call_id}")
            if [result["delivery"] for result in shown["results"]] == ["delivered"] * count:
                return shown
            await asyncio.sleep(0.02)
