"""Each field of a filter says once how it narrows, and no field can be left out of the key of a cached statement."""

from typing import Any

import pytest
import strawberry
from sqlmodel import col
from strawberry.schema.config import StrawberryConfig

from app.auth.actor import Actor
from app.customers.graphql import Customer
from app.customers.models import Customer as CustomerRow
from app.graphql.compiled.reads import connection
from app.graphql.context import Context, Info
from app.graphql.engine import Engine
from app.graphql.events import event_types
from app.graphql.filters import Filter, chosen, compared
from app.graphql.pagination import Connection, page_request
from app.graphql.scalars import SCALARS
from tests.graphql.compiled.test_compiled import WIDE, counted
from tests.meters.asking import make_customer
from tests.support import TestAccount, World


@strawberry.input
class LogoFilter(Filter):
    """A filter with a new flag."""

    names: list[str] | None = compared(col(CustomerRow.name).in_)
    has_logo: bool | None = chosen(
        lambda given, _: (
            col(CustomerRow.logo_url).is_not(None) if given else col(CustomerRow.logo_url).is_(None)
        )
    )


@strawberry.input
class ForgottenFilter(Filter):
    """A filter with a flag that does not say how it narrows."""

    names: list[str] | None = compared(col(CustomerRow.name).in_)
    has_logo: bool | None = None


@strawberry.type
class Query:
    @strawberry.field
    async def customers(self, info: Info, filter: LogoFilter | None = None) -> Connection[Customer]:
        request = page_request(None, None, None, None)
        return await connection(info, CustomerRow, request, filter)  # type: ignore[no-any-return]


def engine(*, compiled: bool) -> Engine:
    config = StrawberryConfig(scalar_map=SCALARS)
    return Engine(strawberry.Schema(Query, types=event_types(), config=config), WIDE, compiled=compiled)


@pytest.mark.parametrize("compiled", [True, False])
async def test_a_new_flag_takes_its_rows_however_often_it_changes(
    small_world: World, holder: TestAccount, owner: Actor, compiled: bool
) -> None:
    await make_customer(small_world, holder, "a@example.com", name="A", logoUrl="https://example.com/a.png")
    await make_customer(small_world, holder, "b@example.com", name="B")
    asked = engine(compiled=compiled)
    query = "query ($f: LogoFilter) { customers(filter: $f) { nodes { name } } }"
    prepared = asked.prepare(query, None, authenticated=True)

    async def found(**filter: Any) -> str:
        response = await asked.execute(prepared, {"f": filter}, Context(small_world.services, owner))
        return "".join(one["name"] for one in response["data"]["customers"]["nodes"])

    for _ in range(2):
        assert await found() == "AB"
        assert await found(hasLogo=True) == "A"
        assert await found(hasLogo=False) == "B"
        assert await found(hasLogo=None, names=["A", "B"]) == "AB"
        assert await found(hasLogo=False, names=["A"]) == ""
        assert await found(hasLogo=True, names=["A"]) == "A"
    if compiled:
        assert counted(prepared) == (1, 6)


def test_a_field_that_says_nothing_is_refused(owner: Actor) -> None:
    with pytest.raises(TypeError, match="ForgottenFilter does not say how it narrows by has_logo"):
        ForgottenFilter(names=["A"]).parts(owner)


def test_the_form_tells_choices_apart_but_not_values(owner: Actor) -> None:
    forms = [
        LogoFilter(has_logo=one, names=names).parts(owner)[0]
        for one in (True, False)
        for names in (["A"], [])
    ]
    assert forms[0] == forms[1] != forms[2] == forms[3]


def test_every_filter_says_how_it_narrows(owner: Actor) -> None:
    known = [one for one in Filter.__subclasses__() if one.__module__.startswith("app.")]
    assert {one.__name__ for one in known} == {
        "CustomerFilter",
        "DeliveryFilter",
        "EventFilter",
        "HostedConsentFilter",
        "MeterFilter",
    }
    for one in known:
        assert one().parts(owner)[1] == {}
