"""Accounts, their users and their API keys."""

import enum
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Index, text
from sqlmodel import Field, SQLModel

from app.auth.actor import AccountWide, Actor, Scope
from app.auth.stream_tokens import LONGEST_LIFE, StreamToken, mark_of
from app.core import clock
from app.core.crypto import digest, random_token
from app.core.ids import new_id
from app.db.database import Json, Text, UtcDateTime

KEY_PREFIX = "vw_live_"
SHOWN = len(KEY_PREFIX) + 6
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


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
    # When the link was mailed that confirms the address, and when the address was confirmed by it.
    asked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    email_confirmed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class KeyState(NamedTuple):
    """What decides whether a key, and a secret of it, counts."""

    id: str
    secret_hash: str
    previous_hash: str | None
    previous_until: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_live(self, at: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)

    def accepts(self, secret_hash: str, at: datetime) -> bool:
        """Whether a secret with this hash opens the account now."""
        if not self.is_live(at):
            return False
        return secret_hash == self.secret_hash or (
            secret_hash == self.previous_hash and self._is_overlapping(at)
        )

    def accepts_token(self, token: StreamToken, at: datetime) -> bool:
        """Whether a stream token of this key counts now."""
        return self.is_live(at) and at < self.end_of(token)

    def end_of(self, token: StreamToken) -> datetime:
        """The end of a stream token as the key is now: the secret's that it was made with, or the key's, if sooner."""
        ends = (token.expires_at, self.expires_at, self._end_of_secret(token))
        return min(end for end in ends if end is not None)

    def _end_of_secret(self, token: StreamToken) -> datetime | None:
        """None: as things stand it has none."""
        mark = token.secret_mark
        if mark == mark_of(self.secret_hash):
            return None
        if mark is None:
            # It may be of either secret, unless it is too young for the previous one.
            is_young = self.previous_until is None or token.expires_at - LONGEST_LIFE >= self.previous_until
            return None if is_young else self.previous_until
        is_previous = self.previous_hash is not None and mark == mark_of(self.previous_hash)
        return self.previous_until if is_previous else _LONG_AGO

    def _is_overlapping(self, at: datetime) -> bool:
        return self.previous_until is not None and at < self.previous_until


class ApiKey(AccountWide, SQLModel, table=True):
    """An API key. Only hashes are kept; after a rotation the previous secret works until its overlap ends."""

    __tablename__ = "api_keys"

    id: str = Field(default_factory=lambda: new_id("key"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE", index=True)
    name: str = Field(sa_type=Text)
    prefix: str = Field(sa_type=Text)
    secret_hash: str = Field(sa_type=Text, unique=True)
    previous_hash: str | None = Field(default=None, sa_type=Text, unique=True)
    previous_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    scopes: list[str] = Field(sa_type=Json)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    last_used_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)

    @classmethod
    def issue(
        cls, account_id: str, name: str, scopes: list[Scope], expires_at: datetime | None = None
    ) -> tuple["ApiKey", str]:
        """A new key and its secret, which is shown this once."""
        secret = random_token(KEY_PREFIX)
        key = cls(
            account_id=account_id,
            name=name,
            prefix=secret[:SHOWN],
            secret_hash=digest(secret),
            scopes=[scope.value for scope in Scope if scope in scopes],
            expires_at=expires_at,
        )
        return key, secret

    def rotate(self, overlap: timedelta, at: datetime) -> str:
        """A new secret in place of the old one, which works for the overlap more."""
        secret = random_token(KEY_PREFIX)
        # Without an overlap as well: tokens made with the old secret are told by it.
        self.previous_hash, self.previous_until = self.secret_hash, at + overlap
        self.secret_hash, self.prefix = digest(secret), secret[:SHOWN]
        return secret

    @property
    def state(self) -> KeyState:
        return KeyState(*(getattr(self, name) for name in KeyState._fields))

    def is_live(self, at: datetime) -> bool:
        return self.state.is_live(at)

    def accepts(self, secret_hash: str, at: datetime) -> bool:
        """Whether a secret with this hash opens the account now."""
        return self.state.accepts(secret_hash, at)
