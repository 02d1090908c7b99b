"""Everything the sandbox remembers. It changes only by records: `commit` puts them into the journal and then applies
them, and a restart applies the journal again, so that both ways lead to the same state.

Guarded by one lock, `changed`, which is also what a long poll waits on.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import partial
from typing import Any

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import Clock
from consumers.sandbox import events
from consumers.sandbox.envelopes import Notification, Signer
from consumers.sandbox.events import Fate, Message
from consumers.sandbox.fates import Behaviour, Script, is_simulated, parse_scripts, recipient_key, script_for
from consumers.sandbox.faults import Fault, parse_faults
from consumers.sandbox.journal import Journal, Record
from consumers.sandbox.limits import Limits
from consumers.sandbox.queues import Item, Queue
from consumers.sandbox.sms_log import SmsStatusLog
from consumers.sandbox.texts import Text

SUPPRESSING = {Fate.BOUNCED: "BOUNCE", Fate.BOUNCED_LATE: "BOUNCE", Fate.COMPLAINED: "COMPLAINT"}
"""Fates that put an address on the account's suppression list, and for which reason."""

_MESSAGE_FIELDS = tuple(member.name for member in fields(Message))


@dataclass(slots=True)
class Subscription:
    """A queue that gets what a topic gets; `raw` means without an envelope."""

    arn: str
    queue: str
    raw: bool


@dataclass(slots=True)
class Topic:
    """An SNS topic."""

    arn: str
    attributes: dict[str, str]
    subscriptions: list[Subscription] = field(default_factory=list)

    @property
    def signature_version(self) -> str:
        """Version 1 (SHA-1) unless the topic asks for 2, as in SNS."""
        return self.attributes.get("SignatureVersion", "1")


@dataclass(slots=True)
class ConfigurationSet:
    """An SES configuration set and where its events go, by destination name."""

    request: dict[str, Any]
    destinations: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suppression:
    """One address of the account's suppression list."""

    address: str = field(repr=False)
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CallBack:
    """A report that the SMS gateway owes, and how often it was called in vain."""

    message: Message
    at: datetime
    calls: int = 0

    def later(self, at: datetime) -> "CallBack":
        """Return the same after one more call that nobody heard."""
        return CallBack(self.message, at, self.calls + 1)


class State:
    """The sandbox's memory, and the only place that changes it."""

    def __init__(self, journal: Journal, signer: Signer, clock: Clock) -> None:
        self.changed = threading.Condition()
        self.clock = clock
        self.queues: dict[str, Queue] = {}
        self.topics: dict[str, Topic] = {}
        self.configuration_sets: dict[str, ConfigurationSet] = {}
        self.identities: set[str] = set()
        self.suppressed: dict[str, Suppression] = {}
        self.scripts: dict[str, Script] = {}
        self.texts: dict[str, Text] = {}
        self.messages: list[Message] = []
        self.accepted: Counter[str] = Counter()
        self.throttled: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.faults: dict[str, Fault] = {}
        self.fault_tables = 0
        """How many were posted: a held call waits for the next one."""
        self.held: Counter[tuple[int, str]] = Counter()
        """Calls that are held, by number of the table and service; in memory only."""
        self.limits = Limits()
        self.sms_attributes: dict[str, str] = {}
        self.opted_out: set[str] = set()
        self.sms_log = SmsStatusLog()
        self.call_backs: dict[str, CallBack] = {}
        self._journal = journal
        self._signer = signer
        for record in journal.replay():
            self._apply(record)

    def commit(self, *records: Record) -> None:
        """Make `records` part of the state for good. The caller holds `changed`."""
        self._journal.append(records)
        for record in records:
            self._apply(record)
        self.changed.notify_all()

    def script(self, recipient: str) -> Script:
        """Return how to treat `recipient`."""
        return script_for(recipient, self.scripts)

    def goes_unanswered(self, recipient: str, behaviour: Behaviour) -> bool:
        """Say whether this try of `recipient` is one that `timeout` or `lost` leaves without an answer."""
        script = self.script(recipient)
        return script.behaviour is behaviour and self.unanswered[recipient_key(recipient)] < script.times

    def text_of(self, message: Message) -> Text:
        """Return what the recipient reads; for a failed rendering, the text with its slots unfilled."""
        text = self.texts[message.text_sha256]
        return text if message.fate is Fate.RENDERING_FAILED else text.filled(message.slots)

    def _subject_of(self, message: Message) -> str:
        text = self.texts[message.text_sha256]
        return text.subject if message.fate is Fate.RENDERING_FAILED else text.filled_subject(message.slots)

    def message_records(self, text: Text, messages: Iterable[Message]) -> list[Record]:
        """Return the records that accept `messages`, all with this text."""
        records: list[Record] = []
        if text.sha256 not in self.texts:
            slots = sorted(text.slots) if text.slots is not None else None
            records.append(
                {"record": "text", "subject": text.subject, "html": text.html, "text": text.text, "slots": slots}
            )
        for message in messages:
            plain = {name: getattr(message, name) for name in _MESSAGE_FIELDS}
            plain["received_at"] = message.received_at.isoformat()
            plain["due_at"] = message.due_at.isoformat()
            records.append({"record": "message", **plain})
        return records

    def notify(self, topic: Topic, message_id: str, subject: str | None, message: str, at: datetime) -> None:
        """Put one published message into every queue that is subscribed to `topic`."""
        self._fan_out(topic, message_id, subject, lambda: message, at)

    def _apply(self, record: Record) -> None:
        kind = record["record"]
        if kind == "message":
            self._accept(record)
        elif kind == "text":
            slots = frozenset(record["slots"]) if record["slots"] is not None else None
            text = Text(record["subject"], record["html"], record["text"], slots)
            self.texts[text.sha256] = text
        elif kind == "throttled":
            self.throttled[record["to"]] += 1
        elif kind == "unanswered":
            self.unanswered[record["to"]] += 1
        elif kind == "faults":
            self.faults = parse_faults(record["faults"])
            self.fault_tables += 1
        elif kind == "fault_met":
            self.faults[record["service"]] = self.faults[record["service"]].once_less()
        elif kind == "account":
            self.limits = Limits(**record["limits"])
        elif kind == "sms_attributes":
            self.sms_attributes |= record["attributes"]
        elif kind == "called_back":
            self.call_backs.pop(record["message"], None)
        elif kind == "opted_in":
            self.opted_out.discard(record["phone"])
        elif kind == "queued":
            at = datetime.fromisoformat(record["visible_at"])
            self.queues[record["queue"]].put(Item(record["id"], at, at, partial(_constant, record["body"])))
        elif kind == "deleted":
            for item_id in record["ids"]:
                self.queues[record["queue"]].delete(item_id)
        elif kind == "published":
            at = datetime.fromisoformat(record["at"])
            self.notify(self.topics[record["topic"]], record["id"], record["subject"], record["message"], at)
        elif kind == "queue":
            self.queues[record["name"]] = Queue(record["name"], record["arn"], record["attributes"])
        elif kind == "topic":
            self.topics[record["arn"]] = Topic(record["arn"], record["attributes"])
        elif kind == "topic_attribute":
            self.topics[record["topic"]].attributes[record["name"]] = record["value"]
        elif kind == "subscription":
            subscription = Subscription(record["arn"], record["queue"], record["raw"])
            self.topics[record["topic"]].subscriptions.append(subscription)
        elif kind == "configuration_set":
            self.configuration_sets[record["request"]["ConfigurationSetName"]] = ConfigurationSet(record["request"])
        elif kind == "event_destination":
            destinations = self.configuration_sets[record["configuration_set"]].destinations
            destinations[record["name"]] = record["destination"]
        elif kind == "identity":
            self.identities.add(record["name"])
        elif kind == "suppressed":
            at = datetime.fromisoformat(record["at"])
            self.suppressed[record["address"].lower()] = Suppression(record["address"], record["reason"], at)
        elif kind == "unsuppressed":
            del self.suppressed[record["address"].lower()]
        elif kind == "behaviours":
            self.scripts.update(parse_scripts(record["behaviours"]))
        else:
            raise BadInput(
                f"sandbox journal: unknown record {kind!r}; it was written by another version, use a new folder"
            )

    def _accept(self, record: Mapping[str, Any]) -> None:
        values = {name: record[name] for name in _MESSAGE_FIELDS}
        values["received_at"] = datetime.fromisoformat(record["received_at"])
        values["due_at"] = datetime.fromisoformat(record["due_at"])
        values["reply_to"] = tuple(record["reply_to"])
        values["fate"] = Fate(record["fate"])
        message = Message(**values)
        self.messages.append(message)
        self.accepted[recipient_key(message.to)] += 1
        if message.channel == "sms":
            if message.fate is Fate.COMPLAINED:  # the answer to an SMS that nobody wanted is STOP
                self.opted_out.add(message.to)
            if "gateway" not in message.tags:
                self.sms_log.write(message, self.sms_attributes)
            elif message.tags["callback"] and message.fate in events.GATEWAY_STATUS:
                self.call_backs[message.id] = CallBack(message, message.due_at)
            return
        if message.fate in SUPPRESSING and not is_simulated(message.to):
            # As SES does by default: who bounced hard or complained is not tried again until taken off the list.
            self.suppressed[message.to.lower()] = Suppression(message.to, SUPPRESSING[message.fate], message.due_at)
        if message.configuration_set is None:
            return
        for name, destination in self.configuration_sets[message.configuration_set].destinations.items():
            sns = destination.get("SnsDestination")
            if not destination.get("Enabled", False) or sns is None:
                continue
            for event in events.SES_EVENTS[message.fate]:
                if events.MATCHING_TYPES[event] in destination["MatchingEventTypes"]:
                    compose = partial(self._ses_event_json, message, event)
                    identity = events.event_id(message, event, name)
                    at = message.event_at(event)
                    self._fan_out(self.topics[sns["TopicArn"]], identity, events.SES_SUBJECT, compose, at)

    def _fan_out(
        self, topic: Topic, message_id: str, subject: str | None, compose: Callable[[], str], at: datetime
    ) -> None:
        for subscription in topic.subscriptions:
            body = partial(self._body, topic, subscription, message_id, subject, compose, at)
            self.queues[subscription.queue].put(Item(f"{message_id}@{subscription.arn[-36:]}", at, at, body))

    def _body(
        self,
        topic: Topic,
        subscription: Subscription,
        message_id: str,
        subject: str | None,
        compose: Callable[[], str],
        at: datetime,
        base_url: str,
    ) -> str:
        """Write a queue's message only when it is received: signing ahead would cost memory for what may never be read."""
        if subscription.raw:
            return compose()
        notification = Notification(message_id, topic.arn, subscription.arn, subject, compose(), at)
        return self._signer.envelope(notification, topic.signature_version, base_url)

    def _ses_event_json(self, message: Message, event: str) -> str:
        return json.dumps(events.ses_event(message, event, self._subject_of(message)))

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()


def _constant(body: str, _base_url: str) -> str:
    return body


def deleted_records(queue: str, ids: Sequence[str]) -> list[Record]:
    """Return the record that removes messages from a queue."""
    return [{"record": "deleted", "queue": queue, "ids": list(ids)}] if ids else []
