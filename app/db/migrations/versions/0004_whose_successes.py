"""Which customer a stored success of a mutation is about, so that it goes with the customer."""

import sqlalchemy as sa
from alembic import op

from app.db.types import Text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotent_mutations", sa.Column("customer_id", Text, nullable=True))


def downgrade() -> None:
    op.drop_column("idempotent_mutations", "customer_id")
