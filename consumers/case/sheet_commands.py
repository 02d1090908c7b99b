"""`tocsin incident sheet`: the page that approvers read, and the hash by which they approve it."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Protocol

import click

from bridge.contracts.errors import TocsinError, Unreachable
from bridge.contracts.events import Channel
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import in_words, print_json
from bridge.runtime.settings import Settings
from consumers.case.channel_preflight import ProviderStanding, Sending, in_hours
from consumers.case.overriding import PREPARED, RELEASED, Look, record_preflight, refuse_blocked
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.case.records import IncidentRecord, ReleaseRecord
from consumers.case.releasing import Recorder, SeenSheet
from consumers.case.sheet import (
    Artefacts,
    Means,
    NoticeSamples,
    Preflight,
    Sheet,
    make_sheet,
    preflight_of,
    refuse_if_other,
    seen_content,
    sheet_content,
)
from consumers.case.store import CaseStore, CaseWork
from consumers.domain.duties import LawInForce
from consumers.domain.metering import letters_per_second
from consumers.domain.third_parties import ThirdParty


class SheetPage(Protocol):
    """Draws a sheet as one page of HTML."""

    def __call__(self, sheet: Sheet, /) -> str: ...


class MailSenders(Protocol):
    """The addresses that notices come from."""

    def objections(self) -> Mapping[str, str]:
        """Return why no mail may come from an address, by address. Raises Unreachable if the provider is silent."""
        ...


class Providers(Protocol):
    """What providers say of themselves and what the settings say of them."""

    def standing(self) -> ProviderStanding:
        """Return it as of now; what a silent provider would have said is missing."""
        ...


def means(parts: Parts, *, aloud: bool = True) -> Means:
    """Return what delivery can do and costs, as the settings and the provider say. A silent provider objects to nothing:
    that it was not asked is said (`aloud`), and its silence changes no sheet.
    """
    settings = parts.get(Settings)
    delivery = settings.delivery
    try:
        may_not_send = parts.get(MailSenders).objections()
    except TocsinError as error:
        if aloud:
            click.echo(f"note: whether mail may come from our addresses was not asked: {error}", err=True)
        may_not_send = {}
    standing = parts.get(Providers).standing()
    for each in standing.not_asked if aloud else ():
        click.echo(f"note: what a provider's account allows was not asked: {each}", err=True)
    return Means(
        standing=standing,
        from_address=delivery.from_address,
        may_not_send=may_not_send,
        delivery_mode=delivery.mode,
        provider_region=delivery.aws_region,
        storage_region=settings.case_store.region,
        email_per_second=delivery.email_per_second,
        sms_per_second=delivery.sms_per_second,
        letters_per_second=letters_per_second(delivery.letter_batch, delivery.letter_batch_seconds),
        email_price_per_thousand=delivery.email_price_per_thousand,
        sms_price_per_part=delivery.sms_price_per_part,
        currency=delivery.price_currency,
        third_parties=[
            ThirdParty(name, each.topic_arn, each.role, frozenset(each.models))
            for name, each in sorted(delivery.third_parties.items())
        ],
    )


def seen_sheet(parts: Parts, sha256: str, name: str) -> SeenSheet:
    """Return the sheet that an approver names by its hash, as `releasing.approve` takes it. Raises BadInput."""
    seen = seen_content(parts.get(Artefacts), sha256, name)
    how, now = means(parts), parts.get(Clock).now()
    look = look_now(parts, how, now)

    def check(case: CaseWork, incident: IncidentRecord, release: ReleaseRecord) -> Recorder:
        found_now = look(case, incident)
        refuse_if_other(seen, sheet_content(case, incident, release, found_now, how), incident.incident_id)
        refuse_blocked(case, incident, release, found_now)
        return partial(record_preflight, case, incident, release, found_now, RELEASED, now)

    return SeenSheet(sha256, str(seen["release"]["policy_sha256"]), check)


def look_now(parts: Parts, how: Means, now: datetime) -> Look:
    """Return what looks at an incident as a release would meet it."""
    law, samples = parts.get(LawInForce)(), parts.get(NoticeSamples)

    def look(case: CaseWork, incident: IncidentRecord) -> Preflight:
        return preflight_of(case, incident, law, samples, how, now)

    return look


def unseen_policy(parts: Parts) -> Callable[[CaseWork, IncidentRecord, ReleaseRecord], Recorder]:
    """Return the pre-flight of an approval without a sheet. It raises Refused if something blocks the release."""
    now = parts.get(Clock).now()
    look = look_now(parts, means(parts), now)

    def check(case: CaseWork, incident: IncidentRecord, release: ReleaseRecord) -> Recorder:
        found_now = look(case, incident)
        refuse_blocked(case, incident, release, found_now)
        return partial(record_preflight, case, incident, release, found_now, RELEASED, now)

    return check


def preparing(parts: Parts) -> Callable[[CaseWork, IncidentRecord, ReleaseRecord], None]:
    """Return what records, as a release is prepared, what pre-flight finds then."""
    now = parts.get(Clock).now()
    look = look_now(parts, means(parts, aloud=False), now)
    return lambda case, incident, release: record_preflight(
        case, incident, release, look(case, incident), PREPARED, now
    )


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
    taken = {each["code"] for each in made.content["overrides"]}
    lines += [
        f"{each.level}: {each.about}: {each.says}"
        + (f" ({each.live})" if each.live else "")
        + (f" [{each.code}: {'taken on' if each.code in taken else 'blocks the release'}]" if each.blocks else "")
        for each in made.findings
    ]
    lines += [
        f"{each.person} approved as {each.role} on another sheet; since then {'; '.join(each.since)}"
        for each in made.approvals
        if each.since
    ]
    return lines


def in_one_sentence(made: Sheet) -> str:
    """Return whether sending ends in time, if it began now."""
    deadline = made.content["earliest_deadline_at"]
    return sentence_of(made.sending, None if deadline is None else datetime.fromisoformat(deadline), made.made_at)


def sentence_of(sending: Sending, earliest: datetime | None, now: datetime) -> str:
    """Return the same for what was looked at; `earliest` is the first deadline of anybody who is told."""
    ends_at = now + sending.takes
    took = in_words(ends_at, now).removeprefix("in ")
    if earliest is None:
        return f"sending takes about {took}; nobody who is not held has a deadline"
    if sending.late > timedelta(0):
        texts = sending.channel is Channel.SMS
        raised = "have the rate of SMS raised" if texts else "raise the quota or add the second provider"
        if sending.own:
            raised = "raise this incident's own rate"
        return (
            f"at {sending.per_second:g} a second sending takes about {took}; begun now it ends {in_hours(sending.late)} after "
            f"the deadline; {raised}"
        )
    order = "after" if ends_at > earliest else "before"
    apart = in_words(max(earliest, ends_at), min(earliest, ends_at)).removeprefix("in ")
    behind = ", and nobody's that can still be met is missed" if ends_at > earliest > now else ""
    return f"sending takes about {took}; begun now it ends {apart} {order} the earliest deadline{behind}"


COMMANDS: list[click.Command] = []
"""None of its own: `consumers.case.commands` puts `sheet` under `tocsin incident`."""
