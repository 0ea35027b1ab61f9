"""The viewer, its account, users, API keys and stream tokens in GraphQL."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import strawberry
from sqlalchemy import select
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts import actions, models
from app.accounts.models import UserRole
from app.api.compiled.declare import compiled, one
from app.api.compiled.reads import connection
from app.api.compiled.reads import one as read_one
from app.api.context import Info
from app.api.inputs import given
from app.api.mutate import UserError, mutate
from app.api.nodes import Node, find, shown, shows
from app.api.pagination import Connection, page_request
from app.auth.actor import Actor, Scope, visible
from app.customers.models import Customer as CustomerRow
from app.events.catalogue import EventType
from app.events.graphql import Event, event_type
from app.events.models import EventRecord

if TYPE_CHECKING:
    from app.customers.graphql import Customer

LazyCustomer = Annotated["Customer", strawberry.lazy("app.customers.graphql")]

strawberry.enum(Scope)
strawberry.enum(UserRole)


@shows(models.Account, "acc")
@compiled(models.Account)
@strawberry.type
class Account(Node):
    id: strawberry.ID
    name: str
    logo_url: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: models.Account, viewer: Actor) -> "Account":
        return cls(id=strawberry.ID(row.id), name=row.name, logo_url=row.logo_url, created_at=row.created_at)


@shows(models.User, "usr")
@compiled(models.User)
@strawberry.type(description="Users receive mail and name who did what.")
class User(Node):
    id: strawberry.ID
    email: str
    name: str
    role: UserRole
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: models.User, viewer: Actor) -> "User":
        return cls(
            id=strawberry.ID(row.id),
            email=row.email,
            name=row.name,
            role=UserRole(row.role),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@shows(models.ApiKey, "key")
@compiled(models.ApiKey)
@strawberry.type
class ApiKey(Node):
    id: strawberry.ID
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None

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
    actor: strawberry.Private[Actor]

    @strawberry.field
    async def account(self, info: Info) -> Account:
        row = await find(info.context, self.actor, models.Account, self.actor.account_id)
        if row is None:
            raise LookupError(f"account {self.actor.account_id} of a live credential")
        return Account.of(row, self.actor)

    @strawberry.field(description="Null for API keys and stream tokens, which act for the account.")
    def user(self) -> User | None:
        return None

    @strawberry.field(description="The key in use, or the one that made the stream token.")
    async def api_key(self, info: Info) -> ApiKey | None:
        row = await find(info.context, self.actor, models.ApiKey, self.actor.api_key_id or "")
        return shown(row, self.actor)  # type: ignore[no-any-return]

    @strawberry.field(description="The one customer that a stream token is bound to.")
    async def customer(self, info: Info) -> LazyCustomer | None:
        row = await find(info.context, self.actor, CustomerRow, self.actor.customer_id or "")
        return shown(row, self.actor)  # type: ignore[no-any-return]

    @strawberry.field
    def scopes(self) -> list[Scope]:
        return [scope for scope in Scope if scope in self.actor.scopes]


@event_type(EventType.USER_CREATED)
@compiled(EventRecord, user=one("subject_id"))
@strawberry.type
class UserCreatedEvent(Event):
    @strawberry.field
    async def user(self, info: Info) -> User | None:
        row = await find(info.context, self.viewer, models.User, self.record.subject_id)
        return shown(row, self.viewer)  # type: ignore[no-any-return]


@event_type(EventType.API_KEYS_ROTATED)
@compiled(EventRecord, api_key=one("subject_id"))
@strawberry.type
class ApiKeysRotatedEvent(Event):
    @strawberry.field
    async def api_key(self, info: Info) -> ApiKey | None:
        row = await find(info.context, self.viewer, models.ApiKey, self.record.subject_id)
        return shown(row, self.viewer)  # type: ignore[no-any-return]


@strawberry.type
class AccountQueries:
    @strawberry.field
    def viewer(self, info: Info) -> Viewer:
        return Viewer(actor=info.context.viewer)

    @strawberry.field
    async def user(self, info: Info, id: strawberry.ID) -> User | None:
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
        return await connection(info, models.User, page_request(first, after, last, before))  # type: ignore[no-any-return]

    @strawberry.field(description="All keys, revoked and expired ones included, the oldest first.")
    async def api_keys(self, info: Info) -> list[ApiKey]:
        viewer = info.context.viewer
        statement = visible(select(models.ApiKey), viewer).order_by(col(models.ApiKey.id))
        rows = (await info.context.execute(statement)).scalars()
        return [ApiKey.of(row, viewer) for row in rows]


@strawberry.input
class UpdateAccountInput:
    name: str | None = strawberry.UNSET
    logo_url: str | None = strawberry.UNSET
    idempotency_key: str | None = None


@strawberry.type
class UpdateAccountPayload:
    account: Account | None = None
    user_errors: list[UserError]


@strawberry.input
class CreateUserInput:
    email: str
    name: str
    role: UserRole | None = strawberry.field(default=None, description="MEMBER unless given.")
    idempotency_key: str | None = None


@strawberry.type
class CreateUserPayload:
    user: User | None = None
    user_errors: list[UserError]


@strawberry.input
class UpdateUserInput:
    user_id: strawberry.ID
    email: str | None = strawberry.UNSET
    name: str | None = strawberry.UNSET
    role: UserRole | None = strawberry.UNSET
    idempotency_key: str | None = None


@strawberry.type
class UpdateUserPayload:
    user: User | None = None
    user_errors: list[UserError]


@strawberry.input
class DeleteUserInput:
    user_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class DeleteUserPayload:
    deleted_id: strawberry.ID | None = None
    user_errors: list[UserError]


@strawberry.input
class CreateApiKeyInput:
    name: str
    scopes: list[Scope] | None = strawberry.field(default=None, description="READ and WRITE unless given.")
    expires_at: datetime | None = None
    idempotency_key: str | None = None


@strawberry.type
class CreateApiKeyPayload:
    api_key: ApiKey | None = None
    secret: str | None = strawberry.field(default=None, description="Shown this once.")
    user_errors: list[UserError]


@strawberry.input
class RotateApiKeyInput:
    api_key_id: strawberry.ID
    overlap_seconds: int | None = strawberry.field(
        default=None, description="How long the old secret still works: 0 to 2592000, 86400 unless given."
    )
    idempotency_key: str | None = None


@strawberry.type
class RotateApiKeyPayload:
    api_key: ApiKey | None = None
    secret: str | None = strawberry.field(default=None, description="Shown this once.")
    user_errors: list[UserError]


@strawberry.input
class RevokeApiKeyInput:
    api_key_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class RevokeApiKeyPayload:
    api_key: ApiKey | None = None
    user_errors: list[UserError]


@strawberry.input
class CreateStreamTokenInput:
    customer_id: strawberry.ID | None = None
    expires_in_seconds: int | None = strawberry.field(
        default=None, description="1 to 86400, 3600 unless given."
    )
    idempotency_key: str | None = None


@strawberry.type
class CreateStreamTokenPayload:
    token: str | None = None
    expires_at: datetime | None = None
    user_errors: list[UserError]


@strawberry.type
class AccountMutations:
    @strawberry.mutation
    async def update_account(self, info: Info, input: UpdateAccountInput) -> UpdateAccountPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            changes = given(input, "name", "logo_url")
            return {"account": await actions.update_account(session, actor, changes)}

        return await mutate(info, input, UpdateAccountPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def create_user(self, info: Info, input: CreateUserInput) -> CreateUserPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            values = given(input, "email", "name", "role")
            return {"user": await actions.create_user(session, actor, **values)}

        return await mutate(info, input, CreateUserPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def update_user(self, info: Info, input: UpdateUserInput) -> UpdateUserPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            changes = given(input, "email", "name", "role")
            return {"user": await actions.update_user(session, actor, input.user_id, changes)}

        return await mutate(info, input, UpdateUserPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def delete_user(self, info: Info, input: DeleteUserInput) -> DeleteUserPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            return {"deleted_id": await actions.delete_user(session, actor, input.user_id)}

        return await mutate(info, input, DeleteUserPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def create_api_key(self, info: Info, input: CreateApiKeyInput) -> CreateApiKeyPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            values = given(input, "name", "scopes", "expires_at")
            key, secret = await actions.create_api_key(session, actor, **values)
            return {"api_key": key, "secret": secret}

        return await mutate(info, input, CreateApiKeyPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation(
        description="Same apiKeyId, new secret and prefix; the old secret works for overlapSeconds more."
    )
    async def rotate_api_key(self, info: Info, input: RotateApiKeyInput) -> RotateApiKeyPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            key, secret = await actions.rotate_api_key(
                session, actor, input.api_key_id, input.overlap_seconds
            )
            return {"api_key": key, "secret": secret}

        return await mutate(info, input, RotateApiKeyPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation(
        description="It and its stream tokens open nothing any more. The last live key with ADMIN stays: CONFLICT."
    )
    async def revoke_api_key(self, info: Info, input: RevokeApiKeyInput) -> RevokeApiKeyPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            return {"api_key": await actions.revoke_api_key(session, actor, input.api_key_id)}

        return await mutate(info, input, RevokeApiKeyPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation(
        description="For browsers: read-only, short-lived, may be bound to one customer; dies with the key that "
        "made it."
    )
    async def create_stream_token(
        self,
        info: Info,
        input: CreateStreamTokenInput,
    ) -> CreateStreamTokenPayload | None:
        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            token, expires_at = await actions.create_stream_token(
                session,
                actor,
                info.context.services.keyring,
                customer_id=input.customer_id,
                expires_in_seconds=input.expires_in_seconds,
            )
            return {"token": token, "expires_at": expires_at}

        return await mutate(info, input, CreateStreamTokenPayload, run)
