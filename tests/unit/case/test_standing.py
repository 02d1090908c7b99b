"""Scopes about everybody and about nobody; people who came late or were told wrongly, as staff see them."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import PartitionResolved
from bridge.contracts.queries import Preview
from bridge.contracts.scope import Scope
from consumers.adapters.case_store import tables
from consumers.case import releasing, workflow
from consumers.case.alerts import Known
from consumers.case.overview import overview
from consumers.case.scoping import ScopeIndex
from consumers.case.standing import confirm_everybody, late_people
from consumers.case.standing_commands import SUBCOMMANDS
from consumers.domain.approvals import Mode
from tests.unit.case.cases import COUNSEL, DPO, NOW, RESPONDER, VIEWER, Case
from tests.unit.case.test_commands import Desk

TWO = Mode.TWO_APPROVERS
COMMANDS = {command.name: command for command in SUBCOMMANDS["incident"]}


def known(case: Case, people: int | None, *, affected: int | None = None) -> None:
    """Let the first partition say that it knows `people`, and the others nobody."""
    for row in case.rows(tables.resolution):
        event = PartitionResolved.model_validate_json(row["event"])
        first = row["partition"] == 0
        count = people if first or people is None else 0
        changes: dict[str, Any] = {"people_count": count}
        if affected is not None and first:
            changes["affected_count"] = affected
        case.execute(
            sa.update(tables.resolution)
            .where(tables.resolution.c.partition == row["partition"])
            .values(
                event=event.model_copy(update=changes).model_dump_json(),
                affected_count=changes.get("affected_count", event.affected_count),
            )
        )


def planned(case: Case, of: int | None, **plan: Any) -> str:
    name = case.receive().incident_id
    case.execute(sa.update(tables.incident).values(acknowledged_at=NOW, acknowledged_by="rae"))
    case.plan(name, **plan)
    known(case, of)
    return name


def prepare(case: Case, name: str, **changes: Any) -> releasing.Prepared:
    given = {"mode": TWO, "late_cap": 5, **changes}
    return releasing.prepare(case.store, name, RESPONDER, NOW, **given)


@pytest.mark.parametrize(("people", "asked"), [(3, True), (None, False), (4, False)])
def test_a_scope_that_matches_nearly_everybody_is_confirmed_before_it_is_approved(
    case: Case, people: int | None, asked: bool
) -> None:
    name = planned(case, people)
    done = prepare(case, name)
    policy = done.release.policy_sha256
    assert (done.everybody is not None) is asked
    if not asked:
        assert not releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO).releasing
        with pytest.raises(Refused, match="nothing to confirm"):
            confirm_everybody(case.store, name, RESPONDER, NOW, "as agreed")
        return
    assert "3 accounts and orders of 3 known" in str(done.everybody)
    with pytest.raises(Refused, match="confirm-everybody"):
        releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO)
    with pytest.raises(Refused, match="confirm-everybody"):
        releasing.break_glass(case.store, name, DPO, NOW, "deadline")
    assert not case.rows(tables.approval)
    seen = overview(case.store, name)
    assert seen.next is not None
    assert seen.next.command == f"tocsin incident confirm-everybody {name} --reason TEXT"
    with pytest.raises(Refused):
        confirm_everybody(case.store, name, VIEWER, NOW, "I think so")
    with pytest.raises(BadInput, match="reason"):
        confirm_everybody(case.store, name, COUNSEL, NOW, None)

    for _ in range(2):
        confirm_everybody(case.store, name, COUNSEL, NOW, "every customer was scored")
    [row] = case.rows(tables.everybody_confirmation)
    assert (row["confirmed_by"], row["affected_count"], row["people_count"]) == ("col", 3, 3)
    assert case.kinds().count("incident.everybody_confirmed") == 1
    assert "col confirmed" in str(overview(case.store, name).everybody)
    releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO)


def test_all_customers_of_a_store_are_everybody_whatever_the_counts(case: Case) -> None:
    name = planned(case, 1000)
    scope = Scope(everyone=True, store_ids=(3,))
    case.execute(sa.update(tables.incident).values(scope=scope.canonical(), scope_sha256=scope.sha256()))
    assert prepare(case, name).everybody is not None
    confirm_everybody(case.store, name, DPO, NOW, "the whole store's table leaked")
    # the word holds for this scope alone
    wider = Scope(everyone=True, store_ids=(3, 4))
    case.execute(sa.update(tables.incident).values(scope=wider.canonical(), scope_sha256=wider.sha256()))
    assert prepare(case, name).everybody is not None


def test_nobody_by_full_coverage_is_a_finding_with_which_an_incident_is_closed(case: Case) -> None:
    name = planned(case, 5, people=0)
    seen = overview(case.store, name)
    assert seen.people == "nobody, says every partition (2 of 2 partitions), by full coverage"
    case.execute(
        sa.insert(tables.fact).values(incident_id=name, name="controller_aware_at", value="x", recorded_at=NOW)
    )
    step = overview(case.store, name).next
    assert step is not None
    assert (step.command, "finding" in step.why) == (f"tocsin incident close {name} --reason TEXT", True)
    assert workflow.close(case.store, name, DPO, NOW, reason="nobody").finding == "nobody"
    body = case.published("tocsin.case-events")[-1]["body"]
    assert (body["finding"], body["without_end"]) == ("nobody", 0)


def test_none_found_without_full_coverage_is_never_called_nobody(case: Case) -> None:
    name = case.receive().incident_id
    case.resolve(name, coverage=False)
    case.execute(
        sa.insert(tables.plan).values(
            incident_id=name, revision=1, state="complete", rules_sha256="a" * 64, residents={}, recipient_count=0,
            held_count=0,
        )
    )  # fmt: skip
    case.execute(sa.update(tables.incident).values(acknowledged_at=NOW, acknowledged_by="rae"))
    case.execute(
        sa.insert(tables.fact).values(incident_id=name, name="controller_aware_at", value="x", recorded_at=NOW)
    )
    seen = overview(case.store, name)
    assert seen.next is not None
    assert "nobody" not in f"{seen.people} {seen.next.why} {seen.next.command}"
    with pytest.raises(Refused, match="coverage is incomplete, so there may be somebody"):
        workflow.close(case.store, name, DPO, NOW, reason="none found")
    done = workflow.close(case.store, name, DPO, NOW, unnotified=True, reason="none found")
    assert done.finding == "none_found"


def test_a_late_person_ends_the_finding_that_it_is_nobody(case: Case) -> None:
    name = planned(case, 5, people=0)
    case.add_person(name, "customer/9", late=True)
    case.execute(sa.update(tables.plan).values(recipient_count=1))
    assert "nobody" not in overview(case.store, name).people
    assert "1 late" in overview(case.store, name).people
    with pytest.raises(Refused, match="1 person has no end state"):
        workflow.close(case.store, name, DPO, NOW, reason="nobody")


def test_an_approval_for_those_who_wait_covers_them_and_the_usual_number_more(case: Case) -> None:
    name = planned(case, None)
    for number in range(7):
        case.add_person(name, f"customer/{100 + number}", late=True)
    assert prepare(case, name).release.late_cap == 5
    assert prepare(case, name, for_those_waiting=True).release.late_cap == 12
    assert prepare(case, name, late_cap=7, for_those_waiting=True).release.late_cap == 7


def people_of(case: Case, name: str) -> None:
    """Somebody in time, a late one, a supplement, one who was told wrongly, one who was told elsewhere."""
    for root in ("customer/101", "customer/102"):
        case.add_person(name, root, late=root.endswith("1"))
    table = tables.recipient
    at = NOW + timedelta(hours=1)
    case.execute(sa.update(table).where(table.c.root == "customer/101").values(added_at=at))
    case.execute(sa.update(table).where(table.c.root == "customer/0").values(correction="not_concerned"))
    case.execute(
        sa.update(table)
        .where(table.c.root == "customer/1")
        .values(told_in="INC-2026-0009:customer/1", final_state="reached", final_at=NOW)
    )
    first = f"{name}:customer/102"
    [row] = [each for each in case.rows(table) if each["recipient_id"] == first]
    case.execute(
        sa.insert(table).values(
            **{**row, "recipient_id": f"{first}#2", "round": 2, "supplements": first, "late": True, "added_at": at}
        )
    )


def test_late_people_supplements_and_corrections_are_counted_and_shown(case: Case, tmp_path: Path) -> None:
    name = planned(case, 100)
    people_of(case, name)
    late = late_people(case.store, name)
    assert (late.late, late.late_waiting, late.supplements, late.supplements_waiting) == (1, 1, 1, 1)
    assert (late.not_concerned, late.told_too_much, late.told_in_other_incident) == (1, 0, 1)
    desk = Desk(case, tmp_path)
    shown = desk.ok("incident", "show", name, who="rae")
    assert "late:         1 people, by records that came after the answer, 1 of them wait for an approval" in shown
    assert "supplements:  1 for people who were told and of whom more was found: 0 ended, 1 wait for approval" in shown
    assert "told wrongly: 1 people whom the corrected scope is not about" in shown
    assert "told once:    1 people" in shown


def test_people_are_listed_one_by_one_to_whom_it_is_allowed_and_recorded(case: Case, tmp_path: Path) -> None:
    name = planned(case, 100)
    people_of(case, name)
    desk = Desk(case, tmp_path)

    def typed(*words: str, who: str) -> Result:
        env = {"TOCSIN_TOKEN": desk.tokens[who]}
        return CliRunner().invoke(COMMANDS["people"], [name, *words], obj=desk.parts, env=env)

    assert "late:" in typed(who="rae").output
    assert isinstance(typed("--list", who="rae").exception, Refused)
    assert "people.listed" not in case.kinds()
    listed = json.loads(typed("--list", "--json", who="dan").output)
    assert [(each["root"], each["round"]) for each in listed] == [
        ("customer/0", 1), ("customer/1", 1), ("customer/101", 1), ("customer/102", 1), ("customer/102", 2),
        ("customer/2", 1),
    ]  # fmt: skip
    for words, roots in {
        ("--late",): ["customer/101"],
        ("--supplements",): ["customer/102"],
        ("--told-wrongly",): ["customer/0"],
    }.items():
        found = json.loads(typed("--list", *words, "--json", who="dan").output)
        assert [each["root"] for each in found] == roots
    table = typed("--list", "--told-wrongly", who="dan").output
    assert "told wrongly: not concerned" in table
    bodies = [event["body"] for event in case.published("tocsin.case-events") if event["kind"] == "people.listed"]
    assert [(body["people"], body["listed_count"]) for body in bodies][:2] == [("all", 6), ("late", 1)]
    assert "ciphertext" not in json.dumps(listed)


class _Index:
    """An index that knows ten people, of whom a scope concerns `affected`."""

    def __init__(self, affected: int) -> None:
        self._affected = affected

    def known_names(self) -> Known:
        return Known({"fraud-scorer": frozenset({"7"})}, frozenset({"fraud_score"}))

    def preview(self, scope: Scope) -> Preview:
        return Preview(
            partition_count=2, silent_partitions=(), affected_count=self._affected, possible_count=0, departed_count=0,
            record_count=self._affected, people_count=10, by_jurisdiction={}, by_kind={}, by_sensitivity={},
            by_channel={}, coverage=(),
        )  # fmt: skip


@pytest.mark.parametrize(("affected", "warned"), [(10, True), (9, True), (8, False)])
def test_a_preview_warns_of_a_scope_about_everybody(case: Case, tmp_path: Path, affected: int, warned: bool) -> None:
    desk = Desk(case, tmp_path)
    desk.parts.provide(ScopeIndex, lambda: _Index(affected))
    scope = '{"model_ids": ["fraud-scorer"]}'
    said = desk.type("incident", "preview", "-", who="rae", given=scope).output
    assert ("warning: this scope is about everybody, or nearly" in said) is warned
    assert (f"{affected} accounts and orders of 10 known" in said) is warned
    facts = json.loads(desk.type("incident", "preview", "-", "--json", who="rae", given=scope).output)
    assert (facts["matches_everybody"], facts["people_count"]) == (warned, 10)
