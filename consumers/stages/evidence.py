"""The evidence stage: turns what happened into leaves and appends them to the log. Reads topics only.

The log holds the stage's position: each leaf names its source, so that after any crash the next offset is found in the
log's own tail, and log and position cannot disagree. Kafka's committed offset only shows lag. What is not allow-listed
is logged as a keyed hash, counted and warned about: neither lost nor leaked.
"""

import hashlib
import hmac
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, cast

import rfc8785
import structlog
from pydantic import ValidationError

from bridge.contracts.events import CaseEvent, DeliveryOutcome, Event, NoticeRead, PartitionResolved, each_of
from bridge.contracts.topics import CASE_EVENTS, DELIVERY_OUTCOMES, RESOLUTIONS, Topic
from bridge.runtime.clock import Clock
from bridge.runtime.consume import Received, consume
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import Positions as KafkaPositions
from bridge.runtime.kafka import cluster_id
from bridge.runtime.settings import Kafka
from bridge.runtime.telemetry import Health, counter, gauge
from bridge.runtime.topic_ids import TopicIds
from consumers.evidence import outcome_leaves
from consumers.evidence.faults import Malformed
from consumers.evidence.leaf_types import DeliveryOutcomeLeaf, NoticeReadLeaf, PartitionResolvedLeaf
from consumers.evidence.leaves import (
    EventLeaf,
    LeafTypes,
    PartitionPosition,
    Positions,
    Source,
    UnlistedEvent,
    canonical_content,
)

log = structlog.get_logger()

TOPICS: tuple[Topic, ...] = (CASE_EVENTS, DELIVERY_OUTCOMES, RESOLUTIONS)
STAGE = "evidence"

LEAVES = counter(
    "tocsin_evidence_leaves_total",
    "leaves appended to the evidence log",
    question="is everything that happens being logged?",
)
UNLISTED = counter(
    "tocsin_evidence_unlisted_total",
    "messages of which a kind or field is not allow-listed and was logged as a keyed hash only",
    question="does a room publish what the evidence log has no words for?",
)
REPEATS = counter(
    "tocsin_evidence_repeats_total",
    "messages read again although they were logged; not logged twice",
    question="is something rewinding the evidence stage?",
)
SIZE = gauge("tocsin_evidence_size", "entries in the signed evidence log", question="how large is the log?")
UNLOGGED = gauge(
    "tocsin_evidence_oldest_unlogged_seconds",
    "age of the oldest message that was read and is not signed yet, or how long the stage has read nothing",
    question="does the evidence log keep up?",
)

_POSITIONS_EVERY = 4096
"""Leaves between two records of all positions: what a restart reads at most."""
_PASSED_WAIT = timedelta(seconds=5)
"""So seldom are positions recorded for messages that left no entry: a flood of dead letters makes few."""

_POSITIONS_IN_LEAF = 40
"""So that a leaf of positions stays below its 16 KiB."""

_Key = tuple[str, str | None, int]
"""Logical topic, topic id, partition."""


class Log(Protocol):
    """The evidence log as this stage needs it."""

    @property
    def size(self) -> int: ...

    def append(self, entries: Sequence[bytes]) -> range:
        """Append and sign; durable on return."""
        ...

    def backwards(self) -> Iterator[tuple[int, bytes]]:
        """Yield (index, entry), last entry first."""
        ...


class OpenLog(Log, Protocol):
    """An evidence log with its lock held."""

    def close(self) -> None: ...


class Evidence:
    """The handler for `consume`. Buffers for up to `batch_seconds`, so that checkpoints do not outnumber messages.

    `secret` keys the hashes of what is not allow-listed; whoever keeps it can recognise such a message later.
    `topic_ids` by logical topic name, as far as the broker tells them.
    """

    def __init__(
        self,
        evidence: Log,
        types: LeafTypes,
        *,
        cluster_id: str,
        topic_ids: Mapping[str, str],
        secret: bytes,
        clock: Clock,
        batch_seconds: float = 0.5,
        batch_size: int = 1000,
    ) -> None:
        self._log = evidence
        self._cluster_id = cluster_id
        self._topic_ids = topic_ids
        self._leaves = LeafMaker(types, hmac.digest(secret, b"tocsin evidence unlisted v1", "sha256"))
        self._clock = clock
        self._wait = timedelta(seconds=batch_seconds)
        self._batch_size = batch_size
        self._next, self._others, self._since_positions = _recovered(evidence, cluster_id)
        self._buffer: list[bytes] = []
        self._buffered_at: datetime | None = None
        self._passed_at: datetime | None = None
        """Since when there are positions past messages that left no entry: of a gap, or dead letters."""
        self._reads = False
        self._looked_at = clock.now()
        self._took = False
        self._oldest: datetime | None = None
        UNLOGGED.set_function(self.unlogged_seconds)
        SIZE.set(evidence.size)

    def assigned(self, partitions: Sequence[tuple[str, int]]) -> KafkaPositions:
        """Return the next offset of each partition as the log tells it; absent: never logged, from the beginning."""
        self.flush()
        self._reads = True
        return {
            (topic, partition): self._next[key]
            for topic, partition in partitions
            if (key := self._key(topic, partition)) in self._next
        }

    def revoked(self, partitions: Sequence[tuple[str, int]]) -> None:  # noqa: ARG002
        """Sign what is buffered: whoever takes over asks the log."""
        self._reads = False
        self.flush()

    def handle(self, batch: Sequence[Received], positions: KafkaPositions) -> None:
        """Turn messages into leaves. Nothing is settled with Kafka: a crash before `flush` reads them again.

        The leaves of one record are always appended together, so that its offset in the log tells that all of it is there.
        """
        for received in batch:
            key = self._key(received.topic, received.partition)
            if received.offset < self._next.get(key, 0):
                REPEATS.inc()
                log.warning(
                    "already logged", topic=received.topic, partition=received.partition, offset=received.offset
                )
                continue
            self._buffer += self._leaves_of(received, key[1])
            self._next[key] = received.offset + 1
        if not batch:
            self._pass_to(positions)
        self._note_age(batch)
        if self._buffer and self._buffered_at is None:
            self._buffered_at = self._clock.now()
        if len(self._buffer) >= self._batch_size:
            self.flush()

    def _pass_to(self, positions: KafkaPositions) -> None:
        """Note where reading goes on behind what left no entry. Without it each start would meet the same gap, and tell of it."""
        for (topic, partition), offset in positions.items():
            key = self._key(topic, partition)
            if offset > self._next.get(key, 0):
                self._next[key] = offset
                self._passed_at = self._passed_at or self._clock.now()

    def _note_age(self, batch: Sequence[Received]) -> None:
        self._took = True
        stamps = [received.timestamp_ms for received in batch if received.timestamp_ms > 0]
        if stamps:
            oldest = datetime.fromtimestamp(min(stamps) / 1000, UTC)
            self._oldest = oldest if self._buffered_at is None or self._oldest is None else min(oldest, self._oldest)

    def unlogged_seconds(self) -> float:
        """Return for how long the oldest message that is known of has waited to be signed; called by another thread.

        What waits on the broker unread shows as the age of what is read at last; a loop that stands, in a write or
        without partitions, as the time since it last looked.
        """
        oldest = self._oldest
        since = self._looked_at if oldest is None else min(oldest, self._looked_at)
        return max(0.0, (self._clock.now() - since).total_seconds())

    def _leaves_of(self, received: Received, topic_id: str | None) -> Iterable[bytes]:
        place = (self._cluster_id, received.topic, topic_id, received.partition, received.offset)
        found = [
            (isinstance(event, DeliveryOutcome) and outcome_leaves.encode(event, *place))
            or self._leaf_of(event, received, topic_id)
            for event in each_of(received.event)
        ]
        # What one record says twice in the same words has happened once, and is logged once.
        return found if len(found) == 1 else dict.fromkeys(found)

    def _leaf_of(self, event: Event, received: Received, topic_id: str | None) -> bytes:
        source = Source(
            cluster=self._cluster_id, topic=received.topic, topic_id=topic_id, partition=received.partition,
            offset=received.offset,
        )  # fmt: skip
        if event is not received.event:
            received = replace(received, event=event, value=event.model_dump_json().encode())
        return self._leaves.encode(received, source)

    def tick(self) -> None:
        """Sign what has waited long enough; also when the clock was set back."""
        for since, wait in ((self._buffered_at, self._wait), (self._passed_at, _PASSED_WAIT)):
            if since is not None and not timedelta(0) <= self._clock.now() - since < wait:
                self.flush()
        if self._reads:
            self._looked_at = self._clock.now()
        if not self._took and not self._buffer:
            # The last look brought nothing more: what there was is signed.
            self._oldest = None
        self._took = False

    def flush(self) -> None:
        """Append what is buffered. Raises what the log raises; the process must end then, and read again."""
        if not self._buffer and self._passed_at is None:
            return
        entries = self._buffer
        event_count = len(entries)
        if self._passed_at is not None or self._since_positions + event_count >= _POSITIONS_EVERY:
            entries = [*entries, *(part.encode() for part in self._positions())]
            self._since_positions = 0
        else:
            self._since_positions += event_count
        self._log.append(entries)
        self._buffer, self._buffered_at, self._passed_at = [], None, None
        LEAVES.inc(event_count)
        SIZE.set(self._log.size)

    def _key(self, topic: str, partition: int) -> _Key:
        return topic, self._topic_ids.get(topic), partition

    def _positions(self) -> list[Positions]:
        own = [
            PartitionPosition(
                cluster=self._cluster_id, topic=topic, topic_id=topic_id, partition=partition, next_offset=offset
            )
            for (topic, topic_id, partition), offset in self._next.items()
        ]
        every = [*own, *self._others]
        return [
            Positions(part=start // _POSITIONS_IN_LEAF, positions=tuple(every[start : start + _POSITIONS_IN_LEAF]))
            for start in range(0, len(every), _POSITIONS_IN_LEAF)
        ]


class EvidenceStage:
    """Reads its topics as the only member of the group `evidence`; `open_log` takes the log's lock."""

    def __init__(
        self,
        kafka: Kafka,
        open_log: Callable[[], OpenLog],
        types: LeafTypes,
        *,
        secret: bytes,
        clock: Clock,
        dead_letters: DeadLetters,
        health: Health,
        batch_seconds: float = 0.5,
    ) -> None:
        self._kafka = kafka
        self._open_log = open_log
        self._types = types
        self._secret = secret
        self._clock = clock
        self._dead_letters = dead_letters
        self._health = health
        self._batch_seconds = batch_seconds

    def run(self, stop: threading.Event) -> None:
        """Log until `stop`; what was read by then is signed. Raises what opening the log raises, and Unreachable."""
        with closing(self._open_log()) as evidence:
            topic_ids = TopicIds(self._kafka, TOPICS)
            handler = Evidence(
                evidence,
                self._types,
                cluster_id=cluster_id(self._kafka),
                topic_ids=topic_ids,
                secret=self._secret,
                clock=self._clock,
                batch_seconds=self._batch_seconds,
            )
            self._health.ready()
            consume(
                self._kafka,
                STAGE,
                TOPICS,
                handler,
                stop=stop,
                dead_letters=self._dead_letters,
                health=self._health,
                poll_seconds=0.1,
                records_at_once=20,
                topic_ids=topic_ids,
            )
            # Leaving the group has revoked and flushed already, unless no partition was ever assigned.
            handler.flush()


class LeafMaker:
    """Turns messages into leaves by the allow-list."""

    def __init__(self, types: LeafTypes, unlisted_key: bytes) -> None:
        self._types = types
        self._unlisted_key = unlisted_key

    def encode(self, received: Received, source: Source) -> bytes:
        """Return the message's leaf.

        An optional field that is not listed, or whose value is not of the listed sort, is left out and stands in the
        leaf as a keyed hash of the whole message; a message that cannot be told without it becomes an UnlistedEvent.
        """
        listed = self._listed(received.event, source)
        if listed is not None:
            leaf = self._leaf(*listed, received)
            if leaf is not None:
                try:
                    return leaf.encode()
                except Malformed:
                    log.warning("too long for a leaf", topic=received.topic, offset=received.offset)
        self._warn(received, ())
        return UnlistedEvent(
            source=source,
            kind_sha256=_kind_sha256(received.event),
            incident_id=getattr(received.event, "incident_id", None),
            occurred_at=getattr(received.event, "occurred_at", None),
            unlisted_count=1,
            unlisted_hmac=self._hmac(received),
        ).encode()

    def _listed(self, event: Event, source: Source) -> tuple[type[EventLeaf], dict[str, Any]] | None:
        if isinstance(event, DeliveryOutcome):
            return DeliveryOutcomeLeaf, _delivery_outcome(event, source)
        if isinstance(event, NoticeRead):
            return NoticeReadLeaf, {"source": source, "read_at": event.read_at}
        if isinstance(event, PartitionResolved):
            return PartitionResolvedLeaf, _partition_resolved(event, source)
        leaf = self._types.of_kind(event.kind) if isinstance(event, CaseEvent) else None
        return None if leaf is None else (leaf, _case_event(cast(CaseEvent, event), source))

    def _leaf(self, leaf: type[EventLeaf], fields: dict[str, Any], received: Received) -> EventLeaf | None:
        try:
            return leaf(**fields)
        except ValidationError as error:
            at_fault = {item["loc"] for item in error.errors(include_input=False, include_url=False)}
        unlisted = {place[:2] if place[0] == "body" else place[:1] for place in at_fault}
        for place in unlisted:
            if len(place) == 2:
                del fields["body"][str(place[1])]
            elif leaf.model_fields[str(place[0])].is_required():
                return None
            else:
                del fields[str(place[0])]
        self._warn(received, [".".join(map(str, place))[:60] for place in unlisted])
        return leaf(**fields, unlisted_count=len(unlisted), unlisted_hmac=self._hmac(received))

    def _hmac(self, received: Received) -> str:
        value = b"" if received.value is None else received.value
        return hmac.digest(self._unlisted_key, value, "sha256").hex()

    def _warn(self, received: Received, fields: Sequence[str]) -> None:
        UNLISTED.inc()
        log.warning(
            "not allow-listed; logged as a keyed hash",
            topic=received.topic, partition=received.partition, offset=received.offset,
            kind_sha256=_kind_sha256(received.event), field_sha256s=[hashlib.sha256(f.encode()).hexdigest() for f in fields],
        )  # fmt: skip


def _kind_sha256(event: Event) -> str:
    kind = event.kind if isinstance(event, CaseEvent) else event.ce_type
    return hashlib.sha256(kind.encode()).hexdigest()


def _case_event(event: CaseEvent, source: Source) -> dict[str, Any]:
    return {
        "source": source,
        "incident_id": event.incident_id,
        "actor": event.actor,
        "role": event.role,
        "occurred_at": event.occurred_at,
        "exercise": event.exercise,
        "body": dict(event.body),
    }


def _delivery_outcome(event: DeliveryOutcome, source: Source) -> dict[str, Any]:
    return {
        "source": source,
        "incident_id": event.incident_id,
        "subject": event.subject_commitment,
        "attempt_number": event.attempt_number,
        "round": event.round,
        "channel": event.channel,
        "provider": event.provider,
        "state": event.state,
        "previous_state": event.previous_state,
        "sub_type": event.sub_type,
        "receipt_kind": event.receipt_kind,
        "body_digest": event.body_commitment,
        "bundle_sha256": event.bundle_sha256,
        "provider_message_digest": event.provider_message_sha256,
        "occurred_at": event.occurred_at,
        "recorded_at": event.recorded_at,
        "exercise": event.exercise,
    }


def _partition_resolved(event: PartitionResolved, source: Source) -> dict[str, Any]:
    coverage = cast(Any, [each.model_dump(mode="json") for each in event.coverage])
    return {
        "source": source,
        "incident_id": event.incident_id,
        "revision": event.revision,
        "partition": event.partition,
        "partition_count": event.partition_count,
        "scope_sha256": event.scope_sha256,
        "position_offset": event.position_offset,
        "affected_count": event.affected_count,
        "possible_count": event.possible_count,
        "members_root": event.merkle_root,
        "artefact_sha256": event.artefact_sha256,
        "coverage_sha256": hashlib.sha256(rfc8785.dumps(coverage)).hexdigest(),
        "untagged_count": sum(each.untagged_count for each in event.coverage),
        "code_version": event.code_version,
        "resolved_at": event.resolved_at,
        "exercise": event.exercise or None,
    }


def _recovered(evidence: Log, cluster_id: str) -> tuple[dict[_Key, int], list[PartitionPosition], int]:
    """Return the next offsets on this cluster, the positions on others, and the leaves since positions were written."""
    found: dict[tuple[str, str, str | None, int], int] = {}
    since = 0
    for _, entry in evidence.backwards():
        content = canonical_content(entry)
        if content["type"] == Positions.TYPE:
            for each in content["positions"]:
                key = (each["cluster"], each["topic"], each.get("topic_id"), each["partition"])
                found.setdefault(key, each["next_offset"])
            if content["part"] == 0:
                break
            continue
        since += 1
        if "source" in content:
            source = content["source"]
            key = (source["cluster"], source["topic"], source.get("topic_id"), source["partition"])
            found.setdefault(key, source["offset"] + 1)
    own = {
        (topic, topic_id, partition): at
        for (cluster, topic, topic_id, partition), at in found.items()
        if cluster == cluster_id
    }
    others = [
        PartitionPosition(cluster=cluster, topic=topic, topic_id=topic_id, partition=partition, next_offset=at)
        for (cluster, topic, topic_id, partition), at in found.items()
        if cluster != cluster_id
    ]
    return own, others, since
