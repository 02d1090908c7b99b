"""The auditor's package: what it proves, what it finds missing, and that it needs no Tocsin."""

import itertools
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.evidence_rows import EvidenceRows
from consumers.adapters.evidence_package import EvidencePackages
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.note import Note, SigningKey
from consumers.evidence.package import Package, history, verify_package
from consumers.evidence.rotation import KeyRotation
from consumers.evidence.verifier import verify_proof
from tests.unit.adapters.evidence_case import VKEY, EvidenceCase, delivered_case
from tests.unit.adapters.ledger_case import INCIDENT, NOW
from tests.unit.evidence.logs import KEY, ORIGIN, OTHER_KEY, writing

KEYS = (KEY, OTHER_KEY, SigningKey(ORIGIN, bytes(range(2, 34))))
STRANGER = SigningKey(ORIGIN, bytes(range(3, 35)))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvidenceCase, Path]:
    root = tmp_path_factory.mktemp("evidence")
    case = delivered_case(root)
    folder = root / "package"
    report = case.export(folder).report
    assert report.whole, report.sentences()
    return case, folder


@pytest.fixture
def package(packed: tuple[EvidenceCase, Path], tmp_path: Path) -> Path:
    """A copy that may be altered."""
    return shutil.copytree(packed[1], tmp_path / "package")


def judged(folder: Path) -> tuple[bool, str]:
    report = verify_package(folder, [KEY.verifier])
    return report.whole, "\n".join(report.sentences())


def rewrite(folder: Path, name: str, keep: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Alter a file of the package and, as a forger would, its list of files."""
    path = folder / name
    rows = [keep(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))
    relist(folder)


def relist(folder: Path) -> None:
    about = json.loads((folder / "package.json").read_text())
    about["files"] = {}
    (folder / "package.json").write_text(json.dumps(about))


def commitment_of(folder: Path, subject: str) -> str:
    rows = [json.loads(line) for line in (folder / "people.jsonl").read_text().splitlines()]
    return str(next(row["commitment"] for row in rows if row.get("subject") == subject))


def about(subject: str) -> Callable[[dict[str, Any]], bool]:
    def names(row: dict[str, Any]) -> bool:
        leaf = json.loads(row["entry"])
        return subject in (leaf.get("subject"), leaf.get("body", {}).get("subject"))

    return names


def test_a_whole_package_says_what_is_proved_and_what_is_not(package: Path) -> None:
    whole, said = judged(package)
    assert whole
    assert "nobody was left out. 5 accounts and orders" in said
    assert "they are 4 people" in said
    assert "3 reached, 1 unreachable_reported" in said
    assert "4 single proofs" in said
    assert "Not proved by this: that what was logged is true" in said


def test_the_single_file_verifier_needs_nothing_of_tocsin(package: Path) -> None:
    """As on a machine without it: isolated Python in another folder, no path but the standard library and cryptography."""
    alone = (
        "import runpy, sys; sys.argv = sys.argv[1:];"
        "sys.modules |= dict.fromkeys(('consumers', 'bridge', 'pydantic', 'rfc8785', 'click', 'sqlalchemy'));"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )

    def verify(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", alone, str(package / "verify.py"), *arguments]
        return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, timeout=60, check=False)

    done = verify("--vkey", VKEY)
    assert (done.returncode, done.stdout) == (0, judged(package)[1] + "\n"), done.stderr
    done = verify("--vkey", str(package / "log.vkey"), str(package / "proofs/customer-2.tlog-proof"))
    assert done.returncode == 0
    assert "Proved: it is about customer/2" in done.stdout
    rewrite(package, "entries.jsonl", lambda row: None if about(commitment_of(package, "customer/1"))(row) else row)
    done = verify("--vkey", VKEY)
    assert done.returncode == 1
    assert "1 of 4 without outcome: customer/1" in done.stdout


def test_a_machine_that_lacks_something_checks_nothing_and_does_not_say_not_proved(package: Path) -> None:
    for lacking in ("sys.modules['cryptography'] = None", "sys.version_info = (3, 10)"):
        alone = f"import runpy, sys; {lacking}; runpy.run_path({str(package / 'verify.py')!r}, run_name='__main__')"
        command = [sys.executable, "-I", "-c", alone]
        done = subprocess.run(command, cwd=package.parent, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(
            "verify.py: nothing was checked. It needs Python 3.11 or newer and the package crypt"
        )


def test_one_persons_way_is_told_from_the_package(packed: tuple[EvidenceCase, Path]) -> None:
    said = history(Package(packed[1], [KEY.verifier]), "order/9")
    assert [line.split("  ")[-1].split(" (")[0] for line in said[1:-2]] == [
        "attempt 1 by e-mail through ses: intended, text bbbbbbbbbbbb",
        "attempt 1 by e-mail through ses: handed_over, text bbbbbbbbbbbb",
        "attempt 1 by e-mail through ses: bounced, text bbbbbbbbbbbb",
        "attempt 2 by SMS through sns: intended, text bbbbbbbbbbbb",
        "attempt 2 by SMS through sns: handed_over, text bbbbbbbbbbbb",
        "attempt 2 by SMS through sns: delivered, text bbbbbbbbbbbb",
    ]
    assert said[-2].startswith("  outcome: reached")


def test_a_single_proof_is_one_for_any_verifier(package: Path) -> None:
    proof = (package / "proofs/customer-1.tlog-proof").read_bytes()
    report = verify_proof(proof, [KEY.verifier])
    assert report.opened
    assert json.loads(report.entry)["state"] == "delivered"


def without_leaves(folder: Path) -> None:
    gone = about(commitment_of(folder, "customer/1"))
    rewrite(folder, "entries.jsonl", lambda row: None if gone(row) else row)


def without_end(folder: Path) -> None:
    gone = about(commitment_of(folder, "customer/3"))
    rewrite(folder, "entries.jsonl", lambda row: None if gone(row) else row)


def without_trace(folder: Path) -> None:
    without_leaves(folder)
    rewrite(folder, "people.jsonl", lambda row: None if row["subject"] == "customer/1" else row)
    rewrite(folder, "members.jsonl", lambda row: None if row.get("root") == "customer/1" else row)
    (folder / "proofs/customer-1.tlog-proof").unlink()


def late_one_gone(folder: Path) -> None:
    rewrite(folder, "members.jsonl", lambda row: None if "late" in row else row)


def unnamed(folder: Path) -> None:
    rewrite(folder, "people.jsonl", lambda row: None if row["subject"] == "customer/2" else row)


def merged_away(folder: Path) -> None:
    """customer/3's member is given to somebody who was told."""
    rewrite(folder, "people.jsonl", lambda row: None if row["subject"] == "customer/3" else row)
    without = {"customer/1": ["customer/1", "customer/3"]}
    rewrite(folder, "people.jsonl", lambda row: row | {"roots": without.get(row["subject"], row["roots"])})


def said_to_be_erased(folder: Path) -> None:
    gone = commitment_of(folder, "customer/1")
    rewrite(folder, "people.jsonl", lambda row: {"commitment": gone, "round": 1} if row["commitment"] == gone else row)


def swapped_key(folder: Path) -> None:
    rows = {row["subject"]: row for row in map(json.loads, (folder / "people.jsonl").read_text().splitlines())}
    rewrite(
        folder, "people.jsonl",
        lambda row: row | {"key": rows["customer/3"]["key"]} if row["subject"] == "customer/1" else row,
    )  # fmt: skip


def swapped_proof(folder: Path) -> None:
    shutil.copy(folder / "proofs/customer-1.tlog-proof", folder / "proofs/customer-4.tlog-proof")


def lost_proof(folder: Path) -> None:
    (folder / "proofs/customer-2.tlog-proof").unlink()


def altered_entry(folder: Path) -> None:
    rewrite(folder, "entries.jsonl", lambda row: row | {"entry": row["entry"].replace("bounced", "expired")})


def moved_entry(folder: Path) -> None:
    rewrite(folder, "entries.jsonl", lambda row: row | {"index": row["index"] + 1})


def other_text(folder: Path) -> None:
    (folder / "texts").mkdir(exist_ok=True)
    (folder / "texts/other.json").write_text("{}")


def altered_record(folder: Path) -> None:
    path = folder / "resolution/partition-000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"affected_count": 3}))
    relist(folder)


def damaged_readme(folder: Path) -> None:
    (folder / "README.md").write_text("nothing")


def lost_tile(folder: Path) -> None:
    next((folder / "tile").rglob("*.p/*")).unlink()


def altered_tile(folder: Path) -> None:
    path = next((folder / "tile").rglob("*.p/*"))
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def no_entries(folder: Path) -> None:
    (folder / "entries.jsonl").unlink()


@pytest.mark.parametrize(
    ("tampering", "said"),
    [
        (without_leaves, "1 of 4 without outcome: customer/1"),
        (without_end, "1 of 4 without outcome: customer/3"),
        (without_trace, "partition 0: the log says 4 members, the package has 3"),
        (late_one_gone, "late addition 1: the log says 1 members, the package has 0"),
        (unnamed, "the log tells how somebody ended whom the package does not name"),
        (merged_away, "customer/1: the package gives them other accounts and orders"),
        (said_to_be_erased, "without outcome: customer/1"),
        (swapped_key, "the key does not open the commitment"),
        (swapped_proof, "filed under another person"),
        (lost_proof, "proofs/customer-2.tlog-proof is missing"),
        (altered_entry, "this is not entry"),
        (moved_entry, "this is not entry"),
        (other_text, "no entry of the log names this content"),
        (altered_record, "is not the resolution record that the log names"),
        (damaged_readme, "README.md is not the file that was packed"),
        (lost_tile, "is missing"),
        (altered_tile, "the hash tiles do not give the signed root"),
        (no_entries, "entries.jsonl is missing"),
    ],
)
def test_what_was_left_out_or_altered_shows(package: Path, tampering: Callable[[Path], None], said: str) -> None:
    tampering(package)
    whole, sentences = judged(package)
    assert not whole
    assert said in sentences


def test_another_key_proves_nothing(package: Path) -> None:
    report = verify_package(package, [OTHER_KEY.verifier])
    assert not report.whole
    assert report.proved == []


@pytest.fixture(scope="module")
def handed_over(packed: tuple[EvidenceCase, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Packages of the same log after its key was changed once, and twice."""
    case, folder = packed
    root = shutil.copytree(folder.parent, tmp_path_factory.mktemp("keys") / "evidence")
    packages = []
    for before, after in itertools.pairwise(KEYS):
        with writing(root / "evidence", before) as writer:
            writer.rotate(after, NOW)
            writer.append(
                [b'{"type":"tocsin.later","version":1}']
            )  # the checkpoint of the change bears both signatures
        rows, out = EvidenceRows(case.database), root / f"under-{after.verifier.key_id.hex()}"
        assert (
            EvidencePackages(root / "evidence", after.verifier, rows, case.artefacts)
            .write(INCIDENT, out, NOW)
            .report.whole
        )
        packages.append(out)
    return packages


def test_a_package_and_its_proofs_hold_for_whoever_has_any_earlier_key(
    handed_over: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, folder in enumerate(handed_over, 1):
        alone = runpy.run_path(str(folder / "verify.py"))["main"]
        changes = [f"by the key {key.verifier}." for key in KEYS[1 : number + 1]]
        for key in KEYS[: number + 1]:
            report = verify_package(folder, [key.verifier])
            assert report.whole, report.sentences()
            assert [each for each in report.proved if each.startswith("Since entry")] == [
                each for each in report.proved if each.endswith(tuple(changes))
            ]
            assert sum(each.endswith(tuple(changes)) for each in report.proved) == number
            proof = folder / "proofs/customer-1.tlog-proof"
            told = verify_proof(proof.read_bytes(), [key.verifier])
            assert (told.opened, len(told.notes)) == (True, number)
            assert alone([str(folder), "--vkey", str(key.verifier)]) == 0
            assert capsys.readouterr().out == "\n".join(report.sentences()) + "\n"
            assert alone([str(proof), "--vkey", str(key.verifier)]) == 0
            assert changes[-1] in capsys.readouterr().out
        assert not verify_package(folder, [STRANGER.verifier]).whole


def signed_again(folder: Path, key: SigningKey) -> None:
    head = Checkpoint.parse_text(Note.parse((folder / "checkpoint").read_bytes()).text)
    (folder / "checkpoint").write_bytes(head.sign(key))


def with_change(folder: Path, forged: KeyRotation | None) -> None:
    """Put another entry in the place of the first change of the key, or none."""

    def change(row: dict[str, Any]) -> dict[str, Any] | None:
        if "tocsin.key-rotation" not in row["entry"] or f'"{KEY.verifier.public_key.hex()}"' not in row["entry"]:
            return row
        return (
            None
            if forged is None
            else {**row, "entry": forged.model_copy(update={"index": row["index"]}).encode().decode()}
        )

    rewrite(folder, "entries.jsonl", change)


def test_a_forged_chain_and_one_to_a_key_that_was_given_up_are_refused(handed_over: list[Path], tmp_path: Path) -> None:
    index = next(entry.index for entry in Package(handed_over[0], [OTHER_KEY.verifier]).of_kind("tocsin.key-rotation"))
    named_by_nobody = KeyRotation.sign(STRANGER, OTHER_KEY, index=index, at=NOW).model_copy(
        update={"previous_key": KEY.verifier.public_key.hex()}
    )
    of_strangers = KeyRotation.sign(STRANGER, OTHER_KEY, index=index, at=NOW)
    by_a_thief = KeyRotation.sign(KEY, STRANGER, index=index, at=NOW)  # never logged

    def refused(tamper: Callable[[Path], None], *, key: SigningKey = KEY) -> str:
        folder = shutil.copytree(handed_over[0], tmp_path / "package")
        tamper(folder)
        report = verify_package(folder, [key.verifier])
        shutil.rmtree(folder)
        assert not report.whole
        assert report.proved == []
        return "\n".join(report.problems)

    assert "if the log's key was changed since, give its new key" in refused(lambda folder: with_change(folder, None))
    assert "the key before it did not sign that" in refused(lambda folder: with_change(folder, named_by_nobody))
    assert "do not begin at the key given" in refused(lambda folder: with_change(folder, of_strangers))
    assert "given up" in refused(lambda folder: signed_again(folder, KEY))
    assert "not signed by" in refused(lambda folder: signed_again(folder, KEY), key=OTHER_KEY)

    def stolen(folder: Path) -> None:
        with_change(folder, by_a_thief)
        signed_again(folder, STRANGER)

    assert f"this is not entry {index} of the signed log" in refused(stolen)
    assert "not signed by" in refused(stolen, key=OTHER_KEY)


@pytest.mark.parametrize("name", ["entries.jsonl", "people.jsonl", "members.jsonl", "package.json", "reasons.jsonl"])
@pytest.mark.parametrize("content", [b"\xff", b"[]\n", b"{}\n", b"{", b'{"index": 1e999, "entry": 1}\n', b"[" * 9999])
def test_nonsense_is_refused_in_a_sentence(package: Path, name: str, content: bytes) -> None:
    (package / name).write_bytes(content)
    report = verify_package(package, [KEY.verifier])
    assert not report.whole
    assert report.problems


def test_somebody_who_waits_is_without_outcome(tmp_path: Path) -> None:
    case = EvidenceCase(tmp_path)
    case.known_person(1)
    case.known_person(2)
    case.resolve({"customer/1": ("r1",), "customer/2": ("r2",)})
    case.deliver()  # customer/2's SMS is delivered, so take customer/2 as it was after the bounce
    case.known_person(3)
    case.add_late("customer/3", ("r7",))
    packed = case.export(tmp_path / "package")
    assert packed.report.without == ["customer/3"]
    assert "1 of 3 without outcome: customer/3" in packed.report.sentences()


def test_whose_message_was_on_its_way_when_the_incident_was_closed_is_not_counted_as_decided_against(
    tmp_path: Path,
) -> None:
    from tests.unit.adapters.evidence_case import case_event

    case = EvidenceCase(tmp_path)
    case.resolve({"customer/1": ("r1",), "customer/2": ("r2",)})
    for number, why in ((1, "no_receipt_yet"), (2, "release_cancelled")):
        recipient_id = case.known_person(number)
        with case.database.read() as connection:
            subject = connection.execute(
                sa.select(tables.recipient.c.subject_commitment).where(tables.recipient.c.recipient_id == recipient_id)
            ).scalar_one()
        case.log_events(case_event("person.not_notified", {"subject": subject, "why": why}))
    said = case.export(tmp_path / "package").report.sentences()
    assert "1 of those without outcome were not notified by decisions that the log names." in said
    assert (
        "1 of those without outcome had a message on its way when the incident was closed; no receipt of it is in the log."
        in said
    )


def test_members_that_a_person_left_out_are_told_and_bound_to_their_decision(tmp_path: Path) -> None:
    from tests.unit.adapters.evidence_case import case_event

    case = EvidenceCase(tmp_path)
    case.known_person(1)
    case.resolve({"customer/1": ("r1",), "customer/7": (), "customer/8": ()}, possible=("customer/7", "customer/8"))
    case.deliver()
    with case.database.write() as connection:
        connection.execute(
            sa.update(tables.affected).where(tables.affected.c.standing == "possible").values(exclusion_id="e" * 32)
        )
    decision = {"exclusion_id": "e" * 32, "revision": 1, "people_count": 2, "coverage_sha256": "1" * 64}
    case.log_events(case_event("incident.possible_excluded", decision))
    report = case.export(tmp_path / "package").report
    assert report.whole, report.sentences()
    assert "2 were left out by a recorded decision" in "\n".join(report.sentences())
    rewrite(tmp_path / "package", "entries.jsonl", lambda row: None if "possible_excluded" in row["entry"] else row)
    assert "a decision (eeeeeeeeeeee) that has no entry" in judged(tmp_path / "package")[1]


def test_a_folder_that_is_there_is_not_written_over(packed: tuple[EvidenceCase, Path], tmp_path: Path) -> None:
    case, folder = packed
    with pytest.raises(BadInput, match="exists"):
        case.export(folder)
    with pytest.raises(BadInput, match="no incident"):
        case.packages().write("INC-2026-0099", tmp_path / "other", case.clock.now())
    assert case.export(tmp_path / "bare", single_proofs=False).report.whole
    assert not (tmp_path / "bare/proofs").exists()
    case.log.rename(case.log.with_name("elsewhere"))
    try:
        with pytest.raises(Refused, match="holds no checkpoint"):
            case.packages().write(INCIDENT, tmp_path / "third", case.clock.now())
    finally:
        case.log.with_name("elsewhere").rename(case.log)
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]
