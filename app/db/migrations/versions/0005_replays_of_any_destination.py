"""Replays to a destination of any kind: their reference to webhook endpoints becomes a plain id.

The column keeps its name, so that processes of the version before work on during a deploy.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# PostgreSQL's own name for the reference; SQLite gave it none.
_NAMES = {"fk": "%(table_name)s_%(column_0_name)s_fkey"}


def upgrade() -> None:
    with op.batch_alter_table("replays", naming_convention=_NAMES) as batch:
        batch.drop_constraint("replays_webhook_endpoint_id_fkey", type_="foreignkey")


def downgrade() -> None:
    with op.batch_alter_table("replays", naming_convention=_NAMES) as batch:
        batch.create_foreign_key(
            "replays_webhook_endpoint_id_fkey",
            "webhook_endpoints",
            ["webhook_endpoint_id"],
            ["id"],
            ondelete="CASCADE",
        )
