"""Webhook endpoints as a kind of destination."""

from collections.abc import Mapping
from typing import Final

from app.delivery.destinations.webhook.models import EndpointStatus, WebhookEndpoint
from app.delivery.destinations.webhook.payload import event_json
from app.delivery.destinations.webhook.payload_selection import PayloadSelection
from app.delivery.destinations.webhook.provider import WebhookProvider
from app.delivery.destinations.worker_parts import WorkerParts
from app.delivery.queue.kinds import DestinationKind, DestinationSender
from app.delivery.queue.sender import Sender


def _senders(parts: WorkerParts) -> Mapping[str, DestinationSender]:
    selection = PayloadSelection(parts.services, parts.engine)
    timeout = parts.services.settings.webhook_timeout
    provider = WebhookProvider(parts.links, parts.transport, timeout, selection)
    return {"webhook": Sender(parts.services.database, WEBHOOK, provider, parts.schedule, parts.worker_id)}


WEBHOOK: Final = DestinationKind(
    prefix="whe",
    table=WebhookEndpoint,
    active_status=EndpointStatus.ENABLED.value,
    noun="endpoint",
    inactive="is disabled or deleted",
    id_field="webhookEndpointId",
    senders=_senders,
    has_pauses=True,
    event_body=event_json,
)
