"""The simulated CPO: stations, drivers, sessions and bills, without a clock and without a wire.

It is a CPO to try things against, for partners, tests and the demo. Whoever runs it tells it what happens and what
time it is, and does what it wants done::

    cpo, effects = SimulatedCpo.open(party, now=now)     # Locations, EVSE statuses and a Tariff to be published
    effects = cpo.call(asked, now=now)                   # another party's call
    effects = cpo.plug_in("BEBEC-L000001-E01", now=now)  # a driver
    effects = cpo.advance(now=now)                       # no later than cpo.next_at
    kept = cpo.dump()                                    # and SimulatedCpo.load(kept) goes on where it was

What is due comes first, one thing after the other at its own time, whatever is told. Time never goes back: an earlier
``now`` counts as the latest one. The same history has the same effects.

The state and the effects belong together: who stores one without the other does things twice, or never. A call that
comes again with its id is answered as before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Final, NamedTuple, Self

import msgspec

from engine.backoffice.simulated import billing, calls, metering, notices, reservations, sessions, stations, tokens
from engine.backoffice.simulated.effects import Effect, Publish
from engine.backoffice.simulated.handlers import Asked
from engine.backoffice.simulated.pace import Pace
from engine.backoffice.simulated.places import sites_of
from engine.backoffice.simulated.state import Fault, FaultKind, State
from engine.backoffice.simulated.tokens import Known
from engine.backoffice.simulated.world import NotPossible, Place, World, milliseconds
from engine.protocol.ids import PartyId
from engine.protocol.modules import locations
from engine.protocol.modules.check import read_as
from engine.protocol.modules.sessions import SessionStatus
from engine.protocol.modules.tokens import AuthorizeResponse
from engine.samples import Sample, capable_locations

OWN_LOCATIONS: Final = 2
"""Locations of a CPO that is given none: enough to be at another one."""


class _Due(NamedTuple):
    """Something that happens by itself. Of several at one moment the first kind comes first."""

    at: float
    kind: int
    id: str
    do: Callable[[], None]


class SimulatedCpo:
    """A CPO that is made up. ``now`` is in Unix seconds; what is to be done is returned in order."""

    def __init__(self, state: State, pace: Pace | None = None) -> None:
        self._world = World(state, pace or Pace())

    @classmethod
    def open(
        cls,
        party: PartyId,
        *,
        now: float,
        places: Sequence[Sample] = (),
        tariff: bytes | None = None,
        regulators: Sequence[PartyId] | None = None,
        pace: Pace | None = None,
        seed: int = 0,
    ) -> tuple[Self, list[Effect]]:
        """Begin anew: with these Locations or a few of its own, and this Tariff or its own.

        ``regulators``: the only parties that may set charging profiles for EVSEs, and for sessions of any driver;
        None: whoever asks, and for its own drivers.

        Raises ``ValueError`` for what is no Location, and for a Tariff that it cannot count by.
        """
        now = round(now, 3)
        places = places or list(capable_locations(OWN_LOCATIONS, party=party))
        tariff = billing.own_tariff(now) if tariff is None else tariff
        billing.check_tariff(tariff)
        ids = f"{party}-{{}}{milliseconds(now)}"
        state = State(
            party_id=party,
            seed=seed,
            now=now,
            tariff_id=ids.format("T"),
            tariff=tariff.decode(),
            associations={audience: f"{ids.format('A')}-{n}" for n, audience in enumerate(billing.AUDIENCES)},
            regulators=None if regulators is None else list(regulators),
            sites=sites_of(places),
        )
        cpo = cls(state, pace)
        for place in places:
            cpo._world.emit(Publish(locations.MODULE.id, place.id, place.payload))
        billing.publish_tariff(cpo._world)
        return cpo, cpo._settle()

    @classmethod
    def load(cls, dumped: bytes, *, pace: Pace | None = None) -> Self:
        """Go on where a CPO was when it was written down.

        Raises ``ValueError`` if that is not what this is.
        """
        return cls(msgspec.json.decode(dumped, type=State), pace)

    def dump(self) -> bytes:
        """Write everything down that it remembers, as JSON; its pace is a setting and does not belong to it."""
        return msgspec.json.encode(self._world.state)

    @property
    def state(self) -> State:
        """What it remembers: to look at, not to change."""
        return self._world.state

    # -- time

    @property
    def next_at(self) -> float | None:
        """When something is going to happen by itself; None: not before something else happens."""
        return min((due.at for due in self._agenda()), default=None)

    def advance(self, *, now: float) -> list[Effect]:
        """Let happen what is due by now."""
        return self._let(now, lambda: None)

    # -- other parties

    def call(self, asked: Asked, *, now: float) -> list[Effect]:
        """Take a call: the effects answer it at once, unless it is made to time out."""
        return self._let(now, lambda: calls.receive(self._world, asked))

    def answered(
        self, question_id: str, *, now: float, party: PartyId | None = None, response: bytes | None = None
    ) -> list[Effect]:
        """Take the answer to ``tokens/authorize``: the AuthorizeResponse, and the party that gave it.

        None, or what is no AuthorizeResponse: there was no answer, or an error. Other questions have no answer.
        """
        try:
            read = None if response is None else read_as(AuthorizeResponse, response)
        except ValueError:
            read = None
        return self._let(now, lambda: tokens.answered(self._world, question_id, party, read))

    # -- drivers, and what goes wrong. All of these raise ``NotPossible`` where nobody could do that

    def plug_in(
        self, evse_uid: str, *, now: float, connector_id: str | None = None, need_kwh: Decimal | None = None
    ) -> list[Effect]:
        """Plug a car in: at the first connector if none is named, hungry by chance if its need is not told."""
        return self._at(evse_uid, now, partial(stations.plug_in, connector_id=connector_id, need_kwh=need_kwh))

    def unplug(self, evse_uid: str, *, now: float) -> list[Effect]:
        """Take the cable out; a session ends by that."""
        return self._at(evse_uid, now, stations.unplug)

    def present_token(
        self, evse_uid: str, uid: str, *, now: float, type_: str = "RFID", known: Known | None = None
    ) -> list[Effect]:
        """Show a token to the station. ``known``: the Token as it was issued to this CPO, if it was."""
        return self._at(evse_uid, now, partial(tokens.present, uid=uid, type_=type_, known=known))

    def set_online(self, evse_uid: str, *, is_online: bool, now: float) -> list[Effect]:
        """Cut the connection of the station that an EVSE belongs to, or mend it."""
        return self._at(evse_uid, now, partial(stations.set_online, is_online=is_online))

    def set_broken(self, evse_uid: str, *, is_broken: bool, now: float) -> list[Effect]:
        """Break an EVSE, or mend it."""
        return self._at(evse_uid, now, partial(stations.set_broken, is_broken=is_broken))

    def jam(self, evse_uid: str, *, now: float) -> list[Effect]:
        """Let the cable at an EVSE get stuck, until it is unlocked (05.06)."""
        return self._at(evse_uid, now, stations.jam)

    def arm(self, kind: FaultKind, *, operation: str | None = None, times: int = 1) -> None:
        """Make the next calls go wrong, of one operation or of any. Who was armed first comes first."""
        self._world.state.faults.append(Fault(kind=kind, operation=operation, times=times))

    # -- what the CPO does of its own

    def cancel_reservation(self, party: PartyId, reservation_id: str, why: str, *, now: float) -> list[Effect]:
        """Take back a reservation that was promised (05.04).

        Raises ``NotPossible`` if there is none.
        """
        return self._let(now, lambda: self._cancel(party, reservation_id, why))

    def _cancel(self, party: PartyId, reservation_id: str, why: str) -> None:
        reservation = reservations.find(self._world, party, reservation_id)
        if reservation is None:
            raise NotPossible(f"{party} has no reservation {reservation_id}")
        reservations.cancel_by_cpo(self._world, reservation, why)

    def message_driver(self, session_id: str, messages: Sequence[Mapping[str, str]], *, now: float) -> list[Effect]:
        """Have the eMSP tell its driver something: DisplayTexts (07.06).

        Raises ``NotPossible`` if there is no such session.
        """
        return self._let(now, lambda: self._message(session_id, messages))

    def _message(self, session_id: str, messages: Sequence[Mapping[str, str]]) -> None:
        session = self._world.session(session_id)
        if session is None:
            raise NotPossible(f"there is no session {session_id}")
        notices.message_driver(self._world, session, messages)

    # -- inside

    def _at(self, evse_uid: str, now: float, do: Callable[[World, Place], None]) -> list[Effect]:
        return self._let(now, lambda: do(self._world, self._world.place(evse_uid)))

    def _let(self, now: float, do: Callable[[], None]) -> list[Effect]:
        self._catch_up(now)
        try:
            do()
        except NotPossible as no:
            no.effects = self._settle()
            raise
        return self._settle()

    def _settle(self) -> list[Effect]:
        """Tell what became of the EVSEs, and hand over all that is to be done."""
        stations.publish_statuses(self._world)
        effects, self._world.effects = self._world.effects, []
        return effects

    def _catch_up(self, now: float) -> None:
        state = self._world.state
        now = max(round(now, 3), state.now)
        while (due := self._next(now)) is not None and due.at <= now:
            self._move_to(max(due.at, state.now))
            due.do()
            stations.publish_statuses(self._world)
        self._move_to(now)

    def _next(self, now: float) -> _Due | None:
        self._skip_updates(now)
        return min(self._agenda(), default=None, key=lambda each: each[:3])

    def _move_to(self, now: float) -> None:
        state = self._world.state
        metering.count(self._world, now)
        state.now = now
        state.grants = [each for each in state.grants if each.until > now]

    def _skip_updates(self, now: float) -> None:
        """Leave out updates that came due while nobody was there: only the last of them tells anything."""
        every_s = self._world.pace.update_s
        for session in self._world.active():
            if session.due is not None and (missed := int((now - session.due) / every_s)) > 0:
                latest = round(session.due + missed * every_s, 3)
                session.due = min(latest, now if session.ends_at is None else min(session.ends_at, now))

    def _agenda(self) -> Iterator[_Due]:
        """Yield all that happens by itself."""
        world, state = self._world, self._world.state
        for call in state.accepted:
            yield _Due(call.due, 0, call.call_id, partial(calls.perform, world, call))
        for held in state.held:
            yield _Due(held.due, 1, held.call_id, partial(calls.tell_late, world, held))
        for question in state.questions:
            yield _Due(question.due, 2, question.id, partial(tokens.give_up, world, question))
        for reservation in state.reservations:
            do = partial(reservations.expire, world, reservation)
            yield _Due(reservation.ends_at, 3, reservation.session_id, do)
        for session in state.sessions:
            if session.due is not None:
                yield _Due(session.due, 4, session.id, partial(_SESSION_DUE[session.status], world, session))
        for place in world.places():
            if place.station.back_at is not None:
                yield _Due(place.station.back_at, 5, place.evse.uid, partial(stations.come_back, place))


_SESSION_DUE: Final = {
    SessionStatus.PENDING: sessions.give_up,
    SessionStatus.ACTIVE: sessions.update,
    SessionStatus.COMPLETED: billing.issue_cdr,
}
"""What ``due`` means for a session."""
