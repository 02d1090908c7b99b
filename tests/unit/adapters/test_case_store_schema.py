"""One linear migration history that makes exactly the declared tables, and the store's transactions."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from structlog.testing import capture_logs

from bridge.contracts.errors import BadInput
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import (
    CaseDatabase,
    _config,
    _configure_sqlite,
    heads,
    migrate,
    newest_revision,
    upsert,
)
from consumers.adapters.case_store.positions import Silence, read_positions, release_lease, take_lease, write_positions

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> CaseDatabase:
    opened = CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}")
    migrate(opened)
    return opened


def test_there_is_one_head() -> None:
    assert list(heads()) == [newest_revision()]


def test_migrations_make_exactly_the_declared_tables(database: CaseDatabase) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_migrating_twice_at_once_is_harmless(tmp_path: Path) -> None:
    stores = [CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}") for _ in range(3)]
    threads = [threading.Thread(target=migrate, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stores[0].read() as connection:
        assert sa.inspect(connection).has_table("attempt")


def people_of_before_merged_roots_were_kept(opened: CaseDatabase) -> None:
    """Upgrade an empty store that has been given people in between, more than are read at once."""
    with opened.write() as connection:
        command.upgrade(_config(connection), "0023")
    row = {
        "incident_id": "INC-2026-0001", "revision": 1, "subject_commitment": "0" * 64, "controller": "c", "website_id": 1,
        "store_id": 1, "locale": "en", "standing": "recorded", "late": False, "residence": [], "jurisdictions": [],
        "highest_sensitivity": "high", "channels": [], "why": {}, "notice_sha256": "d" * 64,
    }  # fmt: skip
    people = {f"customer/{number}": [f"customer/{number}", f"order/{number}"] for number in range(1, 2502)}
    people |= {"order/9001": ["order/9001"], "order/9002": ["customer/9001", "order/9002", "order/9003"]}
    with opened.write() as connection:
        upsert(
            connection,
            tables.recipient,
            [
                {**row, "recipient_id": f"INC-2026-0001:{root}", "root": root, "roots": roots}
                for root, roots in people.items()
            ],
        )
    migrate(opened)
    with opened.read() as connection:
        found = {(row.recipient_id, row.root) for row in connection.execute(sa.select(tables.merged_root))}
    assert found == {
        (f"INC-2026-0001:{root}", other) for root, roots in people.items() for other in roots if other != root
    }


def test_an_upgrade_finds_the_roots_that_were_merged_into_people(tmp_path: Path) -> None:
    people_of_before_merged_roots_were_kept(CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}"))


def releases_of_before_their_order_was_kept(opened: CaseDatabase) -> None:
    """Upgrade an empty store that has been given releases in between."""
    with opened.write() as connection:
        command.upgrade(_config(connection), "0025")
    began = datetime(2026, 3, 1, tzinfo=UTC)
    row = {
        "incident_id": "INC-2026-0001", "revision": 1, "policy": {}, "policy_sha256": "0" * 64, "mode": "two_approvers",
        "late_cap": 0, "prepared_by": "p", "prepared_role": "dpo", "prepared_at": began,
    }  # fmt: skip
    with opened.write() as connection:
        for name, state, released, stopped in (
            ("a", "finished", 0, None), ("b", "cancelled", 1, 2), ("c", "releasing", 3, None), ("d", "prepared", None, None),
            ("e", "paused", 4, 5),
        ):  # fmt: skip
            at = [None if hours is None else began + timedelta(hours=hours) for hours in (released, stopped)]
            connection.execute(
                sa.insert(tables.release).values(
                    **row, release_id=name, state=state, released_at=at[0], stopped_at=at[1]
                )
            )
    migrate(opened)
    with opened.read() as connection:
        found = {each.release_id: each for each in connection.execute(sa.select(tables.release))}
    assert found["a"].started_epoch < found["b"].stopped_epoch <= found["c"].started_epoch <= 0
    assert (found["d"].started_epoch, found["e"].stopped_epoch) == (None, None)
    assert [found[name].start_number for name in "abcde"] == [1, 2, 3, None, 4]


def test_an_upgrade_finds_which_releases_began_before_a_cancel(tmp_path: Path) -> None:
    releases_of_before_their_order_was_kept(CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}"))


def test_an_unsupported_database_is_refused() -> None:
    with pytest.raises(BadInput, match="postgresql is not supported"):
        CaseDatabase("postgresql://x/y")


def test_a_failed_transaction_leaves_nothing(database: CaseDatabase) -> None:
    with pytest.raises(RuntimeError), database.write() as connection:
        write_positions(connection, "s", {("t", 0): 5})
        raise RuntimeError
    assert read_positions(database, "s", [("t", 0)]) == {}


def test_a_naive_instant_is_refused(database: CaseDatabase) -> None:
    with pytest.raises(sa.exc.StatementError, match="naive"), database.write() as connection:
        upsert(
            connection,
            tables.person_key,
            [{"root": "customer/1", "key": b"k", "made_at": datetime(2026, 1, 1)}],  # noqa: DTZ001
        )


def test_positions_move_forward_and_are_kept_per_stage(database: CaseDatabase) -> None:
    with database.write() as connection:
        write_positions(connection, "a", {("t", 0): 5, ("t", 1): 7})
        write_positions(connection, "a", {("t", 0): 9})
        write_positions(connection, "b", {("t", 0): 1})
    assert read_positions(database, "a", [("t", 0), ("t", 1), ("t", 2)]) == {("t", 0): 9, ("t", 1): 7}


def test_a_position_of_a_topic_that_was_made_anew_leads_to_its_beginning_and_is_said_once(
    database: CaseDatabase,
) -> None:
    ids, wanted = {"tocsin.leak-alerts": "A"}, [("tocsin.leak-alerts", 0), ("tocsin.leak-alerts", 1)]
    with database.write() as connection:
        write_positions(connection, "a", dict.fromkeys(wanted, 5), ids)
        write_positions(connection, "b", dict.fromkeys(wanted, 7), ids)
    assert read_positions(database, "a", wanted, ids) == dict.fromkeys(wanted, 5)
    anew = {"tocsin.leak-alerts": "B"}
    with capture_logs() as said:
        assert read_positions(database, "a", wanted[:1], anew) == {}
        assert read_positions(database, "a", wanted[:1], anew) == {wanted[0]: 0}
    assert [(each["partition"], each["wanted"]) for each in said] == [(0, 5)]
    # a member that had not seen it yet writes what it read
    with database.write() as connection:
        write_positions(connection, "a", {wanted[0]: 9}, ids)
    assert read_positions(database, "a", wanted, anew) == {}
    assert read_positions(database, "b", wanted, ids) == dict.fromkeys(wanted, 7)


def test_a_position_without_a_topic_id_is_taken_to_be_of_the_topic_that_is_there(database: CaseDatabase) -> None:
    """As an earlier version, or a broker that told none, left it; nothing may come there for years."""
    place = ("tocsin.leak-alerts", 0)
    with database.write() as connection:
        write_positions(connection, "a", {place: 5})
    assert read_positions(database, "a", [place]) == {place: 5}
    assert read_positions(database, "a", [place], {place[0]: "A"}) == {place: 5}
    assert read_positions(database, "a", [place], {place[0]: "B"}) == {}


def test_a_lease_has_one_holder_and_a_rising_fencing_number(database: CaseDatabase) -> None:
    assert take_lease(database, "outbox", "a", NOW, 10) == 1
    assert take_lease(database, "outbox", "b", NOW, 10) is None
    assert take_lease(database, "outbox", "a", NOW, 10) == 1
    assert take_lease(database, "outbox", "b", NOW + timedelta(seconds=11), 10) == 2
    release_lease(database, "outbox", "b")
    assert take_lease(database, "outbox", "a", NOW + timedelta(seconds=12), 10) == 3


def test_a_holder_who_died_while_its_clock_was_ahead_blocks_nobody(database: CaseDatabase) -> None:
    """A machine starts two hours ahead of the time, is set right, and loses a process: nobody waits for those two hours."""
    ahead = NOW + timedelta(hours=2)
    seconds = [0.0]
    silence = Silence(lambda: seconds[0])

    def asked(at: float) -> int | None:
        seconds[0] = at
        return take_lease(database, "outbox", "b", NOW + timedelta(seconds=at), 10, silence)

    assert take_lease(database, "outbox", "a", ahead, 10) == 1
    assert asked(0) is None
    assert asked(9) is None
    # it lives, and renews
    assert take_lease(database, "outbox", "a", ahead + timedelta(seconds=9), 10) == 1
    assert asked(12) is None
    assert asked(22) is None
    assert asked(22.5) == 2
    # whoever wakes finds another one, by its own clock, too
    assert take_lease(database, "outbox", "a", NOW + timedelta(seconds=23), 10) is None


def test_processes_that_start_together_all_get_the_file(tmp_path: Path) -> None:
    """Changing the journal mode at the same time makes SQLite refuse some at once."""

    def open_together(path: Path) -> None:
        together.wait(30)
        connection = sqlite3.connect(path, timeout=60)
        _configure_sqlite(connection, None)
        connection.close()

    for number in range(20):
        together = threading.Barrier(6)
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(open_together, [tmp_path / f"{number}.db"] * 6))
