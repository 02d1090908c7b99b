"""What the accounts' numbers mean: how long sending takes, and when it slows down."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.accounts import (
    EmailAccount,
    Reputation,
    ReputationBounds,
    missing_numbers,
    per_call,
    reputation_level,
    seconds_to_send,
    slowed,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BOUNDS = ReputationBounds()
DAY = 86_400


def test_what_the_quota_lets_through_takes_the_rate_alone() -> None:
    assert seconds_to_send(1400, 14, quota=50_000, left=50_000) == 100
    assert seconds_to_send(1400, 14) == 100
    assert seconds_to_send(0, 14, quota=0, left=0) == 0


def test_what_the_quota_does_not_let_through_waits_for_the_next_day_or_goes_over_the_second_provider() -> None:
    assert seconds_to_send(1500, 10, quota=1000, left=400) == 2 * DAY + 10
    assert seconds_to_send(1400, 10, quota=1000, left=400) == DAY + 100
    assert seconds_to_send(1500, 10, quota=1000, left=400, overflow=20) == 40 + 55
    assert seconds_to_send(1, 10, quota=0, left=0) == math.inf


@given(st.integers(1, 10**6), st.integers(1, 10**5), st.integers(0, 10**5), st.integers(1, 500))
def test_in_no_day_does_more_leave_than_the_quota(count: int, quota: int, left: int, rate: int) -> None:
    took = seconds_to_send(count, rate, quota=quota, left=min(left, quota))
    assert took >= count / rate
    assert count <= min(left, quota) + quota * math.ceil(took / DAY)


def test_an_account_without_a_limit_has_nothing_left_to_count() -> None:
    account = EmailAccount(NOW, 14, None, 10**9, production_access=True, sending_enabled=True, enforcement="HEALTHY")
    assert account.left is None
    assert EmailAccount(NOW, 14, 200, 300, True, True, "HEALTHY").left == 0


@pytest.mark.parametrize(
    ("taken", "bounced", "complained", "expected"),
    [
        (1000, 49, 0, "ok"),
        (1000, 50, 0, "review"),
        (1000, 100, 0, "pause"),
        (1000, 0, 1, "review"),
        (1000, 0, 5, "pause"),
        (999, 999, 999, "ok"),
    ],
)
def test_sending_slows_down_at_the_shares_at_which_ses_reviews_and_pauses(
    taken: int, bounced: int, complained: int, expected: str
) -> None:
    assert reputation_level(Reputation(taken, bounced, complained), BOUNDS) == expected


def test_no_level_of_reputation_stops_sending() -> None:
    assert [slowed(100, level, BOUNDS) for level in ("ok", "review", "pause")] == [100, 50, 10]
    assert slowed(0.05, "pause", BOUNDS) == 0.05
    assert slowed(0.5, "pause", BOUNDS) == 0.1


def test_a_bulk_call_takes_no_more_than_a_seconds_worth() -> None:
    assert [per_call(50, rate) for rate in (None, 0.2, 1, 14, 49.9, 50, 1000)] == [50, 1, 1, 14, 49, 50, 50]


def test_countries_whose_carriers_want_a_number_that_we_lack_are_named() -> None:
    assert missing_numbers(["US", "DE", "CA"], ["US", "CA", "IN"], ["CA"]) == ["US"]
