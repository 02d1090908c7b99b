"""The demo's Kafka: librdkafka's mock cluster, in a process of its own. Memory only, 4 partitions a topic, no compaction.

`python -m bridge.runtime.embedded_kafka` prints `{"bootstrap_servers": ...}` and runs until SIGTERM. Never for
production: what it holds is gone with it, and a fenced producer is not kept out.
"""

import json
import sys

from confluent_kafka import Producer

from bridge.contracts.errors import Unreachable
from bridge.contracts.topics import TOPICS
from bridge.runtime.supervisor import stop_on_signals


def main() -> int:
    """Run the cluster until told to stop."""
    stop = stop_on_signals()
    producer = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 3})
    metadata = producer.list_topics(timeout=10)
    if not metadata.brokers:
        raise Unreachable("the embedded Kafka did not start; is confluent-kafka's wheel complete?")
    for topic in TOPICS:
        # asking for a topic creates it
        producer.list_topics(topic.name, timeout=10)
    servers = ",".join(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
    sys.stdout.write(json.dumps({"bootstrap_servers": servers}) + "\n")
    sys.stdout.flush()
    while not stop.wait(0.5):
        producer.poll(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
