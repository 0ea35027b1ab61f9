"""Enums of feeds and backfills that the tables and the API share."""

import enum
from typing import Final


class FeedKind(enum.Enum):
    """The source that a feed fetches from."""

    OCTOPUS = "OCTOPUS"
    """Octopus Energy, for its own customers' meters."""
    N3RGY = "N3RGY"
    """n3rgy data, for British smart meters over the DCC."""
    PERSE = "PERSE"
    """Perse Technology, for half-hourly business meters."""
    GLOWMARKT = "GLOWMARKT"
    """Hildebrand's Glowmarkt, which the Bright app uses."""
    ELECTRALINK = "ELECTRALINK"
    """ElectraLink's market data; its shape is known from a mock only."""


class FeedStatus(enum.Enum):
    """Whether a feed fetches."""

    ACTIVE = "ACTIVE"
    """It fetches what is due."""
    PAUSED = "PAUSED"
    """A person stopped it."""
    NEEDS_ATTENTION = "NEEDS_ATTENTION"
    """It rests until a person has done what attention says."""


class BackfillStatus(enum.Enum):
    """How a backfill, or a part of one, stands."""

    WAITING = "WAITING"
    """Nothing of it is fetched yet."""
    RUNNING = "RUNNING"
    """Some of it is fetched."""
    COMPLETE = "COMPLETE"
    """Every half-hour of it is there."""
    COMPLETE_WITH_GAPS = "COMPLETE_WITH_GAPS"
    """All is fetched that the source has; coverage says what is missing."""
    FAILED = "FAILED"
    """The source does not give it; error says why."""
    CANCELLED = "CANCELLED"
    """A person, the end of the consent or a deletion ended it."""


UNFINISHED: Final = (BackfillStatus.WAITING.name, BackfillStatus.RUNNING.name)
"""The statuses, as they are stored, of a backfill or a part of which something is left to fetch."""
