"""An approval binds what was seen; the second one starts the release; broken glass reaches few."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.case import releasing, steering
from consumers.case.acting import Actor
from consumers.case.overview import overview
from consumers.case.permissions import Role
from consumers.case.releasing import Prepared, policy_sha256
from consumers.domain.approvals import Mode
from tests.unit.case.cases import APPROVER, COUNSEL, DPO, NOW, RESPONDER, SRE, VIEWER, Case, staff

TWO = Mode.TWO_APPROVERS


def planned(case: Case, **plan: object) -> str:
    name = case.receive().incident_id
    case.plan(name, **plan)  # type: ignore[arg-type]  # passed on as they are
    return name


def prepare(case: Case, name: str, *, mode: Mode = TWO) -> Prepared:
    return releasing.prepare(case.store, name, RESPONDER, NOW, mode=mode, late_cap=5)


def test_preparing_waits_for_every_partition(case: Case) -> None:
    name = case.receive().incident_id
    case.resolve(name, partitions=1, of=6, affected=4)
    with pytest.raises(Refused, match="1 of 6 partitions have answered, and 0 of 4 affected people"):
        prepare(case, name)
    case.execute(sa.delete(tables.resolution))
    case.plan(name, state="gathering")
    with pytest.raises(Refused, match="2 of 2 partitions"):
        prepare(case, name)


def test_the_policy_binds_all_that_approvers_saw(case: Case) -> None:
    name = planned(case)
    case.add_segment(name, "s2", bundle=None)
    case.add_person(name, "customer/late", late=True)
    done = prepare(case, name)
    policy = done.release.policy
    assert policy.keys() == {
        "incident_id", "revision", "scope_sha256", "rules_sha256", "bundles", "segments", "recipients_root",
        "possible_excluded", "possible_excluded_count", "unexplained_accepted",
        "recipient_count", "late_cap", "mode", "exercise",
    }  # fmt: skip
    assert policy["segments"] == {"s1": {"bundle_sha256": "b" * 64, "channels": ["email", "sms"]}}
    assert (policy["recipient_count"], done.late_count, done.people_without_text) == (3, 1, 3)
    assert policy_sha256(policy) == done.release.policy_sha256
    assert prepare(case, name).again
    assert len(case.rows(tables.release)) == 1


def test_the_second_approval_releases_and_confirms(case: Case) -> None:
    name = planned(case)
    policy = prepare(case, name).release.policy_sha256
    first = releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO)
    assert not first.releasing
    assert first.missing == "one more person acting as counsel or approver, neither rae nor dan"
    assert releasing.release_status(case.store, name)[1] == first.missing
    second = releasing.approve(case.store, first.release.release_id, policy, COUNSEL, NOW, mode=TWO)
    assert second.releasing
    assert (second.release.state, second.release.released_at) == ("releasing", NOW)
    assert case.rows(tables.incident)[0]["state"] == "confirmed"
    assert case.kinds()[-3:] == ["release.approved", "release.approved", "release.started"]
    modes = {e["body"]["mode"] for e in case.published("tocsin.case-events") if e["kind"].startswith("release.")}
    assert modes == {"two_approvers"}
    with pytest.raises(Refused, match="is releasing"):
        releasing.approve(case.store, name, policy, APPROVER, NOW, mode=TWO)


def test_who_cannot_count_is_refused_by_name(case: Case) -> None:
    name = planned(case)
    both = staff("rae", Role.RESPONDER, Role.DPO)
    policy = prepare(case, name).release.policy_sha256
    with pytest.raises(Refused, match="rae prepared it"):
        releasing.approve(case.store, name, policy, both, NOW, mode=TWO)
    with pytest.raises(Refused, match=r"may not release\.approve"):
        releasing.approve(case.store, name, policy, VIEWER, NOW, mode=TWO)
    releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO)
    with pytest.raises(Refused, match="approved already"):
        releasing.approve(case.store, name, policy, staff("dan", Role.DPO, Role.COUNSEL), NOW, mode=TWO)
    with pytest.raises(Refused, match="acts as dpo, as dan did"):
        releasing.approve(case.store, name, policy, staff("eve", Role.DPO), NOW, mode=TWO)
    with pytest.raises(BadInput, match="--role viewer"):
        releasing.approve(case.store, name, policy, COUNSEL, NOW, mode=TWO, role=Role.VIEWER)
    assert case.rows(tables.release)[0]["state"] == "prepared"
    assert len(case.rows(tables.approval)) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (sa.update(tables.segment).values(bundle_sha256="d" * 64), "bundles, segments"),
        (sa.update(tables.segment).values(channels=["sms"]), "segments"),
        (sa.update(tables.plan).values(rules_sha256="d" * 64), "rules_sha256"),
        (
            sa.delete(tables.recipient).where(tables.recipient.c.root == "customer/0"),
            "recipient_count, recipients_root",
        ),
        (sa.update(tables.incident).values(scope_sha256="d" * 64), "scope_sha256"),
    ],
)
def test_an_approval_is_refused_when_what_was_prepared_has_changed(case: Case, change: sa.Update, named: str) -> None:
    name = planned(case)
    policy = prepare(case, name).release.policy_sha256
    releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO)
    case.execute(change)
    with pytest.raises(Refused, match=f"{named} changed since"):
        releasing.approve(case.store, name, policy, COUNSEL, NOW, mode=TWO)
    with pytest.raises(Refused, match="the policy that waits is"):
        releasing.approve(case.store, name, "0" * 64, COUNSEL, NOW, mode=TWO)
    assert len(case.rows(tables.approval)) == 1


def test_another_rule_in_force_refuses_and_late_additions_do_not(case: Case) -> None:
    name = planned(case)
    policy = prepare(case, name).release.policy_sha256
    with pytest.raises(Refused, match="mode changed since"):
        releasing.approve(case.store, name, policy, DPO, NOW, mode=Mode.FOUR_EYES)
    case.add_person(name, "customer/late", late=True)
    assert releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO).missing


def asked(case: Case) -> list[str | None]:
    """Return of each page that asks for an approval who ended it."""
    return [each["acknowledged_by"] for each in case.rows(tables.page) if each["kind"] == "approval_needed"]


def test_who_was_asked_to_approve_is_asked_no_more_once_enough_have(case: Case) -> None:
    name = planned(case)
    policy = prepare(case, name).release.policy_sha256
    releasing.approve(case.store, name, policy, DPO, NOW, mode=TWO)
    assert asked(case) == [None], "a second one is missing"
    assert releasing.approve(case.store, name, policy, COUNSEL, NOW, mode=TWO).releasing
    assert asked(case) == [COUNSEL.person_id]


def test_preparing_anew_voids_the_older_policy_and_its_approvals(case: Case) -> None:
    name = planned(case)
    old = prepare(case, name).release
    releasing.approve(case.store, name, old.policy_sha256, DPO, NOW, mode=TWO)
    case.add_person(name, "customer/77")
    new = prepare(case, name).release
    assert new.release_id != old.release_id
    assert sorted(map(str, asked(case))) == ["None", RESPONDER.person_id], "for the older one nobody is paged any more"
    assert not releasing.approve(case.store, name, new.policy_sha256, COUNSEL, NOW, mode=TWO).releasing
    with pytest.raises(Refused, match="is void"):
        releasing.approve(case.store, old.release_id, old.policy_sha256, APPROVER, NOW, mode=TWO)


def test_what_waits_for_approval_is_withdrawn_by_itself_and_its_approvals_count_for_no_other(case: Case) -> None:
    name = planned(case)

    with pytest.raises(Refused, match="nothing to withdraw: there is no release"):
        steering.withdraw(case.store, name, RESPONDER, NOW, reason="x")
    first = prepare(case, name).release
    releasing.approve(case.store, name, first.policy_sha256, DPO, NOW, mode=TWO)
    with pytest.raises(Refused, match=r"may not release\.prepare"):
        steering.withdraw(case.store, name, SRE, NOW, reason="x")
    with pytest.raises(BadInput, match="--reason"):
        steering.withdraw(case.store, name, RESPONDER, NOW, reason=None)
    assert steering.withdraw(case.store, name, RESPONDER, NOW, reason="x", dry_run=True).approved_by == [DPO.person_id]
    assert case.rows(tables.release)[0]["state"] == "prepared"
    done = steering.withdraw(case.store, name, RESPONDER, NOW, reason="a wrong price in it")
    assert (done.release.release_id, done.approved_by) == (first.release_id, [DPO.person_id])
    assert case.kinds()[-1] == "release.withdrawn"
    assert asked(case) == [RESPONDER.person_id], "nobody is paged for it any more"
    seen = overview(case.store, name)
    assert [(each.record.state, each.missing) for each in seen.releases] == [("withdrawn", None)]
    assert seen.next is not None
    assert "sheet" not in seen.next.command
    with pytest.raises(Refused, match="is withdrawn; there is nothing to approve"):
        releasing.approve(case.store, first.release_id, first.policy_sha256, COUNSEL, NOW, mode=TWO)
    with pytest.raises(Refused, match="it was withdrawn; prepare another"):
        steering.withdraw(case.store, name, RESPONDER, NOW, reason="again")
    # the very same policy again is another release, which nobody has approved
    later = NOW + timedelta(minutes=1)
    second = releasing.prepare(case.store, name, RESPONDER, later, mode=TWO, late_cap=5)
    assert (second.again, second.release.policy_sha256) == (False, first.policy_sha256)
    assert not releasing.approve(case.store, name, first.policy_sha256, COUNSEL, NOW, mode=TWO).releasing
    releasing.approve(case.store, name, first.policy_sha256, DPO, NOW, mode=TWO)
    with pytest.raises(Refused, match="nothing to withdraw: it runs"):
        steering.withdraw(case.store, name, RESPONDER, NOW, reason="too late")


def test_who_has_an_end_already_is_counted_apart_when_another_release_is_prepared(case: Case) -> None:
    name = planned(case)
    for number in (7, 8):
        case.add_person(name, f"customer/{number}")
    assert prepare(case, name).ended_count == 0
    case.execute(
        sa.update(tables.recipient).where(tables.recipient.c.root == "customer/7").values(final_state="reached")
    )
    done = prepare(case, name)
    assert (done.release.policy["recipient_count"], done.ended_count) == (len(case.rows(tables.recipient)), 1)
    [*_, page] = case.rows(tables.page)
    assert page["body"]["recipient_count"] == done.release.policy["recipient_count"]


def test_a_release_that_runs_is_not_prepared_twice_unless_a_text_came_later(case: Case) -> None:
    name = planned(case)
    case.add_segment(name, "s2", bundle=None)
    policy = prepare(case, name, mode=Mode.FOUR_EYES).release.policy_sha256
    releasing.approve(case.store, name, policy, DPO, NOW, mode=Mode.FOUR_EYES)
    with pytest.raises(Refused, match="is releasing already"):
        prepare(case, name, mode=Mode.FOUR_EYES)
    case.execute(sa.update(tables.segment).where(tables.segment.c.segment_id == "s2").values(bundle_sha256="e" * 64))
    assert not prepare(case, name, mode=Mode.FOUR_EYES).again


def test_broken_glass_runs_on_one_word_for_near_deadlines_and_pages_approvers(case: Case) -> None:
    name = planned(case, deadline=NOW + timedelta(hours=30))
    with pytest.raises(Refused, match="nobody with an approved text has a deadline"):
        releasing.break_glass(case.store, name, DPO, NOW, "regulator calls")
    case.execute(
        sa.update(tables.recipient)
        .where(tables.recipient.c.root == "customer/1")
        .values(deadline_at=NOW + timedelta(hours=20))
    )
    with pytest.raises(BadInput, match="needs a reason"):
        releasing.break_glass(case.store, name, DPO, NOW, None)
    waiting = prepare(case, name).release
    started = releasing.break_glass(case.store, name, DPO, NOW, "regulator calls")
    assert (started.mode, started.state, started.released_at) == ("break_glass", "releasing", NOW)
    assert started.policy["deadline_before"] == "2026-03-03T03:00:00Z"
    [page] = [row for row in case.rows(tables.page) if row["kind"] == "glass_broken"]
    assert page["roles"] == ["dpo", "counsel", "approver"]
    body = next(e for e in case.published("tocsin.case-events") if e["kind"] == "release.glass_broken")["body"]
    assert body["within_reach_count"] == 1
    with pytest.raises(Refused, match="is releasing already"):
        releasing.break_glass(case.store, name, DPO, NOW, "again")
    releasing.approve(case.store, name, waiting.policy_sha256, COUNSEL, NOW, mode=TWO)
    assert releasing.approve(case.store, name, waiting.policy_sha256, APPROVER, NOW, mode=TWO).releasing


def test_nothing_with_an_approved_text_is_nothing_to_release(case: Case) -> None:
    name = planned(case)
    case.execute(sa.update(tables.segment).values(bundle_sha256=None))
    with pytest.raises(Refused, match="no segment has an approved text"):
        prepare(case, name)


def test_an_approval_needs_something_prepared(case: Case) -> None:
    name = planned(case)
    with pytest.raises(Refused, match="nothing is prepared"):
        releasing.approve(case.store, name, "0" * 64, DPO, NOW, mode=TWO)
    with pytest.raises(BadInput, match="neither an incident nor a release"):
        releasing.approve(case.store, "whatever", "0" * 64, DPO, NOW, mode=TWO)


def test_the_cap_for_late_additions_can_be_raised_while_a_release_runs(case: Case) -> None:
    name = planned(case)
    first = prepare(case, name, mode=Mode.FOUR_EYES).release
    releasing.approve(case.store, name, first.policy_sha256, DPO, NOW, mode=Mode.FOUR_EYES)
    with pytest.raises(Refused, match="is releasing already"):
        prepare(case, name, mode=Mode.FOUR_EYES)
    more = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=50).release
    releasing.approve(case.store, name, more.policy_sha256, DPO, NOW, mode=Mode.FOUR_EYES)
    assert {row["state"] for row in case.rows(tables.release)} == {"releasing"}


@pytest.mark.parametrize(("approvers", "ended_by"), [((DPO, COUNSEL), COUNSEL.person_id), ((DPO,), "c")])
def test_a_revoked_text_stops_the_release_that_would_send_it(
    case: Case, approvers: tuple[Actor, ...], ended_by: str
) -> None:
    name = planned(case)
    policy = prepare(case, name).release.policy_sha256
    for approver in approvers:
        releasing.approve(case.store, name, policy, approver, NOW, mode=TWO)
    (before,) = case.rows(tables.incident)
    case.execute(
        sa.insert(tables.notice_bundle).values(
            bundle_sha256="b" * 64, name="n", jurisdictions=["*"], approved_at=NOW, approved_by="c",
            valid_until=NOW + timedelta(days=1),
        )
    )  # fmt: skip
    bundles = NoticeBundles(case.database)
    assert bundles.revoke("b" * 64, by="c", role="counsel", actor="0" * 64, at=NOW, reason="wrong") == [name]
    (row,) = case.rows(tables.release)
    (after,) = case.rows(tables.incident)
    assert (row["state"], after["epoch"]) == ("void", before["epoch"] + 1)
    assert asked(case) == [ended_by], "what is void asks nobody"
    with pytest.raises(Refused, match="not approved"):
        bundles.revoke("b" * 64, by="c", role="counsel", actor="0" * 64, at=NOW, reason="wrong")
