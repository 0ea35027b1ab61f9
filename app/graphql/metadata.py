"""Filters over metadata."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from sqlalchemy import Boolean, ColumnElement, and_, literal, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.auth.actor import Actor

PARTS: Final = ("label_key_", "label_value_")


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


F = TypeVar("F")


def hiding_notes(filter: F, viewer: Actor, nothing: str) -> F:
    """The filter as the viewer may use it: by metadata that a viewer is not shown it finds nothing.

    `nothing` is a list of the filter; an empty one matches nothing.
    """
    given: Any = filter
    if given is None or not given.metadata or viewer.sees_notes:
        return filter
    return replace(given, metadata=None, **{nothing: []})  # type: ignore[no-any-return]


def label_values(wanted: Mapping[str, str] | None) -> dict[str, str]:
    """The keys and values of a filter by metadata, each by a name of its own."""
    pairs = enumerate((wanted or {}).items())
    return {f"{part}{at}": one for at, pair in pairs for part, one in zip(PARTS, pair, strict=True)}


def labels_are(column: Any, wanted: Mapping[str, Any]) -> ColumnElement[bool]:
    """As SQL: the JSON column has these pairs, with parameters by the names that `label_values` gives."""
    count = sum(name.startswith(PARTS[0]) for name in wanted)
    pairs = ([wanted[f"{part}{at}"] for part in PARTS] for at in range(count))
    return and_(true(), *(has_label(column, *pair) for pair in pairs))


def labels_contain(column: Any, wanted: dict[str, str]) -> ColumnElement[bool]:
    """As SQL: the JSON column has all of these keys with these values."""
    return and_(true(), *(has_label(column, literal(key), literal(value)) for key, value in wanted.items()))
