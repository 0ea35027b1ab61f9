"""Checked access to a source's JSON: what is missing or of another type makes the answer unreadable, which passes."""

from typing import Any

from app.feeds.failures import Meaning, SourceFailure


def unreadable(flaw: str) -> SourceFailure:
    """The failure for an answer of another shape than the source's; `flaw` is a clause of our own words."""
    return SourceFailure(Meaning.RETRY, f"The source's answer cannot be read: {flaw}. It is asked again.")


def record(found: Any) -> dict[str, Any]:
    """An object. Raises SourceFailure for anything else."""
    if not isinstance(found, dict):
        raise unreadable("it has something else where an object belongs")
    return found


def records(found: Any, name: str) -> list[dict[str, Any]]:
    """The list of objects under a name; empty if there is none. Raises SourceFailure for anything else."""
    return [record(one) for one in items(found, name)]


def items(found: Any, name: str) -> list[Any]:
    """The list under a name; empty if there is none or null. Raises SourceFailure for anything else."""
    value = record(found).get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise unreadable(f"{name} is no list")
    return value


def text(found: Any, name: str) -> str | None:
    """The text under a name, without spaces around it; None for an empty one, none at all, or another type."""
    value = record(found).get(name)
    return value.strip() or None if isinstance(value, str) else None
