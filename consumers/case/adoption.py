"""Which versions of the rules counsel of this installation has adopted, and which are due to be looked at again.

An adoption names the version as it read: a rule whose text has changed since is not adopted. Duties that are not adopted
run their clocks all the same. The listing is `tocsin law review`'s; this is what it writes and reads.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

from bridge.contracts.errors import BadInput, nearest
from consumers.case.acting import Actor, needed, record_act
from consumers.case.permissions import Act
from consumers.case.records import AdoptionRecord
from consumers.case.store import CaseStore, CaseWork
from consumers.domain.duties import digest
from consumers.domain.rules import Duty, DutyVersion, Rules

NOT_ADOPTED = "not adopted by your counsel"
REVIEW_EVERY = timedelta(days=92)
"""A quarter."""
_IN_ONE_EVENT = 200

RuleVersion = tuple[str, int]
"""A regime and the number of its version."""


def version_sha256(duty: Duty, version: DutyVersion) -> str:
    """Return a hash of what one version of a rule says. What is not said does not count: a key added later to the format
    changes no hash of a rule that does not use it. The day of the last check is not part of the rule.
    """
    of_duty = {name: value for name, value in asdict(duty).items() if name not in ("versions", "last_checked_on")}
    return digest(_said({**of_duty, "version": asdict(version)}))


def _said(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _said(each) for name, each in sorted(value.items()) if each not in (None, "", (), frozenset())}
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_said(each) for each in value]
    return value.isoformat() if isinstance(value, date) else value


def adopted(rules: Rules, records: Iterable[AdoptionRecord]) -> dict[RuleVersion, AdoptionRecord]:
    """Return the adoptions in force: the newest of each version that still reads as it did."""
    hashes = _hashes(rules)
    found: dict[RuleVersion, AdoptionRecord] = {}
    for record in records:
        key = (record.regime_id, record.version)
        if hashes.get(key) == record.version_sha256:
            found[key] = record
    return found


@lru_cache(maxsize=2)
def _hashes(rules: Rules) -> Mapping[RuleVersion, str]:
    """Return what each version reads like; rules are loaded once and compared by identity."""
    return {
        (duty.regime_id, version.version): version_sha256(duty, version)
        for duty in rules.duties
        for version in duty.versions
    }


@dataclass(frozen=True, slots=True)
class ReviewRow:
    """One version of a rule as a reviewer sees it."""

    duty: Duty
    version: DutyVersion
    adoption: AdoptionRecord | None
    due_on: date
    """Look at it again on this day: a quarter after the last check or sign-off, whichever is later."""

    def is_overdue(self, today: date) -> bool:
        """Say whether its day has passed."""
        return self.due_on < today


def review_rows(rules: Rules, records: Iterable[AdoptionRecord], today: date) -> list[ReviewRow]:
    """Return every version that an incident of today or later could be judged by, the most overdue first."""
    in_force = adopted(rules, records)
    rows = []
    for duty in rules.duties:
        for version in duty.versions:
            if version.in_force_to is not None and version.in_force_to < today:
                continue
            adoption = in_force.get((duty.regime_id, version.version))
            checked = max(duty.last_checked_on, adoption.adopted_at.date() if adoption else duty.last_checked_on)
            rows.append(ReviewRow(duty, version, adoption, checked + REVIEW_EVERY))
    return sorted(rows, key=lambda row: (row.due_on, row.duty.regime_id, row.version.version))


def overdue_reviews(rules: Rules, records: Iterable[AdoptionRecord], today: date) -> list[ReviewRow]:
    """Return the versions whose re-check is overdue."""
    return [row for row in review_rows(rules, records, today) if row.is_overdue(today)]


def adopt(
    store: CaseStore, rules: Rules, regime_ids: Collection[str], actor: Actor, now: datetime, reason: str | None
) -> Sequence[AdoptionRecord]:
    """Adopt every version of the named duties (all duties where none is named); return what was written.

    Signing off a rule that is adopted already renews it: the quarter begins anew. Raises BadInput for an unknown rule.
    """
    role = actor.acting_for(Act.ADOPT_LAW)
    why = needed(reason)
    for name in regime_ids:
        if name not in rules.by_id:
            raise BadInput(f"no rule is named {name!r}{nearest(name, rules.by_id)}; see `tocsin law review`")
    duties = [rules.by_id[name] for name in dict.fromkeys(regime_ids)] or list(rules.duties)
    records = [
        AdoptionRecord(duty.regime_id, version.version, version_sha256(duty, version), now, actor.person_id, why)
        for duty in duties
        for version in duty.versions
    ]

    def work(case: CaseWork) -> Sequence[AdoptionRecord]:
        for record in records:
            case.add_adoption(record)
        for start in range(0, len(records), _IN_ONE_EVENT):
            part = records[start : start + _IN_ONE_EVENT]
            body = {
                "rules_sha256": rules.rules_version,
                "rules": [f"{each.regime_id}.{each.version}" for each in part],
                "versions_sha256": digest([[each.regime_id, each.version, each.version_sha256] for each in part]),
            }
            record_act(case, actor, role, "law.adopted", body, at=now, reason=why)
        return records

    return store.change(work)
