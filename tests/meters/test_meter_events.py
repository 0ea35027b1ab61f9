import jsonschema

from app.events.catalogue import event_class
from app.meters.events import MeterCreated


def test_the_example_is_as_the_schema_says() -> None:
    jsonschema.validate(MeterCreated.example, MeterCreated.json_schema())
    assert MeterCreated.model_validate(MeterCreated.example).data() == MeterCreated.example


def test_the_schema_has_the_contracts_words() -> None:
    schema = MeterCreated.json_schema()
    assert (schema["title"], set(schema["properties"])) == (
        "meter.created",
        {
            "id",
            "number",
            "type",
            "description",
            "address",
            "metadata",
            "dataSource",
            "status",
            "validityState",
            "createdAt",
            "updatedAt",
            "customer",
        },
    )
    assert set(schema["required"]) == set(schema["properties"])
    assert schema["description"] == MeterCreated.description


def test_redaction_leaves_ids_and_facts() -> None:
    redacted = event_class("meter.created").redacted(MeterCreated.example)
    assert redacted == {
        **MeterCreated.example,
        "number": "[deleted]",
        "description": None,
        "address": None,
        "metadata": {},
        "customer": {
            **MeterCreated.example["customer"],
            "name": "[deleted]",
            "email": "[deleted]",
            "address": None,
            "logoUrl": None,
            "metadata": {},
        },
    }
    jsonschema.validate(redacted, MeterCreated.json_schema())
    assert MeterCreated.type == "meter.created"
