"""The scenarios of stand-ins, by name: declarations that the server base and each kind's server read."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


class Loss(enum.Enum):
    """The fate of a half-hour that the source should have and does not."""

    NOT_COLLECTED = "not collected"
    """The meter has not answered; the source leaves it out, or says so where it can."""
    INVALID = "invalid"
    """The meter has sent rubbish; the source has a value that it marks as such, or one that stands for none."""


@dataclass(frozen=True)
class Scenario:
    """The behaviour of a stand-in. The first group is about meters, the second about the server as a whole."""

    name: str
    says: str

    has_gaps: bool = False
    """Some half-hours and days are lost for good."""
    late_days: int = 0
    """So many of the newest days are not there until the stand-in is told that they arrive."""
    estimated_days: int = 0
    """So many of the newest days have other values, estimated where the source can say it, until the same moment."""
    has_exchange: bool = False
    """The meter was exchanged `EXCHANGED_DAYS_AGO`: two serial numbers, and an hour that neither has counted."""
    is_revoked: bool = False
    """The customer has ended the consent at the source."""
    is_empty: bool = False
    """The meter has never sent anything."""
    is_wrong_unit: bool = False
    """Values are in another unit than the source says."""
    is_clock_change_only: bool = False
    """Only days on which the clocks change, and the day before and after, have readings."""
    is_rubbish: bool = False
    """The answers about the meter are no readings."""
    is_slow: bool = False

    has_expired: bool = False
    """The source refuses the credentials."""
    fails_each: int = 0
    """Each request of this number gets a 503, a cut connection or a page of HTML, in turn."""
    quota: int = 0
    """So many requests are answered, then none until `QUOTA_SECONDS` after the first that is refused."""


EXCHANGED_DAYS_AGO: Final = 100
SLOW_SECONDS: Final = 0.4
QUOTA_SECONDS: Final = 2

COMPLETE: Final = Scenario("complete", "Every half-hour is there and actual.")
GAPS: Final = Scenario("gaps", "Half-hours and whole days are missing for good.", has_gaps=True)
REVOKED: Final = Scenario("revoked", "The customer has ended the consent at the source.", is_revoked=True)
SLOW: Final = Scenario("slow", "Each answer takes its time.", is_slow=True)
ESTIMATED: Final = Scenario(
    "estimated", "The newest three days are estimated first, and other values follow.", estimated_days=3
)
RUBBISH: Final = Scenario("rubbish", "The answers about the meter are no readings.", is_rubbish=True)

SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        COMPLETE,
        GAPS,
        Scenario("late", "The newest three days arrive late.", late_days=3),
        ESTIMATED,
        Scenario("exchange", f"Each meter was exchanged {EXCHANGED_DAYS_AGO} days ago.", has_exchange=True),
        Scenario("expired", "The source refuses the credentials.", has_expired=True),
        REVOKED,
        SLOW,
        Scenario("flaky", "One of four requests fails, each time in another way.", fails_each=4),
        Scenario("quota", f"After 5 requests none is answered for {QUOTA_SECONDS} seconds.", quota=5),
        Scenario("empty", "The meters have never sent anything.", is_empty=True),
        Scenario("wrong-unit", "Values are in another unit than the source says.", is_wrong_unit=True),
        Scenario(
            "clock-change",
            "Only days around the changes of the clocks have readings.",
            is_clock_change_only=True,
        ),
    )
}
"""Scenarios that a stand-in can be started with."""

TEST_METERS: Final[Mapping[str, Scenario]] = {
    **{f"999999999999{last}": COMPLETE for last in "56789"},
    "2400000000013": GAPS,
    "2400000000022": REVOKED,
    "2400000000031": SLOW,
    "2400000000040": ESTIMATED,
    "2400000000050": RUBBISH,
}
"""Meters that behave the same on every stand-in, whatever scenario it plays."""
