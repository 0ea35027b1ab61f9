"""GraphQL mutations of meters, with their inputs and payloads."""

import strawberry

from app.db.raw_statements import Script
from app.graphql.idempotency import Result
from app.graphql.inputs import given
from app.graphql.mutations import ScriptContext, mutation
from app.graphql.scalars import Metadata
from app.meters import actions
from app.meters.enums import DataSource, MeterType
from app.meters.graphql import Meter


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


@strawberry.input
class DeleteMeterInput:
    meter_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class EnableMeterInput:
    meter_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class DisableMeterInput:
    meter_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class SetMeterConsentInput:
    meter_id: strawberry.ID
    hosted_consent_id: strawberry.ID | None = None
    """The id of the one consent that is to cover it; null: none."""
    idempotency_key: str | None = None


@strawberry.type
class MeterMutations:
    @mutation(meter=Meter)
    def create_meter(self, context: ScriptContext, input: CreateMeterInput) -> Script[Result]:
        """Make a meter, with the event meter.created; consents of its customer that mean it cover it."""
        names = ("customer_id", "number", "type", "description", "address", "data_source")
        values = given(input, *names, metadata="labels")
        return {"meter": (yield from actions.create(context.transaction, context.actor, **values))}

    @mutation(meter=Meter)
    def update_meter(self, context: ScriptContext, input: UpdateMeterInput) -> Script[Result]:
        """Change a meter."""
        changes = given(input, "description", "address", "data_source", metadata="labels")
        return {"meter": (yield from actions.update(context.actor, input.meter_id, changes))}

    @mutation(deleted_id=strawberry.ID)
    def delete_meter(self, context: ScriptContext, input: DeleteMeterInput) -> Script[Result]:
        """Delete a meter with its readings; its events stay."""
        return {"deleted_id": (yield from actions.delete(context.actor, input.meter_id))}

    @mutation(meter=Meter)
    def enable_meter(self, context: ScriptContext, input: EnableMeterInput) -> Script[Result]:
        """Take back disableMeter; an enabled meter stays as it is."""
        return {"meter": (yield from actions.enable(context.actor, input.meter_id))}

    @mutation(meter=Meter)
    def disable_meter(self, context: ScriptContext, input: DisableMeterInput) -> Script[Result]:
        """Mark a meter as disabled by the user; a disabled one stays as it is."""
        return {"meter": (yield from actions.disable(context.actor, input.meter_id))}

    @mutation(meter=Meter)
    def set_meter_consent(self, context: ScriptContext, input: SetMeterConsentInput) -> Script[Result]:
        """Cover a meter by one consent alone; hostedConsentId null removes."""
        consent_id, transaction = input.hosted_consent_id, context.transaction
        meter = yield from actions.set_consent(transaction, context.actor, input.meter_id, consent_id)
        return {"meter": meter}
