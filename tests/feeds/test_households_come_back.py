"""Any household over any window comes back exactly as it was, by the requests and answers of every kind."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.feeds.kinds import SOURCE_KINDS
from app.feeds.source import SourceKind, Window
from app.feeds.stand_ins.households import half_hour, instant_of
from app.readings.enums import ReadingChannel
from tests.batteries import examples
from tests.feeds.asking import YEAR
from tests.feeds.twisted import Conversation

FIRST, LAST = half_hour(YEAR.start), half_hour(YEAR.end)
CHANGES = [half_hour(datetime(*day, 1, tzinfo=UTC)) for day in ((2025, 3, 30), (2025, 10, 26), (2026, 3, 29))]
LONGEST = half_hour(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=12))

lengths = st.integers(1, LONGEST)
anywhere = st.tuples(st.integers(FIRST, LAST - 1), lengths)
over_a_change = st.tuples(st.sampled_from(CHANGES), st.integers(-60, 60), lengths).map(
    lambda drawn: (max(FIRST, min(drawn[0] + drawn[1], LAST - 1)), drawn[2])
)


@pytest.mark.parametrize("kind", SOURCE_KINDS.values(), ids=[kind.name for kind in SOURCE_KINDS])
@examples(12)
@given(seed=st.integers(1, 10**6), drawn=st.one_of(over_a_change, anywhere))
async def test_households_come_back(kind: SourceKind, seed: int, drawn: tuple[int, int]) -> None:
    start, length = drawn
    window = Window(instant_of(start), instant_of(min(start + length, LAST)))
    conversation = Conversation(kind, "Home", window, seed)
    async with conversation.source() as source:
        found = await source.fetch(conversation.meter, window)
    household = conversation.stand_in.meters[conversation.meter.number].household
    assert found.readings == {ReadingChannel.IMPORT: household.truth(window)}
    assert list(found.missing) == []
    assert conversation.stand_in.counts.refused == []
