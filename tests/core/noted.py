"""Counts the failures of an outage, which the log may have only in a later line."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from structlog.testing import capture_logs

from app.core.outages import DATABASE


@contextmanager
def failures_noted() -> Iterator[Counter[str]]:
    """The failures for a database that is away, by what they were during; complete at the end.

    No other line may be logged meanwhile.
    """
    noted: Counter[str] = Counter()
    before = Counter(DATABASE._during)
    with capture_logs() as logged:
        yield noted
    assert {line["event"] for line in logged} <= {"database_unavailable"}
    lines = sum((Counter(line["during"]) for line in logged), Counter())
    noted.update(lines + DATABASE._during - before)
