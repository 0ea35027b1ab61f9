"""Filters of lists. Each field of a filter says once how it narrows the rows:

    @strawberry.input
    class MeterFilter(Filter):
        types: list[MeterType] | None = compared(col(Meter.type).in_, names)
        is_disabled: bool | None = chosen(lambda given, at: col(Meter.is_disabled).is_(given))

The value of a `compared` field is a parameter of the statement. The value of a `chosen` field is part of the statement.
Statements are cached by a filter's form, and built of nothing else: no value can be left out of the key.
"""

import dataclasses
import enum
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, Protocol, cast

import strawberry
from pydantic.alias_generators import to_camel
from sqlalchemy import ColumnElement, Select, false

from app.auth.actor import Actor
from app.core.errors import BadUserInput
from app.db.labels import label_values, labels_are

# A statement takes some thousands of values; nobody filters by more than a few by hand.
MAX_VALUES: Final = 1000

_CONDITION: Final = "condition"


class Joined(Protocol):
    """A table that conditions need, of which one statement joins one."""

    def joined(self, statement: Select[Any]) -> Select[Any]: ...


class _Compared(NamedTuple):
    # Of the parameter; of a dict of parameters where the stored value is a dict.
    condition: Callable[[Any], Any]
    stored: Callable[[Any], Any]
    is_note: bool = False


class _Chosen(NamedTuple):
    # Of the value and the current time, or what `join` makes of the time.
    condition: Callable[[Any, Any], ColumnElement[bool]]
    join: Callable[[Any], Joined] | None


def compared(condition: Callable[[Any], Any], stored: Callable[[Any], Any] = lambda given: given) -> Any:
    """A field whose value, as it is `stored`, is a parameter of the condition."""
    return _field(_Compared(condition, stored))


def chosen(
    condition: Callable[[Any, Any], ColumnElement[bool]], join: Callable[[Any], Joined] | None = None
) -> Any:
    """A field whose value decides over the condition: `condition(value, at)`.

    With a `join`, which takes the current time, the condition is of the value and the joined table.
    """
    return _field(_Chosen(condition, join))


def labelled(column: Any) -> Any:
    """A field of metadata. It matches nothing for viewers that see no notes."""
    return _field(_Compared(lambda labels: labels_are(column, labels), label_values, is_note=True))


def names(members: Sequence[enum.Enum]) -> list[str]:
    """Members of an enum that are stored by their names."""
    return [member.name for member in members]


def values(members: Sequence[enum.Enum]) -> list[Any]:
    """Members of an enum that are stored by their values."""
    return [member.value for member in members]


def _field(condition: _Compared | _Chosen) -> Any:
    return strawberry.field(default=None, metadata={_CONDITION: condition})


class Form(NamedTuple):
    """The part of a filter that its statement is built of."""

    filter: Any
    # Each given field with the value of its choice, or the keys of its parameters.
    fields: tuple[tuple[str, Hashable], ...]

    def narrow(self, statement: Select[Any], at: Any, parameters: Mapping[str, Any]) -> Select[Any]:
        """Narrows a statement over the model's rows; `at` is the current time, or a parameter with it."""
        conditions, joins = _conditions(self.filter), dict[Any, Joined]()
        for name, part in self.fields:
            condition = conditions[name][1]
            if isinstance(condition, _Compared):
                where = _where(condition, name, part, parameters)
            elif condition.join is None:
                where = condition.condition(part, at)
            else:
                if condition.join not in joins:
                    joins[condition.join] = condition.join(at)
                    statement = joins[condition.join].joined(statement)
                where = condition.condition(part, joins[condition.join])
            statement = statement.where(where)
        return statement


class Filter:
    """The base of filters."""

    def parts(self, viewer: Actor) -> tuple[Form, dict[str, Any]]:
        """The form, and the values of its parameters. Raises BadUserInput."""
        fields: list[tuple[str, Hashable]] = []
        parameters: dict[str, Any] = {}
        for name, (graphql_name, condition) in _conditions(cast(Any, type(self))).items():
            given = getattr(self, name)
            if given is None:
                continue
            require_few(graphql_name, given)
            if isinstance(condition, _Chosen):
                fields.append((name, frozenset(given) if isinstance(given, list) else given))
            elif condition.is_note and given and not viewer.sees_notes:
                fields.append((name, _NOTHING))
            else:
                stored = condition.stored(given)
                if isinstance(stored, dict):
                    fields.append((name, tuple(stored)))
                    parameters |= {f"{name}_{key}": one for key, one in stored.items()}
                else:
                    fields.append((name, None))
                    parameters[name] = stored
        return Form(type(self), tuple(fields)), parameters


class _Nothing(enum.Enum):
    NOTHING = enum.auto()


_NOTHING: Final = _Nothing.NOTHING


def _where(condition: _Compared, name: str, part: Any, parameters: Mapping[str, Any]) -> Any:
    if part is _NOTHING:
        return false()
    if part is None:
        return condition.condition(parameters[name])
    return condition.condition({key: parameters[f"{name}_{key}"] for key in part})


@cache
def _conditions(filter: Any) -> Mapping[str, tuple[str, _Compared | _Chosen]]:
    """The name in GraphQL and the condition of each field. Raises TypeError for a field without a condition."""
    fields = dataclasses.fields(filter)
    bare = [field.name for field in fields if _CONDITION not in field.metadata]
    if bare:
        raise TypeError(f"{filter.__name__} does not say how it narrows by {', '.join(bare)}")
    return {field.name: (to_camel(field.name), field.metadata[_CONDITION]) for field in fields}


def require_few(name: str, value: Any) -> None:
    """Raises BadUserInput for a list with more values than one statement should carry."""
    if isinstance(value, list | dict) and len(value) > MAX_VALUES:
        raise BadUserInput(
            f"filter.{name} has {len(value)} values; give at most {MAX_VALUES} at once.",
            field=["filter", name],
        )
