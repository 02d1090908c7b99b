"""Duties kept in step with what they rest on, the gates that follow from them, and what was done about them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.case import duties, recording, workflow
from consumers.case.duties import FROM_DUTY
from consumers.case.verification import AwarenessPolicy
from consumers.case.watch import IncidentWatch
from consumers.domain.duties import Law
from tests.unit.case.cases import DPO, NOW, RESPONDER, VIEWER, Case
from tests.unit.shipped_law import shipped_law

HOUR = timedelta(hours=1)


def watch(case: Case, law: Law | None = None) -> int:
    return IncidentWatch(case.store, lambda: law or shipped_law(), AwarenessPolicy()).look(case.clock.now()).moved_count


def rows(case: Case) -> dict[str, Mapping[str, Any]]:
    return {row["regime_id"]: row for row in case.rows(tables.obligation)}


def record(case: Case, name: str, **facts: Any) -> list[str]:
    moved = recording.record_facts(case.store, name, facts, DPO, case.clock.now(), "known", shipped_law())
    return [each.regime_id for each in moved]


def pages(case: Case, kind: str) -> list[dict[str, Any]]:
    return [page for page in case.rows(tables.page) if page["kind"] == kind]


# --- clocks before anybody is counted -----------------------------------------------------------------------------------


def test_clocks_run_from_the_detection_before_anybody_is_counted(case: Case) -> None:
    name = case.receive({"model_ids": ["nobody-knows"]}).incident_id  # not even its scope is resolved
    assert watch(case) == 0
    found = rows(case)
    assert found["eu-gdpr-33"]["status"] == "pending"
    assert found["eu-gdpr-33"]["conservative_deadline_at"] == NOW + 72 * HOUR
    assert "residents" in found["us-ca-ind"]["detail"]["missing_facts"]
    assert len(found) > 200
    assert case.kinds().count("obligations.computed") == 1
    assert watch(case) == 0
    assert case.kinds().count("obligations.computed") == 1, "nothing has changed"
    workflow.rescope(case.store, name, DPO, NOW, settings={"model_ids": ["fraud-scorer"]}, reason="the right name")
    watch(case)
    assert {row["revision"] for row in case.rows(tables.obligation)} == {1, 2}


def test_the_first_count_tells_how_large_it_is_and_how_long_there_is(case: Case) -> None:
    name = case.receive().incident_id
    watch(case)
    case.count(name, {"DE": 20, "US-CA": 3, "unknown": 2})
    case.clock.at = NOW + HOUR
    watch(case)
    [page] = pages(case, "incident.counted")
    assert page["title"] == (
        f"{name} suspected: about 25 people in 2 jurisdictions; eu-gdpr-33 (conservative) 71 h left; verification not begun"
    )
    assert page["body"]["next"] == f"tocsin incident ack {name}"
    assert pages(case, "duties.moved") == []
    assert case.rows(tables.duty_movement) == []


# --- what moved, and why -------------------------------------------------------------------------------------------------


def test_a_fact_moves_duties_and_whoever_records_it_reads_what_and_why(case: Case) -> None:
    name = case.receive().incident_id
    case.count(name, {"DE": 20})
    watch(case)
    at = NOW + HOUR
    moved = recording.record_awareness(case.store, name, ["controller_aware_at"], at, DPO, at, "match", shipped_law())
    assert record(case, name, gdpr_risk="risk", encrypted=False) != []
    by_id = {each.regime_id: each for each in moved}
    assert "eu-gdpr-33" not in by_id or by_id["eu-gdpr-33"].after is not None
    assert rows(case)["eu-gdpr-33"]["deadline_at"] == at + 72 * HOUR
    assert rows(case)["eu-gdpr-33"]["conservative_deadline_at"] == NOW + 72 * HOUR
    history = case.rows(tables.duty_movement)
    assert {row["regime_id"] for row in history} >= {"eu-gdpr-33", "eu-gdpr-34"}
    assert all(row["why"].startswith("a fact changed") for row in history)
    assert pages(case, "duties.moved") == [], "who made the change reads it on the screen"
    assert watch(case) == 0


@pytest.mark.parametrize("change", ["fact", "rules", "count", "controllers"])
def test_a_change_that_nobody_followed_up_is_caught_told_and_named(case: Case, change: str) -> None:
    """A crash between a fact and its consequences; rules or controllers that were edited; a count by another process."""
    name = case.receive().incident_id
    elements = ("full_name", "ssn")
    case.count(name, {"US-TX": 20}, elements=elements)
    law = shipped_law()
    watch(case)
    if change == "fact":
        recording.record_facts(case.store, name, {"encrypted": False, "sensitivity": "real"}, DPO, NOW, "known")
        recording.record_awareness(case.store, name, ["determined_at"], NOW + HOUR, DPO, NOW + HOUR, "known")
    elif change == "rules":
        strict = [
            replace(duty, versions=tuple(replace(each, period="P5D") for each in duty.versions))
            if duty.regime_id == "us-tx-ind"
            else duty
            for duty in law.rules.duties
        ]
        law = replace(law, rules=replace(law.rules, duties=tuple(strict), rules_version="f" * 64))
    elif change == "count":
        case.count(name, {"US-TX": 20, "US-CA": 600}, elements=elements)
    else:
        law = replace(law, controllers=Elsewhere(law.controllers))
    assert watch(case, law) > 0
    [page] = pages(case, "duties.moved")
    words = {"fact": "a fact changed", "rules": "the rules changed", "count": "the count of people changed",
             "controllers": "controllers.yaml changed"}[change]  # fmt: skip
    assert words in page["body"]["moved"][0]
    assert watch(case, law) == 0
    assert len(pages(case, "duties.moved")) == 1


class Elsewhere:
    """Controllers whose legal entity is established in France."""

    def __init__(self, shipped: Any) -> None:
        self.by_key = {key: self._moved(entry) for key, entry in shipped.by_key.items()}

    @staticmethod
    def _moved(entry: Any) -> Any:
        return entry.model_copy(update={"establishments": ("SG",), "targets": ("SG",)})

    def of_website(self, website_id: int) -> tuple[str, Any]:
        return next(iter(self.by_key.items()))


def test_a_fact_that_cannot_be_used_pages_and_leaves_the_duties_and_the_other_incidents(case: Case) -> None:
    bad, good = case.receive().incident_id, case.receive(fingerprint="leak-2").incident_id
    watch(case)
    before = rows(case)
    case.execute(
        sa.insert(tables.fact).values(incident_id=bad, name="residents", value={"XX": 1}, recorded_at=NOW)
    )  # fmt: skip
    recording.record_facts(case.store, good, {"encrypted": False}, DPO, NOW, "known")
    watch(case)
    [page] = pages(case, "duties.unusable")
    assert (page["incident_id"], page["severity"]) == (bad, "critical")
    assert "residence 'XX' does not exist" in page["body"]["reason"]
    assert rows(case).keys() == before.keys()
    grounds = {row["incident_id"]: row["ground"] for row in case.rows(tables.duty_ground)}
    assert grounds[bad]["fact"] != grounds[good]["fact"]


def test_what_if_shows_what_would_move_and_writes_nothing(case: Case) -> None:
    name = case.receive().incident_id
    case.count(name, {"DE": 20})
    watch(case)
    before = {table.name: case.rows(table) for table in tables.metadata.sorted_tables}
    moved, after = duties.what_if(case.store, name, {"encrypted": True, "key_compromised": False}, shipped_law())
    assert "eu-gdpr-34" in {each.regime_id for each in moved}
    assert {row.regime_id: row.status for row in after}["eu-gdpr-34"] == "not_due"
    assert {table.name: case.rows(table) for table in tables.metadata.sorted_tables} == before
    with pytest.raises(BadInput, match="encryptd"):
        duties.what_if(case.store, name, {"encryptd": True}, shipped_law())


# --- duties that were met ------------------------------------------------------------------------------------------------


def met(case: Case, name: str, regime_id: str, **fields: Any) -> Any:
    given: dict[str, Any] = {
        "met_at": case.clock.now(), "controller": None, "reference": "LfD-77", "file": ("form.pdf", "a" * 64),
        "reason": "sent", **fields,
    }  # fmt: skip
    return duties.record_met(case.store, name, regime_id, DPO, case.clock.now(), shipped_law(), **given)


def test_a_duty_met_is_recorded_with_who_when_number_and_file(case: Case) -> None:
    name = case.receive().incident_id
    case.count(name, {"DE": 20})
    watch(case)
    with pytest.raises(BadInput, match="did you mean 'eu-gdpr-33'"):
        met(case, name, "eu-gdpr33")
    with pytest.raises(BadInput, match="lies in the future"):
        met(case, name, "eu-gdpr-33", met_at=NOW + HOUR)
    with pytest.raises(BadInput, match="lies before the detection"):
        met(case, name, "eu-gdpr-33", met_at=NOW - HOUR)
    with pytest.raises(Refused, match=r"may not incident\.record_duty"):
        duties.record_met(case.store, name, "eu-gdpr-33", VIEWER, NOW, shipped_law(), met_at=NOW, controller=None,
                          reference=None, file=None, reason="x")  # fmt: skip
    met(case, name, "eu-gdpr-33")
    [row] = case.rows(tables.duty_met)
    assert (row["recorded_by"], row["reference"], row["file_name"], row["met_at"]) == ("dan", "LfD-77", "form.pdf", NOW)
    event = case.published("tocsin.case-events")[-1]
    assert event["kind"] == "duty.met"
    assert "LfD-77" not in str(event)
    assert "form.pdf" not in str(event)
    [act] = [act for act in case.rows(tables.act) if act["kind"] == "duty.met"]
    from consumers.case.events import salted_sha256

    assert event["body"]["reference_sha256"] == salted_sha256(act["reason_salt"], "LfD-77")
    with pytest.raises(Refused, match="was met"):
        met(case, name, "eu-gdpr-33")
    duties.withdraw_met(case.store, name, "eu-gdpr-33", DPO, NOW, shipped_law(), controller=None, reason="wrong number")
    met(case, name, "eu-gdpr-33", reference="LfD-78")
    assert [row["withdrawn_by"] for row in case.rows(tables.duty_met)].count("dan") == 1
    [standing] = [
        each for each in case.store.look(lambda work: work.obligations(name)) if each.regime_id == "eu-gdpr-33"
    ]
    assert standing.met is not None
    assert standing.met.reference == "LfD-78"


def test_a_first_report_starts_the_clock_of_the_next_one(case: Case) -> None:
    name = case.receive().incident_id
    case.count(name, {"DE": 20})
    recording.record_facts(case.store, name, {"entity": ["nis2_important"]}, DPO, NOW, "it is", shipped_law())
    watch(case)
    late = [
        row
        for row in rows(case).values()
        if row["detail"]["clock_starts"] in ("initial_submitted_at", "notification_submitted_at")
    ]
    assert late, "a rule whose clock starts with a report"
    sources = {
        duty.clock_of
        for duty in shipped_law().rules.duties
        for version in duty.versions
        if version.clock_starts == "notification_submitted_at" and duty.clock_of in shipped_law().rules.by_id
    }
    source = next(each for each in sorted(filter(None, sources)) if each in rows(case))
    met(case, name, source)
    facts = case.store.look(lambda work: workflow.known_facts(work, workflow.found(work, name)))
    assert facts["notification_submitted_at"] == {source: NOW.isoformat().replace("+00:00", "Z")}


# --- gates that follow from duties -----------------------------------------------------------------------------------------


def open_gates(case: Case) -> set[tuple[str, str, tuple[str, ...]]]:
    return {
        (row["kind"], row["regime_id"], tuple(row["covers"]))
        for row in case.rows(tables.gate)
        if row["lifted_at"] is None
    }


def new_jersey(case: Case) -> str:
    name = case.receive().incident_id
    elements = ("full_name", "ssn", "email")
    case.count(name, {"US-NJ": 5, "DE": 7}, elements=elements)
    watch(case)
    record(
        case, name, encrypted=False, harm_likely=True, sensitivity="real", entity=["online_retailer"], glba_exempt=False
    )
    return name


def test_an_authority_that_must_be_told_first_holds_those_who_live_there(case: Case) -> None:
    name = new_jersey(case)
    assert rows(case)["us-nj-ag"]["status"] == "due_before_individual_notice"
    assert open_gates(case) == {("authority_first", "us-nj-ag", ("US-NJ",))}
    [gate] = case.rows(tables.gate)
    assert (gate["set_by"], gate["controller"]) == (FROM_DUTY, "shop")
    epoch = case.rows(tables.incident)[0]["epoch"]
    assert epoch > 1, "what dispatch has in hand is recalled"
    met(case, name, "us-nj-ag")
    assert open_gates(case) == set()
    duties.withdraw_met(case.store, name, "us-nj-ag", DPO, NOW, shipped_law(), controller=None, reason="was not sent")
    assert open_gates(case) == {("authority_first", "us-nj-ag", ("US-NJ",))}
    assert [event["body"]["gate"] for event in case.published("tocsin.case-events") if event["kind"] == "gate.set"] == [
        "authority_first"
    ] * 2
    watch(case)
    assert len(open_gates(case)) == 1


def test_a_gate_that_a_person_lifted_stays_lifted(case: Case) -> None:
    name = new_jersey(case)
    [gate] = case.rows(tables.gate)
    workflow.lift_gate(case.store, name, gate["gate_id"], DPO, NOW, "the State Police agreed on the phone")
    record(case, name, external_attack=True)
    watch(case)
    assert open_gates(case) == set()


def test_a_hold_recorded_as_a_fact_gates_and_a_gate_is_recorded_as_a_fact(case: Case) -> None:
    name = new_jersey(case)
    gate_id = workflow.set_gate(case.store, name, "law_enforcement_hold", ["US-NJ"], DPO, NOW, "letter")
    watch(case)
    facts = case.store.look(lambda work: workflow.known_facts(work, workflow.found(work, name)))
    assert facts["le_hold_from"] == {"US-NJ": "2026-03-02T03:00:00Z"}
    assert ("law_enforcement_hold", "us-nj-ind", ("US-NJ",)) in open_gates(case)
    assert rows(case)["us-nj-ind"]["status"] == "pending"
    case.clock.at = NOW + HOUR
    workflow.lift_gate(case.store, name, gate_id, DPO, case.clock.now(), "released by letter")
    watch(case)
    assert {kind for kind, _, _ in open_gates(case)} == {"authority_first"}
    facts = case.store.look(lambda work: workflow.known_facts(work, workflow.found(work, name)))
    assert facts["le_hold_released_at"] == {"US-NJ": "2026-03-02T04:00:00Z"}
    # held once more: the new hold has no release
    case.clock.at = NOW + 2 * HOUR
    workflow.set_gate(case.store, name, "law_enforcement_hold", ["US-NJ"], DPO, case.clock.now(), "another letter")
    watch(case)
    assert ("law_enforcement_hold", "us-nj-ind", ("US-NJ",)) in open_gates(case)


def test_an_establishment_brings_everybody_under_its_law_wherever_they_live(case: Case) -> None:
    """GDPR Art. 3(1): the shop is established in Germany; nobody affected lives in Europe, or nobody knows where."""
    for homes in ({"US-TX": 5}, {"unknown": 5}):
        name = case.receive(fingerprint=str(homes)).incident_id
        case.count(name, homes)
        watch(case)
        own = {row["regime_id"]: row["status"] for row in case.rows(tables.obligation) if row["incident_id"] == name}
        assert own["eu-gdpr-33"] == own["eu-gdpr-34"] == "pending", homes


# --- what is recorded ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"encryptd": True}, "did you mean 'encrypted'"),
        ({"residents": {"DE": -1}}, "residents.DE: a count is 0 or more"),
        ({"residents": {"XX": 1}}, "'XX' does not exist"),
        ({"paid_at": "2026-03-02T03:00:00"}, "has no offset"),
        ({"aware_at": "2026-03-02T03:00:00Z"}, "tocsin incident aware INC-2026-0001 --as aware_at --at"),
        ({"detected_at": "2026-03-02T03:00:00Z"}, "does not change"),
        ({"le_hold_released_at": "2026-03-02T03:00:00Z"}, "without le_hold_from"),
        (
            {"le_hold_from": "2026-03-02T03:00:00Z", "le_hold_released_at": "2026-03-01T03:00:00Z"},
            "lies before le_hold_from",
        ),
    ],
)
def test_a_fact_without_sense_is_refused_by_key_and_nothing_is_written(
    case: Case, facts: dict[str, Any], says: str
) -> None:
    name = case.receive().incident_id
    with pytest.raises(BadInput, match=says):
        recording.record_facts(case.store, name, facts, DPO, NOW, "known", shipped_law())
    assert case.rows(tables.fact) == []
    with pytest.raises(Refused, match="may not"):
        recording.record_facts(case.store, name, {"encrypted": True}, VIEWER, NOW, "known", shipped_law())


def test_unsetting_makes_unknown_again_and_keeps_history(case: Case) -> None:
    name = case.receive().incident_id
    record(case, name, encrypted=True)
    record(case, name, encrypted=None)
    _, history = recording.history(case.store, name)
    assert [(each.value, each.recorded_by) for each in history] == [(True, "dan"), (None, "dan")]
    known = case.store.look(lambda work: workflow.known_facts(work, workflow.found(work, name)))
    assert known.get("encrypted") is None


def test_awareness_before_the_detection_moves_the_conservative_date_too(case: Case) -> None:
    """The earliest recorded instant is the strictest start, also where it lies before the alert."""
    name = case.receive().incident_id
    case.count(name, {"DE": 20})
    watch(case)
    earlier: datetime = NOW - 10 * HOUR
    recording.record_awareness(
        case.store, name, ["controller_aware_at"], earlier, RESPONDER, NOW, "the support team knew", shipped_law()
    )
    assert rows(case)["eu-gdpr-33"]["conservative_deadline_at"] == earlier + 72 * HOUR
