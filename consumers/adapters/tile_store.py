"""The evidence log's folder on disk: whole files or none, synced, with one writer.

Temporary files lie outside `tile/`, so that whatever serves or copies the folder meets no half-written tile. The memory
of what was signed last lies beside the folder, so that restoring the folder alone does not roll it back unseen. Folders
and files are their owner's alone: others read the log over HTTP, where it is asked who they are.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from bridge.runtime.locks import lock_file
from consumers.evidence.checkpoint import open_checkpoint
from consumers.evidence.faults import LogInUse, NotProved
from consumers.evidence.log import LogWriter
from consumers.evidence.note import SigningKey
from consumers.evidence.reader import CHECKPOINT, LogFolder

_SYNCS_AT_ONCE = 16
"""A file system commits what is asked of it at one time together: sixteen syncs cost little more than one."""


class Disk:
    """The file operations that change something. Tests make the n-th of them fail."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file, not durable yet."""
        with open(path, "wb", buffering=0, opener=_private) as file:
            rest = memoryview(content)
            while rest:  # one call writes less than it was given when the disk fills up
                rest = rest[file.write(rest) :]

    def sync(self, paths: Sequence[Path]) -> None:
        """Make files' contents, or the names in folders, durable."""
        if len(paths) == 1:
            _sync(paths[0])
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_SYNCS_AT_ONCE, "evidence-sync")
        syncs = [self._threads.submit(_sync, path) for path in paths]
        wait(syncs)  # so that nothing is under way any more when a failure is raised
        for sync in syncs:
            sync.result()

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TileFolder(LogFolder):
    """A `TileStore` on a folder. `memory` defaults to `<folder>.signed` beside it."""

    def __init__(self, root: Path, *, memory: Path | None = None, disk: Disk | None = None) -> None:
        super().__init__(root)
        self._memory = memory or root.with_name(root.name + ".signed")
        self._disk = disk or Disk()
        self._temporary = root / ".writing"
        self._lock: int | None = None
        self._durable: set[Path] = set()

    def lock(self) -> None:
        """Take the lock, which dies with the process, and clear what an earlier writer left half-written."""
        self._make_folders([self.root])
        lock = lock_file(self.root / ".lock")
        if lock is None:
            raise LogInUse(
                f"another process writes the evidence log in {self.root}; there is one writer at a time: stop the other "
                "one, or wait until it ends"
            )
        self._lock = lock
        self._close_to_others()
        self._make_folders([self._temporary])
        for left in self._temporary.iterdir():
            self._disk.unlink(left)

    def _close_to_others(self) -> None:
        """Take everybody else's rights from a folder that somebody made beforehand; a group's stay as they were given."""
        mode = stat.S_IMODE(self.root.stat().st_mode)
        if mode & stat.S_IRWXO:
            with suppress(PermissionError):  # it is not ours: whoever gave it to us decides
                self.root.chmod(mode & ~stat.S_IRWXO)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write all files aside and sync them together, move them into place, and sync their folders together."""
        aside = [self._temporary / str(number) for number in range(len(files))]
        for temporary, content in zip(aside, files.values(), strict=True):
            self._disk.write(temporary, content)
        self._disk.sync(aside)
        targets = [self.root / path for path in files]
        folders = {target.parent for target in targets}
        made = self._made(folders)
        for temporary, target in zip(aside, targets, strict=True):
            self._disk.replace(temporary, target)
        # A crash before this ends may lose any of these names; nothing refers to them yet.
        self._disk.sync(sorted(folders | {folder.parent for folder in made}))
        self._durable |= made

    def sign_off(self, checkpoint: bytes) -> None:
        aside, memory_aside = self._temporary / CHECKPOINT, self._memory.with_name(self._memory.name + ".writing")
        self._make_folders([self._memory.parent])
        self._disk.write(memory_aside, checkpoint)
        self._disk.write(aside, checkpoint)
        self._disk.sync([memory_aside, aside])
        self._disk.replace(memory_aside, self._memory)
        self._disk.sync([self._memory.parent])
        # A crash before this line leaves the memory ahead of the checkpoint; opening publishes what it remembers.
        self._disk.replace(aside, self.root / CHECKPOINT)
        self._disk.sync([self.root])

    def publish(self, checkpoint: bytes) -> None:
        aside = self._temporary / CHECKPOINT
        self._disk.write(aside, checkpoint)
        self._disk.sync([aside])
        self._disk.replace(aside, self.root / CHECKPOINT)
        self._disk.sync([self.root])

    def help_readers(self, name: str, content: bytes) -> None:
        aside = self._temporary / name
        self._disk.write(aside, content)
        self._disk.replace(aside, self.root / name)

    def remembered(self) -> bytes | None:
        try:
            return self._memory.read_bytes()
        except FileNotFoundError:
            return None

    def where_remembered(self) -> str:
        return str(self._memory)

    def remove_partials(self, paths: Iterable[str]) -> None:
        for path in paths:
            folder = self.root / f"{path}.p"
            try:
                files = list(folder.iterdir())
            except FileNotFoundError:
                continue
            partials = [file for file in files if file.name.isascii() and file.name.isdigit()]
            for file in partials:
                self._disk.unlink(file)
            if partials == files:
                self._disk.remove_folder(folder)
                self._durable.discard(folder)

    def set_aside(self, paths: Iterable[str], label: str) -> None:
        moves = [(self.root / path, self.root / ".unsigned" / label / path) for path in paths]
        if not moves:
            return
        self._make_folders({target.parent for _, target in moves})
        for source, target in moves:
            self._disk.replace(source, target)
        self._disk.sync(sorted({path.parent for move in moves for path in move}))

    def close(self) -> None:
        self._disk.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_folders(self, folders: Iterable[Path]) -> None:
        """Make folders and those above them, each durable in its parent before anything is put into it."""
        made = self._made(folders)
        if made:
            self._disk.sync(sorted({folder.parent for folder in made}))
            self._durable |= made

    def _made(self, folders: Iterable[Path]) -> set[Path]:
        """Make folders and those above them; return those whose names are to be synced in their parents.

        One that is there already may be left by a crash before its name was synced: inside the log, sync it once.
        """
        made: set[Path] = set()
        for folder in folders:
            chain: list[Path] = []
            while folder not in self._durable and (folder.is_relative_to(self.root) or not folder.is_dir()):
                chain.append(folder)
                folder = folder.parent
            for below in reversed(chain):
                if below not in made and not below.is_dir():
                    self._disk.make_folder(below)
                made.add(below)
        return made


class FolderToRotate:
    """The log in a folder, for the command that changes its key."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def open(self, key: SigningKey) -> LogWriter:
        return LogWriter.open(TileFolder(self._root), key)

    def was_given_to(self, key: SigningKey) -> bool:
        signed = TileFolder(self._root).remembered()
        try:
            size = 0 if signed is None else open_checkpoint(signed, [key.verifier]).size
        except NotProved:
            return False
        return size > 0
