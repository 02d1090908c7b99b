"""A relay as a process of its own, to be killed or frozen: `python relay_process.py SETTINGS.json [--hold STEP]`.

Says `leads` when its publisher is open, `stands by` when another one leads, `fenced` when it ends for that. With `--hold` it
says the step's name on first reaching it and waits there until SETTINGS.go exists. (A signal would not do: the kernel may
hand it to another thread than the one that must run its handler.)
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bridge.magento.changelogs import ChangeBatch
from bridge.magento.store import open_store
from bridge.relay import TRANSACTIONAL_ID, RelayStage
from bridge.runtime.clock import SystemClock
from bridge.runtime.kafka import Fenced, Publisher
from bridge.runtime.sealing import Sealer
from bridge.runtime.settings import Kafka, Relay, Store
from bridge.runtime.supervisor import stop_on_signals
from bridge.runtime.telemetry import Health

STEPS = ("leading", "opened", "read", "stated", "begun", "sent", "published", "half-settled", "settled")
"""In order: the lead is taken; earlier publishers are shut out; a batch is read; its entities' states are; a transaction is
begun; all is sent; it is committed; one changelog is settled; all are."""

Hold = Callable[[str], None]


class HeldPublisher:
    """A publisher that can stop before, in and after its transactions."""

    def __init__(self, publisher: Publisher, hold: Hold) -> None:
        self._publisher = publisher
        self._hold = hold

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._publisher.transaction():
            self._hold("begun")
            yield
            self._hold("sent")
        self._hold("published")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)


class HeldReader:
    """A reader that can stop after each of its steps."""

    def __init__(self, reader: Any, hold: Hold) -> None:
        self._reader = reader
        self._hold = hold
        self._stands_by = False

    def take_lead(self) -> bool:
        taken = bool(self._reader.take_lead())
        if not taken and not self._stands_by:
            say("stands by")
        self._stands_by = not taken
        return taken

    def next_batch(self, *arguments: Any, **options: Any) -> ChangeBatch:
        batch: ChangeBatch = self._reader.next_batch(*arguments, **options)
        if batch:
            self._hold("read")
        return batch

    def states_of(self, batch: ChangeBatch) -> Any:
        states = self._reader.states_of(batch)
        self._hold("stated")
        return states

    def settle(self, batch: ChangeBatch) -> None:
        for view, version_ids in batch.version_ids.items():
            self._reader.settle(ChangeBatch(version_ids={view: version_ids}))
            self._hold("half-settled")
        self._hold("settled")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def holder(wanted: str | None, go: Path) -> Hold:
    said = False

    def hold(step: str) -> None:
        nonlocal said
        if step == wanted and not said:
            said = True
            say(step)
            while not go.exists():
                time.sleep(0.01)

    return hold


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("--hold", choices=STEPS)
    arguments = parser.parse_args()
    hold = holder(arguments.hold, arguments.settings.with_suffix(".go"))
    given = json.loads(arguments.settings.read_text(encoding="utf-8"))
    kafka = Kafka(bootstrap_servers=given["bootstrap_servers"], topic_prefix=given["topic_prefix"])
    clock = SystemClock()

    def open_publisher() -> HeldPublisher:
        hold("leading")
        publisher = Publisher(kafka, transactional_id=TRANSACTIONAL_ID)
        say("leads")
        hold("opened")
        return HeldPublisher(publisher, hold)

    store = Store(url=SecretStr(given["url"]), registered_attributes=given.get("registered_attributes", ()))
    reader: Any = HeldReader(open_store(store, clock), hold)
    sealer = Sealer(bytes.fromhex(given["public_key"]), clock)
    relay = Relay(batch_size=given["batch_size"], idle_seconds=0.01)
    publisher: Any = open_publisher
    stage = RelayStage(reader, publisher, sealer, bytes(32), relay, clock, Health())
    try:
        stage.run(stop_on_signals())
    except Fenced:
        say("fenced")
        return 1
    finally:
        reader.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
