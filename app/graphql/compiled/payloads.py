"""Payloads of mutations, compiled as reads are.

The columns of a payload's row are those that the action returned, which for a repeated request are the stored ones; its
relations are read after the commit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from graphql import GraphQLResolveInfo, get_named_type, is_leaf_type, is_list_type, is_non_null_type

from app.db.raw_statements import pad_to_power_of_two
from app.graphql.compiled import statements
from app.graphql.compiled.plan import Plan
from app.graphql.compiled.reads import cached, is_alone, read_context, run_of
from app.graphql.compiled.selection import Compiler, definition_of, origin_of
from app.graphql.compiled.values import NotCompiled, show_value
from app.graphql.context import Context
from app.graphql.nodes import object_type, row_type_of


class _Field(NamedTuple):
    """A field of a payload by its response key: a constant, a plain value, or a row."""

    key: str
    name: str = ""
    constant: Any = None
    show: Callable[[Any], Any] | None = None
    plan: Plan | None = None
    is_nullable: bool = True


async def compiled_payload(
    context: Context, info: GraphQLResolveInfo[Any], result: dict[str, Any]
) -> dict[str, Any]:
    """The response of a mutation that succeeded. Raises NotCompiled."""
    plans = context.payload_plans
    # GraphQL types decide field by field what an end customer with a consent's token sees of a row.
    if plans is None or context.viewer.consent_id is not None:
        raise NotCompiled
    fields: list[_Field] = plans.plan(info, "payload", lambda: _compiled(info))
    context.plan_cache = plans
    try:
        return {one.key: await _value(context, info, one, result) for one in fields}
    finally:
        context.plan_cache = None


def _compiled(info: GraphQLResolveInfo[Any]) -> tuple[list[_Field], int]:
    """The fields of a payload, and the number of columns that they read."""
    compiler = Compiler(info)
    type_: Any = get_named_type(info.return_type)
    fields: list[_Field] = []
    for key, (name, kind, nodes) in compiler.selected(type_, info.field_nodes):
        if name == "__typename":
            fields.append(_Field(key, constant=type_.name))
            continue
        if name == "userErrors":
            fields.append(_Field(key, constant=()))
            continue
        named: Any = get_named_type(kind)
        python_name = definition_of(type_.fields[name]).python_name
        is_list = is_list_type(kind.of_type if is_non_null_type(kind) else kind)
        row_type = None if is_leaf_type(named) or is_list else row_type_of(origin_of(named))
        if row_type is not None and object_type(row_type.model) is not origin_of(named):
            raise NotCompiled(name)
        is_nullable = not is_non_null_type(kind)
        if row_type is not None:
            plan = compiler.rows(row_type.model, "id", named, nodes)
            if plan.is_partial:
                raise NotCompiled(name)
            fields.append(_Field(key, python_name, plan=plan, is_nullable=is_nullable))
        elif is_leaf_type(named) and not is_list:
            show = show_value(named) or _as_it_is
            fields.append(_Field(key, python_name, show=show, is_nullable=is_nullable))
        else:
            raise NotCompiled(name)
    plans = [one.plan for one in fields if one.plan is not None]
    if sum(len(plan.tables) > 1 or bool(plan.children) for plan in plans) > 1:
        # Several reads of one payload see one state.
        raise NotCompiled
    return fields, sum(plan.columns for plan in plans)


async def _value(
    context: Context, info: GraphQLResolveInfo[Any], field: _Field, result: dict[str, Any]
) -> Any:
    if not field.name:
        return [] if field.constant == () else field.constant
    value = result.get(field.name)
    if value is None:
        if not field.is_nullable:
            raise NotCompiled(field.name)
        return None
    if field.plan is None:
        assert field.show is not None  # noqa: S101 - a field has one of them
        return field.show(value)
    return await _row(context, info, field.plan, value)


async def _row(context: Context, info: GraphQLResolveInfo[Any], plan: Plan, row: Any) -> Any:
    if not isinstance(row, plan.model):
        raise NotCompiled
    viewer, read = context.viewer, read_context(context, info)
    found: tuple[Any, ...] = tuple(
        [getattr(row, name) if table is plan.root else None for table, name in plan.selected]
    )
    if len(plan.tables) > 1:
        statement = cached(
            context, plan, statements.shape_of(viewer), lambda: statements.several(plan, viewer)
        )
        parameters = statements.parameters(viewer, read.at) | {
            statements.KEYS: pad_to_power_of_two([getattr(row, plan.key)])
        }
        rows = await context.rows(statement, parameters, alone=is_alone(context, plan))
        if not rows:
            # Execution field by field knows what to say of a row that has gone meanwhile.
            raise NotCompiled
        found = tuple(
            [
                getattr(row, name) if table is plan.root else value
                for (table, name), value in zip(plan.selected, rows[0], strict=True)
            ]
        )
    return plan.shape(found, await run_of(context, read, plan, [found]))


def _as_it_is(value: Any) -> Any:
    return value
