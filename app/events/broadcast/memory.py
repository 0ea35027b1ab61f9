"""Messages within one process. Broadcaster's own memory backend has no bound, and publishes without yielding."""

import asyncio

from app.events.broadcast.base import Backend


class MemoryBackend(Backend):
    """Carries messages from this event loop to itself, with a bounded inbox."""

    reaches_others = False

    async def connect(self) -> None:
        self.healthy = True

    async def disconnect(self) -> None:
        self.healthy = False

    async def subscribe(self, group: str) -> None:
        self._channels.add(group)

    async def unsubscribe(self, group: str) -> None:
        self._channels.discard(group)

    async def publish(self, channel: str, message: str) -> None:
        if channel in self._channels:
            self._inbox.put(channel, message)
        # A network would let the listeners run here; without this a tight publisher would starve them.
        await asyncio.sleep(0)
