"""The tables of the event log.

`streams` holds each account's counter, which its writers lock one after another; `dispatch` holds how far the worker
has read it, in a table of its own that writers never touch.
"""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Index
from sqlmodel import Field, SQLModel

from app.auth.actor import Actor
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime


class Stream(SQLModel, table=True):
    """The log of an account: its end, its beginning (retention removes a prefix), and its epoch."""

    __tablename__ = "streams"

    account_id: str = Field(primary_key=True, foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    # Cursors carry the epoch, so that a cursor from before a restored backup is told apart from today's.
    epoch: str = Field(default_factory=lambda: new_id("log")[-8:], sa_type=Text)
    last_sequence: int = Field(default=0, sa_type=BigInteger)
    first_sequence: int = Field(default=1, sa_type=BigInteger)
    last_occurred_at: datetime = Field(sa_type=UtcDateTime)


class StreamBounds(NamedTuple):
    """The part of a stream's row that positions in the log are compared with."""

    account_id: str
    epoch: str
    first_sequence: int
    last_sequence: int


class EventRecord(SQLModel, table=True):
    """An event as it was recorded."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_customer", "account_id", "customer_id", "sequence"),)

    account_id: str = Field(primary_key=True, foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    sequence: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    id: str = Field(sa_type=Text, unique=True)
    type: str = Field(sa_type=Text)
    occurred_at: datetime = Field(sa_type=UtcDateTime)
    # The id of the meter, customer, user, key, consent … that the event is about.
    subject_id: str = Field(sa_type=Text)
    customer_id: str | None = Field(default=None, sa_type=Text)
    data: dict[str, Any] = Field(sa_type=Json)

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        table = cls.__table__.c  # type: ignore[attr-defined]
        mine: ColumnElement[bool] = table.account_id == actor.account_id
        return mine if actor.sees_whole_account else mine & (table.customer_id == actor.customer_id)


class EventMeter(SQLModel, table=True):
    """A meter that an event names, for filters by meter."""

    __tablename__ = "event_meters"

    account_id: str = Field(primary_key=True, sa_type=Text)
    meter_id: str = Field(primary_key=True, sa_type=Text)
    sequence: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})


class RaisedSince(SQLModel, table=True):
    """The upgrade from which on events of a type are raised by the passing of time; nothing before it raises one."""

    __tablename__ = "raised_since"

    type: str = Field(primary_key=True, sa_type=Text)
    since: datetime = Field(sa_type=UtcDateTime)


class Dispatch(SQLModel, table=True):
    """The position up to which an account's log has been turned into deliveries."""

    __tablename__ = "dispatch"

    account_id: str = Field(primary_key=True, foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    sequence: int = Field(default=0, sa_type=BigInteger)
