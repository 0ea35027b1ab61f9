"""The suppression list: addresses that want no mails of an account, until they lift it by an earlier mail's link.

Subscriptions that were ended before there was a list are not on it, and count as if they were.
"""

from datetime import datetime

from sqlalchemy import func, select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.delivery.queue.models import EmailSubscription, EmailSubscriptionStatus, MailSuppression
from app.outbound.mail.addresses import Remembered, address_hashes, mailbox_of


async def suppress(session: AsyncSession, address: Remembered) -> None:
    """The account may not ask this address any more. Repeated, it changes nothing."""
    row = await find(session, address, lock=True)
    if row is None:
        session.add(MailSuppression(account_id=address.account_id, address_hash=address.hash))
        await session.flush()
    elif row.lifted_at is not None:
        row.lifted_at = None


async def lift(session: AsyncSession, account_id: str, hashes: list[str]) -> None:
    """The account may ask the address again, whichever key its hash was made with."""
    await session.execute(
        update(MailSuppression)
        .where(
            col(MailSuppression.account_id) == account_id,
            col(MailSuppression.address_hash).in_(hashes),
            col(MailSuppression.lifted_at).is_(None),
        )
        .values(lifted_at=clock.now())
    )


async def find(session: AsyncSession, address: Remembered, *, lock: bool = False) -> MailSuppression | None:
    """The row of this hash, also one that was lifted since."""
    statement = select(MailSuppression).where(
        col(MailSuppression.account_id) == address.account_id,
        col(MailSuppression.address_hash) == address.hash,
    )
    if lock:
        statement = statement.with_for_update()
    found: MailSuppression | None = (await session.execute(statement)).scalar_one_or_none()
    return found


async def is_suppressed(session: AsyncSession, keyring: Keyring, account_id: str, address: str) -> bool:
    """Whether the account may not ask this address."""
    lifted = await _lifted(session, keyring, account_id, address)
    return None in lifted if lifted else await _was_ended_unlisted(session, account_id, address)


async def may_ask(session: AsyncSession, keyring: Keyring, account_id: str, address: str) -> bool:
    """Whether the account may ask this address to confirm.

    One with a tag is asked as little as the plain one behind it, unless it has had its own say: else people who have
    unsubscribed would be asked under ever new tags.
    """
    if await is_suppressed(session, keyring, account_id, address):
        return False
    plain = mailbox_of(address)
    if plain == address.casefold() or await _lifted(session, keyring, account_id, address):
        return True
    return None not in await _lifted(session, keyring, account_id, plain)


async def list_ended(session: AsyncSession, keyring: Keyring, account_id: str, address: str) -> None:
    """Suppress an address whose subscriptions were ended before there was a list, of which one is to be deleted."""
    is_listed = bool(await _lifted(session, keyring, account_id, address))
    if not is_listed and await _was_ended_unlisted(session, account_id, address):
        await suppress(session, Remembered.of(keyring, account_id, address))


async def _lifted(
    session: AsyncSession, keyring: Keyring, account_id: str, address: str
) -> list[datetime | None]:
    """When each row of the address was lifted, whichever key its hash was made with."""
    statement = select(col(MailSuppression.lifted_at)).where(
        col(MailSuppression.account_id) == account_id,
        col(MailSuppression.address_hash).in_(address_hashes(keyring, address)),
    )
    return list((await session.execute(statement)).scalars())


async def _was_ended_unlisted(session: AsyncSession, account_id: str, address: str) -> bool:
    """Whether the address has subscriptions of the account, all of them ended."""
    statement = select(col(EmailSubscription.status)).where(
        col(EmailSubscription.account_id) == account_id,
        func.lower(col(EmailSubscription.email)) == address.lower(),
    )
    statuses = set((await session.execute(statement)).scalars())
    return statuses == {EmailSubscriptionStatus.UNSUBSCRIBED.value}


async def require_none(
    session: AsyncSession, keyring: Keyring, account_id: str, address: str, *field: str
) -> None:
    """Raises CONFLICT for an address that is on the list."""
    if not await may_ask(session, keyring, account_id, address):
        raise Refusal(
            ErrorCode.CONFLICT,
            "This address has unsubscribed from your mails. Ask its owner to open the link of an earlier "
            "confirmation mail and to confirm there; until then it cannot be mailed.",
            *field,
        )
