"""Store servers, set up as for Tocsin, and fresh databases in them: one MariaDB with a row binary log for all tests; a
MariaDB that is a node of a Galera cluster (of one) and a MySQL for what must hold on each kind.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pymysql
from pymysql.constants import CLIENT
from sqlalchemy import make_url
from testcontainers.core.container import DockerContainer

from bridge.runtime.mysql import Connection
from tests.servers import mview
from tests.servers.choice import Way, find_program
from tests.servers.local import ContainerPlug, Plug, ServerDidNotStart, free_port, run_to_end, running, scratch_folder

IMAGE = "mariadb:10.11"
PROGRAMS = ("mariadbd", "mariadb-install-db", "my_print_defaults")
MYSQL_IMAGE = "mysql:8.4"
GALERA_LIBRARY = Path("/usr/lib/galera/libgalera_smm.so")
TABLES = Path(__file__).with_name("magento_tables.sql")
ROOT_PASSWORD = "root"
BINARY_LOG = ("log-bin=binlog", "binlog-format=ROW", "server-id=1")
"""What replicas and Debezium read. Neither Tocsin nor MariaDB as it comes needs it."""
SETTINGS = (
    "character-set-server=utf8mb4",
    "collation-server=utf8mb4_general_ci",
    *BINARY_LOG,
    # As for Magento's own indexers: without it only a SUPER user may create triggers.
    "log-bin-trust-function-creators=1",
    "innodb-buffer-pool-size=64M",
    "innodb-log-file-size=16M",
    # Tests end the process, never the machine: what the operating system holds is safe enough.
    "innodb-flush-log-at-trx-commit=2",
    "sync-binlog=0",
    "max-connections=200",
)


@dataclass(frozen=True, slots=True)
class MariaDbServer:
    """Where the server is, and its administrator."""

    port: int
    host: str = "127.0.0.1"
    user: str = "root"
    password: str = field(default=ROOT_PASSWORD, repr=False)
    query: str = "charset=utf8mb4"
    plug: Plug | None = field(default=None, repr=False, compare=False)
    """None for one that is not ours to pull."""

    def connect(self, database: str | None = None, *, autocommit: bool = True) -> Connection:
        """Open a connection as the administrator, in UTC."""
        return Connection(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database,
            charset="utf8mb4",
            autocommit=autocommit,
            init_command="SET time_zone = '+00:00'",
            client_flag=CLIENT.FOUND_ROWS,
        )


@dataclass(frozen=True, slots=True)
class StoreDatabase:
    """A store's database: Magento's tables, ours, changelogs and triggers, and no row."""

    server: MariaDbServer
    name: str

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database, password included."""
        server = self.server
        return f"mysql+pymysql://{server.user}:{server.password}@{server.host}:{server.port}/{self.name}?{server.query}"

    def connect(self, *, autocommit: bool = True) -> Connection:
        """Open a connection to the database, in UTC."""
        return self.server.connect(self.name, autocommit=autocommit)


@contextmanager
def mariadb_server(way: Way, *, binary_log: bool = True, more: Sequence[str] = ()) -> Iterator[MariaDbServer]:
    """Yield a server that answers; `more` are settings of its own. Raises ServerDidNotStart."""
    settings = SETTINGS if binary_log else tuple(each for each in SETTINGS if each not in BINARY_LOG)
    settings += tuple(more)
    with _in_docker(IMAGE, settings) if way is Way.DOCKER else _as_process(settings) as server:
        yield server


@contextmanager
def galera_node(way: Way) -> Iterator[MariaDbServer]:
    """Yield the only node of a Galera cluster. Raises ServerDidNotStart."""
    port = free_port()
    settings = (
        *SETTINGS,
        "wsrep-on=ON",
        f"wsrep-provider={GALERA_LIBRARY}",
        "wsrep-cluster-address=gcomm://",
        "wsrep-new-cluster",
        "wsrep-node-address=127.0.0.1",
        "wsrep-node-name=the-only-node",
        f"wsrep-provider-options=base_port={port};gmcast.listen_addr=tcp://127.0.0.1:{port};gcache.size=16M",
        "innodb-autoinc-lock-mode=2",
    )
    with _in_docker(IMAGE, settings) if way is Way.DOCKER else _as_process(settings) as server:
        yield server


@contextmanager
def mysql_server(url: str | None) -> Iterator[MariaDbServer]:
    """Yield the MySQL at `url`, whose account must be an administrator's, or without one a container."""
    if url is None:
        with _in_docker(MYSQL_IMAGE, ("log-bin-trust-function-creators=1",)) as server:
            yield server
        return
    given = make_url(url).update_query_dict({"charset": "utf8mb4"})
    yield MariaDbServer(
        port=given.port or 3306,
        host=given.host or "127.0.0.1",
        user=given.username or "root",
        password=given.password or "",
        query=given.render_as_string().partition("?")[2],
    )


@contextmanager
def fresh_database(
    server: MariaDbServer, *, with_tables: bool, collation: str = "utf8mb4_general_ci"
) -> Iterator[StoreDatabase]:
    """Yield a database of its own name, empty or with the store's tables and triggers; drop it afterwards."""
    store = StoreDatabase(server, f"store_{uuid.uuid4().hex[:12]}")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{store.name}` CHARACTER SET utf8mb4 COLLATE {collation}")
    try:
        if with_tables:
            with store.connect() as connection:
                create_tables(connection)
        yield store
    finally:
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE `{store.name}`")


def create_tables(connection: Connection) -> None:
    """Create the store's tables and then the triggers that Magento would make for the module's views."""
    with connection.cursor() as cursor:
        for statement in TABLES.read_text(encoding="utf-8").split(";\n"):
            if statement.strip():
                cursor.execute(statement)
        columns: dict[str, list[str]] = {}
        cursor.execute(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position"
        )
        for table, column in cursor.fetchall():
            columns.setdefault(table, []).append(column)
        for trigger in mview.triggers(mview.shipped_views(), columns):
            cursor.execute(trigger)


@contextmanager
def _as_process(settings: Sequence[str]) -> Iterator[MariaDbServer]:
    daemon, install = find_program("mariadbd"), find_program("mariadb-install-db")
    if daemon is None or install is None:
        raise ServerDidNotStart(f"MariaDB is not installed: {', '.join(PROGRAMS)}")
    with scratch_folder("mariadb") as scratch:
        server = MariaDbServer(free_port())
        first = scratch / "first.sql"
        alter = f"ALTER USER root@localhost IDENTIFIED BY '{ROOT_PASSWORD}';\n"
        # A node takes statements only once it is in its cluster, and the file runs before.
        alone = "SET SESSION wsrep_on = OFF;\n" if "wsrep-on=ON" in settings else ""
        first.write_text(alone + alter, encoding="utf-8")
        options = scratch / "my.cnf"
        own = (
            f"datadir={scratch}/data",
            f"tmpdir={scratch}",
            f"socket={scratch}/socket",
            f"pid-file={scratch}/pid",
            f"init-file={first}",
            f"port={server.port}",
            "bind-address=127.0.0.1",
            "skip-name-resolve=0",
        )
        options.write_text("\n".join(("[mysqld]", *own, *settings, "")), encoding="utf-8")
        user = f"--user={scratch.owner()}"
        run_to_end(
            "mariadb-install-db",
            (
                *(install, f"--defaults-file={options}", user, f"--datadir={scratch}/data"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
            ),
            scratch / "install.log",
            timeout_seconds=120,
        )
        command = (daemon, f"--defaults-file={options}", user)
        with running("mariadb", command, scratch, lambda: _answers(server)) as plug:
            yield replace(server, plug=plug)


@contextmanager
def _in_docker(image: str, settings: Sequence[str]) -> Iterator[MariaDbServer]:
    server = MariaDbServer(free_port())
    container = (
        DockerContainer(image)
        .with_bind_ports(3306, server.port)
        .with_env("MARIADB_ROOT_PASSWORD", ROOT_PASSWORD)
        .with_env("MYSQL_ROOT_PASSWORD", ROOT_PASSWORD)
        .with_command(" ".join(f"--{setting}" for setting in settings))
    )
    with container:
        for _ in range(240):
            if _answers(server):
                break
            time.sleep(0.25)
        else:
            logs = container.get_logs()[0].decode(errors="replace")
            raise ServerDidNotStart(f"{image} did not answer\n{logs[-2000:]}")
        yield replace(server, plug=ContainerPlug(container, lambda: _answers(server)))


def _answers(server: MariaDbServer) -> bool:
    try:
        server.connect().close()
    except pymysql.err.OperationalError:
        return False
    return True
