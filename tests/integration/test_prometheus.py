"""A real Prometheus scrapes the real processes of a small demo and says what the ledger says, and nobody's name."""

import os
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from json import dumps, loads
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.contracts.events import AttemptState, Channel
from bridge.runtime.settings import Metrics
from consumers.adapters.letter_batches import PROVIDER
from consumers.bootstrap import STAGES
from deploy.grafana.generate import DASHBOARDS
from tests.e2e.leak_search import Piece, Place, demo_values, search
from tests.servers import prometheus
from tests.servers.choice import Missing, look_around, way_to
from tests.servers.local import running, scratch_folder
from tests.servers.prometheus import PrometheusServer, check_config

CONFIG = Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yaml"

Counts = dict[tuple[str, ...], float]

_BY_MACHINE = f"NOT (provider = '{PROVIDER}' AND kind IN ('delivered', 'bounced_hard'))"


@dataclass(frozen=True, slots=True)
class Scene:
    """A demo that has told everybody and is still up, and the Prometheus that watches it."""

    folder: Path
    prometheus: PrometheusServer

    def ledger(self, sql: str) -> Counts:
        """Return counts by all columns but the last, as the case store has them."""
        with closing(sqlite3.connect(f"file:{self.folder / 'case.db'}?mode=ro", uri=True)) as connection:
            return {tuple(row[:-1]): float(row[-1]) for row in connection.execute(sql) if row[-1]}

    def metric(self, promql: str, *labels: str) -> Counts:
        """Return what is not 0, by the values of `labels`."""
        found = self.prometheus.query(promql)
        return {tuple(series[label] for label in labels): value for series, value in found if value}

    def notifications(self) -> list[dict[str, Any]]:
        """Return what Alertmanager told who is on call, in order."""
        lines = (self.folder / "on-call.jsonl").read_text(encoding="utf-8").splitlines()
        return [each for each in map(loads, lines) if each["kind"] == "alerts"]

    def pages(self) -> set[str]:
        """Return the kinds of the pages that came by our pager's own webhook, verified."""
        lines = (self.folder / "on-call.jsonl").read_text(encoding="utf-8").splitlines()
        return {each["data"]["kind"] for each in map(loads, lines) if each["kind"] == "page"}


def shipped_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return config


@pytest.fixture(scope="module")
def programs() -> None:
    here = replace(look_around(prometheus.PROGRAMS, os.environ), docker_answers=False, wanted="")
    way = way_to("Prometheus", prometheus.PROGRAMS, here)
    if isinstance(way, Missing):
        if here.must_have:
            pytest.fail(way.reason)
        pytest.skip(way.reason)


@pytest.fixture(scope="module")
def scene(programs: None) -> Iterator[Scene]:
    """Everything up, and the last attempt settled. The shipped configuration, with the ports that the demo really has."""
    with scratch_folder("demo") as scratch:
        folder = scratch / "kept"
        summary = folder / "summary.json"
        demo = (sys.executable, "-m", "consumers.cli", "demo", "--customers", "60", "--seed", "5", "--keep", folder)
        with running("demo", demo, scratch, summary.exists, timeout_seconds=180):
            wait_until(lambda: _is_json(summary), 5)
            # the demo's own: the shipped rules and routes, hurried, on the ports that its processes really have
            server = PrometheusServer(loads(summary.read_text(encoding="utf-8"))["prometheus"])
            # a rate needs two scrapes
            wait_until(lambda: len(server.query("sum_over_time(up[1m]) >= 3")) == len(STAGES), 20)
            yield Scene(folder, server)


def _is_json(path: Path) -> bool:
    try:
        return bool(loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


def test_the_shipped_configuration_scrapes_every_stage_where_it_listens() -> None:
    (job,) = shipped_config()["scrape_configs"]
    found = {each["labels"]["stage"]: each["targets"] for each in job["static_configs"]}
    base = Metrics().port_base
    assert found == {stage: [f"127.0.0.1:{base + number}"] for number, stage in enumerate(STAGES)}
    assert list(found) == list(STAGES)


@pytest.mark.usefixtures("programs")
def test_promtool_accepts_the_shipped_configuration(tmp_path: Path) -> None:
    check_config(CONFIG, tmp_path)


def test_every_stage_is_scraped(scene: Scene) -> None:
    up = {series["stage"] for series, value in scene.prometheus.query("up") if value == 1}
    assert up == set(STAGES)


def test_a_provider_that_falls_ill_is_an_alert_with_its_runbook_and_ends(scene: Scene) -> None:
    """The demo lets SES refuse everything at the beginning of its release, until who is on call has heard of it."""

    def told(status: str) -> list[dict[str, Any]]:
        return [
            {**alert, "group": each["groupLabels"], "receiver": each["receiver"]}
            for each in scene.notifications()
            for alert in each["alerts"]
            if alert["status"] == status and alert["labels"].get("provider") == "ses"
        ]

    wait_until(lambda: bool(told("resolved")), 20)
    fired, ended = told("firing")[0], told("resolved")[0]
    assert fired["labels"] == ended["labels"]
    assert (fired["labels"]["alertname"], fired["labels"]["severity"]) == ("TocsinCircuitOpen", "critical")
    assert (fired["receiver"], fired["group"]) == ("on-call", {"alertname": "TocsinCircuitOpen"})
    assert (CONFIG.parents[2] / fired["annotations"]["runbook_url"]).is_file()


def test_our_own_pages_come_by_the_same_alertmanager_grouped_by_incident(scene: Scene) -> None:
    """And by the pager's signed webhook at the same time."""
    assert {"incident_opened", "approval_needed", "provider.circuit_open", "provider.lane_still"} <= scene.pages()

    def by_alertmanager(status: str) -> set[str]:
        return {
            alert["labels"]["kind"]
            for each in scene.notifications()
            for alert in each["alerts"]
            if alert["labels"]["alertname"] == "TocsinPage" and alert["status"] == status
        }

    # of a page that is acknowledged before its group's turn Alertmanager tells nobody; these stand for longer
    standing = {"incident_opened", "approval_needed", "provider.circuit_open", "provider.lane_still"}
    wait_until(lambda: standing <= by_alertmanager("firing"), 20)
    # acknowledged: the demo's responder did so
    wait_until(lambda: "incident_opened" in by_alertmanager("resolved"), 20)
    for each in scene.notifications():
        about = {(alert["labels"]["alertname"], alert["labels"].get("incident")) for alert in each["alerts"]}
        assert about == {(each["groupLabels"]["alertname"], each["groupLabels"].get("incident"))}


def test_a_missed_deadline_hides_that_it_was_close_and_a_page_hides_no_other(scene: Scene) -> None:
    url = loads((scene.folder / "summary.json").read_text(encoding="utf-8"))["alertmanager"]
    sent = [
        {"alertname": "TocsinDeadlineMissed", "severity": "critical"},
        {"alertname": "TocsinDeadlineClose", "severity": "warning"},
        {"alertname": "TocsinPage", "severity": "critical", "kind": "one"},
        {"alertname": "TocsinPage", "severity": "warning", "kind": "another"},
    ]
    body = dumps([{"labels": {**labels, "incident": "INC-1999-0001"}} for labels in sent]).encode()
    posted = urllib.request.Request(f"{url}/api/v2/alerts", body, {"Content-Type": "application/json"}, method="POST")
    urllib.request.urlopen(posted, timeout=10).close()

    def arrived() -> set[tuple[str, str | None]]:
        return {
            (alert["labels"]["alertname"], alert["labels"].get("kind"))
            for each in scene.notifications()
            for alert in each["alerts"]
            if alert["labels"].get("incident") == "INC-1999-0001"
        }

    wait_until(lambda: len(arrived()) == 3, 20)
    assert arrived() == {("TocsinDeadlineMissed", None), ("TocsinPage", "one"), ("TocsinPage", "another")}
    with urllib.request.urlopen(f"{url}/api/v2/alerts?filter=incident%3DINC-1999-0001", timeout=10) as answer:
        states = {each["labels"]["alertname"]: each["status"]["state"] for each in loads(answer.read())}
    assert (states["TocsinDeadlineMissed"], states["TocsinDeadlineClose"]) == ("active", "suppressed")


def test_attempts_stand_where_the_ledger_says(scene: Scene) -> None:
    """By channel and state; the ledger's own rows are read past all code of ours."""
    expected = scene.ledger("SELECT channel, state, COUNT(*) FROM attempt GROUP BY channel, state")
    assert {channel for channel, _ in expected} >= {"email", "sms"}
    wait_until(
        lambda: (
            scene.metric("sum by (channel, state) (tocsin_delivery_attempts_count)", "channel", "state") == expected
        ),
        20,
    )


def test_every_answer_of_a_provider_is_counted(scene: Scene) -> None:
    """An attempt that was handed over was accepted once; one that was rejected without was refused."""
    answers = scene.metric("sum by (channel, state) (tocsin_deliveries_total)", "channel", "state")
    accepted = scene.ledger(
        "SELECT channel, 'accepted', COUNT(*) FROM attempt WHERE handed_over_at IS NOT NULL GROUP BY channel"
    )
    refused = scene.ledger(
        "SELECT channel, 'refused', COUNT(*) FROM attempt WHERE handed_over_at IS NULL AND state = 'rejected'"
        " GROUP BY channel"
    )
    settled = {labels: count for labels, count in answers.items() if labels[1] in ("accepted", "refused")}
    assert settled == accepted | refused
    assert sum(settled.values()) == sum(scene.ledger("SELECT COUNT(*) FROM attempt").values())


def test_every_receipt_is_counted(scene: Scene) -> None:
    """A queue may deliver twice: the ledger then has one row, and the metrics say how many were repeated."""
    # what became of letters is recorded by people, not by the stage that counts
    rows = scene.ledger(f"SELECT kind, COUNT(*) FROM receipt WHERE {_BY_MACHINE} GROUP BY kind")
    assert {kind for (kind,) in rows} >= {"delivered", "bounced_hard", "read"}
    counted = scene.metric("sum by (kind) (tocsin_receipts_by_kind_total)", "kind")
    results = scene.metric("sum by (result) (tocsin_receipts_total)", "result")
    repeated = results.pop(("repeated",), 0)
    assert results == scene.ledger(f"SELECT 'applied', COUNT(*) FROM receipt WHERE applied AND {_BY_MACHINE}")
    assert sum(counted.values()) == sum(rows.values()) + repeated
    assert counted.keys() == rows.keys()
    assert all(counted[kind] >= count for kind, count in rows.items())


def test_every_attempt_is_in_the_evidence_log(scene: Scene) -> None:
    """What the evidence stage counts is what lies in its folder."""
    size = int((scene.folder / "evidence" / "checkpoint").read_text(encoding="utf-8").splitlines()[1])
    assert scene.metric("max(tocsin_evidence_size)") == {(): size}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_is_empty(name: str, scene: Scene) -> None:
    """Every query as Grafana would ask it, once interval and incident are put in. None may be empty. A rate needs two scrapes."""
    _, _, rows = DASHBOARDS[name]
    incident = loads((scene.folder / "summary.json").read_text(encoding="utf-8"))["incident"]
    queries = {
        query.replace("$__rate_interval", "1m").replace("$incident", incident)
        for row in rows
        for view in row.views
        for query, _ in view.queries
    }

    def all_answered() -> bool:
        queries.difference_update([query for query in queries if scene.prometheus.query(query)])
        return not queries

    wait_until(all_answered, 20)


def test_all_label_sets_begin_at_0(scene: Scene) -> None:
    """So that the first event of a kind is an increase, and no panel is empty for want of a series."""
    for name in ("tocsin_delivery_attempts_count", "tocsin_deliveries_total", "tocsin_receipts_by_kind_total"):
        assert scene.prometheus.query(f"{name} == 0"), name
    states = {series["state"] for series, _ in scene.prometheus.query("tocsin_delivery_attempts_count")}
    channels = {series["channel"] for series, _ in scene.prometheus.query("tocsin_delivery_attempts_count")}
    assert (states, channels) == (set(AttemptState), set(Channel))


def test_no_name_label_or_value_tells_anything_about_a_person(scene: Scene) -> None:
    names = scene.prometheus.ask("series", match='{__name__=~".+"}')
    values = scene.prometheus.ask("query", query='{__name__=~".+"}')
    helps = scene.prometheus.ask("metadata")
    written = dumps([names, values, helps]).encode()
    assert b"tocsin_deliveries_total" in written
    people = list(demo_values(scene.folder))
    assert len(people) > 60

    def place(content: bytes) -> Place:
        return Place("prometheus", lambda: iter([Piece("series", [("", content)])]))

    assert search([place(written)], people) == []
    assert search([place(written + dumps(people[0][1]).encode())], people), "a planted value is found"
