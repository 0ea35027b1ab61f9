"""The silences of meters: since when each channel of an active meter has had no new readings.

A silence begins when the latest readings of the channel are recorded; where a feed has brought none yet, when the feed
is set. It begins no earlier than the meter becomes active.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, func, select
from sqlmodel import col

from app.consents.models import ConsentMeter, HostedConsent
from app.core import clock
from app.db.raw_statements import Script, pad_to_power_of_two
from app.db.sql import Sql, rows
from app.db.types import UtcDateTime
from app.feeds.models import MeterFeed
from app.meters.models import Meter
from app.readings.buckets import HALF_HOUR_MS
from app.readings.enums import ReadingChannel
from app.readings.models import outermost_day_on_postgresql, outermost_day_on_sqlite
from app.readings.packing import SLOTS, slots, summary

OVERDUE_AFTER: Final = timedelta(days=5)
OVERDUE_MS: Final = OVERDUE_AFTER // timedelta(milliseconds=1)

_CHANNELS: Final = list(ReadingChannel)
_CONSENTED_AT: Final = (
    select(func.min(col(HostedConsent.decided_at)))
    .join(ConsentMeter, col(ConsentMeter.hosted_consent_id) == col(HostedConsent.id))
    .where(
        col(ConsentMeter.meter_id) == col(Meter.id),
        HostedConsent.in_force(bindparam("at", type_=UtcDateTime())),
    )
    .correlate(Meter)
    .scalar_subquery()
)
# The time of the feed tells whether there is one.
_ACTIVE: Final = (
    select(
        col(Meter.id),
        col(Meter.account_id),
        col(Meter.customer_id),
        col(Meter.enabled_at),
        _CONSENTED_AT.label("consented_at"),
        col(MeterFeed.created_at),
    )
    .outerjoin(MeterFeed, col(MeterFeed.meter_id) == col(Meter.id))
    .where(col(Meter.id).in_(bindparam("ids", expanding=True)), col(Meter.is_disabled).is_(False))
)
_OF_CHANNELS: Final = f"""
    SELECT given.key, channels.channel, outermost.day, outermost.packed, outermost.recorded_ms
    FROM @lists(key bigint)
    CROSS JOIN ({" UNION ALL ".join(f"SELECT {one.code} AS channel" for one in _CHANNELS)}) AS channels
    JOIN meter_keys ON meter_keys.key = given.key
"""  # noqa: S608 - our own names
_LATEST: Final = Sql(
    _OF_CHANNELS + outermost_day_on_postgresql("max", "channels.channel"),
    sqlite=_OF_CHANNELS + outermost_day_on_sqlite("max", "channels.channel"),
)


class _ActiveMeter(NamedTuple):
    id: str
    account_id: str
    customer_id: str
    enabled_at: datetime | None
    consented_at: datetime | None
    feed_set_at: datetime | None

    @property
    def active_ms(self) -> int:
        """Since when it is active, as far as that is known."""
        return max(clock.to_ms(one) for one in (self.enabled_at, self.consented_at) if one is not None)


class Silence(NamedTuple):
    """A channel that has had no new readings since `begins_ms`.

    `recorded_ms` is when the readings before it were recorded, or the feed was set where there were none. `latest_ms`
    is the start of the latest half-hour.
    """

    key: int
    meter_id: str
    account_id: str
    customer_id: str
    channel: ReadingChannel
    begins_ms: int
    recorded_ms: int
    latest_ms: int | None

    @property
    def due_ms(self) -> int:
        return self.begins_ms + OVERDUE_MS


def silences_of(on_sqlite: bool, meters: dict[int, str], at: datetime) -> Script[list[Silence]]:
    """The silences of the active ones of these meters, which are given as their ids by their keys."""
    if not meters:
        return []
    key_of = {meter_id: key for key, meter_id in meters.items()}
    found = yield _ACTIVE, {"ids": pad_to_power_of_two(list(key_of)), "at": at}
    active = {
        key_of[meter.id]: meter for meter in map(_ActiveMeter._make, found) if meter.consented_at is not None
    }
    latest: Sequence[Any] = yield _LATEST.of(on_sqlite), {"rows": rows([key] for key in active)}
    silences = [
        _silence(key, active[key], _CHANNELS[channel], recorded_ms, _latest_ms(day, packed))
        for key, channel, day, packed, recorded_ms in latest
    ]
    with_readings = {one.key for one in silences}
    for key, meter in active.items():
        if key not in with_readings and meter.feed_set_at is not None:
            set_ms = clock.to_ms(meter.feed_set_at)
            silences.append(_silence(key, meter, ReadingChannel.IMPORT, set_ms, None))
    return silences


def _silence(
    key: int, meter: _ActiveMeter, channel: ReadingChannel, recorded_ms: int, latest_ms: int | None
) -> Silence:
    return Silence(
        key=key,
        meter_id=meter.id,
        account_id=meter.account_id,
        customer_id=meter.customer_id,
        channel=channel,
        begins_ms=max(recorded_ms, meter.active_ms),
        recorded_ms=recorded_ms,
        latest_ms=latest_ms,
    )


def _latest_ms(day: int, packed: bytes) -> int:
    return (day * SLOTS + slots(summary(packed).present)[-1]) * HALF_HOUR_MS
