"""Credentials for tests of authentication, and short ways to check them."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from app.auth import stream_tokens
from app.auth.api_keys import ApiKey
from app.auth.authenticate import REFUSED, Authenticator, Credential
from app.auth.stream_tokens import StreamToken
from app.core.errors import Unauthenticated
from tests.support import TestAccount, World

HOUR = timedelta(hours=1)


async def key_of(world: World, account: TestAccount) -> ApiKey:
    async with world.database.reading() as session:
        statement = select(ApiKey).where(col(ApiKey.account_id) == account.id)
        return (await session.execute(statement)).scalar_one()


async def change(world: World, key_id: str, **values: Any) -> None:
    """Updates the row as another process would, without an announcement."""
    async with world.database.transaction() as session:
        await session.execute(update(ApiKey).where(col(ApiKey.id) == key_id).values(**values))


async def refused(authenticator: Authenticator, credential: str) -> bool:
    """Whether the credential is refused, always in the same words."""
    with pytest.raises(Unauthenticated) as raised:
        await authenticator.authenticate(credential)
    return raised.value.message == REFUSED


async def still_valid(authenticator: Authenticator, credential: Credential) -> bool:
    return not await authenticator.ended([credential])


def token_of(world: World, account: TestAccount, key: ApiKey, until: datetime, **values: Any) -> str:
    token = StreamToken(
        **{"account_id": account.id, "api_key_id": key.id, "customer_id": None, **values}, expires_at=until
    )
    return stream_tokens.make(world.services.keyring, token)
