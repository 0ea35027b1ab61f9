from typing import Any

import pytest
from sqlalchemy import select

from app.accounts import actions as accounts
from app.auth.actor import Actor, Scope, visible
from app.consents.models import ConsentStatus
from app.core import clock
from app.graphql.context import Context
from app.meters.models import Meter
from tests.accounts.state import mutation, reads
from tests.meters.asking import DAY, METER, NUMBERS, make_consent, make_customer, make_meter, run
from tests.support import TestAccount, World

LIST = "query ($filter: MeterFilter) { meters(first: 100, filter: $filter) { nodes { number status } } }"


async def listed(world: World, key: str, **filters: Any) -> list[str]:
    data = await world.data(LIST, {"filter": filters or None}, key=key)
    return [one["number"] for one in data["meters"]["nodes"]]


async def fleet(world: World, account: TestAccount) -> tuple[str, str]:
    """Two customers: the first has a meter in each state, the second a meter without a consent."""
    first, second = await make_customer(world, account), await make_customer(world, account, "b@example.com")
    later, earlier = clock.now() + DAY, clock.now() - DAY
    for number, decision, until in (
        (NUMBERS[0], ConsentStatus.APPROVED, later),
        (NUMBERS[1], ConsentStatus.PENDING, later),
        (NUMBERS[2], ConsentStatus.APPROVED, earlier),
        (NUMBERS[3], ConsentStatus.APPROVED, later),
    ):
        await make_consent(world, account, first, decision, numbers=[number], until=until)
    await make_meter(world, account, first, NUMBERS[0], metadata={"site": "a", "b.c": 'x"y'})
    await make_meter(world, account, first, NUMBERS[1], metadata={"site": "a"})
    await make_meter(world, account, first, NUMBERS[2], dataSource="DCC")
    disabled = await make_meter(world, account, first, NUMBERS[3])
    await run(world, account, mutation("disableMeter", "meter { id }"), meterId=disabled["id"])
    await make_meter(world, account, second, "123456")
    return first, second


async def test_filters_take_what_they_say(world: World) -> None:
    account = await world.account()
    first, second = await fleet(world, account)
    active, pending, expired, disabled, gas = (*NUMBERS[:4], "123456")
    everything = [active, pending, expired, disabled, gas]
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, everything),
        ({"customerIds": None, "statuses": None, "missingConsent": None}, everything),
        ({"customerIds": [second]}, [gas]),
        ({"customerIds": [first, second]}, everything),
        ({"customerIds": ["nonsense"]}, []),
        ({"numbers": [active, "123456"]}, [active, gas]),
        ({"numbers": [f"00 111 222 {active}", "no number"]}, [active]),
        ({"types": ["GAS"]}, [gas]),
        ({"types": ["GAS", "ELECTRICITY"]}, everything),
        ({"statuses": ["ACTIVE"]}, [active]),
        ({"statuses": ["PENDING"]}, [pending]),
        ({"statuses": ["INACTIVE"]}, [expired, disabled, gas]),
        ({"statuses": ["ACTIVE", "PENDING", "INACTIVE"]}, everything),
        ({"dataSources": ["DCC"]}, [expired]),
        ({"dataSources": ["ELECTRALINK"]}, []),
        ({"metadata": {"site": "a"}}, [active, pending]),
        ({"metadata": {"site": "a", "b.c": 'x"y'}}, [active]),
        ({"metadata": {"site": "b"}}, []),
        ({"metadata": {}}, everything),
        ({"missingConsent": True}, [pending, gas]),
        ({"missingConsent": False}, [active, expired, disabled]),
        ({"expiredConsent": True}, [expired]),
        ({"expiredConsent": False}, [active, pending, disabled, gas]),
        ({"isDisabledByUser": True}, [disabled]),
        ({"isDisabledByUser": False}, [active, pending, expired, gas]),
        ({"hasInvalidMeterNumber": True}, [gas]),
        ({"hasInvalidMeterNumber": False}, [active, pending, expired, disabled]),
        ({"statuses": ["INACTIVE"], "missingConsent": False, "customerIds": [first]}, [expired, disabled]),
    ]
    for filters, expected in cases:
        assert (filters, await listed(world, account.key, **filters)) == (filters, expected)


@pytest.mark.parametrize("name", ["customerIds", "numbers", "types", "statuses", "dataSources"])
async def test_an_empty_list_takes_nothing(world: World, name: str) -> None:
    account = await world.account()
    await make_meter(world, account, await make_customer(world, account))
    assert await listed(world, account.key, **{name: []}) == []


async def test_the_filter_and_the_field_agree_on_every_state(world: World) -> None:
    account = await world.account()
    await fleet(world, account)
    data = await world.data(LIST, {"filter": None}, key=account.key)
    for status in ("ACTIVE", "PENDING", "INACTIVE"):
        expected = [one["number"] for one in data["meters"]["nodes"] if one["status"] == status]
        assert await listed(world, account.key, statuses=[status]) == expected


async def test_a_hundred_meters_with_all_around_them_are_one_statement(world: World) -> None:
    account = await world.account()
    for at in range(4):
        customer_id = await make_customer(world, account, f"c{at}@example.com")
        await make_consent(world, account, customer_id)
        for number in range(25):
            await make_meter(world, account, customer_id, f"{at}{number:02}456")
    query = f"{{ meters(first: 100) {{ nodes {{ {METER} }} }} }}"
    with reads(world.database) as statements:
        nodes = (await world.data(query, key=account.key))["meters"]["nodes"]
    assert len(nodes) == 100
    assert {one["status"] for one in nodes} == {"ACTIVE"}
    # The key may have been read anew, by a statement more.
    assert len([one for one in statements if "FROM api_keys" not in one]) == 1


async def test_a_bound_viewer_sees_its_customers_meters_only(world: World) -> None:
    account = await world.account()
    first, second = await fleet(world, account)
    admin = (await world.authenticator.authenticate(account.key)).actor
    async with world.database.transaction() as session:
        token, _until = await accounts.create_stream_token(
            session, admin, world.services.keyring, customer_id=second
        )
    assert await listed(world, token) == ["123456"]
    assert await listed(world, token, customerIds=[first]) == []
    assert await listed(world, token, statuses=["ACTIVE"]) == []


async def test_with_a_consents_token_only_what_it_covers_is_there_and_no_notes(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    pending = await make_consent(world, account, customer_id, ConsentStatus.PENDING, numbers=[NUMBERS[0]])
    await make_meter(world, account, customer_id, NUMBERS[0], description="Note", metadata={"a": "1"})
    await make_meter(world, account, customer_id, NUMBERS[1])
    await make_consent(world, account, customer_id)
    viewer = Actor(account.id, frozenset({Scope.READ}), customer_id=customer_id, consent_id=pending)
    async with world.database.reading() as session:
        rows = (await session.execute(visible(select(Meter), viewer))).scalars().all()
    assert [one.number for one in rows] == [NUMBERS[0]]
    prepared = world.engine.prepare(
        "{ meters { nodes { number description metadata status hostedConsent { id } } } }",
        None,
        authenticated=True,
    )
    response = await world.engine.execute(prepared, None, Context(world.services, viewer))
    meter = {"number": NUMBERS[0], "description": None, "metadata": {}, "status": "ACTIVE"}
    # The meter's effective consent is the blanket one, which this viewer may not see.
    assert response == {"data": {"meters": {"nodes": [meter | {"hostedConsent": None}]}}}


async def test_pages_of_meters_follow_each_other(world: World) -> None:
    account = await world.account()
    await fleet(world, account)
    query = (
        "query ($after: String) { meters(first: 2, after: $after, filter: {missingConsent: false}) "
        "{ nodes { number } pageInfo { hasNextPage endCursor } } }"
    )
    first = (await world.data(query, key=account.key))["meters"]
    second = (await world.data(query, {"after": first["pageInfo"]["endCursor"]}, key=account.key))["meters"]
    found = [one["number"] for one in first["nodes"] + second["nodes"]]
    assert found == [NUMBERS[0], NUMBERS[2], NUMBERS[3]]
    assert (first["pageInfo"]["hasNextPage"], second["pageInfo"]["hasNextPage"]) == (True, False)
