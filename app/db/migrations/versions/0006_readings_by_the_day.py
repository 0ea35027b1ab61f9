"""Readings by the day: days, what later ones replaced, and the numbers of meters. The worker carries readings over."""

from datetime import date

import sqlalchemy as sa
from alembic import op

from app.db.types import Text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_YEARS = range(2015, 2036)


def upgrade() -> None:
    op.create_table(
        "meter_keys",
        sa.Column("key", sa.Integer(), nullable=False),
        sa.Column("meter_id", Text, nullable=False),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key"),
        sa.UniqueConstraint("meter_id"),
    )
    op.create_table(
        "reading_days",
        sa.Column("meter_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("channel", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.SmallInteger(), nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.Column("origins", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["meter_key"], ["meter_keys.key"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("meter_key", "channel", "day"),
        sqlite_with_rowid=False,
        postgresql_partition_by="RANGE (day)",
    )
    op.create_table(
        "reading_revisions",
        sa.Column("meter_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("channel", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.SmallInteger(), nullable=False),
        sa.Column("replaced_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.Column("origins", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["meter_key"], ["meter_keys.key"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("meter_key", "channel", "replaced_ms", "day"),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        for year in _YEARS:
            first, after = ((date(one, 1, 1) - date(1970, 1, 1)).days for one in (year, year + 1))
            op.execute(
                f"CREATE TABLE reading_days_{year} PARTITION OF reading_days FOR VALUES FROM ({first}) TO ({after}) "
                "WITH (fillfactor = 90)"
            )
        op.execute(
            "CREATE TABLE reading_days_default PARTITION OF reading_days DEFAULT WITH (fillfactor = 90)"
        )


def downgrade() -> None:
    op.drop_table("reading_revisions")
    op.drop_table("reading_days")
    op.drop_table("meter_keys")
