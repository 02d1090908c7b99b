"""Cosignatures of c2sp.org/tlog-cosignature, the Ed25519 kind (signature type 0x04): what a witness says of a checkpoint.

A witness signs, with the time, that it saw this checkpoint and that it extends every earlier one that it saw. Our part
is to carry the lines and to check those of witnesses that somebody names.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.note import Note, Signature, VerifierKey, decode_base64, encode_base64

_COSIGNATURE_V1 = b"\x04"
_SIGNED_BYTES = 8 + 64
_LATEST = 253402300799
"""The last second of the year 9999: no later instant can be told."""


@dataclass(frozen=True)
class WitnessKey:
    """A witness's public key and name. Its text form is a vkey of type 0x04."""

    name: str
    public_key: bytes

    @cached_property
    def key_id(self) -> bytes:
        """Return the four bytes SHA-256(name, newline, 0x04, key)[:4]."""
        return hashlib.sha256(self.name.encode() + b"\n" + _COSIGNATURE_V1 + self.public_key).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(_COSIGNATURE_V1 + self.public_key)}"

    @classmethod
    def parse(cls, vkey: str) -> "WitnessKey":
        """Return the key in a witness's vkey. Raises Malformed that says which part is wrong."""
        parts = vkey.strip().split("+", 2)
        if len(parts) != 3 or re.fullmatch(r"[0-9a-f]{8}", parts[1]) is None:
            raise Malformed("a witness's key has the form name+keyid+base64, the id as 8 lower-case hexadecimal digits")
        material = decode_base64(parts[2], "witness's key: the key")
        if material[:1] != _COSIGNATURE_V1 or len(material) != 33:
            raise Malformed("witness's key: not an Ed25519 key for cosignatures (type 0x04 and 32 bytes)")
        key = cls(VerifierKey(parts[0], material[1:]).name, material[1:])
        if key.key_id.hex() != parts[1]:
            raise Malformed(f"witness's key: its id is {key.key_id.hex()}, but it says {parts[1]}; mistyped or altered")
        return key


@dataclass(frozen=True, slots=True)
class Cosignature:
    """That a witness saw the checkpoint at this time."""

    witness: WitnessKey
    at: datetime


def cosigned_text(checkpoint_text: str, timestamp: int) -> str:
    """Return what a witness signs: two lines, then the checkpoint's text with its extension lines."""
    return f"cosignature/v1\ntime {timestamp}\n{checkpoint_text}"


def cosignatures_of(signed: bytes, witnesses: Iterable[WitnessKey]) -> tuple[Cosignature, ...]:
    """Return the cosignatures of `witnesses` on a checkpoint; lines of others are ignored.

    Raises Malformed if it is no checkpoint, NotProved if a line of one of them is wrong.
    """
    note = Note.parse(signed)
    Checkpoint.parse_text(note.text)
    known = {(key.name, key.key_id): key for key in witnesses}
    found = []
    for line in note.signatures:
        key = known.get((line.name, line.key_id))
        if key is not None:
            found.append(_checked(key, note.text, line))
    return tuple(found)


def _checked(key: WitnessKey, text: str, line: Signature) -> Cosignature:
    timestamp = int.from_bytes(line.signature[:8], "big")
    if len(line.signature) != _SIGNED_BYTES or timestamp > _LATEST:
        raise NotProved(f"the cosignature of the witness {key.name} is not in its form: altered, or of another kind")
    if not VerifierKey(key.name, key.public_key).accepts(cosigned_text(text, timestamp), line.signature[8:]):
        raise NotProved(f"the cosignature of the witness {key.name} does not fit the checkpoint")
    return Cosignature(key, datetime.fromtimestamp(timestamp, UTC))


def with_cosignatures(signed: bytes, answer: bytes, witnesses: Iterable[WitnessKey]) -> bytes:
    """Return the checkpoint with those lines of a witness's `answer` that are cosignatures of `witnesses`.

    The answer of c2sp.org/tlog-witness: signature lines. A line that is there already is not repeated. Raises Malformed or
    NotProved, as `cosignatures_of`, and NotProved if none of them signed.
    """
    note = Note.parse(signed)
    known = {(key.name, key.key_id): key for key in witnesses}
    lines = [
        line for line in Note.parse(note.text.encode() + b"\n" + answer).signatures if (line.name, line.key_id) in known
    ]
    for line in lines:
        _checked(known[line.name, line.key_id], note.text, line)
    if not lines:
        raise NotProved("the answer has no cosignature of a known witness")
    return Note(note.text, (*note.signatures, *(line for line in lines if line not in note.signatures))).encode()
