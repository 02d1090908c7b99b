"""Metrics of single incidents: what the ledger says, and no series of an incident that has long ended."""

import math
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from prometheus_client import REGISTRY

from bridge.contracts.events import Channel
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.incident_metrics import IncidentMetrics
from consumers.domain.ledger import Lane
from consumers.domain.sending import ReceiptKind
from tests.unit.adapters.ledger_case import sqlite_case

_OWN = "tocsin_incident_"


def test_one_incident_is_shown_as_the_ledger_has_it_and_goes_a_day_after_its_end(tmp_path: Path) -> None:
    case = sqlite_case(tmp_path)
    case.person(1)
    case.person(2)
    case.ledger.begin_attempts(10)
    intents = case.claim(Lane(Channel.EMAIL, belt=9, at_once=9))
    case.hand_over(intents)
    case.receive(intents[0], ReceiptKind.BOUNCED_HARD)
    case.clock.at += timedelta(seconds=30)
    with case.database.read() as connection:
        (name,) = connection.execute(sa.select(tables.incident.c.incident_id)).scalars().all()

    def shown(metric: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(_OWN + metric, {"incident": name, **labels})

    metrics = IncidentMetrics(case.database, case.clock, {Channel.EMAIL: 10.0, Channel.SMS: 1.0})
    metrics.show()
    assert (shown("people_count", end="open"), shown("people_count", end="reached")) == (2, 0)
    assert shown("attempts_count", channel="email", state="handed_over") == 1
    assert (shown("fallbacks_count", channel="sms"), shown("fallbacks_count", channel="email")) == (1, 0)
    assert shown("oldest_without_receipt_seconds", channel="email") == 30
    assert shown("projected_end_seconds") == 1, "one SMS at one a second"
    assert shown("deadline_seconds") not in (None, math.inf)

    with case.database.write() as connection:
        connection.execute(sa.update(tables.incident).values(state="closed", closed_at=case.clock.now()))
    case.clock.at += timedelta(hours=23)
    metrics.show()
    assert shown("people_count", end="open") == 2
    case.clock.at += timedelta(hours=2)
    metrics.show()
    assert [
        sample
        for family in REGISTRY.collect()
        for sample in family.samples
        if family.name.startswith(_OWN) and sample.labels["incident"] == name
    ] == []
