"""Queries and mutations over deliveries and replays."""

from datetime import timedelta

import strawberry

from app.delivery.destinations.webhook import endpoints
from app.delivery.destinations.webhook.kind import WEBHOOK
from app.delivery.graphql.inputs import DeliveryFilter, ReplayEventsInput, RetryDeliveryInput
from app.delivery.graphql.shared import WITHOUT_BODIES
from app.delivery.graphql.types import Delivery, Replay
from app.delivery.queue import deliveries, models, replays
from app.graphql.idempotency import Result
from app.graphql.mutations import MutationContext, mutation
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages


@strawberry.type
class DeliveryQueries:
    delivery: Delivery | None = by_id(models.Delivery)
    """The delivery with this id; null if there is none."""
    deliveries: Connection[Delivery] = pages(
        models.Delivery, DeliveryFilter, descending=True, options=WITHOUT_BODIES
    )
    """The account's deliveries, newest first."""
    replay: Replay | None = by_id(models.Replay)
    """The replay with this id; null if there is none."""


@strawberry.type
class DeliveryMutations:
    @mutation(delivery=Delivery)
    async def retry_delivery(self, context: MutationContext, input: RetryDeliveryInput) -> Result:
        """Try a delivery now, its schedule begun anew. One that succeeded is sent once more, under the same
        webhook-id."""
        session, actor, kinds = context.session, context.actor, context.services.kinds
        return {"delivery": await deliveries.send_again(session, actor, kinds, input.delivery_id)}

    @mutation(replay=Replay)
    async def replay_events(self, context: MutationContext, input: ReplayEventsInput) -> Result:
        """Send to one endpoint again: the events after a cursor through another, or all that failed since a
        time."""
        session, services = context.session, context.services
        retention = timedelta(days=services.settings.event_retention_days)
        wanted = replays.Range(input.after, input.through, input.failed_since)
        wanted.require_valid()
        endpoint = await endpoints.load_enabled(session, context.actor, input.webhook_endpoint_id)
        replay = await replays.create(session, services.keyring, retention, WEBHOOK, endpoint, wanted)
        return {"replay": replay}
