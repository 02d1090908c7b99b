"""Installs the module on a real Magento and looks whether all is as it should be. Changes that store: use a test store.

usage: python -m tests.magento.check DIR [--no-production]
PHP is what $MAGENTO_PHP names (a command), else `php`. Exit code 0: all is well; 1: not; 2: wrong use.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pymysql

from tests.magento import ddl
from tests.servers import choice, mariadb
from tests.servers.local import ServerDidNotStart

HERE = Path(__file__).parent
MODULE = Path(__file__).parents[2] / "magento_module"
NAME = "Tocsin_BreachNotification"
LANGUAGES = ("en_US", "de_DE")


class Failed(Exception):
    """A check that says no; its text says why."""


class Magento:
    """An installed Magento in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.php = tuple(shlex.split(os.environ.get("MAGENTO_PHP", "php -d memory_limit=2G")))
        settings = json.loads(
            self.output("-r", "echo json_encode(require $argv[1]);", str(directory / "app/etc/env.php"))
        )
        self.database: dict[str, Any] = settings["db"]["connection"]["default"]
        self.prefix: str = settings["db"].get("table_prefix", "")
        self.mode: str = settings.get("MAGE_MODE", "default")

    def run(self, *arguments: str) -> str:
        """Run bin/magento and return what it printed. Raises Failed with the end of it."""
        return self.output(str(self.directory / "bin/magento"), "--no-ansi", "--no-interaction", *arguments)

    def succeeds(self, *arguments: str) -> bool:
        """Run bin/magento and return whether it ended well."""
        try:
            self.run(*arguments)
        except Failed:
            return False
        return True

    def script(self, path: Path, *arguments: str) -> str:
        """Run one of our PHP scripts on this Magento."""
        return self.output(str(path), str(self.directory), *arguments)

    def output(self, *arguments: str) -> str:
        """Run PHP in the store's directory and return what it printed. Raises Failed with the end of it."""
        done = subprocess.run(
            [*self.php, *arguments],
            cwd=self.directory,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != 0:
            shown = arguments[1:] if arguments and arguments[0].endswith("bin/magento") else arguments
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
            raise Failed(f"{' '.join(shown[:4])} ended with {done.returncode}:\n{said}")
        return done.stdout

    def connect(self) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
        host, _, port = str(self.database["host"]).partition(":")
        where: dict[str, Any] = (
            {"unix_socket": host} if host.startswith("/") else {"host": host, "port": int(port or 3306)}
        )
        if port.startswith("/"):
            where = {"unix_socket": port}
        return pymysql.connect(
            user=self.database["username"],
            password=self.database.get("password") or "",
            database=self.database["dbname"],
            charset="utf8mb4",
            **where,
        )

    def indexers(self) -> list[tuple[str, ...]]:
        """Return each indexer with status and mode, without what changes by itself."""
        rows = [line.split("|") for line in self.run("indexer:status").splitlines() if line.startswith("|")]
        return [tuple(cell.strip() for cell in (row[1], row[3], row[4])) for row in rows]

    def schema(self) -> ddl.Schema:
        with self.connect() as connection:
            return ddl.read_schema(connection, self.prefix)

    def module_place(self) -> Path:
        """Return where the module is, copying it into app/code unless composer brought it."""
        vendored = self.directory / "vendor/tocsin/module-breach-notification"
        if vendored.exists():
            return vendored.resolve()
        place = self.directory / "app/code/Tocsin/BreachNotification"
        if place.is_symlink():
            return place.resolve()
        if place.exists():
            shutil.rmtree(place)
        shutil.copytree(MODULE, place)
        return place


def main(arguments: Sequence[str]) -> int:
    """Run every check; return the exit code."""
    parser = argparse.ArgumentParser(prog="make magento-check", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directory", type=Path, help="an installed Magento 2.4")
    parser.add_argument(
        "--no-production", action="store_true", help="leave out compiling and production mode (minutes)"
    )
    options = parser.parse_args(arguments)
    directory: Path = options.directory.resolve()
    if not (directory / "bin/magento").is_file() or not (directory / "app/etc/env.php").is_file():
        print(
            f"{directory} holds no installed Magento (bin/magento, app/etc/env.php): make magento-check DIR=...",
            file=sys.stderr,
        )
        return 2
    try:
        magento = Magento(directory)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 2
    failed = 0
    for name, check in _checks(magento, production=not options.no_production):
        began = time.monotonic()
        try:
            said = check() or ""
        except Failed as failure:
            failed += 1
            print(
                f"FAIL {name} ({time.monotonic() - began:.0f} s)\n     " + str(failure).replace("\n", "\n     "),
                flush=True,
            )
        else:
            print(f"ok   {name} ({time.monotonic() - began:.0f} s){': ' if said else ''}{said}", flush=True)
    print(f"{failed} of these checks failed" if failed else "all is well")
    return 1 if failed else 0


def _checks(magento: Magento, *, production: bool) -> list[tuple[str, Callable[[], str | None]]]:
    before = magento.indexers()
    was_up_to_date = magento.succeeds("setup:db:status")
    place = magento.module_place()

    def upgraded_again() -> str:
        first = magento.schema()
        magento.run("setup:upgrade", "--keep-generated")
        second = magento.schema()
        changed = sorted(
            f"{what} {place}: {str(before.get(place))[:200]} became {str(after.get(place))[:200]}"
            for what, before, after in (
                ("column", first.columns, second.columns),
                ("index", first.keys, second.keys),
                ("foreign key", first.actions, second.actions),
                ("trigger", first.triggers, second.triggers),
            )
            for place in before.keys() | after.keys()
            if before.get(place) != after.get(place)
        )
        if changed:
            raise Failed("\n".join(changed))
        return "it changed no table, no trigger"

    def up_to_date() -> str:
        try:
            return magento.run("setup:db:status").strip()
        except Failed:
            if was_up_to_date:
                raise
        # With MariaDB newer than 10.6 Magento takes the options of every table for changed (utf8 and utf8mb3).
        pending = [line.split() for line in magento.script(HERE / "pending.php").splitlines()]
        ours = [" ".join(words) for words in pending if words[1].startswith(f"{magento.prefix}tocsin_")]
        if real := [line for line in ours if not line.startswith("modify_table ")]:
            raise Failed("\n".join(real))
        return f"it was not up to date before, too: {len(pending) - len(ours)} changes pending, none to our columns or keys"

    def as_tests_have_it() -> str:
        ours = _tests_schema()
        found = ddl.differences(ours, magento.schema())
        if found:
            raise Failed("\n".join(found))
        tables = {table for table, _ in ours.columns}
        return f"{len(tables)} tables, {len(ours.columns)} columns, {len(ours.triggers)} triggers"

    def indexers_as_before() -> str:
        now = magento.indexers()
        if now != before:
            raise Failed(f"before: {before}\nnow: {now}")
        return f"{len(now) - 1} indexers"

    def coding_standard() -> str:
        program = magento.directory / "vendor/bin/phpcs"
        if not program.exists() or not (magento.directory / "vendor/magento/magento-coding-standard").exists():
            return "not installed here: left out"
        # Tests are no part of the shop.
        options = ("--standard=Magento2", "--extensions=php,phtml", "--report=full", "-n", "-q", "--ignore=*/Test/*")
        magento.output(str(program), *options, str(place))
        return "no error"

    def to_production() -> str:
        magento.run("deploy:mode:set", "--skip-compilation", "production")
        return magento.run("deploy:mode:show").strip()

    def and_back() -> str:
        mode = magento.mode if magento.mode != "production" else "developer"
        magento.run("deploy:mode:set", mode)
        return mode

    checks: list[tuple[str, Callable[[], str | None]]] = [
        (
            "Magento's schemas on the module's XML",
            lambda: magento.script(HERE / "xsd.php", str(place)).splitlines()[-1],
        ),
        ("coding standard", coding_standard),
        ("module:enable", lambda: magento.run("module:enable", NAME).splitlines()[0]),
        ("setup:upgrade", lambda: magento.run("setup:upgrade") and None),
        ("setup:upgrade once more", upgraded_again),
        ("setup:db:status", up_to_date),
        ("tables and triggers are those of the tests", as_tests_have_it),
        ("tocsin:capture:status", lambda: magento.run("tocsin:capture:status") and None),
        ("indexer:status is as before", indexers_as_before),
    ]
    if production:
        checks += [
            ("setup:di:compile", lambda: magento.run("setup:di:compile") and None),
            (
                "setup:static-content:deploy",
                lambda: magento.run("setup:static-content:deploy", "-f", "--area=frontend", *LANGUAGES) and None,
            ),
            ("production mode", to_production),
            ("tocsin:capture:status in production mode", lambda: magento.run("tocsin:capture:status") and None),
            ("and back", and_back),
        ]
    return checks


def _tests_schema() -> ddl.Schema:
    """Return the tests' own store, made in a MariaDB that is started for it."""
    way = choice.way_to("MariaDB", mariadb.PROGRAMS, choice.look_around(mariadb.PROGRAMS, os.environ))
    if isinstance(way, choice.Missing):
        raise Failed(way.reason)
    try:
        with (
            mariadb.mariadb_server(way) as server,
            mariadb.fresh_database(server, with_tables=True) as store,
            store.connect() as connection,
        ):
            return ddl.read_schema(connection, "")
    except ServerDidNotStart as failure:
        raise Failed(str(failure)) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
