"""The commands as staff type them: who is asked, what is printed, how it ends."""

import base64
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from bridge.contracts.queries import Preview
from bridge.contracts.scope import Scope
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Approvals, Intake, Paths, Settings
from consumers.adapters.case_store import tables
from consumers.case.alerts import Known
from consumers.case.channel_preflight import ProviderStanding
from consumers.case.commands import COMMANDS
from consumers.case.duty_commands import verify
from consumers.case.people import add_person
from consumers.case.permissions import Role
from consumers.case.preflight_commands import preflight
from consumers.case.rewriting import ScopeRewriter
from consumers.case.scoping import ScopeIndex
from consumers.case.sheet import NoticeSamples, Sample, TextApproval
from consumers.case.sheet_commands import Providers
from consumers.case.steering_commands import withdraw as steering_withdraw
from consumers.case.store import CaseStore
from consumers.case.verification import AwarenessPolicy
from consumers.domain.duties import LawInForce
from tests.unit.case.cases import GIVEN, NOW, Case
from tests.unit.shipped_law import shipped_law

GROUPS = {command.name: command for command in COMMANDS}


class ApprovedForLong:
    """Texts that nobody looks at here, approved for a year."""

    def sample(self, key: Mapping[str, Any], *, exercise: bool = False) -> Sample:
        raise Refused("no sample")

    def approval(self, bundle_sha256: str, at: datetime) -> TextApproval | None:
        return TextApproval(NOW + timedelta(days=365), ("DE",))


class Asked:
    """What providers say of themselves, as a test has it."""

    def __init__(self) -> None:
        self.says = ProviderStanding()

    def standing(self) -> ProviderStanding:
        return self.says


class Desk:
    """A settings folder with staff, and a way to type."""

    def __init__(self, case: Case, folder: Path, *, mode: str = "two_approvers") -> None:
        (folder / "keys").mkdir()
        (folder / "keys" / "staff.key").write_bytes(b"k" * 32)
        secret = folder / "monitor.secret"
        secret.write_text("whsec_" + base64.b64encode(b"s" * 32).decode(), encoding="ascii")
        self.people = folder / "people.toml"
        self.settings = Settings(
            paths=Paths(data=folder / "data", keys=folder / "keys", people=self.people),
            approvals=Approvals.model_validate({"mode": mode}),
            intake=Intake(secrets={"monitor": secret}),
        )
        self.parts = Parts()
        self.parts.provide(Settings, lambda: self.settings)
        self.parts.provide(Clock, lambda: case.clock)
        self.parts.provide(CaseStore, lambda: case.store)
        self.parts.provide(LawInForce, lambda: shipped_law)
        self.parts.provide(AwarenessPolicy, AwarenessPolicy)
        self.parts.provide(ScopeRewriter, ScopeRewriter)
        self.parts.provide(ScopeIndex, lambda: _Index())
        self.parts.provide(NoticeSamples, ApprovedForLong)
        self.parts.provide(Providers, Asked)
        self.tokens = {
            name: add_person(self.people, name, f"{name} Probe", [role])
            for name, role in (("rae", Role.RESPONDER), ("dan", Role.DPO), ("col", Role.COUNSEL), ("adm", Role.ADMIN))
        }

    def type(self, group: str, *words: str, who: str | None = None, given: str = "") -> Result:
        token = {"TOCSIN_TOKEN": self.tokens[who]} if who else {"TOCSIN_TOKEN": ""}
        return CliRunner().invoke(GROUPS[group], list(words), obj=self.parts, env=token, input=given)

    def ok(self, group: str, *words: str, who: str | None = None) -> str:
        result = self.type(group, *words, who=who)
        assert result.exception is None, result.exception
        return result.output

    def error(self, group: str, *words: str, who: str | None = None) -> TocsinError:
        result = self.type(group, *words, who=who)
        assert isinstance(result.exception, TocsinError), (result.output, result.exception)
        return result.exception


@pytest.fixture
def desk(case: Case, tmp_path: Path) -> Desk:
    return Desk(case, tmp_path)


def test_from_the_page_to_the_release(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    shown = desk.ok("incident", "show", name, who="rae")
    assert shown.splitlines()[-1] == f"next: tocsin incident ack {name}"
    assert len(shown.splitlines()) < 25
    assert f"next: tocsin incident aware {name}" in desk.ok("incident", "ack", name, who="rae")
    at = NOW.isoformat()
    desk.ok("incident", "aware", name, "--as", "controller_aware_at", "--at", at, "--reason", "match", who="dan")
    case.plan(name)
    prepared = json.loads(desk.ok("incident", "prepare", name, "--json", who="rae"))
    policy = prepared["policy_sha256"]
    refused = desk.error("incident", "release", name, who="rae")
    assert (type(refused), refused.exit_code) == (Refused, 1)
    assert "two persons acting under two of dpo, counsel, approver" in str(refused)
    assert "still missing" in desk.ok("incident", "approve", name, "--policy", policy, who="dan")
    assert "releasing now" in desk.ok("incident", "approve", name, "--policy", policy, who="col")
    assert "is releasing" in desk.ok("incident", "release", name, who="rae")
    facts = json.loads(desk.ok("incident", "show", name, "--json", who="dan"))
    assert facts["next"]["command"] == f"tocsin incident watch {name}"


def test_what_waits_is_withdrawn_and_says_so(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    desk.ok("incident", "ack", name, who="rae")
    case.plan(name)
    policy = json.loads(desk.ok("incident", "prepare", name, "--json", who="rae"))["policy_sha256"]
    desk.ok("incident", "approve", name, "--policy", policy, who="dan")

    def withdraw(*options: str) -> Result:
        words = [name, "--reason", "a wrong name in it", *options]
        return CliRunner().invoke(steering_withdraw, words, obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens["rae"]})

    assert json.loads(withdraw("--dry-run", "--json").stdout)["approved_by"] == ["dan"]
    said = withdraw().stdout
    assert "is withdrawn; nobody can approve it any more" in said
    assert "void with it: the approval of dan" in said
    shown = desk.ok("incident", "show", name, who="dan")
    assert "withdrawn (two_approvers), approved by dan as dpo" in shown
    assert "nothing is prepared" in str(desk.error("incident", "approve", name, "--policy", policy, who="col"))
    assert "nothing to withdraw" in str(withdraw().exception)


def test_who_is_asked_first(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    for words in (("show", name), ("list",), ("ack", name), ("prepare", name), ("close", name, "--reason", "x")):
        nobody = desk.error("incident", *words)
        assert (type(nobody), nobody.exit_code) == (BadInput, 2)
        assert "may not" in str(desk.error("incident", *words, who="adm"))
    assert case.kinds() == ["incident.opened"]


def test_an_unresolved_scope_says_what_is_near_and_what_to_type(case: Case, desk: Desk) -> None:
    name = case.receive({**GIVEN, "model_versions": ["77"]}).incident_id
    desk.ok("incident", "ack", name, who="rae")
    shown = desk.ok("incident", "show", name, who="rae")
    assert "model_versions '77': the index knows no such name; near: 7" in shown
    command = shown.splitlines()[-1].removeprefix("next: tocsin incident ")
    assert command == f"rescope {name} --set model_versions=7 --reason TEXT"
    assert "revision 2 is being resolved" in desk.ok("incident", *command.split(), who="rae")
    assert "UNRESOLVED" not in desk.ok("incident", "list", who="rae")


def test_facts_holds_and_closing(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    desk.ok("incident", "facts", name, "--set", "encrypted=false", "--reason", "seen", who="dan")
    known = json.loads(desk.ok("incident", "facts", name, "--json", who="dan"))["known"]
    assert known["encrypted"] is False
    wrong = (
        "incident",
        "hold",
        name,
        "--kind",
        "law_enforcement_hold",
        "--covers",
        "XX",
        "--as-given",
        "--reason",
        "x",
    )
    assert "--covers XX: not a jurisdiction" in str(desk.error(*wrong, who="dan"))
    held = desk.ok(
        "incident", "hold", name, "--kind", "law_enforcement_hold", "--covers", "DE", "--reason", "letter", who="dan"
    )
    lift = held.strip().split("tocsin incident ")[1].split()
    assert "held:         law_enforcement_hold for DE" in desk.ok("incident", "show", name, who="dan")
    desk.ok("incident", *lift, who="dan")
    assert "release first" in str(desk.error("incident", "close", name, "--reason", "x", who="dan"))
    assert "is closed" in desk.ok("incident", "close", name, "--reason", "x", "--unnotified", who="dan")
    assert name not in desk.ok("incident", "list", who="dan")
    assert name in desk.ok("incident", "list", "--all", who="dan")


def test_naive_instants_and_unknown_fields_are_refused(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    words = ("aware", name, "--as", "aware_at", "--at", "2026-03-01T10:00:00", "--reason", "x")
    assert "has no time zone" in str(desk.error("incident", *words, who="dan"))
    fault = desk.error("incident", "rescope", name, "--set", "model_idz=x", "--reason", "x", who="rae")
    assert "did you mean 'model_ids'" in str(fault)


def test_a_corrected_scope_names_what_the_index_knows_or_says_that_it_does_not(
    case: Case, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = case.receive().incident_id
    words = ("incident", "rescope", name, "--set", "model_versions=77", "--reason", "x")
    fault = desk.error(*words, who="rae")
    assert "the index knows no model_versions '77' (near: 7)" in str(fault)
    assert "--as-given" in str(fault)
    assert case.rows(tables.incident)[0]["revision"] == 1
    assert "revision 2 is being resolved" in desk.ok(*words, "--as-given", who="rae")
    monkeypatch.setattr(_Index, "known_names", _away)
    said = desk.type("incident", "rescope", name, "--set", "model_versions=8", "--reason", "x", who="rae")
    assert said.exception is None, said.exception
    assert "were not compared with the index: it is away" in said.output


def test_people_are_added_by_an_admin_and_the_rule_is_checked(case: Case, desk: Desk) -> None:
    assert "may not people.manage" in str(
        desk.error("people", "add", "New Person", "--id", "new", "--role", "viewer", who="dan")
    )
    result = desk.type("people", "add", "New Person", "--id", "new", "--role", "approver", who="adm")
    assert result.exception is None
    assert result.stdout.strip().startswith("tocsin_new_")
    assert case.kinds() == ["people.added"]
    assert "New Person" not in desk.ok("people", "list")
    assert json.loads(desk.ok("people", "check", "--json"))["can_be_met"] is True


def test_a_rule_that_cannot_be_met_is_a_no(case: Case, desk: Desk) -> None:
    desk.people.unlink()
    desk.ok("people", "add", "First Admin", "--id", "first", "--role", "admin")
    fault = desk.error("people", "check")
    assert (fault.exit_code, "cannot be met" in str(fault)) == (1, True)


def test_the_alert_schema_is_what_a_monitor_writes(desk: Desk) -> None:
    schema: dict[str, Any] = json.loads(desk.ok("alert", "schema"))
    assert "source" not in schema["properties"]
    assert schema["required"] == ["fingerprint"]


def test_sending_says_what_is_missing(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "alert.json"
    file.write_text("[]", encoding="utf-8")
    assert "must hold a JSON object" in str(desk.error("alert", "send", str(file), "--exercise"))
    fault = desk.error("alert", "send", str(file), "--http")
    assert (fault.exit_code, "tocsin run intake" in str(fault)) == (3, True)


def test_a_mistyped_monitor_opens_no_second_incident(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "alert.json"
    file.write_text("{}", encoding="utf-8")
    fault = desk.error("alert", "send", str(file), "--source", "montor")
    assert (fault.exit_code, str(fault)) == (
        2,
        "--source montor: intake.secrets names no such monitor; did you mean 'monitor'?; known: monitor",
    )


def test_an_empty_list_says_where_ended_incidents_are(case: Case, desk: Desk) -> None:
    assert desk.ok("incident", "list", "--all", who="rae") == "no incident yet\n"
    name = case.receive().incident_id
    case.execute(sa.update(tables.incident).values(state="closed"))
    assert desk.ok("incident", "list", who="rae") == (
        "no open incident; `tocsin incident list --all` shows those that ended\n"
    )
    assert name in desk.ok("incident", "list", "--all", who="rae")


def test_a_release_that_ran_is_said_to_have_and_a_closed_incident_asks_for_none(case: Case, desk: Desk) -> None:
    name = case.receive().incident_id
    desk.ok("incident", "ack", name, who="rae")
    case.plan(name)
    policy = json.loads(desk.ok("incident", "prepare", name, "--json", who="rae"))["policy_sha256"]
    for who in ("dan", "col"):
        desk.ok("incident", "approve", name, "--policy", policy, who=who)
    case.execute(sa.update(tables.release).values(state="finished"))
    assert "is finished; see tocsin delivery status" in desk.ok("incident", "release", name, who="rae")
    assert "nothing is prepared" in str(desk.error("incident", "approve", name, "--policy", policy, who="col"))
    case.execute(sa.update(tables.incident).values(state="closed"))
    assert "is finished" in desk.ok("incident", "release", name, who="rae")
    asked = [
        desk.error("incident", "approve", name, "--policy", policy, who="col"),
        CliRunner().invoke(preflight, [name], obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens["col"]}).exception,
    ]
    assert [str(each) for each in asked] == [f"{name} is closed; nothing about it changes any more"] * 2
    shown = CliRunner().invoke(verify, [name], obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens["rae"]})
    assert shown.stdout == "verification: ended, closed\nno match test was made\n"


class _Index:
    """An index that knows one model and counts one person."""

    def __init__(self) -> None:
        self.asked: list[Scope] = []

    def known_names(self) -> Known:
        return Known({"fraud-scorer": frozenset({"7"})}, frozenset({"fraud_score"}))

    def preview(self, scope: Scope) -> Preview:
        self.asked.append(scope)
        return Preview(
            partition_count=2, silent_partitions=(), affected_count=1, possible_count=0, departed_count=0, record_count=1,
            by_jurisdiction={"DE": 1}, by_kind={"derived": 1}, by_sensitivity={"high": 1}, by_channel={"email": 1},
            coverage=(),
        )  # fmt: skip


def _away(_index: "_Index") -> Known:
    raise Unreachable("it is away")


def test_preview_counts_and_opens_nothing(desk: Desk, tmp_path: Path) -> None:
    index = _Index()
    desk.parts.provide(ScopeIndex, lambda: index)
    key = tmp_path / "keys" / "join.key"
    key.write_bytes(base64.b64encode(b"j" * 32))
    key.chmod(0o600)
    emails = tmp_path / "emails.txt"
    emails.write_text("Jo@example.org\n", encoding="utf-8")
    words = ("preview", "-", "--emails", str(emails))
    said = desk.type("incident", *words, who="rae", given='{"model_ids": "fraud-scorer"}')
    assert said.exception is None, said.exception
    assert "1 by record, from 2 of 2 partitions" in said.output
    assert "DE" in said.output
    assert "example" not in said.output
    assert len(index.asked[0].email_hmacs) == 1
    unknown = desk.type("incident", "preview", "-", who="rae", given='{"model_ids": "fraud"}')
    assert isinstance(unknown.exception, Refused)
    assert "near: fraud-scorer" in str(unknown.exception)
    assert isinstance(desk.type("incident", "preview", who="rae").exception, BadInput)
    assert '"version_ranges"' in desk.ok("incident", "preview", "--schema")
