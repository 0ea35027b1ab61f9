"""The executor that hands through what is already as the client asked for it."""

import asyncio
from typing import Any

from graphql.execution import Executor
from graphql.pyutils import Path

from app.graphql.compiled.partly import Partly, Ready


class ReadyExecutor(Executor[Any]):
    """graphql-core's executor, but for `Ready` values, and `Partly` objects as far as they are ready."""

    def complete_value(
        self,
        return_type: Any,
        field_details_list: Any,
        info: Any,
        path: Any,
        result: Any,
        position_context: Any,
    ) -> Any:
        if isinstance(result, Ready):
            return result.value
        if isinstance(result, Partly):
            kind = result.level.type
            return self.collect_and_execute_subfields(
                kind, field_details_list, path, result, position_context
            )
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)

    def execute_field(
        self, parent_type: Any, source: Any, field_details_list: Any, path: Path, position_context: Any
    ) -> Any:
        if not isinstance(source, Partly):
            return super().execute_field(parent_type, source, field_details_list, path, position_context)
        key = str(path.key)
        if key not in source.values:
            return super().execute_field(
                parent_type, source.source, field_details_list, path, position_context
            )
        value, level = source.values[key], source.level
        if key not in level.unready:
            return value
        nodes = [one.node for one in field_details_list]
        definition = parent_type.fields[nodes[0].name.value]
        info = self.build_resolve_info(definition, nodes, parent_type, path)
        return self.complete_awaitable_value(
            definition.type, field_details_list, info, path, _arrived(value, level.reads), position_context
        )


async def _arrived(value: Any, reads: bool) -> Any:
    if reads:
        # What is below a relation comes after what is beside it, so that where both fail the same error is first.
        await asyncio.sleep(0)
    return value
