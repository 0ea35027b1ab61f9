"""What a worker tells Prometheus about its deliveries."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from app.delivery import claims
from app.delivery.dispatch import Dispatcher
from app.main import Process
from app.settings import Settings
from tests.delivery.scene import open_scene
from tests.services.receiver import Receiver
from tests.support import SECRET


def told(process: Process) -> dict[tuple[str, str], float]:
    """Values by name and kind, of what is about deliveries."""
    text = bytes(process.metrics.response().body).decode()
    return {
        (sample.name, sample.labels["kind"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "kind" in sample.labels and "le" not in sample.labels
    }


async def test_attempts_are_timed_and_what_is_due_is_counted(tmp_path: Path, receiver: Receiver) -> None:
    url = f"sqlite:///{tmp_path / 'voltwire.db'}"
    settings = Settings(
        database_url=url, secret_key=SECRET, data_dir=tmp_path, webhook_allow_networks=["127.0.0.0/8"]
    )
    async with open_scene(url) as scene:
        account = await scene.account()
        await scene.endpoint(account, receiver.url())
        process = Process(settings, public_url="http://127.0.0.1:8000", with_worker=True)
        async with process.running():
            await scene.happen(account, 3)
            await scene.settled()
            told_after = told(process)
    assert told_after["voltwire_delivery_attempt_seconds_count", "webhook"] == 3
    assert told_after["voltwire_delivery_attempts_total", "webhook"] == 3
    assert told_after["voltwire_deliveries_total", "webhook"] == 3
    assert told_after["voltwire_deliveries_in_flight", "webhook"] == 0
    assert told_after["voltwire_oldest_due_seconds", "email"] == 0


async def test_what_is_due_is_counted_by_kind(migrated_url: str) -> None:
    async with open_scene(migrated_url) as scene:
        account = await scene.account()
        await scene.endpoint(account, "https://example.com/")
        await scene.subscription(account, "ada@example.com")
        await scene.subscription(account, "bob@example.com", digest="DAILY")
        await scene.happen(account, 2)
        await Dispatcher(scene.database, lambda _: None).run()
        async with scene.database.reading() as session:
            counts = [await claims.count_due(session, prefix) for prefix in ("whe", "ems")]
    # What waits for its digest is not due.
    assert counts == [2, 2]
