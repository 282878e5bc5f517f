"""What a snapshot leaves out: when what an object tells of was over, and where each subscription began.

What is stored already keeps being owed in full: no module had objects that are ever over, and a ``first_seq`` of 0
says that everything changed after the first subscribe. No module had objects whose payload names whom they concern
either, so no audience has to be filled in.

SQLite gets the table of objects anew, once: a column that is added stands behind the payload, and would be reached
by reading through it, object by object, in every walk.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    concluded_at = sa.Column(
        "concluded_at",
        sa.Float(),
        nullable=True,
        comment="when what it tells of was over; null: it is not over, or never is",
    )
    if op.get_bind().dialect.name == "sqlite":
        with op.batch_alter_table("objects", recreate="always") as objects:
            objects.add_column(concluded_at, insert_before="stored_at")
    else:
        op.add_column("objects", concluded_at)
    op.add_column(
        "outbound_subscriptions",
        sa.Column(
            "first_seq",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="the log's end at the subscriber's first subscribe; what changed after it is always owed",
        ),
    )
    op.add_column(
        "outbound_subscriptions",
        sa.Column(
            "snapshot_from",
            sa.Float(),
            server_default="0",
            nullable=False,
            comment="up to first_seq, what was over by then is left out; stays as it is for a life",
        ),
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_column("outbound_subscriptions", "snapshot_from")
    op.drop_column("outbound_subscriptions", "first_seq")
    op.drop_column("objects", "concluded_at")
