"""A rule that cannot be meant is refused with file, line, key and the nearest known name."""

import shutil
from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput
from consumers.domain.facts import parse_facts
from consumers.domain.rules import Rules
from consumers.law.loader import load_controllers, load_rules

SHIPPED = Path(__file__).parents[3] / "templates" / "law"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "law"))


def _edit(folder: Path, name: str, old: str, new: str) -> int:
    """Replace the first `old` in file `name`; return the 1-based line on which it stood."""
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return text[: text.index(old)].count("\n") + 1


def _refusal(folder: Path) -> str:
    with pytest.raises(BadInput) as refusal:
        load_rules(folder)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("us-tx.yaml", "    hold: suspends", "    hodl: suspends", ["us-tx-ind.hodl", "did you mean 'hold'"]),
        ("us-tx.yaml", "  us-tx-ag:", "  us-tx-ind:", ["us-tx-ind is written twice"]),
        ("us-tx.yaml", "    period: P60D", "    period: P60D\n    period: P61D", ["period is written twice"]),
        ("us-tx.yaml", "    period: P60D", "    period: 60 days", ["us-tx-ind.period", "no period"]),
        (
            "us-tx.yaml",
            "    follows: us-tx-ind",
            "    follows: us-tx-idn",
            ["us-tx-ag.follows", "did you mean 'us-tx-ind'"],
        ),
        ("us-tx.yaml", "zone: America/Chicago", "zone: America/Austin", ["zone", "no IANA zone"]),
        (
            "us-tx.yaml",
            "    clock_starts: determined_at",
            "    clock_starts: determned_at",
            ["did you mean 'determined_at'"],
        ),
        ("us-tx.yaml", "at_least: 250", "atleast: 250", ["threshold.atleast", "did you mean 'at_least'"]),
        ("us-tx.yaml", "2023-09-01: P30D", "2023-09-02: P30D", ["us-tx-ag.period.2023-09-02", "no citation"]),
        (
            "us-tx.yaml",
            "    counting: end_of_day",
            "    counting: elapsed_hours",
            ["counting elapsed_hours does not fit"],
        ),
        ("us-tx.yaml", "recipient: individual", "recipient: indvidual", ["recipient", "did you mean 'individual'"]),
        ("us-tx.yaml", "jurisdiction: US-TX", "jurisdiction: US-TQ", ["no jurisdiction"]),
        ("us-tx.yaml", "drivers_licence,", "drivers_license,", ["us-tx-ind", "did you mean 'drivers_licence'"]),
        ("eea.yaml", "reference: {2018-05-25:", "reference: {2018-05-35:", ["write a date"]),
        ("eea.yaml", "test: high_risk", "test: highrisk", ["harm.test", "did you mean 'high_risk'"]),
        (
            "eu.yaml",
            "trigger: classified_major_at",
            "trigger: clasified_major_at",
            ["did you mean 'classified_major_at'"],
        ),
        ("sg.yaml", "elements(sg-ind)", "elements(sg-idn)", ["no personal_information is written for 'sg-idn'"]),
        ("eu.yaml", 'trigger: "significant=true"', "trigger: significant=yes", ["'yes' is no value of significant"]),
        ("us-tx.yaml", "follows: us-tx-ind", "follows: us-tx-ag", ["us-tx-ag itself follows"]),
        (
            "us-ma.yaml",
            "- must_not_state:",
            "- must_not_stat:",
            ["notices.us-ma-ind.content", "did you mean 'must_not_state'"],
        ),
        ("us-ma.yaml", "      telephone: no", "      telephone: never", ["telephone: 'never' is not known"]),
        ("us-ma.yaml", "      telephone: no", "      telefone: no", ["did you mean 'telephone'"]),
        ("us-ma.yaml", "notices:\n  us-ma-ind:", "notices:\n  us-ma-ag:", ["no notice to individuals", "us-ma-ag"]),
        (
            "us-ny.yaml",
            "        since: 2025-03-21",
            "        since: 2025-03-21\n        until: 2025-03-20",
            ["before it begins"],
        ),
        ("free-zones.yaml", "AE-DIFC: AE", "AE-DXB: AE", ["AE-DXB", "write it like AE-DIFC"]),
        ("member-states.yaml", "NO: Europe/Oslo", "XX: Europe/Oslo", ["zones.NO", "missing"]),
        ("data-elements.yaml", "    enisa: 1", "    enisa: 5", ["enisa", "less than or equal to 4"]),
    ],
)
def test_a_slip_is_refused_with_its_place(folder: Path, name: str, old: str, new: str, words: list[str]) -> None:
    _edit(folder, name, old, new)
    refusal = _refusal(folder)
    for word in [f"{name}:", *words]:
        assert word in refusal


def test_the_line_is_that_of_the_slip(folder: Path) -> None:
    line = _edit(folder, "us-tx.yaml", "    hold: suspends", "    hodl: suspends")
    assert _refusal(folder).startswith(f"us-tx.yaml:{line}: duties.us-tx-ind.hodl: unknown key")


def test_a_duty_without_citation_is_refused(folder: Path) -> None:
    _edit(folder, "us-tx.yaml", '    reference: "Tex.', '    scope: "Tex.')
    assert "us-tx-ind: no citation" in _refusal(folder)


def test_versions_that_overlap_are_refused(folder: Path) -> None:
    _edit(folder, "us-ca.yaml", "    hold: suspends", "    hold: suspends\n    until: {undated: 2026-02-01}")
    assert "us-ca-ind.until: versions overlap" in _refusal(folder)


def test_a_duty_may_end(folder: Path) -> None:
    _edit(folder, "us-ca.yaml", "    hold: suspends", "    hold: suspends\n    until: {2026-01-01: 2026-06-30}")
    versions = load_rules(folder).duty("us-ca-ind").versions
    assert [str(version.in_force_to) for version in versions] == ["2026-06-30", "2025-12-31"]


def test_all_problems_are_named_at_once(folder: Path) -> None:
    _edit(folder, "us-tx.yaml", "    hold: suspends", "    hodl: suspends")
    _edit(folder, "us-ca.yaml", "    hold: suspends", "    hodl: suspends")
    assert len(_refusal(folder).splitlines()) >= 2


def test_a_folder_without_rules_is_refused(tmp_path: Path) -> None:
    assert "no folder of rules" in _refusal(tmp_path / "nowhere")
    assert "data-elements.yaml: cannot be read" in _refusal(tmp_path)


def test_no_yaml_is_refused_with_its_line(folder: Path) -> None:
    (folder / "us-tx.yaml").write_text("jurisdiction: US-TX\nduties: [\n", encoding="utf-8")
    assert "us-tx.yaml:" in _refusal(folder)


def test_the_version_of_the_rules_changes_with_what_they_say_and_with_nothing_else(folder: Path, rules: Rules) -> None:
    assert load_rules(folder).rules_version == rules.rules_version
    _edit(folder, "us-tx.yaml", "jurisdiction: US-TX", "# A remark.\njurisdiction: US-TX")
    assert load_rules(folder).rules_version == rules.rules_version
    _edit(folder, "us-tx.yaml", "period: P60D", "period: P61D")
    assert load_rules(folder).rules_version != rules.rules_version


def test_old_versions_are_numbered_from_the_newest(rules: Rules) -> None:
    versions = rules.duty("us-tx-ag").versions
    assert [(v.version, v.period, str(v.in_force_from), str(v.in_force_to)) for v in versions] == [
        (1, "P30D", "2023-09-01", "None"),
        (2, "P60D", "2020-01-01", "2023-08-31"),
    ]


def test_the_shipped_controllers_answer_for_every_website() -> None:
    controllers = load_controllers(SHIPPED)
    assert controllers.of_website(1) == controllers.of_website(999)
    _, controller = controllers.of_website(1)
    facts = parse_facts(controller.facts())
    assert facts.role == "controller"
    assert facts.establishments == ("DE",)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    default: true\n", "", "exactly one controller"),
        ("    role: controller", "    roel: controller", "did you mean 'role'"),
        ("establishments: [DE]", "establishments: [US-CA]", "'US-CA' is no country"),
    ],
)
def test_controllers_that_cannot_be_meant_are_refused(folder: Path, old: str, new: str, words: str) -> None:
    _edit(folder, "controllers.yaml", old, new)
    with pytest.raises(BadInput, match=words):
        load_controllers(folder)


def test_a_zone_of_its_own_law_comes_from_the_table(folder: Path) -> None:
    with pytest.raises(BadInput, match="'KZ-AIFC' does not exist"):
        parse_facts({"residents": {"KZ-AIFC": 1}})
    _edit(folder, "free-zones.yaml", "free_zones:", "free_zones:\n  KZ-AIFC: KZ")
    load_rules(folder)
    facts = parse_facts({"residents": {"KZ-AIFC": 1}, "establishments": "KZ-AIFC"})
    assert facts.residents == {"KZ-AIFC": 1}
    assert facts.establishments == ("KZ-AIFC",)
