"""Proof files: round trips, what they prove, and every way to be refused with one sentence."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import TocsinError
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.commitment import Opening, commit, new_person_key
from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.merkle import inclusion_proof, leaf_hash, root_over, tree_root
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.verifier import verify_proof
from tests.unit.evidence.logs import KEY, ORIGIN, OTHER_KEY

PERSON_KEY = bytes(range(32))
COMMITMENT = commit(PERSON_KEY, "customer/42")
ENTRY = b'{"subject":"%s","type":"tocsin.test","version":1}' % COMMITMENT.encode()
LEAVES = [leaf_hash(leaf) for leaf in (b"a", b"b", ENTRY, b"d", b"e")]


def node_at(height: int, index: int) -> bytes:
    return root_over(LEAVES[index << height : (index + 1) << height])


HEAD = Checkpoint(ORIGIN, 5, tree_root(5, node_at)).sign(KEY)
PROOF = Proof(2, inclusion_proof(2, 5, node_at), HEAD, Extra(ENTRY).encode())
BYTES = PROOF.encode()


def test_a_proof_proves_its_entry() -> None:
    report = verify_proof(BYTES, [KEY.verifier])
    assert (report.index, report.entry, report.checkpoint.size) == (2, ENTRY, 5)
    assert report.sentences()[0].startswith("Proved")
    assert Proof.parse(BYTES) == PROOF


def test_a_proof_without_extra_takes_the_entry_from_elsewhere() -> None:
    bare = Proof(PROOF.index, PROOF.path, PROOF.checkpoint).encode()
    assert verify_proof(bare, [KEY.verifier], entry=ENTRY).entry == ENTRY
    with pytest.raises(Malformed, match="no entry"):
        verify_proof(bare, [KEY.verifier])
    with pytest.raises(NotProved, match="another entry"):
        verify_proof(BYTES, [KEY.verifier], entry=b"{}")


def test_an_opening_names_the_person_and_a_wrong_one_is_refused() -> None:
    opened = Proof(2, PROOF.path, HEAD, Extra(ENTRY, Opening(PERSON_KEY, "customer/42")).encode())
    report = verify_proof(opened.encode(), [KEY.verifier])
    assert report.opened
    assert report.subject_field == "subject"
    for opening in (Opening(PERSON_KEY, "customer/43"), Opening(new_person_key(), "customer/42")):
        with pytest.raises(NotProved, match="another person"):
            verify_proof(Proof(2, PROOF.path, HEAD, Extra(ENTRY, opening).encode()).encode(), [KEY.verifier])
    assert "customer/42" not in repr(Opening(PERSON_KEY, "customer/42"))


@given(
    st.integers(0, 2**63 - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple),
    st.none() | st.binary(max_size=50),
)
def test_proofs_round_trip(index: int, path: tuple[bytes, ...], extra: bytes | None) -> None:
    proof = Proof(index, path, HEAD, extra)
    assert Proof.parse(proof.encode()) == proof


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"index 2", b"index 1"), (b"index 2", b"index 02"), (b"index 2", b"index -2"), (b"index 2", b"index 9" + b"9" * 40),
        (b"index 2", b"Index 2"), (b"@v1", b"@v2"), (b"\n", b"\r\n"), (b"extra ", b"extra  "), (b"index 2", b"index 2\n"),
        (b"index 2\n", b"index 2\nnonsense\n"), (b"index 2\n", b""), (b"c2sp.org", b"\nc2sp.org"),
        (ORIGIN.encode() + b"\n5\n", ORIGIN.encode() + b"\n6\n"), (ORIGIN.encode() + b"\n", b"other.example\n"),
        (b"\n\n", b"\n\n\n"), (b"extra ", b"extra e30=\nextra "), ("—".encode(), b"--"), (b"index 2\n", b"index 2\nAAAA\n"),
    ],
)  # fmt: skip
def test_an_altered_proof_is_refused_in_one_sentence(old: bytes, new: bytes) -> None:
    assert old in BYTES
    with pytest.raises((Malformed, NotProved)) as refused:
        verify_proof(BYTES.replace(old, new, 1), [KEY.verifier])
    assert "\n" not in str(refused.value)


def test_extra_lines_swapped_hashes_and_other_keys_are_refused() -> None:
    for path in ((*PROOF.path, PROOF.path[0]), PROOF.path[::-1], PROOF.path[1:], ()):
        with pytest.raises(NotProved):
            verify_proof(Proof(2, path, HEAD, PROOF.extra).encode(), [KEY.verifier])
    with pytest.raises(NotProved):
        verify_proof(BYTES, [OTHER_KEY.verifier])
    with pytest.raises(Malformed):
        verify_proof(Proof(2, PROOF.path * 40, HEAD, PROOF.extra).encode(), [KEY.verifier])
    with pytest.raises(TocsinError):
        verify_proof(BYTES + b"extra\n", [KEY.verifier])


@given(st.data())
def test_no_altered_byte_goes_unseen(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(BYTES) - 1))
    flipped = data.draw(st.integers(1, 255))
    altered = BYTES[:place] + bytes([BYTES[place] ^ flipped]) + BYTES[place + 1 :]
    with pytest.raises((Malformed, NotProved)):
        verify_proof(altered, [KEY.verifier])


@given(st.binary(max_size=200))
def test_any_extra_is_ours_or_malformed(extra: bytes) -> None:
    with pytest.raises(Malformed):
        Extra.parse(extra)


@pytest.mark.parametrize(
    "extra",
    [
        b'{"entry":"a","type":"tocsin.proof-extra","version":2}', b'{"entry":"a","type":"tocsin.proof-extra"}',
        b'{"entry":1,"type":"tocsin.proof-extra","version":1}', b'{"entry":"a","type":"tocsin.proof-extra","version":true}',
        b'{"entry":"a","type":"tocsin.proof-extra","version":1} ', b'{"entry":"\\ud800","type":"tocsin.proof-extra","version":1}',
        b'{"entry":"a","entry":"a","type":"tocsin.proof-extra","version":1}', b"[" * 100_000,
        b'{"entry":"a","person_key":"zz","subject":"b","type":"tocsin.proof-extra","version":1}',
    ],
)  # fmt: skip
def test_extras_that_are_not_ours_are_malformed(extra: bytes) -> None:
    with pytest.raises(Malformed):
        Extra.parse(extra)


def test_commitments_are_hmac_sha256() -> None:
    # printf customer/42 | openssl mac -digest SHA256 -macopt hexkey:000102...1f HMAC
    assert COMMITMENT == "7f0336c9e099ff4d203f35c276bea62d25f14ac8e71d5097f0bcb1f45c044505"
    assert commit(PERSON_KEY, "customer/42") != commit(new_person_key(), "customer/42")
    with pytest.raises(Malformed):
        commit(b"short", "customer/42")
    assert base64.b64encode(PERSON_KEY).decode() not in repr(Extra(ENTRY, Opening(PERSON_KEY, "customer/42")))
