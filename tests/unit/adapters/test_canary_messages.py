"""Canary messages from before the call to their receipt: one at a time, through crashes, and never among real notices."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import Channel
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.canary_messages import KEPT, CanaryTables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.domain.canary_messages import (
    CanaryLane,
    CanaryMessage,
    CanaryRoute,
    CanaryStage,
    stage_after_receipt,
)
from consumers.domain.sending import Receipt, ReceiptKind, SendResult, SendState
from consumers.stages.canary_messages import CanaryMessages
from tests.unit.adapters.ledger_case import EMAIL_LANE, NOW, Case

EVERY, PATIENCE = timedelta(minutes=15), timedelta(minutes=10)
ACCEPTED = SendState.ACCEPTED


class Killed(BaseException):
    """The process ends here."""


class Office:
    """A case store, one sender process, and a provider that answers as it is told."""

    def __init__(self, case: Case, route: CanaryRoute) -> None:
        self.case, self.route = case, route
        self.tables = CanaryTables(case.database, case.clock, [route])
        self.sent: list[str] = []
        self.answer: Callable[[str], SendResult] = lambda message_id: SendResult(
            message_id, ACCEPTED, f"m-{message_id}"
        )
        self.lane = CanaryLane(route, EVERY, PATIENCE, self._send)
        self.holds_lease = True
        self.start()

    def start(self) -> None:
        """Begin anew, as a process that has been killed."""
        self.stage = CanaryMessages(self.tables, [self.lane], self, self.case.clock)

    def take(self) -> bool:
        return self.holds_lease

    def release(self) -> None:
        self.holds_lease = False

    def _send(self, message_id: str) -> SendResult:
        self.sent.append(message_id)
        return self.answer(message_id)

    def tick(self, after: timedelta = timedelta()) -> None:
        self.case.clock.at += after
        self.stage.tick()

    def last(self) -> CanaryMessage:
        found = self.tables.last(self.route)
        assert found is not None
        return found

    def receipt(self, message_id: str, kind: ReceiptKind = ReceiptKind.DELIVERED) -> Receipt:
        return Receipt(
            "ses", f"{message_id}/{kind}", f"m-{message_id}", message_id, kind, None, self.case.clock.now(), ""
        )

    def counts(self) -> Mapping[str, float]:
        channel, provider, region = self.route.channel, self.route.provider, self.route.region
        labels = {"traffic": "canary", "channel": channel, "provider": provider, "region": region}
        found = {
            result: REGISTRY.get_sample_value("tocsin_canary_messages_total", {**labels, "result": result})
            for result in ("sent", "arrived", "failed", "yielded")
        }
        found |= {
            "age": REGISTRY.get_sample_value("tocsin_canary_age_seconds", labels),
            "failing": REGISTRY.get_sample_value("tocsin_canary_failing_count", labels),
            "seconds": REGISTRY.get_sample_value("tocsin_canary_arrival_seconds_sum", labels),
        }
        return {name: value for name, value in found.items() if value is not None}


@pytest.fixture
def office(tmp_path: Path, request: pytest.FixtureRequest) -> Office:
    """One with a region of its own, as the numbers of a process are everybody's."""
    route = CanaryRoute(Channel.EMAIL, "ses", hashlib.sha256(request.node.name.encode()).hexdigest()[:32])
    return Office(Case(CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}")), route)


def test_one_is_sent_an_interval_and_followed_until_its_receipt(office: Office) -> None:
    assert office.counts() == dict.fromkeys(("sent", "arrived", "failed", "yielded", "age", "failing", "seconds"), 0.0)
    office.tick()
    office.tick(timedelta(seconds=3))
    (first,) = office.sent
    assert len(first) == 32, "SMTP's return path and SES's tags take it as they take an attempt's"
    assert office.tables.settle([office.receipt(first, ReceiptKind.SENT), office.receipt(first)]) == []
    office.tick()
    counted = office.counts()
    assert (counted["sent"], counted["arrived"], counted["failed"], counted["age"]) == (1, 1, 0, 0)
    assert counted["seconds"] == 3.0
    assert office.tables.settle([office.receipt(first)]) == [], "a repeat is known, and counted once"
    office.tick(EVERY - timedelta(seconds=4))
    assert office.sent == [first]
    office.tick(timedelta(seconds=1))
    assert len(set(office.sent)) == 2
    counted = office.counts()
    assert (counted["sent"], counted["arrived"], counted["age"]) == (
        2,
        1,
        (EVERY - timedelta(seconds=3)).total_seconds(),
    )


def test_without_a_receipt_it_has_failed_and_what_comes_late_is_still_seen(office: Office) -> None:
    office.tick()
    office.tick(PATIENCE - timedelta(seconds=1))
    assert office.last().is_open
    office.tick(timedelta(seconds=1))
    assert (office.last().stage, office.last().code) == (CanaryStage.FAILED, "NO_RECEIPT")
    for _ in range(2):
        office.tick(EVERY)
        office.tick(PATIENCE)
    assert (office.counts()["failed"], office.counts()["failing"], len(office.sent)) == (3, 3, 3)
    office.tables.settle([office.receipt(office.sent[-1])])
    office.tick()
    assert (office.counts()["failing"], office.counts()["arrived"], office.counts()["age"]) == (0, 1, 0)


@pytest.mark.parametrize(
    ("state", "code", "counted"),
    [
        (SendState.REJECTED, "MESSAGE_REJECTED", {"sent": 1.0, "failed": 1.0, "yielded": 0.0}),
        (SendState.UNAVAILABLE, "AccountSuspendedException", {"sent": 1.0, "failed": 1.0, "yielded": 0.0}),
        (SendState.THROTTLED, "ACCOUNT_THROTTLED", {"sent": 0.0, "failed": 0.0, "yielded": 1.0}),
        (SendState.UNKNOWN, "ReadTimeoutError", {"sent": 1.0, "failed": 0.0, "yielded": 0.0}),
    ],
)
def test_what_a_provider_says_to_it(office: Office, state: SendState, code: str, counted: Mapping[str, float]) -> None:
    office.answer = lambda message_id: SendResult(message_id, state, None, code)
    office.tick()
    assert {name: office.counts()[name] for name in counted} == counted
    assert office.last().code == code
    office.tick(timedelta(minutes=1))
    assert len(office.sent) == (2 if state is SendState.THROTTLED else 1), "only what gave way is tried again soon"


def test_a_crash_around_the_call_costs_one_message_at_most(office: Office) -> None:
    def killed(_message_id: str) -> SendResult:
        raise Killed

    office.answer = killed
    with pytest.raises(Killed):
        office.tick()
    assert office.last().stage is CanaryStage.SENDING
    office.answer = lambda message_id: SendResult(message_id, ACCEPTED, f"m-{message_id}")
    office.start()
    office.tick(timedelta(seconds=30))
    assert len(office.sent) == 1, "what was begun is waited for, not sent again"
    office.tables.settle([office.receipt(office.sent[0])])
    assert office.last().stage is CanaryStage.ARRIVED, "it had left, and its receipt carries its id"
    office.tick(EVERY)
    assert len(office.sent) == 2


def test_two_processes_that_begin_at_once_begin_the_same_one(office: Office) -> None:
    office.tick()
    office.tables.settle([office.receipt(office.sent[0])])
    office.case.clock.at += EVERY
    other = CanaryTables(office.case.database, office.case.clock)
    lane = office.lane
    assert office.tables.due(lane)
    assert other.due(lane)
    begun = office.tables.begin(lane)
    assert begun is not None
    assert other.begin(lane) is None
    office.holds_lease = False
    office.tick(EVERY)
    assert len(office.sent) == 1, "without the lease nothing is sent, and the numbers are kept all the same"
    assert office.counts()["age"] == 2 * EVERY.total_seconds()


def test_it_gives_way_to_real_notices_of_its_channel(office: Office) -> None:
    person = office.case.person(1, ("email",))
    (intent,) = office.case.claim(EMAIL_LANE)
    for _ in range(3):
        office.tick(timedelta(seconds=5))
    assert (office.sent, office.counts()["yielded"]) == ([], 1.0)
    assert office.counts()["age"] == 15.0
    office.case.hand_over([intent])
    office.tick(timedelta(seconds=5))
    assert len(office.sent) == 1
    assert person


def test_nothing_of_it_is_among_real_notices(office: Office) -> None:
    office.case.person(1, ("email",))
    (intent,) = office.case.claim(EMAIL_LANE)
    office.case.hand_over([intent])
    office.tick()
    real = replace(office.receipt(intent.attempt_id), provider_message_id="m-real")
    looks_alike = replace(office.receipt(office.sent[0][:6] + "0" * 26), provider_event_id="x")
    assert office.tables.settle([office.receipt(office.sent[0]), real, looks_alike]) == [real, looks_alike]
    with office.case.database.read() as connection:
        for table in (tables.receipt, tables.outbox, tables.page, tables.act):
            rows = connection.execute(sa.select(table)).all()
            assert not any(office.sent[0] in str(row) for row in rows), table.name
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.attempt)).scalar_one() == 1
    assert sum(office.case.ledger.attempts().values()) == 1


def test_an_sms_is_known_by_its_providers_id_also_when_its_report_is_first(office: Office) -> None:
    texts = Office(office.case, replace(office.route, channel=Channel.SMS, provider="sns"))
    early = replace(texts.receipt(""), provider="sns", provider_event_id="m-1/SUCCESS", provider_message_id="m-1")
    early = replace(early, attempt_id=None)
    assert texts.tables.settle([early]) == [early], "nobody knows yet whose it is"
    office.case.ledger.settle_receipts([early])
    texts.answer = lambda message_id: SendResult(message_id, ACCEPTED, "m-1")
    texts.tick()
    assert texts.last().stage is CanaryStage.ARRIVED
    assert (texts.counts()["arrived"], texts.counts()["sent"]) == (1, 1)
    with office.case.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.receipt)).scalar_one() == 0
    texts.answer = lambda message_id: SendResult(message_id, ACCEPTED, "m-2")
    texts.tick(EVERY)
    failure = replace(early, provider_event_id="m-2/FAILURE", provider_message_id="m-2", kind=ReceiptKind.REJECTED)
    assert texts.tables.settle([failure, early]) == []
    assert (texts.last().stage, texts.last().code) == (CanaryStage.FAILED, "rejected")


def test_a_report_that_is_read_in_the_moment_of_the_answer_is_found_before_the_message_is_given_up(
    office: Office,
) -> None:
    texts = Office(office.case, replace(office.route, channel=Channel.SMS, provider="sns"))
    texts.answer = lambda message_id: SendResult(message_id, ACCEPTED, "m-1")
    told = replace(texts.receipt(""), provider="sns", provider_event_id="m-1/SUCCESS", provider_message_id="m-1")
    told = replace(told, attempt_id=None)
    assert texts.tables.settle([told]) == [told], "looked before the answer was written"
    texts.tick()
    # and kept it aside after the sender had looked there
    office.case.ledger.settle_receipts([told])
    texts.tick(PATIENCE)
    assert (texts.last().stage, texts.last().code) == (CanaryStage.ARRIVED, None)
    assert (texts.counts()["arrived"], texts.counts()["failed"], texts.counts()["failing"]) == (1, 0, 0)
    with office.case.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.receipt)).scalar_one() == 0


def test_old_ones_go(office: Office) -> None:
    office.tick()
    office.tick(KEPT + timedelta(seconds=1))
    office.tick(EVERY)
    with office.case.database.read() as connection:
        began = connection.execute(sa.select(tables.canary_message.c.began_at)).scalars().all()
    assert all(at > NOW for at in began)
    assert (len(office.sent), len(began)) == (3, 2)


def test_a_silent_case_store_stops_nothing(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object) -> datetime:
        raise Unreachable("the case store does not answer")

    monkeypatch.setattr(office.tables, "give_up", silent)
    office.tick(timedelta(seconds=40))
    assert (office.sent, office.counts()["age"]) == ([], 40.0)


@pytest.mark.parametrize(
    ("expects", "kinds", "stage"),
    [
        ("bounced_hard", ("sent", "bounced_hard"), CanaryStage.ARRIVED),
        ("bounced_hard", ("sent", "delivered"), CanaryStage.SENT),
        ("complained", ("sent", "delivered"), CanaryStage.SENT),
        ("complained", ("complained", "delivered"), CanaryStage.ARRIVED),
        ("delivered", ("sent", "delayed"), CanaryStage.SENT),
        ("delivered", ("complained",), CanaryStage.ARRIVED),
        ("delivered", ("rendering_failed",), CanaryStage.FAILED),
        ("delivered", ("bounced_soft", "delivered"), CanaryStage.ARRIVED),
    ],
)
def test_what_receipts_make_of_a_message(expects: str, kinds: tuple[str, ...], stage: CanaryStage) -> None:
    now = CanaryStage.SENDING
    for kind in kinds:
        now = stage_after_receipt(now, ReceiptKind(expects), ReceiptKind(kind))
    assert now is stage
