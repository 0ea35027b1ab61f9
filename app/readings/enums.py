"""Enums of readings that the tables and the API share."""

import enum


class Granularity(enum.Enum):
    """The length of an interval. Days, weeks (from Monday), months and years are those of Europe/London."""

    HALF_HOUR = "HALF_HOUR"
    """Half an hour, from minute 0 or 30."""
    HOUR = "HOUR"
    """An hour."""
    DAY = "DAY"
    """A day in Europe/London: 23, 24 or 25 hours."""
    WEEK = "WEEK"
    """Seven days in Europe/London, from Monday."""
    MONTH = "MONTH"
    """A calendar month in Europe/London."""
    YEAR = "YEAR"
    """A calendar year in Europe/London."""


class ReadingQuality(enum.Enum):
    """Where a value comes from."""

    ACTUAL = "ACTUAL"
    """Measured."""
    ESTIMATED = "ESTIMATED"
    """Estimated."""


class EnergyUnit(enum.Enum):
    """The unit of all energy here."""

    KWH = "KWH"
    """Kilowatt-hours, for gas as well."""
