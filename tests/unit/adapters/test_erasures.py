"""Somebody is forgotten: held while their incident is open, then nothing leads from them to the log, and it stays proved."""

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.erasures import Erasures
from consumers.adapters.case_store.evidence_rows import EvidenceRows
from consumers.case.acting import Actor
from consumers.case.people import Person
from consumers.case.permissions import Role
from consumers.domain.ledger import attempt_id_of
from consumers.domain.sending import Receipt, ReceiptKind
from consumers.evidence.package import verify_package
from consumers.evidence.reader import LogFolder, LogReader
from consumers.evidence.verifier import verify_log, verify_proof
from tests.unit.adapters.evidence_case import EvidenceCase, Restored, delivered_case
from tests.unit.adapters.ledger_case import INCIDENT, sqlite_case_store
from tests.unit.evidence.logs import KEY

DORA = Actor(Person("dora", "Dora", (Role.DPO,), ()), "d" * 64)


def close(case: EvidenceCase) -> None:
    with case.database.write() as connection:
        connection.execute(sa.update(tables.incident).values(state="closed", closed_at=case.clock.now()))


@pytest.fixture
def delivered(tmp_path: Path) -> EvidenceCase:
    return delivered_case(tmp_path)


def everything(database: CaseDatabase, without: tuple[str, ...] = ()) -> str:
    """Return all rows of the case store as text."""
    with database.read() as connection:
        rows = [
            str(tuple(row))
            for table in tables.metadata.sorted_tables
            if table.name not in without
            for row in connection.execute(sa.select(table))
        ]
    return "\n".join(rows)


def logged(case: EvidenceCase) -> list[dict[str, object]]:
    reader = LogReader(LogFolder(case.log), int(LogFolder(case.log).read("checkpoint").split(b"\n")[1]))  # type: ignore[union-attr]
    return [json.loads(entry) for _, entry in reader.entries()]


def test_a_notice_that_is_read_after_the_erasure_leads_to_nobody_again(delivered: EvidenceCase) -> None:
    """Its read was on its way, or is read again from a topic after a backup was put back."""
    case = delivered
    notice_id = attempt_id_of(f"{INCIDENT}:customer/1", 1)
    close(case)
    Erasures(case.database, case.clock).ask("customer/1", DORA, Role.DPO, "a letter of hers")
    case.commands()
    assert notice_id not in everything(case.database)
    read = Receipt(
        "store", f"{notice_id}/read", notice_id, notice_id, ReceiptKind.READ, None, case.clock.now(), "0" * 64
    )
    assert case.ledger.settle_receipts([read]).kept_aside == 1
    assert notice_id not in everything(case.database)


def test_a_request_is_held_while_an_incident_is_open_and_carried_out_when_it_is_closed(
    delivered: EvidenceCase, tmp_path: Path
) -> None:
    case = delivered
    before = case.export(tmp_path / "before")
    erasures = Erasures(case.database, case.clock)
    asked = erasures.ask("order/9", DORA, Role.DPO, "a letter of hers")
    assert (asked.carried_out_at, asked.held_by, asked.notice_count) == (None, [INCIDENT], 1)
    assert erasures.ask("order/9", DORA, Role.DPO, "a second letter").erasure_id == asked.erasure_id
    assert erasures.carry_out_due() == 0
    assert list(EvidenceRows(case.database).people(INCIDENT, "order/9"))
    (commitment,) = {each.commitment for each in EvidenceRows(case.database).people(INCIDENT, "order/9")}
    close(case)
    assert erasures.carry_out_due() == 1
    assert erasures.carry_out_due() == 0
    case.commands()

    # nothing of the store leads from the person to the leaves any more, by whichever of her numbers
    assert list(EvidenceRows(case.database).people(INCIDENT, "order/9")) == []
    with case.database.read() as connection:
        keys = {row.root: row.key for row in connection.execute(sa.select(tables.person_key))}
        (row,) = connection.execute(
            sa.select(tables.recipient).where(tables.recipient.c.subject_commitment == commitment)
        ).all()
        attempts = connection.execute(
            sa.select(tables.attempt).where(tables.attempt.c.recipient_id == row.recipient_id)
        ).all()
    assert (keys["customer/2"], keys["order/9"]) == (None, None)
    assert keys["customer/1"] is not None
    assert (row.customer_id, row.final_state, len(row.roots)) == (None, "reached", 2)
    assert [each.state for each in attempts] == ["bounced", "delivered"]
    assert {each.provider_message_id for each in attempts} == {None}
    others = everything(case.database, without=("erasure", "person_key", "outbox"))
    assert "customer/2" not in others
    assert "order/9" not in others

    # the log says that it was done, by nothing that leads to a leaf
    (said,) = [leaf["body"] for leaf in logged(case) if leaf["type"] == "tocsin.case.person.erased"]
    assert isinstance(said, dict)
    assert said["marker"] != commitment
    assert verify_log(LogFolder(case.log), [KEY.verifier], case.types).proved

    # proofs and packages that were made before stay valid; a new package counts her without naming her
    assert verify_proof((before.folder / "proofs/customer-2.tlog-proof").read_bytes(), [KEY.verifier]).opened
    assert verify_package(before.folder, [KEY.verifier]).whole
    packed = case.export(tmp_path / "after")
    assert packed.report.whole, packed.report.sentences()
    assert "1 were erased since, and are counted without being named" in "\n".join(packed.report.sentences())
    text = "".join(path.read_text() for path in packed.folder.rglob("*.jsonl"))
    assert '"customer/2"' not in text
    assert '"order/9"' not in text
    # and leaving her out altogether shows even so
    entries = packed.folder / "entries.jsonl"
    entries.write_text("".join(line for line in entries.read_text().splitlines(True) if commitment not in line))
    assert verify_package(packed.folder, [KEY.verifier]).without


def test_nobody_known_is_a_wrong_request(delivered: EvidenceCase) -> None:
    case = delivered
    erasures = Erasures(case.database, case.clock)
    assert erasures.look("customer/99") is None
    with pytest.raises(BadInput, match="nothing in the log is about them"):
        erasures.ask("customer/99", DORA, Role.DPO, "a letter")
    look = erasures.look("customer/1")
    assert look is not None
    assert (look.held_by, look.notice_count) == ([INCIDENT], 1)


def test_no_erased_key_comes_back_with_a_backup(delivered: EvidenceCase, tmp_path: Path) -> None:
    backup = sqlite_case_store(tmp_path / "backup.db")
    no_erased_key_comes_back(delivered, backup)
    backup.close()


def no_erased_key_comes_back(case: EvidenceCase, backup: CaseDatabase) -> None:
    """Erase somebody of the case, and let a copy from before be told by the log."""
    close(case)
    restored = Restored(case, backup).database
    erasures = Erasures(case.database, case.clock)
    assert erasures.ask("customer/2", DORA, Role.DPO, "a letter").carried_out_at is not None
    case.commands()
    markers = {
        str(leaf["body"]["marker"])  # type: ignore[index]
        for leaf in logged(case)
        if leaf["type"] == "tocsin.case.person.erased"
    }
    again = Erasures(restored, case.clock)
    assert again.marked(markers) == 1
    assert again.erase_marked(markers) == 1
    assert (again.marked(markers), again.erase_marked(markers)) == (0, 0)
    assert list(EvidenceRows(restored).people(INCIDENT, "customer/2")) == []
    assert EvidenceRows(restored).erased_roots() == {"customer/2", "order/9"}
