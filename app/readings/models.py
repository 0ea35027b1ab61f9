"""Readings at rest: a row for each day of a meter's channel, and the values that later ones replaced."""

from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import DDL, BigInteger, Index, Integer, LargeBinary, SmallInteger, event
from sqlmodel import Field, SQLModel

from app.core import clock
from app.db.types import Text, UtcDateTime

PARTITION_YEARS: Final = range(2015, 2036)
"""The years whose days have a partition each on PostgreSQL; all others share the default one."""


FILLFACTOR: Final = 90
"""Percent of a page that new days fill; the rest is for later versions of them, beside which no index has to change."""


class MeterKey(SQLModel, table=True):
    """The number that stands for a meter in its readings. A meter has one from its first reading on, or its feed.

    The worker looks at the meter at `look_ms` for a silence: at a new one at once, without a step of its writers.
    """

    __tablename__ = "meter_keys"
    __table_args__ = (Index("ix_meter_keys_look", "look_ms", "key"),)

    key: int | None = Field(default=None, primary_key=True, sa_type=Integer)
    meter_id: str = Field(foreign_key="meters.id", sa_type=Text, ondelete="CASCADE", unique=True)
    look_ms: int = Field(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})


class ToldSilence(SQLModel, table=True):
    """The last silence of a meter's channel that meter_data.overdue has told of.

    `recorded_ms` is when the readings before it were recorded, or the feed was set where there were none.
    """

    __tablename__ = "told_silences"

    meter_key: int = Field(
        primary_key=True, foreign_key="meter_keys.key", ondelete="CASCADE", sa_type=Integer
    )
    channel: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    recorded_ms: int = Field(sa_type=BigInteger)


class ReadingDay(SQLModel, table=True):
    """The half-hours of a UTC day, counted from 1970, of one channel of a meter.

    `packed` is in the format of `app.readings.packing`. `recorded_ms` is when the last of its half-hours was recorded
    and `reason` why, by code; where they are not the same for all half-hours, `origins` has those of each.
    """

    __tablename__ = "reading_days"
    # The order of the columns leaves no gaps between them in a row on PostgreSQL.
    __table_args__: Any = {"sqlite_with_rowid": False, "postgresql_partition_by": "RANGE (day)"}

    meter_key: int = Field(
        primary_key=True, foreign_key="meter_keys.key", ondelete="CASCADE", sa_type=Integer
    )
    channel: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    reason: int = Field(sa_type=SmallInteger)
    recorded_ms: int = Field(sa_type=BigInteger)
    day: int = Field(primary_key=True, sa_type=Integer, sa_column_kwargs={"autoincrement": False})
    packed: bytes = Field(sa_type=LargeBinary)
    origins: bytes | None = Field(default=None, sa_type=LargeBinary)


class ReadingRevision(SQLModel, table=True):
    """Half-hours of a day that a later write replaced, as they were; the columns are those of `ReadingDay`.

    No two writes replace half-hours of one day at the same `replaced_ms`.
    """

    __tablename__ = "reading_revisions"
    __table_args__: Any = {"sqlite_with_rowid": False}

    meter_key: int = Field(
        primary_key=True, foreign_key="meter_keys.key", ondelete="CASCADE", sa_type=Integer
    )
    channel: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    reason: int = Field(sa_type=SmallInteger)
    replaced_ms: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    day: int = Field(primary_key=True, sa_type=Integer, sa_column_kwargs={"autoincrement": False})
    recorded_ms: int = Field(sa_type=BigInteger)
    packed: bytes = Field(sa_type=LargeBinary)
    origins: bytes | None = Field(default=None, sa_type=LargeBinary)


class HalfHour(SQLModel, table=True):
    """A half-hour as versions before days stored it, by its UTC start in milliseconds since 1970.

    The worker carries these rows over to days; until then they count wherever days do.
    """

    __tablename__ = "readings"

    meter_id: str = Field(primary_key=True, foreign_key="meters.id", sa_type=Text, ondelete="CASCADE")
    start_ms: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    micro_kwh: int = Field(sa_type=BigInteger)
    estimated: int = Field(default=0, sa_type=SmallInteger)
    recorded_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)


def partitions() -> list[str]:
    """The statements that make the partitions of days on PostgreSQL."""
    name = ReadingDay.__tablename__
    of_years = [
        f"CREATE TABLE {name}_{year} PARTITION OF {name} FOR VALUES FROM ({_first(year)}) TO ({_first(year + 1)}) "
        f"WITH (fillfactor = {FILLFACTOR})"
        for year in PARTITION_YEARS
    ]
    return [
        *of_years,
        f"CREATE TABLE {name}_default PARTITION OF {name} DEFAULT WITH (fillfactor = {FILLFACTOR})",
    ]


def _first(year: int) -> int:
    return (date(year, 1, 1) - date(1970, 1, 1)).days


# PostgreSQL asks the partitions of years one after the other until one has a day; with the default partition, which has
# all other years, among them it would ask them all.
_YEARS: Final = (
    f"day < {_first(PARTITION_YEARS.start)}",
    f"day >= {_first(PARTITION_YEARS.start)} AND day < {_first(PARTITION_YEARS.stop)}",
    f"day >= {_first(PARTITION_YEARS.stop)}",
)


def outermost_day_on_postgresql(end: str, channel: str) -> str:
    """Joins the first (`min`) or last (`max`) day of a channel, as `outermost`, to `meter_keys`."""
    columns, order = "day, packed, recorded_ms", "ASC" if end == "min" else "DESC"
    parts = " UNION ALL ".join(
        f"(SELECT {columns} FROM reading_days WHERE meter_key = meter_keys.key AND channel = {channel} "  # noqa: S608
        f"AND {years} ORDER BY day {order} LIMIT 1)"
        for years in _YEARS
    )
    return f"""
        CROSS JOIN LATERAL (
            SELECT {columns} FROM ({parts}) AS parts ORDER BY day {order} LIMIT 1
        ) AS outermost"""  # noqa: S608 - our own names


def outermost_day_on_sqlite(end: str, channel: str) -> str:
    """The same for SQLite, which has no LATERAL."""
    return f"""
        JOIN reading_days AS outermost ON outermost.meter_key = meter_keys.key AND outermost.channel = {channel}
            AND outermost.day = (
                SELECT {end}(others.day) FROM reading_days AS others
                WHERE others.meter_key = meter_keys.key AND others.channel = {channel}
            )"""  # noqa: S608 - our own names


for _statement in partitions():
    event.listen(
        ReadingDay.__table__,  # type: ignore[attr-defined]
        "after_create",
        DDL(_statement).execute_if(dialect="postgresql"),  # type: ignore[no-untyped-call]
    )
