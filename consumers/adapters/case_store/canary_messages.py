"""Rows of canary messages, from the moment before the call to their receipt. They touch no incident, attempt or person.

The dispatch process begins and ends them (`consumers.stages.canary_messages`), the receipts process settles them; a row
says how far each one is, so that neither has to remember anything over a crash.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import counter, histogram
from consumers.adapters.case_store.engine import CaseDatabase, in_parts
from consumers.adapters.case_store.tables import attempt, canary_message, incident, receipt
from consumers.domain.canary_messages import (
    NO_RECEIPT,
    CanaryLane,
    CanaryMessage,
    CanaryRoute,
    CanaryStage,
    CanaryStanding,
    Purpose,
    check_id,
    is_due,
    is_overdue,
    may_be_canary,
    next_id,
    stage_after_answer,
    stage_after_receipt,
)
from consumers.domain.sending import Receipt, ReceiptKind, SendResult

TRAFFIC = "canary"
KEPT = timedelta(days=15)
"""A receipt may lie in the queue for 14 days, and in CloudWatch Logs it is looked for over 3."""
_LOOKED_AT = 20

MESSAGES = counter(
    "tocsin_canary_messages_total",
    "canary messages by what became of them; one that was given up and arrives after all counts as failed and as arrived. A "
    "route appears, at 0, in the processes dispatch and receipts once the settings name a destination for it",
    question="would notices arrive if we had to send them now?",
    labels={
        "traffic": [TRAFFIC],
        "channel": [Channel.EMAIL, Channel.SMS],
        "provider": ["ses", "smtp", "sns", "sms_gateway"],
        "region": [],
        "result": ["sent", "arrived", "failed", "yielded"],
    },
)
ARRIVAL = histogram(
    "tocsin_canary_arrival_seconds",
    "from before the provider's call until the receipts stage has the receipt that a canary message arrived",
    question="how long does the whole way take when nothing is wrong?",
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
    labels={
        "traffic": [TRAFFIC],
        "channel": [Channel.EMAIL, Channel.SMS],
        "provider": ["ses", "smtp", "sns", "sms_gateway"],
        "region": [],
    },
)


_Move = tuple[CanaryMessage, CanaryMessage]
"""A message before and after a receipt."""


def labels_of(route: CanaryRoute) -> tuple[str, str, str, str]:
    """Return the values of traffic, channel, provider and region."""
    return TRAFFIC, route.channel.value, route.provider, route.region


class CanaryTables:
    """Implements what the stages dispatch and receipts ask of canary messages. All methods raise Unreachable."""

    def __init__(self, database: CaseDatabase, clock: Clock, routes: Collection[CanaryRoute] = ()) -> None:
        """`routes` are those whose numbers are to be seen before anything has happened."""
        self._database = database
        self._clock = clock
        for route in routes:
            ARRIVAL.labels(*labels_of(route))
            for result in ("sent", "arrived", "failed", "yielded"):
                MESSAGES.labels(*labels_of(route), result)

    # --- dispatch ------------------------------------------------------------------------------------------------

    def due(self, lane: CanaryLane) -> bool:
        """Say whether the next message of a lane is due."""
        with self._database.read() as connection:
            return is_due(lane, self._last(connection, lane.route), self._clock.now())

    def gives_way(self, channel: Channel) -> bool:
        """Say whether real notices of `channel` are on their way to a provider at this moment."""
        with self._database.read() as connection:
            incidents = connection.execute(sa.select(incident.c.incident_id)).scalars().all()
            return any(
                connection.execute(
                    sa.select(attempt.c.attempt_id)
                    .where(
                        attempt.c.incident_id.in_(some)
                        & attempt.c.state.in_((AttemptState.COMMANDED.value, AttemptState.INTENDED.value))
                        & (attempt.c.channel == channel.value)
                    )
                    .limit(1)
                ).first()
                for some in in_parts(incidents)
            )

    def yielded(self, route: CanaryRoute) -> None:
        """Count that a message that is due gives way."""
        MESSAGES.labels(*labels_of(route), "yielded").inc()

    def begin(self, lane: CanaryLane) -> CanaryMessage | None:
        """Write the next message of a lane before it is sent; None if it is not due.

        A crash after this leaves `sending`: at most one message is on its way that way, its receipt or its time limit
        ends it, and the next one begins an interval later.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> CanaryMessage | None:
            last = self._last(connection, lane.route)
            if not is_due(lane, last, now):
                return None
            begun = CanaryMessage(
                next_id(lane.route, None if last is None else last.message_id),
                lane.route, Purpose.CANARY, ReceiptKind.DELIVERED, CanaryStage.SENDING, now,
            )  # fmt: skip
            _write(connection, begun)
            connection.execute(sa.delete(canary_message).where(canary_message.c.began_at < now - KEPT))
            return begun

        try:
            return self._database.writing(work)
        except sa.exc.IntegrityError:
            # another process whose lease had lapsed meanwhile began this very message
            return None

    def answered(self, message: CanaryMessage, result: SendResult) -> CanaryMessage:
        """Note what the provider said; return the message as it is now.

        A crash before this leaves `sending`; receipts that carry the id settle it all the same.
        """
        now, stage = self._clock.now(), stage_after_answer(result.state)

        def work(connection: sa.Connection) -> tuple[CanaryMessage, bool, Sequence[_Move]]:
            of_message = canary_message.c.message_id == message.message_id
            connection.execute(
                sa.update(canary_message).where(of_message).values(provider_message_id=result.provider_message_id)
            )
            # only what no receipt has moved meanwhile
            refused = connection.execute(
                sa.update(canary_message)
                .where(of_message & (canary_message.c.stage == CanaryStage.SENDING.value))
                .values(stage=stage.value, code=result.code, settled_at=None if stage is CanaryStage.SENT else now)
            )
            moves = [
                self._settle_one(connection, message.message_id, kind, now)
                for kind in self._strays(connection, message, result.provider_message_id)
            ]
            failed = bool(refused.rowcount) and stage is CanaryStage.FAILED
            return _read(connection, of_message)[0], failed, moves

        noted, failed, moves = self._database.writing(work)
        if message.purpose is Purpose.CANARY:
            MESSAGES.labels(*labels_of(message.route), "yielded" if stage is CanaryStage.YIELDED else "sent").inc()
            MESSAGES.labels(*labels_of(message.route), "failed").inc(failed)
        self._count(moves)
        return noted

    def give_up(self, lane: CanaryLane) -> CanaryMessage | None:
        """End a lane's message whose receipt has taken too long; return it, or None.

        A receipt that was read in the very moment of the provider's answer found no message of that name: it lies aside.
        """
        now = self._clock.now()
        met: list[_Move] = []

        def work(connection: sa.Connection) -> CanaryMessage | None:
            met.clear()
            last = self._last(connection, lane.route)
            if last is None or not is_overdue(last, lane.patience, now):
                return None
            for kind in self._strays(connection, last, last.provider_message_id):
                met.append(self._settle_one(connection, last.message_id, kind, now))
            if met and not met[-1][1].is_open:
                return None
            ended = connection.execute(
                sa.update(canary_message)
                .where((canary_message.c.message_id == last.message_id) & (canary_message.c.stage == last.stage.value))
                .values(stage=CanaryStage.FAILED.value, code=last.code or NO_RECEIPT, settled_at=now)
            )
            return last if ended.rowcount else None

        ended = self._database.writing(work)
        self._count(met)
        if ended is not None:
            MESSAGES.labels(*labels_of(ended.route), "failed").inc()
        return ended

    def standing(self, route: CanaryRoute) -> CanaryStanding:
        """Return how a route has done of late."""
        of_route = _of(route)
        with self._database.read() as connection:
            arrived, first = connection.execute(
                sa.select(
                    sa.func.max(
                        sa.case((canary_message.c.stage == CanaryStage.ARRIVED.value, canary_message.c.settled_at))
                    ),
                    sa.func.min(canary_message.c.began_at),
                ).where(of_route)
            ).one()
            failing = 0
            for stage in connection.execute(
                sa.select(canary_message.c.stage)
                .where(of_route)
                .order_by(canary_message.c.began_at.desc())
                .limit(_LOOKED_AT)
            ).scalars():
                if stage == CanaryStage.ARRIVED.value:
                    break
                failing += stage == CanaryStage.FAILED.value
        return CanaryStanding(arrived, first, failing)

    # --- receipts ------------------------------------------------------------------------------------------------

    def settle(self, receipts: Sequence[Receipt]) -> Sequence[Receipt]:
        """Take note of receipts of canary messages, and return all others; the same receipt twice changes nothing.

        A crash after this finds the same receipts in their queue again.
        """
        looked_for = [item for item in receipts if not item.attempt_id or may_be_canary(item.attempt_id)]
        if not looked_for:
            return receipts
        now = self._clock.now()

        def work(connection: sa.Connection) -> tuple[set[int], Sequence[_Move]]:
            owners = self._owners(connection, looked_for)
            moved = [
                self._settle_one(connection, owners[id(item)], item.kind, now)
                for item in sorted(looked_for, key=lambda each: each.occurred_at)
                if id(item) in owners
            ]
            return set(owners), moved

        with self._database.read() as connection:
            if not self._owners(connection, looked_for):
                return receipts
        ours, moved = self._database.writing(work)
        self._count(moved)
        return [item for item in receipts if id(item) not in ours]

    # --- checks --------------------------------------------------------------------------------------------------

    def begin_check(self, route: CanaryRoute, expects: ReceiptKind) -> CanaryMessage:
        """Write a message that somebody asked for before it is sent. A crash leaves `sending`, which nobody waits for."""
        begun = CanaryMessage(check_id(), route, Purpose.CHECK, expects, CanaryStage.SENDING, self._clock.now())
        self._database.writing(lambda connection: _write(connection, begun))
        return begun

    def messages(self, message_ids: Collection[str]) -> Mapping[str, CanaryMessage]:
        """Return messages as they are now, by id."""
        with self._database.read() as connection:
            found = _read(connection, canary_message.c.message_id.in_(sorted(message_ids)))
        return {each.message_id: each for each in found}

    def last(self, route: CanaryRoute) -> CanaryMessage | None:
        """Return the newest message that was sent by itself on a route."""
        with self._database.read() as connection:
            return self._last(connection, route)

    # --- inside --------------------------------------------------------------------------------------------------

    @staticmethod
    def _last(connection: sa.Connection, route: CanaryRoute) -> CanaryMessage | None:
        found = _read(connection, _of(route), newest=1)
        return found[0] if found else None

    @staticmethod
    def _owners(connection: sa.Connection, receipts: Sequence[Receipt]) -> Mapping[int, str]:
        """Return to which message each receipt (by identity) belongs, for those that belong to one."""
        tags = sorted({item.attempt_id for item in receipts if item.attempt_id})
        known: set[str] = set()
        for some in in_parts(tags):
            known.update(
                connection.execute(
                    sa.select(canary_message.c.message_id).where(canary_message.c.message_id.in_(some))
                ).scalars()
            )
        # SMS by SNS carry no tag: they are known by the provider's own id
        by_provider: dict[str, set[str]] = defaultdict(set)
        for item in receipts:
            if not item.attempt_id and item.provider_message_id:
                by_provider[item.provider].add(item.provider_message_id)
        by_message = {
            (provider, row.provider_message_id): row.message_id
            for provider, ids in by_provider.items()
            for some in in_parts(sorted(ids))
            for row in connection.execute(
                sa.select(canary_message.c.provider_message_id, canary_message.c.message_id).where(
                    (canary_message.c.provider == provider) & canary_message.c.provider_message_id.in_(some)
                )
            )
        }
        owners: dict[int, str] = {}
        for item in receipts:
            if item.attempt_id in known:
                owners[id(item)] = str(item.attempt_id)
            elif not item.attempt_id and (item.provider, item.provider_message_id) in by_message:
                owners[id(item)] = by_message[item.provider, item.provider_message_id]
        return owners

    @staticmethod
    def _settle_one(connection: sa.Connection, message_id: str, kind: ReceiptKind, now: datetime) -> _Move:
        before = _read(connection, canary_message.c.message_id == message_id, lock=True)[0]
        stage = stage_after_receipt(before.stage, before.expects, kind)
        values: dict[str, Any] = {"stage": stage.value}
        if kind.value not in before.kinds:
            values["kinds"] = [*before.kinds, kind.value]
        if stage is not before.stage and stage in (CanaryStage.ARRIVED, CanaryStage.FAILED):
            values |= {"settled_at": now, "code": None if stage is CanaryStage.ARRIVED else kind.value}
        connection.execute(sa.update(canary_message).where(canary_message.c.message_id == message_id).values(**values))
        return before, _read(connection, canary_message.c.message_id == message_id)[0]

    @staticmethod
    def _strays(
        connection: sa.Connection, message: CanaryMessage, provider_message_id: str | None
    ) -> Sequence[ReceiptKind]:
        """Take what was reported about a message before we knew its provider's id out of what is kept aside."""
        if not provider_message_id:
            return ()
        strays = (
            (receipt.c.provider == message.route.provider)
            & (receipt.c.provider_message_id == provider_message_id)
            & receipt.c.attempt_id.is_(None)
        )
        kinds = connection.execute(sa.select(receipt.c.kind).where(strays).order_by(receipt.c.occurred_at)).scalars()
        found = [ReceiptKind(kind) for kind in kinds]
        if found:
            connection.execute(sa.delete(receipt).where(strays))
        return found

    @staticmethod
    def _count(moves: Sequence[_Move]) -> None:
        for before, after in moves:
            if after.purpose is not Purpose.CANARY or after.stage is before.stage:
                continue
            if after.stage is CanaryStage.ARRIVED:
                MESSAGES.labels(*labels_of(after.route), "arrived").inc()
                ARRIVAL.labels(*labels_of(after.route)).observe(after.seconds or 0.0)
            elif after.stage is CanaryStage.FAILED:
                MESSAGES.labels(*labels_of(after.route), "failed").inc()


def _of(route: CanaryRoute) -> sa.ColumnElement[bool]:
    return (
        (canary_message.c.channel == route.channel.value)
        & (canary_message.c.provider == route.provider)
        & (canary_message.c.region == route.region)
        & (canary_message.c.purpose == Purpose.CANARY.value)
    )


def _write(connection: sa.Connection, message: CanaryMessage) -> None:
    values = asdict(message)
    del values["route"]
    connection.execute(
        sa.insert(canary_message).values(
            **values,
            channel=message.route.channel.value,
            provider=message.route.provider,
            region=message.route.region,
        )
    )


def _read(
    connection: sa.Connection, which: sa.ColumnElement[bool], *, newest: int | None = None, lock: bool = False
) -> Sequence[CanaryMessage]:
    query = sa.select(canary_message).where(which).order_by(canary_message.c.began_at.desc()).limit(newest)
    rows = connection.execute(query.with_for_update() if lock else query).mappings()
    return [
        CanaryMessage(
            message_id=row["message_id"],
            route=CanaryRoute(Channel(row["channel"]), row["provider"], row["region"]),
            purpose=Purpose(row["purpose"]),
            expects=ReceiptKind(row["expects"]),
            stage=CanaryStage(row["stage"]),
            began_at=row["began_at"],
            settled_at=row["settled_at"],
            provider_message_id=row["provider_message_id"],
            code=row["code"],
            kinds=tuple(row["kinds"]),
        )
        for row in rows
    ]
