"""Generations of the compacted topics that must be co-partitioned: how a topic gets more partitions without moving a root.

A partition count never changes in place. A new generation is a pair of topics beside the old pair; while it is filled, writers
write to both. The empty topic `<topic>.g<n>.active` is the switch: it is there for every client to see, and creating it is
atomic. Nobody else needs to be told, and no process needs a setting.
"""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bridge.contracts.errors import TocsinError, Unreachable
from bridge.contracts.topics import DEPARTED_CUSTOMERS, STORE_CHANGES, Topic
from bridge.runtime.kafka_auth import confluent_auth
from bridge.runtime.settings import Kafka

GENERATIONAL: tuple[Topic, ...] = (STORE_CHANGES, DEPARTED_CUSTOMERS)
"""Switched together: a worker needs a root's departed customers where it has its records."""
_NAMES = frozenset(topic.name for topic in GENERATIONAL)
LOOK_SECONDS = 2.0
"""How often writers and readers look whether the generation changed."""


class GenerationSwitched(TocsinError):
    """Another generation is read now: begin anew with it."""


@dataclass(frozen=True, slots=True)
class Generations:
    """Which generation is read, and which one is being filled beside it."""

    active: int = 1
    filling: int | None = None


def topic_name(prefix: str, name: str, generation: int) -> str:
    """Return the name on the cluster of a topic's generation; topics without generations have one."""
    return f"{prefix}{name}.g{generation}" if generation > 1 and name in _NAMES else f"{prefix}{name}"


def marker_name(prefix: str, generation: int) -> str:
    """Return the name of the topic whose presence says that `generation` is read."""
    return f"{prefix}{STORE_CHANGES.name}.g{generation}.active"


def generations_in(names: Iterable[str], prefix: str) -> Generations:
    """Return the generations that a cluster with topics `names` has. Half a pair does not count: it is being made."""
    here = frozenset(names)
    found = re.compile(re.escape(f"{prefix}{STORE_CHANGES.name}.g") + r"([0-9]+)")
    numbers = [int(match[1]) for match in map(found.fullmatch, here) if match]
    whole = [each for each in numbers if all(topic_name(prefix, topic.name, each) in here for topic in GENERATIONAL)]
    active = max((each for each in whole if marker_name(prefix, each) in here), default=1)
    return Generations(active, max((each for each in whole if each > active), default=None))


def ask_generations(kafka: Kafka) -> Generations:
    """Ask the cluster. Raises Unreachable."""
    if kafka.embedded:
        return Generations()
    config: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": 2}
    client = AdminClient(config | confluent_auth(kafka))
    try:
        return generations_in(client.list_topics(timeout=15).topics, kafka.topic_prefix)
    except KafkaException as error:
        raise Unreachable(f"Kafka does not answer: {error.args[0].str()}; check kafka.bootstrap_servers") from error


_pinned: dict[tuple[str, str], int] = {}
_lock = threading.Lock()


def pinned(kafka: Kafka) -> int:
    """Return the generation that this process reads: the one that was active when it first asked. Raises Unreachable."""
    key = (kafka.bootstrap_servers, kafka.topic_prefix)
    with _lock:
        if key not in _pinned:
            _pinned[key] = ask_generations(kafka).active
        return _pinned[key]


def unpin(kafka: Kafka) -> None:
    """Ask anew next time."""
    with _lock:
        _pinned.pop((kafka.bootstrap_servers, kafka.topic_prefix), None)


def read_name(kafka: Kafka, name: str) -> str:
    """Return the name on the cluster of what this process reads under a declared name. Raises Unreachable."""
    return topic_name(kafka.topic_prefix, name, pinned(kafka) if name in _NAMES else 1)


def has_generations(topic: Topic) -> bool:
    """Return whether a topic is switched by generations."""
    return topic.name in _NAMES
