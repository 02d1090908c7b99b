"""Checkpoints of c2sp.org/tlog-checkpoint: origin, tree size and root as the text of a signed note."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.merkle import HASH_BYTES, MAX_SIZE
from consumers.evidence.note import Note, SigningKey, VerifierKey, decode_base64, encode_base64

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")


def parse_number(text: str, what: str) -> int:
    """Return a decimal without leading zeroes, up to 2**63 - 1. Raises Malformed naming `what`."""
    if _NUMBER.fullmatch(text) is None or int(text) > MAX_SIZE:
        raise Malformed(f"{what} is not a decimal number from 0 to {MAX_SIZE} without leading zeroes")
    return int(text)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's head: `size` leaves whose Merkle root is `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the note's text."""
        return "".join(f"{line}\n" for line in (self.origin, self.size, encode_base64(self.root), *self.extensions))

    @classmethod
    def parse_text(cls, text: str) -> "Checkpoint":
        """Return the checkpoint in a note's text. Raises Malformed."""
        if not text.endswith("\n"):
            raise Malformed("a checkpoint's text ends in a newline")
        lines = text.removesuffix("\n").split("\n")
        if len(lines) < 3:
            raise Malformed("a checkpoint has three lines: origin, tree size, root")
        if not all(lines):
            raise Malformed("a checkpoint has no empty line")
        root = decode_base64(lines[2], "the checkpoint's root")
        if len(root) != HASH_BYTES:
            raise Malformed(f"the checkpoint's root has {len(root)} bytes instead of {HASH_BYTES}")
        return cls(lines[0], parse_number(lines[1], "the checkpoint's tree size"), root, tuple(lines[3:]))

    def sign(self, *keys: SigningKey) -> bytes:
        """Return the signed checkpoint. A key's name is the origin, so that nobody can sign for another log."""
        for key in keys:
            if key.verifier.name != self.origin:
                raise Malformed(f"the key is for {key.verifier.name!r}, the checkpoint for {self.origin!r}")
        return Note.sign(self.text(), *keys).encode()


def open_checkpoint(signed: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
    """Return the checkpoint in a signed note after verifying that the log itself signed it.

    The key that signed must bear the origin's name. Raises Malformed or NotProved.
    """
    note = Note.parse(signed)
    signers = note.verified_by(keys)
    checkpoint = Checkpoint.parse_text(note.text)
    if all(key.name != checkpoint.origin for key in signers):
        raise NotProved(
            f"the checkpoint is of the log {checkpoint.origin[:200]!r}, but was signed by {signers[0].name!r}: another log"
        )
    return checkpoint
