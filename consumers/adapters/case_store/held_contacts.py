"""Which keys the contacts are sealed to that the case store holds while incidents are open."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from bridge.contracts.topics import AFFECTED_CUSTOMERS
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.tables import affected, kafka_position, recipient

_AT_ONCE = 1000


class SqlHeldContacts:
    """`HeldContacts` on the case store's tables."""

    def __init__(self, database: CaseDatabase, topic_id: Callable[[], str | None] = lambda: None) -> None:
        """`topic_id` asks for the present id of `affected-customers`; None where the broker tells none."""
        self._topic_id = topic_id
        self._database = database

    def counts_by_key(self) -> Mapping[str, int]:
        """Return how many people's contacts are sealed to each key id; who was both resolved and planned counts twice."""
        counts: dict[str, int] = {}
        with self._database.read() as connection:
            for text in connection.execute(sa.select(affected.c.event).execution_options(yield_per=_AT_ONCE)).scalars():
                _count(counts, json.loads(text).get("contact"))
            held = sa.select(recipient.c.contact).where(recipient.c.contact.is_not(None))
            for contact in connection.execute(held.execution_options(yield_per=_AT_ONCE)).scalars():
                _count(counts, contact)
        return counts

    def stored_up_to(self) -> Mapping[int, int]:
        """Return the next offset of `affected-customers` to be stored, for each partition of which something is.

        Of a topic that was deleted and made anew nothing is stored until planning has begun to read it. Raises Unreachable.
        """
        query = sa.select(kafka_position.c.partition, kafka_position.c.next_offset).where(
            (kafka_position.c.stage == "planning") & (kafka_position.c.topic == AFFECTED_CUSTOMERS.name)
        )
        if (topic_id := self._topic_id()) is not None:
            query = query.where(kafka_position.c.topic_id.is_(None) | (kafka_position.c.topic_id == topic_id))
        with self._database.read() as connection:
            return {row.partition: row.next_offset for row in connection.execute(query)}


def _count(counts: dict[str, int], contact: Any) -> None:
    key_id = contact.get("key_id") if isinstance(contact, dict) else None
    if key_id is not None:
        counts[key_id] = counts.get(key_id, 0) + 1
