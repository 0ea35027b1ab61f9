"""Destinations (webhook endpoints, email subscriptions), deliveries to them with every attempt, replays, other mail."""

import enum
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from app.auth.actor import AccountWide
from app.core import clock
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime


class EndpointStatus(enum.Enum):
    """Whether a webhook endpoint takes deliveries."""

    ENABLED = "ENABLED"
    """Gets the events from its enabling on."""
    DISABLED = "DISABLED"
    """Gets nothing, by the account or because it failed for good."""


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


class DeliveryStatus(enum.Enum):
    """FAILED will be tried again; EXHAUSTED will not; CANCELLED: its destination went away first."""

    PENDING = "PENDING"
    """Waits for its first attempt, or for that of a retry by hand."""
    SUCCEEDED = "SUCCEEDED"
    """Its destination has taken it."""
    FAILED = "FAILED"
    """Its last attempt failed, and another will follow."""
    EXHAUSTED = "EXHAUSTED"
    """Its last attempt failed, and none will follow by itself."""
    CANCELLED = "CANCELLED"
    """Its destination went away, or a replay took its place, before it succeeded."""


class Lane(enum.IntEnum):
    """The queue of its destination that a delivery waits in; each of them moves on whatever the others hold."""

    FRESH = 0
    RETRY = 1
    REPLAY = 2
    # Not the sender's, but what waits to become one mail with others.
    DIGEST = 3


class Digest(enum.Enum):
    """How often a subscription's mails come: each event at once, or one mail for an hour's or a day's."""

    IMMEDIATE = "IMMEDIATE"
    """One mail for each event, at once."""
    HOURLY = "HOURLY"
    """One mail for the events of an hour, on the hour."""
    DAILY = "DAILY"
    """One mail for the events of a day, at 07:00 in the United Kingdom."""


class ReplayStatus(enum.Enum):
    """How far a replay is."""

    RUNNING = "RUNNING"
    """Deliveries are yet to be made or to end."""
    DONE = "DONE"
    """All of its deliveries have ended."""
    CANCELLED = "CANCELLED"
    """Its endpoint was disabled first."""


class WebhookEndpoint(AccountWide, SQLModel, table=True):
    """A URL of a backend. It gets the events after `first_sequence`: the account's last one when it was enabled."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_page", "account_id", "id"),)

    id: str = Field(default_factory=lambda: new_id("whe"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    url: str = Field(sa_type=Text)
    description: str | None = Field(default=None, sa_type=Text)
    event_types: list[str] | None = Field(default=None, sa_type=Json)
    # As `app.delivery.queue.filters` stores it.
    filter: dict[str, Any] | None = Field(default=None, sa_type=Json)
    # A GraphQL selection on Event, whose result is sent instead of the catalogue's data.
    selection: str | None = Field(default=None, sa_type=Text)
    # Names to masked values, to be shown; the real ones are encrypted.
    headers: dict[str, str] | None = Field(default=None, sa_type=Json)
    headers_encrypted: str | None = Field(default=None, sa_type=Text)
    # Whether each delivery waits until the one before it has ended, and how many may begin in a second.
    ordered: bool = False
    rate_limit: int | None = None
    # With a rate it is sent to by one worker at a time: by this one, until then.
    held_by: str | None = Field(default=None, sa_type=Text)
    held_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    status: str = Field(default=EndpointStatus.ENABLED.value, sa_type=Text)
    disabled_reason: str | None = Field(default=None, sa_type=Text)
    disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    first_sequence: int = Field(sa_type=BigInteger)
    # Encrypted whsec_ secrets and whsk_ keys; the previous ones sign as well until their overlap ends.
    secret_encrypted: str = Field(sa_type=Text)
    signing_key_encrypted: str = Field(sa_type=Text)
    public_key: str = Field(sa_type=Text)
    previous_secret_encrypted: str | None = Field(default=None, sa_type=Text)
    previous_signing_key_encrypted: str | None = Field(default=None, sa_type=Text)
    previous_secret_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # Until when nothing is sent, because the receiver asked for it.
    paused_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_success_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # When the first attempt after the last success failed, how many have since, and when its people were told.
    failing_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failures: int = Field(default=0, sa_type=BigInteger)
    told_failing_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    told_disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class EmailSubscription(AccountWide, SQLModel, table=True):
    """A person's address. It gets the events after `first_sequence`: the account's last one when it was confirmed."""

    __tablename__ = "email_subscriptions"
    __table_args__ = (Index("ix_email_subscriptions_page", "account_id", "id"),)

    id: str = Field(default_factory=lambda: new_id("ems"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    email: str = Field(sa_type=Text)
    description: str | None = Field(default=None, sa_type=Text)
    event_types: list[str] | None = Field(default=None, sa_type=Json)
    filter: dict[str, Any] | None = Field(default=None, sa_type=Json)
    digest: str = Field(default=Digest.IMMEDIATE.value, sa_type=Text)
    status: str = Field(default=EmailSubscriptionStatus.PENDING.value, sa_type=Text)
    suspended_reason: str | None = Field(default=None, sa_type=Text)
    first_sequence: int | None = Field(default=None, sa_type=BigInteger)
    confirm_hash: str | None = Field(default=None, sa_type=Text, unique=True)
    confirm_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    confirm_sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class Delivery(AccountWide, SQLModel, table=True):
    """One event on its way to one destination. `replay_id` is empty for the delivery that the event itself made.

    `due_at` is null once nothing more will be tried. A claim is a lease until `leased_until` with a `fence` that
    counts up: who records an outcome must hold the fence it claimed with.
    """

    __tablename__ = "deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "destination_id", "replay_id", name="uq_deliveries_once"),
        Index("ix_deliveries_page", "account_id", "id"),
        Index("ix_deliveries_destination", "destination_id", "id"),
        Index("ix_deliveries_event", "account_id", "event_sequence"),
        Index(
            "ix_deliveries_replay",
            "replay_id",
            sqlite_where=text("replay_id <> ''"),
            postgresql_where=text("replay_id <> ''"),
        ),
        Index(
            "ix_deliveries_due",
            "destination_id",
            "lane",
            "due_at",
            "id",
            sqlite_where=text("due_at IS NOT NULL"),
            postgresql_where=text("due_at IS NOT NULL"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("dlv"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    # A test event has no place in the log: its sequence is null, its content in `test_event`.
    event_id: str = Field(sa_type=Text)
    event_sequence: int | None = Field(default=None, sa_type=BigInteger)
    event_type: str = Field(sa_type=Text)
    test_event: dict[str, Any] | None = Field(default=None, sa_type=Json)
    # The id of a webhook endpoint or an email subscription.
    destination_id: str = Field(sa_type=Text)
    replay_id: str = Field(default="", sa_type=Text)
    status: str = Field(default=DeliveryStatus.PENDING.value, sa_type=Text)
    lane: int = Lane.FRESH
    # The first delivery of the digest that this one is in; they are one mail through all attempts.
    digest_id: str | None = Field(default=None, sa_type=Text)
    # What is sent, from the first attempt on. Empty: what the event alone makes, which is the same whenever it is made.
    body: bytes | None = Field(default=None, sa_type=LargeBinary)
    attempts_made: int = 0
    # Attempts of the schedule are counted from here, so that a retry by hand after EXHAUSTED starts it anew.
    schedule_start: int = 0
    due_at: datetime | None = Field(default_factory=clock.now, sa_type=UtcDateTime)
    leased_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    fence: int = Field(default=0, sa_type=BigInteger)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class DeliveryAttempt(SQLModel, table=True):
    __tablename__ = "delivery_attempts"

    delivery_id: str = Field(primary_key=True, foreign_key="deliveries.id", sa_type=Text, ondelete="CASCADE")
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at: datetime = Field(sa_type=UtcDateTime)
    duration_ms: int
    outcome: str = Field(sa_type=Text)  # a name of AttemptOutcome
    response_status: int | None = None
    response_body: str | None = Field(default=None, sa_type=Text)
    error: str | None = Field(default=None, sa_type=Text)
    # JSON of the headers that were sent, values of the account's own masked; and `bodies.digest_of` the body, by which
    # it is known whether it can still be made as it was. Both null for a mail, and where nothing could be sent.
    request_headers: str | None = Field(default=None, sa_type=Text)
    request_digest: str | None = Field(default=None, sa_type=Text)


class Replay(AccountWide, SQLModel, table=True):
    """Events sent to one endpoint again: those in (after, through], or those whose delivery failed since a time."""

    __tablename__ = "replays"

    id: str = Field(default_factory=lambda: new_id("rpl"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    webhook_endpoint_id: str = Field(
        foreign_key="webhook_endpoints.id", sa_type=Text, ondelete="CASCADE", index=True
    )
    # How far the replay's deliveries have been made, and where it ends.
    position: int = Field(sa_type=BigInteger)
    through: int = Field(sa_type=BigInteger)
    failed_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    is_cancelled: bool = False
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
