"""How long a change takes to count: from its publication to a preview that knows it, at 5,000 changes a second.

Changes come as from the relay, in transactions; each second one of them names a model that nothing else names, and the
owners of all partitions are asked for it until one finds it. Goal: below a second, every time.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bridge.contracts.envelope import Envelopes, Message
from bridge.contracts.events import ProvenanceRecorded
from bridge.contracts.scope import Scope
from bridge.contracts.topics import STORE_CHANGES
from bridge.runtime.kafka import Publisher
from consumers.adapters.index_client import IndexClient
from tests.bench.stand import measure, servers, workers
from tests.bench.stand.provenance import MODEL, PUBLISHED_AT, Provenance
from tests.bench.stand.workers import Installation

_RECORDS = {"full": 1_000_000, "middle": 200_000, "toy": 1000}
_SECONDS = {"full": 20, "middle": 10, "toy": 1}
_RATE, _BATCHES = 5000, 10
_MOST_SECONDS = 1.0


def main(size: str) -> dict[str, object]:
    """Return the delays and the rate that was reached, and whether the goal holds."""
    provenance = Provenance(_RECORDS[size])
    with (
        servers.stand(small=size == "toy") as stand,
        tempfile.TemporaryDirectory(prefix="tocsin-bench-") as folder,
    ):
        installation = workers.install(stand.bootstrap_servers, Path(folder))
        provenance.publish(stand.bootstrap_servers, installation.changes)
        with installation.running(1) as processes:
            installation.wait_for_head(processes)
            delays, rate = _followed(installation, provenance, _SECONDS[size])
    worst = max(delays)
    return {
        "changes a second": round(rate),
        "visible after, s": f"median {measure.at(sorted(delays), 0.5):.2f}, worst {worst:.2f} of {len(delays)}",
        f"below {_MOST_SECONDS:g} s": "holds" if worst < _MOST_SECONDS and rate > 0.95 * _RATE else "MISSED",
    }


def _followed(installation: Installation, provenance: Provenance, seconds: int) -> tuple[list[float], float]:
    client = IndexClient(installation.folder / "data" / "run", timeout_seconds=30)
    published: dict[int, float] = {}
    arrived, delays = threading.Condition(), []
    rates: list[float] = []

    def publish() -> None:
        publisher = Publisher(installation.kafka, transactional_id="store")
        # Made in hundreds of thousands: the first of them take longer than a second of changes.
        example = next(each for each in provenance.messages_once() if f'"{MODEL}"' in each[2])
        changes = _changes(provenance)
        changes = itertools.chain([next(changes)], changes)
        began = time.monotonic()
        for batch in range(seconds * _BATCHES):
            time.sleep(max(0.0, began + batch / _BATCHES - time.monotonic()))
            with publisher.transaction():
                for message in itertools.islice(changes, _RATE // _BATCHES):
                    publisher.send(STORE_CHANGES, message)
                if batch % _BATCHES == 0:
                    publisher.send(STORE_CHANGES, _probe(example, batch // _BATCHES))
            if batch % _BATCHES == 0:
                with arrived:
                    published[batch // _BATCHES] = time.monotonic()
                    arrived.notify()
        rates.append(seconds * _RATE / (time.monotonic() - began))
        publisher.close()

    store = threading.Thread(target=publish)
    store.start()
    for number in range(seconds):

        def is_published(number: int = number) -> bool:
            return number in published

        def counts(scope: Scope = Scope(model_ids=(f"probe-{number}",))) -> bool:  # noqa: B008
            return client.preview(scope).record_count > 0

        with arrived:
            if not arrived.wait_for(is_published, 60):
                raise TimeoutError(f"change {number} was not published")
        measure.wait_until(f"change {number} counts", counts, 60, every=0.01)
        delays.append(time.monotonic() - published[number])
    store.join()
    return delays, rates[0]


def _changes(provenance: Provenance) -> Iterator[Message]:
    """Yield new records without end."""
    envelopes = Envelopes("/relay", PUBLISHED_AT)
    for turn in itertools.count(1):
        for customer_id, record_id, value in provenance.messages_once():
            new = f"{record_id}-{turn}"
            body = value.replace(record_id, new, 1).encode()
            yield envelopes.message(ProvenanceRecorded.ce_type, f"provenance/{new}", f"customer/{customer_id}", body)


def _probe(example: tuple[int, str, str], number: int) -> Message:
    customer_id, record_id, value = example
    new = f"{record_id}-probe-{number}"
    body = value.replace(record_id, new, 1).replace(f'"{MODEL}"', f'"probe-{number}"', 1).encode()
    return Envelopes("/relay", PUBLISHED_AT).message(
        ProvenanceRecorded.ce_type, f"provenance/{new}", f"customer/{customer_id}", body
    )
