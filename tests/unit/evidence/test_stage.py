"""The evidence stage on a real log, fed by hand: what becomes which leaf, and where it goes on after a crash."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from bridge.contracts.events import (
    AttemptState,
    CaseEvent,
    Channel,
    Coverage,
    DeliveryOutcome,
    DeliveryOutcomes,
    EntityRemoved,
    Event,
    NoticeRead,
    PartitionResolved,
)
from bridge.contracts.topics import CASE_EVENTS, DELIVERY_OUTCOMES, RESOLUTIONS
from bridge.runtime.clock import SetClock
from bridge.runtime.consume import Received
from consumers.case.events import case_event
from consumers.case.permissions import Role
from consumers.evidence.leaves import discover
from consumers.evidence.log import LogWriter
from consumers.evidence.reader import LogFolder, LogReader
from consumers.evidence.verifier import verify_log
from consumers.stages.evidence import Evidence
from tests.unit.evidence.logs import KEY, FailingDisk, PowerFailure, writing

AT = datetime(2026, 11, 23, 21, 30, tzinfo=UTC)
TYPES = discover()
HEX = "ab" * 32
CLOCK = SetClock(AT)


def stage_on(writer: LogWriter, **options: Any) -> Evidence:
    settings: dict[str, Any] = {
        "cluster_id": "c1", "topic_ids": {CASE_EVENTS.name: "T1"}, "secret": b"s" * 32, "clock": CLOCK,
    }  # fmt: skip
    return Evidence(writer, TYPES, **(settings | options))


def received(
    event: Event, offset: int, *, topic: str = CASE_EVENTS.name, partition: int = 0, sent_at: datetime | None = None
) -> Received:
    value = event.model_dump_json().encode()
    sent_ms = 0 if sent_at is None else int(sent_at.timestamp() * 1000)
    return Received(topic, partition, offset, "key", event, False, {}, value, sent_ms)


def acknowledged(**changes: Any) -> CaseEvent:
    event = case_event(
        "incident.acknowledged",
        incident_id="INC-2026-0001",
        actor=HEX,
        role=Role.DPO,
        at=AT,
        body={"state": "verifying"},
    )
    return event.model_copy(update=changes)


def outcome(**changes: Any) -> DeliveryOutcome:
    return DeliveryOutcome(
        outcome_id="0" * 32, incident_id="INC-2026-0001", recipient_id="INC-2026-0001:customer/42", subject_commitment=HEX,
        attempt_id="a1b2c3d4" * 4, attempt_number=1, channel=Channel.EMAIL, provider="ses", state=AttemptState.BOUNCED,
        previous_state=AttemptState.HANDED_OVER, sub_type="General", receipt_kind="bounced_hard", body_commitment=HEX,
        bundle_sha256=HEX, provider_message_sha256=HEX, occurred_at=AT, recorded_at=AT,
    ).model_copy(update=changes)  # fmt: skip


RESOLVED = PartitionResolved(
    incident_id="INC-2026-0001", revision=1, partition=3, partition_count=6, scope_sha256=HEX,
    position_topic="tocsin.store-changes", position_offset=99, affected_count=5, possible_count=2, merkle_root=HEX,
    artefact="INC/1/3.parquet", artefact_sha256=HEX, code_version="0.1.0+abc", retention="compact", duration_seconds=0.25,
    coverage=(Coverage(model_id="fraud", attribute="score", recorded_since=None, untagged_count=4),), resolved_at=AT,
)  # fmt: skip


def leaves_of(folder: Path) -> list[dict[str, Any]]:
    report = verify_log(LogFolder(folder), [KEY.verifier], TYPES)
    assert report.problems == []
    assert report.checkpoint is not None
    return [json.loads(entry) for _, entry in LogReader(LogFolder(folder), report.checkpoint.size).entries()]


def logged(tmp_path: Path, *batch: Received) -> list[dict[str, Any]]:
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer)
        stage.handle(batch, {})
        stage.flush()
    return leaves_of(tmp_path / "log")


def test_the_answer_to_an_exercise_says_so_and_a_real_one_reads_as_ever(tmp_path: Path) -> None:
    drill = RESOLVED.model_copy(update={"exercise": True})
    real, marked = logged(
        tmp_path, received(RESOLVED, 8, topic=RESOLUTIONS.name), received(drill, 9, topic=RESOLUTIONS.name)
    )[-2:]
    assert (real.get("exercise"), marked["exercise"]) == (None, True)


def test_every_sort_of_message_becomes_its_leaf_with_its_source(tmp_path: Path) -> None:
    leaves = logged(
        tmp_path,
        received(acknowledged(), 4),
        received(outcome(), 0, topic=DELIVERY_OUTCOMES.name, partition=2),
        received(NoticeRead(notice_id="n1", customer_id=42, read_at=AT), 1, topic=DELIVERY_OUTCOMES.name, partition=2),
        received(RESOLVED, 8, topic=RESOLUTIONS.name),
    )
    assert [leaf["type"] for leaf in leaves] == [
        "tocsin.case.incident.acknowledged", "tocsin.delivery-outcome", "tocsin.notice-read", "tocsin.partition-resolved",
    ]  # fmt: skip
    assert leaves[0]["source"] == {
        "cluster": "c1", "topic": "tocsin.case-events", "topic_id": "T1", "partition": 0, "offset": 4,
    }  # fmt: skip
    assert leaves[0]["body"] == {"state": "verifying"}
    assert (leaves[0]["actor"], leaves[0]["role"]) == (HEX, "dpo")
    assert (leaves[1]["subject"], leaves[1]["attempt_number"], leaves[1]["state"]) == (HEX, 1, "bounced")
    assert (leaves[3]["members_root"], leaves[3]["untagged_count"]) == (HEX, 4)
    assert not any("unlisted_count" in leaf for leaf in leaves)


def test_no_id_that_points_to_a_person_is_logged(tmp_path: Path) -> None:
    logged(
        tmp_path,
        received(outcome(), 0, topic=DELIVERY_OUTCOMES.name),
        received(NoticeRead(notice_id="a1b2c3d4" * 4, customer_id=98765, read_at=AT), 1, topic=DELIVERY_OUTCOMES.name),
    )
    whole = b"".join(file.read_bytes() for file in (tmp_path / "log").rglob("*") if file.is_file())
    for value in (b"customer/42", b"98765", b"a1b2c3d4", b"recipient", b"attempt_id", b"customer_id"):
        assert value not in whole


def unlisted_count() -> float:
    return REGISTRY.get_sample_value("tocsin_evidence_unlisted_total") or 0.0


@pytest.mark.parametrize(
    "event",
    [
        CaseEvent(case_event_id="1", kind="made.up", incident_id=None, actor=None, occurred_at=AT, body={"name": "Anna Example"}),
        EntityRemoved(root="customer/42", key="customer/42"),
    ],
)  # fmt: skip
def test_a_kind_that_is_not_listed_is_neither_lost_nor_leaked(tmp_path: Path, event: Event) -> None:
    before = unlisted_count()
    (leaf,) = logged(tmp_path, received(event, 0))
    assert leaf["type"] == "tocsin.unlisted"
    assert len(leaf["unlisted_hmac"]) == len(leaf["kind_sha256"]) == 64
    assert unlisted_count() == before + 1
    whole = b"".join(file.read_bytes() for file in (tmp_path / "log").rglob("*") if file.is_file())
    assert b"Anna" not in whole
    assert b"customer/42" not in whole
    assert b"made.up" not in whole


@pytest.mark.parametrize(
    "body",
    [
        {"state": "verifying", "note": "Anna Example"}, {"state": "Anna Example"}, {"state": 7}, {"Anna Example": 1},
        {"state": ["a" * 20_000]},
    ],
)  # fmt: skip
def test_a_field_that_is_not_listed_is_left_out_and_hashed_and_the_rest_is_logged(
    tmp_path: Path, body: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = unlisted_count()
    (leaf,) = logged(tmp_path, received(acknowledged(body=body), 0))
    assert leaf["type"] == "tocsin.case.incident.acknowledged"
    assert leaf["actor"] == HEX
    assert leaf["unlisted_count"] == 1
    assert len(leaf["unlisted_hmac"]) == 64
    assert unlisted_count() == before + 1
    assert "Anna" not in json.dumps(leaf)
    assert "Anna" not in "".join(capsys.readouterr())


def test_a_providers_free_text_is_left_out_of_an_outcome(tmp_path: Path) -> None:
    (leaf,) = logged(
        tmp_path, received(outcome(sub_type="550 unknown user anna@x.example"), 0, topic=DELIVERY_OUTCOMES.name)
    )
    assert leaf["type"] == "tocsin.delivery-outcome"
    assert leaf["state"] == "bounced"
    assert "sub_type" not in leaf
    assert leaf["unlisted_count"] == 1


def test_the_keyed_hash_depends_on_message_and_secret(tmp_path: Path) -> None:
    event = EntityRemoved(root="customer/42", key="customer/42")
    hashes = []
    for number, secret in enumerate((b"a" * 32, b"a" * 32, b"b" * 32)):
        with writing(tmp_path / f"{number}") as writer:
            stage = stage_on(writer, secret=secret)
            stage.handle([received(event, 0)], {})
            stage.flush()
        hashes.append(leaves_of(tmp_path / f"{number}")[0]["unlisted_hmac"])
    assert hashes[0] == hashes[1] != hashes[2]


ASSIGNMENT = [(CASE_EVENTS.name, 0), (DELIVERY_OUTCOMES.name, 0), (DELIVERY_OUTCOMES.name, 1)]


def test_the_position_is_found_in_the_logs_tail(tmp_path: Path) -> None:
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer)
        assert stage.assigned(ASSIGNMENT) == {}
        stage.handle([received(acknowledged(), 10), received(outcome(), 3, topic=DELIVERY_OUTCOMES.name)], {})
        # Never signed: the process dies here.
        unsigned = received(acknowledged(), 11)
        stage.flush()
        stage.handle([unsigned], {})
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer)
        assert stage.assigned(ASSIGNMENT) == {(CASE_EVENTS.name, 0): 11, (DELIVERY_OUTCOMES.name, 0): 4}


def test_a_pack_gives_a_leaf_for_each_event_under_one_offset_whole_or_not_at_all(tmp_path: Path) -> None:
    moved = [outcome(attempt_number=number) for number in range(4)]
    moved[2] = outcome(sub_type="550 unknown user anna@x.example")
    pack = received(DeliveryOutcomes(events=(*moved, moved[3])), 7, topic=DELIVERY_OUTCOMES.name)
    later = received(outcome(), 8, topic=DELIVERY_OUTCOMES.name)
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer, batch_size=2)
        stage.handle([pack], {})
        assert writer.size == 4, "what it says twice stands there once"
        stage.handle([pack, later], {})  # never signed
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer)
        assert stage.assigned(ASSIGNMENT) == {(DELIVERY_OUTCOMES.name, 0): 8}
        stage.handle([pack, later], {})
        stage.flush()
    leaves = leaves_of(tmp_path / "log")
    assert [(leaf["source"]["offset"], leaf["attempt_number"]) for leaf in leaves] == [
        (7, 0), (7, 1), (7, 1), (7, 3), (8, 1),
    ]  # fmt: skip
    assert [leaf.get("unlisted_count") for leaf in leaves] == [None, None, 1, None, None]
    # an event of a pack is recognised by the same keyed hash as if it had come alone
    (alone,) = logged(tmp_path / "alone", received(moved[2], 0, topic=DELIVERY_OUTCOMES.name))
    assert alone["unlisted_hmac"] == leaves[2]["unlisted_hmac"]


def test_a_record_that_is_logged_twice_is_found_also_when_it_held_many_events(tmp_path: Path) -> None:
    pack = received(DeliveryOutcomes(events=(outcome(), outcome(attempt_number=2))), 7, topic=DELIVERY_OUTCOMES.name)
    with writing(tmp_path / "log") as writer:
        for _ in range(2):
            stage = stage_on(writer)
            stage._next.clear()  # as a stage that forgot its position
            stage.handle([pack], {})
            stage.flush()
    (problem,) = verify_log(LogFolder(tmp_path / "log"), [KEY.verifier], TYPES).problems
    assert "entry 2: offset 7 of tocsin.delivery-outcomes, partition 0, after 7: logged twice" in problem


def test_what_is_read_again_is_not_logged_again(tmp_path: Path) -> None:
    batch = [received(acknowledged(), offset) for offset in range(5)]
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer)
        stage.handle(batch, {})
        stage.handle(batch[2:], {})
        stage.flush()
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer)
        stage.handle([*batch, received(acknowledged(), 5)], {})
        stage.flush()
    assert [leaf["source"]["offset"] for leaf in leaves_of(tmp_path / "log")] == list(range(6))


def test_a_topic_made_anew_starts_from_its_beginning(tmp_path: Path) -> None:
    for options in ({}, {"topic_ids": {CASE_EVENTS.name: "T2"}}, {"cluster_id": "c2"}):
        with writing(tmp_path / "log") as writer:
            stage = stage_on(writer, **options)
            assert stage.assigned(ASSIGNMENT) == {}
            stage.handle([received(acknowledged(), 0)], {})
            stage.flush()
    assert len(leaves_of(tmp_path / "log")) == 3
    with writing(tmp_path / "log") as writer:
        assert stage_on(writer).assigned(ASSIGNMENT) == {(CASE_EVENTS.name, 0): 1}


def test_positions_are_repeated_so_that_a_restart_reads_little(tmp_path: Path) -> None:
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer, topic_ids={})
        stage.handle([received(outcome(), 8, topic=DELIVERY_OUTCOMES.name, partition=p) for p in range(90)], {})
        for start in range(0, 9000, 1000):
            stage.handle([received(acknowledged(), offset) for offset in range(start, start + 1000)], {})
        stage.flush()
        size = writer.size

        class Counting:
            """The log, counting how far back it is read."""

            size = writer.size
            read = 0

            def append(self, entries: Sequence[bytes]) -> range:
                return writer.append(entries)

            def backwards(self) -> Any:
                for item in writer.backwards():
                    Counting.read += 1
                    yield item

        recovered = Evidence(Counting(), TYPES, cluster_id="c1", topic_ids={}, secret=b"s" * 32, clock=CLOCK).assigned(
            [(CASE_EVENTS.name, 0), *((DELIVERY_OUTCOMES.name, p) for p in range(90))]
        )
    assert recovered == {(CASE_EVENTS.name, 0): 9000} | {(DELIVERY_OUTCOMES.name, p): 9 for p in range(90)}
    assert Counting.read < 4096 + 1000 < size


def test_leaves_are_signed_when_due_when_many_when_the_clock_jumps_back_and_on_revocation(tmp_path: Path) -> None:
    clock = SetClock(AT)
    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer, clock=clock, batch_seconds=0.5, batch_size=10)
        stage.handle([received(acknowledged(), 0)], {})
        stage.tick()
        assert writer.size == 0
        clock.at += timedelta(seconds=0.5)
        stage.tick()
        assert writer.size == 1
        stage.handle([received(acknowledged(), offset) for offset in range(1, 11)], {})
        assert writer.size == 11
        stage.handle([received(acknowledged(), 11)], {})
        clock.at -= timedelta(hours=1)
        stage.tick()
        assert writer.size == 12
        stage.handle([received(acknowledged(), 12)], {})
        stage.revoked(ASSIGNMENT)
        assert writer.size == 13
        stage.tick()
        assert writer.size == 13


def test_how_far_the_log_is_behind_is_told(tmp_path: Path) -> None:
    clock = SetClock(AT)

    def behind() -> float:
        return REGISTRY.get_sample_value("tocsin_evidence_oldest_unlogged_seconds") or 0.0

    def after(seconds: float) -> None:
        clock.at += timedelta(seconds=seconds)

    with writing(tmp_path / "log") as writer:
        stage = stage_on(writer, clock=clock, batch_seconds=0.5, batch_size=2)
        after(30)
        assert behind() == 30, "it has no partitions yet"
        stage.assigned(ASSIGNMENT)
        stage.tick()
        assert behind() == 0

        old = AT - timedelta(minutes=10)
        stage.handle([received(acknowledged(), 0, sent_at=old), received(acknowledged(), 1, sent_at=AT)], {})
        stage.tick()
        assert writer.size == 2
        assert behind() == 630, "what was read last was that old, and more may lie behind it"
        stage.handle([received(acknowledged(), 2, sent_at=AT + timedelta(seconds=29))], {})
        assert behind() == 1
        stage.tick()
        after(0.6)
        stage.tick()
        assert writer.size == 3
        stage.tick()
        assert behind() == 0, "nothing more came"

        after(60)
        assert behind() == 60, "the loop stands"
        stage.tick()
        assert behind() == 0
        stage.handle([received(acknowledged(), 3, sent_at=clock.at + timedelta(seconds=5))], {})
        assert behind() == 0, "a producer's clock may be ahead"
        stage.revoked(ASSIGNMENT)
        stage.tick()
        stage.tick()
        after(7)
        stage.tick()
        assert behind() == 7, "its partitions are gone"


def test_a_crash_at_any_file_operation_loses_and_doubles_nothing(tmp_path: Path) -> None:
    messages = [received(acknowledged(), offset) for offset in range(30)]
    fail_at, done = 0, False
    while not done:
        folder = tmp_path / f"{fail_at}" / "log"
        folder.parent.mkdir()
        try:
            with writing(folder, disk=FailingDisk(fail_at)) as writer:
                stage = stage_on(writer)
                for start in (0, 10, 20):
                    stage.handle(messages[start : start + 10], {})
                    stage.flush()
            done = True
        except PowerFailure:
            with writing(folder) as writer:
                stage = stage_on(writer)
                position = stage.assigned([(CASE_EVENTS.name, 0)]).get((CASE_EVENTS.name, 0), 0)
                stage.handle(messages[position:], {})
                stage.flush()
        assert [leaf["source"]["offset"] for leaf in leaves_of(folder)] == list(range(30))
        fail_at += 1
    assert fail_at > 20
