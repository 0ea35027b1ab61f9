"""The wording of mails about readings: the meter and the period, never the readings."""

from collections.abc import Mapping
from typing import Final

from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.clock import parse_utc
from app.customers.emails import customer_name
from app.events.models import EventRecord
from app.meters.emails import meter_of, number_and_type, number_of
from app.outbound.mail.rendering import count, uk_time
from app.outbound.mail.wording import MailFacts, Wording
from app.readings.events import MeterDataOverdue, MeterDataReceived


async def received(session: AsyncSession, event: EventRecord) -> MailFacts:
    meter, customer = await meter_of(session, event), await customer_name(session, event)
    half_hours = count(event.data["intervalCount"], "half-hour")
    return MailFacts(
        f"Data arrived for meter {number_of(meter)} of {customer}: {half_hours}",
        [
            ("Meter", number_and_type(meter)),
            ("Customer", customer),
            ("From", uk_time(parse_utc(event.data["from"]))),
            ("To", uk_time(parse_utc(event.data["to"]))),
            ("Half-hours", f"{event.data['intervalCount']:,}"),
        ],
    )


async def overdue(session: AsyncSession, event: EventRecord) -> MailFacts:
    meter, customer = await meter_of(session, event), await customer_name(session, event)
    latest_at = event.data["latestAt"]
    return MailFacts(
        f"No data for five days from meter {number_of(meter)} of {customer}",
        [
            ("Meter", number_and_type(meter)),
            ("Customer", customer),
            ("Channel", event.data["channel"].capitalize()),
            ("Latest reading", uk_time(parse_utc(latest_at)) if latest_at else "none yet"),
        ],
    )


WORDING: Final[Mapping[str, Wording]] = {
    MeterDataReceived.type: received,
    MeterDataOverdue.type: overdue,
}
