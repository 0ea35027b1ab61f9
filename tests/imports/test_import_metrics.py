"""Metrics of imports, of a process that runs the worker."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from app.core.settings import Settings
from app.server.process import Process
from tests.imports.importing import csv, post, report
from tests.readings.generated_year import METER_NUMBER
from tests.readings.metered import metered
from tests.support import SECRET, world
from tests.system.clients import eventually


def told(process: Process) -> dict[tuple[str, ...], float]:
    """The samples of imports by name and labels."""
    text = bytes(process.metrics.response().body).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("voltwire_import")
    }


async def test_imports_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'voltwire.db'}"
    async with world(url) as opened:
        meter = await metered(opened)
        for content, dry_run in ((csv(METER_NUMBER, "1", "2"), "false"), ("a,b\n1,2\n", "true")):
            response = await post(opened, meter.account.key, content, dryRun=dry_run)
            assert response.status_code == 202
        settings = Settings(database_url=url, secret_key=SECRET, data_dir=tmp_path)
        process = Process(settings, public_url="http://127.0.0.1:8000", with_worker=True)
        async with process.running():

            async def have_ended() -> bool:
                return sum(value for name, value in by_status(told(process)).items()) == 2

            await eventually(have_ended)
            measured = told(process)
        found = await report(opened, meter.account.key, response.json()["fileImportId"])
    assert found["status"] == "FAILED"
    assert by_status(measured) == {"COMPLETED": 1, "FAILED": 1}
    assert measured["voltwire_import_half_hours_total",] == 2
    assert measured["voltwire_imports_waiting",] >= 0
    assert measured["voltwire_imports_under_way",] >= 0


def by_status(measured: dict[tuple[str, ...], float]) -> dict[str, float]:
    return {key[1]: value for key, value in measured.items() if key[0] == "voltwire_imports_total"}
