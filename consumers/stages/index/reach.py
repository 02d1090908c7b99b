"""How far the topics reach, and whether a partition's file has read so far."""

from collections.abc import Mapping
from datetime import datetime

from bridge.contracts.topics import Topic
from consumers.stages.index.messages import SOURCES
from consumers.stages.index.ports import Heads


class Reach:
    """Compares a partition's positions with the ends of its topics. Remembers what the broker need not be asked again."""

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._stood_at: dict[int, Mapping[str, int]] = {}
        self._empty: dict[tuple[str, int], tuple[int, int]] = {}
        self._ends: dict[int, tuple[datetime, Mapping[str, int]]] = {}
        """How far the topics reached when that was last asked, by partition: what is read up to there was all at that time."""

    def assigned(self, partition: int) -> None:
        """Forget what was known of a partition that begins."""
        for each in SOURCES:
            # it may be another topic: where that one held nothing, this one may hold people
            self._empty.pop((each.name, partition), None)
        self._ends.pop(partition, None)

    def revoked(self, partition: int) -> None:
        """Forget where a partition stood that another worker has now."""
        self._stood_at.pop(partition, None)
        self._ends.pop(partition, None)

    def ends_of(self, partition: int) -> Mapping[str, int]:
        """Return how far the topics reach now, by name."""
        return {topic.name: self._heads.bounds(topic, partition)[1] for topic in SOURCES}

    def stands(self, partition: int, positions: Mapping[str, int]) -> None:
        """Note where a partition stands that has not reached its target: if it still does next time, the broker is asked."""
        self._stood_at[partition] = positions

    def reached(self, partition: int, positions: Mapping[str, int], target: Mapping[str, int]) -> bool:
        """Return whether all that lay before `target` is read."""
        for topic in SOURCES:
            position, wanted = positions.get(topic.name, 0), target[topic.name]
            if position >= wanted or self._known_empty(topic, partition, position, wanted):
                continue
            # Asking the broker takes a second: only for a reader that stands still, so before markers of transactions.
            stood_at = self._stood_at.get(partition)
            if stood_at is None or stood_at.get(topic.name, 0) != position:
                return False
            if not self._at_head(topic, partition, position, wanted):
                return False
        return True

    def complete_at(
        self, partition: int, positions: Mapping[str, int], now: datetime, ends: Mapping[str, int]
    ) -> datetime | None:
        """Return the last time of which it is known that the file holds all that was published before; None: of none.

        `ends` is how far the topics reach now. Where something is written all the time nobody ever stands there, but at what
        was the end when it was asked before.
        """

        def holds(upto: Mapping[str, int]) -> bool:
            return all(
                self._at_head(topic, partition, positions.get(topic.name, 0), upto[topic.name]) for topic in SOURCES
            )

        former = self._ends.get(partition)
        if former is not None and not holds(former[1]):
            return None
        self._ends[partition] = (now, ends)
        if holds(ends):
            return now
        return None if former is None else former[0]

    def _known_empty(self, topic: Topic, partition: int, position: int, upto: int) -> bool:
        start, end = self._empty.get((topic.name, partition), (0, 0))
        return position == start and upto <= end

    def _at_head(self, topic: Topic, partition: int, position: int, upto: int) -> bool:
        """Return whether everything readable before `upto` is read, and remember it: a topic uses no offset again."""
        if position >= upto or self._known_empty(topic, partition, position, upto):
            return True
        if self._heads.nothing_between(topic, partition, position, upto):
            self._empty[topic.name, partition] = (position, upto)
            return True
        return False
