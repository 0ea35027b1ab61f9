"""The PostgreSQL of a run: the tests' own server, started when a benchmark first asks for a database."""

import asyncio

from tests.services.postgres import Postgres
from tests.services.process import ServiceError


class Databases:
    """Gives out empty databases. It runs without fsync, as in the tests, for both sides of a figure."""

    def __init__(self) -> None:
        self.missing = ""
        self.server: Postgres | None = None

    async def there(self) -> bool:
        """Whether there is a PostgreSQL to measure on; `missing` says why not."""
        if self.server is None and not self.missing:
            try:
                self.server = await asyncio.to_thread(Postgres)
                await asyncio.to_thread(self.server.start)
            except ServiceError as error:
                self.missing = str(error)
        return self.server is not None

    async def create(self) -> str:
        """`postgresql://…` of a new, empty database."""
        assert self.server is not None
        return await self.server.create_database()

    def close(self) -> None:
        if self.server:
            self.server.close()


def async_url(url: str) -> str:
    """The same database for SQLAlchemy's async engine."""
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)
