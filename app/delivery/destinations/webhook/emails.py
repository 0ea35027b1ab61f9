"""The wording of mails about events of webhook endpoints. Notices to administrators are in `notices`."""

from collections.abc import Mapping
from typing import Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.delivery.destinations.webhook.events import WebhookEndpointDisabled
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.destinations.webhook.notices import host_of
from app.events.models import EventRecord
from app.outbound.mail.rendering import shown
from app.outbound.mail.wording import MailFacts, Wording


async def disabled(session: AsyncSession, event: EventRecord) -> MailFacts:
    statement = select(WebhookEndpoint).where(
        col(WebhookEndpoint.account_id) == event.account_id, col(WebhookEndpoint.id) == event.subject_id
    )
    endpoint = (await session.exec(statement)).one_or_none()
    # The host alone: a subscriber need not be one who may see the URL, whose path may hold a key.
    host = shown(host_of(endpoint.url) if endpoint else None)
    rows = [("Endpoint", host), ("Id", event.subject_id), ("Why", event.data["reason"])]
    if endpoint is not None and endpoint.description:
        rows.insert(1, ("Description", endpoint.description))
    return MailFacts(f"Webhooks to {host} stopped: their endpoint was disabled", rows)


WORDING: Final[Mapping[str, Wording]] = {WebhookEndpointDisabled.type: disabled}
