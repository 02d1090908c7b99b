"""Coverage: when "nobody" may be said, and in which stretches nobody would have seen a write, half hour by half hour."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.events import Coverage, Unwatched, WatchStarted
from consumers.domain.coverage import (
    EVERYTHING,
    LONGEST_SILENCE,
    gaps_in_words,
    is_complete,
    merged_coverage,
    resumed,
    unwatched_stretches,
)

T = datetime(2026, 3, 1, tzinfo=UTC)


def hours(number: float) -> datetime:
    return T + timedelta(hours=number)


@pytest.mark.parametrize(
    ("recorded_since", "untagged", "unwatched", "expected"),
    [
        (hours(-1), 0, (), True),
        (hours(0), 0, (), True),
        (hours(1), 0, (), False),
        (hours(-1), 1, (), False),
        (None, 0, (), False),
        (hours(-1), 0, (Unwatched(since=hours(1), until=hours(2)),), False),
        (hours(-1), 0, (Unwatched(since=None, until=None),), False),
    ],
)
def test_nobody_may_be_said_only_with_complete_coverage(
    recorded_since: datetime | None, untagged: int, unwatched: tuple[Unwatched, ...], expected: bool
) -> None:
    coverage = Coverage(
        model_id="m", attribute="a", recorded_since=recorded_since, untagged_count=untagged, unwatched=unwatched
    )
    assert is_complete([coverage], T) is expected
    assert bool(gaps_in_words(coverage, T)) is not expected
    assert not is_complete([], T)
    assert not is_complete([coverage], None)


def test_a_silence_of_the_heartbeat_is_noted_and_a_restart_is_not() -> None:
    beats = [T, T + LONGEST_SILENCE, T + LONGEST_SILENCE * 3, T + LONGEST_SILENCE * 2, T + LONGEST_SILENCE * 4]
    (noted,) = resumed(beats, None)
    assert (noted.after, noted.at) == (T + LONGEST_SILENCE, T + LONGEST_SILENCE * 3)
    assert resumed(beats[:1], T - LONGEST_SILENCE) == []
    assert [each.after for each in resumed(beats[:1], T - LONGEST_SILENCE * 2)] == [T - LONGEST_SILENCE * 2]


_HOURS = st.integers(0, 12)


@given(
    first=st.none() | _HOURS,
    silences=st.lists(st.tuples(_HOURS, st.integers(1, 4)), max_size=3),
    window=st.tuples(st.none() | _HOURS, st.none() | _HOURS),
)
def test_unwatched_stretches_are_the_hours_in_which_nobody_looked(
    first: int | None, silences: list[tuple[int, int]], window: tuple[int | None, int | None]
) -> None:
    start, end = window
    if start is not None and end is not None and start > end:
        start, end = end, start
    watched = [WatchStarted(attribute=EVERYTHING, at=hours(at + length), after=hours(at)) for at, length in silences]
    watched += [] if first is None else [WatchStarted(attribute="a", at=hours(first))]
    watched.append(WatchStarted(attribute="b", at=hours(0)))
    found = unwatched_stretches(
        watched, "a", None if start is None else hours(start), None if end is None else hours(end)
    )
    for half in range(-2, 40):
        at = half / 2 + 0.25
        if (start is not None and at < start) or (end is not None and at > end):
            continue
        blind = first is None or at < first or any(since < at < since + length for since, length in silences)
        said = any(
            (each.since is None or each.since < hours(at)) and (each.until is None or hours(at) < each.until)
            for each in found
        )
        assert said is blind
    assert list(found) == sorted(found, key=lambda each: (each.since is not None, each.since or T))


def test_what_one_partition_saw_counts_for_all_and_silences_for_everybody() -> None:
    early = Coverage(
        model_id="m", attribute="a", recorded_since=hours(1), loaded_since=hours(-9), untagged_count=2,
        unwatched=(Unwatched(since=None, until=hours(2)), Unwatched(since=hours(5), until=hours(6))),
    )  # fmt: skip
    late = Coverage(
        model_id="m", attribute="a", recorded_since=None, untagged_count=1, untagged_since=hours(3),
        unwatched=(Unwatched(since=None, until=None),),
    )  # fmt: skip
    for parts in ([early], [late]), ([late], [early]):
        assert merged_coverage(parts) == (early.model_copy(update={"untagged_count": 3, "untagged_since": hours(3)}),)
    other = Coverage(model_id="m", attribute="a", recorded_since=hours(0))
    assert [each.unwatched for each in merged_coverage([[early], [other]])] == [
        (Unwatched(since=hours(5), until=hours(6)),)
    ]
