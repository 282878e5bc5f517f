"""The demo's driver: reserves, charges, stops and is billed at a CPO that is simulated; then two calls that fail.

NLEMS ── reserve-now ──▶ DEDRV      EVSE status RESERVED ══▶
      ── start ────────▶            Session, meter readings ══▶
      ◀─ send-driver-message ──
      ── stop ─────────▶            Session COMPLETED, CDR ══▶
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from engine.cli import output
from engine.cli.failure import Failure
from engine.cli.stage import Observer, Player, Stage, wait_for

MODULES: Final = ("locations", "evsestatuses", "sessions", "meterreadings", "cdrs")
STEP_WITHIN_S: Final = 60.0  # on a slow machine; a few seconds are usual
GIVE_UP_AFTER_S: Final = 3  # that the eMSP waits for what never comes
TOKEN: Final = {
    "uid": "04A1B2C3D4E5F6",
    "type": "RFID",
    "contract_id": "NL-EMS-C00000042-X",
    "issuer": "NLEMS",
    "valid_from": "2026-01-01T00:00:00Z",
    "whitelist": "ALLOWED",
    "last_updated": "2026-01-01T00:00:00Z",
}


class Journey:
    """One driver's journey, seen from the eMSP."""

    def __init__(self, stage: Stage, cpo: Player, emsp: Player, *, party: str, cpo_party: str) -> None:
        self._stage = stage
        self._cpo = cpo
        self._emsp = emsp
        self._party = party
        self._cpo_party = cpo_party
        self._observers: dict[str, Observer] = {}
        self._steps: list[list[output.Cell]] = []
        self._began = 0.0

    def play(self) -> None:
        """Go all the way, and show how long each step took."""
        stage = self._stage
        stage.step("A driver of the eMSP reserves there, charges, and is billed")
        stage.commands(MODULES, "subscribe", self._emsp.name, *self._parties(), "$module")
        self._observers = {
            module: Observer(self._emsp, module, self._emsp.end_of_log("received", module)) for module in MODULES[1:]
        }
        evse, location = self._free_evse()
        self._reserve(evse, location)
        session = self._start(evse, location)
        self._message(session)
        self._stop(session, evse)
        stage.table(["what", "took"], self._steps, right=["took"])
        self._fail(evse, location)

    def _free_evse(self) -> tuple[str, str]:
        with self._cpo.api() as api:
            (simulated,) = api.get("/api/v1/simulated")
        return simulated["evses"][0]["uid"], simulated["evses"][0]["location"]

    # -- the way --------------------------------------------------------------------------------------------

    def _reserve(self, evse: str, location: str) -> None:
        until = datetime.now(UTC) + timedelta(hours=1)
        reservation = {
            "token": TOKEN,
            "expiry_date": f"{until:%Y-%m-%dT%H:%M:%S}Z",
            "reservation_id": "R1",
            "location_id": location,
            "evse_uid": evse,
        }
        self._call("locations", "reserve-now", reservation)
        self._until("evsestatuses", lambda id_, payload: id_ == evse and payload["status"] == "RESERVED")
        self._took("reserved, and seen as RESERVED at the eMSP")

    def _start(self, evse: str, location: str) -> str:
        self._call("sessions", "start", {"token": TOKEN, "location_id": location, "evse_uid": evse})
        session, _ = self._until("sessions", lambda _id, payload: payload["status"] == "ACTIVE")
        self._took("started, plugged in, and ACTIVE at the eMSP")
        self._until("meterreadings", lambda _id, _payload: True)
        self._took("the first meter reading")
        return session

    def _message(self, session: str) -> None:
        self._begin()
        words = ["message-driver", f"session_id={session}", "text=Welcome. Coffee is in the shop."]
        self._stage.command("simulate", self._cpo.name, *words)
        self._wait(self._heard, "the eMSP did not hear the message to its driver")
        self._took("a message to the driver, at the eMSP")

    def _heard(self) -> bool:
        with self._emsp.api() as api:
            calls = api.get("/api/v1/calls", asked_here=False)["calls"]
        return any(one["operation"] == "send-driver-message" for one in calls)

    def _stop(self, session: str, evse: str) -> None:
        self._call("sessions", "stop", {"session_id": session})
        self._until("sessions", lambda id_, payload: id_ == session and payload["status"] == "COMPLETED")
        self._took("stopped, and COMPLETED at the eMSP")
        _, cdr = self._until("cdrs", lambda _id, payload: payload.get("session_id") == session)
        self._took("the CDR")
        cost = cdr["total_cost"]["before_taxes"]
        self._stage.tell(f"billed: {cdr['total_energy']} kWh for {cost} {cdr['currency']} before taxes")
        self._until("evsestatuses", lambda id_, payload: id_ == evse and payload["status"] == "AVAILABLE")

    def _fail(self, evse: str, location: str) -> None:
        stage = self._stage
        stage.step("A call that is refused, and one that nobody answers in time")
        self._write("nowhere.json", {"token": TOKEN, "location_id": location, "evse_uid": f"{evse}-NOT"})
        stage.refused(*self._words("sessions", "start", "nowhere.json"))
        stage.command("simulate", self._cpo.name, "arm-fault", "fault=time out")
        self._write("unlock.json", {"location_id": location, "evse_uid": evse, "connector_id": "1"})
        within = ["--result-within", str(GIVE_UP_AFTER_S)]
        stage.refused(*self._words("locations", "unlock-connector", "unlock.json"), *within)
        stage.command("calls", self._emsp.name)

    # -- how ------------------------------------------------------------------------------------------------

    def _call(self, module: str, operation: str, payload: dict[str, Any]) -> None:
        self._begin()
        file = f"{operation}.json"
        self._write(file, payload)
        self._stage.command(*self._words(module, operation, file))

    def _words(self, module: str, operation: str, file: str) -> list[str]:
        wait = ["--wait", str(int(STEP_WITHIN_S))]
        return ["call", self._emsp.name, *self._parties(), module, operation, file, *wait]

    def _parties(self) -> list[str]:
        return ["--as", self._party, "--to", self._cpo_party]

    def _write(self, file: str, payload: dict[str, Any]) -> None:
        (self._stage.folder / file).write_text(json.dumps(payload))

    def _begin(self) -> None:
        self._began = time.monotonic()

    def _took(self, what: str) -> None:
        now = time.monotonic()
        self._steps.append([what, f"{now - self._began:.1f} s"])
        self._began = now

    def _until(self, module: str, wanted: Callable[[str, dict[str, Any]], bool]) -> tuple[str, dict[str, Any]]:
        """Wait until the eMSP holds such an object; returns its id and payload."""
        held = self._observers[module].held
        found: list[tuple[str, dict[str, Any]]] = []

        def look() -> bool:
            read = ((id_, json.loads(one.payload, parse_float=str)) for id_, one in list(held.items()))
            found.extend((id_, payload) for id_, payload in read if wanted(id_, payload))
            return bool(found)

        self._wait(look, f"the eMSP does not hold what was to come of {module}")
        return found[0]

    def _wait(self, reached: Callable[[], bool], otherwise: str) -> None:
        if not wait_for(reached, STEP_WITHIN_S):
            raise Failure(f"{otherwise} after {STEP_WITHIN_S:.0f} s", "this is a bug: please report it")
