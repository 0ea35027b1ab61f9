"""All faults of an input are reported at once, each at its field, and nothing changes."""

from typing import Any

import pytest

from tests.accounts.state import mutation, refusals, unchanged
from tests.delivery.asking import make_endpoint, make_subscription
from tests.meters.asking import make_consent, make_customer, make_meter, run
from tests.support import World

LONG = "x" * 2001
PAST = "2020-01-01T00:00:00Z"
WRONG: dict[str, tuple[str, dict[str, Any], list[tuple[str, list[str]]]]] = {
    "createCustomer": (
        "customer { id }",
        {"name": " ", "email": "nobody", "address": LONG, "logoUrl": "ftp://x"},
        [("REQUIRED", ["name"]), ("INVALID", ["email"]), ("TOO_LONG", ["address"]), ("INVALID", ["logoUrl"])],
    ),
    "updateCustomer": (
        "customer { id }",
        {"customerId": "CUSTOMER", "name": None, "email": "nobody"},
        [("REQUIRED", ["name"]), ("INVALID", ["email"])],
    ),
    "updateAccount": (
        "account { id }",
        {"name": "", "logoUrl": "ftp://x"},
        [("REQUIRED", ["name"]), ("INVALID", ["logoUrl"])],
    ),
    "createUser": (
        "user { id }",
        {"email": "nobody", "name": ""},
        [("INVALID", ["email"]), ("REQUIRED", ["name"])],
    ),
    "updateUser": (
        "user { id }",
        {"userId": "USER", "email": "nobody", "name": None, "role": None},
        [("INVALID", ["email"]), ("REQUIRED", ["name"]), ("REQUIRED", ["role"])],
    ),
    "createApiKey": (
        "apiKey { id }",
        {"name": "", "scopes": [], "expiresAt": PAST},
        [("REQUIRED", ["name"]), ("REQUIRED", ["scopes"]), ("INVALID", ["expiresAt"])],
    ),
    "createMeter": (
        "meter { id }",
        {"customerId": "CUSTOMER", "number": "1", "description": LONG, "address": LONG},
        [("INVALID_METER_NUMBER", ["number"]), ("TOO_LONG", ["description"]), ("TOO_LONG", ["address"])],
    ),
    "updateMeter": (
        "meter { id }",
        {"meterId": "METER", "description": LONG, "dataSource": None},
        [("TOO_LONG", ["description"]), ("REQUIRED", ["dataSource"])],
    ),
    "createHostedConsent": (
        "hostedConsent { id }",
        {
            "customerId": "CUSTOMER",
            "flowType": "GB_COMMERCIAL_BLANKET",
            "expiry": "2020-01-01",
            "redirectUrl": "ftp://x",
            "consenteeEmail": "nobody",
        },
        [("OUT_OF_RANGE", ["expiry"]), ("URL_NOT_ALLOWED", ["redirectUrl"]), ("INVALID", ["consenteeEmail"])],
    ),
    "updateHostedConsent": (
        "hostedConsent { id }",
        {"hostedConsentId": "CONSENT", "description": LONG, "expiry": "2099-01-01"},
        [("TOO_LONG", ["description"]), ("CONFLICT", ["expiry"])],
    ),
    "createWebhookEndpoint": (
        "webhookEndpoint { id }",
        {
            "url": "ftp://x",
            "description": LONG,
            "eventTypes": ["meter", "*"],
            "filter": {"customerIds": []},
            "selection": "{ nope }",
            "headers": {"host": "x"},
            "rateLimit": 0,
        },
        [
            ("URL_NOT_ALLOWED", ["url"]),
            ("TOO_LONG", ["description"]),
            ("INVALID", ["eventTypes", "0"]),
            ("REQUIRED", ["filter", "customerIds"]),
            ("INVALID", ["selection"]),
            ("INVALID", ["headers", "host"]),
            ("OUT_OF_RANGE", ["rateLimit"]),
        ],
    ),
    "updateWebhookEndpoint": (
        "webhookEndpoint { id }",
        {
            "webhookEndpointId": "ENDPOINT",
            "url": None,
            "eventTypes": [],
            "selection": "{ nope }",
            "status": None,
        },
        [
            ("REQUIRED", ["url"]),
            ("REQUIRED", ["eventTypes"]),
            ("REQUIRED", ["status"]),
            ("INVALID", ["selection"]),
        ],
    ),
    "createEmailSubscription": (
        "emailSubscription { id }",
        {"email": "nobody", "description": LONG, "eventTypes": [], "filter": {"meterIds": []}},
        [
            ("INVALID", ["email"]),
            ("TOO_LONG", ["description"]),
            ("REQUIRED", ["eventTypes"]),
            ("REQUIRED", ["filter", "meterIds"]),
        ],
    ),
    "updateEmailSubscription": (
        "emailSubscription { id }",
        {"emailSubscriptionId": "SUBSCRIPTION", "description": LONG, "eventTypes": ["x"]},
        [("TOO_LONG", ["description"]), ("INVALID", ["eventTypes", "0"])],
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_all_faults_are_told_at_once(world: World, name: str) -> None:
    account = await world.account()
    customer = await make_customer(world, account)
    known = {
        "CUSTOMER": customer,
        "USER": account.user_id,
        "METER": (await make_meter(world, account, customer))["id"],
        "CONSENT": await make_consent(world, account, customer),
        "ENDPOINT": await make_endpoint(world, account),
        "SUBSCRIPTION": await make_subscription(world, account),
    }
    selects, given, expected = WRONG[name]
    values = {
        key: known.get(value, value) if isinstance(value, str) else value for key, value in given.items()
    }
    async with unchanged(world):
        payload = await run(world, account, mutation(name, selects), **values)
    assert refusals(payload) == expected
