"""A provider's circuit: when it opens, how it is tried again, and what counts as ill."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.circuit import Circuit, CircuitPolicy, CircuitState, ill
from consumers.domain.sending import SendResult, SendState

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = CircuitPolicy()
SECOND = timedelta(seconds=1)


def test_three_ill_calls_in_a_row_open_it_and_a_well_one_between_does_not() -> None:
    circuit = Circuit(POLICY)
    for was_ill in (True, True, False, True, True):
        circuit.record(NOW, 50, was_ill)
    assert circuit.state(NOW) is CircuitState.CLOSED
    circuit.record(NOW, 50, True)
    assert (circuit.state(NOW), circuit.allowance(NOW)) == (CircuitState.OPEN, 0)


def test_half_of_many_calls_in_the_window_open_it_and_old_ones_are_forgotten() -> None:
    circuit = Circuit(POLICY)
    for number in range(9):
        circuit.record(NOW, 50, number % 2 == 0)
    assert circuit.state(NOW) is CircuitState.CLOSED
    later = NOW + POLICY.window
    for number in range(9):
        circuit.record(later, 50, number % 2 == 0)
    assert circuit.state(later) is CircuitState.CLOSED
    circuit.record(later, 50, True)
    assert circuit.state(later) is CircuitState.OPEN


def opened() -> Circuit:
    circuit = Circuit(POLICY)
    for _ in range(POLICY.in_a_row):
        circuit.record(NOW, 50, True)
    return circuit


def test_after_a_while_a_few_messages_try_it_and_close_it() -> None:
    circuit = opened()
    assert circuit.allowance(NOW + POLICY.open_for - SECOND) == 0
    at = NOW + POLICY.open_for
    assert (circuit.state(at), circuit.allowance(at)) == (CircuitState.HALF_OPEN, POLICY.probes)
    circuit.record(at, 2, False)
    assert circuit.allowance(at) == POLICY.probes - 2
    circuit.record(at, POLICY.probes - 2, False)
    assert (circuit.state(at), circuit.allowance(at)) == (CircuitState.CLOSED, None)


def test_a_clock_that_is_set_back_keeps_no_provider_out_of_service() -> None:
    assert opened().state(NOW - SECOND) is CircuitState.OPEN, "two threads' instants may be out of order"
    assert opened().state(NOW - timedelta(hours=1)) is CircuitState.HALF_OPEN


def test_a_failed_probe_waits_twice_as_long_each_time_and_not_for_ever() -> None:
    circuit, at, waits = opened(), NOW, []
    for _ in range(8):
        began = at
        while circuit.state(at) is CircuitState.OPEN:
            at += SECOND
        waits.append(at - began)
        circuit.record(at, 1, True)
    assert waits[:3] == [POLICY.open_for, 2 * POLICY.open_for, 4 * POLICY.open_for]
    assert waits[-1] == POLICY.open_for_at_most


def test_an_answer_that_comes_after_it_opened_changes_nothing() -> None:
    circuit = opened()
    for was_ill in (True, False):
        circuit.record(NOW + SECOND, 50, was_ill)
    assert circuit.allowance(NOW + POLICY.open_for - SECOND) == 0
    assert circuit.allowance(NOW + POLICY.open_for) == POLICY.probes


@pytest.mark.parametrize(
    ("states", "took", "expected"),
    [
        ([SendState.ACCEPTED], 0.1, False),
        ([SendState.ACCEPTED], 11, True),
        ([SendState.UNKNOWN], 0.1, True),
        ([SendState.UNAVAILABLE], 0.1, True),
        ([SendState.REJECTED, SendState.REJECTED], 0.1, False),
        ([SendState.THROTTLED, SendState.THROTTLED], 0.1, False),
        ([SendState.ACCEPTED, SendState.UNKNOWN], 0.1, True),
        ([SendState.DEFERRED] * POLICY.probes, 0.1, False),
        ([SendState.DEFERRED] * 50, 0.1, True),
        ([SendState.DEFERRED] * 49 + [SendState.ACCEPTED], 0.1, False),
        ([SendState.ACCEPTED, SendState.ACCEPTED, SendState.UNKNOWN], 0.1, False),
    ],
)
def test_what_counts_as_ill(states: list[SendState], took: float, expected: bool) -> None:
    results = [SendResult(f"a-{n}", state) for n, state in enumerate(states)]
    assert ill(results, timedelta(seconds=took), POLICY) is expected


@given(
    st.lists(st.tuples(st.integers(0, 120), st.integers(1, 50), st.booleans()), max_size=60),
)
def test_no_history_lets_more_through_than_its_state_allows_or_keeps_it_open_for_ever(
    history: list[tuple[int, int, bool]],
) -> None:
    circuit, at = Circuit(POLICY), NOW
    for seconds, messages, was_ill in history:
        at += seconds * SECOND
        allowed = circuit.allowance(at)
        match circuit.state(at):
            case CircuitState.CLOSED:
                assert allowed is None
            case CircuitState.OPEN:
                assert allowed == 0
                continue
            case CircuitState.HALF_OPEN:
                assert allowed is not None
                assert 0 < allowed <= POLICY.probes
        circuit.record(at, min(messages, allowed or messages), was_ill)
    at += POLICY.open_for_at_most
    while (allowed := circuit.allowance(at)) is not None:
        assert allowed > 0
        circuit.record(at, allowed, was_ill=False)
