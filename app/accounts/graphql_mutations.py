"""GraphQL mutations of accounts, users, API keys and stream tokens, with their inputs and payloads."""

from datetime import datetime

import strawberry

from app.accounts import actions
from app.accounts.graphql import Account, ApiKey, User
from app.accounts.models import UserRole
from app.auth.actor import Scope
from app.graphql.idempotency import Result
from app.graphql.inputs import given
from app.graphql.mutations import MutationContext, UserError, mutation


@strawberry.input
class UpdateAccountInput:
    name: str | None = strawberry.UNSET
    """The company's new name, up to 200 characters; cannot be cleared."""
    logo_url: str | None = strawberry.UNSET
    """An https link to the company's logo."""
    idempotency_key: str | None = None


@strawberry.input
class CreateUserInput:
    email: str
    """The person's address, unique in the account whatever its case."""
    name: str
    """The person's name, up to 200 characters."""
    role: UserRole | None = None
    """The person's role; MEMBER unless given."""
    idempotency_key: str | None = None


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


@strawberry.input
class DeleteUserInput:
    user_id: strawberry.ID
    idempotency_key: str | None = None


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
    @mutation(account=Account, needs=Scope.ADMIN)
    async def update_account(self, context: MutationContext, input: UpdateAccountInput) -> Result:
        """Change the account's name or logo; needs ADMIN."""
        changes = given(input, "name", "logo_url")
        return {"account": await actions.update_account(context.session, context.actor, changes)}

    @mutation(user=User, needs=Scope.ADMIN)
    async def create_user(self, context: MutationContext, input: CreateUserInput) -> Result:
        """Add a person to the account, with the event user.created, and mail them the link that confirms the address.

        Needs ADMIN.
        """
        values = given(input, "email", "name", "role")
        return {
            "user": await actions.create_user(
                context.session, context.actor, context.services.mail_links, **values
            )
        }

    @mutation(user=User, needs=Scope.ADMIN)
    async def update_user(self, context: MutationContext, input: UpdateUserInput) -> Result:
        """Change a user; needs ADMIN. An email that is not confirmed is mailed the link, also if it stays the same."""
        changes = given(input, "email", "name", "role")
        user = await actions.update_user(
            context.session, context.actor, context.services.mail_links, input.user_id, changes
        )
        return {"user": user}

    @mutation(deleted_id=strawberry.ID, needs=Scope.ADMIN)
    async def delete_user(self, context: MutationContext, input: DeleteUserInput) -> Result:
        """Delete a user; the last ADMIN stays: CONFLICT. Needs ADMIN."""
        return {"deleted_id": await actions.delete_user(context.session, context.actor, input.user_id)}

    @mutation(CreateApiKeyPayload, needs=Scope.ADMIN)
    async def create_api_key(self, context: MutationContext, input: CreateApiKeyInput) -> Result:
        """Make an API key; needs ADMIN."""
        values = given(input, "name", "scopes", "expires_at")
        key, secret = await actions.create_api_key(context.session, context.actor, **values)
        return {"api_key": key, "secret": secret}

    @mutation(RotateApiKeyPayload, needs=Scope.ADMIN)
    async def rotate_api_key(self, context: MutationContext, input: RotateApiKeyInput) -> Result:
        """Same apiKeyId, new secret and prefix; the old secret works for overlapSeconds more. Needs ADMIN."""
        key, secret = await actions.rotate_api_key(
            context.session, context.actor, input.api_key_id, input.overlap_seconds
        )
        return {"api_key": key, "secret": secret}

    @mutation(api_key=ApiKey, needs=Scope.ADMIN)
    async def revoke_api_key(self, context: MutationContext, input: RevokeApiKeyInput) -> Result:
        """It and its stream tokens open nothing any more. The last live key with ADMIN stays: CONFLICT. Needs
        ADMIN."""
        return {"api_key": await actions.revoke_api_key(context.session, context.actor, input.api_key_id)}

    @mutation(CreateStreamTokenPayload)
    async def create_stream_token(self, context: MutationContext, input: CreateStreamTokenInput) -> Result:
        """For browsers: read-only, short-lived, may be bound to one customer; dies with the key that made it, and with
        the secret that was sent: when its overlap ends, once it is rotated."""
        token, expires_at = await actions.create_stream_token(
            context.session,
            context.actor,
            context.services.keyring,
            customer_id=input.customer_id,
            expires_in_seconds=input.expires_in_seconds,
        )
        return {"token": token, "expires_at": expires_at}
