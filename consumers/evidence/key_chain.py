"""The chain of a log's keys: each change is an entry that the key before signed, so that whoever has one key can follow.

Needs the standard library and `cryptography` only: the verifier in a package follows the chain, too.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.faults import Malformed, NotProved, TileDamaged, WrongKey
from consumers.evidence.note import Note, VerifierKey
from consumers.evidence.reader import LogFiles, LogReader
from consumers.evidence.tiles import WIDTH

KEY_CHANGES = "key-changes"
"""Beside the checkpoint, a help for making proofs: the entries that changed the key, one a line. A proof without them
holds for the newest key only."""

_STATEMENT = "tocsin.key-rotation/v1"
"""The first line of what is signed. A checkpoint's first line is the log's name: one can never pass for the other."""

_END = b'"type":"tocsin.key-rotation","version":1}'
"""How such an entry ends, being canonical JSON: found without reading the others as JSON."""

_ENTRY = re.compile(
    rb'\{"index":(0|[1-9][0-9]{0,15}),"next_key":"([0-9a-f]{64})","next_signature":"([0-9a-f]{128})",'
    rb'"previous_key":"([0-9a-f]{64})","rotated_at":"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",'
    rb'"signature":"([0-9a-f]{128})",' + re.escape(_END)
)
_MOST_CHANGES = 1000


@dataclass(frozen=True, slots=True)
class Handover:
    """A change of the key as the log has it: from the entry after `index` on, `next_key` signs. Keys are 32 raw bytes."""

    index: int
    previous_key: bytes
    next_key: bytes
    signature: bytes
    """By the previous key, of `statement`."""
    next_signature: bytes
    """By the next key, of the same."""
    entry: bytes

    @classmethod
    def parse(cls, entry: bytes) -> "Handover":
        """Return the change that an entry holds. Raises Malformed."""
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise Malformed("the entry is no change of the log's key, or not in the form of one")
        index, following, next_signature, previous, signature = found.groups()
        return cls(int(index), _raw(previous), _raw(following), _raw(signature), _raw(next_signature), entry)

    def keys(self, origin: str) -> tuple[VerifierKey, VerifierKey]:
        """Return the previous and the next key of the log `origin` once both signatures hold. Raises NotProved."""
        return _checked(self, origin)


@lru_cache(maxsize=_MOST_CHANGES)  # a package has the same chain in each of its proofs
def _checked(handover: Handover, origin: str) -> tuple[VerifierKey, VerifierKey]:
    previous, following = VerifierKey(origin, handover.previous_key), VerifierKey(origin, handover.next_key)
    text = statement(previous, following, handover.index)
    if not previous.accepts(text, handover.signature):
        raise NotProved(f"entry {handover.index} names a next key, and the key before it did not sign that")
    if not following.accepts(text, handover.next_signature):
        raise NotProved(f"entry {handover.index} names a next key that did not sign for itself")
    return previous, following


def _raw(digits: bytes) -> bytes:
    return bytes.fromhex(digits.decode())


def statement(previous: VerifierKey, following: VerifierKey, index: int) -> str:
    """Return the text that both keys sign."""
    return f"{_STATEMENT}\n{previous.name}\n{index}\n{previous}\n{following}\n"


def handovers_at(entries: Iterable[tuple[int, bytes]]) -> list[Handover]:
    """Return the key changes among entries and their indices. Raises Malformed or NotProved for one at a wrong place."""
    found = []
    for index, entry in entries:
        if not entry.endswith(_END):
            continue
        handover = Handover.parse(entry)
        if handover.index != index:
            raise NotProved(f"entry {index} changes the log's key, but was made for place {handover.index}")
        found.append(handover)
    return found


def handovers_among(entries: Sequence[bytes], first_index: int) -> list[Handover]:
    """Return the key changes among neighbouring entries. Raises Malformed or NotProved for one at the wrong place."""
    # Verifying looks at every entry of a log: most bundles have none, and that is found without counting.
    return handovers_at([(first_index + i, entry) for i, entry in enumerate(entries) if entry.endswith(_END)])


def handovers_in(reader: LogReader) -> list[Handover]:
    """Return every key change in a log, in order. Raises what `handovers_among` and the reader raise."""
    found: list[Handover] = []
    for index in range(reader.bundle_count):
        found.extend(handovers_among(reader.bundle(index), index * WIDTH))
    return found


def encode_handovers(handovers: Iterable[Handover]) -> bytes:
    """Return the bytes of the file `KEY_CHANGES`."""
    return b"".join(each.entry + b"\n" for each in handovers)


def handovers_beside(files: LogFiles, head: Checkpoint) -> list[Handover]:
    """Return the changes up to `head` that the help beside the checkpoint names; none where it is not to be followed."""
    lines = (files.read(KEY_CHANGES) or b"").splitlines()
    try:
        found = [each for each in map(Handover.parse, lines) if each.index < head.size]
        chain_of(found, head.origin)
    except (Malformed, NotProved):
        return []
    return found


def chain_of(handovers: Sequence[Handover], origin: str) -> list[VerifierKey]:
    """Return the log's keys, first one first; empty without changes. Raises NotProved where one does not follow."""
    if len(handovers) > _MOST_CHANGES:
        raise NotProved(f"{len(handovers)} changes of the log's key; {_MOST_CHANGES} are followed")
    chain: list[VerifierKey] = []
    before = -1
    for handover in handovers:
        previous, following = handover.keys(origin)
        if chain and chain[-1] != previous:
            raise NotProved(f"entry {handover.index} changes the log's key from another one than it then had")
        if handover.index <= before:
            raise NotProved(f"entry {handover.index} changes the log's key after entry {before} did: out of order")
        if following == previous or following in chain:
            raise NotProved(f"entry {handover.index} gives the log back to a key that had been given up")
        chain = [*(chain or [previous]), following]
        before = handover.index
    return chain


def keys_from(given: Iterable[VerifierKey], handovers: Sequence[Handover], origin: str) -> list[VerifierKey]:
    """Return the key by which the log is signed now, if one of `given` leads to it; otherwise `given` as they are."""
    known = list(given)
    chain = chain_of(handovers, origin)
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
            following = keys_from(keys, handovers_in(LogReader(files, head.size)), head.origin)
        except TileDamaged:
            raise fault from None
        return open_checkpoint(signed, following)


def open_with(signed: bytes, keys: Iterable[VerifierKey], handovers: Sequence[Handover]) -> Checkpoint:
    """Return a checkpoint signed by one of `keys`, or by the last key of a chain that `handovers` make of one of them.

    Its signer must not have given the log up in one of them. Raises Malformed or NotProved.
    """
    known = list(keys)
    text = Checkpoint.parse_text(Note.parse(signed).text)
    try:
        head = open_checkpoint(signed, known)
    except NotProved as fault:
        following = keys_from(known, handovers, text.origin)
        if following == known:
            raise _without_chain(fault, signed, known, handovers) from None
        head = open_checkpoint(signed, following)
    for each in handovers:
        if each.index >= head.size:
            raise NotProved(
                f"the key is changed by entry {each.index}, and the checkpoint has {head.size} entries only"
            )
    refuse_retired(signed, handovers, head.origin)
    return head


def _without_chain(
    fault: NotProved, signed: bytes, keys: Sequence[VerifierKey], handovers: Sequence[Handover]
) -> NotProved:
    """Say what may be the matter: signed for the log that the key is of, by a key to which nothing leads from it."""
    names = {line.name for line in Note.parse(signed).signatures}
    if not any(key.name in names for key in keys):
        return fault
    if handovers:
        return NotProved(f"{fault}; the changes of the key that come with it do not begin at the key given")
    return NotProved(
        f"{fault}; if the log's key was changed since, give its new key, or verify an auditor's package, which holds the "
        "entry by which the old key names the new one"
    )


def refuse_retired(signed: bytes, handovers: Sequence[Handover], origin: str) -> None:
    """Check that the last of the log's keys signed its checkpoint, not one that was given up. Raises NotProved."""
    chain = chain_of(handovers, origin)
    if not chain:
        return
    try:
        open_checkpoint(signed, chain[-1:])
    except NotProved:
        raise NotProved(
            f"entry {handovers[-1].index} gave the log to the key {chain[-1].key_id.hex()}, and the checkpoint was signed "
            "by another one: somebody went on with a key that was given up"
        ) from None


def changes_in_words(handovers: Sequence[Handover], origin: str) -> list[str]:
    """Return a sentence for each change of the key. Raises NotProved for one whose signatures do not hold."""
    return [f"Since entry {each.index + 1} it is signed by the key {each.keys(origin)[1]}." for each in handovers]


def refuse_given_up(key: VerifierKey, last_entry: bytes) -> None:
    """Check that the log's last entry does not name another key to go on with. Raises WrongKey."""
    if not last_entry.endswith(_END):
        return
    handover = Handover.parse(last_entry)
    if handover.next_key != key.public_key:
        following = VerifierKey(key.name, handover.next_key)
        raise WrongKey(
            f"entry {handover.index} gave this log to the next key, {following}, and the key in place is "
            f"{key.key_id.hex()}: put the next key in its place (`tocsin evidence rotate --to FILE` with the same file "
            "does it, if it was interrupted)"
        )


def key_given_up(entry: bytes, key: VerifierKey) -> VerifierKey | None:
    """Return the key that `entry` gives up for `key`, or None if it does nothing of the kind. Raises as `parse`."""
    if not entry.endswith(_END):
        return None
    previous, following = Handover.parse(entry).keys(key.name)
    return previous if following == key else None
