"""Operations of documents that were parsed, limited and validated."""

from dataclasses import dataclass, replace

from graphql import DocumentNode, OperationDefinitionNode

from app.graphql.bounds.costs import Costs
from app.graphql.compiled.executor import CompiledExecutor
from app.graphql.compiled.plan_cache import PlanCache
from app.graphql.list_inputs import ListVariables
from app.graphql.operation_template import Parameters


@dataclass(frozen=True, eq=False)
class PreparedOperation:
    """Equal requests get the same object."""

    document: DocumentNode
    operation: OperationDefinitionNode
    costs: Costs
    cost_limit: int
    # None where no list among its variables may be converted as a whole.
    lists: ListVariables | None = None
    # Whether a query selects or names a secret: its response must not be cached nor compressed.
    is_secret: bool = False
    # None where everything is executed field by field.
    plan_cache: PlanCache | None = None
    # Whether the response tells its cost.
    tells_cost: bool = False
    executor: type[CompiledExecutor] = CompiledExecutor
    # Whether its response is always the same: introspection without variables.
    is_constant: bool = False
    # Of a document that is executed by the template of its form.
    parameters: Parameters | None = None

    @property
    def text(self) -> str:
        """The document as it was sent."""
        if self.parameters is not None:
            return self.parameters.text
        assert self.document.loc is not None  # noqa: S101 - it was parsed with locations
        return self.document.loc.source.body

    @property
    def operation_type(self) -> str:
        """query, mutation or subscription."""
        return self.operation.operation.value

    @property
    def operation_name(self) -> str | None:
        return self.operation.name.value if self.operation.name else None

    def telling_cost(self) -> "PreparedOperation":
        """The same with its cost in the response; a subscription stays as it is, because equal ones share it."""
        return self if self.operation_type == "subscription" else replace(self, tells_cost=True)
