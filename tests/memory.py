"""Measures the memory that objects take, whatever the process did before."""

import gc
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_clear_type_cache: Final[Callable[[], None]] = getattr(sys, "_clear_internal_caches", sys._clear_type_cache)


@contextmanager
def traced() -> Iterator[None]:
    """Counts what is allocated in the block, for `used`."""
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def used() -> int:
    """The bytes that were allocated since `traced` began, and are reachable."""
    gc.collect()
    # The interpreter remembers the last 4,096 names that were looked up in types: hundreds of kilobytes where names
    # are put together anew, as graphql-core's visitors do. They come and go with whatever else the process does.
    _clear_type_cache()
    return tracemalloc.get_traced_memory()[0]
