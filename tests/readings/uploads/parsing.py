"""Uploads parsed both ways, with the same result."""

from collections.abc import Generator
from datetime import UTC, datetime
from typing import Any

import orjson

from app.readings.rows import RowProblem, Upload, UploadRefused, parse_rows
from app.readings.uploads import parse

CSV, NDJSON = "text/csv", "application/x-ndjson"
NOW = datetime(2026, 11, 24, 12, 15, tzinfo=UTC)
HEADER = "meter_id,start_at,consumption,quality\n"
ROW: dict[str, Any] = {"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": "1.5"}


def finished(work: Generator[None, None, Upload]) -> Upload:
    while True:
        try:
            next(work)
        except StopIteration as end:
            upload: Upload = end.value
            return upload


def outcome(work: Generator[None, None, Upload]) -> Upload | list[RowProblem]:
    try:
        return finished(work)
    except UploadRefused as refused:
        return refused.problems


def parsed(content: str | bytes, media_type: str = CSV) -> Upload | list[RowProblem]:
    content = content if isinstance(content, bytes) else content.encode()
    found = outcome(parse(content, media_type, NOW))
    assert found == outcome(parse_rows(content, media_type, NOW))
    return found


def from_csv(text: str | bytes) -> Upload:
    upload = parsed(text)
    assert isinstance(upload, Upload)
    return upload


def from_ndjson(*rows: Any) -> Upload:
    lines = (row if isinstance(row, str) else orjson.dumps(row).decode() for row in rows)
    upload = parsed("\n".join(lines), NDJSON)
    assert isinstance(upload, Upload)
    return upload


def problems(content: str | bytes, media_type: str = CSV) -> list[RowProblem]:
    found = parsed(content, media_type)
    assert isinstance(found, list)
    return found


def faults(content: str | bytes, media_type: str = CSV) -> list[tuple[int, str]]:
    """Line and code of each problem."""
    found = problems(content, media_type)
    assert all(one.message.endswith(".") for one in found)
    return [(one.line, one.code) for one in found]
