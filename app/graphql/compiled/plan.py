"""A plan: which columns of which tables a statement reads, and how a row of them becomes the client's dict."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from graphql.execution.values import VariableValues

from app.graphql.compiled.sources import Listed, Many, One, ReadContext
from app.graphql.pagination import PageRequest

_numbers = count()


class PlanTable:
    """A table of a statement: that of the plan's rows, or of a to-one relation of another table."""

    def __init__(
        self, plan: "Plan", model: Any, parent: "PlanTable | None" = None, via: One | None = None
    ) -> None:
        self.plan = plan
        self.model = model
        self.parent = parent
        self.via = via
        # Attributes that the statement reads; a dict for its order.
        self.attributes: dict[str, None] = {}
        self._relations: dict[tuple[One, Any], PlanTable] = {}

    def need(self, attribute: str) -> None:
        """Adds the column to the statement, though not to its rows."""
        self.attributes[attribute] = None

    def index(self, attribute: str) -> int:
        """The index of the column in the rows."""
        self.need(attribute)
        return self.plan.index(self, attribute)

    def joined(self, via: One, model: Any) -> "PlanTable":
        """The table of a relation; equal relations share it."""
        if (via, model) not in self._relations:
            self.need(via.key or "id")
            table = PlanTable(self.plan, model, self, via)
            self.plan.tables.append(table)
            self._relations[via, model] = table
        return self._relations[via, model]


@dataclass
class PlanRun:
    """An execution of a plan, with the pages of its children by the parents' ids."""

    context: ReadContext
    pages: list[dict[str, Any]] = field(default_factory=list)


class Plan:
    """Reads rows of one model, shaped by `shape`; children are nested connections and lists, read for all rows at once.

    `shape` makes the response of a row, a `RowPage` or a list of rows, and a `PlanRun`.
    """

    def __init__(self, model: Any, key: str, *, descending: bool = False) -> None:
        # Keys of statements hold this number: with the plan in them they would keep it alive.
        self.number = next(_numbers)
        self.model = model
        self.descending = descending
        # The attributes of the rows, in their order.
        self.selected: list[tuple[PlanTable, str]] = []
        self.children: list[Child] = []
        self.root = PlanTable(self, model)
        self.tables = [self.root]
        self.key = key
        self.key_index = self.root.index(key)
        self.shape: Callable[[Any, PlanRun], Any]
        # Whether the executor has to complete the result of `shape`.
        self.is_partial = False

    @property
    def columns(self) -> int:
        """The number of columns that it reads, those of its children included."""
        return len(self.selected) + sum(child.plan.columns for child in self.children)

    def index(self, table: PlanTable, attribute: str) -> int:
        """The index of a column in the rows."""
        column = (table, attribute)
        if column not in self.selected:
            self.selected.append(column)
        return self.selected.index(column)


@dataclass(frozen=True)
class Child:
    """A nested connection or list of a plan's rows; a list has no page request.

    `request` makes it of the variables, and raises NotCompiled for wrong arguments.
    """

    plan: Plan
    source: Many | Listed
    request: Callable[[VariableValues], PageRequest] | None
    parent_model: Any
    # The index of the parent's id in its row.
    parent_index: int
