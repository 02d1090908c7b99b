"""Customers of a large shop and what its AI wrote about them, as the relay publishes both: contacts sealed, residence, locale.

As many customers as records. A tenth of them, or as many tenths as asked for, hold records of the model and version whose
output leaked, written in the window of exposure: two each, and one of another model. Of the others some hold none, and the
rest one that misses the alert by little: another model or version, written after the window, or deleted before it. Equal
numbers give the same people, so what must come of an alert is known without asking anybody.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from confluent_kafka import Producer

from bridge.contracts.envelope import Envelopes
from bridge.contracts.events import Contact, CustomerChanged, ProvenanceRecorded
from bridge.contracts.partitioner import partition_of
from bridge.runtime.sealing import Sealer, email_hmac

MODEL, VERSION = "fraud-scorer", "7"
FROM, TO = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 30, tzinfo=UTC)
PUBLISHED_AT = datetime(2026, 11, 20, tzinfo=UTC)
_AFFECTED_DIGITS = (3, 0, 1, 2, 4, 5, 6, 7, 8, 9)
_PLACES = (
    ("DE", "de_DE"), ("AT", "de_DE"), ("CH", "de_DE"), ("FR", "fr_FR"), ("NL", "en_GB"), ("IE", "en_GB"),
    ("GB", "en_GB"), ("US-CA", "en_US"), ("US-NY", "en_US"), ("US-TX", "en_US"), ("CA-QC", "fr_FR"), ("AU", "en_US"),
)  # fmt: skip
_IN_TIME, _TOO_LATE = "2026-05-{day:02}T08:00:00.000Z", "2026-07-{day:02}T08:00:00.000Z"
_DELETED_BEFORE = "2026-04-30T08:00:00.000Z"
_Written = tuple[str, str, str, str | None]
"""Model, version, when written, when deleted."""
_NEAR_MISSES: Mapping[int, _Written] = {
    0: ("income-estimator", VERSION, _IN_TIME, None),
    4: (MODEL, "6", _IN_TIME, None),
    5: (MODEL, VERSION, _TOO_LATE, None),
    6: (MODEL, VERSION, "2026-04-{day:02}T08:00:00.000Z", _DELETED_BEFORE),
    7: (MODEL, "8", _IN_TIME, None),
    8: ("spend-profiler", "2026-04", _IN_TIME, None),
    9: ("income-estimator", "1.2", _IN_TIME, None),
}  # fmt: skip
_HIT: _Written = (MODEL, VERSION, _IN_TIME, None)
_OF_AFFECTED: tuple[_Written, ...] = (_HIT, _HIT, ("spend-profiler", "2026-04", _IN_TIME, None))
_ABOUT: Mapping[str, tuple[tuple[str, str, str, str], ...]] = {
    MODEL: (
        ("fraud_score", "derived", "fraud_assessment", "fraud_score"),
        ("reversal_suggestion", "inferred", "payment_dispute", "reversal_suggestion"),
    ),
    "income-estimator": (("income_band", "inferred", "income", "income_band_inferred"),),
    "spend-profiler": (("spending_profile", "derived", "spending", "spending_profile"),),
}
"""Attribute, kind, category and data element of what each model writes."""


@dataclass(frozen=True, slots=True)
class Population:
    """So many records, and as many customers; of ten `tenths` are affected."""

    records: int
    tenths: int = 1

    def affected(self) -> Sequence[int]:
        """Return the customers who must be told."""
        if self.tenths == 1:
            return range(_AFFECTED_DIGITS[0], self.records + 1, 10)
        if self.tenths == len(_AFFECTED_DIGITS):
            return range(1, self.records + 1)
        return [number for number in range(1, self.records + 1) if number % 10 in _AFFECTED_DIGITS[: self.tenths]]

    def written_about(self, number: int) -> tuple[_Written, ...]:
        """Return what was written about a customer."""
        digit = number % 10
        if digit in _AFFECTED_DIGITS[: self.tenths]:
            return _OF_AFFECTED
        return (_NEAR_MISSES[digit],) if digit in _NEAR_MISSES else ()

    def alert(self, source: str, detected_at: datetime) -> dict[str, Any]:
        """Return the alert that a monitor sends."""
        return {
            "source": source,
            "fingerprint": f"{MODEL}-{VERSION}-output-log",
            "title": f"Output log of {MODEL} {VERSION} was public",
            "detected_at": detected_at.isoformat(),
            "scenario": "inference_log_exposed",
            "scope": {
                "model_ids": [MODEL],
                "model_versions": [VERSION],
                "exposed_from": FROM.isoformat(),
                "exposed_to": TO.isoformat(),
            },
        }

    def publish(self, bootstrap_servers: str, topic: str, partitions: int, sealer: Sealer, join_key: bytes) -> int:
        """Write everybody and every record to `topic`, with the envelope that the relay gives them; return how many messages."""
        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers, "linger.ms": 50, "batch.size": 524_288, "compression.type": "lz4",
                "queue.buffering.max.messages": 500_000, "queue.buffering.max.kbytes": 262_144,
            }
        )  # fmt: skip
        envelopes, count, left = Envelopes("/relay", PUBLISHED_AT), 0, 0
        for ce_type, key, root, value in self.messages(sealer, join_key):
            message = envelopes.message(ce_type, key, root, value)
            partition = partition_of(root, partitions)
            while True:
                try:
                    producer.produce(topic, value, key.encode(), partition, headers=list(message.headers))
                    break
                except BufferError:
                    producer.poll(0.1)
            count += 1
        end = time.monotonic() + 120
        while (left := producer.flush(10)) and time.monotonic() < end:
            pass
        if left:
            raise RuntimeError(f"Kafka did not take {left} messages")
        return count

    def messages(self, sealer: Sealer, join_key: bytes) -> Iterator[tuple[str, str, str, bytes]]:
        """Yield type, key, root and JSON of every message: each customer, followed by what was written about them."""
        for number in range(1, self.records + 1):
            root = f"customer/{number}"
            yield CustomerChanged.ce_type, root, root, _customer(number, root, sealer, join_key)
            for record, written in enumerate(self.written_about(number)):
                record_id = f"{number:08x}-{record:04x}-7000-a000-{number:012x}"
                yield (
                    ProvenanceRecorded.ce_type, f"provenance/{record_id}", root,
                    _record(number, root, record, record_id, written),
                )  # fmt: skip


def address(number: int) -> str:
    """Return a customer's e-mail address."""
    return f"person{number}@mail.example.com"


def _customer(number: int, root: str, sealer: Sealer, join_key: bytes) -> bytes:
    place, locale = _PLACES[number // 10 % len(_PLACES)]
    email = address(number)
    contact = Contact(email=email, phone=f"+4915{number:09}", first_name=f"Given{number}", last_name="Family")
    return (
        f'{{"root":"{root}","customer_id":{number},"website_id":1,"store_id":1,"locale":"{locale}","residence":'
        f'[{{"code":"{place}","source":"default_billing"}}],"channels":["email","sms"],'
        f'"contact":{sealer.seal_json(msgspec.json.encode(contact), root)},"email_hmac":"{email_hmac(join_key, email)}",'
        '"attribute_hmacs":{},"faults":[]}'
    ).encode()


def _record(number: int, root: str, record: int, record_id: str, written: _Written) -> bytes:
    model, version, at, deleted_at = written
    about = _ABOUT[model]
    # a third of the people hold both attributes of a model that writes two, the others the first one twice
    attribute, kind, category, element = about[record % len(about) if number // 10 % 3 == 0 else 0]
    day = number // 100 % 28 + 1
    deleted = "null" if deleted_at is None else f'"{deleted_at}"'
    return (
        f'{{"root":"{root}","record_id":"{record_id}","customer_id":{number},"order_id":null,"entity_type":"customer",'
        f'"entity_id":{number},"attribute":"{attribute}","model_id":"{model}","model_version":"{version}",'
        f'"run_id":"{model}-2026-05-{day:02}","dataset_version":"transactions-2026-05",'
        f'"generated_at":"{at.format(day=day)}","deleted_at":{deleted},"kind":"{kind}","confidence":0.9,'
        f'"sensitivity":"high","categories":["{category}"],"elements":["{element}","full_name","transaction_history"],'
        '"source_system":"risk-platform","storage_location":"inference-log/eu-central-1",'
        '"input_fields":["customer.name","order.payments"],"legal_basis":"legitimate_interest"}'
    ).encode()
