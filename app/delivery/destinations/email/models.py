"""Email subscriptions, as rows."""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from app.core.ids import new_id
from app.db.types import Text, UtcDateTime
from app.delivery.queue.models import Destination


class EmailSubscriptionStatus(enum.Enum):
    """Whether an email subscription gets mails."""

    PENDING = "PENDING"
    """The address has not confirmed yet, and gets nothing but the confirmation."""
    ACTIVE = "ACTIVE"
    """Gets the events from its confirmation on."""
    UNSUBSCRIBED = "UNSUBSCRIBED"
    """The address has ended it, and brings it back by the link of an earlier confirmation mail."""
    SUSPENDED = "SUSPENDED"
    """The mail server refused the address for good."""


class Digest(enum.Enum):
    """How often a subscription's mails come: each event at once, or one mail for an hour's or a day's."""

    IMMEDIATE = "IMMEDIATE"
    """One mail for each event, at once."""
    HOURLY = "HOURLY"
    """One mail for the events of an hour, on the hour."""
    DAILY = "DAILY"
    """One mail for the events of a day, at 07:00 in the United Kingdom."""


class EmailSubscription(Destination, table=True):
    """A person's address. It gets the events after `first_sequence`, the account's last event when it was confirmed."""

    __tablename__ = "email_subscriptions"
    __table_args__ = (Index("ix_email_subscriptions_page", "account_id", "id"),)

    id: str = Field(default_factory=lambda: new_id("ems"), primary_key=True, sa_type=Text)
    email: str = Field(sa_type=Text)
    digest: str = Field(default=Digest.IMMEDIATE.value, sa_type=Text)
    status: str = Field(default=EmailSubscriptionStatus.PENDING.value, sa_type=Text)
    suspended_reason: str | None = Field(default=None, sa_type=Text)
    first_sequence: int | None = Field(default=None, sa_type=BigInteger)
    confirm_hash: str | None = Field(default=None, sa_type=Text, unique=True)
    confirm_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    confirm_sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
