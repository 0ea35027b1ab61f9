"""The next claims and attempts: limits that are earned, turns of accounts, destinations and lanes."""

from itertools import count
from typing import Any

from app.delivery.queue.destination_queue import FIRST_LIMIT, MOST_AHEAD
from app.delivery.queue.leases import Claim, Wanted
from app.delivery.queue.models import Lane
from app.delivery.queue.scheduler import Scheduler

_numbers = count(1)
NOW = 1000.0


def claim(destination_id: str, lane: int = Lane.FRESH, account_id: str = "acc_1") -> Claim:
    values: dict[str, Any] = dict.fromkeys(Claim.__slots__)
    values |= {"id": f"dlv_{next(_numbers):03}", "account_id": account_id, "destination_id": destination_id}
    return Claim(**values | {"lane": lane, "expires_at": NOW})


def scheduler(most: int = 20, most_in_flight: int = 400) -> Scheduler:
    return Scheduler(most, most_in_flight)


def succeed(board: Scheduler, destination_id: str, times: int, seconds: float = 0.01) -> None:
    for _ in range(times):
        board.add(claim(destination_id))
        (sent,) = board.next_sends(0.0)
        board.finished(sent, True, seconds)


def test_a_new_destination_begins_small() -> None:
    board = scheduler()
    board.mark_due("whe_1", Lane.FRESH)
    assert board.plan(200, NOW) == [Wanted("whe_1", Lane.FRESH, FIRST_LIMIT)]
    for _ in range(10):
        board.add(claim("whe_1"))
    assert len(list(board.next_sends(0.0))) == FIRST_LIMIT
    assert (board.in_flight, board.queued) == (4, 6)


def test_successes_earn_room_and_failures_take_it() -> None:
    board = scheduler()
    succeed(board, "whe_1", 30)
    assert board["whe_1"].limit == 20
    assert board["whe_1"].window == 20 * MOST_AHEAD
    for limit in (10, 5, 2.5, 1.25, 1, 1):
        board.add(claim("whe_1"))
        (sent,) = board.next_sends(0.0)
        board.finished(sent, False, 0.01)
        assert board["whe_1"].limit == limit
    assert board["whe_1"].window == 1


def test_a_failing_destination_is_probed_with_growing_pauses() -> None:
    board = scheduler()
    succeed(board, "whe_1", 1)
    pauses = []
    for _ in range(11):
        board.add(claim("whe_1"))
        (sent,) = board.next_sends(0.0)
        board.finished(sent, False, 0.01)
        pauses.append(board["whe_1"].probe_pause(300))
    assert pauses == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0, 5.0]
    # With a short schedule the pauses are short, too.
    assert board["whe_1"].probe_pause(0.5) == 0.05
    succeed(board, "whe_1", 1)
    assert board["whe_1"].probe_pause(300) == 0.0


def test_a_slow_destination_is_not_claimed_far_ahead() -> None:
    board = scheduler()
    succeed(board, "whe_1", 30, seconds=3.0)
    assert board["whe_1"].window == 20


def test_a_destination_that_slows_down_goes_to_one_at_once_and_gives_back_the_rest() -> None:
    board = scheduler()
    succeed(board, "whe_1", 30)
    for _ in range(25):
        board.add(claim("whe_1"))
    sent = list(board.next_sends(0.0))
    assert len(sent) == 20
    dropped = board.finished(sent[0], False, 0.01, slow_down=True)
    assert len(dropped) == 5
    assert (board.in_flight, board.queued, board["whe_1"].limit) == (19, 0, 1)


def test_claims_come_in_batches() -> None:
    board = scheduler()
    succeed(board, "whe_1", 30)
    for _ in range(401):
        board.add(claim("whe_1"))
    board.mark_due("whe_1", Lane.FRESH)
    # 800 may be held; only with half of them free is there anything to claim.
    assert board.plan(400, NOW) == []
    board.finished(next(board.next_sends(0.0)), True, 0.01)
    assert board.plan(400, NOW) == [Wanted("whe_1", Lane.FRESH, 400)]


def test_a_planned_lane_counts_as_done_until_it_is_marked_again() -> None:
    board = scheduler()
    board.mark_due("whe_1", Lane.FRESH)
    assert len(board.plan(200, NOW)) == 1
    assert board.plan(200, NOW) == []


def test_the_budget_is_shared_by_all_destinations() -> None:
    board = scheduler()
    for number in range(10):
        succeed(board, f"whe_{number}", 30)
        board.mark_due(f"whe_{number}", Lane.FRESH)
    assert [one.count for one in board.plan(200, NOW)] == [20] * 10


def test_more_destinations_than_budget_take_turns() -> None:
    board = scheduler()
    names = [f"whe_{number}" for number in range(6)]
    for name in names:
        board.mark_due(name, Lane.FRESH)
    assert [one.destination_id for one in board.plan(4, NOW)] == names[:4]
    board.mark_due(names[0], Lane.FRESH)
    assert [one.destination_id for one in board.plan(4, NOW)] == [names[4], names[5], names[0]]


def test_claims_go_round_the_accounts() -> None:
    board = scheduler()
    for destination, account in (("whe_1", "a"), ("whe_2", "a"), ("whe_3", "a"), ("whe_4", "b")):
        board[destination].account_id = account
        board.mark_due(destination, Lane.FRESH)
    assert [one.destination_id for one in board.plan(2, NOW)] == ["whe_1", "whe_4"]


def test_lanes_take_turns_so_that_a_replay_delays_nothing() -> None:
    board = scheduler()
    board["whe_1"].limit = 3
    for _ in range(5):
        board.add(claim("whe_1", Lane.REPLAY))
    board.add(claim("whe_1", Lane.RETRY))
    board.add(claim("whe_1", Lane.FRESH))
    assert [one.lane for one in board.next_sends(0.0)] == [Lane.FRESH, Lane.RETRY, Lane.REPLAY]


def test_sends_go_round_the_accounts_when_places_are_few() -> None:
    board = scheduler(most_in_flight=4)
    for destination in ("whe_1", "whe_2", "whe_3"):
        for _ in range(3):
            board.add(claim(destination, account_id="big"))
    for _ in range(3):
        board.add(claim("whe_4", account_id="small"))
    sent = [one.destination_id for one in board.next_sends(0.0)]
    assert sent == ["whe_1", "whe_4", "whe_2", "whe_4"]


def test_one_account_leaves_places_and_room_for_others() -> None:
    board = scheduler(most_in_flight=40)
    for number in range(20):
        board[f"whe_{number}"].limit = 20
        for _ in range(20):
            board.add(claim(f"whe_{number}", account_id="big"))
    sent = list(board.next_sends(0.0))
    assert len(sent) == 30
    board.add(claim("whe_small", account_id="small"))
    assert [one.destination_id for one in board.next_sends(0.0)] == ["whe_small"]
    # Deliveries that it holds count against its share of the claims as well.
    board.mark_due("whe_0", Lane.FRESH)
    board["whe_0"].pace = 0.001
    board.mark_due("whe_new", Lane.FRESH)
    assert [one.destination_id for one in board.plan(100, NOW, room=100)] == ["whe_new"]
    # Its turn comes again with the places that become free.
    board.finished(sent[0], True, 0.01)
    assert [one.account_id for one in board.next_sends(0.0)] == ["big"]


def test_accounts_without_anything_under_way_need_not_wait_for_a_batch() -> None:
    board = scheduler()
    succeed(board, "whe_1", 1)
    board.add(claim("whe_1"))
    for name in ("whe_1", "whe_2"):
        board.mark_due(name, Lane.FRESH)
    assert [one.destination_id for one in board.plan(9, NOW, newcomers=True)] == ["whe_2"]
    assert [one.destination_id for one in board.plan(9, NOW)] == ["whe_1"]


def test_failing_destinations_take_half_of_the_places_at_most() -> None:
    board = scheduler(most_in_flight=4)
    dead = [f"whe_{number}" for number in range(6)]
    for name in dead:
        board[name].limit = 1
        board.add(claim(name, account_id=name))
    first = list(board.next_sends(0.0))
    assert [one.destination_id for one in first] == dead[:2]
    board.add(claim("whe_good"))
    assert [one.destination_id for one in board.next_sends(0.0)] == ["whe_good"]
    # With one of them gone the next has its place.
    board.finished(first[0], False, 5)
    assert [one.destination_id for one in board.next_sends(0.0)] == [dead[2]]


def test_a_paused_destination_waits() -> None:
    board = scheduler()
    board.add(claim("whe_1"))
    assert len(board.pause("whe_1", NOW + 5)) == 1
    board.mark_due("whe_1", Lane.FRESH)
    assert board.plan(200, NOW) == []
    assert board.next_pause_end(NOW) == NOW + 5
    assert len(board.plan(200, NOW + 5)) == 1


def test_all_that_is_queued_can_be_taken_back() -> None:
    board = scheduler()
    for number in range(6):
        board.add(claim("whe_1" if number % 2 else "whe_2"))
    list(board.next_sends(0.0))
    assert len(board.drop_all()) == board.queued == 0
