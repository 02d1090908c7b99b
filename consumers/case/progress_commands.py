"""`tocsin incident watch`: a release as it goes, on one screen."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import console, instant, plain_table, print_json
from bridge.runtime.settings import Settings
from consumers.case.permissions import Act
from consumers.case.progress import Progress, ProgressSource, end_in_words, ends_at, rates_now
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.domain.metering import lane_rates, letters_per_second


@click.command()
@click.argument("incident_id")
@click.option("--once", is_flag=True, help="Print it once and leave.")
@click.option("--every", type=click.FloatRange(min=0.5), default=2.0, show_default=True, help="Seconds between looks.")
@token_option
@as_json_option
@click.pass_obj
def watch(parts: Parts, incident_id: str, once: bool, every: float, token_file: Path | None, as_json: bool) -> None:
    """Watch a release: who has been reached and how, who has not and why, and when it will end.

    A live screen at a terminal, else a block of lines at each look; ends when everybody has an end. --json prints once.
    """
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    source, clock = parts.get(ProgressSource), parts.get(Clock)
    delivery = parts.get(Settings).delivery
    letters = letters_per_second(delivery.letter_batch, delivery.letter_batch_seconds)
    most = {**lane_rates(delivery.email_per_second, delivery.sms_per_second), Channel.LETTER: letters}
    if as_json:
        print_json(as_facts(source.progress(incident_id), most, clock.now()))
        return
    if once or not sys.stdout.isatty():
        while True:
            seen = source.progress(incident_id)
            for line in lines_of(seen, most, clock.now()):
                click.echo(line)
            if once or _over(seen):
                return
            click.echo("")
            time.sleep(every)
    with Live(console=console(), auto_refresh=False, screen=False) as live:
        while True:
            began = time.monotonic()
            seen = source.progress(incident_id)
            live.update(screen_of(seen, most, clock.now()), refresh=True)
            if _over(seen):
                return
            # a look at a very large incident takes a while: the case store has other things to do
            time.sleep(max(every, 5 * (time.monotonic() - began)))


def _over(seen: Progress) -> bool:
    return seen.state in ("dismissed", "closed") or (not seen.why_not and not seen.supplements_open)


def as_facts(seen: Progress, most: Mapping[Channel, float], now: datetime) -> dict[str, Any]:
    """Return progress as `--json` prints it."""
    end = ends_at(seen, most, now)
    slack = None
    if end is not None and seen.earliest_deadline_at is not None:
        slack = (seen.earliest_deadline_at - end).total_seconds()
    facts = asdict(seen)
    facts["releases"] = [
        {"release_id": name, "state": state, "canary": canary} for name, state, canary in seen.releases
    ]
    return {
        **facts,
        "stopped": seen.stopped,
        "per_second": rates_now(seen, most, now),
        "ends_at": end,
        "seconds_before_deadline": slack,
        "in_words": end_in_words(seen, end, now),
        "at": now,
    }


def lines_of(seen: Progress, most: Mapping[Channel, float], now: datetime) -> list[str]:
    """Return one screen of plain lines."""
    lines = [_head(seen, now), _bar(seen)]
    lines += [f"reached by:   {channel} {count:,}" for channel, count in sorted(seen.reached_by.items())]
    if seen.substituted or seen.unreachable:
        lines.append(
            f"not reached:  {seen.unreachable:,} unreachable and reported, {seen.substituted:,} told in public"
        )
    lines += [f"not yet:      {count:,} {why}" for why, count in _by_size(seen.why_not)]
    if seen.supplements:
        lines.append(f"supplements:  {seen.supplements:,}, {seen.supplements_open:,} of them open")
    for channel, per_second in sorted(rates_now(seen, most, now).items()):
        own = seen.own_rates.get(channel)
        lines.append(
            f"rate:         {channel} {per_second:,.4g} a second, {seen.waiting[channel]:,} to go"
            + ("" if own is None else f" (held to {own:g})")
        )
    lines.append(f"end:          {end_in_words(seen, ends_at(seen, most, now), now)}")
    if seen.earliest_deadline_at is not None:
        lines.append(f"deadline:     {instant(seen.earliest_deadline_at, now)}")
    return lines


def _head(seen: Progress, now: datetime) -> str:
    going = "; ".join(
        f"release {name[:8]} {state}" + (f" (canary {canary})" if canary else "")
        for name, state, canary in seen.releases
    )
    return f"{seen.incident_id}{' (exercise)' if seen.exercise else ''} {seen.state}, {now:%H:%M:%SZ}: {going or 'no release'}"


def _bar(seen: Progress) -> str:
    return f"reached:      {seen.reached:,} of {seen.people:,} people" + (
        f" ({seen.reached / seen.people:.1%})" if seen.people else ""
    )


def _by_size(counts: Mapping[str, int]) -> Sequence[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def screen_of(seen: Progress, most: Mapping[Channel, float], now: datetime) -> Group:
    """Return one screen for a terminal."""
    width = 40
    done = round(width * seen.reached / seen.people) if seen.people else 0
    gone = round(width * (seen.substituted + seen.unreachable) / seen.people) if seen.people else 0
    bar = Text.assemble(
        ("█" * done, "green"),
        ("█" * gone, "yellow"),
        "░" * (width - done - gone),
        f"  {_bar(seen).partition(':')[2].strip()}",
    )
    rates = rates_now(seen, most, now)
    channels: Table = plain_table(
        [
            {
                "channel": channel,
                "arrived": f"{seen.reached_by.get(channel, 0):,}",
                "to go": f"{seen.waiting.get(channel, 0):,}",
                "a second": f"{rates[channel]:,.4g}" if channel in rates else "-",
            }
            for channel in sorted(set(seen.reached_by) | set(seen.waiting))
        ],
        ("channel", "arrived", "to go", "a second"),
    )
    reasons: Table = plain_table(
        [{"not yet": f"{count:,}", "because": why} for why, count in _by_size(seen.why_not)], ("not yet", "because")
    )
    end = end_in_words(seen, ends_at(seen, most, now), now)
    late = (seen.stopped is not None and not seen.over) or "AFTER" in end or "passed" in end
    return Group(
        Text(_head(seen, now), style="bold"),
        bar,
        channels,
        *([reasons] if seen.why_not else []),
        Text(end, style="bold red" if late else "bold"),
    )


SUBCOMMANDS: Mapping[str, Sequence[click.Command]] = {"incident": [watch]}
COMMANDS: list[click.Command] = []
"""None of its own: it is a verb of `tocsin incident`."""
