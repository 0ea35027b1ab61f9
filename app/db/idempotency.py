"""Stored successes of mutations with an idempotency key."""

from datetime import datetime

from sqlalchemy import update
from sqlmodel import Field, SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.db.types import Text, UtcDateTime


class IdempotentMutation(SQLModel, table=True):
    """A success. The row is the first write of the mutation's transaction, so that a concurrent twin waits for it."""

    __tablename__ = "idempotent_mutations"

    account_id: str = Field(primary_key=True, foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    mutation: str = Field(primary_key=True, sa_type=Text)
    key: str = Field(primary_key=True, sa_type=Text)
    input_hash: str = Field(sa_type=Text)
    payload_encrypted: str | None = Field(default=None, sa_type=Text)
    # The customer that the payload is about: it is forgotten with the customer.
    customer_id: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime, index=True)


async def forget_successes(session: AsyncSession, account_id: str, customer_id: str) -> None:
    """Forgets the stored payloads about a deleted customer, and the hashes of their inputs.

    The keys stay and match no input: a late repetition of the request does not create the customer again.
    """
    await session.execute(
        update(IdempotentMutation)
        .where(
            col(IdempotentMutation.account_id) == account_id,
            col(IdempotentMutation.customer_id) == customer_id,
        )
        .values(input_hash="", payload_encrypted=None),
        execution_options={"synchronize_session": False},
    )
