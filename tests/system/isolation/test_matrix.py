"""Permissions: every query, mutation and subscription for each kind of viewer; a refusal changes nothing.

The fields are taken from the schema, so that a new one fails here until it has its row.
"""

from typing import Any

import pytest
from graphql import GraphQLObjectType

from app.events.catalogue import event_names
from app.graphql.failures import RequestErrors
from tests.accounts.state import mutation, unchanged
from tests.live.listening import listening
from tests.readings.metered import reading
from tests.support import World
from tests.system.isolation.nested import NESTED
from tests.system.isolation.test_matrix_mutations import BY_TOKEN, MUTATIONS
from tests.system.isolation.viewers import (
    ANONYMOUS,
    VIEWERS,
    Stage,
    codes,
    expected,
    of_kind,
    outcome,
    staged,
    table,
)

# Fields by one id, and the kinds of labels that they find.
BY_ID = {
    "customer": ("ada", "bob", "their.eve"),
    "meter": (".meter",),
    "user": ("user",),
    "hostedConsent": (".consent", ".asked"),
    "event": (".event",),
    "webhookEndpoint": ("endpoint",),
    "emailSubscription": ("mail",),
    "fileImport": ("import", "preview"),
    **{name: (name,) for name in ("delivery", "replay", "feed", "backfill")},
}
# Lists of all that the viewer may see of a kind; connections but for the keys.
LISTS = {
    "customers": BY_ID["customer"],
    "meters": BY_ID["meter"],
    "users": BY_ID["user"],
    "hostedConsents": BY_ID["hostedConsent"],
    "events": BY_ID["event"],
    "webhookEndpoints": BY_ID["webhookEndpoint"],
    "emailSubscriptions": BY_ID["emailSubscription"],
    "deliveries": BY_ID["delivery"],
    "fileImports": BY_ID["fileImport"],
    "feeds": BY_ID["feed"],
    "apiKeys": ("key",),
}
# The remaining fields have tests of their own below.
OTHERS = {
    "viewer",
    "node",
    "hostedConsentByToken",
    "hostedConsentEvidence",
    "intervalData",
    "eventStream",
    "eventTypes",
    "importProfiles",
}


@pytest.fixture
async def stage(world: World) -> Stage:
    return await staged(world)


def fields_of(root: GraphQLObjectType | None) -> set[str]:
    assert root is not None
    return set(root.fields)


async def test_the_matrix_has_every_field(world: World) -> None:
    schema = world.engine.schema
    assert fields_of(schema.query_type) == {*BY_ID, *LISTS, *OTHERS}
    assert fields_of(schema.mutation_type) == {*MUTATIONS, *BY_TOKEN}
    assert fields_of(schema.subscription_type) == {"events"}


async def test_each_object_by_its_id_and_as_a_node(stage: Stage) -> None:
    ids = [f"n{at}: node(id: $i{at}) {{ id __typename }}" for at in range(25)]
    declared = ", ".join(f"$i{at}: ID!" for at in range(25))
    node = f"query ({declared}) {{ {' '.join(ids)} }}"
    labels = sorted(stage.ids)
    async with unchanged(stage.world):
        for start in range(0, len(labels), 25):
            some = labels[start : start + 25]
            values = {f"i{at}": stage.ids[some[at]] if at < len(some) else "x" for at in range(25)}

            async def nodes(viewer: str, values: dict[str, Any] = values) -> Any:
                response = await stage.ask(viewer, node, values)
                return codes(response) or stage.labels(response["data"])

            assert await table(stage, nodes) == expected(stage, set(some))
        for name, kinds in BY_ID.items():
            for label in sorted(of_kind(stage, kinds)):
                query = f"query ($id: ID!) {{ {name}(id: $id) {{ id }} }}"

                async def one(viewer: str, query: str = query, label: str = label) -> Any:
                    response = await stage.ask(viewer, query, {"id": stage.ids[label]})
                    return codes(response) or stage.labels(response["data"])

                assert (name, await table(stage, one)) == (name, expected(stage, {label}))


async def test_an_id_of_another_kind_finds_nothing(stage: Stage) -> None:
    for name, kinds in BY_ID.items():
        for label in ("account", "user", "ada", "ada.meter", "endpoint", "delivery"):
            if label not in of_kind(stage, kinds):
                query = f"query ($id: ID!) {{ {name}(id: $id) {{ id }} }}"
                response = await stage.ask("owner", query, {"id": stage.ids[label]})
                assert (name, label, response) == (name, label, {"data": {name: None}})


async def test_each_list_and_what_hangs_on_it(stage: Stage) -> None:
    async with unchanged(stage.world):
        for name, kinds in LISTS.items():
            listed = "id" if name == "apiKeys" else "nodes { id } edges { node { id } }"
            nested = f"(first: 10) {{ nodes {{ {NESTED[name]} }} }}" if name in NESTED else f"{{ {listed} }}"

            async def plain(viewer: str, query: str = f"{{ {name} {{ {listed} }} }}") -> Any:
                response = await stage.ask(viewer, query)
                return codes(response) or stage.labels(response["data"])

            async def deep(viewer: str, query: str = f"{{ {name} {nested} }}") -> Any:
                response = await stage.ask(viewer, query)
                assert codes(response) <= {"UNAUTHENTICATED"}
                return stage.labels(response.get("data")) - stage.seen_by(viewer)

            assert (name, await table(stage, plain)) == (name, expected(stage, of_kind(stage, kinds)))
            assert (name, await table(stage, deep)) == (name, {viewer: set() for viewer in VIEWERS})


async def test_filters_find_only_what_the_viewer_sees(stage: Stage) -> None:
    ids = stage.ids
    for name, kind, filters, found in (
        ("customers", "CustomerFilter", {"emails": ["ada@example.com"]}, {"ada"}),
        ("customers", "CustomerFilter", {"metadata": {}}, {"ada", "bob", "their.eve"}),
        (
            "meters",
            "MeterFilter",
            {"customerIds": [ids["ada"], ids["their.eve"]]},
            {"ada.meter", "their.eve.meter"},
        ),
        ("meters", "MeterFilter", {"statuses": ["ACTIVE"]}, {"ada.meter", "bob.meter", "their.eve.meter"}),
        (
            "hostedConsents",
            "HostedConsentFilter",
            {"customerIds": [ids["ada"]]},
            {"ada.consent", "ada.asked"},
        ),
        ("hostedConsents", "HostedConsentFilter", {"valid": True}, of_kind(stage, (".consent",))),
        (
            "events",
            "EventFilter",
            {"customerIds": [ids["ada"]]},
            {one for one in ids if one.startswith("ada.event")},
        ),
        ("events", "EventFilter", {"types": ["USER_CREATED"]}, {"account.event1", "their.account.event1"}),
        ("deliveries", "DeliveryFilter", {"webhookEndpointId": ids["endpoint"]}, {"delivery"}),
    ):
        query = f"query ($filter: {kind}) {{ {name}(filter: $filter) {{ nodes {{ id }} }} }}"

        async def filtered(viewer: str, query: str = query, filters: Any = filters) -> Any:
            response = await stage.ask(viewer, query, {"filter": filters})
            return codes(response) or stage.labels(response["data"])

        assert (name, filters, await table(stage, filtered)) == (name, filters, expected(stage, found))
    query = "query ($filter: EventFilter) { events(filter: $filter) { nodes { id name } } }"
    for viewer, meter, count in (
        ("owner", "ada.meter", 4),
        ("bound", "ada.meter", 4),
        ("elsewhere", "ada.meter", 0),
        ("stranger", "ada.meter", 0),
        ("owner", "their.eve.meter", 0),
    ):
        response = await stage.ask(viewer, query, {"filter": {"meterIds": [stage.ids[meter]]}})
        assert (viewer, len(response["data"]["events"]["nodes"])) == (viewer, count)


async def test_cursors_of_another_account_open_nothing(stage: Stage) -> None:
    for name, kinds in LISTS.items():
        if name == "apiKeys":
            continue
        listing = f"{{ {name}(first: 1) {{ pageInfo {{ startCursor }} }} }}"
        cursor = (await stage.ask("owner", listing))["data"][name]["pageInfo"]["startCursor"]
        query = f"query ($after: String) {{ {name}(after: $after) {{ nodes {{ id }} }} }}"
        response = await stage.ask("stranger", query, {"after": cursor})
        if name == "events":
            assert codes(response) == {"BAD_USER_INPUT"}
        else:
            found = stage.labels(response["data"])
            assert (name, found) == (name, found & of_kind(stage, kinds) & stage.seen_by("stranger"))


async def test_who_the_viewer_is(stage: Stage) -> None:
    query = "{ viewer { account { id } user { id } apiKey { id } customer { id } scopes } }"
    seen = {}
    for viewer in VIEWERS:
        response = await stage.ask(viewer, query)
        shown = (response.get("data") or {}).get("viewer")
        seen[viewer] = codes(response) or (stage.labels(shown), shown["scopes"])
    assert seen == {
        "owner": ({"account", "key"}, ["READ", "WRITE", "ADMIN"]),
        "writer": ({"account", "writer.key"}, ["WRITE"]),
        "reader": ({"account", "reader.key"}, ["READ"]),
        "stream": ({"account", "key"}, ["READ"]),
        "bound": ({"account", "ada"}, ["READ"]),
        "elsewhere": ({"account", "bob"}, ["READ"]),
        "stranger": ({"their.account", "their.key"}, ["READ", "WRITE", "ADMIN"]),
        "none": {"UNAUTHENTICATED"},
        "bearer": {"UNAUTHENTICATED"},
    }


async def test_readings_and_evidence_follow_their_meter_and_consent(stage: Stage) -> None:
    by_number = (
        "query ($number: String!, $customer: ID!) "
        "{ intervalData(meterNumber: $number, customerId: $customer) { total meter { id customer { id } } } }"
    )
    number = (await stage.ask("owner", f'{{ meter(id: "{stage.ids["ada.meter"]}") {{ number }} }}'))["data"][
        "meter"
    ]
    given = {"number": number["number"], "customer": stage.ids["ada"]}
    for query, variables, found in (
        (
            "query ($id: ID!) { intervalData(meterId: $id) { meter { id } total } }",
            {"id": stage.ids["ada.meter"]},
            {"ada.meter"},
        ),
        (by_number, given, {"ada.meter", "ada"}),
        (
            "query ($id: ID!) { hostedConsentEvidence(hostedConsentId: $id) { id hostedConsent { id } url } }",
            {"id": stage.ids["ada.consent"]},
            {"ada.evidence", "ada.consent"},
        ),
        (
            "query ($id: ID!) { hostedConsentEvidence(hostedConsentId: $id) { id } }",
            {"id": stage.ids["ada.asked"]},
            set(),
        ),
    ):

        async def asked(viewer: str, query: str = query, variables: Any = variables) -> Any:
            response = await stage.ask(viewer, query, variables)
            return codes(response) or stage.labels(response["data"])

        assert (query, await table(stage, asked)) == (query, expected(stage, found))


async def test_what_is_open_and_where_the_log_stands(stage: Stage) -> None:
    async def types(viewer: str) -> Any:
        response = await stage.ask(viewer, "{ eventTypes { name } }")
        return codes(response) or len(response["data"]["eventTypes"])

    assert await table(stage, types) == {
        **dict.fromkeys(VIEWERS, len(event_names())),
        "bearer": {"UNAUTHENTICATED"},
    }

    async def stands(viewer: str) -> Any:
        response = await stage.ask(viewer, "{ eventStream { oldestCursor latestCursor } }")
        return codes(response) or all(response["data"]["eventStream"].values())

    assert await table(stage, stands) == {
        viewer: {"UNAUTHENTICATED"} if viewer in ANONYMOUS else True for viewer in VIEWERS
    }


async def test_links_are_for_writers_only(stage: Stage) -> None:
    query = "query ($id: ID!) { hostedConsent(id: $id) { link } }"

    async def link(viewer: str) -> Any:
        response = await stage.ask(viewer, query, {"id": stage.ids["ada.asked"]})
        shown = (response.get("data") or {}).get("hostedConsent")
        return codes(response) or (None if shown is None else shown["link"] is not None)

    assert await table(stage, link) == {
        "owner": True,
        "writer": True,
        "reader": False,
        "stream": False,
        "bound": False,
        "elsewhere": None,
        "stranger": None,
        "none": {"UNAUTHENTICATED"},
        "bearer": {"UNAUTHENTICATED"},
    }


async def test_a_consent_token_alone_decides_what_it_shows(stage: Stage) -> None:
    query = (
        "query ($token: String!) { hostedConsentByToken(token: $token) { id link customer { id metadata "
        "meters { nodes { id metadata hostedConsent { id } customer { id } } } hostedConsents { nodes { id } } } "
        "meters { nodes { id } } } }"
    )
    shown = {"ada", "ada.meter", "ada.asked"}
    async with unchanged(stage.world):
        for token, found in (
            (stage.tokens["ada.asked"], shown),
            ("vw_consent_" + "x" * 43, set()),
            ("", set()),
        ):

            async def by_token(viewer: str, token: str = token) -> Any:
                response = await stage.ask(viewer, query, {"token": token})
                return codes(response) or stage.labels(response["data"])

            assert await table(stage, by_token) == {
                **dict.fromkeys(VIEWERS, found),
                # Only as the field's argument does it count.
                "bearer": {"UNAUTHENTICATED"},
            }
        readings = (
            "query ($token: String!) { hostedConsentByToken(token: $token) { meters { nodes { "
            "intervalData { total } } } } }"
        )
        for viewer in ("owner", "none"):
            response = await stage.ask(viewer, readings, {"token": stage.tokens["ada.asked"]})
            assert codes(response) == {"FORBIDDEN"}


async def test_a_subscription_gives_each_viewer_its_own_events(stage: Stage) -> None:
    query = "subscription ($after: String) { events(after: $after) { id sequence data } }"
    record = mutation("recordReadings", "changed")
    async with listening(stage.world) as live:
        sinks = {}
        for viewer in VIEWERS:
            if viewer not in ANONYMOUS:
                _, sinks[viewer] = await live.subscribe(await stage.actor(viewer), query)
        with pytest.raises(RequestErrors) as caught:
            stage.world.engine.prepare(query, None, authenticated=False)
        assert (caught.value.status, caught.value.errors[0]["extensions"]["code"]) == (401, "UNAUTHENTICATED")
        changes = (
            ("owner", "ada.meter"),
            ("stranger", "their.eve.meter"),
            ("writer", "bob.meter"),
            ("owner", "ada.meter"),
            ("owner", "bob.meter"),
            ("stranger", "their.eve.meter"),
        )
        for at, (viewer, meter) in enumerate(changes):
            given = {"meterId": stage.ids[meter], "readings": [reading("05:00", str(at))]}
            assert outcome(await stage.ask(viewer, record, {"input": given})) == []
        expected_meters = {
            **{viewer: ["ada", "bob", "ada", "bob"] for viewer in ("owner", "writer", "reader", "stream")},
            "bound": ["ada", "ada"],
            "elsewhere": ["bob", "bob"],
            "stranger": ["their.eve", "their.eve"],
        }
        for viewer, names in expected_meters.items():
            responses = await sinks[viewer].count(len(names))
            events = [one["data"]["events"] for one in responses]
            assert [stage.labels({"id": one["data"]["meterId"]}) for one in events] == [
                {f"{name}.meter"} for name in names
            ]
            # A viewer of one customer is not told how busy the account is.
            assert all((one["sequence"] is None) == (viewer in ("bound", "elsewhere")) for one in events)
        # Whoever got more than its own would have it by now, because each has been given its last.
        assert {viewer: len(sink.responses) for viewer, sink in sinks.items()} == {
            viewer: len(names) for viewer, names in expected_meters.items()
        }
        cursor = (await stage.ask("owner", "{ eventStream { latestCursor } }"))["data"]["eventStream"]
        with pytest.raises(RequestErrors) as caught:
            await live.subscribe(await stage.actor("stranger"), query, {"after": cursor["latestCursor"]})
        assert caught.value.errors[0]["extensions"] == {"code": "BAD_USER_INPUT", "field": ["after"]}
