"""Rotation of secrets: the previous secret works until an overlap ends."""

from datetime import timedelta
from typing import Final

from app.core.errors import ErrorCode, Refusal

DEFAULT_OVERLAP: Final = 86_400
MAX_OVERLAP: Final = 30 * 86_400


def overlap(seconds: int | None) -> timedelta:
    """The overlap that `overlapSeconds` asks for. Raises OUT_OF_RANGE."""
    seconds = DEFAULT_OVERLAP if seconds is None else seconds
    if not 0 <= seconds <= MAX_OVERLAP:
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"overlapSeconds must be 0 to {MAX_OVERLAP} (30 days), got {seconds}.",
            "overlapSeconds",
        )
    return timedelta(seconds=seconds)
