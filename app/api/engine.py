"""From a document to a response: parsed and validated once, limited, executed, its errors made fit to be seen.

Everything that is the same for every request with the same document is done at its first sight and kept in a bounded
cache. Strawberry defines the schema; graphql-core's executor runs it.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import strawberry
from graphql import (
    DocumentNode,
    ExecutionResult,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLResolveInfo,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    StringValueNode,
    Visitor,
    parse,
    validate,
    visit,
)
from graphql.execution import Executor
from graphql.execution.collect_fields import collect_fields
from graphql.pyutils import Path

from app import points
from app.api.compiled.executor import ReadyExecutor
from app.api.compiled.reads import Plans
from app.api.context import Context
from app.api.costs import Costs
from app.api.failures import RequestErrors, internal_error, refused, shown_error
from app.api.kept import Kept
from app.api.limits import Limits, check_shape
from app.api.memory import OF_ACCOUNTS, OF_STRANGERS, Memory
from app.api.secret_fields import secret_fields
from app.errors import ApiError, BadUserInput, OperationNotAllowed, QueryTooComplex, Unauthenticated

MAX_ERRORS = 20

# What a request without credentials may select.
OPEN_FIELDS = frozenset(
    {
        "__typename",
        "__schema",
        "__type",
        "eventTypes",
        "hostedConsentByToken",
        "approveHostedConsent",
        "declineHostedConsent",
    }
)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One operation of a valid document within the limits. Equal requests get the same object."""

    document: DocumentNode
    operation: OperationDefinitionNode
    # Whether it selects only what needs no credentials.
    is_open: bool
    costs: Costs
    # Whether the answer to it, a query, shows what opens something, or it names such a thing itself.
    is_secret: bool = False
    # Its compiled reads, if it reads.
    plans: Plans | None = None
    # Whether the response tells its cost.
    tells_cost: bool = False

    @property
    def text(self) -> str:
        """The document, to the letter."""
        assert self.document.loc is not None  # noqa: S101 - it was parsed with locations
        return self.document.loc.source.body

    @property
    def operation_type(self) -> str:
        """query, mutation or subscription."""
        return self.operation.operation.value

    @property
    def operation_name(self) -> str | None:
        return self.operation.name.value if self.operation.name else None

    def telling_cost(self) -> "Prepared":
        """The same with its cost in the response; as it is for a subscription, which equal ones share."""
        return self if self.operation_type == "subscription" else replace(self, tells_cost=True)


class Engine:
    """`operations`: the only documents that are executed, by their hashes; None for any.

    `compiled`: whether reads go the compiled way where they can; the answers are the same.
    """

    def __init__(
        self,
        schema: strawberry.Schema,
        limits: Limits,
        operations: Mapping[str, str] | None = None,
        *,
        compiled: bool = True,
    ) -> None:
        self.schema: GraphQLSchema = schema._schema
        self._compiled = compiled
        self._limits = limits
        self._allowed = None if operations is None else frozenset(operations.values())
        self._memory = Memory(OF_ACCOUNTS, operations)
        self._strangers = Memory(OF_STRANGERS, operations)

    def prepare(
        self, query: str | None, operation_name: str | None, *, authenticated: bool, named: str | None = None
    ) -> Prepared:
        """One operation of a document, which may be `named` by its hash.

        Raises RequestErrors: what is wrong with the document, or 401 where credentials are missing.
        """
        memory = self._memory if authenticated else self._strangers
        query = memory.named.text_of(query, named)
        prepared = memory.get(query, operation_name)
        if prepared is None:
            try:
                prepared = self._prepare(query, operation_name, memory.plans_for(query))
            except ApiError as error:
                raise RequestErrors.of(error) from None
            if not authenticated and not prepared.is_open:
                raise RequestErrors.of(
                    Unauthenticated("Send an API key in x-api-key or Authorization: Bearer to ask for this.")
                )
            memory.put(query, operation_name, prepared)
        memory.named.learn(query, named)
        return prepared

    def require_valid(self, query: str) -> None:
        """Prepare every operation of a document. Raises RequestErrors."""
        try:
            document = self._parse(query)
        except ApiError as error:
            raise RequestErrors.of(error) from None
        for one in document.definitions:
            if isinstance(one, OperationDefinitionNode):
                self.prepare(query, one.name.value if one.name else None, authenticated=True)

    def _prepare(self, query: str, operation_name: str | None, plans: Kept[Any, Any]) -> Prepared:
        if self._allowed is not None and query not in self._allowed:
            raise OperationNotAllowed(
                "This server only executes documents of its list: send one of them, to the letter, or its hash."
            )
        document = self._parse(query)
        check_shape(document, self._limits)
        if errors := validate(self.schema, document, max_errors=MAX_ERRORS, hide_suggestions=True):
            # graphql-core gives up on documents that would take it too long.
            if any(error.message == "Validation aborted." for error in errors):
                raise QueryTooComplex("The document selects too many fields; ask in several requests.")
            raise refused(errors, document)
        operation = _operation(document, operation_name)
        kind = operation.operation
        reads = self._compiled and kind is not OperationType.MUTATION
        return Prepared(
            document,
            operation,
            is_open=_root_fields(document, operation) <= OPEN_FIELDS,
            is_secret=kind is OperationType.QUERY and bool(secret_fields(self.schema, document)),
            costs=Costs(self.schema, document, operation),
            plans=Plans(document, operation, plans) if reads else None,
        )

    def _parse(self, query: str) -> DocumentNode:
        try:
            document = parse(query, max_tokens=self._limits.tokens)
        except GraphQLError as error:
            if "more than" in error.message and "tokens" in error.message:
                raise QueryTooComplex(
                    f"The document has more than {self._limits.tokens} tokens; ask in several requests.",
                    limit=self._limits.tokens,
                ) from None
            if "nested too deeply" in error.message:
                raise QueryTooComplex("The document is nested too deeply; ask in several requests.") from None
            raise refused([error]) from None
        visit(document, _StorableStrings())
        return document

    async def execute(
        self, prepared: Prepared, variables: dict[str, Any] | None, context: Context, root_value: Any = None
    ) -> dict[str, Any]:
        """The response: `data`, and `errors` if there are any. Raises RequestErrors where nothing was executed."""
        executor, cost = self._executor(prepared, variables, context, root_value)
        # Events of several documents may be executed over one context at once.
        context.plans = prepared.plans if prepared.operation_type == "query" else None
        try:
            points.reach(f"{prepared.operation_type}.execute")
            result = executor.execute_operation()
            if inspect.isawaitable(result):
                result = await result
        finally:
            await context.end()
        response = _response(result, prepared.document)
        if prepared.tells_cost:
            response["extensions"] = {"cost": cost}
        return response

    def root_of(self, prepared: Prepared, variables: dict[str, Any] | None) -> GraphQLResolveInfo[Any]:
        """What the resolver of the operation's one root field is told, but for a context. Raises RequestErrors."""
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

    def _executor(
        self, prepared: Prepared, variables: dict[str, Any] | None, context: Context | None, root_value: Any
    ) -> tuple[Executor[Any], int]:
        """What executes it, and its cost."""
        _require_storable(variables)
        executor = ReadyExecutor.build(
            self.schema,
            prepared.document,
            root_value,
            context,
            variables or {},
            prepared.operation_name,
            hide_suggestions=True,
        )
        if isinstance(executor, list):
            raise refused(executor, prepared.document)
        try:
            cost = prepared.costs.of(executor.variable_values.coerced)
        except QueryTooComplex as error:
            raise RequestErrors.of(error) from None
        if cost > self._limits.cost:
            raise RequestErrors.of(
                QueryTooComplex(
                    f"This may bring back {cost} rows; at most {self._limits.cost} are allowed. Ask for smaller pages.",
                    cost=cost,
                    limit=self._limits.cost,
                )
            )
        return executor, cost


def dumps(response: dict[str, Any]) -> bytes:
    """A response as JSON."""
    return orjson.dumps(response)


def _response(result: Any, document: DocumentNode) -> dict[str, Any]:
    if not isinstance(result, ExecutionResult):
        return {"data": None, "errors": [internal_error(TypeError("incremental result"))]}
    if result.errors:
        return {"errors": [shown_error(error, document) for error in result.errors], "data": result.data}
    return {"data": result.data}


def _operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    operations = [one for one in document.definitions if isinstance(one, OperationDefinitionNode)]
    if name is None and len(operations) > 1:
        raise BadUserInput("The document has several operations: say which in operationName.")
    for operation in operations:
        if name is None or (operation.name and operation.name.value == name):
            return operation
    raise BadUserInput(
        "The document has no operation."
        if not operations
        else "The document has no operation of this operationName."
    )


def _root_fields(document: DocumentNode, operation: OperationDefinitionNode) -> set[str]:
    fragments = {
        one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
    }
    names: set[str] = set()
    seen: set[str] = set()
    pending = list(operation.selection_set.selections)
    while pending:
        node = pending.pop()
        if isinstance(node, FieldNode):
            names.add(node.name.value)
        elif isinstance(node, InlineFragmentNode):
            pending.extend(node.selection_set.selections)
        elif isinstance(node, FragmentSpreadNode) and node.name.value not in seen:
            seen.add(node.name.value)
            pending.extend(fragments[node.name.value].selection_set.selections)
    return names


class _StorableStrings(Visitor):
    def enter_string_value(self, node: StringValueNode, *_: Any) -> None:
        _require_storable(node.value)


def _require_storable(value: Any) -> None:
    """NUL and half a surrogate pair cannot be stored as text. Raises RequestErrors."""
    try:
        # Cheap for what is nearly always fine: orjson refuses surrogates and escapes NUL.
        if b"\\u0000" not in orjson.dumps(value, default=str):
            return
    except (TypeError, ValueError, RecursionError):
        pass
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            if "\x00" in one or any("\ud800" <= character <= "\udfff" for character in one):
                raise RequestErrors.of(
                    BadUserInput("Texts must be valid Unicode without the character U+0000; remove it.")
                )
        elif isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            pending += one
