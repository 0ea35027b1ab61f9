"""The end of a process at a failpoint, as a transaction sees it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.core import failpoints


class Killed(BaseException):
    """Ends a transaction as the end of its process would."""


@contextmanager
def killed_at(name: str) -> Iterator[None]:
    """Ends what the block does at a failpoint, which it must reach."""

    def kill(reached: str) -> None:
        if reached == name:
            raise Killed

    failpoints.watchers.append(kill)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        failpoints.watchers.remove(kill)
