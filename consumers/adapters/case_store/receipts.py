"""What providers say later of messages, in the ledger: stored once each, applied, or kept aside until its message is known."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Positions
from consumers.adapters.case_store import positions
from consumers.adapters.case_store.changes import AttemptChanges, Change
from consumers.adapters.case_store.engine import (
    CaseDatabase,
    in_parts,
    insert_many,
)
from consumers.adapters.case_store.tables import (
    attempt,
    incident,
    lost_message,
    receipt,
)
from consumers.domain.ledger import (
    Handed,
    SentReport,
)
from consumers.domain.sending import Receipt, ReceiptKind

_KNOWN_BEFORE = frozenset({"store"})
"""Whose messages have their attempt's id, so that it is there before them: one that nobody knows was an erased person's, and
whoever has a customer's number could tell from it whose.
"""
STRAYS_KEPT = timedelta(days=30)
"""A queue keeps a receipt for 14 days at most, a log of SMS is read three days back, and an attempt knows its message within
hours: what was kept aside longer is of nobody here.
"""
_STRAYS_AT_ONCE = 500
_STRAY = sa.select(receipt.c.provider_event_id).where(receipt.c.attempt_id.is_(None)).limit(1)


class Receipts:
    """Stores receipts and matches them with their attempts."""

    def __init__(
        self, database: CaseDatabase, clock: Clock, changes: AttemptChanges, topic_ids: Mapping[str, str]
    ) -> None:
        self._topic_ids = topic_ids
        self._database = database
        self._clock = clock
        self._changes = changes

    def settle_receipts(
        self, receipts: Sequence[Receipt], *, stage: str = "", after: Positions | None = None
    ) -> Handed:
        """Store receipts and apply them; the same receipt twice changes nothing. Return what happened to them.

        One of a message that we do not know (yet) is kept aside and matched when its attempt learns its message id.
        """
        now = self._clock.now()
        aside: list[Receipt] = []

        def work(connection: sa.Connection) -> Handed:
            fresh = self._unseen(connection, receipts)
            owners = self._owners(connection, fresh)
            owners = {
                **self._found_again(connection, [each for each in fresh if each.provider_event_id not in owners]),
                **owners,
            }
            aside[:] = [item for item in fresh if item.provider_event_id not in owners]
            changes: list[Change] = []
            rows: list[dict[str, Any]] = []
            for item in fresh:
                owner = owners.get(item.provider_event_id)
                if owner is None and item.provider in _KNOWN_BEFORE:
                    continue
                rows.append(
                    {
                        "provider": item.provider,
                        "provider_event_id": item.provider_event_id,
                        "provider_message_id": item.provider_message_id,
                        "attempt_id": owner,
                        "kind": item.kind.value,
                        "sub_type": item.sub_type,
                        "occurred_at": item.occurred_at,
                        "received_at": now,
                        "raw_sha256": item.raw_sha256,
                        "applied": owner is not None,
                    }
                )
                if owner is not None:
                    changes.append(
                        Change(
                            owner,
                            item.kind,
                            item.occurred_at,
                            sub_type=item.sub_type,
                            reported_by=item.provider,
                            message_id=item.provider_message_id,
                        )
                    )
            insert_many(connection, receipt, rows, leave_known=True)
            self._changes.apply(connection, sorted(changes, key=lambda change: change.occurred_at), now)
            if after:
                positions.write_positions(connection, stage, after, self._topic_ids)
            return Handed(
                applied=len(changes), kept_aside=len(fresh) - len(changes), repeated=len(receipts) - len(fresh),
                exercises=_of_exercises(connection, owners),
                known=_identities(receipts) - _identities(fresh),
            )  # fmt: skip

        handed = self._database.writing(work)
        if aside:
            # see `report`: what was on its way to the ledger then may be there now
            self._database.writing(lambda connection: self._match_aside(connection, aside, now))
        return handed

    def positions(self, stage: str, partitions: Sequence[tuple[str, int]]) -> Positions:
        """Return where `stage` left off, having done what its crash may have left undone: the look after a commit, by which
        receipts that were kept aside meet their messages (see `report`).
        """
        met = (
            sa.select(receipt.c.provider_message_id, attempt.c.provider_message_id, attempt.c.attempt_id)
            .join(
                attempt,
                (attempt.c.provider == receipt.c.provider)
                & (attempt.c.provider_message_id == receipt.c.provider_message_id),
            )
            .where(receipt.c.attempt_id.is_(None))
        )
        with self._database.read() as connection:
            # to the letter: a server's collation may make two ids one
            left = {
                str(message): str(attempt_id)
                for message, known, attempt_id in connection.execute(met)
                if message == known
            }
        if left:
            now = self._clock.now()
            self._database.writing(lambda connection: self.match(connection, left, now))
        return positions.read_positions(self._database, stage, partitions, self._topic_ids)

    def match_strays(self, connection: sa.Connection, reports: Sequence[SentReport], now: datetime) -> None:
        if connection.execute(_STRAY).first() is None:
            # nearly always: to look for each message took longer than to write what became of it
            return
        self.match(connection, {str(item.provider_message_id): item.attempt_id for item in reports}, now)

    def match(self, connection: sa.Connection, by_message: Mapping[str, str], now: datetime) -> None:
        """Apply the receipts that were kept aside of messages whose attempts are known now."""
        for some in in_parts(sorted(by_message)):
            strays = (
                connection.execute(
                    sa.select(receipt).where(receipt.c.provider_message_id.in_(some) & receipt.c.attempt_id.is_(None))
                )
                .mappings()
                .all()
            )
            changes: list[Change] = []
            # to the letter: a server's collation may make two ids one
            theirs = [row for row in strays if row["provider_message_id"] in by_message]
            for stray in sorted(theirs, key=lambda row: row["occurred_at"]):
                attempt_id = by_message[stray["provider_message_id"]]
                connection.execute(
                    sa.update(receipt)
                    .where(
                        (receipt.c.provider == stray["provider"])
                        & (receipt.c.provider_event_id == stray["provider_event_id"])
                    )
                    .values(attempt_id=attempt_id, applied=True)
                )
                changes.append(
                    Change(attempt_id, ReceiptKind(stray["kind"]), stray["occurred_at"], sub_type=stray["sub_type"])
                )
            self._changes.apply(connection, changes, now)

    def _match_aside(self, connection: sa.Connection, receipts: Sequence[Receipt], now: datetime) -> None:
        owners = self._owners(connection, receipts)
        self.match(
            connection,
            {
                item.provider_message_id: owners[item.provider_event_id]
                for item in receipts
                if item.provider_event_id in owners
            },
            now,
        )

    @staticmethod
    def _found_again(connection: sa.Connection, receipts: Sequence[Receipt]) -> Mapping[str, str]:
        """Return, by the receipts' ids, the attempts whose message's id was lost with a case store that was put back in time.

        The attempt learns the id in the same transaction, so that what comes later finds it by that.
        """
        nameless = [each for each in receipts if not each.attempt_id and each.provider_message_id]
        if not nameless:
            return {}
        lost: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for row in connection.execute(
            sa.select(
                lost_message.c.provider,
                lost_message.c.message_sha256,
                lost_message.c.attempt_id,
                attempt.c.message_salt,
            )
            .join(attempt, attempt.c.attempt_id == lost_message.c.attempt_id)
            .where(lost_message.c.provider.in_(sorted({each.provider for each in nameless})))
        ):
            lost[row.provider].append((row.message_sha256, row.attempt_id, row.message_salt or ""))
        found: dict[str, str] = {}
        for each in nameless:
            for digest, attempt_id, salt in lost.get(each.provider, ()):
                if sha256(f"{salt}{each.provider_message_id}".encode()).hexdigest() == digest:
                    found[each.provider_event_id] = attempt_id
        for some in in_parts(sorted(set(found.values()))):
            connection.execute(sa.delete(lost_message).where(lost_message.c.attempt_id.in_(some)))
        return found

    def forget_strays(self) -> int:
        """Remove what was kept aside so long ago that no message can be found for it any more; return how many receipts."""
        before = self._clock.now() - STRAYS_KEPT
        stray = receipt.c.attempt_id.is_(None) & (receipt.c.received_at < before)
        self._database.writing(
            lambda connection: connection.execute(sa.delete(lost_message).where(lost_message.c.lost_at < before))
        )
        count = 0
        while True:
            with self._database.read() as connection:
                keys = connection.execute(
                    sa.select(receipt.c.provider, receipt.c.provider_event_id).where(stray).limit(_STRAYS_AT_ONCE)
                ).all()
            by_provider: dict[str, list[str]] = defaultdict(list)
            for provider, event_id in keys:
                by_provider[provider].append(event_id)
            for provider, ids in by_provider.items():
                # one that has found its message meanwhile stays
                these = stray & (receipt.c.provider == provider) & receipt.c.provider_event_id.in_(ids)
                count += self._database.writing(
                    lambda connection, these=these: int(connection.execute(sa.delete(receipt).where(these)).rowcount)  # type: ignore[misc]
                )
            if len(keys) < _STRAYS_AT_ONCE:
                return count

    @staticmethod
    def _unseen(connection: sa.Connection, receipts: Sequence[Receipt]) -> list[Receipt]:
        unique = {(item.provider, item.provider_event_id): item for item in receipts}
        by_provider: dict[str, list[str]] = defaultdict(list)
        for provider, event_id in unique:
            by_provider[provider].append(event_id)
        # by provider, as the key begins with it: without, every receipt ever received would be looked at
        seen = {
            (provider, event_id)
            for provider, ids in by_provider.items()
            for some in in_parts(ids)
            for event_id in connection.execute(
                sa.select(receipt.c.provider_event_id).where(
                    (receipt.c.provider == provider) & receipt.c.provider_event_id.in_(some)
                )
            ).scalars()
        }
        return [item for identity, item in unique.items() if identity not in seen]

    @staticmethod
    def _owners(connection: sa.Connection, receipts: Sequence[Receipt]) -> Mapping[str, str]:
        tags = sorted({item.attempt_id for item in receipts if item.attempt_id})
        messages: dict[str, set[str]] = defaultdict(set)
        for item in receipts:
            if not item.attempt_id:
                messages[item.provider].add(item.provider_message_id)
        known: set[str] = set()
        by_message: dict[tuple[str, str], str] = {}
        for some in in_parts(tags):
            known.update(
                connection.execute(sa.select(attempt.c.attempt_id).where(attempt.c.attempt_id.in_(some))).scalars()
            )
        for provider, of_provider in messages.items():
            ids = sorted(of_provider)
            for some in in_parts(ids):
                for row in connection.execute(
                    sa.select(attempt.c.provider_message_id, attempt.c.attempt_id).where(
                        (attempt.c.provider == provider) & attempt.c.provider_message_id.in_(some)
                    )
                ):
                    by_message[(provider, row.provider_message_id)] = row.attempt_id
        owners: dict[str, str] = {}
        for item in receipts:
            if item.attempt_id in known:
                owners[item.provider_event_id] = str(item.attempt_id)
            elif (item.provider, item.provider_message_id) in by_message:
                owners[item.provider_event_id] = by_message[(item.provider, item.provider_message_id)]
        return owners


def _identities(receipts: Sequence[Receipt]) -> frozenset[tuple[str, str]]:
    return frozenset((item.provider, item.provider_event_id) for item in receipts)


def _of_exercises(connection: sa.Connection, owners: Mapping[str, str]) -> frozenset[str]:
    """Return those of the receipts that are about an exercise's attempts, by their ids."""
    if not owners or connection.execute(sa.select(incident.c.incident_id).where(incident.c.exercise)).first() is None:
        return frozenset()
    ids = sorted(set(owners.values()))
    theirs = {
        attempt_id
        for some in in_parts(ids)
        for attempt_id in connection.execute(
            sa.select(attempt.c.attempt_id)
            .join(incident, incident.c.incident_id == attempt.c.incident_id)
            .where(attempt.c.attempt_id.in_(some) & incident.c.exercise)
        ).scalars()
    }
    return frozenset(event_id for event_id, attempt_id in owners.items() if attempt_id in theirs)
