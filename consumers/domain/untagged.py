"""Writes of a registered attribute that no provenance record explains, found by the keyed hash of its value.

A value that changed without a new record was written by somebody who did not say so: a model past the module, an import,
SQL. Which model it was nobody knows, so whoever held such a value while data leaked is *possibly* concerned. Pure: the
index keeps what is decided here. All comparisons err towards "untagged", which tells a person too many, never one too few.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from bridge.contracts.events import UntaggedWrite

SAVE_DELAY = timedelta(days=1)
"""How long before its value is saved a record may have been generated: a scoring job writes its results when it ends."""
SKEW = timedelta(minutes=5)
"""How far the clock of whoever generates may be ahead."""


@dataclass(frozen=True, slots=True)
class Held:
    """A person's value of one registered attribute as last seen."""

    hmac: str
    seen_at: datetime
    """When this value was first seen."""
    record_at: datetime | None
    """When the newest record was generated that explains it or an earlier value; None: there was none."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a new state of the person says about one attribute."""

    hmac: str | None
    """None: the person holds no value any more."""
    at: datetime
    last_seen_at: datetime
    """When the person's state before this one was published: until then the earlier value stood there."""
    newest_at: datetime | None
    """When the newest record about the attribute was generated."""


def on_value(
    root: str, customer_id: int | None, attribute: str, held: Held | None, seen: Seen, mark: UntaggedWrite | None
) -> tuple[Held | None, tuple[UntaggedWrite, ...]]:
    """Return what is held after `seen`, and the marks that are new or changed; `mark` is the open one.

    A value that never had any record needs no mark while it stands: it is untagged as long as it has none.
    """
    if held is not None and held.hmac == seen.hmac:
        return held, ()
    if held is None:
        return (None if seen.hmac is None else Held(seen.hmac, seen.at, seen.newest_at)), ()
    changed = [replaced(mark, seen.at)] if mark is not None else []
    late = seen.newest_at is not None and seen.newest_at <= held.seen_at + SKEW
    if mark is None and held.record_at is None and not late and (seen.hmac is None or seen.newest_at is not None):
        # It stood there without a record, and from now on nothing else shows that.
        changed.append(_mark(root, customer_id, attribute, None, held.seen_at, None, until=seen.at))
    if seen.hmac is None:
        return None, tuple(changed)
    newest = seen.newest_at
    if newest is not None and _is_new(newest, held.record_at) and newest >= seen.last_seen_at - SAVE_DELAY:
        return Held(seen.hmac, seen.at, seen.newest_at), tuple(changed)
    if held.record_at is not None:
        changed.append(_mark(root, customer_id, attribute, seen.last_seen_at, seen.at, held.record_at))
    return Held(seen.hmac, seen.at, held.record_at), tuple(changed)


def on_record(mark: UntaggedWrite, newest_at: datetime) -> UntaggedWrite | None:
    """Return what becomes of an open mark when there is a record generated at `newest_at`: None if it explains the write.

    Who records late (an import of history) takes the mark away; a record of a later write only ends it.
    """
    if not _is_new(newest_at, mark.record_at):
        return mark
    if newest_at > mark.seen_at + SKEW:
        return replaced(mark, newest_at)
    return None if newest_at >= (mark.since or mark.seen_at) - SAVE_DELAY else mark


def replaced(mark: UntaggedWrite, at: datetime) -> UntaggedWrite:
    """Return `mark` with its end: the value stood there until `at`."""
    return mark.model_copy(update={"until": at})


def _is_new(newest_at: datetime, record_at: datetime | None) -> bool:
    return record_at is None or newest_at > record_at


def _mark(
    root: str,
    customer_id: int | None,
    attribute: str,
    since: datetime | None,
    seen_at: datetime,
    record_at: datetime | None,
    until: datetime | None = None,
) -> UntaggedWrite:
    return UntaggedWrite(
        root=root,
        customer_id=customer_id,
        attribute=attribute,
        since=since,
        seen_at=seen_at,
        until=until,
        record_at=record_at,
    )
