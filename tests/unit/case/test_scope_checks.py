"""What the index had not read when an alert came asks nobody; what it will never know asks somebody, in time."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bridge.contracts.errors import Refused
from bridge.contracts.scope import AskedScope
from consumers.adapters.case_store import tables
from consumers.case import releasing, workflow
from consumers.case.alerts import Known
from consumers.case.overview import overview
from consumers.case.rewriting import ScopeRewriter
from consumers.case.scope_checks import CHECKED_WITHIN, STORE_WITHIN, Checked, check_scopes, doubtful_scopes
from consumers.domain.approvals import Mode
from tests.unit.case.cases import DPO, GIVEN, KNOWN, NOW, RESPONDER, Case

NAME = "INC-2026-0001"
NEW: dict[str, Any] = {**GIVEN, "model_versions": ["8"]}
BEHIND = replace(KNOWN, read_to_end_at=NOW - timedelta(seconds=1))
REBUILDING = replace(KNOWN, complete=False, lacking="the files of partitions 1 are being rebuilt")
SINCE = NOW + timedelta(seconds=20)
READ_ON = replace(KNOWN, versions_by_model={"fraud-scorer": frozenset({"6", "7", "8"})}, read_to_end_at=SINCE)
WRONG = replace(KNOWN, read_to_end_at=SINCE)


def check(case: Case, known: Known | None, *, after: timedelta = timedelta(seconds=30)) -> Checked:
    return check_scopes(case.store, doubtful_scopes(case.store), known, ScopeRewriter(), NOW + after)


def pages(case: Case) -> dict[str, bool]:
    """Return by kind whether somebody is still paged."""
    return {row["kind"]: row["acknowledged_at"] is None for row in case.rows(tables.page)}


@pytest.mark.parametrize("known", [BEHIND, REBUILDING, None, Known({}, frozenset(), complete=False)])
def test_a_name_that_the_index_has_not_read_yet_asks_nobody_and_goes_on(case: Case, known: Known | None) -> None:
    case.receive(NEW, known=known)
    assert pages(case) == {"incident_opened": True}
    assert [each["scope"]["model_versions"] for each in case.published("tocsin.incidents")] == [["8"]]
    assert check(case, known).waiting
    done = check(case, READ_ON)
    assert (done.known, done.waiting) == ([NAME], False)
    [row] = case.rows(tables.incident)
    assert (row["revision"], row["scope_unresolved"]) == (1, None)
    assert pages(case) == {"incident_opened": True}, "nobody was asked what was meant"
    [checked] = [each for each in case.published("tocsin.case-events") if each["kind"] == "incident.scope_checked"]
    assert (checked["body"]["unknown_count"], checked["actor"]) == (0, None)
    assert doubtful_scopes(case.store) == []


def test_what_is_still_on_its_way_from_the_store_is_no_wrong_name_and_a_relay_that_stands_delays_no_question(
    case: Case,
) -> None:
    case.receive(NEW, known=BEHIND)
    on_its_way = replace(WRONG, beat_at=NOW - timedelta(seconds=1))
    assert check(case, on_its_way, after=STORE_WITHIN - timedelta(seconds=1)).waiting
    assert pages(case) == {"incident_opened": True}
    assert check(case, on_its_way, after=STORE_WITHIN).wrong == [NAME]


def test_a_wrong_name_is_a_page_with_near_names_once_the_index_has_read_on(case: Case) -> None:
    case.receive(NEW, known=BEHIND)
    assert check(case, BEHIND).waiting
    assert check(case, WRONG).wrong == [NAME]
    [page] = [row for row in case.rows(tables.page) if row["kind"] == "scope_unresolved"]
    assert "7" in page["body"]["nearest"]["8"]
    assert page["body"]["next"].startswith(f"tocsin incident rescope {NAME} --set model_versions=")
    assert check(case, WRONG) == Checked(), "once"
    case.plan(NAME, people=0)
    workflow.acknowledge(case.store, NAME, RESPONDER, NOW)
    seen = overview(case.store, NAME)
    assert seen.next is not None
    assert "rescope" in seen.next.command
    assert "in doubt" in seen.people
    assert any("model_versions '8'" in each for each in seen.not_known)
    workflow.rescope(case.store, NAME, RESPONDER, NOW, settings={"model_versions": ["7"]}, reason="a slip")
    [row] = case.rows(tables.incident)
    assert (row["revision"], row["scope"]["model_versions"], row["scope_unresolved"]) == (2, ["7"], None)


def test_nothing_is_approved_under_a_wrong_name_until_somebody_says_that_it_is_meant(case: Case) -> None:
    case.receive(NEW, known=BEHIND)
    case.plan(NAME)
    check(case, WRONG)
    prepared = releasing.prepare(case.store, NAME, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=5).release
    with pytest.raises(Refused, match=r"model_versions '8'.*--as-given"):
        releasing.approve(case.store, NAME, prepared.policy_sha256, DPO, NOW, mode=Mode.TWO_APPROVERS)
    workflow.rescope(case.store, NAME, RESPONDER, NOW, as_given=True, reason="it wrote nothing by itself")
    [row] = case.rows(tables.incident)
    assert (row["revision"], row["scope_unresolved"]) == (2, None)
    assert not pages(case)["scope_unresolved"]


def test_a_name_that_comes_after_somebody_was_asked_ends_the_page_by_itself(case: Case) -> None:
    """The relay was behind, too: the index had read all that was published, and it was not there."""
    case.receive(NEW, known=BEHIND)
    check(case, WRONG)
    assert pages(case)["scope_unresolved"]
    assert check(case, READ_ON).known == [NAME]
    assert pages(case) == {"incident_opened": True, "scope_unresolved": False}
    assert case.rows(tables.incident)[0]["scope_unresolved"] is None


def test_an_index_that_cannot_say_in_time_is_told_of_once_and_its_answer_counts_later(case: Case) -> None:
    case.receive(NEW, known=REBUILDING)
    assert check(case, REBUILDING, after=CHECKED_WITHIN - timedelta(seconds=1)).late == ()
    assert check(case, REBUILDING, after=CHECKED_WITHIN).late == [NAME]
    [page] = [row for row in case.rows(tables.page) if row["kind"] == "scope_unchecked"]
    assert page["body"]["because"] == REBUILDING.lacking
    assert page["body"]["unknown"][0]["value"] == "8"
    assert check(case, REBUILDING, after=2 * CHECKED_WITHIN) == Checked()
    assert check(case, READ_ON, after=2 * CHECKED_WITHIN).known == [NAME]
    assert not pages(case)["scope_unchecked"]


def test_a_scope_that_was_kept_back_is_taken_once_its_names_are_known(case: Case) -> None:
    case.receive(NEW)
    assert case.rows(tables.incident)[0]["scope"] is None
    assert check(case, BEHIND) == Checked()
    assert check(case, READ_ON).known == [NAME]
    [row] = case.rows(tables.incident)
    assert (row["revision"], row["scope"]["model_versions"], row["scope_unresolved"]) == (2, ["8"], None)
    assert [each["revision"] for each in case.published("tocsin.incidents")] == [2]
    assert pages(case) == {"scope_unresolved": False, "incident_opened": True}
    assert "incident.scope_understood" in case.kinds()
    assert check(case, READ_ON) == Checked()


def test_a_repeat_of_the_alert_takes_it_as_well_and_proposes_nothing(case: Case) -> None:
    case.receive(NEW)
    case.receive(NEW, known=READ_ON)
    assert case.rows(tables.incident)[0]["scope"]["model_versions"] == ["8"]
    assert case.rows(tables.scope_proposal) == []
    assert pages(case) == {"scope_unresolved": False, "incident_opened": True}


@pytest.mark.parametrize(
    "given",
    [
        {**NEW, "exposed_from": "2031-01-01T00:00:00Z"},
        {**GIVEN, "emails": ["no address"]},
        {**NEW, "model_version": "8"},
        {},
    ],
)
def test_what_a_person_must_mend_is_not_taken_by_itself(case: Case, given: dict[str, Any]) -> None:
    """Of addresses that cannot be read, the scope that is kept holds none: it would be wider than what was meant."""
    case.receive(given)
    assert check(case, READ_ON, after=timedelta(days=3000)) == Checked()
    assert case.rows(tables.incident)[0]["scope"] is None
    assert pages(case) == {"scope_unresolved": True}


def test_what_a_person_said_meanwhile_stands(case: Case) -> None:
    case.receive(NEW)
    doubtful = doubtful_scopes(case.store)
    workflow.rescope(case.store, NAME, RESPONDER, NOW, settings={"model_versions": ["6"]}, reason="a slip")
    assert check_scopes(case.store, doubtful, READ_ON, ScopeRewriter(), NOW) == Checked([], [], [])
    assert case.rows(tables.incident)[0]["scope"]["model_versions"] == ["6"]
    case.receive(NEW, fingerprint="leak-2", known=BEHIND)
    workflow.close(case.store, "INC-2026-0002", DPO, NOW, unnotified=True, reason="false alarm")
    assert check(case, READ_ON) == Checked()


@pytest.mark.parametrize("known", [REBUILDING, replace(BEHIND, read_to_end_at=NOW + timedelta(minutes=50))])
def test_a_scope_that_a_person_gave_while_the_index_was_behind_is_compared_later(case: Case, known: Known) -> None:
    case.receive()
    later = NOW + timedelta(hours=1)
    workflow.rescope(
        case.store, NAME, RESPONDER, later, settings={"model_versions": ["8"]}, reason="the newer one", known=known
    )
    assert check(case, WRONG).waiting, "what it had read an hour before says nothing"
    assert check(case, replace(KNOWN, read_to_end_at=later), after=timedelta(hours=1)).wrong == [NAME]


def test_what_a_person_has_put_right_is_not_proposed_back_by_each_repeat_of_the_alert(case: Case) -> None:
    case.receive(NEW, known=BEHIND)
    check(case, WRONG)
    workflow.rescope(case.store, NAME, RESPONDER, NOW, settings={"model_versions": ["7"]}, reason="a slip")
    case.receive(NEW, known=BEHIND)
    assert [each["decided_by"] for each in case.rows(tables.scope_proposal)] == [RESPONDER.person_id]
    assert not any(pages(case)[kind] for kind in pages(case) if kind != "incident_opened")
    workflow.rescope(case.store, NAME, RESPONDER, NOW, settings={"model_versions": ["8"]}, reason="it was right")
    assert {each["scope"]["model_versions"][0]: each["accepted"] for each in case.rows(tables.scope_proposal)} == {
        "8": True,
        "7": False,
    }


@pytest.mark.parametrize("given", [NEW, {**GIVEN, "exposed_from": "since Tuesday"}])
def test_words_that_a_person_has_explained_ask_nobody_again(case: Case, given: dict[str, Any]) -> None:
    case.receive(given)
    workflow.rescope(case.store, NAME, RESPONDER, NOW, scope=AskedScope.model_validate(GIVEN), reason="a slip")
    for known in (BEHIND, WRONG, KNOWN):
        case.receive(given, known=known)
    assert pages(case) == {"scope_unresolved": False}
    assert len(case.rows(tables.page)) == 1


def test_a_proposal_that_is_in_force_by_other_words_waits_for_nobody(case: Case) -> None:
    case.receive()
    case.receive({**GIVEN, "model_versions": ["6"]})
    assert pages(case)["scope_proposed"]
    workflow.rescope(case.store, NAME, RESPONDER, NOW, settings={"model_versions": ["6"]}, reason="both say so")
    assert overview(case.store, NAME).proposals == []
    assert not pages(case)["scope_proposed"]
