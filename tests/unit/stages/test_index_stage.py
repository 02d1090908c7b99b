"""The index stage against a real index file and a broker in memory: what it publishes, when, and what a crash leaves."""

import hashlib
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bridge.contracts.envelope import Message, Record, open_envelope, seal_envelope
from bridge.contracts.errors import Refused
from bridge.contracts.events import (
    CustomerAffected,
    CustomerDeparted,
    EntityRemoved,
    Event,
    IncidentRevised,
    NoticeRead,
    PartitionResolved,
    ProvenanceRecorded,
    StoreBeat,
    SubjectErased,
    UntaggedWrite,
    Unwatched,
    WatchStarted,
)
from bridge.contracts.queries import Inspection, KeysAsked, PartitionNames, RangesAsked
from bridge.contracts.scope import Scope
from bridge.contracts.topics import (
    AFFECTED_CUSTOMERS,
    DEAD_LETTERS,
    DEPARTED_CUSTOMERS,
    RESOLUTIONS,
    STORE_CHANGES,
    Topic,
)
from bridge.runtime.clock import SetClock
from bridge.runtime.consume import Received
from bridge.runtime.dead_letters import DeadLetters
from bridge.runtime.kafka import NotPublished
from bridge.runtime.settings import Paths, Relay, Settings
from bridge.runtime.telemetry import Health
from consumers.adapters import index_comparison
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.index_file import PartitionFile
from consumers.adapters.provenance_index import ProvenanceIndex
from consumers.domain.resolution import set_root
from consumers.stages.index.stage import VISIBLE, IndexStage, _ReadAgain
from tests.unit.adapters.test_provenance_index import HASH, NOW, customer
from tests.unit.domain.test_scope_matching import record

SCOPE = Scope(model_ids=("fraud-scorer",), model_versions=("7",))


class Broker:
    """Outgoing events and watermarks, in memory; `failing` makes the next flush fail."""

    def __init__(self) -> None:
        self.queued: list[tuple[str, Message]] = []
        self.published: list[tuple[str, Message]] = []
        self.high = 0
        self.failing = False
        self.markers_only = False
        self.lines: dict[int, Line] = {}
        self.partitions = 1

    def partition_count(self, topic: Topic) -> int:
        return self.partitions

    def send(self, topic: Topic, message: Message) -> None:
        self.queued.append((topic.name, message))

    def send_records(self, topic: Topic, records: Iterable[Record], *, partition: int | None = None) -> None:
        for key, root, value, headers in records:
            content = value.encode() if isinstance(value, str) else value
            pairs = tuple((name, each) for name, each in headers.items() if isinstance(each, bytes))
            self.queued.append((topic.name, Message(key.decode(), root.decode(), content, pairs)))

    def send_raw(
        self, topic: Topic, partition: int, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        self.queued.append((topic.name, Message(key.decode(), "", value, tuple(headers))))

    def flush(self, timeout_seconds: float = 30.0) -> None:
        if self.failing:
            self.queued.clear()
            raise NotPublished("no acknowledgement")
        self.published += self.queued
        self.queued.clear()

    def bounds(self, topic: Topic, partition: int) -> tuple[int, int]:
        return 0, self.high if topic == STORE_CHANGES else 0

    def nothing_between(self, topic: Topic, partition: int, position: int, upto: int) -> bool:
        return self.markers_only

    def messages(self, topic: Topic, partition: int, offsets: Collection[int]) -> list[Any]:
        return [self.lines[offset] for offset in offsets]

    def events(self, topic: Topic) -> list[Any]:
        return [
            open_envelope(message.key.encode(), message.value, dict(message.headers))
            for name, message in self.published
            if name == topic.name
        ]

    def ids(self, topic: Topic) -> list[str]:
        return [dict(message.headers)["ce_id"].decode() for name, message in self.published if name == topic.name]


class Line:
    """A record as confluent-kafka gives it, `value` in its value's place."""

    def __init__(self, offset: int, record: ProvenanceRecorded, value: bytes | None = None) -> None:
        sealed = seal_envelope(record, key=f"provenance/{record.record_id}", root=record.root, source="/relay", at=NOW)
        self._offset, self._sealed, self._value = offset, sealed, value or sealed.value

    def topic(self) -> str:
        return STORE_CHANGES.name

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._sealed.key.encode()

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes]]:
        return list(self._sealed.headers)

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def error(self) -> None:
        return None


class Incidents:
    def __init__(self) -> None:
        self.waiting: list[IncidentRevised] = []

    def read_to_end(self, partition_count: int, stop: threading.Event) -> list[IncidentRevised]:
        return self.poll()

    def poll(self) -> list[IncidentRevised]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def begin_anew(self) -> None: ...


class NoApi:
    def start(self, partition_count: int) -> None: ...
    def announce(self, partitions: Sequence[int]) -> None: ...
    def stop(self) -> None: ...


class Bench:
    """One worker that owns partition 0; `restart` is a crash with everything durable kept."""

    def __init__(self, folder: Path, retention_days: int = 30, partitions: int = 1) -> None:
        self.folder = folder
        self.settings = Settings(
            paths=Paths(data=folder),
            relay=Relay(departed_retention_days=retention_days, departed_legal_ground="GDPR Art. 17(3)(e)"),
        )
        self.clock = SetClock(NOW)
        self.broker = Broker()
        self.broker.partitions = partitions
        self.incidents = Incidents()
        self.offset = 0
        self.start()

    def start(self) -> None:
        self.index = ProvenanceIndex(self.settings.paths.index)
        self.stage = IndexStage(
            self.settings,
            index=self.index,
            artefacts=DirectoryArtefactStore(self.settings.paths.artefacts),
            incidents=self.incidents,
            heads=self.broker,
            outgoing=self.broker,
            api=NoApi(),
            dead_letters=DeadLetters(lambda: self.broker, "index", self.clock),  # type: ignore[arg-type,return-value]  # a fake
            clock=self.clock,
            cluster="c",
            health=Health(),
            upkeep_seconds=0,
        )
        self.stage.prepare(threading.Event())
        positions = self.stage.assigned(
            [
                (name, each)
                for name in (STORE_CHANGES.name, DEPARTED_CUSTOMERS.name)
                for each in range(self.broker.partitions)
            ]
        )
        self.offset = positions.get((STORE_CHANGES.name, 0), 0)

    def restart(self, *, lose_file: bool = False) -> None:
        self.index.close()
        if lose_file:
            (self.settings.paths.index / "p0.duckdb").unlink()
        self.start()

    def feed(self, *events: Event | tuple[Event, datetime], topic: Topic = STORE_CHANGES) -> None:
        batch = [
            Received(
                topic=topic.name,
                partition=0,
                offset=self.offset + number,
                key="",
                event=event[0] if isinstance(event, tuple) else event,
                tombstone=isinstance(event, tuple),
                headers={"ce_time": event[1].isoformat().encode()} if isinstance(event, tuple) else {},
                value=b"",
            )
            for number, event in enumerate(events)
        ]
        if topic == STORE_CHANGES:
            self.broker.high = max(self.broker.high, self.offset + len(events))
        self.stage.handle(batch, {(topic.name, 0): self.offset + len(events)})
        if topic == STORE_CHANGES:
            self.offset += len(events)

    def feed_lines(self, *lines: Line) -> None:
        """Hand over records as the consume loop does: not opened."""
        self.broker.lines |= {line.offset(): line for line in lines}
        left = self.stage._unopened.collect(lines, {STORE_CHANGES.name: STORE_CHANGES.name})  # type: ignore[arg-type]  # as messages
        assert left == []
        self.stage.handle([], self.stage._unopened.positions())

    def alert(
        self,
        revision: int = 1,
        scope: Scope | None = SCOPE,
        status: Any = "open",
        incident_id: str = "INC-2026-0001",
    ) -> None:
        self.incidents.waiting.append(
            IncidentRevised(
                incident_id=incident_id,
                revision=revision,
                status=status,
                scope=scope,
                scope_sha256=None if scope is None else scope.sha256(),
                detected_at=NOW,
            )
        )
        self.ticks()

    def ticks(self) -> None:
        for _ in range(3):
            self.stage.tick()

    def affected(self) -> list[CustomerAffected]:
        return self.broker.events(AFFECTED_CUSTOMERS)

    def resolutions(self) -> list[PartitionResolved]:
        return self.broker.events(RESOLUTIONS)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.index.close()


def removed(root: str, key: str | None = None, at: datetime = NOW) -> tuple[Event, datetime]:
    return EntityRemoved(root=root, key=key or root), at


def records_of(number: int, **changes: Any) -> ProvenanceRecorded:
    facts = {"root": f"customer/{number}", "customer_id": number, "record_id": f"r{number}"}
    return record(**(facts | changes))


def test_an_incident_is_answered_with_its_people_and_a_record_that_fits_them(bench: Bench) -> None:
    bench.feed(customer(1), customer(2), records_of(1), records_of(2, model_version="6"), records_of(3))
    bench.alert()
    assert [(each.root, each.standing, each.departed) for each in bench.affected()] == [
        ("customer/1", "recorded", False),
        ("customer/3", "recorded", True),
    ]
    (resolved,) = bench.resolutions()
    assert (resolved.affected_count, resolved.possible_count, resolved.position_offset) == (2, 0, 5)
    assert resolved.merkle_root == set_root(bench.affected())
    assert resolved.scope_sha256 == SCOPE.sha256()
    assert bench.affected()[0].contact == customer(1).contact
    bench.ticks()
    assert len(bench.resolutions()) == 1


def test_every_partition_answers_and_a_broker_that_fails_meanwhile_loses_none_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, partitions=4)
    for partition in range(4):
        bench.stage.handle([placed(records_of(partition), partition)], {(STORE_CHANGES.name, partition): 1})
    bench.broker.high = 1
    bench.broker.failing = True
    with pytest.raises(NotPublished):
        bench.alert()
    # the next answer was being found: nothing of it is at work any more when the error comes out
    bench.index.close()
    assert bench.resolutions() == []
    bench.broker.failing = False
    bench.restart()
    bench.alert()
    bench.alert(incident_id="INC-2026-0002")
    answers = {(each.incident_id, each.partition): each for each in bench.resolutions()}
    assert {key: each.affected_count for key, each in answers.items()} == {
        (incident, partition): 1 for incident in ("INC-2026-0001", "INC-2026-0002") for partition in range(4)
    }
    for (incident, partition), answer in answers.items():
        (person,) = [each for each in bench.affected() if (each.incident_id, each.partition) == (incident, partition)]
        assert person.root == f"customer/{partition}"
        assert answer.merkle_root == set_root([person])
    bench.index.close()


def placed(event: Event, partition: int) -> Received:
    return Received(STORE_CHANGES.name, partition, 0, "", event, tombstone=False, headers={}, value=b"")


def test_nobody_answers_before_having_read_what_was_published_when_the_incident_came(bench: Bench) -> None:
    bench.feed(records_of(1))
    bench.broker.high = 2
    bench.alert()
    assert bench.resolutions() == []
    bench.feed(records_of(2))
    bench.ticks()
    assert [each.affected_count for each in bench.resolutions()] == [2]


def test_transaction_markers_at_the_end_do_not_hold_an_answer_up(bench: Bench) -> None:
    bench.feed(records_of(1))
    bench.broker.high = 2
    bench.broker.markers_only = True
    bench.alert()
    assert [each.affected_count for each in bench.resolutions()] == [1]


def test_where_one_topic_had_markers_another_one_at_its_place_is_read_before_an_answer(bench: Bench) -> None:
    bench.feed(records_of(1))
    bench.broker.high = 2
    bench.broker.markers_only = True
    bench.alert()
    assert len(bench.resolutions()) == 1
    # another generation, or a topic made anew: what lies there now are people
    bench.stage.revoked([(STORE_CHANGES.name, 0)])
    (bench.settings.paths.index / "p0.duckdb").unlink()
    assert bench.stage.assigned([(STORE_CHANGES.name, 0)]) == {}
    bench.offset, bench.broker.markers_only = 0, False
    bench.feed(records_of(1))
    bench.broker.high = 2
    bench.alert(revision=2)
    assert len(bench.resolutions()) == 1
    bench.feed(records_of(2))
    bench.ticks()
    assert [each.affected_count for each in bench.resolutions()] == [1, 2]


def test_an_unresolved_scope_and_a_closed_incident_ask_nothing(bench: Bench) -> None:
    bench.feed(records_of(1))
    bench.alert(scope=None)
    bench.alert(revision=2, status="closed")
    assert bench.resolutions() == []
    assert bench.affected() == []


def test_a_corrected_scope_is_answered_anew_and_the_older_revision_no_more(bench: Bench) -> None:
    bench.feed(records_of(1), records_of(2, model_version="6"))
    bench.alert()
    bench.alert(revision=2, scope=Scope(model_ids=("fraud-scorer",)))
    bench.alert(revision=1)
    assert [(each.revision, each.affected_count) for each in bench.resolutions()] == [(1, 1), (2, 2)]


@pytest.mark.parametrize("lose_file", [False, True])
def test_a_crash_before_the_record_publishes_the_same_answer_again(bench: Bench, lose_file: bool) -> None:
    bench.feed(customer(1), records_of(1))
    bench.broker.failing = True
    with pytest.raises(NotPublished):
        bench.alert()
    bench.broker.failing = False
    bench.restart(lose_file=lose_file)
    if lose_file:
        bench.feed(customer(1), records_of(1), records_of(2))
    else:
        bench.feed(records_of(2))
    bench.alert()
    (resolved,) = bench.resolutions()
    on_time = [each for each in bench.affected() if not each.late]
    assert [each.root for each in on_time] == ["customer/1"]
    assert resolved.merkle_root == set_root(on_time)
    assert [each.root for each in bench.affected() if each.late] == ["customer/2"]


def test_a_lost_file_repeats_its_answer_under_the_same_ids(bench: Bench) -> None:
    bench.feed(customer(1), records_of(1))
    bench.alert()
    bench.restart(lose_file=True)
    bench.feed(customer(1), records_of(1))
    bench.alert()
    first, second = bench.resolutions()
    assert first == second
    one, again = bench.broker.ids(AFFECTED_CUSTOMERS)
    assert one == again


def test_an_altered_artefact_is_never_published(bench: Bench) -> None:
    bench.feed(records_of(1))
    bench.broker.failing = True
    with pytest.raises(NotPublished):
        bench.alert()
    bench.broker.failing = False
    (stored,) = (bench.settings.paths.artefacts / "objects").rglob("*/*")
    stored.write_bytes(stored.read_bytes()[:-1])
    bench.restart()
    with pytest.raises(Refused, match="altered"):
        bench.alert()
    assert bench.affected() == []


def test_a_late_change_adds_the_person_once(bench: Bench) -> None:
    bench.feed(records_of(1))
    bench.alert()
    bench.feed(records_of(2), records_of(3, model_version="6"))
    bench.feed(customer(2), records_of(2, record_id="r2b"))
    assert [(each.root, each.late) for each in bench.affected()] == [("customer/1", False), ("customer/2", True)]
    bench.alert(revision=2, status="closed")
    bench.feed(records_of(4))
    assert len(bench.affected()) == 2


def test_a_late_addition_whose_publish_fails_is_not_forgotten(bench: Bench) -> None:
    bench.alert()
    bench.broker.failing = True
    with pytest.raises(NotPublished):
        bench.feed(records_of(2))
    bench.broker.failing = False
    bench.restart()
    assert bench.offset == 0
    bench.alert()
    bench.feed(records_of(2))
    assert [each.root for each in bench.affected()] == ["customer/2"]


def test_a_value_without_a_record_makes_its_holder_possible_and_a_record_makes_it_sure(bench: Bench) -> None:
    bench.feed(customer(1, attribute_hmacs={"fraud_score": HASH}), customer(2), records_of(2))
    bench.alert()
    (resolved,) = bench.resolutions()
    assert (resolved.affected_count, resolved.possible_count) == (2, 1)
    assert [each.untagged_count for each in resolved.coverage] == [1]
    assert [(each.root, each.standing, each.why is None) for each in bench.affected()] == [
        ("customer/1", "possible", True),
        ("customer/2", "recorded", False),
    ]
    bench.feed(records_of(1))
    assert [(each.root, each.standing, each.late) for each in bench.affected()[2:]] == [
        ("customer/1", "recorded", True)
    ]
    assert len(set(bench.broker.ids(AFFECTED_CUSTOMERS))) == 3


def test_a_deleted_customer_is_still_found_with_their_contact_until_their_time_is_over(bench: Bench) -> None:
    bench.feed(customer(1), records_of(1))
    bench.feed(removed("customer/1", at=NOW - timedelta(days=1)))
    (departed,) = bench.broker.events(DEPARTED_CUSTOMERS)
    assert departed.expires_at == NOW + timedelta(days=29)
    assert departed.contact == customer(1).contact
    bench.alert()
    (found,) = bench.affected()
    assert (found.departed, found.contact) == (True, customer(1).contact)
    bench.clock.at = NOW + timedelta(days=29)
    bench.ticks()
    assert bench.broker.events(DEPARTED_CUSTOMERS)[1:] == [EntityRemoved(root="customer/1", key="customer/1")]
    bench.ticks()
    assert len(bench.broker.events(DEPARTED_CUSTOMERS)) == 2


def test_departed_people_and_deleted_records_survive_a_rebuild_after_compaction(bench: Bench) -> None:
    bench.feed(customer(1), records_of(1), records_of(2))
    bench.feed(removed("customer/1"), removed("customer/2", "provenance/r2", NOW - timedelta(days=2)))
    kept = bench.broker.events(DEPARTED_CUSTOMERS)
    bench.restart(lose_file=True)
    bench.feed(*kept, topic=DEPARTED_CUSTOMERS)
    bench.feed(records_of(1))
    bench.broker.high = bench.offset
    bench.alert(scope=Scope(model_ids=("fraud-scorer",), exposed_to=NOW - timedelta(days=3)))
    assert [(each.root, each.departed) for each in bench.affected()] == [("customer/1", True), ("customer/2", True)]
    assert bench.affected()[0].contact == customer(1).contact
    bench.alert(revision=2, scope=Scope(model_ids=("fraud-scorer",), exposed_from=NOW - timedelta(days=1)))
    assert [each.root for each in bench.affected()[2:]] == ["customer/1"]


def inspected(bench: Bench, root: str) -> Inspection:
    file = bench.stage._files[0]
    assert isinstance(file, PartitionFile)
    return file.inspect(root)


def test_who_was_erased_is_forgotten_once_the_store_has_let_go_and_does_not_come_back_with_a_rebuild(
    bench: Bench,
) -> None:
    erased = SubjectErased(root="customer/1", erased_at=NOW)
    bench.feed(customer(1), customer(2), records_of(1), records_of(2))
    bench.feed(erased, topic=DEPARTED_CUSTOMERS)
    bench.ticks()
    seen = inspected(bench, "customer/1")
    assert (seen.person.state, len(seen.records)) == ("present", 1), (
        "the store still holds them, and the index is its mirror"
    )
    bench.feed(removed("customer/1"), removed("customer/1", "provenance/r1"))
    before = bench.broker.events(DEPARTED_CUSTOMERS)
    bench.ticks()
    assert inspected(bench, "customer/1").model_dump(include={"records"}) == {"records": ()}
    assert inspected(bench, "customer/1").person.state == "absent"
    assert len(inspected(bench, "customer/2").records) == 1
    kept = bench.broker.events(DEPARTED_CUSTOMERS)
    assert sorted(each.key for each in kept[len(before) :]) == ["customer/1", "provenance/r1"], (
        "the kept copies go, too"
    )

    # compaction has reached neither topic: a rebuild reads all of it again
    bench.restart(lose_file=True)
    bench.feed(*before, erased, topic=DEPARTED_CUSTOMERS)
    bench.feed(customer(1), records_of(1), removed("customer/1"), removed("customer/1", "provenance/r1"))
    bench.broker.high = bench.offset
    bench.ticks()
    bench.alert(scope=Scope(model_ids=("fraud-scorer",), exposed_to=NOW - timedelta(days=3)))
    assert bench.affected() == []
    # and once no deleted record would be kept any more, the mark itself is forgotten
    bench.clock.at += timedelta(days=1097)
    bench.ticks()
    assert bench.broker.events(DEPARTED_CUSTOMERS)[-1].key == "erased/customer/1"
    bench.feed((bench.broker.events(DEPARTED_CUSTOMERS)[-1], bench.clock.now()), topic=DEPARTED_CUSTOMERS)
    bench.ticks()
    assert bench.stage._files[0].erased_before(bench.clock.now()) == []


def test_without_a_retention_decision_a_deleted_customers_contact_is_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path, retention_days=0)
    bench.feed(customer(1), records_of(1))
    bench.feed(removed("customer/1"))
    bench.alert()
    assert bench.broker.events(DEPARTED_CUSTOMERS) == []
    assert [(each.root, each.departed, each.contact) for each in bench.affected()] == [("customer/1", True, None)]
    bench.index.close()


def test_changes_of_one_batch_keep_their_order(bench: Bench) -> None:
    bench.feed(customer(1), removed("customer/1"), customer(2), removed("customer/2"), customer(2, locale="fr_FR"))
    assert [each.root for each in bench.broker.events(DEPARTED_CUSTOMERS) if isinstance(each, CustomerDeparted)] == [
        "customer/1"
    ]
    with bench.index.reading() as (reader,):
        persons = reader.persons(["customer/1", "customer/2"])
    assert isinstance(persons["customer/1"], CustomerDeparted)
    assert persons["customer/2"].locale == "fr_FR"


def test_an_event_that_does_not_belong_here_is_set_aside(bench: Bench) -> None:
    bench.feed(NoticeRead(notice_id="n", customer_id=1, read_at=NOW), customer(1))
    (letter,) = bench.broker.events(DEAD_LETTERS)
    assert "does not belong" in letter.error
    with bench.index.reading() as (reader,):
        assert reader.status().customer_count == 1


def test_sources_with_different_partition_counts_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.broker, "partition_count", lambda topic: 4 if topic == STORE_CHANGES else 6)
    with pytest.raises(Refused, match="same number of partitions"):
        bench.stage.prepare(threading.Event())


def test_partitions_that_came_since_are_not_taken_over(bench: Bench) -> None:
    """Their answers would be of partitions that there are not, by the number that this worker knows."""
    bench.stage.prepare(threading.Event())
    with pytest.raises(Refused, match="more than the 1 partitions that it had"):
        bench.stage.assigned([(STORE_CHANGES.name, 1), (DEPARTED_CUSTOMERS.name, 1)])


def test_a_heartbeat_says_how_long_the_store_took_to_be_visible(bench: Bench) -> None:
    bench.feed(StoreBeat(beat_at=NOW - timedelta(seconds=0.25)))
    with bench.index.reading() as (reader,):
        status = reader.status()
    assert status.beat_visible_at is not None
    assert status.beat_written_at is not None
    assert status.beat_visible_at - status.beat_written_at == timedelta(seconds=0.25)
    assert VISIBLE._value.get() == 0.25
    assert status.position_offset == 1


def scored(hmac: str, at: datetime) -> tuple[Event, datetime]:
    return customer(1, attribute_hmacs={"fraud_score": hmac * 64}), at


def feed_at(bench: Bench, *states: tuple[Event, datetime]) -> None:
    for event, at in states:
        received = Received(
            topic=STORE_CHANGES.name, partition=0, offset=bench.offset, key="", event=event, tombstone=False,
            headers={"ce_time": at.isoformat().encode()}, value=b"",
        )  # fmt: skip
        bench.broker.high = bench.offset + 1
        bench.stage.handle([received], {(STORE_CHANGES.name, 0): bench.offset + 1})
        bench.offset += 1


def test_a_value_written_past_the_module_makes_its_person_possible_also_after_a_rebuild(bench: Bench) -> None:
    start = NOW - timedelta(days=5)
    written = record(model_version="6", generated_at=start)
    later = record(record_id="r2", model_version="8", generated_at=NOW - timedelta(days=1))
    feed_at(
        bench,
        (written, start),
        scored("a", start),
        scored("b", NOW - timedelta(days=3)),
        (later, NOW - timedelta(days=1)),
        scored("c", NOW - timedelta(days=1)),
    )
    kept = [each for each in bench.broker.events(DEPARTED_CUSTOMERS) if isinstance(each, UntaggedWrite)]
    assert [(each.seen_at, each.until) for each in kept] == [
        (NOW - timedelta(days=3), None),
        (NOW - timedelta(days=3), NOW - timedelta(days=1)),
    ]
    window = {"exposed_from": NOW - timedelta(days=3), "exposed_to": NOW - timedelta(days=2)}
    scope = Scope(model_ids=("fraud-scorer",), model_versions=("7",), **window)  # type: ignore[arg-type]  # of instants
    before = Scope(
        model_ids=("fraud-scorer",), exposed_from=NOW - timedelta(days=9), exposed_to=NOW - timedelta(days=6)
    )
    file = bench.stage._files[0]
    assert [(each.root, each.standing) for each in file.answer(scope)] == [("customer/1", "possible")]
    assert file.coverage(scope)[0].untagged_count == 1
    assert file.coverage(scope)[0].untagged_since == NOW - timedelta(days=3)
    assert file.answer(before) == []
    bench.restart(lose_file=True)
    bench.feed(kept[-1], topic=DEPARTED_CUSTOMERS)
    bench.feed(written, customer(1, attribute_hmacs={"fraud_score": "c" * 64}), later)
    assert [each.standing for each in bench.stage._files[0].answer(scope)] == ["possible"]


def test_since_when_values_are_watched_and_silences_of_the_heartbeat_survive_a_rebuild(bench: Bench) -> None:
    hour = timedelta(hours=1)
    first = NOW - hour / 2
    feed_at(bench, scored("a", first), (records_of(1), first), (StoreBeat(beat_at=NOW), NOW))
    # at first sight, and once all that the topic knows was read
    bench.ticks()
    bench.feed(StoreBeat(beat_at=NOW + hour), StoreBeat(beat_at=NOW + hour + timedelta(seconds=5)))
    kept = [each for each in bench.broker.events(DEPARTED_CUSTOMERS) if isinstance(each, WatchStarted)]
    assert [(each.attribute, each.after) for each in kept] == [("fraud_score", None), ("*", NOW)]
    bench.clock.at += 3 * hour
    bench.broker.markers_only = True
    bench.restart(lose_file=True)
    # Compaction left the newest of each key: the value's first sight and the silence are known from their own topic alone.
    feed_at(bench, (records_of(1), first), scored("a", NOW))
    bench.feed(StoreBeat(beat_at=NOW + hour + timedelta(seconds=5)))
    bench.feed(*kept, topic=DEPARTED_CUSTOMERS)
    bench.ticks()
    bench.alert(scope=Scope(model_ids=("fraud-scorer",), exposed_from=NOW - hour))
    (covered,) = bench.resolutions()[-1].coverage
    assert covered.unwatched == (
        Unwatched(since=None, until=first),
        Unwatched(since=NOW, until=NOW + hour),
    )
    again = [each for each in bench.broker.events(DEPARTED_CUSTOMERS) if isinstance(each, WatchStarted)]
    assert again == kept


def test_what_a_record_said_before_it_was_altered_still_answers_and_is_known_after_a_rebuild(bench: Bench) -> None:
    """Somebody changes a row by SQL to another version: whoever held output of the first one held it all the same."""
    bench.feed(customer(1), records_of(1))
    bench.ticks()
    altered = records_of(1, model_version="8")
    bench.feed(altered)
    bench.stage._merge_due = 0
    bench.ticks()
    (kept,) = [each for each in bench.broker.events(DEPARTED_CUSTOMERS) if isinstance(each, ProvenanceRecorded)]
    assert (kept.model_version, kept.deleted_at, kept.root) == ("7", NOW, "customer/1")

    def known() -> tuple[list[str], bool, int]:
        file = bench.stage._files[0]
        answered = [each.root for each in file.answer(SCOPE)]
        assert isinstance(file, PartitionFile)
        prints = index_comparison.keys(file, KeysAsked(entity="provenance", keys=("provenance/r1",))).keys
        counted = index_comparison.ranges(file, RangesAsked(entity="provenance")).ranges
        # The store's record is compared with the store's row, and what it said before with nothing.
        assert sum(each.count + each.deleted_count for each in counted) == 1
        return answered, prints[0].altered, index_comparison.faults(file).altered_count

    assert known() == (["customer/1"], True, 1)
    bench.restart(lose_file=True)
    # Compaction has left the altered row alone.
    bench.feed(customer(1), altered)
    assert known() == ([], False, 0)
    bench.feed(kept, topic=DEPARTED_CUSTOMERS)
    assert known() == (["customer/1"], True, 1)


def test_a_record_that_comes_late_takes_the_mark_back(bench: Bench) -> None:
    start = NOW - timedelta(days=5)
    feed_at(bench, (record(generated_at=start), start), scored("a", start), scored("b", NOW - timedelta(days=3)))
    feed_at(bench, (record(record_id="r2", model_version="8", generated_at=NOW - timedelta(days=3)), NOW))
    assert isinstance(bench.broker.events(DEPARTED_CUSTOMERS)[-1], EntityRemoved)
    assert bench.stage._files[0].answer(Scope(model_versions=("7",), exposed_from=NOW - timedelta(days=2))) != []
    found = bench.stage._files[0].answer(Scope(model_versions=("9",)))
    assert found == []


def test_a_deleted_record_answers_until_its_retention_ends(bench: Bench) -> None:
    """And from then on nothing counts as recorded since an earlier time."""
    written, deleted = NOW - timedelta(days=2000), NOW - timedelta(days=1090)
    bench.feed(
        customer(1), record(generated_at=written, deleted_at=deleted), record(record_id="r2", generated_at=written)
    )
    scope = Scope(model_ids=("fraud-scorer",), exposed_from=written, exposed_to=deleted - timedelta(days=1))
    bench.ticks()
    file = bench.stage._files[0]
    assert [each.why.record_ids for each in file.answer(scope) if each.why] == [("r1", "r2")]
    bench.clock.at += timedelta(days=7)
    bench.ticks()
    assert [each.why.record_ids for each in file.answer(scope) if each.why] == [("r2",)]
    assert [each.key for each in bench.broker.events(DEPARTED_CUSTOMERS)] == ["provenance/r1"]
    assert file.coverage(scope)[0].recorded_since == bench.clock.now() - timedelta(days=1096)
    bench.alert()
    assert bench.resolutions()[0].retention == "records, until 1096 d after their deletion"


def test_more_about_somebody_who_was_published_is_published_once(bench: Bench) -> None:
    bench.feed(customer(1), records_of(1), customer(2), records_of(2))
    bench.alert()
    # the same facts by another record change nothing
    bench.feed(records_of(1, record_id="r1b"), customer(1))
    assert [each.root for each in bench.affected()] == ["customer/1", "customer/2"]
    more = records_of(1, record_id="r1c", categories=("income",), elements=("income_band",))
    bench.feed(more)
    bench.feed(customer(1), records_of(1, record_id="r1d", categories=("income",)))
    (late,) = bench.affected()[2:]
    assert (late.root, late.late, late.standing) == ("customer/1", True, "recorded")
    assert late.why is not None
    assert {"income_band"} <= set(late.why.elements)
    assert set(late.why.record_ids) == {"r1", "r1b", "r1c"}
    # and a higher sensitivity is news, too; a restart remembers what was said
    bench.restart()
    bench.alert()
    bench.feed(records_of(1, record_id="r1e", sensitivity="critical"))
    bench.feed(records_of(1, record_id="r1f", sensitivity="critical"))
    assert [each.root for each in bench.affected()[3:]] == ["customer/1"]
    assert len(set(bench.broker.ids(AFFECTED_CUSTOMERS))) == 4


def test_an_answer_says_how_many_people_are_known(bench: Bench) -> None:
    bench.feed(customer(1), records_of(1), customer(2), customer(3))
    bench.alert()
    assert [(each.affected_count, each.people_count) for each in bench.resolutions()] == [(1, 3)]


def test_two_incidents_about_the_same_people_are_answered_and_ended_apart(bench: Bench) -> None:
    bench.feed(customer(1), records_of(1))
    bench.alert()
    other = "INC-2026-0002"
    bench.alert(incident_id=other, scope=Scope(model_ids=("fraud-scorer",)))
    bench.feed(records_of(2))
    assert [(each.incident_id[-1], each.root) for each in bench.affected()] == [
        ("1", "customer/1"), ("2", "customer/1"), ("1", "customer/2"), ("2", "customer/2"),
    ]  # fmt: skip
    bench.alert(revision=2, status="closed")
    bench.feed(records_of(3))
    assert [(each.incident_id[-1], each.root) for each in bench.affected()[4:]] == [("2", "customer/3")]
    # what was frozen for the first stays where it is
    artefacts = DirectoryArtefactStore(bench.settings.paths.artefacts)
    for resolved in bench.resolutions():
        assert hashlib.sha256(artefacts.get(resolved.artefact_sha256)).hexdigest() == resolved.artefact_sha256


def test_more_whose_publish_fails_is_not_forgotten(bench: Bench) -> None:
    bench.feed(customer(1), records_of(1))
    bench.alert()
    more = records_of(1, record_id="r1b", categories=("income",))
    bench.broker.failing = True
    with pytest.raises(NotPublished):
        bench.feed(more)
    bench.broker.failing = False
    bench.restart()
    bench.alert()
    assert len(bench.affected()) == 1
    for _ in range(2):
        bench.feed(more)
    assert [(each.root, each.late) for each in bench.affected()] == [("customer/1", False), ("customer/1", True)]


def test_a_record_that_the_database_cannot_read_is_set_aside_and_the_others_stay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.stages.index.stage._BUSY", 0)
    spoiled = [
        Line(3, records_of(3), records_of(3).model_dump_json().replace('"entity_id":1', '"entity_id":"none"').encode()),
        Line(4, records_of(4), records_of(4).model_dump_json().replace('"derived"', '"guessed"').encode()),
    ]
    bench.feed_lines(Line(1, records_of(1)))
    bench.feed_lines(Line(2, records_of(2)))
    with pytest.raises(Exception, match="partition 0 cannot be read by the database") as left:
        bench.feed_lines(*spoiled, Line(5, records_of(5)))
    assert type(left.value) is _ReadAgain
    # As after joining the group again: what was not durable comes once more.
    bench.stage.revoked([(STORE_CHANGES.name, 0)])
    assert bench.stage.assigned([(STORE_CHANGES.name, 0)]) == {}
    bench.feed_lines(Line(1, records_of(1)), Line(2, records_of(2)))
    bench.feed_lines(*spoiled, Line(5, records_of(5)))
    file = bench.stage._files[0]
    assert [each.record_id for each in file.records(["r1", "r2", "r3", "r4", "r5"])] == ["r1", "r2", "r5"]
    assert {each.offset for each in bench.broker.events(DEAD_LETTERS)} == {3, 4}
    assert file.positions() == {STORE_CHANGES.name: 6}


def test_records_in_bulk_become_durable_by_whole_row_groups_and_the_rest_is_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.stages.index.stage._BUSY", 0)
    monkeypatch.setattr("consumers.adapters.index_file._GROUP", 3)
    lines = [Line(offset, records_of(offset)) for offset in (2, 3, 5, 7, 8, 9, 12, 13)]
    bench.broker.high = 14
    bench.feed_lines(*lines[:2])
    bench.feed_lines(*lines[2:7])
    assert bench.stage._files[0].is_open()
    bench.restart()
    # All up to the second whole group, and where to read on: after a crash, as here, what was open is not there.
    assert bench.stage._files[0].positions() == {STORE_CHANGES.name: 12}
    asked = [f"r{offset}" for offset in range(14)]
    assert {each.record_id for each in bench.stage._files[0].records(asked)} == {"r2", "r3", "r5", "r7", "r8", "r9"}
    bench.feed_lines(*lines[6:])
    assert len(bench.stage._files[0].records(asked)) == 8


def test_every_partition_is_found_at_the_head_though_heartbeats_come_while_others_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look takes up to a second a partition, and a heartbeat comes every five: of twenty-four partitions most would never be
    at the head, and none of these could take the place of an old file.
    """
    bench = Bench(tmp_path, partitions=3)
    broker = bench.broker
    marks = broker.high = 1

    def look(_topic: Topic, _partition: int, _position: int, upto: int) -> bool:
        broker.high += 1
        return upto <= marks

    monkeypatch.setattr(broker, "nothing_between", look)
    bench.clock.at += timedelta(minutes=5)
    bench.stage.tick()
    with bench.index.reading() as readers:
        heads = {status.partition: status.head_at for status in (reader.status() for reader in readers)}
    assert heads == dict.fromkeys(range(3), bench.clock.now())


def names(bench: Bench) -> PartitionNames:
    with bench.index.reading() as (reader,):
        return reader.names()


def test_a_file_says_until_when_it_holds_all_that_was_published_and_a_new_one_says_nothing(bench: Bench) -> None:
    bench.broker.high = 1
    bench.stage.tick()
    assert names(bench).read_to_end_at is None, "a file that was just made has read nothing"
    bench.feed(records_of(1))
    bench.stage.tick()
    assert (names(bench).read_to_end_at, set(names(bench).models)) == (NOW, {"fraud-scorer"})
    bench.clock.at = NOW + timedelta(minutes=5)
    bench.broker.high = 2
    bench.stage.tick()
    bench.restart()
    bench.stage.tick()
    assert names(bench).read_to_end_at == NOW, "what came since is not read"
    bench.restart(lose_file=True)
    bench.stage.tick()
    assert names(bench).read_to_end_at is None


def test_where_something_is_written_all_the_time_the_end_of_before_counts(bench: Bench) -> None:
    """Nobody ever stands at the end there: the file would look older and older, and a rebuilt one would never be used."""
    for minute in range(3):
        bench.clock.at = NOW + timedelta(minutes=minute)
        bench.feed(records_of(minute))
        bench.broker.high += 1
        bench.stage.tick()
    assert names(bench).read_to_end_at == NOW + timedelta(minutes=1)


def test_whoever_waits_for_an_answer_hears_at_once_whether_all_was_read_and_what_the_store_held(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumers.stages.index.stage._UPKEEP_AGAIN_SECONDS", 0.0)
    bench.stage._upkeep_seconds = 3600.0
    bench.broker.high = 2
    bench.stage.tick()
    bench.feed(records_of(1), StoreBeat(beat_at=NOW - timedelta(seconds=2)))
    bench.stage.tick()
    assert (names(bench).read_to_end_at, names(bench).beat_at) == (None, NOW - timedelta(seconds=2))
    bench.clock.at = NOW + timedelta(minutes=1)
    bench.alert()
    assert names(bench).read_to_end_at == NOW + timedelta(minutes=1)


def test_an_old_file_that_answers_while_it_is_rebuilt_promises_nothing(bench: Bench) -> None:
    bench.feed(records_of(1))
    bench.stage.tick()
    bench.index.ask_rebuild(0)
    bench.restart()
    seen = names(bench)
    assert (seen.read_to_end_at, seen.rebuilding, set(seen.models)) == (None, True, {"fraud-scorer"})
    bench.offset = 0
    bench.feed(records_of(1))
    bench.stage.tick()
    assert (names(bench).read_to_end_at, names(bench).rebuilding) == (NOW, False)
