"""The clock stage: each mark is told once, the highest only, and a silent case store is waited for."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import Unreachable
from bridge.runtime.clock import SetClock
from bridge.runtime.telemetry import Health
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.clocks import Clocks
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.case.figures import CaseFigures
from consumers.case.watch import Watched
from consumers.domain.clocks import LATE_PEOPLE, Mark, RunningClock
from consumers.stages.clock import AFFECTED, APPROVALS, CLOSEST, DUE, ELAPSED, RUNNING, ClockStage
from tests.unit.adapters.ledger_case import sqlite_case_store
from tests.unit.case.cases import Case

START = datetime(2026, 3, 1, tzinfo=UTC)
INCIDENT = "INC-2026-0001"


class NothingElse:
    """No duty to work out, nobody to escalate."""

    def look(self, now: datetime) -> Watched:
        return Watched(0, 0.0, 0, 0)


class FakeTable:
    """Clocks and the marks already told."""

    def __init__(self, *clocks: RunningClock) -> None:
        self.clocks = list(clocks)
        self.told: list[Mark] = []

    def running(self) -> Sequence[RunningClock]:
        return self.clocks

    def tell(self, marks: Sequence[Mark]) -> int:
        new = [mark for mark in marks if mark not in self.told]
        self.told.extend(new)
        return len(new)

    def end_pages(self, clocks: Sequence[RunningClock]) -> None:
        """Nothing was raised."""


def clock_of(regime: str = "eu-gdpr-33", hours: float = 72) -> RunningClock:
    return RunningClock(
        INCIDENT, 1, "c", regime, "supervisory_authority", START, START + timedelta(hours=hours), True, False
    )


def test_each_mark_is_told_once_in_order() -> None:
    now, table = SetClock(START), FakeTable(clock_of())
    stage = ClockStage(table, NothingElse(), now, Health())
    told = 0
    for minute in range(0, 73 * 60, 10):
        now.at = START + timedelta(minutes=minute)
        told += stage.look()
    assert [mark.percent for mark in table.told] == [50, 75, 90, 100]
    assert told == 4


def test_who_starts_late_hears_the_highest_mark_only() -> None:
    table = FakeTable(clock_of(), clock_of("us-tx", hours=1))
    assert ClockStage(table, NothingElse(), SetClock(START + timedelta(hours=65)), Health()).look() == 2
    assert {mark.clock.regime_id: mark.percent for mark in table.told} == {"eu-gdpr-33": 90, "us-tx": 100}


def test_the_closest_deadline_is_shown() -> None:
    stage = ClockStage(FakeTable(clock_of(), clock_of("x", 2)), NothingElse(), SetClock(START), Health())
    stage.look()
    assert (CLOSEST._value.get(), RUNNING._value.get()) == (7200, 2)
    ClockStage(FakeTable(), NothingElse(), SetClock(START), Health()).look()
    assert (CLOSEST._value.get(), RUNNING._value.get()) == (float("inf"), 0)


def test_a_missed_deadline_hides_no_other_that_comes_closer() -> None:
    missed = replace(clock_of("x", 2), incident_id="INC-2026-0002")
    table = FakeTable(clock_of("x", 100), clock_of("z", 80), missed)
    ClockStage(table, NothingElse(), SetClock(START + timedelta(hours=75)), Health()).look()
    assert (CLOSEST._value.get(), ELAPSED.labels("x")._value.get()) == (5 * 3600, 0.75)
    table.clocks = [missed]
    ClockStage(table, NothingElse(), SetClock(START + timedelta(hours=3)), Health()).look()
    assert (CLOSEST._value.get(), ELAPSED.labels("x")._value.get()) == (float("inf"), 1.5)


def test_each_duty_shows_both_its_dates_and_how_much_of_its_time_has_passed() -> None:
    both = replace(
        clock_of("x", 100), conservative_at=START + timedelta(hours=80), recorded_at=START + timedelta(hours=100)
    )
    later = replace(
        both, conservative_at=START + timedelta(hours=90), recorded_at=None, deadline_at=START + timedelta(400)
    )
    exercise = replace(both, regime_id="y", exercise=True)
    figures = CaseFigures(approvals_waiting=2, recorded_people=5, possible_people=3)
    now, table = SetClock(START + timedelta(hours=75)), FakeTable(both, later, exercise)
    stage = ClockStage(table, NothingElse(), now, Health(), figures=lambda: figures)
    stage.look()
    hours = [DUE.labels("x", clock)._value.get() / 3600 for clock in ("conservative", "recorded")]
    assert (hours, ELAPSED.labels("x")._value.get()) == ([5, 25], 0.75)
    assert "'duty': 'y'" not in str(list(DUE.collect())), "an exercise is nobody's deadline"
    assert (APPROVALS._value.get(), AFFECTED.labels("possible")._value.get()) == (2, 3)
    table.clocks = []
    stage.look()
    assert (DUE.labels("x", "recorded")._value.get(), ELAPSED.labels("x")._value.get()) == (float("inf"), 0)


def test_a_silent_case_store_is_waited_for_and_said() -> None:
    stop, health = threading.Event(), Health()
    seen: list[dict[str, str]] = []

    class Silent(FakeTable):
        def running(self) -> Sequence[RunningClock]:
            seen.append(health.reasons())
            if len(seen) == 1:
                raise Unreachable("the case store does not answer")
            if len(seen) == 3:
                stop.set()
            return ()

    ClockStage(Silent(), NothingElse(), SetClock(START), health, look_seconds=0.001).run(stop)
    assert [list(reasons) for reasons in seen] == [[], ["case store"], []]


@pytest.fixture
def database(tmp_path: Path) -> CaseDatabase:
    opened = sqlite_case_store(tmp_path / "case.db")
    with opened.write() as connection:
        connection.execute(
            sa.insert(tables.incident).values(
                incident_id=INCIDENT, number=1, year=2026, source="monitor", fingerprint="f",
                fingerprint_sha256="0" * 64, occurrence=1, title="t",
                state="confirmed", revision=1, unsigned_source=False, exercise=False, repeat_count=0,
                detected_at=START, opened_at=START, epoch=1,
            )
        )  # fmt: skip
        connection.execute(
            sa.insert(tables.obligation).values(
                incident_id=INCIDENT, revision=1, controller="c", regime_id="eu-gdpr-33", status="due",
                recipient="supervisory_authority", conservative_deadline_at=START + timedelta(hours=72), detail={},
            )
        )  # fmt: skip
    return opened


def test_two_clocks_on_one_store_tell_a_mark_once_with_page_and_event(database: CaseDatabase) -> None:
    now = SetClock(START + timedelta(hours=40))
    stages = [ClockStage(Clocks(database, now), NothingElse(), now, Health()) for _ in range(2)]
    assert sum(stage.look() for _ in range(3) for stage in stages) == 1
    with database.read() as connection:
        (page,) = connection.execute(sa.select(tables.page)).mappings().all()
        (row,) = connection.execute(sa.select(tables.outbox)).mappings().all()
        (mark,) = connection.execute(sa.select(tables.clock_mark)).mappings().all()
    assert row["event_id"] == mark["mark_id"]
    assert (page["kind"], page["severity"]) == ("deadline.warned", "warning")
    assert page["title"] == f"{INCIDENT}: 50 % of the time has passed for eu-gdpr-33"
    now.at = START + timedelta(hours=80)
    assert stages[0].look() == 1


def test_a_page_about_a_deadline_ends_with_its_duties_and_stands_again_with_them(database: CaseDatabase) -> None:
    now = SetClock(START + timedelta(hours=80))
    stage = ClockStage(Clocks(database, now), NothingElse(), now, Health())

    def standing() -> list[tuple[str, datetime]]:
        stage.look()
        with database.read() as connection:
            rows = connection.execute(sa.select(tables.page).where(tables.page.c.acknowledged_at.is_(None)))
            return [(row.kind, row.raised_at) for row in rows]

    def set_duty(**changes: Any) -> None:
        now.at += timedelta(hours=1)
        with database.write() as connection:
            connection.execute(sa.update(tables.obligation).values(**changes))

    assert standing() == standing() == [("deadline.missed", now.at)]
    set_duty(status="met")
    assert standing() == []
    set_duty(status="due")
    assert standing() == [("deadline.missed", now.at)]
    # the clock of awareness takes its place: another date, which is not near
    set_duty(deadline_at=START + timedelta(hours=900))
    assert standing() == []
    set_duty(deadline_at=None)
    assert len(standing()) == 1
    with database.write() as connection:
        connection.execute(sa.update(tables.page).values(acknowledged_at=now.at, acknowledged_by="dora"))
    assert standing() == []


@pytest.mark.parametrize(
    "over",
    [{"status": "not_due"}, {"conservative_deadline_at": None}],
    ids=lambda over: next(iter(over)),
)
def test_a_duty_that_is_not_owed_or_without_a_date_has_no_clock(database: CaseDatabase, over: dict[str, Any]) -> None:
    with database.write() as connection:
        connection.execute(sa.update(tables.obligation).values(**over))
    assert Clocks(database, SetClock(START)).running() == ()


@pytest.mark.parametrize("over", [{"closed_at": START}, {"state": "dismissed"}], ids=lambda o: next(iter(o)))
def test_an_incident_that_is_closed_or_dismissed_has_no_clocks(database: CaseDatabase, over: dict[str, Any]) -> None:
    with database.write() as connection:
        connection.execute(sa.update(tables.incident).values(**over))
    assert Clocks(database, SetClock(START)).running() == ()


def test_a_revised_incident_keeps_its_clocks_until_it_is_planned_anew(database: CaseDatabase) -> None:
    with database.write() as connection:
        connection.execute(sa.update(tables.incident).values(revision=2))
    clocks = Clocks(database, SetClock(START))
    assert [each.regime_id for each in clocks.running()] == ["eu-gdpr-33"]
    with database.write() as connection:
        connection.execute(
            sa.insert(tables.obligation).values(
                incident_id=INCIDENT, revision=2, controller="c", regime_id="us-tx", status="due",
                recipient="individual", conservative_deadline_at=START + timedelta(hours=99), detail={},
            )
        )  # fmt: skip
    assert [each.regime_id for each in clocks.running()] == ["us-tx"]


def test_a_notice_to_individuals_is_met_when_each_was_reached(tmp_path: Path) -> None:
    case = Case(tmp_path)
    name = case.receive().incident_id
    case.plan(name)
    case.execute(sa.delete(tables.obligation))
    for regime, to in (("us-ca-ind", "individual"), ("eu-gdpr-33", "supervisory_authority")):
        case.execute(
            sa.insert(tables.obligation).values(
                incident_id=name, revision=1, controller="shop", regime_id=regime, status="due", recipient=to,
                conservative_deadline_at=START + timedelta(hours=72), detail={},
            )
        )  # fmt: skip

    def running() -> set[str]:
        return {each.regime_id for each in Clocks(case.database, SetClock(START)).running()}

    people = case.rows(tables.recipient)
    assert len(people) > 1
    case.execute(sa.update(tables.recipient).values(controller="shop"))
    assert running() == {"us-ca-ind", "eu-gdpr-33"}
    case.execute(sa.update(tables.recipient).values(final_state="reached"))
    assert running() == {"eu-gdpr-33"}
    one = tables.recipient.c.recipient_id == people[0]["recipient_id"]
    case.execute(sa.update(tables.recipient).where(one).values(final_state=None))
    assert running() == {"us-ca-ind", "eu-gdpr-33"}
    case.execute(sa.update(tables.recipient).where(one).values(final_state="unreachable_reported"))
    assert running() == {"us-ca-ind", "eu-gdpr-33"}
    case.execute(sa.update(tables.recipient).where(one).values(final_state=None))
    case.execute(sa.update(tables.recipient).where(one).values(added_at=START, deadline_at=START + timedelta(hours=90)))
    assert running() == {LATE_PEOPLE, "eu-gdpr-33"}


def test_a_recorded_deadline_replaces_the_conservative_one(database: CaseDatabase) -> None:
    recorded = START + timedelta(hours=90)
    with database.write() as connection:
        connection.execute(sa.update(tables.obligation).values(deadline_at=recorded))
    (running,) = Clocks(database, SetClock(START)).running()
    assert (running.deadline_at, running.conservative) == (recorded, False)
