"""A world for tests: a migrated database, the real engine over it, accounts with keys, and short ways to ask."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import orjson

from app.accounts import actions as accounts
from app.auth.authenticate import Authenticator
from app.core.settings import Settings
from app.customers.models import EXISTING_CUSTOMERS
from app.db.database import Database
from app.db.migrations import is_ours, migrate
from app.delivery.destinations.kinds import KINDS
from app.delivery.queue.kinds import DestinationKinds
from app.feeds.credentials import SourceKinds
from app.feeds.kinds import SOURCE_KINDS
from app.graphql.bounds.limits import Limits
from app.graphql.context import Context, Services
from app.graphql.engine import Engine, dumps
from app.graphql.failures import RequestErrors
from app.schema import build_schema
from app.server.services import services_of

SECRET = "a secret key that only the tests use"


@cache
def the_schema() -> Any:
    return build_schema()


@dataclass(frozen=True)
class TestAccount:
    __test__ = False

    id: str
    user_id: str
    key: str


@dataclass
class World:
    services: Services
    engine: Engine
    authenticator: Authenticator
    made: int = 0

    @property
    def database(self) -> Database:
        return self.services.database

    async def account(self, name: str = "Bright Energy") -> TestAccount:
        """A new account with a key of all scopes."""
        self.made += 1
        async with self.database.transaction() as session:
            new = await accounts.create_account(session, name=name, email=f"owner{self.made}@example.com")
            return TestAccount(new.account.id, new.user.id, new.secret)

    async def ask(
        self, query: str, variables: dict[str, Any] | None = None, *, key: str | None = None
    ) -> dict[str, Any]:
        """The response to a query or mutation, as over HTTP."""
        try:
            response = await self.execute(query, variables, key=key)
        except RequestErrors as error:
            return {"errors": error.errors}
        told: dict[str, Any] = orjson.loads(dumps(response))
        return told

    async def execute(
        self, query: str, variables: dict[str, Any] | None = None, *, key: str | None = None
    ) -> dict[str, Any]:
        """The engine's response, of which parts may be JSON. Raises RequestErrors."""
        actor = (await self.authenticator.authenticate(key)).actor if key is not None else None
        prepared = self.engine.prepare(query, None, authenticated=actor is not None)
        return await self.engine.execute(prepared, variables, Context(self.services, actor))

    async def data(
        self, query: str, variables: dict[str, Any] | None = None, *, key: str | None = None
    ) -> dict[str, Any]:
        """The response's data; there must be no error."""
        response = await self.ask(query, variables, key=key)
        assert "errors" not in response, response["errors"]
        data: dict[str, Any] = response["data"]
        return data


@asynccontextmanager
async def world(
    database_url: str,
    kinds: DestinationKinds = KINDS,
    source_kinds: SourceKinds = SOURCE_KINDS,
    **settings: Any,
) -> AsyncIterator[World]:
    """Open a world over a database without accounts."""
    chosen = Settings(**{"database_url": database_url, "secret_key": SECRET, **settings})
    services = services_of(chosen, "http://127.0.0.1:8000", kinds, source_kinds)
    database = services.database
    # Most databases are copies that are migrated already, and alembic takes long to see it.
    if not await is_ours(database):
        await migrate(database)
    limits = Limits(chosen.max_tokens, chosen.max_depth, chosen.max_aliases, chosen.max_cost)
    authenticator = Authenticator(database, services.keyring, EXISTING_CUSTOMERS)
    try:
        yield World(services, Engine(the_schema(), limits), authenticator)
    finally:
        await authenticator.close()
        await services.sources.aclose()
        await database.dispose()
