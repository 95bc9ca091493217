"""Reports can be searched in SQL: which version is current, and by what it is found"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("reports", sa.Column("is_current", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.create_index("ix_reports_shown", "reports", ["resource_type", "is_current", "updated_at", "resource_id"])
    op.create_table(
        "report_tokens",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("report_id", sa.Integer(), nullable=False),
        sa.Column("parameter", sa.String(length=32), nullable=False),
        sa.Column("system", sa.String(length=255), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.ForeignKeyConstraint(["report_id"], ["reports.id"], name=op.f("fk_report_tokens_report_id_reports")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report_tokens")),
    )
    op.create_index(op.f("ix_report_tokens_report_id"), "report_tokens", ["report_id"])
    op.create_index("ix_report_tokens_value", "report_tokens", ["parameter", "value"])
    reports = sa.table(
        "reports", sa.column("resource_type"), sa.column("resource_id"), sa.column("version"), sa.column("is_current")
    )
    newer = reports.alias("newer")
    is_older = sa.exists().where(
        newer.c.resource_type == reports.c.resource_type,
        newer.c.resource_id == reports.c.resource_id,
        newer.c.version > reports.c.version,
    )
    op.execute(sa.update(reports).where(is_older).values(is_current=sa.false()))
