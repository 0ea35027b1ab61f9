"""Filters on event types: dotted names of the catalogue, or wildcards such as `meter.*` and `*`."""

from collections.abc import Sequence
from typing import Final

from app.core.errors import ErrorCode, Refusal, Refusals
from app.events.catalogue import catalogue, event_names

EVERYTHING: Final = "*"


def takes_type(patterns: Sequence[str] | None, event_type: str) -> bool:
    """Whether an event of this dotted type matches; None takes all, an empty list nothing."""
    return patterns is None or any(_fits(pattern, event_type) for pattern in patterns)


def checked_event_types(patterns: Sequence[str] | None) -> list[str] | None:
    """The patterns, each once; None, for all types present and future, stays None.

    Raises REQUIRED for an empty list, which no event would match, and INVALID at each index that is
    neither a name nor a wildcard of the catalogue.
    """
    if patterns is None:
        return None
    if not patterns:
        raise Refusal(
            ErrorCode.REQUIRED,
            "An empty list matches no event: name at least one type, or leave eventTypes out for all.",
            "eventTypes",
        )
    refusals = [
        Refusal(ErrorCode.INVALID, why, "eventTypes", str(index))
        for index, pattern in enumerate(patterns)
        if (why := _wrong(pattern)) is not None
    ]
    if refusals:
        raise Refusals(refusals)
    return list(dict.fromkeys(patterns))


def in_words(patterns: Sequence[str] | None) -> list[str]:
    """The chosen events in words for people: `["Meter created", …]`, or `["All events"]`."""
    if patterns is None or EVERYTHING in patterns:
        return ["All events"]
    return [one.words for one in catalogue() if takes_type(patterns, one.type)]


def _fits(pattern: str, event_type: str) -> bool:
    if pattern == EVERYTHING:
        return True
    # "meter.*" means "meter.created" and not "meter_data.received": the dot counts.
    return event_type.startswith(pattern[:-1]) if pattern.endswith(".*") else pattern == event_type


def _wrong(pattern: str) -> str | None:
    wildcards = (f"{name.partition('.')[0]}.*" for name in event_names())
    if pattern == EVERYTHING or pattern in event_names() or pattern in wildcards:
        return None
    for event in catalogue():
        if pattern == event.constant():
            return f'Write "{event.type}": destinations name event types with a dot.'
    names = ", ".join(event_names())
    return f'There is no such event type: use {names}, or a wildcard such as "meter.*" or "*".'
