"""Proofs of c2sp.org/tlog-proof@v1: one entry's place in a log, with the signed checkpoint, in one file.

The entry and, where there is one, the opening of its commitment travel in the `extra` line. It is not trusted: the
entry must hash to the proven leaf, the opening must give the commitment that the entry holds, and changes of the log's
key, by which the holder of an earlier key follows to the one that signed, must be signed by the key before.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import rfc8785

from consumers.evidence.checkpoint import Checkpoint, parse_number
from consumers.evidence.commitment import Opening
from consumers.evidence.faults import Malformed
from consumers.evidence.key_chain import Handover, open_with
from consumers.evidence.merkle import HASH_BYTES, check_inclusion, leaf_hash
from consumers.evidence.note import MAX_NOTE_BYTES, VerifierKey, decode_base64, encode_base64

HEADER = "c2sp.org/tlog-proof@v1"
_EXTRA_TYPE = "tocsin.proof-extra"
_MAX_PATH = 63


@dataclass(frozen=True, slots=True)
class Extra:
    """What Tocsin puts into the `extra` line: the entry as logged, the opening of its subject's commitment, and the entries
    by which the log's key was changed up to the checkpoint."""

    entry: bytes
    opening: Opening | None = None
    handovers: tuple[Handover, ...] = ()

    def encode(self) -> bytes:
        """Return canonical JSON: type, version, entry (text), and subject and person_key (hex) where opened, and
        key_changes where there were any."""
        content: dict[str, str | int | list[str]] = {"type": _EXTRA_TYPE, "version": 1, "entry": self.entry.decode()}
        if self.opening is not None:
            content |= {"subject": self.opening.subject, "person_key": self.opening.person_key.hex()}
        if self.handovers:
            content["key_changes"] = [each.entry.decode() for each in self.handovers]
        return rfc8785.dumps(content)

    @classmethod
    def parse(cls, extra: bytes) -> "Extra":
        """Return what is in an `extra` line. Raises Malformed."""
        try:
            content = json.loads(extra)
        except (ValueError, RecursionError):
            raise Malformed("the extra line holds no JSON: not a proof written by Tocsin") from None
        wanted = {"type", "version", "entry"}
        changes = content.pop("key_changes", []) if isinstance(content, dict) else []
        if (
            not isinstance(content, dict)
            or not isinstance(changes, list)
            or not all(isinstance(each, str) for each in changes)
            or set(content) not in (wanted, wanted | {"subject", "person_key"})
            or content["type"] != _EXTRA_TYPE
            or content["version"] != 1
            or not all(isinstance(content[name], str) for name in set(content) - {"version"})
        ):
            raise Malformed(
                "the extra line is not one written by Tocsin (type, version, entry, subject, person_key, key_changes)"
            )
        try:
            entry = content["entry"].encode()
            handovers = tuple(Handover.parse(each.encode()) for each in changes)
            opening = None
            if "subject" in content:
                opening = Opening(bytes.fromhex(content["person_key"]), content["subject"])
        except ValueError:
            raise Malformed("the extra line holds characters that are none") from None
        parsed = cls(entry, opening, handovers)
        if parsed.encode() != extra:
            raise Malformed("the extra line is not canonical JSON")
        return parsed


@dataclass(frozen=True, slots=True)
class Proof:
    """That some leaf stands at `index` in the tree of `checkpoint` (a signed note, verbatim)."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def encode(self) -> bytes:
        """Return the proof's bytes."""
        lines = [HEADER]
        if self.extra is not None:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines.append(f"index {self.index}")
        lines.extend(encode_base64(node) for node in self.path)
        return ("\n".join(lines) + "\n\n").encode() + self.checkpoint

    @classmethod
    def parse(cls, proof: bytes) -> "Proof":
        """Return the proof in `proof`, nothing of it verified. Raises Malformed that names the line."""
        if len(proof) > 2 * MAX_NOTE_BYTES:
            raise Malformed(f"a proof of {len(proof)} bytes is too large to be one")
        head, separator, checkpoint = proof.partition(b"\n\n")
        if not separator:
            raise Malformed("the proof has no empty line before its checkpoint")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            raise Malformed("the proof's lines before the checkpoint are not ASCII") from None
        if "\r" in lines[0] or lines[0] != HEADER:
            raise Malformed(
                f"the first line is not {HEADER}{' (Windows line ends?)' if lines[0][-1:] == chr(13) else ''}"
            )
        at = 1
        extra = None
        if at < len(lines) and lines[at].startswith("extra "):
            extra = decode_base64(lines[at].removeprefix("extra "), f"line {at + 1}, extra,")
            at += 1
        if at >= len(lines) or not lines[at].startswith("index "):
            raise Malformed(f"line {at + 1} does not say index and a number")
        index = parse_number(lines[at].removeprefix("index "), f"line {at + 1}, the index,")
        nodes = lines[at + 1 :]
        if len(nodes) > _MAX_PATH:
            raise Malformed(f"an inclusion proof of {len(nodes)} hashes; {_MAX_PATH} is the most a tree can need")
        path = tuple(decode_base64(node, f"line {at + 2 + place}") for place, node in enumerate(nodes))
        for place, node in enumerate(path):
            if len(node) != HASH_BYTES:
                raise Malformed(f"line {at + 2 + place} has {len(node)} bytes instead of {HASH_BYTES}")
        return cls(index, path, checkpoint, extra)

    def verify(self, entry: bytes, keys: Iterable[VerifierKey], handovers: Sequence[Handover] = ()) -> Checkpoint:
        """Check that `entry` is leaf `index` of the signed tree; return the checkpoint. Raises Malformed or NotProved.

        Signed by one of `keys`, or by the key to which `handovers` lead from one of them.
        """
        checkpoint = open_with(self.checkpoint, keys, handovers)
        check_inclusion(self.index, checkpoint.size, leaf_hash(entry), self.path, checkpoint.root)
        return checkpoint
