"""Counting at its borders: months that are too short, weekends, holidays, inclusive days, the end of the year."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput
from consumers.domain.deadlines import add_months, deadline, is_business_day, parse_period, relief

NOON = datetime(2026, 8, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "months", "ends"),
    [
        (date(2026, 8, 31), 1, date(2026, 9, 30)),
        (date(2026, 1, 31), 1, date(2026, 2, 28)),
        (date(2028, 1, 31), 1, date(2028, 2, 29)),
        (date(2026, 12, 31), 2, date(2027, 2, 28)),
        (date(2026, 11, 15), 1, date(2026, 12, 15)),
    ],
)
def test_a_month_is_clamped_and_never_overflows(day: date, months: int, ends: date) -> None:
    assert add_months(day, months) == ends


def test_the_day_of_the_event_may_be_day_one() -> None:
    ends = deadline(NOON, parse_period("P30D"), "end_of_day_inclusive", "Asia/Tokyo", "JP")
    assert ends == datetime(2026, 9, 29, 14, 59, 59, tzinfo=UTC)


def test_sixty_days_after_the_year_end_on_the_last_evening_of_the_year() -> None:
    discovered_at = datetime(2027, 1, 1, 4, 30, tzinfo=UTC)  # 31 December 2026, 23:30 in New York
    ends = deadline(discovered_at, parse_period("P60D_after_calendar_year_end"), "end_of_day", "America/New_York", "US")
    assert ends == datetime(2027, 3, 2, 4, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "calendar", "counts"),
    [
        (date(2026, 3, 3), "US-VT", False),  # Town Meeting Day
        (date(2026, 3, 3), "US", True),
        (date(2026, 4, 20), "US-ME", False),  # Patriots' Day
        (date(2026, 11, 27), "US-IA", True),  # day after Thanksgiving
        (date(2026, 10, 3), "DE", False),
        (date(2026, 7, 14), "FR", False),
        (date(2026, 7, 14), "DE", True),
    ],
)
def test_business_days_follow_the_jurisdiction(day: date, calendar: str, counts: bool) -> None:
    assert is_business_day(day, calendar) is counts


def test_relief_is_noon_of_the_next_working_day_over_easter() -> None:
    friday = datetime(2026, 4, 3, 10, tzinfo=UTC)  # Good Friday
    assert relief(friday, "noon_next_working_day", "Europe/Berlin", "DE") == datetime(2026, 4, 7, 10, tzinfo=UTC)
    assert relief(datetime(2026, 4, 7, 10, tzinfo=UTC), "noon_next_working_day", "Europe/Berlin", "DE") is None


@pytest.mark.parametrize("text", ["72h", "P", "PT", "P3", "PT3D", "P1Y", "without_undue_delay", "P-3D", "P1M2D"])
def test_what_is_no_period_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no period"):
        parse_period(text)


@given(
    started_at=st.datetimes(datetime(2018, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    period=st.sampled_from(["PT4H", "PT72H", "P2D", "P30D", "P5BD", "P1M", "P60D_after_calendar_year_end"]),
    zone=st.sampled_from(["Europe/Berlin", "America/Los_Angeles", "Pacific/Auckland"]),
    kind=st.sampled_from(["noon_next_working_day", "next_working_day"]),
)
def test_a_deadline_lies_ahead_and_relief_is_never_before_it(
    started_at: datetime, period: str, zone: str, kind: str
) -> None:
    ends = deadline(started_at, parse_period(period), "end_of_day", zone, "DE")
    assert ends > started_at
    relieved = relief(ends, kind, zone, "DE")
    assert relieved is None or relieved > ends
