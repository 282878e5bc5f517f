"""A mark by which an older database is known. There is none yet: a database from before this is taken as it is."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision."""
    op.create_table(
        "marks",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="1: there is one row, or none yet"),
        sa.Column(
            "mark",
            sa.String(length=36),
            nullable=False,
            comment="random, renewed often; the platform's folder knows it too",
        ),
        sa.Column(
            "restored",
            sa.JSON(),
            nullable=True,
            comment="when this was last taken for an older database, by whom, and what was done",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_marks")),
        comment="A mark that the folder does not know is that of an older database: a backup, a replica that lagged.",
    )


def downgrade() -> None:
    """Go back to the revision before."""
    op.drop_table("marks")
