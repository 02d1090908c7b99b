"""A case store that was put back in time: what was decided since is named, and what it may have kept back does not run."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumers.adapters.case_store import tables
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.adapters.case_store.comparing import Gap
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.case import restoring, steering, workflow
from consumers.case.acting import record_act
from consumers.case.events import CASE_EVENT_KINDS, Body, case_event
from consumers.case.permissions import Role
from consumers.domain.canary import CanaryState
from consumers.evidence.leaves import CaseLeaf, discover
from tests.unit.adapters.evidence_case import RECORDS, EvidenceCase, Restored
from tests.unit.adapters.evidence_case import case_event as said
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, SMS_LANE, sqlite_case_store
from tests.unit.adapters.test_comparing import comparison_of
from tests.unit.case.cases import COUNSEL, DPO, RESPONDER, SRE

RELEASE, BUNDLE = "1" * 32, "b" * 64
LOST = "the disk of the database was lost"
Since = Callable[[EvidenceCase], None]


def running_case(case: EvidenceCase) -> EvidenceCase:
    """Return the case with a release that runs; nobody was told yet."""
    with case.database.write() as connection:
        connection.execute(sa.update(tables.release).values(release_id=RELEASE))
    for number in (1, 2, 3):
        case.known_person(number)
    case.resolve(RECORDS)
    case.ledger.begin_attempts(2)
    case.ledger.meter(EMAIL_LANE)
    return case


@pytest.fixture
def case(tmp_path: Path) -> Iterator[EvidenceCase]:
    made = running_case(EvidenceCase(tmp_path))
    yield made
    made.database.close()


def restored_after(case: EvidenceCase, folder: Path, *since: Since, backup: CaseDatabase | None = None) -> Restored:
    """Return the store as its backup has it; `since` happened after it, and is in the log."""
    case.commands()
    restored = Restored(case, backup or sqlite_case_store(folder / "backup.db"))
    for each in since:
        case.clock.at += timedelta(minutes=1)
        each(case)
    case.commands()
    restored.goes_on_after(case)
    assert comparison_of(case).gap() == Gap(), "who was not put back lacks nothing"
    assert comparison_of(case).gap_at_start() == Gap()
    return restored


def store(case: EvidenceCase) -> SqlCaseStore:
    return SqlCaseStore(case.database, case.clock)


def pause(case: EvidenceCase) -> None:
    steering.pause(store(case), INCIDENT, RESPONDER, case.clock.now(), reason="wrong text")


def resume(case: EvidenceCase) -> None:
    steering.resume(store(case), INCIDENT, SRE, case.clock.now(), reason="the text was right")


def cancel(case: EvidenceCase) -> None:
    steering.cancel(store(case), INCIDENT, DPO, case.clock.now(), reason="the wrong people")


def withdraw(case: EvidenceCase) -> None:
    steering.withdraw(store(case), INCIDENT, RESPONDER, case.clock.now(), reason="a mistake")


def hold(case: EvidenceCase) -> None:
    workflow.set_gate(
        store(case), INCIDENT, "law_enforcement_hold", ["DE"], COUNSEL, case.clock.now(), reason="the police asked"
    )


def slower(case: EvidenceCase) -> None:
    steering.set_rate(
        store(case), INCIDENT, "email", 1, SRE, case.clock.now(), lane_most=14, reason="our own server cannot keep up"
    )


def hold_canary(case: EvidenceCase) -> None:
    body = {"release_id": RELEASE, "mode": "two_approvers", "arrived": 1, "failed": 4, "silent": 0}
    case.log_events(said("release.canary_held", body).model_copy(update={"occurred_at": case.clock.now()}))
    with case.database.write() as connection:
        connection.execute(sa.update(tables.release).values(canary_state="held", state="paused"))


def state_of(case: EvidenceCase) -> str:
    with case.database.read() as connection:
        return str(connection.execute(sa.select(tables.release.c.state)).scalar_one())


def leaves(case: EvidenceCase) -> int:
    """Return how many messages leave, by whatever channel, once commands that nobody took are called back."""
    case.clock.at += timedelta(minutes=10)
    patience = timedelta(minutes=5)
    case.ledger.sweep(command_patience=patience, intent_patience=patience, unknown_patience=timedelta(hours=9))
    return len([*case.claim(EMAIL_LANE), *case.claim(SMS_LANE)])


@pytest.mark.parametrize(
    ("decide", "kind"),
    [
        (pause, "release.paused"), (cancel, "release.cancelled"), (hold, "gate.set"), (slower, "release.rate_set"),
        (hold_canary, "release.canary_held"),
    ],
)  # fmt: skip
def test_what_was_stopped_since_the_backup_does_not_run_until_a_person_has_decided(
    case: EvidenceCase, tmp_path: Path, decide: Since, kind: str
) -> None:
    if decide is hold_canary:
        with case.database.write() as connection:
            connection.execute(sa.update(tables.release).values(canary_state="testing"))
    restored = restored_after(case, tmp_path, decide)
    judge(restored, kind)
    restored.database.close()


def judge(restored: Restored, kind: str) -> None:
    """Hold that a restored store which lacks a decision of `kind` stands still, says so once, and goes on by a person's word."""
    comparison = comparison_of(restored)
    gap = comparison.gap_at_start()
    # a hold records what it rests on, too
    decided = [kind, "fact.recorded"] if kind == "gate.set" else [kind]
    assert [each.kind for each in gap.decisions] == decided
    assert str(gap) == ("1 decision" if len(decided) == 1 else "2 decisions")
    done = comparison.replay(DPO, Role.DPO, LOST)
    assert ([each.kind for each in done.decisions], done.paused) == (decided, (INCIDENT,))
    assert (state_of(restored), restored.pages()) == ("paused", ["restore.paused"])
    events = [(each["kind"], each["actor"] is not None) for each in restored.case_events()]
    assert events == [("release.paused", True), ("restore.reconciled", True)]
    body = restored.case_events()[-1]["body"]
    assert (body["decision_count"], body["paused_count"]) == (len(decided), 1)
    assert leaves(restored) == 0
    assert comparison.gap() == comparison.gap_at_start() == Gap(), "taken note of"
    restored.commands()
    assert comparison_of(restored).gap() == Gap()
    resume(restored)
    assert restored.standing_pages() == []
    assert leaves(restored) == 3
    with restored.database.read() as connection:
        assert connection.execute(sa.select(tables.release.c.canary_state)).scalar() in (None, CanaryState.WAIVED)


def test_looking_and_letting_go_on_stop_nobody(case: EvidenceCase, tmp_path: Path) -> None:
    def look(case: EvidenceCase) -> None:
        body: Body = {"people": "all", "listed_count": 3}
        store(case).change(lambda work: record_act(work, DPO, Role.DPO, "people.listed", body, at=case.clock.now()))

    pause(case)
    only_looked = restored_after(case, tmp_path, look)
    assert comparison_of(only_looked).gap_at_start() == Gap()
    only_looked.database.close()
    restored = restored_after(case, tmp_path, resume)
    done = comparison_of(restored).replay(DPO, Role.DPO, LOST)
    assert ([each.kind for each in done.decisions], done.paused) == (["release.resumed"], ())
    assert state_of(restored) == "paused", "as the backup has it"
    restored.database.close()


def test_what_was_withdrawn_since_the_backup_waits_for_no_second_word(case: EvidenceCase, tmp_path: Path) -> None:
    with case.database.write() as connection:
        connection.execute(sa.update(tables.release).values(state="prepared", released_at=None))
    restored = restored_after(case, tmp_path, withdraw)
    done = comparison_of(restored).replay(DPO, Role.DPO, LOST)
    assert done.paused == (), "nothing ran"
    assert state_of(restored) == "withdrawn"
    restored.database.close()


def test_a_text_that_was_revoked_since_the_backup_is_sent_to_nobody(case: EvidenceCase, tmp_path: Path) -> None:
    with case.database.write() as connection:
        connection.execute(sa.update(tables.release).values(policy={"segments": {}, "bundles": [BUNDLE]}))
        connection.execute(
            sa.insert(tables.notice_bundle).values(
                bundle_sha256=BUNDLE, name="ai-data-leak", jurisdictions=["*"], approved_at=case.clock.now(),
                approved_by="col", valid_until=case.clock.now() + timedelta(days=99),
            )
        )  # fmt: skip

    def revoke(case: EvidenceCase) -> None:
        NoticeBundles(case.database).revoke(
            BUNDLE, by="col", role="counsel", actor=COUNSEL.commitment, at=case.clock.now(), reason="it says too much"
        )

    restored = restored_after(case, tmp_path, revoke)
    comparison = comparison_of(restored)
    assert [each.kind for each in comparison.gap_at_start().decisions] == ["notice.revoked"]
    comparison.replay(DPO, Role.DPO, LOST)
    assert (state_of(restored), leaves(restored)) == ("void", 0)
    with restored.database.read() as connection:
        assert connection.execute(sa.select(tables.notice_bundle.c.revoked_at)).scalar() is not None
    assert comparison.gap() == Gap()
    restored.database.close()


def test_an_incident_of_after_the_backup_is_named_and_none_takes_its_number(case: EvidenceCase, tmp_path: Path) -> None:
    opened = {"revision": 1, "detected_at": "2026-03-01T12:00:00Z", "scope_sha256": None, "scope_resolved": False,
              "unsigned_source": False, "readable": True, "alert_sha256": "a" * 64}  # fmt: skip
    commands = case.commands()
    restored = Restored(case, sqlite_case_store(tmp_path / "backup.db"))
    case.log_events(said("incident.opened", dict(opened), "INC-2026-0007"))
    restored.goes_on_after(case)
    comparison = comparison_of(restored)
    (lost,) = comparison.gap_at_start().decisions
    assert (lost.kind, lost.incident_id) == ("incident.opened", "INC-2026-0007")
    done = comparison.replay(DPO, Role.DPO, LOST)
    assert done.paused == ()
    assert comparison.gap() == Gap()
    assert store(restored).change(lambda work: work.next_number(2026)) == 8
    assert len(restored.ledger.intend(commands, "d1", "dispatch", {})) == 2, "all else goes on"
    restored.database.close()


def test_what_was_approved_and_began_since_the_backup_tells_nobody_twice_and_needs_a_new_word(
    case: EvidenceCase, tmp_path: Path
) -> None:
    with case.database.write() as connection:
        connection.execute(sa.delete(tables.attempt))
        connection.execute(sa.update(tables.release).values(state="prepared", released_at=None))

    def begin(case: EvidenceCase) -> None:
        body: Body = {"release_id": RELEASE, "policy_sha256": "0" * 64, "mode": "two_approvers", "recipient_count": 3,
                "approval_count": 2}  # fmt: skip
        case.log_events(
            case_event("release.started", incident_id=INCIDENT, actor=None, role=None, at=case.clock.now(), body=body)
        )
        with case.database.write() as connection:
            connection.execute(sa.update(tables.release).values(state="releasing", released_at=case.clock.now()))
        case.ledger.begin_attempts(1)
        case.ledger.meter(EMAIL_LANE)
        intents = list(case.ledger.intend(case.commands(), "d1", "dispatch", {}))
        assert len(intents) == 1
        case.hand_over(intents)

    restored = restored_after(case, tmp_path, begin)
    assert comparison_of(restored).replay(DPO, Role.DPO, LOST) == Gap(outcome_count=1)
    assert state_of(restored) == "cancelled"
    assert leaves(restored) == 0
    with restored.database.read() as connection:
        (attempt,) = connection.execute(sa.select(tables.attempt)).mappings().all()
    assert (attempt["state"], attempt["release_id"]) == ("handed_over", RELEASE)
    restored.database.close()


def test_every_kind_that_a_person_may_decide_is_known_to_stop_or_not() -> None:
    known = set(CASE_EVENT_KINDS) | {leaf.KIND for leaf in discover() if issubclass(leaf, CaseLeaf)}
    named = restoring._KEEP_NOBODY_BACK | restoring._CHANGE_NOTHING | restoring._ELSEWHERE | restoring._BY_TOCSIN
    assert named | set(restoring.AGAIN) <= known
    for kind in (
        "release.paused",
        "release.cancelled",
        "gate.set",
        "incident.rescoped",
        "incident.closed",
        "fact.recorded",
    ):
        assert restoring.keeps_back(kind)
        assert restoring.is_decision(kind, by_person=True)
    assert not restoring.is_decision("gate.set", by_person=False), "one that follows from a duty follows again"
