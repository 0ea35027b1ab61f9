"""GraphQL mutations of meters, with their inputs and payloads."""

from typing import Any

import strawberry
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor
from app.graphql.context import Info
from app.graphql.inputs import given
from app.graphql.mutations import UserError, mutate
from app.graphql.scalars import Metadata
from app.meters import actions
from app.meters.graphql import Meter
from app.meters.kinds import DataSource, MeterType


@strawberry.input
class CreateMeterInput:
    customer_id: strawberry.ID
    """The id of the customer that it is to belong to, for good."""
    number: str
    """An MPAN (13 digits, or all 21) or an MPRN (6 to 10 digits), unique for its customer."""
    type: MeterType | None = None
    """The energy that it measures; by the number's length unless given."""
    description: str | None = None
    """A note of your own, up to 2,000 characters."""
    address: str | None = None
    """The place where it is, up to 2,000 characters."""
    data_source: DataSource | None = None
    """The source of its readings; API unless given."""
    metadata: Metadata | None = None
    """Keys and values of your own; {} unless given."""
    idempotency_key: str | None = None


@strawberry.type
class CreateMeterPayload:
    meter: Meter | None = None
    user_errors: list[UserError]


@strawberry.input
class UpdateMeterInput:
    meter_id: strawberry.ID
    description: str | None = strawberry.UNSET
    """A note of your own, up to 2,000 characters."""
    address: str | None = strawberry.UNSET
    """The place where it is, up to 2,000 characters."""
    data_source: DataSource | None = strawberry.UNSET
    """The source of its readings; cannot be cleared."""
    metadata: Metadata | None = strawberry.UNSET
    """Keys and values of your own, which replace all that there were."""
    idempotency_key: str | None = None


@strawberry.type
class UpdateMeterPayload:
    meter: Meter | None = None
    user_errors: list[UserError]


@strawberry.input
class DeleteMeterInput:
    meter_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class DeleteMeterPayload:
    deleted_id: strawberry.ID | None = None
    user_errors: list[UserError]


@strawberry.input
class EnableMeterInput:
    meter_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class EnableMeterPayload:
    meter: Meter | None = None
    user_errors: list[UserError]


@strawberry.input
class DisableMeterInput:
    meter_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class DisableMeterPayload:
    meter: Meter | None = None
    user_errors: list[UserError]


@strawberry.input
class SetMeterConsentInput:
    meter_id: strawberry.ID
    hosted_consent_id: strawberry.ID | None = None
    """The id of the one consent that is to cover it; null: none."""
    idempotency_key: str | None = None


@strawberry.type
class SetMeterConsentPayload:
    meter: Meter | None = None
    user_errors: list[UserError]


@strawberry.type
class MeterMutations:
    @strawberry.mutation
    async def create_meter(self, info: Info, input: CreateMeterInput) -> CreateMeterPayload | None:
        """Make a meter, with the event meter.created; consents of its customer that mean it cover it."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            names = ("customer_id", "number", "type", "description", "address", "data_source")
            values = given(input, *names, metadata="labels")
            return {"meter": await actions.create(session, actor, **values)}

        return await mutate(info, input, CreateMeterPayload, run)

    @strawberry.mutation
    async def update_meter(self, info: Info, input: UpdateMeterInput) -> UpdateMeterPayload | None:
        """Change a meter."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            changes = given(input, "description", "address", "data_source", metadata="labels")
            return {"meter": await actions.update(session, actor, input.meter_id, changes)}

        return await mutate(info, input, UpdateMeterPayload, run)

    @strawberry.mutation
    async def delete_meter(self, info: Info, input: DeleteMeterInput) -> DeleteMeterPayload | None:
        """Delete a meter with its readings; its events stay."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            return {"deleted_id": await actions.delete(session, actor, input.meter_id)}

        return await mutate(info, input, DeleteMeterPayload, run)

    @strawberry.mutation
    async def enable_meter(self, info: Info, input: EnableMeterInput) -> EnableMeterPayload | None:
        """Take back disableMeter; an enabled meter stays as it is."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            return {"meter": await actions.enable(session, actor, input.meter_id)}

        return await mutate(info, input, EnableMeterPayload, run)

    @strawberry.mutation
    async def disable_meter(self, info: Info, input: DisableMeterInput) -> DisableMeterPayload | None:
        """Mark a meter as disabled by the user; a disabled one stays as it is."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            return {"meter": await actions.disable(session, actor, input.meter_id)}

        return await mutate(info, input, DisableMeterPayload, run)

    @strawberry.mutation
    async def set_meter_consent(
        self, info: Info, input: SetMeterConsentInput
    ) -> SetMeterConsentPayload | None:
        """Cover a meter by one consent alone; hostedConsentId null removes."""

        async def run(session: AsyncSession, actor: Actor) -> dict[str, Any]:
            consent_id = input.hosted_consent_id
            return {"meter": await actions.set_consent(session, actor, input.meter_id, consent_id)}

        return await mutate(info, input, SetMeterConsentPayload, run)
