"""What the API itself keeps: the successes of mutations that came with an idempotency key."""

from datetime import datetime

from sqlmodel import Field, SQLModel

from app import clock
from app.database import Text, UtcDateTime


class IdempotentMutation(SQLModel, table=True):
    """Its row is the first of the mutation's transaction, so that a concurrent twin waits for the outcome."""

    __tablename__ = "idempotent_mutations"

    account_id: str = Field(primary_key=True, foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    mutation: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    input_hash: str = Field(sa_type=Text)
    payload_encrypted: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime, index=True)
