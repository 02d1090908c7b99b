"""What a lawyer sees of `tocsin law`."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput, Refused
from bridge.runtime.parts import Parts
from consumers.law.commands import law
from consumers.law.loader import LawFolder

SHIPPED = Path(__file__).parents[3] / "templates" / "law"
FACTS = {
    "detected_at": "2026-06-08T03:12:00Z",
    "controller_aware_at": "2026-06-09T14:00:00Z",
    "role": "controller",
    "establishments": ["DE"],
    "residents": {"DE": 3},
    "data_elements": ["email"],
    "sensitivity": "real",
    "encrypted": False,
    "gdpr_risk": "high",
}
FIELDS = {
    "regime_id",
    "recipient",
    "status",
    "deadline_local",
    "deadline_utc",
    "relief_latest_utc",
    "conservative_deadline_utc",
    "clock_starts",
    "started_at",
    "citation",
    "confidence",
    "because",
    "missing_facts",
}


def _run(*arguments: str) -> Result:
    parts = Parts()
    parts.provide(LawFolder, lambda: LawFolder(SHIPPED))
    return CliRunner().invoke(law, arguments, obj=parts)


@pytest.fixture
def facts_file(tmp_path: Path) -> Path:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(FACTS), encoding="utf-8")
    return path


def test_check_says_what_it_checked() -> None:
    result = _run("check")
    assert result.exit_code == 0
    assert "235 duties in 247 versions" in result.output


def test_check_and_explain_print_json() -> None:
    checked = json.loads(_run("check", "--json").output)
    assert (checked["duties"], checked["versions"], checked["folder"]) == (235, 247, str(SHIPPED))
    rule = json.loads(_run("explain", "us-tx-ind", "--json").output)
    assert (rule["regime_id"], rule["recipient"]) == ("us-tx-ind", "individual")
    assert [each["in_force_from"] for each in rule["versions"]] == sorted(
        each["in_force_from"] for each in rule["versions"]
    )
    assert rule["versions"][-1]["citation"] in _run("explain", "us-tx-ind").output
    assert (len(rule["notice"]["content"]), len(rule["combinations"])) > (0, 0)
    assert rule["rules_version"] == checked["rules_version"]


def test_check_says_no_to_a_slip_and_names_it(tmp_path: Path) -> None:
    folder = shutil.copytree(SHIPPED, tmp_path / "law")
    path = folder / "us-tx.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("hold: suspends", "hodl: suspends", 1), encoding="utf-8")
    result = _run("check", "--templates", str(folder))
    assert isinstance(result.exception, Refused)
    assert result.exception.exit_code == 1
    assert "duties.us-tx-ind.hodl: unknown key; did you mean 'hold'?" in str(result.exception)
    assert "1 thing is wrong" in str(result.exception)


def test_check_of_no_folder_is_wrong_use(tmp_path: Path) -> None:
    result = _run("check", "--templates", str(tmp_path / "nowhere"))
    assert isinstance(result.exception, BadInput)
    assert result.exception.exit_code == 2


def test_plan_as_json_has_the_fields_that_others_read(facts_file: Path) -> None:
    result = _run("plan", str(facts_file), "--json")
    assert result.exit_code == 0
    records = json.loads(result.output)
    assert records[0].keys() >= FIELDS
    assert len({record["regime_id"] for record in records}) == 235
    by_id = {record["regime_id"]: record for record in records}
    assert by_id["eu-gdpr-33"]["deadline_utc"] == "2026-06-12T14:00:00Z"
    assert by_id["eu-gdpr-33"]["deadline_local"] == "2026-06-12T16:00:00+02:00"
    assert by_id["eu-gdpr-33"]["conservative_deadline_utc"] == "2026-06-11T03:12:00Z"


def test_plan_reads_like_a_list_of_duties(facts_file: Path) -> None:
    result = _run("plan", str(facts_file), "--as-of", "2026-06-10T14:00:00Z")
    assert "2026-06-12 16:00 CEST (2026-06-12T14:00Z, in 2 d)" in result.output
    assert "GDPR Art 33(1)" in result.output
    assert "235 considered" in result.output
    assert "missing: entity" in result.output
    assert "no legal advice" in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[]", "one JSON object"),
        ('{"aware_at": null, "aware_at": null}', "written twice"),
        ('{"awre_at": null}', "did you mean 'aware_at'"),
    ],
)
def test_facts_that_cannot_be_read_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "facts.json"
    path.write_text(text, encoding="utf-8")
    result = _run("plan", str(path))
    assert isinstance(result.exception, BadInput)
    assert words in str(result.exception)


def test_a_naive_as_of_is_refused(facts_file: Path) -> None:
    result = _run("plan", str(facts_file), "--as-of", "2026-06-10T14:00:00")
    assert "no offset" in str(result.exception)


def test_explain_says_every_version() -> None:
    result = _run("explain", "us-tx-ag")
    assert result.exit_code == 0
    assert "version 1" in result.output
    assert "P60D" in result.output
    assert "at least 250 residents" in result.output


def test_explain_says_what_the_notice_must_say_and_how_it_may_come() -> None:
    output = _run("explain", "us-ma-ind").output
    assert "must not state: Must not include the nature of the breach" in output
    assert "telephone: no" in output
    assert "more than 500,000 people" in output


def test_pending_duties_that_one_answer_settles_are_asked_once(facts_file: Path) -> None:
    output = _run("plan", str(facts_file)).output
    assert output.count("PENDING on entity:") == 1
    assert output.count("missing: entity (") == 1
    assert "us-ncua-72h: sector regulator" in output
    assert "the duty binds insured_credit_union" in _run("plan", str(facts_file), "--all").output


def test_json_comes_in_the_order_of_deadlines(facts_file: Path) -> None:
    records = json.loads(_run("plan", str(facts_file), "--json").output)
    deadlines = [record["deadline_utc"] or "9999" for record in records]
    assert deadlines == sorted(deadlines)


def test_diff_shows_what_california_changed() -> None:
    output = _run("diff", "2025-12-31", "2026-01-01").output
    assert "2026-01-01  us-ca-ind changes (individual)" in output
    assert "  period: without_undue_delay -> P30D" in output
    assert "us-ok-ag begins" in output
    changes = {
        each["regime_id"]: each for each in json.loads(_run("diff", "2024-09-25", "2024-09-26", "--json").output)
    }
    assert changes["us-pa-cra"]["values"][1] == {
        "name": "threshold", "before": "over 1,000 individuals", "after": "over 500 individuals"
    }  # fmt: skip
    assert changes["us-pa-ag"]["change"] == "begins"


def test_diff_backwards_shows_what_ended() -> None:
    assert "us-ok-ag ends" in _run("diff", "2026-01-01", "2025-12-31").output


def test_a_date_that_is_none_is_refused() -> None:
    assert "no date" in str(_run("diff", "yesterday", "2026-01-01").exception)


def test_calendar_holds_the_deadlines_and_the_conservative_dates(facts_file: Path) -> None:
    output = _run("calendar", str(facts_file), "--as-of", "2026-06-10T14:00:00Z").output
    assert "UID:eu-gdpr-33.eea@tocsin\nDTSTAMP:20260610T140000Z\nDTSTART:20260612T140000Z" in output.replace(
        "\r\n", "\n"
    )
    assert "Conservative date" in output


def test_calendar_without_facts_holds_the_days_on_which_the_law_changes() -> None:
    output = _run("calendar", "--as-of", "2026-11-24T12:00:00Z").output
    assert "DTSTART;VALUE=DATE:20261201" in output  # Chile
    assert "cl-apdp begins" in output
    assert "9999" not in output


def test_schema_describes_every_fact() -> None:
    schema = json.loads(_run("schema").output)
    assert schema["additionalProperties"] is False
    assert all(fact["description"] for fact in schema["properties"].values())
    elements = schema["properties"]["data_elements"]["anyOf"][0]["items"]["enum"]
    assert "online_username_or_email_with_password" in elements


def test_explain_names_the_nearest_rule() -> None:
    assert "did you mean 'us-tx-ag'" in str(_run("explain", "us-tx-gaa").exception)
