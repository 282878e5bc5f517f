"""Bodies and answers of the local API, as OpenAPI shows them. Payloads are bytes elsewhere: see ``wire``."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from engine.clock import ocpi_time
from engine.protocol.ids import PartyId, party_id

Party = Annotated[
    PartyId, BeforeValidator(lambda text: party_id(str(text))), Field(description="a Party ID", examples=["BEBEC"])
]
Identity = Annotated[
    str,
    BeforeValidator(lambda text: str(text).lower()),
    Field(description="a Platform Identity: a domain name (R.01.01.02)", examples=["emsp.example.org"]),
]


def _moment(value: object) -> object:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, float | int) else value


Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    PlainSerializer(lambda moment: ocpi_time(moment.timestamp()), return_type=str),
    Field(description="UTC", examples=["2026-05-01T09:30:00.000Z"]),
]


class Body(BaseModel):
    """What is sent to us: unknown fields are mistakes."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Shown(BaseModel):
    """What we answer, read from the engine's own values."""

    model_config = ConfigDict(from_attributes=True)


# errors


class FieldProblem(Shown):
    """One thing that is wrong, with its place."""

    pointer: str = Field(description="JSON Pointer", examples=["/evses/0/uid"])
    found: str
    expected: str

    @classmethod
    def all_of(cls, problems: tuple[Any, ...]) -> "list[FieldProblem]":
        """Show what a module found."""
        return [cls.model_validate(problem) for problem in problems]


class ErrorDetails(Shown):
    """Why not, and what to do."""

    message: str
    hint: str | None = None
    problems: list[FieldProblem] = []


class ErrorAnswer(Shown):
    """Every answer that is not 2xx."""

    error: ErrorDetails


# objects


class ObjectToPublish(Body):
    """A line of a batch. The payload's bytes are kept as they are sent."""

    id: str = Field(description="object id, up to 36 printable ASCII characters", examples=["BEBEC-L000001"])
    payload: dict[str, Any] = Field(description="the object as its module's table says")
    audience: list[Party] | None = Field(
        None,
        description="the only parties that may see it, on this platform's own subscriptions; left out: those that the"
        " payload names, else all",
    )


class PublishResult(Shown):
    """What became of one object."""

    line: int = Field(description="line of the NDJSON body, or place in the array, from 1", examples=[1])
    id: str | None = Field(None, description="null where the line could not be read")
    outcome: Literal["created", "changed", "unchanged", "refused"]
    version: int | None = Field(None, description="the version it is sent as")
    reason: str | None = None
    problems: list[FieldProblem] = []


class PublishAnswer(Shown):
    """Every line of a batch is answered by itself; what was not refused is durable."""

    created: int
    changed: int
    unchanged: int
    refused: int
    results: list[PublishResult]


class ReplacementOrder(Body):
    """What is wanted in the place of an object that never changes."""

    objects: list[ObjectToPublish] = Field([], description="new objects of the same module, where it takes any")
    id: str | None = Field(None, description="id of the object that is made from the old one; null: chosen here")
    effective_at: Moment | None = Field(None, description="from when the new ones count; null: from now")


class IssuedObject(Shown):
    """An object that was issued in the place of another."""

    module: str = Field(examples=["cdrs"])
    id: str
    version: int


class ReplacementAnswer(Shown):
    """What was issued, in this order; all of it is durable."""

    issued: list[IssuedObject]


class ReplicatedObject(Shown):
    """An object that was issued or received here."""

    module: str = Field(examples=["locations"])
    issuer: Party
    id: str = Field(examples=["BEBEC-L000001"])
    version: int
    cursor: str = Field(description="place in the change log; `after` goes on from here")
    stored_at: Moment
    audience: list[str] | None = Field(
        None, description="the only parties that it is for, named by its publisher or in its payload"
    )
    platform: str | None = Field(None, description="received: from which platform")
    receiver: str | None = Field(None, description="received: by which of our parties; it is that party's alone")
    stale: bool = Field(default=False, description="received: the subscription that it came under has ended")
    payload: dict[str, Any] = Field(description="byte for byte as it was issued")


class ObjectPage(Shown):
    """Objects in the order of their last change."""

    objects: list[ReplicatedObject]
    cursor: str = Field(
        description="send it as `after` to go on; what changes meanwhile comes again, nothing is skipped"
    )
    more: bool = Field(description="whether there is more to read right now")


class Filter(Body):
    """Which objects to read; all that the caller may see, if left out."""

    issuer: Party | None = Field(None, description="only of this party")
    receiver: Party | None = Field(None, description="received: only by this party of ours")
    platform: Identity | None = Field(None, description="received: only from this platform")


class PageQuery(Filter):
    """Which page to read."""

    after: int = Field(0, ge=0, lt=2**63, description="the cursor of the last page or event; 0: from the beginning")
    limit: int = Field(100, ge=1, description="objects in the page; `api.page_max` bounds it")


class FollowQuery(Filter):
    """What to follow."""

    after: int | None = Field(None, ge=0, lt=2**63, description="go on after this cursor; left out: from now on")


class EventsQuery(Body):
    """What to follow; all that the caller may see, if left out."""

    kind: list[Literal["object", "call", "subscription"]] = Field(
        ["object", "call", "subscription"], description="of which kinds; may be given several times"
    )
    module: list[str] = Field([], description="objects of these modules only", examples=[["locations"]])
    party: Party | None = Field(None, description="only what concerns this party of ours")
    after: str | None = Field(None, description="go on after this cursor; left out: from now on")


class SimulatedAct(Body):
    """What is to be known of something that happens at a simulated CPO; which of it depends on what that is."""

    evse: str = Field("", description="uid of the EVSE", examples=["BEBEC-L000001-E01"])
    need_kwh: float | None = Field(None, gt=0, description="plug-in: what the car takes until it is full")
    uid: str | None = Field(None, description="present-token: of the token")
    type: str | None = Field(None, description="present-token: RFID, unless it is another")
    is_online: bool | None = Field(None, description="set-online")
    is_broken: bool | None = Field(None, description="set-broken")
    fault: Literal["refuse", "time out", "late", "lose"] | None = Field(
        None, description="arm-fault: what is to go wrong with the next calls"
    )
    operation: str | None = Field(None, description="arm-fault: of this operation only")
    times: int | None = Field(None, ge=1, le=1000, description="arm-fault: with so many calls")
    party: str | None = Field(None, description="cancel-reservation: who made it")
    reservation_id: str | None = Field(None, description="cancel-reservation")
    why: str | None = Field(None, max_length=255, description="cancel-reservation: what the driver reads")
    session_id: str | None = Field(None, description="message-driver: whose driver")
    text: str | None = Field(None, max_length=512, description="message-driver")
    language: str | None = Field(None, description="message-driver: en, unless it is another")


class ReissueOrder(Body):
    """Which objects get a new version; all mutable ones if empty (B9)."""

    party: Party | None = None
    module: str | None = Field(None, examples=["locations"])


class Count(Shown):
    """How many objects it was."""

    count: int


# platforms, certificates, parties


PEM_LENGTH_MAX = 100_000  # ten times what the draft lets a chain have

ServerCa = Annotated[
    str | None,
    Field(
        description="PEM of the authorities to trust for the partner's server certificate; left out: the system's,"
        " or those that are set already",
        max_length=PEM_LENGTH_MAX,
    ),
]


class Platform(Shown):
    """A partner platform."""

    identity: Identity
    state: str = Field(examples=["connected"])
    base_url: str | None = None
    request_timeout_ms: int | None = Field(None, description="what it announced: how long it may make us wait for it")
    tolerant: bool = False
    connected_at: Moment | None = None
    ended_at: Moment | None = None
    end_reason: str | None = None
    parties_fetched_at: Moment | None = None
    last_error: str | None = None


class ConnectOrder(Body):
    """How to reach a partner (R.01.03)."""

    base_url: str = Field(description="https", examples=["https://ocpi.emsp.example.org/ocpi"])
    chain: str | None = Field(None, description="a certificate of its to install first, PEM", max_length=PEM_LENGTH_MAX)
    server_ca: ServerCa = None
    tolerant: bool | None = Field(
        None, description="take objects that break the tables where nothing is lost by it (B23); null: as it was"
    )


class EndOrder(Body):
    """Why something ends."""

    reason: str = Field("ended by the operator", max_length=200)


class Certificate(Shown):
    """A client certificate: issued here to a partner, or by a partner to us."""

    platform: Identity
    issued_here: bool = Field(description="true: we issued it to them; false: they issued it to us")
    serial: str = Field(description="hexadecimal")
    common_name: str
    not_before: Moment
    not_after: Moment
    state: str = Field(description="in use, expired or ended", examples=["in use"])
    ended_at: Moment | None = None
    end_reason: str | None = None


class RequestOrder(Body):
    """Ask for a signing request to hand to a partner (R.01.01.01)."""

    platform: Identity


class SigningRequest(Shown):
    """A certificate signing request, and what both people read to each other over the phone (R.01.01.04)."""

    identity: str
    fingerprint: str = Field(description="SHA-256 of the request, hexadecimal")
    csr: str = Field(description="PEM")


class SignOrder(Body):
    """Sign a partner's request. ``confirmed``: identity and fingerprint were checked with a person there."""

    csr: str = Field(description="PEM", max_length=PEM_LENGTH_MAX)
    confirmed: bool = False
    server_ca: ServerCa = None


class Chain(Shown):
    """A signed certificate and its authorities, leaf first."""

    identity: str
    serial: str
    fingerprint: str
    not_after: Moment
    chain: str = Field(description="PEM")


class InstallOrder(Body):
    """Install what a partner signed for us."""

    platform: Identity
    chain: str = Field(description="PEM, leaf first", max_length=PEM_LENGTH_MAX)
    server_ca: ServerCa = None


class Renewal(Shown):
    """A renewal of a certificate, asked for by us or by a partner."""

    id: int
    platform: Identity
    asked_by_us: bool
    state: str
    created_at: Moment
    due_at: Moment | None = Field(None, description="when something is tried next")
    attempts: int
    reason: str | None = None
    last_error: str | None = None


class Decision(Body):
    """What becomes of a partner's request for renewal: the certificate, or a reason why not."""

    refuse_because: str | None = Field(None, max_length=500)


class PeerParty(Shown):
    """A party, here or at a partner."""

    party_id: Party
    hub: bool = False
    roles: list[Any]
    business_details: dict[str, Any] = {}


class PartyOrder(Body):
    """A party to be hosted here."""

    party_id: Party
    name: str | None = Field(None, description="business name; the Party ID if left out", max_length=100)
    roles: list[str] = Field(["CPO"], min_length=1, description="CPO, EMSP, …", examples=[["CPO"]])
    website: str | None = None
    hub: bool = False


class Token(Shown):
    """A token for a back office."""

    name: str
    party: Party | None = Field(None, description="the only party whose data it opens; null: the operator's rights")
    created_at: Moment


class TokenOrder(Body):
    """Make a token."""

    name: str = Field(min_length=1, max_length=64, examples=["back-office"])
    party: Party | None = None


class NewToken(Token):
    """A token just made; it is shown this once."""

    token: str


# subscriptions


class Parameters(Body):
    """What can be agreed about a subscription."""

    retry_interval_s: float | None = Field(None, gt=0, description="p of the backoff 2^(n-1)·p")
    parallelism_limit: int | None = Field(None, gt=0, description="requests in progress at once")
    queue_size_max: int | None = Field(None, gt=0, description="objects owed before it is cancelled")


class SubscribeOrder(Parameters):
    """Subscribe one of our parties to a partner's (03.01)."""

    subscriber: Party
    producer: Party
    module: str = Field(examples=["locations"])
    platform: Identity | None = Field(None, description="where the producer is, if more than one platform serves it")


class Subscription(Shown):
    """A subscription, ours at a partner (``in-…``) or a partner's here (``out-…``)."""

    id: str = Field(examples=["in-1"])
    platform: str
    subscriber: str
    producer: str
    module: str
    state: str
    life: int
    retry_interval_s: float
    parallelism_limit: int
    queue_size_max: int | None
    began_at: Moment
    ended_at: Moment | None = None
    end_reason: str | None = None
    ended_by: str | None = None
    last_error: str | None = None
    next_action_at: Moment | None = None
    peer_queue_size: int | None = Field(
        None, description="ours: objects waiting at the producer when it was last asked"
    )
    state_checked_at: Moment | None = None
    caught_up: bool | None = Field(None, description="theirs: the first catch-up of this life is done")
    snapshot_from: Moment | None = Field(
        None, description="theirs: what was over by then is owed only if it changed since the first subscribe (D20)"
    )


class Subscriptions(Shown):
    """All subscriptions, those that ended too."""

    ours: list[Subscription]
    theirs: list[Subscription]


class PeerState(Shown):
    """What the producer says about a subscription of ours (03.06)."""

    retry_interval_s: float
    current_queue_size: int
    max_queue_size: int


class Accepted(Shown):
    """Whether the partner agreed."""

    accepted: bool


class CancelOrder(Body):
    """Cancel a partner's subscription (03.05)."""

    reason: Literal["QUEUE_OVERFLOW", "DATA_NO_LONGER_AVAILABLE", "OTHER"] = "OTHER"


class FullUpdateOrder(Body):
    """Ask for an object again (03.10)."""

    object_id: str = Field(min_length=1, max_length=39)


class FailingObject(Shown):
    """An object that a subscriber does not have yet, or refused."""

    issuer: str
    object_id: str
    version: int
    attempts: int
    rejected: bool = Field(description="the subscriber answered 6001: final for this version")
    first_failed_at: Moment | None
    due_at: Moment | None
    last_error: str | None


class DropOrder(Body):
    """Give up an object that keeps failing (B2)."""

    issuer: Party
    object_id: str


# calls


WAIT_MAX_S = 120.0  # a request of the local API is answered within minutes; who waits longer asks again


class CallOrder(Body):
    """Ask a partner's party for an operation (04.01, 04.03). The payload's bytes are sent as they are."""

    sender: Party = Field(description="a party of ours, which asks")
    receiver: Party = Field(description="a partner's party, which is asked")
    module: str = Field(examples=["locations"])
    operation: str = Field(examples=["unlock-connector"])
    payload: dict[str, Any] = Field(description="the parameters, as the operation's table has them")
    platform: Identity | None = Field(None, description="which partner, where several serve the receiver")
    result_within_s: float | None = Field(
        None, gt=0, le=86_400, description="without a result by then it has timed out; left out: as it is set"
    )
    wait_s: float = Field(0.0, ge=0, le=WAIT_MAX_S, description="wait this long for a result that comes later")


class ResultOrder(Body):
    """The result of an asynchronous call, by the tables of its operation."""

    result_type: Literal["SUCCESS", "FAILED", "NOT_SUPPORTED", "REJECTED", "TIMEOUT"]
    error: Any = Field(None, description="what went wrong, where the operation has a table for it")
    payload: Any = Field(None, description="what came of it, where the operation has a result")
    message: str | None = Field(None, max_length=500, description="a note for people")


class CallResult(Shown):
    """A result of a call: the partner's for a call of ours, ours for a partner's call."""

    at: Moment
    result_type: str = Field(examples=["SUCCESS"])
    meaning: str = Field(description="result, late result, revocation or contradiction", examples=["result"])
    note: str | None = None
    error: Any = None
    payload: Any = None
    delivery: str | None = Field(
        None, description="ours: owed, delivered, unknown there, or given up", examples=["delivered"]
    )
    attempts: int = 0
    due_at: Moment | None = Field(None, description="ours: when it is delivered next")
    settled_at: Moment | None = None
    last_error: str | None = None


class Call(Shown):
    """A call, asked by a party of ours or of a partner."""

    id: int
    asked_here: bool = Field(description="true: a party of ours asked; false: a partner's did")
    platform: Identity
    sender: Party
    receiver: Party
    module: str
    operation: str
    asynchronous: bool
    state: str = Field(description="docs/lifecycles.md shows what may become of it", examples=["accepted"])
    open: bool = Field(description="whether it waits for something")
    asked_at: Moment
    answered_at: Moment | None = None
    deadline_at: Moment | None = None
    ended_at: Moment | None = None
    request_id: str
    correlation_id: str
    http_status: int | None = Field(None, description="of the answer to the request")
    status_code: int | None = None
    message: str | None = None
    routed_receiver: str | None = Field(None, description="ours: the party that a hub found")
    hand_overs: int = Field(0, description="a partner's: how often the back office did not take it")
    hand_over_at: Moment | None = Field(None, description="a partner's: when the back office gets it")
    hand_over_error: str | None = None
    payload: dict[str, Any] = Field(description="the parameters, byte for byte")
    data: Any = Field(None, description="ours: what the answer to the request brought")
    answer: Any = Field(None, description="a partner's: what it was answered, an OcpiResponse")
    results: list[CallResult]


class CallPage(Shown):
    """Calls, newest first."""

    calls: list[Call]
    more: bool = Field(description="whether there are older ones: go on with `before` = the last one's id")


# health


class Health(Shown):
    """Whether the process is alive, and serves."""

    status: Literal["ok", "starting or stopping"]
