"""Asks every index worker and adds up what they say; names the partitions that did not answer.

A partition that is silent is never counted as empty: whoever prints a number says from how many partitions it comes.
"""

import http.client
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import structlog
from pydantic import ValidationError

from bridge.contracts.errors import BadInput, Unreachable
from bridge.contracts.events import Sensitivity
from bridge.contracts.fingerprints import SUM_MODULUS
from bridge.contracts.partitioner import partition_of
from bridge.contracts.queries import (
    Answer,
    DataMap,
    DataMapGap,
    DataMapRow,
    Faults,
    FaultSeen,
    IndexStatus,
    Inspection,
    KeyPrint,
    Keys,
    KeysAsked,
    KnownNames,
    Match,
    MatchAsked,
    Members,
    MembersAsked,
    MemberSeen,
    PartitionDataMap,
    PartitionFaults,
    PartitionKeys,
    PartitionMatch,
    PartitionMembers,
    PartitionNames,
    PartitionPreview,
    PartitionRanges,
    PartitionReach,
    PartitionSeals,
    PartitionStatus,
    PartitionTimes,
    Preview,
    PreviewAsked,
    RangePrint,
    Ranges,
    RangesAsked,
    Reach,
    ReachGroup,
    RootTimes,
    Seals,
    TimesAsked,
    WorkerAnswer,
)
from bridge.contracts.scope import Scope
from consumers.domain.coverage import merged_coverage

log = structlog.get_logger()

A = TypeVar(
    "A",
    PartitionPreview,
    PartitionMatch,
    PartitionStatus,
    PartitionNames,
    Inspection,
    PartitionDataMap,
    PartitionRanges,
    PartitionKeys,
    PartitionFaults,
    PartitionReach,
    PartitionSeals,
    PartitionMembers,
    PartitionTimes,
)

_ASKED_AT_ONCE = 10_000


class IndexClient:
    """Scatter-gather over the workers whose addresses lie in `run_directory`.

    Every method raises Unreachable if no worker at all answers, and says in its answer which partitions did not.
    """

    def __init__(self, run_directory: Path, *, timeout_seconds: float = 30.0) -> None:
        self._run_directory = run_directory
        self._timeout_seconds = timeout_seconds

    def preview(self, scope: Scope) -> Preview:
        """Count what a scope concerns now, without opening anything."""
        count, answers = self._gather(
            PartitionPreview, "POST", "/preview", PreviewAsked(scope=scope).model_dump_json().encode()
        )
        return Preview(
            partition_count=count,
            silent_partitions=_silent(count, answers),
            affected_count=sum(each.affected_count for each in answers.values()),
            possible_count=sum(each.possible_count for each in answers.values()),
            departed_count=sum(each.departed_count for each in answers.values()),
            record_count=sum(each.record_count for each in answers.values()),
            people_count=_sum_if_known(each.people_count for each in answers.values()),
            by_jurisdiction=_summed(each.by_jurisdiction for each in answers.values()),
            by_kind=_summed(each.by_kind for each in answers.values()),
            by_sensitivity=_summed(each.by_sensitivity for each in answers.values()),
            by_channel=_summed(each.by_channel for each in answers.values()),
            coverage=merged_coverage(each.coverage for each in answers.values()),
            rebuilding_partitions=tuple(sorted(number for number, each in answers.items() if each.rebuilding)),
        )

    def members(self, scope: Scope) -> Members:
        """Return counts and Merkle root of what each partition would freeze for a scope now."""
        asked = MembersAsked(scope=scope)
        count, answers = self._gather(PartitionMembers, "POST", "/members", asked.model_dump_json().encode())
        return Members(partition_count=count, silent_partitions=_silent(count, answers), partitions=answers)

    def members_of(self, scope: Scope, partitions: Collection[int]) -> dict[int, list[MemberSeen]]:
        """Return whom a scope concerns now, by those of `partitions` that answer; read in parts of bounded size.

        Each part is of its own moment: what changes meanwhile may be in it or not.
        """
        found: dict[int, list[MemberSeen]] = {}
        after = ""
        while True:
            asked = MembersAsked(scope=scope, after=after, limit=_ASKED_AT_ONCE)
            _, answers = self._gather(PartitionMembers, "POST", "/members", asked.model_dump_json().encode())
            last: list[str] = []
            for partition in partitions:
                if partition not in answers:
                    continue
                members = answers[partition].members
                known = found.setdefault(partition, [])
                # Partitions are read in step; one that was ahead says again what it said.
                known.extend(each for each in members if not known or each.root > known[-1].root)
                if len(members) == _ASKED_AT_ONCE:
                    last.append(members[-1].root)
            if not last:
                return found
            after = min(last)

    def times(self, roots: Sequence[str]) -> dict[str, RootTimes]:
        """Return when what is known of `roots` changed, by root; who is not known where an owner answers is left out."""
        found: dict[str, RootTimes] = {}
        for start in range(0, len(roots), _ASKED_AT_ONCE):
            asked = TimesAsked(roots=tuple(roots[start : start + _ASKED_AT_ONCE]))
            _, answers = self._gather(PartitionTimes, "POST", "/times", asked.model_dump_json().encode())
            found |= {each.root: each for answer in answers.values() for each in answer.roots}
        return found

    def match(self, email_hmacs: Sequence[str], roots: Sequence[str]) -> Match:
        """Return who is behind keys that leaked; in questions of 10,000, so that no answer grows without bound."""
        by_hmac: dict[str, set[str]] = {}
        found: set[str] = set()
        count, silent = 0, set[int]()
        for start in range(0, max(len(email_hmacs), len(roots), 1), _ASKED_AT_ONCE):
            end = start + _ASKED_AT_ONCE
            asked = MatchAsked(email_hmacs=tuple(email_hmacs[start:end]), roots=tuple(roots[start:end]))
            partitions, answers = self._gather(PartitionMatch, "POST", "/match", asked.model_dump_json().encode())
            count = max(count, partitions)
            silent.update(_silent(partitions, answers))
            for each in answers.values():
                found.update(each.roots)
                for key, behind in each.by_email_hmac.items():
                    by_hmac.setdefault(key, set()).update(behind)
        return Match(
            partition_count=count,
            silent_partitions=tuple(sorted(silent)),
            by_email_hmac={key: tuple(sorted(behind)) for key, behind in sorted(by_hmac.items())},
            roots=tuple(sorted(found)),
        )

    def status(self) -> IndexStatus:
        """Return where every partition stands."""
        count, answers = self._gather(PartitionStatus, "GET", "/status")
        return IndexStatus(
            partition_count=count,
            silent_partitions=_silent(count, answers),
            partitions=tuple(answers[partition] for partition in sorted(answers)),
        )

    def known_names(self) -> KnownNames:
        """Return the model ids with their versions, and the attributes, that records know."""
        count, answers = self._gather(PartitionNames, "GET", "/names")
        models: dict[str, set[str]] = {}
        attributes: set[str] = set()
        for each in answers.values():
            attributes.update(each.attributes)
            for model, versions in each.models.items():
                models.setdefault(model, set()).update(versions)
        return KnownNames(
            partition_count=count,
            silent_partitions=_silent(count, answers),
            models={model: tuple(sorted(versions)) for model, versions in sorted(models.items())},
            attributes=tuple(sorted(attributes)),
            read_to_end_at=_earliest_if_known(
                answers[partition].read_to_end_at if partition in answers else None for partition in range(count)
            ),
            beat_at=_earliest_if_known(
                answers[partition].beat_at if partition in answers else None for partition in range(count)
            ),
            rebuilding_partitions=tuple(sorted(number for number, each in answers.items() if each.rebuilding)),
        )

    def inspect(self, root: str) -> Inspection:
        """Return what the index holds of `root`. Raises Unreachable if its partition has no owner that answers."""
        count, answers = self._gather(Inspection, "GET", f"/inspect?root={quote(root, safe='')}")
        partition = partition_of(root, count)
        if partition not in answers:
            raise Unreachable(
                f"partition {partition} of {count}, which holds {root}, has no owner that answers; see `tocsin index status`"
            )
        return answers[partition]

    def data_map(self) -> DataMap:
        """Return AI systems against attributes, over all partitions that answered."""
        count, answers = self._gather(PartitionDataMap, "GET", "/data-map")
        rows: dict[tuple[str, str, str, str, str], list[DataMapRow]] = {}
        gaps: dict[str, list[DataMapGap]] = {}
        for each in answers.values():
            for row in each.rows:
                key = (row.source_system or "", row.model_id, row.model_version, row.entity_type, row.attribute)
                rows.setdefault(key, []).append(row)
            for gap in each.gaps:
                gaps.setdefault(gap.attribute, []).append(gap)
        return DataMap(
            partition_count=count,
            silent_partitions=_silent(count, answers),
            rows=tuple(_merged_row(rows[key]) for key in sorted(rows)),
            untagged=_summed(each.untagged for each in answers.values()),
            gaps=tuple(_merged_gap(gaps[attribute]) for attribute in sorted(gaps)),
        )

    def ranges(self, asked: RangesAsked) -> Ranges:
        """Return counts and sums of fingerprints by range."""
        count, answers = self._gather(PartitionRanges, "POST", "/ranges", asked.model_dump_json().encode())
        total: dict[int, RangePrint] = {}
        for answer in answers.values():
            for each in answer.ranges:
                known = total.get(each.range, RangePrint(range=each.range, count=0, sum=0))
                total[each.range] = RangePrint(
                    range=each.range,
                    count=known.count + each.count,
                    sum=(known.sum + each.sum) % SUM_MODULUS,
                    deleted_count=known.deleted_count + each.deleted_count,
                )
        return Ranges(partition_count=count, silent_partitions=_silent(count, answers), ranges=total)

    def keys(self, asked: KeysAsked) -> Keys:
        """Return what the index holds of the keys or ranges asked for."""
        count, answers = self._gather(PartitionKeys, "POST", "/keys", asked.model_dump_json().encode())
        found: dict[str, KeyPrint] = {}
        for each in (each for answer in answers.values() for each in answer.keys):
            # One that was given to another person lies in two partitions, deleted in that of the first.
            if each.key not in found or found[each.key].deleted:
                found[each.key] = each
        return Keys(partition_count=count, silent_partitions=_silent(count, answers), keys=found)

    def faults(self) -> Faults:
        """Return what of the store's rows could not be understood."""
        count, answers = self._gather(PartitionFaults, "GET", "/faults")
        found: dict[tuple[str, str], FaultSeen] = {}
        for answer in answers.values():
            for each in answer.faults:
                known = found.get((each.entity, each.field))
                found[each.entity, each.field] = each if known is None else _merged_fault(known, each)
        return Faults(
            partition_count=count,
            silent_partitions=_silent(count, answers),
            faults=tuple(found[key] for key in sorted(found)),
            altered_count=sum(each.altered_count for each in answers.values()),
        )

    def reach(self) -> Reach:
        """Count everybody by country and channels."""
        count, answers = self._gather(PartitionReach, "GET", "/reach")
        people: dict[tuple[str, tuple[str, ...]], int] = {}
        for answer in answers.values():
            for each in answer.groups:
                people[each.country, each.channels] = people.get((each.country, each.channels), 0) + each.count
        return Reach(
            partition_count=count,
            silent_partitions=_silent(count, answers),
            groups=tuple(ReachGroup(country=home, channels=by, count=n) for (home, by), n in sorted(people.items())),
            unreadable=_summed(each.unreadable for each in answers.values()),
        )

    def seals(self) -> Seals:
        """Count contacts by the key that they are sealed to."""
        count, answers = self._gather(PartitionSeals, "GET", "/seals")
        return Seals(
            partition_count=count,
            silent_partitions=_silent(count, answers),
            present=_summed(each.present for each in answers.values()),
            departed=_summed(each.departed for each in answers.values()),
        )

    def _gather(self, kind: type[A], method: str, path: str, body: bytes | None = None) -> tuple[int, dict[int, A]]:
        addresses = self._addresses()
        if not addresses:
            raise Unreachable(
                f"no index worker has left its address in {self._run_directory}; start `tocsin run index`"
            )
        with ThreadPoolExecutor(max_workers=min(16, len(addresses))) as pool:
            found = list(pool.map(lambda address: self._ask(address, method, path, body), addresses))
        said = [each for each in found if each is not None]
        if not said:
            raise Unreachable(
                f"none of {len(addresses)} index workers answers ({', '.join(addresses)}); see their log, or start "
                "`tocsin run index`"
            )
        answers: dict[int, A] = {}
        for worker in said:
            for item in worker.answers:
                answer = kind.model_validate(item)
                # Two workers may claim a partition while it moves; the one that has read further owns it.
                known = answers.get(answer.partition)
                if known is None or _position(answer) >= _position(known):
                    answers[answer.partition] = answer
        return max(worker.partition_count for worker in said), answers

    def _addresses(self) -> list[str]:
        addresses = []
        for path in sorted(self._run_directory.glob("index-*.json")):
            try:
                addresses.append(str(json.loads(path.read_text(encoding="utf-8"))["address"]))
            except (OSError, ValueError, KeyError) as error:
                log.warning("an address file cannot be read", file=path.name, reason=type(error).__name__)
        return addresses

    def _ask(self, address: str, method: str, path: str, body: bytes | None) -> WorkerAnswer | None:
        url = urlsplit(address)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=self._timeout_seconds)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            # A worker that died leaves its address behind; what it owned is named as silent unless another answers.
            return None
        finally:
            connection.close()
        if response.status == 400:
            raise BadInput(str(json.loads(content).get("error", "not a question that the index understands")))
        if response.status != 200:
            log.warning("an index worker could not answer", address=address, status=response.status)
            return None
        try:
            return WorkerAnswer.model_validate_json(content)
        except ValidationError:
            log.warning("an index worker answers in another version's words", address=address)
            return None


def _position(answer: Answer) -> int:
    return int(getattr(answer, "position_offset", 0))


def _silent(count: int, answers: Mapping[int, Any]) -> tuple[int, ...]:
    return tuple(partition for partition in range(count) if partition not in answers)


def _sum_if_known(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _earliest_if_known(instants: Iterable[datetime | None]) -> datetime | None:
    known = list(instants)
    return None if None in known else min((each for each in known if each is not None), default=None)


def _summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


def _merged_fault(one: FaultSeen, other: FaultSeen) -> FaultSeen:
    examples = sorted({*one.examples, *other.examples})[: max(len(one.examples), len(other.examples))]
    return one.model_copy(update={"count": one.count + other.count, "examples": tuple(examples)})


def _merged_gap(gaps: Sequence[DataMapGap]) -> DataMapGap:
    last = [each.last_seen_at for each in gaps if each.last_seen_at is not None]
    return DataMapGap(
        attribute=gaps[0].attribute,
        people_count=sum(each.people_count for each in gaps),
        write_count=sum(each.write_count for each in gaps),
        first_seen_at=min((each.first_seen_at for each in gaps if each.first_seen_at is not None), default=None),
        last_seen_at=max(last, default=None),
    )


def _merged_row(rows: Sequence[DataMapRow]) -> DataMapRow:
    order = [each.value for each in Sensitivity]
    return rows[0].model_copy(
        update={
            "record_count": sum(row.record_count for row in rows),
            "deleted_count": sum(row.deleted_count for row in rows),
            "kinds": tuple(sorted({each for row in rows for each in row.kinds})),
            "categories": tuple(sorted({each for row in rows for each in row.categories})),
            "root_count": sum(row.root_count for row in rows),
            "highest_sensitivity": max((row.highest_sensitivity for row in rows), key=order.index),
            "legal_bases": tuple(sorted({each for row in rows for each in row.legal_bases})),
            "storage_locations": tuple(sorted({each for row in rows for each in row.storage_locations})),
            "last_generated_at": max(row.last_generated_at for row in rows),
        }
    )
