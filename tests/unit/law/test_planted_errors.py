"""A wrong rule does not pass the casebook: each error below, planted in a copy of the rules, is caught by some case.

That the rules as shipped pass all of them is shown in `test_cases`.
"""

import re
import shutil
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest

from consumers.domain.facts import parse_facts
from consumers.domain.obligations import obligations_for
from consumers.domain.rules import Rules
from consumers.law.commands import as_record
from consumers.law.loader import load_rules
from tests.unit.law.casebook import AS_OF, Case, cases, differs

SHIPPED = Path(__file__).parents[3] / "templates" / "law"


@dataclass(frozen=True)
class Planted:
    """In `file`, under `section` and there `key` (none: the whole file), every `old` becomes `new`."""

    kind: str
    file: str
    key: str
    old: str
    new: str
    section: str = "duties"
    also: str = ""
    """The regime whose cases are run, where it is not `key`."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.also or self.key}"


PLANTED = (
    Planted("operator, from the number on", "us-tx.yaml", "us-tx-ag", "at_least: 250", "over: 250"),
    Planted("operator, above the number", "us-ca.yaml", "us-ca-ag", "over: 500", "at_least: 500"),
    Planted("operator, below the number", "us.yaml", "us-hipaa-hhs-small", "fewer_than: 500", "at_least: 500"),
    Planted("number", "us-nd.yaml", "us-nd-ag", "over: 250", "over: 500"),
    Planted("whom the number counts", "us.yaml", "us-hipaa-media", "counts: residents", "counts: individuals"),
    Planted("zone of another coast", "us-ca.yaml", "", "America/Los_Angeles", "America/New_York", also="us-ca-ind"),
    Planted("zone with daylight saving", "us-az.yaml", "", "America/Phoenix", "America/Denver", also="us-az-ind"),
    Planted("zone of the regulator", "sg.yaml", "", "Asia/Singapore", "Asia/Bangkok", also="sg-pdpc"),
    Planted("hours of a proposal", "eea.yaml", "eu-gdpr-33", "PT72H", "PT96H"),
    Planted("days", "us-fl.yaml", "us-fl-ag", "P30D", "P45D"),
    Planted("days for business days", "us-ia.yaml", "us-ia-ag", "P5BD", "P5D"),
    Planted("thirty days for a month", "eu.yaml", "eu-dora-19-final", "P1M", "P30D"),
    Planted(
        "sixty days for the end of the year", "us.yaml", "us-hipaa-hhs-small", "P60D_after_calendar_year_end", "P60D"
    ),
    Planted("period of a small agent", "br.yaml", "br-anpd", "P6BD", "P5BD"),
    Planted(
        "keyword before the people", "us-md.yaml", "us-md-ag", "before_individual_notice", "with_individual_notice"
    ),
    Planted("close of the filing day", "us.yaml", "us-sec-8k-105", "close_1730", "end_of_day"),
    Planted("the day of knowledge", "jp.yaml", "jp-ppc-final", "end_of_day_inclusive", "end_of_day"),
    Planted("hold that counts anew", "us-az.yaml", "us-az-ind", "P45D_after_release", "suspends"),
    Planted("hold that only extends", "us-md.yaml", "us-md-ind", "P7D_after_release_if_elapsed", "P7D_after_release"),
    Planted("hold in business days", "us-me.yaml", "us-me-ind", "P7BD_after_release", "P7D_after_release"),
    Planted(
        "hold that the law does not know", "us-pr.yaml", "us-pr-daco", "    period:", "    hold: suspends\n    period:"
    ),
    Planted("first day of a text", "us-ca.yaml", "us-ca-ind", "2026-01-01", "2026-01-02"),
    Planted("first day of a threshold", "us-pa.yaml", "us-pa-cra", "2024-09-26", "2024-09-27"),
    Planted("first day of an element", "us-ct.yaml", "us-ct-ind", "2023-10-01", "2023-10-02", "personal_information"),
    Planted("relief at noon", "eu.yaml", "eu-dora-19-final", "noon_next_working_day", "next_working_day"),
    Planted("clock from the confirmation", "us-ri.yaml", "us-ri-ind", "confirmed_at", "discovered_at"),
    Planted("clock from the assessment", "sg.yaml", "sg-pdpc", "assessed_notifiable_at", "aware_at"),
    Planted(
        "whom the exemption frees", "ke.yaml", "ke-ind", "individual_only", "all", "personal_information", "ke-odpc"
    ),
    Planted("what a stolen key does", "us-ks.yaml", "us-ks-ind", "definition", "silent", "personal_information"),
    Planted(
        "name beside the card", "us-co.yaml", "us-co-ind", "not_needed", "initial_and_last", "personal_information"
    ),
    Planted("effect of GLBA", "us-ky.yaml", "us-ky-ind", "effect: exempt", "effect: none"),
    Planted("degree of risk", "th.yaml", "th-ind", "high_risk", "risk"),
    Planted("territory", "eu.yaml", "eu-dora-19-initial-a", "territory: establishment", "territory: entity"),
)


def test_at_least_twenty_errors_are_planted() -> None:
    assert len({str(planted) for planted in PLANTED}) >= 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What every jurisdiction needs; the jurisdiction itself is added by the test."""
    for path in SHIPPED.glob("*.yaml"):
        if not path.read_text(encoding="utf-8").startswith("jurisdiction:"):
            shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_planted_error_is_caught(planted: Planted, folder: Path, rules: Rules) -> None:
    text = (SHIPPED / planted.file).read_text(encoding="utf-8")
    (folder / planted.file).write_text(_planted(text, planted), encoding="utf-8")
    wrong = load_rules(folder)
    duties = tuple(wrong.by_id.get(duty.regime_id, duty) for duty in rules.duties)
    assert duties != rules.duties or wrong.combinations.items() - rules.combinations.items()
    mixed = replace(rules, duties=duties, combinations={**rules.combinations, **wrong.combinations})
    regime_id = planted.also or planted.key
    assert any(_fails(case, regime_id, mixed) for case in cases() if regime_id in case.expect)


def _planted(text: str, planted: Planted) -> str:
    start, end = 0, len(text)
    if planted.key:
        start = text.index(f"\n  {planted.key}:\n", text.index(f"\n{planted.section}:\n")) + 1
        following = re.compile(r"^ {0,2}\S", re.MULTILINE).search(text, start + 3)
        end = following.start() if following else end
    assert planted.old in text[start:end], f"{planted.file} has no {planted.old!r} under {planted.key}: plant it anew"
    return text[:start] + text[start:end].replace(planted.old, planted.new) + text[end:]


def _fails(case: Case, regime_id: str, rules: Rules) -> bool:
    obligations = obligations_for(parse_facts(case.facts), rules, datetime.fromisoformat(AS_OF))
    found = next(as_record(obligation) for obligation in obligations if obligation.regime_id == regime_id)
    return bool(differs(case.expect[regime_id], found))
