"""Whom the ledger keeps back: those whom a gate of their controller covers, and whom no region lets through."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.events import Channel
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.changes import DeliveryPolicy
from consumers.adapters.case_store.ledger import Ledger
from consumers.adapters.case_store.progress import SqlProgress
from consumers.domain.ledger import Lane
from consumers.domain.regions import RegionRule, Regions
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, NOW, Case, sqlite_case

EUROPE_ONLY = Regions((RegionRule(frozenset({"EEA"}), frozenset({"*"}), ("eu-*",), ("*",)),))


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = sqlite_case(tmp_path)
    yield made
    made.database.close()


def home(code: str) -> dict[str, Any]:
    return {"residence": [{"code": code, "source": "default_billing"}]}


def ledger(case: Case, region: str) -> Ledger:
    policy = DeliveryPolicy(
        {Channel.EMAIL: "ses", Channel.SMS: "sns", Channel.ACCOUNT_NOTICE: "store"},
        dict.fromkeys(Channel, timedelta(hours=4)),
        region_objection=lambda homes, controller: EUROPE_ONLY.objection(homes, controller, region, None),
    )
    return Ledger(case.database, case.clock, policy)


def gate(case: Case, **fields: Any) -> None:
    values = {"gate_id": "g", "incident_id": INCIDENT, "kind": "authority_first", "covers": ["DE"], "set_at": NOW,
              "set_by": "(duty)", **fields}  # fmt: skip
    with case.database.write() as connection:
        connection.execute(sa.insert(tables.gate).values(**values))


def test_a_gate_of_one_controller_keeps_nobody_of_another(case: Case) -> None:
    own, other = case.person(1, controller="bank"), case.person(2, controller="shop")
    gate(case, controller="bank", regime_id="us-nj-ag")
    case.ledger.begin_attempts(10)
    assert case.ledger.meter(EMAIL_LANE) == 1
    assert (case.states(own), case.states(other)) == ([("email", "planned")], [("email", "commanded")])


def test_who_waits_takes_no_room_from_those_behind(case: Case) -> None:
    waiting = [case.person(n, deadline_at=NOW + timedelta(hours=n)) for n in range(1, 6)]
    behind = case.person(9, deadline_at=NOW + timedelta(days=9), **home("FR"))
    gate(case, covers=["DE"])
    case.ledger.begin_attempts(10)
    assert case.ledger.meter(Lane(Channel.EMAIL, belt=1, at_once=1)) == 1
    assert case.states(behind) == [("email", "commanded")]
    assert all(case.states(each) == [("email", "planned")] for each in waiting)


def test_who_passes_no_region_does_not_go_at_once_either(case: Case) -> None:
    german, american = case.person(1), case.person(2, **home("US"))
    assert ledger(case, "eu-central-1").begin_attempts(10, [EMAIL_LANE]).commanded == {Channel.EMAIL: 1}
    assert (case.states(german), case.states(american)) == ([("email", "commanded")], [("email", "planned")])


def test_an_uncovered_pair_is_refused_by_name_before_the_belt_and_before_the_call(case: Case) -> None:
    german, french = case.person(1), case.person(2, **home("FR"))
    case.ledger.begin_attempts(10)
    assert ledger(case, "us-east-1").meter(EMAIL_LANE) == 0
    with case.database.read() as connection:
        pages = connection.execute(sa.select(tables.page)).mappings().all()
    assert sorted(page["body"]["reason"] for page in pages) == [
        "regions.yaml does not let notices to people in DE of controller c pass through us-east-1",
        "regions.yaml does not let notices to people in FR of controller c pass through us-east-1",
    ]
    # whoever is kept back is looked at again after a minute, by rules that may have changed
    case.clock.at += timedelta(minutes=1)
    # commanded while it was allowed, refused by the dispatcher under the rules as they are now
    assert ledger(case, "eu-central-1").meter(EMAIL_LANE) == 2
    assert ledger(case, "us-east-1").intend(case.commands(), "d1", "dispatch", {}) == ()
    assert (case.states(german), case.states(french)) == ([("email", "planned")], [("email", "planned")])


def test_while_only_a_provider_in_a_forbidden_region_takes_messages_whoever_it_is_forbidden_for_waits(
    case: Case,
) -> None:
    taking = ["ses", "smtp"]
    rules = Regions((*EUROPE_ONLY.rules, RegionRule(frozenset({"*"}), frozenset({"*"}), ("*",), ("*",))))
    policy = DeliveryPolicy(
        {Channel.EMAIL: "ses", Channel.SMS: "sns"},
        dict.fromkeys(Channel, timedelta(hours=4)),
        region_objection=lambda homes, controller: rules.objection(homes, controller, "eu-central-1", None),
        second={Channel.EMAIL: "smtp"},
        objection_to_second=lambda homes, controller, name: rules.objection_to_second(
            homes, controller, name, "us-east-1"
        ),
        takers=lambda _: taking,
    )
    kept = Ledger(case.database, case.clock, policy)
    german, american = case.person(1), case.person(2, **home("US"))
    kept.begin_attempts(10)
    assert kept.meter(EMAIL_LANE) == 2
    commands = case.commands()
    taking.remove("ses")
    (intent,) = kept.intend(commands, "d1", "dispatch", {})
    assert (intent.recipient_id, intent.refused) == (american, ()), "whoever was commanded before is not claimed either"
    taking.append("ses")
    assert kept.meter(EMAIL_LANE) == 0, "the meter may know no better; not at once again"
    taking.remove("ses")
    case.clock.at += timedelta(minutes=1)
    assert kept.meter(EMAIL_LANE) == 0
    assert SqlProgress(case.database, case.clock).progress(INCIDENT).why_not == {
        "wait for a receipt (email)": 1,
        "wait for a provider in a region through which regions.yaml lets their notices pass": 1,
    }
    with case.database.read() as connection:
        reasons = connection.execute(sa.select(tables.page.c.body)).scalars().all()
    assert [each["reason"] for each in reasons] == [
        "regions.yaml does not let notices to people in DE of controller c pass through us-east-1 (smtp)"
    ]
    taking.append("ses")
    case.clock.at += timedelta(minutes=1)
    assert kept.meter(EMAIL_LANE) == 1
    (intent,) = kept.intend(case.commands(), "d1", "dispatch", {})
    assert (intent.recipient_id, intent.refused) == (german, ("smtp",))


def test_an_account_notice_passes_no_providers_region(case: Case) -> None:
    person = case.person(1, channels=("account_notice",))
    case.ledger.begin_attempts(10)
    assert ledger(case, "us-east-1").meter(replace(EMAIL_LANE, channel=Channel.ACCOUNT_NOTICE)) == 1
    assert case.states(person) == [("account_notice", "commanded")]
