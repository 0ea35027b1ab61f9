"""Feeds, their credentials' leases, the meters that they fetch, backfills with their parts, and gaps."""

import sqlalchemy as sa
from alembic import op

from app.db.types import Json, Text, UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "feeds",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("attention", Text, nullable=True),
        sa.Column("settings", Json, nullable=False),
        sa.Column("credentials_encrypted", Text, nullable=False),
        sa.Column("credential_key", Text, nullable=False),
        sa.Column("last_run_at", UtcDateTime(), nullable=True),
        sa.Column("checks_until", UtcDateTime(), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_feeds_page", "feeds", ["account_id", "id"])
    op.create_index("ix_feeds_credential", "feeds", ["credential_key"])
    op.create_table(
        "feed_credentials",
        sa.Column("key", Text, nullable=False),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("rests_until", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "meter_feeds",
        sa.Column("meter_id", Text, nullable=False),
        sa.Column("feed_id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("settings", Json, nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.Column("repair_at", UtcDateTime(), nullable=True),
        sa.Column("fetched_at", UtcDateTime(), nullable=True),
        sa.Column("starts_at", UtcDateTime(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("error", Text, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["feed_id"], ["feeds.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("meter_id"),
    )
    op.create_index("ix_meter_feeds_feed", "meter_feeds", ["feed_id", "meter_id"])
    _create_due_index("ix_meter_feeds_due", "meter_feeds", "due_at", "due_at IS NOT NULL")
    _create_due_index("ix_meter_feeds_repair", "meter_feeds", "repair_at", "repair_at IS NOT NULL")
    op.create_table(
        "backfills",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("meter_id", Text, nullable=False),
        sa.Column("feed_id", Text, nullable=True),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("readings_changed", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["feed_id"], ["feeds.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_backfills_page", "backfills", ["meter_id", "id"])
    op.create_index("ix_backfills_feed", "backfills", ["feed_id"])
    op.create_index(
        "ux_backfills_unfinished",
        "backfills",
        ["meter_id"],
        unique=True,
        postgresql_where=sa.text("completed_at IS NULL"),
        sqlite_where=sa.text("completed_at IS NULL"),
    )
    _create_due_index("ix_backfills_due", "backfills", "due_at", "completed_at IS NULL")
    op.create_table(
        "backfill_parts",
        sa.Column("backfill_id", Text, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("starts_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("readings_changed", sa.Integer(), nullable=False),
        sa.Column("missing", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", Text, nullable=True),
        sa.ForeignKeyConstraint(["backfill_id"], ["backfills.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("backfill_id", "number"),
    )
    op.create_table(
        "feed_gaps",
        sa.Column("meter_id", Text, nullable=False),
        sa.Column("channel", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("first", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("after", sa.Integer(), nullable=False),
        sa.Column("cause", Text, nullable=True),
        sa.Column("found_at", UtcDateTime(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("meter_id", "channel", "first"),
    )


def _create_due_index(name: str, table: str, column: str, condition: str) -> None:
    due = sa.text(condition)
    op.create_index(name, table, ["feed_id", column], postgresql_where=due, sqlite_where=due)


def downgrade() -> None:
    for table in ("feed_gaps", "backfill_parts", "backfills", "meter_feeds", "feed_credentials", "feeds"):
        op.drop_table(table)
