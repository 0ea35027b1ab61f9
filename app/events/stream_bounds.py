"""Reads the bounds of accounts' logs past the ORM: every subscription needs those of its account, as of now.

Each read has all that was committed, by any process, before it was called.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import bindparam, select
from sqlalchemy.exc import NoResultFound
from sqlmodel import col

from app.db.database import Database
from app.db.raw_statements import pad_to_power_of_two
from app.events.models import Stream, StreamBounds

# Few enough that no other read waits long for them, and that the texts for all lengths are kept.
STREAMS_AT_ONCE: Final = 1024

_COLUMNS: Final = [getattr(Stream, name) for name in StreamBounds._fields]
# Two statements: one with lists of many lengths would push the other's texts out of their cache.
_ONE: Final = select(*_COLUMNS).where(col(Stream.account_id) == bindparam("account_id"))
_SOME: Final = select(*_COLUMNS).where(col(Stream.account_id).in_(bindparam("account_ids", expanding=True)))


async def read_bounds(database: Database, account_id: str) -> StreamBounds:
    """The bounds of an account's log. Raises NoResultFound."""
    rows = await database.read(_ONE, {"account_id": account_id})
    if not rows:
        raise NoResultFound("No row was found: the account has no log.")
    return StreamBounds(*rows[0])


async def read_all_bounds(database: Database, account_ids: Sequence[str]) -> list[StreamBounds]:
    """The bounds of the logs that there are of these accounts."""
    found: list[StreamBounds] = []
    for start in range(0, len(account_ids), STREAMS_AT_ONCE):
        some = pad_to_power_of_two(list(account_ids[start : start + STREAMS_AT_ONCE]))
        found += [StreamBounds(*row) for row in await database.read(_SOME, {"account_ids": some})]
    return found
