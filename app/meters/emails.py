"""The wording of mails about meters, and the name of a meter in any mail."""

from collections.abc import Mapping
from typing import Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.customers.emails import customer_name
from app.events.models import EventRecord
from app.meters.events import MeterCreated
from app.meters.models import Meter
from app.outbound.mail.rendering import shown
from app.outbound.mail.wording import MailFacts, Wording


async def meter_of(session: AsyncSession, event: EventRecord) -> Meter | None:
    """The event's meter as it is now; None when it was deleted."""
    statement = select(Meter).where(
        col(Meter.account_id) == event.account_id, col(Meter.id) == event.subject_id
    )
    return (await session.exec(statement)).one_or_none()


def number_of(meter: Meter | None) -> str:
    return shown(meter.number if meter else None)


def number_and_type(meter: Meter | None) -> str:
    """`2499999999991 (electricity)`."""
    return shown(f"{meter.number} ({meter.type.lower()})" if meter else None)


async def created(session: AsyncSession, event: EventRecord) -> MailFacts:
    meter, customer = await meter_of(session, event), await customer_name(session, event)
    rows = [("Meter", number_and_type(meter)), ("Customer", customer)]
    if meter is not None and meter.description:
        rows.append(("Description", meter.description))
    return MailFacts(f"New meter {number_of(meter)} of {customer}", rows)


WORDING: Final[Mapping[str, Wording]] = {MeterCreated.type: created}
