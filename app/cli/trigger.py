"""`voltwire trigger`: makes an event happen, by the real change behind it, through the API.

No real customer is touched: all changes are made to one demo customer, who is found by their metadata or created.
"""

import math
import random
import secrets
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, Final

from app.cli.client import Api, ClientError
from app.cli.features import unknown_event, whole_catalogue
from app.core import clock
from app.meters.numbers import mpan_check_digit

MADE_BY: Final = {"made-by": "voltwire trigger"}
KEY_NAME: Final = "voltwire trigger"
DOMAIN: Final = "customers.example.com"
Say = Callable[[str], None]


def checked_event(name: str) -> str:
    """The dotted name of an event that can be triggered. Raises ClientError with the names there are."""
    names = [event.type for event in whole_catalogue()]
    if name not in names:
        raise unknown_event(name, f"choose one of {', '.join(names)}")
    if name not in _CHANGES:
        known = ", ".join(one for one in names if one in _CHANGES)
        raise ClientError(f"No change that makes {name} happen is known here: choose one of {known}.")
    return name


async def trigger(api: Api, name: str, say: Say) -> None:
    """Make the change behind an event; `say` gets a line for each thing that was done. Raises ClientError."""
    await _CHANGES[checked_event(name)](_Changes(api, say))


def meter_number() -> str:
    """A random electricity number with its check digit."""
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
    """The consumption of a fridge all day, breakfast, and supper with the lights on."""
    breakfast = 0.30 * math.exp(-(((hour - 7.5) / 1.2) ** 2))
    supper = 0.65 * math.exp(-(((hour - 18.5) / 2.2) ** 2))
    return 0.11 + breakfast + supper


async def ask_for_consent(api: Api, customer_id: str, number: str, **values: Any) -> tuple[str, str]:
    """Ask for a year's consent to one meter; returns its id, and the token that its link ends with."""
    asked = await api.change(
        "createHostedConsent",
        "hostedConsent { id link }",
        customerId=customer_id,
        flowType="GB_RESIDENTIAL_SPECIFIC",
        expiry=(clock.uk_date(clock.now()) + timedelta(days=365)).isoformat(),
        meterNumbers=[number],
        **values,
    )
    consent = asked["hostedConsent"]
    if consent["link"] is None:
        raise ClientError("This key is not shown the link of a consent: it needs the scope WRITE.")
    return consent["id"], consent["link"].rpartition("/")[2]


class _Changes:
    def __init__(self, api: Api, say: Say) -> None:
        self._api = api
        self._say = say

    async def create_user(self) -> None:
        email = f"colleague-{secrets.token_hex(3)}@example.com"
        made = await self._api.change("createUser", "user { id }", name="Robin Example", email=email)
        self._say(f"Created user {made['user']['id']}: Robin Example, {email}.")

    async def create_customer(self) -> str:
        """Returns the customer's id."""
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
        number, customer = meter_number(), await self._customer()
        made = await self._api.change(
            "createMeter", "meter { id }", customerId=customer, number=number, metadata=MADE_BY
        )
        self._say(f"Created meter {made['meter']['id']} with number {number}.")

    async def approve_consent(self) -> str:
        """Returns the consent's id."""
        number = meter_number()
        identifier, token = await ask_for_consent(
            self._api,
            await self._customer(),
            number,
            redirectUrl="https://example.com/thanks",
            description="Half-hourly data for a demonstration",
        )
        self._say(f"Asked for consent {identifier} to meter {number}.")
        await self._api.change(
            "approveHostedConsent",
            "hostedConsent { id }",
            token=token,
            consenteeFullName="Sam Example",
            consenteeEmail=f"sam@{DOMAIN}",
            consenteeJobTitle="Occupier",
        )
        self._say(f"Approved consent {identifier} as the end customer would, which made the meter too.")
        return identifier

    async def decline_consent(self) -> None:
        number = meter_number()
        identifier, token = await ask_for_consent(
            self._api,
            await self._customer(),
            number,
            redirectUrl="https://example.com/thanks",
            description="Half-hourly data for a demonstration",
        )
        self._say(f"Asked for consent {identifier} to meter {number}.")
        await self._api.change("declineHostedConsent", "hostedConsent { id }", token=token)
        self._say(f"Declined consent {identifier} as the end customer would.")

    async def revoke_consent(self) -> None:
        valid = {"customerIds": [await self._customer()], "valid": True}
        identifier = await self._first("hostedConsents", "HostedConsentFilter", valid)
        identifier = identifier or await self.approve_consent()
        await self._api.change(
            "revokeHostedConsent",
            "hostedConsent { id }",
            hostedConsentId=identifier,
            reason="Triggered for a demonstration",
        )
        self._say(f"Revoked consent {identifier}.")

    async def record_readings(self) -> None:
        active = {"customerIds": [await self._customer()], "statuses": ["ACTIVE"]}
        meter = await self._first("meters", "MeterFilter", active)
        if meter is None:
            await self.approve_consent()
            meter = await self._first("meters", "MeterFilter", active)
        if meter is None:
            raise ClientError(
                "The meter just made is not active: its consent was revoked meanwhile; try again."
            )
        day = clock.uk_date(clock.now()) - timedelta(days=1)
        recorded = await self._api.change(
            "recordReadings", "accepted changed", meterId=meter, readings=half_hours(day)
        )
        self._say(
            f"Recorded {recorded['accepted']} half-hours of {day} for meter {meter}; "
            f"{recorded['changed']} of them are new or changed."
        )

    async def import_file(self) -> None:
        number = await self._number_with_consent()
        day = clock.uk_date(clock.now()) - timedelta(days=2)
        lines = [f"{number},{one['startAt']},{one['consumption']}" for one in half_hours(day)]
        text = "\n".join(["meter_number,start_at,consumption", *lines, ""])
        import_id = await self._api.upload(text.encode(), fileName=f"{day}.csv")
        self._say(
            f"Sent a file with {len(lines)} half-hours of {day} for meter {number}: import {import_id}."
        )
        while (report := await self._api.report_of(import_id, wait=10))["status"] == "RUNNING":
            pass
        self._say(
            f"Import {import_id} is {report['status'].lower()}: {report['readingsChanged']} half-hours changed."
        )

    async def _number_with_consent(self) -> str:
        """The number of a meter of the demo customer that takes readings."""
        active = {"customerIds": [await self._customer()], "statuses": ["ACTIVE"]}
        query = "query ($filter: MeterFilter!) { meters(first: 1, filter: $filter) { nodes { number } } }"
        for _ in range(2):
            found = (await self._api.ask(query, {"filter": active}))["meters"]["nodes"]
            if found:
                return str(found[0]["number"])
            await self.approve_consent()
        raise ClientError("The meter just made is not active: its consent was revoked meanwhile; try again.")

    async def rotate_key(self) -> None:
        # A key for this alone: the one in use goes on working for everyone who has it.
        keys = (await self._api.ask("{ apiKeys { id name revokedAt expiresAt } }"))["apiKeys"]
        usable = [
            one["id"]
            for one in keys
            if one["name"] == KEY_NAME and one["revokedAt"] is None and one["expiresAt"] is None
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
        found = await self._first("customers", "CustomerFilter", {"metadata": MADE_BY})
        return found or await self.create_customer()

    async def _first(self, field: str, filter_type: str, filter: dict[str, Any]) -> str | None:
        """The id of the first object that the filter takes."""
        found = await self._api.ask(
            f"query ($filter: {filter_type}!) {{ {field}(first: 1, filter: $filter) {{ nodes {{ id }} }} }}",
            {"filter": filter},
        )
        return next((str(one["id"]) for one in found[field]["nodes"]), None)


# The change behind each event.
_CHANGES: Final = {
    "user.created": _Changes.create_user,
    "customer.created": _Changes.create_customer,
    "meter.created": _Changes.create_meter,
    "hosted_consent.approved": _Changes.approve_consent,
    "hosted_consent.revoked": _Changes.revoke_consent,
    "hosted_consent.declined": _Changes.decline_consent,
    "meter_data.received": _Changes.record_readings,
    "api_keys.rotated": _Changes.rotate_key,
    "import.completed": _Changes.import_file,
}
