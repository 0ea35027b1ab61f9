"""Takes what is personal of a deleted customer out of the account's imports.

Meters of imports, their waiting days and previews go with the customer's meters, by the tables' foreign keys. Sentences
about wrong rows, and the names of files, may have their numbers.
"""

from collections.abc import Iterable

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.events.catalogue import REDACTED
from app.imports.models import FileImport

KEPT = ("file_name", "detection", "error")


async def redact(session: AsyncSession, account_id: str, meter_numbers: Iterable[str]) -> None:
    """Replaces the numbers of deleted meters in the account's imports."""
    numbers = tuple(meter_numbers)
    statement = select(FileImport).where(col(FileImport.account_id) == account_id)
    rows = (await session.exec(statement.with_for_update())).all() if numbers else ()
    for row in rows:
        for name in KEPT:
            text = getattr(row, name)
            if text is not None and (replaced := _without(text, numbers)) != text:
                setattr(row, name, replaced)
        problems = [{**one, "message": _without(one["message"], numbers)} for one in row.problems]
        if problems != row.problems:
            row.problems = problems
    await session.flush()


def _without(text: str, numbers: Iterable[str]) -> str:
    for number in numbers:
        text = text.replace(number, REDACTED)
    return text
