"""Consents that run out and meters that fall silent raise events, from this upgrade on."""

import sqlalchemy as sa
from alembic import op

from app.core import clock
from app.db.types import Text, UtcDateTime

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TYPES = ("hosted_consent.expired", "meter_data.overdue")


def upgrade() -> None:
    since = op.create_table(
        "raised_since",
        sa.Column("type", Text, nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("type"),
    )
    at = clock.now()
    op.bulk_insert(since, [{"type": one, "since": at} for one in _TYPES])
    op.add_column("hosted_consents", sa.Column("expiry_raised_at", UtcDateTime(), nullable=True))
    unraised = sa.text("decision = 'APPROVED' AND expiry_raised_at IS NULL")
    op.create_index(
        "ix_hosted_consents_expiring",
        "hosted_consents",
        ["expires_at", "id"],
        postgresql_where=unraised,
        sqlite_where=unraised,
    )
    op.add_column("meters", sa.Column("enabled_at", UtcDateTime(), nullable=True))
    # A meter that gets a key is looked at by the worker at once.
    op.add_column("meter_keys", sa.Column("look_ms", sa.BigInteger(), nullable=False, server_default="0"))
    op.create_index("ix_meter_keys_look", "meter_keys", ["look_ms", "key"])
    op.create_table(
        "told_silences",
        sa.Column("meter_key", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("channel", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("recorded_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["meter_key"], ["meter_keys.key"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("meter_key", "channel"),
    )


def downgrade() -> None:
    op.drop_table("told_silences")
    op.drop_index("ix_meter_keys_look", "meter_keys")
    op.drop_column("meter_keys", "look_ms")
    op.drop_column("meters", "enabled_at")
    op.drop_index("ix_hosted_consents_expiring", "hosted_consents")
    op.drop_column("hosted_consents", "expiry_raised_at")
    op.drop_table("raised_since")
