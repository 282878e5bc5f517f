"""The simulated CPO at work: it is told what happens and what time it is, and what it wants is done.

::

    call · driver · time ──▶ SimulatedCpo ──▶ effects ──▶ written down with the state ──▶ done, in their order
                                  ▲                                                          │
                                  └──────────────── answer of an eMSP ◀──────────────────────┘

Whatever it wants is written down in the commit that has the state it comes of. After a crash all that was perhaps not
done yet is done again: an object that is issued already is unchanged, and a result that was given is the same one.

One process runs it: its state is in memory. A driver is simulated as well, who plugs in where a session waits for a
cable, and leaves when it is over; without him nobody who tries the platform from outside would ever charge.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeVar

import msgspec

from engine.backoffice.simulated import (
    Ask,
    Asked,
    Conclude,
    Effect,
    FaultKind,
    Known,
    NotPossible,
    Pace,
    Publish,
    Refuse,
    Respond,
    Return,
    SimulatedCpo,
)
from engine.clock import Clock
from engine.lifecycle import RESTART_PAUSE_S, Background
from engine.protocol.calls import CallState
from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules.bodies import ImmediateResponseToAsyncRequest
from engine.protocol.modules.check import read_as
from engine.protocol.modules.locations import MODULE as LOCATIONS
from engine.protocol.modules.sessions import SessionStatus
from engine.protocol.modules.tokens import MODULE as TOKENS
from engine.protocol.modules.tokens import Token
from engine.refusals import NotAccepted, NotFoundHere, Refused
from engine.registration.directory import Directory
from engine.registration.folder import InUse
from engine.relay.asking import Asking
from engine.relay.calls import Calls
from engine.relay.offices import Accepted, Answered, Declined, IncomingCall, RefusedAtOnce, Reply, WrongReply
from engine.replication.issuing import Publication
from engine.replication.publishing import Publishing
from engine.store import objects, simulations
from engine.store.database import Database, StoreUnavailable
from engine.store.membership import Membership

_log = logging.getLogger(__name__)

T = TypeVar("T")

PLUG_IN_AFTER_S: Final = 3.0  # a driver who has started a session by telephone stands beside the car
LEAVE_AFTER_S: Final = 20.0  # and takes the cable out soon after it is over
IDLE_S: Final = 3600.0  # with nothing to come it is looked at this often
TOKENS_TOGETHER: Final = 200  # read in one go
ALONE_WITHIN_LEASES: Final = 2.0  # after a process that was killed its claim is void, at the latest
LOOK_AGAIN_S: Final = 0.2


class _Kept(msgspec.Struct):
    """What is written down: the state, and effects that are perhaps not done yet."""

    state: msgspec.Raw
    effects: list[tuple[str, dict[str, Any]]]


_EFFECTS: Final[Mapping[str, type[Ask | Conclude | Publish]]] = {
    kind.__name__: kind for kind in (Ask, Conclude, Publish)
}


class Simulation:
    """Plays one party of ours: the `relay.offices.BackOffice` of a CPO that is made up. A Service."""

    def __init__(
        self,
        party: PartyId,
        *,
        database: Database,
        calls: Calls,
        asking: Asking,
        publishing: Publishing,
        clock: Clock,
        speed: float,
        drivers: bool,
    ) -> None:
        """Play this party; everything takes ``1 / speed`` of its time. Without ``drivers`` nobody plugs in."""
        self._party = party
        self._database = database
        self._calls = calls
        self._asking = asking
        self._publishing = publishing
        self._clock = clock
        self._speed = speed
        self._drivers = drivers
        self._pace = faster(Pace(), speed)
        self._cpo: SimulatedCpo | None = None
        self._written = b""  # its state as it was written down last
        self._lock = asyncio.Lock()
        self._wanted: deque[Effect] = deque()
        self._waits = asyncio.Event()  # something is wanted
        self._changed = asyncio.Event()  # its next date may be another
        self._asks: set[asyncio.Task[None]] = set()
        self._visits: dict[str, float] = {}  # EVSE → when its driver does something
        self._used: set[str] = set()  # EVSEs whose cable has had a session, so that its driver leaves after it
        self._parts = [
            Background(f"simulated {party}", self._live, expected=(StoreUnavailable,)),
            Background(f"what simulated {party} wants", self._do_wanted),
        ]

    async def start(self) -> None:
        """Go on where it was, or begin."""
        async with self._database.reading() as tx:
            kept = await simulations.load(tx, self._party)
        if kept is None:
            self._cpo, effects = SimulatedCpo.open(self._party, now=self._clock.now(), pace=self._pace)
            await self._keep(effects)
        else:
            read = msgspec.json.decode(kept, type=_Kept)
            self._written = bytes(read.state)
            self._cpo = SimulatedCpo.load(self._written, pace=self._pace)
            self._want([_read_effect(kind, fields) for kind, fields in read.effects])
            _, charging, idle = _cables(self._cpo)
            self._used = charging | idle
        self._calls.serve(self._party, self)
        for part in self._parts:
            await part.start()

    async def stop(self) -> None:
        """Stop; what is wanted and not done is written down."""
        self._calls.withdraw(self._party)
        for part in reversed(self._parts):
            await part.stop()
        for task in self._asks:
            task.cancel()
        await asyncio.gather(*self._asks, return_exceptions=True)

    # -- what happens to it ---------------------------------------------------------------------------------

    async def take(self, call: IncomingCall) -> Reply:
        """Carry out what a partner asks of it."""
        asked = Asked(
            str(call.id), call.asker, ModuleId(call.module), call.operation, call.payload, round(call.deadline, 3)
        )
        effects = await self._let(lambda cpo, now: cpo.call(asked, now=now))
        for effect in effects:
            match effect:
                case Return(_, data):
                    return Answered(data)
                case Refuse(_, status_code, message):
                    return Declined(status_code, message)
                case Respond(_, ImmediateResponseToAsyncRequest.ACCEPTED):
                    return Accepted()
                case Respond(_, response):
                    return RefusedAtOnce(response)
        await asyncio.sleep(IDLE_S)  # it does not answer, on purpose; whoever handed over waits no longer than set
        raise WrongReply("it did not answer")

    async def act(self, what: str, *, evse: str = "", **details: Any) -> None:
        """Let something happen at a station: see ``ACTS``.

        Raises ``Refused`` where nobody could do that, ``NotFoundHere`` for what it does not know.
        """
        known = None
        if what == "present-token":
            known = await self._known(str(details.get("uid", "")), str(details.get("type", "RFID")))
        try:
            match what:
                case "plug-in":
                    need = details.get("need_kwh")
                    kwh = None if need is None else Decimal(str(need))
                    await self._let(lambda cpo, now: cpo.plug_in(evse, now=now, need_kwh=kwh))
                case "unplug":
                    await self._let(lambda cpo, now: cpo.unplug(evse, now=now))
                case "present-token":
                    uid, kind = str(details["uid"]), str(details.get("type", "RFID"))
                    await self._let(lambda cpo, now: cpo.present_token(evse, uid, now=now, type_=kind, known=known))
                case "set-online":
                    online = bool(details["is_online"])
                    await self._let(lambda cpo, now: cpo.set_online(evse, is_online=online, now=now))
                case "set-broken":
                    broken = bool(details["is_broken"])
                    await self._let(lambda cpo, now: cpo.set_broken(evse, is_broken=broken, now=now))
                case "jam":
                    await self._let(lambda cpo, now: cpo.jam(evse, now=now))
                case "arm-fault":
                    await self._let(lambda cpo, _now: _arm(cpo, details))
                case "cancel-reservation":
                    party, reservation = PartyId(str(details["party"])), str(details["reservation_id"])
                    why = str(details.get("why", "The station is needed"))
                    await self._let(lambda cpo, now: cpo.cancel_reservation(party, reservation, why, now=now))
                case "message-driver":
                    session, text = str(details["session_id"]), str(details["text"])
                    messages = [{"language": str(details.get("language", "en")), "text": text}]
                    await self._let(lambda cpo, now: cpo.message_driver(session, messages, now=now))
                case _:
                    raise NotFoundHere(f"there is no {what!r}: {', '.join(ACTS)}")
        except NotPossible as error:
            raise Refused(str(error)) from error
        except (KeyError, ValueError) as error:
            raise Refused(f"{what} needs other details: {error}") from error

    def shown(self) -> dict[str, Any]:
        """Show what goes on, ready for JSON."""
        state = self._running.state
        return {
            "party": self._party,
            "evses": [
                {
                    "uid": evse.uid,
                    "location": site.id,
                    "status": evse.told,
                    "plugged_in": evse.plug is not None,
                    "online": station.is_online,
                    "session": next((each.id for each in state.sessions if each.evse_uid == evse.uid), None),
                }
                for site in state.sites
                for station in site.stations
                for evse in station.evses
            ],
            "reservations": len(state.reservations),
            "faults": [{"kind": each.kind, "operation": each.operation, "times": each.times} for each in state.faults],
        }

    # -- inside ---------------------------------------------------------------------------------------------

    @property
    def _running(self) -> SimulatedCpo:
        if self._cpo is None:
            raise NotFoundHere(f"the simulation of {self._party} is not running")
        return self._cpo

    async def _let(self, happen: Callable[[SimulatedCpo, float], Sequence[Effect]]) -> Sequence[Effect]:
        """Let something happen now, write down what comes of it, and have it done."""
        async with self._lock:
            impossible = None
            try:
                try:
                    effects = happen(self._running, self._clock.now())
                except NotPossible as no:
                    effects, impossible = no.effects, no
                await self._keep(effects)
            except BaseException:  # what was not written down has not happened
                self._cpo = SimulatedCpo.load(self._written, pace=self._pace)
                raise
        self._changed.set()
        if impossible is not None:
            raise impossible
        return effects

    async def _keep(self, effects: Sequence[Effect]) -> None:
        """Write down what it remembers, and what it wants; only then anything of it is done."""
        wanted = [effect for effect in effects if isinstance(effect, Ask | Conclude | Publish)]
        pending = [(type(effect).__name__, msgspec.to_builtins(effect)) for effect in (*self._wanted, *wanted)]
        dumped = self._running.dump()
        kept = msgspec.json.encode(_Kept(msgspec.Raw(dumped), pending))
        async with self._database.transaction() as tx:
            await simulations.save(tx, self._party, kept)
        self._written = dumped
        self._want(wanted)

    def _want(self, effects: Sequence[Effect]) -> None:
        self._wanted.extend(effects)
        if self._wanted:
            self._waits.set()

    async def _live(self) -> None:
        """Let time pass."""
        while True:
            self._changed.clear()
            due = min((at for at in (self._running.next_at, *self._visits.values()) if at is not None), default=None)
            wait_s = IDLE_S if due is None else max(0.0, due - self._clock.now())
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                await self._let(lambda cpo, now: cpo.advance(now=now))
            await self._visit()

    async def _visit(self) -> None:
        """Let drivers plug in where a session waits for them, and leave when it is over."""
        if not self._drivers:
            return
        now = self._clock.now()
        waiting, charging, idle = _cables(self._running)
        self._used = (self._used | charging) & (charging | idle)
        leaving = self._used & idle
        for evse in self._visits.keys() - waiting - leaving:
            del self._visits[evse]
        for evse in (*waiting, *leaving):
            after_s = PLUG_IN_AFTER_S if evse in waiting else LEAVE_AFTER_S
            if self._visits.setdefault(evse, now + after_s / self._speed) > now:
                continue
            del self._visits[evse]
            self._used.add(evse)
            try:
                await self.act("plug-in" if evse in waiting else "unplug", evse=evse)
            except Refused as refused:
                _log.info("a simulated driver could not do that: %s", refused, extra={"action": "simulated_driver"})

    async def _do_wanted(self) -> None:
        while True:
            await self._waits.wait()
            self._waits.clear()
            while self._wanted:
                try:
                    await self._do(self._wanted[0])
                except StoreUnavailable:
                    await asyncio.sleep(RESTART_PAUSE_S)
                    continue
                except (Refused, NotAccepted) as refused:
                    _log.warning("the simulated CPO is refused: %s", refused, extra={"action": "simulation_refused"})
                self._wanted.popleft()

    async def _do(self, effect: Effect) -> None:
        match effect:
            case Publish(module, object_id, payload):
                (published,) = await self._publishing.publish(self._party, module, [Publication(object_id, payload)])
                if published.outcome == "refused":
                    raise Refused(f"{module} {object_id}: {published.reason}")
            case Conclude(call_id, result_type, payload, error):
                await self._calls.conclude(int(call_id), result_type, payload=payload, error=error)
            case Ask():
                task = asyncio.create_task(self._ask(effect))
                self._asks.add(task)
                task.add_done_callback(self._asks.discard)

    async def _ask(self, question: Ask) -> None:
        """Ask an eMSP, and tell what it said."""
        response = None
        try:
            if question.to is not None:
                call_id = await self._asking.ask(
                    self._party, question.to, question.module, question.operation, question.payload
                )
                found = (await self._calls.get(call_id)).call
                response = found.answer if found.state is CallState.SUCCEEDED else None
        except (Refused, StoreUnavailable) as refused:
            _log.info("the simulated CPO has no answer: %s", refused, extra={"action": "simulation_refused"})
        await self._let(
            lambda cpo, now: cpo.answered(question.question_id, now=now, party=question.to, response=response)
        )

    async def _known(self, uid: str, kind: str) -> Known | None:
        """Look for a Token that was issued to this CPO."""
        after = 0
        while True:
            async with self._database.reading() as tx:
                page = await objects.page(
                    tx, module=TOKENS.id, received=True, subscriber=self._party, after=after, limit=TOKENS_TOGETHER
                )
            for stored in page:
                try:
                    token = read_as(Token, stored.payload)
                except ValueError:  # it was taken although it is not as its table has it (B23)
                    continue
                if (token.uid.lower(), token.type) == (uid.lower(), kind):
                    return Known(PartyId(stored.issuer), stored.version, token)
            if len(page) < TOKENS_TOGETHER:
                return None
            after = page[-1].seq


ACTS: Final = (
    *("plug-in", "unplug", "present-token", "set-online", "set-broken", "jam"),
    *("arm-fault", "cancel-reservation", "message-driver"),
)
"""What can happen at stations of a simulated CPO."""


def faster(pace: Pace, speed: float) -> Pace:
    """Divide all durations of a pace; what counts energy and limits stays."""
    changed: dict[str, Any] = {}
    for name in ("reserve_s", "start_s", "stop_s", "unlock_s", "display_s", "regulate_s", "accept_reset_s", "reset_s"):
        least, most = getattr(pace, name)
        changed[name] = (least / speed, most / speed)
    for name in ("update_s", "regulate_every_s"):
        changed[name] = getattr(pace, name) / speed
    least, most = pace.cdr_s
    return replace(pace, cdr_s=(least / speed, most / speed), **changed)


_LIVE: Final = (SessionStatus.RESERVATION, SessionStatus.PENDING, SessionStatus.ACTIVE)


def _cables(cpo: SimulatedCpo) -> tuple[set[str], set[str], set[str]]:
    """Return at which EVSEs a session waits for its cable, where one has it, and where a cable has none."""
    live = {each.evse_uid: each for each in cpo.state.sessions if each.status in _LIVE}
    evses = [evse for site in cpo.state.sites for station in site.stations for evse in station.evses]
    waiting = {
        evse.uid
        for evse in evses
        if evse.plug is None and evse.uid in live and live[evse.uid].status is SessionStatus.PENDING
    }
    charging = {evse.uid for evse in evses if evse.plug is not None and evse.uid in live}
    idle = {evse.uid for evse in evses if evse.plug is not None and evse.uid not in live}
    return waiting, charging, idle


def _arm(cpo: SimulatedCpo, details: dict[str, Any]) -> Sequence[Effect]:
    operation = details.get("operation")
    cpo.arm(FaultKind(str(details["fault"])), operation=operation, times=int(details.get("times", 1)))
    return ()


def _read_effect(kind: str, fields: dict[str, Any]) -> Effect:
    return msgspec.convert(fields, type=_EFFECTS[kind])


class Simulations:
    """Plays every CPO that is hosted here. A Service; parties that are added later are played after the next start."""

    def __init__(
        self,
        *,
        directory: Directory,
        database: Database,
        calls: Calls,
        asking: Asking,
        publishing: Publishing,
        clock: Clock,
        membership: Membership,
        parties: Collection[str],
        speed: float,
        drivers: bool,
    ) -> None:
        """Play these parties, or all if none is named; see `Simulation`."""
        self._directory = directory
        self._membership = membership
        self._parties = parties
        self._play = partial(
            Simulation,
            database=database,
            calls=calls,
            asking=asking,
            publishing=publishing,
            clock=clock,
            speed=speed,
            drivers=drivers,
        )
        self._playing: dict[PartyId, Simulation] = {}

    async def start(self) -> None:
        """Begin to play.

        Raises ``InUse`` if another process does.
        """
        try:
            async with asyncio.timeout(ALONE_WITHIN_LEASES * self._membership.lease_s):
                while not await self._membership.leads("simulation"):  # noqa: ASYNC110 - a lease ends without a word
                    await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            raise InUse('another process plays the simulated CPOs here: kind = "simulated" is for one') from None
        for party in self._directory.hosted_parties():
            if self._parties and party.party_id not in self._parties:
                continue
            if not party.hub and self._directory.module_served(party.party_id, LOCATIONS.id, "SENDER"):
                self._playing[party.party_id] = self._play(party.party_id)
                await self._playing[party.party_id].start()

    async def stop(self) -> None:
        """Stop playing."""
        for simulation in self._playing.values():
            await simulation.stop()
        self._playing.clear()

    def all(self) -> Sequence[Simulation]:
        """List the simulations, by party."""
        return list(self._playing.values())

    def get(self, party: str) -> Simulation:
        """Find the simulation of a party.

        Raises ``NotFoundHere``.
        """
        found = self._playing.get(PartyId(party.upper()))
        if found is None:
            raise NotFoundHere(f"{party} is not simulated here; start it with `ocpi-engine sandbox`")
        return found
