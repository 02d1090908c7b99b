"""Receipts: nothing leaves the queue before the ledger has it, and what cannot be read is kept with its bytes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import AttemptState, Channel, DeliveryOutcome, Event, NoticeRead
from bridge.runtime.consume import Received
from bridge.runtime.dead_letters import TooManyDeadLetters
from bridge.runtime.kafka import Positions
from bridge.runtime.telemetry import Health
from consumers.domain.ledger import Handed
from consumers.domain.sending import Receipt, ReceiptDelivery, ReceiptKind
from consumers.stages import receipts
from consumers.stages.receipts import BEHIND, BY_KIND, FORGOTTEN, Receipts

NOW = datetime(2026, 3, 1, tzinfo=UTC)
AFTER = {("tocsin.delivery-outcomes", 1): 9}


class World:
    """Ledger, queue and dead letters, with a journal of the order."""

    name = "sqs"

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.waiting: list[ReceiptDelivery] = []
        self.settled: list[str] = []
        self.receipts: list[Receipt] = []
        self.after: list[tuple[str, Positions | None]] = []
        self.letters: list[tuple[Any, ...]] = []
        self.fail: dict[str, Exception] = {}
        self.room = 100
        self.forgotten = 0
        self.health = Health()
        self.health.ready()
        self.receipts_stage = Receipts(self, [self], self, self.health, lambda raw: b"sealed:" + raw)  # type: ignore[arg-type]  # as DeadLetters

    def _did(self, what: str) -> None:
        if what in self.fail:
            raise self.fail[what]
        self.journal.append(what)

    # the ledger

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions:
        return dict.fromkeys(partitions, 5)

    def forget_strays(self) -> int:
        self.forgotten += 1
        return self.forgotten

    def settle_receipts(
        self, receipts: Sequence[Receipt], *, stage: str = "", after: Positions | None = None
    ) -> Handed:
        self._did("ledger")
        known = {receipt.provider_event_id for receipt in self.receipts}
        fresh = [receipt for receipt in receipts if receipt.provider_event_id not in known]
        self.receipts.extend(fresh)
        self.after.append((stage, after))
        repeats = frozenset((each.provider, each.provider_event_id) for each in receipts if each not in fresh)
        return Handed(len(fresh), 0, len(receipts) - len(fresh), known=repeats)

    # the queue

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:
        self._did("receive")
        return [delivery for delivery in self.waiting if delivery.handle not in self.settled][:limit]

    def settle(self, handles: Sequence[str]) -> None:
        self._did("settle")
        self.settled.extend(handles)

    # dead letters

    def put_raw(self, *parts: Any) -> None:
        self._did("letter")
        if not self.room:
            raise TooManyDeadLetters("stopped")
        self.room -= 1
        self.letters.append(parts)

    def flush(self) -> None:
        self._did("flush")


def receipt(name: str, kind: ReceiptKind = ReceiptKind.DELIVERED) -> Receipt:
    return Receipt("ses", name, f"m-{name}", None, kind, None, NOW, "0" * 64)


def delivery(name: str) -> ReceiptDelivery:
    return ReceiptDelivery(f"h-{name}", [receipt(name)], raw=name.encode())


UNREADABLE = ReceiptDelivery("h-bad", [], error="not an SNS envelope", raw=b"\x00garbage")


@pytest.fixture
def world() -> World:
    return World()


def test_what_was_kept_aside_too_long_is_removed_once_an_hour_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: at[0])
    before = FORGOTTEN._value.get()
    for minutes in (0, 1, 59, 61, 62):
        at[0] = 1000.0 + 60 * minutes
        world.receipts_stage.tick()
    assert world.forgotten == 2
    assert FORGOTTEN._value.get() == before + 1 + 2


def test_the_queue_is_settled_only_after_the_ledger(world: World) -> None:
    world.waiting = [delivery("1"), UNREADABLE]
    assert world.receipts_stage.drain_once(world) == 2
    assert world.journal == ["receive", "letter", "flush", "ledger", "settle"]
    assert world.settled == ["h-1", "h-bad"]


@pytest.mark.parametrize("step", ["ledger", "flush", "letter"])
def test_a_failure_before_the_end_leaves_everything_in_the_queue(world: World, step: str) -> None:
    world.waiting = [delivery("1"), UNREADABLE]
    world.fail[step] = Unreachable("gone")
    with pytest.raises(Unreachable):
        world.receipts_stage.drain_once(world)
    assert world.settled == []


def test_a_crash_after_the_ledger_repeats_and_changes_nothing(world: World) -> None:
    world.waiting = [delivery("1")]
    world.fail["settle"] = Unreachable("gone")
    with pytest.raises(Unreachable):
        world.receipts_stage.drain_once(world)
    del world.fail["settle"]
    assert world.receipts_stage.drain_once(world) == 1
    assert ([r.provider_event_id for r in world.receipts], world.settled) == (["1"], ["h-1"])


def test_an_unreadable_message_is_kept_sealed_and_with_its_reason(world: World) -> None:
    world.waiting = [UNREADABLE, UNREADABLE]
    world.receipts_stage.drain_once(world)
    topic, _partition, offset, _key, value, _headers, reason = world.letters[0]
    assert (topic, value, reason) == ("queue:sqs", b"sealed:\x00garbage", "not an SNS envelope")
    assert world.letters[1][2] == offset, "the same bytes again are the same dead letter"


def test_unreadable_ones_past_the_bound_stay_in_the_queue_and_hold_up_no_other(world: World) -> None:
    bad = [
        ReceiptDelivery(f"bad-{number}", [], error="not an SNS envelope", raw=bytes([number])) for number in range(3)
    ]
    world.waiting = [*bad, delivery("1")]
    world.room = 1
    assert world.receipts_stage.drain_once(world) == 2
    assert (world.settled, len(world.letters)) == (["bad-0", "h-1"], 1)
    assert world.health.reasons() == {"dead letters of sqs": "stopped"}
    world.room = 2
    assert world.receipts_stage.drain_once(world) == 2
    assert world.settled == ["bad-0", "h-1", "bad-1", "bad-2"]
    assert (world.health.reasons(), len(world.letters)) == ({}, 3)


def test_an_unreachable_queue_is_waited_for_and_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "_LOOK_AGAIN_SECONDS", 0.0)
    world.waiting = [delivery("1")]
    world.fail["receive"] = Unreachable("no answer")
    world.receipts_stage.tick()
    assert world.health.reasons() == {"sqs": "no answer"}
    del world.fail["receive"]
    world.receipts_stage.tick()
    assert (world.health.reasons(), world.settled) == ({}, ["h-1"])


def test_a_tick_empties_the_queue_in_portions_and_an_empty_one_is_not_asked_at_every_tick(world: World) -> None:
    world.waiting = [delivery(str(number)) for number in range(2500)]
    for _ in range(3):
        world.receipts_stage.tick()
    assert (len(world.settled), world.journal.count("settle"), world.journal.count("receive")) == (2500, 3, 4)


class Source:
    """A queue in which `left` portions wait; each takes `seconds` of `clock` to read."""

    def __init__(self, name: str, left: int, seconds: float, clock: list[float]) -> None:
        self.name, self.left, self.seconds, self.clock = name, left, seconds, clock
        self.received = 0

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:
        self.clock[0] += self.seconds
        if not self.left:
            return []
        self.left -= 1
        self.received += 1
        return [delivery(f"{self.name}-{self.left}")]

    def settle(self, handles: Sequence[str]) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize("seconds", [0.3, 3.0])
def test_texts_do_not_queue_behind_mail(world: World, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    clock = [0.0]
    monkeypatch.setattr(receipts, "time", SimpleNamespace(monotonic=lambda: clock[0], time=lambda: clock[0]))
    mails, texts, letters = (Source(name, 1000, seconds, clock) for name in ("sqs", "cloudwatch", "letters"))
    stage = Receipts(world, [mails, texts, letters], world, world.health, bytes)  # type: ignore[arg-type]  # as DeadLetters
    for _ in range(6):
        stage.tick()
    assert max(each.received for each in (mails, texts, letters)) < 1000
    assert min(each.received for each in (mails, texts, letters)) >= 2


def test_what_is_another_installations_stays_in_its_queue(world: World) -> None:
    said = ["the store says it is another one"]
    stage = Receipts(world, [world], world, world.health, bytes, stands_still=lambda: said[0])  # type: ignore[arg-type]  # as DeadLetters
    world.waiting = [delivery("1")]
    stage.tick()
    assert world.journal == []
    assert world.health.reasons() == {"live": "no receipt is taken: the store says it is another one"}
    said[0] = ""
    stage.tick()
    assert (world.settled, world.health.reasons()) == (["h-1"], {})


def test_what_is_read_again_is_neither_counted_anew_nor_behind(world: World) -> None:
    """Logs are read again for days back, once an hour and after each start; a queue may lend a message out twice."""

    def told() -> float:
        return float(BY_KIND.labels("ses", "delivered", "none")._value.get())

    world.waiting = [delivery("1"), delivery("1")]
    before = told()
    world.receipts_stage.drain_once(world)
    assert told() == before + 1
    assert BEHIND._value.get() > 0
    world.settled.clear()
    world.receipts_stage.drain_once(world)
    assert (told(), BEHIND._value.get()) == (before + 1, 0)
    world.settled.clear()
    world.waiting.append(delivery("2"))
    world.receipts_stage.drain_once(world)
    assert told() == before + 2


def test_a_read_notice_settles_its_attempt_and_moves_the_position(world: World) -> None:
    read = NoticeRead(notice_id="a1", customer_id=4, read_at=NOW)
    ours = DeliveryOutcome(
        outcome_id="o", incident_id="INC-2026-0001", recipient_id="r", subject_commitment="0" * 64, attempt_id="a1",
        attempt_number=1, channel=Channel.EMAIL, provider="ses", state=AttemptState.DELIVERED,
        previous_state=AttemptState.HANDED_OVER, occurred_at=NOW, recorded_at=NOW,
    )  # fmt: skip
    world.receipts_stage.handle([received(read), received(ours)], AFTER)
    (kept,) = world.receipts
    assert (kept.provider, kept.attempt_id, kept.kind, kept.occurred_at) == ("store", "a1", ReceiptKind.READ, NOW)
    assert world.after == [("receipts", AFTER)]


def test_a_batch_of_our_own_outcomes_moves_the_position_alone(world: World) -> None:
    world.receipts_stage.handle([], AFTER)
    assert (world.receipts, world.after) == ([], [("receipts", AFTER)])


def test_positions_after_our_own_outcomes_are_written_now_and_then_with_the_next_reads_or_by_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place,) = AFTER
    other, stage = (place[0], place[1] + 1), world.receipts_stage
    for offset in (9, 10, 11):
        stage.handle([], {place: offset})
    stage.tick()
    assert world.after == [("receipts", {place: 9})]
    stage.handle([received(NoticeRead(notice_id="a1", customer_id=4, read_at=NOW))], {other: 2})
    assert world.after[1:] == [("receipts", {place: 11, other: 2})]
    monkeypatch.setattr(receipts, "_POSITION_SECONDS", 0.0)
    for offset in (12, 13):
        stage.handle([], {place: offset, other: 3})
        stage._write_at = float("inf")
    stage.revoked([place])  # whoever has it now may be further
    stage._write_at = 0.0
    stage.tick()
    stage.tick()
    assert world.after[2:] == [("receipts", {other: 3})]


def test_the_same_read_twice_has_one_identity(world: World) -> None:
    for _ in range(2):
        world.receipts_stage.handle([received(NoticeRead(notice_id="a1", customer_id=4, read_at=NOW))], AFTER)
    assert len(world.receipts) == 1


def test_reading_begins_where_the_ledger_says(world: World) -> None:
    assert world.receipts_stage.assigned([("tocsin.delivery-outcomes", 1)]) == {("tocsin.delivery-outcomes", 1): 5}


def received(event: Event) -> Received:
    return Received("tocsin.delivery-outcomes", 1, 8, "k", event, False, {}, None)
