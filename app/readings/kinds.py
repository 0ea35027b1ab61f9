"""The kinds of readings: plain enums that the tables and the API share."""

import enum


class Granularity(enum.Enum):
    """The length of an interval. Days, weeks (from Monday), months and years are those of Europe/London."""

    HALF_HOUR = "HALF_HOUR"
    HOUR = "HOUR"
    DAY = "DAY"
    WEEK = "WEEK"
    MONTH = "MONTH"
    YEAR = "YEAR"


class ReadingQuality(enum.Enum):
    ACTUAL = "ACTUAL"
    ESTIMATED = "ESTIMATED"


class EnergyUnit(enum.Enum):
    KWH = "KWH"
