"""GraphQL arguments that select a period of readings."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.readings.enums import Granularity, ReadingChannel

From = Annotated[
    datetime | None,
    strawberry.argument(
        name="from", description="The period's start, inclusive; null: by lookback, or the last day."
    ),
]
To = Annotated[
    datetime | None,
    strawberry.argument(
        description="The period's end, exclusive; null: now, or the end of the last day with data."
    ),
]
Lookback = Annotated[
    str | None,
    strawberry.argument(
        description="How far from the end the period starts, instead of from: a number with d, w, m or y, such as 1w."
    ),
]
Length = Annotated[
    Granularity, strawberry.argument(description="The length of each interval; HALF_HOUR unless given.")
]
Channel = Annotated[
    ReadingChannel, strawberry.argument(description="The channel of the meter; IMPORT unless given.")
]
CoverageFrom = Annotated[
    datetime | None,
    strawberry.argument(name="from", description="The period's start, inclusive; null: the first reading."),
]
CoverageTo = Annotated[
    datetime | None,
    strawberry.argument(description="The period's end, exclusive; null: the start of today in the UK."),
]
