"""The compiled reads of one operation, kept between its requests in a bounded cache."""

import sys
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from graphql import DocumentNode, FieldNode, GraphQLResolveInfo, OperationDefinitionNode, Undefined
from sqlalchemy import Select

from app.core.lru import WeightedLru
from app.db.raw_statements import RebuiltStatement
from app.graphql.compiled.values import NotCompiled
from app.graphql.documents import variables_of

# Measured bytes: of a plan, of a statement's text, of a filter in it, which may join tables, of a key of either, of
# each column in a plan, in a text, and in the objects that SQLAlchemy builds a text of.
PLAN_WEIGHT, STATEMENT_WEIGHT, FILTER_WEIGHT, KEY_WEIGHT = 2000, 3500, 5000, 500
COLUMN_WEIGHT, TEXT_WEIGHT, BUILT_WEIGHT = 700, 200, 10_000
_NOT_COMPILED: Final = object()
"""Stands in the cache for a field that cannot be compiled."""
_numbers = count()


class PlanCache:
    """Plans of the operation's root fields, by the values of its directives' variables, and their statements.

    Several operations may share `lru`.
    """

    def __init__(
        self, document: DocumentNode, operation: OperationDefinitionNode, lru: WeightedLru[Any, Any]
    ) -> None:
        # Variables of directives; all others are parameters of statements.
        self._variables = variables_of(document, ("if",))
        roots = operation.selection_set.selections
        # The document must live as long as this cache: keys hold ids of its nodes.
        self._document = document
        # Keys hold this number: the cache itself would keep the document alive.
        self._number = next(_numbers)
        self.has_one_root = len(roots) == 1 and isinstance(roots[0], FieldNode)
        self.lru = lru

    def plan(self, info: GraphQLResolveInfo[Any], kind: Any, build: Callable[[], tuple[Any, int]]) -> Any:
        """The plan of this field; `build` compiles it and counts its columns. Raises NotCompiled."""
        coerced = info.variable_values.coerced
        # By nodes and not by path: one path leads through events of several types to several fields.
        nodes = tuple(map(id, info.field_nodes))
        values = tuple([coerced.get(name, Undefined) for name in self._variables])
        key = (self._number, nodes, kind, values)
        plan = self.lru.get(key)
        if plan is None:
            weight = KEY_WEIGHT + sum(map(sys.getsizeof, (nodes, *nodes, *values)))
            try:
                plan, columns = build()
                weight += PLAN_WEIGHT + COLUMN_WEIGHT * columns
            except NotCompiled:
                plan = _NOT_COMPILED
            self.lru.put(key, plan, weight)
        if plan is _NOT_COMPILED:
            raise NotCompiled
        return plan

    def statement(
        self, plan: int, shape: Any, columns: int, build: Callable[[], Select[Any]]
    ) -> RebuiltStatement:
        """The statement of a plan, by its number and columns, for requests of one shape; `build` may hold the plan."""
        key = (plan, shape)
        statement: RebuiltStatement | None = self.lru.get(key)
        if statement is None:
            statement = RebuiltStatement(build)
            weight = KEY_WEIGHT + STATEMENT_WEIGHT
            if shape.filter is not None:
                weight += FILTER_WEIGHT + len(repr(shape.filter))
            # Beside other root fields SQLAlchemy may execute it, and keep all of it.
            column = TEXT_WEIGHT if self.has_one_root else BUILT_WEIGHT
            self.lru.put(key, statement, weight + (COLUMN_WEIGHT + column) * columns)
        return statement
