"""`tocsin notices segments` and `senders`: who gets which text, and who writes to them. Looks and changes nothing."""

from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput, Refused, TocsinError, nearest
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from bridge.runtime.settings import Settings
from consumers.adapters.sender_book import SenderBook
from consumers.adapters.ses_identities import SesIdentities
from consumers.case.dossier_commands import dossier
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.case.sheet import NoticeSamples, Sample, segments_of
from consumers.case.store import CaseStore
from consumers.case.workflow import found as incident_of
from consumers.domain.duties import LawInForce
from consumers.domain.segments import policy_schema


@click.command()
@click.argument("incident_id", required=False)
@click.option("--segment", "only", help="Only this one: its name, or the first digits of its id.")
@click.option("--medium", help="Samples of this medium only, like email or sms.")
@click.option("--no-samples", is_flag=True, help="Counts only.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of segments.yaml.")
@token_option
@as_json_option
@click.pass_obj
def segments(
    parts: Parts,
    incident_id: str | None,
    only: str | None,
    medium: str | None,
    no_samples: bool,
    schema: bool,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Show an incident's segments: how many people each, what they get by which channels, and a sample of it."""
    if schema:
        print_json(policy_schema())
        return
    if incident_id is None:
        raise BadInput("name an incident, or --schema for what segments.yaml may say")
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    name, samples = incident_id, parts.get(NoticeSamples)
    found, exercise = parts.get(CaseStore).look(
        lambda case: (segments_of(case, name), incident_of(case, name).exercise)
    )
    if only is not None:
        chosen = [each for each in found if each["name"] == only or each["segment_id"].startswith(only)]
        if not chosen:
            known = [each["name"] for each in found]
            raise BadInput(f"--segment {only}: {name} has no such segment{nearest(only, known)}")
        found = chosen
    for each in found:
        each["sample"] = None if no_samples else _sample(samples, each, medium, exercise=exercise)
    if as_json:
        print_json([{key: value for key, value in each.items() if key != "key"} for each in found])
        return
    if not found:
        click.echo(f"{name} has no segments: nobody is affected so far, or its plan is not complete yet")
        return
    rows = [
        {
            "segment": each["name"], "id": each["segment_id"][:8], "people": f"{each['people']:,}",
            "by record": f"{each['recorded']:,}", "possible": f"{each['possible']:,}", "held": f"{each['held']:,}",
            "channels": each["fallback"], "lane": f"{each['lane']} {each['priority']}",
            "text": (each["bundle_sha256"] or "NOT APPROVED")[:12],
        }
        for each in found
    ]  # fmt: skip
    print_table(rows, list(rows[0]))
    total = sum(each["people"] for each in found)
    click.echo(f"{total:,} people in {len(found)} segments, {sum(each['held'] for each in found):,} held")
    for each in found:
        for reason, count in each["why_held"].items():
            click.echo(f"held: {count:,} of {each['name']}: {reason}")
    for each in found:
        if each["sample"] is not None:
            _show(each)


def _sample(samples: NoticeSamples, segment: dict[str, Any], medium: str | None, *, exercise: bool) -> dict[str, Any]:
    try:
        made: Sample = samples.sample(segment["key"], exercise=exercise)
    except TocsinError as error:
        return {"why_none": str(error).splitlines()[0]}
    shown = {each.medium: each for each in made.media}
    if medium is not None and medium not in shown:
        raise BadInput(f"--medium {medium}: there is none{nearest(medium, shown)}; there are {', '.join(shown)}")
    return {
        name: {"title": each.title, "text": each.text, "remark": each.remark}
        for name, each in shown.items()
        if medium in (None, name)
    }


def _show(segment: dict[str, Any]) -> None:
    click.echo(f"\n=== {segment['name']} ({segment['people']:,} people) ===")
    sample = segment["sample"]
    if "why_none" in sample:
        click.echo(f"no sample: {sample['why_none']}")
        return
    for name, each in sample.items():
        remark = f" ({each['remark']})" if each["remark"] else ""
        click.echo(f"--- {name.replace('_', ' ')}{remark} ---")
        if each["title"]:
            click.echo(f"{each['title']}\n")
        click.echo(each["text"])


@click.command()
@click.option("--check", "ask", is_flag=True, help="Ask the mail provider whether it may send from each address.")
@as_json_option
@click.pass_obj
def senders(parts: Parts, ask: bool, as_json: bool) -> None:
    """Show who writes to the people of each website and store view, as senders.yaml says."""
    book, law = parts.get(SenderBook), parts.get(LawInForce)()
    websites = sorted(
        {website for entry in law.controllers.by_key.values() for website in getattr(entry, "websites", ())}
    )
    entries = book.senders().entries
    pairs = sorted(
        {
            (website, store)
            for entry in entries
            for website in (entry.websites or websites or [1])
            for store in (entry.stores or [0])
        }
        | {(website, 0) for website in websites}
    )
    rows, faults = [], 0
    for website, store in pairs:
        sender = book(website, store)
        row: dict[str, Any] = {"website": website, "store view": store or "all others"}
        if sender is None:
            faults += 1
            row |= {"sender": "NONE: their people are held"}
        else:
            row |= {
                "sender": sender.name, "from": sender.from_address, "answers to": sender.reply_to or None,
                "address": sender.address or None, "telephone": sender.telephone or None, "officer": sender.dpo or None,
            }  # fmt: skip
            if ask:
                objection = parts.get(SesIdentities).objection(sender.from_address)
                faults += objection is not None
                row["provider"] = objection or "verified"
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        columns = ["website", "store view", "sender", "from", "answers to", "address", "telephone", "officer"]
        print_table(rows, [*columns, "provider"] if ask else columns)
    if faults:
        raise Refused(
            f"{faults} of {len(rows)} cannot be written from; correct {parts.get(Settings).paths.templates / 'senders.yaml'} "
            "or verify the identity with the provider"
        )


SUBCOMMANDS: dict[str, list[click.Command]] = {"notices": [segments, senders, dossier]}
COMMANDS: list[click.Command] = []
"""None of its own: they stand under `tocsin notices`."""
