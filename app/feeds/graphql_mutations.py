"""GraphQL mutations of feeds and backfills, with their inputs and payloads."""

from datetime import datetime
from typing import Any

import strawberry
from sqlmodel.ext.asyncio.session import AsyncSession
from strawberry.scalars import JSON

from app.auth.actor import Actor, Scope
from app.core.errors import ErrorCode, Refusal, Refusals
from app.db.raw_statements import Script
from app.feeds import actions, checks
from app.feeds.enums import FeedKind, FeedStatus
from app.feeds.failures import SourceFailure
from app.feeds.graphql import Backfill, Feed, LazyMeter
from app.feeds.models import Feed as FeedRow
from app.graphql.context import Info
from app.graphql.idempotency import Result
from app.graphql.inputs import given
from app.graphql.mutations import (
    ScriptContext,
    UserError,
    find_stored,
    mutate,
    mutation,
    run_once,
    user_errors,
)
from app.graphql.nodes import shown
from app.meters.enums import MeterType
from app.readings.enums import ReadingChannel


@strawberry.input
class CreateFeedInput:
    kind: FeedKind
    """The source."""
    name: str
    """Your own name for it, up to 200 characters."""
    settings: JSON | None = None
    """An object from names to texts: those of the kind, and baseUrl, which points the feed at another host."""
    credentials: JSON
    """An object from names to texts, kept encrypted and never shown: {apiKey} of OCTOPUS, N3RGY and PERSE, {username,
    password} of GLOWMARKT, {apiKey, password} of ELECTRALINK."""
    idempotency_key: str | None = None


@strawberry.input
class UpdateFeedInput:
    feed_id: strawberry.ID
    name: str | None = strawberry.UNSET
    """Your own name for it, up to 200 characters; cannot be cleared."""
    settings: JSON | None = strawberry.UNSET
    """Its settings, which replace all that there were; null: none. Another baseUrl needs the credentials as well."""
    credentials: JSON | None = strawberry.UNSET
    """Its new credentials, all of them, as in createFeed; cannot be cleared. A feed that needed attention goes on."""
    status: FeedStatus | None = strawberry.UNSET
    """PAUSED stops it; ACTIVE lets it go on, also one that needed attention."""
    idempotency_key: str | None = None


@strawberry.input
class DeleteFeedInput:
    feed_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class CheckFeedInput:
    feed_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class SetMeterFeedInput:
    meter_id: strawberry.ID
    feed_id: strawberry.ID | None = None
    """The id of the feed that is to fetch it; null: none."""
    settings: JSON | None = None
    """An object from names to texts: the kind's settings for a meter; null: none."""
    idempotency_key: str | None = None


@strawberry.input
class StartBackfillInput:
    meter_id: strawberry.ID
    from_: datetime | None = strawberry.field(name="from", default=None)
    """The start of the period, ten years before its end at most; 13 months before it unless given."""
    to: datetime | None = None
    """The end of the period; the start of today in the UK unless given, and at the latest."""
    idempotency_key: str | None = None


@strawberry.input
class CancelBackfillInput:
    backfill_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class DiscoveredMeter:
    """A meter that a feed's credentials show."""

    number: str
    """MPAN core or MPRN, as createMeter takes it."""
    type: MeterType
    """The energy that it measures."""
    channel: ReadingChannel
    """The channel that the source has readings of."""
    description: str | None
    """The source's words about it, such as its address."""

    @classmethod
    def of(cls, stored: dict[str, Any]) -> "DiscoveredMeter":
        return cls(
            number=stored["number"],
            type=MeterType[stored["type"]],
            channel=ReadingChannel[stored["channel"]],
            description=stored["description"],
        )


@strawberry.type
class CheckFeedPayload:
    feed: Feed | None = None
    """The feed as it stands after the check, also where the source refuses it."""
    discovered_meters: list[DiscoveredMeter] | None = None
    """The meters that its credentials show, 1,000 at most; null when userErrors has entries."""
    user_errors: list[UserError]
    """The rules that the input breaks, or what the source says: INVALID where the feed has to be set right,
    LIMIT_REACHED where it has to wait, CONFLICT where it may be tried again. Empty on success."""


@strawberry.type
class FeedMutations:
    @mutation(feed=Feed)
    def create_feed(self, context: ScriptContext, input: CreateFeedInput) -> Script[Result]:
        """Make a feed, which fetches the readings of the meters that are set to it; an account has 100 at most."""
        services = context.services
        values = given(input, "kind", "name", "settings", "credentials")
        networks = services.settings.feed_allow_networks
        feed = yield from actions.create(
            context.actor, services.keyring, services.sources.kinds, networks, **values
        )
        return {"feed": feed}

    @mutation(feed=Feed)
    def update_feed(self, context: ScriptContext, input: UpdateFeedInput) -> Script[Result]:
        """Change, pause or resume a feed."""
        services = context.services
        changes = given(input, "name", "settings", "credentials", "status")
        networks = services.settings.feed_allow_networks
        feed = yield from actions.update(
            context.actor, services.keyring, services.sources.kinds, networks, input.feed_id, changes
        )
        return {"feed": feed}

    @mutation(deleted_id=strawberry.ID)
    def delete_feed(self, context: ScriptContext, input: DeleteFeedInput) -> Script[Result]:
        """Delete a feed with its credentials; its backfills end, and its meters and their readings stay."""
        return {"deleted_id": (yield from actions.delete(context.actor, input.feed_id))}

    @strawberry.mutation
    async def check_feed(self, info: Info, input: CheckFeedInput) -> CheckFeedPayload | None:
        """Try a feed's credentials now, and say which meters they show. A feed that needed attention goes on if the
        source answers; one that the source refuses rests until it is set right. userErrors says what is wrong."""
        info.context.viewer.require(Scope.WRITE)
        try:
            if await find_stored(info, input) is not None:
                return await _checked(info, input, None, [])
            with info.context.services.sources.checks.one_of(info.context.viewer.account_id):
                return await _check(info, input)
        except (Refusal, Refusals) as error:
            return CheckFeedPayload(user_errors=user_errors(error))

    @mutation(meter=LazyMeter)
    def set_meter_feed(self, context: ScriptContext, input: SetMeterFeedInput) -> Script[Result]:
        """Have a meter fetched by one feed alone; feedId null removes. With a valid consent a backfill of 13 months
        begins, and daily fetches follow."""
        kinds, given_settings = context.services.sources.kinds, input.settings
        meter = yield from actions.set_meter_feed(
            context.transaction, context.actor, kinds, input.meter_id, input.feed_id, given_settings
        )
        return {"meter": meter}

    @mutation(backfill=Backfill)
    def start_backfill(self, context: ScriptContext, input: StartBackfillInput) -> Script[Result]:
        """Fetch the history of a meter by its feed: in parts of a month, the newest first; under a blanket consent
        all at once."""
        backfill = yield from actions.start_backfill(
            context.transaction, context.actor, input.meter_id, input.from_, input.to
        )
        return {"backfill": backfill}

    @mutation(backfill=Backfill)
    def cancel_backfill(self, context: ScriptContext, input: CancelBackfillInput) -> Script[Result]:
        """End a backfill that is under way; what it has fetched stays, and daily fetches go on."""
        return {"backfill": (yield from actions.cancel_backfill(context.actor, input.backfill_id))}


async def _check(info: Info, input: CheckFeedInput) -> CheckFeedPayload:
    """Asks the source between two transactions."""
    services, viewer = info.context.services, info.context.viewer

    def begin(_: Any) -> Script[Result]:
        return {"feed": (yield from checks.begin(viewer, input.feed_id))}

    feed: FeedRow = (await run_once(services, viewer, info.field_name, None, "", begin))["feed"]
    try:
        found = await checks.ask(services.sources, feed)
    except SourceFailure as failure:
        async with services.database.transaction() as session:
            after = await checks.fail(session, services.mail_links, viewer, feed, failure)
        await info.context.renew()
        errors = user_errors(checks.refusal_of(failure))
        return CheckFeedPayload(feed=shown(after, viewer), user_errors=errors)
    return await _checked(info, input, feed, found)


async def _checked(
    info: Info, input: CheckFeedInput, checked: FeedRow | None, found: list[dict[str, Any]]
) -> CheckFeedPayload:
    """Notes that a source has answered; without a feed, gives the stored result of the same request."""

    async def run(session: AsyncSession, actor: Actor) -> Result:
        if checked is None:
            raise Refusal(ErrorCode.CONFLICT, "The check with this key is no longer known; check again.")
        return {"feed": await checks.succeed(session, actor, checked), "discovered_meters": found}

    payload: Any = await mutate(info, input, CheckFeedPayload, run)
    stored = getattr(payload, "discovered_meters", None)
    if stored is not None:
        payload.discovered_meters = [DiscoveredMeter.of(one) for one in stored]
    return payload  # type: ignore[no-any-return]
