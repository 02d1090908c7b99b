"""An open incident is a standing query: what arrives late is told once, what is more is supplemented, then it is closed."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.adapters.case_store import tables
from consumers.demo import shop
from consumers.demo.progress import open_changes
from consumers.demo.shop import Shop
from consumers.domain.standing import late_order
from consumers.evidence.merkle import root_over
from tests.e2e.all_stages import NOW, Running, all_stages, record, somebody
from tests.e2e.parts import start_part

BEFORE = "We have written to you about this incident before."
BEFORE_IN_GERMAN = "Wir haben Ihnen zu diesem Vorfall schon geschrieben."


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("installation")
    with (
        start_part("kafka", [sys.executable, "-m", "bridge.runtime.embedded_kafka"], folder) as kafka,
        all_stages(folder, {"bootstrap_servers": kafka["bootstrap_servers"], "embedded": True}) as made,
    ):
        yield made


def test_what_arrives_late_is_told_once_and_what_is_more_is_supplemented(running: Running) -> None:
    told, also_told, late, *others = people = [
        somebody(1, "IE", "7"),
        somebody(2, "DE", "7"),
        somebody(3, "FR", "6"),
        *(somebody(number, "DE", "8") for number in range(4, 10)),
    ]
    with running.store.begin() as connection:
        shop.write_base(connection)
        shop.write_people(connection, Shop(1, NOW, people))
    running.until(running.progress.is_there, "the case store is there", 90)
    running.approve_texts()
    running.until(lambda: open_changes(running.store) == 0, "the relay has carried the shop", 90)

    # an alert repeated is the same incident
    running.alert("log-7", "7", times=2)
    incident_id: str = running.until(running.progress.first_incident, "intake opens the incident")
    running.until(lambda: running.progress.plan_state(incident_id) == "complete", "the plan is complete")
    assert set(running.people()) == {"customer/1#1", "customer/2#1"}
    running.type("rosa", "incident", "ack", incident_id)
    running.approve(incident_id)
    running.until(lambda: running.progress.is_finished(incident_id), "both are reached")
    assert [len(running.mails(each)) for each in people] == [1, 1, *([0] * (1 + len(others)))]

    # late, through the relay: a record about somebody new, more of somebody who was told, and the same of another
    running.write(late, record(late, "7"))
    running.write(told, record(told, "7", "inferred", "payment_dispute"))
    running.write(also_told, record(also_told, "7"))
    added = running.until(lambda: running.people().get("customer/3#1"), "the late record adds its person")
    assert (bool(added["late"]), added["added_at"] is not None) == (True, True)
    running.until(lambda: running.people()["customer/3#1"]["final_state"] == "reached", "they are told within the cap")
    supplement = running.until(lambda: running.people().get("customer/1#2"), "more of somebody told is marked")
    assert (supplement["supplements"], supplement["final_state"]) == (f"{incident_id}:customer/1", None)
    running.until(
        lambda: (
            {"people.late", "people.more_affected", "release.people_wait"}
            <= {row["kind"] for row in running.rows(tables.page)}
        ),
        "people are paged",
    )
    assert len(running.mails(told)) == 1, "nobody has approved a supplement yet"
    shown = running.type("rosa", "incident", "show", incident_id)
    assert "late:         1 people" in shown
    assert "supplements:  1 for people who were told and of whom more was found: 0 ended, 1 wait for approval" in shown
    assert f"next: tocsin incident prepare {incident_id}" in shown

    running.approve(incident_id)
    running.until(lambda: running.people()["customer/1#2"]["final_state"] == "reached", "the supplement is sent")
    first, second = sorted(running.mails(told), key=lambda each: BEFORE in json.dumps(each))
    assert BEFORE not in json.dumps(first)
    assert BEFORE in json.dumps(second)
    assert set(running.people()) == {"customer/1#1", "customer/1#2", "customer/2#1", "customer/3#1"}
    assert [len(running.mails(each)) for each in people] == [2, 1, 1, *([0] * len(others))], "nobody is told twice"
    assert BEFORE_IN_GERMAN not in json.dumps(running.mails(also_told))

    # what came late is in the log with roots of its own
    running.until(
        lambda: sum(leaf["body"]["member_count"] for leaf in running.leaves("case.people.added_late")) == 2,
        "the evidence log has the late members",
    )
    members = running.rows(tables.late_member)
    roots = {
        number: root_over(late_order((row["root"], row["member_leaf"]) for row in members if row["number"] == number))
        for number in {row["number"] for row in members}
    }
    assert {
        leaf["body"]["number"]: leaf["body"]["members_root"] for leaf in running.leaves("case.people.added_late")
    } == {number: root.hex() for number, root in roots.items()}
    assert sum(leaf["body"]["new_count"] for leaf in running.leaves("case.people.added_late")) == 1

    listed = json.loads(running.type("dora", "incident", "people", incident_id, "--list", "--json"))
    assert [(each["root"], each["round"], each["final_state"]) for each in listed] == [
        ("customer/1", 1, "reached"), ("customer/1", 2, "reached"), ("customer/2", 1, "reached"),
        ("customer/3", 1, "reached"),
    ]  # fmt: skip
    running.until(lambda: _all_finished(running), "its releases are finished")
    running.type("dora", "incident", "close", incident_id, "--reason", "everybody was told")
    assert all(row["contact"] in (None, "null") for row in running.rows(tables.recipient))
    assert len(running.rows(tables.incident)) == 1


def _all_finished(running: Running) -> bool:
    return {row["state"] for row in running.rows(tables.release)} == {"finished"}
