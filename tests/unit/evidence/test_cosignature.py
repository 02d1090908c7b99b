"""Cosignatures of witnesses: one made by another implementation, and every way to be wrong."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from consumers.evidence.checkpoint import open_checkpoint
from consumers.evidence.cosignature import (
    Cosignature,
    WitnessKey,
    cosignatures_of,
    cosigned_text,
    with_cosignatures,
)
from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.note import Note, Signature, SigningKey, VerifierKey
from consumers.evidence.reader import LogFolder
from consumers.evidence.verifier import verify_log
from tests.unit.evidence.logs import KEY, ORIGIN, entries, write_log, writing

# Made by filippo.io/torchwood v0.9.0 over a log of ours with two entries.
WITNESS = WitnessKey.parse("witness.example/w1+09dcf0bd+BAu8NGpXZnw4ASC9nH/X5R0sX9/qN80vW/QFssa/by14")
LOG_LINE = "— log.example/evidence LW53a+5kPbaPe6N/FH3EGf0d3gXTHV0KXJ+BUHW4CRMJ9ZAa/rzU1rivRnIad2p+ZbZkz7AuX8w+ivTdzX8azKp+ewg=\n"
COSIGNED = (
    "— witness.example/w1 "
    "CdzwvQAAAABrCKrViJgX16gj/xM7lOPgkjiPE+dpBmmIgf1Q0aZMADrcc7B4ASSuhqHI9I61WqKDBZph86HFQpeljPKaRM4741xxBQ==\n"
)
SIGNED = f"{ORIGIN}\n2\nxMvoeNMbW4Lcii3mk+l2Lep+v86SmtW7U/iPAjfEGjU=\n\n{LOG_LINE}".encode()
AT = datetime.fromtimestamp(0x6B08AAD5, UTC)

SECOND = SigningKey("witness.example/w2", bytes(range(9, 41)))
SECOND_KEY = WitnessKey(SECOND.verifier.name, SECOND.verifier.public_key)


def cosigned_by_second(text: str, timestamp: int) -> bytes:
    raw = Ed25519PrivateKey.from_private_bytes(bytes(range(9, 41))).sign(cosigned_text(text, timestamp).encode())
    return Signature(SECOND_KEY.name, SECOND_KEY.key_id, timestamp.to_bytes(8, "big") + raw).line().encode()


def test_another_implementations_cosignature_of_our_checkpoint_holds(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [2])
    assert (folder / "checkpoint").read_bytes() == SIGNED
    whole = with_cosignatures(SIGNED, COSIGNED.encode(), [WITNESS])
    assert whole == SIGNED + COSIGNED.encode()
    assert cosignatures_of(whole, [WITNESS]) == (Cosignature(WITNESS, AT),)
    assert cosignatures_of(whole, [SECOND_KEY]) == ()
    assert open_checkpoint(whole, [KEY.verifier]).size == 2
    assert with_cosignatures(whole, COSIGNED.encode(), [WITNESS]) == whole
    assert str(WITNESS) == "witness.example/w1+09dcf0bd+BAu8NGpXZnw4ASC9nH/X5R0sX9/qN80vW/QFssa/by14"


def test_cosignatures_stay_on_the_checkpoint_until_the_log_grows_and_verify_tells_them(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [2])
    whole = with_cosignatures(SIGNED, COSIGNED.encode(), [WITNESS])
    (folder / "checkpoint").write_bytes(whole)
    with writing(folder) as writer:
        assert writer.size == 2
    assert (folder / "checkpoint").read_bytes() == whole
    report = verify_log(LogFolder(folder), [KEY.verifier], witnesses=[WITNESS, SECOND_KEY])
    assert report.problems == []
    assert (
        f"Proved: the witness witness.example/w1 saw it, and no other history of it, at {AT:%Y-%m-%d %H:%M:%S} UTC."
        in (report.notes)
    )
    assert "The witness witness.example/w2 did not cosign this checkpoint." in report.notes
    with writing(folder) as writer:
        writer.append(entries(2, 3))
    assert b"witness" not in (folder / "checkpoint").read_bytes()


def test_a_cosignature_covers_the_extension_lines(tmp_path: Path) -> None:
    text = SIGNED.decode().partition("\n\n")[0] + "\nan extension\n"
    signed = Note.sign(text, KEY).encode()
    assert with_cosignatures(signed, cosigned_by_second(text, 1), [SECOND_KEY])
    with pytest.raises(NotProved):
        with_cosignatures(SIGNED, cosigned_by_second(text, 1), [SECOND_KEY])


@pytest.mark.parametrize("timestamp", [2**63, 2**64 - 1, 253402300800])
def test_times_that_cannot_be_told_are_refused(timestamp: int) -> None:
    text = SIGNED.decode().partition("\n\n")[0] + "\n"
    with pytest.raises(NotProved):
        with_cosignatures(SIGNED, cosigned_by_second(text, timestamp), [SECOND_KEY])


def test_altered_cosignatures_and_those_of_nobody_known_are_refused() -> None:
    line = Note.parse(SIGNED + COSIGNED.encode()).signatures[1]
    for at in range(len(line.signature)):
        altered = line.signature[:at] + bytes([line.signature[at] ^ 1]) + line.signature[at + 1 :]
        with pytest.raises(NotProved):
            cosignatures_of(SIGNED + Signature(line.name, line.key_id, altered).line().encode(), [WITNESS])
    for length in (1, 71, 73):
        short = Signature(line.name, line.key_id, (line.signature + b"x")[:length]).line().encode()
        with pytest.raises(NotProved, match="not in its form"):
            cosignatures_of(SIGNED + short, [WITNESS])
    with pytest.raises(NotProved, match="no cosignature of a known witness"):
        with_cosignatures(SIGNED, COSIGNED.encode(), [SECOND_KEY])


@given(st.binary(max_size=120))
def test_any_answer_is_cosignatures_or_refused(answer: bytes) -> None:
    with pytest.raises((Malformed, NotProved)):
        with_cosignatures(SIGNED, answer, [WITNESS])


@pytest.mark.parametrize(
    "vkey",
    [
        "", "a+b", str(KEY.verifier), str(WITNESS)[:-1], str(WITNESS).replace("09dcf0bd", "09dcf0be"),
        str(WITNESS).replace("w1", "w 1"), str(WITNESS).replace("09dcf0bd", "09DCF0BD"),
    ],
)  # fmt: skip
def test_other_keys_are_no_witness(vkey: str) -> None:
    with pytest.raises(Malformed):
        WitnessKey.parse(vkey)
    with pytest.raises(Malformed):
        VerifierKey.parse(str(WITNESS))
