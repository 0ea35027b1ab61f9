"""The parts that a sender shares with its claimer and its recorder."""

from dataclasses import dataclass, field
from typing import Any

from app.db.database import Database
from app.delivery.queue.kinds import DestinationKind
from app.delivery.queue.provider import Provider
from app.delivery.queue.scheduler import Scheduler
from app.outbound.sender_stats import SenderStats


@dataclass(frozen=True, slots=True)
class SenderParts:
    """`held` has the destinations of all deliveries that the sender holds, by the ids of these: from a delivery's claim
    until its result is recorded, or the delivery is given back.
    """

    database: Database
    kind: DestinationKind
    provider: Provider
    scheduler: Scheduler
    log: Any
    stats: SenderStats = field(default_factory=SenderStats)
    held: dict[str, str] = field(default_factory=dict)
