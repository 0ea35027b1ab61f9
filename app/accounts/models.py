"""Accounts and their users."""

import enum
from datetime import datetime

from sqlalchemy import ColumnElement, Index, text
from sqlmodel import Field, SQLModel

from app.auth.actor import AccountWide, Actor
from app.core import clock
from app.core.ids import new_id
from app.db.types import Text, UtcDateTime


class UserRole(enum.Enum):
    """A user's role; an account has at least one ADMIN."""

    ADMIN = "ADMIN"
    """Looks after the account and is told by mail when a webhook endpoint fails for good."""
    MEMBER = "MEMBER"
    """Belongs to the account."""


class Account(SQLModel, table=True):
    """A company that builds on the platform."""

    __tablename__ = "accounts"

    id: str = Field(default_factory=lambda: new_id("acc"), primary_key=True, sa_type=Text)
    name: str = Field(sa_type=Text)
    logo_url: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        return cls.__table__.c.id == actor.account_id  # type: ignore[attr-defined, no-any-return]


class User(AccountWide, SQLModel, table=True):
    """A person of the account, who receives mail and names who did what."""

    __tablename__ = "users"
    __table_args__ = (Index("uq_users_email", "account_id", text("lower(email)"), unique=True),)

    id: str = Field(default_factory=lambda: new_id("usr"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    email: str = Field(sa_type=Text)
    name: str = Field(sa_type=Text)
    role: str = Field(default=UserRole.MEMBER.value, sa_type=Text)
    # The time when the confirming link was mailed, and the time when it confirmed the address.
    asked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    email_confirmed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
