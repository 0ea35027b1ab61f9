"""The wording of mails about imports."""

from collections.abc import Mapping
from typing import Final

from sqlmodel.ext.asyncio.session import AsyncSession

from app.events.models import EventRecord
from app.imports.enums import ImportStatus
from app.imports.events import ImportCompleted
from app.imports.models import FileImport
from app.outbound.mail.rendering import count
from app.outbound.mail.wording import MailFacts, Wording


async def completed(session: AsyncSession, event: EventRecord) -> MailFacts:
    row = await session.get(FileImport, event.data["fileImportId"])
    name = (row.file_name if row is not None else None) or "a file"
    meters = count(event.data["meterCount"], "meter")
    facts = [
        ("Import", event.data["fileImportId"]),
        ("Status", event.data["status"].capitalize()),
        ("Meters", f"{event.data['meterCount']:,}"),
        ("Half-hours", f"{event.data['readingsAccepted']:,}"),
        ("New or changed", f"{event.data['readingsChanged']:,}"),
    ]
    if event.data["status"] == ImportStatus.FAILED.name:
        reason = row.error if row is not None and row.error is not None else "See its problems in the API."
        return MailFacts(f"The import of {name} failed: nothing is written", [*facts, ("Reason", reason)])
    return MailFacts(f"The import of {name} is complete: {meters}", facts)


WORDING: Final[Mapping[str, Wording]] = {ImportCompleted.type: completed}
