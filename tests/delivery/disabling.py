"""An endpoint that Voltwire disables."""

import time

from app.delivery.destinations.webhook.health import update_health
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.leases import Claim
from app.delivery.queue.models import Lane
from app.outbound.attempt import Attempt, AttemptOutcome
from app.outbound.retry import verdict
from tests.support import World

GONE = "The receiver answered 410."


async def disabled_endpoint(world: World, account_id: str, url: str = "https://gone.example/hook") -> str:
    """Makes an endpoint and records an attempt that was answered with 410; gives the endpoint's id."""
    endpoint = WebhookEndpoint(
        account_id=account_id,
        url=url,
        first_sequence=0,
        secret_encrypted="",
        signing_key_encrypted="",
        public_key="",
    )
    attempt = Attempt(time.time_ns() // 1_000_000, 1, AttemptOutcome.HTTP_STATUS, status=410, error=GONE)
    claim = Claim(
        id="dlv_1",
        account_id=account_id,
        event_id="evt_1",
        destination_id=endpoint.id,
        replay_id="",
        lane=Lane.FRESH,
        attempt=1,
        schedule_start=0,
        fence=1,
        body=b"",
        target=endpoint,
        expires_at=time.monotonic() + 60,
    )
    async with world.database.transaction() as session:
        session.add(endpoint)
        await session.flush()
        result = AttemptResult(claim, attempt, verdict(attempt, 1, ()))
        await update_health(session, world.services.mail_links, [result], lambda _: None)
    return endpoint.id
