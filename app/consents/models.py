"""Hosted consents, the meters they cover, and their evidence."""

import enum
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, ClassVar

from sqlalchemy import ColumnElement, Index, LargeBinary, and_, or_, text
from sqlalchemy.orm import Mapped
from sqlmodel import Field, SQLModel, col

from app.auth.actor import Actor
from app.core import clock
from app.core.errors import ErrorCode, Refusal
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime
from app.events.catalogue import REDACTED


class ConsentFlowType(enum.Enum):
    """The meters that a consent covers."""

    GB_RESIDENTIAL_SPECIFIC = "gb.residential.specific"
    """The meters of its customer that it names by their numbers."""
    GB_COMMERCIAL_BLANKET = "gb.commercial.blanket"
    """All of its customer, now and later."""


class ConsentStatus(enum.Enum):
    """How a consent stands now."""

    PENDING = "PENDING"
    """Not decided yet."""
    APPROVED = "APPROVED"
    """Given, and neither revoked nor expired."""
    DECLINED = "DECLINED"
    """Refused by the end customer."""
    REVOKED = "REVOKED"
    """Given, and ended by revokeHostedConsent or an operator."""
    EXPIRED = "EXPIRED"
    """Past the end of its expiry day in the UK, undecided or given."""


class ConsentMethod(enum.Enum):
    """The way in which a consent is given."""

    DIGITAL_CONSENT = "DIGITAL_CONSENT"
    """By the end customer on the hosted page, or with its token."""
    LETTER_OF_AUTHORITY = "LETTER_OF_AUTHORITY"
    """By a signed letter, uploaded as evidence."""
    THIRD_PARTY_DIGITAL_CONSENT = "THIRD_PARTY_DIGITAL_CONSENT"
    """By the record of another service, uploaded as evidence."""


@dataclass(frozen=True)
class Decision:
    """The columns of a consent that decide its status."""

    decision: str
    expires_at: datetime

    def status(self, at: datetime) -> ConsentStatus:
        decision = ConsentStatus(self.decision)
        if decision in (ConsentStatus.PENDING, ConsentStatus.APPROVED) and at >= self.expires_at:
            return ConsentStatus.EXPIRED
        return decision

    def is_valid(self, at: datetime) -> bool:
        return self.status(at) is ConsentStatus.APPROVED


def consented_at(decision: str, decided_at: datetime | None) -> datetime | None:
    """The time of approval. A declined consent was decided but never given."""
    return None if decision == ConsentStatus.DECLINED.value else decided_at


_UNRAISED = "decision = 'APPROVED' AND expiry_raised_at IS NULL"


class HostedConsent(SQLModel, table=True):
    """An end customer's consent. `decision` is stored; `status` also takes the expiry into account."""

    __tablename__ = "hosted_consents"
    __table_args__ = (
        Index("ix_hosted_consents_page", "account_id", "id"),
        Index("ix_hosted_consents_customer", "customer_id", "id"),
        Index(
            "ix_hosted_consents_expiring",
            "expires_at",
            "id",
            postgresql_where=text(_UNRAISED),
            sqlite_where=text(_UNRAISED),
        ),
    )

    # Replacements of personal values where a deleted customer's consent is still shown.
    personal: ClassVar[dict[str, Any]] = {
        "description": None,
        "redirect_url": REDACTED,
        "meter_numbers": [],
        "consentee_full_name": None,
        "consentee_email": None,
        "consentee_job_title": None,
        "code_hash": None,
        "code_email": None,
        "draft": None,
        "verified_email": None,
        "decline_reason": None,
        "revocation_reason": None,
    }

    id: str = Field(default_factory=lambda: new_id("hc"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    customer_id: str = Field(foreign_key="customers.id", sa_type=Text, ondelete="CASCADE")
    flow_type: str = Field(sa_type=Text)  # a name of ConsentFlowType
    decision: str = Field(default=ConsentStatus.PENDING.value, sa_type=Text)  # never EXPIRED
    description: str | None = Field(default=None, sa_type=Text)
    # The expiry day is included: expires_at is the UTC instant at which that day ends in the UK.
    expiry: date
    expires_at: datetime = Field(sa_type=UtcDateTime)
    redirect_url: str = Field(sa_type=Text)
    meter_numbers: list[str] = Field(default_factory=list, sa_type=Json)
    consent_method: str = Field(default=ConsentMethod.DIGITAL_CONSENT.value, sa_type=Text)
    consentee_full_name: str | None = Field(default=None, sa_type=Text)
    consentee_email: str | None = Field(default=None, sa_type=Text)
    consentee_email_verified: bool = False
    consentee_job_title: str | None = Field(default=None, sa_type=Text)
    # The hash finds the consent by its token; the encrypted token is shown again in `link`.
    token_hash: str = Field(sa_type=Text, unique=True)
    token_encrypted: str = Field(sa_type=Text)
    # The code mailed to verify the consentee's address: its hash, address, end and number of wrong tries.
    code_hash: str | None = Field(default=None, sa_type=Text)
    code_email: str | None = Field(default=None, sa_type=Text)
    code_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    code_sent_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    code_tries: int = 0
    codes_sent: int = 0
    # The page visitor's entries, stored until the decision; see `codes.Draft`.
    draft: dict[str, Any] | None = Field(default=None, sa_type=Json)
    # The address that a mailed code proved.
    verified_email: str | None = Field(default=None, sa_type=Text)
    page_version: str | None = Field(default=None, sa_type=Text)
    decided_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    decline_reason: str | None = Field(default=None, sa_type=Text)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revocation_reason: str | None = Field(default=None, sa_type=Text)
    # When hosted_consent.expired was raised, by the worker.
    expiry_raised_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    updated_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        return _seen_by(actor, cls, col(cls.id))

    @classmethod
    def in_force(cls, at: Any) -> ColumnElement[bool]:
        """SQL condition: approved, not revoked, not past the end of the expiry day."""
        return and_(col(cls.decision) == ConsentStatus.APPROVED.value, col(cls.expires_at) > at)

    @classmethod
    def has_status(cls, status: ConsentStatus, at: datetime) -> ColumnElement[bool]:
        """SQL condition that equals `status()`."""
        timed = (ConsentStatus.PENDING.value, ConsentStatus.APPROVED.value)
        if status is ConsentStatus.EXPIRED:
            return and_(col(cls.decision).in_(timed), col(cls.expires_at) <= at)
        if status.value in timed:
            return and_(col(cls.decision) == status.value, col(cls.expires_at) > at)
        return or_(col(cls.decision) == status.value)

    def status(self, at: datetime) -> ConsentStatus:
        return Decision(self.decision, self.expires_at).status(at)

    def is_valid(self, at: datetime) -> bool:
        return self.status(at) is ConsentStatus.APPROVED

    def covers(self, number: str) -> bool:
        """Whether the consent covers a meter of its customer with this number."""
        return self.flow_type == ConsentFlowType.GB_COMMERCIAL_BLANKET.name or number in self.meter_numbers

    def expire_on(self, day: date) -> None:
        self.expiry, self.expires_at = day, clock.end_of_uk_day(day)

    @property
    def addresses(self) -> set[str]:
        """All known mail addresses of the person who decides."""
        drafted = (self.draft or {}).get("email")
        known = (self.consentee_email, self.code_email, self.verified_email, drafted)
        return {address for address in known if address}

    @property
    def names_meters(self) -> bool:
        """Whether the consent covers named meters rather than all of its customer's."""
        return self.flow_type == ConsentFlowType.GB_RESIDENTIAL_SPECIFIC.name

    @property
    def consented_at(self) -> datetime | None:
        return consented_at(self.decision, self.decided_at)

    def approve(self, at: datetime) -> None:
        self._decide(ConsentStatus.APPROVED, at)
        self.consentee_email_verified = (
            self.verified_email is not None and self.verified_email == self.consentee_email
        )

    def decline(self, reason: str | None, at: datetime) -> None:
        self._decide(ConsentStatus.DECLINED, at)
        self.decline_reason = reason

    def revoke(self, reason: str | None, at: datetime) -> None:
        """Raises CONFLICT unless it is in force."""
        status = self.status(at)
        if status is not ConsentStatus.APPROVED:
            raise Refusal(
                ErrorCode.CONFLICT,
                f"Only an approved consent can be revoked; this one is {status.value.lower()}.",
                "hostedConsentId",
            )
        self.decision = ConsentStatus.REVOKED.value
        self.revoked_at, self.revocation_reason, self.updated_at = at, reason, at

    def _decide(self, decision: ConsentStatus, at: datetime) -> None:
        self.decision = decision.value
        self.decided_at = self.updated_at = at
        # The code and the draft served only to reach the decision.
        self.code_hash = self.code_email = self.code_until = self.draft = None

    def require_digital(self) -> None:
        """Raises CONFLICT for a consent that needs a document."""
        if self.consent_method != ConsentMethod.DIGITAL_CONSENT.value:
            raise Refusal(
                ErrorCode.CONFLICT,
                f"This consent is given by a document ({self.consent_method}): upload it as its evidence instead.",
                "token",
            )

    def require_undecided(self, at: datetime) -> None:
        """Raises TOKEN_USED or TOKEN_EXPIRED."""
        status = self.status(at)
        if status is ConsentStatus.EXPIRED:
            raise Refusal(
                ErrorCode.TOKEN_EXPIRED, "This consent request has expired; ask for a new one.", "token"
            )
        if status is not ConsentStatus.PENDING:
            raise Refusal(ErrorCode.TOKEN_USED, "This consent request was already decided.", "token")


class ConsentMeter(SQLModel, table=True):
    """A consent covers a meter. Rows are created with either and replaced by `setMeterConsent`."""

    __tablename__ = "consent_meters"
    __table_args__ = (Index("ix_consent_meters_consent", "hosted_consent_id", "meter_id"),)

    meter_id: str = Field(primary_key=True, foreign_key="meters.id", sa_type=Text, ondelete="CASCADE")
    hosted_consent_id: str = Field(
        primary_key=True, foreign_key="hosted_consents.id", sa_type=Text, ondelete="CASCADE"
    )


class Evidence(SQLModel, table=True):
    """The document that proves a consent: made at a digital approval, or uploaded."""

    __tablename__ = "evidence"

    id: str = Field(default_factory=lambda: new_id("evd"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    customer_id: str = Field(sa_type=Text)
    hosted_consent_id: str = Field(
        foreign_key="hosted_consents.id", sa_type=Text, ondelete="CASCADE", unique=True
    )
    file_name: str = Field(sa_type=Text)
    content_type: str = Field(sa_type=Text)
    size: int
    sha256: str = Field(sa_type=Text)
    page_version: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        return _seen_by(actor, cls, col(cls.hosted_consent_id))


def _seen_by(
    actor: Actor, model: type[HostedConsent | Evidence], consent_id: Mapped[str]
) -> ColumnElement[bool]:
    mine = col(model.account_id) == actor.account_id
    if actor.consent_id is not None:
        return and_(mine, consent_id == actor.consent_id)
    return mine if actor.sees_whole_account else and_(mine, col(model.customer_id) == actor.customer_id)


class EvidenceDocument(SQLModel, table=True):
    """The bytes of a document, in a table of their own so that lists of evidence do not read them."""

    __tablename__ = "evidence_documents"

    evidence_id: str = Field(primary_key=True, foreign_key="evidence.id", sa_type=Text, ondelete="CASCADE")
    content: bytes = Field(sa_type=LargeBinary)
