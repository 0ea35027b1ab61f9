"""The suppression list: addresses that have unsubscribed from an account, until they confirm by an earlier mail's link.

Addresses that unsubscribed before there was a list are not on it, but count as if they were.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlmodel import col
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core import clock
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.outbound.mail.addresses import HashedAddress, address_hashes, mailbox_of
from app.outbound.mail.models import MailSuppression

HasUnsubscribed = Callable[[AsyncSession, str, str], Awaitable[bool]]
"""Whether an address, named after its account, has subscriptions of the account and has unsubscribed from all."""


async def suppress(session: AsyncSession, address: HashedAddress) -> None:
    """Forbid the account to ask this address. A second time nothing changes."""
    row = await find(session, address, lock=True)
    if row is None:
        session.add(MailSuppression(account_id=address.account_id, address_hash=address.hash))
        await session.flush()
    elif row.lifted_at is not None:
        row.lifted_at = None


async def lift(session: AsyncSession, account_id: str, hashes: list[str]) -> None:
    """Allow the account to ask the address again; `hashes` are its hashes by all keys."""
    await session.execute(
        update(MailSuppression)
        .where(
            col(MailSuppression.account_id) == account_id,
            col(MailSuppression.address_hash).in_(hashes),
            col(MailSuppression.lifted_at).is_(None),
        )
        .values(lifted_at=clock.now())
    )


async def find(
    session: AsyncSession, address: HashedAddress, *, lock: bool = False
) -> MailSuppression | None:
    """The row of this hash, lifted or not."""
    statement = select(MailSuppression).where(
        col(MailSuppression.account_id) == address.account_id,
        col(MailSuppression.address_hash) == address.hash,
    )
    if lock:
        statement = statement.with_for_update()
    found: MailSuppression | None = (await session.execute(statement)).scalar_one_or_none()
    return found


@dataclass(frozen=True)
class SuppressionList:
    """The list, with the question for addresses that have unsubscribed before there was one."""

    keyring: Keyring
    has_unsubscribed: HasUnsubscribed

    async def has(self, session: AsyncSession, account_id: str, address: str) -> bool:
        """Whether the account may not ask this address."""
        lifted = await self._lifted(session, account_id, address)
        return None in lifted if lifted else await self.has_unsubscribed(session, account_id, address)

    async def may_ask(self, session: AsyncSession, account_id: str, address: str) -> bool:
        """Whether the account may ask this address to confirm.

        The plain address decides for an address with a tag that has never decided itself: otherwise people who have
        unsubscribed would be asked under ever new tags.
        """
        if await self.has(session, account_id, address):
            return False
        plain = mailbox_of(address)
        if plain == address.casefold() or await self._lifted(session, account_id, address):
            return True
        return None not in await self._lifted(session, account_id, plain)

    async def list_unlisted(self, session: AsyncSession, account_id: str, address: str) -> None:
        """List an address that unsubscribed before there was a list, one of whose subscriptions is to be deleted."""
        is_listed = bool(await self._lifted(session, account_id, address))
        if not is_listed and await self.has_unsubscribed(session, account_id, address):
            await suppress(session, HashedAddress.of(self.keyring, account_id, address))

    async def require_unsuppressed(
        self, session: AsyncSession, account_id: str, address: str, *field: str
    ) -> None:
        """Raises CONFLICT for an address that is on the list."""
        if not await self.may_ask(session, account_id, address):
            raise Refusal(
                ErrorCode.CONFLICT,
                "This address has unsubscribed from your mails. Ask its owner to open the link of an earlier "
                "confirmation mail and to confirm there; until then it cannot be mailed.",
                *field,
            )

    async def _lifted(self, session: AsyncSession, account_id: str, address: str) -> list[datetime | None]:
        """The time when each row of the address was lifted, by the hashes of all keys."""
        statement = select(col(MailSuppression.lifted_at)).where(
            col(MailSuppression.account_id) == account_id,
            col(MailSuppression.address_hash).in_(address_hashes(self.keyring, address)),
        )
        return list((await session.execute(statement)).scalars())
