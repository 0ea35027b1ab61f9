"""Imports of files, the kept files, their meters and days, and what an undo needs."""

import sqlalchemy as sa
from alembic import op

from app.db.types import Json, Text, UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_imports",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("file_name", Text, nullable=True),
        sa.Column("sha256", Text, nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("options", Json, nullable=False),
        sa.Column("profile", Text, nullable=True),
        sa.Column("status", Text, nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("on_problem", Text, nullable=False),
        sa.Column("progress", sa.Float(), nullable=False),
        sa.Column("rows_read", sa.Integer(), nullable=False),
        sa.Column("rows_refused", sa.Integer(), nullable=False),
        sa.Column("readings_accepted", sa.Integer(), nullable=False),
        sa.Column("readings_changed", sa.Integer(), nullable=False),
        sa.Column("meter_count", sa.Integer(), nullable=False),
        sa.Column("problems", Json, nullable=False),
        sa.Column("problem_count", sa.Integer(), nullable=False),
        sa.Column("rounded_count", sa.Integer(), nullable=False),
        sa.Column("detection", Text, nullable=True),
        sa.Column("starts_at", UtcDateTime(), nullable=True),
        sa.Column("ends_at", UtcDateTime(), nullable=True),
        sa.Column("error", Text, nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("completed_at", UtcDateTime(), nullable=True),
        sa.Column("stage", Text, nullable=False),
        sa.Column("checked_place", sa.Integer(), nullable=False),
        sa.Column("writes_meters", sa.Boolean(), nullable=False),
        sa.Column("queued_at", UtcDateTime(), nullable=True),
        sa.Column("leased_until", UtcDateTime(), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_file_imports_page", "file_imports", ["account_id", "id"])
    op.create_index(
        "ix_file_imports_queue",
        "file_imports",
        ["queued_at"],
        postgresql_where=sa.text("queued_at IS NOT NULL"),
        sqlite_where=sa.text("queued_at IS NOT NULL"),
    )
    op.create_table(
        "file_import_chunks",
        sa.Column("import_id", Text, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("import_id", "number"),
    )
    op.create_index("ix_file_import_chunks_created_at", "file_import_chunks", ["created_at"])
    op.create_table(
        "file_import_meters",
        sa.Column("import_id", Text, nullable=False),
        sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("meter_id", Text, nullable=True),
        sa.Column("customer_id", Text, nullable=True),
        sa.Column("number", Text, nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("file", Text, nullable=True),
        sa.Column("written", Json, nullable=False),
        sa.Column("preview", Json, nullable=True),
        sa.ForeignKeyConstraint(["import_id"], ["file_imports.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["meter_id"], ["meters.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("import_id", "place"),
    )
    op.create_index("ix_file_import_meters_meter", "file_import_meters", ["meter_id"])
    op.create_index("ix_file_import_meters_customer", "file_import_meters", ["customer_id", "number"])
    for table, own in (
        ("file_import_days", sa.Column("days", sa.Integer(), nullable=False)),
        ("file_import_changes", sa.Column("at_ms", sa.BigInteger(), nullable=False)),
    ):
        op.create_table(
            table,
            sa.Column("import_id", Text, nullable=False),
            sa.Column("place", sa.Integer(), autoincrement=False, nullable=False),
            sa.Column("channel", sa.SmallInteger(), autoincrement=False, nullable=False),
            sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
            own,
            sa.Column("packed", sa.LargeBinary(), nullable=False),
            sa.ForeignKeyConstraint(
                ["import_id", "place"],
                ["file_import_meters.import_id", "file_import_meters.place"],
                ondelete="CASCADE",
            ),
            sa.PrimaryKeyConstraint("import_id", "place", "channel", "number"),
        )


def downgrade() -> None:
    for table in (
        "file_import_changes",
        "file_import_days",
        "file_import_meters",
        "file_import_chunks",
        "file_imports",
    ):
        op.drop_table(table)
