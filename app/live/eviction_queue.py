"""Bounds the payloads and pages that groups keep for late subscriptions, in bytes and in seconds."""

from collections import deque
from collections.abc import Callable
from typing import Final

MAX_BYTES: Final = 32 * 1024 * 1024
MAX_SECONDS: Final = 5.0


class EvictionQueue:
    """Evicts the oldest entry first."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int, Callable[[], None]]] = deque()
        self.bytes = 0

    def add(self, now: float, size: int, evict: Callable[[], None]) -> None:
        """Count an entry of `size` bytes; `evict` is called once, when the entry must go."""
        self._entries.append((now, size, evict))
        self.bytes += size
        while self.bytes > MAX_BYTES:
            self._evict_oldest()

    def evict_expired(self, now: float) -> None:
        while self._entries and now - self._entries[0][0] > MAX_SECONDS:
            self._evict_oldest()

    def _evict_oldest(self) -> None:
        _, size, evict = self._entries.popleft()
        self.bytes -= size
        evict()
