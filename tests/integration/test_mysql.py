"""Connections to MariaDB: over TLS where the server has it, checked where an authority is named, and cheap to make."""

import os
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from bridge.contracts.errors import Unreachable
from bridge.magento.session import store_engine
from bridge.runtime.settings import Store
from consumers.adapters.case_store.engine import CaseDatabase
from tests.conftest import missing
from tests.servers import mariadb
from tests.servers.certificates import certificate_in
from tests.servers.choice import Missing, look_around, way_to
from tests.servers.mariadb import StoreDatabase

CIPHER = sa.text("SHOW STATUS LIKE 'Ssl_cipher'")


def cipher(url: str) -> str:
    """Return what the case store at `url` is spoken to with; nothing without TLS."""
    database = CaseDatabase(url)
    try:
        with database.read() as connection:
            return str(connection.execute(CIPHER).one()[1])
    finally:
        database.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def url_with_tls(certificate: Path) -> Iterator[str]:
    # a container would not see the certificate
    way = way_to(
        "MariaDB", mariadb.PROGRAMS, replace(look_around(mariadb.PROGRAMS, os.environ), docker_answers=False, wanted="")
    )
    if isinstance(way, Missing):
        missing(way.reason)
    more = (f"ssl-cert={certificate}", f"ssl-key={certificate.with_name('key.pem')}")
    with (
        mariadb.mariadb_server(way, binary_log=False, more=more) as server,
        mariadb.fresh_database(server, with_tables=False) as database,
    ):
        yield database.url


def test_a_server_with_tls_is_spoken_to_over_it(url_with_tls: str) -> None:
    assert cipher(url_with_tls) != ""
    engine = store_engine(Store(url=SecretStr(url_with_tls)))
    with engine.connect() as connection:
        assert connection.execute(CIPHER).one()[1] != ""


def test_where_an_authority_is_named_the_certificate_is_checked(
    url_with_tls: str, certificate: Path, tmp_path: Path
) -> None:
    assert cipher(f"{url_with_tls}&ssl_ca={certificate}") != ""
    with pytest.raises(Unreachable):
        cipher(f"{url_with_tls}&ssl_ca={certificate_in(tmp_path)}")


def test_a_server_without_tls_is_spoken_to_all_the_same_and_no_authority_is_read_for_it(
    empty_mariadb_database: StoreDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: read.append(1))
    assert cipher(empty_mariadb_database.url) == ""
    with store_engine(Store(url=SecretStr(empty_mariadb_database.url))).connect():
        pass
    assert read == []
