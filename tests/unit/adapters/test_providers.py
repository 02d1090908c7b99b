"""How providers stand in the case store: circuits, orders, what was sent and bounced, who is suppressed, what is put back."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.handovers import STRANGERS
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.case_store.providers import SILENT_AFTER, ProviderTables
from consumers.case.records import CircuitOrder, OverrideRecord
from consumers.domain.accounts import Reputation
from consumers.domain.circuit import CircuitReading, CircuitState
from consumers.domain.ledger import Command, Lane
from consumers.domain.sending import SUPPRESSED, ReceiptKind
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, NOW, Case, receipt_of, sqlite_case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return sqlite_case(tmp_path)


def reading(provider: str, state: CircuitState = CircuitState.CLOSED) -> CircuitReading:
    return CircuitReading(provider, "email", state, NOW, None, 5, 12, 0.25, 0.04)


def test_circuits_are_read_as_they_were_told_until_their_dispatcher_falls_silent(case: Case) -> None:
    book = ProviderTables(case.database, case.clock)
    book.tell("d1", [reading("ses"), reading("smtp")])
    book.tell("d2", [reading("ses", CircuitState.OPEN)])
    book.tell("d1", [reading("ses", CircuitState.HALF_OPEN), reading("smtp")])
    assert book.readings() == [
        reading("ses", CircuitState.HALF_OPEN),
        reading("ses", CircuitState.OPEN),
        reading("smtp"),
    ]
    case.clock.at = NOW + SILENT_AFTER
    book.tell("d1", [reading("ses")])
    case.clock.at += timedelta(seconds=1)
    assert book.readings() == [reading("ses")]


def test_the_last_order_of_a_provider_holds(case: Case) -> None:
    store, book = SqlCaseStore(case.database, case.clock), ProviderTables(case.database, case.clock)
    store.change(lambda work: work.order_circuit(CircuitOrder("ses", "open", NOW, "sam")))
    assert book.orders() == {"ses": (CircuitState.OPEN, NOW)}
    later = NOW + timedelta(minutes=1)
    store.change(lambda work: work.order_circuit(CircuitOrder("ses", "closed", later, "dan")))
    assert book.orders() == {"ses": (CircuitState.CLOSED, later)}
    assert store.look(lambda work: work.circuit_orders()["ses"].ordered_by) == "dan"


def test_an_override_stands_for_its_release_alone(case: Case) -> None:
    store = SqlCaseStore(case.database, case.clock)
    override = OverrideRecord("r1", "quota-too-late", "dan", "dpo", NOW)
    store.change(lambda work: work.add_override(override))
    assert store.look(lambda work: (work.overrides("r1"), work.overrides("r2"))) == ([override], [])


def test_hard_bounces_and_complaints_of_a_day_make_the_reputation(case: Case) -> None:
    for number in range(6):
        case.person(number, ("email",))
    intents = case.claim(EMAIL_LANE)
    case.hand_over(intents)
    kinds = [ReceiptKind.BOUNCED_HARD, ReceiptKind.BOUNCED_SOFT, ReceiptKind.COMPLAINED, ReceiptKind.DELIVERED]
    for intent, kind in zip(intents, kinds, strict=False):
        case.receive(intent, kind)
    book = ProviderTables(case.database, case.clock)
    assert book.reputation("ses") == Reputation(4, 1, 1)
    assert book.reputation("smtp") == Reputation(0, 0, 0)
    assert book.sent_through(NOW) == {"ses": 6}
    case.clock.at = NOW + timedelta(hours=25)
    assert book.reputation("ses") == Reputation(0, 0, 0)
    assert book.sent_through(NOW + timedelta(hours=1)) == {}


def test_a_bounce_of_a_mail_that_ses_never_tried_does_not_count_against_us(case: Case) -> None:
    case.person(1, ("email",))
    intents = case.claim(EMAIL_LANE)
    case.hand_over(intents)
    never_tried = replace(receipt_of(intents[0], ReceiptKind.BOUNCED_HARD, "", NOW), sub_type=SUPPRESSED)
    case.ledger.settle_receipts([never_tried])
    assert ProviderTables(case.database, case.clock).reputation("ses") == Reputation(1, 0, 0)


def test_suppressed_people_are_found_by_the_hash_of_their_address(case: Case) -> None:
    people = [(1, ("email", "sms")), (2, ("email",)), (3, ("sms",)), (4, ("email",))]
    for number, channels in people:
        case.person(number, channels, held_reason="a hold" if number == 4 else None)
        event = {"root": f"customer/{number}", "email_hmac": f"{number:064x}"}
        with case.database.write() as connection:
            connection.execute(
                sa.insert(tables.affected).values(
                    incident_id=INCIDENT, revision=1, root=f"customer/{number}", partition=0, standing="recorded",
                    departed=False, late=False, member_leaf="0" * 64, event=json.dumps(event),
                )
            )  # fmt: skip
    listed = {f"{number:064x}": "BOUNCE" if number == 1 else "COMPLAINT" for number in (1, 3, 4, 9)}
    store = SqlCaseStore(case.database, case.clock)
    assert store.look(lambda work: work.suppressed_people(INCIDENT, 1, listed)) == {"BOUNCE": 1}
    assert store.look(lambda work: work.suppressed_people(INCIDENT, 1, {})) == {}


def test_a_command_that_is_not_ours_raises_a_page_while_every_provider_is_ill_too(case: Case) -> None:
    case.person(1)
    case.person(2)
    case.ledger.begin_attempts(100)
    case.ledger.meter(EMAIL_LANE)
    one, other = case.commands()
    case.ledger.put_back([one, other])
    assert case.pages() == []
    before = STRANGERS._value.get()
    case.ledger.put_back([one, Command("forged", other.recipient_id, other.release_id, other.epoch)])
    assert (case.pages(), STRANGERS._value.get() - before) == (["delivery.command_not_in_ledger"], 1)
    case.ledger.put_back([Command(one.attempt_id, other.recipient_id, one.release_id, one.epoch), other])
    assert (case.pages(), STRANGERS._value.get() - before) == (["delivery.command_not_in_ledger"] * 2, 2)


def test_while_every_provider_is_ill_messages_go_round_without_a_trace_and_without_a_lost_attempt(case: Case) -> None:
    people = [case.person(number) for number in range(5)]
    case.ledger.begin_attempts(100)
    for _ in range(3):
        assert case.ledger.meter(EMAIL_LANE) == 5
        commands = case.commands()
        case.ledger.put_back(commands)
        # the same commands once more, as after a crash between the two: nobody claims what was put back
        assert list(case.ledger.intend(commands, "d1", "dispatch", {})) == []
    with case.database.read() as connection:
        rows = connection.execute(sa.select(tables.attempt.c.state, tables.attempt.c.send_count)).all()
        logged = connection.execute(
            sa.select(sa.func.count())
            .select_from(tables.outbox)
            .where(tables.outbox.c.topic != "tocsin.delivery-commands")
        ).scalar_one()
    assert (set(rows), len(rows), logged) == ({(AttemptState.PLANNED.value, 0)}, len(people), 0)
    # of what a dispatcher has claimed nothing is put back
    [first, *_] = case.claim(Lane(Channel.EMAIL, belt=1, at_once=1))
    case.ledger.put_back([Command(first.attempt_id, first.recipient_id, first.release_id, first.epoch, exercise=False)])
    assert case.states(first.recipient_id) == [("email", "intended")]
