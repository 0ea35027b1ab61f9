"""GraphQL arguments that select a period of readings."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.readings.enums import Granularity

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
