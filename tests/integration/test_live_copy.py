"""Ways in which an installation gets copied: none of them writes to anybody, and the original goes on.

The store is Magento's tables on MariaDB; release and dispatch are built as `tocsin run` builds them; AWS is the sandbox, to
which only the environment leads, as in live mode no setting can. What Kafka would carry is handed over by hand.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import EVENTS, Channel
from bridge.runtime.clock import SystemClock
from bridge.runtime.consume import Received
from bridge.runtime.telemetry import Health
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.outbox import Outbox
from consumers.bootstrap.parts import parts_for
from consumers.bootstrap.process import Process
from consumers.bootstrap.stages import STAGES
from consumers.commands import initialise
from consumers.domain.ledger import Lane
from consumers.stages import dispatch as dispatch_stage
from consumers.stages import receipts as receipts_stage
from consumers.stages.delivery_commands import DeliveryNumbers
from tests.contract import aws_sandbox
from tests.e2e.delivery_parts import Delivery
from tests.servers.mariadb import StoreDatabase
from tests.unit.adapters.ledger_case import sqlite_case_store

ACCOUNT, SHOP, STAGING = "000000000000", "https://shop.example/", "https://staging.shop.example/"


class Ahead:
    """A clock that can be set forward."""

    def __init__(self) -> None:
        self.by = timedelta(0)

    def now(self) -> datetime:
        return SystemClock().now() + self.by


class Installation:
    """An installation in a folder, whose stages run as threads of this process."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "tocsin.toml"
        self.database = CaseDatabase(f"sqlite:///{folder / 'case.db'}")
        self.clock = Ahead()
        self.health = Health()

    def edit(self, before: str, after: str) -> None:
        text = self.config.read_text(encoding="utf-8")
        assert before in text, before
        self.config.write_text(text.replace(before, after), encoding="utf-8")

    @contextmanager
    def running(self, *stages: str) -> Iterator[None]:
        """Run stages until the end of the block; what keeps one from starting is raised here."""
        built = [STAGES[each](parts_for(self.config), Process(each, self.health, self.clock)) for each in stages]
        end = threading.Event()
        threads = [threading.Thread(target=each.run, args=(end,)) for each in built]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            end.set()
            for thread in threads:
                thread.join()

    def commands(self) -> list[Received]:
        """Take what the outbox would publish, and return its commands."""
        found: list[Received] = []
        box = Outbox(self.database)
        while batch := box.next_batch(1000):
            for row in batch:
                if row.topic == "tocsin.delivery-commands":
                    event = EVENTS[row.ce_type].model_validate_json(row.value)
                    found.append(Received(row.topic, 0, 0, "", event, tombstone=False, headers={}, value=None))
            box.settle(batch)
        return found

    def states(self, incident_id: str) -> set[str]:
        query = sa.select(tables.attempt.c.state).where(tables.attempt.c.incident_id == incident_id)
        with self.database.read() as connection:
            return set(connection.execute(query).scalars())

    def pages(self) -> set[str]:
        with self.database.read() as connection:
            return set(connection.execute(sa.select(tables.page.c.title)).scalars())


def until(condition: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at, f"waited in vain until {what}"
        time.sleep(0.05)


def says(store: StoreDatabase, base_url: str) -> None:
    """Let the store's configuration name a base URL; its secure one is Magento's own placeholder for the other."""
    with store.connect() as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM core_config_data WHERE path LIKE 'web/%base_url'")
        cursor.executemany(
            "INSERT INTO core_config_data (scope, scope_id, path, value) VALUES ('default', 0, %s, %s)",
            [("web/secure/base_url", "{{unsecure_base_url}}"), ("web/unsecure/base_url", base_url)],
        )


def test_no_copy_of_a_live_installation_writes_to_anybody(
    tmp_path: Path, mariadb_database: StoreDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[Installation] = []

    def consume(*_: Any, stop: threading.Event, **__: Any) -> None:
        handler = _[3]
        while not stop.wait(0.02):
            if batch := [command for each in works for command in each.commands()]:
                handler.handle(batch, {})

    monkeypatch.setattr(dispatch_stage, "consume", consume)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIALIVE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "live")
    original = tmp_path / "original"
    original.mkdir()
    sqlite_case_store(original / "case.db").close()
    says(mariadb_database, SHOP)
    with aws_sandbox.running() as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        initialise(
            original,
            admin_name="Adam Admin",
            admin_id="adam",
            changes={
                "store": {"url": mariadb_database.url},
                "case_store": {"url": "sqlite:///case.db"},
                "delivery": {
                    "mode": "live", "aws_account": ACCOUNT, "base_url": SHOP, "from_address": aws_sandbox.SENDER,
                    "email_per_second": 500, "canary_messages": {"every_minutes": 0},
                },
                "pager": {"email_to": ["on-call@shop.example.com"]},
            },
        )  # fmt: skip
        shop = Installation(original)
        works[:] = [shop]
        scripted = Delivery(original, aws.url, shop.database)

        def told() -> int:
            return len(aws.mailbox()["messages"])

        # the original tells its people
        first = scripted.incident([{"email": "delivered"}] * 3)
        with shop.running("release", "dispatch"):
            until(lambda: shop.states(first) == {"handed_over"}, "the original has told everybody")
            # its store becomes another one while it runs, and a second release begins
            says(mariadb_database, STAGING)
            shop.clock.by += timedelta(seconds=10)
            second = scripted.incident([{"email": "delivered"}] * 3)
            until(lambda: "live" in shop.health.reasons() and shop.pages(), "the difference is found")
            until(lambda: shop.states(second) == {"planned"}, "all of them wait")
            assert STAGING in shop.health.reasons()["live"]
        assert (told(), shop.states(first)) == (3, {"handed_over"})

        # it is copied as it stands, a release running and its commands not published yet; the copy's store has another name
        says(mariadb_database, SHOP)
        ledger: Any = parts_for(shop.config).get(DeliveryNumbers)
        assert ledger.meter(Lane(Channel.EMAIL, belt=10, at_once=10)) == 3
        says(mariadb_database, STAGING)
        shutil.copytree(original, tmp_path / "copy")
        copy = Installation(tmp_path / "copy")
        works[:] = [copy]
        with pytest.raises(Refused, match=STAGING), copy.running("dispatch"):
            raise AssertionError("a copy of the shop was let to send")
        with copy.running("release"):
            until(lambda: copy.health.reasons().get("live"), "the copy's meter has compared")
            assert copy.states(second) == {"commanded"}
        # a copy whose store was not renamed, with the credentials of another account
        says(mariadb_database, SHOP)
        copy.edit(f'"{ACCOUNT}"', '"123456789012"')
        with pytest.raises(Refused, match=f"belong to {ACCOUNT}"), copy.running("dispatch"):
            raise AssertionError("another account was let to send")
        assert any(ACCOUNT in title for title in copy.pages())
        # a copy that was made a sandbox, with live credentials around
        copy.edit('"live"', '"sandbox"')
        with pytest.raises(BadInput, match="endpoint_url"), copy.running("dispatch"):
            raise AssertionError("sandbox mode was let to AWS itself")
        assert told() == 3

        # the original goes on with those who waited, each once, also where the copy has published the commands that it found in
        # its outbox onto the same Kafka
        works[:] = [copy, shop]
        with shop.running("release", "dispatch"):
            until(lambda: shop.states(second) == {"handed_over"}, "those who waited are told")
        assert told() == 6
        assert shop.health.reasons() == {}


def test_a_copy_takes_no_receipts_of_the_original_out_of_their_queue(
    tmp_path: Path, mariadb_database: StoreDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between_batches(*_: Any, stop: threading.Event, **__: Any) -> None:
        while not stop.wait(0.02):
            _[3].tick()

    monkeypatch.setattr(receipts_stage, "consume", between_batches)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIALIVE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "live")
    folder = tmp_path / "installation"
    folder.mkdir()
    sqlite_case_store(folder / "case.db").close()
    with aws_sandbox.running() as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
        initialise(
            folder,
            admin_name="Adam Admin",
            admin_id="adam",
            changes={
                "store": {"url": mariadb_database.url},
                "case_store": {"url": "sqlite:///case.db"},
                "delivery": {
                    "mode": "live", "aws_account": ACCOUNT, "base_url": SHOP, "from_address": aws_sandbox.SENDER,
                    "certificate_hosts": ["127.0.0.1"],
                },
                "pager": {"email_to": ["on-call@shop.example.com"]},
            },
        )  # fmt: skip
        shop = Installation(folder)

        def send() -> None:
            aws.email.send_bulk(aws_sandbox.bulk(aws_sandbox.entry("a" * 32, "ann@shop.example.com")))

        def taken() -> int:
            with shop.database.read() as connection:
                return int(connection.execute(sa.select(sa.func.count()).select_from(tables.receipt)).scalar_one())

        send()
        says(mariadb_database, STAGING)
        with pytest.raises(Refused, match=STAGING), shop.running("receipts"):
            until(taken, "a copy of the shop has taken the original's receipts")
        says(mariadb_database, SHOP)
        with shop.running("receipts"):
            until(lambda: taken() == 2, "the original takes both, of sending and of delivery")
            says(mariadb_database, STAGING)
            shop.clock.by += timedelta(minutes=1)
            until(lambda: STAGING in shop.health.reasons().get("live", ""), "it stops in the middle, too")
            send()
            assert aws_sandbox.drain(aws.receipts(), 2)
            says(mariadb_database, SHOP)
            shop.clock.by += timedelta(minutes=1)
            until(lambda: not shop.health.reasons(), "and goes on by itself")
