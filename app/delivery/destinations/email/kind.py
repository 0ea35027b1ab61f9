"""Email subscriptions as a kind of destination."""

from collections.abc import Mapping
from typing import Final

from app.delivery.destinations.email.digests import Digests
from app.delivery.destinations.email.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.destinations.email.periods import next_digest
from app.delivery.destinations.email.provider import EmailProvider
from app.delivery.destinations.worker_parts import WorkerParts
from app.delivery.queue.kinds import Batching, DestinationKind, DestinationSender
from app.delivery.queue.sender import Sender


def _senders(parts: WorkerParts) -> Mapping[str, DestinationSender]:
    database = parts.services.database
    provider = EmailProvider(parts.links, parts.mail_sender, parts.wording)
    return {
        "email": Sender(database, EMAIL, provider, parts.schedule, parts.worker_id),
        "digest": Digests(database, EMAIL, provider, parts.schedule, parts.worker_id),
    }


EMAIL: Final = DestinationKind(
    prefix="ems",
    table=EmailSubscription,
    active_status=EmailSubscriptionStatus.ACTIVE.value,
    noun="subscription",
    inactive="is not active",
    id_field="emailSubscriptionId",
    senders=_senders,
    batching=Batching(EmailSubscription.digest, next_digest),
)
