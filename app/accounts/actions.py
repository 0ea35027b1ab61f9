"""Actions on accounts, users, API keys and stream tokens. Each takes a session and never commits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts import confirmation
from app.accounts.events import ApiKeysRotated, UserCreated
from app.accounts.models import Account, User, UserRole
from app.auth import stream_tokens
from app.auth.actor import FOR_NO_KEY_UPDATE, Actor, Scope, load_visible, visible
from app.auth.api_keys import ApiKey
from app.auth.authenticate import CredentialsChanged
from app.core import clock, rotation, validation
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Forbidden, Refusal
from app.customers import actions as customers
from app.db.database import run_script
from app.db.scripts import announce
from app.events import log
from app.outbound.mail import addresses
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.mail_queue import forget_mails_about

DEFAULT_SCOPES: Final = (Scope.READ, Scope.WRITE)
DEFAULT_TOKEN_LIFE: Final = 3_600
MAX_TOKEN_LIFE: Final = int(stream_tokens.LONGEST_LIFE.total_seconds())

# The fields that an update may change, each with its rule; None clears a field where its rule allows it.
_ACCOUNT_CHANGES: dict[str, Any] = {
    "name": lambda value: validation.required_text(validation.not_cleared(value, "name"), "name"),
    "logo_url": lambda value: validation.link(value, "logoUrl"),
}
_USER_CHANGES: dict[str, Any] = {
    "name": lambda value: validation.required_text(validation.not_cleared(value, "name"), "name"),
    "email": lambda value: addresses.checked_address(validation.not_cleared(value, "email")),
    "role": lambda value: validation.not_cleared(value, "role").value,
}


@dataclass(frozen=True)
class NewAccount:
    """A new account with its first user, its first key and the key's secret, which is shown only here."""

    account: Account
    user: User
    key: ApiKey
    secret: str


async def create_account(session: AsyncSession, *, name: str, email: str) -> NewAccount:
    """Creates an account, its log, an ADMIN user and a key with all scopes; the user is the log's event 1.

    The user's name is the part of the address before the @. Raises Refusal on `name` or `email`.
    """
    account = Account(name=validation.required_text(name, "name"))
    address = addresses.checked_address(email)
    session.add(account)
    await session.flush()
    await log.open_stream(session, account.id)
    user = User(
        account_id=account.id,
        email=address,
        name=address.partition("@")[0],
        role=UserRole.ADMIN.value,
    )
    key, secret = ApiKey.issue(account.id, "First key", list(Scope))
    session.add_all([user, key])
    await session.flush()
    log.append(session, account.id, UserCreated.of(user))
    return NewAccount(account, user, key, secret)


async def update_account(session: AsyncSession, actor: Actor, changes: dict[str, Any]) -> Account:
    """Applies the given `changes`, whose names are in `_ACCOUNT_CHANGES`."""
    account = await _lock_account(session, actor)
    for attribute, value in validation.validate_changes(_ACCOUNT_CHANGES, changes).items():
        setattr(account, attribute, value)
    return account


async def create_user(
    session: AsyncSession,
    actor: Actor,
    links: MailLinks,
    *,
    email: str,
    name: str,
    role: UserRole | None = None,
) -> User:
    """Creates a user and mails the link that confirms the address, if the mail limits allow it. Raises TAKEN."""
    user = User(
        account_id=actor.account_id,
        role=(role or UserRole.MEMBER).value,
        **validation.validate_all(
            email=lambda: addresses.checked_address(email),
            name=lambda: validation.required_text(name, "name"),
        ),
    )
    await run_script(session, addresses.require_unique(user, "user", user.email))
    # The log is locked before the mailbox, as when a subscription is created, so that the two cannot deadlock.
    await log.lock_position(session, actor.account_id)
    session.add(user)
    await session.flush()
    await confirmation.send_link_if_allowed(session, links, user)
    log.append(session, actor.account_id, UserCreated.of(user))
    return user


async def update_user(
    session: AsyncSession, actor: Actor, links: MailLinks, user_id: str, changes: dict[str, Any]
) -> User:
    """Applies the given `changes`, whose names are in `_USER_CHANGES`.

    A given email that is not confirmed is mailed the link, even if the user has it already. Only then does a limit on
    mails refuse the update, because the mail is all that it asks for.
    """
    await _lock_account(session, actor)
    user = await load_visible(session, actor, User, user_id, "user", "userId", lock=FOR_NO_KEY_UPDATE)
    before = user.email
    if changes.get("role") is UserRole.MEMBER:
        await _require_another_admin(session, user, "role")
    valid = validation.validate_changes(_USER_CHANGES, changes)
    if "email" in valid:
        await run_script(session, addresses.require_unique(user, "user", valid["email"]))
    for attribute, value in valid.items():
        setattr(user, attribute, value)
    user.updated_at = clock.now()
    if "email" in valid:
        if user.email.casefold() != before.casefold():
            user.email_confirmed_at = None
            await forget_mails_about(session, user.id)
            await confirmation.send_link_if_allowed(session, links, user)
        elif user.email_confirmed_at is None:
            await confirmation.send_link(session, links, user, "email")
    return user


async def delete_user(session: AsyncSession, actor: Actor, user_id: str) -> str:
    """Deletes a user. The last ADMIN of an account stays, because nobody else is in charge of it."""
    await _lock_account(session, actor)
    user = await load_visible(session, actor, User, user_id, "user", "userId", lock=FOR_NO_KEY_UPDATE)
    await _require_another_admin(session, user, "userId")
    await forget_mails_about(session, user.id)
    await session.delete(user)
    return user_id


async def create_api_key(
    session: AsyncSession,
    actor: Actor,
    *,
    name: str,
    scopes: Sequence[Scope] | None = None,
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Creates a key. Returns it with its secret, which is shown only here. Scopes are READ and WRITE unless given."""
    valid = validation.validate_all(
        name=lambda: validation.required_text(name, "name"),
        scopes=lambda: _scopes(scopes),
        expires_at=lambda: _in_future(expires_at),
    )
    key, secret = ApiKey.issue(actor.account_id, **valid)
    session.add(key)
    await session.flush()
    return key, secret


async def rotate_api_key(
    session: AsyncSession, actor: Actor, api_key_id: str, overlap_seconds: int | None = None
) -> tuple[ApiKey, str]:
    """Gives a key a new secret. The old secret works until the overlap ends, any older secret no longer."""
    overlap = rotation.overlap(overlap_seconds)
    key = await load_visible(
        session, actor, ApiKey, api_key_id, "API key", "apiKeyId", lock=FOR_NO_KEY_UPDATE
    )
    at = clock.now()
    if not key.is_live(at):
        raise Refusal(
            ErrorCode.CONFLICT, "This key is revoked or expired; create a new one instead.", "apiKeyId"
        )
    previous_prefix = key.prefix
    secret = key.rotate(overlap, at)
    log.append(
        session,
        actor.account_id,
        ApiKeysRotated.of(key, previous_prefix, key.previous_until if overlap else None),
    )
    announce(session, [CredentialsChanged(actor.account_id)])
    return key, secret


async def revoke_api_key(session: AsyncSession, actor: Actor, api_key_id: str) -> ApiKey:
    """Revokes a key, which ends it and its stream tokens. A revoked key stays as it is.

    The last live key with ADMIN stays, because nobody could create another without it. A leaked last key is rotated
    with `overlapSeconds: 0`.
    """
    await _lock_account(session, actor)
    key = await load_visible(
        session, actor, ApiKey, api_key_id, "API key", "apiKeyId", lock=FOR_NO_KEY_UPDATE
    )
    if key.revoked_at is not None:
        return key
    at = clock.now()
    if _is_live_admin(key, at):
        keys = (await session.execute(visible(select(ApiKey), actor))).scalars()
        if not any(_is_live_admin(other, at) for other in keys if other.id != key.id):
            raise Refusal(
                ErrorCode.CONFLICT,
                "This is the last live key with the scope ADMIN: create another first, or rotate this one.",
                "apiKeyId",
            )
    key.revoked_at = at
    announce(session, [CredentialsChanged(actor.account_id)])
    return key


async def create_stream_token(
    session: AsyncSession,
    actor: Actor,
    keyring: Keyring,
    *,
    customer_id: str | None = None,
    expires_in_seconds: int | None = None,
) -> tuple[str, datetime]:
    """Creates a stream token. Returns it with its end, which is never after that of the key's secret in use.

    Raises NOT_FOUND or OUT_OF_RANGE.
    """
    seconds = DEFAULT_TOKEN_LIFE if expires_in_seconds is None else expires_in_seconds
    if not 1 <= seconds <= MAX_TOKEN_LIFE:
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"expiresInSeconds must be 1 to {MAX_TOKEN_LIFE} (a day), got {seconds}.",
            "expiresInSeconds",
        )
    if actor.api_key_id is None or actor.is_stream_token:
        raise Forbidden("Only an API key makes stream tokens.")
    if customer_id is not None:
        await run_script(session, customers.find(actor, customer_id, "customerId"))
    key = await session.get_one(ApiKey, actor.api_key_id)
    at = clock.now()
    mark = stream_tokens.mark_of(actor.secret_hash or key.secret_hash)
    token = stream_tokens.StreamToken(
        actor.account_id, key.id, customer_id, at + timedelta(seconds=seconds), mark
    )
    if not key.state.accepts_token(token, at):
        raise Forbidden("This key was rotated or has ended: use its new secret.")
    token = replace(token, expires_at=key.state.end_of(token))
    return stream_tokens.make(keyring, token), token.expires_at


async def _lock_account(session: AsyncSession, actor: Actor) -> Account:
    """Locks the account, so that two changes cannot both remove, say, one of the last two administrators."""
    statement = visible(select(Account), actor).with_for_update(**FOR_NO_KEY_UPDATE)
    account: Account = (await session.execute(statement)).scalar_one()
    return account


async def _require_another_admin(session: AsyncSession, user: User, *field: str) -> None:
    """Raises CONFLICT if the user is the account's last ADMIN."""
    others = select(col(User.id)).where(
        col(User.account_id) == user.account_id,
        col(User.role) == UserRole.ADMIN.value,
        col(User.id) != user.id,
    )
    if user.role == UserRole.ADMIN.value and (await session.execute(others.limit(1))).first() is None:
        raise Refusal(
            ErrorCode.CONFLICT, "This is the account's last ADMIN user: make another one ADMIN first.", *field
        )


def _scopes(scopes: Sequence[Scope] | None) -> list[Scope]:
    if scopes is not None and not scopes:
        raise Refusal(ErrorCode.REQUIRED, "Give at least one scope, or leave scopes out.", "scopes")
    return list(scopes or DEFAULT_SCOPES)


def _in_future(expires_at: datetime | None) -> datetime | None:
    if expires_at is not None and expires_at <= clock.now():
        raise Refusal(
            ErrorCode.INVALID, "expiresAt must lie in the future; leave it out for never.", "expiresAt"
        )
    return expires_at


def _is_live_admin(key: ApiKey, at: datetime) -> bool:
    return key.is_live(at) and Scope.ADMIN.value in key.scopes
