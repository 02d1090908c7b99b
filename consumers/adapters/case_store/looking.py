"""Rows about one person's attempts, and about addresses that bounced. SQL only."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState
from consumers.adapters.case_store.tables import attempt, hard_bounce, incident, receipt, recipient
from consumers.case.records import BouncedRecord, FoundAttempt, FoundRecord
from consumers.domain.sending import ReceiptKind

REFUSED = "refused"
"""In place of a bounce's sub-type: the provider has not taken the message, as nobody is there."""


class LookingRows:
    """The ledger as whoever looks at single people sees it."""

    _connection: sa.Connection

    def find_recipients(self, roots: Sequence[str]) -> Sequence[FoundRecord]:
        named = [recipient.c.root.in_(roots)]
        # of somebody with several accounts and guest orders one root stands for all
        named += [sa.cast(recipient.c.roots, sa.Text).like(f'%"{root}"%') for root in roots]
        people = self._connection.execute(
            sa.select(recipient).where(sa.or_(*named)).order_by(recipient.c.incident_id.desc(), recipient.c.round)
        ).mappings().all()  # fmt: skip
        attempts: dict[str, list[FoundAttempt]] = defaultdict(list)
        rows = self._connection.execute(
            sa.select(attempt)
            .where(attempt.c.recipient_id.in_([row["recipient_id"] for row in people]))
            .order_by(attempt.c.recipient_id, attempt.c.number)
        ).mappings().all()  # fmt: skip
        receipts: dict[str, list[tuple[str, str | None, Any]]] = defaultdict(list)
        for got in self._connection.execute(
            sa.select(receipt.c.attempt_id, receipt.c.kind, receipt.c.sub_type, receipt.c.occurred_at)
            .where(receipt.c.attempt_id.in_([row["attempt_id"] for row in rows]))
            .order_by(receipt.c.occurred_at)
        ):
            receipts[got.attempt_id].append((got.kind, got.sub_type, got.occurred_at))
        for row in rows:
            attempts[row["recipient_id"]].append(
                FoundAttempt(
                    row["attempt_id"], row["number"], row["channel"], row["provider"], row["state"], row["state_at"],
                    row["handed_over_at"], tuple(receipts[row["attempt_id"]]),
                )
            )  # fmt: skip
        return [
            FoundRecord(
                row["incident_id"], row["root"], row["round"], row["segment_id"], row["subject_commitment"],
                row["final_state"], row["final_at"], row["held_reason"], row["told_in"], row["deadline_at"],
                tuple(attempts[row["recipient_id"]]),
            )
            for row in people
        ]  # fmt: skip

    def primary_roots(self, incident_id: str, roots: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for root in roots:
            named = (recipient.c.root == root) | sa.cast(recipient.c.roots, sa.Text).like(f'%"{root}"%')
            row = self._connection.execute(
                sa.select(recipient.c.root).where((recipient.c.incident_id == incident_id) & named).limit(1)
            ).first()
            if row is not None:
                found[root] = row.root
        return found

    def bounced(self, incident_id: str | None, *, soft: bool) -> Sequence[BouncedRecord]:
        kinds = [ReceiptKind.BOUNCED_HARD.value] + ([ReceiptKind.BOUNCED_SOFT.value] if soft else [])
        whose = (
            recipient.c.incident_id,
            recipient.c.root,
            recipient.c.customer_id,
            recipient.c.contact,
            attempt.c.channel,
        )
        # an exercise is sent to nobody's address
        meant: sa.ColumnElement[bool] = incident.c.exercise.is_(sa.false())
        if incident_id is not None:
            meant &= recipient.c.incident_id == incident_id
        reported = (
            sa.select(*whose, receipt.c.kind, receipt.c.sub_type, receipt.c.occurred_at)
            .join(attempt, attempt.c.attempt_id == receipt.c.attempt_id)
            .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
            .join(incident, incident.c.incident_id == recipient.c.incident_id)
            .where(receipt.c.kind.in_(kinds) & meant)
        )
        # of these no receipt follows
        refused = (
            sa.select(
                *whose, sa.literal(ReceiptKind.BOUNCED_HARD.value).label("kind"), sa.literal(REFUSED).label("sub_type"),
                hard_bounce.c.bounced_at.label("occurred_at"),
            )
            .join(attempt, attempt.c.attempt_id == hard_bounce.c.attempt_id)
            .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
            .join(incident, incident.c.incident_id == recipient.c.incident_id)
            .where((attempt.c.state == AttemptState.REJECTED) & meant)
        )  # fmt: skip
        rows = [row for query in (reported, refused) for row in self._connection.execute(query)]
        found: dict[tuple[str, str], BouncedRecord] = {}
        for row in sorted(rows, key=lambda row: row.occurred_at, reverse=True):
            record = BouncedRecord(
                row.incident_id,
                row.root,
                row.customer_id,
                row.channel,
                row.kind,
                row.sub_type,
                row.occurred_at,
                row.contact,
            )
            known = found.get((row.root, row.channel))
            # an older incident may hold the contact still, where the newer one is closed
            if known is None or (known.contact is None and record.contact is not None):
                found[row.root, row.channel] = record
        return list(found.values())
