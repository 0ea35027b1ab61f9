"""Events about imports of files."""

from typing import Any, ClassVar

from app.events.catalogue import EventData
from app.imports.enums import ImportStatus
from app.imports.models import FileImport


class ImportCompleted(EventData):
    type: ClassVar = "import.completed"
    place: ClassVar = 9
    words: ClassVar = "Import completed"
    summary: ClassVar = "an import of a file ended"
    description: ClassVar = (
        "An import of a file ended: COMPLETED, or FAILED and nothing of it is written. A dry run raises none. "
        "meter_data.received has told of each meter that changed."
    )
    example: ClassVar[dict[str, Any]] = {
        "fileImportId": "imp_01jdf3w8q2k7c9v5m1x0a4b6d8",
        "status": "COMPLETED",
        "readingsAccepted": 17520,
        "readingsChanged": 17520,
        "meterCount": 1,
    }

    file_import_id: str
    status: ImportStatus
    readings_accepted: int
    readings_changed: int
    meter_count: int

    @classmethod
    def of(cls, row: FileImport) -> "ImportCompleted":
        return cls(
            file_import_id=row.id,
            status=ImportStatus[row.status],
            readings_accepted=row.readings_accepted,
            readings_changed=row.readings_changed,
            meter_count=row.meter_count,
        )

    def subject_id(self) -> str:
        return self.file_import_id
