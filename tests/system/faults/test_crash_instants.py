"""Servers are killed at twenty random instants, or a thousand with `--all`: nothing that was to happen is lost."""

import random

from tests.system.faults.load import Load
from tests.system.faults.rig import Rig
from tests.system.faults.running import live, recover

WEIGHTS = {
    "createCustomer": 8,
    "createMeter": 4,
    "createHostedConsent": 1,
    "createEmailSubscription": 1,
}
START_SECONDS = 0.3
"""About what a start takes."""

BUSY_SECONDS = 0.2


async def test_servers_killed_at_random_instants_lose_nothing(rig: Rig, seed: str, thorough: bool) -> None:
    kills = 1_000 if thorough else 20
    chance = random.Random(seed)
    loads = [Load(await rig.tenant(), random.Random(f"{seed}.{number}"), WEIGHTS) for number in range(2)]
    for _ in range(kills):
        victim = await rig.start()
        when = chance.choices(["starting", "soon", "busy"], [1, 2, 4])[0]
        if when == "starting":
            await rig.kill_after(victim, chance.uniform(0, START_SECONDS))
            await rig.bury(victim)
        elif when == "soon":
            await live(rig, loads, victim, after=chance.uniform(0, BUSY_SECONDS))
        else:
            # However slow the machine, something is under way everywhere by then.
            await live(rig, loads, victim, answers=chance.randint(1, 8), after=chance.uniform(0, 0.03))
    repeated = await recover(rig, loads)

    killed = [one.killed for one in rig.incarnations]
    assert killed == [True] * kills + [False]
    events = sum(len(load.tenant.following.events) for load in loads)
    answered = sum(load.answers for load in loads)
    unanswered = sum(load.unanswered for load in loads)
    asked_again = sum(load.repeated for load in loads)
    connections = sum(load.tenant.following.connections for load in loads)
    print(
        f"{kills} kills: {events} events, {answered} mutations answered, {unanswered} not, {asked_again} asked again, "
        f"{connections} connections of consumers, {repeated} deliveries twice or more"
    )
    # Some answers were cut off, and some deliveries were on their way.
    assert answered > kills
    assert asked_again > kills // 10
    assert repeated > 0
