"""Filters over metadata."""

from typing import Any

from sqlalchemy import Boolean, ColumnElement, and_, literal, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class has_label(FunctionElement[bool]):
    """Whether a JSON object has a key with a value; any key, quotes and dots included."""

    type = Boolean()
    inherit_cache = True


@compiles(has_label, "postgresql")
def _postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    column, key, value = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"({column} ->> {key} = {value})"


@compiles(has_label, "sqlite")
def _sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    column, key, value = (compiler.process(clause, **kwargs) for clause in element.clauses)
    return f"EXISTS (SELECT 1 FROM json_each({column}) AS label WHERE label.key = {key} AND label.value = {value})"  # noqa: S608 - compiled clauses


def labels_contain(column: Any, wanted: dict[str, str]) -> ColumnElement[bool]:
    """As SQL: the JSON column has all of these keys with these values."""
    return and_(true(), *(has_label(column, literal(key), literal(value)) for key, value in wanted.items()))
