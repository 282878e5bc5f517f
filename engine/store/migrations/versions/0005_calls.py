"""Calls between parties, on both sides, and their results, with the callbacks that are owed."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "calls",
        sa.Column("id", number, nullable=False),
        sa.Column(
            "asked_here", sa.Boolean(), nullable=False, comment="true: a party of ours asked; false: a partner's did"
        ),
        sa.Column("platform_id", number, nullable=False, comment="the partner's"),
        sa.Column("sender", sa.String(length=5), nullable=False),
        sa.Column("receiver", sa.String(length=5), nullable=False),
        sa.Column("module", sa.String(length=36), nullable=False),
        sa.Column("operation", sa.String(length=64), nullable=False),
        sa.Column("asynchronous", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("callback_id", sa.String(length=36), nullable=True, comment="asynchronous: where the result goes"),
        sa.Column("request_id", sa.String(length=128), nullable=False),
        sa.Column("correlation_id", sa.String(length=128), nullable=False),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=True,
            comment="a partner's: SHA-256 of what it asked for, by which a repeat is known",
        ),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("answered_at", sa.Float(), nullable=True),
        sa.Column("deadline_at", sa.Float(), nullable=True, comment="without a result by then it has timed out"),
        sa.Column("ended_at", sa.Float(), nullable=True, comment="null: it waits for something"),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True, comment="of the answer to the request"),
        sa.Column("message", sa.Text(), nullable=True, comment="what was said with it, or why there is none"),
        sa.Column("routed_receiver", sa.String(length=5), nullable=True, comment="ours: the party that a hub found"),
        sa.Column(
            "hand_over_at",
            sa.Float(),
            nullable=True,
            comment="a partner's: when the back office is to get it; null: it has it",
        ),
        sa.Column("hand_overs", sa.Integer(), server_default="0", nullable=False, comment="attempts"),
        sa.Column("hand_over_error", sa.Text(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False, comment="the parameters: JSON text as it came"),
        sa.Column(
            "answer",
            sa.LargeBinary(),
            nullable=True,
            comment="a partner's: our answer, byte for byte; ours: the data of the answer",
        ),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_calls_platform_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_calls")),
        sa.UniqueConstraint(
            "asked_here",
            "platform_id",
            "sender",
            "receiver",
            "callback_id",
            name=op.f("uq_calls_callback"),
        ),
        sa.UniqueConstraint(
            "asked_here",
            "platform_id",
            "sender",
            "receiver",
            "request_id",
            "digest",
            name=op.f("uq_calls_request"),
        ),
    )
    op.create_index(op.f("ix_calls_callback_id"), "calls", ["callback_id"])
    op.create_index(op.f("ix_calls_ended_at_deadline_at"), "calls", ["ended_at", "deadline_at"])
    op.create_index(op.f("ix_calls_hand_over_at"), "calls", ["hand_over_at"])
    op.create_table(
        "call_results",
        sa.Column("id", number, nullable=False),
        sa.Column("call_id", number, nullable=False),
        sa.Column("platform_id", number, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("meaning", sa.String(length=16), nullable=False),
        sa.Column("result_type", sa.String(length=16), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column(
            "delivery",
            sa.String(length=16),
            nullable=True,
            comment="ours: whether the partner has it; null: it is the partner's",
        ),
        sa.Column("due_at", sa.Float(), nullable=True, comment="when to deliver it next; null: not any more"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("settled_at", sa.Float(), nullable=True, comment="when its delivery was over"),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="the AsyncResponse, byte for byte"),
        sa.ForeignKeyConstraint(["call_id"], ["calls.id"], name=op.f("fk_call_results_call_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["platform_id"], ["platforms.id"], name=op.f("fk_call_results_platform_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_call_results")),
        comment="Results of calls: received from partners, and callbacks that are or were owed to them.",
    )
    op.create_index(op.f("ix_call_results_call_id"), "call_results", ["call_id"])
    op.create_index(op.f("ix_call_results_platform_id_due_at"), "call_results", ["platform_id", "due_at"])


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("call_results")
    op.drop_table("calls")
