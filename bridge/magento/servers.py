"""Which database server a store has, what a session on it must be told, and which servers are refused by name.

MariaDB and MySQL differ in settings that the other one does not know; a Galera cluster has no GET_LOCK that counts, nor has
a group of MySQL servers that all take writes; a replica shows changes late and in its own time. Asked with rights that every
account has. Not here: leading, reading.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import sqlalchemy as sa

from bridge.contracts.errors import Refused, Unreachable


class Product(StrEnum):
    """Who made the server; forks that speak the same settings count with their origin."""

    MARIADB = "MariaDB"
    MYSQL = "MySQL"


_OLDEST: Mapping[Product, tuple[int, int]] = {Product.MARIADB: (10, 4), Product.MYSQL: (8, 0)}
"""What Magento 2.4.6 and later run on."""

_VARIABLES = (
    "wsrep_on", "wsrep_provider", "wsrep_node_name", "read_only", "super_read_only", "innodb_read_only",
    "group_replication_group_name", "group_replication_single_primary_mode",
)  # fmt: skip
_STATUS = ("Slave_running", "Slaves_running", "wsrep_ready")

_NO_LIMIT = 18_446_744_073_709_551_615

SPLIT_TABLES = frozenset({"sales_order", "sales_order_address"})


@dataclass(frozen=True, slots=True)
class Server:
    """What a server said about itself."""

    product: Product
    version: tuple[int, int]
    full_version: str
    node: str | None = None
    """The name of this node, if it is one of a Galera cluster."""
    read_only: str | None = None
    """The variable that forbids writing, if one does."""
    replicates: bool = False
    """Whether it follows another server; a MySQL replica tells only an account that may know."""
    group: str | None = None
    """The name of the group of MySQL servers (Group Replication) that it is set up for."""
    many_primaries: bool = False
    """Whether every member of that group takes writes."""

    @property
    def galera(self) -> bool:
        return self.node is not None

    def __str__(self) -> str:
        cluster = f", Galera node {self.node}" if self.galera else ""
        return f"{self.product} {self.full_version}{cluster}"


def server_of(version: str, variables: Mapping[str, str], status: Mapping[str, str]) -> Server:
    """Return the server that answers so to VERSION(), SHOW VARIABLES and SHOW STATUS.

    Raises Refused for a version that cannot be read or is too old, Unreachable for a cluster's node that is not ready.
    """
    product = Product.MARIADB if "mariadb" in version.lower() else Product.MYSQL
    # MariaDB may say 5.5.5-10.11.6-MariaDB, for the sake of old clients.
    numbers = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)", version)
    if numbers is None:
        raise Refused(f"the store's server says it is version {version!r}; MariaDB and MySQL are known")
    number = (int(numbers[1]), int(numbers[2]))
    if number < _OLDEST[product]:
        oldest = ".".join(map(str, _OLDEST[product]))
        raise Refused(f"the store runs {product} {version}; the oldest that is supported is {oldest}")
    in_cluster = _is_on(variables.get("wsrep_on")) and variables.get("wsrep_provider", "none") not in ("", "none")
    if in_cluster and not _is_on(status.get("wsrep_ready")):
        raise Unreachable("the store's Galera node is not ready (wsrep_ready is OFF): it is not part of a quorum now")
    return Server(
        product=product,
        version=number,
        full_version=version,
        node=(variables.get("wsrep_node_name") or "unnamed") if in_cluster else None,
        read_only=next(
            (name for name in ("innodb_read_only", "super_read_only", "read_only") if _is_on(variables.get(name))), None
        ),
        replicates=_is_on(status.get("Slave_running")) or status.get("Slaves_running", "0") not in ("", "0"),
        group=variables.get("group_replication_group_name") or None,
        many_primaries=bool(variables.get("group_replication_group_name"))
        and not _is_on(variables.get("group_replication_single_primary_mode", "ON")),
    )


def _is_on(value: str | None) -> bool:
    # MariaDB's read_only has values beside ON that forbid more.
    return (value or "OFF").upper() not in ("OFF", "0", "NO")


def detect(connection: sa.Connection) -> Server:
    """Ask the server. Raises Refused for one too old, Unreachable for a cluster's node outside of a quorum."""
    version = str(connection.scalar(sa.text("SELECT VERSION()")))
    server = server_of(version, _shown(connection, "VARIABLES", _VARIABLES), _shown(connection, "STATUS", _STATUS))
    if server.product is Product.MYSQL and not server.replicates:
        return _with_replication(connection, server)
    return server


def _shown(connection: sa.Connection, what: str, names: Sequence[str]) -> dict[str, str]:
    listed = ", ".join(f"'{name}'" for name in names)
    return dict(tuple(row) for row in connection.exec_driver_sql(f"SHOW {what} WHERE Variable_name IN ({listed})"))


def _with_replication(connection: sa.Connection, server: Server) -> Server:
    # MySQL tells this only to an account with REPLICATION CLIENT, which ours does not need: then read_only must do.
    command = "SHOW REPLICA STATUS" if server.version >= (8, 1) else "SHOW SLAVE STATUS"
    try:
        rows = connection.exec_driver_sql(command).all()
    except sa.exc.DBAPIError:
        return server
    return replace(server, replicates=bool(rows))


def check_writable(server: Server) -> None:
    """Raise Refused for a replica, a server that nothing may be written to, or a group whose members all take writes."""
    if server.read_only is not None:
        raise Refused(
            f"the store's server ({server}) is read-only ({server.read_only} is ON), as a replica is: changes are read and"
            " settled where the shop writes; name the primary in store.url"
        )
    if server.replicates:
        raise Refused(
            f"the store's server ({server}) is a replica of another: it shows changes late, and what is settled on it is not"
            " settled on the primary; name the primary in store.url"
        )
    if server.many_primaries:
        raise Refused(
            f"the store's server ({server}) is of a group of MySQL servers that all take writes"
            " (group_replication_single_primary_mode is OFF): a lock counts on one of them only, so two relays could lead, and"
            " Magento's own locks and cascading foreign keys are no safer there; switch the group to one primary"
            " (group_replication_switch_to_single_primary_mode()) and name that in store.url"
        )


def prepare_session(connection: sa.Connection) -> Server:
    """Set what every session on MariaDB or MySQL needs, and on each of them only what it knows; return the server.

    Raises Refused for a server that cannot be used, a replica above all.
    """
    server = detect(connection)
    check_writable(server)
    connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    connection.exec_driver_sql("SET SESSION time_zone = '+00:00'")
    # Magento's own sessions cut over-long strings silently; ours must not.
    connection.exec_driver_sql("SET SESSION sql_mode = 'STRICT_ALL_TABLES'")
    # A batch's ids and events come as one value each; what is cut short all the same is noticed and read otherwise. MySQL
    # cuts such a value in a UNION to 255 characters where it may be as long as on MariaDB.
    longest = 268_435_456 if server.product is Product.MARIADB else 16_777_215
    connection.exec_driver_sql(f"SET SESSION group_concat_max_len = {longest}")
    # Some hosts bound what a session may read: it would hear nothing, or of the first rows only, and take the others for gone.
    bounds = connection.exec_driver_sql("SELECT @@SESSION.sql_select_limit, @@SESSION.sql_big_selects").one()
    if bounds != (_NO_LIMIT, 1):
        connection.exec_driver_sql(f"SET SESSION sql_select_limit = {_NO_LIMIT}, SESSION sql_big_selects = 1")
    if server.group is not None:
        # A new primary may still be applying what a leader before has read on the old one: nothing is read before that.
        connection.exec_driver_sql("SET SESSION group_replication_consistency = 'BEFORE_ON_PRIMARY_FAILOVER'")
    if server.product is Product.MARIADB:
        # Else IN lists of 1,000 and more become a temporary table: 71 us a row instead of 10.
        connection.exec_driver_sql("SET SESSION in_predicate_conversion_threshold = 0")
    else:
        # Else an IN list beyond 8 MB of ranges (some 35,000 ids) is given up for a scan of the whole table.
        connection.exec_driver_sql("SET SESSION range_optimizer_max_mem_size = 0")
    return server


def check_tables(connection: sa.Connection, prefix: str, tables: Sequence[str]) -> None:
    """Raise Refused, naming them, if any of `tables` is not in the session's own database or may not be read there."""
    listed = ", ".join(f"'{prefix}{table}'" for table in tables)
    here = {
        row[0]
        for row in connection.exec_driver_sql(
            "SELECT TABLE_NAME FROM information_schema.TABLES"  # noqa: S608  checked prefix, our own names
            f" WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN ({listed})"
        )
    }
    missing = [table for table in tables if prefix + table not in here]
    if not missing:
        return
    database = connection.scalar(sa.text("SELECT DATABASE()"))
    if set(missing) <= SPLIT_TABLES:
        elsewhere = connection.exec_driver_sql(
            "SELECT TABLE_SCHEMA FROM information_schema.TABLES"  # noqa: S608  as above
            f" WHERE TABLE_NAME = '{prefix}{missing[0]}' AND TABLE_SCHEMA <> DATABASE() LIMIT 1"
        ).scalar()
        found = f" but in `{elsewhere}`" if elsewhere else ""
        raise Refused(
            f"the store's sales tables ({', '.join(prefix + table for table in missing)}) are not in `{database}`{found}, or"
            " this account may not read them: changes and state are read over one connection and in one database, so a"
            " split database is not supported; move the sales tables back, or give the account what `tocsin relay grants`"
            " prints"
        )
    raise Refused(
        f"store database `{database}` has no {', '.join(prefix + table for table in missing)}, or this account may not read"
        " it; install the Magento module (bin/magento setup:upgrade), check store.table_prefix, and give the account what"
        " `tocsin relay grants` prints"
    )
