"""One MariaDB server with a row binary log, as a store's would be set up for Tocsin, and fresh databases in it."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pymysql
from pymysql.connections import Connection
from pymysql.constants import CLIENT
from testcontainers.core.container import DockerContainer

from tests.servers import mview
from tests.servers.choice import Way, find_program
from tests.servers.local import ServerDidNotStart, free_port, run_to_end, running, scratch_folder

IMAGE = "mariadb:10.11"
PROGRAMS = ("mariadbd", "mariadb-install-db", "my_print_defaults")
TABLES = Path(__file__).with_name("magento_tables.sql")
ROOT_PASSWORD = "root"
SETTINGS = (
    "character-set-server=utf8mb4",
    "collation-server=utf8mb4_general_ci",
    "log-bin=binlog",
    "binlog-format=ROW",
    "server-id=1",
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

    def connect(self, database: str | None = None, *, autocommit: bool = True) -> "Connection[pymysql.cursors.Cursor]":
        """Open a connection as the administrator, in UTC."""
        return pymysql.connect(
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
        return (
            f"mysql+pymysql://{server.user}:{server.password}@{server.host}:{server.port}/{self.name}?charset=utf8mb4"
        )

    def connect(self, *, autocommit: bool = True) -> "Connection[pymysql.cursors.Cursor]":
        """Open a connection to the database, in UTC."""
        return self.server.connect(self.name, autocommit=autocommit)


@contextmanager
def mariadb_server(way: Way) -> Iterator[MariaDbServer]:
    """Yield a server that answers. Raises ServerDidNotStart."""
    with _in_docker() if way is Way.DOCKER else _as_process() as server:
        yield server


@contextmanager
def fresh_database(server: MariaDbServer, *, with_tables: bool) -> Iterator[StoreDatabase]:
    """Yield a database of its own name, empty or with the store's tables and triggers; drop it afterwards."""
    store = StoreDatabase(server, f"store_{uuid.uuid4().hex[:12]}")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE `{store.name}` CHARACTER SET utf8mb4")
    try:
        if with_tables:
            with store.connect() as connection:
                create_tables(connection)
        yield store
    finally:
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE `{store.name}`")


def create_tables(connection: "Connection[pymysql.cursors.Cursor]") -> None:
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
def _as_process() -> Iterator[MariaDbServer]:
    daemon, install = find_program("mariadbd"), find_program("mariadb-install-db")
    if daemon is None or install is None:
        raise ServerDidNotStart(f"MariaDB is not installed: {', '.join(PROGRAMS)}")
    with scratch_folder("mariadb") as scratch:
        server = MariaDbServer(free_port())
        first = scratch / "first.sql"
        first.write_text(f"ALTER USER root@localhost IDENTIFIED BY '{ROOT_PASSWORD}';\n", encoding="utf-8")
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
        options.write_text("\n".join(("[mysqld]", *own, *SETTINGS, "")), encoding="utf-8")
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
        with running("mariadb", (daemon, f"--defaults-file={options}", user), scratch, lambda: _answers(server)):
            yield server


@contextmanager
def _in_docker() -> Iterator[MariaDbServer]:
    server = MariaDbServer(free_port())
    container = (
        DockerContainer(IMAGE)
        .with_bind_ports(3306, server.port)
        .with_env("MARIADB_ROOT_PASSWORD", ROOT_PASSWORD)
        .with_command(" ".join(f"--{setting}" for setting in SETTINGS))
    )
    with container:
        for _ in range(240):
            if _answers(server):
                break
            time.sleep(0.25)
        else:
            logs = container.get_logs()[0].decode(errors="replace")
            raise ServerDidNotStart(f"{IMAGE} did not answer\n{logs[-2000:]}")
        yield server


def _answers(server: MariaDbServer) -> bool:
    try:
        server.connect().close()
    except pymysql.err.OperationalError:
        return False
    return True
