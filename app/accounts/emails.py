"""What mails say about users and API keys, and what an account is called in any mail."""

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts import confirmation
from app.accounts.models import Account, User, UserRole
from app.auth.api_keys import ApiKey
from app.core.clock import parse_utc
from app.events.catalogue import EventType
from app.events.models import EventRecord
from app.outbound.mail.rendering import (
    Letterhead,
    MailFacts,
    Post,
    letterhead_of_account,
    mail_for,
    recipients_of_account,
    shown,
    uk_time,
)


@letterhead_of_account
async def letterhead(session: AsyncSession, account_id: str) -> Letterhead:
    statement = select(Account.name, Account.logo_url).where(col(Account.id) == account_id)
    name, logo_url = (await session.exec(statement)).one()
    return Letterhead(name, logo_url)


@recipients_of_account
async def administrators(session: AsyncSession, post: Post, account_id: str) -> list[str]:
    """The confirmed addresses of the administrators, or of all users where there is none, but for the unsubscribed.

    Those that have never been asked to confirm theirs are asked now.
    """
    statement = select(User).where(col(User.account_id) == account_id).order_by(col(User.id))
    users = (await session.exec(statement)).all()
    leading = [user for user in users if user.role == UserRole.ADMIN.value] or users
    for user in leading:
        await confirmation.ask_once(session, post, user)
    return [user.email for user in leading if await confirmation.is_told(session, post.keyring, user)]


@mail_for(EventType.USER_CREATED)
async def user_created(session: AsyncSession, event: EventRecord) -> MailFacts:
    statement = select(User).where(col(User.account_id) == event.account_id, col(User.id) == event.subject_id)
    user = (await session.exec(statement)).one_or_none()
    if user is None:
        return MailFacts("New user, deleted since", [("User", shown(None))])
    role = user.role.lower()
    return MailFacts(
        f"New user: {user.name} ({role})", [("User", user.name), ("Email", user.email), ("Role", role)]
    )


@mail_for(EventType.API_KEYS_ROTATED)
async def keys_rotated(session: AsyncSession, event: EventRecord) -> MailFacts:
    statement = select(ApiKey.name).where(
        col(ApiKey.account_id) == event.account_id, col(ApiKey.id) == event.subject_id
    )
    name = shown((await session.exec(statement)).one_or_none())
    until = event.data["overlapUntil"]
    works = f"works until {uk_time(parse_utc(until))}" if until else "no longer works"
    return MailFacts(
        f"API key “{name}” has a new secret",
        [
            ("API key", name),
            ("New secret", f"begins with {event.data['prefix']}"),
            ("Old secret", f"{event.data['previousPrefix']}…, {works}"),
        ],
    )
