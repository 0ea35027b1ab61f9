"""The events as they come about in a day of an energy company."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from app.cli.client import Api
from app.cli.demo.board import Board
from app.cli.features import whole_catalogue
from app.cli.trigger import ask_for_consent, half_hours, meter_number
from app.core import clock

ACCOUNT: Final = "Bright Energy"
OWNER: Final = "operations@brightenergy.example"
MAILBOX: Final = "alerts@brightenergy.example"

STORIES: Final = {
    "user.created": "Priya Patel joins the team",
    "customer.created": "Maya Thompson becomes a customer",
    "meter.created": "her approval brings her meter in",
    "hosted_consent.approved": "she agrees on the consent page",
    "meter_data.received": "48 half-hours of yesterday",
    "api_keys.rotated": "the billing system's key",
    "hosted_consent.revoked": "she changes her mind",
}
Wait = Callable[[list[str]], Awaitable[None]]


def all_events() -> dict[str, str | None]:
    """Every event of the catalogue with its story; those without one, which are not played, stand last."""
    return STORIES | {event.type: None for event in whole_catalogue() if event.type not in STORIES}


async def play(api: Api, board: Board, arrived: Wait) -> None:
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
    # The customer would get the token by mail; no event comes from asking.
    consent, token = await ask_for_consent(
        api,
        customer["customer"]["id"],
        meter_number(),
        redirectUrl="https://brightenergy.example/welcome",
        description="Half-hourly readings to find your cheapest tariff",
    )
    approved = await tell(
        "meter.created",
        "hosted_consent.approved",
        change="approveHostedConsent",
        selection="hostedConsent { meters { nodes { id } } }",
        token=token,
        consenteeFullName="Maya Thompson",
        consenteeEmail="maya.thompson@example.com",
        consenteeJobTitle="Account holder",
    )
    await tell(
        "meter_data.received",
        change="recordReadings",
        selection="accepted",
        meterId=approved["hostedConsent"]["meters"]["nodes"][0]["id"],
        readings=half_hours(clock.uk_date(clock.now()) - timedelta(days=1)),
    )
    await tell("api_keys.rotated", change="rotateApiKey", apiKeyId=key["apiKey"]["id"], overlapSeconds=3600)
    await tell(
        "hosted_consent.revoked",
        change="revokeHostedConsent",
        hostedConsentId=consent,
        reason="Moved to another supplier",
    )
