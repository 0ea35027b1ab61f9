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


class ReadingChannel(enum.Enum):
    """The direction of the energy that a reading counts."""

    IMPORT = "IMPORT"
    """Taken from the grid, or gas used."""
    EXPORT = "EXPORT"
    """Given to the grid."""
    GENERATION = "GENERATION"
    """Made behind the meter."""

    @property
    def code(self) -> int:
        """The channel in the database; codes of stored readings never change."""
        return _CHANNELS.index(self)


class ReadingReason(enum.Enum):
    """The cause of a change of readings."""

    PUSH = "PUSH"
    """Pushed by the API."""
    IMPORT = "IMPORT"
    """Taken from a file."""
    BACKFILL = "BACKFILL"
    """Fetched by a feed for the time before."""
    SCHEDULED = "SCHEDULED"
    """Fetched by a feed day by day."""
    GAP_REPAIR = "GAP_REPAIR"
    """Fetched by a feed once more, where half-hours were missing."""
    CORRECTION = "CORRECTION"
    """Other values for half-hours that had some."""

    @property
    def code(self) -> int:
        """The reason in the database; codes of stored readings never change."""
        return _REASONS.index(self)

    @classmethod
    def of_code(cls, code: int) -> "ReadingReason":
        return _REASONS[code]


_CHANNELS = (ReadingChannel.IMPORT, ReadingChannel.EXPORT, ReadingChannel.GENERATION)
_REASONS = (
    ReadingReason.PUSH,
    ReadingReason.IMPORT,
    ReadingReason.BACKFILL,
    ReadingReason.SCHEDULED,
    ReadingReason.GAP_REPAIR,
    ReadingReason.CORRECTION,
)


class EnergyUnit(enum.Enum):
    """The unit of all energy here."""

    KWH = "KWH"
    """Kilowatt-hours, for gas as well."""
