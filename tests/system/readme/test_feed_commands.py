"""The README's first feed, tried to the letter, for a home: thirteen months from a stand-in."""

from tests.consents.helpers import in_a_year
from tests.system.clients import Api, eventually
from tests.system.readme.newcomer import Newcomer
from tests.system.readme.text import commands

HEADING = "First feed"
NUMBER = "9999999999999"


async def home(newcomer: Newcomer) -> str:
    """A meter whose customer has approved a consent to it; gives its id."""
    async with Api(newcomer.url, newcomer.key) as api:
        made = await api.mutate("createCustomer", "customer { id }", name="Flo", email="flo@example.test")
        asked = await api.mutate(
            "createHostedConsent",
            "hostedConsent { link }",
            customerId=made["customer"]["id"],
            flowType="GB_RESIDENTIAL_SPECIFIC",
            expiry=in_a_year().isoformat(),
            redirectUrl="https://app.acme.example/welcome",
            meterNumbers=[NUMBER],
        )
        token = asked["hostedConsent"]["link"].rpartition("/")[2]
        newcomer.deployment.secrets.append(token)
        approved = await api.mutate(
            "approveHostedConsent",
            "hostedConsent { meters { nodes { id } } }",
            token=token,
            consenteeFullName="Flo",
            consenteeEmail="flo@example.test",
            consenteeJobTitle="Occupier",
        )
        meter_id: str = approved["hostedConsent"]["meters"]["nodes"][0]["id"]
        return meter_id


async def test_first_feed(newcomer: Newcomer) -> None:
    assert len(commands(HEADING)) == 6
    meter_id = await home(newcomer)
    stand_in = newcomer.command(HEADING, 0, **{"--port 9001": "--port 0"}).partition("#")[0]
    async with newcomer.running(stand_in) as serving:
        assert serving.stdout is not None
        url = (await serving.stdout.readline()).decode().split()[-1]
        create = newcomer.command(HEADING, 1, **{"http://127.0.0.1:9001/v1": url})
        newcomer.deployment.secrets.append("sk_live_stand_in_of_octopus")
        feed_id = (await newcomer.answer(create))["createFeed"]["feed"]["id"]
        assert newcomer.command(HEADING, 2).startswith("export FEED=fed_… METER=mtr_… ")
        ids = {"FEED": feed_id, "METER": meter_id}
        checked = (await newcomer.answer(newcomer.command(HEADING, 3), **ids))["checkFeed"]
        assert (checked["feed"], checked["userErrors"]) == ({"status": "ACTIVE"}, [])
        assert {"number": NUMBER} in checked["discoveredMeters"]
        begun = (await newcomer.answer(newcomer.command(HEADING, 4), **ids))["setMeterFeed"]
        assert (len(begun["meter"]["backfills"]["nodes"]), begun["userErrors"]) == (1, [])
        looking = newcomer.command(HEADING, 5)

        async def is_complete() -> bool:
            [backfill] = (await newcomer.answer(looking, **ids))["meter"]["backfills"]["nodes"]
            return bool(backfill["status"] == "COMPLETE")

        await eventually(is_complete)
    found = (await newcomer.answer(looking, **ids))["meter"]
    [backfill] = found["backfills"]["nodes"]
    assert backfill["parts"] == [{"number": number, "status": "COMPLETE"} for number in range(1, 14)]
    assert found["coverage"]["present"] == backfill["readingsChanged"] > 18_000
    # One event for each month, and one for the whole.
    query = "query ($meter: ID!) { events(first: 100, filter: {meterIds: [$meter]}) { nodes { name data } } }"
    async with Api(newcomer.url, newcomer.key) as api:
        log = (await api.data(query, meter=meter_id))["events"]["nodes"]
    received = [one["data"] for one in log if one["name"] == "meter_data.received"]
    assert [(one["reason"], one["part"], one["parts"]) for one in received] == [
        ("BACKFILL", number, 13) for number in range(1, 14)
    ]
    assert log[-1]["name"] == "backfill.completed"
