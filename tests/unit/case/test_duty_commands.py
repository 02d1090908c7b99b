"""Verification, facts, risk and duties as staff type them, and what they read."""

import json
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import tables
from consumers.case.duty_commands import SubmittedFiles
from consumers.case.review_commands import RulesFolder, review
from consumers.case.sheet import seen_content
from consumers.case.verification import AwarenessPolicy, LeakMatcher
from consumers.case.watch import IncidentWatch
from tests.unit.case.cases import GIVEN, NOW, Case
from tests.unit.case.test_commands import Desk
from tests.unit.case.test_verification import Index
from tests.unit.shipped_law import shipped_law

TWENTY = ("DE", "FR", "NL", "AT", "IE", "GB", "CH", "US-CA", "US-NY", "US-TX", "US-FL", "US-MA", "US-WA", "US-CO",
          "US-IL", "CA-QC", "AU", "SG", "BR", "JP")  # fmt: skip


class Files:
    """Keeps what was submitted."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, content: bytes) -> str:
        name = sha256(content).hexdigest()
        self.kept[name] = content
        return name


@pytest.fixture
def desk(case: Case, tmp_path: Path) -> Desk:
    made = Desk(case, tmp_path)
    made.parts.provide(LeakMatcher, lambda: Index({"anna@mail.example": "customer/1"}))
    made.parts.provide(SubmittedFiles, Files)
    made.parts.provide(RulesFolder, lambda: Folder(tmp_path))
    return made


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path


def look(case: Case) -> None:
    IncidentWatch(case.store, shipped_law, AwarenessPolicy()).look(case.clock.now())


def everywhere(case: Case, codes: Sequence[str] = TWENTY) -> str:
    name = case.receive().incident_id
    elements = ("full_name", "email", "ssn", "national_id", "fraud_score", "account_number", "access_code")
    case.count(name, dict.fromkeys(codes, 700), elements=elements, kinds=("real",))
    look(case)
    return name


def test_twenty_jurisdictions_fit_on_two_screens(case: Case, desk: Desk) -> None:
    name = everywhere(case)
    shown = desk.ok("incident", "obligations", name, who="rae").splitlines()
    assert len(shown) <= 2 * 50, "\n".join(shown)
    assert max(map(len, shown)) <= 150
    assert "considered and not due (--all shows them)" in "\n".join(shown)
    for heading in ("SUPERVISORY AUTHORITY", "ATTORNEY GENERAL", "INDIVIDUAL"):
        assert any(line.startswith(heading) and "not adopted by your counsel" in line for line in shown), heading
    listed = json.loads(desk.ok("incident", "obligations", name, "--json", who="rae"))
    for duty in listed:
        if duty["status"] in ("due", "pending"):
            assert any(f"  {duty['regime_id']} " in line or line.rstrip().endswith(duty["regime_id"]) for line in shown)
    assert all(
        {"controller", "adopted", "citation", "confidence", "missing_facts", "because"} <= set(each) for each in listed
    )
    unsure = next(each for each in listed if each["ask_counsel"])
    assert any(unsure["regime_id"] in line and "ask counsel" in line for line in shown)
    missing = next(line for line in shown if line.startswith("missing: "))
    assert len([line for line in shown if "encrypted (" in line]) == 1, "asked once, however many duties wait"
    assert "encrypted (" in missing
    everything = desk.ok("incident", "obligations", name, "--all", who="rae")
    assert len(everything.splitlines()) > len(shown) + 100
    assert "0 considered and not due" in everything


def test_before_anybody_is_counted_one_screen_says_what_runs(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    assert "no duties yet" in desk.ok("incident", "obligations", name, who="rae")
    look(case)
    shown = desk.ok("incident", "obligations", name, who="rae")
    assert len(shown.splitlines()) < 60
    assert "wait for how many people live where; the earliest" in shown
    assert "eu-gdpr-33" in shown
    assert "in 72 h conservative" in shown


def test_what_if_on_obligations_and_facts_writes_nothing(case: Case, desk: Desk) -> None:
    name = everywhere(case, ("DE",))
    before = case.rows(tables.fact), case.rows(tables.obligation), case.kinds()
    shown = desk.ok("incident", "obligations", name, "--what-if", "gdpr_risk=unlikely", who="rae")
    assert "eu-gdpr-33 to supervisory authority: pending -> not due" in shown
    shown = desk.ok("incident", "facts", name, "--set", "gdpr_risk=unlikely", "--what-if", who="rae")
    assert "would move" in shown
    assert "nothing was recorded" in shown
    shown = desk.ok(
        "incident", "aware", name, "--as", "controller_aware_at", "--at", NOW.isoformat(), "--what-if", who="rae"
    )
    assert "eu-gdpr-33 to supervisory authority: its clock began 2026-03-02T03:00:00Z" in shown
    assert (case.rows(tables.fact), case.rows(tables.obligation), case.kinds()) == before
    assert "did you mean 'gdpr_risk'" in str(
        desk.error("incident", "facts", name, "--set", "gdpr_rsk=high", "--what-if", who="rae")
    )


def test_what_is_said_to_type_names_the_incident(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = everywhere(case)
    shown = desk.ok("incident", "facts", name, "--set", "sensitivity=synthetic_only", "--what-if", who="dan")
    assert f"`tocsin incident obligations {name}` shows how all of them stand" in shown
    refused = desk.error("incident", "facts", name, "--set", "controller_aware_at=x", "--reason", "r", who="dan")
    assert f"`tocsin incident aware {name} --as controller_aware_at --at INSTANT --reason TEXT`" in str(refused)
    with pytest.raises(BadInput, match=f"`tocsin incident sheet {name} -o sheet.html`"):
        seen_content(DirectoryArtefactStore(tmp_path), "0" * 64, name)
    doubtful = case.receive({**GIVEN, "model_ids": ["INCIDENT-scorer"]}, fingerprint="leak-2").incident_id
    desk.ok("incident", "ack", doubtful, who="rae")
    case.execute(sa.update(tables.incident).values(scope_unresolved={"unknown": []}, scope=None))
    following = desk.ok("incident", "show", doubtful, who="rae").splitlines()[-1]
    assert following == f"next: tocsin incident rescope {doubtful} --scope FILE --reason TEXT"


def test_facts_are_shown_with_who_said_so_and_their_history(case: Case, desk: Desk) -> None:
    name = everywhere(case, ("DE",))
    desk.ok("incident", "facts", name, "--set", "encrypted=true", "--reason", "ops say so", who="dan")
    shown = desk.ok("incident", "facts", name, "--unset", "encrypted", "--reason", "ops were wrong", who="dan")
    assert "moved" in shown
    case.clock.at = NOW + timedelta(hours=30)
    look(case)
    shown = desk.ok("incident", "facts", name, "--history", who="dan")
    for words in ("ops were wrong", "unknown again", "presumed by policy"):
        assert words in shown
    answer = json.loads(desk.ok("incident", "facts", name, "--json", "--history", who="dan"))
    assert answer["presumed_by_policy"] == ["aware_at", "controller_aware_at", "discovered_at"]
    assert [each["value"] for each in answer["history"] if each["name"] == "encrypted"] == [True, None]
    assert "(presumed by policy)" in desk.ok("incident", "show", name, who="dan")
    both = desk.error("incident", "facts", name, "--set", "encrypted=true", "--unset", "encrypted", who="dan")
    assert "in the same breath" in str(both)


def test_verify_from_a_file_to_the_next_step(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = everywhere(case, ("DE",))
    assert "verification: not begun, until" in desk.ok("incident", "verify", name, who="rae")
    assert "then policy presumes aware_at, controller_aware_at, discovered_at" in desk.ok(
        "incident", "show", name, who="rae"
    )
    leaked = tmp_path / "leaked.csv"
    leaked.write_text("email\nanna@mail.example\nghost@mail.example\n", encoding="utf-8")
    words = ("incident", "verify", name, "--match-test", str(leaked))
    assert isinstance(desk.error(*words, who="rae"), BadInput)  # a reason is needed
    assert isinstance(desk.error(*words, "--reason", "x", who="adm"), Refused)
    dry = desk.ok(*words, "--dry-run", "--reason", "x", who="rae")
    assert "would record: match_test_positive_at" in dry
    assert case.rows(tables.match_test) == []
    shown = desk.ok(*words, "--reason", "sample from the log", who="rae")
    assert (
        "1 of 2 rows match (1 by e-mail, 0 by hash, 0 by id), from 4 of 4 partitions: 0 within the scope, 1 outside it"
        in shown
    )
    assert "eu-gdpr-33 to supervisory authority: its clock began" in shown
    assert "is confirmed; no row of the file is kept" in shown
    assert "anna" not in shown
    assert "match test:   1 of 2 rows match, real" in desk.ok("incident", "show", name, who="rae")
    tests = json.loads(desk.ok("incident", "verify", name, "--json", who="rae"))["match_tests"]
    assert tests[0]["finding"] == "real"
    refused = desk.error("incident", "dismiss", name, "--reason", "false alarm", who="dan")
    assert "transition" not in str(refused)
    assert f"{name} is confirmed; it cannot dismiss from there" in str(refused)


def test_dismissing_tells_the_second_person_what_to_type(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = everywhere(case, ("DE",))
    leaked = tmp_path / "leaked.csv"
    leaked.write_text("ghost@mail.example\n", encoding="utf-8")
    desk.ok("incident", "verify", name, "--match-test", str(leaked), "--reason", "sample", who="rae")
    first = desk.ok("incident", "dismiss", name, "--reason", "test data", who="rae")
    assert "proposed by rae; nothing has changed yet" in first
    command = first.splitlines()[-1].removeprefix("next: tocsin incident ").split("   ")[0].replace("TEXT", "agreed")
    assert "is dismissed: proposed by rae, decided by dan" in desk.ok("incident", *command.split(), who="dan")


def test_the_risk_is_proposed_then_confirmed_by_a_person(case: Case, desk: Desk) -> None:
    name = everywhere(case, ("DE",))
    shown = desk.ok("incident", "assess", name, who="rae")
    for factor in ("dpc_base", "ei", "cb_malicious"):
        assert factor in shown
    assert "flag: more than 100 people (700)" in shown
    assert "usually gdpr_risk=high" in shown
    assert case.rows(tables.fact) == []
    assert isinstance(desk.error("incident", "assess", name, "--confirm", "--reason", "x", who="rae"), Refused)
    done = desk.ok(
        "incident", "assess", name, "--set", "ei=0.25", "--risk", "risk", "--reason", "numbers only", who="dan"
    )
    assert "(proposed 1)" in done
    assert "recorded by dan: gdpr_risk=risk" in done
    [row] = case.rows(tables.assessment)
    assert (row["risk"], row["assessed_by"], row["reason"]) == ("risk", "dan", "numbers only")
    event = next(event for event in case.published("tocsin.case-events") if event["kind"] == "risk.assessed")
    assert event["body"]["changed_count"] == 1
    assert "decided before by dan: gdpr_risk=risk" in desk.ok("incident", "assess", name, who="rae")


def test_a_duty_met_is_shown_wherever_it_stands(case: Case, desk: Desk, tmp_path: Path) -> None:
    name = everywhere(case, ("DE",))
    form = tmp_path / "form.pdf"
    form.write_bytes(b"%PDF")
    words = ("incident", "duty", name, "eu-gdpr-33", "--reference", "LfD-77", "--file", str(form), "--reason", "sent")
    assert isinstance(desk.error(*words, who="rae"), Refused)
    assert "eu-gdpr-33 (shop) met" in desk.ok(*words, who="dan")
    assert sha256(b"%PDF").hexdigest() in desk.parts.get(SubmittedFiles).kept  # type: ignore[attr-defined]
    shown = desk.ok("incident", "obligations", name, who="rae")
    assert "met 2026-03-02 03:00Z by dan, no. LfD-77" in shown
    assert "1 met" in desk.ok("incident", "show", name, who="rae")
    assert "its clock runs again" in desk.ok(
        "incident", "duty", name, "eu-gdpr-33", "--withdraw", "--reason", "wrong incident", who="dan"
    )
    assert "met 2026" not in desk.ok("incident", "obligations", name, who="rae")


def test_a_notice_to_individuals_who_were_all_told_is_not_shown_as_due(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    case.plan(name)
    case.execute(sa.delete(tables.obligation))
    case.execute(sa.update(tables.recipient).values(controller="shop"))
    for regime, to in (("eu-gdpr-34", "individual"), ("eu-gdpr-33", "supervisory_authority")):
        case.execute(
            sa.insert(tables.obligation).values(
                incident_id=name, revision=1, controller="shop", regime_id=regime, status="due", recipient=to,
                conservative_deadline_at=NOW - timedelta(hours=2), detail={"missing_facts": []},
            )
        )  # fmt: skip

    def clocks() -> list[str]:
        shown = desk.ok("incident", "show", name, who="rae").splitlines()
        return [line.split()[1] for line in shown if line.startswith("clock:")]

    assert clocks() == ["eu-gdpr-33", "eu-gdpr-34"]
    case.execute(sa.update(tables.recipient).values(final_state="reached"))
    assert clocks() == ["eu-gdpr-33"]
    shown = desk.ok("incident", "show", name, who="rae")
    assert "1 with a date, 0 without one, 0 met, 1 to people who were all told, 0 considered" in shown
    lines = desk.ok("incident", "obligations", name, who="rae").splitlines()
    told = next(line for line in lines if "eu-gdpr-34" in line)
    assert "everybody was told" in told
    assert "MISSED" not in told
    assert "MISSED 2 h ago" in next(line for line in lines if "eu-gdpr-33" in line)
    listed = json.loads(desk.ok("incident", "obligations", name, "--json", who="rae"))
    assert sorted(each["all_told"] for each in listed) == [False, True]
    one = tables.recipient.c.root == "customer/1"
    case.execute(sa.update(tables.recipient).where(one).values(final_state="unreachable_reported"))
    assert clocks() == ["eu-gdpr-33", "eu-gdpr-34"]
    case.execute(sa.update(tables.incident).values(state="closed"))
    assert clocks() == [], "nobody watches them"
    assert "not due, watched no more; " in desk.ok("incident", "show", name, who="rae")
    first = desk.ok("incident", "obligations", name, who="rae").splitlines()[0]
    assert first == f"{name} is closed: this is how its duties stood then, and nobody watches them any more"


def test_a_duty_met_in_time_is_not_called_missed_later(case: Case, desk: Desk) -> None:
    name = everywhere(case, ("DE",))
    case.clock.at += timedelta(hours=1)
    desk.ok("incident", "duty", name, "eu-gdpr-33", "--reference", "LDA-1", "--reason", "by the form", who="dan")
    case.clock.at += timedelta(hours=80)
    lines = desk.ok("incident", "obligations", name, who="rae").splitlines()
    met = next(line for line in lines if "met 2026-03-02" in line)
    assert "eu-gdpr-33" in met
    assert "MISSED" not in met


def test_adopting_takes_counsel_and_ends_the_remark(case: Case, desk: Desk) -> None:
    from click.testing import CliRunner

    name = everywhere(case, ("US-TX",))

    def type_review(*words: str, who: str) -> str:
        done = CliRunner().invoke(review, list(words), obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens[who]})
        if done.exception is not None:
            raise done.exception
        return done.output

    assert "not adopted by your counsel" in type_review(who="rae")
    with pytest.raises(BadInput, match="name the rules that you have read"):
        type_review("--adopt", "--reason", "read", who="col")
    with pytest.raises(Refused, match=r"may not law\.adopt"):
        type_review("us-tx-ind", "--adopt", "--reason", "read", who="dan")
    assert "1 rules are adopted by col" in type_review("us-tx-ind", "--adopt", "--reason", "read", who="col")
    lines = desk.ok("incident", "obligations", name, who="rae").splitlines()
    mine = next(line for line in lines if "us-tx-ind " in line)
    assert "not adopted" not in mine
    others = [line for line in lines if "not adopted by your counsel" in line]
    assert others
    type_review("--all", "--adopt", "--reason", "all read", who="col")
    assert "not adopted" not in desk.ok("incident", "obligations", name, who="rae")
