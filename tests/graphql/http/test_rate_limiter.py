"""Token buckets of clients."""

from app.graphql.http.rate_limiter import RateLimiter, retry_after


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_second_gives_as_many_requests_as_the_rate() -> None:
    limiter = RateLimiter(2, clock=Clock())
    assert [limiter.take("a") for _ in range(3)] == [None, None, 0.5]
    # Each client has a bucket of its own.
    assert limiter.take("b") is None


def test_waiting_fills_the_bucket() -> None:
    clock = Clock()
    limiter = RateLimiter(4, clock=clock)
    assert [limiter.take("a") for _ in range(5)] == [None, None, None, None, 0.25]
    clock.now += 0.125
    assert limiter.take("a") == 0.125
    clock.now += 0.125
    assert [limiter.take("a") for _ in range(2)] == [None, 0.25]
    clock.now += 100
    assert [limiter.take("a") for _ in range(5)] == [None, None, None, None, 0.25]


def test_a_slow_rate_still_lets_one_through() -> None:
    limiter = RateLimiter(0.01, clock=Clock())
    assert [limiter.take("a") for _ in range(2)] == [None, 100]
    assert [retry_after(wait) for wait in (100, 0.01, 1.2)] == ["100", "1", "2"]


def test_so_many_buckets_are_kept_and_the_oldest_goes() -> None:
    limiter = RateLimiter(1, capacity=2, clock=Clock())
    assert [limiter.take(who) for who in "abc"] == [None] * 3
    assert limiter.take("c") == 1
    # It was forgotten, so it begins anew.
    assert limiter.take("a") is None
    limiter.give_back("b")
    assert len(limiter._buckets) == 2
