"""How far the case store has what the index found, as whoever removes an old private key asks."""

from pathlib import Path

from bridge.contracts.topics import AFFECTED_CUSTOMERS
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.held_contacts import SqlHeldContacts
from consumers.adapters.case_store.positions import write_positions


def test_of_a_topic_that_was_made_anew_nothing_is_stored_before_planning_reads_it(tmp_path: Path) -> None:
    database = CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}")
    tables.metadata.create_all(database.engine)
    name = AFFECTED_CUSTOMERS.name
    with database.write() as connection:
        write_positions(connection, "planning", {(name, 0): 50}, {name: "A"})
        write_positions(connection, "planning", {(name, 1): 60})
    assert SqlHeldContacts(database).stored_up_to() == {0: 50, 1: 60}
    assert SqlHeldContacts(database, lambda: "A").stored_up_to() == {0: 50, 1: 60}
    assert SqlHeldContacts(database, lambda: "B").stored_up_to() == {1: 60}
    database.close()
