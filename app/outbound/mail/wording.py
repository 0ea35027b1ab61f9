"""The wording of mails about events, which each feature declares in its `emails.py` for its own events."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlmodel.ext.asyncio.session import AsyncSession

from app.events.models import EventRecord


@dataclass(frozen=True)
class MailFacts:
    """The event in one line, and its facts as (label, value)."""

    headline: str
    rows: Sequence[tuple[str, str]]


Wording = Callable[[AsyncSession, EventRecord], Awaitable[MailFacts]]
"""The facts of an event, with names as they are now."""
