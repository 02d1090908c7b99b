"""Whatever bytes come from outside: every parser gives its value or one clear sentence, never another error.

Half of the inputs are noise, half are real ones with a few bytes changed, cut or repeated: noise seldom gets past a header.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import TocsinError
from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.commitment import Opening
from consumers.evidence.cosignature import WitnessKey, cosignatures_of
from consumers.evidence.key_chain import Handover
from consumers.evidence.note import Note, SigningKey, VerifierKey
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import CHECKPOINT, LogFolder, parse_edge
from consumers.evidence.tiles import (
    ENTRIES,
    TileName,
    bundle_prefix,
    decode_bundle,
    decode_tile,
    encode_entry,
    parse_path,
)
from consumers.evidence.verifier import verify_log, verify_proof
from tests.unit.evidence.logs import KEY, ORIGIN, write_log

HEAD = Checkpoint(ORIGIN, 5, bytes(32)).sign(KEY)
ENTRY = b'{"subject":"%s","type":"tocsin.test","version":1}' % (b"ab" * 32)
PROOF = Proof(2, (bytes(32),) * 3, HEAD, Extra(ENTRY, Opening(bytes(32), "customer/42")).encode()).encode()
BUNDLE = b"".join(encode_entry(b"entry %d" % number) for number in range(7))
WITNESS = WitnessKey("witness.example/w1", bytes(range(32)))


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda noise: parse(noise.decode("utf-8", "surrogateescape"))


PARSERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "note": (HEAD, Note.parse),
    "checkpoint": (HEAD, lambda noise: open_checkpoint(noise, [KEY.verifier])),
    "checkpoint text": (HEAD.partition(b"\n\n")[0] + b"\n", _text(Checkpoint.parse_text)),
    "cosigned checkpoint": (HEAD, lambda noise: cosignatures_of(noise, [WITNESS])),
    "proof": (PROOF, lambda noise: verify_proof(noise, [KEY.verifier])),
    "bare proof": (PROOF, lambda noise: verify_proof(noise, [KEY.verifier], entry=ENTRY)),
    "extra": (Extra(ENTRY, Opening(bytes(32), "customer/42")).encode(), Extra.parse),
    "verifier key": (str(KEY.verifier).encode(), _text(VerifierKey.parse)),
    "witness's key": (str(WITNESS).encode(), _text(WitnessKey.parse)),
    "signing key": (KEY.private_text().encode(), _text(lambda text: SigningKey.parse(text, ORIGIN))),
    "path": (b"tile/entries/x001/x234/067.p/8", _text(parse_path)),
    "bundle": (BUNDLE, lambda noise: decode_bundle(noise, TileName(ENTRIES, 0, 7))),
    "beginning of a bundle": (BUNDLE, lambda noise: bundle_prefix(noise, 3)),
    "tile": (bytes(7 * 32), lambda noise: decode_tile(noise, TileName(0, 0, 7))),
    "edge": (b"3\n" + b"A" * 43 + b"=\n" + b"A" * 43 + b"=\n", lambda noise: parse_edge(noise, 3)),
    "key change": (b'{"index":3,"type":"tocsin.key-rotation","version":1}', Handover.parse),
}


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return `whole` with up to three changes."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(whole)))
        end = draw(st.integers(start, min(len(whole), start + 40)))
        piece = draw(
            st.binary(max_size=6)
            | st.sampled_from(
                [b"", b"\r\n", b"\n\n", b"\x00", b"9" * 5000, b"+", b"=", "—".encode(), b"\xff", whole[start:end] * 2]
            )
        )
        whole = whole[:start] + piece + whole[end:]
    return whole


@pytest.mark.parametrize("what", PARSERS)
def test_every_parser_gives_a_value_or_one_sentence(what: str) -> None:
    real, parse = PARSERS[what]

    @given(st.binary(max_size=120) | damaged(real))
    def tried(noise: bytes) -> None:
        try:
            parse(noise)
        except TocsinError as refused:
            said = str(refused)
            assert said
            assert "\n" not in said
            assert len(said) < 1000
            assert KEY.private_text().rpartition("+")[2] not in said

    tried()


def test_a_folder_of_anything_is_proved_or_not(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3, 260])
    files = [folder / CHECKPOINT, *(folder / name for name in LogFolder(folder).names())]
    contents = {file: file.read_bytes() for file in files}

    @given(st.data())
    def tried(data: st.DataObject) -> None:
        file = data.draw(st.sampled_from(files))
        changed = data.draw(damaged(contents[file]))
        file.write_bytes(changed)
        report = verify_log(LogFolder(folder), [KEY.verifier])
        file.write_bytes(contents[file])
        assert report.proved == (changed == contents[file])
        assert all("\n" not in sentence for sentence in report.sentences())

    tried()
