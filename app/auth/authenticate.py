"""Authentication of API keys and stream tokens.

An API key is found by its hash. A stream token is checked by its signature, then by the key that made it and by the
customer that it is bound to. Both are cached for a fraction of a second, so that a busy client costs a few reads a
second and a revoked key works nowhere a second later; the process that revoked it refuses it at once.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Select, bindparam, or_, select, update
from sqlmodel import col

from app.auth import stream_tokens
from app.auth.actor import Actor, Scope
from app.auth.api_keys import KEY_PREFIX, ApiKey, KeyState
from app.auth.stream_tokens import StreamToken
from app.core import clock
from app.core.crypto import Keyring, digest
from app.core.errors import Unauthenticated
from app.core.outages import report
from app.db.database import Database
from app.db.raw_statements import pad_to_power_of_two

REMEMBERED_FOR: Final = 0.25
# Keys that were accepted or noted, reads of keys, and the bytes of each, as measured.
REMEMBERED_AT_MOST: Final = 10_000
REMEMBERED_WEIGHT: Final = 450
READS_AT_MOST: Final = 4096
READ_WEIGHT: Final = 3000
USE_IS_NOTED_EVERY: Final = timedelta(minutes=1)
# Padded to a power of two, and few enough that no other request waits long while their rows are examined.
KEYS_AT_ONCE: Final = 2048
REFUSED: Final = "This key or token is wrong, expired or revoked: send a live API key or stream token."

_STATES = select(*(getattr(ApiKey, name) for name in KeyState._fields)).where(
    col(ApiKey.id).in_(bindparam("ids", expanding=True))
)

_COLUMNS = [getattr(ApiKey, name) for name in (*KeyState._fields, "account_id", "scopes", "last_used_at")]
_BY_SECRET = select(*_COLUMNS).where(
    or_(col(ApiKey.secret_hash) == bindparam("hash"), col(ApiKey.previous_hash) == bindparam("hash"))
)
_BY_ID = select(*_COLUMNS).where(col(ApiKey.id) == bindparam("id"))

_API_KEY = re.compile(KEY_PREFIX + r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class CredentialsChanged:
    """Announced by a transaction that ends or changes keys, or ends tokens: what is cached about them is outdated."""

    account_id: str


@dataclass(frozen=True)
class Credential:
    """An accepted credential. It holds no secret, so a socket may keep it."""

    actor: Actor
    api_key_id: str
    # None: it ends only if its key is revoked.
    expires_at: datetime | None
    # Of an API key only: the hash by which it was found, which a rotation may end.
    secret_hash: str | None = None
    # Of a stream token only.
    token: StreamToken | None = None

    def is_over(self, at: datetime) -> bool:
        """Whether it has expired. This needs no look at its key, which can only shorten its time."""
        return self.expires_at is not None and at >= self.expires_at

    def holds(self, key: KeyState, at: datetime) -> bool:
        """Whether it is still accepted, given the present state of its key."""
        if self.secret_hash is not None:
            return key.accepts(self.secret_hash, at)
        return self.token is not None and key.accepts_token(self.token, at)


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """A key as it was read, with the credentials of its secrets: all sockets that come back at once share one."""

    state: KeyState
    account_id: str
    scopes: frozenset[Scope]
    last_used_at: datetime | None
    credentials: dict[str, Credential] = field(default_factory=dict)

    def credential(self, secret_hash: str) -> Credential:
        """The credential of one of the key's secrets."""
        found = self.credentials.get(secret_hash)
        if found is None:
            state = self.state
            is_latest = secret_hash == state.secret_hash
            ends = [state.expires_at] if is_latest else [state.expires_at, state.previous_until]
            actor = Actor(self.account_id, self.scopes, api_key_id=state.id, secret_hash=secret_hash)
            found = Credential(actor, state.id, _earliest(*ends), secret_hash)
            self.credentials[secret_hash] = found
        return found


class Authenticator:
    """Checks credentials; there is one per process, over its database and keyring. `close()` it before the database.

    `customers`: selects those of the customers with these `ids` that exist.
    `remembered_for`: seconds for which a key is cached, and so the delay of a revocation by another process;
    tests wait for the end of it, or rule it out.
    """

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        customers: Select[Any],
        *,
        remembered_for: float = REMEMBERED_FOR,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._customers = customers
        self._remembered_for = remembered_for
        self._remembered: OrderedDict[str, tuple[float, asyncio.Task[Any]]] = OrderedDict()
        # Hashes of accepted keys, the least recently used first.
        self._accepted: OrderedDict[str, None] = OrderedDict()
        self._noted: dict[str, datetime] = {}
        self._notes: set[asyncio.Task[None]] = set()
        database.on_commit(self._committed)

    async def authenticate(
        self, credential: str, *, before_reading: Callable[[], None] | None = None
    ) -> Credential:
        """Accepts an API key or stream token. Raises Unauthenticated.

        `before_reading` is called before the database is read for a key that this process has not accepted before; if
        it raises, nothing is read. It is not called for a caller that shares the read of another.
        """
        if _API_KEY.fullmatch(credential):
            secret_hash = digest(credential)
            return await self._api_key(secret_hash, None if secret_hash in self._accepted else before_reading)
        return await self._stream_token(credential)

    async def ended(self, credentials: Collection[Credential]) -> list[Credential]:
        """The credentials that are no longer accepted; cheap enough to be called every second for all sockets.

        Their keys and customers are read from the database, thousands of them by one statement.
        """
        states = await self._rows(_STATES, {credential.api_key_id for credential in credentials})
        keys = {row[0]: KeyState(*row) for row in states}
        bound = {one.actor.customer_id for one in credentials if one.actor.customer_id is not None}
        customers = {None, *(row[0] for row in await self._rows(self._customers, bound))}
        at = clock.now()
        return [
            credential
            for credential in credentials
            if (key := keys.get(credential.api_key_id)) is None
            or not credential.holds(key, at)
            or credential.actor.customer_id not in customers
        ]

    async def _rows(self, statement: Select[Any], ids: Collection[str]) -> list[Any]:
        """The rows of a statement over `ids`, some of them at a time."""
        listed, rows = list(ids), list[Any]()
        for start in range(0, len(listed), KEYS_AT_ONCE):
            some = pad_to_power_of_two(listed[start : start + KEYS_AT_ONCE])
            rows += await self._database.read(statement, {"ids": some})
        return rows

    def forget(self) -> None:
        """Drops all cached keys and customers."""
        self._remembered.clear()

    async def close(self) -> None:
        """Waits for the pending writes of last use."""
        await asyncio.gather(*self._notes)

    async def _api_key(self, secret_hash: str, before_reading: Callable[[], None] | None) -> Credential:
        at = clock.now()
        key: _Key | None = await self._recent(
            secret_hash, lambda: self._read_key(_BY_SECRET, {"hash": secret_hash}), before_reading
        )
        if key is None or not key.state.accepts(secret_hash, at):
            self._accepted.pop(secret_hash, None)
            raise Unauthenticated(REFUSED)
        self._accept(secret_hash)
        self._note_use(key, at)
        return key.credential(secret_hash)

    async def _stream_token(self, text: str) -> Credential:
        try:
            token = stream_tokens.read(self._keyring, text)
        except ValueError:
            raise Unauthenticated(REFUSED) from None
        at = clock.now()
        if at >= token.expires_at:
            raise Unauthenticated(REFUSED)
        key_id = token.api_key_id
        key: _Key | None = await self._recent(key_id, lambda: self._read_key(_BY_ID, {"id": key_id}))
        if key is None or key.account_id != token.account_id or not key.state.accepts_token(token, at):
            raise Unauthenticated(REFUSED)
        customer_id = token.customer_id
        if customer_id is not None and not await self._recent(
            customer_id, lambda: self._rows(self._customers, [customer_id])
        ):
            raise Unauthenticated(REFUSED)
        actor = Actor(
            key.account_id,
            frozenset({Scope.READ}),
            api_key_id=key.state.id,
            customer_id=token.customer_id,
            is_stream_token=True,
        )
        return Credential(actor, key.state.id, key.state.end_of(token), token=token)

    async def _recent(
        self,
        name: str,
        read: Callable[[], Coroutine[Any, Any, Any]],
        before_reading: Callable[[], None] | None = None,
    ) -> Any:
        """The result of a read of at most `remembered_for` seconds ago; concurrent callers share one read."""
        # The age counts from before the read: its result may be as old as that.
        now = time.monotonic()
        since, task = self._remembered.get(name, (0.0, None))
        if task is None or now - since >= self._remembered_for or _failed(task):
            if before_reading is not None:
                before_reading()
            task = asyncio.create_task(read())
            self._remembered.pop(name, None)
            self._forget_old(now)
            self._remembered[name] = (now, task)
            if len(self._remembered) > READS_AT_MOST:
                self._remembered.popitem(last=False)
        if task.done():
            return task.result()
        # Shielded: the cancellation of one caller must not cancel the read for the others.
        return await asyncio.shield(task)

    def _forget_old(self, now: float) -> None:
        """Drops outdated entries, the oldest first, up to a read in progress, which has callers waiting for it."""
        while self._remembered:
            name, (since, task) = next(iter(self._remembered.items()))
            if now - since < self._remembered_for or not task.done():
                return
            del self._remembered[name]

    async def _read_key(self, statement: Select[Any], parameters: dict[str, Any]) -> _Key | None:
        rows = await self._database.read(statement, parameters)
        if not rows:
            return None
        *state, account_id, scopes, last_used_at = rows[0]
        return _Key(KeyState(*state), account_id, _scopes(*scopes), last_used_at)

    def _committed(self, items: Sequence[Any]) -> None:
        if any(isinstance(item, CredentialsChanged) for item in items):
            self.forget()

    def _accept(self, secret_hash: str) -> None:
        self._accepted[secret_hash] = None
        self._accepted.move_to_end(secret_hash)
        if len(self._accepted) > REMEMBERED_AT_MOST:
            self._accepted.popitem(last=False)

    def _note_use(self, key: _Key, at: datetime) -> None:
        """Records, beside the request, that the key is in use; at most once a minute for each key."""
        key_id = key.state.id
        noted = max(filter(None, (key.last_used_at, self._noted.get(key_id))), default=None)
        if noted is not None and at - noted < USE_IS_NOTED_EVERY:
            return
        if len(self._noted) >= REMEMBERED_AT_MOST:
            self._noted.clear()
        self._noted[key_id] = at
        task = asyncio.create_task(self._write_use(key_id, at))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _write_use(self, key_id: str, at: datetime) -> None:
        stale = or_(col(ApiKey.last_used_at).is_(None), col(ApiKey.last_used_at) <= at - USE_IS_NOTED_EVERY)
        try:
            async with self._database.transaction() as session:
                await session.execute(
                    update(ApiKey).where(col(ApiKey.id) == key_id, stale).values(last_used_at=at)
                )
        except Exception as error:
            # The time of a key's last use is a hint for people; no request fails for it.
            report("last use of a key not noted", error, api_key_id=key_id)


@lru_cache(64)
def _scopes(*names: str) -> frozenset[Scope]:
    return frozenset(map(Scope, names))


def _failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _earliest(*instants: datetime | None) -> datetime | None:
    return min((one for one in instants if one is not None), default=None)
