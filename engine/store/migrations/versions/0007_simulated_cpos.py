"""Simulated CPOs: what they remember."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "simulations",
        sa.Column("party", sa.String(length=5), nullable=False),
        sa.Column("kept", sa.LargeBinary(), nullable=False, comment="its state, and what it wants done; JSON"),
        sa.PrimaryKeyConstraint("party", name=op.f("pk_simulations")),
        comment="Simulated CPOs, by the party that they play.",
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("simulations")
