"""Release: how much it puts on the belt, when it holds still, and what it sweeps."""

import math
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import Channel
from bridge.runtime.settings import Delivery
from bridge.runtime.telemetry import Health
from consumers.domain.canary import CanaryState
from consumers.domain.ledger import Begun, Lane, LaneAge
from consumers.domain.sending import NO_BOUND, Allowance
from consumers.stages.release import ATTEMPTS, LATENESS, PROJECTED_END, WAITING, ReleaseStage, show_lanes


class FakeLedger:
    """A ledger with as many planned attempts as asked for."""

    def __init__(self, planned: int = 1_000_000) -> None:
        self.planned = dict.fromkeys(Channel, planned)
        self.lanes: list[Lane] = []
        self.issued = dict.fromkeys(Channel, 0)
        self.sweeps: list[dict[str, timedelta | bool | None]] = []
        self.finished = 0
        self.reminded = False
        self.paces: list[dict[Channel, float]] = []
        self.on_begin: Callable[[], None] = lambda: None
        self.ages: Mapping[Channel, LaneAge] = {}
        self.running: set[str] = set()
        self.free_lanes: list[Lane] = []
        self.at_once: dict[Channel, int] = {}
        self.more = False

    def releasing(self) -> Collection[str]:
        return set(self.running)

    def begin_attempts(self, limit: int, lanes: Sequence[Lane] = ()) -> Begun:
        self.on_begin()
        self.free_lanes = list(lanes)
        self.issued.update({channel: self.issued[channel] + count for channel, count in self.at_once.items()})
        return Begun(0, self.at_once, more=self.more)

    def waiting_channels(self) -> Collection[Channel]:
        return {channel for channel, count in self.planned.items() if count}

    def meter(self, lane: Lane) -> int:
        self.lanes.append(lane)
        count = min(lane.at_once, self.planned[lane.channel])
        self.planned[lane.channel] -= count
        self.issued[lane.channel] += count
        return count

    def sweep(self, **wanted: timedelta | bool | None) -> int:
        self.sweeps.append(wanted)
        return 0

    def remind_of_holds(self) -> None:
        self.reminded = True

    def note_pace(self, lanes: Mapping[Channel, float]) -> None:
        self.paces.append(dict(lanes))

    def lane_ages(self, *, beginning: bool = False) -> Mapping[Channel, LaneAge]:
        return self.ages or {Channel.EMAIL: LaneAge(1000 if beginning else 200, 60.0, 30.0, 5.0)}

    def judge_canaries(self) -> Sequence[tuple[str, str, CanaryState]]:
        return ()

    def finish_releases(self) -> Sequence[tuple[str, str]]:
        self.finished += 1
        return ()

    def attempts(self) -> Mapping[tuple[str, str], int]:
        return {("email", "delivered"): 5}


class FakeLease:
    """A lease that is held or not."""

    def __init__(self, held: bool = True) -> None:
        self.held = held
        self.asked = 0
        self.released = False

    def take(self) -> bool:
        self.asked += 1
        return self.held

    def release(self) -> None:
        self.released = True


def stage_of(ledger: FakeLedger, lease: FakeLease | None = None, **delivery: Any) -> ReleaseStage:
    settings = Delivery(**({"email_per_second": 10, "sms_per_second": 4} | delivery))
    return ReleaseStage(ledger, lease or FakeLease(), settings, Health(), tick_seconds=0.001)


def test_a_second_of_work_is_what_the_provider_grants() -> None:
    ledger = FakeLedger()
    stage = stage_of(ledger)
    for _ in range(40):
        stage.tick(0.25)
    assert (ledger.issued[Channel.EMAIL], ledger.issued[Channel.SMS]) == (100, 40)
    # letters are gathered: one batch at once, the next one only after some minutes
    assert ledger.issued[Channel.LETTER] == 200


@given(st.lists(st.floats(0, 5), min_size=1, max_size=40), st.floats(0.1, 200))
def test_no_pause_ever_makes_a_burst(pauses: list[float], rate: float) -> None:
    ledger = FakeLedger()
    stage = stage_of(ledger, email_per_second=rate)
    for pause in pauses:
        before = ledger.issued[Channel.EMAIL]
        stage.tick(pause)
        assert ledger.issued[Channel.EMAIL] - before <= max(rate, 1.0)
    assert ledger.issued[Channel.EMAIL] <= rate * sum(pauses) + 1e-6


def test_what_begins_at_once_uses_up_its_lane() -> None:
    ledger = FakeLedger()
    ledger.at_once = {Channel.EMAIL: 7}
    assert stage_of(ledger).tick(1.0) == 10 + 4 + 500 + 200
    assert {lane.channel: lane.at_once for lane in ledger.free_lanes}[Channel.EMAIL] == 10
    assert {lane.channel: lane.at_once for lane in ledger.lanes}[Channel.EMAIL] == 3
    ledger.at_once, ledger.lanes = {Channel.EMAIL: 10}, []
    stage_of(ledger).tick(1.0)
    assert Channel.EMAIL not in {lane.channel for lane in ledger.lanes}


@pytest.mark.parametrize("more", [True, False])
def test_who_waits_to_begin_waits_for_their_lane_too(more: bool) -> None:
    ledger = FakeLedger()
    ledger.more = more
    stage = stage_of(ledger)
    stage.tick(0.25)
    stage._count()
    assert WAITING.labels("email")._value.get() == (1000 if more else 200)
    assert PROJECTED_END.labels("email")._value.get() == (100 if more else 20)
    show_lanes({}, {})


def test_a_lane_whose_provider_takes_nothing_has_no_end() -> None:
    ledger = FakeLedger()
    stage = stage_of(ledger)
    stage._live = FakeRates(email=Allowance(per_second=10, at_most=0))
    stage.tick(0.25)
    stage._count()
    assert (PROJECTED_END.labels("email")._value.get(), LATENESS.labels("email")._value.get()) == (math.inf, math.inf)
    assert ledger.paces[-1][Channel.EMAIL] == 0
    stage._live = FakeRates(email=Allowance(per_second=10, at_most=0, again_per_second=2))
    stage.tick(0.25)
    stage._count()
    assert PROJECTED_END.labels("email")._value.get() == 100, "a quota that is used up comes back"
    show_lanes({Channel.LETTER: LaneAge(3, 60.0, 0.0, 5.0)}, {Channel.EMAIL: 10.0})
    assert PROJECTED_END.labels("letter")._value.get() == 0, "letters go with their next batch"
    show_lanes({}, {})


def test_letters_end_by_how_fast_batches_go() -> None:
    ledger = FakeLedger()
    ledger.ages = {Channel.LETTER: LaneAge(2000, 60.0, 0.0, 600.0)}
    stage = stage_of(ledger, letter_batch=100, letter_batch_seconds=200)
    stage.tick(0.25)
    stage._count()
    assert (PROJECTED_END.labels("letter")._value.get(), LATENESS.labels("letter")._value.get()) == (4000, 3400)
    assert ledger.paces[-1][Channel.LETTER] == 0.5
    show_lanes({}, {})


def test_less_than_one_a_second_still_gets_through() -> None:
    ledger = FakeLedger()
    stage = stage_of(ledger, email_per_second=0.5)
    for _ in range(40):
        stage.tick(0.25)
    assert ledger.issued[Channel.EMAIL] == 5


def test_credit_that_found_nothing_to_send_is_not_saved_up() -> None:
    ledger = FakeLedger(planned=0)
    stage = stage_of(ledger)
    for _ in range(100):
        stage.tick(1.0)
    ledger.planned = dict.fromkeys(Channel, 1000)
    assert stage.tick(0.0) <= 10 + 4 + 500 + 200
    assert ledger.issued[Channel.EMAIL] == 10


def test_the_belt_holds_its_seconds_of_work_and_at_least_one() -> None:
    ledger = FakeLedger()
    stage_of(ledger, belt_seconds=30).tick(1.0)
    assert {lane.channel: lane.belt for lane in ledger.lanes}[Channel.EMAIL] == 300
    slow = FakeLedger()
    stage_of(slow, email_per_second=0.01, belt_seconds=1).tick(100.0)
    assert {lane.channel: lane.belt for lane in slow.lanes}[Channel.EMAIL] == 1


def test_who_has_no_lease_meters_nothing() -> None:
    ledger, lease, stop = FakeLedger(), FakeLease(held=False), threading.Event()
    thread = threading.Thread(target=stage_of(ledger, lease).run, args=(stop,))
    thread.start()
    wait_until(lambda: lease.asked > 3)
    stop.set()
    thread.join(60)
    assert (ledger.lanes, ledger.sweeps, lease.released) == ([], [], True)


def test_it_sweeps_and_finishes_beside_metering() -> None:
    ledger, stop = FakeLedger(), threading.Event()
    thread = threading.Thread(target=stage_of(ledger, belt_seconds=20).run, args=(stop,))
    thread.start()
    wait_until(lambda: ledger.finished > 1)
    stop.set()
    thread.join(60)
    assert ledger.sweeps[1]["command_patience"] is None, "the belt is looked over four times in the time that it holds"
    assert ledger.sweeps[0] == {
        "command_patience": timedelta(seconds=40),
        "intent_patience": timedelta(seconds=20),
        "unknown_patience": timedelta(minutes=5),
        "expired": True,
    }


def test_where_attempts_stand_is_told_by_who_has_the_lease_alone() -> None:
    """The sum over all processes is right at any time, whoever has counted before."""

    def shown(channel: str, state: str) -> float:
        return float(ATTEMPTS.labels(channel, state)._value.get())

    ledger, lease, stop = FakeLedger(), FakeLease(), threading.Event()
    thread = threading.Thread(target=stage_of(ledger, lease).run, args=(stop,))
    thread.start()
    wait_until(lambda: shown("email", "delivered") == 5)
    assert shown("sms", "delivered") == 0
    wait_until(lambda: ledger.reminded)
    assert ledger.paces[-1][Channel.EMAIL] == 10
    assert (PROJECTED_END.labels("email")._value.get(), LATENESS.labels("email")._value.get()) == (20.0, 15.0)
    assert WAITING.labels("sms")._value.get() == 0
    lease.held = False
    wait_until(lambda: shown("email", "delivered") == 0)
    wait_until(lambda: WAITING.labels("email")._value.get() == 0)
    stop.set()
    thread.join(60)


def test_an_unreachable_case_store_is_waited_for_and_said() -> None:
    ledger, stop, health = FakeLedger(), threading.Event(), Health()
    answers = [False]

    def begin() -> None:
        if not answers[0]:
            raise Unreachable("the case store does not answer")

    ledger.on_begin = begin
    lease = FakeLease()
    stage = ReleaseStage(ledger, lease, Delivery(email_per_second=1000), health, tick_seconds=0.001)
    thread = threading.Thread(target=stage.run, args=(stop,))
    thread.start()
    wait_until(lambda: "case store" in health.reasons())
    answers[0] = True
    wait_until(lambda: ledger.issued[Channel.EMAIL] > 0 and not health.reasons())
    stop.set()
    thread.join(60)
    assert not thread.is_alive()


def test_any_other_error_ends_the_stage_and_gives_the_lease_up() -> None:
    ledger, lease = FakeLedger(), FakeLease()

    def begin() -> None:
        raise ZeroDivisionError

    ledger.on_begin = begin
    with pytest.raises(ZeroDivisionError):
        stage_of(ledger, lease).run(threading.Event())
    assert lease.released


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    waiting = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError(f"not within {seconds} s")


class FakeRates:
    """What accounts allow, by channel."""

    def __init__(self, **allowed: Allowance) -> None:
        self.allowed = {Channel(name): each for name, each in allowed.items()}
        self.noted: list[tuple[Channel, int]] = []

    def allowance(self, channel: Channel) -> Allowance:
        return self.allowed.get(channel, NO_BOUND)

    def issued(self, channel: Channel, count: int) -> None:
        self.noted.append((channel, count))


def test_the_meter_keeps_to_the_live_rate_and_to_what_the_quota_leaves() -> None:
    ledger = FakeLedger()
    rates = FakeRates(email=Allowance(per_second=10, at_most=7), sms=Allowance(at_most=0))
    settings = Delivery(email_per_second=100, sms_per_second=20)
    stage = ReleaseStage(ledger, FakeLease(), settings, Health(), rates=rates)
    stage.tick(1.0)
    assert {lane.channel: (lane.belt, lane.at_once) for lane in ledger.lanes} == {
        Channel.EMAIL: (7, 7),
        Channel.ACCOUNT_NOTICE: (15_000, 500),
        Channel.LETTER: (200, 200),
    }
    assert (Channel.EMAIL, 7) in rates.noted
    assert (Channel.SMS, 0) in rates.noted
    rates.allowed = {Channel.EMAIL: Allowance(per_second=1000)}
    stage.tick(1.0)
    assert next(lane.at_once for lane in reversed(ledger.lanes) if lane.channel is Channel.EMAIL) == 100


def test_what_was_just_approved_begins_at_once_however_long_the_last_look_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now, began = [100.0], []
    monkeypatch.setattr("consumers.stages.release.time.monotonic", lambda: now[0])
    ledger = FakeLedger()
    stage = ReleaseStage(ledger, FakeLease(), Delivery(), Health())

    def look() -> None:
        began.append(now[0])
        now[0] += 1.0

    ledger.on_begin = look
    for running in ((), (), ("r1",), ("r1",), (), ("r1",)):
        ledger.running = set(running)
        stage.tick(0.25)
        now[0] += 0.25
    # the first look of all, and one each time that a release had begun to run
    assert began == [100.0, 101.5, 103.25]
