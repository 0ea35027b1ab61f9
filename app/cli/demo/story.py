"""The seven events as they come about in a day of an energy company."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final

from app.cli.client import Api
from app.cli.demo.board import Board
from app.cli.trigger import half_hours, meter_number, token_of
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


async def play(api: Api, board: Board, arrived: Wait) -> None:
    """Make the changes one after the other; `arrived` waits for the events of each. Raises ClientError."""
    story = _Story(api, board, arrived)
    key = await api.change("createApiKey", "apiKey { id }", name="Billing system")
    await story.tell(
        "user.created", change="createUser", email="priya.patel@brightenergy.example", name="Priya Patel"
    )
    customer = await story.tell(
        "customer.created",
        change="createCustomer",
        selection="customer { id }",
        name="Maya Thompson",
        email="maya.thompson@example.com",
        address="14 Orchard Close, Leeds LS6 2AB",
        metadata={"tariff": "Night Saver"},
    )
    consent = await _ask_for_consent(api, customer["customer"]["id"])
    approved = await story.tell(
        "meter.created",
        "hosted_consent.approved",
        change="approveHostedConsent",
        selection="hostedConsent { meters { nodes { id } } }",
        token=token_of(consent["link"]),
        consenteeFullName="Maya Thompson",
        consenteeEmail="maya.thompson@example.com",
        consenteeJobTitle="Account holder",
    )
    yesterday = clock.uk_date(clock.now()) - timedelta(days=1)
    await story.tell(
        "meter_data.received",
        change="recordReadings",
        selection="accepted",
        meterId=approved["hostedConsent"]["meters"]["nodes"][0]["id"],
        readings=half_hours(yesterday),
    )
    await story.tell(
        "api_keys.rotated", change="rotateApiKey", apiKeyId=key["apiKey"]["id"], overlapSeconds=3600
    )
    await story.tell(
        "hosted_consent.revoked",
        change="revokeHostedConsent",
        hostedConsentId=consent["id"],
        reason="Moved to another supplier",
    )


class _Story:
    def __init__(self, api: Api, board: Board, arrived: Wait) -> None:
        self._api = api
        self._board = board
        self._arrived = arrived

    async def tell(self, *names: str, change: str, selection: str = "", **values: Any) -> dict[str, Any]:
        """Make one change and wait for its events; gives the mutation's payload."""
        self._board.sending(*names)
        payload = await self._api.change(change, selection, **values)
        await self._arrived(list(names))
        return payload


async def _ask_for_consent(api: Api, customer_id: str) -> dict[str, Any]:
    """The consent with its link, which the customer would get by mail; no event comes from asking."""
    asked = await api.change(
        "createHostedConsent",
        "hostedConsent { id link }",
        customerId=customer_id,
        flowType="GB_RESIDENTIAL_SPECIFIC",
        expiry=(clock.uk_date(clock.now()) + timedelta(days=365)).isoformat(),
        redirectUrl="https://brightenergy.example/welcome",
        description="Half-hourly readings to find your cheapest tariff",
        meterNumbers=[meter_number()],
    )
    consent: dict[str, Any] = asked["hostedConsent"]
    return consent
