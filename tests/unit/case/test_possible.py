"""Who is only possibly affected is told, unless a named person leaves them out; what is left out is part of the approval."""

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.case import possible, releasing
from consumers.case.overview import overview
from consumers.domain.approvals import Mode
from tests.unit.case.cases import APPROVER, COUNSEL, DPO, NOW, RESPONDER, Case

WHY = "the model log of March is loaded whole"


def planned(case: Case) -> str:
    """Three people, the last one only possibly affected."""
    name = case.receive().incident_id
    case.plan(name)
    for table in (tables.affected, tables.recipient):
        case.execute(sa.update(table).where(table.c.root == "customer/2").values(standing="possible"))
    case.execute(sa.update(tables.resolution).where(tables.resolution.c.partition == 0).values(possible_count=1))
    return name


def left_out(case: Case) -> set[str]:
    return {row["root"] for row in case.rows(tables.affected) if row["exclusion_id"] is not None}


def test_leaving_out_needs_a_person_who_may_and_a_reason(case: Case) -> None:
    name = planned(case)
    with pytest.raises(Refused, match="rae"):
        possible.exclude(case.store, name, RESPONDER, NOW, WHY)
    with pytest.raises(BadInput, match="reason"):
        possible.exclude(case.store, name, DPO, NOW, " ")
    assert left_out(case) == set()
    assert "incident.possible_excluded" not in case.kinds()


def test_who_was_left_out_is_on_record_and_whoever_comes_later_is_in(case: Case) -> None:
    name = planned(case)
    done = possible.exclude(case.store, name, DPO, NOW, WHY)
    assert (done.people_count, left_out(case)) == (1, {"customer/2"})
    with pytest.raises(Refused, match="nobody is only possibly affected"):
        possible.exclude(case.store, name, DPO, NOW, WHY)
    case.add_person(name, "customer/9", late=True)
    case.execute(sa.update(tables.affected).where(tables.affected.c.root == "customer/9").values(standing="possible"))
    seen = possible.possible(case.store, name)
    assert (seen.partitions.possible_count, seen.partitions.excluded_count) == (1, 1)
    assert "1 of them left out by a named person" in overview(case.store, name).people
    (event,) = [each for each in case.published("tocsin.case-events") if each["kind"] == "incident.possible_excluded"]
    assert event["body"]["people_count"] == 1
    assert event["actor"] == DPO.commitment
    assert WHY not in str(event)
    assert possible.include(case.store, name, COUNSEL, NOW, "the log had a gap") == 1
    assert left_out(case) == set()
    assert [each.withdrawn_by for each in possible.possible(case.store, name).exclusions] == ["col"]
    with pytest.raises(Refused, match="nobody was left out"):
        possible.include(case.store, name, COUNSEL, NOW, "again")


def test_an_approval_names_whom_it_leaves_out(case: Case) -> None:
    name = planned(case)
    first = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=5).release
    assert first.policy["possible_excluded"] == []
    done = possible.exclude(case.store, name, COUNSEL, NOW, WHY)
    with pytest.raises(Refused, match="possible_excluded, possible_excluded_count changed"):
        releasing.approve(case.store, name, first.policy_sha256, APPROVER, NOW, mode=Mode.FOUR_EYES)
    again = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=5).release
    assert (again.policy["possible_excluded"], again.policy["possible_excluded_count"]) == ([done.exclusion_id], 1)
    assert releasing.approve(case.store, name, again.policy_sha256, APPROVER, NOW, mode=Mode.FOUR_EYES).releasing
    with pytest.raises(Refused, match="was approved with them"):
        possible.exclude(case.store, name, DPO, NOW, WHY)


def test_who_is_possible_is_decided_once_all_have_answered(case: Case) -> None:
    name = case.receive().incident_id
    case.resolve(name, partitions=1, of=6, affected=4)
    with pytest.raises(Refused, match="1 of 6 partitions"):
        possible.exclude(case.store, name, DPO, NOW, WHY)
    case.execute(sa.delete(tables.resolution))
    case.resolve(name, affected=4)
    with pytest.raises(Refused, match="0 of 4 affected"):
        possible.exclude(case.store, name, DPO, NOW, WHY)
