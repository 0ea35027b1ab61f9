import jsonschema

from app.customers.events import CustomerCreated


def test_the_example_is_as_the_schema_says() -> None:
    jsonschema.validate(CustomerCreated.example, CustomerCreated.json_schema())
    assert CustomerCreated.model_validate(CustomerCreated.example).data() == CustomerCreated.example
    assert set(CustomerCreated.json_schema()["required"]) == set(CustomerCreated.example)


def test_redaction_leaves_the_id_and_the_times() -> None:
    redacted = CustomerCreated.redacted(CustomerCreated.example)
    assert redacted == {
        **CustomerCreated.example,
        "name": "[deleted]",
        "email": "[deleted]",
        "address": None,
        "logoUrl": None,
        "metadata": {},
    }
    jsonschema.validate(redacted, CustomerCreated.json_schema())
