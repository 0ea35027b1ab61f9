"""Which of the offered media types an Accept header prefers (RFC 9110, 12.5.1)."""

import math
from collections.abc import Sequence
from typing import Final

MOST_RANGES: Final = 50
"""Of one header; browsers send under ten, and what comes behind these does not count."""


def preferred(accept: str | None, offers: Sequence[str]) -> str | None:
    """The offer with the highest quality, the earlier one if equal; None if nothing offered is acceptable."""
    if not accept:
        return offers[0]
    ranges = [_range(part) for part in parts_of(accept) if part.strip()]
    best: tuple[float, int] = (0.0, 0)
    chosen = None
    for order, offer in enumerate(offers):
        quality = _quality(offer, ranges)
        if (quality > 0 and (quality, -order) > best) or (chosen is None and quality > 0):
            chosen, best = offer, (quality, -order)
    return chosen


def parts_of(header: str) -> list[str]:
    """The members of a header's list, as far as they count."""
    return header.split(",", MOST_RANGES)[:MOST_RANGES]


def quality_of(value: str, otherwise: float = 1.0) -> float:
    """A `q` parameter, from 0 to 1 or the nearest of them; `otherwise` for what is no number, as if it were absent."""
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
            # Everything here is UTF-8; a range that asks for something else cannot be met.
            quality = 0.0
    return media.lower(), quality


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    kind = offer.partition("/")[0]
    for pattern in (offer, f"{kind}/*", "*/*"):
        found = [quality for media, quality in ranges if media == pattern]
        if found:
            return max(found)
    return 0.0
