"""Alerts that name what nobody has read yet, with every stage at work: who is asked, and who need not answer in the end."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from consumers.adapters.case_store import tables
from consumers.demo import shop
from consumers.demo.progress import open_changes
from consumers.demo.shop import Shop
from tests.e2e.all_stages import NOW, Running, all_stages, somebody
from tests.e2e.parts import start_part


def test_what_is_read_later_goes_on_by_itself_and_what_never_comes_stays_a_question(tmp_path: Path) -> None:
    with (
        start_part("kafka", [sys.executable, "-m", "bridge.runtime.embedded_kafka"], tmp_path) as kafka,
        all_stages(tmp_path, {"bootstrap_servers": kafka["bootstrap_servers"], "embedded": True}) as running,
    ):
        with running.store.begin() as connection:
            shop.write_base(connection)
            shop.write_people(connection, Shop(1, NOW, [somebody(number, "DE", "7") for number in range(1, 5)]))
        running.until(running.progress.is_there, "the case store is there", 90)
        running.until(lambda: open_changes(running.store) == 0, "the relay has carried the shop", 90)

        relay = running.supervisor.pid("relay")
        assert relay is not None
        os.kill(relay, signal.SIGSTOP)
        try:
            with running.store.begin() as connection:
                shop.write_people(connection, Shop(1, NOW, [somebody(number, "IE", "8") for number in (5, 6)]))
            running.alert("log-8", "8")
            running.alert("log-88", "88")
            running.until(lambda: len(incidents(running)) == 2, "intake opens both incidents")
            running.until(
                lambda: len(asked(running)) == 2, "the relay says nothing for long, and somebody is asked", 150
            )
        finally:
            # what is in doubt outlives both: it stands in the case store, and how far was read in the index's files
            for stage in ("intake", "index"):
                pid = running.supervisor.pid(stage)
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            os.kill(relay, signal.SIGCONT)

        running.until(lambda: incidents(running)["log-8"]["scope_unresolved"] is None, "the names are known", 120)
        known, wrong = incidents(running)["log-8"], incidents(running)["log-88"]
        running.until(
            lambda: running.progress.plan_state(known["incident_id"]) == "complete", "its plan is complete", 90
        )
        assert {row["root"] for row in running.rows(tables.recipient)} == {"customer/5", "customer/6"}
        assert asked(running) == {wrong["incident_id"]}, "nobody has acknowledged anything"
        assert wrong["scope_unresolved"]["nearest"] == {"88": ["7"]}
        running.until(lambda: len(running.leaves("case.incident.scope_checked")) == 3, "the evidence log tells of it")


def incidents(running: Running) -> dict[str, dict[str, Any]]:
    return {row["fingerprint"]: row for row in running.rows(tables.incident)}


def asked(running: Running) -> set[str]:
    """Return of which incidents somebody is asked what was meant."""
    return {
        row["incident_id"]
        for row in running.rows(tables.page)
        if row["kind"] == "scope_unresolved" and row["acknowledged_at"] is None
    }
