"""What the simulated CPO remembers: plain records, so that all of it can be written down as JSON and read again.

Amounts of energy and power are ``Decimal``, which JSON keeps as text here; times are Unix seconds with at most three
decimals. Ids keep their spelling and are compared without case (B10).
"""

from decimal import Decimal
from enum import StrEnum

import msgspec

from engine.protocol.ids import ModuleId, PartyId
from engine.protocol.modules.bodies import AsyncResultType
from engine.protocol.modules.cdrs import AuthMethod
from engine.protocol.modules.locations import Capability, Status
from engine.protocol.modules.sessions import SessionStatus
from engine.protocol.transitions import Lifecycle

PHASES = {"AC_1_PHASE": 1, "AC_2_PHASE": 2, "AC_2_PHASE_SPLIT": 2, "AC_3_PHASE": 3}
"""Phases of a PowerType; DC has none, and counts as one."""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Something that is remembered."""


# -- places ---------------------------------------------------------------------------------------------------


class Connector(Record, kw_only=True):
    """5.4.8: A socket or a plug, and what it can give."""

    id: str
    standard: str
    format: str
    power_type: str
    voltage: int
    amperage: int
    power_max_w: int

    @property
    def phases(self) -> int:
        """How many phases it has; 1 for DC."""
        return PHASES.get(self.power_type, 1)

    @property
    def is_dc(self) -> bool:
        """Whether it gives direct current."""
        return self.power_type not in PHASES


class Plug(Record, kw_only=True):
    """A car at an EVSE."""

    connector_id: str
    need_kwh: Decimal
    """What it takes until it is full."""
    is_stuck: bool = False
    """The lock does not open by itself: somebody has to unlock it (05.06)."""


class Evse(Record, kw_only=True):
    """5.4.20: What gives power to one car at a time."""

    uid: str
    evse_id: str
    connectors: list[Connector]
    is_in_service: bool = True
    is_broken: bool = False
    plug: Plug | None = None
    told: Status | None = None
    """The status that was published last."""


class Station(Record, kw_only=True):
    """5.4.5: A device with one connection to the CPO."""

    id: str
    capabilities: list[Capability]
    evses: list[Evse]
    is_online: bool = True
    back_at: float | None = None
    """It resets itself and will be back then."""


class Site(Record, kw_only=True):
    """5.4.31: A Location. A CDR tells its name and address as they were."""

    id: str
    stations: list[Station]
    name: str | None = None
    address: str | None = None
    """JSON, as it is in the Location."""


# -- who may charge -------------------------------------------------------------------------------------------


class TokenOf(Record, kw_only=True):
    """8.5.7: A token, and the party that issued it, or asked for something to be done with it."""

    party_id: PartyId
    uid: str
    type: str
    contract_id: str
    group_id: str | None = None
    token_version: int | None = None

    def is_same(self, uid: str, type_: str) -> bool:
        """Tell whether this is the token with this uid and type."""
        return self.uid.lower() == uid.lower() and self.type == type_


class Grant(Record, kw_only=True):
    """A token that may charge somewhere without its eMSP being asked again (R.05.02.11, R.05.02.12, R.07.02.09)."""

    token: TokenOf
    evse_uids: list[str]
    until: float
    authorization_reference: str | None = None


class Question(Record, kw_only=True):
    """An eMSP was asked about a token that was shown at an EVSE."""

    id: str
    evse_uid: str
    uid: str
    type: str
    due: float
    """When nobody waits for the answer any more."""
    fallback: TokenOf | None = None
    """What counts if there is no answer: the token as it was issued, if it may be used offline."""


class Reservation(Record, kw_only=True):
    """An EVSE that is kept for a token. The party and its id for it tell reservations apart."""

    party_id: PartyId
    id: str
    call_id: str
    """The call that made it, and whose result is taken back if the CPO has to cancel (05.04)."""
    is_told: bool = True
    """Its eMSP was told of it; a fault may have kept that back."""
    session_id: str
    evse_uid: str
    is_any_evse: bool
    """No EVSE was asked for, so it may move to another one of its Location."""
    token: TokenOf
    ends_at: float


# -- sessions -------------------------------------------------------------------------------------------------


class SessionEvent(StrEnum):
    """What happens to a session."""

    ARRIVED = "arrival of the driver, without a cable"
    BEGUN = "begin of charging"
    ENDED = "end, to be billed"
    VOIDED = "end, not to be billed"


SESSION = Lifecycle(
    "session",
    {
        SessionStatus.RESERVATION: {
            SessionEvent.ARRIVED: SessionStatus.PENDING,
            SessionEvent.BEGUN: SessionStatus.ACTIVE,
            SessionEvent.ENDED: SessionStatus.COMPLETED,
            SessionEvent.VOIDED: SessionStatus.INVALID,
        },
        SessionStatus.PENDING: {
            SessionEvent.BEGUN: SessionStatus.ACTIVE,
            SessionEvent.ENDED: SessionStatus.COMPLETED,
            SessionEvent.VOIDED: SessionStatus.INVALID,
        },
        SessionStatus.ACTIVE: {SessionEvent.ENDED: SessionStatus.COMPLETED},
    },
)
"""7.4.10: the life of a Session."""


class Period(Record, kw_only=True):
    """8.5.8: A part of a session. The last one of a session that goes on still grows."""

    begins_at: float
    energy_kwh: Decimal = Decimal(0)
    hours: Decimal = Decimal(0)


class Charging(Record, kw_only=True):
    """7.4.5: A session, from its reservation or its start until its CDR is issued."""

    id: str
    site_id: str
    evse_uid: str
    connector_id: str
    status: SessionStatus
    token: TokenOf
    auth_method: AuthMethod
    authorization_reference: str | None = None
    created_at: float
    """When it was made: with the reservation, or when the station accepted the start."""
    arrived_at: float | None = None
    """When the driver used the reservation, or it began without one."""
    began_at: float | None = None
    """When it became ACTIVE."""
    ended_at: float | None = None
    due: float | None = None
    """PENDING: when it has waited long enough; ACTIVE: its next update; COMPLETED: its CDR."""
    is_reserved: bool = False
    """It began with a reservation."""
    metered_at: float = 0.0
    """Up to when ``energy_kwh`` is counted."""
    energy_kwh: Decimal = Decimal(0)
    """With all digits; rounded wherever it is told."""
    power_w: Decimal = Decimal(0)
    periods: list[Period] = []
    energy_max_kwh: Decimal | None = None
    """The most that the eMSP authorized (11.4.3)."""
    ends_at: float | None = None
    """When what the eMSP authorized is over."""
    preferred_w: Decimal | None = None
    """The power by which the driver's wish is met (07.04)."""
    is_full_told: bool = False
    """The driver was told that the car takes no more."""
    sample_id: str | None = None
    """The id of its MeterSample."""
    remark: str | None = None
    """Why it ended, for its CDR."""
    message: list[dict[str, str]] | None = None
    """What the station shows to the driver (07.07)."""


# -- charging profiles ----------------------------------------------------------------------------------------


class ProfileKind(StrEnum):
    """What a charging profile is for."""

    EVSES = "evses"
    """All charging at some EVSEs together (13.02)."""
    SESSION = "session"
    """One session (13.03)."""
    DEFAULT = "default"
    """Each session that begins at some EVSEs after it was set (13.04)."""


class Limit(Record, kw_only=True):
    """13.6.5: A limit, and from when it holds."""

    begins_s: float
    """Seconds after the profile's start."""
    limit: Decimal
    phases: int | None = None


class Profile(Record, kw_only=True):
    """13.6.4: A charging profile that was set. The party and its id for it tell profiles apart."""

    party_id: PartyId
    id: str
    kind: ProfileKind
    evse_uids: list[str]
    session_id: str | None = None
    unit: str
    starts_at: float | None = None
    """None: when the session began."""
    lasts_s: float | None = None
    rate_min: Decimal | None = None
    limits: list[Limit]
    """In the order in which they hold."""
    set_at: float
    sample_id: str
    """The id of the MeterSample of its EVSEs together."""
    is_over: bool = False
    """It was cleared, replaced, or its session is over; one may still ask about it (R.13.05.05)."""


# -- calls ----------------------------------------------------------------------------------------------------


class FaultKind(StrEnum):
    """What is to go wrong with a call, on purpose."""

    REFUSE = "refuse"
    """It is refused at once."""
    TIME_OUT = "time out"
    """It is accepted and nothing comes of it; a synchronous one is not answered either."""
    LATE = "late"
    """It is done, and its result comes after the deadline; for a synchronous one that is as good as lost."""
    LOSE = "lose"
    """It is done, and nobody hears of it."""


class Fault(Record, kw_only=True):
    """A fault that waits for the next call that it is meant for."""

    kind: FaultKind
    operation: str | None = None
    """None: any."""
    times: int = 1
    """How many calls it is still for."""


class Accepted(Record, kw_only=True):
    """A call that a station is busy with."""

    call_id: str
    asker: PartyId
    module: ModuleId
    operation: str
    payload: str
    received_at: float
    deadline: float
    due: float
    """When the station has done it."""
    fault: FaultKind | None = None


class Held(Record, kw_only=True):
    """A result that is kept back until it is late."""

    call_id: str
    due: float
    result_type: AsyncResultType
    payload: str | None = None
    error: str | None = None


class Answer(Record, kw_only=True):
    """What a call was answered with at once, in case it comes again."""

    response: str | None = None
    data: str | None = None
    status_code: int | None = None
    message: str = ""


class Issued(Record, kw_only=True):
    """A CDR that was issued."""

    party_id: PartyId
    reason: str | None = None
    """Why the eMSP does not agree with it (08.03)."""


# -- all of it ------------------------------------------------------------------------------------------------


class State(Record, kw_only=True):
    """The whole simulated CPO."""

    party_id: PartyId
    seed: int
    draws: int = 0
    """How often chance was asked: with the seed, what it says next."""
    number: int = 0
    """The last number of an id."""
    now: float
    """The latest time that was told."""
    tariff_id: str
    tariff: str
    associations: dict[str, str]
    """The id of the Tariff Association of each audience."""
    regulators: list[PartyId] | None = None
    sites: list[Site]
    reservations: list[Reservation] = []
    sessions: list[Charging] = []
    profiles: list[Profile] = []
    grants: list[Grant] = []
    questions: list[Question] = []
    accepted: list[Accepted] = []
    held: list[Held] = []
    faults: list[Fault] = []
    answers: dict[str, Answer] = {}
    """Of the calls that came last, by id."""
    cdrs: dict[str, Issued] = {}
    """Of the CDRs that were issued last, by id in lower case."""
    regulated_at: dict[PartyId, float] = {}
    """When each party last set a charging profile."""
