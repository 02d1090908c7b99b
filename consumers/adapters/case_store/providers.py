"""How providers stand: circuits as dispatchers tell them, people's orders, what was sent through whom, who is suppressed.

Not for what follows from it: rates and findings are decided in `consumers.domain.accounts` and the case room.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.ahead import waiting_beside
from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.hard_bounces import bounced_channels, may_have_bounced
from consumers.adapters.case_store.tables import (
    affected,
    attempt,
    incident,
    page,
    preflight_override,
    provider_circuit,
    provider_order,
    receipt,
    recipient,
)
from consumers.case.records import CircuitOrder, OverrideRecord, PageRecord, WaitingBeside
from consumers.domain.accounts import DAY, Reputation
from consumers.domain.circuit import CircuitReading, CircuitState
from consumers.domain.ledger import Unreported
from consumers.domain.sending import SUPPRESSED, ReceiptKind

SILENT_AFTER = timedelta(seconds=15)
"""What a dispatcher told longer ago says nothing any more: it has ended, or lost the case store."""
_FORGOTTEN_AFTER = timedelta(hours=1)
_RECEIPTS_COME = timedelta(days=3)
_READING = tuple(each.name for each in fields(CircuitReading))
_ROWS_AT_ONCE = 2000


class ProviderRows:
    """The part of `consumers.case.store.CaseWork` that is about providers."""

    _connection: sa.Connection
    _now: datetime

    def circuits(self) -> Sequence[tuple[str, CircuitReading]]:
        return _circuits(self._connection, self._now)

    def circuit_orders(self) -> Mapping[str, CircuitOrder]:
        return {
            row["provider"]: CircuitOrder(**row)
            for row in self._connection.execute(sa.select(provider_order)).mappings()
        }

    def order_circuit(self, order: CircuitOrder) -> None:
        upsert(
            self._connection, provider_order, [asdict(order)], update=("wanted", "ordered_at", "ordered_by")
        )  # fmt: skip

    def sent_through(self, since: datetime) -> Mapping[str, int]:
        return _sent_through(self._connection, since)

    def reputation(self, provider: str) -> Reputation:
        return _reputation(self._connection, provider, self._now)

    def suppressed_people(
        self, incident_id: str, revision: int, reason_by_hmac: Mapping[str, str]
    ) -> Mapping[str, int]:
        """Return how many of those who wait for an e-mail have an address that the provider suppresses, by reason.

        Compared by the join key's hashes: no sealed contact is opened for it.
        """
        people: dict[str, str] = {}
        if reason_by_hmac:
            # the newest record of each root is enough: it is the one whose address a notice goes to
            query = (
                sa.select(
                    recipient.c.recipient_id,
                    recipient.c.channels,
                    sa.func.json_extract(affected.c.event, "$.email_hmac").label("email_hmac"),
                )
                .join(
                    affected,
                    (affected.c.incident_id == recipient.c.incident_id) & (affected.c.root == recipient.c.root),
                )
                .where(
                    (recipient.c.incident_id == incident_id)
                    & (affected.c.revision == revision)
                    & recipient.c.final_state.is_(None)
                    & recipient.c.held_reason.is_(None)
                )
                .execution_options(yield_per=_ROWS_AT_ONCE)
            )
            with self._connection.execute(query) as rows:
                for row in rows:
                    # quoted by some servers
                    reason = reason_by_hmac.get((row.email_hmac or "").strip('"'))
                    if reason is not None and Channel.EMAIL in row.channels:
                        people[row.recipient_id] = reason
        return Counter(people.values())

    def hard_bounced_people(self, incident_id: str) -> Mapping[str, int]:
        # few have bounced of many: only theirs are looked at
        query = (
            sa.select(recipient.c.recipient_id)
            .join(
                affected,
                (affected.c.incident_id == recipient.c.incident_id)
                & (affected.c.root == recipient.c.root)
                & (affected.c.revision == recipient.c.revision),
                isouter=True,
            )
            .where(
                (recipient.c.incident_id == incident_id)
                & recipient.c.final_state.is_(None)
                & recipient.c.held_reason.is_(None)
                & recipient.c.late.is_(False)
                & may_have_bounced()
            )
            .order_by(recipient.c.recipient_id)
        )
        people = list(self._connection.execute(query).scalars())
        dead = bounced_channels(self._connection, people)
        return Counter(channel.value for channels in dead.values() for channel in channels)

    def waiting_beside(self, incident_id: str, *, exercise: bool) -> Mapping[Channel, Sequence[WaitingBeside]]:
        return waiting_beside(self._connection, incident_id, exercise=exercise)

    def overrides(self, release_id: str) -> Sequence[OverrideRecord]:
        rows = self._connection.execute(
            sa.select(preflight_override)
            .where(preflight_override.c.release_id == release_id)
            .order_by(preflight_override.c.code)
        ).mappings()
        return [OverrideRecord(**row) for row in rows]

    def add_override(self, record: OverrideRecord) -> None:
        upsert(self._connection, preflight_override, [asdict(record)])


class ProviderTables:
    """The same for processes: each call is one transaction. All raise Unreachable."""

    def __init__(self, database: CaseDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def tell(self, dispatcher: str, readings: Sequence[CircuitReading]) -> None:
        """Write how a dispatcher sees its circuits, and forget those that fell silent long ago."""
        now = self._clock.now()
        rows = [{"dispatcher": dispatcher, **asdict(each), "told_at": now} for each in readings]

        def work(connection: sa.Connection) -> None:
            upsert(
                connection,
                provider_circuit,
                rows,
                update=[each.name for each in provider_circuit.columns if each.name not in ("dispatcher", "provider")],
            )
            connection.execute(
                sa.delete(provider_circuit).where(provider_circuit.c.told_at < now - _FORGOTTEN_AFTER)
            )  # fmt: skip

        self._database.writing(work)

    def readings(self) -> Sequence[CircuitReading]:
        """Return the circuits of every dispatcher that is alive."""
        with self._database.read() as connection:
            return [each for _, each in _circuits(connection, self._clock.now())]

    def orders(self) -> Mapping[str, tuple[CircuitState, object]]:
        """Return what people ordered last of each provider."""
        with self._database.read() as connection:
            return {
                row.provider: (CircuitState(row.wanted), row.ordered_at)
                for row in connection.execute(sa.select(provider_order))
            }

    def reputation(self, provider: str) -> Reputation:
        """Return what became of a provider's e-mails in the last 24 hours."""
        with self._database.read() as connection:
            return _reputation(connection, provider, self._clock.now())

    def sent_through(self, since: datetime) -> Mapping[str, int]:
        """Return how many messages each provider has taken since an instant."""
        with self._database.read() as connection:
            return _sent_through(connection, since)

    def unreported(self, provider: str) -> Sequence[Unreported]:
        """Return the messages of a provider that wait for a final receipt, whose next channel begins first in front."""
        with self._database.read() as connection:
            incidents = connection.execute(sa.select(incident.c.incident_id)).scalars().all()
            return [
                Unreported(row.attempt_id, row.provider_message_id, row.handed_over_at, row.expires_at)
                for row in connection.execute(
                    sa.select(
                        attempt.c.attempt_id,
                        attempt.c.provider_message_id,
                        attempt.c.handed_over_at,
                        attempt.c.expires_at,
                    )
                    .where(
                        attempt.c.incident_id.in_(incidents)
                        & (attempt.c.state == AttemptState.HANDED_OVER)
                        & (attempt.c.channel == Channel.SMS)
                        & (attempt.c.provider == provider)
                        & attempt.c.provider_message_id.is_not(None)
                        & attempt.c.handed_over_at.is_not(None)
                        & attempt.c.expires_at.is_not(None)
                    )
                    .order_by(attempt.c.expires_at)
                )
            ]

    def raise_page(self, record: PageRecord) -> None:
        """Write a page; one of the same id is left as it is."""
        self._database.writing(lambda connection: upsert(connection, page, [asdict(record)]))


def _circuits(connection: sa.Connection, now: datetime) -> list[tuple[str, CircuitReading]]:
    rows = connection.execute(
        sa.select(provider_circuit)
        .where(provider_circuit.c.told_at >= now - SILENT_AFTER)
        .order_by(provider_circuit.c.channel, provider_circuit.c.provider, provider_circuit.c.dispatcher)
    ).mappings()
    return [
        (
            row["dispatcher"],
            CircuitReading(**{**{name: row[name] for name in _READING}, "state": CircuitState(row["state"])}),
        )
        for row in rows
    ]


def _sent_through(connection: sa.Connection, since: datetime) -> Mapping[str, int]:
    rows = connection.execute(
        sa.select(attempt.c.provider, sa.func.count())
        .where(attempt.c.handed_over_at >= since)
        .group_by(attempt.c.provider)
    )
    return {row[0]: row[1] for row in rows}


def _reputation(connection: sa.Connection, provider: str, now: datetime) -> Reputation:
    ended = (AttemptState.DELIVERED, AttemptState.READ, AttemptState.COMPLAINED, AttemptState.BOUNCED)
    # receipts come for some days after an incident was closed
    late = incident.c.closed_at.is_(None) | (incident.c.closed_at >= now - _RECEIPTS_COME)
    incidents = connection.execute(sa.select(incident.c.incident_id).where(late)).scalars().all()
    recent = attempt.c.incident_id.in_(incidents) & (attempt.c.provider == provider) & (attempt.c.state_at >= now - DAY)
    counts: dict[str, int] = {
        row[0]: row[1]
        for row in connection.execute(
            sa.select(attempt.c.state, sa.func.count())
            .where(recent & attempt.c.state.in_(ended))
            .group_by(attempt.c.state)
        )
    }
    # a full mailbox is no reason for a provider to think ill of us, nor what it took and never tried: only hard bounces count
    tried = receipt.c.sub_type.is_(None) | (receipt.c.sub_type != SUPPRESSED)
    hard = connection.execute(
        sa.select(sa.func.count(sa.distinct(attempt.c.attempt_id)))
        .join(receipt, receipt.c.attempt_id == attempt.c.attempt_id)
        .where(
            recent & (attempt.c.state == AttemptState.BOUNCED) & (receipt.c.kind == ReceiptKind.BOUNCED_HARD) & tried
        )
    ).scalar_one()
    return Reputation(sum(counts.values()), int(hard), counts.get(AttemptState.COMPLAINED, 0))
