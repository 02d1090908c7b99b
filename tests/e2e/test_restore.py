"""A case store is put back to a backup from the middle of a release: nobody is told twice, and no erased key comes back."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase
from tests.e2e.delivery_parts import Delivery, delivery_running
from tests.servers.kafka import KafkaServer
from tests.servers.mariadb import StoreDatabase

WELL = {"email": "delivered"}
BY_SMS = {"email": "bounce", "sms": "delivered"}
WHY = ("--reason", "the disk of the database was lost")

Rows = Mapping[str, Sequence[dict[str, Any]]]


def backup_of(database: CaseDatabase) -> Rows:
    with database.read() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for table in tables.metadata.sorted_tables
        }


def put_back(database: CaseDatabase, backup: Rows) -> None:
    with database.write() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(sa.delete(table))
        for table in tables.metadata.sorted_tables:
            if backup[table.name]:
                connection.execute(sa.insert(table), backup[table.name])


def key_of(database: CaseDatabase, root: str) -> bytes | None:
    with database.read() as connection:
        key: bytes | None = connection.execute(
            sa.select(tables.person_key.c.key).where(tables.person_key.c.root == root)
        ).scalar()
        return key


def everything_is_logged(delivery: Delivery) -> bool:
    with delivery.database.read() as connection:
        waiting = connection.execute(sa.select(sa.func.count()).select_from(tables.outbox)).scalar_one()
    return not waiting and b"tocsin.case.person.erased" in b"".join(
        path.read_bytes()
        for path in (delivery.settings.paths.evidence / "tile" / "entries").rglob("*")
        if path.is_file()
    )


@pytest.mark.soak
def test_after_a_restore_in_the_middle_of_a_release_nobody_is_told_twice(
    tmp_path: Path, kafka_server: KafkaServer, topic_prefix: str, empty_mariadb_database: StoreDatabase
) -> None:
    with delivery_running(
        tmp_path / "installation", kafka_server, topic_prefix, empty_mariadb_database,
        receipt_timeout_seconds=60, belt_seconds=5, aws_timeout_seconds=3,
    ) as delivery:  # fmt: skip
        database = delivery.database
        with database.write() as connection:
            connection.execute(
                sa.insert(tables.person_key).values(
                    root="customer/1", key=secrets.token_bytes(32), made_at=datetime.now(UTC)
                )
            )
        # the backup: one incident is over, of another all commands are on their way and nobody was told
        over = delivery.incident([WELL, BY_SMS])
        delivery.until(partial(delivery.has_ended, over), "the first incident is over")
        assert delivery.dispatcher.end() == 0
        people = delivery.incident([WELL, BY_SMS] * 20)
        delivery.until_without_dispatch(partial(delivery.all_in, people, "commanded"), "the commands are out")
        backup = backup_of(database)

        # what happens after it: everybody gets a mail, half of them to no end, and somebody is erased
        delivery.start_dispatch()
        delivery.until(partial(delivery.any_in, people, "handed_over", "delivered", "bounced"), "mails leave")
        assert delivery.dispatcher.end() == 0
        delivery.until_without_dispatch(
            lambda: not any(row.attempt.state == "handed_over" for row in delivery.rows(people)), "receipts are in"
        )
        delivery.tocsin("evidence", "erase", "--person", "customer/1", *WHY)
        delivery.until_without_dispatch(partial(everything_is_logged, delivery), "all of it is logged")
        assert not delivery.has_ended(people)
        told = len(delivery.mailbox())
        assert told > 3, "somebody was told since the backup"
        assert delivery.stop_stages() == [0]

        put_back(database, backup)
        assert key_of(database, "customer/1") is not None
        delivery.start_stages()
        delivery.start_dispatch()
        assert delivery.dispatcher.exit_code() != 0
        assert "tocsin restore reconcile" in (delivery.folder / "logs" / "dispatch.log").read_text()
        assert len(delivery.mailbox()) == told
        # who meters would take those who wait in vain for a dispatcher for untold, and say so in the log
        # and a receipt of a message that the store does not know yet would be forgotten
        for name in ("release", "receipts"):
            its_log = delivery.folder / "logs" / f"{name}.log"
            delivery.until_without_dispatch(
                lambda its_log=its_log: "tocsin restore reconcile" in its_log.read_text(),  # type: ignore[misc]
                f"{name} refuses, too",
            )
        # how a stage ends that is being started again and again says nothing
        delivery.stop_stages()

        assert "Outcomes and erasures are in the case store again" in delivery.tocsin("restore", "reconcile", *WHY)
        assert key_of(database, "customer/1") is None
        delivery.start_stages()
        delivery.start_dispatch()
        # the oracle counts at the provider: one message by each channel, however often its commands are read
        delivery.until_judged()
        assert key_of(database, "customer/1") is None


def test_what_was_cancelled_since_the_backup_sends_nothing_until_a_person_has_decided(
    tmp_path: Path, kafka_server: KafkaServer, topic_prefix: str, empty_mariadb_database: StoreDatabase
) -> None:
    with delivery_running(
        tmp_path / "installation", kafka_server, topic_prefix, empty_mariadb_database,
        receipt_timeout_seconds=60, belt_seconds=5, aws_timeout_seconds=3,
    ) as delivery:  # fmt: skip
        database = delivery.database
        delivery.dispatcher.kill()
        people = delivery.incident([WELL] * 20)
        with database.write() as connection:
            # ids as the log takes them
            connection.execute(sa.update(tables.release).values(release_id="1" * 32))
        delivery.until_without_dispatch(partial(delivery.all_in, people, "commanded"), "the commands are out")
        backup = backup_of(database)
        delivery.tocsin("incident", "cancel", people, *WHY)
        delivery.until_without_dispatch(partial(cancel_is_logged, delivery), "the cancel is logged")
        assert delivery.stop_stages() == [0]

        put_back(database, backup)
        delivery.start_stages()
        delivery.start_dispatch()
        # nobody was told, so that the log knows no outcome: a cancel alone keeps all of them from starting
        assert delivery.dispatcher.exit_code() != 0
        assert "the evidence log knows" in (delivery.folder / "logs" / "dispatch.log").read_text()
        release_log = delivery.folder / "logs" / "release.log"
        delivery.until_without_dispatch(
            lambda: "tocsin restore reconcile" in release_log.read_text(), "release refuses, too"
        )
        delivery.stop_stages()

        said = delivery.tocsin("restore", "reconcile", *WHY)
        assert f"tocsin incident cancel {people} --reason TEXT" in said
        assert f"{people}: PAUSED" in said
        delivery.start_stages()
        delivery.start_dispatch()
        # once what waits on the belt is read, and refused
        delivery.until(partial(delivery.none_in, people, "commanded"), "the belt is empty")
        assert delivery.mailbox() == []
        assert not delivery.any_in(people, "intended", "handed_over", "delivered", "unknown")
        delivery.tocsin("incident", "cancel", people, *WHY)
        with database.read() as connection:
            assert connection.execute(sa.select(tables.release.c.state)).scalars().all() == ["cancelled"]
            assert connection.execute(sa.select(tables.page.c.kind).where(open_page())).scalars().all() == [
                "release.cancelled"
            ]


def open_page() -> sa.ColumnElement[bool]:
    return tables.page.c.acknowledged_at.is_(None)


def cancel_is_logged(delivery: Delivery) -> bool:
    return b"tocsin.case.release.cancelled" in b"".join(
        path.read_bytes()
        for path in (delivery.settings.paths.evidence / "tile" / "entries").rglob("*")
        if path.is_file()
    )
