"""The queue of transactional mails, the limits on unconfirmed mails and the suppression list."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, text
from sqlmodel import Field, SQLModel

from app.core import clock
from app.core.ids import new_id
from app.db.types import Text, UtcDateTime


class TransactionalMail(SQLModel, table=True):
    """A mail that is not about an event: a confirmation, a code, a notice. Encrypted, as it may hold tokens."""

    __tablename__ = "outgoing_mails"
    __table_args__ = (
        Index(
            "ix_outgoing_mails_due",
            "due_at",
            sqlite_where=text("due_at IS NOT NULL"),
            postgresql_where=text("due_at IS NOT NULL"),
        ),
        Index("ix_outgoing_mails_about", "about_id"),
    )

    id: str = Field(default_factory=lambda: new_id("mail"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    # The subscription, user, endpoint or consent that the mail is about: the mail is deleted with it.
    about_id: str | None = Field(default=None, sa_type=Text)
    recipient: str = Field(sa_type=Text)
    # JSON {"subject", "text", "html"}; null once it was sent or given up.
    content_encrypted: str | None = Field(sa_type=Text)
    attempts_made: int = 0
    due_at: datetime | None = Field(default_factory=clock.now, sa_type=UtcDateTime)
    leased_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    fence: int = Field(default=0, sa_type=BigInteger)
    error: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class UnconfirmedMail(SQLModel, table=True):
    """A mail to a mailbox that had not confirmed. It counts against the limits whatever is deleted."""

    __tablename__ = "unconfirmed_mails"
    __table_args__ = (Index("ix_unconfirmed_mails_mailbox", "mailbox_hash", "created_at"),)

    id: str = Field(default_factory=lambda: new_id("unm"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    mailbox_hash: str = Field(sa_type=Text)
    kind: str = Field(sa_type=Text)  # a name of unconfirmed.Kind
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


class MailSuppression(SQLModel, table=True):
    """An address that has unsubscribed from an account, until it confirms by the link of an earlier mail."""

    __tablename__ = "mail_suppressions"

    account_id: str = Field(primary_key=True, foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    address_hash: str = Field(primary_key=True, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    lifted_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
