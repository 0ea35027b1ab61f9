"""API keys: their rows, and the state that decides whether a secret or a stream token of a key is accepted."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlmodel import Field, SQLModel

from app.auth.actor import AccountWide, Scope
from app.auth.stream_tokens import LONGEST_LIFE, StreamToken, mark_of
from app.core import clock
from app.core.crypto import digest, random_token
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime

KEY_PREFIX = "vw_live_"
SHOWN = len(KEY_PREFIX) + 6
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class KeyState(NamedTuple):
    """The fields that decide whether a key, and a secret of it, is accepted."""

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
        """Whether a stream token of this key is accepted now."""
        return self.is_live(at) and at < self.end_of(token)

    def end_of(self, token: StreamToken) -> datetime:
        """The end of a stream token: its own, the key's, or that of the secret that made it, whichever is first."""
        ends = (token.expires_at, self.expires_at, self._end_of_secret(token))
        return min(end for end in ends if end is not None)

    def _end_of_secret(self, token: StreamToken) -> datetime | None:
        """The end of the secret that made the token; None if the secret has none."""
        mark = token.secret_mark
        if mark == mark_of(self.secret_hash):
            return None
        if mark is None:
            # Either secret may have made it, unless it is too young for the previous one.
            is_young = self.previous_until is None or token.expires_at - LONGEST_LIFE >= self.previous_until
            return None if is_young else self.previous_until
        is_previous = self.previous_hash is not None and mark == mark_of(self.previous_hash)
        return self.previous_until if is_previous else _LONG_AGO

    def _is_overlapping(self, at: datetime) -> bool:
        return self.previous_until is not None and at < self.previous_until


class ApiKey(AccountWide, SQLModel, table=True):
    """An API key. Only hashes of secrets are stored; after a rotation the previous one works until its overlap ends."""

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
        """A new key and its secret, which is never shown again."""
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
        """Replaces the secret and gives the new one; the old one works for the overlap."""
        secret = random_token(KEY_PREFIX)
        # Also without an overlap: it identifies the stream tokens that the old secret made.
        self.previous_hash, self.previous_until = self.secret_hash, at + overlap
        self.secret_hash, self.prefix = digest(secret), secret[:SHOWN]
        return secret

    @property
    def state(self) -> KeyState:
        return KeyState(*(getattr(self, name) for name in KeyState._fields))

    def is_live(self, at: datetime) -> bool:
        return self.state.is_live(at)
