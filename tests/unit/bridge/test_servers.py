"""Servers by what they say of themselves: which kind they are, and which are refused by name."""

import pytest

from bridge.contracts.errors import Refused, TocsinError, Unreachable
from bridge.magento.servers import Product, check_writable, server_of

GALERA = {"wsrep_on": "ON", "wsrep_provider": "/usr/lib/galera/libgalera_smm.so", "wsrep_node_name": "db1"}


@pytest.mark.parametrize(
    ("version", "product", "number"),
    [
        ("10.11.19-MariaDB-0+deb12u1", Product.MARIADB, (10, 11)),
        ("5.5.5-10.6.12-MariaDB-log", Product.MARIADB, (10, 6)),
        ("11.4.2-MariaDB", Product.MARIADB, (11, 4)),
        ("8.0.36", Product.MYSQL, (8, 0)),
        ("8.4.0-commercial", Product.MYSQL, (8, 4)),
        ("8.0.35-27 Percona", Product.MYSQL, (8, 0)),
    ],
)
def test_kinds(version: str, product: Product, number: tuple[int, int]) -> None:
    server = server_of(version, {"read_only": "OFF"}, {})
    assert (server.product, server.version, server.galera) == (product, number, False)
    assert version in str(server)
    check_writable(server)


def test_a_galera_node_is_known_by_its_name() -> None:
    server = server_of("10.11.19-MariaDB", GALERA, {"wsrep_ready": "ON", "Slave_running": "OFF", "Slaves_running": "0"})
    assert server.galera
    assert "db1" in str(server)
    check_writable(server)


@pytest.mark.parametrize("provider", ["none", ""])
def test_a_mariadb_that_could_be_a_node_and_is_not(provider: str) -> None:
    assert not server_of("10.11.19-MariaDB", GALERA | {"wsrep_provider": provider}, {}).galera
    assert not server_of("10.11.19-MariaDB", GALERA | {"wsrep_on": "OFF"}, {}).galera


def test_a_node_outside_of_a_quorum_is_waited_for() -> None:
    with pytest.raises(Unreachable, match="wsrep_ready"):
        server_of("10.11.19-MariaDB", GALERA, {"wsrep_ready": "OFF"})


@pytest.mark.parametrize(
    ("variables", "status", "named"),
    [
        ({"read_only": "ON"}, {}, "read_only"),
        ({"read_only": "1"}, {}, "read_only"),
        ({"read_only": "NO_LOCK_NO_ADMIN"}, {}, "read_only"),
        ({"super_read_only": "ON", "read_only": "ON"}, {}, "super_read_only"),
        ({"innodb_read_only": "ON"}, {}, "innodb_read_only"),
        ({"read_only": "OFF"}, {"Slave_running": "ON"}, "replica of another"),
        ({"read_only": "OFF"}, {"Slave_running": "OFF", "Slaves_running": "1"}, "replica of another"),
    ],
)
def test_a_replica_is_refused_by_name(variables: dict[str, str], status: dict[str, str], named: str) -> None:
    with pytest.raises(Refused, match=named) as refused:
        check_writable(server_of("10.11.19-MariaDB", variables, status))
    assert "10.11.19-MariaDB" in str(refused.value)
    assert "store.url" in str(refused.value)


@pytest.mark.parametrize("version", ["5.7.44", "10.3.39-MariaDB", "PostgreSQL"])
def test_what_is_too_old_or_unknown_is_refused_by_name(version: str) -> None:
    with pytest.raises(TocsinError, match=version):
        server_of(version, {}, {})


GROUP = {"group_replication_group_name": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "super_read_only": "OFF"}


def test_a_group_with_one_primary_is_read_on_that_one() -> None:
    single = GROUP | {"group_replication_single_primary_mode": "ON"}
    primary = server_of("8.4.6", single, {})
    assert (primary.group, primary.galera) == (GROUP["group_replication_group_name"], False)
    check_writable(primary)
    with pytest.raises(Refused, match=r"super_read_only is ON.*primary"):
        check_writable(server_of("8.4.6", single | {"super_read_only": "ON"}, {}))


def test_a_group_whose_members_all_take_writes_is_refused_by_name() -> None:
    with pytest.raises(Refused, match=r"group_replication_single_primary_mode is OFF.*one primary"):
        check_writable(server_of("8.4.6", GROUP | {"group_replication_single_primary_mode": "OFF"}, {}))


def test_a_mysql_that_could_be_in_a_group_and_is_not() -> None:
    alone = {"group_replication_group_name": "", "group_replication_single_primary_mode": "OFF"}
    server = server_of("8.4.6", alone, {})
    assert server.group is None
    check_writable(server)
