"""Planning on a real (SQLite) case store, with the shipped law and notices and hand-made events."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.contracts.errors import Refused
from bridge.contracts.events import (
    Channel,
    CustomerAffected,
    Event,
    Kind,
    PartitionResolved,
    Residence,
    SealedContact,
    Sensitivity,
    Why,
)
from bridge.contracts.scope import Scope
from bridge.runtime.clock import SetClock
from bridge.runtime.consume import Received
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import drawing, tables
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.planning import PlanningTables
from consumers.adapters.notice_renderer import SAMPLE_SENDER, compose
from consumers.adapters.template_catalog import ApprovedBundles, ApprovedRow, TemplateCatalog, read_bundle
from consumers.case.records import ExclusionRecord
from consumers.case.releasing import build_policy
from consumers.domain.approvals import Mode
from consumers.domain.persons import merge
from consumers.domain.plan_tally import NOBODY_BEHIND_IT
from consumers.domain.resolution import set_root
from consumers.evidence.commitment import commit, incident_key
from consumers.stages.planning import Planning
from tests.unit.adapters.ledger_case import sqlite_case_store
from tests.unit.shipped_law import shipped_law

TEMPLATES = Path(__file__).parents[3] / "templates"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
INCIDENT = "INC-2026-0001"
SCOPE = Scope(model_ids=("fraud-scorer",), exposed_from=NOW - timedelta(days=40), exposed_to=NOW - timedelta(days=2))
SCORE = "derived|fraud-scorer|fraud_assessment"


class OurLease:
    """Nobody else plans."""

    def take(self) -> bool:
        return True

    def release(self) -> None:
        return None


@dataclass
class World:
    """A case store with one incident, and planning over it."""

    database: CaseDatabase
    clock: SetClock
    templates: Path
    artefacts: DirectoryArtefactStore
    offset: int = 0

    def planning(self) -> Planning:
        approved = ApprovedBundles(self.templates, self.artefacts)
        catalog = TemplateCatalog(self.templates, approved, NoticeBundles(self.database), self.clock)
        store = PlanningTables(self.database, self.clock, shipped_law)
        # a busy machine must not make a plan rest: the clock here stands still
        return Planning(
            store, shipped_law, catalog, compose, lambda *_: SAMPLE_SENDER, OurLease(), self.clock, rest_factor=0
        )

    def approve(self, *jurisdictions: str, until: datetime = NOW + timedelta(days=90)) -> str:
        bundle = read_bundle(self.templates, "ai-data-leak")
        ApprovedBundles(self.templates, self.artefacts).keep(bundle)
        row = ApprovedRow(bundle.sha256, bundle.name, jurisdictions, self.clock.now(), until)
        NoticeBundles(self.database).approve(row, by="counsel-1", role="counsel", actor="0" * 64, reason=None)
        return bundle.sha256

    def received(self, events: Iterable[Event]) -> list[Received]:
        batch = []
        for event in events:
            self.offset += 1
            batch.append(Received("t", 0, self.offset, "k", event, False, {}, None))
        return batch

    def feed(self, planning: Planning, *events: Event) -> None:
        batch = self.received(events)
        planning.handle(batch, {("t", 0): self.offset + 1})

    def rows(self, table: sa.Table, **where: Any) -> list[Mapping[Any, Any]]:
        with self.database.read() as connection:
            conditions = [table.c[name] == value for name, value in where.items()]
            return list(connection.execute(sa.select(table).where(*conditions)).mappings())

    def kinds(self) -> list[str]:
        return [json.loads(row["value"])["kind"] for row in self.rows(tables.outbox)]

    def people(self) -> dict[str, Mapping[Any, Any]]:
        rows = self.rows(tables.recipient)
        merged = {(row["recipient_id"], other) for row in rows for other in row["roots"] if other != row["root"]}
        found = {(row["recipient_id"], row["root"]) for row in self.rows(tables.merged_root)}
        assert found == merged, "another incident finds them by each of their roots"
        return {row["root"]: row for row in rows if row["supplements"] is None}

    def supplements(self) -> dict[str, Mapping[Any, Any]]:
        return {row["recipient_id"]: row for row in self.rows(tables.recipient) if row["supplements"] is not None}

    def execute(self, statement: Any) -> None:
        with self.database.write() as connection:
            connection.execute(statement)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    database = sqlite_case_store(tmp_path / "case.db")
    yield world_on(database, tmp_path)
    database.close()


def world_on(database: CaseDatabase, folder: Path) -> World:
    """Return a world on an empty, migrated case store."""
    templates = folder / "templates"
    shutil.copytree(TEMPLATES, templates, ignore=shutil.ignore_patterns("law", "approved"))
    built = World(database, SetClock(NOW), templates, DirectoryArtefactStore(folder / "artefacts"))
    row = {
        "incident_id": INCIDENT, "number": 1, "year": 2026, "source": "monitor", "fingerprint": "f", "title": "t",
        "state": "suspected", "revision": 1, "scope": SCOPE.canonical(), "scope_sha256": SCOPE.sha256(),
        "unsigned_source": False, "exercise": False, "repeat_count": 0, "detected_at": NOW - timedelta(hours=1),
        "opened_at": NOW, "epoch": 1,
    }  # fmt: skip
    values = {"occurrence": 1, "fingerprint_sha256": "0" * 64}
    extra = {name: value for name, value in values.items() if name in tables.incident.c}
    built.execute(sa.insert(tables.incident).values(**row, **extra))
    return built


def contact() -> SealedContact:
    return SealedContact(key_id="k", wrapped_key="w", nonce="n", ciphertext="c")


def why(*disclosures: str, elements: Sequence[str] = ("fraud_score", "full_name"), record: str = "r") -> Why:
    parts = [text.split("|") for text in disclosures]
    return Why(
        record_ids=tuple(f"{record}-{index}" for index, _ in enumerate(disclosures)),
        attributes=("fraud_score",),
        models=("fraud-scorer@7",),
        kinds=tuple(sorted({Kind(part[0]) for part in parts})),
        disclosures=tuple(sorted(disclosures)),
        highest_sensitivity=Sensitivity.HIGH,
        categories=tuple(sorted({part[2] for part in parts})),
        elements=tuple(elements),
    )


def someone(root: str, home: str | None = "DE", **changes: Any) -> CustomerAffected:
    kind, _, number = root.partition("/")
    values: dict[str, Any] = {
        "root": root,
        "customer_id": int(number) if kind == "customer" else None,
        "website_id": 1,
        "store_id": 1,
        "locale": "de_AT",
        "residence": () if home is None else (Residence(code=home, source="default_billing"),),
        "channels": (Channel.EMAIL, Channel.SMS, *((Channel.ACCOUNT_NOTICE,) if kind == "customer" else ())),
        "contact": contact(),
        "incident_id": INCIDENT,
        "revision": 1,
        "partition": int(number) % 2,
        "why": why(SCORE, record=root),
    }
    return CustomerAffected(**{**values, **changes})


def answer(partition: int, members: Sequence[CustomerAffected], count: int = 2, **changes: Any) -> PartitionResolved:
    own = [member for member in members if member.partition == partition and not member.late]
    values: dict[str, Any] = {
        "incident_id": INCIDENT, "revision": 1, "partition": partition, "partition_count": count,
        "scope_sha256": SCOPE.sha256(), "position_topic": "tocsin.store-changes", "position_offset": 1,
        "affected_count": len(own), "possible_count": sum(member.standing == "possible" for member in own),
        "merkle_root": set_root(own), "artefact": "a", "artefact_sha256": "0" * 64, "code_version": "1",
        "retention": "unlimited", "duration_seconds": 0.1, "resolved_at": NOW,
    }  # fmt: skip
    return PartitionResolved(**{**values, **changes})


def test_plan_completes_when_every_partition_is_here(world: World) -> None:
    sha256 = world.approve("*")
    people = [someone("customer/1"), someone("customer/2", "US-CA", locale="en_US"), someone("order/3", "FR")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people))
    assert planning.look() == 0
    world.feed(planning, answer(1, people))
    assert planning.look() == 1

    rows = world.people()
    assert set(rows) == {"customer/1", "customer/2", "order/3"}
    for root, row in rows.items():
        assert row["held_reason"] is None
        assert row["deadline_at"] is None or row["deadline_at"] > NOW
        (key,) = world.rows(tables.person_key, root=root)
        assert row["subject_commitment"] == commit(incident_key(key["key"], INCIDENT), root)
    segments = {row["segment_id"]: row for row in world.rows(tables.segment)}
    assert {row["bundle_sha256"] for row in segments.values()} == {sha256}
    assert segments[rows["customer/1"]["segment_id"]]["key"]["locale"] == "de"
    assert segments[rows["customer/2"]["segment_id"]]["key"]["group"] == "us"
    assert rows["customer/1"]["segment_id"] != rows["customer/2"]["segment_id"]
    (plan,) = world.rows(tables.plan)
    assert (plan["state"], plan["recipient_count"], plan["held_count"]) == ("complete", 3, 0)
    assert plan["residents"] == {"DE": 1, "FR": 1, "US-CA": 1}
    assert world.kinds() == ["notice.approved", "plan.completed", "obligations.computed"]
    duties = {row["regime_id"]: row for row in world.rows(tables.obligation)}
    assert duties["eu-gdpr-34"]["recipient"] == "individual"
    assert NOW + timedelta(hours=71) in {row["conservative_deadline_at"] for row in duties.values()}
    assert planning.look() == 0, "nothing has changed"
    assert len(world.kinds()) == 3


def test_repeats_and_a_restart_change_nothing(world: World) -> None:
    world.approve("*")
    people = [someone(f"customer/{number}") for number in range(1, 9)]
    events = [*people, answer(0, people), answer(1, people)]
    planning = world.planning()
    world.feed(planning, *events)
    planning.look()
    before = world.people(), world.rows(tables.segment), world.kinds()
    restarted = world.planning()
    world.feed(restarted, *events)
    assert restarted.look() == 0
    assert (world.people(), world.rows(tables.segment), world.kinds()) == before
    assert PlanningTables(world.database, world.clock, shipped_law).positions("planning", [("t", 0)]) == {
        ("t", 0): world.offset + 1
    }


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"merkle_root": "1" * 64}, "Merkle root"),
        ({"affected_count": 1}, "people here"),
        ({"scope_sha256": "1" * 64}, "another scope"),
        ({"partition_count": 3}, "disagree"),
    ],
)
def test_a_set_that_does_not_match_is_paged_and_never_planned(
    world: World, changes: dict[str, Any], fault: str
) -> None:
    people = [someone(f"customer/{number}") for number in range(1, 9)]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people, **changes))
    assert planning.look() == 0
    assert planning.look() == 0
    (page,) = world.rows(tables.page)
    assert page["kind"] == "plan.mismatch"
    assert fault in page["body"]["faults"][0]
    assert not world.rows(tables.recipient)


def test_the_page_about_a_set_that_does_not_match_ends_when_it_does(world: World) -> None:
    people = [someone(f"customer/{number}") for number in range(1, 9)]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people, merkle_root="1" * 64))
    planning.look()
    (page,) = world.rows(tables.page)
    assert (page["kind"], page["acknowledged_at"]) == ("plan.mismatch", None)
    right = world.planning()
    with world.database.write() as connection:
        event = answer(1, people).model_dump_json()
        connection.execute(sa.update(tables.resolution).where(tables.resolution.c.partition == 1).values(event=event))
    right.look()
    (page,) = [each for each in world.rows(tables.page) if each["kind"] == "plan.mismatch"]
    assert (page["acknowledged_at"], page["acknowledged_by"]) == (world.clock.now(), None)


def test_a_silent_partition_is_paged(world: World) -> None:
    people = [someone("customer/2")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people))
    planning.look()
    assert not world.rows(tables.page)
    world.clock.at += timedelta(seconds=61)
    planning.look()
    (page,) = world.rows(tables.page)
    assert (page["kind"], page["body"]["answered"], page["body"]["partition_count"]) == ("plan.silent", 1, 2)
    world.feed(planning, answer(1, []))
    planning.look()
    (page,) = [each for each in world.rows(tables.page) if each["kind"] == "plan.silent"]
    assert (page["acknowledged_at"], page["acknowledged_by"]) == (world.clock.now(), None), "it answered at last"


def test_roots_of_one_person_become_one_recipient(world: World) -> None:
    world.approve("*")
    mine = "a" * 64
    people = [
        someone("customer/1", email_hmac=mine),
        someone("order/5", "AT", customer_id=1, why=why("inferred|fraud-scorer|payment_dispute", record="o")),
        someone("order/6", email_hmac=mine, why=why("synthetic|fraud-scorer|transactions", record="p")),
        someone("order/8", email_hmac="b" * 64),
    ]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    rows = world.people()
    assert set(rows) == {"customer/1", "order/8"}
    assert rows["customer/1"]["roots"] == ["customer/1", "order/5", "order/6"]
    (segment,) = world.rows(tables.segment, segment_id=rows["customer/1"]["segment_id"])
    assert segment["key"]["disclosures"] == sorted(
        [SCORE, "inferred|fraud-scorer|payment_dispute", "synthetic|fraud-scorer|transactions"]
    )
    assert [claim["code"] for claim in rows["customer/1"]["residence"]] == ["DE", "AT"]


def test_without_approval_everybody_is_held_until_there_is_one(world: World) -> None:
    people = [someone("customer/1"), someone("customer/2", "US-CA")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    assert all("no approved notice" in row["held_reason"] for row in world.people().values())
    (page,) = world.rows(tables.page)
    assert (page["kind"], page["body"]["people"]) == ("people.held", 2)

    world.approve("EU")
    planning.look()
    rows = world.people()
    assert rows["customer/1"]["held_reason"] is None
    assert "US-CA" in rows["customer/2"]["held_reason"]
    world.clock.at += timedelta(minutes=1)
    world.approve("EU", "US")
    planning.look()
    assert all(row["held_reason"] is None and not row["late"] for row in world.people().values())
    assert all(row["bundle_sha256"] for row in world.rows(tables.segment))


def test_a_revoked_text_holds_those_not_yet_written_to(world: World) -> None:
    sha256 = world.approve("*")
    people = [someone("customer/1"), someone("customer/2")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    begin_attempt(world, f"{INCIDENT}:customer/1")
    NoticeBundles(world.database).revoke(sha256, by="c", role="counsel", actor="0" * 64, at=NOW, reason="wrong")
    planning.look()
    rows = world.people()
    assert rows["customer/1"]["held_reason"] is None
    assert rows["customer/2"]["held_reason"]


def test_a_missing_sentence_holds_its_people_only(world: World) -> None:
    world.approve("*")
    people = [someone("customer/1"), someone("customer/2", why=why("inferred|unheard-of|income"))]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    rows = world.people()
    assert rows["customer/1"]["held_reason"] is None
    assert "inferred|unheard-of|income" in rows["customer/2"]["held_reason"]


def test_unknown_residence_blocks_nobody(world: World) -> None:
    world.approve("*")
    people = [someone("customer/1", None), someone("customer/2", "XX")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    rows = world.people()
    assert all(row["held_reason"] is None and row["jurisdictions"] == ["unknown"] for row in rows.values())
    (plan,) = world.rows(tables.plan)
    assert plan["residents"] == {"unknown": 2}
    assert {row["key"]["group"] for row in world.rows(tables.segment)} == {"unknown"}


def begin_attempt(world: World, recipient_id: str) -> None:
    world.execute(
        sa.insert(tables.attempt).values(
            attempt_id=recipient_id[-20:], recipient_id=recipient_id, number=1, incident_id=INCIDENT, release_id="r",
            channel="email", provider="ses", state="handed_over", state_at=NOW, epoch=1, send_count=1,
        )
    )  # fmt: skip


def test_late_people_are_added_once_and_merged(world: World) -> None:
    world.approve("*")
    people = [someone("customer/1", email_hmac="a" * 64), someone("customer/2", email_hmac="b" * 64)]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    begin_attempt(world, f"{INCIDENT}:customer/1")
    late = [
        someone("customer/3", late=True),
        someone("order/9", late=True, email_hmac="a" * 64, why=why("inferred|fraud-scorer|payment_dispute")),
        someone("order/10", late=True, email_hmac="b" * 64, why=why("inferred|fraud-scorer|payment_dispute")),
    ]
    world.feed(planning, *late, *late)
    assert planning.look() == 1
    rows = world.people()
    assert set(rows) == {"customer/1", "customer/2", "customer/3"}
    assert [rows[root]["late"] for root in sorted(rows)] == [False, False, True]
    assert rows["customer/1"]["roots"] == ["customer/1", "order/9"]
    assert {row["root"] for row in world.rows(tables.merged_root)} == {"order/9", "order/10"}
    assert len(rows["customer/2"]["why"]["disclosures"]) == 2
    assert {page["kind"] for page in world.rows(tables.page)} == {"people.more_affected", "people.late"}
    assert world.kinds()[-1] == "plan.extended"


def test_possible_people_get_a_notice_that_says_so_and_then_their_own(world: World) -> None:
    world.approve("*")
    people = [someone("customer/1", standing="possible", why=None), someone("customer/2")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    row = world.people()["customer/1"]
    assert (row["standing"], row["held_reason"], row["highest_sensitivity"]) == ("possible", None, "critical")
    world.feed(planning, someone("customer/1", late=True))
    planning.look()
    row = world.people()["customer/1"]
    assert (row["standing"], row["late"]) == ("recorded", False)
    assert row["why"]["disclosures"] == [SCORE]


def test_whoever_was_left_out_gets_no_notice_until_a_record_says_that_they_are_concerned(world: World) -> None:
    world.approve("DE")
    planning = world.planning()
    people = [someone("customer/1"), someone("customer/2", standing="possible", why=None)]
    world.feed(planning, *people, answer(0, people, count=1))
    planning.look()
    assert set(world.people()) == {"customer/1", "customer/2"}
    with world.database.write() as connection:
        case = SqlCaseWork(connection, NOW)
        assert case.exclude_possible(INCIDENT, 1, "e" * 32) == 1
        case.add_exclusion(ExclusionRecord("e" * 32, INCIDENT, 1, 1, "0" * 64, NOW, "dpo-1", "not theirs"))
    planning.look()
    assert set(world.people()) == {"customer/1"}
    # found late, and only possible too: nobody decided about this one
    world.feed(planning, someone("customer/3", standing="possible", why=None, late=True))
    planning.look()
    assert set(world.people()) == {"customer/1", "customer/3"}
    world.feed(planning, someone("customer/2", late=True))
    planning.look()
    assert set(world.people()) == {"customer/1", "customer/2", "customer/3"}


def test_whoever_was_left_out_is_told_after_all_once_that_is_withdrawn(world: World) -> None:
    world.approve("DE")
    planning = world.planning()
    people = [someone("customer/1"), someone("customer/2", standing="possible", why=None)]
    world.feed(planning, *people, answer(0, people, count=1))
    with world.database.write() as connection:
        case = SqlCaseWork(connection, NOW)
        case.exclude_possible(INCIDENT, 1, "e" * 32)
        case.add_exclusion(ExclusionRecord("e" * 32, INCIDENT, 1, 1, "0" * 64, NOW, "dpo-1", "not theirs"))
    planning.look()
    assert set(world.people()) == {"customer/1"}
    with world.database.write() as connection:
        assert SqlCaseWork(connection, NOW).withdraw_exclusions(INCIDENT, 1, by="dpo-1", at=NOW) == 1
    planning.look()
    assert set(world.people()) == {"customer/1", "customer/2"}


def test_a_new_revision_supersedes_and_drops_whom_nobody_wrote_to(world: World) -> None:
    world.approve("*")
    people = [someone("customer/1"), someone("customer/2"), someone("customer/3")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    begin_attempt(world, f"{INCIDENT}:customer/1")
    world.execute(sa.update(tables.incident).values(revision=2))
    again = [replace_revision(person) for person in people[1:2]]
    world.feed(planning, *again, answer(0, again, revision=2), answer(1, again, revision=2))
    planning.look()
    rows = world.people()
    assert {root: row["revision"] for root, row in rows.items()} == {"customer/1": 1, "customer/2": 2}
    assert {row["revision"]: row["state"] for row in world.rows(tables.plan)} == {1: "superseded", 2: "complete"}
    assert world.rows(tables.obligation, revision=2, regime_id="eu-gdpr-34")
    assert [row["people_count"] for row in world.rows(tables.exposure, revision=2)] == [1]


def replace_revision(person: CustomerAffected) -> CustomerAffected:
    return person.model_copy(update={"revision": 2})


def test_recorded_facts_move_the_clocks(world: World) -> None:
    world.approve("*")
    people = [someone("customer/1"), someone("customer/2")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    due = {row["regime_id"]: row["deadline_at"] for row in world.rows(tables.obligation)}
    aware = (NOW - timedelta(minutes=30)).isoformat()
    for name, value in (("controller_aware_at", aware), ("gdpr_risk", "high"), ("encrypted", False)):
        world.execute(sa.insert(tables.fact).values(incident_id=INCIDENT, name=name, value=value, recorded_at=NOW))
    planning.look()
    moved = {row["regime_id"]: row["deadline_at"] for row in world.rows(tables.obligation)}
    assert {regime for regime in moved if moved[regime] != due[regime]}
    assert world.kinds()[-1] == "obligations.computed"


def test_a_fact_that_cannot_be_used_is_paged_and_loses_nobody(world: World) -> None:
    people = [someone("customer/1")]
    planning = world.planning()
    world.execute(
        sa.insert(tables.fact).values(incident_id=INCIDENT, name="gdpr_risk", value="enormous", recorded_at=NOW)
    )
    world.feed(planning, *people, answer(0, people), answer(1, people))
    assert planning.look() == 0
    assert [page["kind"] for page in world.rows(tables.page)] == ["plan.unusable"]
    world.execute(sa.insert(tables.fact).values(incident_id=INCIDENT, name="gdpr_risk", value="high", recorded_at=NOW))
    assert planning.look() == 1
    assert len(world.people()) == 1


def test_unknown_elements_of_the_store_stop_no_plan(world: World) -> None:
    people = [someone("customer/1", why=why(SCORE, elements=("fraud_score", "shoe_size")))]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    assert planning.look() == 1


def test_a_closed_incident_keeps_no_contact(world: World) -> None:
    world.execute(sa.update(tables.incident).values(state="closed", closed_at=NOW))
    planning = world.planning()
    world.feed(planning, someone("customer/1"))
    assert '"contact":null' in world.rows(tables.affected)[0]["event"]
    assert planning.look() == 0


ROOTS = st.sampled_from([f"customer/{n}" for n in range(1, 6)] + [f"order/{n}" for n in range(1, 8)])
DISCLOSURES = st.sampled_from([SCORE, "inferred|income-estimator|income", "synthetic|fraud-scorer|transactions"])


@st.composite
def affected_people(draw: st.DrawFn) -> list[CustomerAffected]:
    people = []
    for root in draw(st.lists(ROOTS, unique=True, max_size=9)):
        owner = draw(st.one_of(st.none(), st.integers(1, 5))) if root.startswith("order/") else int(root[9:])
        mail = draw(st.one_of(st.none(), st.sampled_from("abc")))
        people.append(
            someone(
                root,
                draw(st.sampled_from(["DE", "US-CA", None])),
                customer_id=owner,
                email_hmac=None if mail is None else mail * 64,
                website_id=draw(st.sampled_from([1, 2])),
                why=why(*draw(st.lists(DISCLOSURES, min_size=1, unique=True)), record=root),
                contact=draw(st.sampled_from([None, contact()])),
            )
        )
    return people


@given(affected_people(), st.randoms(use_true_random=False))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_merging_loses_nobody_and_joins_whom_it_must(people: list[CustomerAffected], random: Any) -> None:
    shuffled = list(people)
    random.shuffle(shuffled)
    merged = merge(shuffled, lambda website: f"c{website}")
    assert merged == merge(people, lambda website: f"c{website}")
    roots = [root for person in merged for root in person.roots]
    assert sorted(roots) == sorted(each.root for each in people)
    of = {root: index for index, person in enumerate(merged) for root in person.roots}
    by_root = {each.root: each for each in people}
    for one in people:
        for other in people:
            same_contact = one.email_hmac is not None and (one.email_hmac, one.website_id) == (
                other.email_hmac,
                other.website_id,
            )
            if same_contact or (one.customer_id is not None and one.customer_id == other.customer_id):
                assert of[one.root] == of[other.root]
    for person in merged:
        members = [by_root[root] for root in person.roots]
        assert set(person.disclosures) == {key for each in members if each.why for key in each.why.disclosures}
        assert person.contact == by_root[person.root].contact
        assert (person.contact is None) == all(each.contact is None for each in members)


def test_purely_synthetic_people_are_held_and_nobody_is_paged_about_them(world: World) -> None:
    world.approve("*")
    people = [someone("customer/1"), someone("customer/2")]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    world.execute(
        sa.insert(tables.fact).values(incident_id=INCIDENT, name="sensitivity", value="synthetic_only", recorded_at=NOW)
    )
    planning.look()
    assert {row["held_reason"] for row in world.people().values()} == {NOBODY_BEHIND_IT}
    assert not [page for page in world.rows(tables.page) if page["kind"] == "people.held"]
    duties = {row["regime_id"]: row["status"] for row in world.rows(tables.obligation)}
    assert not [name for name, status in duties.items() if status.startswith("due") or status == "pending"]


def test_who_lives_where_and_whom_the_law_protects_is_counted_per_controller(world: World) -> None:
    world.approve("*")
    people = [
        someone("customer/1"),
        someone("customer/2", "US-TX", why=why(SCORE, record="r2", elements=("full_name", "ssn"))),
        someone("customer/3", "US-TX", why=why(SCORE, record="r3", elements=("email",))),
        someone("order/5", None),
    ]
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    [row] = world.rows(tables.exposure)
    assert (row["controller"], row["people_count"], row["possible_count"]) == ("shop", 4, 0)
    assert row["residents"] == {"DE": 1, "US-TX": 2, "unknown": 1}
    assert row["triggering"] == {"DE": 1, "US-TX": 1}
    assert row["triggered"]["us-tx-ind"] == 1
    assert world.people()["order/5"]["jurisdictions"] == ["unknown"]
    assert world.people()["order/5"]["held_reason"] is None, "unknown residence blocks nobody"
    deadlines = {root: each["deadline_at"] for root, each in world.people().items()}
    assert deadlines["order/5"] == min(at for at in deadlines.values() if at is not None)


def test_nobody_found_without_full_coverage_leaves_the_clocks_running(world: World) -> None:
    planning = world.planning()
    world.feed(planning, answer(0, ()), answer(1, ()))
    planning.look()
    assert world.rows(tables.exposure) == []
    duties = {row["regime_id"]: row for row in world.rows(tables.obligation)}
    assert duties["us-ca-ind"]["status"] == "pending"
    assert duties["eu-gdpr-33"]["conservative_deadline_at"] is not None


def in_parts_of(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(drawing, "_READ_AT_ONCE", size)


def plan_of(world: World, people: Sequence[CustomerAffected]) -> Planning:
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    return planning


def as_planned(world: World) -> dict[str, Any]:
    """Everything that a plan consists of, but for what is random or names this store."""
    people = {
        name: {column: value for column, value in row.items() if column != "subject_commitment"}
        for name, row in {**world.people(), **world.supplements()}.items()
    }
    events = [json.loads(row["value"]) for row in world.rows(tables.outbox)]
    for event in events:
        for name in ("subject", "roots_digest"):
            event["body"].pop(name, None)
        del event["case_event_id"]
    return {
        "people": people, "events": events,
        **{
            table.name: sorted(map(str, world.rows(table)))
            for table in (tables.segment, tables.plan, tables.exposure, tables.obligation, tables.page)
        },
    }  # fmt: skip


def a_crowd(count: int) -> list[CustomerAffected]:
    """People of whom some have several roots, in the order of roots far from each other."""
    shared = {f"order/{number}": f"{number % 7:064x}" for number in range(1, count, 5)}
    homes = ("DE", "US-CA", "FR", None)
    people = [someone(f"customer/{number}", homes[number % 4]) for number in range(1, count)]
    people += [
        someone(
            root, homes[int(root[6:]) % 4], email_hmac=hmac, customer_id=int(root[6:]) if int(root[6:]) % 2 else None
        )
        for root, hmac in shared.items()
    ]
    return people


def test_a_plan_drawn_up_in_parts_is_the_same_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = a_crowd(22)
    found = []
    for name, size in (("whole", 2000), ("parts", 3)):
        in_parts_of(monkeypatch, size)
        folder = tmp_path / name
        folder.mkdir()
        database = sqlite_case_store(folder / "case.db")
        world = world_on(database, folder)
        world.approve("*")
        planning = plan_of(world, people)
        first = as_planned(world)
        # and again, with more roots for two of them, one late, and one who was told
        begin_attempt(world, f"{INCIDENT}:customer/2")
        joins = someone("order/900", "DE", late=True, customer_id=2, why=why(SCORE, record="more"))
        world.feed(
            planning, joins, someone("order/901", "FR", late=True), someone("order/902", late=True, customer_id=4)
        )
        planning.look()
        found.append((first, as_planned(world)))
        assert [row["partly_drawn"] for row in world.rows(tables.plan)] == [False]
        database.close()
    for one, other in zip(*found, strict=True):
        for what in one:
            assert one[what] == other[what], what
    assert len(found[0][0]["people"]) == len(merge(people, lambda _: "shop"))


def killed_after_writes(world: World, count: int) -> None:
    """Draw up what can be drawn up in a process that is killed when it has written so often."""

    def in_child() -> None:
        world.database = CaseDatabase(world.database.engine.url.render_as_string(hide_password=False))
        write = PlanningTables.write
        writes = itertools.count(1)

        def dies(store: PlanningTables, *change: Any) -> Any:
            written = write(store, *change)
            if next(writes) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return written

        pytest.MonkeyPatch().setattr(PlanningTables, "write", dies)
        world.planning().look()

    # no connection of ours may be open in two processes
    world.database.engine.dispose()
    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("complete", [False, True])
def test_a_plan_half_drawn_when_the_process_died_is_not_released_and_is_drawn_up_again(
    world: World, monkeypatch: pytest.MonkeyPatch, *, complete: bool
) -> None:
    in_parts_of(monkeypatch, 3)
    people = a_crowd(12)
    everybody = {each.root for each in merge(people, lambda _: "shop")}
    world.approve("*")
    if complete:
        plan_of(world, people)
        world.approve("*", until=NOW + timedelta(days=80))
        world.execute(sa.delete(tables.segment))
        changed = {"locale": "fr_FR"}
        world.execute(sa.update(tables.recipient).values(changed))
    else:
        world.feed(world.planning(), *people, answer(0, people), answer(1, people))
    killed_after_writes(world, 2)
    (plan,) = world.rows(tables.plan)
    assert (plan["state"], plan["partly_drawn"]) == ("complete" if complete else "gathering", True)
    half = world.people()
    if complete:
        assert half.keys() == everybody
        assert {row["locale"] for row in half.values()} == {"de_AT", "fr_FR"}
    else:
        assert 0 < len(half) < len(everybody)
    assert "plan.completed" not in world.kinds()[-1:]
    with (
        world.database.read() as connection,
        pytest.raises(Refused, match="drawn up anew" if complete else "have answered"),
    ):
        case = SqlCaseWork(connection, NOW)
        incident = case.incident(INCIDENT)
        assert incident is not None
        build_policy(case, incident, mode=Mode.TWO_APPROVERS, late_cap=0)

    assert world.planning().look() == 1
    (plan,) = world.rows(tables.plan)
    assert (plan["state"], plan["partly_drawn"], plan["recipient_count"]) == ("complete", False, len(everybody))
    after = world.people()
    assert after.keys() == everybody
    assert {row["locale"] for row in after.values()} == {"de_AT"}
    segments = {row["segment_id"]: row["count"] for row in world.rows(tables.segment)}
    assert segments == Counter(row["segment_id"] for row in after.values())


def test_somebody_begun_while_their_part_is_drawn_up_keeps_their_notice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts_of(monkeypatch, 3)
    world.approve("*")
    planning = plan_of(world, a_crowd(12))
    before = world.people()
    world.execute(
        sa.insert(tables.fact).values(incident_id=INCIDENT, name="sensitivity", value="synthetic_only", recorded_at=NOW)
    )
    write = PlanningTables.write
    begun: list[str] = []

    def begins(store: PlanningTables, *change: Any) -> Any:
        if not begun and change[1].changed:
            begun.append(change[1].changed[0]["recipient_id"])
            begin_attempt(world, begun[0])
        return write(store, *change)

    monkeypatch.setattr(PlanningTables, "write", begins)
    assert planning.look() == 1
    after = world.people()
    assert [row for row in after.values() if row["recipient_id"] == begun[0]] == [
        row for row in before.values() if row["recipient_id"] == begun[0]
    ]
    assert {row["held_reason"] for row in after.values() if row["recipient_id"] != begun[0]} == {NOBODY_BEHIND_IT}
