"""`tocsin restore reconcile`: what a backup from before planning keeps back, and who may take that on."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bridge.contracts.errors import Refused
from consumers.adapters.case_store.comparing import Gap
from consumers.case.acting import Actor
from consumers.case.evidence_commands import StoreComparison, restore
from consumers.case.permissions import Role
from consumers.evidence.tally import LoggedAct
from tests.unit.case.cases import Case
from tests.unit.case.test_commands import Desk


class Old:
    """A store whose backup knows too few people."""

    def __init__(self) -> None:
        self.replayed: list[tuple[str, Role, bool]] = []
        self.decisions: list[LoggedAct] = []
        self.paused: list[str] = []

    def reconcile(self, incident_id: str) -> Any: ...
    def keep(self, found: Any) -> None: ...
    def gap(self) -> Gap:
        return Gap(outcome_count=3, unknown_count=2, decisions=self.decisions)

    def replay(self, actor: Actor, role: Role, reason: str, *, accept_unknown: bool = False) -> Gap:
        self.replayed.append((actor.person_id, role, accept_unknown))
        return replace(self.gap(), paused=self.paused)


def test_people_whom_no_backup_knows_are_a_named_person_s_decision(case: Case, tmp_path: Path) -> None:
    desk, old = Desk(case, tmp_path), Old()
    desk.parts.provide(StoreComparison, lambda: old)

    def reconcile(*words: str, who: str) -> Result:
        given = ["reconcile", *words]
        return CliRunner().invoke(restore, given, obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens[who]})

    looked = reconcile("--dry-run", who="dan")
    assert (looked.exit_code, old.replayed) == (1, [])
    why = ("--reason", "the only backup")
    refusing = reconcile(*why, who="dan")
    assert refusing.exit_code == 1
    assert "2 attempts are of people whom this store does not know" in refusing.output
    assert "Dispatch goes on refusing" in refusing.output
    assert "--accept-unknown" in refusing.output
    assert isinstance(reconcile("--accept-unknown", *why, who="rae").exception, Refused)
    assert old.replayed == [("dan", Role.DPO, False)]
    accepted = reconcile("--accept-unknown", *why, who="col")
    assert accepted.exit_code == 0, accepted.output
    assert "Dispatch goes on: whoever of them is planned again is told again" in accepted.output
    assert old.replayed[1:] == [("col", Role.COUNSEL, True)]


def test_decisions_since_the_backup_are_named_with_what_to_type_and_what_was_paused(case: Case, tmp_path: Path) -> None:
    desk, old = Desk(case, tmp_path), Old()
    desk.parts.provide(StoreComparison, lambda: old)
    at = datetime(2026, 3, 2, 3, 5, tzinfo=UTC)
    old.decisions = [
        LoggedAct("release.cancelled", "INC-2026-0001", at, by_person=True, role="dpo", about="1" * 32),
        LoggedAct("erasure.requested", None, at, by_person=True, role="dpo"),
    ]
    old.paused = ["INC-2026-0001"]

    def reconcile(*words: str) -> Result:
        return CliRunner().invoke(
            restore, ["reconcile", *words], obj=desk.parts, env={"TOCSIN_TOKEN": desk.tokens["dan"]}
        )

    said = reconcile("--reason", "the disk").output
    assert "and 2 decisions." in said
    assert "tocsin incident cancel INC-2026-0001 --reason TEXT" in said
    assert "tocsin subject erase REF --reason TEXT" in said
    assert "INC-2026-0001: PAUSED" in said
    facts = json.loads(reconcile("--dry-run", "--json").stdout)
    assert [each["decision"] for each in facts["decisions"]] == ["release.cancelled", "erasure.requested"]
    assert (facts["paused"], facts["replayed"]) == ([], False)
