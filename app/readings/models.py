"""Readings: the consumption of a meter in one half-hour."""

from datetime import datetime

from sqlalchemy import BigInteger, SmallInteger
from sqlmodel import Field, SQLModel

from app.core import clock
from app.db.types import Text, UtcDateTime


class Reading(SQLModel, table=True):
    """A half-hour of a meter, by its UTC start in milliseconds since 1970.

    `micro_kwh` is millionths of a kWh: 12 integer and 6 fraction digits fit 64 bits, so sums are exact.
    """

    __tablename__ = "readings"

    meter_id: str = Field(primary_key=True, foreign_key="meters.id", sa_type=Text, ondelete="CASCADE")
    start_ms: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    micro_kwh: int = Field(sa_type=BigInteger)
    estimated: int = Field(default=0, sa_type=SmallInteger)
    recorded_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
