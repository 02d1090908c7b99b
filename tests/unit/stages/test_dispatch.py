"""Dispatch: who is called with what, what becomes of each answer, and what never reaches a log."""

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import structlog

from bridge.contracts.errors import Refused, Unreachable
from bridge.contracts.events import Channel, Contact, DeliverNotice, DeliverNotices, NoticeRead
from bridge.runtime.clock import SetClock
from bridge.runtime.consume import Received
from bridge.runtime.kafka import Positions
from bridge.runtime.sealing import KeyNotHeld, email_hmac
from consumers.adapters.address_marks import AddressMarks
from consumers.adapters.texts_in_flight import TextsInFlight
from consumers.domain.delivery import OF_SEND, Trigger
from consumers.domain.ledger import Command, Intent, SentReport, SentText
from consumers.domain.sending import (
    BulkEmail,
    EmailProvider,
    EmailTemplate,
    Letter,
    NotPrintable,
    PreparedAccountNotice,
    PreparedEmail,
    PreparedLetter,
    PreparedText,
    SendResult,
    SendState,
    SmsProvider,
    Turn,
)
from consumers.stages.dispatch import ANSWERS, SENT, Dispatch

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
INCIDENT = "INC-2026-0001"
TEMPLATE = EmailTemplate("security@shop.example.com", None, "Subject", "<p>{{name_html}}</p>", "{{name}}")
ADDRESS, PHONE, NAME = "zibbet@mail.example.com", "+491579999999", "Zibbet Quorn"
AFTER = {("tocsin.delivery-commands", 3): 18}

MARKS = AddressMarks(b"k" * 32)

P = TypeVar("P")


class World:
    """The ledger, the providers and everything else that dispatch meets, with a journal of what happened in which order."""

    max_entries = 50
    calls_at_once = 16
    name = "fake"

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.intents: dict[str, Intent] = {}
        self.contacts: dict[str, Contact | Exception] = {}
        self.epoch_of = {INCIDENT: 1}
        self.reports: dict[str, SentReport] = {}
        self.mails: list[BulkEmail] = []
        self.waiting: list[str] = []
        self.noted: list[str] = []
        self.learned: list[SentText] = []
        self.texts: list[tuple[str, str, str]] = []
        self.answers: dict[str, SendResult] = {}
        self.text_fault: Exception | None = None
        self.stumbles_over = ""
        self.letters: list[tuple[str, list[Letter]]] = []
        self.letter_fault: Exception | None = None
        self.while_a_letter_is_set: Callable[[], None] = lambda: None
        self.positions_after: Positions | None = None
        self.asked: list[Command] = []
        self.pause_after_calls: int | None = None
        self.taken_over: set[str] = set()
        self.dead: set[str] = set()
        self.exercises: list[bool] = []
        self.email_lane: Lane[EmailProvider] = Lane([self])
        self.sms_lane: Lane[SmsProvider] = Lane([Sms(self)])
        self.dispatch = self.dispatcher()

    def dispatcher(self, texts_in_flight: TextsInFlight | None = None) -> Dispatch:
        return Dispatch(
            self, self, Texts(self), Addresses(), self.email_lane, self.sms_lane, SetClock(NOW), "d1", self,
            texts_in_flight=texts_in_flight, marks=MARKS,
        )  # fmt: skip

    def person(self, number: int, channel: Channel, contact: Contact | Exception | None, **other: Any) -> str:
        attempt_id = f"a{number:03}"
        if contact is not None:
            self.contacts[attempt_id] = contact
        fields: dict[str, Any] = {
            "attempt_id": attempt_id, "recipient_id": f"{INCIDENT}:customer/{number}", "incident_id": INCIDENT,
            "release_id": "r1", "channel": channel, "provider": "fake", "epoch": 1, "send_count": 1,
            "root": f"customer/{number}", "customer_id": number, "locale": "en", "website_id": 1,
            "contact": None if contact is None else attempt_id, "segment_id": "s1", "segment_key": {},
            "bundle_sha256": "b" * 64, "deadline_at": None, "detected_at": NOW, "exercise": False,
        }  # fmt: skip
        self.intents[attempt_id] = Intent(**(fields | other))
        return attempt_id

    def run(self) -> None:
        self.dispatch.handle([command_for(intent, n) for n, intent in enumerate(self.intents.values())], AFTER)

    # what dispatch asks of the ledger

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions:
        return {partition: 7 for partition in partitions if stage == "dispatch"}

    def intend(self, commands: Sequence[Command], dispatcher: str, stage: str, after: Positions) -> Sequence[Intent]:
        self.journal.append("intend")
        self.asked.extend(commands)
        self.positions_after = after
        assert (dispatcher, stage) == ("d1", "dispatch")
        return [self.intents[command.attempt_id] for command in commands]

    def put_back(self, commands: Sequence[Command]) -> None:
        self.journal.append("put back")
        self.waiting.extend(each.attempt_id for each in commands)

    def standing(self, intents: Sequence[Intent]) -> Collection[str]:
        self.journal.append("standing")
        return {
            intent.attempt_id
            for intent in intents
            if self.epoch_of.get(intent.incident_id) == intent.epoch and intent.attempt_id not in self.taken_over
        }

    def note_calls(self, intents: Sequence[Intent]) -> None:
        self.journal.append("note calls")
        self.noted.extend(intent.attempt_id for intent in intents)

    def learn_texts(self, texts: Sequence[SentText]) -> None:
        self.learned.extend(texts)

    def bounced(self, marks: Collection[str]) -> Collection[str]:
        return self.dead.intersection(marks)

    def report(self, reports: Sequence[SentReport]) -> None:
        self.journal.append("report")
        for item in reports:
            assert item.attempt_id not in self.reports, "reported twice"
            self.reports[item.attempt_id] = item

    # contacts

    def open_json(self, sealed: str, root: str) -> Contact:
        found = self.contacts[sealed]
        assert root == self.intents[sealed].root
        if isinstance(found, Exception):
            raise found
        return found

    # letters

    def write(self, incident_id: str, letters: Sequence[Letter], *, exercise: bool) -> Sequence[SendResult]:
        self.called()
        if self.letter_fault is not None:
            raise self.letter_fault
        self.exercises.append(exercise)
        self.letters.append((incident_id, list(letters)))
        return [self.answer(letter.attempt_id) for letter in letters]

    # e-mail

    def send_bulk(self, message: BulkEmail) -> Sequence[SendResult]:
        self.called()
        self.exercises.append(message.exercise)
        self.mails.append(message)
        return [self.answer(entry.attempt_id) for entry in message.entries]

    def answer(self, attempt_id: str) -> SendResult:
        return self.answers.get(attempt_id, SendResult(attempt_id, SendState.ACCEPTED, f"m-{attempt_id}"))

    def called(self) -> None:
        self.journal.append("call")
        if self.pause_after_calls is not None and self.journal.count("call") >= self.pause_after_calls:
            self.epoch_of[INCIDENT] = 2


class Lane(Generic[P]):
    """Gives each provider its turn as a test says it; without a word always the first one."""

    def __init__(self, providers: Sequence[P]) -> None:
        self.turns: Iterator[Turn[P] | None] = itertools.repeat(Turn(providers[0]))
        self.recorded: list[P] = []
        self.refused: list[tuple[str, ...]] = []
        self.still = False

    def stands_still(self) -> bool:
        return self.still

    def turn(self, refused: Collection[str] = ()) -> Turn[P] | None:
        self.refused.append(tuple(refused))
        return next(self.turns)

    def record(self, provider: P, results: Sequence[SendResult], took: timedelta) -> None:
        assert results
        assert took >= timedelta(0)
        self.recorded.append(provider)


class Sms:
    """Sends text messages."""

    name = "fake"

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, attempt_id: str, phone_e164: str, text: str, *, exercise: bool) -> SendResult:
        self._world.called()
        self._world.exercises.append(exercise)
        self._world.texts.append((attempt_id, phone_e164, text))
        return self._world.answer(attempt_id)


class Texts:
    """The approved texts."""

    def __init__(self, world: World) -> None:
        self._world = world

    def email(self, intent: Intent, contact: Contact) -> PreparedEmail:
        self._fault(intent)
        subject = f"Subject {intent.segment_id}"
        template = EmailTemplate(TEMPLATE.from_address, None, subject, TEMPLATE.html, TEMPLATE.text)
        return PreparedEmail(template, {"name": str(contact.first_name)}, body_of(intent))

    def sms(self, intent: Intent, contact: Contact) -> PreparedText:
        self._fault(intent)
        return PreparedText("Please log in.", body_of(intent))

    def account_notice(self, intent: Intent) -> PreparedAccountNotice:
        self._fault(intent)
        return PreparedAccountNotice("Title", "Body", body_of(intent))

    def letter(self, intent: Intent, contact: Contact) -> PreparedLetter:
        self._fault(intent)
        self._world.while_a_letter_is_set()
        if contact.first_name == UNPRINTABLE:
            raise NotPrintable("a name has characters that the letter's fonts lack")
        return PreparedLetter(b"%PDF", contact.postal_address, body_of(intent))

    def _fault(self, intent: Intent) -> None:
        if intent.attempt_id == self._world.stumbles_over:
            raise RuntimeError("an error that nobody thought of")
        if self._world.text_fault is not None:
            raise self._world.text_fault


class Addresses:
    """Sends everything where it says."""

    def shows_on_account_page(self, intent: Intent) -> bool:
        return not intent.exercise

    def envelope(self, intent: Intent, contact: Contact) -> Contact:
        return Contact(postal_address=("SPECIMEN",)) if intent.exercise else contact

    def email(self, intent: Intent, address: str) -> str:
        return address

    def phone(self, intent: Intent, number: str) -> str:
        return number


def body_of(intent: Intent) -> str:
    return hashlib.sha256(intent.attempt_id.encode()).hexdigest()


def contact(**fields: Any) -> Contact:
    return Contact(**({"email": ADDRESS, "phone": PHONE, "first_name": NAME, "last_name": NAME} | fields))


def command_for(intent: Intent, offset: int) -> Received:
    event = DeliverNotice(
        incident_id=intent.incident_id, release_id=intent.release_id, epoch=1, recipient_id=intent.recipient_id,
        attempt_id=intent.attempt_id, channel=intent.channel, lane="email", exercise=intent.exercise,
    )  # fmt: skip
    return Received("tocsin.delivery-commands", 3, offset, intent.recipient_id, event, False, {}, None)


@pytest.fixture
def world() -> World:
    return World()


BY_CHANNEL = [Channel.EMAIL, Channel.SMS]


@pytest.mark.parametrize("channel", BY_CHANNEL)
@pytest.mark.parametrize(
    ("state", "trigger"),
    [
        (SendState.ACCEPTED, Trigger.ACCEPTED),
        (SendState.THROTTLED, Trigger.THROTTLED),
        (SendState.DEFERRED, Trigger.THROTTLED),
        (SendState.UNAVAILABLE, Trigger.THROTTLED),
        (SendState.REJECTED, Trigger.REFUSED),
        (SendState.UNKNOWN, Trigger.LOST),
    ],
)
def test_every_answer_of_a_provider_is_reported(
    world: World, channel: Channel, state: SendState, trigger: Trigger
) -> None:
    attempt = world.person(1, channel, contact(), send_count=2)
    world.answers[attempt] = SendResult(attempt, state, "m-1" if state is SendState.ACCEPTED else None, "CODE")
    world.run()
    report = world.reports[attempt]
    assert (report.trigger, report.send_count, report.code) == (trigger, 2, "CODE")
    assert report.provider_message_id == ("m-1" if state is SendState.ACCEPTED else None)
    assert report.body_sha256 == body_of(world.intents[attempt])
    assert report.deferred is (state is SendState.DEFERRED)


def test_every_state_of_a_provider_was_tried_above() -> None:
    assert set(OF_SEND) == set(SendState)


def test_the_intent_is_stored_before_the_call_and_the_answer_after_it(world: World) -> None:
    world.person(1, Channel.EMAIL, contact())
    world.run()
    assert world.journal == ["intend", "note calls", "standing", "call", "report"]
    assert world.positions_after == AFTER


@pytest.mark.parametrize("channel", [Channel.EMAIL, Channel.SMS, Channel.LETTER])
def test_what_a_dispatcher_that_died_had_handed_over_is_told_by_the_next(
    world: World, channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = world.person(1, channel, contact(postal_address=("Street 1",)), send_count=2)
    world.person(2, channel, contact(postal_address=("Street 2",)), epoch=0)
    dying = TextsInFlight(tmp_path)
    world.dispatch = world.dispatcher(dying)
    with monkeypatch.context() as away:
        away.setattr(world, "report", unreachable)
        with pytest.raises(Unreachable):
            world.run()
        # a process that meets this ends; one that did not must not forget what the ledger was never told
        with pytest.raises(Unreachable):
            world.run()
    os.close(dying._descriptor)
    world.dispatch = world.dispatcher(TextsInFlight(tmp_path))
    world.dispatch.assigned([("t", 0)])
    (told,) = world.learned
    assert told == SentText(attempt, 2, body_of(world.intents[attempt]), told.number_mark), (
        "nobody was asked for the other"
    )
    number = contact().phone
    assert told.number_mark == (MARKS.of_phone(number) if number and channel is Channel.SMS else None)
    world.run()
    assert [each.stat().st_size for each in tmp_path.iterdir()] == [0], "what was reported is left to nobody"


def unreachable(_: Sequence[SentReport]) -> None:
    raise Unreachable("the case store")


@pytest.mark.parametrize("channel", [Channel.EMAIL, Channel.SMS, Channel.LETTER])
def test_a_call_is_noted_before_it_is_made_and_taken_back_where_it_is_not(world: World, channel: Channel) -> None:
    attempt = world.person(1, channel, contact(postal_address=("Street 1",)))
    world.run()
    assert world.journal.index("note calls") < world.journal.index("call")
    assert (world.noted, world.reports.pop(attempt).called) == ([attempt], True)
    world.epoch_of[INCIDENT] = 2
    world.run()
    assert world.journal.count("call") == 1
    # a letter is asked for before it is made
    assert (world.reports[attempt].trigger, world.reports[attempt].called) == (
        Trigger.RECALL,
        channel != Channel.LETTER,
    )


def test_commands_in_a_pack_are_carried_out_as_those_that_come_alone(world: World) -> None:
    attempts = [world.person(number, Channel.EMAIL, contact()) for number in range(3)]
    alone, *others = [command_for(world.intents[attempt], 17) for attempt in attempts]
    pack = DeliverNotices(events=tuple(each.event for each in others if isinstance(each.event, DeliverNotice)))
    world.dispatch.handle([alone, replace(alone, event=pack)], AFTER)
    assert [world.reports[attempt].trigger for attempt in attempts] == [Trigger.ACCEPTED] * 3


def test_the_position_moves_even_when_a_batch_holds_no_command(world: World) -> None:
    stranger = NoticeRead(notice_id="n", customer_id=1, read_at=NOW)
    world.dispatch.handle([Received("t", 3, 17, "k", stranger, False, {}, None)], AFTER)
    assert (world.asked, world.positions_after) == ([], AFTER)


def test_what_the_ledger_does_not_confirm_is_not_sent(world: World) -> None:
    attempt = world.person(1, Channel.EMAIL, contact())
    command = command_for(world.intents[attempt], 0)
    world.intend = lambda *_: ()  # type: ignore[method-assign]  # the ledger refuses every command
    world.dispatch.handle([command], AFTER)
    assert (world.mails, world.reports) == ([], {})


@pytest.mark.parametrize(
    ("channel", "known", "code"),
    [
        (Channel.EMAIL, contact(email=None), "NO_ADDRESS"),
        (Channel.EMAIL, None, "NO_CONTACT"),
        (Channel.SMS, contact(phone=None), "NO_PHONE"),
        (Channel.SMS, None, "NO_CONTACT"),
        (Channel.EMAIL, Refused("the contact was changed"), "CONTACT_UNREADABLE"),
        (Channel.SMS, Refused("the contact was changed"), "CONTACT_UNREADABLE"),
    ],
)
def test_a_person_who_cannot_be_addressed_fails_alone(
    world: World, channel: Channel, known: Contact | Exception | None, code: str
) -> None:
    lacking = world.person(1, channel, known)
    other = world.person(2, channel, contact())
    world.run()
    assert (world.reports[lacking].trigger, world.reports[lacking].code) == (Trigger.REFUSED, code)
    assert world.reports[other].trigger is Trigger.ACCEPTED
    assert [entry.attempt_id for mail in world.mails for entry in mail.entries] + [t[0] for t in world.texts] == [other]


@pytest.mark.parametrize(
    ("bounced", "stored"),
    [
        ("ann@x.example.com", " Ann@X.example.com "),
        ("mueller@m\u00fcller.example.com", "mueller@xn--mller-kva.example.com"),
        ("mueller@xn--mller-kva.example.com", "mueller@m\u00fcller.example.com"),
        ("x@stra\u00dfe.example.com", "x@xn--strae-oqa.example.com"),
    ],
)
def test_an_address_that_bounced_is_not_tried_again_however_it_is_written(
    world: World, bounced: str, stored: str
) -> None:
    world.dead = {email_hmac(b"k" * 32, bounced)}
    same = world.person(1, Channel.EMAIL, Contact(email=stored.strip()))
    other = world.person(2, Channel.EMAIL, contact())
    drill = world.person(3, Channel.EMAIL, Contact(email=stored.strip()), exercise=True, incident_id="INC-2026-0002")
    world.epoch_of["INC-2026-0002"] = 1
    world.run()
    report = world.reports[same]
    assert (report.trigger, report.code, report.gone) == (Trigger.REFUSED, "BOUNCED_BEFORE", True)
    assert {each: world.reports[each].trigger for each in (other, drill)} == dict.fromkeys(
        (other, drill), Trigger.ACCEPTED
    )


def test_a_number_that_bounced_is_not_tried_again_whoever_has_it_and_each_that_was_called_is_known_again(
    world: World,
) -> None:
    dead, alive = MARKS.of_phone(PHONE), MARKS.of_phone("+4915112345678")
    world.dead = {dead}
    same = world.person(1, Channel.SMS, Contact(phone=PHONE))
    other = world.person(2, Channel.SMS, Contact(phone="+4915112345678"))
    gone = world.person(3, Channel.SMS, Contact(phone="+4915112345678"))
    drill = world.person(4, Channel.SMS, Contact(phone=PHONE), exercise=True)
    world.answers[gone] = SendResult(gone, SendState.REJECTED, code="GATEWAY_21610", gone=True)
    world.run()
    said = {each: (report.trigger, report.gone, report.number_mark) for each, report in world.reports.items()}
    assert said == {
        same: (Trigger.REFUSED, True, dead),
        other: (Trigger.ACCEPTED, False, alive),
        gone: (Trigger.REFUSED, True, alive),
        drill: (Trigger.ACCEPTED, False, None),
    }
    assert PHONE not in repr(world.reports[same])
    assert len({dead, alive, email_hmac(b"k" * 32, PHONE)}) == 3


def test_a_guest_has_no_account_page(world: World) -> None:
    guest = world.person(1, Channel.ACCOUNT_NOTICE, None, customer_id=None)
    world.run()
    assert (world.reports[guest].trigger, world.reports[guest].code) == (Trigger.REFUSED, "NO_ACCOUNT")


@pytest.mark.parametrize("channel", BY_CHANNEL)
def test_a_missing_private_key_fails_nobody_and_ends_the_stage(world: World, channel: Channel) -> None:
    """Else one wrong key file would turn everybody into somebody who cannot be reached."""
    waiting = world.person(1, channel, KeyNotHeld("no such private key"))
    other = world.person(2, channel, contact())
    with pytest.raises(KeyNotHeld):
        world.run()
    assert world.reports[waiting].trigger is Trigger.RECALL
    assert world.reports[other].trigger is Trigger.ACCEPTED


@pytest.mark.parametrize("channel", [*BY_CHANNEL, Channel.ACCOUNT_NOTICE])
@pytest.mark.parametrize("fault", [Unreachable("artefact store"), Refused("no such bundle")])
def test_a_text_that_cannot_be_had_fails_nobody_and_ends_the_stage(
    world: World, channel: Channel, fault: Exception
) -> None:
    attempt = world.person(1, channel, contact())
    world.text_fault = fault
    with pytest.raises(type(fault)):
        world.run()
    assert world.reports[attempt].trigger is Trigger.RECALL


@pytest.mark.parametrize("channel", [*BY_CHANNEL, Channel.ACCOUNT_NOTICE])
@pytest.mark.parametrize("epochs", [{INCIDENT: 2}, {}], ids=["newer epoch", "no running release"])
def test_a_pause_between_intent_and_call_sends_nothing(world: World, channel: Channel, epochs: dict[str, int]) -> None:
    attempt = world.person(1, channel, contact())
    world.epoch_of = epochs
    world.run()
    assert world.reports[attempt].trigger is Trigger.RECALL
    assert (world.mails, world.texts, world.reports[attempt].notice) == ([], [], None)


@pytest.mark.parametrize("channel", [*BY_CHANNEL, Channel.ACCOUNT_NOTICE])
def test_a_claim_that_another_dispatcher_has_by_now_is_not_sent(world: World, channel: Channel) -> None:
    slow, ours = world.person(1, channel, contact()), world.person(2, channel, contact())
    world.taken_over = {slow}
    world.run()
    assert world.reports[slow].trigger is Trigger.RECALL
    assert world.reports[ours].trigger is Trigger.ACCEPTED
    assert len(world.texts) + sum(len(mail.entries) for mail in world.mails) == (channel in BY_CHANNEL)


def test_an_exercise_puts_nothing_on_an_account_page_and_tells_each_provider_and_no_metric(world: World) -> None:
    before = {each.name: each.samples for each in (*SENT.collect(), *ANSWERS.collect())}
    drill = world.person(1, Channel.ACCOUNT_NOTICE, None, exercise=True)
    for number, channel in ((2, Channel.EMAIL), (3, Channel.SMS), (4, Channel.LETTER)):
        world.person(number, channel, contact(postal_address=("1 Road",)), exercise=True)
    world.run()
    assert (world.reports[drill].trigger, world.reports[drill].notice) == (Trigger.ACCEPTED, None)
    assert {item.trigger for item in world.reports.values()} == {Trigger.ACCEPTED}
    assert world.exercises == [True, True, True]
    assert {each.name: each.samples for each in (*SENT.collect(), *ANSWERS.collect())} == before
    assert [command.exercise for command in world.asked] == [True] * 4


def test_a_pause_in_the_middle_of_a_batch_stops_the_rest(world: World) -> None:
    for number in range(120):
        world.person(number, Channel.EMAIL, contact())
    late = [world.person(200, Channel.SMS, contact()), world.person(201, Channel.ACCOUNT_NOTICE, None)]
    world.pause_after_calls = 2
    world.run()
    assert [len(mail.entries) for mail in world.mails] == [50, 50]
    triggers = [world.reports[attempt].trigger for attempt in world.intents]
    assert (triggers.count(Trigger.ACCEPTED), triggers.count(Trigger.RECALL)) == (100, 22)
    assert all(world.reports[attempt].trigger is Trigger.RECALL for attempt in late)


def test_a_call_holds_at_most_what_the_provider_takes_and_one_text(world: World) -> None:
    for number in range(120):
        world.person(number, Channel.EMAIL, contact(), segment_id="s1" if number < 70 else "s2")
    world.run()
    assert [(mail.subject, len(mail.entries)) for mail in world.mails] == [
        ("Subject s1", 50), ("Subject s1", 20), ("Subject s2", 50),
    ]  # fmt: skip
    assert len(world.reports) == 120


def test_people_of_two_incidents_share_no_call(world: World) -> None:
    world.epoch_of = {INCIDENT: 1, "INC-2026-0002": 1}
    world.person(1, Channel.EMAIL, contact())
    world.person(2, Channel.EMAIL, contact(), incident_id="INC-2026-0002")
    world.run()
    assert [mail.incident_id for mail in world.mails] == [INCIDENT, "INC-2026-0002"]


def test_each_entry_goes_to_its_own_person(world: World) -> None:
    first = world.person(1, Channel.EMAIL, contact(email="one@mail.example.com"))
    second = world.person(2, Channel.EMAIL, contact(email="two@mail.example.com"))
    world.run()
    (mail,) = world.mails
    assert {entry.attempt_id: entry.to_address for entry in mail.entries} == {
        first: "one@mail.example.com",
        second: "two@mail.example.com",
    }


def test_an_account_notice_is_handed_over_with_its_text_and_no_name(world: World) -> None:
    attempt = world.person(42, Channel.ACCOUNT_NOTICE, contact())
    world.run()
    report = world.reports[attempt]
    assert report.trigger is Trigger.ACCEPTED
    assert report.notice is not None
    assert (report.notice.notice_id, report.notice.customer_id, report.notice.posted_at) == (attempt, 42, NOW)
    assert NAME not in report.notice.model_dump_json()


def test_nothing_personal_is_logged_or_shown(world: World) -> None:
    faulty = KeyNotHeld("sealed to key 1234")
    everybody: list[Contact | Exception] = [contact(), contact(email=None), Refused("x"), faulty, contact(phone=None)]
    for number, known in enumerate(everybody):
        world.person(number, Channel.EMAIL, known)
        world.person(100 + number, Channel.SMS, known)
    with structlog.testing.capture_logs() as logs, pytest.raises(KeyNotHeld) as raised:
        world.run()
    shown = repr(logs) + str(raised.value) + repr(world.mails) + repr(world.reports)
    assert len(logs) >= 5
    for personal in (ADDRESS, PHONE, NAME, "Zibbet"):
        assert personal not in shown


def test_reading_begins_where_the_ledger_says(world: World) -> None:
    assert world.dispatch.assigned([("tocsin.delivery-commands", 0)]) == {("tocsin.delivery-commands", 0): 7}


class Second(World):
    """Another provider of e-mail that takes at most ten in a call."""

    max_entries = 10
    name = "second"


def test_messages_go_to_whose_turn_it_is_and_the_report_says_who_was_asked() -> None:
    world, second = World(), Second()
    attempts = [world.person(n, Channel.EMAIL, Contact(email=f"p{n}@mail.example.com")) for n in range(20)]
    turns: list[Turn[EmailProvider] | None] = [Turn(world, 3), Turn(second), Turn(second)]
    world.email_lane.turns = iter(turns)
    world.run()
    assert [len(mail.entries) for mail in world.mails] == [3]
    assert [len(mail.entries) for mail in second.mails] == [10, 7]
    assert [world.reports[attempt].provider for attempt in attempts] == [None] * 3 + ["second"] * 17
    assert world.email_lane.recorded == [world, second, second]


def test_who_may_not_pass_the_second_providers_region_is_asked_for_apart() -> None:
    world = World()
    for number, refused in enumerate(((), ("smtp",), ())):
        world.person(number, Channel.EMAIL, Contact(email=f"p{number}@mail.example.com"), refused=refused)
    text = world.person(9, Channel.SMS, Contact(phone=PHONE), refused=("sms_gateway",))
    world.email_lane.turns = iter([Turn(world), None])
    world.sms_lane.turns = iter([None])
    world.run()
    assert (world.email_lane.refused, world.sms_lane.refused) == ([(), ("smtp",)], [("sms_gateway",)])
    assert [len(mail.entries) for mail in world.mails] == [2]
    assert [report.trigger for report in world.reports.values()].count(Trigger.RECALL) == 2
    assert world.reports[text].trigger is Trigger.RECALL


def test_while_no_provider_is_well_messages_go_back_to_waiting_and_nobody_is_called() -> None:
    world = World()
    mail = world.person(1, Channel.EMAIL, Contact(email=ADDRESS))
    text = world.person(2, Channel.SMS, Contact(phone=PHONE))
    world.email_lane.turns = iter([None])
    world.sms_lane.turns = iter([None])
    world.run()
    assert "call" not in world.journal
    assert {world.reports[attempt].trigger for attempt in (mail, text)} == {Trigger.RECALL}


def test_commands_of_a_channel_without_a_turn_are_put_back_before_anybody_claims_them() -> None:
    world = World()
    mail = world.person(1, Channel.EMAIL, Contact(email=ADDRESS))
    text = world.person(2, Channel.SMS, Contact(phone=PHONE))
    world.email_lane.still = True
    world.run()
    assert world.waiting == [mail]
    assert world.journal[:2] == ["put back", "intend"]
    assert [command.attempt_id for command in world.asked] == [text]
    assert mail not in world.reports
    assert world.positions_after, "the position moves past what was put back: the meter issues it again"


HOME = Contact(postal_address=(NAME, "1 Road", "GB"))
UNPRINTABLE = "王小明"


def test_letters_of_an_incident_are_one_batch_and_who_has_no_address_is_refused(world: World) -> None:
    one, two = (world.person(number, Channel.LETTER, HOME) for number in (1, 2))
    exercise = world.person(3, Channel.LETTER, HOME, incident_id="INC-2026-0002", exercise=True)
    world.epoch_of["INC-2026-0002"] = 1
    homeless = world.person(4, Channel.LETTER, Contact(email=ADDRESS))
    world.run()
    assert [(incident, [each.attempt_id for each in letters]) for incident, letters in world.letters] == [
        (INCIDENT, [one, two]), ("INC-2026-0002", [exercise]),
    ]  # fmt: skip
    assert world.letters[0][1][0].address == HOME.postal_address
    assert world.letters[1][1][0].address == ("SPECIMEN",)
    assert world.reports[one].trigger is Trigger.ACCEPTED
    assert world.reports[one].provider_message_id == f"m-{one}"
    assert (world.reports[homeless].trigger, world.reports[homeless].code) == (Trigger.REFUSED, "NO_POSTAL_ADDRESS")


def test_who_cannot_be_written_to_in_any_font_goes_to_the_next_channel_and_costs_nobody_else_the_letter(
    world: World,
) -> None:
    one = world.person(1, Channel.LETTER, HOME)
    other = world.person(
        2, Channel.LETTER, Contact(first_name=UNPRINTABLE, postal_address=(UNPRINTABLE, "1 Road", "GB"))
    )
    world.run()
    assert [letter.attempt_id for letter in world.letters[0][1]] == [one]
    assert (world.reports[other].trigger, world.reports[other].code) == (Trigger.REFUSED, "NOT_PRINTABLE")


def test_letters_that_cannot_be_written_wait_and_are_said(world: World) -> None:
    attempt = world.person(1, Channel.LETTER, HOME)
    world.letter_fault = Unreachable("the disk is full")
    with pytest.raises(Unreachable, match="disk is full"):
        world.run()
    assert world.reports[attempt].trigger is Trigger.RECALL


def test_a_letter_is_not_written_for_whom_it_stopped_meanwhile(world: World) -> None:
    attempt = world.person(1, Channel.LETTER, HOME)
    world.epoch_of[INCIDENT] = 2
    world.run()
    assert world.letters == []
    assert world.reports[attempt].trigger is Trigger.RECALL


def test_whom_a_hold_covers_while_letters_are_set_gets_none(world: World) -> None:
    one, two = (world.person(number, Channel.LETTER, HOME) for number in (1, 2))
    world.while_a_letter_is_set = lambda: world.epoch_of.update({INCIDENT: 2})
    world.run()
    assert world.letters == []
    assert [(world.reports[each].trigger, world.reports[each].called) for each in (one, two)] == [
        (Trigger.RECALL, True),
        (Trigger.RECALL, True),
    ]


def test_letters_that_take_long_to_set_are_written_in_portions(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = [world.person(number, Channel.LETTER, HOME) for number in range(5)]
    now = 0.0
    monkeypatch.setattr("consumers.stages.dispatch.time.monotonic", lambda: now)

    def takes() -> None:
        nonlocal now
        now += 6.0
        if now > 20:
            world.epoch_of[INCIDENT] = 2

    world.while_a_letter_is_set = takes
    world.run()
    assert [[each.attempt_id for each in letters] for _, letters in world.letters] == [attempts[:2]]
    assert [world.reports[each].trigger for each in attempts] == [Trigger.ACCEPTED] * 2 + [Trigger.RECALL] * 3


@pytest.mark.parametrize("stored", ["no address", "jörg@mail.example.com", "a@b\nBcc: c@d.example.com"])
def test_what_is_no_address_fails_that_attempt_so_that_the_next_channel_begins(stored: str) -> None:
    world = World()
    bad = world.person(1, Channel.EMAIL, Contact(email=stored))
    world.person(2, Channel.EMAIL, Contact(email="anna@bücher.example.com"))
    text = world.person(3, Channel.SMS, Contact(phone="015112345678"))
    world.run()
    assert [(world.reports[each].trigger, world.reports[each].code) for each in (bad, text)] == [
        (Trigger.REFUSED, "INVALID_ADDRESS"),
        (Trigger.REFUSED, "INVALID_PHONE"),
    ]
    [mail] = world.mails
    assert [entry.to_address for entry in mail.entries] == ["anna@xn--bcher-kva.example.com"]


class Far(World):
    """A provider so far away that several calls must be in flight, and a ledger that several threads ask."""

    def __init__(self, together: int, fails_at: int | None = None) -> None:
        super().__init__()
        self._meet = threading.Barrier(together)
        self._to_meet = iter(range(together))
        self._fails_at = fails_at
        self._lock = threading.Lock()
        self.dispatch._pace.learn(0.02)

    def send_bulk(self, message: BulkEmail) -> Sequence[SendResult]:
        if next(self._to_meet, None) is not None:
            self._meet.wait(20)
        with self._lock:
            results = super().send_bulk(message)
            if self.journal.count("call") == self._fails_at:
                raise RuntimeError("a fault of our own")
            return results


def test_as_many_calls_are_in_flight_as_a_slow_provider_needs() -> None:
    world = Far(together=4)
    attempts = [world.person(n, Channel.EMAIL, Contact(email=f"p{n}@mail.example.com")) for n in range(400)]
    world.run()  # the first four calls are answered only once all of them wait for their answers
    assert [len(mail.entries) for mail in world.mails] == [50] * 8
    assert sorted(entry.attempt_id for mail in world.mails for entry in mail.entries) == attempts
    assert {world.reports[attempt].trigger for attempt in attempts} == {Trigger.ACCEPTED}
    assert world.journal.count("standing") == 8
    assert world.journal.count("report") < 8, "many answers are written at once"


def test_a_hold_stops_all_but_what_is_in_flight() -> None:
    world = Far(together=1)
    attempts = [world.person(n, Channel.EMAIL, Contact(email=f"p{n}@mail.example.com")) for n in range(1000)]
    world.pause_after_calls = 2
    world.run()
    sent = {entry.attempt_id for mail in world.mails for entry in mail.entries}
    assert 100 <= len(sent) <= 300, "four calls in flight at most, when the hold came"
    for attempt in attempts:
        assert world.reports[attempt].trigger is (Trigger.ACCEPTED if attempt in sent else Trigger.RECALL)


def test_a_fault_in_one_call_loses_no_answer_of_the_others() -> None:
    """As after a crash, its own people stay as they are, and receipts or the sweeper settle them."""
    world = Far(together=1, fails_at=3)
    attempts = [world.person(n, Channel.EMAIL, Contact(email=f"p{n}@mail.example.com")) for n in range(200)]
    with pytest.raises(RuntimeError, match="our own"):
        world.run()
    lost = {entry.attempt_id for entry in world.mails[2].entries}
    answered = {entry.attempt_id for mail in world.mails for entry in mail.entries} - lost
    assert set(world.reports) == answered
    assert {world.reports[attempt].trigger for attempt in answered} == {Trigger.ACCEPTED}
    assert len(lost) == 50
    assert lost < set(attempts)


@pytest.mark.parametrize("channel", list(Channel))
def test_an_error_that_nobody_thought_of_costs_nobody_but_whom_it_met(world: World, channel: Channel) -> None:
    attempts = [world.person(n, channel, contact(postal_address=("Street 1",))) for n in range(3)]
    world.stumbles_over = attempts[1]
    with pytest.raises(RuntimeError, match="nobody thought of"):
        world.run()
    assert {name: each.trigger for name, each in world.reports.items()} == {
        attempts[0]: Trigger.ACCEPTED, attempts[2]: Trigger.ACCEPTED,
    }, "the other one stays intended, as after a crash"  # fmt: skip


def test_whoever_was_not_called_when_a_call_fails_by_an_error_of_ours_waits_again() -> None:
    """Else two such batches would give up hundreds whom nobody has written to."""
    world = Far(together=1, fails_at=3)
    mails = [world.person(n, Channel.EMAIL, Contact(email=f"p{n}@mail.example.com")) for n in range(600)]
    others = [world.person(n, channel, contact()) for n, channel in enumerate([Channel.SMS, Channel.LETTER], 900)]
    with pytest.raises(RuntimeError, match="our own"):
        world.run()
    lost = {entry.attempt_id for entry in world.mails[2].entries}
    assert {*mails, *others} - world.reports.keys() == lost
    called = {entry.attempt_id for mail in world.mails for entry in mail.entries} - lost
    assert len(called) < 300
    for attempt in {*mails, *others} - lost:
        assert world.reports[attempt].trigger is (Trigger.ACCEPTED if attempt in called else Trigger.RECALL)


def test_a_provider_that_takes_one_call_at_a_time_gets_no_second_one() -> None:
    """SMTP is a conversation: two threads in it would mix one person's mail with another's."""
    world = Far(together=1)
    world.calls_at_once = 1
    inside = threading.Lock()
    send = world.send_bulk

    def alone(message: BulkEmail) -> Sequence[SendResult]:
        assert inside.acquire(blocking=False), "a second call at once"
        try:
            return send(message)
        finally:
            inside.release()

    world.send_bulk = alone  # type: ignore[method-assign]
    attempts = [world.person(n, Channel.EMAIL, Contact(email=f"p{n}@mail.example.com")) for n in range(500)]
    world.run()
    assert {world.reports[attempt].trigger for attempt in attempts} == {Trigger.ACCEPTED}
    assert world.journal.count("call") == 10


class Slow(World):
    """Providers that take their time, by a clock of its own."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.monotonic_now = 0.0

    def called(self) -> None:
        self.monotonic_now += self._seconds
        super().called()

    def monotonic(self) -> float:
        return self.monotonic_now


@pytest.mark.parametrize(("channel", "in_a_call"), [(Channel.EMAIL, 50), (Channel.SMS, 1)])
def test_no_more_is_claimed_at_once_than_is_sent_within_seconds(
    monkeypatch: pytest.MonkeyPatch, channel: Channel, in_a_call: int
) -> None:
    """Whose turn is later is claimed later: a crash puts fewer in doubt, and what is urgent comes past."""
    world = Slow(seconds=0.5)
    monkeypatch.setattr("consumers.stages.dispatch.time", world)
    contact = Contact(email=ADDRESS, phone=PHONE)
    commands = [command_for(world.intents[world.person(n, channel, contact)], n) for n in range(in_a_call)]
    for _ in range(10):
        world.reports.clear()
        world.run()
    assert sum(map(world.dispatch.weight_of, commands)) == pytest.approx(0.25, rel=0.05), "half a second of two"
    notice = world.person(99, Channel.ACCOUNT_NOTICE, contact)
    assert world.dispatch.weight_of(command_for(world.intents[notice], 99)) == 0, "who needs no provider is no work"
