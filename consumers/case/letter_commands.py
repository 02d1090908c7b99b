"""`tocsin delivery letters`: what lies ready for the printer, what went to the post, and what came back."""

from pathlib import Path

import click

from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from consumers.case.permissions import Act
from consumers.case.posting import LetterPost, record_posted, record_returned
from consumers.case.prompts import as_json_option, authenticated, instant_of, reason_option, token_option
from consumers.case.store import CaseStore


@click.group()
def letters() -> None:
    """Letters for the printer and the post."""


@letters.command("list")
@click.argument("incident_id")
@token_option
@as_json_option
@click.pass_obj
def list_(parts: Parts, incident_id: str, token_file: Path | None, as_json: bool) -> None:
    """Show the letter batches of INCIDENT_ID: where they lie and what became of their letters."""
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    batches = parts.get(LetterPost).batches(incident_id)
    rows = [
        {"batch": each.name, "letters": len(each.letters), "states": each.states, "folder": str(each.folder),
         "there": each.folder.is_dir(), "manifest_sha256": each.sha256, "ready": each.ready_count,
         "kept_back": {str(number): why for number, why in each.kept_back.items()}}
        for each in batches
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"no letters were written for {incident_id}")
        return
    table = []
    for row in rows:
        states = row["states"]
        assert isinstance(states, dict)
        said = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in states.items())
        folder = row["folder"] if row["there"] else f"{row['folder']} (gone)"
        table.append({"batch": row["batch"], "letters": row["letters"], "state": said, "folder": folder})
    print_table(table, list(table[0]))
    for each in batches:
        if each.kept_back:
            click.echo(f"not to be posted now, of {each.name}: {each.kept_back_in_words}")
    if waiting := next((each for each in batches if each.ready_count), None):
        out = "".join(f"--without {number} " for number in waiting.kept_back)
        first = "take those out, " if out else ""
        click.echo(f"next: print {waiting.name}, {first}hand it to the post, then `tocsin delivery letters posted {incident_id} "
                   f"{waiting.name} {out}--reason TEXT`")  # fmt: skip


@letters.command()
@click.argument("incident_id")
@click.argument("batch")
@click.option("--at", help="When they were handed over, with its time zone; the default is now.")
@click.option("--without", multiple=True, type=int, help="The number of a letter that you took out; it waits.")
@click.option("--all-went", is_flag=True, help="Also those that are kept back are with the post already.")
@reason_option
@token_option
@click.pass_obj
def posted(
    parts: Parts,
    incident_id: str,
    batch: str,
    at: str | None,
    without: tuple[int, ...],
    all_went: bool,
    reason: str | None,
    token_file: Path | None,
) -> None:
    """Put on record that you handed BATCH to the post; its people count as reached from then on."""
    actor, now = authenticated(parts, token_file), parts.get(Clock).now()
    handed, count = record_posted(
        parts.get(CaseStore), parts.get(LetterPost), incident_id, batch, actor, now,
        now if at is None else instant_of(at), without=without, all_went=all_went, reason=reason,
    )  # fmt: skip
    known = "" if count == len(handed.letters) - len(set(without)) else "newly "
    click.echo(
        f"{count:,} of {len(handed.letters):,} letters of {handed.name} are {known}on record as handed to the post"
    )
    if without:
        click.echo(
            f"{len(set(without)):,} were taken out; once they may go, post them and write the same command again"
        )
    if known:
        click.echo("the others were before, or their people are not in the ledger any more")
    click.echo(f"{handed.folder} holds names and addresses: remove it once nothing has to be printed again")


@letters.command()
@click.argument("incident_id")
@click.argument("batch")
@click.argument("numbers", nargs=-1, type=int, required=True)
@reason_option
@token_option
@click.pass_obj
def returned(
    parts: Parts, incident_id: str, batch: str, numbers: tuple[int, ...], reason: str | None, token_file: Path | None
) -> None:
    """Put on record that letters NUMBERS of BATCH came back: their people are told by the next channel, or reported."""
    actor, now = authenticated(parts, token_file), parts.get(Clock).now()
    handed, count = record_returned(
        parts.get(CaseStore), parts.get(LetterPost), incident_id, batch, numbers, actor, now, reason=reason
    )
    known = "" if count == len(set(numbers)) else "newly "
    click.echo(f"{count:,} letters of {handed.name} are {known}on record as returned")
    if known:
        click.echo("the others were before, or their people are not in the ledger any more")


SUBCOMMANDS: dict[str, list[click.Command]] = {"delivery": [letters]}
COMMANDS: list[click.Command] = []
"""None of its own: it stands under `tocsin delivery`."""
