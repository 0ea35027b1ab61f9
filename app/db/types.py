"""Column types and SQL functions that differ between SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, DateTime, String, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel import SQLModel

from app.core import clock

# Ids and names compare by byte, so that keyset pages are the same whatever the server's locale.
Text = String().with_variant(String(collation="C"), "postgresql")
Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

POSTGRES_NOW: Final = "date_trunc('milliseconds', clock_timestamp())"
SQLITE_NOW: Final = "CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 AS INTEGER)"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC instant with milliseconds: TIMESTAMPTZ on PostgreSQL, milliseconds since 1970 on SQLite.

    Finer fractions are truncated, as by `clock.now`. Raises ValueError for a naive datetime.
    """

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(BigInteger())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("Only aware datetimes are stored.")
        if dialect.name != "postgresql":
            return clock.to_ms(value)
        below = value.microsecond % 1000
        return value.replace(microsecond=value.microsecond - below) if below else value

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, datetime):
            return value.astimezone(UTC)
        return clock.from_ms(value)


@event.listens_for(SQLModel, "init", propagate=True)
def _use_one_time(row: SQLModel, _args: Any, values: dict[str, Any]) -> None:
    """A new row has not been updated: both of its times are one reading of the clock."""
    if "updated_at" in type(row).model_fields:
        created_at = values.setdefault("created_at", clock.now())
        values.setdefault("updated_at", created_at)


class database_now(FunctionElement[datetime]):
    """The database's own clock, in milliseconds; it moves on within a transaction."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(database_now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return POSTGRES_NOW


@compiles(database_now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return SQLITE_NOW


class seconds_from_now(FunctionElement[datetime]):
    """The database's clock plus a number of seconds, given as a bound parameter or an expression."""

    type = UtcDateTime()
    inherit_cache = True
    name = "seconds_from_now"


@compiles(seconds_from_now, "postgresql")
def _later_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    seconds = compiler.process(element.clauses, **kwargs)
    return f"{POSTGRES_NOW} + CAST({seconds} AS DOUBLE PRECISION) * INTERVAL '1 second'"


@compiles(seconds_from_now, "sqlite")
def _later_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    seconds = compiler.process(element.clauses, **kwargs)
    return f"CAST((julianday('now') - 2440587.5) * 86400000 + 0.5 + {seconds} * 1000 AS INTEGER)"
