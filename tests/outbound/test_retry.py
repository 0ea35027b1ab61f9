"""Verdicts, delays and Retry-After."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.settings import Settings
from app.delivery.queue.models import DeliveryStatus
from app.outbound.attempt import Attempt, AttemptOutcome
from app.outbound.retry import Fate, Verdict, next_delay, parse_retry_after, verdict

RETRY_SCHEDULE = Settings.model_fields["webhook_retry_schedule"].default
NOW = datetime(2026, 11, 24, 22, 29, 55, tzinfo=UTC)


def answered(status: int, retry_after: str | None = None) -> Attempt:
    outcome = AttemptOutcome.SUCCEEDED if 200 <= status < 300 else AttemptOutcome.HTTP_STATUS
    return Attempt(
        0, 5, outcome, status=status, error=f"The receiver answered {status}.", retry_after=retry_after
    )


def mail_refused(status: int, enhanced: str | None = None, *, recipient: bool = False) -> Attempt:
    return Attempt(
        0,
        5,
        AttemptOutcome.SMTP,
        status=status,
        error="No.",
        enhanced_status=enhanced,
        recipient_refused=recipient,
    )


def judge(exchange: Attempt, attempt: int = 1, schedule: tuple[float, ...] = (100, 200)) -> Verdict:
    return verdict(exchange, attempt, schedule)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_done(status: int) -> None:
    assert judge(answered(status), attempt=10) == Verdict(Fate.SUCCEEDED)


def test_410_gives_up_and_disables() -> None:
    expected = Verdict(Fate.EXHAUSTED, disable=True, reason="The receiver answered 410.")
    assert judge(answered(410, retry_after="60")) == expected


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_overloaded_receiver_is_slowed_down(status: int) -> None:
    found = judge(answered(status))
    assert (found.fate, found.slow_down, found.disable) == (Fate.FAILED, True, False)
    assert judge(answered(status), attempt=3) == Verdict(
        Fate.EXHAUSTED, slow_down=True, reason=f"The receiver answered {status}."
    )


@pytest.mark.parametrize(
    "status", [101, 300, 301, 302, 304, 307, 308, 400, 401, 404, 408, 413, 422, 500, 501, 599]
)
def test_every_other_status_is_tried_again(status: int) -> None:
    found = judge(answered(status))
    assert (found.fate, found.slow_down, found.disable) == (Fate.FAILED, False, False)
    assert found.delay is not None
    assert 80 <= found.delay <= 120


@pytest.mark.parametrize("name", ["TIMEOUT", "DNS", "TLS", "CONNECTION", "BLOCKED_ADDRESS"])
def test_transport_errors_are_tried_again_until_the_end(name: str) -> None:
    exchange = Attempt(0, 5, AttemptOutcome[name], error="Sentence.")
    assert judge(exchange).fate is Fate.FAILED
    assert judge(exchange, attempt=2).fate is Fate.FAILED
    assert judge(exchange, attempt=3) == Verdict(Fate.EXHAUSTED, reason="Sentence.")


def test_an_empty_schedule_means_one_attempt() -> None:
    assert judge(answered(500), schedule=()).fate is Fate.EXHAUSTED


@pytest.mark.parametrize("status", [429, 503, 500, 301, 404])
def test_a_later_retry_after_wins_and_never_comes_early(status: int) -> None:
    delays = [verdict(answered(status, "1000"), 1, (100,)).delay for _ in range(50)]
    assert all(delay is not None and 1000 <= delay <= 1200 for delay in delays)
    assert len(set(delays)) == 50  # told the same moment, they do not come back at the same moment


@pytest.mark.parametrize("value", ["1", "0", "garbage", "-5", "", None, "Tue, 24 Nov 2020 00:00:00 GMT"])
def test_an_earlier_or_unreadable_retry_after_leaves_the_schedule(value: str | None) -> None:
    delay = judge(answered(503, value)).delay
    assert delay is not None
    assert 80 <= delay <= 120


def test_retry_after_is_at_most_a_day() -> None:
    assert judge(answered(503, "99999999999")).delay == 86400


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        (mail_refused(421), Fate.FAILED),
        (mail_refused(450, "4.2.1"), Fate.FAILED),
        (mail_refused(452), Fate.FAILED),
        (mail_refused(550, "5.7.1"), Fate.EXHAUSTED),
        (mail_refused(552), Fate.EXHAUSTED),
        (mail_refused(554), Fate.EXHAUSTED),
        (mail_refused(550, "5.7.1", recipient=True), Fate.EXHAUSTED),
        # A passing failure, whatever the code beside it says.
        (mail_refused(450, "5.1.1", recipient=True), Fate.FAILED),
        # About our login or encryption, not about this mail.
        (mail_refused(530, "5.7.0"), Fate.FAILED),
        (mail_refused(535, "5.7.8"), Fate.FAILED),
        # The connection as such was refused.
        (Attempt(0, 5, AttemptOutcome.CONNECTION, status=554), Fate.FAILED),
    ],
)
def test_smtp_replies(exchange: Attempt, expected: Fate) -> None:
    found = judge(exchange)
    assert (found.fate, found.disable, found.slow_down) == (expected, False, False)


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.3", "5.1.6", "5.1.10"])
def test_a_recipient_that_does_not_exist_suspends(enhanced: str) -> None:
    found = judge(mail_refused(550, enhanced, recipient=True))
    assert found == Verdict(Fate.EXHAUSTED, disable=True, reason="No.")


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.3", "5.1.6", "5.1.10"])
def test_the_same_codes_about_anything_else_suspend_nobody(enhanced: str) -> None:
    assert judge(mail_refused(550, enhanced)) == Verdict(Fate.EXHAUSTED, reason="No.")


def test_delays_are_the_schedule_with_a_fifth_of_jitter() -> None:
    for number, base in enumerate(RETRY_SCHEDULE, start=1):
        delays = [next_delay(number, RETRY_SCHEDULE) for _ in range(500)]
        found = [delay for delay in delays if delay is not None]
        assert len(found) == 500
        assert base * 0.8 <= min(found) < base * 0.82
        assert base * 1.18 < max(found) <= base * 1.2
    assert next_delay(len(RETRY_SCHEDULE) + 1, RETRY_SCHEDULE) is None


def test_the_schedule_is_three_days() -> None:
    assert timedelta(days=3) < timedelta(seconds=sum(RETRY_SCHEDULE)) < timedelta(days=3, hours=6)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("00120", 120),
        ("86400", 86400),
        ("86401", 86400),
        ("9" * 6000, 86400),
        ("Tue, 24 Nov 2026 22:30:55 GMT", 60),
        ("Tuesday, 24-Nov-26 22:30:55 GMT", 60),
        ("Tue, 24 Nov 2026 23:30:55 +0100", 60),
        ("Tue Nov 24 22:30:55 2026", 60),
        ("Tue, 24 Nov 2026 22:28:55 GMT", 0),
        ("Tue, 24 Nov 1903 22:28:55 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("١٢", None),
        ("²", None),
        ("Tue, 99 Nov 2026 22:30:55 GMT", None),
        ("Tue, 24 Nov 2026 22:30:55 +999999999999", None),
        ("120, 240", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW.timestamp()) == seconds


@given(st.text())
def test_retry_after_takes_anything(value: str) -> None:
    found = parse_retry_after(value, NOW.timestamp())
    assert found is None or 0 <= found <= 86400


@given(st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001
def test_retry_after_takes_any_date(moment: datetime) -> None:
    aware = moment.replace(microsecond=0, tzinfo=UTC)
    expected = min(max((aware - NOW).total_seconds(), 0), 86400)
    assert parse_retry_after(format_datetime(aware, usegmt=True), NOW.timestamp()) == expected


def test_fates_are_statuses_of_a_delivery() -> None:
    assert [DeliveryStatus(fate.value).name for fate in Fate] == ["SUCCEEDED", "FAILED", "EXHAUSTED"]
