"""Rows of scripts are those of the ORM."""

from datetime import timedelta

import pytest
from sqlalchemy import bindparam, select
from sqlmodel import col

from app.auth.actor import Actor, Scope, Scoped
from app.core import clock
from app.customers.models import Customer
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.meters.models import Meter
from tests.meters.asking import make_customer, make_meter
from tests.support import World

pytestmark = pytest.mark.both_databases

METERS = Table(Meter)
CUSTOMERS = Table(Customer)
FIND = Scoped(select(*METERS.columns).where(col(Meter.id) == bindparam("wanted")))


async def stored(world: World, meter_id: str) -> Meter:
    async with world.database.reading() as session:
        return (await session.execute(select(Meter).where(col(Meter.id) == meter_id))).scalar_one()


def finding(actor: Actor, meter_id: str) -> Script[Meter | None]:
    found = yield FIND.by(actor, wanted=meter_id)
    return METERS.row(found[0]) if found else None


def test_a_new_row_has_the_defaults_of_its_model() -> None:
    given = {"id": "mtr_1", "account_id": "a", "customer_id": "c", "number": "1", "type": "GAS"}
    new = METERS.new(**given)
    at = new.created_at
    assert new.updated_at == at
    assert new.model_dump() == Meter(**given, created_at=at).model_dump()
    assert METERS.new(**{**given, "id": "mtr_2"}).labels is not new.labels
    later = at + timedelta(hours=1)
    assert METERS.new(**given, updated_at=later).updated_at == later
    assert METERS.new(account_id="a", customer_id="c", number="1", type="GAS").id.startswith("mtr_")


async def test_rows_are_written_and_read_as_the_orm_does(world: World) -> None:
    account = await world.account()
    actor = Actor(account.id, frozenset(Scope))
    customer_id = await make_customer(world, account)
    meter = METERS.new(
        account_id=account.id,
        customer_id=customer_id,
        number="3938424403",
        type="GAS",
        labels={"a": "ü", "b": ""},
        is_disabled=True,
    )

    def insert(_transaction: InTransaction) -> Script[None]:
        yield from METERS.insert([meter])

    await world.database.transact(insert)
    assert (await stored(world, meter.id)).model_dump() == meter.model_dump()
    found = await world.database.transact(lambda _: finding(actor, meter.id))
    assert found is not None
    assert found.model_dump() == meter.model_dump()
    change = METERS.updating("labels", "is_disabled", "updated_at")

    def update(_transaction: InTransaction) -> Script[None]:
        found.labels, found.is_disabled, found.updated_at = {}, False, clock.now()
        found.number = "not written"
        yield from change(found)

    await world.database.transact(update)
    expected = {**found.model_dump(), "number": meter.number}
    assert (await stored(world, meter.id)).model_dump() == expected


async def test_a_scoped_statement_finds_what_each_kind_of_actor_sees(world: World) -> None:
    account, other = await world.account(), await world.account()
    customer_id = await make_customer(world, account)
    meter_id = (await make_meter(world, account, customer_id, "3938424403"))["id"]
    second = await make_customer(world, account, email="second@example.com")
    scopes = frozenset(Scope)
    seen = [
        Actor(account.id, scopes),
        Actor(account.id, scopes, customer_id=customer_id),
    ]
    unseen = [
        Actor(other.id, scopes),
        Actor(other.id, scopes, customer_id=customer_id),
        Actor(account.id, scopes, customer_id=second),
        Actor(account.id, scopes, customer_id=customer_id, consent_id="hc_1"),
    ]
    for actor in (*seen, *unseen, *seen):
        found = await world.database.transact(lambda _, actor=actor: finding(actor, meter_id))  # type: ignore[misc]
        assert (found is not None) == (actor in seen)
