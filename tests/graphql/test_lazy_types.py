"""Event types in arguments are found once, and not at each request."""

from app.graphql.lazy_types import found
from tests.support import TestAccount, World


async def test_event_types_in_a_filter_are_found_once(small_world: World, holder: TestAccount) -> None:
    query = "query ($f: EventFilter) { events(filter: $f) { nodes { name } } }"
    for types in ([], ["METER_CREATED"], ["METER_CREATED", "USER_CREATED"]):
        before = found.cache_info()
        await small_world.data(query, {"f": {"types": types}}, key=holder.key)
        after = found.cache_info()
        assert after.misses == before.misses
        assert after.hits >= before.hits + len(types)
