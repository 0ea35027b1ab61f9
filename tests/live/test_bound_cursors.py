"""Cursors do not show a viewer bound to one customer whether other customers' events have moved them."""

from app.auth.actor import Actor
from app.events import cursors, log
from app.live.registry import Timing
from tests.graphql.serving import Serving, serving
from tests.live.event_streams import Reader, stream
from tests.support import TestAccount, World

ENDS = "{ eventStream { oldestCursor latestCursor } }"
CURSORS = "subscription($after: String) { events(after: $after) { cursor } }"


async def bound_token(world: World, holder: TestAccount, customer_id: str) -> str:
    made = await world.data(
        "mutation ($id: ID) { createStreamToken(input: { customerId: $id }) { token } }",
        {"id": customer_id},
        key=holder.key,
    )
    token: str = made["createStreamToken"]["token"]
    return token


async def ends(world: World, key: str) -> tuple[str, str]:
    stream = (await world.data(ENDS, key=key))["eventStream"]
    return stream["oldestCursor"], stream["latestCursor"]


async def position(world: World, account_id: str, cursor: str) -> int:
    async with world.database.reading() as session:
        return cursors.decode(world.services.keyring, await log.stream(session, account_id), cursor)


async def progress(reader: Reader) -> str:
    """The cursor of the next comment that has one."""
    while True:
        block = await reader.block()
        assert block is not None
        assert "event" not in block
        if "id" in block:
            return block["id"]


async def test_the_ends_of_the_log_differ_at_each_look_and_mean_the_same(
    small_world: World, holder: TestAccount, owner: Actor, served: Serving
) -> None:
    ada = await served.hub.customer(owner, "Ada")
    token = await bound_token(small_world, holder, ada.id)
    looks = [await ends(small_world, token) for _ in range(3)]
    await served.hub.customer(owner, "Bob")
    looks += [await ends(small_world, token) for _ in range(3)]
    shown = [cursor for look in looks for cursor in look]
    assert len(set(shown)) == len(shown) == 12
    found = [await position(small_world, holder.id, cursor) for cursor in shown]
    assert found == [0, 2] * 3 + [0, 3] * 3
    # A viewer of the whole account may compare cursors.
    assert await ends(small_world, holder.key) == await ends(small_world, holder.key)


async def test_an_idle_streams_progress_differs_each_time_and_resumes_it(
    small_world: World, holder: TestAccount, owner: Actor
) -> None:
    timing = Timing(check=0.02, rounds=1, idle=0.05)
    async with serving(small_world, timing=timing) as served:
        ada = await served.hub.customer(owner, "Ada")
        token = await bound_token(small_world, holder, ada.id)
        async with stream(served, token, CURSORS) as reader, stream(served, holder.key, CURSORS) as whole:
            told = [await progress(reader) for _ in range(3)]
            assert await progress(whole) == await progress(whole)
            await served.hub.customer(owner, "Bob")
            while await position(small_world, holder.id, told[-1]) < 3:
                told.append(await progress(reader))
        assert len(set(told)) == len(told)
        await served.hub.meter(owner, ada)
        _, latest = await ends(small_world, token)
        await served.hub.meter(owner, ada, "9999999999995")
        for after, count in ((told[0], 2), (told[-1], 2), (latest, 1)):
            async with stream(served, token, CURSORS, {"after": after}) as reader:
                heard = [await reader.event() for _ in range(count)]
                found = [await position(small_world, holder.id, cursor) for cursor, _ in heard]
                assert found == [4, 5][-count:]
