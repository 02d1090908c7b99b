"""`tocsin evidence`: what a person sees and the exit codes."""

import json
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Evidence, Paths, Settings
from consumers.evidence.commands import Named, ProofSubjects, evidence
from consumers.evidence.commitment import Opening, commit, incident_key
from consumers.evidence.keys import read_signing_key
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf
from consumers.evidence.leaves import Source
from tests.unit.evidence.logs import KEY, ORIGIN, OTHER_KEY, write_log, writing

PERSON_KEY = incident_key(b"p" * 32, "INC-2026-0001")
SUBJECT = commit(PERSON_KEY, "customer/42")
NAMED = Named("INC-2026-0001", SUBJECT, 1, Opening(PERSON_KEY, "customer/42"))


class _Subjects:
    """Knows one person of one incident."""

    def of_person(self, incident_id: str, root: str, token_file: Path | None) -> Sequence[Named]:
        if (incident_id, root) != ("INC-2026-0001", "customer/42"):
            raise Refused("nobody of this incident")
        return [NAMED]

    def of_attempt(self, attempt_id: str, token_file: Path | None) -> tuple[Named, int] | None:
        return {"known": (NAMED, 2), "elsewhere": (NAMED, 3)}.get(attempt_id)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    parts = Parts()
    settings = Settings(paths=Paths(data=tmp_path / "data", keys=tmp_path / "keys"), evidence=Evidence(origin=ORIGIN))
    parts.provide(Settings, lambda: settings)
    parts.provide(ProofSubjects, _Subjects)
    return parts


def run(parts: Parts, *arguments: str | Path) -> Result:
    return CliRunner().invoke(evidence, [str(argument) for argument in arguments], obj=parts)


def outcome(number: int, state: str, offset: int) -> bytes:
    return DeliveryOutcomeLeaf.model_validate(
        {
            "source": Source(cluster="c1", topic="tocsin.delivery-outcomes", partition=0, offset=offset),
            "incident_id": "INC-2026-0001", "subject": SUBJECT, "attempt_number": number, "channel": "email",
            "provider": "ses", "state": state, "previous_state": "planned", "occurred_at": "2026-11-23T21:30:00Z",
            "recorded_at": "2026-11-23T21:30:00Z",
        }
    ).encode()  # fmt: skip


def test_keygen_writes_a_private_key_for_nobody_else_and_never_over_another(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / "keys/evidence.key"
    result = run(parts, "keygen")
    assert result.exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    vkey = (tmp_path / "keys/evidence.vkey").read_text().strip()
    assert vkey in result.output
    assert "PRIVATE" not in result.output
    key = read_signing_key(path, ORIGIN)
    assert str(key.verifier) == vkey
    again = run(parts, "keygen")
    assert isinstance(again.exception, Refused)
    assert str(read_signing_key(path, ORIGIN).verifier) == vkey


def test_a_key_that_others_can_read_is_refused(parts: Parts, tmp_path: Path) -> None:
    run(parts, "keygen")
    path = tmp_path / "keys/evidence.key"
    path.chmod(0o640)
    with pytest.raises(BadInput, match="chmod 600"):
        read_signing_key(path, ORIGIN)
    with pytest.raises(BadInput, match="keygen"):
        read_signing_key(tmp_path / "none", ORIGIN)
    assert read_signing_key(tmp_path / "none", ORIGIN, text=KEY.private_text()).verifier == KEY.verifier


def test_prove_and_verify_by_index(parts: Parts, tmp_path: Path) -> None:
    with writing(tmp_path / "data/evidence") as writer:
        writer.append([outcome(1, "intended", offset) for offset in range(300)])
    proof = tmp_path / "one.tlog-proof"
    assert run(parts, "prove", "--index", "7", "-o", proof).exit_code == 0
    result = run(parts, "verify", proof, "--vkey", str(KEY.verifier))
    assert result.exit_code == 0
    assert "Proved: the following was entry 7" in result.output
    assert "Not proved by this" in result.output
    file = tmp_path / "log.vkey"
    file.write_text(f"{KEY.verifier}\n")
    as_json = run(parts, "verify", proof, "--vkey", file, "--json")
    assert json.loads(as_json.output)["proved"] is True
    other = run(parts, "verify", proof, "--vkey", str(OTHER_KEY.verifier))
    assert (other.exit_code, other.output.startswith("NOT proved")) == (1, True)
    proof.write_bytes(proof.read_bytes().replace(b"index 7", b"index 8"))
    assert run(parts, "verify", proof, "--vkey", file).exit_code == 1


def test_the_newest_entry_of_an_attempt_is_proved(parts: Parts, tmp_path: Path) -> None:
    with writing(tmp_path / "data/evidence") as writer:
        writer.append([outcome(2, "intended", 0), outcome(2, "delivered", 1), outcome(1, "bounced", 2)])
    proof = tmp_path / "one.tlog-proof"
    assert run(parts, "prove", "--attempt", "known", "-o", proof).exit_code == 0
    shown = run(parts, "verify", proof, "--vkey", str(KEY.verifier)).output
    assert '"state":"delivered"' in shown
    for attempt in ("unknown", "elsewhere"):
        assert isinstance(run(parts, "prove", "--attempt", attempt, "-o", proof).exception, Refused)


def test_a_persons_proof_is_of_how_they_were_reached_and_shows_that_it_is_theirs(parts: Parts, tmp_path: Path) -> None:
    with writing(tmp_path / "data/evidence") as writer:
        writer.append([outcome(1, "bounced", 0), outcome(2, "delivered", 1), outcome(2, "read", 2)])
        writer.append([outcome(3, "cancelled", 3)])
    proof = tmp_path / "one.tlog-proof"
    asked = ("prove", "--incident", "INC-2026-0001", "--person", "customer/42", "-o", proof)
    done = run(parts, *asked)
    assert done.exit_code == 0, done.output
    assert "shows that the entry is about customer/42" in done.output
    shown = run(parts, "verify", proof, "--vkey", str(KEY.verifier)).output
    assert '"state":"read"' in shown
    assert "attempt 2 to tell this person, by e-mail through ses, was read at 2026-11-23T21:30:00.000000Z" in shown
    assert "Proved: its commitment (subject) is of customer/42" in shown
    assert run(parts, "prove", "--person", "customer/42", "-o", proof).exit_code == 2
    stranger = run(parts, "prove", "--incident", "INC-2026-0001", "--person", "customer/43", "-o", proof)
    assert isinstance(stranger.exception, Refused)


def test_verify_says_what_a_folder_holds_or_what_is_wrong_with_it(parts: Parts, tmp_path: Path) -> None:
    with writing(tmp_path / "data/evidence") as writer:
        writer.append([outcome(1, "intended", offset) for offset in range(3)])
    vkey = str(KEY.verifier)
    result = run(parts, "verify", tmp_path / "data/evidence", "--vkey", vkey)
    assert (result.exit_code, "3 x tocsin.delivery-outcome" in result.output) == (0, True)
    with writing(tmp_path / "data/evidence") as writer:
        writer.append([outcome(1, "intended", 2)])
    result = run(parts, "verify", tmp_path / "data/evidence", "--vkey", vkey)
    assert (result.exit_code, "logged twice or out of order" in result.output) == (1, True)
    result = run(parts, "verify", write_log(tmp_path / "other", [2]), "--vkey", vkey)
    assert (result.exit_code, "entry 0: the leaf is no canonical JSON" in result.output) == (1, True)


def test_wrong_use_is_told_from_a_no(parts: Parts, tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [1])
    assert isinstance(run(parts, "verify", folder, "--vkey", "nonsense").exception, BadInput)
    assert run(parts, "verify", tmp_path / "none", "--vkey", str(KEY.verifier)).exit_code == 2
    assert run(parts, "prove", "-o", tmp_path / "p").exit_code == 2
    assert isinstance(run(parts, "prove", "--index", "0", "-o", tmp_path / "p").exception, BadInput)
    assert isinstance(run(parts, "prove", "--log", folder, "--index", "1", "-o", tmp_path / "p").exception, Refused)
