"""Who was told wrongly is put right: by a notice of its own, linked to the first, that two people approve like any other."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import Channel
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.adapters.case_store.changes import DeliveryPolicy
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.case_store.ledger import Ledger
from consumers.adapters.correction_texts import ApprovedCorrections
from consumers.adapters.notice_samples import ApprovedSamples
from consumers.adapters.template_catalog import ApprovedBundles, ApprovedRow, TemplateCatalog, read_bundle
from consumers.case import releasing
from consumers.case.correcting import BUNDLE, Started, start_correction
from consumers.domain.approvals import Mode
from consumers.stages.planning import Planning
from tests.unit.case.cases import APPROVER, COUNSEL, DPO, RESPONDER, VIEWER
from tests.unit.stages.test_planning import (
    INCIDENT,
    NOW,
    SCORE,
    World,
    answer,
    replace_revision,
    someone,
    why,
    world,
)
from tests.unit.stages.test_planning_late import DISPUTE, planned, told

__all__ = ["world"]


def approve_correction(world: World) -> str:
    bundle = read_bundle(world.templates, BUNDLE)
    ApprovedBundles(world.templates, world.artefacts).keep(bundle)
    row = ApprovedRow(bundle.sha256, BUNDLE, ("*",), world.clock.now(), NOW.replace(year=2027))
    NoticeBundles(world.database).approve(row, by="col", role="counsel", actor="0" * 64, reason=None)
    return bundle.sha256


def told_wrongly(world: World) -> Planning:
    """Tell three people, then correct the scope: 1 was told right, 2 is not concerned, 4 was told too much."""
    people = [someone("customer/1"), someone("customer/2"), someone("customer/4", why=why(SCORE, DISPUTE))]
    planning = planned(world, *people)
    for each in people:
        told(world, each.root)
    world.execute(sa.update(tables.recipient).values(final_state="reached", final_at=NOW))
    world.execute(sa.update(tables.incident).values(revision=2))
    again = [replace_revision(each) for each in (people[0], someone("customer/4"))]
    world.feed(planning, *again, answer(0, again, revision=2), answer(1, again, revision=2))
    planning.look()
    return planning


def catalog(world: World) -> TemplateCatalog:
    approved = ApprovedBundles(world.templates, world.artefacts)
    return TemplateCatalog(world.templates, approved, NoticeBundles(world.database), world.clock)


def start(world: World, *, dry_run: bool = False) -> Started:
    return start_correction(
        SqlCaseStore(world.database, world.clock), INCIDENT, DPO, world.clock.now(), ApprovedCorrections(catalog(world)),
        dry_run=dry_run, reason="the scope was too wide",
    )  # fmt: skip


def corrections(world: World) -> dict[str, dict[str, object]]:
    return {str(row["root"]): dict(row) for row in world.rows(tables.recipient) if row["is_correction"]}


def test_each_gets_a_correction_of_their_own_that_two_people_approve(world: World) -> None:
    planning = told_wrongly(world)
    sha256 = approve_correction(world)
    assert start(world, dry_run=True) == Started(1, 1, {}, 2)
    assert corrections(world) == {}
    assert start(world) == Started(1, 1, {}, 2)
    rows = corrections(world)
    assert set(rows) == {"customer/2", "customer/4"}
    firsts = world.people()
    for root, row in rows.items():
        first = firsts[root]
        assert row["supplements"] == first["recipient_id"]
        assert (row["contact"], row["subject_commitment"]) == (first["contact"], first["subject_commitment"])
        assert (row["final_state"], row["held_reason"], row["deadline_at"]) == (None, None, None)
    samples = ApprovedSamples(ApprovedBundles(world.templates, world.artefacts), NoticeBundles(world.database))
    texts = {}
    for root, row in rows.items():
        (segment,) = world.rows(tables.segment, segment_id=row["segment_id"])
        assert segment["bundle_sha256"] == sha256
        texts[root] = samples.sample(segment["key"]).media[0].text
    assert "hätte nicht an Sie gehen sollen" in texts["customer/2"]
    assert "Ein Teil davon war falsch" in texts["customer/4"]
    assert "Vorschlag" not in texts["customer/4"], "what is not true of them is not said again"
    planning.look()
    assert corrections(world) == rows, "planning leaves them alone"
    with pytest.raises(Refused, match="nobody is owed a correction"):
        start(world)

    store = SqlCaseStore(world.database, world.clock)
    prepared = releasing.prepare(store, INCIDENT, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=0)
    policy = prepared.release.policy_sha256
    releasing.approve(store, INCIDENT, policy, APPROVER, NOW, mode=Mode.TWO_APPROVERS)
    assert releasing.approve(store, INCIDENT, policy, COUNSEL, NOW, mode=Mode.TWO_APPROVERS).releasing
    by = DeliveryPolicy(dict.fromkeys(Channel, "ses"), dict.fromkeys(Channel, timedelta(hours=4)))
    assert Ledger(world.database, world.clock, by).begin_attempts(100).people == 2
    begun = {row["recipient_id"] for row in world.rows(tables.attempt, release_id=prepared.release.release_id)}
    assert begun == {row["recipient_id"] for row in rows.values()}
    assert "correction.started" in world.kinds()


def test_without_an_approved_text_they_are_held_and_nobody_is_told(world: World) -> None:
    told_wrongly(world)
    done = start(world)
    assert sum(done.held.values()) == 2
    assert all("no approved notice correction covers" in reason for reason in done.held)
    assert {str(row["held_reason"])[:40] for row in corrections(world).values()} == {
        "no approved notice correction covers DE"[:40]
    }


def test_whom_the_scope_is_about_after_all_is_not_corrected(world: World) -> None:
    planning = told_wrongly(world)
    approve_correction(world)
    start(world)
    late = replace_revision(someone("customer/2", late=True))
    world.feed(planning, late)
    planning.look()
    assert set(corrections(world)) == {"customer/4"}


def test_only_who_may_prepare_starts_one_and_says_why(world: World) -> None:
    told_wrongly(world)
    store = SqlCaseStore(world.database, world.clock)
    texts = ApprovedCorrections(catalog(world))
    with pytest.raises(Refused, match="may not"):
        start_correction(store, INCIDENT, VIEWER, NOW, texts, reason="x")
    with pytest.raises(BadInput, match="needs a reason"):
        start_correction(store, INCIDENT, DPO, NOW, texts, reason=None)
