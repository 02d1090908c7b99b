"""What the sandbox acknowledged, as an append-only file of one JSON record a line.

A line is handed to the operating system before its request is answered, so killing the process loses nothing that was
acknowledged (losing power may: a sandbox does not wait for the disk). A kill in the middle of a line leaves a torn
last line; nobody was told of it, and `replay` cuts it off. One process at a time holds the file.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bridge.contracts.errors import BadInput, Refused

Record = dict[str, Any]
"""One change of state; `record` names its kind."""


class Journal:
    """The file `journal.jsonl` in `folder`, or no file at all when `folder` is None."""

    def __init__(self, folder: Path | None) -> None:
        self._path: Path | None = None
        self._descriptor = -1
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "journal.jsonl"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise Refused(f"{self._path}: another sandbox is using this folder; stop it or name another") from None

    def replay(self) -> Iterator[Record]:
        """Yield every acknowledged record, oldest first. Raises BadInput that names a damaged line."""
        if self._path is None:
            return
        whole = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                except ValueError:
                    raise BadInput(
                        f"{self._path}, line {number}: damaged; keep a copy and start with a new folder"
                    ) from None
                whole += len(line)
                yield record
        os.ftruncate(self._descriptor, whole)

    def append(self, records: Sequence[Record]) -> None:
        """Write `records`; on return no kill of this process can lose them."""
        if self._path is None or not records:
            return
        left = memoryview("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records).encode())
        while left:
            left = left[os.write(self._descriptor, left) :]

    def close(self) -> None:
        """Let go of the file."""
        if self._path is not None:
            os.close(self._descriptor)
            self._path = None
