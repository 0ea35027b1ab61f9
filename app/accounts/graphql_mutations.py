"""GraphQL mutations of accounts, users, API keys and stream tokens, with their inputs and payloads."""

from datetime import datetime
from typing import Any

import strawberry
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts import actions
from app.accounts.graphql import Account, ApiKey, User
from app.accounts.models import UserRole
from app.auth.actor import Actor, Scope
from app.graphql.context import Info
from app.graphql.inputs import given
from app.graphql.mutations import UserError, mutate
from app.outbound.mail.link_tokens import MailLinks


@strawberry.input
class UpdateAccountInput:
    name: str | None = strawberry.UNSET
    """The company's new name, up to 200 characters; cannot be cleared."""
    logo_url: str | None = strawberry.UNSET
    """An https link to the company's logo."""
    idempotency_key: str | None = None


@strawberry.type
class UpdateAccountPayload:
    account: Account | None = None
    user_errors: list[UserError]


@strawberry.input
class CreateUserInput:
    email: str
    """The person's address, unique in the account whatever its case."""
    name: str
    """The person's name, up to 200 characters."""
    role: UserRole | None = None
    """The person's role; MEMBER unless given."""
    idempotency_key: str | None = None


@strawberry.type
class CreateUserPayload:
    user: User | None = None
    user_errors: list[UserError]


@strawberry.input
class UpdateUserInput:
    user_id: strawberry.ID
    email: str | None = strawberry.UNSET
    """The person's new address, unique in the account; cannot be cleared."""
    name: str | None = strawberry.UNSET
    """The person's new name, up to 200 characters; cannot be cleared."""
    role: UserRole | None = strawberry.UNSET
    """The person's new role; the last ADMIN stays one; cannot be cleared."""
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
    """A name for people, up to 200 characters."""
    scopes: list[Scope] | None = None
    """The powers of the key; READ and WRITE unless given."""
    expires_at: datetime | None = None
    """When it stops working, in the future; null: never."""
    idempotency_key: str | None = None


@strawberry.type
class CreateApiKeyPayload:
    api_key: ApiKey | None = None
    secret: str | None = None
    """The whole key, vw_live_…, shown this once."""
    user_errors: list[UserError]


@strawberry.input
class RotateApiKeyInput:
    api_key_id: strawberry.ID
    overlap_seconds: int | None = None
    """How many seconds the old secret still works: 0 to 2592000, 86400 unless given."""
    idempotency_key: str | None = None


@strawberry.type
class RotateApiKeyPayload:
    api_key: ApiKey | None = None
    secret: str | None = None
    """The key's new secret, vw_live_…, shown this once."""
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
    """The one customer whose data the token shows; null: the whole account."""
    expires_in_seconds: int | None = None
    """How many seconds it lives: 1 to 86400, 3600 unless given; never longer than its key."""
    idempotency_key: str | None = None


@strawberry.type
class CreateStreamTokenPayload:
    token: str | None = None
    """The token, vw_stream_…, to be sent as an API key is."""
    expires_at: datetime | None = None
    """When the token stops working."""
    user_errors: list[UserError]


@strawberry.type
class AccountMutations:
    @strawberry.mutation
    async def update_account(self, info: Info, input: UpdateAccountInput) -> UpdateAccountPayload | None:
        """Change the account's name or logo; needs ADMIN."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            changes = given(input, "name", "logo_url")
            return {"account": await actions.update_account(session, actor, changes)}

        return await mutate(info, input, UpdateAccountPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def create_user(self, info: Info, input: CreateUserInput) -> CreateUserPayload | None:
        """Add a person to the account, with the event user.created, and mail them the link that confirms the address.

        Needs ADMIN.
        """

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            values = given(input, "email", "name", "role")
            return {"user": await actions.create_user(session, actor, _mail_links(info), **values)}

        return await mutate(info, input, CreateUserPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def update_user(self, info: Info, input: UpdateUserInput) -> UpdateUserPayload | None:
        """Change a user; needs ADMIN. An email that is not confirmed is mailed the link, also if it stays the same."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            changes = given(input, "email", "name", "role")
            user = await actions.update_user(session, actor, _mail_links(info), input.user_id, changes)
            return {"user": user}

        return await mutate(info, input, UpdateUserPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def delete_user(self, info: Info, input: DeleteUserInput) -> DeleteUserPayload | None:
        """Delete a user; the last ADMIN stays: CONFLICT. Needs ADMIN."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            return {"deleted_id": await actions.delete_user(session, actor, input.user_id)}

        return await mutate(info, input, DeleteUserPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def create_api_key(self, info: Info, input: CreateApiKeyInput) -> CreateApiKeyPayload | None:
        """Make an API key; needs ADMIN."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            values = given(input, "name", "scopes", "expires_at")
            key, secret = await actions.create_api_key(session, actor, **values)
            return {"api_key": key, "secret": secret}

        return await mutate(info, input, CreateApiKeyPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def rotate_api_key(self, info: Info, input: RotateApiKeyInput) -> RotateApiKeyPayload | None:
        """Same apiKeyId, new secret and prefix; the old secret works for overlapSeconds more. Needs ADMIN."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            key, secret = await actions.rotate_api_key(
                session, actor, input.api_key_id, input.overlap_seconds
            )
            return {"api_key": key, "secret": secret}

        return await mutate(info, input, RotateApiKeyPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def revoke_api_key(self, info: Info, input: RevokeApiKeyInput) -> RevokeApiKeyPayload | None:
        """It and its stream tokens open nothing any more. The last live key with ADMIN stays: CONFLICT. Needs
        ADMIN."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            return {"api_key": await actions.revoke_api_key(session, actor, input.api_key_id)}

        return await mutate(info, input, RevokeApiKeyPayload, run, needs=Scope.ADMIN)

    @strawberry.mutation
    async def create_stream_token(
        self,
        info: Info,
        input: CreateStreamTokenInput,
    ) -> CreateStreamTokenPayload | None:
        """For browsers: read-only, short-lived, may be bound to one customer; dies with the key that made it, and with
        the secret that was sent: when its overlap ends, once it is rotated."""

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


def _mail_links(info: Info) -> MailLinks:
    services = info.context.services
    return MailLinks(services.keyring, services.public_url)
