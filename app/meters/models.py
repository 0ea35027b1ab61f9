"""Meters, unique by number within a customer."""

from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import ColumnElement, Index, UniqueConstraint, select
from sqlmodel import Field, SQLModel, col

from app.auth.actor import Actor
from app.consents.models import ConsentMeter
from app.core import clock
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime
from app.events.catalogue import REDACTED
from app.meters.enums import DataSource


class MeterFlags(NamedTuple):
    """The columns of a meter that decide its status together with its consent."""

    is_disabled: bool
    has_invalid_number: bool


class Meter(SQLModel, table=True):
    """A meter never changes its customer or number. Its consent and status follow from `consent_meters`."""

    __tablename__ = "meters"
    __table_args__ = (
        UniqueConstraint("customer_id", "number", name="uq_meters_number"),
        Index("ix_meters_page", "account_id", "id"),
        Index("ix_meters_customer", "customer_id", "id"),
        Index("ix_meters_number", "account_id", "number"),
    )

    # Replacements of personal values where a deleted customer's meter is still shown.
    personal: ClassVar[dict[str, Any]] = {
        "number": REDACTED,
        "description": None,
        "address": None,
        "labels": {},
    }

    id: str = Field(default_factory=lambda: new_id("mtr"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    customer_id: str = Field(foreign_key="customers.id", sa_type=Text, ondelete="CASCADE")
    number: str = Field(sa_type=Text)
    type: str = Field(sa_type=Text)  # a name of MeterType
    description: str | None = Field(default=None, sa_type=Text)
    address: str | None = Field(default=None, sa_type=Text)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=Json, sa_column_kwargs={"name": "metadata"})
    data_source: str = Field(default=DataSource.API.name, sa_type=Text)
    is_disabled: bool = False
    has_invalid_number: bool = False
    # When it was last enabled after it had been disabled.
    enabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        table = cls.__table__.c  # type: ignore[attr-defined]
        mine: ColumnElement[bool] = table.account_id == actor.account_id
        if actor.consent_id is not None:
            covered = select(col(ConsentMeter.meter_id)).where(
                col(ConsentMeter.hosted_consent_id) == actor.consent_id
            )
            return mine & table.id.in_(covered)  # type: ignore[no-any-return]
        return mine if actor.sees_whole_account else mine & (table.customer_id == actor.customer_id)
