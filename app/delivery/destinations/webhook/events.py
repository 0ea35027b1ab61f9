"""Events about webhook endpoints."""

from typing import Any, ClassVar

from app.events.catalogue import EventData


class WebhookEndpointDisabled(EventData):
    type: ClassVar = "webhook_endpoint.disabled"
    place: ClassVar = 14
    words: ClassVar = "Webhook endpoint disabled"
    summary: ClassVar = "a webhook endpoint was disabled by Voltwire"
    description: ClassVar = (
        "Voltwire disabled a webhook endpoint: it answered 410, or nothing has arrived for five days. An endpoint that "
        "the account disables raises none. The account's other destinations are told."
    )
    example: ClassVar[dict[str, Any]] = {
        "webhookEndpointId": "whe_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "reason": "The receiver answered 410.",
    }

    webhook_endpoint_id: str
    reason: str

    def subject_id(self) -> str:
        return self.webhook_endpoint_id
