"""Who is asking, and what of the account they may see.

Every read goes through `visible(statement, actor)`. A model says with `seen_by(actor)` which of its rows an actor may
see; what is not visible is not there, in the same words and time.
"""

import enum
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, false

from app.core.errors import Forbidden


class Scope(enum.Enum):
    """The powers of a key; each includes those before it."""

    READ = "READ"
    """Read all of the account."""
    WRITE = "WRITE"
    """Change customers, meters, consents, readings, endpoints and subscriptions, and make stream tokens."""
    ADMIN = "ADMIN"
    """Change the account, its users and its API keys."""


S = TypeVar("S", bound=Select[Any])

_RANK = {scope: rank for rank, scope in enumerate(Scope)}


@dataclass(frozen=True)
class Actor:
    """An authenticated viewer. Equal actors may see exactly the same."""

    account_id: str
    scopes: frozenset[Scope]
    api_key_id: str | None = None
    # A stream token bound to one customer, or an end customer with a consent token.
    customer_id: str | None = None
    # Only with a consent token: the one consent it shows.
    consent_id: str | None = None
    is_stream_token: bool = False
    # Only of an API key: the hash of the secret that was sent, so that what is made with it ends with it.
    secret_hash: str | None = field(default=None, compare=False, repr=False)

    def may(self, scope: Scope) -> bool:
        return any(_RANK[held] >= _RANK[scope] for held in self.scopes)

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        if not self.may(scope):
            raise Forbidden(f"This needs a key with the scope {scope.value}.")

    @property
    def is_restricted(self) -> bool:
        """Whether it is none of the account's own programs, but somebody's browser."""
        return self.is_stream_token or self.customer_id is not None

    @property
    def sees_whole_account(self) -> bool:
        return self.customer_id is None

    @property
    def sees_notes(self) -> bool:
        """Whether it is shown what the account notes about its customers and meters: no end customer is."""
        return self.customer_id is None


class AccountWide:
    """Mix-in for models that only a viewer of the whole account may see."""

    account_id: Any

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        mine: ColumnElement[bool] = cls.account_id == actor.account_id
        return mine if actor.sees_whole_account else false()


def visible(statement: S, actor: Actor) -> S:
    """The statement over the rows of its first entity that the actor may see."""
    entity = statement.column_descriptions[0]["entity"]
    return statement.where(entity.seen_by(actor))
