"""Destinations, deliveries with their attempts, and replays: the same for every kind of destination."""

import enum
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, LargeBinary, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from app.auth.actor import AccountWide
from app.core import clock
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime


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
    """A queue of one destination; none of its queues waits for another."""

    FRESH = 0
    RETRY = 1
    REPLAY = 2
    # Deliveries that wait to be sent together; the sender leaves them to their kind.
    DIGEST = 3


class ReplayStatus(enum.Enum):
    """How far a replay is."""

    RUNNING = "RUNNING"
    """Deliveries are yet to be made or to end."""
    DONE = "DONE"
    """All of its deliveries have ended."""
    CANCELLED = "CANCELLED"
    """Its endpoint was disabled first."""


class Destination(AccountWide, SQLModel):
    """The columns of every destination, beside its id, its status and its `first_sequence`."""

    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    description: str | None = Field(default=None, sa_type=Text)
    event_types: list[str] | None = Field(default=None, sa_type=Json)
    # As `filters` stores it.
    filter: dict[str, Any] | None = Field(default=None, sa_type=Json)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class Delivery(AccountWide, SQLModel, table=True):
    """An event on its way to one destination. `replay_id` is empty for the delivery that the event itself made.

    `due_at` is null once nothing more will be tried. A claim is a lease until `leased_until` with a `fence` that
    counts up: an outcome is recorded only under the fence that its claim got.
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
    # Its prefix tells the kind of the destination.
    destination_id: str = Field(sa_type=Text)
    replay_id: str = Field(default="", sa_type=Text)
    status: str = Field(default=DeliveryStatus.PENDING.value, sa_type=Text)
    lane: int = Lane.FRESH
    # The first delivery of the digest that this one is in; they are one mail through all attempts.
    digest_id: str | None = Field(default=None, sa_type=Text)
    # The body, from the first attempt on. Empty: the event alone makes it, the same whenever it is made.
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
    # JSON of the headers that were sent, values of the account's own masked; and the body's digest, which tells
    # whether the body can still be made as it was. Both null for a mail, and where nothing could be sent.
    request_headers: str | None = Field(default=None, sa_type=Text)
    request_digest: str | None = Field(default=None, sa_type=Text)


class Replay(AccountWide, SQLModel, table=True):
    """Sends events to one destination again: those in (after, through], or those whose delivery failed since a time."""

    __tablename__ = "replays"

    id: str = Field(default_factory=lambda: new_id("rpl"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    # The column's name is from when only webhook endpoints had replays.
    destination_id: str = Field(sa_type=Text, index=True, sa_column_kwargs={"name": "webhook_endpoint_id"})
    # How far the replay's deliveries have been made, and where it ends.
    position: int = Field(sa_type=BigInteger)
    through: int = Field(sa_type=BigInteger)
    failed_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    is_cancelled: bool = False
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
