"""An independent definition of calendar buckets: two instants share one if the local calendar gives them one name."""

from collections.abc import Callable
from datetime import datetime

from app.core.clock import UK
from app.readings.enums import Granularity

LABELS: dict[Granularity, Callable[[datetime], object]] = {
    Granularity.HALF_HOUR: lambda local: (local.utctimetuple()[:4], local.minute // 30),
    Granularity.HOUR: lambda local: local.utctimetuple()[:4],
    Granularity.DAY: lambda local: local.date(),
    Granularity.WEEK: lambda local: local.isocalendar()[:2],
    Granularity.MONTH: lambda local: (local.year, local.month),
    Granularity.YEAR: lambda local: local.year,
}


def label(instant: datetime, granularity: Granularity) -> object:
    return LABELS[granularity](instant.astimezone(UK))
