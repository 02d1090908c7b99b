"""Alert rules: they fire when they should and not before, say what to do, and name metrics and commands that exist."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from bridge.runtime.parts import Parts
from consumers.cli import build
from consumers.metrics_commands import declared
from tests.servers.prometheus import check_rules

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yaml"))
ALERTS: list[dict[str, Any]] = [
    rule
    for path in RULES
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_promtool_runs_the_tests_of_every_rule_file(path: Path, tmp_path: Path) -> None:
    tests = DEPLOY / "prometheus" / "tests" / path.name
    check_rules(tests, tmp_path)
    tried = tests.read_text(encoding="utf-8")
    for alert in ALERTS:
        if alert["alert"] in path.read_text(encoding="utf-8"):
            assert f"alertname: {alert['alert']}" in tried, "an alert that no test fires"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_has_a_runbook_that_can_be_followed(alert: dict[str, Any]) -> None:
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["labels"]["severity"] in ("warning", "critical")
    text = (DEPLOY.parent / alert["annotations"]["runbook_url"]).read_text(encoding="utf-8")
    assert text.startswith(f"# {alert['alert']}\n")
    for part in ("Meaning", "Impact", "Diagnosis", "Mitigation"):
        assert f"**{part}.**" in text
    commands = re.findall(r"tocsin ([a-z]+(?:-[a-z]+)?) ([a-z-]+)", text)
    assert commands, "nothing to type"
    with click.Context(build(), obj=Parts()) as context:
        for noun, verb in commands:
            group = build().get_command(context, noun)
            assert isinstance(group, click.Group)
            assert verb in group.commands, f"tocsin {noun} {verb} does not exist"
            assert group.commands[verb].get_help(context)


def test_alerts_ask_for_metrics_that_are_measured() -> None:
    parts = ("", "_bucket", "_sum", "_count")  # of a histogram
    known = {each.name + part for each in declared() for part in (parts if each.kind == "histogram" else ("",))}
    asked = {name for alert in ALERTS for name in re.findall(r"(?<![:a-z_])tocsin_[a-z_]+", alert["expr"])}
    assert asked - known == set()


def test_each_alert_is_seen_quiet_then_firing_then_quiet_again() -> None:
    seen: dict[str, set[str]] = {}
    for path in RULES:
        tests = yaml.safe_load((DEPLOY / "prometheus" / "tests" / path.name).read_text(encoding="utf-8"))["tests"]
        for test in tests:
            fired: set[str] = set()
            quiet: set[str] = set()
            for check in sorted(test["alert_rule_test"], key=lambda check: int(check["eval_time"].rstrip("m"))):
                name = check["alertname"]
                if check["exp_alerts"]:
                    fired.add(name)
                    seen.setdefault(name, set()).update({"fires"} | ({"not before"} if name in quiet else set()))
                else:
                    quiet.add(name)
                    if name in fired:
                        seen.setdefault(name, set()).add("resolves")
    lacking = {alert["alert"]: seen.get(alert["alert"]) for alert in ALERTS}
    assert {name: kinds for name, kinds in lacking.items() if kinds != {"fires", "not before", "resolves"}} == {}
