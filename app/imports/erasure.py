"""Takes what is personal of a deleted customer out of the account's imports.

Meters of imports, their waiting days and previews go with the customer's meters, by the tables' foreign keys. Sentences
about wrong rows, and the names of files, may have their numbers.
"""

from collections.abc import Callable, Sequence
from typing import Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import FOR_NO_KEY_UPDATE
from app.db.sql import Sql, rows
from app.events.catalogue import REDACTED
from app.imports.models import FileImport
from app.imports.problems import HIDES_NUMBERS, hide_numbers

KEPT: Final = ("file_name", "detection", "error")
ROWS_AT_ONCE: Final = 50

_NAMING: Final = """
    SELECT id FROM file_imports WHERE account_id = :account_id AND id > :after
    AND ({customer} = :customer_id OR EXISTS (
        SELECT 1 FROM @rows(number text) WHERE CAST(problems AS TEXT) LIKE '%' || given.number || '%'
            OR file_name LIKE '%' || given.number || '%' OR detection LIKE '%' || given.number || '%'
            OR error LIKE '%' || given.number || '%'
            OR replace(options {text}, ' ', '') LIKE '%' || given.number || '%'
    )) ORDER BY id LIMIT :limit
"""
_NAMING_IMPORTS: Final = Sql(
    _NAMING.format(customer="options ->> 'customerId'", text="->> 'meter'"),
    sqlite=_NAMING.format(customer="json_extract(options, '$.customerId')", text="->> '$.meter'"),
)


async def redact(
    session: AsyncSession, account_id: str, customer_id: str, meter_numbers: Sequence[str]
) -> None:
    """Replaces the numbers of a deleted customer's meters in imports that name them or are of this customer.

    Imports that run show no number of a meter from now on: what they have read of their files is not known here.
    """
    running = select(col(FileImport.id)).where(
        col(FileImport.account_id) == account_id, col(FileImport.queued_at).is_not(None)
    )
    for row in await _locked(session, (await session.exec(running)).all()):
        if row.queued_at is not None:
            row.options = {**row.options, HIDES_NUMBERS: True}
    await session.flush()
    given = {"account_id": account_id, "customer_id": customer_id, "limit": ROWS_AT_ONCE}
    numbers = rows({"number": one} for one in meter_numbers)
    after = ""
    while True:
        place = {**given, "rows": numbers, "after": after}
        ids = (await session.execute(_NAMING_IMPORTS.on(session), place)).scalars().all()
        for row in await _locked(session, ids):
            _redact(row, lambda text: _without(text, meter_numbers))
            if row.options.get("customerId") == customer_id:
                _redact(row, hide_numbers)
        await session.flush()
        if len(ids) < ROWS_AT_ONCE:
            return
        after = ids[-1]


async def _locked(session: AsyncSession, ids: Sequence[str]) -> Sequence[FileImport]:
    """These imports in the order of their ids, as they are now."""
    statement = select(FileImport).where(col(FileImport.id).in_(ids)).order_by(col(FileImport.id))
    locked = statement.with_for_update(**FOR_NO_KEY_UPDATE).execution_options(populate_existing=True)
    return (await session.exec(locked)).all() if ids else ()


def _redact(row: FileImport, replace: Callable[[str], str]) -> None:
    for name in KEPT:
        text = getattr(row, name)
        if text is not None and (replaced := replace(text)) != text:
            setattr(row, name, replaced)
    meter = "".join(row.options.get("meter", "").split())
    if (replaced := replace(meter)) != meter:
        row.options = {**row.options, "meter": replaced}
    problems = [{**one, "message": replace(one["message"])} for one in row.problems]
    if problems != row.problems:
        row.problems = problems


def _without(text: str, numbers: Sequence[str]) -> str:
    for number in numbers:
        text = text.replace(number, REDACTED)
    return text
