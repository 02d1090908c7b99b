"""Signed notes, keys and checkpoints: the specifications' examples, round trips, and every way to be malformed."""

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput, TocsinError
from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.note import Note, SigningKey, VerifierKey
from tests.unit.evidence.logs import KEY, ORIGIN, OTHER_KEY

SPEC_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
# From the documentation of Go's golang.org/x/mod/sumdb/note.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
SUMDB_VKEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


def test_the_specifications_example_verifies() -> None:
    key = VerifierKey.parse(SPEC_VKEY)
    note = Note.parse(SPEC_NOTE.encode())
    assert note.verified_by([key]) == (key,)
    assert note.encode() == SPEC_NOTE.encode()
    assert str(key) == SPEC_VKEY


def test_gos_example_verifies_and_its_private_key_signs_the_same_bytes() -> None:
    key = VerifierKey.parse(GO_VKEY)
    assert Note.parse(GO_NOTE.encode()).verified_by([key]) == (key,)
    signer = SigningKey.parse(GO_SKEY, "PeterNeumann")
    assert signer.verifier == key
    assert signer.private_text() == GO_SKEY
    assert Note.sign(GO_NOTE.rpartition("\n\n")[0] + "\n", signer).encode() == GO_NOTE.encode()


def test_the_go_checksum_databases_key_is_read() -> None:
    assert str(VerifierKey.parse(SUMDB_VKEY)) == SUMDB_VKEY


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.just("\n"), max_size=200))
def test_notes_round_trip(text: str) -> None:
    text += "\n"
    note = Note.sign(text, KEY, OTHER_KEY)
    parsed = Note.parse(note.encode())
    assert parsed == note
    assert parsed.verified_by([KEY.verifier, OTHER_KEY.verifier]) == (KEY.verifier, OTHER_KEY.verifier)


def test_signatures_of_unknown_keys_are_ignored_and_a_wrong_one_of_a_known_key_is_not() -> None:
    note = Note.sign("text\n", KEY, OTHER_KEY)
    assert note.verified_by([OTHER_KEY.verifier]) == (OTHER_KEY.verifier,)
    with pytest.raises(NotProved, match="not signed by"):
        note.verified_by([VerifierKey.parse(SPEC_VKEY)])
    forged = Note("other\n", note.signatures)
    with pytest.raises(NotProved, match="does not fit"):
        forged.verified_by([KEY.verifier])
    with pytest.raises(NotProved):
        note.verified_by([])


SIGNATURE = KEY.sign("text\n").line()
ENCODED = SIGNATURE.rpartition(" ")[2].strip()


@pytest.mark.parametrize(
    "note",
    [
        "", "text\n", "text\n\n", f"text\n{SIGNATURE}", f"text\n\n{SIGNATURE}".removesuffix("\n"),
        f"text\n\n{SIGNATURE}\n", f"text\r\n\r\n{SIGNATURE}", f"te\x00xt\n\n{SIGNATURE}", f"te\txt\n\n{SIGNATURE}",
        "text\n\n-- name AAAA\n", f"text\n\n- {ORIGIN} {ENCODED}\n", f"text\n\n— {ORIGIN}\n", f"text\n\n—  {ENCODED}\n",
        f"text\n\n— a+b {ENCODED}\n", f"text\n\n— {ORIGIN} {ENCODED.rstrip('=')}\n", f"text\n\n— {ORIGIN} {ENCODED} \n",
        f"text\n\n— {ORIGIN} AAAA\n", f"text\n\n— {ORIGIN} A===\n", f"text\n\n— {ORIGIN} AAAAAAB=\n",
        f"text\n\n{SIGNATURE * 101}",
    ],
)  # fmt: skip
def test_malformed_notes_are_refused(note: str) -> None:
    with pytest.raises(Malformed):
        Note.parse(note.encode())


def test_a_note_that_is_not_utf8_or_too_large_is_refused() -> None:
    with pytest.raises(Malformed, match="UTF-8"):
        Note.parse(b"\xff\n\n" + SIGNATURE.encode())
    with pytest.raises(Malformed, match="bytes"):
        Note.parse(b"a" * 2_000_000)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_note_or_malformed(note: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert Note.parse(note).encode() == note


@given(st.text(max_size=100))
def test_any_text_is_a_key_or_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        VerifierKey.parse(text)
    with pytest.raises(BadInput):
        SigningKey.parse(text, ORIGIN)


@pytest.mark.parametrize(
    "vkey",
    [
        SPEC_VKEY.replace("530d903a", "530d903b"), SPEC_VKEY.replace("530d903a", "530D903A"), SPEC_VKEY.replace("foo", "bar"),
        SPEC_VKEY[:-1], SPEC_VKEY + "=", SPEC_VKEY.replace("+Aeky", "+Beky"), "a b+00000000+AA==", "+530d903a+AA==",
    ],
)  # fmt: skip
def test_altered_verifier_keys_are_refused(vkey: str) -> None:
    with pytest.raises(Malformed):
        VerifierKey.parse(vkey)


def test_a_private_key_is_read_from_every_form_and_never_shown() -> None:
    seed = bytes(range(32))
    pem = Ed25519PrivateKey.from_private_bytes(seed).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for text in (KEY.private_text(), pem.decode(), base64.b64encode(seed).decode() + "\n"):
        assert SigningKey.parse(text, ORIGIN).verifier == KEY.verifier
    assert base64.b64encode(seed).decode() not in repr(KEY)
    with pytest.raises(BadInput, match="keeps its origin") as refused:
        SigningKey.parse(KEY.private_text(), "another.example")
    assert KEY.private_text().rpartition("+")[2] not in str(refused.value)
    for damaged in (KEY.private_text().replace("log.", "lag."), pem.decode()[:60], "PRIVATE+KEY+a"):
        with pytest.raises(BadInput):
            SigningKey.parse(damaged, ORIGIN)


HEAD = Checkpoint(ORIGIN, 7, bytes(32))


def test_the_specifications_checkpoint_is_read() -> None:
    text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    checkpoint = Checkpoint.parse_text(text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text() == text


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_checkpoints_round_trip(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(ORIGIN, size, root, ("an extension",))
    assert open_checkpoint(checkpoint.sign(KEY), [KEY.verifier]) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n7\n", f"{ORIGIN}\n07\n{'A' * 43}=\n", f"{ORIGIN}\n-1\n{'A' * 43}=\n", f"{ORIGIN}\n+7\n{'A' * 43}=\n",
        f"{ORIGIN}\n{2**63}\n{'A' * 43}=\n", f"{ORIGIN}\n{'9' * 5000}\n{'A' * 43}=\n", f"{ORIGIN}\n7\n{'A' * 43}\n",
        f"{ORIGIN}\n7\nAAAA\n", f"\n7\n{'A' * 43}=\n", f"{ORIGIN}\n7\n{'A' * 43}=\n\n", f"{ORIGIN}\n٧\n{'A' * 43}=\n",
        f"{ORIGIN}\n7\n{'A' * 42}B=\n", f"{ORIGIN}\n7\n{'A' * 43}=", f"{ORIGIN}\n7 \n{'A' * 43}=\n",
    ],
)  # fmt: skip
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        Checkpoint.parse_text(text)


def test_a_checkpoint_for_another_origin_or_by_another_key_proves_nothing() -> None:
    with pytest.raises(NotProved, match="not signed by"):
        open_checkpoint(HEAD.sign(KEY), [OTHER_KEY.verifier])
    elsewhere = Note.sign(Checkpoint("other.example/log", 7, bytes(32)).text(), KEY).encode()
    with pytest.raises(NotProved, match="another log"):
        open_checkpoint(elsewhere, [KEY.verifier])
    with pytest.raises(TocsinError):
        HEAD.sign(SigningKey("other.example/log", bytes(32)))
