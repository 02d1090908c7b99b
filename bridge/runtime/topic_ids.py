"""Topics by the ids that the broker gives them: one that was deleted and made anew has another, and other messages at its
offsets. A position is of one topic id.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from bridge.contracts.errors import Unreachable
from bridge.contracts.topics import Topic
from bridge.runtime.generations import read_name
from bridge.runtime.kafka import client_settings
from bridge.runtime.settings import Kafka

_TIMEOUT_SECONDS = 15.0
_LOOK_SECONDS = 2.0
"""How often a reader looks. Until it has, it reads a topic that was made anew under the former id: the position it keeps says
so, and what it read is read again.
"""


class TopicIds(Mapping[str, str]):
    """The ids of `topics` by logical name, as they were when last asked; without those that the broker does not tell.

    None on the embedded cluster, which cannot tell them: it lives in memory, and each has a cluster id of its own. Needs the
    right to describe these topics, no other. One thread.
    """

    def __init__(self, kafka: Kafka, topics: Sequence[Topic]) -> None:
        self._kafka = kafka
        self._topics = tuple(topics)
        self._known: dict[str, str] = {}
        self._described: set[str] = set()
        self._client: AdminClient | None = None
        self._under_way: dict[str, Future[Any]] = {}
        self._look_at = 0.0

    def __getitem__(self, topic: str) -> str:
        return self._known[topic]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def ask(self) -> bool:
        """Ask the broker; return whether a topic has another id than before. Raises Unreachable if one was never described."""
        if self._kafka.embedded:
            return False
        self._begin()
        return self._take_answers()

    def have_changed(self) -> bool:
        """Return whether a topic has another id than before. Asks now and then, and waits for no answer."""
        if self._kafka.embedded:
            return False
        if self._under_way:
            return all(future.done() for future in self._under_way.values()) and self._take_answers()
        if time.monotonic() >= self._look_at:
            self._begin()
        return False

    def _begin(self) -> None:
        self._look_at = time.monotonic() + _LOOK_SECONDS
        if self._client is None:
            # Held until the answers are here: a client that is collected ends its own requests.
            self._client = AdminClient(client_settings(self._kafka))
        names = {read_name(self._kafka, topic.name): topic.name for topic in self._topics}
        asked = self._client.describe_topics(TopicCollection(list(names)), request_timeout=_TIMEOUT_SECONDS)
        self._under_way = {names[name]: future for name, future in asked.items()}

    def _take_answers(self) -> bool:
        answers, self._under_way = self._under_way, {}
        changed = False
        for topic, future in answers.items():
            try:
                topic_id = spelled_as_kafka_does(str(future.result().topic_id))
            except KafkaException as error:
                # A topic that is away, or a broker, says of none that it is another.
                if topic not in self._described:
                    raise Unreachable(f"Kafka does not describe topic {topic}: {error.args[0].str()}") from error
                continue
            self._described.add(topic)
            if topic_id is not None:
                changed |= self._known.get(topic, topic_id) != topic_id
                self._known[topic] = topic_id
        return changed


def spelled_as_kafka_does(topic_id: str) -> str | None:
    """Return a topic id in URL-safe base64, or None for the zero id of a broker without ids.

    librdkafka writes standard base64: the same topic must not have two names in the log.
    """
    if topic_id.strip("A=") in ("", "None"):
        return None
    return topic_id.replace("+", "-").replace("/", "_").rstrip("=")
