"""The reference: Debezium 3.5.0.Final on Kafka Connect 4.1.1, capturing a table or routing an outbox, tuned for throughput.

Standalone, at least once; or, as Connect offers it to its distributed workers only, exactly once.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.bench.run import PeerMissing
from tests.bench.stand import measure
from tests.bench.stand.servers import Stand
from tests.servers.local import free_port

_POM = Path(__file__).with_name("debezium.xml")
_CACHE = Path(__file__).parents[3] / ".cache" / "debezium-3.5.0.Final"
_HEAP = "1500m"
_WORKER = """
bootstrap.servers={bootstrap}
listeners=http://127.0.0.1:{port}
plugin.discovery=only_scan
key.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
producer.acks=all
producer.enable.idempotence=true
producer.max.in.flight.requests.per.connection=5
producer.compression.type=lz4
producer.linger.ms=5
producer.batch.size=1000000
producer.buffer.memory=134217728
producer.max.request.size=8388608
"""
_STANDALONE = """
offset.storage.file.filename={folder}/offsets.dat
offset.flush.interval.ms=1000
"""
_DISTRIBUTED = """
group.id={name}-workers
exactly.once.source.support=enabled
offset.storage.topic={name}-offsets
offset.storage.partitions=1
offset.storage.replication.factor=1
config.storage.topic={name}-config
config.storage.replication.factor=1
status.storage.topic={name}-status
status.storage.partitions=1
status.storage.replication.factor=1
"""
_EXACTLY_ONCE = """
exactly.once.support=requested
transaction.boundary=poll
"""
_CONNECTOR = """
name={name}
connector.class=io.debezium.connector.mariadb.MariaDbConnector
tasks.max=1
database.hostname=127.0.0.1
database.port={database_port}
database.user={user}
database.password={password}
database.server.id={server_id}
database.ssl.mode=disable
database.include.list={database}
table.include.list={database}.{table}
topic.prefix={name}
schema.history.internal=io.debezium.storage.file.history.FileSchemaHistory
schema.history.internal.file.filename={folder}/schema-history.dat
schema.history.internal.store.only.captured.tables.ddl=true
snapshot.mode=no_data
snapshot.locking.mode=none
max.batch.size=8192
max.queue.size=32768
poll.interval.ms=10
tombstones.on.delete=false
include.schema.changes=false
provide.transaction.metadata=false
skip.messages.without.change=false
decimal.handling.mode=string
errors.max.retries=0
"""
_OUTBOX = """
transforms=outbox
transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
transforms.outbox.table.field.event.id=id
transforms.outbox.table.field.event.key=aggregateid
transforms.outbox.table.field.event.payload=payload
transforms.outbox.route.by.field=aggregatetype
transforms.outbox.route.topic.replacement={name}.${{routedByValue}}
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
"""


def class_path() -> str:
    """Return where the jars are; Maven brings them the first time. Raises PeerMissing."""
    if not shutil.which("java") or not shutil.which("mvn"):
        raise PeerMissing("java and mvn are not installed (Debian: openjdk-17-jre-headless, maven)")
    if not _CACHE.is_dir():
        part = _CACHE.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        shutil.copy(_POM, part / "pom.xml")
        done = subprocess.run(["mvn", "-q", "-B", "package"], cwd=part, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PeerMissing(f"Maven could not bring Debezium: {done.stdout[-1000:]}")
        part.rename(_CACHE)
    return f"{_CACHE}/target/libs/*"


class Debezium:
    """One connector with its stored offset."""

    def __init__(
        self,
        stand: Stand,
        folder: Path,
        name: str,
        table: str,
        *,
        outbox: bool = False,
        exactly_once: bool = False,
        number: int,
    ) -> None:
        self._jars = class_path()
        self._folder = folder
        self._bootstrap = stand.bootstrap_servers
        folder.mkdir(parents=True)
        server = stand.store.server
        self._name = name
        self._port = free_port()
        self._exactly_once = exactly_once
        values = {
            "bootstrap": stand.bootstrap_servers, "port": self._port, "folder": folder, "name": name, "table": table,
            "database_port": server.port, "user": server.user, "password": server.password, "server_id": 5500 + number,
            "database": stand.store.name,
        }  # fmt: skip
        worker = _WORKER + (_DISTRIBUTED if exactly_once else _STANDALONE)
        (folder / "worker.properties").write_text(worker.format(**values), encoding="utf-8")
        connector = _CONNECTOR + (_OUTBOX if outbox else "") + (_EXACTLY_ONCE if exactly_once else "")
        (folder / "connector.properties").write_text(connector.format(**values), encoding="utf-8")
        self.topic = f"{name}.provenance" if outbox else f"{name}.{stand.store.name}.{table}"
        self._admin = AdminClient({"bootstrap.servers": self._bootstrap})
        self._admin.create_topics([NewTopic(self.topic, 1, 1)])[self.topic].result()
        self._taken = 0
        self._consumer = Consumer({"bootstrap.servers": self._bootstrap, "group.id": f"{name}-watch"})
        measure.wait_until(f"topic {self.topic}", self._is_there, 30)

    def _is_there(self) -> bool:
        try:
            self._consumer.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=10)
        except KafkaException:
            # a topic just made is not known everywhere at once
            return False
        return True

    def count(self) -> int:
        """Return how many records its topic has taken."""
        try:
            self._taken = int(self._consumer.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=10)[1])
        except KafkaException:
            # A busy broker answers late: what was known is true still, and it is asked again.
            return self._taken
        return self._taken

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Keep Kafka Connect running with the connector."""
        command = [
            "java", "-Xms512m", f"-Xmx{_HEAP}", "-XX:+UseG1GC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp", self._jars,
            f"org.apache.kafka.connect.cli.Connect{'Distributed' if self._exactly_once else 'Standalone'}",
            str(self._folder / "worker.properties"),
        ]  # fmt: skip
        if not self._exactly_once:
            command.append(str(self._folder / "connector.properties"))
        with (self._folder / "connect.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            if self._exactly_once:
                measure.wait_until(f"the worker of {self._name}", self._takes_connector, 120, every=0.5)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _takes_connector(self) -> bool:
        """Hand the connector to a distributed worker; return False while it is not ready for that."""
        lines = (self._folder / "connector.properties").read_text(encoding="utf-8").splitlines()
        config = {name: value for name, _, value in (line.partition("=") for line in lines if line)}
        request = Request(
            f"http://127.0.0.1:{self._port}/connectors/{self._name}/config",
            data=json.dumps(config).encode(),
            headers={"Content-Type": "application/json"},
            method="PUT",
        )
        try:
            with urlopen(request, timeout=10):
                return True
        except HTTPError as error:
            if error.code not in (404, 409, 500, 503):
                raise RuntimeError(error.read().decode(errors="replace")[:2000]) from None
            return False
        except OSError:
            return False

    def said(self) -> str:
        """Return the end of what Kafka Connect logged."""
        return (self._folder / "connect.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def keep_offset(self) -> None:
        """Remember the present offset as the beginning of the backlog."""
        shutil.copy(self._folder / "offsets.dat", self._folder / "kept.dat")

    def to_kept_offset(self) -> None:
        """Go back to the beginning of the backlog."""
        shutil.copy(self._folder / "kept.dat", self._folder / "offsets.dat")
