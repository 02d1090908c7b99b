"""`tocsin evidence export`: what an auditor is handed. Verifying it needs nothing of this (`consumers.evidence`)."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

import click

from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import print_json
from consumers.case.acting import record_act
from consumers.case.events import Body
from consumers.case.permissions import Act
from consumers.case.prompts import as_json_option, authenticated, token_option
from consumers.case.store import CaseStore
from consumers.case.workflow import found


class Report(Protocol):
    """What the verifier says of a package."""

    @property
    def whole(self) -> bool: ...
    @property
    def without(self) -> Sequence[str]: ...
    def sentences(self) -> Sequence[str]: ...


class Packed(Protocol):
    """A package that was made."""

    @property
    def folder(self) -> Path: ...
    @property
    def log_size(self) -> int: ...
    @property
    def entry_count(self) -> int: ...
    @property
    def people_count(self) -> int: ...
    @property
    def report(self) -> Report: ...


class Packages(Protocol):
    """Makes auditors' packages."""

    def write(self, incident_id: str, folder: Path, now: datetime, *, single_proofs: bool = True) -> Packed:
        """Make the package in `folder`, which must not exist. Raises BadInput, Refused or Unreachable."""
        ...


@click.command()
@click.option("--incident", "incident_id", required=True, help="The incident.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, file_okay=False), help="The folder; default evidence-INCIDENT."
)
@click.option(
    "--without-single-proofs", is_flag=True, help="No file for each person; the package's verifier proves each as well."
)
@click.option("--reason", help="Why; kept in the case store, its salted hash in the evidence log.")
@token_option
@as_json_option
@click.pass_context
def export(
    context: click.Context,
    incident_id: str,
    out: Path | None,
    without_single_proofs: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Make an auditor's package of an incident; it can be checked without Tocsin. Exit code 1: somebody has no outcome.

    What is not proved in it is said, and packed all the same.
    """
    parts: Parts = context.obj
    actor = authenticated(parts, token_file)
    role = actor.acting_for(Act.EXPORT_EVIDENCE)
    store, now = parts.get(CaseStore), parts.get(Clock).now()
    incident = store.look(lambda case: found(case, incident_id))
    packed = parts.get(Packages).write(
        incident_id, out or Path(f"evidence-{incident_id}"), now, single_proofs=not without_single_proofs
    )
    body: Body = {
        "log_size": packed.log_size, "entry_count": packed.entry_count, "people_count": packed.people_count,
        "without_count": len(packed.report.without),
    }  # fmt: skip
    store.change(
        lambda case: record_act(case, actor, role, "evidence.exported", body, at=now, incident=incident, reason=reason)
    )
    sentences = list(packed.report.sentences())
    if as_json:
        print_json({"folder": str(packed.folder), "whole": packed.report.whole, "sentences": sentences, **body})
    else:
        click.echo("\n".join(sentences))
        click.echo(
            f"Package: {packed.folder} ({packed.entry_count:,} entries, {packed.people_count:,} notices to people)"
        )
        click.echo(f"Anybody can check it: python3 {packed.folder / 'verify.py'} --vkey KEY")
    if not packed.report.whole:
        context.exit(1)


COMMANDS: list[click.Command] = []
SUBCOMMANDS = {"evidence": [export]}
