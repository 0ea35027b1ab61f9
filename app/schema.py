"""The GraphQL schema, assembled from the features' classes. `schema.graphql` in the repository's root is its text."""

from collections.abc import AsyncGenerator
from functools import cache

import strawberry
from strawberry.schema.config import StrawberryConfig

from app.accounts.graphql import AccountQueries
from app.accounts.graphql_mutations import AccountMutations
from app.consents.graphql import ConsentQueries
from app.consents.graphql_mutations import ConsentMutations
from app.customers.graphql import CustomerMutations, CustomerQueries
from app.delivery.destinations.email.graphql import EmailSubscriptionMutations, EmailSubscriptionQueries
from app.delivery.destinations.webhook.graphql import WebhookMutations, WebhookQueries
from app.delivery.graphql.operations import DeliveryMutations, DeliveryQueries
from app.feeds.graphql import FeedQueries
from app.feeds.graphql_mutations import FeedMutations
from app.graphql.compiled.reads import read_one
from app.graphql.context import Info
from app.graphql.descriptions import describe
from app.graphql.events import (
    Event,
    EventFilter,
    EventQueries,
    event_types,
    shown_catalogue,
)
from app.graphql.nodes import Node, model_of
from app.graphql.scalars import SCALARS
from app.imports.graphql import ImportMutations, ImportQueries
from app.meters.graphql import MeterQueries
from app.meters.graphql_mutations import MeterMutations
from app.readings.graphql import ReadingMutations, ReadingQueries


@strawberry.type
class Query(
    AccountQueries,
    CustomerQueries,
    MeterQueries,
    ConsentQueries,
    ReadingQueries,
    ImportQueries,
    FeedQueries,
    EventQueries,
    WebhookQueries,
    EmailSubscriptionQueries,
    DeliveryQueries,
):
    """Everything that can be read."""

    @strawberry.field
    async def node(self, info: Info, id: strawberry.ID) -> Node | None:
        """The object with this id, whatever its kind; null if the viewer sees none."""
        model = model_of(id)
        return None if model is None else await read_one(info, model, id)


@strawberry.type
class Mutation(
    AccountMutations,
    CustomerMutations,
    MeterMutations,
    ConsentMutations,
    ReadingMutations,
    ImportMutations,
    FeedMutations,
    WebhookMutations,
    EmailSubscriptionMutations,
    DeliveryMutations,
):
    """Everything that can be changed; each change runs in a transaction of its own."""


@strawberry.type
class Subscription:
    """Everything that can be followed live, over WebSocket or SSE."""

    @strawberry.subscription
    async def events(
        self,
        after: str | None = None,
        filter: EventFilter | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Every event that the viewer may see and the filter takes, from just after the cursor (or from now),
        in order, none missing, none twice."""
        # The hub runs subscriptions: each event is executed once for all equal ones, with itself as the root value.
        raise NotImplementedError
        yield


@cache
def build_schema() -> strawberry.Schema:
    """The process's schema, with the catalogue in it."""
    shown_catalogue()
    schema = strawberry.Schema(
        Query,
        Mutation,
        Subscription,
        types=event_types(),
        config=StrawberryConfig(scalar_map=SCALARS),
    )
    describe(schema._schema)
    return schema


def schema_text() -> str:
    """The schema in the GraphQL language, as `schema.graphql` holds it."""
    return build_schema().as_str() + "\n"
