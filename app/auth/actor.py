"""The authenticated viewer, and the rows that it may see.

Every read goes through `visible(statement, actor)`; a model's `seen_by(actor)` selects its visible rows. An invisible
row counts as missing: the answer has the same words and takes the same time.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Select, bindparam, false, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.errors import Forbidden, not_found


class Scope(enum.Enum):
    """The powers of a key; each includes those before it."""

    READ = "READ"
    """Read all of the account."""
    WRITE = "WRITE"
    """Change customers, meters, consents, readings, endpoints and subscriptions, and make stream tokens."""
    ADMIN = "ADMIN"
    """Change the account, its users and its API keys."""


S = TypeVar("S", bound=Select[Any])
M = TypeVar("M")

_RANK = {scope: rank for rank, scope in enumerate(Scope)}


@dataclass(frozen=True)
class Actor:
    """An authenticated viewer. Equal actors see exactly the same rows."""

    account_id: str
    scopes: frozenset[Scope]
    api_key_id: str | None = None
    # Of a stream token that is bound to one customer, or of an end customer with a consent token.
    customer_id: str | None = None
    # Of a consent token only: its one consent.
    consent_id: str | None = None
    is_stream_token: bool = False
    # Of an API key only: the hash of the secret that was sent, so that tokens made with it end with it.
    secret_hash: str | None = field(default=None, compare=False, repr=False)

    def may(self, scope: Scope) -> bool:
        return any(_RANK[held] >= _RANK[scope] for held in self.scopes)

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        if not self.may(scope):
            raise Forbidden(f"This needs a key with the scope {scope.value}.")

    @property
    def is_restricted(self) -> bool:
        """Whether it is a browser with a token, and not one of the account's own programs."""
        return self.is_stream_token or self.customer_id is not None

    @property
    def sees_whole_account(self) -> bool:
        return self.customer_id is None

    @property
    def sees_notes(self) -> bool:
        """Whether it sees the account's notes about its customers and meters, which end customers do not."""
        return self.customer_id is None


class AccountWide:
    """Mix-in for models that only viewers of the whole account may see."""

    account_id: Any

    @classmethod
    def seen_by(cls, actor: Actor) -> ColumnElement[bool]:
        mine: ColumnElement[bool] = cls.account_id == actor.account_id
        return mine if actor.sees_whole_account else false()


_ACCOUNT, _CUSTOMER, _CONSENT = "actor_account", "actor_customer", "actor_consent"


class Scoped:
    """A statement that `visible` limits, built once for each kind of actor; the ids of an actor are parameters."""

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement
        self._by_kind: dict[tuple[bool, bool], Select[Any]] = {}

    def by(self, actor: Actor, **parameters: Any) -> tuple[Select[Any], dict[str, Any]]:
        """The statement for this actor, with its parameters."""
        kind = (actor.customer_id is not None, actor.consent_id is not None)
        statement = self._by_kind.get(kind)
        if statement is None:
            names: Any = (
                bindparam(_ACCOUNT),
                bindparam(_CUSTOMER) if kind[0] else None,
                bindparam(_CONSENT) if kind[1] else None,
            )
            account, customer, consent = names
            viewer = Actor(account, frozenset(), customer_id=customer, consent_id=consent)
            statement = self._by_kind[kind] = visible(self.statement, viewer)
        ids = {_ACCOUNT: actor.account_id, _CUSTOMER: actor.customer_id, _CONSENT: actor.consent_id}
        return statement, ids | parameters


def visible(statement: S, actor: Actor) -> S:
    """The statement, limited to those rows of its first entity that the actor may see."""
    entity = statement.column_descriptions[0]["entity"]
    return statement.where(entity.seen_by(actor))


FOR_UPDATE: Final[Mapping[str, Any]] = {}
"""Holds off concurrent changes to the row."""
FOR_NO_KEY_UPDATE: Final[Mapping[str, Any]] = {"key_share": True}
"""The same, but others may still write rows that refer to it."""


async def load_visible(
    session: AsyncSession,
    actor: Actor,
    model: type[M],
    row_id: str,
    noun: str,
    *field: str,
    lock: Mapping[str, Any] | None = None,
) -> M:
    """The row with this id, locked if a lock is given. Raises NOT_FOUND at `field` if the actor sees none."""
    table: Any = model
    statement = visible(select(model).where(table.id == row_id), actor)
    if lock is not None:
        statement = statement.with_for_update(**lock)
    row: M | None = (await session.execute(statement)).scalar_one_or_none()
    if row is None:
        raise not_found(noun, *field)
    return row
