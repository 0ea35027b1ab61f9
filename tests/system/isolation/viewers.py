"""Two accounts with one of everything, the kinds of viewers that ask for it, and what each of them sees."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from app.accounts import actions as accounts
from app.auth.actor import Actor, Scope
from app.core import clock
from app.core.errors import Unauthenticated
from app.delivery.queue.models import Delivery
from app.events.models import EventRecord
from app.imports.enums import ImportStatus
from tests.accounts.state import events, mutation
from tests.consents.helpers import in_a_year
from tests.feeds.feeding import ail, ended_backfill, fed_meter, made_feed
from tests.imports.importing import ended_import
from tests.meters.asking import NUMBERS, make_customer, make_meter, run
from tests.readings.metered import RECORD, reading
from tests.support import TestAccount, World

# Who asks. `elsewhere` is a stream token bound to the account's other customer, `bearer` sends a consent token as if
# it were a key.
VIEWERS = ("owner", "writer", "reader", "stream", "bound", "elsewhere", "stranger", "none", "bearer")
ANONYMOUS = ("none", "bearer")

APPROVE = mutation("approveHostedConsent", "hostedConsent { id status }")
CONSENT = mutation("createHostedConsent", "hostedConsent { id link }")


@dataclass
class Stage:
    world: World
    mine: TestAccount
    theirs: TestAccount
    # The credential of each viewer.
    keys: dict[str, str | None] = field(default_factory=dict)
    # Every object by its label: "ada", "ada.meter", …, those of the other account with "their." in front.
    ids: dict[str, str] = field(default_factory=dict)
    # The tokens of the pending consents, by their labels.
    tokens: dict[str, str] = field(default_factory=dict)

    async def ask(
        self, viewer: str, document: str, variables: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The response; a credential that is refused looks like any other error."""
        try:
            return await self.world.ask(document, variables, key=self.keys[viewer])
        except Unauthenticated as error:
            return {"errors": [{"message": error.message, "extensions": error.extensions}]}

    async def actor(self, viewer: str) -> Actor:
        key = self.keys[viewer]
        assert key is not None
        return (await self.world.authenticator.authenticate(key)).actor

    def seen_by(self, viewer: str) -> set[str]:
        """The labels of what a viewer may see."""
        if viewer in ANONYMOUS:
            return set()
        if viewer == "stranger":
            return {label for label in self.ids if label.startswith("their.")}
        own = {label for label in self.ids if not label.startswith("their.")}
        customer = {"bound": "ada", "elsewhere": "bob"}.get(viewer)
        if customer is None:
            return own
        return {"account"} | {one for one in own if one == customer or one.startswith(f"{customer}.")}

    def labels(self, found: Any) -> set[str]:
        """The labels of all ids that stand anywhere in a response."""
        known = {identifier: label for label, identifier in self.ids.items()}
        return {known.get(one, one) for one in _ids(found)}


def _ids(value: Any) -> set[str]:
    if isinstance(value, list):
        return {found for one in value for found in _ids(one)}
    if isinstance(value, dict):
        own = {value["id"]} if isinstance(value.get("id"), str) else set()
        return own | {found for one in value.values() for found in _ids(one)}
    return set()


async def staged(world: World) -> Stage:
    stage = Stage(world, await world.account("Bright"), await world.account("Other"))
    await _fill(stage, stage.mine, "", ("ada", "bob"))
    await _fill(stage, stage.theirs, "their.", ("eve",))
    admin = (await world.authenticator.authenticate(stage.mine.key)).actor
    async with world.database.transaction() as session:
        writer, writes = await accounts.create_api_key(session, admin, name="Writer", scopes=[Scope.WRITE])
        reader, reads = await accounts.create_api_key(session, admin, name="Reader", scopes=[Scope.READ])
        tokens = [
            (
                await accounts.create_stream_token(
                    session, admin, world.services.keyring, customer_id=customer and stage.ids[customer]
                )
            )[0]
            for customer in (None, "ada", "bob")
        ]
    stage.ids |= {"writer.key": writer.id, "reader.key": reader.id}
    credentials = (stage.mine.key, writes, reads, *tokens, stage.theirs.key, None, stage.tokens["ada.asked"])
    stage.keys = dict(zip(VIEWERS, credentials, strict=True))
    return stage


async def _fill(stage: Stage, account: TestAccount, prefix: str, customers: tuple[str, ...]) -> None:
    world = stage.world
    actor = (await world.authenticator.authenticate(account.key)).actor
    ids = {"account": account.id, "user": account.user_id, "key": actor.api_key_id or ""}
    for customer, number in zip(customers, NUMBERS, strict=False):
        ids |= await _customer(stage, account, prefix, customer, number)
    made = await run(
        world,
        account,
        mutation("createWebhookEndpoint", "webhookEndpoint { id }"),
        url="https://example.com/hook",
    )
    ids["endpoint"] = made["webhookEndpoint"]["id"]
    made = await run(
        world,
        account,
        mutation("createEmailSubscription", "emailSubscription { id }"),
        email="ops@example.com",
    )
    ids["mail"] = made["emailSubscription"]["id"]
    ids["import"] = await ended_import(world, account.id)
    ids["preview"] = await ended_import(world, account.id, ImportStatus.PREVIEW)
    ids["feed"] = await made_feed(world, account.id)
    meter_id = ids[f"{customers[0]}.meter"]
    await fed_meter(world, account.id, meter_id, ids["feed"])
    ids["backfill"] = await ended_backfill(world, meter_id, ids["feed"])
    await ail(world, ids["feed"])
    log = await events(world, account.id)
    made = await run(
        world,
        account,
        mutation("replayEvents", "replay { id }"),
        webhookEndpointId=ids["endpoint"],
        failedSince=clock.format_utc(clock.now() - timedelta(hours=1)),
    )
    ids["replay"] = made["replay"]["id"]
    async with world.database.transaction() as session:
        delivery = _delivery(account, log[-1], ids["endpoint"], clock.now())
        session.add(delivery)
        ids["delivery"] = delivery.id
    labels = {identifier: label for label, identifier in ids.items()}
    for record in log:
        about = labels.get(record.customer_id or "", "account")
        ids[f"{about}.event{record.sequence}"] = record.id
    stage.ids |= {f"{prefix}{label}": identifier for label, identifier in ids.items()}


def _delivery(account: TestAccount, event: EventRecord, endpoint_id: str, at: datetime) -> Delivery:
    return Delivery(
        account_id=account.id,
        event_id=event.id,
        event_sequence=event.sequence,
        event_type=event.type,
        destination_id=endpoint_id,
        status="FAILED",
        attempts_made=1,
        due_at=at,
    )


async def _customer(
    stage: Stage, account: TestAccount, prefix: str, name: str, number: str
) -> dict[str, str]:
    """A customer with a meter that has readings, an approved consent with its evidence, and one still asked for."""
    world = stage.world
    customer_id = await make_customer(world, account, f"{name}@example.com", name=name)
    meter = await make_meter(world, account, customer_id, number)
    asked: dict[str, Any] = {
        "customerId": customer_id,
        "flowType": "GB_COMMERCIAL_BLANKET",
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://example.com/done",
    }
    consents = {}
    for label in ("consent", "asked"):
        made = (await run(world, account, CONSENT, **asked))["hostedConsent"]
        consents[label] = made["id"]
        stage.tokens[f"{prefix}{name}.{label}"] = made["link"].rpartition("/")[2]
    who = {"consenteeFullName": name, "consenteeEmail": f"{name}@example.com", "consenteeJobTitle": "Owner"}
    token = stage.tokens[f"{prefix}{name}.consent"]
    approved = await world.data(APPROVE, {"input": {"token": token, **who}})
    assert approved["approveHostedConsent"]["userErrors"] == []
    recorded = await run(world, account, RECORD, meterId=meter["id"], readings=[reading("00:00", "1.5")])
    assert recorded["changed"] == 1
    query = "query ($id: ID!) { hostedConsentEvidence(hostedConsentId: $id) { id } }"
    found = await world.data(query, {"id": consents["consent"]}, key=account.key)
    return {
        name: customer_id,
        f"{name}.meter": meter["id"],
        f"{name}.consent": consents["consent"],
        f"{name}.asked": consents["asked"],
        f"{name}.evidence": found["hostedConsentEvidence"]["id"],
    }


def codes(response: dict[str, Any]) -> set[str]:
    return {one["extensions"]["code"] for one in response.get("errors", [])}


def of_kind(stage: Stage, kinds: tuple[str, ...]) -> set[str]:
    """The labels of one kind: named in full, or by their end; ".event" by what they contain."""
    return {
        label
        for label in stage.ids
        for kind in kinds
        if label == kind
        or label.split(".")[-1] == kind
        or label.endswith(kind)
        or (kind == ".event" and kind in label)
    }


async def table(stage: Stage, ask: Callable[[str], Any]) -> dict[str, Any]:
    """The answer that each viewer gets."""
    return {viewer: await ask(viewer) for viewer in VIEWERS}


def expected(stage: Stage, wanted: set[str]) -> dict[str, Any]:
    """Each viewer sees of these labels what it may; without a credential it is told so."""
    return {
        viewer: {"UNAUTHENTICATED"} if viewer in ANONYMOUS else wanted & stage.seen_by(viewer)
        for viewer in VIEWERS
    }


def outcome(response: dict[str, Any]) -> Any:
    """The codes of top-level errors, or those of `userErrors` with their fields; [] for success."""
    if found := codes(response):
        return found
    [payload] = response["data"].values()
    return [f"{one['code']} {'.'.join(one['field'])}" for one in payload["userErrors"]]
