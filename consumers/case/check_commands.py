"""`tocsin delivery check`: whether a notice would leave and its receipt come back; if not, which link is missing."""

import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import Refused
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import console, instant, print_json, print_table
from consumers.case.checking import Checked, CheckMeans, check_delivery
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.domain.canary_messages import CanaryMessage
from consumers.domain.simulators import simulated_email


@click.command()
@click.option("--wait", "wait_seconds", type=click.FloatRange(min=0), default=60, show_default=True, metavar="SECONDS",
              help="How long receipts may take.")  # fmt: skip
@token_option
@as_json_option
@click.pass_obj
def check(parts: Parts, wait_seconds: float, token_file: Path | None, as_json: bool) -> None:
    """Send to SES's success, bounce and complaint simulators, wait for each receipt, and name the missing link.

    Tells nobody anything. It ends with 1 if a link is missing, with 3 if SES or the case store does not answer.
    """
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    means, now = parts.get(CheckMeans), parts.get(Clock).now()
    with console(sys.stderr).status(f"waiting up to {wait_seconds:.0f} s for the receipts of SES's simulators"):
        found = check_delivery(means, timedelta(seconds=wait_seconds))
    canaries = [each for route in means.tried if (each := means.book.last(route)) is not None]
    if as_json:
        print_json(_facts(found, canaries))
    else:
        _print(found, canaries, now)
    if found.missing is not None:
        raise Refused(f"missing link, {found.missing.link}: {found.missing.sentence}")


def _facts(found: Checked, canaries: list[CanaryMessage]) -> dict[str, Any]:
    missing = found.missing
    return {
        "works": missing is None,
        "missing": None if missing is None else {"link": missing.link, "says": missing.says, "do": missing.do},
        "messages": [
            {"to": simulated_email(scenario), "expects": each.expects.value} | _facts_of(each)
            for scenario, each in found.messages.items()
        ],
        "canaries": [
            {"channel": each.route.channel.value, "provider": each.route.provider, "region": each.route.region,
             "began_at": each.began_at.isoformat()} | _facts_of(each)
            for each in canaries
        ],
    }  # fmt: skip


def _facts_of(each: CanaryMessage) -> dict[str, Any]:
    return {"stage": each.stage.value, "receipts": list(each.kinds), "seconds": each.seconds, "code": each.code}


def _print(found: Checked, canaries: list[CanaryMessage], now: datetime) -> None:
    if found.messages:
        print_table(
            [
                {
                    "simulator": simulated_email(scenario),
                    "receipts": ", ".join(each.kinds).replace("_", " ") or "none",
                    "result": _result(each),
                }
                for scenario, each in found.messages.items()
            ],
            ("simulator", "receipts", "result"),
        )
    for each in canaries:
        route = each.route
        click.echo(
            f"last canary message, {route.channel.value} by {route.provider} in {route.region}: {_result(each)}, "
            f"sent {instant(each.began_at, now)}"
        )
    if found.missing is None:
        click.echo("SES takes messages, and every receipt comes back: delivery works")


def _result(each: CanaryMessage) -> str:
    if each.seconds is not None:
        return f"arrived in {each.seconds:.1f} s"
    return each.stage.value + (f" ({each.code})" if each.code else "")


COMMANDS: list[click.Command] = []
"""None of its own: `consumers.stages.delivery_commands` puts `check` under `tocsin delivery`."""
