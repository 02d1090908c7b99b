"""Small logs for tests: written by the real writer to a folder, and a disk whose n-th operation fails."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from consumers.adapters.tile_store import Disk, TileFolder
from consumers.evidence.log import LogWriter
from consumers.evidence.note import SigningKey

ORIGIN = "log.example/evidence"
KEY = SigningKey(ORIGIN, bytes(range(32)))
OTHER_KEY = SigningKey(ORIGIN, bytes(range(1, 33)))


def entry(index: int) -> bytes:
    """Return an entry whose length varies."""
    return b"entry %d " % index + b"x" * (index % 37)


def entries(start: int, end: int) -> list[bytes]:
    return [entry(index) for index in range(start, end)]


@contextmanager
def writing(folder: Path, key: SigningKey = KEY, disk: Disk | None = None) -> Iterator[LogWriter]:
    """Open the log in `folder` and close it at the end."""
    with closing(LogWriter.open(TileFolder(folder, disk=disk or TestDisk()), key)) as writer:
        yield writer


def write_log(folder: Path, sizes: Sequence[int]) -> Path:
    """Write a log in batches that end at `sizes`, all by one writer."""
    with writing(folder) as writer:
        for size in sizes:
            writer.append(entries(writer.size, size))
    return folder


class PowerFailure(Exception):
    """The machine stops here."""


class TestDisk(Disk):
    """Syncs nothing: a test's machine does not lose power, and the tests of what must be synced look at the calls."""

    __test__ = False

    def sync(self, paths: Sequence[Path]) -> None:
        assert all(path.exists() for path in paths)


class FailingDisk(TestDisk):
    """Stops before its n-th operation; a write that is hit leaves half of its bytes behind."""

    def __init__(self, fail_at: int, error: Exception | None = None) -> None:
        super().__init__()
        self.left = fail_at
        self._error = error or PowerFailure()

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise self._error

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)

    def write(self, path: Path, content: bytes) -> None:
        try:
            self._step()
        except Exception:
            super().write(path, content[: len(content) // 2])
            raise
        super().write(path, content)

    def sync(self, paths: Sequence[Path]) -> None:
        for _ in paths:
            self._step()
        super().sync(paths)

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        super().replace(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def remove_folder(self, path: Path) -> None:
        self._step()
        super().remove_folder(path)


class LosingDisk(FailingDisk):
    """Stops before its n-th operation, and `lose_power` then takes away whatever was not synced below `base`.

    A file's bytes are safe once it was synced, a name once its folder was. With `keep_names`, names survive unsynced
    and only bytes are lost, as some file systems have it.
    """

    def __init__(self, fail_at: int, base: Path, *, keep_names: bool) -> None:
        super().__init__(fail_at)
        self._base = base
        self._keep_names = keep_names
        self._synced: dict[int, list[bytes]] = {}
        """By inode: a cell with what is safe of the file. Names refer to cells, because inodes are used again."""
        self._names: dict[Path, dict[str, list[bytes] | None]] = {}
        self._note(base, below=True)

    def write(self, path: Path, content: bytes) -> None:
        path.unlink(missing_ok=True)
        try:
            super().write(path, content)
        finally:
            self._synced[path.stat().st_ino] = [b""]

    def sync(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._step()
            self._note(path)

    def _note(self, path: Path, *, below: bool = False) -> None:
        if not path.is_dir():
            self._synced.setdefault(path.stat().st_ino, [b""])[0] = path.read_bytes()
            return
        for each in path.iterdir() if below else ():
            self._note(each, below=True)
        self._names[path] = self._cells(path)

    def _cells(self, folder: Path) -> dict[str, list[bytes] | None]:
        return {
            each.name: None if each.is_dir() else self._synced.setdefault(each.stat().st_ino, [b""])
            for each in folder.iterdir()
        }

    def lose_power(self) -> None:
        image = self._image(self._base)
        shutil.rmtree(self._base)
        for path, content in image.items():
            if content is None:
                path.mkdir()
            else:
                path.write_bytes(content)

    def _image(self, folder: Path) -> dict[Path, bytes | None]:
        image: dict[Path, bytes | None] = {folder: None}
        names = self._cells(folder) if self._keep_names else self._names.get(folder, {})
        for name, cell in names.items():
            if cell is None:
                image |= self._image(folder / name)
            else:
                image[folder / name] = cell[0]
        return image
