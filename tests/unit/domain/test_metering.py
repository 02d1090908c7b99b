"""How a lane is shared: deadlines first where they need it, otherwise nobody is stuck behind somebody."""

from collections import deque
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.metering import FAIR, Belt, Queue, QueueKey, needed_share, shares

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HUGE, SMALL = "INC-2026-0001", "INC-2026-0002"


def queue(incident_id: str, hours: float, ready: int, *, fallback: bool = False, backlog: int | None = None) -> Queue:
    return Queue(incident_id, fallback, NOW + timedelta(hours=hours), ready, ready if backlog is None else backlog)


def test_a_small_incident_is_not_stuck_behind_a_huge_one_whose_deadline_leaves_room() -> None:
    given_ = shares(100, [queue(HUGE, 70, 100, backlog=100_000), queue(SMALL, 72, 100, backlog=300)], NOW, 100)
    assert given_ == {(HUGE, False): 75, (SMALL, False): 25}


def test_an_earlier_deadline_that_needs_the_whole_lane_gets_it() -> None:
    # 360,000 within an hour at 100 a second: just enough
    assert shares(100, [queue(HUGE, 1, 100, backlog=360_000), queue(SMALL, 72, 100)], NOW, 100)[SMALL, False] == 0


def test_a_deadline_that_has_passed_goes_first_and_starves_nobody() -> None:
    given_ = shares(100, [queue(HUGE, -1, 100, backlog=1_000_000), queue(SMALL, 72, 100)], NOW, 100)
    assert given_ == {(HUGE, False): 75, (SMALL, False): 25}


def test_fallbacks_do_not_wait_for_the_end_of_first_attempts() -> None:
    given_ = shares(10, [queue(HUGE, 72, 1000), queue(HUGE, 72, 1000, fallback=True)], NOW, 10)
    assert given_[HUGE, True] == 2


def test_a_lane_of_less_than_one_a_tick_still_gets_round_to_everybody() -> None:
    carry: dict[QueueKey, float] = {}
    queues = [queue(HUGE, 72, 1), queue(SMALL, 73, 1)]
    small = sum(shares(1, queues, NOW, 0.5, carry=carry)[SMALL, False] for _ in range(100))
    assert 24 <= small <= 26


def test_a_rate_of_its_own_bounds_an_incident_and_leaves_the_rest_to_others() -> None:
    given_ = shares(100, [queue(HUGE, 1, 500), queue(SMALL, 72, 500)], NOW, 100, at_most={HUGE: 7})
    assert given_ == {(HUGE, False): 7, (SMALL, False): 93}


def test_without_a_known_rate_the_earliest_deadline_takes_all() -> None:
    assert shares(10, [queue(HUGE, 1, 50), queue(SMALL, 72, 50)], NOW, 0.0) == {(HUGE, False): 10, (SMALL, False): 0}


queues = st.lists(
    st.builds(
        Queue,
        st.sampled_from([f"INC-2026-{n:04d}" for n in range(5)]),
        st.booleans(),
        st.integers(-5, 100).map(lambda hours: NOW + timedelta(hours=hours)),
        st.integers(0, 50),
        st.integers(0, 1_000_000),
    ),
    unique_by=lambda each: each.key,
    max_size=8,
)


@given(queues, st.integers(0, 100), st.floats(0, 1000), st.dictionaries(st.just("INC-2026-0001"), st.integers(0, 20)))
def test_every_place_is_used_and_nobody_gets_more_than_is_theirs(
    waiting: list[Queue], room: int, rate: float, at_most: dict[str, int]
) -> None:
    got = shares(room, waiting, NOW, rate, at_most=at_most)
    assert all(0 <= got.get(each.key, 0) <= each.ready for each in waiting)
    of_incident: dict[str, int] = {}
    for each in waiting:
        of_incident[each.incident_id] = of_incident.get(each.incident_id, 0) + each.ready
    possible = sum(min(count, at_most.get(name, count)) for name, count in of_incident.items())
    assert sum(got.values()) == min(room, possible)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(0, 400)), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_no_deadline_is_missed_that_going_strictly_by_deadline_would_have_kept(
    incidents: list[tuple[int, int]], rate: int
) -> None:
    """Minute by minute until all have gone; a deadline counts as kept if strict order keeps it with a tick to spare."""
    due = [NOW + timedelta(minutes=minutes) for minutes, _ in incidents]
    left = [count for _, count in incidents]
    carry: dict[QueueKey, float] = {}
    done_at = [NOW] * len(incidents)
    at = NOW
    while any(left) and at < NOW + timedelta(days=3):
        waiting = [Queue(f"INC-{n}", False, due[n], left[n], left[n]) for n in range(len(left)) if left[n]]
        got = shares(rate * 60, waiting, at, rate, carry=carry)
        at += timedelta(minutes=1)
        for n in range(len(left)):
            if left[n]:
                left[n] -= got[f"INC-{n}", False]
                done_at[n] = at
    ahead = 0
    feasible = True
    for n in sorted(range(len(due)), key=lambda each: due[each]):
        ahead += incidents[n][1]
        feasible = feasible and NOW + timedelta(seconds=ahead / rate + 120) <= due[n]
        if feasible:
            assert done_at[n] <= due[n]


@given(queues, st.floats(0, 1000))
def test_what_deadlines_need_is_a_part_of_the_lane(waiting: list[Queue], rate: float) -> None:
    assert 0 <= needed_share(waiting, NOW, rate) <= 1
    assert 0 < FAIR < 1


def on_a_belt(taken_per_second: float, seconds: int, starts_after: float = 0.0) -> tuple[list[int], float]:
    """Return what lies on the belt of a lane of 100 a second that is to hold 30 seconds, four times a second; and how long
    anything lay there at most.
    """
    belt, waiting, free_at, lay, longest = Belt(), deque[float](), starts_after, list[int](), 0.0
    for tick in range(4 * seconds):
        at = tick / 4
        now = NOW + timedelta(seconds=at)
        if taken_per_second and free_at <= at and waiting:
            # as dispatch does: as much as is sent in two seconds, and nothing before that is done
            taken = [waiting.popleft() for _ in range(min(max(1, int(2 * taken_per_second)), len(waiting)))]
            longest = max(longest, at - taken[0])
            free_at = max(free_at, at - 0.25) + len(taken) / taken_per_second
        room = min(belt.room(3000, 100, len(waiting), now), 25)
        belt.note(len(waiting), room, now)
        waiting.extend([at] * room)
        lay.append(len(waiting))
    return lay, longest


@given(st.floats(4, 200), st.floats(0, 20))
def test_nothing_lies_on_a_belt_so_long_that_it_is_taken_for_lost(taken_per_second: float, starts_after: float) -> None:
    """Twice the time that the belt is to hold, before which it is called back."""
    _, longest = on_a_belt(taken_per_second, 90, starts_after)
    assert longest <= 60


def test_a_slow_dispatcher_has_no_more_before_it_than_the_belt_is_to_hold() -> None:
    lay, _ = on_a_belt(taken_per_second=10, seconds=300)
    assert 200 <= lay[-1] <= 400, "30 seconds of its work, not of the lane's"
    assert max(lay) <= 400, "nor before anybody knew how slow it is"


def test_a_belt_from_which_nobody_takes_holds_a_second_of_the_lane() -> None:
    lay, _ = on_a_belt(taken_per_second=0, seconds=60)
    assert set(lay[3:]) == {100}


@pytest.mark.parametrize("starts_after", [0, 0.5, 30])
def test_a_fast_dispatcher_is_never_kept_waiting(starts_after: float) -> None:
    lay, _ = on_a_belt(200, 60, starts_after)
    begins = int(4 * starts_after) + 12
    assert lay[begins:] == [25] * (240 - begins)


def test_a_belt_that_nobody_looked_at_is_as_one_that_nobody_has_watched() -> None:
    belt = Belt()
    for tick in range(40):
        belt.note(100, 0, NOW + timedelta(seconds=tick / 4))
    assert belt.bound(3000, 100, 100, NOW + timedelta(seconds=10)) == 10
    assert belt.bound(3000, 100, 100, NOW + timedelta(minutes=1)) == 100
    assert belt.bound(3000, 0, 100, NOW + timedelta(seconds=10)) == 3000


def test_a_long_belt_is_filled_up_a_quarter_at_a_time_and_a_short_one_at_once() -> None:
    def room(per_second: float, on_belt: int) -> int:
        return Belt().room(100_000, per_second, on_belt, NOW)

    assert [room(20_000, on_belt) for on_belt in (0, 15_000, 15_001, 20_000, 30_000)] == [20_000, 5_000, 0, 0, 0]
    assert [room(100, on_belt) for on_belt in (0, 99, 100, 101)] == [100, 1, 0, 0]
