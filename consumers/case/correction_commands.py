"""`tocsin incident correct`: start the correction of what people were told wrongly."""

from pathlib import Path

import click

from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json
from consumers.case.correcting import CorrectionTexts, start_correction
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.store import CaseStore


@click.command()
@click.argument("incident_id")
@click.option("--dry-run", is_flag=True, help="Count and change nothing.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def correct(
    parts: Parts, incident_id: str, dry_run: bool, reason: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Give everybody who was told what is not true of them a correction; two people approve it like any release."""
    actor = authenticated(parts, token_file)
    done = start_correction(
        parts.get(CaseStore), incident_id, actor, parts.get(Clock).now(), parts.get(CorrectionTexts), dry_run=dry_run,
        reason=reason,
    )  # fmt: skip
    if as_json:
        print_json({"not_concerned": done.not_concerned, "told_too_much": done.told_too_much, "held": done.held,
                    "segments": done.segment_count, "recorded": not dry_run})  # fmt: skip
        return
    verb = "would get" if dry_run else "wait for"
    click.echo(f"{done.not_concerned + done.told_too_much:,} people {verb} a correction in {done.segment_count} segments: "
               f"{done.not_concerned:,} whom it is not about, {done.told_too_much:,} who were told too much")  # fmt: skip
    for why, count in sorted(done.held.items()):
        click.echo(f"held: {count:,}: {why}")
    if not dry_run:
        click.echo(f"next: tocsin incident prepare {incident_id}")


COMMANDS: list[click.Command] = []
"""None of its own: `consumers.case.commands` puts `correct` under `tocsin incident`."""
