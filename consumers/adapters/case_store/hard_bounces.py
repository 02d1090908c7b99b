"""Channels on which somebody's contact bounced for good: never tried again, in whichever incident, until it changes."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import Channel
from consumers.adapters.case_store.engine import in_parts, upsert
from consumers.adapters.case_store.tables import hard_bounce, recipient


def keep_hard_bounces(connection: sa.Connection, attempts: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Keep that the contacts of `attempts` bounced: by the keyed hash that tells whether a contact is still the same."""
    for chunk in in_parts(attempts):
        people = {
            row.recipient_id: row
            for row in connection.execute(
                sa.select(recipient.c.recipient_id, recipient.c.root, recipient.c.contact).where(
                    recipient.c.recipient_id.in_(sorted({each["recipient_id"] for each in chunk}))
                )
            )
        }
        upsert(
            connection,
            hard_bounce,
            [
                {
                    "root": people[each["recipient_id"]].root,
                    "channel": each["channel"],
                    "contact_digest": _digest(people[each["recipient_id"]].contact),
                    "bounced_at": now,
                    "attempt_id": each["attempt_id"],
                }
                for each in chunk
            ],
        )


def bounced_channels(connection: sa.Connection, recipient_ids: Sequence[str]) -> Mapping[str, Collection[Channel]]:
    """Return by recipient the channels on which their contact, as it is now, bounced for good.

    Where it is not known whether the contact changed since, it counts as the same.
    """
    found: dict[str, set[Channel]] = defaultdict(set)
    if connection.execute(sa.select(hard_bounce.c.root).limit(1)).first() is None:
        return found
    for some in in_parts(recipient_ids):
        for row in connection.execute(
            sa.select(
                recipient.c.recipient_id, recipient.c.contact, hard_bounce.c.channel, hard_bounce.c.contact_digest
            )
            .join(hard_bounce, hard_bounce.c.root == recipient.c.root)
            .where(recipient.c.recipient_id.in_(some))
        ):
            now = _digest(row.contact)
            if "" in (now, row.contact_digest) or now == row.contact_digest:
                found[row.recipient_id].add(Channel(row.channel))
    return found


def counted(connection: sa.Connection) -> Mapping[str, int]:
    """Return how many contacts bounced for good, by channel, in all incidents. One that changed since still counts."""
    query = sa.select(hard_bounce.c.channel, sa.func.count()).group_by(hard_bounce.c.channel)
    return {row[0]: row[1] for row in connection.execute(query)}


def _digest(contact: Mapping[str, Any] | None) -> str:
    return str((contact or {}).get("digest") or "")
