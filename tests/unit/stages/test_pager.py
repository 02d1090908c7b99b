"""Stage pager on a real case store: delivered, repeated, settled; receivers that fail keep nobody else waiting."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import Unreachable
from bridge.runtime.telemetry import Health
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.paging import PagingTable
from consumers.adapters.case_store.tables import page, page_delivery
from consumers.domain.paging import PagingPolicy, ReceiverKind, StandingPage
from consumers.stages.pager import SENT, UNACKNOWLEDGED, UNDELIVERED, PagerStage
from tests.unit.adapters.ledger_case import sqlite_case_store

START = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)


class SetClock:
    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at


class AlwaysOurs:
    def take(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Recorder:
    """A receiver that keeps what it took, and fails while told to."""

    def __init__(self, kind: ReceiverKind = ReceiverKind.ON_CALL) -> None:
        self.kind = kind
        self.name = kind.value
        self.taken: list[tuple[str, bool, bool]] = []
        self.down = False

    def deliver(self, page: StandingPage, *, escalated: bool, now: datetime) -> None:
        if self.down:
            raise Unreachable("receiver answers 500")
        self.taken.append((page.page_id, page.settled, escalated))


class Scene:
    def __init__(self, database: CaseDatabase, *receivers: Recorder) -> None:
        self.clock = SetClock()
        self.database = database
        self.receivers = receivers
        self.stage = PagerStage(
            PagingTable(database, self.clock), receivers, PagingPolicy(), AlwaysOurs(), self.clock, Health()
        )

    def raise_page(
        self, page_id: str = "p1", incident_id: str | None = "INC-2026-0001", severity: str = "critical"
    ) -> None:
        row = {
            "page_id": page_id, "incident_id": incident_id, "kind": "incident.opened", "severity": severity,
            "roles": ["responder"], "title": "it burns", "body": {"next": "tocsin incident ack INC-2026-0001"},
            "raised_at": self.clock.at,
        }  # fmt: skip
        with self.database.write() as connection:
            connection.execute(sa.insert(page), row)

    def acknowledge(self) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(page).values(acknowledged_at=self.clock.at, acknowledged_by="ana"))

    def after(self, **span: float) -> list[int]:
        self.clock.at += timedelta(**span)
        return [self.stage.tell(receiver, threading.Event()) for receiver in self.receivers]


@pytest.fixture
def database(tmp_path: Path) -> CaseDatabase:
    return sqlite_case_store(tmp_path / "case.db")


def test_a_page_is_repeated_until_somebody_looks_then_it_is_settled_everywhere(database: CaseDatabase) -> None:
    on_call, boss = Recorder(), Recorder(ReceiverKind.ESCALATION)
    scene = Scene(database, on_call, boss)
    scene.raise_page()
    assert scene.after() == [1, 0]
    assert scene.after(minutes=14) == [0, 0]
    assert scene.after(minutes=1) == [1, 0]
    assert scene.after(minutes=15) == [1, 1], "half an hour without anybody: it goes further"
    assert on_call.taken[-1] == boss.taken[-1] == ("p1", False, True)
    scene.acknowledge()
    assert scene.after(seconds=1) == [1, 1]
    assert on_call.taken[-1] == ("p1", True, False)
    assert scene.after(hours=5) == [0, 0]


def test_what_nobody_heard_of_need_not_be_settled(database: CaseDatabase) -> None:
    scene = Scene(database, Recorder())
    scene.raise_page()
    scene.acknowledge()
    assert scene.after(hours=1) == [0]


def test_a_receiver_that_is_down_is_tried_again_and_the_last_resort_is_told(database: CaseDatabase) -> None:
    on_call, mail = Recorder(), Recorder(ReceiverKind.LAST_RESORT)
    on_call.down = True
    scene = Scene(database, on_call, mail)
    failed = SENT.labels("on_call", "failed")._value.get()
    scene.raise_page()
    assert scene.after() == [0, 0]
    assert scene.after(seconds=1) == [0, 0]
    assert SENT.labels("on_call", "failed")._value.get() - failed == 1, "not hammered"
    scene.stage._measure()
    assert UNDELIVERED._value.get() == 1
    assert UNACKNOWLEDGED.labels("critical")._value.get() == 1
    assert scene.after(minutes=10) == [0, 1]
    scene.stage._measure()
    assert UNDELIVERED._value.get() == 0
    on_call.down = False
    assert scene.after(minutes=2) == [1, 0]


def test_a_second_pager_goes_on_where_the_first_one_fell(database: CaseDatabase) -> None:
    """A crash between delivery and its record: the receiver hears of the same page, by the same key, once more."""
    first = Scene(database, Recorder())
    first.raise_page()
    first.after()
    with database.write() as connection:
        connection.execute(sa.delete(page_delivery))
    second = Scene(database, Recorder())
    assert second.after() == [1]
    assert first.receivers[0].taken == second.receivers[0].taken


def test_a_slow_receiver_keeps_no_other_one_waiting(database: CaseDatabase) -> None:
    class Stuck(Recorder):
        def __init__(self) -> None:
            super().__init__(ReceiverKind.ESCALATION)
            self.called, self.go_on = threading.Event(), threading.Event()

        def deliver(self, page: StandingPage, *, escalated: bool, now: datetime) -> None:
            self.called.set()
            assert self.go_on.wait(30)

    class Told(Recorder):
        told = threading.Event()

        def deliver(self, page: StandingPage, *, escalated: bool, now: datetime) -> None:
            super().deliver(page, escalated=escalated, now=now)
            self.told.set()

    stuck, quick, stop = Stuck(), Told(), threading.Event()
    scene = Scene(database, stuck, quick)
    scene.raise_page()
    scene.clock.at += timedelta(hours=1)
    running = threading.Thread(target=scene.stage.run, args=(stop,))
    running.start()
    try:
        assert stuck.called.wait(30)
        assert quick.told.wait(30)
    finally:
        stop.set()
        stuck.go_on.set()
        running.join(30)
    assert not running.is_alive()
