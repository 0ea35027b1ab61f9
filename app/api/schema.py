"""The schema: the features' classes side by side. `schema.graphql` at the top of the repository is its text."""

from collections.abc import AsyncGenerator
from functools import cache

import strawberry
from strawberry.schema.config import StrawberryConfig

import app.emails
import app.labels  # noqa: F401 - registers where filters find metadata
from app.accounts.graphql import AccountMutations, AccountQueries
from app.api.compiled.reads import one
from app.api.context import Info
from app.api.nodes import Node, model_of
from app.api.scalars import SCALARS
from app.consents.graphql import ConsentMutations, ConsentQueries
from app.customers.graphql import CustomerMutations, CustomerQueries
from app.delivery.graphql import DeliveryMutations, DeliveryQueries
from app.events.graphql import Event, EventFilter, EventQueries, event_types, read_event
from app.events.models import EventRecord
from app.meters.graphql import MeterMutations, MeterQueries
from app.readings.graphql import ReadingMutations, ReadingQueries


@strawberry.type
class Query(
    AccountQueries,
    CustomerQueries,
    MeterQueries,
    ConsentQueries,
    ReadingQueries,
    EventQueries,
    DeliveryQueries,
):
    @strawberry.field
    async def node(self, info: Info, id: strawberry.ID) -> Node | None:
        model = model_of(id)
        if model is EventRecord:
            return await read_event(info, id)  # type: ignore[no-any-return]
        return None if model is None else await one(info, model, id)


@strawberry.type
class Mutation(
    AccountMutations,
    CustomerMutations,
    MeterMutations,
    ConsentMutations,
    ReadingMutations,
    DeliveryMutations,
):
    pass


@strawberry.type
class Subscription:
    @strawberry.subscription(
        description="Every event that the viewer may see and the filter takes, from just after the cursor (or from "
        "now), in order, none missing, none twice."
    )
    async def events(
        self,
        after: str | None = None,
        filter: EventFilter | None = None,
    ) -> AsyncGenerator[Event, None]:
        # The hub runs subscriptions: each event is executed once for all equal ones, with itself as the root value.
        raise NotImplementedError
        yield


@cache
def build_schema() -> strawberry.Schema:
    """The one schema of this process."""
    return strawberry.Schema(
        Query,
        Mutation,
        Subscription,
        types=event_types(),
        config=StrawberryConfig(scalar_map=SCALARS, disable_field_suggestions=True),
    )


def schema_text(schema: strawberry.Schema | None = None) -> str:
    """The schema in the GraphQL language, as `schema.graphql` holds it."""
    return (schema or build_schema()).as_str() + "\n"
