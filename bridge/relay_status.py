"""One screen on the way from store to index: does the relay work, what waits, how long does it take, do both sides agree?

Asks four places, each of which may be away: the store, the relay's own metrics, the index, and the last verification.
"""

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from bridge.contracts.errors import Unreachable
from bridge.contracts.fingerprints import Entity
from bridge.contracts.queries import Faults, IndexAnswers, IndexStatus
from bridge.magento.look import MOST_COUNTED, StoreLook
from bridge.magento.watch import TOLD_COLUMNS
from bridge.runtime.run_files import write_run_file
from bridge.verification import ENTITIES, Report

BEAT_IS_OLD_SECONDS = 15.0
"""A leader beats every five seconds: three missed ones are a finding."""
VISIBLE_IS_OLD_SECONDS = 30.0
"""Beside three missed heartbeats as long again for the way to a busy index."""
_TIMEOUT_SECONDS = 5.0
_SAMPLE_SECONDS = 1.0
_STAND_STILL_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RelayNumbers:
    """What the relay of this installation says of itself."""

    active: bool
    oldest_unpublished_seconds: float
    changes_per_second: float
    batch_seconds: float | None
    """Mean over all batches since its start; None before the first."""
    publish_errors: int
    store_errors: int
    unreadable_rows: int = 0
    """Since its start: provenance rows that do not say about whom they are, of which nothing is published."""
    untold_tables: tuple[str, ...] = ()
    """Tables to which the shop added rows of which no trigger told."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was verified last, of each entity; those that never were are not in `entities`."""

    at: datetime
    """When the one was verified whose verification is the oldest."""
    agree: bool
    entities: tuple[Entity, ...] = ENTITIES


@dataclass(slots=True)
class Status:
    """Everything that is known; `missing` says which part did not answer, and why."""

    store_counts: Mapping[str, int] = field(default_factory=dict)
    index_counts: Mapping[str, int] = field(default_factory=dict)
    partition_count: int = 0
    silent_partitions: tuple[int, ...] = ()
    old_partitions: tuple[int, ...] = ()
    """Those that are being built anew, and show what was before."""
    leader: str | None = None
    beat_at: datetime | None = None
    relay: RelayNumbers | None = None
    waiting: int | None = None
    waiting_is_more: bool = False
    numbers_left: Mapping[str, int] = field(default_factory=dict)
    """Changelogs that run out of numbers for changes, and how many each has left."""
    visible_seconds: float | None = None
    """From written in the store to visible in the index, by the newest heartbeat, of the slowest partition."""
    moving: bool = False
    """Whether the numbers differ and went on changing while they were looked at: then they say nothing."""
    visible_at: datetime | None = None
    """When it became visible there, in the partition that saw one the longest ago."""
    faults: Faults | None = None
    verified: Verified | None = None
    put_back_at: datetime | None = None
    """When the relay saw that the shop's database had been put back in time; None: never, or all was verified since."""
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def counts_agree(self) -> bool | None:
        """Whether both sides hold as many; None if one of them is unknown. Orders may outlive their provenance."""
        if not self.store_counts or not self.index_counts or self.silent_partitions or self.old_partitions:
            return None
        return all(self.store_counts[entity] == self.index_counts[entity] for entity in ("customer", "provenance"))

    def beat_seconds(self, now: datetime) -> float | None:
        """Return the age of the newest heartbeat in the store."""
        return None if self.beat_at is None else max(0.0, (now - self.beat_at).total_seconds())

    def unseen_seconds(self, now: datetime) -> float | None:
        """Return for how long some partition has seen no heartbeat though a relay leads; None while all see each."""
        beat = self.beat_seconds(now)
        if self.visible_at is None or beat is None or beat > BEAT_IS_OLD_SECONDS:
            return None
        seconds = (now - self.visible_at).total_seconds()
        return seconds if seconds > VISIBLE_IS_OLD_SECONDS else None

    def troubles(self, now: datetime) -> list[str]:
        """Return what a person should look at; empty when all is as it should be."""
        found = []
        beat = self.beat_seconds(now)
        if beat is None and "store" not in self.missing:
            found.append("no relay has ever led here; start one with `tocsin run relay`")
        elif beat is not None and beat > BEAT_IS_OLD_SECONDS:
            found.append(f"no relay leads: the last heartbeat is {in_short(beat)} old; {self._remedy()}")
        if self.relay is not None and self.relay.unreadable_rows:
            found.append(
                f"{self.relay.unreadable_rows} provenance rows say of nobody that they are about them, so nothing of them is in"
                " the index; the relay's log names each row's id"
            )
        if self.relay is not None and self.relay.untold_tables:
            found.append(
                f"no trigger told of new rows in {', '.join(self.relay.untold_tables)}: what changes there is not seen; run"
                " bin/magento tocsin:capture:enable, then `tocsin relay verify --repair`"
            )
        for changelog, left in self.numbers_left.items():
            found.append(
                f"{changelog} has {left:,} numbers left for changes, and after the last one none is told; run bin/magento"
                " tocsin:capture:enable, which gives it more"
            )
        if self.silent_partitions:
            found.append(f"partitions without an owner that answers: {', '.join(map(str, self.silent_partitions))}")
        if self.old_partitions:
            found.append(
                f"partitions {', '.join(map(str, self.old_partitions))} of the index are being built anew and show what was"
                " before; see `tocsin index status`"
            )
        elif (unseen := self.unseen_seconds(now)) is not None:
            found.append(
                f"the index is behind: a partition has seen no heartbeat for {in_short(unseen)} though a relay leads; see"
                " `tocsin index status`"
            )
        if self.counts_agree is False and not self.waiting and not self.moving:
            found.append("store and index hold different numbers and nothing waits; see `tocsin relay verify`")
        if self.put_back_at is not None:
            found.append(
                "the shop's database was put back in time, or its changelogs were made anew, as the relay saw at"
                f" {self.put_back_at:%Y-%m-%d %H:%M} UTC: what the index knows of the time since the backup is not in the shop,"
                " and what was lost there may be missing here; run `tocsin relay verify --repair`"
            )
        if self.verified is not None and not self.verified.agree:
            found.append("the last verification found differences; see `tocsin relay verify`")
        if self.faults is not None and self.faults.altered_count:
            found.append(
                f"{self.faults.altered_count} records were changed by SQL after they were recorded; "
                "`tocsin relay verify` names them"
            )
        return found

    def _remedy(self) -> str:
        if self.relay is None:
            return "start one with `tocsin run relay`"
        if self.relay.publish_errors or self.relay.store_errors:
            errors = f"{self.relay.publish_errors} publish errors and {self.relay.store_errors} store errors"
            return f"the relay of this installation runs and tries again after {errors}; its log says which"
        return "the relay of this installation runs and waits for a lead that somebody else holds, or for Kafka"


def status(
    look: StoreLook,
    index: IndexAnswers,
    run_directory: Path,
    verified: Path,
    *,
    stand_still_seconds: float = _STAND_STILL_SECONDS,
) -> Status:
    """Ask everybody. Never raises for a part that is away: it is named in `missing`.

    Numbers that differ while nothing waits are looked at once more after `stand_still_seconds`, in which the index shows what
    was published: each side is counted at a moment of its own.
    """
    found = Status()
    relay, error = _relay_numbers(run_directory)
    found.relay = relay
    if error:
        found.missing["relay"] = error
    try:
        look.open()
        _add_store(found, look)
        beat = look.heartbeat()
        if beat is not None:
            found.leader, found.beat_at = beat
    except Unreachable as away:
        found.missing["store"] = str(away)
    try:
        _add_index(found, index.status())
        if found.counts_agree is False and not found.waiting:
            _look_again(found, look, index, stand_still_seconds)
        found.faults = index.faults()
    except Unreachable as away:
        found.missing["index"] = str(away)
    found.verified = last_verified(verified)
    return found


def last_verified(verified: Path) -> Verified | None:
    """Return what was verified last, as `remember` has kept it; None: nothing was."""
    results = _results(verified)
    if not results:
        return None
    return Verified(
        min(at for at, _ in results.values()),
        all(agree for _, agree in results.values()),
        tuple(entity for entity in ENTITIES if entity in results),
    )


def _add_store(found: Status, look: StoreLook) -> None:
    found.store_counts = look.counts()
    found.numbers_left = look.numbers_left()
    waiting = look.waiting()
    found.waiting = sum(waiting.values())
    found.waiting_is_more = MOST_COUNTED in waiting.values()


def _look_again(found: Status, look: StoreLook, index: IndexAnswers, seconds: float) -> None:
    before = found.store_counts, found.index_counts
    time.sleep(seconds)
    try:
        _add_store(found, look)
    except Unreachable as away:
        found.missing["store"] = str(away)
        return
    _add_index(found, index.status())
    found.moving = before != (found.store_counts, found.index_counts)
    if found.counts_agree is False and not found.moving:
        records = found.store_counts["provenance"] + look.otherwise_read()
        found.store_counts = {**found.store_counts, "provenance": records}


def _add_index(found: Status, index: IndexStatus) -> None:
    found.partition_count = index.partition_count
    found.silent_partitions = index.silent_partitions
    found.old_partitions = tuple(each.partition for each in index.partitions if each.rebuilding)
    found.index_counts = {
        "customer": sum(each.customer_count for each in index.partitions),
        "order": sum(each.order_count for each in index.partitions),
        "provenance": sum(each.record_count - each.deleted_record_count for each in index.partitions),
    }
    delays = [
        ((each.beat_visible_at - each.beat_written_at).total_seconds(), each.beat_visible_at)
        for each in index.partitions
        if each.beat_written_at is not None and each.beat_visible_at is not None
    ]
    if delays and len(delays) == len(index.partitions):
        found.visible_seconds = max(0.0, max(seconds for seconds, _ in delays))
        found.visible_at = min(at for _, at in delays)


def remember(report: Report, entities: Sequence[Entity], verified: Path, at: datetime) -> None:
    """Keep the result of verifying `entities` for `status`, beside those of the others."""
    differing = {each.entity for each in report.differences}
    results = _results(verified) | {entity: (at, entity not in differing) for entity in entities}
    write_run_file(
        verified, {name: {"at": when.isoformat(), "agree": agree} for name, (when, agree) in results.items()}
    )


def _results(verified: Path) -> dict[Entity, tuple[datetime, bool]]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(verified.read_text(encoding="utf-8"))
        return {
            entity: (datetime.fromisoformat(kept[entity]["at"]), bool(kept[entity]["agree"]))
            for entity in ENTITIES
            if entity in kept
        }
    return {}


def oldest_unpublished_seconds(run_directory: Path) -> float | None:
    """Return the age of the oldest unpublished change as the relay of this installation knows it, if one runs and leads."""
    numbers, _ = _relay_numbers(run_directory, sample_seconds=0)
    return numbers.oldest_unpublished_seconds if numbers is not None and numbers.active else None


def _relay_numbers(
    run_directory: Path, sample_seconds: float = _SAMPLE_SECONDS
) -> tuple[RelayNumbers | None, str | None]:
    file = run_directory / "relay.metrics.json"
    try:
        address = str(json.loads(file.read_text(encoding="utf-8"))["metrics"])
    except (OSError, ValueError, KeyError):
        return None, f"no relay of this installation has left its address in {run_directory}"
    try:
        first = _scraped(address)
        time.sleep(sample_seconds)
        second = _scraped(address) if sample_seconds else first
    except (OSError, http.client.HTTPException, ValueError):
        return None, f"the relay that was at {address} does not answer"

    def total(samples: Mapping[str, float], name: str) -> float:
        return sum(value for sample, value in samples.items() if sample.partition("{")[0] == name)

    batches = total(second, "tocsin_relay_batch_seconds_count")
    moved = total(second, "tocsin_relay_changes_total") - total(first, "tocsin_relay_changes_total")
    return (
        RelayNumbers(
            active=total(second, "tocsin_relay_active") > 0,
            oldest_unpublished_seconds=total(second, "tocsin_relay_oldest_unpublished_seconds"),
            changes_per_second=moved / sample_seconds if sample_seconds else 0.0,
            batch_seconds=total(second, "tocsin_relay_batch_seconds_sum") / batches if batches else None,
            publish_errors=int(second.get("tocsin_relay_errors_total{kafka}", 0)),
            store_errors=int(second.get("tocsin_relay_errors_total{store}", 0)),
            unreadable_rows=int(total(second, "tocsin_relay_unreadable_total")),
            untold_tables=tuple(
                table for table in TOLD_COLUMNS if second.get(f"tocsin_relay_untold_count{{{table}}}", 0) > 0
            ),
        ),
        None,
    )


def _scraped(address: str) -> dict[str, float]:
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", url.path)
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def in_short(seconds: float) -> str:
    """Return a duration for a glance: "0.4 s", "12 s", "5 min", "31 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
