"""Changing the log's key: the log goes on, verifiers follow the chain, and nobody else can name a key."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.clock import Clock, SystemClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Evidence, Paths, Settings
from consumers.adapters.tile_store import FolderToRotate, TileFolder
from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.commands import evidence
from consumers.evidence.faults import LogInUse, Malformed, NotProved, WrongKey
from consumers.evidence.key_chain import Handover, chain_of, handovers_beside, handovers_in
from consumers.evidence.key_commands import LogToRotate, rotate
from consumers.evidence.keys import read_signing_key, read_vkey, write_new_key
from consumers.evidence.leaves import discover
from consumers.evidence.log import LogWriter
from consumers.evidence.note import Note, SigningKey
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import LogFolder, LogReader
from consumers.evidence.rotation import KeyRotation
from consumers.evidence.verifier import LogReport, verify_log
from tests.unit.evidence.logs import KEY, ORIGIN, OTHER_KEY, FailingDisk, PowerFailure, entries, write_log, writing
from tests.unit.evidence.test_commands import outcome

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
THIRD_KEY = SigningKey(ORIGIN, bytes(range(2, 34)))
STRANGER = SigningKey(ORIGIN, bytes(range(3, 35)))


def verified(folder: Path, key: SigningKey) -> LogReport:
    return verify_log(LogFolder(folder), [key.verifier])


@pytest.fixture
def rotated(tmp_path: Path) -> Path:
    """A log of three keys, changed at entries 255 and 300."""
    folder = write_log(tmp_path / "log", [255])
    with writing(folder) as writer:
        assert writer.rotate(OTHER_KEY, AT) == 255
        writer.append(entries(256, 300))
    with writing(folder, OTHER_KEY) as writer:
        writer.rotate(THIRD_KEY, AT)
        writer.append(entries(301, 310))
    return folder


def test_the_log_goes_on_under_the_next_key_and_every_key_of_the_chain_verifies_it(rotated: Path) -> None:
    for key in (KEY, OTHER_KEY, THIRD_KEY):
        report = verified(rotated, key)
        assert report.problems == []
        assert report.notes == [
            f"Since entry 256 it is signed by the key {OTHER_KEY.verifier}.",
            f"Since entry 301 it is signed by the key {THIRD_KEY.verifier}.",
        ]
    assert not verified(rotated, STRANGER).proved
    with pytest.raises(NotProved):
        open_checkpoint((rotated / "checkpoint").read_bytes(), [KEY.verifier])
    with writing(rotated, THIRD_KEY) as writer:
        writer.append(entries(310, 311))
    for retired in (KEY, OTHER_KEY):
        with pytest.raises(WrongKey):
            LogWriter.open(TileFolder(rotated), retired)


def test_the_checkpoint_of_the_change_is_signed_by_both_keys_and_the_old_one_is_refused_from_then_on(
    tmp_path: Path,
) -> None:
    folder = write_log(tmp_path / "log", [3])
    with writing(folder) as writer:
        writer.rotate(OTHER_KEY, AT)
    signed = (folder / "checkpoint").read_bytes()
    for key in (KEY, OTHER_KEY):
        assert open_checkpoint(signed, [key.verifier]).size == 4
    with pytest.raises(WrongKey, match="gave this log to the next key") as refused:
        LogWriter.open(TileFolder(folder), KEY)
    assert str(OTHER_KEY.verifier) in str(refused.value)
    with writing(folder, OTHER_KEY) as writer:
        assert writer.append(entries(4, 5)) == range(4, 5)


def test_a_verifier_tells_how_far_it_is(rotated: Path) -> None:
    told: list[tuple[int, int]] = []
    verify_log(LogFolder(rotated), [KEY.verifier], progress=lambda read, size: told.append((read, size)))
    assert told == [(256, 310), (310, 310)]


def test_the_change_is_a_leaf_like_others(rotated: Path) -> None:
    parsed = discover().parse(LogReader(LogFolder(rotated), 310).entry(255))
    assert isinstance(parsed, KeyRotation)
    assert parsed.rotated_at == AT
    assert verify_log(LogFolder(rotated), [KEY.verifier], discover()).leaf_counts["tocsin.key-rotation"] == 2


def test_a_key_can_be_named_by_the_one_before_it_only(tmp_path: Path) -> None:
    forged = KeyRotation.sign(STRANGER, OTHER_KEY, index=3, at=AT).model_copy(
        update={"previous_key": KEY.verifier.public_key.hex()}
    )
    folder = write_log(tmp_path / "log", [3])
    with writing(folder) as writer:
        writer.append([forged.encode()])
    assert any("did not sign that" in problem for problem in verified(folder, KEY).problems)
    for name, wrong, problem in (
        ("stranger", KeyRotation.sign(STRANGER, THIRD_KEY, index=3, at=AT), "from another one"),
        ("elsewhere", KeyRotation.sign(OTHER_KEY, THIRD_KEY, index=9, at=AT), "was made for place 9"),
    ):
        folder = write_log(tmp_path / name, [2])
        with writing(folder) as writer:
            writer.rotate(OTHER_KEY, AT)
            writer.append([wrong.encode()])
        assert any(problem in found for found in verified(folder, KEY).problems)
    with pytest.raises(NotProved, match="did not sign for itself"):
        unsigned = KeyRotation.sign(KEY, OTHER_KEY, index=3, at=AT).model_copy(update={"next_signature": "0" * 128})
        Handover.parse(unsigned.encode()).keys(ORIGIN)


def test_somebody_who_goes_on_with_a_key_that_was_given_up_is_found_out(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    with writing(folder) as writer:
        writer.rotate(OTHER_KEY, AT)
        writer.append(entries(4, 9))
    head = Checkpoint.parse_text(Note.parse((folder / "checkpoint").read_bytes()).text)
    (folder / "checkpoint").write_bytes(head.sign(KEY))
    assert any("given up" in problem for problem in verified(folder, KEY).problems)
    assert not verified(folder, OTHER_KEY).proved


def test_keys_of_other_logs_and_the_same_key_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    with writing(folder) as writer:
        with pytest.raises(Malformed, match="is for"):
            writer.rotate(SigningKey("other.example", bytes(32)), AT)
        with pytest.raises(Malformed, match="already"):
            writer.rotate(KEY, AT)
        writer.append(entries(3, 4))
    assert verified(folder, KEY).problems == []


def test_a_change_that_is_interrupted_anywhere_leaves_one_key_or_the_other(tmp_path: Path) -> None:
    template = write_log(tmp_path / "template/log", [255]).parent
    outcomes = set()
    for fail_at in range(40):
        folder = shutil.copytree(template, tmp_path / f"at{fail_at}") / "log"
        try:
            with writing(folder, disk=FailingDisk(fail_at)) as writer:
                writer.rotate(OTHER_KEY, AT)
        except PowerFailure:
            pass
        try:
            with writing(folder) as writer:
                writer.append(entries(writer.size, 300))
            outcomes.add("old")
        except WrongKey:
            with writing(folder, OTHER_KEY) as writer:
                writer.append(entries(writer.size, 300))
            outcomes.add("next")
        assert verified(folder, KEY).problems == []
    assert outcomes == {"old", "next"}


def test_a_key_that_was_given_up_never_comes_back(rotated: Path) -> None:
    with writing(rotated, THIRD_KEY) as writer:
        with pytest.raises(Malformed, match="entry 255 gave that key up"):
            writer.rotate(KEY, AT)
        writer.append(entries(310, 311))
    back = [Handover.parse(KeyRotation.sign(*keys, index=n, at=AT).encode()) for n, keys in enumerate(BACK_AND_FORTH)]
    with pytest.raises(NotProved, match="gives the log back to a key that had been given up"):
        chain_of(back, ORIGIN)
    with pytest.raises(NotProved, match="out of order"):
        chain_of([handover(each, 7) for each in ((KEY, OTHER_KEY), (OTHER_KEY, THIRD_KEY))], ORIGIN)


BACK_AND_FORTH = ((KEY, OTHER_KEY), (OTHER_KEY, KEY))


def handover(keys: tuple[SigningKey, SigningKey], index: int) -> Handover:
    return Handover.parse(KeyRotation.sign(*keys, index=index, at=AT).encode())


def test_a_single_proof_carries_the_chain_and_a_false_one_is_refused(rotated: Path) -> None:
    files = LogFolder(rotated)
    signed = (rotated / "checkpoint").read_bytes()
    head = open_checkpoint(signed, [THIRD_KEY.verifier])
    chain = tuple(handovers_beside(files, head))
    assert [each.index for each in chain] == [255, 300]
    reader = LogReader(files, head.size)
    path, proved = reader.inclusion_proof(7), reader.entry(7)

    def with_chain(*handovers: Handover, checkpoint: bytes = signed) -> bytes:
        proof = Proof(7, path, checkpoint, Extra(proved, None, handovers).encode()).encode()
        assert Extra.parse(Proof.parse(proof).extra or b"").handovers == handovers
        return proof

    for key in (KEY, OTHER_KEY, THIRD_KEY):
        assert verify_chain(with_chain(*chain), key) == head.size
    assert verify_chain(with_chain(), THIRD_KEY) == head.size
    stolen = handover((KEY, STRANGER), 255)
    for proof, key, said in (
        (with_chain(), KEY, "if the log's key was changed since, give its new key"),
        (with_chain(chain[1]), KEY, "do not begin at the key given"),
        (with_chain(chain[0]), KEY, "not signed by"),
        (with_chain(chain[1], chain[0]), KEY, "from another one"),
        (with_chain(stolen), KEY, "not signed by"),
        (with_chain(stolen, checkpoint=head.sign(STRANGER)), OTHER_KEY, "do not begin at the key given"),
        (with_chain(*chain, checkpoint=head.sign(KEY)), KEY, "given up"),
        (with_chain(*chain, checkpoint=head.sign(OTHER_KEY)), OTHER_KEY, "given up"),
        (
            with_chain(*chain, handover((THIRD_KEY, STRANGER), 310), checkpoint=head.sign(STRANGER)),
            KEY,
            "310 entries only",
        ),
        (with_chain(*chain), STRANGER, "do not begin at the key given"),
    ):
        with pytest.raises(NotProved, match=re.escape(said)):
            verify_chain(proof, key)
    (rotated / "key-changes").write_bytes(chain[1].entry + b"\n" + chain[0].entry + b"\n")
    assert handovers_beside(files, head) == []


def verify_chain(proof: bytes, key: SigningKey) -> int:
    parsed = Proof.parse(proof)
    extra = Extra.parse(parsed.extra or b"")
    return parsed.verify(extra.entry, [key.verifier], extra.handovers).size


@given(st.binary(max_size=60))
def test_any_entry_that_claims_to_change_the_key_is_one_or_malformed(noise: bytes) -> None:
    with pytest.raises(Malformed):
        Handover.parse(noise + b'"type":"tocsin.key-rotation","version":1}')


def test_every_change_is_found_by_reading(rotated: Path) -> None:
    found = handovers_in(LogReader(LogFolder(rotated), 310))
    assert [rotation.index for rotation in found] == [255, 300]
    assert chain_of(found, ORIGIN) == [KEY.verifier, OTHER_KEY.verifier, THIRD_KEY.verifier]


def test_the_command_gives_the_log_to_the_next_key_and_can_be_repeated_after_an_interruption(tmp_path: Path) -> None:
    parts = Parts()
    settings = Settings(paths=Paths(data=tmp_path / "data", keys=tmp_path / "keys"), evidence=Evidence(origin=ORIGIN))
    folder = settings.paths.evidence
    parts.provide(Settings, lambda: settings)
    parts.provide(Clock, SystemClock)
    parts.provide(LogToRotate, lambda: FolderToRotate(folder))

    group = click.Group(commands=[*evidence.commands.values(), rotate])

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(group, [str(argument) for argument in arguments], obj=parts)

    key_file, next_file = settings.paths.evidence_key, tmp_path / "keys/next.key"
    first = write_new_key(key_file, ORIGIN)
    with writing(folder, read_signing_key(key_file, ORIGIN)) as writer:
        writer.append([outcome(1, "intended", offset) for offset in range(3)])
        assert run("keygen", "--out", next_file).exit_code == 0
        following = read_vkey(str(tmp_path / "keys/next.vkey"))
        assert isinstance(run("rotate", "--to", next_file).exception, LogInUse)
    assert isinstance(run("rotate", "--to", tmp_path / "none").exception, BadInput)
    assert isinstance(run("rotate", "--to", key_file).exception, Refused)

    (tmp_path / "keys/evidence.retired.key").write_text("of an earlier change")
    done = run("rotate", "--to", next_file)
    assert (done.exit_code, str(following) in done.output) == (0, True)
    assert "Entry 3" in done.output
    assert not next_file.exists()
    assert read_signing_key(key_file, ORIGIN).verifier == following
    assert read_vkey(str(tmp_path / "keys/evidence.vkey")) == following
    assert read_signing_key(tmp_path / "keys/evidence.retired-2.key", ORIGIN).verifier == first
    # Interrupted after the log was given over and before the files were moved: the same again.
    key_file.rename(next_file)
    (tmp_path / "keys/evidence.retired-2.key").rename(key_file)
    again = run("rotate", "--to", next_file)
    assert (again.exit_code, "Entry" in again.output) == (0, False)
    assert read_signing_key(key_file, ORIGIN).verifier == following
    with writing(folder, read_signing_key(key_file, ORIGIN)) as writer:
        assert writer.append([outcome(1, "handed_over", 3)]) == range(4, 5)
    proof = tmp_path / "one.tlog-proof"
    assert run("prove", "--index", "1", "-o", proof).exit_code == 0
    told = run("verify", proof, "--vkey", str(first))
    assert (told.exit_code, f"Since entry 4 it is signed by the key {following}." in told.output) == (0, True)
    result = run("verify", folder, "--vkey", str(first), "--json")
    assert f"Since entry 4 it is signed by the key {following}." in result.output
