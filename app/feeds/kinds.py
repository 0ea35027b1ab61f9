"""The registry of the kinds of sources: a new one is a package beside this file and a line here."""

from collections.abc import Mapping
from typing import Final

from app.feeds.enums import FeedKind
from app.feeds.source import SourceKind

SOURCE_KINDS: Final[Mapping[FeedKind, SourceKind]] = {}
