"""Imports of files: the import, its meters, and their days on the way from the file to the readings.

The kept file goes once it is parsed. From then on the days of its meters wait in the database, by which any worker
continues; each goes with its writing, and leaves behind what an undo needs.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKeyConstraint, Index, LargeBinary, SmallInteger, text
from sqlmodel import Field, SQLModel

from app.auth.actor import AccountWide
from app.core import clock
from app.core.ids import new_id
from app.db.types import Json, Text, UtcDateTime
from app.imports.enums import ImportProblemRule, ImportStage, ImportStatus


class FileImport(AccountWide, SQLModel, table=True):
    """An import. `queued_at` is set while there is work to do, and `stage` says which.

    `writes_meters` is set from its first write to its end: no other import writes its meters meanwhile.
    """

    __tablename__ = "file_imports"
    __table_args__ = (
        Index("ix_file_imports_page", "account_id", "id"),
        Index(
            "ix_file_imports_queue",
            "queued_at",
            postgresql_where=text("queued_at IS NOT NULL"),
            sqlite_where=text("queued_at IS NOT NULL"),
        ),
    )

    id: str = Field(default_factory=lambda: new_id("imp"), primary_key=True, sa_type=Text)
    account_id: str = Field(foreign_key="accounts.id", sa_type=Text, ondelete="CASCADE")
    file_name: str | None = Field(default=None, sa_type=Text)
    sha256: str = Field(sa_type=Text)
    size: int
    options: dict[str, Any] = Field(default_factory=dict, sa_type=Json)
    profile: str | None = Field(default=None, sa_type=Text)
    status: str = Field(default=ImportStatus.RUNNING.name, sa_type=Text)
    dry_run: bool = False
    on_problem: str = Field(default=ImportProblemRule.REFUSE.name, sa_type=Text)
    progress: float = Field(default=0.0, sa_type=Float)
    rows_read: int = 0
    rows_refused: int = 0
    readings_accepted: int = 0
    readings_changed: int = 0
    meter_count: int = 0
    problems: list[dict[str, Any]] = Field(default_factory=list, sa_type=Json)
    problem_count: int = 0
    rounded_count: int = 0
    detection: str | None = Field(default=None, sa_type=Text)
    starts_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    ends_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    error: str | None = Field(default=None, sa_type=Text)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    stage: str = Field(default=ImportStage.READ.name, sa_type=Text)
    # The last meter that was checked, by its place.
    checked_place: int = -1
    writes_meters: bool = False
    queued_at: datetime | None = Field(default_factory=clock.now, sa_type=UtcDateTime)
    leased_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    fence: int = Field(default=0, sa_type=BigInteger)
    tries: int = 0


class FileImportChunk(SQLModel, table=True):
    """A part of a kept file. It is written before its import, whose row comes with the whole file."""

    __tablename__ = "file_import_chunks"

    import_id: str = Field(primary_key=True, sa_type=Text)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    content: bytes = Field(sa_type=LargeBinary)
    created_at: datetime = Field(default_factory=clock.now, sa_type=UtcDateTime, index=True)


class FileImportMeter(SQLModel, table=True):
    """A meter of an import, by its place among them.

    A meter that is to be created has no id yet, but a customer. `written` sums up, by channel, the changed
    half-hours that no event tells of yet: [the first, the last, how many, how many estimated].
    """

    __tablename__ = "file_import_meters"
    __table_args__ = (
        Index("ix_file_import_meters_meter", "meter_id"),
        Index("ix_file_import_meters_customer", "customer_id", "number"),
    )

    import_id: str = Field(primary_key=True, foreign_key="file_imports.id", sa_type=Text, ondelete="CASCADE")
    place: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    meter_id: str | None = Field(default=None, foreign_key="meters.id", sa_type=Text, ondelete="CASCADE")
    customer_id: str | None = Field(
        default=None, foreign_key="customers.id", sa_type=Text, ondelete="CASCADE"
    )
    number: str = Field(sa_type=Text)
    line: int
    file: str | None = Field(default=None, sa_type=Text)
    written: dict[str, list[int]] = Field(default_factory=dict, sa_type=Json)
    preview: list[dict[str, Any]] | None = Field(default=None, sa_type=Json)


def _of_meter() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["import_id", "place"],
        ["file_import_meters.import_id", "file_import_meters.place"],
        ondelete="CASCADE",
    )


class FileImportDays(SQLModel, table=True):
    """Days of a meter's channel that are not written yet; `packed` is by `app.imports.stages.packed_days`."""

    __tablename__ = "file_import_days"
    __table_args__ = (_of_meter(),)

    import_id: str = Field(primary_key=True, sa_type=Text)
    place: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    channel: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    days: int
    packed: bytes = Field(sa_type=LargeBinary)


class FileImportChange(SQLModel, table=True):
    """The half-hours of a meter's channel that one write changed, at `at_ms` or later: for an undo.

    `packed` is by `app.imports.stages.packed_days`. The values before are the revisions that were replaced at the time
    of a change; a half-hour without one was absent.
    """

    __tablename__ = "file_import_changes"
    __table_args__ = (_of_meter(),)

    import_id: str = Field(primary_key=True, sa_type=Text)
    place: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    channel: int = Field(primary_key=True, sa_type=SmallInteger, sa_column_kwargs={"autoincrement": False})
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    at_ms: int = Field(sa_type=BigInteger)
    packed: bytes = Field(sa_type=LargeBinary)
