"""Verification: is it real, derived or purely synthetic, does it match anybody, and since when is the company aware?

An alert is a detection; this is its own step with its own clock. It begins with whoever acknowledges and ends confirmed or
dismissed; awareness is recorded by a named person, or presumed by policy once the bound has passed. A match test takes
leaked rows, compares join keys and keeps counts: no row is stored, no key is stored.
"""

import csv
import io
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from bridge.contracts.errors import BadInput, Refused
from consumers.case.acting import Actor, needed, record_act
from consumers.case.duties import basis_of, refresh
from consumers.case.events import Body, case_event, new_salt, salted_sha256, written
from consumers.case.intake_rules import announce
from consumers.case.permissions import Act, Role
from consumers.case.records import DismissalRecord, FactRecord, IncidentRecord, MatchTestRecord, PageRecord, page_id_of
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import (
    AWARENESS,
    Move,
    State,
    found,
    known_facts,
    moved,
    refuse_while_running,
    still_open,
    void_releases,
    write_fact,
)
from consumers.domain.duties import Law, Movement

PRESUMED = ("aware_at", "controller_aware_at", "discovered_at")
"""What policy presumes when nobody has recorded it in time."""
PRESUMED_BY_POLICY = "presumed by policy"
NOT_BEGUN_AFTER = timedelta(hours=1)
UNDECIDED = (State.SUSPECTED, State.VERIFYING)


@dataclass(frozen=True, slots=True)
class AwarenessPolicy:
    """How long verification may take. `presume`: past the bound awareness is presumed; else people are only paged."""

    warn_after: timedelta = timedelta(hours=12)
    bound: timedelta = timedelta(hours=24)
    presume: bool = True


@dataclass(frozen=True, slots=True)
class VerificationClock:
    """The clock of the step itself."""

    began_at: datetime
    """The detection: from then on the company could have known."""
    warned_at: datetime
    due_at: datetime
    state: str
    missing: tuple[str, ...]
    """Instants of awareness that nobody has ever recorded, of those that policy presumes."""

    @property
    def running(self) -> bool:
        """Something is undecided: what it is, or since when the company is aware."""
        return self.state not in (State.DISMISSED, State.CLOSED) and (self.state in UNDECIDED or bool(self.missing))


def verification_clock(
    incident: IncidentRecord, history: Sequence[FactRecord], policy: AwarenessPolicy
) -> VerificationClock:
    """Return where the verification of `incident` stands."""
    ever = {record.name for record in history}
    return VerificationClock(
        incident.detected_at,
        incident.detected_at + policy.warn_after,
        incident.detected_at + policy.bound,
        incident.state,
        tuple(name for name in PRESUMED if name not in ever),
    )


def escalate(
    case: CaseWork, incident: IncidentRecord, policy: AwarenessPolicy, law: Law | None, now: datetime
) -> Sequence[Movement]:
    """Page whom the verification's clock calls for, and past the bound presume awareness; return what that moved.

    Repeating it changes nothing: each mark is paged once. What a person recorded or took back is never presumed.
    """
    history = case.facts(incident.incident_id)
    clock = verification_clock(incident, history, policy)
    if not clock.running:
        return ()
    if incident.acknowledged_at is None and now >= clock.began_at + NOT_BEGUN_AFTER:
        _page(case, incident, "verification.not_begun", "1", now, ("responder", "dpo"),
              f"verification not begun {_hours(now - clock.began_at)} after the detection",
              f"tocsin incident ack {incident.incident_id}")  # fmt: skip
    if clock.warned_at <= now < clock.due_at:
        then = "policy presumes awareness" if policy.presume and clock.missing else "its time is over"
        _page(case, incident, "verification.warned", "1", now, ("responder", "dpo"),
              f"{_open_words(clock)} {_hours(now - clock.began_at)} after the detection; at {written(clock.due_at)} {then}",
              _command(incident, clock))  # fmt: skip
    if now < clock.due_at:
        return ()
    # once more for each whole bound that passes: an undecided incident is not forgotten
    mark = str(int((now - clock.began_at) / policy.bound))
    presuming = clock.missing if policy.presume else ()
    if clock.state in UNDECIDED or (clock.missing and not presuming):
        _page(case, incident, "verification.overdue", mark, now, ("dpo", "counsel", "responder"),
              f"{_open_words(replace(clock, missing=() if presuming else clock.missing))} {_hours(now - clock.began_at)} "
              "after the detection", _command(incident, clock), severity="critical")  # fmt: skip
    return _presume(case, incident, clock, history, policy, law, now) if presuming else ()


def end_clock_pages(case: CaseWork, incident: IncidentRecord, *, by: str, at: datetime) -> None:
    """End the pages about the verification's clock once persons have recorded awareness, and decided."""
    recorded = {record.name for record in case.facts(incident.incident_id) if record.recorded_by is not None}
    if not recorded.issuperset(PRESUMED):
        return
    decided = () if incident.state in UNDECIDED else ("verification.warned", "verification.overdue")
    case.end_pages(incident.incident_id, ("awareness.presumed", *decided), by=by, at=at)


def _presume(
    case: CaseWork,
    incident: IncidentRecord,
    clock: VerificationClock,
    history: Sequence[FactRecord],
    policy: AwarenessPolicy,
    law: Law | None,
    now: datetime,
) -> Sequence[Movement]:
    """Record what nobody did. Whoever was aware in one sense was so in the others; else the bound's own instant counts."""
    said = {record.name: record.value for record in history if record.name in AWARENESS}
    known = [datetime.fromisoformat(value) for value in said.values() if value is not None]
    at = min([*known, clock.due_at])
    for name in clock.missing:
        case.add_fact(FactRecord(incident.incident_id, name, written(at), now, None, PRESUMED_BY_POLICY))
        case.publish_case_event(
            case_event(
                "fact.presumed",
                incident_id=incident.incident_id,
                actor=None,
                role=None,
                at=now,
                body={"name": name, "at": written(at)},
                exercise=incident.exercise,
            )
        )
    _page(case, incident, "awareness.presumed", written(at), now, ("dpo", "counsel", "responder"),
          f"{', '.join(clock.missing)} presumed by policy as of {written(at)}: nobody recorded awareness within "
          f"{_hours(policy.bound)}",
          f"tocsin incident aware {incident.incident_id} --as {','.join(clock.missing)} --at INSTANT --reason TEXT",
          severity="critical")  # fmt: skip
    return () if law is None else refresh(case, incident, law, now)


def _open_words(clock: VerificationClock) -> str:
    open_ = []
    if clock.state in UNDECIDED:
        open_.append("verification is not decided")
    if clock.missing:
        open_.append(f"{', '.join(clock.missing)} not recorded")
    return " and ".join(open_)


def _command(incident: IncidentRecord, clock: VerificationClock) -> str:
    if clock.missing:
        names = ",".join(clock.missing)
        return f"tocsin incident aware {incident.incident_id} --as {names} --at INSTANT --reason TEXT"
    return f"tocsin incident verify {incident.incident_id} --match-test leaked.csv --reason TEXT"


def _hours(length: timedelta) -> str:
    return f"{length.total_seconds() / 3600:.0f} h"


def _page(
    case: CaseWork,
    incident: IncidentRecord,
    kind: str,
    mark: str,
    now: datetime,
    roles: Sequence[str],
    words: str,
    command: str,
    *,
    severity: str = "warning",
) -> None:
    case.raise_page(
        PageRecord(
            page_id=page_id_of(incident.incident_id, kind, mark),
            incident_id=incident.incident_id,
            kind=kind,
            severity=severity,
            roles=tuple(roles),
            title=f"{incident.incident_id}: {words}"[:300],
            body={"detected_at": written(incident.detected_at), "exercise": incident.exercise, "next": command},
            raised_at=now,
        )
    )


# Leaked rows


class KeyKind(StrEnum):
    """What a leaked value is."""

    EMAIL = "email"
    HASH = "hash"
    """SHA-256, in hex, of a trimmed, lower-cased e-mail address."""
    CUSTOMER = "customer"
    ORDER = "order"


_CONTACT = (KeyKind.EMAIL, KeyKind.HASH)
_COLUMNS: Mapping[KeyKind, frozenset[str]] = {
    KeyKind.EMAIL: frozenset({"email", "e-mail", "mail", "email_address", "customer_email", "recipient"}),
    KeyKind.HASH: frozenset({"hash", "sha256", "email_sha256", "email_hash", "hashed_email"}),
    KeyKind.CUSTOMER: frozenset({"id", "customer_id", "customer", "entity_id", "user_id", "root"}),
    KeyKind.ORDER: frozenset({"order", "order_id"}),
}


@dataclass(frozen=True, slots=True)
class LeakedKey:
    """One value of a leaked row by which a person may be found. Never stored, logged or printed."""

    kind: KeyKind
    value: str

    def __repr__(self) -> str:
        return f"LeakedKey({self.kind})"


@dataclass(frozen=True, slots=True)
class Matched:
    """What the index knows of leaked keys: the roots of the people behind each, and who did not answer."""

    roots: Mapping[LeakedKey, frozenset[str]]
    partition_count: int
    silent_partitions: tuple[int, ...]


class LeakMatcher(Protocol):
    """Compares leaked keys with everybody whom the index knows, by join keys."""

    def match(self, keys: Sequence[LeakedKey]) -> Matched:
        """Return who is behind `keys`. Raises Unreachable if no partition answers."""
        ...


def read_rows(content: bytes, *, name: str) -> list[tuple[LeakedKey, ...]]:
    """Return the keys of every row of a CSV file (comma, semicolon, tab or one value a line); () for an unusable row.

    A header names the columns; without one each value says by itself what it is. Raises BadInput for what is no text,
    or holds no row at all; a value is never shown.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{name}: not UTF-8 text; save the leaked rows as CSV in UTF-8") from None
    first = text.lstrip().splitlines()[:1]
    delimiter = max(",;\t|", key=(first[0] if first else "").count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise BadInput(f"{name}: not readable as CSV ({error})") from None
    if not rows:
        raise BadInput(f"{name}: holds no row")
    header = [cell.strip().lower() for cell in rows[0]]
    columns = {index: kind for index, cell in enumerate(header) for kind, names in _COLUMNS.items() if cell in names}
    if columns or not any(_key_of(cell) for cell in rows[0]):
        rows = rows[1:]
    if not rows:
        raise BadInput(f"{name}: holds a header and no row")
    return [_keys(row, columns) for row in rows]


def _keys(row: Sequence[str], columns: Mapping[int, KeyKind]) -> tuple[LeakedKey, ...]:
    if not columns:
        found = [_key_of(cell) for cell in row]
    else:
        found = [_as_key(kind, row[index]) for index, kind in columns.items() if index < len(row)]
    return tuple(dict.fromkeys(key for key in found if key is not None))


_ROOT = re.compile(r"(customer|order)/([1-9]\d{0,17})")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


def _key_of(cell: str) -> LeakedKey | None:
    """Return what a value is by its look. A bare number is an id only under a header: it may be anything."""
    text = cell.strip()
    if match := _ROOT.fullmatch(text):
        return LeakedKey(KeyKind(match[1]), match[2])
    if _EMAIL.fullmatch(text):
        return LeakedKey(KeyKind.EMAIL, text)
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        return LeakedKey(KeyKind.HASH, text.lower())
    return None


def _as_key(kind: KeyKind, cell: str) -> LeakedKey | None:
    own = _key_of(cell)
    if own is not None:
        return own
    text = cell.strip()
    if kind in (KeyKind.CUSTOMER, KeyKind.ORDER) and re.fullmatch(r"[1-9]\d{0,17}", text):
        return LeakedKey(kind, text)
    return None


@dataclass(frozen=True, slots=True)
class MatchCounts:
    """What a match test found. Counts of rows."""

    row_count: int
    usable_count: int
    by_email_count: int
    by_hash_count: int
    by_id_count: int
    matched_count: int
    """By any key."""
    matched_by_contact_count: int
    """By address or hash: an id alone may match by chance, made-up records are numbered too."""
    inside_count: int
    """Of the matched, those about somebody whom the incident's scope has found."""
    person_count: int
    """Different people behind the matched rows, as the index knows them by root."""

    @property
    def outside_count(self) -> int:
        """Matched rows about people whom the scope has not found."""
        return self.matched_count - self.inside_count


def count_matches(
    rows: Sequence[tuple[LeakedKey, ...]], roots: Mapping[LeakedKey, frozenset[str]], affected: Iterable[str]
) -> MatchCounts:
    """Count what `roots` (who is behind each key) says of `rows`; `affected` are the roots that the scope has found."""
    found_by_scope = frozenset(affected)
    tally = dict.fromkeys(("email", "hash", "id", "any", "contact", "inside"), 0)
    people: set[str] = set()
    for row in rows:
        hits = {key: roots[key] for key in row if roots.get(key)}
        kinds = {key.kind for key in hits}
        behind = frozenset().union(*hits.values())
        people |= behind
        tally["email"] += KeyKind.EMAIL in kinds
        tally["hash"] += KeyKind.HASH in kinds
        tally["id"] += bool(kinds - set(_CONTACT))
        tally["any"] += bool(kinds)
        tally["contact"] += bool(kinds & set(_CONTACT))
        tally["inside"] += bool(behind & found_by_scope)
    return MatchCounts(
        len(rows), sum(bool(row) for row in rows), tally["email"], tally["hash"], tally["id"], tally["any"],
        tally["contact"], tally["inside"], len(people),
    )  # fmt: skip


class Finding(StrEnum):
    """What a match test says."""

    REAL = "real"
    """Leaked rows are about people whom the store knows."""
    IDS_ONLY = "ids_only"
    """Only ids match: it may be chance, a person decides."""
    NOBODY = "nobody"
    """Every partition answered, every row could be compared, none matches."""
    OPEN = "open"
    """Nothing matches, but not everything could be compared."""


def finding_of(counts: Mapping[str, int], silent_count: int) -> Finding:
    """Return what the counts of a match test say. "Nobody" only where everything was compared."""
    if counts["matched_by_contact_count"]:
        return Finding.REAL
    if counts["matched_count"]:
        return Finding.IDS_ONLY
    whole = counts["usable_count"] and counts["usable_count"] == counts["row_count"] and not silent_count
    return Finding.NOBODY if whole else Finding.OPEN


@dataclass(frozen=True, slots=True)
class Verified:
    """What a verification did."""

    counts: MatchCounts | None
    finding: Finding | None
    partition_count: int
    silent_partitions: tuple[int, ...]
    state: str
    facts: Mapping[str, Any]
    """Recorded by it."""
    moved: Sequence[Movement]
    remarks: Sequence[str]


def verify(
    store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: datetime,
    law: Law,
    *,
    test: tuple[bytes, str] | None,
    matcher: LeakMatcher | None,
    confirm: bool = False,
    dry_run: bool = False,
    reason: str | None,
) -> Verified:
    """Run a match test on a file's content (and name), or confirm what people know without one; record what follows.

    A match by address or hash confirms the incident and records `match_test_positive_at`: it starts the controller's
    clock (EDPB Guidelines 9/2022, paragraph 31: reasonable certainty). Purely synthetic records that match nobody make
    the incident one that is recorded and not notified. Raises BadInput for a file without a usable row, Unreachable
    when the index does not answer; nothing is recorded then. `dry_run` records nothing either.
    """
    role = actor.acting_for(Act.VERIFY)
    why = needed(reason)
    rows = matched = None
    if test is not None:
        if matcher is None:
            raise Refused("no index to compare with; start `tocsin run index`")
        rows = read_rows(test[0], name=test[1])
        keys = list(dict.fromkeys(key for row in rows for key in row))
        if not keys:
            raise BadInput(
                f"{test[1]}: none of {len(rows)} rows has an e-mail address, a SHA-256 of one, or an id; name the columns "
                "in a header: email, email_sha256, customer_id, order_id"
            )
        matched = matcher.match(keys)

    def work(case: CaseWork) -> Verified:
        incident = still_open(case, incident_id)
        counts = finding = None
        facts: dict[str, Any] = {}
        remarks: list[str] = []
        if rows is not None and matched is not None and test is not None:
            counts = count_matches(rows, matched.roots, case.affected_roots(incident_id, incident.revision))
            record = _record_of(incident, counts, matched, test[0], actor, now)
            finding = finding_of(record.counts, record.silent_count)
            case.add_match_test(record)
            body = _test_body(record, counts)
            record_act(case, actor, role, "incident.match_tested", body, at=now, incident=incident, reason=why)
            facts, remarks = _what_follows(case, incident, finding, counts, matched, law, now)
        for name, value in facts.items():
            write_fact(case, incident, name, value, actor, role, now, why)
        real = confirm or finding is Finding.REAL
        move = Move.CONFIRM if real else Move.ACKNOWLEDGE
        state = moved(incident, move)
        changes: dict[str, Any] = {"state": state.value}
        if incident.acknowledged_at is None:
            changes |= {"acknowledged_at": now, "acknowledged_by": actor.person_id}
        if state.value != incident.state or incident.acknowledged_at is None:
            case.update_incident(incident_id, changes)
        if incident.acknowledged_at is None:
            case.end_pages(incident_id, ("incident_opened", "verification.not_begun"), by=actor.person_id, at=now)
        end_clock_pages(case, replace(incident, state=state.value), by=actor.person_id, at=now)
        if real and incident.state != State.CONFIRMED:
            verified: Body = {
                "from": incident.state, "state": state.value, "match_test_count": len(case.match_tests(incident_id)),
            }  # fmt: skip
            record_act(case, actor, role, "incident.verified", verified, at=now, incident=incident, reason=why)
        shifted = refresh(case, replace(incident, state=state.value), law, now, quiet=True)
        done = Verified(
            counts, finding, 0 if matched is None else matched.partition_count,
            () if matched is None else matched.silent_partitions, state.value, facts, shifted, remarks,
        )  # fmt: skip
        if dry_run:
            raise _NotMeant(done)
        return done

    try:
        return store.change(work)
    except _NotMeant as rolled_back:
        return rolled_back.done


class _NotMeant(Exception):
    """Carries what would have been done out of a transaction that is rolled back."""

    def __init__(self, done: Verified) -> None:
        super().__init__("rolled back")
        self.done = done


def _record_of(
    incident: IncidentRecord, counts: MatchCounts, matched: Matched, content: bytes, actor: Actor, now: datetime
) -> MatchTestRecord:
    salt = new_salt()
    kept = {name: getattr(counts, name) for name in MatchCounts.__dataclass_fields__}
    return MatchTestRecord(
        uuid.uuid4().hex, incident.incident_id, incident.revision, now, actor.person_id, kept, matched.partition_count,
        len(matched.silent_partitions), salt, salted_sha256(salt, content.hex()),
    )  # fmt: skip


def _test_body(record: MatchTestRecord, counts: MatchCounts) -> Body:
    names = ("row_count", "usable_count", "matched_count", "matched_by_contact_count")
    return {
        **{name: record.counts[name] for name in names},
        "revision": record.revision,
        "file_sha256": record.file_sha256,
        "outside_count": counts.outside_count,
        "partition_count": record.partition_count,
        "silent_count": record.silent_count,
    }


def _what_follows(
    case: CaseWork,
    incident: IncidentRecord,
    finding: Finding,
    counts: MatchCounts,
    matched: Matched,
    law: Law,
    now: datetime,
) -> tuple[dict[str, Any], list[str]]:
    """Return the facts that follow from a test, and what the reader must know beside the numbers."""
    known = known_facts(case, incident)
    facts: dict[str, Any] = {}
    remarks = []
    if matched.silent_partitions:
        silent = len(matched.silent_partitions)
        remarks.append(f"{silent} of {matched.partition_count} partitions did not answer: there may be more matches")
    if counts.usable_count < counts.row_count:
        bare = counts.row_count - counts.usable_count
        remarks.append(f"{bare:,} of {counts.row_count:,} rows hold neither address, hash nor id: they prove nothing")
    if counts.outside_count:
        remarks.append(
            f"{counts.outside_count:,} rows are about people whom the scope has not found; widen it: "
            f"tocsin incident rescope {incident.incident_id} --set FIELD=VALUE --reason TEXT"
        )
    if finding is Finding.REAL:
        if known.get("match_test_positive_at") is None:
            facts["match_test_positive_at"] = written(now)
        if known.get("sensitivity") in (None, "synthetic_only"):
            facts |= _sensitivity_of_a_match(case, incident, law)
    elif finding is Finding.IDS_ONLY:
        remarks.append(
            "only ids match, which may be chance: compare the values, then confirm with `tocsin incident verify "
            f"{incident.incident_id} --confirm --reason TEXT`, or test addresses"
        )
    elif finding is Finding.NOBODY:
        against = synthetic_against(case, incident, law, tests=())
        if against is None:
            facts["sensitivity"] = "synthetic_only"
            remarks.append("purely synthetic and matching nobody: recorded in the register, not notified")
        else:
            remarks.append(f"nobody matches, but that does not make it synthetic: {against}")
    return facts, remarks


def _sensitivity_of_a_match(case: CaseWork, incident: IncidentRecord, law: Law) -> dict[str, str]:
    kinds = {kind for each in basis_of(case, incident, law).exposures for kind in each.kinds}
    # memorised real data are real data to whom they are about, however the model came to write them
    return {"sensitivity": "real" if "real" in kinds else "derived_or_memorised"}


def synthetic_against(
    case: CaseWork, incident: IncidentRecord, law: Law, *, tests: Sequence[MatchTestRecord] | None = None
) -> str | None:
    """Return what speaks against calling an incident purely synthetic and matching nobody; None if nothing does.

    `tests` are the match tests to be held against it besides those on record; None demands that one is on record.
    """
    recorded = case.match_tests(incident.incident_id)
    if any(finding_of(each.counts, each.silent_count) is Finding.REAL for each in recorded):
        return "a match test found people whom the store knows"
    of_revision = [each for each in recorded if each.revision == incident.revision]
    nobody = any(finding_of(each.counts, each.silent_count) is Finding.NOBODY for each in of_revision)
    if tests is None and not nobody:
        return f"no match test of revision {incident.revision} compared every row and matched nobody"
    plan = case.plan(incident.incident_id, incident.revision)
    if plan is None or plan.state != "complete":
        return "who is affected is not known yet: not every partition has answered"
    kinds = {kind for each in basis_of(case, incident, law).exposures for kind in each.kinds}
    possible = sum(each.possible_count for each in basis_of(case, incident, law).exposures)
    if kinds - {"synthetic"}:
        return f"records of the kind {', '.join(sorted(kinds - {'synthetic'}))} are in its scope"
    if possible:
        return f"{possible:,} people hold a value without a record, which may be anything"
    if not basis_of(case, incident, law).exposures:
        return "nobody was found, but coverage is incomplete"
    return None


# Dismissal


@dataclass(frozen=True, slots=True)
class Dismissed:
    """What a dismissal did."""

    record: DismissalRecord
    state: str
    contacts_removed: int


def dismiss(
    store: CaseStore, incident_id: str, actor: Actor, now: datetime, reason: str | None, *, without_rows: bool = False
) -> Dismissed:
    """Say that it is no incident. The first person proposes, a second one decides; both need match-test evidence, or say
    `without_rows` that nothing leaked which could be compared: then a dpo or counsel decides, and the log has it so.

    Raises Refused without a match test of this revision that matched nobody, for one that matched somebody, for
    `without_rows` where rows were tested, or while a release runs.
    """
    role = actor.acting_for(Act.DISMISS)
    why = needed(reason)
    command = f"tocsin incident dismiss {incident_id}{' --without-rows' if without_rows else ''} --reason TEXT"

    def work(case: CaseWork) -> Dismissed:
        incident = still_open(case, incident_id)
        state = moved(incident, Move.DISMISS)
        match_test_id = _evidence(case, incident, without_rows=without_rows)
        proposed = next(
            (
                each
                for each in case.dismissals(incident_id)
                if each.confirmed_at is None
                and each.match_test_id == match_test_id
                and (match_test_id is not None or each.revision == incident.revision)
            ),
            None,
        )
        if proposed is None:
            record = DismissalRecord(uuid.uuid4().hex, incident_id, match_test_id, now, actor.person_id, why,
                                     revision=incident.revision)  # fmt: skip
            case.add_dismissal(record)
            body = {"dismissal_id": record.dismissal_id, "match_test_id": record.match_test_id}
            record_act(
                case, actor, role, "incident.dismissal_proposed", body, at=now, incident=incident, reason=why
            )  # fmt: skip
            asked: tuple[str, ...] = ("dpo", "counsel", "responder")
            words = "a second person decides"
            if match_test_id is None:
                asked, words = ("dpo", "counsel"), "no rows were compared, so a dpo or counsel decides"
            _page(case, incident, "dismissal.proposed", record.dismissal_id, now, asked,
                  f"{actor.person_id} proposes to dismiss it; {words}", command)  # fmt: skip
            return Dismissed(record, incident.state, 0)
        if proposed.proposed_by == actor.person_id:
            raise Refused(
                f"{actor.person_id} proposed to dismiss {incident_id}; a second person decides, under their own token: "
                f"{command}"
            )
        decides = role
        if match_test_id is None:
            able = next((each for each in (Role.DPO, Role.COUNSEL) if each in actor.person.roles), None)
            if able is None:
                raise Refused(
                    f"{incident_id}: no rows were compared, so a dpo or counsel decides, under their own token: {command}"
                )
            decides = able
        refuse_while_running(case, incident, case.without_end_count(incident_id))
        void_releases(case, incident_id, by=actor.person_id, at=now)
        removed = case.remove_contacts(incident_id)
        case.confirm_dismissal(proposed.dismissal_id, by=actor.person_id, at=now)
        case.update_incident(incident_id, {"state": state.value, "epoch": incident.epoch + 1})
        announce(case, replace(incident, state=state.value))
        decided: Body = {
            "dismissal_id": proposed.dismissal_id, "match_test_id": proposed.match_test_id, "from": incident.state,
            "contacts_removed": removed,
        }  # fmt: skip
        record_act(case, actor, decides, "incident.dismissed", decided, at=now, incident=incident, reason=why)
        return Dismissed(proposed, state.value, removed)

    return store.change(work)


def _evidence(case: CaseWork, incident: IncidentRecord, *, without_rows: bool) -> str | None:
    """Return the id of the match test that a dismissal rests on; None where there are no rows to compare."""
    tests = case.match_tests(incident.incident_id)
    command = f"tocsin incident verify {incident.incident_id} --match-test leaked.csv --reason TEXT"
    for each in tests:
        if finding_of(each.counts, each.silent_count) in (Finding.REAL, Finding.IDS_ONLY):
            raise Refused(
                f"{incident.incident_id}: the match test of {written(each.tested_at)} matched "
                f"{each.counts['matched_count']:,} of {each.counts['row_count']:,} rows; what is about people is not "
                "dismissed. If it needs no notice, record the facts that say so, and close it"
            )
    for each in tests:
        if each.revision == incident.revision and finding_of(each.counts, each.silent_count) is Finding.NOBODY:
            return each.match_test_id
    if without_rows and tests:
        raise Refused(
            f"{incident.incident_id}: rows were tested on {written(tests[0].tested_at)}, so there are some; compare every "
            f"one of them: {command}"
        )
    if without_rows:
        return None
    raise Refused(
        f"{incident.incident_id}: a dismissal needs a match test of its scope as it is (revision {incident.revision}) in "
        f"which every row was compared and none matched; run one: {command}. Did nothing leak that could be compared, a "
        f"false alarm: tocsin incident dismiss {incident.incident_id} --without-rows --reason TEXT"
    )


def standing(store: CaseStore, incident_id: str, policy: AwarenessPolicy) -> tuple[VerificationClock, Sequence[Any]]:
    """Return the verification's clock and the match tests on record, newest first."""

    def work(case: CaseWork) -> tuple[VerificationClock, Sequence[Any]]:
        incident = found(case, incident_id)
        return verification_clock(incident, case.facts(incident_id), policy), case.match_tests(incident_id)

    return store.look(work)
