"""`tocsin delivery publication`: the public notice of an incident: its text, where it stands, and whom it stands in for."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json, print_table
from consumers.case.events import written
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, instant_of, reason_option, token_option
from consumers.case.publishing import (
    PublicTexts,
    Seen,
    public_text,
    publications,
    record_publication,
    withdraw_publication,
)
from consumers.case.records import PublicationRecord
from consumers.case.store import CaseStore
from consumers.domain.duties import LawInForce

_MEDIA = {"website": "website_posting", "press": "state_media"}
_controller_option = click.option("--controller", help="Whose notice, where an incident concerns several.")
_locale_option = click.option("--locale", help="In which language; the default is that of most people.")


@click.group()
def publication() -> None:
    """Public notices: for people whom no channel reaches, where their law lets them be told so."""


@publication.command()
@click.argument("incident_id")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write."
)
@click.option("--on", "day", help="Day of publication, as 2026-11-30; the default is today.")
@_controller_option
@_locale_option
@token_option
@click.pass_obj
def texts(
    parts: Parts,
    incident_id: str,
    output: Path,
    day: str | None,
    controller: str | None,
    locale: str | None,
    token_file: Path | None,
) -> None:
    """Write the approved web notice and press text of INCIDENT_ID, ready to be put up."""
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    try:
        on = parts.get(Clock).now().astimezone(UTC).date() if day is None else datetime.fromisoformat(day).date()
    except ValueError:
        raise BadInput(f"--on {day}: no day; write 2026-11-30") from None
    whose, text = public_text(
        parts.get(CaseStore), incident_id, parts.get(PublicTexts), on, controller=controller, locale=locale
    )
    output.mkdir(parents=True, exist_ok=True)
    for name, content in (("web.html", text.web_html), ("web.txt", text.web), ("press.txt", text.press)):
        (output / name).write_bytes(content.encode())
        click.echo(f"wrote {output / name}")
    click.echo(f"in the name of {whose}, {text.locale}, text {text.bundle_sha256[:12]}. Once it stands:\n"
               f"next: tocsin delivery publication record {incident_id} --medium website --url URL --file SAVED_PAGE "
               "--from INSTANT --until INSTANT --covers CODE --reason TEXT")  # fmt: skip


@publication.command()
@click.argument("incident_id")
@click.option("--medium", type=click.Choice(list(_MEDIA)), required=True)
@click.option("--url", required=True, help="Where it stands.")
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The page as saved, or the clipping."
)
@click.option("--from", "starts", required=True, help="Since when it stands, with its time zone.")
@click.option("--until", "ends", required=True, help="Until when it will stand, with its time zone.")
@click.option("--covers", multiple=True, required=True, help="Jurisdiction whose people it is for (DE, US-CA, EU, *).")
@_controller_option
@_locale_option
@reason_option
@token_option
@as_json_option
@click.pass_obj
def record(
    parts: Parts,
    incident_id: str,
    medium: str,
    url: str,
    file: Path,
    starts: str,
    ends: str,
    covers: tuple[str, ...],
    controller: str | None,
    locale: str | None,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Put on record that the approved text stands in public: you saw it there, and FILE shows it."""
    actor = authenticated(parts, token_file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadInput(f"--file {file}: cannot be read ({type(error).__name__})") from None
    seen = Seen(_MEDIA[medium], url, content, instant_of(starts), instant_of(ends), covers, controller, locale)
    made = record_publication(
        parts.get(CaseStore), incident_id, actor, parts.get(Clock).now(), parts.get(PublicTexts),
        parts.get(LawInForce)(), seen, reason=reason,
    )  # fmt: skip
    if as_json:
        print_json(_as_json(made))
        return
    click.echo(
        f"publication {made.publication_id} stands on record, from {written(made.starts_at)} to {written(made.ends_at)}"
    )
    if not made.as_written:
        click.echo("the file is not the approved text byte for byte: you vouch that it says the same")
    alone = sorted(regime for regime, media in made.needs.items() if len(media) == 1)
    beside = sorted(regime for regime, media in made.needs.items() if len(media) > 1)
    click.echo(f"it is the substitute notice of {len(alone)} regimes by itself, and of {len(beside)} with another medium; "
               "nobody else counts as told by it")  # fmt: skip
    click.echo(f"next: tocsin delivery status {incident_id}")


@publication.command()
@click.argument("incident_id")
@click.argument("publication_id")
@reason_option
@token_option
@click.pass_obj
def withdraw(parts: Parts, incident_id: str, publication_id: str, reason: str | None, token_file: Path | None) -> None:
    """Put on record that a publication did not stand as recorded; whoever counted as told by it no longer does."""
    made = withdraw_publication(
        parts.get(CaseStore), incident_id, publication_id, authenticated(parts, token_file), parts.get(Clock).now(),
        reason=reason,
    )  # fmt: skip
    click.echo(f"publication {made.publication_id} is withdrawn: it stands in for nobody")


@publication.command("list")
@click.argument("incident_id")
@token_option
@as_json_option
@click.pass_obj
def list_(parts: Parts, incident_id: str, token_file: Path | None, as_json: bool) -> None:
    """Show what stands in public about INCIDENT_ID, where and until when."""
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    known = publications(parts.get(CaseStore), incident_id)
    if as_json:
        print_json([_as_json(each) for each in known])
        return
    if not known:
        click.echo(f"nothing stands in public about {incident_id}; `tocsin delivery publication texts {incident_id} -o DIR` "
                   "writes the approved text")  # fmt: skip
        return
    now = parts.get(Clock).now()
    print_table(
        [
            {
                "id": each.publication_id[:8], "controller": each.controller, "medium": each.medium.replace("_", " "),
                "for": ", ".join(each.covers), "from": written(each.starts_at), "until": written(each.ends_at),
                "state": _state(each, now), "by": each.recorded_by, "where": each.url,
            }
            for each in known
        ],
        ["id", "controller", "medium", "for", "from", "until", "state", "by", "where"],
    )  # fmt: skip


def _state(record: PublicationRecord, now: datetime) -> str:
    if record.withdrawn_at is not None:
        return "withdrawn"
    return "to come" if now < record.starts_at else "stands" if now < record.ends_at else "ended"


def _as_json(record: PublicationRecord) -> dict[str, Any]:
    return {
        "publication_id": record.publication_id, "incident_id": record.incident_id, "controller": record.controller,
        "medium": record.medium, "covers": list(record.covers), "substitute_under": dict(record.needs), "url": record.url,
        "file_sha256": record.file_sha256, "text_sha256": record.text_sha256, "as_written": record.as_written,
        "bundle_sha256": record.bundle_sha256, "locale": record.locale, "starts_at": written(record.starts_at),
        "ends_at": written(record.ends_at), "recorded_by": record.recorded_by, "recorded_role": record.recorded_role,
        "recorded_at": written(record.recorded_at),
        "withdrawn_at": None if record.withdrawn_at is None else written(record.withdrawn_at),
    }  # fmt: skip


SUBCOMMANDS: dict[str, list[click.Command]] = {"delivery": [publication]}
COMMANDS: list[click.Command] = []
"""None of its own: it stands under `tocsin delivery`."""
