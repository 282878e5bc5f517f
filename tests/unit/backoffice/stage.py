"""A simulated CPO on a stage: its clock, whoever deals with it, and everything that came of it so far.

Whatever it publishes, asks or concludes is looked at as a strict partner would, in every test that uses it.
"""

import itertools
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from engine.backoffice.simulated import (
    Ask,
    Asked,
    Conclude,
    Effect,
    Known,
    Pace,
    Publish,
    Refuse,
    Respond,
    Return,
    SimulatedCpo,
)
from engine.backoffice.simulated.calls import declaration
from engine.backoffice.simulated.state import Charging, Evse
from engine.protocol.calls import AsyncResult, CallState, check_result
from engine.protocol.ids import ModuleId, PartyId, check_object_id
from engine.protocol.json_text import check_object
from engine.protocol.modules import module
from engine.protocol.modules.bodies import AsyncResultType
from engine.protocol.modules.check import accept, read_as
from engine.protocol.modules.tokens import Token
from engine.protocol.scalars import date_time
from engine.samples import Sample, capable_locations
from engine.samples.chances import encode, read

NOW = 1_780_000_000.0  # 2026-05-28T20:26:40Z
CPO = PartyId("BEBEC")
EMSP = PartyId("NLEMS")
OTHER = PartyId("DEOTH")
LOCATION = "BEBEC-L000001"
E1, E2, E3, E4 = (f"{LOCATION}-E{n:02d}" for n in range(1, 5))
"""The EVSEs of the first Location, two at each station."""
CAN_22_KW = Decimal(22_080)  # 3 × 230 V × 32 A


def sites(**changes: Any) -> list[Sample]:
    """Two Locations, every connector an AC socket of 22 kW; with changes to each station."""
    made = []
    for sample in capable_locations(2):
        location = read(sample.payload)
        for station in location["charging_pool"]:
            station.update(changes)
            for evse in station["evses"]:
                socket = {"standard": "IEC_62196_T2", "format": "SOCKET", "power_type": "AC_3_PHASE"}
                evse["connectors"] = [
                    {**evse["connectors"][0], **socket, "id": id_, "max_voltage": 230, "max_amperage": 32}
                    for id_ in ("1", "2")
                ]
        made.append(Sample(sample.id, encode(location)))
    return made


def token(uid: str = "04A1B2C3", type_: str = "RFID", **changes: Any) -> dict[str, Any]:
    """A Token, as an eMSP sends it."""
    return {
        "uid": uid,
        "type": type_,
        "contract_id": f"NL-EMS-{uid}",
        "issuer": "Stroompas",
        "valid_from": "2025-01-01T00:00:00Z",
        "whitelist": "NEVER",
        "last_updated": "2025-01-01T00:00:00Z",
        **changes,
    }


def known(uid: str = "04A1B2C3", *, party: PartyId = EMSP, version: int = 7, **changes: Any) -> Known:
    """A Token that this party issued to the CPO."""
    return Known(party, version, read_as(Token, encode(token(uid, **changes))))


class Stage:
    """A CPO, its clock, and its past. ``wait`` is how time passes."""

    def __init__(self, **changes: Any) -> None:
        self.now = NOW
        self.history: list[Effect] = []
        self.objects: dict[str, dict[str, Any]] = {}
        self.versions: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.last: list[Effect] = []
        self._ids = itertools.count(1)
        self._pace = changes.get("pace")
        self._operations: dict[str, tuple[str, str]] = {}
        self.cpo, effects = SimulatedCpo.open(CPO, now=NOW, **{"places": sites(), **changes})
        self._take(effects)

    # -- what comes of it

    def _take(self, effects: Sequence[Effect]) -> list[Effect]:
        self.last = list(effects)
        for effect in effects:
            self._look_at(effect)
            self.history.append(effect)
        return self.last

    def _look_at(self, effect: Effect) -> None:
        match effect:
            case Publish(module_id, object_id, payload):
                found = module(module_id)
                assert found is not None
                check_object_id(object_id, found.id_length_max(payload))
                check_object(payload)
                assert found.accept(payload) == ()
                self.objects.setdefault(module_id, {})[object_id] = read(payload)
                self.versions.setdefault((module_id, object_id), []).append(read(payload))
            case Ask(_, _, module_id, operation, payload):
                asked = declaration(module_id, operation)
                assert asked is not None
                assert accept(asked.request, payload) == ()
            case Return(call_id, data):
                called = declaration(*self._operations[call_id])
                assert called is not None
                assert called.result is not None
                read_as(called.result, data)
            case Conclude(call_id, result_type, payload, error):
                called = declaration(*self._operations[call_id])
                assert called is not None
                told = [each.result_type for each in self.results(call_id)]
                state = CallState.SUCCEEDED if told == [AsyncResultType.SUCCESS] else CallState.ACCEPTED
                result = AsyncResult(result_type=result_type, payload=payload, error=error)
                assert check_result(called, state, result) == ()
            case Respond() | Refuse():
                pass

    def of(self, kind: type[Effect]) -> list[Any]:
        """The effects of one kind that came last."""
        return [effect for effect in self.last if isinstance(effect, kind)]

    def published(self, module_id: str) -> list[dict[str, Any]]:
        """The objects of a module that were published last."""
        return [read(each.payload) for each in self.of(Publish) if each.module == module_id]

    def results(self, call_id: str) -> list[Conclude]:
        """All results of a call so far."""
        return [each for each in self.history if isinstance(each, Conclude) and each.call_id == call_id]

    def newest(self, module_id: str) -> dict[str, Any]:
        """The object of a module that was published last of all."""
        found = [each for each in self.history if isinstance(each, Publish) and each.module == module_id]
        return read(found[-1].payload)

    def status(self, evse_uid: str) -> str:
        """The status of an EVSE as it was published."""
        return self.objects["evsestatuses"][evse_uid]["status"]

    # -- time

    def restart(self) -> None:
        """Go on with what was written down, and nothing else."""
        dumped = self.cpo.dump()
        self.cpo = SimulatedCpo.load(dumped, pace=self._pace)
        assert self.cpo.dump() == dumped

    def wait(self, seconds: float = 0.0) -> list[Effect]:
        """Let time pass."""
        self.now += seconds
        return self._take(self.cpo.advance(now=self.now))

    def step(self) -> list[Effect]:
        """Let time pass until the next thing happens by itself."""
        assert self.cpo.next_at is not None
        return self.wait(max(self.cpo.next_at - self.now, 0))

    def later(self, seconds: float) -> str:
        """Write a time to come."""
        return date_time(self.now + seconds)

    # -- other parties

    def ask(
        self, module_id: str, operation: str, request: dict[str, Any], *, asker: PartyId = EMSP, call_id: str = ""
    ) -> str:
        """Make a call, and return its id."""
        call_id = call_id or f"call-{next(self._ids)}"
        self._operations[call_id] = (module_id, operation)
        asked = Asked(call_id, asker, ModuleId(module_id), operation, encode(request), self.now + 30)
        self._take(self.cpo.call(asked, now=self.now))
        return call_id

    def response(self) -> str:
        """What the last call was answered with at once."""
        (answer,) = self.of(Respond)
        return answer.response

    def data(self) -> Any:
        """What the last synchronous call returned."""
        (answer,) = self.of(Return)
        return json.loads(answer.data)

    def result(self, call_id: str) -> Conclude:
        """The result of a call, for which there is time until then."""
        while not self.results(call_id):
            self.step()
        return self.results(call_id)[0]

    def succeeds(self, module_id: str, operation: str, request: dict[str, Any], *, asker: PartyId = EMSP) -> str:
        """Make a call that succeeds, and return its id."""
        call_id = self.ask(module_id, operation, request, asker=asker)
        assert self.response() == "ACCEPTED"
        result = self.result(call_id)
        assert (result.result_type, result.error) == ("SUCCESS", None)
        return call_id

    def hindered(
        self, module_id: str, operation: str, request: dict[str, Any], *, asker: PartyId = EMSP
    ) -> tuple[str, Any]:
        """Make a call that is accepted and then is not done: with which result, and why."""
        call_id = self.ask(module_id, operation, request, asker=asker)
        assert self.response() == "ACCEPTED"
        return self.outcome(call_id)

    def outcome(self, call_id: str) -> tuple[str, Any]:
        """How a call ended that did not succeed: with which result, and why."""
        result = self.result(call_id)
        assert result.payload is None
        error = None if result.error is None else json.loads(result.error)
        return result.result_type, error["status"] if isinstance(error, dict) else error

    def refused(self, module_id: str, operation: str, request: dict[str, Any], *, asker: PartyId = EMSP) -> str:
        """Make a call that is refused at once: with which word. Nothing comes later."""
        self.ask(module_id, operation, request, asker=asker)
        assert not self.of(Conclude)
        return self.response()

    # -- shortcuts

    def reserve(
        self, reservation_id: str = "R1", *, seconds: float = 3600, asker: PartyId = EMSP, **changes: Any
    ) -> str:
        """Reserve an EVSE."""
        return self.succeeds(
            "locations", "reserve-now", self.reservation(reservation_id, seconds, **changes), asker=asker
        )

    def reservation(self, reservation_id: str = "R1", seconds: float = 3600, **changes: Any) -> dict[str, Any]:
        """Write a ReserveNowRequest for the first EVSE."""
        return {
            "token": token(),
            "expiry_date": self.later(seconds),
            "reservation_id": reservation_id,
            "location_id": LOCATION,
            "evse_uid": E1,
            **changes,
        }

    def start(self, evse_uid: str = E1, *, asker: PartyId = EMSP, **changes: Any) -> str:
        """Start a session, and return its id."""
        request = {"token": token(), "location_id": LOCATION, "evse_uid": evse_uid, **changes}
        self.succeeds("sessions", "start", request, asker=asker)
        return self.session(evse_uid).id

    def charge(self, evse_uid: str = E1, *, asker: PartyId = EMSP, need_kwh: int = 50, **changes: Any) -> str:
        """Start a session and plug the car in."""
        session_id = self.start(evse_uid, asker=asker, **changes)
        self.plug(evse_uid, need_kwh=Decimal(need_kwh))
        return session_id

    def plug(self, evse_uid: str = E1, **changes: Any) -> list[Effect]:
        """Plug a car in."""
        return self._take(self.cpo.plug_in(evse_uid, now=self.now, **changes))

    def unplug(self, evse_uid: str = E1) -> list[Effect]:
        """Drive away."""
        return self._take(self.cpo.unplug(evse_uid, now=self.now))

    def present(self, uid: str = "04A1B2C3", evse_uid: str = E1, **changes: Any) -> list[Effect]:
        """Show a token."""
        return self._take(self.cpo.present_token(evse_uid, uid, now=self.now, **changes))

    def answer(self, question: Ask, allowed: str = "ALLOWED", *, party: PartyId = EMSP, **changes: Any) -> list[Effect]:
        """Answer a question about a token."""
        asked = json.loads(question.payload)
        response = {
            "allowed": allowed,
            "token": token(asked["token_uid"], asked["type"]),
            "authorization_reference": "AUTH-1",
            "authorization_timestamp": self.later(0),
            "authorized_until": self.later(600),
            **changes,
        }
        answered = self.cpo.answered(question.question_id, now=self.now, party=party, response=encode(response))
        return self._take(answered)

    def break_down(self, evse_uid: str = E1) -> list[Effect]:
        """Break an EVSE."""
        return self._take(self.cpo.set_broken(evse_uid, is_broken=True, now=self.now))

    def online(self, evse_uid: str = E1, *, is_online: bool) -> list[Effect]:
        """Cut a connection, or mend it."""
        return self._take(self.cpo.set_online(evse_uid, is_online=is_online, now=self.now))

    def take_back(self, reservation_id: str, why: str, *, party: PartyId = EMSP) -> list[Effect]:
        """Cancel a reservation as the CPO."""
        return self._take(self.cpo.cancel_reservation(party, reservation_id, why, now=self.now))

    def jam(self, evse_uid: str = E1) -> list[Effect]:
        """Let a cable get stuck."""
        return self._take(self.cpo.jam(evse_uid, now=self.now))

    def session(self, evse_uid: str = E1) -> Charging:
        """The only session that goes on at an EVSE."""
        (found,) = [each for each in self.cpo.state.sessions if each.evse_uid == evse_uid]
        return found

    def evse(self, evse_uid: str = E1) -> Evse:
        """What the CPO knows of an EVSE."""
        every = (evse for site in self.cpo.state.sites for station in site.stations for evse in station.evses)
        return next(evse for evse in every if evse.uid == evse_uid)


STEADY = Pace(
    reserve_s=(2, 2),
    start_s=(4, 4),
    stop_s=(3, 3),
    unlock_s=(2, 2),
    display_s=(1, 1),
    regulate_s=(2, 2),
    accept_reset_s=(2, 2),
    reset_s=(30, 30),
    cdr_s=(5, 5),
    need_kwh=(50, 50),
)
"""A pace at which everything takes the same time each time."""
