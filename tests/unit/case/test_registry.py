"""The registry in a case: watched, remembered, asked when a scope is rewritten; down, it stops nothing."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import AlertReceived, IncidentRevised
from bridge.contracts.scope import AskedScope
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.registry import RegistryTables
from consumers.adapters.yaml_registry import YamlRegistry
from consumers.case.alerts import ReadAlert, judge_scope
from consumers.case.intake_rules import Arrival, review_scopes, take
from consumers.case.registry import RegistryWatch
from consumers.case.registry_commands import registry as registry_command
from consumers.case.rewriting import ScopeRewriter
from consumers.case.workflow import rescope
from consumers.domain.registry import RegistrySnapshot
from tests.unit.case.cases import DPO, KNOWN, NOW, Case

MODELS = """
models:
  fraud-base:
    versions: {"3": {}}
  fraud-scorer:
    versions:
      6: {}
      7: {derived_from: [fraud-base@3]}
    aliases: {champion: 7}
  income-band:
    versions: {"1": {derived_from: ["fraud-scorer@7"]}}
    aliases:
      live:
        - {version: 1, from: 2026-01-01T00:00:00Z}
"""


class World:
    """A registry file, a watch, and a way to take its file away."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.file = folder / "models.yaml"
        self.file.write_text(MODELS, encoding="utf-8")
        self.watch = RegistryWatch(YamlRegistry(self.file), RegistryTables(case.database), look_seconds=60)
        self.rewriter = ScopeRewriter(self.watch, None, lambda sha256: sha256[::-1])

    def look(self, minutes: float = 1) -> None:
        self.case.clock.at += timedelta(minutes=minutes)
        self.watch.look(self.case.clock.now())

    def type(self, *words: str) -> Result:
        parts = Parts()
        parts.provide(RegistryWatch, lambda: self.watch)
        parts.provide(Clock, lambda: self.case.clock)
        return CliRunner().invoke(registry_command, words, obj=parts)


@pytest.fixture
def world(case: Case, tmp_path: Path) -> World:
    made = World(case, tmp_path)
    made.look(0)
    return made


def test_what_is_remembered_survives_and_is_the_same_after_a_round_trip(world: World) -> None:
    before = world.watch.memory()
    world.look()
    world.file.write_text(MODELS.replace("champion: 7", "champion: 6"), encoding="utf-8")
    world.look()
    again = RegistryTables(world.case.database).memory("yaml")
    assert again == world.watch.memory()
    assert (before.revision, again.revision) == (1, 2)
    assert [(each.version, each.ended_at) for each in again.spans if each.alias == "champion"] == [
        ("7", NOW + timedelta(minutes=2)), ("6", None),
    ]  # fmt: skip
    assert len(again.watches) == 1


def test_a_registry_that_is_down_leaves_its_last_state_in_use_and_named(world: World) -> None:
    world.file.unlink()
    world.look()
    world.look()
    memory = world.watch.memory()
    assert memory.fault is not None
    assert memory.fault.startswith("no answer since 2026-03-02 03:01 UTC: registry.file")
    assert memory.looked_at == NOW
    done = world.rewriter.rewritten(AskedScope(model_aliases=("fraud-scorer@champion",)))
    assert done.rewriting is not None
    assert (done.rewriting.registry_seen_at, done.rewriting.registry_fault) == (NOW, memory.fault)
    world.file.write_text(MODELS, encoding="utf-8")
    world.look()
    assert world.watch.memory().fault is None


def receive(world: World, given: dict[str, object], fingerprint: str = "leak-1") -> dict[str, object]:
    """Take an alert as intake does, and return its incident's row."""
    judged = judge_scope(given, KNOWN, world.case.clock.now(), world.rewriter)
    now = world.case.clock.now()
    alert = AlertReceived(source="monitor", fingerprint=fingerprint, title="t", detected_at=now)
    arrival = Arrival(
        "monitor", f"m{now}{fingerprint}", b"{}", now, signed=True, alerts=[(ReadAlert(alert, given), judged)]
    )
    taken = world.case.store.change(lambda work: take(work, arrival))[0]
    return next(row for row in world.case.rows(tables.incident) if row["incident_id"] == taken.incident_id)


def test_an_alert_is_rewritten_when_it_opens_and_the_index_is_told_by_which_state(world: World) -> None:
    row = receive(world, {"model_ids": "fraud-scorer", "model_versions": 7, "with_descendants": True})
    assert row["scope"] == {
        "all_of": [
            {"any_of": [{"model_ids": ["fraud-scorer"], "model_versions": ["7"]},
                        {"model_ids": ["income-band"], "model_versions": ["1"]}]}
        ]
    }  # fmt: skip
    [published] = world.case.published("tocsin.incidents")
    event = IncidentRevised.model_validate(published)
    assert event.rewriting is not None
    assert event.scope is not None
    assert (event.rewriting.registry, event.rewriting.registry_revision) == ("yaml", 1)
    assert event.scope_sha256 == event.scope.sha256() == row["scope_sha256"]


def test_a_model_that_wrote_nothing_itself_is_known_by_the_registry(world: World) -> None:
    row = receive(world, {"model_ids": ["fraud-base"], "model_versions": ["3"], "with_descendants": True})
    assert row["scope_unresolved"] is None
    assert "income-band" in json.dumps(row["scope"])
    wrong = receive(world, {"model_ids": ["fraud-bas"], "with_descendants": True}, "leak-2")
    assert wrong["scope"] is None
    assert wrong["scope_unresolved"]["nearest"]["fraud-bas"][0] == "fraud-base"  # type: ignore[index]


def test_an_alias_that_leads_nowhere_opens_unresolved_with_the_nearest(world: World) -> None:
    row = receive(world, {"model_aliases": ["fraud-scorer@champoin"]})
    unresolved = row["scope_unresolved"]
    assert isinstance(unresolved, dict)
    assert unresolved["nearest"] == {"fraud-scorer@champoin": ["fraud-scorer@champion"]}
    assert "--set model_aliases=fraud-scorer@champion" in unresolved["type"]
    early = receive(world, {"model_aliases": ["fraud-scorer@champion"], "aliases_at": "2026-02-01T00:00:00Z"}, "leak-2")
    assert "watched since" in json.dumps(early["scope_unresolved"])
    stated = receive(world, {"model_aliases": ["income-band@live"], "aliases_at": "2026-02-01T00:00:00Z"}, "leak-3")
    assert stated["scope"] == {"all_of": [{"model_ids": ["income-band"], "model_versions": ["1"]}]}


def test_a_corrected_scope_is_rewritten_from_what_was_asked(world: World) -> None:
    receive(world, {"model_ids": ["fraud-scorer"], "model_versions": ["7"], "with_descendants": True})
    done = rescope(
        world.case.store, "INC-2026-0001", DPO, NOW, settings={"model_versions": ["6"]}, reason="typo",
        rewriter=world.rewriter,
    )  # fmt: skip
    assert done.incident.scope == {"model_ids": ["fraud-scorer"], "model_versions": ["6"]}
    assert done.incident.scope_rewriting is not None
    assert done.incident.scope_rewriting["asked"]["with_descendants"] is True
    with pytest.raises(Refused, match="knows no such alias"):
        rescope(
            world.case.store, "INC-2026-0001", DPO, NOW, settings={"model_aliases": ["nobody"]}, reason="x",
            rewriter=world.rewriter,
        )  # fmt: skip


def test_addresses_in_an_alert_are_kept_as_keyed_hashes_alone(world: World) -> None:
    plain = "ab" * 32
    row = receive(world, {"email_sha256s": [plain], "any_of": [{"emails": "Jo@Example.org "}]})
    of_jo = hashlib.sha256(b"jo@example.org").hexdigest()
    assert row["scope"] == {"email_hmacs": [plain[::-1]], "any_of": [{"email_hmacs": [of_jo[::-1]]}]}
    kept = json.dumps([row["scope"], row["scope_rewriting"], world.case.rows(tables.outbox)], default=str)
    assert plain not in kept
    assert "xample" not in kept
    wrong = receive(world, {"email_sha256s": ["jo.at.example.org"]}, "leak-2")
    assert wrong["scope"] is None
    assert "jo.at" not in json.dumps([wrong["scope_unresolved"], world.case.rows(tables.page)], default=str)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: {m: {versions: {1.10: {}}}}", "put the version 1.1 in quotes"),
        ("models: {m: {versions: {1: {derived: [x@1]}}}}", r"models.m.versions.1.derived: Extra inputs"),
        ("models: {m: {versions: {1: {derived_from: ['models:/x@c']}}}}", "names an alias, which moves"),
        ("models: {m: {aliases: {c: 9}}}", "no version '9' is listed"),
        ("models: {m: {}, m: {}}", "'m' is written twice"),
        ("models: {m: {versions: {1: {}}, aliases: {c: [{version: 1, from: 2026-01-02T00:00:00Z},"
         " {version: 1, from: 2026-01-01T00:00:00Z}]}}}", "oldest first"),
        ("models: [", "not YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_registry_file_is_named_by_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=said) as caught:
        YamlRegistry(file).read()
    assert str(caught.value).startswith(str(file))


def test_the_registry_can_be_looked_at(world: World) -> None:
    shown = world.type("show", "fraud-base")
    assert "fraud-scorer@7, income-band@1" in shown.output
    said = world.type("history", "fraud-scorer@champion", "--at", "2026-03-02T03:00:00Z")
    assert said.output.strip() == "7"
    early = world.type("history", "fraud-scorer@champion", "--at", "2026-01-01T00:00:00Z")
    assert isinstance(early.exception, Refused)
    assert "unknown: the registry is watched since" in str(early.exception)
    facts = json.loads(world.type("show", "--json").output)
    assert (facts["revision"], len(facts["versions"]), facts["fault"]) == (1, 4, None)
    world.file.write_text("models: {x: {versions: {1: {derived_from: [x@1]}}}}", encoding="utf-8")
    world.case.clock.at += timedelta(minutes=1)
    assert json.loads(world.type("sync", "--json").output)["changed"] is True
    assert "derived from itself: x@1 -> x@1" in world.type("show", "x").output
    world.file.unlink()
    world.case.clock.at += timedelta(minutes=1)
    assert isinstance(world.type("sync").exception, Unreachable)
    assert isinstance(world.type("show", "y").exception, BadInput)


def test_two_that_look_at_once_remember_one_history(world: World) -> None:
    """The second one's look is older than what is remembered: it changes nothing."""
    later = world.watch.look(NOW + timedelta(seconds=30))
    earlier = world.watch.look(NOW + timedelta(seconds=10))
    assert earlier == later


class Nothing:
    kind = "yaml"

    def read(self) -> RegistrySnapshot:
        raise Unreachable("down")


def test_a_registry_that_never_answered_is_named_as_never_seen(case: Case) -> None:
    watch = RegistryWatch(Nothing(), RegistryTables(case.database), look_seconds=60)
    watch.look(NOW)
    done = ScopeRewriter(watch).rewrite(AskedScope(model_ids=("m",), with_descendants=True))
    assert done.rewriting is not None
    assert done.rewriting.unknown == ("what is derived from these models: the registry was never seen",)
    assert done.rewriting.registry_fault == "no answer since 2026-03-02 03:00 UTC: down"


def test_a_version_that_is_registered_later_is_proposed_once_and_applied_when_a_person_accepts(world: World) -> None:
    receive(world, {"model_ids": ["fraud-scorer"], "model_versions": ["7"], "with_descendants": True})
    receive(world, {"model_ids": ["fraud-scorer"], "model_versions": ["6"]}, "leak-2")
    assert review_scopes(world.case.store, world.rewriter, NOW) == ()
    world.file.write_text(MODELS + "  late:\n    versions: {'2': {derived_from: [income-band@1]}}\n", encoding="utf-8")
    world.look()
    assert list(review_scopes(world.case.store, world.rewriter, NOW)) == ["INC-2026-0001"]
    assert list(review_scopes(world.case.store, world.rewriter, NOW)) == []
    [proposal] = world.case.rows(tables.scope_proposal)
    [page] = [row for row in world.case.rows(tables.page) if row["kind"] == "scope_proposed"]
    assert "the registry or lineage knows more" in page["body"]["because"]
    done = rescope(
        world.case.store, "INC-2026-0001", DPO, NOW, proposal_id=proposal["proposal_id"], reason="also late",
        rewriter=world.rewriter,
    )  # fmt: skip
    assert '"late"' in json.dumps(done.incident.scope)
