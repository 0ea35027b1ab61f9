"""The registry of the kinds of sources: a new one is a package beside this file and a line here."""

from collections.abc import Mapping
from typing import Final

from app.feeds.electralink.kind import ELECTRALINK
from app.feeds.enums import FeedKind
from app.feeds.glowmarkt.kind import GLOWMARKT
from app.feeds.n3rgy.kind import N3RGY
from app.feeds.octopus.kind import OCTOPUS
from app.feeds.perse.kind import PERSE
from app.feeds.source import SourceKind

_KINDS: Final = (
    # One a line.
    OCTOPUS,
    PERSE,
    GLOWMARKT,
    ELECTRALINK,
    N3RGY,
)

SOURCE_KINDS: Final[Mapping[FeedKind, SourceKind]] = {kind.kind: kind for kind in _KINDS}
