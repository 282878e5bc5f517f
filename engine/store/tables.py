"""What the engine remembers, as tables. Times are seconds since the epoch, UTC.

Rows that belong to a subscription's delivery are written by its owner alone, conditional on ``epoch``.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.engine import Dialect

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class _Said(TypeDecorator[str]):
    """Text that others wrote. PostgreSQL keeps no NUL, so a sign for it stands in its place, on every database."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - the same on all
        return None if value is None else value.replace("\0", "\N{SYMBOL FOR NULL}")


# SQLite hands out rowids only for INTEGER keys; PostgreSQL wants 64 bits.
_Id = BigInteger().with_variant(Integer, "sqlite")

processes = Table(
    "processes",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("started_at", Float, nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("host", String(255)),
    Column("pid", BigInteger),
    comment="One row for each running process; a row that is still there at the next start was an unclean end.",
)

claims = Table(
    "claims",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("key", _Id, primary_key=True, autoincrement=False),
    Column("process_id", String(36), ForeignKey("processes.id", ondelete="CASCADE"), nullable=False),
    comment="What one process does and the others leave alone; void with the lease of its process.",
)

revisions = Table(
    "revisions",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    comment="Raised with what other processes have in memory; who missed a notification sees it here.",
)

marks = Table(
    "marks",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="1: there is one row, or none yet"),
    Column("mark", String(36), nullable=False, comment="random, renewed often; the platform's folder knows it too"),
    Column("restored", JSON, comment="when this was last taken for an older database, by whom, and what was done"),
    comment="A mark that the folder does not know is that of an older database: a backup, a replica that lagged.",
)

platforms = Table(
    "platforms",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("identity", String(253), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("base_url", Text),
    Column("server_ca", Text, comment="PEM of the authorities trusted for its server certificate; null: the system's"),
    Column("request_timeout_ms", Integer, comment="what it announced: limits requests that we make to it"),
    Column("handshake", LargeBinary, comment="digest of the handshake that it made, until its next request (B19)"),
    Column("offer", LargeBinary, comment="our handshake, byte for byte, until it is answered (B19)"),
    Column("offer_attempts", Integer, nullable=False, server_default="0"),
    Column("offer_due_at", Float),
    Column("tolerant", Boolean, nullable=False, server_default=false()),
    Column("created_at", Float, nullable=False),
    Column("connected_at", Float),
    Column("ended_at", Float),
    Column("end_reason", _Said),
    Column("parties_fetched_at", Float),
    Column("last_error", _Said),
)

certificates = Table(
    "certificates",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("platform_id", _Id, ForeignKey("platforms.id"), nullable=False, index=True),
    Column("issued_here", Boolean, nullable=False, comment="true: our CA issued it to them; false: theirs to us"),
    Column("serial", String(64), nullable=False, comment="hexadecimal"),
    Column("common_name", String(253), nullable=False),
    Column("chain", Text, nullable=False, comment="PEM, leaf first"),
    Column("key_file", Text, comment="file name of our private key for it, where it is ours"),
    Column("not_before", Float, nullable=False),
    Column("not_after", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("end_reason", _Said),
)

renewals = Table(
    "renewals",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("platform_id", _Id, ForeignKey("platforms.id"), nullable=False),
    Column("asked_by_us", Boolean, nullable=False),
    Column("callback_id", String(36), nullable=False),
    Column("state", String(16), nullable=False),
    Column("csr", Text, nullable=False),
    Column("key_file", Text),
    Column("chain", Text),
    Column("reason", _Said),
    Column("created_at", Float, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", Float),
    Column("last_error", _Said),
    UniqueConstraint("platform_id", "asked_by_us", "callback_id"),
)

hosted_parties = Table(
    "hosted_parties",
    metadata,
    Column("party_id", String(5), primary_key=True),
    Column("hub", Boolean, nullable=False, server_default=false()),
    Column("roles", JSON, nullable=False, comment="PartyRole objects"),
    Column("business_details", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

peer_parties = Table(
    "peer_parties",
    metadata,
    Column("platform_id", _Id, ForeignKey("platforms.id"), primary_key=True),
    Column("party_id", String(5), primary_key=True),
    Column("hub", Boolean, nullable=False, server_default=false()),
    Column("roles", JSON, nullable=False),
    Column("business_details", JSON, nullable=False),
    Column("first_seen_at", Float, nullable=False),
    Column("last_seen_at", Float, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True, comment="SHA-256 of the token, hexadecimal"),
    Column("party_id", String(5), comment="the only party whose data it opens; null: all"),
    Column("created_at", Float, nullable=False),
)

logs = Table(
    "logs",
    metadata,
    Column("name", String(64), primary_key=True, comment="a module, or a module and '/received'"),
    Column("last_seq", BigInteger, nullable=False),
    comment="The counter of each change log. Numbers are never used twice.",
)

objects = Table(
    "objects",
    metadata,
    Column("pk", _Id, primary_key=True),
    Column("source_id", _Id, nullable=False, comment="0: issued here; else the inbound subscription it came under"),
    Column("module", String(36), nullable=False),
    Column("issuer", String(5), nullable=False),
    Column("object_key", String(39), nullable=False),
    Column("object_id", String(39), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("life", Integer, nullable=False, comment="the subscription's life that it was last taken in (B27)"),
    Column("log", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("audience", Text, comment="',DEPTX,NLTNM,': the only parties that may see it; null: the rules alone decide"),
    Column("concluded_at", Float, comment="when what it tells of was over; null: it is not over, or never is"),
    Column("stored_at", Float, nullable=False),
    # Last: SQLite reads through a large payload to reach what stands behind it.
    Column("payload", LargeBinary, nullable=False, comment="the JSON text as it came"),
    UniqueConstraint("source_id", "module", "issuer", "object_key"),
    Index(None, "log", "seq"),
)

outbound = Table(
    "outbound_subscriptions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("platform_id", _Id, ForeignKey("platforms.id"), nullable=False),
    Column("subscriber", String(5), nullable=False),
    Column("producer", String(5), nullable=False),
    Column("module", String(36), nullable=False),
    Column("module_alias", String(36), nullable=False, comment="the name that the subscriber used (W8)"),
    Column("state", String(16), nullable=False),
    Column("life", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("owner", String(36)),
    Column(
        "confirmed_epoch",
        Integer,
        nullable=False,
        server_default="-1",
        comment="the owner, told by another process of an end, begins nothing more since this epoch",
    ),
    Column("retry_interval_s", Float, nullable=False),
    Column("parallelism_limit", Integer, nullable=False),
    Column("queue_size_max", BigInteger, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("caught_up", Boolean, nullable=False, comment="the first catch-up of this life is done (B24)"),
    Column("catch_up_to", BigInteger, nullable=False, comment="the log's end when this life began"),
    Column("attempted_to", BigInteger, nullable=False, comment="owed up to here counts one attempt (unclean end)"),
    Column("hold_until", Float, nullable=False, comment="nothing is sent before: requests may be in progress"),
    Column(
        "first_seq",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="the log's end at the subscriber's first subscribe; what changed after it is always owed",
    ),
    Column(
        "snapshot_from",
        Float,
        nullable=False,
        server_default="0",
        comment="up to first_seq, what was over by then is left out; stays as it is for a life",
    ),
    Column("began_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("end_reason", String(32)),
    Column("ended_by", String(16)),
    Column("notice", String(32), comment="the cancellation reason that the receiver has yet to hear"),
    Column("notice_attempts", Integer, nullable=False, server_default="0"),
    Column("notice_due_at", Float),
    Column("notice_error", _Said),
    UniqueConstraint("platform_id", "subscriber", "producer", "module"),
)

exceptions = Table(
    "exceptions",
    metadata,
    Column("subscription_id", _Id, ForeignKey("outbound_subscriptions.id"), primary_key=True),
    Column("issuer", String(5), primary_key=True),
    Column("object_key", String(39), primary_key=True),
    Column("object_id", String(39), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("first_failed_at", Float),
    Column("last_error", _Said),
    Column("revision", BigInteger, nullable=False),
    Column("rejected", Boolean, nullable=False, server_default=false(), comment="6001: final for this version"),
    Index(None, "subscription_id", "rejected", "due_at"),
)

inbound = Table(
    "inbound_subscriptions",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("platform_id", _Id, ForeignKey("platforms.id"), nullable=False),
    Column("subscriber", String(5), nullable=False),
    Column("producer", String(5), nullable=False),
    Column("module", String(36), nullable=False),
    Column("module_alias", String(36), nullable=False),
    Column("state", String(16), nullable=False),
    Column("life", Integer, nullable=False),
    Column("retry_interval_s", Float, nullable=False),
    Column("parallelism_limit", Integer, nullable=False),
    Column("queue_size_max", BigInteger, comment="what we ask for, then what the producer promised"),
    Column("began_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("end_reason", String(32)),
    Column("ended_by", String(16)),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_action_at", Float, comment="when to ask (again), to check the state, to confirm a cancellation"),
    Column("last_error", _Said),
    Column("state_checked_at", Float),
    Column("peer_queue_size", BigInteger),
    Column("overflows", Integer, nullable=False, server_default="0"),
    UniqueConstraint("platform_id", "subscriber", "producer", "module"),
)

calls = Table(
    "calls",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("asked_here", Boolean, nullable=False, comment="true: a party of ours asked; false: a partner's did"),
    Column("platform_id", _Id, ForeignKey("platforms.id"), nullable=False, comment="the partner's"),
    Column("sender", String(5), nullable=False),
    Column("receiver", String(5), nullable=False),
    Column("module", String(36), nullable=False),
    Column("operation", String(64), nullable=False),
    Column("asynchronous", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("callback_id", String(36), comment="asynchronous: where the result goes"),
    Column("request_id", String(128), nullable=False),
    Column("correlation_id", String(128), nullable=False),
    Column("digest", LargeBinary, comment="a partner's: SHA-256 of what it asked for, by which a repeat is known"),
    Column("asked_at", Float, nullable=False),
    Column("answered_at", Float),
    Column("deadline_at", Float, comment="without a result by then it has timed out"),
    Column("ended_at", Float, comment="null: it waits for something"),
    Column("http_status", Integer),
    Column("status_code", Integer, comment="of the answer to the request"),
    Column("message", _Said, comment="what was said with it, or why there is none"),
    Column("routed_receiver", String(5), comment="ours: the party that a hub found"),
    Column("hand_over_at", Float, comment="a partner's: when the back office is to get it; null: it has it"),
    Column("hand_overs", Integer, nullable=False, server_default="0", comment="attempts"),
    Column("hand_over_error", _Said),
    # Last: SQLite reads through large ones to reach what stands behind them.
    Column("payload", LargeBinary, nullable=False, comment="the parameters: JSON text as it came"),
    Column("answer", LargeBinary, comment="a partner's: our answer, byte for byte; ours: the data of the answer"),
    # Named here: PostgreSQL takes 63 characters.
    UniqueConstraint("asked_here", "platform_id", "sender", "receiver", "callback_id", name="uq_calls_callback"),
    UniqueConstraint(
        "asked_here", "platform_id", "sender", "receiver", "request_id", "digest", name="uq_calls_request"
    ),
    Index(None, "callback_id"),
    Index(None, "ended_at", "deadline_at"),
    Index(None, "hand_over_at"),
)

call_results = Table(
    "call_results",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("call_id", _Id, ForeignKey("calls.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("platform_id", _Id, ForeignKey("platforms.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("meaning", String(16), nullable=False),
    Column("result_type", String(16), nullable=False),
    Column("note", _Said),
    Column("delivery", String(16), comment="ours: whether the partner has it; null: it is the partner's"),
    Column("due_at", Float, comment="when to deliver it next; null: not any more"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("settled_at", Float, comment="when its delivery was over"),
    Column("last_error", _Said),
    Column("body", LargeBinary, nullable=False, comment="the AsyncResponse, byte for byte"),
    Index(None, "platform_id", "due_at"),
    comment="Results of calls: received from partners, and callbacks that are or were owed to them.",
)

events = Table(
    "events",
    metadata,
    Column("kind", String(32), primary_key=True),
    Column("key", _Id, primary_key=True, autoincrement=False),
    Column("seq", _Id, nullable=False, unique=True, comment="in the log `events`: its last change"),
    comment="Calls and subscriptions in the order of their last change, for those who follow.",
)

simulations = Table(
    "simulations",
    metadata,
    Column("party", String(5), primary_key=True),
    Column("kept", LargeBinary, nullable=False, comment="its state, and what it wants done; JSON"),
    comment="Simulated CPOs, by the party that they play.",
)
