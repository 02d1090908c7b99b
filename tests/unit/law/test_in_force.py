"""The law in force: read once, read anew when a file changes, and kept when what is there now is wrong."""

import shutil
from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput
from consumers.law.in_force import FolderLaw
from tests.unit.shipped_law import FOLDER


def small(tmp_path: Path) -> Path:
    """One jurisdiction and the tables that it needs."""
    folder = tmp_path / "law"
    folder.mkdir()
    for path in FOLDER.glob("*.yaml"):
        document = path.read_text(encoding="utf-8")
        if path.name == "us-tx.yaml" or (
            "jurisdiction:" not in document.splitlines()[0] and "\njurisdiction:" not in document
        ):
            shutil.copy(path, folder)
    return folder


def test_a_changed_rule_is_in_force_and_a_wrong_one_is_not(tmp_path: Path) -> None:
    folder, at = small(tmp_path), [0.0]
    law = FolderLaw(folder, look_seconds=5, monotonic=lambda: at[0])
    first = law()
    assert law() is first
    rule = folder / "us-tx.yaml"
    text = rule.read_text(encoding="utf-8")
    rule.write_text(text.replace("last_checked_on: 2026-", "last_checked_on: 2025-"), encoding="utf-8")
    assert law() is first, "looked at again only after five seconds"
    at[0] = 5.0
    second = law()
    assert second.rules.rules_version != first.rules.rules_version
    rule.write_text(text + "\nunheard_of: 1\n", encoding="utf-8")
    at[0] = 10.0
    assert law() is second
    assert law.fault is not None
    assert "unheard_of" in law.fault
    rule.write_text(text, encoding="utf-8")
    at[0] = 15.0
    assert law().rules.rules_version == first.rules.rules_version
    assert law.fault is None


def test_a_folder_that_is_wrong_from_the_start_is_refused(tmp_path: Path) -> None:
    folder = small(tmp_path)
    (folder / "regions.yaml").unlink()
    with pytest.raises(BadInput, match=r"regions\.yaml"):
        FolderLaw(folder)()
