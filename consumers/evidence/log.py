"""The writer of the log: appends entries, then signs. Never signs two roots for one size, whatever dies when.

The order is the argument. A batch is durable in four steps:
1. tiles and entry bundles, synced. A crash here leaves files beyond the signed size; opening sets them aside.
2. the *memory*: the signed checkpoint, kept outside the log's folder. This is the moment of signing. A crash after it
   leaves a log whose published checkpoint is older than the memory; opening finds the tiles and publishes.
3. the checkpoint, published by atomic replacement.
4. partial tiles whose full tile is there are removed. A crash here leaves some, which are byte prefixes and do no harm.
The memory is also what recognises a log that was rolled back, forked or replaced since.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.faults import (
    Forked,
    Malformed,
    MemoryMissing,
    NotProved,
    RolledBack,
    TileDamaged,
    WriterFailed,
    WrongKey,
)
from consumers.evidence.key_chain import (
    KEY_CHANGES,
    Handover,
    encode_handovers,
    handovers_in,
    key_given_up,
    refuse_given_up,
)
from consumers.evidence.merkle import HASH_BYTES, leaf_hash, leaf_hashes, root_of_peaks
from consumers.evidence.note import Note, SigningKey, VerifierKey
from consumers.evidence.reader import CHECKPOINT, EDGE, LogFiles, LogReader, encode_edge
from consumers.evidence.rotation import KeyRotation
from consumers.evidence.tiles import (
    ENTRIES,
    WIDTH,
    Frontier,
    TileName,
    encode_entry,
    encode_tile,
    parse_path,
    right_edge,
    tiles_of,
)


class TileStore(LogFiles, Protocol):
    """A log's folder as its one writer needs it. Every method is durable when it returns."""

    def lock(self) -> None:
        """Become the one writer until `close`. Raises LogInUse."""
        ...

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write files below `tile/`, each whole or not at all. Existing ones are replaced."""
        ...

    def sign_off(self, checkpoint: bytes) -> None:
        """Replace the memory of what was signed last, then the checkpoint: each atomically, the first durable first."""
        ...

    def publish(self, checkpoint: bytes) -> None:
        """Replace the checkpoint alone, atomically."""
        ...

    def help_readers(self, name: str, content: bytes) -> None:
        """Replace a file beside the checkpoint, atomically, that a reader does without, or with an older one.

        Needs no durability.
        """
        ...

    def remembered(self) -> bytes | None:
        """Return the memory of what was signed last, or None if there is none."""
        ...

    def where_remembered(self) -> str:
        """Return where the memory is kept, for messages to people."""
        ...

    def remove_partials(self, paths: Iterable[str]) -> None:
        """Remove the partial files of the full tiles or bundles at `paths`. Needs no durability: they do no harm."""
        ...

    def set_aside(self, paths: Iterable[str], label: str) -> None:
        """Move files below `tile/` to a place outside it, named by `label`."""
        ...

    def close(self) -> None:
        """Give up the lock."""
        ...


class LogWriter:
    """The one writer of a log. Get it by `open`; use it from one thread."""

    def __init__(self, store: TileStore, key: SigningKey, frontier: Frontier, bundle: list[bytes]) -> None:
        self._store = store
        self._key = key
        self._frontier = frontier
        self._bundle = bundle
        self._failed = False

    @classmethod
    def open(cls, store: TileStore, key: SigningKey) -> "LogWriter":
        """Lock the log, check that it is the one signed last, finish what a crash interrupted, and return its writer.

        An empty folder becomes a new log with a signed checkpoint of size 0. Raises LogInUse, WrongKey, RolledBack,
        Forked, MemoryMissing or TileDamaged, each saying what to do; nothing was changed then.
        """
        try:
            store.lock()
            return cls._recovered(store, key)
        except BaseException:
            store.close()
            raise

    @classmethod
    def _recovered(cls, store: TileStore, key: SigningKey) -> "LogWriter":
        signed = _signed_last(store, key)
        if signed is None:
            fresh = Checkpoint(key.verifier.name, 0, Frontier().root())
            # A crash in between leaves a memory of size 0 and no checkpoint: read as this same fresh log.
            store.sign_off(fresh.sign(key))
            return cls(store, key, Frontier(), [])
        reader = LogReader(store, signed.size)
        _refuse_missing(store, signed.size)
        frontier = _frontier_of(reader)
        if frontier.root() != signed.root:
            raise TileDamaged(
                f"the tiles do not add up to the root signed for size {signed.size}: a tile at the right edge was "
                "altered; compare with a copy by `tocsin evidence verify DIR --vkey KEY`"
            )
        bundle = _tail_of(reader)
        if signed.size:
            refuse_given_up(key.verifier, reader.entry(signed.size - 1))
        memory, published = store.remembered(), store.read(CHECKPOINT)
        # One that says the same stays as it is: witnesses may have added their lines to it.
        if memory is not None and (published is None or Note.parse(published).text != Note.parse(memory).text):
            store.publish(memory)
        # Set aside, not removed: should both checkpoint and memory be old copies, these are entries signed since.
        store.set_aside(sorted(_leftovers(store, signed.size)), f"beyond-{signed.size}")
        return cls(store, key, frontier, bundle)

    @property
    def size(self) -> int:
        """How many entries are signed."""
        return self._frontier.size

    def reader(self) -> LogReader:
        """Return a reader of all signed entries."""
        return LogReader(self._store, self.size)

    def backwards(self) -> Iterator[tuple[int, bytes]]:
        """Yield (index, entry), last entry first."""
        return self.reader().backwards()

    def append(self, entries: Sequence[bytes]) -> range:
        """Append `entries` and sign; return their indices. They are durable and published on return.

        Raises Malformed, before anything is written, if an entry is too long. After any other error the writer takes no
        more: only opening the log again can tell how far it came.
        """
        return self._append(entries, self._key)

    def rotate(self, following: SigningKey, at: datetime) -> int:
        """Append the entry that gives the log to the key `following`, and go on under it; return the entry's index.

        That one checkpoint is signed by both keys. A crash before the memory holds it leaves the log with this key; after
        it, `open` takes the next key only. Raises Malformed if that key is for another log, or had this one before. Reads
        the whole log to know that.
        """
        earlier = handovers_in(self.reader())
        for each in earlier:
            if following.verifier.public_key == each.previous_key:
                raise Malformed(f"entry {each.index} gave that key up; no verifier takes it again: make a new one")
        entry = KeyRotation.sign(self._key, following, index=self.size, at=at).encode()
        (index,) = self._append([entry], self._key, following)
        self._key = following
        # A crash before this leaves proofs that hold for the newest key only, until the key is changed again.
        self._store.help_readers(KEY_CHANGES, encode_handovers([*earlier, Handover.parse(entry)]))
        return index

    def _append(self, entries: Sequence[bytes], *keys: SigningKey) -> range:
        if self._failed:
            raise WriterFailed("an earlier write to the evidence log failed; open the log again to go on")
        if not entries:
            return range(self.size, self.size)
        frontier, bundle = self._frontier.copy(), list(self._bundle)
        files: dict[str, bytes] = {}
        completed: list[TileName] = []
        bundle.extend(map(encode_entry, entries))
        for index in range(self.size // WIDTH, (self.size + len(entries)) // WIDTH):
            name = TileName(ENTRIES, index)
            files[name.path] = b"".join(bundle[:WIDTH])
            completed.append(name)
            del bundle[:WIDTH]
        for name, hashes in frontier.add(leaf_hashes(entries)):
            files[name.path] = encode_tile(hashes)
            completed.append(name)
        unchanged = set(right_edge(self.size))
        for name, hashes in frontier.partials():
            # Upper levels change seldom; a partial tile of the same width is the same tile.
            if name not in unchanged:
                files[name.path] = encode_tile(hashes)
        if bundle:
            files[TileName(ENTRIES, frontier.size // WIDTH, len(bundle)).path] = b"".join(bundle)
        self._failed = True
        self._store.put(files)
        peaks = frontier.peaks()
        signed = Checkpoint(self._key.verifier.name, frontier.size, root_of_peaks(peaks)).sign(*keys)
        self._store.sign_off(signed)
        # A crash before this leaves an edge of another size, which nobody reads.
        self._store.help_readers(EDGE, encode_edge(frontier.size, peaks))
        begun = {name.completed for name in right_edge(self.size)} | {TileName(ENTRIES, self.size // WIDTH)}
        self._store.remove_partials(name.path for name in completed if name in begun)
        self._failed = False
        appended = range(self.size, frontier.size)
        self._frontier, self._bundle = frontier, bundle
        return appended

    def close(self) -> None:
        """Give up the lock. Nothing is pending."""
        self._store.close()


def _signed_last(store: TileStore, key: SigningKey) -> Checkpoint | None:
    """Return what was signed last, or None for a log that does not exist yet."""
    published, memory = store.read(CHECKPOINT), store.remembered()
    if published is None and any(True for _ in store.names()):
        raise RolledBack("there are tiles and no checkpoint: it was lost; restore the newest copy of it")
    if memory is None:
        if published is None:
            return None
        head = _opened(published, key, "the log's checkpoint")
        raise MemoryMissing(
            f"there is a log of size {head.size}, and no record at {store.where_remembered()} of what was signed last; "
            "if you are sure that this is the newest copy of the log, copy its file `checkpoint` there"
        )
    last = _opened(memory, key, f"the record of what was signed last, {store.where_remembered()},")
    if published is None:
        if last.size == 0:
            return last
        raise RolledBack(
            f"size {last.size} was signed last, and the log's folder has no checkpoint: it was emptied, replaced or "
            "the setting paths.data points elsewhere"
        )
    head = _opened(published, key, "the log's checkpoint", before=_key_before(store, last.size, key))
    if head.size == last.size and head.root != last.root:
        raise Forked(
            f"the log has another root for size {head.size} than the one signed last: two histories; stop here"
        )
    if head.size > last.size:
        raise Forked(
            f"the log has a checkpoint of size {head.size}, and this writer signed {last.size} last: another writer has "
            f"the same key, or {store.where_remembered()} was restored from a backup"
        )
    if head.size < last.size and not all(store.size_of(name.path) is not None for name in _newest(last.size)):
        raise RolledBack(
            f"size {last.size} was signed last, and the log ends at {head.size}: it was restored from an older copy; "
            "restore a newer one, the missing entries were already published"
        )
    return last


def _opened(signed: bytes, key: SigningKey, what: str, *, before: VerifierKey | None = None) -> Checkpoint:
    try:
        return open_checkpoint(signed, [key.verifier] if before is None else [key.verifier, before])
    except NotProved as fault:
        raise WrongKey(
            f"{what} was not signed by this key: {fault}. Put the log's own key in place, or correct paths.data"
        ) from None
    except Malformed as fault:
        raise TileDamaged(f"{what} cannot be read: {fault}; restore it from a copy") from None


def _key_before(store: TileStore, size: int, key: SigningKey) -> VerifierKey | None:
    """Return the key that the last of `size` entries gave up for this one, if it did: a crash then may have come before
    the checkpoint of that size was published, and the one before it is still signed by the other key."""
    if not size:
        return None
    try:
        return key_given_up(LogReader(store, size).entry(size - 1), key.verifier)
    except (Malformed, NotProved, TileDamaged):
        return None


def _newest(size: int) -> list[TileName]:
    """Return the tiles and the bundle that hold the last entries of a log of `size`."""
    width = size % WIDTH or WIDTH
    return [TileName(level, (size - 1) // WIDTH, width) for level in (0, ENTRIES)]


def _refuse_missing(store: TileStore, size: int) -> None:
    for name in tiles_of(size):
        found = store.size_of(name.path)
        if found is None:
            raise TileDamaged(f"{name.path} is missing under the signed size {size}; restore it from a copy")
        least = name.width * (2 if name.level == ENTRIES else HASH_BYTES)
        if found < least or (name.level != ENTRIES and found != least):
            raise TileDamaged(
                f"{name.path} is {'truncated' if found < least else 'too long'}: {found} bytes instead of "
                f"{'at least ' if name.level == ENTRIES else ''}{least}; restore it from a copy"
            )


def _frontier_of(reader: LogReader) -> Frontier:
    frontier = Frontier(reader.size)
    for name in right_edge(reader.size):
        frontier.levels.extend([] for _ in range(name.level + 1 - len(frontier.levels)))
        frontier.levels[name.level] = list(reader.tile(name.level, name.index))
    return frontier


def _tail_of(reader: LogReader) -> list[bytes]:
    """Return the encoded entries of the last, partial bundle after checking the last bundle against its tile."""
    if not reader.size:
        return []
    last = (reader.size - 1) // WIDTH
    entries, hashes = reader.bundle(last), reader.tile(0, last)
    for place, (entry, expected) in enumerate(zip(entries, hashes, strict=True)):
        if leaf_hash(entry) != expected:
            raise TileDamaged(f"entry {last * WIDTH + place} does not hash to its leaf; restore its bundle from a copy")
    return [encode_entry(entry) for entry in entries] if reader.size % WIDTH else []


def _leftovers(store: TileStore, size: int) -> Iterator[str]:
    """Yield files below `tile/` that reach beyond the signed size: written by a batch that was never signed."""
    for path in store.names():
        try:
            name = parse_path(path)
        except Malformed:
            continue
        covered = size if name.level == ENTRIES else size >> (8 * name.level)
        if name.index * WIDTH + name.width > covered:
            yield path
