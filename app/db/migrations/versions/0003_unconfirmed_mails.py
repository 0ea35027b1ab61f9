"""Limits on mails to addresses that have not confirmed, a suppression list, and addresses of users that have."""

import sqlalchemy as sa
from alembic import op

from app.db.types import Text, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unconfirmed_mails",
        sa.Column("id", Text, nullable=False),
        sa.Column("account_id", Text, nullable=False),
        sa.Column("mailbox_hash", Text, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_unconfirmed_mails_mailbox", "unconfirmed_mails", ["mailbox_hash", "created_at"])
    op.create_table(
        "mail_suppressions",
        sa.Column("account_id", Text, nullable=False),
        sa.Column("address_hash", Text, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("lifted_at", UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("account_id", "address_hash"),
    )
    op.add_column("outgoing_mails", sa.Column("about_id", Text, nullable=True))
    op.create_index("ix_outgoing_mails_about", "outgoing_mails", ["about_id"])
    op.add_column("webhook_endpoints", sa.Column("told_disabled_at", UtcDateTime(), nullable=True))
    op.add_column("users", sa.Column("asked_at", UtcDateTime(), nullable=True))
    op.add_column("users", sa.Column("email_confirmed_at", UtcDateTime(), nullable=True))


def downgrade() -> None:
    op.drop_column("users", "email_confirmed_at")
    op.drop_column("users", "asked_at")
    op.drop_column("webhook_endpoints", "told_disabled_at")
    op.drop_index("ix_outgoing_mails_about", "outgoing_mails")
    op.drop_column("outgoing_mails", "about_id")
    op.drop_table("mail_suppressions")
    op.drop_table("unconfirmed_mails")
