"""Counsel's folder and its approved copies: what is approved is kept whole, and nothing else is ever loaded."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.runtime.clock import Clock, SetClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Paths, Settings
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.notice_commands import notices
from consumers.adapters.notice_renderer import compose, sample_key
from consumers.adapters.template_catalog import ApprovedBundles, read_bundle
from consumers.case.people import add_person
from consumers.case.permissions import Role
from tests.unit.adapters.ledger_case import sqlite_case_store

TEMPLATES = Path(__file__).parents[3] / "templates"
NAME = "ai-data-leak"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TEMPLATES, tmp_path / "templates", ignore=shutil.ignore_patterns("law", "approved")))


@pytest.fixture
def artefacts(tmp_path: Path) -> DirectoryArtefactStore:
    return DirectoryArtefactStore(tmp_path / "artefacts")


def test_what_was_approved_is_loaded_though_the_folder_was_edited(
    templates: Path, artefacts: DirectoryArtefactStore
) -> None:
    bundle = read_bundle(templates, NAME)
    ApprovedBundles(templates, artefacts).keep(bundle)
    subject = templates / "notices" / NAME / "en" / "subject.j2"
    subject.write_text("Edited", encoding="utf-8")
    assert read_bundle(templates, NAME).sha256 != bundle.sha256
    assert ApprovedBundles(templates, artefacts).load(bundle.sha256) == bundle


def test_counsels_copy_serves_where_the_store_lost_it(templates: Path, artefacts: DirectoryArtefactStore) -> None:
    bundle = read_bundle(templates, NAME)
    ApprovedBundles(templates, artefacts).keep(bundle)
    shutil.rmtree(templates.parent / "artefacts")
    assert ApprovedBundles(templates, artefacts).load(bundle.sha256) == bundle
    (templates / "approved" / bundle.sha256 / "segments.yaml").write_text("rules: []", encoding="utf-8")
    with pytest.raises(Refused, match="altered"):
        ApprovedBundles(templates, artefacts).load(bundle.sha256)


def test_an_unknown_hash_is_refused(templates: Path, artefacts: DirectoryArtefactStore) -> None:
    for sha256 in ("0" * 64, "../../etc", ""):
        with pytest.raises((Refused, BadInput)):
            ApprovedBundles(templates, artefacts).load(sha256)


@pytest.mark.parametrize(
    "path",
    [
        "segments.yaml",
        "disclosure/de.yaml",
        "notices/shared/email.html.j2",
        f"notices/{NAME}/de/opening.j2",
        "notices/shared/de/sms.j2",
        "notices/shared/agencies.yaml",
        "notices/shared/requirements.yaml",
    ],
)
def test_every_text_is_part_of_the_hash(templates: Path, path: str) -> None:
    before = read_bundle(templates, NAME).sha256
    (templates / path).write_text((templates / path).read_text(encoding="utf-8") + "\n# \n", encoding="utf-8")
    assert read_bundle(templates, NAME).sha256 != before


def test_names_and_links_out_of_the_folder_are_refused(templates: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'ai-data-leak'"):
        read_bundle(templates, "ai-data-leek")
    outside = tmp_path / "secret.j2"
    outside.write_text("x", encoding="utf-8")
    (templates / "notices" / NAME / "en" / "extra.j2").symlink_to(outside)
    with pytest.raises(BadInput, match="leads out"):
        read_bundle(templates, NAME)


def test_adding_a_language_is_adding_files(templates: Path) -> None:
    notices = templates / "notices"
    shutil.copytree(notices / NAME / "en", notices / NAME / "it")
    problems = "\n".join(read_bundle(templates, NAME).problems())
    assert f"notices/{NAME}/it/body.j2: missing, and there is no notices/shared/it/body.j2" in problems
    assert "notices/languages/it.yaml: missing" in problems
    assert "disclosure/it.yaml: missing" in problems
    shutil.copytree(notices / "shared" / "en", notices / "shared" / "it")
    shutil.copy(notices / "languages/en.yaml", notices / "languages/it.yaml")
    shutil.copy(templates / "disclosure/en.yaml", templates / "disclosure/it.yaml")
    bundle = read_bundle(templates, NAME)
    assert bundle.problems() == []
    assert [bundle.language_for(locale).locale for locale in ("it_CH", "de_AT", "pl_PL")] == ["it", "de", "en"]


def test_one_region_may_word_a_single_file_otherwise(templates: Path) -> None:
    austria = templates / "notices" / NAME / "de_AT"
    austria.mkdir()
    (austria / "account_title.j2").write_text("Grüß Gott: bitte lesen", encoding="utf-8")
    for folder in ("notices/languages", "disclosure"):
        shutil.copy(templates / folder / "de.yaml", templates / folder / "de_AT.yaml")
    bundle = read_bundle(templates, NAME)
    assert bundle.problems() == []
    paths = bundle.template_paths("de_AT")
    assert paths["account_title.j2"] == f"notices/{NAME}/de_AT/account_title.j2"
    assert paths["opening.j2"] == f"notices/{NAME}/de/opening.j2"
    assert paths["body.j2"] == "notices/shared/de/body.j2"
    titles = {locale: compose(bundle, sample_key(bundle, locale)).account_title for locale in ("de_AT", "de_CH")}
    assert titles == {"de_AT": "Grüß Gott: bitte lesen", "de_CH": "Mitteilung über eine Datenpanne: bitte lesen"}


def test_another_languages_shared_texts_are_no_part_of_the_hash(templates: Path) -> None:
    before = read_bundle(templates, NAME).sha256
    folder = templates / "notices" / "shared" / "xx"
    folder.mkdir()
    (folder / "body.j2").write_text("x", encoding="utf-8")
    assert read_bundle(templates, NAME).sha256 == before


def test_a_sentence_that_one_language_lacks_is_a_problem(templates: Path) -> None:
    path = templates / "disclosure" / "de.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    at = next(index for index, line in enumerate(lines) if "conversation:" in line)
    path.write_text("\n".join([*lines[:at], *lines[at + 1 :]]), encoding="utf-8")
    assert (
        "disclosure/de.yaml: no sentence for real|fraud-scorer|conversation"
        in read_bundle(templates, NAME).problems()[0]
    )


def test_a_bad_file_is_named_with_its_line(templates: Path) -> None:
    path = templates / "segments.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("priority: 10", "priority: soon"), encoding="utf-8")
    line = next(
        n for n, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if "priority: soon" in text
    )
    assert read_bundle(templates, NAME).problems() == [
        f"segments.yaml:{line}: rules.0.priority: write a whole number; lower goes first"
    ]


@pytest.fixture
def office(templates: Path, tmp_path: Path) -> tuple[Parts, dict[str, str]]:
    """Parts as commands get them, and a token for each role."""
    people, keys = tmp_path / "people.toml", tmp_path / "keys"
    tokens = {
        role.value: add_person(people, f"the-{role.value}", f"The {role.value}", [role])
        for role in (Role.COUNSEL, Role.SRE)
    }
    keys.mkdir()
    paths = Paths(data=tmp_path, templates=templates, people=people, keys=keys)
    paths.staff_key.write_bytes(b"k" * 32)
    paths.staff_key.chmod(0o600)
    database = sqlite_case_store(tmp_path / "case.db")
    parts = Parts()
    clock = SetClock(NOW)
    parts.provide(Settings, lambda: Settings(paths=paths))
    parts.provide(CaseDatabase, lambda: database)
    parts.provide(Clock, lambda: clock)
    return parts, tokens


def run(parts: Parts, *arguments: str, token: str = "") -> str:
    result = CliRunner(env={"TOCSIN_TOKEN": token}).invoke(notices, arguments, obj=parts, catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_counsel_checks_approves_and_revokes(office: tuple[Parts, dict[str, str]]) -> None:
    parts, tokens = office
    checked = run(parts, "check", NAME)
    assert "complete in de, en, es, fr" in checked
    for shown in ("of at most 9 (flesch_kincaid)", "(wiener_sachtextformel)", "(kandel_moles)", "(fernandez_huerta)"):
        assert shown in checked
    terms = ("approve", NAME, "--jurisdictions", "EU,US-CA,unknown", "--until", "2027-06-30")
    assert "would approve" in run(parts, *terms, "--dry-run", token=tokens["counsel"])
    bundles = NoticeBundles(parts.get(CaseDatabase))
    assert bundles.in_force(NOW) == ()
    run(parts, *terms, token=tokens["counsel"])
    (row,) = bundles.in_force(NOW)
    assert (row.name, tuple(row.jurisdictions)) == (NAME, ("EU", "US-CA", "unknown"))
    assert bundles.in_force(row.valid_until + timedelta(seconds=1)) == ()
    assert "same" in run(parts, "list")
    run(parts, "revoke", row.bundle_sha256[:12], "--reason", "a wrong sentence", token=tokens["counsel"])
    assert bundles.in_force(NOW) == ()


def test_only_counsel_approves(office: tuple[Parts, dict[str, str]]) -> None:
    parts, tokens = office
    terms = ("approve", NAME, "--jurisdictions", "*", "--until", "2027-06-30")
    with pytest.raises(Refused, match=r"may not notice\.approve"):
        run(parts, *terms, token=tokens["sre"])
    with pytest.raises(Refused):
        run(parts, *terms, token="tocsin_the-counsel_guess")
    with pytest.raises(BadInput, match="is no jurisdiction"):
        run(parts, "approve", NAME, "--jurisdictions", "UK", "--until", "2027-06-30", token=tokens["counsel"])
    with pytest.raises(BadInput, match="past"):
        run(parts, "approve", NAME, "--jurisdictions", "*", "--until", "2020-01-01", token=tokens["counsel"])
    assert NoticeBundles(parts.get(CaseDatabase)).in_force(NOW) == ()


def test_a_bundle_with_a_problem_is_not_approved(office: tuple[Parts, dict[str, str]], templates: Path) -> None:
    parts, tokens = office
    (templates / "notices" / NAME / "en" / "subject.j2").write_text("Hello {{ nmae }}", encoding="utf-8")
    with pytest.raises(Refused, match=r"en/subject.j2:1: unknown variable 'nmae'"):
        run(parts, "approve", NAME, "--jurisdictions", "*", "--until", "2027-06-30", token=tokens["counsel"])
    assert not (templates / "approved").exists()


def test_preview_shows_each_medium(office: tuple[Parts, dict[str, str]], tmp_path: Path) -> None:
    parts, _ = office
    page = tmp_path / "mail.html"
    shown = run(parts, "preview", NAME, "--locale", "de_AT", "--html", str(page))
    for expected in ("Subject: Datenpanne", "--- SMS, ", "--- account page ---", "23. November 2026"):
        assert expected in shown
    for expected in ("--- letter ---", "--- web notice ---", "--- press text ---"):
        assert len(shown.partition(expected)[2].partition("---")[0]) > 200, expected
    assert "{{" not in shown + page.read_text(encoding="utf-8")


def test_preview_writes_the_letter_and_the_web_notice_as_they_will_be_seen(
    office: tuple[Parts, dict[str, str]], tmp_path: Path
) -> None:
    parts, _ = office
    page, letter = tmp_path / "notice.html", tmp_path / "letter.pdf"
    run(parts, "preview", NAME, "--medium", "web", "--html", str(page), "--pdf", str(letter))
    assert letter.read_bytes().startswith(b"%PDF")
    shown = json.loads(run(parts, "preview", NAME, "--json"))
    assert {"email", "sms", "account", "letter", "web", "press"} < set(shown)
    assert shown["web"]["text"].splitlines()[0] in page.read_text(encoding="utf-8")
    assert list(json.loads(run(parts, "preview", NAME, "--medium", "press", "--json")))[-1] == "press"
    with pytest.raises(Unreachable, match="cannot be written"):
        run(parts, "preview", NAME, "--pdf", str(tmp_path / "away" / "letter.pdf"))
