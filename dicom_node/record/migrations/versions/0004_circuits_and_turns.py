"""Circuits of destinations, and whose turn a study is"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "circuits",
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.String(length=32), nullable=True),
        sa.Column("probe_at", sa.String(length=32), nullable=True),
        sa.Column("pause_s", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_circuits")),
    )
    op.add_column("studies", sa.Column("submitter", sa.String(length=64), nullable=True))
    op.add_column("studies", sa.Column("turn", sa.Integer(), nullable=True))
