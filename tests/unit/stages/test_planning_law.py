"""What planning does with what laws ask of a notice: who would get one that lacks it is held, by name; all others go."""

from collections.abc import Mapping
from typing import Any

from bridge.contracts.events import CustomerAffected
from consumers.adapters.case_store import tables
from tests.unit.stages.test_planning import SCORE, World, answer, someone, why, world

__all__ = ["world"]
SSN = ("full_name", "ssn", "fraud_score")


def planned(world: World, *people: CustomerAffected) -> Mapping[str, Mapping[Any, Any]]:
    world.approve("*")
    planning = world.planning()
    world.feed(planning, *people, answer(0, people), answer(1, people))
    planning.look()
    return world.people()


def key_of(world: World, row: Mapping[Any, Any]) -> Mapping[str, Any]:
    (segment,) = world.rows(tables.segment, segment_id=row["segment_id"])
    key: Mapping[str, Any] = segment["key"]
    return key


def test_who_lacks_what_the_law_asks_is_held_paged_and_counted_and_everybody_else_goes(world: World) -> None:
    rows = planned(
        world,
        someone("customer/1"),
        someone("customer/2", "US-CT", locale="en_US", why=why(SCORE, elements=SSN)),
        someone("customer/3", "US-CT", locale="en_US"),
        someone("customer/4", "US-NY", locale="en_US", why=why(SCORE, elements=SSN)),
    )
    held = {root: row["held_reason"] for root, row in rows.items() if row["held_reason"]}
    assert set(held) == {"customer/2"}
    assert held["customer/2"].startswith("the notice lacks what the law asks: us-ct-ind credit_monitoring_offer (Conn.")
    (page,) = [page for page in world.rows(tables.page) if page["kind"] == "people.held"]
    assert page["body"]["people"] == 1
    assert "us-ct-ind credit_monitoring_offer" in page["body"]["reasons"][0]
    assert rows["customer/2"]["deadline_at"] is not None
    assert page["body"]["earliest_deadline_at"] is not None


def test_each_gets_what_their_own_state_asks(world: World) -> None:
    rows = planned(
        world,
        someone("customer/1"),
        someone("customer/2", "US-NY", locale="en_US", why=why(SCORE, elements=SSN)),
        someone("customer/3", "US-RI", locale="en_US", why=why(SCORE, elements=SSN)),
    )
    german, new_york, rhode_island = (key_of(world, rows[f"customer/{number}"]) for number in (1, 2, 3))
    assert german["states"] == german["forbids"] == []
    assert "credit_bureau_contacts" not in german["asks"]
    assert {"nature_of_incident", "consequences", "dpo_contact"} <= set(german["asks"])
    assert new_york["states"] == ["US-NY"]
    assert "attorney_general_contact" in new_york["asks"]
    assert new_york["facts"] == {}
    assert rhode_island["facts"] == {"people": "3"}, "the law of Rhode Island asks for the number"


def test_where_a_law_forbids_it_nobody_hears_it_and_two_laws_that_clash_hold(world: World) -> None:
    rows = planned(
        world,
        someone("customer/1", "US-MA", locale="en_US"),
        someone(
            "customer/2",
            residence=(*someone("customer/9", "US-MA").residence, *someone("customer/9", "US-RI").residence),
            locale="en_US",
            why=why(SCORE, elements=("full_name", "drivers_licence")),
        ),
    )
    assert rows["customer/1"]["held_reason"] is None
    assert "nature_of_incident" in key_of(world, rows["customer/1"])["forbids"]
    assert "and forbidden by us-ma-ind" in rows["customer/2"]["held_reason"]


def test_people_whom_only_the_scope_names_get_a_text_of_their_own(world: World) -> None:
    rows = planned(world, someone("customer/1", why=None), someone("customer/2"))
    assert rows["customer/1"]["held_reason"] is None
    assert key_of(world, rows["customer/1"])["standing"] == "named"
    assert key_of(world, rows["customer/2"])["standing"] == "recorded"
    assert rows["customer/1"]["standing"] == "recorded", "nothing is said of how sure it is that they are concerned"
