"""Several processes: leases with a host and a process number, claims, revisions, and confirmed ends."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("processes", sa.Column("host", sa.String(length=255), nullable=True))
    op.add_column("processes", sa.Column("pid", sa.BigInteger(), nullable=True))
    op.create_table(
        "claims",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", number, autoincrement=False, nullable=False),
        sa.Column("process_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(
            ["process_id"], ["processes.id"], name=op.f("fk_claims_process_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_claims")),
        comment="What one process does and the others leave alone; void with the lease of its process.",
    )
    op.create_table(
        "revisions",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", name=op.f("pk_revisions")),
        comment="Raised with what other processes have in memory; who missed a notification sees it here.",
    )
    op.add_column(
        "outbound_subscriptions",
        sa.Column(
            "confirmed_epoch",
            sa.Integer(),
            server_default="-1",
            nullable=False,
            comment="the owner, told by another process of an end, begins nothing more since this epoch",
        ),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_column("outbound_subscriptions", "confirmed_epoch")
    op.drop_table("revisions")
    op.drop_table("claims")
    op.drop_column("processes", "pid")
    op.drop_column("processes", "host")
