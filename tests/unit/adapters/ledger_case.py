"""What the ledger promises, from approval to each person's end, whichever database is below. Not collected by itself:
`test_ledger.py` runs it on SQLite, `tests/integration/test_case_store.py` on MariaDB.
"""

import atexit
import hashlib
import itertools
import json
import shutil
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.events import (
    EVENTS,
    AttemptState,
    Channel,
    DeliverNotice,
    DeliveryOutcome,
    DeliveryOutcomes,
    each_of,
)
from bridge.runtime.clock import SetClock
from consumers.adapters.case_store import beginnings, ledger, metering, tables
from consumers.adapters.case_store.changes import TO_DELIVERED, DeliveryPolicy
from consumers.adapters.case_store.engine import CaseDatabase, migrate
from consumers.adapters.case_store.handovers import STRANGERS
from consumers.adapters.case_store.incidents import SqlCaseStore, SqlCaseWork
from consumers.adapters.case_store.ledger import Ledger
from consumers.adapters.case_store.outbox import Outbox, unpacked
from consumers.adapters.case_store.planning import PlanningTables
from consumers.adapters.case_store.progress import SqlProgress
from consumers.adapters.case_store.providers import ProviderTables
from consumers.adapters.case_store.receipts import Receipts
from consumers.adapters.case_store.twins import keep_merged_roots
from consumers.case.records import Retry
from consumers.case.workflow import void_releases
from consumers.domain.delivery import Trigger
from consumers.domain.ledger import Command, Intent, Lane, SentReport, SentText
from consumers.domain.planning import PeopleChange, PlanId
from consumers.domain.sending import SUPPRESSED, Receipt, ReceiptKind
from tests.unit.shipped_law import shipped_law

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
INCIDENT = "INC-2026-0001"
APPROVED = {"bundle_sha256": "b" * 64, "channels": ["email", "sms", "account_notice"]}
EMAIL_LANE = Lane(Channel.EMAIL, belt=1000, at_once=1000)
SMS_LANE = Lane(Channel.SMS, belt=1000, at_once=1000)


@cache
def _migrated() -> Path:
    """A case store as every test finds it, made once in each worker: Alembic takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="tocsin-ledger-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = CaseDatabase(f"sqlite:///{folder / 'case.db'}")
    migrate(made)
    with made.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    made.close()
    return folder / "case.db"


def sqlite_case(folder: Path) -> "Case":
    """Return a case store on SQLite in `folder`."""
    return Case(sqlite_case_store(folder / "case.db"))


def sqlite_case_store(file: Path) -> CaseDatabase:
    """Return an empty case store in `file`."""
    shutil.copyfile(_migrated(), file)
    return CaseDatabase(f"sqlite:///{file}")


class Case:
    """A case store with one running release."""

    def __init__(self, database: CaseDatabase) -> None:
        self.clock = SetClock(NOW)
        self.database = database
        migrate(self.database)
        self.policy = DeliveryPolicy(
            {Channel.EMAIL: "ses", Channel.SMS: "sns", Channel.ACCOUNT_NOTICE: "store", Channel.LETTER: "post"},
            dict.fromkeys(Channel, timedelta(hours=4)),
        )
        self.ledger = Ledger(self.database, self.clock, self.policy)
        with self.database.write() as connection:
            connection.execute(
                sa.insert(tables.incident).values(
                    incident_id=INCIDENT, number=1, year=2026, source="monitor", fingerprint="f",
                    fingerprint_sha256="f" * 64, occurrence=1, title="t",
                    state="confirmed", revision=1, unsigned_source=False, exercise=False, repeat_count=0,
                    detected_at=NOW, opened_at=NOW, epoch=1,
                )
            )  # fmt: skip
            connection.execute(
                sa.insert(tables.segment).values(
                    segment_id="s1", incident_id=INCIDENT, revision=1, name="all", key={}, bundle_sha256="b" * 64,
                    channels=["email", "sms", "account_notice"], lane="email", priority=1, sms_details=False, count=0,
                )
            )  # fmt: skip
            connection.execute(
                sa.insert(tables.release).values(
                    release_id="r1", incident_id=INCIDENT, revision=1, policy={"segments": {"s1": APPROVED}},
                    policy_sha256="0" * 64, mode="two_approvers", state="releasing", late_cap=1, prepared_by="p",
                    prepared_role="responder", prepared_at=NOW, released_at=NOW, started_epoch=1, start_number=1,
                )
            )  # fmt: skip

    def person(self, number: int, channels: tuple[str, ...] = ("email", "sms"), **other: Any) -> str:
        recipient_id = f"{INCIDENT}:customer/{number}"
        row: dict[str, Any] = {
            "recipient_id": recipient_id, "incident_id": INCIDENT, "revision": 1, "root": f"customer/{number}",
            "roots": [f"customer/{number}"], "subject_commitment": f"{number:064d}", "customer_id": number,
            "controller": "c", "website_id": 1, "store_id": 1, "locale": "en", "standing": "recorded", "late": False,
            "residence": [{"code": "DE", "source": "store"}], "jurisdictions": [], "highest_sensitivity": "high",
            "segment_id": "s1", "channels": list(channels), "contact": None, "why": {},
            "deadline_at": NOW + timedelta(hours=72),
        }  # fmt: skip
        row |= other
        with self.database.write() as connection:
            connection.execute(sa.insert(tables.recipient).values(**row))
            keep_merged_roots(connection, {row["recipient_id"]: (row["root"], row["roots"])})
        return str(row["recipient_id"])

    def second_incident(self, **changes: Any) -> str:
        """Open another incident beside the first, its release running too."""
        other = "INC-2026-0002"
        with self.database.write() as connection:
            old = connection.execute(sa.select(tables.incident)).mappings().one()
            row = {**old, "incident_id": other, "number": 2, "fingerprint": "g", "fingerprint_sha256": "e" * 64}
            connection.execute(sa.insert(tables.incident).values(**{**row, **changes}))
            part = connection.execute(sa.select(tables.segment)).mappings().one()
            connection.execute(sa.insert(tables.segment).values(**{**part, "segment_id": "t1", "incident_id": other}))
            first = connection.execute(sa.select(tables.release)).mappings().one()
            policy = {"segments": {"t1": APPROVED}}
            connection.execute(
                sa.insert(tables.release).values(
                    **{**first, "release_id": "q1", "incident_id": other, "policy": policy,
                       "released_at": NOW + timedelta(seconds=1)}
                )
            )  # fmt: skip
        return other

    def twin(self, number: int, other: str, told: str = "d" * 64, **changes: Any) -> str:
        """Add the same person to the other incident; `told` is the hash of what its notice tells."""
        recipient_id = f"{other}:customer/{number}"
        return self.person(
            number, recipient_id=recipient_id, incident_id=other, segment_id="t1", notice_sha256=told, **changes
        )

    def answer(self, recipient_id: str, address: str, contact: str) -> None:
        """Keep what was resolved of somebody: the hash of their address, and of the whole contact."""
        incident_id, _, root = recipient_id.partition(":")
        event = {"email_hmac": address * 64, "contact": sealed(contact)}
        with self.database.write() as connection:
            connection.execute(
                sa.insert(tables.affected).values(
                    incident_id=incident_id, revision=1, root=root, partition=0, standing="recorded", departed=False,
                    late=False, member_leaf="0" * 64, event=json.dumps(event),
                )
            )  # fmt: skip

    def case_events(self) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(tables.outbox)
                .where(tables.outbox.c.topic == "tocsin.case-events")
                .order_by(tables.outbox.c.outbox_id)
            )
            return [json.loads(event.value) for row in rows for event in unpacked(row)]

    def outcomes(self) -> list[DeliveryOutcome]:
        """Return what was told of attempts so far, of what the outbox still holds."""
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(tables.outbox)
                .where(tables.outbox.c.topic == "tocsin.delivery-outcomes")
                .order_by(tables.outbox.c.outbox_id)
            ).all()
        said: list[DeliveryOutcome] = []
        for each in (message for row in rows for message in unpacked(row)):
            kind = DeliveryOutcomes if each.ce_type == DeliveryOutcomes.ce_type else DeliveryOutcome
            said += [
                event for event in each_of(kind.model_validate_json(each.value)) if isinstance(event, DeliveryOutcome)
            ]
        return said

    def commands(self) -> list[Command]:
        """Take the delivery commands out of the outbox."""
        box = Outbox(self.database)
        found: list[Command] = []
        while batch := box.next_batch(1000):
            for row in batch:
                if row.topic == "tocsin.delivery-commands":
                    for each in each_of(EVENTS[row.ce_type].model_validate_json(row.value)):
                        assert isinstance(each, DeliverNotice)
                        found.append(
                            Command(each.attempt_id, each.recipient_id, each.release_id, each.epoch, each.exercise)
                        )
            box.settle(batch)
        return found

    def claim(self, lane: Lane) -> list[Intent]:
        self.ledger.begin_attempts(1000)
        self.ledger.meter(lane)
        return list(self.ledger.intend(self.commands(), "d1", "dispatch", {("tocsin.delivery-commands", 0): 1}))

    def lose(self, lane: Lane) -> list[Intent]:
        """Claim and begin to call, as somebody who is killed in it."""
        intents = self.claim(lane)
        self.ledger.note_calls(intents)
        return intents

    def hand_over(self, intents: list[Intent]) -> None:
        self.ledger.report(
            [
                SentReport(
                    item.attempt_id, Trigger.ACCEPTED, item.send_count, provider_message_id=f"m-{item.attempt_id}"
                )
                for item in intents
            ]
        )

    def receive(self, intent: Intent, kind: ReceiptKind, event: str = "") -> None:
        self.ledger.settle_receipts([receipt_of(intent, kind, event, self.clock.now())])

    def states(self, recipient_id: str) -> list[tuple[str, str]]:
        with self.database.read() as connection:
            return [
                (row.channel, row.state)
                for row in connection.execute(
                    sa.select(tables.attempt)
                    .where(tables.attempt.c.recipient_id == recipient_id)
                    .order_by(tables.attempt.c.number)
                )
            ]

    def pages(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(sa.select(tables.page.c.kind)).scalars())

    def standing_pages(self) -> list[str]:
        with self.database.read() as connection:
            unanswered = tables.page.c.acknowledged_at.is_(None)
            return list(connection.execute(sa.select(tables.page.c.kind).where(unanswered)).scalars())

    def told_of_pages(self) -> list[str]:
        """Let a receiver hear of every page that it has not heard of; return these."""
        with self.database.write() as connection:
            heard = sa.exists().where(tables.page_delivery.c.page_id == tables.page.c.page_id)
            ids = list(connection.execute(sa.select(tables.page.c.page_id).where(~heard)).scalars())
            row = {"receiver": "pager", "delivered_at": NOW, "failures": 0, "settled": True}
            for page_id in ids:
                connection.execute(sa.insert(tables.page_delivery).values(page_id=page_id, **row))
            return ids

    def set_cap(self, cap: int) -> None:
        with self.database.write() as connection:
            connection.execute(sa.update(tables.release).values(late_cap=cap))

    def void(self) -> None:
        """What correcting the scope does to the running release."""
        SqlCaseStore(self.database, self.clock).change(lambda work: void_releases(work, INCIDENT, by="dora", at=NOW))
        with self.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(revision=2, epoch=2))

    def release_anew(self, revision: int = 2) -> None:
        """Let the corrected scope's release run, its policy with the same segment."""
        with self.database.write() as connection:
            old = connection.execute(sa.select(tables.release)).mappings().one()
            epoch = connection.execute(sa.select(tables.incident.c.epoch)).scalar_one()
            anew = {"revision": revision, "state": "releasing", "finished_at": None, "started_epoch": epoch}
            connection.execute(sa.insert(tables.release).values(**{**old, "release_id": "r2", **anew}))

    def set_release(self, release_id: str, state: str) -> None:
        with self.database.write() as connection:
            connection.execute(
                sa.update(tables.release).where(tables.release.c.release_id == release_id).values(state=state)
            )

    def cancel(self) -> None:
        """What cancelling does to what runs, when everybody has been told."""
        with self.database.write() as connection:
            epoch = connection.execute(sa.select(tables.incident.c.epoch)).scalar_one() + 1
            connection.execute(sa.update(tables.incident).values(epoch=epoch))
            connection.execute(
                sa.update(tables.release)
                .where(tables.release.c.state == "releasing")
                .values(state="cancelled", stopped_at=self.clock.now(), stopped_epoch=epoch)
            )

    def affect(self, number: int, revision: int) -> None:
        """Let the scope of `revision` be about a person."""
        with self.database.write() as connection:
            connection.execute(
                sa.insert(tables.affected).values(
                    incident_id=INCIDENT, revision=revision, root=f"customer/{number}", partition=0,
                    standing="recorded", departed=False, late=False, member_leaf="0" * 64, event="{}",
                )
            )  # fmt: skip

    def end(self, recipient_id: str) -> str | None:
        with self.database.read() as connection:
            end: str | None = connection.execute(
                sa.select(tables.recipient.c.final_state).where(tables.recipient.c.recipient_id == recipient_id)
            ).scalar_one()
            return end


def receipt_of(intent: Intent, kind: ReceiptKind, event: str, at: datetime) -> Receipt:
    name = f"{intent.attempt_id}/{kind}/{event}"
    return Receipt(
        intent.provider, name, f"m-{intent.attempt_id}", intent.attempt_id, kind, None, at,
        hashlib.sha256(name.encode()).hexdigest(),
    )  # fmt: skip


def sealed(digest: str) -> dict[str, Any]:
    """Return a sealed contact that is told from others by `digest`."""
    return {"key_id": "k", "wrapped_key": "w", "nonce": "n", "ciphertext": "c", "digest": digest * 64}


def untagged(intent: Intent) -> Receipt:
    """Return a receipt that names its message only, as one of an SMS does."""
    return replace(receipt_of(intent, ReceiptKind.DELIVERED, "", NOW), attempt_id=None)


class LedgerCases:
    """The promises; a subclass provides the fixture `case`."""

    def test_a_delivered_mail_ends_it(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.clock.at = NOW + timedelta(seconds=90)
        arrivals = TO_DELIVERED.labels("email")
        before = arrivals._sum.get()
        case.receive(intent, ReceiptKind.DELIVERED)
        case.receive(intent, ReceiptKind.DELIVERED, "again")
        assert case.states(person) == [("email", "delivered")]
        assert case.end(person) == "reached"
        assert arrivals._sum.get() - before == 90

    def test_what_a_provider_calls_a_message_is_kept_to_the_letter(self, case: Case) -> None:
        name = "m-%s 'quoted\" \\ ü %(x)s"
        case.person(1)
        case.person(2)
        for number, intent in enumerate(case.claim(EMAIL_LANE)):
            case.ledger.report([SentReport(intent.attempt_id, Trigger.ACCEPTED, 1, f"{name}{number}", "b" * 64)])
        with case.database.read() as connection:
            kept = connection.execute(sa.select(tables.attempt)).mappings().all()
        assert {row["provider_message_id"] for row in kept} == {f"{name}0", f"{name}1"}
        assert {(row["state"], row["body_sha256"], row["number"]) for row in kept} == {("handed_over", "b" * 64, 1)}
        assert {row["handed_over_at"] for row in kept} == {NOW}

    def test_a_bounce_brings_the_next_channel_in_the_same_transaction(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.states(person) == [("email", "bounced"), ("sms", "planned")]
        assert case.end(person) is None
        other = case.second_incident()
        case.twin(1, other)
        case.twin(2, other)
        store = SqlCaseStore(case.database, case.clock)
        assert store.look(lambda work: work.hard_bounced_people(other)) == {"email": 1}, "said before a release there"

    @pytest.mark.parametrize("gone", [False, True])
    def test_an_address_at_which_nobody_is_as_its_server_says_at_once_is_known_as_one_that_bounced(
        self, case: Case, *, gone: bool
    ) -> None:
        first, other = case.person(1, ("email",), contact=sealed("a")), case.second_incident()
        case.answer(first, "1", "a")
        (mail,) = case.claim(EMAIL_LANE)
        refused = SentReport(
            mail.attempt_id, Trigger.REFUSED, mail.send_count, code="SMTP_550", provider="smtp", gone=gone
        )
        case.ledger.report([refused])
        assert (case.states(first), case.end(first)) == ([("email", "rejected")], "unreachable_reported")
        same = case.twin(2, other, contact=sealed("b"))
        case.answer(same, "1", "b")
        case.ledger.begin_attempts(10)
        assert case.states(same) == [("sms" if gone else "email", "planned")], "under another root, in another incident"
        store = SqlCaseStore(case.database, case.clock)
        (person,) = store.look(lambda work: work.failed_people(INCIDENT))
        assert [each.hard_bounce for each in person.tried] == [gone], "what a retry asks"
        listed = store.look(lambda work: work.bounced(None, soft=False))
        said = [("customer/1", "email", "bounced_hard", "refused")] if gone else []
        assert [(each.root, each.channel, each.kind, each.sub_type) for each in listed] == said

    def test_an_exercise_whose_message_bounced_is_in_no_list_of_bounced_addresses(self, case: Case) -> None:
        with case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(exercise=True))
        case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        store = SqlCaseStore(case.database, case.clock)
        assert store.look(lambda work: work.bounced(None, soft=True)) == []

    def test_people_have_their_turn_by_deadline_and_whoever_is_held_meanwhile_waits(self, case: Case) -> None:
        people = [case.person(each, deadline_at=NOW + timedelta(hours=10 + each)) for each in range(1, 6)]

        def begun() -> list[str]:
            with case.database.read() as connection:
                return sorted(connection.execute(sa.select(tables.attempt.c.recipient_id)).scalars())

        def hold(reason: str | None) -> None:
            with case.database.write() as connection:
                third = tables.recipient.c.recipient_id == people[2]
                connection.execute(sa.update(tables.recipient).where(third).values(held_reason=reason))

        assert case.ledger.begin_attempts(2).people == 2
        assert begun() == people[:2]
        hold("asked for")
        sooner = case.person(9, deadline_at=NOW + timedelta(hours=1))
        for _ in range(3):
            case.ledger.begin_attempts(2)
        assert begun() == [*people[:2], *people[3:], sooner]
        hold(None)
        assert case.ledger.begin_attempts(2).people == 1
        assert begun() == [*people, sooner]

    def test_all_attempts_are_counted_where_they_stand(self, case: Case) -> None:
        case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.ledger.attempts() == {("email", "bounced"): 1, ("sms", "planned"): 1}

    def test_the_same_receipt_twice_changes_nothing(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        receipt = receipt_of(intent, ReceiptKind.BOUNCED_HARD, "", NOW)
        first, second = (case.ledger.settle_receipts([receipt, receipt]) for _ in range(2))
        assert case.states(person) == [("email", "bounced"), ("sms", "planned")]
        identity = (receipt.provider, receipt.provider_event_id)
        assert (first.applied, first.repeated, first.known) == (1, 1, frozenset())
        assert (second.applied, second.repeated, second.known) == (0, 2, frozenset({identity}))

    def test_messages_whose_ids_differ_by_capitals_alone_are_two(self, case: Case) -> None:
        person, other = case.person(1), case.person(2)
        mine, theirs = case.claim(EMAIL_LANE)
        if mine.recipient_id != person:
            mine, theirs = theirs, mine
        stray = replace(untagged(mine), provider_message_id="SM0a")
        assert case.ledger.settle_receipts([stray]).kept_aside == 1
        case.ledger.report([SentReport(theirs.attempt_id, Trigger.ACCEPTED, 1, "sm0A", "b" * 64)])
        case.ledger.positions("receipts", [])
        assert (case.states(other), case.end(other)) == ([("email", "handed_over")], None)
        case.ledger.report([SentReport(mine.attempt_id, Trigger.ACCEPTED, 1, "SM0a", "b" * 64)])
        assert (case.states(person), case.end(person)) == ([("email", "delivered")], "reached")
        assert case.states(other) == [("email", "handed_over")]

    def test_a_receipt_before_the_dispatchers_own_note(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.receive(intent, ReceiptKind.DELIVERED)
        case.hand_over([intent])
        assert case.states(person) == [("email", "delivered")]

    @pytest.mark.parametrize("trigger", [Trigger.ACCEPTED, Trigger.LOST])
    def test_the_text_is_proven_also_where_the_receipt_was_first(self, case: Case, trigger: Trigger) -> None:
        case.person(1)
        key = {"root": "customer/1", "key": b"k" * 32, "made_at": NOW}
        with case.database.write() as connection:
            connection.execute(sa.insert(tables.person_key).values(**key))
        (intent,) = case.claim(EMAIL_LANE)
        case.receive(intent, ReceiptKind.DELIVERED)
        case.receive(intent, ReceiptKind.READ)
        report = SentReport(intent.attempt_id, trigger, 1, body_sha256="e" * 64)
        case.ledger.report([report])
        case.ledger.report([report])
        said = [each for each in case.outcomes() if each.body_commitment is not None]
        assert [(each.state, each.previous_state) for each in said] == [(AttemptState.READ, AttemptState.READ)]

    def test_the_text_of_a_call_whose_dispatcher_died_is_proven(self, case: Case) -> None:
        arrived, doubtful, told, repeated = (case.person(number) for number in range(1, 5))
        with case.database.write() as connection:
            for number in range(1, 5):
                key = {"root": f"customer/{number}", "key": b"k" * 32, "made_at": NOW}
                connection.execute(sa.insert(tables.person_key).values(**key))
        intents = {intent.recipient_id: intent for intent in case.claim(EMAIL_LANE)}
        case.receive(intents[arrived], ReceiptKind.DELIVERED)
        case.ledger.report([SentReport(intents[told].attempt_id, Trigger.ACCEPTED, 1, "m-1", body_sha256="d" * 64)])
        case.ledger.report([SentReport(intents[repeated].attempt_id, Trigger.THROTTLED, 1, body_sha256="d" * 64)])
        left = [SentText(each.attempt_id, 1, "e" * 64) for each in intents.values()]
        left.append(SentText("no-such-attempt", 1, "e" * 64))
        for _ in range(2):
            case.ledger.learn_texts(left)
        assert [case.states(each) for each in (arrived, doubtful, told, repeated)] == [
            [("email", state)] for state in ("delivered", "unknown", "handed_over", "planned")
        ]
        said = {each.recipient_id: each for each in case.outcomes() if each.body_commitment is not None}
        assert (said[arrived].state, said[doubtful].state) == (AttemptState.DELIVERED, AttemptState.UNKNOWN)
        assert sum(each.body_commitment is not None for each in case.outcomes()) == 4, "each was told once"
        with case.database.read() as connection:
            digests = dict(
                connection.execute(sa.select(tables.attempt.c.recipient_id, tables.attempt.c.body_sha256)).all()
            )
        assert {each: str(digests[each])[0] for each in digests} == {
            arrived: "e", doubtful: "e", told: "d", repeated: "d",
        }  # fmt: skip

    def test_whom_their_own_server_puts_off_gets_the_next_channel_when_the_first_has_had_its_time(
        self, case: Case
    ) -> None:
        person, urgent = case.person(1), case.person(2, deadline_at=NOW + timedelta(hours=2, minutes=30))
        tries: dict[str, list[datetime]] = {person: [], urgent: []}
        while case.clock.at <= NOW + timedelta(hours=5):
            for intent in case.claim(EMAIL_LANE):
                tries[intent.recipient_id].append(case.clock.at)
                case.ledger.report(
                    [SentReport(intent.attempt_id, Trigger.THROTTLED, 1, code="SMTP_451", deferred=True)]
                )
            case.clock.at += timedelta(minutes=15)
        assert case.states(person) == case.states(urgent) == [("email", "rejected"), ("sms", "planned")]
        assert tries[person][0] == NOW
        assert tries[person][-1] == NOW + timedelta(hours=4), "the channel's own time"
        assert tries[urgent][-1] == NOW + timedelta(hours=1, minutes=30), "less what the next channel needs"
        assert max(later - earlier for earlier, later in itertools.pairwise(tries[person])) <= timedelta(minutes=15)
        assert len(tries[person]) < 25

    def test_a_deadline_that_has_passed_gives_nobodys_mail_up_before_a_greylist_is_over(self, case: Case) -> None:
        person = case.person(1, deadline_at=NOW - timedelta(hours=1))
        (first,) = case.claim(EMAIL_LANE)
        while case.clock.at < NOW + timedelta(minutes=20):
            for intent in [first] if case.clock.at == NOW else case.claim(EMAIL_LANE):
                case.ledger.report(
                    [SentReport(intent.attempt_id, Trigger.THROTTLED, 1, code="SMTP_450", deferred=True)]
                )
            case.clock.at += timedelta(minutes=1)
        assert case.states(person) == [("email", "planned")]

    def test_a_receipt_of_an_unknown_message_is_kept_and_matched_later(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        assert case.ledger.settle_receipts([untagged(intent)]).kept_aside == 1
        case.hand_over([intent])
        assert case.end(person) == "reached"

    def test_one_that_a_crash_left_aside_is_matched_when_its_stage_begins(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        person, waiting = case.person(1), case.person(2)
        intents = {intent.recipient_id: intent for intent in case.claim(EMAIL_LANE)}
        case.ledger.settle_receipts([untagged(intents[person]), untagged(intents[waiting])])
        with monkeypatch.context() as crashed:
            # what was committed beside it, it did not see, and it died before it looked again
            crashed.setattr(Receipts, "match_strays", lambda *_: None)
            case.hand_over([intents[person]])
        assert case.end(person) is None
        case.ledger.positions("dispatch", [])
        assert (case.end(person), case.end(waiting)) == ("reached", None)
        case.hand_over([intents[waiting]])
        assert case.end(waiting) == "reached"

    def test_a_command_twice_in_one_batch_is_one_claim_and_no_stranger(self, case: Case) -> None:
        case.person(1)
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        commands = case.commands()
        assert len(case.ledger.intend([*commands, *commands], "d1", "dispatch", {})) == 1
        with case.database.read() as connection:
            assert connection.execute(sa.select(tables.page.c.kind)).scalars().all() == []

    def test_two_dispatchers_cannot_own_one_attempt(self, case: Case) -> None:
        case.person(1)
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        commands = case.commands()
        assert len(case.ledger.intend(commands, "d1", "dispatch", {})) == 1
        assert case.ledger.intend(commands, "d2", "dispatch", {}) == ()

    def test_a_command_that_takes_an_exercise_for_a_leak_or_a_leak_for_an_exercise_mails_nobody(
        self, case: Case
    ) -> None:
        for exercise in (False, True):
            with case.database.write() as connection:
                connection.execute(sa.update(tables.incident).values(exercise=exercise))
            person = case.person(1 + exercise)
            case.ledger.begin_attempts(10)
            case.ledger.meter(EMAIL_LANE)
            commands = case.commands()
            assert [each.exercise for each in commands] == [exercise]
            forged = [replace(each, exercise=not exercise) for each in commands]
            assert case.ledger.intend(forged, "d1", "dispatch", {}) == ()
            assert case.states(person) == [("email", "commanded")]
            assert case.pages() == ["delivery.command_not_in_ledger"] * (1 + exercise)

    def test_an_exercise_stands_still_while_a_real_release_runs_and_goes_on_after_it(self, case: Case) -> None:
        drill = case.second_incident(exercise=True)
        trained = [case.twin(number, drill) for number in range(1, 9)]
        small = Lane(Channel.EMAIL, belt=4, at_once=4)
        with case.database.write() as connection:
            connection.execute(
                sa.update(tables.release).where(tables.release.c.release_id == "r1").values(state="paused")
            )
        case.ledger.begin_attempts(100)
        assert case.ledger.meter(small) == 4
        in_hand = case.ledger.intend(case.commands(), "d1", "dispatch", {})
        assert [each.exercise for each in in_hand] == [True] * 4
        assert case.ledger.meter(small) == 4
        on_belt = case.commands()
        assert len(case.ledger.standing(in_hand)) == 4
        real = [case.person(number) for number in range(11, 17)]
        with case.database.write() as connection:
            connection.execute(
                sa.update(tables.release).where(tables.release.c.release_id == "r1").values(state="releasing")
            )
        assert len(case.ledger.standing(in_hand)) == 0, "asked right before each call of a provider"
        case.ledger.begin_attempts(100)
        assert case.ledger.meter(small) == 4, "what the exercise has on the belt takes nobody's room"
        assert case.ledger.intend(on_belt, "d1", "dispatch", {}) == ()
        assert [case.states(each) for each in trained].count([("email", "planned")]) == 4
        mine = case.ledger.intend(case.commands(), "d1", "dispatch", {})
        assert {each.incident_id for each in mine} == {INCIDENT}
        assert case.ledger.meter(small) == 2, "the rest of the real one, and nothing of the exercise"
        assert (
            SqlProgress(case.database, case.clock).progress(drill).stopped
            == f"exercise waits while {INCIDENT} is released"
        )
        assert SqlProgress(case.database, case.clock).progress(INCIDENT).stopped is None
        assert len(real) == 6
        with case.database.write() as connection:
            connection.execute(
                sa.update(tables.release).where(tables.release.c.release_id == "r1").values(state="finished")
            )
        assert len(case.ledger.standing(in_hand)) == 4
        assert case.ledger.meter(Lane(Channel.EMAIL, belt=100, at_once=100)) == 4
        assert SqlProgress(case.database, case.clock).progress(drill).stopped is None

    def test_an_exercise_is_left_out_of_what_is_measured_and_marks_nobodys_address(self, case: Case) -> None:
        with case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(exercise=True))
        case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        receipts = [receipt_of(intent, kind, "", NOW) for kind in (ReceiptKind.DELAYED, ReceiptKind.BOUNCED_HARD)]
        handed = case.ledger.settle_receipts(receipts)
        assert (handed.applied, sorted(handed.exercises)) == (2, sorted(each.provider_event_id for each in receipts))
        assert case.ledger.attempts() == {}
        with case.database.read() as connection:
            assert connection.execute(sa.select(tables.hard_bounce)).all() == []

    def test_a_command_that_names_somebody_else_for_an_attempt_of_ours_mails_nobody_and_raises_a_page(
        self, case: Case
    ) -> None:
        case.person(1)
        case.person(2)
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        one, other = case.commands()
        forged = Command(one.attempt_id, other.recipient_id, one.release_id, one.epoch)
        before = STRANGERS._value.get()
        assert case.ledger.intend([forged], "d1", "dispatch", {}) == ()
        assert (case.pages(), STRANGERS._value.get() - before) == (["delivery.command_not_in_ledger"], 1)
        assert len(case.ledger.intend([one, other], "d1", "dispatch", {})) == 2, "the true ones still hold"

    def test_a_command_that_the_ledger_did_not_issue_mails_nobody_and_raises_a_page(self, case: Case) -> None:
        case.person(1)
        assert case.ledger.intend([Command("forged", f"{INCIDENT}:customer/1", "r1", 1)], "d1", "dispatch", {}) == ()
        with case.database.read() as connection:
            assert connection.execute(sa.select(tables.page.c.kind)).scalars().all() == [
                "delivery.command_not_in_ledger"
            ]

    def test_a_command_under_a_release_that_its_incident_never_had_mails_nobody_and_raises_a_page(
        self, case: Case
    ) -> None:
        person = case.person(1)
        case.second_incident()
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        (true,) = case.commands()
        with case.database.write() as connection:
            old = connection.execute(sa.select(tables.release).where(tables.release.c.release_id == "r1")).mappings()
            connection.execute(
                sa.insert(tables.release).values(**{**old.one(), "release_id": "r0", "state": "cancelled"})
            )
        assert case.ledger.intend([replace(true, release_id="r0")], "d1", "dispatch", {}) == ()
        assert case.pages() == [], "it carried them before another one took over, and its command comes late"
        for release_id in ("forged", "q1"):
            before = STRANGERS._value.get()
            assert case.ledger.intend([replace(true, release_id=release_id)], "d1", "dispatch", {}) == ()
            assert (case.pages(), STRANGERS._value.get() - before) == (["delivery.command_not_in_ledger"], 1)
        assert case.states(person) == [("email", "commanded")]
        assert len(case.ledger.intend([true], "d1", "dispatch", {})) == 1, "the true one still holds"

    def test_a_stale_epoch_sends_the_attempt_back(self, case: Case) -> None:
        person = case.person(1)
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        with case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(epoch=2))
        assert case.ledger.intend(case.commands(), "d1", "dispatch", {}) == ()
        assert case.states(person) == [("email", "planned")]

    def test_a_hold_stops_those_whom_it_covers_and_nobody_else(self, case: Case) -> None:
        held = case.person(1, residence=[{"code": "US-CA", "source": "store"}])
        free = case.person(2)
        with case.database.write() as connection:
            connection.execute(
                sa.insert(tables.gate).values(
                    gate_id="g",
                    incident_id=INCIDENT,
                    kind="law_enforcement_hold",
                    covers=["US-CA"],
                    set_at=NOW,
                    set_by="d",
                )
            )
        intents = case.claim(EMAIL_LANE)
        assert [intent.recipient_id for intent in intents] == [free]
        assert case.states(held) == [("email", "planned")]

    def test_a_hold_that_arrives_after_the_command_still_stops_it(self, case: Case) -> None:
        person = case.person(1)
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        with case.database.write() as connection:
            connection.execute(
                sa.insert(tables.gate).values(
                    gate_id="g",
                    incident_id=INCIDENT,
                    kind="law_enforcement_hold",
                    covers=["DE"],
                    set_at=NOW,
                    set_by="d",
                )
            )
        assert case.ledger.intend(case.commands(), "d1", "dispatch", {}) == ()
        assert case.states(person) == [("email", "planned")]

    def test_a_crash_after_the_intent_is_settled_by_the_receipt(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        sweep(case, timedelta(minutes=1))
        assert case.states(person) == [("email", "unknown")]
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.end(person) == "reached"

    def test_an_unknown_attempt_is_repeated_once_and_then_given_up(self, case: Case) -> None:
        person = case.person(1)
        for expected in ("unknown", "planned"):
            if expected == "unknown":
                case.lose(EMAIL_LANE)
            sweep(case, timedelta(minutes=10))
            assert case.states(person) == [("email", expected)]
        case.lose(EMAIL_LANE)
        sweep(case, timedelta(minutes=10))
        sweep(case, timedelta(minutes=10))
        assert case.states(person) == [("email", "expired"), ("sms", "planned")]

    @pytest.mark.parametrize(
        ("reports", "states"),
        [
            (["SES gives up the first"], [("email", "handed_over")]),
            (["SES has the first", "SES gives up the first"], [("email", "handed_over")]),
            (["SES gives up the first", "the second arrives"], [("email", "delivered")]),
            (["the second arrives", "SES gives up the first"], [("email", "delivered")]),
            (["the first arrives", "SES gives up the second"], [("email", "delivered")]),
            (["the first arrives", "the second arrives", "SES gives up the first"], [("email", "delivered")]),
            (["SES gives up the first", "SES gives up the second"], [("email", "bounced"), ("sms", "planned")]),
            (["SES has the first", "SES gives up the second"], [("email", "bounced"), ("sms", "planned")]),
            (["the first arrives", "SES gives up the first"], [("email", "bounced"), ("sms", "planned")]),
            (["nobody is at the first"], [("email", "bounced"), ("sms", "planned")]),
            (["the second arrives", "nobody is at the first"], [("email", "bounced"), ("sms", "planned")]),
        ],
    )
    def test_what_is_reported_of_a_call_is_no_word_about_its_repeats_message(
        self, case: Case, reports: list[str], states: list[tuple[str, str]]
    ) -> None:
        person, (first, repeat) = self.called_twice(case)
        assert first.attempt_id == repeat.attempt_id
        case.hand_over([repeat])
        self.report_of_calls(case, repeat, reports)
        assert case.states(person) == states
        assert case.end(person) == ("reached" if states == [("email", "delivered")] else None)

    def test_a_first_message_that_was_given_up_during_its_repeat_takes_back_nothing_of_it(self, case: Case) -> None:
        person, (_, repeat) = self.called_twice(case)
        self.report_of_calls(case, repeat, ["SES gives up the first"])
        assert case.states(person) == [("email", "bounced"), ("sms", "planned")], "the call in hand may come to nothing"
        case.hand_over([repeat])
        self.report_of_calls(case, repeat, ["the second arrives"])
        assert case.states(person) == [("email", "delivered"), ("sms", "cancelled")]
        assert case.end(person) == "reached"

    def test_what_the_first_provider_gives_up_is_no_word_about_the_seconds_message(self, case: Case) -> None:
        person, (_, repeat) = self.called_twice(case)
        case.ledger.report([SentReport(repeat.attempt_id, Trigger.ACCEPTED, repeat.send_count, provider="smtp")])
        self.report_of_calls(case, repeat, ["SES gives up the first"])
        assert case.states(person) == [("email", "handed_over")]
        arrived = receipt_of(repeat, ReceiptKind.DELIVERED, "smtp", case.clock.now())
        case.ledger.settle_receipts([replace(arrived, provider="smtp", provider_message_id="")])
        assert case.end(person) == "reached"

    @staticmethod
    def called_twice(case: Case) -> tuple[str, tuple[Intent, Intent]]:
        """Return somebody whose first call was lost, and whose repeat is in hand."""
        person = case.person(1)
        (first,) = case.lose(EMAIL_LANE)
        for _ in range(2):
            sweep(case, timedelta(minutes=10))
        (repeat,) = case.lose(EMAIL_LANE)
        return person, (first, repeat)

    @staticmethod
    def report_of_calls(case: Case, repeat: Intent, reports: list[str]) -> None:
        kinds = {
            "has": ReceiptKind.SENT, "arrives": ReceiptKind.DELIVERED, "gives up": ReceiptKind.BOUNCED_SOFT,
            "nobody": ReceiptKind.BOUNCED_HARD,
        }  # fmt: skip
        for number, words in enumerate(reports):
            kind = next(kind for word, kind in kinds.items() if word in words)
            told = receipt_of(repeat, kind, str(number), case.clock.now())
            name = "m-first" if "first" in words else told.provider_message_id
            case.ledger.settle_receipts([replace(told, provider_message_id=name)])

    def test_who_was_claimed_and_not_called_is_not_given_up_for_it(self, case: Case) -> None:
        person = case.person(1)
        for _ in range(4):
            assert len(case.claim(EMAIL_LANE)) == 1
            sweep(case, timedelta(minutes=10))
            sweep(case, timedelta(minutes=10))
            # the first one counts as called, as it may have been
            assert case.states(person) == [("email", "planned")]
        (again,) = case.lose(EMAIL_LANE)
        case.ledger.report([SentReport(again.attempt_id, Trigger.THROTTLED, again.send_count, called=True)])
        assert case.states(person) == [("email", "planned")], "called for nothing"
        case.lose(EMAIL_LANE)
        sweep(case, timedelta(minutes=10))
        sweep(case, timedelta(minutes=10))
        assert case.states(person) == [("email", "expired"), ("sms", "planned")], "called"

    def test_a_first_claim_that_is_taken_back_counts_for_no_call(self, case: Case) -> None:
        person = case.person(1)
        (first,) = case.claim(EMAIL_LANE)
        case.ledger.report([SentReport(first.attempt_id, Trigger.RECALL, first.send_count)])
        for _ in range(2):
            assert case.states(person) == [("email", "planned")]
            case.lose(EMAIL_LANE)
            sweep(case, timedelta(minutes=10))
            sweep(case, timedelta(minutes=10))
        assert case.states(person) == [("email", "expired"), ("sms", "planned")]

    def test_who_is_claimed_again_and_again_and_never_called_has_their_next_channel(self, case: Case) -> None:
        person = case.person(1)
        for _ in range(ledger._MOST_CLAIMS):
            assert case.states(person) in ([], [("email", "planned")])
            case.claim(EMAIL_LANE)
            sweep(case, timedelta(minutes=10))
            sweep(case, timedelta(minutes=10))
        assert case.states(person) == [("email", "expired"), ("sms", "planned")]

    def test_a_slow_dispatchers_note_counts_no_call_of_another(self, case: Case) -> None:
        case.person(1)
        slow = case.claim(EMAIL_LANE)
        for _ in range(2):
            sweep(case, timedelta(minutes=10))
        (again,) = case.claim(EMAIL_LANE)
        case.ledger.note_calls(slow)
        with case.database.read() as connection:
            counts = connection.execute(sa.select(tables.attempt.c.send_count, tables.attempt.c.called_count)).one()
        assert (tuple(counts), again.send_count) == ((2, 1), 2)

    def test_a_slow_dispatcher_finds_its_claim_gone_and_cannot_undo_the_next_one(self, case: Case) -> None:
        person = case.person(1)
        (slow,) = case.claim(EMAIL_LANE)
        assert set(case.ledger.standing([slow])) == {slow.attempt_id}
        for _ in range(2):
            sweep(case, timedelta(minutes=10))
        assert not case.ledger.standing([slow])
        (again,) = case.claim(EMAIL_LANE)
        assert not case.ledger.standing([slow])
        for trigger in (Trigger.RECALL, Trigger.THROTTLED, Trigger.REFUSED, Trigger.LOST):
            case.ledger.report([SentReport(slow.attempt_id, trigger, slow.send_count)])
        assert case.states(person) == [("email", "intended")]
        assert set(case.ledger.standing([again])) == {again.attempt_id}

    def test_what_happened_to_one_meanwhile_keeps_no_other_of_the_same_report_back(self, case: Case) -> None:
        people = [case.person(number) for number in range(4)]
        intents = {intent.recipient_id: intent for intent in case.claim(EMAIL_LANE)}
        delivered, lost, *others = (intents[person] for person in people)
        case.receive(delivered, ReceiptKind.DELIVERED)
        case.ledger.report([SentReport(lost.attempt_id, Trigger.LOST, lost.send_count)])
        case.hand_over([delivered, lost, *others])
        assert [case.states(person) for person in people] == [
            [("email", "delivered")], *[[("email", "handed_over")]] * 3,
        ]  # fmt: skip

    def test_a_throttled_call_does_not_use_up_the_repeat(self, case: Case) -> None:
        person = case.person(1)
        for _ in range(5):
            (intent,) = case.claim(EMAIL_LANE)
            case.ledger.report([SentReport(intent.attempt_id, Trigger.THROTTLED, intent.send_count)])
            assert intent.send_count == 1
        assert case.states(person) == [("email", "planned")]

    def test_silence_brings_the_next_channel_before_the_deadline(self, case: Case) -> None:
        person = case.person(1, deadline_at=NOW + timedelta(hours=2))
        (intent,) = case.claim(EMAIL_LANE)
        case.ledger.report([SentReport(intent.attempt_id, Trigger.ACCEPTED, 1, provider_message_id="m")])
        sweep(case, timedelta(minutes=61))
        assert case.states(person) == [("email", "expired"), ("sms", "planned")]

    @pytest.mark.parametrize("channel", ["email", "sms", "account_notice"])
    def test_a_deadline_gives_up_nothing_that_no_channel_follows_and_nobody_is_told_twice_for_it(
        self, case: Case, channel: str
    ) -> None:
        lane, told = Lane(Channel(channel), belt=1000, at_once=1000), "d" * 64
        passed = {"deadline_at": NOW - timedelta(hours=1)}
        person = case.person(1, (channel,), notice_sha256=told, **passed)
        (intent,) = case.claim(lane)
        case.hand_over([intent])
        there = case.twin(1, case.second_incident(), told, **passed)
        sweep(case, timedelta(minutes=61))
        case.ledger.begin_attempts(10)
        assert (case.states(person), case.end(person)) == ([(channel, "handed_over")], None)
        assert case.states(there) == [], "they are being told"
        sweep(case, timedelta(hours=2))
        assert case.states(person) == [(channel, "handed_over")]
        sweep(case, timedelta(hours=1))
        assert (case.states(person), case.end(person)) == ([(channel, "expired")], "unreachable_reported")
        case.ledger.begin_attempts(10)
        assert case.states(there) == [("email", "planned")]

    def test_what_a_provider_is_still_trying_is_waited_for_where_no_channel_follows(self, case: Case) -> None:
        person = case.person(1, ("email",), deadline_at=NOW - timedelta(hours=1))
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.clock.at += timedelta(hours=3)
        case.receive(intent, ReceiptKind.DELAYED)
        sweep(case, timedelta(hours=3, minutes=59))
        assert case.states(person) == [("email", "handed_over")]
        sweep(case, timedelta(minutes=2))
        assert case.states(person) == [("email", "expired")]

    def test_a_late_delivery_recalls_the_next_channel_that_has_not_left(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        sweep(case, timedelta(hours=5))
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.states(person) == [("email", "delivered"), ("sms", "cancelled")]
        assert case.end(person) == "reached"

    def test_lost_commands_are_issued_again(self, case: Case) -> None:
        case.person(1)
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        case.commands()  # the topic is lost with them
        sweep(case, timedelta(minutes=5))
        case.ledger.meter(EMAIL_LANE)
        assert len(case.commands()) == 1

    def test_what_may_wait_is_looked_at_only_when_it_is_asked_for(self, case: Case) -> None:
        told = case.person(1)
        case.hand_over(case.claim(EMAIL_LANE))
        commanded = case.person(2)
        case.ledger.begin_attempts(10)
        case.ledger.meter(EMAIL_LANE)
        case.clock.at += timedelta(days=5)
        long = timedelta(days=9)
        wanted = partial(case.ledger.sweep, intent_patience=long, unknown_patience=long)
        assert wanted(command_patience=None, expired=False) == 0
        assert wanted(command_patience=timedelta(minutes=1), expired=False) == 1
        assert case.states(commanded) == [("email", "planned")]
        assert wanted(command_patience=None, expired=True) == 1
        assert case.states(told) == [("email", "expired"), ("sms", "planned")]

    def test_of_very_many_commands_those_counted_last_take_room_until_they_are_counted_anew(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(metering, "_MANY", 1)
        for number in range(9):
            case.person(number)
        case.ledger.begin_attempts(100)
        lane = Lane(Channel.EMAIL, belt=4, at_once=3)
        assert case.ledger.meter(lane) == 3
        case.ledger.intend(case.commands(), "d1", "dispatch", {})
        assert case.ledger.meter(lane) == 1, "never too many: what was taken up since still takes room"
        case.clock.at += timedelta(seconds=1)
        assert case.ledger.meter(lane) == 3

    def test_the_belt_is_never_longer_than_allowed(self, case: Case) -> None:
        for number in range(20):
            case.person(number)
        case.ledger.begin_attempts(100)
        lane = Lane(Channel.EMAIL, belt=5, at_once=3)
        assert [case.ledger.meter(lane) for _ in range(4)] == [3, 2, 0, 0]

    def test_whose_turn_it_is_goes_at_once_while_nobody_else_waits(self, case: Case) -> None:
        people = [case.person(number, deadline_at=NOW + timedelta(hours=50 - number)) for number in range(4)]
        begun = case.ledger.begin_attempts(10, [replace(EMAIL_LANE, at_once=3)])
        assert (begun.people, begun.commanded, begun.more) == (4, {Channel.EMAIL: 3}, False)
        assert [case.states(person) for person in reversed(people)] == [
            *[[("email", "commanded")]] * 3, [("email", "planned")],
        ]  # fmt: skip
        commands = case.commands()
        assert {command.recipient_id for command in commands} == set(people[1:])
        intents = case.ledger.intend(commands, "d1", "dispatch", {})
        case.hand_over(list(intents))
        assert [case.states(person) for person in people[1:]] == [[("email", "handed_over")]] * 3
        assert case.ledger.meter(EMAIL_LANE) == 1
        assert [command.recipient_id for command in case.commands()] == people[:1]

    def test_a_belt_takes_at_once_what_it_has_room_for(self, case: Case) -> None:
        for number in range(9):
            case.person(number)
        lane = Lane(Channel.EMAIL, belt=4, at_once=3)
        assert case.ledger.begin_attempts(3, [lane]).commanded == {Channel.EMAIL: 3}
        assert case.ledger.begin_attempts(3, [lane]).commanded == {Channel.EMAIL: 1}
        assert case.ledger.begin_attempts(3, [lane]).commanded == {}, "two wait, and their turn comes first"
        assert case.ledger.meter(lane) == 0

    def test_a_free_lane_of_very_many_begins_as_many_as_go(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(beginnings, "_WORTH_A_PORTION", 2)
        for number in range(5):
            case.person(number)
        lane = Lane(Channel.EMAIL, belt=100, at_once=2)
        seen = [case.ledger.begin_attempts(10, [lane]) for _ in range(4)]
        assert [(begun.commanded.get(Channel.EMAIL, 0), begun.more) for begun in seen] == [
            (2, True), (2, True), (1, False), (0, False),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "why", ["another incident", "a hold", "a rate of its own", "a canary", "somebody waits", "paused"]
    )
    def test_nobody_goes_at_once_where_somebody_must_choose(self, case: Case, why: str) -> None:
        if why == "somebody waits":
            case.person(9)
            case.ledger.begin_attempts(1)
        person = case.person(1)
        with case.database.write() as connection:
            if why == "a hold":
                values = {"gate_id": "g", "incident_id": INCIDENT, "kind": "authority_first", "covers": ["US-CA"]}
                connection.execute(sa.insert(tables.gate).values(**values, set_at=NOW, set_by="d"))
            elif why == "a rate of its own":
                rate: dict[str, Any] = {
                    "incident_id": INCIDENT,
                    "channel": "email",
                    "per_second": 2,
                    "set_at": NOW,
                    "set_by": "d",
                }
                connection.execute(sa.insert(tables.lane_rate).values(**rate))
            elif why == "a canary":
                canary = {"per_segment": 1, "wait_seconds": 60, "bound_percent": 5}
                policy = {"segments": {"s1": APPROVED}, "canary": canary}
                connection.execute(sa.update(tables.release).values(policy=policy, canary_state="testing"))
            elif why == "paused":
                connection.execute(sa.update(tables.release).values(state="paused"))
        if why == "another incident":
            case.second_incident()
        begun = case.ledger.begin_attempts(10, [EMAIL_LANE])
        assert (begun.commanded, case.commands()) == ({}, [])
        assert case.states(person) == ([] if why == "paused" else [("email", "planned")])

    def test_the_most_urgent_deadline_goes_first(self, case: Case) -> None:
        case.person(1, deadline_at=NOW + timedelta(hours=90))
        urgent = case.person(2, deadline_at=NOW + timedelta(hours=1))
        case.person(3, deadline_at=None)
        case.ledger.begin_attempts(10)
        case.ledger.meter(Lane(Channel.EMAIL, belt=1, at_once=1))
        assert [command.recipient_id for command in case.commands()] == [urgent]

    def test_a_small_incident_and_a_fallback_each_get_their_turn_beside_a_huge_one(self, case: Case) -> None:
        other = case.second_incident()
        bounced = case.person(99, ("sms", "email"), deadline_at=NOW + timedelta(hours=72))
        with case.database.write() as connection:
            connection.execute(sa.update(tables.segment).values(channels=["sms", "email"]))
            for release_id, segment_id in (("r1", "s1"), ("q1", "t1")):
                policy = {"segments": {segment_id: {**APPROVED, "channels": ["sms", "email"]}}}
                connection.execute(
                    sa.update(tables.release).where(tables.release.c.release_id == release_id).values(policy=policy)
                )
        (first,) = case.claim(SMS_LANE)
        for number in range(40):
            case.person(number, ("email",), deadline_at=NOW + timedelta(hours=70))
        small = case.person(
            1, ("email",), recipient_id=f"{other}:customer/1", incident_id=other, segment_id="t1",
            deadline_at=NOW + timedelta(hours=71),
        )  # fmt: skip
        case.hand_over([first])
        case.receive(first, ReceiptKind.BOUNCED_HARD)
        case.ledger.begin_attempts(100)
        case.ledger.meter(Lane(Channel.EMAIL, belt=100, at_once=12, per_second=14))
        gone = {command.recipient_id for command in case.commands()}
        assert {small, bounced} < gone
        assert len(gone) == 12

    def test_an_incidents_own_rate_holds_at_the_next_portion(self, case: Case) -> None:
        for number in range(40):
            case.person(number)
        case.ledger.begin_attempts(100)
        with case.database.write() as connection:
            connection.execute(
                sa.insert(tables.lane_rate).values(
                    incident_id=INCIDENT, channel="email", per_second=2, set_at=NOW, set_by="d"
                )
            )
        metered = []
        for _ in range(5):
            metered.append(case.ledger.meter(EMAIL_LANE))
            case.clock.at += timedelta(seconds=1)
        assert metered == [0, 2, 2, 2, 2]

    def test_late_additions_stop_at_the_cap_of_the_approval(self, case: Case) -> None:
        for number in range(3):
            case.person(number, late=True)
        case.ledger.begin_attempts(10)
        assert case.ledger.meter(EMAIL_LANE) == 1

    def test_people_of_a_segment_that_nobody_approved_wait(self, case: Case) -> None:
        with case.database.write() as connection:
            connection.execute(
                sa.insert(tables.segment).values(
                    segment_id="s2", incident_id=INCIDENT, revision=1, name="other", key={}, bundle_sha256=None,
                    channels=["email"], lane="email", priority=1, sms_details=False, count=0,
                )
            )  # fmt: skip
        person = case.person(1, segment_id="s2")
        assert case.ledger.begin_attempts(10).people == 0
        assert case.end(person) is None

    def test_break_glass_reaches_only_those_whose_deadline_is_near(self, case: Case) -> None:
        near = case.person(1, deadline_at=NOW + timedelta(hours=23))
        case.person(2, deadline_at=NOW + timedelta(hours=25))
        with case.database.write() as connection:
            connection.execute(sa.update(tables.release).values(mode="break_glass"))
        assert [intent.recipient_id for intent in case.claim(EMAIL_LANE)] == [near]
        case.clock.at += timedelta(hours=48)
        assert case.ledger.begin_attempts(10).people == 0

    @pytest.mark.parametrize("change", [{"bundle_sha256": "c" * 64}, {"channels": ["sms"]}])
    def test_a_text_or_channels_other_than_approved_reach_nobody(self, case: Case, change: dict[str, Any]) -> None:
        case.person(1)
        with case.database.write() as connection:
            connection.execute(sa.update(tables.segment).values(**change))
        assert case.ledger.begin_attempts(10).people == 0

    def test_a_small_incident_does_not_wait_until_all_of_a_huge_one_have_begun(self, case: Case) -> None:
        huge = [case.person(number) for number in range(30)]
        other = case.second_incident()
        small = [case.twin(100 + number, other) for number in range(2)]
        begun = case.ledger.begin_attempts(10)
        assert (begun.people, begun.more) == (10, True)
        assert [case.states(each) for each in small] == [[("email", "planned")]] * 2
        assert sum(bool(case.states(each)) for each in huge) == 8, "what the small one leaves is used"
        while begun.more:
            begun = case.ledger.begin_attempts(10)
        assert all(case.states(each) == [("email", "planned")] for each in huge)

    def test_somebody_without_any_channel_ends_at_once_as_unreachable(self, case: Case) -> None:
        person = case.person(1, channels=())
        case.ledger.begin_attempts(10)
        assert case.end(person) == "unreachable_reported"

    def test_a_bounce_after_the_end_takes_end_and_finish_back(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.ledger.finish_releases() == [(INCIDENT, "r1")]
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.states(person) == [("email", "bounced"), ("sms", "planned")]
        assert case.end(person) is None
        assert case.ledger.meter(SMS_LANE) == 1

    @pytest.mark.parametrize("others_told", [False, True])
    def test_a_bounce_after_the_end_goes_on_under_the_release_of_the_corrected_scope(
        self, case: Case, others_told: bool
    ) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.ledger.finish_releases() == [(INCIDENT, "r1")]
        case.void()
        case.affect(1, revision=2)
        case.release_anew()
        if others_told:
            assert case.ledger.finish_releases() == [(INCIDENT, "r2")]
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        (again,) = case.claim(SMS_LANE)
        assert (again.recipient_id, again.release_id) == (person, "r2")
        case.hand_over([again])
        case.receive(again, ReceiptKind.DELIVERED)
        assert case.end(person) == "reached"
        assert case.ledger.finish_releases() == [(INCIDENT, "r2")]

    def test_a_bounce_under_a_cancelled_release_goes_on_under_the_next_one_though_that_is_finished(
        self, case: Case
    ) -> None:
        person = case.person(1)
        case.affect(1, revision=1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        case.cancel()
        case.release_anew(revision=1)
        assert case.ledger.finish_releases() == [(INCIDENT, "r2")]
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert [each.recipient_id for each in case.claim(SMS_LANE)] == [person]
        assert case.pages() == []

    @pytest.mark.parametrize("why", ["a bounce", "a late addition"])
    def test_a_finished_release_goes_on_as_paused_while_another_one_of_its_incident_is(
        self, case: Case, why: str
    ) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.ledger.finish_releases() == [(INCIDENT, "r1")]
        case.release_anew(revision=1)
        case.set_release("r2", "paused")
        if why == "a bounce":
            case.receive(intent, ReceiptKind.BOUNCED_HARD)
        else:
            person = case.person(2, late=True)
        assert case.claim(EMAIL_LANE) == []
        assert case.claim(SMS_LANE) == []
        for release_id in ("r1", "r2"):
            case.set_release(release_id, "releasing")
        told = case.claim(EMAIL_LANE) + case.claim(SMS_LANE)
        assert [each.recipient_id for each in told] == [person]

    @pytest.mark.parametrize("lost", [True, False])
    def test_nothing_is_tried_again_with_whom_another_channel_has_reached_meanwhile(
        self, case: Case, lost: bool
    ) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        sweep(case, timedelta(hours=5))
        (text,) = case.claim(SMS_LANE)
        if lost:
            case.ledger.report([SentReport(text.attempt_id, Trigger.LOST, text.send_count)])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.end(person) == "reached"
        if lost:
            sweep(case, timedelta(minutes=10))
        else:
            case.ledger.report([SentReport(text.attempt_id, Trigger.THROTTLED, text.send_count)])
        assert case.states(person) == [("email", "delivered"), ("sms", "cancelled")]
        assert case.claim(SMS_LANE) == []
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert [each.recipient_id for each in case.claim(SMS_LANE)] == [person], "it is needed after all"

    def test_the_next_channel_is_the_one_that_was_approved(self, case: Case) -> None:
        person = case.person(1, ("email", "sms", "account_notice"))
        (intent,) = case.claim(EMAIL_LANE)
        with case.database.write() as connection:
            connection.execute(sa.update(tables.segment).values(channels=["email", "account_notice"]))
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.states(person) == [("email", "bounced"), ("sms", "planned")]

    def test_a_void_release_leaves_nobody_behind_to_whom_nothing_was_sent(self, case: Case) -> None:
        told, waiting, on_belt = (
            case.person(number, deadline_at=NOW + timedelta(hours=number)) for number in (1, 2, 3)
        )
        case.hand_over(case.claim(Lane(Channel.EMAIL, belt=1, at_once=1)))
        case.ledger.meter(Lane(Channel.EMAIL, belt=1, at_once=1))
        case.void()
        assert case.states(told) == [("email", "handed_over")]
        assert case.states(waiting) == case.states(on_belt) == []
        assert case.ledger.intend(case.commands(), "d1", "dispatch", {}) == ()
        assert case.pages() == [], "a withdrawn command is no stranger's"
        case.release_anew()
        assert {intent.recipient_id for intent in case.claim(EMAIL_LANE)} == {waiting, on_belt}

    @pytest.mark.parametrize("sent", [None, "email", "sms"])
    def test_a_void_release_leaves_both_channels_that_begin_together_or_none(
        self, case: Case, sent: str | None
    ) -> None:
        together = {"channels": ["email", "sms"], "together": [["email", "sms"]]}
        with case.database.write() as connection:
            connection.execute(sa.update(tables.segment).values(channels=["email", "sms"], key=together))
            connection.execute(
                sa.update(tables.release).values(policy={"segments": {"s1": {"bundle_sha256": "b" * 64, **together}}})
            )
        person = case.person(1)
        case.affect(1, revision=2)
        case.ledger.begin_attempts(10)
        lanes = {"email": EMAIL_LANE, "sms": SMS_LANE}
        if sent is not None:
            case.hand_over(case.claim(lanes[sent]))
        case.void()
        case.release_anew()
        told = {each.channel.value for channel in lanes if channel != sent for each in case.claim(lanes[channel])}
        assert told == lanes.keys() - {sent}
        assert [channel for channel, _ in case.states(person)] == ["email", "sms"]

    @pytest.mark.parametrize("still_affected", [True, False])
    def test_the_next_channel_after_a_corrected_scope_needs_the_new_approval(
        self, case: Case, still_affected: bool
    ) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.void()
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.claim(SMS_LANE) == []
        if still_affected:
            case.affect(1, revision=2)
        case.release_anew()
        assert [each.recipient_id for each in case.claim(SMS_LANE)] == ([person] if still_affected else [])
        counts = case.ledger.counts(INCIDENT)
        assert (counts.people, counts.open) == ((1, 1) if still_affected else (0, 0))
        with case.database.read() as connection:
            work = SqlCaseWork(connection, NOW)
            assert work.without_end_count(INCIDENT) == (1 if still_affected else 0)

    def test_approvers_hear_of_a_next_channel_that_no_release_may_take_over(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.void()
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        case.affect(1, revision=2)
        case.release_anew()
        with case.database.write() as connection:
            # the new approval knows other texts only
            connection.execute(
                sa.update(tables.release).where(tables.release.c.release_id == "r2").values(policy={"segments": {}})
            )
        assert case.claim(SMS_LANE) == []
        assert case.pages() == ["release.people_wait"]
        assert case.states(person) == [("email", "bounced"), ("sms", "planned")]

    @pytest.mark.parametrize("stopped", ["cancelled", "of an earlier scope"])
    def test_approvers_hear_of_a_bounce_after_the_last_release_was_stopped(self, case: Case, stopped: str) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        revision = 1
        if stopped == "cancelled":
            case.affect(1, revision=1)
            case.cancel()
        else:
            assert case.ledger.finish_releases() == [(INCIDENT, "r1")]
            revision = 2
            case.affect(1, revision=2)
            with case.database.write() as connection:
                connection.execute(sa.update(tables.incident).values(revision=2, epoch=2))
        case.ledger.begin_attempts(10)
        assert case.pages() == []
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        for _ in range(2):
            case.ledger.begin_attempts(10)
            assert case.pages() == ["release.people_wait"]
        assert case.standing_pages() == ["release.people_wait"]
        case.release_anew(revision=revision)
        assert [each.recipient_id for each in case.claim(SMS_LANE)] == [person]
        assert case.standing_pages() == []

    def test_the_page_about_people_who_wait_ends_with_them_and_stands_again_when_there_are_some(
        self, case: Case
    ) -> None:
        with case.database.write() as connection:
            connection.execute(sa.update(tables.release).values(late_cap=0))
        case.person(1, late=True)
        case.claim(EMAIL_LANE)
        (page_id,) = case.told_of_pages()
        case.set_cap(1)
        assert len(case.claim(EMAIL_LANE)) == 1
        assert case.standing_pages() == []
        case.person(2, late=True)
        case.set_release("r1", "paused")
        case.ledger.begin_attempts(10)
        assert case.standing_pages() == []
        case.set_release("r1", "releasing")
        case.ledger.begin_attempts(10)
        assert case.standing_pages() == ["release.people_wait"]
        assert case.told_of_pages() == [page_id], "and its receivers are told anew"
        case.set_release("r1", "paused")
        case.ledger.begin_attempts(10)
        assert case.standing_pages() == ["release.people_wait"], "a pause tells nobody"
        case.set_release("r1", "releasing")
        with case.database.write() as connection:
            connection.execute(sa.update(tables.page).values(acknowledged_at=NOW, acknowledged_by="dora"))
        case.ledger.begin_attempts(10)
        assert case.standing_pages() == [], "a person has seen to it"

    def test_who_waits_for_another_approval_takes_nobodys_turn(self, case: Case) -> None:
        with case.database.write() as connection:
            connection.execute(
                sa.insert(tables.segment).values(
                    segment_id="s2", incident_id=INCIDENT, revision=1, name="other", key={}, bundle_sha256="c" * 64,
                    channels=["email"], lane="email", priority=1, sms_details=False, count=0,
                )
            )  # fmt: skip
        case.person(1, segment_id="s2", deadline_at=NOW + timedelta(hours=1))
        case.person(2, deadline_at=NOW + timedelta(hours=2))
        assert case.ledger.begin_attempts(1).people == 1
        assert case.ledger.begin_attempts(1).people == 0
        assert case.pages() == ["release.people_wait"]
        case.ledger.begin_attempts(1)
        assert case.pages() == ["release.people_wait"]

    def test_a_late_addition_after_the_end_is_told_under_the_cap(self, case: Case) -> None:
        case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.ledger.finish_releases() == [(INCIDENT, "r1")]
        case.person(2, late=True)
        case.person(3, late=True)
        (late,) = case.claim(EMAIL_LANE)
        assert set(case.ledger.standing([late])) == {late.attempt_id}
        assert case.pages() == ["release.people_wait"], "the second one is past the cap"
        case.hand_over([late])
        case.receive(late, ReceiptKind.DELIVERED)
        assert case.end(late.recipient_id) == "reached"

    def test_a_late_addition_does_not_revive_a_release_of_another_scope(self, case: Case) -> None:
        case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        case.ledger.finish_releases()
        with case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(revision=2))
        case.person(2)
        assert case.ledger.begin_attempts(10).people == 0
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.claim(SMS_LANE) == []

    def test_a_bounce_after_closing_is_an_end_and_starts_nothing(self, case: Case) -> None:
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        case.ledger.finish_releases()
        with case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(state="closed", closed_at=NOW, epoch=2))
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.states(person) == [("email", "bounced")]
        assert case.end(person) == "unreachable_reported"
        with case.database.read() as connection:
            (said,) = connection.execute(sa.select(tables.page)).mappings().all()
        assert (said["kind"], said["severity"]) == ("delivery.came_back_after_end", "warning")
        assert said["incident_id"] is None, "what is about an incident that has ended is heard by nobody"
        assert INCIDENT in said["title"]

    def test_what_comes_back_after_an_exercise_was_closed_is_nobodys_page(self, case: Case) -> None:
        with case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(exercise=True))
        person = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        with case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(state="closed", closed_at=NOW, epoch=2))
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert case.end(person) == "unreachable_reported"
        assert case.pages() == []

    def test_a_release_finishes_only_when_everybody_has_an_end(self, case: Case) -> None:
        case.person(1)
        held = case.person(2, held_reason="no approved text")
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.ledger.finish_releases() == []
        with case.database.write() as connection:
            connection.execute(
                sa.update(tables.recipient)
                .where(tables.recipient.c.recipient_id == held)
                .values(held_reason=None, final_state="reached")
            )
        assert case.ledger.finish_releases() == [(INCIDENT, "r1")]

    def test_a_crash_between_publish_and_settle_gives_the_same_outbox_rows_again(self, case: Case) -> None:
        for number in range(3):
            case.person(number)
        case.ledger.begin_attempts(10)
        for _ in range(3):
            case.ledger.meter(Lane(Channel.EMAIL, belt=1000, at_once=1))
        box = Outbox(case.database)
        first = box.next_batch(2)
        again = box.next_batch(2)  # as after a crash between publish and settle
        assert first == again
        box.settle(again)
        (last,) = box.next_batch(2)
        assert last.outbox_id > first[-1].outbox_id

    def test_a_supplement_is_another_round_of_the_same_person(self, case: Case) -> None:
        first = case.person(1)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.ledger.finish_releases() == [(INCIDENT, "r1")]
        case.person(1, recipient_id=f"{first}#2", round=2, supplements=first, late=True, segment_id="s1")
        counts = case.ledger.counts(INCIDENT)
        assert (counts.people, counts.reached, counts.open) == (1, 1, 0)
        assert (counts.supplements, counts.supplements_open) == (1, 1)
        (again,) = case.claim(EMAIL_LANE)
        assert again.recipient_id == f"{first}#2"
        assert case.ledger.finish_releases() == [], "a supplement under way is no end"
        case.hand_over([again])
        case.receive(again, ReceiptKind.BOUNCED_HARD)
        assert case.states(f"{first}#2") == [("email", "bounced"), ("sms", "planned")]
        assert case.states(first) == [("email", "delivered")]
        assert case.end(first) == "reached"

    def test_supplements_and_late_people_share_the_cap(self, case: Case) -> None:
        first = case.person(1)
        case.claim(EMAIL_LANE)
        case.person(1, recipient_id=f"{first}#2", round=2, supplements=first, late=True)
        case.person(2, late=True)
        assert len(case.claim(EMAIL_LANE)) == 1
        assert case.pages() == ["release.people_wait"]

    def test_who_is_told_the_same_in_another_incident_is_told_once(self, case: Case) -> None:
        other = case.second_incident()
        first = case.person(1, notice_sha256="d" * 64)
        second = case.twin(1, other)
        (intent,) = case.claim(EMAIL_LANE)
        assert intent.recipient_id == first
        assert case.pages() == [], "nobody waits for an approval"
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.ledger.begin_attempts(10).people == 1
        assert case.end(second) == "reached"
        assert case.states(second) == []
        with case.database.read() as connection:
            told_in = connection.execute(
                sa.select(tables.recipient.c.told_in).where(tables.recipient.c.recipient_id == second)
            ).scalar_one()
        assert told_in == first
        bodies = {event["kind"]: event for event in case.case_events()}
        said = bodies["people.told_in_other_incident"]
        assert (said["incident_id"], said["body"]["year"], said["body"]["number"]) == (other, 2026, 1)
        # neither end hangs on the other: both releases finish
        assert {each for _, each in case.ledger.finish_releases()} == {"r1", "q1"}

    def test_who_is_not_reached_there_is_told_here(self, case: Case) -> None:
        other = case.second_incident()
        first = case.person(1, ("email",), notice_sha256="d" * 64)
        second = case.twin(1, other)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        # a full mailbox may have room again; an address that bounced for good is not tried here either
        case.receive(intent, ReceiptKind.BOUNCED_SOFT)
        assert case.end(first) == "unreachable_reported"
        (again,) = case.claim(EMAIL_LANE)
        assert again.recipient_id == second

    @pytest.mark.parametrize("why", ["gate", "paused"])
    def test_who_was_told_elsewhere_while_their_notice_waited_is_not_told_again(self, case: Case, why: str) -> None:
        other = case.second_incident()
        first = case.person(1, notice_sha256="d" * 64)
        alone = case.person(2)
        case.ledger.begin_attempts(10)
        second = case.twin(1, other)
        store = SqlCaseStore(case.database, case.clock)
        if why == "gate":
            with case.database.write() as connection:
                values = {"gate_id": "g", "incident_id": INCIDENT, "kind": "law_enforcement_hold", "covers": ["DE"]}
                connection.execute(sa.insert(tables.gate).values(**values, set_at=NOW, set_by="d"))
        else:
            case.set_release("r1", "paused")
        (intent,) = case.claim(EMAIL_LANE)
        assert intent.recipient_id == second
        case.hand_over([intent])
        if why == "gate":
            store.change(lambda work: work.lift_gate("g", by="d", at=NOW))
        else:
            case.set_release("r1", "releasing")
        assert [each.recipient_id for each in case.claim(EMAIL_LANE)] == [alone], "it may arrive yet"
        case.receive(intent, ReceiptKind.DELIVERED)
        assert case.claim(EMAIL_LANE) == []
        assert (case.end(first), case.states(first)) == ("reached", [])

    def test_who_was_told_elsewhere_and_was_not_after_all_is_told_here(self, case: Case) -> None:
        other = case.second_incident()
        first = case.person(1, ("email", "account_notice"), notice_sha256="d" * 64)
        second = case.twin(1, other)
        (intent,) = case.claim(EMAIL_LANE)
        case.hand_over([intent])
        case.receive(intent, ReceiptKind.DELIVERED)
        case.ledger.begin_attempts(10)
        assert case.end(second) == "reached"
        assert len(case.ledger.finish_releases()) == 2
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert (case.end(first), case.end(second)) == (None, None)
        assert case.claim(SMS_LANE) == [], "the next channel there may reach them"
        (notice,) = case.claim(Lane(Channel.ACCOUNT_NOTICE, belt=10, at_once=10))
        case.ledger.report([SentReport(notice.attempt_id, Trigger.REFUSED, notice.send_count)])
        assert case.end(first) == "unreachable_reported"
        assert [each.recipient_id for each in case.claim(SMS_LANE)] == [second]

    def fallback_in_a_paused_incident(self, case: Case) -> tuple[str, str, Intent]:
        """Let somebody's next channel wait in a paused incident, while another one's first notice of the same is on its way."""
        other = case.second_incident()
        first = case.person(1, notice_sha256="d" * 64)
        (mail,) = case.claim(EMAIL_LANE)
        case.hand_over([mail])
        case.receive(mail, ReceiptKind.BOUNCED_SOFT)
        case.set_release("r1", "paused")
        second = case.twin(1, other)
        (theirs,) = case.claim(EMAIL_LANE)
        assert theirs.recipient_id == second
        case.hand_over([theirs])
        case.set_release("r1", "releasing")
        return first, second, theirs

    def test_a_next_channel_waits_for_another_incidents_notice_and_is_not_sent_once_it_arrived(
        self, case: Case
    ) -> None:
        first, second, theirs = self.fallback_in_a_paused_incident(case)
        assert case.claim(SMS_LANE) == [], "the other notice may arrive yet"
        case.clock.at += timedelta(minutes=2)
        case.receive(theirs, ReceiptKind.DELIVERED)
        assert case.claim(SMS_LANE) == []
        assert case.states(first) == [("email", "bounced"), ("sms", "cancelled")]
        assert (case.end(first), case.end(second)) == ("reached", "reached")
        with case.database.read() as connection:
            of_first = tables.recipient.c.recipient_id == first
            assert connection.execute(sa.select(tables.recipient.c.told_in).where(of_first)).scalar_one() == second
        assert {each for _, each in case.ledger.finish_releases()} == {"r1", "q1"}
        # what arrived there did not after all: both go on, and one message leaves
        case.receive(theirs, ReceiptKind.BOUNCED_SOFT)
        assert (case.end(first), case.end(second)) == (None, None)
        (text,) = case.claim(SMS_LANE)
        assert case.states(first) == [("email", "bounced"), ("sms", "cancelled"), ("sms", "planned")] or (
            case.states(second) == [("email", "bounced"), ("sms", "planned")]
        )
        case.hand_over([text])
        case.receive(text, ReceiptKind.DELIVERED)
        case.clock.at += timedelta(minutes=2)
        assert case.claim(SMS_LANE) == []
        assert (case.end(first), case.end(second)) == ("reached", "reached")

    def test_a_next_channel_that_was_commanded_is_not_claimed_once_another_notice_has_arrived(self, case: Case) -> None:
        first, _, theirs = self.fallback_in_a_paused_incident(case)
        case.set_release("q1", "paused")
        sweep(case, timedelta(hours=6))
        case.ledger.meter(SMS_LANE)
        assert case.states(first)[-1] == ("sms", "commanded")
        case.receive(theirs, ReceiptKind.DELIVERED)
        assert case.ledger.intend(case.commands(), "d1", "dispatch", {}) == ()
        assert (case.end(first), case.states(first)[-1]) == ("reached", ("sms", "cancelled"))

    def test_a_repeat_that_another_notice_made_needless_is_owed_again_when_that_one_did_not_arrive(
        self, case: Case
    ) -> None:
        other = case.second_incident()
        first = case.person(1, notice_sha256="d" * 64)
        case.lose(EMAIL_LANE)
        case.set_release("r1", "paused")
        sweep(case, timedelta(minutes=1))
        sweep(case, timedelta(minutes=6))
        assert case.states(first) == [("email", "planned")], "to be repeated once"
        second = case.twin(1, other)
        (theirs,) = case.claim(EMAIL_LANE)
        case.hand_over([theirs])
        case.receive(theirs, ReceiptKind.DELIVERED)
        case.set_release("r1", "releasing")
        assert case.claim(EMAIL_LANE) == []
        assert (case.end(first), case.states(first)) == ("reached", [("email", "cancelled")])
        case.receive(theirs, ReceiptKind.BOUNCED_SOFT)
        assert (case.end(first), case.end(second)) == (None, None)
        assert case.states(first) == [("email", "cancelled"), ("email", "planned")]

    def test_a_next_channel_goes_when_the_other_incidents_notice_fails(self, case: Case) -> None:
        first, second, theirs = self.fallback_in_a_paused_incident(case)
        case.clock.at += timedelta(minutes=2)
        case.receive(theirs, ReceiptKind.BOUNCED_SOFT)
        assert case.states(second) == [("email", "bounced"), ("sms", "planned")]
        (text,) = case.claim(SMS_LANE)
        case.clock.at += timedelta(minutes=2)
        case.hand_over([text])
        assert case.claim(SMS_LANE) == [], "one of the two, not both"
        assert {case.states(each)[-1][1] for each in (first, second)} == {"handed_over", "planned"}

    def test_a_message_without_a_last_word_is_known_by_what_its_provider_calls_it(self, case: Case) -> None:
        for number in (1, 2, 3):
            case.person(number, ("sms",), deadline_at=NOW + timedelta(hours=number))
        intents = case.claim(SMS_LANE)
        case.hand_over(intents[:2])
        case.ledger.report([SentReport(intents[2].attempt_id, Trigger.LOST, 1)])
        tables_of = ProviderTables(case.database, case.clock)
        found = tables_of.unreported("sns")
        assert {each.message_id for each in found} == {f"m-{each.attempt_id}" for each in intents[:2]}
        assert {each.handed_over_at for each in found} == {NOW}
        assert [each.expires_at for each in found] == sorted(each.expires_at for each in found)
        assert tables_of.unreported("sms_gateway") == []
        case.receive(intents[0], ReceiptKind.DELIVERED)
        assert [each.attempt_id for each in tables_of.unreported("sns")] == [intents[1].attempt_id]

    def test_what_waits_beside_a_release_is_counted_by_channel_and_deadline(self, case: Case) -> None:
        other = case.second_incident()
        far, near = NOW + timedelta(hours=72), NOW + timedelta(hours=9)
        case.person(1)
        case.ledger.begin_attempts(10)
        case.ledger.meter(Lane(Channel.EMAIL, belt=1, at_once=1))
        for number, due in ((2, far), (3, near), (4, None)):
            case.twin(number, other, f"{number:064d}", deadline_at=due)
        case.twin(5, other, f"{5:064d}", channels=("sms",), deadline_at=near)
        case.twin(6, other, f"{6:064d}", held_reason="asked for", deadline_at=near)
        store = SqlCaseStore(case.database, case.clock)

        def beside(incident_id: str, *, exercise: bool = False) -> dict[Channel, set[tuple[datetime | None, int]]]:
            found = store.look(lambda work: work.waiting_beside(incident_id, exercise=exercise))
            assert {each[2:] for counted in found.values() for each in counted} <= {("", None)}
            return {channel: {each[:2] for each in counted} for channel, counted in found.items()}

        theirs = {Channel.EMAIL: {(far, 1), (near, 1), (None, 1)}, Channel.SMS: {(near, 1)}}
        assert beside(INCIDENT) == theirs, "before they are begun"
        assert beside(other) == {Channel.EMAIL: {(far, 1)}}, "what lies on the belt, too"
        case.ledger.begin_attempts(10)
        assert beside(INCIDENT) == theirs, "and when they are"
        with case.database.write() as connection:
            rate = {"incident_id": other, "channel": "email", "per_second": 0.5, "set_at": NOW, "set_by": "p"}
            connection.execute(sa.insert(tables.lane_rate).values(**rate))
        found = store.look(lambda work: work.waiting_beside(INCIDENT, exercise=False))
        assert set(found[Channel.EMAIL]) == {(at, 1, other, 0.5) for at in (far, near, None)}
        assert set(found[Channel.SMS]) == {(near, 1, "", None)}
        with case.database.write() as connection:
            connection.execute(sa.delete(tables.lane_rate))
        case.set_release("q1", "paused")
        assert beside(INCIDENT) == {}
        case.set_release("q1", "releasing")
        with case.database.write() as connection:
            ours = tables.incident.c.incident_id == other
            connection.execute(sa.update(tables.incident).where(ours).values(exercise=True))
        assert (beside(INCIDENT), beside(INCIDENT, exercise=True)) == ({}, theirs)

    @pytest.mark.parametrize(
        ("sub_type", "contact", "hard"),
        [("General", "a", True), ("General", "b", False), (SUPPRESSED, "a", False)],
    )
    def test_who_has_another_contact_since_it_bounced_or_was_never_tried_may_be_tried_again_in_the_same_incident(
        self, case: Case, sub_type: str, contact: str, *, hard: bool
    ) -> None:
        person = case.person(1, ("email",), contact=sealed("a"))
        (mail,) = case.claim(EMAIL_LANE)
        case.hand_over([mail])
        case.ledger.settle_receipts([replace(receipt_of(mail, ReceiptKind.BOUNCED_HARD, "", NOW), sub_type=sub_type)])
        assert case.end(person) == "unreachable_reported"
        with case.database.write() as connection:
            # as planning does when the scope is resolved anew
            connection.execute(sa.update(tables.recipient).values(contact=sealed(contact)))
        store = SqlCaseStore(case.database, case.clock)
        (failed,) = store.look(lambda work: work.failed_people(INCIDENT))
        assert [each.hard_bounce for each in failed.tried] == [hard]

    def test_what_bounced_for_good_in_another_incident_is_not_retried_here_either(self, case: Case) -> None:
        other = case.second_incident()
        failed = case.person(1, ("email",), notice_sha256="d" * 64)
        full = case.person(2, ("email",))
        intents = case.claim(EMAIL_LANE)
        case.hand_over(intents)
        for intent in intents:
            case.receive(intent, ReceiptKind.BOUNCED_SOFT)
        case.twin(1, other, "e" * 64)
        (theirs,) = case.claim(EMAIL_LANE)
        case.hand_over([theirs])
        case.receive(theirs, ReceiptKind.BOUNCED_HARD)
        people = SqlCaseStore(case.database, case.clock).look(lambda work: work.failed_people(INCIDENT))
        dead = {each.recipient_id: [one.hard_bounce for one in each.tried] for each in people}
        assert dead == {failed: [True], full: [False]}

    @pytest.mark.parametrize("ended", [False, True])
    def test_an_address_that_bounced_for_good_is_known_again_whatever_else_of_a_contact_changes(
        self, case: Case, *, ended: bool
    ) -> None:
        first, other = case.person(1, contact=sealed("a")), case.second_incident()
        case.answer(first, "1", "a")
        (mail,) = case.claim(EMAIL_LANE)
        case.hand_over([mail])
        store = SqlCaseStore(case.database, case.clock)
        if ended:
            case.receive(mail, ReceiptKind.DELIVERED)
            store.change(lambda work: work.remove_contacts(INCIDENT))
        case.receive(mail, ReceiptKind.BOUNCED_HARD)
        people = {
            "same": (1, "1", "a"),
            "another telephone": (1, "1", "b"),
            "another address": (1, "2", "c"),
            "another root": (2, "1", "d"),
            "somebody else": (2, "2", "e"),
            "not told by any answer": (1, None, "f"),
        }
        begun, said = {}, {}
        for name, (number, address, contact) in people.items():
            with case.database.write() as connection:
                for table in (tables.attempt, tables.recipient, tables.affected):
                    connection.execute(sa.delete(table).where(table.c.incident_id == other))
            person = case.twin(number, other, contact=sealed(contact))
            if address is not None:
                case.answer(person, address, contact)
            said[name] = dict(store.look(lambda work: work.hard_bounced_people(other)))
            case.ledger.begin_attempts(10)
            begun[name] = case.states(person)[0][0]
        assert begun == {
            "same": "sms",
            "another telephone": "sms",
            "another address": "email",
            "another root": "sms",
            "somebody else": "email",
            # of a contact that is gone nobody knows whether it was another one
            "not told by any answer": "sms" if ended else "email",
        }
        assert {name for name, bounced in said.items() if bounced} == {
            name for name, channel in begun.items() if channel == "sms"
        }

    @pytest.mark.parametrize("ended", [False, True])
    @pytest.mark.parametrize("overtaken", [False, True])
    def test_a_number_that_bounced_for_good_is_known_by_its_own_hash(
        self, case: Case, *, ended: bool, overtaken: bool
    ) -> None:
        with case.database.write() as connection:
            policy = {"segments": {"s1": {**APPROVED, "channels": ["sms", "account_notice"]}}}
            connection.execute(sa.update(tables.segment).values(channels=["sms", "account_notice"]))
            connection.execute(sa.update(tables.release).values(policy=policy))
        dead, number = case.person(1, ("sms", "account_notice"), contact=sealed("a")), "1" * 64
        other = case.second_incident()
        with case.database.write() as connection:
            policy = {"segments": {"t1": {**APPROVED, "channels": ["sms", "account_notice"]}}}
            connection.execute(
                sa.update(tables.release).where(tables.release.c.release_id == "q1").values(policy=policy)
            )
        store = SqlCaseStore(case.database, case.clock)
        (text,) = case.claim(SMS_LANE)
        took = SentReport(
            text.attempt_id, Trigger.ACCEPTED, text.send_count, f"m-{text.attempt_id}", number_mark=number
        )
        if overtaken:
            case.receive(text, ReceiptKind.BOUNCED_HARD)
        case.ledger.report([took])
        if ended:
            store.change(lambda work: work.remove_contacts(INCIDENT))
        if not overtaken:
            case.receive(text, ReceiptKind.BOUNCED_HARD)
        assert case.states(dead) == [("sms", "bounced"), ("account_notice", "planned")]
        assert case.ledger.bounced(["2" * 64, number]) == {number}
        people = {"same": (1, "a"), "changed": (1, "b"), "another root": (2, "c")}
        begun = {}
        for name, (who, contact) in people.items():
            with case.database.write() as connection:
                for table in (tables.attempt, tables.recipient):
                    connection.execute(sa.delete(table).where(table.c.incident_id == other))
            person = case.twin(who, other, channels=("sms", "account_notice"), contact=sealed(contact))
            case.ledger.begin_attempts(10)
            begun[name] = case.states(person)[0][0]
        # of what the ledger cannot tell dispatch is asked, which sees the number
        same = "sms" if ended and not overtaken else "account_notice"
        assert begun == {"same": same, "changed": "sms", "another root": "sms"}
        (again,) = case.claim(SMS_LANE)
        refused = SentReport(
            again.attempt_id, Trigger.REFUSED, again.send_count, code="BOUNCED_BEFORE", gone=True, number_mark=number
        )
        case.ledger.report([refused])
        assert case.states(person) == [("sms", "rejected"), ("account_notice", "planned")]
        assert store.look(lambda work: work.hard_bounced_people(other)) == {"sms": 1}, "from now on by this root, too"

    @pytest.mark.parametrize("overtaken", [False, True])
    def test_the_number_of_a_call_whose_dispatcher_died_is_known_when_it_bounces(
        self, case: Case, *, overtaken: bool
    ) -> None:
        with case.database.write() as connection:
            policy = {"segments": {"s1": {**APPROVED, "channels": ["sms"]}}}
            connection.execute(sa.update(tables.segment).values(channels=["sms"]))
            connection.execute(sa.update(tables.release).values(policy=policy))
        dead, reported = case.person(1, ("sms",)), case.person(2, ("sms",))
        texts = {each.recipient_id: each for each in case.claim(SMS_LANE)}
        accepted = SentReport(texts[reported].attempt_id, Trigger.ACCEPTED, 1, "m-2", "e" * 64, number_mark="2" * 64)
        case.ledger.report([accepted])
        left = [SentText(each.attempt_id, 1, "e" * 64, "1" * 64) for each in texts.values()]
        left.append(SentText("no-such-attempt", 1, "e" * 64, "3" * 64))
        if overtaken:
            case.receive(texts[dead], ReceiptKind.BOUNCED_HARD)
        for _ in range(2):
            case.ledger.learn_texts(left)
        if not overtaken:
            case.receive(texts[dead], ReceiptKind.BOUNCED_HARD)
        case.receive(texts[reported], ReceiptKind.BOUNCED_HARD)
        assert case.ledger.bounced(["1" * 64, "2" * 64, "3" * 64]) == {"1" * 64, "2" * 64}

    def test_of_an_answer_about_another_contact_nothing_is_learned(self, case: Case) -> None:
        first, other = case.person(1, contact=sealed("a")), case.second_incident()
        case.answer(first, "1", "b")
        (mail,) = case.claim(EMAIL_LANE)
        case.hand_over([mail])
        case.receive(mail, ReceiptKind.BOUNCED_HARD)
        theirs = case.twin(2, other, contact=sealed("c"))
        case.answer(theirs, "1", "c")
        case.ledger.begin_attempts(10)
        assert case.states(theirs) == [("email", "planned")]

    @pytest.mark.parametrize("tried", [False, True])
    def test_who_was_told_by_a_notice_that_is_put_right_is_told_by_the_other_incident(
        self, case: Case, *, tried: bool
    ) -> None:
        if tried:
            first, second, theirs = self.fallback_in_a_paused_incident(case)
            other = theirs.incident_id
        else:
            other = case.second_incident()
            second = case.twin(1, other)
            (theirs,) = case.claim(EMAIL_LANE)
            case.hand_over([theirs])
            first = case.person(1, notice_sha256="d" * 64)
        case.receive(theirs, ReceiptKind.DELIVERED)
        case.clock.at += timedelta(minutes=2)
        assert case.claim(SMS_LANE) == []
        assert (case.end(first), case.end(second)) == ("reached", "reached")
        change = PeopleChange((), {}, (), (), {second: "not_concerned"}, ())
        planning = PlanningTables(case.database, case.clock, shipped_law, case.ledger.take_back)
        with case.database.write() as connection:
            planning._write_people(connection, PlanId(other, 1), change, case.clock.now())
        assert (case.end(first), case.end(second)) == (None, "reached")
        (again,) = case.claim(SMS_LANE if tried else EMAIL_LANE)
        assert again.recipient_id == first

    def test_other_facts_in_another_incident_are_told_apart(self, case: Case) -> None:
        other = case.second_incident()
        first = case.person(1, notice_sha256="d" * 64)
        second = case.twin(1, other, "e" * 64)
        assert {intent.recipient_id for intent in case.claim(EMAIL_LANE)} == {first, second}

    @pytest.mark.parametrize("why_not", ["gate", "void", "closed"])
    def test_nobody_waits_for_what_another_incident_will_not_send(self, case: Case, why_not: str) -> None:
        other = case.second_incident()
        first = case.person(1, notice_sha256="d" * 64)
        case.ledger.begin_attempts(10)
        assert case.states(first) == [("email", "planned")]
        second = case.twin(1, other)
        with case.database.write() as connection:
            if why_not == "gate":
                connection.execute(
                    sa.insert(tables.gate).values(
                        gate_id="g", incident_id=INCIDENT, kind="law_enforcement_hold", covers=["DE"], set_at=NOW,
                        set_by="d",
                    )
                )  # fmt: skip
            elif why_not == "void":
                connection.execute(
                    sa.update(tables.release).where(tables.release.c.release_id == "r1").values(state="void")
                )
            else:
                connection.execute(
                    sa.update(tables.incident).where(tables.incident.c.incident_id == INCIDENT).values(state="closed")
                )
                connection.execute(
                    sa.update(tables.release).where(tables.release.c.release_id == "r1").values(state="void")
                )
        intents = case.claim(EMAIL_LANE)
        assert [intent.recipient_id for intent in intents] == [second]

    def test_closing_one_incident_leaves_the_other_its_contacts_and_its_gates(self, case: Case) -> None:
        other = case.second_incident()
        contact = {"key_id": "k", "wrapped_key": "w", "nonce": "n", "ciphertext": "c"}
        first = case.person(1, contact=contact, notice_sha256="d" * 64)
        second = case.twin(1, other, "e" * 64, contact=contact)
        with case.database.write() as connection:
            for name in (INCIDENT, other):
                connection.execute(
                    sa.insert(tables.gate).values(
                        gate_id=name,
                        incident_id=name,
                        kind="law_enforcement_hold",
                        covers=["DE"],
                        set_at=NOW,
                        set_by="d",
                    )
                )
        store = SqlCaseStore(case.database, case.clock)
        store.change(lambda work: work.remove_contacts(INCIDENT))
        with case.database.read() as connection:
            kept = dict(
                connection.execute(sa.select(tables.recipient.c.recipient_id, tables.recipient.c.contact)).all()
            )
        assert (kept[first], kept[second]) == (None, contact)
        with case.database.write() as connection:
            connection.execute(
                sa.update(tables.incident).where(tables.incident.c.incident_id == INCIDENT).values(state="closed")
            )
        assert case.claim(EMAIL_LANE) == [], "the other's own gate still holds its people"

    def test_whoever_steers_watches_or_looks_reads_the_same_from_any_database(self, case: Case) -> None:
        contact = {"key_id": "k", "wrapped_key": "w", "nonce": "n", "ciphertext": "c"}
        failed = case.person(1, ("email",), contact=contact, deadline_at=NOW + timedelta(hours=9))
        waiting = case.person(2)
        with case.database.write() as connection:
            canary = {"per_segment": 1, "wait_seconds": 60, "bound_percent": 5}
            connection.execute(
                sa.update(tables.release).values(
                    policy={"segments": {"s1": APPROVED}, "canary": canary}, canary_state="testing"
                )
            )
        case.ledger.note_pace({Channel.EMAIL: 14.0})
        (intent,) = case.claim(EMAIL_LANE)
        case.clock.at += timedelta(seconds=4)
        case.ledger.note_pace({Channel.EMAIL: 14.0})
        assert case.ledger.judge_canaries() == []
        case.ledger.report(
            [SentReport(intent.attempt_id, Trigger.ACCEPTED, intent.send_count, provider_message_id="m")]
        )
        case.receive(intent, ReceiptKind.BOUNCED_HARD)
        assert (intent.recipient_id, case.end(failed)) == (failed, "unreachable_reported")
        assert [state.value for *_, state in case.ledger.judge_canaries()] == ["held"]
        seen = SqlProgress(case.database, case.clock).progress(INCIDENT)
        assert (seen.people, seen.stopped, seen.pace["email"].per_second) == (2, "held by its canary", 0.25)
        assert seen.reached + seen.unreachable + sum(seen.why_not.values()) == 2
        assert case.ledger.lane_ages().get(Channel.EMAIL) is None or case.ledger.lane_ages()[Channel.EMAIL].waiting == 0
        store = SqlCaseStore(case.database, case.clock)
        store.change(lambda work: work.set_lane_rate(INCIDENT, "email", 2.5, by="d", at=NOW))
        assert store.look(lambda work: work.lane_rates(INCIDENT)) == {"email": 2.5}
        assert store.look(lambda work: work.attempt_counts(INCIDENT))["email", "bounced"] == 1
        assert store.look(lambda work: work.earliest_open_deadline(INCIDENT)) == NOW + timedelta(hours=72)
        [bounced] = store.look(lambda work: work.bounced(INCIDENT, soft=True))
        assert bounced.root == "customer/1"
        [found] = store.look(lambda work: work.find_recipients([bounced.root]))
        assert [kind for kind, _, _ in found.attempts[0].receipts] == ["bounced_hard"]
        assert store.look(lambda work: work.primary_roots(INCIDENT, [bounced.root, "order/9"])) == {
            bounced.root: bounced.root
        }
        [person] = store.look(lambda work: work.failed_people(INCIDENT))
        assert [each.hard_bounce for each in person.tried] == [True]
        retry = Retry(failed, "email", "c" * 64)
        store.change(lambda work: work.add_retries(INCIDENT, "r1", [retry], NOW))
        assert case.states(failed) == [("email", "bounced"), ("email", "planned")]
        assert len(store.change(lambda work: work.leave_untold(INCIDENT))) == 2
        case.ledger.remind_of_holds()
        assert case.end(waiting) is None

    def test_attempt_states_are_those_of_the_contract(self, case: Case) -> None:
        person = case.person(1)
        case.claim(EMAIL_LANE)
        assert {AttemptState(state) for *_, state in case.states(person)} == {AttemptState.INTENDED}


def sweep(case: Case, later: timedelta) -> None:
    case.clock.at += later
    case.ledger.sweep(
        command_patience=timedelta(seconds=60),
        intent_patience=timedelta(seconds=30),
        unknown_patience=timedelta(minutes=5),
    )
