"""The state machine of an attempt as a table, and what a person's attempts add up to."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.events import AttemptState as S
from bridge.contracts.events import Channel
from consumers.domain.delivery import (
    ARRIVED,
    FAILED,
    LIVE,
    TRANSITIONS,
    PersonEnd,
    Tried,
    Trigger,
    expires_at,
    next_state,
    what_next,
)
from consumers.domain.sending import ReceiptKind as R

POLICY = (Channel.EMAIL, Channel.SMS, Channel.ACCOUNT_NOTICE)


@pytest.mark.parametrize(
    ("before", "trigger", "after"),
    [
        (S.PLANNED, Trigger.COMMAND, S.COMMANDED),
        (S.COMMANDED, Trigger.INTEND, S.INTENDED),
        (S.INTENDED, Trigger.ACCEPTED, S.HANDED_OVER),
        (S.INTENDED, Trigger.THROTTLED, S.PLANNED),
        (S.INTENDED, Trigger.LOST, S.UNKNOWN),
        (S.INTENDED, R.DELIVERED, S.DELIVERED),  # the receipt overtakes the dispatcher's own note
        (S.DELIVERED, Trigger.ACCEPTED, S.DELIVERED),  # the note arrives after the receipt
        (S.HANDED_OVER, R.BOUNCED_HARD, S.BOUNCED),
        (S.DELIVERED, R.BOUNCED_HARD, S.BOUNCED),  # asynchronous bounce
        (S.DELIVERED, R.COMPLAINED, S.COMPLAINED),
        (S.COMPLAINED, R.DELIVERED, S.COMPLAINED),
        (S.BOUNCED, R.DELIVERED, S.BOUNCED),  # out of order: the bounce has the last word
        (S.EXPIRED, R.DELIVERED, S.DELIVERED),  # late, but there
        (S.UNKNOWN, R.SENT, S.HANDED_OVER),
        (S.DELIVERED, R.DELIVERED, S.DELIVERED),  # doubled
        (S.CANCELLED, R.DELIVERED, S.CANCELLED),
    ],
)
def test_each_row(before: S, trigger: Trigger | R, after: S) -> None:
    assert next_state(before, trigger) is after


def test_every_state_is_arrived_failed_live_or_cancelled() -> None:
    assert set(S) == ARRIVED | FAILED | LIVE | {S.CANCELLED}
    assert len(ARRIVED) + len(FAILED) + len(LIVE) + 1 == len(S)


@given(st.lists(st.sampled_from([*Trigger, *R]), max_size=20))
def test_an_attempt_that_reached_its_reader_stays_so(triggers: list[Trigger | R]) -> None:
    state = S.PLANNED
    for trigger in triggers:
        after = next_state(state, trigger)
        if state in (S.READ, S.COMPLAINED):
            assert after is state
        state = after


def test_every_live_state_but_planned_can_be_left_without_a_receipt() -> None:
    """The sweeper must be able to move whatever is stuck: nobody is left in between."""
    for state in LIVE - {S.PLANNED}:
        assert any(before is state and isinstance(trigger, Trigger) for before, trigger in TRANSITIONS)


def test_the_next_channel_follows_a_failure_in_policy_order() -> None:
    tried = [Tried(Channel.EMAIL, S.BOUNCED)]
    assert what_next(tried, POLICY, POLICY).channel is Channel.SMS
    assert what_next(tried, POLICY, (Channel.EMAIL, Channel.ACCOUNT_NOTICE)).channel is Channel.ACCOUNT_NOTICE


def test_who_has_no_channel_left_is_reported_as_unreachable() -> None:
    assert what_next([], POLICY, ()).end is PersonEnd.UNREACHABLE_REPORTED
    assert what_next([Tried(Channel.EMAIL, S.REJECTED)], POLICY, (Channel.EMAIL,)).end is PersonEnd.UNREACHABLE_REPORTED


@given(
    st.lists(st.tuples(st.sampled_from(POLICY), st.sampled_from(list(S))), max_size=4),
    st.permutations(POLICY),
    st.lists(st.sampled_from(POLICY), unique=True),
)
def test_nobody_is_left_in_between(
    tried: list[tuple[Channel, S]], policy: list[Channel], available: list[Channel]
) -> None:
    attempts = [Tried(channel, state) for channel, state in tried]
    following = what_next(attempts, policy, available)
    waiting = any(attempt.state in LIVE for attempt in attempts)
    recalled = any(attempt.state is S.CANCELLED for attempt in attempts)
    assert following.channel is not None or following.end is not None or waiting or recalled
    assert not (following.channel and following.end)
    if following.channel:
        assert following.channel in available
        assert following.channel not in {attempt.channel for attempt in attempts}


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=9)), st.timedeltas(max_value=timedelta(days=9)))
def test_waiting_for_a_receipt_never_outlasts_the_timeout(timeout: timedelta, until_deadline: timedelta) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    if until_deadline < timedelta(days=-9):
        until_deadline = timedelta(days=-9)
    at = expires_at(now, timeout, now + until_deadline, timedelta(hours=1))
    assert now <= at <= now + timeout
