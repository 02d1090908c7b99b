"""Planning when records arrive late, when more is found of people who were told, and when the scope is corrected."""

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.events import CustomerAffected, Sensitivity
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.clocks import Clocks
from consumers.domain.clocks import LATE_PEOPLE
from consumers.domain.resolution import member_leaf
from consumers.evidence.merkle import leaf_hash, root_over
from consumers.stages.planning import Planning
from tests.unit.stages.test_planning import (
    INCIDENT,
    NOW,
    SCORE,
    World,
    answer,
    begin_attempt,
    replace_revision,
    someone,
    why,
    world,
)

__all__ = ["world"]

DISPUTE = "inferred|fraud-scorer|payment_dispute"


def planned(world: World, *people: CustomerAffected) -> Planning:
    """Plan an incident about `people` under an approved text."""
    world.approve("*")
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    return planning


def told(world: World, root: str) -> str:
    recipient_id = f"{INCIDENT}:{root}"
    begin_attempt(world, recipient_id)
    return recipient_id


def leaf(event: CustomerAffected) -> bytes:
    record_ids = () if event.why is None else event.why.record_ids
    return leaf_hash(member_leaf(event.root, record_ids, event.standing))


def case_events(world: World, kind: str) -> list[dict[str, Any]]:
    values = [json.loads(row["value"]) for row in world.rows(tables.outbox)]
    return [value for value in values if value["kind"] == kind]


def test_who_is_told_and_of_whom_more_is_found_gets_one_supplement_of_their_own(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    first = told(world, "customer/1")
    before = world.people()["customer/1"]
    world.clock.at += timedelta(hours=2)
    more = someone("customer/1", late=True, why=why(DISPUTE, record="late"))
    world.feed(planning, more, more)
    planning.look()

    assert world.people()["customer/1"] == before, "what they were told stays on record"
    (supplement,) = world.supplements().values()
    assert supplement["recipient_id"] == f"{first}#2"
    assert (supplement["round"], supplement["supplements"], supplement["late"]) == (2, first, True)
    assert supplement["added_at"] == NOW + timedelta(hours=2)
    assert supplement["why"]["disclosures"] == sorted([SCORE, DISPUTE]), "it says all that is known"
    assert supplement["segment_id"] != before["segment_id"]
    (segment,) = world.rows(tables.segment, segment_id=supplement["segment_id"])
    assert segment["key"]["supplement"] is True
    assert supplement["subject_commitment"] == before["subject_commitment"]
    assert [page["kind"] for page in world.rows(tables.page)] == ["people.more_affected"]
    (plan,) = world.rows(tables.plan)
    assert plan["recipient_count"] == 2, "a supplement is no further person"
    assert planning.look() == 0


@pytest.mark.parametrize(
    "same",
    [
        {"why": why(SCORE, record="another")},
        {"why": why(SCORE, record="another", elements=("fraud_score",))},
        {"why": why(SCORE, record="z").model_copy(update={"models": ("fraud-scorer@7.1",), "attributes": ("risk",)})},
        {"why": why(SCORE, record="z").model_copy(update={"highest_sensitivity": Sensitivity.LOW})},
    ],
    ids=["another record", "fewer elements", "another version and attribute", "lower sensitivity"],
)
def test_nobody_is_told_twice_for_the_same_facts(world: World, same: dict[str, Any]) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    told(world, "customer/1")
    world.feed(planning, someone("customer/1", late=True, **same))
    planning.look()
    assert not world.supplements()


@pytest.mark.parametrize(
    "more",
    [
        why(SCORE, DISPUTE),
        why("synthetic|fraud-scorer|fraud_assessment"),
        why("derived|income-estimator|fraud_assessment"),
        why(SCORE, elements=("fraud_score", "full_name", "ssn")),
        why(SCORE).model_copy(update={"highest_sensitivity": Sensitivity.CRITICAL}),
    ],
    ids=["category", "kind", "system", "element", "sensitivity"],
)
def test_whatever_makes_somebody_more_affected_is_supplemented(world: World, more: Any) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    told(world, "customer/1")
    world.feed(planning, someone("customer/1", late=True, why=more))
    planning.look()
    assert list(world.supplements()) == [f"{INCIDENT}:customer/1#2"]


def test_who_has_not_been_told_simply_gets_the_fuller_notice(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    world.feed(planning, someone("customer/1", late=True, why=why(DISPUTE, record="late")))
    planning.look()
    row = world.people()["customer/1"]
    assert (row["why"]["disclosures"], row["late"]) == (sorted([SCORE, DISPUTE]), False)
    assert not world.supplements()


def test_a_first_notice_that_has_not_left_gives_way_to_the_fuller_one(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    recipient_id = told(world, "customer/1")
    world.execute(sa.update(tables.attempt).values(state="planned", send_count=0))
    world.feed(planning, someone("customer/1", late=True, why=why(DISPUTE, record="late")))
    planning.look()
    assert world.people()["customer/1"]["why"]["disclosures"] == sorted([SCORE, DISPUTE])
    assert not world.supplements()
    assert not world.rows(tables.attempt, recipient_id=recipient_id)


def test_a_command_on_the_belt_is_not_taken_back(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    told(world, "customer/1")
    world.execute(sa.update(tables.attempt).values(state="commanded", send_count=0))
    world.feed(planning, someone("customer/1", late=True, why=why(DISPUTE, record="late")))
    planning.look()
    assert list(world.supplements()) == [f"{INCIDENT}:customer/1#2"]
    assert len(world.rows(tables.attempt)) == 1


def test_a_supplement_that_was_sent_is_supplemented_in_its_turn(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    first = told(world, "customer/1")
    world.feed(planning, someone("customer/1", late=True, why=why(DISPUTE, record="late")))
    planning.look()
    begin_attempt(world, f"{first}#2")
    world.feed(planning, someone("customer/1", late=True, why=why(DISPUTE, record="later")))
    planning.look()
    assert list(world.supplements()) == [f"{first}#2"]
    world.feed(
        planning, someone("customer/1", late=True, why=why("synthetic|fraud-scorer|transactions", record="last"))
    )
    planning.look()
    rows = world.supplements()
    assert {name: (row["round"], row["supplements"]) for name, row in rows.items()} == {
        f"{first}#2": (2, first),
        f"{first}#3": (3, first),
    }


def test_a_possible_person_who_was_told_is_supplemented_once_a_record_says_what(world: World) -> None:
    planning = planned(world, someone("customer/1", standing="possible", why=None), someone("customer/2"))
    told(world, "customer/1")
    world.feed(planning, someone("customer/1", late=True))
    planning.look()
    (row,) = world.supplements().values()
    assert (row["standing"], row["why"]["disclosures"]) == ("recorded", [SCORE])


def test_a_guest_order_that_turns_out_to_be_somebody_who_was_told_supplements_them(world: World) -> None:
    planning = planned(world, someone("customer/1", email_hmac="a" * 64), someone("customer/2"))
    first = told(world, "customer/1")
    world.feed(planning, someone("order/9", late=True, email_hmac="a" * 64, why=why(DISPUTE, record="o")))
    planning.look()
    assert world.people()["customer/1"]["roots"] == ["customer/1", "order/9"]
    assert list(world.supplements()) == [f"{first}#2"]
    assert planning.look() == 0


def test_two_who_were_told_apart_and_are_one_are_not_told_again(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("order/4", email_hmac="b" * 64), someone("customer/2"))
    told(world, "customer/1")
    told(world, "order/4")
    world.feed(planning, someone("order/6", late=True, customer_id=1, email_hmac="b" * 64, why=why(SCORE, record="o")))
    planning.look()
    assert not world.supplements()
    assert set(world.people()) == {"customer/1", "order/4", "customer/2"}


def test_a_late_person_of_another_country_brings_new_duties_clocks_and_pages(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    before = {row["regime_id"]: row["status"] for row in world.rows(tables.obligation)}
    assert before.get("us-tx-ind") not in ("due", "pending")
    # long after the first date passed: the late one has a clock of their own
    world.clock.at += timedelta(days=100)
    late = someone("customer/3", "US-TX", late=True, why=why(SCORE, elements=("full_name", "ssn"), record="t"))
    world.feed(planning, late)
    planning.look()
    row = world.people()["customer/3"]
    assert (row["late"], row["added_at"]) == (True, world.clock.at)
    assert "us-tx-ind" in row["jurisdictions"]
    (duty,) = world.rows(tables.obligation, regime_id="us-tx-ind")
    assert duty["status"] in ("due", "pending")
    assert duty["conservative_deadline_at"] < world.clock.at
    period = duty["conservative_deadline_at"] - (NOW - timedelta(hours=1))
    assert row["deadline_at"] == world.clock.at + period
    pages = {page["kind"]: page for page in world.rows(tables.page)}
    assert pages["people.late"]["body"]["jurisdictions"] == ["US-TX"]
    assert any("us-tx-ind" in sentence for sentence in pages["duties.moved"]["body"]["moved"])
    planning.look()
    assert world.people()["customer/3"]["deadline_at"] == row["deadline_at"], "the clock is not wound up again"


def test_what_came_late_has_leaves_and_roots_of_its_own_in_the_log(world: World) -> None:
    people = [someone("customer/1"), someone("customer/2")]
    planning = planned(world, *people)
    new, more = someone("customer/3", late=True), someone("customer/1", late=True, why=why(DISPUTE, record="m"))
    world.feed(planning, more, new)
    world.feed(planning, new, more)
    second = someone("customer/5", late=True)
    world.feed(planning, second)
    events = case_events(world, "people.added_late")
    assert [event["body"] for event in events] == [
        {
            "revision": 1, "number": 1, "member_count": 2, "new_count": 1, "total_count": 2,
            "members_root": root_over([leaf(more), leaf(new)]).hex(),
        },
        {
            "revision": 1, "number": 2, "member_count": 1, "new_count": 1, "total_count": 3,
            "members_root": root_over([leaf(second)]).hex(),
        },
    ]  # fmt: skip
    kept: dict[int, list[Mapping[Any, Any]]] = {}
    for row in sorted(world.rows(tables.late_member), key=lambda row: row["root"]):
        kept.setdefault(row["number"], []).append(row)
    assert {
        number: root_over([bytes.fromhex(row["member_leaf"]) for row in rows]).hex() for number, rows in kept.items()
    } == {row["number"]: row["merkle_root"] for row in world.rows(tables.late_addition)}
    assert {row["root"]: row["known"] for row in world.rows(tables.late_member)} == {
        "customer/1": True, "customer/3": False, "customer/5": False,
    }  # fmt: skip
    # what the partitions' own records cover has not changed
    originals = {row["root"]: row["member_leaf"] for row in world.rows(tables.affected) if not row["late"]}
    assert originals == {each.root: leaf(each).hex() for each in people}


def test_late_people_of_a_closed_incident_are_noted_paged_and_have_no_contact(world: World) -> None:
    planning = planned(world, someone("customer/1"))
    world.execute(sa.update(tables.incident).values(state="closed", closed_at=NOW))
    world.feed(planning, someone("customer/1", late=True, why=why(DISPUTE)), someone("customer/3", late=True))
    assert {page["kind"] for page in world.rows(tables.page)} == {"people.late_after_end"}
    assert len(case_events(world, "people.added_late")) == 1
    assert all('"contact":null' in row["event"] for row in world.rows(tables.affected))


def test_a_corrected_scope_keeps_tells_and_corrects_whom_it_must(world: World) -> None:
    people = [someone(f"customer/{number}") for number in range(1, 6)]
    people[3] = someone("customer/4", why=why(SCORE, DISPUTE))
    planning = planned(world, *people)
    for number in (1, 2, 4):
        told(world, f"customer/{number}")
    failed = told(world, "customer/5")
    world.execute(sa.update(tables.attempt).where(tables.attempt.c.recipient_id == failed).values(state="bounced"))
    world.execute(sa.update(tables.incident).values(revision=2))
    # 1 stays the same, 4 was told too much, 6 is new; 2, 3 and 5 are no longer concerned
    again = [replace_revision(each) for each in (people[0], someone("customer/4"), someone("customer/6"))]
    world.feed(planning, *again, answer(0, again, revision=2), answer(1, again, revision=2))
    planning.look()

    rows = world.people()
    assert set(rows) == {"customer/1", "customer/2", "customer/4", "customer/5", "customer/6"}, "3 was never told"
    assert {root: row["correction"] for root, row in rows.items()} == {
        "customer/1": None, "customer/2": "not_concerned", "customer/4": "told_too_much", "customer/5": None,
        "customer/6": None,
    }  # fmt: skip
    assert (rows["customer/6"]["late"], rows["customer/6"]["added_at"]) == (False, None)
    assert not world.supplements()
    assert [event["body"] for event in case_events(world, "people.told_wrongly")] == [
        {"revision": 2, "not_concerned_count": 1, "told_too_much_count": 1}
    ]
    assert "people.told_wrongly" in {page["kind"] for page in world.rows(tables.page)}

    # the scope is widened again: who was told is concerned after all, and is not told a second time
    world.execute(sa.update(tables.incident).values(revision=3))
    third = [each.model_copy(update={"revision": 3}) for each in people]
    world.feed(planning, *third, answer(0, third, revision=3), answer(1, third, revision=3))
    planning.look()
    assert {row["correction"] for row in world.people().values()} == {None}
    assert not world.supplements()


def test_a_wider_scope_supplements_who_was_told_of_less(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    told(world, "customer/1")
    world.execute(sa.update(tables.incident).values(revision=2))
    again = [replace_revision(someone(root, why=why(SCORE, DISPUTE))) for root in ("customer/1", "customer/2")]
    world.feed(planning, *again, answer(0, again, revision=2), answer(1, again, revision=2))
    planning.look()
    (supplement,) = world.supplements().values()
    # not late: the approval of the new revision is about them
    assert (supplement["root"], supplement["late"], supplement["revision"]) == ("customer/1", False, 2)
    at = supplement["added_at"]
    world.clock.at += timedelta(hours=1)
    world.execute(sa.insert(tables.fact).values(incident_id=INCIDENT, name="gdpr_risk", value="high", recorded_at=NOW))
    planning.look()
    assert [row["added_at"] for row in world.supplements().values()] == [at]


def test_page_ids_are_told_at_every_doubling(world: World) -> None:
    planning = planned(world, someone("customer/1"))
    for number in range(10, 19):
        world.feed(planning, someone(f"customer/{number}", late=True))
        planning.look()
    pages = [page["body"]["people"] for page in world.rows(tables.page) if page["kind"] == "people.late"]
    assert sorted(pages) == [1, 2, 4, 8]


def test_late_people_have_a_clock_that_is_watched_though_the_duty_is_met(world: World) -> None:
    planning = planned(world, someone("customer/1"), someone("customer/2"))
    clocks = Clocks(world.database, world.clock)
    assert LATE_PEOPLE not in {each.regime_id for each in clocks.running()}
    world.clock.at += timedelta(days=100)
    late = someone("customer/3", "US-TX", late=True, why=why(SCORE, elements=("full_name", "ssn"), record="t"))
    world.feed(planning, late)
    planning.look()
    (running,) = [each for each in clocks.running() if each.regime_id == LATE_PEOPLE]
    assert (running.started_at, running.deadline_at) == (world.clock.at, world.people()["customer/3"]["deadline_at"])
    world.execute(sa.update(tables.recipient).values(final_state="reached", final_at=NOW))
    assert LATE_PEOPLE not in {each.regime_id for each in clocks.running()}
