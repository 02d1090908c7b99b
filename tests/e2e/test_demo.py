"""`tocsin demo --exit --keep DIR` as its user runs it: green whatever the seed, everything to check it is left, and no
personal value can be read anywhere outside mailbox and store, however it is written.
"""

import json
import shlex
import sqlite3
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.evidence_rows import EvidenceRows
from consumers.adapters.evidence_package import EvidencePackages
from consumers.bootstrap import STAGES
from consumers.evidence.keys import read_vkey
from consumers.evidence.leaves import discover
from consumers.evidence.reader import LogFolder
from consumers.evidence.verifier import verify_log
from tests.e2e import demo_process

CUSTOMERS = 200


@pytest.mark.parametrize("seed", [7, pytest.param(1848, marks=pytest.mark.soak)])
def test_the_demo_is_green_and_leaves_its_proof_and_nobody_in_clear(seed: int, tmp_path: Path) -> None:
    """Values are searched while all processes still run: the embedded Kafka's topics and the metrics end with them."""
    folder, temporary, answer = tmp_path / "demo", tmp_path / "tmp", tmp_path / "leaks.json"
    temporary.mkdir()
    search = [sys.executable, "-m", "tests.e2e.leak_search", str(folder), str(answer), str(temporary)]
    done = demo_process.run(
        folder,
        *("--customers", str(CUSTOMERS), "--seed", str(seed), "--before-end", shlex.join(search)),
        temporary=temporary,
    )
    assert done.exit_code == 0, done.story
    _refuse_leaks(json.loads(answer.read_text()))
    summary = done.summary
    assert summary["faults"] == []
    # a process that falls and is started again may hide what made it fall
    assert [stage for stage, count in summary["restarts"].items() if count] == [], done.story
    assert (summary["seed"], summary["customers"]) == (seed, CUSTOMERS)
    # every fallback has happened, was told, and is counted; and who is on call heard of what they must
    watched = {"alert"} if summary["prometheus"] else set()
    assert set(summary["seen"]) == watched | {
        "page incident_opened", "page provider.circuit_open",
        "delivered", "bounced", "soft bounce", "account page", "complained", "silent", "sns ill", "sns well",
        "letter", "letter back",
    }  # fmt: skip
    assert all(summary["fallbacks"].values()), summary["fallbacks"]
    people = sum(summary["ends"].values())
    assert people == summary["people"] > 12

    # whoever gets the folder can check it without us: log and key lie together
    report = verify_log(LogFolder(folder / "evidence"), [read_vkey(str(folder / "evidence" / "log.vkey"))], discover())
    assert not report.problems
    with closing(sqlite3.connect(folder / "case.db")) as cases:
        ((incident, told),) = cases.execute("SELECT incident_id, COUNT(*) FROM recipient GROUP BY incident_id")
    assert (incident, told) == (summary["incident"], people)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in (folder / "resolutions").glob("*.json")]
    assert len(records) == 4
    for record in records:
        assert (folder / "artefacts" / "keys" / record["artefact"]).is_file()
    mailbox = json.loads((folder / "mailbox" / "messages.json").read_text(encoding="utf-8"))
    assert {message["channel"] for message in mailbox} == {"email", "sms"}
    _refuse_gaps(folder, incident)
    _refuse_loose_logs(folder, incident)


def _refuse_loose_logs(folder: Path, incident: str) -> None:
    """Whoever searches all logs for the incident finds what happened, whichever process says so."""
    told: dict[str, set[str]] = {}
    for stage in STAGES:
        lines = (folder / "logs" / f"{stage}.log").read_text(encoding="utf-8").splitlines()
        for said in map(json.loads, lines):
            assert (said["process"], bool(said["timestamp"]), bool(said["level"])) == (stage, True, True)
            assert said.get("incident", incident) == incident
            if "incident" in said:
                told.setdefault(said["event"], set()).add(stage)
    assert {"alert taken", "planned", "release finished"} <= told.keys(), told


def _refuse_leaks(report: dict[str, Any]) -> None:
    searched = "\n".join(report["places"])
    for part in (
        "topic tocsin.store-changes", "topic tocsin.dead-letters", "metrics of dispatch", "case.db", "index/", "artefacts/",
        "logs/dispatch.log", "evidence/tile/entries/",
    ):  # fmt: skip
        assert part in searched
    assert report["in_mailbox"] == ["email", "name", "phone"]
    assert report["findings"] == []
    looked_for = report["looked_for_in_log"]
    assert all(looked_for[what] > 3 for what in ("provider id", "attempt id", "recipient id", "reason", "staff name"))
    assert report["in_log"] == []


def _refuse_gaps(folder: Path, incident: str) -> None:
    """What an auditor is handed of this incident is proved, and nobody is missing."""
    rows = EvidenceRows(CaseDatabase(f"sqlite:///{folder}/case.db"))
    artefacts, vkey = DirectoryArtefactStore(folder / "artefacts"), read_vkey(str(folder / "evidence" / "log.vkey"))
    packages = EvidencePackages(folder / "evidence", vkey, rows, artefacts)
    packed = packages.write(incident, folder / "package", datetime.now(UTC))
    said = packed.report.sentences()
    assert packed.report.whole, said
    assert sum("Proved: nobody was left out" in each for each in said) == 1
    assert {"texts", "law", "sheets", "proofs", "resolution"} <= {path.name for path in packed.folder.iterdir()}


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = demo_process.run(tmp_path)
    assert done.exit_code == 1
    assert "not empty" in done.said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_unknown_stage_to_kill_is_refused(tmp_path: Path) -> None:
    done = demo_process.run(tmp_path / "demo", "--kill", "dispach")
    assert done.exit_code == 2
    assert "dispatch" in done.said
    assert not (tmp_path / "demo").exists()
