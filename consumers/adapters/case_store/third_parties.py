"""Rows of what third parties are told, from a release to the topic's answer. Each answer reaches the log by the outbox."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bridge.runtime.clock import Clock
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.tables import incident, page, release, third_party_notice
from consumers.domain.sending import SendResult, SendState
from consumers.domain.third_parties import ReleasedIncident, ThirdParty, concerned, document, notice_id

_UNANSWERED_AFTER = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(minutes=5)
_STILL_NEWS = timedelta(days=1)
_RUNNING = ("releasing", "paused")
_TRIES_BEFORE_PAGE = 6
"""Two minutes: a topic that is only too busy, or away for a moment, has taken it by then."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A notice that is about to be published."""

    notice_id: str
    topic_arn: str
    document: str
    exercise: bool


@dataclass(frozen=True, slots=True)
class ThirdPartyState:
    """How one notice stands."""

    notice_id: str
    release_id: str
    party: str
    state: str
    state_at: datetime
    tries: int
    code: str | None
    document_sha256: str


class ThirdPartyTables:
    """Implements `consumers.stages.third_parties.ThirdPartyLedger`. `tells_of_exercises`: outside `live` nobody hears."""

    def __init__(
        self, database: CaseDatabase, clock: Clock, parties: Sequence[ThirdParty], *, tells_of_exercises: bool = False
    ) -> None:
        self._database = database
        self._clock = clock
        self._parties = parties
        self._tells_of_exercises = tells_of_exercises
        self._planned: set[str] = set()

    def plan(self) -> int:
        """Write a notice for every party that a running release concerns and that has none of it; return how many."""
        if not self._parties:
            return 0
        now = self._clock.now()

        def work(connection: sa.Connection) -> tuple[int, set[str]]:
            rows = connection.execute(
                sa.select(release, incident.c.detected_at, incident.c.scope, incident.c.exercise)
                .join(incident, incident.c.incident_id == release.c.incident_id)
                .where(
                    # whoever is named only later is not told of what is long over
                    (release.c.state.in_(_RUNNING) | (release.c.finished_at > now - _STILL_NEWS))
                    & (release.c.revision == incident.c.revision)
                    & (sa.true() if self._tells_of_exercises else incident.c.exercise.is_(sa.false()))
                    & release.c.release_id.not_in(sorted(self._planned))
                )
            ).mappings()
            looked_at: set[str] = set()
            planned: list[dict[str, Any]] = []
            for row in rows:
                looked_at.add(row["release_id"])
                planned.extend(self._row(row, party, now) for party in concerned(self._parties, row["scope"]))
            if planned:
                # another process may have written them before: theirs stay as they are
                upsert(connection, third_party_notice, planned)
            return len(planned), looked_at

        count, looked_at = self._database.writing(work)
        self._planned |= looked_at
        return count

    @staticmethod
    def _row(row: Any, party: ThirdParty, now: datetime) -> dict[str, Any]:
        made = document(
            party,
            ReleasedIncident(
                row["incident_id"], row["revision"], row["release_id"], row["released_at"] or now, row["detected_at"],
                row["scope"], int(row["policy"].get("recipient_count", 0)), bool(row["exercise"]),
            ),
        )  # fmt: skip
        return {
            "notice_id": notice_id(row["release_id"], party.name), "release_id": row["release_id"],
            "incident_id": row["incident_id"], "party": party.name, "topic_arn": party.topic_arn, "document": made,
            "document_sha256": hashlib.sha256(made.encode()).hexdigest(), "state": "planned", "state_at": now, "tries": 0,
            "code": None, "message_id": None, "message_salt": secrets.token_hex(16),
        }  # fmt: skip

    def take(self, limit: int) -> Sequence[Taken]:
        """Return what is due and note that it is about to be published. A crash right after this publishes it again once
        its answer has been missing for a minute.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> Sequence[Taken]:
            rows = connection.execute(
                sa.select(third_party_notice, incident.c.exercise)
                .join(incident, incident.c.incident_id == third_party_notice.c.incident_id)
                .where(
                    (third_party_notice.c.state != "published")
                    & (sa.true() if self._tells_of_exercises else incident.c.exercise.is_(sa.false()))
                )
                .order_by(third_party_notice.c.state_at, third_party_notice.c.notice_id)
            ).mappings()
            due = [row for row in rows if row["state_at"] + _pause(row) <= now][:limit]
            for row in due:
                connection.execute(
                    sa.update(third_party_notice)
                    .where(third_party_notice.c.notice_id == row["notice_id"])
                    .values(state="intended", state_at=now, tries=row["tries"] + 1)
                )
            return [Taken(row["notice_id"], row["topic_arn"], row["document"], bool(row["exercise"])) for row in due]

        return self._database.writing(work)

    def settle(self, results: Sequence[SendResult]) -> None:
        """Note what the topics answered. What was taken goes to the log; what was refused, or is not taken after some tries (as
        by a topic that lets us not publish), rings once and is tried again.
        """
        now = self._clock.now()

        def work(connection: sa.Connection) -> None:
            for result in results:
                row = (
                    connection.execute(
                        sa.select(third_party_notice, incident.c.exercise)
                        .join(incident, incident.c.incident_id == third_party_notice.c.incident_id)
                        .where(third_party_notice.c.notice_id == result.attempt_id)
                    )
                    .mappings()
                    .one()
                )
                state = {SendState.ACCEPTED: "published", SendState.UNKNOWN: "intended"}.get(result.state, "planned")
                connection.execute(
                    sa.update(third_party_notice)
                    .where(third_party_notice.c.notice_id == result.attempt_id)
                    .values(state=state, state_at=now, code=result.code, message_id=result.provider_message_id)
                )
                if result.state is SendState.ACCEPTED:
                    outbox.append(connection, [_published(row, str(result.provider_message_id), now)], now)
                    connection.execute(
                        sa.update(page)
                        .where((page.c.page_id == _page_id(row)) & page.c.acknowledged_at.is_(None))
                        .values(acknowledged_at=now)
                    )
                elif result.state is SendState.REJECTED or row["tries"] >= _TRIES_BEFORE_PAGE:
                    upsert(connection, page, [_not_taken(row, result, now)])

        self._database.writing(work)

    def states(self, incident_id: str) -> Sequence[ThirdPartyState]:
        """Return how an incident's notices stand, by party."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(third_party_notice)
                .where(third_party_notice.c.incident_id == incident_id)
                .order_by(third_party_notice.c.party, third_party_notice.c.state_at)
            ).mappings()
            return [ThirdPartyState(**{name: row[name] for name in ThirdPartyState.__slots__}) for row in rows]


def _pause(row: Any) -> timedelta:
    if row["state"] == "intended":
        return _UNANSWERED_AFTER
    return min(timedelta(seconds=2 ** min(row["tries"], 10)), _LONGEST_PAUSE) if row["tries"] else timedelta(0)


def _published(row: Any, message: str, now: datetime) -> outbox.Outgoing:
    event_id = hashlib.sha256(f"{row['notice_id']}/published".encode()).hexdigest()[:32]
    body = {
        "notice_id": row["notice_id"], "release_id": row["release_id"], "party": row["party"],
        "document_sha256": row["document_sha256"], "try_count": row["tries"],
        "provider_message_sha256": hashlib.sha256(f"{row['message_salt']}{message}".encode()).hexdigest(),
    }  # fmt: skip
    return outbox.case_event("party.notified", row["incident_id"], event_id, now, body, exercise=bool(row["exercise"]))


def _page_id(row: Any) -> str:
    return hashlib.sha256(f"third party/{row['notice_id']}".encode()).hexdigest()


def _not_taken(row: Any, result: SendResult, now: datetime) -> dict[str, Any]:
    refuses = "refuses" if result.state is SendState.REJECTED else "does not take"
    return {
        "page_id": _page_id(row),
        "incident_id": row["incident_id"],
        "kind": "third_party.refused",
        "severity": "warning",
        "roles": ["sre", "dpo"],
        "title": f"{row['incident_id']}: the topic of {row['party']} {refuses} its notice ({result.code}); it is tried again",
        "body": {"party": row["party"], "next": f"tocsin delivery third-parties {row['incident_id']}"},
        "raised_at": now,
    }
