"""One Apache Kafka broker in KRaft mode, small and quick, with the settings that tests rely on.

`python -m tests.servers.kafka` brings and prepares what a broker as a process needs, once, into `.cache/`.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from testcontainers.core.container import DockerContainer

from tests.servers.choice import Way, look_around, way_to
from tests.servers.local import (
    ContainerPlug,
    Plug,
    ServerDidNotStart,
    free_port,
    run_to_end,
    running,
    scratch_folder,
    wait_until_ready,
)

VERSION = "4.1.1"
IMAGE = f"apache/kafka:{VERSION}"
PROGRAMS = ("java", "mvn")
POM = Path(__file__).with_name("kafka-jars.xml")
LOG4J2 = Path(__file__).with_name("kafka-log4j2.yaml")
CACHE = Path(__file__).parents[2] / ".cache"
# Quick to start rather than quick to run: no second compiler, one collector thread, and a heap that leaves room for tests.
AS_RELEASED = {
    "log.cleaner.backoff.ms": "15000",
    "log.cleaner.dedupe.buffer.size": "134217728",
    "log.index.size.max.bytes": "10485760",
}
"""Kafka's own values where ours hurry for the sake of tests: compaction would use a core of every measurement."""
JVM = ("-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """Where the broker is. Topics must be created: the broker makes none by itself."""

    bootstrap_servers: str
    plug: Plug = field(repr=False, compare=False)
    secured_servers: str = ""
    """Of a secured broker: where it asks for TLS, a sign-in and rights; at the other address everybody may do everything."""
    log: Callable[[], str] = field(default=str, repr=False, compare=False)
    """Returns what the broker wrote; a secured one says there whom it let do what."""


@dataclass(frozen=True, slots=True)
class Secured:
    """What a broker gets a second listener for: TLS, OAUTHBEARER with unsecured tokens, PLAIN, and ACLs."""

    certificate: str
    """PEM: key and certificate of 127.0.0.1."""
    key: str
    passwords: Mapping[str, str]
    """By user, who is the principal then."""
    session_seconds: int
    """After so long a connection must have signed in again, or is closed."""


def secured_settings(secured: Secured) -> dict[str, str]:
    """Return what the second listener needs beside `broker_settings`."""

    def listener(name: str) -> str:
        return f"listener.name.secured.{name}"

    oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    users = " ".join(f'user_{user}="{password}"' for user, password in secured.passwords.items())
    return {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        listener("sasl.enabled.mechanisms"): "OAUTHBEARER,PLAIN",
        listener("oauthbearer.sasl.jaas.config"): f'{oauth} unsecuredLoginStringClaim_sub="broker";',
        listener("oauthbearer.connections.max.reauth.ms"): str(secured.session_seconds * 1000),
        listener("plain.sasl.jaas.config"): f"{plain} {users};",
        listener("ssl.keystore.type"): "PEM",
        listener("ssl.keystore.key"): secured.key.replace("\n", "\\n"),
        listener("ssl.keystore.certificate.chain"): secured.certificate.replace("\n", "\\n"),
    }


def broker_settings(port: int, controller_port: int, data: str, bind: str = "127.0.0.1") -> dict[str, str]:
    """Return the settings of one node that is broker and controller, reached at 127.0.0.1:`port`."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://{bind}:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        # So that a broker which was killed may come back: until then its controller takes it for a second one.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # So that a test which kills a consumer need not wait long for its partitions.
        "group.min.session.timeout.ms": "1000",
        # So that a broker which waits for its next test costs half as much.
        "metadata.max.idle.interval.ms": "30000",
        "log.cleaner.dedupe.buffer.size": "4194304",
        "log.cleaner.backoff.ms": "500",
        "log.index.size.max.bytes": "1048576",
    }


def as_properties(settings: Mapping[str, str]) -> str:
    """Return the text of a server.properties file."""
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings as the official image reads them: KAFKA_ and the name in capitals, dots as underscores."""
    return {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in settings.items()}


@contextmanager
def kafka_server(
    way: Way, secured: Secured | None = None, *, jvm: Sequence[str] = JVM, settings: Mapping[str, str] | None = None
) -> Iterator[KafkaServer]:
    """Yield a broker that answers, with a second listener if `secured`; `jvm` are a process's options.

    `settings` come on top of ours. Raises ServerDidNotStart.
    """
    more = settings or {}
    with _in_docker(secured, more) if way is Way.DOCKER else _as_process(secured, jvm, more) as server:
        yield server


def _with_second_listener(settings: dict[str, str], secured: Secured | None, port: int, bind: str) -> dict[str, str]:
    if secured is None:
        return settings
    return (
        settings
        | secured_settings(secured)
        | {
            "listeners": f"{settings['listeners']},SECURED://{bind}:{port}",
            "advertised.listeners": f"{settings['advertised.listeners']},SECURED://127.0.0.1:{port}",
            "listener.security.protocol.map": f"{settings['listener.security.protocol.map']},SECURED:SASL_SSL",
        }
    )


@contextmanager
def _as_process(secured: Secured | None, jvm: Sequence[str], more: Mapping[str, str]) -> Iterator[KafkaServer]:
    prepared = prepare()
    with scratch_folder("kafka") as scratch:
        port, controller_port, secured_port = free_port(), free_port(), free_port()
        data = scratch / "data"
        settings = broker_settings(port, controller_port, str(data)) | dict(more)
        settings = _with_second_listener(settings, secured, secured_port, "127.0.0.1")
        prepared.copy_data(data)
        # what is archived was loaded by a machine with these options
        shared = [f"-XX:SharedArchiveFile={prepared.classes}"] if tuple(jvm) == JVM else []
        told = ["-Dtocsin.authorizer.level=DEBUG"] if secured else []
        address = f"127.0.0.1:{port}"
        with running(
            "kafka",
            _broker((*jvm, *shared, *told), prepared.jars, scratch, settings),
            scratch,
            lambda: _answers(address),
        ) as plug:
            log = scratch / "kafka.log"
            yield KafkaServer(
                address, plug, f"127.0.0.1:{secured_port}" if secured else "", partial(log.read_text, encoding="utf-8")
            )


def _java(jvm: Sequence[str], jars: Path) -> tuple[str, ...]:
    return ("java", *jvm, "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={LOG4J2}")


def _broker(jvm: Sequence[str], jars: Path, scratch: Path, settings: Mapping[str, str]) -> tuple[str | Path, ...]:
    properties = scratch / "server.properties"
    properties.write_text(as_properties(settings), encoding="utf-8")
    return (*_java(jvm, jars), "kafka.Kafka", properties)


@contextmanager
def _in_docker(secured: Secured | None, more: Mapping[str, str]) -> Iterator[KafkaServer]:
    # The port outside must be known before the start, because the broker tells it to its clients.
    port, secured_port = free_port(), free_port()
    container = DockerContainer(IMAGE).with_bind_ports(port, port).with_bind_ports(secured_port, secured_port)
    settings = broker_settings(port, free_port(), "/tmp/kafka-logs", bind="0.0.0.0") | dict(more)
    settings = _with_second_listener(settings, secured, secured_port, "0.0.0.0")
    for name, value in as_environment(settings).items():
        container = container.with_env(name, value)
    with container:
        address = f"127.0.0.1:{port}"
        _wait_for_container(container, address)
        plug = ContainerPlug(container, lambda: _answers(address))

        def log() -> str:
            return b"".join(container.get_logs()).decode(errors="replace")

        yield KafkaServer(address, plug, f"127.0.0.1:{secured_port}" if secured else "", log)


def _wait_for_container(container: DockerContainer, address: str, attempts: int = 120) -> None:
    for _ in range(attempts):
        if _answers(address):
            return
    raise ServerDidNotStart(f"{IMAGE} did not answer\n{container.get_logs()[0].decode(errors='replace')[-2000:]}")


def _answers(address: str) -> bool:
    client = AdminClient({"bootstrap.servers": address, "socket.timeout.ms": "1000", "log_level": "0"})
    try:
        return bool(client.list_topics(timeout=0.5).brokers)
    except KafkaException:
        return False


@dataclass(frozen=True, slots=True)
class Prepared:
    """What every broker begins with, so that none does it again."""

    jars: Path
    """The folder of Kafka's released jars."""
    folder: Path

    @property
    def classes(self) -> Path:
        """The classes that a broker loads, as Java keeps them: where this cannot be used, Java goes on without."""
        return self.folder / "classes.jsa"

    def copy_data(self, data: Path) -> None:
        """Make `data` a formatted folder of a new cluster."""
        shutil.copytree(self.folder / "data", data)
        meta = data / "meta.properties"
        lines = meta.read_text(encoding="utf-8").splitlines()
        others = [line for line in lines if not line.startswith("cluster.id=")]
        meta.write_text("\n".join([*others, f"cluster.id={_new_cluster_id()}", ""]), encoding="utf-8")


def _new_cluster_id() -> str:
    return urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def prepare() -> Prepared:
    """Return what a broker needs; the first time it is brought and made. Raises ServerDidNotStart."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "kafka.lock").open("w") as lock:
        # of several workers one does it; the lock ends with its process
        fcntl.flock(lock, fcntl.LOCK_EX)
        jars = kafka_jars()
        java = Path(shutil.which("java") or "java").resolve()
        # Java takes an archive only for the same jars in the same place, and so do we
        made_for = [str(java), str(java.stat().st_mtime_ns), str(jars), *JVM]
        folder = CACHE / f"kafka-ready-{hashlib.sha256(chr(10).join(made_for).encode()).hexdigest()[:16]}"
        if not folder.is_dir():
            print(f"Preparing Apache Kafka {VERSION} in .cache/{folder.name} ...", flush=True)
            with tempfile.TemporaryDirectory(prefix="kafka-", dir=CACHE) as part:
                made = Prepared(jars, Path(part) / "ready")
                made.folder.mkdir()
                _format(made)
                _archive_classes(made)
                made.folder.rename(folder)
        return Prepared(jars, folder)


def _format(made: Prepared) -> None:
    with scratch_folder("kafka") as scratch:
        properties = scratch / "server.properties"
        settings = broker_settings(free_port(), free_port(), str(made.folder / "data"))
        properties.write_text(as_properties(settings), encoding="utf-8")
        run_to_end(
            "kafka.tools.StorageTool",
            (
                # one word: an id that begins with a dash would be read as an option
                *(*_java(JVM, made.jars), "kafka.tools.StorageTool", "format"),
                *(f"--cluster-id={_new_cluster_id()}", "-c", properties),
            ),
            scratch / "format.log",
            timeout_seconds=60,
        )


def _archive_classes(made: Prepared) -> None:
    """Have a broker that has done a little of everything write down the classes that it took."""
    with scratch_folder("kafka") as scratch:
        port = free_port()
        made.copy_data(scratch / "data")
        settings = broker_settings(port, free_port(), str(scratch / "data"))
        # it ends by itself as soon as it is asked to, which the supervisor of others does not
        jvm = (*JVM, f"-XX:ArchiveClassesAtExit={made.classes}")
        address, log = f"127.0.0.1:{port}", scratch / "kafka.log"
        with (
            log.open("ab") as output,
            subprocess.Popen(
                _broker(jvm, made.jars, scratch, settings), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            ) as broker,
        ):
            try:
                wait_until_ready("kafka", broker, log, lambda: _answers(address), 60)
                _exercise(address)
                broker.terminate()
                broker.wait(60)
            finally:
                broker.kill()


def _exercise(address: str) -> None:
    client: dict[str, str | int | float | bool] = {"bootstrap.servers": address, "log_level": 0}
    admin = AdminClient(client)
    admin.create_topics([NewTopic("topic", num_partitions=1)])["topic"].result(timeout=30)
    producer = Producer({**client, "transactional.id": "producer"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce("topic", b"value")
    producer.commit_transaction(30)
    consumer = Consumer({**client, "group.id": "group", "auto.offset.reset": "earliest"})
    consumer.subscribe(["topic"])
    if consumer.poll(30) is not None:
        consumer.commit(asynchronous=False)
    consumer.close()


def kafka_jars() -> Path:
    """Return the folder of Kafka's released jars; Maven brings them the first time. Raises ServerDidNotStart."""
    folder = CACHE / f"kafka-{VERSION}"
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix="kafka-", dir=CACHE) as part:
        jars = Path(part) / "jars"
        run_to_end(
            "Maven",
            (
                *("mvn", "--quiet", "--batch-mode", "--file", POM, "dependency:copy-dependencies"),
                *(f"-Dkafka.version={VERSION}", f"-DoutputDirectory={jars}"),
            ),
            Path(part) / "maven.log",
            timeout_seconds=600,
        )
        # a rename is whole or not there
        jars.rename(folder)
    return folder


def main() -> None:
    """Prepare what tests need, where a broker will be a process."""
    if way_to("Apache Kafka", PROGRAMS, look_around(PROGRAMS, os.environ)) is not Way.LOCAL:
        return
    try:
        prepare()
    except ServerDidNotStart as error:
        # the tests that want it try again, and fail by name
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
