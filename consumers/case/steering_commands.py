"""`tocsin incident pause`, `resume`, `cancel`, `withdraw`, `retry` and `rate`: steering a release that runs, or waits."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput
from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json
from bridge.runtime.settings import Settings
from consumers.case import steering
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.steering import Retried, Standing, Steered
from consumers.case.store import CaseStore
from consumers.domain.metering import lane_rates

dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


@click.command()
@click.argument("incident_id")
@dry_run_option
@reason_option
@token_option
@as_json_option
@click.pass_obj
def pause(
    parts: Parts, incident_id: str, dry_run: bool, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Stop a release at once, for everybody it covers, until somebody resumes it. Nothing is lost or sent twice."""
    actor = authenticated(parts, token_file)
    now = parts.get(Clock).now()
    done = steering.pause(parts.get(CaseStore), incident_id, actor, now, reason=reason, dry_run=dry_run)
    if as_json:
        print_json(_steered(done, dry_run=dry_run))
        return
    click.echo(f"{incident_id}: {'would be' if dry_run else 'is'} paused; no message leaves within 2 s of this")
    _say_standing(done.standing, now)
    click.echo(f"next: tocsin incident resume {incident_id} --reason TEXT   (or cancel)")


@click.command()
@click.argument("incident_id")
@dry_run_option
@reason_option
@token_option
@as_json_option
@click.pass_obj
def resume(
    parts: Parts, incident_id: str, dry_run: bool, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Let a paused release go on where it was; also one that its canary holds, on your word."""
    actor = authenticated(parts, token_file)
    now = parts.get(Clock).now()
    done = steering.resume(parts.get(CaseStore), incident_id, actor, now, reason=reason, dry_run=dry_run)
    if as_json:
        print_json(_steered(done, dry_run=dry_run))
        return
    click.echo(f"{incident_id}: {'would go' if dry_run else 'goes'} on")
    if done.canary_waived:
        click.echo(f"its canary held it; it goes on by the word of {actor.person_id}")
    _say_standing(done.standing, now)
    click.echo(f"next: tocsin incident watch {incident_id}")


@click.command()
@click.argument("incident_id")
@dry_run_option
@reason_option
@token_option
@as_json_option
@click.pass_obj
def cancel(
    parts: Parts, incident_id: str, dry_run: bool, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """End a release for good. Who was told stays told; everybody else needs another release, or a decision."""
    actor = authenticated(parts, token_file)
    now = parts.get(Clock).now()
    done = steering.cancel(parts.get(CaseStore), incident_id, actor, now, reason=reason, dry_run=dry_run)
    if as_json:
        print_json(_steered(done, dry_run=dry_run))
        return
    click.echo(f"{incident_id}: {'would be' if dry_run else 'is'} cancelled; this release never goes on")
    _say_standing(done.standing, now)
    if done.voided:
        click.echo(f"void besides, though nobody had approved it yet: {', '.join(done.voided)}")
    click.echo(f"who was told: tocsin incident people {incident_id} --list   (that you look is recorded)")
    if done.standing.without_end:
        click.echo(
            f"next: tocsin incident prepare {incident_id}   (another release for whoever is not told; the incident cannot be "
            "closed over them without --unnotified and a reason)"
        )


@click.command()
@click.argument("incident_id")
@dry_run_option
@reason_option
@token_option
@as_json_option
@click.pass_obj
def withdraw(
    parts: Parts, incident_id: str, dry_run: bool, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Take back a release that waits for approval, with the approvals that it has so far. What runs goes on."""
    actor = authenticated(parts, token_file)
    now = parts.get(Clock).now()
    done = steering.withdraw(parts.get(CaseStore), incident_id, actor, now, reason=reason, dry_run=dry_run)
    if as_json:
        print_json({"incident_id": incident_id, "dry_run": dry_run, "release_id": done.release.release_id,
                    "policy_sha256": done.release.policy_sha256, "approved_by": list(done.approved_by)})  # fmt: skip
        return
    click.echo(
        f"release {done.release.release_id} {'would be' if dry_run else 'is'} withdrawn; nobody can approve it any more"
    )
    if done.approved_by:
        click.echo(f"void with it: the approval of {', '.join(done.approved_by)}; another release needs new ones")
    click.echo(f"next: tocsin incident show {incident_id}")


def _steered(done: Steered, *, dry_run: bool) -> dict[str, Any]:
    return {
        "incident_id": done.incident_id,
        "dry_run": dry_run,
        "releases": [each.release_id for each in done.releases],
        "voided": list(done.voided),
        "canary_waived": done.canary_waived,
        **asdict(done.standing),
    }


def _say_standing(standing: Standing, now: datetime) -> None:
    by = ", ".join(f"{channel} {count:,}" for channel, count in standing.arrived.items())
    click.echo(f"told:            {standing.told:,} people" + (f" (messages that arrived: {by})" if by else ""))
    if standing.with_providers:
        click.echo(
            f"with providers:  {standing.with_providers:,} messages, which nobody can call back; receipts settle them"
        )
    if standing.ended_untold:
        click.echo(f"not reached:     {standing.ended_untold:,} people, unreachable or told in public")
    deadline = standing.earliest_deadline_at
    by_when = "" if deadline is None else f"; the earliest deadline among them is {instant(deadline, now)}"
    click.echo(f"without an end:  {standing.without_end:,} people{by_when}")


@click.command()
@click.argument("incident_id")
@click.option("--channel", "channels", multiple=True, metavar="CHANNEL", help="Only by this channel; repeatable.")
@dry_run_option
@reason_option
@token_option
@as_json_option
@click.pass_obj
def retry(
    parts: Parts,
    incident_id: str,
    channels: tuple[str, ...],
    dry_run: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Try again whom no channel reached, by the first channel that did not bounce hard."""
    actor = authenticated(parts, token_file)
    done = steering.retry(
        parts.get(CaseStore),
        incident_id,
        actor,
        parts.get(Clock).now(),
        channels=channels,
        reason=reason,
        dry_run=dry_run,
    )
    if as_json:
        print_json(_retried(done, dry_run=dry_run))
        return
    total = sum(done.by_channel.values())
    by = ", ".join(f"{channel} {count:,}" for channel, count in sorted(done.by_channel.items())) or "nobody"
    click.echo(f"{incident_id}: {total:,} people {'would be' if dry_run else 'are'} tried again ({by})")
    if done.maybe_told:
        click.echo(
            f"{done.maybe_told:,} of them may have the first message: no receipt came, and they may get it twice"
        )
    for why, count in sorted(done.left_out.items()):
        click.echo(f"not tried again: {count:,} ({why})")
    if done.release is not None and done.release.state == "paused":
        click.echo(
            f"the release is paused; they go when it is resumed: tocsin incident resume {incident_id} --reason TEXT"
        )


def _retried(done: Retried, *, dry_run: bool) -> dict[str, Any]:
    return {
        "incident_id": done.incident_id,
        "dry_run": dry_run,
        "release_id": None if done.release is None else done.release.release_id,
        "by_channel": dict(done.by_channel),
        "maybe_told": done.maybe_told,
        "left_out": dict(done.left_out),
    }


@click.command()
@click.argument("incident_id")
@click.option("--channel", metavar="CHANNEL", help="Whose rate; without it all rates are shown.")
@click.option("--per-second", type=float, help="At most so many messages of this incident a second.")
@click.option("--clear", is_flag=True, help="The lane's own rate again.")
@dry_run_option
@reason_option
@token_option
@as_json_option
@click.pass_obj
def rate(
    parts: Parts,
    incident_id: str,
    channel: str | None,
    per_second: float | None,
    clear: bool,
    dry_run: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Change how fast an incident goes by one channel, live; never above what the provider grants."""
    delivery = parts.get(Settings).delivery
    most = lane_rates(delivery.email_per_second, delivery.sms_per_second)
    actor = authenticated(parts, token_file)
    store = parts.get(CaseStore)
    if channel is None:
        if per_second is not None or clear:
            raise BadInput(f"--channel: whose rate? {', '.join(most)}")
        actor.acting_for(Act.VIEW_INCIDENT)
        _show_rates(steering.rates_of(store, incident_id), most, as_json=as_json)
        return
    if channel not in most:
        raise BadInput(f"--channel {channel}: {', '.join(most)} are metered")
    if (per_second is None) == (not clear):
        raise BadInput("say --per-second N, or --clear for the lane's own rate")
    before = steering.set_rate(
        store, incident_id, channel, per_second, actor, parts.get(Clock).now(),
        lane_most=most[Channel(channel)], reason=reason, dry_run=dry_run,
    )  # fmt: skip
    if as_json:
        print_json({"incident_id": incident_id, "dry_run": dry_run, "channel": channel, "per_second": per_second,
                    "before": before, "lane_most": most[Channel(channel)]})  # fmt: skip
        return
    shown = "the lane's own rate" if per_second is None else f"at most {per_second:g} a second"
    was = "the lane's own rate" if before is None else f"{before:g} a second"
    click.echo(f"{incident_id}, {channel}: {'would be ' if dry_run else ''}{shown}, was {was}")


def _show_rates(own: Mapping[str, float], most: Mapping[Channel, float], *, as_json: bool) -> None:
    if as_json:
        print_json({channel.value: {"lane_most": bound, "own": own.get(channel)} for channel, bound in most.items()})
        return
    for channel, bound in most.items():
        rate_now = own.get(channel)
        click.echo(f"{channel.value}: the lane at most {bound:g} a second"
                   + ("" if rate_now is None else f", this incident at most {rate_now:g}"))  # fmt: skip


SUBCOMMANDS: Mapping[str, Sequence[click.Command]] = {"incident": [pause, resume, cancel, withdraw, retry, rate]}
COMMANDS: list[click.Command] = []
"""None of its own: these are verbs of `tocsin incident`."""
