"""Which worker reads a study, and how many died of it"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("reader", sa.String(length=64), nullable=True))
    op.add_column("studies", sa.Column("reader_deaths", sa.Integer(), server_default="0", nullable=False))
