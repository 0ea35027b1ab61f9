"""Chooses among offered media types by an Accept header (RFC 9110, 12.5.1)."""

import math
from collections.abc import Sequence
from typing import Final

MOST_RANGES: Final = 50
"""Media ranges of one header that count; browsers send fewer than ten."""


def preferred(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer with the highest quality, the earlier one if equal; None if nothing offered is acceptable."""
    if not accept:
        return offers[0]
    ranges = [_range(part) for part in parts_of(accept) if part.strip()]
    qualities = [_quality(offer, ranges) for offer in offers]
    best = max(qualities)
    return offers[qualities.index(best)] if best > 0 else None


def parts_of(header: str) -> list[str]:
    """The members of a header's list that count."""
    return header.split(",", MOST_RANGES)[:MOST_RANGES]


def quality_of(value: str, otherwise: float = 1.0) -> float:
    """A `q` parameter, clamped to 0 and 1; `otherwise` if it is no number."""
    try:
        quality = float(value)
    except ValueError:
        return otherwise
    return otherwise if math.isnan(quality) else min(max(quality, 0.0), 1.0)


def _range(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            quality = quality_of(value)
        elif name.strip().lower() == "charset" and value.strip('" ').lower() not in ("utf-8", "utf8"):
            # All responses are UTF-8; a range with another charset cannot be met.
            quality = 0.0
    return media.lower(), quality


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    kind = offer.partition("/")[0]
    for pattern in (offer, f"{kind}/*", "*/*"):
        found = [quality for media, quality in ranges if media == pattern]
        if found:
            return max(found)
    return 0.0
