"""What people do to an incident: allowed by the table, recorded with its reason, told to the index."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.case import duties, recording, releasing, workflow
from consumers.case.events import salted_sha256
from consumers.case.overview import overview, people_in_words
from consumers.case.permissions import PERMISSIONS, Act, Role, role_for
from consumers.case.workflow import TRANSITIONS, Move, State
from consumers.domain.approvals import Mode
from tests.unit.case.cases import APPROVER, COUNSEL, DPO, NOW, RESPONDER, VIEWER, Case, staff
from tests.unit.shipped_law import shipped_law


def test_nothing_leads_out_of_closed_and_every_state_but_it_can_be_closed() -> None:
    assert not [pair for pair in TRANSITIONS if pair[0] is State.CLOSED]
    for state in set(State) - {State.CLOSED}:
        assert TRANSITIONS[state, Move.CLOSE] is State.CLOSED
    for state, move in product(State, Move):
        assert TRANSITIONS.get((state, move)) in (None, *State)


def test_permissions_deny_by_default() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert role_for(Act.APPROVE, [Role.VIEWER, Role.ADMIN, Role.SRE, Role.AUDITOR, Role.RESPONDER]) is None
    assert role_for(Act.VIEW_INCIDENT, []) is None
    for act in Act:
        assert any(act in acts for acts in PERMISSIONS.values()), act


def test_who_may_not_is_told_who_may_and_nothing_is_written(case: Case) -> None:
    name = case.receive().incident_id
    with pytest.raises(Refused, match=r"vic \(viewer\) may not incident.close; it takes one of: dpo"):
        workflow.close(case.store, name, VIEWER, NOW, unnotified=True, reason="x")
    assert case.kinds() == ["incident.opened"]


def test_acknowledging_verifies_and_silences_pages_once(case: Case) -> None:
    name = case.receive().incident_id
    workflow.acknowledge(case.store, name, RESPONDER, NOW)
    workflow.acknowledge(case.store, name, DPO, NOW + timedelta(hours=1))
    [row] = case.rows(tables.incident)
    assert (row["state"], row["acknowledged_by"], row["acknowledged_at"]) == ("verifying", "rae", NOW)
    assert all(page["acknowledged_by"] == "rae" for page in case.rows(tables.page))
    assert case.kinds().count("incident.acknowledged") == 1


def test_awareness_is_recorded_by_name_with_reason_and_keeps_history(case: Case) -> None:
    name = case.receive().incident_id
    with pytest.raises(BadInput, match="needs a reason"):
        recording.record_awareness(case.store, name, ["controller_aware_at"], NOW, DPO, NOW, " ")
    with pytest.raises(BadInput, match="did you mean 'controller_aware_at'"):
        recording.record_awareness(case.store, name, ["controler_aware_at"], NOW, DPO, NOW, "seen")
    with pytest.raises(BadInput, match="lies in the future"):
        recording.record_awareness(case.store, name, ["aware_at"], NOW + timedelta(hours=1), DPO, NOW, "seen")
    for hours in (2, 1):
        at = NOW - timedelta(hours=hours)
        recording.record_awareness(case.store, name, ["controller_aware_at", "aware_at"], at, DPO, NOW, "match test")
    known = case.store.look(lambda work: workflow.known_facts(work, workflow.found(work, name)))
    assert known["controller_aware_at"] == "2026-03-02T02:00:00Z"
    assert len(case.rows(tables.fact)) == 4


def test_reasons_stay_in_the_case_store_and_open_the_salted_hash(case: Case) -> None:
    name = case.receive().incident_id
    recording.record_awareness(case.store, name, ["aware_at"], NOW, DPO, NOW, "Erika Beispiel called")
    [act] = case.rows(tables.act)
    event = case.published("tocsin.case-events")[-1]
    assert event["case_event_id"] == act["case_event_id"]
    assert event["body"]["reason_sha256"] == salted_sha256(act["reason_salt"], "Erika Beispiel called")
    assert event["actor"] == DPO.commitment
    assert not any("Erika" in row["value"] or "dan" in row["value"] for row in case.rows(tables.outbox))


def test_facts_are_checked_as_the_law_reads_them(case: Case) -> None:
    name = case.receive().incident_id
    with pytest.raises(BadInput, match="encrypted"):
        recording.record_facts(case.store, name, {"encryptd": True}, DPO, NOW, "seen")
    with pytest.raises(BadInput):
        recording.record_facts(case.store, name, {"encrypted": "perhaps"}, DPO, NOW, "seen")
    with pytest.raises(BadInput, match="incident aware"):
        recording.record_facts(case.store, name, {"aware_at": "2026-01-01T00:00:00Z"}, DPO, NOW, "seen")
    recording.record_facts(case.store, name, {"encrypted": False}, DPO, NOW, "seen")
    assert case.kinds()[-1] == "fact.recorded"


def test_gates_are_set_and_lifted(case: Case) -> None:
    name = case.receive().incident_id
    with pytest.raises(BadInput, match="not a jurisdiction"):
        workflow.set_gate(case.store, name, "law_enforcement_hold", ["Germany"], DPO, NOW, "letter")
    with pytest.raises(BadInput, match="not a jurisdiction; residence 'XX' does not exist"):
        # as a fact it would be refused by whoever computes the duties, from then on
        workflow.set_gate(case.store, name, "law_enforcement_hold", ["XX"], DPO, NOW, "letter")
    gate_id = workflow.set_gate(case.store, name, "law_enforcement_hold", ["DE", "US-CA"], DPO, NOW, "letter")
    with pytest.raises(BadInput, match="no gate"):
        workflow.lift_gate(case.store, name, "nothing", DPO, NOW, "over")
    workflow.lift_gate(case.store, name, gate_id, DPO, NOW, "over")
    workflow.lift_gate(case.store, name, gate_id, DPO, NOW, "over")
    assert case.rows(tables.gate)[0]["lifted_by"] == "dan"
    assert case.kinds().count("gate.lifted") == 1


def test_closing_removes_contacts_wherever_they_are_and_tells_the_index(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    with pytest.raises(Refused, match="3 people have no end state"):
        workflow.close(case.store, name, DPO, NOW, reason="done")
    workflow.close(case.store, name, DPO, NOW, unnotified=True, reason="told by letter")
    assert all(row["contact"] is None for row in case.rows(tables.recipient))
    assert not any("ciphertext" in row["event"] for row in case.rows(tables.affected))
    assert case.published("tocsin.incidents")[-1]["status"] == "closed"
    event = case.published("tocsin.case-events")[-1]
    assert (event["body"]["contacts_removed"], event["body"]["without_end"]) == (3, 3)
    with pytest.raises(Refused, match="is closed"):
        workflow.rescope(case.store, name, DPO, NOW, settings={"model_versions": ["6"]}, reason="x")


def test_a_running_release_keeps_an_incident_open(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    prepared = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=1)
    releasing.approve(case.store, name, prepared.release.policy_sha256, DPO, NOW, mode=Mode.FOUR_EYES)
    with pytest.raises(Refused, match="is releasing"):
        workflow.close(case.store, name, DPO, NOW, unnotified=True, reason="x")
    case.execute(sa.update(tables.recipient).values(final_state="reached", final_at=NOW))
    workflow.close(case.store, name, DPO, NOW, reason="all reached")


def test_a_refusal_to_close_counts_those_without_an_end_and_not_whoever_is_affected(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    reached = sa.update(tables.recipient).values(final_state="reached", final_at=NOW)
    case.execute(reached.where(tables.recipient.c.root != "customer/1"))
    with pytest.raises(Refused, match=": 1 person has no end state"):
        workflow.close(case.store, name, DPO, NOW, reason="done")


def test_what_an_authority_is_owed_is_the_next_step_until_it_is_recorded(case: Case) -> None:
    name = case.receive().incident_id
    workflow.acknowledge(case.store, name, RESPONDER, NOW)
    case.plan(name)
    case.count(name, {"DE": 3})
    law = shipped_law()
    recording.record_facts(case.store, name, {"encrypted": False, "gdpr_risk": "high"}, DPO, NOW, "seen", law)
    recording.record_awareness(case.store, name, ["controller_aware_at"], NOW, DPO, NOW, "match", law)
    prepared = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=1)
    releasing.approve(case.store, name, prepared.release.policy_sha256, DPO, NOW, mode=Mode.FOUR_EYES)
    case.execute(sa.update(tables.release).values(state="finished"))
    case.execute(sa.update(tables.recipient).values(final_state="reached", final_at=NOW))
    following = overview(case.store, name).next
    assert following is not None
    assert following.command == f"tocsin incident duty {name} eu-gdpr-33 --reference NUMBER --reason TEXT"
    assert "eu-gdpr-33 (to supervisory authority by 2026-03-05T03:00:00Z) was met" in following.why
    rows = [row for row in case.rows(tables.obligation) if row["regime_id"] == "eu-gdpr-33"]
    case.execute(sa.insert(tables.obligation).values(**{**rows[0], "controller": "zoo"}))
    following = overview(case.store, name).next
    assert following is not None
    whose = f"eu-gdpr-33 --controller {rows[0]['controller']} --reference"
    assert whose in following.command, "of several controllers' duty the command says whose"
    case.execute(sa.delete(tables.obligation).where(tables.obligation.c.controller == "zoo"))
    duties.record_met(
        case.store,
        name,
        "eu-gdpr-33",
        DPO,
        NOW,
        law,
        met_at=NOW,
        controller=None,
        reference="A-1",
        file=None,
        reason="sent",
    )
    following = overview(case.store, name).next
    assert following is not None
    assert following.command == f"tocsin incident close {name} --reason TEXT"
    assert workflow.close(case.store, name, DPO, NOW, reason="all reached").unmet == []


def test_who_closes_over_a_duty_is_told_and_the_log_counts_it(case: Case) -> None:
    name = case.receive().incident_id
    case.count(name, {"DE": 3})
    law = shipped_law()
    recording.record_facts(case.store, name, {"encrypted": False, "gdpr_risk": "high"}, DPO, NOW, "seen", law)
    recording.record_awareness(case.store, name, ["controller_aware_at"], NOW, DPO, NOW, "match", law)
    done = workflow.close(case.store, name, DPO, NOW, unnotified=True, reason="the processor told them")
    assert done.unmet == ["eu-gdpr-33"]
    assert case.published("tocsin.case-events")[-1]["body"]["unmet_duties"] == 1


def released_and_finished(case: Case) -> str:
    """An incident whose one release has finished; returns its id."""
    name = case.receive().incident_id
    workflow.acknowledge(case.store, name, RESPONDER, NOW)
    recording.record_awareness(case.store, name, ["controller_aware_at"], NOW, DPO, NOW, "match")
    case.plan(name)
    prepared = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=1)
    releasing.approve(case.store, name, prepared.release.policy_sha256, DPO, NOW, mode=Mode.FOUR_EYES)
    case.execute(sa.update(tables.release).values(state="finished"))
    return name


def test_who_was_told_wrongly_is_put_right_before_the_end_and_named_to_whoever_closes_all_the_same(case: Case) -> None:
    name = released_and_finished(case)
    case.execute(sa.update(tables.recipient).values(final_state="reached", final_at=NOW, correction="told_too_much"))
    following = overview(case.store, name).next
    assert following is not None
    assert following.command == f"tocsin incident correct {name} --reason TEXT"
    told = len(case.rows(tables.recipient))
    assert workflow.close(case.store, name, DPO, NOW, reason="all reached").told_wrongly == told > 0


def test_a_cancelled_release_after_a_finished_one_leads_to_another_and_not_to_the_end(case: Case) -> None:
    name = released_and_finished(case)
    following = overview(case.store, name).next
    assert following is not None
    assert following.command == f"tocsin incident prepare {name}"


def test_a_release_that_waits_for_approval_is_not_next_once_everybody_has_an_end(case: Case) -> None:
    name = case.receive().incident_id
    workflow.acknowledge(case.store, name, RESPONDER, NOW)
    recording.record_awareness(case.store, name, ["controller_aware_at"], NOW, DPO, NOW, "match")
    case.plan(name)
    releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=1)
    case.execute(sa.update(tables.recipient).values(final_state="reached", final_at=NOW))
    following = overview(case.store, name).next
    assert following is not None
    assert following.command == f"tocsin incident close {name} --reason TEXT"


def test_a_gate_recalls_what_dispatch_has_in_hand(case: Case) -> None:
    name = case.receive().incident_id
    workflow.set_gate(case.store, name, "law_enforcement_hold", ["DE"], DPO, NOW, "asked by the police")
    assert case.rows(tables.incident)[0]["epoch"] == 2


def test_people_told_under_an_earlier_scope_are_in_the_next_approval(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    case.execute(sa.insert(tables.plan).values(
        incident_id=name, revision=2, state="complete", rules_sha256="a" * 64, residents={}, recipient_count=1,
        held_count=0))  # fmt: skip
    case.execute(sa.update(tables.incident).values(revision=2))
    with pytest.raises(Refused, match="no segment has an approved text"):
        releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=1)
    case.execute(sa.update(tables.affected).where(tables.affected.c.root == "customer/1").values(revision=2))
    prepared = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=1)
    assert list(prepared.release.policy["segments"]) == ["s1"]


def test_another_scope_voids_what_runs_and_raises_the_epoch(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    prepared = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=1)
    releasing.approve(case.store, name, prepared.release.policy_sha256, DPO, NOW, mode=Mode.FOUR_EYES)
    done = workflow.rescope(case.store, name, RESPONDER, NOW, settings={"model_versions": ["6"]}, reason="wrong one")
    assert done.voided == [prepared.release.release_id]
    assert done.incident.epoch == 2
    with pytest.raises(BadInput, match="restricts nothing"):
        workflow.rescope(
            case.store, name, RESPONDER, NOW, reason="x",
            settings={"model_ids": [""], "model_versions": [""], "exposed_from": [""]},
        )  # fmt: skip


def test_nobody_is_never_said_while_coverage_is_incomplete(case: Case) -> None:
    name = case.receive().incident_id

    def people() -> str:
        return overview(case.store, name).people

    assert "not known yet" in people()
    case.resolve(name, partitions=1)
    assert people().startswith("0 people from 1 of 2 partitions")
    case.execute(sa.delete(tables.resolution))
    case.resolve(name, coverage=False)
    assert "coverage is incomplete" in people()
    case.execute(sa.delete(tables.resolution))
    case.resolve(name)
    assert people() == "nobody, says every partition (2 of 2 partitions), by full coverage"
    unresolved = case.receive({}, fingerprint="other").incident_id
    seen = overview(case.store, unresolved)
    assert people_in_words(seen.incident, seen.partitions) == "not known: the scope is not resolved yet"


def test_the_next_step_leads_from_the_alert_to_the_end(case: Case) -> None:
    name = case.receive().incident_id
    steps: list[str] = []

    def step() -> str:
        following = overview(case.store, name).next
        steps.append(following.command if following else "")
        return steps[-1]

    assert step() == f"tocsin incident ack {name}"
    workflow.acknowledge(case.store, name, RESPONDER, NOW)
    assert step().startswith(f"tocsin incident aware {name}")
    recording.record_awareness(case.store, name, ["controller_aware_at"], NOW, DPO, NOW, "match")
    assert step() == f"tocsin incident show {name}"
    case.plan(name)
    assert step() == f"tocsin incident prepare {name}"
    prepared = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=1)
    assert step() == f"tocsin incident sheet {name} -o sheet.html"
    for who in (DPO, APPROVER):
        releasing.approve(case.store, name, prepared.release.policy_sha256, who, NOW, mode=Mode.TWO_APPROVERS)
    assert step() == f"tocsin incident watch {name}"
    case.execute(sa.update(tables.release).values(state="finished"))
    case.execute(sa.update(tables.recipient).values(final_state="reached"))
    assert step() == f"tocsin incident close {name} --reason TEXT"
    workflow.close(case.store, name, DPO, NOW, reason="done")
    assert step() == ""


def test_an_unknown_incident_is_named_with_the_nearest(case: Case) -> None:
    case.receive()
    with pytest.raises(BadInput, match="did you mean 'INC-2026-0001'"):
        overview(case.store, "INC-2026-001")


def test_instants_are_kept_in_utc(case: Case) -> None:
    name = case.receive().incident_id
    at = datetime(2026, 3, 2, 3, 30, tzinfo=UTC).astimezone()
    recording.record_awareness(case.store, name, ["aware_at"], at, COUNSEL, NOW + timedelta(hours=2), "seen")
    assert case.rows(tables.fact)[0]["value"] == "2026-03-02T03:30:00Z"


def test_a_person_with_several_roles_acts_under_the_one_that_permits() -> None:
    assert staff("two", Role.VIEWER, Role.DPO).acting_for(Act.CLOSE) is Role.DPO
