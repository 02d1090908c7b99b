"""What a row of an index file says, as the contracts put it."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from bridge.contracts.events import (
    CustomerChanged,
    CustomerDeparted,
    OrderChanged,
    ProvenanceRecorded,
    UntaggedWrite,
    WatchStarted,
)
from consumers.adapters.index_schema import RECORD_COLUMNS
from consumers.domain.resolution import Person


def person_of(row: Mapping[str, Any]) -> Person:
    values = {
        name: row[name]
        for name in ("root", "customer_id", "website_id", "store_id", "locale", "channels", "email_hmac")
    }
    values["residence"] = json.loads(row["residence"])
    values["contact"] = None if row["contact"] is None else json.loads(row["contact"])
    if row["departed_at"] is not None:
        return CustomerDeparted(
            **values,
            attribute_hmacs=json.loads(row["attribute_hmacs"]),
            departed_at=in_utc(row["departed_at"]),
            expires_at=in_utc(row["expires_at"]),
        )
    if row["order_id"] is not None:
        return OrderChanged(**values, order_id=row["order_id"], faults=row["faults"])
    return CustomerChanged(**values, attribute_hmacs=json.loads(row["attribute_hmacs"]), faults=row["faults"])


def mark_of(row: Mapping[str, Any]) -> UntaggedWrite:
    instants = {name: row[name] and in_utc(row[name]) for name in ("since", "seen_at", "until", "record_at")}
    return UntaggedWrite.model_validate({**row, **instants})


def watch_of(row: Mapping[str, Any]) -> WatchStarted:
    after = row["silent_from"] and in_utc(row["silent_from"])
    return WatchStarted(attribute=row["attribute"], at=in_utc(row["started_at"]), after=after)


def record_of(row: Mapping[str, Any]) -> ProvenanceRecorded:
    instants = {name: row[name] and in_utc(row[name]) for name in ("generated_at", "deleted_at", "loaded_at")}
    return ProvenanceRecorded.model_validate({name: row[name] for name in RECORD_COLUMNS} | instants)


def in_utc(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)
