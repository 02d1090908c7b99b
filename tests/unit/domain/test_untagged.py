"""Which change of a value counts as untagged, and what becomes of it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.events import UntaggedWrite
from consumers.domain.untagged import SAVE_DELAY, SKEW, Held, Seen, on_record, on_value

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
OLD, NEW = "a" * 64, "b" * 64


def mark(**changes: object) -> UntaggedWrite:
    facts: dict[str, object] = {
        "root": "customer/1", "customer_id": 1, "attribute": "fraud_score", "since": NOON, "seen_at": NOON + HOUR,
        "record_at": NOON - 30 * HOUR,
    }  # fmt: skip
    return UntaggedWrite.model_validate(facts | changes)


def change(
    held: Held | None, hmac: str | None, newest_at: datetime | None, open_mark: UntaggedWrite | None = None
) -> tuple[Held | None, tuple[UntaggedWrite, ...]]:
    seen = Seen(hmac, NOON + HOUR, NOON, newest_at)
    return on_value("customer/1", 1, "fraud_score", held, seen, open_mark)


RECORDED = Held(OLD, NOON - 30 * HOUR, NOON - 30 * HOUR)
UNRECORDED = Held(OLD, NOON - 30 * HOUR, None)
CLOSED = mark(since=None, seen_at=NOON - 30 * HOUR, until=NOON + HOUR, record_at=None)


@pytest.mark.parametrize(
    ("held", "hmac", "newest_at", "expected"),
    [
        (RECORDED, OLD, None, ()),
        (None, NEW, None, ()),
        (RECORDED, NEW, RECORDED.record_at, (mark(),)),
        (RECORDED, NEW, NOON + HOUR, ()),
        (RECORDED, NEW, NOON - SAVE_DELAY, ()),
        (RECORDED, NEW, NOON - SAVE_DELAY - timedelta(seconds=1), (mark(),)),
        (RECORDED, None, RECORDED.record_at, ()),
        (UNRECORDED, NEW, None, ()),
        (UNRECORDED, NEW, NOON + HOUR, (CLOSED,)),
        (UNRECORDED, NEW, UNRECORDED.seen_at + SKEW, ()),
        (UNRECORDED, None, None, (CLOSED,)),
    ],
    ids=[
        "the same value again",
        "first sight",
        "changed without a new record",
        "changed with one",
        "generated a day before it was saved",
        "a record too old for this change, of a score that came out the same",
        "a recorded value removed",
        "never recorded, and still not",
        "never recorded until now",
        "its record came late",
        "never recorded, and removed",
    ],
)
def test_a_change_needs_a_record_of_its_own(
    held: Held | None, hmac: str | None, newest_at: datetime | None, expected: tuple[UntaggedWrite, ...]
) -> None:
    assert change(held, hmac, newest_at)[1] == expected


def test_one_record_explains_one_change() -> None:
    held, marks = change(RECORDED, NEW, NOON)
    assert (held, marks) == (Held(NEW, NOON + HOUR, NOON), ())
    _, marks = change(held, OLD, NOON)
    assert marks == (mark(record_at=NOON),)


def test_the_next_change_ends_an_untagged_value() -> None:
    held, (first,) = change(RECORDED, NEW, RECORDED.record_at)
    _, marks = change(held, OLD, NOON + HOUR, first)
    assert marks == (first.model_copy(update={"until": NOON + HOUR}),)


@pytest.mark.parametrize(
    ("newest_at", "becomes"),
    [
        (mark().record_at, mark()),
        (NOON - SAVE_DELAY, None),
        (NOON + HOUR + SKEW, None),
        (NOON - SAVE_DELAY - timedelta(seconds=1), mark()),
        (NOON + 2 * HOUR, mark(until=NOON + 2 * HOUR)),
    ],
    ids=["nothing new", "recorded late", "a clock ahead", "of another time", "of a later write"],
)
def test_a_record_takes_a_mark_away_only_if_it_is_for_that_write(
    newest_at: datetime, becomes: UntaggedWrite | None
) -> None:
    assert on_record(mark(), newest_at) == becomes


@given(
    st.lists(st.tuples(st.integers(1, 72), st.booleans()), min_size=2, max_size=8),
)
def test_what_no_record_names_is_marked_for_as_long_as_it_stood(steps: list[tuple[int, bool]]) -> None:
    """Values change one after the other, some with their record: every other one is covered by a mark throughout."""
    at, newest_at, held, open_mark = NOON, None, None, None
    marks: dict[datetime, UntaggedWrite] = {}
    stood: list[tuple[datetime, datetime, bool]] = []
    previous, tagged = NOON, True
    for number, (hours, with_record) in enumerate([(1, True), *steps]):
        last, at = at, at + hours * HOUR
        if number:
            stood.append((previous, at, tagged))
        previous, tagged = at, with_record
        newest_at = at if with_record else newest_at
        seen = Seen(f"{number:064x}", at, last, newest_at)
        held, changed = on_value("customer/1", 1, "fraud_score", held, seen, open_mark)
        for each in changed:
            marks[each.seen_at] = each
        open_mark = next((each for each in marks.values() if each.until is None), None)
    for start, end, explained in stood:
        covering = [
            each
            for each in marks.values()
            if (each.since is None or each.since <= start) and (each.until is None or each.until >= end)
        ]
        assert explained or covering
