"""The mutations of the matrix: who may carry out which, and that a refusal changes nothing."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from app.core import clock
from tests.accounts.state import mutation, state, unchanged
from tests.feeds.small_source import feeding
from tests.readings.metered import reading
from tests.system.isolation.viewers import ANONYMOUS, APPROVE, VIEWERS, Stage, codes, outcome, staged, table

WHO = {"consenteeFullName": "Ada", "consenteeEmail": "ada@example.com", "consenteeJobTitle": "Owner"}
# Mutations of an end customer: the token is all that counts.
BY_TOKEN: dict[str, dict[str, Any]] = {"approveHostedConsent": WHO, "declineHostedConsent": {"reason": "No."}}


@pytest.fixture
async def stage(migrated_url: str) -> AsyncIterator[Stage]:
    async with feeding(migrated_url, feed_allow_networks="") as world:
        yield await staged(world)


async def test_a_decision_needs_the_token_and_nothing_else(stage: Stage) -> None:
    async with unchanged(stage.world):
        for name, given in BY_TOKEN.items():
            document = mutation(name, "hostedConsent { id }")

            async def wrong(viewer: str, document: str = document, given: Any = given) -> Any:
                values = {"token": "vw_consent_" + "x" * 43, **given}
                return outcome(await stage.ask(viewer, document, {"input": values}))

            assert await table(stage, wrong) == {
                **{viewer: ["NOT_FOUND token"] for viewer in VIEWERS},
                "bearer": {"UNAUTHENTICATED"},
            }
    # Without a key, and beside the key of another account, which neither helps nor hinders.
    decline = mutation("declineHostedConsent", "hostedConsent { id status }")
    for viewer, document, label, given in (
        ("none", APPROVE, "ada.asked", WHO),
        ("stranger", decline, "bob.asked", {}),
    ):
        response = await stage.ask(viewer, document, {"input": {"token": stage.tokens[label], **given}})
        assert (outcome(response), stage.labels(response["data"])) == ([], {label})
    async with unchanged(stage.world):
        for label in ("ada.asked", "bob.asked", "ada.consent"):
            response = await stage.ask("none", decline, {"input": {"token": stage.tokens[label]}})
            assert outcome(response) == ["TOKEN_USED token"]


def an_hour_ago() -> str:
    return clock.format_utc(clock.now() - timedelta(hours=1))


# Each mutation by a key: the scope it needs, its input from the labels of objects, and what another account's key gets,
# None where it acts on its own account. In this order the account's own key carries them all out.
MUTATIONS: dict[str, tuple[str, Callable[[dict[str, str]], dict[str, Any]], list[str] | None]] = {
    "updateAccount": ("ADMIN", lambda ids: {"name": "Brighter"}, None),
    "createCustomer": ("WRITE", lambda ids: {"name": "Cy", "email": "cy@example.com"}, None),
    "updateCustomer": (
        "WRITE",
        lambda ids: {"customerId": ids["ada"], "name": "A"},
        ["NOT_FOUND customerId"],
    ),
    "createMeter": (
        "WRITE",
        lambda ids: {"customerId": ids["ada"], "number": "2499999999991"},
        ["NOT_FOUND customerId"],
    ),
    "updateMeter": (
        "WRITE",
        lambda ids: {"meterId": ids["ada.meter"], "address": "Here"},
        ["NOT_FOUND meterId"],
    ),
    "disableMeter": ("WRITE", lambda ids: {"meterId": ids["ada.meter"]}, ["NOT_FOUND meterId"]),
    "enableMeter": ("WRITE", lambda ids: {"meterId": ids["ada.meter"]}, ["NOT_FOUND meterId"]),
    "recordReadings": (
        "WRITE",
        lambda ids: {"meterId": ids["ada.meter"], "readings": [reading("01:00", "2")]},
        ["NOT_FOUND meterId"],
    ),
    "setMeterConsent": (
        "WRITE",
        lambda ids: {"meterId": ids["ada.meter"], "hostedConsentId": ids["ada.consent"]},
        ["NOT_FOUND meterId"],
    ),
    "createUser": ("ADMIN", lambda ids: {"email": "u@example.com", "name": "U"}, None),
    "updateUser": ("ADMIN", lambda ids: {"userId": ids["user"], "name": "V"}, ["NOT_FOUND userId"]),
    "createApiKey": ("ADMIN", lambda ids: {"name": "K"}, None),
    "rotateApiKey": ("ADMIN", lambda ids: {"apiKeyId": ids["key"]}, ["NOT_FOUND apiKeyId"]),
    "revokeApiKey": ("ADMIN", lambda ids: {"apiKeyId": ids["writer.key"]}, ["NOT_FOUND apiKeyId"]),
    "createStreamToken": ("WRITE", lambda ids: {"customerId": ids["ada"]}, ["NOT_FOUND customerId"]),
    "createHostedConsent": (
        "WRITE",
        lambda ids: {
            "customerId": ids["ada"],
            "flowType": "GB_COMMERCIAL_BLANKET",
            "expiry": "2027-01-31",
            "redirectUrl": "https://example.com/",
        },
        ["NOT_FOUND customerId"],
    ),
    "updateHostedConsent": (
        "WRITE",
        lambda ids: {"hostedConsentId": ids["ada.asked"], "description": "D"},
        ["NOT_FOUND hostedConsentId"],
    ),
    "revokeHostedConsent": (
        "WRITE",
        lambda ids: {"hostedConsentId": ids["bob.consent"]},
        ["NOT_FOUND hostedConsentId"],
    ),
    "createWebhookEndpoint": ("WRITE", lambda ids: {"url": "https://example.com/second"}, None),
    "updateWebhookEndpoint": (
        "WRITE",
        lambda ids: {"webhookEndpointId": ids["endpoint"], "description": "D"},
        ["NOT_FOUND webhookEndpointId"],
    ),
    "rotateWebhookSecret": (
        "WRITE",
        lambda ids: {"webhookEndpointId": ids["endpoint"]},
        ["NOT_FOUND webhookEndpointId"],
    ),
    "sendTestEvent": (
        "WRITE",
        lambda ids: {"webhookEndpointId": ids["endpoint"], "type": "METER_CREATED"},
        ["NOT_FOUND webhookEndpointId"],
    ),
    "retryDelivery": ("WRITE", lambda ids: {"deliveryId": ids["delivery"]}, ["NOT_FOUND deliveryId"]),
    "replayEvents": (
        "WRITE",
        lambda ids: {"webhookEndpointId": ids["endpoint"], "failedSince": an_hour_ago()},
        ["NOT_FOUND webhookEndpointId"],
    ),
    "confirmFileImport": (
        "WRITE",
        lambda ids: {"fileImportId": ids["preview"]},
        ["NOT_FOUND fileImportId"],
    ),
    "undoFileImport": ("WRITE", lambda ids: {"fileImportId": ids["import"]}, ["NOT_FOUND fileImportId"]),
    "createFeed": (
        "WRITE",
        lambda ids: {"kind": "OCTOPUS", "name": "Homes", "credentials": {"apiKey": "k"}},
        None,
    ),
    "updateFeed": ("WRITE", lambda ids: {"feedId": ids["feed"], "name": "F"}, ["NOT_FOUND feedId"]),
    "checkFeed": ("WRITE", lambda ids: {"feedId": ids["feed"]}, ["NOT_FOUND feedId"]),
    "setMeterFeed": (
        "WRITE",
        lambda ids: {"meterId": ids["ada.meter"], "feedId": ids["feed"], "settings": {"serial": "S1"}},
        ["NOT_FOUND meterId"],
    ),
    "startBackfill": ("WRITE", lambda ids: {"meterId": ids["ada.meter"]}, ["NOT_FOUND meterId"]),
    "cancelBackfill": ("WRITE", lambda ids: {"backfillId": ids["backfill"]}, ["NOT_FOUND backfillId"]),
    "deleteFeed": ("WRITE", lambda ids: {"feedId": ids["feed"]}, ["NOT_FOUND feedId"]),
    "createEmailSubscription": ("WRITE", lambda ids: {"email": "new@example.com"}, None),
    "updateEmailSubscription": (
        "WRITE",
        lambda ids: {"emailSubscriptionId": ids["mail"], "description": "D"},
        ["NOT_FOUND emailSubscriptionId"],
    ),
    "resendConfirmation": (
        "WRITE",
        lambda ids: {"emailSubscriptionId": ids["mail"]},
        ["NOT_FOUND emailSubscriptionId"],
    ),
    "deleteEmailSubscription": (
        "WRITE",
        lambda ids: {"emailSubscriptionId": ids["mail"]},
        ["NOT_FOUND emailSubscriptionId"],
    ),
    "deleteWebhookEndpoint": (
        "WRITE",
        lambda ids: {"webhookEndpointId": ids["endpoint"]},
        ["NOT_FOUND webhookEndpointId"],
    ),
    "deleteMeter": ("WRITE", lambda ids: {"meterId": ids["ada.meter"]}, ["NOT_FOUND meterId"]),
    "deleteCustomer": ("WRITE", lambda ids: {"customerId": ids["ada"]}, ["NOT_FOUND customerId"]),
    "deleteUser": ("ADMIN", lambda ids: {"userId": ids["user"]}, ["NOT_FOUND userId"]),
}
# What even the account's own key is refused at this point, which shows that it got past the door.
REFUSED_TO_OWNER = {
    "resendConfirmation": ["LIMIT_REACHED emailSubscriptionId"],
    "deleteUser": ["CONFLICT userId"],
    # It leads to this machine, which no feed may reach here.
    "checkFeed": ["INVALID feedId"],
    # The new feed's own has begun, and the one that is named has ended.
    "startBackfill": ["CONFLICT meterId"],
    "cancelBackfill": ["CONFLICT backfillId"],
}


async def test_no_mutation_by_one_who_may_not(stage: Stage) -> None:
    refused: dict[str, Any] = {
        viewer: {"UNAUTHENTICATED"} if viewer in ANONYMOUS else {"FORBIDDEN"}
        for viewer in ("reader", "stream", "bound", "elsewhere", *ANONYMOUS)
    }
    async with unchanged(stage.world):
        for name, (scope, values, to_stranger) in MUTATIONS.items():
            wrong = dict(refused)
            if scope == "ADMIN":
                wrong["writer"] = {"FORBIDDEN"}
            if to_stranger is not None:
                wrong["stranger"] = to_stranger
            document = mutation(name, "__typename")
            got = {}
            for viewer in wrong:
                # With an idempotency key, which a refusal must not use up either.
                given = {"input": {**values(stage.ids), "idempotencyKey": "k"}}
                got[viewer] = outcome(await stage.ask(viewer, document, given))
            assert (name, got) == (name, wrong)


async def test_another_accounts_objects_cannot_be_mixed_in(stage: Stage) -> None:
    ids = stage.ids
    async with unchanged(stage.world):
        for name, values, expected_code in (
            (
                "setMeterConsent",
                {"meterId": ids["ada.meter"], "hostedConsentId": ids["their.eve.consent"]},
                "NOT_FOUND hostedConsentId",
            ),
            (
                "setMeterConsent",
                {"meterId": ids["their.eve.meter"], "hostedConsentId": ids["ada.consent"]},
                "NOT_FOUND meterId",
            ),
            (
                "createMeter",
                {"customerId": ids["their.eve"], "number": "2499999999991"},
                "NOT_FOUND customerId",
            ),
            ("createStreamToken", {"customerId": ids["their.eve"]}, "NOT_FOUND customerId"),
            (
                "setMeterFeed",
                {"meterId": ids["ada.meter"], "feedId": ids["their.feed"]},
                "NOT_FOUND feedId",
            ),
            # An id of another kind is not there either.
            ("updateCustomer", {"customerId": ids["ada.meter"], "name": "A"}, "NOT_FOUND customerId"),
            ("retryDelivery", {"deliveryId": ids["replay"]}, "NOT_FOUND deliveryId"),
        ):
            response = await stage.ask("owner", mutation(name, "__typename"), {"input": values})
            assert (name, outcome(response)) == (name, [expected_code])
        cursor = (await stage.ask("stranger", "{ eventStream { latestCursor } }"))["data"]["eventStream"]
        given = {"webhookEndpointId": ids["endpoint"], "after": cursor["latestCursor"]}
        response = await stage.ask("owner", mutation("replayEvents", "__typename"), {"input": given})
        assert codes(response) == {"BAD_USER_INPUT"}


async def test_a_stranger_acts_on_its_own_account_only(stage: Stage) -> None:
    for name, (_, values, to_stranger) in MUTATIONS.items():
        if to_stranger is None:
            before = rows_of(await state(stage.world), stage.mine.id)
            given = {"input": values(stage.ids)}
            assert (name, outcome(await stage.ask("stranger", mutation(name, "__typename"), given))) == (
                name,
                [],
            )
            assert rows_of(await state(stage.world), stage.mine.id) == before


async def test_the_accounts_own_key_may_do_everything_and_touches_no_other_account(stage: Stage) -> None:
    before = rows_of(await state(stage.world), stage.theirs.id)
    for name, (_, values, _stranger) in MUTATIONS.items():
        given = {"input": values(stage.ids)}
        response = await stage.ask("owner", mutation(name, "__typename"), given)
        assert (name, outcome(response)) == (name, REFUSED_TO_OWNER.get(name, []))
    assert rows_of(await state(stage.world), stage.theirs.id) == before


def rows_of(tables: dict[str, list[dict[str, Any]]], account_id: str) -> dict[str, list[dict[str, Any]]]:
    """The rows that name an account."""
    return {name: [row for row in rows if account_id in row.values()] for name, rows in tables.items()}


async def test_a_write_key_may_do_all_that_needs_write(stage: Stage) -> None:
    for name, (scope, values, _stranger) in MUTATIONS.items():
        if scope == "WRITE":
            response = await stage.ask("writer", mutation(name, "__typename"), {"input": values(stage.ids)})
            assert (name, outcome(response)) == (name, REFUSED_TO_OWNER.get(name, []))
