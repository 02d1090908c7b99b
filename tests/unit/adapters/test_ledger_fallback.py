"""How the ledger follows a segment's channel policy: steps, channels together, times of their own, ends that change."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from consumers.adapters.case_store import tables
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.domain.delivery import Trigger
from consumers.domain.ledger import SentReport
from consumers.domain.sending import ReceiptKind
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, NOW, SMS_LANE, Case, receipt_of, sealed, sqlite_case


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = sqlite_case(tmp_path)
    yield made
    made.database.close()


def approve(case: Case, channels: list[str], **terms: Any) -> None:
    """Let the segment and its approval say this channel policy."""
    policy: Mapping[str, Any] = {"segments": {"s1": {"bundle_sha256": "b" * 64, "channels": channels, **terms}}}
    with case.database.write() as connection:
        connection.execute(sa.update(tables.segment).values(channels=channels, key=terms))
        connection.execute(sa.update(tables.release).values(policy=policy))


def test_channels_that_are_begun_together_are_both_awaited(case: Case) -> None:
    approve(case, ["email", "sms", "account_notice"], together=[["email", "sms"]])
    person = case.person(1, ("email", "sms", "account_notice"))
    case.ledger.begin_attempts(10)
    assert case.states(person) == [("email", "planned"), ("sms", "planned")]
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    case.receive(mail, ReceiptKind.DELIVERED)
    assert case.end(person) is None
    (text,) = case.claim(SMS_LANE)
    case.hand_over([text])
    case.receive(text, ReceiptKind.BOUNCED_HARD)
    assert case.end(person) == "reached"
    case.receive(mail, ReceiptKind.BOUNCED_HARD)
    assert case.states(person) == [("email", "bounced"), ("sms", "bounced"), ("account_notice", "planned")]


def test_whom_one_of_two_channels_has_reached_counts_so_by_their_deadline(case: Case) -> None:
    approve(case, ["email", "sms"], together=[["email", "sms"]])
    told, untold = (case.person(number, ("email", "sms"), deadline_at=NOW + timedelta(hours=2)) for number in (1, 2))
    mails = case.claim(EMAIL_LANE)
    case.hand_over(mails)
    case.hand_over(case.claim(SMS_LANE))
    case.receive(next(each for each in mails if each.recipient_id == told), ReceiptKind.DELIVERED)
    long = timedelta(days=9)
    for minutes, ends in ((61, ["reached", None]), (180, ["reached", "unreachable_reported"])):
        case.clock.at += timedelta(minutes=minutes)
        # the last of two is given up when nothing is left to wait for beside it
        for _ in range(2):
            case.ledger.sweep(command_patience=long, intent_patience=long, unknown_patience=long)
        assert [case.end(each) for each in (told, untold)] == ends


def test_whom_one_of_two_channels_has_reached_was_told_when_their_incident_is_closed(case: Case) -> None:
    approve(case, ["email", "letter"], together=[["email", "letter"]])
    told, untold = (case.person(number, ("email", "letter")) for number in (1, 2))
    mails = case.claim(EMAIL_LANE)
    case.hand_over(mails)
    case.receive(next(each for each in mails if each.recipient_id == told), ReceiptKind.DELIVERED)
    assert case.end(told) is None
    with case.database.write() as connection:
        connection.execute(sa.update(tables.release).values(state="cancelled", stopped_at=NOW))
        connection.execute(sa.update(tables.incident).values(state="closed", closed_at=NOW))
    store = SqlCaseStore(case.database, case.clock)
    assert store.change(lambda work: work.leave_untold(INCIDENT)) == [(f"{2:064d}", "no_receipt_yet")]
    long = timedelta(days=9)
    case.ledger.sweep(command_patience=long, intent_patience=long, unknown_patience=long)
    assert case.states(told) == [("email", "delivered"), ("letter", "cancelled")]
    assert [case.end(each) for each in (told, untold)] == ["reached", None]
    assert finished(case) == ["reached"]
    case.receive(next(each for each in mails if each.recipient_id == untold), ReceiptKind.DELIVERED)
    assert case.end(untold) == "reached", "what was on its way when the incident was closed still counts"


@pytest.mark.parametrize("terms", [{"together": [["email", "sms"]]}, {"timeouts": {"email": 60}}])
def test_terms_that_nobody_approved_reach_nobody(case: Case, terms: dict[str, Any]) -> None:
    case.person(1)
    with case.database.write() as connection:
        connection.execute(sa.update(tables.segment).values(key=terms))
    assert case.ledger.begin_attempts(10).people == 0


def test_the_policys_own_time_decides_when_the_next_channel_begins(case: Case) -> None:
    approve(case, ["email", "sms", "account_notice"], timeouts={"email": 600})
    person = case.person(1)
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    long = timedelta(days=9)
    sweep = partial(case.ledger.sweep, command_patience=long, intent_patience=long, unknown_patience=long)
    case.clock.at += timedelta(minutes=9)
    assert sweep() == 0
    case.clock.at += timedelta(minutes=2)
    assert sweep() == 1
    assert case.states(person) == [("email", "expired"), ("sms", "planned")]


def test_a_receipt_of_the_first_call_is_logged_as_that_providers_when_the_repeat_went_by_the_second(case: Case) -> None:
    person = case.person(1, ("email",))
    case.lose(EMAIL_LANE)
    sweep = partial(case.ledger.sweep, command_patience=None, intent_patience=timedelta(0))
    for _ in range(2):
        case.clock.at += timedelta(minutes=1)
        sweep(unknown_patience=timedelta(0))
    (mail,) = case.claim(EMAIL_LANE)
    assert (mail.provider, mail.send_count) == ("ses", 2)
    accepted = SentReport(mail.attempt_id, Trigger.ACCEPTED, 2, "<a@shop>", "b" * 64, provider="smtp", called=True)
    case.ledger.report([accepted])
    case.receive(mail, ReceiptKind.DELAYED)
    with case.database.read() as connection:
        assert connection.execute(sa.select(tables.attempt.c.provider)).scalar() == "smtp"
    case.receive(mail, ReceiptKind.DELIVERED)
    assert case.states(person) == [("email", "delivered")]
    said = [(each.state, each.provider) for each in case.outcomes()]
    assert said[-2:] == [("handed_over", "smtp"), ("delivered", "ses")]
    with case.database.read() as connection:
        row = connection.execute(sa.select(tables.attempt)).mappings().one()
    assert (row["provider"], row["provider_message_id"]) == ("ses", f"m-{mail.attempt_id}")
    reported = replace(receipt_of(mail, ReceiptKind.COMPLAINED, "", NOW), provider="smtp", provider_message_id="")
    case.ledger.settle_receipts([reported])
    last = case.outcomes()[-1]
    assert (last.provider, last.provider_message_sha256) == ("smtp", None), "a report by mail names no message"


def test_every_end_of_somebody_is_an_event_of_its_own(case: Case) -> None:
    person = case.person(1, ("email",))
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    for kind, end in (
        (ReceiptKind.DELIVERED, "reached"),
        (ReceiptKind.BOUNCED_HARD, "unreachable_reported"),
        (ReceiptKind.READ, "reached"),
    ):
        case.clock.at += timedelta(minutes=1)
        case.receive(mail, kind)
        assert case.end(person) == end
    events = [each for each in case.case_events() if each["kind"] == "person.finished"]
    assert [each["body"]["state"] for each in events] == ["reached", "unreachable_reported", "reached"]
    assert len({each["case_event_id"] for each in events}) == 3
    assert {each["incident_id"] for each in events} == {INCIDENT}


def publish(case: Case, medium: str = "website_posting", **changes: Any) -> None:
    row = {
        "publication_id": hashlib.sha256(f"{medium}{changes}".encode()).hexdigest()[:32], "incident_id": INCIDENT,
        "controller": "c", "medium": medium, "covers": ["*"], "url": "https://shop.example/notice", "file_sha256": "f" * 64,
        "needs": {"us-ca": ["state_media", "website_posting"]} | ({"br": [medium]} if medium == "website_posting" else {}),
        "text_sha256": "e" * 64, "as_written": True, "bundle_sha256": "b" * 64, "locale": "en", "starts_at": NOW,
        "ends_at": NOW + timedelta(days=30), "recorded_by": "dpo", "recorded_role": "dpo", "recorded_at": NOW,
    }  # fmt: skip
    with case.database.write() as connection:
        connection.execute(sa.insert(tables.publication).values(**{**row, **changes}))


def finished(case: Case) -> list[str]:
    return [each["body"]["state"] for each in case.case_events() if each["kind"] == "person.finished"]


def test_a_public_notice_stands_in_for_those_whom_nothing_reaches_where_their_law_lets_it(case: Case) -> None:
    brazil = case.person(1, (), jurisdictions=["br"])
    california = case.person(2, (), jurisdictions=["us-ca"])
    nowhere = case.person(3, (), jurisdictions=["in"])
    case.ledger.begin_attempts(10)
    assert {case.end(each) for each in (brazil, california, nowhere)} == {"unreachable_reported"}
    publish(case)
    case.ledger.begin_attempts(10)
    assert [case.end(each) for each in (brazil, california, nowhere)] == [
        "substituted", "unreachable_reported", "unreachable_reported",
    ]  # fmt: skip
    publish(case, "state_media")
    case.ledger.begin_attempts(10)
    assert case.end(california) == "substituted"
    told = [each["body"] for each in case.case_events() if each["body"].get("state") == "substituted"]
    assert [len(each["publications"]) for each in told] == [1, 2]
    assert case.ledger.counts(INCIDENT).substituted == 2


def test_whoever_fails_while_it_stands_ends_at_once_as_told_in_public_and_only_once(case: Case) -> None:
    publish(case)
    person = case.person(1, ("email",), jurisdictions=["br"])
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    case.receive(mail, ReceiptKind.DELAYED)
    case.receive(mail, ReceiptKind.BOUNCED_HARD)
    assert case.end(person) == "substituted"
    case.ledger.begin_attempts(10)
    case.receive(mail, ReceiptKind.BOUNCED_SOFT)
    assert finished(case) == ["substituted"]
    case.receive(mail, ReceiptKind.READ)
    assert case.end(person) == "reached"


def test_what_has_not_begun_or_is_withdrawn_stands_in_for_nobody_and_what_has_stood_its_time_has(case: Case) -> None:
    publish(case, starts_at=NOW + timedelta(hours=1))
    early = case.person(1, (), jurisdictions=["br"])
    case.ledger.begin_attempts(10)
    assert case.end(early) == "unreachable_reported"
    case.clock.at += timedelta(hours=2)
    case.ledger.begin_attempts(10)
    assert case.end(early) == "substituted"
    case.clock.at += timedelta(days=31)
    late = case.person(2, (), jurisdictions=["br"])
    case.ledger.begin_attempts(10)
    assert [case.end(early), case.end(late)] == ["substituted", "unreachable_reported"]
    with case.database.write() as connection:
        connection.execute(sa.update(tables.publication).values(withdrawn_at=case.clock.at, withdrawn_by="dpo"))
    case.ledger.begin_attempts(10)
    assert case.end(early) == "unreachable_reported"


@pytest.mark.parametrize(("kind", "sub_type", "again"), [
    (ReceiptKind.BOUNCED_HARD, "General", False),
    (ReceiptKind.BOUNCED_HARD, "OnAccountSuppressionList", True),
    (ReceiptKind.BOUNCED_SOFT, None, True),
])  # fmt: skip
def test_what_bounced_for_good_is_not_tried_again_in_another_incident_unless_the_contact_changed(
    case: Case, kind: ReceiptKind, sub_type: str | None, again: bool
) -> None:
    case.person(1, contact=sealed("a"))
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    case.ledger.settle_receipts([replace(receipt_of(mail, kind, "", NOW), sub_type=sub_type)])
    other = case.second_incident()
    same = case.twin(1, other, contact=sealed("a"))
    case.ledger.begin_attempts(10)
    assert case.states(same) == [("email" if again else "sms", "planned")]
    with case.database.write() as connection:
        for table in (tables.attempt, tables.recipient):
            connection.execute(sa.delete(table).where(table.c.incident_id == other))
    changed = case.twin(1, other, contact=sealed("b"))
    case.ledger.begin_attempts(10)
    assert case.states(changed) == [("email", "planned")]


@pytest.mark.parametrize("first", [ReceiptKind.BOUNCED_SOFT, ReceiptKind.REJECTED, ReceiptKind.COMPLAINED])
def test_a_hard_bounce_is_remembered_also_where_the_attempt_had_failed_before(case: Case, first: ReceiptKind) -> None:
    """A message that was repeated is reported on twice; what its reader has complained about has arrived."""
    case.person(1, contact=sealed("a"))
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    for kind in (first, ReceiptKind.BOUNCED_HARD):
        case.receive(mail, kind)
    same = case.twin(1, case.second_incident(), contact=sealed("a"))
    case.ledger.begin_attempts(10)
    assert case.states(same) == [("email" if first is ReceiptKind.COMPLAINED else "sms", "planned")]
