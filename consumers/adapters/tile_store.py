"""The evidence log's folder on disk: whole files or none, synced, with one writer.

Temporary files lie outside `tile/`, so that whatever serves or copies the folder meets no half-written tile. The memory
of what was signed last lies beside the folder, so that restoring the folder alone does not roll it back unseen.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from consumers.evidence.faults import LogInUse
from consumers.evidence.reader import CHECKPOINT, LogFolder


class Disk:
    """The file operations that change something. Tests make the n-th of them fail."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def write(self, path: Path, content: bytes) -> None:
        """Write and sync a file."""
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def remove_folder(self, path: Path) -> None:
        path.rmdir()


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
        self._ensure_folder(self.root)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LogInUse(
                f"another process writes the evidence log in {self.root}; there is one writer at a time: stop the other "
                "one, or wait until it ends"
            ) from None
        self._lock = descriptor
        self._ensure_folder(self._temporary)
        for left in self._temporary.iterdir():
            self._disk.unlink(left)

    def put(self, files: Mapping[str, bytes]) -> None:
        """Write all files aside, then move them into place, then sync each folder once."""
        targets: list[tuple[Path, Path]] = []
        for number, (path, content) in enumerate(files.items()):
            temporary, target = self._temporary / f"{number}", self.root / path
            self._disk.write(temporary, content)
            targets.append((temporary, target))
        for _, target in targets:
            self._ensure_folder(target.parent)
        for temporary, target in targets:
            self._disk.replace(temporary, target)
        for folder in {target.parent for _, target in targets}:
            self._disk.sync_folder(folder)

    def publish(self, checkpoint: bytes) -> None:
        self._replace(self._temporary / CHECKPOINT, self.root / CHECKPOINT, checkpoint)

    def remember(self, checkpoint: bytes) -> None:
        self._ensure_folder(self._memory.parent)
        self._replace(self._memory.with_name(self._memory.name + ".writing"), self._memory, checkpoint)

    def remembered(self) -> bytes | None:
        try:
            return self._memory.read_bytes()
        except FileNotFoundError:
            return None

    def where_remembered(self) -> str:
        return str(self._memory)

    def remove(self, paths: Iterable[str]) -> None:
        folders = set()
        for path in paths:
            self._disk.unlink(self.root / path)
            folders.add((self.root / path).parent)
        for folder in folders:
            if folder.name.endswith(".p") and not any(folder.iterdir()):
                self._disk.remove_folder(folder)
                self._durable.discard(folder)

    def set_aside(self, paths: Iterable[str], label: str) -> None:
        folders = set()
        for path in paths:
            target = self.root / ".unsigned" / label / path
            self._ensure_folder(target.parent)
            self._disk.replace(self.root / path, target)
            folders.update({target.parent, (self.root / path).parent})
        for folder in folders:
            self._disk.sync_folder(folder)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _replace(self, temporary: Path, target: Path, content: bytes) -> None:
        self._disk.write(temporary, content)
        self._disk.replace(temporary, target)
        self._disk.sync_folder(target.parent)

    def _ensure_folder(self, folder: Path) -> None:
        """Make a folder and those above it, each durable in its parent before anything is put into it.

        One that is there already may be left by a crash before its name was synced: inside the log, sync it once.
        """
        if folder in self._durable or (not folder.is_relative_to(self.root) and folder.is_dir()):
            return
        self._ensure_folder(folder.parent)
        if not folder.is_dir():
            self._disk.make_folder(folder)
        self._disk.sync_folder(folder.parent)
        self._durable.add(folder)
