"""The e-mail lane when SES is ill: it moves to SMTP without human help, and back once a few real messages got through."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from bridge.contracts.events import Channel
from bridge.runtime.clock import SetClock
from consumers.adapters.provider_lanes import CIRCUIT, CircuitLane, CircuitTeller
from consumers.adapters.smtp_email import SmtpEmail
from consumers.domain.circuit import CircuitPolicy, CircuitReading, CircuitState, let_through
from consumers.domain.sending import Allowance, EmailProvider, SendState
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


class Book:
    """The case store's side of circuits."""

    def __init__(self) -> None:
        self.told: dict[str, CircuitReading] = {}
        self.wanted: dict[str, tuple[CircuitState, object]] = {}

    def tell(self, dispatcher: str, readings: Sequence[CircuitReading]) -> None:
        assert dispatcher == "d1"
        self.told = {each.provider: each for each in readings}

    def orders(self) -> Mapping[str, tuple[CircuitState, object]]:
        return self.wanted


def test_a_server_that_takes_its_time_for_each_mail_is_not_ill_and_leaves_room_for_a_hold(
    smtp: tuple[Inbox, SmtpEmail],
) -> None:
    box, second = smtp
    box.thinks_seconds = 0.05
    patient = CircuitPolicy(in_a_row=1, slow_after=timedelta(seconds=2))
    lane: CircuitLane[EmailProvider] = CircuitLane(Channel.EMAIL, [second], patient, SetClock(AT))
    waiting = [entry(f"a-{number}", f"p{number}@x.example.com") for number in range(40)]
    while waiting:
        turn = lane.turn()
        assert turn is not None, "it took all of them, one after the other"
        some, waiting = waiting[: turn.provider.max_entries], waiting[turn.provider.max_entries :]
        began = time.monotonic()
        results = turn.provider.send_bulk(bulk(*some))
        lane.record(turn.provider, results, timedelta(seconds=time.monotonic() - began))
    assert lane.turn() is not None
    assert len(box.mails) == 40


def test_a_person_takes_a_provider_out_of_service_and_back(aws: Aws, smtp: tuple[Inbox, SmtpEmail]) -> None:
    clock, book = SetClock(AT), Book()
    lane: CircuitLane[EmailProvider] = CircuitLane(Channel.EMAIL, [aws.email, smtp[1]], POLICY, clock)
    sending, teller = Sending(lane), CircuitTeller([lane], book, "d1")
    book.wanted = {"smtp": (CircuitState.CLOSED, AT - POLICY.window), "sns": (CircuitState.OPEN, AT)}
    teller.tell()
    assert sending.one() == ("ses", SendState.ACCEPTED)
    assert {name: each.state for name, each in book.told.items()} == {
        "ses": CircuitState.CLOSED,
        "smtp": CircuitState.CLOSED,
    }
    book.wanted = {"ses": (CircuitState.OPEN, AT)}
    teller.tell()
    clock.at = AT + 10 * POLICY.open_for_at_most
    teller.tell()
    assert sending.one() == ("smtp", SendState.ACCEPTED)
    assert (book.told["ses"].state, book.told["ses"].try_at) == (CircuitState.OPEN, None)
    assert book.told["ses"].since == AT
    book.wanted = {"ses": (CircuitState.CLOSED, clock.at)}
    teller.tell()
    assert sending.one() == ("ses", SendState.ACCEPTED)


def test_what_is_told_says_how_ill_a_provider_was(aws: Aws) -> None:
    clock, book = SetClock(AT), Book()
    lane: CircuitLane[EmailProvider] = CircuitLane(Channel.EMAIL, [aws.email], POLICY, clock)
    sending, teller = Sending(lane), CircuitTeller([lane], book, "d1")
    sending.one()
    aws.control("faults", {"sesv2": "500"})
    for _ in range(3):
        sending.one()
    assert lane.changed.is_set()
    assert lane.stands_still()
    teller.tell()
    told = book.told["ses"]
    assert (told.calls, told.error_share, told.mean_seconds) == (4, 0.75, 0.005)
    assert (told.state, told.try_at) == (CircuitState.OPEN, AT + POLICY.open_for)
    assert let_through(book.told.values(), AT) == 0
    assert let_through(book.told.values(), AT + POLICY.open_for) == POLICY.probes


def test_an_account_out_of_quota_is_passed_over_and_its_rate_bounds_a_call(
    aws: Aws, smtp: tuple[Inbox, SmtpEmail]
) -> None:
    allowed = {"ses": Allowance(per_second=14.5), "smtp": Allowance()}
    lane: CircuitLane[EmailProvider] = CircuitLane(
        Channel.EMAIL, [aws.email, smtp[1]], POLICY, SetClock(AT), bound=allowed.__getitem__
    )
    turn = lane.turn()
    assert turn is not None
    assert (turn.provider.name, turn.at_most) == ("ses", 14)
    allowed["ses"] = Allowance(per_second=14.5, at_most=3)
    turn = lane.turn()
    assert turn is not None
    assert (turn.provider.name, turn.at_most) == ("ses", 3)
    allowed["ses"] = Allowance(at_most=0)
    turn = lane.turn()
    assert turn is not None
    assert (turn.provider.name, turn.at_most) == ("smtp", None)
    allowed["smtp"] = Allowance(at_most=0)
    assert lane.stands_still()
