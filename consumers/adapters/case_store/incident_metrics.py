"""Metrics of single incidents, for the dashboard that follows one: read from the case store now and then, in a thread of its own.

Exercises are left out. An incident's series go a day after its end, and no more than the newest twenty have any, so that
their number stays bounded. Not for alerts: those ask for what holds over all incidents.
"""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa
import structlog
from prometheus_client import Gauge

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import AttemptState, Channel
from bridge.runtime.clock import Clock
from bridge.runtime.telemetry import gauge
from consumers.adapters.case_store.clocks import Clocks
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.progress import SqlProgress
from consumers.adapters.case_store.tables import attempt, incident, obligation
from consumers.case.progress import Progress, ends_at
from consumers.domain.delivery import PersonEnd

log = structlog.get_logger()

PEOPLE = gauge(
    "tocsin_incident_people_count",
    "people of an incident by how it ended for them: open ones have no end yet, held ones are those of them who may not be told",
    question="who of this incident has been told?",
    labels={"incident": (), "end": ()},
)
ATTEMPTS = gauge(
    "tocsin_incident_attempts_count",
    "attempts of an incident by channel and where they stand in the ledger",
    question="where do this incident's notices stand?",
    labels={"incident": (), "channel": (), "state": ()},
)
FALLBACKS = gauge(
    "tocsin_incident_fallbacks_count",
    "attempts of an incident that began because an earlier channel did not reach somebody, by the channel tried instead",
    question="how many of this incident need another channel?",
    labels={"incident": (), "channel": ()},
)
RATE = gauge(
    "tocsin_incident_rate_per_second",
    "messages of an incident put on the belt a second, lately",
    question="how fast does this incident's release go?",
    labels={"incident": (), "channel": ()},
)
SILENCE = gauge(
    "tocsin_incident_oldest_without_receipt_seconds",
    "since the oldest message of an incident that has no final receipt was handed over; 0 if there is none",
    question="do receipts of this incident come back?",
    labels={"incident": (), "channel": ()},
)
DUTIES = gauge(
    "tocsin_incident_duties_count",
    "duties of an incident by what became of them",
    question="what does the law demand in this incident?",
    labels={"incident": (), "status": ()},
)
DUE = gauge(
    "tocsin_incident_duty_seconds",
    "seconds to the deadline of a duty of an incident whose clock runs: from the earliest instant (conservative), as recorded",
    question="how long have we got for each duty of this incident?",
    labels={"incident": (), "duty": (), "clock": ()},
)
END = gauge(
    "tocsin_incident_projected_end_seconds",
    "seconds until the last message of an incident has left, as fast as it goes now; 0: none is left, +Inf: nothing leaves",
    question="when does this incident's release end?",
    labels={"incident": ()},
)
LEFT = gauge(
    "tocsin_incident_deadline_seconds",
    "seconds to the earliest deadline of those of an incident who have no end yet; +Inf: there are none",
    question="will everybody of this incident be told in time?",
    labels={"incident": ()},
)

_SHOWN_AFTER_END = timedelta(days=1)
_MOST = 20
_EVERY_SECONDS = 5.0

_Values = dict[tuple[str, ...], float]


class IncidentMetrics:
    """Reads open incidents and shows them. `most`: messages a second that each channel may carry."""

    def __init__(self, database: CaseDatabase, clock: Clock, most: Mapping[Channel, float]) -> None:
        self._database = database
        self._clock = clock
        self._most = most
        self._progress = SqlProgress(database, clock)
        self._clocks = Clocks(database, clock)
        self._shown: dict[Gauge, set[tuple[str, ...]]] = defaultdict(set)

    def run(self, stop: threading.Event) -> None:
        """Show until `stop`; a large case store is read less often, so that it costs a twentieth of the time at most."""
        while not stop.is_set():
            began = time.monotonic()
            try:
                self.show()
            except Unreachable as error:
                log.warning("metrics of incidents wait", reason=str(error))
            stop.wait(max(_EVERY_SECONDS, 20 * (time.monotonic() - began)))

    def show(self) -> None:
        """Read and show once. Raises Unreachable."""
        now = self._clock.now()
        found: dict[Gauge, _Values] = {
            each: {} for each in (PEOPLE, ATTEMPTS, FALLBACKS, RATE, SILENCE, DUTIES, DUE, END, LEFT)
        }
        incidents = self._incidents(now)
        for incident_id in incidents:
            self._of_progress(found, self._progress.progress(incident_id), now)
            self._of_rows(found, incident_id, now)
        for clock in self._clocks.running():
            if clock.incident_id not in incidents:
                continue
            for which, at in (("conservative", clock.conservative_at), ("recorded", clock.recorded_at)):
                if at is not None:
                    key = (clock.incident_id, clock.regime_id, which)
                    found[DUE][key] = min(found[DUE].get(key, math.inf), (at - now).total_seconds())
        for metric, values in found.items():
            for labels, value in values.items():
                metric.labels(*labels).set(value)
            for labels in self._shown[metric] - values.keys():
                metric.remove(*labels)
            self._shown[metric] = set(values)

    def _incidents(self, now: datetime) -> list[str]:
        with self._database.read() as connection:
            return list(
                connection.execute(
                    sa.select(incident.c.incident_id)
                    .where(
                        ~incident.c.exercise
                        & (incident.c.state != "dismissed")
                        & (incident.c.closed_at.is_(None) | (incident.c.closed_at > now - _SHOWN_AFTER_END))
                    )
                    .order_by(incident.c.opened_at.desc())
                    .limit(_MOST)
                ).scalars()
            )

    def _of_progress(self, found: dict[Gauge, _Values], seen: Progress, now: datetime) -> None:
        name = seen.incident_id
        ends = {
            PersonEnd.REACHED.value: seen.reached,
            PersonEnd.SUBSTITUTED.value: seen.substituted,
            PersonEnd.UNREACHABLE_REPORTED.value: seen.unreachable,
        }
        ends["open"] = seen.people - sum(ends.values())
        ends["held"] = sum(count for why, count in seen.why_not.items() if why.startswith("are held"))
        found[PEOPLE] |= {(name, end): count for end, count in ends.items()}
        for channel in Channel:
            pace = seen.pace.get(channel.value)
            found[RATE][(name, channel.value)] = 0.0 if pace is None else pace.per_second
        end = ends_at(seen, self._most, now)
        still = math.inf if any(seen.waiting.values()) else 0.0
        found[END][(name,)] = still if end is None else (end - now).total_seconds()
        deadline = seen.earliest_deadline_at
        found[LEFT][(name,)] = math.inf if deadline is None else (deadline - now).total_seconds()

    def _of_rows(self, found: dict[Gauge, _Values], incident_id: str, now: datetime) -> None:
        for channel in Channel:
            found[FALLBACKS][(incident_id, channel.value)] = 0
            found[SILENCE][(incident_id, channel.value)] = 0
        with self._database.read() as connection:
            for row in connection.execute(
                sa.select(
                    attempt.c.channel,
                    attempt.c.state,
                    sa.func.count().label("number"),
                    sa.func.sum(sa.case((attempt.c.fallback, 1), else_=0)).label("fallbacks"),
                    sa.func.min(attempt.c.handed_over_at, type_=attempt.c.handed_over_at.type).label("oldest"),
                )
                .where(attempt.c.incident_id == incident_id)
                .group_by(attempt.c.channel, attempt.c.state)
            ):
                found[ATTEMPTS][(incident_id, row.channel, row.state)] = row.number
                found[FALLBACKS][(incident_id, row.channel)] += int(row.fallbacks)
                if row.state == AttemptState.HANDED_OVER and row.oldest is not None:
                    found[SILENCE][(incident_id, row.channel)] = (now - row.oldest).total_seconds()
            for status, count in connection.execute(
                sa.select(obligation.c.status, sa.func.count())
                .join(
                    incident,
                    (incident.c.incident_id == obligation.c.incident_id)
                    & (incident.c.revision == obligation.c.revision),
                )
                .where(obligation.c.incident_id == incident_id)
                .group_by(obligation.c.status)
            ):
                found[DUTIES][(incident_id, status)] = count
