"""The wording of mails about users and API keys."""

from collections.abc import Mapping
from typing import Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.events import ApiKeysRotated, UserCreated
from app.accounts.models import User
from app.auth.api_keys import ApiKey
from app.core.clock import parse_utc
from app.events.models import EventRecord
from app.outbound.mail.rendering import shown, uk_time
from app.outbound.mail.wording import MailFacts, Wording


async def user_created(session: AsyncSession, event: EventRecord) -> MailFacts:
    statement = select(User).where(col(User.account_id) == event.account_id, col(User.id) == event.subject_id)
    user = (await session.exec(statement)).one_or_none()
    if user is None:
        return MailFacts("New user, deleted since", [("User", shown(None))])
    role = user.role.lower()
    return MailFacts(
        f"New user: {user.name} ({role})", [("User", user.name), ("Email", user.email), ("Role", role)]
    )


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


WORDING: Final[Mapping[str, Wording]] = {
    UserCreated.type: user_created,
    ApiKeysRotated.type: keys_rotated,
}
