"""One SQS queue: messages that fall due, are lent out for a while, and come again unless they are deleted.

In memory; `state` rebuilds it from the journal, so that after a restart what was not deleted is there again (and what
was lent out is due at once, as at-least-once allows).
"""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count


@dataclass(slots=True)
class Item:
    """One message of a queue. `compose` writes its body, given the address by which the receiver reached us."""

    id: str
    queued_at: datetime
    visible_at: datetime
    compose: Callable[[str], str] = field(repr=False)
    receives: int = 0


class Queue:
    """A standard queue. Not thread-safe: the state's lock guards it."""

    def __init__(self, name: str, arn: str, attributes: Mapping[str, str]) -> None:
        self.name = name
        self.arn = arn
        self.attributes = dict(attributes)
        self._items: dict[str, Item] = {}
        self._by_time: list[tuple[datetime, int, str]] = []
        self._order = count()

    @property
    def visibility_seconds(self) -> int:
        """How long a message is lent out when the receiver does not say."""
        return int(self.attributes.get("VisibilityTimeout", "30"))

    def put(self, item: Item) -> None:
        """Add `item`; it is received from its `visible_at` on."""
        self._items[item.id] = item
        self._wait(item)

    def take(self, limit: int, now: datetime, visibility_seconds: int) -> list[Item]:
        """Lend out up to `limit` messages that are due."""
        taken: list[Item] = []
        while self._by_time and len(taken) < limit and self._by_time[0][0] <= now:
            at, _, item_id = heapq.heappop(self._by_time)
            item = self._items.get(item_id)
            if item is None or item.visible_at != at:
                continue  # deleted, or lent out again since
            item.receives += 1
            taken.append(item)
        for item in taken:
            item.visible_at = now + timedelta(seconds=visibility_seconds)
            self._wait(item)
        return taken

    def next_due_at(self) -> datetime | None:
        """Return when the next message may be received (a deleted one may make it too early, never too late)."""
        return self._by_time[0][0] if self._by_time else None

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._items

    def delete(self, item_id: str) -> None:
        """Remove a message; removing it twice is no error, as in SQS."""
        self._items.pop(item_id, None)

    def counts(self, now: datetime) -> tuple[int, int]:
        """Return how many messages are visible, and how many are lent out or not yet due."""
        visible = sum(1 for item in self._items.values() if item.visible_at <= now)
        return visible, len(self._items) - visible

    def _wait(self, item: Item) -> None:
        heapq.heappush(self._by_time, (item.visible_at, next(self._order), item.id))
