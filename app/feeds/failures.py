"""The meanings of a source's failures, which decide what happens next."""

import enum


class Meaning(enum.Enum):
    """Whose affair a failure is."""

    RETRY = "retry"
    """It passes: a cut connection, a 5xx, an answer that cannot be read. Asked again after a pause that grows."""
    WAIT = "wait"
    """The source asks for a pause: 429, a quota that is used up."""
    METER = "meter"
    """The source does not show this meter: unknown, or its consent there ended. Other meters go on."""
    FEED = "feed"
    """Credentials or settings are wrong: the feed rests until a person has mended them."""


class SourceFailure(Exception):
    """A source did not do what it was asked for.

    The message is a sentence for people that says what to do; it never holds credentials, nor a source's own words
    other than as `app.outbound.text.quotable` gives them. `retry_after` is in seconds, None if the source gave none.
    """

    def __init__(self, meaning: Meaning, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.meaning = meaning
        self.message = message
        self.retry_after = retry_after


def electricity_only(name: str) -> SourceFailure:
    """The failure for a gas meter at a source without gas."""
    return SourceFailure(
        Meaning.METER,
        f"{name} has electricity meters only: take this gas meter off the feed with setMeterFeed.",
    )
