"""The e-mail lane when SES is ill: it moves to SMTP without human help, and back once a few real messages got through."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from bridge.contracts.events import Channel
from bridge.runtime.clock import SetClock
from consumers.adapters.provider_lanes import CIRCUIT, CircuitLane
from consumers.adapters.smtp_email import SmtpEmail
from consumers.domain.circuit import CircuitPolicy
from consumers.domain.sending import EmailProvider, SendState
from tests.contract.aws_sandbox import Aws, bulk, entry, running
from tests.contract.test_smtp import Inbox, smtp_running

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = CircuitPolicy()


@pytest.fixture
def aws() -> Iterator[Aws]:
    with running() as started:
        yield started


@pytest.fixture
def smtp() -> Iterator[tuple[Inbox, SmtpEmail]]:
    with smtp_running() as started:
        yield started


class Sending:
    """Sends one message after another over the lane, as dispatch does."""

    def __init__(self, lane: CircuitLane[EmailProvider]) -> None:
        self.lane = lane
        self.sent = 0

    def one(self) -> tuple[str, SendState] | None:
        turn = self.lane.turn()
        if turn is None:
            return None
        self.sent += 1
        results = turn.provider.send_bulk(bulk(entry(f"a-{self.sent}", f"p{self.sent}@x.example.com")))
        self.lane.record(turn.provider, results, timedelta(milliseconds=5))
        return turn.provider.name, results[0].state


def shown() -> dict[str, float]:
    return {s.labels["provider"]: s.value for m in CIRCUIT.collect() for s in m.samples}


@pytest.mark.parametrize("answer", ["500", "reset"])
def test_the_lane_moves_to_the_second_provider_and_back(aws: Aws, smtp: tuple[Inbox, SmtpEmail], answer: str) -> None:
    box, second = smtp
    clock = SetClock(AT)
    sending = Sending(CircuitLane(Channel.EMAIL, [aws.email, second], POLICY, clock))
    assert sending.one() == ("ses", SendState.ACCEPTED)

    aws.control("faults", {"sesv2": answer})
    assert [sending.one() for _ in range(3)] == [("ses", SendState.UNKNOWN)] * 3
    assert [sending.one() for _ in range(4)] == [("smtp", SendState.ACCEPTED)] * 4
    assert (shown()["ses"], shown()["smtp"]) == (1, 0)

    clock.at = AT + POLICY.open_for
    assert sending.one() == ("ses", SendState.UNKNOWN)  # one message tries it, and it is ill still
    assert sending.one() == ("smtp", SendState.ACCEPTED)

    aws.control("faults", {})
    clock.at = AT + 4 * POLICY.open_for
    assert [sending.one() for _ in range(POLICY.probes + 1)] == [("ses", SendState.ACCEPTED)] * (POLICY.probes + 1)
    assert shown()["ses"] == 0
    assert len(box.mails) == 5
    assert len(aws.mailbox()["messages"]) == 1 + POLICY.probes + 1


def test_with_both_ill_messages_wait(aws: Aws, smtp: tuple[Inbox, SmtpEmail]) -> None:
    box, second = smtp
    sending = Sending(CircuitLane(Channel.EMAIL, [aws.email, second], POLICY, SetClock(AT)))
    aws.control("account", {"sending_enabled": False})
    box.hang_up_after_text = True
    answers = [sending.one() for _ in range(7)]
    assert answers == [("ses", SendState.UNAVAILABLE)] * 3 + [("smtp", SendState.UNKNOWN)] * 3 + [None]


def test_a_flood_of_refused_addresses_is_no_illness(aws: Aws, smtp: tuple[Inbox, SmtpEmail]) -> None:
    aws.control("account", {"production_access": False})
    sending = Sending(CircuitLane(Channel.EMAIL, [aws.email, smtp[1]], POLICY, SetClock(AT)))
    assert [sending.one() for _ in range(20)] == [("ses", SendState.REJECTED)] * 20
