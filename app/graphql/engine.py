"""The engine turns a document and its variables into a response.

It parses, limits and validates a document at its first request and caches the result. Strawberry defines the schema;
graphql-core's executor runs it.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson
import strawberry
from graphql import (
    ExecutionResult,
    GraphQLError,
    GraphQLResolveInfo,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
)
from graphql.execution import Executor
from graphql.execution.collect_fields import collect_fields
from graphql.pyutils import Path

from app.core import failpoints
from app.core.errors import (
    ApiError,
    BadUserInput,
    OperationNotAllowed,
    QueryTooComplex,
    Unauthenticated,
)
from app.core.lru import WeightedLru
from app.graphql.bounds.costs import READINGS_COSTS, REFUSED_READINGS_COSTS, Costs
from app.graphql.bounds.introspection import (
    CACHE_BOUNDS,
    INTROSPECTION_FIELDS,
    IntrospectingExecutor,
    most_values,
)
from app.graphql.bounds.limits import Limits, check_shape
from app.graphql.bounds.page_sizes import require_page_sizes
from app.graphql.bounds.plain_values import require_plain_literals, require_storable
from app.graphql.bounds.secret_fields import secret_fields
from app.graphql.bounds.validation import parse_document, validate_document
from app.graphql.compiled.executor import CompiledExecutor
from app.graphql.compiled.plan_cache import PlanCache
from app.graphql.context import Context
from app.graphql.document_cache import ACCOUNTS_BOUNDS, LONGEST, STRANGERS_BOUNDS, DocumentCache
from app.graphql.documents import operation_of, root_fields
from app.graphql.failures import RequestErrors, document_errors, format_error, internal_error
from app.graphql.list_inputs import ListVariables
from app.graphql.literals import literals_of
from app.graphql.prepared_operation import PreparedOperation
from app.graphql.template_maker import by_template

# Root fields that need no credentials.
OPEN_FIELDS = frozenset(
    {
        "__typename",
        *INTROSPECTION_FIELDS,
        "eventTypes",
        "hostedConsentByToken",
        "approveHostedConsent",
        "declineHostedConsent",
    }
)

SEND_A_KEY = "Send an API key in x-api-key or Authorization: Bearer to ask for this."


class Engine:
    """`allowed`: the only documents that are executed, by their hashes; None allows any.

    `compiled=False` executes everything field by field, and `templates=False` prepares each document that differs in
    its literals. Tests compare their responses, which are the same.
    """

    def __init__(
        self,
        schema: strawberry.Schema,
        limits: Limits,
        allowed: Mapping[str, str] | None = None,
        *,
        compiled: bool = True,
        templates: bool = True,
    ) -> None:
        self.schema: GraphQLSchema = schema._schema
        # Counted at the start, because the first request would wait for it.
        most_values(self.schema)
        self._compiled = compiled
        self._limits = limits
        self._stranger_limits = limits.for_strangers()
        # To be told to send a key must not cost a stranger's request more than being refused.
        self._hint_limits = replace(limits, tokens=min(limits.tokens, 2 * self._stranger_limits.tokens))
        self._introspections: WeightedLru[tuple[str, str | None], Any] = WeightedLru(*CACHE_BOUNDS)
        self._allowed = None if allowed is None else frozenset(allowed.values())
        # Documents of a list come again to the letter.
        self._templates = templates and allowed is None
        self._longest = min(LONGEST, limits.characters)
        self._cache = DocumentCache(ACCOUNTS_BOUNDS, allowed)
        self._stranger_cache = DocumentCache(STRANGERS_BOUNDS, allowed)

    def prepare(
        self,
        query: str | None,
        operation_name: str | None,
        *,
        authenticated: bool,
        document_hash: str | None = None,
        before_parsing: Callable[[], None] | None = None,
    ) -> PreparedOperation:
        """The operation of a document; the document's hash may replace it.

        `before_parsing` is called for a document that is not cached; what it raises is raised, and nothing is parsed.
        Raises RequestErrors for an invalid document, with 401 where credentials are missing.
        """
        cache = self._cache if authenticated else self._stranger_cache
        query = cache.persisted.text_of(query, document_hash)
        prepared = cache.get(query, operation_name)
        if prepared is None:
            if before_parsing is not None:
                before_parsing()
            # Documents of strangers are few, and persisted ones come again to the letter.
            may_differ = self._templates and authenticated and document_hash is None
            literals = literals_of(query) if may_differ and len(query) <= self._longest else None
            prepared = None if literals is None else cache.filled(literals, operation_name)
            if prepared is None:
                prepared = self._checked(query, operation_name, cache)
                if literals is not None:
                    prepared = by_template(self.schema, literals, prepared, operation_name, cache)
                if prepared.parameters is None:
                    cache.put(query, operation_name, prepared)
        cache.persisted.learn(query, document_hash)
        return prepared

    def require_valid(self, query: str) -> None:
        """Prepares every operation of a document. Raises RequestErrors."""
        try:
            document = parse_document(query, self._limits)
        except ApiError as error:
            raise RequestErrors.of(error) from None
        for one in document.definitions:
            if isinstance(one, OperationDefinitionNode):
                self.prepare(query, one.name.value if one.name else None, authenticated=True)

    def _checked(self, query: str, operation_name: str | None, cache: DocumentCache) -> PreparedOperation:
        """Raises RequestErrors."""
        try:
            return self._prepare(query, operation_name, cache)
        except QueryTooComplex as error:
            is_stranger = cache is self._stranger_cache
            raise RequestErrors.of(
                self._refuse_stranger(error, query, operation_name) if is_stranger else error
            ) from None
        except ApiError as error:
            raise RequestErrors.of(error) from None

    def _prepare(self, query: str, operation_name: str | None, cache: DocumentCache) -> PreparedOperation:
        if self._allowed is not None and query not in self._allowed:
            raise OperationNotAllowed(
                "This server only executes documents of its list: send one of them, to the letter, or its hash."
            )
        is_stranger = cache is self._stranger_cache
        limits = self._stranger_limits if is_stranger else self._limits
        document = parse_document(query, limits)
        require_plain_literals(document)
        validate_document(self.schema, document, limits)
        operation = operation_of(document, operation_name)
        roots = root_fields(document, operation)
        if is_stranger and not OPEN_FIELDS.issuperset(roots):
            raise Unauthenticated(SEND_A_KEY)
        if roots.count("__schema") > 1:
            raise QueryTooComplex("An operation may select __schema once; merge its selections.")
        kind = operation.operation
        introspects = not INTROSPECTION_FIELDS.isdisjoint(roots)
        return PreparedOperation(
            document,
            operation,
            is_secret=kind is OperationType.QUERY and bool(secret_fields(self.schema, document)),
            costs=Costs(
                self.schema,
                document,
                operation,
                readings=REFUSED_READINGS_COSTS if is_stranger else READINGS_COSTS,
            ),
            cost_limit=limits.cost,
            lists=ListVariables.of(self.schema, operation),
            plan_cache=PlanCache(document, operation, cache.plans_for(query)) if self._compiled else None,
            executor=IntrospectingExecutor if introspects else CompiledExecutor,
            is_constant=introspects
            and not operation.variable_definitions
            and {*INTROSPECTION_FIELDS, "__typename"}.issuperset(roots),
        )

    def _refuse_stranger(self, error: QueryTooComplex, query: str, operation_name: str | None) -> ApiError:
        """The error for a stranger's document over the limits: it asks for a key where a key would help."""
        if self._needs_key(query, operation_name):
            return Unauthenticated(SEND_A_KEY)
        return QueryTooComplex(f"{error.message} Requests with an API key may be larger.", **error.extensions)

    def _needs_key(self, query: str, operation_name: str | None) -> bool:
        """Whether an unvalidated document fits an account, and selects a field that needs a key.

        False as well for documents of more than twice a stranger's tokens.
        """
        try:
            document = parse_document(query, self._hint_limits)
            check_shape(document, self._limits)
            operation = operation_of(document, operation_name)
        except (ApiError, RequestErrors):
            return False
        root = self.schema.get_root_type(operation.operation)
        known = root.fields.keys() if root else frozenset()
        return not known.isdisjoint(set(root_fields(document, operation)) - OPEN_FIELDS)

    async def execute(
        self,
        prepared: PreparedOperation,
        variables: dict[str, Any] | None,
        context: Context,
        root_value: Any = None,
    ) -> dict[str, Any]:
        """The response: `data`, and `errors` if there are any. Raises RequestErrors if nothing was executed."""
        executor, cost = self._executor(prepared, variables, context, root_value)
        # Events of several documents may be executed over one context at once.
        context.plan_cache = prepared.plan_cache if prepared.operation_type == "query" else None
        context.payload_plans = prepared.plan_cache if prepared.operation_type == "mutation" else None
        try:
            failpoints.reach(f"{prepared.operation_type}.execute")
            result = (
                self._constant(prepared, executor) if prepared.is_constant else executor.execute_operation()
            )
            if inspect.isawaitable(result):
                result = await result
        finally:
            await context.end()
        response = _response(result, prepared)
        if prepared.tells_cost:
            response["extensions"] = {"cost": cost}
        return response

    def _constant(self, prepared: PreparedOperation, executor: Executor[Any]) -> Any:
        """The result of introspection, which is cached."""
        place = (prepared.text, prepared.operation_name)
        result = self._introspections.get(place)
        if result is None:
            result = executor.execute_operation()
            assert isinstance(executor, IntrospectingExecutor)  # noqa: S101 - as the document was prepared
            self._introspections.put(place, result, executor.weight + sys.getsizeof(prepared.text))
        return result

    def root_of(
        self, prepared: PreparedOperation, variables: dict[str, Any] | None
    ) -> GraphQLResolveInfo[Any]:
        """The resolve info of the operation's one root field, without a context. Raises RequestErrors."""
        executor, _ = self._executor(prepared, variables, None, None)
        root = self.schema.get_root_type(prepared.operation.operation)
        assert root is not None  # noqa: S101 - the document is valid
        found = collect_fields(
            self.schema, executor.fragments, executor.variable_values, root, executor.operation
        )
        for key, details in found.grouped_field_set.items():
            nodes = [one.node for one in details]
            field = root.fields.get(nodes[0].name.value)
            if field is not None:
                return executor.build_resolve_info(field, nodes, root, Path(None, key, root.name))
        raise RequestErrors.of(BadUserInput("The subscription selects no field: select events."))

    def _build(
        self, prepared: PreparedOperation, variables: dict[str, Any], context: Context | None, root_value: Any
    ) -> Executor[Any] | list[GraphQLError]:
        return prepared.executor.build(
            self.schema,
            prepared.document,
            root_value,
            context,
            variables,
            prepared.operation_name,
            hide_suggestions=True,
        )

    def _executor(
        self,
        prepared: PreparedOperation,
        variables: dict[str, Any] | None,
        context: Context | None,
        root_value: Any,
    ) -> tuple[Executor[Any], int]:
        """The executor of the operation, and its cost."""
        require_storable(variables)
        given = variables or {}
        converted = prepared.lists.convert(given) if prepared.lists is not None else None
        executor = self._build(prepared, given if converted is None else converted.rest, context, root_value)
        if converted is not None:
            if isinstance(executor, list):
                # Errors show the values that were sent.
                executor = self._build(prepared, given, context, root_value)
            else:
                converted.put_into(executor.variable_values.coerced)
        parameters = prepared.parameters
        if isinstance(executor, list):
            if parameters is not None:
                parameters.locate(executor)
            raise document_errors(executor, prepared.document, self.schema)
        if parameters is not None:
            executor.variable_values.coerced.update(parameters.values)
        try:
            cost = prepared.costs.of(executor.variable_values.coerced)
        except QueryTooComplex as error:
            raise RequestErrors.of(error) from None
        if cost > prepared.cost_limit:
            raise RequestErrors.of(_too_costly(prepared, executor.variable_values.coerced, cost))
        return executor, cost


def dumps(response: dict[str, Any]) -> bytes:
    """The response as JSON."""
    return orjson.dumps(response)


def _too_costly(prepared: PreparedOperation, variables: Mapping[str, Any], cost: int) -> ApiError:
    """The error for an operation over its limit: that of a page's size where one is wrong, else of the cost."""
    try:
        require_page_sizes(prepared.document, variables)
    except BadUserInput as error:
        return error
    return QueryTooComplex(
        f"This may bring back {cost} rows; at most {prepared.cost_limit} are allowed. Ask for smaller pages.",
        cost=cost,
        limit=prepared.cost_limit,
    )


def _response(result: Any, prepared: PreparedOperation) -> dict[str, Any]:
    if not isinstance(result, ExecutionResult):
        return {"data": None, "errors": [internal_error(TypeError("incremental result"))]}
    if result.errors:
        if prepared.parameters is not None:
            prepared.parameters.locate(result.errors)
        errors = [format_error(error, prepared.document) for error in result.errors]
        return {"errors": errors, "data": result.data}
    return {"data": result.data}
