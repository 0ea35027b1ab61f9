"""The confirmation of users' addresses by a mailed link. Only a confirmed address gets notices of failing endpoints.

The functions take a session and never commit.
"""

from collections.abc import Sequence

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.letterhead import account_name
from app.accounts.models import User, UserRole
from app.core import clock
from app.core.errors import Refusal
from app.events.publisher import work_due
from app.outbound.mail import suppressions, unconfirmed
from app.outbound.mail.addresses import HashedAddress, address_hashes
from app.outbound.mail.link_removal import without_links
from app.outbound.mail.link_tokens import MailLinks, user_token, verified_user
from app.outbound.mail.mail_queue import enqueue
from app.outbound.mail.rendering import laid_out


async def send_link(session: AsyncSession, links: MailLinks, user: User, *field: str) -> None:
    """Mails the link to the user's address unless it has unsubscribed. Raises LIMIT_REACHED at `field`."""
    keyring, account_id, email = links.keyring, user.account_id, user.email
    if not await links.suppressions.may_ask(session, account_id, email):
        return
    await unconfirmed.count(session, keyring, unconfirmed.Kind.INVITATION, account_id, email, *field)
    address = HashedAddress.of(keyring, account_id, email)
    link = f"{links.public_url}/users/confirm/{user_token(keyring, user.id, address)}"
    account = without_links(await account_name(session, account_id))
    values = {
        "account": account,
        "address": email,
        "link": link,
        "unsubscribe_url": links.unsubscribe_url(user.id, address),
    }
    mail = laid_out("confirm_user", f"Confirm: notices of {account}", values)
    enqueue(session, keyring, account_id, email, mail, user.id)
    user.asked_at = clock.now()
    work_due(session, account_id)


async def send_link_if_allowed(session: AsyncSession, links: MailLinks, user: User) -> None:
    """Mails the link unless the address is at a limit of unconfirmed mails; it is then mailed with the next notice."""
    try:
        await send_link(session, links, user)
    except Refusal:
        user.asked_at = None


async def notice_recipients(session: AsyncSession, links: MailLinks, account_id: str) -> list[str]:
    """The confirmed addresses of the administrators, or of all users where there is none, but for the unsubscribed.

    Users that have never been asked to confirm their address are asked now: an account's first user, and users from
    before addresses were confirmed.
    """
    statement = select(User).where(col(User.account_id) == account_id).order_by(col(User.id))
    users = (await session.exec(statement)).all()
    recipients = [user for user in users if user.role == UserRole.ADMIN.value] or users
    await _send_first_links(session, links, recipients)
    return [user.email for user in recipients if await receives_notices(session, links, user)]


async def _send_first_links(session: AsyncSession, links: MailLinks, users: Sequence[User]) -> None:
    # All users are locked before the first mailbox, as where one user is changed, and mailboxes in one order, as where
    # another account asks the same ones: otherwise two transactions could wait for each other.
    statement = (
        select(User)
        .where(
            col(User.id).in_([user.id for user in users]),
            col(User.asked_at).is_(None),
            col(User.email_confirmed_at).is_(None),
        )
        .order_by(col(User.id))
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    unasked = (await session.exec(statement)).all()
    for user in sorted(unasked, key=lambda user: unconfirmed.lock_key(links.keyring, user.email)):
        user.asked_at = clock.now()
        await send_link_if_allowed(session, links, user)


async def find(session: AsyncSession, links: MailLinks, token: str, *, lock: bool = False) -> User | None:
    """The user of the link with this token; None if the user's address has changed since."""
    verified = verified_user(links.keyring, token)
    if verified is None:
        return None
    user_id, address_hash = verified
    statement = select(User).where(col(User.id) == user_id)
    if lock:
        statement = statement.with_for_update(key_share=True)
    user: User | None = (await session.execute(statement)).scalar_one_or_none()
    return user if user is not None and address_hash in address_hashes(links.keyring, user.email) else None


async def receives_notices(session: AsyncSession, links: MailLinks, user: User) -> bool:
    """Whether notices go to the user: the address is confirmed and has not unsubscribed since."""
    if user.email_confirmed_at is None:
        return False
    return not await links.suppressions.has(session, user.account_id, user.email)


async def confirm(session: AsyncSession, links: MailLinks, token: str) -> User | None:
    """Confirms the address of the user of the link with this token. Repeating it changes nothing."""
    user = await find(session, links, token, lock=True)
    if user is not None and not await receives_notices(session, links, user):
        user.email_confirmed_at = user.email_confirmed_at or clock.now()
        await suppressions.lift(session, user.account_id, address_hashes(links.keyring, user.email))
    return user
