"""Changing the log's key: an entry by which the old key names the next one, and the chain of keys that such entries make.

The entry carries the old key's signature over the change, so that whoever trusts the old key can go on to the next with
the entry alone; and the next key's, so that nobody can name a key that is not theirs. Who holds a later key needs none
of this. What it cannot do: tell a change by the key's owner from one by a thief of the key.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field, ValidationError

from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.faults import Malformed, NotProved, TileDamaged, WrongKey
from consumers.evidence.leaves import At, Count, Digest, Leaf, canonical_content
from consumers.evidence.note import Note, SigningKey, VerifierKey
from consumers.evidence.reader import LogFiles, LogReader
from consumers.evidence.tiles import WIDTH

_STATEMENT = "tocsin.key-rotation/v1"
"""The first line of what is signed. A checkpoint's first line is the log's name: one can never pass for the other."""

_END = b'"type":"tocsin.key-rotation","version":1}'
"""How such an entry ends, being canonical JSON: found without reading the others as JSON."""

RawSignature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
"""An Ed25519 signature as hexadecimal digits."""


class KeyRotation(Leaf):
    """From the entry after this one on, the log is signed by `next_key`."""

    TYPE = "tocsin.key-rotation"
    index: Count
    """Where in the log this entry stands; signed, so that it cannot be repeated elsewhere."""
    previous_key: Digest
    """The Ed25519 public key, 32 bytes as hexadecimal digits."""
    next_key: Digest
    signature: RawSignature
    """By the previous key, of `statement`."""
    next_signature: RawSignature
    """By the next key, of the same."""
    rotated_at: At

    @classmethod
    def sign(cls, previous: SigningKey, following: SigningKey, *, index: int, at: datetime) -> "KeyRotation":
        """Return the entry for place `index` of the log. Both keys bear the log's name. Raises Malformed otherwise."""
        origin = previous.verifier.name
        if following.verifier.name != origin:
            raise Malformed(f"the next key is for {following.verifier.name!r}, the log is {origin!r}")
        if following.verifier == previous.verifier:
            raise Malformed("the next key is the one that the log has already")
        text = statement(previous.verifier, following.verifier, index)
        return cls(
            index=index,
            previous_key=previous.verifier.public_key.hex(),
            next_key=following.verifier.public_key.hex(),
            signature=previous.sign(text).signature.hex(),
            next_signature=following.sign(text).signature.hex(),
            rotated_at=at,
        )

    @classmethod
    def parse(cls, entry: bytes) -> "KeyRotation":
        """Return the change that an entry holds. Raises Malformed."""
        content = canonical_content(entry)
        if (content.pop("type"), content.pop("version")) != (cls.TYPE, cls.VERSION):
            raise Malformed("the entry is no change of the log's key")
        try:
            return cls.model_validate(content)
        except ValidationError:
            raise Malformed("the entry says that it changes the log's key, and is not in that form") from None

    def keys(self, origin: str) -> tuple[VerifierKey, VerifierKey]:
        """Return the previous and the next key of the log `origin` once both signatures hold. Raises NotProved."""
        previous = VerifierKey(origin, bytes.fromhex(self.previous_key))
        following = VerifierKey(origin, bytes.fromhex(self.next_key))
        text = statement(previous, following, self.index)
        if not previous.accepts(text, bytes.fromhex(self.signature)):
            raise NotProved(f"entry {self.index} names a next key, and the key before it did not sign that")
        if not following.accepts(text, bytes.fromhex(self.next_signature)):
            raise NotProved(f"entry {self.index} names a next key that did not sign for itself")
        return previous, following


def statement(previous: VerifierKey, following: VerifierKey, index: int) -> str:
    """Return the text that both keys sign."""
    return f"{_STATEMENT}\n{previous.name}\n{index}\n{previous}\n{following}\n"


def rotations_among(entries: Sequence[bytes], first_index: int) -> list[KeyRotation]:
    """Return the key changes among neighbouring entries. Raises Malformed or NotProved for one at the wrong place."""
    found = []
    for place in [place for place, entry in enumerate(entries) if entry.endswith(_END)]:
        rotation = KeyRotation.parse(entries[place])
        if rotation.index != first_index + place:
            raise NotProved(
                f"entry {first_index + place} changes the log's key, but was made for place {rotation.index}"
            )
        found.append(rotation)
    return found


def rotations_in(reader: LogReader) -> list[KeyRotation]:
    """Return every key change in a log, in order. Raises what `rotations_among` and the reader raise."""
    found: list[KeyRotation] = []
    for index in range(reader.bundle_count):
        found.extend(rotations_among(reader.bundle(index), index * WIDTH))
    return found


def chain_of(rotations: Sequence[KeyRotation], origin: str) -> list[VerifierKey]:
    """Return the log's keys, first one first; empty without rotations. Raises NotProved where one does not follow."""
    chain: list[VerifierKey] = []
    for rotation in rotations:
        previous, following = rotation.keys(origin)
        if chain and chain[-1] != previous:
            raise NotProved(f"entry {rotation.index} changes the log's key from another one than it then had")
        chain = [*(chain or [previous]), following]
    return chain


def keys_from(given: Iterable[VerifierKey], rotations: Sequence[KeyRotation], origin: str) -> list[VerifierKey]:
    """Return the key by which the log is signed now, if one of `given` leads to it; otherwise `given` as they are."""
    known = list(given)
    chain = chain_of(rotations, origin)
    return [chain[-1]] if any(key in chain for key in known) else known


def open_head(signed: bytes, keys: Sequence[VerifierKey], files: LogFiles) -> Checkpoint:
    """Return the checkpoint of a log's folder, signed by one of `keys` or by a key that follows from one of them.

    Raises Malformed or NotProved, as `open_checkpoint`.
    """
    try:
        return open_checkpoint(signed, keys)
    except NotProved as fault:
        head = Checkpoint.parse_text(Note.parse(signed).text)
        try:
            following = keys_from(keys, rotations_in(LogReader(files, head.size)), head.origin)
        except TileDamaged:
            raise fault from None
        return open_checkpoint(signed, following)


def refuse_retired(signed: bytes, rotations: Sequence[KeyRotation], origin: str) -> None:
    """Check that the last of the log's keys signed its checkpoint, not one that was given up. Raises NotProved."""
    chain = chain_of(rotations, origin)
    if not chain:
        return
    try:
        open_checkpoint(signed, chain[-1:])
    except NotProved:
        raise NotProved(
            f"entry {rotations[-1].index} gave the log to the key {chain[-1].key_id.hex()}, and the checkpoint was signed "
            "by another one: somebody went on with a key that was given up"
        ) from None


def refuse_given_up(key: VerifierKey, last_entry: bytes) -> None:
    """Check that the log's last entry does not name another key to go on with. Raises WrongKey."""
    if not last_entry.endswith(_END):
        return
    rotation = KeyRotation.parse(last_entry)
    if bytes.fromhex(rotation.next_key) != key.public_key:
        following = VerifierKey(key.name, bytes.fromhex(rotation.next_key))
        raise WrongKey(
            f"entry {rotation.index} gave this log to the next key, {following}, and the key in place is "
            f"{key.key_id.hex()}: put the next key in its place (`tocsin evidence rotate --to FILE` with the same file "
            "does it, if it was interrupted)"
        )


def key_given_up(entry: bytes, key: VerifierKey) -> VerifierKey | None:
    """Return the key that `entry` gives up for `key`, or None if it does nothing of the kind. Raises as `parse`."""
    if not entry.endswith(_END):
        return None
    previous, following = KeyRotation.parse(entry).keys(key.name)
    return previous if following == key else None
