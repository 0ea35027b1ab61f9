"""The request of each attempt: its headers, and a digest of its body."""

import sqlalchemy as sa
from alembic import op

from app.db.types import Text

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("delivery_attempts", sa.Column("request_headers", Text, nullable=True))
    op.add_column("delivery_attempts", sa.Column("request_digest", Text, nullable=True))


def downgrade() -> None:
    op.drop_column("delivery_attempts", "request_digest")
    op.drop_column("delivery_attempts", "request_headers")
