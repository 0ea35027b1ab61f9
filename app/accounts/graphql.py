"""The viewer, its account, users, API keys and stream tokens in GraphQL."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from sqlalchemy import select
from sqlmodel import col

from app.accounts import models
from app.accounts.events import ApiKeysRotated, UserCreated
from app.accounts.models import UserRole
from app.auth.actor import Actor, Scope, visible
from app.auth.api_keys import ApiKey as ApiKeyRow
from app.customers.models import Customer as CustomerRow
from app.graphql.compiled.declare import to_one
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.nodes import Node, find, row_type, shown
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages

if TYPE_CHECKING:
    from app.customers.graphql import Customer

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]

strawberry.enum(Scope)
strawberry.enum(UserRole)


@row_type(models.Account, "acc")
@strawberry.type
class Account(Node):
    """A company that builds on the platform."""

    id: strawberry.ID
    name: str
    """The company's name, which consent pages show."""
    logo_url: str | None
    """An https link to the company's logo."""
    created_at: datetime


@row_type(models.User, "usr")
@strawberry.type
class User(Node):
    """Users receive mail and name who did what."""

    id: strawberry.ID
    email: str
    """The person's address, unique in the account whatever its case."""
    name: str
    """The person's name."""
    role: UserRole
    """The person's role in the account."""
    email_confirmed_at: datetime | None
    """When the address was confirmed by the mailed link: notices go to no other. Null until then."""
    created_at: datetime
    updated_at: datetime


@row_type(ApiKeyRow, "key")
@strawberry.type
class ApiKey(Node):
    """A key that opens the account; only hashes of its secrets are kept."""

    id: strawberry.ID
    name: str
    """The name it was given, for people."""
    prefix: str
    """The first 14 characters of its secret, to tell keys apart."""
    scopes: list[Scope]
    """The powers of the key."""
    created_at: datetime
    last_used_at: datetime | None
    """When it was last used, to the minute; null if it never was."""
    expires_at: datetime | None
    """When it stops working; null: never."""
    revoked_at: datetime | None
    """When it was revoked; null while it is not."""


@strawberry.type
class Viewer:
    """The credential that asks, and what it stands for."""

    actor: strawberry.Private[Actor]

    @strawberry.field
    async def account(self, info: Info) -> Account:
        """The account that it belongs to."""
        row = await find(info.context, self.actor, models.Account, self.actor.account_id)
        if row is None:
            raise LookupError(f"account {self.actor.account_id} of a live credential")
        return Account.of(row, self.actor)

    @strawberry.field
    def user(self) -> User | None:
        """Null for API keys and stream tokens, which act for the account."""
        return None

    @strawberry.field
    async def api_key(self, info: Info) -> ApiKey | None:
        """The key in use, or the one that made the stream token."""
        row = await find(info.context, self.actor, ApiKeyRow, self.actor.api_key_id or "")
        return shown(row, self.actor)  # type: ignore[no-any-return]

    @strawberry.field
    async def customer(self, info: Info) -> LazyCustomer | None:
        """The one customer that a stream token is bound to; null: the whole account."""
        row = await find(info.context, self.actor, CustomerRow, self.actor.customer_id or "")
        return shown(row, self.actor)  # type: ignore[no-any-return]

    @strawberry.field
    def scopes(self) -> list[Scope]:
        """The powers of the credential."""
        return [scope for scope in Scope if scope in self.actor.scopes]


@event_type(UserCreated)
@strawberry.type
class UserCreatedEvent(Event):
    """A user was created."""

    user: User | None = to_one("subject_id")
    """The user as of now; null once deleted."""


@event_type(ApiKeysRotated)
@strawberry.type
class ApiKeysRotatedEvent(Event):
    """An API key got a new secret."""

    api_key: ApiKey | None = to_one("subject_id")
    """The key as of now."""


def _viewer(info: Info) -> Viewer:
    return Viewer(actor=info.context.viewer)


@strawberry.type
class AccountQueries:
    viewer: Viewer = strawberry.field(resolver=_viewer)
    """The credential of this request."""
    user: User | None = by_id(models.User)
    """The user with this id; null if there is none."""
    users: Connection[User] = pages(models.User)
    """The account's users, in the order of their ids."""

    @strawberry.field
    async def api_keys(self, info: Info) -> list[ApiKey]:
        """All keys, revoked and expired ones included, the oldest first."""
        viewer = info.context.viewer
        statement = visible(select(ApiKeyRow), viewer).order_by(col(ApiKeyRow.id))
        rows = (await info.context.execute(statement)).scalars()
        return [ApiKey.of(row, viewer) for row in rows]
