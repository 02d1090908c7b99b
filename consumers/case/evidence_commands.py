"""`tocsin evidence export` and `erase`: what an auditor is handed, and who is to be forgotten.

Verifying needs nothing of this (`consumers.evidence`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import click

from bridge.contracts.errors import BadInput
from bridge.runtime.clock import Clock
from bridge.runtime.parts import Parts
from bridge.runtime.printing import instant, print_json, print_table
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body
from consumers.case.permissions import Act, Role
from consumers.case.prompts import as_json_option, authenticated, reason_option, token_option
from consumers.case.restoring import again
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


class Asked(Protocol):
    """What became of a request to erase a person."""

    @property
    def requested_at(self) -> datetime: ...
    @property
    def carried_out_at(self) -> datetime | None: ...
    @property
    def held_by(self) -> Sequence[str]: ...
    @property
    def notice_count(self) -> int: ...


class ErasureRequests(Protocol):
    """Requests to be forgotten."""

    def look(self, root: str) -> Asked | None:
        """Return what a request would do now; None for somebody of whom nothing leads to the log."""
        ...

    def ask(self, root: str, actor: Actor, role: Role, reason: str) -> Asked:
        """Record the request, and carry it out unless an open incident holds it. Raises BadInput."""
        ...


GROUND = (
    "GDPR Art. 17(3)(b) and (e): telling them is a legal obligation, and its proof serves legal claims while it is open"
)


@click.command()
@click.option("--person", "root", required=True, help="Account or order, such as customer/42.")
@click.option("--dry-run", is_flag=True, help="Say what it would do, and do nothing.")
@reason_option
@token_option
@click.pass_context
def erase(context: click.Context, root: str, dry_run: bool, reason: str | None, token_file: Path | None) -> None:
    """Erase what leads from a person to the log. Every proof stays valid, and says nothing about them any more.

    While an incident of theirs is open the request is held, exit code 1, and carried out by itself when it is closed.
    """
    parts: Parts = context.obj
    actor = authenticated(parts, token_file)
    role = actor.acting_for(Act.ERASE_SUBJECT)
    requests, now = parts.get(ErasureRequests), parts.get(Clock).now()
    if dry_run:
        would = requests.look(root)
        if would is None:
            raise BadInput(f"{root[:100]!r}: nothing in the log is about them; nothing to erase")
        held = f"would be held: {', '.join(would.held_by)} is open" if would.held_by else "would be erased at once"
        click.echo(f"{root}: {held}; {would.notice_count:,} notices would lose their name")
        return
    asked = requests.ask(root, actor, role, needed(reason))
    if asked.carried_out_at is None:
        click.echo(f"{root}: held since {instant(asked.requested_at, now)}, until {', '.join(asked.held_by)} is closed")
        click.echo(f"ground: {GROUND}. It is carried out by itself then.")
        context.exit(1)
    click.echo(f"{root}: erased. {asked.notice_count:,} notices are nobody's now; every proof of them stays valid.")
    click.echo(
        "What was handed over before still shows it (auditors' packages, proofs), and so do messages that Kafka keeps: "
        "tocsin.delivery-outcomes and tocsin.affected-customers, for as long as `tocsin topics show` says."
    )


class Differences(Protocol):
    """What ledger, log and receipts say of one incident."""

    @property
    def rows(self) -> Sequence[Mapping[str, object]]: ...
    @property
    def differences(self) -> Sequence[str]: ...
    @property
    def log_size(self) -> int: ...


class Decided(Protocol):
    """A decision as the log knows it."""

    @property
    def kind(self) -> str: ...
    @property
    def incident_id(self) -> str | None: ...
    @property
    def occurred_at(self) -> datetime: ...
    @property
    def role(self) -> str | None: ...


class StoreGap(Protocol):
    """What the log knows and the case store does not; false if nothing."""

    @property
    def outcome_count(self) -> int: ...
    @property
    def unknown_count(self) -> int: ...
    @property
    def erasure_count(self) -> int: ...
    @property
    def decisions(self) -> Sequence[Decided]: ...
    @property
    def paused(self) -> Sequence[str]: ...
    def __bool__(self) -> bool: ...


class StoreComparison(Protocol):
    """Compares the case store with the evidence log."""

    def reconcile(self, incident_id: str) -> Any: ...
    def keep(self, found: Any) -> None: ...
    def gap(self) -> StoreGap: ...
    def replay(self, actor: Actor, role: Role, reason: str, *, accept_unknown: bool = False) -> StoreGap: ...


@click.command()
@click.option("--incident", "incident_id", required=True, help="The incident.")
@token_option
@as_json_option
@click.pass_context
def reconcile(context: click.Context, incident_id: str, token_file: Path | None, as_json: bool) -> None:
    """Compare what ledger, evidence log and providers' receipts say of an incident. Exit code 1: they differ.

    It happens by itself once an incident is closed; a difference is paged, and an alert.
    """
    parts: Parts = context.obj
    authenticated(parts, token_file).acting_for(Act.VIEW_INCIDENT)
    incident = parts.get(CaseStore).look(lambda case: found(case, incident_id))
    comparison = parts.get(StoreComparison)
    seen: Differences = comparison.reconcile(incident_id)
    if incident.state == "closed":
        comparison.keep(seen)
    if as_json:
        print_json({"incident_id": incident_id, "rows": seen.rows, "differences": seen.differences})
    else:
        print_table(
            [{name: "-" if value is None else value for name, value in row.items()} for row in seen.rows],
            ("what", "ledger", "log", "providers"),
        )
        for difference in seen.differences:
            click.echo(f"DIFFERS: {difference}")
        if not seen.differences:
            click.echo(f"{incident_id}: ledger, log (of {seen.log_size:,} entries) and receipts agree")
    if seen.differences:
        context.exit(1)


def _as_facts(decided: Decided) -> dict[str, str]:
    return {
        "at": decided.occurred_at.astimezone(UTC).isoformat(timespec="seconds"), "incident": decided.incident_id or "-",
        "decision": decided.kind, "role": decided.role or "-", "again": again(decided.kind, decided.incident_id),
    }  # fmt: skip


@click.group()
def restore() -> None:
    """After a backup was put back."""


@restore.command("reconcile")
@click.option("--dry-run", is_flag=True, help="Say what the store lacks, and change nothing.")
@click.option(
    "--accept-unknown",
    is_flag=True,
    help="No newer backup: let dispatch go on, though people of the log are not in the store. A dpo's or counsel's word.",
)
@reason_option
@token_option
@as_json_option
@click.pass_context
def restore_reconcile(
    context: click.Context,
    dry_run: bool,
    accept_unknown: bool,
    reason: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Write into a restored case store what the evidence log knows: outcomes, so that nobody is told twice, and erasures.

    Decisions made since the backup are named, each with what to type; a release of which one may have kept people back is
    paused. Dispatch, release and receipts refuse to start before. Stop all stages but evidence first. Exit code 1: people of
    the log are not in the store.
    """
    parts: Parts = context.obj
    actor = authenticated(parts, token_file)
    role = actor.acting_for(Act.NAME_DIFFERENCES if accept_unknown else Act.STEER_RELEASE)
    comparison = parts.get(StoreComparison)
    gap = comparison.gap() if dry_run else comparison.replay(actor, role, needed(reason), accept_unknown=accept_unknown)
    if as_json:
        print_json(
            {
                "outcomes": gap.outcome_count, "unknown": gap.unknown_count, "erasures": gap.erasure_count,
                "decisions": [_as_facts(each) for each in gap.decisions], "paused": list(gap.paused),
                "replayed": not dry_run,
            }
        )  # fmt: skip
    elif not gap:
        click.echo("The case store knows everything that the evidence log knows.")
    else:
        click.echo(f"The log knows {gap}.")
        if not dry_run:
            click.echo("Outcomes and erasures are in the case store again.")
        if gap.decisions:
            print_table([_as_facts(each) for each in gap.decisions], ("at", "incident", "decision", "role", "again"))
            click.echo(
                "These the store lacks, and only people can make them again: the log has no reason and no value."
            )
    for incident_id in gap.paused:
        click.echo(
            f"{incident_id}: PAUSED, as one of them may have kept people back. Do again what is to hold; then: tocsin incident "
            f"resume {incident_id} --reason TEXT",
            err=as_json,
        )
    if gap.unknown_count:
        who = (
            f"{gap.unknown_count:,} attempts are of people whom this store does not know: its backup is from before they were "
            "planned."
        )
        if accept_unknown and not dry_run:
            click.echo(
                f"{who} Dispatch goes on: whoever of them is planned again is told again. The log has who took that on.",
                err=as_json,
            )
            return
        click.echo(
            f"{who} Dispatch goes on refusing, or they would be told twice; restore a newer backup (if there is none, a dpo or "
            "counsel can take it on: --accept-unknown).",
            err=as_json,
        )
        context.exit(1)


COMMANDS: list[click.Command] = [restore]
SUBCOMMANDS = {"evidence": [export, erase, reconcile]}
