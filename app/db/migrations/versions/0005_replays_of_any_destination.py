"""Replays to a destination of any kind: their reference to webhook endpoints becomes a plain id."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# PostgreSQL's own name for the reference; SQLite gave it none.
_NAMES = {"fk": "%(table_name)s_%(column_0_name)s_fkey"}


def upgrade() -> None:
    op.drop_index("ix_replays_webhook_endpoint_id", "replays")
    with op.batch_alter_table("replays", naming_convention=_NAMES) as batch:
        batch.drop_constraint("replays_webhook_endpoint_id_fkey", type_="foreignkey")
        batch.alter_column("webhook_endpoint_id", new_column_name="destination_id")
    op.create_index("ix_replays_destination_id", "replays", ["destination_id"])


def downgrade() -> None:
    op.drop_index("ix_replays_destination_id", "replays")
    with op.batch_alter_table("replays", naming_convention=_NAMES) as batch:
        batch.alter_column("destination_id", new_column_name="webhook_endpoint_id")
        batch.create_foreign_key(
            "replays_webhook_endpoint_id_fkey",
            "webhook_endpoints",
            ["webhook_endpoint_id"],
            ["id"],
            ondelete="CASCADE",
        )
    op.create_index("ix_replays_webhook_endpoint_id", "replays", ["webhook_endpoint_id"])
