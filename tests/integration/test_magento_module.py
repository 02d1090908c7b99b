"""The Magento module's own SQL, run by PHPUnit on a store's database: real tables, triggers, and Magento's empty sql_mode."""

import os
import subprocess

import pytest

from tests.servers.choice import find_program
from tests.servers.mariadb import StoreDatabase
from tests.servers.mview import MODULE


def test_the_modules_sql_on_a_stores_tables(mariadb_database: StoreDatabase) -> None:
    phpunit = find_program("phpunit")
    if phpunit is None:
        if os.environ.get("CI"):
            pytest.fail("phpunit is not installed")
        pytest.skip("phpunit is not installed")
    server = mariadb_database.server
    done = subprocess.run(
        [phpunit, "-c", MODULE / "Test" / "phpunit.xml", "--testsuite", "sql", "--stderr"],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            "TOCSIN_TEST_DSN": f"mysql:host={server.host};port={server.port};dbname={mariadb_database.name}",
            "TOCSIN_TEST_USER": server.user,
            "TOCSIN_TEST_PASSWORD": server.password,
        },
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
