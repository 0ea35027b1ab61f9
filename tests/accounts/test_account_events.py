import jsonschema
import pytest

from app.accounts.events import ApiKeysRotated, UserCreated
from app.events.catalogue import EventData


@pytest.mark.parametrize("event", [UserCreated, ApiKeysRotated])
def test_the_example_is_as_the_schema_says(event: type[EventData]) -> None:
    jsonschema.validate(event.example, event.json_schema())
    assert event.model_validate(event.example).data() == event.example
    assert set(event.json_schema()["required"]) == set(event.example)


def test_a_rotation_without_overlap_has_no_end_of_it() -> None:
    data = {**ApiKeysRotated.example, "overlapUntil": None}
    jsonschema.validate(data, ApiKeysRotated.json_schema())
    assert ApiKeysRotated.model_validate(data).data() == data
