"""What readers see otherwise: every change once, side by side, and nothing where only files differ."""

import shutil
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import Clock, SetClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Paths, Settings
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.diff_commands import diff
from consumers.adapters.notice_diff import compare, marked
from consumers.adapters.template_catalog import ApprovedBundles, ApprovedRow, read_bundle
from tests.unit.adapters.ledger_case import sqlite_case_store

TEMPLATES = Path(__file__).parents[3] / "templates"
NAME = "ai-data-leak"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LATER = datetime(2027, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    """Counsel's folder in English alone: half the work."""
    folder = Path(shutil.copytree(TEMPLATES, tmp_path / "templates", ignore=shutil.ignore_patterns("law", "approved")))
    shutil.rmtree(folder / "notices" / NAME / "de")
    return folder


def edit(templates: Path, path: str, old: str, new: str) -> None:
    file = templates / path
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_each_change_is_shown_once_and_what_no_reader_sees_is_not(templates: Path) -> None:
    before = read_bundle(templates, NAME)
    edit(templates, "notices/shared/en/sms.j2", "important notice", "important message")
    edit(templates, "segments.yaml", "priority: 10", "priority: 11")
    after = read_bundle(templates, NAME)
    found = compare(before, after)
    assert {(each.locale, each.medium) for each in found.comparisons} == {("en", "sms")}
    [row] = [row for row in found.comparisons[0].rows if row.changed]
    assert "important [-notice -]" in marked(row.before)
    assert "important {+message +}" in marked(row.after)
    [(old, new)] = found.policy
    assert old.endswith("priority 10")
    assert new.endswith("priority 11")
    edit(templates, "segments.yaml", "priority: 11", "priority: 10  # a remark")
    edit(templates, "notices/shared/en/sms.j2", "important message", "{# for counsel #}important notice")
    assert compare(before, read_bundle(templates, NAME)).empty


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_counsel_compares_with_what_was_approved_last(templates: Path, tmp_path: Path) -> None:
    parts = Parts()
    database = sqlite_case_store(tmp_path / "case.db")
    parts.provide(Settings, lambda: Settings(paths=Paths(data=tmp_path / "data", templates=templates)))
    parts.provide(Clock, lambda: SetClock(NOW))
    parts.provide(CaseDatabase, lambda: database)
    page = tmp_path / "diff.html"

    def typed(*words: str) -> Result:
        return CliRunner().invoke(diff, list(words), obj=parts)

    assert "was never approved" in str(typed(NAME).exception)
    first = read_bundle(templates, NAME)
    ApprovedBundles(templates, DirectoryArtefactStore(tmp_path / "data" / "artefacts")).keep(first)
    NoticeBundles(database).approve(
        ApprovedRow(first.sha256, NAME, ("*",), NOW, LATER), by="col", role="counsel", actor="c" * 64, reason=None
    )
    assert "no reader would see a difference" in typed(NAME).output
    edit(templates, f"notices/{NAME}/en/opening.j2", "leaked", "<b>leaked</b>")
    shown = typed(NAME, "-o", str(page))
    assert shown.exception is None, shown.exception
    assert f"before: {first.sha256[:12]}, approved 2026-11-23 until 2027-11-23" in shown.output
    assert "not approved" in shown.output
    assert "en, email; read by:" in shown.output
    read = _Tags()
    read.feed(page.read_text(encoding="utf-8"))
    tags = {tag for tag, _ in read.tags}
    assert {"del", "ins", "iframe"} <= tags
    assert not tags & {"script", "link", "img", "b"}, "words of a text are words, not tags"
    assert all(attrs["sandbox"] == "" for tag, attrs in read.tags if tag == "iframe")
    for words in (("--before", "00000000"), ("--after", first.sha256[:4]), ("--locale", "it")):
        assert isinstance(typed(NAME, *words).exception, BadInput)
    database.close()
