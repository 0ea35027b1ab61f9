"""The events as they come about in a day of an energy company."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from app.cli.client import Api
from app.cli.demo.board import Board
from app.cli.features import whole_catalogue
from app.cli.trigger import ask_for_consent
from app.feeds.stand_ins.server import StandIn

ACCOUNT: Final = "Bright Energy"
OWNER: Final = "operations@brightenergy.example"
MAILBOX: Final = "alerts@brightenergy.example"

STORIES: Final = {
    "user.created": "Priya Patel joins the team",
    "customer.created": "Maya Thompson becomes a customer",
    "meter.created": "the meter of her home, with a feed",
    "hosted_consent.approved": "she agrees on the consent page",
    "meter_data.received": "the feed fetches 13 months, newest first",
    "backfill.completed": "they are all there",
    "api_keys.rotated": "the billing system's key",
    "hosted_consent.revoked": "she changes her mind",
}
COUNTS: Final = {"meter_data.received": 13}
"""Events of which more than one comes: one for each month."""

Wait = Callable[[list[str]], Awaitable[None]]


@dataclass(frozen=True)
class HomeSource:
    """A stand-in of a source, which has the meter with this number."""

    stand_in: StandIn
    url: str
    number: str


def all_events() -> dict[str, str | None]:
    """Every event of the catalogue with its story; those without one, which are not played, stand last."""
    return STORIES | {event.type: None for event in whole_catalogue() if event.type not in STORIES}


async def play(api: Api, board: Board, source: HomeSource, arrived: Wait) -> None:
    """Make the changes one after the other; `arrived` waits for the events of each. Raises ClientError."""

    async def tell(*names: str, change: str, selection: str = "", **values: Any) -> dict[str, Any]:
        """Make one change and wait for its events; returns the mutation's payload."""
        board.sending(*names)
        payload = await api.change(change, selection, **values)
        await arrived(list(names))
        return payload

    key = await api.change("createApiKey", "apiKey { id }", name="Billing system")
    await tell(
        "user.created", change="createUser", email="priya.patel@brightenergy.example", name="Priya Patel"
    )
    customer = await tell(
        "customer.created",
        change="createCustomer",
        selection="customer { id }",
        name="Maya Thompson",
        email="maya.thompson@example.com",
        address="14 Orchard Close, Leeds LS6 2AB",
        metadata={"tariff": "Night Saver"},
    )
    feed = await api.change(
        "createFeed",
        "feed { id }",
        kind=source.stand_in.kind.name,
        name="Her supplier",
        settings={"baseUrl": source.url, **source.stand_in.settings},
        credentials=dict(source.stand_in.credentials),
    )
    customer_id = customer["customer"]["id"]
    meter = await tell(
        "meter.created",
        change="createMeter",
        selection="meter { id }",
        customerId=customer_id,
        number=source.number,
        address="14 Orchard Close, Leeds LS6 2AB",
    )
    await api.change("setMeterFeed", "meter { id }", meterId=meter["meter"]["id"], feedId=feed["feed"]["id"])
    # The customer would get the token by mail; no event comes from asking.
    consent, token = await ask_for_consent(
        api,
        customer_id,
        source.number,
        redirectUrl="https://brightenergy.example/welcome",
        description="Half-hourly readings to find your cheapest tariff",
    )
    # With the consent the feed may fetch, and does.
    await tell(
        "hosted_consent.approved",
        "meter_data.received",
        "backfill.completed",
        change="approveHostedConsent",
        token=token,
        consenteeFullName="Maya Thompson",
        consenteeEmail="maya.thompson@example.com",
        consenteeJobTitle="Account holder",
    )
    await tell("api_keys.rotated", change="rotateApiKey", apiKeyId=key["apiKey"]["id"], overlapSeconds=3600)
    await tell(
        "hosted_consent.revoked",
        change="revokeHostedConsent",
        hostedConsentId=consent,
        reason="Moved to another supplier",
    )
