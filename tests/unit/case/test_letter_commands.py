"""`tocsin delivery letters`: what whoever takes letters to the post is told."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.contracts.errors import Refused
from consumers.case.letter_commands import letters
from consumers.case.posting import LetterBatch, LetterPost
from consumers.domain.sending import ReceiptKind
from tests.unit.case.cases import Case
from tests.unit.case.test_commands import Desk

BATCH = "ab" * 32


class Tray:
    """One batch of three letters, of which one is kept back."""

    def __init__(self, folder: Path, incident_id: str) -> None:
        known = {number: (f"a{number}", "handed_over") for number in (1, 2, 3)}
        self.batch = LetterBatch(BATCH, incident_id, folder, known, 2, {2: "a hold"})
        self.reported: list[int] = []

    def batches(self, incident_id: str) -> Sequence[LetterBatch]:
        return [self.batch]

    def check(self, batch: LetterBatch) -> None:
        """Its files are as they were written."""

    def report(self, batch: LetterBatch, numbers: Sequence[int], kind: ReceiptKind, at: datetime) -> int:
        self.reported.extend(numbers)
        return len(numbers)


@pytest.fixture
def desk(case: Case, tmp_path: Path) -> Desk:
    return Desk(case, tmp_path)


def test_what_is_kept_back_is_named_and_taken_out(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = case.receive().incident_id
    tray = Tray(tmp_path, name)
    desk.parts.provide(LetterPost, lambda: tray)

    def typed(*words: str) -> str:
        done = CliRunner().invoke(letters, list(words), obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens["rae"]})
        if done.exception is not None:
            raise done.exception
        return done.stdout

    said = typed("list", name)
    assert f"not to be posted now, of {BATCH[:16]}: 0002 (a hold)" in said
    assert f"posted {name} {BATCH[:16]} --without 2 --reason TEXT`" in said
    assert '"kept_back": { "2": "a hold" }' in " ".join(typed("list", name, "--json").split())
    with pytest.raises(Refused, match="--without 2, or --all-went"):
        typed("posted", name, BATCH[:8], "--reason", "r")
    said = typed("posted", name, BATCH[:8], "--without", "2", "--reason", "r")
    assert tray.reported == [1, 3]
    assert "2 of 3 letters" in said
    assert "1 were taken out; once they may go" in said
