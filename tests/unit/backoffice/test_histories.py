"""Whatever happens to the simulated CPO, in whatever order: what has to be true is true at every moment."""

import copy
import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from engine.backoffice.simulated import Ask, Asked, FaultKind, NotPossible, Pace, Publish, Refuse, Respond, Return
from engine.backoffice.simulated.calls import HANDLERS, declaration
from engine.backoffice.simulated.regulation import hungry, limit_at, power_at
from engine.backoffice.simulated.state import ProfileKind
from engine.backoffice.simulated.world import LIVE, World
from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules import registry
from engine.protocol.modules.explain import kind_of
from tests.support import payloads
from tests.unit.backoffice.stage import E1, E2, E3, E4, EMSP, LOCATION, OTHER, Stage, known, token

PARTIES = st.sampled_from([EMSP, OTHER])
UIDS = st.sampled_from(["A", "B", "C"])
EVSES = st.sampled_from([E1, E2, E3, E4])
ANY_EVSE = EVSES | st.none()
IDS = st.sampled_from(["1", "2"])
SECONDS = st.sampled_from([0.0, 0.5, 2.0, 7.25, 61.0, 400.0, 4_000.0, 100_000.0])
LIMITS = st.sampled_from([0, 3_000, 7_000, 50_000])
FINAL = registry["sessions"].final
IN_THE_END_S = 3 * 86_400  # longer than any reservation


class Histories(RuleBasedStateMachine):
    """Two eMSPs, three tokens, four EVSEs, and everything that can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(pace=Pace(need_kwh=(1, 30)))
        self.answers: dict[str, int] = {}
        self.faulty: set[str] = set()
        self.asked: list[tuple[str, str, dict[str, Any], PartyId, str]] = []
        self.seen = 0
        self.versions_seen: dict[tuple[str, str], int] = {}

    # -- what can happen

    def ask(self, module_id: str, operation: str, request: dict[str, Any], asker: PartyId) -> None:
        """Make a call: there is one answer at once, unless a fault says that there is none."""
        is_faulty = bool(self.stage.cpo.state.faults)
        call_id = self.stage.ask(module_id, operation, request, asker=asker)
        if is_faulty:
            self.faulty.add(call_id)
        self.answers[call_id] = len([each for each in self.stage.last if isinstance(each, Respond | Return | Refuse)])
        self.asked.append((module_id, operation, request, asker, call_id))

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.stage.wait(seconds)

    @rule()
    def step(self) -> None:
        """The next thing happens by itself."""
        if self.stage.cpo.next_at is not None:
            self.stage.step()

    @rule()
    def restart(self) -> None:
        """The process ends and goes on with what was written down."""
        self.stage.restart()

    @rule()
    def nothing_is_forgotten(self) -> None:
        """Written down and read again, it is the same, and goes on in the same way."""
        cpo = copy.deepcopy(self.stage.cpo)
        again = type(cpo).load(cpo.dump(), pace=Pace(need_kwh=(1, 30)))
        assert again.next_at == cpo.next_at
        for later in (self.stage.now + 3, self.stage.now + 5_000):
            assert again.advance(now=later) == cpo.advance(now=later)
        assert again.dump() == cpo.dump()

    @rule(asker=PARTIES, id_=IDS, uid=UIDS, evse_uid=ANY_EVSE, type_=st.sampled_from(["RFID", "APP_USER"]))
    def reserve(self, asker: PartyId, id_: str, uid: str, evse_uid: str | None, type_: str) -> None:
        """An eMSP reserves."""
        request = self.stage.reservation(id_, seconds=1000, token=token(uid, type_), evse_uid=evse_uid)
        self.ask("locations", "reserve-now", {k: v for k, v in request.items() if v is not None}, asker)

    @rule(asker=PARTIES, id_=IDS)
    def cancel(self, asker: PartyId, id_: str) -> None:
        """An eMSP gives a reservation up."""
        self.ask("locations", "cancel-reservation", {"reservation_id": id_}, asker)

    @rule(party=PARTIES, id_=IDS)
    def take_back(self, party: PartyId, id_: str) -> None:
        """The CPO takes a reservation back."""
        self.try_to(lambda: self.stage.take_back(id_, "Road works", party=party))

    @rule(asker=PARTIES, uid=UIDS, evse_uid=ANY_EVSE, connector_id=st.sampled_from(["1", "2"]))
    def start(self, asker: PartyId, uid: str, evse_uid: str | None, connector_id: str) -> None:
        """An eMSP starts a session."""
        where = {} if evse_uid is None else {"evse_uid": evse_uid, "connector_id": connector_id}
        self.ask("sessions", "start", {"token": token(uid), "location_id": LOCATION, **where}, asker)

    @rule(asker=PARTIES, uid=UIDS, evse_uid=EVSES)
    def charge(self, asker: PartyId, uid: str, evse_uid: str) -> None:
        """An eMSP starts a session, and a car comes."""
        self.start(asker, uid, evse_uid, "1")
        self.stage.wait(6)
        self.plug(evse_uid, "1")

    def session(self, data: st.DataObject) -> tuple[str, PartyId]:
        """Choose a session that goes on and the party whose driver charges, or some other ones."""
        live = [(each.id, each.token.party_id) for each in self.stage.cpo.state.sessions]
        told = [(each, EMSP) for each in self.stage.objects.get("sessions", {})]
        return data.draw(st.sampled_from([*live, *live, *told, ("NONE", OTHER)]))

    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        """An eMSP stops a session."""
        session_id, asker = self.session(data)
        self.ask("sessions", "stop", {"session_id": session_id}, asker)

    @rule(data=st.data(), kind=st.sampled_from(["CHEAP", "FAST"]))
    def prefer(self, data: st.DataObject, kind: str) -> None:
        """A driver prefers something."""
        session_id, asker = self.session(data)
        wish = {"profile_type": kind, "departure_time": self.stage.later(10_000), "energy_need": 9}
        self.ask("sessions", "change-charging-preferences", {"session_id": session_id, **wish}, asker)

    @rule(asker=PARTIES, evse_uid=EVSES, operation=st.sampled_from(["unlock-connector", "reset-evse"]))
    def command(self, asker: PartyId, evse_uid: str, operation: str) -> None:
        """An eMSP has something done to a station."""
        request = {"location_id": LOCATION, "evse_uid": evse_uid, "connector_id": "1"}
        self.ask("locations", operation, request, asker)

    def profile(self, id_: str, limit: int) -> dict[str, Any]:
        """A profile that ends after an hour."""
        periods = [{"start_period": 0, "limit": limit}, {"start_period": 1800, "limit": limit // 2}]
        made = {"id": id_, "start_date_time": self.stage.later(0), "duration": 3600, "charging_rate_unit": "W"}
        return {**made, "charging_profile_period": periods}

    @rule(asker=PARTIES, id_=IDS, limit=LIMITS, evses=st.sets(EVSES, min_size=1), kind=st.sampled_from(["", "default"]))
    def regulate(self, asker: PartyId, id_: str, limit: int, evses: set[str], kind: str) -> None:
        """Somebody regulates EVSEs."""
        operation = "set-default-charging-profile" if kind else "set-charging-profile-on-evses"
        request = {"evses": sorted(evses), "charging_profile": self.profile(id_, limit)}
        self.ask("meterreadings", operation, request, asker)

    @rule(id_=IDS, limit=LIMITS, data=st.data())
    def regulate_session(self, id_: str, limit: int, data: st.DataObject) -> None:
        """Somebody regulates a session."""
        session_id, asker = self.session(data)
        request = {"session_id": session_id, "charging_profile": self.profile(id_, limit)}
        self.ask("meterreadings", "set-charging-profile-on-session", request, asker)

    @rule(data=st.data(), operation=st.sampled_from(["clear-charging-profile", "get-active-charging-profile"]))
    def look_at_profile(self, data: st.DataObject, operation: str) -> None:
        """Somebody asks about a profile, or clears it."""
        there = [(each.id, each.party_id) for each in self.stage.cpo.state.profiles]
        id_, asker = data.draw(st.sampled_from([*there, ("NONE", EMSP)]))
        self.ask("meterreadings", operation, {"charging_profile_id": id_, "duration": 5000}, asker)

    @rule(asker=PARTIES, data=st.data())
    def dispute(self, asker: PartyId, data: st.DataObject) -> None:
        """An eMSP does not agree with a CDR."""
        cdr_id = data.draw(st.sampled_from([*self.stage.objects.get("cdrs", {}), "NONE"]))
        self.ask("cdrs", "dispute", {"cdr_id": cdr_id, "reason": "?"}, asker)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A call comes again: it gets its answer again, and nothing else happens by it."""
        if not self.asked:
            return
        module_id, operation, request, asker, call_id = data.draw(st.sampled_from(self.asked))
        self.stage.wait()
        results, before = self.stage.results(call_id), self.stage.cpo.dump()
        self.stage.ask(module_id, operation, request, asker=asker, call_id=call_id)
        assert len(self.stage.last) == self.answers[call_id]
        assert self.stage.results(call_id) == results
        assert self.stage.cpo.dump() == before

    def try_to(self, do: Any) -> None:
        """Do what may not be possible; what is not, changes nothing."""
        self.stage.wait()
        before = self.stage.cpo.dump()
        try:
            do()
        except NotPossible:
            assert self.stage.cpo.dump() == before

    @rule(evse_uid=EVSES, connector_id=st.sampled_from(["1", "2"]))
    def plug(self, evse_uid: str, connector_id: str) -> None:
        """A car comes."""
        self.try_to(lambda: self.stage.plug(evse_uid, connector_id=connector_id))

    @rule(evse_uid=EVSES)
    def unplug(self, evse_uid: str) -> None:
        """A car leaves."""
        self.try_to(lambda: self.stage.unplug(evse_uid))

    @rule(evse_uid=EVSES)
    def jam(self, evse_uid: str) -> None:
        """A cable gets stuck."""
        self.try_to(lambda: self.stage.jam(evse_uid))

    @rule(uid=UIDS, evse_uid=EVSES, whitelist=st.sampled_from(["ALWAYS", "ALLOWED_OFFLINE", "NEVER"]) | st.none())
    def present(self, uid: str, evse_uid: str, whitelist: str | None) -> None:
        """A driver shows a token."""
        shown = None if whitelist is None else known(uid, whitelist=whitelist)
        self.try_to(lambda: self.stage.present(uid, evse_uid, known=shown))

    @rule(data=st.data(), party=PARTIES, allowed=st.sampled_from(["ALLOWED", "BLOCKED"]))
    def answer(self, data: st.DataObject, party: PartyId, allowed: str) -> None:
        """An eMSP answers a question, perhaps one that is long over."""
        asked = [each for each in self.stage.history if isinstance(each, Ask) and each.operation == "authorize"]
        if asked:
            self.stage.answer(data.draw(st.sampled_from(asked[-3:])), allowed, party=party, max_energy=5, max_time=1)

    @rule(evse_uid=EVSES, is_online=st.booleans())
    def connect(self, evse_uid: str, *, is_online: bool) -> None:
        """A station loses its connection, or finds it again."""
        self.stage.online(evse_uid, is_online=is_online)

    @rule(evse_uid=EVSES)
    def break_down(self, evse_uid: str) -> None:
        """An EVSE breaks down."""
        self.stage.break_down(evse_uid)

    @rule(kind=st.sampled_from(FaultKind))
    def arm(self, kind: FaultKind) -> None:
        """The next call goes wrong."""
        self.stage.cpo.arm(kind)

    # -- what has to be true

    @invariant()
    def one_at_each_evse(self) -> None:
        """An EVSE has at most one session that goes on, and at most one reservation, which is not over."""
        state = self.stage.cpo.state
        charging = Counter(each.evse_uid for each in state.sessions if each.status in LIVE)
        reserved = Counter(each.evse_uid for each in state.reservations)
        assert max((charging + Counter()).values(), default=0) <= 1
        assert max(reserved.values(), default=0) <= 1
        assert all(each.ends_at > self.stage.now for each in state.reservations)
        assert {each.session_id for each in state.reservations} == {
            each.id for each in state.sessions if each.status == "RESERVATION"
        }

    @invariant()
    def answered_once(self) -> None:
        """Every call is answered at once, and once; none but a faulty one is left without an answer."""
        assert all(count == 1 or call_id in self.faulty for call_id, count in self.answers.items())
        assert max(self.answers.values(), default=0) <= 1

    def accepted(self) -> set[str]:
        """The calls that were accepted."""
        answers = [each for each in self.stage.history if isinstance(each, Respond)]
        return {each.call_id for each in answers if each.response == "ACCEPTED"}

    @invariant()
    def concluded_once(self) -> None:
        """A result comes for what was accepted; a second one only to take back a reservation."""
        accepted = {
            each.call_id for each in self.stage.history if isinstance(each, Respond) and each.response == "ACCEPTED"
        }
        for _, operation, _, _, call_id in self.asked:
            results = [each.result_type for each in self.stage.results(call_id)]
            assert not results or call_id in accepted
            assert len(results) <= 1 or (operation, results) == ("reserve-now", ["SUCCESS", "FAILED"])

    @invariant()
    def what_was_published(self) -> None:
        """Energy never falls, a COMPLETED Session does not change, and statuses are published when they change."""
        for key in {
            (each.module, each.object_id) for each in self.stage.history[self.seen :] if isinstance(each, Publish)
        }:
            versions = self.stage.versions[key]
            for before, after in pairwise(versions[self.versions_seen.get(key, 1) - 1 :]):
                if key[0] == "evsestatuses":
                    assert before["status"] != after["status"]
                elif key[0] == "sessions":
                    assert before["energy"] <= after["energy"]
                    assert FINAL(json.dumps(before, default=float).encode()) is None
            self.versions_seen[key] = len(versions)
        self.seen = len(self.stage.history)

    @invariant()
    def bills(self) -> None:
        """Each session has one CDR at most, which says what the session said in the end."""
        sessions = self.stage.objects.get("sessions", {})
        cdrs = list(self.stage.objects.get("cdrs", {}).values())
        assert max(Counter(each["session_id"] for each in cdrs).values(), default=0) <= 1
        for cdr in cdrs:
            session = sessions[cdr["session_id"]]
            assert session["status"] == "COMPLETED"
            assert (cdr["total_energy"], cdr["total_cost"]) == (session["energy"], session["total_cost"])

    @invariant()
    def below_the_limits(self) -> None:
        """All sessions under a profile for EVSEs draw no more than its limit together."""
        world = World(self.stage.cpo.state, Pace())
        sharing = hungry(world)
        for profile in world.state.profiles:
            limit = limit_at(profile, 0, world.now)
            if profile.is_over or profile.kind is not ProfileKind.EVSES or limit is None:
                continue
            drawn = [
                power_at(world, each, world.now, sharing)
                for each in world.active()
                if each.id in sharing and each.evse_uid.lower() in profile.evse_uids
            ]
            assert sum(drawn) <= limit.limit

    def teardown(self) -> None:
        """In the end every reservation is over, and every call that was accepted is concluded, but for faulty ones."""
        self.stage.wait(IN_THE_END_S)
        self.concluded_once()
        self.what_was_published()
        self.bills()
        state = self.stage.cpo.state
        assert not [*state.reservations, *state.accepted, *state.held, *state.questions, *state.grants]
        assert {each.status for each in state.sessions} <= {"ACTIVE"}
        accepted = {
            each.call_id for each in self.stage.history if isinstance(each, Respond) and each.response == "ACCEPTED"
        }
        assert all(len(self.stage.results(call_id)) >= 1 for call_id in accepted - self.faulty)
        billed = {each["session_id"] for each in self.stage.objects.get("cdrs", {}).values()}
        for session_id, session in self.stage.objects.get("sessions", {}).items():
            assert (session_id in billed) is (session["status"] == "COMPLETED")


def test_any_history():
    """Whatever happens in whatever order, what has to be true stays true."""
    run_state_machine_as_test(Histories, settings=payloads.examples(30))


@pytest.mark.parametrize(("name", "operation"), HANDLERS)
def test_any_request(name: str, operation: str):
    """Whatever conforms to a request's table is answered once, whatever numbers, texts and times are in it."""
    declared = declaration(name, operation)
    assert declared is not None
    stage = Stage()
    session_id = stage.charge(need_kwh=10_000)
    stage.charge(E2, asker=OTHER)
    ours = {"location_id": LOCATION, "evse_uid": E3, "session_id": session_id, "connector_id": "1", "evses": [E1, E3]}

    @payloads.examples(40)
    @given(payloads.values(kind_of(declared.request)), st.booleans())
    def look(request: dict[str, Any], is_aimed: bool) -> None:
        if is_aimed:  # at something that is there
            request |= {key: value for key, value in ours.items() if key in request}
        stage.now += 40
        payload = payloads.written(request)
        asked = Asked(f"any-{stage.now}", EMSP, ModuleId(name), operation, payload, stage.now + 30)
        effects = stage.cpo.call(asked, now=stage.now)
        answers = [each for each in effects if isinstance(each, Respond | Return | Refuse)]
        assert len(answers) == 1
        assert all(each.status_code == 2000 for each in answers if isinstance(each, Refuse))
        for effect in [*effects, *stage.cpo.advance(now=stage.now + 20)]:
            if isinstance(effect, Publish):
                assert registry[effect.module].accept(effect.payload) == ()
        stage.restart()

    look()
