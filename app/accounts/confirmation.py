"""A user's address is confirmed by a mailed link; only then is it told of endpoints that fail.

Verbs take a session and never commit.
"""

from sqlalchemy import update
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.models import User
from app.core import clock
from app.core.crypto import Keyring
from app.core.errors import Refusal
from app.events.publisher import work_due
from app.outbound.mail import rendering, suppressions, unconfirmed
from app.outbound.mail.addresses import Remembered, address_hashes
from app.outbound.mail.link_tokens import unsubscribe_url, user_token, verified_user
from app.outbound.mail.rendering import Post


async def ask(session: AsyncSession, post: Post, user: User, *field: str) -> None:
    """Mail the link to the user's address, unless it wants no mails of the account. Raises LIMIT_REACHED at `field`."""
    keyring, account_id, email = post.keyring, user.account_id, user.email
    if not await suppressions.may_ask(session, keyring, account_id, email):
        return
    await unconfirmed.count(session, keyring, unconfirmed.Kind.INVITATION, account_id, email, *field)
    address = Remembered.of(keyring, account_id, email)
    link = f"{post.public_url}/users/confirm/{user_token(keyring, user.id, address)}"
    stop = unsubscribe_url(keyring, post.public_url, user.id, address)
    mail = await rendering.user_mail(session, account_id, email, link, stop)
    session.add(rendering.outgoing(keyring, account_id, email, mail, user.id))
    user.asked_at = clock.now()
    work_due(session, account_id)


async def ask_once(session: AsyncSession, post: Post, user: User) -> None:
    """Ask a user that was never asked: an account's first, and those of before addresses were confirmed."""
    claimed = await session.execute(
        update(User)
        .where(col(User.id) == user.id, col(User.asked_at).is_(None), col(User.email_confirmed_at).is_(None))
        .values(asked_at=clock.now())
        .returning(col(User.id))
    )
    if claimed.first() is None:
        return
    try:
        await ask(session, post, user)
    except Refusal:
        # The address has had its mails for now: it is asked when there is something to tell again.
        user.asked_at = None


async def find(session: AsyncSession, keyring: Keyring, token: str, *, lock: bool = False) -> User | None:
    """The user whose address the link with this token was mailed to, as long as it is the user's."""
    verified = verified_user(keyring, token)
    if verified is None:
        return None
    user_id, address_hash = verified
    statement = select(User).where(col(User.id) == user_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    user: User | None = (await session.execute(statement)).scalar_one_or_none()
    return user if user is not None and address_hash in address_hashes(keyring, user.email) else None


async def is_told(session: AsyncSession, keyring: Keyring, user: User) -> bool:
    """Whether notices go to the user: the address was confirmed, and has not unsubscribed since."""
    if user.email_confirmed_at is None:
        return False
    return not await suppressions.is_suppressed(session, keyring, user.account_id, user.email)


async def confirm(session: AsyncSession, keyring: Keyring, token: str) -> User | None:
    """The address is the user's, and wants the notices. A second time nothing changes."""
    user = await find(session, keyring, token, lock=True)
    if user is not None and not await is_told(session, keyring, user):
        user.email_confirmed_at = user.email_confirmed_at or clock.now()
        await suppressions.lift(session, user.account_id, address_hashes(keyring, user.email))
    return user
