"""What a dispatcher has claimed, as far as the ledger must know it again when the outcome comes: read once, with few
columns, and kept in memory until then. The table of attempts stays the truth: who uses a claim checks its row first.
"""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import AttemptState, Channel
from consumers.adapters.case_store.engine import AS_IT_STANDS, in_parts, literals_of, update_alike
from consumers.adapters.case_store.outbox import Written
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.tables import attempt, incident, person_key, recipient, release, segment
from consumers.domain.ledger import Intent
from consumers.evidence.commitment import body_text, commit, incident_key

_KEPT = 10_000
_CLOCKS_DIFFER = timedelta(minutes=1)
"""So far apart the clocks of two machines may be."""
_CHANNELS = {channel.value: channel for channel in Channel}

_ATTEMPT = (
    "attempt_id", "recipient_id", "number", "incident_id", "release_id", "channel", "provider", "state", "state_at",
    "send_count", "message_salt", "provider_message_id", "body_sha256", "bundle_sha256", "timeout_seconds",
)  # fmt: skip
_PERSON = (
    "recipient_id",
    "root",
    "round",
    "customer_id",
    "locale",
    "website_id",
    "controller",
    "segment_id",
    "deadline_at",
    "subject_commitment",
    "contact",
    "residence",
)
_CLAIMABLE = PackedRows(attempt, _ATTEMPT, by="attempt_id", locked=True)
_PEOPLE = PackedRows(recipient, _PERSON, by="recipient_id")
_KEYS = PackedRows(person_key, ("root", "key"), by="root")
CHANGING = (
    "state", "state_at", "intended_at", "dispatcher", "handed_over_at", "expires_at", "send_count", "called_count",
    "provider", "provider_message_id", "body_sha256",
)  # fmt: skip
"""What a change of an attempt may write."""
_CHANGEABLE = PackedRows(
    attempt,
    (
        "attempt_id", "recipient_id", "number", "incident_id", "release_id", "channel", "timeout_seconds",
        "message_salt", "bundle_sha256", *CHANGING,
    ),
    by="attempt_id",
    locked=True,
)  # fmt: skip
_CHANGED_PEOPLE = PackedRows(
    recipient,
    (
        "recipient_id",
        "root",
        "roots",
        "round",
        "deadline_at",
        "subject_commitment",
        "segment_id",
        "channels",
        "final_state",
        "final_at",
    ),
    by="recipient_id",
    # what follows for somebody depends on all their attempts: two channels' receipts at once take turns
    locked=True,
)


def moment_after(last: datetime | None, now: datetime) -> datetime:
    """Return when a change happened that follows one of `last`: now, or right after that one where the clock of whoever made it
    is ahead by no more than a minute.

    The log tells which of somebody's leaves is the newest by these moments: by one that went back, a store that has all looks
    like a backup, and nothing is sent.
    """
    return now if last is None or not now <= last <= now + _CLOCKS_DIFFER else last + timedelta(microseconds=1)


def state_at_not_before(now: datetime) -> sa.ColumnElement[datetime]:
    """Return in SQL when a change of an attempt happened of which no leaf is written: see `moment_after`."""
    ahead = attempt.c.state_at.between(now, now + _CLOCKS_DIFFER)
    return sa.case((ahead, attempt.c.state_at), else_=now)


class Claims:
    """The claims of one process, by attempt. What is never reported makes room for newer ones."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """Remember what was claimed."""
        for row in rows:
            self._rows[row["attempt_id"]] = row
        while len(self._rows) > _KEPT:
            self._rows.popitem(last=False)

    def forget(self, attempt_ids: Iterable[str]) -> None:
        """Let go of what was reported."""
        for attempt_id in attempt_ids:
            self._rows.pop(attempt_id, None)

    def get(self, attempt_id: str) -> dict[str, Any] | None:
        """Return what is known of a claim."""
        return self._rows.get(attempt_id)


def claimable(connection: sa.Connection, attempt_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return attempts by id, locked, each with its person, segment, release and incident.

    What many share is read once. `residence` and `contact` are JSON texts: few of them are ever looked into.
    """
    whole = _with_people(connection, attempt_ids, _CLAIMABLE, _PEOPLE)
    _add_shared(connection, whole.values())
    return whole


def changeable(connection: sa.Connection, attempt_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return attempts by id, locked, each with what its outcome and what follows say of the person, locked as well, and whether
    it is an exercise's.
    """
    whole = _with_people(connection, attempt_ids, _CHANGEABLE, _CHANGED_PEOPLE)
    keys = person_keys(connection, [row["root"] for row in whole.values()])
    ids = {row["incident_id"] for row in whole.values()}
    exercises = by_id(connection, incident.c.incident_id, [incident.c.exercise], ids)
    for row in whole.values():
        row["person_key"], (row["exercise"],) = keys.get(row["root"]), exercises[row["incident_id"]]
    return whole


def _with_people(
    connection: sa.Connection, attempt_ids: Sequence[str], attempts: PackedRows, persons: PackedRows
) -> dict[str, dict[str, Any]]:
    """Return attempts by id, each with the columns of its person; without one there is nobody whom it is about."""
    found: dict[str, dict[str, Any]] = {}
    people: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in attempts.named(connection, attempt_ids):
        found[row["attempt_id"]] = row
        people[row["recipient_id"]].append(row)
    for person in persons.named(connection, list(people)):
        for row in people[person["recipient_id"]]:
            row.update(person)
    return {attempt_id: row for attempt_id, row in found.items() if "root" in row}


def _add_shared(connection: sa.Connection, rows: Iterable[dict[str, Any]]) -> None:
    segments = by_id(connection, segment.c.segment_id, [segment.c.key], {row["segment_id"] for row in rows})
    releases = by_id(connection, release.c.release_id, [release.c.state], {row["release_id"] for row in rows})
    columns = [incident.c.epoch, incident.c.exercise, incident.c.detected_at]
    incidents = by_id(connection, incident.c.incident_id, columns, {row["incident_id"] for row in rows})
    for row in rows:
        known = segments.get(row["segment_id"])
        row["segment_key"] = {} if known is None else known[0]
        # whose segment was taken away meanwhile has no text: planning gives them another
        row["release_state"] = None if known is None else releases[row["release_id"]][0]
        row["current_epoch"], row["exercise"], row["detected_at"] = incidents[row["incident_id"]]


def by_id(
    connection: sa.Connection, key: sa.Column[str], columns: Sequence[sa.Column[Any]], ids: set[str]
) -> dict[str, tuple[Any, ...]]:
    """Return `columns` of the rows whose `key` is one of `ids`, by it."""
    found: dict[str, tuple[Any, ...]] = {}
    wanted = sorted(each for each in ids if each is not None)
    for part in in_parts(wanted):
        for name, *values in connection.execute(sa.select(key, *columns).where(key.in_(part))):
            found[name] = tuple(values)
    return found


def intent_of(row: Mapping[str, Any]) -> Intent:
    """Return a claimed row as dispatch needs it."""
    contact = row["contact"]
    return Intent(
        attempt_id=row["attempt_id"],
        recipient_id=row["recipient_id"],
        incident_id=row["incident_id"],
        release_id=row["release_id"],
        channel=_CHANNELS[row["channel"]],
        provider=row["provider"],
        epoch=row["current_epoch"],
        send_count=row["send_count"],
        root=row["root"],
        customer_id=row["customer_id"],
        locale=row["locale"],
        website_id=row["website_id"],
        contact=None if contact in (None, "null") else contact,
        segment_id=row["segment_id"],
        segment_key=row["segment_key"],
        bundle_sha256=row["bundle_sha256"],
        deadline_at=row["deadline_at"],
        detected_at=row["detected_at"],
        exercise=bool(row["exercise"]),
        refused=row.get("refused", ()),
    )


@dataclass(frozen=True, slots=True)
class Happened:
    """What an outcome says besides its attempt's own row."""

    before: str
    after: str
    trigger: str
    occurred_at: datetime
    sub_type: str | None = None
    receipt_kind: str | None = None


def outcome_of(row: Mapping[str, Any], happened: Happened, now: datetime) -> Written:
    """Return the outcome of one change of an attempt as `DeliveryOutcome` writes it; a test compares.

    `row` is the attempt after it, with the person's commitment and, if the text is known, their key.
    """
    (outcome,) = outcomes_of([row], happened, now)
    return outcome


def outcomes_of(rows: Iterable[Mapping[str, Any]], happened: Happened, now: datetime) -> list[Written]:
    """Return what `outcome_of` does of many attempts to which the same happened."""
    known: dict[tuple[object, ...], tuple[str, str, str, str, str]] = {}
    outcomes = []
    for row in rows:
        incident_id, attempt_id, message_id = row["incident_id"], row["attempt_id"], row["provider_message_id"]
        alike = (
            incident_id, row["number"], row["round"], row["channel"], row["provider"], row["bundle_sha256"],
            row["send_count"], bool(row["exercise"]),
        )  # fmt: skip
        parts = known.get(alike)
        if parts is None:
            parts = known[alike] = _of_many_outcomes(happened, now, *alike)
        happening, before, between, bundle, after = parts
        outcome_id = sha256(f"{attempt_id}{happening}".encode()).hexdigest()[:32]
        digest = None
        if message_id is not None:
            digest = sha256(f"{row['message_salt']}{message_id}".encode()).hexdigest()
        body = _body_commitment(row["person_key"], incident_id, row["body_sha256"])
        recipient_id = row["recipient_id"]
        value = (
            f'{{"outcome_id":"{outcome_id}",{before},"recipient_id":{_text(recipient_id)},"subject_commitment":'
            f'{_text(row["subject_commitment"])},"attempt_id":{_text(attempt_id)},{between},"body_commitment":'
            f"{_digest(body)},{bundle}{_digest(digest)},{after}"
        )
        outcomes.append(Written(recipient_id, recipient_id, outcome_id, value))
    return outcomes


def _of_many_outcomes(
    happened: Happened,
    now: datetime,
    incident_id: str,
    number: int,
    round_number: int,
    channel: str,
    provider: str,
    bundle_sha256: str | None,
    send_count: int,
    exercise: bool,
) -> tuple[str, str, str, str, str]:
    """Return what the outcomes of a batch have alike: what their ids are made of besides the attempt, and the parts of their JSON
    between its first member and the person, behind the attempt, behind the text's commitment, and behind the digest of the
    provider's message.
    """
    # an attempt may pass through the same state twice (throttled, repeated): the call's number tells them apart
    happening = (
        f"/{happened.before}/{happened.after}/{happened.trigger}/{send_count}/{_isoformat(happened.occurred_at)}"
    )
    between = {
        "attempt_number": number,
        "round": round_number,
        "channel": channel,
        "provider": provider,
        "state": happened.after,
        "previous_state": happened.before,
        "sub_type": happened.sub_type,
    }
    after = {
        "receipt_kind": happened.receipt_kind,
        "occurred_at": instant(happened.occurred_at),
        "recorded_at": instant(now),
        "exercise": exercise,
    }
    bundle = f'"bundle_sha256":{_optional(bundle_sha256)},"provider_message_sha256":'
    return happening, _encode({"incident_id": incident_id})[1:-1], _encode(between)[1:-1], bundle, _encode(after)[1:]


def set_alike(connection: sa.Connection, ids: Sequence[str], before: AttemptState, values: Mapping[str, Any]) -> None:
    """Set the same values in all attempts of `ids` that are in the state `before`."""
    update_alike(connection, attempt, ids, values, where=f"state = '{before.value}'")


def count_calls(connection: sa.Connection, ids: Sequence[str], send_count: int) -> None:
    """Count one more call of those of the attempts of which this is the claim."""
    for some in in_parts(ids):
        listed = ", ".join(literals_of(connection, some))
        claimed = f"`state` = '{AttemptState.INTENDED.value}' AND `send_count` = {int(send_count)}"
        text = (
            f"UPDATE `attempt` SET `called_count` = `called_count` + 1 WHERE `attempt_id` IN ({listed}) AND {claimed}"  # noqa: S608  literals
        )
        connection.exec_driver_sql(text, execution_options=AS_IT_STANDS)


def finished_of(
    incident_id: str, recipient_id: str, body: Mapping[str, Any], now: datetime, *, exercise: bool
) -> Written:
    """Return the end of a person as `CaseEvent` writes it; a test compares. `body` says which end, and of whom."""
    # somebody may end more than once: a bounce takes an end back, and a late delivery mends one
    event_id = sha256(f"{recipient_id}/{body['state']}/{_isoformat(now)}".encode()).hexdigest()[:32]
    before, after = _of_many_ends(incident_id, now, exercise)
    value = f'{{"case_event_id":"{event_id}",{before},"body":{_encode(body)},{after}'
    return Written(incident_id, incident_id, event_id, value)


@lru_cache(maxsize=256)
def _of_many_ends(incident_id: str, now: datetime, exercise: bool) -> tuple[str, str]:
    before = {
        "kind": "person.finished",
        "incident_id": incident_id,
        "actor": None,
        "role": None,
        "occurred_at": instant(now),
    }
    return _encode(before)[1:-1], _encode({"exercise": exercise})[1:]


def command_of(row: Mapping[str, Any]) -> Written:
    """Return a command as `DeliverNotice` writes it; a test compares."""
    before, after = _of_many_commands(
        row["incident_id"], row["release_id"], row["current_epoch"], row["channel"], row["lane"], row["deadline_at"],
        bool(row["exercise"]),
    )  # fmt: skip
    value = f'{before},"recipient_id":{_text(row["recipient_id"])},"attempt_id":{_text(row["attempt_id"])},{after}'
    event_id = f"{row['attempt_id']}-{row['send_count']}-{row['current_epoch']}"
    return Written(row["recipient_id"], row["recipient_id"], event_id, value)


@lru_cache(maxsize=256)
def _of_many_commands(
    incident_id: str,
    release_id: str,
    epoch: int,
    channel: str,
    lane: str,
    deadline_at: datetime | None,
    exercise: bool,
) -> tuple[str, str]:
    """Return the parts of a command's JSON that those of a batch have alike: before the person, and behind the attempt."""
    before = {"incident_id": incident_id, "release_id": release_id, "epoch": epoch}
    after = {
        "channel": channel,
        "lane": lane,
        "deadline_at": None if deadline_at is None else instant(deadline_at),
        "exercise": exercise,
    }
    return _encode(before)[:-1], _encode(after)[1:]


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_text = json.encoder.encode_basestring


def _optional(value: str | None) -> str:
    return "null" if value is None else _text(value)


def _digest(value: str | None) -> str:
    """Return a digest that was made here as JSON: nothing in it needs an escape."""
    return "null" if value is None else f'"{value}"'


@lru_cache(maxsize=256)
def instant(at: datetime) -> str:
    """Return an instant as events write it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


@lru_cache(maxsize=256)
def _isoformat(at: datetime) -> str:
    return at.isoformat()


def _body_commitment(key: bytes | None, incident_id: str, body_sha256: str | None) -> str | None:
    """Commit to the text under the person's key. None once that key is erased: nothing may link the person any more."""
    if key is None or body_sha256 is None:
        return None
    return commit(incident_key(key, incident_id), body_text(body_sha256))


def person_keys(connection: sa.Connection, roots: Sequence[str]) -> dict[str, bytes | None]:
    """Return people's keys by root; None for an erased one."""
    return dict(_KEYS.of(connection, sorted(set(roots))))
