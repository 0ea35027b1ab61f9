"""The viewer, its account, users, API keys and stream tokens in GraphQL."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from sqlalchemy import select
from sqlmodel import col

from app.accounts import models
from app.accounts.models import UserRole
from app.auth.actor import Actor, Scope, visible
from app.customers.models import Customer as CustomerRow
from app.events.catalogue import EventType
from app.events.models import EventRecord
from app.graphql.compiled.declare import compiled, one
from app.graphql.compiled.reads import connection, read_one
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.nodes import Node, find, shown, shows
from app.graphql.pagination import Connection, page_request

if TYPE_CHECKING:
    from app.customers.graphql import Customer

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]

strawberry.enum(Scope)
strawberry.enum(UserRole)


@shows(models.Account, "acc")
@compiled(models.Account)
@strawberry.type
class Account(Node):
    """A company that builds on the platform."""

    id: strawberry.ID
    name: str
    """The company's name, which consent pages show."""
    logo_url: str | None
    """An https link to the company's logo."""
    created_at: datetime

    @classmethod
    def of(cls, row: models.Account, viewer: Actor) -> "Account":
        return cls(id=strawberry.ID(row.id), name=row.name, logo_url=row.logo_url, created_at=row.created_at)


@shows(models.User, "usr")
@compiled(models.User)
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

    @classmethod
    def of(cls, row: models.User, viewer: Actor) -> "User":
        return cls(
            id=strawberry.ID(row.id),
            email=row.email,
            name=row.name,
            role=UserRole(row.role),
            email_confirmed_at=row.email_confirmed_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@shows(models.ApiKey, "key")
@compiled(models.ApiKey)
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

    @classmethod
    def of(cls, row: models.ApiKey, viewer: Actor) -> "ApiKey":
        return cls(
            id=strawberry.ID(row.id),
            name=row.name,
            prefix=row.prefix,
            scopes=[Scope(scope) for scope in row.scopes],
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )


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
        row = await find(info.context, self.actor, models.ApiKey, self.actor.api_key_id or "")
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


@event_type(EventType.USER_CREATED)
@compiled(EventRecord, user=one("subject_id"))
@strawberry.type
class UserCreatedEvent(Event):
    """A user was created."""

    @strawberry.field
    async def user(self, info: Info) -> User | None:
        """The user as of now; null once deleted."""
        row = await find(info.context, self.viewer, models.User, self.record.subject_id)
        return shown(row, self.viewer)  # type: ignore[no-any-return]


@event_type(EventType.API_KEYS_ROTATED)
@compiled(EventRecord, api_key=one("subject_id"))
@strawberry.type
class ApiKeysRotatedEvent(Event):
    """An API key got a new secret."""

    @strawberry.field
    async def api_key(self, info: Info) -> ApiKey | None:
        """The key as of now."""
        row = await find(info.context, self.viewer, models.ApiKey, self.record.subject_id)
        return shown(row, self.viewer)  # type: ignore[no-any-return]


@strawberry.type
class AccountQueries:
    @strawberry.field
    def viewer(self, info: Info) -> Viewer:
        """The credential of this request."""
        return Viewer(actor=info.context.viewer)

    @strawberry.field
    async def user(self, info: Info, id: strawberry.ID) -> User | None:
        """The user with this id; null if there is none."""
        return await read_one(info, models.User, id)  # type: ignore[no-any-return]

    @strawberry.field
    async def users(
        self,
        info: Info,
        first: int | None = None,
        after: str | None = None,
        last: int | None = None,
        before: str | None = None,
    ) -> Connection[User]:
        """The account's users, in the order of their ids."""
        return await connection(info, models.User, page_request(first, after, last, before))  # type: ignore[no-any-return]

    @strawberry.field
    async def api_keys(self, info: Info) -> list[ApiKey]:
        """All keys, revoked and expired ones included, the oldest first."""
        viewer = info.context.viewer
        statement = visible(select(models.ApiKey), viewer).order_by(col(models.ApiKey.id))
        rows = (await info.context.execute(statement)).scalars()
        return [ApiKey.of(row, viewer) for row in rows]
