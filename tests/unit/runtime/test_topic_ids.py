"""Topic ids as the broker and its client spell them."""

from bridge.runtime.topic_ids import spelled_as_kafka_does


def test_a_topic_id_has_one_spelling() -> None:
    assert spelled_as_kafka_does("5q+/9Lf6ZfBg0123456789==") == "5q-_9Lf6ZfBg0123456789"
    assert spelled_as_kafka_does("5q-_9Lf6ZfBg0123456789") == "5q-_9Lf6ZfBg0123456789"
    assert spelled_as_kafka_does("A" * 22) is None
