"""`tocsin notices dossier`, also `tocsin incident dossier`: what an authority is told, as PDF and JSON, in versions."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import click
import rfc8785

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from consumers.case import dossier as dossiers
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, instant_of, reason_option, token_option
from consumers.case.sheet import Artefacts, NoticeSamples
from consumers.case.store import CaseStore
from consumers.case.workflow import found
from consumers.domain.duties import OPEN, LawInForce


class DossierPdf(Protocol):
    """Sets a dossier's content as a PDF."""

    def __call__(self, content: Mapping[str, Any], /) -> bytes: ...


@click.command()
@click.argument("incident_id")
@click.argument("regime_id", required=False)
@click.option("--controller", help="Whose duty it is; needed where several controllers have it.")
@click.option(
    "--phase", type=click.Choice(dossiers.PHASES), help="Default: initial, then additional once one was submitted."
)
@click.option(
    "--say",
    "said",
    multiple=True,
    metavar="FIELD=TEXT",
    help=f"What only a person can say: {', '.join(dossiers.STATEMENTS)}.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the PDF here, the JSON beside it."
)
@click.option("--submitted", "submitted", is_flag=True, help="Record that a version was submitted to the authority.")
@click.option("--version", type=click.IntRange(min=1), help="Which one; default: the newest.")
@click.option("--at", help="When it was submitted, ISO 8601 with an offset; default now.")
@click.option("--reference", help="The authority's reference number.")
@click.option("--dry-run", is_flag=True, help="Make it and keep nothing.")
@reason_option
@token_option
@as_json_option
@click.pass_obj
def dossier(
    parts: Parts,
    incident_id: str,
    regime_id: str | None,
    controller: str | None,
    phase: str | None,
    said: tuple[str, ...],
    output: Path | None,
    submitted: bool,
    version: int | None,
    at: str | None,
    reference: str | None,
    dry_run: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Make what the authority of a duty is told; without REGIME_ID, list the duties to authorities and their versions."""
    actor = authenticated(parts, token_file)
    store, now, law = parts.get(CaseStore), parts.get(Clock).now(), parts.get(LawInForce)()
    if regime_id is None:
        actor.acting_for(Act.VIEW_INCIDENT)
        _list(parts, incident_id, as_json=as_json)
        return
    if submitted:
        if said or phase or output or dry_run:
            raise BadInput(
                "--submitted records what was sent; --say, --phase, --output and --dry-run make a new version"
            )
        if reference is not None and len(reference) > 200:
            raise BadInput(f"--reference: {len(reference)} characters; at most 200")
        done = dossiers.submit_dossier(
            store, incident_id, regime_id, actor, now, law, controller=controller, version=version,
            submitted_at=now if at is None else instant_of(at), reference=reference, reason=reason,
        )  # fmt: skip
        click.echo(f"{done.regime_id}: version {done.version} ({done.phase}) submitted by {actor.person_id}"
                   + (f", number {done.reference}" if done.reference else ""))  # fmt: skip
        return
    if version or at or reference:
        raise BadInput("--version, --at and --reference belong to --submitted")
    made = dossiers.make_dossier(
        store, incident_id, regime_id, actor, now, law, controller=controller, phase=phase, statements=_statements(said),
        authorities=parts.get(dossiers.AuthorityBook), samples=parts.get(NoticeSamples), set_pdf=parts.get(DossierPdf),
        artefacts=parts.get(Artefacts), keep=not dry_run, reason=reason,
    )  # fmt: skip
    if output is not None:
        _write(output, made)
    if as_json:
        print_json({"record": None if made.record is None else asdict(made.record), "content": made.content})
        return
    content = made.content
    click.echo(f"{content['duty']['regime_id']}: version {content['version']} ({content['phase']})"
               + (" made and not kept" if made.record is None else f", PDF {made.record.pdf_sha256[:12]}"))  # fmt: skip
    for each in content["missing"]:
        click.echo(f"not known: {each}")
    for each in content["authorities"]:
        channel = each["channel"] or each["website"] or "channel not known"
        click.echo(
            f"to: {each['authority']} ({channel}; confidence {each['confidence']}{', confirm first' if each['confirm'] else ''})"
        )
    if output is not None:
        click.echo(f"page: {output}, {output.with_suffix('.json')}")
    click.echo(
        f"next: submit it, then tocsin notices dossier {incident_id} {regime_id} --submitted --reference NUMBER --reason TEXT"
    )


def _statements(said: tuple[str, ...]) -> dict[str, str]:
    found_: dict[str, str] = {}
    for pair in said:
        name, equals, text = pair.partition("=")
        if not equals:
            raise BadInput(f"--say {pair[:60]}: write FIELD=TEXT")
        found_[name.strip()] = text
    return found_


def _write(output: Path, made: dossiers.Dossier) -> None:
    try:
        output.write_bytes(made.pdf)
        output.with_suffix(".json").write_bytes(rfc8785.dumps(dict(made.content)))
    except OSError as error:
        raise Unreachable(f"{output} cannot be written: {error.strerror}") from None


def _list(parts: Parts, incident_id: str, *, as_json: bool) -> None:
    now = parts.get(Clock).now()

    def work(case: Any) -> Any:
        found(case, incident_id)
        return case.obligations(incident_id), case.dossiers(incident_id)

    obligations, versions = parts.get(CaseStore).look(work)
    rows = []
    for each in obligations:
        own = [v for v in versions if (v.controller, v.regime_id) == (each.controller, each.regime_id)]
        if each.recipient in ("individual", "internal", "media") or (each.status not in OPEN and not own):
            continue
        newest = own[-1] if own else None
        sent = [f"{v.version}: {v.submitted_at:%Y-%m-%d %H:%MZ} by {v.submitted_by}" for v in own if v.submitted_at]
        rows.append(
            {
                "duty": each.regime_id, "to": each.recipient.replace("_", " "), "controller": each.controller,
                "by": "no date" if each.watched_at is None else instant(each.watched_at, now),
                "newest version": newest and f"{newest.version} ({newest.phase}), {newest.missing_count} missing",
                "submitted": ", ".join(sent) or None,
            }
        )  # fmt: skip
    if as_json:
        print_json({"duties": rows, "versions": [asdict(each) for each in versions]})
    elif rows:
        print_table(rows, list(rows[0]))
        click.echo(f"next: tocsin notices dossier {incident_id} {rows[0]['duty']} -o {rows[0]['duty']}.pdf")
    else:
        click.echo(f"{incident_id} has no duty to an authority so far; see tocsin incident obligations {incident_id}")


COMMANDS: list[click.Command] = []
"""None of its own: it stands under `tocsin incident` and, lent by the adapters' room, under `tocsin notices`."""
