"""Where frozen answers and released bundles lie, outside the worker that made them: a directory shared by all.

Content is addressed by its SHA-256 and never changes; a key names a content once and for all. Not for anything that
must be forgotten: contacts are never written here, sealed or not.
"""

import hashlib
import os
import re
import tempfile
from pathlib import Path

from bridge.contracts.errors import BadInput, Refused, Unreachable

_KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$")


class DirectoryArtefactStore:
    """Objects under `objects/<first two>/<sha256>`, keys under `keys/<key>`. Safe for several processes at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, content: bytes) -> str:
        """Store `content` durably and return its SHA-256 in hex. Raises Unreachable if the directory can't be written."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self._object(sha256)
        if not path.exists():
            # A crash in the middle leaves a file that nothing names; the object appears whole or not at all.
            self._write(path, content)
        return sha256

    def get(self, sha256: str) -> bytes:
        """Return the content. Raises Refused if it is missing or no longer what its name says."""
        try:
            content = self._object(sha256).read_bytes()
        except FileNotFoundError:
            raise Refused(f"artefact {sha256} is not in {self._root}; restore it from the store's backup") from None
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refused(f"artefact {sha256} in {self._root} was altered: its content has another hash")
        return content

    def put_once(self, key: str, content: bytes) -> str:
        """Name `content` by `key` unless the key is taken; return the SHA-256 of what the key names from now on.

        Of two writers one wins, and both learn which content it is.
        """
        path = self._key(key)
        sha256 = self.put(content)
        # A crash before the link leaves an object without a key: the next attempt freezes anew and nothing was said.
        self._write(path, sha256.encode(), only_first=True)
        return path.read_text(encoding="ascii")

    def find(self, key: str) -> str | None:
        """Return the SHA-256 of what `key` names, or None."""
        try:
            return self._key(key).read_text(encoding="ascii")
        except FileNotFoundError:
            return None

    def _object(self, sha256: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise BadInput(f"{sha256[:80]!r} is no SHA-256 in hex")
        return self._root / "objects" / sha256[:2] / sha256

    def _key(self, key: str) -> Path:
        if not _KEY.match(key):
            raise BadInput(f"artefact key {key[:100]!r}: letters, digits, '.', '_', '-' between slashes only")
        return self._root / "keys" / key

    def _write(self, path: Path, content: bytes, *, only_first: bool = False) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
            partial = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                if only_first:
                    try:
                        os.link(partial, path)
                    except FileExistsError:
                        return
                else:
                    partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            _sync_directory(path.parent)
        except OSError as error:
            raise Unreachable(
                f"the artefact store {self._root} cannot be written: {error.strerror}; check space and permissions"
            ) from error


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
