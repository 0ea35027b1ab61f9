"""Lays mails out by a template, as text for a terminal and as HTML for a phone, and words values for them."""

import textwrap
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from app.core.clock import UK, long_date
from app.events.catalogue import REDACTED
from app.outbound.text import printable_line
from app.web.render import render

WIDTH: Final = 72
# Mail programs show little more than this of a subject.
MAX_SUBJECT: Final = 150
_LABEL: Final = 16


@dataclass(frozen=True)
class Mail:
    subject: str
    text: str
    html: str


def shorten(value: str, most: int) -> str:
    """A printable line, so that a name cannot add lines, which would pass for our own words, to a mail."""
    line = printable_line(value)
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def shown(name: str | None) -> str:
    """The name, or the mark of a deleted one."""
    return REDACTED if name is None else name


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 half-hour`, `17,568 half-hours`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def uk_time(instant: datetime) -> str:
    """`24 November 2026, 22:29 GMT`, the time in the United Kingdom."""
    local = instant.astimezone(UK)
    return f"{long_date(local)}, {local:%H:%M} {local.tzname()}"


def uk_day(iso: str) -> str:
    """`24 November 2027` of `2027-11-24`."""
    return long_date(date.fromisoformat(iso))


def laid_out(template: str, subject: str, values: dict[str, Any]) -> Mail:
    """The mail by a template of `mail/`, as text and as HTML."""
    text = render(f"mail/{template}.txt", **values, wrap=_wrap, row=_row)
    return Mail(subject, text.strip() + "\n", render(f"mail/{template}.html", **values, title=subject))


def _wrap(text: str) -> str:
    """Lines of at most 72 columns; links stay whole."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _row(label: str, value: str) -> str:
    """A fact in two columns; words too long for the second are cut into lines."""
    first = f"{label}:".ljust(_LABEL)
    return textwrap.fill(
        value or "-", WIDTH, initial_indent=first, subsequent_indent=" " * _LABEL, break_on_hyphens=False
    )
