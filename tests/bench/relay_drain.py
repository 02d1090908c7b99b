"""A backlog drained to empty: the relay with transactions and sealing against Debezium, in turn, medians of three.

`provenance`: 500,000 rows changed twice, against plain capture of the table and against the outbox event router. The first
half counts from the start of the process, the second half is warm. `customers`: 200,000 changed customers whose events carry
sealed contact, residence set and values, against plain capture of the customer table alone. BENCH_ONLY names one of them.

Debezium reads a binary log without our triggers' rows, and plain capture one without the outbox's; the outbox's also has the
changes of the table, as where an application writes both.

All sides drain once before they are measured: the broker, which they share, compiles what it does often for some million records,
at several times the cost of doing it, and whoever comes first would pay most of that.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from pymysql.cursors import Cursor

from bridge.contracts.envelope import open_envelope
from bridge.contracts.events import CustomerChanged
from bridge.contracts.topics import STORE_CHANGES
from bridge.runtime.sealing import Opener
from tests.bench.stand import measure, relay, servers
from tests.bench.stand.debezium import Debezium
from tests.bench.stand.relay import Installation
from tests.bench.stand.servers import Stand

_OUTBOX = """
CREATE TABLE outbox (id CHAR(36) NOT NULL PRIMARY KEY, aggregatetype VARCHAR(64) NOT NULL, aggregateid VARCHAR(64) NOT NULL,
    type VARCHAR(64) NOT NULL, payload LONGTEXT NOT NULL) ENGINE=InnoDB
"""
_TO_OUTBOX = """
INSERT INTO outbox SELECT UUID(), 'provenance', r.record_id, 'ProvenanceRecorded', JSON_OBJECT('root', r.root,
    'record_id', r.record_id, 'customer_id', r.customer_id, 'entity_type', r.entity_type, 'entity_id', r.entity_id,
    'attribute', r.attribute, 'model_id', r.model_id, 'model_version', r.model_version, 'run_id', r.run_id,
    'dataset_version', r.dataset_version, 'generated_at', r.generated_at, 'kind', r.kind, 'confidence', r.confidence,
    'sensitivity', r.sensitivity, 'categories', r.categories, 'elements', r.elements, 'source_system', r.source_system,
    'storage_location', r.storage_location, 'input_fields', r.input_fields, 'legal_basis', r.legal_basis)
FROM tocsin_provenance r WHERE r.id BETWEEN {first} AND {last}
"""
_CHANGES = {
    "provenance": "UPDATE tocsin_provenance SET model_version = '{version}', run_id = UUID()"
    " WHERE id BETWEEN {first} AND {last}",
    "customers": "UPDATE customer_entity SET lastname = CONCAT('L{version}', entity_id)"
    " WHERE entity_id BETWEEN {first} AND {last}",
}
_REFILL = {
    "provenance": "INSERT INTO tocsin_provenance_cl (version_id, entity_id, record_id, root)"
    " SELECT {after} + id, id, record_id, root FROM tocsin_provenance ORDER BY id",
    "customers": "INSERT INTO tocsin_customer_cl (version_id, entity_id)"
    " SELECT {after} + entity_id, entity_id FROM customer_entity ORDER BY entity_id",
}
_TABLES = {"provenance": "tocsin_provenance", "customers": "customer_entity"}
_VIEWS = {"provenance": "tocsin_provenance", "customers": "tocsin_customer"}
_A_COMMIT = 1000
_CONTACTS_OPENED = 1000
Run = dict[str, float]


_SIZES = {
    "full": {"provenance": 500_000, "customers": 200_000},
    "middle": {"provenance": 200_000, "customers": 100_000},
    "toy": {"provenance": 300, "customers": 60},
}


def main(size: str) -> dict[str, object]:
    """Return rates, CPU seconds and memory of both sides, and whether each ratio is reached."""
    only = os.environ.get("BENCH_ONLY", "")
    sizes = {what: rows for what, rows in _SIZES[size].items() if only in ("", what)}
    if not sizes:
        raise SystemExit(f"BENCH_ONLY={only}: there are {', '.join(_SIZES[size])}")
    toy = size == "toy"
    return measured(sizes, rounds=1 if toy else 3, with_peers=not toy)


def measured(sizes: Mapping[str, int], rounds: int, *, with_peers: bool) -> dict[str, object]:
    """Measure backlogs of twice `sizes` rows."""
    result: dict[str, object] = {}
    with (
        servers.stand(small=not with_peers) as stand,
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
        stand.store.connect() as connection,
        connection.cursor() as cursor,
    ):
        records = sizes.get("provenance", 0)
        servers.fill(cursor, sizes.get("customers") or max(1, records // 10), max(1, records))
        cursor.execute(_OUTBOX)
        # Each backlog is written into the changelogs as such.
        servers.drop_triggers(cursor)
        for what in sizes:
            part = Path(folder) / what
            part.mkdir()
            result |= _one(stand, cursor, part, what, sizes[what], rounds, with_peers=with_peers)
    return result


def _one(
    stand: Stand, cursor: Cursor, folder: Path, what: str, rows: int, rounds: int, *, with_peers: bool
) -> dict[str, object]:
    installation = relay.install(stand, folder)
    peers: dict[str, Debezium] = {}
    if with_peers:
        kinds = ("plain", "outbox") if what == "provenance" else ("plain",)
        for number, kind in enumerate(kinds):
            outbox = kind == "outbox"
            name = f"{what}-{kind}"
            table = "outbox" if outbox else _TABLES[what]
            peer = Debezium(stand, folder / kind, name, table, outbox=outbox, number=number + 10 * len(what))
            _to_the_end(peer, cursor, _CHANGES[what] if not outbox else _TO_OUTBOX)
            _change(cursor, what, rows, with_outbox=outbox)
            peers[kind] = peer
    runs: dict[str, list[Run]] = {"relay": [], **{kind: [] for kind in peers}}
    for number in range(0 if peers else 1, rounds + 1):
        _say(f"{what}, round {number} of {rounds}" if number else f"{what}, a round that is not counted")
        runs["relay"].append(_drained_by_relay(stand, cursor, installation, what, rows))
        for kind, peer in peers.items():
            runs[kind].append(_drained_by_peer(stand, peer, rows))
        for kind, each in runs.items():
            _say(f"  {kind}: " + ", ".join(f"{key} {value:.4g}" for key, value in each[-1].items() if key in _SAID))
        if not number:
            runs = {kind: [] for kind in runs}
    opened = _opened(installation, rows) if what == "customers" else 0
    return _report(what, runs, opened)


_SAID = (
    "started_per_second", "warm_per_second", "warm_cpu_s_per_100k", "warm_cpu_s_per_100k_kafka", "rss_mb",
)  # fmt: skip


def _say(line: str) -> None:
    """A full run takes minutes: what is known already is worth reading, also when it is interrupted."""
    print(line, file=sys.stderr, flush=True)


def _to_the_end(peer: Debezium, cursor: Cursor, change: str) -> None:
    """Run the connector until it has delivered a change, so that it has an offset at the end of the binary log."""

    def delivered() -> bool:
        cursor.execute(change.format(version=time.monotonic_ns(), first=1, last=1))
        return peer.count() > 0

    with peer.running():
        measure.wait_until(f"a first record in {peer.topic}", delivered, 120, every=1)
        time.sleep(3)
    peer.keep_offset()


def _change(cursor: Cursor, what: str, rows: int, *, with_outbox: bool) -> None:
    for version in (1, 2):
        for first in range(1, rows + 1, _A_COMMIT):
            last = min(first + _A_COMMIT - 1, rows)
            cursor.execute(_CHANGES[what].format(version=version, first=first, last=last))
            if with_outbox:
                cursor.execute(_TO_OUTBOX.format(first=first, last=last))


def _drained_by_relay(stand: Stand, cursor: Cursor, installation: Installation, what: str, rows: int) -> Run:
    servers.forget(cursor)
    for after in (0, rows):
        cursor.execute(_REFILL[what].format(after=after))
    backlog = servers.Backlog(cursor, _VIEWS[what])
    total = backlog.total
    assert total == 2 * rows
    began = time.monotonic()
    with installation.running() as process:
        pids = {"relay": process.pid, **stand.pids}
        run = _timed(began, pids, total, lambda: total - backlog.left(), process.poll, installation.said)
        run["rss_mb"] = measure.rss_mb(process.pid)
    return run


def _drained_by_peer(stand: Stand, peer: Debezium, rows: int) -> Run:
    peer.to_kept_offset()
    before = peer.count()
    began = time.monotonic()
    with peer.running() as process:
        pids = {"connect": process.pid, **stand.pids}
        run = _timed(began, pids, 2 * rows, lambda: peer.count() - before, process.poll, peer.said)
        run["rss_mb"] = measure.rss_mb(process.pid)
    return run


def _timed(
    began: float, pids: Mapping[str, int], total: int, done: Callable[[], int], ended: Callable[[], int | None],
    said: Callable[[], str],
) -> Run:  # fmt: skip
    """Time a drain: `started` from the start of the process to the half, `warm` from there to the end."""

    def reached(count: int) -> tuple[float, int, dict[str, float]]:
        while (now := done()) < count:
            if ended() is not None:
                raise RuntimeError(f"it ended before it had drained: {said()}")
            time.sleep(0.02)
        return time.monotonic(), now, measure.cpu_seconds(pids)

    start = began, 0, measure.cpu_seconds(pids)
    half, whole = reached(total // 2), reached(total)
    run: Run = {}
    for name, one, other in (("started", start, half), ("warm", half, whole)):
        count = max(1, other[1] - one[1])
        run[f"{name}_per_second"] = count / max(0.001, other[0] - one[0])
        run[f"{name}_cpu_s_per_100k"] = sum(other[2][each] - one[2][each] for each in pids) * 1e5 / count
        for each in pids:
            run[f"{name}_cpu_s_per_100k_{each}"] = (other[2][each] - one[2][each]) * 1e5 / count
    return run


def _opened(installation: Installation, rows: int) -> int:
    """Read what was published about customers and open contacts; return how many opened and were whole."""
    opener = Opener([installation.private_key])
    consumer = Consumer(
        {
            "bootstrap.servers": installation.kafka.bootstrap_servers,
            "group.id": "bench-open",
            "isolation.level": "read_committed",
        }
    )
    name = installation.kafka.topic_prefix + STORE_CHANGES.name
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(STORE_CHANGES.partitions)])
    opened = 0
    give_up_at = time.monotonic() + 60
    wanted = _CONTACTS_OPENED
    while opened < wanted and time.monotonic() < give_up_at:
        messages = consumer.consume(500, 2.0)
        if not messages and opened:
            break
        for message in messages:
            headers: dict[str, Any] = dict(message.headers() or {})
            event = open_envelope(message.key(), message.value(), headers)
            if isinstance(event, CustomerChanged):
                assert event.contact is not None
                contact = opener.open(event.contact, event.root)
                assert contact.email is not None
                assert contact.email.startswith(f"customer{event.customer_id}@")
                assert contact.phone is not None
                assert len(contact.postal_address) == 4
                assert event.residence
                assert set(event.attribute_hmacs) == {"fraud_score", "income_band"}
                opened += 1
    consumer.close()
    if opened < min(wanted, rows):
        raise RuntimeError(f"{opened} contacts were found and opened, of {min(wanted, rows)}")
    return opened


_GOALS = {
    ("provenance", "plain"): {"warm_per_second": 1.3, "started_per_second": 2.5},
    ("provenance", "outbox"): {"warm_per_second": 1.1, "started_per_second": 2.0},
    ("customers", "plain"): {"warm_per_second": 1.0},
}
_MOST_CPU, _MOST_MB = 0.5, 150


def _report(what: str, runs: Mapping[str, Sequence[Run]], opened: int) -> dict[str, object]:
    middle = {
        kind: {key: round(statistics.median(run[key] for run in each), 2) for key in each[0]}
        for kind, each in runs.items()
    }
    found: dict[str, object] = {f"{what} {kind}": json.dumps(values) for kind, values in middle.items()}
    if opened:
        found[f"{what} contacts opened and checked (at least {_CONTACTS_OPENED})"] = opened
    ours = middle["relay"]
    found[f"{what} memory, MB (below {_MOST_MB})"] = f"{ours['rss_mb']:.0f} {_verdict(ours['rss_mb'] < _MOST_MB)}"
    for (which, kind), goals in _GOALS.items():
        if which != what or kind not in middle:
            continue
        for key, goal in goals.items():
            ratio = ours[key] / middle[kind][key]
            found[f"{what} {key} against {kind} (at least {goal})"] = f"{ratio:.2f} {_verdict(ratio >= goal)}"
        ratio = ours["warm_cpu_s_per_100k"] / middle[kind]["warm_cpu_s_per_100k"]
        found[f"{what} CPU against {kind} (at most {_MOST_CPU})"] = f"{ratio:.2f} {_verdict(ratio <= _MOST_CPU)}"
    return found


def _verdict(holds: bool) -> str:
    return "holds" if holds else "MISSED"
