"""`tocsin incident sheet`: the page that approvers read, and the hash by which they approve it."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Protocol

import click

from bridge.contracts.errors import TocsinError, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import in_words, print_json
from bridge.runtime.settings import Settings
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.case.releasing import SeenSheet
from consumers.case.sheet import (
    Artefacts,
    Means,
    NoticeSamples,
    Sheet,
    make_sheet,
    refuse_if_other,
    seen_content,
    sheet_content,
)
from consumers.case.store import CaseStore, CaseWork, IncidentRecord, ReleaseRecord
from consumers.domain.duties import LawInForce


class SheetPage(Protocol):
    """Draws a sheet as one page of HTML."""

    def __call__(self, sheet: Sheet, /) -> str: ...


class MailSenders(Protocol):
    """The addresses that notices come from."""

    def objections(self) -> Mapping[str, str]:
        """Return why no mail may come from an address, by address. Raises Unreachable if the provider is silent."""
        ...


def means(parts: Parts) -> Means:
    """Return what delivery can do and costs, as the settings and the provider say. A silent provider objects to nothing:
    that it was not asked is said aloud, and its silence changes no sheet.
    """
    settings = parts.get(Settings)
    delivery = settings.delivery
    try:
        may_not_send = parts.get(MailSenders).objections()
    except TocsinError as error:
        click.echo(f"note: whether mail may come from our addresses was not asked: {error}", err=True)
        may_not_send = {}
    return Means(
        from_address=delivery.from_address,
        may_not_send=may_not_send,
        delivery_mode=delivery.mode,
        provider_region=delivery.aws_region,
        storage_region=settings.case_store.region,
        email_per_second=delivery.email_per_second,
        sms_per_second=delivery.sms_per_second,
        email_price_per_thousand=delivery.email_price_per_thousand,
        sms_price_per_part=delivery.sms_price_per_part,
        currency=delivery.price_currency,
    )


def seen_sheet(parts: Parts, sha256: str) -> SeenSheet:
    """Return the sheet that an approver names by its hash, as `releasing.approve` takes it. Raises BadInput."""
    seen = seen_content(parts.get(Artefacts), sha256)
    law, samples, how = parts.get(LawInForce)(), parts.get(NoticeSamples), means(parts)
    now = parts.get(Clock).now()

    def check(case: CaseWork, incident: IncidentRecord, release: ReleaseRecord) -> None:
        refuse_if_other(
            seen, sheet_content(case, incident, release, law, samples, how, now), incident.incident_id
        )  # fmt: skip

    return SeenSheet(sha256, str(seen["release"]["policy_sha256"]), check)


@click.command()
@click.argument("name", metavar="INCIDENT_OR_RELEASE")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the page here.")
@token_option
@as_json_option
@click.pass_obj
def sheet(parts: Parts, name: str, output: Path | None, token_file: Path | None, as_json: bool) -> None:
    """Write the one page that approvers read: whom, what, by which channel, what is held and why. Approve by its hash."""
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    made = make_sheet(
        parts.get(CaseStore), name, parts.get(LawInForce)(), parts.get(NoticeSamples), means(parts),
        parts.get(Artefacts), parts.get(Clock).now(),
    )  # fmt: skip
    if output is not None:
        page = parts.get(SheetPage)(made)
        try:
            output.write_text(page, encoding="utf-8")
        except OSError as error:
            raise Unreachable(f"{output} cannot be written: {error.strerror}") from None
    if as_json:
        print_json(
            {"sheet_sha256": made.sha256, "page": None if output is None else str(output), "content": made.content}
        )
        return
    for line in sheet_lines(made):
        click.echo(line)
    if output is not None:
        click.echo(f"page: {output}")
    click.echo(f"sheet {made.sha256}")
    incident_id = made.content["incident"]["incident_id"]
    click.echo(f"next: tocsin incident approve {incident_id} --sheet {made.sha256} --reason TEXT")


def sheet_lines(made: Sheet) -> list[str]:
    """Return what stands on the sheet, in a few lines for a terminal."""
    people, channels = made.content["people"], made.content["channels"]
    first = ", ".join(f"{count:,} by {name.replace('_', ' ')}" for name, count in channels["first"].items() if count)
    lines = [
        f"{people['people']:,} people ({people['recorded']:,} by record, {people['possible']:,} possible) from "
        f"{people['partitions_answered']} of {people['partition_count'] or '?'} partitions, in "
        f"{len(made.content['jurisdictions'])} jurisdictions and {len(made.content['segments'])} segments; "
        f"{people['held']:,} held",
        f"first: {first or 'nobody'}; {channels['without']:,} without any channel",
        in_one_sentence(made),
    ]
    lines += [f"{each['level']}: {each['about']}: {each['says']}" for each in made.content["preflight"]]
    lines += [
        f"{each.person} approved as {each.role} on another sheet; since then {'; '.join(each.since)}"
        for each in made.approvals
        if each.since
    ]
    return lines


def in_one_sentence(made: Sheet) -> str:
    """Return whether sending ends in time, if it began now."""
    ends_at = made.made_at + made.sending
    took = in_words(ends_at, made.made_at).removeprefix("in ")
    deadline = made.content["earliest_deadline_at"]
    if deadline is None:
        return f"sending takes about {took}; nobody who is not held has a deadline"
    at = datetime.fromisoformat(deadline)
    order = "after" if ends_at > at else "before"
    apart = in_words(max(at, ends_at), min(at, ends_at)).removeprefix("in ")
    return f"sending takes about {took}; begun now it ends {apart} {order} the earliest deadline"


COMMANDS: list[click.Command] = []
"""None of its own: `consumers.case.commands` puts `sheet` under `tocsin incident`."""
