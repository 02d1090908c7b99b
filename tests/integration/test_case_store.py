"""The case store on a real MariaDB: migrations, the ledger's promises, and many writers at once."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.events import CaseEvent, Channel, DeliverNotice, DeliverNotices
from bridge.contracts.partitioner import partition_of
from bridge.contracts.topics import CASE_EVENTS, DELIVERY_COMMANDS
from consumers.adapters.case_store import engine, outbox, tables
from consumers.adapters.case_store.engine import CaseDatabase, migrate
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.ledger import Ledger
from consumers.adapters.case_store.lineage import LineageTables
from consumers.adapters.case_store.outbox import Outbox, Outgoing, Written
from consumers.adapters.case_store.positions import read_positions, take_lease, write_positions
from consumers.adapters.case_store.registry import RegistryTables
from consumers.domain.delivery import Trigger
from consumers.domain.ledger import Counts, Intent, SentReport
from consumers.domain.openlineage import DatasetFact, Role, RunFact
from consumers.domain.registry import RegisteredVersion, RegistrySnapshot, alias_at, observe
from consumers.domain.sending import ReceiptKind
from tests.servers.mariadb import MariaDbServer, StoreDatabase, fresh_database
from tests.unit.adapters import test_comparing as comparing
from tests.unit.adapters import test_erasures as erasing
from tests.unit.adapters import test_lacking_decisions as decided
from tests.unit.adapters.evidence_case import EvidenceCase, delivered_case
from tests.unit.adapters.ledger_case import EMAIL_LANE, SMS_LANE, Case, LedgerCases, receipt_of
from tests.unit.adapters.packed_case import PackedCases
from tests.unit.adapters.test_case_store_schema import (
    people_of_before_merged_roots_were_kept,
    releases_of_before_their_order_was_kept,
)
from tests.unit.adapters.test_twins import TwinCases
from tests.unit.stages import test_planning as planning
from tests.unit.stages import test_planning_late as late_planning
from tests.unit.stages.test_planning import INCIDENT, World, world_on

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def opened(empty_mariadb_database: StoreDatabase) -> Iterator[CaseDatabase]:
    database = CaseDatabase(empty_mariadb_database.url)
    yield database
    database.close()


@pytest.fixture(scope="module")
def migrated(mariadb_server: MariaDbServer) -> Iterator[CaseDatabase]:
    """One migrated database for all cases; `database` empties it between them."""
    with fresh_database(mariadb_server, with_tables=False) as own:
        kept = CaseDatabase(own.url)
        migrate(kept)
        yield kept
        kept.close()


@pytest.fixture
def database(migrated: CaseDatabase) -> CaseDatabase:
    with migrated.write() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(sa.delete(table))
    return migrated


@pytest.fixture
def case(database: CaseDatabase) -> Case:
    return Case(database)


class TestOnMariaDb(LedgerCases):
    """Every promise of the ledger on MariaDB."""


class TestTwinsOnMariaDb(TwinCases):
    """One person under several roots, on MariaDB."""


def after_counting(patched: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen each time that people have been counted, before the ledger acts on it."""
    count = Ledger._counts

    def counted(connection: sa.Connection, incident_id: str) -> Counts:
        found = count(connection, incident_id)
        happens()
        return found

    patched.setattr(Ledger, "_counts", staticmethod(counted))


def test_a_bounce_that_is_written_while_the_last_people_are_counted_is_carried_on(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To count a million takes a second, and asynchronous bounces keep coming."""
    person = case.person(1)
    (intent,) = case.claim(EMAIL_LANE)
    case.hand_over([intent])
    case.receive(intent, ReceiptKind.DELIVERED)
    with monkeypatch.context() as patched:
        after_counting(patched, lambda: case.receive(intent, ReceiptKind.BOUNCED_HARD))
        assert case.ledger.finish_releases() == [(INCIDENT, "r1")]
    assert case.states(person) == [("email", "bounced"), ("sms", "planned")]
    assert [each.recipient_id for each in case.claim(SMS_LANE)] == [person]


def test_a_release_that_is_stopped_while_its_people_are_counted_stays_stopped(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.person(1)
    (intent,) = case.claim(EMAIL_LANE)
    case.hand_over([intent])
    case.receive(intent, ReceiptKind.DELIVERED)
    after_counting(monkeypatch, lambda: case.set_release("r1", "cancelled"))
    assert case.ledger.finish_releases() == []
    with case.database.read() as connection:
        assert connection.execute(sa.select(tables.release.c.state)).scalar_one() == "cancelled"
    assert "release.finished" not in {event["kind"] for event in case.case_events()}


class TestPackedOnMariaDb(PackedCases):
    """Every promise of packed reads on MariaDB."""


LATE: tuple[Callable[[World], None], ...] = (
    late_planning.test_what_came_late_has_leaves_and_roots_of_its_own_in_the_log,
    late_planning.test_who_is_told_and_of_whom_more_is_found_gets_one_supplement_of_their_own,
    late_planning.test_a_first_notice_that_has_not_left_gives_way_to_the_fuller_one,
    late_planning.test_a_corrected_scope_keeps_tells_and_corrects_whom_it_must,
    late_planning.test_late_people_have_a_clock_that_is_watched_though_the_duty_is_met,
)


@pytest.mark.parametrize("promise", LATE, ids=lambda promise: promise.__name__.removeprefix("test_"))
def test_planning_keeps_its_promises_to_late_people(
    database: CaseDatabase, tmp_path: Path, promise: Callable[[World], None]
) -> None:
    world = world_on(database, tmp_path)
    promise(world)
    with database.read() as connection:
        late = SqlCaseWork(connection, world.clock.now()).late(INCIDENT)
        people = SqlCaseWork(connection, world.clock.now()).people(INCIDENT)
    assert late.supplements == sum(each.supplements is not None for each in people)


def test_a_plan_is_drawn_up_in_parts(database: CaseDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half_drawn = planning.test_a_plan_half_drawn_when_the_process_died_is_not_released_and_is_drawn_up_again
    half_drawn(world_on(database, tmp_path), monkeypatch, complete=True)


@pytest.fixture
def delivered(database: CaseDatabase, tmp_path: Path) -> EvidenceCase:
    return delivered_case(tmp_path, database)


@pytest.fixture
def backup(empty_mariadb_database: StoreDatabase) -> Iterator[CaseDatabase]:
    """A second case store, for what a backup holds."""
    kept = CaseDatabase(empty_mariadb_database.url)
    tables.metadata.create_all(kept.engine)
    yield kept
    kept.close()


def test_a_person_is_erased_and_packages_and_comparisons_say_so(delivered: EvidenceCase, tmp_path: Path) -> None:
    erasing.test_a_request_is_held_while_an_incident_is_open_and_carried_out_when_it_is_closed(delivered, tmp_path)
    packed = comparing.comparison_of(delivered).reconcile(INCIDENT)
    assert packed.differences == []


def test_an_ended_incident_is_compared_and_a_difference_told(delivered: EvidenceCase) -> None:
    comparing.test_a_difference_is_told_when_the_log_has_had_its_time_and_ends_by_itself(delivered)


def test_a_restored_backup_tells_nobody_twice(database: CaseDatabase, backup: CaseDatabase, tmp_path: Path) -> None:
    halfway = comparing.halfway_case(EvidenceCase(tmp_path, database), backup)
    comparing.test_a_store_that_was_not_restored_lacks_nothing(halfway)
    comparing.test_after_a_restored_backup_nobody_is_told_twice(halfway)
    case, _ = halfway
    erasing.no_erased_key_comes_back(case, backup)


def test_a_late_status_finds_its_text_after_a_restored_backup(
    database: CaseDatabase, backup: CaseDatabase, tmp_path: Path
) -> None:
    case, restored = comparing.text_on_its_way(EvidenceCase(tmp_path, database), backup)
    comparing.judge_late_status(case, restored, ReceiptKind.DELIVERED)
    case.clock.at += timedelta(days=31)
    assert restored.ledger.forget_strays() == 1


def test_what_was_stopped_since_the_backup_does_not_run(
    database: CaseDatabase, backup: CaseDatabase, tmp_path: Path
) -> None:
    running = decided.running_case(EvidenceCase(tmp_path, database))
    decided.judge(decided.restored_after(running, tmp_path, decided.cancel, backup=backup), "release.cancelled")


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run `works` in threads that begin together; return what each returned. Raises what any of them raised."""
    together = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(number: int, work: Callable[[], Any]) -> None:
        together.wait(60)
        try:
            results[number] = work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
    return results


# migrations


def test_migrations_make_exactly_the_declared_tables(database: CaseDatabase) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_each_kind_of_server_takes_all_migrations(store_server: MariaDbServer) -> None:
    with fresh_database(store_server, with_tables=False) as own:
        database = CaseDatabase(own.url)
        migrate(database)
        migrate(database)
        with database.read() as connection:
            assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
        database.close()


def test_three_processes_may_migrate_at_once(empty_mariadb_database: StoreDatabase, opened: CaseDatabase) -> None:
    program = (
        "import sys; from consumers.adapters.case_store.engine import CaseDatabase, migrate; "
        "sys.stdin.readline(); database = CaseDatabase(sys.argv[1]); migrate(database); database.close()"
    )
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_mariadb_database.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in racing]
    assert [process.returncode for process in racing] == [0, 0, 0], said
    with opened.read() as connection:
        assert set(tables.metadata.tables) <= set(sa.inspect(connection).get_table_names())


def test_an_upgrade_finds_the_roots_that_were_merged_into_people(opened: CaseDatabase) -> None:
    people_of_before_merged_roots_were_kept(opened)


def test_an_upgrade_finds_which_releases_began_before_a_cancel(opened: CaseDatabase) -> None:
    releases_of_before_their_order_was_kept(opened)


def test_what_an_interrupted_migration_left_is_refused_by_name(opened: CaseDatabase) -> None:
    with opened.write() as connection:
        connection.execute(sa.text("CREATE TABLE outbox (outbox_id INT)"))
    with pytest.raises(Refused, match="empty it and start again"):
        migrate(opened)


def test_a_server_that_is_not_there_is_said(empty_mariadb_database: StoreDatabase) -> None:
    gone = CaseDatabase("mysql+pymysql://tocsin@127.0.0.1:1/tocsin")
    with pytest.raises(Unreachable, match=r"case_store\.url"):
        migrate(gone)


# what the columns keep


def test_instants_bytes_and_texts_come_back_as_they_went_in(database: CaseDatabase) -> None:
    body = bytes(range(256)) * 5000
    with database.write() as connection:
        connection.execute(
            sa.insert(tables.alert).values(
                alert_id="a", incident_id="i", source="s", received_at=NOW, signed=True, readable=False, body=body
            )
        )
        connection.execute(
            sa.insert(tables.fact).values(
                incident_id="i", name="n", value={"k": "Zoë 🔔"}, recorded_at=NOW, reason="🔔"
            )
        )
    with database.read() as connection:
        row = connection.execute(sa.select(tables.alert)).mappings().one()
        fact = connection.execute(sa.select(tables.fact)).mappings().one()
    assert (row["received_at"], row["body"]) == (NOW, body)
    assert (fact["value"], fact["reason"]) == ({"k": "Zoë 🔔"}, "🔔")


def test_a_failed_transaction_leaves_nothing(database: CaseDatabase) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        write_positions(connection, "s", {("t", 0): 5})
        raise RuntimeError
    assert read_positions(database, "s", [("t", 0)]) == {}


# many at once


def test_the_locks_of_a_process_that_froze_in_a_transaction_are_given_up(database: CaseDatabase) -> None:
    with pytest.raises(Unreachable), database.write() as frozen:
        frozen.execute(sa.text("SET SESSION idle_transaction_timeout = 1"))
        position = {"stage": "s", "topic": "t", "partition": 0, "next_offset": 1}
        frozen.execute(sa.insert(tables.kafka_position).values(**position))
        # waits for that row's lock, and gets it once the server has ended the other's transaction
        other = threading.Thread(
            target=lambda: database.writing(lambda connection: write_positions(connection, "s", {("t", 0): 7}))
        )
        other.start()
        other.join(30)
        assert read_positions(database, "s", [("t", 0)]) == {("t", 0): 7}
        frozen.execute(sa.text("SELECT 1"))
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT @@idle_transaction_timeout")).scalar_one() == 120


@pytest.mark.parametrize("rested", [True, False], ids=["rested", "just used"])
def test_a_connection_that_the_server_closed_is_replaced(
    database: CaseDatabase, monkeypatch: pytest.MonkeyPatch, *, rested: bool
) -> None:
    monkeypatch.setattr(engine, "_SURELY_THERE_SECONDS", 0.0 if rested else 3600.0)
    number = sa.text("SELECT CONNECTION_ID()")
    administrator = sa.create_engine(database.engine.url)
    for begin in (database.read, database.write):
        with begin() as connection:
            closed = connection.execute(number).scalar_one()
        with administrator.connect() as other:
            other.execute(sa.text(f"KILL {closed}"))
            listed = sa.text("SELECT COUNT(*) FROM information_schema.processlist WHERE id = :closed")
            while other.execute(listed, {"closed": closed}).scalar_one():
                pass
        with begin() as connection:
            assert connection.execute(number).scalar_one() != closed
    administrator.dispose()


def test_a_lease_that_nobody_ever_had_has_one_first_holder(database: CaseDatabase) -> None:
    for round_number in range(20):
        name = f"lease-{round_number}"
        taken = at_once(*(partial(take_lease, database, name, holder, NOW, 10) for holder in ("a", "b", "c")))
        assert sorted(taken, key=str) == [1, None, None]


def test_deadlock_victims_begin_anew(database: CaseDatabase) -> None:
    with database.write() as connection:
        write_positions(connection, "s", {("t", 0): 0, ("t", 1): 0})
    both_hold_one = threading.Barrier(2)
    attempts: list[int] = []

    def count_up(first: int, second: int) -> Callable[[], None]:
        met = False

        def work(connection: sa.Connection) -> None:
            nonlocal met
            attempts.append(first)
            one_more(connection, first)
            if not met:
                met = True
                both_hold_one.wait(60)
            one_more(connection, second)

        return lambda: database.writing(work)

    at_once(count_up(0, 1), count_up(1, 0))
    assert read_positions(database, "s", [("t", 0), ("t", 1)]) == {("t", 0): 2, ("t", 1): 2}
    assert len(attempts) == 3


def one_more(connection: sa.Connection, partition: int) -> None:
    position = tables.kafka_position
    connection.execute(
        sa.update(position).where(position.c.partition == partition).values(next_offset=position.c.next_offset + 1)
    )


def test_dispatchers_that_read_the_same_commands_own_no_attempt_twice(case: Case) -> None:
    people = [case.person(number) for number in range(200)]
    case.ledger.begin_attempts(1000)
    case.ledger.meter(EMAIL_LANE)
    commands = case.commands()

    def dispatcher(name: str, backwards: bool) -> Callable[[], list[Intent]]:
        mine = commands[::-1] if backwards else commands

        def work() -> list[Intent]:
            return [
                intent
                for start in range(0, len(mine), 20)
                for intent in case.ledger.intend(mine[start : start + 20], name, "dispatch", {("t", len(name)): start})
            ]

        return work

    owned = at_once(dispatcher("d1", False), dispatcher("d22", True), dispatcher("d333", False))
    ids = [intent.attempt_id for intents in owned for intent in intents]
    assert len(ids) == len(set(ids)) == len(people)
    assert all(intent.send_count == 1 for intents in owned for intent in intents)


def test_meters_reports_receipts_and_sweeps_at_once_lose_nobody(case: Case) -> None:
    people = [case.person(number) for number in range(120)]
    intents = case.claim(EMAIL_LANE)
    halves = intents[:60], intents[60:]

    def report(part: Sequence[Intent]) -> Callable[[], None]:
        def work() -> None:
            for start in range(0, len(part), 10):
                case.hand_over(list(part[start : start + 10]))

        return work

    def receive(part: Sequence[Intent]) -> Callable[[], None]:
        def work() -> None:
            for n, intent in enumerate(part):
                kind = ReceiptKind.BOUNCED_HARD if n % 3 == 0 else ReceiptKind.DELIVERED
                case.ledger.settle_receipts([receipt_of(intent, kind, "", NOW)])

        return work

    def sweep() -> None:
        for _ in range(10):
            case.ledger.sweep(
                command_patience=timedelta(hours=1),
                intent_patience=timedelta(hours=1),
                unknown_patience=timedelta(hours=1),
            )
            case.ledger.begin_attempts(100)

    # backwards, so that transactions meet in opposite order
    at_once(report(halves[0]), report(halves[1]), receive(halves[0][::-1]), receive(halves[1][::-1]), sweep)
    ends = [case.end(person) for person in people]
    tried = [case.states(person) for person in people]
    assert ends.count("reached") == 80
    assert [("email", "bounced"), ("sms", "planned")] in tried
    assert all(states == [("email", "delivered")] or states[0] == ("email", "bounced") for states in tried)
    assert sum(len(states) for states in tried) == 160


def test_the_outbox_keeps_every_row_of_many_writers_in_each_ones_order(database: CaseDatabase) -> None:
    def writer(name: str) -> Callable[[], None]:
        def work() -> None:
            for number in range(40):
                database.writing(partial(outbox.append, outgoing=[outgoing(f"{name}-{number}")], at=NOW))

        return work

    box, done = Outbox(database), threading.Event()
    published: list[str] = []

    def publisher() -> None:
        last_look = False
        while not last_look:
            last_look = done.is_set()
            while batch := box.next_batch(7):
                published.extend(row.event_id for row in batch)
                box.settle(batch)

    def writers() -> None:
        try:
            at_once(*(writer(name) for name in "abc"))
        finally:
            done.set()

    at_once(writers, publisher)
    assert len(published) == len(set(published)) == 120
    for name in "abc":
        own = [event_id for event_id in published if event_id.startswith(name)]
        assert own == [f"{name}-{number}" for number in range(40)]


def outgoing(name: str) -> Outgoing:
    event = CaseEvent(case_event_id=name, kind="test.done", incident_id=None, actor=None, occurred_at=NOW)
    return Outgoing(CASE_EVENTS, root="tocsin", key="tocsin", event_id=name, event=event)


def test_a_report_of_one_and_a_receipt_of_the_other_dispatcher_agree(case: Case) -> None:
    person = case.person(1)
    (intent,) = case.claim(EMAIL_LANE)
    at_once(
        lambda: case.ledger.report([SentReport(intent.attempt_id, Trigger.ACCEPTED, 1, provider_message_id="m")]),
        lambda: case.receive(intent, ReceiptKind.DELIVERED),
    )
    assert (case.end(person), case.states(person)) == ("reached", [("email", "delivered")])


@pytest.mark.parametrize("commits_first", ["report", "receipt"])
def test_a_receipt_without_a_tag_finds_a_message_that_is_reported_at_the_same_moment(
    case: Case, database: CaseDatabase, commits_first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = case.person(1, ("sms",))
    (intent,) = case.claim(SMS_LANE)
    untagged = replace(receipt_of(intent, ReceiptKind.DELIVERED, "", case.clock.now()), attempt_id=None)
    reporting, receiving = case.ledger, Ledger(database, case.clock, case.policy)
    report = SentReport(intent.attempt_id, Trigger.ACCEPTED, 1, provider_message_id=untagged.provider_message_id)
    slow, looked = (
        (receiving._receipts, "_owners") if commits_first == "report" else (reporting._receipts, "match_strays")
    )
    first = iter([True])
    look = getattr(slow, looked)

    def looks_and_is_overtaken(*given: Any) -> Any:
        found = look(*given)
        if next(first, False):
            if commits_first == "report":
                reporting.report([report])
            else:
                receiving.settle_receipts([untagged])
        return found

    monkeypatch.setattr(slow, looked, looks_and_is_overtaken)
    if commits_first == "report":
        receiving.settle_receipts([untagged])
    else:
        reporting.report([report])
    assert (case.end(person), case.states(person)) == ("reached", [("sms", "delivered")])


def test_names_that_a_collation_would_make_one_stay_apart_in_registry_and_lineage(database: CaseDatabase) -> None:
    records, lineage = RegistryTables(database), LineageTables(database)
    versions = tuple(RegisteredVersion(name, "1", (("Base", None),), NOW) for name in ("scorer", "Scorer", "scorér"))
    snapshot = RegistrySnapshot(versions, {("scorer", "champion"): "1", ("scorer", "Champion"): "1"})
    gap = timedelta(minutes=3)
    first = records.remember("yaml", lambda memory: observe(memory, snapshot, NOW, longest_gap=gap))
    later = RegistrySnapshot(versions[:2], {("scorer", "champion"): "1"})
    second = records.remember(
        "yaml", lambda memory: observe(memory, later, NOW + timedelta(minutes=1), longest_gap=gap)
    )
    assert records.memory("yaml") == second
    assert (len(first.versions), second.versions["scorér", "1"].gone, second.revision) == (3, True, 2)
    assert alias_at(second, "scorer", "Champion", None) == ()

    runs = ["0" * 35 + str(number) for number in range(6)]
    facts = [
        RunFact(run, "n", "j", runs[0] if run != runs[0] else None, "COMPLETE", NOW,
                (DatasetFact(Role.INPUT, "w", name, "v1"),))
        for run, name in zip(runs, ("data", "Data", "dáta", "data", "data", "data"), strict=True)
    ]  # fmt: skip
    # the same event from several intakes at once is kept once, and tells of something new once
    assert sorted(at_once(*(partial(lineage.keep, facts[3], "s") for _ in range(4)))) == [False, False, False, True]
    for fact in facts:
        lineage.keep(fact, "s")
    assert lineage.readers(["w/data@v1"]) == {runs[0], *runs[3:]}
    assert lineage.readers(["v1"]) == set(runs)
    assert lineage.children([runs[0]]) == set(runs[1:])
    assert lineage.parents([runs[4], "x" * 200]) == {runs[0]}


def test_the_sweeper_leaves_alone_what_is_claimed_while_it_looks(case: Case) -> None:
    """Taken back by its age while its dispatcher sends, it would be sent again."""
    person = case.person(1)
    case.ledger.begin_attempts(10)
    case.ledger.meter(EMAIL_LANE)
    case.clock.at += timedelta(minutes=5)
    claim = sa.update(tables.attempt).values(state="intended", state_at=case.clock.at)
    waits = sa.text("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
    patience = timedelta(minutes=1)
    sweep = threading.Thread(
        target=partial(
            case.ledger.sweep, command_patience=patience, intent_patience=patience, unknown_patience=patience
        )
    )
    with case.database.write() as dispatcher:
        dispatcher.execute(claim)
        sweep.start()
        give_up_at = datetime.now(UTC) + timedelta(seconds=20)
        while not dispatcher.execute(waits).scalar() and sweep.is_alive():
            assert datetime.now(UTC) < give_up_at
            sweep.join(0.15)  # the server looks anew only if nobody asked for a tenth of a second
    sweep.join(20)
    assert case.states(person) == [("email", "intended")]


def test_many_events_lie_in_one_row_and_come_out_as_they_went_in(database: CaseDatabase) -> None:
    events = [Written(f"root/{n}", f"key/{n}", f"id-{n}", f'{{"value":"ü € \U0001f600 \\"%s{n}"}}') for n in range(501)]
    database.writing(partial(outbox.append_many, topic=CASE_EVENTS, ce_type="t.v1", events=events, at=NOW))
    box = Outbox(database)
    assert box.depth() == (501, NOW)
    first = box.next_batch(10)
    assert len(first) == 500, "whole rows"
    box.settle(first)
    found = [*first, *box.next_batch(10)]
    box.settle(found)
    assert [Written(each.root, each.key, each.event_id, each.value) for each in found] == events
    assert {(each.topic, each.ce_type, each.written_at) for each in found} == {(CASE_EVENTS.name, "t.v1", NOW)}


def test_commands_lie_in_packs_and_one_that_is_alone_as_it_is(database: CaseDatabase) -> None:
    def command(number: int) -> Written:
        who = f"INC-2026-0001:customer/{number}"
        event = DeliverNotice(
            incident_id="INC-2026-0001", release_id="r", epoch=1, recipient_id=who, attempt_id=f"a{number}",
            channel=Channel.EMAIL, lane='ü "%s"',
        )  # fmt: skip
        return Written(who, who, f"a{number}-1-1", event.model_dump_json())

    write = partial(outbox.append_many, topic=DELIVERY_COMMANDS, ce_type=DeliverNotice.ce_type, at=NOW)
    events = [command(number) for number in range(600)]
    database.writing(partial(write, events=events[:1]))
    database.writing(partial(write, events=events[1:]))
    box = Outbox(database)
    assert box.depth() == (600, NOW)
    alone, *packs = box.next_batch(10_000)
    assert (Written(*alone[2:4], *alone[5:7]), alone.ce_type) == (events[0], DeliverNotice.ce_type)
    assert {each.ce_type for each in packs} == {DeliverNotices.ce_type}
    found: dict[str, str] = {}
    for each in packs:
        told = DeliverNotices.model_validate_json(each.value).events
        assert (each.event_count, each.root, each.key) == (len(told), told[0].recipient_id, told[0].recipient_id)
        assert len({partition_of(one.recipient_id, DELIVERY_COMMANDS.partitions) for one in told}) == 1
        found |= {one.recipient_id: one.model_dump_json() for one in told}
    assert found == {each.root: each.value for each in events[1:]}
    box.settle([alone, *packs])
    assert box.depth() == (0, None)
