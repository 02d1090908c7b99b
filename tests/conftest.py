"""Fixtures that every kind of test may ask for. Servers start when the first test asks, once a worker; see README.md."""

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import hypothesis
import pytest
import structlog

from tests.scheduling import UnitTestsAside, stand_back
from tests.servers import kafka, mariadb, prometheus
from tests.servers.choice import Missing, Way, look_around, way_to

# Ordinary runs try the same cases every time, and no slow moment of a shared machine fails them; chance is for the soak.
hypothesis.settings.load_profile("ci")
hypothesis.settings.register_profile("soak", max_examples=5_000, deadline=None)


def pytest_configure() -> None:
    stand_back()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> UnitTestsAside | None:
    """Give a third worker the unit tests; with fewer workers everything stays as xdist has it."""
    many = (config.getoption("numprocesses") or 0) > 2
    return UnitTestsAside(config, log) if many and config.getoption("dist") == "loadfile" else None


@pytest.fixture(autouse=True)
def fresh_logs() -> Iterator[None]:
    """Undo what a command that ran in this process set up: its log would go to a stream that ended with its test."""
    yield
    structlog.reset_defaults()


def way_or_skip(server: str, programs: Sequence[str]) -> Way:
    here = look_around(programs, os.environ)
    way = way_to(server, programs, here)
    if isinstance(way, Missing):
        missing(way.reason)
    return way


def missing(reason: str) -> NoReturn:
    """Skip the test by name, or fail it where no part may be missing."""
    if look_around((), os.environ).must_have:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[kafka.KafkaServer]:
    """One Apache Kafka broker for the whole run. Share it by `topic_prefix`."""
    with kafka.kafka_server(way_or_skip("Apache Kafka", kafka.PROGRAMS)) as server:
        yield server


@pytest.fixture(scope="session")
def prometheus_programs() -> None:
    """The machine's own Prometheus, which no container replaces."""
    here = replace(look_around(prometheus.PROGRAMS, os.environ), docker_answers=False, wanted="")
    way = way_to("Prometheus", prometheus.PROGRAMS, here)
    if isinstance(way, Missing):
        missing(way.reason)


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics, groups and transactional ids that no other test has (`settings.kafka.topic_prefix`)."""
    return f"test-{uuid.uuid4().hex[:12]}."


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[mariadb.MariaDbServer]:
    """One MariaDB server for the whole run."""
    with mariadb.mariadb_server(way_or_skip("MariaDB", mariadb.PROGRAMS)) as server:
        yield server


@pytest.fixture(scope="session", params=["mariadb", "galera", "mysql"])
def store_server(request: pytest.FixtureRequest) -> Iterator[mariadb.MariaDbServer]:
    """One server of each kind that a store may have; of MySQL the one at TOCSIN_TEST_MYSQL_URL, else a container."""
    match request.param:
        case "mariadb":
            yield request.getfixturevalue("mariadb_server")
        case "galera":
            way = way_or_skip("a Galera node", mariadb.PROGRAMS)
            if way is Way.LOCAL and not mariadb.GALERA_LIBRARY.exists():
                missing(f"a Galera node cannot be had: no {mariadb.GALERA_LIBRARY} (`make test` installs or names it)")
            with mariadb.galera_node(way) as server:
                yield server
        case _:
            url = os.environ.get("TOCSIN_TEST_MYSQL_URL") or None
            if url is None and way_to("MySQL", ("mysqld of MySQL",), look_around((), os.environ)) is not Way.DOCKER:
                # Debian's stable releases have none, so not even CI can insist.
                pytest.skip(
                    "MySQL cannot be had: no Docker daemon answers; `make mysql-check URL=...` takes one by URL"
                )
            with mariadb.mysql_server(url) as server:
                yield server


@pytest.fixture
def mariadb_database(mariadb_server: mariadb.MariaDbServer) -> Iterator[mariadb.StoreDatabase]:
    """A store's database of its own: Magento's tables with triggers, no row."""
    with mariadb.fresh_database(mariadb_server, with_tables=True) as store:
        yield store


@pytest.fixture
def empty_mariadb_database(mariadb_server: mariadb.MariaDbServer) -> Iterator[mariadb.StoreDatabase]:
    """A database without tables, for what creates its own (the case store)."""
    with mariadb.fresh_database(mariadb_server, with_tables=False) as database:
        yield database
