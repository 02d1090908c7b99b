"""Stage dispatch: turns verified commands into provider calls. The only stage that ever sees an address in clear.

A command holds ids only. Dispatch verifies it against the ledger, records the intent, unseals the contact, fills the
approved text, checks the epoch once more, calls the provider, and records the outcome. It decides neither who is told
nor by which channel.
"""

import threading
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog
from msgspec import structs

from bridge.contracts.errors import Refused, TocsinError
from bridge.contracts.events import AccountNotice, Channel, Contact, DeliverNotice, each_of
from bridge.contracts.topics import DELIVERY_COMMANDS
from bridge.runtime.clock import Clock
from bridge.runtime.consume import Received, consume
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Positions
from bridge.runtime.sealing import KeyNotHeld
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health, counter, histogram
from bridge.runtime.topic_ids import TopicIds
from consumers.domain.contacts import MAILBOXES, deliverable_email, deliverable_phone, mailbox_provider
from consumers.domain.delivery import OF_SEND, Trigger
from consumers.domain.ledger import Command, Intent, SentReport, SentText
from consumers.domain.sending import (
    BulkEmail,
    EmailEntry,
    EmailProvider,
    EmailTemplate,
    Letter,
    LetterWriter,
    NotPrintable,
    PreparedAccountNotice,
    PreparedEmail,
    PreparedLetter,
    PreparedText,
    ProviderLane,
    SendResult,
    SendState,
    SmsProvider,
)

log = structlog.get_logger()

STAGE = "dispatch"

SENT = counter(
    "tocsin_deliveries_total",
    "provider answers to notices, exercises left out",
    question="does each channel accept what we hand over?",
    labels={
        "channel": [channel.value for channel in Channel],
        "state": ["accepted", "throttled", "refused", "lost", "recall"],
    },
)
ANSWERS = counter(
    "tocsin_provider_answers_total",
    "messages by what a provider answered, and by who keeps the mailbox (by its public domain; none for SMS); exercises "
    "left out",
    question="does one mailbox provider, or one of ours, refuse what others take?",
    labels={
        "provider": ["ses", "smtp", "sns", "sms_gateway"],
        "state": ["accepted", "throttled", "refused", "lost"],
        "mailbox": [*MAILBOXES, "none"],
    },
)
CALL_SECONDS = histogram(
    "tocsin_provider_call_seconds",
    "duration of one provider call",
    question="is a provider slowing us down?",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
    labels={"channel": ["email", "sms"]},
)


_REPORTED_AT_ONCE = 500
_MOST_CALLS = 16
_CALL_WORK_SECONDS = 0.005
"""What a bulk of 50 keeps this process busy for, all in all."""

_CLAIMED_SECONDS = 2.0
"""So much work is claimed at once: whose turn is later is claimed later, which a crash puts in doubt, and which lets what is
urgent come past.
"""
_LETTER_SECONDS = 10.0
"""So long letters are set before they are written: well within the time after which a claim counts as given up."""
_SECONDS_AT_FIRST = {Channel.EMAIL: 0.005, Channel.SMS: 0.05}
"""What a message is taken to need before one was sent. What needs no provider takes no time; letters go together as they come."""

_BOUNCED = "BOUNCED_BEFORE"
_Addressed = tuple[Intent, EmailEntry, str]
"""Somebody to send to, and the hash of their final text."""


class DispatchLedger(Protocol):
    """What dispatch asks of the ledger."""

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions: ...
    def intend(
        self, commands: Sequence[Command], dispatcher: str, stage: str, after: Positions
    ) -> Sequence[Intent]: ...
    def put_back(self, commands: Sequence[Command]) -> None: ...
    def standing(self, intents: Sequence[Intent]) -> Collection[str]: ...
    def note_calls(self, intents: Sequence[Intent]) -> None: ...
    def learn_texts(self, texts: Sequence[SentText]) -> None: ...
    def bounced(self, marks: Collection[str]) -> Collection[str]: ...
    def report(self, reports: Sequence[SentReport]) -> None: ...


class Marks(Protocol):
    """Keyed hashes by which an address or a number is known again, whoever has it."""

    def of_email(self, address: str) -> frozenset[str]: ...
    def of_phone(self, number: str) -> str: ...


class ContactOpener(Protocol):
    """Opens sealed contacts. Raises KeyNotHeld, or Refused when this one contact cannot be read."""

    def open_json(self, sealed: str, root: str) -> Contact: ...


class NoticeTexts(Protocol):
    """The approved texts, filled for one person. Raises TocsinError when a text cannot be had, NotPrintable for a letter
    whose reader's own name or address keeps it from being set.
    """

    def email(self, intent: Intent, contact: Contact) -> PreparedEmail: ...
    def sms(self, intent: Intent, contact: Contact) -> PreparedText: ...
    def account_notice(self, intent: Intent) -> PreparedAccountNotice: ...
    def letter(self, intent: Intent, contact: Contact) -> PreparedLetter: ...


class Addressing(Protocol):
    """Where a message really goes under `delivery.mode`: the person, or a simulator."""

    def email(self, intent: Intent, address: str) -> str: ...
    def phone(self, intent: Intent, number: str) -> str: ...
    def shows_on_account_page(self, intent: Intent) -> bool: ...
    def envelope(self, intent: Intent, contact: Contact) -> Contact: ...


class Guard(Protocol):
    """Says whether account and store are what the settings name; see `consumers.adapters.live_guard`."""

    def may_hand_over(self, release_ids: Collection[str]) -> bool: ...


class TextsInFlight(Protocol):
    """What is about to leave, kept over a crash until the ledger has been told; see `consumers.adapters.texts_in_flight`."""

    def leave(self, texts: Sequence[SentText]) -> None: ...
    def reported(self) -> None: ...
    def take_over(self, tell: Callable[[Sequence[SentText]], None]) -> None: ...


class Dispatch:
    """The handler behind the stage."""

    def __init__(
        self,
        ledger: DispatchLedger,
        opener: ContactOpener,
        texts: NoticeTexts,
        addressing: Addressing,
        email: ProviderLane[EmailProvider],
        sms: ProviderLane[SmsProvider],
        clock: Clock,
        dispatcher: str,
        letters: LetterWriter | None = None,
        guard: Guard | None = None,
        texts_in_flight: TextsInFlight | None = None,
        marks: Marks | None = None,
    ) -> None:
        self._ledger = ledger
        self._in_flight = texts_in_flight
        self._marks = marks
        self._guard = guard
        self._letters = letters
        self._opener = opener
        self._texts = texts
        self._addressing = addressing
        self._email = email
        self._sms = sms
        self._clock = clock
        self._dispatcher = dispatcher
        self._pace = _Pace()
        self._work = _Work()
        self._refusals = _Refusals()
        self._called = 0
        self._untouched: dict[str, Intent] = {}
        """Claims of the batch in hand that no provider was asked for, and of which nothing is reported."""
        self._noted: set[str] = set()
        """Those of which the ledger has been told that a provider is about to be asked."""
        self._callers = ThreadPoolExecutor(_MOST_CALLS, thread_name_prefix="call")
        self._unreported: list[tuple[Channel, SentReport]] = []
        self._unreported_since = 0.0

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> Positions:
        if self._in_flight is not None:
            # whose partitions these were may be dead
            self._in_flight.take_over(self._ledger.learn_texts)
        return self._ledger.positions(STAGE, partitions)

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:
        """Nothing is in flight between batches."""

    def tick(self) -> None:
        """Nothing is due between batches."""

    def handle(self, batch: Sequence[Received], positions: Positions) -> None:
        """Send what `batch` commands and may be sent.

        A crash before `intend` reads the batch again. After it the attempts are `intended` and the position is past
        them: the release stage turns them to `unknown`, receipts or one repeat settle them.

        A contact without an address fails that person's attempt, and so does an address or a number that bounced for good,
        whoever had it then and however it was written: the ledger may have learned it after this attempt was planned. A fault of
        our own (a key that is not here, a text that cannot be had) fails nobody: those attempts go back to waiting, all others
        are sent, and then the fault is raised. An error that nobody thought of costs those whom it met, as a crash would, and
        nobody else: whoever no provider was asked for goes back to waiting.
        """
        events = [event for each in batch for event in each_of(each.event) if isinstance(event, DeliverNotice)]
        commands = [_command(event) for event in self._those_with_a_turn(events)]
        intents = self._ledger.intend(commands, self._dispatcher, STAGE, positions)
        by_channel: dict[Channel, list[Intent]] = defaultdict(list)
        for intent in intents:
            by_channel[intent.channel].append(intent)
        self._untouched = {intent.attempt_id: intent for intent in intents}
        self._noted.clear()
        try:
            faults = [
                *self._worked(Channel.EMAIL, self._send_emails, by_channel[Channel.EMAIL]),
                *self._worked(Channel.SMS, self._send_texts, by_channel[Channel.SMS]),
                *self._post_notices(by_channel[Channel.ACCOUNT_NOTICE]),
                *self._write_letters(by_channel[Channel.LETTER]),
            ]
        except Exception:
            self._leave_off()
            # what is in flight stays where the next process finds it
            self._in_flight = None
            raise
        if self._in_flight is not None:
            self._in_flight.reported()
        if faults:
            # the supervisor's growing pause before a restart is what keeps this from spinning
            raise faults[0]

    def _leave_off(self) -> None:
        """Let whoever nobody was asked for wait again. Where the ledger cannot take it, the sweeper does so later."""
        with suppress(TocsinError):
            self._ledger.report(
                [_recalled(each, called=each.attempt_id in self._noted) for each in self._untouched.values()]
            )

    def _about_to_call(self, intents: Sequence[Intent]) -> Collection[str]:
        """Let the ledger know before a provider does, and return who may still be called: asked last, as whoever stops a release
        counts on it. What a crash leaves without this note was not called, and is not given up for it.
        """
        self._ledger.note_calls(intents)
        self._noted.update(intent.attempt_id for intent in intents)
        return self._ledger.standing(intents)

    def _note_texts(self, texts: Sequence[tuple[Intent, str]], number_mark: str | None = None) -> None:
        """Keep which text somebody is about to get, so that the proof has it whoever dies before the report, and by `number_mark`
        to which number, so that it is known again should it bounce.
        """
        if self._in_flight is not None:
            self._in_flight.leave(
                [SentText(intent.attempt_id, intent.send_count, body, number_mark) for intent, body in texts]
            )

    def _left(self, intent: Intent, error: Exception) -> Exception:
        """Leave somebody over whom we stumbled as a crash would: to one more try, and then to their next channel. Were they to
        wait for a mend, every batch would stumble over them again.
        """
        self._untouched.pop(intent.attempt_id, None)
        log.error(
            "attempt met an error of ours",
            attempt=intent.attempt_id,
            incident=intent.incident_id,
            fault=type(error).__name__,
        )
        return error

    def weight_of(self, received: Received) -> float:
        """Return which part of a batch the commands in a message make up, by how long it takes to carry them out."""
        commands = (event for event in each_of(received.event) if isinstance(event, DeliverNotice))
        return sum(self._work.seconds(event.channel) for event in commands) / _CLAIMED_SECONDS

    def _worked(
        self, channel: Channel, send: Callable[[Sequence[Intent]], Sequence[Exception]], intents: Sequence[Intent]
    ) -> Sequence[Exception]:
        """Send, and learn how long it took for each who was sent to."""
        began, called = time.monotonic(), self._called
        faults = send(intents)
        self._work.learn(channel, self._called - called, time.monotonic() - began)
        return faults

    def _those_with_a_turn(self, events: Sequence[DeliverNotice]) -> Sequence[DeliverNotice]:
        """Return the commands of channels that have a provider, and let all others wait where they came from: everybody while
        this is not the account or not the shop that the settings name.

        Nothing is claimed and nothing logged for them; the meter issues them again once a provider is well. A crash right
        after this reads the batch again, and what was put back is claimed by nobody.
        """
        lanes: dict[Channel, ProviderLane[EmailProvider] | ProviderLane[SmsProvider]] = {
            Channel.EMAIL: self._email,
            Channel.SMS: self._sms,
        }
        asked = {event.channel for event in events} & lanes.keys()
        if events and self._guard is not None and not self._guard.may_hand_over({each.release_id for each in events}):
            still = {event.channel for event in events}
        else:
            still = {channel for channel in asked if lanes[channel].stands_still()}
        if not still:
            return events
        self._ledger.put_back([_command(event) for event in events if event.channel in still])
        return [event for event in events if event.channel not in still]

    def _send_emails(self, intents: Sequence[Intent]) -> Sequence[Exception]:
        audiences: dict[tuple[str, EmailTemplate, tuple[str, ...]], list[_Addressed]] = defaultdict(list)
        ready: list[tuple[EmailTemplate, _Addressed]] = []
        marks: dict[str, frozenset[str]] = {}
        failed: list[SentReport] = []
        faults: list[Exception] = []
        for intent in intents:
            try:
                contact = self._contact(intent)
                if contact.email is None:
                    raise _NoAddress("NO_ADDRESS")
                checked = deliverable_email(contact.email)
                if checked is None:
                    raise _NoAddress("INVALID_ADDRESS")
                prepared = self._texts.email(intent, contact)
                address = self._addressing.email(intent, checked)
            except _NoAddress as lack:
                failed.append(_unsendable(intent, lack))
                continue
            except TocsinError as fault:
                failed.append(_held_back(intent, fault))
                faults.append(fault)
                continue
            except Exception as error:
                faults.append(self._left(intent, error))
                continue
            entry = EmailEntry(intent.attempt_id, address, prepared.slots)
            ready.append((prepared.template, (intent, entry, prepared.body_sha256)))
            if self._marks is not None and address == checked and not intent.exercise:
                marks[intent.attempt_id] = self._marks.of_email(contact.email)
        dead = self._ledger.bounced({mark for those in marks.values() for mark in those}) if marks else ()
        for template, (intent, entry, body) in ready:
            if dead and not marks.get(intent.attempt_id, frozenset()).isdisjoint(dead):
                failed.append(_unsendable(intent, _NoAddress(_BOUNCED), gone=True))
            else:
                audiences[(intent.incident_id, template, intent.refused)].append((intent, entry, body))
        if failed:
            self._report(Channel.EMAIL, failed)
        try:
            for (incident_id, template, refused), people in audiences.items():
                self._send_audience(incident_id, template, people, refused)
        finally:
            self._flush()
        return faults

    def _send_audience(
        self, incident_id: str, template: EmailTemplate, people: Sequence[_Addressed], refused: Collection[str]
    ) -> None:
        """Send one text to `people`, with as many calls in flight as the provider's latency needs, and no more: threads make
        this process slower than they make it wait less.
        """
        flying: deque[_Flying] = deque()
        waiting = people
        try:
            while waiting:
                turn = self._email.turn(refused)
                if turn is None:
                    self._collect(Channel.EMAIL, [_recalled(intent) for intent, _, _ in waiting])
                    break
                size = min(turn.provider.max_entries, turn.at_most or turn.provider.max_entries)
                # one that is tried, or may take but a few, is called once at a time: each answer decides what follows
                most = turn.provider.calls_at_once if size == turn.provider.max_entries else 1
                at_once = min(most, self._pace.at_once)
                some, waiting = waiting[:size], waiting[size:]
                if at_once == 1 and not flying:
                    self._land(self._call(turn.provider, incident_id, template, some), some)
                    continue
                while len(flying) >= at_once or (flying and flying[0][2] is not turn.provider):
                    self._land_first(flying)
                call = self._callers.submit(self._call, turn.provider, incident_id, template, some)
                flying.append((call, some, turn.provider))
        finally:
            self._land_all(flying)

    def _land_all(self, flying: deque["_Flying"]) -> None:
        """Take note of every answer still to come, also when one of the calls failed by a fault of our own."""
        try:
            while flying:
                self._land_first(flying)
        finally:
            if flying:
                self._land_all(flying)

    def _land_first(self, flying: deque["_Flying"]) -> None:
        answer, some, _ = flying.popleft()
        self._land(answer.result(), some)

    def _call(
        self, provider: EmailProvider, incident_id: str, template: EmailTemplate, people: Sequence[_Addressed]
    ) -> "_Answer":
        """Ask the ledger who may still be sent to, and send; in whatever thread."""
        standing = self._about_to_call([intent for intent, _, _ in people])
        entries = [entry for intent, entry, _ in people if intent.attempt_id in standing]
        if not entries:
            return _Answer(provider, standing, (), 0.0)
        for entry in entries:
            self._untouched.pop(entry.attempt_id, None)
        self._note_texts([(intent, body) for intent, _, body in people if intent.attempt_id in standing])
        message = BulkEmail(
            from_address=template.from_address,
            reply_to=template.reply_to,
            subject=template.subject,
            html=template.html,
            text=template.text,
            incident_id=incident_id,
            entries=entries,
            # the ledger's word; an audience is of one incident
            exercise=people[0][0].exercise,
        )
        began = time.monotonic()
        results = provider.send_bulk(message)
        return _Answer(provider, standing, results, time.monotonic() - began)

    def _land(self, answer: "_Answer", people: Sequence[_Addressed]) -> None:
        """Take note of an answer. What it says is written with that of other calls; a crash before leaves `intended`."""
        self._called += len(answer.results)
        if answer.results:
            CALL_SECONDS.labels("email").observe(answer.seconds)
            self._pace.learn(answer.seconds)
            self._email.record(answer.provider, answer.results, timedelta(seconds=answer.seconds))
            asked = (entry for intent, entry, _ in people if intent.attempt_id in answer.standing)
            answered = Counter(
                (OF_SEND[result.state].value, mailbox_provider(entry.to_address))
                for entry, result in zip(asked, answer.results, strict=True)
            )
            for (state, mailbox), count in answered.items() if not people[0][0].exercise else ():
                ANSWERS.labels(answer.provider.name, state, mailbox).inc(count)
        results = iter(answer.results)
        self._collect(
            Channel.EMAIL,
            [
                _reported(intent, next(results), body, answer.provider.name)
                if intent.attempt_id in answer.standing
                else _recalled(intent, called=True)
                for intent, _, body in people
            ],
        )

    def _send_texts(self, intents: Sequence[Intent]) -> Sequence[Exception]:
        faults: list[Exception] = []
        for intent in intents:
            try:
                contact = self._contact(intent)
                if contact.phone is None:
                    raise _NoAddress("NO_PHONE")
                checked = deliverable_phone(contact.phone)
                if checked is None:
                    raise _NoAddress("INVALID_PHONE")
                prepared = self._texts.sms(intent, contact)
                number = self._addressing.phone(intent, checked)
                mark = None
                if self._marks is not None and number == checked and not intent.exercise:
                    mark = self._marks.of_phone(checked)
                if mark is not None and self._ledger.bounced([mark]):
                    report = _unsendable(intent, _NoAddress(_BOUNCED), gone=True)
                    self._report(Channel.SMS, [structs.replace(report, number_mark=mark)])
                    continue
            except _NoAddress as lack:
                self._report(Channel.SMS, [_unsendable(intent, lack)])
                continue
            except TocsinError as fault:
                self._report(Channel.SMS, [_held_back(intent, fault)])
                faults.append(fault)
                continue
            except Exception as error:
                faults.append(self._left(intent, error))
                continue
            if intent.attempt_id not in self._about_to_call([intent]):
                self._report(Channel.SMS, [_recalled(intent, called=True)])
                continue
            turn = self._sms.turn(intent.refused)
            if turn is None:
                self._report(Channel.SMS, [_recalled(intent, called=True)])
                continue
            self._untouched.pop(intent.attempt_id, None)
            self._note_texts([(intent, prepared.body_sha256)], mark)
            began = time.monotonic()
            answer = turn.provider.send(intent.attempt_id, number, prepared.text, exercise=intent.exercise)
            self._called += 1
            took = time.monotonic() - began
            result = self._refusals.judged(turn.provider.name, answer)
            CALL_SECONDS.labels("sms").observe(took)
            self._sms.record(turn.provider, [result], timedelta(seconds=took))
            if not intent.exercise:
                ANSWERS.labels(turn.provider.name, OF_SEND[result.state].value, "none").inc()
            report = _reported(intent, result, prepared.body_sha256, turn.provider.name)
            report = structs.replace(report, number_mark=mark)
            if result.state is SendState.UNAVAILABLE:
                wait = self._refusals.wait(turn.provider.name, intent.attempt_id)
                report = structs.replace(report, not_before=self._clock.now() + wait)
            self._report(Channel.SMS, [report])
        return faults

    def _post_notices(self, intents: Sequence[Intent]) -> Sequence[Exception]:
        reports: list[SentReport] = []
        faults: list[Exception] = []
        # e-mails of the same batch may have taken a while: a pause in between counts for these, too
        standing = self._standing(intents)
        for intent in intents:
            if intent.attempt_id not in standing:
                reports.append(_recalled(intent))
                continue
            try:
                if intent.customer_id is None:
                    raise _NoAddress("NO_ACCOUNT")
                prepared = self._texts.account_notice(intent)
            except _NoAddress as lack:
                reports.append(_unsendable(intent, lack))
                continue
            except TocsinError as fault:
                reports.append(_held_back(intent, fault))
                faults.append(fault)
                continue
            except Exception as error:
                faults.append(self._left(intent, error))
                continue
            notice = AccountNotice(
                notice_id=intent.attempt_id,
                incident_id=intent.incident_id,
                customer_id=intent.customer_id,
                locale=intent.locale,
                title=prepared.title,
                body=prepared.body,
                posted_at=self._clock.now(),
                exercise=intent.exercise,
            )
            reports.append(
                SentReport(
                    intent.attempt_id,
                    Trigger.ACCEPTED,
                    intent.send_count,
                    body_sha256=prepared.body_sha256,
                    # simulated: it counts as posted and nobody will read it
                    notice=notice if self._addressing.shows_on_account_page(intent) else None,
                    exercise=intent.exercise,
                )
            )
        if reports:
            self._report(Channel.ACCOUNT_NOTICE, reports)
        return faults

    def _write_letters(self, intents: Sequence[Intent]) -> Sequence[Exception]:
        """Set letters and write them, a portion at a time: to set hundreds takes longer than a hold may."""
        faults: list[Exception] = []
        waiting: Sequence[Intent] = intents
        while waiting:
            waiting = self._write_portion(waiting, faults)
        return faults

    def _write_portion(self, intents: Sequence[Intent], faults: list[Exception]) -> Sequence[Intent]:
        """Set as many letters as there is time for and write those that may still leave; return who is left."""
        reports: list[SentReport] = []
        batches: dict[str, list[tuple[Intent, Letter, str]]] = defaultdict(list)
        standing = self._standing(intents)
        began, count = time.monotonic(), 0
        for intent in intents:
            if count and time.monotonic() - began >= _LETTER_SECONDS:
                break
            count += 1
            if intent.attempt_id not in standing or self._letters is None:
                reports.append(_recalled(intent))
                continue
            try:
                contact = self._addressing.envelope(intent, self._contact(intent))
                if not contact.postal_address:
                    raise _NoAddress("NO_POSTAL_ADDRESS")
                made = self._texts.letter(intent, contact)
            except _NoAddress as lack:
                reports.append(_unsendable(intent, lack))
                continue
            except NotPrintable:
                reports.append(_unsendable(intent, _NoAddress("NOT_PRINTABLE")))
                continue
            except TocsinError as fault:
                reports.append(_held_back(intent, fault))
                faults.append(fault)
                continue
            except Exception as error:
                faults.append(self._left(intent, error))
                continue
            letter = Letter(intent.attempt_id, intent.send_count, made.pdf, made.address)
            batches[intent.incident_id].append((intent, letter, made.body_sha256))
        for incident_id, batch in batches.items():
            reports += self._write_batch(incident_id, batch, faults)
        if reports:
            self._report(Channel.LETTER, reports)
        return intents[count:]

    def _write_batch(
        self, incident_id: str, batch: Sequence[tuple[Intent, Letter, str]], faults: list[Exception]
    ) -> Sequence[SentReport]:
        """Write the letters of those who may still be told, as of now, and return what became of all."""
        assert self._letters is not None
        standing = self._about_to_call([intent for intent, _, _ in batch])
        reports = [_recalled(intent, called=True) for intent, _, _ in batch if intent.attempt_id not in standing]
        batch = [each for each in batch if each[0].attempt_id in standing]
        if not batch:
            return reports
        for intent, _, _ in batch:
            self._untouched.pop(intent.attempt_id, None)
        self._note_texts([(intent, body) for intent, _, body in batch])
        try:
            results = self._letters.write(
                incident_id, [letter for _, letter, _ in batch], exercise=batch[0][0].exercise
            )
        except TocsinError as fault:
            faults.append(fault)
            return reports + [_held_back(intent, fault, called=True) for intent, _, _ in batch]
        return reports + [
            _reported(intent, result, body, self._letters.name)
            for (intent, _, body), result in zip(batch, results, strict=True)
        ]

    def _standing(self, intents: Sequence[Intent]) -> Collection[str]:
        """Return whose notice may leave at this moment, by what needs no provider."""
        if not intents or (
            self._guard is not None and not self._guard.may_hand_over({each.release_id for each in intents})
        ):
            return ()
        return self._ledger.standing(intents)

    def _contact(self, intent: Intent) -> Contact:
        if intent.contact is None:
            raise _NoAddress("NO_CONTACT")
        try:
            return self._opener.open_json(intent.contact, intent.root)
        except KeyNotHeld:
            raise
        except Refused:
            raise _NoAddress("CONTACT_UNREADABLE") from None

    def _collect(self, channel: Channel, reports: Sequence[SentReport]) -> None:
        """Report soon: with more, or once a second has passed since the first."""
        if not self._unreported:
            self._unreported_since = time.monotonic()
        for item in reports:
            self._untouched.pop(item.attempt_id, None)
        self._unreported += [(channel, item) for item in reports]
        if len(self._unreported) >= _REPORTED_AT_ONCE or time.monotonic() - self._unreported_since > 1:
            self._flush()

    def _flush(self) -> None:
        if not self._unreported:
            return
        reports, self._unreported = self._unreported, []
        self._ledger.report([item for _, item in reports])
        for (channel, trigger), count in Counter(
            (channel, item.trigger) for channel, item in reports if not item.exercise
        ).items():
            SENT.labels(channel.value, trigger.value).inc(count)

    def _report(self, channel: Channel, reports: Sequence[SentReport]) -> None:
        self._collect(channel, reports)
        self._flush()


class _Pace:
    """How many calls in flight keep this process busy at the latency that the provider shows."""

    def __init__(self) -> None:
        self._seconds = 0.0

    @property
    def at_once(self) -> int:
        """Calls in flight: one for each few milliseconds that an answer takes."""
        return max(1, min(_MOST_CALLS, round(self._seconds / _CALL_WORK_SECONDS)))

    def learn(self, seconds: float) -> None:
        """Take note of how long a call took; the last few count."""
        self._seconds = seconds if not self._seconds else 0.8 * self._seconds + 0.2 * seconds


class _Work:
    """How long one message of a channel keeps this process, the last batches counting most."""

    def __init__(self) -> None:
        self._seconds = dict(_SECONDS_AT_FIRST)

    def seconds(self, channel: Channel) -> float:
        """Return how long one is likely to take."""
        return self._seconds.get(channel, 0.0)

    def learn(self, channel: Channel, count: int, seconds: float) -> None:
        """Take note of how long so many took together."""
        if count:
            self._seconds[channel] = (self.seconds(channel) + seconds / count) / 2


@dataclass(slots=True)
class _Refusal:
    """Since when an SMS was not taken, how often, and in how many of these times others had been taken since the last."""

    since: float
    others_taken: int
    times: int = 0
    while_others_went: int = 0


class _Refusals:
    """Which SMS a provider refuses again and again while it takes others: it is not ill then, it cannot serve that number,
    for a reason that we do not know. Such an SMS would be called ill and close the lane, and be the first again each time.
    """

    _OFTEN = 3
    _SECONDS = 30.0
    _WAIT, _LONGEST_WAIT = timedelta(seconds=5), timedelta(minutes=10)
    _REMEMBERED = 10_000

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self._known: OrderedDict[tuple[str, str], _Refusal] = OrderedDict()

    def wait(self, provider: str, attempt_id: str) -> timedelta:
        """Return how long others go first: twice as long after each refusal, as a circuit waits."""
        known = self._known.get((provider, attempt_id))
        times = 1 if known is None else known.times
        return min(self._LONGEST_WAIT, self._WAIT * (1 << min(times - 1, 10)))

    def judged(self, provider: str, answer: SendResult) -> SendResult:
        """Return the answer, and a refusal for good in place of one that is too many."""
        if answer.state is SendState.ACCEPTED:
            self._taken[provider] += 1
        key, taken = (provider, answer.attempt_id), self._taken[provider]
        if answer.state is not SendState.UNAVAILABLE:
            self._known.pop(key, None)
            return answer
        known = self._known.setdefault(key, _Refusal(time.monotonic(), taken))
        known.times += 1
        known.while_others_went += taken > known.others_taken
        known.others_taken = taken
        if known.while_others_went >= self._OFTEN and time.monotonic() - known.since >= self._SECONDS:
            del self._known[key]
            return structs.replace(answer, state=SendState.REJECTED)
        while len(self._known) > self._REMEMBERED:
            self._known.popitem(last=False)
        return answer


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of one call for those of its people who might still be sent to, in their order."""

    provider: EmailProvider
    standing: Collection[str]
    results: Sequence[SendResult]
    seconds: float


class _NoAddress(TocsinError):
    """The contact has nothing for this channel; the message is a code, never a value."""


def _command(event: DeliverNotice) -> Command:
    return Command(event.attempt_id, event.recipient_id, event.release_id, event.epoch, event.exercise)


def _unsendable(intent: Intent, lack: _NoAddress, *, gone: bool = False) -> SentReport:
    log.error("attempt cannot be sent", attempt=intent.attempt_id, incident=intent.incident_id, code=str(lack))
    return SentReport(
        intent.attempt_id, Trigger.REFUSED, intent.send_count, code=str(lack), exercise=intent.exercise, gone=gone
    )


def _held_back(intent: Intent, fault: Exception, *, called: bool = False) -> SentReport:
    log.error(
        "attempt waits for a fault to be mended",
        attempt=intent.attempt_id,
        incident=intent.incident_id,
        fault=type(fault).__name__,
    )
    return SentReport(intent.attempt_id, Trigger.RECALL, intent.send_count, exercise=intent.exercise, called=called)


def _recalled(intent: Intent, *, called: bool = False) -> SentReport:
    """Return that somebody waits again; `called`: a call of theirs was noted, which has come to nothing."""
    return SentReport(intent.attempt_id, Trigger.RECALL, intent.send_count, exercise=intent.exercise, called=called)


def _reported(intent: Intent, result: SendResult, body_sha256: str, provider: str) -> SentReport:
    return SentReport(
        intent.attempt_id,
        OF_SEND[result.state],
        intent.send_count,
        provider_message_id=result.provider_message_id,
        body_sha256=body_sha256,
        code=result.code,
        provider=provider if provider != intent.provider else None,
        exercise=intent.exercise,
        called=True,
        deferred=result.state is SendState.DEFERRED,
        gone=result.gone,
    )


_Flying = tuple[Future[_Answer], Sequence[_Addressed], EmailProvider]
"""A call that has not been answered, for whom, and whose."""


class DispatchStage:
    """Reads delivery commands as a member of the group `dispatch`."""

    def __init__(
        self, kafka: Kafka, handler: Dispatch, dead_letters: DeadLetters, health: Health, topic_ids: TopicIds
    ) -> None:
        self._kafka = kafka
        self._handler = handler
        self._dead_letters = dead_letters
        self._health = health
        self._topic_ids = topic_ids

    def run(self, stop: threading.Event) -> None:
        """Dispatch until `stop`; a batch in hand is finished first."""
        self._health.ready()
        consume(
            self._kafka,
            STAGE,
            [DELIVERY_COMMANDS],
            self._handler,
            stop=stop,
            dead_letters=self._dead_letters,
            health=self._health,
            topic_ids=self._topic_ids,
            batch_size=1000,
            poll_seconds=0.1,
            # A pack is claimed whole, and nobody's command waits long behind others that are claimed already.
            records_at_once=1,
            weight_of=self._handler.weight_of,
        )
