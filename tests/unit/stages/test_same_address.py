"""Dispatch on the real ledger: an address or a number that bounced for good is nobody's any more, whoever has it."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.events import EVENTS, Channel, Contact, SealedContact
from bridge.runtime.consume import Received
from bridge.runtime.sealing import email_hmac
from consumers.adapters.address_marks import AddressMarks
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.case_store.outbox import Outbox
from consumers.domain.ledger import Lane as BeltLane
from consumers.domain.sending import ReceiptKind
from consumers.stages.dispatch import Dispatch
from tests.unit.adapters.ledger_case import APPROVED, NOW, Case, receipt_of, sealed, sqlite_case
from tests.unit.stages.test_dispatch import Addresses, Lane, Sms, Texts, World


class Contacts:
    """Opens each seal to what its digest stands for."""

    def __init__(self, known: dict[str, Contact]) -> None:
        self._known = known

    def open_json(self, sealed: str, root: str) -> Contact:
        return self._known[str(SealedContact.model_validate_json(sealed).digest)[0]]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return sqlite_case(tmp_path)


def approve(case: Case, channels: list[str]) -> None:
    """Let both incidents' people be told by these channels."""
    with case.database.write() as connection:
        connection.execute(sa.update(tables.segment).values(channels=channels))
        for release_id, segment_id in (("r1", "s1"), ("q1", "t1")):
            policy = {"segments": {segment_id: {**APPROVED, "channels": channels}}}
            connection.execute(
                sa.update(tables.release).where(tables.release.c.release_id == release_id).values(policy=policy)
            )


def belt(case: Case, channel: Channel, at_most: int) -> list[Received]:
    """Meter, and take what is on the belt then."""
    case.ledger.meter(BeltLane(channel, belt=at_most, at_once=at_most))
    box, found = Outbox(case.database), []
    while batch := box.next_batch(1000):
        for row in batch:
            if row.topic == "tocsin.delivery-commands":
                event = EVENTS[row.ce_type].model_validate_json(row.value)
                found.append(Received(row.topic, 0, 0, "", event, tombstone=False, headers={}, value=None))
        box.settle(batch)
    return found


@pytest.mark.parametrize("channel", [Channel.EMAIL, Channel.SMS])
def test_what_bounced_after_another_root_s_attempt_was_planned_is_not_tried_by_it(case: Case, channel: Channel) -> None:
    other, channels = case.second_incident(), (channel.value, "account_notice")
    approve(case, list(channels))
    first = case.person(1, channels, contact=sealed("a"))
    second = case.twin(2, other, channels=channels, contact=sealed("b"), deadline_at=NOW + timedelta(hours=100))
    marks = AddressMarks(b"k" * 32)
    case.answer(first, "1", "a")
    with case.database.write() as connection:
        hashed = email_hmac(b"k" * 32, "mueller@xn--mller-kva.example.com")
        event = sa.func.replace(tables.affected.c.event, "1" * 64, hashed)
        connection.execute(sa.update(tables.affected).values(event=event))
    world = World()
    contacts = Contacts(
        {
            "a": Contact(email="mueller@xn--mller-kva.example.com", phone="+4915112345678"),
            "b": Contact(email="mueller@m\u00fcller.example.com", phone="+4915112345678"),
        }
    )
    dispatch = Dispatch(
        case.ledger, contacts, Texts(world), Addresses(), Lane([world]), Lane([Sms(world)]), case.clock, "d1", marks=marks
    )  # fmt: skip
    case.ledger.begin_attempts(10)
    assert (case.states(first), case.states(second)) == ([(channel.value, "planned")],) * 2
    dispatch.handle(belt(case, channel, 1), {})
    assert (case.states(first), case.states(second)) == ([(channel.value, "handed_over")], [(channel.value, "planned")])
    with case.database.read() as connection:
        row = connection.execute(sa.select(tables.attempt).where(tables.attempt.c.recipient_id == first)).one()
    receipt = receipt_of(row, ReceiptKind.BOUNCED_HARD, "", NOW)  # type: ignore[arg-type]  # has what it needs of an intent
    case.ledger.settle_receipts([replace(receipt, provider_message_id=row.provider_message_id)])
    dispatch.handle(belt(case, channel, 10), {})
    assert case.states(second) == [(channel.value, "rejected"), ("account_notice", "planned")]
    assert len(world.mails) + len(world.texts) == 1
    listed = SqlCaseStore(case.database, case.clock).look(lambda work: work.bounced(None, soft=False))
    assert {each.root for each in listed} == {"customer/1", "customer/2"}, "the shop has it in both places"
