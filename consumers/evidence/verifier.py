"""The offline verifier: reads a log's folder or a proof, needs a verifier key and nothing else, and says it in words.

For a folder it computes every hash from the entries themselves and compares every byte that the signed size covers.
It proves that the folder is the signed log, whole. It cannot say that what was logged is true, nor that no other log
was signed with the same key, nor when.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.x509 import Certificate

from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.cosignature import WitnessKey, cosignatures_of
from consumers.evidence.faults import Malformed, NotProved, TileDamaged
from consumers.evidence.key_chain import (
    Handover,
    chain_of,
    changes_in_words,
    handovers_among,
    open_head,
    refuse_retired,
)
from consumers.evidence.leaves import LeafTypes, NotAsDeclared, canonical_content
from consumers.evidence.merkle import HASH_BYTES, leaf_hashes
from consumers.evidence.note import VerifierKey
from consumers.evidence.package import in_words
from consumers.evidence.proof import Extra, Proof
from consumers.evidence.reader import CHECKPOINT, LogFiles, LogReader
from consumers.evidence.tiles import (
    ENTRIES,
    WIDTH,
    Frontier,
    TileName,
    bundle_prefix,
    decode_bundle,
    encode_tile,
    parse_path,
    width_in,
)
from consumers.evidence.timestamps import verify_stamps

_MOST_PROBLEMS = 20


@dataclass(slots=True)
class LogReport:
    """What was found of a log's folder. `problems` empty: everything that the checkpoint signs is there and unaltered."""

    checkpoint: Checkpoint | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leaf_counts: Counter[str] = field(default_factory=Counter)
    stamped: bool = False
    """Whether time stamps whose authority was checked say when it was signed."""

    @property
    def proved(self) -> bool:
        return not self.problems

    def sentences(self) -> list[str]:
        """Return the result in plain words, the answer first."""
        if self.problems or self.checkpoint is None:
            return ["NOT proved: this is not the log that was signed, whole and unaltered.", *self.problems]
        head = self.checkpoint
        return [
            f"Proved: these are the {head.size} entries of the log {head.origin}, whole, in order and unaltered, as signed.",
            *(f"{count} x {name}" for name, count in sorted(self.leaf_counts.items())),
            *self.notes,
            "Not proved by this: that what was logged is true"
            f"{'' if self.stamped else ', when it was signed'}, and that no newer checkpoint exists.",
        ]


@dataclass(frozen=True, slots=True)
class ProofReport:
    """What a proof proves: that `entry` is leaf `index` of the signed log."""

    checkpoint: Checkpoint
    index: int
    entry: bytes
    opened: bool
    subject_field: str | None = None
    subject: str | None = None
    """Whom the opening names."""
    notes: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """Return the result in plain words, the answer first."""
        head = self.checkpoint
        opened = (
            f"Proved: its commitment ({self.subject_field}) is of {self.subject}: the key in the proof opens it."
            if self.opened
            else "Not opened: whom its commitments stand for; that takes the person's key."
        )
        return [
            f"Proved: the following was entry {self.index} of the log {head.origin} when it had {head.size} entries.",
            self.entry.decode(),
            *([words] if (words := in_words(canonical_content(self.entry))) else []),
            opened,
            *self.notes,
            "Not proved by this: that what was logged is true, and when the log was signed.",
        ]


def verify_proof(
    proof: bytes,
    keys: Sequence[VerifierKey],
    *,
    entry: bytes | None = None,
    witnesses: Sequence[WitnessKey] = (),
) -> ProofReport:
    """Verify a proof file offline; `entry` replaces the one that it carries. Raises Malformed or NotProved."""
    parsed = Proof.parse(proof)
    extra = None if parsed.extra is None else Extra.parse(parsed.extra)
    if entry is None:
        if extra is None:
            raise Malformed("the proof carries no entry; give the entry's bytes as well")
        entry = extra.entry
    elif extra is not None and extra.entry != entry:
        raise NotProved("the proof carries another entry than the one given")
    handovers = () if extra is None else extra.handovers
    checkpoint = parsed.verify(entry, keys, handovers)
    notes = (
        *changes_in_words(handovers, checkpoint.origin),
        *_told_by_witnesses(parsed.checkpoint, witnesses),
    )
    content = canonical_content(entry)
    if extra is None or extra.opening is None:
        return ProofReport(checkpoint, parsed.index, entry, opened=False, notes=notes)
    for name, commitment in _commitments(content):
        try:
            extra.opening.check(commitment)
        except NotProved:
            continue
        return ProofReport(
            checkpoint, parsed.index, entry, opened=True, subject_field=name, subject=extra.opening.subject, notes=notes
        )
    raise NotProved("the entry is in the log, but the proof's opening opens none of its commitments: another person")


def _commitments(content: dict[str, object]) -> Iterator[tuple[str, str]]:
    body = content.get("body")
    for place in (content, body if isinstance(body, dict) else {}):
        for name in ("subject", "subject_commitment", "person", "actor"):
            value = place.get(name)
            if isinstance(value, str):
                yield name, value


def verify_log(
    files: LogFiles,
    keys: Sequence[VerifierKey],
    types: LeafTypes | None = None,
    *,
    tsa_roots: Sequence[Certificate] = (),
    witnesses: Sequence[WitnessKey] = (),
    progress: Callable[[int, int], object] | None = None,
) -> LogReport:
    """Verify a log's folder offline. With `types`, entries must be leaves too, with rising offsets per partition;
    the leaves of one record, which differ from each other, stand together.

    Time stamps that lie in it must fit the log, and with `tsa_roots` be signed under them; cosignatures of `witnesses`
    must hold where they are there.

    `progress` is told how many entries were read, of how many. Memory is flat in the log's size. Never raises for what it
    finds: see `problems`.
    """
    report = LogReport()
    signed = files.read(CHECKPOINT)
    if signed is None:
        report.problems.append("there is no checkpoint in this folder: not a log, or not the whole of it")
        return report
    try:
        report.checkpoint = open_head(signed, keys, files)
    except (Malformed, NotProved) as fault:
        report.problems.append(f"checkpoint: {fault}")
        return report
    head = report.checkpoint
    frontier = Frontier()
    handovers: list[Handover] = []
    try:
        leaves = _LeafCheck(report, types) if types else None
        handovers = _verify_tree(LogReader(files, head.size), frontier, leaves, progress)
        refuse_retired(signed, handovers, head.origin)
        report.notes.extend(changes_in_words(handovers, head.origin))
        if frontier.root() != head.root:
            report.problems.append(f"the {head.size} entries do not give the signed root")
    except (Malformed, NotProved, TileDamaged) as fault:
        report.problems.append(str(fault))
    _verify_other_files(files, head.size, report)
    if report.proved:  # what outsiders said of a log that is not whole would only confuse
        known = [*keys, *chain_of(handovers, head.origin)]
        stamps = verify_stamps(files, known, head, tsa_roots)
        report.problems.extend(stamps.problems)
        report.notes.extend(stamps.notes)
        report.stamped = bool(stamps.proved)
        try:
            report.notes.extend(_told_by_witnesses(signed, witnesses))
        except NotProved as fault:
            report.problems.append(f"checkpoint: {fault}")
    return report


def _told_by_witnesses(signed: bytes, witnesses: Sequence[WitnessKey]) -> list[str]:
    """Return a sentence for each of `witnesses`. Raises NotProved if a cosignature of one of them is wrong."""
    cosigned = {each.witness: each.at for each in cosignatures_of(signed, witnesses)}
    return [
        f"Proved: the witness {witness.name} saw it, and no other history of it, at {at:%Y-%m-%d %H:%M:%S} UTC."
        if (at := cosigned.get(witness))
        else f"The witness {witness.name} did not cosign this checkpoint."
        for witness in witnesses
    ]


def _verify_tree(
    reader: LogReader, frontier: Frontier, leaves: "_LeafCheck | None", progress: Callable[[int, int], object] | None
) -> list[Handover]:
    """Add every entry to `frontier` and compare each tile with what the entries give; return the changes of the key."""
    handovers: list[Handover] = []
    for index in range(reader.bundle_count):
        entries = reader.bundle(index)
        handovers.extend(handovers_among(entries, index * WIDTH))
        if leaves is not None:
            for place, entry in enumerate(entries):
                leaves.take(index * WIDTH + place, entry)
        for name, hashes in frontier.add(leaf_hashes(entries)):
            _compare(reader, name, hashes)
        if progress is not None:
            progress(index * WIDTH + len(entries), reader.size)
    for name, hashes in frontier.partials():
        _compare(reader, name, hashes)
    return handovers


def _compare(reader: LogReader, name: TileName, hashes: Sequence[bytes]) -> None:
    stored, computed = reader.bytes_of(name), encode_tile(hashes)
    if stored == computed:
        return
    if len(stored) != len(computed):
        raise TileDamaged(
            f"{name.path} is {'truncated' if len(stored) < len(computed) else 'too long'}: {len(stored)} bytes instead "
            f"of {len(computed)}"
        )
    place = next(i for i in range(len(hashes)) if stored[i * HASH_BYTES : (i + 1) * HASH_BYTES] != hashes[i])
    entry = f"entry {name.index * WIDTH + place}" if name.level == 0 else f"hash {place}"
    raise TileDamaged(f"{name.path} does not fit the entries, first at {entry}: the entry or the tile was altered")


class _LeafCheck:
    """Looks at each entry as a leaf: canonical, of a known type, its source after the one before, or another leaf of the same
    record: that of a pack has one for each of its events.
    """

    def __init__(self, report: LogReport, types: LeafTypes) -> None:
        self._report = report
        self._types = types
        self._offsets: dict[tuple[bytes, bytes, bytes | None, bytes], int] = {}
        self._last: tuple[tuple[bytes, bytes, bytes | None, bytes], int] | None = None
        self._of_record: list[bytes] = []
        """The leaves so far of the record that `_last` names."""

    def take(self, index: int, entry: bytes) -> None:
        try:
            leaf = self._types.look(entry)
        except NotAsDeclared:
            # The signed bytes are what they are; a type that changed under them is our fault, not a forgery.
            self._report.leaf_counts["entries that do not fit their type as this version knows it"] += 1
            return
        except Malformed as fault:
            _add(self._report, f"entry {index}: {fault}")
            return
        if leaf is None:
            self._report.leaf_counts["entries of a type that this version does not know"] += 1
            return
        self._report.leaf_counts[leaf.type] += 1
        stream, offset = leaf.stream, leaf.offset
        if stream is not None:
            before, place = self._offsets.get(stream, -1), (stream, offset)
            if place == self._last and entry not in self._of_record:
                self._of_record.append(entry)
                return
            self._last, self._of_record = place, [entry]
            if offset <= before:
                _add(
                    self._report,
                    f"entry {index}: offset {offset} of {stream[1].decode()}, partition {stream[3].decode()}, after "
                    f"{before}: logged twice or out of order",
                )
            self._offsets[stream] = offset


def _verify_other_files(files: LogFiles, size: int, report: LogReport) -> None:
    """Look at the files that the signed size does not need: earlier partial tiles, later ones, strangers."""
    beyond = 0
    for path in files.names():
        try:
            name = parse_path(path)
        except Malformed:
            _add(report, f"{path[:200]!r} does not belong into a log's folder")
            continue
        width = width_in(size, name.level, name.index)
        if name.width > width:
            beyond += 1
        elif name.width < width:
            fault = _earlier_partial(files, name, width)
            if fault:
                _add(report, fault)
    if beyond:
        report.notes.append(
            f"{beyond} files lie beyond the signed size (a batch not signed yet); nothing is said of them."
        )


def _earlier_partial(files: LogFiles, name: TileName, width: int) -> str | None:
    """Return what is wrong with a partial tile of an earlier size; it must be a byte prefix of the present one."""
    stored, present = files.read(name.path), files.read(TileName(name.level, name.index, width).path)
    if present is None:
        present = files.read(name.completed.path)
    if stored is None or present is None:
        return None
    if name.level == ENTRIES:
        try:
            decode_bundle(stored, name)
        except Malformed as fault:
            return str(fault)
        expected = bundle_prefix(present, name.width)
    else:
        expected = present[: name.width * HASH_BYTES]
    return None if stored == expected else f"{name.path} is no prefix of the tile that it became: altered"


def _add(report: LogReport, problem: str) -> None:
    if len(report.problems) < _MOST_PROBLEMS:
        report.problems.append(problem)
