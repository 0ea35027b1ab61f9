"""The registry of stand-ins: a new one is a `stand_in.py` in its kind's package and a line here."""

from collections.abc import Mapping
from typing import Final

from app.feeds.electralink.stand_in import ElectralinkStandIn
from app.feeds.enums import FeedKind
from app.feeds.glowmarkt.stand_in import GlowmarktStandIn
from app.feeds.n3rgy.stand_in import N3rgyStandIn
from app.feeds.octopus.stand_in import OctopusStandIn
from app.feeds.perse.stand_in import PerseStandIn
from app.feeds.stand_ins.server import StandIn

_STAND_INS: Final[tuple[type[StandIn], ...]] = (
    # One a line.
    OctopusStandIn,
    N3rgyStandIn,
    PerseStandIn,
    GlowmarktStandIn,
    ElectralinkStandIn,
)

STAND_INS: Final[Mapping[FeedKind, type[StandIn]]] = {one.kind: one for one in _STAND_INS}
