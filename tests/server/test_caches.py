"""Every cache has a bound in bytes, whatever its input."""

import base64
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from graphql import get_introspection_query, parse
from sqlalchemy import bindparam, column, select
from sqlalchemy.dialects import sqlite

from app.core.crypto import Keyring
from app.db.raw_statements import VALUES_KEPT, StatementCache
from app.delivery.destinations.webhook.provider import SECRETS_KEPT, WebhookProvider
from app.graphql.bounds.introspection import IntrospectingExecutor
from app.graphql.http.addresses import LONGEST, NETWORK_WEIGHT, NETWORKS_KEPT, network_of
from app.outbound.http.ssrf_guard import URL_CHARACTERS, URLS_KEPT, parse_url
from app.outbound.http.transport import PARSED_KEPT, Transport
from app.outbound.unreadable_secrets import REMEMBERED, REMEMBERED_WEIGHT, UnreadableSecrets
from app.schema import build_schema
from app.server.caches import bounds
from tests.memory import traced, used
from tests.system.readme.text import table

MB = 1_000_000


def long_urls() -> Iterator[str]:
    return (f"https://hooks.example.com/{n:x>{URL_CHARACTERS - 26}}" for n in count())


def secrets(keyring: Keyring) -> Iterator[str]:
    """Secrets as long as an endpoint's custom headers may be."""
    return (keyring.encrypt(f"{n:x>40000}") for n in count())


def urls() -> tuple[Callable[[str], Any], Iterator[str], int]:
    return parse_url, long_urls(), URLS_KEPT


def places() -> tuple[Callable[[str], Any], Iterator[str], int]:
    return Transport()._parse, long_urls(), PARSED_KEPT + URLS_KEPT


def unlocked() -> tuple[Callable[[str], Any], Iterator[str], int]:
    keyring = Keyring([base64.b64encode(b"a key of a test's own, long enough").decode()])
    nobody: Any = None
    post: Any = SimpleNamespace(keyring=keyring)
    webhooks = WebhookProvider(post, nobody, 1.0, nobody)
    return webhooks._unlock, secrets(keyring), SECRETS_KEPT


def unreadable() -> tuple[Callable[[str], Any], Iterator[str], int]:
    told: Any = SimpleNamespace(error=lambda *_, **__: None)
    keyring = Keyring([base64.b64encode(b"a key of a test's own, long enough").decode()])
    limit = REMEMBERED * REMEMBERED_WEIGHT
    return partial(UnreadableSecrets(told).tell, what="headers"), secrets(keyring), limit


def networks() -> tuple[Callable[[str], Any], Iterator[str], int]:
    return network_of, (f"{n:x>10000}" for n in count()), NETWORKS_KEPT * NETWORK_WEIGHT


@pytest.mark.parametrize("make", [urls, places, unlocked, unreadable, networks])
def test_caches_of_long_texts_stay_within_their_bounds(
    make: Callable[[], tuple[Callable[[str], Any], Iterator[str], int]],
) -> None:
    memoized, texts, limit = make()
    with traced():
        before = used()
        given = 0
        while given < 3 * limit:
            text = next(texts)
            given += len(text)
            memoized(text)
        del text
        taken = used() - before
    assert taken <= limit


@pytest.mark.parametrize(
    "document",
    [
        get_introspection_query(),
        "{ __schema { types { fields { " + " ".join(f"a{n}: name" for n in range(28)) + " } } } }",
        "{ __schema { types { fields { args { name } } } } }",
    ],
    ids=["standard", "aliased", "small objects"],
)
def test_an_introspection_takes_no_more_bytes_than_its_weight(document: str) -> None:
    executor = IntrospectingExecutor.build(build_schema()._schema, parse(document, no_location=True))
    assert isinstance(executor, IntrospectingExecutor)
    # The first introspection loads the schema's own leaves.
    executor.execute_operation()
    executor = IntrospectingExecutor.build(build_schema()._schema, parse(document, no_location=True))
    assert isinstance(executor, IntrospectingExecutor)
    with traced():
        before = used()
        answer = executor.execute_operation()
        weight = executor.weight
        del executor
        taken = used() - before
    assert answer is not None
    assert 0 < taken <= weight


def test_addresses_that_differ_beyond_their_counted_part_are_one_network() -> None:
    assert network_of("x" * LONGEST + "1") == network_of("x" * LONGEST + "2") == "x" * LONGEST
    assert network_of("2001:db8:1:2:3:4:5:6%eth0") == "2001:db8:1:2::/64"


def test_the_texts_of_a_statement_are_bounded_by_their_list_values() -> None:
    statements = StatementCache(sqlite.dialect(), converts=True)
    statement = select(column("id")).where(column("id").in_(bindparam("ids", expanding=True)))

    def prepared(length: int) -> Any:
        return statements.compiled(statement, {"ids": ["x"] * length})

    assert prepared(VALUES_KEPT) is prepared(VALUES_KEPT)
    assert prepared(VALUES_KEPT + 1) is not prepared(VALUES_KEPT + 1)
    few = prepared(2)
    assert prepared(VALUES_KEPT - 2) is not None
    assert prepared(2) is few
    assert prepared(1) is not None
    assert prepared(2) is not few


def test_the_readme_states_the_bounds() -> None:
    rows = table("Memory")
    stated = {kept.strip("`"): limit for kept, limit, _ in rows}
    together = stated.pop("together")
    assert stated == {kept: f"{math.ceil(limit / MB)} MB" for kept, limit in bounds().items()}
    assert together == f"{math.ceil(sum(bounds().values()) / MB)} MB"
