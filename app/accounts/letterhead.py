"""An account's name and logo, as mails and pages show them to anyone."""

from dataclasses import dataclass

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.models import Account
from app.core.validation import is_link
from app.outbound.mail.rendering import shorten


@dataclass(frozen=True)
class Letterhead:
    name: str
    logo_url: str | None


async def letterhead(session: AsyncSession, account_id: str) -> Letterhead:
    """The name on one line, and the logo if its link is https."""
    statement = select(Account.name, Account.logo_url).where(col(Account.id) == account_id)
    name, logo_url = (await session.exec(statement)).one()
    is_shown = logo_url is not None and is_link(logo_url, schemes=("https",))
    return Letterhead(shorten(name, 100), logo_url if is_shown else None)


async def account_name(session: AsyncSession, account_id: str) -> str:
    return (await letterhead(session, account_id)).name
