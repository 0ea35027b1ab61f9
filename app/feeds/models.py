"""Feeds, the meters that they fetch, backfills with their parts, and gaps that are asked for again."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, SmallInteger, text
from sqlmodel import Field, SQLModel

from app.auth.actor import AccountWide
from app.core import clock
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime
from app.feeds.enums import BackfillStatus, FeedStatus


class Feed(AccountWide, SQLModel, table=True):
    """A source with an account's credentials. Feeds with equal credentials share a `credential_key`."""

    __tablename__ = "feeds"
    __table_args__ = (
        Index("ix_feeds_page", "account_id", "id"),
        Index("ix_feeds_credential", "credential_key"),
    )

    id: str = Field(default_factory=lambda: new_id("fed"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    kind: str = Field(sa_type=Text)  # a name of FeedKind
    name: str = Field(sa_type=Text)
    status: str = Field(default=FeedStatus.ACTIVE.name, sa_type=Text)
    attention: str | None = Field(default=None, sa_type=Text)
    settings: dict[str, str] = Field(default_factory=dict, sa_type=Json)
    credentials_encrypted: str = Field(sa_type=Text)
    credential_key: str = Field(sa_type=Text)
    last_run_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # When all that counts against the limit on checkFeed is over.
    checks_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class FeedCredential(SQLModel, table=True):
    """The lease of a credential, with which one worker at a time asks its source. It may have to rest."""

    __tablename__ = "feed_credentials"

    key: str = Field(primary_key=True, sa_type=Text)
    leased_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    rests_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    fence: int = Field(default=0, sa_type=BigInteger)
    # Failures in a row that were the source's, by which the pauses grow.
    failures: int = 0


class MeterFeed(SQLModel, table=True):
    """The feed of a meter, when it is to be fetched next, and when it is to be asked for its gaps again.

    Both are null while nothing is due without a valid consent. The worker sets them: `due_at` once a part of a backfill
    is recorded. The source has no readings before `starts_at`; `error` is its last refusal of the meter.
    """

    __tablename__ = "meter_feeds"
    __table_args__ = (
        Index("ix_meter_feeds_feed", "feed_id", "meter_id"),
        Index(
            "ix_meter_feeds_due",
            "feed_id",
            "due_at",
            postgresql_where=text("due_at IS NOT NULL"),
            sqlite_where=text("due_at IS NOT NULL"),
        ),
        Index(
            "ix_meter_feeds_repair",
            "feed_id",
            "repair_at",
            postgresql_where=text("repair_at IS NOT NULL"),
            sqlite_where=text("repair_at IS NOT NULL"),
        ),
    )

    meter_id: str = Field(primary_key=True, foreign_key="meters.id", sa_type=Text, ondelete="CASCADE")
    feed_id: str = Field(foreign_key="feeds.id", sa_type=Text, ondelete="CASCADE")
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    settings: dict[str, str] = Field(default_factory=dict, sa_type=Json)
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    repair_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    fetched_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    starts_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failures: int = 0
    error: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class Backfill(AccountWide, SQLModel, table=True):
    """A backfill of a meter over `[starts_at, ends_at)`, newest part first. At most one of a meter is unfinished.

    Its first unfinished part is fetched at `due_at`. After each part it queues behind those of other meters.
    """

    __tablename__ = "backfills"
    __table_args__ = (
        Index("ix_backfills_page", "meter_id", "id"),
        Index("ix_backfills_feed", "feed_id"),
        Index(
            "ux_backfills_unfinished",
            "meter_id",
            unique=True,
            postgresql_where=text("completed_at IS NULL"),
            sqlite_where=text("completed_at IS NULL"),
        ),
        Index(
            "ix_backfills_due",
            "feed_id",
            "due_at",
            postgresql_where=text("completed_at IS NULL"),
            sqlite_where=text("completed_at IS NULL"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("bkf"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    meter_id: str = Field(foreign_key="meters.id", sa_type=Text, ondelete="CASCADE")
    # Null once the feed is deleted.
    feed_id: str | None = Field(default=None, foreign_key="feeds.id", sa_type=Text, ondelete="SET NULL")
    starts_at: datetime = Field(sa_type=UtcDateTime)
    ends_at: datetime = Field(sa_type=UtcDateTime)
    status: str = Field(default=BackfillStatus.WAITING.name, sa_type=Text)
    readings_changed: int = 0
    due_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class BackfillPart(SQLModel, table=True):
    """A part of a backfill, counted from 1, the newest first; `missing` counts half-hours that it did not get."""

    __tablename__ = "backfill_parts"

    backfill_id: str = Field(primary_key=True, foreign_key="backfills.id", sa_type=Text, ondelete="CASCADE")
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    starts_at: datetime = Field(sa_type=UtcDateTime)
    ends_at: datetime = Field(sa_type=UtcDateTime)
    status: str = Field(default=BackfillStatus.WAITING.name, sa_type=Text)
    readings_changed: int = 0
    missing: int = 0
    attempts: int = 0
    error: str | None = Field(default=None, sa_type=Text)


class FeedGap(SQLModel, table=True):
    """Half-hours `[first, after)` of a meter's channel, counted from 1970, that a source did not give.

    It is asked for again at `due_at`, of which the meter's feed has the soonest; null once it stays for good. `cause`
    is what the source said. Half-hours in between that have come since do not count.
    """

    __tablename__ = "feed_gaps"

    meter_id: str = Field(primary_key=True, foreign_key="meters.id", sa_type=Text, ondelete="CASCADE")
    channel: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    first: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    after: int
    cause: str | None = Field(default=None, sa_type=Text)
    found_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    tries: int = 0
    due_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
