"""Customers: the people and companies whose meters an account works with."""

from datetime import datetime
from typing import Any, ClassVar, Final

from sqlalchemy import ColumnElement, Index, bindparam, select, text
from sqlmodel import Field, SQLModel, col

from app.auth.actor import Actor
from app.core import clock
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime
from app.events.catalogue import REDACTED


class Customer(SQLModel, table=True):
    __tablename__ = "customers"
    __table_args__ = (
        # Addresses are unique whatever their case.
        Index("uq_customers_email", "account_id", text("lower(email)"), unique=True),
        Index("ix_customers_page", "account_id", "id"),
    )

    # Replacements of personal values where a deleted customer is still shown.
    personal: ClassVar[dict[str, Any]] = {
        "name": REDACTED,
        "email": REDACTED,
        "address": None,
        "logo_url": None,
        "labels": {},
    }

    id: str = Field(default_factory=lambda: new_id("cus"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    name: str = Field(sa_type=Text)
    email: str = Field(sa_type=Text)
    address: str | None = Field(default=None, sa_type=Text)
    logo_url: str | None = Field(default=None, sa_type=Text)
    # "metadata" is a reserved name of declarative models, so the attribute is called labels.
    labels: dict[str, str] = Field(default_factory=dict, sa_type=Json, sa_column_kwargs={"name": "metadata"})
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        table = cls.__table__.c  # type: ignore[attr-defined]
        mine: ColumnElement[bool] = table.account_id == actor.account_id
        return mine if actor.sees_whole_account else mine & (table.id == actor.customer_id)


EXISTING_CUSTOMERS: Final = select(col(Customer.id)).where(
    col(Customer.id).in_(bindparam("ids", expanding=True))
)
"""Selects those of the customers with these `ids` that exist."""
