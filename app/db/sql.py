"""SQL that is written once for both databases and prepared once, for statements run thousands of times a second.

A statement is given its many rows as one JSON parameter, so that it is the same text, and the same plan, for any
number of them. Words that the databases spell differently begin with `@`:

- `@rows(id text, delay float8)`: the rows of the parameter `:rows` as a table named `given`. Types: text, bigint,
  float8.
- `@lists(id text, delay float8)`: the same for rows that are given as lists of values, in this order. It takes two
  thirds of the time, so it is for statements that are given a row for each delivery.
- `@now`: the database's clock; in a comparison write `(SELECT @now)`, which an index can be searched with.
- `@later(x)`: x seconds from now. `@instant(x)`: a time given as milliseconds since 1970.
- `@ms(x)`: a stored time as milliseconds since 1970.
- `@bytes(x)`: a text as its UTF-8.
- `@skip_locked(t)`: rows of `t` are locked, those locked by others passed over. `@lock(t)`: the same, but waits.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import TextClause, text
from sqlalchemy.sql.selectable import TextualSelect
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.types import POSTGRES_NOW, SQLITE_NOW

_WORD = re.compile(r"@(\w+)(?:\(([^()]*)\))?")
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)")


class Sql:
    """A statement in both dialects; `results` types the columns that are not plain text or numbers.

    `sqlite` is for the rare statement whose very shape differs.
    """

    def __init__(
        self, statement: str, results: Mapping[str, Any] | None = None, *, sqlite: str | None = None
    ) -> None:
        self._sqlite = _prepared(sqlite or statement, _SQLITE, results)
        self._postgresql = _prepared(statement, _POSTGRES, results)

    def on(self, session: AsyncSession) -> TextClause | TextualSelect:
        """The statement for this session's database."""
        return self.of(is_sqlite(session))

    def of(self, on_sqlite: bool) -> TextClause | TextualSelect:
        """The statement for one of the two databases."""
        return self._sqlite if on_sqlite else self._postgresql

    def as_part(self, number: int) -> str:
        """The text on PostgreSQL of a statement without `results`, as a part of another one.

        The number is put behind the names of its parameters.
        """
        assert isinstance(self._postgresql, TextClause)  # noqa: S101 - it has no results
        return _PARAMETER.sub(rf":\1_{number}", self._postgresql.text)


def is_sqlite(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def rows(items: Iterable[Mapping[str, Any] | Sequence[Any]]) -> str:
    """The value of `:rows`."""
    return orjson.dumps(list(items)).decode()


def _prepared(
    statement: str, words: Mapping[str, Callable[[str], str]], results: Mapping[str, Any] | None
) -> TextClause | TextualSelect:
    clause = text(_WORD.sub(lambda found: words[found[1]](found[2] or ""), statement))
    return clause.columns(**results) if results else clause


def _sqlite_rows(columns: str) -> str:
    names = [column.split()[0] for column in columns.split(",")]
    # json_extract and not ->>, which came with SQLite 3.38 only.
    values = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)
    return f"(SELECT {values} FROM json_each(:rows)) AS given"  # noqa: S608 - our own column names


def _sqlite_lists(columns: str) -> str:
    values = (
        f"json_extract(value, '$[{place}]') AS {column.split()[0]}"
        for place, column in enumerate(columns.split(","))
    )
    return f"(SELECT {', '.join(values)} FROM json_each(:rows)) AS given"  # noqa: S608 - our own column names


def _postgres_lists(columns: str) -> str:
    values = (
        f"CAST(value->>{place} AS {type_}) AS {name}"
        for place, (name, type_) in enumerate(column.split() for column in columns.split(","))
    )
    return f"(SELECT {', '.join(values)} FROM jsonb_array_elements(CAST(:rows AS jsonb))) AS given"  # noqa: S608


_SQLITE: Mapping[str, Callable[[str], str]] = {
    "rows": _sqlite_rows,
    "lists": _sqlite_lists,
    "now": lambda _: SQLITE_NOW,
    "later": lambda seconds: f"({SQLITE_NOW} + CAST({seconds} * 1000 AS INTEGER))",
    "instant": lambda ms: ms,
    "ms": lambda instant: instant,
    "bytes": lambda value: f"CAST({value} AS BLOB)",
    "skip_locked": lambda _: "",
    "lock": lambda _: "",
}
_POSTGRES: Mapping[str, Callable[[str], str]] = {
    "rows": lambda columns: f"jsonb_to_recordset(CAST(:rows AS jsonb)) AS given({columns})",
    "lists": _postgres_lists,
    "now": lambda _: POSTGRES_NOW,
    "later": lambda seconds: f"({POSTGRES_NOW} + CAST({seconds} AS double precision) * INTERVAL '1 second')",
    "instant": lambda ms: f"to_timestamp({ms} / 1000.0)",
    "ms": lambda instant: f"CAST(round(extract(epoch FROM {instant}) * 1000) AS bigint)",
    "bytes": lambda value: f"convert_to({value}, 'UTF8')",
    "skip_locked": lambda table: f"FOR UPDATE OF {table} SKIP LOCKED",
    "lock": lambda table: f"FOR UPDATE OF {table}",
}
