"""Previews of dry runs: the first days of the first meters, which go with their meters."""

from collections.abc import Sequence
from typing import Any

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.imports.models import FileImportMeter


def select_previews(import_ids: Sequence[str]) -> Any:
    return (
        select(col(FileImportMeter.import_id), col(FileImportMeter.preview))
        .where(col(FileImportMeter.import_id).in_(import_ids), col(FileImportMeter.preview).is_not(None))
        .order_by(col(FileImportMeter.import_id), col(FileImportMeter.place))
    )


def gathered(import_ids: Sequence[str], rows: Sequence[Any]) -> list[Any]:
    """The preview of each import, None of one without."""
    found: dict[str, list[Any]] = {}
    for import_id, of_meter in rows:
        found.setdefault(import_id, []).extend(of_meter)
    return [{"meters": found[one]} if one in found else None for one in import_ids]


async def load(session: AsyncSession, import_ids: Sequence[str]) -> list[Any]:
    rows = (await session.execute(select_previews(import_ids))).all()
    return gathered(import_ids, rows)
