"""Comparing store and index: first by ranges, then by key where a range differs, and then until a difference is certain.

Both sides move while this looks. A difference counts only when it is proven: the store's state stood still, no change of it
was waiting, a heartbeat written after that has become visible in the index, and the index still says something else. Takes
no lock and no long transaction, and holds no more in memory than the ranges and the keys that differ.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

from bridge.contracts.errors import Unreachable
from bridge.contracts.events import CustomerChanged, OrderChanged
from bridge.contracts.fingerprints import (
    RANGE_SIZE,
    SUM_MODULUS,
    Entity,
    content_fingerprint,
    person_fingerprint,
    range_of,
    record_fingerprint,
)
from bridge.contracts.queries import (
    Gathered,
    IndexAnswers,
    IndexStatus,
    KeyPrint,
    KeysAsked,
    RangePrint,
    RangesAsked,
)
from bridge.magento.look import RecordRow, StoreLook
from bridge.magento.snapshots import CustomerState, OrderState
from bridge.relay import StateMessages
from bridge.runtime.sealing import Seal, contact_digest

ENTITIES: tuple[Entity, ...] = ("customer", "provenance", "order")
PLURALS: Mapping[Entity, str] = {"customer": "customers", "provenance": "records", "order": "orders"}
EXAMPLES = 20
"""Keys named for each cause."""
MOST_KEYS = 400_000
"""Beyond so many keys in ranges that differ, one by one is the wrong way: the entity is backfilled instead."""
_KEYS_AT_ONCE = 2_000
_RANGES_AT_ONCE = 20
_PAUSE_SECONDS = 0.5
_NO_END = 1 << 62
_G = TypeVar("_G", bound=Gathered)
_T = TypeVar("_T")


class Cause(StrEnum):
    """Why a key is not the same on both sides."""

    MISSING = "in the store, not in the index"
    GONE = "in the index, no more in the store"
    OLDER = "the index holds another state"
    ALTERED = "changed by SQL after it was recorded; records are append-only"
    WAITING = "changed and not published yet"
    TOO_MANY = "differ, too many to name"


REPAIRED = frozenset({Cause.MISSING, Cause.GONE, Cause.OLDER, Cause.ALTERED, Cause.TOO_MANY})


@dataclass(frozen=True, slots=True)
class Difference:
    """All keys of one entity that differ for one cause."""

    entity: Entity
    cause: Cause
    count: int
    examples: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """What was found. `agree` is what the exit code says."""

    customers: int = 0
    records: int = 0
    orders: int = 0
    deleted_records: int = 0
    """Records that the index holds as deleted."""
    deleted_by_sql: int = 0
    """Of these: without a row in the store."""
    unpublishable: tuple[int, ...] = ()
    """Row ids of provenance that names nobody."""
    unpublishable_count: int = 0
    differences: list[Difference] = field(default_factory=list)
    repaired: int = 0
    proven: bool = True
    """False if no heartbeat came through while this looked: a difference may be a change on its way."""
    partition_count: int = 0
    seconds: float = 0.0

    @property
    def agree(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class _Print:
    """One entity as the store has it."""

    fingerprint: int
    content: int = 0
    deleted: bool = False
    row_id: int = 0


class _Digests:
    """Stands where the relay seals: verification needs the digest alone, and has no key to seal to."""

    def __init__(self, join_key: bytes) -> None:
        self._join_key = join_key

    def seals(self, count: int) -> Seal:  # noqa: ARG002  as many as there are
        return self._seal

    def _seal(self, contact: bytes, root: bytes) -> str:
        digest = contact_digest(self._join_key, contact, root)
        return f'{{"key_id":"","wrapped_key":"","nonce":"","ciphertext":"","digest":"{digest}"}}'


class _Prints(StateMessages):
    """Fingerprints of what the relay would publish."""

    def __init__(self, join_key: bytes) -> None:
        super().__init__(_Digests(join_key), join_key)

    def customer(self, state: CustomerState) -> tuple[str, _Print]:
        key, event = self._customer(state, self._sealer.seals(1))
        return key.decode(), _Print(person_fingerprint(CustomerChanged.model_validate_json(event)))

    def order(self, state: OrderState) -> tuple[str, _Print]:
        key, event = self._order(state, self._sealer.seals(1))
        return key.decode(), _Print(person_fingerprint(OrderChanged.model_validate_json(event)))

    @staticmethod
    def record(row: RecordRow) -> tuple[str, _Print] | None:
        record = row.record
        if record is None:
            return None
        printed = _Print(
            record_fingerprint(record), content_fingerprint(record), record.deleted_at is not None, row.row_id
        )
        return f"provenance/{record.record_id}", printed


@dataclass(slots=True)
class _Walked:
    """What one walk over the store adds up to."""

    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)
    count: int = 0
    deleted: dict[str, _Print] = field(default_factory=dict)
    deleted_count: int = 0

    def add(self, key: str, printed: _Print) -> None:
        if printed.deleted:
            self.deleted_count += 1
            if len(self.deleted) < MOST_KEYS:
                self.deleted[key] = printed
            return
        number = range_of(key)
        count, total = self.ranges.get(number, (0, 0))
        self.ranges[number] = (count + 1, (total + printed.fingerprint) % SUM_MODULUS)
        self.count += 1


Progress = Callable[[Entity, int], None]


class Verification:
    """One comparison. `per_second` bounds how many rows of the store are read; `patience_seconds` how long a difference is
    watched before it is reported as it is.
    """

    def __init__(
        self,
        look: StoreLook,
        index: IndexAnswers,
        join_key: bytes,
        *,
        chunk: int = 1000,
        per_second: int = 20_000,
        patience_seconds: float = 30.0,
        progress: Progress = lambda _entity, _count: None,
        most_keys: int = MOST_KEYS,
    ) -> None:
        self._look = look
        self._index = index
        self._prints = _Prints(join_key)
        self._chunk = chunk
        self._per_second = per_second
        self._patience_seconds = patience_seconds
        self._progress = progress
        self._most_keys = most_keys
        self._report = Report()
        self._expected = 0

    def run(self, entities: Sequence[Entity] = ENTITIES, *, repair: bool = False) -> Report:
        """Compare, and with `repair` have published again what differs. Raises Unreachable, also if a partition is silent, or is
        being built anew for longer than the patience.
        """
        began = time.monotonic()
        report = self._report = Report(partition_count=self._built(began + self._patience_seconds).partition_count)
        for entity in entities:
            walked, suspects = self._compared(entity)
            setattr(report, PLURALS[entity], walked.count)
            if suspects is None:
                report.differences.append(Difference(entity, Cause.TOO_MANY, self._expected))
                continue
            causes = self._watched(entity, suspects)
            if repair and any(cause in REPAIRED for cause in causes.values()):
                causes = self._repaired(entity, causes)
            self._note(entity, causes)
        # What was compared must be what is there now.
        self._built(time.monotonic())
        report.seconds = time.monotonic() - began
        return report

    # By ranges

    def _compared(self, entity: Entity) -> tuple[_Walked, set[str] | None]:
        """Return what the store adds up to, and the keys that may differ; None if they are too many."""
        walked = self._walk(entity)
        held = self._complete(self._index.ranges(RangesAsked(entity=entity))).ranges
        differing = {
            number for number in {*walked.ranges, *held} if walked.ranges.get(number, (0, 0)) != _both(held.get(number))
        }
        suspects: set[str] = set()
        if entity == "provenance":
            deleted = sum(each.deleted_count for each in held.values())
            self._report.deleted_records = deleted
            suspects |= self._differing_deleted(walked.deleted)
            self._report.deleted_by_sql = max(0, deleted - (walked.deleted_count - len(suspects)))
        self._expected = sum(
            max(walked.ranges.get(number, (0, 0))[0], _both(held.get(number))[0]) for number in differing
        )
        if entity == "provenance" and self._expected > self._most_keys:
            return walked, None
        for keys in self._in_both(entity, differing):
            suspects |= keys
            if len(suspects) > self._most_keys:
                return walked, None
        return walked, suspects

    def _walk(self, entity: Entity) -> _Walked:
        walked = _Walked()
        after, unpublishable = 0, []
        while True:
            began = time.monotonic()
            if entity == "provenance":
                rows = self._look.records(after, _NO_END, self._chunk)
                ids: Sequence[int] = [row.row_id for row in rows]
                found: Sequence[tuple[str, _Print] | None] = [self._prints.record(row) for row in rows]
                unpublishable += [row.row_id for row in rows if row.record is None]
            else:
                ids, found = self._numbered(entity, after, _NO_END)
            for each in found:
                if each is not None:
                    walked.add(*each)
            if not ids:
                break
            after = ids[-1]
            self._progress(entity, len(ids))
            time.sleep(max(0.0, len(ids) / self._per_second - (time.monotonic() - began)))
        if unpublishable:
            self._report.unpublishable = tuple(unpublishable[:EXAMPLES])
            self._report.unpublishable_count = len(unpublishable)
        return walked

    def _numbered(
        self, entity: Entity, after: int, before: int
    ) -> tuple[Sequence[int], Sequence[tuple[str, _Print] | None]]:
        if entity == "customer":
            ids, customers = self._look.customers(after, before, self._chunk)
            return ids, [self._prints.customer(state) for state in customers]
        ids, orders = self._look.orders(after, before, self._chunk)
        return ids, [self._prints.order(state) for state in orders]

    def _differing_deleted(self, deleted: Mapping[str, _Print]) -> set[str]:
        differing = set()
        for keys in _chunks(deleted, _KEYS_AT_ONCE):
            held = self._held("provenance", keys)
            differing |= {key for key in keys if key not in held or held[key].fingerprint != deleted[key].fingerprint}
        return differing

    def _in_both(self, entity: Entity, differing: set[int]) -> Iterator[set[str]]:
        """Yield the keys of `differing` ranges that are not the same on both sides, some ranges at a time."""
        if entity == "provenance" and differing:
            rows = [
                row_id
                for chunk in self._look.record_ids(50_000)
                for row_id, record_id in chunk
                if range_of(f"provenance/{record_id}") in differing
            ]
            stored: dict[str, _Print] = {}
            for chunk in _chunks(rows, _KEYS_AT_ONCE):
                stored |= dict(filter(None, map(self._prints.record, self._look.records_of(chunk))))
            indexed: dict[str, KeyPrint] = {}
            for numbers in _chunks(sorted(differing), _KEYS_AT_ONCE):
                indexed |= self._asked(KeysAsked(entity=entity, ranges=tuple(numbers), limit=1_000_000))
            yield _not_the_same(stored, indexed)
            return
        for number in sorted(differing):
            stored, after, before = {}, number * RANGE_SIZE - 1, (number + 1) * RANGE_SIZE
            while (found := self._numbered(entity, after, before))[0]:
                stored |= dict(filter(None, found[1]))
                after = found[0][-1]
            yield _not_the_same(stored, self._asked(KeysAsked(entity=entity, ranges=(number,))))

    # By key, until it is certain

    def _watched(self, entity: Entity, suspects: set[str]) -> dict[str, Cause]:
        """Return what of `suspects` really differs, with the cause."""
        left = set(suspects)
        certain: dict[str, Cause] = {}
        give_up_at = time.monotonic() + self._patience_seconds
        ever_beaten = False
        while left:
            stored = self._stored(entity, left)
            waiting = self._waiting(entity, left)
            # Only now: a heartbeat from before may have been published before a change that was settled since.
            beaten = self._await_beat_after(self._look.heartbeat(), give_up_at)
            ever_beaten |= beaten
            indexed = {
                key: each for keys in _chunks(left, _KEYS_AT_ONCE) for key, each in self._held(entity, keys).items()
            }
            again = self._stored(entity, left)
            last = time.monotonic() >= give_up_at
            for key in list(left):
                if _same(again.get(key), indexed.get(key)):
                    left.discard(key)
                elif (
                    stored.get(key) == again.get(key) and key not in waiting and (beaten or (last and not ever_beaten))
                ):
                    self._report.proven &= beaten
                    certain[key] = _cause(entity, stored.get(key), indexed.get(key))
                    left.discard(key)
            if last:
                # Of these the store did not stand still, or a change of them waits: they are on their way, or the relay is
                # behind, or it does not run. (Those that stand still in a last look, cut short before its heartbeat, moved in
                # each look before it.)
                certain |= dict.fromkeys(left, Cause.WAITING)
                break
            if left:
                time.sleep(_PAUSE_SECONDS)
        return certain

    def _await_beat_after(self, newest: tuple[str, datetime] | None, give_up_at: float) -> bool:
        """Return whether every partition holds a later heartbeat than the store's `newest`: all that was published before, too.

        Both are written by the relay's clock, so nothing depends on the one here; the store keeps whole seconds.
        """
        while True:
            written = [each.beat_written_at for each in self._complete(self._index.status()).partitions]
            if newest is not None and all(at is not None and at.replace(microsecond=0) > newest[1] for at in written):
                return True
            if time.monotonic() >= give_up_at:
                return False
            time.sleep(0.1)

    def _stored(self, entity: Entity, keys: Iterable[str]) -> dict[str, _Print]:
        found: dict[str, _Print] = {}
        for chunk in _chunks(keys, _KEYS_AT_ONCE):
            if entity == "provenance":
                rows = self._look.rows_of_records([_name(key) for key in chunk])
                found |= dict(filter(None, map(self._prints.record, self._look.records_of(list(rows.values())))))
            elif entity == "customer":
                found |= dict(map(self._prints.customer, self._look.customers_of([int(_name(key)) for key in chunk])))
            else:
                ids = [int(_name(key)) for key in chunk]
                found |= dict(map(self._prints.order, [*self._look.orders_of(ids), *self._look.orders_kept(ids)]))
        return found

    def _waiting(self, entity: Entity, keys: Iterable[str]) -> set[str]:
        waiting: set[str] = set()
        for chunk in _chunks(keys, _KEYS_AT_ONCE):
            if entity == "provenance":
                waiting |= {f"provenance/{name}" for name in self._look.pending_records([_name(key) for key in chunk])}
            else:
                numbers = self._look.pending_numbers(entity, [int(_name(key)) for key in chunk])
                waiting |= {f"{entity}/{number}" for number in numbers}
        return waiting

    def _note(self, entity: Entity, causes: dict[str, Cause]) -> None:
        if entity == "provenance":
            known = self._asked(KeysAsked(entity=entity, altered=True))
            causes |= {key: Cause.ALTERED for key in known if causes.get(key) is not Cause.WAITING}
        for cause in Cause:
            keys = sorted(key for key, each in causes.items() if each is cause)
            if keys:
                self._report.differences.append(Difference(entity, cause, len(keys), tuple(keys[:EXAMPLES])))

    # Repair

    def _repaired(self, entity: Entity, causes: dict[str, Cause]) -> dict[str, Cause]:
        """Have published again what differs, and look again; return what differs still."""
        wrong = [key for key, cause in causes.items() if cause in REPAIRED]
        if entity == "provenance":
            rows: dict[str, int] = {}
            for chunk in _chunks(wrong, _KEYS_AT_ONCE):
                rows |= self._look.rows_of_records([_name(key) for key in chunk])
            for row_ids in _chunks(list(rows.values()), _KEYS_AT_ONCE):
                self._look.enqueue_records(row_ids)
            gone = [key for key in wrong if _name(key) not in rows]
            for chunk in _chunks(gone, _KEYS_AT_ONCE):
                held = self._held(entity, chunk)
                self._look.enqueue_gone_records([(_name(key), held[key].root) for key in chunk if key in held])
        else:
            for chunk in _chunks(wrong, _KEYS_AT_ONCE):
                self._look.enqueue_numbers(entity, [int(_name(key)) for key in chunk])
        # A crash here leaves changelog rows that the relay publishes like any others.
        left = self._watched(entity, set(causes))
        self._report.repaired += len(set(wrong) - set(left))
        return left

    # The index

    def _held(self, entity: Entity, keys: Sequence[str]) -> dict[str, KeyPrint]:
        return self._asked(KeysAsked(entity=entity, keys=tuple(keys)))

    def _asked(self, asked: KeysAsked) -> dict[str, KeyPrint]:
        return self._complete(self._index.keys(asked)).keys

    def _built(self, give_up_at: float) -> IndexStatus:
        """Return the index's status once it answers from no old file.

        One that is being replaced reads no more: it may hold all of the store while the new one, as of a topic made anew, has
        nothing.
        """
        while True:
            status = self._complete(self._index.status())
            old = [str(each.partition) for each in status.partitions if each.rebuilding]
            if not old:
                return status
            if time.monotonic() >= give_up_at:
                raise Unreachable(
                    f"partitions {', '.join(old)} of the index are being built anew and show what was before: run this again "
                    "once they are whole, see `tocsin index status`"
                )
            time.sleep(_PAUSE_SECONDS)

    @staticmethod
    def _complete(answer: _G) -> _G:
        if not answer.complete:
            silent = ", ".join(map(str, answer.silent_partitions))
            raise Unreachable(
                f"{answer.partition_count - len(answer.silent_partitions)} of {answer.partition_count} partitions of the index "
                f"answer; without {silent} nothing can be compared: start their worker with `tocsin run index`"
            )
        return answer


def enqueue_kept_orders(look: StoreLook, index: IndexAnswers) -> int:
    """Have the orders published again that hold no record any more and are in the index still; return how many.

    A walk over the store's records, as a backfill is, does not come to them. Raises Unreachable.
    """
    complete = Verification._complete
    left: list[int] = []
    for numbers in _chunks(sorted(complete(index.ranges(RangesAsked(entity="order"))).ranges), _RANGES_AT_ONCE):
        keys = complete(index.keys(KeysAsked(entity="order", ranges=tuple(numbers)))).keys
        for chunk in _chunks(keys, _KEYS_AT_ONCE):
            left += look.orders_not_named([int(_name(key)) for key in chunk])
    count = 0
    for ids in _chunks(left, _KEYS_AT_ONCE):
        kept = [state.order_id for state in look.orders_kept(ids)]
        look.enqueue_numbers("order", kept)
        count += len(kept)
    return count


def _both(each: RangePrint | None) -> tuple[int, int]:
    return (0, 0) if each is None else (each.count, each.sum)


def _same(stored: _Print | None, indexed: KeyPrint | None) -> bool:
    if stored is None:
        # What was deleted by SQL is kept as deleted.
        return indexed is None or indexed.deleted
    return indexed is not None and stored.fingerprint == indexed.fingerprint


def _not_the_same(stored: Mapping[str, _Print], indexed: Mapping[str, KeyPrint]) -> set[str]:
    return {key for key in {*stored, *indexed} if not _same(stored.get(key), indexed.get(key))}


def _cause(entity: Entity, stored: _Print | None, indexed: KeyPrint | None) -> Cause:
    if stored is None:
        return Cause.GONE
    if indexed is None:
        return Cause.MISSING
    return Cause.ALTERED if entity == "provenance" and stored.content != indexed.content else Cause.OLDER


def _name(key: str) -> str:
    return key.partition("/")[2]


def _chunks(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    listed = list(values)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]
