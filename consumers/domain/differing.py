"""How two answers to one scope differ, root by root, and since when: the frozen one, the index's of now, the store's own.

Pure. Whoever asks brings the answers and the instants; what an instant explains is decided here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bridge.contracts.queries import RootTimes
from consumers.domain.resolution import Member

RecordSet = tuple[frozenset[str], str]
"""Record ids and standing of one root in one answer."""

CLOCKS_DIFFER = timedelta(minutes=5)
"""By so much the clocks of store, relay and index may be apart."""


@dataclass(frozen=True, slots=True)
class Differing:
    """One root that one answer has otherwise than the other."""

    root: str
    frozen: RecordSet | None
    """None: it was not in the frozen answer."""
    now: RecordSet | None
    """None: it is not in the other one."""

    @property
    def record_ids(self) -> tuple[str, ...]:
        """The records that only one of them has."""
        before = frozenset[str]() if self.frozen is None else self.frozen[0]
        after = frozenset[str]() if self.now is None else self.now[0]
        return tuple(sorted(before ^ after))

    @property
    def what(self) -> str:
        """What differs, in words."""
        if self.frozen is None:
            return "is in it now"
        if self.now is None:
            return "is in it no more"
        if self.frozen[1] != self.now[1]:
            return f"was {self.frozen[1]}, is {self.now[1]}"
        return "by other records"


def as_sets(members: Iterable[Member]) -> dict[str, RecordSet]:
    """Return members by root."""
    return {root: (frozenset(record_ids), standing) for root, record_ids, standing in members}


def differing(frozen: Mapping[str, RecordSet], now: Mapping[str, RecordSet]) -> list[Differing]:
    """Return the roots on which the two answers differ, sorted."""
    return [
        Differing(root, frozen.get(root), now.get(root))
        for root in sorted(frozen.keys() | now.keys())
        if frozen.get(root) != now.get(root)
    ]


def changed_at(times: RootTimes | None, record_ids: Sequence[str]) -> tuple[datetime, ...]:
    """Return every instant at which something changed that can make a root differ by these records, newest first."""
    if times is None:
        return ()
    found = [*times.untagged_at]
    if times.person_at is not None:
        found.append(times.person_at)
    for each in times.records:
        if not record_ids or each.record_id in record_ids:
            found += [at for at in (each.generated_at, each.deleted_at, each.loaded_at) if at is not None]
    return tuple(sorted(set(found), reverse=True))


def changed_since(times: RootTimes | None, record_ids: Sequence[str], at: datetime) -> datetime | None:
    """Return when a root was last changed after `at`; None: nothing is known to have changed since."""
    newest = next(iter(changed_at(times, record_ids)), None)
    return newest if newest is not None and newest > at - CLOCKS_DIFFER else None
