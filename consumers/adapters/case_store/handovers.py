"""Intent before send, outcome after: what a dispatcher claims, and what it says of its calls."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from msgspec import structs

from bridge.contracts.events import (
    AttemptState,
    DeliveryOutcome,
)
from bridge.contracts.topics import ACCOUNT_NOTICES, DELIVERY_OUTCOMES
from bridge.runtime.clock import Clock
from bridge.runtime.kafka import Positions
from bridge.runtime.telemetry import counter
from consumers.adapters.case_store import outbox, positions
from consumers.adapters.case_store.changes import AttemptChanges, Change
from consumers.adapters.case_store.claims import (
    Claims,
    Happened,
    by_id,
    claimable,
    count_calls,
    intent_of,
    moment_after,
    outcomes_of,
    person_keys,
    set_alike,
    state_at_not_before,
)
from consumers.adapters.case_store.engine import (
    AS_IT_STANDS,
    CaseDatabase,
    in_parts,
    is_mariadb,
    literals_of,
    update_joined,
    update_many,
    upsert,
)
from consumers.adapters.case_store.hard_bounces import bounced_marks, keep_numbers
from consumers.adapters.case_store.keeping_back import KeepingBack
from consumers.adapters.case_store.metering import (
    KeptWhy,
    mark_kept,
    open_gates,
    real_release_running,
)
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.receipts import Receipts
from consumers.adapters.case_store.tables import (
    attempt,
    page,
    recipient,
    release,
)
from consumers.adapters.case_store.twins import standing_elsewhere, twins_of
from consumers.domain.delivery import Trigger
from consumers.domain.gates import Gate
from consumers.domain.ledger import (
    Command,
    Intent,
    SentReport,
    SentText,
)

STRANGERS = counter(
    "tocsin_delivery_strange_commands_total",
    "delivery commands that the ledger does not know, or knows of somebody else; they mail nobody",
    question="does somebody else write to our topic?",
)


_CLAIMED = PackedRows(attempt, ("attempt_id", "state", "send_count", "provider"), by="attempt_id", locked=True)
_SURELY_OURS = timedelta(seconds=5)
"""Half of the least time after which the sweeper gives up a claim."""
# asked before each call, as text: to compose it took longer than to ask
_RUNNING = (
    "SELECT `release`.incident_id, `release`.release_id, incident.epoch FROM `release` "
    "JOIN incident ON incident.incident_id = `release`.incident_id "
    "WHERE `release`.state = 'releasing' AND `release`.release_id IN "
)


class _Overtaken(Exception):
    """Something has happened to an attempt that was taken to stand as it was claimed."""


class Handovers:
    """Claims commanded attempts for dispatchers and writes what providers said at once."""

    def __init__(
        self,
        database: CaseDatabase,
        clock: Clock,
        changes: AttemptChanges,
        receipts: Receipts,
        kept_back: KeepingBack,
        topic_ids: Mapping[str, str],
    ) -> None:
        self._topic_ids = topic_ids
        self._database = database
        self._clock = clock
        self._changes = changes
        self._receipts = receipts
        self._kept_back = kept_back
        self._claims = Claims()

    def intend(self, commands: Sequence[Command], dispatcher: str, stage: str, after: Positions) -> Sequence[Intent]:
        """Claim the attempts that may be sent now, and move the position past their commands; return the claims.

        The claim is conditional on the state `commanded`, so two dispatchers cannot own one attempt; a command that is
        not in the ledger, is stale, or meets a gate mails nobody. A crash right after this leaves `intended` attempts
        that the sweeper turns to `unknown`.
        """

        def work(connection: sa.Connection) -> Sequence[Intent]:
            found = claimable(connection, [command.attempt_id for command in commands])
            now = self._clock.now()
            gates: dict[str, list[Gate]] = {}
            claims: list[dict[str, Any]] = []
            recalled: list[Change] = []
            kept: dict[KeptWhy, list[str]] = defaultdict(list)
            strangers = self._strangers(connection, [each for each in commands if each.attempt_id not in found])
            under_another: list[tuple[Command, str]] = []
            yields = any(row["exercise"] for row in found.values()) and real_release_running(connection) is not None
            for command in commands:
                # a command may lie on the belt twice: published again after a crash, or recalled and issued anew
                row = found.pop(command.attempt_id, None)
                if row is None:
                    continue
                if row["recipient_id"] != command.recipient_id or bool(row["exercise"]) != command.exercise:
                    # an attempt of ours with somebody else's name on it, or one that takes an exercise for a leak or a
                    # leak for an exercise: nobody here writes such a command
                    strangers.append(command.attempt_id)
                    continue
                if row["release_id"] != command.release_id:
                    under_another.append((command, row["incident_id"]))
                    continue
                if row["state"] != AttemptState.COMMANDED:
                    continue
                if row["incident_id"] not in gates:
                    gates[row["incident_id"]] = open_gates(connection, row["incident_id"])
                stale = row["release_state"] != "releasing" or row["current_epoch"] != command.epoch
                stale = stale or (yields and row["exercise"])
                why = None if stale else self._kept_back(connection, row, gates[row["incident_id"]])
                if stale or why is not None:
                    recalled.append(Change(row["attempt_id"], Trigger.RECALL, now))
                    if why is not None:
                        # the meter may see it otherwise, by another dispatcher's circuits, and command them again at once
                        kept[why].append(row["attempt_id"])
                else:
                    row["refused"] = self._kept_back.second_refused(row)
                    claims.append(row)
            strangers += self._of_no_release(connection, under_another)
            if strangers:
                self._report_strangers(connection, strangers, now)
            self._changes.apply(connection, recalled, now)
            mark_kept(connection, kept, now)
            again = [row["recipient_id"] for row in claims if row["number"] > 1 or row["send_count"] > 0]
            told_in, _ = standing_elsewhere(connection, twins_of(connection, again))
            if told_in:
                # since the command was written; nobody's first notice: their turn does not begin while another is at it
                self._changes.end_as_told(connection, told_in, now)
                claims = [row for row in claims if row["recipient_id"] not in told_in]
            self._claim(connection, claims, dispatcher, now)
            positions.write_positions(connection, stage, after, self._topic_ids)
            return tuple(intent_of(row) for row in claims)

        return self._database.writing(work)

    def _claim(self, connection: sa.Connection, rows: Sequence[dict[str, Any]], dispatcher: str, now: datetime) -> None:
        """Move locked, commanded attempts to `intended`: alike for all, so one statement does for hundreds."""
        by_count: dict[tuple[int, datetime], list[str]] = defaultdict(list)
        by_moment: dict[datetime, list[dict[str, Any]]] = defaultdict(list)
        # only a repeat has a text by now, and needs its person's key for it
        keys = person_keys(connection, [row["root"] for row in rows if row["body_sha256"] is not None])
        for row in rows:
            row["send_count"] += 1
            row["state"], row["claimed_at"], row["person_key"] = AttemptState.INTENDED.value, now, keys.get(row["root"])
            row["state_at"] = at = moment_after(row["state_at"], now)
            by_count[row["send_count"], at].append(row["attempt_id"])
            by_moment[at].append(row)
        intended = {"state": AttemptState.INTENDED.value, "dispatcher": dispatcher}
        for (count, at), ids in by_count.items():
            called = {"called_count": 1} if count == 1 else {}
            values = {**intended, **called, "state_at": at, "intended_at": at, "send_count": count}
            set_alike(connection, ids, AttemptState.COMMANDED, values)
        happened = Happened(AttemptState.COMMANDED, AttemptState.INTENDED, Trigger.INTEND, now)
        outcomes = [each for at, alike in by_moment.items() for each in outcomes_of(alike, happened, at)]
        outbox.append_many(connection, DELIVERY_OUTCOMES, DeliveryOutcome.ce_type, outcomes, now)
        self._claims.keep(rows)

    @staticmethod
    def _strangers(connection: sa.Connection, unknown: Sequence[Command]) -> list[str]:
        """Return the attempts of `unknown` that we never made: those of a void release were withdrawn when it ended."""
        if not unknown:
            return []
        void = set(
            connection.execute(
                sa.select(release.c.release_id).where(
                    release.c.release_id.in_(sorted({each.release_id for each in unknown}))
                    & (release.c.state == "void")
                )
            ).scalars()
        )
        return [each.attempt_id for each in unknown if each.release_id not in void]

    @staticmethod
    def _of_no_release(connection: sa.Connection, commands: Sequence[tuple[Command, str]]) -> list[str]:
        """Return the attempts of commands under a release that their incident never had. Another one of it may have carried them
        before, and what it had put on the belt comes late.
        """
        ids = {each.release_id for each, _ in commands}
        incidents = by_id(connection, release.c.release_id, [release.c.incident_id], ids)
        return [each.attempt_id for each, its in commands if incidents.get(each.release_id) != (its,)]

    @staticmethod
    def _report_strangers(connection: sa.Connection, attempt_ids: Sequence[str], now: datetime) -> None:
        STRANGERS.inc(len(attempt_ids))
        upsert(
            connection,
            page,
            [
                {
                    "page_id": hashlib.sha256(f"stranger/{attempt_ids[0]}".encode()).hexdigest(),
                    "incident_id": None,
                    "kind": "delivery.command_not_in_ledger",
                    "severity": "critical",
                    "roles": ["sre", "responder"],
                    "title": "A delivery command that Tocsin did not issue; nobody was mailed",
                    "body": {"next": "tocsin topics show --json"},
                    "raised_at": now,
                }
            ],
        )

    def put_back(self, commands: Sequence[Command]) -> None:
        """Let commanded attempts wait again, unclaimed: no provider of their channel takes messages at this moment.

        Not logged, as commands are not: nothing has happened to anybody. Commands that are not ours are told of, as by `intend`.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> None:
            recipients: dict[str, str] = {}
            for some in in_parts([each.attempt_id for each in commands]):
                connection.execute(
                    sa.update(attempt)
                    .where(attempt.c.attempt_id.in_(some) & (attempt.c.state == AttemptState.COMMANDED))
                    .values(state=AttemptState.PLANNED.value, state_at=state_at_not_before(now))
                )
                recipients.update(
                    (row.attempt_id, row.recipient_id)
                    for row in connection.execute(
                        sa.select(attempt.c.attempt_id, attempt.c.recipient_id).where(attempt.c.attempt_id.in_(some))
                    )
                )
            strangers = self._strangers(connection, [each for each in commands if each.attempt_id not in recipients])
            strangers += [
                each.attempt_id
                for each in commands
                if recipients.get(each.attempt_id, each.recipient_id) != each.recipient_id
            ]
            if strangers:
                self._report_strangers(connection, strangers, now)

        self._database.writing(work)

    def standing(self, intents: Sequence[Intent]) -> Collection[str]:
        """Return the attempts of `intents` that may be sent at this moment: still this very claim, in the same epoch, of a
        release that runs. A dispatcher that was slow may find that the sweeper gave its claim to another.
        """
        if not intents:
            return ()
        now = self._clock.now()
        claims = {item.attempt_id: item.send_count for item in intents}
        releases = {item.attempt_id: (item.incident_id, item.release_id, item.epoch) for item in intents}
        # A first call's claim is left by its own report, or by the sweeper after ten seconds and more.
        young = {
            item.attempt_id
            for item in intents
            if item.send_count == 1
            and (claim := self._claims.get(item.attempt_id)) is not None
            and claim["send_count"] == 1
            and timedelta(0) <= now - claim["claimed_at"] < _SURELY_OURS
        }
        ids = sorted(claims.keys() - young)
        with self._database.read() as connection:
            named = ", ".join(literals_of(connection, sorted({item.release_id for item in intents})))
            running = set(
                map(tuple, connection.exec_driver_sql(f"{_RUNNING}({named})", execution_options=AS_IT_STANDS))
            )
            ours = {
                row.attempt_id
                for some in in_parts(ids)
                for row in connection.execute(
                    sa.select(attempt.c.attempt_id, attempt.c.send_count).where(
                        attempt.c.attempt_id.in_(some) & (attempt.c.state == AttemptState.INTENDED)
                    )
                )
                if claims[row.attempt_id] == row.send_count
            }
            exercises = {item.attempt_id for item in intents if item.exercise}
            yielding = exercises if exercises and real_release_running(connection) is not None else set()
        return {attempt_id for attempt_id in (ours | young) - yielding if releases[attempt_id] in running}

    def note_calls(self, intents: Sequence[Intent]) -> None:
        """Write that a provider is being asked for these claims, right before it is: for all but first ones, which count as
        called from the beginning. So nobody's last try is one for which nobody was asked, and most pay nothing for it.

        A crash before this leaves claims of which it is known that nobody was called; after it, nobody knows.
        """
        by_count: dict[int, list[str]] = defaultdict(list)
        for item in intents:
            if item.send_count > 1:
                by_count[item.send_count].append(item.attempt_id)

        def work(connection: sa.Connection) -> None:
            for send_count, ids in by_count.items():
                count_calls(connection, sorted(ids), send_count)

        if by_count:
            self._database.writing(work)

    def learn_texts(self, texts: Sequence[SentText]) -> None:
        """See `Ledger.learn_texts`. What was reported has its text and its number, and a later call its own; a crash before this
        tells again.
        """
        unknown: set[str] = set()
        numbers = {each.attempt_id: each.number_mark for each in texts if each.number_mark is not None}
        unnumbered: set[str] = set()
        with self._database.read() as connection:
            for some in in_parts(sorted({each.attempt_id for each in texts})):
                without = attempt.c.attempt_id.in_(some) & attempt.c.body_sha256.is_(None)
                unknown.update(connection.execute(sa.select(attempt.c.attempt_id).where(without)).scalars())
            for some in in_parts(sorted(numbers)):
                without = attempt.c.attempt_id.in_(some) & attempt.c.phone_hmac.is_(None)
                unnumbered.update(connection.execute(sa.select(attempt.c.attempt_id).where(without)).scalars())
        if unnumbered:
            learned = {attempt_id: numbers[attempt_id] for attempt_id in sorted(unnumbered)}
            self._database.writing(lambda connection: keep_numbers(connection, learned))
        lost = [
            SentReport(each.attempt_id, Trigger.LOST, each.send_count, body_sha256=each.body_sha256)
            for each in texts
            if each.attempt_id in unknown
        ]
        if lost:
            self.report(lost)

    def bounced(self, marks: Collection[str]) -> Collection[str]:
        """Return those of the keyed hashes of addresses and numbers that bounced for good, whoever had them."""
        with self._database.read() as connection:
            return bounced_marks(connection, sorted(marks))

    def report(self, reports: Sequence[SentReport]) -> None:
        """Write what providers said. Account notices leave through the outbox in the same transaction.

        A crash before this leaves `intended`: the receipts, which carry the attempt's tag, settle it.
        """
        now = self._clock.now()
        named = [item for item in reports if item.provider_message_id]
        numbers = {item.attempt_id: item.number_mark for item in reports if item.number_mark is not None}

        def work(connection: sa.Connection, *, looking: bool) -> None:
            changes: list[Change] = []
            notices: list[outbox.Outgoing] = []
            simple = self._hand_over(connection, reports, now, looking=looking)
            keep_numbers(connection, numbers)
            told = self._with_deferrals(connection, reports, now)
            for item in told:
                if item.attempt_id in simple:
                    continue
                learned: dict[str, Any] = {"body_sha256": item.body_sha256}
                if item.provider_message_id is not None:
                    learned["provider_message_id"] = item.provider_message_id
                if item.provider is not None:
                    learned["provider"] = item.provider
                if item.trigger in (Trigger.THROTTLED, Trigger.RECALL):
                    # nothing left the house: this call does not count against the one repeat
                    learned["send_count"] = item.send_count - 1
                uncalled = (item.called or item.send_count == 1) and "send_count" in learned
                changes.append(
                    Change(item.attempt_id, item.trigger, now, learned, item.code, item.send_count, uncalled, item.gone)
                )
                if item.notice is not None:
                    notices.append(
                        outbox.Outgoing(
                            ACCOUNT_NOTICES,
                            root=f"customer/{item.notice.customer_id}",
                            key=f"notice/{item.notice.notice_id}",
                            event_id=item.notice.notice_id,
                            event=item.notice,
                        )
                    )
            outbox.append(connection, notices, now)
            self._changes.apply(connection, changes, now)
            for item in told:
                if item.not_before is not None:
                    connection.execute(
                        sa.update(attempt)
                        .where((attempt.c.attempt_id == item.attempt_id) & (attempt.c.state == AttemptState.PLANNED))
                        .values(kept_until=item.not_before, kept_why=KeptWhy.DEFERRED if item.deferred else None)
                    )
            self._receipts.match_strays(connection, named, now)

        try:
            self._database.writing(lambda connection: work(connection, looking=False))
        except _Overtaken:
            self._database.writing(lambda connection: work(connection, looking=True))
        self._claims.forget(item.attempt_id for item in reports)
        # Whoever stored a receipt meanwhile could not see these messages yet, nor we the receipt: each looks again after its
        # commit. A crash before that leaves such a receipt aside until a dispatcher or receipts begins (`positions`).
        self._database.writing(lambda connection: self._receipts.match_strays(connection, named, now))

    def _with_deferrals(
        self, connection: sa.Connection, reports: Sequence[SentReport], now: datetime
    ) -> Sequence[SentReport]:
        """Return the reports, those of messages that a recipient's own server puts off with when they are tried again; once the
        channel has had its time since the first such answer they are refused, and the next channel begins.
        """
        deferred = [item.attempt_id for item in reports if item.deferred]
        if not deferred:
            return reports
        known: dict[str, dict[str, Any]] = {}
        for some in in_parts(deferred):
            ours = attempt.c.attempt_id.in_(some)
            connection.execute(sa.update(attempt).where(ours & attempt.c.deferred_at.is_(None)).values(deferred_at=now))
            for row in connection.execute(
                sa.select(
                    attempt.c.attempt_id,
                    attempt.c.channel,
                    attempt.c.timeout_seconds,
                    attempt.c.deferred_at,
                    recipient.c.deadline_at,
                )
                .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
                .where(ours)
            ).mappings():
                known[row["attempt_id"]] = dict(row)
        found = []
        for item in reports:
            put_off = known.get(item.attempt_id) if item.deferred else None
            if put_off is not None:
                again = self._changes.put_off_until(put_off, now)
                item = (
                    structs.replace(item, trigger=Trigger.REFUSED)
                    if again is None
                    else structs.replace(item, not_before=again)
                )
            found.append(item)
        return found

    def _hand_over(
        self, connection: sa.Connection, reports: Sequence[SentReport], now: datetime, *, looking: bool
    ) -> Collection[str]:
        """Settle what a provider took at once and of which nothing else has happened meanwhile; return these attempts.

        What the claim told is still true of those that are still the same call's. `looking` for these first, with a lock,
        costs as much again as to change them: without, it raises _Overtaken where something has happened to one.
        """
        claims = {
            item.attempt_id: (item, row)
            for item in reports
            if item.trigger is Trigger.ACCEPTED and item.notice is None and (row := self._claims.get(item.attempt_id))
        }
        at_once = is_mariadb(connection) and not looking
        stand: Iterable[Sequence[Any]] = (
            [
                (attempt_id, AttemptState.INTENDED, claim["send_count"], claim["provider"])
                for attempt_id, (_, claim) in sorted(claims.items())
            ]
            if at_once
            else _CLAIMED.of(connection, sorted(claims))
        )
        rows: list[dict[str, Any]] = []
        # of very many people few deadlines differ
        expiry: dict[tuple[object, ...], datetime] = {}
        for attempt_id, state, count, provider in stand:
            item, claim = claims[attempt_id]
            if state != AttemptState.INTENDED or count != item.send_count or claim["send_count"] != count:
                continue
            alike = (claim["timeout_seconds"], claim["channel"], claim["deadline_at"])
            if alike not in expiry:
                expiry[alike] = self._changes.expires_at(claim, now)
            rows.append(
                {
                    **claim,
                    "body_sha256": item.body_sha256,
                    "provider_message_id": item.provider_message_id,
                    "provider": item.provider or provider,
                    "expires_at": expiry[alike],
                }
            )
        at = max((moment_after(row["state_at"], now) for row in rows), default=now)
        handed_over = {
            "state": AttemptState.HANDED_OVER.value, "state_at": at, "handed_over_at": now,
        }  # fmt: skip
        each = ("body_sha256", "provider_message_id", "provider", "expires_at")
        if at_once:
            still = f"`attempt`.`state` = '{AttemptState.INTENDED.value}'"
            same = ("send_count",)
            if len(rows) != update_joined(
                connection, attempt, rows, each=each, alike=handed_over, where=still, same=same
            ):
                raise _Overtaken
        else:
            update_many(connection, attempt, rows, each=each, alike=handed_over)
        keys = person_keys(connection, [row["root"] for row in rows])
        by_code: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            row["person_key"] = keys.get(row["root"])
            by_code[claims[row["attempt_id"]][0].code].append(row)
        for code, some in by_code.items():
            happened = Happened(AttemptState.INTENDED, AttemptState.HANDED_OVER, Trigger.ACCEPTED, now, sub_type=code)
            outcomes = outcomes_of(some, happened, at)
            outbox.append_many(connection, DELIVERY_OUTCOMES, DeliveryOutcome.ce_type, outcomes, now)
        return {row["attempt_id"] for row in rows}
