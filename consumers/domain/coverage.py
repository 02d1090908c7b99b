"""How far an answer can be trusted: since when writes were recorded, and when writes without a record would have shown.

A count of 0 is "nobody" only under full coverage; everywhere else it is a number by record, and there may be more. Pure:
the index keeps what is decided here.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from bridge.contracts.events import Coverage, Unwatched, WatchStarted

EVERYTHING = "*"
"""In a `WatchStarted`: the heartbeat, which shows that module, changelogs and relay work."""
LONGEST_SILENCE = timedelta(minutes=5)
"""The relay writes a heartbeat every five seconds. A restart is not a gap: what changed meanwhile lies in the changelogs.
In a longer one a value may have been written twice, or the module been off, and nobody would see the first write."""


def resumed(beats: Iterable[datetime], last: datetime | None) -> list[WatchStarted]:
    """Return where the heartbeat came again after a silence; `beats` are new ones, `last` the newest known before.

    Compaction makes no silence: what it leaves of older heartbeats is one that stands right before the younger ones.
    """
    found: list[WatchStarted] = []
    for beat in beats:
        if last is not None and beat - last > LONGEST_SILENCE:
            found.append(WatchStarted(attribute=EVERYTHING, at=beat, after=last))
        last = beat if last is None else max(last, beat)
    return found


def unwatched_stretches(
    watched: Iterable[WatchStarted], attribute: str, start: datetime | None, end: datetime | None
) -> tuple[Unwatched, ...]:
    """Return when in [start, end] (None: unbounded) nobody would have seen a write to `attribute` without a record."""
    stretches: list[Unwatched] = []
    first: datetime | None = None
    for each in watched:
        if each.attribute == attribute != EVERYTHING:
            first = each.at if first is None else min(first, each.at)
        elif each.attribute == EVERYTHING and each.after is not None:
            stretches.append(Unwatched(since=each.after, until=each.at))
    if attribute != EVERYTHING:
        stretches.append(Unwatched(since=None, until=first))
    return _joined(each for each in stretches if _touches(each, start, end))


def _touches(stretch: Unwatched, start: datetime | None, end: datetime | None) -> bool:
    before = end is not None and stretch.since is not None and stretch.since > end
    after = start is not None and stretch.until is not None and stretch.until <= start
    return not before and not after


def _joined(stretches: Iterable[Unwatched]) -> tuple[Unwatched, ...]:
    """Return the stretches with those that meet made one, earliest first."""
    joined: list[Unwatched] = []
    for each in sorted(stretches, key=lambda stretch: (stretch.since is not None, stretch.since)):
        last = joined[-1] if joined else None
        if last is None or (last.until is not None and each.since is not None and each.since > last.until):
            joined.append(each)
        elif last.until is not None:
            until = None if each.until is None else max(last.until, each.until)
            joined[-1] = Unwatched(since=last.since, until=until)
    return tuple(joined)


def merged_coverage(parts: Iterable[Sequence[Coverage]]) -> tuple[Coverage, ...]:
    """Add up the partitions' coverage, by model and attribute.

    What one partition saw recorded or watched was so for all: of instants the earliest counts. Untagged values are summed,
    and the heartbeat's silences are those that any partition noticed.
    """
    merged: dict[tuple[str, str], Coverage] = {}
    for each in (each for part in parts for each in part):
        key = (each.model_id, each.attribute)
        known = merged.get(key)
        merged[key] = each if known is None else _merged(known, each)
    return tuple(merged[key] for key in sorted(merged))


def _merged(one: Coverage, other: Coverage) -> Coverage:
    silences = [stretch for each in (one, other) for stretch in each.unwatched if stretch.since is not None]
    beginnings = [[stretch for stretch in each.unwatched if stretch.since is None] for each in (one, other)]
    if all(beginnings):
        # Not watched from the beginning in any of them: the one that watched earliest says until when.
        untils = [stretch.until for each in beginnings for stretch in each]
        earliest = min((until for until in untils if until is not None), default=None)
        silences.append(Unwatched(since=None, until=earliest))
    return Coverage(
        model_id=one.model_id,
        attribute=one.attribute,
        recorded_since=_earliest(one.recorded_since, other.recorded_since),
        loaded_since=_earliest(one.loaded_since, other.loaded_since),
        unwatched=_joined(silences),
        untagged_count=one.untagged_count + other.untagged_count,
        untagged_since=_earliest(one.untagged_since, other.untagged_since),
    )


def _earliest(*instants: datetime | None) -> datetime | None:
    return min((at for at in instants if at is not None), default=None)


def is_complete(coverage: Sequence[Coverage], exposed_from: datetime | None) -> bool:
    """Return whether a count of 0 may be called "nobody": before the window writes were recorded, and throughout it no
    write without a record was seen and none could have been missed. `coverage` is that of all partitions, merged.
    """
    return (
        bool(coverage)
        and exposed_from is not None
        and all(
            each.recorded_since is not None
            and each.recorded_since <= exposed_from
            and not each.untagged_count
            and not each.unwatched
            for each in coverage
        )
    )


def gaps_in_words(each: Coverage, exposed_from: datetime | None) -> list[str]:
    """Return what is not known of one model's writes to one attribute, a clause each; nothing under full coverage."""
    what = f"writes of {each.model_id} to {each.attribute}"
    gaps: list[str] = []
    if each.recorded_since is None:
        gaps.append(f"{what} were never recorded as they happened")
    elif exposed_from is not None and each.recorded_since > exposed_from:
        gaps.append(f"{what} are recorded since {_minute(each.recorded_since)}, after the exposure began")
    if gaps and each.loaded_since is not None:
        gaps[-1] += f" (history was loaded from {_minute(each.loaded_since)} on)"
    for stretch in each.unwatched:
        if stretch.until is None:
            gaps.append(f"{each.attribute} is not watched: writes of it without a record would not show")
        elif stretch.since is None:
            gaps.append(f"{each.attribute} is watched since {_minute(stretch.until)} only")
        else:
            gaps.append(f"{each.attribute} was not watched from {_minute(stretch.since)} to {_minute(stretch.until)}")
    if each.untagged_count:
        since = "" if each.untagged_since is None else f" since {_minute(each.untagged_since)}"
        gaps.append(f"{each.untagged_count:,} untagged writes to {each.attribute}{since}")
    return gaps


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
