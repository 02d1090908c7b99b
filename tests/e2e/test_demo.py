"""`tocsin demo --keep DIR` as its user runs it: green whatever the seed, everything to check it is left, and no personal
value can be read anywhere outside mailbox and store, however it is written.

One demo is asked by nearly all tests here. While it is up a real Prometheus, with the shipped rules and routes, scrapes its
processes: it says what the ledger says, and nobody's name.
"""

import json
import shlex
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps, loads
from pathlib import Path
from typing import Any

import pytest

from bridge.contracts.events import AttemptState, Channel
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.evidence_rows import EvidenceRows
from consumers.adapters.evidence_package import EvidencePackages
from consumers.adapters.letter_batches import PROVIDER
from consumers.bootstrap.stages import STAGES
from consumers.evidence.keys import read_vkey
from consumers.evidence.leaves import discover
from consumers.evidence.reader import LogFolder
from consumers.evidence.verifier import verify_log
from deploy.grafana.generate import DASHBOARDS
from tests.e2e import demo_process
from tests.e2e.leak_search import Piece, Place, demo_values, search
from tests.servers.prometheus import PrometheusServer

CUSTOMERS = 200
SEED, ANOTHER_SEED = 7, 1848
CONFIG = Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yaml"

Counts = dict[tuple[str, ...], float]

_BY_MACHINE = f"NOT (provider = '{PROVIDER}' AND kind IN ('delivered', 'bounced_hard'))"


@dataclass(frozen=True, slots=True)
class Scene:
    """The demo that has told everybody and is still up, and the Prometheus that watches it."""

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


def _answer(folder: Path) -> Path:
    return folder.with_name("leaks.json")


def _demo(folder: Path, seed: int) -> tuple[str, ...]:
    """Return the demo's options: values are searched while all processes still run, as the embedded Kafka's topics and the
    metrics end with them.
    """
    words = [sys.executable, "-m", "tests.e2e.leak_search", *map(str, (folder, _answer(folder), _temporary(folder)))]
    return ("--customers", str(CUSTOMERS), "--seed", str(seed), "--before-end", shlex.join(words))


def _temporary(folder: Path) -> Path:
    temporary = folder.with_name("tmp")
    temporary.mkdir(exist_ok=True)
    return temporary


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[demo_process.StandingDemo]:
    """A demo at its end, and everything still up."""
    folder = tmp_path_factory.mktemp("standing") / "demo"
    with demo_process.standing(folder, *_demo(folder, SEED), temporary=_temporary(folder)) as up:
        yield up


@pytest.fixture(scope="module")
def scene(prometheus_programs: None, demo: demo_process.StandingDemo) -> Scene:
    """The shipped configuration, with the ports that the demo really has."""
    # the demo's own: the shipped rules and routes, hurried
    server = PrometheusServer(loads((demo.folder / "summary.json").read_text(encoding="utf-8"))["prometheus"])
    # a rate needs two scrapes
    wait_until(lambda: len(server.query("sum_over_time(up[1m]) >= 3")) == len(STAGES), 60)
    return Scene(demo.folder, server)


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)


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
            if alert["status"] == status and alert["labels"]["alertname"] == "TocsinCircuitOpen"
        ]

    # while the circuit is not open yet, the warning that SES is in trouble may arrive, too
    wait_until(lambda: any(each["labels"].get("provider") == "ses" for each in told("resolved")), 60)
    fired, ended = (
        next(each for each in told(status) if each["labels"].get("provider") == "ses")
        for status in ("firing", "resolved")
    )
    assert fired["labels"] == ended["labels"]
    assert fired["labels"]["severity"] == "critical"
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
    wait_until(lambda: standing <= by_alertmanager("firing"), 60)
    # acknowledged: the demo's responder did so
    wait_until(lambda: "incident_opened" in by_alertmanager("resolved"), 60)
    for each in scene.notifications():
        about = {(alert["labels"]["alertname"], alert["labels"].get("incident")) for alert in each["alerts"]}
        assert about == {(each["groupLabels"]["alertname"], each["groupLabels"].get("incident"))}


def test_what_explains_an_alert_hides_it_and_a_missed_deadline_or_a_page_hides_no_other(scene: Scene) -> None:
    url = loads((scene.folder / "summary.json").read_text(encoding="utf-8"))["alertmanager"]
    sent = [
        {"alertname": "TocsinDeadlineMissed", "severity": "critical"},
        {"alertname": "TocsinDeadlineClose", "severity": "warning"},
        {"alertname": "TocsinPage", "severity": "critical", "kind": "one"},
        {"alertname": "TocsinPage", "severity": "warning", "kind": "another"},
        {"alertname": "TocsinDeliveryDegraded", "severity": "critical", "provider": "of no one"},
        {"alertname": "TocsinMailboxDeferred", "severity": "warning", "provider": "of no one"},
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

    wait_until(lambda: len(arrived()) == 5, 60)
    assert arrived() == {
        ("TocsinDeadlineMissed", None),
        ("TocsinDeadlineClose", None),
        ("TocsinPage", "one"),
        ("TocsinPage", "another"),
        ("TocsinDeliveryDegraded", None),
    }
    with urllib.request.urlopen(f"{url}/api/v2/alerts?filter=incident%3DINC-1999-0001", timeout=10) as answer:
        states = {each["labels"]["alertname"]: each["status"]["state"] for each in loads(answer.read())}
    assert (states["TocsinDeliveryDegraded"], states["TocsinMailboxDeferred"]) == ("active", "suppressed")


def test_attempts_stand_where_the_ledger_says(scene: Scene) -> None:
    """By channel and state; the ledger's own rows are read past all code of ours."""
    expected = scene.ledger("SELECT channel, state, COUNT(*) FROM attempt GROUP BY channel, state")
    assert {channel for channel, _ in expected} >= {"email", "sms"}
    wait_until(
        lambda: (
            scene.metric("sum by (channel, state) (tocsin_delivery_attempts_count)", "channel", "state") == expected
        ),
        60,
    )


def test_every_answer_of_a_provider_is_counted(scene: Scene) -> None:
    """An attempt that was handed over was accepted once, or its answer was lost and a receipt told; one that was rejected
    without was refused.
    """
    answers = scene.metric("sum by (channel, state) (tocsin_deliveries_total)", "channel", "state")
    handed_over = scene.ledger(
        "SELECT channel, COUNT(*) FROM attempt WHERE handed_over_at IS NOT NULL GROUP BY channel"
    )
    refused = scene.ledger(
        "SELECT channel, COUNT(*) FROM attempt WHERE handed_over_at IS NULL AND state = 'rejected' GROUP BY channel"
    )
    summary = loads((scene.folder / "summary.json").read_text(encoding="utf-8"))
    assert bool(summary["fallbacks"]["lost answers, settled by receipts"]) == any(
        state == "lost" for _, state in answers
    )

    def counted(*states: str) -> Counts:
        found: Counts = {}
        for (channel, state), count in answers.items():
            if state in states:
                found[(channel,)] = found.get((channel,), 0.0) + count
        return found

    assert counted("accepted", "lost") == handed_over
    assert counted("refused") == refused
    assert sum([*handed_over.values(), *refused.values()]) == sum(scene.ledger("SELECT COUNT(*) FROM attempt").values())


def test_every_receipt_is_counted(scene: Scene) -> None:
    """A queue may deliver twice: the ledger then has one row, and the metrics count it once, and how many were repeated."""
    # what became of letters is recorded by people, not by the stage that counts
    rows = scene.ledger(f"SELECT kind, COUNT(*) FROM receipt WHERE {_BY_MACHINE} GROUP BY kind")
    assert {kind for (kind,) in rows} >= {"delivered", "bounced_hard", "read"}
    counted = scene.metric("sum by (kind) (tocsin_receipts_by_kind_total)", "kind")
    results = scene.metric("sum by (result) (tocsin_receipts_total)", "result")
    results.pop(("repeated",), None)
    # a receipt without our tag that overtakes the dispatcher's report is kept aside, and applied when that comes
    results["applied",] = results.get(("applied",), 0) + results.pop(("kept_aside",), 0)
    assert results == scene.ledger(f"SELECT 'applied', COUNT(*) FROM receipt WHERE applied AND {_BY_MACHINE}")
    assert counted == rows


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

    wait_until(all_answered, 60)


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


def test_the_demo_is_green_and_leaves_its_proof_and_nobody_in_clear(demo: demo_process.StandingDemo) -> None:
    """The last that looks at it: it is asked to end."""
    _refuse_flaws(demo.end(), SEED)


@pytest.mark.soak
def test_another_shop_is_green_too(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = demo_process.run(folder, *_demo(folder, ANOTHER_SEED), temporary=_temporary(folder))
    _refuse_flaws(done, ANOTHER_SEED)


def _refuse_flaws(done: demo_process.DemoRun, seed: int) -> None:
    assert done.exit_code == 0, done.story
    _refuse_leaks(json.loads(_answer(done.folder).read_text()))
    summary, folder = done.summary, done.folder
    assert summary["faults"] == []
    # a process that falls and is started again may hide what made it fall
    assert [stage for stage, count in summary["restarts"].items() if count] == [], done.story
    assert (summary["seed"], summary["customers"]) == (seed, CUSTOMERS)
    # every fallback has happened, was told, and is counted; and who is on call heard of what they must
    watched = {"alert"} if summary["prometheus"] else set()
    assert set(summary["seen"]) == watched | {
        "page incident_opened", "page provider.circuit_open",
        "delivered", "bounced", "soft bounce", "account page", "complained", "silent", "sns ill", "sns well",
        "letter", "letter back",
    }  # fmt: skip
    assert all(summary["fallbacks"].values()), summary["fallbacks"]
    people = sum(summary["ends"].values())
    assert people == summary["people"] > 12

    # whoever gets the folder can check it without us: log and key lie together
    report = verify_log(LogFolder(folder / "evidence"), [read_vkey(str(folder / "evidence" / "log.vkey"))], discover())
    assert not report.problems
    with closing(sqlite3.connect(folder / "case.db")) as cases:
        ((incident, told),) = cases.execute("SELECT incident_id, COUNT(*) FROM recipient GROUP BY incident_id")
    assert (incident, told) == (summary["incident"], people)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in (folder / "resolutions").glob("*.json")]
    assert len(records) == 4
    for record in records:
        assert (folder / "artefacts" / "keys" / record["artefact"]).is_file()
    mailbox = json.loads((folder / "mailbox" / "messages.json").read_text(encoding="utf-8"))
    assert {message["channel"] for message in mailbox} == {"email", "sms"}
    _refuse_gaps(folder, incident)
    _refuse_loose_logs(folder, incident)


def _refuse_loose_logs(folder: Path, incident: str) -> None:
    """Whoever searches all logs for the incident finds what happened, whichever process says so."""
    told: dict[str, set[str]] = {}
    for stage in STAGES:
        lines = (folder / "logs" / f"{stage}.log").read_text(encoding="utf-8").splitlines()
        for said in map(json.loads, lines):
            assert (said["process"], bool(said["timestamp"]), bool(said["level"])) == (stage, True, True)
            assert said.get("incident", incident) == incident
            if "incident" in said:
                told.setdefault(said["event"], set()).add(stage)
    assert {"alert taken", "planned", "release finished"} <= told.keys(), told


def _refuse_leaks(report: dict[str, Any]) -> None:
    searched = "\n".join(report["places"])
    for part in (
        "topic tocsin.store-changes", "topic tocsin.dead-letters", "metrics of dispatch", "case.db", "index/", "artefacts/",
        "logs/dispatch.log", "evidence/tile/entries/",
    ):  # fmt: skip
        assert part in searched
    assert report["in_mailbox"] == ["email", "name", "phone"]
    assert report["findings"] == []
    looked_for = report["looked_for_in_log"]
    assert all(looked_for[what] > 3 for what in ("provider id", "attempt id", "recipient id", "reason", "staff name"))
    assert report["in_log"] == []


def _refuse_gaps(folder: Path, incident: str) -> None:
    """What an auditor is handed of this incident is proved, and nobody is missing."""
    rows = EvidenceRows(CaseDatabase(f"sqlite:///{folder}/case.db"))
    artefacts, vkey = DirectoryArtefactStore(folder / "artefacts"), read_vkey(str(folder / "evidence" / "log.vkey"))
    packages = EvidencePackages(folder / "evidence", vkey, rows, artefacts)
    packed = packages.write(incident, folder / "package", datetime.now(UTC))
    said = packed.report.sentences()
    assert packed.report.whole, said
    assert sum("Proved: nobody was left out" in each for each in said) == 1
    assert {"texts", "law", "sheets", "proofs", "resolution"} <= {path.name for path in packed.folder.iterdir()}


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = demo_process.run(tmp_path)
    assert done.exit_code == 1
    assert "not empty" in done.said
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_unknown_stage_to_kill_is_refused(tmp_path: Path) -> None:
    done = demo_process.run(tmp_path / "demo", "--kill", "dispach")
    assert done.exit_code == 2
    assert "dispatch" in done.said
    assert not (tmp_path / "demo").exists()
