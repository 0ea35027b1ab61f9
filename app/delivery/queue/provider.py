"""What a sender asks of a carrier: how deliveries to one kind of destination are written, sent and judged."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import Row
from sqlmodel.ext.asyncio.session import AsyncSession

from app.delivery.queue.attempt_store import Result
from app.delivery.queue.leases import Claim
from app.outbound.attempt import Attempt

LATER = ""
"""Not yet a body: it is made by `Carrier.bodies`, once the deliveries are claimed."""

OF_EVENT = ""
"""What is kept in place of a body that the event alone makes."""


class Target(Protocol):
    """A destination that takes deliveries, once its pause is over."""

    @property
    def id(self) -> str: ...

    @property
    def paused_seconds(self) -> float: ...

    @property
    def ordered(self) -> bool: ...

    @property
    def rate_limit(self) -> int | None: ...


class Carrier(Protocol):
    """How deliveries to one kind of destination are written, sent and judged."""

    prefix: str
    timeout: float
    most_in_flight: int
    most_each: int
    # Whether what `body` makes must be kept for the retries, because it would be another one then.
    keeps_bodies: bool

    async def targets(self, session: AsyncSession, ids: Collection[str]) -> Mapping[str, Any]:
        """Those of the destinations that take deliveries."""
        ...

    async def body(self, session: AsyncSession, row: Row[Any], target: Any) -> str | None:
        """The body for a picked delivery that keeps none; None if its event is gone, `LATER` if it takes long."""
        ...

    async def bodies(self, rows: Sequence[Row[Any]], targets: Mapping[str, Any]) -> Mapping[str, str]:
        """The bodies that `body` put off, by the deliveries' ids, as far as they could be made; no session is open."""
        ...

    async def send(self, claim: Claim) -> Attempt:
        """One attempt, with no session open."""
        ...

    def pause_after(self, result: Result) -> float | None:
        """For how many seconds the whole destination asks to be left alone."""
        ...

    async def affect(self, session: AsyncSession, results: Sequence[Result]) -> None:
        """Change the destinations themselves; called before their deliveries are written."""
        ...

    async def leave(self, session: AsyncSession) -> None:
        """Let go of what this worker alone sends to; called when it has stopped."""
        ...

    async def stamp(self, session: AsyncSession, results: Sequence[Result]) -> None:
        """Note what is only for show; called after them, and waits for no lock."""
        ...
