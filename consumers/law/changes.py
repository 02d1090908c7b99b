"""What changed in the law between two days: duties that came, went, or read otherwise. Not for one incident's answers."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

from consumers.domain.rules import Duty, DutyVersion, Rules

_BOOKKEEPING = {"version", "in_force_from", "in_force_to"}


@dataclass(frozen=True, slots=True)
class Change:
    """One duty that differs. A version of None: no text of it was in force on that day."""

    duty: Duty
    before: DutyVersion | None
    after: DutyVersion | None

    @property
    def kind(self) -> str:
        """`begins`, `ends` or `changes`."""
        return "begins" if self.before is None else "ends" if self.after is None else "changes"

    @property
    def on(self) -> date | None:
        """The first day of the later text, or the last of one that ends."""
        if self.after is not None:
            return self.after.in_force_from
        return None if self.before is None else self.before.in_force_to

    def values(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, old and new wording of each value that differs, for a duty that changes."""
        if self.before is None or self.after is None:
            return
        for field in fields(DutyVersion):
            old, new = getattr(self.before, field.name), getattr(self.after, field.name)
            if field.name not in _BOOKKEEPING and old != new:
                yield field.name, in_short(old), in_short(new)


def changes(rules: Rules, first: date, second: date) -> list[Change]:
    """Return each duty whose text in force differs between the two days, by the date of the change."""
    found = [
        Change(duty, before, after)
        for duty in rules.duties
        for before, after in [(duty.version_on(first), duty.version_on(second))]
        if before is not after
    ]
    return sorted(found, key=lambda change: (change.on or date.min, change.duty.regime_id))


def in_short(value: Any) -> str:
    """Return a rule's value in words: `-` for none, sets sorted, triggers as they are written."""
    if value is None or value == frozenset() or value == ():
        return "-"
    if isinstance(value, frozenset):
        return ", ".join(sorted(value))
    if isinstance(value, tuple):
        return " | ".join(" & ".join(map(str, terms)) for terms in value)
    return str(value)
