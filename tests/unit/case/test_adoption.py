"""Which rules counsel has adopted: by the version as it read, renewed quarter by quarter, kept with the rules and in the log."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.case.adoption import REVIEW_EVERY, adopt, adopted, overdue_reviews, review_rows, version_sha256
from consumers.case.review_commands import write_copy
from consumers.domain.rules import Rules
from tests.unit.case.cases import COUNSEL, DPO, NOW, Case
from tests.unit.shipped_law import shipped_law


def rules() -> Rules:
    return shipped_law().rules


def with_period(found: Rules, regime_id: str, period: str) -> Rules:
    changed = [
        replace(duty, versions=tuple(replace(each, period=period) for each in duty.versions))
        if duty.regime_id == regime_id
        else duty
        for duty in found.duties
    ]
    return replace(found, duties=tuple(changed))


def test_counsel_adopts_versions_as_they_read(case: Case) -> None:
    with pytest.raises(Refused, match=r"may not law\.adopt"):
        adopt(case.store, rules(), ["us-tx-ind"], DPO, NOW, "read")
    with pytest.raises(BadInput, match="did you mean 'us-tx-ind'"):
        adopt(case.store, rules(), ["us-txx-ind"], COUNSEL, NOW, "read")
    with pytest.raises(BadInput, match="needs a reason"):
        adopt(case.store, rules(), ["us-tx-ind"], COUNSEL, NOW, None)
    written = adopt(case.store, rules(), ["us-tx-ind"], COUNSEL, NOW, "read against the statute")
    records = case.store.look(lambda work: work.adoptions())
    assert records == list(written)
    assert {key[0] for key in adopted(rules(), records)} == {"us-tx-ind"}
    # a rule whose text changes is not adopted any more; the others are
    assert adopted(with_period(rules(), "us-tx-ind", "P5D"), records) == {}
    assert adopted(with_period(rules(), "us-ca-ind", "P5D"), records).keys() == adopted(rules(), records).keys()


def test_all_rules_are_adopted_in_events_that_fit_the_log(case: Case) -> None:
    written = adopt(case.store, rules(), [], COUNSEL, NOW, "all read")
    assert len(written) == sum(len(duty.versions) for duty in rules().duties) >= 240
    events = [event for event in case.published("tocsin.case-events") if event["kind"] == "law.adopted"]
    assert sum(len(event["body"]["rules"]) for event in events) == len(written)
    assert all(len(json.dumps(event)) < 14_000 for event in events)
    assert all(set(event["body"]) == {"rules_sha256", "rules", "versions_sha256", "reason_sha256"} for event in events)
    assert len(case.rows(tables.act)) == len(events)


def test_a_quarter_after_check_or_sign_off_a_rule_is_overdue(case: Case) -> None:
    duty = rules().by_id["us-tx-ind"]
    day = duty.last_checked_on + REVIEW_EVERY
    assert duty.regime_id not in {row.duty.regime_id for row in overdue_reviews(rules(), (), day)}
    assert duty.regime_id in {row.duty.regime_id for row in overdue_reviews(rules(), (), day + timedelta(days=1))}
    later = NOW.replace(year=2027)
    records = adopt(case.store, rules(), ["us-tx-ind"], COUNSEL, later, "read again")
    due = {row.duty.regime_id: row.due_on for row in review_rows(rules(), records, later.date())}
    assert due["us-tx-ind"] == later.date() + REVIEW_EVERY
    assert due["us-ca-ind"] < due["us-tx-ind"]


def test_versions_that_no_incident_of_today_can_meet_need_no_review() -> None:
    past = [
        (duty.regime_id, version.version)
        for duty in rules().duties
        for version in duty.versions
        if version.in_force_to is not None and version.in_force_to < NOW.date()
    ]
    assert past
    assert not {(row.duty.regime_id, row.version.version) for row in review_rows(rules(), (), NOW.date())} & set(past)


def test_the_hash_of_a_version_is_of_what_it_says() -> None:
    duty = rules().by_id["us-tx-ind"]
    [version, *_] = duty.versions
    assert version_sha256(duty, version) == version_sha256(replace(duty, last_checked_on=NOW.date()), version)
    assert version_sha256(duty, version) != version_sha256(duty, replace(version, period="P5D"))
    assert version_sha256(duty, version) != version_sha256(replace(duty, zone="UTC"), version)
    hashes = [version_sha256(duty, version) for duty in rules().duties for version in duty.versions]
    assert len(set(hashes)) == len(hashes)


def test_a_copy_of_the_sign_off_lies_beside_the_rules(case: Case, tmp_path: Path) -> None:
    records = adopt(case.store, rules(), ["us-tx-ind"], COUNSEL, NOW, "read")
    text = write_copy(tmp_path, rules(), records).read_text(encoding="utf-8")
    assert "us-tx-ind.1:" in text
    assert "adopted_by: col" in text
    assert not list(tmp_path.glob("*.yaml")), "nothing that the loader would take for a rule"
