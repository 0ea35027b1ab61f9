"""The scalars of the schema."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any, NewType

import strawberry
from graphql import (
    FloatValueNode,
    GraphQLError,
    IntValueNode,
    ObjectValueNode,
    ValueNode,
    VariableNode,
    value_from_ast_untyped,
)
from strawberry.scalars import JSON
from strawberry.types.scalar import ScalarDefinition

from app.core import clock, json_decimals
from app.core.decimals import format_micro, to_micro

__all__ = ["JSON", "SCALARS", "Long", "Metadata", "MicroKwh"]

Long = NewType("Long", int)
Metadata = NewType("Metadata", dict[str, str])
# Decimals are integers of millionths in Python, and strings in responses.
MicroKwh = NewType("MicroKwh", int)

MAX_LONG = 2**53 - 1
MAX_LABELS, MAX_LABEL_KEY, MAX_LABEL_VALUE = 50, 40, 500


def _parse_datetime(value: Any) -> datetime:
    if not isinstance(value, str):
        raise GraphQLError("DateTime must be a string such as 2026-11-24T22:29:55.123Z.")
    try:
        return clock.parse_utc(value)
    except ValueError as error:
        raise GraphQLError(str(error)) from None


def _show_datetime(value: datetime) -> str:
    return clock.format_utc(value.astimezone(UTC))


def _parse_date(value: Any) -> date:
    try:
        if not isinstance(value, str) or len(value) != 10:
            raise ValueError
        return date.fromisoformat(value)
    except ValueError:
        raise GraphQLError("Date must be a calendar date such as 2026-11-24.") from None


def _parse_decimal(value: Any) -> int:
    try:
        return to_micro(value)
    except ValueError as error:
        raise GraphQLError(str(error)) from None


def _decimal_of(node: ValueNode, _variables: dict[str, Any] | None) -> Any:
    # The digits of the literal, because a float would round them.
    if isinstance(node, FloatValueNode | IntValueNode):
        try:
            return json_decimals.number(node.value)
        except ValueError as error:
            raise GraphQLError(f"Decimal {error}.") from None
    return value_from_ast_untyped(node)


def _literal(
    parse: Callable[[Any], Any],
    value_of: Callable[[ValueNode, dict[str, Any] | None], Any] = value_from_ast_untyped,
) -> Callable[[ValueNode, dict[str, Any] | None], Any]:
    """Parses a literal in a document; an error has its place."""

    def parse_literal(node: ValueNode, variables: dict[str, Any] | None = None) -> Any:
        try:
            return parse(value_of(node, variables))
        except GraphQLError as error:
            raise GraphQLError(error.message, nodes=node) from None

    return parse_literal


def _parse_long(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_LONG:
        raise GraphQLError("Long must be an integer below 2^53.")
    return value


def _metadata_of(node: ValueNode, variables: dict[str, Any] | None) -> Any:
    # At validation the variables have no values yet: any text stands for them.
    if variables is None and isinstance(node, ObjectValueNode):
        return {
            field.name.value: ""
            if isinstance(field.value, VariableNode)
            else value_from_ast_untyped(field.value)
            for field in node.fields
        }
    return value_from_ast_untyped(node, variables)


def _parse_metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise GraphQLError("Metadata must map strings to strings.")
    if len(value) > MAX_LABELS:
        raise GraphQLError(f"Metadata has at most {MAX_LABELS} keys, got {len(value)}.")
    for key, text in value.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY or len(text) > MAX_LABEL_VALUE:
            raise GraphQLError(
                f"Metadata keys have 1 to {MAX_LABEL_KEY} characters and values at most {MAX_LABEL_VALUE}; "
                f"see {key[:MAX_LABEL_KEY]!r}."
            )
    return value


SCALARS: dict[object, ScalarDefinition] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="UTC, ISO 8601 with milliseconds: 2026-11-24T22:29:55.123Z. In: must carry Z or +00:00.",
        serialize=_show_datetime,
        parse_value=_parse_datetime,
        parse_literal=_literal(_parse_datetime),
    ),
    date: strawberry.scalar(
        name="Date",
        description="Calendar date in Europe/London: 2026-11-24.",
        serialize=date.isoformat,
        parse_value=_parse_date,
        parse_literal=_literal(_parse_date),
    ),
    MicroKwh: strawberry.scalar(
        name="Decimal",
        description="Exact decimal. In: string or JSON number, at most 12 integer and 6 fraction digits; more is an "
        'error, never rounded. Out: plain string without exponent or trailing zeros ("295005.6"). Sums are exact.',
        serialize=format_micro,
        parse_value=_parse_decimal,
        parse_literal=_literal(_parse_decimal, _decimal_of),
    ),
    Long: strawberry.scalar(
        name="Long",
        description="JSON integer below 2^53.",
        serialize=int,
        parse_value=_parse_long,
        parse_literal=_literal(_parse_long),
    ),
    Metadata: strawberry.scalar(
        name="Metadata",
        description="At most 50 keys (40 characters) to strings (500 characters).",
        serialize=dict,
        parse_value=_parse_metadata,
        parse_literal=_literal(_parse_metadata, _metadata_of),
    ),
}
