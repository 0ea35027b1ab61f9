"""Records of a test's server, in order of arrival, which any event loop can wait for."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from tests.services.patience import PATIENCE

T = TypeVar("T")


class Records(Generic[T]):
    """A list that servers in other threads append to and tests await."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._changed = threading.Condition()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._items))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._items[index]

    def add(self, item: T) -> None:
        """Appends and wakes who waits; safe from any thread."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()
            waiting = list(self._waiting)
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def clear(self) -> None:
        """Forgets everything received so far."""
        with self._changed:
            self._items.clear()

    async def wait_for(self, wanted: int | Callable[[T], object], timeout: float = PATIENCE) -> list[T]:
        """All items once there are `wanted` of them, or the matching ones once `wanted(item)` holds for any.

        Raises `TimeoutError`, naming what did arrive, after `timeout` seconds.
        """
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        with self._changed:
            self._waiting.add(entry)
        try:
            async with asyncio.timeout(timeout):
                while not (found := self._found(wanted)):
                    event.clear()
                    # Looked at once more after clearing: what came in between set the event before.
                    if found := self._found(wanted):
                        break
                    await event.wait()
            return found
        except TimeoutError:
            raise TimeoutError(self._missed(wanted, timeout)) from None
        finally:
            with self._changed:
                self._waiting.discard(entry)

    def wait(self, wanted: int | Callable[[T], object], timeout: float = PATIENCE) -> list[T]:
        """The same for code without an event loop: blocks the thread."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (found := self._found(wanted)):
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(self._missed(wanted, timeout))
            return found

    def _found(self, wanted: int | Callable[[T], object]) -> Sequence[T]:
        items = list(self._items)
        if callable(wanted):
            return [item for item in items if wanted(item)]
        return items if len(items) >= wanted else []

    def _missed(self, wanted: int | Callable[[T], object], timeout: float) -> str:
        what = "a match" if callable(wanted) else f"{wanted} of them"
        return f"No {what} within {timeout} s; received {len(self)}: {self._items[-5:]!r}"


class LoopThread:
    """An event loop in a thread of its own, so that a server answers whatever the test's thread does."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = PATIENCE) -> T:
        """Runs `work` in the loop and returns what it returns; blocks the caller."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def close(self) -> None:
        """Cancels what still runs in the loop, then ends loop and thread."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.loop.shutdown_asyncgens()
