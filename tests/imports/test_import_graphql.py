"""Imports in GraphQL: the same fields as over HTTP, pages, events, filters, and bound viewers, who see none."""

import pytest

from tests.imports.importing import csv, ended_import, imported, values
from tests.readings.generated_year import METER_NUMBER
from tests.readings.metered import metered
from tests.support import World

FIELDS = (
    "id fileName sha256 bytes profile status dryRun progress rowsRead rowsRefused readingsAccepted readingsChanged "
    "meterCount problems { line column file code message } problemCount roundedCount onProblem detection from to "
    "preview error createdAt completedAt"
)


@pytest.mark.both_databases
async def test_graphql_shows_what_the_route_shows(world: World) -> None:
    meter = await metered(world)
    for query in ({"dryRun": "true"}, {"onProblem": "skip"}, {}):
        found = await imported(world, meter.account.key, csv(METER_NUMBER, "1", "-1"), **query)
        document = (
            f"query ($id: ID!) {{ fileImport(id: $id) {{ {FIELDS} }} node(id: $id) {{ id __typename }} }}"
        )
        data = await world.data(document, {"id": found["id"]}, key=meter.account.key)
        assert data == {"fileImport": found, "node": {"id": found["id"], "__typename": "FileImport"}}
    listed = await world.data(
        f"{{ fileImports(first: 2) {{ nodes {{ {FIELDS} }} }} }}", key=meter.account.key
    )
    assert [one["status"] for one in listed["fileImports"]["nodes"]] == ["FAILED", "COMPLETED"]
    assert await values(meter) == ["1"]


async def test_the_event_leads_to_its_import(small_world: World) -> None:
    account = await small_world.account()
    import_id = await ended_import(small_world, account.id)
    document = (
        "{ events(filter: {types: [IMPORT_COMPLETED]}) { nodes { name data "
        "... on ImportCompletedEvent { status fileImport { id fileName } } } } }"
    )
    [event] = (await small_world.data(document, key=account.key))["events"]["nodes"]
    assert event == {
        "name": "import.completed",
        "data": {
            "fileImportId": import_id,
            "status": "COMPLETED",
            "readingsAccepted": 48,
            "readingsChanged": 48,
            "meterCount": 1,
        },
        "status": "COMPLETED",
        "fileImport": {"id": import_id, "fileName": "may.csv"},
    }


async def test_profiles_are_described(small_world: World) -> None:
    account = await small_world.account()
    found = await small_world.data("{ importProfiles { name description } }", key=account.key)
    assert "voltwire" in [one["name"] for one in found["importProfiles"]]
    assert all(one["description"] for one in found["importProfiles"])
