"""Imports of files in GraphQL."""

from datetime import datetime
from typing import Any, cast

import strawberry
from strawberry.scalars import JSON

from app.db.raw_statements import Script
from app.graphql.compiled.declare import column, computed, to_one
from app.graphql.context import Info
from app.graphql.events import Event, event_type
from app.graphql.idempotency import Result
from app.graphql.mutations import ScriptContext, mutation
from app.graphql.nodes import Node, row_type
from app.graphql.pagination import Connection
from app.graphql.root_fields import by_id, pages
from app.imports import actions, models, previews
from app.imports.enums import ImportProblemRule, ImportStatus
from app.imports.events import ImportCompleted
from app.imports.formats.parsed_file import profiles

for _kind in (ImportProblemRule, ImportStatus):
    strawberry.enum(_kind)


@strawberry.type
class ImportProblem:
    """A row or a value that an import cannot take."""

    line: int
    """The line, from 1; 0: the file as a whole."""
    column: int | None
    """The column of the value, from 1; null: the row."""
    file: str | None
    """The file of an archive."""
    code: str
    """A stable code, for programs."""
    message: str
    """A sentence for people, which says what to do."""


@row_type(models.FileImport, "imp")
@strawberry.type
class FileImport(Node):
    """A file of readings: POST /imports makes one."""

    id: strawberry.ID
    file_name: str | None
    """The file's name, if it was given."""
    sha256: str
    """SHA-256 of the bytes that came, hexadecimal."""
    bytes: int = column("size")
    """The size of the file as it came."""
    profile: str | None
    """The name of its format, as given or found; null while unknown."""
    status: ImportStatus
    """How it stands."""
    dry_run: bool
    """Whether it only shows what it would write."""
    progress: float
    """How far the present work is, 0 to 1."""
    rows_read: int
    """How many rows the file has."""
    rows_refused: int
    """How many of them cannot be taken."""
    readings_accepted: int
    """How many half-hours can be taken."""
    readings_changed: int
    """How many of them were new or differ from those before."""
    meter_count: int
    """How many meters it has."""
    problem_count: int
    """How many problems there are."""
    rounded_count: int
    """Values written as spreadsheets do, taken to six decimals."""
    on_problem: ImportProblemRule
    """The treatment of wrong rows."""
    detection: str | None
    """The format that was taken, and why."""
    from_: datetime | None = computed(lambda _, at: at, "starts_at", name="from")
    """The start of its first half-hour."""
    to: datetime | None = column("ends_at")
    """The end of its last half-hour; exclusive."""
    error: str | None
    """The reason why it FAILED, or why its undo could not be finished."""
    created_at: datetime
    completed_at: datetime | None
    """When it ended; null while it runs."""
    row: strawberry.Private[models.FileImport]

    @strawberry.field
    def problems(self) -> list[ImportProblem]:
        """The first hundred problems, in the order of the file."""
        return [ImportProblem(**one) for one in self.row.problems]

    @strawberry.field
    async def preview(self, info: Info) -> JSON | None:
        """Of a dry run: up to three meters' first three days, kept for a day."""

        async def load(ids: list[str]) -> list[Any]:
            return previews.gathered(ids, (await info.context.execute(previews.select_previews(ids))).all())

        return cast(JSON | None, await info.context.loader("import previews", load).load(self.row.id))


@strawberry.type
class ImportProfile:
    """A file format that is known by name."""

    name: str
    """The name, as POST /imports takes it."""
    description: str
    """The columns and the times of its files, with an example line."""


@event_type(ImportCompleted)
@strawberry.type
class ImportCompletedEvent(Event):
    """An import of a file ended."""

    file_import: FileImport | None = to_one("subject_id")
    """The import as of now."""
    status: ImportStatus = computed(lambda _, data: ImportStatus[data["status"]], "data")
    """COMPLETED or FAILED, as it ended."""


@strawberry.type
class ImportQueries:
    file_import: FileImport | None = by_id(models.FileImport)
    """The import with this id; null if there is none."""
    file_imports: Connection[FileImport] = pages(models.FileImport, descending=True)
    """The account's imports, newest first."""

    @strawberry.field
    def import_profiles(self) -> list[ImportProfile]:
        """The file formats that are known by name."""
        return [ImportProfile(name=name, description=description) for name, description in profiles()]


@strawberry.input
class ConfirmFileImportInput:
    file_import_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.input
class UndoFileImportInput:
    file_import_id: strawberry.ID
    idempotency_key: str | None = None


@strawberry.type
class ImportMutations:
    @mutation(file_import=FileImport)
    def confirm_file_import(self, context: ScriptContext, input: ConfirmFileImportInput) -> Script[Result]:
        """Write what a dry run showed, within a day of it."""
        return {"file_import": (yield from actions.confirm(context.actor, input.file_import_id))}

    @mutation(file_import=FileImport)
    def undo_file_import(self, context: ScriptContext, input: UndoFileImportInput) -> Script[Result]:
        """Put back what was there before, where nothing newer has replaced it, within 30 days; with events of
        the reason CORRECTION."""
        return {"file_import": (yield from actions.undo(context.actor, input.file_import_id))}
