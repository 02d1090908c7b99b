"""Writes the Grafana dashboards beside this file: `make dashboards`. Edit here, never the JSON; a test compares the two.

Two pages. The overview answers what somebody on call asks first, top to bottom: does anybody need me, do notices arrive,
does anything stand still. The incident page follows one release. Every query is run against a real Prometheus by a test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphTresholdsStyleMode
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")


@dataclass(frozen=True, slots=True)
class View:
    """One panel: the question that it answers, and the queries (PromQL, legend) whose answer it shows."""

    title: str
    question: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    number: bool = False
    """One big number instead of a curve."""
    red_from: float | None = None
    red_below: float | None = None
    width: int = 8


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    views: Sequence[View]


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}[$__rate_interval]))"


OVERVIEW = (
    Row("Does anybody need me?", [
        View("Pages nobody has acknowledged", "Does somebody look?",
             [("sum by (severity) (tocsin_pages_unacknowledged_count)", "{{severity}}")], number=True, red_from=1, width=6),
        View("Closest deadline", "How long have we got?",
             [("min(tocsin_deadline_closest_seconds)", "closest")], unit="s", number=True, red_below=12 * 3600, width=6),
        View("Deadlines missed", "Have we missed one?",
             [("max(tocsin_deadline_missed_count)", "missed")], number=True, red_from=1, width=6),
        View("Oldest undecided incident", "Does an incident wait to be looked at?",
             [("max(tocsin_verification_oldest_seconds)", "waiting")], unit="s", number=True, red_from=12 * 3600, width=6),
        View("People held", "Does somebody wait for counsel?",
             [("max(tocsin_recipients_held_count)", "held")], number=True, red_from=1, width=6),
        View("Page that reached nobody", "Does anybody hear us?",
             [("max(tocsin_pages_undelivered_seconds)", "oldest")], unit="s", number=True, red_from=300, width=6),
        View("Stages up", "Does every process answer?",
             [("sum(up{job=\"tocsin\"})", "up"), ("count(up{job=\"tocsin\"})", "of")], number=True, width=6),
        View("Alerts by what became of them", "Do our monitors reach us, and does anybody try who should not?",
             [("sum by (outcome) (increase(tocsin_alerts_total[1h]))", "{{outcome}}")], width=6),
    ]),
    Row("Do notices arrive?", [
        View("Handed over", "At which rate does each channel go?",
             [(_rate("tocsin_deliveries_total", "channel", '{state="accepted"}'), "{{channel}}")], unit="cps"),
        View("Refused, throttled or lost", "Does each channel accept what we hand over?",
             [(_rate("tocsin_deliveries_total", "channel, state", '{state!="accepted"}'), "{{channel}} {{state}}")], unit="cps"),
        View("Receipts", "How many messages arrive, bounce or draw complaints?",
             [(_rate("tocsin_receipts_by_kind_total", "kind"), "{{kind}}")], unit="cps"),
        View("Time to arrival, 95 %", "How long does it take to arrive?",
             [("histogram_quantile(0.95, sum by (le, channel) (rate(tocsin_delivery_arrival_seconds_bucket[15m])))",
               "{{channel}}")], unit="s"),
        View("By mailbox provider", "Does one mailbox provider turn us away?",
             [("sum by (mailbox, state) (rate(tocsin_provider_answers_total[5m]))", "{{mailbox}} {{state}}")], unit="cps"),
        View("Where attempts stand", "How far are notices, and by which channel?",
             [("sum by (channel, state) (tocsin_delivery_attempts_count) > 0", "{{channel}} {{state}}")]),
    ]),
    Row("Do our providers let us?", [
        View("Circuits", "Which provider is ill, and does its lane run over the other one?",
             [("max by (provider) (tocsin_provider_circuit_open)", "{{provider}}")], red_from=0.5),
        View("Quota left", "Does the quota end before the release does?",
             [("max by (provider) (tocsin_provider_quota_left_count)", "{{provider}}")]),
        View("Bounced or complained about, 24 h", "Will the provider pause our account?",
             [("max by (provider, kind) (tocsin_provider_receipts_ratio)", "{{provider}} {{kind}}")], unit="percentunit"),
        View("Duration of a call, 95 %", "Is a provider slowing us down?",
             [("histogram_quantile(0.95, sum by (le, channel) (rate(tocsin_provider_call_seconds_bucket[5m])))",
               "{{channel}}")], unit="s"),
        View("Rate granted", "How fast may we send?",
             [("max by (provider) (tocsin_provider_rate_per_second)", "{{provider}}")], unit="cps"),
        View("Second provider's budget used", "What does the second provider cost us?",
             [("max by (provider) (tocsin_provider_budget_used_ratio)", "{{provider}}")], unit="percentunit", red_from=1),
        View("Last canary message that arrived", "How long ago did we last see that notices would arrive?",
             [("min by (channel, provider) (tocsin_canary_age_seconds)", "{{channel}} {{provider}}"),
              ("max by (channel) (tocsin_canary_every_seconds)", "{{channel}} as set")], unit="s"),
        View("Canary messages", "Would notices arrive if we had to send them now?",
             [("sum by (provider, result) (tocsin_canary_messages_total)", "{{provider}} {{result}}")]),
    ]),
    Row("Does anything stand still?", [
        View("From the store to the index", "How long does a change in the store take until it counts?",
             [("max(tocsin_index_visible_seconds)", "visible after"),
              ("max(tocsin_relay_oldest_unpublished_seconds)", "oldest unpublished")], unit="s", red_from=60),
        View("Changes published", "Which changes come from the store, and how many?",
             [(_rate("tocsin_relay_changes_total", "view"), "{{view}}")], unit="cps"),
        View("Outbox", "Does the outbox keep up?",
             [("max(tocsin_outbox_oldest_age_seconds)", "oldest"), ("max(tocsin_outbox_waiting_count)", "waiting")]),
        View("Resolutions waiting", "Is a partition silent?",
             [("sum(tocsin_index_pending_resolutions_count)", "partitions"), ("max(tocsin_plans_waiting_count)", "plans")]),
        View("Evidence", "Is everything that happens being logged?",
             [("sum(rate(tocsin_evidence_leaves_total[$__rate_interval]))", "leaves a second"),
              ("max(tocsin_evidence_oldest_unlogged_seconds)", "seconds behind"),
              ("max(tocsin_evidence_differing_count)", "incidents that differ")]),
        View("Set aside", "Does somebody send what we cannot read?",
             [("sum(increase(tocsin_dead_letters_total[1h]))", "dead letters"),
              ("sum(increase(tocsin_delivery_strange_commands_total[1h]))", "strange commands")], red_from=1),
    ]),
)  # fmt: skip


INCIDENT = (
    Row("Is everybody told in time?", [
        View("People without an end", "Who is still to be told?",
             [('max(tocsin_incident_people_count{incident="$incident", end="open"})', "open")], number=True, width=6),
        View("People held", "Does somebody wait for counsel?",
             [('max(tocsin_incident_people_count{incident="$incident", end="held"})', "held")], number=True, red_from=1, width=6),
        View("Earliest deadline of who is not told yet", "How long have we got?",
             [('max(tocsin_incident_deadline_seconds{incident="$incident"})', "left")], unit="s", number=True,
             red_below=12 * 3600, width=6),
        View("Projected end", "When has the last message left?",
             [('max(tocsin_incident_projected_end_seconds{incident="$incident"})', "end")], unit="s", number=True, width=6),
        View("Projected end against the deadline", "Will the release end in time?",
             [('max(tocsin_incident_projected_end_seconds{incident="$incident"})', "last message leaves"),
              ('max(tocsin_incident_deadline_seconds{incident="$incident"})', "earliest deadline")], unit="s", width=12),
        View("People by how it ended", "Who has been told, and who cannot be?",
             [('max by (end) (tocsin_incident_people_count{incident="$incident"})', "{{end}}")], width=12),
    ]),
    Row("What does the law demand?", [
        View("Duties", "What became of each duty?",
             [('max by (status) (tocsin_incident_duties_count{incident="$incident"})', "{{status}}")]),
        View("Clocks, conservative", "How long, counted from the earliest instant?",
             [('max by (duty) (tocsin_incident_duty_seconds{incident="$incident", clock="conservative"})', "{{duty}}")],
             unit="s"),
        View("Clocks, as recorded", "How long, counted from what was recorded?",
             [('max by (duty) (tocsin_incident_duty_seconds{incident="$incident", clock="recorded"})', "{{duty}}")],
             unit="s"),
    ]),
    Row("Do its notices arrive?", [
        View("Where attempts stand", "How far is each channel?",
             [('max by (channel, state) (tocsin_incident_attempts_count{incident="$incident"})', "{{channel}} {{state}}")]),
        View("Rate", "How fast does it go?",
             [('max by (channel) (tocsin_incident_rate_per_second{incident="$incident"})', "{{channel}}")], unit="cps"),
        View("Fallbacks", "How many need another channel?",
             [('max by (channel) (tocsin_incident_fallbacks_count{incident="$incident"})', "{{channel}}")]),
        View("Oldest without a receipt", "Do receipts come back?",
             [('max by (channel) (tocsin_incident_oldest_without_receipt_seconds{incident="$incident"})', "{{channel}}")],
             unit="s"),
        View("Receipts, of all incidents", "Are receipts read as they come?",
             [("max(tocsin_receipts_behind_seconds)", "behind")], unit="s"),
        View("By mailbox provider, of all incidents", "Does one mailbox provider turn us away?",
             [(_rate("tocsin_receipts_by_kind_total", "mailbox, kind"), "{{mailbox}} {{kind}}")], unit="cps"),
    ]),
    Row("Can it be proved?", [
        View("Evidence log, of all incidents", "Is what happens being logged?",
             [("max(tocsin_evidence_oldest_unlogged_seconds)", "seconds behind"),
              ("max(tocsin_evidence_differing_count)", "ended incidents that differ")], red_from=120, width=12),
        View("Entries a second", "Does the evidence log go on?",
             [("sum(rate(tocsin_evidence_leaves_total[$__rate_interval]))", "entries")], unit="cps", width=12),
    ]),
)  # fmt: skip


def build(uid: str, title: str, rows: Sequence[Row]) -> str:
    """Return a dashboard's JSON, the same for the same rows."""
    page = (
        dashboard.Dashboard(title).uid(uid).tags(["tocsin"]).readonly().refresh("15s").time("now-3h", "now")
        .timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    )  # fmt: skip
    if any("$incident" in query for row in rows for view in row.views for query, _ in view.queries):
        page.with_variable(
            dashboard.QueryVariable("incident").label("Incident").datasource(SOURCE)
            .query("label_values(tocsin_incident_people_count, incident)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_DESC)
        )  # fmt: skip
    for row in rows:
        page.with_row(dashboard.Row(row.title))
        for view in row.views:
            page.with_panel(_panel(view))
    text: str = JSONEncoder(sort_keys=True, indent=2).encode(page.build())
    return text + "\n"


def _panel(view: View) -> Any:
    panel: Any = stat.Panel() if view.number else timeseries.Panel().line_width(1).fill_opacity(8)
    panel.title(view.title).description(view.question).datasource(SOURCE).unit(view.unit).span(view.width).height(6)
    panel.min(0)
    if view.red_from is not None or view.red_below is not None:
        low, high = ("green", "red") if view.red_from is not None else ("red", "green")
        bound = view.red_from if view.red_from is not None else view.red_below
        steps = [Threshold(value=None, color=low), Threshold(value=bound, color=high)]
        panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        if not view.number:
            style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
            panel.thresholds_style(style)
    for number, (query, legend) in enumerate(view.queries):
        panel.with_target(
            prometheus.Dataquery().expr(query).legend_format(legend).ref_id("ABCDEF"[number]).datasource(SOURCE)
        )
    return panel


DASHBOARDS = {
    "overview.json": ("tocsin-overview", "Tocsin: overview", OVERVIEW),
    "incident.json": ("tocsin-incident", "Tocsin: one incident", INCIDENT),
}


def main() -> None:
    """Write every dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for name, (uid, title, rows) in DASHBOARDS.items():
        (FOLDER / name).write_text(build(uid, title, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
