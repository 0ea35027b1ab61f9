"""Payloads by GraphQL: an endpoint's selection on `Event`, checked when it is saved, executed before the first attempt.

A selection is what stands after `events` in a subscription, such as `{ id name ... on MeterCreatedEvent { meter {
number } } }`, so that one document serves a socket and a webhook alike. Its result becomes `data` of the body.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from graphql import (
    FieldNode,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    parse,
)

from app.auth.actor import Actor, Scope
from app.core.errors import ErrorCode, Refusal, Refusals
from app.delivery.destinations.claimed_event import event_of, json_value
from app.delivery.destinations.webhook.payload import body_of
from app.delivery.queue.leases import PickedDelivery
from app.events import log
from app.events.models import EventRecord
from app.graphql.bounds.secret_fields import secret_fields
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.prepared_operation import PreparedOperation
from app.live.event_responses import EventResponse, internal_errors, respond
from app.live.subscription_request import SubscriptionRequest

MAX_LENGTH: Final = 10_000
MAX_TOLD: Final = 10
AT_ONCE: Final = 20

_LEAD: Final = "subscription{events"


def checked_selection(engine: Engine, selection: str | None) -> str | None:
    """The selection, fit to be executed for every event; None for none.

    Raises TOO_LONG and INVALID at `selection`, with line and column of what is wrong.
    """
    if selection is None or not selection.strip():
        return None
    if len(selection) > MAX_LENGTH:
        raise Refusal(ErrorCode.TOO_LONG, f"selection has at most {MAX_LENGTH} characters.", "selection")
    _require_selection(selection)
    try:
        prepared = engine.prepare(_document(selection), None, authenticated=True)
        # Counts what it may bring back.
        engine.root_of(prepared, None)
    except RequestErrors as refused:
        raise Refusals([_refusal(_message(error)) for error in refused.errors[:MAX_TOLD]]) from None
    _require_nothing_secret(engine, prepared)
    return selection


class PayloadSelection:
    """Executes selections in a worker; `engine` gives the engine when the first is to be executed."""

    def __init__(self, services: Services, engine: Callable[[], Engine]) -> None:
        self._services = services
        self._engine = engine

    async def bodies(self, picked: Sequence[tuple[PickedDelivery, str]]) -> dict[str, str]:
        """The bodies of picked deliveries with the selections of their endpoints, by the deliveries' ids.

        Every event is there. `errors` beside `data` names what cannot be found, as in a subscription. Where the fault
        is ours, such as a database that is away, there is no body: a later attempt makes it.
        """
        bodies: dict[str, str] = {}
        accounts: dict[str, list[tuple[PickedDelivery, str]]] = {}
        for row, selection in picked:
            accounts.setdefault(row.account_id, []).append((row, selection))
        for account_id, rows in accounts.items():
            logged = [one for one in rows if one[0].event_sequence is not None]
            # Each test by itself: in the log, which tells several events apart by their places, they have none.
            tests = [[one] for one in rows if one[0].event_sequence is None]
            for some in [*(logged[at : at + AT_ONCE] for at in range(0, len(logged), AT_ONCE)), *tests]:
                bodies.update(await self._some(account_id, some))
        return bodies

    async def _some(self, account_id: str, rows: Sequence[tuple[PickedDelivery, str]]) -> dict[str, str]:
        actor = Actor(account_id, frozenset([Scope.READ]))
        async with self._services.database.reading() as session:
            epoch = (await log.stream(session, account_id)).epoch
        requests: dict[str, SubscriptionRequest] = {}
        refusals: dict[str, RequestErrors] = {}
        for selection in dict.fromkeys(selection for _, selection in rows):
            try:
                requests[selection] = self._request(selection)
            except RequestErrors as error:
                # It was valid when it was saved; a newer version of the schema may have lost a field.
                refusals[selection] = error
        jobs = [(requests[selection], _event(row)) for row, selection in rows if selection in requests]
        answers = iter(await respond(self._services, self._engine(), actor, epoch, jobs))
        results: list[tuple[PickedDelivery, EventResponse]] = [
            (row, {"errors": refusals[one].errors, "data": None} if one in refusals else next(answers))
            for row, one in rows
        ]
        return {row.id: _body(row, result) for row, result in results if not internal_errors(result)}

    def _request(self, selection: str) -> SubscriptionRequest:
        engine = self._engine()
        prepared = engine.prepare(_document(selection), None, authenticated=True)
        return SubscriptionRequest.of(engine, prepared, None)


def _event(row: PickedDelivery) -> EventRecord:
    """The event of a picked delivery; a test's has the example as its data, and what that names is not there."""
    if row.event_sequence is not None:
        return event_of(row)
    return EventRecord(
        account_id=row.account_id,
        sequence=0,
        id=row.event_id,
        type=row.event_type,
        occurred_at=row.created_at,
        subject_id="",
        customer_id=None,
        data=json_value(row.test_event),
    )


def _body(row: PickedDelivery, result: Mapping[str, Any]) -> str:
    content = body_of(row, (result["data"] or {}).get("events"))
    if result.get("errors"):
        content["errors"] = result["errors"]
    return orjson.dumps(content).decode()


def _document(selection: str) -> str:
    return f"{_LEAD}{selection}}}"


def _require_selection(selection: str) -> None:
    """It is one selection set and nothing beside it, so that it cannot end the subscription that it is put into."""
    try:
        definitions = parse(selection).definitions
    except GraphQLError as error:
        place = error.locations[0] if error.locations else None
        raise _refusal(_placed(error.message, place and place.line, place and place.column)) from None
    first = definitions[0]
    if (
        len(definitions) > 1
        or not isinstance(first, OperationDefinitionNode)
        or first.operation is not OperationType.QUERY
        or not selection.lstrip("\ufeff \t\r\n,").startswith(("{", "#"))
    ):
        raise _refusal("Give only what stands after events in a subscription, such as { id name data }.")


def _require_nothing_secret(engine: Engine, prepared: PreparedOperation) -> None:
    if found := secret_fields(engine.schema, prepared.document)[:MAX_TOLD]:
        raise Refusals([_never_sent(node) for node in found])


def _never_sent(node: FieldNode) -> Refusal:
    place = node.loc.source.get_location(node.loc.start) if node.loc else None
    sentence = f"{node.name.value} is never sent to another server; leave it out."
    return _refusal(_placed(sentence, *_moved(place and place.line, place and place.column)))


def _message(error: Mapping[str, Any]) -> str:
    places = error.get("locations")
    line, column = (places[0]["line"], places[0]["column"]) if places else (None, None)
    return _placed(error["message"], *_moved(line, column))


def _moved(line: int | None, column: int | None) -> tuple[int | None, int | None]:
    """A place in the document as one in the selection."""
    return line, column - len(_LEAD) if line == 1 and column is not None else column


def _placed(sentence: str, line: int | None, column: int | None) -> str:
    return sentence if line is None else f"Line {line}, column {column}: {sentence}"


def _refusal(sentence: str) -> Refusal:
    return Refusal(ErrorCode.INVALID, sentence, "selection")
