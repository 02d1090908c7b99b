"""Queues: lent out, not lost; due in time; deleted for good."""

from datetime import UTC, datetime, timedelta

from consumers.sandbox.queues import Item, Queue

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _queue(*due_seconds: int) -> Queue:
    queue = Queue("q", "arn", {})
    for number, seconds in enumerate(due_seconds):
        at = NOW + timedelta(seconds=seconds)
        queue.put(Item(str(number), at, at, lambda _url: ""))
    return queue


def test_messages_come_when_due_and_again_when_not_deleted() -> None:
    queue = _queue(0, 5)
    assert [item.id for item in queue.take(10, NOW, 30)] == ["0"]
    assert queue.take(10, NOW, 30) == []
    assert queue.next_due_at() == NOW + timedelta(seconds=5)
    later = NOW + timedelta(seconds=30)
    assert [(item.id, item.receives) for item in queue.take(10, later, 30)] == [("1", 1), ("0", 2)]


def test_a_deleted_message_never_comes_again() -> None:
    queue = _queue(0, 0, 0)
    queue.take(2, NOW, 0)
    queue.delete("0")
    queue.delete("0")
    assert {item.id for item in queue.take(10, NOW, 30)} == {"1", "2"}
    assert queue.counts(NOW) == (0, 2)


def test_without_a_visibility_timeout_one_receive_never_returns_a_message_twice() -> None:
    assert [item.id for item in _queue(0, 0).take(10, NOW, 0)] == ["0", "1"]
