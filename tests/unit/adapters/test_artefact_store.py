"""The artefact store keeps what it was given, once, and says so when it was altered."""

from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.artefact_store import DirectoryArtefactStore


def test_the_first_content_of_a_key_stays(tmp_path: Path) -> None:
    store = DirectoryArtefactStore(tmp_path)
    assert store.find("a/b") is None
    first = store.put_once("a/b", b"one")
    assert store.put_once("a/b", b"two") == first
    assert store.find("a/b") == first
    assert store.get(first) == b"one"
    assert not list(tmp_path.rglob(".partial-*"))


def test_altered_and_missing_content_is_refused(tmp_path: Path) -> None:
    store = DirectoryArtefactStore(tmp_path)
    sha256 = store.put(b"one")
    assert store.put(b"one") == sha256
    (tmp_path / "objects" / sha256[:2] / sha256).write_bytes(b"other")
    with pytest.raises(Refused, match="altered"):
        store.get(sha256)
    with pytest.raises(Refused, match="backup"):
        store.get("0" * 64)


@pytest.mark.parametrize("key", ["", "../x", "a//b", "/a", "a/../b", "a b"])
def test_a_key_cannot_leave_the_directory(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadInput):
        DirectoryArtefactStore(tmp_path).put_once(key, b"")
