"""Rows in scripts: objects of a model without a session, and prebuilt statements over its table.

The ORM makes and tracks an object in some hundred microseconds; an object made here takes a few.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

from pydantic_core import PydanticUndefined
from sqlalchemy import Executable, bindparam, insert, inspect, update
from sqlmodel import SQLModel

from app.db.raw_statements import Script

M = TypeVar("M", bound=SQLModel)
_KEY: Final = "row_id"


class Table(Generic[M]):
    """A model's table. `columns` are all of its columns, in the order in which `row` takes their values."""

    def __init__(self, model: type[M]) -> None:
        mapper: Any = inspect(model)
        self._new_instance: Callable[[], M] = mapper.class_manager.new_instance
        self._names = tuple(mapper.columns.keys())
        self._keys = {name: column.key for name, column in mapper.columns.items()}
        self.table = mapper.local_table
        self._insert = insert(self.table)
        self._defaults = {name: default for name in self._names if (default := _default(model, name))}
        self.columns: Sequence[Any] = tuple(getattr(model, name) for name in self._names)

    def row(self, values: Sequence[Any]) -> M:
        """The row with these values of `columns`."""
        return self.of(dict(zip(self._names, values, strict=True)))

    def of(self, values: Mapping[str, Any]) -> M:
        """The row with these values of all attributes."""
        row = self._new_instance()
        row.__dict__.update(values)
        return row

    def new(self, **given: Any) -> M:
        """A row that is to be inserted: the given values, and the model's defaults."""
        values = {name: make() for name, make in self._defaults.items() if name not in given} | given
        if "updated_at" in values and "updated_at" not in given:
            # A new row has not been updated.
            values["updated_at"] = values["created_at"]
        return self.of(values)

    def insert(self, rows: Sequence[M]) -> Script[None]:
        yield self._insert, [{key: row.__dict__[name] for name, key in self._keys.items()} for row in rows]

    def updating(self, *names: str) -> "Update[M]":
        """The statement that writes these attributes of a row with an id."""
        return Update(self.table, {name: self._keys[name] for name in names})


class Update(Generic[M]):
    """Writes some attributes of a row; the caller has locked it, so that none of them is another's change."""

    def __init__(self, table: Any, keys: Mapping[str, str]) -> None:
        self._keys = keys
        self._statement: Executable = (
            update(table)
            .where(table.c.id == bindparam(_KEY))
            .values({key: bindparam(key, type_=table.c[key].type) for key in keys.values()})
        )

    def __call__(self, row: M) -> Script[None]:
        values = {key: getattr(row, name) for name, key in self._keys.items()}
        yield self._statement, {_KEY: row.id, **values}  # type: ignore[attr-defined]


def _default(model: type[SQLModel], name: str) -> Callable[[], Any] | None:
    field = model.model_fields[name]
    if field.default_factory is not None:
        return field.default_factory  # type: ignore[return-value]
    default = field.default
    return None if default is PydanticUndefined else lambda: default
