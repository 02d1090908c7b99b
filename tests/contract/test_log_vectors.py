"""What other implementations of transparency logs test themselves with, held against ours. Facts, none of their code.

`merkle_proofs.jsonl`: the proofs, right and wrong ones, of github.com/transparency-dev/merkle (testdata, Apache-2.0), which
sigstore's and Go's verifiers are held to as well. Trees, notes and keys: golang.org/x/mod/sumdb. Paths: C2SP's examples.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.merkle import check_consistency, check_inclusion, leaf_hash
from consumers.evidence.note import Note, VerifierKey
from consumers.evidence.tiles import Frontier, TileName, parse_path, right_edge

PROOFS = [json.loads(line) for line in (Path(__file__).parent / "merkle_proofs.jsonl").read_text().splitlines()]


def _hold(vector: dict[str, Any]) -> None:
    proof = [base64.b64decode(node) for node in vector["proof"]]
    root = base64.b64decode(vector["root"] or "")
    if "index" in vector:
        leaf = base64.b64decode(vector["leaf"] or "")
        check_inclusion(vector["index"], vector["size"], leaf, proof, root)
    else:
        old_root = base64.b64decode(vector["old_root"] or "")
        check_consistency(vector["old_size"], vector["size"], old_root, root, proof)


def test_every_proof_that_others_accept_holds_and_no_other() -> None:
    assert len(PROOFS) > 190
    wrong = []
    for vector in PROOFS:
        try:
            _hold(vector)
            holds = True
        except NotProved:
            holds = False
        if holds != vector["holds"]:
            wrong.append(vector["case"])
    # Its roots have 12 bytes, which we call none.
    assert wrong == ["sizes are equal (one) and proof is empty"]


def test_gos_tree_head_is_a_checkpoint() -> None:
    text = "go.sum database tree\n123456789012\nTszzRgjTG6xce+z2AG31kAXYKBgQVtCSCE40HmuwBb0=\n"
    head = Checkpoint.parse_text(text)
    assert head == Checkpoint("go.sum database tree", 123456789012, leaf_hash(b"hello world"))
    assert head.text() == text
    for wrong in ("0xabcdef", "0123456789012", " 123456789012"):
        with pytest.raises(Malformed):
            Checkpoint.parse_text(text.replace("123456789012", wrong))
    with pytest.raises(Malformed):
        Checkpoint.parse_text(text.replace("BBb0=", "BTOOBIG=").replace("wBb0=", "wBTOOBIG="))


PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
BY_PETER = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
BY_ENOCH = "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"


def test_gos_notes_by_two_keys_are_opened_as_go_opens_them() -> None:
    peter, enoch = VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)
    both = Note.parse(f"{TEXT}\n{BY_PETER}{BY_ENOCH}".encode())
    assert both.verified_by([peter]) == (peter,)
    assert both.verified_by([peter, enoch]) == (peter, enoch)
    for keys in ([], [VerifierKey(peter.name, enoch.public_key)]):
        with pytest.raises(NotProved, match="not signed by"):
            both.verified_by(keys)
    repeated = Note.parse(f"{TEXT}\n{BY_PETER * 2}{BY_ENOCH * 2}".encode())
    assert repeated.verified_by([peter]) == (peter,)
    altered = f"{TEXT}\n{BY_PETER[:60]}ABCD{BY_PETER[60:]}"
    with pytest.raises(NotProved, match="does not fit"):
        Note.parse(altered.encode()).verified_by([peter])
    with pytest.raises(Malformed):
        Note.parse(f"{TEXT}\n{BY_PETER * 101}".encode())


@pytest.mark.parametrize(
    "note",
    [
        f"{TEXT}\n", f"{TEXT}\n{BY_PETER[:-1]}", f"\x01{TEXT}\n{BY_PETER}", f"{TEXT}\n{BY_PETER}Unexpected line.\n",
        f"{TEXT}\n— Bad Name {BY_PETER.rpartition(' ')[2]}",
    ],
)  # fmt: skip
def test_what_go_calls_malformed_is_malformed(note: str) -> None:
    with pytest.raises(Malformed):
        Note.parse(note.encode())


@pytest.mark.parametrize(
    "vkey",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        PETER.replace("c74f20a3", "c74f20a4"), PETER.replace("PeterNeumann", "PeterNeuman"),
    ],
)  # fmt: skip
def test_keys_that_go_refuses_are_refused(vkey: str) -> None:
    with pytest.raises(Malformed):
        VerifierKey.parse(vkey)


def test_the_specifications_paths_and_its_tree_of_seventy_thousand() -> None:
    assert TileName(0, 1234067).path == "tile/0/x001/x234/067"
    assert TileName(1, 123456078, 2).path == "tile/1/x123/x456/078.p/2"
    assert parse_path("tile/entries/x123/x456/078.p/2") == TileName(-1, 123456078, 2)
    assert [(name.level, name.index, name.width) for name in right_edge(70_000)] == [
        (0, 273, 112),
        (1, 1, 17),
        (2, 0, 1),
    ]
    assert right_edge(256) == [TileName(1, 0, 1)]


def test_certificate_transparencys_roots_come_out_of_the_writers_tree() -> None:
    leaves = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
    frontier = Frontier()
    frontier.add([leaf_hash(bytes.fromhex(leaf)) for leaf in leaves])
    assert frontier.root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
