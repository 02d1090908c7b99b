"""Small logs for tests: written by the real writer to a folder, and a disk whose n-th operation fails."""

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
    with closing(LogWriter.open(TileFolder(folder, disk=disk), key)) as writer:
        yield writer


def write_log(folder: Path, sizes: Sequence[int]) -> Path:
    """Write a log in batches that end at `sizes`, all by one writer."""
    with writing(folder) as writer:
        for size in sizes:
            writer.append(entries(writer.size, size))
    return folder


class PowerFailure(Exception):
    """The machine stops here."""


class FailingDisk(Disk):
    """Stops before its n-th operation; a write that is hit leaves half of its bytes behind."""

    def __init__(self, fail_at: int, error: Exception | None = None) -> None:
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
            path.write_bytes(content[: len(content) // 2])
            raise
        super().write(path, content)

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        super().replace(source, target)

    def sync_folder(self, path: Path) -> None:
        self._step()
        super().sync_folder(path)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def remove_folder(self, path: Path) -> None:
        self._step()
        super().remove_folder(path)
