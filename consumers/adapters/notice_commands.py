"""`tocsin notices`: counsel checks, looks at, approves and revokes what notices say, without seeing code.

Approving and revoking ask who (a token) and look the act up in the permission table.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path

import click

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import Contact
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from bridge.runtime.settings import Settings
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store.bundles import NoticeBundles
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.notice_renderer import check as check_bundle
from consumers.adapters.notice_renderer import compose, compose_public, fill, reading_levels, sample_key, slots_for
from consumers.adapters.template_catalog import ApprovedBundles, ApprovedRow, bundle_names, read_bundle
from consumers.case.acting import needed
from consumers.case.permissions import Act
from consumers.case.prompts import authenticated
from consumers.domain.notices import Sender, outside_gsm7, sms_parts
from consumers.domain.segments import GENERAL, STANDINGS, check_codes

_token_file = click.option(
    "--token-file", type=click.Path(path_type=Path, dir_okay=False), help="File with your token."
)
_MEDIA = ("email", "sms", "account", "letter", "web", "press")


def _templates(parts: Parts) -> Path:
    return parts.get(Settings).paths.templates


@click.group()
def notices() -> None:
    """What affected people are told: check, preview, approve, revoke."""


@notices.command()
@click.argument("names", nargs=-1, metavar="[NAME ...]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def check(parts: Parts, names: Sequence[str], as_json: bool) -> None:
    """Compose every notice in every language, for every group and disclosure; say what is wrong and where."""
    templates = _templates(parts)
    found = {name: check_bundle(read_bundle(templates, name)) for name in names or bundle_names(templates)}
    known = bundle_names(templates)
    for name in found:
        if not found[name]:
            rules = read_bundle(templates, name).policy.rules
            found[name].extend(
                f"segments.yaml: rule {rule.name} names the notice {rule.bundle!r}, which does not exist"
                for rule in rules
                if rule.bundle not in known
            )
    if as_json:
        print_json(found)
    else:
        for name, problems in found.items():
            bundle = read_bundle(templates, name)
            for problem in problems:
                click.echo(problem)
            if not problems:
                click.echo(f"{name}: complete in {', '.join(bundle.locales)}; bundle {bundle.sha256[:12]}")
                for level in reading_levels(bundle):
                    click.echo(f"  {level}")
    if any(found.values()):
        raise Refused(f"{sum(map(len, found.values()))} problems; nothing with a problem can be approved")


@notices.command()
@click.argument("name")
@click.option("--locale", default="en", show_default=True, help="As the reader's store view has it, like de_AT.")
@click.option("--medium", type=click.Choice(_MEDIA), help="Only this one.")
@click.option("--group", default=GENERAL, show_default=True, help="A group of own_texts in segments.yaml.")
@click.option("--standing", type=click.Choice(STANDINGS), default=STANDINGS[0], show_default=True)
@click.option(
    "--disclosure", "disclosures", multiple=True, metavar="KIND|MODEL|CATEGORY", help="Default: all there are."
)
@click.option("--scenario", default="", help="A leak scenario, like inference_log_exposed.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the e-mail as a page; with --medium web the web notice.",
)
@click.option(
    "--pdf", "pdf_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the letter as it is printed."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def preview(
    parts: Parts,
    name: str,
    locale: str,
    medium: str | None,
    group: str,
    standing: str,
    disclosures: tuple[str, ...],
    scenario: str,
    html_file: Path | None,
    pdf_file: Path | None,
    as_json: bool,
) -> None:
    """Show a notice as its readers will see it, with a stand-in for the shop and nobody's name."""
    bundle = read_bundle(_templates(parts), name)
    if problems := bundle.problems():
        raise BadInput("\n".join(problems))
    if group != GENERAL and group not in bundle.policy.own_texts:
        raise BadInput(f"no group is named {group!r}; there are {', '.join((GENERAL, *bundle.policy.own_texts))}")
    changes = {"disclosures": disclosures} if disclosures else {}
    key = sample_key(bundle, locale, group=group, standing=standing, scenario=scenario, **changes)
    notice, today = compose(bundle, key), parts.get(Clock).now().date()
    public = compose_public(bundle, key, today)
    slots = slots_for(Contact(), key.incident_id, today, notice.language)
    count, alphabet = sms_parts(notice.sms)
    media: dict[str, dict[str, str | int]] = {
        "email": {"subject": fill(notice.subject, slots), "text": fill(notice.text, slots)},
        "sms": {"text": notice.sms, "parts": count, "alphabet": alphabet},
        "account": {"title": notice.account_title, "body": notice.account_body},
        "letter": {"text": fill(notice.letter, slots)},
        "web": {"text": public.web},
        "press": {"text": public.press},
    }
    shown = {each: media[each] for each in _MEDIA if medium in (None, each)}
    if as_json:
        print_json({"notice": name, "locale": notice.language.locale, "bundle_sha256": bundle.sha256, **shown})
    else:
        forcing = f", because of {outside_gsm7(notice.sms)}" if alphabet == "ucs2" else ""
        for each, said in shown.items():
            heading = {
                "email": f"e-mail, {notice.language.locale}", "sms": f"SMS, {count} parts, {alphabet}{forcing}",
                "account": "account page", "letter": "letter", "web": "web notice", "press": "press text",
            }[each]  # fmt: skip
            above = {"email": f"Subject: {said.get('subject')}\n\n", "account": f"{said.get('title')}\n\n"}.get(
                each, ""
            )
            click.echo(f"--- {heading} ---\n{above}{said.get('body') or said.get('text')}\n")
    if html_file is not None:
        _write(html_file, (public.web_html if medium == "web" else fill(notice.html, slots)).encode())
        click.echo(f"the {'web notice' if medium == 'web' else 'e-mail'} as a page: {html_file}", err=as_json)
    if pdf_file is not None:
        from consumers.adapters.letters import letter_pdf

        _write(pdf_file, letter_pdf(notice.letter, slots, notice.language, Sender(**dict(key.sender)), ()))
        click.echo(f"the letter as it is printed: {pdf_file}", err=as_json)


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise Unreachable(f"{file} cannot be written: {error.strerror}") from None


@notices.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(parts: Parts, as_json: bool) -> None:
    """Show which approvals are in force, and whether the folder has changed since."""
    now = parts.get(Clock).now()
    templates = _templates(parts)
    current = {name: read_bundle(templates, name).sha256 for name in bundle_names(templates)}
    rows = [
        {
            "notice": row.name,
            "bundle": row.bundle_sha256 if as_json else row.bundle_sha256[:12],
            "jurisdictions": ", ".join(row.jurisdictions),
            "valid until": row.valid_until if as_json else instant(row.valid_until, now),
            "folder": "same" if current.get(row.name) == row.bundle_sha256 else "edited since",
        }
        for row in NoticeBundles(parts.get(CaseDatabase)).in_force(now)
    ]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(rows, list(rows[0]))
    else:
        click.echo("nothing is approved: everybody affected would be held; next: tocsin notices check")


@notices.command()
@click.argument("name")
@click.option("--jurisdictions", required=True, metavar="CODES", help="Comma separated: DE,US-CA,EU,US,unknown or *.")
@click.option("--until", required=True, metavar="DATE", help="Last day of validity (UTC), like 2027-06-30.")
@click.option("--reason", help="Kept with the approval.")
@click.option("--dry-run", is_flag=True, help="Check and say what would be approved.")
@_token_file
@click.pass_obj
def approve(
    parts: Parts,
    name: str,
    jurisdictions: str,
    until: str,
    reason: str | None,
    dry_run: bool,
    token_file: Path | None,
) -> None:
    """Approve a notice as it lies in the folder now, for named jurisdictions, until a date."""
    actor = authenticated(parts, token_file)
    role = actor.acting_for(Act.APPROVE_NOTICE)
    now, settings = parts.get(Clock).now(), parts.get(Settings)
    codes = tuple(dict.fromkeys(code.strip() for code in jurisdictions.split(",") if code.strip()))
    if not codes:
        raise BadInput("--jurisdictions: name at least one, or * for all")
    check_codes(codes)
    valid_until = _last_moment(until)
    if valid_until <= now:
        raise BadInput(f"--until {until}: lies in the past")
    bundle = read_bundle(settings.paths.templates, name)
    if problems := check_bundle(bundle):
        raise Refused("\n".join([*problems, f"{name} cannot be approved as it is"]))
    summary = f"{name} ({', '.join(bundle.locales)}) for {', '.join(codes)} until {until}: bundle {bundle.sha256}"
    if dry_run:
        click.echo(f"would approve {summary}")
        return
    approved = ApprovedBundles(settings.paths.templates, DirectoryArtefactStore(settings.paths.artefacts))
    # A crash before the row is written leaves a copy that nobody has approved, and that nothing renders.
    approved.keep(bundle)
    row = ApprovedRow(bundle.sha256, name, codes, now, valid_until)
    NoticeBundles(parts.get(CaseDatabase)).approve(
        row, by=actor.person_id, role=role.value, actor=actor.commitment, reason=reason
    )
    click.echo(f"approved {summary}")


@notices.command()
@click.argument("bundle_sha256", metavar="BUNDLE")
@click.option("--reason", required=True, help="Kept with the revocation.")
@_token_file
@click.pass_obj
def revoke(parts: Parts, bundle_sha256: str, reason: str, token_file: Path | None) -> None:
    """Revoke an approved bundle (its hash, or the first digits). Whoever has not been written to is held."""
    actor = authenticated(parts, token_file)
    role = actor.acting_for(Act.REVOKE_NOTICE)
    now = parts.get(Clock).now()
    bundles = NoticeBundles(parts.get(CaseDatabase))
    named = [row.bundle_sha256 for row in bundles.in_force(now) if row.bundle_sha256.startswith(bundle_sha256)]
    if len(named) != 1 or len(bundle_sha256) < 8:
        raise BadInput(
            f"{bundle_sha256!r} names {len(named)} approved bundles; give at least 8 digits of one in `tocsin notices list`"
        )
    stopped = bundles.revoke(
        named[0], by=actor.person_id, role=role.value, actor=actor.commitment, at=now, reason=needed(reason)
    )
    click.echo(f"revoked {named[0]}; whoever was to get it and has not been written to is held from now on")
    for incident_id in stopped:
        click.echo(f"{incident_id}: its release is void; next: tocsin incident prepare {incident_id}")


def _last_moment(day: str) -> datetime:
    try:
        return datetime.combine(datetime.strptime(day, "%Y-%m-%d").date(), time(23, 59, 59), UTC)  # noqa: DTZ007
    except ValueError:
        raise BadInput(f"--until {day!r}: write a date like 2027-06-30") from None


COMMANDS: list[click.Command] = [notices]
