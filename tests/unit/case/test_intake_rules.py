"""One incident per (source, fingerprint): nothing lost, nothing closed, nothing taken twice."""

from datetime import timedelta
from typing import Any

import pytest

from bridge.contracts.events import CaseEvent, IncidentRevised
from consumers.adapters.case_store import tables
from consumers.case import workflow
from consumers.case.alerts import Known
from consumers.case.intake_rules import Arrival, take
from tests.unit.case.cases import DPO, GIVEN, KNOWN, NOW, RESPONDER, Case


def test_an_alert_opens_a_suspected_incident_and_tells_the_index(case: Case) -> None:
    taken = case.receive()
    assert taken.opened
    assert taken.incident_id == "INC-2026-0001"
    [revised] = [IncidentRevised.model_validate(event) for event in case.published("tocsin.incidents")]
    assert (revised.revision, revised.status) == (1, "open")
    assert revised.scope is not None
    assert revised.scope.sha256() == revised.scope_sha256
    assert case.kinds() == ["incident.opened"]
    [page] = case.rows(tables.page)
    assert page["roles"] == ["responder"]
    assert page["body"]["next"] == "tocsin incident ack INC-2026-0001"


def test_repeats_are_counted_and_open_nothing(case: Case) -> None:
    case.receive()
    assert not case.receive().opened
    assert not case.receive(status="resolved").opened
    [row] = case.rows(tables.incident)
    assert (row["repeat_count"], row["state"]) == (2, "suspected")
    assert len(case.published("tocsin.incidents")) == 1


def test_the_same_message_twice_is_one(case: Case) -> None:
    case.receive(message_id="m")
    case.receive(message_id="m")
    assert case.rows(tables.incident)[0]["repeat_count"] == 0
    assert len(case.rows(tables.alert)) == 1


def test_fingerprints_that_differ_in_case_or_trailing_space_are_two_leaks(case: Case) -> None:
    names = {case.receive(fingerprint=name).incident_id for name in ("leak", "LEAK", "leak ")}
    assert names == {"INC-2026-0001", "INC-2026-0002", "INC-2026-0003"}


def test_a_real_leak_is_not_the_repeat_of_an_exercise(case: Case) -> None:
    case.receive(exercise=True)
    assert case.receive().opened
    assert [row["exercise"] for row in case.rows(tables.incident)] == [True, False]


def test_a_changed_scope_is_a_proposal_once_and_changes_nothing_by_itself(case: Case) -> None:
    case.receive()
    for _ in range(2):
        case.receive({**GIVEN, "model_versions": ["6", "7"]})
    [proposal] = case.rows(tables.scope_proposal)
    assert proposal["scope"]["model_versions"] == ["6", "7"]
    assert case.rows(tables.incident)[0]["revision"] == 1
    assert case.kinds().count("incident.scope_proposed") == 1
    done = workflow.rescope(
        case.store, "INC-2026-0001", RESPONDER, NOW, proposal_id=proposal["proposal_id"], reason="both leaked"
    )
    assert done.incident.revision == 2
    newest = case.published("tocsin.incidents")[-1]
    assert (newest["revision"], newest["scope"]["model_versions"]) == (2, ["6", "7"])


def test_an_unknown_version_opens_an_unresolved_incident_with_near_names_and_a_command(case: Case) -> None:
    case.receive({**GIVEN, "model_versions": ["77"], "model_ids": ["fraud-score"]})
    [row] = case.rows(tables.incident)
    assert row["scope"] is None
    assert row["scope_unresolved"]["nearest"]["fraud-score"] == ["fraud-scorer"]
    assert "7" in row["scope_unresolved"]["nearest"]["77"]
    assert row["scope_unresolved"]["type"].startswith(
        "tocsin incident rescope INC-2026-0001 --set model_ids=fraud-scorer"
    )
    assert case.published("tocsin.incidents") == []
    assert case.rows(tables.page)[0]["kind"] == "scope_unresolved"
    workflow.rescope(
        case.store, "INC-2026-0001", RESPONDER, NOW,
        settings={"model_ids": ["fraud-scorer"], "model_versions": ["7"]}, reason="typing error of the monitor",
    )  # fmt: skip
    [row] = case.rows(tables.incident)
    assert (row["revision"], row["scope_unresolved"]) == (2, None)
    assert row["scope"]["exposed_from"] == "2026-03-01T00:00:00Z"
    assert len(case.published("tocsin.incidents")) == 1


def test_a_window_that_makes_no_sense_or_no_scope_at_all_is_unresolved(case: Case) -> None:
    odd: tuple[dict[str, Any], ...] = (
        {**GIVEN, "exposed_from": "since Tuesday"},
        {**GIVEN, "exposed_from": "2026-03-01T00:00:00"},
        {**GIVEN, "exposed_from": "2031-01-01T00:00:00Z"},
        {**GIVEN, "exposed_to": "2026-01-01T00:00:00Z"},
        {**GIVEN, "model_version": "7"},
        {"scope": "[1]"},
        {"model_ids": []},
        {},
    )
    for n, given in enumerate(odd):
        case.receive(given, fingerprint=f"leak-{n}")
    rows = case.rows(tables.incident)
    assert len(rows) == 8
    assert all(row["scope"] is None and row["scope_unresolved"]["unknown"] for row in rows)


def test_while_the_index_does_not_answer_the_scope_is_taken_as_given_and_noted(case: Case) -> None:
    case.receive({**GIVEN, "model_versions": ["77"]}, known=None)
    half = Known(KNOWN.versions_by_model, KNOWN.attributes, complete=False)
    case.receive({**GIVEN, "model_versions": ["77"]}, known=half, fingerprint="leak-2")
    for row in case.rows(tables.incident):
        assert row["scope"]["model_versions"] == ["77"]
        assert row["scope_unresolved"] == {"unchecked": True}
    assert len(case.published("tocsin.incidents")) == 2


def test_an_unreadable_alert_opens_an_incident_with_its_bytes_and_arrival_as_detection(case: Case) -> None:
    arrival = Arrival("monitor", "m", b"\xff\xfenot json", NOW, signed=True)
    [taken] = case.store.change(lambda work: take(work, arrival))
    [row] = case.rows(tables.incident)
    assert (row["incident_id"], row["title"], row["detected_at"]) == (taken.incident_id, "unreadable alert", NOW)
    [kept] = case.rows(tables.alert)
    assert (kept["body"], kept["readable"]) == (b"\xff\xfenot json", False)
    assert case.rows(tables.page)[0]["kind"] == "unreadable_alert"


def test_a_monitor_whose_clock_is_ahead_does_not_move_the_detection(case: Case) -> None:
    case.receive(detected_at=NOW + timedelta(days=2))
    assert case.rows(tables.incident)[0]["detected_at"] == NOW


def test_after_the_end_a_new_leak_opens_anew_and_an_old_one_only_pages(case: Case) -> None:
    first = case.receive(detected_at=NOW - timedelta(hours=1)).incident_id
    case.clock.at = NOW + timedelta(hours=1)
    workflow.close(case.store, first, DPO, case.clock.at, unnotified=True, reason="false alarm")
    case.clock.at += timedelta(hours=1)
    assert not case.receive(detected_at=NOW - timedelta(hours=1)).opened
    assert "alert_after_end" in {row["kind"] for row in case.rows(tables.page)}
    again = case.receive(detected_at=case.clock.at)
    assert again.opened
    assert again.incident_id != first
    assert not case.receive(detected_at=case.clock.at).opened


def test_a_rolled_back_opening_leaves_no_gap(case: Case) -> None:
    def failing(work: object) -> None:
        take(work, Arrival("monitor", "m", b"x", NOW, signed=True))  # type: ignore[arg-type]  # a CaseWork it is
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        case.store.change(failing)
    assert case.receive().incident_id == "INC-2026-0001"


def test_every_published_case_event_reads_back(case: Case) -> None:
    case.receive()
    for event in case.published("tocsin.case-events"):
        assert CaseEvent.model_validate(event).actor is None
