"""`voltwire trigger`, against a real server."""

from collections.abc import AsyncIterator
from datetime import date

import pytest

from app.cli.client import Address, Api, ClientError
from app.cli.features import whole_catalogue
from app.cli.trigger import half_hours, meter_number, trigger
from app.meters import numbers
from tests.operators import fresh_key, run
from tests.system.deployment import Deployment, deployed

NAMES = [event.type for event in whole_catalogue()]
# Nobody makes these happen by a change through the API alone.
BY_VOLTWIRE = {
    "backfill.completed",
    "feed.attention_needed",
    "hosted_consent.expired",
    "meter_data.overdue",
    "webhook_endpoint.disabled",
}


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployed(["serve"], tmp_path_factory.mktemp("trigger")) as running:
        yield running


async def names(api: Api) -> list[str]:
    """The names of all events so far."""
    answer = await api.ask("{ events(first: 100) { nodes { name } } }")
    return [one["name"] for one in answer["events"]["nodes"]]


# What must happen first on an account that has nothing.
MADE_FROM_NOTHING = {
    "user.created": ["user.created"],
    "customer.created": ["customer.created"],
    "meter.created": ["customer.created", "meter.created"],
    "hosted_consent.approved": ["customer.created", "meter.created", "hosted_consent.approved"],
    "hosted_consent.revoked": [
        "customer.created", "meter.created", "hosted_consent.approved", "hosted_consent.revoked",
    ],
    "hosted_consent.declined": ["customer.created", "hosted_consent.declined"],
    "meter_data.received": [
        "customer.created", "meter.created", "hosted_consent.approved", "meter_data.received",
    ],
    "import.completed": [
        "customer.created", "meter.created", "hosted_consent.approved", "meter_data.received", "import.completed",
    ],
    "api_keys.rotated": ["api_keys.rotated"],
}  # fmt: skip
MADE_AGAIN = {
    "import.completed": ["meter_data.received", "import.completed"],
    "hosted_consent.approved": ["meter.created", "hosted_consent.approved"],
    "hosted_consent.revoked": ["meter.created", "hosted_consent.approved", "hosted_consent.revoked"],
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_VOLTWIRE])
async def test_each_event_happens_on_an_empty_account_and_once_more(served: Deployment, name: str) -> None:
    async with Api(Address.parse(served.apis[0].url), await fresh_key(served)) as api:
        said: list[str] = []
        await trigger(api, name, said.append)
        assert await names(api) == ["user.created", *MADE_FROM_NOTHING[name]]
        assert said
        before = len(await names(api))
        await trigger(api, name, said.append)
        assert (await names(api))[before:] == MADE_AGAIN.get(name, [name])


@pytest.mark.parametrize("name", sorted(BY_VOLTWIRE))
async def test_what_voltwire_does_by_itself_is_not_triggered(served: Deployment, name: str) -> None:
    code, output, errors = await run(served, "trigger", name, key="vw_live_any")
    assert (code, output) == (1, "")
    known = ", ".join(one for one in NAMES if one not in BY_VOLTWIRE)
    assert errors == f"No change that makes {name} happen is known here: choose one of {known}.\n"


async def test_the_key_in_use_is_not_the_one_that_is_rotated(served: Deployment) -> None:
    async with Api(Address.parse(served.apis[0].url), await fresh_key(served)) as api:
        before = (await api.ask("{ viewer { apiKey { id prefix } } }"))["viewer"]["apiKey"]
        await trigger(api, "api_keys.rotated", lambda _: None)
        keys = (await api.ask("{ apiKeys { id name prefix scopes } }"))["apiKeys"]
        assert [one["prefix"] for one in keys if one["id"] == before["id"]] == [before["prefix"]]
        assert [(one["name"], one["scopes"]) for one in keys if one["id"] != before["id"]] == [
            ("voltwire trigger", ["READ"])
        ]


async def test_the_command_says_what_it_did(served: Deployment) -> None:
    key = await fresh_key(served)
    code, output, errors = await run(served, "trigger", "user.created", "--url", served.apis[0].url, key=key)
    assert (code, errors) == (0, "")
    assert output.startswith("Created user usr_")


async def test_an_unknown_event_is_answered_with_all_there_are(served: Deployment) -> None:
    code, output, errors = await run(served, "trigger", "meter.made", key="vw_live_any")
    assert (code, output) == (1, "")
    assert errors == f'There is no event "meter.made": choose one of {", ".join(NAMES)}.\n'


async def test_an_event_that_is_spelled_as_in_graphql_is_answered_with_its_name(served: Deployment) -> None:
    code, output, errors = await run(served, "trigger", "METER_DATA_RECEIVED", key="vw_live_any")
    assert (code, output) == (1, "")
    assert errors == 'There is no event "METER_DATA_RECEIVED": write meter_data.received.\n'


async def test_the_help_asks_for_a_key_that_may_write(served: Deployment) -> None:
    _, triggers, _ = await run(served, "trigger", "--help")
    _, listens, _ = await run(served, "listen", "--help")
    assert "stream token" not in triggers
    assert "stream token" in listens


async def test_a_key_that_may_only_read_is_told_so(served: Deployment) -> None:
    async with Api(Address.parse(served.apis[0].url), await fresh_key(served)) as api:
        made = await api.change("createApiKey", "secret", name="Reader", scopes=["READ"])
    served.secrets.append(made["secret"])
    async with Api(api.address, made["secret"]) as reader:
        with pytest.raises(ClientError, match="WRITE"):
            await trigger(reader, "customer.created", lambda _: None)
        assert await names(reader) == ["user.created"]


def test_made_up_meters_and_days_are_real_ones() -> None:
    assert not numbers.parse(meter_number()).invalid
    assert [len(half_hours(date(2026, *day))) for day in ((3, 29), (6, 1), (10, 25))] == [46, 48, 50]
    assert half_hours(date(2026, 6, 1))[0]["startAt"] == "2026-05-31T23:00:00.000Z"
