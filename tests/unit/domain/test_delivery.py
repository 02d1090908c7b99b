"""The state machine of an attempt as a table, and what a person's attempts add up to."""

from datetime import UTC, datetime, timedelta
from random import Random

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
    Next,
    PersonEnd,
    Tried,
    Trigger,
    expires_at,
    next_state,
    what_next,
)
from consumers.domain.fallback import Fallback
from consumers.domain.sending import ReceiptKind as R

POLICY = Fallback(((Channel.EMAIL,), (Channel.SMS,), (Channel.ACCOUNT_NOTICE,)))
TOGETHER = Fallback(((Channel.EMAIL, Channel.LETTER), (Channel.SMS,)))
EVERY = tuple(Channel)


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
        (S.EXPIRED, R.SENT, S.EXPIRED),
        (S.READ, R.BOUNCED_HARD, S.READ),  # contradictory: the reader's own doing counts
        (S.UNKNOWN, Trigger.THROTTLED, S.PLANNED),  # a slow dispatcher's word after the sweeper's
        # the first call's receipt, while its repeat waits, was called back or was refused
        (S.PLANNED, R.BOUNCED_HARD, S.BOUNCED),
        (S.COMMANDED, R.SENT, S.HANDED_OVER),
        (S.CANCELLED, R.DELIVERED, S.DELIVERED),
        (S.CANCELLED, R.BOUNCED_HARD, S.BOUNCED),
        (S.REJECTED, R.DELIVERED, S.DELIVERED),
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


@given(st.sampled_from(list(S)), st.sampled_from([*Trigger, *R]))
def test_another_calls_message_ends_none_and_brings_back_what_was_given_up(before: S, trigger: Trigger | R) -> None:
    after = next_state(before, trigger, of_another_call=True)
    if after is not next_state(before, trigger):
        assert after is before or (before, after) == (S.BOUNCED, S.DELIVERED)
        assert trigger in (R.BOUNCED_SOFT, R.REJECTED, R.RENDERING_FAILED, R.DELIVERED)


_receipts = st.lists(st.sampled_from(list(R)), max_size=8)


@given(_receipts, st.randoms())
def test_doubled_receipts_say_nothing_new_and_their_order_decides_nothing_but_a_reading(
    receipts: list[R], random: Random
) -> None:
    def told(kinds: list[R]) -> S:
        state = S.HANDED_OVER
        for kind in kinds:
            state = next_state(next_state(state, kind), kind)
        return state

    shuffled = [*receipts, *receipts]
    random.shuffle(shuffled)
    one, other = told(receipts), told(shuffled)
    refused = {R.REJECTED, R.RENDERING_FAILED} & {*receipts}
    # a provider that refuses a message and reports on it all the same contradicts itself: either ends it
    assert one == other or (one in ARRIVED and other in ARRIVED) or (refused and {one, other} <= ARRIVED | FAILED)


def test_the_next_channel_follows_a_failure_in_policy_order() -> None:
    tried = [Tried(Channel.EMAIL, S.BOUNCED)]
    assert what_next(tried, POLICY, EVERY).channels == (Channel.SMS,)
    assert what_next(tried, POLICY, (Channel.EMAIL, Channel.ACCOUNT_NOTICE)).channels == (Channel.ACCOUNT_NOTICE,)


def test_who_has_no_channel_left_is_reported_as_unreachable() -> None:
    assert what_next([], POLICY, ()).end is PersonEnd.UNREACHABLE_REPORTED
    tried = [Tried(Channel.EMAIL, S.REJECTED)]
    assert what_next(tried, POLICY, (Channel.EMAIL,)).end is PersonEnd.UNREACHABLE_REPORTED


def test_channels_of_one_step_begin_together_and_each_has_its_say() -> None:
    both = (Channel.EMAIL, Channel.LETTER)
    assert what_next([], TOGETHER, EVERY).channels == both
    assert what_next([], TOGETHER, (Channel.SMS, Channel.LETTER)).channels == (Channel.LETTER,)

    def after(email: S, letter: S) -> Next:
        return what_next([Tried(Channel.EMAIL, email), Tried(Channel.LETTER, letter)], TOGETHER, EVERY)

    assert after(S.DELIVERED, S.PLANNED) == Next()  # the letter that the law asks for is not dropped
    assert after(S.DELIVERED, S.HANDED_OVER) == Next()
    assert after(S.DELIVERED, S.BOUNCED).end is PersonEnd.REACHED
    assert after(S.BOUNCED, S.HANDED_OVER) == Next()
    assert after(S.BOUNCED, S.EXPIRED).channels == (Channel.SMS,)


def test_what_was_called_back_before_it_left_is_tried_when_what_had_arrived_bounces() -> None:
    tried = [Tried(Channel.EMAIL, S.BOUNCED), Tried(Channel.SMS, S.CANCELLED)]
    assert what_next(tried, POLICY, (Channel.EMAIL, Channel.SMS)).channels == (Channel.SMS,)


@st.composite
def _policies(draw: st.DrawFn) -> Fallback:
    order = draw(st.permutations(list(Channel)))[: draw(st.integers(1, len(Channel)))]
    cuts = draw(st.sets(st.integers(1, len(order))))
    ends = sorted({*cuts, len(order)})
    return Fallback(tuple(tuple(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)))


@given(
    _policies(),
    st.sets(st.sampled_from(list(Channel))),
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([*R, *Trigger])), max_size=60),
)
def test_nobody_is_left_in_between(
    policy: Fallback, available: set[Channel], happenings: list[tuple[int, R | Trigger]]
) -> None:
    """Whatever happens in whatever order, once the sweeper has had its turn each person has an end, and nobody gets a
    channel that they do not have, or one channel twice.
    """
    tried: list[Tried] = []
    end: PersonEnd | None = None

    def advance() -> None:
        nonlocal end
        following = what_next(tried, policy, available)
        if following.channels:
            end = None
            assert set(following.channels) <= available
            begun = {each.channel for each in tried if each.state is not S.CANCELLED}
            assert not begun.intersection(following.channels)
            tried.extend(Tried(channel, S.PLANNED) for channel in following.channels)
        elif following.end is not None:
            end = following.end
            for index, each in enumerate(tried):
                tried[index] = Tried(each.channel, next_state(each.state, Trigger.CANCEL))

    def happen(index: int, what: R | Trigger) -> None:
        before = tried[index].state
        tried[index] = Tried(tried[index].channel, next_state(before, what))
        if tried[index].state is not before and tried[index].state in ARRIVED | FAILED:
            advance()

    advance()
    for index, what in happenings:
        if index < len(tried) and what is not Trigger.CANCEL:
            happen(index, what)
    # the release stage: what waits is sent, what nobody reports on expires
    for _ in range(10 * len(Channel)):
        live = [index for index, each in enumerate(tried) if each.state in LIVE]
        for index in live:
            happen(index, _ONWARD[tried[index].state])
    assert end is not None
    arrived = any(each.state in ARRIVED for each in tried)
    assert (end is PersonEnd.REACHED) == arrived
    if not arrived:
        assert end is PersonEnd.UNREACHABLE_REPORTED
        assert {each.channel for each in tried if each.state is not S.CANCELLED} == available.intersection(policy.order)


_ONWARD: dict[S, Trigger] = {
    S.PLANNED: Trigger.COMMAND,
    S.COMMANDED: Trigger.INTEND,
    S.INTENDED: Trigger.LOST,
    S.UNKNOWN: Trigger.EXPIRE,
    S.HANDED_OVER: Trigger.EXPIRE,
}


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=9)), st.timedeltas(max_value=timedelta(days=9)))
def test_waiting_for_a_receipt_never_outlasts_the_timeout(timeout: timedelta, until_deadline: timedelta) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    if until_deadline < timedelta(days=-9):
        until_deadline = timedelta(days=-9)
    at = expires_at(now, timeout, now + until_deadline, timedelta(hours=1))
    assert now <= at <= now + timeout
