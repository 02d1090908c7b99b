"""`tocsin incident people` and `incident confirm-everybody`: who came late, who waits, and that everybody is meant."""

from dataclasses import asdict
from pathlib import Path

import click

from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.records import PersonRecord
from consumers.case.standing import confirm_everybody, late_lines, late_people, list_people
from consumers.case.store import CaseStore


@click.command("people")
@click.argument("incident_id")
@click.option("--list", "listed", is_flag=True, help="Print people one by one; that you looked is recorded.")
@click.option("--late", "kind", flag_value="late", help="Only those who came late.")
@click.option("--supplements", "kind", flag_value="supplements", help="Only second notices of more that was found.")
@click.option("--told-wrongly", "kind", flag_value="told_wrongly", help="Only those who are owed a correction.")
@click.option("--waiting", "kind", flag_value="waiting", help="Only those whom nobody has begun to tell.")
@token_option
@as_json_option
@click.pass_obj
def people(
    parts: Parts, incident_id: str, listed: bool, kind: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Say how many people came late, are owed a supplement or a correction; with --list who they are, by root."""
    actor = authenticated(parts, token_file)
    store, now = parts.get(CaseStore), parts.get(Clock).now()
    if not listed:
        actor.acting_for(Act.VIEW_INCIDENT)
        late = late_people(store, incident_id)
        if as_json:
            print_json(asdict(late))
            return
        for line in late_lines(late, None) or ["nobody came late, and nobody is owed a supplement or a correction"]:
            click.echo(line)
        click.echo(f"one by one (recorded): tocsin incident people {incident_id} --list")
        return
    found = list_people(store, incident_id, kind, actor, now)
    if as_json:
        print_json([asdict(each) for each in found])
        return
    print_table(
        [
            {
                "root": each.root,
                "round": each.round,
                "standing": each.standing,
                "sensitivity": each.highest_sensitivity,
                "told of": ", ".join(each.disclosures) or "a value without a record",
                "came": "in time" if each.added_at is None else instant(each.added_at, now),
                "by": "-" if each.deadline_at is None else instant(each.deadline_at, now),
                "state": _state(each),
            }
            for each in found
        ],
        ("root", "round", "standing", "sensitivity", "told of", "came", "by", "state"),
    )
    click.echo(f"{len(found):,} {'notices' if kind == 'supplements' else 'rows'}, a person may have several rounds")


def _state(person: PersonRecord) -> str:
    if person.correction is not None:
        return f"told wrongly: {person.correction.replace('_', ' ')}"
    if person.told_in is not None:
        return f"told the same in {person.told_in.partition(':')[0]}"
    if person.final_state is not None:
        return person.final_state
    if person.held_reason is not None:
        return f"held: {person.held_reason}"
    if person.begun:
        return "being told"
    return "waits" if person.concerned else "not concerned any more, not told"


@click.command("confirm-everybody")
@click.argument("incident_id")
@reason_option
@token_option
@click.pass_obj
def confirm(parts: Parts, incident_id: str, reason: str | None, token_file: Path | None) -> None:
    """Confirm that a scope which matches everybody, or nearly, is meant so; nothing is approved before."""
    actor = authenticated(parts, token_file)
    done = confirm_everybody(parts.get(CaseStore), incident_id, actor, parts.get(Clock).now(), reason)
    known = "" if done.people_count is None else f" of {done.people_count:,} known"
    click.echo(
        f"{incident_id}: {done.confirmed_by} confirms that {done.affected_count:,} accounts and orders{known} are meant"
    )
    click.echo(f"next: tocsin incident prepare {incident_id}")


COMMANDS: list[click.Command] = []
SUBCOMMANDS = {"incident": [people, confirm]}
