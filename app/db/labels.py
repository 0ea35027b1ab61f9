"""Conditions over metadata, which is stored as JSON."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Boolean, ColumnElement, and_, literal, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

PARTS: Final = ("key", "value")


class has_label(FunctionElement[bool]):
    """Whether a JSON object has a key with a value; keys may have quotes and dots."""

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


def label_values(labels: Mapping[str, str]) -> dict[str, str]:
    """Keys and values, each by the name of a parameter."""
    pairs = enumerate(labels.items())
    return {f"{part}{at}": one for at, pair in pairs for part, one in zip(PARTS, pair, strict=True)}


def labels_are(column: Any, parameters: Mapping[str, Any]) -> ColumnElement[bool]:
    """The JSON column has all of these pairs; the parameters have the names that `label_values` gives."""
    pairs = ([parameters[f"{part}{at}"] for part in PARTS] for at in range(len(parameters) // len(PARTS)))
    return and_(true(), *(has_label(column, *pair) for pair in pairs))


def labels_contain(column: Any, wanted: dict[str, str]) -> ColumnElement[bool]:
    """The JSON column has all of these keys with these values."""
    return and_(true(), *(has_label(column, literal(key), literal(value)) for key, value in wanted.items()))
