"""`voltwire trigger`: makes one of the seven events happen, by the real change behind it, through the API.

Nothing of a real customer is touched: what an event needs belongs to one demo customer, who is found again by their
metadata or made.
"""

import math
import random
import secrets
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Any, Final

from app.cli.client import NAMES, Api, ClientError
from app.core import clock
from app.events.catalogue import EventType
from app.meters.numbers import mpan_check_digit

MADE_BY: Final = {"made-by": "voltwire trigger"}
KEY_NAME: Final = "voltwire trigger"
DOMAIN: Final = "customers.example.com"
Say = Callable[[str], None]


def event_type(name: str) -> EventType:
    """The type of a dotted name. Raises ClientError with all of them."""
    try:
        return EventType(name)
    except ValueError:
        raise ClientError(f'There is no event "{name}": choose one of {", ".join(NAMES)}.') from None


async def trigger(api: Api, kind: EventType, say: Say) -> None:
    """Make the change behind an event; `say` is told of everything that was done. Raises ClientError."""
    await _CHANGES[kind](_Changes(api, say))


def meter_number() -> str:
    """A random electricity number that passes its check."""
    first = f"{random.randint(10, 23)}{random.randrange(10**10):010}"  # noqa: S311 - chance, not a secret
    return f"{first}{mpan_check_digit(first)}"


def half_hours(day: date) -> list[dict[str, str]]:
    """A home's consumption on one UK date, as `recordReadings` takes it: 46, 48 or 50 half-hours, no two days alike."""
    start = clock.start_of_uk_day(day)
    return [
        {
            "startAt": clock.format_utc(start + number * clock.HALF_HOUR),
            "consumption": f"{_usual_kwh(number / 2) * random.uniform(0.75, 1.25):.3f}",  # noqa: S311
        }
        for number in range(clock.half_hours_in_uk_day(day))
    ]


def _usual_kwh(hour: float) -> float:
    """A fridge all day, breakfast, and supper with the lights on."""
    breakfast = 0.30 * math.exp(-(((hour - 7.5) / 1.2) ** 2))
    supper = 0.65 * math.exp(-(((hour - 18.5) / 2.2) ** 2))
    return 0.11 + breakfast + supper


class _Changes:
    def __init__(self, api: Api, say: Say) -> None:
        self._api = api
        self._say = say

    async def create_user(self) -> None:
        email = f"colleague-{secrets.token_hex(3)}@example.com"
        made = await self._api.change("createUser", "user { id }", name="Robin Example", email=email)
        self._say(f"Created user {made['user']['id']}: Robin Example, {email}.")

    async def create_customer(self) -> str:
        """Gives the customer's id."""
        email = f"sam-{secrets.token_hex(3)}@{DOMAIN}"
        made = await self._api.change(
            "createCustomer",
            "customer { id }",
            name="Sam Example",
            email=email,
            address="1 Example Street, Bristol BS1 1AA",
            metadata=MADE_BY,
        )
        identifier: str = made["customer"]["id"]
        self._say(f"Created customer {identifier}: Sam Example, {email}.")
        return identifier

    async def create_meter(self) -> None:
        number = meter_number()
        made = await self._api.change(
            "createMeter", "meter { id }", customerId=await self._customer(), number=number, metadata=MADE_BY
        )
        self._say(f"Created meter {made['meter']['id']} with number {number}.")

    async def approve_consent(self) -> str:
        """Gives the consent's id."""
        number = meter_number()
        asked = await self._api.change(
            "createHostedConsent",
            "hostedConsent { id link }",
            customerId=await self._customer(),
            flowType="GB_RESIDENTIAL_SPECIFIC",
            expiry=(clock.uk_date(clock.now()) + timedelta(days=365)).isoformat(),
            redirectUrl="https://example.com/thanks",
            description="Half-hourly data for a demonstration",
            meterNumbers=[number],
        )
        consent = asked["hostedConsent"]
        self._say(f"Asked for consent {consent['id']} to meter {number}.")
        await self._api.change(
            "approveHostedConsent",
            "hostedConsent { id }",
            token=token_of(consent["link"]),
            consenteeFullName="Sam Example",
            consenteeEmail=f"sam@{DOMAIN}",
            consenteeJobTitle="Occupier",
        )
        identifier: str = consent["id"]
        self._say(f"Approved consent {identifier} as the end customer would, which made the meter too.")
        return identifier

    async def revoke_consent(self) -> None:
        found = await self._api.ask(
            "query ($customer: ID!) { hostedConsents(first: 1, filter: {customerIds: [$customer], valid: true}) "
            "{ nodes { id } } }",
            {"customer": await self._customer()},
        )
        consents = found["hostedConsents"]["nodes"]
        identifier = consents[0]["id"] if consents else await self.approve_consent()
        await self._api.change(
            "revokeHostedConsent",
            "hostedConsent { id }",
            hostedConsentId=identifier,
            reason="Triggered for a demonstration",
        )
        self._say(f"Revoked consent {identifier}.")

    async def record_readings(self) -> None:
        meter = await self._active_meter()
        if meter is None:
            await self.approve_consent()
            meter = await self._active_meter()
        if meter is None:
            raise ClientError(
                "The meter just made is not active: its consent was revoked meanwhile; try again."
            )
        day = clock.uk_date(clock.now()) - timedelta(days=1)
        recorded = await self._api.change(
            "recordReadings", "accepted changed", meterId=meter["id"], readings=half_hours(day)
        )
        self._say(
            f"Recorded {recorded['accepted']} half-hours of {day} for meter {meter['id']}; "
            f"{recorded['changed']} of them are new or changed."
        )

    async def rotate_key(self) -> None:
        # A key of its own: the one in use goes on working for whoever has it.
        keys = (await self._api.ask("{ apiKeys { id name revokedAt expiresAt } }"))["apiKeys"]
        usable = [
            key["id"]
            for key in keys
            if key["name"] == KEY_NAME and key["revokedAt"] is None and key["expiresAt"] is None
        ]
        identifier = usable[0] if usable else await self._make_key()
        rotated = await self._api.change(
            "rotateApiKey", "apiKey { prefix }", apiKeyId=identifier, overlapSeconds=0
        )
        self._say(
            f"Rotated API key {identifier}, called {KEY_NAME}: it now begins with {rotated['apiKey']['prefix']}."
        )

    async def _make_key(self) -> str:
        made = await self._api.change("createApiKey", "apiKey { id }", name=KEY_NAME, scopes=["READ"])
        identifier: str = made["apiKey"]["id"]
        self._say(f"Created API key {identifier}, called {KEY_NAME}, which nobody has the secret of.")
        return identifier

    async def _customer(self) -> str:
        """The demo customer's id."""
        found = await self._api.ask(
            "query ($made: Metadata!) { customers(first: 1, filter: {metadata: $made}) { nodes { id } } }",
            {"made": MADE_BY},
        )
        customers: list[dict[str, str]] = found["customers"]["nodes"]
        return customers[0]["id"] if customers else await self.create_customer()

    async def _active_meter(self) -> dict[str, Any] | None:
        """A meter of the demo customer that takes readings."""
        found = await self._api.ask(
            "query ($customer: ID!) { meters(first: 1, filter: {customerIds: [$customer], statuses: [ACTIVE]}) "
            "{ nodes { id } } }",
            {"customer": await self._customer()},
        )
        meters: list[dict[str, Any]] = found["meters"]["nodes"]
        return meters[0] if meters else None


_CHANGES: Final[dict[EventType, Callable[[_Changes], Awaitable[object]]]] = {
    EventType.METER_DATA_RECEIVED: _Changes.record_readings,
    EventType.METER_CREATED: _Changes.create_meter,
    EventType.USER_CREATED: _Changes.create_user,
    EventType.CUSTOMER_CREATED: _Changes.create_customer,
    EventType.API_KEYS_ROTATED: _Changes.rotate_key,
    EventType.HOSTED_CONSENT_APPROVED: _Changes.approve_consent,
    EventType.HOSTED_CONSENT_REVOKED: _Changes.revoke_consent,
}


def token_of(link: str | None) -> str:
    """The consent token at the end of `HostedConsent.link`. Raises ClientError for a key that is not shown the link."""
    if link is None:
        raise ClientError("This key is not shown the link of a consent: it needs the scope WRITE.")
    return link.rpartition("/")[2]
