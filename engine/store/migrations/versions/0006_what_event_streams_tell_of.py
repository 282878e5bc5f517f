"""What event streams tell of: calls and subscriptions in the order of their last change."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "events",
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", number, autoincrement=False, nullable=False),
        sa.Column("seq", number, nullable=False, comment="in the log `events`: its last change"),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_events")),
        sa.UniqueConstraint("seq", name=op.f("uq_events_seq")),
        comment="Calls and subscriptions in the order of their last change, for those who follow.",
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("events")
