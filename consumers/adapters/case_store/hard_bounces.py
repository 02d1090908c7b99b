"""Channels on which somebody's contact bounced for good: never tried again, in whichever incident, until it changes.

An e-mail address is known by its own hash, under whichever root; of a number dispatch alone can tell, which asks once more
with the number's (`bounced_marks`); all else is known by the hash of a root's whole contact.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from consumers.adapters.case_store.engine import in_parts, upsert
from consumers.adapters.case_store.tables import affected, attempt, hard_bounce, recipient


def keep_hard_bounces(connection: sa.Connection, attempts: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Keep that the contacts of `attempts` bounced: by the keyed hashes that tell whether a contact is still the same."""
    for chunk in in_parts(attempts):
        ids = sorted({each["recipient_id"] for each in chunk})
        people = {
            row.recipient_id: row
            for row in connection.execute(
                sa.select(recipient.c.recipient_id, recipient.c.root, recipient.c.contact).where(
                    recipient.c.recipient_id.in_(ids)
                )
            )
        }
        addresses = _addresses(connection, ids)
        texted = [each["attempt_id"] for each in chunk if each["channel"] == Channel.SMS]
        numbers: dict[str, str | None] = (
            {
                row.attempt_id: row.phone_hmac
                for row in connection.execute(
                    sa.select(attempt.c.attempt_id, attempt.c.phone_hmac).where(attempt.c.attempt_id.in_(texted))
                )
            }
            if texted
            else {}
        )
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
                    "email_hmac": addresses.get(each["recipient_id"]) if each["channel"] == Channel.EMAIL else None,
                    "phone_hmac": numbers.get(each["attempt_id"]),
                }
                for each in chunk
            ],
            update=("bounced_at", "attempt_id", "email_hmac", "phone_hmac"),
        )


def keep_numbers(connection: sa.Connection, marks: Mapping[str, str]) -> None:
    """Keep to which number, by its keyed hash, an SMS went, by attempt; also of one of which the bounce was reported sooner."""
    for attempt_id, mark in marks.items():
        connection.execute(sa.update(attempt).where(attempt.c.attempt_id == attempt_id).values(phone_hmac=mark))
    for some in in_parts(sorted(marks)):
        overtaken = sa.select(attempt.c.attempt_id).where(
            attempt.c.attempt_id.in_(some) & (attempt.c.state == AttemptState.BOUNCED)
        )
        for attempt_id in connection.execute(overtaken).scalars().all():
            connection.execute(
                sa.update(hard_bounce)
                .where((hard_bounce.c.attempt_id == attempt_id) & (hard_bounce.c.channel == Channel.SMS))
                .values(phone_hmac=marks[attempt_id])
            )


def bounced_channels(connection: sa.Connection, recipient_ids: Sequence[str]) -> Mapping[str, Collection[Channel]]:
    """Return by recipient the channels on which their contact, as it is now, bounced for good.

    Where it is not known whether the contact changed since, it counts as the same.
    """
    found: dict[str, set[Channel]] = defaultdict(set)
    if connection.execute(sa.select(hard_bounce.c.root).limit(1)).first() is None:
        return found
    known = connection.execute(sa.select(hard_bounce.c.root).where(hard_bounce.c.email_hmac.is_not(None)).limit(1))
    any_address = known.first() is not None
    for some in in_parts(recipient_ids):
        addresses = _addresses(connection, some) if any_address else {}
        dead = bounced_marks(connection, sorted(set(addresses.values())))
        for recipient_id, address in addresses.items():
            if address in dead:
                found[recipient_id].add(Channel.EMAIL)
        for row in connection.execute(
            sa.select(
                recipient.c.recipient_id,
                recipient.c.contact,
                hard_bounce.c.channel,
                hard_bounce.c.contact_digest,
                hard_bounce.c.email_hmac,
                hard_bounce.c.phone_hmac,
            )
            .join(hard_bounce, hard_bounce.c.root == recipient.c.root)
            .where(recipient.c.recipient_id.in_(some))
        ):
            if row.email_hmac is not None and row.recipient_id in addresses:
                # answered by the address alone
                continue
            now = _digest(row.contact)
            unknown = "" in (now, row.contact_digest)
            if unknown and row.phone_hmac is not None and row.contact is not None:
                # dispatch knows whether it is the same number
                continue
            if unknown or now == row.contact_digest:
                found[row.recipient_id].add(Channel(row.channel))
    return found


def may_have_bounced() -> sa.ColumnElement[bool]:
    """Say of a recipient joined with their `affected` that something of theirs, or their address, bounced for good."""
    addresses = sa.select(hard_bounce.c.email_hmac).where(hard_bounce.c.email_hmac.is_not(None))
    # quoted by some servers
    address = sa.func.replace(sa.func.json_extract(affected.c.event, "$.email_hmac"), '"', "")
    return recipient.c.root.in_(sa.select(hard_bounce.c.root)) | address.in_(addresses)


def counted(connection: sa.Connection) -> Mapping[str, int]:
    """Return how many contacts bounced for good, by channel, in all incidents. One that changed since still counts."""
    query = sa.select(hard_bounce.c.channel, sa.func.count()).group_by(hard_bounce.c.channel)
    return {row[0]: row[1] for row in connection.execute(query)}


def _addresses(connection: sa.Connection, recipient_ids: Sequence[str]) -> Mapping[str, str]:
    """Return the keyed hash of the address in each of these contacts, where what was resolved tells it.

    An answer is believed about the very contact that is used. Where contacts were removed, as their incident has ended, all
    answers about somebody must tell the same.
    """
    told: dict[str, set[str]] = defaultdict(set)
    for some in in_parts(recipient_ids):
        for row in connection.execute(
            sa.select(
                recipient.c.recipient_id,
                recipient.c.contact,
                sa.func.json_extract(affected.c.event, "$.email_hmac").label("address"),
                sa.func.json_extract(affected.c.event, "$.contact.digest").label("digest"),
            )
            .join(affected, (affected.c.incident_id == recipient.c.incident_id) & (affected.c.root == recipient.c.root))
            .where(recipient.c.recipient_id.in_(some))
        ):
            if row.contact is None or (_plain(row.digest) and _plain(row.digest) == _digest(row.contact)):
                told[row.recipient_id].add(_plain(row.address))
    return {each: address for each, (address, *more) in told.items() if address and not more}


def bounced_marks(connection: sa.Connection, marks: Sequence[str]) -> Collection[str]:
    """Return those of the keyed hashes of addresses and numbers that bounced for good, whoever had them."""
    return {
        mark
        for some in in_parts(marks)
        for column in (hard_bounce.c.email_hmac, hard_bounce.c.phone_hmac)
        for mark in connection.execute(sa.select(column).where(column.in_(some))).scalars()
    }


def _plain(extracted: str | None) -> str:
    """Return a text that was taken out of JSON, which some servers quote, and write as `null` where it is none."""
    plain = (extracted or "").strip('"')
    return "" if plain == "null" else plain


def _digest(contact: Mapping[str, Any] | None) -> str:
    return str((contact or {}).get("digest") or "")
