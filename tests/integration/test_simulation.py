"""The simulated CPO at work: a driver's journey between two engines over real TLS, faults on demand, restarts."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engine.app import Engine
from engine.clock import ocpi_time
from engine.registration.folder import InUse
from engine.settings import Api, PlatformFolder
from tests.support.local_api import new_platform, running
from tests.support.offices import InProcess, pair
from tests.support.postgresql import new_database

MODULES = ("locations", "evsestatuses", "tariffs", "sessions", "meterreadings", "cdrs")
TOKEN = {
    "uid": "04A1B2C3",
    "type": "RFID",
    "contract_id": "NL-EMS-C12345678-X",
    "issuer": "Stroom",
    "valid_from": "2026-01-01T00:00:00Z",
    "whitelist": "ALLOWED",
    "last_updated": "2026-01-01T00:00:00Z",
}
SPEED = "100"


class Journey:
    """An eMSP whose drivers use a simulated CPO."""

    def __init__(self, cpo: InProcess, emsp: InProcess) -> None:
        self.cpo = cpo
        self.emsp = emsp
        self.location_id = ""
        self.evse = ""

    async def begin(self) -> None:
        """Subscribe to everything, and choose an EVSE."""
        for module in MODULES:
            order = {"subscriber": "NLEMS", "producer": "BEBEC", "module": module}
            await self.emsp.asked("POST", "/subscriptions", order, status=201)
        (simulated,) = await self.cpo.asked("GET", "/simulated")
        first = simulated["evses"][0]
        self.location_id, self.evse = first["location"], first["uid"]
        await self.until("locations", lambda objects: self.location_id in {one["id"] for one in objects})
        await self.status("AVAILABLE")

    async def held(self, module: str) -> list[dict[str, Any]]:
        """Read what the eMSP holds of a module."""
        objects: list[dict[str, Any]] = (await self.emsp.asked("GET", f"/received/{module}?limit=1000"))["objects"]
        return objects

    async def until(self, module: str, true: Any) -> list[dict[str, Any]]:
        """Wait until what the eMSP holds of a module is as it should be."""
        changes, log, seen = self.emsp.engine.changes, f"{module}/received", 0
        async with asyncio.timeout(30):
            while True:
                found = await self.held(module)
                if true(found):
                    return found
                seen = (await changes.wait({log: seen}))[log]

    async def status(self, status: str) -> None:
        """Wait until the eMSP knows of this status of the EVSE."""
        await self.until(
            "evsestatuses",
            lambda objects: any(one["id"] == self.evse and one["payload"]["status"] == status for one in objects),
        )

    async def session(self, status: str) -> dict[str, Any]:
        """Wait until the eMSP holds a session of this status, and return it with its id."""
        found = await self.until("sessions", lambda objects: any(one["payload"]["status"] == status for one in objects))
        session = next(one for one in found if one["payload"]["status"] == status)
        payload: dict[str, Any] = session["payload"]
        return payload | {"id": session["id"]}

    async def ask(self, name: str, payload: dict[str, Any], *, wait_s: float = 20.0) -> dict[str, Any]:
        """Have the eMSP ask for something, and wait for the result."""
        module, operation = name.split("/")
        order = {"sender": "NLEMS", "receiver": "BEBEC", "module": module, "operation": operation, "wait_s": wait_s}
        shown: dict[str, Any] = await self.emsp.asked("POST", "/calls", order | {"payload": payload})
        return shown

    async def succeeds(self, name: str, **payload: Any) -> None:
        """Have the eMSP ask for something that succeeds."""
        shown = await self.ask(name, payload)
        assert shown["state"] == "succeeded", shown

    async def start(self) -> None:
        """Start a session."""
        await self.succeeds("sessions/start", token=TOKEN, location_id=self.location_id, evse_uid=self.evse)

    def reservation(self, number: int = 1) -> dict[str, Any]:
        """Ask for the EVSE to be kept."""
        until = ocpi_time(time.time() + 3600)
        place = {"location_id": self.location_id, "evse_uid": self.evse}
        return place | {"token": TOKEN, "expiry_date": until, "reservation_id": f"R{number}"}


@asynccontextmanager
async def journey(folder: Path, **settings: str) -> AsyncIterator[Journey]:
    """Run both platforms, and begin."""
    chosen = {"BACKOFFICE__KIND": "simulated", "BACKOFFICE__SIMULATED_SPEED": SPEED} | settings
    async with pair(folder, **chosen) as (cpo, emsp):
        made = Journey(cpo, emsp)
        await made.begin()
        yield made


@pytest.mark.requirement("R.05.02.09", "R.07.02.07", "R.07.02.11")
async def test_a_drivers_journey(tmp_path: Path):
    """Reserved, started, charged, told something, stopped, billed: each step is seen at the eMSP."""
    async with journey(tmp_path) as made:
        office = made.emsp.office()
        await made.succeeds("locations/reserve-now", **made.reservation())
        await made.status("RESERVED")
        await made.start()
        active = await made.session("ACTIVE")
        await made.status("CHARGING")
        await made.until("meterreadings", bool)
        message = [{"language": "en", "text": "Hello"}]
        await made.succeeds("sessions/send-station-message", session_id=active["id"], messages=message)
        await made.cpo.asked(
            "POST", "/simulated/BEBEC/message-driver", {"session_id": active["id"], "text": "Nearly full"}, status=204
        )
        (told,) = await office.took()
        assert (told.operation, json.loads(told.payload)["messages"][0]["text"]) == (
            "send-driver-message",
            "Nearly full",
        )
        await made.succeeds("sessions/stop", session_id=active["id"])
        await made.session("COMPLETED")
        (cdr,) = await made.until("cdrs", bool)
        await made.status("AVAILABLE")
        assert (await made.cpo.asked("GET", "/received/tokens"))["objects"] == [], "its Token came with a call only"

    assert cdr["payload"]["session_id"] == active["id"]
    assert cdr["payload"]["cdr_token"]["contract_id"] == TOKEN["contract_id"]
    began, ended = (datetime.fromisoformat(cdr["payload"][f"{end}_date_time"]) for end in ("start", "end"))
    assert began < ended <= datetime.now(UTC)


async def incoming(platform: InProcess) -> list[dict[str, Any]]:
    """List what partners asked."""
    calls: list[dict[str, Any]] = (await platform.asked("GET", "/calls?asked_here=false"))["calls"]
    return calls


async def test_it_goes_on_after_a_restart(tmp_path: Path):
    """A reservation, a session and what was to be done for them outlive the process; nothing is done twice."""
    async with journey(tmp_path) as made:
        await made.succeeds("locations/reserve-now", **made.reservation())
        await made.status("RESERVED")
        await made.cpo.stop()
        await made.cpo.start()
        again = await made.ask("locations/reserve-now", made.reservation(2) | {"token": TOKEN | {"uid": "OTHER"}})
        assert (again["state"], again["results"][0]["error"]["status"]) == ("failed", "EVSE_OCCUPIED")
        await made.start()
        active = await made.session("ACTIVE")
        await made.cpo.stop()
        await made.cpo.start()
        await made.succeeds("sessions/stop", session_id=active["id"])
        cdrs = await made.until("cdrs", bool)
        await made.status("AVAILABLE")
        sessions = await made.held("sessions")

    assert len(cdrs) == 1
    assert [one["payload"]["status"] for one in sessions] == ["COMPLETED"]


@pytest.mark.parametrize("fault", ["refuse", "time out", "late", "lose"])
async def test_faults_on_demand(tmp_path: Path, fault: str):
    """Refused, never done, done too late to be told in time, done and never told: the eMSP learns what it can."""
    async with journey(tmp_path, CALLS__CONCLUDE_WITHIN_S="3") as made:  # long for a station a hundred times as quick
        await made.cpo.asked("POST", "/simulated/BEBEC/arm-fault", {"fault": fault}, status=204)
        shown = await made.ask("locations/unlock-connector", {
            "location_id": made.location_id, "evse_uid": made.evse, "connector_id": "1",
        })  # fmt: skip
        if fault == "refuse":
            assert (shown["state"], shown["data"]) == ("refused", "REJECTED")
            return
        assert shown["results"][0]["result_type"] == "TIMEOUT"
        if fault == "late":
            async with asyncio.timeout(20):
                while len(shown["results"]) < 2:
                    await asyncio.sleep(0.05)  # a result after the end of a call wakes nobody who waits for it
                    shown = await made.emsp.asked("GET", f"/calls/{shown['id']}")
            assert shown["results"][1]["result_type"] == "SUCCESS"
        after = await made.ask("sessions/start", {
            "token": TOKEN, "location_id": made.location_id, "evse_uid": made.evse,
        })  # fmt: skip
        assert after["state"] == "succeeded", "one fault was asked for"


@pytest.mark.requirement("R.05.04.01")
async def test_a_reservation_is_taken_back_by_the_cpo(tmp_path: Path):
    """What was promised is taken back with a reason that the driver reads (05.04)."""
    async with journey(tmp_path) as made:
        shown = await made.ask("locations/reserve-now", made.reservation())
        await made.cpo.asked(
            "POST", "/simulated/BEBEC/cancel-reservation",
            {"party": "NLEMS", "reservation_id": "R1", "why": "A lorry stands there"}, status=204,
        )  # fmt: skip
        async with asyncio.timeout(20):
            while shown["state"] != "revoked":
                await asyncio.sleep(0.05)  # as above
                shown = await made.emsp.asked("GET", f"/calls/{shown['id']}")
        await made.status("AVAILABLE")
    assert "A lorry stands there" in json.dumps(shown["results"][1])


async def test_a_token_is_shown_at_the_station(tmp_path: Path):
    """The eMSP is asked about a token that it issued to the CPO, and that may not charge without."""
    async with journey(tmp_path) as made:
        await made.cpo.asked(
            "POST", "/subscriptions", {"subscriber": "BEBEC", "producer": "NLEMS", "module": "tokens"}, status=201
        )
        token = json.dumps({"id": "T1", "payload": TOKEN | {"whitelist": "NEVER"}})
        async with made.emsp.api() as api:
            published = await api.post("/api/v1/parties/NLEMS/objects/tokens", content=token.encode())
        assert published.json()["created"] == 1, published.text
        changes = made.cpo.engine.changes
        async with asyncio.timeout(20):
            await changes.wait({"tokens/received": 0})
        shown = {"evse": made.evse, "uid": TOKEN["uid"]}
        await made.cpo.asked("POST", "/simulated/BEBEC/present-token", shown, status=204)
        active = await made.session("ACTIVE")
        assert active["auth_method"] == "AUTH_REQUEST"
        asked = await incoming(made.emsp)
        assert [one["operation"] for one in asked] == ["authorize"]


async def test_what_nobody_could_do_is_refused(tmp_path: Path):
    """At the local API, with a reason; a platform without a simulated CPO says so."""
    async with journey(tmp_path, BACKOFFICE__SIMULATED_DRIVERS="false") as made:
        for act, details, status in (
            ("unplug", {"evse": made.evse}, 409),
            ("plug-in", {"evse": "NOWHERE"}, 409),
            ("arm-fault", {}, 409),
            ("explode", {}, 404),
            ("plug-in", {"colour": "red"}, 422),
        ):
            await made.cpo.asked("POST", f"/simulated/BEBEC/{act}", details, status=status)
        await made.cpo.asked("POST", "/simulated/NLEMS/plug-in", {}, status=404)
        await made.start()
        await made.cpo.asked("POST", "/simulated/BEBEC/plug-in", {"evse": made.evse, "need_kwh": 20}, status=204)
        await made.session("ACTIVE")


async def test_it_keeps_to_one_process(tmp_path: Path):
    """On PostgreSQL, where several processes may serve, a second one is told to leave it alone."""
    async with new_database() as url:
        folder: PlatformFolder = await new_platform(tmp_path / "cpo")
        chosen = {"BACKOFFICE__KIND": "simulated", "STORE__URL": url, "REPLICATION__LEASE_S": "0.5"}
        settings = folder.settings({f"OCPI_ENGINE_{name}": value for name, value in chosen.items()})
        one, other = (Engine(folder, settings.model_copy(update={"api": Api(listen=f"unix:run/{n}")})) for n in "ab")
        await one.start()
        try:
            with pytest.raises(InUse, match="another process plays"):
                await other.start()
        finally:
            await one.stop()


async def test_parties_can_be_chosen(tmp_path: Path):
    """Only those are played that the settings name."""
    folder = await new_platform(tmp_path / "cpo")
    async with running(folder, BACKOFFICE__KIND="simulated", BACKOFFICE__PARTIES="beabc") as platform:
        simulated = (await platform.client.get("/api/v1/simulated")).json()
    assert [one["party"] for one in simulated] == ["BEABC"]
