"""The executor that hands through what is already as the client asked for it."""

from typing import Any

from graphql.execution import Executor

from app.api.compiled.reads import Ready


class ReadyExecutor(Executor[Any]):
    """graphql-core's executor, but for `Ready` values."""

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
        return super().complete_value(return_type, field_details_list, info, path, result, position_context)
