"""Webhook endpoints, as rows."""

import enum
from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlmodel import Field

from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime
from app.delivery.queue.models import Destination


class EndpointStatus(enum.Enum):
    """Whether a webhook endpoint takes deliveries."""

    ENABLED = "ENABLED"
    """Gets the events from its enabling on."""
    DISABLED = "DISABLED"
    """Gets nothing, by the account or because it failed for good."""


class WebhookEndpoint(Destination, table=True):
    """A URL of a backend. It gets the events after `first_sequence`, the account's last event when it was enabled."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_page", "account_id", "id"),)

    id: str = Field(default_factory=lambda: new_id("whe"), primary_key=True, sa_type=Text)
    url: str = Field(sa_type=Text)
    # A GraphQL selection on Event. Its result is sent instead of the catalogue's data.
    selection: str | None = Field(default=None, sa_type=Text)
    # Names to masked values, for display; the real values are encrypted.
    headers: dict[str, str] | None = Field(default=None, sa_type=Json)
    headers_encrypted: str | None = Field(default=None, sa_type=Text)
    # Whether each delivery waits until the one before it has ended; how many may begin in a second.
    ordered: bool = False
    rate_limit: int | None = None
    # An endpoint with a rate belongs to one worker at a time: to this one, until then.
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
    # Nothing is sent before this time, because the receiver asked for a pause.
    paused_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    last_success_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    # When the first attempt after the last success failed, how many have failed since, and when people were told.
    failing_since: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failures: int = Field(default=0, sa_type=BigInteger)
    told_failing_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    told_disabled_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
