"""Events about users and API keys."""

from datetime import datetime
from typing import Any, ClassVar

from app.accounts.models import User, UserRole
from app.auth.api_keys import ApiKey
from app.events.catalogue import EventData, Instant


class UserCreated(EventData):
    type: ClassVar = "user.created"
    place: ClassVar = 3
    words: ClassVar = "User created"
    summary: ClassVar = "a user was created"
    description: ClassVar = "A user was created; data is the user. An account's first user is its event 1."
    example: ClassVar[dict[str, Any]] = {
        "id": "usr_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "email": "grace@example.com",
        "name": "Grace Hopper",
        "role": "ADMIN",
        "createdAt": "2026-11-24T22:29:55.123Z",
        "updatedAt": "2026-11-24T22:29:55.123Z",
    }

    id: str
    email: str
    name: str
    role: UserRole
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, row: User) -> "UserCreated":
        return cls.of_row(row)

    def subject_id(self) -> str:
        return self.id


class ApiKeysRotated(EventData):
    type: ClassVar = "api_keys.rotated"
    place: ClassVar = 5
    words: ClassVar = "API key rotated"
    summary: ClassVar = "an API key got a new secret"
    description: ClassVar = (
        "An API key has a new secret; the previous one works until overlapUntil, if at all."
    )
    example: ClassVar[dict[str, Any]] = {
        "apiKeyId": "key_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "prefix": "vw_live_q7Rk2x",
        "previousPrefix": "vw_live_Zt90aB",
        "overlapUntil": "2026-11-25T22:29:55.123Z",
    }

    api_key_id: str
    prefix: str
    previous_prefix: str
    overlap_until: Instant | None

    @classmethod
    def of(cls, row: ApiKey, previous_prefix: str, overlap_until: datetime | None) -> "ApiKeysRotated":
        return cls(
            api_key_id=row.id,
            prefix=row.prefix,
            previous_prefix=previous_prefix,
            overlap_until=overlap_until,
        )

    def subject_id(self) -> str:
        return self.api_key_id
