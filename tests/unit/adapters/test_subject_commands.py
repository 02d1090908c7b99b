"""`tocsin subject`: a copy of all that is held of somebody, and their being forgotten, by what is typed."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import AccountNotice, SubjectErased
from bridge.contracts.queries import Inspection, PersonSeen
from bridge.contracts.topics import ACCOUNT_NOTICES
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Paths, Settings
from consumers.adapters import subject_commands
from consumers.adapters.case_store import erasures as erasing
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.erasures import Erasures
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.case_store.outbox import Outbox
from consumers.adapters.letter_batches import LetterFolder, WrittenLetters, checked_batch
from consumers.adapters.subject_commands import subject
from consumers.case.permissions import Role
from consumers.case.sheet import NoticeSamples, Rendered, Sample
from consumers.case.store import CaseStore
from consumers.domain.sending import Letter
from consumers.evidence.verifier import verify_proof
from tests.unit.adapters.evidence_case import EvidenceCase, delivered_case
from tests.unit.adapters.ledger_case import INCIDENT, NOW
from tests.unit.adapters.test_erasures import DORA, close, everything, logged
from tests.unit.domain.test_scope_matching import record
from tests.unit.evidence.logs import KEY

WHO = "customer/2"


class Index:
    """The index as a test has it: who is known, and who does not answer."""

    states: Mapping[str, Any] = {}
    answers = True

    def __init__(self, run: Path) -> None:
        """Nothing is asked here."""

    def inspect(self, root: str) -> Inspection:
        if not self.answers:
            raise Unreachable("no index worker answers")
        state = self.states.get(root, "absent")
        records = () if state == "absent" else (record(root=root, record_id="r2"),)
        return Inspection(partition=0, person=PersonSeen(root=root, state=state), records=records)


class Samples:
    """One approved text."""

    def sample(self, key: Mapping[str, Any], *, exercise: bool = False) -> Sample:
        return Sample((Rendered("email", "About your data", "Dear Sample Person"), Rendered("letter", "", "Dear")), 1)

    def approval(self, bundle_sha256: str, at: Any) -> None:
        return None


class Desk:
    """A case store of an incident whose people were told, and a way to type."""

    def __init__(self, case: EvidenceCase, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class OneIndex(Index):
            """This desk's own."""

        self.case, self.folder, self.parts = case, folder, Parts()
        self.index: type[Index] = OneIndex
        monkeypatch.setattr(subject_commands, "IndexClient", self.index)
        monkeypatch.setattr(subject_commands, "authenticated", lambda *_: DORA)
        paths = Paths(data=folder)  # the log of the case lies there
        self.settings = Settings(paths=paths)
        self.parts.provide(Settings, lambda: self.settings)
        self.parts.provide(Clock, lambda: case.clock)
        self.parts.provide(CaseDatabase, lambda: case.database)
        self.parts.provide(CaseStore, lambda: SqlCaseStore(case.database, case.clock))
        self.parts.provide(NoticeSamples, Samples)
        self.letters = WrittenLetters(self.settings.paths.letters)
        self.erasures = Erasures(case.database, case.clock, self.letters)

    def type(self, *words: str, given: str = "") -> Result:
        return CliRunner().invoke(subject, list(words), obj=self.parts, input=given)

    def says(self, *words: str, code: int = 0) -> str:
        result = self.type(*words, "--reason", "a letter of hers")
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    def letter(self) -> Path:
        """Let their SMS have been a letter, beside somebody else's in a batch."""
        batch = [
            Letter(name, 1, name.encode(), (f"{name} Quorn", "1 Road", "GB")) for name in ("her-attempt", "his-attempt")
        ]
        results = LetterFolder(self.settings.paths.letters).write(INCIDENT, batch, exercise=False)
        with self.case.database.write() as connection:
            connection.execute(
                sa.update(tables.attempt)
                .where((tables.attempt.c.recipient_id == f"{INCIDENT}:{WHO}") & (tables.attempt.c.channel == "sms"))
                .values(channel="letter", provider_message_id=results[0].provider_message_id)
            )
        (folder,) = (self.settings.paths.letters / INCIDENT).iterdir()
        checked_batch(folder)
        return folder


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(delivered_case(tmp_path), tmp_path, monkeypatch)


def test_a_copy_holds_everything_that_is_known_of_somebody_and_is_theirs_alone(desk: Desk) -> None:
    desk.index.states = {WHO: "present"}
    out = desk.folder / "copy.json"
    assert "1 records, 1 notices in 1 incidents" in desk.says("export", "order/9", "-o", str(out))
    assert out.stat().st_mode & 0o777 == 0o600
    made = json.loads(out.read_text(encoding="utf-8"))
    assert made["what_this_is"].startswith("Personal data of one person")
    assert made["person"] == [WHO, "order/9"], "whoever was merged into one person is one person here"
    (notice,) = made["notices"]
    assert [(each["channel"], each["state"]) for each in notice["attempts"]] == [
        ("email", "bounced"),
        ("sms", "delivered"),
    ]
    assert [each["kind"] for each in notice["attempts"][0]["receipts"]] == ["bounced_hard"]
    assert made["index"][0]["records"][0]["record_id"] == "r2"
    assert {each["found"]["root"] for each in made["found_by_incidents"]} == {WHO, "order/9"}
    assert made["channels_that_lead_nowhere"][0]["channel"] == "email"
    (proved,) = made["evidence"]
    assert verify_proof(proved["proof"].encode(), [KEY.verifier]).opened
    assert [each["says"]["state"] for each in proved["entries"] if "state" in each["says"]][-1] == "delivered"
    assert "customer/1" not in out.read_text(encoding="utf-8")
    desk.case.commands()
    kinds = [leaf["type"] for leaf in logged(desk.case)]
    assert {"tocsin.case.subject.exported", "tocsin.case.person.looked_at"} <= set(kinds)
    assert isinstance(desk.type("export", WHO, "-o", str(out), "--reason", "r").exception, Refused), (
        "nothing is overwritten"
    )
    desk.index.answers = False
    other = desk.folder / "other.json"
    assert isinstance(desk.type("export", WHO, "-o", str(other), "--reason", "r").exception, Unreachable)
    assert not other.exists(), "half a copy is none"


def test_a_request_is_held_with_its_ground_and_then_carried_out_everywhere(desk: Desk) -> None:
    folder = desk.letter()
    desk.index.states = {WHO: "present"}
    dry = desk.type("erase", "order/9", "--dry-run")
    assert (dry.exit_code, "would be held until INC-2026-0001 closes" in dry.output) == (1, True)
    held = desk.says("erase", "order/9", code=1)
    assert f"order/9: held until {INCIDENT} closes, asked" in held
    assert "GDPR Art. 17(3)(b) and (e)" in held
    assert "still holds customer/2" in held
    assert desk.erasures.carry_out_due() == 0
    close(desk.case)
    assert desk.erasures.carry_out_due() == 1

    sent = Outbox(desk.case.database).next_batch(1000)
    erased = [SubjectErased.model_validate_json(row.value) for row in sent if row.ce_type == SubjectErased.ce_type]
    assert {(each.root, row.topic) for each in erased for row in sent if row.ce_type == SubjectErased.ce_type} == {
        (WHO, "tocsin.departed-customers"), ("order/9", "tocsin.departed-customers"),
    }  # fmt: skip
    assert not (folder / "0001.pdf").exists()
    rest = (folder / "addresses.csv").read_text() + (folder / "manifest.json").read_text()
    assert ("her-attempt" in rest, "his-attempt Quorn" in rest) == (False, True)
    desk.case.commands()
    said = [leaf for leaf in logged(desk.case) if str(leaf["type"]).startswith("tocsin.case.erasure.")]
    assert [leaf["type"] for leaf in said] == ["tocsin.case.erasure.requested", "tocsin.case.erasure.carried_out"]
    assert WHO not in json.dumps(said)
    left = everything(desk.case.database, without=("erasure", "person_key"))
    assert (WHO in left, "order/9" in left) == (False, False)

    desk.index.states = {}
    gone = desk.type("export", WHO, "-o", str(desk.folder / "after.json"), "--reason", "r")
    assert "they were erased on" in str(gone.exception)
    again = desk.type("erase", WHO, "--reason", "r")
    assert again.exit_code == 0 or isinstance(again.exception, BadInput)


def test_an_account_notice_of_somebody_erased_is_withdrawn_and_an_exercise_is_no_ground(desk: Desk) -> None:
    with desk.case.database.write() as connection:
        connection.execute(sa.update(tables.incident).values(exercise=True))
        connection.execute(
            sa.update(tables.attempt)
            .where((tables.attempt.c.recipient_id == f"{INCIDENT}:{WHO}") & (tables.attempt.c.channel == "sms"))
            .values(channel="account_notice", handed_over_at=NOW)
        )
    assert f"{INCIDENT} is an exercise, which is no such ground" in desk.says("erase", WHO, code=1)
    close(desk.case)
    answer = desk.says("erase", WHO)
    assert "index: forgets them within a minute" in answer
    assert "tocsin.affected-customers until 2026-03-31" in answer
    rows = Outbox(desk.case.database).next_batch(1000)
    (row,) = [row for row in rows if row.ce_type == AccountNotice.ce_type]
    notice = AccountNotice.model_validate_json(row.value)
    assert (row.key, ACCOUNT_NOTICES.key) == (f"notice/{notice.notice_id}", "notice/id")
    assert (notice.withdrawn, notice.body, notice.customer_id) == (True, "", 2)


def test_an_incident_that_has_planned_nobody_yet_holds_a_request(desk: Desk) -> None:
    with desk.case.database.write() as connection:
        connection.execute(sa.delete(tables.recipient))
    assert "held until" in desk.says("erase", WHO, code=1)


def test_whom_only_the_index_knows_is_forgotten_there_and_nobody_is_nobody(desk: Desk) -> None:
    desk.index.states = {"customer/77": "departed"}
    assert "customer/77: erased. 0 notices" in desk.says("erase", "customer/77")
    assert "erased/customer/77" in [row.key for row in Outbox(desk.case.database).next_batch(1000)]
    assert isinstance(desk.type("erase", "customer/78", "--reason", "r").exception, BadInput)
    desk.index.answers = False
    assert isinstance(desk.type("erase", "customer/78", "--reason", "r").exception, Unreachable)
    for wrong in ("zibbet@mail.example.com", "customer/x", "person/1"):
        said = desk.type("erase", wrong, "--reason", "r").exception
        assert isinstance(said, BadInput)
        assert "zibbet" not in str(said)


def test_a_fault_at_any_step_leaves_the_request_to_be_carried_out_whole_at_the_next_look(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = desk.letter()
    desk.says("erase", WHO, code=1)
    close(desk.case)
    before = everything(desk.case.database)

    def fails(*_: Any, **__: Any) -> None:
        raise Unreachable("the machine went away")

    def half(incident_id: str, message_id: str) -> None:
        desk.letters.erase(incident_id, message_id)
        fails()

    for step in ("letters", "_withdraw", "upsert", "_detach", "_detach_members", "case_event"):
        letters = SimpleNamespace(erase=half) if step == "letters" else desk.letters
        with monkeypatch.context() as broken:
            if step != "letters":
                broken.setattr(erasing, step, fails)
            with pytest.raises(Unreachable):
                Erasures(desk.case.database, desk.case.clock, letters).carry_out_due()
        assert everything(desk.case.database) == before, f"{step}: rows and request stand as they stood"
    assert not (folder / "0001.pdf").exists()
    assert desk.erasures.carry_out_due() == 1
    assert WHO not in everything(desk.case.database, without=("erasure", "person_key", "outbox"))
    assert desk.erasures.ask("customer/1", DORA, Role.DPO, "another letter").carried_out_at is not None
