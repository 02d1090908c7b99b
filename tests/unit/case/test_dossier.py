"""What authorities are told: from what is recorded, in versions; what nobody knows is named; a person submits."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import tables
from consumers.adapters.dossier_page import counts_svg, dossier_pdf, timeline_svg
from consumers.case import duties, recording
from consumers.case.dossier import AuthorityBook, AuthorityEntry
from consumers.case.dossier_commands import DossierPdf
from consumers.case.sheet import Artefacts, NoticeSamples, Rendered, Sample, TextApproval
from tests.unit.case.cases import DPO, NOW, Case
from tests.unit.case.test_commands import Desk
from tests.unit.shipped_law import shipped_law

HOSTILE = '#panic("x") <script>&'


class Texts:
    def sample(self, key: Mapping[str, Any], *, exercise: bool = False) -> Sample:
        return Sample((Rendered("email", "Notice of data breach", f"Dear Sample Person,\n\n{HOSTILE}"),), 1)

    def approval(self, bundle_sha256: str, at: Any) -> TextApproval | None:
        return None


def book(regime_id: str, country: str | None) -> Sequence[AuthorityEntry]:
    if regime_id.startswith("us-"):
        return []
    return [AuthorityEntry(f"Authority of {country}", HOSTILE, "", "", "form", "medium", True, "")]


@pytest.fixture
def desk(case: Case, tmp_path: Path) -> Desk:
    desk = Desk(case, tmp_path)
    artefacts = DirectoryArtefactStore(desk.settings.paths.artefacts)
    desk.parts.provide(Artefacts, lambda: artefacts)
    desk.parts.provide(NoticeSamples, Texts)
    desk.parts.provide(DossierPdf, lambda: dossier_pdf)
    desk.parts.provide(AuthorityBook, lambda: book)
    return desk


def counted(case: Case) -> str:
    """Return an incident whose people are counted and whose duties are worked out, awareness recorded."""
    name = case.receive(scenario="inference_log_exposed").incident_id
    case.plan(name)
    case.execute(
        sa.update(tables.recipient).values(
            residence=[{"code": "US-CA", "source": "default_billing"}], why={"record_ids": ["a", "b"]}
        )
    )
    case.count(name, {"DE": 5, "US-CA": 700}, elements=("email", "full_name", "ssn"))
    for fact, value in (("gdpr_risk", "high"), ("encrypted", False), ("harm_likely", True)):
        recording.record_facts(case.store, name, {fact: value}, DPO, NOW, "seen", shipped_law())
    recording.record_awareness(case.store, name, ["controller_aware_at", "discovered_at", "determined_at"], NOW, DPO, NOW,
                               "match", shipped_law())  # fmt: skip
    case.store.change(lambda work: duties.refresh(work, work.incident(name), shipped_law(), NOW))  # type: ignore[arg-type]
    return name


def lines(content: Mapping[str, Any]) -> dict[str, Any]:
    return {line["label"]: line["value"] for section in content["sections"] for line in section["lines"]}


def test_article_33_in_phases(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = counted(case)
    assert "eu-gdpr-33" in desk.ok("incident", "dossier", name, who="dan")
    pdf = tmp_path / "first.pdf"
    made = json.loads(desk.ok("incident", "dossier", name, "eu-gdpr-33", "-o", str(pdf), "--json", who="dan"))
    content = made["content"]
    known = lines(content)
    assert (content["phase"], content["version"]) == ("initial", 1)
    assert known["approximate number of people"] == "705"
    assert known["approximate number of records"] == "6 provenance records"
    assert known["encrypted"] == "no"
    assert known["likely consequences for people"] is None
    assert "Measures: measures taken and proposed" in content["missing"]
    assert "why it is told late" not in known, "it is in time"
    assert content["duty"]["deadline_at"] == "2026-03-05T03:00:00Z"
    assert content["authorities"][0]["authority"] == "Authority of DE"
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert json.loads(pdf.with_suffix(".json").read_text(encoding="utf-8")) == content
    submitted = (
        "incident",
        "dossier",
        name,
        "eu-gdpr-33",
        "--submitted",
        "--reference",
        "47/11",
        "--reason",
        "by web form",
    )
    assert "version 1 (initial) submitted by dan, number 47/11" in desk.ok(*submitted, who="dan")
    assert "was submitted" in str(desk.error(*submitted, who="dan"))
    [met] = case.rows(tables.duty_met)
    assert (met["reference"], met["file_sha256"]) == ("47/11", made["record"]["pdf_sha256"])
    case.clock.at = NOW + timedelta(days=5)
    more = desk.ok("incident", "dossier", name, "eu-gdpr-33", "--say", "measures=Closed.", "--json", who="dan")
    second = json.loads(more)["content"]
    assert (second["phase"], second["version"], lines(second)["measures taken and proposed"]) == (
        "additional",
        2,
        "Closed.",
    )
    assert second["earlier"][0]["reference"] == "47/11"
    third = desk.ok(
        "incident", "dossier", name, "eu-gdpr-33", "--say", "nature=x", "--phase", "final", "--json", who="dan"
    )
    assert lines(json.loads(third)["content"])["measures taken and proposed"] == "Closed.", (
        "what was said is carried on"
    )
    desk.ok(*submitted[:4], "--submitted", "--reason", "by post", who="dan")
    assert len(case.rows(tables.duty_met)) == 1
    kinds = [kind for kind in case.kinds() if kind.startswith("dossier.")]
    assert kinds == ["dossier.made", "dossier.submitted", "dossier.made", "dossier.made", "dossier.submitted"]
    bodies = json.dumps([each["body"] for each in case.published("tocsin.case-events")])
    assert "Closed." not in bodies
    assert "47/11" not in bodies


def test_a_late_notification_asks_for_reasons(case: Case, desk: Desk) -> None:
    name = counted(case)
    case.clock.at = NOW + timedelta(hours=80)
    content = json.loads(desk.ok("incident", "dossier", name, "eu-gdpr-33", "--dry-run", "--json", who="dan"))[
        "content"
    ]
    assert content["duty"]["is_late"]
    assert "Reasons for the delay: why it is told late" in content["missing"]
    assert case.rows(tables.dossier) == []
    said = ("--say", "delay_reasons=The log was read late.")
    content = json.loads(desk.ok("incident", "dossier", name, "eu-gdpr-33", *said, "--json", who="dan"))["content"]
    assert lines(content)["why it is told late"] == "The log was read late."


def test_an_attorney_general_gets_a_sample_and_everybody_else_what_the_duty_asks(case: Case, desk: Desk) -> None:
    name = counted(case)
    content = json.loads(desk.ok("incident", "dossier", name, "us-ca-ag", "--json", who="dan"))["content"]
    assert content["kind"] == "us_attorney_general"
    assert lines(content)["of these in US-CA"] == "700"
    assert content["sample_notice"]["text"].startswith("Dear Sample Person")
    assert "the authority's address and channel: not in authorities.yaml" in content["missing"]
    assert any(label.startswith("asked: ") for label in lines(content))
    assert dossier_pdf(content) == dossier_pdf(content), (
        "the same content gives the same bytes, hostile words are words"
    )
    case.execute(sa.update(tables.segment).values(bundle_sha256=None))
    content = json.loads(desk.ok("incident", "dossier", name, "us-ca-ag", "--dry-run", "--json", who="dan"))["content"]
    assert content["sample_notice"] is None
    assert any("sample of the notice" in each for each in content["missing"])


def test_what_cannot_be_made_says_why(case: Case, desk: Desk) -> None:
    name = counted(case)
    for words, complaint in (
        (("eu-gdpr-3",), "did you mean 'eu-gdpr-33'"),
        (("eu-gdpr-34",), "tells no authority"),
        (("eu-gdpr-33", "--say", "measure=x"), "did you mean 'measures'"),
        (("eu-gdpr-33", "--say", "measures"), "write FIELD=TEXT"),
        (("eu-gdpr-33", "--reference", "1"), "belong to --submitted"),
        (("eu-gdpr-33", "--submitted", "--reason", "x"), "none was made"),
    ):
        refused = desk.error("incident", "dossier", name, *words, who="dan")
        assert type(refused) is BadInput
        assert complaint in str(refused)
    assert type(desk.error("incident", "dossier", name, "eu-gdpr-33", who="rae")) is Refused


def test_pictures_escape_what_they_are_given() -> None:
    assert "&lt;b&gt;" in timeline_svg([{"at": "2026-03-01T00:00:00Z", "what": "<b>"}])
    drawn = counts_svg([{"code": f"<{n}>", "people": n, "here": False} for n in range(40, 0, -1)])
    assert "<40>" not in drawn
    assert "15 more" in drawn
