"""The provider of one kind of destination: how its deliveries are written, sent and judged."""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from sqlmodel.ext.asyncio.session import AsyncSession

from app.delivery.queue.attempt_store import AttemptResult
from app.delivery.queue.leases import Claim, PickedDelivery
from app.outbound import retry
from app.outbound.attempt import Attempt
from app.outbound.retry import Verdict, parse_retry_after

LATER = ""
"""In place of a body that `Provider.bodies` makes, once the deliveries are claimed."""

OF_EVENT = ""
"""Kept in place of a body that the event alone makes."""


class Target(Protocol):
    """An active destination, as it was when its deliveries were claimed."""

    @property
    def id(self) -> str: ...

    @property
    def paused_seconds(self) -> float: ...

    @property
    def ordered(self) -> bool: ...

    @property
    def rate_limit(self) -> int | None: ...


class Provider(ABC):
    """How deliveries to one kind of destination are written, sent and judged."""

    timeout: float
    """Seconds that an attempt takes at most."""
    most_in_flight: int
    most_each: int
    """Attempts at once to one destination."""
    keeps_bodies: bool = False
    """Whether `body` may give another result later, so that its first result is kept for the retries."""

    @abstractmethod
    async def targets(self, session: AsyncSession, ids: Collection[str]) -> Mapping[str, Any]:
        """The active ones of these destinations."""

    @abstractmethod
    async def body(self, session: AsyncSession, row: PickedDelivery, target: Any) -> str | None:
        """The body for a picked delivery that keeps none; None if its event is gone, `LATER` if it takes long."""

    @abstractmethod
    async def send(self, claim: Claim) -> Attempt:
        """Make one attempt, with no session open."""

    async def bodies(self, rows: Sequence[PickedDelivery], targets: Mapping[str, Any]) -> Mapping[str, str]:
        """The bodies that `body` put off, by the deliveries' ids, as far as they can be made; no session is open."""
        return {}

    def verdict(self, attempt: Attempt, number: int, schedule: Sequence[float]) -> Verdict:
        """Judge attempt `number` of the schedule, from 1."""
        return retry.verdict(attempt, number, schedule)

    def pause_after(self, result: AttemptResult) -> float | None:
        """The seconds for which the whole destination asks to be left alone."""
        if not result.verdict.slow_down:
            return None
        return parse_retry_after(result.attempt.retry_after, time.time())

    async def update_destinations(  # noqa: B027 - most kinds have nothing to update
        self, session: AsyncSession, results: Sequence[AttemptResult]
    ) -> None:
        """Apply results to the destinations themselves; called before their deliveries are written."""

    async def note_successes(  # noqa: B027 - few kinds show such times
        self, session: AsyncSession, results: Sequence[AttemptResult]
    ) -> None:
        """Note times that are only shown; called after the deliveries are written, and waits for no lock."""
