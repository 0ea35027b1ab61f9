"""The executor that leaves the results of compiled reads as they are."""

import asyncio
from typing import Any

from graphql.execution import Executor
from graphql.pyutils import Path

from app.graphql.compiled.partial import PartialObject, ReadyValue


class CompiledExecutor(Executor[Any]):
    """graphql-core's executor, which takes ready values as they are, and of partial objects what is ready."""

    def complete_value(
        self,
        return_type: Any,
        field_details_list: Any,
        info: Any,
        path: Any,
        result: Any,
        position_context: Any,
    ) -> Any:
        if isinstance(result, ReadyValue):
            return result.value
        if isinstance(result, PartialObject):
            kind = result.type.type
            return self.collect_and_execute_subfields(
                kind, field_details_list, path, result, position_context
            )
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)

    def execute_field(
        self, parent_type: Any, source: Any, field_details_list: Any, path: Path, position_context: Any
    ) -> Any:
        if not isinstance(source, PartialObject):
            return super().execute_field(parent_type, source, field_details_list, path, position_context)
        key = str(path.key)
        if key not in source.values:
            return super().execute_field(
                parent_type, source.source, field_details_list, path, position_context
            )
        value, partial = source.values[key], source.type
        if key not in partial.partial:
            return value
        nodes = [one.node for one in field_details_list]
        definition = parent_type.fields[nodes[0].name.value]
        info = self.build_resolve_info(definition, nodes, parent_type, path)
        return self.complete_awaitable_value(
            definition.type, field_details_list, info, path, _later(value, partial.reads), position_context
        )


async def _later(value: Any, reads: bool) -> Any:
    if reads:
        # Fields below a relation come after fields beside it, so that the same error is first where both fail.
        await asyncio.sleep(0)
    return value
