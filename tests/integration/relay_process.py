"""A relay as a process of its own, to be killed or frozen: `python relay_process.py SETTINGS.json [--hold STEP]`.

Says `leads` when it is the active one. With `--hold` it says the step's name on first reaching it and waits there until
SETTINGS.go exists: `published` is after a batch's commit and before its settling, `sent` after sending and before the
commit. (A signal would not do: the kernel may hand it to another thread than the one that must run its handler.)
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from bridge.contracts.envelope import Message
from bridge.contracts.topics import Topic
from bridge.magento.store import open_store
from bridge.relay import TRANSACTIONAL_ID, RelayStage
from bridge.runtime.clock import SystemClock
from bridge.runtime.kafka import Fenced, Publisher
from bridge.runtime.sealing import Sealer
from bridge.runtime.settings import Kafka, Relay, Store
from bridge.runtime.supervisor import stop_on_signals
from bridge.runtime.telemetry import Health


class Held:
    """A publisher that stops at a step of its first transaction."""

    def __init__(self, publisher: Publisher, step: str | None, hold: Callable[[str], None]) -> None:
        self._publisher = publisher
        self._step = step
        self._hold = hold

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._publisher.transaction():
            yield
            if self._step == "sent":
                self._hold("sent")
        if self._step == "published":
            self._hold("published")

    def send(self, topic: Topic, message: Message) -> None:
        self._publisher.send(topic, message)

    def send_to_all(self, topic: Topic, message: Message) -> None:
        self._publisher.send_to_all(topic, message)

    def close(self) -> None:
        self._publisher.close()


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def holder(go: Path) -> Callable[[str], None]:
    def hold(step: str) -> None:
        if not go.exists():
            say(step)
            while not go.exists():
                time.sleep(0.01)

    return hold


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("--hold", choices=["sent", "published"])
    arguments = parser.parse_args()
    hold = holder(arguments.settings.with_suffix(".go"))
    given = json.loads(arguments.settings.read_text(encoding="utf-8"))
    kafka = Kafka(bootstrap_servers=given["bootstrap_servers"], topic_prefix=given["topic_prefix"])
    clock = SystemClock()

    def open_publisher() -> Held:
        publisher = Publisher(kafka, transactional_id=TRANSACTIONAL_ID)
        say("leads")
        return Held(publisher, arguments.hold, hold)

    reader = open_store(Store(url=SecretStr(given["url"])), clock)
    sealer = Sealer(bytes.fromhex(given["public_key"]), clock)
    relay = Relay(batch_size=given["batch_size"], idle_seconds=0.01)
    stage = RelayStage(reader, open_publisher, sealer, bytes(32), relay, clock, Health())
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
